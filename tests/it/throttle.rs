//! Limits on how much is taken and from whom: what is over them is refused on the head, and costs the rest nothing.

use std::{
    collections::BTreeMap,
    sync::{Barrier, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    client::{self, Client, Protocol},
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_not_verified, assert_problem, request_id},
    upstream::{Behaviour, Response, Upstream},
    wire::{Answer, Wire},
};

const SECRET: &[u8] = b"a secret of these tests";

fn builder(upstream: &Upstream, lines: &str) -> Builder {
    Gateway::builder().route("hooks", "/hooks", SECRET, &upstream.url(), lines)
}

fn genuine() -> Delivery {
    Delivery::post("/hooks", "{\"a\": 1}").signed(SECRET)
}

/// Behind the trusted proxy that the tests are.
fn from(address: &str) -> Delivery {
    genuine().header("x-forwarded-for", address)
}

/// The head alone of a delivery whose body is large and never comes.
fn head_of_a_large_body(gateway: &Gateway) -> (Wire, Answer) {
    let mut wire = client::raw(gateway.door());
    let large = Delivery::post("/hooks", vec![b'x'; 1 << 20]).signed(SECRET);
    wire.send(&large.raw_head()).unwrap();
    let answer = wire.answer("POST").unwrap();
    (wire, answer)
}

fn retry_after(answer: &Answer) -> u64 {
    answer.fields.one("retry-after").parse().unwrap()
}

/// Counts refusals by their reason.
fn refused(gateway: &Gateway, reason: &str) -> u64 {
    gateway.metric(&format!(
        "countersign_refusals_total{{route=\"hooks\",reason=\"{reason}\"}}"
    ))
}

/// Sends as many deliveries at the same moment, and counts the answers by their status.
fn burst(gateway: &Gateway, count: usize, delivery: &Delivery) -> BTreeMap<u16, usize> {
    let barrier = Barrier::new(count);
    thread::scope(|scope| {
        let sending: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(|| {
                    let mut wire = client::raw(gateway.door());
                    barrier.wait();
                    wire.send(&delivery.raw()).unwrap();
                    wire.answer("POST").unwrap().status
                })
            })
            .collect();
        let mut statuses = BTreeMap::new();
        for sender in sending {
            *statuses.entry(sender.join().unwrap()).or_default() += 1;
        }
        statuses
    })
}

#[test]
fn a_burst_gets_what_the_rate_allows_and_not_one_more() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, "rate = \"1/h\"\nburst = 5").start();
    let statuses = burst(&gateway, 40, &genuine());
    assert_eq!(statuses, [(200, 5), (429, 35)].into());
    assert_eq!(upstream.count(), 5);
    assert_eq!(refused(&gateway, "route_rate"), 35);
    assert_eq!(
        gateway.metric("countersign_requests_total{route=\"hooks\",outcome=\"rejected\"}"),
        35
    );
    let (_wire, answer) = head_of_a_large_body(&gateway);
    assert_problem(&answer, 429, "too_many_requests");
    let wait = retry_after(&answer);
    assert!((3500..=3600).contains(&wait), "{wait} s until the next");
    let line = gateway.request_line(&request_id(&answer));
    assert_eq!(line.text_field("reason"), Some("route_rate"), "{line}");
    assert_eq!(line.number_field("body_bytes"), Some(0), "{line}");
}

#[test]
fn a_rate_comes_back_with_time() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, "rate = \"20/s\"\nburst = 1").start();
    let mut client = Client::connect(gateway.door(), Protocol::Http1);
    let began = Instant::now();
    let mut served = 0;
    while served < 5 {
        let answer = client.send(&genuine());
        match answer.status {
            200 => served += 1,
            _ => assert_eq!((answer.status, retry_after(&answer)), (429, 1)),
        }
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200), "5 in {took:?}");
}

