//! The process: its exit code and nothing else.

use std::process::ExitCode;

/// Cheaper per request than the system's, and it gives memory back after a peak.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    countersign::cli::main()
}
