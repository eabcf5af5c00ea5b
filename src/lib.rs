//! Countersign: a reverse proxy that verifies webhook signatures and forwards the bytes unchanged.
//!
//! The program is the product; this library is how it is built and tested. Begin with [`architecture`] and [`pipeline`].

#[doc = include_str!("../ARCHITECTURE.md")]
pub mod architecture {}

// What the tests in `tests/` and those here share knows the crate by its name.
#[cfg(test)]
extern crate self as countersign;

pub mod acme;
pub mod admin;
pub mod assemble;
pub mod backoff;
pub mod body;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(feature = "otlp")]
pub mod export;
pub mod fetch;
pub mod forward;
pub mod handshake;
pub mod limit;
pub mod listen;
pub mod pem;
pub mod pipeline;
pub mod receive;
pub mod reject;
pub mod reload;
pub mod replay;
pub mod route;
pub mod scheme;
pub mod secret;
pub mod server;
pub mod snapshot;
pub mod systemd;
pub mod telemetry;
pub mod upstream;
pub mod verify;
