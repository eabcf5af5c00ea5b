//! Upstreams of all kinds, and upstreams that fail: each request is sent once, and each sender learns how it went.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::{Shutdown, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use crate::support::{
    PATIENCE,
    client::{self, Client, Protocol},
    delivery::{Cuts, Delivery},
    frames::{self, Frame, Frames},
    gateway::{self, Builder, Gateway},
    http2::Http2Upstream,
    logs::Line,
    runtime, sign,
    tls::{self, Authority},
    upstream::{Behaviour, Response, Upstream},
    wire::{Answer, Socket, Wire},
    within,
};

const SECRET: &[u8] = b"upstream-secret";

/// More than all buffers between gateway and upstream take.
const LARGE: usize = 16 << 20;

/// A gateway that forwards `/hooks/*` to these addresses, and `/others/*` to an upstream without fault.
struct Setup {
    gateway: Gateway,
    others: Upstream,
}

/// `lines` are further keys of the route.
fn builder(upstreams: &[&str], lines: &str) -> Builder {
    Gateway::builder()
        .file("secret", SECRET)
        .config(&route("hooks", upstreams, lines))
}

fn route(name: &str, upstreams: &[&str], lines: &str) -> String {
    format!(
        r#"
        [[route]]
        name = "{name}"
        path = "/{name}/*"
        scheme = "carevalidate"
        secrets = [{{ id = "test", file = "$DIR/secret" }}]
        upstream = {upstreams:?}
        {lines}
        "#
    )
}

impl Setup {
    fn new(upstream: &str, lines: &str) -> Self {
        Self::of(builder(&[upstream], lines))
    }

    fn of(builder: Builder) -> Self {
        let others = Upstream::accepting();
        let gateway = builder
            .config(&route("others", &[&others.url()], ""))
            .start();
        Self { gateway, others }
    }

    fn post(&self, body: impl Into<Vec<u8>>) -> Answer {
        client::send_raw(self.gateway.door(), &delivery(body))
    }

    /// Sends a request and leaves its answer to be read.
    fn begin(&self, delivery: &Delivery) -> Wire {
        let mut wire = client::raw(self.gateway.door());
        wire.send(&delivery.raw()).unwrap();
        wire
    }

    fn assert_serves_others(&self) {
        let delivery = Delivery::post("/others/a", "x").signed(SECRET);
        assert_eq!(
            client::send_raw(self.gateway.door(), &delivery).status,
            200,
            "another route"
        );
        self.others.take_only();
    }

    /// Checks a refusal and its log line, and that the gateway goes on.
    fn assert_refused(&self, answer: &Answer, status: u16, code: &str) {
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.json()["code"], code);
        let id = gateway::request_id(answer);
        self.assert_logged(&id, "upstream_error", code);
        self.assert_serves_others();
    }

    /// Checks the one log line of a request.
    fn assert_logged(&self, id: &str, verdict: &str, reason: &str) {
        let line = self.gateway.request_line(id);
        assert_eq!(line.text_field("verdict"), Some(verdict), "{line}");
        assert_eq!(
            line.text_field("reason").unwrap_or_default(),
            reason,
            "{line}"
        );
        assert_eq!(self.lines_of(id), 1, "{}", self.gateway.logs().text());
    }

    fn lines_of(&self, id: &str) -> usize {
        let of_request = |line: &&Line| line.text_field("request_id") == Some(id);
        self.gateway
            .logs()
            .lines()
            .iter()
            .filter(of_request)
            .count()
    }
}

fn delivery(body: impl Into<Vec<u8>>) -> Delivery {
    Delivery::post("/hooks/a", body.into()).signed(SECRET)
}

fn large_body() -> Vec<u8> {
    (0..LARGE).map(|at| (at / 7 + at / 251) as u8).collect()
}

/// The id that the gateway gave to the request that an upstream saw.
fn id_of(upstream: &Upstream) -> String {
    let seen = upstream.seen();
    seen[0].fields.one("countersign-request-id").to_owned()
}

/// Asks over HTTP/2 until aborted.
fn ask_http2(setup: &Setup, delivery: Delivery) -> JoinHandle<()> {
    let mut client = Client::connect(setup.gateway.door(), Protocol::Http2);
    runtime().spawn(async move {
        let answer = client.deliver(&delivery).await;
        panic!("an answer after all: {answer:?}");
    })
}

/// Checks that no request came twice.
fn assert_none_doubled(upstream: &Upstream) {
    let mut counts = HashMap::new();
    for seen in upstream.seen() {
        let id = seen.fields.one("countersign-request-id").to_owned();
        *counts.entry(id).or_insert(0) += 1;
    }
    counts.retain(|_, count| *count > 1);
    assert!(counts.is_empty(), "delivered more than once: {counts:?}");
}

fn ok() -> Response {
    Response::new(200).body("taken")
}

