//! What the gateway does most of a day, in little: the load under which `scripts/build-release` has a program counted that is then
//! built for it. What nothing here comes by counts as rare, and is made small instead of fast.
//!
//! `cargo bench --bench training -- GATEWAY`: deliveries of several schemes and sizes over HTTP/1.1 and HTTP/2, plaintext and TLS, with
//! one thread and with two, and some that are refused. Nothing is measured. It fails if an answer is not the one that is due.

mod sample;

use std::{
    convert::Infallible,
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use bytes::Bytes;
use countersign::{
    clock::{Clock as _, SystemClock},
    scheme::catalogue,
    secret::Secret,
};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Pid, Signal, kill_process};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    net::{TcpListener, TcpStream as Stream},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

const HOST: &str = "hooks.example.org";

/// A secret that each of these schemes takes.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLwSw";

/// The usual kinds: the body alone in hex and in base64, a signed time, a list, an id.
const SCHEMES: [&str; 6] = [
    "carevalidate",
    "github",
    "shopify",
    "slack",
    "standard-webhooks",
    "stripe",
];

/// Makes each body another one, because of the replay guards.
static SENT: AtomicU64 = AtomicU64::new(0);

/// Sizes of bodies, and how many of each a connection carries for a scheme.
const LOAD: [(usize, usize); 5] = [
    (1 << 10, 600),
    (8 << 10, 150),
    (64 << 10, 30),
    (1 << 20, 6),
    (12 << 20, 1),
];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // cargo adds words of its own.
    let Some(gateway) = env::args().skip(1).find(|word| !word.starts_with('-')) else {
        return println!("usage: cargo bench --bench training -- GATEWAY");
    };
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = certificate(folder.path());
    let upstream = upstream().await;
    for (tls, threads) in [(false, 1), (true, 2), (true, 1), (false, 2)] {
        let listen = sample::free_port();
        let config = config(listen, upstream, tls);
        let file = folder.path().join("countersign.toml");
        fs::write(&file, config).expect("the folder can be written");
        let door = Arc::new(Door {
            address: listen,
            tls: tls.then(|| connector(&certificate)),
        });
        let gateway = Gateway::start(&gateway, &file, threads, listen);
        for version in [Version::HTTP_11, Version::HTTP_2] {
            deliver(&door, version).await;
        }
        gateway.stop();
    }
}

fn certificate(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
    for (name, text) in [
        ("cert.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
    ] {
        fs::write(folder.join(name), text).expect("the folder can be written");
    }
    CertificateDer::from_pem_file(folder.join("cert.pem")).expect("it was just made")
}

/// Every second route has a replay guard.
fn config(listen: SocketAddr, upstream: SocketAddr, tls: bool) -> String {
    let tls = match tls {
        true => "[server.tls]\ncertificate = \"cert.pem\"\nprivate_key = \"key.pem\"\n",
        false => "",
    };
    let routes = SCHEMES.iter().enumerate().map(|(place, scheme)| {
        let replay = if place % 2 == 0 { "" } else { "replay = \"1h\"\n" };
        format!(
            "[[route]]\nname = \"{scheme}\"\npath = \"/{scheme}\"\nscheme = \"{scheme}\"\n{replay}\
             secrets = [{{ id = \"a\", env = \"TRAINING_SECRET\" }}]\nupstream = \"http://{upstream}\"\n"
        )
    });
    let server = format!("[server]\nlisten = \"{listen}\"\nadmin = \"off\"\n{tls}");
    server + &routes.collect::<String>()
}

/// The program that is counted. Its counts are written when it ends as it should.
struct Gateway(Child);

impl Gateway {
    fn start(program: &str, config: &Path, threads: usize, listen: SocketAddr) -> Self {
        let child = Command::new(program)
            .args(["serve", "--config"])
            .arg(config)
            .env("TRAINING_SECRET", SECRET)
            .env("COUNTERSIGN_SERVER__THREADS", threads.to_string())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut gateway = Self(child);
        while TcpStream::connect(listen).is_err() {
            let ended = gateway.0.try_wait().expect("it is a child");
            assert!(ended.is_none(), "the gateway ended: {ended:?}");
            thread::yield_now();
        }
        gateway
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("it runs");
        let ended = self.0.wait().expect("it is a child");
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Only if something went wrong is it still there.
        let _ = self.0.kill();
    }
}

/// Takes in everything, answers little, as an application does.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async {
                let mut body = request.into_body();
                while let Some(Ok(_)) = body.frame().await {}
                let mut response = Response::new(Full::new(Bytes::from_static(b"{\"ok\":true}")));
                let json = http::HeaderValue::from_static("application/json");
                response.headers_mut().insert("content-type", json);
                Ok::<_, Infallible>(response)
            });
            let mut server = server::Builder::new();
            server.title_case_headers(true);
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// Where the gateway is.
struct Door {
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

fn connector(certificate: &CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("it is a certificate");
    let config = ClientConfig::builder().with_root_certificates(roots);
    TlsConnector::from(Arc::new(config.with_no_client_auth()))
}

/// An open connection.
enum Client {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Duplex for S {}

impl Door {
    async fn connect(&self, version: Version) -> Client {
        let stream = Stream::connect(self.address).await.expect("it listens");
        stream.set_nodelay(true).expect("it is TCP");
        let stream: Box<dyn Duplex> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let mut config = (**tls.config()).clone();
                if version == Version::HTTP_2 {
                    config.alpn_protocols = vec![b"h2".to_vec()];
                }
                let name = ServerName::try_from(HOST).expect("it is a name");
                let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
                Box::new(connected.await.expect("the handshake succeeds"))
            }
        };
        let stream = TokioIo::new(stream);
        if version == Version::HTTP_2 {
            let opened = http2::handshake(TokioExecutor::new(), stream).await;
            let (client, connection) = opened.expect("it speaks HTTP/2");
            tokio::spawn(connection);
            return Client::Http2(client);
        }
        let mut builder = http1::Builder::new();
        // As most libraries write them.
        builder.title_case_headers(true);
        let (client, connection) = builder.handshake(stream).await.expect("it is open");
        tokio::spawn(connection);
        Client::Http1(client)
    }
}

