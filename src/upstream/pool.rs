//! Connections to one address: a bounded stack of idle HTTP/1.1 ones, and the one that HTTP/2 requests share.

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::client::conn::http2;
use tokio::time::{Instant, sleep_until};

use super::{
    Link,
    connect::Connector,
    health::{Failure, Health},
    http1::Http1,
    patience::Patience,
};
use crate::body::BodyStream;

/// A connection that is this request's alone (HTTP/1.1), or its share of one (HTTP/2).
pub(super) struct Checkout {
    pub(super) link: Link,
    pub(super) patience: Patience,
    /// It served a request before, so the other side may be closing it right now.
    pub(super) reused: bool,
    /// It tries an address that was set aside.
    trial: bool,
    pool: Arc<Pool>,
    /// Says that an HTTP/2 connection is in use.
    _share: Option<Arc<()>>,
}

/// The connections to one address.
pub(super) struct Pool {
    /// Among those of the upstream.
    place: usize,
    connector: Connector,
    pub(super) health: Arc<Health>,
    max_fails: u32,
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
    connection: Box<Http1>,
    patience: Patience,
    until: Instant,
}

impl Pool {
    pub(super) fn new(
        place: usize,
        connector: Connector,
        health: Arc<Health>,
        max_fails: u32,
        keep_alive: Duration,
        idle_max: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            place,
            connector,
            health,
            max_fails,
            keep_alive,
            idle_max,
            state: Mutex::default(),
        })
    }

    /// A connection from earlier that is open at this moment, if there is one; the one used last comes first.
    pub(super) fn reuse(self: &Arc<Self>, trial: bool) -> Option<Checkout> {
        let mut state = self.state();
        if let Some(shared) = &mut state.http2
            && !shared.sender.is_closed()
        {
            shared.until = Instant::now() + self.keep_alive;
            return Some(Checkout {
                link: Link::Http2(shared.sender.clone()),
                patience: Patience::new(),
                reused: true,
                trial,
                pool: self.clone(),
                _share: Some(shared.users.clone()),
            });
        }
        // The sweep has dropped those whose time is over.
        while let Some(Idle {
            connection,
            patience,
            ..
        }) = state.idle.pop()
        {
            if connection.is_usable() {
                return Some(Checkout {
                    link: Link::Http1(connection),
                    patience,
                    reused: true,
                    trial,
                    pool: self.clone(),
                    _share: None,
                });
            }
        }
        None
    }

    /// A new connection.
    pub(super) async fn open(self: &Arc<Self>, trial: bool) -> io::Result<Checkout> {
        let link = self.connector.open().await.inspect_err(|_| {
            self.failed(Failure::Connect, trial);
        })?;
        self.health.metrics.connects.inc();
        let share = match &link {
            Link::Http1(_) => None,
            Link::Http2(sender) => {
                let users = Arc::new(());
                let mut state = self.state();
                state.http2 = Some(Shared {
                    sender: sender.clone(),
                    users: users.clone(),
                    until: Instant::now() + self.keep_alive,
                });
                self.start_sweeping(&mut state);
                Some(users)
            }
        };
        Ok(Checkout {
            link,
            patience: Patience::new(),
            reused: false,
            trial,
            pool: self.clone(),
            _share: share,
        })
    }

    fn failed(&self, failure: Failure, trial: bool) {
        self.health
            .failed(failure, trial, self.max_fails, Instant::now());
    }

    fn shelve(self: &Arc<Self>, connection: Box<Http1>, patience: Patience) {
        let mut state = self.state();
        if state.idle.len() >= self.idle_max {
            return;
        }
        state.idle.push(Idle {
            connection,
            patience,
            until: Instant::now() + self.keep_alive,
        });
        self.start_sweeping(&mut state);
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

impl Checkout {
    /// Which address it is to.
    pub(super) fn place(&self) -> usize {
        self.pool.place
    }

    /// The address gave a response.
    pub(super) fn succeeded(&self) {
        self.pool.health.succeeded();
    }

    /// The address gave none.
    pub(super) fn failed(&self, failure: Failure) {
        self.pool.failed(failure, self.trial);
    }

    /// Puts an HTTP/1.1 connection back. Call it when the response has ended.
    pub(super) fn give_back(self) {
        let Self {
            link: Link::Http1(mut connection),
            mut patience,
            pool,
            ..
        } = self
        else {
            return;
        };
        connection.settle();
        if connection.is_ready() {
            return pool.shelve(connection, patience);
        }
        if connection.is_closed() {
            return;
        }
        // The answer was faster than the request, which is still being written. The upstream may want the rest of it; if it does
        // not, the connection would hold the body for ever.
        drop(tokio::spawn(async move {
            let ready = patience
                .limit(pool.keep_alive, pin!(connection.ready()))
                .await;
            if ready == Some(true) {
                pool.shelve(connection, patience);
            }
        }));
    }
}
