//! Between verified and forwarded: the place of the replay guard.
//!
//! This version has no store, so every lease is [`Lease::NotRequired`]. The stage stands already, because the forwarder takes
//! [`Admitted`] and nothing less.

pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
mod store;

use std::fmt;

pub use self::store::{Admission, Id, IdKey, Settlement, Store, StoreFault, Token};
use crate::verify::Verified;

/// A verified request that may be forwarded now.
///
/// Made by [`admit`] alone.
pub struct Admitted<'s> {
    request: Verified<'s>,
    lease: Lease,
}

/// The right to deliver, to be settled when the upstream has answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Lease {
    /// The route has no replay guard.
    NotRequired,
}

/// Admits a verified request.
pub fn admit(request: Verified<'_>) -> Admitted<'_> {
    Admitted {
        request,
        lease: Lease::NotRequired,
    }
}

impl<'s> Admitted<'s> {
    /// The request.
    pub fn request(&self) -> &Verified<'s> {
        &self.request
    }

    /// Takes it apart: the request to send, the lease to settle.
    pub fn into_parts(self) -> (Verified<'s>, Lease) {
        (self.request, self.lease)
    }
}

impl fmt::Debug for Admitted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted")
            .field("request", &self.request)
            .field("lease", &self.lease)
            .finish()
    }
}
