//! The check itself: hashes that are fed while the body arrives, or one look at the whole body.

use std::{borrow::Cow, sync::Arc};

use smallvec::SmallVec;
use subtle::Choice;

use super::{
    Key, KeyMaterial, SecretBytes, Verdict,
    claim::{Around, Claim, ClaimError, Presented},
    context::{Context, RequestHead},
    form,
    identity::Watch,
    jose::Token as Jwt,
    json,
    keys::PublicAlgorithm,
    locate::Site,
    mac::{self, Hasher, Tag, TokenDigest},
    plan::{Algorithm, Document, JoseAlgorithm, LEEWAY, Plan, Requirement, Shape},
    template::Place,
    time::{self, TimeUnit},
};
use crate::clock::UnixTime;

/// A check under way: takes in the body as it arrives.
pub struct Check {
    pub(super) presented: Presented,
    /// For each key, each algorithm of which a tag came and each alternative of the content: what each is for, and the hash.
    states: SmallVec<[State; 1]>,
    /// Apart from their states, and on the heap: cloned to where they stay, they are not moved with the check.
    hashers: Vec<Hasher>,
    /// The alternatives; empty: the body alone.
    pub(super) around: Vec<Around>,
    /// The keys themselves, where there is no hash for each.
    keys: Vec<KeyMaterial>,
    key_count: usize,
    now: UnixTime,
    /// Where the check needs the whole body.
    whole: Option<Arc<Plan>>,
    /// What tells the delivery from others, where a replay guard asks.
    pub(super) watch: Option<Watch>,
}

/// A hash under way.
struct State {
    /// The key, where the content holds it.
    secret: Option<Arc<SecretBytes>>,
    algorithm: usize,
    /// Place of the alternative.
    around: usize,
}

impl State {
    #[inline]
    fn tag(&self, hasher: &mut Hasher, around: &[Around]) -> Tag {
        if let Some(around) = around.get(self.around) {
            let secret = self.secret.as_ref().map(|secret| &***secret);
            around.after.feed(hasher, secret);
        }
        // The one that stays is wiped where it stands; moved out, it would leave its bytes behind.
        hasher.clone().tag()
    }
}

/// A request whose body is here whole.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The head that the claim was made of.
    pub head: RequestHead<'a>,
    /// The whole body.
    pub body: &'a [u8],
}

