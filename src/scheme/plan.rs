//! A compiled scheme: what to take from where, what to feed to which hash, what to compare.

use std::time::Duration;

use http::HeaderName;

use super::{
    handshake::Challenge,
    json::Pointer,
    keys::PublicAlgorithm,
    locate::{SignaturePlan, Site},
    mac::{DigestAlgorithm, HmacAlgorithm},
    template::{Place, Template},
    time::TimestampPlan,
};

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) shape: Shape,
    /// One, or those that the sender may name.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) encoding: Option<Encoding>,
    pub(super) signature: SignaturePlan,
    /// Alternatives of the signed content.
    pub(super) contents: Vec<Template>,
    /// The same, where the body passes through while it arrives; `None`: the check needs the whole body.
    pub(super) streams: Option<Vec<Vec<Run>>>,
    pub(super) timestamp: Option<TimestampPlan>,
    pub(super) id: Option<Place>,
    pub(super) id_covered: bool,
    pub(super) secret: SecretPlan,
    pub(super) require: Vec<Requirement>,
    pub(super) document: Document,
    pub(super) needs_document: bool,
    pub(super) last_field: bool,
    pub(super) fetch: Option<FetchPlan>,
    pub(super) signs_url: bool,
    pub(super) signs_path: bool,
    pub(super) covers_body: bool,
    pub(super) headers: Vec<HeaderName>,
    /// What anyone can have signed as a challenge, where that could be the content of a delivery.
    pub(super) challenges: Vec<Challenge>,
}

/// What kind of value the sender presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Token,
    Tag,
    PublicKey,
    Jwt,
    /// A JWS whose payload is elsewhere.
    Jws,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Token,
    Hmac(HmacAlgorithm),
    Digest(DigestAlgorithm),
    Public(PublicAlgorithm),
    /// As a token names it, and what that is.
    Jose(JoseName, JoseAlgorithm),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JoseName {
    /// What stands in `alg`.
    pub(super) alg: &'static str,
    /// A JWS whose payload is elsewhere.
    pub(super) detached: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JoseAlgorithm {
    Hmac(HmacAlgorithm),
    Public(PublicAlgorithm),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Hex,
    Base64,
    Base64Url,
    Base64UrlNoPad,
}

/// A stretch of streamed content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Run {
    Text(Template),
    Body,
    Secret,
}

#[derive(Debug, Clone, Default)]
pub(super) struct SecretPlan {
    /// Literal pieces; between two of them stands one or more word characters.
    pub(super) prefix: Vec<Box<str>>,
    pub(super) decode: Decode,
    /// Text before and behind the secret.
    pub(super) around: (Vec<u8>, Vec<u8>),
    pub(super) digest: Option<DigestAlgorithm>,
    /// It is a key of the sender's API.
    pub(super) api_key: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Decode {
    #[default]
    Text,
    Nfkd,
    Hex,
    Base64,
    Document,
}

#[derive(Debug, Clone)]
pub(super) struct Requirement {
    /// The first of these that is there.
    pub(super) places: Vec<Place>,
    /// May be missing.
    pub(super) optional: bool,
    /// What it has to be: any of these. None: anything but nothing.
    pub(super) wanted: Vec<Template>,
    /// Whether the head alone is enough.
    pub(super) in_head: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) enum Document {
    #[default]
    Body,
    Part(String),
    Field(String),
}

#[derive(Debug, Clone)]
pub(super) struct FetchPlan {
    pub(super) url: Template,
    pub(super) hosts: Vec<String>,
    pub(super) path: Option<String>,
    pub(super) pointer: Option<Pointer>,
    pub(super) post: Option<Template>,
    pub(super) headers: Vec<(HeaderName, Template)>,
    pub(super) certificate: Option<String>,
}

/// How long a token without a signed time of its own may outlive its end.
pub(super) const LEEWAY: Duration = Duration::from_secs(60);

impl Plan {
    /// The header, where the signature is one tag in one header.
    pub(super) fn simple_header(&self) -> Option<&HeaderName> {
        match &self.signature {
            SignaturePlan {
                site: Site::Header(header),
                list: None,
                repeated: false,
                structured: false,
                aliases,
                ..
            } if aliases.is_empty() && self.shape == Shape::Tag && self.streams.is_some() => {
                Some(header)
            }
            _ => None,
        }
    }
}
