//! Observe mode: for a time that the operator wrote down, what does not verify is forwarded too, and never with the mark.

use std::time::Duration;

use countersign::clock::{Clock as _, SystemClock, UnixTime};

use crate::support::{
    client::{self, Client, Protocol},
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_not_verified, assert_problem, request_id},
    inside::Inside,
    recorder::Seen,
    sign,
    upstream::{Behaviour, Response, Upstream},
};

const SECRET: &[u8] = b"a secret of these tests";
const BODY: &str = "{\"a\": 1}";

fn from_now(days: u64) -> UnixTime {
    let now = SystemClock.now().secs();
    UnixTime::from_secs(now + i64::try_from(days).unwrap() * 86_400)
}

/// Keys of a route that observes for ten days.
fn observing() -> String {
    format!("mode = \"observe\"\nobserve_until = \"{}\"", from_now(10))
}

fn builder(upstream: &Upstream, lines: &str) -> Builder {
    Gateway::builder().route("hooks", "/hooks", SECRET, &upstream.url(), lines)
}

fn post() -> Delivery {
    Delivery::post("/hooks", BODY)
}

fn genuine() -> Delivery {
    post().signed(SECRET)
}

fn checks(gateway: &Gateway, result: &str, reason: &str) -> u64 {
    gateway.metric(&format!(
        "countersign_verifications_total{{route=\"hooks\",scheme=\"carevalidate\",result=\"{result}\",reason=\"{reason}\"}}"
    ))
}

fn outcomes(gateway: &Gateway, outcome: &str) -> u64 {
    gateway.metric(&format!(
        "countersign_requests_total{{route=\"hooks\",outcome=\"{outcome}\"}}"
    ))
}

fn assert_unmarked(seen: &Seen) {
    for name in ["countersign-verified", "countersign_verified"] {
        assert!(!seen.fields.has(name), "{}", seen.fields);
    }
}

#[test]
fn what_does_not_verify_is_forwarded_without_the_mark_and_counted_by_reason() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, &observing()).start();
    let right = sign::carevalidate(SECRET, BODY.as_bytes());
    for (reason, delivery) in [
        ("signature_missing", post()),
        (
            "signature_repeated",
            genuine().header("x-cv-signature", &right),
        ),
        (
            "signature_malformed",
            post().header("x-cv-signature", format!("sha256={right}")),
        ),
        ("signature_mismatch", post().signed(b"another secret")),
    ] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let forged = delivery
                .clone()
                .header("countersign-verified", "forged")
                .header("countersign_verified", "forged");
            let answer = Client::connect(gateway.door(), protocol).send(&forged);
            assert_eq!(answer.status, 200, "{reason}");
            let seen = upstream.take_only();
            assert_unmarked(&seen);
            assert_eq!(seen.body.as_deref(), Some(BODY.as_bytes()));
            let line = gateway.request_line(seen.fields.one("countersign-request-id"));
            assert_eq!(line.text_field("verdict"), Some("observed"), "{line}");
            assert_eq!(line.text_field("reason"), Some(reason), "{line}");
            assert!(!line.text_field("detail").unwrap_or_default().is_empty());
            assert_eq!(line.text_field("key"), None, "{line}");
        }
        assert_eq!(checks(&gateway, "observed", reason), 2);
        assert_eq!(checks(&gateway, "rejected", reason), 0);
    }
    assert_eq!(outcomes(&gateway, "observed"), 8);
    assert_eq!(checks(&gateway, "verified", ""), 0);
    // What verifies is marked as ever.
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    let seen = upstream.take_only();
    assert!(seen.fields.has("countersign-verified"), "{}", seen.fields);
    assert_eq!(checks(&gateway, "verified", ""), 1);
    assert_eq!(outcomes(&gateway, "forwarded"), 1);
    // A route beside it observes nothing.
    let shown = gateway.admin("/readyz?verbose");
    assert_eq!(shown.status, 200);
    let shown = String::from_utf8(shown.body).unwrap();
    assert!(
        shown.contains("[!] route hooks: only observes until 20"),
        "{shown}"
    );
    let route = gateway.logs().wait_for(|line| line.is("route")).unwrap();
    assert_eq!(route.text_field("state"), Some("observing"), "{route}");
}

#[test]
fn a_route_that_does_not_observe_refuses_beside_one_that_does() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, &observing())
        .route("strict", "/strict", SECRET, &upstream.url(), "")
        .start();
    let unsigned = Delivery::post("/strict", BODY);
    assert_not_verified(&client::send_raw(gateway.door(), &unsigned));
    let forged = unsigned.signed(b"another secret");
    assert_not_verified(&client::send_raw(gateway.door(), &forged));
    upstream.assert_untouched();
}

