//! `[replay]`, and a route's `replay` and `on_duplicate`.

use std::time::Duration;

use super::{
    GuardConfig, OnDuplicate, OnStoreFailure, ReplayConfig, ReplayStore, RouteConfig,
    UpstreamConfig,
    check::{Checker, Key},
    layers::Origin,
    raw::{Count, RawReplay, RawRoute},
    server::usize_of,
};
use crate::scheme::Scheme;

/// More would not fit into any memory.
const ENTRIES_MAX: u64 = 1_000_000_000;

/// What forwarding may take beyond the limits of its parts, and a lease beyond that.
const MARGIN: Duration = Duration::from_secs(5);

impl Checker<'_> {
    pub(super) fn replay(&mut self, raw: &RawReplay) -> ReplayConfig {
        let table = Key::of(&["replay"]);
        let on_store_failure = self.choice(
            &table.at("on_store_failure"),
            raw.on_store_failure.as_deref(),
            &[
                ("reject", OnStoreFailure::Reject),
                ("admit", OnStoreFailure::Admit),
            ],
        );
        ReplayConfig {
            store: self.store(&table, raw),
            on_store_failure: on_store_failure.unwrap_or(OnStoreFailure::Reject),
            entries: self.entries(&table.at("entries"), raw.entries),
        }
    }

    fn store(&mut self, table: &Key, raw: &RawReplay) -> ReplayStore {
        match raw.store.as_deref() {
            None | Some("memory") => {
                self.no_redis(table);
                ReplayStore::Memory
            }
            Some(written) => match self.redis(table, raw, written) {
                Some(redis) => ReplayStore::Redis(Box::new(redis)),
                None => ReplayStore::Memory,
            },
        }
    }

    fn entries(&mut self, key: &Key, raw: Option<Count>) -> usize {
        let entries = raw.map_or(1, |Count(entries)| entries);
        if !(1..=ENTRIES_MAX).contains(&entries) {
            self.error(
                key,
                format!("{entries} is out of range for `entries`"),
                "write a number from 1 to 1000000000; each takes about 44 bytes of memory",
            );
        }
        usize_of(entries)
    }

    /// A table that no route uses was most likely meant for one.
    pub(super) fn guards_something(&mut self, routes: &[RouteConfig]) {
        let table = Key::of(&["replay"]);
        let written = ["store", "on_store_failure", "entries", "prefix", "timeout"]
            .iter()
            .any(|name| self.origin(&table.at(name)) != Origin::Default);
        if written && !routes.is_empty() && routes.iter().all(|route| route.guard.is_none()) {
            self.warning(
                &table,
                "no route has `replay`, so duplicates are recognised nowhere",
                "add `replay = \"24h\"` to a route",
            );
        }
    }

    pub(super) fn guard(
        &mut self,
        table: &Key,
        raw: &RawRoute,
        scheme: Option<&mut Scheme>,
        upstream: &UpstreamConfig,
    ) -> Option<GuardConfig> {
        let key = table.at("replay");
        let on_duplicate = table.at("on_duplicate");
        let choice = self.choice(
            &on_duplicate,
            raw.on_duplicate.as_deref(),
            &[
                ("status", OnDuplicate::Status),
                ("conflict", OnDuplicate::Conflict),
            ],
        );
        if raw.replay.is_none() {
            if self.given(&on_duplicate) && !self.given(&key) {
                self.error(
                    &on_duplicate,
                    "`on_duplicate` has a meaning only beside `replay`",
                    "add `replay = \"24h\"`, or remove this key",
                );
            }
            return None;
        }
        let window = self.duration(&key, raw.replay.as_ref());
        let scheme = scheme?;
        if let Err(why) = scheme.guard() {
            self.error(
                &key,
                format!(
                    "duplicates of scheme `{}` cannot be recognised: {why}",
                    scheme.name()
                ),
                "remove `replay`: the upstream has to recognise deliveries that it has seen",
            );
        }
        if let Some(tolerance) = scheme.tolerance()
            && window < tolerance * 2
            && !self.is_faulty(&key)
        {
            self.warning(
                &key,
                format!(
                    "a delivery verifies for longer than it is remembered: for twice the tolerance, {} s, if it was signed ahead of time",
                    (tolerance * 2).as_secs_f64()
                ),
                "lengthen `replay`, or shorten `tolerance`",
            );
        }
        let forwarding = forwarding(upstream);
        Some(GuardConfig {
            window,
            on_duplicate: choice.unwrap_or(OnDuplicate::Status),
            forwarding,
            lease: forwarding.saturating_add(MARGIN),
        })
    }
}

/// What the limits of forwarding add up to: every address is tried once more when the time for retries is over.
fn forwarding(upstream: &UpstreamConfig) -> Duration {
    let addresses = u32::try_from(upstream.addresses.len()).unwrap_or(u32::MAX);
    let connecting = upstream.connect_timeout.saturating_mul(addresses);
    [connecting, upstream.timeout, MARGIN]
        .into_iter()
        .fold(upstream.connect_retry, Duration::saturating_add)
}
