//! Memory has a bound, whatever arrives, and goes back to what it was.

use std::{
    fs,
    io::{Read as _, Write as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sha2::{Digest as _, Sha256};

use crate::support::{
    PATIENCE, client,
    delivery::Delivery,
    gateway::{Builder, Gateway},
    upstream::Upstream,
    wire::{Socket, Wire},
};

const SECRET: &[u8] = b"a secret of these tests";

/// Each has a part of the heap: their number shall not depend on the machine.
const THREADS: &str = "threads = 2";

/// What may stay resident after a peak beyond what was before it: pages that are shared with what lives on.
const LEFT_KIB: u64 = 6 << 10;

/// The same after large bodies: threads that wrote to the spool are still there.
const LEFT_BY_BODIES_KIB: u64 = 12 << 10;

/// What a connection may take that sent one request and rests, where they came one after the other.
const OPEN_KIB: u64 = 3;

/// Held by each of these tests: together they would take the machine from all others.
pub(crate) static ALONE: Mutex<()> = Mutex::new(());

/// Uses all descriptors that the system allows this process.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: most,
            maximum: most,
        },
    )
    .unwrap();
    most.unwrap_or(u64::MAX)
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_leave_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let descriptors = raise_descriptor_limit();
    // Other tests of this process need some too.
    let count = usize::try_from(descriptors.saturating_sub(3000).min(10_000)).unwrap();
    assert!(
        count >= 5000,
        "the hard limit of {descriptors} open files allows only {count} connections"
    );
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .server(THREADS)
        .limits("connections = 12000\nidle_timeout = \"600s\"")
        .route("hooks", "/hooks", SECRET, &upstream.url(), "")
        .start();
    let request = Delivery::post("/hooks", "{}").signed(SECRET).raw();
    let serve = |wire: &mut Wire| {
        wire.send(&request).unwrap();
        assert_eq!(wire.answer("POST").unwrap().status, 200);
    };
    // What the first requests leave behind is not what connections cost.
    for _ in 0..100 {
        serve(&mut client::raw(gateway.door()));
    }
    gateway.wait_for_metric("countersign_connections", |open| open == 0);
    let resting = gateway.rss_kib();
    let began = Instant::now();
    let idle = connect_and_serve(&gateway, count, &request);
    assert_eq!(gateway.metric("countersign_connections"), count as u64);
    let opened = began.elapsed();
    let began = Instant::now();
    let mut another = client::raw(gateway.door());
    for _ in 0..100 {
        serve(&mut another);
    }
    let each = began.elapsed() / 100;
    let full = gateway.rss_kib();
    drop((idle, another));
    gateway.wait_for_metric("countersign_connections", |open| open == 0);
    let rested = resting + LEFT_KIB;
    let after = gateway.wait_for_rss_kib(|kib| kib < rested);
    // It does not add up from peak to peak.
    let idle = connect_and_serve(&gateway, count, &request);
    let again = gateway.rss_kib();
    drop(idle);
    let at_last = gateway.wait_for_rss_kib(|kib| kib < rested);
    println!(
        "{count} connections in {opened:?}: {resting} KiB at rest, {full} KiB open, {after} KiB after, {again} KiB open again, {at_last} KiB at last; {each:?} per request beside them"
    );
    let most = resting + OPEN_KIB * count as u64;
    assert!(full < most && again < most, "more than {most} KiB");
    assert!(each < Duration::from_millis(100), "{each:?}");
}

