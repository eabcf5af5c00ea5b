//! A flood of unsigned requests with large bodies: it costs genuine senders, memory and CPU little.
//!
//! The machine that runs this is busy with sending the flood, and maybe with more. So times are measured in turns, with the flood on this
//! gateway and with the same flood on another, and the middle one of several rounds counts.

use std::{
    fs,
    sync::{
        PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    memory::ALONE,
    support::{client, delivery::Delivery, gateway::Gateway, upstream::Upstream, wire::Wire},
};

const SECRET: &[u8] = b"a secret of these tests";

const ROUNDS: usize = 10;

/// What each request of the flood holds, and how many of them come in a second: enough to fill a line of a gigabit.
const LARGE: usize = 1 << 20;
const PER_SECOND: u32 = 120;

/// From so many connections at once.
const STRANGERS: u32 = 4;

const SAMPLES: usize = 500;

/// What a flood may take of memory: no body, but what connections hold.
const MEMORY_KIB: u64 = 8 << 10;

fn small() -> Vec<u8> {
    Delivery::post("/hooks", "{\"a\": 1}").signed(SECRET).raw()
}

/// Sends an unsigned request whole, as clients do, and reads the refusal.
fn refused(gateway: &Gateway, unsigned: &[u8]) {
    let mut wire = client::raw(gateway.door());
    // The gateway may close before all of it is written.
    let _ = wire.send(unsigned);
    assert_eq!(wire.answer("POST").unwrap().status, 401);
}

fn accepted(wire: &mut Wire, delivery: &[u8]) -> Duration {
    let began = Instant::now();
    wire.send(delivery).unwrap();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
    began.elapsed()
}

/// Median and 99th percentile of deliveries one after the other.
fn deliver(gateway: &Gateway, count: usize) -> (Duration, Duration) {
    let delivery = small();
    let mut wire = client::raw(gateway.door());
    accepted(&mut wire, &delivery);
    let mut took: Vec<_> = (0..count).map(|_| accepted(&mut wire, &delivery)).collect();
    took.sort();
    (took[count / 2], took[count * 99 / 100])
}

/// The same beside a flood that `flooded` bears; and how many requests of that were refused.
fn beside_a_flood(
    gateway: &Gateway,
    flooded: &Gateway,
    unsigned: &[u8],
) -> (usize, (Duration, Duration)) {
    let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (over, count) = (&over, &count);
    let between = Duration::from_secs(1) / PER_SECOND;
    let figures = thread::scope(|scope| {
        for stranger in 0..STRANGERS {
            scope.spawn(move || {
                let mut next = Instant::now() + between * stranger;
                while !over.load(Relaxed) {
                    while let Some(left) = next.checked_duration_since(Instant::now()) {
                        thread::park_timeout(left);
                    }
                    refused(flooded, unsigned);
                    count.fetch_add(1, Relaxed);
                    next += between * STRANGERS;
                }
            });
        }
        let figures = deliver(gateway, SAMPLES);
        over.store(true, Relaxed);
        figures
    });
    (count.load(Relaxed), figures)
}

#[test]
fn a_flood_of_unsigned_bodies_slows_genuine_senders_little_and_takes_no_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let upstream = Upstream::accepting();
    let start = || {
        Gateway::builder()
            .limits("body_memory = \"8MiB\"")
            .route("hooks", "/hooks", SECRET, &upstream.url(), "")
            .start()
    };
    // The senders of the flood take as much of this machine as the gateway: with another one as the target they do so in both cases.
    let (gateway, other) = (start(), start());
    let unsigned = Delivery::post("/hooks", vec![b'x'; LARGE]).raw();
    deliver(&gateway, 200);
    refused(&gateway, &unsigned);
    refused(&other, &unsigned);
    let resting_kib = gateway.rss_kib();
    let mut measured = Vec::new();
    for _ in 0..ROUNDS {
        let (_, (median, p99)) = beside_a_flood(&gateway, &other, &unsigned);
        let (count, (flooded_median, flooded_p99)) = beside_a_flood(&gateway, &gateway, &unsigned);
        let ratio = flooded_p99.as_secs_f64() / p99.as_secs_f64();
        println!(
            "flood elsewhere {median:?}, p99 {p99:?}; {count} refusals here {flooded_median:?}, p99 {flooded_p99:?}: {ratio:.2} times"
        );
        measured.push(ratio);
        measured.sort_by(f64::total_cmp);
        if measured.len() >= 3 && measured[measured.len() / 2] <= 2.0 {
            break;
        }
    }
    let peak = gateway.peak_rss_kib();
    println!("{resting_kib} KiB at rest, {peak} KiB at most; {measured:.2?}");
    assert!(peak < resting_kib + MEMORY_KIB, "{peak} KiB");
    let median = measured[measured.len() / 2];
    assert!(
        median <= 2.0,
        "{median:.2} times as slow; all: {measured:.2?}"
    );
}

/// CPU time that the process has used so far, in ticks of the system's clock.
fn cpu_ticks(gateway: &Gateway) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    // Behind the name, which may hold anything: the state is the third field, user and system time the 14th and 15th.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_refusal_costs_less_than_a_quarter_of_the_cpu_of_a_delivery() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .route("hooks", "/hooks", SECRET, &upstream.url(), "")
        .start();
    let body = vec![b'x'; 8 * LARGE];
    let unsigned = Delivery::post("/hooks", body.clone()).raw();
    let delivery = Delivery::post("/hooks", body).signed(SECRET).raw();
    let (mut of_accepted, mut of_refused) = (0, 0);
    // In turns, so that whatever else the machine does falls on both.
    for _ in 0..10 {
        let before = cpu_ticks(&gateway);
        for _ in 0..5 {
            accepted(&mut client::raw(gateway.door()), &delivery);
        }
        let between = cpu_ticks(&gateway);
        for _ in 0..5 {
            refused(&gateway, &unsigned);
        }
        of_accepted += between - before;
        of_refused += cpu_ticks(&gateway) - between;
    }
    println!("{of_accepted} ticks for 50 deliveries, {of_refused} for 50 refusals");
    assert!(of_accepted > 20, "too little to compare");
    assert!(
        of_refused * 4 < of_accepted,
        "{of_refused} of {of_accepted}"
    );
}
