//! Health of upstreams, as their requests show it: who fails is set aside, tried again by one request, and counted by address.

use std::{
    net::TcpListener,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use crate::support::{
    PATIENCE, client,
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_problem},
    http2::Http2Upstream,
    upstream::{Behaviour, Response, Upstream},
};

const SECRET: &[u8] = b"a secret of these tests";

fn builder(upstreams: &[&str], lines: &str) -> Builder {
    Gateway::builder().file("secret", SECRET).config(&format!(
        "[[route]]\nname = \"hooks\"\npath = \"/hooks\"\nscheme = \"carevalidate\"\n\
         secrets = [{{ id = \"test\", file = \"$DIR/secret\" }}]\nupstream = {upstreams:?}\n{lines}"
    ))
}

fn genuine() -> Delivery {
    Delivery::post("/hooks", "{\"a\": 1}").signed(SECRET)
}

fn send(gateway: &Gateway) -> u16 {
    client::send_raw(gateway.door(), &genuine()).status
}

fn up(gateway: &Gateway, url: &str) -> u64 {
    gateway.metric(&format!(
        "countersign_upstream_up{{route=\"hooks\",address=\"{url}\"}}"
    ))
}

fn failures(gateway: &Gateway, url: &str, kind: &str) -> u64 {
    gateway.metric(&format!(
        "countersign_upstream_failures_total{{route=\"hooks\",address=\"{url}\",kind=\"{kind}\"}}"
    ))
}

fn connects(gateway: &Gateway, url: &str) -> u64 {
    gateway.metric(&format!(
        "countersign_upstream_connects_total{{route=\"hooks\",address=\"{url}\"}}"
    ))
}

fn readiness(gateway: &Gateway) -> String {
    let answer = gateway.admin("/readyz?verbose");
    assert_eq!(answer.status, 200, "an upstream is no readiness of ours");
    String::from_utf8(answer.body).unwrap()
}

/// Sends until an upstream has got a request; every one is answered with 200.
fn send_until_reached(gateway: &Gateway, upstream: &Upstream) {
    let end = Instant::now() + PATIENCE;
    while upstream.count() == 0 {
        assert!(Instant::now() < end, "it is never tried again");
        assert_eq!(send(gateway), 200);
    }
}

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn an_address_that_refuses_is_set_aside_and_comes_back() {
    let (dead, alive) = (Upstream::accepting(), Upstream::accepting());
    let gateway = builder(&[&dead.url(), &alive.url()], "idle_connections = 0").start();
    assert_eq!(
        (up(&gateway, &dead.url()), up(&gateway, &alive.url())),
        (1, 1)
    );
    dead.refuse();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(send(&gateway), 200);
    }
    // Three in a row, and a trial if the machine was so slow that it was due.
    let tries = failures(&gateway, &dead.url(), "connect");
    let trials = began.elapsed().as_millis() as u64 / 500;
    assert!((3..=3 + trials).contains(&tries), "{tries} tries");
    assert_eq!(
        (up(&gateway, &dead.url()), up(&gateway, &alive.url())),
        (0, 1)
    );
    assert_eq!(connects(&gateway, &dead.url()), 0);
    assert_eq!(connects(&gateway, &alive.url()), 20);
    let line = gateway
        .logs()
        .wait_for(|line| line.is("upstream set aside"))
        .unwrap();
    assert_eq!(line.text_field("address"), Some(&*dead.url()), "{line}");
    assert_eq!(line.text_field("route"), Some("hooks"), "{line}");
    assert_eq!(line.text_field("last"), Some("connect"), "{line}");
    let shown = readiness(&gateway);
    assert!(
        shown.contains(&format!(
            "[!] route hooks: upstream {} set aside",
            dead.url()
        )),
        "{shown}"
    );
    assert!(
        shown.contains(&format!("[+] route hooks: upstream {} up\n", alive.url())),
        "{shown}"
    );
    dead.reopen();
    send_until_reached(&gateway, &dead);
    assert_eq!(up(&gateway, &dead.url()), 1);
    gateway
        .logs()
        .wait_for(|line| line.is("upstream answers again"))
        .unwrap();
    assert!(readiness(&gateway).contains(&format!("upstream {} up\n", dead.url())));
    // And takes its turns again.
    let before = dead.count();
    for _ in 0..6 {
        assert_eq!(send(&gateway), 200);
    }
    assert_eq!(dead.count(), before + 3);
}