#[test]
fn connections_that_came_to_rest_give_memory_back() {
    const COUNT: usize = 2000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    raise_descriptor_limit();
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .server(THREADS)
        .limits("connections = 4000\nidle_timeout = \"600s\"\nbody_timeout = \"600s\"")
        .route("hooks", "/hooks", SECRET, &upstream.url(), "")
        .start();
    let request = Delivery::post("/hooks", "{}").signed(SECRET).raw();
    let (most, last) = request.split_at(request.len() - 1);
    let mut sockets: Vec<_> = (0..COUNT)
        .map(|_| {
            let mut socket = Socket::connect(&gateway.door().address, PATIENCE).unwrap();
            // After a later request it rests, too.
            socket.write_all(&request).unwrap();
            read_answer(&mut socket);
            socket.write_all(most).unwrap();
            socket
        })
        .collect();
    gateway.wait_for_metric("countersign_inflight_requests", |open| open == COUNT as u64);
    let busy = gateway.rss_kib();
    for socket in &mut sockets {
        socket.write_all(last).unwrap();
        read_answer(socket);
    }
    // All of them are still open.
    let rested = gateway.wait_for_rss_kib(|kib| kib < busy - 4 * COUNT as u64);
    println!("{COUNT} connections: {busy} KiB at work, {rested} KiB at rest");
    assert_eq!(gateway.metric("countersign_connections"), COUNT as u64);
}

#[test]
fn what_one_body_gave_back_serves_the_next() {
    const COUNT: u64 = 100;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .server(THREADS)
        .tls()
        .route("hooks", "/hooks", SECRET, &upstream.url(), "")
        .start();
    let body = "x".repeat(1 << 20);
    let request = Delivery::post("/hooks", body).signed(SECRET).raw();
    let mut wire = client::raw(gateway.door());
    let mut serve = || {
        for _ in 0..COUNT {
            wire.send(&request).unwrap();
            assert_eq!(wire.answer("POST").unwrap().status, 200);
        }
        gateway.page_faults()
    };
    let faults = [serve(), serve(), serve(), serve()];
    // A trim, or a thread that serves for the first time, has some faulted in once.
    let each = faults.windows(2).map(|two| (two[1] - two[0]) / COUNT).min();
    let each = each.unwrap();
    println!("{each} page faults for a body of 1 MiB, which is 256 pages");
    assert!(each < 32, "{each}");
}

fn read_answer(socket: &mut Socket) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut buffer = [0; 1024];
        let read = socket.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "closed");
        answer.extend_from_slice(&buffer[..read]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

/// Opens connections, has one request served on each, and keeps them. A [`Wire`] would take two descriptors for each.
pub(crate) fn connect_and_serve(gateway: &Gateway, count: usize, request: &[u8]) -> Vec<Socket> {
    let one = || {
        let mut socket = Socket::connect(&gateway.door().address, PATIENCE).unwrap();
        socket.write_all(request).unwrap();
        read_answer(&mut socket);
        socket
    };
    (0..count).map(|_| one()).collect()
}

/// Repeats in every body, and nowhere else: what is searched for in spool files.
const PLAIN: &[u8] =
    b"{\"patient\": \"no such person\", \"note\": \"a marker that may not be seen on disk\"}\n";

/// One sender's body, made while it is sent: nothing holds it.
struct Generated {
    block: Vec<u8>,
    blocks: usize,
}

impl Generated {
    fn new(sender: usize, len: usize) -> Self {
        let mut block = format!("sender {sender:08}\n").into_bytes();
        while block.len() < 64 << 10 {
            block.extend_from_slice(PLAIN);
        }
        block.truncate(64 << 10);
        Self {
            blocks: len / block.len(),
            block,
        }
    }

    fn len(&self) -> usize {
        self.block.len() * self.blocks
    }

    /// Signature and digest.
    fn marks(&self) -> (String, String) {
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
        let mut digest = Sha256::new();
        for _ in 0..self.blocks {
            mac.update(&self.block);
            digest.update(&self.block);
        }
        (
            HEXLOWER.encode(&mac.finalize().into_bytes()),
            HEXLOWER.encode(&digest.finalize()),
        )
    }
}

/// Looks into the files without a name that a process has open.
struct SpoolReader<'a> {
    gateway: &'a Gateway,
    done: AtomicBool,
    searched: AtomicU64,
    plain: Mutex<Vec<String>>,
}

