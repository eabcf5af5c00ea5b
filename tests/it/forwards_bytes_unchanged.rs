//! What goes through the gateway goes through as it was: heads, targets, bodies, and the answers back.

use crate::support::{
    client::{self, Client, Protocol},
    delivery::{Cuts, Delivery},
    gateway::Gateway,
    http2::Http2Upstream,
    recorder::Seen,
    sign, tls,
    upstream::{Behaviour, Response, Upstream},
    wire::{Address, Answer, Fields},
};

const SECRET: &[u8] = b"forwarding-secret";

/// What the gateway may add to a head; everything else must have come from the sender.
const ADDED: &[&str] = &[
    "countersign-verified",
    "countersign-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
    "via",
    "content-length",
];

/// A gateway whose only route takes `/hooks/*`; `server` are lines of `[server]`.
fn gateway(upstream: &str, server: &str) -> Gateway {
    Gateway::builder()
        .server(server)
        .route("hooks", "/hooks/*", SECRET, upstream, "")
        .start()
}

fn delivery() -> Delivery {
    Delivery::post("/hooks/a", "{\"a\": 1}").signed(SECRET)
}

/// Sends a request as HTTP/1.1 bytes and returns what the upstream saw of it.
fn forwarded(gateway: &Gateway, upstream: &Upstream, delivery: &Delivery) -> Seen {
    let answer = client::send_raw(gateway.door(), delivery);
    assert_eq!(answer.status, 200, "{answer:?}");
    upstream.take_only()
}

/// The fields that the sender sent, in its spelling.
fn from_sender(seen: &Seen) -> Fields {
    let added = |name: &str| ADDED.iter().any(|added| name.eq_ignore_ascii_case(added));
    Fields(
        seen.fields
            .0
            .iter()
            .filter(|(name, _)| !added(name))
            .cloned()
            .collect(),
    )
}

/// Checks that two heads hold the same fields: spelling and value of each, and the order among those of one name.
fn assert_same_fields(got: &Fields, wanted: &Fields) {
    let sorted = |fields: &Fields| {
        let mut fields = fields.0.clone();
        fields.sort_by_key(|(name, _)| name.to_lowercase());
        Fields(fields)
    };
    let (got, wanted) = (sorted(got), sorted(wanted));
    assert!(got == wanted, "got: {got}\nwanted: {wanted}");
}

fn with_host(delivery: &Delivery) -> Fields {
    let mut fields = delivery.fields.clone();
    fields.push("Host", delivery.host.as_bytes());
    fields
}

#[test]
fn header_names_keep_their_spelling_and_repeats_their_order() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    let delivery = delivery()
        .header("Content-Type", "application/json; charset=UTF-8")
        .header("X-Repeat", "first")
        .header("USER-AGENT", "Sender/1.0 (+https://example.com)")
        .header("x-rEPEAT", "second")
        .header("x-lower", "1")
        .header("X-Repeat", "third, with a comma")
        .header("X_Under_Score", "kept")
        .header("x.dot!#$%&'*+^`|~", "every sign that a name may hold")
        .header("ETag", "\"quoted\"")
        .header("Accept-Encoding", "gzip, br")
        .header("Authorization", "Basic dXNlcjpwYXNz")
        .header("Cookie", "a=1; b=2")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .header("Date", "Mon, 23 Nov 2026 00:00:00 GMT")
        .header("Content-Encoding", "identity");

    let seen = forwarded(&gateway, &upstream, &delivery);

    assert_same_fields(&from_sender(&seen), &with_host(&delivery));
}

#[test]
fn header_values_keep_their_bytes() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    let every_byte: Vec<u8> = (0x21..=0x7e).chain(0x80..=0xff).collect();
    let delivery = delivery()
        .header("X-Bytes", every_byte)
        .header("X-Latin", b"Caf\xe9")
        .header("X-Blanks", "a  b\tc")
        .header("X-Empty", "")
        .header("X-Long", "y".repeat(8000));

    let seen = forwarded(&gateway, &upstream, &delivery);

    assert_same_fields(&from_sender(&seen), &with_host(&delivery));
}