#[test]
fn upstream_that_refuses_is_unreachable_until_it_is_back() {
    let upstream = Upstream::accepting();
    upstream.refuse();
    let setup = Setup::new(&upstream.url(), "");
    setup.assert_refused(&setup.post("x"), 502, "upstream_unreachable");
    setup.assert_refused(&setup.post(large_body()), 502, "upstream_unreachable");
    upstream.reopen();
    assert_eq!(setup.post("x").status, 200);
    assert_eq!(setup.post(large_body()).status, 200);
}

#[test]
fn request_that_got_no_valid_answer_is_sent_once() {
    for behaviour in [
        Behaviour::CloseBeforeAnswer,
        Behaviour::ResetBeforeAnswer,
        Behaviour::ResetBeforeBody,
        Behaviour::RawThenClose(b"HTTP/1.1 2".to_vec()),
        Behaviour::Raw(b"220 mail.example.org ESMTP\r\n\r\n".to_vec()),
        Behaviour::Raw(b"HTTP/1.1 two hundred\r\n\r\n".to_vec()),
        Behaviour::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nxx".to_vec()),
        Behaviour::Raw(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
                .to_vec(),
        ),
    ] {
        println!("{behaviour:?}");
        let upstream = Upstream::start(move |_| behaviour.clone());
        let setup = Setup::new(&upstream.url(), "");
        setup.assert_refused(&setup.post("x"), 502, "upstream_broken");
        assert_eq!((upstream.count(), upstream.connections()), (1, 1));
    }
}

#[test]
fn upstream_that_stalls_is_given_up_after_the_timeout() {
    let upstream = Upstream::start(|_| Behaviour::RawThenHang(Vec::new()));
    let setup = Setup::new(&upstream.url(), "timeout = \"300ms\"");
    let resting = setup.gateway.descriptors();
    let began = Instant::now();
    let mut wire = setup.begin(&delivery("x"));
    upstream.wait_for(1);
    setup.assert_serves_others();
    let answer = wire.answer("POST").unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
    setup.assert_refused(&answer, 504, "upstream_timeout");
    upstream.wait_for_ends(1);
    assert_eq!(upstream.count(), 1);
    drop(wire);
    // One for the idle connection to the other upstream.
    setup.gateway.wait_for_descriptors(resting + 1);
}

#[test]
fn upstream_that_stops_reading_is_given_up_after_the_timeout() {
    let upstream = Upstream::start(|_| Behaviour::IgnoreBody(Vec::new()));
    let setup = Setup::new(&upstream.url(), "timeout = \"300ms\"");
    let resting = setup.gateway.descriptors();
    let began = Instant::now();
    let mut wire = setup.begin(&delivery(large_body()));
    upstream.wait_for(1);
    setup.assert_serves_others();
    let answer = wire.answer("POST").unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
    setup.assert_refused(&answer, 504, "upstream_timeout");
    drop(wire);
    setup.gateway.wait_for_descriptors(resting + 1);
}

#[test]
fn answer_that_breaks_off_is_never_completed() {
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec();
    let (declared, sent) = (1000, 400);
    for (behaviour, read) in [
        (Behaviour::DieMidResponse { declared, sent }, 400),
        (Behaviour::ResetMidResponse { declared, sent }, 0),
        (Behaviour::RawThenClose(chunked), 4),
    ] {
        println!("{behaviour:?}");
        let upstream = Upstream::start(move |_| behaviour.clone());
        let setup = Setup::of(builder(&[&upstream.url()], "").tls());

        let mut wire = setup.begin(&delivery("x"));
        let mut body = 0;
        let head = wire.head().unwrap().unwrap();
        assert_eq!(head.word(1), "200");
        let end = wire.body(head.request_framing().unwrap(), &mut |piece| {
            body += piece.len();
        });
        assert!(end.is_err(), "the answer looks whole");
        assert!(body >= read, "{body} bytes came");
        setup.assert_logged(&id_of(&upstream), "cut", "response_cut");

        let mut http2 = Client::connect(setup.gateway.door(), Protocol::Http2);
        let end = within(PATIENCE, http2.deliver(&delivery("y")));
        assert!(end.is_err(), "the answer looks whole: {end:?}");
        // The stream was reset, not the connection.
        let others = Delivery::post("/others/a", "x").signed(SECRET);
        assert_eq!(http2.send(&others).status, 200);

        assert_eq!(upstream.count(), 2);
        assert_none_doubled(&upstream);
    }
}

/// How an HTTP/2 upstream breaks off an answer.
#[derive(Debug, Clone, Copy)]
enum Death {
    Close,
    Reset,
    /// Says goodbye with an error code, naming the last stream that it looked at, and closes.
    GoAway {
        last: u8,
        code: u8,
    },
    /// Resets the stream with an error code; the connection stays.
    Stream(u8),
}

/// An HTTP/2 upstream by hand. It breaks off its first two answers, each when told to, and gives all others whole.
struct Dying {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    now: mpsc::Sender<()>,
}

