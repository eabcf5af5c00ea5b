//! What the service manager says and hears: the sockets that it passes, and how the process is.
//!
//! All of it goes through variables that systemd sets. Without them nothing is passed and nobody is told.

use std::{io, net::TcpListener, os::unix::net::UnixListener, time::Duration};

use anyhow::Context as _;
use listenfd::ListenFd;
use sd_notify::NotifyState;

/// A socket that was passed.
pub enum Socket {
    /// TCP
    Tcp(TcpListener),
    /// Unix
    Unix(UnixListener),
}

/// Takes over the sockets that were passed, each with its name. Later calls find none.
///
/// Call it while there is one thread: it takes the variables away, so that no child believes they are meant for it.
///
/// # Errors
/// If the variables contradict themselves, or a descriptor is no listening socket.
pub fn sockets() -> anyhow::Result<Vec<(String, Socket)>> {
    // Knows for whom they are, and their names; the other knows how to own them.
    let names: Vec<_> = sd_notify::listen_fds_with_names()
        .context("LISTEN_FDS cannot be used")?
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for (index, (_, name)) in names.into_iter().enumerate() {
        let socket = match passed.take_tcp_listener(index) {
            Ok(Some(listener)) => Some(Socket::Tcp(listener)),
            Ok(None) => None,
            Err(_) => passed
                .take_unix_listener(index)
                .with_context(|| {
                    format!("the socket `{name}` that was passed listens on no TCP or Unix address")
                })?
                .map(Socket::Unix),
        };
        sockets.extend(socket.map(|socket| (name, socket)));
    }
    Ok(sockets)
}

/// Tells that requests are served: after the start, and after a reload however it went. `status` is for people.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells that a reload has begun; [`ready`] ends it.
pub fn reloading() {
    // Without the time the manager would wait for another such message for ever.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Tells that the process drains.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Tells that the process lives, and how it is.
pub fn alive(status: &str) {
    tell(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// How long the manager waits for [`alive`] before it ends the process; `None`: it does not.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
}

fn tell(states: &[NotifyState<'_>]) {
    let told: io::Result<()> = sd_notify::notify(states);
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager cannot be told of");
    }
}
