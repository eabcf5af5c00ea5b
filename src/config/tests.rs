//! What the loader takes, what it refuses, and in which words.

use std::{collections::BTreeSet, fs, path::Path, time::Instant};

use super::*;
use crate::{
    clock::{Clock as _, SystemClock},
    secret::SecretSource,
};

const ROUTE: &str = r#"
[[route]]
name = "cases"
path = "/cases"
scheme = "carevalidate"
secrets = [{ id = "a", file = "cv.secret" }]
upstream = "http://127.0.0.1:3000"
"#;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn stdin(text: &str) -> Source {
    Source::Stdin(text.to_owned())
}

fn with_env(text: &str, pairs: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    load(&stdin(text), &env(pairs), &Flags::default())
}

fn one_route() -> Flags {
    Flags {
        scheme: Some("carevalidate".into()),
        secret_file: Some("cv.secret".into()),
        upstream: vec!["http://127.0.0.1:3000".into()],
        ..Flags::default()
    }
}

fn from_flags(flags: &Flags) -> Result<Loaded, ConfigErrors> {
    load(&Source::None, &[], flags)
}

fn tcp(address: &str) -> ListenAddr {
    ListenAddr::Tcp(address.parse().unwrap())
}

fn text_of(result: Result<Loaded, ConfigErrors>) -> String {
    match result {
        Ok(loaded) => loaded
            .warnings
            .iter()
            .map(Problem::to_string)
            .collect::<Vec<_>>()
            .join("\n\n"),
        Err(errors) => errors.to_string(),
    }
}

/// `UPDATE_EXPECTED=1` writes what was seen; read the difference before you commit it.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the switch that writes expectations anew"
)]
fn fixtures_are_judged_in_exactly_these_words() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut seen = 0;
    let mut wrong = Vec::new();
    let mut names: Vec<_> = fs::read_dir("tests/config")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        // In a binary without it there is nothing else to say of the table.
        .filter(|path| cfg!(feature = "acme") || !path.to_string_lossy().contains("_acme"))
        .collect();
    names.sort();
    for path in names {
        seen += 1;
        let result = load(&Source::File(path.clone()), &[], &Flags::default());
        let good = path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("ok_");
        assert_eq!(
            result.is_ok(),
            good,
            "{}: {}",
            path.display(),
            text_of(result)
        );
        let text = text_of(result);
        let text = if text.is_empty() { text } else { text + "\n" };
        let expected = path.with_extension("txt");
        if update {
            if text.is_empty() {
                let _ = fs::remove_file(&expected);
            } else {
                fs::write(&expected, &text).unwrap();
            }
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("{}:\n{text}", path.display()));
        }
    }
    assert!(seen > 60, "only {seen} fixtures were found");
    assert!(wrong.is_empty(), "unexpected texts:\n{}", wrong.join("\n"));
}

#[test]
fn no_error_shows_a_secret() {
    let mut seen = 0;
    for entry in fs::read_dir("tests/config").unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
            && fs::read_to_string(&path).unwrap().contains("hunter2")
        {
            seen += 1;
            let result = load(&Source::File(path.clone()), &[], &Flags::default());
            let errors = result.unwrap_err();
            for text in [
                errors.to_string(),
                format!("{errors:?}"),
                serde_json::to_string(errors.problems()).unwrap(),
            ] {
                assert!(!text.contains("hunter2"), "{}: {text}", path.display());
            }
        }
    }
    assert!(seen >= 8, "only {seen} fixtures hold a secret");
}

