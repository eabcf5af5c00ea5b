//! Every vector of a provider in the catalogue, and the forgeries made of it, through claim, start, update and finish.
//!
//! The vectors were made without this code; `tests/vectors/makers/README.md` says by whom and who agreed.

use std::{collections::BTreeMap, fs, path::Path};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rustls::pki_types::{CertificateDer, TrustAnchor, pem::PemObject as _};
use serde::Deserialize;

use super::*;
use crate::clock::UnixTime;

#[derive(Deserialize)]
struct File {
    provider: Option<String>,
    vectors: Vec<Vector>,
}

#[derive(Deserialize, Clone)]
struct Vector {
    provider: Option<String>,
    id: String,
    scheme: String,
    now: i64,
    secrets: Vec<String>,
    #[serde(default)]
    params: BTreeMap<String, String>,
    public_url: Option<String>,
    #[serde(default)]
    fetched: BTreeMap<String, String>,
    request: Recorded,
    event_id: Option<String>,
}

#[derive(Deserialize, Clone)]
struct Recorded {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    body_base64: Option<String>,
}

/// A request that can be changed.
#[derive(Clone)]
struct Sent {
    method: Method,
    target: String,
    url: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    now: i64,
    secrets: Vec<Vec<u8>>,
    fetched: BTreeMap<String, String>,
}

fn provider_of(id: &str) -> Option<spec::ProviderSpec> {
    catalogue::provider(id).map(|known| known.spec)
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors"))
}

