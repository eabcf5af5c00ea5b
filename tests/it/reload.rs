//! Reloading: what changed takes effect, what is broken does not, and whoever is being served does not notice.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::symlink, net::UnixDatagram},
    path::Path,
    process::Command,
    sync::{
        Arc, Condvar, Mutex, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use rustix::process::Signal;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind,
    pki_types::{CertificateDer, pem::PemObject as _},
    version::TLS12,
};

use crate::support::{
    PATIENCE,
    client::{self, Client, Door, Hello, Protocol},
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_not_verified, assert_problem},
    logs::Line,
    sign,
    tls::{Authority, Identity, authority},
    upstream::Upstream,
    wire::{Address, Socket, Wire},
};

const OLD: &[u8] = b"the secret before the change";
const NEW: &[u8] = b"the secret after the change";

/// Looks often, so that tests need not wait for long.
const OFTEN: &str = "reload_interval = \"20ms\"";

/// Looks never: what happens, SIGHUP did.
const NEVER: &str = "reload_interval = \"off\"";

fn builder(upstream: &Upstream, server: &str) -> Builder {
    Gateway::builder()
        .server(server)
        .route("hooks", "/hooks", OLD, &upstream.url(), "")
}

fn delivery(secret: &[u8]) -> Delivery {
    Delivery::post("/hooks", "{}").signed(secret)
}

fn status(door: &Door, delivery: &Delivery) -> u16 {
    client::send_raw(door, delivery).status
}

fn reloaded(line: &Line) -> &Line {
    assert!(line.is("reloaded"), "{line}");
    line
}

/// Checks that a reload failed, and returns why.
fn refused(line: &Line) -> String {
    assert!(line.is("reload failed, the old state serves on"), "{line}");
    line.text_field("reason").unwrap().to_owned()
}

fn readyz(gateway: &Gateway) -> String {
    let ready = gateway.admin("/readyz?verbose");
    assert_eq!(ready.status, 200, "{ready:?}");
    String::from_utf8(ready.body).unwrap()
}

#[test]
fn a_signal_and_a_change_of_a_file_each_take_effect() {
    let upstream = Upstream::accepting();
    for (server, cause) in [(NEVER, "SIGHUP"), (OFTEN, "file changed")] {
        let gateway = builder(&upstream, server).start();
        // The same connection before and after.
        let mut wire = client::raw(gateway.door());
        let mut send = |secret| {
            wire.send(&delivery(secret).raw()).unwrap();
            wire.answer("POST").unwrap()
        };
        assert_eq!(send(OLD).status, 200);
        assert_not_verified(&send(NEW));
        let line = gateway.reloads(|gateway| {
            gateway.replace("secrets/hooks", NEW);
            if cause == "SIGHUP" {
                gateway.signal(Signal::HUP);
            }
        });
        assert_eq!(reloaded(&line).text_field("cause"), Some(cause), "{line}");
        assert_eq!(send(NEW).status, 200);
        assert_not_verified(&send(OLD));

        let line = gateway.reloads(|gateway| {
            gateway.reconfigure("path = \"/hooks\"", "path = \"/moved\"");
            if cause == "SIGHUP" {
                gateway.signal(Signal::HUP);
            }
        });
        reloaded(&line);
        assert_problem(&send(NEW), 404, "no_route");
        let moved = Delivery::post("/moved", "{}").signed(NEW);
        assert_eq!(status(gateway.door(), &moved), 200);
        // Those of the route went on, although it moved.
        let counted = "countersign_requests_total{route=\"hooks\",outcome=\"forwarded\"}";
        gateway.wait_for_metric(counted, |count| count == 3);
        assert_eq!(
            gateway.metric("countersign_config_loads_total{result=\"succeeded\"}"),
            3
        );
    }
}

