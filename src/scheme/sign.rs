//! The sender's side: what a scheme puts on a request. For `sign`, `send` and `demo`.

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    KeyError, KeyMaterial, PublicAlgorithm, Request, Scheme, SignatureHeaders,
    claim::ClaimError,
    context::RequestHead,
    jose::Token as Jwt,
    json,
    locate::{Items, Site},
    plan::{Algorithm, Encoding, JoseAlgorithm, Plan, Shape},
    private::{PrivateKey, looks_private},
    template::{Place, Source},
    time::TimeUnit,
};
use crate::{clock::UnixTime, secret::Secret};

/// Why a scheme cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// `none` has no signature.
    #[error("the scheme `none` signs nothing")]
    Unsigned,
    /// The secret holds bytes that cannot stand in a header, where a token scheme puts it.
    #[error("the secret cannot be sent as a header value: it holds a control character")]
    TokenUnprintable,
    /// Only the provider has the private key.
    #[error("the secret is a public key: only the private key, in PEM, can sign")]
    PublicKey,
    /// A private key of another kind, or for an algorithm that is only verified.
    #[error("this private key cannot sign for the scheme: {0}")]
    PrivateKey(&'static str),
    /// The secret is not of the scheme's form.
    #[error("the secret")]
    Key(#[source] KeyError),
    /// Headers were asked for, and the signature stands in none.
    #[error("the signature of this scheme stands in the body or the query, not in a header")]
    NotInHeader,
    /// The signature stands in the body, which has no place for it.
    #[error(
        "the signature of this scheme stands in the body, which has no place for it; put any text there first"
    )]
    NoPlace,
    /// A part that is signed is missing.
    #[error("the request cannot be signed")]
    Part(#[source] ClaimError),
}

/// What a sender puts on a request.
pub struct Signed {
    /// Headers to add. Their values are marked sensitive.
    pub headers: SignatureHeaders,
    /// Path and query with the signature in them, where it stands in the query.
    pub target: Option<String>,
    /// The body with the signature in it, where it stands in the body.
    pub body: Option<Vec<u8>>,
}

impl Scheme {
    /// Makes the headers with which a sender signs `body` at the time `now`, as a POST to `/`. The values are marked sensitive.
    ///
    /// # Errors
    /// [`SignError`] if the scheme or the secret is not of a kind that can sign, or the signature stands in no header.
    pub fn sign(
        &self,
        secret: &Secret,
        body: &[u8],
        now: UnixTime,
    ) -> Result<SignatureHeaders, SignError> {
        let head = RequestHead {
            method: &Method::POST,
            target: "/",
            headers: &HeaderMap::new(),
            url: None,
        };
        let signed = self.sign_request(secret, &head, body, now, None)?;
        if signed.target.is_some() || signed.body.is_some() {
            return Err(SignError::NotInHeader);
        }
        Ok(signed.headers)
    }

