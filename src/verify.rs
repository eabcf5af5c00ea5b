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
    /// It does not verify, and the route only observes for a time that the operator wrote down: forwarded without the mark.
    Observed(Observed),
}

/// What is wrong with the signature of a request that may pass all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    reason: &'static str,
    detail: String,
}

impl Observed {
    /// Stable word for it, as of a refusal.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// The same in full, for the operator.
    pub fn detail(&self) -> &str {
        &self.detail
    }
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
/// What is wrong with the signature, unless the route only observes at the time that the request came.
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
        fault,
        whole,
    } = request.into_parts();
    let mut fingerprint = None;
    let judged = match fault {
        Some(fault) => Err(fault),
        None => {
            let verdict = match whole {
                None => {
                    let (verdict, seen) = check.finish_told_apart();
                    fingerprint = seen;
                    Ok(verdict)
                }
                Some(whole) => {
                    let request = Request {
                        head: head.view(url.as_ref()),
                        body: whole.as_ref(),
                    };
                    let finished = check.finish_whole(&request);
                    finished.map(|(verdict, time)| {
                        signed_at = time.or(signed_at);
                        if let Verdict::Match(_) = verdict {
                            fingerprint = route.scheme.fingerprint(&request);
                        }
                        verdict
                    })
                }
            };
            match verdict {
                Err(error) => Err(SignatureFault::Claim(error)),
                Ok(Verdict::Match(place)) => match keys.get(place) {
                    Some(key) => Ok(Standing::Proven(Proof { key, signed_at })),
                    None => Err(SignatureFault::Mismatch),
                },
                Ok(Verdict::Unsigned) if !route.scheme.needs_secret() => Ok(Standing::NotRequired),
                // Looked at anew: what else would let an unsigned request pass here is a mistake of ours.
                Ok(Verdict::Unsigned)
                    if body.is_empty() && route.forwards_handshake(head.view(None)) =>
                {
                    Ok(Standing::Handshake)
                }
                // A claim of scheme `none` on a route that wants a signature would come from a mistake of ours. It must not pass.
                Ok(Verdict::Unsigned | Verdict::Mismatch) => Err(SignatureFault::Mismatch),
            }
        }
    };
    let standing = judged.or_else(|fault| {
        let rejection = Rejection::NotVerified {
            fault,
            status: route.reject_status,
        };
        match route.observes(at) {
            false => Err(rejection),
            true => Ok(Standing::Observed(Observed {
                reason: rejection.reason(),
                detail: rejection.to_string(),
            })),
        }
    })?;
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
