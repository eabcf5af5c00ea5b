//! What the sender says, read strictly from the head. It proves nothing.

use std::{borrow::Cow, sync::Arc};

use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use smallvec::SmallVec;

use super::{
    Scheme,
    context::{Context, RequestHead},
    jose::Token as Jwt,
    locate::Candidate,
    mac::{Hasher, Tag, TokenDigest},
    plan::{Algorithm, Encoding, Plan, Run, Shape},
    template::Place,
};
use crate::clock::UnixTime;

/// The sender's claim: decoded candidates and the signed time. Made by anyone, worth nothing until checked.
pub struct Claim {
    /// How many algorithms hash the body while it comes.
    pub(super) algorithms: usize,
    /// What it was read by, where that is asked again: by a check that needs the whole body, or for a guard.
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) presented: Presented,
    /// For each alternative of the content, what is fed around the body; empty: the body alone.
    pub(super) around: Vec<Around>,
    pub(super) timestamp: Option<UnixTime>,
    /// By what time it was judged.
    pub(super) now: UnixTime,
}

/// Room for an id and a time, in bytes.
const TEXT_ROOM: usize = 64;

/// What is presented, what is fed around the body, and the signed time.
type Read = (Presented, Vec<Around>, Option<UnixTime>);

pub(super) enum Presented {
    Nothing,
    Tag {
        tag: Tag,
        algorithm: usize,
    },
    Tags(Vec<(Tag, usize)>),
    Tokens(Vec<TokenDigest>),
    /// Only the whole body tells.
    Later,
}

/// Signed content, as far as the head tells.
#[derive(Default)]
pub(super) struct Around {
    pub(super) before: Stretch,
    pub(super) has_body: bool,
    pub(super) after: Stretch,
}

/// Bytes of the signed content, and where among them the secret stands.
#[derive(Default)]
pub(super) struct Stretch {
    bytes: SmallVec<[u8; TEXT_ROOM]>,
    secret_at: Vec<usize>,
}

impl Around {
    /// Whether the body is signed. Where nothing stands around it, it is all that is.
    pub(super) fn has_body(around: Option<&Self>) -> bool {
        around.is_none_or(|around| around.has_body)
    }
}

impl Stretch {
    pub(super) fn feed(&self, hasher: &mut Hasher, secret: Option<&[u8]>) {
        let mut from = 0;
        for at in &self.secret_at {
            hasher.update(self.bytes.get(from..*at).unwrap_or_default());
            hasher.update(secret.unwrap_or_default());
            from = *at;
        }
        let rest = self.bytes.get(from..).unwrap_or_default();
        if !rest.is_empty() {
            hasher.update(rest);
        }
    }
}

impl Presented {
    /// Whether a tag came that this algorithm made.
    pub(super) fn has_tag_of(&self, algorithm: usize) -> bool {
        match self {
            Self::Tag { algorithm: of, .. } => *of == algorithm,
            Self::Tags(tags) => tags.iter().any(|(_, of)| *of == algorithm),
            Self::Nothing | Self::Tokens(_) | Self::Later => false,
        }
    }
}

impl Claim {
    /// The claim of a request that needs no signature. What it is good for is decided where the check ends.
    pub fn of_nothing(now: UnixTime) -> Self {
        Self {
            algorithms: 0,
            plan: None,
            presented: Presented::Nothing,
            around: Vec::new(),
            timestamp: None,
            now,
        }
    }

    /// The time that the sender says it signed at, as far as the head tells.
    pub fn timestamp(&self) -> Option<UnixTime> {
        self.timestamp
    }
}

