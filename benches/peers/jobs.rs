//! Jobs, as JSON lines on standard input. A job that is measured says `ready` when its connections are open and warm, begins when a line
//! comes, and ends with a line of what it saw.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines, Stdin},
    sync::{Barrier, Mutex},
    task::JoinSet,
};

use crate::{
    sender::{self, Kind, Proxy, Sender},
    upstream::{self, Seen},
};

/// Long uploads beside requests that are timed. With the pause, senders and upstream have time left for those.
const UPLOADS: usize = 2;
const UPLOAD_BYTES: usize = 25 << 20;
const UPLOAD_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize)]
struct Job {
    what: What,
    proxy: SocketAddr,
    tls: bool,
    #[serde(default)]
    connections: usize,
    #[serde(default)]
    bytes: usize,
    #[serde(default)]
    seconds: f64,
    /// How many idle connections are opened at a time.
    #[serde(default)]
    at_a_time: usize,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// Whether the proxy does its work at all.
    Check,
    /// Each connection sends one request after the other.
    Good,
    Wrong,
    Unsigned,
    /// Requests are due at this rate, whatever the proxy does.
    Rate(f64),
    /// The same, while [`UPLOADS`] others send bodies of [`UPLOAD_BYTES`], with [`UPLOAD_PAUSE`] between.
    Beside(f64),
    /// Full handshakes, one after the other on each connection's place.
    Handshakes,
    /// Connections that sent one request and stay.
    Idle,
    /// Connections that were opened, if need be with a handshake, and send nothing.
    Silent,
    /// A request on each connection, all of them held back by one byte until all are there.
    InFlight,
}

#[derive(Debug, Default, Serialize)]
struct Result {
    /// Against what a proxy has to do.
    faults: Vec<String>,
    requests: u64,
    /// Requests whose answer the sender never read.
    lost: u64,
    seconds: f64,
    /// Latencies in microseconds, from when the request was due.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Latency>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    /// The share of requests that went out more than 50 µs after they were due.
    late: f64,
    /// The longest time, in microseconds, in which this process waited for a due time and did not run.
    stall: f64,
}

/// What a job works with.
struct Context {
    secret: Vec<u8>,
    seen: &'static Seen,
}

pub(crate) fn run(address: SocketAddr, secret: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let context = Context {
        secret: secret.to_vec(),
        seen: Box::leak(Box::default()),
    };
    let tls = sender::tls();
    runtime.block_on(async {
        upstream::serve(address, context.seen).await;
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await.expect("it is text") {
            let job: Job = serde_json::from_str(&line).expect("the script knows its jobs");
            let proxy = Proxy {
                address: job.proxy,
                tls: job.tls.then(|| tls.clone()),
            };
            let result = match job.what {
                What::Check => check(&context, &proxy).await,
                What::Good => load(&context, &job, proxy, Kind::Good, &mut lines).await,
                What::Wrong => load(&context, &job, proxy, Kind::Wrong, &mut lines).await,
                What::Unsigned => load(&context, &job, proxy, Kind::Unsigned, &mut lines).await,
                What::Rate(rate) => paced(&context, &job, proxy, rate, &mut lines).await,
                What::Beside(rate) => {
                    // They end with the set, and none by itself.
                    let mut uploads = uploads(&context, &proxy).await;
                    let result = paced(&context, &job, proxy, rate, &mut lines).await;
                    assert!(uploads.try_join_next().is_none(), "an upload ended");
                    result
                }
                What::Handshakes => handshakes(&job, proxy, &mut lines).await,
                What::Idle => idle(&context, &job, proxy, false, &mut lines).await,
                What::Silent => idle(&context, &job, proxy, true, &mut lines).await,
                What::InFlight => in_flight(&context, &job, proxy).await,
            };
            println!("{}", serde_json::to_string(&result).expect("it is plain"));
        }
    });
}

/// Says that all is ready and waits for the word to begin.
async fn ready(lines: &mut Lines<BufReader<Stdin>>) {
    println!("ready");
    lines.next_line().await.expect("it is text");
}

fn good(context: &Context, bytes: usize) -> Arc<[u8]> {
    sender::request(Kind::Good, &vec![b'x'; bytes], &context.secret, "").into()
}

/// As many senders as the job has connections, each of which has sent that and got 200.
async fn warm(job: &Job, proxy: &Proxy, request: &[u8]) -> Vec<Sender> {
    let mut senders = Vec::new();
    for _ in 0..job.connections {
        let mut sender = Sender::new(proxy.clone());
        let answer = sender.send(request).await.expect("the proxy answers");
        assert_eq!(answer.status, 200);
        senders.push(sender);
    }
    senders
}