impl Check {
    /// Begins it: hashes for each key, fed with what stands before the body.
    pub(super) fn start<'k>(
        claim: Claim,
        keys: impl IntoIterator<Item = &'k Key>,
        watch: Option<Watch>,
    ) -> Self {
        let mut check = Self {
            presented: claim.presented,
            states: SmallVec::new(),
            hashers: Vec::new(),
            around: claim.around,
            keys: Vec::new(),
            key_count: 0,
            now: claim.now,
            whole: claim.plan.filter(|plan| plan.streams.is_none()),
            watch,
        };
        if claim.algorithms == 0 {
            check.keys = keys.into_iter().map(|key| key.0.clone()).collect();
            check.key_count = check.keys.len();
            return check;
        }
        let keys = keys.into_iter();
        // Room for all at once: a list that grows leaves keyed hashes behind, not wiped.
        let (least, most) = keys.size_hint();
        let each = claim.algorithms * check.around.len().max(1);
        check.hashers.reserve_exact(most.unwrap_or(least) * each);
        for Key(key) in keys {
            check.key_count += 1;
            if check.begin(key, claim.algorithms).is_none() {
                // A key of another scheme would come from a mistake of ours. Nothing may match then.
                check.presented = Presented::Later;
            }
        }
        check
    }

    /// Adds the hashes of a key. `None` if it is not one for an algorithm of which a tag came.
    #[inline]
    fn begin(&mut self, key: &KeyMaterial, algorithms: usize) -> Option<()> {
        for algorithm in (0..algorithms).filter(|of| self.presented.has_tag_of(*of)) {
            for place in 0..self.around.len().max(1) {
                let fresh = key.hasher(algorithm)?;
                self.hashers.extend_from_slice(std::slice::from_ref(fresh));
                self.states.push(State {
                    secret: match key {
                        KeyMaterial::Secret(secret, _) => Some(secret.clone()),
                        KeyMaterial::Shared(_) | KeyMaterial::Token(_) | KeyMaterial::Public(_) => {
                            None
                        }
                    },
                    algorithm,
                    around: place,
                });
                if let (Some(around), Some(hasher)) =
                    (self.around.get(place), self.hashers.last_mut())
                {
                    around.before.feed(hasher, key.secret());
                }
            }
        }
        Some(())
    }

    /// Feeds the next bytes of the body, in order.
    pub fn update(&mut self, body: &[u8]) {
        for (state, hasher) in self.states.iter().zip(&mut self.hashers) {
            if Around::has_body(self.around.get(state.around)) {
                hasher.update(body);
            }
        }
        if let Some(watch) = &mut self.watch {
            watch.update(body, &self.around);
        }
    }

    /// Whether [`Self::finish_whole`] has to be called, with the whole body, instead of [`Self::finish`].
    pub fn needs_body(&self) -> bool {
        self.whole.is_some()
    }

    /// Compares what was presented with every key, in constant time, and only then answers.
    pub fn finish(mut self) -> Verdict {
        let around = &*self.around;
        // Each key has as many.
        let per_key = (self.states.len() / self.key_count.max(1)).max(1);
        let hashed = self.states.iter().zip(&mut self.hashers);
        let found = match &self.presented {
            Presented::Nothing => return Verdict::Unsigned,
            Presented::Later => None,
            Presented::Tag { tag, algorithm } => mac::first_match(hashed.map(|(state, hasher)| {
                same(state.algorithm == *algorithm) & state.tag(hasher, around).matches(tag)
            })),
            Presented::Tags(tags) => mac::first_match(hashed.map(|(state, hasher)| {
                let computed = state.tag(hasher, around);
                any(tags
                    .iter()
                    .map(|(tag, of)| same(*of == state.algorithm) & computed.matches(tag)))
            })),
            Presented::Tokens(tokens) => {
                mac::first_match(self.keys.iter().map(|key| token_matches(key, tokens)))
            }
        };
        verdict(found.map(|place| place / per_key))
    }

    /// Takes these keys in place of others. Only where [`Self::needs_body`]: no hash was fed for them.
    pub fn set_keys<'k>(&mut self, keys: impl IntoIterator<Item = &'k Key>) {
        if self.needs_body() {
            self.keys = keys.into_iter().map(|key| key.0.clone()).collect();
            self.key_count = self.keys.len();
        }
    }

    /// What [`Self::finish_whole`] would say now. Without keys it finds every fault but a wrong signature.
    ///
    /// # Errors
    /// As [`Self::finish_whole`].
    pub fn judge(&self, request: &Request<'_>) -> Result<Verdict, ClaimError> {
        match &self.whole {
            None => Ok(Verdict::Mismatch),
            Some(plan) => plan
                .judge(request, &self.keys, self.now)
                .map(|(verdict, _)| verdict),
        }
    }

    /// Judges a request whose body is here whole: the verdict, and the signed time.
    ///
    /// # Errors
    /// [`ClaimError`] if a part in the body is missing, malformed, or signed at a time outside the tolerance.
    pub fn finish_whole(
        self,
        request: &Request<'_>,
    ) -> Result<(Verdict, Option<UnixTime>), ClaimError> {
        match &self.whole {
            None => Ok((self.finish(), None)),
            Some(plan) => plan.judge(request, &self.keys, self.now),
        }
    }
}

fn same(equal: bool) -> Choice {
    Choice::from(u8::from(equal))
}

/// Whether any holds, having looked at all.
fn any(all: impl IntoIterator<Item = Choice>) -> Choice {
    all.into_iter()
        .fold(Choice::from(0), |any, this| any | this)
}

fn token_matches(key: &KeyMaterial, tokens: &[TokenDigest]) -> Choice {
    match key {
        KeyMaterial::Token(digest) => any(tokens.iter().map(|token| digest.matches(token))),
        KeyMaterial::Shared(_) | KeyMaterial::Secret(..) | KeyMaterial::Public(_) => {
            Choice::from(0)
        }
    }
}

/// A value and the algorithm that made it, decoded.
struct Decoded {
    tag: Option<Tag>,
    signature: Vec<u8>,
    algorithm: usize,
}

