//! What the fuzz targets do with their bytes, and what must hold afterwards.
//!
//! The targets feed arbitrary bytes; `tests/properties.rs` includes this file too and feeds bytes that are likely to matter.

use std::{collections::BTreeMap, sync::Arc};

use countersign::{
    cli::saved,
    clock::UnixTime,
    config::{self, Config, Flags, PathPattern, Source},
    forward::{Identity, Instance, outbound_headers},
    receive::{Head, Peer},
    route::{Route, RouteTable, fold},
    scheme::{
        Request as Whole, RequestHead, Scheme, SchemeSpec, Verdict, catalogue,
        spec::{Algorithms, OneOrMore},
    },
    secret::Secret,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};

const NOW: UnixTime = UnixTime::from_secs(1_795_435_200);

fn secret() -> Secret {
    Secret::new(b"a secret that no input holds".to_vec()).expect("it is not empty")
}

/// The part before the first NUL, and the rest.
fn split(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[]),
    }
}

/// Reads one header field a line, as far as lines are fields.
fn fields(data: &[u8]) -> Vec<(HeaderName, HeaderValue)> {
    data.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
            Some((name, value))
        })
        .collect()
}

fn judge(scheme: &Scheme, headers: &HeaderMap, body: &[u8]) -> Option<Verdict> {
    let head = RequestHead {
        method: &Method::POST,
        target: "/hooks?a=1",
        headers,
        url: Some("https://hooks.example.org/hooks?a=1"),
    };
    let claim = scheme.claim(&head, NOW).ok()?;
    if let (Some(signed_at), Some(tolerance)) = (claim.timestamp(), scheme.tolerance()) {
        assert!(signed_at.distance(NOW) <= tolerance);
    }
    let key = scheme.key(&secret()).ok()?;
    let mut check = scheme.start(claim, [&key]);
    let (first, rest) = body.split_at(body.len() / 2);
    check.update(first);
    check.update(rest);
    let (verdict, signed_at) = check.finish_whole(&Whole { head, body }).ok()?;
    if let (Some(signed_at), Some(tolerance)) = (signed_at, scheme.tolerance()) {
        assert!(signed_at > NOW || signed_at.distance(NOW) <= tolerance);
    }
    Some(verdict)
}

/// A scheme, NUL, header fields. Foreign headers do not verify; what the scheme itself signs does, and only for its own body.
pub(crate) fn claim(data: &[u8]) {
    let (spec, headers) = split(data);
    let scheme = std::str::from_utf8(spec)
        .ok()
        .and_then(|text| toml::from_str::<SchemeSpec>(text).ok())
        .map(|spec| Scheme::compile("custom", &spec, &BTreeMap::new()));
    let scheme = match scheme {
        Some(Ok(scheme)) => scheme,
        Some(Err(errors)) => {
            assert!(!errors.is_empty());
            return;
        }
        None => match catalogue::compile("carevalidate", &BTreeMap::new()) {
            Ok(scheme) => scheme,
            Err(_) => unreachable!("the catalogue has it"),
        },
    };
    let foreign = fields(headers).into_iter().collect();
    assert!(!matches!(
        judge(&scheme, &foreign, headers),
        Some(Verdict::Match(_))
    ));

    // A value loses its outer white space on the wire.
    let Ok(signed) = scheme.sign(&secret(), headers, NOW) else {
        return;
    };
    let signed: HeaderMap = signed
        .into_iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_bytes(value.as_bytes().trim_ascii());
            (name, value.expect("a part of a value is one"))
        })
        .collect();
    // A body that the scheme cannot read, or a part that only a real request has, ends it before a verdict.
    let own = judge(&scheme, &signed, headers);
    assert!(matches!(
        own,
        None | Some(Verdict::Match(0) | Verdict::Mismatch)
    ));
    let longer = [headers, b"x"].concat();
    let for_another_body = judge(&scheme, &signed, &longer);
    if scheme.covers_body() {
        assert!(!matches!(for_another_body, Some(Verdict::Match(_))));
    }
}

