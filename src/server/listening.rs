//! What is listened on, and how that changes while it serves: by difference, and only when all of it can be had.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::{sync::Semaphore, task::AbortHandle};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    accept,
    connection::{Service, Setup},
    stopping::Stopping,
    tls::{Acceptor, server_config},
};
use crate::{
    acme, admin,
    config::{self, Config, ListenAddr, Tls},
    listen::{Listener, Passed},
    pipeline::Gateway,
};

/// What changes a server that runs.
#[derive(Clone)]
pub struct Control(pub(super) Arc<Shared>);

/// What a server consists of.
pub(super) struct Shared {
    pub(super) gateway: Arc<Gateway>,
    /// For the connections that begin now.
    setup: Arc<ArcSwap<Setup>>,
    passed: Passed,
    listening: Mutex<Listening>,
    /// One for each connection that may be open.
    places: Arc<Semaphore>,
    pub(super) connections: TaskTracker,
    pub(super) accepting: TaskTracker,
    pub(super) stopping: CancellationToken,
}

/// What is listened on now.
struct Listening {
    state: State,
    doors: Vec<Door>,
    admin: Option<AdminDoor>,
    tls: Option<Certificates>,
    drain: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Bound,
    Running,
    Stopped,
}

/// One listener for senders.
struct Door {
    /// As it is configured.
    at: ListenAddr,
    address: String,
    /// Until it runs.
    listener: Option<Listener>,
    service: Arc<Service>,
}

/// The listener for health and metrics.
struct AdminDoor {
    at: ListenAddr,
    address: String,
    listener: Option<Listener>,
    running: Option<AbortHandle>,
}

/// What the acceptor was made of.
#[derive(Clone)]
struct Certificates {
    of: Tls,
    acceptor: Arc<Acceptor>,
}

/// Everything that a new configuration wants of the server, made and opened. Dropped, it leaves no trace.
pub struct Prepared {
    setup: Setup,
    tls: Option<Certificates>,
    kept: Option<acme::Kept>,
    drain: Duration,
    opened: Vec<(ListenAddr, Listener)>,
    listen: Vec<ListenAddr>,
    admin: Option<(ListenAddr, Listener)>,
    admin_at: Option<ListenAddr>,
}

impl Control {
    /// Makes ready what a configuration wants: reads certificates, opens the addresses that are new. `unchanged` says whether a
    /// file holds what it held when the present state was made of it. Blocks on the file system; needs a running tokio.
    ///
    /// # Errors
    /// As [`Server::bind`](super::Server::bind).
    pub fn prepare(
        &self,
        config: &Config,
        unchanged: &dyn Fn(&Path) -> bool,
    ) -> anyhow::Result<Prepared> {
        let shared = &self.0;
        let (present, present_admin, certificates) = {
            let listening = shared.listening();
            let doors = listening.doors.iter().map(|door| door.at.clone());
            (
                doors.collect::<Vec<_>>(),
                listening.admin.as_ref().map(|admin| admin.at.clone()),
                listening.tls.clone(),
            )
        };
        let server = &config.server;
        let tls = match &server.tls {
            None => None,
            Some(tls) => {
                let obtained = &shared.gateway.lasting.certificates;
                Some(certificates_of(tls, certificates, unchanged, obtained)?)
            }
        };
        let wanted = server.tls.as_ref().and_then(|tls| tls.acme.as_ref());
        let kept = wanted.map(acme::open).transpose()?;
        let open = |at: &ListenAddr| {
            Listener::open(at, &shared.passed, server.reuse_port)
                .with_context(|| format!("cannot listen on {at}"))
        };
        let mut opened = Vec::new();
        for at in added(&server.listen, &present) {
            let listeners = open(at)?.into_iter();
            opened.extend(listeners.map(|listener| (at.clone(), listener)));
        }
        let admin = match &server.admin {
            Some(at) if present_admin.as_ref() != Some(at) => {
                let first = open(at)?.into_iter().next();
                first.map(|listener| (at.clone(), listener))
            }
            _ => None,
        };
        Ok(Prepared {
            setup: Setup {
                tls: tls
                    .as_ref()
                    .map(|tls| TlsAcceptor::from(tls.acceptor.config.clone())),
                limits: config.limits.clone(),
                trusted_proxies: server.trusted_proxies.clone().into(),
                proxy_protocol: server.proxy_protocol,
            },
            tls,
            kept,
            drain: server.drain,
            opened,
            listen: server.listen.clone(),
            admin,
            admin_at: server.admin.clone(),
        })
    }

