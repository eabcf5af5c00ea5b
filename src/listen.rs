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

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use crate::config::ListenAddr;

/// Connections that the kernel completes ahead of us.
const BACKLOG: i32 = 4096;

/// So little is cheaper to copy into one buffer than to hand to the system as a list.
const GATHER_BYTES_MAX: usize = 2048;

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

    /// The next connection, and the address it comes from.
    ///
    /// # Errors
    /// As the system says; descriptors may have run out.
    pub async fn accept(&self) -> io::Result<(Wire, Option<IpAddr>)> {
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

    /// Closes the listener, and gives back what the kernel had accepted by then: its senders may have sent requests already.
    pub fn close(self) -> Vec<(Wire, Option<IpAddr>)> {
        let mut queued = Vec::new();
        match self {
            Self::Tcp(listener) => {
                let Ok(listener) = listener.into_std() else {
                    return queued;
                };
                // It does not block; any error means that there is nothing more to get.
                while let Ok((stream, peer)) = listener.accept() {
                    if let Ok(stream) = nonblocking_tcp(stream) {
                        queued.push((Wire::Tcp(stream), Some(peer.ip().to_canonical())));
                    }
                }
            }
            Self::Unix(listener, _file) => {
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
