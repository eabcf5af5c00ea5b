//! Traces: what senders say of theirs, what the upstream gets, what the collector sees, and that no request waits for it.

use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message as _;

use crate::support::{
    client::{self, Client, Protocol},
    collector::{Attributes, Collector, attributes, of_kind, taken},
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_not_verified, request_id},
    recorder::Seen,
    sign, tls,
    upstream::{Behaviour, Response, Upstream},
};

const SECRET: &[u8] = b"a secret of these tests";
const BODY: &str = "{\"patient\": \"who nobody names\"}";

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn builder(upstream: &Upstream, lines: &str) -> Builder {
    Gateway::builder().route("hooks", "/hooks/*", SECRET, &upstream.url(), lines)
}

/// A gateway that sends its traces to the collector; `lines` are further keys of `[traces]`.
fn traced(collector: &Collector, upstream: &Upstream, lines: &str) -> Builder {
    let endpoint = collector.url();
    builder(upstream, "").config(&format!("[traces]\nendpoint = \"{endpoint}\"\n{lines}\n"))
}

fn post() -> Delivery {
    Delivery::post("/hooks/a?token=of-the-query", BODY)
        .header("User-Agent", "Sender/1.0")
        .header("traceparent", SENT)
        .header("tracestate", "sender=1")
        .header("baggage", "tenant=7")
}