/// Signature grammars: every kind of list and place there is.
const GRAMMARS: [&str; 9] = [
    "algorithm = \"hmac-sha256\"\ncontent = \"{timestamp}.{body}\"\ntimestamp = { item = \"t\" }\nsignature = { header = \"x-s\", encoding = \"hex\", list = { separator = \",\", assign = \"=\", tag = \"v1\", several = true } }",
    "algorithm = \"hmac-sha256\"\ncontent = \"{timestamp}.{body}\"\ntimestamp = { item = \"0\" }\nsignature = { header = \"x-s\", encoding = \"base64\", list = { separator = \",\", several = true } }",
    "algorithm = \"hmac-sha256\"\ncontent = \"{timestamp}.{body}\"\ntimestamp = { item = \"t\" }\nsignature = { header = \"x-s\", encoding = \"hex\", list = { separator = \",\", assign = \"=\", tag = \"v1\", groups = \" \" } }",
    "algorithm = { SHA1 = \"hmac-sha1\", SHA256 = \"hmac-sha256\" }\nsignature = { header = \"x-s\", encoding = \"hex\", list = { separator = \",\", assign = \"/\", tag = \"k/{algorithm}\" } }",
    "algorithm = { \"\" = \"hmac-sha1\", sha256 = \"hmac-sha256\" }\nsignature = { header = \"x-s-{n}\", prefix = \"{algorithm}=\", encoding = \"base64url\" }",
    "algorithm = [\"jwt-hs256\", \"jwt-es256\"]\nsignature = { header = \"x-s\", prefix = \"Bearer \" }\ntimestamp = { claim = \"iat\" }\nrequire = { \"claim:b\" = \"{body|sha256|hex}\" }",
    "algorithm = \"jws-rs256\"\ncontent = \"{protected}.{body|base64url-nopad}\"\nsignature = { header = \"x-s\" }",
    "algorithm = \"ed25519\"\ncontent = \"{canonical:rfc9421}\"\nsignature = { header = \"x-s\", encoding = \"structured\" }\ntimestamp = { item = \"created\" }",
    "algorithm = \"hmac-sha256\"\ncontent = \"{json:/a/*/v}\"\nsignature = { json = \"/a/*/s\", encoding = \"hex\" }",
];

/// A number, then the value of the signature's header, NUL, the body. Nothing that a stranger writes verifies.
pub(crate) fn signature(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else {
        return;
    };
    let text = GRAMMARS[usize::from(*which) % GRAMMARS.len()];
    let spec: SchemeSpec = toml::from_str(text).expect("it is valid");
    let scheme = Scheme::compile("custom", &spec, &BTreeMap::new()).expect("it compiles");
    let (value, body) = split(rest);
    let Ok(value) = HeaderValue::from_bytes(value) else {
        return;
    };
    let headers = ["x-s", "x-s-1", "x-s-2", "signature-input"]
        .map(|name| (HeaderName::from_static(name), value.clone()))
        .into_iter()
        .collect();
    assert!(!matches!(
        judge(&scheme, &headers, body),
        Some(Verdict::Match(_))
    ));
}

/// A template, NUL, a body: what is signed by it verifies, and for a longer body it does not.
pub(crate) fn template(data: &[u8]) {
    let (template, body) = split(data);
    let Ok(template) = std::str::from_utf8(template) else {
        return;
    };
    for algorithm in ["hmac-sha256", "sha256"] {
        let text = "signature = { header = \"x-s\", encoding = \"hex\" }\ntimestamp = { header = \"x-t\" }\nid = { header = \"x-i\" }";
        let mut spec: SchemeSpec = toml::from_str(text).expect("it is valid");
        spec.algorithm = Algorithms::One(algorithm.to_owned());
        spec.content = OneOrMore(vec![template.to_owned()]);
        let Ok(scheme) = Scheme::compile("custom", &spec, &BTreeMap::new()) else {
            continue;
        };
        let Ok(signed) = scheme.sign(&secret(), body, NOW) else {
            continue;
        };
        let signed: HeaderMap = signed.into_iter().collect();
        let own = judge(&scheme, &signed, body);
        assert!(matches!(
            own,
            None | Some(Verdict::Match(0) | Verdict::Mismatch)
        ));
        let longer = [body, b"x"].concat();
        if scheme.covers_body() && own == Some(Verdict::Match(0)) {
            assert!(!matches!(
                judge(&scheme, &signed, &longer),
                Some(Verdict::Match(_))
            ));
        }
    }
}

