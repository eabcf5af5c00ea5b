//! Signed forms that templates cannot say: a short, closed list, each known by a name.

use std::borrow::Cow;

use http::HeaderName;

use super::{
    claim::ClaimError,
    context::Context,
    form,
    json::{self, Pointer},
    template::Place,
};

/// A signed form with a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Canonical {
    /// Amazon SNS: listed members of the message, name and value, a line each.
    Sns,
    /// Contentful: method, escaped target, listed headers, body.
    Contentful,
    /// Plivo, third version: URL with sorted parameters.
    PlivoV3,
    /// TrueLayer: method, path, listed headers, body.
    Truelayer,
    /// RFC 9421: the signature base, of headers alone.
    Rfc9421,
    /// Unisender Go: the body with the secret in the place of its hash.
    Unisender,
}

const ALL: [(&str, Canonical); 6] = [
    ("sns", Canonical::Sns),
    ("contentful", Canonical::Contentful),
    ("plivo-v3", Canonical::PlivoV3),
    ("truelayer", Canonical::Truelayer),
    ("rfc9421", Canonical::Rfc9421),
    ("unisender", Canonical::Unisender),
];

type Written<'a> = Result<Cow<'a, [u8]>, ClaimError>;

impl Canonical {
    pub(super) fn named(name: &str) -> Option<Self> {
        ALL.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, canonical)| *canonical)
    }

    pub(super) fn names() -> String {
        ALL.map(|(name, _)| format!("`{name}`")).join(", ")
    }

    pub(super) fn covers_body(self) -> bool {
        // SNS leaves out what no receiver should read; RFC 9421 covers it by a digest that `require` checks.
        !matches!(self, Self::Rfc9421)
    }

    /// The headers that say how it is made.
    pub(super) fn headers(self) -> &'static [&'static str] {
        match self {
            Self::Contentful => &["x-contentful-signed-headers"],
            Self::Rfc9421 => &["signature-input"],
            Self::Sns | Self::PlivoV3 | Self::Truelayer | Self::Unisender => &[],
        }
    }

    /// What a signer has to say in the header of its JWS, so that the form can be made again; `time` is signed too.
    pub(super) fn announce(self, time: &HeaderName, header: &mut serde_json::Value) {
        if self == Self::Truelayer {
            header["tl_version"] = "2".into();
            header["tl_headers"] = time.as_str().into();
        }
    }

    pub(super) fn write<'a>(self, context: &Context<'a>, secret: Option<&[u8]>) -> Written<'a> {
        let body = context.body.unwrap_or_default();
        match self {
            Self::Sns => sns(context),
            Self::Contentful => contentful(context, body),
            Self::PlivoV3 => plivo(context, body),
            Self::Truelayer => truelayer(context, body),
            Self::Rfc9421 => rfc9421(context),
            Self::Unisender => unisender(context, body, secret.unwrap_or_default()),
        }
    }
}

/// <https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message-verify-message-signature.html>
fn sns<'a>(context: &Context<'a>) -> Written<'a> {
    const NOTIFICATION: &[&str] = &[
        "Message",
        "MessageId",
        "Subject?",
        "Timestamp",
        "TopicArn",
        "Type",
    ];
    const CONFIRMATION: &[&str] = &[
        "Message",
        "MessageId",
        "SubscribeURL",
        "Timestamp",
        "Token",
        "TopicArn",
        "Type",
    ];
    let member = |name: &str| -> Result<Option<Cow<'a, [u8]>>, ClaimError> {
        match Pointer::parse(&format!("/{name}")) {
            Some(pointer) => context.value(&Place::Json(pointer)),
            None => Ok(None),
        }
    };
    let names = match member("Type")?.as_deref() {
        Some(b"Notification") => NOTIFICATION,
        Some(b"SubscriptionConfirmation" | b"UnsubscribeConfirmation") => CONFIRMATION,
        _ => return Err(ClaimError::BodyMalformed("not a message of SNS")),
    };
    let mut out = Vec::new();
    for written in names {
        let name = written.trim_end_matches('?');
        match member(name)? {
            Some(value) => {
                for part in [name.as_bytes(), b"\n", &value, b"\n"] {
                    out.extend_from_slice(part);
                }
            }
            None if name != *written => {}
            None => return Err(ClaimError::BodyMalformed("not a complete message of SNS")),
        }
    }
    Ok(Cow::Owned(out))
}

