//! The store of the replay guards in Redis, against a server that the tests start, stop, pause and cut off.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use countersign::{
    config::{OnStoreFailure, RedisConfig, RedisServers, RedisTls},
    replay::{
        Admission, Id, RedisFault as Fault, RedisPasswords, RedisStore as Store, Settlement, Token,
    },
    secret::{Secret, SecretSource},
    telemetry::Metrics,
};

use proptest::test_runner::{Config, TestRunner};

use crate::support::{
    PATIENCE,
    cut::Line,
    redis_server::RedisServer,
    replay_model::{Subject, compare, schedule},
    tls::{self, Authority},
    within,
};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

const TAKEN: Settlement = Settlement::Succeeded {
    status: 202,
    window: DAY,
};

pub(crate) fn config(servers: RedisServers) -> RedisConfig {
    RedisConfig {
        servers,
        tls: None,
        database: 0,
        user: None,
        password: None,
        prefix: "countersign:".into(),
        // Generous: a busy machine is no fault of the store.
        timeout: Duration::from_secs(3),
        key: None,
    }
}

fn on_socket(server: &RedisServer) -> RedisConfig {
    config(RedisServers::Unix(server.socket()))
}

fn at(host: &str, port: u16) -> RedisConfig {
    config(RedisServers::One {
        host: host.into(),
        port,
    })
}

fn store(config: &RedisConfig) -> Store {
    store_with(config, None)
}

fn store_with(config: &RedisConfig, password: Option<&str>) -> Store {
    // As the command does: whoever asks rustls for a provider gets this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let secret = |word: &str| Secret::new(word.as_bytes().to_vec()).unwrap();
    let passwords = RedisPasswords {
        servers: password.map(secret),
        ..RedisPasswords::default()
    };
    let metrics = Metrics::default().replay();
    Store::new(config, &passwords, OnStoreFailure::Reject, metrics).unwrap()
}

fn id(number: u8) -> Id {
    Id([number; 16])
}

fn key(number: u8) -> String {
    format!("countersign:{}", format!("{number:02x}").repeat(16))
}

fn granted(admission: Result<Admission, Fault>) -> Token {
    match admission {
        Ok(Admission::Granted(token)) => token,
        other => panic!("not granted: {other:?}"),
    }
}

/// Asks until the answer is as wanted. Every question is a round trip, or a failure that is told apart from it.
async fn ask_until(
    store: &Store,
    number: u8,
    lease: Duration,
    wanted: impl Fn(&Result<Admission, Fault>) -> bool,
) -> Result<Admission, Fault> {
    let end = Instant::now() + PATIENCE;
    loop {
        let admission = store.admit(id(number), lease).await;
        if wanted(&admission) {
            return admission;
        }
        assert!(
            Instant::now() < end,
            "waited {PATIENCE:?}; last {admission:?}"
        );
        tokio::task::yield_now().await;
    }
}

async fn wait_until_up(store: &Store) {
    let end = Instant::now() + PATIENCE;
    while store.trouble().is_some() {
        assert!(Instant::now() < end, "the store does not come up");
        tokio::task::yield_now().await;
    }
}

#[test]
fn grants_a_delivery_to_one_of_many() {
    let server = RedisServer::start(&[]);
    let (config, other) = (on_socket(&server), on_socket(&server));
    within(PATIENCE, async {
        // Two instances.
        let stores = [store(&config), store(&other)];
        let asked = (0..64).map(|i| stores[i % 2].admit(id(1), MINUTE));
        let mut grants = Vec::new();
        for admission in futures(asked).await {
            match admission.unwrap() {
                Admission::Granted(token) => grants.push(token),
                Admission::InFlight { lapses_in } => {
                    assert!(
                        lapses_in <= MINUTE && lapses_in > MINUTE / 2,
                        "{lapses_in:?}"
                    );
                }
                other @ (Admission::Succeeded { .. } | Admission::Full) => panic!("{other:?}"),
            }
        }
        assert_eq!(grants.len(), 1);

        // Settled by the other instance: the token alone counts.
        stores[1].settle(id(1), grants[0], TAKEN).await.unwrap();
        for store in &stores {
            let admission = store.admit(id(1), MINUTE).await.unwrap();
            assert_eq!(admission, Admission::Succeeded { status: 202 });
        }
        let left: u64 = server.ask(&["PTTL", &key(1)])[1..].trim().parse().unwrap();
        assert!((86_000_000..=86_400_000).contains(&left), "{left}");
    });
}

/// Awaits all of them at the same time.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = all.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, done) in &mut waiting {
            if done.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *done = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        match pending {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(()),
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}

