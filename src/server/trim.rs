//! Freed memory goes back to the system after a peak, and when many connections came to rest.
//!
//! The C library keeps what was freed in small pieces between pieces in use: most of what many connections or bodies held
//! would stay resident for as long as the process lives.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use crate::pipeline::Gateway;

/// How often it is looked whether a peak has passed. A peak between two looks is not seen.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A smaller peak leaves nothing behind that is worth a walk over the heap.
const PEAK_MIN_BYTES: u64 = 4 << 20;

/// So often the heap is trimmed, once at each look: buffers that are counted nowhere go a moment later.
const TRIMS: u32 = 3;

/// About what an open connection holds, and what one gives back when it comes to rest.
const CONNECTION_BYTES: u64 = 8 << 10;

/// So many looks have to pass before connections at rest are the reason for trimming again: a thread that serves and wants memory from
/// the part that is just walked waits for the walk.
const LOOKS_BETWEEN: u32 = 10;

/// Connections at rest. The heap is the process's, too.
static RESTING: AtomicU64 = AtomicU64::new(0);

/// A connection that has given back what it needs for requests.
pub(super) struct Resting(());

impl Resting {
    pub(super) fn new() -> Self {
        RESTING.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        RESTING.fetch_sub(1, Relaxed);
    }
}

/// Trims the heap whenever half of what connections and bodies held at a peak, or more, is gone, when there are many more connections at
/// rest than before, and when a state that served is gone, or what it was made of. Runs until it is dropped.
pub(super) async fn after_peaks(gateway: &Gateway) {
    let (mut peak, mut trims) = (0, 0);
    let (mut rested, mut quiet) = (0, LOOKS_BETWEEN);
    let mut served = Weak::new();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let connections = gateway.telemetry.metrics.connections.get();
        let held = u64::try_from(connections).unwrap_or(0) * CONNECTION_BYTES
            + gateway.lasting.bodies.memory_bytes();
        peak = peak.max(held);
        if peak >= PEAK_MIN_BYTES && held <= peak / 2 {
            peak = held;
            trims = TRIMS;
        }
        let serves = Arc::downgrade(&gateway.snapshot.load());
        if !served.ptr_eq(&serves) {
            served = serves;
            trims = TRIMS;
        }
        let resting = RESTING.load(Relaxed);
        rested = rested.min(resting);
        quiet = quiet.saturating_add(1);
        if (resting - rested) * CONNECTION_BYTES >= PEAK_MIN_BYTES && quiet > LOOKS_BETWEEN {
            trims = trims.max(1);
        }
        if trims > 0 {
            trims -= 1;
            quiet = 0;
            rested = resting;
            // A walk over everything that is free: not on a thread that serves.
            let _ = spawn_blocking(trim).await;
        }
    }
}

/// What every thread has freed.
#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "the only way to the call; a test sees that there is no other in this crate"
)]
fn trim() {
    // SAFETY: it takes no pointer, and glibc allows it on any thread at any time (malloc_trim(3): MT-Safe).
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries have no such call.
#[cfg(not(target_env = "gnu"))]
fn trim() {}