#[test]
fn targets_keep_their_bytes() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    for target in [
        "/hooks/a?b=2&a=%7e&&c",
        "/hooks/a?",
        "/hooks/a?a=b?c=/../d;e",
        "/hooks/%7Euser/%e2%82%ac",
        "/hooks/A/b/",
        "/hooks/a//b",
        "/hooks/a?q=%2F%2e%00&r=+",
        "/hooks/@:!$&'()*+,=-._~",
        "/hooks/a?http://other.example/x",
    ] {
        let delivery = Delivery::post(target, "x").signed(SECRET);
        assert_eq!(forwarded(&gateway, &upstream, &delivery).target, target);
        let mut http2 = Client::connect(gateway.door(), Protocol::Http2);
        let answer = http2.send(&delivery);
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        assert_eq!(upstream.take_only().target, target);
    }
}

#[test]
fn host_is_kept_as_written() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    for host in [
        "Hooks.Example.ORG:8443",
        "127.0.0.1",
        "[::1]:80",
        "localhost",
    ] {
        let delivery = delivery().host(host);
        let seen = forwarded(&gateway, &upstream, &delivery);
        assert_eq!(seen.fields.one("host"), host);
        let mut http2 = Client::connect(gateway.door(), Protocol::Http2);
        assert_eq!(http2.send(&delivery).status, 200, "{host}");
        assert_eq!(upstream.take_only().fields.one("host"), host);
    }
}

#[test]
fn mark_and_request_id_are_added_once() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let answer = Client::connect(gateway.door(), protocol).send(&delivery());
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = upstream.take_only();
        let mark = seen.fields.one("countersign-verified");
        assert!(
            mark.starts_with("carevalidate;route=\"hooks\";key=\"test\";t=1"),
            "{mark}"
        );
        let id = seen.fields.one("countersign-request-id");
        let parsed = uuid::Uuid::parse_str(id).unwrap();
        assert_eq!(parsed.get_version_num(), 7);

        let line = gateway.request_line(id);
        assert_eq!(line.text_field("route"), Some("hooks"));
        assert_eq!(line.text_field("key"), Some("test"));
        assert_eq!(line.number_field("status"), Some(200));
    }
}

#[test]
fn spoofed_names_are_removed_in_every_spelling() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    for name in [
        "Countersign-Verified",
        "countersign-verified",
        "COUNTERSIGN-Verified",
        "countersign_verified",
        "Countersign_Verified",
        "COUNTERSIGN_VERIFIED",
        "Countersign.Verified",
        "countersign~verified",
        "Countersign-Request-Id",
        "countersign_request_id",
        "Countersign-Receipt",
        "Countersign_Receipt",
        "Countersign-Anything-Else",
        "countersign.anything_else",
        "X_Forwarded_For",
        "X_Forwarded_Proto",
        "X_Forwarded_Host",
        "X.Forwarded.For",
        "x_forwarded-for",
        "Content_Length",
        "CONTENT_LENGTH",
        "Transfer_Encoding",
    ] {
        let delivery = delivery()
            .header(name, "spoofed-1")
            .header("X-Between", "kept")
            .header(name, "spoofed-2");
        let seen = forwarded(&gateway, &upstream, &delivery);
        let head = String::from_utf8_lossy(&seen.raw_head).into_owned();
        assert!(!head.contains("spoofed"), "{name}: {head}");
        assert_eq!(seen.fields.one("x-between"), "kept");
        assert!(
            seen.fields
                .one("countersign-verified")
                .starts_with("carevalidate;")
        );
        assert_eq!(seen.fields.all("content-length").len(), 1);
    }
}

#[test]
fn spoofed_names_are_removed_on_http2() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    let mut client = Client::connect(gateway.door(), Protocol::Http2);
    let delivery = delivery()
        .header("countersign-verified", "spoofed")
        .header("countersign_verified", "spoofed")
        .header("countersign.verified", "spoofed")
        .header("x_forwarded_for", "spoofed")
        .header("content_length", "spoofed");
    assert_eq!(client.send(&delivery).status, 200);
    let seen = upstream.take_only();
    assert!(
        !seen.fields.to_string().contains("spoofed"),
        "{}",
        seen.fields
    );
}

#[test]
fn renamed_mark_is_guarded_like_the_first() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "mark = \"X-Webhook-Verified\"");
    for name in [
        "x-webhook-verified",
        "X_Webhook_Verified",
        "X.Webhook-Verified",
    ] {
        let delivery = delivery()
            .header(name, "spoofed")
            .header("Countersign-Verified", "spoofed");
        let seen = forwarded(&gateway, &upstream, &delivery);
        assert!(
            !seen.fields.to_string().contains("spoofed"),
            "{}",
            seen.fields
        );
        let mark = seen.fields.one("x-webhook-verified");
        assert!(mark.starts_with("carevalidate;"), "{mark}");
    }
}

