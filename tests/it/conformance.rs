//! HTTP/2 by the letter (RFC 9113): what breaks a rule ends with the right error, what has to be ignored is ignored, and the
//! upstream sees nothing of either.
//!
//! Every request here is signed rightly for the way in which a lax reader would read it.

use std::io::ErrorKind;

use crate::support::{
    client::{self, Door},
    frames::{self, Frame, Frames, block, post},
    gateway::{Builder, Gateway},
    sign,
    upstream::Upstream,
};

const SECRET: &[u8] = b"a secret of these tests";

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

const PUSH_PROMISE: u8 = 5;
const UNKNOWN: u8 = 0xbb;
const PADDED: u8 = 8;
const PRIORITY_FLAG: u8 = 0x20;
const FRAME_BYTES_MAX: usize = 16_384;

/// How the gateway takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// GOAWAY, and the end of the connection.
    Connection(u32),
    /// RST_STREAM; the connection goes on.
    Stream(u32),
    /// A refusal; the connection goes on.
    Refused(u16),
    /// Nothing happens, and the connection goes on.
    Ignored,
}

use End::{Connection, Ignored, Refused, Stream};

/// Where a rule speaks of a stream error, a connection error will do (RFC 9113, section 5.4).
const fn stream_error(code: u32) -> [End; 3] {
    [Stream(code), Connection(code), Connection(PROTOCOL_ERROR)]
}

/// h2 says PROTOCOL_ERROR where the rule has a code of its own: as final, and as safe.
const fn connection_error(code: u32) -> [End; 2] {
    [Connection(code), Connection(PROTOCOL_ERROR)]
}

/// A malformed request may be answered before its stream ends (section 8.1.1).
const MALFORMED: [End; 3] = [
    Stream(PROTOCOL_ERROR),
    Connection(PROTOCOL_ERROR),
    Refused(400),
];

fn builder(upstream: &Upstream) -> Builder {
    Gateway::builder().route("hooks", "/hooks", SECRET, &upstream.url(), "")
}

fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    Frame::new(kind, flags, stream, payload.as_ref()).bytes()
}

/// A block of header fields: those of a genuine request with that body, and more.
fn genuine(body: &[u8], more: &[(&str, &str)]) -> Vec<u8> {
    let tag = sign::carevalidate(SECRET, body);
    let mut fields = post("/hooks").to_vec();
    fields.push(("x-cv-signature", &tag));
    fields.extend_from_slice(more);
    block(&fields)
}

/// A genuine head of these fields alone, none of those that every request has.
fn bare(fields: &[(&str, &str)]) -> Vec<u8> {
    let tag = sign::carevalidate(SECRET, b"");
    let mut fields = fields.to_vec();
    fields.push(("x-cv-signature", &tag));
    block(&fields)
}

const WHOLE: u8 = frames::END_HEADERS | frames::END_STREAM;

fn head(stream: u32, flags: u8, block: impl AsRef<[u8]>) -> Vec<u8> {
    frame(frames::HEADERS, flags, stream, block)
}

