//! The commands as a person or a script meets them: what they print, where, and how they end.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// No command may ever print it: [`Run`] looks.
const SECRET: &str = "s3cr3t-that-nobody-prints";

const BODY: &[u8] = b"{\"n\": 1.0,\r\n \"s\": \"\\u00e9\"}\n";

/// The longest wait for something that is bound to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A command that ended.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    #[track_caller]
    fn ends_with(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    #[track_caller]
    fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "no {word:?} in:\n{}",
                self.stderr
            );
        }
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}", self.stdout))
    }
}

/// A folder with a secret, a body and whatever else a test writes, in which commands run.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.write("secret", SECRET);
        desk.write("body", BODY);
        desk
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        command
            .args(args)
            .current_dir(self.0.path())
            .env_remove("PORT")
            .env_remove("COUNTERSIGN_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        finish(self.command(args).spawn().unwrap())
    }

    fn run_with_stdin(&self, args: &[&str], stdin: &[u8]) -> Run {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        // The command may end without reading it all.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        finish(child)
    }
}

/// Waits for a command, which is killed if it does not end by itself.
fn finish(child: Child) -> Run {
    let (ended, wait) = mpsc::channel::<()>();
    let pid = Pid::from_child(&child);
    let watch = thread::spawn(move || {
        if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watch.join().unwrap();
    let run = Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert_no_secret(&run.stdout);
    assert_no_secret(&run.stderr);
    run
}

#[track_caller]
fn assert_no_secret(text: &str) {
    let hex = data_encoding::HEXLOWER.encode(SECRET.as_bytes());
    let base64 = data_encoding::BASE64.encode(SECRET.as_bytes());
    for written in [SECRET, &hex, base64.trim_end_matches('=')] {
        assert!(!text.contains(written), "the secret was printed:\n{text}");
    }
}

/// Flags for the scheme and secret that most tests use.
const SIGNER: [&str; 4] = ["--scheme", "carevalidate", "--secret-file", "secret"];

/// `command`, then [`SIGNER`], then `rest`.
fn with_signer<'a>(command: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&[command][..], &SIGNER, rest].concat()
}

fn one_route(upstream: &str) -> String {
    format!(
        r#"
[server]
listen = ["127.0.0.1:0"]
admin  = "127.0.0.1:0"

[[route]]
name     = "cases"
path     = "/cases"
scheme   = "carevalidate"
secrets  = [{{ id = "a", file = "secret" }}]
upstream = "{upstream}"
"#
    )
}

/// Two secrets of which one follows the other at the beginning of 2026, and a signed time.
const ROTATION: &str = r#"
[[route]]
name     = "orders"
path     = "/orders"
secrets  = [
  { id = "old", file = "old", not_after = "2026-01-01T00:00:00Z" },
  { id = "new", file = "secret", not_before = "2026-01-01T00:00:00Z", not_after = "2027-01-01T00:00:00Z" },
]
upstream = "http://127.0.0.1:9"

[route.scheme]
algorithm = "hmac-sha256"
content   = "{timestamp}.{body}"
signature = { header = "x-signature", prefix = "sha256=", encoding = "base64" }
timestamp = { header = "x-timestamp", unit = "s", tolerance = "5m" }
"#;

/// A process that runs; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A `serve` that runs.
struct Gateway {
    _process: Running,
    senders: String,
    admin: String,
}

impl Gateway {
    fn start(desk: &Desk, args: &[&str]) -> Self {
        let child = desk.command(args).stderr(Stdio::inherit()).spawn().unwrap();
        let mut process = Running(child);
        let (mut senders, mut admin) = (None, None);
        let mut log = BufReader::new(process.0.stdout.take().unwrap());
        loop {
            let mut line = String::new();
            assert_ne!(
                log.read_line(&mut line).unwrap(),
                0,
                "it ended before it was ready"
            );
            assert_no_secret(&line);
            let line: Value = serde_json::from_str(&line).unwrap();
            let address = line["address"].as_str().map(str::to_owned);
            match (line["message"].as_str(), line["listener"].as_str()) {
                (Some("ready"), _) => break,
                (Some("listening"), Some("data")) => senders = address,
                (Some("listening"), Some("admin")) => admin = address,
                _ => {}
            }
        }
        // Nobody reads on, and a full pipe must not stop it.
        thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        Self {
            _process: process,
            senders: senders.unwrap(),
            admin: admin.unwrap(),
        }
    }
}

/// A request as an upstream saw it.
struct Seen {
    head: String,
    body: Vec<u8>,
}

/// Answers every request with `202 Accepted` and passes on what came.
fn upstream() -> (SocketAddr, mpsc::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            if sender.send(answer(stream.unwrap())).is_err() {
                break;
            }
        }
    });
    (address, receiver)
}

fn answer(mut stream: TcpStream) -> Seen {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    stream
        .write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone")
        .unwrap();
    Seen { head, body }
}

/// An address of 127.0.0.1 where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

// providers

#[test]
fn providers_shows_one_in_full() {
    let desk = Desk::new();
    let run = desk.run(&["providers", "carevalidate"]).ends_with(0);
    let expected = "\
scheme carevalidate
  how          HMAC SHA-256
  signed       {body}
  signature    header `x-cv-signature`
  secret       shared secret, as text
  not covered  the time: a captured request verifies for as long as the secret lives
";
    assert!(run.stdout.contains(expected), "{}", run.stdout);
    for words in [
        "CareValidate (carevalidate)",
        "known from the provider's own pages, read ",
        "scheme carevalidate:custom-header",
        "  params       header\n",
        "  not covered  everything: the secret itself is sent\n",
        "\n[[route]]\nname     = \"carevalidate\"\n",
    ] {
        assert!(run.stdout.contains(words), "no {words:?}:\n{}", run.stdout);
    }
    // Its route is one that `check` takes, but for the secret that is not there.
    let (_, route) = run.stdout.split_once("\n[[route]]").unwrap();
    desk.write("c.toml", format!("[[route]]{route}"));
    desk.run(&["check", "-c", "c.toml"])
        .ends_with(78)
        .says(&["secrets/carevalidate does not exist"]);

    let json = desk.run(&["providers", "sendgrid", "--json"]).ends_with(0);
    let json = json.json();
    assert_eq!(json["schemes"][0]["signs_with"], "ECDSA P-256");
    assert_eq!(json["schemes"][0]["tolerance_seconds"], 300);
    assert!(json["route"].as_str().unwrap().starts_with("[[route]]\n"));
}

