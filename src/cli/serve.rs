//! `countersign serve`: the gateway.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use super::{ConfigArgs, Failure, Outcome, is_stdin, read};
use crate::{
    assemble::{self, Finding},
    config::{self, Config, Flags, Loaded, Source},
    listen::Passed,
    pipeline::Gateway,
    reject::Chain,
    reload::{self, Recipe, Reloader, Seen},
    server::{Ended, Server, stop_on_signals},
    systemd,
    telemetry::{self, LogSink},
};

/// How long what is still running at the end may take to be dropped.
const CUT_TIME_MAX: Duration = Duration::from_millis(500);

/// How long the last log lines may take at the end.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);

/// How long the last traces may take at the end.
const TRACES_TIME_MAX: Duration = Duration::from_secs(5);

/// How often the service manager hears how it goes, at least.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Descriptors beside the connections: listeners, spool files, log.
const SPARE_DESCRIPTORS: u64 = 64;

/// Heading of the flags that have a key in the file, for help.
const OVERRIDES: &str = "Over what the configuration file says";

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    route: RouteArgs,
}

/// What can be said without a file.
#[derive(clap::Args)]
#[command(next_help_heading = "One route without a configuration file")]
pub(super) struct RouteArgs {
    /// Scheme from the catalogue, such as `carevalidate`, or `none`
    #[arg(long, value_name = "NAME")]
    scheme: Option<String>,
    /// Parameter of the scheme, as NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    param: Vec<String>,
    /// File that holds the signing secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Environment variable that holds the signing secret
    #[arg(long, value_name = "NAME")]
    secret_env: Option<String>,
    /// systemd credential that holds the signing secret
    #[arg(long, value_name = "NAME")]
    secret_credential: Option<String>,
    /// Where to forward: http://, https:// or unix:; may be repeated
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// Path to serve: exact, or a prefix that ends in /*; left out: every path
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// What stands before the path in the URL that the sender has, for schemes that sign it
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Address to listen on, IP:PORT or unix:PATH; may be repeated
    #[arg(long, value_name = "ADDRESS", help_heading = OVERRIDES)]
    listen: Vec<String>,
    /// Address for health and metrics, or `off`
    #[arg(long, value_name = "ADDRESS", help_heading = OVERRIDES)]
    admin: Option<String>,
    /// PEM file with the certificate chain
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = OVERRIDES)]
    tls_certificate: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE", requires = "tls_certificate", help_heading = OVERRIDES)]
    tls_key: Option<PathBuf>,
    /// Log format: json or text
    #[arg(long, value_name = "FORMAT", help_heading = OVERRIDES)]
    log_format: Option<String>,
    /// Log level: error, warn, info or debug
    #[arg(long, value_name = "LEVEL", help_heading = OVERRIDES)]
    log_level: Option<String>,
}

impl RouteArgs {
    pub(super) fn flags(&self) -> Flags {
        Flags {
            scheme: self.scheme.clone(),
            secret_file: self.secret_file.clone(),
            secret_env: self.secret_env.clone(),
            secret_credential: self.secret_credential.clone(),
            upstream: self.upstream.clone(),
            path: self.path.clone(),
            public_url: self.public_url.clone(),
            listen: self.listen.clone(),
            admin: self.admin.clone(),
            tls_certificate: self.tls_certificate.clone(),
            tls_key: self.tls_key.clone(),
            param: self.param.clone(),
            log_format: self.log_format.clone(),
            log_level: self.log_level.clone(),
        }
    }
}

/// Where the command line says that the configuration comes from.
pub(super) fn recipe(args: &ConfigArgs, flags: Flags) -> Result<Recipe, Failure> {
    let environment = config::environment();
    let named = args.config.clone().or_else(|| {
        let (_, path) = environment
            .iter()
            .find(|(name, _)| name == "COUNTERSIGN_CONFIG")?;
        Some(PathBuf::from(path))
    });
    let source = match named {
        Some(path) if is_stdin(&path) => {
            Source::Stdin(String::from_utf8(read(&path)?).map_err(|_| {
                Failure::Unusable("<stdin>: the configuration is not UTF-8 text".into())
            })?)
        }
        Some(path) => Source::File(path),
        None => Source::None,
    };
    Ok(Recipe {
        source,
        environment,
        flags,
    })
}

/// Loads the configuration that the command line asks for.
pub(super) fn load(args: &ConfigArgs, flags: Flags) -> Result<Loaded, Failure> {
    let recipe = recipe(args, flags)?;
    config::load(&recipe.source, &recipe.environment, &recipe.flags).map_err(Failure::Config)
}

