//! From words to a plan: reads a [`SchemeSpec`] and says everything that is wrong with it.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    Scheme,
    canonical::Canonical,
    handshake::{HandshakeMode, HandshakePlan},
    json::Pointer,
    keys::PublicAlgorithm,
    locate::{ListPlan, Prefix, SignaturePlan, Site},
    mac::{self, DigestAlgorithm, HmacAlgorithm},
    plan::{
        Algorithm, Decode, Document, Encoding, FetchPlan, JoseAlgorithm, JoseName, Plan,
        Requirement, Run, SecretPlan, Shape,
    },
    spec::{
        Algorithms, FetchSpec, IdSpec, ListSpec, SchemeSpec, SecretSpec, SignatureSpec,
        TimestampSpec,
    },
    template::{self, Filter, Params, Part, Place, Source, Template, TemplateFault, Token},
    time::{TimeUnit, TimestampPlan},
};

/// Tolerance of a scheme that signs a time and names none.
const TOLERANCE_DEFAULT: Duration = Duration::from_secs(300);

const ENCODINGS: [(&str, Encoding); 4] = [
    ("hex", Encoding::Hex),
    ("base64", Encoding::Base64),
    ("base64url", Encoding::Base64Url),
    ("base64url-nopad", Encoding::Base64UrlNoPad),
];

const UNITS: [(&str, TimeUnit); 4] = [
    ("s", TimeUnit::Seconds),
    ("ms", TimeUnit::Milliseconds),
    ("s-or-ms", TimeUnit::SecondsOrMilliseconds),
    ("rfc3339", TimeUnit::Rfc3339),
];

/// One fault in a scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// Path of the faulty key below the scheme's table, such as `["signature", "header"]`. Empty: the table itself.
    pub path: Vec<&'static str>,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path.join("."))?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

/// Reads `5m`, `30s`, `500ms`, `24h`, `7d`: one whole number and one unit.
///
/// ```
/// use std::time::Duration;
/// use countersign::scheme::parse_duration;
///
/// assert_eq!(parse_duration("5m"), Some(Duration::from_secs(300)));
/// assert_eq!(parse_duration("5 minutes"), None);
/// ```
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// Collects faults while the plan is built.
pub(super) struct Compiler<'a> {
    pub(super) params: Params<'a>,
    errors: Vec<SpecError>,
}

pub(super) fn compile(
    name: &str,
    spec: &SchemeSpec,
    params: &BTreeMap<String, String>,
) -> Result<Scheme, Vec<SpecError>> {
    let mut compiler = Compiler {
        params: Params {
            given: params,
            used: Vec::new(),
            missing: Vec::new(),
        },
        errors: Vec::new(),
    };
    let mut plan = compiler.plan(spec);
    let mut renamed = match spec.renamed.len() {
        0 => None,
        1 => compiler.plan(&renamed(spec)),
        _ => compiler.fault(
            &["renamed"],
            "the headers can be renamed in one way only",
            "name one beginning, such as `{ \"svix-\" = \"webhook-\" }`",
        ),
    };
    let (probes, handshakes): (Vec<_>, Vec<_>) = compiler
        .handshakes(spec, plan.iter_mut().chain(&mut renamed).collect())
        .into_iter()
        .partition(HandshakePlan::is_probe);
    for missing in std::mem::take(&mut compiler.params.missing) {
        compiler.fault::<()>(
            &["params"],
            format!("the scheme needs the parameter `{missing}`"),
            format!("add `params = {{ {missing} = \"…\" }}` to the route"),
        );
    }
    for unused in params
        .keys()
        .filter(|key| !compiler.params.used.contains(key))
    {
        compiler.errors.push(SpecError {
            path: vec!["params"],
            message: format!("scheme `{name}` has no parameter `{unused}`"),
            help: Some("remove it from `params`".into()),
        });
    }
    match plan {
        Some(plan) if compiler.errors.is_empty() => Ok(Scheme {
            name: name.into(),
            plan: Some(Arc::new(plan)),
            renamed: renamed.map(Arc::new),
            handshakes: handshakes.into(),
            handshake_mode: HandshakeMode::Answer,
            probed: !probes.is_empty(),
            guarded: false,
        }),
        _ => Err(compiler.errors),
    }
}

/// The names of the parameters of a scheme, and of its handshakes, which go unanswered without them.
pub(super) fn parameters(spec: &SchemeSpec) -> Vec<String> {
    let none = BTreeMap::new();
    let mut compiler = Compiler {
        params: Params {
            given: &none,
            used: Vec::new(),
            missing: Vec::new(),
        },
        errors: Vec::new(),
    };
    let mut plan = compiler.plan(spec);
    let handshakes = compiler.handshakes(spec, plan.iter_mut().collect());
    let mut names = compiler.params.missing;
    names.extend(
        handshakes
            .into_iter()
            .flat_map(|handshake| handshake.missing),
    );
    let mut seen = Vec::new();
    names.retain(|name| {
        let new = !seen.contains(name);
        seen.push(name.clone());
        new
    });
    names
}

/// The same scheme with its headers' other names.
fn renamed(spec: &SchemeSpec) -> SchemeSpec {
    let mut spec = spec.clone();
    for (from, to) in std::mem::take(&mut spec.renamed) {
        let header = |name: &mut String| {
            if let Some(rest) = name.strip_prefix(&*from) {
                *name = format!("{to}{rest}");
            }
        };
        let places = [
            &mut spec.signature.header,
            &mut spec.timestamp.get_or_insert_default().header,
            &mut spec.id.get_or_insert_default().header,
        ];
        places.into_iter().flatten().for_each(header);
        for content in &mut spec.content.0 {
            *content = content.replace(&format!("header:{from}"), &format!("header:{to}"));
        }
    }
    spec.timestamp
        .take_if(|timestamp| *timestamp == TimestampSpec::default());
    spec.id.take_if(|id| *id == IdSpec::default());
    spec
}