/// What a sender may do that must not end in a delivery: after preface and settings it sends these bytes.
fn check(door: &Door, case: &str, bytes: &[u8], ends: &[End]) {
    let mut http2 = Frames::open(door, &[]);
    // It may be cut while it still sends.
    let _ = http2.wire.send(bytes);
    let _ = http2.send(&Frame::new(frames::PING, 0, 0, b"are you?"));
    let end = loop {
        let frame = http2
            .next()
            .unwrap_or_else(|error| panic!("{case}: {error}, not {ends:?}"));
        let end = match frame.kind {
            frames::GOAWAY => Connection(code(&frame.payload[4..])),
            frames::RST_STREAM => Stream(code(&frame.payload)),
            frames::HEADERS => Refused(frame.status().unwrap()),
            frames::PING if frame.flags & frames::ACK != 0 => Ignored,
            _ => continue,
        };
        if ends.contains(&end) {
            break end;
        }
        // The answer to a ping or to the request before a fault says nothing yet.
        assert!(
            matches!(end, Ignored | Refused(401)),
            "{case}: {end:?}, not {ends:?}"
        );
    };
    match end {
        Connection(_) => {
            let last = loop {
                if let Err(error) = http2.next() {
                    break error.kind();
                }
            };
            assert_ne!(last, ErrorKind::WouldBlock, "{case}: it stays open");
        }
        Stream(_) | Refused(_) | Ignored => {
            http2.head(101, frames::END_STREAM, &post("/hooks"));
            let answer = loop {
                let frame = http2
                    .next()
                    .unwrap_or_else(|error| panic!("{case}: {error}, then"));
                if (frame.kind, frame.stream) == (frames::HEADERS, 101) {
                    break frame.status();
                }
            };
            assert_eq!(answer, Some(401), "{case}: the connection does not go on");
        }
    }
}

fn code(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// Checks all cases, that the upstream saw nothing, and that the gateway goes on.
fn check_all(cases: &[(&str, Vec<u8>, &[End])]) {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).start();
    for (case, bytes, ends) in cases {
        println!("{case}");
        check(gateway.door(), case, bytes, ends);
        assert_eq!(upstream.count(), 0, "{case}: the upstream saw it");
    }
    upstream.assert_untouched();
    let mut http2 = Frames::open(gateway.door(), &[]);
    http2.wire.send(&head(1, WHOLE, genuine(b"", &[]))).unwrap();
    let answer = http2.next_of(frames::HEADERS).unwrap();
    assert_eq!(answer.status(), Some(200));
    upstream.take_only();
}

#[test]
fn frames_of_a_wrong_size_are_errors() {
    let open = head(1, frames::END_HEADERS, genuine(b"", &[]));
    let large = vec![0; FRAME_BYTES_MAX + 1];
    let size = stream_error(FRAME_SIZE_ERROR);
    let connection = connection_error(FRAME_SIZE_ERROR);
    let after_open = |frame: Vec<u8>| [&open[..], &frame].concat();
    check_all(&[
        (
            "DATA beyond SETTINGS_MAX_FRAME_SIZE",
            after_open(frame(frames::DATA, frames::END_STREAM, 1, &large)),
            &size,
        ),
        (
            "HEADERS beyond SETTINGS_MAX_FRAME_SIZE",
            head(
                1,
                WHOLE,
                genuine(b"", &[("x", &"x".repeat(FRAME_BYTES_MAX))]),
            ),
            &connection,
        ),
        (
            "SETTINGS of 5 bytes",
            frame(frames::SETTINGS, 0, 0, [0; 5]),
            &connection,
        ),
        (
            "SETTINGS with ACK and a payload",
            frame(frames::SETTINGS, frames::ACK, 0, [0; 6]),
            &connection,
        ),
        (
            "PING of 7 bytes",
            frame(frames::PING, 0, 0, [0; 7]),
            &connection,
        ),
        (
            "PING of 9 bytes",
            frame(frames::PING, 0, 0, [0; 9]),
            &connection,
        ),
        (
            "WINDOW_UPDATE of 3 bytes",
            frame(frames::WINDOW_UPDATE, 0, 0, [1; 3]),
            &connection,
        ),
        (
            "RST_STREAM of 3 bytes",
            after_open(frame(frames::RST_STREAM, 0, 1, [0; 3])),
            &connection,
        ),
        (
            "PRIORITY of 4 bytes",
            after_open(frame(frames::PRIORITY, 0, 1, [0; 4])),
            &size,
        ),
        (
            "GOAWAY of 7 bytes",
            frame(frames::GOAWAY, 0, 0, [0; 7]),
            &connection,
        ),
    ]);
}

