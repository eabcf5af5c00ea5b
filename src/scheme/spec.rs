//! A scheme as it is written: the same words in `config/providers/*.toml` and in an operator's `[route.scheme]`.

use serde::Deserialize;

/// How a sender signs, as text. [`Scheme::compile`](super::Scheme::compile) gives it meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemeSpec {
    /// `hmac-sha1`, `hmac-sha256`, `hmac-sha384`, `hmac-sha512` or `token`.
    pub algorithm: String,
    /// Where the signature, or the token, stands in the request.
    pub signature: SignatureSpec,
    /// Template of the signed content; left out: `{body}`. Not for `token`.
    pub content: Option<String>,
    /// The signed time. Needed exactly when the content holds `{timestamp}`.
    pub timestamp: Option<TimestampSpec>,
}

/// Where the signature stands and how it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureSpec {
    /// Name of the one header that carries it. `{param:NAME}` takes the name from the route's `params`.
    pub header: String,
    /// Text that must stand before it, such as `sha256=`; left out: nothing.
    pub prefix: Option<String>,
    /// `hex` (either case), `base64`, `base64url` or `base64url-nopad`. Required for HMACs, not for `token`.
    pub encoding: Option<String>,
}

/// The time that the signature covers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestampSpec {
    /// Name of the header that carries it.
    pub header: String,
    /// `s`, `ms` or `rfc3339`; left out: `s`.
    pub unit: Option<String>,
    /// Allowed difference from our clock, both ways, such as `5m`; left out: `5m`.
    pub tolerance: Option<String>,
}

/// One file under `config/providers/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSpec {
    /// The provider's own name.
    pub name: String,
    /// Pages that describe how it signs.
    pub docs: Vec<String>,
    /// The day someone last compared this file with them, `YYYY-MM-DD`.
    pub checked: String,
    /// How it is known: `source`, `docs` or `third-party`.
    pub evidence: String,
    /// What an operator should know before relying on it.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Its schemes by name. `default` is the one that the bare provider id means.
    pub scheme: std::collections::BTreeMap<String, SchemeSpec>,
}
