//! CareValidate's vectors, through the whole gateway, in every way that a sender can put them on the wire.

use std::{collections::BTreeMap, fs};

use serde::Deserialize;

use crate::support::{
    client::{self, Client, Protocol},
    delivery::{Cuts, Delivery},
    gateway::{Builder, Gateway, assert_not_verified, request_id},
    script, sign,
    upstream::Upstream,
    wire::{Answer, Fields},
};

/// `tests/vectors/carevalidate.json`
#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
    body_cases: BodyCases,
    header_cases: HeaderCases,
}

#[derive(Deserialize)]
struct Vector {
    file: String,
    bytes: usize,
    sha256: String,
    /// Names the secret: the name of its route here.
    secret_kind: String,
    secret: String,
    #[serde(rename = "x-cv-signature")]
    signature: String,
}

#[derive(Deserialize)]
struct BodyCases {
    secret: String,
    signature_sent: String,
    cases: Vec<BodyCase>,
}

#[derive(Deserialize)]
struct BodyCase {
    name: String,
    sha256: String,
    own_signature: String,
}

#[derive(Deserialize)]
struct HeaderCases {
    file: String,
    secret: String,
    cases: Vec<HeaderCase>,
}

#[derive(Deserialize)]
struct HeaderCase {
    name: String,
    header_values: Vec<String>,
    strict: String,
}

/// What `generate.mjs --large` prints.
#[derive(Deserialize)]
struct Large {
    file: String,
    bytes: u64,
    sha256: String,
    secret: String,
    #[serde(rename = "x-cv-signature")]
    signature: String,
}

impl Vectors {
    fn read() -> Self {
        serde_json::from_slice(&read("carevalidate.json")).unwrap()
    }
}

fn read(name: &str) -> Vec<u8> {
    fs::read(script::tests_file("vectors").join(name)).unwrap()
}

fn generate(arguments: &[&str]) -> String {
    let generator = script::tests_file("vectors/carevalidate/generate.mjs");
    let arguments = [&[generator.to_str().unwrap()], arguments].concat();
    script::output("node", &arguments)
}

fn builder(tls: bool) -> Builder {
    let builder = Gateway::builder();
    if tls { builder.tls() } else { builder }
}

/// A gateway with one route per secret of the vectors.
fn gateway(vectors: &Vectors, tls: bool, upstream: &Upstream) -> Gateway {
    let secrets: BTreeMap<_, _> = vectors
        .vectors
        .iter()
        .map(|vector| (&vector.secret_kind, &vector.secret))
        .collect();
    assert_eq!(secrets.len(), 6);
    let mut builder = builder(tls);
    for (name, secret) in secrets {
        builder = builder.route(name, &path(name), secret, &upstream.url(), "");
    }
    builder.start()
}

fn path(route: &str) -> String {
    format!("/hooks/{route}")
}

/// Checks that there is one mark, and that it names scheme, route, key and time.
fn assert_marked(fields: &Fields, route: &str) {
    let mark = fields.one("countersign-verified");
    let time = mark
        .strip_prefix(&format!("carevalidate;route=\"{route}\";key=\"test\";t="))
        .unwrap_or_else(|| panic!("mark {mark}"));
    assert!(
        time.len() == 10 && time.bytes().all(|byte| byte.is_ascii_digit()),
        "mark {mark}"
    );
}

/// Sends every vector in every framing and in pieces of many sizes.
fn deliver_every_vector(tls: bool, protocol: Protocol) {
    let vectors = Vectors::read();
    assert_eq!(vectors.vectors.len(), 37);
    let upstream = Upstream::accepting();
    let gateway = gateway(&vectors, tls, &upstream);
    let mut client = Client::connect(gateway.door(), protocol);
    for (index, vector) in vectors.vectors.iter().enumerate() {
        let body = read(&vector.file);
        assert_eq!(body.len(), vector.bytes);
        let route = &vector.secret_kind;
        let whole = Delivery::post(&path(route), body)
            .header("content-type", "application/json")
            .header("x-cv-signature", &vector.signature);
        let seed = index as u64 * 2 + 1;
        let mut cuts = vec![Cuts::Whole, Cuts::Every(1024), Cuts::Odd(seed)];
        if vector.bytes < 5000 {
            cuts.push(Cuts::Every(7));
        }
        for cuts in cuts {
            let delivery = whole.clone().cut(cuts);
            for delivery in [delivery.clone(), delivery.chunked()] {
                let answer = client.send(&delivery);
                let case = format!("{} {cuts:?}", vector.file);
                assert_eq!(answer.status, 200, "{case}: {answer:?}");
                let seen = upstream.take_only();
                assert_eq!(seen.body_sha256, vector.sha256, "{case}");
                assert_eq!(seen.body_len, vector.bytes as u64, "{case}");
                assert_eq!(seen.target, path(route), "{case}");
                assert_eq!(seen.fields.one("x-cv-signature"), vector.signature);
                assert_marked(&seen.fields, route);
            }
        }
    }
}