    /// Signs a request that has this head, and maybe a delivery id in it already. `key_id` is what a token names its key by.
    ///
    /// # Errors
    /// [`SignError`] if the scheme or the secret is not of a kind that can sign, or a signed part is missing.
    pub fn sign_request(
        &self,
        secret: &Secret,
        head: &RequestHead<'_>,
        body: &[u8],
        now: UnixTime,
        key_id: Option<&str>,
    ) -> Result<Signed, SignError> {
        let plan = self.plan.as_ref().ok_or(SignError::Unsigned)?;
        let key = SigningKey::read(plan, secret.expose())?;
        let header = match &plan.signature.site {
            Site::Header(header) => Some(header.clone()),
            Site::Numbered(names) => names.first().cloned(),
            Site::Place(_) => None,
        };
        let mut headers = head.headers.clone();
        let mut added = SignatureHeaders::new();
        let mut add =
            |headers: &mut HeaderMap, name: &HeaderName, value: &[u8]| -> Result<(), SignError> {
                let value = sensitive(value)?;
                headers.insert(name.clone(), value.clone());
                added.push((name.clone(), value));
                Ok(())
            };
        if plan.shape == Shape::Token {
            let mut value = plan
                .signature
                .prefixes
                .first()
                .map(|prefix| prefix.text.to_vec())
                .unwrap_or_default();
            match plan.encoding {
                None => value.extend_from_slice(secret.expose()),
                Some(encoding) => {
                    value.extend_from_slice(encode(encoding, secret.expose()).as_bytes())
                }
            }
            return match header {
                Some(header) => {
                    add(&mut headers, &header, &value)?;
                    Ok(Signed {
                        headers: added,
                        target: None,
                        body: None,
                    })
                }
                None => plan.put_elsewhere(head, body, added, &|_| Ok(value.clone())),
            };
        }
        let mut items = Items::default();
        let mut listed: Vec<(String, Vec<u8>)> = Vec::new();
        if let Some(timestamp) = &plan.timestamp {
            let written = write_time(timestamp.unit, now);
            match &timestamp.place {
                Place::Header(name) => add(&mut headers, name, written.as_bytes())?,
                Place::Item(name) => {
                    items.push(name, written.clone().into_bytes());
                    listed.push((name.to_string(), written.into_bytes()));
                }
                Place::Query(_)
                | Place::Form(_)
                | Place::Json(_)
                | Place::Claim(_)
                | Place::Protected(_)
                | Place::Body => {}
            }
        }
        // Items that the content holds besides: a sender has something to say there.
        for name in plan.signature.list.iter().flat_map(|list| &list.read) {
            if items.get(name).is_none() {
                items.push(name, &b"test"[..]);
                listed.push((name.to_string(), b"test".to_vec()));
            }
        }
        let signed_headers = HeaderName::from_static("x-contentful-signed-headers");
        if plan.headers.contains(&signed_headers) && !headers.contains_key(&signed_headers) {
            let list = b"x-contentful-signed-headers,x-contentful-timestamp";
            add(&mut headers, &signed_headers, list)?;
        }
        if let Some(Place::Header(name)) = &plan.id
            && !headers.contains_key(name)
        {
            add(
                &mut headers,
                name,
                format!("msg_{}", now.millis()).as_bytes(),
            )?;
        }
        for requirement in &plan.require {
            if let [Place::Header(name)] = &*requirement.places
                && !head.headers.contains_key(name)
                && let Some(wanted) = requirement.wanted.first()
            {
                let mut context = plan.context(*head);
                context.body = Some(body);
                let value = context.fill(wanted, None).map_err(SignError::Part)?;
                add(&mut headers, name, &value.concat())?;
            }
        }
        let mut label = None;
        if plan.signature.structured {
            // RFC 9421: what is signed, and how, stands in a header beside the signature.
            let name = HeaderName::from_static("signature-input");
            let components = "\"content-digest\"";
            let input = format!(
                "({components});created={};keyid=\"{}\"",
                now.secs(),
                key_id.unwrap_or("test")
            );
            add(&mut headers, &name, format!("sig1={input}").as_bytes())?;
            items.push("components", components.as_bytes());
            items.push("input", input.into_bytes());
            label = Some("sig1");
        }
        let signed_head = RequestHead {
            headers: &headers.clone(),
            ..*head
        };
        let mut context = plan.context(signed_head);
        context.body = Some(body);
        let document = plan
            .document_of(&Request {
                head: signed_head,
                body,
            })
            .ok();
        context.document = document
            .as_deref()
            .and_then(|document| std::str::from_utf8(document).ok());
        context.items = Some(&items);
        let value = |star: Option<&str>| -> Result<Vec<u8>, SignError> {
            let mut context = context;
            // The item's own text, which lives as long as the body.
            context.star = match (star, &plan.signature.site) {
                (Some(_), Site::Place(Place::Json(pointer))) => {
                    json::items(context.document.unwrap_or_default(), pointer)
                        .ok()
                        .and_then(|items| items.into_iter().find(|item| Some(*item) == star))
                }
                _ => None,
            };
            match plan.shape {
                Shape::Jwt => plan
                    .write_jwt(&key, &context, now, key_id)
                    .map(String::into_bytes),
                Shape::Jws => plan
                    .write_jws(&key, &context, key_id)
                    .map(String::into_bytes),
                Shape::Tag | Shape::PublicKey => {
                    let template = plan.contents.first().ok_or(SignError::NoPlace)?;
                    let content = context
                        .fill(template, key.secret())
                        .map_err(SignError::Part)?
                        .concat();
                    let place = key.algorithm(plan)?;
                    let tag = key.sign(plan, place, &content)?;
                    let tag = encode(plan.encoding.unwrap_or(Encoding::Hex), &tag);
                    Ok(match label {
                        Some(label) => format!("{label}=:{tag}:"),
                        None => plan.write_value(&tag, place, &listed),
                    }
                    .into_bytes())
                }
                Shape::Token => Err(SignError::PublicKey),
            }
        };
        let Some(header) = header else {
            return plan.put_elsewhere(head, body, added, &value);
        };
        let value = value(None)?;
        let mut all = SignatureHeaders::new();
        all.push((header, sensitive(&value)?));
        all.extend(added);
        Ok(Signed {
            headers: all,
            target: None,
            body: None,
        })
    }
}

