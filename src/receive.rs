//! From the wire to [`Unverified`]: refuses what two readers could read in two ways, keeps the limits, holds the body whole
//! and feeds the MAC as it comes in.

mod sender;
mod url;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header, request, uri::Authority};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use ipnet::IpNet;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

pub use self::url::Url;
use crate::{
    body::{BodyStore, RawBody, WholeBody},
    clock::UnixTime,
    reject::{Rejection, SignatureFault},
    route::{CheckedKeys, KeyPlaces, Route},
    scheme::{self, Check, Claim, ClaimError, Key, RequestHead, Verdict, WHOLE_BODY_MAX},
};

/// Who sent the request, as far as the connection tells. One for all requests of a connection.
#[derive(Debug)]
pub struct Peer {
    /// The address; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// Whether `trusted_proxies` holds the address: then what it says about earlier hops is believed.
    pub trusted: bool,
    /// `trusted_proxies`
    pub(crate) proxies: Arc<[IpNet]>,
    /// The client certificate, as RFC 9440 writes it.
    pub certificate: Option<HeaderValue>,
    /// Item for `X-Forwarded-For`.
    pub(crate) forwarded_for: Option<HeaderValue>,
    /// Item for `Forwarded` (RFC 7239), up to the host's name.
    pub(crate) forwarded: String,
}

impl Peer {
    /// Describes the other end of a connection, given whose word on earlier hops is believed.
    pub fn new(
        address: Option<IpAddr>,
        tls: bool,
        proxies: Arc<[IpNet]>,
        certificate: Option<HeaderValue>,
    ) -> Self {
        let node = match address {
            Some(IpAddr::V4(address)) => address.to_string(),
            Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
            None => "unknown".to_owned(),
        };
        let proto = if tls { "https" } else { "http" };
        Self {
            address,
            tls,
            trusted: address
                .is_some_and(|address| proxies.iter().any(|net| net.contains(&address))),
            proxies,
            certificate,
            forwarded_for: address
                .and_then(|address| HeaderValue::try_from(address.to_string()).ok()),
            forwarded: format!("for={node};proto={proto};host=\""),
        }
    }
}

/// A request whose head has come. It proves nothing.
pub struct Received<'b> {
    /// The head. In a box, because it goes through every stage.
    pub head: Box<Head>,
    /// The body, still on its way.
    pub body: &'b mut Incoming,
    /// Request id.
    pub id: Uuid,
    /// When the head had come: the moment by which times are judged.
    pub at: UnixTime,
}

/// A request head that reads one way only.
pub struct Head {
    /// Method.
    pub method: Method,
    /// Path and query, as they came.
    pub target: Uri,
    /// HTTP version.
    pub version: Version,
    /// Header fields, untouched.
    pub headers: HeaderMap,
    /// Holds the spelling of the names on HTTP/1.1.
    pub extensions: http::Extensions,
    /// `Host`, or `:authority`, as it came.
    pub host: HeaderValue,
    /// The same without port, in lower case: what routes are found by.
    pub host_name: String,
    /// The sender.
    pub peer: Arc<Peer>,
}

impl Head {
    /// Checks a head before anything is decided by it.
    ///
    /// # Errors
    /// [`Rejection::HeadMalformed`], [`Rejection::HeadTooLarge`], [`Rejection::TargetTooLong`].
    pub fn new(
        parts: request::Parts,
        peer: Arc<Peer>,
        head_bytes_max: usize,
    ) -> Result<Self, Rejection> {
        let malformed = Err;
        let request::Parts {
            method,
            uri,
            version,
            headers,
            extensions,
            ..
        } = parts;
        let path_and_query = match uri.path_and_query() {
            Some(path_and_query) if path_and_query.as_str().starts_with('/') => {
                path_and_query.clone()
            }
            _ => return malformed(Rejection::HeadMalformed("the request target is not a path")),
        };
        if path_and_query.as_str().len() > head_bytes_max {
            return Err(Rejection::TargetTooLong);
        }
        let head_bytes = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum::<usize>();
        if head_bytes + path_and_query.as_str().len() > head_bytes_max {
            return Err(Rejection::HeadTooLarge);
        }
        // hyper reads any list that ends in `chunked`; only the one coding that is decoded here is taken.
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next()
            && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        {
            return malformed(Rejection::HeadMalformed(
                "Transfer-Encoding is not one plain `chunked`",
            ));
        }
        let (host, authority) = host_of(&headers, &uri, version)?;
        let host_name = authority.host().to_ascii_lowercase();
        Ok(Self {
            method,
            target: Uri::from(path_and_query),
            version,
            headers,
            extensions,
            host,
            host_name,
            peer,
        })
    }
}

impl Head {
    /// What a scheme may see of it. `url` is the public URL, where the scheme signs it or a part of it.
    pub fn view<'a>(&'a self, url: Option<&'a Url>) -> RequestHead<'a> {
        let target = self.target.path_and_query();
        RequestHead {
            method: &self.method,
            target: url
                .map(Url::target)
                .unwrap_or_else(|| target.map_or("/", |target| target.as_str())),
            headers: &self.headers,
            url: url.map(Url::as_str),
        }
    }
}