#[test]
fn the_environment_applies_as_at_the_start() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, NEVER)
        .env("COUNTERSIGN_SERVER__MARK", "X-Of-Environment")
        .start();
    gateway.reconfigure("[server]", "[server]\nmark = \"X-Of-File\"\ndrain = \"9s\"");
    gateway.replace("secrets/hooks", NEW);
    reloaded(&gateway.hang_up());
    assert_eq!(status(gateway.door(), &delivery(NEW)), 200);
    let seen = upstream.take_only();
    assert!(seen.fields.has("x-of-environment"), "{seen:?}");
    // The same process as before: what it sent comes back to be refused.
    let via = seen.fields.one("via").to_owned();
    reloaded(&gateway.hang_up());
    let loops = delivery(NEW).header("Via", via);
    assert_eq!(status(gateway.door(), &loops), 508);
}

#[test]
fn without_a_change_nothing_is_reloaded() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, OFTEN).start();
    // Written anew, moved there, touched: it holds what it held.
    gateway.replace("secrets/hooks", OLD);
    gateway.replace("countersign.toml", gateway.config());
    wait_for_looks(&gateway, 20);
    let line = gateway.reloads(|gateway| gateway.replace("secrets/hooks", NEW));
    reloaded(&line);
    assert_eq!(
        gateway.metric("countersign_config_loads_total{result=\"succeeded\"}"),
        2
    );
}

/// Waits until it has looked at its files that often. Nothing else may read meanwhile.
fn wait_for_looks(gateway: &Gateway, count: usize) {
    let read = || {
        let io = fs::read_to_string(format!("/proc/{}/io", gateway.pid())).unwrap();
        let bytes = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        bytes.unwrap().parse::<usize>().unwrap()
    };
    let enough = read() + (count + 1) * (gateway.config().len() + OLD.len());
    let end = Instant::now() + PATIENCE;
    while read() < enough {
        assert!(Instant::now() < end, "it does not look");
        thread::yield_now();
    }
}

#[test]
fn a_volume_of_kubernetes_is_followed() {
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .server(OFTEN)
        .file("volume/..2026_01/secret", OLD)
        .config(&format!(
            "[[route]]\nname = \"hooks\"\npath = \"/hooks\"\nscheme = \"carevalidate\"\nupstream = \"{}\"\n\
             secrets = [{{ id = \"test\", file = \"$DIR/volume/secret\" }}]",
            upstream.url()
        ));
    let gateway = {
        let volume = gateway.path().join("volume");
        symlink("..2026_01", volume.join("..data")).unwrap();
        symlink("..data/secret", volume.join("secret")).unwrap();
        gateway.start()
    };
    assert_eq!(status(gateway.door(), &delivery(OLD)), 200);
    let line = gateway.reloads(|gateway| swap(&gateway.folder().join("volume")));
    reloaded(&line);
    assert_eq!(status(gateway.door(), &delivery(NEW)), 200);
    assert_eq!(status(gateway.door(), &delivery(OLD)), 401);
}

/// What the kubelet does: a new folder beside the old one, and one rename of the link to it.
fn swap(volume: &Path) {
    fs::create_dir(volume.join("..2026_02")).unwrap();
    fs::write(volume.join("..2026_02/secret"), NEW).unwrap();
    symlink("..2026_02", volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    fs::remove_dir_all(volume.join("..2026_01")).unwrap();
}

#[test]
fn a_broken_configuration_is_refused_and_told_of_everywhere() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, NEVER).start();
    let successful = "countersign_config_last_reload_successful";
    assert_eq!(gateway.metric(successful), 1);
    let good = readyz(&gateway);
    assert!(good.contains("[+] configuration "), "{good}");

    gateway.reconfigure("path = \"/hooks\"", "path = \"/hooks\"\ntolerence = \"5m\"");
    // A change of a secret waits with it: all or nothing.
    gateway.replace("secrets/hooks", NEW);
    let reason = refused(&gateway.hang_up());
    // As at the start: place, line, and what was meant.
    assert!(reason.contains("unknown key `tolerence`"), "{reason}");
    assert!(reason.contains("did you mean `tolerance`?"), "{reason}");
    assert!(reason.contains("countersign.toml:"), "{reason}");
    assert_eq!(gateway.metric(successful), 0);
    assert_eq!(
        gateway.metric("countersign_config_loads_total{result=\"failed\"}"),
        1
    );
    assert_eq!(gateway.admin("/readyz").status, 200);
    let bad = readyz(&gateway);
    assert!(bad.contains("a newer one is refused since 20"), "{bad}");
    assert!(bad.contains("unknown key `tolerence`"), "{bad}");
    let since = |text: &str| text.split("since ").nth(1).unwrap()[..24].to_owned();
    assert_eq!(status(gateway.door(), &delivery(OLD)), 200);
    assert_eq!(status(gateway.door(), &delivery(NEW)), 401);

    gateway.reconfigure("tolerence = \"5m\"", "upstream_http = \"http3\"");
    let reason = refused(&gateway.hang_up());
    assert!(reason.contains("http3"), "{reason}");
    let worse = readyz(&gateway);
    assert_eq!(since(&worse), since(&bad), "since the first");
    assert!(
        worse.contains("http3") && !worse.contains("tolerence"),
        "{worse}"
    );

    gateway.reconfigure("upstream_http = \"http3\"", "");
    reloaded(&gateway.hang_up());
    assert_eq!(gateway.metric(successful), 1);
    let mended = readyz(&gateway);
    assert!(!mended.contains("refused"), "{mended}");
    assert_eq!(status(gateway.door(), &delivery(NEW)), 200);
}

