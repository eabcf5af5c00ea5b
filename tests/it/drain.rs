//! Stopping: what was accepted is finished, each delivery once, and then the process ends.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use crate::support::{
    PATIENCE,
    client::{self, Client, Door, Hello, Protocol},
    delivery::Delivery,
    gateway::Gateway,
    runtime,
    upstream::{Behaviour, Response, Upstream},
    wire::Wire,
    within,
};

const SECRET: &[u8] = b"drain-secret";

/// So long an idle connection is kept for a request that is just coming.
const GRACE: Duration = Duration::from_secs(1);

/// The rest is for a busy machine.
const SOON: Duration = GRACE.saturating_add(Duration::from_millis(1900));

fn gateway(upstream: &Upstream, server: &str) -> Gateway {
    Gateway::builder()
        .server(server)
        .route("hooks", "/*", SECRET, &upstream.url(), "")
        .tls()
        .start()
}

fn delivery(key: &str) -> Delivery {
    Delivery::post("/", format!("body of {key}"))
        .signed(SECRET)
        .header("X-Key", key)
}

/// Sends a request and leaves its answer to be read.
fn begin(door: &Door, key: &str) -> Wire {
    let mut wire = client::raw(door);
    wire.send(&delivery(key).raw()).unwrap();
    wire
}

/// How often the upstream saw each key.
fn arrivals(upstream: &Upstream) -> BTreeMap<String, usize> {
    let mut arrivals = BTreeMap::new();
    for seen in upstream.seen() {
        let key = seen.fields.one("x-key").to_owned();
        assert_eq!(seen.body.unwrap(), format!("body of {key}").as_bytes());
        *arrivals.entry(key).or_insert(0) += 1;
    }
    arrivals
}

/// Delivers over HTTP/1.1 until nobody takes a connection any more. Returns the keys that were answered.
///
/// Every request that went out on an open connection must be answered. A sender that the machine held up until the grace was over
/// writes into a closed one: nobody took that request.
fn deliver_http1(door: &Door, sender: usize, reuse: bool) -> Vec<String> {
    let mut answered = Vec::new();
    loop {
        // Whether or not this gets through, no request was accepted yet.
        let Ok(mut wire) = client::raw_with(door, &Hello::default()) else {
            return answered;
        };
        let mut idle_since = Instant::now();
        loop {
            let key = format!("h1-{sender}-{}", answered.len());
            let sent = wire.send(&delivery(&key).raw());
            let idle = idle_since.elapsed();
            let answer = match sent.and_then(|()| wire.answer("POST")) {
                Ok(answer) => answer,
                Err(_) if idle >= GRACE => break,
                Err(error) => panic!("{key} was dropped after {idle:?}: {error}"),
            };
            idle_since = Instant::now();
            assert_eq!(answer.status, 200, "{key}: {answer:?}");
            answered.push(key);
            if !reuse || answer.fields.has("connection") {
                break;
            }
        }
    }
}

/// The same over HTTP/2. What a sender is told not to send counts as never sent.
async fn deliver_http2(door: Door, sender: usize) -> Vec<String> {
    /// Says what hangs, before [`PATIENCE`] with the whole sender ends.
    async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
        let limit = PATIENCE / 2;
        let hung = |_| panic!("{what} hangs");
        timeout(limit, work).await.unwrap_or_else(hung)
    }

    let mut answered = Vec::new();
    let hello = Hello::default();
    while let Ok(mut client) = soon(
        &format!("connecting sender {sender}"),
        Client::connect_with(&door, Protocol::Http2, &hello),
    )
    .await
    {
        loop {
            let key = format!("h2-{sender}-{}", answered.len());
            match soon(&key, client.deliver(&delivery(&key))).await {
                Ok(answer) => assert_eq!(answer.status, 200, "{key}: {answer:?}"),
                Err(error) if error.is_canceled() || error.is_closed() => break,
                // Told so while it was opening the stream. If the request got through all the same, the upstream has one too many.
                Err(error) if format!("{error:?}").contains("GoAway(b\"\", NO_ERROR, Remote)") => {
                    break;
                }
                Err(error) => panic!("{key} was dropped: {error:?}"),
            }
            answered.push(key);
        }
    }
    answered
}

#[test]
fn nothing_is_dropped_or_doubled_under_load() {
    let upstream = Upstream::start(|_| Behaviour::Respond(Response::new(200).body("taken")));
    let mut gateway = gateway(&upstream, "");
    let door = gateway.door().clone();
    let mut answered: Vec<String> = thread::scope(|scope| {
        let http1: Vec<_> = (0..16)
            .map(|sender| {
                let door = &door;
                // Every fourth connects anew for each delivery.
                scope.spawn(move || deliver_http1(door, sender, sender % 4 > 0))
            })
            .collect();
        let http2: Vec<_> = (0..4)
            .map(|sender| runtime().spawn(deliver_http2(door.clone(), sender)))
            .collect();
        upstream.wait_for(500);
        gateway.terminate();
        let http1 = http1.into_iter().flat_map(|sender| sender.join().unwrap());
        let http2 = http2
            .into_iter()
            .flat_map(|sender| within(PATIENCE, sender).unwrap());
        http1.chain(http2).collect()
    });
    assert!(gateway.wait_exit().success());
    let arrivals = arrivals(&upstream);
    for (key, count) in &arrivals {
        assert_eq!(*count, 1, "{key}");
    }
    answered.sort();
    assert!(answered.iter().eq(arrivals.keys()), "answered and arrived");
    assert_eq!(upstream.faults(), Vec::<String>::new());
}

