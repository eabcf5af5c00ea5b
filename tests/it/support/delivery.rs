//! A request as a sender would make it, for every kind of client.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    vec,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{sign, tls, wire::Fields};

/// A request: where to, with what, and how its body is cut up.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) fields: Fields,
    pub(crate) body: Bytes,
    /// Sizes of the body's pieces; what they do not cover is one last piece.
    cuts: Vec<usize>,
    chunked: bool,
}

impl Delivery {
    pub(crate) fn post(target: &str, body: impl Into<Bytes>) -> Self {
        Self {
            method: "POST".into(),
            target: target.into(),
            host: tls::HOST.into(),
            fields: Fields::default(),
            body: body.into(),
            cuts: Vec::new(),
            chunked: false,
        }
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    pub(crate) fn host(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push(name, value.as_ref());
        self
    }

    /// Adds CareValidate's signature.
    pub(crate) fn signed(self, secret: &[u8]) -> Self {
        let tag = sign::carevalidate(secret, &self.body);
        self.header("x-cv-signature", tag)
    }

    /// Sends the body without saying its length beforehand.
    pub(crate) fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Cuts the body into pieces.
    pub(crate) fn cut(mut self, cuts: Cuts) -> Self {
        self.cuts = cuts.sizes(self.body.len());
        self
    }

    /// The body's pieces.
    pub(crate) fn pieces(&self) -> Vec<Bytes> {
        let mut rest = self.body.clone();
        let mut pieces: Vec<_> = self
            .cuts
            .iter()
            .map(|size| rest.split_to((*size).min(rest.len())))
            .collect();
        pieces.push(rest);
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }

    /// The head for HTTP/1.1, names as spelled, in the order given.
    pub(crate) fn raw_head(&self) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            self.method, self.target, self.host
        )
        .into_bytes();
        for (name, value) in &self.fields.0 {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        let framing = match self.chunked {
            true => "Transfer-Encoding: chunked\r\n\r\n".into(),
            false => format!("Content-Length: {}\r\n\r\n", self.body.len()),
        };
        head.extend_from_slice(framing.as_bytes());
        head
    }

    /// The whole request for HTTP/1.1.
    pub(crate) fn raw(&self) -> Vec<u8> {
        let mut bytes = self.raw_head();
        if !self.chunked {
            bytes.extend_from_slice(&self.body);
            return bytes;
        }
        for piece in self.pieces() {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(&piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }

    /// The request for hyper. HTTP/2 carries scheme and host in the target, HTTP/1.1 the host in a header.
    pub(crate) fn request(&self, http2_scheme: Option<&str>) -> http::Request<Pieces> {
        let mut request = http::Request::builder().method(self.method.as_str());
        request = match http2_scheme {
            Some(scheme) => request.uri(format!("{scheme}://{}{}", self.host, self.target)),
            None => request.uri(&self.target).header("host", &self.host),
        };
        for (name, value) in &self.fields.0 {
            request = request.header(name, value.as_slice());
        }
        let pieces = Pieces {
            declared: (!self.chunked).then_some(self.body.len() as u64),
            left: self.pieces().into_iter(),
        };
        request.body(pieces).unwrap()
    }
}

/// How to cut a body into pieces.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cuts {
    Whole,
    Every(usize),
    /// Odd sizes from 1 to about 10,000, the same for the same seed.
    Odd(u64),
}

impl Cuts {
    fn sizes(self, len: usize) -> Vec<usize> {
        match self {
            Self::Whole => Vec::new(),
            Self::Every(size) => vec![size; len / size],
            Self::Odd(seed) => {
                let mut state = seed | 1;
                let mut sizes = Vec::new();
                let mut sum = 0;
                while sum < len {
                    // xorshift64, with small sizes as likely as large ones.
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let bits = state % 14;
                    let size = ((state >> 8) as usize & ((1 << bits) - 1)) | 1;
                    sizes.push(size);
                    sum += size;
                }
                sizes
            }
        }
    }
}

/// A body in pieces, one frame each.
pub(crate) struct Pieces {
    declared: Option<u64>,
    left: vec::IntoIter<Bytes>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.left.next().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.len() == 0 && self.declared.is_some()
    }

    fn size_hint(&self) -> SizeHint {
        self.declared
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
