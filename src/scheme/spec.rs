//! A scheme as it is written: the same words in `config/providers/*.toml` and in an operator's `[route.scheme]`.
//!
//! Each word stands in `docs/schemes.md`, the keys with an example; a test sees to it. [`Scheme::compile`](super::Scheme::compile)
//! gives them meaning.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

/// How a sender signs, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct SchemeSpec {
    /// `current`, `optional`, `legacy` or `deprecated`; left out: `current`.
    pub status: Option<String>,
    /// What an operator should know of this scheme.
    pub notes: Vec<String>,
    /// What makes the tag. A list or a table where the sender names one of several.
    pub algorithm: Algorithms,
    /// Where the signature, or the token, stands in the request.
    pub signature: SignatureSpec,
    /// Template of the signed content; left out: `{body}`. A list: each is tried.
    pub content: OneOrMore,
    /// The signed time.
    pub timestamp: Option<TimestampSpec>,
    /// What tells one delivery from another.
    pub id: Option<IdSpec>,
    /// How what the operator pastes becomes a key.
    pub secret: Option<SecretSpec>,
    /// What must stand in the request besides: place and template.
    pub require: BTreeMap<String, OneOrMore>,
    /// Where the JSON document is: `multipart:FIELD` or `form:FIELD`; left out: it is the body.
    pub document: Option<String>,
    /// A form field that comes more than once: left out, refused; `last`: its last value counts.
    pub repeated_fields: Option<String>,
    /// All headers of the scheme together may have other names: beginning, and the one that stands for it.
    pub renamed: BTreeMap<String, String>,
    /// Where public keys are fetched from; left out: the route's secrets are the keys.
    pub fetch: Option<FetchSpec>,
    /// Requests that want an answer of a certain form. A provider's file has them for all of its schemes.
    pub handshake: Vec<HandshakeSpec>,
}

/// Where the signature stands and how it is written. Exactly one of the places.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct SignatureSpec {
    /// Name of a header. `{n}` in it counts from 1; `{param:NAME}` comes from the route's `params`.
    pub header: Option<String>,
    /// Name of a query parameter.
    pub query: Option<String>,
    /// Name of a form field.
    pub form: Option<String>,
    /// JSON pointer; `*` is each item of an array.
    pub json: Option<String>,
    /// `true`: the whole body is the signature (a JWT).
    pub body: Option<bool>,
    /// Further headers that may carry a signature.
    pub aliases: Vec<String>,
    /// The header may come more than once, each with a signature.
    pub repeated: Option<bool>,
    /// Text that must stand before it, such as `sha256=`; `{algorithm}` stands for its name.
    pub prefix: Option<String>,
    /// `hex`, `base64`, `base64url`, `base64url-nopad` or `structured`.
    pub encoding: Option<String>,
    /// The value is a list of items.
    pub list: Option<ListSpec>,
}

/// A value that holds several items.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct ListSpec {
    /// What stands between items. Blanks around an item do not count.
    pub separator: Option<String>,
    /// What stands between an item's name and its value; left out: items have no names.
    pub assign: Option<String>,
    /// The name of items that hold a tag.
    pub tag: Option<String>,
    /// More than one tag may come; one good one is enough.
    pub several: Option<bool>,
    /// Names in the order in which the sender writes them; left out: what is read, then the tag. For signing alone.
    pub order: Vec<String>,
    /// What stands between several such lists in one value, one for each key.
    pub groups: Option<String>,
}

/// The time that the signature covers. Exactly one of the places.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct TimestampSpec {
    /// Name of a header.
    pub header: Option<String>,
    /// Name of a query parameter.
    pub query: Option<String>,
    /// Name of a form field.
    pub form: Option<String>,
    /// JSON pointer.
    pub json: Option<String>,
    /// Name of an item of the signature's list, or its place from 0 where items have no names.
    pub item: Option<String>,
    /// Name of a claim of the token.
    pub claim: Option<String>,
    /// `s`, `ms`, `s-or-ms` or `rfc3339`; left out: `s`.
    pub unit: Option<String>,
    /// Allowed difference from our clock, both ways, such as `5m`; left out: `5m`.
    pub tolerance: Option<String>,
}

/// What tells one delivery from another. Exactly one of the places.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct IdSpec {
    /// Name of a header.
    pub header: Option<String>,
    /// Name of a query parameter.
    pub query: Option<String>,
    /// Name of a form field.
    pub form: Option<String>,
    /// JSON pointer.
    pub json: Option<String>,
    /// Name of an item of the signature's list.
    pub item: Option<String>,
    /// Name of a claim of the token.
    pub claim: Option<String>,
}

/// How what the operator pastes becomes a key. The steps apply in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct SecretSpec {
    /// Text that is taken off where it stands in front; `*` is letters, digits and `_`.
    pub prefix: Option<String>,
    /// `text`, `nfkd`, `hex` or `base64`; for public keys also `document`.
    pub decode: Option<String>,
    /// Text around the secret: `{param:NAME}&{secret}`.
    pub template: Option<String>,
    /// The key is this hash of it, raw: `sha1`, `sha256` or `sha512`.
    pub digest: Option<String>,
    /// `true`: the sender uses a key of its API, so nobody is warned that it looks like one.
    pub api_key: Option<bool>,
}

