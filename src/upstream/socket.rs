//! A connected socket to an upstream that can be asked whether it is still quiet.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use rustix::net::{RecvFlags, recv};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// Most bytes of one read: responses to deliveries are small.
const READ_BYTES_MAX: usize = 8 * 1024;

/// The socket, owned by the connection that reads and writes it.
pub(super) struct Socket(Arc<Inner>);

/// The pool's view of a socket; does not keep it open.
pub(super) struct SocketWatch(Weak<Inner>);

enum Inner {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self(Arc::new(Inner::Tcp(stream)))
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self(Arc::new(Inner::Unix(stream)))
    }
}

impl Socket {
    pub(super) fn watch(&self) -> SocketWatch {
        SocketWatch(Arc::downgrade(&self.0))
    }

    fn poll_ready(&self, cx: &mut Context<'_>, write: bool) -> Poll<io::Result<()>> {
        match (&*self.0, write) {
            (Inner::Tcp(stream), false) => stream.poll_read_ready(cx),
            (Inner::Tcp(stream), true) => stream.poll_write_ready(cx),
            (Inner::Unix(stream), false) => stream.poll_read_ready(cx),
            (Inner::Unix(stream), true) => stream.poll_write_ready(cx),
        }
    }

    /// Notes that the socket had no more to give: a read that finds nothing is spared. It becomes readable again by an event.
    fn emptied(&self) {
        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = match &*self.0 {
            Inner::Tcp(stream) => stream.try_io(Interest::READABLE, nothing),
            Inner::Unix(stream) => stream.try_io(Interest::READABLE, nothing),
        };
    }

    /// Tries again whenever the socket says it is ready, until it really was.
    fn poll_io<T>(
        &self,
        cx: &mut Context<'_>,
        write: bool,
        mut attempt: impl FnMut(&Inner) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_ready(cx, write))?;
            match attempt(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl SocketWatch {
    /// Whether the socket is open and nothing waits to be read: neither the end of the stream nor bytes that nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        let Some(inner) = self.0.upgrade() else {
            return false;
        };
        let mut byte = [0_u8; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match &*inner {
            Inner::Tcp(stream) => recv(stream, &mut byte, flags),
            Inner::Unix(stream) => recv(stream, &mut byte, flags),
        };
        matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Only what a shared reference can fill is initialised first, so not all of a large buffer.
        let wanted = buf.remaining().min(READ_BYTES_MAX);
        let unfilled = buf.initialize_unfilled_to(wanted);
        let read = ready!(self.poll_io(cx, false, |inner| match inner {
            Inner::Tcp(stream) => stream.try_read(unfilled),
            Inner::Unix(stream) => stream.try_read(unfilled),
        }))?;
        if read > 0 && read < wanted {
            self.emptied();
        }
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(cx, true, |inner| match inner {
            Inner::Tcp(stream) => stream.try_write(bytes),
            Inner::Unix(stream) => stream.try_write(bytes),
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(cx, true, |inner| match inner {
            Inner::Tcp(stream) => stream.try_write_vectored(parts),
            Inner::Unix(stream) => stream.try_write_vectored(parts),
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = match &*self.0 {
            Inner::Tcp(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
            Inner::Unix(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
        };
        Poll::Ready(match done {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }
}