/// The one host that the request names.
fn host_of(
    headers: &HeaderMap,
    uri: &Uri,
    version: Version,
) -> Result<(HeaderValue, Authority), Rejection> {
    let mut values = headers.get_all(header::HOST).iter();
    let field = values.next();
    if values.next().is_some() {
        return Err(Rejection::HeadMalformed("more than one Host header"));
    }
    let host = match (field, uri.authority()) {
        (Some(field), Some(authority))
            if !field
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return Err(Rejection::HeadMalformed(
                "the target names another host than the Host header",
            ));
        }
        (Some(field), _) => field.clone(),
        (None, Some(authority)) if version == Version::HTTP_2 => {
            HeaderValue::from_str(authority.as_str())
                .map_err(|_| Rejection::HeadMalformed("the authority is not a host"))?
        }
        (None, _) => return Err(Rejection::HeadMalformed("no Host header")),
    };
    let authority = Authority::try_from(host.as_bytes())
        .map_err(|_| Rejection::HeadMalformed("the Host header is not a host"))?;
    if authority.as_str().contains('@') {
        return Err(Rejection::HeadMalformed(
            "the Host header holds user information",
        ));
    }
    Ok((host, authority))
}

/// How fast a body must come.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Longest pause between two pieces.
    pub gap: Duration,
    /// Least bytes per second, averaged over each [`PACE_WINDOW`]; 0: none.
    pub bytes_per_second_min: u64,
}

/// Over how much waiting the rate of a body is averaged: long enough for a lost packet to be sent again.
pub const PACE_WINDOW: Duration = Duration::from_secs(5);

/// A request that is here whole and about which nothing is known yet.
///
/// Made by [`collect`] alone, taken apart by [`crate::verify`] alone, and not to be changed between: the check belongs to this
/// route, these keys and this body.
pub struct Unverified<'s> {
    /// In a box, because it goes through several stages.
    parts: Box<Parts<'s>>,
}

/// What [`crate::verify`] judges.
pub(crate) struct Parts<'s> {
    pub(crate) route: &'s Route,
    pub(crate) head: Box<Head>,
    pub(crate) id: Uuid,
    /// When its head had come.
    pub(crate) at: UnixTime,
    pub(crate) body: RawBody,
    pub(crate) check: Check,
    /// The keys that the check has, in its order.
    pub(crate) keys: CheckedKeys,
    /// The time that the sender says it signed at.
    pub(crate) signed_at: Option<UnixTime>,
    /// The public URL, where the scheme signs it.
    pub(crate) url: Option<Url>,
    /// What is known to be wrong with its signature.
    pub(crate) fault: Option<SignatureFault>,
    /// The body in one piece, where the check has to look into it.
    pub(crate) whole: Option<WholeBody>,
}

impl<'s> Unverified<'s> {
    /// Length of the body in bytes.
    pub fn body_bytes(&self) -> u64 {
        self.parts.body.len()
    }

    /// Whether part of the body is on disk.
    pub fn is_spilled(&self) -> bool {
        self.parts.body.is_spilled()
    }

    /// The route it came in by.
    pub fn route(&self) -> &'s Route {
        self.parts.route
    }

    /// When its head had come.
    pub fn at(&self) -> UnixTime {
        self.parts.at
    }

    /// Head and body as schemes see them, where the check has to look into the body.
    pub fn whole(&self) -> Option<scheme::Request<'_>> {
        Some(scheme::Request {
            head: self.parts.head.view(self.parts.url.as_ref()),
            body: self.parts.whole.as_ref()?.as_ref(),
        })
    }

    /// What the check says so far, where it has to look into the body. It proves nothing: [`crate::verify`] asks again.
    ///
    /// # Errors
    /// What is wrong with the claim.
    pub fn judge(&self) -> Result<Verdict, ClaimError> {
        self.whole().map_or(Ok(Verdict::Mismatch), |whole| {
            self.parts.check.judge(&whole)
        })
    }

    /// Tells that its signature does not hold, whatever the check says.
    pub fn set_fault(&mut self, fault: SignatureFault) {
        self.parts.fault = Some(fault);
    }

    /// Has it checked with keys that were fetched, each with its name.
    pub fn set_fetched_keys(&mut self, names: Vec<Arc<str>>, keys: &[Key]) {
        self.parts.check.set_keys(keys);
        self.parts.keys = CheckedKeys::Fetched(names);
    }

    /// Takes it apart for the verdict.
    pub(crate) fn into_parts(self) -> Parts<'s> {
        *self.parts
    }
}

impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified")
            .field("route", &self.parts.route.name)
            .field("id", &self.parts.id)
            .finish_non_exhaustive()
    }
}