/// What signs: a secret that both sides share, or the provider's private key.
enum SigningKey {
    Shared(Box<KeyMaterial>),
    Private(PrivateKey),
}

impl SigningKey {
    fn read(plan: &Plan, secret: &[u8]) -> Result<Self, SignError> {
        if looks_private(secret) && plan.algorithms.iter().any(|one| public(one).is_some()) {
            return PrivateKey::read(secret)
                .map(Self::Private)
                .map_err(SignError::Key);
        }
        plan.key(secret)
            .map(|key| Self::Shared(Box::new(key)))
            .map_err(SignError::Key)
    }

    /// The place of the first of the scheme's algorithms that it can sign with.
    fn algorithm(&self, plan: &Plan) -> Result<usize, SignError> {
        let fits = |place: usize| match (self, plan.algorithms.get(place).and_then(public)) {
            (Self::Shared(key), _) => key.hasher(place).is_some(),
            (Self::Private(key), Some(algorithm)) => key.sign(algorithm, b"").is_some(),
            (Self::Private(_), None) => false,
        };
        (0..plan.algorithms.len())
            .find(|place| fits(*place))
            .ok_or(match self {
                Self::Shared(_) => SignError::PublicKey,
                Self::Private(_) => SignError::PrivateKey(
                    "it is of another kind, or the scheme is RSA with SHA-1, which is only verified",
                ),
            })
    }

    fn sign(&self, plan: &Plan, place: usize, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match (self, plan.algorithms.get(place).and_then(public)) {
            (Self::Shared(key), _) => {
                let mut hasher = key.hasher(place).cloned().ok_or(SignError::PublicKey)?;
                hasher.update(message);
                Some(hasher.tag().as_bytes().to_vec())
            }
            (Self::Private(key), Some(algorithm)) => key.sign(algorithm, message),
            (Self::Private(_), None) => None,
        }
        .ok_or(SignError::PublicKey)
    }

    /// The key bytes, where the content holds them.
    fn secret(&self) -> Option<&[u8]> {
        match self {
            Self::Shared(key) => key.secret(),
            Self::Private(_) => None,
        }
    }
}

fn public(algorithm: &Algorithm) -> Option<PublicAlgorithm> {
    match algorithm {
        Algorithm::Public(public) | Algorithm::Jose(_, JoseAlgorithm::Public(public)) => {
            Some(*public)
        }
        Algorithm::Token | Algorithm::Hmac(_) | Algorithm::Digest(_) | Algorithm::Jose(..) => None,
    }
}

/// The signature's value, for one item of an array or for the whole request.
type Value<'a> = dyn Fn(Option<&str>) -> Result<Vec<u8>, SignError> + 'a;

