//! The PROXY protocol: whom a load balancer's connections come from, believed of the load balancer alone.
//!
//! The headers are written here by the protocol's specification, byte for byte.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    time::{Duration, Instant},
};

use rustls::ALL_VERSIONS;

use crate::support::{
    PATIENCE,
    client::Door,
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_problem},
    tls,
    upstream::Upstream,
    wire::{Answer, Framing, Socket, Wire},
};

const SECRET: &[u8] = b"a secret of these tests";

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 203.0.113.1 51234 443\r\n";

const BEHIND_A_PROXY: &str = "proxy_protocol = true\ntrusted_proxies = \"127.0.0.1\"";

/// A header of version 2: command, family and protocol, what follows.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend_from_slice(&[0x20 | command, family]);
    header.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
    header.extend_from_slice(rest);
    header
}

/// From 192.0.2.7, TCP over IPv4, with the name that was asked for.
fn v2_of_v4() -> Vec<u8> {
    let mut rest = vec![192, 0, 2, 7, 203, 0, 113, 1, 0xc8, 0x22, 0x01, 0xbb];
    rest.extend_from_slice(b"\x02\x00\x05a.b.c");
    v2(1, 0x11, &rest)
}

/// From 2001:db8::7, TCP over IPv6.
fn v2_of_v6() -> Vec<u8> {
    let mut rest = vec![0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    rest.extend_from_slice(&[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    rest.extend_from_slice(&[0xc8, 0x22, 0x01, 0xbb]);
    v2(1, 0x21, &rest)
}

fn builder(upstream: &Upstream, server: &str, lines: &str) -> Builder {
    Gateway::builder()
        .server(server)
        .route("hooks", "/hooks", SECRET, &upstream.url(), lines)
}

fn genuine() -> Delivery {
    Delivery::post("/hooks", "{\"a\": 1}").signed(SECRET)
}

/// Opens a connection that begins with these bytes.
fn open(door: &Door, header: &[u8]) -> Wire {
    let mut socket = Socket::connect(&door.address, PATIENCE).unwrap();
    socket.write_all(header).unwrap();
    match door.tls {
        false => Wire::plain(socket).unwrap(),
        true => {
            let config = tls::authority().client(&["http/1.1"], None, ALL_VERSIONS);
            Wire::tls_client(socket, config, tls::HOST).unwrap()
        }
    }
}

fn send(door: &Door, header: &[u8], delivery: &Delivery) -> Answer {
    let mut wire = open(door, header);
    wire.send(&delivery.raw()).unwrap();
    wire.answer("POST").unwrap()
}

/// Checks that a connection is closed without a byte in answer.
fn assert_closed(wire: &mut Wire) {
    let mut came = 0;
    let _ = wire.body(Framing::UntilClose, &mut |bytes| came += bytes.len());
    assert_eq!(came, 0, "an answer");
}

fn faults(gateway: &Gateway) -> u64 {
    gateway.metric("countersign_proxy_header_errors_total")
}

#[test]
fn the_address_in_the_header_is_the_senders() {
    let upstream = Upstream::accepting();
    for tls in [false, true] {
        let mut builder = builder(&upstream, BEHIND_A_PROXY, "");
        if tls {
            builder = builder.tls();
        }
        let gateway = builder.start();
        for (header, address, node) in [
            (V1.to_vec(), "192.0.2.7", "192.0.2.7"),
            (
                b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n".to_vec(),
                "2001:db8::7",
                "\"[2001:db8::7]\"",
            ),
            (v2_of_v4(), "192.0.2.7", "192.0.2.7"),
            (v2_of_v6(), "2001:db8::7", "\"[2001:db8::7]\""),
        ] {
            // Nobody believes what that address says of others.
            let delivery = genuine().header("x-forwarded-for", "198.51.100.9");
            assert_eq!(send(gateway.door(), &header, &delivery).status, 200);
            let seen = upstream.take_only();
            assert_eq!(seen.fields.one("x-forwarded-for"), address);
            let forwarded = seen.fields.one("forwarded");
            assert!(
                forwarded.starts_with(&format!("for={node};")),
                "{forwarded}"
            );
            let id = seen.fields.one("countersign-request-id").to_owned();
            let line = gateway.request_line(&id);
            assert_eq!(line.text_field("peer"), Some(address), "{line}");
        }
        assert_eq!(faults(&gateway), 0);
        assert_eq!(gateway.metric("countersign_handshake_errors_total"), 0);
    }
}

#[test]
fn a_header_in_pieces_is_read_to_its_end_and_no_further() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, BEHIND_A_PROXY, "").start();
    for header in [V1.to_vec(), v2_of_v4()] {
        let mut socket = Socket::connect(&gateway.door().address, PATIENCE).unwrap();
        let bytes = [&header[..], &genuine().raw(), &genuine().raw()].concat();
        for byte in &bytes[..header.len() + 20] {
            socket.write_all(&[*byte]).unwrap();
        }
        socket.write_all(&bytes[header.len() + 20..]).unwrap();
        let mut wire = Wire::plain(socket).unwrap();
        for _ in 0..2 {
            assert_eq!(wire.answer("POST").unwrap().status, 200);
        }
    }
    // HTTP/2 by prior knowledge is told by what follows the header.
    let mut socket = Socket::connect(&gateway.door().address, PATIENCE).unwrap();
    socket.write_all(V1).unwrap();
    socket
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let mut frame = [0; 9];
    socket.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "SETTINGS");
}

