//! Sends finished traces to a collector: OTLP over HTTP, in batches, one question at a time. Requests never wait for it.

use std::{error::Error, io, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, SpanFlags, Status,
        span::{Link, SpanKind},
        status::StatusCode as Code,
    },
};
use prost::Message as _;
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Pauses,
    config::{TracesConfig, UpstreamConfig, UpstreamProtocol},
    reject::Chain,
    scheme::HandshakeKind,
    telemetry::{Forwarding, RequestSpan, SpanContext, TraceMetrics, TraceQueue, TracedAddress},
    upstream::{Health, SendError, SharedTls, Upstream},
};

/// Requests that are told of at once, and how long they are waited for.
const BATCH: usize = 512;
const GATHER: Duration = Duration::from_secs(1);

/// For how long a batch is tried again. What ends meanwhile waits in the queue, and is dropped when that is full.
const RETRY_FOR: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Answers are a few bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Begins to export; ends when the queue is gone, or told to. Without a runtime, as in `check`, nothing is sent.
///
/// # Errors
/// If a certificate, or the value of a header, cannot be used.
pub fn start(
    config: &TracesConfig,
    instance: &str,
    metrics: TraceMetrics,
) -> anyhow::Result<TraceQueue> {
    let upstream = Upstream::new(
        &UpstreamConfig {
            addresses: vec![config.address.clone()],
            protocol: UpstreamProtocol::Auto,
            ca: config.ca.clone(),
            client_certificate: None,
            server_name: None,
            // The limit for the whole comes first.
            connect_timeout: 2 * config.timeout,
            connect_retry: Duration::ZERO,
            timeout: 2 * config.timeout,
            read_timeout: 2 * config.timeout,
            keep_alive: Duration::from_secs(4),
            idle_connections: 1,
            max_fails: 0,
        },
        &mut SharedTls::default(),
        |_| Health::unwatched(),
    )?;
    let mut head = Request::new(());
    *head.method_mut() = Method::POST;
    *head.uri_mut() = config.path.parse().context("traces.endpoint")?;
    *head.headers_mut() = headers(config)?;
    let (queue, receiver, stopping) = TraceQueue::new(metrics.clone());
    let exporter = Exporter {
        queue: receiver,
        stopping,
        upstream,
        head,
        timeout: config.timeout,
        resource: resource(&config.service, instance),
        metrics,
        pauses: Pauses::new(PAUSE_MIN, PAUSE_MAX),
        fails: false,
    };
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn(exporter.run()));
    }
    Ok(queue)
}

