//! The service manager: sockets that it passes, restarts that lose nothing, and what it is told. The tests play its part.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::net::{UnixDatagram, UnixListener},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    PATIENCE,
    client::{self, Door, Hello},
    delivery::Delivery,
    gateway::{Builder, Gateway},
    upstream::Upstream,
    wire::Address,
};

const SECRET: &[u8] = b"a secret of these tests";

fn builder(upstream: &Upstream) -> Builder {
    Gateway::builder().route("hooks", "/*", SECRET, &upstream.url(), "")
}

fn delivery(key: &str) -> Delivery {
    Delivery::post("/", format!("body of {key}"))
        .signed(SECRET)
        .header("X-Key", key)
}

fn status(door: &Door) -> u16 {
    client::send_raw(door, &delivery("one")).status
}

fn door(address: SocketAddr) -> Door {
    Door {
        address: Address::Tcp(address),
        tls: false,
    }
}

#[test]
fn sockets_are_found_by_name_and_by_address() {
    let upstream = Upstream::accepting();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let address = format!("unix:{}", path.display());
    let mut gateway = builder(&upstream)
        .listen(&["systemd:hooks", &address])
        .pass("hooks", tcp.try_clone().unwrap())
        .pass("other", unix.try_clone().unwrap())
        .start();
    let wanted = [
        Address::Tcp(tcp.local_addr().unwrap()),
        Address::Unix(path.clone()),
    ];
    let doors: Vec<_> = gateway
        .doors()
        .iter()
        .map(|door| door.address.clone())
        .collect();
    assert_eq!(doors, wanted);
    for door in gateway.doors() {
        assert_eq!(status(door), 200, "{door:?}");
    }
    // The socket's file is the manager's: it stays.
    gateway.terminate();
    assert!(gateway.wait_exit().success());
    assert!(path.exists());
}

#[test]
fn a_name_that_was_not_passed_is_a_fault_of_the_configuration() {
    let upstream = Upstream::accepting();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let failed = builder(&upstream)
        .listen(&["systemd:hooks"])
        .pass("other", tcp)
        .try_start()
        .err()
        .unwrap();
    assert_eq!(failed.status.code(), Some(78), "{failed:?}");
    for wanted in [
        "cannot listen on systemd:hooks",
        "passed only other",
        "FileDescriptorName=",
    ] {
        assert!(failed.output.contains(wanted), "{wanted}: {failed:?}");
    }
    let failed = builder(&upstream).listen(&["systemd:hooks"]).try_start();
    let failed = failed.err().unwrap();
    assert!(
        failed.output.contains("systemd passed no socket"),
        "{failed:?}"
    );
}

#[test]
fn a_socket_that_nobody_names_is_warned_of_and_waits_for_a_reload() {
    let upstream = Upstream::accepting();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let gateway = builder(&upstream).pass("hooks", tcp).start();
    let warned = gateway
        .logs()
        .wait_for(|line| line.text_field("sockets") == Some("hooks"));
    assert!(warned.is_some());
    // By its address, twice: it is there again although it was closed here in between.
    for _ in 0..2 {
        let both = format!("[\"127.0.0.1:0\", \"{address}\"]");
        gateway.reconfigure("[\"127.0.0.1:0\"]", &both);
        assert!(gateway.hang_up().is("reloaded"));
        assert_eq!(status(&door(address)), 200);
        gateway.reconfigure(&both, "[\"127.0.0.1:0\"]");
        assert!(gateway.hang_up().is("reloaded"));
        assert_eq!(gateway.open_doors().len(), 1);
    }
}

