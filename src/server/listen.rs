//! Listening sockets and the accept loop.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{self, Service},
    transport::Wire,
};
use crate::config::ListenAddr;

/// How long accepting rests when descriptors have run out: closing connections give some back.
const REST: Duration = Duration::from_millis(50);

/// Connections that the kernel completes ahead of us.
const BACKLOG: i32 = 4096;

/// A bound socket.
pub enum Listener {
    /// TCP
    Tcp(TcpListener),
    /// Unix; the file is removed on drop.
    Unix(UnixListener, SocketFile),
}

/// Removes a socket's file when its listener is gone.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// As the system says. A Unix socket's file that nobody listens on any more is replaced; any other file is not.
    pub fn bind(address: &ListenAddr) -> io::Result<Self> {
        match address {
            ListenAddr::Tcp(address) => bind_tcp(*address).map(Self::Tcp),
            ListenAddr::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                // Whoever may enter the folder may connect: a web server in front runs as another user.
                fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
                Ok(Self::Unix(listener, SocketFile(path.clone())))
            }
        }
    }

    /// Where it listens, with the port that was chosen.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|error| error.to_string(), |address| address.to_string()),
            Self::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }

    pub(crate) async fn accept(&self) -> io::Result<(Wire, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Wire::Tcp(stream), Some(peer.ip().to_canonical())))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Wire::Unix(stream), None))
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process listens there",
                ));
            }
            fs::remove_file(path)
        }
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket stands there",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Accepts until the process stops. At the limit of connections accepting waits: the kernel's queue holds the rest.
pub(super) async fn accept(
    listener: Listener,
    service: Arc<Service>,
    places: Arc<Semaphore>,
    connections: TaskTracker,
    stopping: CancellationToken,
) {
    let metrics = service.gateway.telemetry.metrics.clone();
    loop {
        let place = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            Ok(place) = places.clone().acquire_owned() => place,
        };
        let accepted = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((wire, address)) => {
                metrics.connections.inc();
                let (service, metrics) = (service.clone(), metrics.clone());
                connections.spawn(async move {
                    connection::serve(service, wire, address).await;
                    metrics.connections.dec();
                    drop(place);
                });
            }
            // The one that wanted to connect has gone again; or descriptors have run out.
            Err(error) => {
                metrics.accept_errors.inc();
                tracing::debug!(%error, "a connection could not be accepted");
                if matches!(error.raw_os_error(), Some(code) if code == rustix::io::Errno::MFILE.raw_os_error() || code == rustix::io::Errno::NFILE.raw_os_error() || code == rustix::io::Errno::NOBUFS.raw_os_error() || code == rustix::io::Errno::NOMEM.raw_os_error())
                {
                    sleep(REST).await;
                }
            }
        }
    }
}
