//! TLS towards senders: certificates by name, versions, key exchange, client certificates; and the listeners it is spoken on.

use std::{net::Shutdown, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};

use crate::support::{
    client::{self, Client, Hello, Protocol},
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_not_verified},
    tls::{Authority, Identity, authority},
    upstream::Upstream,
    wire::{Framing, Socket, Wire},
};

const SECRET: &[u8] = b"a secret of these tests";

fn builder(upstream: &Upstream) -> Builder {
    Gateway::builder().route("hooks", "/hooks", SECRET, &upstream.url(), "")
}

fn genuine() -> Delivery {
    Delivery::post("/hooks", "{}").signed(SECRET)
}

/// Shakes hands as told, and returns the session.
fn handshake(gateway: &Gateway, config: Arc<ClientConfig>, name: &str) -> ClientConnection {
    let mut socket = Socket::connect(&gateway.door().address, crate::support::PATIENCE).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut session = ClientConnection::new(config, name).unwrap();
    session.complete_io(&mut socket).unwrap();
    session
}

fn leaf(identity: &Identity) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())
        .unwrap()
        .to_vec()
}

#[test]
fn the_server_name_chooses_the_certificate() {
    let upstream = Upstream::accepting();
    // Each is valid for all names that are asked for; the second and third hold one name of their own.
    let all = ["localhost", "127.0.0.1", "unknown.example"];
    let first = authority().issue(&all);
    let exact = authority().issue(&["one.example"]);
    let wildcard = authority().issue(&["*.many.example"]);
    let gateway = builder(&upstream)
        .file("tls/0.pem", &first.certificate_pem)
        .file("tls/0.key", &first.key_pem)
        .file("tls/1.pem", &exact.certificate_pem)
        .file("tls/1.key", &exact.key_pem)
        .file("tls/2.pem", &wildcard.certificate_pem)
        .file("tls/2.key", &wildcard.key_pem)
        .config(
            &(0..3)
                .map(|i| {
                    format!(
                        "[[server.tls.certificates]]\ncertificate = \"$DIR/tls/{i}.pem\"\nprivate_key = \"$DIR/tls/{i}.key\"\n"
                    )
                })
                .collect::<String>(),
        )
        .start();
    for (name, wanted) in [
        ("localhost", &first),
        ("unknown.example", &first),
        // An address is not sent as a server name.
        ("127.0.0.1", &first),
        ("one.example", &exact),
        ("ONE.example", &exact),
        ("a.many.example", &wildcard),
        ("b.many.example", &wildcard),
    ] {
        let config = authority().client(&["http/1.1"], None, rustls::ALL_VERSIONS);
        let session = handshake(&gateway, config, name);
        let shown = session.peer_certificates().unwrap()[0].to_vec();
        assert!(shown == leaf(wanted), "another certificate for {name}");
    }
    let hello = Hello {
        server_name: "a.many.example",
        ..Hello::default()
    };
    let mut wire = client::raw_with(gateway.door(), &hello).unwrap();
    wire.send(&genuine().raw()).unwrap();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
}

#[test]
fn tls_1_2_and_1_3_are_spoken_with_a_hybrid_key_exchange() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).tls().start();
    for (version, wanted, group) in [
        (
            &TLS13,
            ProtocolVersion::TLSv1_3,
            Some(NamedGroup::X25519MLKEM768),
        ),
        (&TLS12, ProtocolVersion::TLSv1_2, None),
    ] {
        let config = authority().client(&["http/1.1"], None, &[version]);
        let session = handshake(&gateway, Arc::clone(&config), "localhost");
        assert_eq!(session.protocol_version(), Some(wanted));
        if let Some(group) = group {
            let negotiated = session.negotiated_key_exchange_group().unwrap();
            assert_eq!(negotiated.name(), group);
        }
        let hello = Hello {
            versions: &[version],
            ..Hello::default()
        };
        let mut wire = client::raw_with(gateway.door(), &hello).unwrap();
        wire.send(&genuine().raw()).unwrap();
        assert_eq!(wire.answer("POST").unwrap().status, 200);
    }
}

