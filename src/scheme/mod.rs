//! How senders sign, as data.
//!
//! A [`SchemeSpec`] is what stands in a file; [`Scheme::compile`] turns it into a plan: what to take from the head, what to
//! feed to which MAC, what to compare. A request then goes through three pure steps:
//! [`Scheme::claim`] reads what the sender says, [`Check`] takes in the signed content, [`Check::finish`] gives the verdict.
//! Nothing here knows sockets, files or the clock.
//!
//! ```
//! use countersign::{clock::UnixTime, scheme::{Verdict, catalogue}, secret::Secret};
//! use http::{HeaderMap, HeaderValue};
//!
//! let scheme = catalogue::compile("carevalidate", &Default::default()).expect("it is in the catalogue");
//! let key = scheme.key(&Secret::new(b"Jefe".to_vec())?);
//!
//! // RFC 4231, test case 2.
//! let mut headers = HeaderMap::new();
//! let tag = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
//! headers.insert("x-cv-signature", HeaderValue::from_static(tag));
//!
//! let claim = scheme.claim(&headers, UnixTime::from_secs(0))?;
//! let mut check = scheme.start(claim, [&key]);
//! check.update(b"what do ya want ");
//! check.update(b"for nothing?");
//! assert_eq!(check.finish(), Verdict::Match(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod catalogue;
mod claim;
mod compile;
mod mac;
mod sign;
pub mod spec;

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderName, HeaderValue};

use self::{
    claim::Presented,
    mac::{Mac, TokenDigest},
};
pub use self::{
    claim::{Claim, ClaimError},
    compile::{SpecError, parse_duration},
    mac::{HmacAlgorithm, Tag},
    sign::SignError,
    spec::SchemeSpec,
};
use crate::secret::Secret;

/// A compiled scheme.
#[derive(Debug, Clone)]
pub struct Scheme {
    name: String,
    plan: Plan,
}

#[derive(Debug, Clone)]
enum Plan {
    /// The operator wrote `scheme = "none"`: nothing is checked, nothing is vouched for.
    Unsigned,
    /// A secret value in a header.
    Token { signature: SignaturePlan },
    /// A tag over the content.
    Hmac {
        algorithm: HmacAlgorithm,
        encoding: Encoding,
        signature: SignaturePlan,
        content: Vec<Piece>,
        timestamp: Option<TimestampPlan>,
    },
}

#[derive(Debug, Clone)]
struct SignaturePlan {
    header: HeaderName,
    prefix: Box<[u8]>,
}

#[derive(Debug, Clone)]
struct TimestampPlan {
    header: HeaderName,
    unit: TimeUnit,
    tolerance: Duration,
    /// Nothing separates the time from what follows it, so its number of digits must not vary.
    fixed_width: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimeUnit {
    Seconds,
    Milliseconds,
    Rfc3339,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Hex,
    Base64,
    Base64Url,
    Base64UrlNoPad,
}

/// One part of the signed content.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Box<[u8]>),
    Timestamp,
    Body,
}

/// A secret made ready for one scheme. No `Debug`; wiped when dropped.
#[derive(Clone)]
pub struct Key(KeyMaterial);

#[derive(Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a box would be an allocation per request and key"
)]
enum KeyMaterial {
    /// Keyed, with nothing fed yet.
    Mac(Mac),
    Token(TokenDigest),
}

impl Scheme {
    /// The name under which `scheme = "none"` is known.
    pub const NONE: &str = "none";

