//! The replay guard: a delivery that succeeded is not forwarded again, one that failed is.

use std::time::Instant;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use data_encoding::HEXLOWER;

use crate::support::{
    PATIENCE,
    client::{self, Client, Protocol},
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_problem, request_id},
    runtime, sign,
    upstream::{Behaviour, Response, Upstream},
    wire::{Answer, Wire},
};

const SECRET: &[u8] = b"replay-secret-of-some-length";
const OTHER_SECRET: &[u8] = b"another-secret-of-some-length";

/// A gateway with guarded routes to one upstream.
struct Setup {
    gateway: Gateway,
    upstream: Upstream,
}

fn route(name: &str, upstream: &Upstream, lines: &str) -> String {
    format!(
        r#"
        [[route]]
        name = "{name}"
        path = "/{name}"
        secrets = [{{ id = "new", file = "$DIR/secret" }}, {{ id = "old", file = "$DIR/other" }}]
        upstream = "{}"
        {lines}
        "#,
        upstream.url()
    )
}

const GUARDED: &str = "scheme = \"carevalidate\"\nreplay = \"1h\"";

fn builder(upstream: &Upstream, lines: &str) -> Builder {
    Gateway::builder()
        .file("secret", SECRET)
        .file("other", OTHER_SECRET)
        .config(&route("hooks", upstream, lines))
}

impl Setup {
    fn new(lines: &str) -> Self {
        Self::with(Upstream::accepting(), lines)
    }

    fn with(upstream: Upstream, lines: &str) -> Self {
        let gateway = builder(&upstream, lines).start();
        Self { gateway, upstream }
    }

    fn send(&self, delivery: &Delivery) -> Answer {
        client::send_raw(self.gateway.door(), delivery)
    }

    /// Sends a request and leaves its answer to be read.
    fn begin(&self, delivery: &Delivery) -> Wire {
        let mut wire = client::raw(self.gateway.door());
        wire.send(&delivery.raw()).unwrap();
        wire
    }

    /// Sends it until it is forwarded once more, for lack of another sign that time has passed.
    fn send_until_forwarded(&self, delivery: &Delivery) {
        let end = Instant::now() + PATIENCE;
        let before = self.upstream.count();
        while self.upstream.count() == before {
            assert!(Instant::now() < end, "never forwarded");
            self.send(delivery);
        }
    }
}

fn delivery(body: &str) -> Delivery {
    Delivery::post("/hooks", body.to_owned()).signed(SECRET)
}

#[track_caller]
fn assert_forwarded(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(!answer.fields.has("countersign-duplicate"), "{answer:?}");
}

#[track_caller]
fn assert_duplicate(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.fields.one("countersign-duplicate"), "?1");
    assert!(answer.body.is_empty(), "{answer:?}");
}

#[track_caller]
fn assert_in_flight(answer: &Answer) {
    assert_problem(answer, 409, "duplicate_in_flight");
    assert_eq!(answer.fields.one("retry-after"), "5");
}

#[test]
fn a_duplicate_of_a_success_gets_its_status_and_goes_no_further() {
    let answer = Response::new(202).header("x-app", "1").body("taken");
    let upstream = Upstream::start(move |_| Behaviour::Respond(answer.clone()));
    let gateway = builder(&upstream, GUARDED).tls().start();
    for (protocol, body) in [(Protocol::Http1, "a"), (Protocol::Http2, "b")] {
        let before = upstream.count();
        let mut client = Client::connect(gateway.door(), protocol);
        assert_forwarded(&client.send(&delivery(body)), 202);
        for _ in 0..3 {
            assert_duplicate(&client.send(&delivery(body)), 202);
        }
        assert_eq!(upstream.count(), before + 1);
    }
    let lines = gateway.logs().wait_for_count(8, |line| line.is("request"));
    for (place, line) in lines.iter().enumerate() {
        let forwarded = place % 4 == 0;
        let verdict = if forwarded { "forwarded" } else { "replayed" };
        assert_eq!(line.text_field("verdict"), Some(verdict), "{line}");
        assert_eq!(line.text_field("key"), Some("new"), "{line}");
        assert_eq!(line.number_field("status"), Some(202), "{line}");
    }
    let replayed = r#"countersign_requests_total{route="hooks",outcome="replayed"}"#;
    assert_eq!(gateway.metric(replayed), 6);
    assert_eq!(gateway.metric("countersign_replay_entries"), 2);
    assert_eq!(gateway.metric("countersign_replay_store_up"), 1);
}

