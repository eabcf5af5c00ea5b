//! `[server]`, `[limits]` and `[log]`: from words to values.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZero,
    thread::available_parallelism,
    time::Duration,
};

use http::HeaderName;
use ipnet::IpNet;

use super::{
    CertificateFiles, Limits, ListenAddr, Log, LogFormat, LogLevel, Server, Tls,
    check::{Checker, Key},
    raw::{Count, DurationText, OneOrMany, RawLimits, RawLog, RawServer, RawTls},
    units::show_size,
};

const MIB: u64 = 1 << 20;
const BODY_MEMORY_MIN: u64 = MIB;
const HEADERS_MIN: u64 = 4 << 10;
const HEADERS_MAX: u64 = 256 << 10;
const THREADS_MAX: u64 = 1024;

/// Headers that have a meaning of their own to HTTP, to proxies or to us, beside those in [`MARK_PREFIXES`].
const NOT_A_MARK: [&str; 36] = [
    "age",
    "allow",
    "alt-svc",
    "authorization",
    "cache-control",
    "connection",
    "cookie",
    "countersign-receipt",
    "countersign-request-id",
    "date",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "from",
    "host",
    "http2-settings",
    "keep-alive",
    "last-modified",
    "location",
    "origin",
    "pragma",
    "range",
    "referer",
    "retry-after",
    "server",
    "set-cookie",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
];

const MARK_PREFIXES: [&str; 7] = [
    "accept",
    "access-control-",
    "content-",
    "if-",
    "proxy-",
    "sec-",
    "x-forwarded-",
];

