//! Templates: text with places of the request in it, as the signed content and required values are written.

use std::{collections::BTreeMap, fmt};

use http::HeaderName;

use super::{canonical::Canonical, json::Pointer, mac::HmacAlgorithm};

/// A part of a request that has a name of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A header.
    Header(HeaderName),
    /// A query parameter.
    Query(Box<str>),
    /// A field of a form.
    Form(Box<str>),
    /// A value of the JSON document.
    Json(Pointer),
    /// An item of the signature's list.
    Item(Box<str>),
    /// A claim of the token.
    Claim(Box<str>),
    /// A member of the signature's own header.
    Protected(Box<str>),
    /// The whole body.
    Body,
}

impl Place {
    /// Whether the head alone is enough to read it. Items and claims stand where the signature stands.
    pub(super) fn in_head(&self, signature_in_head: bool) -> bool {
        match self {
            Self::Header(_) | Self::Query(_) => true,
            Self::Form(_) | Self::Json(_) | Self::Body => false,
            Self::Item(_) | Self::Claim(_) | Self::Protected(_) => signature_in_head,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header `{name}`"),
            Self::Query(name) => write!(f, "query parameter `{name}`"),
            Self::Form(name) => write!(f, "form field `{name}`"),
            Self::Json(pointer) => write!(f, "JSON value `{pointer}`"),
            Self::Item(name) => write!(f, "item `{name}` of the signature"),
            Self::Claim(name) => write!(f, "claim `{name}`"),
            Self::Protected(name) => write!(f, "member `{name}` of the signature's header"),
            Self::Body => f.write_str("the body"),
        }
    }
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Place(Place),
    Timestamp,
    Id,
    Method,
    Target,
    Path,
    Url,
    Query,
    Form,
    Secret,
    Protected,
    Canonical(Canonical),
    /// What the operator wrote, in a place where it is filtered.
    Text(Box<[u8]>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Lower,
    Sha1,
    Sha256,
    Sha512,
    Hex,
    Base64,
    Base64Url,
    Base64UrlNoPad,
    Crc32,
    JsonString,
    Jcs,
    Gunzip,
    Sorted,
    WithoutQuery,
    DefaultPort,
    Unescaped,
    /// With the key of the request: for the answers of handshakes.
    Hmac(HmacAlgorithm),
}

const FILTERS: [(&str, Filter); 18] = [
    ("lower", Filter::Lower),
    ("sha1", Filter::Sha1),
    ("sha256", Filter::Sha256),
    ("sha512", Filter::Sha512),
    ("hex", Filter::Hex),
    ("base64", Filter::Base64),
    ("base64url", Filter::Base64Url),
    ("base64url-nopad", Filter::Base64UrlNoPad),
    ("crc32", Filter::Crc32),
    ("json-string", Filter::JsonString),
    ("jcs", Filter::Jcs),
    ("gunzip", Filter::Gunzip),
    ("sorted", Filter::Sorted),
    ("without-query", Filter::WithoutQuery),
    ("default-port", Filter::DefaultPort),
    ("unescaped", Filter::Unescaped),
    ("hmac-sha1", Filter::Hmac(HmacAlgorithm::Sha1)),
    ("hmac-sha256", Filter::Hmac(HmacAlgorithm::Sha256)),
];

/// A token with what is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) source: Source,
    pub(super) filters: Box<[Filter]>,
    /// May be missing, and is then nothing.
    pub(super) optional: bool,
    /// May hold the separator that follows it.
    pub(super) loose: bool,
}

/// One part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(Box<[u8]>),
    Token(Token),
    /// Kept only if that place is there.
    Section(Place, Box<[Part]>),
}

/// A template, ready to be filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) parts: Vec<Part>,
}

/// What is wrong with a template, and what would be right.
pub(super) struct TemplateFault {
    pub(super) message: String,
    pub(super) help: String,
}

fn fault<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, TemplateFault> {
    Err(TemplateFault {
        message: message.into(),
        help: help.into(),
    })
}

/// Where `{param:NAME}` comes from, and which of them were asked for.
pub(super) struct Params<'p> {
    pub(super) given: &'p BTreeMap<String, String>,
    pub(super) used: Vec<String>,
    pub(super) missing: Vec<String>,
}