#[test]
fn a_secret_in_any_place_of_a_route_is_never_shown() {
    for line in [
        r#"secret = "hunter2""#,
        r#"secrets = "hunter2""#,
        r#"secrets = ["hunter2", "hunter2"]"#,
        r#"secrets = [["hunter2"]]"#,
        r#"secrets = { id = "a", value = "hunter2" }"#,
        r#"secrets = [{ id = "a", value = "hunter2" }]"#,
        r#"secrets = [{ id = "a", key = "hunter2", file = 5 }]"#,
        r#"secrets = [{ id = "a b", plain = "hunter2", file = "x" }]"#,
        r#"secrets = [{ id = "a", env = "hunter2+/" }]"#,
        r#"secrets = [{ id = "a", credential = "hunter2+/" }]"#,
        "secrets = [{ id = \"a\", file = \"hunter2\\n\" }]",
        "[[route.secrets]]\nid = \"a\"\nvalue = \"hunter2\"",
        "[route.secrets]\nid = \"a\"\nvalue = \"hunter2\"",
        r#"token = ["hunter2"]"#,
        r#"signing_key = "hunter2""#,
        r#"api-key = { nested = "hunter2" }"#,
        r#"scheme = { algorithm = 5, secret = "hunter2" }"#,
        r#"params = { secret = "hunter2" }"#,
        r#"upstream = "http://user:hunter2@app""#,
        r#"upstream = ["http://user:hunter2@app", 5]"#,
        r#"secret = "hunter2"#,
        r#"secrets = [{ id = "a", value = 'hunter2"#,
        "secrets = [\n  'hunter2,\n]",
        "secret = \"\"\"\nhunter2 \\q\n\"\"\"",
    ] {
        let text = format!("[[route]]\nname = \"a b\"\npath = \"x\"\n{line}\n");
        let errors = with_env(&text, &[]).unwrap_err();
        for shown in [
            errors.to_string(),
            format!("{errors:?}"),
            serde_json::to_string(errors.problems()).unwrap(),
        ] {
            assert!(!shown.contains("hunter2"), "{line}\n{shown}");
        }
    }
}

/// An editor that saves in the middle, a full disk: every beginning of a file is judged, and shows no secret.
#[test]
fn half_written_files_are_judged_too() {
    for name in [
        "ok_everything",
        "err_many",
        "err_secret_value",
        "err_tls_key_inline",
    ] {
        let text = fs::read_to_string(format!("tests/config/{name}.toml")).unwrap();
        for (end, _) in text.char_indices() {
            if let Err(errors) = with_env(&text[..end], &[]) {
                let shown = errors.to_string();
                assert!(!shown.contains("hunter"), "{name} up to {end}: {shown}");
            }
        }
    }
}

#[test]
fn the_environment_beats_the_file_and_flags_beat_both() {
    let file = format!("[server]\nlisten = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\n{ROUTE}");
    let from_file = with_env(&file, &[]).unwrap().config;
    assert_eq!(from_file.server.listen, [tcp("127.0.0.1:1")]);
    assert_eq!(from_file.server.drain, Duration::from_secs(30));

    let vars = [
        (
            "COUNTERSIGN_SERVER__LISTEN",
            "[\"127.0.0.1:3\", \"[::1]:3\"]",
        ),
        ("COUNTERSIGN_SERVER__THREADS", "2"),
        ("COUNTERSIGN_LIMITS__SPOOL", "0"),
        ("COUNTERSIGN_LIMITS__CONNECTIONS", "7"),
        ("COUNTERSIGN_CONFIG", "reserved"),
        ("UNRELATED__THING", "x"),
    ];
    let from_env = with_env(&file, &vars).unwrap().config;
    assert_eq!(from_env.server.listen, [tcp("127.0.0.1:3"), tcp("[::1]:3")]);
    assert_eq!(from_env.server.admin, Some(tcp("127.0.0.1:2")));
    assert_eq!(from_env.server.threads, 2);
    assert_eq!(from_env.limits.spool, 0);
    assert_eq!(from_env.limits.connections, 7);

    let flags = Flags {
        listen: vec!["127.0.0.1:4".into()],
        ..Flags::default()
    };
    let from_flags = load(&stdin(&file), &env(&vars), &flags).unwrap().config;
    assert_eq!(from_flags.server.listen, [tcp("127.0.0.1:4")]);
    assert_eq!(from_flags.server.threads, 2);
}

