//! What must hold for every input: the bodies of the fuzz targets, fed with inputs that are likely to matter.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::fmt;

use proptest::{collection::vec, prelude::*, sample::select};

/// Bytes that a failing test shows as text.
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

fn bytes() -> impl Strategy<Value = Input> {
    vec(any::<u8>(), 0..512).prop_map(Input)
}

/// Texts from a list, one after the other, now and then with something strange between.
fn pieces(of: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<u8>> {
    let strange = vec(any::<u8>(), 0..4);
    let piece = prop_oneof![
        12 => select(of).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => strange,
    ];
    vec(piece, 0..most).prop_map(|pieces| pieces.concat())
}

fn joined(parts: [Vec<u8>; 2]) -> Input {
    Input(parts.join(&0))
}

const SIGNATURES: &[&str] = &[
    "t=1795435200",
    "t=",
    "v1=",
    ",",
    " ",
    "=",
    "/",
    "k/SHA1/",
    "k/SHA256/",
    "sha256=",
    "Bearer ",
    "1795435200",
    "0000000000",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "eyJhbGciOiJIUzI1NiJ9",
    "eyJhbGciOiJub25lIn0",
    ".",
    "..",
    "e30",
    "sig=:",
    ":",
    "sig=(\"content-digest\")",
    ";created=1795435200",
    ";keyid=\"a\"",
    "\0",
    "{\"a\":[",
    "{\"v\":1,\"s\":\"00\"}",
    "]}",
    "é",
];

const TEMPLATES: &[&str] = &[
    "{body}",
    "{timestamp}",
    "{id}",
    ".",
    ":",
    "{secret}",
    "{url}",
    "{method}",
    "{target}",
    "{body|sha256|hex}",
    "{body|jcs}",
    "{body|json-string}",
    "{body|gunzip}",
    "{form|sorted}",
    "{query|sorted}",
    "{json:/a}",
    "{json:/a?|lower}",
    "{form:a}",
    "{header:x-i}",
    "{query:a}",
    "{?body}",
    "{/?}",
    "{{",
    "}}",
    "{",
    "}",
    "|",
    "{canonical:sns}",
    "{canonical:plivo-v3}",
    "{canonical:truelayer}",
    "{canonical:contentful}",
    "{canonical:unisender}",
    "{url|default-port}",
    "{url|unescaped}",
    "{body|crc32}",
    "{protected}",
];

const BODIES: &[&str] = &[
    "{\"a\":",
    "\"x\"",
    "1e21",
    "[",
    "]",
    "}",
    ",",
    "a=",
    "&",
    "%41",
    "+",
    "%",
    "\\u0041",
    "{\"auth\":\"00\"}",
    "{\"Type\":\"Notification\"}",
    "\x1f",
    "é",
    "null",
    "true",
    " ",
    "\r\n",
];

/// A scheme that mostly compiles.
fn scheme() -> impl Strategy<Value = Vec<u8>> {
    let word = |of: &'static [&'static str]| select(of);
    (
        word(&["hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512", "token"]),
        word(&["x-signature", "x-time", "authorization", "x_signature"]),
        word(&["", "sha256=", "Bearer ", " v1", "v1 ", "="]),
        word(&["", "hex", "base64", "base64url", "base64url-nopad", "hey"]),
        word(&["", "{body}", "{timestamp}.{body}", "{timestamp}{body}", "v0:{timestamp}:{body}:", "{body}{timestamp}", "{timestamp}", "{body}{body}"]),
        word(&["", "s", "ms", "rfc3339"]),
        word(&["0s", "1ms", "5m", "9999999999d"]),
    )
        .prop_map(|(algorithm, header, prefix, encoding, content, unit, tolerance)| {
            let optional = |key: &str, value: &str| match value {
                "" => String::new(),
                value => format!(", {key} = {value:?}"),
            };
            let mut text = format!(
                "algorithm = {algorithm:?}\nsignature = {{ header = {header:?}{}{} }}\n",
                optional("prefix", prefix),
                optional("encoding", encoding)
            );
            if !content.is_empty() {
                text.push_str(&format!("content = {content:?}\n"));
            }
            if !unit.is_empty() {
                text.push_str(&format!("timestamp = {{ header = \"x-time\", unit = {unit:?}, tolerance = {tolerance:?} }}\n"));
            }
            text.into_bytes()
        })
}