#[test]
fn frames_on_a_wrong_stream_are_errors() {
    let whole = |stream| head(stream, WHOLE, genuine(b"", &[]));
    let open = head(1, frames::END_HEADERS, genuine(b"", &[]));
    let refused = head(1, WHOLE, block(&post("/hooks")));
    let refused_later = head(5, WHOLE, block(&post("/hooks")));
    let protocol = [Connection(PROTOCOL_ERROR)];
    let closed = stream_error(STREAM_CLOSED);
    // A stream below the highest one is closed, which has an error of its own.
    let lower = connection_error(STREAM_CLOSED);
    let reset = |stream| frame(frames::RST_STREAM, 0, stream, [0, 0, 0, 8]);
    let block_of = genuine(b"", &[]);
    let (first, second) = block_of.split_at(block_of.len() / 2);
    let begun = head(1, frames::END_STREAM, first);
    let go_on = |stream| frame(frames::CONTINUATION, frames::END_HEADERS, stream, second);
    check_all(&[
        ("HEADERS on stream 0", whole(0), &protocol),
        ("HEADERS on an even stream", whole(2), &protocol),
        (
            "HEADERS on a lower stream",
            [refused_later, whole(3)].concat(),
            &lower,
        ),
        (
            "HEADERS after END_STREAM",
            [refused.clone(), whole(1)].concat(),
            &closed,
        ),
        (
            "DATA after END_STREAM",
            [refused.clone(), frame(frames::DATA, 0, 1, b"x")].concat(),
            &closed,
        ),
        (
            "DATA after RST_STREAM",
            [
                &open[..],
                &reset(1),
                &frame(frames::DATA, frames::END_STREAM, 1, b""),
            ]
            .concat(),
            &[Stream(STREAM_CLOSED), Connection(STREAM_CLOSED), Ignored],
        ),
        (
            "DATA on stream 0",
            frame(frames::DATA, 0, 0, b"x"),
            &protocol,
        ),
        (
            "DATA on an idle stream",
            frame(frames::DATA, 0, 1, b"x"),
            &protocol,
        ),
        ("RST_STREAM on stream 0", reset(0), &protocol),
        ("RST_STREAM on an idle stream", reset(1), &protocol),
        (
            "WINDOW_UPDATE on an idle stream",
            frame(frames::WINDOW_UPDATE, 0, 1, [0, 0, 0, 1]),
            &protocol,
        ),
        (
            "PRIORITY on stream 0",
            frame(frames::PRIORITY, 0, 0, [0, 0, 0, 1, 0]),
            &protocol,
        ),
        (
            "SETTINGS on a stream",
            [&open[..], &frame(frames::SETTINGS, 0, 1, [])].concat(),
            &protocol,
        ),
        (
            "PING on a stream",
            [&open[..], &frame(frames::PING, 0, 1, [0; 8])].concat(),
            &protocol,
        ),
        (
            "GOAWAY on a stream",
            [&open[..], &frame(frames::GOAWAY, 0, 1, [0; 8])].concat(),
            &protocol,
        ),
        (
            "PUSH_PROMISE from a sender",
            [
                &open[..],
                &frame(PUSH_PROMISE, frames::END_HEADERS, 1, [0, 0, 0, 2]),
            ]
            .concat(),
            &protocol,
        ),
        ("CONTINUATION of nothing", go_on(1), &protocol),
        (
            "CONTINUATION after the end of a head",
            [&refused[..], &go_on(1)].concat(),
            &protocol,
        ),
        (
            "CONTINUATION on another stream",
            [&begun[..], &go_on(3)].concat(),
            &protocol,
        ),
        (
            "DATA within a head",
            [&begun[..], &frame(frames::DATA, 0, 1, b""), &go_on(1)].concat(),
            &protocol,
        ),
        (
            "PING within a head",
            [&begun[..], &frame(frames::PING, 0, 0, [0; 8]), &go_on(1)].concat(),
            &protocol,
        ),
        (
            "an unknown frame within a head",
            [&begun[..], &frame(UNKNOWN, 0, 1, b""), &go_on(1)].concat(),
            &protocol,
        ),
        (
            "HEADERS of another stream within a head",
            [&begun[..], &whole(3)].concat(),
            &protocol,
        ),
    ]);
}

