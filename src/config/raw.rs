//! The file's mirror: every key there is, with the type it is written in, and no meaning.
//!
//! All fields are optional here, because a faulty one is reported and left out before the rest is looked at.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::schema::fields;
use crate::scheme::{
    SchemeSpec,
    spec::{
        ChallengeSpec, FetchSpec, HandshakeSpec, IdSpec, ListSpec, SecretSpec, SignatureSpec,
        TimestampSpec,
    },
};

/// What holds where nobody says otherwise.
pub(super) const DEFAULTS: &str = r#"
[server]
listen = ["127.0.0.1:8080"]
admin = "127.0.0.1:9600"
threads = 0
drain = "30s"
reload_interval = "2s"
reuse_port = false
trusted_proxies = []
proxy_protocol = false
mark = "Countersign-Verified"

[limits]
body = "64MiB"
body_memory = "256MiB"
spool = "4GiB"
headers = "32KiB"
head_timeout = "10s"
body_timeout = "60s"
body_min_rate = "1KiB/s"
idle_timeout = "75s"
connections = 10000
http2_streams = 100
in_flight = 10000

[log]
format = "json"
level = "info"

[fetch]
timeout = "5s"
fresh_min = "1m"
fresh_max = "1d"
stale = "1h"
cool_down = "30s"

[replay]
store = "memory"
on_store_failure = "reject"
entries = 1000000
prefix = "countersign:"
timeout = "250ms"

[traces]
ratio = 1.0
service = "countersign"
timeout = "10s"
"#;

/// The same for each route.
pub(super) const ROUTE_DEFAULTS: &str = r#"
methods = ["POST"]
upstream_http = "auto"
connect_timeout = "5s"
connect_retry = "0s"
timeout = "30s"
read_timeout = "60s"
keep_alive = "4s"
idle_connections = 64
max_fails = 3
reject_status = 401
handshake = "answer"
mode = "verify"
trace = "new"
"#;

