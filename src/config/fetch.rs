//! `[fetch]`, and the secret that a route shows to a key server.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    FetchConfig,
    check::{Checker, Key},
    raw::{RawFetch, RawRoute, RawSecretSource},
    route::is_dns_name,
};
use crate::{scheme::Scheme, secret::SecretSource};

impl Checker<'_> {
    pub(super) fn fetch(&mut self, raw: &RawFetch) -> FetchConfig {
        let table = Key::of(&["fetch"]);
        let fetch = FetchConfig {
            timeout: self.duration(&table.at("timeout"), raw.timeout.as_ref()),
            ca: self.path(&table.at("ca"), raw.ca.as_deref()),
            resolve: self.resolve(&table.at("resolve"), raw.resolve.as_ref()),
            fresh_min: self.duration_or_zero(&table.at("fresh_min"), raw.fresh_min.as_ref()),
            fresh_max: self.duration(&table.at("fresh_max"), raw.fresh_max.as_ref()),
            stale: self.duration_or_zero(&table.at("stale"), raw.stale.as_ref()),
            cool_down: self.duration_or_zero(&table.at("cool_down"), raw.cool_down.as_ref()),
        };
        let key = table.at("fresh_min");
        if fetch.fresh_min > fetch.fresh_max
            && !self.is_faulty(&key)
            && !self.is_faulty(&table.at("fresh_max"))
        {
            self.error(
                &key,
                "`fresh_min` is longer than `fresh_max`",
                "lower it, or raise `fresh_max`",
            );
        }
        fetch
    }

    fn resolve(
        &mut self,
        key: &Key,
        raw: Option<&BTreeMap<String, String>>,
    ) -> BTreeMap<String, SocketAddr> {
        let mut resolve = BTreeMap::new();
        for (host, written) in raw.into_iter().flatten() {
            let key = key.at(host);
            if !is_dns_name(host) {
                self.error(
                    &key,
                    format!("{host:?} is not a host name in lower case"),
                    "write the host of the key's address, between quotes: `\"keys.example.org\"`",
                );
            }
            match written.parse::<SocketAddr>() {
                Ok(address) => {
                    resolve.insert(host.clone(), address);
                }
                Err(_) => self.error(
                    &key,
                    format!("{written:?} is not an address to connect to"),
                    "write an IP address and a port, such as `192.0.2.7:443`",
                ),
            }
        }
        resolve
    }

    /// What the route shows to the key server. Wanted where the scheme shows something and no key is pinned.
    pub(super) fn fetch_secret(
        &mut self,
        table: &Key,
        raw: &RawRoute,
        scheme: Option<&Scheme>,
    ) -> Option<SecretSource> {
        let key = table.at("fetch_secret");
        if let Some(RawSecretSource {
            file,
            env,
            credential,
        }) = &raw.fetch_secret
        {
            if let Some(scheme) = scheme.filter(|scheme| !scheme.fetches_with_secret()) {
                self.error(
                    &key,
                    format!(
                        "scheme `{}` shows no secret when it fetches keys",
                        scheme.name()
                    ),
                    "remove `fetch_secret`; what the sender signs with belongs into `secrets`",
                );
            }
            return self.secret_source(
                &key,
                file.as_deref(),
                env.as_deref(),
                credential.as_deref(),
            );
        }
        if let Some(scheme) = scheme
            && scheme.fetches_with_secret()
            && !self.given(&table.at("secrets"))
            && !self.given_and_lost(&key)
        {
            self.error(
                &key,
                format!(
                    "scheme `{}` fetches keys with a secret of its own",
                    scheme.name()
                ),
                "add `fetch_secret = { file = \"…\" }`, with `env` or `credential` instead of `file`; \
                 or pin keys in `secrets`",
            );
        }
        None
    }
}
