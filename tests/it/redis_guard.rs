//! Gateways that share a Redis, from outside: what senders, the upstream and operators see.

use std::time::Instant;

use crate::support::{
    PATIENCE,
    client::{self, Protocol},
    cut,
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_problem},
    logs::Line,
    redis_server::RedisServer,
    upstream::{Behaviour, Response, Upstream},
    wire::Answer,
};

const SECRET: &[u8] = b"shared-secret-of-some-length";

fn gateway(upstream: &Upstream, replay: &str) -> Builder {
    Gateway::builder()
        .file("key", "the same on all instances")
        // Generous: a busy machine is no fault of the store.
        .config(&format!("[replay]\ntimeout = \"3s\"\n{replay}"))
        .route(
            "hooks",
            "/hooks",
            SECRET,
            &upstream.url(),
            "replay = \"1h\"",
        )
}

fn shared(upstream: &Upstream, store: &str) -> Builder {
    gateway(
        upstream,
        &format!("store = \"{store}\"\nkey = {{ file = \"$DIR/key\" }}"),
    )
}

fn delivery(body: &str) -> Delivery {
    Delivery::post("/hooks", body.to_owned()).signed(SECRET)
}

fn send(gateway: &Gateway, body: &str) -> Answer {
    client::send_raw(gateway.door(), &delivery(body))
}

fn is_duplicate(answer: &Answer) -> bool {
    answer.fields.has("countersign-duplicate")
}

#[test]
fn a_delivery_through_one_gateway_is_a_duplicate_at_the_other() {
    let redis = RedisServer::start(&["--requirepass", "pass word"]);
    let answer = Response::new(202).body("taken");
    let upstream = Upstream::start(move |_| Behaviour::Respond(answer.clone()));
    let lines = format!(
        "store = \"{}\"\nkey = {{ file = \"$DIR/key\" }}\npassword = {{ file = \"$DIR/password\" }}",
        redis.url()
    );
    let start = || {
        gateway(&upstream, &lines)
            .file("password", "pass word\n")
            .start()
    };
    let (one, two) = (start(), start());
    assert_eq!(send(&one, "a").status, 202);
    let answer = send(&two, "a");
    assert_eq!(answer.status, 202);
    assert!(
        is_duplicate(&answer) && answer.body.is_empty(),
        "{answer:?}"
    );
    assert!(is_duplicate(&send(&one, "a")));

    // What failed may be tried at the other.
    upstream.behave(|_| Behaviour::Respond(Response::new(500)));
    assert_eq!(send(&two, "b").status, 500);
    upstream.behave(|_| Behaviour::Respond(Response::new(200)));
    let answer = send(&one, "b");
    assert!(answer.status == 200 && !is_duplicate(&answer), "{answer:?}");
    assert_eq!(upstream.count(), 3);

    // While one has it, the other does not.
    upstream.behave(|_| Behaviour::Stall);
    let mut wire = client::raw(one.door());
    wire.send(&delivery("c").raw()).unwrap();
    upstream.wait_for(4);
    assert_problem(&send(&two, "c"), 409, "duplicate_in_flight");
    upstream.release();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
    assert!(is_duplicate(&send(&two, "c")));
    assert_eq!(upstream.count(), 4);
}

#[test]
fn gateways_of_other_prefix_or_key_are_others() {
    let redis = RedisServer::start(&[]);
    let upstream = Upstream::accepting();
    let url = redis.url();
    let prefix = format!("store = \"{url}\"\nkey = {{ file = \"$DIR/key\" }}\nprefix = \"other:\"");
    let gateways = [
        shared(&upstream, &url).start(),
        gateway(&upstream, &prefix).start(),
        gateway(&upstream, &format!("store = \"{url}\"")).start(),
        shared(&upstream, &url).file("key", "another").start(),
    ];
    for gateway in &gateways {
        assert!(!is_duplicate(&send(gateway, "a")));
        assert!(is_duplicate(&send(gateway, "a")));
    }
    assert_eq!(upstream.count(), 4);
    assert_eq!(redis.keys().len(), 4);
    let others = redis
        .keys()
        .iter()
        .filter(|key| key.starts_with("other:"))
        .count();
    assert_eq!(others, 1);
}

/// Sends until the answer is as wanted.
fn send_until(gateway: &Gateway, body: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = send(gateway, body);
        if wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?}: {answer:?}");
    }
}

