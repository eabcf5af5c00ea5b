//! Everything that serves requests, as one value that never changes.

use crate::{
    body::BodyStore, fetch::Fetcher, forward::Identity, receive::Pace, route::RouteTable,
    telemetry::RouteCounters, upstream::Upstream,
};

/// One state of the gateway.
pub struct Snapshot {
    /// Which requests go where.
    pub routes: RouteTable,
    /// Where they go, by [`Route::index`](crate::route::Route::index).
    pub upstreams: Vec<Upstream>,
    /// What is counted, by the same index.
    pub counters: Vec<RouteCounters>,
    /// Gets the keys that are not pinned; `None`: no route needs it.
    pub fetcher: Option<Fetcher>,
    /// Where bodies are held.
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
