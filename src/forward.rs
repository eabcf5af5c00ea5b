//! From [`Admitted`] to the upstream and back: the outbound head, the inbound answer.
//!
//! The only code that writes to an upstream, and it takes nothing less than [`Admitted`].

use std::{fmt::Write as _, net::IpAddr};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version,
    header::{self, Entry},
};

use crate::{
    receive::{Head, Peer},
    reject::Rejection,
    replay::{Admitted, Lease},
    route::{Route, fold},
    upstream::{SendError, Upstream, UpstreamBody},
    verify::Standing,
};

/// Prefix of our own headers, folded.
const OWN_PREFIX: &str = "countersign_";

/// Carries the request id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("countersign-request-id");

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// Headers of this connection only (RFC 9110, 7.6.1), and those that we write ourselves.
const HOP_BY_HOP: [HeaderName; 11] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Folded names that only we, the connection, or a trusted proxy may set. Under any other spelling than the plain one they
/// would reach a CGI-style upstream as the same variable, so other spellings are dropped.
const FOLDED_RESERVED: [&str; 8] = [
    "content_length",
    "content_type",
    "transfer_encoding",
    "host",
    "connection",
    "via",
    "forwarded",
    "authorization",
];

/// What forwarding needs to know of the gateway itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the header that says "verified".
    pub mark: HeaderName,
    /// The same, folded.
    pub mark_folded: String,
    /// Tells this process from others in `Via`, to notice a loop.
    pub instance: String,
}

impl Identity {
    /// An identity with this mark and a new instance id.
    pub fn new(mark: &HeaderName) -> Self {
        let mut random = [0; 8];
        // Only tells instances apart.
        let _ = aws_lc_rs::rand::fill(&mut random);
        Self {
            mark: mark.clone(),
            mark_folded: fold(mark),
            instance: data_encoding::HEXLOWER.encode(&random),
        }
    }

    /// Whether a `Via` header says that the request was here before.
    pub fn passed_before(&self, headers: &HeaderMap) -> bool {
        let own = format!("countersign ({})", self.instance);
        headers
            .get_all(header::VIA)
            .iter()
            .any(|via| String::from_utf8_lossy(via.as_bytes()).contains(&own))
    }
}

/// Sends an admitted request to its route's upstream, once, and gives its answer back with the lease to settle.
///
/// # Errors
/// Upstream unreachable, broken, or too slow.
pub async fn send(
    admitted: Admitted<'_>,
    upstreams: &[Upstream],
    identity: &Identity,
) -> (Result<Response<UpstreamBody>, Rejection>, Lease) {
    let (verified, lease) = admitted.into_parts();
    let route = verified.route();
    let standing = verified.standing();
    let (id, at) = (verified.id(), verified.at());
    let (head, body) = verified.into_message();
    let mut headers = outbound_headers(&head, route, identity);
    headers.insert(
        REQUEST_ID,
        value(
            id.as_hyphenated()
                .encode_lower(&mut uuid::Uuid::encode_buffer()),
        ),
    );
    if let Standing::Proven(proof) = standing {
        let prefix = &route.keys[proof.key()].mark_prefix;
        headers.insert(
            identity.mark.clone(),
            value(&format!("{prefix}{}", at.secs())),
        );
    }
    // A length even where it is 0: `POST` without one makes some receivers wait, or answer 411.
    if !body.is_empty() || !matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    let mut request = Request::new(body.into_stream());
    *request.method_mut() = head.method;
    *request.uri_mut() = head.target;
    *request.headers_mut() = headers;
    *request.extensions_mut() = head.extensions;
    let outcome = match upstreams[route.index].send(request).await {
        Ok(response) => Ok(inbound_answer(response)),
        Err(SendError::Unreachable(error)) => Err(Rejection::UpstreamUnreachable(error)),
        Err(SendError::Broken(error)) => Err(Rejection::UpstreamBroken(error)),
        Err(SendError::Timeout) => Err(Rejection::UpstreamTimeout),
    };
    (outcome, lease)
}

