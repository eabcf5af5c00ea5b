//! The store in this process: no dependency, forgets everything when the process ends.
//!
//! Sharded by id; each shard is behind one lock of the standard library, held for one look-up and a few moves. There are no atomics and
//! no waiting, so there is no interleaving to search: whoever has the lock sees a shard between two operations.
//!
//! Outcomes are the many, so they are small: 32 bytes in a slab that grows in chunks and never moves, and 5 to 11 bytes of an index of
//! places in it. They hang in one queue for each length of window, in the order in which they were settled, so the ones
//! whose window is over stand in front. Leases are few and short, in a table of their own.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hashbrown::{HashTable, hash_table::Entry};
use tokio::time::Instant;

use super::store::{Admission, Id, Settlement, Token};

const SHARDS_MAX: usize = 64;

/// A shard of fewer entries is not worth its lock, and would fill unevenly.
const SHARD_ENTRIES_MIN: usize = 4096;

/// Slots that a slab grows by.
const CHUNK: usize = 1024;

/// Outcomes past their window that one call clears away: more than it adds.
const RECLAIMED_PER_CALL: usize = 4;

/// No slot.
const NONE: u32 = u32::MAX;

/// Bytes that the store takes for each entry that it may hold, at the very most: reached where a quarter of them are leases, their
/// table and the index have just doubled, and everything else is an outcome. Outcomes alone take 38 to 44.
pub const ENTRY_BYTES_MAX: u64 = 112;

/// The store.
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    /// Times are counted from here.
    epoch: Instant,
}

