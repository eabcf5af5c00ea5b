//! One document from a key server: name, address, TLS, one request, one bounded answer.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, uri::Scheme as UriScheme,
};
use jiff::fmt::rfc2822::DateTimeParser;
use rustls::{ClientConfig, RootCertStore};
use tokio::{net::lookup_host, time::timeout};

use super::address::is_public;
use crate::{
    config::{FetchConfig, UpstreamAddr, UpstreamConfig, UpstreamProtocol},
    pem,
    scheme::KeyRequest,
    upstream::{Health, SendError, Upstream},
};

/// Key documents are a few kilobytes.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// How many addresses of a name are tried.
const ADDRESSES_MAX: usize = 4;

/// How long a document is fresh if its server does not say.
const FRESH_UNSAID: Duration = Duration::from_secs(3600);

/// What came back.
pub(super) struct Fetched {
    pub(super) body: Bytes,
    /// For how long it is fresh, by the word of its server.
    pub(super) fresh: Duration,
}

/// Why a document cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("its address is not `https://`, a host and a path")]
    Address,
    #[error("its host has no address")]
    Unresolved(#[source] Option<io::Error>),
    #[error(
        "its host is at {0}, which is no public address; if that is meant, name it in fetch.resolve"
    )]
    Private(IpAddr),
    #[error("its server cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("its server gave no valid answer")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("its server took longer than fetch.timeout")]
    Timeout,
    #[error("its server answered with a redirection, {0}, and none is followed")]
    Redirect(StatusCode),
    #[error("its server answered {0}")]
    Status(StatusCode),
    /// The server knows no such document.
    #[error("there is none: its server answered {0}")]
    Absent(StatusCode),
    #[error("too many keys were asked for lately on this route")]
    Limited,
    #[error("the fetch was dropped")]
    Dropped,
}

impl FetchError {
    /// The label in metrics: a closed set.
    pub(super) fn result(&self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Unresolved(_) => "unresolved",
            Self::Private(_) => "private_address",
            Self::Unreachable(_) => "unreachable",
            Self::Broken(_) | Self::Dropped => "broken",
            Self::Timeout => "timeout",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::Absent(_) => "absent",
            Self::Limited => "limited",
        }
    }
}

/// Asks key servers.
pub(super) struct Client {
    tls: Arc<ClientConfig>,
    roots: RootCertStore,
    resolve: BTreeMap<String, SocketAddr>,
    timeout: Duration,
}

impl Client {
    /// Makes it ready; connects to nothing. Blocks on the file system.
    ///
    /// # Errors
    /// If there is no authority to trust.
    pub(super) fn new(config: &FetchConfig) -> anyhow::Result<Self> {
        let roots = authorities(config)?;
        let mut tls = ClientConfig::builder()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            tls: Arc::new(tls),
            roots,
            resolve: config.resolve.clone(),
            timeout: config.timeout,
        })
    }

    /// Authorities that key servers, and certificates among their documents, are signed by.
    pub(super) fn roots(&self) -> &RootCertStore {
        &self.roots
    }

    /// Gets a document, within the time for it.
    pub(super) async fn get(&self, wanted: &KeyRequest) -> Result<Fetched, FetchError> {
        timeout(self.timeout, self.get_unlimited(wanted))
            .await
            .unwrap_or(Err(FetchError::Timeout))
    }

    async fn get_unlimited(&self, wanted: &KeyRequest) -> Result<Fetched, FetchError> {
        let url: Uri = wanted.url.parse().map_err(|_| FetchError::Address)?;
        let authority = url
            .authority()
            .filter(|authority| {
                url.scheme() == Some(&UriScheme::HTTPS) && !authority.as_str().contains('@')
            })
            .ok_or(FetchError::Address)?;
        let host = authority.host().trim_matches(['[', ']']);
        let addresses = self.addresses(host, url.port_u16().unwrap_or(443)).await?;
        // The name was looked up and judged; from here on only these addresses count.
        let upstream = UpstreamConfig {
            addresses: addresses
                .iter()
                .map(|address| UpstreamAddr::Https {
                    host: address.ip().to_string(),
                    port: address.port(),
                })
                .collect(),
            protocol: UpstreamProtocol::Http1,
            ca: None,
            client_certificate: None,
            server_name: Some(host.to_owned()),
            // An address that swallows packets leaves time for another.
            connect_timeout: self.timeout / 2,
            connect_retry: Duration::ZERO,
            // The limit for the whole comes first.
            timeout: 2 * self.timeout,
            read_timeout: 2 * self.timeout,
            keep_alive: Duration::ZERO,
            idle_connections: 0,
            max_fails: 0,
        };
        let upstream =
            Upstream::with_tls(&upstream, Some(self.tls.clone()), |_| Health::unwatched())
                .map_err(|_| FetchError::Address)?;
        let answer = upstream
            .exchange(message(wanted, &url)?, DOCUMENT_BYTES_MAX)
            .await
            .map_err(|error| match error {
                SendError::Unreachable(error) => FetchError::Unreachable(error),
                SendError::Broken(error) => FetchError::Broken(error),
                SendError::Timeout => FetchError::Timeout,
            })?;
        match answer.status() {
            StatusCode::OK => Ok(Fetched {
                fresh: freshness(answer.headers()),
                body: answer.into_body(),
            }),
            status @ (StatusCode::NOT_FOUND | StatusCode::GONE) => Err(FetchError::Absent(status)),
            status if status.is_redirection() => Err(FetchError::Redirect(status)),
            status => Err(FetchError::Status(status)),
        }
    }

    /// Where to connect: the operator's word, or the public addresses that the name has.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, FetchError> {
        if let Some(address) = self.resolve.get(host) {
            return Ok(vec![*address]);
        }
        let found: Vec<_> = lookup_host((host, port))
            .await
            .map_err(|error| FetchError::Unresolved(Some(error)))?
            .collect();
        let public: Vec<_> = found
            .iter()
            .filter(|address| is_public(address.ip()))
            .take(ADDRESSES_MAX)
            .copied()
            .collect();
        match (public.is_empty(), found.first()) {
            (false, _) => Ok(public),
            (true, Some(private)) => Err(FetchError::Private(private.ip())),
            (true, None) => Err(FetchError::Unresolved(None)),
        }
    }
}