/// A header's only value, by a name that a sender listed.
fn listed_header<'a>(context: &Context<'a>, name: &[u8]) -> Result<&'a [u8], ClaimError> {
    let name = HeaderName::from_bytes(name)
        .map_err(|_| ClaimError::BodyMalformed("not a list of header names"))?;
    let place = Place::Header(name.clone());
    match context.head.header(&name) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(ClaimError::PartMissing(place)),
        Err(()) => Err(ClaimError::PartRepeated(place)),
    }
}

/// @contentful/node-apps-toolkit, `requests/utils`: the list itself and the time have to be among the headers.
fn contentful<'a>(context: &Context<'a>, body: &[u8]) -> Written<'a> {
    let list = listed_header(context, b"x-contentful-signed-headers")?;
    let names: Vec<_> = list.split(|byte| *byte == b',').collect();
    for needed in [
        &b"x-contentful-signed-headers"[..],
        b"x-contentful-timestamp",
    ] {
        if !names.contains(&needed) {
            return Err(ClaimError::PartMissing(Place::Header(
                HeaderName::from_static("x-contentful-signed-headers"),
            )));
        }
    }
    if !names.is_sorted()
        || names
            .iter()
            .any(|name| name.iter().any(u8::is_ascii_uppercase))
    {
        return Err(ClaimError::PartMalformed(Place::Header(
            HeaderName::from_static("x-contentful-signed-headers"),
        )));
    }
    let mut out = context.head.method.as_str().as_bytes().to_vec();
    out.push(b'\n');
    // encodeURI of the path; of the query first encodeURIComponent.
    escape(
        context.head.path().as_bytes(),
        b"/:@!$&'()*+,;=~#-._?",
        &mut out,
    );
    let query = context.head.query();
    if !query.is_empty() {
        out.push(b'?');
        let mut once = Vec::new();
        escape(query.as_bytes(), b"!'()*-._~", &mut once);
        escape(&once, b"/:@!$&'()*+,;=~#-._?", &mut out);
    }
    out.push(b'\n');
    for (i, name) in names.iter().enumerate() {
        if i > 0 {
            out.push(b';');
        }
        out.extend_from_slice(name);
        out.push(b':');
        out.extend_from_slice(listed_header(context, name)?.trim_ascii());
    }
    out.push(b'\n');
    out.extend_from_slice(body);
    Ok(Cow::Owned(out))
}

/// Escapes all but letters, digits and what is listed. What is escaped already gets escaped again, as `encodeURI` does.
fn escape(text: &[u8], kept: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        if byte.is_ascii_alphanumeric() || kept.contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

/// Plivo's SDK, `utils/validators`: parameters by name and value. The nonce follows in the template.
fn plivo<'a>(context: &Context<'a>, body: &[u8]) -> Written<'a> {
    let url = context.head.url.ok_or(ClaimError::UrlUnknown)?;
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let wrong = || ClaimError::BodyMalformed("not a form");
    let sorted = |text: &[u8]| {
        let mut pairs: Vec<_> = form::pairs(text)
            .map(|pair| pair.map(|(name, value)| (name.into_owned(), value.into_owned())))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        pairs.sort_unstable();
        Ok(pairs)
    };
    let joined = |pairs: &[(Vec<u8>, Vec<u8>)]| {
        pairs
            .iter()
            .map(|(name, value)| [name, &b"="[..], value].concat())
            .collect::<Vec<_>>()
            .join(&b'&')
    };
    let (query, fields) = (sorted(query.as_bytes())?, sorted(body)?);
    let mut out = base.as_bytes().to_vec();
    if context.head.method == http::Method::GET {
        let mut all = [query, fields].concat();
        all.sort_unstable();
        if !all.is_empty() {
            out.push(b'?');
            out.extend_from_slice(&joined(&all));
        }
    } else {
        if !query.is_empty() || !fields.is_empty() {
            out.push(b'?');
        }
        out.extend_from_slice(&joined(&query));
        if !query.is_empty() && !fields.is_empty() {
            out.push(b'.');
        }
        for (name, value) in &fields {
            out.extend_from_slice(name);
            out.extend_from_slice(value);
        }
    }
    Ok(Cow::Owned(out))
}