impl Plan {
    fn judge(
        &self,
        request: &Request<'_>,
        keys: &[KeyMaterial],
        now: UnixTime,
    ) -> Result<(Verdict, Option<UnixTime>), ClaimError> {
        let unpacked;
        let mut context = self.context(request.head);
        context.body = Some(request.body);
        if self.needs_document {
            unpacked = self.document_of(request)?;
            context.document = Some(
                std::str::from_utf8(&unpacked)
                    .map_err(|_| ClaimError::BodyMalformed("not UTF-8"))?,
            );
        }
        let star = match &self.signature.site {
            Site::Place(Place::Json(pointer)) if pointer.has_star() => Some(pointer),
            Site::Header(_) | Site::Numbered(_) | Site::Place(_) => None,
        };
        let Some(pointer) = star else {
            return self.judge_one(&context, keys, now);
        };
        let items = json::items(context.document.unwrap_or_default(), pointer)
            .map_err(|_| ClaimError::BodyMalformed("not JSON with an array of items"))?;
        let mut verdict = None;
        for item in items {
            context.star = Some(item);
            let this = self.judge_one(&context, keys, now)?;
            if !matches!(this.0, Verdict::Match(_)) {
                return Ok(this);
            }
            verdict.get_or_insert(this);
        }
        verdict.ok_or_else(|| ClaimError::SignatureMissing(self.signature.place()))
    }