impl Params<'_> {
    /// The value; `None`, and noted, if it is not given. With `?` behind the name it may be missing, and is then empty.
    pub(super) fn take(&mut self, written: &str) -> Option<String> {
        let (name, optional) = match written.strip_suffix('?') {
            Some(name) => (name, true),
            None => (written, false),
        };
        if !self.used.iter().any(|used| used == name) {
            self.used.push(name.to_owned());
        }
        match self.given.get(name) {
            Some(value) => Some(value.clone()),
            None if optional => Some(String::new()),
            None => {
                if !self.missing.iter().any(|missing| missing == name) {
                    self.missing.push(name.to_owned());
                }
                None
            }
        }
    }

    /// Fills `{param:NAME}` into a plain text: the name of a header, a prefix, an item's name.
    pub(super) fn fill(&mut self, text: &str) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("{param:") {
            let (before, tail) = rest.split_at(at);
            let Some(end) = tail.find('}') else { break };
            out.push_str(before);
            out.push_str(&self.take(&tail["{param:".len()..end])?);
            rest = &tail[end + 1..];
        }
        out.push_str(rest);
        Some(out)
    }
}

/// Reads a place as it stands in a token or in `require`: `header:x-time`, `json:/a/b`.
pub(super) fn place(written: &str, params: &mut Params<'_>) -> Result<Place, TemplateFault> {
    let help = "write `header:NAME`, `query:NAME`, `form:NAME`, `json:/POINTER`, `item:NAME`, `claim:NAME` or `protected:NAME`";
    let Some((kind, name)) = written.split_once(':') else {
        return fault(format!("`{written}` is not a place in a request"), help);
    };
    let Some(name) = params.fill(name) else {
        // The missing parameter is a fault of its own.
        return Ok(Place::Query(name.into()));
    };
    if name.is_empty() && kind != "json" {
        return fault(format!("`{written}` names nothing"), help);
    }
    Ok(match kind {
        "header" => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Place::Header(name),
            Err(_) => {
                return fault(
                    format!("`{name}` is not a header name"),
                    "use letters, digits and `-`, such as `x-signature`",
                );
            }
        },
        "query" => Place::Query(name.into()),
        "form" => Place::Form(name.into()),
        "json" => match Pointer::parse(&name) {
            Some(pointer) => Place::Json(pointer),
            None => {
                return fault(
                    format!("`{name}` is not a JSON pointer"),
                    "begin it with `/`, as in `/data/id`; at most one `*`",
                );
            }
        },
        "item" => Place::Item(name.into()),
        "claim" => Place::Claim(name.into()),
        "protected" => Place::Protected(name.into()),
        _ => return fault(format!("`{written}` is not a place in a request"), help),
    })
}

const SOURCES: [(&str, Source); 11] = [
    ("body", Source::Place(Place::Body)),
    ("timestamp", Source::Timestamp),
    ("id", Source::Id),
    ("method", Source::Method),
    ("target", Source::Target),
    ("path", Source::Path),
    ("url", Source::Url),
    ("query", Source::Query),
    ("form", Source::Form),
    ("secret", Source::Secret),
    ("protected", Source::Protected),
];

impl Template {
    /// Reads a template and fills in its parameters.
    pub(super) fn parse(text: &str, params: &mut Params<'_>) -> Result<Self, TemplateFault> {
        let mut done: Vec<Part> = Vec::new();
        let mut open: Option<(Place, Vec<Part>)> = None;
        let mut literal = Vec::new();
        let mut rest = text;
        loop {
            let at = rest.find(['{', '}']).unwrap_or(rest.len());
            let (plain, tail) = rest.split_at(at);
            literal.extend_from_slice(plain.as_bytes());
            if let Some(after) = tail.strip_prefix("{{") {
                literal.push(b'{');
                rest = after;
                continue;
            }
            if let Some(after) = tail.strip_prefix("}}") {
                literal.push(b'}');
                rest = after;
                continue;
            }
            if tail.starts_with('}') {
                return fault(
                    "a `}` stands alone",
                    "write `}}` for a brace that is signed",
                );
            }
            let token = match tail.strip_prefix('{') {
                None => None,
                Some(inner) => match inner.find('}') {
                    None => {
                        return fault(
                            "a `{` is never closed",
                            "close it, as in `{timestamp}.{body}`, or write `{{` for a brace that is signed",
                        );
                    }
                    Some(end) => Some((&inner[..end], &inner[end + 1..])),
                },
            };
            let list = match &mut open {
                Some((_, parts)) => parts,
                None => &mut done,
            };
            if let Some((written, after)) = token
                && let Some(name) = written.strip_prefix("param:")
                && !name.contains('|')
            {
                // A parameter is text like any other.
                literal.extend_from_slice(params.take(name).unwrap_or_default().as_bytes());
                rest = after;
                continue;
            }
            if !literal.is_empty() {
                list.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            let Some((written, after)) = token else { break };
            rest = after;
            match written.strip_prefix('?') {
                Some(condition) => {
                    if open.is_some() {
                        return fault(
                            "a section stands in another one",
                            "close it with `{/?}` first",
                        );
                    }
                    let place = if condition == "body" {
                        Place::Body
                    } else {
                        place(condition, params)?
                    };
                    open = Some((place, Vec::new()));
                }
                None if written == "/?" => match open.take() {
                    Some((place, parts)) => done.push(Part::Section(place, parts.into())),
                    None => {
                        return fault(
                            "`{/?}` closes nothing",
                            "open the section with `{?header:NAME}`",
                        );
                    }
                },
                None => list.push(Part::Token(token_of(written, params)?)),
            }
        }
        if open.is_some() {
            return fault("a section is never closed", "close it with `{/?}`");
        }
        Ok(Self { parts: done })
    }

    /// Every token, those in sections too.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.parts
            .iter()
            .flat_map(|part| match part {
                Part::Text(_) => &[][..],
                Part::Token(_) => std::slice::from_ref(part),
                Part::Section(_, parts) => parts,
            })
            .filter_map(|part| match part {
                Part::Token(token) => Some(token),
                Part::Text(_) | Part::Section(..) => None,
            })
    }

