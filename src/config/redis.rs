//! The keys of `[replay]` that tell of a store in Redis or Valkey.

use std::path::PathBuf;

use super::{
    RedisConfig, RedisServers, RedisTls,
    check::{Checker, Key},
    layers::Origin,
    raw::{RawReplay, RawSecretSource},
    route::split_authority,
};
use crate::secret::SecretSource;

/// Keys of `[replay]` that have a meaning only with such a store.
const KEYS: [&str; 8] = [
    "prefix",
    "timeout",
    "user",
    "password",
    "key",
    "ca",
    "certificate",
    "private_key",
];

const PREFIX_BYTES_MAX: usize = 64;

/// Where the data of one Redis lie.
const DATABASE_MAX: u32 = 1023;

const EXAMPLE: &str = "write \"memory\", or an address such as `redis://10.0.0.7:6379`, `rediss://redis.internal` with TLS, \
     `unix:/run/redis/redis.sock` or `redis+cluster://10.0.0.7:6379,10.0.0.8:6379`";

/// What `store` says, before its certificates and logins are known.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    servers: RedisServers,
    tls: bool,
    database: u32,
}

impl Checker<'_> {
    /// The store, if `store` names one in Redis; what is wrong with it is told.
    pub(super) fn redis(
        &mut self,
        table: &Key,
        raw: &RawReplay,
        written: &str,
    ) -> Option<RedisConfig> {
        let key = table.at("store");
        let address = match address(written) {
            Ok(address) => Some(address),
            Err((message, help)) => {
                self.error(&key, message, help);
                None
            }
        };
        if address.is_some() && cfg!(not(feature = "redis")) {
            self.error(
                &key,
                "this binary was built without Redis",
                "write \"memory\", or use a binary that was built with the feature `redis`",
            );
        }
        let prefix = raw.prefix.as_deref().unwrap_or_default();
        let key = table.at("prefix");
        if let Some(fault) = prefix_fault(prefix)
            && raw.prefix.is_some()
        {
            self.error(
                &key,
                fault,
                "write a short word and a colon, such as \"countersign:\"",
            );
        }
        let timeout = self.duration(&table.at("timeout"), raw.timeout.as_ref());
        let password = self.replay_secret(&table.at("password"), raw.password.as_ref());
        let user = raw.user.clone();
        if user.as_deref() == Some("") {
            self.error(
                &table.at("user"),
                "`user` is empty",
                "write the user's name, or remove this key",
            );
        } else if user.is_some() && !self.given(&table.at("password")) {
            self.error(
                &table.at("user"),
                "a user without a password cannot log in",
                "add `password = { file = \"…\" }`, with `env` or `credential` instead of `file`",
            );
        }
        let id_key = self.replay_secret(&table.at("key"), raw.key.as_ref());
        if !self.given(&table.at("key")) && address.is_some() {
            self.warning(
                &table.at("store"),
                "delivery ids that can be guessed can be looked up in the store: they are hashed with a key that everybody knows",
                "add `key = { file = \"…\" }` with the same random bytes on all instances",
            );
        }
        let ca = self.path(&table.at("ca"), raw.ca.as_deref());
        let shows = self.given(&table.at("certificate")) || self.given(&table.at("private_key"));
        let speaks_tls = address.as_ref().is_none_or(|address| address.tls);
        let client_certificate = (shows && speaks_tls)
            .then(|| {
                self.certificate(
                    table,
                    ("certificate", raw.certificate.as_deref()),
                    ("private_key", raw.private_key.as_deref()),
                )
            })
            .flatten();
        let Address {
            servers,
            tls,
            database,
        } = address?;
        for name in ["ca", "certificate", "private_key"] {
            let key = table.at(name);
            if !tls && self.given(&key) {
                self.error(
                    &key,
                    format!("`{name}` has a meaning only with TLS"),
                    "write `rediss://` or `rediss+cluster://` in `store`, or remove this key",
                );
            }
        }
        let leaves = match &servers {
            RedisServers::One { host, .. } => !is_loopback(host),
            RedisServers::Cluster(nodes) => nodes.iter().any(|(host, _)| !is_loopback(host)),
            RedisServers::Unix(_) => false,
        };
        if leaves && !tls {
            self.warning(
                &table.at("store"),
                "the store is asked without TLS: whoever is on the way can answer in its place and read the password",
                "write `rediss://` or `rediss+cluster://`, or make sure that nobody else is on that network",
            );
        }
        if leaves && !self.given(&table.at("password")) && !shows {
            self.warning(
                &table.at("store"),
                "the store is asked without a password: whoever reaches it can suppress deliveries",
                "add `password = { file = \"…\" }`",
            );
        }
        let servers = match servers {
            RedisServers::Unix(path) => {
                let path = path.to_str().unwrap_or_default();
                RedisServers::Unix(self.path(&table.at("store"), Some(path))?)
            }
            other @ (RedisServers::One { .. } | RedisServers::Cluster(_)) => other,
        };
        Some(RedisConfig {
            servers,
            tls: tls.then_some(RedisTls {
                ca,
                client_certificate,
            }),
            database,
            user,
            password,
            prefix: prefix.to_owned(),
            timeout,
            key: id_key,
        })
    }

    /// Says of every key that belongs to Redis that it has no meaning in memory.
    pub(super) fn no_redis(&mut self, table: &Key) {
        for name in KEYS {
            let key = table.at(name);
            if self.given(&key) && self.origin(&key) != Origin::Default {
                self.error(
                    &key,
                    format!("`{name}` has a meaning only with a store in Redis or Valkey"),
                    "write its address in `store`, or remove this key",
                );
            }
        }
    }

    fn replay_secret(&mut self, key: &Key, raw: Option<&RawSecretSource>) -> Option<SecretSource> {
        let RawSecretSource {
            file,
            env,
            credential,
        } = raw?;
        self.secret_source(key, file.as_deref(), env.as_deref(), credential.as_deref())
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn prefix_fault(prefix: &str) -> Option<&'static str> {
    if prefix.is_empty() {
        Some("an empty prefix would mix the keys of the gateway with those of others")
    } else if prefix.len() > PREFIX_BYTES_MAX {
        Some("this prefix is longer than 64 bytes, which every key would repeat")
    } else if prefix.contains(['{', '}']) {
        Some("a prefix with `{` or `}` would put all keys on one node of a cluster")
    } else if !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some("a prefix holds only visible ASCII characters")
    } else {
        None
    }
}

