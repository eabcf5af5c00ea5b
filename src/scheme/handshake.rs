//! Handshakes: requests by which a provider tries an address, and the answers that it wants. Pure: who may ask, how often, and
//! what is done with the answer is decided elsewhere.
//!
//! An answer repeats what a stranger wrote, or signs it. So every value that comes back has an alphabet and a length, and what
//! is signed can never be the content of a delivery.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{
    Key, RequestHead, Scheme,
    claim::ClaimError,
    compile::{Compiler, lookup, one_of},
    context::Context,
    fetch::is_pinned,
    mac::HmacAlgorithm,
    plan::{Algorithm, Plan, Requirement},
    spec::{ChallengeSpec, HandshakeSpec, SchemeSpec},
    template::{Filter, Part, Place, Source, Template, Token},
};
use crate::secret::Secret;

/// The longest body that is looked into for a handshake, in bytes.
pub const HANDSHAKE_BODY_MAX: u64 = 16 * 1024;

/// The longest value that comes back in an answer, in bytes.
const REFLECTED_MAX: usize = 1024;

/// The longest value that is signed for an answer, in bytes.
const SIGNED_MAX: usize = 256;

/// Who answers handshakes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HandshakeMode {
    /// The gateway; the upstream sees none of them.
    #[default]
    Answer,
    /// The upstream: those that are signed come verified, the others without the mark and without a body.
    Forward,
}

/// What kind of handshake it is. A closed set: a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeKind {
    /// A query parameter comes back.
    EchoQuery,
    /// A header comes back.
    EchoHeader,
    /// A value of a JSON body comes back.
    JsonChallenge,
    /// A JSON body has a fixed answer.
    JsonFixed,
    /// A value comes back signed.
    HmacChallenge,
    /// `HEAD` is answered.
    HeadOk,
    /// `GET` is answered.
    GetOk,
    /// `OPTIONS` names an origin, and is told that it may send.
    OptionsOrigin,
    /// The request names an address that has to be fetched.
    ConfirmGet,
    /// The request brings the secret.
    SecretHandshake,
    /// A signed request that is no event.
    Ping,
    /// Good and bad signatures are tried.
    ProbeGoodBad,
}

const KINDS: [(&str, HandshakeKind); 12] = [
    ("echo-query", HandshakeKind::EchoQuery),
    ("echo-header", HandshakeKind::EchoHeader),
    ("json-challenge", HandshakeKind::JsonChallenge),
    ("json-fixed", HandshakeKind::JsonFixed),
    ("hmac-challenge", HandshakeKind::HmacChallenge),
    ("head-ok", HandshakeKind::HeadOk),
    ("get-ok", HandshakeKind::GetOk),
    ("options-origin", HandshakeKind::OptionsOrigin),
    ("confirm-get", HandshakeKind::ConfirmGet),
    ("secret-handshake", HandshakeKind::SecretHandshake),
    ("ping", HandshakeKind::Ping),
    ("probe-good-bad", HandshakeKind::ProbeGoodBad),
];

impl HandshakeKind {
    /// The word in files, logs and metrics.
    pub fn as_str(self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(word, _)| word)
    }
}

impl fmt::Display for HandshakeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A handshake, ready to be recognised and answered.
#[derive(Debug, Clone)]
pub(super) struct HandshakePlan {
    kind: HandshakeKind,
    methods: Vec<Method>,
    /// All must hold.
    when: Vec<Requirement>,
    signed: bool,
    /// Whether the head alone is enough to recognise and to answer it.
    in_head: bool,
    answer: Template,
    status: StatusCode,
    else_status: Option<StatusCode>,
    content_type: HeaderValue,
    headers: Vec<(HeaderName, Template)>,
    challenge: Challenge,
    /// The answer is signed, by this algorithm.
    hmac: Option<HmacAlgorithm>,
    confirm: Option<Confirm>,
    secret: Option<Place>,
    /// Parameters that it asks for and that the route does not give.
    pub(super) missing: Vec<String>,
}

#[derive(Debug, Clone)]
struct Confirm {
    url: Template,
    hosts: Vec<String>,
}

/// What a value has to look like to come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    alphabet: Alphabet,
    least: usize,
    most: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    Hex,
    Uuid,
    Token,
    Text,
}

