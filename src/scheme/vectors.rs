//! Every vector of a provider in the catalogue, and the forgeries made of it, through claim, start, update and finish.
//!
//! The vectors were made without this code; `tests/vectors/makers/README.md` says by whom and who agreed.

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
    assert!(refused > 130);
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
        let now = UnixTime::from_secs(sent.now);
        let secret = Secret::new(sent.secrets[0].clone()).unwrap();
        let plan = scheme.plan.as_ref().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in &sent.headers {
            let name = &name.to_ascii_lowercase();
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
        let method = Method::from_bytes(sent.method.as_bytes()).unwrap();
        let head = RequestHead {
            method: &method,
            target: &sent.target,
            headers: &headers,
            url: sent.url.as_deref(),
        };
        match scheme.sign_request(&secret, &head, &sent.body, now) {
            Err(SignError::PublicKey) => {}
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(signed) => {
                let mut again = sent.clone();
                again.headers.clear();
                again.headers.extend(
                    headers
                        .iter()
                        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())),
                );
                for (name, value) in &signed.headers {
                    again
                        .headers
                        .retain(|(known, _)| !known.eq_ignore_ascii_case(name.as_str()));
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
                    Err(error) => wrong.push(format!("{name}: {error}")),
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