#[test]
fn providers_lists_all_of_them_or_those_that_a_word_is_in() {
    let desk = Desk::new();
    let all = desk.run(&["providers"]).ends_with(0).stdout;
    assert!(all.lines().count() > 270, "{all}");
    let word = desk.run(&["providers", "SENDGRID"]).ends_with(0).stdout;
    let (table, count) = word.split_once("\n\n").unwrap();
    assert_eq!(
        table,
        "SCHEME    HOW IT SIGNS  NOT COVERED  KNOWN FROM\n\
         sendgrid  ECDSA P-256                source"
    );
    assert!(count.starts_with("1 provider, 1 scheme. "), "{count}");
    let json = desk.run(&["providers", "ed25519", "--json"]).ends_with(0);
    let json = json.json();
    let ids: Vec<_> = json
        .as_array()
        .unwrap()
        .iter()
        .map(|provider| provider["id"].as_str().unwrap())
        .collect();
    assert!(
        ids.contains(&"discord") && !ids.contains(&"github"),
        "{ids:?}"
    );
    for (asked, answer) in [
        ("strpie", "no provider `strpie`; did you mean `stripe`?"),
        ("zzzz", "no provider `zzzz`; `countersign providers` lists"),
        (
            "github:sha2",
            "no scheme `github:sha2`; did you mean `github:sha1`?",
        ),
    ] {
        desk.run(&["providers", asked]).ends_with(2).says(&[answer]);
    }
}

// sign

#[test]
fn sign_makes_the_tag_that_openssl_makes() {
    let desk = Desk::new();
    let openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", SECRET, "-r", "body"])
        .current_dir(desk.0.path())
        .output()
        .unwrap();
    let tag = String::from_utf8(openssl.stdout).unwrap();
    let tag = tag.split_whitespace().next().unwrap();
    let plain = desk
        .run(&with_signer("sign", &["--body", "body"]))
        .ends_with(0);
    assert_eq!(plain.stdout, format!("x-cv-signature: {tag}\n"));
    let json = desk
        .run_with_stdin(&with_signer("sign", &["--json"]), BODY)
        .ends_with(0)
        .json();
    let headers = serde_json::json!({ "x-cv-signature": tag });
    assert_eq!(json, serde_json::json!({ "headers": headers }));
}

#[test]
fn sign_takes_the_secret_from_the_environment_too() {
    let desk = Desk::new();
    let args = ["--scheme", "carevalidate", "--body", "body"];
    let from_file = desk
        .run(&with_signer("sign", &["--body", "body"]))
        .ends_with(0);
    let child = desk
        .command(&[&["sign", "--secret-env", "CV_SECRET"][..], &args].concat())
        .env("CV_SECRET", SECRET)
        .spawn()
        .unwrap();
    assert_eq!(finish(child).ends_with(0).stdout, from_file.stdout);
    desk.run(&[&["sign", "--secret-env", "CV_SURELY_UNSET"][..], &args].concat())
        .ends_with(2)
        .says(&["environment variable CV_SURELY_UNSET is not set"]);
}