/// A configuration, NUL, environment variables `NAME=VALUE`, each ended by NUL. It is good, or it has errors that can be shown.
pub(crate) fn config(data: &[u8]) {
    let (text, environment) = split(data);
    let environment: Vec<(String, String)> = String::from_utf8_lossy(environment)
        .split('\0')
        .filter_map(|variable| variable.split_once('='))
        .map(|(name, value)| (format!("COUNTERSIGN_{name}"), value.to_owned()))
        .collect();
    let source = Source::Stdin(String::from_utf8_lossy(text).into_owned());
    match config::load(&source, &environment, &Flags::default()) {
        Ok(loaded) => {
            assert!(!loaded.config.routes.is_empty());
            assert!(!loaded.config.server.listen.is_empty());
            for warning in loaded.warnings {
                assert!(warning.to_string().starts_with("warning: "));
            }
        }
        Err(errors) => {
            assert!(
                errors
                    .problems()
                    .iter()
                    .any(|problem| problem.severity == config::Severity::Error)
            );
            let shown = errors.to_string();
            for problem in errors.problems() {
                assert!(shown.contains(&problem.to_string()));
            }
        }
    }
}

/// A saved request. Its body is its end, and it verifies exactly if its one signature is the one for that body.
pub(crate) fn verify_request(data: &[u8]) {
    let Ok(request) = saved::parse(data) else {
        return;
    };
    assert!(data.ends_with(request.body));
    let head = &data[..data.len() - request.body.len()];
    assert!(head.ends_with(b"\n"));
    let last_line = head[..head.len() - 1].rsplit(|byte| *byte == b'\n').next();
    assert!(matches!(last_line, None | Some(b"" | b"\r")));
    let Ok(scheme) = catalogue::compile("carevalidate", &BTreeMap::new()) else {
        unreachable!("the catalogue has it")
    };
    let verdict = judge(&scheme, &request.headers, request.body);
    let signed = scheme
        .sign(&secret(), request.body, NOW)
        .expect("an HMAC scheme can sign");
    let (name, tag) = &signed[0];
    let mut presented = request.headers.get_all(name).iter();
    let right = presented
        .next()
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(tag.as_bytes()))
        && presented.next().is_none();
    assert_eq!(verdict == Some(Verdict::Match(0)), right);
}

/// A configuration of routes with these paths, if they are paths.
fn routes(paths: &[&str]) -> Option<Config> {
    let text: String = paths
        .iter()
        .enumerate()
        .map(|(i, path)| {
            format!(
                "[[route]]\nname = \"r{i}\"\npath = {path:?}\nscheme = \"none\"\nupstream = \"http://127.0.0.1:1\"\n"
            )
        })
        .collect();
    let loaded = config::load(&Source::Stdin(text), &[], &Flags::default()).ok()?;
    Some(loaded.config)
}

fn from_hex(pair: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()
}

/// As most receivers decode a path.
fn percent_decoded(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        match tail.get(..2).and_then(from_hex).filter(|_| *first == b'%') {
            Some(byte) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            None => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    decoded
}

/// As a receiver sees it that takes `\` for `/`, cuts `;…` off, ends at NUL, and goes up at `..`.
fn walked(path: &[u8]) -> Vec<Vec<u8>> {
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut segments = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        match segment.split(|byte| *byte == b';').next() {
            None | Some(b"" | b".") => {}
            Some(b"..") => {
                segments.pop();
            }
            Some(segment) => segments.push(segment.to_vec()),
        }
    }
    segments
}

/// Paths of routes, one a line, NUL, a path that is asked for. What is found fits, fits best, and cannot be walked out of.
pub(crate) fn route_path(data: &[u8]) {
    let (patterns, target) = split(data);
    let patterns = String::from_utf8_lossy(patterns);
    let patterns: Vec<_> = patterns.lines().take(8).collect();
    let Some(config) = routes(&patterns) else {
        return;
    };
    let Some(target) = Uri::try_from(target)
        .ok()
        .filter(|target| target.path().starts_with('/'))
    else {
        return;
    };
    let table = RouteTable::new(
        config
            .routes
            .iter()
            .enumerate()
            .map(|(i, route)| (None, route.path.clone(), Route::new(i, route, Vec::new()))),
    );
    let path = target.path();
    let exact = PathPattern::Exact(path.to_owned());
    let exact = config.routes.iter().position(|route| route.path == exact);
    let found = table.find("any", &target).map(|route| route.index);
    if exact.is_some() {
        assert_eq!(found, exact);
        return;
    }
    let Some(found) = found else {
        return;
    };
    let PathPattern::Prefix(prefix) = &config.routes[found].path else {
        panic!("an exact path was found for another");
    };
    assert!(path.starts_with(prefix));
    for other in &config.routes {
        if let PathPattern::Prefix(other) = &other.path {
            assert!(!path.starts_with(other) || other.len() <= prefix.len());
        }
    }
    let inside = walked(prefix.as_bytes());
    let once = percent_decoded(path.as_bytes());
    for seen in [path.as_bytes(), &once, &percent_decoded(&once)] {
        assert!(walked(seen).starts_with(&inside));
    }
}