#[test]
fn whatever_fails_leaves_everything_as_it_was() {
    let upstream = Upstream::accepting();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let gateway = builder(&upstream, NEVER).tls().start();
    let text = gateway.config();
    let key = gateway.folder().join("tls/key.pem");
    let good_key = fs::read(&key).unwrap();
    let listen = "listen = [\"127.0.0.1:0\"]";
    for (old, new, file, wanted) in [
        ("[server]", "[server", "", "not TOML"),
        (
            listen,
            &*format!("listen = [\"127.0.0.1:0\", \"unix:$DIR/new.sock\", \"{taken}\"]"),
            "",
            "cannot listen on",
        ),
        ("", "", "tls/key.pem", "the private key cannot be read"),
        (
            "upstream = \"http:",
            "upstream_ca = \"$DIR/none.pem\"\nupstream = \"https:",
            "",
            "none.pem",
        ),
    ] {
        let new = new.replace("$DIR", gateway.folder().to_str().unwrap());
        gateway.replace("countersign.toml", text.replacen(old, &new, 1));
        gateway.replace("secrets/hooks", NEW);
        if !file.is_empty() {
            gateway.replace(file, "broken");
        }
        let reason = refused(&gateway.hang_up());
        assert!(reason.contains(wanted), "{wanted}: {reason}");
        gateway.replace("tls/key.pem", &good_key);
        assert_eq!(status(gateway.door(), &delivery(OLD)), 200, "{wanted}");
        assert_eq!(status(gateway.door(), &delivery(NEW)), 401, "{wanted}");
        assert!(!gateway.folder().join("new.sock").exists(), "{wanted}");
    }
    assert_eq!(gateway.open_doors().len(), 1);
}

#[test]
fn a_secret_that_is_gone_closes_its_route_and_no_other() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, OFTEN)
        .route("other", "/other", OLD, &upstream.url(), "")
        .start();
    let secret = gateway.folder().join("secrets/hooks");
    let line = gateway.reloads(|_| fs::remove_file(&secret).unwrap());
    reloaded(&line);
    let told = gateway.logs().wait_for(|line| {
        line.text_field("message")
            .is_some_and(|text| text.starts_with("secret unusable"))
    });
    assert_eq!(told.unwrap().text_field("route"), Some("hooks"));
    assert_problem(
        &client::send_raw(gateway.door(), &delivery(OLD)),
        503,
        "unavailable",
    );
    let other = Delivery::post("/other", "{}").signed(OLD);
    assert_eq!(status(gateway.door(), &other), 200);
    let ready = readyz(&gateway);
    assert!(
        ready.contains("[-] route hooks: no usable secret"),
        "{ready}"
    );
    assert_eq!(
        gateway.metric("countersign_route_usable_keys{route=\"hooks\"}"),
        0
    );

    reloaded(&gateway.reloads(|gateway| gateway.replace("secrets/hooks", NEW)));
    assert_eq!(status(gateway.door(), &delivery(NEW)), 200);
}

