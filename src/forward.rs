//! From [`Admitted`] to the upstream and back: the outbound head, the inbound answer.
//!
//! The only code that writes to an upstream, and it takes nothing less than [`Admitted`].

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version,
    header::{self, Entry},
};

use crate::{
    body::BodyStream,
    receive::Head,
    reject::Rejection,
    replay::{Admitted, Lease},
    route::{Route, fold},
    telemetry::Trace,
    upstream::{SendError, Upstream, UpstreamBody},
    verify::Standing,
};

/// Prefix of our own headers.
const OWN_PREFIX: &str = "countersign-";

/// How many headers are added at most.
const ADDED_MAX: usize = 9;

/// Carries the request id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("countersign-request-id");

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// Names whose other spellings (`Content_Length`) would reach a CGI-style upstream as the same variable: dropped.
const RESERVED: [&str; 10] = [
    "authorization",
    "client-cert",
    "client-cert-chain",
    "connection",
    "content-length",
    "content-type",
    "forwarded",
    "host",
    "transfer-encoding",
    "via",
];

/// What forwarding needs to know of the gateway itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the header that says "verified".
    mark: HeaderName,
    /// The same in lower case, with `-` for all but letters and digits.
    mark_folded: String,
    /// How this process, and no other, appears in `Via`.
    received_by: String,
    /// `Via` for requests that came over HTTP/1.0, 1.1 and 2.
    via: [HeaderValue; 3],
}

/// The name of this process among others in `Via`. The same for as long as it lives.
pub struct Instance(String);

impl Default for Instance {
    fn default() -> Self {
        let mut random = [0; 8];
        // Only tells instances apart.
        let _ = aws_lc_rs::rand::fill(&mut random);
        Self(data_encoding::HEXLOWER.encode(&random))
    }
}

impl Instance {
    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Identity {
    /// The identity of this process with this mark.
    pub fn new(mark: &HeaderName, Instance(id): &Instance) -> Self {
        let received_by = format!("countersign ({id})");
        Self {
            mark: mark.clone(),
            mark_folded: fold(mark).replace('_', "-"),
            via: ["1.0", "1.1", "2.0"]
                .map(|version| value(format!("{version} {received_by}").into())),
            received_by,
        }
    }

    /// Whether a `Via` header says that the request was here before.
    pub fn passed_before(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(header::VIA)
            .iter()
            .any(|via| String::from_utf8_lossy(via.as_bytes()).contains(&self.received_by))
    }
}

/// A request as it goes out, and where it goes.
///
/// Made by [`outbound`] alone.
pub struct Outbound<'s> {
    request: Request<BodyStream>,
    upstream: &'s Arc<Upstream>,
}

impl<'s> Outbound<'s> {
    /// Sends it, once, and waits for the answer's head, which [`answered`] makes fit to go back.
    ///
    /// # Errors
    /// Upstream unreachable, broken, or too slow.
    pub fn send(self) -> impl Future<Output = Result<Response<UpstreamBody>, SendError>> + 's {
        self.upstream.send(self.request)
    }

    /// The same as a piece of work that can outlive the request it came by.
    pub fn send_detached(
        self,
    ) -> impl Future<Output = Result<Response<UpstreamBody>, Rejection>> + Send + 'static {
        let upstream = self.upstream.clone();
        async move { answered(upstream.send(self.request).await) }
    }
}

/// The upstream's answer as it goes back to the sender.
///
/// # Errors
/// What the sender and the operator hear if there is none.
pub fn answered(
    answer: Result<Response<UpstreamBody>, SendError>,
) -> Result<Response<UpstreamBody>, Rejection> {
    match answer {
        Ok(response) => Ok(inbound_answer(response)),
        Err(SendError::Unreachable(error)) => Err(Rejection::UpstreamUnreachable(error)),
        Err(SendError::Broken(error)) => Err(Rejection::UpstreamBroken(error)),
        Err(SendError::Timeout) => Err(Rejection::UpstreamTimeout),
    }
}

/// What goes out for an admitted request, with the lease to settle.
pub fn outbound<'s>(
    admitted: Admitted<'_>,
    upstreams: &'s [Arc<Upstream>],
    identity: &Identity,
    trace: Option<&Trace>,
) -> (Outbound<'s>, Lease) {
    let (verified, lease) = admitted.into_parts();
    let route = verified.route();
    let mark = match verified.standing() {
        Standing::Proven(proof) => Some(route.mark(proof.key(), verified.at())),
        Standing::NotRequired | Standing::Handshake | Standing::Observed(_) => None,
    };
    let id = verified.id();
    let (mut head, body) = verified.into_message();
    let mut headers = outbound_headers(std::mem::take(&mut head.headers), &head, route, identity);
    headers.insert(
        REQUEST_ID,
        value(
            id.as_hyphenated()
                .encode_lower(&mut uuid::Uuid::encode_buffer())
                .as_bytes()
                .to_vec(),
        ),
    );
    if let Some(mark) = mark {
        headers.insert(identity.mark.clone(), value(mark));
    }
    if let Some(trace) = trace {
        trace.write(&mut headers);
    }
    if body.is_empty() && matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        headers.remove(header::CONTENT_LENGTH);
    } else {
        // Even where it is 0: `POST` without a length makes some receivers wait, or answer 411.
        headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    let mut request = Request::new(body.into_stream());
    *request.method_mut() = head.method;
    *request.uri_mut() = head.target;
    *request.headers_mut() = headers;
    *request.extensions_mut() = head.extensions;
    let upstream = &upstreams[route.index];
    (Outbound { request, upstream }, lease)
}

