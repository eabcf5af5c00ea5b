//! The keys of `[replay]` that tell of a store in Redis or Valkey.

use std::path::PathBuf;

use super::{
    RedisConfig, RedisSentinel, RedisServers, RedisTls,
    check::{Checker, Key},
    layers::Origin,
    raw::{RawReplay, RawSecretSource},
    route::split_authority,
};
use crate::secret::SecretSource;

/// Keys of `[replay]` that have a meaning only with such a store.
const KEYS: [&str; 10] = [
    "prefix",
    "timeout",
    "user",
    "password",
    "sentinel_user",
    "sentinel_password",
    "key",
    "ca",
    "certificate",
    "private_key",
];

const PREFIX_BYTES_MAX: usize = 64;

/// Where the data of one Redis lie.
const DATABASE_MAX: u32 = 1023;

const EXAMPLE: &str = "write \"memory\", or an address such as `redis://10.0.0.7:6379`, `rediss://redis.internal` with TLS, \
     `unix:/run/redis/redis.sock`, `redis+cluster://10.0.0.7:6379,10.0.0.8:6379` or \
     `redis+sentinel://10.0.0.7:26379,10.0.0.8:26379/mymaster`";

const SENTINEL_EXAMPLE: &str = "write the Sentinels and what they call the master, such as \
     `redis+sentinel://10.0.0.7:26379,10.0.0.8:26379/mymaster`; behind another `/` the number of the database";

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
        let user = self.replay_user(table, ("user", raw.user.as_deref()), "password");
        let sentinel_password = self.replay_secret(
            &table.at("sentinel_password"),
            raw.sentinel_password.as_ref(),
        );
        let sentinel_user = self.replay_user(
            table,
            ("sentinel_user", raw.sentinel_user.as_deref()),
            "sentinel_password",
        );
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
                    "write `rediss://`, `rediss+cluster://` or `rediss+sentinel://` in `store`, or remove this key",
                );
            }
        }
        for name in ["sentinel_user", "sentinel_password"] {
            let key = table.at(name);
            if self.given(&key) && !matches!(servers, RedisServers::Sentinel(_)) {
                self.error(
                    &key,
                    format!("`{name}` has a meaning only where Sentinels are asked for the master"),
                    "write `redis+sentinel://` in `store`, or remove this key",
                );
            }
        }
        let leaves = match &servers {
            RedisServers::One { host, .. } => !is_loopback(host),
            RedisServers::Cluster(nodes) | RedisServers::Sentinel(RedisSentinel { nodes, .. }) => {
                nodes.iter().any(|(host, _)| !is_loopback(host))
            }
            RedisServers::Unix(_) => false,
        };
        if leaves && !tls {
            self.warning(
                &table.at("store"),
                "the store is asked without TLS: whoever is on the way can answer in its place and read the password",
                "write `rediss://`, `rediss+cluster://` or `rediss+sentinel://`, or make sure that nobody else is on that network",
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
            RedisServers::Sentinel(sentinels) => RedisServers::Sentinel(RedisSentinel {
                user: sentinel_user,
                password: sentinel_password,
                ..sentinels
            }),
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

    /// Who logs in, with the password under another key.
    fn replay_user(
        &mut self,
        table: &Key,
        (name, user): (&str, Option<&str>),
        password: &str,
    ) -> Option<String> {
        if user == Some("") {
            self.error(
                &table.at(name),
                format!("`{name}` is empty"),
                "write the user's name, or remove this key",
            );
        } else if user.is_some() && !self.given(&table.at(password)) {
            self.error(
                &table.at(name),
                "a user without a password cannot log in",
                format!(
                    "add `{password} = {{ file = \"…\" }}`, with `env` or `credential` instead of `file`"
                ),
            );
        }
        user.map(str::to_owned)
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
    let (tls, kind) = match scheme {
        "redis" | "valkey" => (false, Kind::One),
        "rediss" | "valkeys" => (true, Kind::One),
        "redis+cluster" | "valkey+cluster" => (false, Kind::Cluster),
        "rediss+cluster" | "valkeys+cluster" => (true, Kind::Cluster),
        "redis+sentinel" | "valkey+sentinel" => (false, Kind::Sentinel),
        "rediss+sentinel" | "valkeys+sentinel" => (true, Kind::Sentinel),
        _ if scheme.contains("sentinel") => {
            return Err(("this is not a store", SENTINEL_EXAMPLE));
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
            "write scheme, hosts, ports, the name of a master and the number of the database only; all else has keys of its own",
        ));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let nodes = |port| -> Option<Vec<_>> {
        let nodes = authority.split(',');
        nodes
            .map(|node| split_authority(node.trim(), port))
            .collect()
    };
    let no_host = ("this store has no valid host and port", EXAMPLE);
    let (servers, database) = match kind {
        Kind::One => {
            let (host, port) = split_authority(authority, 6379).ok_or(no_host)?;
            (RedisServers::One { host, port }, path)
        }
        Kind::Cluster if !path.is_empty() => {
            return Err((
                "a cluster has no numbered databases",
                "remove what stands behind `/`",
            ));
        }
        Kind::Cluster => (RedisServers::Cluster(nodes(6379).ok_or(no_host)?), path),
        Kind::Sentinel => {
            // Names of masters are told apart by case.
            let path = &written[written.len() - path.len()..];
            let (master, database) = path.split_once('/').unwrap_or((path, ""));
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            if master.is_empty() || !master.bytes().all(is_name) {
                return Err((
                    "the name of the master is missing, or Sentinel would not take it",
                    SENTINEL_EXAMPLE,
                ));
            }
            let nodes = nodes(26379).ok_or((
                "these Sentinels have no valid host and port",
                SENTINEL_EXAMPLE,
            ))?;
            let sentinels = RedisSentinel {
                nodes,
                master: master.to_owned(),
                user: None,
                password: None,
            };
            (RedisServers::Sentinel(sentinels), database)
        }
    };
    let database = match database {
        "" => 0,
        digits => database_of(digits)?,
    };
    Ok(Address {
        servers,
        tls,
        database,
    })
}

/// What the scheme of an address leads to.
enum Kind {
    One,
    Cluster,
    Sentinel,
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
        let owned = |nodes: &[(&str, u16)]| -> Vec<_> {
            let nodes = nodes.iter();
            nodes
                .map(|(host, port)| ((*host).to_owned(), *port))
                .collect()
        };
        let cluster = |nodes: &[(&str, u16)], tls| Address {
            servers: RedisServers::Cluster(owned(nodes)),
            tls,
            database: 0,
        };
        let sentinel = |nodes: &[(&str, u16)], master: &str, tls, database| Address {
            servers: RedisServers::Sentinel(RedisSentinel {
                nodes: owned(nodes),
                master: master.into(),
                user: None,
                password: None,
            }),
            tls,
            database,
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
                "redis+sentinel://a, B:1/MyMaster",
                sentinel(&[("a", 26379), ("b", 1)], "MyMaster", false, 0),
            ),
            (
                "valkeys+sentinel://[::1]/m.1/3",
                sentinel(&[("::1", 26379)], "m.1", true, 3),
            ),
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
            "redis+sentinel://a:26379",
            "redis+sentinel://a:26379/",
            "redis+sentinel:///mymaster",
            "redis+sentinel://a,,b/mymaster",
            "redis+sentinel://a/my master",
            "redis+sentinel://a/mymaster/x",
            "redis+sentinel://:hunter2@a/mymaster",
            "sentinel://a/mymaster",
            "unix:",
            "unix:/run/redis.sock?db=",
        ] {
            let (message, help) = address(text).expect_err(text);
            assert!(!format!("{message}{help}").contains("hunter2"), "{text}");
        }
    }
}
