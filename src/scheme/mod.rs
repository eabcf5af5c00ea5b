//! How senders sign, as data.
//!
//! A [`SchemeSpec`] is what stands in a file; [`Scheme::compile`] turns it into a plan: what to take from the head, what to
//! feed to which MAC, what to compare. A request then goes through three pure steps:
//! [`Scheme::claim`] reads what the sender says, [`Check`] takes in the signed content, [`Check::finish`] gives the verdict.
//! Nothing here knows sockets, files or the clock.
//!
//! ```
//! use countersign::{clock::UnixTime, scheme::{Verdict, catalogue}, secret::Secret};
//! use countersign::scheme::RequestHead;
//! use http::{HeaderMap, HeaderValue, Method};
//!
//! let scheme = catalogue::compile("carevalidate", &Default::default()).expect("it is in the catalogue");
//! let key = scheme.key(&Secret::new(b"Jefe".to_vec())?)?;
//!
//! // RFC 4231, test case 2.
//! let mut headers = HeaderMap::new();
//! let tag = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
//! headers.insert("x-cv-signature", HeaderValue::from_static(tag));
//!
//! let head = RequestHead { method: &Method::POST, target: "/", headers: &headers, url: None };
//! let claim = scheme.claim(&head, UnixTime::from_secs(0))?;
//! let mut check = scheme.start(claim, [&key]);
//! check.update(b"what do ya want ");
//! check.update(b"for nothing?");
//! assert_eq!(check.finish(), Verdict::Match(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod canonical;
pub mod catalogue;
mod check;
mod claim;
mod compile;
mod context;
mod describe;
mod fetch;
mod form;
mod handshake;
mod identity;
mod jose;
mod json;
mod keys;
mod locate;
mod mac;
mod plan;
mod private;
mod sign;
pub mod spec;
mod template;
mod time;

