//! Countersign.

pub mod clock;
pub mod config;
pub mod scheme;
pub mod secret;
