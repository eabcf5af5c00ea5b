//! Exchanges the state that serves for a newer one, while it serves.
//!
//! Everything is read anew, built whole and checked whole; then it is swapped in, and only then anything of it is seen. If that
//! fails, nothing changes but what is told of it. The same code ran at the start, so a restart would give the same state.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    io::Read as _,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{
    assemble::{self, Finding, Previous},
    config::{self, Config, ConfigErrors, Flags, Loaded, Problem, Source},
    pipeline::Gateway,
    reject::Chain,
    server::{Control, Prepared},
    snapshot::Snapshot,
    systemd,
};

/// Where the configuration comes from: at the start, and every time after.
pub struct Recipe {
    /// Its text.
    pub source: Source,
    /// The environment. It cannot change while the process lives.
    pub environment: Vec<(String, String)>,
    /// The command line.
    pub flags: Flags,
}

impl Recipe {
    /// Reads the configuration, and notes what it and the files that it names hold. Call it before those are read: what changes
    /// meanwhile is then seen as a change.
    ///
    /// # Errors
    /// As [`config::load`].
    pub fn load(&self, seen: &mut Seen) -> Result<Loaded, ConfigErrors> {
        if let Source::File(path) = &self.source {
            seen.look(path);
        }
        let loaded = config::load(&self.source, &self.environment, &self.flags)?;
        for file in loaded.config.files() {
            seen.look(&file);
        }
        Ok(loaded)
    }
}

/// What files held when they were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen(BTreeMap<PathBuf, Content>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Digest of it. Whatever leads to it, links and mounts, may change without a change of what is read.
    Digest([u8; 32]),
    Unreadable(io::ErrorKind),
    /// A pipe, such as a shell's `<(…)`: what it held is gone, and to read it again could wait for ever.
    Pipe,
}

impl Seen {
    fn look(&mut self, path: &Path) {
        self.0.insert(path.to_owned(), Content::of(path));
    }

    /// The same files, as they are now.
    fn again(&self) -> Self {
        let looks = self.0.keys();
        Self(
            looks
                .map(|path| (path.clone(), Content::of(path)))
                .collect(),
        )
    }

    /// The files that hold something else by now.
    fn changed(&self, now: &Self) -> String {
        let files = now.0.iter();
        let files = files.filter(|(path, content)| self.0.get(*path) != Some(content));
        let files: Vec<_> = files.map(|(path, _)| path.display().to_string()).collect();
        files.join(" ")
    }

    /// The first that cannot be read twice.
    fn pipe(&self) -> Option<&Path> {
        let mut files = self.0.iter();
        let (path, _) = files.find(|(_, content)| **content == Content::Pipe)?;
        Some(path)
    }

    fn same(&self, other: &Self, path: &Path) -> bool {
        let content = self.0.get(path);
        matches!(content, Some(Content::Digest(_))) && content == other.0.get(path)
    }
}

impl Content {
    fn of(path: &Path) -> Self {
        Self::read(path).unwrap_or_else(|error| Self::Unreadable(error.kind()))
    }

    fn read(path: &Path) -> io::Result<Self> {
        if fs::metadata(path)?.file_type().is_fifo() {
            return Ok(Self::Pipe);
        }
        let mut file = fs::File::open(path)?;
        let mut digest = Context::new(&SHA256);
        // It may be a secret.
        let mut buffer = Zeroizing::new([0; 16 * 1024]);
        loop {
            match file.read(&mut *buffer)? {
                0 => break,
                read => digest.update(&buffer[..read]),
            }
        }
        let mut whole = [0; 32];
        whole.copy_from_slice(digest.finish().as_ref());
        Ok(Self::Digest(whole))
    }
}

/// What serves now, and what it was made of.
struct Present {
    config: Config,
    seen: Seen,
}

/// Waits for reasons to reload, and does it.
pub struct Reloader {
    recipe: Arc<Recipe>,
    gateway: Arc<Gateway>,
    control: Control,
    /// What the process started with, for what only a start can change.
    started: Config,
    present: Arc<Present>,
    /// What was last tried, with success or without: the same is not tried again by itself.
    tried: Seen,
    told: Told,
    hangups: Signal,
}

/// What was said of the present state, not to be said again at each reload.
#[derive(Default)]
struct Told {
    warnings: Vec<Problem>,
    findings: Vec<Finding>,
}