const ALPHABETS: [(&str, Alphabet); 4] = [
    ("hex", Alphabet::Hex),
    ("uuid", Alphabet::Uuid),
    ("token", Alphabet::Token),
    ("text", Alphabet::Text),
];

impl Alphabet {
    fn holds(self, byte: u8) -> bool {
        match self {
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Uuid => byte.is_ascii_hexdigit() || byte == b'-',
            Self::Token => byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte),
            // Printable, without what could begin markup, end a quoted text or escape in one.
            Self::Text => {
                (byte == b' ' || byte.is_ascii_graphic()) && !b"<>&\"'`\\".contains(&byte)
            }
        }
    }
}

impl HandshakePlan {
    /// Whether it is no request of a form of its own: what the provider tries is a delivery, and is checked as one.
    pub(super) fn is_probe(&self) -> bool {
        self.kind == HandshakeKind::ProbeGoodBad
    }
}

impl Plan {
    /// Sees to it that no delivery has a content that can be signed as a challenge.
    fn keep_apart(&mut self, challenge: &Challenge) {
        let apart = |content| challenge.is_apart_from(content);
        if !self.contents.iter().all(apart) {
            // Then the content itself has to be looked at, and is needed whole.
            self.challenges.push(challenge.clone());
            self.streams = None;
        }
    }
}

impl Challenge {
    pub(super) fn fits(&self, value: &[u8]) -> bool {
        (self.least..=self.most).contains(&value.len())
            && value.iter().all(|byte| self.alphabet.holds(*byte))
    }

    /// Whether no content that this template makes can be a challenge: it always holds a byte that no challenge has.
    fn is_apart_from(&self, content: &Template) -> bool {
        content.parts.iter().any(|part| match part {
            Part::Text(text) => text.iter().any(|byte| !self.alphabet.holds(*byte)),
            Part::Token(_) | Part::Section(..) => false,
        })
    }
}

/// What the route cannot do, or not in this way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnusableHandshake {
    /// The gateway does not answer it, because a parameter is missing.
    ParameterMissing(HandshakeKind, String),
    /// It comes unsigned and with a body, or brings a secret: it cannot be forwarded.
    NotForwardable(HandshakeKind),
}

/// A request that was recognised as a handshake.
pub struct Handshake<'r> {
    plan: &'r HandshakePlan,
    context: Context<'r>,
    /// A value that must hold is another one.
    refused: bool,
}

/// What is to be done.
pub enum HandshakeReply {
    /// Send this answer.
    Answer(HandshakeAnswer),
    /// Keep the secret, then send the answer.
    Pair(Secret, HandshakeAnswer),
}

/// An answer.
#[derive(Debug)]
pub struct HandshakeAnswer {
    /// Status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Why a handshake gets no answer of the form that it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandshakeFault {
    /// A value, such as the verify token, is not the one that the route has.
    Refused(StatusCode),
    /// What is to come back is missing, or not of the form that it may have.
    Challenge,
    /// The key does not sign in the way that the answer wants.
    Key,
}

impl Scheme {
    /// Says who answers. What cannot be done in that way is given back, and not done.
    #[must_use]
    pub fn set_handshake_mode(&mut self, mode: HandshakeMode) -> Vec<UnusableHandshake> {
        self.handshake_mode = mode;
        let mut unusable = Vec::new();
        let mut kept = Vec::new();
        for plan in self.handshakes.iter() {
            let fault = match mode {
                HandshakeMode::Answer => plan
                    .missing
                    .first()
                    .map(|name| UnusableHandshake::ParameterMissing(plan.kind, name.clone())),
                HandshakeMode::Forward => (plan.secret.is_some() || !plan.signed && !plan.in_head)
                    .then_some(UnusableHandshake::NotForwardable(plan.kind)),
            };
            match fault {
                Some(fault) => unusable.push(fault),
                None => kept.push(plan.clone()),
            }
        }
        self.handshakes = kept.into();
        unusable
    }

    /// Who answers handshakes.
    pub fn handshake_mode(&self) -> HandshakeMode {
        self.handshake_mode
    }

    /// The methods by which handshakes come that are not signed.
    pub fn handshake_methods(&self) -> impl Iterator<Item = &Method> {
        self.handshakes
            .iter()
            .filter(|plan| !plan.signed)
            .flat_map(|plan| &plan.methods)
    }

