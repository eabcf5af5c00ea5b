//! The life of a serving process: bind, serve, drain.

mod accept;
mod connection;
mod proxy_header;
mod stopping;
mod tls;
mod transport;
mod trim;

use std::{io, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::tls::server_config;
use self::{connection::Service, stopping::Stopping};
use crate::{admin, config::Config, listen::Listener, pipeline::Gateway};

/// A gateway with its sockets bound.
pub struct Server {
    service: Arc<Service>,
    listeners: Vec<Listener>,
    admin: Option<Listener>,
    connections: usize,
    drain: Duration,
    stopping: CancellationToken,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every request was answered.
    Drained,
    /// Time, or patience, ran out before that.
    CutShort,
}

impl Server {
    /// Binds every address of the configuration. Needs a running tokio.
    ///
    /// # Errors
    /// If a certificate cannot be used or an address cannot be bound; the text names it.
    pub fn bind(config: &Config, gateway: Arc<Gateway>) -> anyhow::Result<Self> {
        let tls = config.server.tls.as_ref().map(server_config).transpose()?;
        let bind = |address: &_| {
            Listener::bind(address).with_context(|| format!("cannot listen on {address}"))
        };
        let listeners = config
            .server
            .listen
            .iter()
            .map(bind)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let admin = config.server.admin.as_ref().map(bind).transpose()?;
        let stopping = CancellationToken::new();
        let service = Service {
            gateway,
            tls: tls.map(|tls| TlsAcceptor::from(Arc::new(tls))),
            limits: config.limits.clone(),
            trusted_proxies: config.server.trusted_proxies.clone().into(),
            proxy_protocol: config.server.proxy_protocol,
            stopping: Stopping::default(),
        };
        Ok(Self {
            service: Arc::new(service),
            listeners,
            admin,
            connections: config.limits.connections,
            drain: config.server.drain,
            stopping,
        })
    }

    /// Where senders connect, with the ports that were chosen.
    pub fn addresses(&self) -> Vec<String> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// Where metrics and health are.
    pub fn admin_address(&self) -> Option<String> {
        self.admin.as_ref().map(Listener::address)
    }

    /// What ends the serving when it is cancelled.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Serves until [`Self::stopping`] is cancelled, then drains: accepts nothing more, finishes what was accepted.
    /// `hurry` ends the draining at once.
    pub async fn run(self, hurry: CancellationToken) -> Ended {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(self.connections));
        let accepting = TaskTracker::new();
        for listener in self.listeners {
            accepting.spawn(accept::run(
                listener,
                self.service.clone(),
                places.clone(),
                connections.clone(),
            ));
        }
        // Health and metrics stay to be seen until the last request is answered.
        let admin = self.admin.map(|listener| {
            tokio::spawn(admin::serve(
                listener,
                self.service.gateway.clone(),
                self.service.limits.clone(),
                self.stopping.clone(),
            ))
        });
        tokio::select! {
            () = self.stopping.cancelled() => {}
            () = trim::after_peaks(&self.service.gateway) => {}
        }
        self.service.stopping.begin();
        accepting.close();
        accepting.wait().await;
        connections.close();
        tracing::info!(connections = connections.len(), "draining");
        let ended = tokio::select! {
            drained = timeout(self.drain, connections.wait()) => if drained.is_ok() { Ended::Drained } else { Ended::CutShort },
            () = hurry.cancelled() => Ended::CutShort,
        };
        if let Some(admin) = admin {
            admin.abort();
        }
        ended
    }
}

/// Cancels `stopping` at the first SIGTERM or SIGINT, `hurry` at the second.
///
/// # Errors
/// If the signals cannot be caught.
pub fn stop_on_signals(stopping: CancellationToken, hurry: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    drop(tokio::spawn(async move {
        for (token, message) in [
            (stopping, "stopping; a second signal stops at once"),
            (hurry, "stopping at once"),
        ] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("{message}");
            token.cancel();
        }
    }));
    Ok(())
}