/// Why a signature is refused before, or without, comparing it. All of them are one answer to the sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The signature did not come.
    #[error("{0} is missing")]
    SignatureMissing(Place),
    /// It came more than once: two readers could pick different ones.
    #[error("{0} came more than once")]
    SignatureRepeated(Place),
    /// It does not begin as the scheme says.
    #[error("{place} does not begin with `{prefix}`")]
    SignaturePrefix {
        /// Where it stands.
        place: Place,
        /// What it must begin with.
        prefix: String,
    },
    /// It is not a tag of the right length in the right alphabet.
    #[error("{place} is not {expected}; it has {length} characters")]
    SignatureMalformed {
        /// Where it stands.
        place: Place,
        /// What it must be.
        expected: String,
        /// How many characters came after the prefix.
        length: usize,
    },
    /// The time did not come.
    #[error("{0} is missing")]
    TimestampMissing(Place),
    /// It came more than once.
    #[error("{0} came more than once")]
    TimestampRepeated(Place),
    /// It is not a time in the scheme's unit.
    #[error("{place} is not {expected}")]
    TimestampMalformed {
        /// Where it stands.
        place: Place,
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
    /// A part of the signed content did not come.
    #[error("{0} is missing, which the signature covers")]
    PartMissing(Place),
    /// It came more than once.
    #[error("{0} came more than once, and the signature covers it")]
    PartRepeated(Place),
    /// It cannot be read.
    #[error("{0} cannot be read")]
    PartMalformed(Place),
    /// It holds the separator that follows it in the signed content.
    #[error("{0} holds the separator that follows it in the signed content")]
    PartAmbiguous(Place),
    /// Something that the scheme requires is not so.
    #[error("{0} is not what the scheme requires")]
    RequirementFailed(Place),
    /// The body is not of the form that the scheme signs.
    #[error("the body is {0}")]
    BodyMalformed(&'static str),
    /// The signed content could have been signed as the answer to a handshake, which anyone may ask for.
    #[error("the signed content has the form of a handshake's challenge")]
    ContentIsChallenge,
    /// The signed URL is not known here.
    #[error("the scheme signs the public URL, which is not known")]
    UrlUnknown,
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
            Self::PartMissing(_) => "signed_part_missing",
            Self::PartRepeated(_) => "signed_part_repeated",
            Self::PartMalformed(_) | Self::PartAmbiguous(_) => "signed_part_malformed",
            Self::RequirementFailed(_) => "requirement_failed",
            Self::BodyMalformed(_) => "signed_body_malformed",
            Self::ContentIsChallenge => "signed_content_is_challenge",
            Self::UrlUnknown => "public_url_unknown",
        }
    }
}

impl Scheme {
    /// Reads the claim from the head: decides everything that needs no body.
    ///
    /// # Errors
    /// [`ClaimError`] if a part is missing, repeated, malformed, or signed at a time outside the tolerance.
    pub fn claim(&self, head: &RequestHead<'_>, now: UnixTime) -> Result<Claim, ClaimError> {
        let plan = self.plan_for(head);
        let Some(plan) = plan else {
            return Ok(Claim::of_nothing(now));
        };
        let (presented, around, timestamp) = plan.claim(head, now)?;
        let (streams, is_tag) = (plan.streams.is_some(), plan.shape == Shape::Tag);
        Ok(Claim {
            algorithms: if streams && is_tag {
                plan.algorithms.len()
            } else {
                0
            },
            plan: (!streams || self.guarded).then(|| plan.clone()),
            presented,
            around,
            timestamp,
            now,
        })
    }
}