#[test]
fn a_renewed_certificate_is_shown_and_the_old_connection_lives() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, OFTEN).tls().start();
    let mut wire = client::raw(gateway.door());
    let mut http2 = Client::connect(gateway.door(), Protocol::Http2);
    let ends = "countersign_tls_certificate_expiry_timestamp_seconds{sni=\"localhost\"}";
    let before = gateway.metric(ends);
    assert!(before > 0);

    let renewed = authority().issue_until(&["localhost", "127.0.0.1"], 2031);
    // Not in one step: a certificate whose key has not come yet is no change that counts.
    let line = gateway.reloads(|gateway| {
        gateway.replace("tls/cert.pem", &renewed.certificate_pem);
        gateway.replace("tls/key.pem", &renewed.key_pem);
    });
    let line = match line.is("reloaded") {
        true => line,
        // Seen between the two: refused, and tried again when the key has come.
        false => gateway.logs().wait_for(|line| line.is("reloaded")).unwrap(),
    };
    reloaded(&line);
    wire.send(&delivery(OLD).raw()).unwrap();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
    assert_eq!(http2.send(&delivery(OLD)).status, 200);
    assert!(
        shown(gateway.door()) == leaf(&renewed),
        "the old certificate"
    );
    assert_eq!(gateway.metric(ends), 1_924_992_000);
    assert_eq!(upstream.count(), 2);
}

/// The certificate that a new connection gets to see.
fn shown(door: &Door) -> Vec<u8> {
    let config = authority().client(&["http/1.1"], None, rustls::ALL_VERSIONS);
    handshake(door, config).peer_certificates().unwrap()[0].to_vec()
}

fn handshake(door: &Door, config: Arc<ClientConfig>) -> ClientConnection {
    let mut socket = Socket::connect(&door.address, PATIENCE).unwrap();
    let mut session = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    session.complete_io(&mut socket).unwrap();
    session
}

fn leaf(identity: &Identity) -> Vec<u8> {
    let leaf = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes());
    leaf.unwrap().to_vec()
}

#[test]
fn a_certificate_that_is_over_is_warned_of() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, NEVER).tls().start();
    let over = authority().issue_until(&["localhost"], 2020);
    gateway.replace("tls/cert.pem", &over.certificate_pem);
    gateway.replace("tls/key.pem", &over.key_pem);
    reloaded(&gateway.hang_up());
    let warns = |line: &Line| {
        let text = line.text_field("message").unwrap_or_default();
        text.starts_with("the certificate for localhost ended at 2020-01-01T00:00:00.000Z")
    };
    assert!(gateway.logs().wait_for(warns).is_some());
    let check = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(["check", "--config"])
        .arg(gateway.folder().join("countersign.toml"))
        .output()
        .unwrap();
    let told = String::from_utf8(check.stderr).unwrap();
    assert!(
        check.status.success() && told.contains("ended at 2020"),
        "{told}"
    );
}

#[test]
fn sessions_resume_after_a_renewal_and_not_after_a_change_of_client_authorities() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, NEVER)
        .tls_with(
            &authority().issue_local(),
            "client_ca = \"$DIR/clients.pem\"",
        )
        .file("clients.pem", &authority().certificate_pem)
        .start();
    let own = authority().issue(&["sender.example"]);
    let config = authority().client(&["http/1.1"], Some(&own), &[&TLS12]);
    let kind = || {
        handshake(gateway.door(), config.clone())
            .handshake_kind()
            .unwrap()
    };
    assert_eq!(kind(), HandshakeKind::Full);
    assert_eq!(kind(), HandshakeKind::Resumed);
    let renewed = authority().issue_local();
    gateway.replace("tls/cert.pem", &renewed.certificate_pem);
    gateway.replace("tls/key.pem", &renewed.key_pem);
    reloaded(&gateway.hang_up());
    assert_eq!(kind(), HandshakeKind::Resumed);
    // A session that resumes shows no certificate: it would pass whatever its authority has become.
    let more = [
        &*authority().certificate_pem,
        &Authority::new("other").certificate_pem,
    ]
    .concat();
    gateway.replace("clients.pem", more);
    reloaded(&gateway.hang_up());
    assert_eq!(kind(), HandshakeKind::Full);
    assert_eq!(kind(), HandshakeKind::Resumed);
}

