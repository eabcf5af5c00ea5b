//! That the process is stopping: told to everything that waits, and cheap to ask.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Begins once and never ends. Unlike the token alone it can be asked without a lock, which all connections would share.
#[derive(Default)]
pub(super) struct Stopping {
    has_begun: AtomicBool,
    told: CancellationToken,
}

impl Stopping {
    /// Tells everybody.
    pub(super) fn begin(&self) {
        self.has_begun.store(true, Ordering::Release);
        self.told.cancel();
    }

    /// Whether it has begun. Whoever was woken by [`Self::begun`] sees it.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    /// Waits until it begins.
    pub(super) fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.told.cancelled()
    }
}