    /// Puts it into effect, for the connections that begin from now on. Listeners that are wanted no more are closed, and their
    /// connections end when they have answered what they were asked.
    pub fn commit(&self, prepared: Prepared) {
        let shared = &self.0;
        let mut listening = shared.listening();
        if listening.state == State::Stopped {
            return;
        }
        shared.setup.store(Arc::new(prepared.setup));
        listening.tls = prepared.tls;
        listening.drain = prepared.drain;
        let wanted = listening.tls.as_ref().and_then(|tls| tls.of.acme.as_ref());
        let obtained = &shared.gateway.lasting.certificates;
        obtained.configure(wanted, prepared.kept);
        if let Some(tls) = &listening.tls {
            for fault in tls.acceptor.faults(shared.gateway.clock.now()) {
                tracing::warn!("{fault}");
            }
        }
        shared.tell_expiries(&listening);
        let running = listening.state == State::Running;
        let mut wanted = prepared.listen.clone();
        let mut kept = Vec::new();
        let mut last: Option<ListenAddr> = None;
        for door in std::mem::take(&mut listening.doors) {
            // A name can stand for several sockets.
            let same = matches!(door.at, ListenAddr::Systemd(_)) && last.as_ref() == Some(&door.at);
            let place = wanted.iter().position(|at| *at == door.at);
            if let Some(place) = place {
                wanted.remove(place);
            }
            if place.is_some() || same {
                last = Some(door.at.clone());
                kept.push(door);
            } else {
                tracing::info!(
                    address = door.address,
                    listener = "data",
                    "no longer listening"
                );
                door.service.stopping.begin();
            }
        }
        for (at, listener) in prepared.opened {
            let mut door = Door {
                at,
                address: listener.address(),
                listener: Some(listener),
                service: Arc::new(Service {
                    gateway: shared.gateway.clone(),
                    setup: shared.setup.clone(),
                    stopping: Stopping::default(),
                }),
            };
            if running {
                let tls = listening.tls.is_some();
                tracing::info!(address = door.address, listener = "data", tls, "listening");
                shared.run(&mut door);
            }
            kept.push(door);
        }
        listening.doors = kept;
        let moved = listening.admin.as_ref().map(|admin| &admin.at) != prepared.admin_at.as_ref();
        if moved && let Some(gone) = listening.admin.take() {
            tracing::info!(
                address = gone.address,
                listener = "admin",
                "no longer listening"
            );
            if let Some(running) = gone.running {
                running.abort();
            }
        }
        if let Some((at, listener)) = prepared.admin {
            let mut admin = AdminDoor {
                at,
                address: listener.address(),
                listener: Some(listener),
                running: None,
            };
            if running {
                tracing::info!(
                    address = admin.address,
                    listener = "admin",
                    tls = false,
                    "listening"
                );
                shared.run_admin(&mut admin);
            }
            listening.admin = Some(admin);
        }
    }
}

