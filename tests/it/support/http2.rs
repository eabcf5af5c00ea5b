//! An HTTP/2 upstream: over TLS, or in plaintext by prior knowledge.

use std::{net::SocketAddr, ops::Deref, sync::Arc};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{
    recorder::{BODY_KEPT_MAX, Recorder, Seen},
    runtime,
    upstream::Response,
    wire::Fields,
};

type Answer = Arc<dyn Fn(&Seen) -> Response + Send + Sync>;

/// The running upstream; its [`Recorder`] says what it saw.
pub(crate) struct Http2Upstream {
    recorder: Arc<Recorder>,
    address: SocketAddr,
    https: bool,
    accepting: JoinHandle<()>,
    /// A change tells all connections to end.
    ending: watch::Sender<()>,
}

impl Deref for Http2Upstream {
    type Target = Recorder;

    fn deref(&self) -> &Recorder {
        &self.recorder
    }
}

impl Http2Upstream {
    /// Listens on a free port of 127.0.0.1. Only status, header fields and body of the response count.
    pub(crate) fn start(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Seen) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = runtime()
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let recorder = Arc::new(Recorder::default());
        let https = tls.is_some();
        let acceptor = tls.map(TlsAcceptor::from);
        let answer: Answer = Arc::new(answer);
        let (ending, ended) = watch::channel(());
        let accepting = runtime().spawn({
            let recorder = Arc::clone(&recorder);
            async move {
                loop {
                    let Ok((stream, _)) = listener.accept().await else {
                        continue;
                    };
                    let connection = recorder.connected();
                    let (recorder, answer) = (Arc::clone(&recorder), Arc::clone(&answer));
                    let mut ended = ended.clone();
                    ended.mark_unchanged();
                    match acceptor.clone() {
                        None => drop(
                            runtime()
                                .spawn(serve(stream, connection, false, recorder, answer, ended)),
                        ),
                        Some(acceptor) => drop(runtime().spawn(async move {
                            match acceptor.accept(stream).await {
                                Ok(stream) => {
                                    let shown = stream.get_ref().1.peer_certificates().is_some();
                                    serve(stream, connection, shown, recorder, answer, ended).await;
                                }
                                Err(error) => recorder.fault(error.to_string()),
                            }
                        })),
                    }
                }
            }
        });
        Self {
            recorder,
            address,
            https,
            accepting,
            ending,
        }
    }

    /// Tells every open connection that it is over (GOAWAY), as a server that restarts does.
    pub(crate) fn go_away(&self) {
        self.ending.send_replace(());
    }

    /// The address as `upstream` in a route.
    pub(crate) fn url(&self) -> String {
        match self.https {
            true => format!("https://localhost:{}", self.address.port()),
            false => format!("http://{}", self.address),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Http2Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: usize,
    client_certificate: bool,
    recorder: Arc<Recorder>,
    answer: Answer,
    mut ended: watch::Receiver<()>,
) {
    let on_end = Arc::clone(&recorder);
    let service = service_fn(|request: http::Request<Incoming>| {
        let (recorder, answer) = (Arc::clone(&recorder), Arc::clone(&answer));
        async move {
            let seen = match read(request, connection, client_certificate).await {
                Ok(seen) => seen,
                Err(error) => {
                    recorder.fault(error.to_string());
                    return Err(error);
                }
            };
            let response = answer(&seen);
            recorder.record(seen);
            let mut out = http::Response::builder().status(response.status);
            for (name, value) in &response.fields.0 {
                out = out.header(name, value.as_slice());
            }
            Ok(out.body(Full::new(Bytes::from(response.body))).unwrap())
        }
    });
    // How a connection ends is the other side's affair; what was asked on it is recorded.
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        Ok(()) = ended.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    on_end.disconnected();
}

async fn read(
    request: http::Request<Incoming>,
    connection: usize,
    client_certificate: bool,
) -> Result<Seen, hyper::Error> {
    let (parts, mut incoming) = request.into_parts();
    let mut fields = Fields::default();
    if let Some(authority) = parts.uri.authority() {
        fields.push(":authority", authority.as_str());
    }
    for (name, value) in &parts.headers {
        fields.push(name.as_str(), value.as_bytes());
    }
    let mut digest = Sha256::new();
    let mut body_len = 0;
    let mut body = Vec::new();
    let mut trailers = Fields::default();
    while let Some(frame) = incoming.frame().await {
        match frame?.into_data() {
            Ok(bytes) => {
                digest.update(&bytes);
                body_len += bytes.len() as u64;
                if body.len() <= BODY_KEPT_MAX {
                    body.extend_from_slice(&bytes);
                }
            }
            Err(frame) => {
                for (name, value) in frame.trailers_ref().into_iter().flatten() {
                    trailers.push(name.as_str(), value.as_bytes());
                }
            }
        }
    }
    Ok(Seen {
        raw_head: Vec::new(),
        method: parts.method.to_string(),
        target: parts
            .uri
            .path_and_query()
            .map_or_else(String::new, ToString::to_string),
        fields,
        trailers,
        body_len,
        body_sha256: HEXLOWER.encode(&digest.finalize()),
        body: (body_len <= BODY_KEPT_MAX as u64).then_some(body),
        connection,
        client_certificate,
    })
}