/// TrueLayer's truelayer-signing, version 2: the headers that the JWS header lists, in that order and spelling.
fn truelayer<'a>(context: &Context<'a>, body: &[u8]) -> Written<'a> {
    let jws = context
        .jwt
        .ok_or(ClaimError::BodyMalformed("not signed by a JWS"))?;
    if jws.header_text("tl_version").as_deref() != Some("2") {
        return Err(ClaimError::PartMalformed(Place::Protected(
            "tl_version".into(),
        )));
    }
    let names = jws.header_text("tl_headers").unwrap_or_default();
    let names: Vec<_> = names.split(',').filter(|name| !name.is_empty()).collect();
    // The time is only signed if it is listed.
    if let Some(Place::Header(time)) = context.timestamp
        && !names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(time.as_str()))
    {
        return Err(ClaimError::TimestampMissing(Place::Header(time.clone())));
    }
    let mut out = format!("{} {}\n", context.head.method, context.head.path()).into_bytes();
    for name in names {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(listed_header(context, name.as_bytes())?);
        out.push(b'\n');
    }
    out.extend_from_slice(body);
    Ok(Cow::Owned(out))
}

/// RFC 9421, section 2.5, for plain header fields. `content-digest` has to be one of them.
fn rfc9421<'a>(context: &Context<'a>) -> Written<'a> {
    let wrong =
        || ClaimError::PartMalformed(Place::Header(HeaderName::from_static("signature-input")));
    let item = |name: &str| {
        context
            .items
            .and_then(|items| items.get(name))
            .ok_or_else(wrong)
    };
    let (components, input) = (item("components")?, item("input")?);
    let mut out = Vec::new();
    let mut digest = false;
    for component in components.split(|byte| *byte == b' ') {
        let name = component
            .strip_prefix(b"\"")
            .and_then(|name| name.strip_suffix(b"\""))
            .ok_or_else(wrong)?;
        digest |= name == b"content-digest";
        out.extend_from_slice(component);
        out.extend_from_slice(b": ");
        out.extend_from_slice(listed_header(context, name)?.trim_ascii());
        out.push(b'\n');
    }
    if !digest {
        return Err(ClaimError::PartMissing(Place::Header(
            HeaderName::from_static("content-digest"),
        )));
    }
    out.extend_from_slice(b"\"@signature-params\": ");
    out.extend_from_slice(input);
    Ok(Cow::Owned(out))
}

/// Unisender's documentation: the hash stands in `auth`, over the body with the key in its place.
fn unisender<'a>(context: &Context<'a>, body: &[u8], secret: &[u8]) -> Written<'a> {
    let wrong = ClaimError::BodyMalformed("not JSON with `auth`");
    let (Some(document), Some(pointer)) = (context.document, Pointer::parse("/auth")) else {
        return Err(wrong);
    };
    let raw = json::find(document, &pointer, None)
        .map_err(|_| wrong.clone())?
        .ok_or(wrong.clone())?;
    let value = raw
        .strip_prefix('"')
        .and_then(|raw| raw.strip_suffix('"'))
        .ok_or(wrong.clone())?;
    // The slice lies in the body: its place is the distance of the two.
    let at = (value.as_ptr() as usize)
        .checked_sub(body.as_ptr() as usize)
        .ok_or(wrong.clone())?;
    let (before, after) = (body.get(..at), body.get(at + value.len()..));
    match (before, after) {
        (Some(before), Some(after)) => Ok(Cow::Owned([before, secret, after].concat())),
        _ => Err(wrong),
    }
}