#[test]
fn digits_in_the_environment_stay_text_where_text_is_wanted() {
    // Not the number 1: a text that is no header's name would be refused.
    let vars = [
        ("COUNTERSIGN_SERVER__MARK", "1"),
        ("COUNTERSIGN_LIMITS__SPOOL_DIR", "007"),
    ];
    let config = with_env(ROUTE, &vars).unwrap().config;
    assert_eq!(config.server.mark, "1");
    assert_eq!(config.limits.spool_dir, Some("007".into()));
}

#[test]
fn port_counts_only_where_nobody_names_an_address() {
    let port = ("PORT", "9999");
    let loaded = with_env(ROUTE, &[port]).unwrap();
    assert_eq!(loaded.config.server.listen, [tcp("0.0.0.0:9999")]);
    assert_eq!(loaded.warnings[0].place, Place::Environment("PORT".into()));

    let file = format!("[server]\nlisten = \"127.0.0.1:1\"\n{ROUTE}");
    let named = with_env(&file, &[port]).unwrap().config;
    assert_eq!(named.server.listen, [tcp("127.0.0.1:1")]);
    let named = with_env(
        ROUTE,
        &[port, ("COUNTERSIGN_SERVER__LISTEN", "127.0.0.1:2")],
    );
    assert_eq!(named.unwrap().config.server.listen, [tcp("127.0.0.1:2")]);

    let errors = with_env(ROUTE, &[("PORT", "http")]).unwrap_err();
    assert_eq!(
        errors.problems()[0].place,
        Place::Environment("PORT".into())
    );
}

#[test]
fn variables_are_named_in_errors() {
    for (name, value, want) in [
        (
            "COUNTERSIGN_SERVER__LISTN",
            "x",
            "error: the environment variable `COUNTERSIGN_SERVER__LISTN` names no known key\n\
             --> environment variable COUNTERSIGN_SERVER__LISTN\n \
             = help: did you mean `COUNTERSIGN_SERVER__LISTEN`?",
        ),
        (
            "COUNTERSIGN_ROUTE__0__NAME",
            "x",
            "error: the environment variable `COUNTERSIGN_ROUTE__0__NAME` cannot set a part of a route\n\
             --> environment variable COUNTERSIGN_ROUTE__0__NAME\n \
             = help: write routes into the file",
        ),
        (
            "COUNTERSIGN_SERVER__DRAIN",
            "30",
            "error: \"30\" is not a duration\n\
             --> environment variable COUNTERSIGN_SERVER__DRAIN\n \
             = help: write a number and a unit, such as \"30s\"; units are ms, s, m, h, d",
        ),
        (
            "COUNTERSIGN_SERVER__THREADS",
            "four",
            "error: `threads` must be a whole number, zero or more, not a string\n\
             --> environment variable COUNTERSIGN_SERVER__THREADS\n \
             = help: write digits only, without quotes",
        ),
        (
            "COUNTERSIGN_SERVER__LISTEN",
            "[\"127.0.0.1:1\", \"x\"]",
            "error: \"x\" is not an address to listen on\n\
             --> environment variable COUNTERSIGN_SERVER__LISTEN\n \
             = help: write an IP address and a port, such as `127.0.0.1:8080` or `[::]:8080`, `unix:` and a path, or `systemd:` and a name",
        ),
        (
            "COUNTERSIGN_SERVER__TLS__CERTIFICATE",
            "a.pem",
            "error: the key `private_key` is missing\n\
             --> environment variable COUNTERSIGN_SERVER__TLS__PRIVATE_KEY\n \
             = help: add `private_key = \"tls/key.pem\"`",
        ),
    ] {
        let errors = with_env(ROUTE, &[(name, value)]).unwrap_err();
        assert_eq!(errors.to_string(), want);
    }
}

#[test]
fn a_variable_with_one_underscore_too_few_is_pointed_out() {
    let loaded = with_env(ROUTE, &[("COUNTERSIGN_LOG_LEVEL", "debug")]).unwrap();
    assert_eq!(loaded.config.log.level, LogLevel::Info);
    assert_eq!(loaded.warnings.len(), 1);
    assert!(
        loaded.warnings[0]
            .to_string()
            .contains("COUNTERSIGN_LOG__LEVEL")
    );
}

