//! The request path. `handle` is the stages, top to bottom; [`serve`] goes around it: id, time, one outcome event, the answer.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::{
    clock::{Clock, UnixTime},
    fetch, forward,
    handshake::{self, Unsigned},
    limit::{Place, Places},
    receive::{self, Head, Peer, Received},
    reject::{Blame, Rejection, SignatureFault},
    replay::{self, Decision, Lease},
    route::Route,
    scheme::{Claim, HandshakeAnswer},
    snapshot::{Lasting, Snapshot},
    telemetry::{Detail, Outcome, RequestEvent, Seen, Telemetry},
    upstream::{ResponseError, UpstreamBody},
    verify::{self, Standing},
};

/// A refused body up to this size is read to its end, so that the connection can go on.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;

/// For how long.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(200);

/// Says that the answer is that of an earlier delivery, and that this one went no further: a boolean of RFC 9651.
const DUPLICATE: HeaderName = HeaderName::from_static("countersign-duplicate");
const YES: HeaderValue = HeaderValue::from_static("?1");

/// What every request is served with. All but the snapshot lives as long as the process.
pub struct Gateway {
    /// The state that serves. A request takes it once, when it begins, and keeps it to its end.
    pub snapshot: ArcSwap<Snapshot>,
    /// What snapshots share.
    pub lasting: Lasting,
    /// The clock.
    pub clock: Box<dyn Clock>,
    /// Where outcomes are told.
    pub telemetry: Telemetry,
    /// Where request ids come from.
    pub ids: RequestIds,
    /// Who is being served.
    pub in_flight: Arc<Places>,
}

/// The stages of one request. Each takes what the one before proved.
///
/// The order is a decision: whatever needs no body comes before its first byte is read, which is also when `100 Continue` goes out.
async fn handle(
    s: &Snapshot,
    received: Received<'_>,
    event: &mut RequestEvent,
) -> Result<Handled, Rejection> {
    let head = &received.head;
    event.peer = head.sender();
    if s.identity.passed_before(&head.headers) {
        return Err(Rejection::Loop);
    }
    let route = s
        .routes
        .find(&head.host_name, &head.target)
        .ok_or(Rejection::NoRoute)?;
    event.route = Some(route.index);
    s.counters[route.index].inflight.inc();
    if let Some(tracing) = &s.tracing {
        event.trace = tracing.begin(received.id, route, &seen(head));
    }
    if !route.allows(event.peer) {
        return Err(Rejection::SenderNotAllowed);
    }
    route
        .check_method(&head.method)
        .map_err(|allow| Rejection::MethodNotAllowed { allow })?;
    // Before anything else that costs, because whoever sends too much is most likely to be a stranger.
    let now = event.began.into_std();
    route
        .count_sender(event.peer, now)
        .map_err(Rejection::Excess)?;
    let keys = route.usable_keys(received.at);
    let signs_url = route.scheme.signs_url() || route.scheme.signs_path();
    let url = signs_url.then(|| head.public_url(route)).flatten();
    // A handshake that nobody signs ends here, or goes on without the mark. All else has to bear a signature.
    let unsigned = handshake::of_head(route, &received, &keys, &mut event.handshake).await?;
    let (claim, fault) = match unsigned {
        Some(Unsigned::Answer(answer)) => return Ok(Handled::Handshake(answer)),
        Some(Unsigned::Forward(claim)) => (claim, None),
        None => match claim(route, head, &keys, url.as_ref(), received.at) {
            Ok(claim) => (claim, None),
            // Its body is wanted all the same, and `verify` says what becomes of it.
            Err(Rejection::NotVerified { fault, .. }) if route.observes(received.at) => {
                (Claim::of_nothing(received.at), Some(fault))
            }
            Err(refusal) => {
                let (bodies, kind) = (&s.bodies, &mut event.handshake);
                let answer = handshake::of_body(route, received, bodies, s.pace, kind).await?;
                return answer.map(Handled::Handshake).ok_or(refusal);
            }
        },
    };

    // Only now: what the head shows to be no delivery leaves the route's rate and places to those that may be.
    let place = route.count(now).map_err(Rejection::Excess)?;
    let mut request =
        receive::collect(received, route, claim, keys, url, &s.bodies, s.pace).await?;
    event.body_received(&request);
    if let Some(fault) = fault {
        request.set_fault(fault);
    }

    // Keys that the operator did not pin. After every check that costs less: few forged requests come so far.
    let origin = fetch::complete(&mut request, s.fetcher.as_ref()).await?;
    let mut verified = verify::verify(request)?;
    origin.proved();
    event.verified(&verified);
    let (fetcher, kind) = (s.fetcher.as_ref(), &mut event.handshake);
    if let Some(answer) = handshake::of_verified(&mut verified, fetcher, kind).await? {
        return Ok(Handled::Handshake(answer));
    }

    let admitted = match replay::admit(verified, &s.replay).await? {
        Decision::Admitted(admitted) => admitted,
        Decision::Duplicate(status) => return Ok(Handled::Duplicate(status)),
    };
    event.unguarded = admitted.is_unguarded();
    let sent = Instant::now();
    event.sends(sent);
    let trace = event.trace.as_deref();
    let (outbound, lease) = forward::outbound(admitted, &s.upstreams, &s.identity, trace);
    let outcome = match lease {
        Lease::NotRequired | Lease::Unguarded => forward::answered(outbound.send().await),
        // Sees it through even if the sender leaves: only the answer tells whether a retry may pass.
        Lease::Held(held) => Box::pin(held.settle_after(outbound.send_detached())).await,
    };
    event.upstream = Some(sent.elapsed());
    event.heard(outcome.as_ref().ok());
    outcome.map(|response| Handled::Forwarded(response, place))
}

