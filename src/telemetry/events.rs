//! One struct per event: its log line and its metrics are made from the same values.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::{LogSink, Metrics, RouteCounters, Trace};
use crate::{
    clock::UnixTime,
    config::{LogFormat, LogLevel},
    reject::{Blame, Rejection},
    route::{KeyRef, Route},
    scheme::HandshakeKind,
};

/// Refused requests that are written per second; strangers can make any number of them. All are counted.
const REFUSED_LINES_PER_SECOND: u32 = 100;

/// How a request ended. A closed set: a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream's answer went back.
    Forwarded,
    /// It was a duplicate of a delivery that succeeded, and went no further.
    Replayed,
    /// The same, although its signature did not hold: its route only observes.
    Observed,
    /// It was a handshake, which the gateway answered.
    Handshake,
    /// Its signature did not hold.
    NotVerified,
    /// Refused for another fault of the sender.
    Rejected,
    /// The gateway or its configuration could not serve it.
    Unavailable,
    /// The upstream could not be reached, or gave no answer.
    UpstreamError,
    /// The sender left before its answer.
    Aborted,
    /// The answer began but did not reach its end.
    Cut,
}

impl Outcome {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Replayed => "replayed",
            Self::Observed => "observed",
            Self::Handshake => "handshake",
            Self::NotVerified => "not_verified",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
            Self::UpstreamError => "upstream_error",
            Self::Aborted => "aborted",
            Self::Cut => "cut",
        }
    }
}

/// Everything that is told of one request.
#[derive(Debug)]
pub struct RequestEvent {
    /// Request id.
    pub id: Uuid,
    /// When its head had come.
    pub at: UnixTime,
    /// The same on a clock that never jumps.
    pub began: Instant,
    /// Whom it comes from, as far as is known.
    pub peer: Option<IpAddr>,
    /// Place of its route.
    pub route: Option<usize>,
    /// How it ended.
    pub outcome: Outcome,
    /// What kind of handshake it was.
    pub handshake: Option<HandshakeKind>,
    /// Stable word for why; empty if it was forwarded.
    pub reason: &'static str,
    /// The reason in full.
    pub detail: Detail,
    /// Whose fault it was.
    pub blame: Option<Blame>,
    /// The check was passed, or the route needs none.
    pub verified: bool,
    /// What is wrong with its signature, in a word and in full, if it was let through all the same.
    pub observed: Option<(&'static str, String)>,
    /// The key that verified.
    pub key: Option<KeyRef>,
    /// The signed time.
    pub signed_at: Option<UnixTime>,
    /// Status of the answer; 0 if there was none.
    pub status: u16,
    /// Bytes of the body.
    pub body_bytes: u64,
    /// The body was partly on disk.
    pub spilled: bool,
    /// It went to the upstream although its guard's store failed, as the operator wrote.
    pub unguarded: bool,
    /// From the head until the body was whole.
    pub receive: Option<Duration>,
    /// From then until it went to the upstream.
    pub verify: Option<Duration>,
    /// From sending until the upstream's response head.
    pub upstream: Option<Duration>,
    /// Its place in a trace, where requests are traced.
    pub trace: Option<Box<Trace>>,
}

/// A reason in full, for the operator. Most are those of refusals, and most of these nobody reads: put into words only if somebody does.
#[derive(Debug)]
pub enum Detail {
    /// There is nothing to say.
    None,
    /// In these words.
    Words(String),
    /// In those of the refusal.
    Rejection(Rejection),
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Words(words) => f.write_str(words),
            Self::Rejection(rejection) => rejection.fmt(f),
        }
    }
}

impl RequestEvent {
    /// Whether strangers can make any number of the like.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self.blame,
            Some(Blame::Sender | Blame::Provider | Blame::Load)
        )
    }
}

/// As it is written in JSON.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: &'a str,
    level: &'static str,
    message: &'static str,
    request_id: Uuid,
    route: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    scheme: &'a str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    handshake: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    status: u16,
    body_bytes: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    spilled: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unguarded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receive_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
    total_ms: f64,
    /// Lines like this one that were not written since the last.
    #[serde(skip_serializing_if = "is_zero")]
    suppressed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Writes the line per request.
pub struct RequestLog {
    sink: LogSink,
    format: LogFormat,
    level: LogLevel,
    refused: Mutex<Refused>,
}

/// Keeps the refused lines to their rate.
struct Refused {
    second: i64,
    written: u32,
    suppressed: u64,
}