use std::{borrow::Cow, collections::BTreeMap, ops::Deref, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use unicode_normalization::UnicodeNormalization as _;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

pub use self::{
    check::{Check, Request},
    claim::{Claim, ClaimError},
    compile::{SpecError, parse_duration},
    context::RequestHead,
    describe::Gap,
    fetch::{FetchedDocument, FetchedKey, KeyRequest},
    handshake::{
        HANDSHAKE_BODY_MAX, Handshake, HandshakeAnswer, HandshakeFault, HandshakeKind,
        HandshakeMode, HandshakeReply, UnusableHandshake,
    },
    identity::Fingerprint,
    keys::{KeyError, PublicAlgorithm},
    mac::{DigestAlgorithm, HmacAlgorithm, Tag},
    sign::{SignError, Signed},
    spec::SchemeSpec,
    template::Place,
};
use self::{
    handshake::HandshakePlan,
    keys::PublicKey,
    mac::{Hasher, TokenDigest},
    plan::{Algorithm, Decode, JoseAlgorithm, Plan, Shape},
};
use crate::secret::Secret;

/// The longest body that a check looks into as a whole, in bytes. Longer ones are refused by schemes that have to.
pub const WHOLE_BODY_MAX: u64 = 8 * 1024 * 1024;

/// Bytes that a shared secret should have at least: 128 bits, if they are random.
pub const KEY_BYTES_MIN: usize = 16;

/// A compiled scheme.
#[derive(Debug, Clone)]
pub struct Scheme {
    name: String,
    /// `None`: the operator wrote `scheme = "none"`; nothing is checked, nothing is vouched for.
    plan: Option<Arc<Plan>>,
    /// The same with the headers' other names.
    renamed: Option<Arc<Plan>>,
    /// Requests that want an answer of a certain form.
    handshakes: Arc<[HandshakePlan]>,
    handshake_mode: HandshakeMode,
    /// The sender tries bad signatures, and wants no body in the answer.
    probed: bool,
    /// A replay guard tells deliveries apart.
    guarded: bool,
}

/// A secret made ready for one scheme. No `Debug`; wiped when dropped.
#[derive(Clone)]
pub struct Key(KeyMaterial);

#[derive(Clone)]
enum KeyMaterial {
    /// For each algorithm that the sender may name, an HMAC that is keyed and has taken in nothing yet.
    Shared(Arc<[Option<Hasher>]>),
    Token(TokenDigest),
    /// The same as plain hashes, and the key itself, which their content holds.
    Secret(Arc<SecretBytes>, Arc<[Option<Hasher>]>),
    Public(Arc<Vec<PublicKey>>),
}

/// Key bytes. No `Debug`; wiped when dropped.
struct SecretBytes(Vec<u8>);

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for SecretBytes {}

impl Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl KeyMaterial {
    /// A fresh hash of this key for the algorithm at that place of the plan: to be cloned.
    fn hasher(&self, algorithm: usize) -> Option<&Hasher> {
        self.hashers().get(algorithm)?.as_ref()
    }

    /// A fresh HMAC of this key, where it is one for that algorithm: to be cloned.
    fn hmac(&self, algorithm: HmacAlgorithm) -> Option<&Hasher> {
        let mut hashers = self.hashers().iter().flatten();
        hashers.find(|hasher| hasher.hmac_algorithm() == Some(algorithm))
    }

    fn hashers(&self) -> &[Option<Hasher>] {
        match self {
            Self::Shared(hashers) | Self::Secret(_, hashers) => hashers,
            Self::Token(_) | Self::Public(_) => &[],
        }
    }

    /// The key bytes, where the content holds them.
    fn secret(&self) -> Option<&[u8]> {
        match self {
            Self::Secret(secret, _) => Some(secret),
            Self::Shared(_) | Self::Token(_) | Self::Public(_) => None,
        }
    }
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

    /// The names of the parameters that a route has to give, for the scheme and for its handshakes.
    pub fn parameters(spec: &SchemeSpec) -> Vec<String> {
        compile::parameters(spec)
    }

    /// The scheme of a sender that does not sign: the operator's explicit word that nothing is to be checked.
    pub fn none() -> Self {
        Self {
            name: Self::NONE.into(),
            plan: None,
            renamed: None,
            handshakes: Arc::default(),
            handshake_mode: HandshakeMode::Answer,
            probed: false,
            guarded: false,
        }
    }

    /// The plan by which a request is read: that of the headers' other names where only those came.
    fn plan_for(&self, head: &RequestHead<'_>) -> Option<&Arc<Plan>> {
        match (&self.plan, &self.renamed) {
            (Some(plan), Some(renamed)) => {
                let came = |plan: &Plan| {
                    plan.headers
                        .iter()
                        .any(|name| head.headers.contains_key(name))
                };
                Some(if !came(plan) && came(renamed) {
                    renamed
                } else {
                    plan
                })
            }
            (plan, _) => plan.as_ref(),
        }
    }

    /// Its name: an RFC 9651 token, such as `carevalidate` or `custom`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a route with this scheme needs at least one secret.
    pub fn needs_secret(&self) -> bool {
        self.plan.is_some()
    }

    /// Whether a signature of this scheme covers the body, for warnings.
    pub fn covers_body(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.covers_body)
    }

    /// Whether the check needs the whole body at once; then no more than [`WHOLE_BODY_MAX`] can be checked.
    pub fn needs_whole_body(&self) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|plan| plan.streams.is_none())
    }

    /// Whether the public URL is signed, so that [`RequestHead::url`] is needed.
    pub fn signs_url(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.signs_url)
    }

    /// Whether the path of that URL is signed, which a proxy may have shortened.
    pub fn signs_path(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.signs_path)
    }

    /// Whether the secret itself is sent, so that whoever sees one request can make others.
    pub fn is_token(&self) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|plan| plan.shape == Shape::Token)
    }

    /// Whether the operator's secrets are public keys.
    pub fn has_public_keys(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| {
            plan.algorithms.iter().all(|algorithm| {
                matches!(
                    algorithm,
                    Algorithm::Public(_) | Algorithm::Jose(_, JoseAlgorithm::Public(_))
                )
            })
        })
    }

    /// Whether the signature covers the delivery id, so that it can serve the replay guard. `None`: the scheme names none.
    pub fn covers_id(&self) -> Option<bool> {
        let plan = self.plan.as_ref()?;
        plan.id.as_ref().map(|_| plan.id_covered)
    }

    /// What tells this delivery from another: the value that the scheme's `id` names. Ask only for verified requests.
    pub fn delivery_id(&self, request: &Request<'_>) -> Option<Vec<u8>> {
        let plan = self.plan_for(&request.head)?;
        let place = plan.id.as_ref()?;
        let mut known = plan.context(request.head);
        known.body = Some(request.body);
        let document = matches!(place, Place::Json(_))
            .then(|| plan.document_of(request).ok())
            .flatten();
        known.document = document
            .as_deref()
            .and_then(|document| std::str::from_utf8(document).ok());
        let values = matches!(place, Place::Claim(_) | Place::Item(_))
            .then(|| plan.signature.values(&known).ok())
            .flatten();
        let split = values
            .as_ref()
            .and_then(|values| plan.signature.split(values, &known).ok());
        let token = split.as_ref().and_then(|(candidates, _)| match plan.shape {
            Shape::Jwt | Shape::Jws => plan.jwt(candidates.first()?.text).ok(),
            Shape::Token | Shape::Tag | Shape::PublicKey => None,
        });
        let mut context = known;
        context.items = split.as_ref().map(|(_, items)| items);
        context.jwt = token.as_ref();
        context
            .value(place)
            .ok()
            .flatten()
            .map(Cow::into_owned)
            .filter(|id| !id.is_empty())
    }

    /// Whether the delivery id stands in the body.
    pub fn id_in_body(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| {
            plan.id
                .as_ref()
                .is_some_and(|place| !place.in_head(plan.signature.in_head()))
        })
    }

    /// Allowed clock difference, if the scheme signs a time.
    pub fn tolerance(&self) -> Option<Duration> {
        Some(self.plan.as_ref()?.timestamp.as_ref()?.tolerance)
    }

    /// Replaces the allowed clock difference. Answers `false`, and changes nothing, if the scheme signs no time.
    #[must_use]
    pub fn set_tolerance(&mut self, tolerance: Duration) -> bool {
        let mut set = false;
        for plan in self.plan.iter_mut().chain(&mut self.renamed) {
            if plan.timestamp.is_some()
                && let Some(timestamp) = &mut Arc::make_mut(plan).timestamp
            {
                timestamp.tolerance = tolerance;
                set = true;
            }
        }
        set
    }

    /// The headers that the scheme reads.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.plan
            .iter()
            .chain(&self.renamed)
            .flat_map(|plan| &plan.headers)
    }

    /// Makes a key of a secret.
    ///
    /// # Errors
    /// If it is not of the form that the scheme says.
    pub fn key(&self, secret: &Secret) -> Result<Key, KeyError> {
        let Some(plan) = &self.plan else {
            return Ok(Key(KeyMaterial::Token(TokenDigest::of(secret.expose()))));
        };
        plan.key(secret.expose()).map(Key)
    }

    /// Whether the sender uses a key of its API as the signing secret, so that the secret may look like one.
    pub fn takes_api_key(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.secret.api_key)
    }

    /// Whether the key that a shared secret makes is one that can be guessed from a delivery: shorter than [`KEY_BYTES_MIN`].
    pub fn is_short(&self, secret: &Secret) -> bool {
        !self.has_public_keys()
            && self.plan.as_ref().is_some_and(|plan| {
                let text = plan.without_prefix(secret.expose());
                text.len() < KEY_BYTES_MIN
                    || plan
                        .key_bytes(secret.expose())
                        .is_ok_and(|key| key.len() < KEY_BYTES_MIN)
            })
    }

    /// Begins a check: hashes for each key, fed with what stands before the body.
    pub fn start<'k>(&self, claim: Claim, keys: impl IntoIterator<Item = &'k Key>) -> Check {
        let watch = self.watch(&claim);
        Check::start(claim, keys, watch)
    }
}