/// Reads the address of a store. Errors never repeat the text: it may hold a password.
fn address(written: &str) -> Result<Address, (&'static str, &'static str)> {
    if let Some(rest) = written.strip_prefix("unix:") {
        let (path, database) = match rest.split_once("?db=") {
            None => (rest, Ok(0)),
            Some((path, database)) => (path, database_of(database)),
        };
        if path.is_empty() {
            return Err((
                "the path of the socket is missing",
                "write it behind `unix:`, such as `unix:/run/redis/redis.sock`",
            ));
        }
        return Ok(Address {
            servers: RedisServers::Unix(PathBuf::from(path)),
            tls: false,
            database: database?,
        });
    }
    let lower = written.to_ascii_lowercase();
    let Some((scheme, rest)) = lower.split_once("://") else {
        return Err(("this is not a store", EXAMPLE));
    };
    let (tls, cluster) = match scheme {
        "redis" | "valkey" => (false, false),
        "rediss" | "valkeys" => (true, false),
        "redis+cluster" | "valkey+cluster" => (false, true),
        "rediss+cluster" | "valkeys+cluster" => (true, true),
        _ if scheme.contains("sentinel") => {
            return Err((
                "the gateway does not ask Sentinel for the address of the master",
                "write an address that follows the master: a virtual address, a service, or a proxy such as HAProxy",
            ));
        }
        _ => return Err(("this is not a store", EXAMPLE)),
    };
    if rest.contains('@') {
        return Err((
            "the address of a store may not hold a user or password",
            "remove what stands before `@`, and write `user = \"…\"` and `password = { file = \"…\" }` beside `store`",
        ));
    }
    if rest.contains(['?', '#']) {
        return Err((
            "the address of a store has no query",
            "write scheme, host, port and number of the database only; all else has keys of its own",
        ));
    }
    let (authority, database) = match rest.split_once('/') {
        None | Some((_, "")) => (rest.trim_end_matches('/'), 0),
        Some(_) if cluster => {
            return Err((
                "a cluster has no numbered databases",
                "remove what stands behind `/`",
            ));
        }
        Some((authority, number)) => (authority, database_of(number)?),
    };
    let no_host = ("this store has no valid host and port", EXAMPLE);
    let servers = if cluster {
        let nodes = authority
            .split(',')
            .map(|node| split_authority(node.trim(), 6379));
        RedisServers::Cluster(nodes.collect::<Option<_>>().ok_or(no_host)?)
    } else {
        let (host, port) = split_authority(authority, 6379).ok_or(no_host)?;
        RedisServers::One { host, port }
    };
    Ok(Address {
        servers,
        tls,
        database,
    })
}

