//! The only place that vouches: from [`Unverified`] to [`Verified`].

use std::fmt;

use uuid::Uuid;

use crate::{
    body::{RawBody, StoreError, WholeBody},
    clock::UnixTime,
    receive::{Head, Parts, Unverified},
    reject::{Rejection, SignatureFault},
    route::{KeyRef, Route},
    scheme::{Fingerprint, Request, RequestHead, Verdict},
};

/// A request whose signature holds, or that its route lets pass unsigned by the operator's written word.
///
/// Made by [`verify`] alone: the fields are private, and there is no `Clone`, `Default`, `Deserialize` or `From`.
pub struct Verified<'s> {
    route: &'s Route,
    head: Box<Head>,
    id: Uuid,
    at: UnixTime,
    body: RawBody,
    standing: Standing,
    /// In a box: routes without a replay guard have none.
    fingerprint: Option<Box<Fingerprint>>,
}

/// On what grounds a request may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// One of the route's keys made the signature.
    Proven(Proof),
    /// The route's scheme is `none`: forwarded without the mark.
    NotRequired,
    /// An unsigned handshake without a body, which the operator has the upstream answer: forwarded without the mark.
    Handshake,
}

/// What is known of a signature that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The key that did.
    key: KeyRef,
    /// The signed time, if the scheme signs one.
    signed_at: Option<UnixTime>,
}

impl Proof {
    /// The key that did.
    pub fn key(&self) -> &KeyRef {
        &self.key
    }

    /// The signed time, if the scheme signs one.
    pub fn signed_at(&self) -> Option<UnixTime> {
        self.signed_at
    }
}

/// Finishes the check. Pure: no clock, no I/O.
///
/// # Errors
/// [`SignatureFault::Mismatch`] if none of the keys made the signature.
pub fn verify(request: Unverified<'_>) -> Result<Verified<'_>, Rejection> {
    let Parts {
        route,
        head,
        id,
        at,
        body,
        check,
        keys,
        mut signed_at,
        url,
        whole,
    } = request.into_parts();
    let mismatch = || Rejection::NotVerified {
        fault: SignatureFault::Mismatch,
        status: route.reject_status,
    };
    let (verdict, fingerprint) = match whole {
        None => check.finish_told_apart(),
        Some(whole) => {
            let request = Request {
                head: head.view(url.as_ref()),
                body: whole.as_ref(),
            };
            let (verdict, time) =
                check
                    .finish_whole(&request)
                    .map_err(|error| Rejection::NotVerified {
                        fault: SignatureFault::Claim(error),
                        status: route.reject_status,
                    })?;
            signed_at = time.or(signed_at);
            let fingerprint = match verdict {
                Verdict::Match(_) => route.scheme.fingerprint(&request),
                Verdict::Mismatch | Verdict::Unsigned => None,
            };
            (verdict, fingerprint)
        }
    };
    let standing = match verdict {
        Verdict::Match(place) => Standing::Proven(Proof {
            key: keys.get(place).cloned().ok_or_else(mismatch)?,
            signed_at,
        }),
        Verdict::Unsigned if !route.scheme.needs_secret() => Standing::NotRequired,
        // Looked at anew: what else would let an unsigned request pass here is a mistake of ours.
        Verdict::Unsigned if body.is_empty() && route.forwards_handshake(head.view(None)) => {
            Standing::Handshake
        }
        // A claim of scheme `none` on a route that wants a signature would come from a mistake of ours. It must not pass.
        Verdict::Unsigned | Verdict::Mismatch => return Err(mismatch()),
    };
    Ok(Verified {
        route,
        head,
        id,
        at,
        body,
        standing,
        fingerprint: fingerprint.map(Box::new),
    })
}

impl<'s> Verified<'s> {
    /// The route it came in by.
    pub fn route(&self) -> &'s Route {
        self.route
    }

    /// Request id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// When its head had come.
    pub fn at(&self) -> UnixTime {
        self.at
    }

    /// On what grounds it may pass.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// What tells it from other deliveries, where the route has a replay guard. It must reach no log.
    pub(crate) fn fingerprint(&self) -> Option<&Fingerprint> {
        self.fingerprint.as_deref()
    }

    /// What a scheme may see of its head.
    pub fn head(&self) -> RequestHead<'_> {
        self.head.view(None)
    }

    /// The body in one piece, to look into.
    ///
    /// # Errors
    /// If there is no room for it, or the spool fails.
    pub async fn whole_body(&mut self) -> Result<WholeBody, StoreError> {
        Box::pin(self.body.read_whole()).await
    }

    /// Length of the body in bytes.
    pub fn body_bytes(&self) -> u64 {
        self.body.len()
    }

    /// Takes it apart for sending.
    pub fn into_message(self) -> (Box<Head>, RawBody) {
        (self.head, self.body)
    }
}

impl fmt::Debug for Verified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified")
            .field("route", &self.route.name)
            .field("id", &self.id)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}
