//! A request as templates see it: looks up places and fills templates in.

use std::borrow::Cow;

use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD, HEXLOWER};
use http::{HeaderMap, Method};
use smallvec::SmallVec;

use super::{
    KeyMaterial,
    claim::ClaimError,
    form::{self, FieldFault},
    jose::Token as Jwt,
    json::{self, JsonFault},
    locate::Items,
    mac::{self, DigestAlgorithm},
    template::{Filter, Part, Place, Source, Template, Token},
};

/// What a scheme can see of a request's head.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query, as the sender wrote them.
    pub target: &'a str,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The URL under which the sender knows the route, query included. Needed where [`super::Scheme::signs_url`] says so.
    pub url: Option<&'a str>,
}

impl<'a> RequestHead<'a> {
    pub(super) fn path(&self) -> &'a str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(super) fn query(&self) -> &'a str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The header's only value.
    pub(super) fn header(&self, place: &http::HeaderName) -> Result<Option<&'a [u8]>, ()> {
        let mut values = self.headers.get_all(place).iter();
        let first = values.next().map(|value| value.as_bytes());
        if values.next().is_some() {
            Err(())
        } else {
            Ok(first)
        }
    }
}

/// A request, as far as it is known.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) head: RequestHead<'a>,
    /// The whole body; `None` while only the head is there.
    pub(super) body: Option<&'a [u8]>,
    /// The JSON document, if the body holds one.
    pub(super) document: Option<&'a str>,
    /// The item of the array that the signature's `*` stands at.
    pub(super) star: Option<&'a str>,
    pub(super) items: Option<&'a Items<'a>>,
    pub(super) jwt: Option<&'a Jwt>,
    pub(super) timestamp: Option<&'a Place>,
    pub(super) id: Option<&'a Place>,
    pub(super) last_field: bool,
    /// The key that signs the answer to a handshake.
    pub(super) signer: Option<&'a KeyMaterial>,
}

