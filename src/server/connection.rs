//! One downstream connection, from accept to close.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::AsyncWriteExt as _,
    sync::OwnedSemaphorePermit,
    task::coop::has_budget_remaining,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    proxy_header::{self, Source},
    stopping::Stopping,
    transport::{Activity, ActivityLimits, Busy, REST_AFTER, Transport},
};
use crate::{
    acme,
    config::Limits,
    listen::Wire,
    pipeline::{self, Gateway},
    receive::Peer,
    reject::Chain,
    telemetry::Metrics,
};

/// How far hyper reads ahead on HTTP/1.1: memory that each connection may hold beside the body budget.
const READ_BUFFER_BYTES_MAX: usize = 128 * 1024;

/// hyper refuses heads beyond this multiple of the limit by itself, without a body to its answer.
const HEAD_SLACK: u32 = 2;

/// When the process stops, idle connections are kept open this long: a sender that is just about to use one then gets an answer.
const CLOSING_GRACE: Duration = Duration::from_secs(1);

/// How often an HTTP/2 connection is looked at. It never rests: only on HTTP/1.1 can be given back what hyper holds, most of a
/// connection's memory.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// What all connections of a listener share.
pub(super) struct Service {
    pub(super) gateway: Arc<Gateway>,
    /// For the connections that begin now.
    pub(super) setup: Arc<ArcSwap<Setup>>,
    /// The listener goes, or the process.
    pub(super) stopping: Stopping,
}

/// What a connection is served with from its first byte to its last: a reload makes another one for those that begin later.
pub(super) struct Setup {
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) limits: Limits,
    pub(super) trusted_proxies: Arc<[ipnet::IpNet]>,
    pub(super) proxy_protocol: bool,
}

/// Serves one connection to its end, in its place.
///
/// The task of a connection that rests shall be small: what a connection is only at times lies in boxes or is gone after its block, and
/// an async block, unlike an async function, keeps no second copy of what it is given.
pub(super) fn serve(
    service: Arc<Service>,
    wire: Wire,
    address: Option<IpAddr>,
    place: Option<OwnedSemaphorePermit>,
) -> impl Future<Output = ()> + Send {
    let activity = Activity::new();
    let setup = service.setup.load_full();
    let opening = open(
        service.clone(),
        setup.clone(),
        wire,
        address,
        activity.clone(),
    );
    let opening = Box::pin(opening);
    async move {
        let counted = Counted::new(&service.metrics().connections);
        let (mut transport, http2, peer) = match opened_in_time(opening, &service.stopping).await {
            Some(Ok((transport, http2, peer))) => (transport, http2, Arc::new(peer)),
            Some(Err(error)) => {
                tracing::debug!(%error, peer = ?address, "connection ended before the first request");
                return;
            }
            None => return,
        };
        let requests = {
            let (service, activity) = (service.clone(), activity.clone());
            service_fn(move |request: Request<Incoming>| Answering {
                http1: request.version() < Version::HTTP_2,
                busy: Some(activity.request(http2)),
                service: service.clone(),
                serving: Box::pin(pipeline::serve(
                    service.gateway.clone(),
                    peer.clone(),
                    request,
                )),
            })
        };
        let limits = &setup.limits;
        let watch = Watch {
            activity: &activity,
            limits: ActivityLimits {
                first: limits.head_timeout,
                head: limits.head_timeout,
                idle: limits.idle_timeout,
                stuck: limits.idle_timeout,
                http2,
            },
            stopping: &service.stopping,
        };
        let head_bytes = limits.headers.saturating_mul(HEAD_SLACK);
        let ended = if http2 {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_header_list_size(head_bytes)
                .max_concurrent_streams(limits.http2_streams)
                .keep_alive_interval(limits.idle_timeout)
                .keep_alive_timeout(limits.head_timeout)
                .serve_connection(TokioIo::new(transport), requests);
            let mut connection = Box::pin(connection);
            watch
                .over(connection.as_mut(), http2::Connection::graceful_shutdown)
                .await
                .map(drop)
        } else {
            loop {
                let io = TokioIo::new(transport);
                let mut connection =
                    Box::new(http1_builder(head_bytes).serve_connection(io, requests.clone()));
                let pinned = Pin::new(&mut *connection);
                match watch
                    .over(pinned, http1::Connection::graceful_shutdown)
                    .await
                {
                    Ok(Left::Over) => break Ok(()),
                    Ok(Left::Resting) => {}
                    Err(error) => break Err(error),
                }
                // hyper's part is gone at the end of the block, before the wait.
                transport = {
                    let connection = connection;
                    let parts = connection.into_parts();
                    let mut transport = parts.io.into_inner();
                    transport.unread(parts.read_buf);
                    transport
                };
                if !watch.next_request_begins(&mut transport).await {
                    // Whether the other side still hears that is its affair.
                    let _ = timeout(CLOSING_GRACE, transport.shutdown()).await;
                    drop(transport);
                    break Ok(());
                }
            }
        };
        if let Err(error) = ended {
            if error.is_parse() {
                // hyper has answered it; there is no request, and so no line of its own.
                service.metrics().unreadable_heads.inc();
            }
            tracing::debug!(error = %Chain(&error), peer = ?address, "connection broke off");
        }
        // By now the connection is closed.
        drop((counted, place));
    }
}

