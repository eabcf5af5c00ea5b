//! `[[route]]`: from words to values, and the rules between routes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use http::{HeaderName, Method, StatusCode};

use super::{
    CertificateFiles, Limits, PairingConfig, PathPattern, PublicUrl, RouteConfig, SecretConfig,
    UpstreamAddr, UpstreamConfig, UpstreamProtocol,
    check::{Checker, Key, SECRET_HELP},
    document::{betrays_a_secret, is_credential_name, is_variable_name},
    error::{any_of, nearest},
    layers::Origin,
    raw::{Count, OneOrMany, RawRoute, RawScheme, RawSecret},
    server::{places, usize_of},
};
use crate::{
    clock::{Clock as _, SystemClock, UnixTime},
    scheme::{HandshakeMode, Scheme, SpecError, UnusableHandshake, catalogue},
    secret::SecretSource,
};

const NAME_HELP: &str = "use 1 to 64 letters, digits, `-`, `_` and `.`";

/// Statuses that say something else than "not verified", or that make senders or proxies act.
const NOT_A_REJECTION: [u64; 9] = [404, 405, 408, 410, 411, 413, 414, 429, 431];

/// Whether a text can name a route or a key.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

impl Checker<'_> {
    /// All routes. What has faults is left out: then there are errors, and nobody uses the rest.
    pub(super) fn routes(&mut self, raw: &[RawRoute], limits: &Limits) -> Vec<RouteConfig> {
        let table = Key::of(&["route"]);
        if raw.is_empty() && !self.given(&table) {
            let help = if self.has_file() {
                "add `[[route]]` with `name`, `path`, `scheme`, `secrets` and `upstream` to the file, \
                 or give `--scheme`, `--secret-file` and `--upstream`"
            } else {
                "name a configuration file with `--config`, \
                 or give `--scheme`, `--secret-file` and `--upstream`"
            };
            self.error(&table, "there is no route", help);
        }
        let routes: Vec<_> = raw
            .iter()
            .enumerate()
            .map(|(i, route)| self.route(&table.at(i), route, limits))
            .collect();
        self.names_differ(raw);
        self.targets_differ(&routes);
        routes.into_iter().flatten().collect()
    }

    fn route(&mut self, table: &Key, raw: &RawRoute, limits: &Limits) -> Option<RouteConfig> {
        let name = self.name(&table.at("name"), raw.name.as_deref());
        let host = raw
            .host
            .as_deref()
            .map(|host| self.host(&table.at("host"), host));
        let path = self.pattern(&table.at("path"), raw.path.as_deref());
        let methods = self.methods(&table.at("methods"), raw.methods.as_ref());
        let mut scheme = self.scheme(table, raw);
        let public_url = self.public_url(table, raw, path.as_ref(), scheme.as_ref());
        let secrets = self.secrets(table, raw, scheme.as_ref());
        let fetch_secret = self.fetch_secret(table, raw, scheme.as_ref());
        let upstream = self.upstream(table, raw);
        let key = table.at("body");
        let body_bytes_max = match &raw.body {
            Some(body) => self.size(&key, Some(body)),
            None => limits.body,
        };
        self.body_fits(&key, raw.body.is_some(), body_bytes_max, limits);
        let reject_status = self.reject_status(&table.at("reject_status"), raw.reject_status);
        let pairing = self.pairing(table, raw, scheme.as_ref(), &secrets);
        let guard = self.guard(table, raw, scheme.as_mut(), &upstream);
        let throttle = self.throttle(table, raw);
        let observe_until = self.observe(table, raw, scheme.as_ref());
        let continues_trace = self.trace(&table.at("trace"), raw.trace.as_deref());
        Some(RouteConfig {
            name: name?,
            host,
            path: path?,
            methods,
            scheme: scheme?,
            secrets,
            fetch_secret,
            upstream,
            body_bytes_max,
            reject_status,
            public_url,
            pairing,
            guard,
            throttle,
            observe_until,
            continues_trace,
        })
    }

    fn name(&mut self, key: &Key, raw: Option<&str>) -> Option<String> {
        let name = self.required(key, raw, "\"cases\"")?;
        if !is_name(name) {
            self.error(key, format!("{name:?} cannot name a route"), NAME_HELP);
        }
        Some(name.to_owned())
    }

    fn names_differ(&mut self, raw: &[RawRoute]) {
        let mut names = HashSet::new();
        for (i, route) in raw.iter().enumerate() {
            let Some(name) = &route.name else { continue };
            if !names.insert(name) {
                self.error(
                    &Key::of(&["route"]).at(i).at("name"),
                    format!("two routes are named `{name}`"),
                    "give each route a name of its own: logs and metrics tell them apart by it",
                );
            }
        }
    }

    fn host(&mut self, key: &Key, written: &str) -> String {
        let literal = written
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Ok(IpAddr::V6(address)) = literal.unwrap_or(written).parse() {
            return format!("[{address}]");
        }
        let lower = written.to_ascii_lowercase();
        if is_dns_name(&lower) {
            if lower != written {
                self.error(
                    key,
                    format!("{written:?} is not in lower case"),
                    format!("write `{lower}`; the case that senders use does not matter"),
                );
            }
            return lower;
        }
        let help = match written.rsplit_once(':') {
            Some((name, port)) if is_dns_name(name) && port.parse::<u16>().is_ok() => {
                format!("leave the port out: `{name}`")
            }
            _ if written.contains('*') => {
                "name each host in a route of its own, or leave `host` out to take any".to_owned()
            }
            _ => "write a name or an IP address, such as `hooks.example.org`".to_owned(),
        };
        self.error(key, format!("{written:?} is not a host"), help);
        lower
    }

    fn pattern(&mut self, key: &Key, raw: Option<&str>) -> Option<PathPattern> {
        let written = self.required(key, raw, "\"/webhooks/cases\"")?;
        if let Some((fault, help)) = path_fault(written) {
            self.error(key, format!("{written:?} cannot be matched: {fault}"), help);
        }
        Some(match written.strip_suffix('*') {
            Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
            None => PathPattern::Exact(written.to_owned()),
        })
    }

    fn targets_differ(&mut self, routes: &[Option<RouteConfig>]) {
        let mut targets = HashMap::new();
        for (i, route) in routes.iter().enumerate() {
            let Some(route) = route else { continue };
            let key = Key::of(&["route"]).at(i).at("path");
            let other = *targets.entry((&route.host, &route.path)).or_insert(route);
            if !std::ptr::eq(other, route) && !self.is_faulty(&key) {
                self.error(
                    &key,
                    format!(
                        "the routes `{}` and `{}` are ambiguous: both take the same host and path",
                        other.name, route.name
                    ),
                    "give them different hosts or paths; several secrets can stand in one route",
                );
            }
        }
    }

    /// A header that a scheme reads cannot be the mark: the mark is removed from what senders send.
    pub(super) fn marks_differ(&mut self, mark: &HeaderName, routes: &[RouteConfig]) {
        let clash = routes
            .iter()
            .find(|route| route.scheme.headers().any(|header| header == mark));
        if let Some(route) = clash {
            self.error(
                &Key::of(&["server", "mark"]),
                format!(
                    "the mark is also the header that route `{}` takes the signature or time from",
                    route.name
                ),
                "choose another name for the mark",
            );
        }
    }

    fn methods(&mut self, key: &Key, raw: Option<&OneOrMany>) -> Vec<Method> {
        const KNOWN: [Method; 7] = [
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
        ];
        let Some(raw) = raw else { return Vec::new() };
        if raw.values.is_empty() {
            self.error(
                key,
                "there is no method",
                "write at least one, such as `POST`",
            );
        }
        let mut methods = Vec::new();
        for (written, key) in places(key, raw) {
            let upper = written.to_ascii_uppercase();
            match KNOWN.iter().find(|known| known.as_str() == written) {
                Some(method) => methods.push(method.clone()),
                None => {
                    let names = KNOWN.iter().map(Method::as_str);
                    let help = match KNOWN.iter().find(|known| known.as_str() == upper) {
                        Some(method) => format!("did you mean `{method}`?"),
                        None => format!("write {}", any_of(names)),
                    };
                    self.error(
                        &key,
                        format!("{written:?} is not a method of webhooks"),
                        help,
                    );
                }
            }
        }
        methods
    }

    fn scheme(&mut self, table: &Key, raw: &RawRoute) -> Option<Scheme> {
        let key = table.at("scheme");
        let written = self.required(&key, raw.scheme.as_ref(), "\"carevalidate\"")?;
        let none = BTreeMap::new();
        let params = raw.params.as_ref().unwrap_or(&none);
        let compiled = match written {
            // Its faults are known already: what was read is not what was written.
            RawScheme::Table(_) if self.is_faulty(&key) => return None,
            RawScheme::Table(spec) => Scheme::compile("custom", spec, params),
            RawScheme::Name(name) if name == Scheme::NONE => {
                if !params.is_empty() {
                    self.error(
                        &table.at("params"),
                        "scheme `none` has no parameters",
                        "remove `params`",
                    );
                }
                Ok(Scheme::none())
            }
            RawScheme::Name(name) => match self.built_in(name, params) {
                Ok(scheme) => Ok(scheme),
                Err(Some(faults)) => Err(faults),
                Err(None) => {
                    // Only now: this reads the whole catalogue.
                    let names = catalogue::names();
                    let help = match nearest(name, names.iter().map(String::as_str)) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => "`countersign providers` lists them; or describe the scheme in `[route.scheme]`".to_owned(),
                    };
                    self.error(&key, format!("there is no scheme {name:?}"), help);
                    return None;
                }
            },
        };
        match compiled {
            Ok(mut scheme) => {
                self.tolerance(&table.at("tolerance"), raw, &mut scheme);
                self.handshake(&table.at("handshake"), raw, &mut scheme);
                self.warn_of_scheme(&key, &scheme);
                Some(scheme)
            }
            Err(faults) => {
                for fault in faults {
                    self.scheme_fault(table, &key, fault);
                }
                None
            }
        }
    }

    /// A scheme of the catalogue: compiled once, and shared by all routes that have it.
    fn built_in(
        &mut self,
        name: &str,
        params: &BTreeMap<String, String>,
    ) -> Result<Scheme, Option<Vec<SpecError>>> {
        let written = (name.to_owned(), params.clone());
        if let Some(scheme) = self.schemes.get(&written) {
            return Ok(scheme.clone());
        }
        let scheme = catalogue::compile(name, params)?;
        self.schemes.insert(written, scheme.clone());
        Ok(scheme)
    }

    fn public_url(
        &mut self,
        table: &Key,
        raw: &RawRoute,
        path: Option<&PathPattern>,
        scheme: Option<&Scheme>,
    ) -> Option<PublicUrl> {
        let key = table.at("public_url");
        let Some(written) = &raw.public_url else {
            if let Some(scheme) = scheme
                && scheme.signs_url()
                && !self.given(&key)
                && !self.sees_public_urls()
            {
                self.warning(
                    &table.at("scheme"),
                    format!(
                        "scheme `{}` signs the public URL, and this one would begin with `http://`: there is no TLS here, \
                         and no trusted proxy to say more",
                        scheme.name()
                    ),
                    "add `public_url = \"https://…\"` (`--public-url`) with what the sender has in front of the path",
                );
            }
            return None;
        };
        let path = path?;
        let prefix = match path {
            PathPattern::Prefix(prefix) => Some(prefix.as_str()),
            PathPattern::Exact(_) => None,
        };
        match PublicUrl::parse(written, prefix) {
            Ok(public_url) => {
                let (PathPattern::Exact(path) | PathPattern::Prefix(path)) = path;
                if public_url.holds_path(path) {
                    self.warning(
                        &key,
                        "this public URL ends in the route's path, which would stand there twice: path and query of each \
                         request are added",
                        "write what stands before the path, such as `https://hooks.example.org`",
                    );
                }
                Some(public_url)
            }
            Err((message, help)) => {
                self.error(&key, message, help);
                None
            }
        }
    }

    /// Whether anything but the routes can tell how senders reach the gateway, when that is not by plain HTTP.
    fn sees_public_urls(&self) -> bool {
        let proxies = Key::of(&["server", "trusted_proxies"]);
        self.given(&Key::of(&["server", "tls"])) || self.origin(&proxies) != Origin::Default
    }

    fn scheme_fault(&mut self, table: &Key, scheme: &Key, fault: SpecError) {
        let from = match fault.path.first() {
            Some(&"params") => table,
            _ => scheme,
        };
        let mut key = fault
            .path
            .iter()
            .fold(from.clone(), |key, segment| key.at(segment));
        if !self.given(&key) && self.given(scheme) {
            key = scheme.clone();
        }
        self.error(&key, fault.message, fault.help.unwrap_or_default());
    }

    fn tolerance(&mut self, key: &Key, raw: &RawRoute, scheme: &mut Scheme) {
        if raw.tolerance.is_none() {
            return;
        }
        let tolerance = self.duration(key, raw.tolerance.as_ref());
        if !scheme.set_tolerance(tolerance) {
            self.error(
                key,
                format!(
                    "scheme `{}` signs no time, so there is nothing to tolerate",
                    scheme.name()
                ),
                "remove `tolerance`",
            );
        }
    }

    fn handshake(&mut self, key: &Key, raw: &RawRoute, scheme: &mut Scheme) {
        let choices = [
            ("answer", HandshakeMode::Answer),
            ("forward", HandshakeMode::Forward),
        ];
        let mode = self.choice(key, raw.handshake.as_deref(), &choices);
        let mode = mode.unwrap_or_default();
        for unusable in scheme.set_handshake_mode(mode) {
            let name = scheme.name().to_owned();
            match unusable {
                UnusableHandshake::ParameterMissing(kind, param) => self.warning(
                    key,
                    format!("handshakes `{kind}` of `{name}` are not answered: the parameter `{param}` is missing"),
                    format!("add `params = {{ {param} = \"…\" }}` before the sender registers this address"),
                ),
                UnusableHandshake::NotForwardable(kind) => self.error(
                    key,
                    format!(
                        "handshakes `{kind}` of `{name}` cannot be forwarded: nobody signs what they bring"
                    ),
                    "write `answer`: then the gateway answers them, and your application sees none",
                ),
            }
        }
        if mode == HandshakeMode::Forward && scheme.handshake_methods().next().is_some() {
            self.warning(
                key,
                format!("handshakes of `{}` that nobody signed are forwarded", scheme.name()),
                "your application has to answer them, and may do nothing else on requests without the mark",
            );
        }
    }

    fn pairing(
        &mut self,
        table: &Key,
        raw: &RawRoute,
        scheme: Option<&Scheme>,
        secrets: &[SecretConfig],
    ) -> Option<PairingConfig> {
        let raw = raw.pairing.as_ref()?;
        let key = table.at("pairing");
        let scheme = scheme?;
        if !scheme.pairs() {
            self.error(
                &key,
                format!("no handshake of `{}` brings a secret", scheme.name()),
                "remove `pairing`, and write the secret into the file that `secrets` names",
            );
            return None;
        }
        let file = self.required(&key.at("file"), raw.file.as_deref(), "\"secrets/asana\"");
        let file = self.path(&key.at("file"), file)?;
        let until = "\"2026-12-01T12:00:00Z\"";
        let until = self.required(&key.at("until"), raw.until.as_deref(), until);
        let until = self.time(&key.at("until"), until)?;
        let source = SecretSource::File(file.clone());
        if !secrets.iter().any(|secret| secret.source == source) {
            self.error(
                &key.at("file"),
                "no entry of `secrets` reads this file",
                "name the file that `secrets` names: the secret is written into it",
            );
        }
        if SystemClock.now() < until {
            self.warning(
                &key,
                "pairing is open: whoever first sends a handshake can set the secret of this route",
                "register the address now, look whether it was your sender, and remove `pairing`",
            );
        }
        Some(PairingConfig { file, until })
    }

    fn warn_of_scheme(&mut self, key: &Key, scheme: &Scheme) {
        if !scheme.needs_secret() {
            self.warning(
                key,
                "scheme `none` checks nothing: anyone can send to this route",
                "use it only for senders that cannot sign; what passes carries no mark",
            );
        } else if scheme.is_token() {
            self.warning(
                key,
                format!(
                    "scheme `{}` sends the secret itself, which covers neither the body nor a time",
                    scheme.name()
                ),
                "whoever learns the token can send anything: prefer a scheme that signs, if the sender offers one",
            );
        } else if !scheme.covers_body() {
            self.warning(
                key,
                format!(
                    "scheme `{}` does not cover the body, or not all of it",
                    scheme.name()
                ),
                "whoever saw a delivery can change the rest: `countersign providers` says what is signed; fetch what matters from the sender",
            );
        }
    }

    fn secrets(
        &mut self,
        table: &Key,
        raw: &RawRoute,
        scheme: Option<&Scheme>,
    ) -> Vec<SecretConfig> {
        let key = table.at("secrets");
        let written = raw.secrets.as_deref().unwrap_or_default();
        let mut secrets = Vec::new();
        let mut complete = true;
        for (i, secret) in written.iter().enumerate() {
            let entry = key.at(i);
            match self.secret(&entry, secret) {
                Some(secret) => secrets.push(secret),
                None => complete = false,
            }
            let id = &secret.id;
            if id.is_some() && written[..i].iter().any(|other| other.id == *id) {
                self.error(
                    &entry.at("id"),
                    "this key id stands twice in its route",
                    "give each secret an id of its own: the log says by it which one verified",
                );
            }
        }
        match scheme {
            Some(scheme) if !scheme.needs_secret() && !written.is_empty() => self.error(
                &key,
                "scheme `none` checks nothing, so it has no secrets",
                "remove `secrets`, or name the scheme that the sender signs with",
            ),
            Some(scheme)
                if scheme.needs_secret()
                    && !(scheme.fetches_keys() && raw.secrets.is_none())
                    && written.is_empty()
                    && !self.given_and_lost(&key) =>
            {
                let name = scheme.name();
                self.error(
                    &key,
                    format!("scheme `{name}` needs a secret"),
                    "add `secrets = [{ id = \"…\", file = \"…\" }]`, with `env` or `credential` instead of \
                     `file`; on the command line, `--secret-file`",
                );
            }
            _ => {}
        }
        if complete && !secrets.is_empty() {
            self.warn_of_times(&key, &secrets);
        }
        secrets
    }

    fn warn_of_times(&mut self, key: &Key, secrets: &[SecretConfig]) {
        let now = SystemClock.now();
        let over = |secret: &SecretConfig| secret.not_after.is_some_and(|end| end <= now);
        let ahead = |secret: &SecretConfig| secret.not_before.is_some_and(|begin| now < begin);
        if secrets.iter().all(over) {
            self.warning(
                key,
                "all secrets of this route have expired: it answers 503",
                "add the secret that the sender uses now",
            );
        } else if secrets.iter().all(|secret| over(secret) || ahead(secret)) {
            self.warning(
                key,
                "no secret of this route is valid now: it answers 503",
                "look at `not_before` and `not_after`",
            );
        }
    }

    fn secret(&mut self, entry: &Key, raw: &RawSecret) -> Option<SecretConfig> {
        let key = entry.at("id");
        let id = self.required(&key, raw.id.as_deref(), "\"2026-11\"");
        if id.is_some_and(|id| !is_name(id)) {
            self.error(&key, "this cannot be a key id", NAME_HELP);
        }
        let source = self.secret_source(
            entry,
            raw.file.as_deref(),
            raw.env.as_deref(),
            raw.credential.as_deref(),
        );
        let not_before = self.time(&entry.at("not_before"), raw.not_before.as_deref());
        let not_after = self.time(&entry.at("not_after"), raw.not_after.as_deref());
        if let (Some(begin), Some(end)) = (not_before, not_after)
            && end <= begin
        {
            self.error(
                &entry.at("not_after"),
                "`not_after` is not later than `not_before`: the secret would never be valid",
                "exchange them, or remove one",
            );
        }
        Some(SecretConfig {
            id: id?.to_owned(),
            source: source?,
            not_before,
            not_after,
        })
    }

    pub(super) fn secret_source(
        &mut self,
        entry: &Key,
        file: Option<&str>,
        env: Option<&str>,
        credential: Option<&str>,
    ) -> Option<SecretSource> {
        let names = ["file", "env", "credential"];
        let given: Vec<_> = names
            .into_iter()
            .filter(|name| self.given(&entry.at(name)))
            .collect();
        match given.as_slice() {
            // An unknown key beside it was most likely meant to be the source.
            [] if self.is_faulty(entry) => return None,
            [] => {
                self.error(
                    entry,
                    "this secret has no source",
                    "add `file = \"…\"`, `env = \"…\"` or `credential = \"…\"`",
                );
                return None;
            }
            [_] => {}
            [first, second, ..] => self.error(
                entry,
                format!("this secret has two sources, `{first}` and `{second}`"),
                "keep one of them; for rotation write two entries",
            ),
        }
        let key = entry.at("env");
        if env.is_some_and(|name| !is_variable_name(name)) {
            self.error(
                &key,
                "this is not the name of an environment variable",
                SECRET_HELP,
            );
        }
        let key = entry.at("credential");
        if credential.is_some_and(|name| !is_credential_name(name)) {
            self.error(
                &key,
                "this is not the name of a systemd credential",
                SECRET_HELP,
            );
        }
        let file = self.path(&entry.at("file"), file);
        file.map(SecretSource::File)
            .or_else(|| env.map(|name| SecretSource::Env(name.to_owned())))
            .or_else(|| credential.map(|name| SecretSource::Credential(name.to_owned())))
    }

    pub(super) fn time(&mut self, key: &Key, raw: Option<&str>) -> Option<UnixTime> {
        let written = raw?;
        match written.parse::<jiff::Timestamp>() {
            Ok(time) => Some(UnixTime::from_millis(time.as_millisecond())),
            Err(_) => {
                self.error(
                    key,
                    format!("`{}` is not a moment", key.last()),
                    "write date, time and zone, such as \"2026-12-01T00:00:00Z\"",
                );
                None
            }
        }
    }

    fn upstream(&mut self, table: &Key, raw: &RawRoute) -> UpstreamConfig {
        let key = table.at("upstream");
        let written = self.required(&key, raw.upstream.as_ref(), "\"http://127.0.0.1:3000\"");
        let mut addresses = Vec::new();
        for (written, key) in written.into_iter().flat_map(|raw| places(&key, raw)) {
            addresses.extend(self.upstream_address(&key, written));
        }
        if written.is_some_and(|raw| raw.values.is_empty()) {
            self.error(
                &key,
                "there is no upstream",
                "write at least one, such as `http://127.0.0.1:3000`",
            );
        }
        let kind = std::mem::discriminant::<UpstreamAddr>;
        if addresses
            .windows(2)
            .any(|pair| kind(&pair[0]) != kind(&pair[1]))
        {
            self.error(
                &key,
                "the upstreams are of different kinds",
                "write all of them as `http://`, all as `https://` or all as `unix:`",
            );
        }
        let tls = matches!(addresses.first(), Some(UpstreamAddr::Https { .. }));
        for name in [
            "upstream_ca",
            "upstream_certificate",
            "upstream_key",
            "upstream_name",
        ] {
            let key = table.at(name);
            if self.given(&key) && !tls && !addresses.is_empty() {
                self.error(
                    &key,
                    format!("`{name}` has a meaning for `https://` upstreams only"),
                    "write the upstream as `https://…`, or remove this key",
                );
            }
        }
        let protocol = self.choice(
            &table.at("upstream_http"),
            raw.upstream_http.as_deref(),
            &[
                ("auto", UpstreamProtocol::Auto),
                ("1.1", UpstreamProtocol::Http1),
                ("2", UpstreamProtocol::Http2),
            ],
        );
        let key = table.at("upstream_name");
        let server_name = raw.upstream_name.clone();
        if server_name
            .as_deref()
            .is_some_and(|name| !is_dns_name(&name.to_ascii_lowercase()))
        {
            self.error(
                &key,
                "`upstream_name` is not a host name",
                "write the name in the upstream's certificate, such as `app.internal`",
            );
        }
        let Count(idle) = raw.idle_connections.unwrap_or(Count(0));
        UpstreamConfig {
            addresses,
            protocol: protocol.unwrap_or(UpstreamProtocol::Auto),
            ca: self.path(&table.at("upstream_ca"), raw.upstream_ca.as_deref()),
            client_certificate: self.client_certificate(table, raw),
            server_name,
            connect_timeout: self
                .duration(&table.at("connect_timeout"), raw.connect_timeout.as_ref()),
            connect_retry: self
                .duration_or_zero(&table.at("connect_retry"), raw.connect_retry.as_ref()),
            timeout: self.duration(&table.at("timeout"), raw.timeout.as_ref()),
            read_timeout: self.duration(&table.at("read_timeout"), raw.read_timeout.as_ref()),
            keep_alive: self.duration(&table.at("keep_alive"), raw.keep_alive.as_ref()),
            idle_connections: usize_of(idle),
            max_fails: raw
                .max_fails
                .map_or(0, |Count(fails)| u32::try_from(fails).unwrap_or(u32::MAX)),
        }
    }

    fn client_certificate(&mut self, table: &Key, raw: &RawRoute) -> Option<CertificateFiles> {
        if !self.given(&table.at("upstream_certificate")) && !self.given(&table.at("upstream_key"))
        {
            return None;
        }
        self.certificate(
            table,
            ("upstream_certificate", raw.upstream_certificate.as_deref()),
            ("upstream_key", raw.upstream_key.as_deref()),
        )
    }

    fn upstream_address(&mut self, key: &Key, written: &str) -> Option<UpstreamAddr> {
        if let Some(path) = written.strip_prefix("unix:") {
            if path.is_empty() {
                self.error(
                    key,
                    "the path of the socket is missing",
                    "write it behind `unix:`, such as `unix:/run/app.sock`",
                );
                return None;
            }
            return self.path(key, Some(path)).map(UpstreamAddr::Unix);
        }
        match http_address(written) {
            Ok(address) => Some(address),
            Err((message, help)) => {
                self.error(key, message, help);
                None
            }
        }
    }

    fn reject_status(&mut self, key: &Key, raw: Option<Count>) -> StatusCode {
        let Some(Count(status)) = raw else {
            return StatusCode::UNAUTHORIZED;
        };
        let allowed = (400..=499).contains(&status) && !NOT_A_REJECTION.contains(&status);
        match u16::try_from(status).map(StatusCode::from_u16) {
            Ok(Ok(code)) if allowed => code,
            _ => {
                let taken: Vec<_> = NOT_A_REJECTION.iter().map(u64::to_string).collect();
                self.error(
                    key,
                    format!("{status} cannot stand for a failed signature"),
                    format!(
                        "write a status from 400 to 499, but not {}: they say something else",
                        taken.join(", ")
                    ),
                );
                StatusCode::UNAUTHORIZED
            }
        }
    }
}

