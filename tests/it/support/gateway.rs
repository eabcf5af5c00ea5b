//! The gateway under test, as a process.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;

use super::{
    PATIENCE,
    client::{self, Door},
    delivery::Delivery,
    logs::{Line, Logs},
    tls::{self, Identity},
    wire::{Address, Answer},
};

/// What stands for the gateway's own folder in any piece of configuration.
const FOLDER: &str = "$DIR";

/// A gateway to be: collects configuration and files. `$DIR` in a piece of configuration is the gateway's folder.
pub(crate) struct Builder {
    folder: TempDir,
    listen: Vec<String>,
    server: String,
    tls: String,
    limits: String,
    rest: String,
    environment: Vec<(String, String)>,
    /// Shell commands that lower limits of the process.
    ulimits: Vec<String>,
    /// Sockets to pass as systemd does, with their names.
    passed: Vec<(String, OwnedFd)>,
}

/// A gateway that did not start.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
}

/// A gateway that runs; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    logs: Logs,
    doors: Vec<Door>,
    admin: Option<Door>,
    folder: TempDir,
}

impl Builder {
    /// Writes a file into the gateway's folder.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// The folder that will be the gateway's.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Listens here instead of on a free port: `127.0.0.1:0`, `unix:$DIR/in.sock`.
    pub(crate) fn listen(mut self, addresses: &[&str]) -> Self {
        self.listen = addresses.iter().map(ToString::to_string).collect();
        self
    }

    /// Adds lines to `[server]`.
    pub(crate) fn server(mut self, lines: &str) -> Self {
        self.server.push_str(&format!("{lines}\n"));
        self
    }

    /// Adds lines to `[limits]`.
    pub(crate) fn limits(mut self, lines: &str) -> Self {
        self.limits.push_str(&format!("{lines}\n"));
        self
    }

    /// Adds whole sections.
    pub(crate) fn config(mut self, sections: &str) -> Self {
        self.rest.push_str(&format!("{sections}\n"));
        self
    }

    /// Adds a route with one secret, whose id is `test`; `lines` are further keys.
    pub(crate) fn route(
        self,
        name: &str,
        path: &str,
        secret: impl AsRef<[u8]>,
        upstream: &str,
        lines: &str,
    ) -> Self {
        self.file(&format!("secrets/{name}"), secret)
            .config(&format!(
                r#"
            [[route]]
            name = "{name}"
            path = "{path}"
            scheme = "carevalidate"
            secrets = [{{ id = "test", file = "{FOLDER}/secrets/{name}" }}]
            upstream = "{upstream}"
            {lines}
            "#
            ))
    }

    /// Speaks TLS with a certificate for the tests' hosts.
    pub(crate) fn tls(self) -> Self {
        self.tls_with(&tls::authority().issue_local(), "")
    }