fn genuine() -> Delivery {
    post().signed(SECRET)
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// The parts of the one `traceparent` that the upstream got.
fn traceparent(seen: &Seen) -> (String, String, String) {
    let parts: Vec<_> = seen.fields.one("traceparent").split('-').collect();
    let [version, trace, span, flags] = parts[..] else {
        panic!("{parts:?}");
    };
    assert_eq!(version, "00");
    (trace.into(), span.into(), flags.into())
}

/// The one span of this kind.
fn only(spans: &[Span], kind: SpanKind) -> &Span {
    let found = of_kind(spans, kind);
    assert_eq!(found.len(), 1, "{spans:#?}");
    found[0]
}

fn told(span: &Span) -> Attributes {
    attributes(&span.attributes)
}

fn code(span: &Span) -> StatusCode {
    span.status
        .as_ref()
        .map_or(StatusCode::Unset, |status| status.code())
}

fn dropped(cause: &str) -> String {
    format!("countersign_trace_spans_dropped_total{{cause=\"{cause}\"}}")
}

const EXPORTED: &str = "countersign_trace_spans_exported_total";

#[test]
fn a_delivery_is_two_spans_of_a_new_trace_that_links_to_the_senders() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (collector, upstream) = (Collector::start(), Upstream::accepting());
        let gateway = traced(&collector, &upstream, "service = \"edge\"").start();
        let answer = Client::connect(gateway.door(), protocol).send(&genuine());
        assert_eq!(answer.status, 200);

        let seen = upstream.take_only();
        let id = seen.fields.one("countersign-request-id").to_owned();
        let (trace, parent, flags) = traceparent(&seen);
        assert_eq!(
            trace,
            id.replace('-', ""),
            "the request's id is the trace's"
        );
        assert_eq!(flags, "01");
        for name in ["tracestate", "baggage"] {
            assert!(!seen.fields.has(name), "{}", seen.fields);
        }

        let spans = collector.spans(2);
        assert_eq!(spans.len(), 2);
        let (server, client) = (
            only(&spans, SpanKind::Server),
            only(&spans, SpanKind::Client),
        );
        for span in &spans {
            assert_eq!(hex(&span.trace_id), trace);
            assert_eq!(code(span), StatusCode::Unset);
            assert_eq!(span.trace_state, "");
        }
        assert_eq!(server.name, "POST /hooks/*");
        assert_eq!(server.parent_span_id, b"");
        assert_ne!(hex(&server.span_id), parent);
        assert_ne!(server.span_id, [0; 8]);
        assert_eq!(server.flags, 0x101);
        assert_eq!(client.name, "POST");
        assert_eq!(client.parent_span_id, server.span_id);
        assert_eq!(hex(&client.span_id), parent, "what the upstream was told");
        assert_eq!(client.flags, 0x101);
        let [link] = &server.links[..] else {
            panic!("{:?}", server.links);
        };
        assert_eq!(
            (hex(&link.trace_id), hex(&link.span_id)),
            (TRACE.into(), SPAN.into())
        );
        assert_eq!(link.flags, 0x301, "it is in another process");
        assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
        assert!(client.start_time_unix_nano < client.end_time_unix_nano);
        assert!(client.end_time_unix_nano <= server.end_time_unix_nano);
        let line = gateway.request_line(&id);
        let took = server.end_time_unix_nano - server.start_time_unix_nano;
        let total = line.field("total_ms").unwrap().as_f64().unwrap();
        assert!((took as f64 / 1e6 - total).abs() < 0.001, "{took} {line}");

        let address = upstream.url();
        let port = address.rsplit(':').next().unwrap();
        let version = if protocol == Protocol::Http1 {
            "1.1"
        } else {
            "2"
        };
        let want = |pairs: &[(&str, &str)]| -> Attributes {
            pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect()
        };
        assert_eq!(
            told(server),
            want(&[
                ("client.address", "127.0.0.1"),
                ("countersign.key.id", "test"),
                ("countersign.request.id", &id),
                ("countersign.result", "forwarded"),
                ("countersign.route", "hooks"),
                ("countersign.scheme", "carevalidate"),
                ("http.request.body.size", &BODY.len().to_string()),
                ("http.request.method", "POST"),
                ("http.response.status_code", "200"),
                ("http.route", "/hooks/*"),
                ("network.protocol.version", version),
                ("url.path", "/hooks/a"),
                ("url.scheme", "http"),
                ("user_agent.original", "Sender/1.0"),
            ])
        );
        assert_eq!(
            told(client),
            want(&[
                ("http.request.method", "POST"),
                ("http.response.status_code", "200"),
                ("server.address", "127.0.0.1"),
                ("server.port", port),
                ("url.full", &format!("{address}/hooks/a")),
            ])
        );
        let batch = &collector.batches()[0];
        assert_eq!(batch.seen.target, "/v1/traces");
        assert_eq!(batch.resource["service.name"], "edge");
        assert_eq!(batch.resource["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(batch.resource["service.instance.id"].len(), 16);
        // Neither in plain nor as part of something else.
        let bytes = batch.seen.body.clone().unwrap();
        let tag = sign::carevalidate(SECRET, BODY.as_bytes());
        for secret in [
            SECRET,
            BODY.as_bytes(),
            tag.as_bytes(),
            b"of-the-query",
            b"tenant",
            b"sender=1",
        ] {
            let found = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{}", String::from_utf8_lossy(secret));
        }
        gateway.wait_for_metric(EXPORTED, |spans| spans == 2);
    }
}

#[test]
fn a_senders_trace_goes_on_where_the_operator_says_so() {
    let (collector, upstream) = (Collector::start(), Upstream::accepting());
    let endpoint = collector.url();
    let gateway = builder(&upstream, "trace = \"continue\"")
        .config(&format!("[traces]\nendpoint = \"{endpoint}\"\nratio = 0"))
        .start();
    // The sender's word counts, not the ratio.
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    let seen = upstream.take_only();
    let (trace, parent, flags) = traceparent(&seen);
    assert_eq!((&*trace, &*flags), (TRACE, "01"));
    assert_ne!(parent, SPAN);
    assert_eq!(seen.fields.one("tracestate"), "sender=1");
    assert_eq!(seen.fields.one("baggage"), "tenant=7");
    let spans = collector.spans(2);
    let (server, client) = (
        only(&spans, SpanKind::Server),
        only(&spans, SpanKind::Client),
    );
    assert_eq!(hex(&server.trace_id), TRACE);
    assert_eq!(hex(&server.parent_span_id), SPAN);
    assert_eq!(server.flags, 0x301, "its parent is in another process");
    assert_eq!(server.links.len(), 0);
    assert_eq!(hex(&client.span_id), parent);
    assert_eq!(client.flags, 0x101);
    for span in &spans {
        assert_eq!(span.trace_state, "sender=1");
    }

    // One that is not recorded stays so.
    let mut unsampled = genuine();
    unsampled.fields.0[1].1 = SENT.replace("-01", "-00").into_bytes();
    assert_eq!(client::send_raw(gateway.door(), &unsampled).status, 200);
    let (trace, _, flags) = traceparent(&upstream.take_only());
    assert_eq!((&*trace, &*flags), (TRACE, "00"));

    // Nothing goes on from what is no trace; what belongs to it goes no further.
    for malformed in [
        Delivery::post("/hooks/a", BODY).header("traceparent", "00-0-0-01"),
        Delivery::post("/hooks/a", BODY)
            .header("traceparent", SENT)
            .header("traceparent", SENT),
    ] {
        let malformed = malformed.header("tracestate", "sender=1").signed(SECRET);
        assert_eq!(client::send_raw(gateway.door(), &malformed).status, 200);
        let seen = upstream.take_only();
        let (trace, _, flags) = traceparent(&seen);
        assert_eq!(
            trace,
            seen.fields.one("countersign-request-id").replace('-', "")
        );
        assert_eq!(flags, "00", "by the ratio");
        assert!(!seen.fields.has("tracestate"), "{}", seen.fields);
    }
    assert_eq!(collector.spans(2).len(), 2, "nothing more");
}

#[test]
fn without_a_collector_nothing_is_traced_and_what_senders_say_passes() {
    let (collector, upstream) = (Collector::start(), Upstream::accepting());
    let gateway = builder(&upstream, "trace = \"continue\"").start();
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    let seen = upstream.take_only();
    for (name, value) in [
        ("traceparent", SENT),
        ("tracestate", "sender=1"),
        ("baggage", "tenant=7"),
    ] {
        assert_eq!(seen.fields.one(name), value);
    }
    let plain = Delivery::post("/hooks/a", BODY).signed(SECRET);
    assert_eq!(client::send_raw(gateway.door(), &plain).status, 200);
    assert!(!upstream.take_only().fields.has("traceparent"));
    collector.assert_untouched();
}

#[test]
fn what_the_ratio_leaves_out_is_told_the_upstream_and_nobody_else() {
    let (collector, upstream) = (Collector::start(), Upstream::accepting());
    let mut gateway = traced(&collector, &upstream, "ratio = 0.0").start();
    for _ in 0..10 {
        assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
        let (trace, _, flags) = traceparent(&upstream.take_only());
        assert_ne!(trace, TRACE);
        assert_eq!(flags, "00");
    }
    gateway.terminate();
    assert!(gateway.wait_exit().success());
    collector.assert_untouched();
}

#[test]
fn a_part_of_the_traces_is_kept() {
    let (collector, upstream) = (Collector::start(), Upstream::accepting());
    let gateway = traced(&collector, &upstream, "ratio = 0.5").start();
    let mut client = Client::connect(gateway.door(), Protocol::Http1);
    for _ in 0..200 {
        assert_eq!(client.send(&genuine()).status, 200);
    }
    let seen = upstream.seen();
    let kept = seen
        .iter()
        .filter(|seen| traceparent(seen).2 == "01")
        .count();
    // Further off than this by chance: once in a hundred million runs.
    assert!((60..=140).contains(&kept), "{kept}");
    assert_eq!(collector.spans(2 * kept).len(), 2 * kept);
}

#[test]
fn refusals_and_failures_are_told_as_the_conventions_say() {
    let (collector, upstream) = (Collector::start(), Upstream::accepting());
    let gateway = traced(&collector, &upstream, "").start();
    let mut told_so_far = 0;
    let mut last = |spans: usize| {
        told_so_far += spans;
        collector.spans(told_so_far).split_off(told_so_far - spans)
    };

    // A fault of the sender is no error of the service.
    let answer = client::send_raw(gateway.door(), &post().signed(b"another secret"));
    assert_not_verified(&answer);
    let spans = last(1);
    let server = only(&spans, SpanKind::Server);
    assert_eq!(hex(&server.trace_id), request_id(&answer).replace('-', ""));
    assert_eq!(code(server), StatusCode::Unset);
    let attributes = told(server);
    assert_eq!(attributes["error.type"], "signature_mismatch");
    assert_eq!(attributes["countersign.result"], "not_verified");
    assert_eq!(attributes["countersign.reason"], "signature_mismatch");
    assert_eq!(attributes["http.response.status_code"], "401");
    assert!(!attributes.contains_key("countersign.key.id"));

    // What the upstream answers: 4xx is an error of whoever asked, which is not the sender alone.
    for (status, of_server) in [(422, StatusCode::Unset), (500, StatusCode::Error)] {
        upstream.behave(move |_| Behaviour::Respond(Response::new(status)));
        assert_eq!(client::send_raw(gateway.door(), &genuine()).status, status);
        let spans = last(2);
        let (server, client) = (
            only(&spans, SpanKind::Server),
            only(&spans, SpanKind::Client),
        );
        assert_eq!(code(server), of_server);
        assert_eq!(code(client), StatusCode::Error);
        assert_eq!(told(client)["error.type"], status.to_string());
        let error = told(server).get("error.type").cloned();
        assert_eq!(error, (status == 500).then(|| "500".to_owned()));
    }

    // What it does not answer.
    upstream.behave(|_| Behaviour::CloseBeforeAnswer);
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 502);
    let spans = last(2);
    for span in &spans {
        assert_eq!(told(span)["error.type"], "upstream_broken");
        let status = span.status.clone().unwrap();
        assert_eq!(status.code(), StatusCode::Error);
        assert!(!status.message.is_empty());
    }
    let client = told(only(&spans, SpanKind::Client));
    assert_eq!(client["server.address"], "127.0.0.1");
    assert!(!client.contains_key("http.response.status_code"));

    // An answer that breaks off.
    upstream.behave(|_| Behaviour::DieMidResponse {
        declared: 100,
        sent: 10,
    });
    let mut wire = client::raw(gateway.door());
    wire.send(&genuine().raw()).unwrap();
    assert!(wire.answer("POST").is_err());
    let spans = last(2);
    let server = only(&spans, SpanKind::Server);
    assert_eq!(told(server)["error.type"], "response_cut");
    assert_eq!(told(server)["countersign.result"], "cut");
    assert_eq!(code(server), StatusCode::Error);
    assert_eq!(code(only(&spans, SpanKind::Client)), StatusCode::Unset);

    // No route: strangers try paths without end, and that is no work of a route.
    let stray = Delivery::post("/elsewhere", BODY);
    assert_eq!(client::send_raw(gateway.door(), &stray).status, 404);
    upstream.behave(|_| Behaviour::Respond(Response::new(200)));
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    let spans = last(2);
    assert_eq!(
        told(only(&spans, SpanKind::Server))["http.response.status_code"],
        "200"
    );
}

