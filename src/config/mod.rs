//! The configuration: read in layers, checked whole, reported whole.
//!
//! `raw` mirrors the file and knows no meaning; the checked types of this module cannot be wrong. [`load`] leads from one
//! to the other. Secrets do not pass through here: a route holds the *sources* of its secrets, and nothing here looks
//! whether they can be read.

mod acme;
mod check;
mod display;
mod document;
mod error;
mod fetch;
mod files;
mod layers;
mod public_url;
mod raw;
mod redis;
mod replay;
mod route;
mod schema;
mod server;
mod settings;
mod throttle;
mod traces;
mod units;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use http::{HeaderName, Method, StatusCode};
use ipnet::IpNet;

pub(crate) use self::error::nearest;
pub use self::{
    error::{ConfigErrors, Place, Position, Problem, Severity},
    layers::environment,
    public_url::PublicUrl,
    raw::known_keys,
    schema::schema,
    settings::Setting,
};
use crate::{clock::UnixTime, limit::Rate, scheme::Scheme, secret::SecretSource};

/// Where the configuration's text comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// This file and no other: nothing is searched for.
    File(PathBuf),
    /// This text, which was read from standard input.
    Stdin(String),
    /// No text: the flags describe one route.
    None,
}

/// What the command line says. The flag of each field is its name with `-`, unless said otherwise.
///
/// `scheme`, `param`, `secret_*`, `upstream` and `path` make one route, named `default`, with `default` as key id.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Name from the catalogue.
    pub scheme: Option<String>,
    /// Parameters of the scheme, each `NAME=VALUE`.
    pub param: Vec<String>,
    /// File with the signing secret.
    pub secret_file: Option<PathBuf>,
    /// Environment variable with it.
    pub secret_env: Option<String>,
    /// systemd credential with it.
    pub secret_credential: Option<String>,
    /// Where verified requests go.
    pub upstream: Vec<String>,
    /// Which targets; left out: `/*`.
    pub path: Option<String>,
    /// What stands before the target in the URL that the sender has.
    pub public_url: Option<String>,
    /// Where senders connect.
    pub listen: Vec<String>,
    /// Where metrics and health are served.
    pub admin: Option<String>,
    /// Certificate chain, PEM.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
    /// `json` or `text`.
    pub log_format: Option<String>,
    /// `error`, `warn`, `info` or `debug`.
    pub log_level: Option<String>,
}

/// A configuration that can be used, with what should be looked at all the same.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Problems that stop nothing.
    pub warnings: Vec<Problem>,
    /// Every value that holds, and who gave it.
    pub settings: Vec<Setting>,
    /// A short digest of them, but of none that may be a secret: equal where two processes run the same configuration.
    pub hash: String,
}

/// Reads all layers: defaults, then the source, then `env` (see [`environment`]), then `flags`; later ones win.
///
/// Touches no file but the source's.
///
/// # Errors
/// Everything that is wrong. Only what cannot be read as TOML ends at its first fault.
pub fn load(
    source: &Source,
    env: &[(String, String)],
    flags: &Flags,
) -> Result<Loaded, ConfigErrors> {
    let mut problems = Vec::new();
    let layers = layers::Layers::read(source, env, flags, &mut problems)
        .map_err(|problem| ConfigErrors::new(vec![*problem]))?;
    let mut checker = check::Checker::new(&layers, problems);
    let raw = checker.read();
    let server = checker.server(&raw.server);
    let limits = checker.limits(&raw.limits);
    let log = checker.log(&raw.log);
    let fetch = checker.fetch(&raw.fetch);
    let replay = checker.replay(&raw.replay);
    let traces = checker.traces(&raw.traces);
    let routes = checker.routes(&raw.route, &limits);
    checker.guards_something(&routes);
    checker.traces_something(traces.as_ref(), &routes);
    checker.marks_differ(&server.mark, &routes);
    let mut problems = checker.into_problems();
    if problems
        .iter()
        .any(|problem| problem.severity == Severity::Error)
    {
        return Err(ConfigErrors::new(problems));
    }
    error::sort(&mut problems);
    let settings = settings::settings(&layers);
    Ok(Loaded {
        hash: settings::hash(&settings),
        settings,
        config: Config {
            server,
            limits,
            log,
            fetch,
            replay,
            traces,
            routes,
        },
        warnings: problems,
    })
}