#[test]
fn every_vector_arrives_over_tls_and_http1() {
    deliver_every_vector(true, Protocol::Http1);
}

#[test]
fn every_vector_arrives_over_tls_and_http2() {
    deliver_every_vector(true, Protocol::Http2);
}

#[test]
fn every_vector_arrives_over_plaintext_http1() {
    deliver_every_vector(false, Protocol::Http1);
}

#[test]
fn every_vector_arrives_over_plaintext_http2() {
    deliver_every_vector(false, Protocol::Http2);
}

/// A refusal without what differs from request to request: the date, and whether the connection goes on, which depends on
/// the size of the body.
fn anonymous(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let id = request_id(answer);
    let hide = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec())
            .unwrap()
            .replace(&id, "ID")
    };
    let fields = answer
        .fields
        .0
        .iter()
        .filter(|(name, _)| !["date", "connection"].contains(&name.to_lowercase().as_str()))
        .map(|(name, value)| (name.to_lowercase(), hide(value)))
        .collect();
    (answer.status, fields, hide(&answer.body))
}

/// Sends every altered body with the signature of the original.
fn refuse_every_altered_body(tls: bool, protocol: Protocol) {
    let vectors = Vectors::read();
    let cases = &vectors.body_cases;
    assert_eq!(cases.cases.len(), 14);
    let folder = tempfile::tempdir().unwrap();
    generate(&["--altered", "--out", folder.path().to_str().unwrap()]);
    let upstream = Upstream::accepting();
    let gateway = builder(tls)
        .route("cases", "/cases", &cases.secret, &upstream.url(), "")
        .start();
    let mut refusals = Vec::new();
    for case in &cases.cases {
        let body = fs::read(folder.path().join(&case.name)).unwrap();
        assert_eq!(sign::sha256(&body), case.sha256, "{}", case.name);
        let delivery = Delivery::post("/cases", body)
            .header("x-cv-signature", &cases.signature_sent)
            .cut(Cuts::Odd(7));
        for delivery in [delivery.clone(), delivery.chunked()] {
            let answer = Client::connect(gateway.door(), protocol).send(&delivery);
            assert_not_verified(&answer);
            refusals.push(anonymous(&answer));
        }
    }
    upstream.assert_untouched();
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "refusals differ: {refusals:#?}");

    // The bodies themselves are in order: signed as they are, they pass.
    let mut client = Client::connect(gateway.door(), protocol);
    for case in &cases.cases {
        let body = fs::read(folder.path().join(&case.name)).unwrap();
        let delivery = Delivery::post("/cases", body).header("x-cv-signature", &case.own_signature);
        assert_eq!(client.send(&delivery).status, 200, "{}", case.name);
        assert_eq!(upstream.take_only().body_sha256, case.sha256);
    }
}

#[test]
fn altered_bodies_are_refused_over_tls_and_http1() {
    refuse_every_altered_body(true, Protocol::Http1);
}

#[test]
fn altered_bodies_are_refused_over_tls_and_http2() {
    refuse_every_altered_body(true, Protocol::Http2);
}

#[test]
fn altered_bodies_are_refused_over_plaintext_http1() {
    refuse_every_altered_body(false, Protocol::Http1);
}

#[test]
fn altered_bodies_are_refused_over_plaintext_http2() {
    refuse_every_altered_body(false, Protocol::Http2);
}