async fn load(
    context: &Context,
    job: &Job,
    proxy: Proxy,
    kind: Kind,
    lines: &mut Lines<BufReader<Stdin>>,
) -> Result {
    let body = vec![b'x'; job.bytes];
    let request: Arc<[u8]> = sender::request(kind, &body, &context.secret, "").into();
    let senders = warm(job, &proxy, &good(context, job.bytes)).await;
    // Small requests are whole in one write.
    let watch = kind == Kind::Unsigned && job.bytes > 16 << 10;
    let want = if kind == Kind::Good { 200 } else { 401 };
    ready(lines).await;
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(job.seconds);
    let mut tasks = JoinSet::new();
    for mut sender in senders {
        let request = request.clone();
        tasks.spawn(async move {
            let (mut requests, mut lost) = (0, 0);
            while Instant::now() < end {
                let answer = match watch {
                    true => sender.send_watching(&request).await,
                    false => sender.send(&request).await,
                };
                requests += 1;
                match answer {
                    Ok(answer) => assert_eq!(answer.status, want),
                    Err(_) => {
                        lost += 1;
                        sender.hang_up();
                    }
                }
            }
            (requests, lost)
        });
    }
    counted(tasks, begin).await
}

/// What all tasks together sent since then, and what of it was lost.
async fn counted(tasks: JoinSet<(u64, u64)>, begin: Instant) -> Result {
    let mut result = Result::default();
    for (requests, lost) in tasks.join_all().await {
        result.requests += requests;
        result.lost += lost;
    }
    result.seconds = begin.elapsed().as_secs_f64();
    result
}

/// Senders of long bodies, which go on until the set is dropped.
async fn uploads(context: &Context, proxy: &Proxy) -> JoinSet<()> {
    let request = good(context, UPLOAD_BYTES);
    let mut tasks = JoinSet::new();
    for _ in 0..UPLOADS {
        let mut sender = Sender::new(proxy.clone());
        let request = request.clone();
        tasks.spawn(async move {
            loop {
                let answer = sender.send(&request).await.expect("the proxy answers");
                assert_eq!(answer.status, 200);
                tokio::time::sleep(UPLOAD_PAUSE).await;
            }
        });
    }
    tasks
}

/// Whoever has the turn waits for the time of the next request, passes the turn on and sends. If all connections are busy then, the
/// next one to be free is late, and its latency counts from when the request was due.
async fn paced(
    context: &Context,
    job: &Job,
    proxy: Proxy,
    rate: f64,
    lines: &mut Lines<BufReader<Stdin>>,
) -> Result {
    let request = good(context, job.bytes);
    let senders = warm(job, &proxy, &request).await;
    let interval = Duration::from_secs_f64(1.0 / rate);
    ready(lines).await;
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(job.seconds);
    let turn = Arc::new(Mutex::new(begin));
    let mut tasks = JoinSet::new();
    for mut sender in senders {
        let (request, turn) = (request.clone(), turn.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let (mut late, mut lost, mut stall) = (0, 0, Duration::ZERO);
            loop {
                let due = {
                    let mut next = turn.lock().await;
                    let due = *next;
                    if due >= end {
                        break;
                    }
                    *next += interval;
                    // A timer would wake a millisecond too late.
                    let mut last = Instant::now();
                    while last < due {
                        tokio::task::yield_now().await;
                        stall = stall.max(last.elapsed());
                        last = Instant::now();
                    }
                    due
                };
                if due.elapsed() > Duration::from_micros(50) {
                    late += 1;
                }
                match sender.send(&request).await {
                    Ok(answer) => {
                        assert_eq!(answer.status, 200);
                        latencies.push(due.elapsed());
                    }
                    Err(_) => {
                        lost += 1;
                        sender.hang_up();
                    }
                }
            }
            (latencies, late, lost, stall)
        });
    }
    let mut result = Result::default();
    let mut latencies = Vec::new();
    let (mut all_late, mut longest) = (0, Duration::ZERO);
    for (some, late, lost, stall) in tasks.join_all().await {
        longest = longest.max(stall);
        latencies.extend(some);
        all_late += late;
        result.lost += lost;
    }
    result.seconds = begin.elapsed().as_secs_f64();
    result.requests = latencies.len() as u64 + result.lost;
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = (latencies.len() as f64 * share) as usize;
        let latency = latencies.get(place.min(latencies.len().saturating_sub(1)));
        latency.map_or(0.0, |latency| latency.as_nanos() as f64 / 1000.0)
    };
    result.latency = Some(Latency {
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        late: f64::from(all_late) / latencies.len().max(1) as f64,
        stall: longest.as_nanos() as f64 / 1000.0,
    });
    result
}

/// Connections that are made, and closed in an orderly way.
async fn handshakes(job: &Job, proxy: Proxy, lines: &mut Lines<BufReader<Stdin>>) -> Result {
    ready(lines).await;
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(job.seconds);
    let mut tasks = JoinSet::new();
    for _ in 0..job.connections {
        let proxy = proxy.clone();
        tasks.spawn(async move {
            let (mut requests, mut lost) = (0, 0);
            while Instant::now() < end {
                requests += 1;
                if shake(&proxy).await.is_err() {
                    lost += 1;
                }
            }
            (requests, lost)
        });
    }
    counted(tasks, begin).await
}

async fn shake(proxy: &Proxy) -> io::Result<()> {
    let mut stream = proxy.connect().await?;
    stream.shutdown().await?;
    // Tickets come, then the end.
    while stream.read(&mut [0; 4096]).await? > 0 {}
    Ok(())
}

