//! A response body on its way from the upstream.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use super::{Sender, pool::Checkout};

/// Streams the response through. Its connection goes back to the pool when the last byte has come; if it is dropped before, the
/// connection is closed, because nobody would read the rest.
pub struct UpstreamBody {
    incoming: Incoming,
    checkout: Option<Checkout>,
    read_timeout: Duration,
    /// Runs while the upstream is silent.
    silence: Option<Pin<Box<Sleep>>>,
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
            silence: None,
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
        if let Some(Checkout {
            sender: Sender::Http1(sender),
            home: Some(home),
            ..
        }) = self.checkout.take()
        {
            home.give_back(sender);
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
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.silence = None;
            match &frame {
                Some(Ok(_)) => this.give_back_if_ended(),
                None if this.ended_early() => {
                    this.checkout = None;
                    return Poll::Ready(Some(Err(ResponseError::Reset)));
                }
                None => this.give_back(),
                Some(Err(_)) => this.checkout = None,
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(ResponseError::Broken)));
        }
        let read_timeout = this.read_timeout;
        let silence = this
            .silence
            .get_or_insert_with(|| Box::pin(sleep(read_timeout)));
        ready!(silence.as_mut().poll(cx));
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