impl Vector {
    fn sent(&self) -> Sent {
        let body = match (&self.request.body, &self.request.body_base64) {
            (Some(body), _) => body.clone().into_bytes(),
            (None, Some(body)) => data_encoding::BASE64.decode(body.as_bytes()).unwrap(),
            (None, None) => Vec::new(),
        };
        Sent {
            method: Method::from_bytes(self.request.method.as_bytes()).unwrap(),
            target: self.request.target.clone(),
            url: self.public_url.clone(),
            headers: self
                .request
                .headers
                .iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value.clone().into_bytes()))
                .collect(),
            body,
            now: self.now,
            secrets: self
                .secrets
                .iter()
                .map(|secret| secret.clone().into_bytes())
                .collect(),
            fetched: self.fetched.clone(),
        }
    }

    fn scheme(&self, provider: &str) -> Result<Scheme, String> {
        let spec = provider_of(provider)
            .and_then(|mut known| known.scheme.remove(&self.scheme))
            .ok_or("no such scheme")?;
        Scheme::compile(&format!("{provider}:{}", self.scheme), &spec, &self.params).map_err(
            |errors| {
                errors
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; ")
            },
        )
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
    let mut headers = HeaderMap::new();
    for (name, value) in &sent.headers {
        let value = HeaderValue::from_bytes(value).map_err(|_| "not a header value".to_owned())?;
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    let now = UnixTime::from_secs(sent.now);
    let head = RequestHead {
        method: &sent.method,
        target: &sent.target,
        headers: &headers,
        url: sent.url.as_deref(),
    };
    let request = Request {
        head,
        body: &sent.body,
    };
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
    match check.finish_whole(&request) {
        Ok((Verdict::Match(_), _)) => Ok(()),
        Ok(_) => Err("mismatch".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn files() -> Vec<(String, Vec<Vector>)> {
    let mut all: Vec<_> = fs::read_dir(folder().join("providers"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let file: File = serde_json::from_slice(&fs::read(&path).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (
                file.provider
                    .unwrap_or_else(|| path.file_stem().unwrap().to_str().unwrap().to_owned()),
                file.vectors,
            )
        })
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.retain(|(provider, _)| provider_of(provider).is_some());
    all
}

#[test]
fn every_vector_verifies() {
    let mut wrong = Vec::new();
    let mut good = 0;
    for (provider, vectors) in files() {
        for vector in vectors {
            let outcome = vector.scheme(&provider).and_then(|scheme| {
                let sent = vector.sent();
                verify(&scheme, &sent)?;
                // A recorded event id is the one that the scheme names, if it names one at all.
                let mut headers = HeaderMap::new();
                for (name, value) in &sent.headers {
                    headers.append(
                        HeaderName::from_bytes(name.as_bytes()).unwrap(),
                        HeaderValue::from_bytes(value).unwrap(),
                    );
                }
                let head = RequestHead {
                    method: &sent.method,
                    target: &sent.target,
                    headers: &headers,
                    url: sent.url.as_deref(),
                };
                let id = scheme
                    .delivery_id(&Request {
                        head,
                        body: &sent.body,
                    })
                    .map(|id| String::from_utf8_lossy(&id).into_owned());
                match (&vector.event_id, id) {
                    (Some(want), Some(id))
                        if *want != id
                            && scheme.covers_id() == Some(true)
                            && !["kinde", "paypal"].contains(&&*provider) =>
                    {
                        Err(format!("the id is {id}, not {want}"))
                    }
                    _ => Ok(()),
                }
            });
            match outcome {
                Ok(()) => good += 1,
                Err(error) => wrong.push(format!(
                    "{provider}:{} {}: {error}",
                    vector.scheme, vector.id
                )),
            }
        }
    }
    println!("{good} vectors verify");
    assert!(
        wrong.is_empty(),
        "{} verify, {} do not:\n{}",
        good,
        wrong.len(),
        wrong.join("\n")
    );
    assert!(good > 50);
}

#[test]
fn every_recorded_trap_is_refused() {
    let file: File =
        serde_json::from_slice(&fs::read(folder().join("negatives.json")).unwrap()).unwrap();
    let mut passed = Vec::new();
    let mut refused = 0;
    for vector in file.vectors {
        let provider = vector.provider.clone().unwrap();
        if provider_of(&provider).is_none() {
            continue;
        }
        match vector.scheme(&provider) {
            Err(error) => passed.push(format!("{provider} {}: {error}", vector.id)),
            Ok(scheme) => match verify(&scheme, &vector.sent()) {
                Ok(()) => passed.push(format!("{provider}:{} {} passes", vector.scheme, vector.id)),
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
}

/// What a forgery is made of.
struct Forgery {
    what: &'static str,
    sent: Sent,
}

fn with_header(sent: &Sent, at: usize, value: Vec<u8>) -> Sent {
    let mut sent = sent.clone();
    sent.headers[at].1 = value;
    sent
}

fn form_items(value: &[u8], separator: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(value).into_owned();
    let separator = String::from_utf8_lossy(separator).into_owned();
    text.split(&separator)
        .map(|item| item.trim().as_bytes().to_vec())
        .collect()
}

/// The forgeries of a request whose signature stands in headers: each of them has to be refused.
fn forgeries(scheme: &Scheme, sent: &Sent) -> Vec<Forgery> {
    let mut all = Vec::new();
    let mut add = |what, sent| all.push(Forgery { what, sent });
    let plan = scheme.plan.as_ref().unwrap();
    let signature: Vec<_> = plan
        .signature
        .headers()
        .map(|name| name.as_str().to_owned())
        .collect();
    let signed: Vec<_> = (0..sent.headers.len())
        .filter(|at| signature.contains(&sent.headers[*at].0))
        .collect();
    let others = sent
        .headers
        .iter()
        .filter(|(name, _)| signature.contains(name))
        .count()
        > 1;

    // The tag. Where several are presented any good one is enough, so all are changed at once.
    let every = |change: &dyn Fn(&[u8]) -> Vec<u8>| {
        let mut forged = sent.clone();
        for at in &signed {
            forged.headers[*at].1 = change(&sent.headers[*at].1);
        }
        forged
    };
    if !signed.is_empty()
        && plan.signature.list.is_none()
        && plan.encoding.is_none_or(|_| plan.shape != Shape::Token)
    {
        add("junk behind the tag", every(&|tag| [tag, b"x"].concat()));
        add("a zero behind the tag", every(&|tag| [tag, b"0"].concat()));
        add("a blank behind the tag", every(&|tag| [tag, b" "].concat()));
        add(
            "the tag is cut",
            every(&|tag| tag[..tag.len() - 1].to_vec()),
        );
        add("half the tag", every(&|tag| tag[..tag.len() / 2].to_vec()));
        add(
            "the tag twice in one value",
            every(&|tag| [tag, b",", tag].concat()),
        );
        add(
            "the tag twice without a comma",
            every(&|tag| [tag, tag].concat()),
        );
    }
    if let Some(list) = &plan.signature.list
        && !others
        && !signed.is_empty()
    {
        let at = signed[0];
        let value = &sent.headers[at].1;
        // Items that the scheme does not know are left alone.
        let last = form_items(value, &list.separator).pop().unwrap_or_default();
        if list.tags.iter().any(|tag| last.starts_with(&tag.text)) {
            add(
                "junk behind the list",
                with_header(sent, at, [value, &b"x"[..]].concat()),
            );
        }
        let first = [&b"junk"[..], &list.separator, value].concat();
        add("an item without a name", with_header(sent, at, first));
    }
    if !signed.is_empty() {
        add("an empty signature", every(&|_| Vec::new()));
        add(
            "no signature",
            Sent {
                headers: sent
                    .headers
                    .iter()
                    .filter(|(name, _)| !signature.contains(name))
                    .cloned()
                    .collect(),
                ..sent.clone()
            },
        );
        if !plan.signature.repeated {
            let mut twice = sent.clone();
            twice
                .headers
                .extend(signed.iter().map(|at| sent.headers[*at].clone()));
            add("the signature header twice", twice);
        }
        add(
            "every digit changed",
            every(&|tag| {
                tag.iter()
                    .map(|byte| match byte {
                        b'0'..=b'8' | b'a'..=b'e' => byte + 1,
                        b'9' => b'0',
                        b'f' => b'a',
                        b'A'..=b'Y' => byte + 1,
                        _ => *byte,
                    })
                    .collect()
            }),
        );
    }
    // Keys.
    let wrong = |secret: &[u8]| -> Vec<u8> {
        let mut secret = secret.to_vec();
        // In the middle, where every encoding means something by it.
        let at = secret.len() / 2;
        secret[at] = match secret[at] {
            b'A' | b'a' | b'1' => secret[at] + 1,
            byte if byte.is_ascii_lowercase() => b'a',
            byte if byte.is_ascii_uppercase() => b'A',
            _ => b'1',
        };
        secret
    };
    add(
        "another key",
        Sent {
            secrets: sent.secrets.iter().map(|secret| wrong(secret)).collect(),
            ..sent.clone()
        },
    );
    // The body.
    if scheme.covers_body() {
        for at in [0, sent.body.len() / 2, sent.body.len().saturating_sub(1)] {
            if at < sent.body.len() {
                let mut forged = sent.clone();
                forged.body[at] ^= 1;
                add("a bit of the body", forged);
            }
        }
        add(
            "a byte behind the body",
            Sent {
                body: [&sent.body[..], b" "].concat(),
                ..sent.clone()
            },
        );
        add(
            "a line end behind the body",
            Sent {
                body: [&sent.body[..], b"\n"].concat(),
                ..sent.clone()
            },
        );
        if !sent.body.is_empty() {
            add(
                "no body",
                Sent {
                    body: Vec::new(),
                    ..sent.clone()
                },
            );
        }
    }
    // The time.
    if let Some(tolerance) = scheme.tolerance() {
        let far = i64::try_from(tolerance.as_secs()).unwrap() + 5;
        let is_end = plan
            .timestamp
            .as_ref()
            .is_some_and(|timestamp| timestamp.is_end);
        if !is_end {
            add(
                "a clock behind",
                Sent {
                    now: sent.now - 2 * far - 5,
                    ..sent.clone()
                },
            );
        }
        add(
            "a clock ahead",
            Sent {
                now: sent.now + far + if is_end { 100_000 } else { 0 },
                ..sent.clone()
            },
        );
    }
    // Every signed header: missing, changed, twice.
    let mut covered: Vec<&Place> = plan
        .contents
        .iter()
        .flat_map(template::Template::places)
        .collect();
    let asks = |source: &template::Source| {
        plan.contents.iter().any(|content| {
            content
                .tokens()
                .any(|token| token.source == *source && !token.optional)
        })
    };
    if asks(&template::Source::Timestamp) {
        covered.extend(plan.timestamp.iter().map(|timestamp| &timestamp.place));
    }
    if asks(&template::Source::Id) {
        covered.extend(plan.id.iter());
    }
    for at in 0..sent.headers.len() {
        let name = &sent.headers[at].0;
        if !covered
            .iter()
            .any(|place| matches!(place, Place::Header(known) if known.as_str() == name))
            || signature.contains(name)
        {
            continue;
        }
        let optional = plan.contents.iter().any(|content| content.parts.iter().any(|part| matches!(part, template::Part::Section(Place::Header(known), _) if known.as_str() == name)));
        let mut without = sent.clone();
        without.headers.remove(at);
        add("a signed header is missing", without);
        if !optional {
            add(
                "a signed header is empty",
                with_header(sent, at, Vec::new()),
            );
        }
        let mut twice = sent.clone();
        twice.headers.push(sent.headers[at].clone());
        add("a signed header twice", twice);
        let mut changed = sent.headers[at].1.clone();
        let last = changed.len() - 1;
        changed[last] = if changed[last] == b'1' { b'2' } else { b'1' };
        add("a signed header is changed", with_header(sent, at, changed));
        if plan.timestamp.as_ref().is_some_and(
            |timestamp| matches!(&timestamp.place, Place::Header(known) if known.as_str() == name),
        ) {
            for value in [
                "now",
                "+1764000000",
                " 1764000000",
                "1764000000.0",
                "0x5",
                "-1",
                "99999999999999999999",
                "2025-11-24",
            ] {
                add(
                    "a time that is none",
                    with_header(sent, at, value.as_bytes().to_vec()),
                );
            }
        }
    }
    if scheme.signs_url()
        && let Some(url) = &sent.url
    {
        add(
            "another URL",
            Sent {
                url: Some(format!("{url}x")),
                ..sent.clone()
            },
        );
        add(
            "http for https",
            Sent {
                url: Some(url.replacen("https", "http", 1)),
                ..sent.clone()
            },
        );
    }
    all
}

/// Where a changed body may pass, and why. Everything else is refused.
fn may_pass(name: &str, what: &str) -> bool {
    let body = what.contains("body");
    match name {
        // Values of fields are signed, not the bytes around them.
        "twilio:form" | "mandrill:default" | "plivo:v3" | "adyen:standard" | "aws-sns:v1"
        | "aws-sns:v2" => body,
        // The document is signed in a form of its own, to which blanks do not belong.
        "inngest:default" => what.ends_with("behind the body"),
        _ => false,
    }
}

#[test]
fn every_forgery_is_refused() {
    let mut passed = Vec::new();
    let mut refused = 0;
    for (provider, vectors) in files() {
        for vector in vectors {
            let Ok(scheme) = vector.scheme(&provider) else {
                continue;
            };
            let sent = vector.sent();
            if verify(&scheme, &sent).is_err() {
                continue;
            }
            for forgery in forgeries(&scheme, &sent) {
                // A changed key set may have changed beside the key.
                let same = forgery.what == "another key"
                    && sent
                        .secrets
                        .iter()
                        .all(|secret| secret.is_empty() || secret[0] == b'{');
                match verify(&scheme, &forgery.sent) {
                    Ok(()) if same || may_pass(scheme.name(), forgery.what) => {}
                    Ok(()) => passed.push(format!(
                        "{provider}:{} {}: {}",
                        vector.scheme, vector.id, forgery.what
                    )),
                    Err(_) => refused += 1,
                }
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
    assert!(refused > 500);
}

#[test]
fn what_a_shared_secret_signs_verifies() {
    let mut wrong = Vec::new();
    let mut good = 0;
    for (provider, vectors) in files() {
        let mut seen = Vec::new();
        for vector in vectors {
            if seen.contains(&vector.scheme) || vector.secrets.is_empty() {
                continue;
            }
            let Ok(scheme) = vector.scheme(&provider) else {
                continue;
            };
            seen.push(vector.scheme.clone());
            let sent = vector.sent();
            let now = UnixTime::from_secs(sent.now);
            let secret = Secret::new(sent.secrets[0].clone()).unwrap();
            let plan = scheme.plan.as_ref().unwrap();
            let mut headers = HeaderMap::new();
            for (name, value) in &sent.headers {
                let made = plan.signature.headers().any(|own| own.as_str() == name);
                let time = plan.timestamp.as_ref().is_some_and(
                    |time| matches!(&time.place, Place::Header(own) if own.as_str() == name),
                );
                if !made && !time {
                    headers.append(
                        HeaderName::from_bytes(name.as_bytes()).unwrap(),
                        HeaderValue::from_bytes(value).unwrap(),
                    );
                }
            }
            let head = RequestHead {
                method: &sent.method,
                target: &sent.target,
                headers: &headers,
                url: sent.url.as_deref(),
            };
            match scheme.sign_request(&secret, &head, &sent.body, now) {
                Err(SignError::PublicKey) => {}
                Err(error) => wrong.push(format!("{provider}:{}: {error}", vector.scheme)),
                Ok(signed) => {
                    let mut again = sent.clone();
                    again.headers.clear();
                    again.headers.extend(
                        headers
                            .iter()
                            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())),
                    );
                    for (name, value) in &signed.headers {
                        again.headers.retain(|(known, _)| known != name.as_str());
                        again
                            .headers
                            .push((name.to_string(), value.as_bytes().to_vec()));
                    }
                    if let Some(target) = signed.target {
                        again.target = target;
                    }
                    if let Some(body) = signed.body {
                        again.body = body;
                    }
                    match verify(&scheme, &again) {
                        Ok(()) => good += 1,
                        Err(error) => wrong.push(format!("{provider}:{}: {error}", vector.scheme)),
                    }
                }
            }
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