    /// Whether a request can bring the secret of the route.
    pub fn pairs(&self) -> bool {
        self.handshakes.iter().any(|plan| plan.secret.is_some())
    }

    /// Whether the gateway gets addresses that requests name.
    pub fn confirms(&self) -> bool {
        self.handshake_mode == HandshakeMode::Answer
            && self.handshakes.iter().any(|plan| plan.confirm.is_some())
    }

    /// Whether the provider tries bad signatures, and wants them refused without a body.
    pub fn is_probed(&self) -> bool {
        self.probed
    }

    /// The handshake that an unsigned request is, by its head alone.
    pub fn handshake_of_head<'r>(&'r self, head: RequestHead<'r>) -> Option<Handshake<'r>> {
        self.find(head, None, |plan| !plan.signed && plan.in_head)
    }

    /// Whether the body of an unsigned request could tell that it is a handshake.
    pub fn may_be_handshake(&self, head: RequestHead<'_>) -> bool {
        self.could_be(head, |plan| !plan.signed && !plan.in_head)
    }

    /// The handshake that an unsigned request is, by its body.
    pub fn handshake_of_body<'r>(
        &'r self,
        head: RequestHead<'r>,
        body: &'r [u8],
    ) -> Option<Handshake<'r>> {
        self.find(head, Some(body), |plan| !plan.signed && !plan.in_head)
    }

    /// Whether a verified request could be a handshake; then [`Self::verified_handshake`] tells.
    pub fn may_be_verified_handshake(&self, head: RequestHead<'_>) -> bool {
        self.could_be(head, |plan| plan.signed || !plan.in_head)
    }

    /// The handshake that a verified request is. Ask only for those.
    pub fn verified_handshake<'r>(
        &'r self,
        head: RequestHead<'r>,
        body: &'r [u8],
    ) -> Option<Handshake<'r>> {
        self.find(head, Some(body), |plan| plan.signed || !plan.in_head)
    }

    fn could_be(&self, head: RequestHead<'_>, of_stage: impl Fn(&HandshakePlan) -> bool) -> bool {
        let Some(plan) = &self.plan else { return false };
        let context = plan.context(head);
        self.handshakes.iter().any(|handshake| {
            of_stage(handshake)
                && handshake.methods.contains(head.method)
                && handshake
                    .when
                    .iter()
                    .filter(|requirement| requirement.in_head)
                    .all(|requirement| requirement.holds(&context).is_ok())
        })
    }

    fn find<'r>(
        &'r self,
        head: RequestHead<'r>,
        body: Option<&'r [u8]>,
        of_stage: impl Fn(&HandshakePlan) -> bool,
    ) -> Option<Handshake<'r>> {
        let mut context = self.plan.as_ref()?.context(head);
        context.body = body;
        context.document = body.and_then(|body| std::str::from_utf8(body).ok());
        self.handshakes
            .iter()
            .filter(|plan| of_stage(plan) && plan.methods.contains(head.method))
            .find_map(|plan| {
                let mut refused = false;
                for requirement in &plan.when {
                    match requirement.holds(&context) {
                        Ok(()) => {}
                        Err(ClaimError::RequirementFailed(_)) if plan.else_status.is_some() => {
                            refused = true;
                        }
                        Err(_) => return None,
                    }
                }
                Some(Handshake {
                    plan,
                    context,
                    refused,
                })
            })
    }
}