#[test]
fn connection_header_removes_what_it_names_but_nothing_of_ours() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    let delivery = delivery()
        .header(
            "Connection",
            "keep-alive, X-Foo, countersign-verified, countersign-request-id, host",
        )
        .header(
            "connection",
            "x-bar, content-length, x-forwarded-for, via, Forwarded",
        )
        .header("X-Foo", "for this hop")
        .header("X-Bar", "for this hop")
        .header("X-Baz", "kept");

    let seen = forwarded(&gateway, &upstream, &delivery);

    assert!(
        !seen.fields.has("x-foo") && !seen.fields.has("x-bar"),
        "{}",
        seen.fields
    );
    assert_eq!(seen.fields.one("x-baz"), "kept");
    assert_eq!(seen.fields.one("host"), tls::HOST);
    assert!(
        seen.fields
            .one("countersign-verified")
            .starts_with("carevalidate;")
    );
    for added in ADDED {
        assert!(
            seen.fields.has(added),
            "{added} is missing in {}",
            seen.fields
        );
    }
}

#[test]
fn hop_by_hop_headers_end_here() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    let delivery = delivery()
        .header("Connection", "Upgrade, TE")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("TE", "trailers")
        .header("Upgrade", "websocket")
        .header("Trailer", "X-Late")
        .header("X-Kept", "yes");
    for delivery in [delivery.clone(), delivery.chunked().cut(Cuts::Every(3))] {
        let seen = forwarded(&gateway, &upstream, &delivery);
        for gone in [
            "keep-alive",
            "proxy-connection",
            "te",
            "upgrade",
            "trailer",
            "transfer-encoding",
        ] {
            assert!(!seen.fields.has(gone), "{gone} in {}", seen.fields);
        }
        assert!(
            !seen
                .fields
                .all("connection")
                .concat()
                .to_ascii_lowercase()
                .starts_with(b"upgrade"),
            "{}",
            seen.fields
        );
        assert_eq!(seen.fields.one("x-kept"), "yes");
        assert_eq!(seen.fields.one("content-length"), "8");
    }
}

#[test]
fn expectation_ends_here() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    let delivery = delivery().header("Expect", "100-continue");
    let mut wire = client::raw(gateway.door());
    wire.send(&delivery.raw_head()).unwrap();
    let head = wire.head().unwrap().unwrap();
    assert_eq!(head.word(1), "100", "{}", head.start);
    assert_eq!(upstream.connections(), 0);
    wire.send(&delivery.body).unwrap();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
    assert!(!upstream.take_only().fields.has("expect"));
}

/// A sender that claims to be a proxy itself.
fn claiming() -> Delivery {
    delivery()
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Forwarded-For", "203.0.113.8")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "claimed.example")
        .header(
            "Forwarded",
            "for=203.0.113.7;host=claimed.example;proto=https",
        )
        .header("Via", "1.0 claimed")
}

/// All values of a list field as one list.
fn list(seen: &Seen, name: &str) -> Vec<String> {
    let values = seen.fields.all(name).join(&b","[..]);
    let values = String::from_utf8(values).unwrap();
    values
        .split(',')
        .map(|value| value.trim().to_owned())
        .collect()
}

/// Checks one element of `Forwarded` (RFC 7239).
fn assert_forwarded(element: &str, proto: &str) {
    let mut pairs: Vec<_> = element
        .split(';')
        .map(|pair| pair.trim().replace('"', ""))
        .collect();
    pairs.sort();
    for wanted in [
        "for=127.0.0.1",
        &format!("host={}", tls::HOST),
        &format!("proto={proto}"),
    ] {
        assert!(
            pairs.contains(&wanted.to_owned()),
            "no {wanted} in {element}"
        );
    }
}