/// Vectors: `openssl dgst` over the bytes that each scheme's page names.
#[test]
fn sign_takes_url_method_headers_and_id() {
    let desk = Desk::new();
    desk.write("key", "key");
    desk.write("form", "b=2&a=1");
    let hmac = |digest: &str, content: &str| {
        let mut openssl = Command::new("openssl")
            .args(["dgst", digest, "-hmac", "key", "-binary"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = openssl.stdin.take().unwrap();
        stdin.write_all(content.as_bytes()).unwrap();
        drop(stdin);
        data_encoding::BASE64.encode(&openssl.wait_with_output().unwrap().stdout)
    };
    let sign = |scheme: &str, body: &str, rest: &[&str]| {
        let fixed = ["sign", "--secret-file", "key", "--scheme", scheme];
        desk.run(&[&fixed[..], &["--body", body], rest].concat())
    };
    let url = "https://hooks.example.org/sms?x=1";
    let made = sign("twilio", "form", &["--url", url]).ends_with(0).stdout;
    let tag = hmac("-sha1", &format!("{url}a1b2"));
    assert!(
        made.starts_with(&format!("x-twilio-signature: {tag}\n")),
        "{made}"
    );
    sign("twilio", "form", &[])
        .ends_with(2)
        .says(&["signs the public URL", "--url"]);
    sign("twilio", "form", &["--url", "/sms"])
        .ends_with(2)
        .says(&["https://hooks.example.org/path"]);

    let at = ["--at", "2025-11-24T16:00:00Z"];
    let rest = [&["--url", url, "--method", "PUT"][..], &at].concat();
    let made = sign("hubspot", "form", &rest).ends_with(0).stdout;
    let tag = hmac("-sha256", &format!("PUT{url}b=2&a=11764000000000"));
    assert!(
        made.starts_with(&format!("x-hubspot-signature-v3: {tag}\n")),
        "{made}"
    );

    let rest = [&["--id", "msg_1"][..], &at].concat();
    let fixed = [
        "sign",
        "--secret-file",
        "whsec",
        "--scheme",
        "standard-webhooks",
    ];
    desk.write("whsec", "whsec_a2V5");
    let made = desk.run(&[&fixed[..], &["--body", "form"], &rest].concat());
    let tag = hmac("-sha256", "msg_1.1764000000.b=2&a=1");
    for line in [
        &*format!("webhook-signature: v1,{tag}"),
        "webhook-timestamp: 1764000000",
        "webhook-id: msg_1",
    ] {
        let lines: Vec<_> = made.stdout.lines().collect();
        assert!(lines.contains(&line), "no {line}:\n{lines:?}");
    }
    // Some receivers read items by their place, and go by the blank.
    for (scheme, form) in [
        ("workos", "workos-signature: t=1764000000000, v1="),
        ("hygraph", "gcms-signature: sign="),
    ] {
        let made = sign(scheme, "form", &at).ends_with(0).stdout;
        assert!(made.starts_with(form), "{made}");
        let hygraph = scheme == "hygraph";
        assert_eq!(made.contains(", env=test, t=1764000000000\n"), hygraph);
    }
    for (scheme, words) in [
        ("carevalidate", "names no delivery id"),
        ("stripe", "is the JSON value `/id`, not a header"),
    ] {
        sign(scheme, "form", &["--id", "1"])
            .ends_with(2)
            .says(&[words, "leave `--id` out"]);
    }
}

#[test]
fn sign_prints_the_request_where_the_signature_stands_in_no_header() {
    let desk = Desk::new();
    desk.write("key", "key");
    desk.write(
        "event",
        "{\"signature\":{\"timestamp\":\"1764000000\",\"token\":\"t\",\"signature\":\"\"}}",
    );
    let signer = ["--scheme", "mailgun", "--secret-file", "key"];
    let at = ["--at", "2025-11-24T16:00:00Z"];
    let sign = [&["sign", "--body", "event"][..], &signer, &at].concat();
    let made = desk.run(&sign).ends_with(0).stdout;
    let openssl = "printf %s 1764000000t | openssl dgst -sha256 -hmac key -r | cut -d' ' -f1";
    let tag = Command::new("bash").args(["-c", openssl]).output().unwrap();
    let tag = String::from_utf8(tag.stdout).unwrap();
    let event = format!(
        "{{\"signature\":{{\"timestamp\":\"1764000000\",\"token\":\"t\",\"signature\":\"{}\"}}}}",
        tag.trim()
    );
    assert_eq!(made, format!("POST / HTTP/1.1\r\n\r\n{event}"));
    let verify = [&["verify", "--request", "-"][..], &signer, &at].concat();
    desk.run_with_stdin(&verify, made.as_bytes()).ends_with(0);
    let json = desk.run(&[&sign[..], &["--json"]].concat()).json();
    assert_eq!(json, serde_json::json!({ "headers": {}, "body": event }));

    // In the query, and for a header because it was asked for.
    let url = ["--url", "https://hooks.example.org/in?b=1"];
    let signer = ["--scheme", "azure-event-grid", "--param", "query=key"];
    let secret = ["--secret-file", "key", "--body", "event"];
    let made = desk.run(&[&["sign"][..], &signer, &secret, &url].concat());
    let head = "POST /in?b=1&key=key HTTP/1.1\r\nhost: hooks.example.org\r\n\r\n";
    assert!(made.stdout.starts_with(head), "{}", made.stdout);
    let rest = [
        "--body",
        "body",
        "--request",
        "--url",
        "https://a/in",
        "-H",
        "X-More: 1",
    ];
    let made = desk.run(&with_signer("sign", &rest)).ends_with(0).stdout;
    assert!(
        made.starts_with("POST /in HTTP/1.1\r\nx-more: 1\r\nhost: a\r\nx-cv-signature: "),
        "{made}"
    );
    desk.run_with_stdin(&with_signer("verify", &["--request", "-"]), made.as_bytes())
        .ends_with(0);
}

#[test]
fn a_private_key_signs_what_its_public_key_verifies() {
    let desk = Desk::new();
    let openssl = |args: &[&str]| {
        let run = Command::new("openssl")
            .args(args)
            .current_dir(desk.0.path())
            .output()
            .unwrap();
        assert!(run.status.success(), "{args:?}");
    };
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "private"]);
    openssl(&["pkey", "-in", "private", "-pubout", "-out", "public"]);
    openssl(&[
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        "sec1",
    ]);
    openssl(&["ec", "-in", "sec1", "-pubout", "-out", "public-ec"]);
    for (scheme, private, public) in [
        ("fal", "private", "public"),
        ("sendgrid", "sec1", "public-ec"),
    ] {
        let signer = |key| ["--scheme", scheme, "--secret-file", key];
        let body = ["--body", "body", "-H", "x-fal-webhook-user-id: u"];
        let sign = |key| desk.run(&[&["sign", "--request"][..], &signer(key), &body].concat());
        let made = sign(private).ends_with(0).stdout;
        let verify = |key| [&["verify", "--request", "-"][..], &signer(key)].concat();
        desk.run_with_stdin(&verify(public), made.as_bytes())
            .ends_with(0);
        let changed = made.replace("1.0", "1.1");
        desk.run_with_stdin(&verify(public), changed.as_bytes())
            .ends_with(1);
        sign(public)
            .ends_with(2)
            .says(&["only the private key, in PEM, can sign"]);
        desk.run_with_stdin(&verify(private), made.as_bytes())
            .ends_with(2)
            .says(&["is a private key"]);
    }
    let args = [
        "sign",
        "--scheme",
        "sendgrid",
        "--secret-file",
        "private",
        "--body",
        "body",
    ];
    desk.run(&args)
        .ends_with(2)
        .says(&["cannot sign for the scheme"]);
}

#[test]
fn sign_says_what_is_wrong_with_its_flags() {
    let desk = Desk::new();
    let sign = |args: &[&str]| desk.run(&[&["sign", "--secret-file", "secret"], args].concat());
    sign(&["--scheme", "carevalidat"])
        .ends_with(2)
        .says(&["no scheme `carevalidat`", "did you mean `carevalidate`?"]);
    sign(&["--scheme", "zzz"])
        .ends_with(2)
        .says(&["`countersign providers` lists them"]);
    sign(&["--scheme", "none"])
        .ends_with(2)
        .says(&["signs nothing"]);
    sign(&["--scheme", "carevalidate:custom-header"])
        .ends_with(2)
        .says(&["the parameter `header`", "--param NAME=VALUE"]);
    sign(&["--scheme", "carevalidate", "--param", "header"])
        .ends_with(2)
        .says(&["NAME=VALUE"]);
    sign(&["--scheme", "carevalidate", "--at", "yesterday"])
        .ends_with(2)
        .says(&["2026-11-23T12:00:00Z"]);
    sign(&["--scheme", "carevalidate", "--body", "nowhere"])
        .ends_with(2)
        .says(&["nowhere"]);
    desk.run(&[
        "sign",
        "--scheme",
        "carevalidate",
        "--secret-file",
        "nowhere",
    ])
    .ends_with(2)
    .says(&["file nowhere does not exist"]);
}

