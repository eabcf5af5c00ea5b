//! The sender's side: what a scheme puts on a request. For `sign`, `send` and `demo`.

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    KeyError, KeyMaterial, Scheme, SignatureHeaders,
    claim::ClaimError,
    context::RequestHead,
    locate::{Items, Site},
    plan::{Algorithm, Encoding, JoseAlgorithm, Plan, Shape},
    template::Place,
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
    #[error("the secret is a public key: only the provider can sign")]
    PublicKey,
    /// The secret is not of the scheme's form.
    #[error("the secret")]
    Key(#[source] KeyError),
    /// The signature does not stand in a header.
    #[error(
        "the signature of this scheme stands in the body or the query; put it there before signing"
    )]
    NotInHeader,
    /// A part that is signed is missing.
    #[error("the request cannot be signed")]
    Part(#[source] ClaimError),
}

/// What a sender puts on a request.
pub struct Signed {
    /// Headers to add. Their values are marked sensitive.
    pub headers: SignatureHeaders,
}

impl Scheme {
    /// Makes the headers with which a sender signs `body` at the time `now`. The values are marked sensitive.
    ///
    /// # Errors
    /// [`SignError`] if the scheme or the secret is not of a kind that can sign.
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
        self.sign_request(secret, &head, body, now)
            .map(|signed| signed.headers)
    }

    /// Signs a request that has this head, and maybe a delivery id in it already.
    ///
    /// # Errors
    /// [`SignError`] if the scheme or the secret is not of a kind that can sign, or a signed part is missing.
    pub fn sign_request(
        &self,
        secret: &Secret,
        head: &RequestHead<'_>,
        body: &[u8],
        now: UnixTime,
    ) -> Result<Signed, SignError> {
        let plan = self.plan.as_ref().ok_or(SignError::Unsigned)?;
        let key = plan.key(secret.expose()).map_err(SignError::Key)?;
        let header = match &plan.signature.site {
            Site::Header(header) => header.clone(),
            Site::Numbered(names) => names.first().cloned().ok_or(SignError::NotInHeader)?,
            Site::Place(_) => return Err(SignError::NotInHeader),
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
            add(&mut headers, &header, &value)?;
            return Ok(Signed { headers: added });
        }
        let mut items = Items::default();
        let mut listed: Vec<(String, Vec<u8>)> = Vec::new();
        if let Some(timestamp) = &plan.timestamp {
            let written = write_time(timestamp.unit, now);
            match &timestamp.place {
                Place::Header(name) => add(&mut headers, name, written.as_bytes())?,
                Place::Item(name) => {
                    items.push(name, written.as_bytes());
                    listed.push((name.to_string(), written.into_bytes()));
                }
                _ => {}
            }
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
        let signed_head = RequestHead {
            headers: &headers.clone(),
            ..*head
        };
        let mut context = plan.context(signed_head);
        context.body = Some(body);
        context.document = std::str::from_utf8(body).ok();
        context.items = Some(&items);
        let value = match plan.shape {
            Shape::Jwt => plan.write_jwt(&key, &context, now)?,
            Shape::Tag => {
                let template = plan.contents.first().ok_or(SignError::NotInHeader)?;
                let mut hasher = key.hasher(0).ok_or(SignError::PublicKey)?;
                for part in context
                    .fill(template, key.secret())
                    .map_err(SignError::Part)?
                {
                    hasher.update(&part);
                }
                let tag = encode(
                    plan.encoding.unwrap_or(Encoding::Hex),
                    hasher.tag().as_bytes(),
                );
                plan.write_value(&tag, &listed)
            }
            Shape::PublicKey | Shape::Jws | Shape::Token => return Err(SignError::PublicKey),
        };
        let mut all = SignatureHeaders::new();
        all.push((header, sensitive(value.as_bytes())?));
        all.extend(added);
        for requirement in &plan.require {
            if let [Place::Header(name)] = &*requirement.places
                && !head.headers.contains_key(name)
                && let Some(wanted) = requirement.wanted.first()
            {
                let value = context
                    .fill(wanted, None)
                    .map_err(SignError::Part)?
                    .concat();
                all.push((name.clone(), sensitive(&value)?));
            }
        }
        Ok(Signed { headers: all })
    }
}

impl Plan {
    /// The tag as the signature's grammar writes it.
    fn write_value(&self, tag: &str, listed: &[(String, Vec<u8>)]) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let with_algorithm = |prefixes: &[super::locate::Prefix]| {
            prefixes
                .iter()
                .find(|prefix| prefix.algorithm == 0)
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
        items.join(&text(&list.separator))
    }

    /// A token with the claims that the scheme asks for.
    fn write_jwt(
        &self,
        key: &KeyMaterial,
        context: &super::context::Context<'_>,
        now: UnixTime,
    ) -> Result<String, SignError> {
        let [first, ..] = &*self.algorithms else {
            return Err(SignError::PublicKey);
        };
        let Algorithm::Jose(name, JoseAlgorithm::Hmac(_)) = first else {
            return Err(SignError::PublicKey);
        };
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
                if !value.is_empty() {
                    claims.insert(name.to_string(), value.into());
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
        let part = |text: String| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
        let header = serde_json::json!({ "alg": name.alg, "typ": "JWT" }).to_string();
        let signed = format!(
            "{}.{}",
            part(header),
            part(serde_json::Value::Object(claims).to_string())
        );
        let mut hasher = key.hasher(0).ok_or(SignError::PublicKey)?;
        hasher.update(signed.as_bytes());
        let prefix = self
            .signature
            .prefixes
            .first()
            .map(|prefix| String::from_utf8_lossy(&prefix.text).into_owned())
            .unwrap_or_default();
        Ok(format!(
            "{prefix}{signed}.{}",
            data_encoding::BASE64URL_NOPAD.encode(hasher.tag().as_bytes())
        ))
    }
}

fn encode(encoding: Encoding, bytes: &[u8]) -> String {
    match encoding {
        Encoding::Hex => data_encoding::HEXLOWER.encode(bytes),
        Encoding::Base64 | Encoding::Base64Url | Encoding::Base64UrlNoPad => {
            encoding.codec().encode(bytes)
        }
    }
}

fn write_time(unit: TimeUnit, time: UnixTime) -> String {
    match unit {
        TimeUnit::Seconds | TimeUnit::SecondsOrMilliseconds => time.secs().to_string(),
        TimeUnit::Milliseconds => time.millis().to_string(),
        TimeUnit::Rfc3339 => time.to_string(),
    }
}

fn sensitive(bytes: &[u8]) -> Result<HeaderValue, SignError> {
    let mut value = HeaderValue::from_bytes(bytes).map_err(|_| SignError::TokenUnprintable)?;
    value.set_sensitive(true);
    Ok(value)
}