#[test]
fn the_rate_of_challenges_is_not_given_anew() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, NEVER).start();
    gateway.reconfigure("scheme = \"carevalidate\"", "scheme = \"x\"");
    let mut client = Client::connect(gateway.door(), Protocol::Http1);
    let mut signed = 0;
    for i in 0..60 {
        if i % 15 == 0 {
            reloaded(&gateway.hang_up());
        }
        let asks = Delivery::post(&format!("/hooks?crc_token=token{i}"), "").method("GET");
        signed += usize::from(client.send(&asks).status == 200);
    }
    // Twenty, and one a second.
    assert!((20..40).contains(&signed), "{signed}");
}

#[test]
fn what_a_route_has_taken_in_counts_on() {
    let upstream = Upstream::accepting();
    let rate = "rate = \"1/h\"\nburst = 2";
    let gateway = Gateway::builder()
        .server(NEVER)
        .route("hooks", "/hooks", OLD, &upstream.url(), rate)
        .start();
    for expected in [200, 200, 429] {
        reloaded(&gateway.hang_up());
        assert_eq!(status(gateway.door(), &delivery(OLD)), expected);
    }
}

#[test]
fn a_secret_from_a_pipe_cannot_be_read_again_and_stays() {
    let upstream = Upstream::accepting();
    let builder = builder(&upstream, NEVER);
    let path = builder.path().join("secrets/hooks");
    fs::remove_file(&path).unwrap();
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let writer = thread::spawn(move || fs::write(path, OLD).unwrap());
    let gateway = builder.start();
    writer.join().unwrap();
    assert_eq!(status(gateway.door(), &delivery(OLD)), 200);
    let reason = refused(&gateway.hang_up());
    assert!(reason.contains("is a pipe"), "{reason}");
    assert_eq!(status(gateway.door(), &delivery(OLD)), 200);
}

#[test]
fn the_admin_listener_moves() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, NEVER).start();
    let before = gateway.admin_door().clone();
    let socket = gateway.folder().join("admin.sock");
    let new = format!("admin = \"unix:{}\"", socket.display());
    gateway.reconfigure("admin = \"127.0.0.1:0\"", &new);
    reloaded(&gateway.hang_up());
    let ready = Delivery::post("/readyz", "").method("GET");
    let door = Door {
        address: Address::Unix(socket.clone()),
        tls: false,
    };
    assert_eq!(status(&door, &ready), 200);
    assert!(
        client::raw_with(&before, &Hello::default()).is_err(),
        "still listening"
    );
    gateway.reconfigure(&new, "admin = \"off\"");
    reloaded(&gateway.hang_up());
    assert!(
        client::raw_with(&door, &Hello::default()).is_err(),
        "still listening"
    );
    assert!(!socket.exists());
    assert_eq!(status(gateway.door(), &delivery(OLD)), 200);
}

#[test]
fn listeners_come_stay_and_go() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, NEVER).start();
    let first = gateway.door().clone();
    let mut wire = client::raw(&first);
    let mut send = || {
        wire.send(&delivery(OLD).raw()).unwrap();
        wire.answer("POST").unwrap()
    };
    assert_eq!(send().status, 200);

    let socket = gateway.folder().join("in.sock");
    let both = format!("[\"127.0.0.1:0\", \"unix:{}\"]", socket.display());
    gateway.reconfigure("[\"127.0.0.1:0\"]", &both);
    reloaded(&gateway.hang_up());
    let doors = gateway.open_doors();
    assert_eq!(doors.len(), 2, "{doors:?}");
    assert_eq!(doors[0].address, first.address);
    for door in &doors {
        assert_eq!(status(door, &delivery(OLD)), 200);
    }
    let kept = send();
    assert_eq!(kept.status, 200);
    assert!(!kept.fields.has("connection"), "{kept:?}");

    gateway.reconfigure(&both, &format!("[\"unix:{}\"]", socket.display()));
    reloaded(&gateway.hang_up());
    assert_eq!(gateway.open_doors().len(), 1);
    assert!(
        client::raw_with(&first, &Hello::default()).is_err(),
        "still listening"
    );
    // It drains: what comes on an open connection is answered, and ends it.
    let last = send();
    assert_eq!(last.status, 200);
    assert_eq!(last.fields.one("connection"), "close");
    assert!(wire.closed());
    assert_eq!(status(&doors[1], &delivery(OLD)), 200);
    assert_eq!(gateway.admin("/readyz").status, 200);
}

