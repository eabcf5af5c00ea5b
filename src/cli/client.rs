//! A small sender, made of the gateway's own upstream side: for `send`, `health` and `demo`.

use std::{fmt, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};

use super::{Failure, draft::Draft};
use crate::{
    config::{UpstreamAddr, UpstreamConfig, UpstreamProtocol},
    reject::Chain,
    upstream::{Health, SendError, SharedTls, Upstream},
};

/// Answers longer than this are not worth printing.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Sends one request to the server of a URL (`http://`, `https://`).
pub(super) async fn request(
    url: &Uri,
    ca: Option<PathBuf>,
    draft: Draft,
) -> Result<Answer, Failure> {
    let Draft {
        method,
        target,
        mut headers,
        body,
        ..
    } = draft;
    let usage = |text: &str| Failure::Usage(format!("{url}: {text}"));
    let authority = url
        .authority()
        .ok_or_else(|| usage("is not a URL; write it like https://hooks.example.org/path"))?;
    if authority.as_str().contains('@') {
        return Err(usage("holds user information, which nobody would read"));
    }
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let address = match url.scheme_str() {
        Some("http") => UpstreamAddr::Http {
            host,
            port: url.port_u16().unwrap_or(80),
        },
        Some("https") => UpstreamAddr::Https {
            host,
            port: url.port_u16().unwrap_or(443),
        },
        _ => return Err(usage("is neither http:// nor https://")),
    };
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| usage("names no host"))?;
    headers.entry(header::HOST).or_insert(host);
    let mut message = Request::new(Bytes::from(body));
    *message.method_mut() = method;
    *message.uri_mut() = target
        .parse()
        .map_err(|_| usage("the signed target cannot be sent"))?;
    *message.headers_mut() = headers;
    send(url, address, ca, message).await
}

/// Asks a server on a Unix socket for a target.
pub(super) async fn get_unix(path: PathBuf, target: &'static str) -> Result<Answer, Failure> {
    let mut message = Request::new(Bytes::new());
    *message.uri_mut() = Uri::from_static(target);
    let host = HeaderValue::from_static("localhost");
    message.headers_mut().insert(header::HOST, host);
    let address = UpstreamAddr::Unix(path);
    send(&address.clone(), address, None, message).await
}

/// Sends one request; `place` is what errors begin with.
async fn send(
    place: &impl fmt::Display,
    address: UpstreamAddr,
    ca: Option<PathBuf>,
    message: Request<Bytes>,
) -> Result<Answer, Failure> {
    let upstream = Upstream::new(
        &UpstreamConfig {
            addresses: vec![address],
            protocol: UpstreamProtocol::Auto,
            ca,
            client_certificate: None,
            server_name: None,
            connect_timeout: Duration::from_secs(10),
            connect_retry: Duration::ZERO,
            timeout: Duration::from_secs(60),
            read_timeout: Duration::from_secs(60),
            keep_alive: Duration::ZERO,
            idle_connections: 0,
            max_fails: 0,
        },
        &mut SharedTls::default(),
        |_| Health::unwatched(),
    )
    .map_err(|error| Failure::Usage(Chain(error.as_ref()).to_string()))?;
    let exchanged = upstream.exchange(message, ANSWER_BYTES_MAX).await;
    let (parts, body) = exchanged
        .map_err(|error| {
            let text = match error {
                SendError::Unreachable(error) => format!("cannot connect: {error}"),
                SendError::Broken(error) => format!("no valid answer: {}", Chain(&*error)),
                SendError::Timeout => "no answer in time".to_owned(),
            };
            Failure::Internal(anyhow::anyhow!("{place}: {text}"))
        })?
        .into_parts();
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    })
}
