//! An operator's bad days: what happens, and where the cause is to be seen. `docs/operations.md` tells of the same days in the same
//! words ("Finding the cause").

use crate::support::{
    client,
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_not_verified, assert_problem},
    tls::{self, HOST},
    upstream::Upstream,
    wire::Answer,
};

const SECRET: &[u8] = b"shared-secret-of-some-length";
const NEW_SECRET: &[u8] = b"another-secret-of-some-length";

fn builder(upstream: &Upstream) -> Builder {
    Gateway::builder().route("cases", "/cases", SECRET, &upstream.url(), "")
}

fn send(gateway: &Gateway, secret: &[u8], body: impl Into<Vec<u8>>) -> Answer {
    let delivery = Delivery::post("/cases", body.into()).signed(secret);
    client::send_raw(gateway.door(), &delivery)
}

fn checks(gateway: &Gateway) -> String {
    String::from_utf8(gateway.admin("/readyz?verbose").body).unwrap()
}

/// The detail of the newest refusal for this reason.
fn detail(gateway: &Gateway, reason: &str) -> String {
    let line = gateway
        .logs()
        .wait_for(|line| line.text_field("reason") == Some(reason));
    let line = line.unwrap();
    line.text_field("detail").unwrap().to_owned()
}

#[track_caller]
fn assert_shows(text: &str, line: &str) {
    assert!(text.contains(line), "no {line:?} in\n{text}");
}

#[test]
fn a_secret_is_rotated() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).start();
    assert_eq!(send(&gateway, SECRET, "1").status, 200);

    // The sender was first.
    assert_not_verified(&send(&gateway, NEW_SECRET, "2"));
    assert_eq!(
        detail(&gateway, "signature_mismatch"),
        "none of the route's keys made this signature over these bytes"
    );
    assert_shows(
        &gateway.metrics(),
        "countersign_refusals_total{route=\"cases\",reason=\"signature_mismatch\"} 1",
    );

    // Its file was forgotten.
    let folder = gateway.folder().display().to_string();
    let reloaded = gateway.reloads(|gateway| {
        gateway.reconfigure(
            "secrets = [",
            &format!("secrets = [{{ id = \"2026-11\", file = \"{folder}/secrets/new\" }}, "),
        );
    });
    let changed = format!("{folder}/countersign.toml");
    assert_eq!(reloaded.text_field("files"), Some(&*changed));
    let missing = format!(
        "secret 2026-11: file {folder}/secrets/new does not exist; write the signing secret into it, or correct its name\n"
    );
    let shown = checks(&gateway);
    assert_shows(&shown, "[+] route cases: 1 usable secret(s)\n");
    assert_shows(&shown, &format!("[!] route cases: {missing}"));

    let reloaded = gateway.reloads(|gateway| gateway.replace("secrets/new", NEW_SECRET));
    let put = format!("{folder}/secrets/new");
    assert_eq!(reloaded.text_field("files"), Some(&*put));
    assert_eq!(send(&gateway, NEW_SECRET, "2").status, 200);
    let shown = checks(&gateway);
    assert_shows(&shown, "[+] route cases: 2 usable secret(s)\n");
    assert!(!shown.contains("[!] route cases"), "{shown}");
    // Which one is still used, and since when it is not.
    let last = |key: &str| {
        let name =
            format!("countersign_key_last_used_timestamp_seconds{{route=\"cases\",key=\"{key}\"}}");
        gateway.metric(&name)
    };
    assert!(last("2026-11") >= last("test") && last("test") > 0);
}

#[test]
fn a_certificate_is_renewed() {
    let upstream = Upstream::accepting();
    let ended = tls::authority().issue_until(&[HOST], 2020);
    let gateway = builder(&upstream).tls_with(&ended, "").start();
    let over =
        format!("[-] certificate for {HOST}: ended 2020-01-01T00:00:00.000Z; senders refuse it\n");
    assert_shows(&checks(&gateway), &over);

    // The key was forgotten.
    let identity = tls::authority().issue_local();
    let refused =
        gateway.reloads(|gateway| gateway.replace("tls/cert.pem", &identity.certificate_pem));
    let folder = gateway.folder().display();
    let reason = format!(
        "error: {folder}/tls/key.pem: this key does not fit the certificate in {folder}/tls/cert.pem"
    );
    assert_shows(refused.text_field("reason").unwrap(), &reason);
    let shown = checks(&gateway);
    assert_shows(&shown, ": a newer one is refused since 20");
    assert_shows(&shown, &format!("    {reason}"));
    assert_shows(&shown, &over);
    assert_eq!(
        gateway.metric("countersign_config_last_reload_successful"),
        0
    );

    gateway.reloads(|gateway| gateway.replace("tls/key.pem", &identity.key_pem));
    let shown = checks(&gateway);
    assert_shows(&shown, "[+] configuration ");
    let good = format!("[+] certificate for {HOST}: ends 4096-01-01T00:00:00.000Z\n");
    assert_shows(&shown, &good);
    assert_shows(&shown, "[+] certificate for all other names: ends 4096-");
    assert_eq!(send(&gateway, SECRET, "1").status, 200);
}

