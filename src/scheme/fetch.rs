//! Keys that are fetched: which document is needed, and what it gives. Fetching itself is done elsewhere.

use http::HeaderName;
use rustls::pki_types::{
    CertificateDer, ServerName, TrustAnchor, UnixTime as PkiTime, pem::PemObject as _,
};
use std::{sync::Arc, time::Duration};
use zeroize::Zeroize as _;

use super::{
    Key, KeyError, KeyMaterial, Request, Scheme,
    claim::ClaimError,
    context::Context,
    json::{self, Pointer},
    keys,
    locate::Site,
    plan::{Algorithm, FetchPlan, JoseAlgorithm, Plan, Shape},
    template::{Part, Place, Source, Template},
};
use crate::{clock::UnixTime, secret::Secret};

/// The document that holds a request's key. No `Debug`, and wiped when dropped: body and headers may hold a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRequest {
    /// An `https` address; its host is fixed by the scheme, or one of those that the scheme allows.
    pub url: String,
    /// A JSON body to send by POST; `None`: GET.
    pub post: Option<String>,
    /// Headers to send along.
    pub headers: Vec<(HeaderName, String)>,
    /// Whether the request says which document it is: then anyone can ask for others. Otherwise there is one.
    pub named: bool,
    /// The id of the key within the document, where the request has a token that names one.
    pub key_id: Option<String>,
}

impl Drop for KeyRequest {
    fn drop(&mut self) {
        self.post.zeroize();
        for (_, value) in &mut self.headers {
            value.zeroize();
        }
    }
}

/// What came back, and what to judge it by.
#[derive(Clone, Copy)]
pub struct FetchedDocument<'a> {
    /// The answer's body.
    pub body: &'a [u8],
    /// Authorities that certificates may be signed by.
    pub roots: &'a [TrustAnchor<'a>],
    /// The present moment.
    pub now: UnixTime,
}

/// A key of a fetched document.
#[derive(Clone)]
pub struct FetchedKey {
    /// Its id, where the document gives it one.
    pub id: Option<String>,
    /// The key.
    pub key: Key,
}

impl FetchedKey {
    /// Whether it can be the key that goes by this id. A key without one can be any.
    pub fn is_named(&self, id: &str) -> bool {
        self.id.as_deref().is_none_or(|own| own == id)
    }
}

impl Scheme {
    /// Whether keys are fetched where the operator pinned none.
    pub fn fetches_keys(&self) -> bool {
        self.fetch_plan()
            .is_some_and(|fetch| !fetch.url.parts.is_empty())
    }

    /// Whether the key server wants to know who asks.
    pub fn fetches_with_secret(&self) -> bool {
        self.fetch_plan().is_some_and(|fetch| {
            let headers = fetch.headers.iter().map(|(_, template)| template);
            fetch
                .post
                .iter()
                .chain(headers)
                .flat_map(Template::tokens)
                .any(|token| token.source == Source::Secret)
        })
    }

    fn fetch_plan(&self) -> Option<&FetchPlan> {
        self.plan.as_ref()?.fetch.as_ref()
    }

    /// The document that holds the key of this request; `None` if the scheme, or the operator's parameters, name none.
    ///
    /// # Errors
    /// If the request names an address that the scheme does not allow, or lacks what the address is made of.
    pub fn key_request(
        &self,
        request: &Request<'_>,
        secret: Option<&Secret>,
    ) -> Result<Option<KeyRequest>, ClaimError> {
        let Some(plan) = self.plan_for(&request.head) else {
            return Ok(None);
        };
        let Some(fetch) = &plan.fetch else {
            return Ok(None);
        };
        let mut known = plan.context(request.head);
        known.body = Some(request.body);
        let document = plan
            .needs_document
            .then(|| plan.document_of(request))
            .transpose()?;
        known.document = document
            .as_deref()
            .and_then(|document| std::str::from_utf8(document).ok());
        // Of several tokens the first says where the keys are: it is one issuer that signs them all.
        if let Site::Place(Place::Json(pointer)) = &plan.signature.site
            && pointer.has_star()
        {
            let items = json::items(known.document.unwrap_or_default(), pointer);
            known.star = items.ok().and_then(|items| items.into_iter().next());
        }
        let values = plan.signature.values(&known)?;
        let (candidates, items) = plan.signature.split(&values, &known)?;
        let mut context = known;
        let token = match (plan.shape, &*candidates) {
            (Shape::Jwt | Shape::Jws, [candidate, ..]) => Some(plan.jwt(candidate.text)?),
            _ => None,
        };
        context.items = Some(&items);
        context.jwt = token.as_ref();
        let secret = secret.map(Secret::expose);
        let text = |template: &Template| fill(&context, template, secret);
        let url = fetch.url(&context, secret)?;
        if url.is_empty() {
            return Ok(None);
        }
        Ok(Some(KeyRequest {
            url,
            post: fetch.post.as_ref().map(text).transpose()?,
            headers: fetch
                .headers
                .iter()
                .map(|(name, template)| Ok((name.clone(), text(template)?)))
                .collect::<Result<_, ClaimError>>()?,
            named: fetch.is_named(),
            key_id: token.and_then(|token| token.header_text("kid")),
        }))
    }

