//! `[server.tls.acme]`: a certificate from an authority that is asked for it.

use http::Uri;

use super::{
    AcmeConfig, ExternalAccount,
    check::{Checker, Key},
    raw::RawAcme,
    route::is_dns_name,
};

/// Let's Encrypt.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// No authority puts more names into one certificate.
const DOMAINS_MAX: usize = 100;

impl Checker<'_> {
    pub(super) fn acme(&mut self, tls: &Key, raw: &RawAcme) -> Option<AcmeConfig> {
        let table = tls.at("acme");
        if cfg!(not(feature = "acme")) {
            self.error(
                &table,
                "this binary was built without ACME",
                "name `certificate` and `private_key`, or use a binary that was built with the feature `acme`",
            );
        }
        if self.given(&tls.at("client_ca")) {
            self.error(
                &tls.at("client_ca"),
                "client certificates cannot be asked for beside `acme`: the authority, which tries the handshake, shows none",
                "remove one of them, or let another program obtain the certificate",
            );
        }
        let domains = self.domains(&table, raw);
        let contact = raw.contact.as_ref().map_or(&[][..], |list| &list.values);
        if let Some(odd) = contact.iter().find(|contact| !contact.contains(':')) {
            self.error(
                &table.at("contact"),
                format!("`{odd}` is not a URL"),
                "write it such as `mailto:ops@example.org`",
            );
        }
        if raw.terms_agreed != Some(true) {
            let key = table.at("terms_agreed");
            let place = if self.given(&key) { &key } else { &table };
            self.error(
                place,
                "the authority gives certificates only to those who agree to its terms of service",
                "read them, and write `terms_agreed = true`",
            );
        }
        let key = table.at("cache");
        let cache = self.required(&key, raw.cache.as_deref(), "\"/var/lib/countersign/acme\"");
        Some(AcmeConfig {
            directory: self.directory(&table.at("directory"), raw.directory.as_deref()),
            domains,
            contact: contact.to_vec(),
            ca: self.path(&table.at("ca"), raw.ca.as_deref()),
            external_account: self.external_account(&table, raw),
            cache: self.path(&key, cache)?,
        })
    }

    fn domains(&mut self, table: &Key, raw: &RawAcme) -> Vec<String> {
        let key = table.at("domains");
        let written = raw.domains.as_ref();
        let list = self.required(&key, written, "[\"hooks.example.org\"]");
        let Some(list) = list else {
            return Vec::new();
        };
        if list.values.is_empty() || list.values.len() > DOMAINS_MAX {
            self.error(
                &key,
                format!("a certificate is for 1 to {DOMAINS_MAX} names"),
                "write the names under which senders reach the gateway, such as `[\"hooks.example.org\"]`",
            );
        }
        for (i, domain) in list.values.iter().enumerate() {
            let place = if list.listed { key.at(i) } else { key.clone() };
            if domain.starts_with("*.") {
                self.error(
                    &place,
                    "the proof in a handshake is none for a wildcard",
                    "name each host, or let another program obtain the certificate by DNS",
                );
            } else if !is_dns_name(domain) || domain.parse::<std::net::IpAddr>().is_ok() {
                self.error(
                    &place,
                    "this is not a host name",
                    "write it in lower case and without a port, such as `hooks.example.org`",
                );
            }
        }
        list.values.clone()
    }

    fn directory(&mut self, key: &Key, written: Option<&str>) -> String {
        let written = written.unwrap_or(DIRECTORY);
        let url = written.parse::<Uri>().ok().filter(|url| {
            url.scheme_str() == Some("https")
                && url.authority().is_some_and(|at| !at.as_str().contains('@'))
        });
        if url.is_none() {
            self.error(
                key,
                "this is not the address of an authority's directory",
                format!("write it such as `{DIRECTORY}`"),
            );
        }
        written.to_owned()
    }

    fn external_account(&mut self, table: &Key, raw: &RawAcme) -> Option<ExternalAccount> {
        let source = raw.eab_key.as_ref();
        let key = source.and_then(|source| {
            self.secret_source(
                &table.at("eab_key"),
                source.file.as_deref(),
                source.env.as_deref(),
                source.credential.as_deref(),
            )
        });
        for (one, other, example) in [
            ("eab_key", "eab_key_id", "\"…\""),
            ("eab_key_id", "eab_key", "{ file = \"…\" }"),
        ] {
            if self.given(&table.at(one)) && !self.given(&table.at(other)) {
                self.error(
                    &table.at(one),
                    format!("`{one}` without `{other}` names no account"),
                    format!("add `{other} = {example}`, as the authority gave it to you"),
                );
            }
        }
        Some(ExternalAccount {
            id: raw.eab_key_id.clone()?,
            key: key?,
        })
    }
}