#[test]
fn a_retry_after_a_failure_passes_whatever_the_failure() {
    let failures = [
        Behaviour::Respond(Response::new(500)),
        Behaviour::Respond(Response::new(503)),
        Behaviour::Respond(Response::new(400)),
        Behaviour::Respond(Response::new(302)),
        Behaviour::CloseBeforeAnswer,
        Behaviour::ResetBeforeAnswer,
        Behaviour::ResetBeforeBody,
        Behaviour::RawThenClose(b"SMTP\r\n\r\n".to_vec()),
        Behaviour::RawThenHang(Vec::new()),
    ];
    let setup = Setup::new(&format!("{GUARDED}\ntimeout = \"300ms\""));
    for (place, failure) in failures.into_iter().enumerate() {
        let delivery = delivery(&place.to_string());
        setup.upstream.behave({
            let failure = failure.clone();
            move |_| failure.clone()
        });
        for _ in 0..2 {
            let answer = setup.send(&delivery);
            assert!(answer.status >= 300, "{failure:?}: {answer:?}");
            assert!(answer.status != 409, "{failure:?}: {answer:?}");
        }
        setup
            .upstream
            .behave(|_| Behaviour::Respond(Response::new(200)));
        assert_forwarded(&setup.send(&delivery), 200);
        assert_duplicate(&setup.send(&delivery), 200);
    }
    setup.upstream.refuse();
    setup.upstream.close_connections();
    let last = delivery("refused");
    assert_problem(&setup.send(&last), 502, "upstream_unreachable");
    setup.upstream.reopen();
    assert_forwarded(&setup.send(&last), 200);
    assert_duplicate(&setup.send(&last), 200);
}

#[test]
fn a_duplicate_of_a_delivery_under_way_waits_its_turn() {
    let setup = Setup::with(Upstream::start(|_| Behaviour::Stall), GUARDED);
    let mut first = setup.begin(&delivery("x"));
    setup.upstream.wait_for(1);
    let refused = setup.send(&delivery("x"));
    assert_in_flight(&refused);
    let line = setup.gateway.request_line(&request_id(&refused));
    assert_eq!(line.text_field("verdict"), Some("rejected"), "{line}");
    assert_eq!(line.text_field("reason"), Some("duplicate_in_flight"));
    assert_eq!(setup.upstream.count(), 1);
    setup.upstream.release();
    assert_forwarded(&first.answer("POST").unwrap(), 200);
    assert_duplicate(&setup.send(&delivery("x")), 200);
    assert_eq!(setup.upstream.count(), 1);
}

#[test]
fn an_answer_that_broke_off_behind_a_success_is_a_success() {
    let setup = Setup::with(
        Upstream::start(|_| Behaviour::DieMidResponse {
            declared: 100,
            sent: 10,
        }),
        GUARDED,
    );
    let mut wire = setup.begin(&delivery("x"));
    assert!(wire.answer("POST").is_err(), "it is cut");
    assert_duplicate(&setup.send(&delivery("x")), 200);
    assert_eq!(setup.upstream.count(), 1);
}

#[test]
fn a_body_on_disk_is_recognised_and_seen_through() {
    let upstream = Upstream::start(|_| Behaviour::Stall);
    let gateway = builder(&upstream, GUARDED)
        .limits("body_memory = \"1MiB\"")
        .tls()
        .start();
    let body = "x".repeat(3 << 20);
    leave_http2(&gateway, &upstream, &body);
    upstream.release();
    let end = Instant::now() + PATIENCE;
    let answer = loop {
        let answer = client::send_raw(gateway.door(), &delivery(&body));
        if answer.status != 409 {
            break answer;
        }
        assert!(Instant::now() < end, "{answer:?}");
    };
    assert_duplicate(&answer, 200);
    assert_eq!(upstream.take_only().body_len, body.len() as u64);
}

