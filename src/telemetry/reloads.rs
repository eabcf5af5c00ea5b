//! How the configuration came to be the one that serves, and whether a newer one was refused.

use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::names;
use crate::clock::UnixTime;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConfigLabel {
    hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabel {
    sni: String,
}

/// What is told of loads and reloads.
#[derive(Default)]
pub struct Reloads {
    loads: Family<ResultLabel, Counter>,
    successful: Gauge,
    success_at: Gauge,
    info: Family<ConfigLabel, Gauge>,
    expiry: Family<NameLabel, Gauge>,
    orders: Family<ResultLabel, Counter>,
    state: Mutex<State>,
}

/// The same, for people.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Digest of the configuration that serves.
    pub hash: String,
    /// When it, or the files that it names, were read.
    pub loaded_at: Option<UnixTime>,
    /// Why a newer one does not serve; `None`: it does.
    pub failure: Option<Failure>,
    /// Keys whose new value waits for a restart.
    pub restart: Vec<&'static str>,
    /// The certificates that are shown: for which name, empty for all others, and when each ends.
    pub certificates: Vec<(String, UnixTime)>,
}

/// A reload that was refused.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When the first one was refused, of all since the last that succeeded.
    pub since: UnixTime,
    /// Everything that was wrong the last time.
    pub reason: String,
}

impl Reloads {
    pub(super) fn register(&self, registry: &mut Registry) {
        let (name, help) = names::CONFIG_LOADS;
        registry.register(name, help, self.loads.clone());
        let (name, help) = names::RELOAD_SUCCESSFUL;
        registry.register(name, help, self.successful.clone());
        let (name, help) = names::RELOAD_SUCCESS_AT;
        registry.register_with_unit(name, help, Unit::Seconds, self.success_at.clone());
        let (name, help) = names::CONFIG_INFO;
        registry.register(name, help, self.info.clone());
        let (name, help) = names::CERTIFICATE_EXPIRY;
        registry.register_with_unit(name, help, Unit::Seconds, self.expiry.clone());
        let (name, help) = names::ACME_ORDERS;
        registry.register(name, help, self.orders.clone());
    }

    /// A configuration began to serve.
    pub fn succeeded(&self, hash: &str, restart: Vec<&'static str>, now: UnixTime) {
        self.count("succeeded");
        let mut state = self.state();
        if state.hash != hash {
            self.info.remove(&ConfigLabel {
                hash: state.hash.clone(),
            });
        }
        self.info
            .get_or_create(&ConfigLabel {
                hash: hash.to_owned(),
            })
            .set(1);
        self.successful.set(1);
        self.success_at.set(now.secs());
        *state = State {
            hash: hash.to_owned(),
            loaded_at: Some(now),
            failure: None,
            restart,
            certificates: std::mem::take(&mut state.certificates),
        };
    }

    /// A newer one was refused.
    pub fn failed(&self, reason: String, now: UnixTime) {
        self.count("failed");
        self.successful.set(0);
        let mut state = self.state();
        let since = state.failure.as_ref().map_or(now, |first| first.since);
        state.failure = Some(Failure { since, reason });
    }

    /// These certificates serve from now on: for which name, and the end of their validity.
    pub fn certificates(&self, expiries: &[(String, UnixTime)]) {
        self.expiry.clear();
        let mut sorted = expiries.to_vec();
        sorted.sort();
        self.state().certificates = sorted;
        for (name, end) in expiries {
            self.expiry
                .get_or_create(&NameLabel { sni: name.clone() })
                .set(end.secs());
        }
    }

    /// An attempt to obtain a certificate ended.
    pub fn certificate_order(&self, result: &'static str) {
        self.orders.get_or_create(&ResultLabel { result }).inc();
    }

    fn count(&self, result: &'static str) {
        self.loads.get_or_create(&ResultLabel { result }).inc();
    }

    /// How it stands.
    pub fn told(&self) -> State {
        self.state().clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
