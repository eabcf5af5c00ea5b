//! Traces: which one a request belongs to, what is told of it there, and the queue to the exporter. Knows no collector.
//!
//! Senders are strangers. A trace begins here as a rule, and only links to the sender's; it continues that one where the operator says
//! so. Names and meanings are those of W3C Trace Context and of OpenTelemetry's conventions for HTTP.

use std::{net::IpAddr, str, sync::Arc, time::Duration};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Outcome, RequestEvent, names};
use crate::{
    clock::UnixTime,
    limit::{Bucket, Rate},
    reject::Blame,
    route::Route,
    scheme::HandshakeKind,
};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Requests that wait for the exporter, at most.
const QUEUE: usize = 4096;

/// Refused requests that are traced; strangers can make any number of them.
const REFUSED_RATE: Rate = Rate::new(Duration::from_millis(10), 100);

/// How much of what a sender wrote is told.
const PATH_BYTES_MAX: usize = 1024;
const AGENT_BYTES_MAX: usize = 256;
const STATE_BYTES_MAX: usize = 512;

/// Bits of a trace's id that are random in every trace: the last 56 (W3C Trace Context, level 2).
const RANDOM_BITS: u32 = 56;

/// A span, as `traceparent` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace that it is part of.
    pub trace: [u8; 16],
    /// Itself.
    pub span: [u8; 8],
    /// Whether it is recorded.
    pub sampled: bool,
}

impl SpanContext {
    /// Reads the one `traceparent` of a request; malformed, or one of several, it says nothing.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        match values.next() {
            None => Self::parse(value.as_bytes()),
            Some(_) => None,
        }
    }

    /// `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, lower case. Later versions may have more behind it.
    fn parse(text: &[u8]) -> Option<Self> {
        let (text, more) = text.split_at_checked(55)?;
        let [version, trace, span, flags] =
            [0..2, 3..35, 36..52, 53..55].map(|digits| HEXLOWER.decode(&text[digits]).ok());
        let dashes = [2, 35, 52].iter().all(|place| text[*place] == b'-');
        let ends = match version?[0] {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more[0] == b'-',
        };
        let this = Self {
            trace: trace?.try_into().ok()?,
            span: span?.try_into().ok()?,
            sampled: flags?[0] & 1 == 1,
        };
        (dashes && ends && this.trace != [0; 16] && this.span != [0; 8]).then_some(this)
    }

    fn header(&self) -> HeaderValue {
        let mut text = *b"00-________________________________-________________-00";
        HEXLOWER.encode_mut(&self.trace, &mut text[3..35]);
        HEXLOWER.encode_mut(&self.span, &mut text[36..52]);
        text[54] += u8::from(self.sampled);
        HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text))
            .expect("hexadecimal digits and dashes")
    }
}

/// How requests are traced, in one state of the gateway.
pub struct Tracing {
    /// Traces that begin here are kept if the random bits of their ids are at least this.
    threshold: u64,
    /// By [`Route::index`].
    routes: Vec<Arc<TracedRoute>>,
    /// Where they go.
    pub queue: TraceQueue,
}

/// What all traces of a route have in common.
#[derive(Debug)]
pub struct TracedRoute {
    /// Its name.
    pub name: String,
    /// Its scheme.
    pub scheme: String,
    /// Its path, as it was written.
    pub pattern: String,
    /// Its upstream's addresses.
    pub upstream: Vec<TracedAddress>,
    /// The sender's trace goes on.
    pub continues: bool,
}

/// One address of an upstream.
#[derive(Debug)]
pub struct TracedAddress {
    /// Name, IP address, or a socket's path.
    pub host: String,
    /// Not there on a Unix socket.
    pub port: Option<u16>,
    /// What stands before the path in a URL; empty on a Unix socket.
    pub base: String,
}

/// What of a head is told.
pub struct Seen<'h> {
    /// Its method.
    pub method: &'h Method,
    /// Its path, without the query: tokens live there.
    pub path: &'h str,
    /// Its version.
    pub version: Version,
    /// Its fields.
    pub headers: &'h HeaderMap,
    /// It came by TLS.
    pub tls: bool,
}

