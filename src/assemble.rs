//! From a checked configuration to the state that serves: reads secrets and certificates.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use sha2::{Digest as _, Sha256};

use crate::{
    clock::SystemClock,
    config::{Config, RouteConfig, SecretConfig},
    fetch::Fetcher,
    forward::Identity,
    pipeline::{Gateway, RequestIds},
    receive::Pace,
    reject::Chain,
    route::{Fetching, Route, RouteKey, RouteTable},
    scheme::{KEY_BYTES_MIN, Scheme},
    secret::{Doubt, Secret, SecretSource},
    snapshot::{Lasting, Snapshot},
    telemetry::{LogSink, Metrics, RequestLog, Telemetry, Tracing},
    upstream::{Failure, Health, SharedTls, Upstream},
};
#[cfg(feature = "otlp")]
use crate::{
    config::UpstreamAddr,
    export,
    telemetry::{TracedAddress, TracedRoute},
};

/// Something about a route that its operator should see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The route's name.
    pub route: String,
    /// The secret's id, if it is about one.
    pub key: Option<String>,
    /// The secret cannot be used; otherwise it is only worth a look.
    pub unusable: bool,
    /// What it is, and what to do.
    pub text: String,
}

impl Finding {
    fn for_people(&self) -> String {
        match &self.key {
            Some(key) => format!("secret {key}: {}", self.text),
            None => self.text.clone(),
        }
    }

    /// Writes it to the log.
    pub fn tell(&self) {
        let key = self.key.as_deref().unwrap_or_default();
        if self.unusable {
            tracing::error!(route = self.route, key, "secret unusable: {}", self.text);
        } else {
            tracing::warn!(route = self.route, key, "{}", self.text);
        }
    }
}

/// What served until now. Parts of it serve on where nothing changes for them.
pub struct Previous<'a> {
    /// Its configuration.
    pub config: &'a Config,
    /// What was made of that.
    pub snapshot: &'a Snapshot,
    /// Whether a file holds what it held then.
    pub unchanged: &'a dyn Fn(&Path) -> bool,
}

/// Puts the gateway together. An unusable secret closes its own route and is reported; everything else that is wrong is an error.
///
/// # Errors
/// If a certificate or key for an upstream cannot be used.
pub fn gateway(config: &Config, sink: LogSink) -> anyhow::Result<(Gateway, Vec<Finding>)> {
    let metrics = Metrics::default();
    let lasting = Lasting::new(config, &metrics)?;
    let (snapshot, findings) = snapshot(config, &lasting, &metrics, None)?;
    let telemetry = Telemetry {
        metrics: Arc::new(metrics),
        requests: RequestLog::new(sink, config.log.format, config.log.level),
    };
    let gateway = Gateway {
        snapshot: ArcSwap::from_pointee(snapshot),
        lasting,
        clock: Box::new(SystemClock),
        telemetry,
        ids: RequestIds::default(),
        in_flight: Arc::default(),
    };
    Ok((gateway, findings))
}

/// Builds a state that serves, from files that are read anew. Nothing is seen of it if it fails.
///
/// # Errors
/// As [`gateway`].
pub fn snapshot(
    config: &Config,
    lasting: &Lasting,
    metrics: &Metrics,
    previous: Option<&Previous<'_>>,
) -> anyhow::Result<(Snapshot, Vec<Finding>)> {
    let (mut findings, mut shared) = (Vec::new(), Shared::default());
    let (mut routes, mut upstreams) = (Vec::new(), Vec::new());
    let mut tls = SharedTls::default();
    let earlier = previous.map(Previous::routes).unwrap_or_default();
    for (index, route_config) in config.routes.iter().enumerate() {
        let earlier = earlier.get(&*route_config.name).copied();
        let found = findings.len();
        let mut route = Route::new(
            index,
            route_config,
            keys(route_config, &mut findings, &mut shared),
        );
        route.fetching = fetching(route_config, &mut findings);
        let unusable = findings[found..].iter().filter(|finding| finding.unusable);
        route.unusable = unusable.map(Finding::for_people).collect();
        if let Some((_, earlier, _)) = earlier {
            // Else a reload would give a flood its rate anew.
            route.challenges = earlier.challenges.clone();
            route.throttle = earlier.throttle.clone();
        }
        let kept = earlier.filter(|(earlier, ..)| {
            previous.is_some_and(|previous| {
                earlier.upstream == route_config.upstream
                    && previous.all_unchanged(&route_config.upstream.files())
            })
        });
        upstreams.push(match kept {
            // With its open connections.
            Some((_, _, upstream)) => upstream.clone(),
            None => upstream(route_config, &mut tls, metrics).map(Arc::new)?,
        });
        routes.push((route_config.host.clone(), route_config.path.clone(), route));
    }
    findings.append(&mut shared.findings);
    let routes = RouteTable::new(routes);
    let fetches = |route: &Route| route.fetching.is_some() || route.scheme.confirms();
    let fetcher = match routes.iter().any(fetches) {
        true => Some(fetcher(config, metrics, previous)?),
        false => None,
    };
    let tracing = tracing(config, lasting, metrics, previous)?;
    let limits = &config.limits;
    let snapshot = Snapshot {
        upstreams,
        fetcher,
        tracing,
        // Last, when nothing can fail any more: it is seen at once.
        counters: routes.iter().map(|route| metrics.route(route)).collect(),
        routes,
        bodies: lasting.bodies.clone(),
        replay: lasting.replay.clone(),
        pace: Pace {
            gap: limits.body_timeout,
            bytes_per_second_min: limits.body_min_rate,
        },
        in_flight_max: limits.in_flight,
        head_bytes_max: limits.headers as usize,
        identity: Identity::new(&config.server.mark, &lasting.instance),
    };
    Ok((snapshot, findings))
}

