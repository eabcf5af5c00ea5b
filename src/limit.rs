//! How much is let through: rates and places. Knows no request; the time is an argument.
//!
//! What was counted is kept apart from the numbers that it is compared with, which belong to the configuration.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

/// So many at once, and in the long run one every so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds; above zero.
    every: u64,
    /// At least one.
    burst: u64,
}

impl Rate {
    /// One every so often, at least a microsecond; `burst` of them, one to a million, may come at once.
    pub const fn new(every: Duration, burst: u32) -> Self {
        // An hour times a million does not overflow.
        const HOUR: u64 = 3_600_000_000_000;
        let every = every.as_nanos();
        let every = if every > HOUR as u128 {
            HOUR
        } else {
            every as u64
        };
        Self {
            every: if every < 1000 { 1000 } else { every },
            burst: match burst {
                0 => 1,
                1..=1_000_000 => burst as u64,
                _ => 1_000_000,
            },
        }
    }

    /// How long until all is there again that a burst used up.
    const fn all(self) -> u64 {
        self.every * self.burst
    }
}

/// What is left of a rate (GCRA): one number, no lock.
#[derive(Debug, Default)]
pub struct Bucket {
    /// When all that was used up will be there again, in nanoseconds.
    full_at: AtomicU64,
}

impl Bucket {
    /// Takes one at the time `now`, on any clock that is always the same.
    ///
    /// # Errors
    /// There is none left; how long until there is.
    pub fn take(&self, rate: Rate, now: Duration) -> Result<(), Duration> {
        self.advance(rate, nanos(now)).map(drop)
    }

    /// The same; tells when it will be full.
    fn advance(&self, rate: Rate, now: u64) -> Result<u64, Duration> {
        let mut full_at = self.full_at.load(Relaxed);
        loop {
            let next = start(full_at, rate, now) + rate.every;
            if next - now > rate.all() {
                return Err(Duration::from_nanos(next - now - rate.all()));
            }
            match self
                .full_at
                .compare_exchange_weak(full_at, next, Relaxed, Relaxed)
            {
                Ok(_) => return Ok(next),
                Err(other) => full_at = other,
            }
        }
    }
}

/// From when the next one counts. Further ahead than it can be: the rate was changed, or the clock set back.
fn start(full_at: u64, rate: Rate, now: u64) -> u64 {
    match full_at.checked_sub(now) {
        Some(left) if left <= rate.all() => full_at,
        _ => now,
    }
}

fn nanos(time: Duration) -> u64 {
    // Far from overflow for some centuries, and half of the range is left to add to.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) & (u64::MAX >> 1)
}

const ROWS: usize = 4;
const ROW_BITS: u32 = 13;

/// What is left of a rate for each of any number of senders, in a quarter of a MiB.
///
/// Each sender has a bucket in every row, which it shares with others, and the fullest of them counts. So a sender is never
/// held to less than its rate unless all of its buckets are emptied by others, and who that would be nobody can know: the
/// places come from a secret of this process. Beside 1,000 senders at their limit, one other in 5,000 is held up; beside 100, one
/// in 40 million.
#[derive(Debug)]
pub struct Senders {
    buckets: Box<[Bucket]>,
    hasher: RandomState,
}

impl Default for Senders {
    fn default() -> Self {
        Self {
            buckets: (0..ROWS << ROW_BITS).map(|_| Bucket::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Senders {
    /// Takes one for a sender. All whose address is unknown are one; so is an IPv6 network of 64 bits, which is what one
    /// customer gets.
    ///
    /// # Errors
    /// There is none left; how long until there is.
    pub fn take(&self, sender: Option<IpAddr>, rate: Rate, now: Duration) -> Result<(), Duration> {
        let now = nanos(now);
        let whose = sender.map(|address| match address {
            IpAddr::V4(address) => (4, u64::from(address.to_bits())),
            IpAddr::V6(address) => (6, (address.to_bits() >> 64) as u64),
        });
        let hash = self.hasher.hash_one(whose);
        let places = std::array::from_fn::<_, ROWS, _>(|row| {
            let place = (hash >> (row as u32 * ROW_BITS)) as usize & ((1 << ROW_BITS) - 1);
            &self.buckets[(row << ROW_BITS) | place]
        });
        let used = |bucket: &&&Bucket| start(bucket.full_at.load(Relaxed), rate, now);
        let Some(fullest) = places.iter().min_by_key(used) else {
            return Ok(());
        };
        let full_at = fullest.advance(rate, now)?;
        for bucket in places {
            bucket.full_at.fetch_max(full_at, Relaxed);
        }
        Ok(())
    }
}

/// Places of which only so many may be taken at once.
#[derive(Debug, Default)]
pub struct Places {
    taken: AtomicUsize,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    /// Takes one of `most`; `None` if all are taken.
    pub fn take(self: &Arc<Self>, most: usize) -> Option<Place> {
        let free = |taken| (taken < most).then_some(taken + 1);
        self.taken
            .fetch_update(Acquire, Relaxed, free)
            .is_ok()
            .then(|| Place(self.clone()))
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Release);
    }
}

/// What of a route's limits is used up.
#[derive(Debug)]
pub struct Throttle {
    began: Instant,
    all: Bucket,
    senders: OnceLock<Senders>,
    places: Arc<Places>,
}

/// More came than is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// From one sender; how long until another request of it is taken.
    OfSender(Duration),
    /// From all together; the same.
    OfAll(Duration),
    /// At once.
    AtOnce,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            all: Bucket::default(),
            senders: OnceLock::new(),
            places: Arc::default(),
        }
    }
}

