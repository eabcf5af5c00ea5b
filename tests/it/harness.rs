//! Tests of the tests' own tools: an upstream or a client that misreads would make every other test worthless.

use std::io::ErrorKind;

use crate::support::{
    client::{self, Client, Door, Hello, Protocol},
    delivery::{Cuts, Delivery},
    http2::Http2Upstream,
    sign, tls,
    upstream::{Behaviour, Response, Upstream},
    wire::Address,
};

fn door(upstream: &Upstream, tls: bool) -> Door {
    Door {
        address: upstream.address().clone(),
        tls,
    }
}

fn local_server(alpn: &[&str], client_auth: bool) -> std::sync::Arc<rustls::ServerConfig> {
    let authority = tls::authority();
    authority.server(&authority.issue_local(), alpn, client_auth)
}

#[test]
fn upstream_records_head_and_body_as_sent() {
    let upstream = Upstream::accepting();
    let delivery = Delivery::post("/a?b=2&a=%7e&&c", "body")
        .header("X-Odd-CASE", b"\xff\x80 \t.")
        .header("x-odd-case", "second");

    let answer = client::send_raw(&door(&upstream, false), &delivery);

    assert_eq!(answer.status, 200);
    let seen = upstream.take_only();
    assert_eq!(seen.raw_head, delivery.raw_head());
    assert_eq!((&*seen.method, &*seen.target), ("POST", "/a?b=2&a=%7e&&c"));
    assert_eq!(
        seen.fields.0[1],
        ("X-Odd-CASE".into(), b"\xff\x80 \t.".to_vec())
    );
    assert_eq!(seen.fields.0[2], ("x-odd-case".into(), b"second".to_vec()));
    assert_eq!(seen.body.as_deref(), Some(&b"body"[..]));
    assert_eq!(seen.body_sha256, sign::sha256(b"body"));
}

#[test]
fn upstream_reads_every_framing_and_cut() {
    let upstream = Upstream::start(|_| Behaviour::Echo);
    let body: Vec<u8> = (0..50_000u32).flat_map(u32::to_be_bytes).collect();
    for cuts in [Cuts::Whole, Cuts::Every(1000), Cuts::Odd(1), Cuts::Odd(2)] {
        let delivery = Delivery::post("/", body.clone()).cut(cuts);
        for delivery in [delivery.clone(), delivery.chunked()] {
            let answer = client::send_raw(&door(&upstream, false), &delivery);
            assert!(answer.body == body, "echo over bytes");
            let mut client = Client::connect(&door(&upstream, false), Protocol::Http1);
            assert!(client.send(&delivery).body == body, "echo over hyper");
            assert!(
                client.send(&delivery).body == body,
                "on the same connection"
            );
        }
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), 24);
    assert!(seen.iter().all(|seen| seen.body_len == 200_000));
    assert_eq!(seen[1].connection, seen[2].connection);
    assert_eq!(upstream.faults(), Vec::<String>::new());
}

#[test]
fn cuts_cover_the_body_and_differ() {
    let delivery = Delivery::post("/", vec![7; 100_000]);
    let sizes = |cuts| -> Vec<usize> {
        let pieces = delivery.clone().cut(cuts).pieces();
        pieces.iter().map(bytes::Bytes::len).collect()
    };
    assert_eq!(sizes(Cuts::Whole), [100_000]);
    assert_eq!(sizes(Cuts::Every(40_000)), [40_000, 40_000, 20_000]);
    assert_eq!(sizes(Cuts::Odd(3)).iter().sum::<usize>(), 100_000);
    assert!(sizes(Cuts::Odd(3)).len() > 20);
    assert_ne!(sizes(Cuts::Odd(3)), sizes(Cuts::Odd(5)));
}

#[test]
fn upstream_faults_what_is_malformed() {
    for bytes in [
        "POST / HTTP/1.1\r\nHost: a\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost : a\r\n\r\n",
        "POST / HTTP/1.1\r\n folded: a\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;ext=1\r\nx\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\n\r\n",
    ] {
        let upstream = Upstream::accepting();
        let mut wire = client::raw(&door(&upstream, false));
        wire.send(bytes.as_bytes()).unwrap();
        upstream.wait_for_fault();
        assert_eq!(upstream.count(), 0, "{bytes}");
        assert!(wire.closed(), "{bytes}");
    }
}