impl Dying {
    fn start(death: Death, length: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (now, told) = mpsc::channel();
        let told = Arc::new(Mutex::new(told));
        let (connections, requests) = (Arc::default(), Arc::default());
        let dying = Self {
            address,
            connections: Arc::clone(&connections),
            requests: Arc::clone(&requests),
            now,
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                connections.fetch_add(1, Ordering::Relaxed);
                let (requests, told) = (Arc::clone(&requests), Arc::clone(&told));
                // Ends with an error when the gateway leaves.
                thread::spawn(move || {
                    serve_dying(Socket::Tcp(stream?), death, length, &requests, &told)
                });
            }
        });
        dying
    }
}

fn serve_dying(
    socket: Socket,
    death: Death,
    length: Option<&str>,
    requests: &AtomicUsize,
    told: &Mutex<mpsc::Receiver<()>>,
) -> io::Result<()> {
    let mut http2 = Frames::accept(socket)?;
    loop {
        let asked = http2.next()?;
        if !matches!(asked.kind, frames::HEADERS | frames::DATA)
            || asked.flags & frames::END_STREAM == 0
        {
            continue;
        }
        let mut head = vec![0x88]; // :status 200
        head.extend(length.map_or_else(Vec::new, |length| {
            frames::block(&[("content-length", length)])
        }));
        let (stream, nth) = (asked.stream, requests.fetch_add(1, Ordering::Relaxed));
        http2.send(&Frame::new(
            frames::HEADERS,
            frames::END_HEADERS,
            stream,
            &head,
        ))?;
        http2.send(&Frame::new(frames::DATA, 0, stream, &[b'x'; 400]))?;
        if nth >= 2 {
            http2.send(&Frame::new(
                frames::DATA,
                frames::END_STREAM,
                stream,
                &[b'x'; 600],
            ))?;
            continue;
        }
        let _ = told.lock().unwrap().recv();
        match death {
            Death::Close => return Ok(()),
            Death::Reset => {
                http2.wire.socket().reset_on_close();
                return Ok(());
            }
            Death::GoAway { last, code } => {
                let payload = [0, 0, 0, last, 0, 0, 0, code];
                return http2.send(&Frame::new(frames::GOAWAY, 0, 0, &payload));
            }
            Death::Stream(code) => {
                http2.send(&Frame::new(frames::RST_STREAM, 0, stream, &[0, 0, 0, code]))?;
            }
        }
    }
}

#[test]
fn http2_answer_that_breaks_off_is_never_completed() {
    for death in [
        Death::Close,
        Death::Reset,
        Death::GoAway { last: 1, code: 0 },
        Death::GoAway { last: 0, code: 0 },
        Death::GoAway { last: 1, code: 2 },
        // NO_ERROR, INTERNAL_ERROR, CANCEL
        Death::Stream(0),
        Death::Stream(2),
        Death::Stream(8),
    ] {
        for length in [Some("1000"), None] {
            println!("{death:?}, {length:?}");
            let upstream = Dying::start(death, length);
            let url = format!("http://{}", upstream.address);
            let setup = Setup::new(&url, "upstream_http = \"2\"");
            let cut = |line: &Line| line.text_field("reason") == Some("response_cut");

            let mut wire = setup.begin(&delivery("x"));
            let head = wire.head().unwrap().unwrap();
            assert_eq!(head.word(1), "200");
            let mut came = 0;
            let end = wire.body(head.request_framing().unwrap(), &mut |piece| {
                came += piece.len();
                if came == 400 {
                    upstream.now.send(()).unwrap();
                }
            });
            assert!(end.is_err(), "the answer looks whole");
            assert_eq!(came, 400);
            setup.gateway.logs().wait_for_count(1, cut);

            let tag = sign::carevalidate(SECRET, b"");
            let mut asking = frames::post("/hooks/a").to_vec();
            asking.push(("x-cv-signature", &tag));
            let mut sender = Frames::open(setup.gateway.door(), &[]);
            sender.head(1, frames::END_STREAM, &asking);
            assert_eq!(sender.next_of(frames::HEADERS).unwrap().status(), Some(200));
            let data = sender.next_of(frames::DATA).unwrap();
            assert_eq!((data.payload.len(), data.flags), (400, 0));
            upstream.now.send(()).unwrap();
            let end = sender.next().unwrap();
            assert_eq!((end.kind, end.stream), (frames::RST_STREAM, 1), "{end:?}");
            assert_ne!(end.payload, [0; 4], "NO_ERROR");
            setup.gateway.logs().wait_for_count(2, cut);

            // The sender's connection goes on, and so does the upstream.
            sender.head(3, frames::END_STREAM, &asking);
            assert_eq!(sender.next_of(frames::HEADERS).unwrap().status(), Some(200));
            assert_eq!(setup.post("y").body, [b'x'; 1000]);
            assert_eq!(upstream.requests.load(Ordering::Relaxed), 4);
            let fresh = if matches!(death, Death::Stream(_)) {
                1
            } else {
                3
            };
            assert_eq!(upstream.connections.load(Ordering::Relaxed), fresh);
        }
    }
}