/// A store whose time passes by taking it from every key that is left.
struct Model<'s> {
    store: &'s Store,
    server: &'s RedisServer,
}

impl Subject for Model<'_> {
    async fn admit(&mut self, id: Id, lease: Duration) -> Admission {
        self.store.admit(id, lease).await.unwrap()
    }

    async fn settle(&mut self, id: Id, token: Token, settlement: Settlement) {
        self.store.settle(id, token, settlement).await.unwrap();
    }

    async fn advance(&mut self, by: Duration) {
        let script = "
            for _, key in ipairs(redis.call('KEYS', '*')) do
              local left = redis.call('PTTL', key) - ARGV[1]
              if left > 0 then redis.call('PEXPIRE', key, left) else redis.call('DEL', key) end
            end
            return redis.status_reply('passed')";
        let passed = self
            .server
            .ask(&["EVAL", script, "0", &by.as_millis().to_string()]);
        assert_eq!(passed, "+passed\r\n");
    }
}

#[test]
fn does_what_the_model_does() {
    let server = RedisServer::start(&[]);
    let store = store(&on_socket(&server));
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(200)
    });
    let result = runner.run(&schedule(6, 120), |schedule| {
        server.ask(&["FLUSHALL"]);
        // So long that what the test itself takes counts for nothing.
        let unit = Duration::from_secs(1000);
        let mut model = Model {
            store: &store,
            server: &server,
        };
        within(
            PATIENCE,
            compare(&mut model, &schedule, usize::MAX, unit, |entries| {
                // The model keeps lapsed leases for a while.
                assert!(server.keys().len() <= entries, "{entries}");
            }),
        );
        Ok(())
    });
    result.unwrap();
}

#[test]
fn frees_a_delivery_that_failed() {
    let server = RedisServer::start(&[]);
    within(PATIENCE, async {
        let store = store(&on_socket(&server));
        let first = granted(store.admit(id(1), MINUTE).await);
        store
            .settle(id(1), first, Settlement::Failed)
            .await
            .unwrap();
        assert_eq!(server.keys(), Vec::<String>::new());
        let second = granted(store.admit(id(1), MINUTE).await);
        assert_ne!(first, second);
    });
}

#[test]
fn keeps_a_late_owner_from_what_is_anothers() {
    let server = RedisServer::start(&[]);
    within(PATIENCE, async {
        let store = store(&on_socket(&server));
        let short = Duration::from_millis(20);
        let late = granted(store.admit(id(1), short).await);
        // It lapses by itself.
        let taken = |admission: &Result<_, _>| matches!(admission, Ok(Admission::Granted(_)));
        let owner = granted(ask_until(&store, 1, MINUTE, taken).await);
        for settlement in [Settlement::Failed, TAKEN] {
            store.settle(id(1), late, settlement).await.unwrap();
            let admission = store.admit(id(1), MINUTE).await.unwrap();
            assert!(
                matches!(admission, Admission::InFlight { .. }),
                "{admission:?}"
            );
        }
        store.settle(id(1), owner, TAKEN).await.unwrap();

        // What has succeeded stays so, with the status that it had.
        let again = Settlement::Succeeded {
            status: 200,
            window: MINUTE,
        };
        for settlement in [Settlement::Failed, again] {
            store.settle(id(1), late, settlement).await.unwrap();
            let admission = store.admit(id(1), MINUTE).await.unwrap();
            assert_eq!(admission, Admission::Succeeded { status: 202 });
        }

        // Nobody has it any more: the upstream did take it, so it is recorded.
        let late = granted(store.admit(id(2), short).await);
        let end = Instant::now() + PATIENCE;
        while server.get(&key(2)).is_some() {
            assert!(Instant::now() < end, "the lease does not lapse");
        }
        store.settle(id(2), late, TAKEN).await.unwrap();
        let admission = store.admit(id(2), MINUTE).await.unwrap();
        assert_eq!(admission, Admission::Succeeded { status: 202 });
    });
}

#[test]
fn shows_a_hash_and_a_state_and_no_more() {
    let server = RedisServer::start(&[]);
    within(PATIENCE, async {
        let store = store(&on_socket(&server));
        let Token(token) = granted(store.admit(id(0xa7), MINUTE).await);
        assert_eq!(server.keys(), [key(0xa7)]);
        assert_eq!(server.get(&key(0xa7)), Some(format!("leased {token:016x}")));
        store.settle(id(0xa7), Token(token), TAKEN).await.unwrap();
        assert_eq!(server.get(&key(0xa7)).as_deref(), Some("succeeded 202"));
    });
}

