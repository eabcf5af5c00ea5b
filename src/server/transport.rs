//! A downstream connection's bytes: plain or TLS, with a memory of when something last moved.

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Empty, ReadBuf, empty},
    time::Instant,
};
use tokio_rustls::server::TlsStream;

use super::linger;
use crate::listen::{Duplex, Wire};

/// A connection rests when no request has come for this long: shorter, and a sender of ten requests a second would have it made ready
/// again for each.
pub(super) const REST_AFTER: Duration = Duration::from_millis(250);

/// The same after its first request. Many senders have one to send and keep the connection: of a burst of those, the later ones
/// take what the earlier ones gave back, and less memory lies between what they keep.
const REST_AFTER_FIRST: Duration = Duration::from_millis(25);

/// Whether the connection is at work, for the timer that watches over it.
pub(super) struct Activity {
    began: Instant,
    /// Requests between head and last byte of the answer.
    requests: AtomicUsize,
    /// Those of them whose answer lies ready, and of which the other side takes nothing at present.
    offering: AtomicUsize,
    /// Milliseconds after `began` at which a piece of an answer was last asked for or handed out.
    moved_at: AtomicU64,
    /// Nothing more is read from it as a request.
    ending: AtomicBool,
    /// Requests that ever began on it.
    served: AtomicU64,
    /// Milliseconds after `began` at which it last became idle.
    idle_since: AtomicU64,
    /// Milliseconds after `began` at which the first byte after that came; 0: none yet.
    head_since: AtomicU64,
    /// Milliseconds after `began` since when the other side takes no bytes; 0: it does.
    stuck_since: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            requests: AtomicUsize::new(0),
            offering: AtomicUsize::new(0),
            moved_at: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            served: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            stuck_since: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        // Never 0, which means "not".
        u64::try_from(self.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// A request's head is here. Drop what is returned when its answer is out.
    ///
    /// On HTTP/1.1 an answer that is not taken blocks the socket; on HTTP/2 it may not, so there each piece is followed.
    pub(super) fn request(self: &Arc<Self>, http2: bool) -> Busy {
        self.requests.fetch_add(1, Relaxed);
        self.served.fetch_add(1, Relaxed);
        Busy {
            activity: self.clone(),
            http2,
            offers: false,
        }
    }

    /// Until when the connection may go on as it is; `None`: its time is over.
    pub(super) fn allowed_until(&self, limits: &ActivityLimits) -> Option<Instant> {
        let now = self.now();
        let at = |since: u64, limit: Duration| {
            let end = since.saturating_add(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            (end > now).then(|| self.began + Duration::from_millis(end))
        };
        match self.stuck_since.load(Relaxed) {
            0 => {}
            since => return at(since, limits.stuck),
        }
        let requests = self.requests.load(Relaxed);
        if requests > 0 {
            // An HTTP/2 sender that opens no window blocks no write: nothing is tried.
            if self.offering.load(Relaxed) == requests {
                return at(self.moved_at.load(Relaxed), limits.idle);
            }
            return Some(Instant::now() + limits.head.min(limits.idle));
        }
        let served = self.served.load(Relaxed) > 0;
        match self.head_since.load(Relaxed) {
            // HTTP/2 sends frames of its own between requests: there the whole pause counts.
            since if since == 0 || limits.http2 => match served {
                false => at(0, limits.first),
                true => at(self.idle_since.load(Relaxed), limits.idle),
            },
            since => at(since, limits.head),
        }
    }

    /// From when on it rests, if nothing comes: every answer has gone out, and more requests may come. `None`: it is at work.
    pub(super) fn rests_from(&self) -> Option<Instant> {
        let after = match self.served.load(Relaxed) {
            0 => return None,
            1 => REST_AFTER_FIRST,
            _ => REST_AFTER,
        };
        (self.is_idle() && !self.ending.load(Relaxed) && self.stuck_since.load(Relaxed) == 0)
            .then(|| self.began + Duration::from_millis(self.idle_since.load(Relaxed)) + after)
    }

    /// Whether it waits for a request of which nothing has come.
    fn is_idle(&self) -> bool {
        self.requests.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0
    }
}

/// How long a connection may stay in each state.
#[derive(Clone, Copy)]
pub(super) struct ActivityLimits {
    /// Without any byte of a first request.
    pub(super) first: Duration,
    /// In the head of a request.
    pub(super) head: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
    /// With an answer that the other side does not read.
    pub(super) stuck: Duration,
    pub(super) http2: bool,
}

/// Marks a request as being served.
pub(super) struct Busy {
    activity: Arc<Activity>,
    http2: bool,
    offers: bool,
}

impl Busy {
    /// Tells whether a piece of the answer lies ready for the other side, or has yet to come from the upstream.
    pub(super) fn offers(&mut self, offers: bool) {
        if !self.http2 {
            return;
        }
        self.activity.moved_at.store(self.activity.now(), Relaxed);
        if offers != self.offers {
            self.offers = offers;
            match offers {
                true => self.activity.offering.fetch_add(1, Relaxed),
                false => self.activity.offering.fetch_sub(1, Relaxed),
            };
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.offers {
            self.activity.offering.fetch_sub(1, Relaxed);
        }
        self.activity.head_since.store(0, Relaxed);
        self.activity.idle_since.store(self.activity.now(), Relaxed);
        self.activity.requests.fetch_sub(1, Relaxed);
    }
}

/// What hyper reads from and writes to.
pub(super) struct Transport {
    stream: Stream,
    /// Bytes that were read to tell the protocol.
    prefix: Bytes,
    activity: Arc<Activity>,
    /// Our side has ended, the other one may write on.
    closing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

enum Stream {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
    /// Our side has ended.
    Ended(Empty),
}

impl Transport {
    pub(super) fn plain(wire: Wire, activity: Arc<Activity>) -> Self {
        Self {
            stream: Stream::Plain(wire),
            prefix: Bytes::new(),
            activity,
            closing: None,
        }
    }

    pub(super) fn tls(stream: TlsStream<Wire>, activity: Arc<Activity>) -> Self {
        Self {
            stream: Stream::Tls(Box::new(stream)),
            prefix: Bytes::new(),
            activity,
            closing: None,
        }
    }

    /// Reads until it is clear whether HTTP/2 is spoken by prior knowledge. The bytes stay to be read.
    pub(super) async fn speaks_http2(&mut self) -> io::Result<bool> {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let mut buffer = [0; PREFACE.len()];
        let mut filled = 0;
        while PREFACE.starts_with(&buffer[..filled]) && filled < PREFACE.len() {
            match self.read(&mut buffer[filled..]).await? {
                0 => break,
                read => filled += read,
            }
        }
        self.prefix = Bytes::copy_from_slice(&buffer[..filled]);
        Ok(&buffer[..filled] == PREFACE)
    }

    /// Puts back bytes that were read too far.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        debug_assert!(
            self.prefix.is_empty(),
            "hyper read all of it before it read on"
        );
        self.prefix = bytes;
    }

    /// Waits until a next request begins; `false` if none does. Its bytes stay to be read.
    pub(super) async fn begins(&mut self) -> io::Result<bool> {
        if self.prefix.is_empty() {
            let mut first = [0];
            let read = self.read(&mut first).await?;
            self.prefix = Bytes::copy_from_slice(&first[..read]);
        }
        Ok(!self.prefix.is_empty())
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut (dyn Duplex + 'static)> {
        match &mut self.get_mut().stream {
            Stream::Plain(wire) => Pin::new(wire),
            Stream::Tls(stream) => Pin::new(&mut **stream),
            Stream::Ended(nothing) => Pin::new(nothing),
        }
    }

    fn wrote<T>(&self, poll: &Poll<T>) {
        if poll.is_pending() {
            if self.activity.stuck_since.load(Relaxed) == 0 {
                self.activity
                    .stuck_since
                    .store(self.activity.now(), Relaxed);
            }
        } else if self.activity.stuck_since.load(Relaxed) != 0 {
            self.activity.stuck_since.store(0, Relaxed);
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        // With what follows it, if that is there: a read of these few bytes alone makes hyper double its buffer.
        let take = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix.split_to(take));
        let read = self.as_mut().stream().poll_read(cx, buf);
        if take == 0 {
            ready!(read)?;
        }
        if buf.filled().len() > before && self.activity.is_idle() {
            self.activity.head_since.store(self.activity.now(), Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = self.as_mut().stream().poll_write(cx, bytes);
        self.wrote(&poll);
        poll
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = self.as_mut().stream().poll_write_vectored(cx, parts);
        self.wrote(&poll);
        poll
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = self.as_mut().stream().poll_flush(cx);
        self.wrote(&poll);
        poll
    }

    /// Ends our side, then waits for the other one: see [`linger`].
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.activity.ending.store(true, Relaxed);
        if self.closing.is_none() {
            ready!(self.as_mut().stream().poll_shutdown(cx))?;
            let wire = match mem::replace(&mut self.stream, Stream::Ended(empty())) {
                Stream::Plain(wire) => wire,
                // What is thrown away need not be decrypted.
                Stream::Tls(stream) => stream.into_inner().0,
                Stream::Ended(_) => return Poll::Ready(Ok(())),
            };
            self.closing = Some(Box::pin(linger::close(wire)));
        }
        if let Some(closing) = &mut self.closing {
            ready!(closing.as_mut().poll(cx));
            self.closing = None;
        }
        Poll::Ready(Ok(()))
    }
}
