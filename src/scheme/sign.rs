//! The sender's side: the headers that a scheme puts on a body. For `sign`, `send` and `demo`.

use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD, HEXLOWER};
use http::HeaderValue;

use super::{Encoding, Piece, Plan, Scheme, SignatureHeaders, TimeUnit, mac::Mac};
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
        let mut headers = SignatureHeaders::new();
        match &self.plan {
            Plan::Unsigned => return Err(SignError::Unsigned),
            Plan::Token { signature } => {
                let value = [&*signature.prefix, secret.expose()].concat();
                headers.push((signature.header.clone(), sensitive(&value)?));
            }
            Plan::Hmac {
                algorithm,
                encoding,
                signature,
                content,
                timestamp,
            } => {
                let written = timestamp
                    .as_ref()
                    .map(|plan| (plan, write_time(plan.unit, now)));
                let mut mac = Mac::new(*algorithm, secret);
                for piece in content {
                    match piece {
                        Piece::Literal(text) => mac.update(text),
                        Piece::Timestamp => {
                            mac.update(written.as_ref().map_or(&[], |(_, text)| text.as_bytes()))
                        }
                        Piece::Body => mac.update(body),
                    }
                }
                let codec = match encoding {
                    Encoding::Hex => &HEXLOWER,
                    Encoding::Base64 => &BASE64,
                    Encoding::Base64Url => &BASE64URL,
                    Encoding::Base64UrlNoPad => &BASE64URL_NOPAD,
                };
                let tag = codec.encode(mac.tag().as_bytes());
                let value = [&*signature.prefix, tag.as_bytes()].concat();
                headers.push((signature.header.clone(), sensitive(&value)?));
                if let Some((plan, text)) = written {
                    headers.push((plan.header.clone(), sensitive(text.as_bytes())?));
                }
            }
        }
        Ok(headers)
    }
}

fn write_time(unit: TimeUnit, time: UnixTime) -> String {
    match unit {
        TimeUnit::Seconds => time.secs().to_string(),
        TimeUnit::Milliseconds => time.millis().to_string(),
        TimeUnit::Rfc3339 => time.to_string(),
    }
}

fn sensitive(bytes: &[u8]) -> Result<HeaderValue, SignError> {
    let mut value = HeaderValue::from_bytes(bytes).map_err(|_| SignError::TokenUnprintable)?;
    value.set_sensitive(true);
    Ok(value)
}
