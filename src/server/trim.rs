//! What was freed goes back to the system, but not at once.
//!
//! glibc keeps what was freed in small pieces between pieces in use: most of what many connections or bodies held would stay resident
//! for as long as the process lives. What is free at the end of its heap it gives back at every chance: with each larger body that would
//! come and go.

use std::{hint::black_box, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

/// How often, whether there is much to give back or not: to find that out would be a walk over all that is free, too. A thread
/// that serves and wants memory from the part that is just walked waits meanwhile.
const EVERY: Duration = Duration::from_secs(10);

/// When glibc frees a larger block than any before (mallopt(3), `M_MMAP_THRESHOLD`), it takes blocks up to that size from its heap,
/// and keeps twice as much free at the end of it. Each thread that serves has a heap of its own, and only the main thread's is trimmed at
/// its end.
const TEACHING_BLOCK: usize = 2 << 20;

/// Trims the heap again and again. Runs until it is dropped.
pub(super) async fn for_ever() {
    drop(black_box(Vec::<u8>::with_capacity(TEACHING_BLOCK)));
    let mut turns = interval(EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        // Not on a thread that serves.
        let _ = spawn_blocking(trim).await;
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