pub(super) fn run(args: &Args) -> Outcome {
    // First of all, while there is one thread.
    let passed = Passed::take().map_err(unusable)?;
    let recipe = recipe(&args.config, args.route.flags())?;
    let mut seen = Seen::default();
    let loaded = recipe.load(&mut seen).map_err(Failure::Config)?;
    no_core_dumps();
    let sink = LogSink::to(io::stdout())?;
    telemetry::install(&sink, loaded.config.log.format, loaded.config.log.level);
    for warning in &loaded.warnings {
        tracing::warn!(path = warning.path, "{}", warning.message);
    }
    let runtime = match loaded.config.server.threads {
        // Nothing to share with others, and so none of what sharing costs.
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    }
    .enable_all()
    .build()?;
    let served = runtime.block_on(serve(recipe, loaded, seen, passed, sink.clone()));
    // Requests that are cut off now still tell of their end.
    runtime.shutdown_timeout(CUT_TIME_MAX);
    sink.flush(FLUSH_TIME_MAX);
    served
}

/// A certificate or address that cannot be used is a fault of the configuration: starting again would not help.
fn unusable(error: anyhow::Error) -> Failure {
    Failure::Unusable(Chain(error.as_ref()).to_string())
}

async fn serve(
    recipe: Recipe,
    loaded: Loaded,
    seen: Seen,
    passed: Passed,
    sink: LogSink,
) -> Outcome {
    let config = &loaded.config;
    raise_descriptor_limit(config.limits.connections);
    let (gateway, findings) = assemble::gateway(config, sink).map_err(unusable)?;
    let gateway = Arc::new(gateway);
    findings.iter().for_each(Finding::tell);
    if let Err(error) = gateway.lasting.bodies.probe() {
        tracing::warn!(%error, "limits.spool_dir cannot be written: bodies beyond limits.body_memory will be refused with 503");
    }
    let server = Server::bind(config, gateway.clone(), passed).map_err(unusable)?;
    let (stopping, hurry) = (server.stopping(), CancellationToken::new());
    stop_on_signals(stopping.clone(), hurry.clone())?;
    summary(config, &gateway, &server);
    let threads = config.server.threads;
    let reloader = Reloader::new(
        recipe,
        loaded,
        seen,
        findings,
        gateway.clone(),
        server.control(),
    )?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), threads, "ready");
    systemd::ready(&reload::status(&gateway));
    drop(tokio::spawn(keep_told(gateway.clone())));
    drop(tokio::spawn(reloader.run(stopping.clone())));
    // Joined, because an idle process has drained before another task would come to run.
    let (ended, ()) = tokio::join!(server.run(hurry), async {
        stopping.cancelled().await;
        systemd::stopping("draining");
    });
    if let Some(tracing) = &gateway.snapshot.load().tracing {
        tracing.queue.close(TRACES_TIME_MAX).await;
    }
    match ended {
        Ended::Drained => {
            tracing::info!("stopped");
            Ok(())
        }
        Ended::CutShort => {
            tracing::warn!("stopped with requests under way");
            Ok(())
        }
    }
}

/// Tells the service manager how it goes. From the runtime that serves: if that is stuck, the manager hears nothing more.
async fn keep_told(gateway: Arc<Gateway>) {
    let pause = systemd::watchdog().map_or(STATUS_EVERY, |limit| (limit / 2).min(STATUS_EVERY));
    let mut told = tokio::time::interval(pause);
    loop {
        told.tick().await;
        systemd::alive(&reload::status(&gateway));
    }
}

/// Tells what is served where.
fn summary(config: &Config, gateway: &Gateway, server: &Server) {
    for (route, config) in gateway.snapshot.load().routes.iter().zip(&config.routes) {
        let state = match (route.scheme.needs_secret(), route.keys.len()) {
            (false, _) => "unsigned",
            (true, 0) if route.is_closed() => "closed: no usable secret",
            (true, _) if route.observes(gateway.clock.now()) => "observing",
            (true, _) => "open",
        };
        let upstream: Vec<_> = config
            .upstream
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        tracing::info!(
            route = route.name,
            host = config.host.as_deref().unwrap_or("*"),
            path = %config.path,
            scheme = route.scheme.name(),
            secrets = route.keys.len(),
            upstream = upstream.join(" "),
            state,
            "route"
        );
    }
    for address in server.addresses() {
        tracing::info!(
            address,
            listener = "data",
            tls = config.server.tls.is_some(),
            "listening"
        );
    }
    if let Some(address) = server.admin_address() {
        tracing::info!(address, listener = "admin", tls = false, "listening");
    }
}

/// A core file would hold every secret.
fn no_core_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps could not be turned off; set LimitCORE=0");
    }
}

/// Uses all descriptors that the system allows, and says if they are too few: each connection may need one for itself, one to an
/// upstream and one for its spool.
fn raise_descriptor_limit(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    ) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let wanted = connections as u64 * 2 + SPARE_DESCRIPTORS;
    if let Some(have) = getrlimit(Resource::Nofile)
        .current
        .filter(|have| *have < wanted)
    {
        tracing::warn!(
            have,
            wanted,
            "few open files allowed for limits.connections: raise LimitNOFILE or lower the limit"
        );
    }
}
