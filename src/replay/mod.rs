//! Between verified and forwarded: the replay guard.
//!
//! [`admit`] asks the store whether a delivery may go on, and reserves it under a lease; [`Held::settle_after`] sees the delivery through
//! and tells the store how it ended. The forwarder takes [`Admitted`] and nothing less.
//!
//! ```text
//!            admit: granted            settled: 2xx                window over
//!   unknown ────────────────► lease ─────────────────► succeeded ───────────────► unknown
//!      ▲                        │ settled: anything else, or lapsed     │
//!      └────────────────────────┘                                       └ admit: a duplicate
//! ```

mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod sentinel;
mod store;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

#[cfg(feature = "redis")]
use anyhow::Context as _;
use http::{Response, StatusCode};
#[cfg(feature = "redis")]
use sha2::{Digest as _, Sha256};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;

#[cfg(feature = "redis")]
pub use self::redis::{Fault as RedisFault, Passwords as RedisPasswords, Store as RedisStore};
pub use self::{
    memory::{ENTRY_BYTES_MAX, Store as MemoryStore},
    store::{Admission, Id, IdKey, Settlement, Store, StoreFault, Token},
};
use crate::{
    body::StoreError,
    config::{GuardConfig, OnDuplicate, OnStoreFailure, RedisConfig, ReplayConfig, ReplayStore},
    reject::{Rejection, SignatureFault},
    scheme::{
        ClaimError, HANDSHAKE_BODY_MAX, HandshakeMode, Place, Request, RequestHead, Scheme,
        WHOLE_BODY_MAX,
    },
    telemetry::ReplayMetrics,
    verify::{Standing, Verified},
};

#[cfg(feature = "redis")]
use crate::{config::RedisServers, secret::SecretSource};

/// A verified request that may be forwarded now.
///
/// Made by [`admit`] alone.
pub struct Admitted<'s> {
    request: Verified<'s>,
    lease: Lease,
}

/// The right to deliver, to be settled when the upstream has answered.
#[derive(Debug)]
pub enum Lease {
    /// The route has no replay guard, or the request is a handshake.
    NotRequired,
    /// The guard's store failed, and the operator wrote that deliveries pass then.
    Unguarded,
    /// The store holds it.
    Held(Held),
}

/// A lease in the store. One that is dropped lapses.
pub struct Held {
    guard: Arc<Guard>,
    id: Id,
    token: Token,
    window: Duration,
    /// The delivery is given up then.
    until: Instant,
}

/// What the guard says to a delivery.
#[expect(
    clippy::large_enum_variant,
    reason = "a box would be an allocation per request, and it lives for a moment"
)]
pub enum Decision<'s> {
    /// It may be forwarded.
    Admitted(Admitted<'s>),
    /// It succeeded before; this is the status that the upstream gave.
    Duplicate(StatusCode),
}

/// What the guards of all routes share: the store, and what is told of it.
pub struct Guard {
    store: Store,
    key: IdKey,
    on_store_failure: OnStoreFailure,
    metrics: ReplayMetrics,
    /// Deliveries whose senders have left.
    left: TaskTracker,
}

/// Asks the guard whether a verified request may go on. Without a guard on its route it may.
///
/// # Errors
/// A duplicate that is refused, or a store that has no room or fails.
pub async fn admit<'s>(
    request: Verified<'s>,
    guard: &Arc<Guard>,
) -> Result<Decision<'s>, Rejection> {
    match (&request.route().guard, request.standing()) {
        (Some(settings), Standing::Proven(_)) => {
            // In a box: routes without a guard keep no room for it.
            Box::pin(guard.admit(request, settings)).await
        }
        // What did not verify may be anything: it neither is a duplicate nor makes one.
        (None, _) | (_, Standing::NotRequired | Standing::Handshake | Standing::Observed(_)) => {
            let lease = Lease::NotRequired;
            Ok(Decision::Admitted(Admitted { request, lease }))
        }
    }
}

impl Guard {
    /// Opens the store.
    ///
    /// # Errors
    /// If there are no random numbers, or the store's secrets or certificates cannot be used.
    pub fn new(config: &ReplayConfig, metrics: ReplayMetrics) -> anyhow::Result<Self> {
        let (store, key) = match &config.store {
            ReplayStore::Memory => {
                let mut key = [0; 32];
                aws_lc_rs::rand::fill(&mut key)
                    .map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
                let store = MemoryStore::new(config.entries, Instant::now());
                metrics.set_up(true);
                (Store::Memory(store), IdKey::new(&key))
            }
            ReplayStore::Redis(redis) => redis_store(redis, config.on_store_failure, &metrics)?,
        };
        let left = TaskTracker::new();
        // It can be waited for at any time; what comes later is tracked all the same.
        left.close();
        Ok(Self {
            store,
            key,
            on_store_failure: config.on_store_failure,
            metrics,
            left,
        })
    }

