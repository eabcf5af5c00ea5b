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
        let spec = catalogue::provider(provider)
            .and_then(|mut known| known.spec.scheme.remove(&self.scheme))
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
        let key = scheme
            .fetched_key(&FetchedDocument {
                body: document.as_bytes(),
                roots: &[root],
                now,
            })
            .map_err(|error| format!("document {error}"))?;
        keys.push(key);
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
    all.retain(|(provider, _)| catalogue::provider(provider).is_some());
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
                    (Some(want), Some(id)) if *want != id && scheme.covers_id() == Some(true) => {
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
        if catalogue::provider(&provider).is_none() {
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