/// One byte of choices, then header fields. Whatever a sender says, the upstream gets one host, nothing of the hop, and no mark.
pub(crate) fn forwarded_headers(data: &[u8]) {
    let [choices, data @ ..] = data else {
        return;
    };
    let choice = |bit: u8| choices & (1 << bit) != 0;
    let sent = fields(data);
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = http::Method::POST;
    if choice(0) {
        parts.version = Version::HTTP_2;
        parts.uri = Uri::from_static("https://hooks.example.org/a?b");
    } else {
        parts.uri = Uri::from_static("/a?b");
    }
    if choice(1) {
        parts
            .headers
            .append(header::HOST, HeaderValue::from_static("hooks.example.org"));
    }
    parts.headers.extend(sent.iter().cloned());
    let peer = Peer::new(
        choice(3).then(|| [192, 0, 2, 7].into()),
        choice(4),
        ["192.0.2.7/32"]
            .iter()
            .filter(|_| choice(2))
            .filter_map(|network| network.parse().ok())
            .collect(),
        choice(5).then(|| HeaderValue::from_static(":YQ==:")),
    );
    let trusted = peer.trusted;
    let Ok(head) = Head::new(parts, Arc::new(peer), 32 * 1024) else {
        return;
    };
    let mark = if choice(6) {
        HeaderName::from_static("x-verified")
    } else {
        HeaderName::from_static("countersign-verified")
    };
    let identity = Identity::new(&mark, &Instance::default());
    let Some(config) = routes(&["/a"]) else {
        unreachable!("it is a configuration")
    };
    let route = Route::new(0, &config.routes[0], Vec::new());
    let headers = outbound_headers(head.headers.clone(), &head, &route, &identity);

    assert_eq!(headers.get_all(header::HOST).iter().count(), 1);
    assert_eq!(headers[header::HOST], head.host);
    for name in headers.keys() {
        let folded = fold(name);
        assert!(!folded.starts_with("countersign_"), "{name}");
        assert_ne!(folded, fold(&mark), "{name}");
        let of_the_hop = [
            "connection",
            "keep_alive",
            "proxy_connection",
            "proxy_authenticate",
            "proxy_authorization",
            "te",
            "trailer",
            "transfer_encoding",
            "upgrade",
            "expect",
        ];
        assert!(
            !of_the_hop.contains(&name.as_str().replace('-', "_").as_str()),
            "{name}"
        );
        // The length is for `send` to set, which knows the body.
        if folded == "host" || folded == "content_length" || folded == "transfer_encoding" {
            assert!(*name == header::HOST || *name == header::CONTENT_LENGTH);
        }
    }
    if !choice(5) {
        assert!(headers.keys().all(|name| fold(name) != "client_cert"));
    }
    if !trusted {
        let proto: Vec<_> = headers.get_all("x-forwarded-proto").iter().collect();
        assert_eq!(proto, [if choice(4) { "https" } else { "http" }]);
        let forwarded_for: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        assert!(forwarded_for == if choice(3) { vec!["192.0.2.7"] } else { vec![] });
        assert_eq!(headers.get_all(header::VIA).iter().count(), 1);
    }
    // Everything else stays, value for value.
    let named: Vec<_> = head
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .collect();
    let kept = HeaderName::from_static("x-kept");
    if !named.contains(&kept.as_str().into()) {
        let before: Vec<_> = head.headers.get_all(&kept).iter().collect();
        let after: Vec<_> = headers.get_all(&kept).iter().collect();
        assert_eq!(before, after);
    }
}