#[test]
fn upstream_faults_a_body_that_breaks_off() {
    let upstream = Upstream::accepting();
    let mut wire = client::raw(&door(&upstream, false));
    wire.send(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort")
        .unwrap();
    drop(wire);
    assert!(upstream.wait_for_fault().contains("4 bytes missing"));
}

#[test]
fn upstream_misbehaves_as_told() {
    let answer = |behaviour: Behaviour| {
        let upstream = Upstream::start(move |_| behaviour.clone());
        let mut wire = client::raw(&door(&upstream, false));
        wire.send(&Delivery::post("/", "body").raw()).unwrap();
        let answer = wire.answer("POST");
        upstream.wait_for(1);
        (answer, wire)
    };
    let error = |behaviour| answer(behaviour).0.unwrap_err().kind();

    assert_eq!(
        error(Behaviour::CloseBeforeAnswer),
        ErrorKind::UnexpectedEof
    );
    assert_eq!(
        error(Behaviour::ResetBeforeAnswer),
        ErrorKind::ConnectionReset
    );
    assert_eq!(
        error(Behaviour::ResetBeforeBody),
        ErrorKind::ConnectionReset
    );
    let (declared, sent) = (10, 4);
    let died = Behaviour::DieMidResponse { declared, sent };
    assert_eq!(error(died), ErrorKind::UnexpectedEof);
    let reset = Behaviour::ResetMidResponse { declared, sent };
    assert_eq!(error(reset), ErrorKind::ConnectionReset);
    assert_eq!(
        error(Behaviour::Raw(b"junk\r\n\r\n".to_vec())),
        ErrorKind::InvalidData
    );

    let (closes, mut wire) = answer(Behaviour::CloseAfterResponse(Response::new(202)));
    assert_eq!(closes.unwrap().status, 202);
    assert!(wire.closed());
    let (early, _wire) = answer(Behaviour::EarlyAnswer(Response::new(403)));
    assert_eq!(early.unwrap().status, 403);
}

#[test]
fn upstream_answers_with_chunks_trailers_and_interim() {
    let response = Response::new(200)
        .header("X-Kind", "chunks")
        .body("0123456789")
        .chunked(3)
        .trailer("X-Late", "yes")
        .interim(103, "Link: </x>");
    let upstream = Upstream::start(move |_| Behaviour::Respond(response.clone()));
    let answer = client::send_raw(&door(&upstream, false), &Delivery::post("/", ""));
    assert_eq!(answer.body, b"0123456789");
    assert_eq!(answer.interim, [103]);
    assert_eq!(answer.trailers.one("x-late"), "yes");
    assert_eq!(answer.fields.one("x-kind"), "chunks");
}

#[test]
fn upstream_stalls_until_released() {
    let upstream = Upstream::start(|_| Behaviour::Stall);
    let mut wire = client::raw(&door(&upstream, false));
    wire.send(&Delivery::post("/", "").raw()).unwrap();
    upstream.wait_for(1);
    upstream.release();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
}

#[test]
fn upstream_refuses_and_reopens_on_its_port() {
    let upstream = Upstream::accepting();
    upstream.refuse();
    let Address::Tcp(address) = upstream.address() else {
        panic!("not TCP")
    };
    let refused = std::net::TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(upstream.connections(), 0);
    upstream.reopen();
    let answer = client::send_raw(&door(&upstream, false), &Delivery::post("/", ""));
    assert_eq!(answer.status, 200);
}

#[test]
fn unix_sockets_work_on_both_sides() {
    let upstream = Upstream::start_unix(|_| Behaviour::Echo);
    let delivery = Delivery::post("/", "through a file");
    let door = door(&upstream, false);
    assert_eq!(client::send_raw(&door, &delivery).body, b"through a file");
    let mut client = Client::connect(&door, Protocol::Http1);
    assert_eq!(client.send(&delivery).body, b"through a file");
}

#[test]
fn tls_works_on_both_sides_and_carries_client_certificates() {
    let identity = tls::authority().issue(&["client"]);
    for (demand, shown) in [(false, None), (true, Some(&identity))] {
        let upstream =
            Upstream::start_tls(local_server(&["http/1.1"], demand), |_| Behaviour::Echo);
        let hello = Hello {
            identity: shown,
            ..Hello::default()
        };
        let mut wire = client::raw_with(&door(&upstream, true), &hello).unwrap();
        wire.send(&Delivery::post("/", "secret").raw()).unwrap();
        assert_eq!(wire.answer("POST").unwrap().body, b"secret");
        assert_eq!(upstream.take_only().client_certificate, demand);
    }
}

#[test]
fn tls_clients_can_pick_a_version_and_a_wrong_name() {
    let upstream = Upstream::start_tls(local_server(&["http/1.1"], false), |_| Behaviour::Echo);
    let old = Hello {
        versions: &[&rustls::version::TLS12],
        ..Hello::default()
    };
    assert!(client::raw_with(&door(&upstream, true), &old).is_ok());
    let wrong = Hello {
        server_name: "other.example.org",
        ..Hello::default()
    };
    assert!(client::raw_with(&door(&upstream, true), &wrong).is_err());
}

#[test]
fn http2_upstream_records_with_and_without_tls() {
    for tls in [None, Some(local_server(&["h2"], false))] {
        let encrypted = tls.is_some();
        let upstream = Http2Upstream::start(tls, |seen| {
            Response::new(201).body(seen.body.clone().unwrap())
        });
        let door = Door {
            address: Address::Tcp(upstream.address()),
            tls: encrypted,
        };
        let mut client = Client::connect(&door, Protocol::Http2);
        let delivery = Delivery::post("/x?y", "frames").header("x-a", "1");
        for delivery in [delivery.clone(), delivery.chunked().cut(Cuts::Every(1))] {
            let answer = client.send(&delivery);
            assert_eq!((answer.status, &*answer.body), (201, &b"frames"[..]));
            let seen = upstream.take_only();
            assert_eq!(seen.target, "/x?y");
            assert_eq!(seen.fields.one(":authority"), tls::HOST);
            assert_eq!(seen.fields.one("x-a"), "1");
            assert_eq!(seen.body_sha256, sign::sha256(b"frames"));
        }
    }
}
