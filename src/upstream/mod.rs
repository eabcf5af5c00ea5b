//! The upstream side of the wire: where a route forwards to, and its connections.
//!
//! Knows nothing of signatures. It promises one thing: `Upstream::send` gives a request to at most one connection. It moves on
//! to another only while none of its bytes can have been written.

mod connect;
mod health;
mod http1;
mod patience;
mod pool;
mod response;
mod socket;
mod tls;

use std::{
    error::Error,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, Version, uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http2},
};
use rustls::ClientConfig;
use tokio::time::{Instant, sleep};

use self::{
    connect::Connector,
    health::Turn,
    http1::Http1,
    pool::{Checkout, Pool},
};
pub use self::{
    health::{Failure, Health},
    response::{ResponseError, UpstreamBody},
    tls::SharedTls,
};
use crate::{
    body::{BodyStore, BodyStoreConfig, BodyStream, StoreError},
    config::{UpstreamAddr, UpstreamConfig},
};

/// First pause of `connect_retry`; doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);

/// One route's upstream.
pub struct Upstream {
    pools: Vec<Arc<Pool>>,
    /// Which address the next request begins with.
    turn: AtomicUsize,
    secure: bool,
    timeout: Duration,
    read_timeout: Duration,
    connect_retry: Duration,
}

/// An open connection, as its protocol lets it be used.
enum Link {
    /// For one request at a time.
    Http1(Box<Http1>),
    /// A handle to one that many requests share.
    Http2(http2::SendRequest<BodyStream>),
}

/// The response that a request will get, or the request if it never went out.
type Answer = Pin<
    Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<BodyStream>>>> + Send>,
>;

/// Why there is no response.
#[derive(Debug)]
pub enum SendError {
    /// No address could be connected to; the last one's fault. Nothing was sent.
    Unreachable(io::Error),
    /// The connection failed when the request may have gone out, or the answer was not HTTP.
    Broken(Box<dyn Error + Send + Sync>),
    /// No response head in time.
    Timeout,
}

impl Upstream {
    /// Makes it ready; connects to nothing yet.
    ///
    /// # Errors
    /// If a certificate, key or CA file cannot be used; the text names it.
    pub fn new(
        config: &UpstreamConfig,
        tls: &mut SharedTls,
        health: impl Fn(&UpstreamAddr) -> Arc<Health>,
    ) -> anyhow::Result<Self> {
        let secure = matches!(config.addresses.first(), Some(UpstreamAddr::Https { .. }));
        let tls = secure.then(|| tls.get(config)).transpose()?;
        Ok(Self::with_tls(config, tls, health)?)
    }

    /// The same with TLS that is ready; `None`: plaintext.
    ///
    /// # Errors
    /// If the server name is none.
    pub(crate) fn with_tls(
        config: &UpstreamConfig,
        tls: Option<Arc<ClientConfig>>,
        health: impl Fn(&UpstreamAddr) -> Arc<Health>,
    ) -> io::Result<Self> {
        let pools = config
            .addresses
            .iter()
            .enumerate()
            .map(|(place, address)| {
                Ok(Pool::new(
                    place,
                    Connector::new(address, config, tls.as_ref())?,
                    health(address),
                    config.max_fails,
                    config.keep_alive,
                    config.idle_connections,
                ))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            pools,
            turn: AtomicUsize::new(0),
            secure: tls.is_some(),
            timeout: config.timeout,
            read_timeout: config.read_timeout,
            connect_retry: config.connect_retry,
        })
    }

    /// What is known of each address.
    pub fn health(&self) -> impl Iterator<Item = &Arc<Health>> {
        self.pools.iter().map(|pool| &pool.health)
    }

