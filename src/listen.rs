//! Listening sockets, and what they accept.

use std::{
    fs,
    io::{self, IoSlice},
    net::{self, IpAddr, SocketAddr},
    os::unix::{
        self,
        fs::{FileTypeExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use socket2::{Domain, Protocol, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use crate::{
    config::ListenAddr,
    systemd::{self, Socket},
};

/// Connections that the kernel completes ahead of us.
const BACKLOG: i32 = 4096;

/// So little is cheaper to copy into one buffer than to hand to the system as a list.
const GATHER_BYTES_MAX: usize = 2048;

/// A socket that listens.
pub struct Listener {
    socket: Bound,
    /// It was passed to this process, and may be passed to the next one: what waits in its queue is not lost with it.
    passed: bool,
    /// The file to remove when it is gone.
    _file: Option<SocketFile>,
}

enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Removes a socket's file when its listener is gone.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Sockets that the service manager passed. They stay open as long as this: an address that is left and taken up again is
/// served by the same one.
#[derive(Default)]
pub struct Passed(Vec<(String, Socket)>);

impl Passed {
    /// Takes over what was passed. Call it while there is one thread.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn take() -> anyhow::Result<Self> {
        Ok(Self(systemd::sockets()?))
    }

    /// The names of those that stand for none of these addresses.
    pub fn unused(&self, listening: &[&ListenAddr]) -> Vec<String> {
        let unused = self
            .0
            .iter()
            .filter(|(name, socket)| !listening.iter().any(|address| is_at(name, socket, address)));
        unused.map(|(name, _)| name.clone()).collect()
    }

    fn adopt(&self, address: &ListenAddr) -> io::Result<Vec<Listener>> {
        let meant = self
            .0
            .iter()
            .filter(|(name, socket)| is_at(name, socket, address));
        meant
            .map(|(_, socket)| {
                let socket = match socket {
                    Socket::Tcp(listener) => {
                        listener.set_nonblocking(true)?;
                        Bound::Tcp(TcpListener::from_std(listener.try_clone()?)?)
                    }
                    Socket::Unix(listener) => {
                        listener.set_nonblocking(true)?;
                        let path = path_of(listener).unwrap_or_default();
                        Bound::Unix(UnixListener::from_std(listener.try_clone()?)?, path)
                    }
                };
                Ok(Listener {
                    socket,
                    passed: true,
                    _file: None,
                })
            })
            .collect()
    }
}

fn is_at(name: &str, socket: &Socket, address: &ListenAddr) -> bool {
    match (address, socket) {
        (ListenAddr::Systemd(wanted), _) => name == wanted,
        (ListenAddr::Tcp(address), Socket::Tcp(listener)) => {
            listener.local_addr().is_ok_and(|local| local == *address)
        }
        (ListenAddr::Unix(path), Socket::Unix(listener)) => {
            path_of(listener).as_ref() == Some(path)
        }
        (ListenAddr::Tcp(_), Socket::Unix(_)) | (ListenAddr::Unix(_), Socket::Tcp(_)) => false,
    }
}

fn path_of(listener: &unix::net::UnixListener) -> Option<PathBuf> {
    let address = listener.local_addr().ok()?;
    address.as_pathname().map(Path::to_owned)
}

impl Listener {
    /// Opens an address: a socket that was passed for it, else a new one. By the name of passed sockets there can be several.
    ///
    /// # Errors
    /// As the system says. A Unix socket's file that nobody listens on any more is replaced; any other file is not.
    pub fn open(address: &ListenAddr, passed: &Passed, reuse_port: bool) -> io::Result<Vec<Self>> {
        let adopted = passed.adopt(address)?;
        if !adopted.is_empty() {
            return Ok(adopted);
        }
        let mut file = None;
        let socket = match address {
            ListenAddr::Tcp(address) => Bound::Tcp(bind_tcp(*address, reuse_port)?),
            ListenAddr::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                file = Some(SocketFile(path.clone()));
                // Whoever may enter the folder may connect: a web server in front runs as another user.
                fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
                Bound::Unix(listener, path.clone())
            }
            ListenAddr::Systemd(_) => {
                let names: Vec<_> = passed.0.iter().map(|(name, _)| name.as_str()).collect();
                let found = match names.is_empty() {
                    true => "systemd passed no socket".to_owned(),
                    false => format!("systemd passed only {}", names.join(", ")),
                };
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{found}; see FileDescriptorName= in the .socket unit"),
                ));
            }
        };
        Ok(vec![Self {
            socket,
            passed: false,
            _file: file,
        }])
    }

    /// Where it listens, with the port that was chosen.
    pub fn address(&self) -> String {
        match &self.socket {
            Bound::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|error| error.to_string(), |address| address.to_string()),
            Bound::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// The next connection, and the address it comes from.
    ///
    /// # Errors
    /// As the system says; descriptors may have run out.
    pub async fn accept(&self) -> io::Result<(Wire, Option<IpAddr>)> {
        match &self.socket {
            Bound::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Wire::Tcp(stream), Some(peer.ip().to_canonical())))
            }
            Bound::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Wire::Unix(stream), None))
            }
        }
    }

    /// Closes the listener, and gives back what the kernel had accepted by then: its senders may have sent requests already. What
    /// waits at a socket that was passed is left to the next process.
    pub fn close(self) -> Vec<(Wire, Option<IpAddr>)> {
        let mut queued = Vec::new();
        if self.passed {
            return queued;
        }
        // Neither blocks; any error means that there is nothing more to get.
        match self.socket {
            Bound::Tcp(listener) => {
                let Ok(listener) = listener.into_std() else {
                    return queued;
                };
                while let Ok((stream, peer)) = listener.accept() {
                    if let Ok(stream) = nonblocking_tcp(stream) {
                        queued.push((Wire::Tcp(stream), Some(peer.ip().to_canonical())));
                    }
                }
            }
            Bound::Unix(listener, _) => {
                let Ok(listener) = listener.into_std() else {
                    return queued;
                };
                while let Ok((stream, _)) = listener.accept() {
                    if let Ok(stream) = nonblocking_unix(stream) {
                        queued.push((Wire::Unix(stream), None));
                    }
                }
            }
        }
        queued
    }
}

fn nonblocking_tcp(stream: net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn nonblocking_unix(stream: unix::net::UnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

fn bind_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if unix::net::UnixStream::connect(path).is_ok() {
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

/// An accepted socket.
pub enum Wire {
    /// TCP
    Tcp(TcpStream),
    /// Unix
    Unix(UnixStream),
}

/// Both directions, for either kind of stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Wire {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut (dyn Duplex + 'static)> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream),
            Self::Unix(stream) => Pin::new(stream),
        }
    }
}

impl Wire {
    /// Waits until something has come, or the stream has ended.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    /// The socket without a poller; it does not block.
    pub(crate) fn into_socket(self) -> io::Result<socket2::Socket> {
        Ok(match self {
            Self::Tcp(stream) => stream.into_std()?.into(),
            Self::Unix(stream) => stream.into_std()?.into(),
        })
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > GATHER_BYTES_MAX {
            return self.stream().poll_write_vectored(cx, parts);
        }
        let mut gathered = [0; GATHER_BYTES_MAX];
        let mut rest = &mut gathered[..];
        for part in parts {
            let (to, behind) = rest.split_at_mut(part.len());
            to.copy_from_slice(part);
            rest = behind;
        }
        self.stream().poll_write(cx, &gathered[..len])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