#[test]
fn takes_no_value_of_others_for_its_own() {
    let server = RedisServer::start(&[]);
    server.ask(&["SET", &key(1), "whatever"]);
    server.ask(&["LPUSH", &key(2), "whatever"]);
    server.ask(&["SET", &key(3), "succeeded 2020"]);
    within(PATIENCE, async {
        let store = store(&on_socket(&server));
        let fault = store.admit(id(1), MINUTE).await.unwrap_err();
        assert!(matches!(fault, Fault::Foreign), "{fault:?}");
        let fault = store.admit(id(2), MINUTE).await.unwrap_err();
        assert!(matches!(fault, Fault::Refused(_)), "{fault:?}");
        let fault = store.admit(id(3), MINUTE).await.unwrap_err();
        assert!(matches!(fault, Fault::Foreign), "{fault:?}");
        // They are no faults of the connection.
        assert!(store.trouble().is_none());
    });
}

#[test]
fn teaches_its_scripts_to_a_server_that_forgot_them() {
    let server = RedisServer::start(&[]);
    within(PATIENCE, async {
        let store = store(&on_socket(&server));
        for number in 1..4 {
            let token = granted(store.admit(id(number), MINUTE).await);
            assert!(server.ask(&["SCRIPT", "FLUSH"]).starts_with("+OK"));
            store.settle(id(number), token, TAKEN).await.unwrap();
            let admission = store.admit(id(number), MINUTE).await.unwrap();
            assert_eq!(admission, Admission::Succeeded { status: 202 });
        }
    });
}

#[test]
fn refuses_when_the_server_is_full() {
    let server = RedisServer::start(&["--maxmemory-policy", "noeviction"]);
    within(PATIENCE, async {
        let store = store(&on_socket(&server));
        let token = granted(store.admit(id(1), MINUTE).await);
        server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
        let fault = store.settle(id(1), token, TAKEN).await.unwrap_err();
        assert_eq!(fault.kind(), "refused");
        let fault = store.admit(id(2), MINUTE).await.unwrap_err();
        assert_eq!(fault.kind(), "refused");
        server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
        granted(store.admit(id(2), MINUTE).await);
        // The success was not forgotten meanwhile.
        let over = |admission: &Result<_, _>| matches!(admission, Ok(Admission::Succeeded { .. }));
        ask_until(&store, 1, MINUTE, over).await.unwrap();
    });
}

#[test]
fn gives_back_what_it_could_not_hear_of() {
    let server = RedisServer::start(&[]);
    within(PATIENCE, async {
        let store = store(&on_socket(&server));
        granted(store.admit(id(1), MINUTE).await);
        server.pause();
        let began = Instant::now();
        let fault = store.admit(id(2), MINUTE).await.unwrap_err();
        assert!(matches!(fault, Fault::Timeout(_)), "{fault:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{began:?}");
        // The server hears of it now, and reserves it for somebody who has left.
        server.resume();
        let taken = |admission: &Result<_, _>| matches!(admission, Ok(Admission::Granted(_)));
        ask_until(&store, 2, MINUTE, taken).await.unwrap();
    });
}

#[test]
fn settles_when_the_server_can_be_asked_again() {
    let mut server = RedisServer::durable();
    within(2 * PATIENCE, async {
        let store = store(&on_socket(&server));
        let paused = granted(store.admit(id(1), MINUTE).await);
        let killed = granted(store.admit(id(2), MINUTE).await);
        let failed = granted(store.admit(id(3), MINUTE).await);

        server.pause();
        let fault = store.settle(id(1), paused, TAKEN).await.unwrap_err();
        assert!(matches!(fault, Fault::Timeout(_)), "{fault:?}");
        server.resume();
        let over = |admission: &Result<_, _>| matches!(admission, Ok(Admission::Succeeded { .. }));
        ask_until(&store, 1, MINUTE, over).await.unwrap();

        // A stopping process waits for it.
        store.settled().await;

        server.kill();
        store.settle(id(2), killed, TAKEN).await.unwrap_err();
        store
            .settle(id(3), failed, Settlement::Failed)
            .await
            .unwrap_err();
        server.restart();
        ask_until(&store, 2, MINUTE, over).await.unwrap();
        let taken = |admission: &Result<_, _>| matches!(admission, Ok(Admission::Granted(_)));
        ask_until(&store, 3, MINUTE, taken).await.unwrap();
    });
}