#[test]
fn sign_and_verify_go_by_the_time_they_are_told() {
    let desk = Desk::new();
    desk.write("old", "another secret");
    desk.write("c.toml", ROTATION);
    let route = ["--config", "c.toml", "--route", "orders", "--body", "body"];
    let sign = |at| {
        let signed = desk.run(&[&["sign", "--json", "--at", at][..], &route].concat());
        let json = signed.ends_with(0).json();
        let header = |name: &str| format!("{name}: {}", json["headers"][name].as_str().unwrap());
        [header("x-signature"), header("x-timestamp")]
    };
    let verify = |[signature, timestamp]: &[String; 2], at: &str| {
        let headers = ["-H", signature, "-H", timestamp, "--json", "--at", at];
        desk.run(&[&["verify"][..], &route, &headers].concat())
    };
    let signed = sign("2026-03-01T12:00:00Z");
    assert_eq!(signed[1], "x-timestamp: 1772366400");
    let good = verify(&signed, "2026-03-01T12:04:59Z").ends_with(0).json();
    assert_eq!(good["key"], "new");
    let late = verify(&signed, "2026-03-01T12:05:02Z").ends_with(1).json();
    assert_eq!(late["reason"], "timestamp_old");
    let early = verify(&signed, "2026-03-01T11:00:00Z").ends_with(1).json();
    assert_eq!(early["reason"], "timestamp_new");

    // As the gateway: a secret counts from its first moment until its last.
    let before = sign("2025-12-31T23:59:00Z");
    let good = verify(&before, "2025-12-31T23:59:59Z").ends_with(0).json();
    assert_eq!(good["key"], "old");
    let rotated = verify(&before, "2026-01-01T00:00:00Z").ends_with(1).json();
    assert_eq!(rotated["reason"], "signature_mismatch");
    let at_end = [signed[0].clone(), "x-timestamp: 1798761600".to_owned()];
    let last = verify(&at_end, "2026-12-31T23:59:59Z").ends_with(1).json();
    assert_eq!(last["reason"], "signature_mismatch");
    let none = verify(&at_end, "2027-01-01T00:00:00Z").ends_with(1).json();
    assert_eq!(none["reason"], "no_usable_secret");
    desk.run(&[&["sign", "--at", "2027-01-01T00:00:00Z"][..], &route].concat())
        .ends_with(2)
        .says(&["no secret that is valid"]);
}

#[test]
fn stdin_cannot_be_two_things() {
    let desk = Desk::new();
    let args = ["sign", "--config", "-", "--route", "cases", "--body", "-"];
    desk.run_with_stdin(&args, one_route("http://127.0.0.1:9").as_bytes())
        .ends_with(2)
        .says(&["stdin cannot be both"]);
}

// verify

/// The header line that signs `body`.
fn signature(desk: &Desk) -> String {
    let signed = desk.run(&with_signer("sign", &["--body", "body"]));
    signed.ends_with(0).stdout.trim_end().to_owned()
}

#[test]
fn verify_reads_saved_requests() {
    let desk = Desk::new();
    let signature = signature(&desk);
    for head in [
        format!("POST /cases HTTP/1.1\r\nHost: a\r\n{signature}\r\n\r\n"),
        format!("POST /cases HTTP/1.1\nHost: a\n{signature}\n\n"),
        format!("{signature}\n\n"),
        format!("A:b c HTTP/1.1\n{signature}\n\n"),
    ] {
        let request = [head.as_bytes(), BODY].concat();
        desk.write("request", &request);
        let run = desk.run(&with_signer("verify", &["--request", "request"]));
        assert_eq!(
            run.ends_with(0).stdout,
            "verified with key default\n",
            "{head}"
        );
        desk.run_with_stdin(&with_signer("verify", &["--request", "-"]), &request)
            .ends_with(0);

        desk.write("request", [&request[..], b"\n"].concat());
        let run = desk.run(&with_signer("verify", &["--request", "request"]));
        let run = run.ends_with(1);
        assert!(
            run.stdout
                .starts_with("not verified: signature_mismatch: none of the secrets"),
            "{}",
            run.stdout
        );
    }
    desk.write("request", "POST / HTTP/1.1\nno colon\n\n");
    desk.run(&with_signer("verify", &["--request", "request"]))
        .ends_with(2)
        .says(&["request: the head is not HTTP/1.1"]);
    desk.write("request", "Host: a\n");
    desk.run(&with_signer("verify", &["--request", "request"]))
        .ends_with(2)
        .says(&["no empty line"]);
}

#[test]
fn verify_knows_the_public_url_of_a_route() {
    let desk = Desk::new();
    desk.write("secret", "key");
    desk.write(
        "countersign.toml",
        "[[route]]\nname = \"square\"\npath = \"/in/*\"\nscheme = \"square\"\npublic_url = \"https://hooks.example.org/a/*\"\n\
         secrets = [{ id = \"test\", file = \"secret\" }]\nupstream = \"http://127.0.0.1:1\"\n",
    );
    // printf %s 'https://hooks.example.org/a/b{}' | openssl dgst -sha256 -hmac key -binary | base64
    let tag = "8Mvm5u3KT0jNV06LzmaOvq83tE6L494KUOriu0vUE2U=";
    let request = |target: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: 10.0.0.7\r\nX-Square-HmacSha256-Signature: {tag}\r\n\r\n{{}}"
        )
    };
    let verify = |more: &[&str]| {
        let args = [
            "verify",
            "--config",
            "countersign.toml",
            "--route",
            "square",
            "--request",
            "request",
        ];
        desk.run(&[&args[..], more].concat())
    };
    desk.write("request", request("/in/b"));
    verify(&[]).ends_with(0);
    verify(&["--url", "https://hooks.example.org/in/b"]).ends_with(1);
    desk.write("request", request("/in/c"));
    verify(&[]).ends_with(1);
    verify(&["--url", "https://hooks.example.org/a/b"]).ends_with(0);
}

#[test]
fn verify_takes_headers_and_body_apart() {
    let desk = Desk::new();
    let signature = signature(&desk);
    let good = ["--body", "body", "--json", "-H", &signature];
    let json = desk.run(&with_signer("verify", &good)).ends_with(0).json();
    assert_eq!(
        json,
        serde_json::json!({ "verified": true, "key": "default" })
    );

    let short = "x-cv-signature: abcd";
    for (headers, reason) in [
        (&[][..], "signature_missing"),
        (&[&*signature, &*signature][..], "signature_repeated"),
        (&[short], "signature_malformed"),
    ] {
        let mut args = with_signer("verify", &["--body", "body", "--json"]);
        for header in headers {
            args.extend(["--header", header]);
        }
        let json = desk.run(&args).ends_with(1).json();
        assert_eq!(json["verified"], false);
        assert_eq!(json["reason"], reason);
        assert!(json["detail"].as_str().unwrap().contains("x-cv-signature"));
    }
    desk.run(&with_signer("verify", &[]))
        .ends_with(2)
        .says(&["--request <FILE>"]);
    desk.run(&with_signer(
        "verify",
        &["--body", "body", "-H", "no colon here"],
    ))
    .ends_with(2)
    .says(&["NAME: VALUE"]);
}

