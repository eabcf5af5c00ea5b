//! Schemes that sign the URL, by every way in which the gateway can know it.

use crate::support::{
    client::{self, Door},
    delivery::Delivery,
    gateway::{Gateway, assert_not_verified, request_id},
    inside::{FOLDER, Inside},
    recorded::{delivery, params, secrets},
    upstream::Upstream,
    vectors::{self, Vector},
};

/// The vectors of every scheme that signs the URL, but for two URLs: Plivo's sample has none of the path that every request has, and
/// one of Mandrill's holds a password, which has no place in a configuration.
fn vectors() -> Vec<Vector> {
    let mut vectors = vectors::positives();
    vectors.retain(|vector| {
        let url = vector.public_url.as_ref();
        url.is_some_and(|url| url != "https://answer.url" && !url.contains('@'))
            && !vector.secrets.is_empty()
    });
    let providers: std::collections::BTreeSet<_> =
        vectors.iter().map(|vector| &*vector.provider).collect();
    for provider in [
        "gong",
        "hubspot",
        "mandrill",
        "messagebird",
        "monday",
        "plivo",
        "qstash",
        "square",
        "trello",
        "twilio",
    ] {
        assert!(providers.contains(provider), "{provider}: {providers:?}");
    }
    vectors
}

/// One route for the vector's scheme and secrets; `lines` are further keys.
fn route(vector: &Vector, upstream: &Upstream, lines: &str) -> (String, Vec<(String, Vec<u8>)>) {
    let (secrets, files) = secrets("route", &vector.sent().secrets);
    let text = format!(
        "[[route]]\nname = \"route\"\nscheme = \"{}\"\nmethods = [\"POST\", \"GET\"]\nupstream = \"{}\"\n{secrets}{}{lines}\n",
        vector.scheme_name(),
        upstream.url(),
        params(vector),
    );
    (text, files)
}

/// Scheme and host of the vector's URL.
fn origin(vector: &Vector) -> (String, String) {
    let url = vector.public_url.as_ref().unwrap();
    let origin = url
        .strip_suffix(&vector.sent().target)
        .unwrap_or_else(|| panic!("{}", vector.name()));
    let (scheme, host) = origin.split_once("://").unwrap();
    (scheme.to_owned(), host.to_owned())
}

fn forwards(door: &Door, upstream: &Upstream, delivery: &Delivery, name: &str) {
    let answer = client::send_raw(door, delivery);
    assert_eq!(answer.status, 200, "{name}: {answer:?}");
    let seen = upstream.take_only();
    assert_eq!(seen.target, delivery.target, "{name}");
    assert_eq!(seen.fields.one("host"), delivery.host, "{name}");
}

#[test]
fn a_configured_url_counts_whatever_the_request_and_its_proxies_say() {
    for vector in vectors() {
        let upstream = Upstream::accepting();
        let (scheme, host) = origin(&vector);
        let lines = format!("path = \"/*\"\npublic_url = \"{scheme}://{host}\"");
        let (config, files) = route(&vector, &upstream, &lines);
        let server = Inside::server(false, "trusted_proxies = \"127.0.0.1\"");
        let gateway = Inside::start(&(server + &config), false, &files);
        gateway.set_clock(vector.now);
        let good = delivery(&vector.sent(), "10.0.0.7:8080")
            .header("X-Forwarded-Host", "evil.example")
            .header("X-Forwarded-Proto", "http");
        forwards(gateway.door(), &upstream, &good, &vector.name());
    }
}

