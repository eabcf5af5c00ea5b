//! An HTTP/1.1 connection to an upstream, driven by the request that is on it.
//!
//! hyper gives a connection as two halves: a handle that takes requests, and a future that moves their bytes. Here whoever has
//! the handle polls the future too, instead of a task of its own: a request wakes no other task, and dropping it closes its
//! connection.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use http::Request;
use hyper::client::conn::http1;
use tokio::task::coop::unconstrained;

use super::{Answer, socket::SocketWatch};
use crate::body::BodyStream;

/// One connection, both halves.
pub(super) struct Http1 {
    sender: http1::SendRequest<BodyStream>,
    /// `None` when the connection has ended.
    driver: Option<Driver>,
    watch: SocketWatch,
    /// Nothing of the request that was handed over has gone out yet, so there can be no answer.
    is_fresh: bool,
    /// The connection keeps a waker, and would wake its task at the next request, whoever sends it.
    holds_waker: bool,
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

impl Http1 {
    pub(super) fn new(
        sender: http1::SendRequest<BodyStream>,
        driver: impl Future<Output = hyper::Result<()>> + Send + 'static,
        watch: SocketWatch,
    ) -> Self {
        Self {
            sender,
            driver: Some(Box::pin(driver)),
            watch,
            is_fresh: false,
            holds_waker: false,
        }
    }

    /// Hands a request over. Nothing of it moves yet.
    pub(super) fn begin(&mut self, request: Request<BodyStream>) -> Answer {
        self.is_fresh = true;
        Box::pin(unconstrained(self.sender.try_send_request(request)))
    }

    /// Moves bytes, and says whether the head of the response is among them.
    pub(super) fn poll_answer(
        &mut self,
        answer: &mut Answer,
        cx: &mut Context<'_>,
    ) -> Poll<<Answer as Future>::Output> {
        // Only driving the connection, just before, can have made it ready: no waker is needed to tell of it.
        let mut poll = || {
            answer
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
        };
        if !self.is_fresh {
            // Without a waker first, for it would be woken in vain when the body of the answer is asked for.
            self.drive_silently();
            if let Poll::Ready(answer) = poll() {
                return Poll::Ready(answer);
            }
        }
        self.is_fresh = false;
        self.drive(cx);
        poll()
    }

    /// Moves bytes as far as the socket goes, and wakes when it goes on.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        self.holds_waker = true;
        // How it ended, the request on it learns by itself.
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    fn drive_silently(&mut self) {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.holds_waker = false;
    }

    /// Finishes the exchange as far as goes at once, and leaves no waker behind.
    pub(super) fn settle(&mut self) {
        if self.holds_waker || !self.is_ready() {
            self.drive_silently();
        }
    }

    /// Whether the exchange is over and another may begin.
    pub(super) fn is_ready(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Moves bytes until another exchange may begin; `false` if the connection ends first.
    pub(super) async fn ready(&mut self) -> bool {
        poll_fn(|cx| {
            self.drive(cx);
            match (&self.driver, self.sender.is_ready()) {
                (None, _) => Poll::Ready(false),
                (Some(_), true) => Poll::Ready(true),
                (Some(_), false) => Poll::Pending,
            }
        })
        .await
    }

    /// Whether the connection has ended, as far as is known without asking the socket.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.is_none()
    }

    /// Whether a request may go out on it now: the socket is asked.
    pub(super) fn is_usable(&self) -> bool {
        self.is_ready() && self.watch.is_quiet()
    }
}
