//! Counts instructions, with callgrind: of each step of a request, and of whole requests through the gateway.
//!
//! ```text
//! scripts/check-counts             # fails where a count is more than 3 % above that in benches/counts.txt
//! scripts/check-counts --record    # writes that file
//! ```
//!
//! Unlike time, instructions are the same on a busy machine and on a quiet one. They are not the same as time: what waits for memory
//! counts little, and callgrind's processor has no SHA instructions, so hashing counts too much. So bodies are small here.
//!
//! Each step runs in a process of its own, many times on inputs that were made before. A whole request is counted by the gateway itself
//! under callgrind: all that it runs between two looks at `/livez`.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on fails where it stands"
)]

mod sample;

use std::{
    collections::BTreeMap,
    env, fs,
    hint::black_box,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use countersign::{
    config::PathPattern,
    forward::{Identity, Instance, outbound_headers},
    receive::{Head, Peer},
    replay::{Admission, IdKey, MemoryStore, Settlement},
    route::{KeyRef, Route, RouteKey, RouteTable},
    scheme::{RequestHead, Scheme, Verdict, catalogue},
};
use http::{HeaderMap, HeaderName, Method, Request, Uri};
use sample::{NOW, Routes, Signature, config, exchange, free_port, request, secret, upstream};
use tempfile::TempDir;

/// How much more than recorded fails.
const MORE_MAX: f64 = 0.03;

/// How much a request may cost more where there are many routes.
const MANY_ROUTES_MAX: f64 = 0.02;

/// Runs of a step.
const TIMES: usize = 200;

/// Requests before those that are counted, and those.
const REQUESTS_BEFORE: usize = 100;
const REQUESTS: usize = 1000;

/// More than the schemes of the catalogue, of which every second route has one; a start under callgrind takes its time.
const MANY_ROUTES: usize = 1000;

const BODY: &[u8] = &[b'x'; 64];

/// What callgrind counts in a step: this, and what it calls.
#[inline(never)]
fn measured<T, R>(inputs: Vec<T>, step: impl Fn(T) -> R) {
    for input in inputs {
        black_box(step(black_box(input)));
    }
}

/// Runs a step once, for what is made at the first use, and then counted.
fn repeat<T, R>(input: impl Fn() -> T, step: impl Fn(T) -> R) {
    step(input());
    measured((0..TIMES).map(|_| input()).collect(), step);
}

type Step = (&'static str, fn());

/// In the order of a request.
const STEPS: &[Step] = &[
    ("head/check", head_check),
    ("route/find-among-1", || route_find(1)),
    ("route/find-among-10000", || route_find(10_000)),
    ("claim/carevalidate", || claim("carevalidate")),
    ("claim/github", || claim("github")),
    ("claim/stripe", || claim("stripe")),
    ("plan/carevalidate", || plan("carevalidate")),
    ("plan/github", || plan("github")),
    ("plan/stripe", || plan("stripe")),
    ("verify/carevalidate", || verify("carevalidate")),
    ("verify/github", || verify("github")),
    ("verify/stripe", || verify("stripe")),
    ("replay/admit-and-settle", replay),
    ("mark", mark),
    ("head/outbound", head_outbound),
];

fn head() -> Head {
    let (parts, ()) = request().into_parts();
    Head::new(parts, peer(), 32 << 10).unwrap_or_else(|rejection| panic!("{rejection}"))
}

fn peer() -> Arc<Peer> {
    let nobody = Arc::default();
    Arc::new(Peer::new(Some([192, 0, 2, 7].into()), true, nobody, None))
}

fn head_check() {
    let peer = peer();
    repeat(
        || (request().into_parts().0, peer.clone()),
        |(parts, peer)| Head::new(parts, peer, 32 << 10).is_ok(),
    );
}

fn head_outbound() {
    let (head, config) = (head(), config());
    let route = Route::new(0, &config.routes[0], Vec::new());
    let identity = Identity::new(
        &HeaderName::from_static("countersign-verified"),
        &Instance::default(),
    );
    repeat(
        || head.headers.clone(),
        |headers| outbound_headers(headers, &head, &route, &identity),
    );
}

fn route_find(count: usize) {
    let config = config();
    let routes = RouteTable::new((0..count).map(|index| {
        let path = PathPattern::Exact(format!("/webhooks/{index}"));
        (None, path, Route::new(index, &config.routes[0], Vec::new()))
    }));
    repeat(
        || Uri::try_from(format!("/webhooks/{}", count / 2)).unwrap(),
        |target| assert!(routes.find("hooks.example.org", &target).is_some()),
    );
}

/// A scheme, and a delivery that it takes.
fn signed(name: &str) -> (Scheme, Request<()>) {
    let scheme = catalogue::compile(name, &BTreeMap::new())
        .unwrap_or_else(|_| panic!("the catalogue has it"));
    let mut request = request();
    request.headers_mut().remove("x-cv-signature");
    for (name, value) in scheme.sign(&secret(), BODY, NOW).unwrap() {
        request.headers_mut().append(name, value);
    }
    (scheme, request)
}

fn view(headers: &HeaderMap) -> RequestHead<'_> {
    RequestHead {
        method: &Method::POST,
        target: "/webhooks/carevalidate",
        headers,
        url: None,
    }
}

fn claim(name: &str) {
    let (scheme, request) = signed(name);
    let head = view(request.headers());
    repeat(|| (), |()| scheme.claim(black_box(&head), NOW).is_ok());
}

fn plan(name: &str) {
    let (scheme, request) = signed(name);
    let key = scheme.key(&secret()).unwrap();
    let head = view(request.headers());
    repeat(
        || scheme.claim(&head, NOW).unwrap(),
        |claim| scheme.start(claim, [&key]),
    );
}

fn verify(name: &str) {
    let (scheme, request) = signed(name);
    let key = scheme.key(&secret()).unwrap();
    let head = view(request.headers());
    repeat(
        || scheme.start(scheme.claim(&head, NOW).unwrap(), [&key]),
        |mut check| {
            check.update(black_box(BODY));
            assert!(check.finish() == Verdict::Match(0));
        },
    );
}

fn replay() {
    let (key, now) = (IdKey::new(&[7; 32]), tokio::time::Instant::now());
    let store = MemoryStore::new(10_000, now);
    let ids = std::cell::Cell::new(0_u64);
    repeat(
        || {
            ids.set(ids.get() + 1);
            ids.get()
        },
        |id| {
            let id = key.id("cases", &id.to_le_bytes());
            let admission = store.admit(id, Duration::from_secs(45), now);
            let Admission::Granted(token) = admission else {
                panic!("it is new");
            };
            let settlement = Settlement::Succeeded {
                status: 200,
                window: Duration::from_secs(86_400),
            };
            store.settle(id, token, settlement, now);
        },
    );
}

fn mark() {
    let config = config();
    let route = &config.routes[0];
    let key = route.scheme.key(&secret()).unwrap();
    let key = RouteKey::new(route, &route.secrets[0], key);
    let route = Route::new(0, route, vec![key]);
    repeat(|| KeyRef::Pinned(0), |key| route.mark(&key, NOW));
}

/// A whole request: what comes, and to which gateway.
struct Whole {
    name: &'static str,
    routes: usize,
    log_level: &'static str,
    signature: Signature,
    status: &'static str,
}

const ACCEPTED: Whole = Whole {
    name: "request/accepted",
    routes: 1,
    log_level: "warn",
    signature: Signature::Right,
    status: "200",
};

const AMONG_MANY: Whole = Whole {
    name: "request/accepted-among-1000-routes",
    routes: MANY_ROUTES,
    ..ACCEPTED
};

const WHOLE: &[Whole] = &[
    ACCEPTED,
    AMONG_MANY,
    Whole {
        name: "request/accepted-with-request-log",
        log_level: "info",
        ..ACCEPTED
    },
    Whole {
        name: "request/wrong-signature",
        signature: Signature::Wrong,
        status: "401",
        ..ACCEPTED
    },
    Whole {
        name: "request/no-signature",
        signature: Signature::None,
        status: "401",
        ..ACCEPTED
    },
];

/// The gateway under callgrind, which writes down and forgets its counts at every look at `/livez`.
struct Gateway {
    child: Child,
    door: SocketAddr,
    admin: SocketAddr,
    folder: TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gateway {
    fn start(routes: &Routes, folder: TempDir, log_level: &str) -> Self {
        let (door, admin) = (free_port(), free_port());
        let child = callgrind(folder.path())
            .arg("--dump-before=countersign::admin::answer*")
            .arg(env!("CARGO_BIN_EXE_countersign"))
            .args(["serve", "--config"])
            .arg(routes.config())
            .args(["--listen", &door.to_string()])
            .args(["--admin", &admin.to_string()])
            .args(["--log-level", log_level, "--log-format", "json"])
            .env("COUNTERSIGN_SERVER__THREADS", "1")
            .env("COUNTERSIGN_SERVER__RELOAD_INTERVAL", "off")
            .stdout(Stdio::null())
            .spawn()
            .expect("valgrind starts");
        Self {
            child,
            door,
            admin,
            folder,
        }
    }

    /// Connects as soon as it listens.
    fn connect(&mut self, address: SocketAddr) -> TcpStream {
        loop {
            if let Ok(stream) = TcpStream::connect(address) {
                stream.set_nodelay(true).unwrap();
                return stream;
            }
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "the gateway has ended");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The instructions since the last look, or the start.
    fn look(&mut self, count: usize) -> u64 {
        let mut admin = self.connect(self.admin);
        let request = b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        admin.write_all(request).unwrap();
        admin.read_to_end(&mut Vec::new()).unwrap();
        counted(&self.folder.path().join(format!("out.{count}")))
    }
}

fn count_whole(whole: &Whole, upstream: SocketAddr) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let routes = Routes::new(folder.path(), whole.routes, upstream);
    let request = routes.delivery(whole.routes / 2, BODY, whole.signature);
    let mut gateway = Gateway::start(&routes, folder, whole.log_level);
    let mut sender = gateway.connect(gateway.door);
    let mut send = |times| {
        for _ in 0..times {
            exchange(&mut sender, &request, whole.status);
        }
    };
    send(REQUESTS_BEFORE);
    gateway.look(1);
    send(REQUESTS);
    gateway.look(2) / REQUESTS as u64
}

fn callgrind(folder: &Path) -> Command {
    let mut command = Command::new("valgrind");
    let out = folder.join("out");
    command
        .args(["-q", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", out.display()));
    command
}

/// The instructions in one file of callgrind's.
fn counted(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    total.expect("callgrind says it").trim().parse().unwrap()
}

fn count_step(name: &str) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let status = callgrind(folder.path())
        .arg("--collect-atstart=no")
        .arg("--toggle-collect=counts::measured*")
        .arg(env::current_exe().unwrap())
        .args(["--step", name])
        .status()
        .expect("valgrind starts");
    assert!(status.success(), "{name}: {status}");
    let count = counted(&folder.path().join("out"));
    assert_ne!(count, 0, "{name}: callgrind did not find what to count");
    count / TIMES as u64
}

/// What counts depend on beside the code.
fn tools() -> String {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let arch = env::consts::ARCH;
    format!("{}, {}, {arch}", version("rustc"), version("valgrind"))
}

/// The recorded counts, and what they were counted with.
struct Recorded {
    tools: String,
    counts: BTreeMap<String, u64>,
}

const HEADING: &str =
    "# Instructions of each step and of each request. Written by `scripts/check-counts --record`.";

impl Recorded {
    fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/counts.txt")
    }

    fn read() -> Self {
        let text = fs::read_to_string(Self::path()).unwrap_or_default();
        let tools = text.lines().nth(1).and_then(|line| line.strip_prefix("# "));
        let counts = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (name, count) = line.split_once(char::is_whitespace)?;
                Some((name.to_owned(), count.trim().parse().ok()?))
            });
        Self {
            tools: tools.unwrap_or_default().to_owned(),
            counts: counts.collect(),
        }
    }

    fn write(tools: &str, counts: &[(&str, u64)]) {
        let mut text = format!("{HEADING}\n# {tools}\n");
        for (name, count) in counts {
            text.push_str(&format!("{name:40} {count:>8}\n"));
        }
        fs::write(Self::path(), text).unwrap();
    }
}

