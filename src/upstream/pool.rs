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
    http2: Option<http2::SendRequest<BodyStream>>,
    /// A task is waiting to drop what nobody used.
    sweeping: bool,
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
        if let Some(sender) = state.http2.as_ref().filter(|sender| !sender.is_closed()) {
            return Some(Checkout {
                sender: Sender::Http2(sender.clone()),
                home: None,
                reused: true,
            });
        }
        let now = Instant::now();
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
                });
            }
        }
        None
    }

    /// A new connection.
    pub(super) async fn open(self: &Arc<Self>) -> io::Result<Checkout> {
        let Opened { sender, watch } = self.connector.open().await?;
        let home = match &sender {
            Sender::Http1(_) => Some(Home {
                pool: self.clone(),
                watch,
            }),
            Sender::Http2(sender) => {
                self.state().http2 = Some(sender.clone());
                None
            }
        };
        Ok(Checkout {
            sender,
            home,
            reused: false,
        })
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
                let next = state.idle.first().map(|connection| connection.until);
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
        if !state.sweeping {
            state.sweeping = true;
            drop(tokio::spawn(self.pool.clone().sweep()));
        }
    }
}