#[test]
fn what_a_stranger_says_of_itself_is_replaced() {
    for secure in [false, true] {
        let upstream = Upstream::accepting();
        let builder = Gateway::builder().route("hooks", "/hooks/*", SECRET, &upstream.url(), "");
        let gateway = if secure { builder.tls() } else { builder }.start();
        let proto = if secure { "https" } else { "http" };

        let seen = forwarded(&gateway, &upstream, &claiming());

        assert_eq!(seen.fields.one("x-forwarded-for"), "127.0.0.1");
        assert_eq!(seen.fields.one("x-forwarded-proto"), proto);
        assert_eq!(seen.fields.one("x-forwarded-host"), tls::HOST);
        assert_forwarded(seen.fields.one("forwarded"), proto);
        assert!(
            seen.fields.one("via").starts_with("1.1 "),
            "{}",
            seen.fields
        );
        assert!(
            !seen.fields.to_string().contains("claimed"),
            "{}",
            seen.fields
        );
    }
}

#[test]
fn what_a_trusted_proxy_says_is_extended() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "trusted_proxies = [\"127.0.0.1/32\"]");

    let seen = forwarded(&gateway, &upstream, &claiming());

    assert_eq!(
        list(&seen, "x-forwarded-for"),
        ["203.0.113.7", "203.0.113.8", "127.0.0.1"]
    );
    assert_eq!(list(&seen, "x-forwarded-proto")[0], "https");
    assert_eq!(list(&seen, "x-forwarded-host")[0], "claimed.example");
    let elements = list(&seen, "forwarded");
    assert_eq!(
        elements[0],
        "for=203.0.113.7;host=claimed.example;proto=https"
    );
    assert_eq!(elements.len(), 2, "{elements:?}");
    assert!(elements[1].contains("for=127.0.0.1"), "{elements:?}");
    let via = list(&seen, "via");
    assert_eq!(via[0], "1.0 claimed");
    assert!(via.len() == 2 && via[1].starts_with("1.1 "), "{via:?}");
}

#[test]
fn proxies_outside_the_trusted_range_are_strangers() {
    let upstream = Upstream::accepting();
    let gateway = gateway(
        &upstream.url(),
        "trusted_proxies = [\"127.0.0.2/32\", \"10.0.0.0/8\"]",
    );
    let seen = forwarded(&gateway, &upstream, &claiming());
    assert_eq!(seen.fields.one("x-forwarded-for"), "127.0.0.1");
}

#[test]
fn chunk_extensions_and_trailers_end_here() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    let head = delivery().header("Trailer", "X-Late").chunked().raw_head();
    let body = b"3;ext=1;other=\"quoted\"\r\n{\"a\r\n5\r\n\": 1}\r\n0;last\r\nX-Late: yes\r\nCountersign-Verified: spoofed\r\n\r\n";
    let mut wire = client::raw(gateway.door());
    wire.send(&[&head[..], body].concat()).unwrap();

    let answer = wire.answer("POST").unwrap();

    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = upstream.take_only();
    assert_eq!(seen.body.as_deref(), Some(&b"{\"a\": 1}"[..]));
    assert_eq!(seen.fields.one("content-length"), "8");
    assert!(seen.trailers.0.is_empty(), "{}", seen.trailers);
    for gone in ["transfer-encoding", "trailer", "x-late"] {
        assert!(!seen.fields.has(gone), "{gone} in {}", seen.fields);
    }
    assert!(
        !seen.fields.to_string().contains("spoofed"),
        "{}",
        seen.fields
    );
}

#[test]
fn empty_body_is_signed_and_forwarded_as_such() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    let delivery = Delivery::post("/hooks/a", "").signed(SECRET);
    for delivery in [delivery.clone(), delivery.chunked()] {
        let seen = forwarded(&gateway, &upstream, &delivery);
        assert_eq!(seen.body_len, 0);
        assert_eq!(seen.fields.one("content-length"), "0");
    }
}

#[test]
fn binary_bodies_are_kept() {
    let upstream = Upstream::start(|_| Behaviour::Echo);
    let gateway = gateway(&upstream.url(), "");
    let body: Vec<u8> = (0..=255u8).cycle().take(70_000).collect();
    let delivery = Delivery::post("/hooks/a", body.clone())
        .signed(SECRET)
        .cut(Cuts::Odd(9));
    for delivery in [delivery.clone(), delivery.chunked()] {
        let answer = client::send_raw(gateway.door(), &delivery);
        assert!(answer.body == body, "the echo differs");
        assert_eq!(upstream.take_only().body_sha256, sign::sha256(&body));
    }
}