/// Compares, tells, and says what is wrong.
fn compare(recorded: &Recorded, counts: &[(&str, u64)]) -> Vec<String> {
    let mut wrong = Vec::new();
    println!("{:40} {:>8} {:>8}", "", "recorded", "now");
    for (name, count) in counts {
        let Some(before) = recorded.counts.get(*name) else {
            println!("{name:40} {:>8} {count:>8}", "-");
            wrong.push(format!("{name} is not recorded"));
            continue;
        };
        let change = *count as f64 / *before as f64 - 1.0;
        println!("{name:40} {before:>8} {count:>8} {:+6.1} %", change * 100.0);
        if change < -MORE_MAX {
            println!("{:40} record it, so that it stays so", "");
        }
        if change > MORE_MAX {
            wrong.push(format!("{name} costs {:.1} % more", change * 100.0));
        }
    }
    for name in recorded.counts.keys() {
        if !counts.iter().any(|(counted, _)| counted == name) {
            wrong.push(format!("{name} is recorded and not counted"));
        }
    }
    wrong
}

/// A request costs the same whatever else is served.
fn many_routes_cost_nothing(counts: &[(&str, u64)]) -> Option<String> {
    let of = |name: &str| {
        let found = counts.iter().find(|(counted, _)| *counted == name);
        found.map_or(0, |(_, count)| *count) as f64
    };
    let more = of(AMONG_MANY.name) / of(ACCEPTED.name) - 1.0;
    (more > MANY_ROUTES_MAX).then(|| {
        let more = more * 100.0;
        format!("a request among {MANY_ROUTES} routes costs {more:.1} % more than with one route")
    })
}