#[test]
fn a_path_that_a_proxy_shortens_or_replaces_is_restored() {
    let signs_path = |vector: &Vector| {
        matches!(&*vector.provider, "contentful" | "truelayer") && vector.fetched.is_empty()
    };
    let mut tried = 0;
    for vector in vectors::positives() {
        let signs_url = vector
            .public_url
            .as_ref()
            .is_some_and(|url| url.contains("/webhooks/") && !url.contains('@'));
        let mut sent = vector.sent();
        let Some(("", rest)) = sent.target.split_once("/webhooks/") else {
            continue;
        };
        if !(signs_url || signs_path(&vector)) {
            continue;
        }
        let (rest, url) = (
            format!("/{rest}"),
            vector
                .public_url
                .clone()
                .unwrap_or_else(|| format!("https://hooks.example.org{}", sent.target)),
        );
        let origin = url.strip_suffix(&sent.target).unwrap().to_owned();
        let (scheme, host) = origin.split_once("://").unwrap();
        let moved = format!("/in{rest}");
        for (target, lines, said) in [
            (
                &rest,
                format!("path = \"/*\"\npublic_url = \"{origin}/webhooks\""),
                None,
            ),
            (
                &moved,
                format!("path = \"/in/*\"\npublic_url = \"{origin}/webhooks/*\""),
                None,
            ),
            (&rest, "path = \"/*\"".to_owned(), Some("/webhooks")),
        ] {
            let upstream = Upstream::accepting();
            let (config, files) = route(&vector, &upstream, &lines);
            let server = Inside::server(false, "trusted_proxies = \"127.0.0.1\"");
            let gateway = Inside::start(&(server + &config), false, &files);
            gateway.set_clock(vector.now);
            sent.target.clone_from(target);
            let mut good = delivery(&sent, "10.0.0.7:8080");
            if let Some(prefix) = said {
                good = good
                    .header("X-Forwarded-Proto", scheme)
                    .header("X-Forwarded-Host", host)
                    .header("X-Forwarded-Prefix", prefix);
            }
            forwards(gateway.door(), &upstream, &good, &vector.name());
            tried += 1;
        }
    }
    assert!(tried >= 60, "{tried}");
}

#[test]
fn a_trusted_proxy_says_the_url_and_nobody_else_does() {
    for vector in vectors() {
        let (scheme, host) = origin(&vector);
        let name = vector.name();
        let from_proxy = |lines: &[(&str, &str)]| {
            let mut delivery = delivery(&vector.sent(), "10.0.0.7:8080");
            for (name, value) in lines {
                delivery = delivery.header(name, value);
            }
            delivery
        };
        let element = format!("for=192.0.2.1;proto={scheme};host=\"{host}\"");
        let good = [
            from_proxy(&[("X-Forwarded-Proto", &scheme), ("X-Forwarded-Host", &host)]),
            from_proxy(&[("Forwarded", &element)]),
            // A proxy that writes the ones lets the sender's other pass.
            from_proxy(&[
                ("X-Forwarded-Proto", &scheme),
                ("X-Forwarded-Host", &host),
                ("Forwarded", "proto=http;host=evil.example"),
            ]),
            // As Amazon's load balancers do: `Host` stays, the usual port is not written.
            delivery(&vector.sent(), &host)
                .header("X-Forwarded-Proto", &scheme)
                .header("X-Forwarded-Port", "443"),
        ];
        let several = format!("{host}, 10.0.0.7");
        let unclear = [
            from_proxy(&[
                ("X-Forwarded-Proto", "https,http"),
                ("X-Forwarded-Host", &host),
            ]),
            from_proxy(&[
                ("X-Forwarded-Proto", &scheme),
                ("X-Forwarded-Host", &several),
            ]),
            from_proxy(&[("Forwarded", &element), ("Forwarded", &element)]),
        ];
        let wrong = [
            from_proxy(&[("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", &host)]),
            from_proxy(&[
                ("X-Forwarded-Proto", &scheme),
                ("X-Forwarded-Host", "evil.example"),
            ]),
            from_proxy(&[("X-Forwarded-Proto", &scheme)]),
            from_proxy(&[
                ("X-Forwarded-Proto", &scheme),
                ("X-Forwarded-Host", &host),
                ("X-Forwarded-Prefix", "/x"),
            ]),
        ];
        for trusted in [true, false] {
            let upstream = Upstream::accepting();
            let (config, files) = route(&vector, &upstream, "path = \"/*\"");
            let proxies = match trusted {
                true => "trusted_proxies = [\"10.0.0.0/8\", \"127.0.0.1\"]",
                false => "trusted_proxies = [\"10.0.0.0/8\"]",
            };
            let gateway = Inside::start(&(Inside::server(false, proxies) + &config), false, &files);
            gateway.set_clock(vector.now);
            for refused in unclear.iter().chain(&wrong) {
                assert_not_verified(&client::send_raw(gateway.door(), refused));
            }
            upstream.assert_untouched();
            for good in &good {
                match trusted {
                    true => forwards(gateway.door(), &upstream, good, &name),
                    false => assert_not_verified(&client::send_raw(gateway.door(), good)),
                }
            }
            if !trusted {
                upstream.assert_untouched();
            }
        }
    }
}