/// The sender's headers without those of its connection and without forged ones, with ours.
///
/// Strips first, adds last: nothing in the sender's head, `Connection` included, can touch what is added.
pub fn outbound_headers(head: &Head, route: &Route, identity: &Identity) -> HeaderMap {
    let mut headers = head.headers.clone();
    strip_hop_by_hop(&mut headers);
    let forged: Vec<_> = headers
        .keys()
        .filter(|name| is_reserved(name, route, identity, head.peer.trusted))
        .cloned()
        .collect();
    for name in forged {
        headers.remove(name);
    }
    if head.version == Version::HTTP_2 {
        join_cookies(&mut headers);
    }
    headers.insert(header::HOST, head.host.clone());
    add_hops(&mut headers, head, identity);
    headers
}

/// Removes what `Connection` names, then the hop-by-hop headers themselves.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Whether a sender may not set this header, or not in this spelling.
fn is_reserved(name: &HeaderName, route: &Route, identity: &Identity, trusted: bool) -> bool {
    let text = name.as_str();
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    // Nearly all names end here: plainly spelled, and none of ours.
    if plain
        && !text.starts_with(['c', 'x', 'f', 'v'])
        && !identity.mark.as_str().starts_with(&text[..1])
    {
        return false;
    }
    let folded = fold(name);
    if folded.starts_with(OWN_PREFIX)
        || folded == identity.mark_folded
        || folded == "client_cert"
        || folded == "client_cert_chain"
    {
        return true;
    }
    let about_hops = folded.starts_with("x_forwarded_") || folded == "forwarded" || folded == "via";
    if plain {
        return about_hops && !trusted;
    }
    about_hops
        || FOLDED_RESERVED.contains(&folded.as_str())
        || route.folded_scheme_headers.contains(&folded)
            && !route.scheme.headers().any(|own| own == name)
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
    let Peer {
        address,
        tls,
        certificate,
        ..
    } = &head.peer;
    let proto = if *tls { "https" } else { "http" };
    if let Some(address) = address {
        extend_list(headers, X_FORWARDED_FOR, &address.to_string());
    }
    headers
        .entry(X_FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static(proto));
    headers
        .entry(X_FORWARDED_HOST)
        .or_insert_with(|| head.host.clone());
    let mut forwarded = String::with_capacity(64);
    let node = match address {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    };
    // A host is letters, digits and punctuation that a quoted string may hold: `Head` made sure.
    let host = String::from_utf8_lossy(head.host.as_bytes());
    let _ = write!(forwarded, "for={node};host=\"{host}\";proto={proto}");
    extend_list(headers, header::FORWARDED, &forwarded);
    let version = match head.version {
        Version::HTTP_2 => "2.0",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    extend_list(
        headers,
        header::VIA,
        &format!("{version} countersign ({})", identity.instance),
    );
    if let Some(certificate) = certificate {
        headers.insert(CLIENT_CERT, certificate.clone());
    }
}

/// Appends to a comma-separated list, whether or not it is there and in however many lines.
fn extend_list(headers: &mut HeaderMap, name: HeaderName, item: &str) {
    let mut list = Vec::with_capacity(item.len());
    for earlier in headers.get_all(&name) {
        list.extend_from_slice(earlier.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(item.as_bytes());
    if let Ok(list) = HeaderValue::from_maybe_shared(Bytes::from(list)) {
        headers.insert(name, list);
    }
}

/// The upstream's answer without the headers of its connection.
fn inbound_answer(mut response: Response<UpstreamBody>) -> Response<UpstreamBody> {
    // The length of the content is the sender's business too, and stays as the upstream gave it.
    let length = response.headers_mut().remove(header::CONTENT_LENGTH);
    strip_hop_by_hop(response.headers_mut());
    if let Some(length) = length {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
    }
    *response.version_mut() = Version::HTTP_11;
    response
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ids, names and numbers are checked to be printable ASCII")
}