#[test]
fn answer_that_pauses_for_too_long_is_cut() {
    let upstream = Upstream::start(|_| {
        Behaviour::RawThenHang(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec())
    });
    let setup = Setup::new(&upstream.url(), "read_timeout = \"200ms\"");
    let mut wire = setup.begin(&delivery("x"));
    let head = wire.head().unwrap().unwrap();
    setup.assert_serves_others();
    let end = wire.body(head.request_framing().unwrap(), &mut |_| {});
    assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    upstream.wait_for_ends(1);
    setup.assert_logged(&id_of(&upstream), "cut", "response_cut");
}

#[test]
fn early_answer_reaches_the_sender() {
    let upstream = Upstream::start(|_| {
        Behaviour::EarlyAnswer(Response::new(413).header("Connection", "close").body("no"))
    });
    let setup = Setup::new(&upstream.url(), "");
    let body = large_body();
    for _ in 0..5 {
        let answer = setup.post(body.clone());
        assert_eq!((answer.status, &*answer.body), (413, &b"no"[..]));
    }
    assert_eq!(upstream.count(), 5);
    setup.assert_serves_others();
}

#[test]
fn early_answer_and_reset_reach_the_sender() {
    // Closing with unread bytes resets the connection right behind the answer.
    let upstream = Upstream::start(|_| Behaviour::IgnoreBody(Response::new(413).to_bytes()));
    upstream.release();
    let setup = Setup::new(&upstream.url(), "");
    let body = large_body();
    for _ in 0..40 {
        assert_eq!(setup.post(body.clone()).status, 413);
    }
    assert_eq!(upstream.count(), 40);
}

#[test]
fn rest_of_a_body_that_nobody_reads_is_let_go() {
    let upstream = Upstream::start(|_| Behaviour::IgnoreBody(Response::new(202).to_bytes()));
    let setup = Setup::new(&upstream.url(), "keep_alive = \"500ms\"");
    let resting = setup.gateway.descriptors();
    assert_eq!(setup.post(large_body()).status, 202);
    setup.gateway.wait_for_descriptors(resting);
    let metrics = setup.gateway.metrics();
    assert!(
        metrics.contains("\ncountersign_buffered_bytes 0\n"),
        "{metrics}"
    );
    assert_eq!(setup.post(large_body()).status, 202);
    assert_eq!((upstream.count(), upstream.connections()), (2, 2));
}

#[test]
fn rest_of_a_body_arrives_after_an_early_answer() {
    let upstream = Upstream::start(|_| Behaviour::AnswerThenRead(ok()));
    let setup = Setup::new(&upstream.url(), "keep_alive = \"60s\"");
    assert_eq!(setup.post(large_body()).status, 200);
    upstream.behave(|_| Behaviour::Respond(ok()));
    for _ in 0..3 {
        assert_eq!(setup.post("meanwhile").status, 200);
    }
    upstream.release();
    let seen = upstream.wait_for(4);
    assert_eq!(seen[3].body_sha256, sign::sha256(&large_body()));
    assert_none_doubled(&upstream);
}

#[test]
fn interim_answers_stay_behind() {
    let upstream = Upstream::start(|_| {
        Behaviour::Respond(
            ok().interim(103, "Link: </style.css>")
                .interim(102, "X-Wait: a moment"),
        )
    });
    let setup = Setup::new(&upstream.url(), "");
    let answer = setup.post("x");
    assert_eq!((answer.status, &*answer.body), (200, &b"taken"[..]));
    assert_eq!(answer.interim, Vec::<u16>::new());
    assert!(!answer.fields.has("link"), "{answer:?}");
}

#[test]
fn every_whole_answer_is_logged_as_forwarded() {
    let upstream = Upstream::accepting();
    let setup = Setup::new(&upstream.url(), "methods = [\"POST\", \"GET\", \"HEAD\"]");
    for response in [
        Response::new(200),
        Response::new(204),
        Response::new(304),
        ok(),
        ok().chunked(2),
        Response::new(500).chunked(1),
    ] {
        upstream.behave(move |_| Behaviour::Respond(response.clone()));
        for method in ["POST", "HEAD"] {
            if method == "HEAD" {
                upstream.behave(|_| {
                    Behaviour::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec())
                });
            }
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let mut client = Client::connect(setup.gateway.door(), protocol);
                client.send(&delivery("").method(method));
                let seen = upstream.take_only();
                let id = seen.fields.one("countersign-request-id");
                setup.assert_logged(id, "forwarded", "");
            }
        }
    }
}