fn headers(config: &TracesConfig) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_str(&config.authority)?);
    headers.insert(header::CONTENT_TYPE, PROTOBUF);
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("countersign/", env!("CARGO_PKG_VERSION"))),
    );
    for (name, source) in &config.headers {
        let loaded = source.read().with_context(|| source.to_string())?;
        let mut value = HeaderValue::from_bytes(loaded.secret.expose())
            .with_context(|| format!("{source} cannot be the value of a header"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

struct Exporter {
    queue: mpsc::Receiver<RequestSpan>,
    /// Nothing is waited for any more.
    stopping: CancellationToken,
    upstream: Upstream,
    head: Request<()>,
    timeout: Duration,
    resource: Resource,
    metrics: TraceMetrics,
    pauses: Pauses,
    /// The last question failed.
    fails: bool,
}

/// Why the collector did not take a batch.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the collector cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("the collector gave no valid answer")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    #[error("the collector took longer than traces.timeout")]
    Timeout,
    #[error("the collector answered {status}")]
    Status {
        status: StatusCode,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
}

impl ExportError {
    /// Whether the same batch may be taken later, as OTLP says.
    fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Broken(_) | Self::Timeout => true,
            Self::Status { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }

    fn retry_after(&self) -> Duration {
        match self {
            Self::Status { retry_after, .. } => retry_after.unwrap_or_default().min(PAUSE_MAX),
            Self::Unreachable(_) | Self::Broken(_) | Self::Timeout => Duration::ZERO,
        }
    }
}

impl Exporter {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.gather(&mut batch).await {
            self.export(&batch).await;
            batch.clear();
        }
    }

    /// Waits for the first, and then a moment for more. `false`: there will be none.
    async fn gather(&mut self, batch: &mut Vec<RequestSpan>) -> bool {
        let stopping = self.stopping.clone();
        tokio::select! {
            biased;
            // Those that wait already are still handed out.
            () = stopping.cancelled(), if !self.queue.is_closed() => self.queue.close(),
            received = self.queue.recv_many(batch, BATCH) => {
                if received == 0 {
                    return false;
                }
            }
        }
        let end = Instant::now() + GATHER;
        while batch.len() < BATCH && !stopping.is_cancelled() {
            let more = self.queue.recv_many(batch, BATCH - batch.len());
            tokio::select! {
                received = timeout_at(end, more) => {
                    if !matches!(received, Ok(1..)) {
                        break;
                    }
                }
                () = stopping.cancelled() => {}
            }
        }
        true
    }

    /// Sends a batch, again and again for a while if need be.
    async fn export(&mut self, batch: &[RequestSpan]) {
        let spans = batch.iter().map(RequestSpan::spans).sum();
        if spans == 0 {
            return;
        }
        let body = Bytes::from(request(&self.resource, batch).encode_to_vec());
        let give_up = Instant::now() + RETRY_FOR;
        loop {
            let error = match self.ask(body.clone()).await {
                Ok(rejected) => {
                    self.metrics.exported(spans - rejected.min(spans));
                    if rejected > 0 {
                        self.metrics.dropped(rejected.min(spans), "rejected");
                    }
                    if self.fails {
                        tracing::info!("traces are exported again");
                    }
                    self.fails = false;
                    return self.pauses.reset();
                }
                Err(error) => error,
            };
            if !self.fails {
                tracing::warn!(error = %Chain(&error), "traces cannot be exported");
            }
            self.fails = true;
            let pause = self.pauses.next_pause().max(error.retry_after());
            let is_over = self.stopping.is_cancelled() || Instant::now() + pause > give_up;
            if is_over || !error.is_passing() {
                return self.metrics.dropped(spans, "export_failed");
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }

    /// Asks the collector to take this. Tells how many spans it did not want.
    async fn ask(&self, body: Bytes) -> Result<u64, ExportError> {
        let mut message = self.head.clone().map(|()| body);
        let length = message.body().len().into();
        message.headers_mut().insert(header::CONTENT_LENGTH, length);
        let answer = self.upstream.exchange(message, ANSWER_BYTES_MAX);
        let answer = timeout(self.timeout, answer)
            .await
            .map_err(|_| ExportError::Timeout)?
            .map_err(|error| match error {
                SendError::Unreachable(error) => ExportError::Unreachable(error),
                SendError::Broken(error) => ExportError::Broken(error),
                SendError::Timeout => ExportError::Timeout,
            })?;
        if !answer.status().is_success() {
            let after = answer.headers().get(header::RETRY_AFTER);
            let seconds = after.and_then(|after| after.to_str().ok()?.parse().ok());
            return Err(ExportError::Status {
                status: answer.status(),
                retry_after: seconds.map(Duration::from_secs),
            });
        }
        // What is no message of OTLP says nothing of what was not taken.
        let answer = ExportTraceServiceResponse::decode(answer.into_body()).unwrap_or_default();
        let partial = answer.partial_success.unwrap_or_default();
        Ok(partial.rejected_spans.try_into().unwrap_or(0))
    }
}

/// What this process is.
fn resource(service: &str, instance: &str) -> Resource {
    Resource {
        attributes: vec![
            text("service.name", service),
            text("service.version", VERSION),
            text("service.instance.id", instance),
        ],
        ..Resource::default()
    }
}

fn request(resource: &Resource, batch: &[RequestSpan]) -> ExportTraceServiceRequest {
    let mut spans = Vec::with_capacity(2 * batch.len());
    for told in batch {
        spans.push(server_span(told));
        spans.extend(told.forwarding.as_ref().map(|way| client_span(told, way)));
    }
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "countersign".into(),
                    version: VERSION.into(),
                    ..InstrumentationScope::default()
                }),
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

/// What came in, from its head to the last byte of the answer.
fn server_span(told: &RequestSpan) -> Span {
    let route = &told.route;
    let mut attributes = vec![
        text("http.request.method", method(&told.method)),
        text("url.scheme", if told.tls { "https" } else { "http" }),
        text("url.path", &*told.path),
        text("http.route", &*route.pattern),
        text("network.protocol.version", version(told.version)),
        int("http.request.body.size", told.body_bytes),
        text("countersign.request.id", told.id.to_string()),
        text("countersign.route", &*route.name),
        text("countersign.scheme", &*route.scheme),
        text("countersign.result", told.outcome.as_str()),
    ];
    let words = [
        ("countersign.reason", told.reason),
        ("countersign.key.id", &told.key),
        (
            "countersign.handshake",
            told.handshake.map_or("", HandshakeKind::as_str),
        ),
        (
            "user_agent.original",
            told.agent.as_deref().unwrap_or_default(),
        ),
    ];
    let words = words.into_iter().filter(|(_, value)| !value.is_empty());
    attributes.extend(words.map(|(name, value)| text(name, value)));
    attributes.extend(
        told.peer
            .map(|peer| text("client.address", peer.to_string())),
    );
    let flags = [
        ("countersign.spilled", told.spilled),
        ("countersign.unguarded", told.unguarded),
    ];
    let flags = flags.into_iter().filter(|(_, holds)| *holds);
    attributes.extend(flags.map(|(name, holds)| attribute(name, Value::BoolValue(holds))));
    if told.status != 0 {
        attributes.push(int("http.response.status_code", told.status.into()));
    }
    // What a sender did wrong is no error of this service.
    let failed = told.status >= 500 || told.fault.is_some();
    let error = match (told.reason, failed) {
        ("", false) => None,
        ("", true) => Some(told.status.to_string()),
        (reason, _) => Some(reason.to_owned()),
    };
    attributes.extend(error.map(|error| text("error.type", error)));
    Span {
        name: format!("{} {}", span_name(&told.method), route.pattern),
        kind: SpanKind::Server.into(),
        parent_span_id: told.parent.map(Vec::from).unwrap_or_default(),
        trace_state: told.state.clone(),
        flags: flags_of(told.context.sampled, told.parent.is_some()),
        links: told.link.iter().map(link).collect(),
        status: failed.then(|| failure(told.fault.as_deref())),
        attributes,
        ..span(&told.context, told, Duration::ZERO, told.total)
    }
}

/// What went out, until the head of the upstream's response.
fn client_span(told: &RequestSpan, way: &Forwarding) -> Span {
    let route = &told.route;
    let mut attributes = vec![text("http.request.method", method(&told.method))];
    let place = way.answered.map(|(_, place)| place);
    // Nothing says which of several did not answer.
    let address = match (place, &route.upstream[..]) {
        (Some(place), addresses) => addresses.get(place),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    if let Some(TracedAddress { host, port, base }) = address {
        attributes.push(text("server.address", &**host));
        attributes.extend(port.map(|port| int("server.port", port.into())));
        if !base.is_empty() {
            attributes.push(text("url.full", format!("{base}{}", told.path)));
        }
    }
    let error = match way.answered {
        Some((status, _)) => {
            attributes.push(int("http.response.status_code", status.into()));
            (status >= 400).then(|| status.to_string())
        }
        None => Some(told.reason.to_owned()),
    };
    let status = error.is_some().then(|| {
        let silent = way.answered.is_none();
        failure(told.fault.as_deref().filter(|_| silent))
    });
    attributes.extend(error.map(|error| text("error.type", error)));
    Span {
        name: span_name(&told.method).to_owned(),
        kind: SpanKind::Client.into(),
        parent_span_id: told.context.span.into(),
        trace_state: told.state.clone(),
        flags: flags_of(told.context.sampled, false),
        status,
        attributes,
        ..span(&way.context, told, way.after, way.took)
    }
}

/// What all spans have.
fn span(context: &SpanContext, told: &RequestSpan, after: Duration, took: Duration) -> Span {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let began = u64::try_from(told.at.millis())
        .unwrap_or(0)
        .saturating_mul(1_000_000);
    let start = began.saturating_add(nanos(after));
    Span {
        trace_id: context.trace.into(),
        span_id: context.span.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(nanos(took)),
        ..Span::default()
    }
}

fn link(to: &SpanContext) -> Link {
    Link {
        trace_id: to.trace.into(),
        span_id: to.span.into(),
        flags: flags_of(to.sampled, true),
        ..Link::default()
    }
}

fn failure(why: Option<&str>) -> Status {
    Status {
        message: why.unwrap_or_default().to_owned(),
        code: Code::Error.into(),
    }
}

/// Flags of a trace, and whether what is before it is in another process.
fn flags_of(sampled: bool, remote: bool) -> u32 {
    let known = SpanFlags::ContextHasIsRemoteMask as u32;
    let remote = if remote {
        SpanFlags::ContextIsRemoteMask as u32
    } else {
        0
    };
    u32::from(sampled) | known | remote
}

/// Methods are a closed set: senders make no new ones.
fn method(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::DELETE
        | Method::CONNECT
        | Method::OPTIONS
        | Method::TRACE
        | Method::PATCH => method.as_str(),
        _ => "_OTHER",
    }
}

/// The same in the name of a span.
fn span_name(name: &Method) -> &str {
    match method(name) {
        "_OTHER" => "HTTP",
        known => known,
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: u64) -> KeyValue {
    attribute(
        key,
        Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
    )
}