/// Whether a lower-case text is a DNS name or an IPv4 address, without a final dot.
pub(super) fn is_dns_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
        })
}

/// Why a path pattern is refused. What no request that we accept can hold would never match.
fn path_fault(written: &str) -> Option<(&'static str, &'static str)> {
    let Some(path) = written.strip_prefix('/') else {
        return Some((
            "it does not begin with `/`",
            "write it such as `/webhooks/cases`",
        ));
    };
    let lower = written.to_ascii_lowercase();
    let path = path.strip_suffix('*').unwrap_or(path);
    if path.contains('*') || (written.ends_with('*') && !written.ends_with("/*")) {
        return Some((
            "`*` may only stand at its end, behind a `/`",
            "write it such as `/webhooks/*`",
        ));
    }
    if path.chars().any(|c| !c.is_ascii_graphic()) {
        return Some((
            "it holds a blank or a character outside ASCII",
            "write it as it stands in the request line, with `%` escapes",
        ));
    }
    if path.contains(['?', '#']) {
        return Some((
            "it holds a `?` or `#`",
            "write the path only: queries do not choose a route",
        ));
    }
    if path.contains(['\\', ';']) {
        return Some((
            "it holds a `\\` or `;`, which servers read in different ways",
            "choose a path without it",
        ));
    }
    if ["%2f", "%2e", "%5c", "%00"]
        .iter()
        .any(|escape| lower.contains(escape))
    {
        return Some((
            "it holds an escaped `/`, `.`, `\\` or zero byte, which servers read in different ways",
            "choose a path without it",
        ));
    }
    let escapes = lower.split('%').skip(1);
    if escapes
        .map(str::as_bytes)
        .any(|rest| rest.len() < 2 || !rest[..2].iter().all(u8::is_ascii_hexdigit))
    {
        return Some((
            "a `%` is not followed by two hex digits",
            "write a percent sign as `%25`",
        ));
    }
    if path
        .split('/')
        .any(|segment| segment == "." || segment == "..")
    {
        return Some((
            "it holds a `.` or `..` segment",
            "write the path that it leads to",
        ));
    }
    if written.contains("//") {
        return Some(("it holds an empty segment, `//`", "write single slashes"));
    }
    None
}