#[test]
fn connection_that_closed_after_its_answer_loses_nothing() {
    let upstream = Upstream::start(|_| Behaviour::CloseAfterResponse(ok()));
    let setup = Setup::new(&upstream.url(), "");
    let mut sender = client::raw(setup.gateway.door());
    let mut answered = 0;
    for count in 0..200 {
        let closed = count % 2 == 1;
        if closed {
            upstream.wait_for_ends(upstream.connections());
        }
        sender.send(&delivery("x").raw()).unwrap();
        match sender.answer("POST").unwrap().status {
            200 => answered += 1,
            // Sent while the close was on its way. The upstream did not read it, but who knows that.
            502 if !closed => {}
            other => panic!("{other} for request {count}"),
        }
    }
    assert_eq!(upstream.count(), answered);
    assert!(answered >= 100);
    assert_none_doubled(&upstream);
}

#[test]
fn request_that_may_have_been_read_is_not_sent_again() {
    // The first request on each connection is answered. The second one is lost: at its first byte, or when read.
    let turn = Arc::new(AtomicUsize::new(0));
    for whole in [false, true] {
        let turn = Arc::clone(&turn);
        let upstream = Upstream::start(move |_| {
            if !whole {
                return Behaviour::CloseOnNextByte(ok());
            }
            match turn.fetch_add(1, Ordering::Relaxed) % 2 {
                0 => Behaviour::Respond(ok()),
                _ => Behaviour::CloseBeforeAnswer,
            }
        });
        let setup = Setup::new(&upstream.url(), "");
        let mut sender = client::raw(setup.gateway.door());
        let mut answers = HashMap::new();
        for _ in 0..200 {
            sender.send(&delivery("x").raw()).unwrap();
            let status = sender.answer("POST").unwrap().status;
            *answers.entry(status).or_insert(0) += 1;
        }
        assert_eq!(answers, HashMap::from([(200, 100), (502, 100)]));
        assert_eq!(upstream.count(), if whole { 200 } else { 100 });
        assert_none_doubled(&upstream);
    }
}

#[test]
fn answer_that_nobody_asked_for_answers_nothing() {
    let upstream = Upstream::start(|_| {
        let unasked = Response::new(299).body("unasked").to_bytes();
        Behaviour::Raw([ok().to_bytes(), unasked].concat())
    });
    let setup = Setup::new(&upstream.url(), "");
    let mut sender = client::raw(setup.gateway.door());
    for _ in 0..100 {
        sender.send(&delivery("x").raw()).unwrap();
        assert_eq!(sender.answer("POST").unwrap().status, 200);
    }
    assert_eq!((upstream.count(), upstream.connections()), (100, 100));
}

#[test]
fn connections_are_used_again_and_then_let_go() {
    let upstream = Upstream::accepting();
    let setup = Setup::new(&upstream.url(), "keep_alive = \"600ms\"");
    let resting = setup.gateway.descriptors();
    for _ in 0..20 {
        assert_eq!(setup.post("x").status, 200);
    }
    assert!(upstream.connections() < 5, "{}", upstream.connections());
    // Many at once, so that many are idle afterwards.
    upstream.behave(|_| Behaviour::Stall);
    let wires: Vec<_> = (0..16).map(|_| setup.begin(&delivery("x"))).collect();
    upstream.wait_for(36);
    upstream.release();
    for mut wire in wires {
        assert_eq!(wire.answer("POST").unwrap().status, 200);
    }
    assert!(upstream.connections() >= 16);
    upstream.wait_for_ends(upstream.connections());
    setup.gateway.wait_for_descriptors(resting);
    assert_none_doubled(&upstream);
}

#[test]
fn requests_go_round_and_pass_by_who_refuses() {
    let (one, two) = (Upstream::accepting(), Upstream::accepting());
    let setup = Setup::of(builder(&[&one.url(), &two.url()], ""));
    for _ in 0..4 {
        assert_eq!(setup.post("x").status, 200);
    }
    assert_eq!((one.count(), two.count()), (2, 2), "in turns");

    one.refuse();
    one.close_connections();
    one.wait_for_ends(one.connections());
    for _ in 0..4 {
        assert_eq!(setup.post("x").status, 200);
    }
    assert_eq!(
        (one.count(), two.count()),
        (2, 6),
        "past the one that is down"
    );

    two.refuse();
    two.close_connections();
    two.wait_for_ends(two.connections());
    setup.assert_refused(&setup.post("x"), 502, "upstream_unreachable");

    one.reopen();
    assert_eq!(setup.post("x").status, 200, "up again");
    assert_none_doubled(&two);
}

#[test]
fn connect_retry_waits_for_an_upstream_that_restarts() {
    let upstream = Upstream::accepting();
    let hasty = route("hasty", &[&upstream.url()], "");
    let setup = Setup::of(builder(&[&upstream.url()], "connect_retry = \"20s\"").config(&hasty));
    assert_eq!(setup.post("before").status, 200);
    upstream.take_only();
    upstream.refuse();
    upstream.close_connections();
    upstream.wait_for_ends(1);

    let mut wire = setup.begin(&delivery("meanwhile"));
    let at_once = Delivery::post("/hasty/a", "x").signed(SECRET);
    let began = Instant::now();
    let refusal = client::send_raw(setup.gateway.door(), &at_once);
    assert!(began.elapsed() < Duration::from_secs(5));
    setup.assert_refused(&refusal, 502, "upstream_unreachable");

    upstream.reopen();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
    assert_eq!(upstream.take_only().body.unwrap(), b"meanwhile");
}

