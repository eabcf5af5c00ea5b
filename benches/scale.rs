//! What many routes cost: to start and to reload, in memory, at rest, and for each request.
//!
//! `cargo bench --bench scale`; `-- 1000 10000` says how many routes to try. Every route has a secret file of its own; half of them have
//! the schemes of the catalogue in turn. What is compared takes turns, and of the turns the median counts.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on fails where it stands"
)]

mod sample;

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sample::{Routes, Signature, cpu, exchange, free_port, upstream};
use tempfile::TempDir;

const ROUNDS: usize = 15;
const REQUESTS: usize = 4000;
const BODY: &[u8] = &[b'x'; 1024];

/// Files that were just written are read at each look; and freed memory goes back a little later.
const SETTLED: Duration = Duration::from_secs(15);

/// How long it is watched at rest.
const REST: Duration = Duration::from_secs(10);

struct Gateway {
    child: Child,
    lines: Receiver<String>,
    door: SocketAddr,
    admin: SocketAddr,
    routes: Routes,
    _folder: TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Time that something took, and CPU that it used.
struct Cost(Duration, Duration);

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(f, "{:9.1} ms ({:.1} CPU)", millis(self.0), millis(self.1))
    }
}

impl Gateway {
    /// Starts it and waits until it is ready. The log is told the time it takes; requests are not logged.
    fn start(count: usize, upstream: SocketAddr, interval: &str) -> (Self, Cost) {
        let folder = tempfile::tempdir().unwrap();
        let routes = Routes::new(folder.path(), count, upstream);
        let (door, admin) = (free_port(), free_port());
        let began = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(["serve", "--config"])
            .arg(routes.config())
            .args(["--listen", &door.to_string()])
            .args(["--admin", &admin.to_string()])
            .args(["--log-format", "json"])
            .env("COUNTERSIGN_SERVER__THREADS", "1")
            .env("COUNTERSIGN_SERVER__RELOAD_INTERVAL", interval)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if !line.contains("\"request\"") && tell.send(line).is_err() {
                    return;
                }
            }
        });
        let gateway = Self {
            child,
            lines,
            door,
            admin,
            routes,
            _folder: folder,
        };
        gateway.wait_for("\"ready\"");
        let cost = Cost(began.elapsed(), gateway.cpu());
        (gateway, cost)
    }

    fn wait_for(&self, word: &str) {
        loop {
            let line = self.lines.recv().expect("it has ended");
            if line.contains(word) {
                return;
            }
        }
    }

    fn reload(&self) -> Cost {
        let (began, used) = (Instant::now(), self.cpu());
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
        self.wait_for("\"reloaded\"");
        Cost(began.elapsed(), self.cpu() - used)
    }

    /// What all its threads have used.
    fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }

    /// A line of its status, in KiB.
    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    /// One look at the metrics: how long it took, and how much there is.
    fn scrape(&self) -> (Cost, usize) {
        let (began, used) = (Instant::now(), self.cpu());
        let mut admin = TcpStream::connect(self.admin).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        admin.write_all(request).unwrap();
        let mut answer = Vec::new();
        admin.read_to_end(&mut answer).unwrap();
        (Cost(began.elapsed(), self.cpu() - used), answer.len())
    }

    /// Microseconds of CPU for each request; they go to `spread` routes in turn.
    fn per_request(&self, spread: usize) -> f64 {
        let requests: Vec<_> = (0..spread)
            .map(|route| self.routes.delivery(route * 2, BODY, Signature::Right))
            .collect();
        let mut sender = TcpStream::connect(self.door).unwrap();
        sender.set_nodelay(true).unwrap();
        // So many connections to the upstream are opened once.
        for request in &requests {
            exchange(&mut sender, request, "200");
        }
        let used = self.cpu();
        for request in requests.iter().cycle().take(REQUESTS) {
            exchange(&mut sender, request, "200");
        }
        (self.cpu() - used).as_secs_f64() * 1e6 / REQUESTS as f64
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let counts: Vec<usize> = env::args().filter_map(|arg| arg.parse().ok()).collect();
    let counts = match &counts[..] {
        [] => &[1000, 10_000],
        given => given,
    };
    let upstream = upstream();
    let (one, cost) = Gateway::start(1, upstream, "2s");
    println!("     1 route   start {cost}");
    thread::sleep(SETTLED);
    let own = one.memory("VmRSS:");
    println!("      memory {own} KiB");
    // What is done every few seconds has nothing to do with requests.
    let (one, _) = Gateway::start(1, upstream, "off");
    for count in counts {
        let (many, cost) = Gateway::start(*count, upstream, "2s");
        println!("{count:6} routes  start {cost}");
        let memory = |when: &str| {
            let (now, peak) = (many.memory("VmRSS:"), many.memory("VmHWM:"));
            let each = now.saturating_sub(own) as f64 / *count as f64;
            println!(
                "      memory {when} {now} KiB, {each:.1} KiB for each route; {peak} KiB at most"
            );
        };
        thread::sleep(SETTLED);
        memory("after the start");
        let used = many.cpu();
        thread::sleep(REST);
        let share = (many.cpu() - used).as_secs_f64() / REST.as_secs_f64() * 100.0;
        println!("      at rest {share:.2} % of a core");
        println!("      reload {}", many.reload());
        println!("      reload {}", many.reload());
        thread::sleep(SETTLED);
        memory("after reloads");
        let (cost, bytes) = many.scrape();
        println!("      scrape {cost}, {bytes} bytes");
        drop(many);
        let (many, _) = Gateway::start(*count, upstream, "off");
        for spread in [1, 100] {
            let (mut costs, mut ratios) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let (few, many) = (one.per_request(1), many.per_request(spread));
                costs.push(many);
                ratios.push(many / few);
            }
            println!(
                "      requests to {spread} of them {:6.1} µs of CPU each, {:.3} times what they cost with one route",
                median(costs),
                median(ratios)
            );
        }
    }
}