// check

#[test]
fn check_tells_what_would_be_served() {
    let desk = Desk::new();
    desk.write("c.toml", one_route("http://127.0.0.1:3000"));
    let run = desk.run(&["check", "--config", "c.toml"]).ends_with(0);
    assert!(
        run.stdout.starts_with(
            "route cases: */cases -> http://127.0.0.1:3000, scheme carevalidate, 1 secret\n"
        ),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.ends_with("\n0 errors, 1 warning\n"),
        "{}",
        run.stdout
    );
    let run = run.says(&[
        "warning: route cases: scheme `carevalidate` signs no time: a captured delivery verifies",
        "= help: add `replay = \"24h\"` to the route, so that a delivery is forwarded once",
    ]);
    assert_eq!(run.stderr.matches("warning").count(), 1, "{}", run.stderr);

    desk.write(
        "c.toml",
        one_route("http://127.0.0.1:3000") + "replay = \"24h\"\n",
    );
    let run = desk
        .run(&["check", "--strict", "-c", "c.toml"])
        .ends_with(0);
    assert!(
        run.stdout.contains(", 1 secret, replay guard\n"),
        "{}",
        run.stdout
    );

    desk.write(
        "c.toml",
        one_route("http://127.0.0.1:3000").replace("\"carevalidate\"", "\"stripe\""),
    );
    let run = desk
        .run(&["check", "--strict", "-c", "c.toml"])
        .ends_with(0);
    assert_eq!(run.stderr, "");
    let json = desk
        .run(&["check", "--strict", "--json", "-c", "c.toml"])
        .ends_with(0)
        .json();
    assert_eq!(json["ok"], true);
    assert_eq!(json["routes"][0]["upstream"][0], "http://127.0.0.1:3000");
    assert_eq!(json["problems"], serde_json::json!([]));
    assert!(json["notes"]["stripe"].is_array());

    // Without a file.
    desk.run(&with_signer("check", &["--upstream", "http://127.0.0.1:9"]))
        .ends_with(0);
}

#[test]
fn check_shows_what_is_wrong_with_the_file() {
    let desk = Desk::new();
    let text = one_route("http://127.0.0.1:9").replace("path  ", "paht  ");
    desk.write("c.toml", text);
    desk.run(&["check", "--config", "c.toml"])
        .ends_with(78)
        .says(&["--> c.toml:8:1", "8 | paht     = \"/cases\"", "`path`"]);

    let json = desk
        .run(&["check", "--json", "--config", "c.toml"])
        .ends_with(78)
        .json();
    assert_eq!(json["ok"], false);
    let problem = &json["problems"][0];
    assert_eq!(problem["severity"], "error");
    assert_eq!(problem["path"], "route.cases.paht");
    assert_eq!(problem["file"], "c.toml");
    assert_eq!(
        (&problem["line"], &problem["column"]),
        (&8.into(), &1.into())
    );
    for text in ["message", "help"] {
        assert!(!problem[text].as_str().unwrap().is_empty(), "{text}");
    }

    desk.run(&["check", "--config", "nowhere.toml"])
        .ends_with(78)
        .says(&["there is no such file", "nowhere.toml"]);
    let json = desk
        .run(&["check", "--json", "--config", "nowhere.toml"])
        .ends_with(78)
        .json();
    assert_eq!(json["problems"][0]["file"], "nowhere.toml");
}

#[test]
fn check_reads_the_configuration_from_stdin() {
    let desk = Desk::new();
    let text = one_route("http://127.0.0.1:9");
    desk.run_with_stdin(&["check", "--config", "-"], text.as_bytes())
        .ends_with(0);
    desk.run_with_stdin(&["check", "--config", "-"], b"[server]\nlisten = 1\n")
        .ends_with(78)
        .says(&["<stdin>:2"]);
    desk.run_with_stdin(&["check", "--config", "-"], b"# \xff\n")
        .ends_with(78)
        .says(&["<stdin>", "not UTF-8"]);
}

#[test]
fn the_environment_can_name_the_configuration() {
    let desk = Desk::new();
    let path = desk.write("c.toml", one_route("http://127.0.0.1:9"));
    let run = |args: &[&str], path: &Path| {
        let mut command = desk.command(args);
        finish(command.env("COUNTERSIGN_CONFIG", path).spawn().unwrap())
    };
    run(&["check"], &path).ends_with(0);
    run(&["check"], Path::new("gone.toml"))
        .ends_with(78)
        .says(&["gone.toml"]);
    run(&["sign", "--route", "cases", "--body", "body"], &path).ends_with(0);
    run(&["sign", "--route", "case", "--body", "body"], &path)
        .ends_with(2)
        .says(&["did you mean `cases`?"]);
    // The flag wins.
    run(
        &["check", "--config", path.to_str().unwrap()],
        Path::new("gone.toml"),
    )
    .ends_with(0);
}

#[test]
fn check_finds_secrets_that_cannot_be_used() {
    let desk = Desk::new();
    let config = one_route("http://127.0.0.1:9").replace("\"carevalidate\"", "\"stripe\"");
    desk.write("c.toml", config);
    let check = |content: Option<&str>| {
        let path = desk.0.path().join("secret");
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let text = desk.run(&["check", "-c", "c.toml"]);
        let json = desk.run(&["check", "-c", "c.toml", "--json"]);
        assert_eq!(text.code, json.code);
        let mut json = json.json();
        assert_eq!(json["problems"].as_array().unwrap().len(), 1, "{json}");
        (text, json["problems"][0].take())
    };
    let (text, problem) = check(Some(" \n"));
    text.ends_with(78).says(&["secret is empty", "write the"]);
    assert_eq!(problem["path"], "route.cases.secrets.a");

    let (text, problem) = check(None);
    text.ends_with(78)
        .says(&["secret does not exist", "write the signing secret into it"]);
    assert_eq!(problem["severity"], "error");

    let (text, problem) = check(Some(&format!("{SECRET}\n")));
    text.ends_with(0)
        .says(&["warning:", "the line end after the secret was left out"]);
    assert_eq!(problem["severity"], "warning");
    desk.run(&["check", "-c", "c.toml", "--strict"])
        .ends_with(1);
    let json = desk.run(&["check", "-c", "c.toml", "--strict", "--json"]);
    assert_eq!(json.ends_with(1).json()["ok"], true);

    let (text, problem) = check(Some(&format!("{SECRET} ")));
    text.ends_with(0).says(&["warning:", "white space"]);
    assert_eq!(problem["severity"], "warning");
}