    /// The keys of a fetched document; at least one.
    ///
    /// # Errors
    /// If it holds none that the scheme can use, or a certificate that does not hold.
    pub fn fetched_keys(
        &self,
        document: &FetchedDocument<'_>,
    ) -> Result<Vec<FetchedKey>, KeyError> {
        let plan = self.plan.as_ref().ok_or(KeyError::NoKey)?;
        let fetch = plan.fetch.as_ref().ok_or(KeyError::NoKey)?;
        let found;
        let text = match &fetch.pointer {
            None => document.body,
            Some(pointer) => {
                found = inner(document.body, pointer).ok_or(KeyError::Form(
                    "a document with the key where the scheme says",
                ))?;
                &found
            }
        };
        if let Some(name) = &fetch.certificate {
            certificate(text, name, document)?;
        }
        let keys: Vec<_> = keys::document(text)?
            .into_iter()
            .filter(|key| plan.public().any(|algorithm| key.fits(algorithm)))
            .map(|key| FetchedKey {
                id: key.id().map(str::to_owned),
                key: Key(KeyMaterial::Public(Arc::new(vec![key]))),
            })
            .collect();
        if keys.is_empty() {
            return Err(KeyError::NoKey);
        }
        Ok(keys)
    }
}

impl Plan {
    fn public(&self) -> impl Iterator<Item = keys::PublicAlgorithm> {
        self.algorithms
            .iter()
            .filter_map(|algorithm| match algorithm {
                Algorithm::Public(public) | Algorithm::Jose(_, JoseAlgorithm::Public(public)) => {
                    Some(*public)
                }
                Algorithm::Token
                | Algorithm::Hmac(_)
                | Algorithm::Digest(_)
                | Algorithm::Jose(..) => None,
            })
    }
}

fn inner(body: &[u8], pointer: &Pointer) -> Option<Vec<u8>> {
    let raw = json::find(std::str::from_utf8(body).ok()?, pointer, None).ok()??;
    Some(json::text(raw).map_or_else(|| raw.as_bytes().to_vec(), |text| text.into_owned()))
}

fn fill(
    context: &Context<'_>,
    template: &Template,
    secret: Option<&[u8]>,
) -> Result<String, ClaimError> {
    let parts = context.fill(template, secret)?;
    String::from_utf8(parts.concat())
        .map_err(|_| ClaimError::BodyMalformed("not UTF-8 where a key's address stands"))
}

impl FetchPlan {
    fn url(&self, context: &Context<'_>, secret: Option<&[u8]>) -> Result<String, ClaimError> {
        let place = self.url.places().next().cloned().unwrap_or(Place::Body);
        if !self.is_fixed() {
            let url = fill(context, &self.url, secret)?;
            return if url.is_empty() || self.allows(&url) {
                Ok(url)
            } else {
                Err(ClaimError::RequirementFailed(place))
            };
        }
        // A key id is one segment of a path or one value of a query: it may not lead elsewhere.
        for token in self.url.tokens() {
            if let Source::Place(_) = token.source {
                let one = Template {
                    parts: vec![Part::Token(token.clone())],
                };
                let value = fill(context, &one, secret)?;
                let plain = value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
                if !plain || value.len() > 256 || value.bytes().all(|byte| byte == b'.') {
                    return Err(ClaimError::PartMalformed(place));
                }
            }
        }
        fill(context, &self.url, secret)
    }

    /// Whether the request says which document it is.
    fn is_named(&self) -> bool {
        let headers = self.headers.iter().map(|(_, template)| template);
        [&self.url]
            .into_iter()
            .chain(&self.post)
            .chain(headers)
            .flat_map(Template::tokens)
            .any(|token| !matches!(token.source, Source::Secret | Source::Text(_)))
    }

    /// Whether the template itself names the host.
    pub(super) fn is_fixed(&self) -> bool {
        match self.url.parts.first() {
            None => true,
            Some(Part::Text(text)) => text
                .strip_prefix(b"https://")
                .is_some_and(|rest| rest.contains(&b'/') || self.url.parts.len() == 1),
            Some(Part::Token(_) | Part::Section(..)) => false,
        }
    }