fn main() -> ExitCode {
    let mut args = env::args().skip(1).filter(|arg| arg != "--bench");
    let record = match args.next().as_deref() {
        Some("--step") => {
            let name = args.next().expect("a name follows");
            let step = STEPS.iter().find(|(step, _)| *step == name);
            step.expect("it is known").1();
            return ExitCode::SUCCESS;
        }
        Some("--record") => true,
        Some(other) => panic!("{other} is not known"),
        None => false,
    };
    let upstream = upstream();
    let steps = STEPS.iter().map(|(name, _)| (*name, count_step(name)));
    let whole = WHOLE
        .iter()
        .map(|whole| (whole.name, count_whole(whole, upstream)));
    let counts: Vec<_> = steps.chain(whole).collect();
    let (tools, recorded) = (tools(), Recorded::read());
    let mut wrong = compare(&recorded, &counts);
    if record {
        Recorded::write(&tools, &counts);
        wrong.clear();
    }
    wrong.extend(many_routes_cost_nothing(&counts));
    for wrong in &wrong {
        println!("error: {wrong}");
    }
    if wrong.is_empty() {
        return ExitCode::SUCCESS;
    }
    if recorded.tools != tools {
        println!("recorded with {}; this is {tools}", recorded.tools);
        println!("if nothing but that has changed: scripts/check-counts --record");
    } else {
        println!(
            "if it is worth that, or cannot be otherwise: scripts/check-counts --record, and say in the commit why"
        );
    }
    ExitCode::FAILURE
}