const FIELDS: &[&str] = &[
    "\n",
    "\n",
    "\n",
    ":",
    ": ",
    ", ",
    "x-kept",
    "x-signature",
    "x-cv-signature",
    "x-time",
    "connection",
    "Connection: ",
    "\nConnection: host\n",
    "\nConnection: x-kept, countersign-verified, via\n",
    "\nConnection: close\n",
    "content-length",
    "content_length",
    "transfer-encoding",
    "\nTransfer-Encoding: chunked\n",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "expect",
    "Countersign-Verified",
    "countersign_verified",
    "countersign.verified",
    "countersign-",
    "x-verified",
    "x_verified",
    "X.VERIFIED",
    "\nhost: hooks.example.org\n",
    "host",
    "HOST",
    "via",
    "forwarded",
    "x-forwarded-for",
    "x_forwarded_for",
    "x-forwarded-proto",
    "client-cert",
    "client_cert",
    "cookie: a=b\n",
    "authorization",
    "sha256=",
    "1795435200",
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "=",
    " ",
    "\t",
    "yes",
];

const TOML: &[&str] = &[
    "\n",
    "\n",
    " = ",
    " = ",
    "\"",
    "[server]\n",
    "[limits]\n",
    "[log]\n",
    "[[route]]\n",
    "[route.scheme]\n",
    "[server.tls]\n",
    "listen",
    "admin",
    "threads",
    "drain",
    "mark",
    "body",
    "body_memory",
    "spool",
    "connections",
    "format",
    "level",
    "name",
    "path",
    "scheme",
    "secrets",
    "upstream",
    "tolerance",
    "timeout",
    "host",
    "methods",
    "reject_status",
    "algorithm",
    "signature",
    "nmae",
    "\"127.0.0.1:0\"",
    "\"/a\"",
    "\"/a/*\"",
    "\"none\"",
    "\"carevalidate\"",
    "\"5m\"",
    "\"1KiB\"",
    "\"18446744073709551615B\"",
    "\"http://127.0.0.1:1\"",
    "[\"a\", 1]",
    "[{ id = \"a\", file = \"b\" }]",
    "{ header = \"x\" }",
    "1",
    "-1",
    "1.5",
    "true",
    "1979-05-27",
    "9223372036854775807",
    "[",
    "]",
    "{",
    "}",
    "#",
    ".",
    "\u{e9}",
    "\u{1f600}",
    "\\u0000",
    "'''",
    "[[route]]\nname = \"a\"\npath = \"/a\"\nscheme = \"none\"\nupstream = \"http://127.0.0.1:1\"\n",
];

const VARIABLES: &[&str] = &[
    "\0",
    "\0",
    "=",
    "=",
    "SERVER__LISTEN",
    "SERVER__THREADS",
    "LIMITS__BODY",
    "LOG__LEVEL",
    "ROUTE__0__PATH",
    "SERVER",
    "SERVER__TLS__CERTIFICATE",
    "__",
    "127.0.0.1:0",
    "[\"127.0.0.1:0\"]",
    "1",
    "x",
    "[",
    "debug",
    "CONFIG",
    "\u{e9}",
];

const HEAD: &[&str] = &[
    "POST / HTTP/1.1",
    "\r\n",
    "\n",
    "\r\n\r\n",
    "\n\n",
    "x-cv-signature: ",
    "Host: a",
    ": ",
    " ",
    "\t",
    "\0",
    // The tags of an empty body, and of `b`, in two spellings.
    "x-cv-signature: TAG-OF-NOTHING\n\n",
    "x-cv-signature: TAG-OF-B\n\nb",
    "X-CV-Signature:TAG-OF-B\r\n\r\nb",
];

/// Tags that belong into [`HEAD`], made by OpenSSL with the secret of `bodies`.
const TAGS: [(&str, &str); 2] = [
    (
        "TAG-OF-NOTHING",
        "74e9c88b7ab4e51ee3ed6a10b1b46fccb8d72b9e18bb8015d1e369b3bb98c9f0",
    ),
    (
        "TAG-OF-B",
        "593d791877894ca0e5881e31aabc63be73efc1044df1c4a126dc3dfbfaf1216c",
    ),
];