#[test]
fn every_other_limit_holds() {
    let upstream = Upstream::accepting();
    let lines = format!(
        "{}\nbody = \"1KiB\"\nsender_rate = \"1/h\"\nsender_burst = 4",
        observing()
    );
    let gateway = builder(&upstream, &lines).start();
    let send = |delivery: &Delivery| client::send_raw(gateway.door(), delivery);
    assert_problem(&send(&post().method("PUT")), 405, "method_not_allowed");
    let large = Delivery::post("/hooks", vec![b'x'; 1025]);
    assert_problem(&send(&large), 413, "body_too_large");
    assert_problem(&send(&large.clone().chunked()), 413, "body_too_large");
    let raw = b"POST /hooks HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n";
    let mut wire = client::raw(gateway.door());
    wire.send(raw).unwrap();
    assert_problem(&wire.answer("POST").unwrap(), 400, "malformed");
    assert_eq!(send(&post()).status, 200);
    assert_eq!(send(&post()).status, 200);
    assert_problem(&send(&post()), 429, "too_many_requests");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_route_without_a_secret_stays_closed() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, &observing())
        .file("secrets/hooks", "")
        .start();
    let answer = client::send_raw(gateway.door(), &post());
    assert_problem(&answer, 503, "unavailable");
    upstream.assert_untouched();
}

#[test]
fn an_upstream_that_fails_is_told_as_ever_and_the_check_counted_all_the_same() {
    let upstream = Upstream::start(|_| Behaviour::CloseBeforeAnswer);
    let gateway = builder(&upstream, &observing()).start();
    let answer = client::send_raw(gateway.door(), &post());
    assert_problem(&answer, 502, "upstream_broken");
    let line = gateway.request_line(&request_id(&answer));
    assert_eq!(line.text_field("verdict"), Some("upstream_error"), "{line}");
    assert_eq!(line.text_field("reason"), Some("upstream_broken"), "{line}");
    assert_eq!(checks(&gateway, "observed", "signature_missing"), 1);
    // The application's own answer, whatever it is, goes back.
    upstream.behave(|_| Behaviour::Respond(Response::new(422)));
    assert_eq!(client::send_raw(gateway.door(), &post()).status, 422);
    assert_eq!(outcomes(&gateway, "observed"), 1);
}

#[test]
fn after_the_date_the_route_refuses_by_itself() {
    let upstream = Upstream::accepting();
    let until = from_now(10);
    let config = format!(
        "{}[[route]]\nname = \"hooks\"\npath = \"/hooks\"\nscheme = \"carevalidate\"\n\
         secrets = [{{ id = \"test\", file = \"$DIR/secret\" }}]\nupstream = \"{}\"\n{}\n",
        Inside::server(false, ""),
        upstream.url(),
        format_args!("mode = \"observe\"\nobserve_until = \"{until}\"")
    );
    let gateway = Inside::start(&config, false, &[("secret".into(), SECRET.into())]);
    let send = || client::send_raw(gateway.door(), &post());
    gateway.set_clock(until.secs() - 1);
    assert_eq!(send().status, 200);
    assert_unmarked(&upstream.take_only());
    for over in [Duration::ZERO, Duration::from_secs(86_400)] {
        gateway.set_clock(until.secs() + i64::try_from(over.as_secs()).unwrap());
        assert_not_verified(&send());
        assert_eq!(upstream.count(), 0);
    }
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
}

#[test]
fn a_handshake_is_answered_as_ever_and_all_else_is_forwarded() {
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .file("secret", "monday-secret")
        .config(&format!(
            "[[route]]\nname = \"hooks\"\npath = \"/hooks\"\nscheme = \"monday\"\n\
             secrets = [{{ id = \"test\", file = \"$DIR/secret\" }}]\nupstream = \"{}\"\n{}",
            upstream.url(),
            observing()
        ))
        .start();
    let send =
        |body: &str| client::send_raw(gateway.door(), &Delivery::post("/hooks", body.to_owned()));
    let answer = send(r#"{"challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}"#);
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.body,
        br#"{"challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}"#
    );
    upstream.assert_untouched();
    let event = r#"{"event":{"type":"create_item"}}"#;
    assert_eq!(send(event).status, 200);
    let seen = upstream.take_only();
    assert_unmarked(&seen);
    assert_eq!(seen.body.as_deref(), Some(event.as_bytes()));
}