/// Sends every form of the signature header and compares the answers with those of a strict verifier.
fn judge_every_header(tls: bool, send: impl Fn(&Gateway, &Delivery) -> Answer) {
    let vectors = Vectors::read();
    let cases = &vectors.header_cases;
    assert_eq!(cases.cases.len(), 17);
    let body = read(&cases.file);
    let upstream = Upstream::accepting();
    let gateway = builder(tls)
        .route("cases", "/cases", &cases.secret, &upstream.url(), "")
        .start();
    let delivery = |case: &HeaderCase| {
        let delivery = Delivery::post("/cases", body.clone());
        let add = |delivery: Delivery, value| delivery.header("X-CV-Signature", value);
        case.header_values.iter().fold(delivery, add)
    };
    let (reject, accept): (Vec<_>, Vec<_>) =
        cases.cases.iter().partition(|case| case.strict == "reject");
    let mut refusals = Vec::new();
    for case in reject {
        let answer = send(&gateway, &delivery(case));
        assert_not_verified(&answer);
        refusals.push(anonymous(&answer));
    }
    upstream.assert_untouched();
    assert_eq!(refusals.len(), 15);
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "refusals differ: {refusals:#?}");
    // Where either answer is safe we accept: hex digits mean the same in upper case.
    for case in accept {
        let answer = send(&gateway, &delivery(case));
        assert_eq!(answer.status, 200, "{}: {answer:?}", case.name);
        let seen = upstream.take_only();
        assert_eq!(seen.fields.one("x-cv-signature"), case.header_values[0]);
        assert_marked(&seen.fields, "cases");
    }
}

#[test]
fn signature_headers_are_judged_strictly_on_http1() {
    judge_every_header(false, |gateway, delivery| {
        client::send_raw(gateway.door(), delivery)
    });
}

#[test]
fn signature_headers_are_judged_strictly_on_http2() {
    judge_every_header(true, |gateway, delivery| {
        Client::connect(gateway.door(), Protocol::Http2).send(delivery)
    });
}

#[test]
fn every_secret_refuses_the_signatures_of_the_others() {
    let vectors = Vectors::read();
    let upstream = Upstream::accepting();
    let gateway = gateway(&vectors, false, &upstream);
    let mut client = Client::connect(gateway.door(), Protocol::Http2);
    let routes: Vec<_> = vectors.vectors[..6]
        .iter()
        .map(|v| &v.secret_kind)
        .collect();
    for vector in &vectors.vectors[..6] {
        for route in routes.iter().filter(|route| **route != &vector.secret_kind) {
            let delivery = Delivery::post(&path(route), read(&vector.file))
                .header("x-cv-signature", &vector.signature);
            assert_not_verified(&client.send(&delivery));
        }
    }
    upstream.assert_untouched();
}

/// Generates a body with so many megabytes of documents, sends it, and checks what arrives.
fn deliver_large(tls: bool, protocol: Protocol, megabytes: &str, documents: &str) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let printed = generate(&["--large", megabytes, "--documents", documents, "--out", out]);
    let large: Large = serde_json::from_str(&printed).unwrap();
    let body = fs::read(folder.path().join(&large.file)).unwrap();
    assert_eq!(body.len() as u64, large.bytes);
    let upstream = Upstream::accepting();
    let gateway = builder(tls)
        .limits("body = \"256MiB\"\nbody_memory = \"64MiB\"")
        .route("cases", "/cases", &large.secret, &upstream.url(), "")
        .start();
    let mut client = Client::connect(gateway.door(), protocol);
    let delivery = Delivery::post("/cases", body)
        .header("x-cv-signature", &large.signature)
        .cut(Cuts::Every(100_000));
    for delivery in [delivery.clone(), delivery.chunked()] {
        let answer = client.send(&delivery);
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = upstream.take_only();
        assert_eq!(seen.body_len, large.bytes);
        assert_eq!(seen.body_sha256, large.sha256);
        assert_marked(&seen.fields, "cases");
    }
}

#[test]
fn ten_megabyte_document_arrives_over_tls_and_http1() {
    deliver_large(true, Protocol::Http1, "10", "1");
}

#[test]
fn ten_megabyte_document_arrives_over_tls_and_http2() {
    deliver_large(true, Protocol::Http2, "10", "1");
}

#[test]
fn four_documents_of_25_megabytes_arrive_over_tls_and_http1() {
    deliver_large(true, Protocol::Http1, "100", "4");
}

#[test]
fn four_documents_of_25_megabytes_arrive_over_tls_and_http2() {
    deliver_large(true, Protocol::Http2, "100", "4");
}

#[test]
fn vectors_are_as_generated() {
    generate(&["--check"]);
}
