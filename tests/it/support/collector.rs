//! A collector of traces: takes OTLP over HTTP and reads it with the types that the OpenTelemetry project publishes.

use std::{collections::BTreeMap, ops::Deref};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;

use super::{
    recorder::Seen,
    upstream::{Behaviour, Response, Upstream},
};

/// A running collector. What it does with a batch, and what it saw on the wire, is said as for an upstream.
pub(crate) struct Collector(Upstream);

impl Deref for Collector {
    type Target = Upstream;

    fn deref(&self) -> &Upstream {
        &self.0
    }
}

/// A batch as it came.
pub(crate) struct Batch {
    pub(crate) seen: Seen,
    pub(crate) resource: Attributes,
    pub(crate) spans: Vec<Span>,
}

/// Attributes by name; values as text.
pub(crate) type Attributes = BTreeMap<String, String>;

impl Collector {
    /// Takes everything.
    pub(crate) fn start() -> Self {
        Self(Upstream::start(|_| Behaviour::Respond(taken())))
    }

    /// Does with batches what `upstream` does with requests.
    pub(crate) fn of(upstream: Upstream) -> Self {
        Self(upstream)
    }

    /// All batches so far.
    pub(crate) fn batches(&self) -> Vec<Batch> {
        self.seen().into_iter().map(Batch::read).collect()
    }

    /// Waits for so many spans, and returns those that came.
    pub(crate) fn spans(&self, count: usize) -> Vec<Span> {
        let mut requests = 1;
        loop {
            self.wait_for(requests);
            let batches = self.batches();
            requests = batches.len() + 1;
            let spans: Vec<_> = batches.into_iter().flat_map(|batch| batch.spans).collect();
            if spans.len() >= count {
                assert_eq!(self.faults(), Vec::<String>::new());
                return spans;
            }
        }
    }
}

/// The answer to a batch that was taken whole: an empty message.
pub(crate) fn taken() -> Response {
    Response::new(200).header("content-type", "application/x-protobuf")
}

impl Batch {
    fn read(seen: Seen) -> Self {
        assert_eq!(seen.method, "POST");
        assert_eq!(seen.fields.one("content-type"), "application/x-protobuf");
        let body = seen.body.clone().expect("a body that is kept");
        let message = ExportTraceServiceRequest::decode(&*body).unwrap();
        let [of_resource] = <[_; 1]>::try_from(message.resource_spans).unwrap();
        let [of_scope] = <[_; 1]>::try_from(of_resource.scope_spans).unwrap();
        assert_eq!(of_scope.scope.unwrap().name, "countersign");
        Self {
            seen,
            resource: attributes(&of_resource.resource.unwrap().attributes),
            spans: of_scope.spans,
        }
    }
}

/// Reads attributes; each may be there once.
pub(crate) fn attributes(pairs: &[KeyValue]) -> Attributes {
    let mut read = BTreeMap::new();
    for KeyValue { key, value, .. } in pairs {
        let value = match value.clone().unwrap().value.unwrap() {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            Value::BoolValue(holds) => holds.to_string(),
            other @ (Value::DoubleValue(_)
            | Value::ArrayValue(_)
            | Value::KvlistValue(_)
            | Value::BytesValue(_)
            | Value::StringValueStrindex(_)) => panic!("{key}: {other:?}"),
        };
        assert_eq!(read.insert(key.clone(), value), None, "{key} twice");
    }
    read
}

/// The spans of one kind.
pub(crate) fn of_kind(spans: &[Span], kind: SpanKind) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind() == kind).collect()
}
