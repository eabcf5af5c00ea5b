//! Whether it is Redis that bounds the rate of several gateways, or the gateways.
//!
//! ```text
//! cargo bench --bench redis_rate
//! ```
//!
//! Redis and each gateway may use a small part of a core, set as a quota of their control groups, so that a small machine has room for all
//! of them: then it can be seen who reaches his limit. Sender and upstream are not bounded. Needs root and Linux's control groups,
//! version 1 or 2, and `redis-server` (or what COUNTERSIGN_TEST_REDIS names). Every delivery is a new one: two questions to Redis.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on fails where it stands"
)]

#[path = "../tests/shared/redis_server.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod redis_server;
mod sample;

use std::{
    env, fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use redis_server::RedisServer;
use sample::{Routes, Signature, cpu, exchange, free_port, upstream};
use tempfile::TempDir;

/// Parts of a core.
const REDIS_SHARE: f64 = 0.06;
const GATEWAY_SHARE: f64 = 0.15;

/// Over what quotas are measured out: short, so that nobody waits for long.
const PERIOD: Duration = Duration::from_millis(20);

const SENDERS_EACH: usize = 32;

const WARM_UP: Duration = Duration::from_secs(2);
const TIME: Duration = Duration::from_secs(8);

/// A part of a core for a process.
struct Quota(PathBuf);

impl Quota {
    fn new(name: &str, pid: u32, share: f64) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("countersign-bench-{name}-{pid}");
        let (period, quota) = (
            PERIOD.as_micros(),
            (PERIOD.as_micros() as f64 * share) as u64,
        );
        let is_first_version = root.join("cpu").exists();
        let folder = match is_first_version {
            true => root.join("cpu").join(name),
            false => root.join(name),
        };
        let write = |file: &str, text: String| {
            let path = folder.join(file);
            fs::write(&path, text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        };
        fs::create_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        if is_first_version {
            write("cpu.cfs_period_us", period.to_string());
            write("cpu.cfs_quota_us", quota.to_string());
        } else {
            write("cpu.max", format!("{quota} {period}"));
        }
        write("cgroup.procs", pid.to_string());
        Self(folder)
    }
}

impl Drop for Quota {
    /// The process has to be gone.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

struct Gateway {
    child: Child,
    door: SocketAddr,
    routes: Routes,
    _folder: TempDir,
    quota: Option<Quota>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.quota = None;
    }
}

impl Gateway {
    fn start(redis: u16, upstream: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let routes = Routes::new(folder.path(), 1, upstream);
        let mut config = fs::OpenOptions::new()
            .append(true)
            .open(routes.config())
            .unwrap();
        // The end of the file is the one route.
        writeln!(
            config,
            "replay = \"1h\"\n[replay]\nstore = \"redis://127.0.0.1:{redis}\"\ntimeout = \"10s\""
        )
        .unwrap();
        let door = free_port();
        let child = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(["serve", "--admin", "off", "--log-level", "warn", "--config"])
            .arg(routes.config())
            .args(["--listen", &door.to_string()])
            .env("COUNTERSIGN_SERVER__THREADS", "1")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(door).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
        let quota = Quota::new("gateway", child.id(), GATEWAY_SHARE);
        Self {
            child,
            door,
            routes,
            _folder: folder,
            quota: Some(quota),
        }
    }

    fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }
}

/// Sends new deliveries until it is over, and counts those that were accepted.
fn send(gateway: &Gateway, over: &AtomicBool, accepted: &AtomicU64) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let mut sender = TcpStream::connect(gateway.door).unwrap();
    sender.set_nodelay(true).unwrap();
    while !over.load(Ordering::Relaxed) {
        let body = format!("event {:032}", LAST.fetch_add(1, Ordering::Relaxed));
        let delivery = gateway
            .routes
            .delivery(0, body.as_bytes(), Signature::Right);
        exchange(&mut sender, &delivery, "200");
        accepted.fetch_add(1, Ordering::Relaxed);
    }
}

fn measure(count: usize, redis: &RedisServer, port: u16, redis_share: f64, upstream: SocketAddr) {
    let gateways: Vec<_> = (0..count).map(|_| Gateway::start(port, upstream)).collect();
    let (over, accepted) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for gateway in &gateways {
            for _ in 0..SENDERS_EACH {
                scope.spawn(|| send(gateway, &over, &accepted));
            }
        }
        thread::sleep(WARM_UP);
        let gateways_cpu = || gateways.iter().map(Gateway::cpu).sum::<Duration>();
        let began = Instant::now();
        let before = (
            accepted.load(Ordering::Relaxed),
            cpu(redis.pid()),
            gateways_cpu(),
        );
        thread::sleep(TIME);
        let took = began.elapsed().as_secs_f64();
        let after = (
            accepted.load(Ordering::Relaxed),
            cpu(redis.pid()),
            gateways_cpu(),
        );
        over.store(true, Ordering::Relaxed);
        let done = (after.0 - before.0) as f64;
        let (redis, gateways) = (
            (after.1 - before.1).as_secs_f64(),
            (after.2 - before.2).as_secs_f64(),
        );
        println!(
            "{count:8}  {:12.0}  {:5.1} µs {:5.0} %  {:8.1} µs {:5.0} %",
            done / took,
            redis / done * 1e6,
            redis / took / redis_share * 100.0,
            gateways / done * 1e6,
            gateways / took / GATEWAY_SHARE / count as f64 * 100.0,
        );
    });
}

fn main() {
    let upstream = upstream();
    for share in [REDIS_SHARE, 1.0] {
        println!(
            "Redis may use {:.0} % of a core, each gateway {:.0} %",
            share * 100.0,
            GATEWAY_SHARE * 100.0
        );
        println!("gateways  deliveries/s   Redis: of it     gateways: of it");
        for count in [1, 2, 3, 4, 6] {
            let options = ["--port", "$PORT", "--save", "", "--appendonly", "no"];
            let (redis, port) = RedisServer::on_port(&options);
            let quota = Quota::new("redis", redis.pid(), share);
            measure(count, &redis, port, share, upstream);
            drop(redis);
            drop(quota);
        }
    }
}