#[test]
fn malformed_heads_reach_nobody() {
    const METHOD: (&str, &str) = (":method", "POST");
    const SCHEME: (&str, &str) = (":scheme", "http");
    const AUTHORITY: (&str, &str) = (":authority", "hooks.example.org");
    const PATH: (&str, &str) = (":path", "/hooks");
    let mut cases = Vec::new();
    for more in [
        ("X-Upper", "x"),
        ("x-Upper", "x"),
        ("connection", "close"),
        ("connection", "x-cv-signature"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        (":path", "/hooks"),
        (":late", "x"),
        ("", "x"),
        ("x y", "x"),
        ("x:y", "x"),
        ("x\0", "x"),
        ("x\r\ny", "x"),
        ("x", "a\r\nb: c"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        ("host", "other.example.org"),
    ] {
        cases.push((format!("{more:?}"), genuine(b"", &[more])));
    }
    for (case, fields) in [
        ("no :method", &[SCHEME, AUTHORITY, PATH][..]),
        ("no :scheme", &[METHOD, AUTHORITY, PATH]),
        ("no :path", &[METHOD, SCHEME, AUTHORITY]),
        ("no authority at all", &[METHOD, SCHEME, PATH]),
        (":method twice", &[METHOD, METHOD, SCHEME, AUTHORITY, PATH]),
        (":scheme twice", &[METHOD, SCHEME, SCHEME, AUTHORITY, PATH]),
        (":path twice", &[METHOD, SCHEME, AUTHORITY, PATH, PATH]),
        (
            ":authority twice",
            &[METHOD, SCHEME, AUTHORITY, AUTHORITY, PATH],
        ),
        (
            ":path after a field",
            &[METHOD, SCHEME, AUTHORITY, ("x", "y"), PATH],
        ),
        (
            ":status",
            &[METHOD, SCHEME, AUTHORITY, PATH, (":status", "200")],
        ),
        (
            "an unknown pseudo field",
            &[METHOD, SCHEME, AUTHORITY, PATH, (":x", "y")],
        ),
        (
            ":protocol without having been offered",
            &[METHOD, SCHEME, AUTHORITY, PATH, (":protocol", "websocket")],
        ),
        (
            "an empty :path",
            &[METHOD, SCHEME, AUTHORITY, (":path", "")],
        ),
        (
            "a :path without a slash",
            &[METHOD, SCHEME, AUTHORITY, (":path", "hooks")],
        ),
        ("* for :path", &[METHOD, SCHEME, AUTHORITY, (":path", "*")]),
        (
            "an empty :method",
            &[(":method", ""), SCHEME, AUTHORITY, PATH],
        ),
        (
            "a blank in :method",
            &[(":method", "PO ST"), SCHEME, AUTHORITY, PATH],
        ),
        (
            "CONNECT with a :path",
            &[(":method", "CONNECT"), SCHEME, AUTHORITY, PATH],
        ),
        (
            "user information in :authority",
            &[METHOD, SCHEME, (":authority", "a@hooks.example.org"), PATH],
        ),
        (
            "a path in :authority",
            &[METHOD, SCHEME, (":authority", "hooks.example.org/x"), PATH],
        ),
    ] {
        cases.push((case.to_owned(), bare(fields)));
    }
    let cases: Vec<(&str, Vec<u8>, &[End])> = cases
        .iter()
        .map(|(case, block)| (&**case, head(1, WHOLE, block), &MALFORMED[..]))
        .collect();
    check_all(&cases);
}

#[test]
fn bodies_and_trailers_that_break_a_rule_reach_nobody() {
    let announced = |length: &str, body: &[u8]| {
        let block = genuine(body, &[("content-length", length)]);
        head(1, frames::END_HEADERS, block)
    };
    let data = |flags, bytes: &[u8]| frame(frames::DATA, flags, 1, bytes);
    let end = frames::END_STREAM;
    let open = head(1, frames::END_HEADERS, genuine(b"ab", &[]));
    let trailers = |flags, fields: &[(&str, &str)]| head(1, flags, block(fields));
    let cases = [
        (
            "a length and no body",
            head(1, WHOLE, genuine(b"", &[("content-length", "2")])),
        ),
        (
            "a body longer than its length",
            [announced("1", b"ab"), data(end, b"ab")].concat(),
        ),
        (
            "a body longer than its length in two frames",
            [announced("1", b"ab"), data(0, b"a"), data(end, b"b")].concat(),
        ),
        (
            "a body shorter than its length",
            [announced("3", b"ab"), data(end, b"ab")].concat(),
        ),
        (
            "a body shorter than its length that ends in an empty frame",
            [announced("3", b"ab"), data(0, b"ab"), data(end, b"")].concat(),
        ),
        (
            "a body shorter than its length that ends in trailers",
            [
                announced("3", b"ab"),
                data(0, b"ab"),
                trailers(WHOLE, &[("x", "y")]),
            ]
            .concat(),
        ),
        (
            "a length with a sign",
            [announced("+2", b"ab"), data(end, b"ab")].concat(),
        ),
        (
            "two lengths",
            [
                head(
                    1,
                    frames::END_HEADERS,
                    genuine(b"ab", &[("content-length", "2"), ("content-length", "3")]),
                ),
                data(end, b"ab"),
            ]
            .concat(),
        ),
        (
            "trailers that end nothing",
            [
                open.clone(),
                data(0, b"ab"),
                trailers(frames::END_HEADERS, &[("x", "y")]),
                data(end, b""),
            ]
            .concat(),
        ),
        (
            "capitals in trailers",
            [
                open.clone(),
                data(0, b"ab"),
                trailers(WHOLE, &[("X-Upper", "y")]),
            ]
            .concat(),
        ),
    ];
    let cases = cases.map(|(case, bytes)| (case, bytes, &MALFORMED[..]));
    check_all(&cases);
}

#[test]
fn windows_and_settings_out_of_range_are_errors() {
    let open = head(1, frames::END_HEADERS, genuine(b"", &[]));
    let update = |stream, by: u32| frame(frames::WINDOW_UPDATE, 0, stream, by.to_be_bytes());
    let setting = |id: u8, value: u32| {
        let payload = [&[0, id][..], &value.to_be_bytes()].concat();
        frame(frames::SETTINGS, 0, 0, payload)
    };
    let most = (1 << 31) - 1;
    let flow = stream_error(FLOW_CONTROL_ERROR);
    let protocol = [Connection(PROTOCOL_ERROR)];
    check_all(&[
        ("a window that grows by nothing", update(0, 0), &protocol),
        (
            "a stream's window that grows by nothing",
            [&open[..], &update(1, 0)].concat(),
            &stream_error(PROTOCOL_ERROR),
        ),
        (
            "a window beyond 2^31-1",
            update(0, most),
            &connection_error(FLOW_CONTROL_ERROR),
        ),
        (
            "a stream's window beyond 2^31-1",
            [&open[..], &update(1, most)].concat(),
            &flow,
        ),
        (
            "a stream's window beyond 2^31-1 by a setting",
            [&open[..], &update(1, most - 65_535), &setting(4, 65_536)].concat(),
            &connection_error(FLOW_CONTROL_ERROR),
        ),
        (
            "SETTINGS_INITIAL_WINDOW_SIZE beyond 2^31-1",
            setting(4, 1 << 31),
            &connection_error(FLOW_CONTROL_ERROR),
        ),
        ("SETTINGS_ENABLE_PUSH of 2", setting(2, 2), &protocol),
        (
            "SETTINGS_MAX_FRAME_SIZE too small",
            setting(5, 16_383),
            &protocol,
        ),
        (
            "SETTINGS_MAX_FRAME_SIZE too large",
            setting(5, 1 << 24),
            &protocol,
        ),
    ]);
}

#[test]
fn padding_and_header_compression_that_cannot_be_read_are_errors() {
    let open = head(1, frames::END_HEADERS, genuine(b"ab", &[]));
    let padded = |kind, flags, length: u8, rest: &[u8]| {
        let payload = [&[length][..], rest].concat();
        frame(kind, flags | PADDED, 1, payload)
    };
    let whole = genuine(b"", &[]);
    let compressed = |bytes: &[u8]| head(1, WHOLE, [&whole[..], bytes].concat());
    let protocol = [Connection(PROTOCOL_ERROR)];
    let compression = connection_error(COMPRESSION_ERROR);
    check_all(&[
        (
            "DATA all padding and more",
            [
                &open[..],
                &padded(frames::DATA, frames::END_STREAM, 3, b"ab"),
            ]
            .concat(),
            &protocol,
        ),
        (
            "DATA without the length of its padding",
            [
                &open[..],
                &frame(frames::DATA, PADDED | frames::END_STREAM, 1, b""),
            ]
            .concat(),
            &connection_error(FRAME_SIZE_ERROR),
        ),
        (
            "HEADERS all padding and more",
            padded(frames::HEADERS, WHOLE, 255, &[0; 100]),
            &protocol,
        ),
        ("index 0", compressed(&[0x80]), &compression),
        (
            "an index beyond the tables",
            compressed(&[0xff, 0x80, 0x01]),
            &compression,
        ),
        (
            "an index without end",
            compressed(&[0xff; 20]),
            &compression,
        ),
        (
            "a literal that is longer than its block",
            compressed(&[0, 1, b'x', 9, b'y']),
            &compression,
        ),
        (
            "a table larger than allowed",
            head(1, WHOLE, [&[0x3f, 0xe2, 0x1f][..], &whole].concat()),
            &compression,
        ),
        (
            "a change of the table behind a field",
            compressed(&[0x20]),
            &compression,
        ),
        (
            "padding of Huffman's code that is no prefix of EOS",
            compressed(&[0, 1, b'x', 0x81, 0x00]),
            &compression,
        ),
        (
            "padding of Huffman's code of eight bits",
            compressed(&[0, 1, b'x', 0x82, 0x1f, 0xff]),
            &compression,
        ),
    ]);
}

#[test]
fn what_says_nothing_is_ignored() {
    let open = head(1, frames::END_HEADERS, block(&post("/hooks")));
    let after_open = |frame: Vec<u8>| [&open[..], &frame].concat();
    let ignored = [Ignored];
    // Priorities are of the past: whether a stream that depends on itself is an error is open (RFC 9113, section 5.3).
    let either = [Ignored, Stream(PROTOCOL_ERROR), Connection(PROTOCOL_ERROR)];
    let itself = [0, 0, 0, 1, 0];
    let prioritised = [&itself[..], &block(&post("/hooks"))].concat();
    check_all(&[
        (
            "an unknown frame",
            frame(UNKNOWN, 0xff, 0, b"whatever"),
            &ignored,
        ),
        (
            "an unknown frame on an idle stream",
            frame(UNKNOWN, 0, 7, b"whatever"),
            &ignored,
        ),
        (
            "an unknown frame on an open stream",
            after_open(frame(UNKNOWN, 0, 1, b"whatever")),
            &ignored,
        ),
        (
            "an unknown setting",
            frame(frames::SETTINGS, 0, 0, [0xff, 0xff, 0, 0, 0, 1]),
            &ignored,
        ),
        (
            "unknown flags",
            frame(frames::PING, 0xf8, 0, [0; 8]),
            &ignored,
        ),
        (
            "the reserved bit of a stream",
            frame(frames::PING, 0, 1 << 31, [0; 8]),
            &ignored,
        ),
        (
            "the reserved bit of a window",
            frame(frames::WINDOW_UPDATE, 0, 0, [0x80, 0, 0, 1]),
            &ignored,
        ),
        (
            "an answer to a ping that was not asked",
            frame(frames::PING, frames::ACK, 0, [0; 8]),
            &ignored,
        ),
        (
            "an unknown error code",
            after_open(frame(frames::RST_STREAM, 0, 1, [0xff; 4])),
            &ignored,
        ),
        (
            "PRIORITY on an idle stream",
            frame(frames::PRIORITY, 0, 9, [0, 0, 0, 1, 0]),
            &ignored,
        ),
        (
            "PRIORITY on itself",
            frame(frames::PRIORITY, 0, 1, itself),
            &either,
        ),
        (
            "HEADERS that depend on themselves",
            head(1, WHOLE | PRIORITY_FLAG, prioritised),
            &either,
        ),
    ]);
}

#[test]
fn padding_priority_and_fragments_change_nothing() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).start();
    let mut http2 = Frames::open(gateway.door(), &[]);
    let block = genuine(b"abc", &[("content-length", "3"), ("te", "trailers")]);
    let (first, second) = block.split_at(7);
    let padded = [&[5][..], &[0, 0, 0, 0, 9], first, &[0; 5]].concat();
    let sent = [
        frame(frames::HEADERS, PADDED | PRIORITY_FLAG, 1, padded),
        frame(frames::CONTINUATION, 0, 1, b""),
        frame(frames::CONTINUATION, frames::END_HEADERS, 1, second),
        frame(UNKNOWN, 0, 1, b"whatever"),
        frame(frames::DATA, PADDED, 1, b"\x04ab\0\0\0\0"),
        frame(frames::PRIORITY, 0, 1, [0, 0, 0, 7, 0]),
        frame(frames::DATA, PADDED | frames::END_STREAM, 1, b"\x00c"),
    ];
    http2.wire.send(&sent.concat()).unwrap();
    let answer = http2.next_of(frames::HEADERS).unwrap();
    assert_eq!(answer.status(), Some(200));
    assert_eq!(upstream.take_only().body.as_deref(), Some(&b"abc"[..]));
}