impl Plan {
    fn claim(&self, head: &RequestHead<'_>, now: UnixTime) -> Result<Read, ClaimError> {
        let context = self.context(*head);
        // The usual scheme: one tag in one header over the body alone. No allocation.
        if let Some(header) = self.simple_header() {
            let place = || Place::Header(header.clone());
            let value = match head.header(header) {
                Ok(Some(value)) => value,
                Ok(None) => return Err(ClaimError::SignatureMissing(place())),
                Err(()) => return Err(ClaimError::SignatureRepeated(place())),
            };
            let candidate = self.signature.plain(value)?;
            let tag = self.tag(candidate.text, candidate.algorithm)?;
            let timestamp = self.time(&context, now)?;
            self.required(&context, true)?;
            let presented = Presented::Tag {
                tag,
                algorithm: candidate.algorithm,
            };
            return Ok((presented, self.around(&context)?, timestamp));
        }
        if !self.signature.in_head() {
            let timestamp = match &self.timestamp {
                Some(timestamp) if timestamp.place.in_head(false) => self.time(&context, now)?,
                Some(_) | None => None,
            };
            self.required(&context, true)?;
            return Ok((Presented::Later, Vec::new(), timestamp));
        }
        let values = self.signature.values(&context)?;
        let (candidates, items) = self.signature.split(&values, &context)?;
        let mut context = context;
        context.items = Some(&items);
        let presented = match self.shape {
            Shape::Token => Presented::Tokens(
                candidates
                    .iter()
                    .map(|candidate| self.token(candidate.text))
                    .collect::<Result<_, _>>()?,
            ),
            Shape::Jwt | Shape::Jws => {
                for candidate in &candidates {
                    self.jwt(candidate.text)?;
                }
                Presented::Later
            }
            Shape::Tag => self.tags(&candidates)?,
            Shape::PublicKey => {
                for candidate in &candidates {
                    self.signature_bytes(candidate.text, candidate.algorithm)?;
                }
                Presented::Later
            }
        };
        let timestamp = match &self.timestamp {
            Some(timestamp)
                if !matches!(timestamp.place, Place::Claim(_)) && timestamp.place.in_head(true) =>
            {
                self.time(&context, now)?
            }
            Some(_) | None => None,
        };
        self.required(&context, true)?;
        if self.streams.is_some() {
            Ok((presented, self.around(&context)?, timestamp))
        } else {
            Ok((Presented::Later, Vec::new(), timestamp))
        }
    }

    /// The request as templates see it before the body is there.
    pub(super) fn context<'a>(&'a self, head: RequestHead<'a>) -> Context<'a> {
        Context {
            head,
            body: None,
            document: None,
            star: None,
            items: None,
            jwt: None,
            timestamp: self.timestamp.as_ref().map(|timestamp| &timestamp.place),
            id: self.id.as_ref(),
            last_field: self.last_field,
            signer: None,
        }
    }

    pub(super) fn time(
        &self,
        context: &Context<'_>,
        now: UnixTime,
    ) -> Result<Option<UnixTime>, ClaimError> {
        let Some(plan) = &self.timestamp else {
            return Ok(None);
        };
        let written = match context.value(&plan.place) {
            Err(ClaimError::PartRepeated(place)) => {
                return Err(ClaimError::TimestampRepeated(place));
            }
            value => value?,
        };
        let written = written.ok_or_else(|| ClaimError::TimestampMissing(plan.place.clone()))?;
        plan.read(&written, now).map(Some)
    }

