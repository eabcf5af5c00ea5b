//! How much a route takes and from whom, and for how long it only observes.

use std::time::Duration;

use super::{
    ThrottleConfig,
    check::{Checker, Key},
    raw::RawRoute,
    server::usize_of,
};
use crate::{
    clock::{Clock as _, SystemClock, UnixTime},
    scheme::Scheme,
};

/// A trial that takes longer has been forgotten.
const OBSERVE_MAX: Duration = Duration::from_secs(90 * 86_400);

impl Checker<'_> {
    pub(super) fn throttle(&mut self, table: &Key, raw: &RawRoute) -> ThrottleConfig {
        let [rate, burst, sender_rate, sender_burst, concurrency, allow] = [
            "rate",
            "burst",
            "sender_rate",
            "sender_burst",
            "concurrency",
            "allow",
        ]
        .map(|name| table.at(name));
        if raw
            .allow
            .as_ref()
            .is_some_and(|list| list.values.is_empty())
        {
            self.error(
                &allow,
                "nobody may send to this route",
                "name the addresses that may, such as `192.0.2.0/24`, or leave `allow` out",
            );
        }
        ThrottleConfig {
            allow: self.networks(&allow, raw.allow.as_ref()),
            rate: self.frequency((&rate, raw.rate.as_ref()), (&burst, raw.burst)),
            sender_rate: self.frequency(
                (&sender_rate, raw.sender_rate.as_ref()),
                (&sender_burst, raw.sender_burst),
            ),
            concurrency: raw
                .concurrency
                .map(|count| usize_of(self.at_least_one(&concurrency, Some(count)))),
        }
    }

    /// When the route ceases to only observe, if it does.
    pub(super) fn observe(
        &mut self,
        table: &Key,
        raw: &RawRoute,
        scheme: Option<&Scheme>,
    ) -> Option<UnixTime> {
        let (mode, key) = (table.at("mode"), table.at("observe_until"));
        let until = self.time(&key, raw.observe_until.as_deref());
        let observes = self.choice(
            &mode,
            raw.mode.as_deref(),
            &[("verify", false), ("observe", true)],
        )?;
        if !observes {
            if self.given(&key) {
                self.error(
                    &key,
                    "`observe_until` stands here without `mode = \"observe\"`",
                    "add it, or remove `observe_until`",
                );
            }
            return None;
        }
        if scheme.is_some_and(|scheme| !scheme.needs_secret()) {
            self.error(
                &mode,
                "scheme `none` checks nothing, so there is nothing to observe",
                "remove `mode`, or name the scheme that the sender signs with",
            );
        }
        let example = "\"2026-12-31T00:00:00Z\"";
        self.required(&key, raw.observe_until.as_deref(), example);
        let until = until?;
        let now = SystemClock.now();
        if until <= now {
            self.warning(
                &key,
                "the time for observing is over: this route refuses what it cannot verify",
                "remove `mode` and `observe_until`",
            );
        } else if until.distance(now) > OBSERVE_MAX {
            self.error(
                &key,
                "this lies more than 90 days ahead",
                "write a moment within 90 days: until then anyone can send to this route",
            );
        } else {
            self.warning(
                &mode,
                "this route only observes: what does not verify is forwarded too, without the mark",
                "remove `mode` and `observe_until` as soon as the log shows that the sender's deliveries verify",
            );
        }
        Some(until)
    }
}