impl SpoolReader<'_> {
    fn run(&self) {
        let folder = format!("/proc/{}/fd", self.gateway.pid());
        let spool = self.gateway.folder().join("spool");
        while !self.done.load(Ordering::Relaxed) {
            for entry in fs::read_dir(&folder).unwrap().map_while(Result::ok) {
                // It may be closed by now.
                let Ok(target) = fs::read_link(entry.path()) else {
                    continue;
                };
                if !target.starts_with(&spool) {
                    continue;
                }
                let Ok(content) = fs::read(entry.path()) else {
                    continue;
                };
                self.searched
                    .fetch_add(content.len() as u64, Ordering::Relaxed);
                if content.windows(16).any(|window| window == &PLAIN[..16]) {
                    let mut plain = self.plain.lock().unwrap();
                    plain.push(target.display().to_string());
                    return;
                }
            }
        }
    }
}

/// `senders` bodies at once, all of them under way before any is whole.
fn bodies_larger_than_memory_arrive_intact(builder: Builder, senders: usize, len: usize) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    raise_descriptor_limit();
    let upstream = Upstream::accepting();
    let gateway = builder
        .server(THREADS)
        .limits("body_memory = \"64MiB\"\nspool = \"16GiB\"\nbody_timeout = \"300s\"\nbody_min_rate = \"0B/s\"")
        .route("hooks", "/hooks", SECRET, &upstream.url(), "timeout = \"300s\"")
        .start();
    let resting = gateway.rss_kib();
    let began = Instant::now();
    let barrier = std::sync::Barrier::new(senders);
    let reader = SpoolReader {
        gateway: &gateway,
        done: AtomicBool::new(false),
        searched: AtomicU64::new(0),
        plain: Mutex::default(),
    };
    let mut digests = thread::scope(|scope| {
        let reading = scope.spawn(|| reader.run());
        let sending: Vec<_> = (0..senders)
            .map(|sender| {
                let (gateway, barrier) = (&gateway, &barrier);
                scope.spawn(move || {
                    let body = Generated::new(sender, len);
                    let (tag, digest) = body.marks();
                    let head = format!(
                        "POST /hooks HTTP/1.1\r\nHost: hooks.example.org\r\nx-cv-signature: {tag}\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    let mut wire = client::raw(gateway.door());
                    wire.socket().set_limit(None).unwrap();
                    wire.send(head.as_bytes()).unwrap();
                    for index in 0..body.blocks {
                        wire.send(&body.block).unwrap();
                        if index == body.blocks / 2 {
                            barrier.wait();
                        }
                    }
                    assert_eq!(wire.answer("POST").unwrap().status, 200);
                    digest
                })
            })
            .collect();
        let digests: Vec<_> = sending
            .into_iter()
            .map(|sender| sender.join().unwrap())
            .collect();
        reader.done.store(true, Ordering::Relaxed);
        reading.join().unwrap();
        digests
    });
    let mut seen: Vec<_> = upstream
        .seen()
        .into_iter()
        .map(|seen| seen.body_sha256)
        .collect();
    digests.sort();
    seen.sort();
    assert!(seen == digests, "not every body arrived once and intact");
    let peak = gateway.peak_rss_kib();
    println!(
        "{senders} senders of {len} bytes: {peak} KiB at most, {:?}, {} MiB of spool files searched",
        began.elapsed(),
        reader.searched.load(Ordering::Relaxed) >> 20
    );
    assert!(
        reader.searched.load(Ordering::Relaxed) > 0,
        "no spool file was seen"
    );
    assert_eq!(
        *reader.plain.lock().unwrap(),
        Vec::<String>::new(),
        "plaintext on disk"
    );
    assert!(peak < 160 << 10, "{peak} KiB");
    for gauge in [
        "buffered_bytes",
        "spooled_bytes",
        "spooled_bodies",
        "inflight_requests",
    ] {
        gateway.wait_for_metric(&format!("countersign_{gauge}"), |value| value == 0);
    }
    let after = gateway.wait_for_rss_kib(|kib| kib < resting + LEFT_BY_BODIES_KIB);
    println!("{resting} KiB at rest, {after} KiB after");
}

#[test]
fn two_hundred_senders_of_25_mib_fit_into_64_mib() {
    bodies_larger_than_memory_arrive_intact(Gateway::builder(), 200, 25 << 20);
}

#[test]
fn a_hundred_senders_of_25_mib_fit_into_64_mib_over_tls() {
    bodies_larger_than_memory_arrive_intact(Gateway::builder().tls(), 100, 25 << 20);
}
