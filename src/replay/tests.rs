//! The store in memory against the model, and under many threads.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use proptest::prelude::*;
use tokio::time::Instant;

use self::model::{Subject, compare, schedule};
use super::{memory::ENTRY_BYTES_MAX, *};

#[path = "../../tests/shared/replay_model.rs"]
mod model;

const SECOND: Duration = Duration::from_secs(1);

struct Memory {
    store: MemoryStore,
    now: Instant,
}

impl Memory {
    fn new(entries_max: usize) -> Self {
        let now = Instant::now();
        Self {
            store: MemoryStore::new(entries_max, now),
            now,
        }
    }

    /// No two things happen at the same moment.
    fn tick(&mut self) -> Instant {
        self.now += Duration::from_micros(1);
        self.now
    }

    fn granted(&mut self, id: Id) -> Token {
        match self.store.admit(id, SECOND, self.now) {
            Admission::Granted(token) => token,
            other
            @ (Admission::Succeeded { .. } | Admission::InFlight { .. } | Admission::Full) => {
                panic!("{other:?}")
            }
        }
    }

    fn succeed(&mut self, id: Id, window: Duration) {
        let token = self.granted(id);
        let status = 200;
        self.store.settle(
            id,
            token,
            Settlement::Succeeded { status, window },
            self.now,
        );
    }
}

impl Subject for Memory {
    async fn admit(&mut self, id: Id, lease: Duration) -> Admission {
        let now = self.tick();
        self.store.admit(id, lease, now)
    }

    async fn settle(&mut self, id: Id, token: Token, settlement: Settlement) {
        let now = self.tick();
        self.store.settle(id, token, settlement, now);
    }

    async fn advance(&mut self, by: Duration) {
        self.now += by;
    }
}

/// Ids as they are: as good as random.
fn id(number: u64) -> Id {
    IdKey::new(&[7; 32]).id("route", &number.to_le_bytes())
}

fn done<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn does_what_the_model_does(schedule in schedule(6, 120), entries_max in 1..9_usize) {
        let mut memory = Memory::new(entries_max);
        let mut held = Vec::new();
        done(compare(&mut memory, &schedule, entries_max, SECOND, |entries| held.push(entries)));
        let entries = memory.store.entries();
        prop_assert!(entries <= entries_max as u64);
        prop_assert!(entries >= held.last().copied().unwrap_or(0) as u64);
    }
}

#[test]
fn a_window_and_a_lease_end_to_the_microsecond() {
    let mut memory = Memory::new(10);
    let begin = memory.now;
    memory.granted(id(1));
    memory.succeed(id(2), SECOND);
    let before = begin + SECOND - Duration::from_micros(1);
    let lapses_in = Duration::from_micros(1);
    let in_flight = Admission::InFlight { lapses_in };
    assert_eq!(memory.store.admit(id(1), SECOND, before), in_flight);
    let succeeded = Admission::Succeeded { status: 200 };
    assert_eq!(memory.store.admit(id(2), SECOND, before), succeeded);
    memory.now = begin + SECOND;
    memory.granted(id(1));
    memory.granted(id(2));
}

#[test]
fn a_clock_that_other_threads_read_earlier_changes_nothing() {
    let mut memory = Memory::new(10);
    let begin = memory.now;
    memory.now += SECOND;
    memory.succeed(id(1), SECOND);
    memory.now = begin;
    let succeeded = Admission::Succeeded { status: 200 };
    assert_eq!(memory.store.admit(id(1), SECOND, begin), succeeded);
    memory.succeed(id(2), SECOND);
}

#[test]
fn what_is_past_its_window_is_cleared_away_by_and_by() {
    let mut memory = Memory::new(100_000);
    for number in 0..50_000 {
        memory.succeed(id(number), SECOND);
    }
    memory.now += 2 * SECOND;
    let bytes = memory.store.bytes();
    for number in 50_000..80_000 {
        memory.succeed(id(number), SECOND);
    }
    // Each cleared more than it added, and took the freed places.
    assert_eq!(memory.store.entries(), 30_000);
    assert_eq!(memory.store.evicted(), 0);
    assert!(memory.store.bytes() <= bytes + bytes / 8, "{bytes}");
}

