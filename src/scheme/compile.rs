//! From words to a plan: reads a [`SchemeSpec`] and says everything that is wrong with it.

use std::{collections::BTreeMap, fmt, time::Duration};

use http::HeaderName;

use super::{
    Encoding, Piece, Plan, Scheme, SignaturePlan, TimeUnit, TimestampPlan, mac,
    spec::{Algorithms, SchemeSpec, SignatureSpec, TimestampSpec},
};

/// Tolerance of a scheme that signs a time and names none.
const TOLERANCE_DEFAULT: Duration = Duration::from_secs(300);

const ENCODINGS: [(&str, Encoding); 4] = [
    ("hex", Encoding::Hex),
    ("base64", Encoding::Base64),
    ("base64url", Encoding::Base64Url),
    ("base64url-nopad", Encoding::Base64UrlNoPad),
];

const UNITS: [(&str, TimeUnit); 3] = [
    ("s", TimeUnit::Seconds),
    ("ms", TimeUnit::Milliseconds),
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
struct Compiler<'a> {
    params: &'a BTreeMap<String, String>,
    params_used: Vec<String>,
    errors: Vec<SpecError>,
}

pub(super) fn compile(
    name: &str,
    spec: &SchemeSpec,
    params: &BTreeMap<String, String>,
) -> Result<Scheme, Vec<SpecError>> {
    let mut compiler = Compiler {
        params,
        params_used: Vec::new(),
        errors: Vec::new(),
    };
    let plan = compiler.plan(spec);
    for unused in params
        .keys()
        .filter(|key| !compiler.params_used.contains(key))
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
            plan,
        }),
        _ => Err(compiler.errors),
    }
}