#[test]
fn a_proxy_that_names_nobody_is_the_sender_and_its_word_counts_for_nothing() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, BEHIND_A_PROXY, "").start();
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 2001:db8::7 2001:db8::1 1 2\r\n".to_vec(),
        v2(0, 0x00, &[]),
        v2(0, 0x11, &[192, 0, 2, 7, 203, 0, 113, 1, 0, 1, 0, 2]),
        v2(1, 0x00, &[]),
        v2(1, 0x31, &[b'/'; 216]),
    ] {
        let delivery = genuine().header("x-forwarded-for", "192.0.2.9");
        assert_eq!(send(gateway.door(), &header, &delivery).status, 200);
        let seen = upstream.take_only();
        assert_eq!(seen.fields.one("x-forwarded-for"), "127.0.0.1");
        let id = seen.fields.one("countersign-request-id").to_owned();
        let line = gateway.request_line(&id);
        assert_eq!(line.text_field("peer"), Some("127.0.0.1"), "{line}");
    }
}

#[test]
fn an_allow_list_sees_the_address_in_the_header() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, BEHIND_A_PROXY, "allow = \"192.0.2.0/24\"").start();
    assert_eq!(send(gateway.door(), V1, &genuine()).status, 200);
    for header in [v2_of_v6(), v2(0, 0x00, &[])] {
        let forged = genuine().header("x-forwarded-for", "192.0.2.7");
        let refusal = send(gateway.door(), &header, &forged);
        assert_problem(&refusal, 403, "sender_not_allowed");
    }
}

#[test]
fn what_does_not_begin_with_a_header_is_closed_and_counted() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, BEHIND_A_PROXY, "").start();
    let request = genuine().raw();
    let cases: [(&str, Vec<u8>); 9] = [
        ("a request", request.clone()),
        (
            "no version",
            [b"PROXY TCP5 192.0.2.7 192.0.2.1 1 2\r\n", &request[..]].concat(),
        ),
        (
            "no address",
            [b"PROXY TCP4 192.0.2 192.0.2.1 1 2\r\n", &request[..]].concat(),
        ),
        (
            "another word",
            [b"PROXIED TCP4 192.0.2.7 192.0.2.1 1 2\r\n", &request[..]].concat(),
        ),
        ("too long", format!("PROXY TCP4 {}", "1".repeat(200)).into()),
        (
            "UDP",
            v2(1, 0x12, &[192, 0, 2, 7, 203, 0, 113, 1, 0, 1, 0, 2]),
        ),
        (
            "another command",
            v2(2, 0x11, &[192, 0, 2, 7, 203, 0, 113, 1, 0, 1, 0, 2]),
        ),
        ("too short for its address", v2(1, 0x21, &[0; 12])),
        ("more than a header holds", v2(1, 0x11, &[0; 5000])),
    ];
    for (place, (case, bytes)) in cases.iter().enumerate() {
        println!("{case}");
        assert_closed(&mut open(gateway.door(), bytes));
        let count = place as u64 + 1;
        gateway.wait_for_metric("countersign_proxy_header_errors_total", |value| {
            value == count
        });
    }
    // One that looks whether the port is open does no wrong.
    let wire = open(gateway.door(), b"");
    wire.socket().shutdown(Shutdown::Write);
    gateway.wait_for_connections(0);
    assert_eq!(faults(&gateway), cases.len() as u64);
    // One that breaks off does.
    let mut wire = open(gateway.door(), &V1[..20]);
    wire.socket().shutdown(Shutdown::Write);
    assert_closed(&mut wire);
    assert_eq!(faults(&gateway), cases.len() as u64 + 1);
    upstream.assert_untouched();
    assert_eq!(send(gateway.door(), V1, &genuine()).status, 200);
}

