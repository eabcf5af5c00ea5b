//! What the store in Redis costs beside two bare round trips, and how much one Redis bears.
//!
//! ```text
//! cargo bench --bench redis_store
//! ```
//!
//! Starts a `redis-server` of its own (or what COUNTERSIGN_TEST_REDIS names) and speaks to it over TCP on this machine. The first table asks one
//! question after the other, for deliveries that are new, and takes turns between the two ways every few milliseconds, so that a busy machine
//! slows both: `admit` and `settle` against two times `SET` with an expiry on the same kind of connection. The ratio is that of
//! the medians of all turns. The second table lets many deliveries go at once, and shows how much of its one core Redis used.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on fails where it stands"
)]

#[path = "../tests/shared/redis_server.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod redis_server;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use countersign::{
    config::{OnStoreFailure, RedisConfig, RedisServers},
    replay::{Admission, Id, RedisPasswords, RedisStore, Settlement},
    telemetry::Metrics,
};
use redis::{AsyncConnectionConfig, Client, Cmd, aio::MultiplexedConnection};
use redis_server::RedisServer;

const TURNS: usize = 400;
const DELIVERIES_PER_TURN: usize = 50;

const MINUTE: Duration = Duration::from_secs(60);
const TAKEN: Settlement = Settlement::Succeeded {
    status: 200,
    window: MINUTE,
};

/// An id that no other has.
fn fresh() -> Id {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    Id(id)
}

fn store(port: u16) -> RedisStore {
    let config = RedisConfig {
        servers: RedisServers::One {
            host: "127.0.0.1".into(),
            port,
        },
        tls: None,
        database: 0,
        user: None,
        password: None,
        prefix: "countersign:".into(),
        timeout: Duration::from_secs(5),
        key: None,
    };
    RedisStore::new(
        &config,
        &RedisPasswords::default(),
        OnStoreFailure::Reject,
        Metrics::default().replay(),
    )
    .unwrap()
}

async fn guard(store: &RedisStore) {
    let id = fresh();
    match store.admit(id, MINUTE).await {
        Ok(Admission::Granted(token)) => store.settle(id, token, TAKEN).await.unwrap(),
        other => panic!("not granted: {other:?}"),
    }
}

async fn set_twice(connection: &mut MultiplexedConnection) {
    let Id(id) = fresh();
    for value in ["leased 0123456789abcdef", "succeeded 200"] {
        let mut command = Cmd::new();
        command.arg("SET").arg(&id).arg(value).arg("PX").arg(60_000);
        command.query_async::<()>(connection).await.unwrap();
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6 / DELIVERIES_PER_TURN as f64
}

/// Seconds of CPU that a process has used.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |place: usize| fields[place].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

async fn latency(port: u16) {
    let store = store(port);
    let client = Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let mut bare = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap();
    let (mut guarded, mut twice) = (Vec::new(), Vec::new());
    for turn in 0..TURNS + 20 {
        let began = Instant::now();
        for _ in 0..DELIVERIES_PER_TURN {
            guard(&store).await;
        }
        let middle = Instant::now();
        for _ in 0..DELIVERIES_PER_TURN {
            set_twice(&mut bare).await;
        }
        // The first turns warm up.
        if turn >= 20 {
            guarded.push(middle - began);
            twice.push(middle.elapsed());
        }
    }
    let (guarded, twice) = (median(guarded), median(twice));
    println!("one delivery after the other");
    println!("  admit and settle      {guarded:8.1} µs");
    println!("  two bare round trips  {twice:8.1} µs");
    println!("  ratio                 {:8.3}", guarded / twice);
}

async fn rate(port: u16, pid: u32, stores: usize, at_once: usize) {
    let stores: Vec<_> = (0..stores).map(|_| Arc::new(store(port))).collect();
    for store in &stores {
        guard(store).await;
    }
    let (began, used) = (Instant::now(), cpu(pid));
    let end = began + Duration::from_secs(3);
    let tasks: Vec<_> = (0..at_once)
        .map(|task| {
            let store = stores[task % stores.len()].clone();
            tokio::spawn(async move {
                let mut done = 0_u64;
                while Instant::now() < end {
                    guard(&store).await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    let took = began.elapsed().as_secs_f64();
    let share = (cpu(pid) - used) / took * 100.0;
    println!(
        "  {:2} connections, {at_once:4} at once  {:9.0} deliveries/s  Redis used {share:3.0} % of a core, {:.1} µs each",
        stores.len(),
        done as f64 / took,
        (cpu(pid) - used) / done as f64 * 1e6,
    );
}

fn main() {
    let (server, port) =
        RedisServer::on_port(&["--port", "$PORT", "--save", "", "--appendonly", "no"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        latency(port).await;
        println!("many at once");
        for (stores, at_once) in [(1, 16), (1, 256), (2, 256), (4, 256), (8, 1024)] {
            rate(port, server.pid(), stores, at_once).await;
        }
    });
}
