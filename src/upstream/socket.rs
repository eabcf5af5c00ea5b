//! A connected socket to an upstream that can be asked whether it is still quiet.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, Shutdown, recv, shutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// Most bytes of one read: responses to deliveries are small.
const READ_BYTES_MAX: usize = 8 * 1024;

/// The socket, owned by the connection that reads and writes it.
pub(super) struct Socket(Arc<Inner>);

/// The pool's view of a socket; does not keep it open.
pub(super) struct SocketWatch(Weak<Inner>);

struct Inner {
    stream: Stream,
    /// The other side takes no more bytes.
    deaf: AtomicBool,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::new(Stream::Tcp(stream))
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self::new(Stream::Unix(stream))
    }
}

impl Socket {
    fn new(stream: Stream) -> Self {
        Self(Arc::new(Inner {
            stream,
            deaf: AtomicBool::new(false),
        }))
    }

    pub(super) fn watch(&self) -> SocketWatch {
        SocketWatch(Arc::downgrade(&self.0))
    }

    fn poll_ready(&self, cx: &mut Context<'_>, write: bool) -> Poll<io::Result<()>> {
        match (&self.0.stream, write) {
            (Stream::Tcp(stream), false) => stream.poll_read_ready(cx),
            (Stream::Tcp(stream), true) => stream.poll_write_ready(cx),
            (Stream::Unix(stream), false) => stream.poll_read_ready(cx),
            (Stream::Unix(stream), true) => stream.poll_write_ready(cx),
        }
    }

    /// Tries again whenever the socket says it is ready, until it really was.
    fn poll_io<T>(
        &self,
        cx: &mut Context<'_>,
        write: bool,
        mut attempt: impl FnMut(&Stream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_ready(cx, write))?;
            match attempt(&self.0.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Writes. When the other side takes no more, the rest goes nowhere: it may have answered early and closed, and whoever stops
    /// at the failed write never reads that answer. What is left to read tells how it ended.
    fn poll_write_or_drop(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        attempt: impl FnMut(&Stream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.0.deaf.load(Relaxed) {
            return Poll::Ready(Ok(len));
        }
        Poll::Ready(match ready!(self.poll_io(cx, true, attempt)) {
            Err(error) if is_hang_up(&error) => {
                self.0.deaf.store(true, Relaxed);
                Ok(len)
            }
            written => written,
        })
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
        let peeked = match &inner.stream {
            Stream::Tcp(stream) => recv(stream, &mut byte, flags),
            Stream::Unix(stream) => recv(stream, &mut byte, flags),
        };
        matches!(peeked, Err(Errno::AGAIN)) && !inner.deaf.load(Relaxed)
    }

    /// Ends both directions. The connection notices and closes.
    pub(super) fn hang_up(&self) {
        if let Some(inner) = self.0.upgrade() {
            // It may be over already.
            let _ = inner.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Stream {
    fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        match self {
            Self::Tcp(stream) => shutdown(stream, how),
            Self::Unix(stream) => shutdown(stream, how),
        }
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
        let wanted = buf.remaining().min(READ_BYTES_MAX);
        let read = ready!(self.poll_io(cx, false, |stream| {
            // Zeroed only when there is something to read; a shared reference cannot fill what is not.
            let unfilled = buf.initialize_unfilled_to(wanted);
            match stream {
                Stream::Tcp(stream) => stream.try_read(unfilled),
                Stream::Unix(stream) => stream.try_read(unfilled),
            }
        }))?;
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
        self.poll_write_or_drop(cx, bytes.len(), |stream| match stream {
            Stream::Tcp(stream) => stream.try_write(bytes),
            Stream::Unix(stream) => stream.try_write(bytes),
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = parts.iter().map(|part| part.len()).sum();
        self.poll_write_or_drop(cx, len, |stream| match stream {
            Stream::Tcp(stream) => stream.try_write_vectored(parts),
            Stream::Unix(stream) => stream.try_write_vectored(parts),
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.0.stream.shutdown(Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }
}
