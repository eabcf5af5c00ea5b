//! Every vector of a provider in the catalogue, and the forgeries made of it, through claim, start, update and finish.
//!
//! The vectors were made without this code; `tests/vectors/makers/README.md` says by whom and who agreed.

use std::{collections::BTreeMap, fs};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rustls::pki_types::{CertificateDer, TrustAnchor, pem::PemObject as _};

use self::recorded::{Sent, folder, positives, traps};
use super::*;
use crate::clock::UnixTime;

#[path = "../../tests/shared/vectors.rs"]
mod recorded;

/// A request's parts as the scheme takes them.
struct Parts {
    method: Method,
    headers: HeaderMap,
}

impl Parts {
    fn of(sent: &Sent) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &sent.headers {
            let value =
                HeaderValue::from_bytes(value).map_err(|_| "not a header value".to_owned())?;
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        Ok(Self {
            method: Method::from_bytes(sent.method.as_bytes()).unwrap(),
            headers,
        })
    }

    fn request<'a>(&'a self, sent: &'a Sent) -> Request<'a> {
        Request {
            head: RequestHead {
                method: &self.method,
                target: &sent.target,
                headers: &self.headers,
                url: sent.url.as_deref(),
            },
            body: &sent.body,
        }
    }
}

fn authority() -> &'static CertificateDer<'static> {
    static AUTHORITY: std::sync::OnceLock<CertificateDer<'static>> = std::sync::OnceLock::new();
    AUTHORITY.get_or_init(|| {
        CertificateDer::from_pem_file(folder().join("makers/keys/authority.crt.pem")).unwrap()
    })
}

/// The whole path of a request: whether it verifies, or why not.
fn verify(scheme: &Scheme, sent: &Sent) -> Result<(), String> {
    judge(scheme, sent).map(drop)
}

/// The same, and what tells it from others, where the scheme is guarded.
fn judge(scheme: &Scheme, sent: &Sent) -> Result<Option<Vec<u8>>, String> {
    let parts = Parts::of(sent)?;
    let request = parts.request(sent);
    let head = request.head;
    let now = UnixTime::from_secs(sent.now);
    let mut keys = Vec::new();
    for secret in &sent.secrets {
        let secret = Secret::new(secret.clone()).map_err(|error| error.to_string())?;
        keys.push(
            scheme
                .key(&secret)
                .map_err(|error| format!("key {error}"))?,
        );
    }
    let claim = scheme
        .claim(&head, now)
        .map_err(|error| error.to_string())?;
    if keys.is_empty() && scheme.fetches_keys() {
        let needed = scheme
            .key_request(
                &request,
                Some(&Secret::new(b"credential".to_vec()).unwrap()),
            )
            .map_err(|error| error.to_string())?
            .ok_or("nothing to fetch")?;
        let document = sent
            .fetched
            .get(&needed.url)
            .ok_or_else(|| format!("no document at {}", needed.url))?;
        let root: TrustAnchor<'_> = webpki::anchor_from_trusted_cert(authority()).unwrap();
        let fetched = scheme
            .fetched_keys(&FetchedDocument {
                body: document.as_bytes(),
                roots: &[root],
                now,
            })
            .map_err(|error| format!("document {error}"))?;
        keys.extend(fetched.into_iter().map(|fetched| fetched.key));
    }
    let mut check = scheme.start(claim, &keys);
    let mut rest = &sent.body[..];
    for size in [1, 7, 64, 1021].into_iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, tail) = rest.split_at(size.min(rest.len()));
        check.update(piece);
        rest = tail;
    }
    let (verdict, seen) = if check.needs_body() {
        let (verdict, _) = check
            .finish_whole(&request)
            .map_err(|error| error.to_string())?;
        (verdict, scheme.fingerprint(&request))
    } else {
        check.finish_told_apart()
    };
    match verdict {
        Verdict::Match(_) => Ok(seen.map(|seen| seen.to_bytes())),
        Verdict::Mismatch | Verdict::Unsigned => Err("mismatch".into()),
    }
}

