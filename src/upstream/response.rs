//! A response body on its way from the upstream.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
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
    /// The place of the address that it comes from.
    address: usize,
    read_timeout: Duration,
    /// The upstream is silent, and the time for that runs.
    silent: bool,
    /// Why it ended early, to be told when it is asked for again.
    fault: Option<ResponseError>,
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
            address: checkout.place(),
            checkout: Some(checkout),
            read_timeout,
            silent: false,
            fault: None,
        };
        body.give_back_if_ended();
        body
    }

    /// The place, among the upstream's addresses, of the one that it comes from.
    pub fn address(&self) -> usize {
        self.address
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
            .is_some_and(|checkout| matches!(checkout.link, Link::Http2(_)));
        http2 && !self.incoming.is_end_stream() && self.incoming.size_hint().exact() != Some(0)
    }

    /// The next frame: one that has come already, or what the connection brings if it is driven.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut incoming = Pin::new(&mut self.incoming);
        if let Some(Checkout {
            link: Link::Http1(connection),
            ..
        }) = &mut self.checkout
        {
            let mut nobody = Context::from_waker(Waker::noop());
            if let Poll::Ready(frame) = incoming.as_mut().poll_frame(&mut nobody) {
                return Poll::Ready(frame);
            }
            connection.drive(cx);
        }
        incoming.poll_frame(cx)
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
            return Poll::Ready(Some(Err(fault)));
        }
        if let Poll::Ready(frame) = this.poll_incoming(cx) {
            this.silent = false;
            let fault = match frame {
                Some(Ok(frame)) => {
                    this.give_back_if_ended();
                    return Poll::Ready(Some(Ok(frame)));
                }
                None if !this.ended_early() => {
                    this.give_back();
                    return Poll::Ready(None);
                }
                None => ResponseError::Reset,
                Some(Err(error)) => ResponseError::Broken(error),
            };
            // Whoever asks drops what it has not written yet when it hears of a fault: this lets it write first, so that the
            // sender sees as much of the answer as came.
            this.fault = Some(fault);
            cx.waker().wake_by_ref();
            return Poll::Pending;
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