#[test]
fn fails_at_once_while_the_server_is_away_and_finds_it_again_by_itself() {
    let mut server = RedisServer::durable();
    within(2 * PATIENCE, async {
        let store = store(&on_socket(&server));
        let token = granted(store.admit(id(1), MINUTE).await);
        store.settle(id(1), token, TAKEN).await.unwrap();
        server.kill();
        let shut = |admission: &Result<_, _>| matches!(admission, Err(Fault::Unreachable(_)));
        ask_until(&store, 2, MINUTE, shut).await.unwrap_err();
        assert!(store.trouble().is_some());
        // Nothing is waited for: many fail in less than one would take that waits.
        let began = Instant::now();
        for _ in 0..100 {
            store.admit(id(2), MINUTE).await.unwrap_err();
        }
        assert!(began.elapsed() < Duration::from_millis(500), "{began:?}");
        server.restart();
        wait_until_up(&store).await;
        let admission = store.admit(id(1), MINUTE).await.unwrap();
        assert_eq!(admission, Admission::Succeeded { status: 202 });
    });
}

#[test]
fn gives_up_a_line_that_is_dead() {
    let server = RedisServer::start(&[]);
    let line = Line::to(server.socket());
    within(2 * PATIENCE, async {
        let config = RedisConfig {
            timeout: Duration::from_millis(100),
            ..at("127.0.0.1", line.address().port())
        };
        let store = store(&config);
        let taken = |admission: &Result<_, _>| matches!(admission, Ok(Admission::Granted(_)));
        ask_until(&store, 1, MINUTE, taken).await.unwrap();
        line.cut();
        // Some wait in vain, and then nobody does any more: sooner than an idle connection would be tried.
        let began = Instant::now();
        let shut = |admission: &Result<_, _>| matches!(admission, Err(Fault::Unreachable(_)));
        ask_until(&store, 2, MINUTE, shut).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(4), "{began:?}");
        line.mend();
        ask_until(&store, 3, MINUTE, taken).await.unwrap();
    });
}

#[test]
fn asks_again_when_the_connection_breaks() {
    let server = RedisServer::start(&[]);
    let line = Line::to(server.socket());
    within(2 * PATIENCE, async {
        let config = RedisConfig {
            timeout: Duration::from_secs(10),
            ..at("127.0.0.1", line.address().port())
        };
        let store = store(&config);
        for number in 1..4 {
            let token = granted(store.admit(id(number), MINUTE).await);
            line.reset();
            store.settle(id(number), token, TAKEN).await.unwrap();
            let admission = store.admit(id(number), MINUTE).await.unwrap();
            assert_eq!(admission, Admission::Succeeded { status: 202 });
        }
    });
}

#[test]
fn starts_before_the_server_does() {
    let mut server = RedisServer::start(&[]);
    server.kill();
    within(2 * PATIENCE, async {
        let store = store(&on_socket(&server));
        let shut = |admission: &Result<_, _>| matches!(admission, Err(Fault::Unreachable(_)));
        ask_until(&store, 1, MINUTE, shut).await.unwrap_err();
        server.restart();
        wait_until_up(&store).await;
        granted(store.admit(id(1), MINUTE).await);
    });
}

#[test]
fn logs_in_as_a_user_who_may_do_little() {
    let server = RedisServer::start(&[]);
    let may = [
        "ACL",
        "SETUSER",
        "gateway",
        "on",
        ">s3 cret",
        "~countersign:*",
        "+ping",
        "+eval",
        "+evalsha",
        "+get",
        "+set",
        "+del",
        "+pttl",
    ];
    assert!(server.ask(&may).starts_with("+OK"));
    assert!(
        server
            .ask(&["ACL", "SETUSER", "default", "off"])
            .starts_with("+OK")
    );
    within(2 * PATIENCE, async {
        let config = RedisConfig {
            user: Some("gateway".into()),
            password: Some(SecretSource::Env("UNUSED".into())),
            ..on_socket(&server)
        };
        let good = store_with(&config, Some("s3 cret"));
        let token = granted(good.admit(id(1), MINUTE).await);
        good.settle(id(1), token, TAKEN).await.unwrap();
        let token = granted(good.admit(id(2), MINUTE).await);
        good.settle(id(2), token, Settlement::Failed).await.unwrap();

        for (user, password) in [(Some("gateway"), Some("guess")), (None, None)] {
            let config = RedisConfig {
                user: user.map(str::to_owned),
                ..on_socket(&server)
            };
            let bad = store_with(&config, password);
            let shut = |admission: &Result<_, _>| matches!(admission, Err(Fault::Unreachable(_)));
            ask_until(&bad, 1, MINUTE, shut).await.unwrap_err();
            let why = bad.trouble().expect("a reason");
            assert!(matches!(why, Fault::Login(_)), "{user:?}: {why:?}");
        }
    });
}