impl Tracing {
    /// Keeps that part, 0 to 1, of the traces that begin here.
    pub fn new(ratio: f64, routes: Vec<Arc<TracedRoute>>, queue: TraceQueue) -> Self {
        let all = (1_u64 << RANDOM_BITS) as f64;
        Self {
            threshold: ((1.0 - ratio) * all) as u64,
            routes,
            queue,
        }
    }

    fn keeps(&self, own: u64) -> bool {
        own & ((1 << RANDOM_BITS) - 1) >= self.threshold
    }

    /// Finds a request's place in a trace.
    pub fn begin(&self, id: Uuid, route: &Route, seen: &Seen<'_>) -> Option<Box<Trace>> {
        let route = self.routes.get(route.index)?;
        let id = id.into_bytes();
        let [_, _, _, _, _, _, _, _, own @ ..] = id;
        let sender = SpanContext::of(seen.headers);
        let parent = sender.filter(|_| route.continues);
        let context = match parent {
            Some(parent) => SpanContext {
                span: own,
                ..parent
            },
            // The request's id is the trace's: whoever has one has both.
            None => SpanContext {
                trace: id,
                span: own,
                sampled: self.keeps(u64::from_be_bytes(own)),
            },
        };
        let told = context.sampled.then(|| Told::of(seen, parent.is_some()));
        Some(Box::new(Trace {
            context,
            parent: parent.map(|parent| parent.span),
            link: sender.filter(|_| parent.is_none()),
            route: route.clone(),
            told,
            sent: None,
            answered: None,
        }))
    }
}

/// A request's place in a trace.
#[derive(Debug)]
pub struct Trace {
    context: SpanContext,
    /// The sender's span, where its trace goes on.
    parent: Option<[u8; 8]>,
    /// The sender's span, where another trace begins.
    link: Option<SpanContext>,
    route: Arc<TracedRoute>,
    /// What is told of its head; `None`: nothing is told at all.
    told: Option<Told>,
    /// When it went to the upstream, since it began.
    sent: Option<Duration>,
    /// What came back, and which address it came from.
    answered: Option<(u16, usize)>,
}

#[derive(Debug)]
struct Told {
    method: Method,
    path: String,
    version: Version,
    agent: Option<String>,
    state: String,
    tls: bool,
}

impl Told {
    fn of(seen: &Seen<'_>, continues: bool) -> Self {
        let text = |name, most| {
            let value = seen.headers.get(name).map(HeaderValue::as_bytes)?;
            Some(beginning(str::from_utf8(value).ok()?, most))
        };
        Self {
            method: seen.method.clone(),
            path: beginning(seen.path, PATH_BYTES_MAX),
            version: seen.version,
            agent: text(header::USER_AGENT, AGENT_BYTES_MAX),
            state: match continues {
                true => text(TRACESTATE, STATE_BYTES_MAX).unwrap_or_default(),
                false => String::new(),
            },
            tls: seen.tls,
        }
    }
}