#[test]
fn connect_retry_ends() {
    let upstream = Upstream::accepting();
    upstream.refuse();
    let setup = Setup::new(&upstream.url(), "connect_retry = \"300ms\"");
    let began = Instant::now();
    setup.assert_refused(&setup.post("x"), 502, "upstream_unreachable");
    assert!(began.elapsed() > Duration::from_millis(150), "no retry");
}

#[test]
fn forwards_to_unix_sockets() {
    let upstream = Upstream::start_unix(|_| Behaviour::Echo);
    let setup = Setup::new(&upstream.url(), "");
    for _ in 0..3 {
        assert_eq!(setup.post("through a file").body, b"through a file");
    }
    assert_eq!((upstream.count(), upstream.connections()), (3, 1));
    upstream.refuse();
    upstream.close_connections();
    upstream.wait_for_ends(1);
    setup.assert_refused(&setup.post("x"), 502, "upstream_unreachable");
    upstream.reopen();
    assert_eq!(setup.post("back").body, b"back");
}

/// A builder whose route trusts this authority.
fn trusting(upstream: &str, authority: &Authority, lines: &str) -> Builder {
    builder(
        &[upstream],
        &format!("upstream_ca = \"$DIR/ca.pem\"\n{lines}"),
    )
    .file("ca.pem", &authority.certificate_pem)
}

#[test]
fn checks_the_certificate_of_the_upstream() {
    let authority = tls::authority();
    let server = authority.server(&authority.issue_local(), &["http/1.1"], false);
    let upstream = Upstream::start_tls(server, |_| Behaviour::Echo);

    let setup = Setup::of(trusting(&upstream.url(), authority, ""));
    assert_eq!(setup.post("secret").body, b"secret");
    upstream.take_only();

    let stranger = Authority::new("stranger");
    for builder in [
        trusting(&upstream.url(), &stranger, ""),
        trusting(
            &upstream.url(),
            authority,
            "upstream_name = \"other.example.org\"",
        ),
        // The system's authorities do not know the test's.
        builder(&[&upstream.url()], ""),
    ] {
        let setup = Setup::of(builder);
        setup.assert_refused(&setup.post("x"), 502, "upstream_unreachable");
    }
    assert_eq!(upstream.count(), 0, "nothing was sent to a stranger");
}

#[test]
fn names_the_upstream_as_configured() {
    // Its certificate is for another name than its address.
    let authority = tls::authority();
    let identity = authority.issue(&["receiver.internal"]);
    let server = authority.server(&identity, &["http/1.1"], false);
    let upstream = Upstream::start_tls(server, |_| Behaviour::Echo);
    let setup = Setup::of(trusting(&upstream.url(), authority, ""));
    setup.assert_refused(&setup.post("x"), 502, "upstream_unreachable");
    let setup = Setup::of(trusting(
        &upstream.url(),
        authority,
        "upstream_name = \"receiver.internal\"",
    ));
    assert_eq!(setup.post("named").body, b"named");
    assert_eq!(upstream.seen()[0].fields.one("host"), tls::HOST);
}

#[test]
fn shows_its_certificate_to_the_upstream() {
    let authority = tls::authority();
    for alpn in ["http/1.1", "h2"] {
        let server = authority.server(&authority.issue_local(), &[alpn], true);
        let (url, _h1, _h2);
        let certified: Box<dyn Fn() -> bool>;
        if alpn == "h2" {
            let upstream = Arc::new(Http2Upstream::start(Some(server), |_| Response::new(200)));
            url = upstream.url();
            _h2 = Arc::clone(&upstream);
            certified = Box::new(move || upstream.take_only().client_certificate);
        } else {
            let upstream = Arc::new(Upstream::start_tls(server, |_| Behaviour::Echo));
            url = upstream.url();
            _h1 = Arc::clone(&upstream);
            certified = Box::new(move || upstream.take_only().client_certificate);
        }
        let identity = authority.issue(&["gateway"]);
        let setup = Setup::of(
            trusting(
                &url,
                authority,
                "upstream_certificate = \"$DIR/client.pem\"\nupstream_key = \"$DIR/client.key\"",
            )
            .file("client.pem", &identity.certificate_pem)
            .file("client.key", &identity.key_pem),
        );
        assert_eq!(setup.post("x").status, 200, "{alpn}");
        assert!(certified(), "{alpn}");
    }
}