    /// Speaks TLS with this certificate; `lines` are further keys of `[server.tls]`.
    pub(crate) fn tls_with(mut self, identity: &Identity, lines: &str) -> Self {
        self.tls = format!(
            "[server.tls]\ncertificate = \"{FOLDER}/tls/cert.pem\"\nprivate_key = \"{FOLDER}/tls/key.pem\"\n{lines}\n"
        );
        self.file("tls/cert.pem", &identity.certificate_pem)
            .file("tls/key.pem", &identity.key_pem)
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs it with that many descriptors at most.
    pub(crate) fn open_files(mut self, most: u32) -> Self {
        self.ulimits.push(format!("ulimit -n {most}"));
        self
    }

    /// Lets no file grow beyond that many bytes, as if the disk were full (but for the name of the error).
    pub(crate) fn file_size(mut self, most: u64) -> Self {
        // SIGXFSZ would end the process.
        self.ulimits
            .push(format!("trap '' XFSZ && ulimit -S -f {}", most / 512));
        self
    }

    /// Passes a socket as systemd does. There is room for two.
    pub(crate) fn pass(mut self, name: &str, socket: impl Into<OwnedFd>) -> Self {
        self.passed.push((name.into(), socket.into()));
        self
    }

    /// Starts the gateway and waits until it is ready.
    ///
    /// # Panics
    /// If it does not get there.
    pub(crate) fn start(self) -> Gateway {
        self.try_start()
            .unwrap_or_else(|failed| panic!("{}: {}", failed.status, failed.output))
    }

    /// Starts the gateway and waits until it is ready, or gone.
    pub(crate) fn try_start(self) -> Result<Gateway, NotStarted> {
        let config = self.write_config();
        let binary = env!("CARGO_BIN_EXE_countersign");
        let mut first = self.ulimits;
        let names: Vec<_> = self.passed.iter().map(|(name, _)| name.clone()).collect();
        let mut passed = self
            .passed
            .into_iter()
            .map(|(_, socket)| Stdio::from(socket));
        // They come as what a command can be given, and move to where systemd puts them.
        match names.len() {
            0 => {}
            1 => first.push("exec 3<&0 0</dev/null".into()),
            2 => first.push("exec 3<&0 0</dev/null 4<&2 2>&1".into()),
            more => panic!("{more} sockets"),
        }
        if !names.is_empty() {
            first.push(format!(
                "export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}",
                names.len(),
                names.join(":")
            ));
        }
        let mut command = match &first[..] {
            [] => Command::new(binary),
            first => {
                let mut shell = Command::new("sh");
                shell
                    .arg("-c")
                    .arg(format!("{} && exec \"$0\" \"$@\"", first.join(" && ")))
                    .arg(binary);
                shell
            }
        };
        command
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .envs(self.environment)
            .stdin(passed.next().unwrap_or_else(Stdio::null))
            .stdout(Stdio::piped())
            .stderr(passed.next().unwrap_or_else(Stdio::piped));
        let mut child = command.spawn().unwrap();
        // It holds the sockets that were passed until it is gone.
        drop(command);
        let logs = Logs::default();
        logs.follow(child.stdout.take().unwrap());
        if let Some(stderr) = child.stderr.take() {
            logs.follow(stderr);
        }
        let mut gateway = Gateway {
            child,
            logs,
            doors: Vec::new(),
            admin: None,
            folder: self.folder,
        };
        if gateway.logs.wait_for(|line| line.is("ready")).is_none() {
            return Err(NotStarted {
                status: gateway.wait_exit(),
                output: gateway.logs.text(),
            });
        }
        for line in gateway.logs.lines() {
            if line.is("listening") {
                gateway.add_listener(&line);
            }
        }
        Ok(gateway)
    }

    fn write_config(&self) -> PathBuf {
        let folder = self.folder.path();
        fs::create_dir_all(folder.join("spool")).unwrap();
        let mut server = format!("[server]\nlisten = {:?}\n", self.listen);
        if !self.server.contains("admin =") {
            server.push_str("admin = \"127.0.0.1:0\"\n");
        }
        let limits = format!("[limits]\nspool_dir = \"{FOLDER}/spool\"\n");
        let text = [
            &server,
            &self.server,
            &self.tls,
            &limits,
            &self.limits,
            &self.rest,
        ]
        .map(String::as_str)
        .concat()
        .replace(FOLDER, folder.to_str().unwrap());
        let path = folder.join("countersign.toml");
        fs::write(&path, text).unwrap();
        path
    }
}

impl Gateway {
    /// A gateway that listens on free ports of 127.0.0.1, in plaintext, without a route.
    pub(crate) fn builder() -> Builder {
        Builder {
            folder: tempfile::tempdir().unwrap(),
            listen: vec!["127.0.0.1:0".into()],
            server: String::new(),
            tls: String::new(),
            limits: String::new(),
            rest: String::new(),
            environment: Vec::new(),
            ulimits: Vec::new(),
            passed: Vec::new(),
        }
    }

    fn add_listener(&mut self, line: &Line) {
        let door = Door {
            address: Address::parse(line.text_field("address").expect("an address")),
            tls: line.bool_field("tls").expect("whether it speaks TLS"),
        };
        match line.text_field("listener") {
            Some("data") => self.doors.push(door),
            Some("admin") => self.admin = Some(door),
            _ => panic!("which listener? {line}"),
        }
    }

    /// The first listener for senders.
    pub(crate) fn door(&self) -> &Door {
        &self.doors[0]
    }

    /// All listeners for senders.
    pub(crate) fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// The gateway's own folder: configuration, secrets, spool.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it wrote so far.
    pub(crate) fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Waits for the log line of the request with this id.
    pub(crate) fn request_line(&self, id: &str) -> Line {
        self.logs
            .wait_for(|line| line.is("request") && line.text_field("request_id") == Some(id))
            .unwrap_or_else(|| panic!("no line for {id}:\n{}", self.logs.text()))
    }

    /// The listener for health and metrics.
    pub(crate) fn admin_door(&self) -> &Door {
        self.admin.as_ref().expect("an admin listener")
    }

    /// Asks the admin listener.
    pub(crate) fn admin(&self, target: &str) -> Answer {
        let mut wire = client::raw(self.admin_door());
        wire.send(&Delivery::post(target, "").method("GET").raw_head())
            .unwrap();
        wire.answer("GET").unwrap()
    }

    /// The metrics page.
    pub(crate) fn metrics(&self) -> String {
        let answer = self.admin("/metrics");
        assert_eq!(answer.status, 200, "metrics");
        String::from_utf8(answer.body).unwrap()
    }

    /// Waits until so many requests are between head and answer.
    pub(crate) fn wait_for_inflight(&self, count: u64) {
        self.wait_for_metric("countersign_inflight_requests", |value| value == count);
    }

    /// Waits until so many connections are open.
    pub(crate) fn wait_for_connections(&self, count: u64) {
        self.wait_for_metric("countersign_connections", |value| value == count);
    }

    /// The value of one metric, by its name and labels as they are printed; 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.metrics()
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or(0)
    }

