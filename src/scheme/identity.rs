//! What tells one delivery from another, for the replay guard: fixed for each scheme, so that a replay cannot choose another.

use super::{
    Scheme,
    check::{Check, Request},
    claim::{Around, Claim, Presented},
    locate::{ListPlan, SignaturePlan, Site},
    mac::{DigestAlgorithm, Hasher, Tag},
    plan::{Document, Plan, Shape},
    template::{Filter, Part, Place, Source, Template, Token},
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
    Hash {
        basis: Basis,
        /// In a box: most checks have none.
        hasher: Box<Hasher>,
    },
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
        if plan.basis().is_none() && !plan.requires_id() {
            return Err(match (plan.covers_body, plan.signs_id()) {
                (true, _) => "they may be signed in several ways that have nothing in common",
                (false, true) => {
                    "the signature does not cover the whole body, and the delivery id may be missing"
                }
                (false, false) => {
                    "the signature covers neither the whole body nor a delivery id, so that different deliveries may bear the same"
                }
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
        if plan.streams.is_none() || plan.requires_id() {
            return None;
        }
        let basis = plan.basis()?;
        if basis == Basis::Tag {
            return Some(Watch::Tag);
        }
        let mut hasher = Box::new(Hasher::plain(DigestAlgorithm::Sha256));
        if let Some(around) = basis.around(&claim.around) {
            around.before.feed(&mut hasher, None);
        }
        Some(Watch::Hash { basis, hasher })
    }

    /// What tells a delivery apart whose check needed the whole body. Ask only for verified requests.
    pub fn fingerprint(&self, request: &Request<'_>) -> Option<Fingerprint> {
        let plan = self.plan_for(&request.head).filter(|_| self.guarded)?;
        plan.fingerprint(plan.basis()?, request)
    }
}

impl Basis {
    /// What stands around the body in what is hashed.
    fn around(self, all: &[Around]) -> Option<&Around> {
        match self {
            Self::Content => all.first(),
            Self::Tag | Self::Body => None,
        }
    }
}

impl Watch {
    pub(super) fn update(&mut self, body: &[u8], around: &[Around]) {
        if let Self::Hash { basis, hasher } = self
            && Around::has_body(basis.around(around))
        {
            hasher.update(body);
        }
    }

    /// What was seen, for a request whose check passes.
    pub(super) fn fingerprint(
        self,
        presented: &Presented,
        around: &[Around],
    ) -> Option<Fingerprint> {
        match (self, presented) {
            (Self::Hash { basis, mut hasher }, _) => {
                if let Some(around) = basis.around(around) {
                    around.after.feed(&mut hasher, None);
                }
                Some(Fingerprint::new(basis, hasher.tag()))
            }
            // It is the computed one, byte for byte, or the check does not pass.
            (Self::Tag, Presented::Tag { tag, .. }) => {
                Some(Fingerprint::new(Basis::Tag, tag.clone()))
            }
            (
                Self::Tag,
                Presented::Nothing | Presented::Tags(_) | Presented::Tokens(_) | Presented::Later,
            ) => None,
        }
    }
}

impl Plan {
    /// Whether the delivery id tells deliveries apart: nobody can write it in another way that verifies.
    fn signs_id(&self) -> bool {
        self.id_is_signed(|content, fixes_id| content.tokens().any(fixes_id))
    }

    /// The same, and no delivery without one verifies. Tokens are expected to bear the claim that their provider names.
    fn requires_id(&self) -> bool {
        let is_there = |token: &Token| {
            !token.optional
                && (token.source == Source::Id
                    || matches!(&token.source, Source::Place(place) if Some(place) == self.id.as_ref()))
        };
        self.id_is_signed(|content, fixes_id| {
            content.parts.iter().any(
                |part| matches!(part, Part::Token(token) if is_there(token) && fixes_id(token)),
            )
        })
    }

    /// `in_content`: whether a content holds a token for which the function says that it fixes the id.
    fn id_is_signed(
        &self,
        in_content: impl Fn(&Template, &dyn Fn(&Token) -> bool) -> bool,
    ) -> bool {
        let Some(place) = self.id.as_ref().filter(|_| self.id_covered) else {
            return false;
        };
        // Where the part begins stands in a header that nobody signs: without the id it would be another delivery.
        if matches!((place, &self.document), (Place::Json(_), Document::Part(_))) {
            return false;
        }
        let itself = Source::Place(place.clone());
        let holds_id = |token: &Token| match &token.source {
            Source::Id => true,
            source if *source == itself => true,
            Source::Place(Place::Body) => matches!(place, Place::Json(_) | Place::Form(_)),
            // Fields are decoded: their order and their escapes make no other id.
            Source::Form => matches!(place, Place::Form(_)),
            Source::Url | Source::Target | Source::Query => matches!(place, Place::Query(_)),
            Source::Place(_)
            | Source::Timestamp
            | Source::Method
            | Source::Path
            | Source::Secret
            | Source::Protected
            | Source::Canonical(_)
            | Source::Text(_) => false,
        };
        let fixes_id = |token: &Token| {
            holds_id(token) && (token.source == Source::Form || !token.filters.iter().any(is_lossy))
        };
        match place {
            Place::Claim(_) | Place::Protected(_) => true,
            Place::Header(_)
            | Place::Query(_)
            | Place::Form(_)
            | Place::Json(_)
            | Place::Item(_)
            | Place::Body => self
                .contents
                .iter()
                .all(|content| in_content(content, &fixes_id)),
        }
    }

    /// What tells deliveries apart that have no id; `None`: nothing.
    fn basis(&self) -> Option<Basis> {
        if !self.covers_body || self.shape == Shape::Token || self.signature.is_in_items() {
            return None;
        }
        if self.shape == Shape::Tag && self.signature.is_single() {
            return Some(Basis::Tag);
        }
        if self.contents.len() < 2 {
            return Some(Basis::Content);
        }
        let body = Source::Place(Place::Body);
        let is_body = |token: &Token| token.source == body && token.filters.is_empty();
        let all_hold_it = self
            .contents
            .iter()
            .all(|content| content.tokens().any(is_body));
        all_hold_it.then_some(Basis::Body)
    }

    /// What tells a request apart that has verified; `None` if a part is missing, which is then a mistake of ours.
    fn fingerprint(&self, basis: Basis, request: &Request<'_>) -> Option<Fingerprint> {
        let unpacked;
        let mut known = self.context(request.head);
        known.body = Some(request.body);
        if self.needs_document {
            unpacked = self.document_of(request).ok()?;
            known.document = std::str::from_utf8(&unpacked).ok();
        }
        let values = self.signature.values(&known).ok()?;
        let (candidates, items) = self.signature.split(&values, &known).ok()?;
        let mut context = known;
        context.items = Some(&items);
        let mut hash = Hasher::plain(DigestAlgorithm::Sha256);
        match (basis, &*candidates) {
            (Basis::Tag, [only]) => {
                let tag = self.tag(only.text, only.algorithm).ok()?;
                return Some(Fingerprint::new(basis, tag));
            }
            (Basis::Tag, _) => return None,
            (Basis::Body, _) => hash.update(request.body),
            (Basis::Content, _) => {
                let token = match (self.shape, &*candidates) {
                    (Shape::Jwt | Shape::Jws, [only]) => Some(self.jwt(only.text).ok()?),
                    _ => None,
                };
                context.jwt = token.as_ref();
                match (self.contents.first(), &token) {
                    (Some(template), _) => {
                        for part in context.fill(template, Some(NO_KEY)).ok()? {
                            hash.update(&part);
                        }
                    }
                    (None, Some(token)) => hash.update(&token.signed()),
                    (None, None) => return None,
                }
            }
        }
        Some(Fingerprint::new(basis, hash.tag()))
    }
}

/// Whether several values become the same by the filter.
fn is_lossy(filter: &Filter) -> bool {
    match filter {
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
    }
}

impl SignaturePlan {
    /// Whether a delivery bears one tag, in one place.
    fn is_single(&self) -> bool {
        let one_in_list = |list: &ListPlan| !list.several && list.groups.is_none();
        !matches!(self.site, Site::Numbered(_))
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
        let seen = watch.and_then(|watch| watch.fingerprint(&self.presented, &self.around));
        match self.finish() {
            verdict @ super::Verdict::Match(_) => (verdict, seen),
            verdict @ (super::Verdict::Mismatch | super::Verdict::Unsigned) => (verdict, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::*;
    use crate::{
        clock::UnixTime,
        scheme::{RequestHead, SchemeSpec, Verdict, catalogue},
        secret::Secret,
    };

    const NOW: UnixTime = UnixTime::from_secs(1_795_435_200);

    fn scheme(text: &str) -> Scheme {
        let spec: SchemeSpec = toml::from_str(text).unwrap();
        Scheme::compile("custom", &spec, &BTreeMap::new()).unwrap()
    }

    fn guarded(text: &str) -> Scheme {
        let mut scheme = scheme(text);
        scheme.guard().unwrap();
        scheme
    }

    /// The fingerprint of a request that verifies with the key `secret`, and its basis.
    fn seen(scheme: &Scheme, headers: &[(&str, &str)], body: &str) -> Option<(Basis, Vec<u8>)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        let head = RequestHead {
            method: &Method::POST,
            target: "/",
            headers: &map,
            url: None,
        };
        let key = |text: &[u8]| scheme.key(&Secret::new(text.to_vec()).unwrap()).unwrap();
        let claim = scheme.claim(&head, NOW).unwrap();
        let mut check = scheme.start(claim, [&key(b"secret"), &key(b"other")]);
        let (verdict, fingerprint) = if check.needs_body() {
            let request = Request {
                head,
                body: body.as_bytes(),
            };
            let (verdict, _) = check.finish_whole(&request).unwrap();
            (verdict, scheme.fingerprint(&request))
        } else {
            for piece in body.as_bytes().chunks(3) {
                check.update(piece);
            }
            check.finish_told_apart()
        };
        assert!(matches!(verdict, Verdict::Match(_)), "{body}");
        fingerprint.map(|fingerprint| (fingerprint.basis, fingerprint.to_bytes()))
    }

    // printf x | openssl dgst -sha256 -hmac secret
    const X_BY_SECRET: &str = "117eca332f7e13ccb8e4574e4f33daa212a9231353670c2b8b4797df0bb77afa";
    const X_BY_OTHER: &str = "0d2e7a3a585678c4b1a81ffcfa7cfc9d33ec7fbc75bd258aac19f5f87bdef8b6";
    const Y_BY_SECRET: &str = "10e0635c6636ad54f738f3b57962258c75b7377d37e67dba0ec422af668340cb";

    #[test]
    fn a_single_tag_tells_by_itself() {
        let scheme = guarded(
            r#"
            algorithm = "hmac-sha256"
            signature = { header = "x-signature", encoding = "hex" }
            "#,
        );
        let x = seen(&scheme, &[("x-signature", X_BY_SECRET)], "x").unwrap();
        assert_eq!(x.0, Basis::Tag);
        let upper = X_BY_SECRET.to_ascii_uppercase();
        assert_eq!(
            seen(&scheme, &[("x-signature", &upper)], "x"),
            Some(x.clone())
        );
        let y = seen(&scheme, &[("x-signature", Y_BY_SECRET)], "y").unwrap();
        assert_ne!(x, y);
    }

    #[test]
    fn an_unguarded_scheme_keeps_nothing_in_view() {
        let scheme = scheme(
            r#"
            algorithm = "hmac-sha256"
            signature = { header = "x-signature", encoding = "hex" }
            "#,
        );
        assert_eq!(seen(&scheme, &[("x-signature", X_BY_SECRET)], "x"), None);
    }

    #[test]
    fn of_several_tags_each_tells_the_same() {
        for content in ["{body}", "{header:x-nothing?}{body}"] {
            let scheme = guarded(&format!(
                r#"
                algorithm = "hmac-sha256"
                content = "{content}"
                signature = {{ header = "x-signature", encoding = "hex", list = {{ separator = ",", assign = "=", tag = "v1", several = true }} }}
                "#
            ));
            let told = |tags: &str, body| seen(&scheme, &[("x-signature", tags)], body).unwrap();
            let both = told(&format!("v1={X_BY_SECRET},v1={X_BY_OTHER}"), "x");
            assert_eq!(both.0, Basis::Content);
            assert_eq!(told(&format!("v1={X_BY_SECRET}"), "x"), both);
            assert_eq!(told(&format!("v1={X_BY_OTHER}"), "x"), both);
            assert_ne!(told(&format!("v1={Y_BY_SECRET}"), "y"), both);
        }
    }

    #[test]
    fn of_several_contents_the_body_tells() {
        let scheme = guarded(
            r#"
            algorithm = "hmac-sha256"
            content = ["{body}", "{header:x-time}.{body}"]
            signature = { header = "x-signature", encoding = "hex", repeated = true }
            "#,
        );
        let told = |tag: &str, time: &str, body| {
            seen(&scheme, &[("x-signature", tag), ("x-time", time)], body).unwrap()
        };
        let first = told(X_BY_SECRET, "1", "x");
        assert_eq!(first.0, Basis::Body);
        // Nobody signed this time.
        assert_eq!(told(X_BY_SECRET, "2", "x"), first);
        assert_ne!(told(Y_BY_SECRET, "1", "y"), first);
    }

    #[test]
    fn where_the_id_may_be_missing_the_tag_tells() {
        let scheme = guarded(
            r#"
            algorithm = "hmac-sha256"
            content = "{header:x-id?}.{body}"
            id = { header = "x-id" }
            signature = { header = "x-signature", encoding = "hex" }
            "#,
        );
        assert!(scheme.is_told_by_id());
        // printf .x | openssl dgst -sha256 -hmac secret
        let tag = "8b5d2cf5cd0f9d864528d6593e5bb2fadedd9b2c947054c2e5fcb75481a341bc";
        let told = seen(&scheme, &[("x-signature", tag)], "x").unwrap();
        assert_eq!(told.0, Basis::Tag);
    }

    #[test]
    fn an_id_that_can_be_written_in_another_way_does_not_tell() {
        let by_id = |content: &str, id: &str| {
            let mut scheme = scheme(&format!(
                r#"
                algorithm = "hmac-sha256"
                content = "{content}"
                id = {id}
                signature = {{ header = "x-signature", encoding = "hex" }}
                "#
            ));
            assert_eq!(scheme.covers_id(), Some(true), "{content}");
            scheme.guard().unwrap();
            scheme.is_told_by_id()
        };
        let header = r#"{ header = "x-id" }"#;
        assert!(by_id("{id}.{body}", header));
        assert!(by_id("{id|sha256|hex}.{body}", header));
        assert!(!by_id("{id|lower}.{body}", header));
        let json = r#"{ json = "/id" }"#;
        assert!(by_id("{body}", json));
        assert!(by_id("{body|sha256|hex}", json));
        // Nobody signs the header that says where the part begins.
        assert!(!by_id("{body}\"\ndocument = \"multipart:json", json));
        // `1` and `1.0` are signed as the same.
        assert!(!by_id("{body|jcs}", json));
    }

    /// The catalogue's schemes, compiled with something for each parameter.
    fn all() -> Vec<(String, Scheme)> {
        let compiled = |name: String| {
            let mut params = BTreeMap::new();
            loop {
                match catalogue::compile(&name, &params) {
                    Ok(scheme) => return (name, scheme),
                    Err(faults) => {
                        let before = params.len();
                        for fault in faults.unwrap() {
                            let missing = fault.message.split('`').nth(1).unwrap().to_owned();
                            params.insert(missing, "x-value".to_owned());
                        }
                        assert!(params.len() > before, "{name}");
                    }
                }
            }
        };
        let names = catalogue::names().into_iter();
        names
            .filter(|name| name != Scheme::NONE)
            .map(compiled)
            .collect()
    }

    #[test]
    fn all_schemes_of_the_catalogue_but_these_can_be_guarded() {
        let mut refused = BTreeSet::new();
        let mut guarded = 0;
        for (name, mut scheme) in all() {
            match (scheme.guard(), scheme.is_token()) {
                (Err(_), true) => {}
                (Ok(()), false) => guarded += 1,
                (Err(_), false) => {
                    assert!(!scheme.covers_body(), "{name}");
                    let page = include_str!("../../docs/replay.md");
                    assert!(
                        page.contains(&format!("`{name}`")),
                        "docs/replay.md: {name}"
                    );
                    refused.insert(name);
                }
                (Ok(()), true) => panic!("{name} sends the secret"),
            }
        }
        assert!(guarded > 200, "{guarded}");
        let refused: Vec<_> = refused.iter().map(String::as_str).collect();
        assert_eq!(
            refused,
            [
                "adyen",
                "azure-event-grid:entra-jwt",
                "braintree",
                "dropbox-sign",
                "gitea:form",
                "google-pubsub",
                "mercado-pago",
                "microsoft-graph:validation-tokens",
                "midtrans",
                "monday",
                "transloadit",
                "travis-ci",
                "zoho-desk",
            ]
        );
    }
}
