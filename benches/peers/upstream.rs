//! The application behind the proxies: takes in everything, answers little, keeps connections. It counts what reaches it, and tells a
//! request that asks for it what came of it.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A request with this header is answered with what was seen of it: see [`report`].
pub(crate) const ASK: &str = "x-bench-report";

/// Requests that came, and connections that brought them.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: AtomicU64,
    pub(crate) connections: AtomicU64,
}

pub(crate) async fn serve(address: SocketAddr, seen: &'static Seen) {
    let listener = TcpListener::bind(address)
        .await
        .expect("the address is free");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            seen.connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                // The proxies close as they like.
                let _ = connection(stream, seen).await;
            });
        }
    });
}

async fn connection(mut stream: TcpStream, seen: &Seen) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 256 << 10];
    let mut filled = 0;
    loop {
        // A head, and what came of the body with it.
        let head = loop {
            if let Some(head) = Head::parse(&buffer[..filled])? {
                break head;
            }
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
        };
        seen.requests.fetch_add(1, Ordering::Relaxed);
        let mut digest = head.asks.then(Sha256::new);
        let (mut from, mut left) = (head.length, head.body);
        loop {
            let here = (filled - from).min(left);
            if let Some(digest) = &mut digest {
                digest.update(&buffer[from..from + here]);
            }
            (from, left) = (from + here, left - here);
            if left == 0 {
                break;
            }
            (from, filled) = (0, stream.read(&mut buffer).await?);
            if filled == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        buffer.copy_within(from..filled, 0);
        filled -= from;
        let text = match digest {
            None => "ok".to_owned(),
            Some(digest) => report(&HEXLOWER.encode(&digest.finalize()), &head.marks),
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// The SHA-256 of the body and every mark that stood in the head.
pub(crate) fn report(digest: &str, marks: &[String]) -> String {
    format!("{digest} {}", marks.join(","))
}

/// What matters of a request's head.
struct Head {
    length: usize,
    body: usize,
    asks: bool,
    marks: Vec<String>,
}

impl Head {
    /// `None` if it is not whole yet.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        let httparse::Status::Complete(length) = request.parse(bytes).map_err(io::Error::other)?
        else {
            return Ok(None);
        };
        let mut head = Self {
            length,
            body: 0,
            asks: false,
            marks: Vec::new(),
        };
        for field in &*request.headers {
            let name = field.name.as_bytes();
            if name.eq_ignore_ascii_case(b"content-length") {
                let text = std::str::from_utf8(field.value).map_err(io::Error::other)?;
                head.body = text.parse().map_err(io::Error::other)?;
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                return Err(io::Error::other("every proxy here knows the length"));
            } else if name.eq_ignore_ascii_case(ASK.as_bytes()) {
                head.asks = true;
            } else if field.name.len() == 20
                && field
                    .name
                    .replace('_', "-")
                    .eq_ignore_ascii_case("countersign-verified")
            {
                let mark = String::from_utf8_lossy(field.value);
                let bare = mark.split(';').next().unwrap_or_default();
                head.marks.push(bare.to_owned());
            }
        }
        Ok(Some(head))
    }
}
