//! Every provider of the catalogue from socket to socket: recorded requests arrive as they were sent, and nothing made of them to
//! deceive arrives at all.
//!
//! Nothing is sampled: all vectors, over HTTP/1.1 and HTTP/2, all named traps, and all forgeries that are derived from the vectors.
//! Where keys are fetched, key servers on this machine have the documents, under the hosts' own names. Those of impostors, too: what
//! a trap names has to be refused although it could be had. Left out are two vectors whose URLs no route can be given.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::support::{
    client::{self, Client, Protocol},
    delivery::Delivery,
    gateway::{assert_not_verified, assert_problem},
    inside::{FOLDER, Inside},
    key_server::{self, Documents},
    recorded::{delivery, params, secrets},
    upstream::{Behaviour, Response, Upstream},
    vectors::{self, Forgery, Sent, Vector},
    wire::{Answer, Wire},
};

/// How many gateways share the work: each has one clock, which is set for one request at a time.
const GATEWAYS: usize = 4;

/// A file with a secret for key servers.
const FETCH_SECRET: &str = "secrets/fetch";

/// URLs that no route can be given: one has none of the path that every request has, one holds a password.
fn has_no_route(vector: &Vector) -> bool {
    let url = vector.public_url.as_ref();
    url.is_some_and(|url| url == "https://answer.url" || url.contains('@'))
}

/// A request, and the vector that it was made of.
struct Case<'v> {
    vector: &'v Vector,
    what: &'static str,
    sent: Sent,
}

/// Routes for requests, told apart by host: one for each scheme with its parameters, secrets and URL.
#[derive(Default)]
struct Routes {
    hosts: HashMap<String, String>,
    config: String,
    files: Vec<(String, Vec<u8>)>,
    /// What key servers have, by host.
    documents: BTreeMap<String, Documents>,
}

impl Routes {
    fn key(case: &Case<'_>) -> String {
        let Sent { secrets, url, .. } = &case.sent;
        let base = url.as_ref().map(|url| url.strip_suffix(&case.sent.target));
        format!(
            "{} {:?} {secrets:?} {base:?}",
            case.vector.scheme_name(),
            case.vector.params
        )
    }

    fn add(&mut self, case: &Case<'_>, upstream: &Upstream) {
        for (url, document) in &case.sent.fetched {
            self.publish(url, document);
        }
        let name = format!("r{}", self.hosts.len());
        let key = Self::key(case);
        if self.hosts.contains_key(&key) {
            return;
        }
        let (secrets, files) = secrets(&name, &case.sent.secrets);
        let public_url = case.sent.url.as_ref().map(|url| {
            let base = url.strip_suffix(&case.sent.target).unwrap();
            format!("public_url = \"{base}\"\n")
        });
        self.config.push_str(&format!(
            "[[route]]\nname = \"{name}\"\nhost = \"{name}.example\"\npath = \"/*\"\nmethods = [\"POST\", \"GET\"]\n\
             upstream = \"{}\"\n{}{}{}{}{}\n",
            upstream.url(),
            if files.is_empty() { fetch_secret(case.vector) } else { secrets },
            handshake(case.vector),
            public_url.unwrap_or_default(),
            params(case.vector),
            case.vector.scheme_lines(),
        ));
        self.files.extend(files);
        self.hosts.insert(key, format!("{name}.example"));
    }

    /// Has a key server answer with a document.
    fn publish(&mut self, url: &str, document: &str) {
        let (host, target) = key_server::parts(url);
        let documents = self
            .documents
            .entry(host_name(host).to_owned())
            .or_default();
        let response = Response::new(200).body(document);
        let known = documents.insert(target.to_owned(), response.clone());
        let is_same = known.is_none_or(|known| known.to_bytes() == response.to_bytes());
        assert!(
            is_same,
            "two documents at {url}: they need gateways of their own"
        );
    }
}

/// Without user and port: an impostor's server is there, too.
fn host_name(authority: &str) -> &str {
    let host = authority.rsplit('@').next().unwrap();
    host.split(':').next().unwrap()
}

/// The key server's own secret, if it wants one.
fn fetch_secret(vector: &Vector) -> String {
    match vector.compiled().unwrap().fetches_with_secret() {
        true => format!("fetch_secret = {{ file = \"{FOLDER}/{FETCH_SECRET}\" }}\n"),
        false => String::new(),
    }
}

/// Subscriptions are confirmed by `handshakes`; here they are signed requests like others.
fn handshake(vector: &Vector) -> &'static str {
    match &*vector.provider {
        "aws-sns" => "handshake = \"forward\"\n",
        _ => "",
    }
}

