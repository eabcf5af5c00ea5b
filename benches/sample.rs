//! What the benches measure with.

#![allow(dead_code, reason = "no bench uses all of it")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use countersign::{
    clock::UnixTime,
    config::{Config, Flags, Source, load},
    scheme::{Scheme, catalogue},
    secret::Secret,
};
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderName, HeaderValue, Request};
use sha2::Sha256;

pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_795_435_200);

const SECRET: &[u8] = b"countersign bench key";

pub(crate) fn secret() -> Secret {
    Secret::new(SECRET.to_vec()).expect("it is not empty")
}

/// A head as CareValidate's HTTP client could send it.
pub(crate) fn request() -> Request<()> {
    let mut request = Request::post("/webhooks/carevalidate")
        .body(())
        .expect("it is valid");
    for (name, value) in [
        ("host", "hooks.example.org"),
        ("content-type", "application/json"),
        ("content-length", "1024"),
        ("user-agent", "axios/1.7.2"),
        ("accept", "application/json, text/plain, */*"),
        ("accept-encoding", "gzip, compress, deflate, br"),
        (
            "x-cv-signature",
            "54e36358504629843b4c0a9568c44f468580fc0d26b89dc00078206a001ef151",
        ),
        ("connection", "keep-alive"),
    ] {
        request.headers_mut().append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    request
}

/// One route for it, whose secret is not read.
pub(crate) fn config() -> Config {
    let flags = Flags {
        scheme: Some("carevalidate".into()),
        secret_file: Some("unused".into()),
        upstream: vec!["http://127.0.0.1:1".into()],
        ..Flags::default()
    };
    load(&Source::None, &[], &flags)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .config
}

/// A configuration with many routes, each with a secret of its own in a file. Those with an even number have the scheme that
/// deliveries are signed by, the others have all schemes of the catalogue in turn.
pub(crate) struct Routes {
    config: PathBuf,
}

impl Routes {
    pub(crate) fn new(folder: &Path, count: usize, upstream: SocketAddr) -> Self {
        let schemes: Vec<_> = catalogue::names()
            .into_iter()
            .filter(|name| fits(name))
            .collect();
        let secrets = folder.join("secrets");
        fs::create_dir_all(&secrets).expect("the folder can be written");
        let mut config = String::new();
        for route in 0..count {
            let file = secrets.join(route.to_string());
            fs::write(&file, secret_of(route)).expect("the folder can be written");
            let scheme = match route % 2 {
                0 => "carevalidate",
                _ => &schemes[route / 2 % schemes.len()],
            };
            write!(
                config,
                "[[route]]\nname = \"r{route}\"\npath = \"{}\"\nscheme = \"{scheme}\"\nsecrets = [{{ id = \"a\", file = {file:?} }}]\npublic_url = \"https://hooks.example.org\"\nupstream = \"http://{upstream}\"\n",
                path_of(route),
            )
            .expect("it is written to memory");
        }
        let path = folder.join("countersign.toml");
        fs::write(&path, config).expect("the folder can be written");
        Self { config: path }
    }

    /// The file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// A delivery for a route with an even number, as bytes on the wire.
    pub(crate) fn delivery(&self, route: usize, body: &[u8], signature: Signature) -> Vec<u8> {
        let secret = match signature {
            Signature::Right | Signature::None => secret_of(route),
            Signature::Wrong => secret_of(route + 1),
        };
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length will do");
        mac.update(body);
        let tag = HEXLOWER.encode(&mac.finalize().into_bytes());
        let signature = match signature {
            Signature::Right | Signature::Wrong => format!("x-cv-signature: {tag}\r\n"),
            Signature::None => String::new(),
        };
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: hooks.example.org\r\nContent-Type: application/json\r\nUser-Agent: axios/1.7.2\r\nAccept: application/json, text/plain, */*\r\nContent-Length: {}\r\n{signature}\r\n",
            path_of(route),
            body.len(),
        );
        [head.as_bytes(), body].concat()
    }
}

/// What a delivery bears.
#[derive(Clone, Copy)]
pub(crate) enum Signature {
    Right,
    /// One of another secret.
    Wrong,
    None,
}

fn path_of(route: usize) -> String {
    format!("/webhooks/{route}")
}

fn secret_of(route: usize) -> String {
    format!("the secret of route number {route:08}")
}

/// Whether a scheme needs nothing but such a secret.
fn fits(name: &str) -> bool {
    let scheme: Option<Scheme> = catalogue::compile(name, &BTreeMap::new()).ok();
    let secret = Secret::new(secret_of(0).into_bytes()).expect("it is not empty");
    scheme.is_some_and(|scheme| scheme.needs_secret() && scheme.key(&secret).is_ok())
}

/// Sends a request and reads its answer.
pub(crate) fn exchange(stream: &mut TcpStream, request: &[u8], status: &str) {
    stream.write_all(request).expect("the gateway reads");
    let answer = message(stream).expect("an answer");
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(text.split(' ').nth(1), Some(status), "{text}");
}

/// Reads a message with a length; `None`: the connection has ended.
fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut message, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        message.extend_from_slice(&buffer[..read]);
        if let Some(end) = message.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&message[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |length| {
                    length.trim().parse().expect("a length is a number")
                });
            if message.len() >= end + 4 + length {
                return Some(message);
            }
        }
    }
}

/// Takes everything.
pub(crate) fn upstream() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("it connects");
            thread::spawn(move || {
                while message(&mut stream).is_some() {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(answer).expect("the gateway reads");
                }
            });
        }
    });
    address
}

/// A free address of this machine.
pub(crate) fn free_port() -> SocketAddr {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    free.local_addr().expect("it is bound")
}

/// The CPU time that all threads of a process have used.
pub(crate) fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let nanos = tasks
        .map_while(Result::ok)
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split(' ').next()?.parse::<u64>().ok());
    Duration::from_nanos(nanos.sum())
}