impl Checker<'_> {
    pub(super) fn server(&mut self, raw: &RawServer) -> Server {
        let table = Key::of(&["server"]);
        let listen = self.listen(&table.at("listen"), raw.listen.as_ref());
        let key = table.at("admin");
        let admin = match raw.admin.as_deref() {
            None | Some("off") => None,
            Some(written) => self.address(&key, written),
        };
        if admin.as_ref().is_some_and(|admin| clashes(admin, &listen)) {
            self.error(
                &key,
                "`admin` is also an address that senders reach",
                "give it an address of its own, such as `127.0.0.1:9600`, or write `off`",
            );
        }
        let tls = raw.tls.as_ref().map(|tls| self.tls(&table.at("tls"), tls));
        let reachable = listen.iter().any(|address| match address {
            ListenAddr::Tcp(address) => !address.ip().is_loopback(),
            ListenAddr::Unix(_) | ListenAddr::Systemd(_) => false,
        });
        if reachable && !self.given(&table.at("tls")) {
            self.warning(
                &table.at("listen"),
                "senders are served without TLS on an address that others can reach",
                "add `[server.tls]`, or make sure that only a load balancer that terminates TLS reaches it",
            );
        }
        Server {
            listen,
            admin,
            threads: self.threads(&table.at("threads"), raw.threads),
            drain: self.duration_or_zero(&table.at("drain"), raw.drain.as_ref()),
            trusted_proxies: self
                .networks(&table.at("trusted_proxies"), raw.trusted_proxies.as_ref()),
            proxy_protocol: self.proxy_protocol(&table, raw),
            mark: self.mark(&table.at("mark"), raw.mark.as_deref()),
            tls,
            reload_interval: self
                .reload_interval(&table.at("reload_interval"), raw.reload_interval.as_ref()),
            reuse_port: raw.reuse_port.unwrap_or(false),
        }
    }

    fn reload_interval(&mut self, key: &Key, raw: Option<&DurationText>) -> Option<Duration> {
        match raw {
            Some(DurationText(word)) if word == "off" => None,
            _ => Some(self.duration(key, raw)),
        }
    }

    fn listen(&mut self, key: &Key, raw: Option<&OneOrMany>) -> Vec<ListenAddr> {
        let Some(raw) = raw else {
            return Vec::new();
        };
        let mut addresses = Vec::new();
        for (written, key) in places(key, raw) {
            if let Some(address) = self.address(&key, written) {
                if clashes(&address, &addresses) {
                    self.error(&key, "this address stands here twice", "remove one");
                }
                addresses.push(address);
            }
        }
        if raw.values.is_empty() {
            self.error(
                key,
                "there is no address to listen on",
                "write at least one, such as `127.0.0.1:8080`",
            );
        }
        addresses
    }

    fn address(&mut self, key: &Key, written: &str) -> Option<ListenAddr> {
        if let Some(path) = written.strip_prefix("unix:") {
            if path.is_empty() {
                self.error(
                    key,
                    "the path of the socket is missing",
                    "write it behind `unix:`, such as `unix:/run/countersign/in.sock`",
                );
                return None;
            }
            return self.path(key, Some(path)).map(ListenAddr::Unix);
        }
        if let Some(name) = written.strip_prefix("systemd:") {
            // What systemd allows in FileDescriptorName=.
            let plain = |c: char| c.is_ascii_graphic() && c != ':';
            if name.is_empty() || name.len() > 255 || !name.chars().all(plain) {
                self.error(
                    key,
                    format!("{name:?} cannot be the name of a socket that systemd passes"),
                    "write what `FileDescriptorName=` of the .socket unit says, such as `systemd:hooks`",
                );
                return None;
            }
            return Some(ListenAddr::Systemd(name.to_owned()));
        }
        match written.parse::<SocketAddr>() {
            Ok(address) => Some(ListenAddr::Tcp(address)),
            Err(_) => {
                self.error(
                    key,
                    format!("{written:?} is not an address to listen on"),
                    "write an IP address and a port, such as `127.0.0.1:8080` or `[::]:8080`, `unix:` and a path, or `systemd:` and a name",
                );
                None
            }
        }
    }

    fn threads(&mut self, key: &Key, raw: Option<Count>) -> usize {
        let one_per_core = || available_parallelism().map_or(1, NonZero::get);
        match raw {
            None | Some(Count(0)) => one_per_core(),
            Some(Count(threads)) if threads <= THREADS_MAX => usize_of(threads),
            Some(Count(threads)) => {
                self.error(
                    key,
                    format!("{threads} threads are too many"),
                    "write 0 for one per core",
                );
                1
            }
        }
    }

    pub(super) fn networks(&mut self, key: &Key, raw: Option<&OneOrMany>) -> Vec<IpNet> {
        let Some(raw) = raw else {
            return Vec::new();
        };
        let mut networks = Vec::new();
        for (written, key) in places(key, raw) {
            let network = written
                .parse::<IpNet>()
                .or_else(|_| written.parse::<IpAddr>().map(IpNet::from));
            match network {
                Ok(network) => networks.push(network),
                Err(_) => self.error(
                    &key,
                    format!("{written:?} is not a network"),
                    "write an address or a range, such as `10.0.0.0/8` or `192.0.2.7`",
                ),
            }
        }
        networks
    }

    fn proxy_protocol(&mut self, table: &Key, raw: &RawServer) -> bool {
        let on = raw.proxy_protocol.unwrap_or(false);
        let none = |proxies: &OneOrMany| proxies.values.is_empty();
        if on && raw.trusted_proxies.as_ref().is_none_or(none) {
            self.warning(
                &table.at("proxy_protocol"),
                "whoever connects can write the address that it is taken to come from: `trusted_proxies` is empty",
                "name the load balancer's addresses in `trusted_proxies`, or make sure that nobody else reaches this address",
            );
        }
        on
    }

    fn mark(&mut self, key: &Key, raw: Option<&str>) -> HeaderName {
        let fallback = HeaderName::from_static("countersign-verified");
        let Some(written) = raw else {
            return fallback;
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let name = match HeaderName::from_bytes(written.as_bytes()) {
            Ok(name) if written.chars().all(plain) => name,
            _ => {
                self.error(
                    key,
                    format!("{written:?} cannot be the name of the mark"),
                    "use letters, digits and `-`, such as `Countersign-Verified`",
                );
                return fallback;
            }
        };
        let taken = NOT_A_MARK.contains(&name.as_str())
            || MARK_PREFIXES
                .iter()
                .any(|prefix| name.as_str().starts_with(prefix));
        if taken {
            self.error(
                key,
                format!("the header `{written}` has a meaning already, so it cannot be the mark"),
                "use a name of your own, such as `Countersign-Verified`",
            );
        }
        name
    }

    fn tls(&mut self, table: &Key, raw: &RawTls) -> Tls {
        let list = table.at("certificates");
        let mut certificates = Vec::new();
        let single = self.given(&table.at("certificate")) || self.given(&table.at("private_key"));
        if self.given(&list) {
            if single {
                self.error(
                    &list,
                    "`certificates` stands beside `certificate` and `private_key`",
                    "keep one form: put all of them into `[[server.tls.certificates]]`",
                );
            }
            for (i, entry) in raw.certificates.iter().flatten().enumerate() {
                certificates.extend(self.certificate(
                    &list.at(i),
                    ("certificate", entry.certificate.as_deref()),
                    ("private_key", entry.private_key.as_deref()),
                ));
            }
            if raw.certificates.as_ref().is_some_and(Vec::is_empty) {
                self.error(
                    &list,
                    "there is no certificate in the list",
                    "add `[[server.tls.certificates]]`, or leave `[server.tls]` out",
                );
            }
        } else if single || raw.acme.is_none() {
            certificates.extend(self.certificate(
                table,
                ("certificate", raw.certificate.as_deref()),
                ("private_key", raw.private_key.as_deref()),
            ));
        }
        Tls {
            certificates,
            client_ca: self.path(&table.at("client_ca"), raw.client_ca.as_deref()),
            acme: raw.acme.as_ref().and_then(|acme| self.acme(table, acme)),
        }
    }

    /// A chain and its key. Both are needed.
    pub(super) fn certificate(
        &mut self,
        table: &Key,
        (chain_name, chain): (&str, Option<&str>),
        (key_name, key): (&str, Option<&str>),
    ) -> Option<CertificateFiles> {
        let chain = self.required(&table.at(chain_name), chain, "\"tls/fullchain.pem\"");
        let key = self.required(&table.at(key_name), key, "\"tls/key.pem\"");
        let certificate = self.path(&table.at(chain_name), chain);
        let private_key = self.path(&table.at(key_name), key);
        Some(CertificateFiles {
            certificate: certificate?,
            private_key: private_key?,
        })
    }

    pub(super) fn limits(&mut self, raw: &RawLimits) -> Limits {
        let table = Key::of(&["limits"]);
        let limits = Limits {
            body: self.size(&table.at("body"), raw.body.as_ref()),
            body_memory: self.size(&table.at("body_memory"), raw.body_memory.as_ref()),
            spool_dir: self.path(&table.at("spool_dir"), raw.spool_dir.as_deref()),
            spool: self.size(&table.at("spool"), raw.spool.as_ref()),
            headers: self.headers(&table.at("headers"), raw),
            head_timeout: self.duration(&table.at("head_timeout"), raw.head_timeout.as_ref()),
            body_timeout: self.duration(&table.at("body_timeout"), raw.body_timeout.as_ref()),
            body_min_rate: self.rate(&table.at("body_min_rate"), raw.body_min_rate.as_ref()),
            idle_timeout: self.duration(&table.at("idle_timeout"), raw.idle_timeout.as_ref()),
            connections: usize_of(self.at_least_one(&table.at("connections"), raw.connections)),
            http2_streams: self
                .at_least_one(&table.at("http2_streams"), raw.http2_streams)
                .try_into()
                .unwrap_or(u32::MAX),
            in_flight: usize_of(self.at_least_one(&table.at("in_flight"), raw.in_flight)),
        };
        let key = table.at("body_memory");
        if !self.is_faulty(&key)
            && raw.body_memory.is_some()
            && limits.body_memory < BODY_MEMORY_MIN
        {
            self.error(
                &key,
                format!(
                    "{} is too little memory for bodies",
                    show_size(limits.body_memory)
                ),
                "write at least \"1MiB\"",
            );
        }
        self.body_fits(&table.at("body"), raw.body.is_some(), limits.body, &limits);
        limits
    }

    /// A body's limit must be above zero, and a body of that size must find room.
    pub(super) fn body_fits(&mut self, key: &Key, given: bool, body: u64, limits: &Limits) {
        if !given || self.is_faulty(key) {
            return;
        }
        if body == 0 {
            self.error(
                key,
                "`body` may not be zero",
                "write a size, such as \"64MiB\"",
            );
        }
        let room = limits.body_memory.saturating_add(limits.spool);
        let [memory, spool] = ["body_memory", "spool"].map(|name| Key::of(&["limits", name]));
        if body > room
            && limits.body_memory > 0
            && !self.is_faulty(&memory)
            && !self.is_faulty(&spool)
        {
            // A default has no place to point at.
            let written = [key.clone(), spool, memory]
                .into_iter()
                .find(|key| self.origin(key) != super::layers::Origin::Default);
            self.error(
                &written.unwrap_or_else(|| key.clone()),
                format!(
                    "a body of {} finds no room: `body_memory` and `spool` hold {} together",
                    show_size(body),
                    show_size(room)
                ),
                "lower `body`, or raise `body_memory` or `spool`",
            );
        }
    }

    fn headers(&mut self, key: &Key, raw: &RawLimits) -> u32 {
        let headers = self.size(key, raw.headers.as_ref());
        let fits = (HEADERS_MIN..=HEADERS_MAX).contains(&headers);
        if raw.headers.is_some() && !fits && !self.is_faulty(key) {
            self.error(
                key,
                format!("{} is out of range for `headers`", show_size(headers)),
                "write a size from \"4KiB\" to \"256KiB\"",
            );
        }
        headers.try_into().unwrap_or(u32::MAX)
    }

    pub(super) fn at_least_one(&mut self, key: &Key, raw: Option<Count>) -> u64 {
        if let Some(Count(0)) = raw {
            self.error(
                key,
                format!("`{}` may not be zero", key.last()),
                "write a number above zero",
            );
        }
        raw.map_or(0, |Count(count)| count)
    }

    pub(super) fn log(&mut self, raw: &RawLog) -> Log {
        let table = Key::of(&["log"]);
        let format = self.choice(
            &table.at("format"),
            raw.format.as_deref(),
            &[("json", LogFormat::Json), ("text", LogFormat::Text)],
        );
        let level = self.choice(
            &table.at("level"),
            raw.level.as_deref(),
            &[
                ("error", LogLevel::Error),
                ("warn", LogLevel::Warn),
                ("info", LogLevel::Info),
                ("debug", LogLevel::Debug),
            ],
        );
        Log {
            format: format.unwrap_or(LogFormat::Json),
            level: level.unwrap_or(LogLevel::Info),
        }
    }
}

/// Every value with its place.
pub(super) fn places<'r>(
    key: &Key,
    raw: &'r OneOrMany,
) -> impl Iterator<Item = (&'r str, Key)> + use<'r> {
    let key = key.clone();
    let listed = raw.listed;
    raw.values.iter().enumerate().map(move |(i, value)| {
        let key = if listed { key.at(i) } else { key.clone() };
        (value.as_str(), key)
    })
}

/// Whether an address is taken. Port 0 never is: the system chooses.
fn clashes(address: &ListenAddr, others: &[ListenAddr]) -> bool {
    match address {
        ListenAddr::Tcp(tcp) if tcp.port() == 0 => false,
        ListenAddr::Tcp(_) | ListenAddr::Unix(_) | ListenAddr::Systemd(_) => {
            others.contains(address)
        }
    }
}

pub(super) fn usize_of(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