impl Compiler<'_> {
    pub(super) fn fault<T>(
        &mut self,
        path: &[&'static str],
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Option<T> {
        self.errors.push(SpecError {
            path: path.to_vec(),
            message: message.into(),
            help: Some(help.into()),
        });
        None
    }

    fn plan(&mut self, spec: &SchemeSpec) -> Option<Plan> {
        self.notes(spec);
        let algorithms = self.algorithms(&spec.algorithm);
        let shape = algorithms
            .as_ref()
            .and_then(|(algorithms, _)| self.shape(algorithms));
        let names: Vec<_> = algorithms
            .iter()
            .flat_map(|(_, names)| names.clone())
            .collect();
        // Every part is looked at before the first fault ends it.
        let encoding = shape.map(|shape| self.encoding(&spec.signature, shape));
        let timestamp = spec
            .timestamp
            .as_ref()
            .map(|timestamp| self.timestamp(timestamp));
        let id = spec.id.as_ref().map(|id| self.id(id));
        let contents = self.contents(spec, shape);
        let require = self.requirements(spec);
        let fetch = spec.fetch.as_ref().map(|fetch| self.fetch(fetch));
        let secret = self.secret(spec.secret.as_ref());
        let document = self.document(spec.document.as_deref());
        let last_field = match spec.repeated_fields.as_deref() {
            None => Some(false),
            Some("last") => Some(true),
            Some(other) => self.fault(
                &["repeated_fields"],
                format!("`{other}` is not a rule for repeated fields"),
                "write `last`, or leave it out: then they are refused",
            ),
        };
        let read = items_read(
            &timestamp,
            &id,
            contents.as_deref().unwrap_or_default(),
            require.as_deref().unwrap_or_default(),
            fetch.as_ref().and_then(|fetch| fetch.as_ref()),
        );
        let signature = self.signature(&spec.signature, &names, read);

        let (algorithms, shape, encoding, signature, contents, require) = (
            algorithms?.0,
            shape?,
            encoding??,
            signature?,
            contents?,
            require?,
        );
        let (timestamp, id, fetch) = (
            timestamp.map_or(Some(None), |t| t.map(Some))?,
            id.map_or(Some(None), |i| i.map(Some))?,
            fetch.map_or(Some(None), |f| f.map(Some))?,
        );
        let mut plan = Plan {
            shape,
            algorithms,
            encoding,
            signature,
            contents,
            streams: None,
            timestamp,
            id,
            id_covered: false,
            secret: secret?,
            require,
            document: document?,
            needs_document: false,
            last_field: last_field?,
            fetch,
            signs_url: false,
            signs_path: false,
            covers_body: false,
            headers: Vec::new(),
            challenges: Vec::new(),
        };
        self.consistent(&mut plan);
        Some(plan)
    }

    fn notes(&mut self, spec: &SchemeSpec) {
        if let Some(status) = &spec.status
            && !["current", "optional", "legacy", "deprecated"].contains(&&**status)
        {
            self.fault::<()>(
                &["status"],
                format!("`{status}` is not a status"),
                one_of(&["current", "optional", "legacy", "deprecated"]),
            );
        }
    }

    /// The algorithms, and the words by which the sender names them.
    fn algorithms(&mut self, spec: &Algorithms) -> Option<(Vec<Algorithm>, Vec<String>)> {
        let words: Vec<(&str, &str)> = match spec {
            Algorithms::Missing => {
                return self.fault(
                    &[],
                    "the algorithm is missing",
                    "add `algorithm`, such as `algorithm = \"hmac-sha256\"`",
                );
            }
            Algorithms::One(word) => vec![("", word)],
            Algorithms::Any(words) => words.iter().map(|word| ("", &**word)).collect(),
            Algorithms::Named(named) => named
                .iter()
                .map(|(name, word)| (&**name, &**word))
                .collect(),
        };
        if words.is_empty() || words.len() > 12 {
            return self.fault(
                &["algorithm"],
                "there is no algorithm, or too many",
                "name one to twelve",
            );
        }
        let mut algorithms = Vec::new();
        for (_, word) in &words {
            match algorithm_of(word) {
                Some(algorithm) => algorithms.push(algorithm),
                None => {
                    let known: Vec<_> = algorithm_words();
                    let known: Vec<_> = known.iter().map(String::as_str).collect();
                    return self.fault(
                        &["algorithm"],
                        format!("`{word}` is not an algorithm"),
                        one_of(&known),
                    );
                }
            }
        }
        if matches!(spec, Algorithms::Any(_))
            && !algorithms
                .iter()
                .all(|algorithm| matches!(algorithm, Algorithm::Jose(..)))
        {
            return self.fault(
                &["algorithm"],
                "only a token says which of several algorithms made it",
                "write a table of the names that the sender uses: `{ sha1 = \"hmac-sha1\" }`",
            );
        }
        let names = match spec {
            Algorithms::Named(named) => named.keys().cloned().collect(),
            Algorithms::Missing | Algorithms::One(_) | Algorithms::Any(_) => Vec::new(),
        };
        Some((algorithms, names))
    }

    fn shape(&mut self, algorithms: &[Algorithm]) -> Option<Shape> {
        let shape = |algorithm: &Algorithm| match algorithm {
            Algorithm::Token => Shape::Token,
            Algorithm::Hmac(_) | Algorithm::Digest(_) => Shape::Tag,
            Algorithm::Public(_) => Shape::PublicKey,
            Algorithm::Jose(name, _) if name.detached => Shape::Jws,
            Algorithm::Jose(..) => Shape::Jwt,
        };
        let first = algorithms.first().map(shape)?;
        let digests = algorithms
            .iter()
            .filter(|algorithm| matches!(algorithm, Algorithm::Digest(_)))
            .count();
        if algorithms.iter().any(|algorithm| shape(algorithm) != first)
            || (digests != 0 && digests != algorithms.len())
        {
            return self.fault(
                &["algorithm"],
                "these algorithms are of different kinds",
                "name only HMACs, only plain hashes, only JWTs and so on",
            );
        }
        Some(first)
    }

    fn encoding(&mut self, spec: &SignatureSpec, shape: Shape) -> Option<Option<Encoding>> {
        let words: Vec<_> = ENCODINGS.iter().map(|(word, _)| *word).collect();
        match (&spec.encoding, shape) {
            (Some(_), Shape::Jwt | Shape::Jws) => self.fault(
                &["signature", "encoding"],
                "a token brings its encoding along",
                "remove it",
            ),
            (None, Shape::Token | Shape::Jwt | Shape::Jws) => Some(None),
            (None, Shape::Tag | Shape::PublicKey) => self.fault(
                &["signature"],
                "the encoding of the signature is missing",
                format!("add `encoding`, {}", one_of(&words)),
            ),
            (Some(word), _) if word == "structured" => Some(Some(Encoding::Base64)),
            (Some(word), _) => match lookup(&ENCODINGS, word) {
                Some(encoding) => Some(Some(encoding)),
                None => self.fault(
                    &["signature", "encoding"],
                    format!("`{word}` is not an encoding"),
                    one_of(&words),
                ),
            },
        }
    }

    fn contents(&mut self, spec: &SchemeSpec, shape: Option<Shape>) -> Option<Vec<Template>> {
        match shape {
            Some(Shape::Token | Shape::Jwt) if !spec.content.0.is_empty() => {
                let what = if shape == Some(Shape::Token) {
                    "a token signs nothing"
                } else {
                    "a JWT signs its own claims"
                };
                return self.fault(
                    &["content"],
                    format!("{what}, so it has no `content`"),
                    "remove it",
                );
            }
            Some(Shape::Token | Shape::Jwt) => return Some(Vec::new()),
            _ => {}
        }
        if spec.content.0.len() > 4 {
            return self.fault(
                &["content"],
                "there are more than four alternatives",
                "name those that the sender really uses",
            );
        }
        let default = ["{body}".to_owned()];
        let written = if spec.content.0.is_empty() {
            &default[..]
        } else {
            &spec.content.0
        };
        let contents: Vec<_> = written
            .iter()
            .filter_map(|text| self.template(&["content"], text))
            .collect();
        (contents.len() == written.len()).then_some(contents)
    }

    fn template(&mut self, path: &[&'static str], text: &str) -> Option<Template> {
        let template = self.any_template(path, text)?;
        if template.hmac().is_some() {
            return self.fault(
                path,
                "an HMAC with the key belongs into the answer to a handshake",
                "leave the filter out",
            );
        }
        Some(template)
    }

    pub(super) fn any_template(&mut self, path: &[&'static str], text: &str) -> Option<Template> {
        match Template::parse(text, &mut self.params) {
            Ok(template) => Some(template),
            Err(TemplateFault { message, help }) => self.fault(path, message, help),
        }
    }

    pub(super) fn place(&mut self, path: &[&'static str], written: &str) -> Option<Place> {
        match template::place(written, &mut self.params) {
            Ok(place) => Some(place),
            Err(TemplateFault { message, help }) => self.fault(path, message, help),
        }
    }

    /// The one of several keys that is written.
    fn one_place(
        &mut self,
        table: &'static str,
        keys: &[(&'static str, &Option<String>)],
    ) -> Option<Place> {
        let written: Vec<_> = keys
            .iter()
            .filter_map(|(key, value)| value.as_ref().map(|value| (*key, value)))
            .collect();
        match *written {
            [("header", value)] => self.header(&[table, "header"], value).map(Place::Header),
            [(key, value)] => self.place(&[table, key], &format!("{key}:{value}")),
            _ => {
                let names: Vec<_> = keys.iter().map(|(key, _)| *key).collect();
                self.fault(
                    &[table],
                    if written.is_empty() {
                        format!("it is not said where the {table} stands")
                    } else {
                        "more than one place is named".to_owned()
                    },
                    format!("write exactly {}", one_of(&names)),
                )
            }
        }
    }

    fn timestamp(&mut self, spec: &TimestampSpec) -> Option<TimestampPlan> {
        let place = self.one_place(
            "timestamp",
            &[
                ("header", &spec.header),
                ("query", &spec.query),
                ("form", &spec.form),
                ("json", &spec.json),
                ("item", &spec.item),
                ("claim", &spec.claim),
            ],
        );
        let unit = match spec
            .unit
            .as_deref()
            .map(|word| (word, lookup(&UNITS, word)))
        {
            None => Some(TimeUnit::Seconds),
            Some((_, Some(unit))) => Some(unit),
            Some((word, None)) => self.fault(
                &["timestamp", "unit"],
                format!("`{word}` is not a unit of time"),
                one_of(&["s", "ms", "s-or-ms", "rfc3339"]),
            ),
        };
        let tolerance = match &spec.tolerance {
            None => Some(TOLERANCE_DEFAULT),
            Some(text) => match parse_duration(text) {
                Some(tolerance) if !tolerance.is_zero() => Some(tolerance),
                _ => self.fault(
                    &["timestamp", "tolerance"],
                    format!("`{text}` is not a duration above zero"),
                    "write a number and a unit, such as `5m`",
                ),
            },
        };
        let place = place?;
        let is_end = place == Place::Claim("exp".into());
        Some(TimestampPlan {
            place,
            unit: unit?,
            tolerance: tolerance?,
            fixed_width: false,
            is_end,
        })
    }

    fn id(&mut self, spec: &IdSpec) -> Option<Place> {
        self.one_place(
            "id",
            &[
                ("header", &spec.header),
                ("query", &spec.query),
                ("form", &spec.form),
                ("json", &spec.json),
                ("item", &spec.item),
                ("claim", &spec.claim),
            ],
        )
    }

    fn requirements(&mut self, spec: &SchemeSpec) -> Option<Vec<Requirement>> {
        let mut all = Vec::new();
        for (written, wanted) in &spec.require {
            let (written, optional) = match written.strip_suffix('?') {
                Some(written) => (written, true),
                None => (&**written, false),
            };
            let places: Vec<_> = written
                .split('|')
                .filter_map(|place| self.place(&["require"], place))
                .collect();
            let wanted: Vec<_> = wanted
                .0
                .iter()
                .filter_map(|text| self.template(&["require"], text))
                .collect();
            all.push(Requirement {
                places,
                optional,
                wanted,
                in_head: false,
            });
        }
        Some(all)
    }

    fn fetch(&mut self, spec: &FetchSpec) -> Option<FetchPlan> {
        let url = match &spec.url {
            Some(url) => self.template(&["fetch", "url"], url),
            None => self.fault(
                &["fetch"],
                "it is not said where keys are fetched from",
                "add `url`",
            ),
        };
        let post = spec
            .post
            .as_ref()
            .map(|post| self.template(&["fetch", "post"], post));
        let mut headers = Vec::new();
        for (name, value) in &spec.headers {
            if let (Some(name), Some(value)) = (
                self.header(&["fetch", "headers"], name),
                self.template(&["fetch", "headers"], value),
            ) {
                headers.push((name, value));
            }
        }
        let pointer = match spec
            .pointer
            .as_deref()
            .map(|pointer| (pointer, Pointer::parse(pointer)))
        {
            None => Some(None),
            Some((_, Some(pointer))) => Some(Some(pointer)),
            Some((written, None)) => self.fault(
                &["fetch", "pointer"],
                format!("`{written}` is not a JSON pointer"),
                "begin it with `/`, as in `/data/key`",
            ),
        };
        let plan = FetchPlan {
            url: url?,
            hosts: spec.hosts.clone(),
            path: spec.path.clone(),
            pointer: pointer?,
            post: post.map_or(Some(None), |post| post.map(Some))?,
            headers,
            certificate: spec.certificate.clone(),
        };
        if !plan.is_fixed() && plan.hosts.is_empty() {
            return self.fault(
                &["fetch"],
                "the request says from which host keys are fetched",
                "add `hosts`, the ones that it may name",
            );
        }
        if plan
            .url
            .tokens()
            .any(|token| token.source == Source::Secret)
        {
            return self.fault(
                &["fetch", "url"],
                "the address holds the secret, and addresses are written into logs",
                "put `{secret}` into `headers` or `post`",
            );
        }
        if plan.url.parts.first().is_some_and(
            |first| matches!(first, Part::Text(text) if !text.starts_with(b"https://")),
        ) {
            return self.fault(
                &["fetch", "url"],
                "the address does not begin with `https://`",
                "keys are fetched over TLS only",
            );
        }
        Some(plan)
    }

    fn secret(&mut self, spec: Option<&SecretSpec>) -> Option<SecretPlan> {
        let Some(spec) = spec else {
            return Some(SecretPlan::default());
        };
        let decode = match spec
            .decode
            .as_deref()
            .map(|word| (word, lookup(&DECODERS, word)))
        {
            None => Some(Decode::Text),
            Some((_, Some(decode))) => Some(decode),
            Some((word, None)) => {
                let words: Vec<_> = DECODERS.iter().map(|(word, _)| *word).collect();
                self.fault(
                    &["secret", "decode"],
                    format!("`{word}` is not a way to decode a secret"),
                    one_of(&words),
                )
            }
        };
        let digest = match spec
            .digest
            .as_deref()
            .map(|word| (word, lookup(&SECRET_DIGESTS, word)))
        {
            None => Some(None),
            Some((_, Some(digest))) => Some(Some(digest)),
            Some((word, None)) => self.fault(
                &["secret", "digest"],
                format!("`{word}` is not a hash"),
                one_of(&["sha1", "sha256", "sha512"]),
            ),
        };
        let around = match &spec.template {
            None => Some((Vec::new(), Vec::new())),
            Some(template) => match template.split_once("{secret}") {
                None => self.fault(
                    &["secret", "template"],
                    "the template does not hold the secret",
                    "put `{secret}` into it",
                ),
                Some((before, after)) => {
                    let filled = (self.params.fill(before), self.params.fill(after));
                    Some((
                        filled.0.unwrap_or_default().into_bytes(),
                        filled.1.unwrap_or_default().into_bytes(),
                    ))
                }
            },
        };
        Some(SecretPlan {
            prefix: spec
                .prefix
                .iter()
                .flat_map(|prefix| prefix.split('*').map(Into::into))
                .collect(),
            decode: decode?,
            around: around?,
            digest: digest?,
            api_key: spec.api_key.unwrap_or(false),
        })
    }

    fn document(&mut self, spec: Option<&str>) -> Option<Document> {
        match spec.map(|written| (written, written.split_once(':'))) {
            None => Some(Document::Body),
            Some((_, Some(("multipart", name)))) if !name.is_empty() => {
                Some(Document::Part(name.into()))
            }
            Some((_, Some(("form", name)))) if !name.is_empty() => {
                Some(Document::Field(name.into()))
            }
            Some((written, _)) => self.fault(
                &["document"],
                format!("`{written}` is not where a document can be"),
                "write `multipart:NAME` or `form:NAME`, or leave it out: then it is the body",
            ),
        }
    }

    fn signature(
        &mut self,
        spec: &SignatureSpec,
        names: &[String],
        read: Vec<Box<str>>,
    ) -> Option<SignaturePlan> {
        let site = self.site(spec);
        let mut aliases = Vec::new();
        for alias in &spec.aliases {
            aliases.extend(self.header(&["signature", "aliases"], alias));
        }
        if !spec.aliases.is_empty() && spec.header.is_none() {
            self.fault::<()>(
                &["signature", "aliases"],
                "aliases are other headers, and this signature is in none",
                "remove them",
            );
        }
        let written = self
            .params
            .fill(spec.prefix.as_deref().unwrap_or_default())
            .unwrap_or_default();
        if written
            .bytes()
            .any(|byte| !(byte == b' ' || byte.is_ascii_graphic()))
        {
            return self.fault(
                &["signature", "prefix"],
                "the prefix holds a character that a header value cannot",
                "use printable ASCII only",
            );
        }
        if written.starts_with(' ') {
            return self.fault(
                &["signature", "prefix"],
                "the prefix begins with a blank, which no header value does when it arrives",
                "leave the blank out",
            );
        }
        let structured = spec.encoding.as_deref() == Some("structured");
        let list = match &spec.list {
            None => Some(None),
            Some(_) if structured || !written.is_empty() => self.fault(
                &["signature", "list"],
                "a list has neither a prefix nor the encoding `structured`",
                "put what stands before a tag into `tag`",
            ),
            Some(list) => self.list(list, names, read).map(Some),
        };
        let prefixes = expand(&written, names);
        if !names.is_empty()
            && prefixes.len() == 1
            && spec
                .list
                .as_ref()
                .is_none_or(|list| !list.tag.as_deref().unwrap_or_default().contains(ALGORITHM))
        {
            return self.fault(
                &["algorithm"],
                "it is not said where the sender names the algorithm",
                "write `{algorithm}` into `signature.prefix` or `signature.list.tag`",
            );
        }
        Some(SignaturePlan {
            site: site?,
            aliases,
            repeated: spec.repeated.unwrap_or(false),
            prefixes,
            list: list?,
            structured,
        })
    }

    fn site(&mut self, spec: &SignatureSpec) -> Option<Site> {
        if spec.body == Some(true) {
            if spec.header.is_some()
                || spec.query.is_some()
                || spec.form.is_some()
                || spec.json.is_some()
            {
                return self.fault(
                    &["signature"],
                    "more than one place is named",
                    "write exactly one of `header`, `query`, `form`, `json`, `body`",
                );
            }
            return Some(Site::Place(Place::Body));
        }
        if let Some(name) = &spec.header
            && let Some((before, after)) = name.split_once("{n}")
        {
            let names: Vec<_> = (1..=NUMBERED_MAX)
                .filter_map(|n| {
                    self.header(&["signature", "header"], &format!("{before}{n}{after}"))
                })
                .collect();
            return Some(Site::Numbered(names));
        }
        let place = self.one_place(
            "signature",
            &[
                ("header", &spec.header),
                ("query", &spec.query),
                ("form", &spec.form),
                ("json", &spec.json),
            ],
        )?;
        Some(if let Place::Header(header) = place {
            Site::Header(header)
        } else {
            Site::Place(place)
        })
    }

    fn list(&mut self, spec: &ListSpec, names: &[String], read: Vec<Box<str>>) -> Option<ListPlan> {
        let Some(separator) = spec
            .separator
            .as_deref()
            .filter(|separator| !separator.is_empty())
        else {
            return self.fault(
                &["signature", "list"],
                "the separator is missing",
                "add `separator`, such as `\",\"`",
            );
        };
        let assign = spec.assign.as_deref().filter(|assign| !assign.is_empty());
        let tags = match (&spec.tag, assign) {
            (Some(tag), Some(assign)) => {
                let tag = self.params.fill(tag).unwrap_or_default();
                expand(&format!("{tag}{assign}"), names)
            }
            (None, Some(_)) => {
                return self.fault(
                    &["signature", "list"],
                    "the name of items that hold a tag is missing",
                    "add `tag`, such as `\"v1\"`",
                );
            }
            (Some(_), None) => {
                return self.fault(
                    &["signature", "list", "tag"],
                    "items have no names here",
                    "add `assign`, or remove `tag`",
                );
            }
            (None, None) => expand("", &[]),
        };
        if !spec.order.is_empty() && assign.is_none() {
            return self.fault(
                &["signature", "list", "order"],
                "items have no names here",
                "add `assign`, or remove `order`",
            );
        }
        Some(ListPlan {
            order: spec
                .order
                .iter()
                .map(|name| {
                    [name, assign.unwrap_or_default()]
                        .concat()
                        .into_bytes()
                        .into()
                })
                .collect(),
            separator: separator.as_bytes().into(),
            assign: assign.map(|assign| assign.as_bytes().into()),
            tags,
            several: spec.several.unwrap_or(false),
            groups: spec
                .groups
                .as_deref()
                .filter(|groups| !groups.is_empty())
                .map(|groups| groups.as_bytes().into()),
            read,
        })
    }

    pub(super) fn header(&mut self, path: &[&'static str], written: &str) -> Option<HeaderName> {
        let name = self.params.fill(written)?;
        if name.is_empty() {
            return self.fault(
                path,
                "the header's name is missing",
                "write the name, such as `x-signature`",
            );
        }
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(header) if is_framing(&header) => self.fault(
                path,
                format!("`{header}` belongs to the connection"),
                "name an end-to-end header",
            ),
            Ok(header) => Some(header),
            Err(_) => self.fault(
                path,
                format!("`{name}` is not a header name"),
                "use letters, digits and `-`, such as `x-signature`",
            ),
        }
    }

    /// What holds between the parts; fills in what follows from them.
    fn consistent(&mut self, plan: &mut Plan) {
        let in_head = plan.signature.in_head();
        for requirement in &mut plan.require {
            let claims = |place: &Place| matches!(place, Place::Claim(_) | Place::Protected(_));
            requirement.in_head = requirement
                .places
                .iter()
                .all(|place| !claims(place) && place.in_head(in_head))
                && requirement.wanted.iter().all(|wanted| {
                    !needs_body(
                        wanted,
                        plan.timestamp.as_ref().map(|t| &t.place),
                        plan.id.as_ref(),
                        in_head,
                    )
                });
        }
        let tokens: Vec<&Token> = plan.contents.iter().flat_map(Template::tokens).collect();
        let required: Vec<&Token> = plan
            .require
            .iter()
            .flat_map(|requirement| requirement.wanted.iter().flat_map(Template::tokens))
            .collect();
        let all = || tokens.iter().chain(&required);
        plan.signs_url = all().any(|token| {
            token.source == Source::Url || token.source == Source::Canonical(Canonical::PlivoV3)
        });
        plan.signs_path = all().any(|token| {
            matches!(
                token.source,
                Source::Path
                    | Source::Target
                    | Source::Canonical(Canonical::Contentful | Canonical::Truelayer)
            )
        });
        let body = Source::Place(Place::Body);
        // Anyone can find another body with the same CRC.
        let whole_body = |tokens: &[&Token]| {
            let strong = tokens
                .iter()
                .filter(|token| !token.filters.contains(&Filter::Crc32));
            strong.copied().any(|token| token.source == body || matches!(token.source, Source::Canonical(canonical) if canonical.covers_body()) || (token.source == Source::Form))
        };
        let covered_require = plan
            .require
            .iter()
            .filter(|requirement| !requirement.optional)
            .any(|requirement| {
                let wanted: Vec<_> = requirement
                    .wanted
                    .iter()
                    .flat_map(Template::tokens)
                    .collect();
                whole_body(&wanted)
                    && requirement.places.iter().all(|place| match place {
                        Place::Claim(_) => true,
                        Place::Query(_) => plan.contents.iter().all(|content| {
                            content
                                .tokens()
                                .any(|token| matches!(token.source, Source::Url | Source::Target))
                        }),
                        Place::Header(_) => plan.contents.iter().all(|content| {
                            content
                                .tokens()
                                .any(|token| token.source == Source::Canonical(Canonical::Rfc9421))
                        }),
                        Place::Form(_)
                        | Place::Json(_)
                        | Place::Item(_)
                        | Place::Protected(_)
                        | Place::Body => false,
                    })
            });
        let body_in_content = !plan.contents.is_empty()
            && plan
                .contents
                .iter()
                .all(|content| whole_body(&content.tokens().collect::<Vec<_>>()));
        let signed_body =
            matches!(plan.signature.site, Site::Place(Place::Body)) && plan.shape == Shape::Jwt;
        plan.covers_body = match plan.shape {
            Shape::Token => false,
            Shape::Tag | Shape::PublicKey | Shape::Jwt | Shape::Jws => {
                body_in_content || covered_require || signed_body
            }
        };
        self.covered_parts(plan, body_in_content || signed_body);
        self.secrets_in_content(plan);
        self.stars(plan);
        plan.needs_document = plan.places().any(|place| matches!(place, Place::Json(_)))
            || plan
                .contents
                .iter()
                .flat_map(Template::tokens)
                .any(|token| {
                    matches!(
                        token.source,
                        Source::Canonical(Canonical::Sns | Canonical::Unisender)
                    )
                });
        plan.streams = streams(plan, in_head);
        let mut headers: Vec<HeaderName> = plan.signature.headers().cloned().collect();
        for place in plan.places() {
            let names = match place {
                Place::Header(name) => std::slice::from_ref(name),
                Place::Query(_)
                | Place::Form(_)
                | Place::Json(_)
                | Place::Item(_)
                | Place::Claim(_)
                | Place::Protected(_)
                | Place::Body => &[],
            };
            for name in names {
                if !headers.contains(name) {
                    headers.push(name.clone());
                }
            }
        }
        for token in plan.contents.iter().flat_map(Template::tokens) {
            if let Source::Canonical(canonical) = token.source {
                headers.extend(
                    canonical
                        .headers()
                        .iter()
                        .map(|name| HeaderName::from_static(name)),
                );
            }
        }
        plan.headers = headers;
    }

    /// The time has to be signed; the id is a replay key only if it is.
    fn covered_parts(&mut self, plan: &mut Plan, body_covered: bool) {
        let covered = |place: &Place, own: &Source| {
            let in_every = |wanted: &dyn Fn(&Token) -> bool| {
                !plan.contents.is_empty()
                    && plan
                        .contents
                        .iter()
                        .all(|content| content.tokens().any(wanted))
            };
            match place {
                Place::Claim(_) | Place::Protected(_) => true,
                Place::Json(_) | Place::Form(_) if body_covered => true,
                Place::Query(_)
                    if in_every(&|token: &Token| {
                        matches!(token.source, Source::Url | Source::Target | Source::Query)
                    }) =>
                {
                    true
                }
                // The named forms see to it themselves that the time is among what they sign.
                Place::Header(_) | Place::Item(_)
                    if in_every(&|token: &Token| {
                        matches!(
                            token.source,
                            Source::Canonical(
                                Canonical::Contentful | Canonical::Truelayer | Canonical::Rfc9421
                            )
                        )
                    }) =>
                {
                    *own == Source::Timestamp
                }
                Place::Header(_)
                | Place::Query(_)
                | Place::Form(_)
                | Place::Json(_)
                | Place::Item(_)
                | Place::Body => in_every(&|token: &Token| {
                    token.source == *own || token.source == Source::Place(place.clone())
                }),
            }
        };
        let time = plan
            .timestamp
            .as_ref()
            .map(|timestamp| covered(&timestamp.place, &Source::Timestamp));
        let id = plan.id.as_ref().map(|place| covered(place, &Source::Id));
        plan.id_covered = id == Some(true) && !matches!(plan.shape, Shape::Token);
        let asks_time = plan
            .contents
            .iter()
            .flat_map(Template::tokens)
            .any(|token| token.source == Source::Timestamp);
        let asks_id = plan
            .contents
            .iter()
            .flat_map(Template::tokens)
            .any(|token| token.source == Source::Id);
        match time {
            Some(_) if plan.shape == Shape::Token => {
                self.fault::<()>(
                    &["timestamp"],
                    "a token signs nothing, so it has no `timestamp`",
                    "remove it",
                );
            }
            Some(false) => {
                self.fault::<()>(
                    &["timestamp"],
                    "the signed content does not hold the timestamp, so anyone could change it",
                    "put `{timestamp}` into `content`, or leave `timestamp` out",
                );
            }
            None if asks_time => {
                self.fault::<()>(
                    &["content"],
                    "`{timestamp}` stands in the content, but the scheme does not say where the timestamp is",
                    "add `timestamp = { header = \"…\" }`",
                );
            }
            Some(true) | None => {}
        }
        if asks_id && plan.id.is_none() {
            self.fault::<()>(
                &["content"],
                "`{id}` stands in the content, but the scheme does not say where the id is",
                "add `id = { header = \"…\" }`",
            );
        }
        if let (
            Site::Header(header),
            Some(TimestampPlan {
                place: Place::Header(time),
                ..
            }),
        ) = (&plan.signature.site, &plan.timestamp)
            && header == time
        {
            self.fault::<()>(
                &["timestamp", "header"],
                format!("`{header}` cannot carry both the signature and the time"),
                "name the header that carries the time",
            );
        }
        let fixed = plan
            .contents
            .iter()
            .any(|content| time_runs_into_neighbours(&content.parts));
        if let Some(timestamp) = &mut plan.timestamp {
            timestamp.fixed_width = fixed;
        }
    }

    fn secrets_in_content(&mut self, plan: &Plan) {
        let digests = plan
            .algorithms
            .iter()
            .any(|algorithm| matches!(algorithm, Algorithm::Digest(_)));
        let unisender = |token: &Token| token.source == Source::Canonical(Canonical::Unisender);
        for content in &plan.contents {
            let holds = content
                .tokens()
                .any(|token| token.source == Source::Secret || unisender(token));
            if digests && !holds {
                self.fault::<()>(
                    &["content"],
                    "a plain hash without the secret proves nothing: anyone can compute it",
                    "put `{secret}` into `content`, or use an HMAC",
                );
            }
            if !digests && holds {
                self.fault::<()>(
                    &["content"],
                    "`{secret}` belongs to plain hashes; here it is the key",
                    "remove it from `content`",
                );
            }
            let bodies = content.parts.iter().filter(|part| matches!(part, Part::Token(Token { source: Source::Place(Place::Body), filters, .. }) if filters.is_empty())).count();
            if bodies > 1 {
                self.fault::<()>(
                    &["content"],
                    "`{body}` stands in the template more than once",
                    "keep one",
                );
            }
            let nothing = content.parts.is_empty()
                || content
                    .parts
                    .iter()
                    .all(|part| matches!(part, Part::Text(_)));
            if nothing {
                self.fault::<()>(
                    &["content"],
                    "nothing of the request is signed",
                    "put `{body}` into the template",
                );
            }
        }
    }

    /// A `*` has to be the signature's own.
    fn stars(&mut self, plan: &Plan) {
        let own = match &plan.signature.site {
            Site::Place(Place::Json(pointer)) if pointer.has_star() => Some(pointer),
            Site::Header(_) | Site::Numbered(_) | Site::Place(_) => None,
        };
        let stray = plan.places().find(|place| match place {
            Place::Json(pointer) => {
                pointer.has_star() && !own.is_some_and(|own| own.shares_star(pointer))
            }
            Place::Header(_)
            | Place::Query(_)
            | Place::Form(_)
            | Place::Item(_)
            | Place::Claim(_)
            | Place::Protected(_)
            | Place::Body => false,
        });
        if let Some(place) = stray {
            self.fault::<()>(
                &[],
                format!("the `*` in {place} is not the one at which the signature stands"),
                "let `signature.json` have the same path up to its `*`",
            );
        }
    }
}

const ALGORITHM: &str = "{algorithm}";

/// Headers that are counted through at most.
const NUMBERED_MAX: usize = 16;

/// A prefix for each algorithm, the longest first.
fn expand(written: &str, names: &[String]) -> Vec<Prefix> {
    if !written.contains(ALGORITHM) {
        return vec![Prefix {
            text: written.as_bytes().into(),
            algorithm: 0,
        }];
    }
    let mut all: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(algorithm, name)| {
            let text = if name.is_empty() {
                String::new()
            } else {
                written.replace(ALGORITHM, name)
            };
            Prefix {
                text: text.into_bytes().into(),
                algorithm,
            }
        })
        .collect();
    all.sort_by_key(|prefix| std::cmp::Reverse(prefix.text.len()));
    all
}

impl Plan {
    /// Every place that the scheme reads, but for the signature's own.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        let fetch = self.fetch.iter().flat_map(|fetch| {
            fetch
                .url
                .places()
                .chain(fetch.post.iter().flat_map(Template::places))
        });
        let site = match &self.signature.site {
            Site::Place(place) => Some(place),
            Site::Header(_) | Site::Numbered(_) => None,
        };
        self.contents
            .iter()
            .flat_map(Template::places)
            .chain(self.timestamp.iter().map(|timestamp| &timestamp.place))
            .chain(self.require.iter().flat_map(|requirement| {
                requirement
                    .places
                    .iter()
                    .chain(requirement.wanted.iter().flat_map(Template::places))
            }))
            .chain(fetch)
            .chain(site)
    }
}

fn items_read(
    timestamp: &Option<Option<TimestampPlan>>,
    id: &Option<Option<Place>>,
    contents: &[Template],
    require: &[Requirement],
    fetch: Option<&FetchPlan>,
) -> Vec<Box<str>> {
    let mut read: Vec<Box<str>> = Vec::new();
    let own = timestamp
        .iter()
        .flatten()
        .map(|timestamp| &timestamp.place)
        .chain(id.iter().flatten());
    let written = contents.iter().flat_map(Template::places);
    let required = require.iter().flat_map(|requirement| {
        requirement
            .places
            .iter()
            .chain(requirement.wanted.iter().flat_map(Template::places))
    });
    for place in own
        .chain(written)
        .chain(required)
        .chain(fetch.iter().flat_map(|fetch| fetch.url.places()))
    {
        if let Place::Item(name) = place
            && !read.contains(name)
        {
            read.push(name.clone());
        }
    }
    read
}

/// Whether a template can only be filled in when the body is there.
fn needs_body(
    template: &Template,
    time: Option<&Place>,
    id: Option<&Place>,
    in_head: bool,
) -> bool {
    let late = |place: Option<&Place>| place.is_some_and(|place| !place.in_head(in_head));
    template.places().any(|place| !place.in_head(in_head))
        || template.tokens().any(|token| match token.source {
            Source::Form | Source::Canonical(_) => true,
            Source::Timestamp => late(time),
            Source::Id => late(id),
            Source::Place(_)
            | Source::Method
            | Source::Target
            | Source::Path
            | Source::Url
            | Source::Query
            | Source::Secret
            | Source::Protected
            | Source::Text(_) => false,
        })
}

/// The content as stretches around the body, where the hash can be fed while the body arrives.
fn streams(plan: &Plan, in_head: bool) -> Option<Vec<Vec<Run>>> {
    let (time, id) = (
        plan.timestamp.as_ref().map(|timestamp| &timestamp.place),
        plan.id.as_ref(),
    );
    let late_time = time.is_some_and(|place| !place.in_head(in_head));
    if !in_head || late_time || plan.require.iter().any(|requirement| !requirement.in_head) {
        return None;
    }
    match plan.shape {
        Shape::Token => return Some(Vec::new()),
        Shape::Tag => {}
        Shape::PublicKey | Shape::Jwt | Shape::Jws => return None,
    }
    let mut all = Vec::new();
    for content in &plan.contents {
        let mut runs: Vec<Run> = Vec::new();
        let mut text = Template::default();
        for part in &content.parts {
            let boundary = match part {
                Part::Token(Token {
                    source: Source::Place(Place::Body),
                    filters,
                    ..
                }) if filters.is_empty() => Some(Run::Body),
                Part::Token(Token {
                    source: Source::Secret,
                    filters,
                    ..
                }) if filters.is_empty() => Some(Run::Secret),
                Part::Text(_) | Part::Token(_) | Part::Section(..) => None,
            };
            let Some(boundary) = boundary else {
                text.parts.push(part.clone());
                continue;
            };
            if !text.parts.is_empty() {
                runs.push(Run::Text(std::mem::take(&mut text)));
            }
            runs.push(boundary);
        }
        if !text.parts.is_empty() {
            runs.push(Run::Text(text));
        }
        let late = runs.iter().any(|run| matches!(run, Run::Text(template) if needs_body(template, time, id, in_head) || template.tokens().any(|token| token.source == Source::Secret)));
        if late {
            return None;
        }
        all.push(runs);
    }
    Some(all)
}

/// Whether what stands beside the time could be read as part of it: then only a fixed number of digits is safe.
fn time_runs_into_neighbours(parts: &[Part]) -> bool {
    let is_time = |part: &Part| {
        matches!(
            part,
            Part::Token(Token {
                source: Source::Timestamp,
                ..
            })
        )
    };
    let free = |part: Option<&Part>, edge: &dyn Fn(&[u8]) -> Option<u8>| match part {
        None => false,
        Some(Part::Text(text)) => edge(text).is_some_and(|byte| byte.is_ascii_digit()),
        Some(Part::Token(_) | Part::Section(..)) => true,
    };
    parts.iter().enumerate().any(|(i, part)| {
        is_time(part)
            && (free(parts.get(i + 1), &|text| text.first().copied())
                || free(
                    i.checked_sub(1).and_then(|before| parts.get(before)),
                    &|text| text.last().copied(),
                ))
    })
}

const DECODERS: [(&str, Decode); 5] = [
    ("text", Decode::Text),
    ("nfkd", Decode::Nfkd),
    ("hex", Decode::Hex),
    ("base64", Decode::Base64),
    ("document", Decode::Document),
];

const SECRET_DIGESTS: [(&str, DigestAlgorithm); 3] = [
    ("sha1", DigestAlgorithm::Sha1),
    ("sha256", DigestAlgorithm::Sha256),
    ("sha512", DigestAlgorithm::Sha512),
];

const PUBLIC: [(&str, PublicAlgorithm); 5] = [
    ("ed25519", PublicAlgorithm::Ed25519),
    ("ecdsa-p256-sha256", PublicAlgorithm::EcdsaP256),
    ("rsa-sha1", PublicAlgorithm::RsaSha1),
    ("rsa-sha256", PublicAlgorithm::RsaSha256),
    ("rsa-sha512", PublicAlgorithm::RsaSha512),
];

/// What stands in a token's `alg` (RFC 7518, RFC 8037).
const JOSE: [(&str, &str, JoseAlgorithm); 10] = [
    ("hs256", "HS256", JoseAlgorithm::Hmac(HmacAlgorithm::Sha256)),
    ("hs384", "HS384", JoseAlgorithm::Hmac(HmacAlgorithm::Sha384)),
    ("hs512", "HS512", JoseAlgorithm::Hmac(HmacAlgorithm::Sha512)),
    (
        "rs256",
        "RS256",
        JoseAlgorithm::Public(PublicAlgorithm::RsaSha256),
    ),
    (
        "rs384",
        "RS384",
        JoseAlgorithm::Public(PublicAlgorithm::RsaSha384),
    ),
    (
        "rs512",
        "RS512",
        JoseAlgorithm::Public(PublicAlgorithm::RsaSha512),
    ),
    (
        "es256",
        "ES256",
        JoseAlgorithm::Public(PublicAlgorithm::Es256),
    ),
    (
        "es384",
        "ES384",
        JoseAlgorithm::Public(PublicAlgorithm::Es384),
    ),
    (
        "es512",
        "ES512",
        JoseAlgorithm::Public(PublicAlgorithm::Es512),
    ),
    (
        "eddsa",
        "EdDSA",
        JoseAlgorithm::Public(PublicAlgorithm::Ed25519),
    ),
];

fn algorithm_of(word: &str) -> Option<Algorithm> {
    if word == "token" {
        return Some(Algorithm::Token);
    }
    let jose = |rest: &str, detached| {
        let (_, alg, algorithm) = JOSE.iter().find(|(known, _, _)| *known == rest)?;
        Some(Algorithm::Jose(JoseName { alg, detached }, *algorithm))
    };
    if let Some(rest) = word.strip_prefix("jwt-") {
        return jose(rest, false);
    }
    if let Some(rest) = word.strip_prefix("jws-") {
        return jose(rest, true);
    }
    lookup(&mac::HMAC_ALGORITHMS, word)
        .map(Algorithm::Hmac)
        .or_else(|| lookup(&mac::DIGEST_ALGORITHMS, word).map(Algorithm::Digest))
        .or_else(|| lookup(&PUBLIC, word).map(Algorithm::Public))
}

fn algorithm_words() -> Vec<String> {
    let plain = mac::HMAC_ALGORITHMS
        .iter()
        .map(|(word, _)| *word)
        .chain(mac::DIGEST_ALGORITHMS.iter().map(|(word, _)| *word))
        .chain(["token"])
        .chain(PUBLIC.iter().map(|(word, _)| *word));
    let jwt = JOSE.iter().map(|(word, _, _)| format!("jwt-{word}"));
    let jws = JOSE.iter().map(|(word, _, _)| format!("jws-{word}"));
    plain.map(str::to_owned).chain(jwt).chain(jws).collect()
}

/// Headers that describe this connection or this message's framing and so cannot carry a signature.
fn is_framing(name: &HeaderName) -> bool {
    use http::header;
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::EXPECT,
        header::HOST,
    ]
    .contains(name)
}

pub(super) fn lookup<T: Copy>(words: &[(&str, T)], word: &str) -> Option<T> {
    words
        .iter()
        .find(|(known, _)| *known == word)
        .map(|(_, value)| *value)
}

pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    format!("one of {}", quoted.join(", "))
}