    /// `https`, a host of the list, the usual port, no user, a path.
    pub(super) fn allows(&self, url: &str) -> bool {
        is_pinned(url, &self.hosts).is_some_and(|path| {
            self.path
                .as_ref()
                .is_none_or(|pattern| path_matches(pattern, path))
        })
    }
}

/// Whether an address that came with a request may be asked: `https`, a host of the list, the usual port, no user, a path.
/// Gives path and query.
pub(super) fn is_pinned<'u>(url: &'u str, hosts: &[String]) -> Option<&'u str> {
    let rest = url.strip_prefix("https://")?;
    let (host, path) = rest.split_at(rest.find('/')?);
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"#\\\"<>^`{|}".contains(&byte))
    };
    let is_host = host
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte));
    (url.len() <= 2048
        && is_host
        && plain(path)
        && hosts.iter().any(|pattern| host_matches(pattern, host)))
    .then_some(path)
}

/// Whether a path is one of a pattern: `*` is any text, but nothing that leads elsewhere.
fn path_matches(pattern: &str, path: &str) -> bool {
    if path.contains("/../") || path.contains("/./") || path.contains('?') {
        return false;
    }
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => {
            path.len() >= before.len() + after.len()
                && path.starts_with(before)
                && path.ends_with(after)
        }
    }
}

/// Whether a host is one of a pattern: `*` is one label or more.
pub(super) fn host_matches(pattern: &str, host: &str) -> bool {
    fn labels(pattern: &[&str], host: &[&str]) -> bool {
        match (pattern.split_first(), host.split_first()) {
            (None, None) => true,
            (Some((&"*", rest)), Some((label, others))) => {
                !label.is_empty() && (labels(rest, others) || labels(pattern, others))
            }
            (Some((own, rest)), Some((label, others))) => own == label && labels(rest, others),
            _ => false,
        }
    }
    let (pattern, host): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), host.split('.').collect());
    host.len() <= 10 && labels(&pattern, &host)
}

/// The first certificate is the signer's, the others may lead to an authority.
fn certificate(text: &[u8], name: &str, document: &FetchedDocument<'_>) -> Result<(), KeyError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(text)
        .take(8)
        .collect::<Result<_, _>>()
        .map_err(|_| KeyError::Form("certificates in PEM"))?;
    let (leaf, others) = chain
        .split_first()
        .ok_or(KeyError::Form("certificates in PEM"))?;
    let leaf =
        webpki::EndEntityCert::try_from(leaf).map_err(|_| KeyError::Form("a certificate"))?;
    let secs = u64::try_from(document.now.secs())
        .map_err(|_| KeyError::Certificate("the time is before 1970"))?;
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        document.roots,
        others,
        PkiTime::since_unix_epoch(Duration::from_secs(secs)),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    )
    .map_err(|_| KeyError::Certificate("it has expired, or no known authority signed it"))?;
    let name = ServerName::try_from(name)
        .map_err(|_| KeyError::Certificate("the scheme's name for it is none"))?;
    leaf.verify_is_valid_for_subject_name(&name)
        .map_err(|_| KeyError::Certificate("it is for another name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_whole_labels() {
        for (pattern, host, want) in [
            (
                "sns.*.amazonaws.com",
                "sns.eu-central-1.amazonaws.com",
                true,
            ),
            ("sns.*.amazonaws.com", "sns.amazonaws.com", false),
            (
                "sns.*.amazonaws.com",
                "sns.x.amazonaws.com.evil.example",
                false,
            ),
            ("*.paypal.com", "api.sandbox.paypal.com", true),
            ("*.paypal.com", "paypal.com", false),
            ("*.paypal.com", "evilpaypal.com", false),
            ("a.b", "a.b", true),
        ] {
            assert_eq!(host_matches(pattern, host), want, "{pattern} {host}");
        }
        let plan = FetchPlan {
            url: Template::default(),
            hosts: vec!["*.paypal.com".into()],
            path: None,
            pointer: None,
            post: None,
            headers: Vec::new(),
            certificate: None,
        };
        assert!(plan.allows("https://api.paypal.com/cert?x=1"));
        for wrong in [
            "http://api.paypal.com/",
            "https://api.paypal.com",
            "https://api.paypal.com:8443/",
            "https://u@api.paypal.com/",
            "https://api.paypal.com@evil.example/",
            "https://evil.example/?api.paypal.com/",
            "https://api.paypal.com/#x",
            "https://API.paypal.com/",
            "https://api.paypal.com\\@evil.example/",
            "https://.paypal.com/",
            "https://api.paypal.com/ä",
        ] {
            assert!(!plan.allows(wrong), "{wrong}");
        }
    }
}
