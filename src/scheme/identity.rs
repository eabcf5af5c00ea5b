//! What tells one delivery from another, for the replay guard: fixed for each scheme, so that a replay cannot choose another.

use std::borrow::Cow;

use super::{
    Scheme,
    check::{Check, Request, State},
    claim::Claim,
    claim::{ClaimError, Presented},
    context::Context,
    locate::{ListPlan, SignaturePlan, Site},
    mac::{DigestAlgorithm, Hasher, Tag},
    plan::{Plan, Shape},
    template::{Filter, Place, Source, Token},
};

/// Stands in for the key in signed content that holds it: what tells deliveries apart does not depend on the key.
const NO_KEY: &[u8] = b"key";

/// What a scheme's deliveries are told apart by where they bear no delivery id that the signature covers.
///
/// Whatever it is, it is signed, and a delivery has one of it: who holds a captured delivery cannot make another that verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// The tag that verified. Only where a delivery bears one tag, and a key makes one of a content.
    Tag,
    /// The signed content: several signatures may stand over it, of several keys, or of the same.
    Content,
    /// The body: there can be several contents, which all hold it as it is.
    Body,
}

/// What tells a verified delivery from others.
///
/// No `Debug`: it may be a tag.
#[derive(Clone)]
pub struct Fingerprint {
    basis: Basis,
    value: Tag,
}

impl Fingerprint {
    fn new(basis: Basis, value: Tag) -> Self {
        Self { basis, value }
    }

    /// For a keyed hash. It must reach no log.
    pub fn to_bytes(&self) -> Vec<u8> {
        let kind = match self.basis {
            Basis::Tag => b't',
            Basis::Content => b'c',
            Basis::Body => b'b',
        };
        [&[kind], self.value.as_bytes()].concat()
    }
}

/// What a check keeps in view for the [`Fingerprint`].
pub(super) enum Watch {
    Tag,
    Hash(Basis, State),
}

impl Scheme {
    /// Has deliveries told apart: from now on checks keep in view by what.
    ///
    /// # Errors
    /// Why they cannot be.
    pub fn guard(&mut self) -> Result<(), &'static str> {
        let plan = self.plan.as_ref().ok_or("nothing of them is signed")?;
        if plan.shape == Shape::Token {
            return Err("the secret itself is sent, and is the same in all of them");
        }
        if !plan.signs_id() && plan.basis().is_none() {
            return Err(match plan.covers_body {
                false => {
                    "the signature covers neither the whole body nor a delivery id, so that different deliveries may bear the same"
                }
                true => "they may be signed in several ways that have nothing in common",
            });
        }
        self.guarded = true;
        Ok(())
    }

    /// Whether a delivery id tells deliveries apart: the scheme names one, and its signature covers it so that nobody can write it
    /// in another way.
    pub fn is_told_by_id(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.signs_id())
    }

    /// What the check of a claim has to keep in view.
    pub(super) fn watch(&self, claim: &Claim) -> Option<Watch> {
        let plan = claim.plan.as_ref().filter(|_| self.guarded)?;
        if plan.streams.is_none() || plan.signs_id() && !self.id_in_body() {
            return None;
        }
        let basis = plan.basis()?;
        let mut hash = State::of_body(Hasher::plain(DigestAlgorithm::Sha256), 0);
        match basis {
            Basis::Tag => return Some(Watch::Tag),
            Basis::Body => {}
            Basis::Content => {
                if let Some(steps) = claim.runs.first() {
                    hash.begin(steps);
                }
            }
        }
        Some(Watch::Hash(basis, hash))
    }

    /// What tells a delivery apart whose check needed the whole body. Ask only for verified requests.
    pub fn fingerprint(&self, request: &Request<'_>) -> Option<Fingerprint> {
        let plan = self.plan_for(&request.head).filter(|_| self.guarded)?;
        let mut hash = Hasher::plain(DigestAlgorithm::Sha256);
        let basis = plan.basis()?;
        match basis {
            Basis::Body => hash.update(request.body),
            Basis::Tag | Basis::Content => {
                let feed = |part: &[u8]| hash.update(part);
                // It verified, so its parts are there.
                plan.signed_content(request, feed).ok()?;
            }
        }
        Some(Fingerprint::new(basis, hash.tag()))
    }
}

impl Watch {
    pub(super) fn update(&mut self, body: &[u8]) {
        match self {
            Self::Hash(_, state) if state.has_body => state.hasher.update(body),
            Self::Hash(..) | Self::Tag => {}
        }
    }

    /// What was seen, for a request whose check passes.
    pub(super) fn fingerprint(self, presented: &Presented) -> Option<Fingerprint> {
        match (self, presented) {
            (Self::Hash(basis, state), _) => Some(Fingerprint::new(basis, state.tag())),
            // It is the computed one, byte for byte, or the check does not pass.
            (Self::Tag, Presented::Tag { tag, .. }) => {
                Some(Fingerprint::new(Basis::Tag, tag.clone()))
            }
            (Self::Tag, Presented::Tags(tags)) => match &tags[..] {
                [(tag, _)] => Some(Fingerprint::new(Basis::Tag, tag.clone())),
                _ => None,
            },
            (Self::Tag, Presented::Nothing | Presented::Tokens(_) | Presented::Later) => None,
        }
    }
}