    /// Gives meaning to a written scheme. `params` fill its `{param:NAME}` places.
    ///
    /// # Errors
    /// Every fault there is, each with the place of its key.
    pub fn compile(
        name: &str,
        spec: &SchemeSpec,
        params: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<SpecError>> {
        compile::compile(name, spec, params)
    }

    /// The scheme of a sender that does not sign: the operator's explicit word that nothing is to be checked.
    pub fn none() -> Self {
        Self {
            name: Self::NONE.into(),
            plan: Plan::Unsigned,
        }
    }

    /// Its name: an RFC 9651 token, such as `carevalidate` or `custom`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a route with this scheme needs at least one secret.
    pub fn needs_secret(&self) -> bool {
        !matches!(self.plan, Plan::Unsigned)
    }

    /// What a signature of this scheme leaves uncovered, for warnings.
    pub fn covers_body(&self) -> bool {
        matches!(self.plan, Plan::Hmac { .. })
    }

    /// Allowed clock difference, if the scheme signs a time.
    pub fn tolerance(&self) -> Option<Duration> {
        match &self.plan {
            Plan::Hmac {
                timestamp: Some(timestamp),
                ..
            } => Some(timestamp.tolerance),
            Plan::Hmac { .. } | Plan::Token { .. } | Plan::Unsigned => None,
        }
    }

    /// Replaces the allowed clock difference. Answers `false`, and changes nothing, if the scheme signs no time.
    #[must_use]
    pub fn set_tolerance(&mut self, tolerance: Duration) -> bool {
        match &mut self.plan {
            Plan::Hmac {
                timestamp: Some(timestamp),
                ..
            } => {
                timestamp.tolerance = tolerance;
                true
            }
            Plan::Hmac { .. } | Plan::Token { .. } | Plan::Unsigned => false,
        }
    }

    /// The headers that the scheme reads: at most the signature and the timestamp.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let (signature, timestamp) = match &self.plan {
            Plan::Unsigned => (None, None),
            Plan::Token { signature } => (Some(&signature.header), None),
            Plan::Hmac {
                signature,
                timestamp,
                ..
            } => (
                Some(&signature.header),
                timestamp.as_ref().map(|timestamp| &timestamp.header),
            ),
        };
        signature.into_iter().chain(timestamp)
    }

    /// Makes a key of a secret.
    pub fn key(&self, secret: &Secret) -> Key {
        Key(match &self.plan {
            Plan::Hmac { algorithm, .. } => KeyMaterial::Mac(Mac::new(*algorithm, secret)),
            Plan::Token { .. } | Plan::Unsigned => {
                KeyMaterial::Token(TokenDigest::of(secret.expose()))
            }
        })
    }

    /// Begins a check: one MAC for each key, fed with what stands before the body.
    pub fn start<'k>(&self, claim: Claim, keys: impl IntoIterator<Item = &'k Key>) -> Check {
        let mut keys: Vec<_> = keys.into_iter().map(|key| key.0.clone()).collect();
        let mut after = Vec::new();
        if let Plan::Hmac { content, .. } = &self.plan {
            let mut pieces = content.iter();
            for piece in pieces.by_ref().take_while(|piece| **piece != Piece::Body) {
                feed(&mut keys, claim.bytes_of(piece));
            }
            for piece in pieces {
                after.extend_from_slice(claim.bytes_of(piece));
            }
        }
        Check {
            presented: claim.presented,
            keys,
            after,
        }
    }
}

/// A check under way: takes in the body as it arrives.
pub struct Check {
    presented: Presented,
    keys: Vec<KeyMaterial>,
    /// What the content holds behind the body.
    after: Vec<u8>,
}

/// What a finished check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The key at this place, among those given to [`Scheme::start`], made the signature.
    Match(usize),
    /// None of the keys did.
    Mismatch,
    /// The scheme checks nothing.
    Unsigned,
}

impl Check {
    /// Feeds the next bytes of the body, in order.
    pub fn update(&mut self, body: &[u8]) {
        feed(&mut self.keys, body);
    }

    /// Compares what was presented with every key, in constant time, and only then answers.
    pub fn finish(mut self) -> Verdict {
        let after = std::mem::take(&mut self.after);
        feed(&mut self.keys, &after);
        let found = match self.presented {
            Presented::Nothing => return Verdict::Unsigned,
            Presented::Tag(tag) => mac::first_match(self.keys.into_iter().map(|key| match key {
                KeyMaterial::Mac(mac) => mac.matches(&tag),
                KeyMaterial::Token(_) => subtle::Choice::from(0),
            })),
            Presented::Token(token) => {
                mac::first_match(self.keys.into_iter().map(|key| match key {
                    KeyMaterial::Token(digest) => digest.matches(&token),
                    KeyMaterial::Mac(_) => subtle::Choice::from(0),
                }))
            }
        };
        found.map_or(Verdict::Mismatch, Verdict::Match)
    }
}

fn feed(keys: &mut [KeyMaterial], bytes: &[u8]) {
    for key in keys {
        match key {
            KeyMaterial::Mac(mac) => mac.update(bytes),
            KeyMaterial::Token(_) => {}
        }
    }
}

/// Header values that carry a signature, for [`Scheme::sign`].
pub type SignatureHeaders = Vec<(HeaderName, HeaderValue)>;

#[cfg(test)]
mod tests;