#[test]
fn one_route_needs_no_file() {
    let flags = Flags {
        listen: vec!["127.0.0.1:8080".into()],
        ..one_route()
    };
    let loaded = from_flags(&flags).unwrap();
    assert!(loaded.warnings.is_empty());
    let [route] = &loaded.config.routes[..] else {
        panic!("one route was asked for");
    };
    assert_eq!(route.name, "default");
    assert_eq!(route.path, PathPattern::Prefix("/".into()));
    assert_eq!(route.methods, ["POST"]);
    assert_eq!(route.scheme.name(), "carevalidate");
    assert_eq!(route.secrets[0].id, "default");
    assert_eq!(
        route.secrets[0].source,
        SecretSource::File("cv.secret".into())
    );
    assert_eq!(
        route.upstream.addresses,
        [UpstreamAddr::Http {
            host: "127.0.0.1".into(),
            port: 3000
        }]
    );
}

#[test]
fn a_route_from_flags_takes_settings_from_a_file_without_routes() {
    let loaded = load(&stdin("[limits]\nbody = \"1MiB\"\n"), &[], &one_route()).unwrap();
    assert_eq!(loaded.config.routes[0].body_bytes_max, 1 << 20);

    let errors = load(&stdin(ROUTE), &[], &one_route()).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "error: the flags describe a route, and the file has routes too\n\
         --> flag --scheme\n \
         = help: put everything into the file, or leave `--config` out to run one route without a file"
    );
}

#[test]
fn flags_are_named_in_errors() {
    let of = |flags: Flags| from_flags(&flags).unwrap_err();
    let places = |errors: &ConfigErrors| -> Vec<_> {
        errors
            .problems()
            .iter()
            .map(|problem| problem.place.clone())
            .collect()
    };
    let flag = |name: &str| Place::Flag(name.into());

    let errors = of(Flags {
        scheme: None,
        upstream: vec!["app".into()],
        listen: vec!["x".into()],
        ..one_route()
    });
    assert_eq!(
        places(&errors),
        [flag("--listen"), flag("--scheme"), flag("--upstream")]
    );
    assert!(
        errors
            .to_string()
            .contains("the flag `--scheme` is missing")
    );

    let errors = of(Flags {
        secret_env: Some("X".into()),
        ..one_route()
    });
    assert_eq!(places(&errors), [flag("--secret-file")]);

    let errors = of(Flags {
        param: vec!["header".into()],
        ..one_route()
    });
    assert_eq!(places(&errors), [flag("--param")]);

    let errors = of(Flags {
        tls_certificate: Some("a.pem".into()),
        ..one_route()
    });
    assert!(
        errors
            .to_string()
            .contains("the flag `--tls-key` is missing"),
        "{errors}"
    );
}

#[test]
fn flags_reach_their_keys() {
    let loaded = from_flags(&Flags {
        scheme: Some("carevalidate:custom-header".into()),
        param: vec!["header=x-api-key".into()],
        secret_file: None,
        secret_credential: Some("cv".into()),
        path: Some("/hooks".into()),
        public_url: Some("https://hooks.example.org".into()),
        admin: Some("off".into()),
        tls_certificate: Some("a.pem".into()),
        tls_key: Some("a.key".into()),
        log_format: Some("text".into()),
        log_level: Some("warn".into()),
        ..one_route()
    })
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.server.admin, None);
    assert_eq!(
        config.server.tls.unwrap().certificates[0].private_key,
        Path::new("a.key")
    );
    assert_eq!(
        (config.log.format, config.log.level),
        (LogFormat::Text, LogLevel::Warn)
    );
    assert_eq!(config.routes[0].path, PathPattern::Exact("/hooks".into()));
    let public_url = config.routes[0].public_url.as_ref().unwrap();
    assert_eq!(public_url.of("/a").0, "https://hooks.example.org/a");
    assert_eq!(
        config.routes[0].secrets[0].source,
        SecretSource::Credential("cv".into())
    );
}

