//! HTTP/2 by hand, for senders that no library would be.

use std::io;

use super::{
    client::Door,
    wire::{Socket, Wire},
};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload: payload.to_vec(),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap();
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[self.kind, self.flags]);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// The status in a block of header fields that begins with one from HPACK's static table.
    pub(crate) fn status(&self) -> Option<u16> {
        match self.payload[..] {
            [0x88, ..] => Some(200),
            // A literal with the indexed name `:status`: its digits as they are, or Huffman-coded.
            [0x48, 3, ref text @ ..] => std::str::from_utf8(text.get(..3)?).ok()?.parse().ok(),
            [0x48, 0x82, a, b, ..] => Some(huffman_digits([a, b, 0, 0])),
            [0x48, 0x83, a, b, c, ..] => Some(huffman_digits([a, b, c, 0])),
            [0x8c, ..] => Some(400),
            [0x8d, ..] => Some(404),
            _ => None,
        }
    }
}

/// Three digits, of which HPACK writes 0 to 2 in five bits and the others in six.
fn huffman_digits(bytes: [u8; 4]) -> u16 {
    let mut bits = u32::from_be_bytes(bytes);
    let mut number = 0;
    for _ in 0..3 {
        let (digit, width) = match bits >> 27 {
            digit @ 0..=2 => (digit, 5),
            _ => ((bits >> 26) - 0x19 + 3, 6),
        };
        number = number * 10 + digit as u16;
        bits <<= width;
    }
    number
}

/// Header fields as HPACK literals that enter no table.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A length with a prefix of seven bits.
fn integer(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else {
        block.push(u8::try_from(length).unwrap());
        return;
    };
    block.push(127);
    while rest >= 128 {
        block.push((rest & 127) as u8 | 128);
        rest >>= 7;
    }
    block.push(rest as u8);
}

/// The fields of a `POST`, before any that a test adds.
pub(crate) fn post(target: &str) -> [(&str, &str); 4] {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", super::tls::HOST),
        (":path", target),
    ]
}

/// A plaintext connection on which frames are written by hand.
pub(crate) struct Frames {
    pub(crate) wire: Wire,
}

impl Frames {
    /// Connects, and says nothing yet.
    pub(crate) fn connect(door: &Door) -> Self {
        let socket = Socket::connect(&door.address, super::PATIENCE).unwrap();
        Self {
            wire: Wire::plain(socket).unwrap(),
        }
    }

    /// Connects, and sends preface and settings.
    pub(crate) fn open(door: &Door, settings: &[u8]) -> Self {
        let mut frames = Self::connect(door);
        frames.wire.send(PREFACE).unwrap();
        frames.send(&Frame::new(SETTINGS, 0, 0, settings)).unwrap();
        frames
    }

    /// The other end: reads the preface of a client, and sends settings.
    pub(crate) fn accept(socket: Socket) -> io::Result<Self> {
        let wire = Wire::plain(socket)?;
        let mut frames = Self { wire };
        let preface = u64::try_from(PREFACE.len()).unwrap();
        frames.wire.exactly(preface, &mut |_| {})?;
        frames.send(&Frame::new(SETTINGS, 0, 0, &[]))?;
        Ok(frames)
    }

    /// Sends the first bytes of the preface.
    pub(crate) fn half_preface(&mut self) {
        self.wire.send(&PREFACE[..10]).unwrap();
    }

    pub(crate) fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.wire.send(&frame.bytes())
    }

    /// Sends frames in one piece.
    pub(crate) fn send_all(&mut self, frames: &[Frame]) -> io::Result<()> {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        self.wire.send(&bytes)
    }

    /// Sends a head in one frame.
    pub(crate) fn head(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        let frame = Frame::new(HEADERS, flags | END_HEADERS, stream, &block(fields));
        self.send(&frame).unwrap();
    }

    /// The next frame; an error once the other side has closed.
    pub(crate) fn next(&mut self) -> io::Result<Frame> {
        let mut head = Vec::new();
        self.wire
            .exactly(9, &mut |bytes| head.extend_from_slice(bytes))?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = Vec::new();
        self.wire
            .exactly(length.into(), &mut |bytes| payload.extend_from_slice(bytes))?;
        Ok(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// The next frame of that kind.
    pub(crate) fn next_of(&mut self, kind: u8) -> io::Result<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return Ok(frame);
            }
        }
    }

    /// Reads to the end of the connection, and returns the frames that came.
    pub(crate) fn rest(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next().ok()).collect()
    }
}