/// The senders of one gateway, each with a connection that is kept.
struct Senders {
    gateway: Inside,
    hosts: HashMap<String, String>,
    http1: Wire,
    http2: Client,
    /// By host.
    key_servers: BTreeMap<String, Upstream>,
}

impl Senders {
    fn new(mut routes: Routes) -> Self {
        let documents = routes.documents.into_iter();
        let key_servers: BTreeMap<_, _> = documents
            .map(|(host, documents)| {
                let server = key_server::start(&[&host], documents);
                (host, server)
            })
            .collect();
        let at = key_servers.iter().map(|(host, server)| (&**host, server));
        let (fetch, ca) = key_server::config(at, "");
        routes.files.push(ca);
        routes
            .files
            .push((FETCH_SECRET.to_owned(), b"let-me-in".to_vec()));
        let config = Inside::server(false, "") + &fetch + &routes.config;
        let gateway = Inside::start(&config, false, &routes.files);
        Self {
            http1: client::raw(gateway.door()),
            http2: Client::connect(gateway.door(), Protocol::Http2),
            gateway,
            hosts: routes.hosts,
            key_servers,
        }
    }

    fn send(&mut self, case: &Case<'_>, protocol: Protocol) -> (Delivery, Answer) {
        self.gateway.set_clock(case.sent.now);
        let delivery = delivery(&case.sent, &self.hosts[&Routes::key(case)]);
        let answer = match protocol {
            Protocol::Http2 => self.http2.send(&delivery),
            Protocol::Http1 => {
                self.http1.send(&delivery.raw()).unwrap();
                let answer = self.http1.answer(&delivery.method).unwrap();
                if answer.fields.has("connection") {
                    self.http1 = client::raw(self.gateway.door());
                }
                answer
            }
        };
        (delivery, answer)
    }
}

/// HTTP/1.1 takes blanks around a value for none of its own: such a value exists on HTTP/2 alone.
fn protocol_for(sent: &Sent) -> Protocol {
    let blank = |value: &Vec<u8>| value.trim_ascii() != value.as_slice();
    match sent.headers.iter().any(|(_, value)| blank(value)) {
        true => Protocol::Http2,
        false => Protocol::Http1,
    }
}

fn forgeries(vector: &Vector) -> Vec<Forgery> {
    let mut forgeries = vector.forgeries();
    forgeries.retain(|forgery| !vector.may_pass(forgery));
    forgeries
}

/// The hosts where keys of recorded requests are; others are impostors.
fn genuine_hosts() -> BTreeSet<String> {
    let vectors = vectors::positives();
    let urls = vectors.iter().flat_map(|vector| vector.fetched.keys());
    urls.map(|url| host_name(key_server::parts(url).0).to_owned())
        .collect()
}

/// Shares the cases out over gateways of their own.
fn on_gateways<'v>(
    cases: Vec<Case<'v>>,
    work: impl Fn(&mut Senders, &Upstream, Vec<Case<'v>>) + Sync,
) {
    let mut shares: Vec<Vec<Case<'v>>> = (0..GATEWAYS).map(|_| Vec::new()).collect();
    let size = cases.len().div_ceil(GATEWAYS);
    for (n, case) in cases.into_iter().enumerate() {
        shares[n / size].push(case);
    }
    thread::scope(|scope| {
        for share in shares.into_iter().filter(|share| !share.is_empty()) {
            let work = &work;
            scope.spawn(move || {
                let upstream = Upstream::accepting();
                let mut routes = Routes::default();
                for case in &share {
                    routes.add(case, &upstream);
                }
                work(&mut Senders::new(routes), &upstream, share);
            });
        }
    });
}

#[test]
fn every_recorded_request_arrives_byte_for_byte_with_one_mark() {
    let vectors = vectors::positives();
    let cases = recorded(&vectors);
    assert!(cases.len() >= 704, "{}", cases.len());
    forward_all(cases);
}

/// The requests that can be sent.
fn recorded(vectors: &[Vector]) -> Vec<Case<'_>> {
    let routed = vectors.iter().filter(|vector| !has_no_route(vector));
    let as_recorded = |vector| Case {
        vector,
        what: "as recorded",
        sent: Vector::sent(vector),
    };
    routed.map(as_recorded).collect()
}