#[test]
fn while_the_store_is_away_deliveries_are_refused_and_operators_see_why() {
    let mut redis = RedisServer::durable();
    let upstream = Upstream::accepting();
    let gateway = shared(&upstream, &redis.url()).start();
    assert_eq!(send(&gateway, "a").status, 200);
    assert_eq!(gateway.admin("/readyz").status, 200);
    let checks = String::from_utf8(gateway.admin("/readyz?verbose").body).unwrap();
    assert!(checks.contains("[+] replay store\n"), "{checks}");

    redis.kill();
    let refusal = send_until(&gateway, "b", |answer| answer.status != 200);
    assert_problem(&refusal, 503, "try_later");
    assert!(refusal.fields.has("retry-after"), "{refusal:?}");
    gateway.wait_for_metric("countersign_replay_store_up", |up| up == 0);
    for body in ["a", "b", "c"] {
        assert_eq!(send(&gateway, body).status, 503);
    }
    // There is no route left that could deliver.
    let ready = gateway.admin("/readyz?verbose");
    assert_eq!(ready.status, 503);
    let checks = String::from_utf8(ready.body).unwrap();
    assert!(checks.contains("[-] replay store: "), "{checks}");
    assert!(
        gateway
            .metrics()
            .contains("countersign_replay_store_errors_total{kind=\"")
    );
    let refused = gateway
        .logs()
        .wait_for(|line| line.text_field("reason") == Some("replay_store_failed"));
    let detail = refused.unwrap();
    let detail = detail.text_field("detail").unwrap();
    assert!(detail.starts_with("the replay store failed: "), "{detail}");

    redis.restart();
    gateway.wait_for_metric("countersign_replay_store_up", |up| up == 1);
    assert_eq!(gateway.admin("/readyz").status, 200);
    assert!(is_duplicate(&send(&gateway, "a")));
    assert!(!is_duplicate(&send(&gateway, "b")));
    assert_eq!(upstream.count(), 2);
    // One line for each change.
    let begins = |line: &Line, with: &str| {
        let message = line.text_field("message");
        message.is_some_and(|message| message.starts_with(with))
    };
    let logs = gateway.logs();
    logs.wait_for_count(2, |line| begins(line, "the replay store answers"));
    let lines = logs.lines();
    let told = |with| lines.iter().filter(|line| begins(line, with)).count();
    assert_eq!(told("the replay store answers"), 2);
    assert_eq!(told("the replay store is lost"), 1);
    assert!(told("the replay store is not reached") <= 1);
}

#[test]
fn while_the_store_is_away_deliveries_pass_if_the_operator_wrote_so() {
    let mut redis = RedisServer::durable();
    let upstream = Upstream::accepting();
    let gateway = gateway(
        &upstream,
        &format!(
            "store = \"{}\"\nkey = {{ file = \"$DIR/key\" }}\non_store_failure = \"admit\"",
            redis.url()
        ),
    )
    .start();
    assert_eq!(send(&gateway, "a").status, 200);
    redis.kill();
    send_until(&gateway, "a", |answer| !is_duplicate(answer));
    let passed = upstream.count();
    assert!(passed >= 2, "{passed}");
    let unguarded = gateway
        .logs()
        .wait_for(|line| line.bool_field("unguarded") == Some(true));
    assert!(unguarded.is_some());
    let ready = gateway.admin("/readyz?verbose");
    assert_eq!(ready.status, 200);
    let checks = String::from_utf8(ready.body).unwrap();
    assert!(checks.contains("[!] replay store: "), "{checks}");
    redis.restart();
    send_until(&gateway, "a", is_duplicate);
}

#[test]
fn a_route_without_a_guard_does_not_need_the_store() {
    let mut redis = RedisServer::start(&[]);
    redis.kill();
    let upstream = Upstream::accepting();
    let gateway = shared(&upstream, &redis.url())
        .route("open", "/open", SECRET, &upstream.url(), "")
        .start();
    assert_eq!(send(&gateway, "a").status, 503);
    let open = Delivery::post("/open", "a").signed(SECRET);
    assert_eq!(client::send_raw(gateway.door(), &open).status, 200);
    let ready = gateway.admin("/readyz?verbose");
    assert_eq!(ready.status, 200, "{ready:?}");
    let checks = String::from_utf8(ready.body).unwrap();
    assert!(checks.contains("[-] replay store: "), "{checks}");
}

#[test]
fn a_gateway_does_not_start_without_the_secrets_of_its_store() {
    let upstream = Upstream::accepting();
    for name in ["password", "key"] {
        let lines =
            format!("store = \"redis://127.0.0.1:1\"\n{name} = {{ file = \"$DIR/absent\" }}");
        let failed = gateway(&upstream, &lines)
            .try_start()
            .err()
            .expect("a refusal");
        assert_eq!(failed.status.code(), Some(78), "{}", failed.output);
        assert!(
            failed.output.contains(name) && failed.output.contains("absent"),
            "{}",
            failed.output
        );
    }
}

#[test]
fn a_stopping_gateway_settles_what_it_could_not_yet() {
    let redis = RedisServer::start(&[]);
    let line = cut::Line::to(redis.socket());
    let upstream = Upstream::start(|_| Behaviour::Stall);
    let mut gateway = shared(&upstream, &line.url()).start();
    let mut wire = client::raw(gateway.door());
    wire.send(&delivery("a").raw()).unwrap();
    upstream.wait_for(1);
    line.cut();
    upstream.release();
    // The sender is not kept waiting for the store for longer than one question takes.
    assert_eq!(wire.answer("POST").unwrap().status, 200);
    gateway.terminate();
    let stopping = gateway.logs().wait_for(|line| line.is("draining"));
    assert!(stopping.is_some());
    drop(wire);
    // Nothing else keeps it from ending.
    gateway.wait_for_connections(0);
    line.mend();
    assert!(gateway.wait_exit().success());
    let [key] = &redis.keys()[..] else {
        panic!("{:?}", redis.keys());
    };
    assert_eq!(redis.get(key).as_deref(), Some("succeeded 200"));
}

#[test]
fn http2_senders_that_race_through_two_gateways_deliver_once() {
    let redis = RedisServer::start(&[]);
    let upstream = Upstream::accepting();
    let gateways = [
        shared(&upstream, &redis.url()).tls().start(),
        shared(&upstream, &redis.url()).tls().start(),
    ];
    let count = 20;
    std::thread::scope(|scope| {
        for sender in 0..6 {
            let door = gateways[sender % 2].door();
            scope.spawn(move || {
                let mut client = client::Client::connect(door, Protocol::Http2);
                for number in 0..count {
                    let answer = client.send(&delivery(&number.to_string()));
                    assert!([200, 409].contains(&answer.status), "{answer:?}");
                }
            });
        }
    });
    assert_eq!(upstream.count(), count);
}