#[test]
fn http2_cookies_reach_http1_as_one_field() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    let mut client = Client::connect(gateway.door(), Protocol::Http2);
    // RFC 9113, section 8.2.3: crumbs are joined before they go to an HTTP/1.1 recipient.
    let delivery = delivery().header("cookie", "a=1").header("cookie", "b=2");
    assert_eq!(client.send(&delivery).status, 200);
    assert_eq!(upstream.take_only().fields.one("cookie"), "a=1; b=2");
}

#[test]
fn unix_sockets_carry_the_same_bytes() {
    let upstream = Upstream::start_unix(|_| Behaviour::Echo);
    let gateway = Gateway::builder()
        .listen(&["unix:$DIR/in.sock", "127.0.0.1:0"])
        .route("hooks", "/hooks/*", SECRET, &upstream.url(), "")
        .start();
    let [unix, tcp] = gateway.doors() else {
        panic!("two listeners: {:?}", gateway.doors())
    };
    assert!(matches!(unix.address, Address::Unix(_)), "{unix:?}");
    let delivery = delivery().header("X-CaSe", "kept");
    for door in [unix, tcp] {
        let answer = client::send_raw(door, &delivery);
        assert_eq!((answer.status, &*answer.body), (200, &b"{\"a\": 1}"[..]));
        let seen = upstream.take_only();
        assert_same_fields(&from_sender(&seen), &with_host(&delivery));
    }
}

#[test]
fn http2_upstream_gets_the_same_request() {
    let authority = tls::authority();
    let secure = authority.server(&authority.issue_local(), &["h2"], false);
    for tls in [None, Some(secure)] {
        let lines = match tls {
            None => "upstream_http = \"2\"",
            Some(_) => "upstream_ca = \"$DIR/ca.pem\"",
        };
        let upstream = Http2Upstream::start(tls, |seen| {
            Response::new(201)
                .header("x-answer", "kept")
                .body(seen.body.clone().unwrap())
        });
        let gateway = Gateway::builder()
            .file("ca.pem", &authority.certificate_pem)
            .route("hooks", "/hooks/*", SECRET, &upstream.url(), lines)
            .start();
        let delivery = Delivery::post("/hooks/a?b=%7e&&", "{}")
            .signed(SECRET)
            .header("X-Repeat", "1")
            .header("x-repeat", "2")
            .header("Connection", "x-gone")
            .header("X-Gone", "1")
            .cut(Cuts::Every(1))
            .chunked();
        let answer = client::send_raw(gateway.door(), &delivery);
        assert_eq!(
            (answer.status, &*answer.body),
            (201, &b"{}"[..]),
            "{answer:?}"
        );
        assert_eq!(answer.fields.one("x-answer"), "kept");
        let seen = upstream.take_only();
        assert_eq!(seen.target, "/hooks/a?b=%7e&&");
        assert_eq!(seen.body.as_deref(), Some(&b"{}"[..]));
        assert_eq!(seen.fields.all("x-repeat"), [b"1", b"2"]);
        assert_eq!(seen.fields.one("content-length"), "2");
        assert!(!seen.fields.has("x-gone") && !seen.fields.has("connection"));
        assert!(
            seen.fields
                .one("countersign-verified")
                .starts_with("carevalidate;")
        );
        let host = match seen.fields.has("host") {
            true => "host",
            false => ":authority",
        };
        assert_eq!(seen.fields.one(host), tls::HOST);
    }
}

/// Lets the upstream answer so, and returns what the sender gets, over HTTP/1.1 and over HTTP/2.
fn answers(response: &Response) -> [Answer; 2] {
    let response = response.clone();
    let upstream = Upstream::start(move |_| Behaviour::Respond(response.clone()));
    let gateway = gateway(&upstream.url(), "");
    let http1 = client::send_raw(gateway.door(), &delivery());
    let http2 = Client::connect(gateway.door(), Protocol::Http2).send(&delivery());
    [http1, http2]
}

#[test]
fn answers_keep_status_and_body() {
    for status in [
        200, 201, 202, 226, 299, 302, 308, 400, 401, 409, 410, 418, 429, 500, 503, 599,
    ] {
        let response = Response::new(status)
            .header("Location", "http://elsewhere.example/")
            .header("Retry-After", "7")
            .body("what the upstream says");
        for response in [response.clone(), response.chunked(4)] {
            for answer in answers(&response) {
                assert_eq!(answer.status, status);
                assert_eq!(answer.body, b"what the upstream says");
                assert_eq!(answer.fields.one("location"), "http://elsewhere.example/");
                assert_eq!(answer.fields.one("retry-after"), "7");
            }
        }
    }
}

