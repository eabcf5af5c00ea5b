//! Opening a connection to an upstream: name, socket, TLS, HTTP.

use std::{io, sync::Arc, time::Duration};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    Link,
    http1::Http1,
    socket::{Socket, SocketWatch},
};
use crate::config::{UpstreamAddr, UpstreamConfig, UpstreamProtocol};

/// How far hyper reads ahead in a response, and how much of a request it takes over from the body at once; that stays charged to the
/// body budget. With less, a large body takes many more calls to the system.
const CONNECTION_BUFFER_BYTES: usize = 512 * 1024;

/// A busy HTTP/2 connection is asked this often whether it is alive, and given up after this long without an answer.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(15);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What connections to one address have in common.
pub(super) struct Connector {
    address: UpstreamAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    protocol: UpstreamProtocol,
    timeout: Duration,
}

impl Connector {
    /// # Errors
    /// If the server name is none.
    pub(super) fn new(
        address: &UpstreamAddr,
        config: &UpstreamConfig,
        tls: Option<&Arc<ClientConfig>>,
    ) -> io::Result<Self> {
        let tls = match (address, tls) {
            (UpstreamAddr::Https { host, .. }, Some(tls)) => {
                let name = config.server_name.as_ref().unwrap_or(host).clone();
                let name = ServerName::try_from(name)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                Some((TlsConnector::from(tls.clone()), name))
            }
            _ => None,
        };
        Ok(Self {
            address: address.clone(),
            tls,
            protocol: config.protocol,
            timeout: config.connect_timeout,
        })
    }

    /// Opens a connection, within the time for it.
    pub(super) async fn open(&self) -> io::Result<Link> {
        timeout(self.timeout, self.open_unlimited())
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "connecting took longer than connect_timeout",
                ))
            })
    }

    async fn open_unlimited(&self) -> io::Result<Link> {
        let socket = self.socket().await?;
        let watch = socket.watch();
        let Some((connector, name)) = &self.tls else {
            let http2 = self.protocol == UpstreamProtocol::Http2;
            return handshake(socket, watch, http2).await;
        };
        let stream = connector.connect(name.clone(), socket).await?;
        let http2 = match self.protocol {
            UpstreamProtocol::Auto => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
        };
        handshake(stream, watch, http2).await
    }

    async fn socket(&self) -> io::Result<Socket> {
        match &self.address {
            UpstreamAddr::Unix(path) => Ok(UnixStream::connect(path).await?.into()),
            UpstreamAddr::Http { host, port } | UpstreamAddr::Https { host, port } => {
                // Tries every address that the name has.
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
        }
    }
}

async fn handshake<T>(io: T, watch: SocketWatch, http2: bool) -> io::Result<Link>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let io = TokioIo::new(io);
    if http2 {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_send_buf_size(CONNECTION_BUFFER_BYTES)
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .keep_alive_timeout(HTTP2_PING_TIMEOUT)
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        drop(tokio::spawn(connection));
        Ok(Link::Http2(sender))
    } else {
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .max_buf_size(CONNECTION_BUFFER_BYTES)
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        Ok(Link::Http1(Box::new(Http1::new(sender, connection, watch))))
    }
}