impl Plan {
    fn key(&self, pasted: &[u8]) -> Result<KeyMaterial, KeyError> {
        let public: Vec<_> =
            self.algorithms
                .iter()
                .filter_map(|algorithm| match algorithm {
                    Algorithm::Public(public)
                    | Algorithm::Jose(_, JoseAlgorithm::Public(public)) => Some(*public),
                    Algorithm::Token
                    | Algorithm::Hmac(_)
                    | Algorithm::Digest(_)
                    | Algorithm::Jose(..) => None,
                })
                .collect();
        if private::looks_private(pasted) {
            return Err(KeyError::Private);
        }
        let all_public = public.len() == self.algorithms.len();
        let looks_public = keys::looks_public(pasted);
        if all_public || (looks_public && !public.is_empty()) {
            let bytes;
            let keys = match self.secret.decode {
                Decode::Hex | Decode::Base64 => {
                    bytes = self.key_bytes(pasted)?;
                    vec![PublicKey::ed25519(&bytes)?]
                }
                Decode::Text | Decode::Nfkd | Decode::Document => {
                    keys::document(self.without_prefix(pasted))?
                }
            };
            let keys: Vec<_> = keys
                .into_iter()
                .filter(|key| public.iter().any(|algorithm| key.fits(*algorithm)))
                .collect();
            if keys.is_empty() {
                return Err(KeyError::NoKey);
            }
            return Ok(KeyMaterial::Public(Arc::new(keys)));
        }
        // Anyone knows a public key: a token signed with it as a shared secret would be anyone's.
        if looks_public {
            return Err(KeyError::Public);
        }
        let bytes = self.key_bytes(pasted)?;
        // A plain hash that nobody feeds the key to would be anyone's: the two kinds are kept apart.
        let hashers = |plain: bool| {
            let of = self.algorithms.iter().map(|algorithm| match algorithm {
                Algorithm::Hmac(hmac) | Algorithm::Jose(_, JoseAlgorithm::Hmac(hmac)) => {
                    (!plain).then(|| Hasher::keyed(*hmac, &bytes))
                }
                Algorithm::Digest(digest) => plain.then(|| Hasher::plain(*digest)),
                Algorithm::Token
                | Algorithm::Public(_)
                | Algorithm::Jose(_, JoseAlgorithm::Public(_)) => None,
            });
            of.collect::<Arc<[_]>>()
        };
        Ok(match &*self.algorithms {
            [Algorithm::Token] => KeyMaterial::Token(TokenDigest::of(&bytes)),
            [Algorithm::Digest(_), ..] => {
                KeyMaterial::Secret(Arc::new(SecretBytes(bytes.to_vec())), hashers(true))
            }
            _ => KeyMaterial::Shared(hashers(false)),
        })
    }