impl Handshake<'_> {
    /// What kind it is.
    pub fn kind(&self) -> HandshakeKind {
        self.plan.kind
    }

    /// Whether the answer is signed with the route's key.
    pub fn needs_key(&self) -> bool {
        self.plan.hmac.is_some()
    }

    /// Whether a value that must hold does.
    ///
    /// # Errors
    /// [`HandshakeFault::Refused`] if it does not.
    pub fn check(&self) -> Result<(), HandshakeFault> {
        match (self.refused, self.plan.else_status) {
            (true, Some(status)) => Err(HandshakeFault::Refused(status)),
            _ => Ok(()),
        }
    }

    /// The address to get before the answer, for [`HandshakeKind::ConfirmGet`].
    ///
    /// # Errors
    /// If it is not an address of the provider.
    pub fn confirmation(&self) -> Result<Option<String>, HandshakeFault> {
        let Some(confirm) = &self.plan.confirm else {
            return Ok(None);
        };
        let filled = self
            .context
            .fill(&confirm.url, None)
            .map(|parts| parts.concat());
        let url = filled.ok().and_then(|url| String::from_utf8(url).ok());
        match url {
            Some(url) if is_pinned(&url, &confirm.hosts).is_some() => Ok(Some(url)),
            Some(_) | None => Err(HandshakeFault::Challenge),
        }
    }

    /// Makes the answer.
    ///
    /// # Errors
    /// If it is refused, or what is to come back is not of the form that it may have.
    pub fn reply(&self, key: Option<&Key>) -> Result<HandshakeReply, HandshakeFault> {
        self.check()?;
        let plan = self.plan;
        let mut context = self.context;
        if let Some(algorithm) = plan.hmac {
            let signer = key.map(|key| &key.0);
            context.signer = signer.filter(|signer| signer.hmac(algorithm).is_some());
            if context.signer.is_none() {
                return Err(HandshakeFault::Key);
            }
        }
        let templates = || {
            [&plan.answer]
                .into_iter()
                .chain(plan.headers.iter().map(|(_, t)| t))
        };
        for place in templates().flat_map(Template::places).chain(&plan.secret) {
            match context.value(place) {
                Ok(Some(value)) if plan.challenge.fits(&value) => {}
                Ok(_) | Err(_) => return Err(HandshakeFault::Challenge),
            }
        }
        let fill = |template| match context.fill(template, None) {
            Ok(parts) => Ok(parts.concat()),
            Err(_) => Err(HandshakeFault::Challenge),
        };
        let body = fill(&plan.answer)?;
        let mut headers = HeaderMap::new();
        for (name, template) in &plan.headers {
            let value = HeaderValue::from_bytes(&fill(template)?);
            headers.insert(name, value.map_err(|_| HandshakeFault::Challenge)?);
        }
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, plan.content_type.clone());
        }
        // What a stranger wrote may not be taken for a page, nor kept and shown to another.
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let answer = HandshakeAnswer {
            status: plan.status,
            headers,
            body: body.into(),
        };
        let Some(place) = &plan.secret else {
            return Ok(HandshakeReply::Answer(answer));
        };
        match context
            .value(place)
            .ok()
            .flatten()
            .map(|value| Secret::new(value.into_owned()))
        {
            Some(Ok(secret)) => Ok(HandshakeReply::Pair(secret, answer)),
            Some(Err(_)) | None => Err(HandshakeFault::Challenge),
        }
    }
}