async fn idle(
    context: &Context,
    job: &Job,
    proxy: Proxy,
    silent: bool,
    lines: &mut Lines<BufReader<Stdin>>,
) -> Result {
    let request = good(context, job.bytes);
    let mut senders = Vec::new();
    while senders.len() < job.connections {
        let mut tasks = JoinSet::new();
        for _ in 0..(job.connections - senders.len()).min(job.at_a_time) {
            let mut sender = Sender::new(proxy.clone());
            let request = request.clone();
            tasks.spawn(async move {
                if silent {
                    sender.open().await.expect("the proxy accepts");
                } else {
                    let answer = sender.send(&request).await.expect("the proxy answers");
                    assert_eq!(answer.status, 200);
                }
                sender
            });
        }
        senders.extend(tasks.join_all().await);
    }
    ready(lines).await;
    Result {
        requests: senders.len() as u64,
        ..Result::default()
    }
}

async fn in_flight(context: &Context, job: &Job, proxy: Proxy) -> Result {
    let request = good(context, job.bytes);
    let begin = Instant::now();
    let barrier = Arc::new(Barrier::new(job.connections));
    let mut tasks = JoinSet::new();
    for _ in 0..job.connections {
        let mut sender = Sender::new(proxy.clone());
        let (request, barrier) = (request.clone(), barrier.clone());
        tasks.spawn(async move {
            let begun = sender.begin(&request).await;
            barrier.wait().await;
            begun?;
            sender.end(&request).await
        });
    }
    let mut result = Result::default();
    for answer in tasks.join_all().await {
        result.requests += 1;
        if !matches!(answer, Ok(answer) if answer.status == 200) {
            result.lost += 1;
        }
    }
    result.seconds = begin.elapsed().as_secs_f64();
    result
}

/// What every proxy has to do, or its figures mean nothing.
async fn check(context: &Context, proxy: &Proxy) -> Result {
    let mut result = Result::default();
    let mut sender = Sender::new(proxy.clone());
    let ask = format!("{}: yes\r\n", upstream::ASK);
    let spoofed = format!("{ask}Countersign-Verified: forged\r\ncountersign_verified: forged\r\n");
    let forwarded = || context.seen.requests.load(Ordering::Relaxed);

    for bytes in [0, 1, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 25 << 20] {
        // No two parts alike, so that a part that is lost, doubled or moved shows.
        let body: Vec<u8> = (0_u64..)
            .flat_map(|n| Sha256::digest(n.to_le_bytes()))
            .take(bytes)
            .collect();
        let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&body));
        let want = upstream::report(&digest, &["carevalidate".to_owned()]);
        for more in [&ask, &spoofed] {
            let request = sender::request(Kind::Good, &body, &context.secret, more);
            match sender.send(&request).await {
                Ok(answer) if answer.status == 200 && answer.body == want.as_bytes() => {}
                other => result.faults.push(format!(
                    "{bytes} bytes, signed: not 200 with them and the mark: {}",
                    told(other)
                )),
            }
        }
        let mut last = sender::request(Kind::Good, &body, &context.secret, "");
        if bytes > 0 {
            *last.last_mut().expect("it has a body") ^= 1;
        }
        for (name, request) in [
            (
                "the tag of another body",
                sender::request(Kind::Wrong, &body, &context.secret, ""),
            ),
            (
                "another secret",
                sender::request(Kind::Good, &body, b"no", ""),
            ),
            ("one bit changed", last),
            (
                "unsigned",
                sender::request(Kind::Unsigned, &body, &context.secret, ""),
            ),
            (
                "half a tag",
                sender::request(
                    Kind::Unsigned,
                    &body,
                    &context.secret,
                    "x-cv-signature: 00112233\r\n",
                ),
            ),
        ] {
            if bytes == 0 && name == "one bit changed" {
                continue;
            }
            let before = forwarded();
            let answer = Sender::new(proxy.clone()).send_watching(&request).await;
            let refused = match &answer {
                Ok(answer) => answer.status == 401,
                // Who refuses on the head may close before a large body is sent. How many answers are lost so is measured.
                Err(_) => bytes > 16 << 10 && ["unsigned", "half a tag"].contains(&name),
            };
            if !refused {
                let what = format!("{bytes} bytes, {name}: not 401: {}", told(answer));
                result.faults.push(what);
            }
            if forwarded() != before {
                result
                    .faults
                    .push(format!("{bytes} bytes, {name}: forwarded"));
            }
        }
        result.requests += 7;
    }

    let before = context.seen.connections.load(Ordering::Relaxed);
    let request = good(context, 1 << 10);
    for _ in 0..100 {
        if let Err(error) = sender.send(&request).await {
            result
                .faults
                .push(format!("100 requests in a row: {error}"));
        }
    }
    let opened = context.seen.connections.load(Ordering::Relaxed) - before;
    if opened > 1 {
        let what = format!("connections to the upstream are not kept: {opened} for 100 requests");
        result.faults.push(what);
    }
    result
}

fn told(answer: io::Result<sender::Answer>) -> String {
    match answer {
        Ok(answer) => format!(
            "{} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        ),
        Err(error) => error.to_string(),
    }
}