/// A configuration that was checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[limits]`
    pub limits: Limits,
    /// `[log]`
    pub log: Log,
    /// `[fetch]`
    pub fetch: FetchConfig,
    /// `[replay]`
    pub replay: ReplayConfig,
    /// `[traces]`; without `endpoint` `None`.
    pub traces: Option<TracesConfig>,
    /// `[[route]]`, in the order of the file. At least one.
    pub routes: Vec<RouteConfig>,
}

/// `[server]`
#[derive(Debug, Clone)]
pub struct Server {
    /// Where senders connect. At least one.
    pub listen: Vec<ListenAddr>,
    /// Where metrics and health are served; `admin = "off"` gives `None`.
    pub admin: Option<ListenAddr>,
    /// Worker threads; at least one.
    pub threads: usize,
    /// How long a stopping process waits for requests under way.
    pub drain: Duration,
    /// Whose `X-Forwarded-*`, `Forwarded`, `Via` and PROXY protocol are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections begin with who they come from: all of them, or those from `trusted_proxies` if there are any.
    pub proxy_protocol: bool,
    /// Name of the header that says "verified".
    pub mark: HeaderName,
    /// TLS for all TCP and Unix listeners; `None`: plaintext.
    pub tls: Option<Tls>,
    /// How often files are looked at for changes; `reload_interval = "off"` gives `None`.
    pub reload_interval: Option<Duration>,
    /// Lets another process of the same user bind the same TCP addresses.
    pub reuse_port: bool,
}

/// A listening address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// `127.0.0.1:8080`, `[::]:8443`
    Tcp(SocketAddr),
    /// `unix:/run/countersign/in.sock`
    Unix(PathBuf),
    /// `systemd:hooks`: every socket that was passed under this name.
    Systemd(String),
}

/// `[server.tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificate chains with their keys, chosen by SNI; the first also serves those who name no host, or an unknown one.
    pub certificates: Vec<CertificateFiles>,
    /// Certificates that clients must chain to; `None`: clients need none.
    pub client_ca: Option<PathBuf>,
    /// A certificate that is obtained; `None`: `certificates` holds at least one.
    pub acme: Option<AcmeConfig>,
}

/// `[server.tls.acme]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeConfig {
    /// Where the authority's directory is: `https://`.
    pub directory: String,
    /// The names in the certificate. At least one.
    pub domains: Vec<String>,
    /// URLs under which the authority finds us.
    pub contact: Vec<String>,
    /// Folder for account, certificate and key.
    pub cache: PathBuf,
    /// PEM file of authorities that the directory's own certificate may come from, instead of the system's.
    pub ca: Option<PathBuf>,
    /// An account that the authority knows by other means.
    pub external_account: Option<ExternalAccount>,
}

/// What binds an account to one that the authority knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    /// Its name there.
    pub id: String,
    /// Its key, in base64url.
    pub key: SecretSource,
}

/// One certificate chain and its private key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The key: PKCS#8, SEC1 or PKCS#1.
    pub private_key: PathBuf,
}

/// `[limits]`. Sizes are bytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// One body.
    pub body: u64,
    /// All bodies held in memory, together.
    pub body_memory: u64,
    /// Folder for what does not fit; `None`: `/var/tmp`.
    pub spool_dir: Option<PathBuf>,
    /// All bodies on disk, together; 0: never spill.
    pub spool: u64,
    /// One request head.
    pub headers: u32,
    /// Handshake, or one whole head.
    pub head_timeout: Duration,
    /// Longest pause between two pieces of a body.
    pub body_timeout: Duration,
    /// Least rate of a body, bytes per second; 0: none.
    pub body_min_rate: u64,
    /// Longest life of a connection without a request.
    pub idle_timeout: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Streams at once on one HTTP/2 connection.
    pub http2_streams: u32,
    /// Requests at once, from their heads to the ends of their answers.
    pub in_flight: usize,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// `format`
    pub format: LogFormat,
    /// `level`
    pub level: LogLevel,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// The least important lines that are still written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Only failures.
    Error,
    /// And what should be looked at.
    Warn,
    /// And one line per request.
    Info,
    /// And why.
    Debug,
}