#[test]
fn the_order_of_cipher_suites_is_the_gateways() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).tls().start();
    for version in [&TLS13, &TLS12] {
        let [one, other] = [false, true].map(|turned| {
            let mut provider = rustls::crypto::aws_lc_rs::default_provider();
            if turned {
                provider.cipher_suites.reverse();
            }
            let config = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(authority().roots())
                .with_no_client_auth();
            let session = handshake(&gateway, Arc::new(config), "localhost");
            session.negotiated_cipher_suite().unwrap().suite()
        });
        assert_eq!(one, other);
    }
}

#[test]
fn sessions_resume() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).tls().start();
    let config = authority().client(&["http/1.1"], None, &[&TLS12]);
    let first = handshake(&gateway, Arc::clone(&config), "localhost");
    assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
    let second = handshake(&gateway, config, "localhost");
    assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn older_versions_are_refused() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).tls().start();
    // SSL 3.0, TLS 1.0, 1.1 and, to see that nothing else is wrong with this hello, 1.2.
    for version in 0_u8..=3 {
        let mut hello = vec![3, version];
        hello.extend_from_slice(&[7; 32]);
        hello.push(0);
        // Ciphers of all these versions, no compression.
        hello.extend_from_slice(&[0, 8, 0xc0, 0x2b, 0xc0, 0x09, 0xc0, 0x13, 0x00, 0x2f, 1, 0]);
        // Groups: P-256. Point format: uncompressed. Signatures: ECDSA with SHA-256. Extended master secret.
        let extensions = [
            &[0, 10, 0, 4, 0, 2, 0, 23][..],
            &[0, 11, 0, 2, 1, 0],
            &[0, 13, 0, 4, 0, 2, 4, 3],
            &[0, 23, 0, 0],
        ]
        .concat();
        hello.extend_from_slice(&[0, extensions.len() as u8]);
        hello.extend_from_slice(&extensions);
        let mut record = vec![
            0x16,
            3,
            1,
            0,
            hello.len() as u8 + 4,
            1,
            0,
            0,
            hello.len() as u8,
        ];
        record.extend_from_slice(&hello);
        let socket = Socket::connect(&gateway.door().address, crate::support::PATIENCE).unwrap();
        let mut wire = Wire::plain(socket).unwrap();
        wire.send(&record).unwrap();
        wire.socket().shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        wire.body(Framing::UntilClose, &mut |bytes| {
            answer.extend_from_slice(bytes)
        })
        .unwrap();
        match version {
            3 => assert_eq!(answer[0], 0x16, "no ServerHello: {answer:02x?}"),
            // A fatal alert, `protocol_version`, and nothing else.
            _ => assert_eq!((answer[0], &answer[5..]), (0x15, &[2, 70][..])),
        }
    }
    assert!(gateway.metric("countersign_handshake_errors_total") >= 3);
    upstream.assert_untouched();
}

#[test]
fn a_client_certificate_is_demanded_and_told_to_the_upstream() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream)
        .file("tls/clients.pem", &authority().certificate_pem)
        .tls_with(
            &authority().issue_local(),
            "client_ca = \"$DIR/tls/clients.pem\"",
        )
        .start();
    let known = authority().issue(&["sender.example"]);
    let stranger = Authority::new("another authority").issue(&["sender.example"]);
    for identity in [None, Some(&stranger)] {
        for versions in [&[&TLS12][..], &[&TLS13]] {
            let hello = Hello {
                identity,
                versions,
                ..Hello::default()
            };
            // With TLS 1.3 the sender learns of it only when it reads.
            let refused = client::raw_with(gateway.door(), &hello).is_err_and(|_| true)
                || client::raw_with(gateway.door(), &hello).is_ok_and(|mut wire| {
                    let _ = wire.send(&genuine().raw());
                    wire.answer("POST").is_err()
                });
            assert!(refused, "{versions:?}");
        }
    }
    upstream.assert_untouched();

    let encoded = format!(":{}:", data_encoding::BASE64.encode(&leaf(&known)));
    let hello = Hello {
        identity: Some(&known),
        ..Hello::default()
    };
    let forged = genuine()
        .header("Client-Cert", ":Zm9yZ2Vk:")
        .header("client_cert", ":Zm9yZ2Vk:")
        .header("Client-Cert-Chain", ":Zm9yZ2Vk:");
    let mut wire = client::raw_with(gateway.door(), &hello).unwrap();
    wire.send(&forged.raw()).unwrap();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
    let seen = upstream.take_only();
    assert_eq!(seen.fields.one("client-cert"), encoded);
    assert!(!seen.fields.has("client_cert"), "{}", seen.fields);
    assert!(!seen.fields.has("client-cert-chain"), "{}", seen.fields);
    // Whose certificate is known is not yet who signed.
    let mut wire = client::raw_with(gateway.door(), &hello).unwrap();
    wire.send(&Delivery::post("/hooks", "{}").raw()).unwrap();
    assert_not_verified(&wire.answer("POST").unwrap());
}