/// What of a head is told in a trace.
fn seen(head: &Head) -> Seen<'_> {
    Seen {
        method: &head.method,
        path: head.target.path(),
        version: head.version,
        headers: &head.headers,
        tls: head.peer.tls,
    }
}

/// How a request ended well.
enum Handled {
    /// The upstream's answer, and the place that is taken up to its end.
    Forwarded(Response<UpstreamBody>, Option<Place>),
    /// The status that the upstream gave to the first delivery of which this is a duplicate.
    Duplicate(StatusCode),
    /// Our answer to a handshake.
    Handshake(HandshakeAnswer),
}

/// What a delivery says about its signature.
fn claim(
    route: &Route,
    head: &Head,
    keys: &[usize],
    url: Option<&receive::Url>,
    at: UnixTime,
) -> Result<Claim, Rejection> {
    if !route.takes(&head.method) {
        return Err(Rejection::NotAHandshake);
    }
    if keys.is_empty() && route.scheme.needs_secret() && route.fetching.is_none() {
        return Err(Rejection::NoUsableSecret);
    }
    let claim = route.scheme.claim(&head.view(url), at);
    claim.map_err(|error| Rejection::NotVerified {
        fault: SignatureFault::Claim(error),
        status: route.reject_status,
    })
}

/// Serves one request: always an answer, always one event.
pub fn serve(
    gateway: Arc<Gateway>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> impl Future<Output = Response<AnswerBody>> {
    // What waits for nothing comes before the future, which would else hold the request beside its parts.
    let at = gateway.clock.now();
    let id = gateway.ids.next(at);
    let http1 = request.version() < Version::HTTP_2;
    let (parts, body) = request.into_parts();
    let expects_continue = parts.headers.contains_key(header::EXPECT);
    let snapshot = gateway.snapshot.load_full();
    let address = peer.address;
    let head = Head::new(parts, peer, snapshot.head_bytes_max).map(Box::new);
    let report = Box::new(Report {
        event: RequestEvent::new(id, at, address),
        place: gateway.in_flight.take(snapshot.in_flight_max),
        gateway,
        snapshot,
    });
    answer(head, body, report, http1, expects_continue)
}

async fn answer(
    head: Result<Box<Head>, Rejection>,
    mut body: Incoming,
    mut report: Box<Report>,
    http1: bool,
    expects_continue: bool,
) -> Response<AnswerBody> {
    let (id, at) = (report.event.id, report.event.at);
    let snapshot = &report.snapshot;
    let outcome = match head {
        Ok(_) if report.place.is_none() => Err(Rejection::Overload),
        Ok(head) => {
            let body = &mut body;
            let received = Received { head, body, id, at };
            handle(snapshot, received, &mut report.event).await
        }
        Err(rejection) => Err(rejection),
    };
    let (mut response, ends) = match outcome {
        Ok(Handled::Forwarded(response, place)) => {
            report.event.status = response.status().as_u16();
            // Until the answer has gone out whole: if it never does, the sender has left.
            report.event.outcome = Outcome::Cut;
            return response.map(|upstream| AnswerBody::passing(upstream, place, report));
        }
        Ok(Handled::Duplicate(status)) => {
            report.event.replayed(status);
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = status;
            response.headers_mut().insert(DUPLICATE, YES);
            (response, false)
        }
        Ok(Handled::Handshake(answer)) => {
            report.event.answered(&answer);
            let mut response = Response::new(answer.body);
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            (response, false)
        }
        Err(rejection) => {
            let mut response = rejection.response(id);
            if matches!(rejection, Rejection::NotVerified { .. }) && report.is_probed() {
                *response.body_mut() = Bytes::new();
                response.headers_mut().remove(header::CONTENT_TYPE);
            }
            // Another reader may see another request begin in what follows a malformed head. And after a bad signature the size of
            // the body decides: the answer must not show whether it was read.
            let ends = matches!(rejection, Rejection::HeadMalformed(_))
                || matches!(rejection, Rejection::NotVerified { .. })
                    && report.event.body_bytes > DRAIN_BYTES_MAX;
            report.event.rejected(rejection);
            (response, ends)
        }
    };
    // On HTTP/2 too: there are senders, curl 7.88 among them, that drop the answer if they could not send all of a body.
    let read = !expects_continue && drained(&mut body).await;
    if http1 && (ends || !read) {
        // What follows on this connection is a body that nobody will read.
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    drop(report);
    response.map(|answer| AnswerBody {
        kind: AnswerKind::Own {
            answer: (!answer.is_empty()).then_some(answer),
            _refused: body,
        },
        report: None,
    })
}

/// Whether the body has ended, or did soon.
async fn drained(body: &mut Incoming) -> bool {
    if body.size_hint().lower() > DRAIN_BYTES_MAX {
        return false;
    }
    let mut rest = Limited::new(body, DRAIN_BYTES_MAX as usize);
    let mut read = pin!(async {
        loop {
            match rest.frame().await {
                None => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
            }
        }
    });
    // Usually it is there already: no timer, no clock.
    tokio::select! {
        biased;
        read = &mut read => return read,
        () = std::future::ready(()) => {}
    }
    timeout(DRAIN_TIME_MAX, read).await == Ok(true)
}

/// Makes request ids: UUIDv7, the time first. The rest is unique, not secret: a counter from a random start, scattered.
pub struct RequestIds {
    instance: [u8; 2],
    counter: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        let mut random = [0; 10];
        // Without randomness two instances could make the same ids, which breaks nothing but the search for them.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let [a, b, start @ ..] = random;
        Self {
            instance: [a, b],
            counter: AtomicU64::new(u64::from_le_bytes(start)),
        }
    }
}

impl RequestIds {
    fn next(&self, at: UnixTime) -> Uuid {
        // SplitMix64's finalizer: a bijection, so that no two counts give the same bits.
        let mut bits = self
            .counter
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let mut rest = [0; 10];
        rest[..2].copy_from_slice(&self.instance);
        rest[2..].copy_from_slice(&bits.to_be_bytes());
        let millis = u64::try_from(at.millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &rest).into_uuid()
    }
}

/// Tells of the request when it is dropped: after the last byte of the answer, or when the sender has left. In a box, because it
/// goes through many hands with the answer.
struct Report {
    event: RequestEvent,
    /// Among [`Gateway::in_flight`].
    place: Option<Place>,
    gateway: Arc<Gateway>,
    /// The one that the request began with.
    snapshot: Arc<Snapshot>,
}

impl Report {
    /// Whether the sender tries bad signatures, and wants no body in the answer.
    fn is_probed(&self) -> bool {
        let routes = &self.snapshot.routes;
        let route = self.event.route.and_then(|place| routes.get(place));
        route.is_some_and(|route| route.scheme.is_probed())
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let (snapshot, telemetry) = (&self.snapshot, &self.gateway.telemetry);
        let route = self
            .event
            .route
            .and_then(|place| snapshot.routes.get(place).zip(snapshot.counters.get(place)));
        if let Some((_, counters)) = route {
            counters.inflight.dec();
        }
        let total = telemetry
            .requests
            .finish(&self.event, &telemetry.metrics, route);
        if let (Some(trace), Some(tracing), Some((route, _))) =
            (self.event.trace.take(), &snapshot.tracing, route)
        {
            tracing.queue.finish(*trace, &self.event, route, total);
        }
    }
}

/// The body of an answer.
pub struct AnswerBody {
    kind: AnswerKind,
    report: Option<Box<Report>>,
}

enum AnswerKind {
    Own {
        answer: Option<Bytes>,
        /// The body that goes no further. On HTTP/2 dropping it before the answer has gone out would reset the stream, and the
        /// sender would see a broken stream instead of the answer.
        _refused: Incoming,
    },
    Upstream {
        body: UpstreamBody,
        /// Among those of the route.
        _place: Option<Place>,
    },
}

impl AnswerBody {
    /// An upstream's answer, and what to tell of it when its last byte has gone.
    fn passing(body: UpstreamBody, place: Option<Place>, report: Box<Report>) -> Self {
        let mut body = Self {
            kind: AnswerKind::Upstream {
                body,
                _place: place,
            },
            report: Some(report),
        };
        // hyper does not ask for frames of a body that is empty from the start.
        if body.is_end_stream() {
            body.completed();
        }
        body
    }

    fn completed(&mut self) {
        if let Some(mut report) = self.report.take() {
            report.event.forwarded();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let this = &mut *self;
        let frame = match &mut this.kind {
            AnswerKind::Own { answer, .. } => {
                return Poll::Ready(answer.take().map(|answer| Ok(Frame::data(answer))));
            }
            AnswerKind::Upstream { body, .. } => ready!(Pin::new(body).poll_frame(cx)),
        };
        match &frame {
            None => this.completed(),
            Some(Ok(_)) if this.is_end_stream() => this.completed(),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                if let Some(mut report) = this.report.take() {
                    report.event.blame = Some(Blame::Upstream);
                    report.event.reason = "response_cut";
                    report.event.detail = Detail::Words(crate::reject::Chain(error).to_string());
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            AnswerKind::Own { answer, .. } => answer.is_none(),
            AnswerKind::Upstream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            AnswerKind::Own { answer, .. } => {
                SizeHint::with_exact(answer.as_ref().map_or(0, |answer| answer.len() as u64))
            }
            AnswerKind::Upstream { body, .. } => body.size_hint(),
        }
    }
}

impl RequestEvent {
    /// A request that has just come. If nothing more is heard of it, its sender has left.
    fn new(id: Uuid, at: UnixTime, peer: Option<std::net::IpAddr>) -> Self {
        Self {
            id,
            at,
            began: Instant::now(),
            peer,
            route: None,
            outcome: Outcome::Aborted,
            handshake: None,
            reason: "sender_left",
            detail: Detail::None,
            blame: Some(Blame::Sender),
            verified: false,
            observed: None,
            key: None,
            signed_at: None,
            status: 0,
            body_bytes: 0,
            spilled: false,
            unguarded: false,
            receive: None,
            verify: None,
            upstream: None,
            trace: None,
        }
    }

    /// It goes to the upstream.
    fn sends(&mut self, now: Instant) {
        let after = now.saturating_duration_since(self.began);
        self.verify = self.receive.map(|receive| after.saturating_sub(receive));
        if let Some(trace) = &mut self.trace {
            trace.sent(after);
        }
    }

    /// The upstream answered, or did not.
    fn heard(&mut self, response: Option<&Response<UpstreamBody>>) {
        if let (Some(trace), Some(response)) = (&mut self.trace, response) {
            trace.answered(response.status().as_u16(), response.body().address());
        }
    }

    fn body_received(&mut self, request: &receive::Unverified<'_>) {
        self.receive = Some(self.began.elapsed());
        self.body_bytes = request.body_bytes();
        self.spilled = request.is_spilled();
    }

    fn verified(&mut self, request: &verify::Verified<'_>) {
        match request.standing() {
            Standing::Proven(proof) => {
                self.verified = true;
                self.key = Some(proof.key().clone());
                self.signed_at = proof.signed_at();
            }
            Standing::NotRequired => self.verified = true,
            Standing::Handshake => {}
            Standing::Observed(fault) => {
                self.observed = Some((fault.reason(), fault.detail().to_owned()));
            }
        }
    }

    /// The last byte of the upstream's answer has gone out.
    fn forwarded(&mut self) {
        (self.outcome, self.blame) = (Outcome::Forwarded, None);
        self.reason = "";
        if let Some((reason, detail)) = &self.observed {
            (self.outcome, self.blame) = (Outcome::Observed, Some(Blame::Sender));
            self.reason = reason;
            self.detail = Detail::Words(detail.clone());
        }
    }

    fn replayed(&mut self, status: StatusCode) {
        self.rejected(Rejection::Duplicate);
        self.status = status.as_u16();
    }

    fn answered(&mut self, answer: &HandshakeAnswer) {
        self.outcome = Outcome::Handshake;
        self.reason = "";
        self.blame = None;
        self.status = answer.status.as_u16();
    }

    fn rejected(&mut self, rejection: Rejection) {
        self.reason = rejection.reason();
        self.status = rejection.status().as_u16();
        self.blame = Some(rejection.blame());
        self.outcome = match (&rejection, rejection.blame()) {
            (Rejection::NotVerified { .. }, _) => Outcome::NotVerified,
            (Rejection::Duplicate, _) => Outcome::Replayed,
            (_, Blame::Sender) => Outcome::Rejected,
            (_, Blame::Operator | Blame::Provider | Blame::Gateway | Blame::Load) => {
                Outcome::Unavailable
            }
            (_, Blame::Upstream) => Outcome::UpstreamError,
        };
        self.detail = Detail::Rejection(rejection);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn request_ids_are_unique_and_begin_with_the_time() {
        let ids = RequestIds::default();
        let at = UnixTime::from_millis(1_795_435_200_123);
        let made: HashSet<_> = (0..100_000).map(|_| ids.next(at)).collect();
        assert_eq!(made.len(), 100_000);
        for id in made {
            assert_eq!(id.get_version_num(), 7);
            assert_eq!(
                &id.as_bytes()[..6],
                &1_795_435_200_123_u64.to_be_bytes()[2..]
            );
        }
    }
}