impl Store {
    /// An empty store for at most that many entries, leases included. Takes memory only as it fills.
    pub fn new(entries_max: usize, now: Instant) -> Self {
        let shards = (entries_max / SHARD_ENTRIES_MIN).clamp(1, SHARDS_MAX);
        // The next power of two below.
        let shards = 1 << shards.ilog2();
        let shard = || Mutex::new(Shard::new((entries_max / shards).max(1)));
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            epoch: now,
        }
    }

    /// See [`super::Store::admit`].
    pub fn admit(&self, id: Id, lease: Duration, now: Instant) -> Admission {
        let now = self.moment(now);
        self.shard(id).admit(id, lease, now)
    }

    /// See [`super::Store::settle`].
    pub fn settle(&self, id: Id, token: Token, settlement: Settlement, now: Instant) {
        let now = self.moment(now);
        self.shard(id).settle(id, token, settlement, now);
    }

    /// How many entries it holds. Some may be past their end and not yet cleared away.
    pub fn entries(&self) -> u64 {
        self.sum(|shard| shard.used() as u64)
    }

    /// How many outcomes were given up before the end of their window, for lack of room.
    pub fn evicted(&self) -> u64 {
        self.sum(|shard| shard.evicted)
    }

    /// Bytes that it has taken from the system.
    pub fn bytes(&self) -> u64 {
        self.sum(|shard| shard.bytes() as u64)
    }

    fn sum(&self, of: impl Fn(&Shard) -> u64) -> u64 {
        self.shards.iter().map(|shard| of(&lock(shard))).sum()
    }

    fn shard(&self, id: Id) -> MutexGuard<'_, Shard> {
        let Id([.., last]) = id;
        lock(&self.shards[usize::from(last) % self.shards.len()])
    }

    fn moment(&self, now: Instant) -> Moment {
        micros(now.saturating_duration_since(self.epoch))
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Microseconds since the store was made.
type Moment = u64;

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The index's hash: an id is the end of a keyed hash, so any part of it is as good as random. The shard is chosen by another.
fn hash(id: &Id) -> u64 {
    let Id([bytes @ .., _, _, _, _, _, _, _, _]) = id;
    u64::from_le_bytes(*bytes)
}

struct Shard {
    leases: HashTable<LeaseEntry>,
    /// Places of outcomes in the slab.
    index: HashTable<u32>,
    slab: Slab,
    queues: Vec<Queue>,
    entries_max: usize,
    last_token: u64,
    /// No lease lapses earlier.
    lapses_from: Moment,
    evicted: u64,
}

struct LeaseEntry {
    id: Id,
    token: Token,
    lapses: Moment,
}

/// An outcome.
#[derive(Clone, Copy)]
struct Slot {
    id: Id,
    /// End of its window.
    until: Moment,
    /// The one settled next with the same window; or the next free slot.
    next: u32,
    status: u16,
}

/// Outcomes with windows of one length, oldest first.
struct Queue {
    window: Duration,
    first: u32,
    last: u32,
}

impl Shard {
    fn new(entries_max: usize) -> Self {
        Self {
            leases: HashTable::new(),
            index: HashTable::new(),
            slab: Slab::new(entries_max),
            queues: Vec::new(),
            entries_max,
            last_token: 0,
            lapses_from: Moment::MAX,
            evicted: 0,
        }
    }

    fn used(&self) -> usize {
        self.leases.len() + self.slab.used
    }

    fn bytes(&self) -> usize {
        self.leases.allocation_size() + self.index.allocation_size() + self.slab.bytes()
    }

    fn admit(&mut self, id: Id, lease: Duration, now: Moment) -> Admission {
        self.reclaim(now, RECLAIMED_PER_CALL);
        if let Some(status) = self.outcome(&id, now) {
            return Admission::Succeeded { status };
        }
        let lapses = now.saturating_add(micros(lease));
        let token = Token(self.last_token + 1);
        if let Some(entry) = self.leases.find_mut(hash(&id), |entry| entry.id == id) {
            if now < entry.lapses {
                return Admission::InFlight {
                    lapses_in: Duration::from_micros(entry.lapses - now),
                };
            }
            (entry.token, entry.lapses) = (token, lapses);
        } else {
            if !self.make_room(now) {
                return Admission::Full;
            }
            let entry = LeaseEntry { id, token, lapses };
            self.leases
                .insert_unique(hash(&id), entry, |entry| hash(&entry.id));
        }
        self.last_token = token.0;
        self.lapses_from = self.lapses_from.min(lapses);
        Admission::Granted(token)
    }

    fn settle(&mut self, id: Id, token: Token, settlement: Settlement, now: Moment) {
        let lease = self.leases.find_entry(hash(&id), |entry| entry.id == id);
        match (lease, settlement) {
            (Ok(lease), _) if lease.get().token != token && now < lease.get().lapses => {}
            (Ok(lease), Settlement::Failed) => {
                lease.remove();
                self.shrink();
            }
            (Ok(lease), Settlement::Succeeded { status, window }) => {
                lease.remove();
                self.shrink();
                self.record(id, status, window, now);
            }
            (Err(_), Settlement::Failed) => {}
            // Late: the lease has lapsed and was cleared away.
            (Err(_), Settlement::Succeeded { status, window }) => {
                if self.outcome(&id, now).is_none() && self.make_room(now) {
                    self.record(id, status, window, now);
                }
            }
        }
    }

    /// The status of a delivery that succeeded, if its window is not over.
    fn outcome(&mut self, id: &Id, now: Moment) -> Option<u16> {
        let slab = &self.slab;
        let same = |place: &u32| slab.get(*place).id == *id;
        let entry = self.index.find_entry(hash(id), same).ok()?;
        let slot = slab.get(*entry.get());
        if now < slot.until {
            return Some(slot.status);
        }
        // Its slot is cleared away when it comes to the front of its queue.
        entry.remove();
        None
    }

    /// Remembers an outcome. There is room: a lease was there, or [`Self::make_room`] said so.
    fn record(&mut self, id: Id, status: u16, window: Duration, now: Moment) {
        let number = self.queue(window);
        let place = self.slab.take(Slot {
            id,
            until: now.saturating_add(micros(window)),
            next: NONE,
            status,
        });
        let queue = &mut self.queues[number];
        match mem::replace(&mut queue.last, place) {
            NONE => queue.first = place,
            last => self.slab.get_mut(last).next = place,
        }
        let slab = &self.slab;
        let (same, rehash) = (
            |other: &u32| slab.get(*other).id == id,
            |other: &u32| hash(&slab.get(*other).id),
        );
        match self.index.entry(hash(&id), same, rehash) {
            Entry::Occupied(mut entry) => *entry.get_mut() = place,
            Entry::Vacant(entry) => drop(entry.insert(place)),
        }
    }

    /// The queue for windows of this length. Configurations hold few; what is left of an earlier one is used again.
    fn queue(&mut self, window: Duration) -> usize {
        let place_of = |wanted: &dyn Fn(&Queue) -> bool| self.queues.iter().position(wanted);
        let place = place_of(&|queue| queue.window == window)
            .or_else(|| place_of(&|queue| queue.first == NONE))
            .unwrap_or(self.queues.len());
        let empty = Queue {
            window,
            first: NONE,
            last: NONE,
        };
        match self.queues.get_mut(place) {
            Some(queue) => queue.window = window,
            None => self.queues.push(empty),
        }
        place
    }

    /// Whether one more entry fits, or was made to fit: what is over first, then the outcome that was settled first. Never a lease that
    /// may still be settled.
    fn make_room(&mut self, now: Moment) -> bool {
        if self.used() < self.entries_max {
            return true;
        }
        self.reclaim(now, 1);
        if self.used() >= self.entries_max && self.lapses_from <= now {
            self.leases.retain(|entry| now < entry.lapses);
            let lapses = self.leases.iter().map(|entry| entry.lapses);
            self.lapses_from = lapses.min().unwrap_or(Moment::MAX);
            self.shrink();
        }
        if self.used() >= self.entries_max && self.drop_oldest() {
            self.evicted += 1;
        }
        self.used() < self.entries_max
    }

    /// Gives memory back that a burst of leases took.
    fn shrink(&mut self) {
        let leases = &mut self.leases;
        if leases.capacity() > 64 && leases.len() < leases.capacity() / 4 {
            leases.shrink_to(leases.len() * 2, |entry| hash(&entry.id));
        }
    }

    /// Clears away outcomes whose window is over, up to `most`.
    fn reclaim(&mut self, now: Moment, most: usize) {
        let mut left = most;
        for number in 0..self.queues.len() {
            while let Some(slot) = self.front(number)
                && slot.until <= now
            {
                if left == 0 {
                    return;
                }
                left -= 1;
                self.pop(number);
            }
        }
    }

    /// Drops the outcome that was settled first; `false` if there is none.
    fn drop_oldest(&mut self) -> bool {
        let settled = |(number, queue): (usize, &Queue)| {
            let slot = self.front(number)?;
            Some((slot.until.saturating_sub(micros(queue.window)), number))
        };
        let oldest = self.queues.iter().enumerate().filter_map(settled).min();
        if let Some((_, number)) = oldest {
            self.pop(number);
        }
        oldest.is_some()
    }

    fn front(&self, queue: usize) -> Option<&Slot> {
        match self.queues[queue].first {
            NONE => None,
            first => Some(self.slab.get(first)),
        }
    }

    fn pop(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        let place = queue.first;
        let slot = self.slab.give_back(place);
        queue.first = slot.next;
        if queue.first == NONE {
            queue.last = NONE;
        }
        let entry = self
            .index
            .find_entry(hash(&slot.id), |other| *other == place);
        if let Ok(entry) = entry {
            entry.remove();
        }
    }
}

/// Slots in chunks that never move.
struct Slab {
    chunks: Vec<Box<[Slot]>>,
    /// Slots of all chunks, of which the first `fresh` were used at some time.
    slots: usize,
    fresh: usize,
    slots_max: usize,
    used: usize,
    free: u32,
}

impl Slab {
    fn new(slots_max: usize) -> Self {
        Self {
            chunks: Vec::new(),
            slots: 0,
            fresh: 0,
            slots_max: slots_max.min(NONE as usize),
            used: 0,
            free: NONE,
        }
    }

    fn bytes(&self) -> usize {
        self.slots * size_of::<Slot>() + self.chunks.capacity() * size_of::<Box<[Slot]>>()
    }

    fn get(&self, place: u32) -> &Slot {
        let place = place as usize;
        &self.chunks[place / CHUNK][place % CHUNK]
    }

    fn get_mut(&mut self, place: u32) -> &mut Slot {
        let place = place as usize;
        &mut self.chunks[place / CHUNK][place % CHUNK]
    }

    fn take(&mut self, slot: Slot) -> u32 {
        self.used += 1;
        if self.free != NONE {
            let place = self.free;
            self.free = mem::replace(self.get_mut(place), slot).next;
            return place;
        }
        if self.fresh == self.slots {
            let more = CHUNK.min(self.slots_max - self.slots);
            self.chunks.push(vec![slot; more].into());
            self.slots += more;
        }
        let place = self.fresh as u32;
        self.fresh += 1;
        *self.get_mut(place) = slot;
        place
    }

    fn give_back(&mut self, place: u32) -> Slot {
        self.used -= 1;
        let free = self.free;
        let freed = self.get_mut(place);
        let slot = *freed;
        freed.next = free;
        self.free = place;
        slot
    }
}
