//! Exchanges the state that serves for a newer one, while it serves.
//!
//! Everything is read anew, built whole and checked whole; then it is swapped in, and only then anything of it is seen. If that
//! fails, nothing changes but what is told of it. The same code ran at the start, so a restart would give the same state.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    io::Read as _,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
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
    clock::{Clock as _, SystemClock, UnixTime},
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
pub struct Seen(BTreeMap<PathBuf, Look>);

/// What a file held, and by what it can be told that it still does.
#[derive(Debug, Clone, Copy)]
struct Look {
    content: Content,
    stamp: Option<Stamp>,
}

/// A file that was touched but holds what it held has not changed.
impl PartialEq for Look {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

impl Eq for Look {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Digest of it. Whatever leads to it, links and mounts, may change without a change of what is read.
    Digest([u8; 32]),
    Unreadable(io::ErrorKind),
    /// A pipe, such as a shell's `<(…)`: what it held is gone, and to read it again could wait for ever.
    Pipe,
}

/// What no write to a file, and no other file in its place, leaves as it was. Saves reading thousands of files every few seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    /// The file's time that nobody can set.
    changed: (i64, i64),
}

/// A stamp counts once it is older than this: a second write within the same tick of the file system's clock leaves it as it was.
const TICK_MAX: Duration = Duration::from_secs(10);

impl Seen {
    fn look(&mut self, path: &Path) {
        self.0
            .insert(path.to_owned(), Look::at(path, SystemClock.now()));
    }

    /// The same files, as they are now.
    fn again(&self) -> Self {
        let now = SystemClock.now();
        let looks = self.0.iter();
        Self(
            looks
                .map(|(path, look)| (path.clone(), look.again(path, now)))
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
        let (path, _) = files.find(|(_, look)| look.content == Content::Pipe)?;
        Some(path)
    }

    fn same(&self, other: &Self, path: &Path) -> bool {
        let look = self.0.get(path);
        look.is_some_and(|look| matches!(look.content, Content::Digest(_)))
            && look == other.0.get(path)
    }
}

impl Look {
    fn at(path: &Path, now: UnixTime) -> Self {
        // Before it is read: what changes meanwhile has another stamp at the next look.
        let metadata = fs::metadata(path);
        let stamp = metadata.as_ref().ok().and_then(|file| Stamp::of(file, now));
        let content = metadata.and_then(|file| match file.file_type().is_fifo() {
            true => Ok(Content::Pipe),
            false => Content::read(path),
        });
        Self {
            content: content.unwrap_or_else(|error| Content::Unreadable(error.kind())),
            stamp,
        }
    }

    fn again(&self, path: &Path, now: UnixTime) -> Self {
        let stamp = fs::metadata(path)
            .ok()
            .and_then(|file| Stamp::of(&file, now));
        match matches!(self.content, Content::Digest(_)) && stamp.is_some() && stamp == self.stamp {
            true => *self,
            false => Self::at(path, now),
        }
    }
}

impl Stamp {
    fn of(file: &fs::Metadata, now: UnixTime) -> Option<Self> {
        let settled = UnixTime::from_secs(file.ctime());
        // A file system without this time says 0.
        (file.ctime() > 0 && settled < now && settled.distance(now) > TICK_MAX).then(|| Self {
            file: (file.dev(), file.ino()),
            size: file.size(),
            written: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

impl Content {
    fn read(path: &Path) -> io::Result<Self> {
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
                // It holds the same, and by now perhaps what it can be told by.
                self.tried = now;
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
        gateway.in_flight.taken()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file's time cannot be set, but ours can.
    fn later() -> UnixTime {
        UnixTime::from_secs(SystemClock.now().secs() + 3600)
    }

    #[test]
    fn a_file_that_has_settled_is_read_again_only_when_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "one").unwrap();
        let before = Look::at(&path, later());
        let known = Look {
            content: Content::Digest([0; 32]),
            ..before
        };
        assert_eq!(known.again(&path, later()), known, "not read");
        fs::write(&path, "two").unwrap();
        assert_eq!(known.again(&path, later()), Look::at(&path, later()));
        assert_ne!(before.again(&path, later()), before, "as long as it was");
        let other = folder.path().join("other");
        fs::write(&other, "one").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(before.again(&path, later()), before, "holds what it held");
        assert_eq!(known.again(&path, later()), before, "but was read");
        fs::remove_file(&path).unwrap();
        let gone = Content::Unreadable(io::ErrorKind::NotFound);
        assert_eq!(before.again(&path, later()).content, gone);
    }

    #[test]
    fn a_file_that_was_just_written_is_read_at_each_look() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "one").unwrap();
        let look = Look {
            content: Content::Digest([0; 32]),
            ..Look::at(&path, SystemClock.now())
        };
        let next = look.again(&path, SystemClock.now());
        assert_eq!(next, Look::at(&path, later()));
    }
}