/// Delivers until told to stop, and returns the keys that were answered. `reconnects`: a connection that broke before its answer is tried
/// again, as senders do.
fn deliver(
    door: &Door,
    sender: usize,
    reuse: bool,
    reconnects: bool,
    over: &AtomicBool,
) -> Vec<String> {
    let mut answered = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let attempt = || -> io::Result<Vec<String>> {
            let mut answered_here = Vec::new();
            let mut wire = client::raw_with(door, &Hello::default())?;
            loop {
                let key = format!("{sender}-{}", answered.len() + answered_here.len());
                let sent = wire.send(&delivery(&key).raw());
                let answer = sent.and_then(|()| wire.answer("POST"));
                let answer = match answer {
                    Ok(answer) => answer,
                    // Nothing of this connection was lost but the last try.
                    Err(_) if reconnects => return Ok(answered_here),
                    Err(error) => panic!("{key} was dropped: {error}"),
                };
                assert_eq!(answer.status, 200, "{key}: {answer:?}");
                answered_here.push(key);
                let over = over.load(Ordering::SeqCst);
                if over || !reuse || answer.fields.has("connection") {
                    return Ok(answered_here);
                }
            }
        };
        match attempt() {
            Ok(more) => answered.extend(more),
            Err(_) if reconnects => {}
            Err(error) => panic!("nobody listens: {error}"),
        }
    }
    answered
}

/// Checks that what was answered arrived, each once, and nothing else.
fn assert_all_arrived(upstream: &Upstream, mut answered: Vec<String>) {
    let mut arrivals = BTreeMap::new();
    for seen in upstream.seen() {
        *arrivals
            .entry(seen.fields.one("x-key").to_owned())
            .or_insert(0) += 1;
    }
    for (key, count) in &arrivals {
        assert_eq!(*count, 1, "{key}");
    }
    answered.sort();
    assert!(answered.iter().eq(arrivals.keys()), "answered and arrived");
    assert_eq!(upstream.faults(), Vec::<String>::new());
}

/// Runs `work` while eight senders deliver, every second with a new connection for each delivery.
fn under_load(door: &Door, reconnects: bool, work: impl FnOnce()) -> Vec<String> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let senders: Vec<_> = (0..8)
            .map(|sender| {
                let over = &over;
                scope.spawn(move || deliver(door, sender, sender % 2 > 0, reconnects, over))
            })
            .collect();
        let ends = Ends(&over);
        work();
        drop(ends);
        let answered = senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap());
        answered.collect()
    })
}

/// Stops the senders, also if the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_restart_with_passed_sockets_loses_nothing() {
    let upstream = Upstream::accepting();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = || {
        builder(&upstream)
            .listen(&["systemd:hooks"])
            .pass("hooks", socket.try_clone().unwrap())
            .start()
    };
    let mut gateway = start();
    let door = door(socket.local_addr().unwrap());
    let answered = under_load(&door, false, || {
        for restart in 1..=3 {
            upstream.wait_for(restart * 200);
            gateway.terminate();
            assert!(gateway.wait_exit().success());
            gateway = start();
        }
        upstream.wait_for(upstream.count() + 200);
    });
    assert_all_arrived(&upstream, answered);
}

#[test]
fn a_shared_port_bridges_a_restart() {
    let upstream = Upstream::accepting();
    // Keeps the port for the test, and takes no connection: it does not listen.
    let holder = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    holder.set_reuse_address(true).unwrap();
    holder.set_reuse_port(true).unwrap();
    holder
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    let address = holder.local_addr().unwrap().as_socket().unwrap();
    let start = |server: &str| {
        let builder = builder(&upstream).server(server);
        builder.listen(&[&address.to_string()]).try_start()
    };
    let shared = "reuse_port = true";
    let mut gateway = start(shared).unwrap();
    // Not by default.
    assert_eq!(start("").err().unwrap().status.code(), Some(78));
    let answered = under_load(&door(address), true, || {
        for restart in 1..=3 {
            upstream.wait_for(restart * 200);
            let next = start(shared).unwrap();
            gateway.terminate();
            assert!(gateway.wait_exit().success());
            gateway = next;
        }
        upstream.wait_for(upstream.count() + 200);
    });
    assert_all_arrived(&upstream, answered);
}