#[test]
fn the_address_that_answered_is_told() {
    let collector = Collector::start();
    let (down, up) = (Upstream::accepting(), Upstream::accepting());
    down.refuse();
    let socket = Upstream::start_unix(|_| Behaviour::Respond(Response::new(200)));
    let lines = format!(
        "max_fails = 1\n[traces]\nendpoint = \"{}\"",
        collector.url()
    );
    let two = format!("{}\", \"{}", down.url(), up.url());
    let gateway = Gateway::builder()
        .route("local", "/local", SECRET, &socket.url(), "")
        .config("")
        .file("secrets/two", SECRET)
        .config(&format!(
            "[[route]]\nname = \"two\"\npath = \"/two\"\nscheme = \"carevalidate\"\n\
             secrets = [{{ id = \"test\", file = \"$DIR/secrets/two\" }}]\nupstream = [\"{two}\"]\n{lines}"
        ))
        .start();
    for _ in 0..2 {
        let delivery = Delivery::post("/two", BODY).signed(SECRET);
        assert_eq!(client::send_raw(gateway.door(), &delivery).status, 200);
    }
    for client in of_kind(&collector.spans(4), SpanKind::Client) {
        assert_eq!(told(client)["url.full"], format!("{}/two", up.url()));
    }
    let delivery = Delivery::post("/local", BODY).signed(SECRET);
    assert_eq!(client::send_raw(gateway.door(), &delivery).status, 200);
    let spans = collector.spans(6).split_off(4);
    let client = told(only(&spans, SpanKind::Client));
    assert_eq!(format!("unix:{}", client["server.address"]), socket.url());
    assert!(!client.contains_key("server.port") && !client.contains_key("url.full"));
}

