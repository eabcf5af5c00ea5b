//! Every metric: its name as it is registered, and what it says.
//!
//! The exporter appends `_total` to counters and the unit to its name.

/// Name and help text of one metric.
pub(super) type Name = (&'static str, &'static str);

pub(super) const REQUESTS: Name = (
    "countersign_requests",
    "Requests by route and outcome; route is empty where none was found",
);
pub(super) const REFUSALS: Name = (
    "countersign_refusals",
    "Requests that were not forwarded, or not answered whole, by route and reason",
);
pub(super) const VERIFICATIONS: Name = (
    "countersign_verifications",
    "Signature checks by route, scheme, result and reason",
);
pub(super) const HANDSHAKES: Name = (
    "countersign_handshakes",
    "Handshakes of providers by route, kind and result",
);
pub(super) const REQUEST_DURATION: Name = (
    "countersign_request_duration",
    "From the request head to the last byte of the answer, by route",
);
pub(super) const VERIFY_DURATION: Name = (
    "countersign_verify_duration",
    "From the last byte of the body until the request goes to the upstream: check, fetched keys, replay store; by route",
);
pub(super) const UPSTREAM_DURATION: Name = (
    "countersign_upstream_duration",
    "From sending to the upstream's response head, by route",
);
pub(super) const BODY: Name = ("countersign_body", "Size of verified bodies, by route");
pub(super) const INFLIGHT: Name = ("countersign_inflight_requests", "Requests being served");
pub(super) const ROUTE_INFLIGHT: Name = (
    "countersign_route_inflight_requests",
    "Requests being served, by route",
);
pub(super) const CONNECTIONS: Name = ("countersign_connections", "Open downstream connections");
pub(super) const ACCEPT_ERRORS: Name = (
    "countersign_accept_errors",
    "Connections that could not be accepted, such as for lack of descriptors",
);
pub(super) const HANDSHAKE_ERRORS: Name = (
    "countersign_handshake_errors",
    "TLS handshakes that failed or took too long",
);
pub(super) const PROXY_HEADER_ERRORS: Name = (
    "countersign_proxy_header_errors",
    "Connections that were closed because their PROXY header was missing, malformed or late",
);
pub(super) const UPSTREAM_UP: Name = (
    "countersign_upstream_up",
    "0 while an address of an upstream is set aside, by route and address",
);
pub(super) const UPSTREAM_CONNECTS: Name = (
    "countersign_upstream_connects",
    "Connections opened to upstreams, by route and address",
);
pub(super) const UPSTREAM_FAILURES: Name = (
    "countersign_upstream_failures",
    "Failures of upstreams by route, address and kind",
);
pub(super) const UNREADABLE_HEADS: Name = (
    "countersign_unreadable_heads",
    "Request heads that were not HTTP; they get a bare 400 or 431 and no log line",
);
pub(super) const BUFFERED: Name = ("countersign_buffered", "Bodies held in memory");
pub(super) const SPOOLED: Name = ("countersign_spooled", "Bodies held on disk");
pub(super) const SPOOLED_BODIES: Name = (
    "countersign_spooled_bodies",
    "Number of bodies that are partly on disk",
);
pub(super) const KEY_LAST_USED: Name = (
    "countersign_key_last_used_timestamp",
    "When a key last verified a request, by route and key id; 0: not since start",
);
pub(super) const DELIVERY_AGE: Name = (
    "countersign_delivery_age",
    "Arrival minus signed time of verified requests, by scheme",
);
pub(super) const ROUTE_KEYS: Name = (
    "countersign_route_usable_keys",
    "Secrets of a route that could be loaded; 0: the route answers 503",
);
pub(super) const KEY_FETCHES: Name = (
    "countersign_key_fetches",
    "Fetches of documents with the keys of senders, by the route that began them and how they ended",
);
pub(super) const REPLAY_ENTRIES: Name = (
    "countersign_replay_entries",
    "Deliveries in the replay store of this process: under way, or within their window",
);
pub(super) const REPLAY_EVICTIONS: Name = (
    "countersign_replay_evictions",
    "Deliveries that the replay store forgot before the end of their window, for lack of room",
);
pub(super) const REPLAY_STORE_UP: Name = (
    "countersign_replay_store_up",
    "Whether the store of the replay guards can be asked; 0: see `on_store_failure`. Always 1 in memory",
);
pub(super) const REPLAY_STORE_ERRORS: Name = (
    "countersign_replay_store_errors",
    "Questions to the store of the replay guards, and attempts to connect to it, that failed, by kind",
);
pub(super) const LOG_DROPPED: Name = (
    "countersign_log_lines_dropped",
    "Log lines lost because the output was too slow",
);
pub(super) const SPANS_EXPORTED: Name = (
    "countersign_trace_spans_exported",
    "Spans that the collector took",
);
pub(super) const SPANS_DROPPED: Name = (
    "countersign_trace_spans_dropped",
    "Spans that will not reach the collector, by cause",
);
pub(super) const CONFIG_LOADS: Name = (
    "countersign_config_loads",
    "Loads of the configuration, the one at the start included, by result",
);
pub(super) const RELOAD_SUCCESSFUL: Name = (
    "countersign_config_last_reload_successful",
    "Whether the last load of the configuration and its files succeeded; 0: an older state serves",
);
pub(super) const RELOAD_SUCCESS_AT: Name = (
    "countersign_config_last_reload_success_timestamp",
    "When configuration and files were last loaded with success",
);
pub(super) const CONFIG_INFO: Name = (
    "countersign_config_info",
    "Digest of the configuration that serves; always 1",
);
pub(super) const CERTIFICATE_EXPIRY: Name = (
    "countersign_tls_certificate_expiry_timestamp",
    "When the certificate for a server name ends; name empty: for senders that name no host, or an unknown one",
);
pub(super) const ACME_ORDERS: Name = (
    "countersign_acme_orders",
    "Attempts to obtain a certificate from the authority, by result",
);
pub(super) const BUILD_INFO: Name = ("countersign_build", "Version of the program");