/// What `opening` makes; `None` if the process stops meanwhile.
async fn opened_in_time<T>(
    opening: impl Future<Output = T> + Unpin,
    stopping: &Stopping,
) -> Option<T> {
    tokio::select! {
        biased;
        opened = opening => Some(opened),
        () = async {
            stopping.begun().await;
            sleep(CLOSING_GRACE).await;
        } => None,
    }
}

/// Counts a connection as long as it is open.
struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How HTTP/1.1 is spoken with senders.
fn http1_builder(head_bytes: u32) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1
        // Heads are timed by `Watch`, from their first byte; hyper's own timer also runs between requests.
        .header_read_timeout(None)
        .half_close(true)
        .preserve_header_case(true)
        .max_header_size(head_bytes as usize)
        .max_buf_size(READ_BUFFER_BYTES_MAX.max(head_bytes as usize));
    http1
}

impl Setup {
    /// Whether a connection from this address begins with a PROXY header. Whoever may open a Unix socket is trusted.
    fn expects_proxy_header(&self, address: Option<IpAddr>) -> bool {
        let proxies = &self.trusted_proxies;
        self.proxy_protocol
            && (proxies.is_empty()
                || address.is_none_or(|address| proxies.iter().any(|net| net.contains(&address))))
    }
}

impl Service {
    fn metrics(&self) -> &Metrics {
        &self.gateway.telemetry.metrics
    }
}

/// All that comes before the first request, within one limit: hyper waits for none of it with a timer.
async fn open(
    service: Arc<Service>,
    setup: Arc<Setup>,
    mut wire: Wire,
    address: Option<IpAddr>,
    activity: Arc<Activity>,
) -> io::Result<(Transport, bool, Peer)> {
    let end = Instant::now() + setup.limits.head_timeout;
    let (mut source, mut proxies) = (address, setup.trusted_proxies.clone());
    if setup.expects_proxy_header(address) {
        match timeout_at(end, proxy_header::read(&mut wire)).await {
            Ok(Ok(Source::Proxied(address))) => source = Some(address),
            // Nobody vouches for what it says of earlier hops: a proxy that knows its client names it.
            Ok(Ok(Source::Local)) => proxies = Arc::default(),
            Ok(Err(proxy_header::Fault::Closed)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(fault)) => {
                service.metrics().proxy_header_errors.inc();
                return Err(io::Error::other(fault));
            }
            Err(late) => {
                service.metrics().proxy_header_errors.inc();
                return Err(late.into());
            }
        }
    }
    let speaking = timeout_at(end, speak(&service, &setup, wire, &activity)).await;
    let (transport, http2, certificate) = speaking.unwrap_or_else(|late| {
        if setup.tls.is_some() {
            service.metrics().handshake_errors.inc();
        }
        Err(late.into())
    })?;
    let peer = Peer::new(source, setup.tls.is_some(), proxies, certificate);
    Ok((transport, http2, peer))
}

/// TLS handshake, then the protocol: by ALPN, or on plaintext by the first bytes. With it the client certificate, if one came.
async fn speak(
    service: &Service,
    setup: &Setup,
    wire: Wire,
    activity: &Arc<Activity>,
) -> io::Result<(Transport, bool, Option<HeaderValue>)> {
    let Some(acceptor) = &setup.tls else {
        let mut transport = Transport::plain(wire, activity.clone());
        let http2 = transport.speaks_http2().await?;
        return Ok((transport, http2, None));
    };
    let mut stream = acceptor.accept(wire).await.inspect_err(|_| {
        service.metrics().handshake_errors.inc();
    })?;
    if stream.get_ref().1.alpn_protocol() == Some(acme::PROTOCOL) {
        // The authority has seen what it wanted to see.
        stream.shutdown().await?;
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let certificate = leaf.and_then(|leaf| {
        let encoded = data_encoding::BASE64.encode(leaf);
        HeaderValue::try_from(format!(":{encoded}:")).ok()
    });
    Ok((Transport::tls(stream, activity.clone()), http2, certificate))
}

/// A request that is being served. Not an async block, which would hold the request beside what serves it.
struct Answering<F> {
    /// hyper keeps room for this as long as the connection lives: in a box it takes none while there is no request.
    serving: Pin<Box<F>>,
    http1: bool,
    busy: Option<Busy>,
    service: Arc<Service>,
}

impl<B: Body, F: Future<Output = Response<B>>> Future for Answering<F> {
    type Output = Result<Response<Held<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(self.serving.as_mut().poll(cx));
        let Some(busy) = self.busy.take() else {
            return Poll::Pending;
        };
        // Asked as late as can be: the next request on this connection might find it closed.
        if self.http1 && self.service.stopping.has_begun() {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response.map(|body| Held::new(body, busy))))
    }
}

/// An answer's body; as long as it lives, the connection is busy.
struct Held<B> {
    body: B,
    busy: Busy,
}