#[test]
fn check_warns_of_weak_schemes_and_doubtful_secrets() {
    let desk = Desk::new();
    let warnings = |scheme: &str, rest: &str, secret: &str| {
        desk.write("secret", secret);
        let route = one_route("http://127.0.0.1:9").replace("\"carevalidate\"", scheme);
        desk.write("c.toml", format!("{route}{rest}"));
        let json = desk.run(&["check", "--json", "-c", "c.toml"]).ends_with(0);
        let json = json.json();
        let problems = json["problems"].as_array().unwrap().iter();
        problems
            .map(|problem| {
                assert_eq!(problem["severity"], "warning");
                problem["message"].as_str().unwrap().to_owned()
            })
            .collect::<Vec<_>>()
    };
    for (scheme, rest, secret, words) in [
        ("\"stripe\"", "", "whsec_0123456789abcdef", &[][..]),
        (
            "\"adyen:basic\"",
            "",
            "user:0123456789abcdef",
            &["sends the secret itself"],
        ),
        (
            "\"adyen\"",
            "",
            "00112233445566778899aabbccddeeff",
            &["does not cover the body, or not all", "signs no time"],
        ),
        (
            "\"stripe\"",
            "",
            "sk_live_0123456789abcdef",
            &["an API key"],
        ),
        ("\"stripe\"", "", "Bearer 0123456789abcdef", &["`Bearer`"]),
        ("\"stripe\"", "", "\"0123456789abcdef\"", &["in quotes"]),
        (
            "\"stripe\"",
            "",
            "0123456789abcde",
            &["fewer than 16 bytes"],
        ),
        (
            "\"standard-webhooks\"",
            "",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            &["stands in documentation"],
        ),
        (
            "\"standard-webhooks\"",
            "",
            "whsec_MDEyMzQ1Njc4OWFiY2Rl",
            &["fewer than 16 bytes"],
        ),
        // Here it is a key of the API, and nothing else would do.
        (
            "\"paystack\"",
            "",
            "sk_live_0123456789abcdef",
            &["signs no time"],
        ),
        (
            "\"stripe\"",
            "[[route]]\nname = \"two\"\npath = \"/two\"\nscheme = \"stripe\"\n\
             secrets = [{ id = \"b\", file = \"secret\" }]\nupstream = \"http://127.0.0.1:9\"\n",
            "whsec_0123456789abcdef",
            &["route `cases` has the same secret"],
        ),
    ] {
        let found = warnings(scheme, rest, secret);
        assert_eq!(found.len(), words.len(), "{scheme} {found:?}");
        for (found, word) in found.iter().zip(words) {
            assert!(found.contains(word), "no {word:?} in {found}");
            assert!(!found.contains(secret), "{found}");
        }
    }

    // What cannot be a key at all closes the route.
    let route = one_route("http://127.0.0.1:9").replace("carevalidate", "standard-webhooks");
    desk.write("c.toml", route);
    for (secret, words) in [
        (
            "whsec_MDEyMzQ1Nj!4OWFiY2Rl",
            "is not base64: character 17 cannot stand",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----",
            "is a private key",
        ),
    ] {
        desk.write("secret", secret);
        desk.run(&["check", "-c", "c.toml"])
            .ends_with(78)
            .says(&[words]);
    }
}

#[test]
fn check_finds_certificates_and_folders_that_cannot_be_used() {
    let desk = Desk::new();
    let route = one_route("https://127.0.0.1:9");
    desk.write(
        "c.toml",
        format!("{route}upstream_ca = \"ca.pem\"\n[server.tls]\ncertificate = \"c.pem\"\nprivate_key = \"k.pem\"\n"),
    );
    desk.run(&["check", "-c", "c.toml"])
        .ends_with(78)
        .says(&["c.pem", "ca.pem"]);
    desk.run(&["serve", "-c", "c.toml"])
        .ends_with(78)
        .says(&["ca.pem"]);
    desk.write(
        "c.toml",
        format!("{route}[limits]\nspool_dir = \"nowhere\"\n"),
    );
    let json = desk.run(&["check", "-c", "c.toml", "--json"]);
    let json = json.ends_with(78).json();
    assert_eq!(json["problems"][0]["path"], "limits.spool_dir");
}