    pub(super) fn document_of<'a>(
        &self,
        request: &Request<'a>,
    ) -> Result<Cow<'a, [u8]>, ClaimError> {
        match &self.document {
            Document::Body => Ok(Cow::Borrowed(request.body)),
            Document::Field(name) => form::field(request.body, name.as_bytes(), self.last_field)
                .ok()
                .flatten()
                .ok_or(ClaimError::BodyMalformed(
                    "not a form with the field of the document",
                )),
            Document::Part(name) => {
                let kind = request
                    .head
                    .header(&http::header::CONTENT_TYPE)
                    .ok()
                    .flatten()
                    .unwrap_or_default();
                form::part(request.body, kind, name)
                    .map(Cow::Borrowed)
                    .ok_or(ClaimError::BodyMalformed(
                        "not a multipart form with the part of the document",
                    ))
            }
        }
    }

    fn judge_one(
        &self,
        base: &Context<'_>,
        keys: &[KeyMaterial],
        now: UnixTime,
    ) -> Result<(Verdict, Option<UnixTime>), ClaimError> {
        let values = self.signature.values(base)?;
        let (candidates, items) = self.signature.split(&values, base)?;
        let mut context = *base;
        context.items = Some(&items);
        match self.shape {
            Shape::Jwt | Shape::Jws => {
                let [candidate] = &*candidates else {
                    return Err(ClaimError::SignatureRepeated(self.signature.place()));
                };
                let token = self.jwt(candidate.text)?;
                context.jwt = Some(&token);
                self.judge_token(&context, &token, keys, now)
            }
            Shape::Token => {
                let tokens: Vec<_> = candidates
                    .iter()
                    .map(|candidate| self.token(candidate.text))
                    .collect::<Result<_, _>>()?;
                let time = self.time(&context, now)?;
                self.required(&context, false)?;
                Ok((
                    verdict(mac::first_match(
                        keys.iter().map(|key| token_matches(key, &tokens)),
                    )),
                    time,
                ))
            }
            Shape::Tag | Shape::PublicKey => {
                let decoded: Vec<_> = candidates
                    .iter()
                    .map(|candidate| {
                        let algorithm = candidate.algorithm;
                        Ok(match self.shape {
                            Shape::PublicKey => Decoded {
                                tag: None,
                                signature: self.signature_bytes(candidate.text, algorithm)?,
                                algorithm,
                            },
                            Shape::Token | Shape::Tag | Shape::Jwt | Shape::Jws => Decoded {
                                tag: Some(self.tag(candidate.text, algorithm)?),
                                signature: Vec::new(),
                                algorithm,
                            },
                        })
                    })
                    .collect::<Result<_, ClaimError>>()?;
                let time = self.time(&context, now)?;
                self.required(&context, false)?;
                Ok((self.compare(&context, &decoded, keys)?, time))
            }
        }
    }

    fn compare(
        &self,
        context: &Context<'_>,
        decoded: &[Decoded],
        keys: &[KeyMaterial],
    ) -> Result<Verdict, ClaimError> {
        let mut matches = Vec::new();
        for template in &self.contents {
            // Public keys sign one content for all; it is joined once.
            let joined = match self.shape {
                Shape::PublicKey => Some(join(context.fill(template, None)?)),
                Shape::Token | Shape::Tag | Shape::Jwt | Shape::Jws => None,
            };
            for key in keys {
                let mut any = Choice::from(0);
                for (place, algorithm) in self.algorithms.iter().enumerate() {
                    let mine = decoded
                        .iter()
                        .filter(|candidate| candidate.algorithm == place);
                    match (algorithm, key, &joined) {
                        (Algorithm::Public(public), KeyMaterial::Public(keys), Some(content)) => {
                            for candidate in mine {
                                let good = keys.iter().any(|key| {
                                    key.verifies(*public, content, &candidate.signature)
                                });
                                any |= same(good);
                            }
                        }
                        (Algorithm::Hmac(_) | Algorithm::Digest(_), key, _) => {
                            let Some(mut hasher) = key.hasher(place).cloned() else {
                                continue;
                            };
                            let content = context.fill(template, key.secret())?;
                            if !self.challenges.is_empty() {
                                let content = content.concat();
                                if self.challenges.iter().any(|own| own.fits(&content)) {
                                    return Err(ClaimError::ContentIsChallenge);
                                }
                            }
                            for part in content {
                                hasher.update(&part);
                            }
                            let computed = hasher.tag();
                            for tag in mine.filter_map(|candidate| candidate.tag.as_ref()) {
                                any |= computed.matches(tag);
                            }
                        }
                        _ => {}
                    }
                }
                matches.push(any);
            }
        }
        let found = mac::first_match(matches);
        Ok(verdict(
            found.and_then(|place| place.checked_rem(keys.len())),
        ))
    }

    fn judge_token(
        &self,
        context: &Context<'_>,
        token: &Jwt,
        keys: &[KeyMaterial],
        now: UnixTime,
    ) -> Result<(Verdict, Option<UnixTime>), ClaimError> {
        let named = token.header_text("alg").unwrap_or_default();
        let allowed = self
            .algorithms
            .iter()
            .enumerate()
            .find_map(|(place, algorithm)| match algorithm {
                Algorithm::Jose(name, jose) if name.alg == named => Some((place, *jose)),
                Algorithm::Token
                | Algorithm::Hmac(_)
                | Algorithm::Digest(_)
                | Algorithm::Public(_)
                | Algorithm::Jose(..) => None,
            });
        let Some((place, algorithm)) = allowed else {
            return Err(ClaimError::RequirementFailed(Place::Protected(
                "alg".into(),
            )));
        };
        let signed = match self.shape {
            Shape::Jws => {
                let [template] = &*self.contents else {
                    return Ok((Verdict::Mismatch, None));
                };
                // RFC 7797: a payload that is signed as it is may not be taken for an encoded one.
                if token.is_plain() && template.tokens().any(|token| !token.filters.is_empty()) {
                    return Err(ClaimError::RequirementFailed(Place::Protected(
                        "b64".into(),
                    )));
                }
                join(context.fill(template, None)?)
            }
            Shape::Token | Shape::Tag | Shape::PublicKey | Shape::Jwt => Cow::Owned(token.signed()),
        };
        let id = token.header_text("kid");
        let found = mac::first_match(keys.iter().map(|key| match (algorithm, key) {
            (JoseAlgorithm::Hmac(_), key) => match key.hasher(place).cloned() {
                Some(mut hasher) => {
                    hasher.update(&signed);
                    mac::equal(hasher.tag().as_bytes(), &token.signature)
                }
                None => Choice::from(0),
            },
            (JoseAlgorithm::Public(public), KeyMaterial::Public(keys)) => {
                let exact = jose_length(public, &token.signature);
                let good = exact
                    && keys
                        .iter()
                        .filter(|key| key.is_named(id.as_deref()))
                        .any(|key| key.verifies(public, &signed, &token.signature));
                same(good)
            }
            (JoseAlgorithm::Public(_), _) => Choice::from(0),
        }));
        let verdict = verdict(found);
        // What a token says is only looked at once it is known whose it is: then a refusal tells the operator the truth.
        // Where there is no key yet, it decides whether one is worth fetching.
        if !matches!(verdict, Verdict::Match(_)) && !keys.is_empty() {
            return Ok((verdict, None));
        }
        self.life(token, now)?;
        let time = self.time(context, now)?;
        self.required(context, false)?;
        Ok((verdict, time))
    }

    /// `exp` and `nbf`, wherever a token has them (RFC 7519).
    fn life(&self, token: &Jwt, now: UnixTime) -> Result<(), ClaimError> {
        let leeway = self
            .timestamp
            .as_ref()
            .map_or(LEEWAY, |timestamp| timestamp.tolerance);
        for (name, is_end) in [("exp", true), ("nbf", false)] {
            let place = || Place::Claim(name.into());
            let Some(written) = token
                .raw_claim(name)
                .map_err(|()| ClaimError::PartMalformed(place()))?
            else {
                continue;
            };
            let whole = written.split('.').next().unwrap_or_default();
            let time =
                time::parse(TimeUnit::Seconds, false, whole.as_bytes()).ok_or_else(|| {
                    ClaimError::TimestampMalformed {
                        place: place(),
                        expected: "a time in seconds since 1970",
                    }
                })?;
            if (is_end && time < now) || (!is_end && time > now) {
                time::within(time, now, leeway)?;
            }
        }
        Ok(())
    }

    /// What must be right besides the signature. `head`: only what the head tells.
    pub(super) fn required(&self, context: &Context<'_>, head: bool) -> Result<(), ClaimError> {
        self.require
            .iter()
            .filter(|requirement| !head || requirement.in_head)
            .try_for_each(|requirement| requirement.holds(context))
    }
}