/// The sender's headers without those of its connection and without forged ones, with ours.
///
/// Strips first, adds last: nothing in the sender's head, `Connection` included, can touch what is added. `Content-Length` is left
/// to the caller, who knows the body.
pub fn outbound_headers(
    mut headers: HeaderMap,
    head: &Head,
    route: &Route,
    identity: &Identity,
) -> HeaderMap {
    headers.reserve(ADDED_MAX);
    strip(&mut headers, |name| {
        is_reserved(name, route, identity, head.peer.trusted)
    });
    if head.version == Version::HTTP_2 {
        join_cookies(&mut headers);
    }
    headers.insert(header::HOST, head.host.clone());
    add_hops(&mut headers, head, identity);
    headers
}

/// Removes what `Connection` names, the headers of this connection (RFC 9110, 7.6.1), and what `also` says.
fn strip(headers: &mut HeaderMap, also: impl Fn(&HeaderName) -> bool) {
    let mut unwanted: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    unwanted.extend(
        headers
            .keys()
            .filter(|name| is_hop_by_hop(name) || also(name))
            .cloned(),
    );
    for name in unwanted {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "expect"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Whether a sender may not set this header, or not in this spelling.
fn is_reserved(name: &HeaderName, route: &Route, identity: &Identity, trusted: bool) -> bool {
    let text = name.as_str();
    if is_plain(text) {
        let about_hops = text.starts_with("x-forwarded-") || text == "forwarded" || text == "via";
        return about_hops && !trusted
            || text.starts_with(OWN_PREFIX)
            || *name == identity.mark
            || matches!(text, "client-cert" | "client-cert-chain");
    }
    // Another spelling of a name that only we, the connection or a trusted proxy may set, or that the scheme reads.
    let folded = fold(name).replace('_', "-");
    let reads = |own: &HeaderName| fold(own) == fold(name) && own != name;
    folded.starts_with(OWN_PREFIX)
        || folded.starts_with("x-forwarded-")
        || folded == identity.mark_folded
        || RESERVED.contains(&&*folded)
        || route.scheme.headers().any(reads)
}

/// Whether every reader takes it for the same name: letters, digits and `-`.
fn is_plain(name: &str) -> bool {
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            let it = byte as u8;
            plain[byte] = it.is_ascii_alphanumeric() || it == b'-';
            byte += 1;
        }
        plain
    };
    // To the end whatever is found: without a branch for each byte.
    name.bytes()
        .fold(true, |plain, byte| plain & PLAIN[usize::from(byte)])
}

/// HTTP/2 senders may split `Cookie`; HTTP/1.1 has one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if let Entry::Occupied(mut cookies) = headers.entry(header::COOKIE)
        && cookies.iter().nth(1).is_some()
    {
        let joined = cookies
            .iter()
            .map(HeaderValue::as_bytes)
            .collect::<Vec<_>>()
            .join(&b"; "[..]);
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            cookies.insert(joined);
        }
    }
}

/// Says where the request came from and by what way: `X-Forwarded-*`, `Forwarded` (RFC 7239), `Via`, `Client-Cert` (RFC 9440).
///
/// What a trusted proxy wrote is extended; of anybody else nothing is left by now.
fn add_hops(headers: &mut HeaderMap, head: &Head, identity: &Identity) {
    let peer = &head.peer;
    if let Some(address) = &peer.forwarded_for {
        extend_list(headers, X_FORWARDED_FOR, address.clone());
    }
    let proto = HeaderValue::from_static(if peer.tls { "https" } else { "http" });
    headers.entry(X_FORWARDED_PROTO).or_insert(proto);
    headers
        .entry(X_FORWARDED_HOST)
        .or_insert_with(|| head.host.clone());
    // A host holds nothing that would end a quoted string: `Head` made sure.
    let forwarded = [peer.forwarded.as_bytes(), head.host.as_bytes(), b"\""].concat();
    if let Ok(forwarded) = HeaderValue::from_maybe_shared(Bytes::from(forwarded)) {
        extend_list(headers, header::FORWARDED, forwarded);
    }
    let [http10, http11, http2] = &identity.via;
    let via = match head.version {
        Version::HTTP_2 => http2,
        Version::HTTP_10 => http10,
        _ => http11,
    };
    extend_list(headers, header::VIA, via.clone());
    if let Some(certificate) = &peer.certificate {
        headers.insert(CLIENT_CERT, certificate.clone());
    }
}

/// Appends to a comma-separated list, whether or not it is there and in however many lines.
fn extend_list(headers: &mut HeaderMap, name: HeaderName, item: HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(entry) => {
            entry.insert(item);
        }
        Entry::Occupied(mut entry) => {
            let items: Vec<_> = entry
                .iter()
                .chain([&item])
                .map(HeaderValue::as_bytes)
                .collect();
            let list = items.join(&b", "[..]);
            if let Ok(list) = HeaderValue::from_maybe_shared(Bytes::from(list)) {
                entry.insert(list);
            }
        }
    }
}

/// The upstream's answer without the headers of its connection.
fn inbound_answer(mut response: Response<UpstreamBody>) -> Response<UpstreamBody> {
    strip(response.headers_mut(), |_| false);
    *response.version_mut() = Version::HTTP_11;
    response
}

fn value(text: Vec<u8>) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .expect("ids, names and numbers are checked to be printable ASCII")
}
