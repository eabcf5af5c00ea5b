//! Tests of the binary from outside: every test starts its own gateway, on free ports and in its own folder.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

#[cfg(feature = "acme")]
mod acme;
mod carevalidate;
mod conformance;
mod drain;
mod fetch;
mod figures;
#[cfg(feature = "redis")]
mod fleet;
mod flood;
mod forwards_bytes_unchanged;
mod handshakes;
mod hardening;
mod harness;
mod health;
mod limits;
mod memory;
mod metrics;
mod observe;
mod providers;
mod proxy_protocol;
mod public_url;
mod receivers;
#[cfg(feature = "redis")]
mod redis_guard;
#[cfg(feature = "redis")]
mod redis_sentinel;
#[cfg(feature = "redis")]
mod redis_store;
mod reload;
mod replay;
mod schemes;
mod support;
mod systemd;
mod throttle;
mod tls;
#[cfg(feature = "otlp")]
mod traces;
mod trials;
mod upstreams;