impl Client {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> StatusCode {
        let answer = match self {
            Self::Http1(client) => {
                client.ready().await.expect("the connection is kept");
                client.send_request(request).await
            }
            Self::Http2(client) => client.send_request(request).await,
        };
        let answer = answer.expect("there is an answer");
        let status = answer.status();
        answer.into_body().collect().await.expect("it is whole");
        status
    }
}

/// All schemes at once, each on a connection of its own.
async fn deliver(door: &Arc<Door>, version: Version) {
    let mut senders = JoinSet::new();
    for name in SCHEMES {
        senders.spawn(deliver_as(door.clone(), version, name));
    }
    while let Some(sent) = senders.join_next().await {
        sent.expect("each answer is the one that is due");
    }
}

async fn deliver_as(door: Arc<Door>, version: Version, name: &str) {
    let secret = Secret::new(SECRET.into()).expect("it is not empty");
    let scheme = catalogue::compile(name, &Default::default());
    let scheme = scheme.unwrap_or_else(|_| panic!("the catalogue has {name}"));
    for (bytes, times) in LOAD {
        let mut client = door.connect(version).await;
        let mut body = vec![b'x'; bytes];
        for _ in 0..times {
            let number = SENT.fetch_add(1, Ordering::Relaxed);
            body[..8].copy_from_slice(&number.to_be_bytes());
            let signed = scheme.sign(&secret, &body, SystemClock.now());
            let signature = signed.expect("it signs").into_iter().collect();
            let good = request(&door, version, name, &signature, &body);
            assert_eq!(client.send(good).await, StatusCode::OK, "{name}");
        }
        let forged = request(&door, version, name, &HeaderMap::new(), &body[..1024]);
        assert_eq!(client.send(forged).await, StatusCode::UNAUTHORIZED);
    }
}

fn request(
    door: &Door,
    version: Version,
    name: &str,
    signature: &HeaderMap,
    body: &[u8],
) -> Request<Full<Bytes>> {
    let target = match (version, &door.tls) {
        (Version::HTTP_2, Some(_)) => format!("https://{HOST}/{name}"),
        (Version::HTTP_2, None) => format!("http://{HOST}/{name}"),
        _ => format!("/{name}"),
    };
    let mut request = Request::post(target)
        .header("content-type", "application/json")
        .header("user-agent", "axios/1.7.2")
        .header("accept", "application/json, text/plain, */*")
        .header("accept-encoding", "gzip, compress, deflate, br")
        .body(Full::new(Bytes::copy_from_slice(body)))
        .expect("it is a request");
    if version != Version::HTTP_2 {
        let host = http::HeaderValue::from_static(HOST);
        request.headers_mut().insert("host", host);
    }
    request.headers_mut().extend(signature.clone());
    request
}