fn database_of(text: &str) -> Result<u32, (&'static str, &'static str)> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && number <= DATABASE_MAX => Ok(number),
        _ => Err((
            "this is not the number of a database",
            "write digits, such as `redis://127.0.0.1:6379/0`, or nothing for database 0",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(host: &str, port: u16, tls: bool, database: u32) -> Address {
        Address {
            servers: RedisServers::One {
                host: host.into(),
                port,
            },
            tls,
            database,
        }
    }

    #[test]
    fn reads_addresses_of_stores() {
        let cluster = |nodes: &[(&str, u16)], tls| Address {
            servers: RedisServers::Cluster(
                nodes
                    .iter()
                    .map(|(host, port)| ((*host).to_owned(), *port))
                    .collect(),
            ),
            tls,
            database: 0,
        };
        let unix = |path: &str, database| Address {
            servers: RedisServers::Unix(path.into()),
            tls: false,
            database,
        };
        for (text, want) in [
            ("redis://127.0.0.1", one("127.0.0.1", 6379, false, 0)),
            ("redis://Cache:7000/", one("cache", 7000, false, 0)),
            ("redis://[::1]:7000/12", one("::1", 7000, false, 12)),
            (
                "rediss://redis.internal/3",
                one("redis.internal", 6379, true, 3),
            ),
            ("valkeys://v:1", one("v", 1, true, 0)),
            (
                "redis+cluster://a:1, b",
                cluster(&[("a", 1), ("b", 6379)], false),
            ),
            ("rediss+cluster://a:1/", cluster(&[("a", 1)], true)),
            (
                "unix:/run/redis/Redis.sock",
                unix("/run/redis/Redis.sock", 0),
            ),
            ("unix:/run/redis.sock?db=4", unix("/run/redis.sock", 4)),
        ] {
            assert_eq!(address(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_address_of_a_store_and_repeats_none_of_it() {
        for text in [
            "",
            "redis",
            "memoryy",
            "http://cache",
            "redis://",
            "redis://user:hunter2@cache",
            "redis://:hunter2@cache/0",
            "rediss+cluster://a,:hunter2@b",
            "redis://cache:0",
            "redis://cache:70000",
            "redis://cache/x",
            "redis://cache/-1",
            "redis://cache/+1",
            "redis://cache/0/1",
            "redis://cache/9999",
            "redis://cache?password=hunter2",
            "redis+cluster://a,b/1",
            "redis+cluster://a,,b",
            "redis+sentinel://a:26379/mymaster",
            "unix:",
            "unix:/run/redis.sock?db=",
        ] {
            let (message, help) = address(text).expect_err(text);
            assert!(!format!("{message}{help}").contains("hunter2"), "{text}");
        }
    }
}