impl Plan {
    /// Puts a signature that stands in no header where it belongs.
    fn put_elsewhere(
        &self,
        head: &RequestHead<'_>,
        body: &[u8],
        headers: SignatureHeaders,
        value: &Value<'_>,
    ) -> Result<Signed, SignError> {
        let mut signed = Signed {
            headers,
            target: None,
            body: None,
        };
        let with_field = |fields: &[u8], name: &str, value: &[u8]| {
            let mut kept: Vec<Vec<u8>> = fields
                .split(|byte| *byte == b'&')
                .filter(|field| {
                    !field.is_empty()
                        && field.split(|byte| *byte == b'=').next() != Some(name.as_bytes())
                })
                .map(<[u8]>::to_vec)
                .collect();
            kept.push([name.as_bytes(), b"=", &escaped(value)].concat());
            kept.join(&b'&')
        };
        match &self.signature.site {
            Site::Place(Place::Query(name)) => {
                let query = with_field(head.query().as_bytes(), name, &value(None)?);
                signed.target = Some(format!(
                    "{}?{}",
                    head.path(),
                    String::from_utf8_lossy(&query)
                ));
            }
            Site::Place(Place::Form(name)) => {
                signed.body = Some(with_field(body, name, &value(None)?))
            }
            Site::Place(Place::Body) => signed.body = Some(value(None)?),
            Site::Place(Place::Json(pointer)) => {
                let document = self
                    .document_of(&Request { head: *head, body })
                    .map_err(SignError::Part)?;
                let document = std::str::from_utf8(&document).map_err(|_| SignError::NoPlace)?;
                let stars: Vec<_> = match pointer.has_star() {
                    true => json::items(document, pointer)
                        .map_err(|_| SignError::NoPlace)?
                        .into_iter()
                        .map(Some)
                        .collect(),
                    false => vec![None],
                };
                let mut signed_body = body.to_vec();
                // From the end, so that places before stay where they are.
                for star in stars.into_iter().rev() {
                    let raw = json::find(document, pointer, star)
                        .ok()
                        .flatten()
                        .ok_or(SignError::NoPlace)?;
                    let text = String::from_utf8_lossy(&value(star)?).into_owned();
                    let text = serde_json::to_string(&text).map_err(|_| SignError::NoPlace)?;
                    let at = (raw.as_ptr() as usize)
                        .checked_sub(body.as_ptr() as usize)
                        .ok_or(SignError::NoPlace)?;
                    if at
                        .checked_add(raw.len())
                        .is_none_or(|end| end > signed_body.len())
                    {
                        return Err(SignError::NoPlace);
                    }
                    signed_body.splice(at..at + raw.len(), text.into_bytes());
                }
                signed.body = Some(signed_body);
            }
            Site::Place(_) | Site::Header(_) | Site::Numbered(_) => return Err(SignError::NoPlace),
        }
        Ok(signed)
    }