/// Reads `http://host:port` or `https://host:port`. Errors never repeat the text: it may hold a password.
fn http_address(written: &str) -> Result<UpstreamAddr, (&'static str, String)> {
    let example = || {
        "write it such as `http://127.0.0.1:3000`, `https://app.internal` or `unix:/run/app.sock`"
            .to_owned()
    };
    let lower = written.to_ascii_lowercase();
    let (tls, rest) = match lower.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        Some(_) => {
            return Err((
                "an upstream is reached by http, https or a Unix socket",
                example(),
            ));
        }
        None => {
            let help = match split_authority(&lower, 80) {
                Some(_) if !betrays_a_secret("", written) && lower.contains(':') => {
                    format!("did you mean `http://{lower}`?")
                }
                _ => example(),
            };
            return Err(("this upstream does not say how it is reached", help));
        }
    };
    if rest.contains('@') {
        return Err((
            "an upstream's address may not hold a user or password",
            "remove what stands before `@`: requests go on with the headers that they came with"
                .to_owned(),
        ));
    }
    if rest.contains(['?', '#']) {
        return Err((
            "an upstream's address has no query",
            "write scheme, host and port only".to_owned(),
        ));
    }
    let authority = match rest.split_once('/') {
        None => rest,
        Some((authority, "")) => authority,
        Some(_) => {
            return Err((
                "an upstream's address has no path",
                "write scheme, host and port only: the target is forwarded as it was received"
                    .to_owned(),
            ));
        }
    };
    let (host, port) = split_authority(authority, if tls { 443 } else { 80 })
        .ok_or_else(|| ("this upstream has no valid host and port", example()))?;
    Ok(if tls {
        UpstreamAddr::Https { host, port }
    } else {
        UpstreamAddr::Http { host, port }
    })
}