impl Requirement {
    /// # Errors
    /// [`ClaimError::PartMissing`] if there is nothing, [`ClaimError::RequirementFailed`] if it is something else.
    pub(super) fn holds(&self, context: &Context<'_>) -> Result<(), ClaimError> {
        let mut found = None;
        let first = self.places.first().cloned().unwrap_or(Place::Body);
        for place in &self.places {
            let values = match (place, context.jwt) {
                (Place::Claim(name), Some(jwt)) => jwt
                    .claim_values(name)
                    .map_err(|()| ClaimError::PartMalformed(place.clone()))?,
                _ => context
                    .value(place)?
                    .into_iter()
                    .map(Cow::into_owned)
                    .collect(),
            };
            if !values.is_empty() {
                found = Some((place.clone(), values));
                break;
            }
        }
        if self.wanted.is_empty() {
            let something = found.is_some_and(|(_, values)| values.iter().any(|v| !v.is_empty()));
            return something
                .then_some(())
                .ok_or(ClaimError::PartMissing(first));
        }
        let mut good = Choice::from(0);
        let mut nothing = false;
        for wanted in &self.wanted {
            let wanted = join(context.fill(wanted, None)?);
            nothing |= wanted.is_empty();
            if let Some((_, values)) = &found {
                good |= any(values.iter().map(|value| mac::equal(value, &wanted)));
            }
        }
        match found {
            None if self.optional || nothing => Ok(()),
            None => Err(ClaimError::PartMissing(first)),
            Some((place, _)) if !bool::from(good) => Err(ClaimError::RequirementFailed(place)),
            Some(_) => Ok(()),
        }
    }
}

/// RSA signatures have the modulus' length, which the library checks; the others one length each.
fn jose_length(algorithm: PublicAlgorithm, signature: &[u8]) -> bool {
    let (min, max) = algorithm.signature_bytes();
    (min..=max).contains(&signature.len())
}

fn join<'a>(parts: Vec<Cow<'a, [u8]>>) -> Cow<'a, [u8]> {
    let mut parts = parts;
    if parts.len() == 1 {
        return parts.swap_remove(0);
    }
    Cow::Owned(parts.concat())
}

fn verdict(found: Option<usize>) -> Verdict {
    found.map_or(Verdict::Mismatch, Verdict::Match)
}