#[test]
fn nothing_at_all_says_what_is_needed() {
    let errors = from_flags(&Flags::default()).unwrap_err();
    assert!(
        errors.to_string().starts_with("error: there is no route\n"),
        "{errors}"
    );
    assert_eq!(errors.problems()[0].place, Place::Nowhere);
}

#[test]
fn a_missing_file_is_an_error_and_is_looked_for_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("countersign.toml"), ROUTE).unwrap();
    let below = folder.path().join("below");
    fs::create_dir(&below).unwrap();
    let file = below.join("countersign.toml");
    let errors = load(&Source::File(file.clone()), &[], &Flags::default()).unwrap_err();
    assert_eq!(errors.problems()[0].message, "there is no such file");
    assert_eq!(errors.problems()[0].file(), file.to_str());

    let errors = load(&Source::File(below), &[], &Flags::default()).unwrap_err();
    assert!(
        errors.problems()[0]
            .message
            .starts_with("the file cannot be read")
    );
    fs::write(&file, b"\xff").unwrap();
    let errors = load(&Source::File(file), &[], &Flags::default()).unwrap_err();
    assert_eq!(errors.problems()[0].message, "the file is not UTF-8 text");
}

#[test]
fn paths_are_relative_to_whoever_wrote_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("countersign.toml");
    let text = format!(
        "[server]\nlisten = \"unix:in.sock\"\nadmin = \"unix:/run/admin.sock\"\n\
         [server.tls]\nprivate_key = \"key.pem\"\n{}",
        ROUTE.replace("http://127.0.0.1:3000", "unix:app.sock")
    );
    fs::write(&file, text).unwrap();
    let vars = env(&[
        ("COUNTERSIGN_SERVER__TLS__CERTIFICATE", "chain.pem"),
        ("COUNTERSIGN_LIMITS__SPOOL_DIR", "spool"),
    ]);
    let config = load(&Source::File(file), &vars, &Flags::default())
        .unwrap()
        .config;
    let beside = |name: &str| folder.path().join(name);
    assert_eq!(config.server.listen, [ListenAddr::Unix(beside("in.sock"))]);
    assert_eq!(
        config.server.admin,
        Some(ListenAddr::Unix("/run/admin.sock".into()))
    );
    let tls = config.server.tls.unwrap();
    assert_eq!(tls.certificates[0].private_key, beside("key.pem"));
    assert_eq!(tls.certificates[0].certificate, Path::new("chain.pem"));
    assert_eq!(config.limits.spool_dir, Some("spool".into()));
    let route = &config.routes[0];
    assert_eq!(
        route.secrets[0].source,
        SecretSource::File(beside("cv.secret"))
    );
    assert_eq!(
        route.upstream.addresses,
        [UpstreamAddr::Unix(beside("app.sock"))]
    );

    let config = with_env(ROUTE, &[]).unwrap().config;
    assert_eq!(
        config.routes[0].secrets[0].source,
        SecretSource::File("cv.secret".into())
    );
}