/// Splits `host`, `host:port`, `[v6]` and `[v6]:port`.
pub(super) fn split_authority(authority: &str, port_default: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            match host.parse() {
                Ok(IpAddr::V6(_)) => {}
                _ => return None,
            }
            (host, port)
        }
        None => {
            let colon = authority.find(':').unwrap_or(authority.len());
            let (host, port) = authority.split_at(colon);
            if !is_dns_name(host) {
                return None;
            }
            (host, port)
        }
    };
    let port = match port {
        "" => port_default,
        port => port
            .strip_prefix(':')?
            .parse()
            .ok()
            .filter(|port| *port > 0)?,
    };
    Some((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_upstream_addresses() {
        for (text, want) in [
            ("http://127.0.0.1:3000", Some(("127.0.0.1", 3000, false))),
            ("http://app", Some(("app", 80, false))),
            ("HTTPS://App.Internal/", Some(("app.internal", 443, true))),
            ("https://[::1]:8443", Some(("::1", 8443, true))),
            ("http://[::1]", Some(("::1", 80, false))),
            ("http://", None),
            ("http://:80", None),
            ("http://a:", None),
            ("http://a:0", None),
            ("http://a:70000", None),
            ("http://a b", None),
            ("http://::1", None),
            ("http://[127.0.0.1]", None),
            ("http://user@app", None),
            ("http://app/x", None),
            ("http://app?x", None),
            ("http://app#x", None),
            ("ftp://app", None),
            ("app:3000", None),
        ] {
            let read = http_address(text).ok();
            let want = want.map(|(host, port, tls)| {
                let host = host.to_owned();
                if tls {
                    UpstreamAddr::Https { host, port }
                } else {
                    UpstreamAddr::Http { host, port }
                }
            });
            assert_eq!(read, want, "{text}");
        }
    }

    #[test]
    fn refuses_paths_that_could_never_match_or_match_two_ways() {
        for good in [
            "/", "/*", "/a", "/a/", "/a/*", "/a/b.c", "/%41", "/a:b", "/..a",
        ] {
            assert_eq!(path_fault(good), None, "{good}");
        }
        for bad in [
            "", "a", "*", "/a*", "/*/a", "/**", "/a b", "/ä", "/a?b", "/a#b", "/a\\b", "/a;b",
            "/a%2Fb", "/%2e", "/%5C", "/%00", "/%4", "/%zz", "/.", "/../a", "/a/./b", "//",
            "/a//b", "/a//*",
        ] {
            assert!(path_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn tells_host_names() {
        for good in ["a", "a.b", "hooks.example.org", "127.0.0.1", "a_b.c"] {
            assert!(is_dns_name(good), "{good}");
        }
        for bad in [
            "", ".", "a.", ".a", "a..b", "-a", "a-", "A", "a:1", "*.a", "a b",
        ] {
            assert!(!is_dns_name(bad), "{bad}");
        }
    }
}
