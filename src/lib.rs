//! Countersign.

pub mod body;
pub mod clock;
pub mod config;
pub mod scheme;
pub mod secret;