#[test]
fn the_configuration_is_broken() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream)
        // Worth a warning, and no reason.
        .config("[replay]\nentries = 10")
        .start();
    let refused = gateway.reloads(|gateway| gateway.reconfigure("upstream =", "upstraem ="));
    let reason = refused.text_field("reason").unwrap();
    assert!(
        reason.starts_with("error: unknown key `upstraem`\n"),
        "{reason}"
    );
    assert_shows(reason, "= help: did you mean `upstream`?");
    assert!(!reason.contains("warning"), "{reason}");
    let shown = checks(&gateway);
    assert_shows(&shown, "a newer one is refused since 20");
    assert_shows(&shown, "    error: unknown key `upstraem`\n");
    assert_eq!(send(&gateway, SECRET, "1").status, 200);
    gateway.reloads(|gateway| gateway.reconfigure("upstraem =", "upstream ="));
    assert_shows(&checks(&gateway), "[+] configuration ");
}

#[test]
fn the_disk_is_full() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream)
        .limits("body_memory = \"1MiB\"")
        .file_size(1 << 20)
        .start();
    let folder = gateway.folder().join("spool").display().to_string();
    assert_shows(&checks(&gateway), &format!("[+] spool {folder}\n"));
    let large = vec![b'y'; 4 << 20];
    assert_problem(&send(&gateway, SECRET, large.clone()), 503, "try_later");
    // Full disks have `no_room` and `No space left on device`; the limit of this test has another name.
    assert_eq!(
        detail(&gateway, "spool_failed"),
        "spool file trouble: File too large (os error 27)"
    );
    let full = format!(
        "[!] spool {folder}: File too large (os error 27); bodies that find no room in memory get 503\n"
    );
    assert_shows(&checks(&gateway), &full);
    assert_eq!(send(&gateway, SECRET, "small").status, 200);
    assert_shows(&checks(&gateway), &full);

    gateway.lift_file_size();
    assert_eq!(send(&gateway, SECRET, large).status, 200);
    assert_shows(&checks(&gateway), &format!("[+] spool {folder}\n"));
}

#[test]
fn the_upstream_is_stopped() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).start();
    let url = upstream.url();
    upstream.refuse();
    for number in 0..3 {
        let answer = send(&gateway, SECRET, number.to_string());
        assert_problem(&answer, 502, "upstream_unreachable");
    }
    assert_eq!(
        detail(&gateway, "upstream_unreachable"),
        "the upstream cannot be reached: Connection refused (os error 111)"
    );
    let aside =
        format!("[!] route cases: upstream {url} set aside, failures in a row: 3, last: connect");
    assert_shows(&checks(&gateway), &aside);
    let up = format!("countersign_upstream_up{{route=\"cases\",address=\"{url}\"}}");
    assert_eq!(gateway.metric(&up), 0);

    upstream.reopen();
    let again = || send(&gateway, SECRET, "3").status == 200;
    while !again() {}
    gateway
        .logs()
        .wait_for(|line| line.is("upstream answers again"))
        .unwrap();
    assert_shows(
        &checks(&gateway),
        &format!("[+] route cases: upstream {url} up\n"),
    );
    assert_eq!(gateway.metric(&up), 1);
}

#[cfg(feature = "redis")]
#[test]
fn redis_is_stopped() {
    use crate::support::redis_server::RedisServer;
    let mut redis = RedisServer::start(&[]);
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .config(&format!("[replay]\nstore = \"{}\"", redis.url()))
        .route(
            "cases",
            "/cases",
            SECRET,
            &upstream.url(),
            "replay = \"1h\"",
        )
        .start();
    assert_eq!(send(&gateway, SECRET, "1").status, 200);
    redis.kill();
    gateway.wait_for_metric("countersign_replay_store_up", |up| up == 0);
    assert_problem(&send(&gateway, SECRET, "2"), 503, "try_later");
    let why = detail(&gateway, "replay_store_failed");
    assert!(why.starts_with("the replay store failed: "), "{why}");
    let told = gateway.logs().wait_for(|line| {
        line.is("the replay store is not reached: deliveries to guarded routes get 503")
    });
    let told = told.unwrap();
    // It is said once.
    assert_eq!(
        told.text_field("error"),
        Some("the connection failed: Connection refused (os error 111)")
    );
    let shown = checks(&gateway);
    assert_shows(&shown, "[-] replay store: the connection failed: ");
    assert_shows(&shown, "; deliveries to guarded routes get 503\n");

    redis.restart();
    gateway.wait_for_metric("countersign_replay_store_up", |up| up == 1);
    assert_eq!(send(&gateway, SECRET, "2").status, 200);
    assert_shows(&checks(&gateway), "[+] replay store\n");
}