#[test]
fn a_request_is_finished_with_the_state_it_began_with() {
    let upstream = Upstream::accepting();
    let other = Upstream::accepting();
    let gateway = builder(&upstream, NEVER)
        .route("other", "/other", OLD, &other.url(), "")
        .start();
    let delivery = Delivery::post("/hooks", vec![b'x'; 100_000]).signed(OLD);
    let mut wire = client::raw(gateway.door());
    wire.send(&delivery.raw_head()).unwrap();
    wire.send(&delivery.body[..50_000]).unwrap();
    gateway.wait_for_inflight(1);

    // The route goes, and with it the only one that has this upstream and secret. The other takes its place in the list.
    let text = gateway.config();
    let (head, routes) = text.split_once("[[route]]").unwrap();
    let (_, last) = routes.split_once("[[route]]").unwrap();
    gateway.replace("countersign.toml", format!("{head}[[route]]{last}"));
    fs::remove_file(gateway.folder().join("secrets/hooks")).unwrap();
    reloaded(&gateway.hang_up());
    assert_eq!(status(gateway.door(), &self::delivery(OLD)), 404);
    let alarms = [
        "countersign_route_usable_keys{route=\"hooks\"}",
        "countersign_upstream_up{route=\"hooks\"",
    ];
    let metrics = gateway.metrics();
    for alarm in alarms {
        assert!(!metrics.contains(alarm), "{alarm} of a route that is gone");
    }

    wire.send(&delivery.body[50_000..]).unwrap();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
    let seen = upstream.take_only();
    assert_eq!(seen.body_sha256, sign::sha256(&delivery.body));
    let line = gateway.request_line(seen.fields.one("countersign-request-id"));
    assert_eq!(line.text_field("route"), Some("hooks"), "{line}");
    other.assert_untouched();
}

#[test]
fn connections_to_an_upstream_that_stays_are_kept() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, NEVER).start();
    let mut wire = client::raw(gateway.door());
    for _ in 0..3 {
        wire.send(&delivery(OLD).raw()).unwrap();
        assert_eq!(wire.answer("POST").unwrap().status, 200);
        reloaded(&gateway.hang_up());
    }
    assert_eq!(upstream.connections(), 1);
    gateway.reconfigure(
        "path = \"/hooks\"",
        "path = \"/hooks\"\nread_timeout = \"9s\"",
    );
    reloaded(&gateway.hang_up());
    wire.send(&delivery(OLD).raw()).unwrap();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn what_needs_a_restart_is_told_and_left() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream, NEVER)
        .limits("connections = 100")
        .start();
    gateway.reconfigure(
        "connections = 100",
        "connections = 1\nbody_memory = \"1MiB\"\nbody = \"1MiB\"",
    );
    reloaded(&gateway.hang_up());
    let ready = readyz(&gateway);
    for key in ["limits.connections", "limits.body_memory"] {
        let told = gateway
            .logs()
            .wait_for(|line| line.text_field("key") == Some(key));
        assert!(
            told.unwrap()
                .is("this key was changed, which needs a restart")
        );
        assert!(ready.contains(&format!("[!] {key} was changed")), "{ready}");
    }
    let held: Vec<Wire> = (0..3).map(|_| client::raw(gateway.door())).collect();
    assert_eq!(status(gateway.door(), &delivery(OLD)), 200);
    drop(held);
    // Those beside them took effect.
    let large = Delivery::post("/hooks", vec![b'x'; 2 << 20]).signed(OLD);
    assert_eq!(status(gateway.door(), &large), 413);
}

/// A thousand reloads while requests come. The gateway plays no part in what is counted: senders and upstream do.
mod a_thousand {
    use super::*;

    const RELOADS: usize = 1000;
    const SENDERS: usize = 3;

