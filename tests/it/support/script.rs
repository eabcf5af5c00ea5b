//! Programs that tests start beside the gateway: Node and Python scripts.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::logs::Logs;

/// A file in `tests/`.
pub(crate) fn tests_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

/// Runs a program to its end and returns what it printed.
///
/// # Panics
/// If it is missing or fails.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}, which the tests need: {error}"));
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A server written in another language; killed when dropped.
pub(crate) struct Receiver {
    child: Child,
    port: u16,
}

impl Receiver {
    /// Starts a script, and waits until it prints `port <number>`.
    pub(crate) fn start(program: &str, script: &str) -> Self {
        let mut child = Command::new(program)
            .arg(tests_file(script))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}, which the tests need: {error}"));
        let logs = Logs::default();
        logs.follow(child.stdout.take().unwrap());
        logs.follow(child.stderr.take().unwrap());
        let mut receiver = Self { child, port: 0 };
        let line = logs
            .wait_for(|line| line.text.starts_with("port "))
            .unwrap_or_else(|| panic!("{script} ended:\n{}", logs.text()));
        receiver.port = line.text["port ".len()..].trim().parse().unwrap();
        receiver
    }

    /// The address as `upstream` in a route.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