impl RequestLog {
    /// Writes lines of at least this level to the sink.
    pub fn new(sink: LogSink, format: LogFormat, level: LogLevel) -> Self {
        Self {
            sink,
            format,
            level,
            refused: Mutex::new(Refused {
                second: 0,
                written: 0,
                suppressed: 0,
            }),
        }
    }

    /// Where the lines go.
    pub fn sink(&self) -> &LogSink {
        &self.sink
    }

    /// Tells of one finished request: counts it always, writes it if its level is on. Returns how long it took.
    pub fn finish(
        &self,
        event: &RequestEvent,
        metrics: &Metrics,
        route: Option<(&Route, &RouteCounters)>,
    ) -> Duration {
        let total = event.began.elapsed();
        metrics.count(event, route.map(|(_, counters)| counters), total);
        self.write(event, route.map(|(route, _)| route), total);
        total
    }

    fn write(&self, event: &RequestEvent, route: Option<&Route>, total: Duration) {
        let level = match event.blame {
            None | Some(Blame::Sender) => LogLevel::Info,
            Some(
                Blame::Operator | Blame::Provider | Blame::Upstream | Blame::Gateway | Blame::Load,
            ) => LogLevel::Warn,
        };
        if level > self.level {
            return;
        }
        let Some(suppressed) = self.admit(event) else {
            return;
        };
        let millis = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let line = Line {
            timestamp: &event.at.to_string(),
            level: if level == LogLevel::Warn {
                "WARN"
            } else {
                "INFO"
            },
            message: "request",
            request_id: event.id,
            route: route.map_or("", |route| &route.name),
            scheme: route.map_or("", |route| route.scheme.name()),
            verdict: event.outcome.as_str(),
            handshake: event.handshake.map_or("", HandshakeKind::as_str),
            reason: event.reason,
            detail: &event.detail.to_string(),
            key: event
                .key
                .as_ref()
                .zip(route)
                .map_or("", |(key, route)| route.key_id(key)),
            status: event.status,
            body_bytes: event.body_bytes,
            spilled: event.spilled,
            unguarded: event.unguarded,
            peer: event.peer,
            receive_ms: event.receive.map(millis),
            upstream_ms: event.upstream.map(millis),
            total_ms: millis(total),
            suppressed,
        };
        match self.format {
            LogFormat::Json => {
                let mut text = Vec::with_capacity(384);
                if serde_json::to_writer(&mut text, &line).is_ok() {
                    text.push(b'\n');
                    self.sink.write(&text);
                }
            }
            LogFormat::Text => self.sink.write(line.text().as_bytes()),
        }
    }

    /// `None` if the line is not to be written, else how many were left out before it.
    fn admit(&self, event: &RequestEvent) -> Option<u64> {
        if !event.is_refusal() {
            return Some(0);
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.second != event.at.secs() {
            refused.second = event.at.secs();
            refused.written = 0;
        }
        if refused.written == REFUSED_LINES_PER_SECOND {
            refused.suppressed += 1;
            return None;
        }
        refused.written += 1;
        Some(std::mem::take(&mut refused.suppressed))
    }
}

impl Line<'_> {
    /// For people: one line, the exact reason at its end.
    fn text(&self) -> String {
        let mut text = format!(
            "{} {:>5} {} {}",
            self.timestamp, self.level, self.status, self.verdict
        );
        for (name, value) in [
            ("route", self.route),
            ("handshake", self.handshake),
            ("key", self.key),
            ("reason", self.reason),
        ] {
            if !value.is_empty() {
                let _ = write!(text, " {name}={value}");
            }
        }
        let _ = write!(text, " body={}B total={}ms", self.body_bytes, self.total_ms);
        if let Some(upstream) = self.upstream_ms {
            let _ = write!(text, " upstream={upstream}ms");
        }
        if let Some(peer) = self.peer {
            let _ = write!(text, " peer={peer}");
        }
        let _ = write!(text, " id={}", self.request_id);
        if self.suppressed > 0 {
            let _ = write!(text, " suppressed={}", self.suppressed);
        }
        if !self.detail.is_empty() {
            // What a sender wrote cannot begin a new line.
            let printable = |c: char| {
                if c.is_control() {
                    char::REPLACEMENT_CHARACTER
                } else {
                    c
                }
            };
            text.push_str(": ");
            text.extend(self.detail.chars().map(printable));
        }
        text.push('\n');
        text
    }
}
