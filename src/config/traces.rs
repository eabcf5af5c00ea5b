//! `[traces]`, and a route's `trace`.

use http::HeaderName;

use super::{
    RouteConfig, TracesConfig, UpstreamAddr,
    check::{Checker, Key},
    layers::Origin,
    raw::{Ratio, RawHeader, RawTraces},
    redis::is_loopback,
    route::split_authority,
};
use crate::secret::SecretSource;

/// What the address of a collector means without a path.
const PATH: &str = "/v1/traces";

const EXAMPLE: &str =
    "write the collector's address for OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`";

/// Headers that the exporter writes itself.
const OWN_HEADERS: [&str; 5] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
];

/// What `endpoint` says.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    address: UpstreamAddr,
    authority: String,
    path: String,
}

impl Checker<'_> {
    pub(super) fn traces(&mut self, raw: &RawTraces) -> Option<TracesConfig> {
        let table = Key::of(&["traces"]);
        let key = table.at("endpoint");
        let endpoint = match raw.endpoint.as_deref().map(endpoint) {
            None => None,
            Some(Ok(endpoint)) => Some(endpoint),
            Some(Err((message, help))) => {
                self.error(&key, message, help);
                None
            }
        };
        if endpoint.is_some() && cfg!(not(feature = "otlp")) {
            self.error(
                &key,
                "this binary was built without traces",
                "remove `endpoint`, or use a binary that was built with the feature `otlp`",
            );
        }
        let ratio = self.ratio(&table.at("ratio"), raw.ratio);
        let service = raw.service.clone().unwrap_or_default();
        if raw.service.is_some() && service.is_empty() {
            self.error(
                &table.at("service"),
                "`service` is empty",
                "write what this gateway is called in traces, or remove this key",
            );
        }
        let headers = self.trace_headers(&table.at("headers"), raw.headers.as_deref());
        let ca = self.path(&table.at("ca"), raw.ca.as_deref());
        let timeout = self.duration(&table.at("timeout"), raw.timeout.as_ref());
        let written = |name: &&str| self.origin(&table.at(name)) != Origin::Default;
        let names = ["ratio", "service", "headers", "ca", "timeout"];
        if !self.given(&key)
            && let Some(name) = names
                .iter()
                .find(|name| self.given(&table.at(name)) && written(name))
        {
            self.warning(
                &table.at(name),
                "nothing is traced: `[traces]` has no `endpoint`",
                EXAMPLE,
            );
        }
        let Endpoint {
            address,
            authority,
            path,
        } = endpoint?;
        match &address {
            UpstreamAddr::Http { host, .. } if ca.is_some() => self.error(
                &table.at("ca"),
                format!("`ca` has a meaning only with TLS, and `{host}` is asked without"),
                "write `https://` in `endpoint`, or remove this key",
            ),
            UpstreamAddr::Http { host, .. } if !headers.is_empty() && !is_loopback(host) => self
                .warning(
                    &key,
                    "the collector is asked without TLS: whoever is on the way can read what `headers` shows it",
                    "write `https://`, or make sure that nobody else is on that network",
                ),
            UpstreamAddr::Http { .. } | UpstreamAddr::Https { .. } | UpstreamAddr::Unix(_) => {}
        }
        Some(TracesConfig {
            address,
            authority,
            path,
            ratio,
            service,
            headers,
            ca,
            timeout,
        })
    }

    fn ratio(&mut self, key: &Key, raw: Option<Ratio>) -> f64 {
        let Some(Ratio(ratio)) = raw else { return 0.0 };
        if !(0.0..=1.0).contains(&ratio) {
            self.error(
                key,
                format!("{ratio} is out of range for `ratio`"),
                "write a number from 0, for none, to 1, for all, such as 0.1",
            );
        }
        ratio
    }

    fn trace_headers(
        &mut self,
        list: &Key,
        raw: Option<&[RawHeader]>,
    ) -> Vec<(HeaderName, SecretSource)> {
        let mut headers = Vec::new();
        for (i, header) in raw.into_iter().flatten().enumerate() {
            let entry = list.at(i);
            let key = entry.at("name");
            let written = self.required(&key, header.name.as_deref(), "\"authorization\"");
            let name = written.and_then(|written| {
                let name = HeaderName::from_bytes(written.as_bytes()).ok();
                let name = name.filter(|name| !OWN_HEADERS.contains(&name.as_str()));
                if name.is_none() {
                    self.error(
                        &key,
                        format!("{written:?} cannot be a header for the collector"),
                        "write the name that the collector's documentation gives, such as `authorization`",
                    );
                }
                name
            });
            let source = self.secret_source(
                &entry,
                header.file.as_deref(),
                header.env.as_deref(),
                header.credential.as_deref(),
            );
            headers.extend(name.zip(source));
        }
        headers
    }

    /// Whether a route continues the sender's trace.
    pub(super) fn trace(&mut self, key: &Key, raw: Option<&str>) -> bool {
        let words = [("new", false), ("continue", true)];
        self.choice(key, raw, &words).unwrap_or(false)
    }

    /// A route that continues traces where there are none was most likely not meant so.
    pub(super) fn traces_something(
        &mut self,
        traces: Option<&TracesConfig>,
        routes: &[RouteConfig],
    ) {
        if traces.is_some() || self.given(&Key::of(&["traces", "endpoint"])) {
            return;
        }
        for (i, route) in routes.iter().enumerate() {
            if route.continues_trace {
                self.warning(
                    &Key::of(&["route"]).at(i).at("trace"),
                    "nothing is traced: `[traces]` has no `endpoint`; the sender's headers pass as they are",
                    EXAMPLE,
                );
            }
        }
    }
}

