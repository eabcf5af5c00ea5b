//! How the authority is spoken to: HTTPS, one request at a time, bounded in time and size.

use std::{future::Future, path::PathBuf, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::{
    config::{UpstreamAddr, UpstreamConfig, UpstreamProtocol},
    upstream::{Health, SendError, SharedTls, Upstream},
};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// A chain is a few kilobytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Asks the authority.
pub(super) struct Client {
    /// Authorities to trust instead of the system's.
    pub(super) ca: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0} is not an `https://` address")]
    Address(Uri),
    #[error("{0} cannot be reached")]
    Unreachable(Uri, #[source] std::io::Error),
    #[error("{0} gave no valid answer")]
    Broken(Uri, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0} gave no answer in time")]
    Timeout(Uri),
    #[error("the client cannot be made ready: {0}")]
    Unready(String),
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let ca = self.ca.clone();
        Box::pin(async move {
            send(ca, request)
                .await
                .map_err(|fault| Error::Other(fault.into()))
        })
    }
}

async fn send(
    ca: Option<PathBuf>,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Fault> {
    let (mut head, body) = request.into_parts();
    let url = head.uri.clone();
    // It has no error to give: the text stands in memory.
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(never) => match never {},
    };
    let authority = url
        .authority()
        .filter(|at| url.scheme_str() == Some("https") && !at.as_str().contains('@'))
        .ok_or_else(|| Fault::Address(url.clone()))?;
    let host = HeaderValue::from_str(authority.as_str());
    let host = host.map_err(|_| Fault::Address(url.clone()))?;
    head.headers.insert(header::HOST, host);
    if !body.is_empty() {
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    head.uri = url
        .path_and_query()
        .cloned()
        .map_or(Uri::from_static("/"), Uri::from);
    let config = UpstreamConfig {
        addresses: vec![UpstreamAddr::Https {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: url.port_u16().unwrap_or(443),
        }],
        protocol: UpstreamProtocol::Http1,
        ca,
        client_certificate: None,
        server_name: None,
        connect_timeout: CONNECT_TIME_MAX,
        connect_retry: Duration::ZERO,
        timeout: ANSWER_TIME_MAX,
        read_timeout: ANSWER_TIME_MAX,
        keep_alive: Duration::ZERO,
        idle_connections: 0,
        max_fails: 0,
    };
    let upstream = Upstream::new(&config, &mut SharedTls::default(), |_| Health::unwatched())
        .map_err(|error| Fault::Unready(crate::reject::Chain(&*error).to_string()))?;
    let exchanged = upstream.exchange(Request::from_parts(head, body), ANSWER_BYTES_MAX);
    let answer = exchanged.await.map_err(|error| match error {
        SendError::Unreachable(error) => Fault::Unreachable(url, error),
        SendError::Broken(error) => Fault::Broken(url, error),
        SendError::Timeout => Fault::Timeout(url),
    })?;
    Ok(answer.map(Full::new).into())
}