#[test]
fn an_address_that_breaks_off_or_is_too_slow_is_set_aside() {
    for (kind, status, behaviour) in [
        ("broken", 502, Behaviour::CloseBeforeAnswer),
        (
            "broken",
            502,
            Behaviour::RawThenClose(b"no HTTP\r\n\r\n".to_vec()),
        ),
        ("timeout", 504, Behaviour::Stall),
    ] {
        let (bad, good) = (
            Upstream::start(move |_| behaviour.clone()),
            Upstream::accepting(),
        );
        let lines = "timeout = \"150ms\"\nmax_fails = 2";
        let gateway = builder(&[&bad.url(), &good.url()], lines).start();
        let mut statuses: Vec<_> = (0..4).map(|_| send(&gateway)).collect();
        statuses.sort();
        assert_eq!(statuses, [200, 200, status, status], "{kind}");
        assert_eq!(failures(&gateway, &bad.url(), kind), 2);
        assert_eq!(
            (up(&gateway, &bad.url()), up(&gateway, &good.url())),
            (0, 1)
        );
        assert_eq!(bad.count(), 2, "none was sent twice");
    }
}

#[test]
fn what_the_application_says_is_no_failure() {
    let upstream = Upstream::start(|_| Behaviour::Respond(Response::new(500)));
    let gateway = builder(&[&upstream.url()], "max_fails = 1").start();
    for status in [500, 502, 503, 504] {
        upstream.behave(move |_| Behaviour::Respond(Response::new(status)));
        assert_eq!(send(&gateway), status);
    }
    assert_eq!(up(&gateway, &upstream.url()), 1);
    for kind in ["connect", "broken", "timeout"] {
        assert_eq!(failures(&gateway, &upstream.url(), kind), 0);
    }
}

#[test]
fn if_all_are_set_aside_all_are_tried() {
    let (a, b) = (Upstream::accepting(), Upstream::accepting());
    let gateway = builder(&[&a.url(), &b.url()], "max_fails = 1").start();
    a.refuse();
    b.refuse();
    for _ in 0..3 {
        let answer = client::send_raw(gateway.door(), &genuine());
        assert_problem(&answer, 502, "upstream_unreachable");
    }
    assert_eq!((up(&gateway, &a.url()), up(&gateway, &b.url())), (0, 0));
    assert_eq!(readiness(&gateway).matches("set aside").count(), 2);
    // No pause keeps a request from an upstream that is there.
    b.reopen();
    assert_eq!(send(&gateway), 200);
    assert_eq!(up(&gateway, &b.url()), 1);
}

