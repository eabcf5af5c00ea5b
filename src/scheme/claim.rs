//! What the sender says, read strictly from the head. It proves nothing.

use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    Encoding, Piece, Plan, Scheme, SignaturePlan, TimeUnit, TimestampPlan,
    mac::{HmacAlgorithm, Tag, TokenDigest},
};
use crate::clock::UnixTime;

/// The sender's claim: a decoded candidate and the signed time. Made by anyone, worth nothing until checked.
pub struct Claim {
    pub(super) presented: Presented,
    /// The time as it was written, which is what was signed, and as a value.
    timestamp: Option<(HeaderValue, UnixTime)>,
}

pub(super) enum Presented {
    Nothing,
    Tag(Tag),
    Token(TokenDigest),
}

impl Claim {
    /// The time that the sender says it signed at.
    pub fn timestamp(&self) -> Option<UnixTime> {
        self.timestamp.as_ref().map(|(_, time)| *time)
    }

    /// The bytes that stand for one piece of the signed content; none for the body.
    pub(super) fn bytes_of<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        match piece {
            Piece::Literal(text) => text,
            Piece::Timestamp => self
                .timestamp
                .as_ref()
                .map_or(&[], |(written, _)| written.as_bytes()),
            Piece::Body => &[],
        }
    }
}

/// Why the head alone is enough to refuse. All of them are one answer to the sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The signature header did not come.
    #[error("header `{0}` is missing")]
    SignatureMissing(HeaderName),
    /// It came more than once: two readers could pick different ones.
    #[error("header `{0}` came more than once")]
    SignatureRepeated(HeaderName),
    /// It does not begin as the scheme says.
    #[error("header `{header}` does not begin with `{prefix}`")]
    SignaturePrefix {
        /// The header.
        header: HeaderName,
        /// What it must begin with.
        prefix: String,
    },
    /// It is not a tag of the right length in the right alphabet.
    #[error("header `{header}` is not {expected}; it has {length} characters")]
    SignatureMalformed {
        /// The header.
        header: HeaderName,
        /// What it must be.
        expected: String,
        /// How many characters came after the prefix.
        length: usize,
    },
    /// The timestamp header did not come.
    #[error("header `{0}` is missing")]
    TimestampMissing(HeaderName),
    /// It came more than once.
    #[error("header `{0}` came more than once")]
    TimestampRepeated(HeaderName),
    /// It is not a time in the scheme's unit.
    #[error("header `{header}` is not {expected}")]
    TimestampMalformed {
        /// The header.
        header: HeaderName,
        /// What it must be.
        expected: &'static str,
    },
    /// It lies too far back.
    #[error(
        "the signed time lies {seconds} s in the past, more than the tolerance of {tolerance_seconds} s"
    )]
    TimestampOld {
        /// How far.
        seconds: u64,
        /// How far is allowed.
        tolerance_seconds: u64,
    },
    /// It lies too far ahead.
    #[error(
        "the signed time lies {seconds} s in the future, more than the tolerance of {tolerance_seconds} s"
    )]
    TimestampNew {
        /// How far.
        seconds: u64,
        /// How far is allowed.
        tolerance_seconds: u64,
    },
}

impl ClaimError {
    /// Stable word for log, metric and docs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::SignatureMissing(_) => "signature_missing",
            Self::SignatureRepeated(_) => "signature_repeated",
            Self::SignaturePrefix { .. } | Self::SignatureMalformed { .. } => "signature_malformed",
            Self::TimestampMissing(_) => "timestamp_missing",
            Self::TimestampRepeated(_) => "timestamp_repeated",
            Self::TimestampMalformed { .. } => "timestamp_malformed",
            Self::TimestampOld { .. } => "timestamp_old",
            Self::TimestampNew { .. } => "timestamp_new",
        }
    }
}

impl Scheme {
    /// Reads the claim from the head: decides everything that needs no body.
    ///
    /// # Errors
    /// [`ClaimError`] if a part is missing, repeated, malformed, or signed at a time outside the tolerance.
    pub fn claim(&self, headers: &HeaderMap, now: UnixTime) -> Result<Claim, ClaimError> {
        let (presented, timestamp) = match &self.plan {
            Plan::Unsigned => (Presented::Nothing, None),
            Plan::Token { signature } => {
                let token = signature.value(headers)?;
                if token.is_empty() {
                    return Err(signature.malformed("a token".into(), 0));
                }
                (Presented::Token(TokenDigest::of(token)), None)
            }
            Plan::Hmac {
                algorithm,
                encoding,
                signature,
                timestamp,
                ..
            } => {
                let text = signature.value(headers)?;
                let tag = decode(*encoding, *algorithm, text).ok_or_else(|| {
                    signature.malformed(describe(*encoding, *algorithm), text.len())
                })?;
                let timestamp = timestamp
                    .as_ref()
                    .map(|plan| plan.read(headers, now))
                    .transpose()?;
                (Presented::Tag(tag), timestamp)
            }
        };
        Ok(Claim {
            presented,
            timestamp,
        })
    }
}