impl Compiler<'_> {
    fn fault<T>(
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

    /// The words that have a plan already; the others are refused, never left out.
    fn is_built(spec: &SchemeSpec) -> bool {
        let SignatureSpec {
            query,
            form,
            json,
            body,
            aliases,
            repeated,
            list,
            ..
        } = &spec.signature;
        let head_only = [query, form, json].iter().all(|place| place.is_none())
            && body.is_none()
            && aliases.is_empty()
            && repeated.is_none()
            && list.is_none()
            && !spec
                .signature
                .header
                .as_deref()
                .unwrap_or_default()
                .contains("{n}");
        let time = spec
            .timestamp
            .as_ref()
            .is_none_or(|time| time.header.is_some());
        head_only
            && time
            && spec.content.0.len() < 2
            && spec.secret.is_none()
            && spec.require.is_empty()
            && spec.document.is_none()
            && spec.repeated_fields.is_none()
            && spec.fetch.is_none()
            && matches!(spec.algorithm, Algorithms::One(_) | Algorithms::Missing)
    }

    fn plan(&mut self, spec: &SchemeSpec) -> Option<Plan> {
        if !Self::is_built(spec) {
            return self.fault(
                &[],
                "this scheme uses a word that is not supported yet",
                "see docs/schemes.md",
            );
        }
        let written = match &spec.algorithm {
            Algorithms::One(word) => word.as_str(),
            _ => "",
        };
        if written == "token" {
            return self.token(spec);
        }
        let Some(algorithm) = lookup(&mac::HMAC_ALGORITHMS, written) else {
            let words: Vec<_> = mac::HMAC_ALGORITHMS
                .iter()
                .map(|(word, _)| *word)
                .chain(["token"])
                .collect();
            return self.fault(
                &["algorithm"],
                format!("`{written}` is not an algorithm"),
                one_of(&words),
            );
        };
        // Every part is looked at before the first fault ends it.
        let signature = self.signature(&spec.signature);
        let encoding = self.encoding(&spec.signature);
        let content = self.content(spec.content.0.first().map_or("{body}", |content| content));
        let signs_time = content
            .as_ref()
            .is_some_and(|content| content.contains(&Piece::Timestamp));
        let timestamp = match &spec.timestamp {
            Some(timestamp) => {
                if content.is_some() && !signs_time {
                    self.fault::<()>(
                        &["timestamp"],
                        "the signed content does not hold the timestamp, so anyone could change it",
                        "put `{timestamp}` into `content`, or leave `timestamp` out",
                    );
                }
                let followed_by_digit = content.as_deref().is_some_and(runs_into_what_follows);
                self.timestamp(timestamp, followed_by_digit).map(Some)
            }
            None if signs_time => self.fault(
                &["content"],
                "`{timestamp}` stands in the content, but the scheme does not say where the timestamp is",
                "add `timestamp = { header = \"…\" }`",
            ),
            None => Some(None),
        };
        if let (Some(signature), Some(Some(timestamp))) = (&signature, &timestamp)
            && signature.header == timestamp.header
        {
            return self.fault(
                &["timestamp", "header"],
                format!(
                    "`{}` cannot carry both the signature and the time",
                    signature.header
                ),
                "name the header that carries the time",
            );
        }
        Some(Plan::Hmac {
            algorithm,
            encoding: encoding?,
            signature: signature?,
            content: content?,
            timestamp: timestamp?,
        })
    }

    fn token(&mut self, spec: &SchemeSpec) -> Option<Plan> {
        for (key, present) in [
            ("content", !spec.content.0.is_empty()),
            ("timestamp", spec.timestamp.is_some()),
        ] {
            if present {
                self.fault::<()>(
                    &[key],
                    format!("a token signs nothing, so it has no `{key}`"),
                    "remove it",
                );
            }
        }
        if spec.signature.encoding.is_some() {
            self.fault::<()>(
                &["signature", "encoding"],
                "a token is compared as it stands, so it has no `encoding`",
                "remove it",
            );
        }
        Some(Plan::Token {
            signature: self.signature(&spec.signature)?,
        })
    }

    fn signature(&mut self, spec: &SignatureSpec) -> Option<SignaturePlan> {
        let header = self.header(
            &["signature", "header"],
            spec.header.as_deref().unwrap_or_default(),
        );
        let prefix = spec.prefix.clone().unwrap_or_default();
        if prefix
            .bytes()
            .any(|byte| !(byte == b' ' || byte.is_ascii_graphic()))
        {
            return self.fault(
                &["signature", "prefix"],
                "the prefix holds a character that a header value cannot",
                "use printable ASCII only",
            );
        }
        if prefix.starts_with(' ') {
            return self.fault(
                &["signature", "prefix"],
                "the prefix begins with a blank, which no header value does when it arrives",
                "leave the blank out",
            );
        }
        Some(SignaturePlan {
            header: header?,
            prefix: prefix.into_bytes().into(),
        })
    }

    fn encoding(&mut self, spec: &SignatureSpec) -> Option<Encoding> {
        let words: Vec<_> = ENCODINGS.iter().map(|(word, _)| *word).collect();
        match &spec.encoding {
            None => self.fault(
                &["signature"],
                "the encoding of the signature is missing",
                format!("add `encoding`, {}", one_of(&words)),
            ),
            Some(word) => match lookup(&ENCODINGS, word) {
                Some(encoding) => Some(encoding),
                None => self.fault(
                    &["signature", "encoding"],
                    format!("`{word}` is not an encoding"),
                    one_of(&words),
                ),
            },
        }
    }

    fn timestamp(&mut self, spec: &TimestampSpec, runs_on: bool) -> Option<TimestampPlan> {
        let header = self.header(
            &["timestamp", "header"],
            spec.header.as_deref().unwrap_or_default(),
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
                one_of(&["s", "ms", "rfc3339"]),
            ),
        };
        if runs_on && unit == Some(TimeUnit::Rfc3339) {
            return self.fault(
                &["content"],
                "nothing separates the timestamp from what follows, and an RFC 3339 time has no fixed length",
                "put a separator between them, such as `.`",
            );
        }
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
        Some(TimestampPlan {
            header: header?,
            unit: unit?,
            tolerance: tolerance?,
            fixed_width: runs_on,
        })
    }

    fn header(&mut self, path: &[&'static str], written: &str) -> Option<HeaderName> {
        let name = match written
            .strip_prefix("{param:")
            .and_then(|rest| rest.strip_suffix('}'))
        {
            None => written.to_owned(),
            Some(param) => {
                self.params_used.push(param.to_owned());
                match self.params.get(param) {
                    Some(value) => value.clone(),
                    None => {
                        return self.fault(
                            &["params"],
                            format!("the scheme needs the parameter `{param}`"),
                            format!("add `params = {{ {param} = \"…\" }}` to the route"),
                        );
                    }
                }
            }
        };
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

    /// Splits a template into pieces. `{body}` must stand in it exactly once: the MAC is fed while the body arrives.
    fn content(&mut self, template: &str) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut rest = template;
        while !rest.is_empty() {
            let (literal, tail) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.as_bytes().into()));
            }
            if tail.is_empty() {
                break;
            }
            let Some(end) = tail.find('}') else {
                return self.fault(
                    &["content"],
                    "a `{` is never closed",
                    "close it, as in `{timestamp}.{body}`",
                );
            };
            match &tail[..=end] {
                "{body}" => pieces.push(Piece::Body),
                "{timestamp}" => pieces.push(Piece::Timestamp),
                other => {
                    return self.fault(
                        &["content"],
                        format!("`{other}` is not a part of the request that can be signed"),
                        one_of(&["{body}", "{timestamp}"]),
                    );
                }
            }
            rest = &tail[end + 1..];
        }
        match pieces.iter().filter(|piece| **piece == Piece::Body).count() {
            1 => Some(pieces),
            0 => self.fault(
                &["content"],
                "the body is not signed",
                "put `{body}` into the template",
            ),
            _ => self.fault(
                &["content"],
                "`{body}` stands in the template more than once",
                "keep one",
            ),
        }
    }
}

/// Whether what stands after the timestamp could be read as part of it: then only a fixed number of digits is safe.
fn runs_into_what_follows(content: &[Piece]) -> bool {
    content.windows(2).any(|pair| match pair {
        [Piece::Timestamp, Piece::Literal(text)] => text.first().is_some_and(u8::is_ascii_digit),
        [Piece::Timestamp, _] => true,
        _ => false,
    })
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

fn lookup<T: Copy>(words: &[(&str, T)], word: &str) -> Option<T> {
    words
        .iter()
        .find(|(known, _)| *known == word)
        .map(|(_, value)| *value)
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    format!("one of {}", quoted.join(", "))
}
