//! What one request costs inside: hashing, plan evaluation, head handling.
//!
//! `cargo bench --bench micro`; one case: `cargo bench --bench micro -- check/stripe`.

mod sample;

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use countersign::{
    clock::UnixTime,
    forward::{Identity, Instance, outbound_headers},
    receive::{Head, Peer},
    replay::{Admission, IdKey, MemoryStore, Settlement},
    route::Route,
    scheme::{RequestHead, Scheme, Verdict, catalogue},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, Method};
use sample::{NOW, config, request, secret};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

/// A check written by hand: what a plan is measured against.
type ByHand = fn(&Hmac<Sha256>, &HeaderMap, &[u8]) -> bool;

fn carevalidate_by_hand(keyed: &Hmac<Sha256>, headers: &HeaderMap, body: &[u8]) -> bool {
    let Some(tag) = only(headers, "x-cv-signature").and_then(tag) else {
        return false;
    };
    let mut mac = keyed.clone();
    mac.update(body);
    mac.verify_slice(&tag).is_ok()
}

fn github_by_hand(keyed: &Hmac<Sha256>, headers: &HeaderMap, body: &[u8]) -> bool {
    let value = only(headers, "x-hub-signature-256");
    let Some(tag) = value
        .and_then(|value| value.strip_prefix(b"sha256="))
        .and_then(tag)
    else {
        return false;
    };
    let mut mac = keyed.clone();
    mac.update(body);
    mac.verify_slice(&tag).is_ok()
}

fn stripe_by_hand(keyed: &Hmac<Sha256>, headers: &HeaderMap, body: &[u8]) -> bool {
    let Some(value) = only(headers, "stripe-signature") else {
        return false;
    };
    let (mut time, mut tags) = (None, Vec::with_capacity(2));
    for item in value.split(|byte| *byte == b',') {
        if let Some(text) = item.strip_prefix(b"v1=") {
            let Some(tag) = tag(text) else {
                return false;
            };
            tags.push(tag);
        } else if let Some(text) = item.strip_prefix(b"t=")
            && time.replace(text).is_some()
        {
            return false;
        }
    }
    let Some(time) = time else {
        return false;
    };
    let digits = std::str::from_utf8(time).ok();
    let Some(signed) = digits.and_then(|digits| digits.parse().ok()) else {
        return false;
    };
    if UnixTime::from_secs(signed).distance(NOW).as_secs() > 300 {
        return false;
    }
    let mut mac = keyed.clone();
    mac.update(time);
    mac.update(b".");
    mac.update(body);
    let computed = mac.finalize().into_bytes();
    tags.iter()
        .fold(0, |any, tag| any | computed.ct_eq(tag).unwrap_u8())
        == 1
}

fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first.as_bytes())
}

