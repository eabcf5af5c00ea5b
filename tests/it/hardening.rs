//! Hostile input that does not fit under one limit: framing that reads two ways, floods of frames, and what may never be shown.

use std::{
    fmt::Write as _,
    net::Shutdown,
    time::{Duration, Instant},
};

use crate::support::{
    client::{self, Client, Protocol},
    delivery::Delivery,
    floods::{Flood, Kind},
    frames::{self, Frames},
    gateway::{Builder, Gateway, assert_not_verified},
    sign,
    upstream::{Behaviour, Upstream},
    wire::Framing,
};

const SECRET: &[u8] = b"a secret of these tests";

fn builder(upstream: &Upstream) -> Builder {
    Gateway::builder().route("hooks", "/hooks", SECRET, &upstream.url(), "")
}

fn genuine() -> Delivery {
    Delivery::post("/hooks", "{\"a\": 1}").signed(SECRET)
}

/// Sends bytes, and returns the statuses of all answers until the connection ends.
fn statuses(gateway: &Gateway, bytes: &str) -> Vec<u16> {
    let mut wire = client::raw(gateway.door());
    wire.send(bytes.as_bytes()).unwrap();
    wire.socket().shutdown(Shutdown::Write);
    std::iter::from_fn(|| wire.answer("POST").ok())
        .map(|answer| answer.status)
        .collect()
}

#[test]
fn a_length_beside_a_coding_makes_one_request_and_ends_the_connection() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).start();
    let tag = sign::carevalidate(SECRET, b"abc");
    // A reader of the length sees another request where a reader of the coding sees the body.
    let smuggled = format!(
        "POST /hooks HTTP/1.1\r\nHost: b.example\r\nx-cv-signature: {}\r\nContent-Length: 0\r\n\r\n",
        sign::carevalidate(SECRET, b"")
    );
    for framing in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 13\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let answers = statuses(
            &gateway,
            &format!(
                "POST /hooks HTTP/1.1\r\nHost: a.example\r\nx-cv-signature: {tag}\r\n{framing}\r\n3\r\nabc\r\n0\r\n\r\n{smuggled}"
            ),
        );
        assert!(
            answers == [200] || answers == [400],
            "{framing}: {answers:?}"
        );
        if answers == [200] {
            let seen = upstream.take_only();
            assert_eq!(seen.body.as_deref(), Some(&b"abc"[..]));
            assert_eq!(seen.fields.one("content-length"), "3");
            assert!(!seen.fields.has("transfer-encoding"), "{}", seen.fields);
            assert_eq!(seen.fields.one("host"), "a.example");
        }
    }
    assert_eq!(upstream.faults(), Vec::<String>::new());
}

#[test]
fn lax_spellings_are_harmless_once_written_anew() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).start();
    let tag = sign::carevalidate(SECRET, b"abc");
    let head = format!("POST /hooks HTTP/1.1\r\nHost: a.example\r\nx-cv-signature: {tag}\r\n");
    for (case, request) in [
        (
            "bare LF",
            format!("{head}Content-Length: 3\r\n\r\nabc").replace("\r\n", "\n"),
        ),
        (
            "doubled length",
            format!("{head}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        ),
        (
            "blanks after a chunk size",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n3  \r\nabc\r\n0\r\n\r\n"),
        ),
        (
            "chunk extension",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\n\r\n"),
        ),
        (
            "trailer",
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nCountersign-Verified: x\r\nx-late: 1\r\n\r\n"
            ),
        ),
        (
            "zeros before a chunk size",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n0003\r\nabc\r\n000\r\n\r\n"),
        ),
        (
            "capitals",
            format!("{head}Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        ),
        (
            "empty lines first",
            format!("\r\n\r\n{head}Content-Length: 3\r\n\r\nabc"),
        ),
        (
            "fragment",
            format!("{head}Content-Length: 3\r\n\r\nabc").replace("/hooks", "/hooks#x"),
        ),
    ] {
        let answers = statuses(&gateway, &request);
        assert!(answers == [200] || answers == [400], "{case}: {answers:?}");
        if answers == [200] {
            // The upstream reads strictly: CRLF, one length, no blanks.
            let seen = upstream.take_only();
            assert_eq!(seen.body.as_deref(), Some(&b"abc"[..]), "{case}");
            assert_eq!(seen.fields.one("content-length"), "3", "{case}");
            assert_eq!(seen.target, "/hooks", "{case}");
            assert!(
                seen.trailers.0.is_empty() && !seen.fields.has("x-late"),
                "{case}"
            );
            assert_eq!(seen.fields.all("countersign-verified").len(), 1, "{case}");
        }
    }
    assert_eq!(upstream.faults(), Vec::<String>::new());
}

#[test]
fn broken_chunks_reach_nobody() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).start();
    let tag = sign::carevalidate(SECRET, b"abc");
    for chunks in [
        "3\r\nabcd\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffff3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabc",
        "3\r\nabc\r\n",
        "3\r\nabc\r\n0\r\n",
        "\r\nabc\r\n0\r\n\r\n",
    ] {
        let answers = statuses(
            &gateway,
            &format!(
                "POST /hooks HTTP/1.1\r\nHost: a.example\r\nx-cv-signature: {tag}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
            ),
        );
        assert!(
            answers.is_empty() || answers == [400],
            "{chunks:?}: {answers:?}"
        );
    }
    upstream.assert_untouched();
}