#[test]
fn a_header_that_does_not_come_in_time_is_given_up() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, BEHIND_A_PROXY, "")
        .limits("head_timeout = \"300ms\"")
        .start();
    let began = Instant::now();
    for bytes in [&b""[..], &V1[..30], &v2_of_v4()[..14], &v2_of_v4()[..20]] {
        assert_closed(&mut open(gateway.door(), bytes));
    }
    assert!(began.elapsed() >= Duration::from_millis(1200));
    assert_eq!(faults(&gateway), 4);
}

#[test]
fn only_trusted_proxies_may_and_must_write_it() {
    let upstream = Upstream::accepting();
    let server = "proxy_protocol = true\ntrusted_proxies = \"10.0.0.0/8\"";
    let gateway = builder(&upstream, server, "").start();
    // Everybody else is served as they connect, and a header is no HTTP.
    assert_eq!(send(gateway.door(), b"", &genuine()).status, 200);
    let seen = upstream.take_only();
    assert_eq!(seen.fields.one("x-forwarded-for"), "127.0.0.1");
    let mut wire = open(gateway.door(), &[V1, &genuine().raw()].concat());
    assert_eq!(wire.answer("POST").unwrap().status, 400);
    assert_eq!(upstream.count(), 0);
    // Without a list everybody must, and the start says what that means.
    let gateway = builder(&upstream, "proxy_protocol = true", "").start();
    assert_closed(&mut open(gateway.door(), &genuine().raw()));
    assert_eq!(send(gateway.door(), V1, &genuine()).status, 200);
    assert_eq!(
        upstream.take_only().fields.one("x-forwarded-for"),
        "192.0.2.7"
    );
    let warned = gateway.logs().lines().into_iter().any(|line| {
        let path = line.text_field("path");
        path == Some("server.proxy_protocol") && line.text.contains("WARN")
    });
    assert!(warned, "{}", gateway.logs().text());
    // Nor does a Unix socket have an address to be on a list.
    let unix = builder(&upstream, BEHIND_A_PROXY, "")
        .listen(&["unix:$DIR/in.sock"])
        .start();
    assert_eq!(send(unix.door(), &v2_of_v4(), &genuine()).status, 200);
    assert_eq!(
        upstream.take_only().fields.one("x-forwarded-for"),
        "192.0.2.7"
    );
    assert_closed(&mut open(unix.door(), &genuine().raw()));
}

#[test]
fn a_proxy_behind_the_one_that_wrote_it_is_believed_if_it_is_trusted_too() {
    let upstream = Upstream::accepting();
    let server = "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\", \"192.0.2.7\"]";
    let gateway = builder(&upstream, server, "allow = \"198.51.100.9\"").start();
    let delivery = genuine().header("x-forwarded-for", "198.51.100.9");
    assert_eq!(send(gateway.door(), V1, &delivery).status, 200);
    let seen = upstream.take_only();
    assert_eq!(
        seen.fields.one("x-forwarded-for"),
        "198.51.100.9, 192.0.2.7"
    );
    let refusal = send(gateway.door(), &v2_of_v6(), &delivery);
    assert_problem(&refusal, 403, "sender_not_allowed");
}
