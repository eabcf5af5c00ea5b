//! Certificates from an authority that is asked for them: ACME (RFC 8555), with proofs in the handshake (RFC 8737).
//!
//! [`Certificates`] is what TLS shows, and lives as long as the process. One task obtains what it holds and renews it at two thirds of
//! its life. Certificate, key and account are kept in a folder, so that a restart asks for nothing.

mod cache;
#[cfg(feature = "acme")]
mod directory;
#[cfg(feature = "acme")]
mod keeper;
#[cfg(feature = "acme")]
mod order;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context as _;
use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use tokio::sync::watch;

pub use self::cache::{Kept, open};
#[cfg(feature = "acme")]
pub use self::keeper::keep;
use crate::{clock::UnixTime, config::AcmeConfig, pem, telemetry::Failure};

/// What the authority names in its handshakes, and nobody else.
pub const PROTOCOL: &[u8] = b"acme-tls/1";

/// What was obtained, and what is to be obtained.
#[derive(Debug, Default)]
pub struct Certificates {
    wanted: watch::Sender<Option<Arc<AcmeConfig>>>,
    held: ArcSwapOption<Held>,
    /// By name, while the authority tries whether we are there.
    proofs: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
    state: Mutex<State>,
}

/// How the last attempt ended.
#[derive(Debug, Default, Clone)]
struct State {
    failure: Option<Failure>,
    next: Option<UnixTime>,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Held {
    /// For rustls.
    pub key: Arc<CertifiedKey>,
    /// The names in it, in lower case.
    pub names: Vec<String>,
    #[cfg_attr(
        not(feature = "acme"),
        expect(dead_code, reason = "nothing is renewed")
    )]
    from: UnixTime,
    /// When it ends.
    pub until: UnixTime,
}

impl Held {
    /// Reads chain and key from one PEM text.
    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let chain = CertificateDer::pem_slice_iter(text)
            .collect::<Result<Vec<_>, _>>()
            .context("its certificates cannot be read")?;
        let leaf = chain.first().context("it holds no certificate")?;
        let (from, until) = pem::validity(leaf).context("its validity cannot be read")?;
        let names = webpki::EndEntityCert::try_from(leaf)
            .context("its certificate cannot be read")?
            .valid_dns_names()
            .map(str::to_ascii_lowercase)
            .collect();
        let key = PrivateKeyDer::from_pem_slice(text).context("its key cannot be read")?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider)
            .context("its key does not fit its certificate")?;
        Ok(Self {
            key: Arc::new(key),
            names,
            from: UnixTime::from_secs(from),
            until: UnixTime::from_secs(until),
        })
    }

    #[cfg(feature = "acme")]
    fn covers(&self, domains: &[String]) -> bool {
        domains.iter().all(|domain| self.names.contains(domain))
    }
}

impl Certificates {
    /// Takes what a configuration wants, and what an earlier process or a reload left in its folder. Whoever waits for another attempt
    /// waits no more.
    pub fn configure(&self, config: Option<&AcmeConfig>, kept: Option<Kept>) {
        let changed = self.wanted.borrow().as_deref() != config;
        let kept = kept.and_then(|Kept(held)| held);
        match (self.held.load_full(), kept) {
            // The folder could not be written when it was obtained.
            (Some(held), kept)
                if !changed && kept.as_ref().is_none_or(|kept| kept.until <= held.until) => {}
            (_, kept) => self.held.store(kept.map(Arc::new)),
        }
        if changed {
            *self.state() = State::default();
        }
        self.wanted.send_replace(config.cloned().map(Arc::new));
    }

    /// The certificate, if there is one.
    pub fn held(&self) -> Option<Arc<Held>> {
        self.held.load_full()
    }

    /// What to show to the authority, which tries a name.
    pub fn proof(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.proofs.load().get(&name.to_ascii_lowercase()).cloned()
    }

    /// How it stands, in one line for people; `None`: nothing is wanted.
    pub fn report(&self, now: UnixTime) -> Option<String> {
        let wanted = self.wanted.borrow().clone()?;
        let names = wanted.domains.join(", ");
        let State { failure, next } = self.state().clone();
        let held = self.held();
        let valid = held.as_ref().filter(|held| held.until > now);
        let mark = if failure.is_some() { "[!]" } else { "[+]" };
        let state = match (failure, next) {
            (Some(Failure { since, reason }), Some(next)) => {
                format!("not obtained since {since}: {reason}; next attempt {next}")
            }
            (Some(Failure { since, reason }), None) => {
                format!("not obtained since {since}: {reason}")
            }
            (None, Some(next)) if valid.is_some() => format!("to be renewed {next}"),
            (None, _) => "being obtained".to_owned(),
        };
        Some(match (valid, &held) {
            (Some(_), _) => format!("{mark} ACME for {names}: {state}\n"),
            (None, Some(_)) => {
                format!("[-] ACME for {names}: the certificate has ended; {state}\n")
            }
            (None, None) => {
                format!("[-] ACME for {names}: no certificate yet, TLS handshakes fail; {state}\n")
            }
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