#[test]
fn what_bears_no_signature_takes_nothing_of_the_routes_rate() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, "rate = \"1/h\"\nburst = 2").start();
    for _ in 0..20 {
        let unsigned = Delivery::post("/hooks", "{}");
        assert_not_verified(&client::send_raw(gateway.door(), &unsigned));
    }
    for _ in 0..2 {
        assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    }
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 429);
}

#[test]
fn each_sender_has_a_rate_of_its_own() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, "sender_rate = \"1/h\"\nsender_burst = 3")
        .server("trusted_proxies = \"127.0.0.1\"")
        .start();
    let send = |delivery: &Delivery| client::send_raw(gateway.door(), delivery);
    // A stranger's unsigned requests are counted too: they are what this limit is against.
    let unsigned = Delivery::post("/hooks", "{}").header("x-forwarded-for", "198.51.100.1");
    let statuses: Vec<_> = (0..5).map(|_| send(&unsigned).status).collect();
    assert_eq!(statuses, [401, 401, 401, 429, 429]);
    let statuses = burst(&gateway, 20, &from("192.0.2.7"));
    assert_eq!(statuses, [(200, 3), (429, 17)].into());
    // What it writes before its own address makes nobody else of it.
    assert_eq!(send(&from("192.0.2.9, 192.0.2.7")).status, 429);
    assert_eq!(send(&from("192.0.2.8")).status, 200);
    let refusal = send(&from("192.0.2.7"));
    assert_problem(&refusal, 429, "too_many_requests");
    assert!(retry_after(&refusal) > 1000, "{refusal:?}");
    let line = gateway.request_line(&request_id(&refusal));
    assert_eq!(line.text_field("reason"), Some("sender_rate"), "{line}");
    assert_eq!(line.text_field("peer"), Some("192.0.2.7"), "{line}");
    assert_eq!(refused(&gateway, "sender_rate"), 2 + 17 + 2);
}

/// Two deliveries that the upstream does not answer.
fn two_under_way(gateway: &Gateway, upstream: &Upstream) -> Vec<Wire> {
    let stalled = (0..2).map(|_| {
        let mut wire = client::raw(gateway.door());
        wire.send(&genuine().raw()).unwrap();
        wire
    });
    let stalled = stalled.collect();
    upstream.wait_for(2);
    stalled
}

#[test]
fn only_so_many_are_under_way_and_the_rest_costs_no_body() {
    let upstream = Upstream::start(|_| Behaviour::Stall);
    let gateway = builder(&upstream, "concurrency = 2").start();
    let stalled = two_under_way(&gateway, &upstream);
    let (_wire, answer) = head_of_a_large_body(&gateway);
    assert_problem(&answer, 503, "overloaded");
    assert_eq!(retry_after(&answer), 1);
    let line = gateway.request_line(&request_id(&answer));
    let reason = line.text_field("reason");
    assert_eq!(reason, Some("route_concurrency"), "{line}");
    assert_eq!(line.text_field("verdict"), Some("unavailable"), "{line}");
    // Nobody is asked to send what will not be read.
    let mut wire = client::raw(gateway.door());
    let expecting = genuine().header("expect", "100-continue");
    wire.send(&expecting.raw_head()).unwrap();
    let answer = wire.answer("POST").unwrap();
    assert_eq!((answer.status, &answer.interim[..]), (503, &[][..]));
    // What does not verify is told so, whoever is under way.
    let unsigned = Delivery::post("/hooks", "{}");
    assert_not_verified(&client::send_raw(gateway.door(), &unsigned));
    upstream.release();
    for mut wire in stalled {
        assert_eq!(wire.answer("POST").unwrap().status, 200);
    }
    // The places are free as soon as the answers are out, or a moment later.
    gateway.wait_for_inflight(0);
    let mut client = Client::connect(gateway.door(), Protocol::Http2);
    for _ in 0..5 {
        assert_eq!(client.send(&genuine()).status, 200);
    }
    assert_eq!(refused(&gateway, "route_concurrency"), 2);
}

