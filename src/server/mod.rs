//! The life of a serving process: bind, serve, drain.

mod accept;
mod connection;
mod linger;
mod listening;
mod proxy_header;
mod stopping;
mod tls;
mod transport;
mod trim;

use std::{io, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::listening::Shared;
pub use self::{
    listening::{Control, Prepared},
    tls::{Acceptor, server_config},
};
use crate::{config::Config, listen::Passed, pipeline::Gateway};

/// A gateway with its sockets bound.
pub struct Server(Arc<Shared>);

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
    pub fn bind(config: &Config, gateway: Arc<Gateway>, passed: Passed) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::new(config, gateway, passed));
        let control = Control(shared.clone());
        control.commit(control.prepare(config, &|_| false)?);
        shared.warn_of_unused(&config.server);
        Ok(Self(shared))
    }

    /// What changes it while it runs.
    pub fn control(&self) -> Control {
        Control(self.0.clone())
    }

    /// Where senders connect, with the ports that were chosen.
    pub fn addresses(&self) -> Vec<String> {
        self.0.addresses()
    }

    /// Where metrics and health are.
    pub fn admin_address(&self) -> Option<String> {
        self.0.admin_address()
    }

    /// What ends the serving when it is cancelled.
    pub fn stopping(&self) -> CancellationToken {
        self.0.stopping.clone()
    }

    /// Serves until [`Self::stopping`] is cancelled, then drains: accepts nothing more, finishes what was accepted.
    /// `hurry` ends the draining at once.
    pub async fn run(self, hurry: CancellationToken) -> Ended {
        let shared = self.0;
        shared.gateway.lasting.replay.connect();
        shared.start();
        tokio::select! {
            () = shared.stopping.cancelled() => {}
            () = trim::for_ever() => {}
            () = shared.keep_certificates() => {}
        }
        let (admin, drain) = shared.stop();
        shared.accepting.close();
        shared.accepting.wait().await;
        shared.connections.close();
        tracing::info!(connections = shared.connections.len(), "draining");
        let ended = tokio::select! {
            drained = timeout(drain, async {
                shared.connections.wait().await;
                // What senders no longer wait for, but a later retry depends on.
                shared.gateway.lasting.replay.settled().await;
            }) => if drained.is_ok() { Ended::Drained } else { Ended::CutShort },
            () = hurry.cancelled() => Ended::CutShort,
        };
        // Health and metrics stay to be seen until the last request is answered.
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