    /// Brings the figures up to date that are not told as they change.
    pub fn observe(&self) {
        if let Some(entries) = self.store.entries() {
            self.metrics.holds(entries, self.store.evicted());
        }
    }

    /// Waits until every delivery has been settled whose sender has left.
    pub async fn settled(&self) {
        if !self.left.is_empty() {
            let deliveries = self.left.len();
            tracing::info!(deliveries, "draining deliveries whose senders have left");
        }
        self.left.wait().await;
        self.store.settled().await;
    }

    /// Begins to connect to the store, where that is another process. Call it within the runtime.
    pub fn connect(&self) {
        self.store.connect();
    }

    /// Why the store cannot be asked; `None`: it can, as far as is known.
    pub fn trouble(&self) -> Option<StoreFault> {
        self.store.trouble()
    }

    /// What becomes of deliveries while the store cannot be asked.
    pub fn on_store_failure(&self) -> OnStoreFailure {
        self.on_store_failure
    }

    async fn admit<'s>(
        self: &Arc<Self>,
        mut request: Verified<'s>,
        settings: &GuardConfig,
    ) -> Result<Decision<'s>, Rejection> {
        let admitted = |request, lease| Ok(Decision::Admitted(Admitted { request, lease }));
        if is_handshake(&mut request).await.map_err(Rejection::Store)? {
            return admitted(request, Lease::NotRequired);
        }
        let identity = identity(&mut request).await?;
        let id = self.key.id(&request.route().name, &identity);
        let now = Instant::now();
        let admission = match self.store.admit(id, settings.lease, now).await {
            Ok(admission) => admission,
            Err(fault) => {
                return match self.on_store_failure {
                    OnStoreFailure::Reject => Err(Rejection::ReplayStoreFailed(fault.0)),
                    OnStoreFailure::Admit => admitted(request, Lease::Unguarded),
                };
            }
        };
        match admission {
            Admission::Granted(token) => {
                let held = Held {
                    guard: self.clone(),
                    id,
                    token,
                    window: settings.window,
                    until: now + settings.forwarding,
                };
                admitted(request, Lease::Held(held))
            }
            Admission::Succeeded { status } => match settings.on_duplicate {
                OnDuplicate::Status => {
                    let status = StatusCode::from_u16(status).ok();
                    let status = status.filter(StatusCode::is_success);
                    Ok(Decision::Duplicate(status.unwrap_or(StatusCode::OK)))
                }
                OnDuplicate::Conflict => Err(Rejection::Duplicate),
            },
            Admission::InFlight { .. } => Err(Rejection::DuplicateInFlight),
            Admission::Full => Err(Rejection::ReplayStoreFull),
        }
    }
}

/// The store in Redis, and the key that all instances share.
#[cfg(feature = "redis")]
fn redis_store(
    config: &RedisConfig,
    on_failure: OnStoreFailure,
    metrics: &ReplayMetrics,
) -> anyhow::Result<(Store, IdKey)> {
    let read = |source: &SecretSource, what: &str| {
        let loaded = source.read();
        let loaded = loaded.with_context(|| format!("{what} of the replay store: {source}"))?;
        anyhow::Ok(loaded.secret)
    };
    let password = config.password.as_ref();
    let mut passwords = RedisPasswords {
        servers: password
            .map(|source| read(source, "the password"))
            .transpose()?,
        sentinels: None,
    };
    if let RedisServers::Sentinel(sentinels) = &config.servers {
        let password = sentinels.password.as_ref();
        passwords.sentinels = password
            .map(|source| read(source, "the password for the Sentinels"))
            .transpose()?;
    }
    let key = match &config.key {
        Some(source) => Sha256::digest(read(source, "the key")?.expose()),
        None => Sha256::digest("countersign"),
    };
    let store = RedisStore::new(config, &passwords, on_failure, metrics.clone())?;
    Ok((Store::Redis(store), IdKey::new(&key.into())))
}

#[cfg(not(feature = "redis"))]
fn redis_store(
    _: &RedisConfig,
    _: OnStoreFailure,
    _: &ReplayMetrics,
) -> anyhow::Result<(Store, IdKey)> {
    // `config` has refused it.
    anyhow::bail!("this binary was built without Redis")
}