#[test]
fn a_scheme_that_looks_into_the_body_is_guarded_too() {
    let setup = Setup::new(
        r#"
        replay = "1h"
        [route.scheme]
        algorithm = "hmac-sha256"
        content = "{body|jcs}"
        id = { json = "/id" }
        signature = { header = "x-signature", encoding = "hex" }
        "#,
    );
    let tag = sign::carevalidate(SECRET, br#"{"id":1,"n":2}"#);
    let with = |body: &str| Delivery::post("/hooks", body.to_owned()).header("x-signature", &tag);
    assert_forwarded(&setup.send(&with(r#"{"id":1,"n":2}"#)), 200);
    // Signed as the same, so the same.
    for body in [r#"{"n":2,"id":1}"#, r#"{ "id": 1.0, "n": 2 }"#] {
        assert_duplicate(&setup.send(&with(body)), 200);
    }
    assert_eq!(setup.upstream.count(), 1);
}

#[test]
fn a_duplicate_is_a_conflict_where_the_route_says_so() {
    let setup = Setup::new(&format!("{GUARDED}\non_duplicate = \"conflict\""));
    assert_forwarded(&setup.send(&delivery("x")), 200);
    let refused = setup.send(&delivery("x"));
    assert_problem(&refused, 409, "duplicate");
    assert!(!refused.fields.has("retry-after"), "{refused:?}");
    let line = setup.gateway.request_line(&request_id(&refused));
    assert_eq!(line.text_field("verdict"), Some("replayed"), "{line}");
    assert_eq!(line.text_field("reason"), Some("duplicate"), "{line}");
    setup.upstream.take_only();
}

#[test]
fn only_what_verifies_reaches_the_guard() {
    let setup = Setup::new(GUARDED);
    assert_forwarded(&setup.send(&delivery("x")), 200);
    let forged = Delivery::post("/hooks", "x").signed(b"a secret of somebody else");
    assert_problem(&setup.send(&forged), 401, "not_verified");
    assert_eq!(setup.gateway.metric("countersign_replay_entries"), 1);
}

#[test]
fn the_same_body_on_another_route_is_another_delivery() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, GUARDED)
        .config(&route("other", &upstream, GUARDED))
        .config(&route("open", &upstream, "scheme = \"carevalidate\""))
        .start();
    let to = |path: &str| Delivery::post(path, "x").signed(SECRET);
    for path in ["/hooks", "/other", "/open", "/open"] {
        assert_forwarded(&client::send_raw(gateway.door(), &to(path)), 200);
    }
    for path in ["/hooks", "/other"] {
        assert_duplicate(&client::send_raw(gateway.door(), &to(path)), 200);
    }
    assert_eq!(upstream.count(), 4);
}

/// Seconds since 1970, as `date` tells them.
fn unix_now() -> String {
    let output = std::process::Command::new("date").arg("+%s").output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.trim().to_owned()
}

#[test]
fn of_several_signatures_none_can_be_left_out_to_pass_again() {
    let setup = Setup::new(
        r#"
        replay = "1h"
        [route.scheme]
        algorithm = "hmac-sha256"
        content = "{timestamp}.{body}"
        timestamp = { item = "t", tolerance = "5m" }
        signature = { header = "x-signature", encoding = "hex", list = { separator = ",", assign = "=", tag = "v1", several = true } }
        "#,
    );
    let now = unix_now();
    let tag = |secret| sign::hmac_sha256(secret, &[now.as_bytes(), b".", b"x"]);
    let (a, b) = (tag(SECRET), tag(OTHER_SECRET));
    let with =
        |tags: &str| Delivery::post("/hooks", "x").header("x-signature", format!("t={now},{tags}"));
    assert_forwarded(&setup.send(&with(&format!("v1={a},v1={b}"))), 200);
    for tags in [
        format!("v1={a}"),
        format!("v1={b}"),
        format!("v1={b},v1={a}"),
        format!("v1={a},v1={}", "0".repeat(64)),
    ] {
        assert_duplicate(&setup.send(&with(&tags)), 200);
    }
    // Signed at another time it is another delivery.
    let later = (now.parse::<u64>().unwrap() + 1).to_string();
    let tag = sign::hmac_sha256(SECRET, &[later.as_bytes(), b".", b"x"]);
    let other = Delivery::post("/hooks", "x").header("x-signature", format!("t={later},v1={tag}"));
    assert_forwarded(&setup.send(&other), 200);
    assert_eq!(setup.upstream.count(), 2);
}

/// `n - s`, where `n` is the order of P-256: the other half of a signature that verifies as well.
fn mirrored(signature: &[u8]) -> Vec<u8> {
    let order = HEXLOWER
        .decode(b"ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
        .unwrap();
    let (r, s) = signature.split_at(32);
    let mut borrow = 0;
    let mut mirrored = vec![0; 32];
    for place in (0..32).rev() {
        let difference = i32::from(order[place]) - i32::from(s[place]) - borrow;
        borrow = i32::from(difference < 0);
        mirrored[place] = difference.rem_euclid(256) as u8;
    }
    [r, &mirrored].concat()
}

/// `r` and `s` as providers write them: two numbers in DER.
fn der(signature: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let mut number = bytes[zeros..].to_vec();
        if number[0] > 0x7f {
            number.insert(0, 0);
        }
        [&[2, number.len() as u8][..], &number].concat()
    };
    let (r, s) = signature.split_at(32);
    let both = [number(r), number(s)].concat();
    [&[0x30, both.len() as u8][..], &both].concat()
}

#[test]
fn another_signature_over_the_same_content_is_no_other_delivery() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let upstream = Upstream::accepting();
    let point = pair.public_key().as_ref();
    let jwk = format!(
        r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#,
        data_encoding::BASE64URL_NOPAD.encode(&point[1..33]),
        data_encoding::BASE64URL_NOPAD.encode(&point[33..]),
    );
    let lines = r#"
        replay = "1h"
        [route.scheme]
        algorithm = "ecdsa-p256-sha256"
        signature = { header = "x-signature", encoding = "hex" }
    "#;
    let gateway = Gateway::builder()
        .file("secret", &jwk)
        .file("other", &jwk)
        .config(&route("hooks", &upstream, lines))
        .start();
    let send = |body: &str, signature: &[u8]| {
        let delivery = Delivery::post("/hooks", body.to_owned())
            .header("x-signature", HEXLOWER.encode(&der(signature)));
        client::send_raw(gateway.door(), &delivery)
    };
    let random = SystemRandom::new();
    let sign = |body: &str| pair.sign(&random, body.as_bytes()).unwrap();
    let signature = sign("x");
    assert_forwarded(&send("x", signature.as_ref()), 200);
    assert_duplicate(&send("x", signature.as_ref()), 200);
    assert_duplicate(&send("x", &mirrored(signature.as_ref())), 200);
    assert_duplicate(&send("x", sign("x").as_ref()), 200);
    assert_forwarded(&send("y", sign("y").as_ref()), 200);
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_signed_delivery_id_is_what_counts() {
    let setup = Setup::new(
        r#"
        replay = "1h"
        [route.scheme]
        algorithm = "hmac-sha256"
        content = "{body}"
        id = { json = "/id" }
        signature = { header = "x-signature", encoding = "hex" }
        "#,
    );
    let with = |body: &str| {
        Delivery::post("/hooks", body.to_owned())
            .header("x-signature", sign::carevalidate(SECRET, body.as_bytes()))
    };
    assert_forwarded(&setup.send(&with(r#"{"id":"evt_1","attempt":1}"#)), 200);
    assert_duplicate(&setup.send(&with(r#"{"attempt":2, "id":"evt_1"}"#)), 200);
    assert_forwarded(&setup.send(&with(r#"{"id":"evt_2","attempt":1}"#)), 200);
    // Without an id, and where the body is no JSON, the tag tells.
    for body in [r#"{"attempt":1}"#, "not JSON"] {
        assert_forwarded(&setup.send(&with(body)), 200);
        assert_duplicate(&setup.send(&with(body)), 200);
    }
    assert_eq!(setup.upstream.count(), 4);
}

/// Sends over HTTP/2, and resets the stream once the upstream has the request.
fn leave_http2(gateway: &Gateway, upstream: &Upstream, body: &str) {
    let mut client = Client::connect(gateway.door(), Protocol::Http2);
    let delivery = delivery(body);
    let asking = runtime().spawn(async move { client.deliver(&delivery).await.map(drop) });
    upstream.wait_for(1);
    asking.abort();
}

#[test]
fn a_delivery_whose_sender_left_is_seen_through() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let upstream = Upstream::start(|_| Behaviour::Stall);
        let gateway = builder(&upstream, GUARDED).tls().start();
        let send =
            |body: &str| Client::connect(gateway.door(), Protocol::Http1).send(&delivery(body));
        match protocol {
            Protocol::Http1 => {
                let mut wire = client::raw(gateway.door());
                wire.send(&delivery("accepted").raw()).unwrap();
                upstream.wait_for(1);
                wire.socket().reset_on_close();
            }
            Protocol::Http2 => leave_http2(&gateway, &upstream, "accepted"),
        }
        if protocol == Protocol::Http2 {
            // On HTTP/1.1 it shows only when the answer cannot be written.
            let left = gateway.logs().wait_for(|line| line.is("request")).unwrap();
            assert_eq!(left.text_field("reason"), Some("sender_left"), "{left}");
        }
        // While the upstream works nobody else may deliver it.
        assert_in_flight(&send("accepted"));
        upstream.release();
        let end = Instant::now() + PATIENCE;
        let answer = loop {
            let answer = send("accepted");
            if answer.status != 409 {
                break answer;
            }
            assert!(Instant::now() < end, "{answer:?}");
        };
        assert_duplicate(&answer, 200);
        assert_eq!(upstream.count(), 1, "{protocol:?}");
    }
}

#[test]
fn what_the_upstream_refuses_after_its_sender_left_passes_when_it_comes_again() {
    let upstream = Upstream::start(|_| Behaviour::RawThenHang(Vec::new()));
    let lines = format!("{GUARDED}\ntimeout = \"1s\"");
    let gateway = builder(&upstream, &lines).tls().start();
    let setup = Setup { gateway, upstream };
    leave_http2(&setup.gateway, &setup.upstream, "x");
    setup
        .upstream
        .behave(|_| Behaviour::Respond(Response::new(200)));
    setup.send_until_forwarded(&delivery("x"));
    assert_duplicate(&setup.send(&delivery("x")), 200);
}

#[test]
fn a_window_ends() {
    let setup = Setup::new("scheme = \"carevalidate\"\nreplay = \"500ms\"");
    assert_forwarded(&setup.send(&delivery("x")), 200);
    setup.send_until_forwarded(&delivery("x"));
    assert_eq!(setup.upstream.count(), 2);
}

#[test]
fn a_full_store_gives_up_the_oldest_success_but_no_delivery_under_way() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, GUARDED)
        .config("[replay]\nentries = 2")
        .start();
    let setup = Setup { gateway, upstream };
    for body in ["a", "b", "c"] {
        assert_forwarded(&setup.send(&delivery(body)), 200);
    }
    for body in ["b", "c"] {
        assert_duplicate(&setup.send(&delivery(body)), 200);
    }
    let metric = |name: &str| setup.gateway.metric(&format!("countersign_replay_{name}"));
    assert_eq!((metric("entries"), metric("evictions_total")), (2, 1));
    setup.upstream.behave(|_| Behaviour::Stall);
    let under_way: Vec<_> = ["d", "e"]
        .into_iter()
        .map(|body| setup.begin(&delivery(body)))
        .collect();
    setup.upstream.wait_for(5);
    let refused = setup.send(&delivery("f"));
    assert_problem(&refused, 503, "try_later");
    assert_eq!(refused.fields.one("retry-after"), "5");
    let line = setup.gateway.request_line(&request_id(&refused));
    assert_eq!(
        line.text_field("reason"),
        Some("replay_store_full"),
        "{line}"
    );
    assert_eq!(line.text_field("verdict"), Some("unavailable"), "{line}");
    setup.upstream.release();
    for mut wire in under_way {
        assert_forwarded(&wire.answer("POST").unwrap(), 200);
    }
}

#[test]
fn a_signed_handshake_that_the_upstream_answers_is_asked_each_time() {
    let setup = Setup::new(
        r#"
        replay = "1h"
        handshake = "forward"
        [route.scheme]
        algorithm = "hmac-sha256"
        signature = { header = "x-signature", encoding = "hex" }
        [[route.scheme.handshake]]
        kind = "ping"
        signed = true
        when = { "json:/type" = "ping" }
        "#,
    );
    let body = r#"{"type":"ping"}"#;
    let signed = |body: &str| {
        Delivery::post("/hooks", body.to_owned())
            .header("x-signature", sign::carevalidate(SECRET, body.as_bytes()))
    };
    for _ in 0..3 {
        assert_forwarded(&setup.send(&signed(body)), 200);
    }
    let delivery = signed(r#"{"type":"event"}"#);
    assert_forwarded(&setup.send(&delivery), 200);
    assert_duplicate(&setup.send(&delivery), 200);
    assert_eq!(setup.upstream.count(), 4);
}

#[test]
fn a_stopping_process_waits_for_deliveries_whose_senders_left() {
    let upstream = Upstream::start(|_| Behaviour::Stall);
    let mut gateway = builder(&upstream, GUARDED).tls().start();
    leave_http2(&gateway, &upstream, "x");
    assert!(gateway.logs().wait_for(|line| line.is("request")).is_some());
    gateway.terminate();
    assert!(
        gateway
            .logs()
            .wait_for(|line| line.is("draining deliveries whose senders have left"))
            .is_some()
    );
    assert!(!gateway.logs().lines().iter().any(|line| line.is("stopped")));
    upstream.release();
    assert!(gateway.wait_exit().success());
    assert!(gateway.logs().wait_for(|line| line.is("stopped")).is_some());
    assert_eq!(upstream.faults(), Vec::<String>::new());
}