#[test]
fn upstream_that_demands_a_certificate_gets_nothing_without() {
    let authority = tls::authority();
    let server = authority.server(&authority.issue_local(), &["http/1.1"], true);
    let upstream = Upstream::start_tls(server, |_| Behaviour::Echo);
    let setup = Setup::of(trusting(&upstream.url(), authority, ""));
    assert_eq!(setup.post("x").status, 502);
    assert_eq!(upstream.count(), 0);
    setup.assert_serves_others();
}

fn http2_upstream(tls: bool) -> Http2Upstream {
    let authority = tls::authority();
    let server =
        tls.then(|| authority.server(&authority.issue_local(), &["h2", "http/1.1"], false));
    Http2Upstream::start(server, |seen| {
        Response::new(200).body(seen.body_sha256.clone())
    })
}

#[test]
fn speaks_http2_where_negotiated_or_told_to() {
    let negotiated = http2_upstream(true);
    let setup = Setup::of(trusting(&negotiated.url(), tls::authority(), ""));
    assert_eq!(setup.post("x").status, 200);
    let seen = negotiated.take_only();
    assert_eq!(seen.fields.one(":authority"), tls::HOST);
    assert_eq!(seen.body.unwrap(), b"x");

    let known = http2_upstream(false);
    let setup = Setup::new(&known.url(), "upstream_http = \"2\"");
    assert_eq!(setup.post("y").status, 200);
    assert_eq!(known.take_only().fields.one(":authority"), tls::HOST);
}

#[test]
fn speaks_http1_where_told_to() {
    let authority = tls::authority();
    let server = authority.server(&authority.issue_local(), &["h2", "http/1.1"], false);
    let upstream = Upstream::start_tls(server, |_| Behaviour::Echo);
    let setup = Setup::of(trusting(
        &upstream.url(),
        authority,
        "upstream_http = \"1.1\"",
    ));
    assert_eq!(setup.post("plain").body, b"plain");
    upstream.take_only();
}

#[test]
fn upstream_that_speaks_no_http2_after_all_is_an_error() {
    let authority = tls::authority();
    let server = authority.server(&authority.issue_local(), &["http/1.1"], false);
    let over_tls = Upstream::start_tls(server, |_| Behaviour::Echo);
    let setup = Setup::of(trusting(
        &over_tls.url(),
        authority,
        "upstream_http = \"2\"",
    ));
    setup.assert_refused(&setup.post("x"), 502, "upstream_unreachable");

    let plain = Upstream::accepting();
    let setup = Setup::new(&plain.url(), "upstream_http = \"2\"\ntimeout = \"2s\"");
    let answer = setup.post("x");
    setup.assert_refused(&answer, 502, "upstream_broken");
}

#[test]
fn requests_share_one_http2_connection() {
    for encrypted in [false, true] {
        let upstream = http2_upstream(encrypted);
        let setup = Setup::of(match encrypted {
            true => trusting(&upstream.url(), tls::authority(), ""),
            false => builder(&[&upstream.url()], "upstream_http = \"2\""),
        });
        assert_eq!(setup.post("first").status, 200);
        thread::scope(|scope| {
            for sender in 0..8 {
                let setup = &setup;
                scope.spawn(move || {
                    for count in 0..10 {
                        let body = format!("{sender}/{count}").repeat(10_000);
                        let answer = setup.post(body.clone());
                        assert_eq!(answer.status, 200);
                        assert_eq!(answer.body, sign::sha256(body.as_bytes()).as_bytes());
                    }
                });
            }
        });
        assert_eq!((upstream.count(), upstream.connections()), (81, 1));
        assert_eq!(upstream.faults(), Vec::<String>::new());
    }
}

#[test]
fn http2_connection_that_says_goodbye_is_replaced() {
    let upstream = http2_upstream(false);
    let setup = Setup::new(&upstream.url(), "upstream_http = \"2\"");
    for round in 1..=20 {
        assert_eq!(setup.post("x").status, 200, "{round}");
        upstream.go_away();
        upstream.wait_for_ends(round);
    }
    assert_eq!((upstream.count(), upstream.connections()), (20, 20));
}

#[test]
fn http2_connection_that_nobody_uses_is_let_go() {
    let upstream = http2_upstream(false);
    let setup = Setup::new(
        &upstream.url(),
        "upstream_http = \"2\"\nkeep_alive = \"300ms\"",
    );
    let resting = setup.gateway.descriptors();
    for round in 1..=2 {
        assert_eq!(setup.post("x").status, 200);
        upstream.wait_for_ends(round);
        setup.gateway.wait_for_descriptors(resting);
    }
    assert_eq!((upstream.count(), upstream.connections()), (2, 2));
}

