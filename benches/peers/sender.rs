//! A sender: one connection to a proxy, plaintext or TLS, that is opened again when the proxy closes it.

use std::{io, net::SocketAddr, pin::pin, sync::Arc};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use sha2::Sha256;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// What is sent, over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Signed: the upstream's 200 is wanted.
    Good,
    /// The signature of another body: 401.
    Wrong,
    /// No signature: 401, and nobody needs the body for that.
    Unsigned,
}

/// The bytes of a request, with more header lines, each ended.
pub(crate) fn request(kind: Kind, body: &[u8], secret: &[u8], more: &str) -> Vec<u8> {
    let length = body.len();
    let mut request = format!(
        "POST /webhooks/carevalidate HTTP/1.1\r\nHost: hooks.example.org\r\nContent-Type: application/json\r\nUser-Agent: bench\r\nAccept: */*\r\nContent-Length: {length}\r\n{more}"
    )
    .into_bytes();
    if kind != Kind::Unsigned {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length is a key");
        mac.update(body);
        if kind == Kind::Wrong {
            mac.update(b"and more");
        }
        let tag = HEXLOWER.encode(&mac.finalize().into_bytes());
        request.extend_from_slice(format!("x-cv-signature: {tag}\r\n").as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    request
}

/// Where the proxy is, and how to talk to it.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<TlsConnector>,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Proxy {
    /// A connection; with TLS, after a full handshake.
    pub(crate) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from("hooks.example.org").expect("a name");
                Box::new(tls.connect(name, stream).await?)
            }
        })
    }
}

/// TLS 1.3 in one way that every proxy here has: X25519, AES-256-GCM, no resumption. The certificate is not checked: that would cost
/// the sender more than the proxy, and prove nothing here.
pub(crate) fn tls() -> TlsConnector {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// An answer, and whether the proxy closes the connection after it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    closes: bool,
}

pub(crate) struct Sender {
    proxy: Proxy,
    stream: Option<Box<dyn Stream>>,
    buffer: Vec<u8>,
}

impl Sender {
    pub(crate) fn new(proxy: Proxy) -> Self {
        Self {
            proxy,
            stream: None,
            buffer: Vec::with_capacity(4096),
        }
    }

    /// Opens the connection, if there is none.
    pub(crate) async fn open(&mut self) -> io::Result<()> {
        self.stream().await.map(drop)
    }

    /// Sends a request whole, then reads the answer.
    pub(crate) async fn send(&mut self, request: &[u8]) -> io::Result<Answer> {
        let stream = self.stream().await?;
        stream.write_all(request).await?;
        stream.flush().await?;
        self.answer().await
    }

    /// Sends a request, but for its last byte.
    pub(crate) async fn begin(&mut self, request: &[u8]) -> io::Result<()> {
        let stream = self.stream().await?;
        stream.write_all(&request[..request.len() - 1]).await?;
        stream.flush().await
    }

    /// Sends that byte.
    pub(crate) async fn end(&mut self, request: &[u8]) -> io::Result<Answer> {
        let stream = self.stream().await?;
        stream.write_all(&request[request.len() - 1..]).await?;
        stream.flush().await?;
        self.answer().await
    }

    /// Sends a request that may be answered before it is whole: looks for an answer meanwhile, and hangs up when it is there. An error
    /// while writing counts as one, as with most HTTP clients.
    pub(crate) async fn send_watching(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream().await?;
        let stream = self.stream.take().expect("it was just put there");
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut writing = pin!(async {
            writer.write_all(request).await?;
            writer.flush().await
        });
        let mut written = false;
        self.buffer.clear();
        loop {
            tokio::select! {
                biased;
                read = reader.read_buf(&mut self.buffer) => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    if let Some(answer) = parse(&self.buffer)? {
                        return Ok(answer);
                    }
                }
                done = &mut writing, if !written => {
                    done?;
                    written = true;
                }
            }
        }
    }

    /// Drops the connection: the next request opens another.
    pub(crate) fn hang_up(&mut self) {
        self.stream = None;
    }

    async fn stream(&mut self) -> io::Result<&mut Box<dyn Stream>> {
        if self.stream.is_none() {
            self.stream = Some(self.proxy.connect().await?);
        }
        Ok(self.stream.as_mut().expect("it was just put there"))
    }

    async fn answer(&mut self) -> io::Result<Answer> {
        let stream = self.stream.as_mut().expect("a request was sent on it");
        self.buffer.clear();
        loop {
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(answer) = parse(&self.buffer)? {
                if answer.closes {
                    self.stream = None;
                }
                return Ok(answer);
            }
        }
    }
}

/// `None` if it is not whole yet.
fn parse(bytes: &[u8]) -> io::Result<Option<Answer>> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = response.parse(bytes).map_err(io::Error::other)?
    else {
        return Ok(None);
    };
    let value = |name: &str| {
        let mut fields = response.headers.iter();
        let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()
    };
    let body: usize = value("content-length")
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| io::Error::other("every answer here has a length"))?;
    let Some(body) = bytes.get(length..length + body) else {
        return Ok(None);
    };
    Ok(Some(Answer {
        status: response.code.unwrap_or(0),
        body: body.to_vec(),
        closes: value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
    }))
}
