//! What the tests stand on: a gateway under test, upstreams that record, senders that can misbehave.
//!
//! HTTP/1.1 is read by [`wire`], signatures are made by [`sign`]: nothing that judges uses the crate under test. Only [`inside`] runs it in
//! this process, and [`vectors`] reads in the catalogue how a request can be forged.

#![allow(
    dead_code,
    reason = "a tool box: no single set of tests needs all of it"
)]

pub(crate) mod client;
#[cfg(feature = "otlp")]
pub(crate) mod collector;
pub(crate) mod cut;
pub(crate) mod delivery;
pub(crate) mod floods;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod http2;
pub(crate) mod inside;
pub(crate) mod key_server;
pub(crate) mod logs;
#[cfg(feature = "acme")]
pub(crate) mod pebble;
pub(crate) mod recorded;
pub(crate) mod recorder;
#[path = "../../shared/redis_server.rs"]
pub(crate) mod redis_server;
#[path = "../../shared/replay_model.rs"]
pub(crate) mod replay_model;
pub(crate) mod script;
pub(crate) mod sign;
pub(crate) mod tls;
pub(crate) mod upstream;
#[path = "../../shared/vectors.rs"]
pub(crate) mod vectors;
pub(crate) mod wire;

use std::{sync::LazyLock, time::Duration};

use tokio::runtime::Runtime;

/// The longest that a test waits for something that is bound to happen. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the asynchronous clients and servers of all tests.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    });
    &RUNTIME
}

/// Runs one piece of asynchronous work to its end.
///
/// # Panics
/// If it takes longer than `limit`.
pub(crate) fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    runtime().block_on(async {
        tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| panic!("not done within {limit:?}"))
    })
}
