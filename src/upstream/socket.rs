//! A connected socket to an upstream that can be asked whether it is still quiet.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::listen::Wire;

/// The socket, owned by the connection that reads and writes it. Nobody ever waits for the lock: the connection is driven, or the
/// socket is asked about, by whoever has the connection.
pub(super) struct Socket(Arc<Mutex<Inner>>);

/// The pool's view of a socket; does not keep it open.
pub(super) struct SocketWatch(Weak<Mutex<Inner>>);

struct Inner {
    wire: Wire,
    /// The other side takes no more bytes.
    deaf: bool,
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::new(Wire::Tcp(stream))
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self::new(Wire::Unix(stream))
    }
}

impl Socket {
    fn new(wire: Wire) -> Self {
        Self(Arc::new(Mutex::new(Inner { wire, deaf: false })))
    }

    pub(super) fn watch(&self) -> SocketWatch {
        SocketWatch(Arc::downgrade(&self.0))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Writes. When the other side takes no more, the rest goes nowhere: it may have answered early and closed, and whoever stops
    /// at the failed write never reads that answer. What is left to read tells how it ended.
    fn poll_write_or_drop(
        &mut self,
        len: usize,
        write: impl FnOnce(Pin<&mut Wire>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(len));
        }
        Poll::Ready(match ready!(write(Pin::new(&mut self.wire))) {
            Err(error) if is_hang_up(&error) => {
                self.deaf = true;
                Ok(len)
            }
            written => written,
        })
    }
}

impl SocketWatch {
    /// Whether the socket is open and nothing waits to be read: neither the end of the stream nor bytes that nobody asked for.
    ///
    /// The system is asked only if it has told of something since the last read: a request that comes by a socket is told of no
    /// sooner than what came by this one before it.
    pub(super) fn is_quiet(&self) -> bool {
        let Some(inner) = self.0.upgrade() else {
            return false;
        };
        let inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.deaf {
            return false;
        }
        let mut nobody = Context::from_waker(Waker::noop());
        let told = match &inner.wire {
            Wire::Tcp(stream) => stream.poll_read_ready(&mut nobody),
            Wire::Unix(stream) => stream.poll_read_ready(&mut nobody),
        };
        if told.is_pending() {
            return true;
        }
        let mut byte = [0_u8; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match &inner.wire {
            Wire::Tcp(stream) => recv(stream, &mut byte, flags),
            Wire::Unix(stream) => recv(stream, &mut byte, flags),
        };
        matches!(peeked, Err(Errno::AGAIN))
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().wire).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner()
            .poll_write_or_drop(bytes.len(), |wire| wire.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = parts.iter().map(|part| part.len()).sum();
        self.inner()
            .poll_write_or_drop(len, |wire| wire.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().wire).poll_shutdown(cx)
    }
}