    /// The tag as the signature's grammar writes it.
    fn write_value(&self, tag: &str, algorithm: usize, listed: &[(String, Vec<u8>)]) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let with_algorithm = |prefixes: &[super::locate::Prefix]| {
            prefixes
                .iter()
                .find(|prefix| prefix.algorithm == algorithm)
                .map_or_else(String::new, |prefix| text(&prefix.text))
        };
        let Some(list) = &self.signature.list else {
            return format!("{}{tag}", with_algorithm(&self.signature.prefixes));
        };
        let mut items: Vec<_> = listed
            .iter()
            .map(|(name, value)| match &list.assign {
                Some(assign) => format!("{name}{}{}", text(assign), text(value)),
                None => text(value),
            })
            .collect();
        items.push(format!("{}{tag}", with_algorithm(&list.tags)));
        items.sort_by_key(|item| {
            let place = |begin: &[u8]| item.as_bytes().starts_with(begin);
            list.order.iter().position(|begin| place(begin))
        });
        items.join(&text(&list.separator))
    }

    /// A token with the claims that the scheme asks for.
    fn write_jwt(
        &self,
        key: &SigningKey,
        context: &super::context::Context<'_>,
        now: UnixTime,
        key_id: Option<&str>,
    ) -> Result<String, SignError> {
        let place = key.algorithm(self)?;
        let mut claims = serde_json::Map::new();
        for requirement in &self.require {
            if let (Some(Place::Claim(name)), Some(wanted)) =
                (requirement.places.first(), requirement.wanted.first())
            {
                let value = context
                    .fill(wanted, None)
                    .map_err(SignError::Part)?
                    .concat();
                let value = String::from_utf8_lossy(&value).into_owned();
                match &*value {
                    "" => {}
                    "true" => drop(claims.insert(name.to_string(), true.into())),
                    _ => drop(claims.insert(name.to_string(), value.into())),
                }
            }
        }
        claims.insert("iat".into(), now.secs().into());
        claims.insert("nbf".into(), now.secs().into());
        claims.insert("exp".into(), now.secs().saturating_add(300).into());
        if let Some(Place::Claim(id)) = &self.id {
            claims
                .entry(id.to_string())
                .or_insert_with(|| format!("msg_{}", now.millis()).into());
        }
        let mut header = self.token_header(place, key_id);
        header["typ"] = "JWT".into();
        let signed = format!(
            "{}.{}",
            token_part(&header),
            token_part(&serde_json::Value::Object(claims))
        );
        let signature = key.sign(self, place, signed.as_bytes())?;
        Ok(format!(
            "{}{signed}.{}",
            self.token_prefix(),
            BASE64URL_NOPAD.encode(&signature)
        ))
    }

    /// A token whose payload is elsewhere.
    fn write_jws(
        &self,
        key: &SigningKey,
        context: &super::context::Context<'_>,
        key_id: Option<&str>,
    ) -> Result<String, SignError> {
        let place = key.algorithm(self)?;
        let template = self.contents.first().ok_or(SignError::NoPlace)?;
        let mut header = self.token_header(place, key_id);
        if template.tokens().all(|token| token.filters.is_empty()) {
            // The payload is signed as it is (RFC 7797).
            header["b64"] = false.into();
            header["crit"] = serde_json::json!(["b64"]);
        }
        for token in template.tokens() {
            if let (Source::Canonical(canonical), Some(Place::Header(time))) =
                (&token.source, context.timestamp)
            {
                canonical.announce(time, &mut header);
            }
        }
        let protected = token_part(&header);
        // Parsed like a received one, so that what is signed is what a receiver will see. Its signature is not looked at.
        let token =
            Jwt::parse(format!("{protected}..AA").as_bytes(), true).ok_or(SignError::NoPlace)?;
        let mut context = *context;
        context.jwt = Some(&token);
        let content = context
            .fill(template, None)
            .map_err(SignError::Part)?
            .concat();
        let signature = key.sign(self, place, &content)?;
        Ok(format!(
            "{}{protected}..{}",
            self.token_prefix(),
            BASE64URL_NOPAD.encode(&signature)
        ))
    }

    /// What a token says of itself.
    fn token_header(&self, place: usize, key_id: Option<&str>) -> serde_json::Value {
        let mut header = serde_json::json!({});
        if let Some(Algorithm::Jose(name, _)) = self.algorithms.get(place) {
            header["alg"] = name.alg.into();
        }
        if let Some(id) = key_id {
            header["kid"] = id.into();
        }
        header
    }

    fn token_prefix(&self) -> String {
        let first = self.signature.prefixes.first();
        first.map_or_else(String::new, |prefix| {
            String::from_utf8_lossy(&prefix.text).into_owned()
        })
    }
}

fn token_part(json: &serde_json::Value) -> String {
    BASE64URL_NOPAD.encode(json.to_string().as_bytes())
}

fn encode(encoding: Encoding, bytes: &[u8]) -> String {
    match encoding {
        Encoding::Hex => data_encoding::HEXLOWER.encode(bytes),
        Encoding::Base64 | Encoding::Base64Url | Encoding::Base64UrlNoPad => {
            encoding.codec().encode(bytes)
        }
    }
}

/// A value as a form or a query holds it.
fn escaped(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}

fn write_time(unit: TimeUnit, time: UnixTime) -> String {
    match unit {
        TimeUnit::Seconds | TimeUnit::SecondsOrMilliseconds => time.secs().to_string(),
        TimeUnit::Milliseconds => time.millis().to_string(),
        // Whole seconds, as most senders: a fraction's dot would be taken for a separator.
        TimeUnit::Rfc3339 => UnixTime::from_secs(time.secs())
            .to_string()
            .replace(".000Z", "Z"),
    }
}

fn sensitive(bytes: &[u8]) -> Result<HeaderValue, SignError> {
    let mut value = HeaderValue::from_bytes(bytes).map_err(|_| SignError::TokenUnprintable)?;
    value.set_sensitive(true);
    Ok(value)
}
