//! What an upstream saw.

use std::{
    mem,
    sync::{Condvar, Mutex, MutexGuard},
    time::Instant,
};

use super::{PATIENCE, wire::Fields};

/// Bodies up to this size are kept whole; of longer ones only length and digest.
pub(crate) const BODY_KEPT_MAX: usize = 1 << 20;

/// One request as an upstream received it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Bytes of the head; empty on HTTP/2.
    pub(crate) raw_head: Vec<u8>,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Fields,
    pub(crate) trailers: Fields,
    pub(crate) body_len: u64,
    /// Hex.
    pub(crate) body_sha256: String,
    /// The body, unless longer than [`BODY_KEPT_MAX`].
    pub(crate) body: Option<Vec<u8>>,
    /// Which connection it came on, counted from 0.
    pub(crate) connection: usize,
    /// Whether the client showed a certificate.
    pub(crate) client_certificate: bool,
}

/// Collects what upstreams see; threads can wait for it.
#[derive(Default)]
pub(crate) struct Recorder {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    faults: Vec<String>,
    connections: usize,
    ended: usize,
}

impl Recorder {
    /// Counts a connection and gives its number.
    pub(crate) fn connected(&self) -> usize {
        let mut state = self.lock();
        state.connections += 1;
        self.changed.notify_all();
        state.connections - 1
    }

    /// Counts the end of a connection.
    pub(crate) fn disconnected(&self) {
        self.lock().ended += 1;
        self.changed.notify_all();
    }

    /// Records a request.
    pub(crate) fn record(&self, seen: Seen) {
        self.lock().seen.push(seen);
        self.changed.notify_all();
    }

    /// Records something that no gateway may send.
    pub(crate) fn fault(&self, what: String) {
        self.lock().faults.push(what);
        self.changed.notify_all();
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.lock().connections
    }

    /// Faults so far: messages broken off or malformed.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.lock().faults.clone()
    }

    /// Requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// How many requests so far.
    pub(crate) fn count(&self) -> usize {
        self.lock().seen.len()
    }

    /// Takes the one request that came since the last call. It is recorded before it is answered, so no wait is needed
    /// after an answer.
    ///
    /// # Panics
    /// If none came, or several, or something malformed.
    pub(crate) fn take_only(&self) -> Seen {
        let mut state = self.lock();
        assert_eq!(state.faults, Vec::<String>::new(), "faults at the upstream");
        let mut seen = mem::take(&mut state.seen);
        assert_eq!(seen.len(), 1, "requests at the upstream: {seen:#?}");
        seen.remove(0)
    }

    /// Checks that nobody so much as connected.
    pub(crate) fn assert_untouched(&self) {
        let state = self.lock();
        assert_eq!(state.faults, Vec::<String>::new(), "faults at the upstream");
        assert_eq!(state.seen.len(), 0, "the upstream saw {:#?}", state.seen);
        assert_eq!(state.connections, 0, "connections to the upstream");
    }

    /// Waits until `count` requests came.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Seen> {
        self.wait_until(&format!("{count} requests"), |state| {
            state.seen.len() >= count
        })
        .seen
        .clone()
    }

    /// Waits until `count` connections came.
    pub(crate) fn wait_for_connections(&self, count: usize) {
        drop(self.wait_until(&format!("{count} connections"), |state| {
            state.connections >= count
        }));
    }

    /// Waits until `count` connections have ended.
    pub(crate) fn wait_for_ends(&self, count: usize) {
        drop(
            self.wait_until(&format!("the end of {count} connections"), |state| {
                state.ended >= count
            }),
        );
    }

    /// Waits until something malformed or broken off came.
    pub(crate) fn wait_for_fault(&self) -> String {
        self.wait_until("a fault", |state| !state.faults.is_empty())
            .faults[0]
            .clone()
    }

    fn wait_until(&self, what: &str, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let end = Instant::now() + PATIENCE;
        let mut state = self.lock();
        while !done(&state) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "waited {PATIENCE:?} for {what}; the upstream had {} connections, {} requests, faults {:?}",
                state.connections,
                state.seen.len(),
                state.faults
            );
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