/// Takes in the body, whole, and feeds the MACs while it comes.
///
/// # Errors
/// Too large, too slow, broken off, or no room.
///
/// # Cancel safety
/// Dropping the future gives back the memory and the disk that the body holds.
pub async fn collect<'s>(
    received: Received<'_>,
    route: &'s Route,
    claim: Claim,
    keys: KeyPlaces,
    url: Option<Url>,
    bodies: &BodyStore,
    pace: Pace,
) -> Result<Unverified<'s>, Rejection> {
    let Received { head, body, id, at } = received;
    let limit = match route.scheme.needs_whole_body() {
        true => route.body_bytes_max.min(WHOLE_BODY_MAX),
        false => route.body_bytes_max,
    };
    // Before the first byte, and so before `100 Continue` is sent.
    if body.size_hint().lower() > limit {
        return Err(Rejection::BodyTooLarge { limit });
    }
    let signed_at = claim.timestamp();
    let mut check = route
        .scheme
        .start(claim, keys.iter().map(|place| &route.keys[*place].key));
    let mut writer = bodies.writer();
    let mut meter = PaceMeter::new(pace);
    while let Some(piece) = meter.next(body).await? {
        if writer.len() + piece.len() as u64 > limit {
            return Err(Rejection::BodyTooLarge { limit });
        }
        check.update(&piece);
        writer.push(piece).await.map_err(Rejection::Store)?;
    }
    let mut body = writer.finish().await.map_err(Rejection::Store)?;
    let whole = match check.needs_body() {
        true => Some(
            Box::pin(body.read_whole())
                .await
                .map_err(Rejection::Store)?,
        ),
        false => None,
    };
    Ok(Unverified {
        parts: Box::new(Parts {
            route,
            head,
            id,
            at,
            body,
            check,
            keys: CheckedKeys::Pinned(keys),
            signed_at,
            url,
            fault: None,
            whole,
        }),
    })
}

/// Takes in a short body; `None` if it is longer than `most`. As everywhere it is counted against the budget.
///
/// # Errors
/// Too slow, broken off, or no room.
pub async fn collect_short(
    body: &mut Incoming,
    most: u64,
    bodies: &BodyStore,
    pace: Pace,
) -> Result<Option<WholeBody>, Rejection> {
    if body.size_hint().lower() > most {
        return Ok(None);
    }
    let mut writer = bodies.writer();
    let mut meter = PaceMeter::new(pace);
    while let Some(piece) = meter.next(body).await? {
        if writer.len() + piece.len() as u64 > most {
            return Ok(None);
        }
        writer.push(piece).await.map_err(Rejection::Store)?;
    }
    let mut body = writer.finish().await.map_err(Rejection::Store)?;
    let whole = Box::pin(body.read_whole()).await;
    whole.map(Some).map_err(Rejection::Store)
}

/// Watches the rate of one body. Only time spent waiting for the sender counts.
struct PaceMeter {
    pace: Pace,
    received: u64,
    /// Waiting and bytes since the window began.
    window_waited: Duration,
    window_bytes: u64,
}

impl PaceMeter {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            received: 0,
            window_waited: Duration::ZERO,
            window_bytes: 0,
        }
    }

    /// The next piece of data; `None` at the end. Trailers are read and dropped: nothing signs them.
    async fn next(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Rejection> {
        while !body.is_end_stream() {
            let Some(frame) = self.wait(body).await? else {
                break;
            };
            if let Ok(data) = frame.into_data() {
                self.received += data.len() as u64;
                self.window_bytes += data.len() as u64;
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    async fn wait(&mut self, body: &mut Incoming) -> Result<Option<Frame<Bytes>>, Rejection> {
        // Usually it is there already: no timer, no clock.
        tokio::select! {
            biased;
            frame = body.frame() => return frame.transpose().map_err(Rejection::BodyBroken),
            () = std::future::ready(()) => {}
        }
        let mut gap_left = self.pace.gap;
        loop {
            let patience = gap_left.min(PACE_WINDOW);
            let began = Instant::now();
            let frame = timeout(patience, body.frame()).await;
            let waited = if frame.is_ok() {
                began.elapsed()
            } else {
                patience
            };
            self.window_waited += waited;
            gap_left = gap_left.saturating_sub(waited);
            if let Ok(frame) = frame {
                self.judge()?;
                return frame.transpose().map_err(Rejection::BodyBroken);
            }
            if gap_left.is_zero() {
                return Err(self.too_slow());
            }
            self.judge()?;
        }
    }

    /// Once a window of waiting is full, enough must have come in it.
    fn judge(&mut self) -> Result<(), Rejection> {
        if self.window_waited < PACE_WINDOW {
            return Ok(());
        }
        let wanted = self
            .pace
            .bytes_per_second_min
            .saturating_mul(self.window_waited.as_secs());
        if self.window_bytes < wanted {
            return Err(self.too_slow());
        }
        self.window_waited = Duration::ZERO;
        self.window_bytes = 0;
        Ok(())
    }

    fn too_slow(&self) -> Rejection {
        Rejection::BodyTooSlow {
            received: self.received,
        }
    }
}
