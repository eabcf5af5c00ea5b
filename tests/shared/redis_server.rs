//! A Redis or Valkey of the test's own: in its own folder, on a Unix socket and, where one is wanted, a free port.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Names the program to start instead of `redis-server`.
pub(crate) const PROGRAM: &str = "COUNTERSIGN_TEST_REDIS";

/// A server that runs until it is dropped.
pub(crate) struct RedisServer {
    child: Child,
    folder: TempDir,
    program: String,
    options: Vec<String>,
}

impl RedisServer {
    /// One that listens on its socket alone and keeps its data in memory; `options` as on the command line: `--maxmemory 1mb`.
    pub(crate) fn start(options: &[&str]) -> Self {
        let quiet = ["--port", "0", "--save", "", "--appendonly", "no"];
        Self::start_with(&[&quiet[..], options].concat())
    }

    /// One that writes every change to disk before it answers, so that it forgets nothing in a restart.
    pub(crate) fn durable() -> Self {
        let durable = ["--appendonly", "yes", "--appendfsync", "always"];
        Self::start_with(&[&["--port", "0", "--save", ""][..], &durable].concat())
    }

    /// One that also listens on a free port of 127.0.0.1, which stands for `$PORT` in the options.
    pub(crate) fn on_port(options: &[&str]) -> (Self, u16) {
        // Freed and taken again: another process may come between.
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let options: Vec<_> = options
                .iter()
                .map(|option| option.replace("$PORT", &port.to_string()))
                .collect();
            let options: Vec<_> = options.iter().map(String::as_str).collect();
            if let Some(server) = Self::try_start(&options) {
                return (server, port);
            }
        }
        panic!("no free port");
    }

    /// A Sentinel, which watches nothing yet, on such a port; `options` as for the others.
    pub(crate) fn sentinel(options: &[&str]) -> (Self, u16) {
        // It keeps what it knows in that file.
        let own = ["$DIR/sentinel.conf", "--sentinel", "--bind", "127.0.0.1"];
        Self::on_port(&[&own[..], options].concat())
    }

    fn start_with(options: &[&str]) -> Self {
        Self::try_start(options).expect("a server that starts")
    }

    /// `$DIR` in an option is the server's folder.
    fn try_start(options: &[&str]) -> Option<Self> {
        #[expect(clippy::disallowed_methods, reason = "whoever runs the tests chooses")]
        let program = std::env::var(PROGRAM).unwrap_or_else(|_| "redis-server".into());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sentinel.conf"), "").unwrap();
        let path = folder.path().to_str().unwrap();
        let options = options.iter().map(|option| option.replace("$DIR", path));
        let options: Vec<_> = options.collect();
        let child = spawn(&program, folder.path(), &options)?;
        Some(Self {
            child,
            folder,
            program,
            options,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// The address as `store` in a configuration.
    pub(crate) fn url(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// Stops it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, with the data that it had written.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
        self.child = spawn(&self.program, self.folder.path(), &self.options)
            .expect("a server that starts again");
    }

    /// Lets it do nothing until [`Self::resume`]. Its sockets stay open.
    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// Ends [`Self::pause`].
    pub(crate) fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    /// Asks it, and gives the answer as it came: `+PONG`, `:1`, `$5` and the text on the next line.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(command.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The value of a key; `None` if there is none.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let answer = self.ask(&["GET", key]);
        let (kind, value) = answer.split_once("\r\n")?;
        (kind != "$-1").then(|| value.trim_end().to_owned())
    }

    /// All keys, in no order.
    pub(crate) fn keys(&self) -> Vec<String> {
        let answer = self.ask(&["KEYS", "*"]);
        let lines = answer.lines().skip(1);
        lines
            .filter(|line| !line.starts_with('$'))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts it and waits until it takes connections; `None` if it ends instead.
fn spawn(program: &str, folder: &Path, options: &[String]) -> Option<Child> {
    let mut child = Command::new(program)
        .args(options)
        .args(["--unixsocket", "redis.sock", "--dir"])
        .arg(folder)
        .args(["--logfile", "", "--daemonize", "no"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}, which the tests need: {error}"));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // On its socket it waits last; a Sentinel listens before it tells its name.
    let ready = lines.by_ref().map_while(Result::ok).any(|line| {
        line.contains("Sentinel ID is")
            || line.contains("eady to accept connections")
                && (line.contains("redis.sock") || line.contains("unix"))
    });
    if !ready {
        let _ = child.kill();
        let _ = child.wait();
        return None;
    }
    thread::spawn(move || lines.for_each(drop));
    Some(child)
}
