//! Every refusal: what the sender is told, what the operator is told, and the one table between them.

use std::{error::Error, fmt, io};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use uuid::Uuid;

use crate::{body::StoreError, limit::Excess, scheme::ClaimError};

/// Why a request got no answer from an upstream. [`Display`](fmt::Display) is for the operator, `Rejection::answer` for the sender.
#[derive(Debug)]
pub enum Rejection {
    /// The head can be read in two ways, or not at all.
    HeadMalformed(&'static str),
    /// The request target is longer than the limit for heads.
    TargetTooLong,
    /// The head is larger than the limit.
    HeadTooLarge,
    /// The request already passed through this process.
    Loop,
    /// No route takes this host and path.
    NoRoute,
    /// The route does not take the method.
    MethodNotAllowed {
        /// Value for the `Allow` header.
        allow: HeaderValue,
    },
    /// The sender's address is not one from which requests may come.
    SenderNotAllowed,
    /// More came, from all or from this sender or at once, than the route takes.
    Excess(Excess),
    /// More came at once than the gateway takes.
    Overload,
    /// Deliveries do not come by this method, and it is not a handshake that the scheme knows.
    NotAHandshake,
    /// A value in a handshake, such as the verify token, is not the route's.
    HandshakeRefused {
        /// The status that the provider expects for it.
        status: StatusCode,
    },
    /// What a handshake wants back is missing, or not of the form that it may have.
    HandshakeMalformed,
    /// More challenges came than are signed.
    TooManyChallenges,
    /// A handshake brought a secret, and the operator does not wait for one.
    PairingClosed,
    /// The secret that a handshake brought could not be kept.
    PairingFailed(io::Error),
    /// None of the route's secrets could be loaded, or none is valid now.
    NoUsableSecret,
    /// The signature does not hold.
    NotVerified {
        /// What exactly.
        fault: SignatureFault,
        /// The route's status for it.
        status: StatusCode,
    },
    /// The sender's key cannot be had at present.
    KeyUnavailable(Box<dyn Error + Send + Sync>),
    /// The address that confirms a subscription cannot be got.
    NotConfirmed(Box<dyn Error + Send + Sync>),
    /// The body is larger than the route takes.
    BodyTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The body came slower than the limits allow.
    BodyTooSlow {
        /// Bytes that had come.
        received: u64,
    },
    /// The body ended early or was not framed as announced.
    BodyBroken(hyper::Error),
    /// There is no room for the body, or its place was lost.
    Store(StoreError),
    /// It succeeded before, and the route tells its senders so.
    Duplicate,
    /// The same delivery is under way.
    DuplicateInFlight,
    /// The replay guard has no room for one more delivery under way.
    ReplayStoreFull,
    /// The replay guard cannot tell whether it is a duplicate.
    ReplayStoreFailed(Box<dyn Error + Send + Sync>),
    /// No address of the upstream could be connected to.
    UpstreamUnreachable(io::Error),
    /// The connection was lost, or the answer was not HTTP, after the request may have gone out.
    UpstreamBroken(Box<dyn Error + Send + Sync>),
    /// No response head in time.
    UpstreamTimeout,
}

/// Why a signature does not hold. All of them are the same to the sender.
#[derive(Debug)]
pub enum SignatureFault {
    /// The head showed it.
    Claim(ClaimError),
    /// The provider knows no such key as the request names.
    KeyUnknown(Box<dyn Error + Send + Sync>),
    /// No secret made this signature over these bytes.
    Mismatch,
}

/// What goes over the wire.
struct Answer {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    /// Seconds after which trying again makes sense.
    retry_after: Option<&'static str>,
}

impl Rejection {
    /// The one table from cause to answer. No `_` arm: a new variant must be decided here.
    fn answer(&self) -> Answer {
        let answer = |status, code, title| Answer {
            status,
            code,
            title,
            retry_after: None,
        };
        let later = |status, code, title| Answer {
            status,
            code,
            title,
            retry_after: Some("5"),
        };
        match self {
            Self::HeadMalformed(_) => answer(
                StatusCode::BAD_REQUEST,
                "malformed",
                "The request is malformed",
            ),
            Self::TargetTooLong => answer(
                StatusCode::URI_TOO_LONG,
                "target_too_long",
                "The request target is too long",
            ),
            Self::HeadTooLarge => answer(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head_too_large",
                "The request head is too large",
            ),
            Self::Loop => answer(
                StatusCode::LOOP_DETECTED,
                "loop",
                "The request came back to where it was forwarded",
            ),
            Self::NoRoute => answer(StatusCode::NOT_FOUND, "no_route", "Nothing is served here"),
            Self::MethodNotAllowed { .. } => answer(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "The method is not allowed here",
            ),
            Self::SenderNotAllowed => answer(
                StatusCode::FORBIDDEN,
                "sender_not_allowed",
                "The sender's address is not allowed here",
            ),
            Self::Excess(Excess::OfSender(_) | Excess::OfAll(_)) => answer(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                "There are too many requests",
            ),
            Self::Excess(Excess::AtOnce) | Self::Overload => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "There are too many requests at once",
            ),
            Self::NotAHandshake => answer(
                StatusCode::BAD_REQUEST,
                "not_a_handshake",
                "The request is not a handshake of this route",
            ),
            Self::HandshakeRefused { status } => {
                answer(*status, "handshake_refused", "The handshake is refused")
            }
            Self::PairingClosed => answer(
                StatusCode::FORBIDDEN,
                "handshake_refused",
                "The handshake is refused",
            ),
            Self::HandshakeMalformed => answer(
                StatusCode::BAD_REQUEST,
                "handshake_malformed",
                "The handshake is malformed",
            ),
            Self::TooManyChallenges => later(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_challenges",
                "There are too many challenges",
            ),
            Self::NoUsableSecret | Self::PairingFailed(_) => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "The route is out of service",
            ),
            Self::NotVerified { status, .. } => answer(
                *status,
                "not_verified",
                "The signature could not be verified",
            ),
            Self::NotConfirmed(_) => later(
                StatusCode::SERVICE_UNAVAILABLE,
                "try_later",
                "The subscription cannot be confirmed at present",
            ),
            Self::KeyUnavailable(_) => later(
                StatusCode::SERVICE_UNAVAILABLE,
                "try_later",
                "The sender's key cannot be had at present",
            ),
            Self::BodyTooLarge { .. } => answer(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The body is too large",
            ),
            Self::BodyTooSlow { .. } => answer(
                StatusCode::REQUEST_TIMEOUT,
                "body_too_slow",
                "The body came too slowly",
            ),
            Self::BodyBroken(_) => answer(
                StatusCode::BAD_REQUEST,
                "body_broken",
                "The body is incomplete",
            ),
            Self::Store(_) => later(
                StatusCode::SERVICE_UNAVAILABLE,
                "try_later",
                "There is no room for the body at present",
            ),
            Self::Duplicate => answer(
                StatusCode::CONFLICT,
                "duplicate",
                "The delivery was accepted before",
            ),
            Self::DuplicateInFlight => later(
                StatusCode::CONFLICT,
                "duplicate_in_flight",
                "The same delivery is under way",
            ),
            Self::ReplayStoreFull | Self::ReplayStoreFailed(_) => later(
                StatusCode::SERVICE_UNAVAILABLE,
                "try_later",
                "Deliveries cannot be told apart at present",
            ),
            Self::UpstreamUnreachable(_) => answer(
                StatusCode::BAD_GATEWAY,
                "upstream_unreachable",
                "The receiver cannot be reached",
            ),
            Self::UpstreamBroken(_) => answer(
                StatusCode::BAD_GATEWAY,
                "upstream_broken",
                "The receiver gave no valid answer",
            ),
            Self::UpstreamTimeout => answer(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "The receiver did not answer in time",
            ),
        }
    }

    /// Status of the answer.
    pub fn status(&self) -> StatusCode {
        self.answer().status
    }

    /// Stable word for log, metric and docs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotVerified {
                fault: SignatureFault::Claim(error),
                ..
            } => error.reason(),
            Self::NotVerified {
                fault: SignatureFault::Mismatch,
                ..
            } => "signature_mismatch",
            Self::NotVerified {
                fault: SignatureFault::KeyUnknown(_),
                ..
            } => "key_unknown",
            Self::KeyUnavailable(_) => "key_unavailable",
            Self::NotConfirmed(_) => "not_confirmed",
            Self::Excess(Excess::OfSender(_)) => "sender_rate",
            Self::Excess(Excess::OfAll(_)) => "route_rate",
            Self::Excess(Excess::AtOnce) => "route_concurrency",
            Self::Overload => "in_flight",
            Self::NoUsableSecret => "no_usable_secret",
            Self::PairingClosed => "pairing_closed",
            Self::PairingFailed(_) => "pairing_failed",
            Self::Store(StoreError::Full { .. }) => "no_room",
            Self::Store(StoreError::Spool(_) | StoreError::Corrupt) => "spool_failed",
            Self::ReplayStoreFull => "replay_store_full",
            Self::ReplayStoreFailed(_) => "replay_store_failed",
            Self::HeadMalformed(_)
            | Self::TargetTooLong
            | Self::HeadTooLarge
            | Self::Loop
            | Self::NoRoute
            | Self::MethodNotAllowed { .. }
            | Self::SenderNotAllowed
            | Self::NotAHandshake
            | Self::HandshakeRefused { .. }
            | Self::HandshakeMalformed
            | Self::TooManyChallenges
            | Self::BodyTooLarge { .. }
            | Self::BodyTooSlow { .. }
            | Self::BodyBroken(_)
            | Self::Duplicate
            | Self::DuplicateInFlight
            | Self::UpstreamUnreachable(_)
            | Self::UpstreamBroken(_)
            | Self::UpstreamTimeout => self.answer().code,
        }
    }

    /// Whose fault it is: decides how loudly it is logged.
    pub fn blame(&self) -> Blame {
        match self {
            Self::NoUsableSecret | Self::PairingFailed(_) => Blame::Operator,
            Self::Store(_) | Self::ReplayStoreFull | Self::ReplayStoreFailed(_) => Blame::Gateway,
            Self::Excess(Excess::AtOnce) | Self::Overload => Blame::Load,
            Self::KeyUnavailable(_) | Self::NotConfirmed(_) => Blame::Provider,
            Self::UpstreamUnreachable(_) | Self::UpstreamBroken(_) | Self::UpstreamTimeout => {
                Blame::Upstream
            }
            Self::HeadMalformed(_)
            | Self::TargetTooLong
            | Self::HeadTooLarge
            | Self::Loop
            | Self::NoRoute
            | Self::MethodNotAllowed { .. }
            | Self::SenderNotAllowed
            | Self::Excess(Excess::OfSender(_) | Excess::OfAll(_))
            | Self::NotAHandshake
            | Self::HandshakeRefused { .. }
            | Self::HandshakeMalformed
            | Self::TooManyChallenges
            | Self::PairingClosed
            | Self::NotVerified { .. }
            | Self::BodyTooLarge { .. }
            | Self::BodyTooSlow { .. }
            | Self::BodyBroken(_)
            | Self::Duplicate
            | Self::DuplicateInFlight => Blame::Sender,
        }
    }

    /// Seconds after which fewer requests would not be too many.
    fn excess_ends_after(&self) -> Option<u64> {
        if let Self::Excess(Excess::OfSender(wait) | Excess::OfAll(wait)) = self {
            return Some(wait.as_millis().div_ceil(1000).max(1) as u64);
        }
        // About as long as a request takes.
        matches!(self, Self::Excess(Excess::AtOnce) | Self::Overload).then_some(1)
    }

    /// The answer to the sender: RFC 9457 problem details, with the request id and nothing that helps to guess.
    pub fn response(&self, id: Uuid) -> Response<Bytes> {
        let answer = self.answer();
        // Not by `format!`, which takes a twentieth of all that a refusal on the head takes.
        let body = [
            "{\"title\":\"",
            answer.title,
            "\",\"status\":",
            answer.status.as_str(),
            ",\"code\":\"",
            answer.code,
            "\",\"instance\":\"",
            id.urn().encode_lower(&mut Uuid::encode_buffer()),
            "\"}\n",
        ]
        .concat();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if answer.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Signature"),
            );
        }
        if let Some(seconds) = answer.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        if let Some(seconds) = self.excess_ends_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Self::MethodNotAllowed { allow } = self {
            headers.insert(header::ALLOW, allow.clone());
        }
        response
    }
}

