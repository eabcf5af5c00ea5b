//! What a request costs over the wire: the gateway against a bare hyper proxy that does the same job by the shortest way: buffer,
//! check the HMAC in constant time, add the mark, pass on. "bare" has hyper-util's pool of upstream connections, as every proxy
//! needs one; "no pool" is the floor below that, with one upstream connection for each sender.
//!
//! `cargo bench --bench end_to_end`; with `-- --gateway FILE [BARE]` other builds of the gateway and of the bare proxy, such as
//! target/pgo/countersign of `scripts/build-release` and target/pgo/bare of `scripts/build-release --bare`; `--train BARE` is the load
//! of the latter. To profile one part alone: `--upstream`, `--bare UPSTREAM`, `--no-pool UPSTREAM` and `--load PROXY BYTES REQUESTS`
//! start them. All run as processes of their own with one worker thread, over loopback, on plaintext HTTP/1.1 with kept
//! connections. Sender and upstream live in this process; only the proxies' CPU time is counted. The two take turns in every
//! round, and what is printed is the median over the rounds, so that a noisy machine disturbs both alike.

#[path = "peers/bare.rs"]
mod bare;

use std::{
    convert::Infallible,
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use bytes::Bytes;
use countersign::{clock::UnixTime, scheme::catalogue, secret::Secret};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const ROUNDS: usize = 9;
const SENDERS: usize = 4;
/// Bytes of a body, and how many requests a round has.
const LOADS: [(usize, usize); 4] = [
    (1 << 10, 12_000),
    (16 << 10, 8_000),
    (256 << 10, 1_200),
    (1 << 20, 400),
];
const SECRET: &str = "end-to-end bench";

fn main() {
    let mut args = env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("--bare"), Some(upstream)) => bare(&upstream, &bare::Way::Pool),
        (Some("--no-pool"), Some(upstream)) => bare(&upstream, &bare::Way::OneEach),
        (Some("--upstream"), _) => {
            println!("{}", upstream());
            thread::park();
        }
        (Some("--load"), Some(proxy)) => {
            let mut number = || {
                let word = args.next().expect("a number follows");
                word.parse().expect("it is a number")
            };
            let (size, requests) = (number(), number());
            load(
                proxy.parse().expect("an address"),
                &delivery(size),
                requests,
            );
        }
        (Some("--train"), Some(program)) => train(Path::new(&program)),
        // Cargo puts `--bench` behind what it is given.
        (Some("--gateway"), Some(program)) => {
            let bare = args.next().filter(|word| word != "--bench");
            compare(&program, bare.map(Into::into));
        }
        _ => compare(env!("CARGO_BIN_EXE_countersign"), None),
    }
}

/// Loads the bare proxy as it is loaded when it is measured, then lets it end.
fn train(program: &Path) {
    let upstream = upstream();
    for way in ["--bare", "--no-pool"] {
        let mut proxy = Proxy::bare("bare", program, way, upstream);
        for (size, requests) in LOADS {
            load(proxy.address, &delivery(size), requests);
        }
        drop(proxy.child.stdin.take());
        let status = proxy.child.wait().expect("it was started");
        assert!(status.success(), "{status}");
    }
}

/// The same proxy that `benches/peers` measures: on any free port, over plaintext.
fn bare(upstream: &str, way: &bare::Way) {
    let upstream = upstream.parse().expect("an address");
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    bare::serve(listen, upstream, way, None, SECRET.as_bytes());
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future);
}

/// Takes in everything, answers little.
fn upstream() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        block_on(async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .expect("a free port");
            tell.send(listener.local_addr().expect("it is bound"))
                .expect("somebody waits");
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                stream.set_nodelay(true).expect("it is TCP");
                let service = service_fn(|request: Request<Incoming>| async move {
                    let mut body = request.into_body();
                    while let Some(Ok(_)) = body.frame().await {}
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
                });
                tokio::spawn(
                    server::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    });
    told.recv().expect("the upstream starts")
}

/// A proxy under measurement.
struct Proxy {
    name: &'static str,
    child: Child,
    address: SocketAddr,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    fn bare(name: &'static str, program: &Path, how: &str, upstream: SocketAddr) -> Self {
        let mut child = Command::new(program)
            .args([how, &upstream.to_string(), SECRET])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("it says where it listens");
        Self {
            name,
            child,
            address: line.trim().parse().expect("an address"),
        }
    }