    /// Sends a request once and waits for the response head.
    ///
    /// The target is origin-form and `Host` is set; both go out as they are.
    ///
    /// Takes any request, verified or not, so it is for [`crate::forward`] alone. A test keeps it so.
    ///
    /// # Errors
    /// [`SendError`]; only [`SendError::Unreachable`] says that nothing was sent.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection that the request is on.
    pub(crate) async fn send(
        &self,
        mut request: Request<BodyStream>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        loop {
            let first = self.turn.fetch_add(1, Ordering::Relaxed);
            let mut checkout = match self.idle(first) {
                Some(checkout) => checkout,
                // In a box: rare, and its state would else make every request's future larger.
                None => Box::pin(self.checkout(first))
                    .await
                    .map_err(SendError::Unreachable)?,
            };
            let Checkout { link, patience, .. } = &mut checkout;
            let mut answer = link.begin(request, self.secure);
            let head = pin!(poll_fn(|cx| link.poll_answer(&mut answer, cx)));
            match patience.limit(self.timeout, head).await {
                None => {
                    checkout.failed(Failure::Timeout);
                    return Err(SendError::Timeout);
                }
                Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    let unasked = "it switched to another protocol without being asked to";
                    checkout.failed(Failure::Broken);
                    return Err(SendError::Broken(unasked.into()));
                }
                Some(Ok(response)) => {
                    // Whatever its status: that is the application's affair.
                    checkout.succeeded();
                    return Ok(
                        response.map(|body| UpstreamBody::new(body, checkout, self.read_timeout))
                    );
                }
                Some(Err(mut failed)) => match failed.take_message() {
                    // hyper gives a request back only if it never began to write it: another connection may have it.
                    // A fresh connection that fails so is a fault of the upstream; to try again could go on for ever.
                    Some(unsent) if checkout.reused => request = unsent,
                    _ => {
                        checkout.failed(Failure::Broken);
                        return Err(SendError::Broken(failed.into_error().into()));
                    }
                },
            }
        }
    }

    /// Sends a small request of our own and reads its answer whole, up to `answer_bytes_max`. Not for what senders sent.
    ///
    /// # Errors
    /// As [`Self::send`]; an answer that breaks off or is too long is [`SendError::Broken`].
    pub(crate) async fn exchange(
        &self,
        request: Request<Bytes>,
        answer_bytes_max: usize,
    ) -> Result<Response<Bytes>, SendError> {
        let store = BodyStore::new(BodyStoreConfig {
            memory: u64::MAX,
            spool_dir: None,
            spool: 0,
        });
        let broken = |error: StoreError| SendError::Broken(error.into());
        let (head, body) = request.into_parts();
        let mut writer = store.writer();
        writer.push(body).await.map_err(broken)?;
        let body = writer.finish().await.map_err(broken)?.into_stream();
        let (head, body) = self
            .send(Request::from_parts(head, body))
            .await?
            .into_parts();
        let body = Limited::new(body, answer_bytes_max)
            .collect()
            .await
            .map_err(SendError::Broken)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    /// What [`Self::checkout`] would begin with, if it is there.
    fn idle(&self, first: usize) -> Option<Checkout> {
        let pool = self.pools.get(first % self.pools.len().max(1))?;
        pool.health.is_well().then(|| pool.reuse(false)).flatten()
    }

    /// An open connection: one from earlier, else a new one to the first address that takes it. Addresses that were set aside come
    /// last.
    async fn checkout(&self, first: usize) -> io::Result<Checkout> {
        let give_up = Instant::now() + self.connect_retry;
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let mut fault = None;
            let mut aside = Vec::new();
            let mut round = (0..self.pools.len())
                .map(|offset| &self.pools[(first.wrapping_add(offset)) % self.pools.len()]);
            loop {
                let (pool, trial) = if let Some(pool) = round.next() {
                    match pool.health.turn(Instant::now()) {
                        Turn::Ready => (pool, false),
                        Turn::Trial => (pool, true),
                        Turn::Aside => {
                            aside.push(pool);
                            continue;
                        }
                    }
                } else if let Some(pool) = aside.pop() {
                    // All others failed: it can only be better than nothing.
                    (pool, false)
                } else {
                    break;
                };
                if let Some(checkout) = pool.reuse(trial) {
                    return Ok(checkout);
                }
                match pool.open(trial).await {
                    Ok(checkout) => return Ok(checkout),
                    Err(error) => fault = Some(error),
                }
            }
            let fault = fault.unwrap_or_else(|| io::Error::other("the upstream has no address"));
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(fault);
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }
}

impl Link {
    /// Hands a request over. It goes out while [`Self::poll_answer`] is polled.
    fn begin(&mut self, mut request: Request<BodyStream>, secure: bool) -> Answer {
        match self {
            Self::Http1(connection) => connection.begin(request),
            Self::Http2(sender) => {
                *request.version_mut() = Version::HTTP_2;
                *request.uri_mut() = absolute(&request, secure);
                Box::pin(sender.try_send_request(request))
            }
        }
    }

    fn poll_answer(
        &mut self,
        answer: &mut Answer,
        cx: &mut Context<'_>,
    ) -> Poll<<Answer as Future>::Output> {
        match self {
            Self::Http1(connection) => connection.poll_answer(answer, cx),
            Self::Http2(_) => answer.as_mut().poll(cx),
        }
    }
}

/// HTTP/2 carries scheme and authority beside the path. The host goes out as the sender named it.
fn absolute(request: &Request<BodyStream>, secure: bool) -> Uri {
    let mut parts = uri::Parts::default();
    parts.path_and_query = request.uri().path_and_query().cloned();
    parts.scheme = Some(if secure {
        uri::Scheme::HTTPS
    } else {
        uri::Scheme::HTTP
    });
    parts.authority = request
        .headers()
        .get(http::header::HOST)
        .and_then(|host| host.as_bytes().try_into().ok());
    Uri::from_parts(parts).unwrap_or_else(|_| request.uri().clone())
}