/// Keys that this version does not know but that people will try, with what to say to them.
pub(super) const TOMBSTONES: [(&str, &str); 1] = [(
    "route.receipt",
    "remove it: the mark is a plain header yet, so let nothing but the gateway reach the receiver",
)];

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawConfig {
    pub(super) server: RawServer,
    pub(super) limits: RawLimits,
    pub(super) log: RawLog,
    pub(super) fetch: RawFetch,
    pub(super) replay: RawReplay,
    pub(super) traces: RawTraces,
    pub(super) route: Vec<RawRoute>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawServer {
    pub(super) listen: Option<OneOrMany>,
    pub(super) admin: Option<String>,
    pub(super) threads: Option<Count>,
    pub(super) drain: Option<DurationText>,
    pub(super) reload_interval: Option<DurationText>,
    pub(super) reuse_port: Option<bool>,
    pub(super) trusted_proxies: Option<OneOrMany>,
    pub(super) proxy_protocol: Option<bool>,
    pub(super) mark: Option<String>,
    pub(super) tls: Option<RawTls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawTls {
    pub(super) certificate: Option<String>,
    pub(super) private_key: Option<String>,
    pub(super) certificates: Option<Vec<RawCertificate>>,
    pub(super) client_ca: Option<String>,
    pub(super) acme: Option<RawAcme>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawAcme {
    pub(super) directory: Option<String>,
    pub(super) domains: Option<OneOrMany>,
    pub(super) contact: Option<OneOrMany>,
    pub(super) terms_agreed: Option<bool>,
    pub(super) cache: Option<String>,
    pub(super) ca: Option<String>,
    pub(super) eab_key_id: Option<String>,
    pub(super) eab_key: Option<RawSecretSource>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawCertificate {
    pub(super) certificate: Option<String>,
    pub(super) private_key: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawLimits {
    pub(super) body: Option<SizeText>,
    pub(super) body_memory: Option<SizeText>,
    pub(super) spool_dir: Option<String>,
    pub(super) spool: Option<SizeText>,
    pub(super) headers: Option<SizeText>,
    pub(super) head_timeout: Option<DurationText>,
    pub(super) body_timeout: Option<DurationText>,
    pub(super) body_min_rate: Option<RateText>,
    pub(super) idle_timeout: Option<DurationText>,
    pub(super) connections: Option<Count>,
    pub(super) http2_streams: Option<Count>,
    pub(super) in_flight: Option<Count>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawLog {
    pub(super) format: Option<String>,
    pub(super) level: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawFetch {
    pub(super) timeout: Option<DurationText>,
    pub(super) ca: Option<String>,
    pub(super) resolve: Option<BTreeMap<String, String>>,
    pub(super) fresh_min: Option<DurationText>,
    pub(super) fresh_max: Option<DurationText>,
    pub(super) stale: Option<DurationText>,
    pub(super) cool_down: Option<DurationText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawRoute {
    pub(super) name: Option<String>,
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    pub(super) public_url: Option<String>,
    pub(super) methods: Option<OneOrMany>,
    pub(super) scheme: Option<RawScheme>,
    pub(super) params: Option<BTreeMap<String, String>>,
    pub(super) secrets: Option<Vec<RawSecret>>,
    pub(super) fetch_secret: Option<RawSecretSource>,
    pub(super) upstream: Option<OneOrMany>,
    pub(super) upstream_http: Option<String>,
    pub(super) upstream_ca: Option<String>,
    pub(super) upstream_certificate: Option<String>,
    pub(super) upstream_key: Option<String>,
    pub(super) upstream_name: Option<String>,
    pub(super) connect_timeout: Option<DurationText>,
    pub(super) connect_retry: Option<DurationText>,
    pub(super) timeout: Option<DurationText>,
    pub(super) read_timeout: Option<DurationText>,
    pub(super) keep_alive: Option<DurationText>,
    pub(super) idle_connections: Option<Count>,
    pub(super) max_fails: Option<Count>,
    pub(super) tolerance: Option<DurationText>,
    pub(super) body: Option<SizeText>,
    pub(super) reject_status: Option<Count>,
    pub(super) allow: Option<OneOrMany>,
    pub(super) rate: Option<FrequencyText>,
    pub(super) burst: Option<Count>,
    pub(super) sender_rate: Option<FrequencyText>,
    pub(super) sender_burst: Option<Count>,
    pub(super) concurrency: Option<Count>,
    pub(super) mode: Option<String>,
    pub(super) observe_until: Option<String>,
    pub(super) trace: Option<String>,
    pub(super) handshake: Option<String>,
    pub(super) pairing: Option<RawPairing>,
    pub(super) replay: Option<DurationText>,
    pub(super) on_duplicate: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawReplay {
    pub(super) store: Option<String>,
    pub(super) on_store_failure: Option<String>,
    pub(super) entries: Option<Count>,
    pub(super) prefix: Option<String>,
    pub(super) timeout: Option<DurationText>,
    pub(super) user: Option<String>,
    pub(super) password: Option<RawSecretSource>,
    pub(super) sentinel_user: Option<String>,
    pub(super) sentinel_password: Option<RawSecretSource>,
    pub(super) key: Option<RawSecretSource>,
    pub(super) ca: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) private_key: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawTraces {
    pub(super) endpoint: Option<String>,
    pub(super) ratio: Option<Ratio>,
    pub(super) service: Option<String>,
    pub(super) headers: Option<Vec<RawHeader>>,
    pub(super) ca: Option<String>,
    pub(super) timeout: Option<DurationText>,
}

/// A header with a value that may be a secret.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawHeader {
    pub(super) name: Option<String>,
    pub(super) file: Option<String>,
    pub(super) env: Option<String>,
    pub(super) credential: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawPairing {
    pub(super) file: Option<String>,
    pub(super) until: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawSecret {
    pub(super) id: Option<String>,
    pub(super) file: Option<String>,
    pub(super) env: Option<String>,
    pub(super) credential: Option<String>,
    pub(super) not_before: Option<String>,
    pub(super) not_after: Option<String>,
}

/// Where a secret is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawSecretSource {
    pub(super) file: Option<String>,
    pub(super) env: Option<String>,
    pub(super) credential: Option<String>,
}

/// A name from the catalogue, or a scheme written out.
#[derive(Debug)]
pub(super) enum RawScheme {
    Name(String),
    Table(Box<SchemeSpec>),
}

impl<'de> Deserialize<'de> for RawScheme {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = RawScheme;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a scheme or a table")
            }
            fn visit_str<E>(self, name: &str) -> Result<RawScheme, E> {
                Ok(RawScheme::Name(name.to_owned()))
            }
            // Not an untagged enum: that would lose the place of errors inside the table.
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawScheme, A::Error> {
                SchemeSpec::deserialize(MapAccessDeserializer::new(map))
                    .map(|spec| RawScheme::Table(Box::new(spec)))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// One string, or a list of them.
#[derive(Debug)]
pub(super) struct OneOrMany {
    pub(super) values: Vec<String>,
    /// Written as a list, so that a place in it can be pointed at.
    pub(super) listed: bool,
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E>(self, value: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany {
                    values: vec![value.to_owned()],
                    listed: false,
                })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(OneOrMany {
                    values,
                    listed: true,
                })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A whole number, zero or more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count(pub(super) u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, zero or more")
            }
            fn visit_u64<E>(self, number: u64) -> Result<Count, E> {
                Ok(Count(number))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Count, E> {
                u64::try_from(number)
                    .map(Count)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A part of all, with a fraction or without.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ratio(pub(super) f64);

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Ratio;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1")
            }
            fn visit_f64<E>(self, number: f64) -> Result<Ratio, E> {
                Ok(Ratio(number))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Ratio, E> {
                // Whatever is out of range here is so there.
                Ok(Ratio(number as f64))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Makes string types that differ in what an error says was expected. A bare `0` needs no unit where `$zero` is true.
macro_rules! quantity {
    ($name:ident, $expecting:literal, $zero:literal) => {
        #[derive(Debug)]
        pub(super) struct $name(pub(super) String);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Reader;
                impl Visitor<'_> for Reader {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E>(self, text: &str) -> Result<$name, E> {
                        Ok($name(text.to_owned()))
                    }
                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$name, E> {
                        if number == 0 && $zero {
                            return Ok($name("0".to_owned()));
                        }
                        Err(E::invalid_type(de::Unexpected::Signed(number), &self))
                    }
                }
                deserializer.deserialize_any(Reader)
            }
        }
    };
}

quantity!(DurationText, "a duration", false);
quantity!(SizeText, "a size", true);
quantity!(RateText, "a rate", true);
quantity!(FrequencyText, "a number of requests in a time", false);

/// Every key of the file, dotted, without the places in lists: `server.listen`, `route.secrets.id`.
pub fn known_keys() -> Vec<String> {
    let mut keys = Vec::new();
    let mut add = |prefix: &str, fields: &[&str]| {
        keys.extend(fields.iter().map(|field| format!("{prefix}{field}")));
    };
    add("server.", fields::<RawServer>());
    add("server.tls.", fields::<RawTls>());
    add("server.tls.certificates.", fields::<RawCertificate>());
    add("server.tls.acme.", fields::<RawAcme>());
    add("server.tls.acme.eab_key.", fields::<RawSecretSource>());
    add("limits.", fields::<RawLimits>());
    add("log.", fields::<RawLog>());
    add("route.", fields::<RawRoute>());
    add("route.secrets.", fields::<RawSecret>());
    add("route.pairing.", fields::<RawPairing>());
    add("route.fetch_secret.", fields::<RawSecretSource>());
    add("route.scheme.", fields::<SchemeSpec>());
    add("route.scheme.signature.", fields::<SignatureSpec>());
    add("route.scheme.signature.list.", fields::<ListSpec>());
    add("route.scheme.timestamp.", fields::<TimestampSpec>());
    add("route.scheme.id.", fields::<IdSpec>());
    add("route.scheme.secret.", fields::<SecretSpec>());
    add("route.scheme.fetch.", fields::<FetchSpec>());
    add("route.scheme.handshake.", fields::<HandshakeSpec>());
    add(
        "route.scheme.handshake.challenge.",
        fields::<ChallengeSpec>(),
    );
    add("fetch.", fields::<RawFetch>());
    add("replay.", fields::<RawReplay>());
    add("replay.password.", fields::<RawSecretSource>());
    add("replay.sentinel_password.", fields::<RawSecretSource>());
    add("replay.key.", fields::<RawSecretSource>());
    add("traces.", fields::<RawTraces>());
    add("traces.headers.", fields::<RawHeader>());
    keys
}