    /// The HMAC that it makes with the key, if it does.
    pub(super) fn hmac(&self) -> Option<HmacAlgorithm> {
        self.tokens()
            .flat_map(|token| &token.filters)
            .find_map(|filter| {
                let Filter::Hmac(algorithm) = filter else {
                    return None;
                };
                Some(*algorithm)
            })
    }

    /// Every place that it reads or asks for.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        let sections = self.parts.iter().filter_map(|part| match part {
            Part::Section(place, _) => Some(place),
            Part::Text(_) | Part::Token(_) => None,
        });
        self.tokens()
            .filter_map(|token| match &token.source {
                Source::Place(place) => Some(place),
                Source::Timestamp
                | Source::Id
                | Source::Method
                | Source::Target
                | Source::Path
                | Source::Url
                | Source::Query
                | Source::Form
                | Source::Secret
                | Source::Protected
                | Source::Canonical(_)
                | Source::Text(_) => None,
            })
            .chain(sections)
    }
}

fn token_of(written: &str, params: &mut Params<'_>) -> Result<Token, TemplateFault> {
    let mut words = written.split('|');
    let name = words.next().unwrap_or_default();
    let (name, optional) = match name.strip_suffix('?') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let source = if let Some((_, source)) = SOURCES.iter().find(|(known, _)| *known == name) {
        source.clone()
    } else if let Some(canonical) = name.strip_prefix("canonical:") {
        match Canonical::named(canonical) {
            Some(canonical) => Source::Canonical(canonical),
            None => {
                return fault(
                    format!("there is no form named `{canonical}`"),
                    format!("one of {}", Canonical::names()),
                );
            }
        }
    } else if let Some(param) = name.strip_prefix("param:") {
        let param = if optional {
            format!("{param}?")
        } else {
            param.to_owned()
        };
        Source::Text(params.take(&param).unwrap_or_default().into_bytes().into())
    } else if name.contains(':') {
        Source::Place(place(name, params)?)
    } else {
        let names: Vec<_> = SOURCES
            .iter()
            .map(|(known, _)| format!("`{{{known}}}`"))
            .collect();
        return fault(
            format!("`{{{name}}}` is not a part of the request that can be signed"),
            format!(
                "one of {}, or a place such as `{{header:NAME}}`",
                names.join(", ")
            ),
        );
    };
    let mut filters = Vec::new();
    let mut loose = false;
    for word in words {
        if word == "loose" {
            loose = true;
            continue;
        }
        match FILTERS.iter().find(|(known, _)| *known == word) {
            Some((_, filter)) => filters.push(*filter),
            None => {
                let names: Vec<_> = FILTERS
                    .iter()
                    .map(|(known, _)| format!("`{known}`"))
                    .collect();
                return fault(
                    format!("`{word}` is not a filter"),
                    format!("one of {}, `loose`", names.join(", ")),
                );
            }
        }
    }
    let needs =
        |filter: Filter, allowed: bool| (filters.contains(&filter) && !allowed).then_some(filter);
    let wrong = needs(Filter::WithoutQuery, source == Source::Url)
        .or(needs(Filter::DefaultPort, source == Source::Url))
        .or(needs(Filter::Unescaped, source == Source::Url))
        .or(needs(
            Filter::Sorted,
            matches!(source, Source::Query | Source::Form),
        ));
    if let Some(filter) = wrong {
        let word = FILTERS
            .iter()
            .find(|(_, known)| *known == filter)
            .map_or("", |(word, _)| word);
        return fault(
            format!("`{word}` cannot be applied to `{{{name}}}`"),
            "see the filters in docs/schemes.md",
        );
    }
    if matches!(source, Source::Query | Source::Form) && filters.first() != Some(&Filter::Sorted) {
        return fault(
            format!("`{{{name}}}` stands without a filter"),
            format!("write `{{{name}|sorted}}`"),
        );
    }
    Ok(Token {
        source,
        filters: filters.into(),
        optional,
        loose,
    })
}