#[test]
fn everything_written_arrives() {
    let file = Source::File("tests/config/ok_everything.toml".into());
    let config = load(&file, &[], &Flags::default()).unwrap().config;
    assert_eq!(config.server.drain, Duration::from_secs(10));
    assert_eq!(config.server.threads, 3);
    assert_eq!(config.server.admin, None);
    assert_eq!(config.server.mark, "x-checked");
    assert_eq!(config.server.trusted_proxies.len(), 2);
    assert_eq!(config.server.trusted_proxies[1].to_string(), "::1/128");
    let tls = config.server.tls.unwrap();
    assert_eq!(tls.certificates.len(), 2);
    assert_eq!(
        tls.certificates[0].certificate,
        Path::new("tests/config/tls/a.pem")
    );
    assert_eq!(tls.certificates[1].private_key, Path::new("/etc/tls/b.key"));
    assert_eq!(config.limits.body, 1_000_000_000);
    assert_eq!(config.limits.body_min_rate, 0);
    assert_eq!(config.limits.head_timeout, Duration::from_secs(10));
    let route = &config.routes[0];
    assert_eq!(route.host.as_deref(), Some("hooks.example.org"));
    assert_eq!(route.path, PathPattern::Prefix("/".into()));
    assert_eq!(route.methods, ["POST", "PUT"]);
    assert_eq!(route.scheme.name(), "custom");
    assert_eq!(route.scheme.tolerance(), Some(Duration::from_secs(90)));
    assert_eq!(
        route.secrets[0].not_before,
        Some(UnixTime::from_secs(1_767_225_600))
    );
    assert_eq!(
        route.secrets[1].source,
        SecretSource::Credential("cv".into())
    );
    assert_eq!(route.body_bytes_max, 2 << 20);
    assert_eq!(route.reject_status, 498);
    assert_eq!(
        route.guard,
        Some(GuardConfig {
            window: Duration::from_secs(180),
            on_duplicate: OnDuplicate::Conflict,
            // Two addresses of 5 s, 10 s of retries, 30 s for the answer, 5 s more.
            forwarding: Duration::from_secs(55),
            lease: Duration::from_secs(60),
        })
    );
    assert_eq!(
        config.replay,
        ReplayConfig {
            store: ReplayStore::Memory,
            on_store_failure: OnStoreFailure::Admit,
            entries: 1000,
        }
    );
    let upstream = &route.upstream;
    assert_eq!(
        upstream.addresses,
        [("10.0.0.5", 443), ("app.internal", 8443)].map(|(host, port)| UpstreamAddr::Https {
            host: host.into(),
            port
        })
    );
    assert_eq!(upstream.protocol, UpstreamProtocol::Http2);
    assert_eq!(
        upstream.ca.as_deref(),
        Some(Path::new("tests/config/ca.pem"))
    );
    assert!(upstream.client_certificate.is_some());
    assert_eq!(upstream.server_name.as_deref(), Some("app.internal"));
    assert_eq!(upstream.connect_retry, Duration::from_secs(10));
    assert_eq!(upstream.keep_alive, Duration::from_secs(4));
    assert_eq!(config.routes[1].body_bytes_max, config.limits.body);
}

#[test]
fn limits_of_a_route_arrive() {
    let file = Source::File("tests/config/ok_throttle.toml".into());
    let config = load(&file, &[], &Flags::default()).unwrap().config;
    assert!(config.server.proxy_protocol);
    assert_eq!(config.limits.in_flight, 500);
    let route = &config.routes[0];
    let throttle = &route.throttle;
    assert_eq!(throttle.allow.len(), 2);
    assert_eq!(throttle.allow[1].to_string(), "2001:db8::7/128");
    assert_eq!(
        throttle.rate,
        Some(Rate::new(Duration::from_millis(100), 10))
    );
    assert_eq!(
        throttle.sender_rate,
        Some(Rate::new(Duration::from_millis(10), 500))
    );
    assert_eq!(throttle.concurrency, Some(50));
    assert_eq!(route.upstream.max_fails, 5);
    assert_eq!(
        route.observe_until,
        Some(UnixTime::from_secs(1_767_225_600))
    );
    let on = &[("COUNTERSIGN_SERVER__PROXY_PROTOCOL", "true")];
    assert!(with_env(ROUTE, on).unwrap().config.server.proxy_protocol);
    let odd = &[("COUNTERSIGN_SERVER__PROXY_PROTOCOL", "yes")];
    let errors = with_env(ROUTE, odd).unwrap_err().to_string();
    assert!(errors.contains("must be true or false"), "{errors}");
}