/// More than the queue and a batch hold.
const TOO_MANY: usize = 4096 + 512 + 50;

#[test]
fn a_collector_that_stalls_delays_no_request_and_what_finds_no_room_is_counted() {
    let collector = Collector::of(Upstream::start(|_| Behaviour::Stall));
    let upstream = Upstream::accepting();
    let mut gateway = traced(&collector, &upstream, "timeout = \"1h\"").start();
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    collector.wait_for(1);
    let mut client = Client::connect(gateway.door(), Protocol::Http1);
    let mut slowest = Duration::ZERO;
    for _ in 0..TOO_MANY {
        let began = Instant::now();
        assert_eq!(client.send(&genuine()).status, 200);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    gateway.wait_for_metric(&dropped("queue_full"), |spans| spans > 0);
    assert_eq!(gateway.metric(EXPORTED), 0);
    assert_eq!(collector.count(), 1, "one question at a time");

    let began = Instant::now();
    gateway.terminate();
    assert!(gateway.wait_exit().success());
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    let text = gateway.logs().text();
    assert!(
        text.contains("traces were not all sent before the end"),
        "{text}"
    );
}

#[test]
fn a_collector_that_is_down_is_asked_again_and_gets_what_it_missed() {
    let (collector, upstream) = (Collector::start(), Upstream::accepting());
    collector.refuse();
    let gateway = traced(&collector, &upstream, "").start();
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    let line = gateway
        .logs()
        .wait_for(|line| line.is("traces cannot be exported"))
        .unwrap();
    assert_eq!(line.text_field("level"), Some("WARN"), "{line}");
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    // Later what is asked for is that it comes again.
    collector.behave(|_| Behaviour::Respond(Response::new(503).header("retry-after", "1")));
    collector.reopen();
    collector.wait_for(1);
    collector.behave(|_| Behaviour::Respond(taken()));
    gateway.wait_for_metric(EXPORTED, |spans| spans == 4);
    gateway
        .logs()
        .wait_for(|line| line.is("traces are exported again"));
    let warnings = gateway.logs().lines();
    let warnings = warnings
        .iter()
        .filter(|line| line.is("traces cannot be exported"));
    assert_eq!(warnings.count(), 1, "said once");
}

#[test]
fn what_the_collector_does_not_want_is_counted() {
    let (collector, upstream) = (Collector::start(), Upstream::accepting());
    let gateway = traced(&collector, &upstream, "").start();
    collector.behave(|_| Behaviour::Respond(Response::new(400)));
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    gateway.wait_for_metric(&dropped("export_failed"), |spans| spans == 2);
    assert_eq!(
        collector.count(),
        1,
        "the same would not be taken later either"
    );
    let partial = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 1,
            error_message: "too old".into(),
        }),
    };
    let answer = taken().body(partial.encode_to_vec());
    collector.behave(move |_| Behaviour::Respond(answer.clone()));
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    gateway.wait_for_metric(&dropped("rejected"), |spans| spans == 1);
    assert_eq!(gateway.metric(EXPORTED), 1);
}

