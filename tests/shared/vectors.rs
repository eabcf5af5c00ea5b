//! The recorded requests of `tests/vectors/`, and the forgeries that are made of each: one derivation for the tests of schemes in
//! the crate and for those through the whole gateway, which both take this file in by its path.
//!
//! A forgery is made of what a provider's file says, not of what the crate reads in it.

#![allow(dead_code, reason = "neither of the two needs all of it")]

use std::{collections::BTreeMap, fs, path::Path};

use countersign::scheme::{
    Scheme, catalogue,
    spec::{Algorithms, ProviderSpec, SchemeSpec},
};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    provider: Option<String>,
    vectors: Vec<Vector>,
}

/// A recorded request with what it takes to check it.
#[derive(Deserialize, Clone)]
pub(crate) struct Vector {
    /// Filled in from the file's name where the vector does not say it.
    #[serde(default)]
    pub(crate) provider: String,
    pub(crate) id: String,
    pub(crate) scheme: String,
    pub(crate) now: i64,
    pub(crate) secrets: Vec<String>,
    #[serde(default)]
    pub(crate) params: BTreeMap<String, String>,
    pub(crate) public_url: Option<String>,
    #[serde(default)]
    pub(crate) fetched: BTreeMap<String, String>,
    request: Recorded,
    pub(crate) event_id: Option<String>,
    /// A scheme that no catalogue holds, and its text as a route has it.
    #[serde(skip)]
    own: Option<(SchemeSpec, String)>,
}

#[derive(Deserialize, Clone)]
struct Recorded {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    body_base64: Option<String>,
}

/// A request that can be changed.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) url: Option<String>,
    /// Names as they were spelled.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) now: i64,
    pub(crate) secrets: Vec<Vec<u8>>,
    pub(crate) fetched: BTreeMap<String, String>,
}

/// A request that has to be refused, and what is wrong with it.
pub(crate) struct Forgery {
    pub(crate) what: &'static str,
    pub(crate) sent: Sent,
}

pub(crate) fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors"))
}

