//! Connections to one address: a bounded stack of idle HTTP/1.1 ones, and the one that HTTP/2 requests share.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::client::conn::{http1, http2};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Sender, connect::Connector, socket::SocketWatch};
use crate::body::BodyStream;

/// A connection that was just opened.
pub(super) struct Opened {
    pub(super) sender: Sender,
    pub(super) watch: SocketWatch,
}

/// A connection that is this request's alone (HTTP/1.1), or its share of one (HTTP/2).
pub(super) struct Checkout {
    pub(super) sender: Sender,
    /// Where it goes when its response has ended; `None` for HTTP/2, which nobody takes away.
    pub(super) home: Option<Home>,
    /// It served a request before, so the other side may be closing it right now.
    pub(super) reused: bool,
    /// Says that an HTTP/2 connection is in use.
    _share: Option<Arc<()>>,
}

/// Brings an HTTP/1.1 connection back.
pub(super) struct Home {
    pool: Arc<Pool>,
    watch: SocketWatch,
}

/// The connections to one address.
pub(super) struct Pool {
    connector: Connector,
    keep_alive: Duration,
    idle_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Oldest first, all with the same life time: sorted by `until`.
    idle: Vec<Idle>,
    http2: Option<Shared>,
    /// A task is waiting to drop what nobody used.
    sweeping: bool,
}

struct Shared {
    sender: http2::SendRequest<BodyStream>,
    /// One handle here, and one in each request on it.
    users: Arc<()>,
    /// When to look whether it is still in use.
    until: Instant,
}

struct Idle {
    sender: http1::SendRequest<BodyStream>,
    watch: SocketWatch,
    until: Instant,
}

impl Pool {
    pub(super) fn new(connector: Connector, keep_alive: Duration, idle_max: usize) -> Arc<Self> {
        Arc::new(Self {
            connector,
            keep_alive,
            idle_max,
            state: Mutex::default(),
        })
    }

    /// A connection from earlier that is open at this moment, if there is one; the one used last comes first.
    pub(super) fn reuse(self: &Arc<Self>) -> Option<Checkout> {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(shared) = &mut state.http2
            && !shared.sender.is_closed()
        {
            shared.until = now + self.keep_alive;
            return Some(Checkout {
                sender: Sender::Http2(shared.sender.clone()),
                home: None,
                reused: true,
                _share: Some(shared.users.clone()),
            });
        }
        while let Some(Idle {
            sender,
            watch,
            until,
        }) = state.idle.pop()
        {
            if until > now && sender.is_ready() && watch.is_quiet() {
                let home = Home {
                    pool: self.clone(),
                    watch,
                };
                return Some(Checkout {
                    sender: Sender::Http1(sender),
                    home: Some(home),
                    reused: true,
                    _share: None,
                });
            }
        }
        None
    }

    /// A new connection.
    pub(super) async fn open(self: &Arc<Self>) -> io::Result<Checkout> {
        let Opened { sender, watch } = self.connector.open().await?;
        let mut checkout = Checkout {
            sender,
            home: None,
            reused: false,
            _share: None,
        };
        match &checkout.sender {
            Sender::Http1(_) => {
                checkout.home = Some(Home {
                    pool: self.clone(),
                    watch,
                });
            }
            Sender::Http2(sender) => {
                let users = Arc::new(());
                checkout._share = Some(users.clone());
                let mut state = self.state();
                state.http2 = Some(Shared {
                    sender: sender.clone(),
                    users,
                    until: Instant::now() + self.keep_alive,
                });
                self.start_sweeping(&mut state);
            }
        }
        Ok(checkout)
    }

    fn start_sweeping(self: &Arc<Self>, state: &mut State) {
        if !state.sweeping {
            state.sweeping = true;
            drop(tokio::spawn(self.clone().sweep()));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops connections when their time is over, until none is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            let (next, expired) = {
                let mut state = self.state();
                let now = Instant::now();
                let end = state
                    .idle
                    .partition_point(|connection| connection.until <= now);
                let expired: Vec<_> = state.idle.drain(..end).collect();
                let idle = state.idle.first().map(|connection| connection.until);
                let next = idle
                    .into_iter()
                    .chain(state.sweep_http2(now, self.keep_alive))
                    .min();
                state.sweeping = next.is_some();
                (next, expired)
            };
            drop(expired);
            match next {
                Some(next) => sleep_until(next).await,
                None => return,
            }
        }
    }
}

impl State {
    /// Drops the HTTP/2 connection if nobody uses it any more; else says when to look again.
    fn sweep_http2(&mut self, now: Instant, keep_alive: Duration) -> Option<Instant> {
        let shared = self.http2.as_mut()?;
        if Arc::strong_count(&shared.users) > 1 {
            shared.until = now + keep_alive;
        }
        if shared.until <= now || shared.sender.is_closed() {
            self.http2 = None;
            return None;
        }
        Some(shared.until)
    }
}

impl Home {
    /// Puts the connection back. Call it when the response has ended.
    pub(super) fn give_back(self, mut sender: http1::SendRequest<BodyStream>) {
        if sender.is_closed() {
            return;
        }
        if sender.is_ready() {
            return self.shelve(sender);
        }
        // The answer was faster than the request, which is still being written. The upstream may want the rest of it; if it does
        // not, the connection would hold the body for ever.
        drop(tokio::spawn(async move {
            match timeout(self.pool.keep_alive, sender.ready()).await {
                Ok(Ok(())) => self.shelve(sender),
                Ok(Err(_)) => {}
                Err(_) => self.watch.hang_up(),
            }
        }));
    }

    fn shelve(self, sender: http1::SendRequest<BodyStream>) {
        let mut state = self.pool.state();
        if state.idle.len() >= self.pool.idle_max {
            return;
        }
        let until = Instant::now() + self.pool.keep_alive;
        state.idle.push(Idle {
            sender,
            watch: self.watch,
            until,
        });
        self.pool.start_sweeping(&mut state);
    }
}