impl<'a> Context<'a> {
    /// The value of a place; `None` if it is not there.
    pub(super) fn value(&self, place: &Place) -> Result<Option<Cow<'a, [u8]>>, ClaimError> {
        let repeated = || ClaimError::PartRepeated(place.clone());
        let malformed = || ClaimError::PartMalformed(place.clone());
        let field = |fault: FieldFault| match fault {
            FieldFault::Malformed => malformed(),
            FieldFault::Repeated => repeated(),
        };
        match place {
            Place::Header(name) => Ok(self
                .head
                .header(name)
                .map_err(|()| repeated())?
                .map(Cow::Borrowed)),
            Place::Query(name) => {
                form::field(self.head.query().as_bytes(), name.as_bytes(), false).map_err(field)
            }
            Place::Form(name) => match self.body {
                Some(body) => form::field(body, name.as_bytes(), self.last_field).map_err(field),
                None => Ok(None),
            },
            Place::Json(pointer) => {
                let document = self.document.ok_or_else(malformed)?;
                match json::find(document, pointer, self.star) {
                    Ok(found) => Ok(found.and_then(json::text)),
                    Err(JsonFault::Malformed | JsonFault::TooMany) => Err(malformed()),
                }
            }
            Place::Item(name) => Ok(self
                .items
                .and_then(|items| items.get(name))
                .map(Cow::Borrowed)),
            Place::Claim(name) => self.jwt.map_or(Ok(None), |jwt| {
                jwt.claim(name)
                    .map(|found| found.map(Cow::Owned))
                    .map_err(|()| malformed())
            }),
            Place::Protected(name) => self.jwt.map_or(Ok(None), |jwt| {
                jwt.header(name)
                    .map(|found| found.map(Cow::Owned))
                    .map_err(|()| malformed())
            }),
            Place::Body => Ok(self.body.map(Cow::Borrowed)),
        }
    }

    fn there(&self, place: &Place) -> Result<bool, ClaimError> {
        Ok(self.value(place)?.is_some_and(|value| !value.is_empty()))
    }

    fn source(
        &self,
        source: &Source,
        secret: Option<&'a [u8]>,
    ) -> Result<Option<Cow<'a, [u8]>>, ClaimError> {
        let text = |text: &'a str| Ok(Some(Cow::Borrowed(text.as_bytes())));
        match source {
            Source::Place(place) => self.value(place),
            Source::Timestamp => self.timestamp.map_or(Ok(None), |place| self.value(place)),
            Source::Id => self.id.map_or(Ok(None), |place| self.value(place)),
            Source::Method => text(self.head.method.as_str()),
            Source::Target => text(self.head.target),
            Source::Path => text(self.head.path()),
            Source::Url => Ok(self.head.url.map(|url| Cow::Borrowed(url.as_bytes()))),
            Source::Query => text(self.head.query()),
            Source::Form => Ok(self.body.map(Cow::Borrowed)),
            Source::Secret => Ok(secret.map(Cow::Borrowed)),
            Source::Protected => Ok(self.jwt.map(|jwt| Cow::Owned(jwt.protected().to_vec()))),
            Source::Canonical(canonical) => canonical.write(self, secret).map(Some),
            Source::Text(text) => Ok(Some(Cow::Owned(text.to_vec()))),
        }
    }

    fn token(&self, token: &Token, secret: Option<&'a [u8]>) -> Result<Cow<'a, [u8]>, ClaimError> {
        let missing = || match &token.source {
            Source::Place(place) => ClaimError::PartMissing(place.clone()),
            Source::Timestamp => self.timestamp.map_or(ClaimError::UrlUnknown, |place| {
                ClaimError::TimestampMissing(place.clone())
            }),
            Source::Id => self.id.map_or(ClaimError::UrlUnknown, |place| {
                ClaimError::PartMissing(place.clone())
            }),
            Source::Method
            | Source::Target
            | Source::Path
            | Source::Url
            | Source::Query
            | Source::Form
            | Source::Secret
            | Source::Protected
            | Source::Canonical(_)
            | Source::Text(_) => ClaimError::UrlUnknown,
        };
        let mut value = match self.source(&token.source, secret)? {
            Some(value) => value,
            None if token.optional => Cow::Borrowed(&[][..]),
            None => return Err(missing()),
        };
        // A part that is there and empty is no part: `id:;ts:` could stand for another request.
        let may_be_empty = token.optional
            || matches!(
                token.source,
                Source::Place(Place::Body)
                    | Source::Query
                    | Source::Form
                    | Source::Text(_)
                    | Source::Canonical(_)
            );
        if value.is_empty() && !may_be_empty {
            return Err(missing());
        }
        for filter in &token.filters {
            value = match (filter, &token.source) {
                (Filter::Sorted, Source::Query) => Cow::Owned(form::sorted_query(&value)),
                (Filter::Sorted, _) => Cow::Owned(
                    form::sorted_fields(&value).ok_or(ClaimError::BodyMalformed("not a form"))?,
                ),
                (Filter::Hmac(algorithm), _) => {
                    let mut hasher = self
                        .signer
                        .and_then(|key| key.hmac(*algorithm).cloned())
                        .ok_or_else(missing)?;
                    hasher.update(&value);
                    Cow::Owned(hasher.tag().as_bytes().to_vec())
                }
                _ => apply(*filter, value)?,
            };
        }
        Ok(value)
    }

    /// The template's bytes, piece by piece.
    ///
    /// # Errors
    /// If a part is missing, or holds the separator that follows it.
    pub(super) fn fill(
        &self,
        template: &'a Template,
        secret: Option<&'a [u8]>,
    ) -> Result<Vec<Cow<'a, [u8]>>, ClaimError> {
        let mut out = Vec::with_capacity(template.parts.len());
        self.fill_parts(&template.parts, secret, &mut |part| out.push(part))?;
        Ok(out)
    }

    /// Puts the template's bytes behind those that are there.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub(super) fn write(
        &self,
        template: &'a Template,
        bytes: &mut SmallVec<impl smallvec::Array<Item = u8>>,
    ) -> Result<(), ClaimError> {
        self.fill_parts(&template.parts, None, &mut |part| {
            bytes.extend_from_slice(&part);
        })
    }

    fn fill_parts(
        &self,
        parts: &'a [Part],
        secret: Option<&'a [u8]>,
        out: &mut impl FnMut(Cow<'a, [u8]>),
    ) -> Result<(), ClaimError> {
        for (i, part) in parts.iter().enumerate() {
            match part {
                Part::Text(text) => out(Cow::Borrowed(text)),
                Part::Token(token) => {
                    let value = self.token(token, secret)?;
                    if let Some(Part::Text(separator)) = parts.get(i + 1)
                        // At the very end a text separates nothing.
                        && i + 2 < parts.len()
                        && is_free(token)
                        && holds(&value, separator)
                    {
                        return Err(ClaimError::PartAmbiguous(self.place_of(token)));
                    }
                    out(value);
                }
                Part::Section(place, parts) => {
                    if self.there(place)? {
                        self.fill_parts(parts, secret, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn place_of(&self, token: &Token) -> Place {
        match &token.source {
            Source::Place(place) => place.clone(),
            Source::Timestamp => self.timestamp.cloned().unwrap_or(Place::Body),
            Source::Id
            | Source::Method
            | Source::Target
            | Source::Path
            | Source::Url
            | Source::Query
            | Source::Form
            | Source::Secret
            | Source::Protected
            | Source::Canonical(_)
            | Source::Text(_) => self.id.cloned().unwrap_or(Place::Body),
        }
    }
}

/// Whether the sender chooses the value, so that it could hold the separator behind it.
pub(super) fn is_free(token: &Token) -> bool {
    if token.loose || !token.filters.iter().all(|filter| *filter == Filter::Lower) {
        return false;
    }
    match &token.source {
        Source::Place(Place::Body) => false,
        Source::Place(_) | Source::Timestamp | Source::Id => true,
        Source::Method
        | Source::Target
        | Source::Path
        | Source::Url
        | Source::Query
        | Source::Form
        | Source::Secret
        | Source::Protected
        | Source::Canonical(_)
        | Source::Text(_) => false,
    }
}

/// Whether a reader that looks for the separator would find it before the value's end.
pub(super) fn holds(value: &[u8], separator: &[u8]) -> bool {
    if let [byte] = separator {
        return value.contains(byte);
    }
    let both = [value, separator].concat();
    form::find(&both, separator).is_some_and(|at| at < value.len())
}

fn apply(filter: Filter, value: Cow<'_, [u8]>) -> Result<Cow<'_, [u8]>, ClaimError> {
    let text = |text: String| Ok(Cow::Owned(text.into_bytes()));
    match filter {
        Filter::Lower => Ok(Cow::Owned(value.to_ascii_lowercase())),
        Filter::Sha1 => Ok(Cow::Owned(mac::digest(DigestAlgorithm::Sha1, &value))),
        Filter::Sha256 => Ok(Cow::Owned(mac::digest(DigestAlgorithm::Sha256, &value))),
        Filter::Sha512 => Ok(Cow::Owned(mac::digest(DigestAlgorithm::Sha512, &value))),
        Filter::Hex => text(HEXLOWER.encode(&value)),
        Filter::Base64 => text(BASE64.encode(&value)),
        Filter::Base64Url => text(BASE64URL.encode(&value)),
        Filter::Base64UrlNoPad => text(BASE64URL_NOPAD.encode(&value)),
        Filter::Crc32 => text(crc32(&value).to_string()),
        Filter::JsonString => {
            let value =
                std::str::from_utf8(&value).map_err(|_| ClaimError::BodyMalformed("not UTF-8"))?;
            text(serde_json::to_string(value).map_err(|_| ClaimError::BodyMalformed("not text"))?)
        }
        Filter::Jcs => {
            let value =
                std::str::from_utf8(&value).map_err(|_| ClaimError::BodyMalformed("not UTF-8"))?;
            text(json::canonical(value).ok_or(ClaimError::BodyMalformed(
                "not JSON that can be written anew",
            ))?)
        }
        Filter::Gunzip => gunzip(value),
        // Both need more than the value, and are applied before.
        Filter::Sorted | Filter::Hmac(_) => Err(ClaimError::BodyMalformed("not a form")),
        Filter::WithoutQuery => Ok(match value {
            Cow::Borrowed(url) => {
                Cow::Borrowed(url.split(|b| *b == b'?').next().unwrap_or_default())
            }
            Cow::Owned(url) => Cow::Owned(
                url.split(|b| *b == b'?')
                    .next()
                    .unwrap_or_default()
                    .to_vec(),
            ),
        }),
        Filter::DefaultPort => Ok(Cow::Owned(default_port(&value))),
        Filter::Unescaped => Ok(Cow::Owned(unescaped(&value))),
    }
}

/// CRC-32 of zlib and PNG (ISO 3309, reflected, polynomial 0xEDB88320).
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut value = i as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 {
                    value >> 1 ^ 0xEDB8_8320
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| {
        TABLE[usize::from((crc as u8) ^ byte)] ^ crc >> 8
    })
}

/// The most bytes that a packed body may unpack to.
const UNPACKED_MAX: usize = 8 * 1024 * 1024;

/// Unpacks gzip (RFC 1952), known by its first bytes; anything else is left as it is.
fn gunzip(value: Cow<'_, [u8]>) -> Result<Cow<'_, [u8]>, ClaimError> {
    if !value.starts_with(&[0x1f, 0x8b, 8]) {
        return Ok(value);
    }
    let unpacked = (|| {
        let flags = *value.get(3)?;
        let mut at = 10;
        if flags & 4 != 0 {
            let len = u16::from_le_bytes([*value.get(at)?, *value.get(at + 1)?]);
            at += 2 + usize::from(len);
        }
        for flag in [8, 16] {
            if flags & flag != 0 {
                at += value.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
            }
        }
        if flags & 2 != 0 {
            at += 2;
        }
        let packed = value.get(at..value.len().checked_sub(8)?)?;
        let out = miniz_oxide::inflate::decompress_to_vec_with_limit(packed, UNPACKED_MAX).ok()?;
        let trailer = value.get(value.len() - 8..)?;
        let sum = u32::from_le_bytes(trailer.get(..4)?.try_into().ok()?);
        let size = u32::from_le_bytes(trailer.get(4..)?.try_into().ok()?);
        (sum == crc32(&out) && u64::from(size) == out.len() as u64).then_some(out)
    })();
    unpacked
        .map(Cow::Owned)
        .ok_or(ClaimError::BodyMalformed("not gzip that can be unpacked"))
}

/// With the port where it has none, without it where it has the usual one.
fn default_port(url: &[u8]) -> Vec<u8> {
    let (scheme, port): (&[u8], &[u8]) = if url.starts_with(b"https://") {
        (b"https://", b":443")
    } else {
        (b"http://", b":80")
    };
    let Some(rest) = url.strip_prefix(scheme) else {
        return url.to_vec();
    };
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let host_from = authority
        .iter()
        .rposition(|b| *b == b'@')
        .map_or(0, |at| at + 1);
    let host = authority.get(host_from..).unwrap_or_default();
    let has_port = host.iter().rposition(|b| *b == b':') > host.iter().rposition(|b| *b == b']');
    match authority.strip_suffix(port) {
        Some(bare) if has_port => [scheme, bare, tail].concat(),
        _ if has_port => url.to_vec(),
        _ => [scheme, authority, port, tail].concat(),
    }
}

/// HubSpot's documentation: these come back as they are, all other escapes stay.
fn unescaped(url: &[u8]) -> Vec<u8> {
    const BACK: &[u8] = b":/?@!$'()*,;";
    let mut out = Vec::with_capacity(url.len());
    let mut rest = url;
    while let Some((byte, tail)) = rest.split_first() {
        if *byte == b'%'
            && let Some(pair) = tail.get(..2)
            && let Some(code) = std::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            && BACK.contains(&code)
        {
            out.push(code);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            out.push(*byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_what_filters_promise() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(default_port(b"https://a.b/x?y"), b"https://a.b:443/x?y");
        assert_eq!(default_port(b"https://u:p@a.b:443"), b"https://u:p@a.b");
        assert_eq!(default_port(b"http://[::1]/x"), b"http://[::1]:80/x");
        assert_eq!(default_port(b"https://a.b:8443/x"), b"https://a.b:8443/x");
        assert_eq!(
            unescaped(b"https://a/b%2Fc%20d%zz%2"),
            b"https://a/b/c%20d%zz%2"
        );
        assert!(holds(b"a.b", b"."));
        assert!(!holds(b"ab", b"."));
        assert!(holds(b"a;", b";;"));
    }
}