impl SignaturePlan {
    /// The one value of the header, without the prefix.
    fn value<'h>(&self, headers: &'h HeaderMap) -> Result<&'h [u8], ClaimError> {
        let mut values = headers.get_all(&self.header).iter();
        let value = values
            .next()
            .ok_or_else(|| ClaimError::SignatureMissing(self.header.clone()))?;
        if values.next().is_some() {
            return Err(ClaimError::SignatureRepeated(self.header.clone()));
        }
        value
            .as_bytes()
            .strip_prefix(&*self.prefix)
            .ok_or_else(|| ClaimError::SignaturePrefix {
                header: self.header.clone(),
                prefix: String::from_utf8_lossy(&self.prefix).into_owned(),
            })
    }

    fn malformed(&self, expected: String, length: usize) -> ClaimError {
        ClaimError::SignatureMalformed {
            header: self.header.clone(),
            expected,
            length,
        }
    }
}

/// Exactly the right number of characters, of the right alphabet, in canonical form; nothing before or behind.
fn decode(encoding: Encoding, algorithm: HmacAlgorithm, text: &[u8]) -> Option<Tag> {
    let codec = match encoding {
        Encoding::Hex => &HEXLOWER_PERMISSIVE,
        Encoding::Base64 => &BASE64,
        Encoding::Base64Url => &BASE64URL,
        Encoding::Base64UrlNoPad => &BASE64URL_NOPAD,
    };
    let len = algorithm.tag_bytes();
    if text.len() != codec.encode_len(len) {
        return None;
    }
    // Padded base64 decodes into a buffer that is up to two bytes longer than the tag.
    let mut buffer = [0; 72];
    let buffer = buffer.get_mut(..codec.decode_len(text.len()).ok()?)?;
    let decoded = codec.decode_mut(text, buffer).ok()?;
    Tag::filled(len, |to| {
        (decoded == to.len()).then(|| to.copy_from_slice(&buffer[..decoded]))
    })
}

fn describe(encoding: Encoding, algorithm: HmacAlgorithm) -> String {
    let (codec, name) = match encoding {
        Encoding::Hex => (&HEXLOWER_PERMISSIVE, "hex digits"),
        Encoding::Base64 => (&BASE64, "characters of base64"),
        Encoding::Base64Url => (&BASE64URL, "characters of base64url"),
        Encoding::Base64UrlNoPad => (&BASE64URL_NOPAD, "characters of base64url without padding"),
    };
    format!("{} {name}", codec.encode_len(algorithm.tag_bytes()))
}

impl TimestampPlan {
    /// The header's one value and the time it says, if that lies within the tolerance of `now`.
    fn read(
        &self,
        headers: &HeaderMap,
        now: UnixTime,
    ) -> Result<(HeaderValue, UnixTime), ClaimError> {
        let mut values = headers.get_all(&self.header).iter();
        let value = values
            .next()
            .ok_or_else(|| ClaimError::TimestampMissing(self.header.clone()))?;
        if values.next().is_some() {
            return Err(ClaimError::TimestampRepeated(self.header.clone()));
        }
        let time = self
            .parse(value.as_bytes())
            .ok_or_else(|| ClaimError::TimestampMalformed {
                header: self.header.clone(),
                expected: match self.unit {
                    TimeUnit::Seconds => "a time in seconds since 1970",
                    TimeUnit::Milliseconds => "a time in milliseconds since 1970",
                    TimeUnit::Rfc3339 => "a time as RFC 3339 writes it",
                },
            })?;
        let (distance, tolerance) = (time.distance(now), self.tolerance);
        if distance > tolerance {
            let (seconds, tolerance_seconds) = (distance.as_secs(), tolerance.as_secs());
            return Err(if time < now {
                ClaimError::TimestampOld {
                    seconds,
                    tolerance_seconds,
                }
            } else {
                ClaimError::TimestampNew {
                    seconds,
                    tolerance_seconds,
                }
            });
        }
        Ok((value.clone(), time))
    }

    /// By grammar, not by library: `i64::from_str` would take `+5`.
    fn parse(&self, text: &[u8]) -> Option<UnixTime> {
        let (digits_max, digits_now) = match self.unit {
            TimeUnit::Seconds => (12, 10),
            TimeUnit::Milliseconds => (15, 13),
            TimeUnit::Rfc3339 => {
                let text = std::str::from_utf8(text)
                    .ok()
                    .filter(|text| text.len() <= 40)?;
                let time: jiff::Timestamp = text.parse().ok()?;
                return Some(UnixTime::from_millis(time.as_millisecond()));
            }
        };
        let length_fits = if self.fixed_width {
            text.len() == digits_now
        } else {
            (1..=digits_max).contains(&text.len())
        };
        if !length_fits || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = text
            .iter()
            .fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        Some(match self.unit {
            TimeUnit::Seconds => UnixTime::from_secs(number),
            TimeUnit::Milliseconds | TimeUnit::Rfc3339 => UnixTime::from_millis(number),
        })
    }
}