#[test]
fn every_vector_is_told_apart_where_its_scheme_can_be_guarded() {
    let (mut by_id, mut by_fingerprint) = (0, 0);
    for vector in positives() {
        let mut scheme = vector.compiled().unwrap();
        if scheme.guard().is_err() {
            continue;
        }
        let sent = vector.sent();
        let fingerprint = judge(&scheme, &sent).unwrap();
        let parts = Parts::of(&sent).unwrap();
        let id = scheme.delivery_id(&parts.request(&sent));
        match (scheme.is_told_by_id().then_some(id).flatten(), fingerprint) {
            (Some(_), _) => by_id += 1,
            (None, Some(_)) => by_fingerprint += 1,
            (None, None) => panic!("{}: nothing tells it apart", vector.name()),
        }
    }
    println!("{by_id} by id, {by_fingerprint} by fingerprint");
    assert!(by_id > 100 && by_fingerprint > 300);
}

#[test]
fn every_vector_verifies() {
    let mut wrong = Vec::new();
    let mut good = 0;
    for vector in positives() {
        let outcome = vector.compiled().and_then(|scheme| {
            let sent = vector.sent();
            verify(&scheme, &sent)?;
            // A recorded event id is the one that the scheme names, if it names one at all.
            let parts = Parts::of(&sent)?;
            let id = scheme.delivery_id(&parts.request(&sent));
            let id = id.map(|id| String::from_utf8_lossy(&id).into_owned());
            let elsewhere = ["kinde", "paypal"].contains(&&*vector.provider);
            match (&vector.event_id, id) {
                (Some(want), Some(id))
                    if *want != id && scheme.covers_id() == Some(true) && !elsewhere =>
                {
                    Err(format!("the id is {id}, not {want}"))
                }
                _ => Ok(()),
            }
        });
        match outcome {
            Ok(()) => good += 1,
            Err(error) => wrong.push(format!("{}: {error}", vector.name())),
        }
    }
    println!("{good} vectors verify");
    assert!(
        wrong.is_empty(),
        "{good} verify, {} do not:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(good > 700);
}

#[test]
fn every_recorded_trap_is_refused() {
    let mut passed = Vec::new();
    let mut refused = 0;
    for vector in traps() {
        match vector.compiled() {
            Err(error) => passed.push(format!("{}: {error}", vector.name())),
            Ok(scheme) => match verify(&scheme, &vector.sent()) {
                Ok(()) => passed.push(vector.name()),
                Err(_) => refused += 1,
            },
        }
    }
    println!("{refused} traps refused");
    assert!(
        passed.is_empty(),
        "{refused} refused, {} not:\n{}",
        passed.len(),
        passed.join("\n")
    );
    assert!(refused > 240);
}

#[test]
fn every_forgery_is_refused() {
    let mut passed = Vec::new();
    let mut refused = 0;
    for vector in positives() {
        let scheme = vector.compiled().unwrap();
        for forgery in vector.forgeries() {
            match verify(&scheme, &forgery.sent) {
                Ok(()) if vector.may_pass(&forgery) => {}
                Ok(()) => passed.push(format!("{}: {}", vector.name(), forgery.what)),
                Err(_) => refused += 1,
            }
        }
    }
    println!("{refused} forgeries refused");
    assert!(
        passed.is_empty(),
        "{refused} refused, {} not:\n{}",
        passed.len(),
        passed.join("\n")
    );
    assert!(refused > 13_000);
}

/// Signs a request anew, in the place of its own signature and time.
fn sign_again(scheme: &Scheme, sent: &Sent, secret: &[u8]) -> Result<Sent, SignError> {
    let plan = scheme.plan.as_ref().unwrap();
    let mut again = sent.clone();
    again.headers.retain(|(name, _)| {
        let is_it = |own: &HeaderName| name.eq_ignore_ascii_case(own.as_str());
        let time = plan.timestamp.as_ref().map(|time| &time.place);
        !plan.signature.headers().any(is_it)
            && !matches!(time, Some(Place::Header(own)) if is_it(own))
    });
    let parts = Parts::of(&again).unwrap();
    let secret = Secret::new(secret.to_vec()).unwrap();
    let now = UnixTime::from_secs(sent.now);
    let head = parts.request(sent).head;
    let signed = scheme.sign_request(&secret, &head, &sent.body, now, None)?;
    for (name, value) in &signed.headers {
        let is_it = |known: &str| known.eq_ignore_ascii_case(name.as_str());
        again.headers.retain(|(known, _)| !is_it(known));
        let value = value.as_bytes().to_vec();
        again.headers.push((name.to_string(), value));
    }
    if let Some(target) = signed.target {
        again.target = target;
    }
    if let Some(body) = signed.body {
        again.body = body;
    }
    Ok(again)
}

#[test]
fn what_a_shared_secret_signs_verifies() {
    let mut wrong = Vec::new();
    let mut good = 0;
    let mut seen = Vec::new();
    for vector in positives() {
        let name = vector.scheme_name();
        if seen.contains(&name) || vector.secrets.is_empty() {
            continue;
        }
        let scheme = vector.compiled().unwrap();
        seen.push(name.clone());
        let sent = vector.sent();
        match sign_again(&scheme, &sent, &sent.secrets[0]) {
            Err(SignError::PublicKey) => {}
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(again) => match verify(&scheme, &again) {
                Ok(()) => good += 1,
                Err(error) => wrong.push(format!("{name}: {error}")),
            },
        }
    }
    println!("{good} schemes sign");
    assert!(
        wrong.is_empty(),
        "{good} sign, {} do not:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(good > 10);
}

#[test]
fn what_a_private_key_signs_verifies_with_its_public_key() {
    let keys = ["ed25519", "p256", "p521", "rsa"]
        .map(|name| fs::read(folder().join(format!("makers/keys/{name}.pem"))).unwrap());
    let (mut good, mut bad) = (BTreeMap::new(), BTreeMap::new());
    for vector in positives() {
        let scheme = vector.compiled().unwrap();
        let sent = vector.sent();
        let plan = scheme.plan.as_ref().unwrap();
        // RSA with SHA-1 is only verified.
        let signs = plan.algorithms.iter().any(|algorithm| {
            matches!(
                algorithm,
                Algorithm::Public(public) | Algorithm::Jose(_, JoseAlgorithm::Public(public))
                    if *public != PublicAlgorithm::RsaSha1
            )
        });
        if !signs || sent.secrets.is_empty() || verify(&scheme, &sent).is_err() {
            continue;
        }
        let name = vector.scheme_name();
        let found = keys.iter().find_map(|key| {
            let again = sign_again(&scheme, &sent, key).ok()?;
            verify(&scheme, &again).ok()
        });
        match found {
            Some(()) => good.insert(name, vector.id),
            None => bad.insert(name, vector.id),
        };
    }
    bad.retain(|name, _| !good.contains_key(name));
    println!("{} schemes sign: {:?}", good.len(), good.keys());
    assert!(bad.is_empty(), "{} sign, these do not: {bad:?}", good.len());
    assert!(good.len() > 10);
}

/// What receivers get wrong with the providers that most of them are written for: the named vector has to pass, or the named trap be
/// refused. `tests/vectors/makers/` says of each trap why.
const LEADING: [(&str, &str); 20] = [
    // The secret is base64 behind a prefix; the time is signed as it came; versions; the separator; both directions of time; v1a.
    (
        "standard-webhooks",
        "text-secret time-leading-zero time-plus-sign time-fraction time-inner-blank \
         version-missing v1a-label comma-list separator-in-id 301-seconds-old 301-seconds-ahead \
         hmac-by-public-key hmac-by-public-key-as-v1a v1a-as-v1 v1a-other-key v1a-301-seconds-old \
         unknown-version-skipped",
    ),
    // The secret is text; `v0` proves nothing; one time, in seconds, before the body.
    (
        "stripe",
        "text-secret decoded-secret v0-alone v0-beside-v1 two-times two-times-fresh-first no-time \
         body-first milliseconds 301-seconds-old 301-seconds-ahead",
    ),
    // The raw body, a form's too; no weaker hash.
    (
        "github",
        "form-raw-body form-field not-utf8-body sha1-in-256-header sha1-under-sha256-name \
         prefix-missing reserialised-body unescaped-body trimmed-body",
    ),
    (
        "slack",
        "form-raw-body form-encoded-anew prefix-missing body-first no-separator 301-seconds-old \
         301-seconds-ahead",
    ),
    (
        "shopify",
        "hex big-number-body reserialised-body unescaped-body trimmed-body",
    ),
    // The URL with and without the usual port, its query, the sorted form, callbacks by GET, the body's digest.
    (
        "twilio",
        "with-default-port without-default-port form-get form-repeated-keys http-for-https \
         decoded-url other-host query-left-out unsorted-form form-left-out json-by-form-scheme \
         body-digest-missing digest-of-another-body",
    ),
    (
        "square",
        "trailing-slash http-for-https other-host body-alone hex",
    ),
    // No separator; the public key is no shared secret.
    (
        "discord",
        "body-alone separator hmac-by-public-key 301-seconds-old 301-seconds-ahead",
    ),
    (
        "sendgrid",
        "raw-signature trimmed-body body-alone 301-seconds-old 301-seconds-ahead",
    ),
    // Time and token are signed, not the event.
    (
        "mailgun",
        "first-value form-last-value-counts signature-in-event-data signature-twice \
         time-as-number-elsewhere 301-seconds-old 301-seconds-ahead",
    ),
    // Every item of the array; the key is hex.
    (
        "adyen",
        "second-item-bad second-item-unsigned no-items text-key success-flipped other-currency \
         no-value separator-in-event",
    ),
    // The certificate's address, the topic, the version, the listed fields.
    (
        "aws-sns",
        "certificate-host-suffix certificate-userinfo certificate-bucket certificate-plain-http \
         certificate-not-pem certificate-port other-topic other-topic-pinned sha1-as-version-2 \
         sha1-as-version-2-pinned version-1-by-version-2-scheme subject-added \
         notification-as-confirmation",
    ),
    (
        "paypal",
        "foreign-certificate other-webhook-id other-webhook-id-pinned crc-in-hex \
         crc-of-another-body other-algorithm sha1-under-sha256-name",
    ),
    // The algorithm is ours to choose, the digest is of the raw body, the age counts.
    (
        "plaid",
        "hs256-by-public-key alg-none der-signature digest-missing digest-of-compact-body \
         six-minutes six-minutes-ahead no-time",
    ),
    // v3: method, URL, body and time in milliseconds; v1 and v2 are plain hashes and not one another.
    (
        "hubspot",
        "v3-decoded-url v3-http-for-https v3-other-method v3-body-alone time-first v3-seconds \
         v3-301-seconds-old v3-301-seconds-ahead hex v2-hmac v1-as-v2",
    ),
    // Numbered headers, from 1 without a gap.
    (
        "docusign",
        "default-second-header default-twelfth-header no-number number-zero number-gap hex \
         reserialised-body unescaped-body trimmed-body",
    ),
    // The header may come twice while a secret is rotated, and is not a list.
    (
        "mollie",
        "two-headers two-headers-first-good two-headers-both-bad joined-by-comma prefix-missing \
         reserialised-body unescaped-body trimmed-body",
    ),
    // Body before time; two keys; escapes are not undone.
    (
        "box",
        "primary-both primary-secondary-only primary-first-replaced time-first time-not-signed \
         unescaped-body version-2 other-algorithm hex 601-seconds-old 601-seconds-ahead",
    ),
    (
        "zoom",
        "prefix-missing no-version-in-content time-not-signed 301-seconds-old 301-seconds-ahead",
    ),
    (
        "meta",
        "escaped-body unescaped-body reserialised-body trimmed-body sha1-in-256-header \
         sha1-under-sha256-name prefix-missing",
    ),
];

#[test]
fn the_leading_providers_have_all_of_their_traps() {
    let (positives, traps) = (positives(), traps());
    let mut missing = Vec::new();
    for (provider, names) in LEADING {
        let named = |vector: &&recorded::Vector| vector.provider == provider;
        let known: Vec<_> = positives
            .iter()
            .chain(&traps)
            .filter(named)
            .map(|vector| &vector.id)
            .collect();
        let names: Vec<_> = names.split_whitespace().collect();
        for name in &names {
            let long = format!("{provider}-{name}");
            if !known.iter().any(|id| **id == long || id == name) {
                missing.push(long);
            }
        }
        // None is forgotten here either.
        for trap in traps.iter().filter(named) {
            let short = trap
                .id
                .strip_prefix(&format!("{provider}-"))
                .unwrap_or(&trap.id);
            if !names.contains(&short) && !trap.id.starts_with("standard-webhooks-time-") {
                missing.push(format!("{} in the list", trap.id));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