#[test]
fn speaks_tls_to_whom_its_authority_vouches_for() {
    let authority = tls::authority();
    let identity = authority.issue_local();
    let certificates = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = certificates.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) = (
        file("cert.pem", &identity.certificate_pem),
        file("key.pem", &identity.key_pem),
    );
    let ca = file("ca.pem", &authority.certificate_pem);
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    // It wants a certificate of ours too.
    let (_server, port) = RedisServer::on_port(&[
        "--port",
        "0",
        "--tls-port",
        "$PORT",
        "--save",
        "",
        "--tls-cert-file",
        &text(&certificate),
        "--tls-key-file",
        &text(&key),
        "--tls-ca-cert-file",
        &text(&ca),
        "--tls-auth-clients",
        "yes",
    ]);
    let with = |ca: Option<&std::path::Path>, shows: bool| RedisConfig {
        tls: Some(RedisTls {
            ca: ca.map(Into::into),
            client_certificate: shows.then(|| countersign::config::CertificateFiles {
                certificate: certificate.clone(),
                private_key: key.clone(),
            }),
        }),
        timeout: Duration::from_secs(5),
        ..at("localhost", port)
    };
    let stranger = file(
        "stranger.pem",
        &Authority::new("a stranger").certificate_pem,
    );
    within(2 * PATIENCE, async {
        let good = store(&with(Some(&ca), true));
        let token = granted(good.admit(id(1), MINUTE).await);
        good.settle(id(1), token, TAKEN).await.unwrap();
        for bad in [
            with(Some(&stranger), true),
            with(None, true),
            with(Some(&ca), false),
            RedisConfig {
                tls: None,
                ..with(None, false)
            },
        ] {
            let fault = store(&bad).admit(id(2), MINUTE).await.unwrap_err();
            assert!(
                matches!(fault, Fault::Connection(_) | Fault::Unreachable(_)),
                "{bad:?}: {fault:?}"
            );
        }
    });
}

#[test]
fn finds_the_node_of_a_cluster() {
    let nodes: Vec<_> = (0..3).map(|_| cluster_node()).collect();
    let (first, _, _) = &nodes[0];
    for (i, (node, port, bus)) in nodes.iter().enumerate() {
        let (from, to) = (i * 5462, (i * 5462 + 5461).min(16383));
        let slots = node.ask(&[
            "CLUSTER",
            "ADDSLOTSRANGE",
            &from.to_string(),
            &to.to_string(),
        ]);
        assert!(slots.starts_with("+OK"), "{slots}");
        let met = first.ask(&[
            "CLUSTER",
            "MEET",
            "127.0.0.1",
            &port.to_string(),
            &bus.to_string(),
        ]);
        assert!(met.starts_with("+OK"), "{met}");
    }
    let end = Instant::now() + PATIENCE;
    for (node, _, _) in &nodes {
        while !node.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
            || !node
                .ask(&["CLUSTER", "INFO"])
                .contains("cluster_known_nodes:3")
        {
            assert!(Instant::now() < end, "the cluster does not come together");
        }
    }
    within(2 * PATIENCE, async {
        // Two are told; the third is found.
        let told = nodes[..2]
            .iter()
            .map(|(_, port, _)| ("127.0.0.1".to_owned(), *port));
        let config = RedisConfig {
            timeout: Duration::from_secs(5),
            ..config(RedisServers::Cluster(told.collect()))
        };
        let store = store(&config);
        for number in 0..30 {
            let token = granted(store.admit(id(number), MINUTE).await);
            store.settle(id(number), token, TAKEN).await.unwrap();
            let admission = store.admit(id(number), MINUTE).await.unwrap();
            assert_eq!(admission, Admission::Succeeded { status: 202 });
        }
    });
    let held: Vec<_> = nodes.iter().map(|(node, ..)| node.keys().len()).collect();
    assert!(held.iter().all(|count| *count > 0), "{held:?}");
    assert_eq!(held.iter().sum::<usize>(), 30);
}

/// A node, its port and that of its bus.
fn cluster_node() -> (RedisServer, u16, u16) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let bus = free.local_addr().unwrap().port();
    drop(free);
    let (node, port) = RedisServer::on_port(&[
        "--port",
        "$PORT",
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus.to_string(),
        "--cluster-node-timeout",
        "5000",
    ]);
    (node, port, bus)
}