impl Plan {
    /// Whether the delivery id tells deliveries apart.
    fn signs_id(&self) -> bool {
        let Some(place) = self.id.as_ref().filter(|_| self.id_covered) else {
            return false;
        };
        let mut tokens = self.contents.iter().flat_map(|content| content.tokens());
        match place {
            Place::Claim(_) | Place::Protected(_) => true,
            // A field is decoded, so its order and its escapes change nothing.
            Place::Form(_) => !tokens.any(|token| is_lossy(token) && token.source != Source::Form),
            Place::Header(_) | Place::Query(_) | Place::Json(_) | Place::Item(_) | Place::Body => {
                !tokens.any(is_lossy)
            }
        }
    }

    /// What tells deliveries apart that have no id; `None`: nothing.
    fn basis(&self) -> Option<Basis> {
        if !self.covers_body || self.shape == Shape::Token || self.signature.is_in_items() {
            return None;
        }
        if self.contents.len() < 2 {
            let is_tag = self.shape == Shape::Tag && self.streams.is_some();
            return Some(match is_tag && self.signature.is_single() {
                true => Basis::Tag,
                false => Basis::Content,
            });
        }
        let body = Source::Place(Place::Body);
        let is_body = |token: &Token| token.source == body && token.filters.is_empty();
        let holds_body = |content: &super::template::Template| content.tokens().any(is_body);
        self.contents.iter().all(holds_body).then_some(Basis::Body)
    }

    /// What is signed, piece by piece.
    fn signed_content(
        &self,
        request: &Request<'_>,
        mut feed: impl FnMut(&[u8]),
    ) -> Result<(), ClaimError> {
        let mut context = self.context(request.head);
        context.body = Some(request.body);
        let document = match self.needs_document {
            true => self.document_of(request)?,
            false => Cow::Borrowed(&[][..]),
        };
        context.document = std::str::from_utf8(&document)
            .ok()
            .filter(|_| self.needs_document);
        let values = self.signature.values(&context)?;
        let (candidates, items) = self.signature.split(&values, &context)?;
        context.items = Some(&items);
        let token = match (self.shape, candidates.first()) {
            (Shape::Jwt | Shape::Jws, Some(candidate)) => Some(self.jwt(candidate.text)?),
            _ => None,
        };
        context.jwt = token.as_ref();
        self.feed_content(&context, &mut feed)
    }

    fn feed_content(
        &self,
        context: &Context<'_>,
        feed: &mut impl FnMut(&[u8]),
    ) -> Result<(), ClaimError> {
        match (self.contents.first(), context.jwt) {
            (Some(template), _) => {
                let parts = context.fill(template, Some(NO_KEY))?;
                parts.iter().for_each(|part| feed(part));
            }
            (None, Some(token)) => feed(&token.signed()),
            (None, None) => {}
        }
        Ok(())
    }
}

/// Whether the value of the token can be written in several ways that are signed as the same.
fn is_lossy(token: &Token) -> bool {
    matches!(token.source, Source::Canonical(_))
        || token.filters.iter().any(|filter| match filter {
            Filter::Lower
            | Filter::Crc32
            | Filter::Jcs
            | Filter::Gunzip
            | Filter::Sorted
            | Filter::WithoutQuery
            | Filter::DefaultPort
            | Filter::Unescaped => true,
            Filter::Sha1
            | Filter::Sha256
            | Filter::Sha512
            | Filter::Hex
            | Filter::Base64
            | Filter::Base64Url
            | Filter::Base64UrlNoPad
            | Filter::JsonString
            | Filter::Hmac(_) => false,
        })
}

impl SignaturePlan {
    /// Whether a delivery bears one tag, in one place.
    fn is_single(&self) -> bool {
        let one_in_list = |list: &ListPlan| !list.several && list.groups.is_none();
        matches!(self.site, Site::Header(_))
            && self.aliases.is_empty()
            && !self.repeated
            && self.prefixes.iter().all(|prefix| prefix.algorithm == 0)
            && self.list.as_ref().is_none_or(one_in_list)
    }

    /// Whether each item of an array in the body bears its own.
    fn is_in_items(&self) -> bool {
        matches!(&self.site, Site::Place(Place::Json(pointer)) if pointer.has_star())
    }
}

impl Check {
    /// As [`Self::finish`], and what tells the delivery from others, where the scheme is [guarded](Scheme::guard) and the head and a
    /// stream of the body are enough to tell.
    pub fn finish_told_apart(mut self) -> (super::Verdict, Option<Fingerprint>) {
        let watch = self.watch.take();
        let seen = watch.and_then(|watch| watch.fingerprint(&self.presented));
        match self.finish() {
            verdict @ super::Verdict::Match(_) => (verdict, seen),
            verdict @ (super::Verdict::Mismatch | super::Verdict::Unsigned) => (verdict, None),
        }
    }
}