#[test]
fn a_place_is_given_back_however_a_request_ends() {
    let upstream = Upstream::start(|_| Behaviour::CloseBeforeAnswer);
    let gateway = builder(&upstream, "concurrency = 1").start();
    let send = |delivery: &Delivery| client::send_raw(gateway.door(), delivery).status;
    let forged = Delivery::post("/hooks", "{}").header("x-cv-signature", "0".repeat(64));
    for _ in 0..3 {
        assert_eq!(send(&genuine()), 502);
        assert_eq!(send(&forged), 401);
        let mut left = client::raw(gateway.door());
        left.send(&genuine().raw_head()).unwrap();
        gateway.wait_for_inflight(1);
        drop(left);
        gateway.wait_for_inflight(0);
    }
    upstream.behave(|_| Behaviour::Respond(Response::new(200)));
    assert_eq!(send(&genuine()), 200);
}

#[test]
fn the_whole_gateway_takes_only_so_many_requests() {
    let upstream = Upstream::start(|_| Behaviour::Stall);
    let others = Upstream::accepting();
    let gateway = builder(&upstream, "")
        .route("others", "/others", SECRET, &others.url(), "")
        .limits("in_flight = 2")
        .start();
    let stalled = two_under_way(&gateway, &upstream);
    let other = Delivery::post("/others", "{}").signed(SECRET);
    for refusal in [
        client::send_raw(gateway.door(), &other),
        head_of_a_large_body(&gateway).1,
    ] {
        assert_problem(&refusal, 503, "overloaded");
        assert_eq!(retry_after(&refusal), 1);
        let line = gateway.request_line(&request_id(&refusal));
        assert_eq!(line.text_field("reason"), Some("in_flight"), "{line}");
    }
    others.assert_untouched();
    // Whoever watches is not refused.
    assert_eq!(gateway.admin("/readyz").status, 200);
    upstream.release();
    for mut wire in stalled {
        assert_eq!(wire.answer("POST").unwrap().status, 200);
    }
    gateway.wait_for_inflight(0);
    assert_eq!(client::send_raw(gateway.door(), &other).status, 200);
}

#[test]
fn only_listed_addresses_may_send() {
    let upstream = Upstream::accepting();
    let lines = "allow = [\"192.0.2.0/24\", \"2001:db8::7\"]";
    let gateway = builder(&upstream, lines)
        .server("trusted_proxies = \"127.0.0.0/8\"")
        .start();
    let send = |delivery: &Delivery| client::send_raw(gateway.door(), delivery);
    for address in [
        "192.0.2.7",
        "198.51.100.1, 192.0.2.7",
        "192.0.2.7, 127.0.0.9",
        "::ffff:192.0.2.7",
        "2001:db8::7",
        "[2001:db8::7]:443",
    ] {
        assert_eq!(send(&from(address)).status, 200, "{address}");
    }
    let forwarded = genuine().header("forwarded", "for=\"[2001:db8::7]\";proto=https");
    assert_eq!(send(&forwarded).status, 200);
    let served = upstream.count();
    for address in [
        "198.51.100.1",
        "192.0.2.7, 198.51.100.1",
        "2001:db8::8",
        "192.0.2.7, unknown",
        "",
    ] {
        let refusal = send(&from(address));
        assert_problem(&refusal, 403, "sender_not_allowed");
        let line = gateway.request_line(&request_id(&refusal));
        assert_eq!(line.text_field("reason"), Some("sender_not_allowed"));
    }
    let (_wire, answer) = head_of_a_large_body(&gateway);
    assert_problem(&answer, 403, "sender_not_allowed");
    assert_eq!(upstream.count(), served);
}

