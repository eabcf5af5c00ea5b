//! A store whose master Sentinels choose: real servers and Sentinels, real fail-overs.

use std::time::{Duration, Instant};

use countersign::{
    config::{OnStoreFailure, RedisConfig, RedisSentinel, RedisServers, RedisTls},
    replay::{Admission, Id, RedisFault as Fault, RedisPasswords, RedisStore as Store, Settlement},
    secret::Secret,
    telemetry::Metrics,
};

use crate::{
    redis_store,
    support::{
        PATIENCE, client, delivery::Delivery, gateway::Gateway, redis_server::RedisServer, tls,
        upstream::Upstream, within,
    },
};

const MINUTE: Duration = Duration::from_secs(60);

const TAKEN: Settlement = Settlement::Succeeded {
    status: 202,
    window: MINUTE,
};

/// Nobody listens there.
const NOWHERE: u16 = 1;

fn server(options: &[&str]) -> (RedisServer, u16) {
    let plain = [
        "--port",
        "$PORT",
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--repl-diskless-sync-delay",
        "0",
    ];
    RedisServer::on_port(&[&plain[..], options].concat())
}

fn assert_ok(server: &RedisServer, words: &[&str]) {
    let answer = server.ask(words);
    assert!(answer.starts_with("+OK"), "{words:?}: {answer}");
}