    /// What a sender may use now. Whoever holds it for reading has a request under way that has to succeed.
    struct Valid(RwLock<usize>);

    fn secret(generation: usize) -> Vec<u8> {
        format!("the secret of generation {generation}").into_bytes()
    }

    fn marked(generation: usize, body: String) -> Delivery {
        Delivery::post("/hooks", body).signed(&secret(generation))
    }

    /// How many requests each sender may have sent by now. A few for each reload, so that it meets requests and they do not meet a
    /// machine that is busy with requests alone.
    #[derive(Default)]
    struct Pace(Mutex<usize>, Condvar);

    impl Pace {
        const EACH: usize = 2;

        fn more(&self) {
            *self.0.lock().unwrap() += Self::EACH;
            self.1.notify_all();
        }

        /// Ends the senders.
        fn end(&self) {
            *self.0.lock().unwrap() = usize::MAX;
            self.1.notify_all();
        }

        /// Waits until one that has sent so many may go on; `false`: it is over.
        fn go_on(&self, sent: usize) -> bool {
            let may = self
                .1
                .wait_while(self.0.lock().unwrap(), |may| *may <= sent);
            *may.unwrap() != usize::MAX
        }
    }

    /// Sends what must pass, each with a secret that is valid from its begin to its end.
    fn send_genuine(door: &Door, sender: usize, valid: &Valid, pace: &Pace) -> usize {
        let mut wire = client::raw(door);
        let mut sent = 0;
        while pace.go_on(sent) {
            let generation = valid.0.read().unwrap();
            let body = format!("genuine {sender} {sent}");
            wire.send(&marked(*generation, body).raw()).unwrap();
            let answer = wire.answer("POST").unwrap();
            assert_eq!(answer.status, 200, "generation {generation}: {answer:?}");
            drop(generation);
            sent += 1;
            if sent % 50 == 0 {
                wire = client::raw(door);
            }
        }
        sent
    }

    /// Sends what must not pass: each with the secret that went last before it began.
    fn send_gone(door: &Door, gone: &AtomicUsize, pace: &Pace) -> usize {
        let mut wire = client::raw(door);
        let mut sent = 0;
        while pace.go_on(sent) {
            let generation = gone.load(Ordering::SeqCst);
            wire.send(&marked(generation, format!("gone {generation}")).raw())
                .unwrap();
            let answer = wire.answer("POST").unwrap();
            assert_eq!(answer.status, 401, "generation {generation}: {answer:?}");
            sent += 1;
        }
        sent
    }