#[test]
fn whoever_connects_directly_cannot_name_another_address() {
    let upstream = Upstream::accepting();
    let allowed = builder(&upstream, "allow = \"127.0.0.1\"").start();
    let forged = from("198.51.100.1").header("forwarded", "for=198.51.100.1");
    assert_eq!(client::send_raw(allowed.door(), &forged).status, 200);
    let refused = builder(&upstream, "allow = \"192.0.2.7\"").start();
    let forged = from("192.0.2.7").header("forwarded", "for=192.0.2.7");
    let answer = client::send_raw(refused.door(), &forged);
    assert_problem(&answer, 403, "sender_not_allowed");
    // A Unix socket has no address, so it is on no list.
    let unix = builder(&upstream, "allow = [\"0.0.0.0/0\", \"::/0\"]")
        .listen(&["unix:$DIR/in.sock"])
        .start();
    let answer = client::send_raw(unix.door(), &genuine());
    assert_problem(&answer, 403, "sender_not_allowed");
}

/// An upstream that works on so many requests at once, each for as long.
struct Workers {
    free: Mutex<usize>,
    changed: Condvar,
    each: Duration,
}

impl Workers {
    fn work(&self) {
        let free = self.free.lock().unwrap();
        let mut free = self.changed.wait_while(free, |free| *free == 0).unwrap();
        *free -= 1;
        drop(free);
        let end = Instant::now() + self.each;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
        *self.free.lock().unwrap() += 1;
        self.changed.notify_one();
    }
}

/// Has senders deliver one after the other, and returns how long those that were accepted took, sorted, and how many were refused.
fn load(gateway: &Gateway, senders: usize, accepted: usize) -> (Vec<Duration>, usize) {
    let large = Delivery::post("/hooks", vec![b'x'; 256 << 10]).signed(SECRET);
    let (head, whole) = (large.raw_head(), large.raw());
    let results = Mutex::new((Vec::new(), 0));
    thread::scope(|scope| {
        for _ in 0..senders {
            scope.spawn(|| {
                while results.lock().unwrap().0.len() < accepted {
                    let mut wire = client::raw(gateway.door());
                    let began = Instant::now();
                    // A refusal may come before all is written.
                    let _ = wire.send(&whole);
                    let status = wire.answer("POST").unwrap().status;
                    let mut results = results.lock().unwrap();
                    match status {
                        200 => results.0.push(began.elapsed()),
                        503 => results.1 += 1,
                        other => panic!("{other}: {}", head.escape_ascii()),
                    }
                }
            });
        }
    });
    let (mut times, refused) = results.into_inner().unwrap();
    times.sort();
    (times, refused)
}

#[test]
fn at_three_times_the_capacity_what_is_accepted_stays_as_fast() {
    const CAPACITY: usize = 4;
    let workers: &Workers = Box::leak(Box::new(Workers {
        free: Mutex::new(CAPACITY),
        changed: Condvar::new(),
        each: Duration::from_millis(50),
    }));
    let upstream = Upstream::start(|_| {
        workers.work();
        Behaviour::Respond(Response::new(200))
    });
    let gateway = builder(&upstream, &format!("concurrency = {CAPACITY}")).start();
    let (resting, refused_resting) = load(&gateway, CAPACITY - 1, 40);
    assert_eq!(refused_resting, 0);
    let (loaded, refused) = load(&gateway, 3 * CAPACITY, 100);
    let at = |times: &[Duration], part: usize| times[times.len() * part / 100];
    println!(
        "median {:?}, p90 {:?} at rest; {:?}, {:?} at three times the capacity, with {refused} refused",
        at(&resting, 50),
        at(&resting, 90),
        at(&loaded, 50),
        at(&loaded, 90),
    );
    assert!(refused > 100, "only {refused} refused");
    // In a queue they would wait for two others each: three times as long.
    assert!(at(&loaded, 50) < at(&resting, 50) * 2);
    assert!(at(&loaded, 90) < at(&resting, 90) * 2 + Duration::from_millis(20));
    // What was refused was refused on the head.
    let bytes = gateway.metrics();
    let received = bytes
        .lines()
        .find_map(|line| line.strip_prefix("countersign_body_bytes_count{route=\"hooks\"} "))
        .and_then(|count| count.parse::<usize>().ok());
    assert_eq!(received, Some(upstream.count()));
}