#[test]
fn request_under_way_is_finished() {
    let upstream = Upstream::start(|_| Behaviour::Stall);
    let mut gateway = gateway(&upstream, "");
    assert_eq!(gateway.admin("/readyz").status, 200);
    let mut wire = begin(gateway.door(), "slow");
    let http2 = {
        let door = gateway.door().clone();
        runtime().spawn(async move {
            let mut client = Client::connect_with(&door, Protocol::Http2, &Hello::default())
                .await
                .unwrap();
            client.deliver(&delivery("slow http2")).await
        })
    };
    upstream.wait_for(2);

    gateway.terminate();
    gateway
        .logs()
        .wait_for(|line| line.is("draining"))
        .expect("draining");
    let ready = gateway.admin("/readyz");
    assert_eq!((ready.status, &*ready.body), (503, &b"draining\n"[..]));
    assert_eq!(gateway.admin("/livez").status, 200);
    assert!(
        client::raw_with(gateway.door(), &Hello::default()).is_err(),
        "a new connection was taken"
    );

    upstream.release();
    let answer = wire.answer("POST").unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.fields.one("connection"), "close");
    assert!(wire.closed());
    assert_eq!(within(PATIENCE, http2).unwrap().unwrap().status, 200);
    assert!(gateway.wait_exit().success());
    assert_eq!(upstream.count(), 2);
}

#[test]
fn idle_connections_do_not_hold_the_end_up() {
    let upstream = Upstream::accepting();
    for encrypted in [false, true] {
        let builder = Gateway::builder().route("hooks", "/*", SECRET, &upstream.url(), "");
        let mut gateway = match encrypted {
            false => builder.start(),
            true => builder.tls().start(),
        };
        let door = gateway.door().clone();
        // None of these ever closes by itself.
        let mut served = begin(&door, "one");
        assert_eq!(served.answer("POST").unwrap().status, 200);
        let silent = client::raw(&door);
        let mut http2 = Client::connect(&door, Protocol::Http2);
        assert_eq!(http2.send(&delivery("two")).status, 200);
        // Speaks HTTP/2, and then never again: not even an answer to a ping.
        let mute = mute_http2(&door);
        gateway.wait_for_connections(4);

        let began = Instant::now();
        gateway.terminate();
        assert!(gateway.wait_exit().success());
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        assert!(gateway.logs().wait_for(|line| line.is("stopped")).is_some());
        assert!(served.closed());
        drop((silent, mute));
    }
}

/// An HTTP/2 connection that says hello and then nothing.
fn mute_http2(door: &Door) -> Wire {
    let mut wire = client::raw_http2(door);
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    wire
}

#[test]
fn sender_about_to_speak_is_heard() {
    let upstream = Upstream::accepting();
    let mut gateway = gateway(&upstream, "");
    let mut served = begin(gateway.door(), "before");
    assert_eq!(served.answer("POST").unwrap().status, 200);
    let mut silent = client::raw(gateway.door());
    gateway.wait_for_connections(2);

    gateway.terminate();
    gateway.logs().wait_for(|line| line.is("draining"));
    for (wire, key) in [(&mut served, "served"), (&mut silent, "silent")] {
        wire.send(&delivery(key).raw()).unwrap();
        let answer = wire.answer("POST").unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.fields.one("connection"), "close");
    }
    assert!(gateway.wait_exit().success());
    assert_eq!(upstream.count(), 3);
}

#[test]
fn connections_in_the_queue_are_served() {
    // The limit keeps them in the kernel's queue, where they have already sent their requests.
    let upstream = Upstream::accepting();
    let mut gateway = Gateway::builder()
        .limits("connections = 1")
        .route("hooks", "/*", SECRET, &upstream.url(), "")
        .start();
    let mut first = begin(gateway.door(), "first");
    assert_eq!(first.answer("POST").unwrap().status, 200);
    let queued: Vec<_> = (0..8)
        .map(|at| begin(gateway.door(), &format!("queued {at}")))
        .collect();

    gateway.terminate();
    gateway.logs().wait_for(|line| line.is("draining"));
    drop(first);
    for mut wire in queued {
        let answer = wire.answer("POST").unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.fields.one("connection"), "close");
        drop(wire);
    }
    assert!(gateway.wait_exit().success());
    assert_eq!(arrivals(&upstream).len(), 9);
}

#[test]
fn second_signal_stops_at_once() {
    let upstream = Upstream::start(|_| Behaviour::Stall);
    let mut gateway = gateway(&upstream, "drain = \"10m\"");
    let mut wire = begin(gateway.door(), "hanging");
    upstream.wait_for(1);
    gateway.terminate();
    gateway.logs().wait_for(|line| line.is("draining"));
    gateway.terminate();
    assert!(gateway.wait_exit().success());
    assert!(wire.answer("POST").is_err());
    assert_cut(&gateway, &upstream);
}

#[test]
fn drain_time_ends() {
    let upstream = Upstream::start(|_| Behaviour::Stall);
    let mut gateway = gateway(&upstream, "drain = \"500ms\"");
    let mut wire = begin(gateway.door(), "hanging");
    upstream.wait_for(1);
    let began = Instant::now();
    gateway.terminate();
    assert!(gateway.wait_exit().success());
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(wire.answer("POST").is_err());
    assert_cut(&gateway, &upstream);
}

/// Checks that the one request that hung has its log line all the same.
fn assert_cut(gateway: &Gateway, upstream: &Upstream) {
    let seen = &upstream.seen()[0];
    let line = gateway.request_line(seen.fields.one("countersign-request-id"));
    assert_eq!(line.text_field("verdict"), Some("aborted"), "{line}");
    let end = |line: &crate::support::logs::Line| line.is("stopped with requests under way");
    assert!(gateway.logs().wait_for(end).is_some());
}