/// Whether it is a signed handshake that the upstream answers: those come again and want an answer each time.
async fn is_handshake(request: &mut Verified<'_>) -> Result<bool, StoreError> {
    let scheme = &request.route().scheme;
    if scheme.handshake_mode() != HandshakeMode::Forward
        || request.body_bytes() > HANDSHAKE_BODY_MAX
        || !scheme.may_be_verified_handshake(request.head())
    {
        return Ok(false);
    }
    let body = request.whole_body().await?;
    let handshake = scheme.verified_handshake(request.head(), body.as_ref());
    Ok(handshake.is_some())
}

/// What tells a delivery from all others of its route: the delivery id, or what the check saw.
async fn identity(request: &mut Verified<'_>) -> Result<Vec<u8>, Rejection> {
    let route = request.route();
    if let Some(id) = delivery_id(request, &route.scheme).await? {
        return Ok([&b"i"[..], &id].concat());
    }
    if let Some(fingerprint) = request.fingerprint() {
        return Ok(fingerprint.to_bytes());
    }
    // The scheme has nothing else, and this delivery does not bear it.
    let place = route.scheme.id_place().cloned().unwrap_or(Place::Body);
    Err(Rejection::NotVerified {
        fault: SignatureFault::Claim(ClaimError::PartMissing(place)),
        status: route.reject_status,
    })
}

async fn delivery_id(
    request: &mut Verified<'_>,
    scheme: &Scheme,
) -> Result<Option<Vec<u8>>, Rejection> {
    if !scheme.is_told_by_id() {
        return Ok(None);
    }
    let id_in = |head: RequestHead<'_>, body: &[u8]| scheme.delivery_id(&Request { head, body });
    if !scheme.id_in_body() {
        return Ok(id_in(request.head(), &[]));
    }
    // A longer one is not looked into, here as elsewhere.
    if request.body_bytes() > WHOLE_BODY_MAX {
        return Ok(None);
    }
    let body = request.whole_body().await.map_err(Rejection::Store)?;
    Ok(id_in(request.head(), body.as_ref()))
}

impl Held {
    /// Runs a delivery to its end and settles the lease: its success is remembered, anything else is forgotten. One that is still
    /// under way when the lease is about to lapse is given up, since another may have it then.
    ///
    /// # Errors
    /// The delivery's own, and [`Rejection::UpstreamTimeout`].
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing but who hears of the end: the delivery goes on by itself, and is settled.
    pub async fn settle_after<B: Send + 'static>(
        self,
        delivery: impl Future<Output = Result<Response<B>, Rejection>> + Send + 'static,
    ) -> Result<Response<B>, Rejection> {
        let tracker = self.guard.left.clone();
        let work = async move {
            let outcome = timeout_at(self.until, delivery)
                .await
                .unwrap_or(Err(Rejection::UpstreamTimeout));
            let settlement = self.settlement(&outcome);
            self.settle(settlement).await;
            outcome
        };
        SeenThrough {
            work: Some(Box::pin(work)),
            tracker,
        }
        .await
    }

    fn settlement<B>(&self, outcome: &Result<Response<B>, Rejection>) -> Settlement {
        match outcome {
            Ok(response) if response.status().is_success() => Settlement::Succeeded {
                status: response.status().as_u16(),
                window: self.window,
            },
            Ok(_) | Err(_) => Settlement::Failed,
        }
    }

    async fn settle(&self, settlement: Settlement) {
        let store = &self.guard.store;
        // The delivery is over, so its sender hears how it ended, whatever becomes of the lease. The store tells of its faults itself.
        let _ = store
            .settle(self.id, self.token, settlement, Instant::now())
            .await;
    }
}

/// Work that goes on in a task of its own if nobody waits for it any more.
struct SeenThrough<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    tracker: TaskTracker,
}

impl<T: Send + 'static> Future for SeenThrough<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.work else {
            return Poll::Pending;
        };
        let output = ready!(work.as_mut().poll(cx));
        self.work = None;
        Poll::Ready(output)
    }
}

impl<T: Send + 'static> Drop for SeenThrough<T> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            drop(self.tracker.spawn_on(
                async {
                    work.await;
                },
                &runtime,
            ));
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl<'s> Admitted<'s> {
    /// The request.
    pub fn request(&self) -> &Verified<'s> {
        &self.request
    }

    /// Whether it passes although its guard could not be asked.
    pub fn is_unguarded(&self) -> bool {
        matches!(self.lease, Lease::Unguarded)
    }

    /// Takes it apart: the request to send, the lease to settle.
    pub fn into_parts(self) -> (Verified<'s>, Lease) {
        (self.request, self.lease)
    }
}

impl fmt::Debug for Admitted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted")
            .field("request", &self.request)
            .field("lease", &self.lease)
            .finish()
    }
}

#[cfg(test)]
mod tests;
