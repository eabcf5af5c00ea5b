//! A response body on its way from the upstream.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{Link, pool::Checkout};

/// Streams the response through. Its connection goes back to the pool when the last byte has come; if it is dropped before, the
/// connection is closed, because nobody would read the rest.
pub struct UpstreamBody {
    incoming: Incoming,
    checkout: Option<Checkout>,
    read_timeout: Duration,
    /// The upstream is silent, and the time for that runs.
    silent: bool,
    /// Why it ended early, to be told when it is asked for again.
    fault: Option<hyper::Error>,
}

/// Why a response body ended early.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// The connection broke.
    #[error("the upstream broke off its response")]
    Broken(#[source] hyper::Error),
    /// An HTTP/2 stream was reset without an error before its end.
    #[error("the upstream reset its response before the end")]
    Reset,
    /// Nothing came for longer than `read_timeout`.
    #[error("the upstream paused its response for longer than read_timeout")]
    Silent,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, checkout: Checkout, read_timeout: Duration) -> Self {
        let mut body = Self {
            incoming,
            checkout: Some(checkout),
            read_timeout,
            silent: false,
            fault: None,
        };
        body.give_back_if_ended();
        body
    }

    fn give_back_if_ended(&mut self) {
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }

    /// Whether no more comes although it is not all. hyper takes a stream that was reset with NO_ERROR for one that ended.
    fn ended_early(&self) -> bool {
        let http2 = self
            .checkout
            .as_ref()
            .is_some_and(|checkout| matches!(checkout.sender, Sender::Http2(_)));
        http2 && !self.incoming.is_end_stream() && self.incoming.size_hint().exact() != Some(0)
    }

    fn give_back(&mut self) {
        if let Some(checkout) = self.checkout.take() {
            checkout.give_back();
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let this = &mut *self;
        if let Some(fault) = this.fault.take() {
            this.checkout = None;
            return Poll::Ready(Some(Err(ResponseError::Broken(fault))));
        }
        if let Some(Checkout {
            link: Link::Http1(connection),
            ..
        }) = &mut this.checkout
        {
            connection.drive(cx);
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.silent = false;
            match &frame {
                Some(Ok(_)) => this.give_back_if_ended(),
                None if this.ended_early() => {
                    this.checkout = None;
                    return Poll::Ready(Some(Err(ResponseError::Reset)));
                }
                None => this.give_back(),
                Some(Err(_)) => {
                    // Whoever asks drops what it has not written yet when it hears of a fault: this lets it write first, so
                    // that the sender sees as much of the answer as came.
                    this.fault = frame.and_then(Result::err);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(ResponseError::Broken)));
        }
        if let Some(Checkout { patience, .. }) = &mut this.checkout {
            if !this.silent {
                this.silent = true;
                patience.begin(this.read_timeout);
            }
            ready!(patience.poll_over(cx));
        }
        this.checkout = None;
        Poll::Ready(Some(Err(ResponseError::Silent)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
