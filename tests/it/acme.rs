//! Certificates that the gateway obtains by itself, from an authority on this machine.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::support::{
    PATIENCE,
    gateway::{Builder, Gateway},
    pebble::{Authority, EAB_KEY, EAB_KEY_ID, Manner, shown},
    tls::HOST,
    upstream::Upstream,
};

const YEAR: u32 = 365 * 86_400;

fn manner(tls_port: u16) -> Manner {
    Manner {
        tls_port,
        seconds: YEAR,
        wants_account: false,
    }
}

/// Where senders will connect: known before the gateway is.
fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn gateway(listener: TcpListener, authority: &Authority, cache: &Path, lines: &str) -> Builder {
    Gateway::builder()
        .listen(&["systemd:door"])
        .pass("door", listener)
        .config(&format!(
            "[server.tls.acme]\ndirectory = \"{}\"\nca = \"{}\"\ndomains = [\"{HOST}\"]\nterms_agreed = true\ncache = \"{}\"\n{lines}",
            authority.url(),
            authority.ca().display(),
            cache.display()
        ))
        .route("hooks", "/hooks", "secret", &Upstream::accepting().url(), "")
}

fn checks(gateway: &Gateway) -> String {
    String::from_utf8(gateway.admin("/readyz?verbose").body).unwrap()
}

fn wait_until_obtained(gateway: &Gateway, times: usize) {
    gateway
        .logs()
        .wait_for_count(times, |line| line.is("certificate obtained"));
}

/// The only file of that name below a folder.
fn find(folder: &Path, name: &str) -> PathBuf {
    let mut folders = std::fs::read_dir(folder).unwrap();
    let inner = folders.next().unwrap().unwrap().path();
    assert!(folders.next().is_none());
    inner.join(name)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn obtains_a_certificate_and_renews_it_while_it_serves() {
    let (listener, port) = listener();
    let authority = Authority::start(&Manner {
        seconds: 24,
        ..manner(port)
    });
    let root = authority.root();
    let cache = tempfile::tempdir().unwrap();
    let contact = "contact = [\"mailto:ops@example.org\"]";
    let gateway = gateway(listener, &authority, &cache.path().join("acme"), contact).start();
    wait_until_obtained(&gateway, 1);
    let first = shown(port, HOST, &root).unwrap();
    // For whoever names no host, too.
    let answered = Command::new("curl")
        .args([
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{ssl_verify_result}",
            "-d",
            "a",
        ])
        .arg("--cacert")
        .arg(&root)
        .args(["--connect-to", &format!("{HOST}:443:127.0.0.1:{port}")])
        .arg(format!("https://{HOST}/hooks"))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answered.stdout),
        "401 0",
        "{answered:?}"
    );

    let text = checks(&gateway);
    assert!(
        text.contains(&format!("[+] certificate for {HOST}: ends 20")),
        "{text}"
    );
    assert!(
        text.contains(&format!("[+] ACME for {HOST}: to be renewed 20")),
        "{text}"
    );
    let metrics = gateway.metrics();
    assert!(
        metrics.contains("countersign_acme_orders_total{result=\"succeeded\"} 1"),
        "{metrics}"
    );
    for name in ["", HOST] {
        let expiry =
            format!("countersign_tls_certificate_expiry_timestamp_seconds{{sni=\"{name}\"}} ");
        assert!(metrics.contains(&expiry), "{metrics}");
    }
    // Nobody else reads the key.
    let inner = cache.path().join("acme");
    assert_eq!(mode(&inner), 0o700);
    for name in ["certificate.pem", "account.json"] {
        assert_eq!(mode(&find(&inner, name)), 0o600, "{name}");
    }

    wait_until_obtained(&gateway, 2);
    let end = Instant::now() + PATIENCE;
    while shown(port, HOST, &root).unwrap() == first {
        assert!(Instant::now() < end);
    }
    let accounts = gateway.logs().lines();
    let accounts = accounts
        .iter()
        .filter(|line| line.is("an account was made at the authority"));
    assert_eq!(accounts.count(), 1);
}

#[test]
fn a_restart_asks_for_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let (listener, port) = listener();
    let again = listener.try_clone().unwrap();
    let mut authority = Authority::start(&manner(port));
    let root = authority.root();
    let mut first = gateway(listener, &authority, cache.path(), "").start();
    wait_until_obtained(&first, 1);
    let serial = shown(port, HOST, &root).unwrap();
    first.terminate();
    first.wait_exit();
    authority.stop();

    let second = gateway(again, &authority, cache.path(), "").start();
    assert_eq!(shown(port, HOST, &root).unwrap(), serial);
    let text = checks(&second);
    assert!(
        text.contains(&format!("[+] certificate for {HOST}: ends 20")),
        "{text}"
    );

    // Proofs are shown while somebody asked for them.
    let proof = Command::new("openssl")
        .args(["s_client", "-alpn", "acme-tls/1", "-servername", HOST])
        .args(["-connect", &format!("127.0.0.1:{port}")])
        .output()
        .unwrap();
    assert!(!proof.status.success(), "{proof:?}");
}

#[test]
fn says_why_there_is_none_and_tries_again_after_a_reload() {
    let (listener, port) = listener();
    // It looks where nobody is.
    let mut authority = Authority::start(&manner(1));
    let cache = tempfile::tempdir().unwrap();
    let gateway = gateway(listener, &authority, cache.path(), "").start();
    let line = gateway
        .logs()
        .wait_for(|line| line.is("certificate not obtained"));
    let line = line.unwrap();
    let reason = line.text_field("error").unwrap();
    assert!(
        reason.starts_with(&format!("the authority did not find the proof: {HOST}: ")),
        "{reason}"
    );
    let text = checks(&gateway);
    let beginning = format!(
        "[-] ACME for {HOST}: no certificate yet, TLS handshakes fail; not obtained since 20"
    );
    assert!(text.contains(&beginning) && text.contains(reason), "{text}");
    assert!(text.contains("; next attempt 20"), "{text}");
    // The authority has to get through: no reason to be taken out of service.
    assert_eq!(gateway.admin("/readyz").status, 200);
    assert!(
        gateway
            .metrics()
            .contains("countersign_acme_orders_total{result=\"failed\"} 1")
    );
    let refused = shown(port, HOST, &authority.ca()).unwrap_err();
    assert!(refused.contains("alert"), "{refused}");

    // Mended. It has forgotten the account, too.
    authority.restart(&manner(port));
    gateway.hang_up();
    wait_until_obtained(&gateway, 1);
    shown(port, HOST, &authority.root()).unwrap();
    let text = checks(&gateway);
    assert!(
        text.contains(&format!("[+] certificate for {HOST}: ends 20")),
        "{text}"
    );
}

#[test]
fn shows_an_account_that_the_authority_knows() {
    let (listener, port) = listener();
    let authority = Authority::start(&Manner {
        wants_account: true,
        ..manner(port)
    });
    let cache = tempfile::tempdir().unwrap();
    let lines = format!("eab_key_id = \"{EAB_KEY_ID}\"\neab_key = {{ file = \"$DIR/eab\" }}");
    let gateway = gateway(listener, &authority, cache.path(), &lines)
        .file("eab", EAB_KEY)
        .start();
    wait_until_obtained(&gateway, 1);
    shown(port, HOST, &authority.root()).unwrap();
    assert!(!gateway.logs().text().contains(EAB_KEY));
}