/// Every request that has to pass, by provider and in the order of the files.
pub(crate) fn positives() -> Vec<Vector> {
    let mut paths: Vec<_> = fs::read_dir(folder().join("providers"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let File { provider, vectors } = read(&path);
        let provider =
            provider.unwrap_or_else(|| path.file_stem().unwrap().to_str().unwrap().to_owned());
        all.extend(vectors.into_iter().map(|vector| Vector {
            provider: provider.clone(),
            ..vector
        }));
    }
    all.retain(|vector| vector.provider_spec().is_some());
    all
}

/// The named traps: each would pass if its one fault were overlooked.
pub(crate) fn traps() -> Vec<Vector> {
    let mut traps = read(&folder().join("negatives.json")).vectors;
    traps.retain(|vector| vector.provider_spec().is_some());
    traps
}

/// The requests of a sender that only an operator's file describes.
pub(crate) fn operators(name: &str) -> Vec<Vector> {
    #[derive(Deserialize)]
    struct Described {
        scheme: BTreeMap<String, SchemeSpec>,
    }
    let path = folder().join("operator").join(name);
    let text = fs::read_to_string(path.with_extension("toml")).unwrap();
    let described: Described = toml::from_str(&text).unwrap();
    let mut vectors = read(&path.with_extension("json")).vectors;
    for vector in &mut vectors {
        let table = format!("[scheme.{}", vector.scheme);
        let spec = described.scheme[&vector.scheme].clone();
        vector.own = Some((spec, text.replace(&table, "[route.scheme")));
    }
    vectors
}

fn read(path: &Path) -> File {
    serde_json::from_slice(&fs::read(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Vector {
    fn provider_spec(&self) -> Option<ProviderSpec> {
        catalogue::provider(&self.provider).map(|known| known.spec)
    }

    /// As a route names the scheme, or the mark where the route describes it.
    pub(crate) fn scheme_name(&self) -> String {
        match self.own {
            None => format!("{}:{}", self.provider, self.scheme),
            Some(_) => "custom".to_owned(),
        }
    }

    /// The scheme in a route: its last lines, because it may be a table.
    pub(crate) fn scheme_lines(&self) -> String {
        match &self.own {
            None => format!("scheme = \"{}\"\n", self.scheme_name()),
            Some((_, text)) => text.clone(),
        }
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.scheme_name(), self.id)
    }

    pub(crate) fn spec(&self) -> Option<SchemeSpec> {
        match &self.own {
            None => self.provider_spec()?.scheme.remove(&self.scheme),
            Some((spec, _)) => Some(spec.clone()),
        }
    }

    pub(crate) fn compiled(&self) -> Result<Scheme, String> {
        let spec = self.spec().ok_or("no such scheme")?;
        Scheme::compile(&self.scheme_name(), &spec, &self.params).map_err(|errors| {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            errors.join("; ")
        })
    }

    pub(crate) fn sent(&self) -> Sent {
        let request = &self.request;
        let body = match (&request.body, &request.body_base64) {
            (Some(body), _) => body.clone().into_bytes(),
            (None, Some(body)) => BASE64.decode(body.as_bytes()).unwrap(),
            (None, None) => Vec::new(),
        };
        let headers = request.headers.iter().cloned();
        Sent {
            method: request.method.clone(),
            target: request.target.clone(),
            url: self.public_url.clone(),
            headers: headers
                .map(|(name, value)| (name, value.into_bytes()))
                .collect(),
            body,
            now: self.now,
            secrets: self.secrets.iter().cloned().map(Vec::from).collect(),
            fetched: self.fetched.clone(),
        }
    }

    /// Whether a forgery of this vector may pass, and why. Everything else is refused.
    pub(crate) fn may_pass(&self, forgery: &Forgery) -> bool {
        // A changed key set may have changed beside the key.
        if forgery.what == "another key" {
            let mut secrets = self.secrets.iter();
            return secrets.all(|secret| secret.is_empty() || secret.starts_with('{'));
        }
        match self.scheme_name().as_str() {
            // Values of fields are signed, not the bytes around them.
            "twilio:form" | "mandrill:default" | "plivo:v3" | "adyen:standard" | "aws-sns:v1"
            | "aws-sns:v2" => forgery.what.contains("body"),
            // The document is signed in a form of its own, to which blanks do not belong.
            "inngest:default" => forgery.what.ends_with("behind the body"),
            _ => false,
        }
    }

    /// What is made of the request: each has to be refused, but for [`Self::may_pass`].
    pub(crate) fn forgeries(&self) -> Vec<Forgery> {
        let spec = self.spec().unwrap();
        let maker = Maker {
            sent: self.sent(),
            scheme: self.compiled().unwrap(),
            params: &self.params,
            spec: &spec,
            all: Vec::new(),
        };
        maker.forgeries()
    }
}

struct Maker<'v> {
    sent: Sent,
    scheme: Scheme,
    spec: &'v SchemeSpec,
    params: &'v BTreeMap<String, String>,
    all: Vec<Forgery>,
}

/// How a list header is written.
struct List {
    separator: String,
    assign: Option<String>,
    /// What items with a tag begin with; empty: any may be one.
    tags: Vec<String>,
}

const NOT_TIMES: [&str; 9] = [
    "",
    "now",
    "+1764000000",
    " 1764000000",
    "1764000000.0",
    "0x5",
    "-1",
    "99999999999999999999",
    "2025-11-24",
];

impl Maker<'_> {
    fn forgeries(mut self) -> Vec<Forgery> {
        self.tags();
        self.versions();
        self.jose();
        self.keys();
        self.body();
        self.clocks();
        self.headers();
        self.times_in_items();
        self.urls();
        self.all
    }

    fn add(&mut self, what: &'static str, sent: Sent) {
        self.all.push(Forgery { what, sent });
    }

    fn filled(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in self.params {
            text = text.replace(&format!("{{param:{name}}}"), value);
        }
        text
    }

    /// A header's name as the scheme's words have it: lower case, its other name undone.
    fn plain_name(&self, name: &str) -> String {
        let name = name.to_ascii_lowercase();
        let other = self.spec.renamed.iter();
        let mut undone = other.filter_map(|(own, other)| {
            name.strip_prefix(other.as_str())
                .map(|rest| [own, rest].concat())
        });
        undone.next().unwrap_or(name)
    }

    fn carries_signature(&self, name: &str) -> bool {
        let name = self.plain_name(name);
        let signature = &self.spec.signature;
        let mut patterns = signature.header.iter().chain(&signature.aliases);
        patterns.any(|pattern| {
            let pattern = self.filled(pattern).to_ascii_lowercase();
            match pattern.split_once("{n}") {
                None => name == pattern,
                Some((before, after)) => name
                    .strip_prefix(before)
                    .and_then(|rest| rest.strip_suffix(after))
                    .is_some_and(|n| n.parse::<u32>().is_ok()),
            }
        })
    }

    /// Places of the headers that carry a signature.
    fn signed(&self) -> Vec<usize> {
        let places = 0..self.sent.headers.len();
        places
            .filter(|at| self.carries_signature(&self.sent.headers[*at].0))
            .collect()
    }

    fn words(&self) -> Vec<&str> {
        match &self.spec.algorithm {
            Algorithms::Missing => Vec::new(),
            Algorithms::One(word) => vec![word],
            Algorithms::Any(words) => words.iter().map(String::as_str).collect(),
            Algorithms::Named(words) => words.values().map(String::as_str).collect(),
        }
    }

    fn is_token(&self) -> bool {
        self.words() == ["token"]
    }

    fn list(&self) -> Option<List> {
        let list = self.spec.signature.list.as_ref()?;
        let assign = list.assign.clone();
        let label = self.filled(list.tag.as_deref().unwrap_or_default());
        let end = assign.as_deref().unwrap_or_default();
        let tags = if let Algorithms::Named(words) = &self.spec.algorithm
            && label.contains("{algorithm}")
        {
            words
                .keys()
                .map(|word| label.replace("{algorithm}", word) + end)
                .collect()
        } else if label.is_empty() {
            vec![String::new()]
        } else {
            vec![label + end]
        };
        Some(List {
            separator: list.separator.clone().unwrap_or_default(),
            assign,
            tags,
        })
    }

    /// The request with the signature changed: where several are presented any good one is enough, so in all places at once.
    fn every(&self, change: impl Fn(&[u8]) -> Vec<u8>) -> Sent {
        let mut sent = self.sent.clone();
        for at in self.signed() {
            sent.headers[at].1 = change(&self.sent.headers[at].1);
        }
        sent
    }

    fn with_header(&self, at: usize, value: impl Into<Vec<u8>>) -> Sent {
        let mut sent = self.sent.clone();
        sent.headers[at].1 = value.into();
        sent
    }

    fn tags(&mut self) {
        let signed = self.signed();
        let Some(&first) = signed.first() else { return };
        let encoded_token = self.is_token() && self.spec.signature.encoding.is_some();
        let list = self.list();
        if list.is_none() && !encoded_token {
            for (what, sent) in [
                (
                    "junk behind the tag",
                    self.every(|tag| [tag, b"x"].concat()),
                ),
                (
                    "a zero behind the tag",
                    self.every(|tag| [tag, b"0"].concat()),
                ),
                (
                    "a blank behind the tag",
                    self.every(|tag| [tag, b" "].concat()),
                ),
                (
                    "the tag is cut",
                    self.every(|tag| tag[..tag.len() - 1].to_vec()),
                ),
                (
                    "half the tag",
                    self.every(|tag| tag[..tag.len() / 2].to_vec()),
                ),
                (
                    "the tag twice in one value",
                    self.every(|tag| [tag, b",", tag].concat()),
                ),
                (
                    "the tag twice without a comma",
                    self.every(|tag| [tag, tag].concat()),
                ),
                (
                    "one digit of the tag",
                    self.every(|tag| {
                        let mut tag = tag.to_vec();
                        let at = tag.len() * 3 / 4;
                        tag[at] = if tag[at] == b'1' { b'2' } else { b'1' };
                        tag
                    }),
                ),
            ] {
                self.add(what, sent);
            }
        }
        if let (Some(list), [_]) = (&list, &signed[..]) {
            let value = &self.sent.headers[first].1;
            // Items that the scheme does not know are left alone.
            let text = String::from_utf8_lossy(value);
            let last = text
                .rsplit(&list.separator)
                .next()
                .unwrap_or_default()
                .trim();
            let is_tag = list.tags.iter().any(|tag| last.starts_with(tag));
            let junk = [list.separator.as_bytes(), value].concat();
            let junk = self.with_header(first, [b"junk", &junk[..]].concat());
            if is_tag {
                let behind = self.with_header(first, [&value[..], b"x"].concat());
                self.add("junk behind the list", behind);
            }
            self.add("an item without a name", junk);
        }
        self.add("an empty signature", self.every(|_| Vec::new()));
        let mut without = self.sent.clone();
        let mut at = 0;
        without.headers.retain(|_| {
            at += 1;
            !signed.contains(&(at - 1))
        });
        self.add("no signature", without);
        if self.spec.signature.repeated != Some(true) {
            let mut twice = self.sent.clone();
            let again = signed.iter().map(|at| self.sent.headers[*at].clone());
            twice.headers.extend(again);
            self.add("the signature header twice", twice);
        }
        let next = |byte: &u8| match byte {
            b'0'..=b'8' | b'a'..=b'e' | b'A'..=b'Y' => byte + 1,
            b'9' => b'0',
            b'f' => b'a',
            _ => *byte,
        };
        let changed = self.every(|tag| tag.iter().map(next).collect());
        self.add("every digit changed", changed);
    }

    /// The tag under the name of another version or algorithm.
    fn versions(&mut self) {
        if self.signed().is_empty() {
            return;
        }
        if let Some(List {
            separator,
            assign: Some(assign),
            tags,
        }) = self.list()
        {
            let other = |label: &str| {
                self.every(|value| {
                    let text = String::from_utf8_lossy(value).into_owned();
                    let items = text.split(&separator).map(|item| {
                        let tag = tags
                            .iter()
                            .find(|tag| item.trim().starts_with(tag.as_str()));
                        match tag {
                            Some(tag) => {
                                item.replacen(tag.as_str(), &format!("{label}{assign}"), 1)
                            }
                            None => item.to_owned(),
                        }
                    });
                    items.collect::<Vec<_>>().join(&separator).into_bytes()
                })
            };
            let labels = ["v0", "v9", ""].into_iter();
            let foreign = labels.filter(|label| !tags.contains(&format!("{label}{assign}")));
            for sent in foreign.map(other).collect::<Vec<_>>() {
                self.add("another version", sent);
            }
        }
        let Some(prefix) = self
            .spec
            .signature
            .prefix
            .as_deref()
            .filter(|p| !p.is_empty())
        else {
            return;
        };
        let written: Vec<_> = if let Algorithms::Named(words) = &self.spec.algorithm {
            words
                .keys()
                .map(|word| prefix.replace("{algorithm}", word))
                .collect()
        } else {
            vec![self.filled(prefix)]
        };
        let other = |label: &str| {
            self.every(|value| {
                let prefix = written
                    .iter()
                    .filter(|prefix| value.starts_with(prefix.as_bytes()))
                    .max_by_key(|prefix| prefix.len());
                let bare = &value[prefix.map_or(0, String::len)..];
                [label.as_bytes(), bare].concat()
            })
        };
        let mut sent: Vec<_> = ["", "sha1=", "sha512=", "md5=", "v9=", "HMAC-SHA1 "]
            .iter()
            .filter(|label| !written.iter().any(|own| own == *label))
            .map(|label| ("another prefix", other(label)))
            .collect();
        if written.len() > 1 {
            // One of these is the sender's own.
            let named = written
                .iter()
                .map(|label| ("another algorithm", other(label)));
            sent.extend(named.filter(|(_, sent)| sent.headers != self.sent.headers));
        }
        for (what, sent) in sent {
            self.add(what, sent);
        }
    }

    /// A JWT or JWS whose header names another algorithm, or none.
    fn jose(&mut self) {
        if !self.words().iter().any(|word| word.starts_with("jw")) {
            return;
        }
        let forged = |token: &[u8], name: &str, signed: bool| -> Option<Vec<u8>> {
            let text = std::str::from_utf8(token).ok()?;
            let (before, token) = text.rsplit_once(' ').map_or(("", text), |(a, b)| (a, b));
            let [header, payload, tag] = token.split('.').collect::<Vec<_>>()[..] else {
                return None;
            };
            let header = BASE64URL_NOPAD.decode(header.as_bytes()).ok()?;
            let mut header: BTreeMap<String, serde_json::Value> =
                serde_json::from_slice(&header).ok()?;
            if header.insert("alg".into(), name.into()) == Some(name.into()) {
                return None;
            }
            let header = BASE64URL_NOPAD.encode(&serde_json::to_vec(&header).ok()?);
            let tag = if signed { tag } else { "" };
            let blank = if before.is_empty() { "" } else { " " };
            Some(format!("{before}{blank}{header}.{payload}.{tag}").into_bytes())
        };
        for (name, signed) in [
            ("none", false),
            ("none", true),
            ("HS256", true),
            ("HS384", true),
            ("RS256", true),
            ("ES256", true),
        ] {
            let mut sent = self.sent.clone();
            for at in self.signed() {
                if let Some(value) = forged(&self.sent.headers[at].1, name, signed) {
                    sent.headers[at].1 = value;
                }
            }
            if self.spec.signature.body == Some(true)
                && let Some(body) = forged(&self.sent.body, name, signed)
            {
                sent.body = body;
            }
            if sent.headers != self.sent.headers || sent.body != self.sent.body {
                self.add("another algorithm", sent);
            }
        }
    }

    fn keys(&mut self) {
        let wrong = |secret: &Vec<u8>| {
            let mut secret = secret.clone();
            // In the middle, where every encoding means something by it.
            let at = secret.len() / 2;
            secret[at] = match secret[at] {
                b'A' | b'a' | b'1' => secret[at] + 1,
                byte if byte.is_ascii_lowercase() => b'a',
                byte if byte.is_ascii_uppercase() => b'A',
                _ => b'1',
            };
            secret
        };
        let sent = Sent {
            secrets: self.sent.secrets.iter().map(wrong).collect(),
            ..self.sent.clone()
        };
        self.add("another key", sent);
    }

    fn body(&mut self) {
        if !self.scheme.covers_body() {
            return;
        }
        let body = self.sent.body.clone();
        let with = |body: Vec<u8>| Sent {
            body,
            ..self.sent.clone()
        };
        let mut made = vec![
            ("a byte behind the body", with([&body[..], b" "].concat())),
            (
                "a line end behind the body",
                with([&body[..], b"\n"].concat()),
            ),
        ];
        for at in [0, body.len() / 2, body.len().saturating_sub(1)] {
            if at < body.len() {
                let mut body = body.clone();
                body[at] ^= 1;
                made.push(("a bit of the body", with(body)));
            }
        }
        if !body.is_empty() {
            made.push(("no body", with(Vec::new())));
        }
        for (what, sent) in made {
            self.add(what, sent);
        }
    }

    fn clocks(&mut self) {
        let Some(tolerance) = self.scheme.tolerance() else {
            return;
        };
        let far = i64::try_from(tolerance.as_secs()).unwrap() + 5;
        let claim = self
            .spec
            .timestamp
            .as_ref()
            .and_then(|time| time.claim.as_deref());
        let is_end = claim == Some("exp");
        let at = |now| Sent {
            now,
            ..self.sent.clone()
        };
        let now = self.sent.now;
        let ahead = at(now + far + if is_end { 100_000 } else { 0 });
        if !is_end {
            let behind = at(now - 2 * far - 5);
            self.add("a clock behind", behind);
        }
        self.add("a clock ahead", ahead);
    }

    /// Every signed header: missing, empty, changed, twice.
    fn headers(&mut self) {
        let whole = || "{body}".to_owned();
        let contents = match &self.spec.content.0[..] {
            [] => vec![whole()],
            contents => contents
                .iter()
                .map(|content| self.filled(content))
                .collect(),
        };
        let tokens: Vec<String> = contents
            .iter()
            .flat_map(|content| content.split('{').skip(1))
            .filter_map(|rest| rest.split(['}', '|']).next())
            .map(str::to_ascii_lowercase)
            .collect();
        let time = self
            .spec
            .timestamp
            .as_ref()
            .and_then(|time| time.header.as_deref());
        let id = self.spec.id.as_ref().and_then(|id| id.header.as_deref());
        let named = |place: Option<&str>| place.map(|name| self.filled(name).to_ascii_lowercase());
        let (time, id) = (named(time), named(id));
        let has = |token: &str| tokens.iter().any(|known| known == token);
        let mut made = Vec::new();
        for at in 0..self.sent.headers.len() {
            let (name, value) = &self.sent.headers[at];
            let name = self.plain_name(name);
            let covered = has(&format!("header:{name}"))
                || has(&format!("header:{name}?"))
                || has(&format!("?header:{name}"))
                || time.as_ref() == Some(&name) && has("timestamp")
                || id.as_ref() == Some(&name) && has("id");
            if !covered || self.carries_signature(&name) {
                continue;
            }
            let mut without = self.sent.clone();
            without.headers.remove(at);
            made.push(("a signed header is missing", without));
            // Where only its presence counts, an empty one is none.
            if !has(&format!("?header:{name}")) {
                made.push(("a signed header is empty", self.with_header(at, "")));
            }
            let mut twice = self.sent.clone();
            twice.headers.push(self.sent.headers[at].clone());
            made.push(("a signed header twice", twice));
            let mut changed = value.clone();
            let last = changed.len() - 1;
            changed[last] = if changed[last] == b'1' { b'2' } else { b'1' };
            made.push(("a signed header is changed", self.with_header(at, changed)));
            if time.as_ref() == Some(&name) {
                let times = NOT_TIMES.iter();
                made.extend(times.map(|text| ("a time that is none", self.with_header(at, *text))));
            }
        }
        for (what, sent) in made {
            self.add(what, sent);
        }
    }

    /// A time that stands as a named item in the signature's list.
    fn times_in_items(&mut self) {
        let item = self
            .spec
            .timestamp
            .as_ref()
            .and_then(|time| time.item.as_deref());
        let (
            Some(item),
            Some(List {
                separator,
                assign: Some(assign),
                ..
            }),
        ) = (item, self.list())
        else {
            return;
        };
        let name = format!("{item}{assign}");
        let list = self.spec.signature.list.as_ref();
        let groups = list.and_then(|list| list.groups.clone());
        let with = |change: &dyn Fn(&str) -> Option<String>| {
            let in_group = |group: &str| {
                let items = group.split(&separator);
                let items = items.filter_map(|item| match item.trim().strip_prefix(&name) {
                    Some(time) => change(time).map(|time| [&name, &*time].concat()),
                    None => Some(item.to_owned()),
                });
                items.collect::<Vec<_>>().join(&separator)
            };
            self.every(|value| {
                let text = String::from_utf8_lossy(value);
                let changed = match &groups {
                    Some(between) => {
                        let groups = text.split(between.as_str()).map(in_group);
                        groups.collect::<Vec<_>>().join(between)
                    }
                    None => in_group(&text),
                };
                changed.into_bytes()
            })
        };
        let mut made: Vec<_> = NOT_TIMES
            .iter()
            // Blanks around an item do not count, but one inside would be left at the end of the value.
            .filter(|text| !text.starts_with(' '))
            .map(|text| ("a time that is none", with(&|_| Some((*text).to_owned()))))
            .collect();
        made.push(("no time", with(&|_| None)));
        made.push((
            "another time",
            with(&|time| {
                let digit = if time.ends_with('1') { '2' } else { '1' };
                Some(format!("{}{digit}", &time[..time.len() - 1]))
            }),
        ));
        for (what, sent) in made {
            self.add(what, sent);
        }
    }

    fn urls(&mut self) {
        if !self.scheme.signs_url() {
            return;
        }
        let Some(url) = &self.sent.url else { return };
        let with = |url: String| Sent {
            url: Some(url),
            ..self.sent.clone()
        };
        let (another, http) = (
            with(url.replacen("://", "://x", 1)),
            with(url.replacen("https", "http", 1)),
        );
        self.add("another URL", another);
        self.add("http for https", http);
    }
}