/// `[fetch]`: how keys that are not pinned are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchConfig {
    /// For one document, with all tries.
    pub timeout: Duration,
    /// PEM file of authorities to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// Where hosts are, instead of asking the DNS. These addresses may be private.
    pub resolve: BTreeMap<String, SocketAddr>,
    /// A document counts as fresh for at least so long, whatever its server says.
    pub fresh_min: Duration,
    /// And at most.
    pub fresh_max: Duration,
    /// For how long after that it still serves while a newer one cannot be had.
    pub stale: Duration,
    /// Least time between two fetches of one document.
    pub cool_down: Duration,
}

/// `[replay]`: what the guards of all routes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayConfig {
    /// Where deliveries are remembered.
    pub store: ReplayStore,
    /// What happens to deliveries while that store fails.
    pub on_store_failure: OnStoreFailure,
    /// Most entries of the store in memory.
    pub entries: usize,
}

/// `store`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayStore {
    /// In this process.
    Memory,
    /// In Redis or Valkey, for all instances.
    Redis(Box<RedisConfig>),
}

/// The keys of `[replay]` that tell of Redis or Valkey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// Where it is.
    pub servers: RedisServers,
    /// `None`: plaintext.
    pub tls: Option<RedisTls>,
    /// Number of the database.
    pub database: u32,
    /// Who logs in; `None`: the default user.
    pub user: Option<String>,
    /// With what; `None`: nobody logs in.
    pub password: Option<SecretSource>,
    /// What every key begins with.
    pub prefix: String,
    /// For one question.
    pub timeout: Duration,
    /// What ids of deliveries are hashed with; `None`: a key that everybody knows.
    pub key: Option<SecretSource>,
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisServers {
    /// One server, or an address that leads to the one that is master.
    One {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// 6379 if not given.
        port: u16,
    },
    /// The same on a Unix socket.
    Unix(PathBuf),
    /// Nodes of a cluster, which name the others. At least one.
    Cluster(Vec<(String, u16)>),
    /// The server that Sentinels name as master.
    Sentinel(RedisSentinel),
}

/// Sentinels, which choose the master of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSentinel {
    /// Where they are. At least one.
    pub nodes: Vec<(String, u16)>,
    /// What they call the master.
    pub master: String,
    /// Who logs in there; `None`: the default user.
    pub user: Option<String>,
    /// With what; `None`: nobody logs in.
    pub password: Option<SecretSource>,
}

/// TLS towards a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisTls {
    /// PEM file of the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Certificate to show.
    pub client_certificate: Option<CertificateFiles>,
}

/// `on_store_failure`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// 503: the sender retries later, and nothing passes twice.
    Reject,
    /// They pass unguarded.
    Admit,
}

impl OnStoreFailure {
    /// What it means for deliveries while the store fails, for log and `/readyz`.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::Reject => "deliveries to guarded routes get 503",
            Self::Admit => "deliveries to guarded routes pass unguarded",
        }
    }
}

/// `[traces]`: which requests are traced, and where traces are sent.
#[derive(Debug, Clone, PartialEq)]
pub struct TracesConfig {
    /// Where the collector is.
    pub address: UpstreamAddr,
    /// The same for the `Host` field.
    pub authority: String,
    /// What is asked for there.
    pub path: String,
    /// What part of the traces that begin here are kept: 0 to 1.
    pub ratio: f64,
    /// What this process is called in traces.
    pub service: String,
    /// What the collector wants to see, such as a token.
    pub headers: Vec<(HeaderName, SecretSource)>,
    /// PEM file of the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// For one question.
    pub timeout: Duration,
}

/// A route's `replay` and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardConfig {
    /// For how long a delivery that succeeded is remembered.
    pub window: Duration,
    /// What the sender of a duplicate gets.
    pub on_duplicate: OnDuplicate,
    /// How long forwarding may take: what its own limits add up to, and a little more.
    pub forwarding: Duration,
    /// How long a delivery stays reserved that nobody settles: longer, so that two are never under way.
    pub lease: Duration,
}

/// `on_duplicate`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDuplicate {
    /// The status that the upstream gave to the first.
    Status,
    /// 409.
    Conflict,
}