impl Shared {
    /// One that listens nowhere yet.
    pub(super) fn new(config: &Config, gateway: Arc<Gateway>, passed: Passed) -> Self {
        let setup = Setup {
            tls: None,
            limits: config.limits.clone(),
            trusted_proxies: Arc::default(),
            proxy_protocol: false,
        };
        Self {
            gateway,
            setup: Arc::new(ArcSwap::from_pointee(setup)),
            passed,
            listening: Mutex::new(Listening {
                state: State::Bound,
                doors: Vec::new(),
                admin: None,
                tls: None,
                drain: config.server.drain,
            }),
            places: Arc::new(Semaphore::new(config.limits.connections)),
            connections: TaskTracker::new(),
            accepting: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    fn tell_expiries(&self, listening: &Listening) {
        let expiries = listening.tls.as_ref().map(|tls| tls.acceptor.expiries());
        let reloads = &self.gateway.telemetry.metrics.reloads;
        reloads.certificates(&expiries.unwrap_or_default());
    }

    /// Obtains certificates, if the configuration wants any, and renews them. Never ends.
    pub(super) async fn keep_certificates(&self) {
        #[cfg(feature = "acme")]
        {
            let Gateway {
                lasting,
                clock,
                telemetry,
                ..
            } = &*self.gateway;
            let reloads = &telemetry.metrics.reloads;
            acme::keep(&lasting.certificates, &**clock, reloads, || {
                self.tell_expiries(&self.listening());
            })
            .await;
        }
        std::future::pending().await
    }

    /// Begins to accept.
    pub(super) fn start(&self) {
        let mut listening = self.listening();
        listening.state = State::Running;
        for door in &mut listening.doors {
            self.run(door);
        }
        if let Some(admin) = &mut listening.admin {
            self.run_admin(admin);
        }
    }

    /// Accepts nothing more from senders; no reload opens anything from now on. Gives what still answers on the admin listener, and how
    /// long draining may take.
    pub(super) fn stop(&self) -> (Option<AbortHandle>, Duration) {
        let mut listening = self.listening();
        listening.state = State::Stopped;
        for door in std::mem::take(&mut listening.doors) {
            door.service.stopping.begin();
        }
        let admin = listening.admin.take();
        (admin.and_then(|admin| admin.running), listening.drain)
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        let listening = self.listening();
        let doors = listening.doors.iter();
        doors.map(|door| door.address.clone()).collect()
    }

    pub(super) fn admin_address(&self) -> Option<String> {
        let listening = self.listening();
        listening.admin.as_ref().map(|admin| admin.address.clone())
    }

    /// Warns of sockets that were passed for nothing.
    pub(super) fn warn_of_unused(&self, server: &config::Server) {
        let wanted: Vec<_> = server.listen.iter().chain(&server.admin).collect();
        let sockets = self.passed.unused(&wanted);
        if !sockets.is_empty() {
            tracing::warn!(
                sockets = sockets.join(" "),
                "sockets were passed that no `listen` names: who connects there waits in vain"
            );
        }
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to accept.
    fn run(&self, door: &mut Door) {
        if let Some(listener) = door.listener.take() {
            self.accepting.spawn(accept::run(
                listener,
                door.service.clone(),
                self.places.clone(),
                self.connections.clone(),
            ));
        }
    }

    fn run_admin(&self, admin: &mut AdminDoor) {
        if let Some(listener) = admin.listener.take() {
            let serving = tokio::spawn(admin::serve(
                listener,
                self.gateway.clone(),
                self.setup.load().limits.clone(),
                self.stopping.clone(),
            ));
            admin.running = Some(serving.abort_handle());
        }
    }
}

/// The addresses that are not there yet. The same one may be wanted, and be there, several times: port 0.
fn added<'a>(wanted: &'a [ListenAddr], present: &[ListenAddr]) -> Vec<&'a ListenAddr> {
    let mut present = present.to_vec();
    let is_new = |at: &&ListenAddr| match present.iter().position(|there| there == *at) {
        Some(place) => {
            present.swap_remove(place);
            false
        }
        None => true,
    };
    wanted.iter().filter(is_new).collect()
}

/// The acceptor's configuration: the one there is, if it would be made of the same.
fn certificates_of(
    tls: &Tls,
    present: Option<Certificates>,
    unchanged: &dyn Fn(&Path) -> bool,
    obtained: &Arc<acme::Certificates>,
) -> anyhow::Result<Certificates> {
    let all = |files: Vec<PathBuf>| files.iter().all(|file| unchanged(file));
    if let Some(present) = &present
        && present.of == *tls
        && all(tls.files())
    {
        return Ok(present.clone());
    }
    let same_clients = present.filter(|present| {
        present.of.client_ca == tls.client_ca && tls.client_ca.as_deref().is_none_or(unchanged)
    });
    let tickets = same_clients.map(|present| present.acceptor.config.ticketer.clone());
    Ok(Certificates {
        of: tls.clone(),
        acceptor: Arc::new(server_config(tls, tickets, obtained)?),
    })
}