impl<B> Held<B> {
    fn new(body: B, mut busy: Busy) -> Self {
        busy.offers(true);
        Self { body, busy }
    }
}

impl<B: Body + Unpin> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.busy.offers(frame.is_ready());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How [`Watch`] leaves a connection.
enum Left {
    /// It has ended, or is to be dropped.
    Over,
    /// It waits for its next request, of which nothing has come. HTTP/1.1 only.
    Resting,
}

/// What [`Watch`] waits for.
enum Event {
    Ended(hyper::Result<()>),
    Alarm,
    Stopping,
}

/// Ends a connection that does nothing for too long, or that is idle when the process stops.
struct Watch<'a> {
    activity: &'a Activity,
    limits: ActivityLimits,
    stopping: &'a Stopping,
}

impl Watch<'_> {
    async fn over<C>(
        &self,
        mut connection: Pin<&mut C>,
        close: fn(Pin<&mut C>),
    ) -> hyper::Result<Left>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let mut limits = self.limits;
        let (mut stopping, mut closing) = (false, false);
        let pause = match limits.http2 {
            true => LOOK_AFTER,
            false => REST_AFTER,
        };
        let pause = pause.min(limits.head);
        let mut alarm = pin!(sleep(pause.min(limits.idle)));
        let mut begun = pin!(self.stopping.begun());
        loop {
            let mut asked = false;
            let event = poll_fn(|cx| {
                // The connection first: it is what all this is for.
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Event::Ended(ended));
                }
                // After its first request the connection may rest before the next look.
                if let Some(from) = self.rests_from(stopping)
                    && from < alarm.deadline()
                {
                    alarm.as_mut().reset(from);
                    asked = false;
                }
                // The others are asked once to wake this task. From then on it is enough, and takes no lock that all connections
                // share, to look whether they did.
                if !asked && has_budget_remaining() {
                    asked = true;
                    let _ = alarm.as_mut().poll(cx);
                    if !stopping {
                        let _ = begun.as_mut().poll(cx);
                    }
                } else if !asked {
                    cx.waker().wake_by_ref();
                }
                match (!stopping && self.stopping.has_begun(), alarm.is_elapsed()) {
                    (true, _) => Poll::Ready(Event::Stopping),
                    (false, true) => Poll::Ready(Event::Alarm),
                    (false, false) => Poll::Pending,
                }
            });
            let wake = match event.await {
                Event::Ended(ended) => return ended.map(|()| Left::Over),
                Event::Alarm => match self.activity.allowed_until(&limits) {
                    Some(until) => {
                        let now = Instant::now();
                        let rests = self.rests_from(stopping);
                        if rests.is_some_and(|from| from <= now) {
                            return Ok(Left::Resting);
                        }
                        // A head may begin meanwhile, and has less time.
                        let look = now + pause;
                        until.min(rests.map_or(look, |from| from.min(look)))
                    }
                    None if closing => return Ok(Left::Over),
                    None => {
                        closing = true;
                        close(connection.as_mut());
                        Instant::now() + CLOSING_GRACE
                    }
                },
                Event::Stopping => {
                    stopping = true;
                    limits.first = CLOSING_GRACE;
                    limits.idle = CLOSING_GRACE;
                    if limits.http2 {
                        // GOAWAY tells the sender which requests were taken.
                        close(connection.as_mut());
                    }
                    Instant::now() + CLOSING_GRACE
                }
            };
            alarm.as_mut().reset(wake);
        }
    }

    fn rests_from(&self, stopping: bool) -> Option<Instant> {
        match self.limits.http2 || stopping {
            true => None,
            false => self.activity.rests_from(),
        }
    }

    /// Waits for the next request of a connection that rests; `false` if none came in time.
    async fn next_request_begins(&self, transport: &mut Transport) -> bool {
        let Some(until) = self.activity.allowed_until(&self.limits) else {
            return false;
        };
        tokio::select! {
            biased;
            begins = transport.begins() => return begins.unwrap_or(false),
            () = sleep_until(until) => return false,
            () = self.stopping.begun() => {}
        }
        let last_chance = timeout(CLOSING_GRACE, transport.begins()).await;
        matches!(last_chance, Ok(Ok(true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn after_its_first_request_a_connection_rests_before_the_next_look() {
        const LONG: Duration = Duration::from_secs(60);
        let (activity, stopping) = (Activity::new(), Stopping::default());
        let watch = Watch {
            activity: &activity,
            limits: ActivityLimits {
                first: LONG,
                head: LONG,
                idle: LONG,
                stuck: LONG,
                http2: false,
            },
            stopping: &stopping,
        };
        // Under way when it is polled first, over when it is polled again.
        let (mut first, mut second) = (None, Some(activity.request(false)));
        let connection = pin!(poll_fn(|cx| {
            first = second.take();
            if first.is_some() {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        }));
        tokio::select! {
            biased;
            left = watch.over(connection, |_| {}) => assert!(matches!(left, Ok(Left::Resting))),
            () = sleep(REST_AFTER / 2) => panic!("it does not rest"),
        }
    }
}