impl Compiler<'_> {
    /// The handshakes of a scheme, and the rule that keeps their challenges apart from its deliveries.
    pub(super) fn handshakes(
        &mut self,
        spec: &SchemeSpec,
        mut plans: Vec<&mut Plan>,
    ) -> Vec<HandshakePlan> {
        let mut all = Vec::new();
        for written in &spec.handshake {
            let outer = std::mem::take(&mut self.params.missing);
            let handshake = self.handshake(written, plans.first().map(|plan| &**plan));
            let missing = std::mem::replace(&mut self.params.missing, outer);
            let Some(mut handshake) = handshake else {
                continue;
            };
            handshake.missing = missing;
            if handshake.hmac.is_some() {
                for plan in &mut plans {
                    plan.keep_apart(&handshake.challenge);
                }
            }
            all.push(handshake);
        }
        all
    }

    fn handshake(&mut self, spec: &HandshakeSpec, plan: Option<&Plan>) -> Option<HandshakePlan> {
        let kind = self.kind(spec)?;
        if !spec.schemes.is_empty() {
            return self.fault(
                &["handshake", "schemes"],
                "a scheme's own handshakes belong to it alone",
                "remove it; it has a meaning in a provider's file",
            );
        }
        let methods = self.handshake_methods(spec);
        let when = self.conditions(spec);
        let answer = self.answer_template("answer", spec.answer.as_deref().unwrap_or_default());
        let mut headers = Vec::new();
        for (name, value) in &spec.headers {
            if let (Some(name), Some(value)) = (
                self.header(&["handshake", "headers"], name),
                self.answer_template("headers", value),
            ) {
                headers.push((name, value));
            }
        }
        let content_type = self.content_type(spec, answer.as_ref());
        let status = self.handshake_status("status", Some(spec.status.unwrap_or(200)), 200..=299);
        let else_status = self.handshake_status("else_status", spec.else_status, 400..=499);
        let challenge = self.challenge(spec.challenge.as_ref(), kind);
        let secret = match &spec.secret {
            Some(place) => Some(self.handshake_place("secret", place)?),
            None => None,
        };
        let confirm = match &spec.confirm {
            Some(url) => Some(Confirm {
                url: self.answer_template("confirm", url)?,
                hosts: spec.hosts.clone(),
            }),
            None => None,
        };
        let (when, answer) = (when?, answer?);
        let hmac = answer.hmac();
        if headers
            .iter()
            .any(|(_, template)| template.hmac().is_some())
        {
            return self.fault(
                &["handshake", "headers"],
                "a header cannot be signed",
                "sign in `answer`",
            );
        }
        self.fits_kind(spec, kind, hmac.is_some())?;
        if let (Some(wanted), Some(plan)) = (hmac, plan)
            && !plan.algorithms.contains(&Algorithm::Hmac(wanted))
        {
            return self.fault(
                &["handshake", "answer"],
                "the scheme has no key for this HMAC",
                "use the algorithm of the scheme",
            );
        }
        let in_head = when.iter().all(|requirement| requirement.in_head)
            && [&answer]
                .into_iter()
                .chain(headers.iter().map(|(_, template)| template))
                .chain(confirm.iter().map(|confirm| &confirm.url))
                .flat_map(Template::places)
                .chain(&secret)
                .all(|place| place.in_head(true));
        Some(HandshakePlan {
            kind,
            methods: methods?,
            when,
            signed: spec.signed,
            in_head,
            answer,
            status: status??,
            else_status: else_status?,
            content_type: content_type?,
            headers,
            challenge: challenge?,
            hmac,
            confirm,
            secret,
            missing: Vec::new(),
        })
    }

    fn kind(&mut self, spec: &HandshakeSpec) -> Option<HandshakeKind> {
        let words: Vec<_> = KINDS.iter().map(|(word, _)| *word).collect();
        match lookup(&KINDS, &spec.kind) {
            Some(kind) => Some(kind),
            None => self.fault(
                &["handshake", "kind"],
                format!("`{}` is not a kind of handshake", spec.kind),
                one_of(&words),
            ),
        }
    }

    /// What the kind needs, and what only it may have.
    fn fits_kind(&mut self, spec: &HandshakeSpec, kind: HandshakeKind, hmac: bool) -> Option<()> {
        for (own, what, given) in [
            (
                HandshakeKind::SecretHandshake,
                "`secret`",
                spec.secret.is_some(),
            ),
            (
                HandshakeKind::ConfirmGet,
                "`confirm`",
                spec.confirm.is_some(),
            ),
            (HandshakeKind::HmacChallenge, "an HMAC in `answer`", hmac),
        ] {
            if given != (kind == own) {
                return self.fault(
                    &["handshake"],
                    format!("{what} and the kind `{kind}` do not go together"),
                    format!("a handshake of the kind `{own}` has {what}, no other has"),
                );
            }
        }
        let by_post = spec.methods.is_empty() || spec.methods.iter().any(|method| method == "POST");
        let open = spec.when.is_empty() && by_post;
        if open && kind != HandshakeKind::ProbeGoodBad {
            return self.fault(
                &["handshake", "when"],
                "every delivery would be this handshake",
                "say by `when` or `methods` how it differs",
            );
        }
        if kind == HandshakeKind::ConfirmGet && (!spec.signed || spec.hosts.is_empty()) {
            return self.fault(
                &["handshake", "confirm"],
                "anyone could have any address fetched",
                "add `signed = true`, and `hosts`",
            );
        }
        Some(())
    }

    fn handshake_methods(&mut self, spec: &HandshakeSpec) -> Option<Vec<Method>> {
        const METHODS: [(&str, Method); 4] = [
            ("POST", Method::POST),
            ("GET", Method::GET),
            ("HEAD", Method::HEAD),
            ("OPTIONS", Method::OPTIONS),
        ];
        if spec.methods.is_empty() {
            return Some(vec![Method::POST]);
        }
        let mut methods = Vec::new();
        for written in &spec.methods {
            match METHODS.iter().find(|(word, _)| word == written) {
                Some((_, method)) => methods.push(method.clone()),
                None => {
                    return self.fault(
                        &["handshake", "methods"],
                        format!("no handshake comes by `{written}`"),
                        one_of(&["POST", "GET", "HEAD", "OPTIONS"]),
                    );
                }
            }
        }
        Some(methods)
    }

    fn conditions(&mut self, spec: &HandshakeSpec) -> Option<Vec<Requirement>> {
        let mut all = Vec::new();
        for (place, wanted) in &spec.when {
            let place = self.handshake_place("when", place)?;
            let missing = self.params.missing.len();
            let mut templates = Vec::new();
            for text in wanted.0.iter().filter(|text| *text != "*") {
                templates.push(self.answer_template("when", text)?);
            }
            // Without its parameter it asks for anything; then the gateway does not answer.
            if self.params.missing.len() > missing {
                templates.clear();
            }
            let in_head = place.in_head(true)
                && templates
                    .iter()
                    .flat_map(Template::places)
                    .all(|place| place.in_head(true));
            all.push(Requirement {
                places: vec![place],
                optional: false,
                wanted: templates,
                in_head,
            });
        }
        Some(all)
    }

    /// A place that needs no signature to be read.
    fn handshake_place(&mut self, key: &'static str, written: &str) -> Option<Place> {
        match self.place(&["handshake", key], written)? {
            place @ (Place::Header(_) | Place::Query(_) | Place::Form(_) | Place::Json(_)) => {
                Some(place)
            }
            Place::Item(_) | Place::Claim(_) | Place::Protected(_) | Place::Body => self.fault(
                &["handshake", key],
                format!("`{written}` belongs to the signature"),
                "name a header, a query parameter, a form field or a JSON value",
            ),
        }
    }

    fn answer_template(&mut self, key: &'static str, text: &str) -> Option<Template> {
        let template = self.any_template(&["handshake", key], text)?;
        let readable = |token: &Token| {
            !token.optional
                && matches!(
                    token.source,
                    Source::Text(_)
                        | Source::Place(
                            Place::Header(_) | Place::Query(_) | Place::Form(_) | Place::Json(_)
                        )
                )
        };
        let sections = template
            .parts
            .iter()
            .any(|part| matches!(part, Part::Section(..)));
        if sections || !template.tokens().all(readable) {
            return self.fault(
                &["handshake", key],
                "a handshake cannot hold this part of a request",
                "use headers, query parameters, form fields, JSON values and parameters, none of them optional",
            );
        }
        Some(template)
    }

    /// Text, or JSON in which every value is written as JSON.
    fn content_type(
        &mut self,
        spec: &HandshakeSpec,
        answer: Option<&Template>,
    ) -> Option<HeaderValue> {
        match spec.content_type.as_deref() {
            None | Some("text/plain") => Some(HeaderValue::from_static("text/plain")),
            Some("application/json") => {
                let encoded = |token: &Token| {
                    matches!(token.source, Source::Text(_))
                        || matches!(
                            token.filters.last(),
                            Some(
                                Filter::JsonString
                                    | Filter::Hex
                                    | Filter::Base64
                                    | Filter::Base64Url
                                    | Filter::Base64UrlNoPad
                            )
                        )
                };
                if answer.is_some_and(|answer| !answer.tokens().all(encoded)) {
                    return self.fault(
                        &["handshake", "answer"],
                        "a value stands in JSON as it came",
                        "put `|json-string` behind it, without quotes around",
                    );
                }
                Some(HeaderValue::from_static("application/json"))
            }
            Some(other) => self.fault(
                &["handshake", "content_type"],
                format!("`{other}` is not a type of answer"),
                one_of(&["text/plain", "application/json"]),
            ),
        }
    }

    fn handshake_status(
        &mut self,
        key: &'static str,
        written: Option<u16>,
        range: std::ops::RangeInclusive<u16>,
    ) -> Option<Option<StatusCode>> {
        let Some(written) = written else {
            return Some(None);
        };
        match StatusCode::from_u16(written) {
            Ok(status) if range.contains(&written) => Some(Some(status)),
            Ok(_) | Err(_) => self.fault(
                &["handshake", key],
                format!("{written} is not a status for this"),
                format!("write one from {} to {}", range.start(), range.end()),
            ),
        }
    }

    fn challenge(
        &mut self,
        spec: Option<&ChallengeSpec>,
        kind: HandshakeKind,
    ) -> Option<Challenge> {
        let signed = kind == HandshakeKind::HmacChallenge;
        let (own, max) = match signed {
            true => (Alphabet::Token, SIGNED_MAX),
            false => (Alphabet::Text, REFLECTED_MAX),
        };
        let words: Vec<_> = ALPHABETS.iter().map(|(word, _)| *word).collect();
        let alphabet = match spec.and_then(|spec| spec.alphabet.as_deref()) {
            None => own,
            Some(word) => match lookup(&ALPHABETS, word) {
                Some(Alphabet::Text) if signed => {
                    return self.fault(
                        &["handshake", "challenge", "alphabet"],
                        "a text could be the content of a delivery, and would be signed",
                        one_of(&["hex", "uuid", "token"]),
                    );
                }
                Some(alphabet) => alphabet,
                None => {
                    return self.fault(
                        &["handshake", "challenge", "alphabet"],
                        format!("`{word}` is not an alphabet"),
                        one_of(&words),
                    );
                }
            },
        };
        match spec.map_or(&[][..], |spec| &spec.length) {
            [] => Some(Challenge {
                alphabet,
                least: 1,
                most: max,
            }),
            [least, most] if (1..=*most).contains(least) && *most <= max => Some(Challenge {
                alphabet,
                least: *least,
                most: *most,
            }),
            _ => self.fault(
                &["handshake", "challenge", "length"],
                "this is not a least and a most length",
                format!("write two numbers from 1 to {max}, such as `[20, 32]`"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::scheme::SpecError;

    fn compile(handshake: &str, params: &[(&str, &str)]) -> Result<Scheme, Vec<SpecError>> {
        let text = format!(
            r#"
            algorithm = "hmac-sha256"
            signature = {{ header = "x-signature", encoding = "hex" }}
            [[handshake]]
            {handshake}
            "#
        );
        let spec: SchemeSpec = toml::from_str(&text).unwrap();
        let params: BTreeMap<_, _> = params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Scheme::compile("test", &spec, &params)
    }

    #[test]
    fn refuses_what_could_not_be_answered_safely() {
        for (handshake, fault) in [
            ("kind = 'echo'", "not a kind"),
            ("kind = 'ping'", "every delivery"),
            ("kind = 'ping'\nmethods = ['POST']", "every delivery"),
            (
                "kind = 'get-ok'\nmethods = ['TRACE']",
                "no handshake comes by",
            ),
            (
                "kind = 'ping'\nwhen = { 'item:t' = '*' }",
                "belongs to the signature",
            ),
            (
                "kind = 'ping'\nwhen = { 'json:/a' = '{secret}' }",
                "cannot hold this part",
            ),
            (
                "kind = 'echo-query'\nwhen = { 'query:c' = '*' }\nanswer = '{query:c}'\ncontent_type = 'text/html'",
                "not a type of answer",
            ),
            (
                "kind = 'echo-query'\nwhen = { 'query:c' = '*' }\nanswer = '{{\"c\":\"{query:c}\"}}'\ncontent_type = 'application/json'",
                "stands in JSON as it came",
            ),
            (
                "kind = 'echo-query'\nwhen = { 'query:c' = '*' }\nanswer = '{query:c|hmac-sha256|hex}'",
                "do not go together",
            ),
            (
                "kind = 'hmac-challenge'\nwhen = { 'query:c' = '*' }\nanswer = '{query:c|hmac-sha1|hex}'",
                "no key for this HMAC",
            ),
            (
                "kind = 'hmac-challenge'\nwhen = { 'query:c' = '*' }\nanswer = '{query:c|hmac-sha256|hex}'\nchallenge = { alphabet = 'text' }",
                "content of a delivery",
            ),
            (
                "kind = 'echo-query'\nwhen = { 'query:c' = '*' }\nanswer = '{query:c}'\nchallenge = { length = [1, 4096] }",
                "least and a most length",
            ),
            (
                "kind = 'confirm-get'\nwhen = { 'json:/a' = '*' }\nconfirm = '{json:/a}'\nhosts = ['a.example']",
                "any address",
            ),
            (
                "kind = 'ping'\nwhen = { 'json:/a' = '*' }\nsecret = 'json:/a'",
                "do not go together",
            ),
            (
                "kind = 'ping'\nwhen = { 'json:/a' = '*' }\nschemes = ['a']",
                "belong to it alone",
            ),
            (
                "kind = 'ping'\nwhen = { 'json:/a' = '*' }\nstatus = 302",
                "not a status",
            ),
        ] {
            let faults = compile(handshake, &[]).err().unwrap_or_default();
            let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
            assert!(
                texts.iter().any(|text| text.contains(fault)),
                "{handshake}: {texts:?}"
            );
        }
        let hmac = r#"
            algorithm = "hmac-sha256"
            signature = { header = "x-signature", encoding = "hex" }
            content = "{body|hmac-sha256|hex}"
        "#;
        let faults = Scheme::compile("test", &toml::from_str(hmac).unwrap(), &BTreeMap::new());
        assert!(faults.is_err());
    }

    #[test]
    fn challenges_are_kept_apart_under_every_name_of_the_headers() {
        let hmac =
            "kind = 'hmac-challenge'\nmethods = ['GET']\nanswer = '{query:c|hmac-sha256|hex}'";
        for (before, whole) in [
            ("content = '{body}'", true),
            ("content = ['v0:{body}', '{body}']", true),
            ("content = 'v0:{body}'", false),
            ("content = 'a={body}'", true),
        ] {
            let text = format!(
                r#"
                algorithm = "hmac-sha256"
                signature = {{ header = "a-signature", encoding = "hex" }}
                renamed = {{ "a-" = "b-" }}
                {before}
                [[handshake]]
                {hmac}
                "#
            );
            let spec = toml::from_str(&text).unwrap();
            let scheme = Scheme::compile("test", &spec, &BTreeMap::new()).unwrap();
            for plan in [&scheme.plan, &scheme.renamed] {
                let plan = plan.as_ref().unwrap();
                assert_eq!(plan.streams.is_none(), whole, "{before}");
                assert_eq!(plan.challenges.len(), usize::from(whole), "{before}");
            }
        }
    }

    #[test]
    fn parameters_of_handshakes_may_be_missing_but_not_unknown() {
        let written = "kind = 'echo-query'\nwhen = { 'query:t' = '{param:verify_token}' }\nanswer = '{query:c}'";
        let mut scheme = compile(written, &[]).unwrap();
        let missing = UnusableHandshake::ParameterMissing(
            HandshakeKind::EchoQuery,
            "verify_token".to_owned(),
        );
        assert_eq!(scheme.set_handshake_mode(HandshakeMode::Answer), [missing]);
        assert_eq!(scheme.handshake_methods().count(), 0);
        assert!(compile(written, &[("verify_token", "x")]).is_ok());
        assert!(compile(written, &[("verify_tokn", "x")]).is_err());
    }

    #[test]
    fn confirms_only_at_the_pinned_hosts() {
        let scheme = compile(
            "kind = 'confirm-get'\nwhen = { 'json:/Type' = 'SubscriptionConfirmation' }\nsigned = true\nconfirm = '{json:/SubscribeURL}'\nhosts = ['sns.*.amazonaws.com']",
            &[],
        )
        .unwrap();
        let headers = HeaderMap::new();
        let head = RequestHead {
            method: &Method::POST,
            target: "/",
            headers: &headers,
            url: None,
        };
        for (url, good) in [
            (
                "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription&Token=a",
                true,
            ),
            (
                "http://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription",
                false,
            ),
            ("https://sns.us-west-2.amazonaws.com.evil.example/", false),
            ("https://sns.us-west-2.amazonaws.com:8443/", false),
            ("https://sns.us-west-2.amazonaws.com@127.0.0.1/", false),
            ("https://169.254.169.254/latest/meta-data", false),
            ("", false),
        ] {
            let body = format!(r#"{{"Type":"SubscriptionConfirmation","SubscribeURL":"{url}"}}"#);
            let handshake = scheme.verified_handshake(head, body.as_bytes()).unwrap();
            let wanted = good.then(|| url.to_owned());
            assert_eq!(handshake.confirmation().ok().flatten(), wanted, "{url}");
            assert!(scheme.handshake_of_body(head, body.as_bytes()).is_none());
        }
    }
}