    fn tags(&self, candidates: &[Candidate<'_>]) -> Result<Presented, ClaimError> {
        let decode = |candidate: &Candidate<'_>| {
            let algorithm = candidate.algorithm;
            Ok((self.tag(candidate.text, algorithm)?, algorithm))
        };
        if let [only] = candidates {
            let (tag, algorithm) = decode(only)?;
            return Ok(Presented::Tag { tag, algorithm });
        }
        let tags = candidates.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Presented::Tags(tags))
    }

    /// What the streams' hashes take in before and behind the body.
    fn around<'a>(&'a self, context: &Context<'a>) -> Result<Vec<Around>, ClaimError> {
        let Some(streams) = &self.streams else {
            return Ok(Vec::new());
        };
        // The body alone: nothing to make ready.
        if matches!(&**streams, [only] if matches!(&**only, [Run::Body])) {
            return Ok(Vec::new());
        }
        let mut all = Vec::with_capacity(streams.len());
        for runs in streams {
            let mut around = Around::default();
            for run in runs {
                let stretch = if around.has_body {
                    &mut around.after
                } else {
                    &mut around.before
                };
                match run {
                    Run::Body => around.has_body = true,
                    Run::Secret => stretch.secret_at.push(stretch.bytes.len()),
                    Run::Text(template) => context.write(template, &mut stretch.bytes)?,
                }
            }
            all.push(around);
        }
        Ok(all)
    }

    pub(super) fn malformed(&self, expected: String, length: usize) -> ClaimError {
        ClaimError::SignatureMalformed {
            place: self.signature.place(),
            expected,
            length,
        }
    }

    pub(super) fn token(&self, text: &[u8]) -> Result<TokenDigest, ClaimError> {
        let token = match self.encoding {
            None => Cow::Borrowed(text),
            Some(encoding) => Cow::Owned(encoding.decode(text).ok_or_else(|| {
                self.malformed(format!("{} of a token", encoding.name()), text.len())
            })?),
        };
        if token.is_empty() {
            return Err(self.malformed("a token".into(), 0));
        }
        Ok(TokenDigest::of(&token))
    }

    pub(super) fn jwt(&self, text: &[u8]) -> Result<Jwt, ClaimError> {
        Jwt::parse(text, self.shape == Shape::Jws).ok_or_else(|| {
            self.malformed(
                "a token of header, payload and signature".into(),
                text.len(),
            )
        })
    }

    /// The decoded tag. Exactly the right number of characters, in canonical form; nothing before or behind.
    pub(super) fn tag(&self, text: &[u8], algorithm: usize) -> Result<Tag, ClaimError> {
        let len = match self.algorithms.get(algorithm) {
            Some(Algorithm::Hmac(hmac)) => hmac.tag_bytes(),
            Some(Algorithm::Digest(digest)) => digest.tag_bytes(),
            _ => 0,
        };
        let encoding = self.encoding.unwrap_or(Encoding::Hex);
        Tag::decode(encoding.codec(), len, text).ok_or_else(|| {
            self.malformed(
                format!("{} {}", encoding.codec().encode_len(len), encoding.name()),
                text.len(),
            )
        })
    }

    /// The decoded signature of a public key: its length varies within what the algorithm allows.
    pub(super) fn signature_bytes(
        &self,
        text: &[u8],
        algorithm: usize,
    ) -> Result<Vec<u8>, ClaimError> {
        let Some(Algorithm::Public(public)) = self.algorithms.get(algorithm) else {
            return Err(self.malformed("a signature".into(), text.len()));
        };
        let (min, max) = public.signature_bytes();
        let encoding = self.encoding.unwrap_or(Encoding::Hex);
        encoding
            .decode(text)
            .filter(|bytes| (min..=max).contains(&bytes.len()))
            .ok_or_else(|| {
                self.malformed(
                    format!("a signature of {min} to {max} bytes as {}", encoding.name()),
                    text.len(),
                )
            })
    }
}

impl Encoding {
    pub(super) fn codec(self) -> &'static data_encoding::Encoding {
        static HEX: data_encoding::Encoding = HEXLOWER_PERMISSIVE;
        static PADDED: data_encoding::Encoding = BASE64;
        static URL: data_encoding::Encoding = BASE64URL;
        static URL_BARE: data_encoding::Encoding = BASE64URL_NOPAD;
        match self {
            Self::Hex => &HEX,
            Self::Base64 => &PADDED,
            Self::Base64Url => &URL,
            Self::Base64UrlNoPad => &URL_BARE,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hex => "hex digits",
            Self::Base64 => "characters of base64",
            Self::Base64Url => "characters of base64url",
            Self::Base64UrlNoPad => "characters of base64url without padding",
        }
    }

    /// In canonical form only.
    pub(super) fn decode(self, text: &[u8]) -> Option<Vec<u8>> {
        self.codec().decode(text).ok()
    }
}
