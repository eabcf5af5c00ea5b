//! One timer for all the waits of a connection.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// A timer that is set anew for each wait: moving one to a later time costs little, making and removing one does not.
pub(super) struct Patience(Pin<Box<Sleep>>);

impl Patience {
    pub(super) fn new() -> Self {
        Self(Box::pin(sleep(Duration::ZERO)))
    }

    /// Starts a wait of this length.
    pub(super) fn begin(&mut self, wait: Duration) {
        self.0.as_mut().reset(Instant::now() + wait);
    }

    /// Ready when the wait that was begun is over.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }

    /// Waits for a future for so long; `None` if it took longer.
    pub(super) async fn limit<F: Future>(
        &mut self,
        wait: Duration,
        future: Pin<&mut F>,
    ) -> Option<F::Output> {
        self.begin(wait);
        tokio::select! {
            biased;
            output = future => Some(output),
            () = &mut self.0 => None,
        }
    }
}
