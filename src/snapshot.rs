//! Everything that serves requests, as one value that never changes, and what lives longer than it.

use std::sync::Arc;

use crate::{
    acme::Certificates,
    body::{BodyStore, BodyStoreConfig},
    config::Config,
    fetch::Fetcher,
    forward::{Identity, Instance},
    receive::Pace,
    replay::Guard,
    route::RouteTable,
    telemetry::{Metrics, RouteCounters, Tracing},
    upstream::Upstream,
};

/// Where bodies are spooled if the configuration names no folder: unlike `/tmp`, it is on disk everywhere.
const SPOOL_DIR: &str = "/var/tmp";

/// One state of the gateway. A reload makes the next one; requests under way keep the one they began with.
pub struct Snapshot {
    /// Which requests go where.
    pub routes: RouteTable,
    /// Where they go, by [`Route::index`](crate::route::Route::index). Shared with the next snapshot where nothing changes.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What is counted, by the same index.
    pub counters: Vec<RouteCounters>,
    /// Gets the keys that are not pinned; `None`: no route needs it.
    pub fetcher: Option<Fetcher>,
    /// How requests are traced; `None`: they are not, and what senders say of their traces passes as it is.
    pub tracing: Option<Tracing>,
    /// Knows duplicates: [`Lasting::replay`].
    pub replay: Arc<Guard>,
    /// Where bodies are held: [`Lasting::bodies`].
    pub bodies: BodyStore,
    /// How fast they must come.
    pub pace: Pace,
    /// Most requests at once.
    pub in_flight_max: usize,
    /// Largest request head in bytes.
    pub head_bytes_max: usize,
    /// How forwarded requests are marked.
    pub identity: Identity,
}

/// What lives as long as the process, however often snapshots are exchanged.
///
/// What must survive a reload whatever changes belongs here. A snapshot holds a handle to it, so that a request needs the snapshot
/// alone. What survives only where its own part of the configuration stays the same is handed on from snapshot to snapshot.
pub struct Lasting {
    /// The budget and the spool of all bodies. Two of them would hold twice what the operator allows.
    pub bodies: BodyStore,
    /// What it remembers of deliveries must not be forgotten.
    pub replay: Arc<Guard>,
    /// How this process appears in `Via`.
    pub instance: Instance,
    /// Certificates that are obtained: they are not asked for again.
    pub certificates: Arc<Certificates>,
}

impl Lasting {
    /// Made once, at the start.
    ///
    /// # Errors
    /// If the replay store cannot be made.
    pub fn new(config: &Config, metrics: &Metrics) -> anyhow::Result<Self> {
        let limits = &config.limits;
        Ok(Self {
            bodies: BodyStore::new(BodyStoreConfig {
                memory: limits.body_memory,
                spool_dir: Some(limits.spool_dir.clone().unwrap_or_else(|| SPOOL_DIR.into())),
                spool: limits.spool,
            }),
            replay: Arc::new(Guard::new(&config.replay, metrics.replay())?),
            instance: Instance::default(),
            certificates: Arc::default(),
        })
    }
}