#[test]
fn without_a_word_from_anybody_the_connection_tells_the_url() {
    for vector in vectors() {
        let (_, host) = origin(&vector);
        for tls in [true, false] {
            let upstream = Upstream::accepting();
            let (config, files) = route(&vector, &upstream, "path = \"/*\"");
            let gateway = Inside::start(&(Inside::server(tls, "") + &config), tls, &files);
            gateway.set_clock(vector.now);
            let good = delivery(&vector.sent(), &host).header("X-Forwarded-Proto", "https");
            match tls {
                true => forwards(gateway.door(), &upstream, &good, &vector.name()),
                // Every URL in the vectors is `https`.
                false => assert_not_verified(&client::send_raw(gateway.door(), &good)),
            }
        }
    }
}

#[test]
fn the_target_is_signed_as_it_came_and_never_tidied_up() {
    // printf %s "https://hooks.example.org$TARGET{}" | openssl dgst -sha256 -hmac key -binary | base64
    let signed = [
        (
            "/a/b?x=%7e&y=+%20",
            "A4Axx/yEsg7zMHn7JL72xl1NwQrJ4CQestGtvzbIU+I=",
        ),
        (
            "/a/b?x=%7E&y=+%20",
            "G6sJkg9DRAtHTSXcQjQlgh0Ick9o1xtv+47aUnWI7EU=",
        ),
        ("/a/b?", "A5XCJ5Pdp1nO3sqR4fqCLjHuA6dZHBKlu5+r+fXkHmE="),
        ("/a/b", "8Mvm5u3KT0jNV06LzmaOvq83tE6L494KUOriu0vUE2U="),
    ];
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .file("secret", "key")
        .config(&format!(
            "[[route]]\nname = \"square\"\npath = \"/a/b\"\nscheme = \"square\"\n\
             public_url = \"https://hooks.example.org\"\n\
             secrets = [{{ id = \"test\", file = \"{FOLDER}/secret\" }}]\nupstream = \"{}\"\n",
            upstream.url()
        ))
        .start();
    for (target, tag) in signed {
        for (other, _) in signed {
            let delivery = Delivery::post(other, "{}").header("x-square-hmacsha256-signature", tag);
            let answer = client::send_raw(gateway.door(), &delivery);
            if other == target {
                assert_eq!(answer.status, 200, "{target}: {answer:?}");
                assert_eq!(upstream.take_only().target, target);
            } else {
                assert_not_verified(&answer);
            }
        }
    }
}

#[test]
fn what_a_proxy_says_unclearly_is_named_to_the_operator() {
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .server("trusted_proxies = \"127.0.0.1\"")
        .file("secret", "key")
        .config(&format!(
            "[[route]]\nname = \"square\"\npath = \"/a/b\"\nscheme = \"square\"\n\
             secrets = [{{ id = \"test\", file = \"{FOLDER}/secret\" }}]\nupstream = \"{}\"\n",
            upstream.url()
        ))
        .start();
    let delivery = Delivery::post("/a/b", "{}")
        .header(
            "x-square-hmacsha256-signature",
            "8Mvm5u3KT0jNV06LzmaOvq83tE6L494KUOriu0vUE2U=",
        )
        .header("X-Forwarded-Proto", "https, http");
    let answer = client::send_raw(gateway.door(), &delivery);
    assert_not_verified(&answer);
    let line = gateway.request_line(&request_id(&answer));
    assert_eq!(line.text_field("reason"), Some("public_url_unknown"));
    upstream.assert_untouched();
}
