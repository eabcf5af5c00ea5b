//! One downstream connection, from accept to close.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::transport::{Activity, ActivityLimits, Busy, Transport};
use crate::{
    config::Limits,
    listen::Wire,
    pipeline::{self, Gateway},
    receive::Peer,
    telemetry::Metrics,
};

/// How far hyper reads ahead on HTTP/1.1: memory that each connection may hold beside the body budget.
const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// hyper refuses heads beyond this multiple of the limit by itself, without a body to its answer.
const HEAD_SLACK: u32 = 2;

/// When the process stops, idle connections are kept open this long: a sender that is just about to use one then gets an answer.
const CLOSING_GRACE: Duration = Duration::from_secs(1);

/// What all connections of a listener share.
pub(super) struct Service {
    pub(super) gateway: Arc<Gateway>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) limits: Limits,
    pub(super) trusted_proxies: Vec<ipnet::IpNet>,
    pub(super) stopping: CancellationToken,
}

/// Serves one connection to its end.
pub(super) async fn serve(service: Arc<Service>, wire: Wire, address: Option<IpAddr>) {
    let activity = Activity::new();
    // One limit for the handshake and for the bytes that tell the protocol: hyper waits for neither with a timer.
    let opened = timeout(service.limits.head_timeout, open(&service, wire, &activity)).await;
    let (transport, http2, certificate) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            tracing::debug!(%error, peer = ?address, "connection ended before the first request");
            return;
        }
        Err(_) => {
            if service.tls.is_some() {
                service.metrics().handshake_errors.inc();
            }
            return;
        }
    };
    let trusted = address.is_some_and(|address| {
        let mut nets = service.trusted_proxies.iter();
        nets.any(|net| net.contains(&address))
    });
    let peer = Arc::new(Peer::new(
        address,
        service.tls.is_some(),
        trusted,
        certificate,
    ));
    let requests = {
        let (service, activity) = (service.clone(), activity.clone());
        service_fn(move |request: Request<Incoming>| {
            let (service, peer, busy) = (service.clone(), peer.clone(), activity.request());
            async move {
                let response = pipeline::serve(
                    service.gateway.clone(),
                    peer,
                    request,
                    service.stopping.is_cancelled(),
                )
                .await;
                Ok::<_, Infallible>(response.map(|body| Held { body, _busy: busy }))
            }
        })
    };
    let limits = &service.limits;
    let io = TokioIo::new(transport);
    let head_bytes = limits.headers.saturating_mul(HEAD_SLACK);
    let watch = Watch {
        activity: &activity,
        limits: ActivityLimits {
            head: limits.head_timeout,
            idle: limits.idle_timeout,
            http2,
        },
        stopping: &service.stopping,
        unreadable: &service.metrics().unreadable_heads,
    };
    if http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(head_bytes)
            .max_concurrent_streams(limits.http2_streams)
            .keep_alive_interval(limits.idle_timeout)
            .keep_alive_timeout(limits.head_timeout)
            .serve_connection(io, requests);
        watch
            .over(pin!(connection), http2::Connection::graceful_shutdown)
            .await;
    } else {
        let connection = http1::Builder::new()
            // Heads are timed by `Watch`, from their first byte; hyper's own timer also runs between requests.
            .header_read_timeout(None)
            .half_close(true)
            .preserve_header_case(true)
            .max_header_size(head_bytes as usize)
            .max_buf_size(READ_BUFFER_BYTES_MAX.max(head_bytes as usize))
            .serve_connection(io, requests);
        watch
            .over(pin!(connection), http1::Connection::graceful_shutdown)
            .await;
    }
}

impl Service {
    fn metrics(&self) -> &Metrics {
        &self.gateway.telemetry.metrics
    }
}

/// TLS handshake, then the protocol: by ALPN, or on plaintext by the first bytes. With it the client certificate, if one came.
async fn open(
    service: &Service,
    wire: Wire,
    activity: &Arc<Activity>,
) -> io::Result<(Transport, bool, Option<HeaderValue>)> {
    let Some(acceptor) = &service.tls else {
        let mut transport = Transport::plain(wire, activity.clone());
        let http2 = transport.speaks_http2().await?;
        return Ok((transport, http2, None));
    };
    let stream = acceptor.accept(wire).await.inspect_err(|_| {
        service.metrics().handshake_errors.inc();
    })?;
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let certificate = leaf.and_then(|leaf| {
        let encoded = data_encoding::BASE64.encode(leaf);
        HeaderValue::try_from(format!(":{encoded}:")).ok()
    });
    Ok((Transport::tls(stream, activity.clone()), http2, certificate))
}

/// An answer's body; as long as it lives, the connection is busy.
struct Held<B> {
    body: B,
    _busy: Busy,
}

impl<B: Body + Unpin> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ends a connection that does nothing for too long, or that is idle when the process stops.
struct Watch<'a> {
    activity: &'a Activity,
    limits: ActivityLimits,
    stopping: &'a CancellationToken,
    unreadable: &'a Counter,
}

impl Watch<'_> {
    async fn over<C>(&self, mut connection: Pin<&mut C>, close: fn(Pin<&mut C>))
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let (mut stopping, mut closing) = (false, false);
        let mut wake = Instant::now() + self.limits.head.min(self.limits.idle);
        loop {
            tokio::select! {
                // The connection first: it is what all this is for.
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended && error.is_parse() {
                        // hyper has answered it; no request of ours begins with it, so it is counted here.
                        self.unreadable.inc();
                        tracing::debug!(%error, "a request head could not be read");
                    }
                    return;
                }
                () = sleep_until(wake) => {
                    if stopping && self.activity.is_idle() {
                        close(connection.as_mut());
                    }
                    match self.activity.allowed_until(&self.limits) {
                        Some(until) if stopping => wake = until.min(Instant::now() + CLOSING_GRACE),
                        Some(until) => wake = until,
                        None if closing => return,
                        None => {
                            closing = true;
                            close(connection.as_mut());
                            wake = Instant::now() + CLOSING_GRACE;
                        }
                    }
                }
                () = self.stopping.cancelled(), if !stopping => {
                    stopping = true;
                    if self.limits.http2 {
                        // GOAWAY tells the sender which requests were taken.
                        close(connection.as_mut());
                    }
                    wake = Instant::now() + CLOSING_GRACE;
                }
            }
        }
    }
}
