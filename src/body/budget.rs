//! Counting bytes against a hard limit.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// A number of bytes that may be held at one time. Shared by all bodies; no lock.
#[derive(Debug)]
pub(super) struct Pool {
    held: AtomicU64,
    pub(super) max: u64,
}

impl Pool {
    pub(super) fn new(max: u64) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicU64::new(0),
            max,
        })
    }

    /// Bytes held now; never above `max`.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    // Relaxed: the counter guards no other memory, and a read-modify-write sees the newest value in any order.
    fn take(&self, bytes: u64, limit: u64) -> bool {
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                held.checked_add(bytes).filter(|sum| *sum <= limit)
            })
            .is_ok()
    }
}

/// One holder's share of a [`Pool`], given back when dropped.
#[derive(Debug)]
pub(super) struct Hold {
    pool: Arc<Pool>,
    bytes: u64,
}

impl Hold {
    pub(super) fn empty(pool: &Arc<Pool>) -> Self {
        Self {
            pool: Arc::clone(pool),
            bytes: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Takes `bytes` more, unless the whole pool would then hold more than `limit`. All or nothing.
    #[must_use]
    pub(super) fn grow(&mut self, bytes: u64, limit: u64) -> bool {
        let taken = self.pool.take(bytes, limit.min(self.pool.max));
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Moves `bytes` of this share (all of it, if there is less) into a new one; the pool holds as much as before.
    pub(super) fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            pool: Arc::clone(&self.pool),
            bytes,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.pool.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_to_the_last_byte_and_not_one_more() {
        let pool = Pool::new(10);
        let mut hold = Hold::empty(&pool);
        assert!(hold.grow(7, 8));
        assert!(!hold.grow(2, 8));
        assert!(hold.grow(3, 99));
        assert!(!hold.grow(1, 99));
        assert!(!hold.grow(u64::MAX, u64::MAX));
        assert_eq!((hold.bytes(), pool.held()), (10, 10));
    }

    #[test]
    fn split_shares_are_given_back_once() {
        let pool = Pool::new(10);
        let mut hold = Hold::empty(&pool);
        assert!(hold.grow(9, 10));
        let part = hold.split(4);
        assert_eq!((hold.bytes(), part.bytes(), pool.held()), (5, 4, 9));
        drop(hold);
        assert_eq!(pool.held(), 4);
        drop(part);
        assert_eq!(pool.held(), 0);
    }
}