fn tag(text: &[u8]) -> Option<[u8; 32]> {
    let mut tag = [0; 32];
    let fits = text.len() == 64
        && data_encoding::HEXLOWER_PERMISSIVE
            .decode_mut(text, &mut tag)
            .is_ok();
    fits.then_some(tag)
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

/// Bytes of a push event of one commit, as GitHub sent it: <https://github.com/mcfoggy/github-api-events>.
const GITHUB_PUSH: usize = 7_415;

/// Bytes of a `charge.succeeded`, as Stripe sent it: `lib/stripe_mock/webhook_fixtures/charge.succeeded.json` in
/// <https://github.com/stripe-ruby-mock/stripe-ruby-mock>.
const STRIPE_CHARGE: usize = 3_444;

fn plan(c: &mut Criterion) {
    let (secret, keyed) = (
        secret(),
        Hmac::<Sha256>::new_from_slice(secret().expose()).expect("any length will do"),
    );
    for (name, by_hand, sizes) in [
        (
            "carevalidate",
            carevalidate_by_hand as ByHand,
            &[0, 1 << 10, 16 << 10, 256 << 10, 4 << 20][..],
        ),
        ("github", github_by_hand, &[1 << 10, GITHUB_PUSH]),
        ("stripe", stripe_by_hand, &[1 << 10, STRIPE_CHARGE]),
    ] {
        let scheme = catalogue::compile(name, &BTreeMap::new())
            .unwrap_or_else(|_| panic!("the catalogue has it"));
        let key = scheme.key(&secret).expect("any text is a key");
        for size in sizes {
            let body = vec![b'x'; *size];
            let headers: HeaderMap = scheme
                .sign(&secret, &body, NOW)
                .expect("it signs")
                .into_iter()
                .collect();
            assert!(by_hand(&keyed, &headers, &body) && by_plan(&scheme, &key, &headers, &body));
            let mut group = c.benchmark_group(format!("check/{name}/{size}"));
            group.throughput(Throughput::Bytes(*size as u64));
            group.bench_function("by_hand", |b| {
                b.iter(|| by_hand(&keyed, black_box(&headers), black_box(&body)))
            });
            group.bench_function("by_plan", |b| {
                b.iter(|| by_plan(&scheme, &key, black_box(&headers), black_box(&body)))
            });
            group.finish();
            println!(
                "{name}, {size} bytes: the plan takes {:.3} times what the hand takes",
                ratio(
                    || by_plan(&scheme, &key, black_box(&headers), black_box(&body)),
                    || by_hand(&keyed, black_box(&headers), black_box(&body)),
                )
            );
        }
    }
}

/// What `a` takes in terms of `b`: the two run in turns, and of each the shortest turn counts, since noise only ever adds.
fn ratio(mut a: impl FnMut() -> bool, mut b: impl FnMut() -> bool) -> f64 {
    fn turn(run: &mut impl FnMut() -> bool, times: u32) -> Duration {
        let began = Instant::now();
        for _ in 0..times {
            black_box(run());
        }
        began.elapsed()
    }
    let once = turn(&mut b, 10) / 10;
    let times = u32::try_from(Duration::from_millis(1).as_nanos() / once.as_nanos().max(1))
        .unwrap_or(1)
        .max(1);
    let turns = (0..300).map(|_| (turn(&mut a, times), turn(&mut b, times)));
    let (a, b) = turns.fold(
        (Duration::MAX, Duration::MAX),
        |(a, b), (this_a, this_b)| (a.min(this_a), b.min(this_b)),
    );
    a.as_secs_f64() / b.as_secs_f64()
}

fn head(c: &mut Criterion) {
    let nobody = Arc::default();
    let peer = Arc::new(Peer::new(Some([192, 0, 2, 7].into()), true, nobody, None));
    let identity = Identity::new(
        &HeaderName::from_static("countersign-verified"),
        &Instance::default(),
    );
    let config = config();
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

/// A delivery that succeeds, start to end, in a store that is full, so that the oldest gives way each time: the id, `admit`, `settle`.
fn replay(c: &mut Criterion) {
    let key = IdKey::new(&[7; 32]);
    for entries in [1_000_000, 10_000_000] {
        let begin = tokio::time::Instant::now();
        let store = MemoryStore::new(entries, begin);
        let mut count = 0_u64;
        let mut deliver = || {
            count += 1;
            let now = begin + Duration::from_micros(count);
            let id = key.id("cases", black_box(&count.to_le_bytes()));
            let Admission::Granted(token) = store.admit(id, Duration::from_secs(45), now) else {
                return false;
            };
            let settlement = Settlement::Succeeded {
                status: 200,
                window: Duration::from_secs(86_400),
            };
            store.settle(id, token, settlement, now);
            true
        };
        for _ in 0..entries + entries / 8 {
            assert!(deliver(), "ids are new");
        }
        c.bench_function(&format!("replay/delivery/{entries}"), |b| {
            b.iter(&mut deliver)
        });
        println!(
            "replay: {} entries in {} bytes, {:.1} each",
            store.entries(),
            store.bytes(),
            store.bytes() as f64 / store.entries() as f64
        );
    }
    let identity = [7; 33];
    c.bench_function("replay/id", |b| {
        b.iter(|| key.id("cases", black_box(&identity)))
    });
}

criterion_group!(benches, plan, head, replay);
criterion_main!(benches);