    #[test]
    fn reloads_fail_no_request_and_verify_none_with_a_secret_that_is_gone() {
        let upstream = Upstream::accepting();
        let folder = tempfile::tempdir().unwrap();
        let told = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        told.set_read_timeout(Some(PATIENCE)).unwrap();
        let gateway = Gateway::builder()
            .env("NOTIFY_SOCKET", folder.path().join("notify").to_str().unwrap())
            .server(NEVER)
            .file("secrets/current", secret(1))
            .file("secrets/before", secret(0))
            .file("ca.pem", &authority().certificate_pem)
            .config(&format!(
                "[[route]]\nname = \"hooks\"\npath = \"/hooks\"\nscheme = \"carevalidate\"\nupstream = \"{}\"\n\
                 secrets = [{{ id = \"a\", file = \"$DIR/secrets/current\" }}, {{ id = \"b\", file = \"$DIR/secrets/before\" }}]\n\
                 [[route]]\nname = \"other\"\npath = \"/other\"\nscheme = \"carevalidate\"\nupstream = \"https://localhost:1\"\n\
                 upstream_ca = \"$DIR/ca.pem\"\nsecrets = [{{ id = \"a\", file = \"$DIR/secrets/current\" }}]",
                upstream.url()
            ))
            .start();
        let door = gateway.door().clone();
        let text = gateway.config();
        let authorities = fs::read(gateway.folder().join("ca.pem")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().to_string();
        let wait_until_ready = || {
            let mut buffer = [0; 4096];
            loop {
                let read = told.recv(&mut buffer).unwrap();
                if buffer[..read].starts_with(b"READY=1") {
                    return;
                }
            }
        };
        wait_until_ready();
        let (valid, gone, pace) = (
            Valid(RwLock::new(1)),
            // Nobody ever had that one.
            AtomicUsize::new(usize::MAX),
            Pace::default(),
        );
        let reload = || {
            pace.more();
            gateway.signal(Signal::HUP);
            wait_until_ready();
        };
        let (genuine, refused) = thread::scope(|scope| {
            let senders: Vec<_> = (0..SENDERS)
                .map(|sender| {
                    let (door, valid, pace) = (&door, &valid, &pace);
                    scope.spawn(move || send_genuine(door, sender, valid, pace))
                })
                .collect();
            let forger = scope.spawn(|| send_gone(&door, &gone, &pace));
            let stops = Stops(&pace);
            for generation in 2..2 + RELOADS / 2 {
                // A newer secret comes with something that is broken: neither counts.
                gateway.replace("secrets/before", secret(generation - 1));
                gateway.replace("secrets/current", secret(generation));
                match generation % 3 {
                    0 => {
                        gateway.replace("countersign.toml", text.replacen("[[route]]", "[[rout", 1))
                    }
                    1 => gateway.replace("ca.pem", "broken"),
                    _ => {
                        let more = format!("listen = [{taken:?}, ");
                        gateway.replace("countersign.toml", text.replacen("listen = [", &more, 1));
                    }
                }
                reload();
                // So the secret before it is still good, and the new one is not.
                if generation % 50 == 0 {
                    assert_eq!(status(&door, &marked(generation, "early".into())), 401);
                }
                match generation % 3 {
                    1 => gateway.replace("ca.pem", &authorities),
                    _ => gateway.replace("countersign.toml", &text),
                }
                // Nobody uses the one that goes now. Both of the present generation and the next are good after it.
                reload();
                gone.store(generation - 2, Ordering::SeqCst);
                *valid.0.write().unwrap() = generation;
            }
            drop(stops);
            let genuine: usize = senders
                .into_iter()
                .map(|sender| sender.join().unwrap())
                .sum();
            (genuine, forger.join().unwrap())
        });
        let loads = |result| {
            gateway.metric(&format!(
                "countersign_config_loads_total{{result=\"{result}\"}}"
            ))
        };
        assert_eq!(loads("succeeded"), 1 + RELOADS as u64 / 2);
        assert_eq!(loads("failed"), RELOADS as u64 / 2);
        assert!(
            genuine > RELOADS && refused > RELOADS / 10,
            "{genuine}, {refused}"
        );
        let seen = upstream.seen();
        assert_eq!(seen.len(), genuine, "answered and arrived");
        assert!(
            seen.iter()
                .all(|seen| seen.body.as_ref().unwrap().starts_with(b"genuine"))
        );
        assert_eq!(upstream.faults(), Vec::<String>::new());
    }

    /// Ends the senders if the test fails before its end.
    struct Stops<'a>(&'a Pace);

    impl Drop for Stops<'_> {
        fn drop(&mut self) {
            self.0.end();
        }
    }
}

#[test]
fn a_secret_from_pairing_is_used_without_a_restart() {
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .server(OFTEN)
        .config(&format!(
            "[[route]]\nname = \"hooks\"\npath = \"/hooks\"\nscheme = \"asana\"\nupstream = \"{}\"\n\
             secrets = [{{ id = \"test\", file = \"$DIR/paired\" }}]\n\
             pairing = {{ file = \"$DIR/paired\", until = \"2999-01-01T00:00:00Z\" }}",
            upstream.url()
        ))
        .start();
    let secret = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81";
    let signed = || {
        let tag = sign::hmac_sha256(secret.as_bytes(), &[b"{}"]);
        Delivery::post("/hooks", "{}").header("X-Hook-Signature", tag)
    };
    assert_eq!(status(gateway.door(), &signed()), 503);
    let line = gateway.reloads(|gateway| {
        let pairs = Delivery::post("/hooks", "").header("X-Hook-Secret", secret);
        assert_eq!(status(gateway.door(), &pairs), 200);
    });
    reloaded(&line);
    assert_eq!(status(gateway.door(), &signed()), 200);
    assert_eq!(upstream.count(), 1);
}