/// A state that can serve.
struct Next {
    loaded: Loaded,
    seen: Seen,
    prepared: Prepared,
    snapshot: Snapshot,
    findings: Vec<Finding>,
}

impl Reloader {
    /// Begins to hear SIGHUP. `loaded` and `seen` are what the gateway was made of, `findings` what was told of it.
    ///
    /// # Errors
    /// If the signal cannot be caught.
    pub fn new(
        recipe: Recipe,
        loaded: Loaded,
        seen: Seen,
        findings: Vec<Finding>,
        gateway: Arc<Gateway>,
        control: Control,
    ) -> io::Result<Self> {
        let metrics = &gateway.telemetry.metrics;
        metrics
            .reloads
            .succeeded(&loaded.hash, Vec::new(), gateway.clock.now());
        Ok(Self {
            recipe: Arc::new(recipe),
            gateway,
            control,
            started: loaded.config.clone(),
            tried: seen.clone(),
            present: Arc::new(Present {
                config: loaded.config,
                seen,
            }),
            told: Told {
                warnings: loaded.warnings,
                findings,
            },
            hangups: signal(SignalKind::hangup())?,
        })
    }

    /// Reloads at each SIGHUP and whenever files have changed, until the process stops.
    pub async fn run(mut self, stopping: CancellationToken) {
        // A change that was seen once. It counts when it is seen again: until then somebody may be writing.
        let mut changed: Option<Seen> = None;
        let mut next_look = Instant::now();
        loop {
            let interval = self.present.config.server.reload_interval;
            let look = async {
                match interval {
                    Some(interval) => {
                        next_look = next_look.max(Instant::now()).min(Instant::now() + interval);
                        sleep_until(next_look).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                Some(()) = self.hangups.recv() => {
                    changed = None;
                    self.reload("SIGHUP", None).await;
                    continue;
                }
                () = look => {}
            }
            next_look = Instant::now() + interval.unwrap_or(Duration::ZERO);
            let tried = self.tried.clone();
            let Ok(now) = spawn_blocking(move || tried.again()).await else {
                continue;
            };
            if now == self.tried {
                changed = None;
            } else if changed.as_ref() == Some(&now) {
                changed = None;
                let files = self.tried.changed(&now);
                self.reload("file changed", Some(files)).await;
            } else {
                changed = Some(now);
            }
        }
    }

    /// `files` are those that changed, if that is the cause.
    async fn reload(&mut self, cause: &'static str, files: Option<String>) {
        systemd::reloading();
        let (recipe, present) = (self.recipe.clone(), self.present.clone());
        let (gateway, control) = (self.gateway.clone(), self.control.clone());
        // Reads files and compiles schemes: not on a thread that serves.
        let built = spawn_blocking(move || build(&recipe, &present, &gateway, &control)).await;
        let built = built.unwrap_or_else(|_| {
            let reason = "error: the reload panicked; this is a fault of the program".to_owned();
            Err((reason, self.tried.again()))
        });
        match built {
            Ok(next) => self.take(next, cause, files.as_deref()),
            Err((reason, seen)) => {
                self.tried = seen;
                tracing::error!(cause, files, %reason, "reload failed, the old state serves on");
                let reloads = &self.gateway.telemetry.metrics.reloads;
                reloads.failed(reason, self.gateway.clock.now());
            }
        }
        systemd::ready(&status(&self.gateway));
    }

    /// Swaps it in.
    fn take(&mut self, next: Box<Next>, cause: &'static str, files: Option<&str>) {
        let Next {
            loaded,
            seen,
            prepared,
            snapshot,
            findings,
        } = *next;
        let snapshot = Arc::new(snapshot);
        let old = self.gateway.snapshot.swap(snapshot.clone());
        // Behind it: whoever comes by a new listener meets no old state.
        self.control.commit(prepared);
        let metrics = &self.gateway.telemetry.metrics;
        metrics.retire(&old.routes, &snapshot.routes);
        for (route, address) in addresses(&old).difference(&addresses(&snapshot)) {
            metrics.retire_address(route, address);
        }
        let restart = needs_restart(&self.started, &loaded.config);
        metrics
            .reloads
            .succeeded(&loaded.hash, restart.clone(), self.gateway.clock.now());
        let routes = loaded.config.routes.len();
        tracing::info!(cause, files, hash = loaded.hash, routes, "reloaded");
        for key in restart {
            tracing::warn!(key, "this key was changed, which needs a restart");
        }
        for warning in &loaded.warnings {
            if !self.told.warnings.contains(warning) {
                tracing::warn!(path = warning.path, "{}", warning.message);
            }
        }
        for finding in &findings {
            if !self.told.findings.contains(finding) {
                finding.tell();
            }
        }
        self.told = Told {
            warnings: loaded.warnings,
            findings,
        };
        self.tried = seen.clone();
        self.present = Arc::new(Present {
            config: loaded.config,
            seen,
        });
    }
}

/// The addresses of all upstreams, each with its route.
fn addresses(snapshot: &Snapshot) -> HashSet<(&str, &str)> {
    let upstreams = snapshot.upstreams.iter();
    let healths = upstreams.flat_map(|upstream| upstream.health());
    healths.map(|health| health.labels()).collect()
}

/// Makes the next state, or says everything that is wrong; and what to watch then: the files of both states.
fn build(
    recipe: &Recipe,
    present: &Present,
    gateway: &Gateway,
    control: &Control,
) -> Result<Box<Next>, (String, Seen)> {
    let mut seen = Seen::default();
    let failed = |reason: String, seen: Seen| {
        let mut watched = present.seen.again();
        watched.0.extend(seen.0);
        (reason, watched)
    };
    let pipe = |path: &Path| {
        let path = path.display();
        format!("error: {path} is a pipe, which cannot be read a second time; use a plain file")
    };
    if let Some(path) = present.seen.pipe() {
        return Err(failed(pipe(path), seen));
    }
    let loaded = match recipe.load(&mut seen) {
        Ok(loaded) => loaded,
        Err(errors) => return Err(failed(errors.without_warnings().to_string(), seen)),
    };
    if let Some(path) = seen.pipe() {
        return Err(failed(pipe(path), seen));
    }
    let unchanged = |path: &Path| seen.same(&present.seen, path);
    let snapshot = gateway.snapshot.load_full();
    let previous = Previous {
        config: &present.config,
        snapshot: &snapshot,
        unchanged: &unchanged,
    };
    let made = control
        .prepare(&loaded.config, &unchanged)
        .and_then(|prepared| {
            let metrics = &gateway.telemetry.metrics;
            let (lasting, config) = (&gateway.lasting, &loaded.config);
            let (snapshot, findings) =
                assemble::snapshot(config, lasting, metrics, Some(&previous))?;
            Ok((prepared, snapshot, findings))
        });
    match made {
        Ok((prepared, snapshot, findings)) => Ok(Box::new(Next {
            loaded,
            seen,
            prepared,
            snapshot,
            findings,
        })),
        Err(error) => {
            let reason = format!("error: {}", Chain(error.as_ref()));
            Err(failed(reason, seen))
        }
    }
}

/// Keys that only a start can give another value.
fn needs_restart(started: &Config, now: &Config) -> Vec<&'static str> {
    let (server, limits, log) = (&started.server, &started.limits, &started.log);
    let same = [
        ("server.threads", server.threads == now.server.threads),
        (
            "server.reuse_port",
            server.reuse_port == now.server.reuse_port,
        ),
        (
            "limits.body_memory",
            limits.body_memory == now.limits.body_memory,
        ),
        ("limits.spool_dir", limits.spool_dir == now.limits.spool_dir),
        ("limits.spool", limits.spool == now.limits.spool),
        (
            "limits.connections",
            limits.connections == now.limits.connections,
        ),
        ("replay", started.replay == now.replay),
        ("log.format", log.format == now.log.format),
        ("log.level", log.level == now.log.level),
    ];
    let changed = same.into_iter().filter(|(_, same)| !same);
    changed.map(|(key, _)| key).collect()
}

/// The state of the process in one line, for the service manager.
pub fn status(gateway: &Gateway) -> String {
    let metrics = &gateway.telemetry.metrics;
    let routes = gateway.snapshot.load().routes.iter().count();
    let refused = match metrics.reloads.told().failure {
        Some(failure) => format!("; a newer configuration is refused since {}", failure.since),
        None => String::new(),
    };
    format!(
        "{routes} routes, {} connections, {} requests under way{refused}",
        metrics.connections.get(),
        metrics.inflight.get()
    )
}