fn saved_request() -> impl Strategy<Value = Vec<u8>> {
    pieces(HEAD, 6).prop_map(|request| {
        // Arbitrary bytes stand between the pieces, so this goes by bytes too.
        TAGS.iter().fold(request, |request, (place, tag)| {
            let mut parts = Vec::new();
            let mut rest = &request[..];
            while let Some(at) = rest
                .windows(place.len())
                .position(|window| window == place.as_bytes())
            {
                parts.extend_from_slice(&rest[..at]);
                parts.extend_from_slice(tag.as_bytes());
                rest = &rest[at + place.len()..];
            }
            parts.extend_from_slice(rest);
            parts
        })
    })
}

const PATHS: &[&str] = &["/a", "/a/*", "/a/b/*", "/a/b", "/*", "/", "/b/*", "/a/b/c"];

const SEGMENTS: &[&str] = &[
    "",
    "a",
    "b",
    "c",
    ".",
    "..",
    "..",
    "..",
    "%2e%2E",
    ".%2e",
    "%252e%252e",
    "%2",
    "%",
];

const SEPARATORS: &[&str] = &[
    "/", "/", "/", "", "\\", "%2f", "%2F", "%5c", "%5C", "%255c", ";", ";x/", "%00", "?", "~",
];

/// A path below one of those of routes, mostly.
fn target() -> impl Strategy<Value = Vec<u8>> {
    let start = select(&["/a/", "/a/", "/a/", "/a/b/", "/b/", "/"][..]);
    let steps = vec((select(SEGMENTS), select(SEPARATORS)), 0..5);
    (start, steps).prop_map(|(start, steps)| {
        let steps = steps.into_iter().flat_map(|(segment, end)| [segment, end]);
        let steps: String = std::iter::once(start).chain(steps).collect();
        steps.into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn claims_prove_nothing_and_signatures_prove_their_body(
        any in bytes(),
        likely in (scheme(), pieces(FIELDS, 12)).prop_map(|(scheme, fields)| joined([scheme, fields])),
    ) {
        bodies::claim(&any.0);
        bodies::claim(&likely.0);
    }

    #[test]
    fn no_signature_of_a_stranger_verifies(any in bytes(), which in any::<u8>(), likely in pieces(SIGNATURES, 16)) {
        bodies::signature(&any.0);
        bodies::signature(&[&[which][..], &likely].concat());
    }

    #[test]
    fn templates_cover_the_body_that_they_hold(any in bytes(), likely in (pieces(TEMPLATES, 8), pieces(BODIES, 8)).prop_map(|(template, body)| joined([template, body]))) {
        bodies::template(&any.0);
        bodies::template(&likely.0);
    }

    #[test]
    fn configurations_load_or_say_why_not(
        any in bytes(),
        likely in (pieces(TOML, 24), pieces(VARIABLES, 8)).prop_map(|(text, variables)| joined([text, variables])),
    ) {
        bodies::config(&any.0);
        bodies::config(&likely.0);
    }

    #[test]
    fn saved_requests_verify_if_their_signature_is_right(any in bytes(), likely in saved_request().prop_map(Input)) {
        bodies::verify_request(&any.0);
        bodies::verify_request(&likely.0);
    }

    #[test]
    fn paths_find_the_route_that_fits_best_and_stay_below_it(
        patterns in vec(select(PATHS), 1..5),
        target in target(),
        any in bytes(),
    ) {
        let mut patterns = patterns;
        patterns.push("/a/*");
        patterns.sort_unstable();
        patterns.dedup();
        bodies::route_path(&joined([patterns.join("\n").into_bytes(), target]).0);
        bodies::route_path(&any.0);
    }

    #[test]
    fn no_header_of_a_sender_reaches_the_upstream_as_ours(
        choices in any::<u8>(),
        any in bytes(),
        likely in pieces(FIELDS, 24).prop_map(Input),
    ) {
        bodies::forwarded_headers(&any.0);
        bodies::forwarded_headers(&[&[choices][..], &likely.0].concat());
    }
}