#[test]
fn a_route_observes_for_ninety_days_at_most() {
    let now = SystemClock.now().secs();
    let route = |days: i64| {
        let until = UnixTime::from_secs(now + days * 86_400);
        format!("{ROUTE}mode = \"observe\"\nobserve_until = \"{until}\"\n")
    };
    for days in [1, 89] {
        let loaded = with_env(&route(days), &[]).unwrap();
        assert!(loaded.config.routes[0].observe_until.is_some());
        let warned = |problem: &Problem| problem.path == "route.cases.mode";
        assert!(loaded.warnings.iter().any(warned), "{days}");
    }
    assert!(with_env(&route(91), &[]).is_err());
}

#[test]
fn problems_have_a_form_for_programs() {
    let errors = with_env(&format!("{ROUTE}tolerence = 1\n"), &[]).unwrap_err();
    assert_eq!(
        serde_json::to_value(errors.problems()).unwrap(),
        serde_json::json!([{
            "severity": "error",
            "path": "route.cases.tolerence",
            "message": "unknown key `tolerence`",
            "help": "did you mean `tolerance`?",
            "file": "<stdin>",
            "line": 8,
            "column": 1,
            "source": "file",
        }])
    );
}

#[test]
fn the_samples_are_valid_and_the_long_one_names_every_key_with_its_default() {
    let minimal = load(
        &Source::File("config/minimal.toml".into()),
        &[],
        &Flags::default(),
    );
    let minimal = minimal.unwrap().config;
    let path = "config/countersign.toml";
    let complete = load(&Source::File(path.into()), &[], &Flags::default())
        .unwrap()
        .config;
    assert_eq!(
        format!("{:?}", complete.limits),
        format!("{:?}", minimal.limits)
    );
    assert_eq!(format!("{:?}", complete.log), format!("{:?}", minimal.log));
    assert_eq!(
        format!("{:?}", complete.fetch),
        format!("{:?}", minimal.fetch)
    );
    assert_eq!(
        format!("{:?}", complete.server),
        format!("{:?}", minimal.server)
    );
    let defaults = |config: &Config| {
        let route = &config.routes[0];
        let upstream = &route.upstream;
        format!(
            "{:?} {} {} {:?} {:?} {} {:?}",
            route.methods,
            route.body_bytes_max,
            route.reject_status,
            route.throttle,
            route.observe_until,
            route.continues_trace,
            UpstreamConfig {
                addresses: Vec::new(),
                ..upstream.clone()
            }
        )
    };
    assert_eq!(defaults(&complete), defaults(&minimal));

    let text = fs::read_to_string(path).unwrap();
    let written: BTreeSet<&str> = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .collect();
    // The words of a scheme have a document of their own.
    let in_sample = |key: &String| !key.starts_with("route.scheme.");
    for key in known_keys().into_iter().filter(in_sample) {
        let name = key.rsplit('.').next().unwrap();
        assert!(written.contains(name), "{path} does not show `{key}`");
    }
}

#[test]
fn known_keys_are_those_of_every_table() {
    let keys = known_keys();
    for key in [
        "server.listen",
        "server.tls.certificates.private_key",
        "limits.body_min_rate",
        "log.level",
        "route.reject_status",
        "route.secrets.not_after",
        "route.scheme.timestamp.unit",
    ] {
        assert!(keys.iter().any(|known| known == key), "{key}");
    }
    let distinct: BTreeSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
}

#[test]
fn many_routes_take_each_no_longer_than_few() {
    let took = |count: usize| {
        let routes: String = (0..count)
            .map(|route| {
                ROUTE
                    .replace("\"cases\"", &format!("\"r{route}\""))
                    .replace("/cases", &format!("/{route}"))
            })
            .collect();
        let began = Instant::now();
        let loaded = with_env(&routes, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        let took = began.elapsed();
        assert_eq!(loaded.config.routes.len(), count);
        took
    };
    // Noise only ever adds: it has to hold once.
    let ratios: Vec<_> = (0..5)
        .map(|_| took(4000).as_secs_f64() / took(250).as_secs_f64() / 16.0)
        .collect();
    assert!(ratios.iter().any(|ratio| *ratio < 2.0), "{ratios:?}");
}
