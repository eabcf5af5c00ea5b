//! How the store of the replay guards is doing, where it is another process.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::names;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    kind: &'static str,
}

/// Counts faults of the store, and shows whether it can be asked. Clones count together.
#[derive(Clone, Default)]
pub struct StoreHealth {
    up: Gauge,
    errors: Family<FaultLabels, Counter>,
}

impl StoreHealth {
    pub(super) fn register(&self, registry: &mut Registry) {
        let (name, help) = names::REPLAY_STORE_UP;
        registry.register(name, help, self.up.clone());
        let (name, help) = names::REPLAY_STORE_ERRORS;
        registry.register(name, help, self.errors.clone());
    }

    /// Whether there is a connection that works.
    pub fn set_up(&self, up: bool) {
        self.up.set(up.into());
    }

    /// Counts one fault: a word of a closed set.
    pub fn count(&self, kind: &'static str) {
        self.errors.get_or_create(&FaultLabels { kind }).inc();
    }
}
