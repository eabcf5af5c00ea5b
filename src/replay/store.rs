//! What a store of the replay guard is asked, and what it answers.

use std::{error::Error, fmt, time::Duration};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::time::Instant;

use super::memory;
#[cfg(feature = "redis")]
use super::redis;

/// What tells one delivery from all others: a keyed hash, so that a store shows neither delivery ids nor tags.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub [u8; 16]);

/// Nothing of it: whoever has the key could search for what it was made of.
impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Id")
    }
}

/// Makes [`Id`]s. Instances that share a store need the same key.
///
/// No `Debug`.
#[derive(Clone)]
pub struct IdKey(Hmac<Sha256>);

impl IdKey {
    /// A key of these bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    /// The id of a delivery to a route. `identity` is what the scheme tells deliveries apart by.
    pub fn id(&self, route: &str, identity: &[u8]) -> Id {
        let mut mac = self.0.clone();
        // The length in front keeps route and identity apart.
        mac.update(&(route.len() as u64).to_be_bytes());
        mac.update(route.as_bytes());
        mac.update(identity);
        let whole: [u8; 32] = mac.finalize().into_bytes().into();
        let [id @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = whole;
        Id(id)
    }
}

/// The right to settle one lease: no later lease on the same id has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// What a store says to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is reserved under a lease, which its owner settles with this token.
    Granted(Token),
    /// It succeeded before, within the window.
    Succeeded {
        /// The upstream's status then.
        status: u16,
    },
    /// Another request has it under a lease.
    InFlight {
        /// When that lease ends by itself, if it is not settled before.
        lapses_in: Duration,
    },
    /// The store holds as many leases as it may. Leases are never given up for others.
    Full,
}

/// How a delivery under a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The upstream took it: remembered from now on for the window.
    Succeeded {
        /// The upstream's status.
        status: u16,
        /// For how long duplicates are recognised.
        window: Duration,
    },
    /// The upstream did not take it: forgotten, so that a retry passes.
    Failed,
}

/// The store could not be asked, or gave no answer.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StoreFault(pub Box<dyn Error + Send + Sync>);

#[cfg(feature = "redis")]
impl From<redis::Fault> for StoreFault {
    fn from(fault: redis::Fault) -> Self {
        Self(Box::new(fault))
    }
}

/// Where leases and outcomes are kept.
pub enum Store {
    /// In this process.
    Memory(memory::Store),
    /// In Redis or Valkey, for all instances.
    #[cfg(feature = "redis")]
    Redis(redis::Store),
}

impl Store {
    /// Reserves a delivery under a lease, if nobody has it and it did not succeed before. Atomic: of several that ask at once one
    /// is granted.
    ///
    /// `now` is read on a clock that never jumps. A store with a clock of its own leaves it out of account.
    ///
    /// # Errors
    /// [`StoreFault`]; then it may be reserved all the same, until the lease lapses.
    ///
    /// # Cancel safety
    /// Dropping the future may leave a reservation behind, which lapses.
    pub async fn admit(
        &self,
        id: Id,
        lease: Duration,
        now: Instant,
    ) -> Result<Admission, StoreFault> {
        match self {
            Self::Memory(store) => Ok(store.admit(id, lease, now)),
            #[cfg(feature = "redis")]
            Self::Redis(store) => Ok(store.admit(id, lease).await?),
        }
    }

    /// Ends a lease.
    ///
    /// A late owner, whose lease has lapsed, changes nothing that belongs to another: a failure of its delivery is left out of
    /// account unless its own lease is still there; a success is recorded if nobody else has the delivery under a lease and none is
    /// recorded yet, for the upstream did take it.
    ///
    /// # Errors
    /// [`StoreFault`]; then the lease may stand until it lapses.
    pub async fn settle(
        &self,
        id: Id,
        token: Token,
        settlement: Settlement,
        now: Instant,
    ) -> Result<(), StoreFault> {
        match self {
            Self::Memory(store) => store.settle(id, token, settlement, now),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.settle(id, token, settlement).await?,
        }
        Ok(())
    }

    /// How many entries it holds, where it can tell: leases, and outcomes within their window.
    pub fn entries(&self) -> Option<u64> {
        match self {
            Self::Memory(store) => Some(store.entries()),
            #[cfg(feature = "redis")]
            Self::Redis(_) => None,
        }
    }

    /// How many outcomes it gave up before the end of their window, for lack of room.
    pub fn evicted(&self) -> u64 {
        match self {
            Self::Memory(store) => store.evicted(),
            #[cfg(feature = "redis")]
            Self::Redis(_) => 0,
        }
    }

    /// Waits until nothing is left to be settled that was tried in vain.
    pub async fn settled(&self) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.settled().await,
        }
    }

    /// Begins to connect, where there is something to connect to. Call it within the runtime.
    pub fn connect(&self) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.connect(),
        }
    }

    /// Why it cannot be asked; `None`: it can, as far as is known.
    pub fn trouble(&self) -> Option<StoreFault> {
        match self {
            Self::Memory(_) => None,
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.trouble().map(StoreFault::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_by_key_route_and_identity_and_where_these_meet() {
        let (a, b) = (IdKey::new(&[1; 32]), IdKey::new(&[2; 32]));
        let ids = [
            a.id("cases", b"x"),
            b.id("cases", b"x"),
            a.id("other", b"x"),
            a.id("case", b"sx"),
            a.id("cases", b"y"),
            a.id("", b"casesx"),
        ];
        for (i, id) in ids.iter().enumerate() {
            assert!(!ids[..i].contains(id), "{i}");
        }
        assert_eq!(a.id("cases", b"x"), ids[0]);
    }
}