/// What the manager hears, message by message.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    fn path(&self) -> String {
        self.folder
            .path()
            .join("notify")
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn hear(&self) -> BTreeMap<String, String> {
        let mut buffer = [0; 4096];
        let read = self.socket.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..read]).unwrap();
        let lines = text.lines().map(|line| line.split_once('=').unwrap());
        lines
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// The next message that says this, and how many others came before it.
    fn wait_for(&self, name: &str) -> (BTreeMap<String, String>, usize) {
        for others in 0.. {
            let message = self.hear();
            if message.contains_key(name) {
                return (message, others);
            }
        }
        unreachable!()
    }
}

/// The clock that systemd compares with, in microseconds.
fn monotonic() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
    (seconds * 1e6) as u64
}

#[test]
fn the_manager_is_told_of_start_reload_and_stop() {
    let upstream = Upstream::accepting();
    let manager = Manager::listen();
    let mut gateway = builder(&upstream)
        .env("NOTIFY_SOCKET", &manager.path())
        .server("reload_interval = \"off\"")
        .start();
    let (ready, others) = manager.wait_for("READY");
    assert_eq!((&*ready["READY"], others), ("1", 0));
    assert_eq!(
        ready["STATUS"],
        "1 routes, 0 connections, 0 requests under way"
    );
    assert_eq!(status(gateway.door()), 200);

    for (good, tail) in [
        (true, ""),
        (false, "; a newer configuration is refused since 20"),
    ] {
        if !good {
            gateway.reconfigure("[[route]]", "[[rout]]");
        }
        let before = monotonic();
        gateway.signal(Signal::HUP);
        let (reloading, _) = manager.wait_for("RELOADING");
        assert_eq!(reloading["RELOADING"], "1");
        let at: u64 = reloading["MONOTONIC_USEC"].parse().unwrap();
        // The file has hundredths of a second.
        assert!(at + 10_000 >= before && at <= monotonic() + 10_000, "{at}");
        let (ready, _) = manager.wait_for("READY");
        let (_, refused) = ready["STATUS"].split_once("under way").unwrap();
        assert!(refused.starts_with(tail), "{ready:?}");
        assert_eq!(refused.is_empty(), good, "{ready:?}");
    }
    gateway.terminate();
    let (stopping, _) = manager.wait_for("STOPPING");
    assert_eq!(stopping["STOPPING"], "1");
    assert!(gateway.wait_exit().success());
}

#[test]
fn the_watchdog_is_fed_twice_in_its_time() {
    const LIMIT: Duration = Duration::from_secs(1);
    let upstream = Upstream::accepting();
    let manager = Manager::listen();
    let gateway = builder(&upstream)
        .env("NOTIFY_SOCKET", &manager.path())
        .env("WATCHDOG_USEC", &LIMIT.as_micros().to_string())
        .start();
    manager.wait_for("WATCHDOG");
    let began = Instant::now();
    for _ in 0..4 {
        let (message, _) = manager.wait_for("WATCHDOG");
        assert_eq!(message["WATCHDOG"], "1");
        assert!(message["STATUS"].starts_with("1 routes, "), "{message:?}");
    }
    let took = began.elapsed();
    // Four halves, and what a busy machine adds.
    assert!(took > LIMIT * 3 / 2 && took < LIMIT * 3, "{took:?}");

    // A process that stands still feeds it no more.
    gateway.signal(Signal::STOP);
    manager.socket.set_nonblocking(true).unwrap();
    while manager.socket.recv(&mut [0; 4096]).is_ok() {}
    manager.socket.set_nonblocking(false).unwrap();
    manager.socket.set_read_timeout(Some(LIMIT)).unwrap();
    let silent = manager.socket.recv(&mut [0; 4096]);
    gateway.signal(Signal::CONT);
    assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    manager.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    manager.wait_for("WATCHDOG");
}