/// Asks until the answer is as wanted.
fn ask_until(server: &RedisServer, words: &[&str], wanted: impl Fn(&str) -> bool) {
    let end = Instant::now() + 2 * PATIENCE;
    loop {
        let answer = server.ask(words);
        if wanted(&answer) {
            return;
        }
        assert!(Instant::now() < end, "{words:?}: {answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A Sentinel that watches the server at that port as `events`.
fn sentinel_of(port: u16) -> (RedisServer, u16) {
    let (sentinel, own) = RedisServer::sentinel(&["--port", "$PORT"]);
    watch(&sentinel, port);
    (sentinel, own)
}

fn watch(sentinel: &RedisServer, port: u16) {
    assert_ok(
        sentinel,
        &[
            "SENTINEL",
            "MONITOR",
            "events",
            "127.0.0.1",
            &port.to_string(),
            "1",
        ],
    );
    assert_ok(
        sentinel,
        &[
            "SENTINEL",
            "SET",
            "events",
            "down-after-milliseconds",
            "500",
        ],
    );
}

/// Two servers, one of which copies the other, and a Sentinel that knows both.
struct Pair {
    master: RedisServer,
    replica: RedisServer,
    replica_port: u16,
    sentinel: RedisServer,
    sentinel_port: u16,
}

impl Pair {
    fn start() -> Self {
        let (master, port) = server(&[]);
        let (replica, replica_port) = server(&["--replicaof", &format!("127.0.0.1 {port}")]);
        ask_until(&replica, &["INFO", "replication"], |info| {
            info.contains("master_link_status:up")
        });
        let (sentinel, sentinel_port) = sentinel_of(port);
        let replicas = ["SENTINEL", "REPLICAS", "events"];
        ask_until(&sentinel, &replicas, |known| {
            known.contains(&replica_port.to_string())
                && known.contains("master-link-status\r\n$2\r\nok")
        });
        Self {
            master,
            replica,
            replica_port,
            sentinel,
            sentinel_port,
        }
    }

    /// Until the replica is the master, for Sentinel and for itself.
    fn wait_for_fail_over(&self) {
        let named = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "events"];
        ask_until(&self.sentinel, &named, |address| {
            address.contains(&self.replica_port.to_string())
        });
        ask_until(&self.replica, &["ROLE"], |role| role.contains("master"));
    }
}

fn config(sentinels: &[u16]) -> RedisConfig {
    let nodes = sentinels.iter().map(|port| ("127.0.0.1".to_owned(), *port));
    redis_store::config(RedisServers::Sentinel(RedisSentinel {
        nodes: nodes.collect(),
        master: "events".into(),
        user: None,
        password: None,
    }))
}

fn store(config: &RedisConfig) -> Store {
    store_with(config, RedisPasswords::default())
}

fn store_with(config: &RedisConfig, passwords: RedisPasswords) -> Store {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let metrics = Metrics::default().replay();
    Store::new(config, &passwords, OnStoreFailure::Reject, metrics).unwrap()
}

fn id(number: u32) -> Id {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    Id(id)
}

fn key(number: u32) -> String {
    format!("countersign:{number:08x}{}", "0".repeat(24))
}

async fn take(store: &Store, number: u32) {
    let Admission::Granted(token) = store.admit(id(number), MINUTE).await.unwrap() else {
        panic!("{number} is not new");
    };
    store.settle(id(number), token, TAKEN).await.unwrap();
}

/// Reserves deliveries until one is found at that server, through faults.
async fn wait_until_at(store: &Store, server: &RedisServer, numbers: std::ops::Range<u32>) {
    let end = Instant::now() + 2 * PATIENCE;
    for number in numbers {
        let admission = store.admit(id(number), MINUTE).await;
        if admission.is_ok() && server.get(&key(number)).is_some() {
            return;
        }
        assert!(Instant::now() < end, "last {admission:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("none of them came there");
}

/// What keeps the store from being asked, once it is known.
async fn trouble(store: &Store) -> Fault {
    let end = Instant::now() + PATIENCE;
    loop {
        match store.trouble() {
            Some(Fault::Unreachable(None)) => {}
            Some(fault) => return fault,
            None => panic!("it is reached"),
        }
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn follows_a_forced_fail_over() {
    let pair = Pair::start();
    within(4 * PATIENCE, async {
        // One of the Sentinels is away.
        let store = store(&config(&[NOWHERE, pair.sentinel_port]));
        take(&store, 1).await;
        ask_until(&pair.replica, &["GET", &key(1)], |value| {
            value.contains("succeeded")
        });
        // Refused until it has heard of the replica for long enough.
        ask_until(
            &pair.sentinel,
            &["SENTINEL", "FAILOVER", "events"],
            |answer| answer.starts_with("+OK"),
        );
        pair.wait_for_fail_over();
        wait_until_at(&store, &pair.replica, 1000..u32::MAX).await;
        // What had been copied is remembered.
        let known = store.admit(id(1), MINUTE).await.unwrap();
        assert_eq!(known, Admission::Succeeded { status: 202 });
        take(&store, 2).await;
        assert!(pair.replica.get(&key(2)).is_some());
    });
}

#[test]
fn leaves_a_master_that_is_none_any_more_although_it_answers() {
    let ((old, old_port), (new, new_port)) = (server(&[]), server(&[]));
    let (sentinel, port) = sentinel_of(old_port);
    within(2 * PATIENCE, async {
        let store = store(&config(&[port]));
        take(&store, 1).await;
        assert!(old.get(&key(1)).is_some());
        assert_ok(&sentinel, &["SENTINEL", "REMOVE", "events"]);
        watch(&sentinel, new_port);
        wait_until_at(&store, &new, 1000..u32::MAX).await;
        // Nobody has told the old one.
        assert!(old.ask(&["ROLE"]).contains("master"));
    });
}

#[test]
fn the_address_counts_that_most_sentinels_name() {
    let ((one, one_port), (two, two_port)) = (server(&[]), server(&[]));
    let sentinels = [one_port, two_port, two_port].map(sentinel_of);
    let ports = sentinels.each_ref().map(|(_, port)| *port);
    within(PATIENCE, async {
        for number in 1..6 {
            take(&store(&config(&ports)), number).await;
        }
    });
    assert_eq!((one.keys().len(), two.keys().len()), (0, 5));
}

#[test]
fn does_not_take_a_replica_for_the_master() {
    let (_master, port) = server(&[]);
    let (replica, replica_port) = server(&[
        "--replicaof",
        &format!("127.0.0.1 {port}"),
        "--replica-read-only",
        "no",
    ]);
    let (_sentinel, sentinel_port) = sentinel_of(replica_port);
    within(PATIENCE, async {
        let fault = trouble(&store(&config(&[sentinel_port]))).await;
        assert!(matches!(&fault, Fault::Replica(_)), "{fault:?}");
        assert!(
            fault.to_string().contains(&replica_port.to_string()),
            "{fault}"
        );
        assert_eq!(fault.kind(), "no_master");
    });
    assert!(replica.keys().is_empty());
}

#[test]
fn says_why_there_is_no_master() {
    let (sentinel, port) = RedisServer::sentinel(&["--port", "$PORT"]);
    within(PATIENCE, async {
        let fault = trouble(&store(&config(&[NOWHERE, port]))).await;
        assert!(
            matches!(&fault, Fault::NoMaster(name) if name == "events"),
            "{fault:?}"
        );

        let fault = trouble(&store(&config(&[NOWHERE]))).await;
        assert!(
            matches!(&fault, Fault::Sentinel(why) if matches!(**why, Fault::Connection(_))),
            "{fault:?}"
        );

        // It does not answer at all.
        sentinel.pause();
        let fault = trouble(&store(&config(&[port]))).await;
        assert!(
            matches!(&fault, Fault::Sentinel(why) if matches!(**why, Fault::Timeout(_))),
            "{fault:?}"
        );
        sentinel.resume();

        // A server that is no Sentinel.
        let (_server, port) = server(&[]);
        let fault = trouble(&store(&config(&[port]))).await;
        assert!(
            matches!(&fault, Fault::Sentinel(why) if matches!(**why, Fault::Refused(_))),
            "{fault:?}"
        );
    });
}

#[test]
fn logs_in_at_sentinels_and_at_the_master() {
    let (master, port) = server(&[]);
    let may = [
        "+ping", "+role", "+select", "+eval", "+evalsha", "+get", "+set", "+del", "+pttl",
    ];
    let user = [
        "ACL",
        "SETUSER",
        "gateway",
        "on",
        ">s3 cret",
        "~countersign:*",
    ];
    assert_ok(&master, &[&user[..], &may].concat());
    let (sentinel, sentinel_port) = sentinel_of(port);
    assert_ok(
        &sentinel,
        &[
            "ACL",
            "SETUSER",
            "watcher",
            "on",
            ">pass word",
            "+sentinel|get-master-addr-by-name",
        ],
    );
    let secret = |word: &str| Some(Secret::new(word.as_bytes().to_vec()).unwrap());
    let with = |servers, sentinels| {
        let config = config(&[sentinel_port]);
        let RedisServers::Sentinel(asked) = config.servers else {
            unreachable!();
        };
        let config = RedisConfig {
            servers: RedisServers::Sentinel(RedisSentinel {
                user: Some("watcher".into()),
                ..asked
            }),
            user: Some("gateway".into()),
            database: 3,
            ..config
        };
        let passwords = RedisPasswords {
            servers: secret(servers),
            sentinels: secret(sentinels),
        };
        store_with(&config, passwords)
    };
    within(PATIENCE, async {
        take(&with("s3 cret", "pass word"), 1).await;
        assert!(master.ask(&["INFO", "keyspace"]).contains("db3:keys=1"));

        let fault = trouble(&with("guess", "pass word")).await;
        assert!(matches!(fault, Fault::Login(_)), "{fault:?}");
        let fault = trouble(&with("s3 cret", "guess")).await;
        assert!(
            matches!(&fault, Fault::Sentinel(why) if matches!(**why, Fault::SentinelLogin(_))),
            "{fault:?}"
        );
        assert_eq!(fault.kind(), "login");
    });
}

#[test]
fn speaks_tls_to_sentinels_and_to_the_master() {
    let authority = tls::authority();
    let identity = authority.issue_local();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = file("cert.pem", &identity.certificate_pem);
    let key = file("key.pem", &identity.key_pem);
    let ca = file("ca.pem", &authority.certificate_pem);
    let stranger = file(
        "stranger.pem",
        &tls::Authority::new("a stranger").certificate_pem,
    );
    let options = [
        "--port",
        "0",
        "--tls-port",
        "$PORT",
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
        "--tls-replication",
        "yes",
    ];
    let (master, port) =
        RedisServer::on_port(&[&options[..], &["--bind", "127.0.0.1", "--save", ""]].concat());
    let (sentinel, sentinel_port) = RedisServer::sentinel(&options);
    watch(&sentinel, port);
    let with = |ca: &str| RedisConfig {
        tls: Some(RedisTls {
            ca: Some(ca.into()),
            client_certificate: None,
        }),
        ..config(&[sentinel_port])
    };
    within(PATIENCE, async {
        take(&store(&with(&ca)), 1).await;
        assert_eq!(master.keys().len(), 1);
        for bad in [
            with(&stranger),
            RedisConfig {
                tls: None,
                ..with(&ca)
            },
        ] {
            let fault = trouble(&store(&bad)).await;
            assert!(matches!(fault, Fault::Sentinel(_)), "{bad:?}: {fault:?}");
        }
    });
}

#[test]
fn a_gateway_outlives_its_master() {
    const SECRET: &[u8] = b"shared-secret-of-some-length";
    let mut pair = Pair::start();
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .file("key", "the same on all instances")
        .config(&format!(
            "[replay]\ntimeout = \"3s\"\nstore = \"redis+sentinel://127.0.0.1:{}/events\"\nkey = {{ file = \"$DIR/key\" }}",
            pair.sentinel_port
        ))
        .route("hooks", "/hooks", SECRET, &upstream.url(), "replay = \"1h\"")
        .start();
    let send = |body: &str| {
        client::send_raw(
            gateway.door(),
            &Delivery::post("/hooks", body.to_owned()).signed(SECRET),
        )
    };
    assert_eq!(send("a").status, 200);
    let [key] = &pair.master.keys()[..] else {
        panic!("{:?}", pair.master.keys());
    };
    ask_until(&pair.replica, &["GET", key], |value| {
        value.contains("succeeded")
    });

    pair.master.kill();
    let mut statuses = Vec::new();
    let end = Instant::now() + 2 * PATIENCE;
    while statuses.last() != Some(&200) {
        assert!(Instant::now() < end, "{statuses:?}");
        statuses.push(send("b").status);
    }
    // Meanwhile it was refused, so that its sender tried again, and it was delivered once.
    assert!(
        statuses.iter().all(|status| [200, 503].contains(status)),
        "{statuses:?}"
    );
    assert_eq!(upstream.count(), 2);
    for body in ["a", "b"] {
        assert!(send(body).fields.has("countersign-duplicate"), "{body}");
    }
    // The log tells which server it is.
    let moved = gateway.logs().wait_for(|line| {
        line.text_field("master") == Some(&format!("127.0.0.1:{}", pair.replica_port))
    });
    assert!(moved.is_some());
    let checks = String::from_utf8(gateway.admin("/readyz?verbose").body).unwrap();
    assert!(checks.contains("[+] replay store\n"), "{checks}");
}
