//! JWT and JWS in their compact form (RFC 7515, RFC 7519), read strictly.
//!
//! Nothing here decides by what a token says of itself: its `alg` only selects among those that the scheme allows.

use data_encoding::BASE64URL_NOPAD;

use super::json::{self, Pointer};

/// The longest token, in bytes.
const TOKEN_MAX: usize = 64 * 1024;

/// A token, taken apart. It proves nothing.
pub(super) struct Token {
    protected: Vec<u8>,
    header: String,
    /// The payload as it was encoded; empty if it is detached.
    payload: Vec<u8>,
    claims: Option<String>,
    pub(super) signature: Vec<u8>,
}

impl Token {
    /// Reads `header.payload.signature`, or `header..signature` if it is detached.
    pub(super) fn parse(text: &[u8], detached: bool) -> Option<Self> {
        if text.len() > TOKEN_MAX {
            return None;
        }
        let mut parts = text.split(|byte| *byte == b'.');
        let (protected, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || payload.is_empty() != detached || signature.is_empty() {
            return None;
        }
        let json = |part: &[u8]| String::from_utf8(BASE64URL_NOPAD.decode(part).ok()?).ok();
        let token = Self {
            protected: protected.to_vec(),
            header: json(protected)?,
            payload: payload.to_vec(),
            claims: if detached { None } else { Some(json(payload)?) },
            signature: BASE64URL_NOPAD.decode(signature).ok()?,
        };
        // Extensions that have to be understood: the one of RFC 7797 alone, and only where the payload is elsewhere.
        let understood = match raw(&token.header, "/crit").ok()? {
            None => true,
            Some(listed) => {
                detached && json::array(listed).is_some_and(|listed| listed == [r#""b64""#])
            }
        };
        understood.then_some(token)
    }

    /// The header as it was sent.
    pub(super) fn protected(&self) -> &[u8] {
        &self.protected
    }

    /// What a JWT's signature covers.
    pub(super) fn signed(&self) -> Vec<u8> {
        [&self.protected, &b"."[..], &self.payload].concat()
    }

    /// Whether the payload is signed as it is, not encoded (RFC 7797).
    pub(super) fn is_plain(&self) -> bool {
        matches!(raw(&self.header, "/b64"), Ok(Some("false")))
    }

    /// A member of the header.
    pub(super) fn header(&self, name: &str) -> Result<Option<Vec<u8>>, ()> {
        Ok(member(&self.header, name)?
            .and_then(|raw| json::text(raw).map(|text| text.into_owned())))
    }

    pub(super) fn header_text(&self, name: &str) -> Option<String> {
        String::from_utf8(self.header(name).ok()??).ok()
    }

    /// A claim, as text.
    pub(super) fn claim(&self, name: &str) -> Result<Option<Vec<u8>>, ()> {
        Ok(self
            .raw_claim(name)?
            .and_then(|raw| json::text(raw).map(|text| text.into_owned())))
    }

    /// A claim that may be a list, as texts.
    pub(super) fn claim_values(&self, name: &str) -> Result<Vec<Vec<u8>>, ()> {
        let Some(raw) = self.raw_claim(name)? else {
            return Ok(Vec::new());
        };
        let raws = json::array(raw).unwrap_or_else(|| vec![raw]);
        Ok(raws
            .into_iter()
            .filter_map(|raw| json::text(raw).map(|text| text.into_owned()))
            .collect())
    }

    pub(super) fn raw_claim(&self, name: &str) -> Result<Option<&str>, ()> {
        match &self.claims {
            Some(claims) => member(claims, name),
            None => Ok(None),
        }
    }
}

fn member<'d>(document: &'d str, name: &str) -> Result<Option<&'d str>, ()> {
    let escaped = name.replace('~', "~0").replace('/', "~1");
    raw(document, &format!("/{escaped}"))
}

fn raw<'d>(document: &'d str, pointer: &str) -> Result<Option<&'d str>, ()> {
    let pointer = Pointer::parse(pointer).ok_or(())?;
    if !document.trim_start().starts_with('{') {
        return Err(());
    }
    json::find(document, &pointer, None).map_err(|_| ())
}