#[test]
fn one_request_alone_tries_what_was_set_aside() {
    let (bad, good) = (Upstream::accepting(), Upstream::accepting());
    let gateway = builder(&[&bad.url(), &good.url()], "max_fails = 1").start();
    bad.refuse();
    while up(&gateway, &bad.url()) == 1 {
        assert_eq!(send(&gateway), 200);
    }
    bad.behave(|_| Behaviour::Stall);
    bad.reopen();
    let (end, answered) = (Instant::now() + PATIENCE, AtomicUsize::new(0));
    thread::scope(|scope| {
        let mut sent = 0;
        while bad.count() == 0 {
            assert!(Instant::now() < end, "it is never tried again");
            let count = 20;
            let barrier = &*Box::leak(Box::new(Barrier::new(count)));
            for _ in 0..count {
                let (gateway, answered) = (&gateway, &answered);
                scope.spawn(move || {
                    let mut wire = client::raw(gateway.door());
                    barrier.wait();
                    wire.send(&genuine().raw()).unwrap();
                    assert_eq!(wire.answer("POST").unwrap().status, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                });
            }
            sent += count;
            // All are answered by the other one, but for a trial that is stalled.
            while answered.load(Ordering::Relaxed) + bad.count() < sent {
                assert!(Instant::now() < end, "requests hang");
                thread::yield_now();
            }
        }
        assert_eq!(bad.count(), 1, "trials at the same time");
        assert_eq!(up(&gateway, &bad.url()), 0, "nobody knows yet");
        bad.release();
    });
    gateway.wait_for_metric(
        &format!(
            "countersign_upstream_up{{route=\"hooks\",address=\"{}\"}}",
            bad.url()
        ),
        |value| value == 1,
    );
}

#[test]
fn verified_requests_wait_for_an_upstream_that_was_set_aside_and_restarts() {
    let upstream = Upstream::accepting();
    let lines = "max_fails = 1\nconnect_retry = \"20s\"";
    let gateway = builder(&[&upstream.url()], lines).start();
    upstream.refuse();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..8).map(|_| scope.spawn(|| send(&gateway))).collect();
        gateway.wait_for_metric(
            &format!(
                "countersign_upstream_failures_total{{route=\"hooks\",address=\"{}\",kind=\"connect\"}}",
                upstream.url()
            ),
            |count| count >= 24,
        );
        assert_eq!(up(&gateway, &upstream.url()), 0);
        let forged = Delivery::post("/hooks", "{}").signed(b"another secret");
        assert_eq!(client::send_raw(gateway.door(), &forged).status, 401);
        upstream.reopen();
        for sender in waiting {
            assert_eq!(sender.join().unwrap(), 200);
        }
    });
    assert_eq!(upstream.count(), 8, "each once");
    assert_eq!(up(&gateway, &upstream.url()), 1);
}

#[test]
fn unix_sockets_follow_the_same_rules() {
    let ok = |_: &_| Behaviour::Respond(Response::new(200));
    let (dead, alive) = (Upstream::start_unix(ok), Upstream::start_unix(ok));
    let gateway = builder(&[&dead.url(), &alive.url()], "max_fails = 1").start();
    dead.refuse();
    for _ in 0..4 {
        assert_eq!(send(&gateway), 200);
    }
    assert_eq!(
        (up(&gateway, &dead.url()), up(&gateway, &alive.url())),
        (0, 1)
    );
    dead.reopen();
    send_until_reached(&gateway, &dead);
    assert_eq!(up(&gateway, &dead.url()), 1);
}

#[test]
fn http2_upstreams_follow_the_same_rules() {
    let dead = nobody();
    let alive = Http2Upstream::start(None, |_| Response::new(200));
    let lines = "max_fails = 1\nupstream_http = \"2\"";
    let gateway = builder(&[&dead, &alive.url()], lines).start();
    for _ in 0..10 {
        assert_eq!(send(&gateway), 200);
    }
    assert_eq!((up(&gateway, &dead), up(&gateway, &alive.url())), (0, 1));
    assert_eq!(
        connects(&gateway, &alive.url()),
        1,
        "one connection for all"
    );
    // One that takes the connection and speaks no HTTP/2.
    let other = Upstream::start(|_| Behaviour::CloseBeforeAnswer);
    let gateway = builder(&[&other.url(), &alive.url()], lines).start();
    let statuses: Vec<_> = (0..4).map(|_| send(&gateway)).collect();
    assert_eq!(
        statuses.iter().filter(|status| **status == 502).count(),
        1,
        "{statuses:?}"
    );
    assert_eq!(up(&gateway, &other.url()), 0);
}

#[test]
fn switched_off_nothing_is_set_aside() {
    let (dead, alive) = (nobody(), Upstream::accepting());
    let gateway = builder(&[&dead, &alive.url()], "max_fails = 0").start();
    for _ in 0..10 {
        assert_eq!(send(&gateway), 200);
    }
    assert_eq!(failures(&gateway, &dead, "connect"), 5);
    assert_eq!(up(&gateway, &dead), 1);
}
