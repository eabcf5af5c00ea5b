//! What one request costs inside: hashing, plan evaluation, head handling.
//!
//! `cargo bench --bench micro`; one case: `cargo bench --bench micro -- plan/carevalidate`.

use std::{collections::BTreeMap, hint::black_box, sync::Arc};

use countersign::{
    clock::UnixTime,
    config::{Flags, Source, load},
    forward::{Identity, outbound_headers},
    receive::{Head, Peer},
    route::Route,
    scheme::{RequestHead, Scheme, Verdict, catalogue},
    secret::Secret,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use sha2::Sha256;

const NOW: UnixTime = UnixTime::from_secs(1_795_435_200);

fn secret() -> Secret {
    Secret::new(b"countersign bench key".to_vec()).expect("it is not empty")
}

/// A check written by hand: what the plan is measured against.
fn by_hand(keyed: &Hmac<Sha256>, headers: &HeaderMap, body: &[u8]) -> bool {
    let Some(value) = headers.get("x-cv-signature") else {
        return false;
    };
    let mut tag = [0; 32];
    if value.len() != 64
        || data_encoding::HEXLOWER_PERMISSIVE
            .decode_mut(value.as_bytes(), &mut tag)
            .is_err()
    {
        return false;
    }
    let mut mac = keyed.clone();
    mac.update(body);
    mac.verify_slice(&tag).is_ok()
}

fn by_plan(
    scheme: &Scheme,
    key: &countersign::scheme::Key,
    headers: &HeaderMap,
    body: &[u8],
) -> bool {
    let head = RequestHead {
        method: &Method::POST,
        target: "/",
        headers,
        url: None,
    };
    let Ok(claim) = scheme.claim(&head, NOW) else {
        return false;
    };
    let mut check = scheme.start(claim, [key]);
    check.update(body);
    check.finish() == Verdict::Match(0)
}

fn plan(c: &mut Criterion) {
    let scheme = catalogue::compile("carevalidate", &BTreeMap::new())
        .unwrap_or_else(|_| panic!("the catalogue has it"));
    let (secret, keyed) = (
        secret(),
        Hmac::<Sha256>::new_from_slice(secret().expose()).expect("any length will do"),
    );
    let key = scheme.key(&secret).expect("any text is a key");
    for size in [0, 1 << 10, 16 << 10, 256 << 10, 4 << 20] {
        let body = vec![b'x'; size];
        let headers: HeaderMap = scheme
            .sign(&secret, &body, NOW)
            .expect("it signs")
            .into_iter()
            .collect();
        assert!(by_hand(&keyed, &headers, &body) && by_plan(&scheme, &key, &headers, &body));
        let mut group = c.benchmark_group(format!("check/{size}"));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function("by_hand", |b| {
            b.iter(|| by_hand(&keyed, black_box(&headers), black_box(&body)))
        });
        group.bench_function("by_plan", |b| {
            b.iter(|| by_plan(&scheme, &key, black_box(&headers), black_box(&body)))
        });
        group.finish();
    }
}

/// A head as CareValidate's HTTP client could send it.
fn request() -> Request<()> {
    let mut request = Request::post("/webhooks/carevalidate")
        .body(())
        .expect("it is valid");
    for (name, value) in [
        ("host", "hooks.example.org"),
        ("content-type", "application/json"),
        ("content-length", "1024"),
        ("user-agent", "axios/1.7.2"),
        ("accept", "application/json, text/plain, */*"),
        ("accept-encoding", "gzip, compress, deflate, br"),
        (
            "x-cv-signature",
            "54e36358504629843b4c0a9568c44f468580fc0d26b89dc00078206a001ef151",
        ),
        ("connection", "keep-alive"),
    ] {
        request.headers_mut().append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    request
}

fn head(c: &mut Criterion) {
    let peer = Arc::new(Peer::new(Some([192, 0, 2, 7].into()), true, false, None));
    let identity = Identity::new(&HeaderName::from_static("countersign-verified"));
    let flags = Flags {
        scheme: Some("carevalidate".into()),
        secret_file: Some("unused".into()),
        upstream: vec!["http://127.0.0.1:1".into()],
        ..Flags::default()
    };
    let config = load(&Source::None, &[], &flags)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .config;
    let route = Route::new(0, &config.routes[0], Vec::new());
    let (parts, ()) = request().into_parts();
    c.bench_function("head/check", |b| {
        b.iter(|| Head::new(black_box(parts.clone()), peer.clone(), 32 << 10).is_ok())
    });
    let head = Head::new(parts.clone(), peer.clone(), 32 << 10)
        .unwrap_or_else(|rejection| panic!("{rejection}"));
    c.bench_function("head/outbound", |b| {
        b.iter(|| {
            outbound_headers(black_box(&head).headers.clone(), &head, &route, &identity).len()
        })
    });
    c.bench_function("head/clone_for_reference", |b| {
        b.iter(|| black_box(&head.headers).clone().len())
    });
}

criterion_group!(benches, plan, head);
criterion_main!(benches);