/// Whose fault a rejection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Who sent the request.
    Sender,
    /// Who configured the gateway.
    Operator,
    /// Who publishes the sender's keys, or the way there.
    Provider,
    /// The application behind the gateway.
    Upstream,
    /// The gateway, or its machine.
    Gateway,
    /// Nobody alone: more came at once than is taken.
    Load,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadMalformed(what) => f.write_str(what),
            Self::TargetTooLong => f.write_str("the request target is longer than limits.headers"),
            Self::HeadTooLarge => f.write_str("the request head is larger than limits.headers"),
            Self::Loop => f.write_str("the request already passed through this instance; an upstream points back at it"),
            Self::NoRoute => f.write_str("no route takes this host and path"),
            Self::MethodNotAllowed { allow } => write!(f, "the route takes only {}", allow.to_str().unwrap_or("other methods")),
            Self::SenderNotAllowed => f.write_str("the sender's address is not in the route's `allow`, or not known"),
            Self::Excess(Excess::OfSender(_)) => f.write_str("more requests come from this address than the route's `sender_rate` allows"),
            Self::Excess(Excess::OfAll(_)) => f.write_str("more requests come than the route's `rate` allows"),
            Self::Excess(Excess::AtOnce) => f.write_str("as many requests as the route's `concurrency` allows are under way"),
            Self::Overload => f.write_str("as many requests as limits.in_flight allows are under way"),
            Self::NotAHandshake => f.write_str("deliveries do not come by this method, and no handshake of the scheme looks like this"),
            Self::HandshakeRefused { .. } => f.write_str("a value in the handshake, such as the verify token, is not the one in the route's params"),
            Self::HandshakeMalformed => f.write_str("what the handshake wants back is missing, too long, or holds characters that are not sent back"),
            Self::TooManyChallenges => f.write_str("more challenges came than the route signs"),
            Self::PairingClosed => f.write_str("a handshake brought a secret, but the route's pairing is not open, or a secret is there already"),
            Self::PairingFailed(error) => write!(f, "the secret that a handshake brought cannot be written: {}", Chain(error)),
            Self::NoUsableSecret => f.write_str("none of the route's secrets could be loaded, or none is valid at this time; see `countersign check`"),
            Self::NotVerified { fault: SignatureFault::Claim(error), .. } => error.fmt(f),
            Self::NotVerified { fault: SignatureFault::Mismatch, .. } => f.write_str("none of the route's keys made this signature over these bytes"),
            Self::NotVerified { fault: SignatureFault::KeyUnknown(error), .. } | Self::KeyUnavailable(error) => {
                write!(f, "{}", Chain(&**error))
            }
            Self::NotConfirmed(error) => write!(f, "the address that confirms the subscription cannot be got: {}", Chain(&**error)),
            Self::BodyTooLarge { limit } => write!(f, "the body is larger than {limit} bytes"),
            Self::BodyTooSlow { received } => {
                write!(f, "the body came slower than limits.body_min_rate and limits.body_timeout allow; {received} bytes had come")
            }
            Self::BodyBroken(error) => write!(f, "the body broke off: {}", Chain(error)),
            Self::Store(error) => write!(f, "{}", Chain(error)),
            Self::Duplicate => f.write_str("the upstream accepted this delivery before, within the route's replay window"),
            Self::DuplicateInFlight => f.write_str("the same delivery is under way to the upstream, or was when its gateway ended"),
            Self::ReplayStoreFull => f.write_str("the replay store holds nothing but deliveries under way; raise replay.entries"),
            Self::ReplayStoreFailed(error) => write!(f, "the replay store failed: {}", Chain(&**error)),
            Self::UpstreamUnreachable(error) => write!(f, "the upstream cannot be reached: {}", Chain(error)),
            Self::UpstreamBroken(error) => write!(f, "the upstream gave no valid answer: {}", Chain(&**error)),
            Self::UpstreamTimeout => f.write_str("the upstream sent no response head within the route's timeout"),
        }
    }
}

/// Prints an error and its causes, joined by `: `.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut said = text.clone();
        f.write_str(&text)?;
        let mut error = self.0.source();
        while let Some(this) = error {
            text = this.to_string();
            // Some crates say the cause themselves, and name it as well.
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            error = this.source();
        }
        Ok(())
    }
}