#[test]
fn answers_keep_header_spelling_and_repeats() {
    let response = Response::new(200)
        .header("Set-Cookie", "a=1; Path=/")
        .header("X-MiXeD", "1")
        .header("SET-cookie", "b=2, c")
        .header("set-cookie", "c=3")
        .header("Content-Type", "text/plain")
        .header("X-Bytes", b"\xff\x80")
        .header("Server", "the-upstream/1.0")
        .header("Date", "Mon, 23 Nov 2026 00:00:00 GMT")
        .body("ok");
    let [http1, http2] = answers(&response);

    let mut wanted = response.fields.clone();
    wanted.push("Content-Length", "2");
    let mut got = http1.fields.clone();
    // Of its own the gateway may only say that it was there and how the connection goes on.
    got.0.retain(|(name, _)| {
        let name = name.to_lowercase();
        !["via", "connection", "countersign-request-id"].contains(&&*name)
    });
    for fields in [&mut got, &mut wanted] {
        for (name, _) in &mut fields.0 {
            // Nobody's spelling but the gateway's: it frames the answer itself.
            if name.eq_ignore_ascii_case("content-length") {
                *name = "content-length".into();
            }
        }
    }
    assert_same_fields(&got, &wanted);
    assert_eq!(
        http2.fields.all("set-cookie"),
        [&b"a=1; Path=/"[..], b"b=2, c", b"c=3"]
    );
    assert_eq!(http2.fields.all("x-bytes"), [b"\xff\x80"]);
    assert_eq!(http2.fields.one("server"), "the-upstream/1.0");
}

#[test]
fn answers_lose_their_hop_by_hop_headers() {
    let response = Response::new(200)
        .header("Connection", "x-hop")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("X-Hop", "1")
        .header("X-Kept", "2")
        .body("ok");
    for answer in answers(&response) {
        for gone in ["keep-alive", "proxy-connection", "x-hop"] {
            assert!(!answer.fields.has(gone), "{gone} in {}", answer.fields);
        }
        assert_eq!(answer.fields.one("x-kept"), "2");
    }
}

#[test]
fn answers_without_a_body_stay_without() {
    for status in [204, 304] {
        let response = Response::new(status).header("ETag", "\"1\"");
        for answer in answers(&response) {
            assert_eq!(answer.status, status);
            assert_eq!(answer.body, b"");
            assert_eq!(answer.fields.one("etag"), "\"1\"");
            assert!(!answer.fields.has("transfer-encoding"), "{}", answer.fields);
        }
    }
    for answer in answers(&Response::new(200)) {
        assert_eq!((answer.status, &*answer.body), (200, &b""[..]));
    }
}

#[test]
fn interim_answers_do_not_pass_for_the_final_one() {
    let response = Response::new(200)
        .interim(103, "Link: </style.css>")
        .interim(100, "X-Interim: 1")
        .body("final");
    for answer in answers(&response) {
        assert_eq!((answer.status, &*answer.body), (200, &b"final"[..]));
        assert!(!answer.fields.has("link") && !answer.fields.has("x-interim"));
    }
}

#[test]
fn answers_stream_through_without_a_declared_length() {
    let body: Vec<u8> = (0..=255u8).cycle().take(3_000_000).collect();
    let response = Response::new(200).body(body.clone()).chunked(7001);
    for answer in answers(&response) {
        assert!(answer.body == body, "the answer's body differs");
    }
}

#[test]
fn other_methods_are_refused_before_the_upstream() {
    let upstream = Upstream::accepting();
    let gateway = gateway(&upstream.url(), "");
    for method in [
        "HEAD", "GET", "PUT", "DELETE", "OPTIONS", "PATCH", "post", "BREW",
    ] {
        let answer = client::send_raw(gateway.door(), &delivery().method(method));
        assert_eq!(answer.status, 405, "{method}: {answer:?}");
        assert_eq!(answer.fields.one("allow"), "POST");
        if method == "HEAD" {
            assert_eq!(answer.body, b"");
        } else {
            assert_eq!(answer.json()["status"], 405);
        }
    }
    upstream.assert_untouched();
}