#[test]
fn strangers_cannot_flood_the_collector() {
    let (collector, upstream) = (Collector::start(), Upstream::accepting());
    let gateway = traced(&collector, &upstream, "").start();
    let mut client = Client::connect(gateway.door(), Protocol::Http1);
    let forged = Delivery::post("/hooks/a", BODY).header("x-cv-signature", "0".repeat(64));
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(client.send(&forged).status, 401);
    }
    let took = began.elapsed();
    assert_eq!(client.send(&genuine()).status, 200);
    gateway.wait_for_metric(EXPORTED, |spans| spans >= 102);
    let (told, left_out) = (
        gateway.metric(EXPORTED) - 2,
        gateway.metric(&dropped("refused_rate")),
    );
    assert_eq!(told + left_out, 1000);
    let most = 101 + took.as_millis() as u64 / 10;
    assert!(told <= most, "{told} in {took:?}");
    assert!(left_out > 0, "{took:?}");
}

#[test]
fn at_the_end_everything_is_sent_at_once() {
    let (collector, upstream) = (Collector::start(), Upstream::accepting());
    let mut gateway = traced(&collector, &upstream, "").start();
    let mut client = Client::connect(gateway.door(), Protocol::Http1);
    for _ in 0..600 {
        assert_eq!(client.send(&genuine()).status, 200);
    }
    drop(client);
    gateway.terminate();
    assert!(gateway.wait_exit().success());
    assert_eq!(collector.spans(1200).len(), 1200);
}