fn forward_all(cases: Vec<Case<'_>>) {
    on_gateways(cases, |senders, upstream, cases| {
        for case in &cases {
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let name = format!("{} over {protocol:?}", case.vector.name());
                let (delivery, answer) = senders.send(case, protocol);
                assert_eq!(answer.status, 200, "{name}: {answer:?}");
                let seen = upstream.take_only();
                assert_eq!(seen.method, delivery.method, "{name}");
                assert_eq!(seen.target, delivery.target, "{name}");
                assert_eq!(seen.body.as_deref(), Some(&*delivery.body), "{name}");
                let spelled = |field: &(String, Vec<u8>)| match protocol {
                    Protocol::Http1 => field.clone(),
                    Protocol::Http2 => (field.0.to_ascii_lowercase(), field.1.clone()),
                };
                let sent: Vec<_> = delivery.fields.0.iter().map(spelled).collect();
                let arrived: Vec<_> = seen
                    .fields
                    .0
                    .iter()
                    .filter(|field| sent.contains(field))
                    .cloned()
                    .collect();
                assert_eq!(arrived, sent, "{name}");
                // `one` sees that there are not several.
                let mark = seen.fields.one("countersign-verified");
                let scheme = format!("{};route=", case.vector.scheme_name());
                assert!(mark.starts_with(&scheme), "{name}: {mark}");
            }
        }
    });
}

#[test]
fn every_named_trap_is_refused_and_no_upstream_hears_of_it() {
    let traps = vectors::traps();
    let cases: Vec<_> = traps
        .iter()
        .map(|vector| Case {
            vector,
            what: "trap",
            sent: vector.sent(),
        })
        .collect();
    assert!(cases.len() >= 243, "{}", cases.len());
    refuse_all(cases);
}

/// Those whose requests say which document has the key. All others have one document for all requests.
const NAME_THEIR_KEY: [&str; 6] = [
    "aws-sns",
    "circle",
    "mailchannels",
    "paypal",
    "plaid",
    "truelayer",
];

#[test]
fn without_a_key_no_request_verifies_and_who_named_one_that_is_not_there_is_told_no_more() {
    let vectors = vectors::positives();
    for status in [404, 500] {
        let mut cases = recorded(&vectors);
        cases.retain(|case| case.vector.secrets.is_empty());
        assert!(cases.len() >= 35, "{}", cases.len());
        on_gateways(cases, |senders, upstream, cases| {
            for server in senders.key_servers.values() {
                server.behave(move |_| Behaviour::Respond(Response::new(status)));
            }
            for case in &cases {
                let (_, answer) = senders.send(case, Protocol::Http1);
                let is_forged = status == 404 && NAME_THEIR_KEY.contains(&&*case.vector.provider);
                let want = if is_forged { 401 } else { 503 };
                let name = case.vector.name();
                assert_eq!(answer.status, want, "{name}, {status}: {answer:?}");
                match is_forged {
                    true => assert_not_verified(&answer),
                    false => assert_problem(&answer, 503, "try_later"),
                }
            }
            upstream.assert_untouched();
        });
    }
}

#[test]
fn every_forgery_is_refused_and_no_upstream_hears_of_it() {
    let vectors = vectors::positives();
    let cases = forged(&vectors);
    assert!(cases.len() > 16_500, "{}", cases.len());
    refuse_all(cases);
}

#[test]
fn a_sender_that_nobody_knew_takes_one_file_and_one_vector() {
    let vectors = vectors::operators("acme");
    forward_all(recorded(&vectors));
    let forged = forged(&vectors);
    // As docs/schemes.md says of one request.
    assert!(forged.len() > 20 * vectors.len(), "{}", forged.len());
    refuse_all(forged);
}

/// What is made of those requests.
fn forged(vectors: &[Vector]) -> Vec<Case<'_>> {
    let recorded = recorded(vectors).into_iter();
    let forged = recorded.flat_map(|Case { vector, .. }| {
        forgeries(vector).into_iter().map(move |forgery| Case {
            vector,
            what: forgery.what,
            sent: forgery.sent,
        })
    });
    forged.collect()
}

fn refuse_all(cases: Vec<Case<'_>>) {
    let (all, refused) = (cases.len(), AtomicUsize::new(0));
    on_gateways(cases, |senders, upstream, cases| {
        for case in &cases {
            let (_, answer) = senders.send(case, protocol_for(&case.sent));
            let name = || format!("{}: {}", case.vector.name(), case.what);
            if case.what == "another key" && answer.status == 503 {
                // What it was changed to is no key at all, so the route is closed.
                assert_problem(&answer, 503, "unavailable");
            } else {
                assert_eq!(answer.status, 401, "{}: {answer:?}", name());
                match &*case.vector.provider {
                    // It tries whether bad signatures are refused, and wants nothing but the status.
                    "xero" => assert!(answer.body.is_empty(), "{}: {answer:?}", name()),
                    _ => assert_not_verified(&answer),
                }
            }
            refused.fetch_add(1, Ordering::Relaxed);
        }
        upstream.assert_untouched();
        let genuine = genuine_hosts();
        for (host, server) in &senders.key_servers {
            if !genuine.contains(host) {
                server.assert_untouched();
            }
        }
    });
    assert_eq!(refused.into_inner(), all);
}