    /// Asks until a metric is as wanted. Every question is a round trip, so this does not spin.
    ///
    /// # Panics
    /// If that takes longer than [`PATIENCE`].
    pub(crate) fn wait_for_metric(&self, name: &str, wanted: impl Fn(u64) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !wanted(self.metric(name)) {
            assert!(
                Instant::now() < end,
                "waited {PATIENCE:?} for {name}:\n{}",
                self.metrics()
            );
        }
    }

    /// Resident memory in KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Looks until resident memory in KiB is as wanted, and tells it. Reads one file each time, so this yields to others.
    ///
    /// # Panics
    /// If that takes longer than [`PATIENCE`].
    pub(crate) fn wait_for_rss_kib(&self, wanted: impl Fn(u64) -> bool) -> u64 {
        let end = Instant::now() + PATIENCE;
        loop {
            let kib = self.rss_kib();
            if wanted(kib) {
                return kib;
            }
            assert!(Instant::now() < end, "waited {PATIENCE:?}: {kib} KiB");
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// The most memory that was ever resident, in KiB.
    pub(crate) fn peak_rss_kib(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// How often memory had to be found for a page that was touched, since the start.
    pub(crate) fn page_faults(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name in brackets may hold anything; the state comes next, minflt seven places after it.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(7).unwrap().parse().unwrap()
    }

    fn memory(&self, row: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        status
            .lines()
            .find_map(|line| line.strip_prefix(row))
            .and_then(|value| value.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("no {row} in {status}"))
    }

    /// How many files and sockets it holds open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// Waits until it holds no more than so many files and sockets.
    pub(crate) fn wait_for_descriptors(&self, most: usize) {
        let end = Instant::now() + PATIENCE;
        while self.descriptors() > most {
            assert!(
                Instant::now() < end,
                "{} descriptors, more than {most}",
                self.descriptors()
            );
            thread::yield_now();
        }
    }

    /// Takes back what [`Builder::file_size`] did.
    pub(crate) fn lift_file_size(&self) {
        let none = Rlimit {
            current: None,
            maximum: None,
        };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, none).unwrap();
    }

    /// Writes a file of its folder in one step, as a careful editor does: there is never half of it.
    pub(crate) fn replace(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.folder().join(name);
        let new = path.with_extension("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// What its configuration file holds.
    pub(crate) fn config(&self) -> String {
        fs::read_to_string(self.folder().join("countersign.toml")).unwrap()
    }

    /// Puts something else in place of a piece of its configuration.
    pub(crate) fn reconfigure(&self, old: &str, new: &str) {
        let text = self.config();
        assert!(text.contains(old), "{old:?} in {text}");
        self.replace("countersign.toml", text.replacen(old, new, 1));
    }

    /// Does something that makes it reload, and returns the line that tells how that went.
    pub(crate) fn reloads(&self, cause: impl FnOnce(&Self)) -> Line {
        let tells =
            |line: &Line| line.is("reloaded") || line.is("reload failed, the old state serves on");
        let before = self.logs.lines().iter().filter(|line| tells(line)).count();
        cause(self);
        self.logs.wait_for_count(before + 1, tells)[before].clone()
    }

    /// Sends SIGHUP and waits until it has reloaded, well or badly.
    pub(crate) fn hang_up(&self) -> Line {
        self.reloads(|gateway| gateway.signal(Signal::HUP))
    }

    /// The listeners for senders as of now, with those that a reload opened and without those that it closed.
    pub(crate) fn open_doors(&self) -> Vec<Door> {
        let mut doors: Vec<Door> = Vec::new();
        for line in self.logs.lines() {
            if line.text_field("listener") != Some("data") {
                continue;
            }
            let address = Address::parse(line.text_field("address").expect("an address"));
            if line.is("listening") {
                let tls = line.bool_field("tls").expect("whether it speaks TLS");
                doors.push(Door { address, tls });
            } else {
                doors.retain(|door| door.address != address);
            }
        }
        doors
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the process ended.
    ///
    /// # Panics
    /// If that takes longer than [`PATIENCE`].
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        self.logs.wait_for_end();
        self.child.wait().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("output of the gateway:\n{}", self.logs.text());
        }
    }
}

/// Checks that a request was refused for its signature, and how.
pub(crate) fn assert_not_verified(answer: &Answer) {
    assert_problem(answer, 401, "not_verified");
    assert!(answer.fields.has("www-authenticate"), "{answer:?}");
}

/// Checks that a request was refused with this status and code.
pub(crate) fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{code}: {answer:?}");
    assert_eq!(
        answer.fields.one("content-type"),
        "application/problem+json"
    );
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{problem}");
    assert_eq!(problem["code"], code, "{problem}");
    assert!(!request_id(answer).is_empty(), "{problem}");
}

/// The request id in a refusal.
pub(crate) fn request_id(refusal: &Answer) -> String {
    let problem = refusal.json();
    let instance = problem["instance"].as_str().unwrap_or_default();
    let id = instance.strip_prefix("urn:uuid:");
    id.unwrap_or_else(|| panic!("no request id: {problem}"))
        .to_owned()
}