impl Previous<'_> {
    /// The routes by their names: what was written of each, and what was made of that.
    fn routes(&self) -> HashMap<&str, (&RouteConfig, &Route, &Arc<Upstream>)> {
        let made = self.snapshot.routes.iter().zip(&self.snapshot.upstreams);
        let written = self.config.routes.iter();
        written
            .zip(made)
            .map(|(written, (route, upstream))| (&*written.name, (written, route, upstream)))
            .collect()
    }

    fn all_unchanged(&self, files: &[PathBuf]) -> bool {
        files.iter().all(|file| (self.unchanged)(file))
    }
}

/// A route's upstream, none of whose addresses has failed yet.
fn upstream(
    config: &RouteConfig,
    tls: &mut SharedTls,
    metrics: &Metrics,
) -> anyhow::Result<Upstream> {
    Upstream::new(&config.upstream, tls, |address| {
        let (name, address) = (&config.name, address.to_string());
        let counters = metrics.address(name, &address, Failure::ALL.map(Failure::as_str));
        Health::new(name, address, counters)
    })
    .with_context(|| format!("route {}", config.name))
}

/// The one that there was, with all that it has fetched, if it would be made of the same.
fn fetcher(
    config: &Config,
    metrics: &Metrics,
    previous: Option<&Previous<'_>>,
) -> anyhow::Result<Fetcher> {
    let same = previous.filter(|previous| {
        previous.config.fetch == config.fetch
            && config.fetch.ca.as_deref().is_none_or(previous.unchanged)
    });
    match same.and_then(|previous| previous.snapshot.fetcher.clone()) {
        Some(fetcher) => Ok(fetcher),
        None => Fetcher::new(&config.fetch, metrics.key_fetches()),
    }
}

/// How requests are traced, by the exporter that there was if it would be made of the same.
#[cfg(feature = "otlp")]
fn tracing(
    config: &Config,
    lasting: &Lasting,
    metrics: &Metrics,
    previous: Option<&Previous<'_>>,
) -> anyhow::Result<Option<Tracing>> {
    let Some(traces) = &config.traces else {
        return Ok(None);
    };
    let same = previous.filter(|previous| {
        previous.config.traces.as_ref() == Some(traces) && previous.all_unchanged(&traces.files())
    });
    let queue = match same.and_then(|previous| previous.snapshot.tracing.as_ref()) {
        Some(tracing) => tracing.queue.clone(),
        None => export::start(traces, lasting.instance.name(), metrics.traces.clone())
            .context("traces")?,
    };
    let routes = config.routes.iter().map(|route| {
        Arc::new(TracedRoute {
            name: route.name.clone(),
            scheme: route.scheme.name().to_owned(),
            pattern: route.path.to_string(),
            upstream: route.upstream.addresses.iter().map(traced).collect(),
            continues: route.continues_trace,
        })
    });
    Ok(Some(Tracing::new(traces.ratio, routes.collect(), queue)))
}

/// The configuration takes no collector then.
#[cfg(not(feature = "otlp"))]
fn tracing(
    _: &Config,
    _: &Lasting,
    _: &Metrics,
    _: Option<&Previous<'_>>,
) -> anyhow::Result<Option<Tracing>> {
    Ok(None)
}

