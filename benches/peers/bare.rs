//! The floor: a bare hyper (and rustls) proxy that does the same job by the shortest way. Nothing that a gateway needs beside that: no
//! routes, no limits, no timers, no request id, no spelling of names, no metrics.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, uri::Scheme};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    body::Incoming, client::conn::http1 as client, server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use rustls::ServerConfig;
use sha2::Sha256;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_rustls::TlsAcceptor;

type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// How a request gets to the upstream.
pub(crate) enum Way {
    /// By hyper-util's pool of connections, as every proxy needs one.
    Pool,
    /// By one connection for each sender: the floor below that.
    OneEach,
}

/// Says where it listens, then serves until the process ends.
pub(crate) fn serve(
    listen: SocketAddr,
    upstream: SocketAddr,
    way: &Way,
    tls: Option<Arc<ServerConfig>>,
    secret: &[u8],
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let shared: &Shared = Box::leak(Box::new(Shared {
        upstream,
        pool: matches!(way, Way::Pool)
            .then(|| Client::builder(TokioExecutor::new()).build(connector)),
        key: Hmac::new_from_slice(secret).expect("any length is a key"),
    }));
    runtime.block_on(async {
        let listener = TcpListener::bind(listen)
            .await
            .expect("the address is free");
        println!("{}", listener.local_addr().expect("it is bound"));
        let acceptor = tls.map(TlsAcceptor::from);
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            stream.set_nodelay(true).expect("it is TCP");
            let acceptor = acceptor.clone();
            // Accepting stays out of it, as in a server that is meant to last.
            tokio::spawn(async move {
                match acceptor {
                    None => connection(stream, shared).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            connection(stream, shared).await;
                        }
                    }
                }
            });
        }
    });
}

/// What all connections use.
struct Shared {
    upstream: SocketAddr,
    pool: Option<Client<HttpConnector, Full<Bytes>>>,
    key: Hmac<Sha256>,
}

/// The upstream connection of one sender, where there is no pool.
type Own = Mutex<Option<client::SendRequest<Full<Bytes>>>>;

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: &'static Shared,
) {
    let own = Own::default();
    let service = service_fn(|request| answer(request, shared, &own));
    // A sender that hangs up is no matter here.
    let _ = server::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, shared: &Shared, own: &Own) -> io::Result<Answer> {
    let (mut parts, body) = request.into_parts();
    let Some(tag) = tag(&parts.headers) else {
        return Ok(refusal());
    };
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut mac = shared.key.clone();
    mac.update(&body);
    if mac.verify_slice(&tag).is_err() {
        return Ok(refusal());
    }
    parts.headers.remove("countersign_verified");
    parts.headers.insert(
        "countersign-verified",
        HeaderValue::from_static("carevalidate"),
    );
    let answer = match &shared.pool {
        Some(pool) => {
            let mut uri = parts.uri.into_parts();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = shared.upstream.to_string().parse().ok();
            parts.uri = Uri::from_parts(uri).expect("it is whole");
            let answer = pool.request(Request::from_parts(parts, Full::new(body)));
            answer.await.map_err(io::Error::other)?
        }
        None => {
            let mut own = own.lock().await;
            if own.is_none() {
                *own = Some(connect(shared.upstream).await?);
            }
            let upstream = own.as_mut().expect("it was just put there");
            upstream.ready().await.map_err(io::Error::other)?;
            let answer = upstream.send_request(Request::from_parts(parts, Full::new(body)));
            answer.await.map_err(io::Error::other)?
        }
    };
    Ok(answer.map(Either::Left))
}

fn tag(headers: &HeaderMap) -> Option<Vec<u8>> {
    let tag = headers.get("x-cv-signature")?;
    HEXLOWER.decode(tag.as_bytes()).ok()
}

fn refusal() -> Answer {
    let mut answer = Response::new(Either::Right(Full::default()));
    *answer.status_mut() = StatusCode::UNAUTHORIZED;
    answer
}

async fn connect(upstream: SocketAddr) -> io::Result<client::SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = client::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}