    fn countersign(name: &'static str, program: &str, upstream: SocketAddr, level: &str) -> Self {
        // At level `warn` it does not say where it listens, so the port is chosen here.
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = free.local_addr().expect("it is bound");
        drop(free);
        let child = Command::new(program)
            .args([
                "serve",
                "--scheme",
                "carevalidate",
                "--secret-env",
                "BENCH_SECRET",
                "--admin",
                "off",
            ])
            .args([
                "--listen",
                &address.to_string(),
                "--upstream",
                &format!("http://{upstream}"),
            ])
            .args(["--log-format", "json", "--log-level", level])
            .envs([
                ("BENCH_SECRET", SECRET),
                ("COUNTERSIGN_SERVER__THREADS", "1"),
            ])
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        while TcpStream::connect(address).is_err() {
            thread::yield_now();
        }
        Self {
            name,
            child,
            address,
        }
    }

    /// Nanoseconds of CPU that all its threads have used.
    fn cpu(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        tasks
            .map_while(Result::ok)
            .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|stat| {
                stat.split(' ')
                    .next()
                    .and_then(|nanos| nanos.parse::<u64>().ok())
            })
            .sum()
    }

    /// Microseconds of CPU per request.
    fn measure(&self, request: &[u8], requests: usize) -> f64 {
        let before = self.cpu();
        load(self.address, request, requests);
        (self.cpu() - before) as f64 / 1000.0 / requests as f64
    }
}

/// Sends so many requests from all senders together.
fn load(address: SocketAddr, request: &[u8], requests: usize) {
    thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| send(address, request, requests / SENDERS));
        }
    });
}

/// Sends one request over and over on one connection; every answer must be 200.
fn send(address: SocketAddr, request: &[u8], times: usize) {
    let mut stream = TcpStream::connect(address).expect("the proxy listens");
    stream.set_nodelay(true).expect("it is TCP");
    let mut answer = Vec::new();
    for _ in 0..times {
        stream.write_all(request).expect("the proxy reads");
        answer.clear();
        while !answer.ends_with(b"\r\n\r\nok") {
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).expect("the proxy answers");
            assert!(read > 0, "the proxy closed the connection");
            answer.extend_from_slice(&buffer[..read]);
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
}

/// A signed delivery as bytes on the wire.
fn delivery(size: usize) -> Vec<u8> {
    let scheme = catalogue::compile("carevalidate", &Default::default())
        .unwrap_or_else(|_| panic!("the catalogue has it"));
    let secret = Secret::new(SECRET.into()).expect("it is not empty");
    let body = vec![b'x'; size];
    let uri = Uri::from_static("/webhooks/carevalidate");
    let mut request = format!(
        "POST {uri} HTTP/1.1\r\nHost: hooks.example.org\r\nContent-Type: application/json\r\nUser-Agent: bench\r\nAccept: */*\r\nContent-Length: {size}\r\n"
    );
    for (name, value) in scheme
        .sign(&secret, &body, UnixTime::from_secs(0))
        .expect("it signs")
    {
        request.push_str(&format!("{name}: {}\r\n", value.to_str().expect("hex")));
    }
    [request.as_bytes(), b"\r\n", &body].concat()
}

fn compare(gateway: &str, bare: Option<PathBuf>) {
    let upstream = upstream();
    let bare = bare.unwrap_or_else(|| env::current_exe().expect("this program has a path"));
    let proxies = [
        Proxy::bare("bare", &bare, "--bare", upstream),
        Proxy::bare("no pool", &bare, "--no-pool", upstream),
        Proxy::countersign("no request log", gateway, upstream, "warn"),
        Proxy::countersign("request log", gateway, upstream, "info"),
    ];
    println!(
        "CPU per request: median of {ROUNDS} rounds, ratios to the bare proxy in the same round"
    );
    println!(
        "{:>10} {:>11} {:>22} {:>22} {:>22}",
        "body", "bare", "no pool", "countersign", "with request log"
    );
    for (size, requests) in LOADS {
        let request = delivery(size);
        let mut costs = [const { Vec::new() }; 4];
        let mut ratios = [const { Vec::new() }; 4];
        for round in 0..=ROUNDS {
            let measured = proxies
                .each_ref()
                .map(|proxy| proxy.measure(&request, requests));
            // The first round opens connections and warms caches.
            if round > 0 {
                for (place, cost) in measured.into_iter().enumerate() {
                    costs[place].push(cost);
                    ratios[place].push(cost / measured[0]);
                }
            }
        }
        print!("{:>6} KiB", size / 1024);
        for (place, (cost, ratio)) in costs.into_iter().zip(ratios).enumerate() {
            print!(" {:>8.1} µs", median(cost));
            if place > 0 {
                print!("   x {:>5.2}", median(ratio));
            }
        }
        println!();
    }
    for proxy in &proxies {
        let status =
            fs::read_to_string(format!("/proc/{}/status", proxy.child.id())).unwrap_or_default();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap_or("")
            .trim()
            .to_owned();
        println!("{:>14}: peak memory {peak}", proxy.name);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