    /// What follows the prefix, where it stands in front.
    fn without_prefix<'s>(&self, pasted: &'s [u8]) -> &'s [u8] {
        let mut rest = pasted;
        for (i, literal) in self.secret.prefix.iter().enumerate() {
            if i > 0 {
                let word = rest
                    .iter()
                    .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_')
                    .count();
                if word == 0 {
                    return pasted;
                }
                rest = rest.get(word..).unwrap_or_default();
            }
            match rest.strip_prefix(literal.as_bytes()) {
                Some(after) => rest = after,
                None => return pasted,
            }
        }
        rest
    }

    fn key_bytes(&self, pasted: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let text = self.without_prefix(pasted);
        let wrong = |what| {
            move |error: data_encoding::DecodeError| {
                KeyError::Alphabet(what, pasted.len() - text.len() + error.position + 1)
            }
        };
        let decoded = Zeroizing::new(match self.secret.decode {
            Decode::Text | Decode::Document => text.to_vec(),
            Decode::Nfkd => std::str::from_utf8(text)
                .map_err(|_| KeyError::Form("UTF-8"))?
                .nfkd()
                .collect::<String>()
                .into_bytes(),
            Decode::Hex => data_encoding::HEXLOWER_PERMISSIVE
                .decode(text)
                .map_err(wrong("hex"))?,
            Decode::Base64 => {
                let bare = text
                    .strip_suffix(b"==")
                    .or_else(|| text.strip_suffix(b"="))
                    .unwrap_or(text);
                let padded = bare.len() != text.len();
                let codec = if padded {
                    &data_encoding::BASE64
                } else {
                    &data_encoding::BASE64_NOPAD
                };
                codec.decode(text).map_err(wrong("base64"))?
            }
        });
        if decoded.is_empty() {
            return Err(KeyError::Empty);
        }
        let (before, after) = &self.secret.around;
        let whole = Zeroizing::new([&**before, &decoded, after].concat());
        Ok(match self.secret.digest {
            Some(digest) => Zeroizing::new(mac::digest(digest, &whole)),
            None => whole,
        })
    }
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

/// Header values that carry a signature, for [`Scheme::sign`].
pub type SignatureHeaders = Vec<(HeaderName, HeaderValue)>;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