#[test]
fn a_forged_client_certificate_does_not_pass() {
    let upstream = Upstream::accepting();
    for gateway in [builder(&upstream).start(), builder(&upstream).tls().start()] {
        for name in [
            "Client-Cert",
            "client_cert",
            "CLIENT-CERT-CHAIN",
            "Client_Cert-Chain",
        ] {
            let forged = genuine().header(name, ":Zm9yZ2Vk:");
            assert_eq!(client::send_raw(gateway.door(), &forged).status, 200);
            let seen = upstream.take_only();
            assert!(
                !seen.fields.to_string().contains("Zm9yZ2Vk"),
                "{}",
                seen.fields
            );
        }
    }
}

#[test]
fn alpn_chooses_the_protocol() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).tls().start();
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let config = authority().client(offered, None, rustls::ALL_VERSIONS);
        let session = handshake(&gateway, config, "localhost");
        assert_eq!(session.alpn_protocol(), chosen, "{offered:?}");
    }
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let answer = Client::connect(gateway.door(), protocol).send(&genuine());
        assert_eq!(answer.status, 200, "{answer:?}");
        upstream.take_only();
    }
    // Without ALPN it is HTTP/1.1.
    let socket = Socket::connect(&gateway.door().address, crate::support::PATIENCE).unwrap();
    let config = authority().client(&[], None, rustls::ALL_VERSIONS);
    let mut wire = Wire::tls_client(socket, config, "localhost").unwrap();
    wire.send(&genuine().raw()).unwrap();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
}

#[test]
fn plaintext_on_a_tls_listener_gets_nothing() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).tls().start();
    let socket = Socket::connect(&gateway.door().address, crate::support::PATIENCE).unwrap();
    let mut wire = Wire::plain(socket).unwrap();
    wire.send(&genuine().raw()).unwrap();
    let mut answer = Vec::new();
    // An alert may come, or the connection just end.
    let _ = wire.body(Framing::UntilClose, &mut |bytes| {
        answer.extend_from_slice(bytes)
    });
    assert!(!answer.starts_with(b"HTTP"), "{}", answer.escape_ascii());
    upstream.assert_untouched();
}

#[test]
fn several_listeners_serve_at_once() {
    let upstream = Upstream::accepting();
    for tls in [false, true] {
        let builder = builder(&upstream).listen(&["127.0.0.1:0", "unix:$DIR/in.sock", "[::1]:0"]);
        let gateway = match tls {
            false => builder.start(),
            true => builder.tls().start(),
        };
        assert_eq!(gateway.doors().len(), 3);
        for (door, from) in gateway.doors().iter().zip(["127.0.0.1", "", "::1"]) {
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let answer = Client::connect(door, protocol).send(&genuine());
                assert_eq!(answer.status, 200, "{answer:?}");
                let seen = upstream.take_only();
                match from {
                    // A Unix socket has no address.
                    "" => assert!(!seen.fields.has("x-forwarded-for"), "{}", seen.fields),
                    from => assert_eq!(seen.fields.one("x-forwarded-for"), from),
                }
                let proto = if tls { "https" } else { "http" };
                assert_eq!(seen.fields.one("x-forwarded-proto"), proto);
            }
        }
    }
}