/// The system's authorities and the operator's.
fn authorities(config: &FetchConfig) -> anyhow::Result<RootCertStore> {
    let mut roots = match &config.ca {
        Some(path) => pem::authorities(path).context("fetch.ca")?,
        None => RootCertStore::empty(),
    };
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        bail!(
            "the system has no certificate authorities, so no key can be fetched; install them, or name some in fetch.ca"
        );
    }
    Ok(roots)
}

fn message(wanted: &KeyRequest, url: &Uri) -> Result<Request<Bytes>, FetchError> {
    let body = wanted.post.clone().unwrap_or_default();
    let mut message = Request::new(Bytes::from(body));
    let target = url.path_and_query().cloned();
    *message.uri_mut() = target.map_or(Uri::from_static("/"), Uri::from);
    let host = url.authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(host).map_err(|_| FetchError::Address)?;
    if wanted.post.is_some() {
        *message.method_mut() = Method::POST;
    }
    let length = wanted
        .post
        .as_ref()
        .map(|body| HeaderValue::from(body.len()));
    let headers = message.headers_mut();
    headers.insert(header::HOST, host);
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("countersign/", env!("CARGO_PKG_VERSION"))),
    );
    if let Some(length) = length {
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        headers.insert(header::CONTENT_LENGTH, length);
    }
    for (name, value) in &wanted.headers {
        let mut value = HeaderValue::from_str(value).map_err(|_| FetchError::Address)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(message)
}

/// How long an answer is fresh, by its own word (RFC 9111, 4.2.1).
fn freshness(headers: &HeaderMap) -> Duration {
    let directives: Vec<String> = headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|directive| directive.trim().to_ascii_lowercase())
        .collect();
    let has = |word: &str| directives.iter().any(|directive| directive == word);
    if has("no-store") || has("no-cache") {
        return Duration::ZERO;
    }
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    let max_age = directives
        .iter()
        .find_map(|directive| directive.strip_prefix("max-age="));
    if let Some(written) = max_age {
        let seconds = |written: &str| written.trim_matches('"').parse::<u32>().ok();
        let age = text(header::AGE).and_then(seconds).unwrap_or(0);
        // What cannot be read counts as stale.
        let left = seconds(written).unwrap_or(0).saturating_sub(age);
        return Duration::from_secs(left.into());
    }
    let date = |name| DateTimeParser::new().parse_timestamp(text(name)?).ok();
    match (
        text(header::EXPIRES),
        date(header::EXPIRES),
        date(header::DATE),
    ) {
        (Some(_), Some(expires), Some(now)) => {
            let left = expires.as_second().saturating_sub(now.as_second());
            Duration::from_secs(u64::try_from(left).unwrap_or(0))
        }
        (Some(_), None, _) => Duration::ZERO,
        _ => FRESH_UNSAID,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_how_long_an_answer_is_fresh() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        for (fields, want) in [
            (&[("cache-control", "max-age=60")][..], 60),
            (&[("cache-control", "public, Max-Age=\"60\"")], 60),
            (&[("cache-control", "max-age=60"), ("age", "45")], 15),
            (&[("cache-control", "max-age=60"), ("age", "61")], 0),
            (&[("cache-control", "max-age=x")], 0),
            (&[("cache-control", "max-age=60, no-cache")], 0),
            (&[("cache-control", "no-store")], 0),
            (&[("expires", "Sun, 06 Nov 1994 08:50:37 GMT"), date], 60),
            (&[("expires", "Sun, 06 Nov 1994 08:48:37 GMT"), date], 0),
            (&[("expires", "0"), date], 0),
            (&[("expires", "Sun, 06 Nov 1994 08:50:37 GMT")], 3600),
            (
                &[
                    ("expires", "Sun, 06 Nov 1994 08:50:37 GMT"),
                    date,
                    ("cache-control", "max-age=7"),
                ],
                7,
            ),
            (&[], 3600),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(freshness(&headers).as_secs(), want, "{fields:?}");
        }
    }
}