fn beginning(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

impl Trace {
    /// Names the span of forwarding to the upstream. What the sender said of its own trace goes no further, unless that goes on.
    pub fn write(&self, headers: &mut HeaderMap) {
        if self.parent.is_none() {
            headers.remove(TRACESTATE);
            headers.remove(BAGGAGE);
        }
        headers.insert(TRACEPARENT, self.forwarding().header());
    }

    /// The span of forwarding. Its id is the other's complement: the one holds a fixed bit of either kind, so neither is zero.
    fn forwarding(&self) -> SpanContext {
        SpanContext {
            span: self.context.span.map(|byte| !byte),
            ..self.context
        }
    }

    /// It goes to the upstream, so long after it began.
    pub fn sent(&mut self, after: Duration) {
        self.sent = Some(after);
    }

    /// The upstream answered, from the address at this place.
    pub fn answered(&mut self, status: u16, address: usize) {
        self.answered = Some((status, address));
    }
}

/// Everything that is told of one request in a trace.
pub struct RequestSpan {
    /// The request's id.
    pub id: Uuid,
    /// Its span.
    pub context: SpanContext,
    /// The span that this one is a part of, at the sender.
    pub parent: Option<[u8; 8]>,
    /// The sender's span, if it is in another trace.
    pub link: Option<SpanContext>,
    /// `tracestate`, where the sender's trace goes on.
    pub state: String,
    /// Its route.
    pub route: Arc<TracedRoute>,
    /// Method.
    pub method: Method,
    /// Path, without the query.
    pub path: String,
    /// HTTP version.
    pub version: Version,
    /// `User-Agent`
    pub agent: Option<String>,
    /// It came by TLS.
    pub tls: bool,
    /// Whom it came from.
    pub peer: Option<IpAddr>,
    /// When its head had come.
    pub at: UnixTime,
    /// How long it took.
    pub total: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// Stable word for why; empty if it was forwarded.
    pub reason: &'static str,
    /// The reason in full, where it is no fault of the sender.
    pub fault: Option<String>,
    /// What kind of handshake it was.
    pub handshake: Option<HandshakeKind>,
    /// The id of the key that verified.
    pub key: String,
    /// Status of the answer; 0 if there was none.
    pub status: u16,
    /// Bytes of the body.
    pub body_bytes: u64,
    /// The body was partly on disk.
    pub spilled: bool,
    /// It passed although its guard's store failed.
    pub unguarded: bool,
    /// Its way to the upstream.
    pub forwarding: Option<Forwarding>,
}

/// A request's way to the upstream.
pub struct Forwarding {
    /// Its span.
    pub context: SpanContext,
    /// When it began, after the request.
    pub after: Duration,
    /// Until the upstream's response head, or the end of waiting for it.
    pub took: Duration,
    /// What came back, and which address it came from; `None`: nothing.
    pub answered: Option<(u16, usize)>,
}

impl RequestSpan {
    /// `None` if nothing is told of it.
    fn new(trace: Trace, event: &RequestEvent, route: &Route, total: Duration) -> Option<Self> {
        let forwarding = trace.sent.map(|after| Forwarding {
            context: trace.forwarding(),
            after,
            // The sender left before it ended.
            took: event.upstream.unwrap_or(total.saturating_sub(after)),
            answered: trace.answered,
        });
        let ours = !matches!(event.blame, None | Some(Blame::Sender));
        let key = event.key.as_ref().map(|key| route.key_id(key).to_owned());
        let told = trace.told?;
        Some(Self {
            id: event.id,
            context: trace.context,
            parent: trace.parent,
            link: trace.link,
            state: told.state,
            route: trace.route,
            method: told.method,
            path: told.path,
            version: told.version,
            agent: told.agent,
            tls: told.tls,
            peer: event.peer,
            at: event.at,
            total,
            outcome: event.outcome,
            reason: event.reason,
            fault: ours.then(|| event.detail.to_string()),
            handshake: event.handshake,
            key: key.unwrap_or_default(),
            status: event.status,
            body_bytes: event.body_bytes,
            spilled: event.spilled,
            unguarded: event.unguarded,
            forwarding,
        })
    }

    /// How many spans it is made of.
    pub fn spans(&self) -> u64 {
        1 + u64::from(self.forwarding.is_some())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

/// Counts spans. Clones count together.
#[derive(Clone, Default)]
pub struct TraceMetrics {
    exported: Counter,
    dropped: Family<CauseLabel, Counter>,
}

impl TraceMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let (name, help) = names::SPANS_EXPORTED;
        registry.register(name, help, self.exported.clone());
        let (name, help) = names::SPANS_DROPPED;
        registry.register(name, help, self.dropped.clone());
    }

    /// So many reached the collector.
    pub fn exported(&self, spans: u64) {
        self.exported.inc_by(spans);
    }

    /// So many never will: a word of a closed set.
    pub fn dropped(&self, spans: u64, cause: &'static str) {
        self.dropped
            .get_or_create(&CauseLabel { cause })
            .inc_by(spans);
    }
}

/// The way to the exporter. Clones lead to the same one; when the last is gone, it sends what it has and ends.
#[derive(Clone)]
pub struct TraceQueue {
    sender: mpsc::Sender<RequestSpan>,
    stopping: CancellationToken,
    refused: Arc<Refused>,
    metrics: TraceMetrics,
}

struct Refused {
    began: Instant,
    bucket: Bucket,
}

impl TraceQueue {
    /// A queue, with its other end and the sign that the process stops.
    pub fn new(metrics: TraceMetrics) -> (Self, mpsc::Receiver<RequestSpan>, CancellationToken) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let stopping = CancellationToken::new();
        let refused = Refused {
            began: Instant::now(),
            bucket: Bucket::default(),
        };
        let this = Self {
            sender,
            stopping: stopping.clone(),
            refused: Arc::new(refused),
            metrics,
        };
        (this, receiver, stopping)
    }

    /// Tells of a finished request, if its trace is kept. Never waits.
    pub fn finish(&self, trace: Trace, event: &RequestEvent, route: &Route, total: Duration) {
        let Some(span) = RequestSpan::new(trace, event, route, total) else {
            return;
        };
        let spans = span.spans();
        if event.is_refusal() {
            let since = event.began.saturating_duration_since(self.refused.began);
            if self.refused.bucket.take(REFUSED_RATE, since).is_err() {
                return self.metrics.dropped(spans, "refused_rate");
            }
        }
        match self.sender.try_send(span) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.metrics.dropped(spans, "queue_full"),
            Err(TrySendError::Closed(_)) => self.metrics.dropped(spans, "stopped"),
        }
    }

    /// Has everything sent, and waits until that is done, or until `patience` is over. For the end of the process.
    pub async fn close(&self, patience: Duration) {
        self.stopping.cancel();
        if timeout(patience, self.sender.closed()).await.is_err() {
            tracing::warn!("traces were not all sent before the end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn tracing(ratio: f64) -> Tracing {
        let (queue, ..) = TraceQueue::new(TraceMetrics::default());
        Tracing::new(ratio, Vec::new(), queue)
    }

    #[test]
    fn reads_and_writes_traceparent() {
        let context = SpanContext::parse(SENT.as_bytes()).unwrap();
        assert_eq!(context.header(), SENT);
        assert!(context.sampled);
        let unsampled = SENT.replace("-01", "-00");
        let context = SpanContext::parse(unsampled.as_bytes()).unwrap();
        assert_eq!(context.header(), unsampled);
        for later in [
            SENT.replacen("00", "01", 1),
            SENT.replacen("00", "fe", 1) + "-what-follows",
            SENT.replace("-01", "-03"),
        ] {
            let context = SpanContext::parse(later.as_bytes()).unwrap();
            assert_eq!(context.header(), SENT, "{later}");
        }
    }

    #[test]
    fn takes_nothing_malformed_for_a_span() {
        for text in [
            "",
            "00",
            &SENT[..54],
            &format!("{SENT}-"),
            &format!("{SENT}0"),
            &SENT.replacen("00", "ff", 1),
            &SENT.replacen("00", "01", 1).replace("-01", "-01x"),
            &SENT.to_uppercase(),
            &SENT.replace('-', "_"),
            &SENT.replace("4bf9", "4bg9"),
            &SENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &SENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            "00-é",
        ] {
            assert_eq!(SpanContext::parse(text.as_bytes()), None, "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, HeaderValue::from_static(SENT));
        assert!(SpanContext::of(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(SENT));
        assert_eq!(SpanContext::of(&headers), None, "one of several");
    }

    #[test]
    fn the_ratio_decides_by_the_random_bits() {
        let highest = (1_u64 << RANDOM_BITS) - 1;
        for (ratio, bits, want) in [
            (1.0, 0, true),
            (1.0, highest, true),
            (0.0, highest, false),
            (0.5, highest / 2, false),
            (0.5, highest / 2 + 1, true),
            (0.01, highest / 100 * 99 - 1, false),
            (0.01, highest / 100 * 99 + 100, true),
        ] {
            // The eighth of the bytes before them is not.
            for fixed in [0x80, 0xbf] {
                let own = fixed << RANDOM_BITS | bits;
                assert_eq!(tracing(ratio).keeps(own), want, "{ratio} {own:x}");
            }
        }
    }
}
