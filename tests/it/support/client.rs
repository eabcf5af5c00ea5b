//! Senders: raw HTTP/1.1 over [`Wire`], and hyper for HTTP/1.1 and HTTP/2.

use std::{io, sync::Arc};

use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ALL_VERSIONS, ClientConfig, SupportedProtocolVersion, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use super::{
    PATIENCE,
    delivery::{Delivery, Pieces},
    runtime, tls,
    tls::Identity,
    wire::{Address, Answer, Fields, Socket, Wire},
};

/// Where a sender connects, and whether TLS is spoken there.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) address: Address,
    pub(crate) tls: bool,
}

/// HTTP version of a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// What a sender says in its TLS handshake.
#[derive(Clone)]
pub(crate) struct Hello<'a> {
    pub(crate) server_name: &'a str,
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) versions: &'a [&'static SupportedProtocolVersion],
}

impl Default for Hello<'_> {
    fn default() -> Self {
        Self {
            server_name: tls::HOST,
            identity: None,
            versions: ALL_VERSIONS,
        }
    }
}

impl Hello<'_> {
    fn config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        tls::authority().client(alpn, self.identity, self.versions)
    }
}

/// Opens a connection for bytes of the test's choice.
pub(crate) fn raw(door: &Door) -> Wire {
    raw_with(door, &Hello::default()).unwrap()
}

/// Opens connections that each send the beginning of a head.
pub(crate) fn half_heads(door: &Door, count: usize) -> Vec<Wire> {
    (0..count)
        .map(|_| {
            let mut wire = raw(door);
            wire.send(b"POST /hooks HTTP/1.1\r\nHost: a.example\r\nx: ")
                .unwrap();
            wire
        })
        .collect()
}

/// Opens a connection for bytes of the test's choice, with a TLS handshake of its choice.
pub(crate) fn raw_with(door: &Door, hello: &Hello<'_>) -> io::Result<Wire> {
    raw_for("http/1.1", door, hello)
}

/// Opens a connection for bytes of HTTP/2.
pub(crate) fn raw_http2(door: &Door) -> Wire {
    raw_for("h2", door, &Hello::default()).unwrap()
}

fn raw_for(alpn: &str, door: &Door, hello: &Hello<'_>) -> io::Result<Wire> {
    let socket = Socket::connect(&door.address, PATIENCE)?;
    match door.tls {
        false => Wire::plain(socket),
        true => Wire::tls_client(socket, hello.config(&[alpn]), hello.server_name),
    }
}

/// Sends one request as HTTP/1.1 bytes, spelled as given, on a fresh connection.
pub(crate) fn send_raw(door: &Door, delivery: &Delivery) -> Answer {
    let mut wire = raw(door);
    // A refusal may come, and the connection close, before all is written: the answer is what counts.
    let _ = wire.send(&delivery.raw());
    wire.answer(&delivery.method).unwrap()
}

/// A connection of a hyper client.
pub(crate) struct Client {
    sender: Sender,
    scheme: &'static str,
}

enum Sender {
    Http1(http1::SendRequest<Pieces>),
    Http2(http2::SendRequest<Pieces>),
}

impl Client {
    /// Connects; waits for the handshakes.
    pub(crate) fn connect(door: &Door, protocol: Protocol) -> Self {
        super::within(
            PATIENCE,
            Self::connect_with(door, protocol, &Hello::default()),
        )
        .unwrap()
    }

    /// Connects, with a TLS handshake of the test's choice.
    pub(crate) async fn connect_with(
        door: &Door,
        protocol: Protocol,
        hello: &Hello<'_>,
    ) -> io::Result<Self> {
        match (&door.address, door.tls) {
            (Address::Tcp(address), false) => {
                Self::over(connect_tcp(*address).await?, protocol, "http").await
            }
            (Address::Tcp(address), true) => {
                let stream = encrypt(connect_tcp(*address).await?, protocol, hello).await?;
                Self::over(stream, protocol, "https").await
            }
            (Address::Unix(path), false) => {
                Self::over(UnixStream::connect(path).await?, protocol, "http").await
            }
            (Address::Unix(path), true) => {
                let stream = encrypt(UnixStream::connect(path).await?, protocol, hello).await?;
                Self::over(stream, protocol, "https").await
            }
        }
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        protocol: Protocol,
        scheme: &'static str,
    ) -> io::Result<Self> {
        let stream = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) =
                    http1::handshake(stream).await.map_err(io::Error::other)?;
                runtime().spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
                    .await
                    .map_err(io::Error::other)?;
                runtime().spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self { sender, scheme })
    }

    /// Sends a request and reads the whole answer.
    pub(crate) fn send(&mut self, delivery: &Delivery) -> Answer {
        super::within(2 * PATIENCE, self.deliver(delivery)).unwrap()
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn deliver(&mut self, delivery: &Delivery) -> Result<Answer, hyper::Error> {
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(delivery.request(None)).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender
                    .send_request(delivery.request(Some(self.scheme)))
                    .await?
            }
        };
        collect(response).await
    }
}

async fn collect(response: http::Response<Incoming>) -> Result<Answer, hyper::Error> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().map(fields).unwrap_or_default();
    Ok(Answer {
        status: parts.status.as_u16(),
        fields: fields(&parts.headers),
        body: body.to_bytes().into(),
        trailers,
        interim: Vec::new(),
    })
}

fn fields(headers: &http::HeaderMap) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in headers {
        fields.push(name.as_str(), value.as_bytes());
    }
    fields
}

async fn connect_tcp(address: std::net::SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn encrypt<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    protocol: Protocol,
    hello: &Hello<'_>,
) -> io::Result<tokio_rustls::client::TlsStream<S>> {
    let alpn = match protocol {
        Protocol::Http1 => "http/1.1",
        Protocol::Http2 => "h2",
    };
    let name = ServerName::try_from(hello.server_name.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(hello.config(&[alpn]))
        .connect(name, stream)
        .await?;
    let chosen = stream.get_ref().1.alpn_protocol();
    if chosen != Some(alpn.as_bytes()) {
        return Err(io::Error::other(format!(
            "ALPN chose {chosen:?}, not {alpn}"
        )));
    }
    Ok(stream)
}