/// How the gateway ends a connection that floods it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// By a count: GOAWAY with ENHANCE_YOUR_CALM.
    Counted,
    /// By this one of the clocks, the others being slow.
    InTime(&'static str),
}

/// No request comes, however many frames do.
const WITHOUT_REQUEST: Ends = Ends::InTime("head_timeout = \"1s\"\nidle_timeout = \"60s\"");
/// Nothing is read of what the gateway has to answer.
const UNREAD: Ends = Ends::InTime("head_timeout = \"60s\"\nidle_timeout = \"1s\"");

/// What the clocks above are set to.
const FLOOD_TIME: Duration = Duration::from_secs(1);
/// Time in which the connection may close in order, and patience with a busy machine.
const FLOOD_TIME_MOST: Duration = Duration::from_secs(8);

/// Floods one connection until the gateway ends it; others are served meanwhile.
fn flood(kind: Kind, ends: Ends) {
    let upstream = Upstream::accepting();
    let builder = builder(&upstream);
    let gateway = match ends {
        Ends::Counted => builder.start(),
        Ends::InTime(limits) => builder.limits(limits).start(),
    };
    let serve_others = || {
        let answer = client::send_raw(gateway.door(), &genuine());
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    serve_others();
    let mut http2 = Frames::open(gateway.door(), &[]);
    let flood = Flood::new(kind);
    if let Some(frame) = flood.opening() {
        http2.send(&frame).unwrap();
    }
    let began = Instant::now();
    let (mut waves, mut sent, mut served) = (0, 0, 0);
    loop {
        let wave = flood.wave(waves);
        if http2.send_all(&wave).is_err() {
            break;
        }
        waves += 1;
        sent += wave.len();
        if sent / 1000 > served {
            served = sent / 1000;
            serve_others();
            assert!(began.elapsed() < FLOOD_TIME_MOST, "it goes on");
        }
    }
    let took = began.elapsed();
    println!("ended after {sent} and {took:?}");
    match ends {
        Ends::InTime(_) => assert!(took > FLOOD_TIME / 2, "{took:?}"),
        Ends::Counted => {
            let rest = http2.rest();
            let goodbye = rest.iter().find(|frame| frame.kind == frames::GOAWAY);
            let goodbye = goodbye.map(|frame| frame.payload[4..8].to_vec());
            assert_eq!(goodbye, Some(vec![0, 0, 0, 11]), "{rest:?}");
        }
    }
    drop(http2);
    serve_others();
    gateway.wait_for_connections(0);
    let peak = gateway.peak_rss_kib();
    assert!(peak < 64 << 10, "{peak} KiB");
    assert!(upstream.seen().iter().all(|seen| seen.body_len > 0));
}

#[test]
fn a_flood_of_resets_is_survived() {
    flood(Kind::Resets, Ends::Counted);
}

#[test]
fn a_flood_of_header_frames_is_survived() {
    flood(Kind::HeaderFrames, Ends::Counted);
}

/// Counted by h2; this watches that it stays so.
#[test]
fn a_flood_of_empty_header_frames_is_survived() {
    flood(Kind::EmptyHeaderFrames, Ends::Counted);
}

#[test]
fn a_flood_of_settings_is_survived() {
    flood(Kind::Settings, UNREAD);
}

#[test]
fn a_flood_of_pings_is_survived() {
    flood(Kind::Pings, UNREAD);
}

/// Guarded by h2, without a limit that we could set; this watches that it stays so.
#[test]
fn a_flood_of_empty_data_frames_is_survived() {
    flood(Kind::EmptyData, Ends::Counted);
}

#[test]
fn a_flood_of_window_updates_is_survived() {
    flood(Kind::WindowUpdates, WITHOUT_REQUEST);
}

#[test]
fn no_secret_body_tag_or_query_is_ever_shown() {
    const KEY: &str = "SHOWN-secret-0123456789";
    const BODY: &str = "SHOWN-body";
    const QUERY: &str = "SHOWN-query";
    const FIELD: &str = "SHOWN-field";
    const TOKEN: &str = "SHOWN-token-9876543210";
    let upstream = Upstream::start(|head| match head.start.contains("broken") {
        true => Behaviour::Raw(format!("{BODY} no HTTP {QUERY}\r\n\r\n").into_bytes()),
        false => Behaviour::Echo,
    });
    let gateway = Gateway::builder()
        .route("hooks", "/hooks/*", KEY, &upstream.url(), "body = \"4KiB\"")
        .route("gone", "/gone", KEY, "http://127.0.0.1:1", "")
        .route("short", "/short", "", &upstream.url(), "")
        .file("secrets/token", TOKEN)
        .config(&format!(
            r#"
                [[route]]
                name = "token"
                path = "/token"
                secrets = [{{ id = "test", file = "$DIR/secrets/token" }}]
                upstream = "{}"
                scheme = {{ algorithm = "token", signature = {{ header = "x-token" }} }}
                [log]
                level = "debug"
                "#,
            upstream.url()
        ))
        .env("RUST_LOG", "trace")
        .start();
    let body = format!("{{\"note\": \"{BODY}\"}}");
    let right = sign::carevalidate(KEY.as_bytes(), body.as_bytes());
    let presented = "abcdef0123456789".repeat(4);
    let post = |path: &str| {
        Delivery::post(&format!("{path}?token={QUERY}"), body.clone()).header("x-note", FIELD)
    };
    let mut sent = 0;
    for delivery in [
        post("/hooks/a").header("x-cv-signature", &right),
        post("/hooks/a").header("x-cv-signature", &presented),
        post("/hooks/a").header("x-cv-signature", format!("{presented}zz")),
        post("/hooks/a")
            .header("x-cv-signature", &right)
            .header("x-cv-signature", &right),
        post("/hooks/a"),
        post("/hooks/broken").header("x-cv-signature", &right),
        post("/gone").header("x-cv-signature", &right),
        post("/short").header("x-cv-signature", &right),
        post("/nowhere").header("x-cv-signature", &right),
        post("/token").header("x-token", TOKEN),
        post("/token").header("x-token", format!("{TOKEN}x")),
        post("/hooks/a").method("PUT"),
        post("/hooks/a").host(&format!("{FIELD}@a")),
        post("/hooks/a").header("x-long", FIELD.repeat(5000)),
        Delivery::post("/hooks/a", BODY.repeat(1000)).header("x-cv-signature", &presented),
    ] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let delivery = delivery.clone();
            if protocol == Protocol::Http2 && delivery.host.contains('@') {
                continue;
            }
            let mut client = Client::connect(gateway.door(), protocol);
            let _ = client.send(&delivery);
            sent += 1;
        }
    }
    for raw in [
        format!("POST /hooks/a?{QUERY} HTTP/1.1\r\nHost: a\r\n{FIELD} : x\r\n\r\n"),
        format!("{BODY} {QUERY}\r\n\r\n"),
        format!(
            "POST /hooks/a HTTP/1.1\r\nHost: a\r\nx-cv-signature: {right}\r\nTransfer-Encoding: chunked\r\n\r\n{BODY}\r\n"
        ),
        format!(
            "POST /hooks/a HTTP/1.1\r\nHost: a\r\nx-cv-signature: {right}\r\nContent-Length: 100\r\n\r\n{BODY}"
        ),
    ] {
        let mut wire = client::raw(gateway.door());
        let _ = wire.send(raw.as_bytes());
        wire.socket().shutdown(Shutdown::Write);
        let _ = wire.body(Framing::UntilClose, &mut |_| {});
    }
    gateway
        .logs()
        .wait_for_count(sent, |line| line.is("request"));
    let mut shown = gateway.logs().text();
    shown.push_str(&gateway.metrics());
    shown.push_str(&String::from_utf8_lossy(
        &gateway.admin("/readyz?verbose").body,
    ));
    let _ = write!(shown, "{:?}", gateway.admin("/livez"));
    for (what, mark) in [
        ("secret", KEY),
        ("body", BODY),
        ("query", QUERY),
        ("header value", FIELD),
        ("token", TOKEN),
        ("computed tag", &right),
        ("presented tag", &presented),
        ("part of the computed tag", &right[..16]),
        ("part of the presented tag", &presented[..16]),
    ] {
        let line = shown.lines().find(|line| line.contains(mark));
        assert_eq!(line, None, "{what}");
    }
    assert!(shown.contains("mismatch"), "{shown}");
    assert_not_verified(&client::send_raw(gateway.door(), &post("/hooks/a")));
}
