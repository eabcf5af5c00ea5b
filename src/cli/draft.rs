//! A request before and after it is signed: for `sign`, `send` and `demo`.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::Failure;
use crate::{
    clock::UnixTime,
    scheme::{Place, RequestHead, Scheme, Signed},
    secret::Secret,
};

/// What a sender means to send.
pub(super) struct Draft {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    /// The URL under which the sender knows the receiver.
    pub(super) url: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// What a token names its key by.
    pub(super) key_id: Option<String>,
}

/// A URL as it was written: schemes sign its text.
#[derive(Clone)]
pub(super) struct Url {
    text: String,
    pub(super) uri: Uri,
}

impl Url {
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

impl Draft {
    /// A POST of this body to `/`.
    pub(super) fn of(body: &[u8]) -> Self {
        Self {
            method: Method::POST,
            target: "/".to_owned(),
            url: None,
            headers: HeaderMap::new(),
            body: body.to_vec(),
            key_id: None,
        }
    }

    /// Takes the URL, with its path and query.
    pub(super) fn with_url(mut self, url: Option<&Url>) -> Self {
        if let Some(url) = url {
            self.url = Some(url.text.clone());
            self = self.with_target(&url.uri);
        }
        self
    }

    /// Takes path and query alone.
    pub(super) fn with_target(mut self, url: &Uri) -> Self {
        let target = url.path_and_query().map_or("/", |target| target.as_str());
        target.clone_into(&mut self.target);
        self
    }

    /// Puts the delivery id where the scheme wants it, if that is a header.
    pub(super) fn with_id(
        mut self,
        scheme: &Scheme,
        id: Option<&HeaderValue>,
    ) -> Result<Self, Failure> {
        if let Some(id) = id {
            let name = match scheme.id_place() {
                Some(Place::Header(name)) => name.clone(),
                Some(place) => {
                    return Err(Failure::Usage(format!(
                        "the delivery id of this scheme is the {place}, not a header: leave `--id` out"
                    )));
                }
                None => {
                    return Err(Failure::Usage(
                        "this scheme names no delivery id: leave `--id` out".into(),
                    ));
                }
            };
            self.headers.insert(name, id.clone());
        }
        Ok(self)
    }

    pub(super) fn sign(
        &self,
        scheme: &Scheme,
        secret: &Secret,
        now: UnixTime,
    ) -> Result<Signed, Failure> {
        if scheme.signs_url() && self.url.is_none() {
            return Err(Failure::Usage(
                "this scheme signs the public URL: name it with `--url`".into(),
            ));
        }
        let head = RequestHead {
            method: &self.method,
            target: &self.target,
            headers: &self.headers,
            url: self.url.as_deref(),
        };
        scheme
            .sign_request(secret, &head, &self.body, now, self.key_id.as_deref())
            .map_err(|error| Failure::Usage(crate::reject::Chain(&error).to_string()))
    }

    /// The request with what signing it made.
    pub(super) fn with(&mut self, signed: Signed) {
        for (name, value) in signed.headers {
            self.headers.insert(name, value);
        }
        if let Some(target) = signed.target {
            self.target = target;
        }
        if let Some(body) = signed.body {
            self.body = body;
        }
    }

    /// As it goes over HTTP/1.1: what `verify --request` reads.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

pub(super) fn url(text: &str) -> Result<Url, &'static str> {
    let wrong = "write it like https://hooks.example.org/path";
    let uri: Uri = text.parse().map_err(|_| wrong)?;
    if uri.scheme().is_none() || uri.authority().is_none() {
        return Err(wrong);
    }
    let text = text.to_owned();
    Ok(Url { text, uri })
}

pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write `NAME: VALUE`")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes())
        .map_err(|_| format!("`{name}` is not a header name"))?;
    let value =
        HeaderValue::from_str(value.trim()).map_err(|_| "the value cannot stand in a header")?;
    Ok((name, value))
}