#[test]
fn pseudo_fields_in_trailers_say_nothing() {
    // h2 lets them pass, against section 8.1; like all trailers they are dropped.
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).start();
    let mut http2 = Frames::open(gateway.door(), &[]);
    let sent = [
        head(1, frames::END_HEADERS, genuine(b"ab", &[])),
        frame(frames::DATA, 0, 1, b"ab"),
        head(1, WHOLE, block(&[(":path", "/other"), ("x", "y")])),
    ];
    http2.wire.send(&sent.concat()).unwrap();
    assert_eq!(http2.next_of(frames::HEADERS).unwrap().status(), Some(200));
    let seen = upstream.take_only();
    assert_eq!(seen.target, "/hooks");
    assert_eq!(seen.body.as_deref(), Some(&b"ab"[..]));
    assert!(seen.trailers.0.is_empty() && !seen.fields.has("x"));
}

#[test]
fn almost_the_preface_is_no_http2() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).start();
    let whole = head(1, WHOLE, genuine(b"", &[]));
    let settings = frame(frames::SETTINGS, 0, 0, b"");
    for almost in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
        "PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n",
    ] {
        let mut wire = client::raw(gateway.door());
        let bytes = [almost.as_bytes(), &settings, &whole].concat();
        wire.send(&bytes).unwrap();
        let answer = wire.answer("POST").unwrap();
        assert!([400, 505].contains(&answer.status), "{answer:?}");
        assert!(wire.closed());
    }
    upstream.assert_untouched();
}