#[test]
fn a_collector_may_want_a_token_and_tls_and_a_reload_changes_both() {
    let authority = tls::authority();
    let collector = Collector::of(Upstream::start_tls(
        authority.server(&authority.issue_local(), &["http/1.1"], false),
        |_| Behaviour::Respond(taken()),
    ));
    let upstream = Upstream::accepting();
    let gateway = traced(
        &collector,
        &upstream,
        "ca = \"$DIR/ca.pem\"\nheaders = [{ name = \"authorization\", file = \"$DIR/token\" }]",
    )
    .file("ca.pem", &authority.certificate_pem)
    .file("token", "Bearer the-first-token\n")
    .server("reload_interval = \"off\"")
    .start();
    let token = |request: usize| {
        let seen = collector.wait_for(request + 1);
        seen[request].fields.one("authorization").to_owned()
    };
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    assert_eq!(token(0), "Bearer the-first-token");
    gateway.replace("token", "Bearer the-second-token\n");
    assert!(gateway.hang_up().is("reloaded"));
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    assert_eq!(token(1), "Bearer the-second-token");

    // What is still on its way at a reload arrives.
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    gateway.reconfigure("endpoint", "service = \"edge\"\nendpoint");
    assert!(gateway.hang_up().is("reloaded"));
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    assert_eq!(collector.spans(8).len(), 8);
    let mut services: Vec<_> = collector
        .batches()
        .into_iter()
        .map(|mut batch| batch.resource.remove("service.name").unwrap())
        .collect();
    services.sort();
    assert_eq!(
        services,
        ["countersign", "countersign", "countersign", "edge"]
    );

    // Switched off.
    gateway.reconfigure("endpoint = \"https", "# endpoint = \"https");
    assert!(gateway.hang_up().is("reloaded"));
    upstream.seen();
    assert_eq!(client::send_raw(gateway.door(), &genuine()).status, 200);
    let last = upstream.seen().pop().unwrap();
    assert_eq!(last.fields.one("traceparent"), SENT);
    for text in [gateway.logs().text(), gateway.metrics()] {
        assert!(!text.contains("-token"), "{text}");
    }
}

#[test]
fn a_token_that_cannot_be_read_stops_the_start() {
    let (collector, upstream) = (Collector::start(), Upstream::accepting());
    let lines = "headers = [{ name = \"authorization\", file = \"$DIR/none\" }]";
    let failed = traced(&collector, &upstream, lines)
        .try_start()
        .err()
        .unwrap();
    assert_eq!(failed.status.code(), Some(78), "{}", failed.output);
    assert!(failed.output.contains("traces: file "), "{}", failed.output);
}