#[test]
fn samples_lack_nothing_but_what_they_name() {
    let desk = Desk::new();
    let mut samples: Vec<_> = fs::read_dir(Path::new(ROOT).join("config"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    let documents = [ROOT.to_owned(), format!("{ROOT}/docs")];
    for document in documents
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    {
        let text = fs::read_to_string(&document).unwrap();
        let blocks = text.split("<!-- config -->\n```toml\n").skip(1);
        for (i, block) in blocks.enumerate() {
            let block = block.split("```").next().unwrap();
            let name = document.file_stem().unwrap().to_str().unwrap();
            samples.push(desk.write(&format!("{name}-{i}.toml"), block));
        }
    }
    assert!(samples.len() > 5, "{samples:?}");
    for sample in samples {
        let run = desk.run(&["check", "--json", "-c", sample.to_str().unwrap()]);
        let json = run.json();
        let problems = json["problems"].as_array().unwrap();
        for problem in problems.iter().filter(|it| it["severity"] == "error") {
            let message = problem["message"].as_str().unwrap();
            assert!(
                ["does not exist", "No such file", "is not set"]
                    .iter()
                    .any(|lack| message.contains(lack)),
                "{}: {problem}",
                sample.display()
            );
        }
    }
}

// serve, health, send

#[test]
fn serve_says_why_it_does_not_start() {
    let desk = Desk::new();
    desk.run(&["serve"])
        .ends_with(78)
        .says(&["there is no route", "--config", "--scheme"]);
    desk.write("c.toml", "[server]\nlisten = \"here\"\n");
    desk.run(&["serve", "--config", "c.toml"])
        .ends_with(78)
        .says(&["c.toml:2", "127.0.0.1:8080"]);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let upstream = ["--upstream", "http://127.0.0.1:9", "--listen", &address];
    desk.run(&with_signer("serve", &upstream))
        .ends_with(78)
        .says(&[&format!(
            "error: cannot listen on {address}: Address already in use"
        )]);

    desk.run(&["serve", "--sceme", "carevalidate"])
        .ends_with(2)
        .says(&["--scheme"]);
    desk.run(&["sevre"]).ends_with(2).says(&["serve"]);
    desk.run(&[]).ends_with(2).says(&["Usage: countersign"]);
}

#[test]
fn help_and_version_go_to_stdout() {
    let desk = Desk::new();
    for command in [
        "serve",
        "check",
        "providers",
        "sign",
        "verify",
        "send",
        "health",
        "demo",
    ] {
        let help = desk.run(&[command, "--help"]).ends_with(0);
        assert!(help.stdout.contains(&format!("countersign {command}")));
        assert!(desk.run(&["--help"]).ends_with(0).stdout.contains(command));
    }
    let version = desk.run(&["--version"]).ends_with(0).stdout;
    assert_eq!(
        version,
        concat!("countersign ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn health_tells_whether_a_gateway_is_ready() {
    let desk = Desk::new();
    desk.write("c.toml", one_route("http://127.0.0.1:9"));
    let gateway = Gateway::start(&desk, &["serve", "-c", "c.toml"]);
    let run = desk.run(&["health", "--admin", &gateway.admin]);
    assert!(!run.ends_with(0).stdout.is_empty());
    // A place that answers, but not that it is ready.
    let run = desk.run(&["health", "--admin", &gateway.senders]);
    assert!(!run.ends_with(1).stdout.is_empty());
    let run = desk.run(&["health", "--admin", &nobody()]).ends_with(1);
    assert!(run.stdout.starts_with("not healthy: "), "{}", run.stdout);
    for admin in ["a b", "unix:"] {
        desk.run(&["health", "--admin", admin])
            .ends_with(2)
            .says(&["127.0.0.1:9600"]);
    }
}

#[test]
fn health_asks_a_unix_socket_too() {
    let desk = Desk::new();
    let config =
        one_route("http://127.0.0.1:9").replace("127.0.0.1:0\"\n\n", "unix:admin.sock\"\n\n");
    desk.write("c.toml", config);
    let gateway = Gateway::start(&desk, &["serve", "-c", "c.toml"]);
    let absolute = format!("unix:{}", desk.0.path().join("admin.sock").display());
    for admin in [&gateway.admin, &absolute] {
        let run = desk.run(&["health", "--admin", admin]).ends_with(0);
        assert!(run.stdout.contains("[+] accepting"), "{}", run.stdout);
    }
    drop(gateway);
    let run = desk.run(&["health", "--admin", "unix:admin.sock"]);
    let stdout = run.ends_with(1).stdout;
    assert!(
        stdout.starts_with("not healthy: unix:admin.sock: "),
        "{stdout}"
    );
}

#[test]
fn send_delivers_and_shows_the_answer() {
    let desk = Desk::new();
    let (upstream, inbox) = upstream();
    desk.write("c.toml", one_route(&format!("http://{upstream}")));
    let gateway = Gateway::start(&desk, &["serve", "-c", "c.toml"]);
    let url = format!("http://{}/cases", gateway.senders);
    let send = |rest: &[&str]| {
        let fixed = with_signer("send", &[&url, "--body", "body"]);
        desk.run(&[&fixed[..], rest].concat())
    };
    let run = send(&["-H", "X-More: yes", "-H", "Host: hooks.example.org"]).ends_with(0);
    assert!(
        run.stdout.starts_with("202 Accepted\n") && run.stdout.ends_with("\n\ndone"),
        "{}",
        run.stdout
    );
    let seen = inbox.recv_timeout(PATIENCE).unwrap();
    assert_eq!(seen.body, BODY);
    for line in [
        "POST /cases HTTP/1.1",
        "content-type: application/json",
        "x-more: yes",
        "host: hooks.example.org",
        "countersign-verified: carevalidate;route=\"cases\";key=\"a\";t=",
    ] {
        let head = seen.head.to_ascii_lowercase();
        assert!(head.contains(&line.to_ascii_lowercase()), "{line}:\n{head}");
    }

    for fault in ["tampered", "unsigned", "other-secret"] {
        let run = send(&["--fault", fault]).ends_with(1);
        assert!(
            run.stdout.starts_with("401 Unauthorized\n"),
            "{fault}: {}",
            run.stdout
        );
    }
    // This scheme signs no time, so an old delivery is a good one.
    send(&["--fault", "old"]).ends_with(0);
    assert_eq!(inbox.recv_timeout(PATIENCE).unwrap().body, BODY);
    assert!(inbox.try_recv().is_err(), "a faulty delivery got through");
    send(&["--fault", "strange"])
        .ends_with(2)
        .says(&["other-secret"]);
}

#[test]
fn send_signs_urls_and_bodies_too() {
    let desk = Desk::new();
    let (upstream, inbox) = upstream();
    desk.write("hex", "00112233445566778899aabbccddeeff");
    let time = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let event = format!(
        "{{\"signature\":{{\"timestamp\":\"{time}\",\"token\":\"t\",\"signature\":\"\"}}}}"
    );
    desk.write("event", event);
    let route = |name: &str, secret: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nscheme = \"{name}\"\nupstream = \"http://{upstream}\"\n\
             secrets = [{{ id = \"a\", file = \"{secret}\" }}]\n"
        )
    };
    let routes = [
        ("twilio", "secret", "body"),
        ("mailgun", "secret", "event"),
        ("authorize-net", "hex", "body"),
        ("plivo", "secret", "body"),
    ];
    let text: String = routes.map(|(name, secret, _)| route(name, secret)).concat();
    desk.write(
        "c.toml",
        format!("server = {{ listen = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n{text}"),
    );
    let gateway = Gateway::start(&desk, &["serve", "-c", "c.toml"]);
    for (name, secret, body) in routes {
        let url = format!("http://{}/{name}", gateway.senders);
        let send = |rest: &[&str]| {
            let fixed = ["send", &url, "--scheme", name, "--secret-file", secret];
            let body = ["--body", body];
            desk.run(&[&fixed[..], &body, rest].concat())
        };
        send(&[]).ends_with(0);
        inbox.recv_timeout(PATIENCE).unwrap();
        for fault in ["unsigned", "other-secret"] {
            let refused = send(&["--fault", fault]).ends_with(1);
            assert!(refused.stdout.starts_with("401 "), "{name} {fault}");
        }
        let elsewhere = send(&["--public-url", "https://hooks.example.org/elsewhere"]);
        let signs_url = ["twilio", "plivo"].contains(&name);
        assert_eq!(
            elsewhere.code,
            Some(if signs_url { 1 } else { 0 }),
            "{name}"
        );
        if !signs_url {
            inbox.recv_timeout(PATIENCE).unwrap();
        }
        assert!(inbox.try_recv().is_err(), "{name}: too much arrived");
    }
}

#[test]
fn send_refuses_a_time_long_past() {
    let desk = Desk::new();
    let (upstream, inbox) = upstream();
    desk.write("old", "another secret");
    let text = ROTATION
        .replace("http://127.0.0.1:9", &format!("http://{upstream}"))
        .replace(", not_after = \"2027-01-01T00:00:00Z\"", "");
    desk.write(
        "c.toml",
        format!("server = {{ listen = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n{text}"),
    );
    let gateway = Gateway::start(&desk, &["serve", "-c", "c.toml"]);
    let url = format!("http://{}/orders", gateway.senders);
    let fixed = ["send", &url, "-c", "c.toml", "--route", "orders"];
    let send = |fault| desk.run_with_stdin(&[&fixed[..], &["--fault", fault]].concat(), BODY);
    send("none").ends_with(0);
    assert_eq!(inbox.recv_timeout(PATIENCE).unwrap().body, BODY);
    send("old").ends_with(1);
    assert!(inbox.try_recv().is_err(), "an old delivery got through");
}

#[test]
fn send_says_why_there_is_no_answer() {
    let desk = Desk::new();
    let send = |url: &str, rest: &[&str]| {
        let fixed = with_signer("send", &[url, "--body", "body"]);
        desk.run(&[&fixed[..], rest].concat())
    };
    let nobody = format!("http://{}/", nobody());
    send(&nobody, &[])
        .ends_with(70)
        .says(&[&nobody, "cannot connect"]);
    send("localhost/cases", &[])
        .ends_with(2)
        .says(&["https://hooks.example.org/path"]);
    send("ftp://localhost/", &[])
        .ends_with(2)
        .says(&["http://"]);
    send("http://me:pass@localhost/", &[])
        .ends_with(2)
        .says(&["user information"]);
    send("https://localhost/", &["--ca", "nowhere.pem"])
        .ends_with(2)
        .says(&["nowhere.pem"]);
}

// demo

#[test]
fn demo_shows_one_accepted_three_refused_and_a_duplicate() {
    let desk = Desk::new();
    let run = desk.run(&["demo", "--once"]).ends_with(0);
    let row = |title: &str| {
        let line = run
            .stdout
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(title));
        line.unwrap_or_else(|| panic!("no {title}:\n{}", run.stdout))
            .trim()
    };
    let genuine = row("genuine");
    assert!(
        genuine.starts_with("200 OK")
            && genuine.contains("unchanged, Countersign-Verified: carevalidate;route="),
        "{genuine}"
    );
    for title in ["tampered", "unsigned", "signed with another secret"] {
        let refused = row(title);
        assert!(
            refused.contains("401 Unauthorized") && refused.ends_with("nothing"),
            "{title}: {refused}"
        );
    }
    let again = row("the genuine one again");
    assert!(
        again.starts_with("200 OK, duplicate") && again.ends_with("nothing"),
        "{again}"
    );
}

#[test]
fn demo_can_be_tried_by_hand_and_cleans_up() {
    let desk = Desk::new();
    let temporary = desk.0.path().join("temporary folder");
    fs::create_dir(&temporary).unwrap();
    let demo = desk
        .command(&["demo"])
        .env("TMPDIR", &temporary)
        .spawn()
        .unwrap();
    let mut demo = Running(demo);
    let mut output = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    let mut script = String::new();
    let mut in_script = false;
    for line in output.by_ref() {
        let line = line.unwrap();
        in_script |= line.starts_with("  cd ");
        if line.contains("Ctrl-C") {
            break;
        }
        if in_script {
            script.push_str(&line);
            script.push('\n');
        }
    }
    let folder = fs::read_dir(&temporary).unwrap().next();
    let folder = folder.expect("a folder of the demo").unwrap().path();
    let secret = fs::read_to_string(folder.join("secret")).unwrap();
    assert!(!script.contains(&secret), "the demo printed its secret");

    let by_hand = Command::new("bash")
        .args(["-euc", &script])
        .env("no_proxy", "*")
        .output()
        .unwrap();
    let printed = String::from_utf8(by_hand.stdout).unwrap();
    let statuses: Vec<_> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("HTTP/")?.split(' ').nth(1))
        .filter(|status| *status != "100")
        .collect();
    let said = String::from_utf8(by_hand.stderr).unwrap();
    assert_eq!(
        statuses,
        ["200", "200", "401", "401"],
        "{script}\n{printed}\n{said}"
    );
    assert!(
        printed.contains("upstream-saw-mark: carevalidate;route="),
        "{printed}"
    );
    assert_eq!(
        printed.matches("countersign-duplicate: ?1").count(),
        1,
        "{printed}"
    );

    kill_process(Pid::from_child(&demo.0), Signal::INT).unwrap();
    output.for_each(drop);
    assert_eq!(demo.0.wait().unwrap().code(), Some(0));
    let left = fs::read_dir(&temporary).unwrap().next();
    assert!(left.is_none(), "{left:?} was left behind");
}

// stdout that nobody reads

#[test]
fn a_closed_stdout_is_no_reason_to_panic() {
    let desk = Desk::new();
    let config = one_route("http://127.0.0.1:9").replace("\"carevalidate\"", "\"stripe\"");
    desk.write("c.toml", config);
    let signature = signature(&desk);
    for args in [
        vec!["--help"],
        with_signer("sign", &["--body", "body"]),
        with_signer("verify", &["--body", "body", "-H", &signature]),
        vec!["check", "-c", "c.toml"],
        vec!["check", "-c", "c.toml", "--json"],
        vec!["providers"],
        vec!["demo", "--once"],
    ] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let child = desk.command(&args).stdout(writer).spawn().unwrap();
        let run = finish(child).ends_with(0);
        assert_eq!(run.stderr, "", "{args:?}");
    }
}