/// `[[route]]`
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// Unique among the routes: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Lower-case host name without port, IPv6 in brackets as in the `Host` field; `None`: any.
    pub host: Option<String>,
    /// Which targets.
    pub path: PathPattern,
    /// Methods; others get 405.
    pub methods: Vec<Method>,
    /// How the sender signs, compiled, with the route's `tolerance` applied.
    pub scheme: Scheme,
    /// Where the secrets are; empty only for `scheme = "none"`, and where keys are fetched.
    pub secrets: Vec<SecretConfig>,
    /// What to show to the key server, where keys are fetched and it wants something.
    pub fetch_secret: Option<SecretSource>,
    /// Where verified requests go; at least one address.
    pub upstream: UpstreamConfig,
    /// Largest body; the route's own or that of `[limits]`.
    pub body_bytes_max: u64,
    /// Status for every signature failure: 400 to 499, not 410. Default 401.
    pub reject_status: StatusCode,
    /// The address that the sender has, for schemes that sign it; `None`: as far as proxies and the connection tell.
    pub public_url: Option<PublicUrl>,
    /// Where a secret goes that arrives in a handshake; `None`: none is taken.
    pub pairing: Option<PairingConfig>,
    /// How duplicates are recognised; `None`: they are not.
    pub guard: Option<GuardConfig>,
    /// How much is taken, and from whom.
    pub throttle: ThrottleConfig,
    /// `mode = "observe"`: until then what does not verify is forwarded all the same, without the mark.
    pub observe_until: Option<UnixTime>,
    /// `trace = "continue"`: the sender's trace goes on; else a new one begins, which names the sender's.
    pub continues_trace: bool,
}

/// `allow`, `rate`, `sender_rate`, `concurrency`
#[derive(Debug, Clone, Default)]
pub struct ThrottleConfig {
    /// Whom requests may come from; empty: anyone.
    pub allow: Vec<IpNet>,
    /// How many requests are taken in.
    pub rate: Option<Rate>,
    /// How many from one address.
    pub sender_rate: Option<Rate>,
    /// How many at once.
    pub concurrency: Option<usize>,
}

/// `pairing`
#[derive(Debug, Clone)]
pub struct PairingConfig {
    /// The file to write the secret to, which may not be there yet.
    pub file: PathBuf,
    /// No secret is taken from then on.
    pub until: UnixTime,
}

/// Which targets a route takes, on the raw bytes of the path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// `/hooks/a`: this path only.
    Exact(String),
    /// `/hooks/*`: every path that begins so. Held with its final `/`, without the `*`.
    Prefix(String),
}

/// One entry of `secrets`.
#[derive(Debug, Clone)]
pub struct SecretConfig {
    /// Key id: unique in its route; goes to log, metric and mark.
    pub id: String,
    /// Where the bytes are.
    pub source: SecretSource,
    /// Not used before.
    pub not_before: Option<UnixTime>,
    /// Not used from then on.
    pub not_after: Option<UnixTime>,
}

impl SecretConfig {
    /// Whether it may be used at the time `now`.
    pub fn is_valid(&self, now: UnixTime) -> bool {
        self.not_before.is_none_or(|from| from <= now)
            && self.not_after.is_none_or(|until| now < until)
    }
}

/// Where and how a route forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Addresses, tried in turn until one can be connected to. All of one kind.
    pub addresses: Vec<UpstreamAddr>,
    /// `upstream_http`
    pub protocol: UpstreamProtocol,
    /// For `https`: PEM file of the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// For `https`: certificate to show.
    pub client_certificate: Option<CertificateFiles>,
    /// For `https`: name to ask for and to check; `None`: the address's host.
    pub server_name: Option<String>,
    /// For one connection attempt, TLS included.
    pub connect_timeout: Duration,
    /// How long a verified request waits for an upstream that refuses connections; zero: not at all.
    pub connect_retry: Duration,
    /// From sending until the response head.
    pub timeout: Duration,
    /// Longest pause within a response body.
    pub read_timeout: Duration,
    /// How long an unused connection is kept.
    pub keep_alive: Duration,
    /// Most unused connections kept per address.
    pub idle_connections: usize,
    /// After so many failures in a row an address is set aside for a while; 0: never.
    pub max_fails: u32,
}

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UpstreamAddr {
    /// `http://host:port`
    Http {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// 80 if not given.
        port: u16,
    },
    /// `https://host:port`
    Https {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// 443 if not given.
        port: u16,
    },
    /// `unix:/run/app.sock`
    Unix(PathBuf),
}

/// HTTP version towards the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// What ALPN negotiates on `https`, HTTP/1.1 elsewhere.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge where there is no TLS.
    Http2,
}

#[cfg(test)]
mod tests;