impl Throttle {
    /// Counts a request of a sender.
    ///
    /// # Errors
    /// [`Excess::OfSender`]
    pub fn count_sender(
        &self,
        sender: Option<IpAddr>,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Excess> {
        let senders = self.senders.get_or_init(Senders::default);
        let taken = senders.take(sender, rate, now.duration_since(self.began));
        taken.map_err(Excess::OfSender)
    }

    /// Counts a request.
    ///
    /// # Errors
    /// [`Excess::OfAll`]
    pub fn count(&self, rate: Rate, now: Instant) -> Result<(), Excess> {
        let taken = self.all.take(rate, now.duration_since(self.began));
        taken.map_err(Excess::OfAll)
    }

    /// Takes one of `most` places.
    ///
    /// # Errors
    /// [`Excess::AtOnce`]
    pub fn place(&self, most: usize) -> Result<Place, Excess> {
        self.places.take(most).ok_or(Excess::AtOnce)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv6Addr, thread};

    use super::*;

    const RATE: Rate = Rate::new(Duration::from_millis(100), 5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn v4(n: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(n.into()))
    }

    #[test]
    fn a_burst_at_once_and_then_one_every_so_often() {
        let bucket = Bucket::default();
        let taken = |now| {
            (0..100)
                .filter(|_| bucket.take(RATE, ms(now)).is_ok())
                .count()
        };
        assert_eq!(taken(1000), 5);
        assert_eq!(bucket.take(RATE, ms(1000)), Err(ms(100)));
        assert_eq!(bucket.take(RATE, ms(1060)), Err(ms(40)));
        assert_eq!(taken(1100), 1);
        assert_eq!(taken(1349), 2);
        assert_eq!(taken(60_000), 5, "no more than a burst is saved up");
    }

    #[test]
    fn a_clock_set_back_or_a_new_rate_closes_nothing() {
        let bucket = Bucket::default();
        assert_eq!(bucket.take(RATE, ms(90_000)), Ok(()));
        assert_eq!(bucket.take(RATE, ms(10)), Ok(()), "set back");
        let slow = Rate::new(Duration::from_secs(3600), 1_000_000);
        for _ in 0..1000 {
            assert_eq!(bucket.take(slow, ms(10)), Ok(()));
        }
        assert_eq!(bucket.take(RATE, ms(10)), Ok(()), "1000 hours ahead");
    }

    #[test]
    fn threads_together_get_no_more_than_one_would() {
        let (bucket, senders) = (Bucket::default(), Senders::default());
        let rate = Rate::new(Duration::from_secs(1), 1000);
        let count = |take: &(dyn Fn() -> bool + Sync)| {
            thread::scope(|scope| {
                let counting: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| (0..1000).filter(|_| take()).count()))
                    .collect();
                let counts = counting.into_iter().map(|thread| thread.join().unwrap());
                counts.sum::<usize>()
            })
        };
        assert_eq!(count(&|| bucket.take(rate, ms(5)).is_ok()), 1000);
        let of_one = || senders.take(v4(7), rate, ms(5)).is_ok();
        assert_eq!(count(&of_one), 1000);
    }

    #[test]
    fn each_sender_has_a_rate_of_its_own() {
        let senders = Senders::default();
        let taken = |sender| {
            (0..100)
                .filter(|_| senders.take(sender, RATE, ms(1000)).is_ok())
                .count()
        };
        for n in 0..100 {
            assert_eq!(taken(v4(n)), 5, "{n}");
        }
        assert_eq!(taken(v4(3)), 0);
        assert_eq!(taken(None), 5);
        assert_eq!(taken(None), 0);
        let [net, same, other] = [1, 2, 1 << 64]
            .map(|bits| Some(IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | bits))));
        assert_eq!(taken(net), 5);
        assert_eq!(taken(same), 0, "the same network");
        assert_eq!(taken(other), 5);
    }

    #[test]
    fn a_thousand_senders_over_their_limit_hold_up_hardly_anyone() {
        let senders = Senders::default();
        for n in 0..1000 {
            while senders.take(v4(n), RATE, ms(1000)).is_ok() {}
        }
        let held_up = (10_000..20_000)
            .filter(|n| senders.take(v4(*n), RATE, ms(1000)).is_err())
            .count();
        // Two are to be expected.
        assert!(held_up < 40, "{held_up} of 10,000");
    }

    #[test]
    fn places_are_given_back() {
        let places = Arc::new(Places::default());
        let [first, second] = [places.take(2), places.take(2)];
        assert!(first.is_some() && second.is_some());
        assert!(places.take(2).is_none());
        drop(first);
        assert_eq!(places.taken(), 1);
        assert!(places.take(2).is_some());
    }
}
