//! How much a route takes, and from whom.

use super::{
    ThrottleConfig,
    check::{Checker, Key},
    raw::RawRoute,
    server::usize_of,
};
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
}