#[cfg(feature = "otlp")]
fn traced(address: &UpstreamAddr) -> TracedAddress {
    match address {
        UpstreamAddr::Unix(path) => TracedAddress {
            host: path.display().to_string(),
            port: None,
            base: String::new(),
        },
        UpstreamAddr::Http { host, port } | UpstreamAddr::Https { host, port } => TracedAddress {
            host: host.clone(),
            port: Some(*port),
            base: address.to_string(),
        },
    }
}

/// What is odd about a secret that both sides share.
fn doubts(scheme: &Scheme, secret: &Secret) -> Vec<String> {
    if scheme.has_public_keys() {
        return Vec::new();
    }
    let expected =
        |doubt: &Doubt| *doubt == Doubt::ApiKey && (scheme.takes_api_key() || scheme.is_token());
    let mut texts: Vec<_> = secret
        .doubts()
        .into_iter()
        .filter(|doubt| !expected(doubt))
        .map(|doubt| doubt.text().to_owned())
        .collect();
    if scheme.is_short(secret) {
        texts.push(format!(
            "the secret makes a key of fewer than {KEY_BYTES_MIN} bytes, which can be guessed from one delivery; use a longer one"
        ));
    }
    texts
}

/// Secrets that both sides share, and what is to be said of those that stand in several routes.
#[derive(Default)]
struct Shared<'c> {
    /// The first route of each, by the secret's digest.
    seen: HashMap<[u8; 32], &'c str>,
    findings: Vec<Finding>,
}

impl<'c> Shared<'c> {
    /// Names the earlier route that has the same secret: whoever learns it can send to both.
    fn add(&mut self, route: &'c str, config: &SecretConfig, secret: &Secret) {
        let digest = Sha256::digest(secret.expose()).into();
        let other = *self.seen.entry(digest).or_insert(route);
        if other != route {
            self.findings.push(Finding {
                route: route.to_owned(),
                key: Some(config.id.clone()),
                unusable: false,
                text: format!(
                    "{}: route `{other}` has the same secret; give each its own, so that a delivery for one does not pass on the other",
                    config.source
                ),
            });
        }
    }
}

/// Reads a route's secrets and makes keys of those that can be used.
fn keys<'c>(
    config: &'c RouteConfig,
    findings: &mut Vec<Finding>,
    shared: &mut Shared<'c>,
) -> Vec<RouteKey> {
    let mut keys = Vec::new();
    for secret in &config.secrets {
        let mut found = |unusable, text| {
            findings.push(Finding {
                route: config.name.clone(),
                key: Some(secret.id.clone()),
                unusable,
                text,
            });
        };
        if let Some(read) = read(&secret.source, &mut found) {
            for text in doubts(&config.scheme, &read) {
                found(false, format!("{}: {text}", secret.source));
            }
            match config.scheme.key(&read) {
                Ok(key) => keys.push(RouteKey::new(config, secret, key)),
                Err(error) => found(true, format!("{} {error}", secret.source)),
            }
            if !config.scheme.has_public_keys() {
                shared.add(&config.name, secret, &read);
            }
        }
    }
    keys
}

/// What fetching a route's keys takes, if none is pinned.
fn fetching(config: &RouteConfig, findings: &mut Vec<Finding>) -> Option<Fetching> {
    if !config.secrets.is_empty() || !config.scheme.fetches_keys() {
        return None;
    }
    let mut found = |unusable, text| {
        findings.push(Finding {
            route: config.name.clone(),
            key: None,
            unusable,
            text,
        });
    };
    let secret = match &config.fetch_secret {
        None => None,
        Some(source) => Some(read(source, &mut found)?),
    };
    Some(Fetching { secret })
}

/// Reads a secret, and tells what its operator should see.
fn read(source: &SecretSource, found: &mut impl FnMut(bool, String)) -> Option<Secret> {
    let loaded = match source.read() {
        Ok(loaded) => loaded,
        Err(error) => {
            found(true, format!("{source} {}", Chain(&error)));
            return None;
        }
    };
    if loaded.line_end_stripped {
        found(
            false,
            format!(
                "{source}: the line end after the secret was left out; write the file without one"
            ),
        );
    }
    if loaded.outer_white_space {
        found(
            false,
            format!(
                "{source}: the secret begins or ends with white space, which is part of the key"
            ),
        );
    }
    Some(loaded.secret)
}
