//! What the operator sees: metrics and log lines. No body, secret, tag, query or header value passes through here.

mod events;
mod log;
mod names;
mod reloads;
mod traces;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

pub use self::{
    events::{Detail, Outcome, RequestEvent, RequestLog},
    log::LogSink,
    reloads::{Failure, Reloads, State as ReloadState},
    traces::{
        Forwarding, RequestSpan, Seen, SpanContext, Trace, TraceMetrics, TraceQueue, TracedAddress,
        TracedRoute, Tracing,
    },
};
use crate::{
    body::BodyStore,
    config::LogFormat,
    config::LogLevel,
    limit::Places,
    route::{KeyRef, Route, RouteTable},
};

/// Buckets of OpenTelemetry's HTTP convention, in seconds.
const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    route: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerificationLabels {
    route: String,
    scheme: String,
    result: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    route: String,
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyFetchLabels {
    route: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AddressLabels {
    route: String,
    address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    route: String,
    address: String,
    kind: &'static str,
}

/// What is counted for one address of an upstream.
#[derive(Debug, Default)]
pub struct AddressMetrics {
    /// 0 while it is set aside.
    pub up: Gauge,
    /// Connections that were opened.
    pub connects: Counter,
    /// In the order of the kinds that [`Metrics::address`] was given.
    pub failures: [Counter; 3],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SchemeLabel {
    scheme: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabels {
    route: String,
    key: String,
}

/// Builds a histogram of durations.
fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// Builds a histogram of sizes: 1 KiB to 256 MiB.
fn bytes() -> Histogram {
    Histogram::new((0..10).map(|power| 1024.0 * 4.0_f64.powi(power)))
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    verifications: Family<VerificationLabels, Counter>,
    handshakes: Family<HandshakeLabels, Counter>,
    request_duration: Family<RouteLabel, Histogram>,
    verify_duration: Family<RouteLabel, Histogram>,
    upstream_duration: Family<RouteLabel, Histogram>,
    body: Family<RouteLabel, Histogram>,
    delivery_age: Family<SchemeLabel, Histogram>,
    key_last_used: Family<KeyLabels, Gauge>,
    route_keys: Family<RouteLabel, Gauge>,
    route_inflight: Family<RouteLabel, Gauge>,
    key_fetches: KeyFetches,
    replay: ReplayMetrics,
    upstream_up: Family<AddressLabels, Gauge>,
    upstream_connects: Family<AddressLabels, Counter>,
    upstream_failures: Family<FailureLabels, Counter>,
    buffered: Gauge<u64, AtomicU64>,
    spooled: Gauge<u64, AtomicU64>,
    spooled_bodies: Gauge<u64, AtomicU64>,
    log_dropped: Counter,
    /// Spans of requests.
    pub traces: TraceMetrics,
    /// Loads and reloads of the configuration.
    pub reloads: Reloads,
    inflight: Gauge<u64, AtomicU64>,
    /// Open downstream connections.
    pub connections: Gauge,
    /// Failed accepts.
    pub accept_errors: Counter,
    /// Failed TLS handshakes.
    pub handshake_errors: Counter,
    /// PROXY headers that were missing or malformed, or did not come in time.
    pub proxy_header_errors: Counter,
    /// Heads that were not HTTP.
    pub unreadable_heads: Counter,
}

/// One route's metrics, looked up once.
pub struct RouteCounters {
    route: String,
    scheme: String,
    forwarded: Counter,
    verified: Counter,
    request_duration: Histogram,
    verify_duration: Histogram,
    upstream_duration: Histogram,
    /// Requests of the route that are being served.
    pub inflight: Gauge,
    body: Histogram,
    delivery_age: Histogram,
    /// By place of the key in the route's keys.
    keys: Vec<Gauge>,
    /// Those that requests came to so far: outcomes and reasons are of closed sets.
    endings: RwLock<Vec<Ending>>,
}

/// What is counted of requests that were not forwarded, all for the same reason. Looked up once: a refusal shall cost little.
struct Ending {
    outcome: Outcome,
    reason: &'static str,
    requests: Counter,
    refusals: Option<Counter>,
    rejected: Option<Counter>,
}

impl Ending {
    fn count(&self) {
        self.requests.inc();
        for counter in self.refusals.iter().chain(&self.rejected) {
            counter.inc();
        }
    }
}

/// Counts fetches of keys. Clones count together.
#[derive(Clone, Default)]
pub struct KeyFetches(Family<KeyFetchLabels, Counter>);

impl KeyFetches {
    /// Counts one, by how it ended: a word of a closed set.
    pub fn count(&self, route: &str, result: &'static str) {
        let labels = KeyFetchLabels {
            route: route.to_owned(),
            result,
        };
        self.0.get_or_create(&labels).inc();
    }
}

/// What is told of the replay store. Clones tell together.
#[derive(Clone, Default)]
pub struct ReplayMetrics {
    entries: Gauge,
    evictions: Counter,
    up: Gauge,
    errors: Family<KindLabel, Counter>,
}

impl ReplayMetrics {
    /// What it holds, and how many it gave up so far for lack of room.
    pub fn holds(&self, entries: u64, evicted: u64) {
        self.entries.set(entries.try_into().unwrap_or(i64::MAX));
        self.evictions
            .inc_by(evicted.saturating_sub(self.evictions.get()));
    }

    /// Whether it can be asked.
    pub fn set_up(&self, up: bool) {
        self.up.set(up.into());
    }

    /// Counts a fault: a word of a closed set.
    pub fn failed(&self, kind: &'static str) {
        self.errors.get_or_create(&KindLabel { kind }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            refusals: Family::default(),
            verifications: Family::default(),
            handshakes: Family::default(),
            request_duration: Family::new_with_constructor(seconds),
            verify_duration: Family::new_with_constructor(|| {
                Histogram::new([0.0001, 0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 5.0])
            }),
            upstream_duration: Family::new_with_constructor(seconds),
            body: Family::new_with_constructor(bytes),
            delivery_age: Family::new_with_constructor(|| {
                Histogram::new([0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0])
            }),
            key_last_used: Family::default(),
            route_keys: Family::default(),
            route_inflight: Family::default(),
            key_fetches: KeyFetches::default(),
            replay: ReplayMetrics::default(),
            upstream_up: Family::default(),
            upstream_connects: Family::default(),
            upstream_failures: Family::default(),
            buffered: Gauge::default(),
            spooled: Gauge::default(),
            spooled_bodies: Gauge::default(),
            log_dropped: Counter::default(),
            traces: TraceMetrics::default(),
            reloads: Reloads::default(),
            inflight: Gauge::default(),
            connections: Gauge::default(),
            accept_errors: Counter::default(),
            handshake_errors: Counter::default(),
            proxy_header_errors: Counter::default(),
            unreadable_heads: Counter::default(),
        };
        let registry = &mut metrics.registry;
        let (name, help) = names::REQUESTS;
        registry.register(name, help, metrics.requests.clone());
        let (name, help) = names::REFUSALS;
        registry.register(name, help, metrics.refusals.clone());
        let (name, help) = names::VERIFICATIONS;
        registry.register(name, help, metrics.verifications.clone());
        let (name, help) = names::HANDSHAKES;
        registry.register(name, help, metrics.handshakes.clone());
        let (name, help) = names::REQUEST_DURATION;
        registry.register_with_unit(name, help, Unit::Seconds, metrics.request_duration.clone());
        let (name, help) = names::VERIFY_DURATION;
        registry.register_with_unit(name, help, Unit::Seconds, metrics.verify_duration.clone());
        let (name, help) = names::UPSTREAM_DURATION;
        registry.register_with_unit(name, help, Unit::Seconds, metrics.upstream_duration.clone());
        let (name, help) = names::BODY;
        registry.register_with_unit(name, help, Unit::Bytes, metrics.body.clone());
        let (name, help) = names::DELIVERY_AGE;
        registry.register_with_unit(name, help, Unit::Seconds, metrics.delivery_age.clone());
        let (name, help) = names::KEY_LAST_USED;
        registry.register_with_unit(name, help, Unit::Seconds, metrics.key_last_used.clone());
        let (name, help) = names::ROUTE_KEYS;
        registry.register(name, help, metrics.route_keys.clone());
        let (name, help) = names::ROUTE_INFLIGHT;
        registry.register(name, help, metrics.route_inflight.clone());
        let (name, help) = names::KEY_FETCHES;
        registry.register(name, help, metrics.key_fetches.0.clone());
        let (name, help) = names::REPLAY_ENTRIES;
        registry.register(name, help, metrics.replay.entries.clone());
        let (name, help) = names::REPLAY_EVICTIONS;
        registry.register(name, help, metrics.replay.evictions.clone());
        let (name, help) = names::REPLAY_STORE_UP;
        registry.register(name, help, metrics.replay.up.clone());
        let (name, help) = names::REPLAY_STORE_ERRORS;
        registry.register(name, help, metrics.replay.errors.clone());
        let (name, help) = names::INFLIGHT;
        registry.register(name, help, metrics.inflight.clone());
        let (name, help) = names::CONNECTIONS;
        registry.register(name, help, metrics.connections.clone());
        let (name, help) = names::ACCEPT_ERRORS;
        registry.register(name, help, metrics.accept_errors.clone());
        let (name, help) = names::HANDSHAKE_ERRORS;
        registry.register(name, help, metrics.handshake_errors.clone());
        let (name, help) = names::PROXY_HEADER_ERRORS;
        registry.register(name, help, metrics.proxy_header_errors.clone());
        let (name, help) = names::UPSTREAM_UP;
        registry.register(name, help, metrics.upstream_up.clone());
        let (name, help) = names::UPSTREAM_CONNECTS;
        registry.register(name, help, metrics.upstream_connects.clone());
        let (name, help) = names::UPSTREAM_FAILURES;
        registry.register(name, help, metrics.upstream_failures.clone());
        let (name, help) = names::UNREADABLE_HEADS;
        registry.register(name, help, metrics.unreadable_heads.clone());
        let (name, help) = names::BUFFERED;
        registry.register_with_unit(name, help, Unit::Bytes, metrics.buffered.clone());
        let (name, help) = names::SPOOLED;
        registry.register_with_unit(name, help, Unit::Bytes, metrics.spooled.clone());
        let (name, help) = names::SPOOLED_BODIES;
        registry.register(name, help, metrics.spooled_bodies.clone());
        let (name, help) = names::LOG_DROPPED;
        registry.register(name, help, metrics.log_dropped.clone());
        metrics.traces.register(registry);
        metrics.reloads.register(registry);
        let (name, help) = names::BUILD_INFO;
        registry.register(
            name,
            help,
            Info::new([
                ("version", env!("CARGO_PKG_VERSION")),
                ("revision", env!("BUILT_OF")),
                ("rustc", env!("BUILT_BY")),
            ]),
        );
        metrics
    }
}

impl Metrics {
    /// Looks up, and so creates at zero, what is counted for a route.
    pub fn route(&self, route: &Route) -> RouteCounters {
        let label = RouteLabel {
            route: route.name.clone(),
        };
        if route.fetching.is_none() {
            self.route_keys
                .get_or_create(&label)
                .set(route.keys.len().try_into().unwrap_or(i64::MAX));
        }
        let keys = route.keys.iter().map(|key| KeyLabels {
            route: route.name.clone(),
            key: key.id.clone(),
        });
        RouteCounters {
            forwarded: self.requests.get_or_create_owned(&RequestLabels {
                route: route.name.clone(),
                outcome: Outcome::Forwarded.as_str(),
            }),
            verified: self.verifications.get_or_create_owned(&VerificationLabels {
                route: route.name.clone(),
                scheme: route.scheme.name().to_owned(),
                result: if route.scheme.needs_secret() {
                    "verified"
                } else {
                    "not_required"
                },
                reason: "",
            }),
            request_duration: self.request_duration.get_or_create_owned(&label),
            verify_duration: self.verify_duration.get_or_create_owned(&label),
            upstream_duration: self.upstream_duration.get_or_create_owned(&label),
            inflight: self.route_inflight.get_or_create_owned(&label),
            body: self.body.get_or_create_owned(&label),
            delivery_age: self.delivery_age.get_or_create_owned(&SchemeLabel {
                scheme: route.scheme.name().to_owned(),
            }),
            keys: keys
                .map(|labels| self.key_last_used.get_or_create_owned(&labels))
                .collect(),
            route: route.name.clone(),
            scheme: route.scheme.name().to_owned(),
            endings: RwLock::default(),
        }
    }

    /// Takes away what only tells of the present, of routes and keys that are there no more. What was counted stays: it would
    /// else begin anew if they came back.
    pub fn retire(&self, gone: &RouteTable, present: &RouteTable) {
        let present: HashMap<_, _> = present.iter().map(|route| (&*route.name, route)).collect();
        for route in gone.iter() {
            let now = present.get(&*route.name);
            if now.is_none() {
                // Those that are still being served count on, unseen.
                self.route_inflight.remove(&RouteLabel {
                    route: route.name.clone(),
                });
            }
            if now.is_none_or(|now| now.fetching.is_some()) {
                self.route_keys.remove(&RouteLabel {
                    route: route.name.clone(),
                });
            }
            for key in &route.keys {
                let stays = now.is_some_and(|now| now.keys.iter().any(|other| other.id == key.id));
                if !stays {
                    self.key_last_used.remove(&KeyLabels {
                        route: route.name.clone(),
                        key: key.id.clone(),
                    });
                }
            }
        }
    }

    /// Takes away whether an address answers that a route has no more.
    pub fn retire_address(&self, route: &str, address: &str) {
        self.upstream_up.remove(&AddressLabels {
            route: route.to_owned(),
            address: address.to_owned(),
        });
    }

    /// What is counted for an address of a route's upstream, with the kinds of failures.
    pub fn address(&self, route: &str, address: &str, kinds: [&'static str; 3]) -> AddressMetrics {
        let labels = AddressLabels {
            route: route.to_owned(),
            address: address.to_owned(),
        };
        AddressMetrics {
            up: self.upstream_up.get_or_create_owned(&labels),
            connects: self.upstream_connects.get_or_create_owned(&labels),
            failures: kinds.map(|kind| {
                self.upstream_failures.get_or_create_owned(&FailureLabels {
                    route: labels.route.clone(),
                    address: labels.address.clone(),
                    kind,
                })
            }),
        }
    }

    /// What counts fetches of keys.
    pub fn key_fetches(&self) -> KeyFetches {
        self.key_fetches.clone()
    }

    /// What tells of the replay store.
    pub fn replay(&self) -> ReplayMetrics {
        self.replay.clone()
    }

    /// The text that Prometheus reads.
    pub fn render(&self, bodies: &BodyStore, in_flight: &Places, sink: &LogSink) -> String {
        self.inflight.set(in_flight.taken() as u64);
        self.buffered.set(bodies.memory_bytes());
        self.spooled.set(bodies.spool_bytes());
        self.spooled_bodies.set(bodies.spooled_bodies());
        self.log_dropped
            .inc_by(sink.dropped().saturating_sub(self.log_dropped.get()));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Looks up, and so creates at zero, what is counted where requests end so.
    fn ending(
        &self,
        route: &str,
        scheme: Option<&str>,
        outcome: Outcome,
        reason: &'static str,
    ) -> Ending {
        let route = route.to_owned();
        let is_refusal = !reason.is_empty() && outcome != Outcome::Observed;
        let scheme = scheme.filter(|_| outcome == Outcome::NotVerified);
        Ending {
            outcome,
            reason,
            refusals: is_refusal.then(|| {
                let route = route.clone();
                self.refusals
                    .get_or_create_owned(&RefusalLabels { route, reason })
            }),
            rejected: scheme.map(|scheme| {
                self.verifications.get_or_create_owned(&VerificationLabels {
                    route: route.clone(),
                    scheme: scheme.to_owned(),
                    result: "rejected",
                    reason,
                })
            }),
            requests: self.requests.get_or_create_owned(&RequestLabels {
                route,
                outcome: outcome.as_str(),
            }),
        }
    }

    fn count_ending(&self, route: &RouteCounters, outcome: Outcome, reason: &'static str) {
        let endings = route.endings.read();
        let endings = endings.unwrap_or_else(PoisonError::into_inner);
        let known = endings
            .iter()
            .find(|ending| ending.outcome == outcome && ending.reason == reason);
        if let Some(known) = known {
            return known.count();
        }
        drop(endings);
        let ending = self.ending(&route.route, Some(&route.scheme), outcome, reason);
        ending.count();
        let endings = route.endings.write();
        // Two may come at once: both count what is one.
        endings.unwrap_or_else(PoisonError::into_inner).push(ending);
    }

    /// Counts one finished request.
    fn count(&self, event: &RequestEvent, route: Option<&RouteCounters>, total: Duration) {
        let Some(route) = route else {
            self.ending("", None, event.outcome, event.reason).count();
            return;
        };
        if event.outcome == Outcome::Forwarded {
            route.forwarded.inc();
        } else {
            self.count_ending(route, event.outcome, event.reason);
        }
        if let Some(kind) = event.handshake {
            let labels = HandshakeLabels {
                route: route.route.clone(),
                kind: kind.as_str(),
                result: match event.outcome {
                    Outcome::Handshake => "answered",
                    Outcome::Forwarded | Outcome::Observed => "forwarded",
                    Outcome::NotVerified
                    | Outcome::Rejected
                    | Outcome::Unavailable
                    | Outcome::Replayed
                    | Outcome::UpstreamError
                    | Outcome::Aborted
                    | Outcome::Cut => "refused",
                },
            };
            self.handshakes.get_or_create(&labels).inc();
        }
        if event.verified {
            route.verified.inc();
            route.body.observe(event.body_bytes as f64);
            // Only pinned keys: labels come from the configuration alone.
            if let Some(KeyRef::Pinned(place)) = event.key
                && let Some(gauge) = route.keys.get(place)
            {
                gauge.set(event.at.secs());
            }
            if let Some(signed_at) = event.signed_at {
                route.delivery_age.observe(
                    (event.at.millis().saturating_sub(signed_at.millis())) as f64 / 1000.0,
                );
            }
        }
        if let Some((reason, _)) = &event.observed {
            let labels = VerificationLabels {
                route: route.route.clone(),
                scheme: route.scheme.clone(),
                result: "observed",
                reason,
            };
            self.verifications.get_or_create(&labels).inc();
        }
        if let Some(verify) = event.verify {
            route.verify_duration.observe(verify.as_secs_f64());
        }
        if let Some(upstream) = event.upstream {
            route.upstream_duration.observe(upstream.as_secs_f64());
        }
        route.request_duration.observe(total.as_secs_f64());
    }
}

/// Sends `tracing` events, which tell of the process, to the sink. Lines about requests are written by [`RequestLog`].
pub fn install(sink: &LogSink, format: LogFormat, level: LogLevel) {
    use tracing_subscriber::{EnvFilter, fmt};
    let word = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    // What libraries say at debug level may hold header values.
    let filter = EnvFilter::new(format!("warn,countersign={word}"));
    let builder = fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(sink.clone());
    // A second call, in a test, changes nothing.
    let _ = match format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
}

/// What the pipeline reports to.
pub struct Telemetry {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The line per request.
    pub requests: RequestLog,
}