/// Where public keys are fetched from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct FetchSpec {
    /// Template of the address: fixed, with a key id in it, or taken from the request.
    pub url: Option<String>,
    /// Hosts that an address from the request may have; `*` is one or more labels.
    pub hosts: Vec<String>,
    /// Pattern of the address's path, where the request says it; `*` is any text.
    pub path: Option<String>,
    /// Where in the answer, a JSON document, the key is; left out: the answer is the key document.
    pub pointer: Option<String>,
    /// Template of a JSON body: the address is asked by POST.
    pub post: Option<String>,
    /// Headers to send along: templates.
    pub headers: BTreeMap<String, String>,
    /// The key is a certificate: it has to be valid, for this name, and signed by an authority that the system trusts.
    pub certificate: Option<String>,
}

/// What makes the tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Algorithms {
    /// Not written.
    #[default]
    Missing,
    /// This one.
    One(String),
    /// Any of these: the token's own header says which.
    Any(Vec<String>),
    /// By the word that the sender writes at `{algorithm}`.
    Named(BTreeMap<String, String>),
}

impl<'de> Deserialize<'de> for Algorithms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Algorithms;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an algorithm, a list of them, or a table of names")
            }
            fn visit_str<E>(self, word: &str) -> Result<Algorithms, E> {
                Ok(Algorithms::One(word.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Algorithms, A::Error> {
                strings(list).map(Algorithms::Any)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Algorithms, A::Error> {
                let mut named = BTreeMap::new();
                while let Some((name, word)) = map.next_entry()? {
                    named.insert(name, word);
                }
                Ok(Algorithms::Named(named))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// One template, or a list of alternatives. Empty: not written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OneOrMore(pub Vec<String>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = OneOrMore;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a template or a list of templates")
            }
            fn visit_str<E>(self, template: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![template.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<OneOrMore, A::Error> {
                let templates = strings(list)?;
                if templates.is_empty() {
                    return Err(de::Error::invalid_length(0, &self));
                }
                Ok(OneOrMore(templates))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

fn strings<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Vec<String>, A::Error> {
    let mut strings = Vec::new();
    while let Some(text) = list.next_element_seed(PhantomData)? {
        strings.push(text);
    }
    Ok(strings)
}

/// One file under `config/providers/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSpec {
    /// The provider's own name.
    pub name: String,
    /// What it does for its customers, in one word or two, such as `payments`.
    pub category: Option<String>,
    /// Pages that describe how it signs.
    pub docs: Vec<String>,
    /// The day someone last compared this file with them, `YYYY-MM-DD`.
    pub checked: String,
    /// How it is known: `source`, `docs` or `third-party`.
    pub evidence: String,
    /// What an operator should know before relying on it.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The scheme that the bare provider id means; left out: the one named `default`, or the only one.
    pub default: Option<String>,
    /// Its schemes by name.
    pub scheme: BTreeMap<String, SchemeSpec>,
    /// Requests that want an answer of a certain form instead of a delivery.
    #[serde(default)]
    pub handshake: Vec<HandshakeSpec>,
}

impl ProviderSpec {
    /// Name of the scheme that the bare provider id means.
    pub fn default_scheme(&self) -> &str {
        match &self.default {
            Some(name) => name,
            None if self.scheme.len() == 1 => {
                self.scheme.keys().next().map_or("default", |name| name)
            }
            None => "default",
        }
    }
}

/// A request that wants an answer of a certain form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct HandshakeSpec {
    /// `echo-query`, `echo-header`, `json-challenge`, `json-fixed`, `hmac-challenge`, `head-ok`, `get-ok`, `options-origin`,
    /// `confirm-get`, `secret-handshake`, `ping` or `probe-good-bad`.
    pub kind: String,
    /// Schemes of the file that it belongs to; left out: all.
    pub schemes: Vec<String>,
    /// Methods that it comes by; left out: `POST`.
    pub methods: Vec<String>,
    /// When to answer: place and template, or `*` for any value but none. All must hold.
    pub when: BTreeMap<String, OneOrMore>,
    /// Whether the request is signed: then it has to verify first.
    pub signed: bool,
    /// Template of the answer's body.
    pub answer: Option<String>,
    /// Its status; left out: 200.
    pub status: Option<u16>,
    /// Status where `when` holds in part: the place is there, the value is another.
    pub else_status: Option<u16>,
    /// Its media type; left out: `text/plain`.
    pub content_type: Option<String>,
    /// Its further headers: templates.
    pub headers: BTreeMap<String, String>,
    /// Template of the address to get, for `confirm-get`.
    pub confirm: Option<String>,
    /// Hosts that the address may have.
    pub hosts: Vec<String>,
    /// Where the secret is, for `secret-handshake`: a place, such as `header:X-Hook-Secret`.
    pub secret: Option<String>,
    /// What a value has to look like to come back in the answer.
    pub challenge: Option<ChallengeSpec>,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// What a value has to look like to come back in an answer, or to be signed for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct ChallengeSpec {
    /// `hex`, `uuid`, `token` or `text`; left out: `token` for `hmac-challenge`, else `text`.
    pub alphabet: Option<String>,
    /// The least and the most characters.
    pub length: Vec<usize>,
}