/// Reads the address of a collector. Errors never repeat the text: it may hold a password or token.
fn endpoint(written: &str) -> Result<Endpoint, (&'static str, &'static str)> {
    let lower = written.to_ascii_lowercase();
    let (tls, rest) = if lower.starts_with("http://") {
        (false, &written["http://".len()..])
    } else if lower.starts_with("https://") {
        (true, &written["https://".len()..])
    } else {
        return Err(("this is not the address of a collector", EXAMPLE));
    };
    if rest.contains('@') {
        return Err((
            "the address of a collector may not hold a user or password",
            "remove what stands before `@`, and write `headers = [{ name = \"authorization\", file = \"…\" }]`",
        ));
    }
    if rest.contains(['?', '#']) {
        return Err((
            "the address of a collector has no query",
            "write scheme, host, port and path only; tokens belong into `headers`",
        ));
    }
    let (authority, path) = match rest.find('/') {
        None => (rest, PATH),
        Some(slash) if slash + 1 == rest.len() => (&rest[..slash], PATH),
        Some(slash) => rest.split_at(slash),
    };
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(("this collector has no valid path", EXAMPLE));
    }
    let authority = authority.to_ascii_lowercase();
    let (host, port) = split_authority(&authority, if tls { 443 } else { 80 })
        .ok_or(("this collector has no valid host and port", EXAMPLE))?;
    Ok(Endpoint {
        address: if tls {
            UpstreamAddr::Https { host, port }
        } else {
            UpstreamAddr::Http { host, port }
        },
        authority,
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_of_collectors() {
        for (text, tls, host, port, authority, path) in [
            (
                "http://127.0.0.1:4318",
                false,
                "127.0.0.1",
                4318,
                "127.0.0.1:4318",
                PATH,
            ),
            (
                "http://Collector:4318/",
                false,
                "collector",
                4318,
                "collector:4318",
                PATH,
            ),
            (
                "https://otlp.example.org/v1/traces",
                true,
                "otlp.example.org",
                443,
                "otlp.example.org",
                PATH,
            ),
            ("HTTPS://a:1/X/Y", true, "a", 1, "a:1", "/X/Y"),
            (
                "http://[::1]:4318/v1/traces",
                false,
                "::1",
                4318,
                "[::1]:4318",
                PATH,
            ),
        ] {
            let host = host.to_owned();
            let want = Endpoint {
                address: match tls {
                    true => UpstreamAddr::Https { host, port },
                    false => UpstreamAddr::Http { host, port },
                },
                authority: authority.into(),
                path: path.into(),
            };
            assert_eq!(endpoint(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_address_of_a_collector_and_repeats_none_of_it() {
        for text in [
            "",
            "127.0.0.1:4318",
            "grpc://collector:4317",
            "http://",
            "http:///v1/traces",
            "https://user:hunter2@collector",
            "https://collector/v1/traces?token=hunter2",
            "https://collector#hunter2",
            "https://collector:0",
            "https://collector/a b",
        ] {
            let (message, help) = endpoint(text).expect_err(text);
            assert!(!format!("{message}{help}").contains("hunter2"), "{text}");
        }
    }
}