#[test]
fn takes_no_more_than_it_says() {
    let entries_max = 100_000;
    let bound = entries_max * ENTRY_BYTES_MAX;
    let mut memory = Memory::new(entries_max as usize);
    let mut most = 0;
    // Leases, then outcomes in their place, then more of those than fit, then leases again.
    let tokens: Vec<_> = (0..entries_max)
        .map_while(
            |number| match memory.store.admit(id(number), SECOND, memory.now) {
                Admission::Granted(token) => Some((number, token)),
                Admission::Succeeded { .. } | Admission::InFlight { .. } | Admission::Full => None,
            },
        )
        .collect();
    assert!(
        tokens.len() > entries_max as usize * 9 / 10,
        "{}",
        tokens.len()
    );
    for (place, (number, token)) in tokens.into_iter().enumerate() {
        let settlement = Settlement::Succeeded {
            status: 200,
            window: 100 * SECOND,
        };
        memory
            .store
            .settle(id(number), token, settlement, memory.now);
        if place % 1000 == 0 {
            most = most.max(memory.store.bytes());
        }
    }
    for number in entries_max..2 * entries_max {
        memory.succeed(id(number), 100 * SECOND);
    }
    let settled = memory.store.bytes();
    println!(
        "{} bytes for each outcome",
        settled as f64 / entries_max as f64
    );
    assert!(settled <= entries_max * 48, "{settled}");
    for number in 2 * entries_max..3 * entries_max {
        let _ = memory.store.admit(id(number), SECOND, memory.now);
        if number % 1000 == 0 {
            most = most.max(memory.store.bytes());
        }
    }
    most = most.max(memory.store.bytes());
    println!(
        "{} bytes for each entry at most",
        most as f64 / entries_max as f64
    );
    assert!(most <= bound, "{most} of {bound}");
    assert!(memory.store.entries() <= entries_max);
}

#[test]
fn a_delivery_that_outlasts_its_lease_is_given_up_before() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(async {
        let config = ReplayConfig {
            store: ReplayStore::Memory,
            on_store_failure: OnStoreFailure::Reject,
            entries: 10,
        };
        let guard = Arc::new(Guard::new(&config, ReplayMetrics::default()).unwrap());
        let admit = || guard.store.admit(id(1), 1000 * SECOND, Instant::now());
        let Ok(Admission::Granted(token)) = admit().await else {
            panic!("it is new");
        };
        let held = Held {
            guard: guard.clone(),
            id: id(1),
            token,
            window: SECOND,
            until: Instant::now() + Duration::from_millis(10),
        };
        let outcome = held.settle_after(std::future::pending::<Result<Response<()>, _>>());
        assert!(matches!(outcome.await, Err(Rejection::UpstreamTimeout)));
        let again = admit().await;
        assert!(matches!(again, Ok(Admission::Granted(_))), "{again:?}");
    });
}

#[test]
fn of_many_threads_that_ask_at_once_one_is_granted() {
    const THREADS: usize = 8;
    const ROUNDS: u64 = 2000;
    let store = MemoryStore::new(100_000, Instant::now());
    let now = Instant::now();
    let barrier = Barrier::new(THREADS);
    let granted: Vec<_> = (0..ROUNDS).map(|_| AtomicU32::new(0)).collect();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, barrier, granted) = (&store, &barrier, &granted);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    if round % 100 == 0 {
                        barrier.wait();
                    }
                    let id = id(round);
                    if let Admission::Granted(token) = store.admit(id, 1000 * SECOND, now) {
                        granted[round as usize].fetch_add(1, Ordering::Relaxed);
                        // For the others to come between.
                        thread::yield_now();
                        // Every third fails, and another thread may have it then.
                        let settlement = if (round + thread as u64).is_multiple_of(3) {
                            granted[round as usize].fetch_sub(1, Ordering::Relaxed);
                            Settlement::Failed
                        } else {
                            let window = 1000 * SECOND;
                            Settlement::Succeeded {
                                status: 200,
                                window,
                            }
                        };
                        store.settle(id, token, settlement, now);
                    }
                }
            });
        }
    });
    for (round, granted) in granted.iter().enumerate() {
        assert!(granted.load(Ordering::Relaxed) <= 1, "{round}: {granted:?}");
    }
    let successes: u32 = granted
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .sum();
    assert_eq!(store.entries(), u64::from(successes));
    assert!(successes > ROUNDS as u32 / 2, "{successes}");
}