#[test]
fn large_bodies_arrive_whole_from_memory_and_from_the_spool() {
    let http1 = Upstream::start(|_| Behaviour::Respond(ok()));
    let http2 = http2_upstream(false);
    let body = large_body();
    for memory in ["64MiB", "1MiB"] {
        let setup = Setup::of(
            builder(&[&http1.url()], "body = \"64MiB\"")
                .config(&route(
                    "http2",
                    &[&http2.url()],
                    "upstream_http = \"2\"\nbody = \"64MiB\"",
                ))
                .limits(&format!("body_memory = \"{memory}\"")),
        );
        let digest = sign::sha256(&body);
        for cuts in [Cuts::Whole, Cuts::Odd(7)] {
            let to = |path: &str| {
                Delivery::post(path, body.clone())
                    .signed(SECRET)
                    .cut(cuts)
                    .chunked()
            };
            let answer = client::send_raw(setup.gateway.door(), &to("/hooks/a"));
            assert_eq!(answer.status, 200, "{memory}");
            let seen = http1.take_only();
            assert_eq!((seen.body_len, &seen.body_sha256), (LARGE as u64, &digest));
            let id = seen.fields.one("countersign-request-id");
            let spilled = setup.gateway.request_line(id).bool_field("spilled");
            assert_eq!(spilled.unwrap_or_default(), memory == "1MiB");

            let answer = client::send_raw(setup.gateway.door(), &to("/http2/a"));
            assert_eq!(answer.status, 200, "{memory}");
            assert_eq!(http2.take_only().body_sha256, digest);
        }
    }
}

#[test]
fn sender_that_leaves_in_mid_body_leaves_no_trace_upstream() {
    let upstream = Upstream::accepting();
    let setup = Setup::of(builder(&[&upstream.url()], "").tls());
    let resting = setup.gateway.descriptors();
    let whole = delivery(vec![b'x'; 100_000]).raw();
    let left = |line: &Line| line.is("request");
    for (count, reset) in [(1, false), (2, true)] {
        let mut wire = client::raw(setup.gateway.door());
        wire.send(&whole[..whole.len() - 1]).unwrap();
        setup.gateway.wait_for_inflight(1);
        if reset {
            wire.socket().reset_on_close();
        }
        drop(wire);
        let line = &setup.gateway.logs().wait_for_count(count, left)[count - 1];
        assert_eq!(line.text_field("verdict"), Some("rejected"), "{line}");
        assert_eq!(line.text_field("reason"), Some("body_broken"), "{line}");
    }
    setup.gateway.wait_for_descriptors(resting);
    upstream.assert_untouched();
    setup.assert_serves_others();
    assert_eq!(setup.gateway.logs().wait_for_count(3, left).len(), 3);
}

#[test]
fn sender_that_leaves_while_the_upstream_works_holds_nothing() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let upstream = Upstream::start(|_| Behaviour::Stall);
        let setup = Setup::of(builder(&[&upstream.url()], "").tls());
        let resting = setup.gateway.descriptors();
        let delivery = delivery("x");
        match protocol {
            Protocol::Http1 => {
                let wire = setup.begin(&delivery);
                upstream.wait_for(1);
                wire.socket().reset_on_close();
            }
            Protocol::Http2 => {
                let asking = ask_http2(&setup, delivery);
                upstream.wait_for(1);
                asking.abort();
            }
        }
        setup.assert_serves_others();
        upstream.release();
        let id = id_of(&upstream);
        let line = setup.gateway.request_line(&id);
        assert_eq!(setup.lines_of(&id), 1);
        println!("{protocol:?} {line}");
        assert_eq!(setup.post("y").status, 200);
        assert_eq!(upstream.count(), 2);
        // Idle connections to both upstreams.
        setup.gateway.wait_for_descriptors(resting + 2);
    }
}

#[test]
fn sender_that_leaves_in_mid_answer_ends_the_upstreams_connection() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let upstream = Upstream::start(|_| {
            let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n".to_vec();
            bytes.resize(LARGE, b'x');
            Behaviour::RawThenHang(bytes)
        });
        let setup = Setup::of(builder(&[&upstream.url()], "").tls());
        match protocol {
            Protocol::Http1 => {
                let mut wire = setup.begin(&delivery("x"));
                assert!(wire.head().unwrap().is_some());
                wire.socket().reset_on_close();
            }
            Protocol::Http2 => {
                let asking = ask_http2(&setup, delivery("x"));
                upstream.wait_for(1);
                asking.abort();
            }
        }
        upstream.wait_for_ends(1);
        let id = id_of(&upstream);
        let line = setup.gateway.request_line(&id);
        assert_eq!(line.text_field("reason"), Some("sender_left"), "{line}");
        assert_eq!(line.text_field("level"), Some("INFO"), "{line}");
        assert_eq!(setup.lines_of(&id), 1);
        setup.assert_serves_others();
    }
}

#[test]
fn sender_that_only_stops_sending_gets_its_answer() {
    let upstream = Upstream::start(|_| Behaviour::Stall);
    let setup = Setup::new(&upstream.url(), "");
    let mut wire = setup.begin(&delivery("x"));
    wire.socket().shutdown(Shutdown::Write);
    upstream.wait_for(1);
    upstream.release();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
    setup.assert_logged(&id_of(&upstream), "forwarded", "");
}
