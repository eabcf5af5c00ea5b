//! Sockets, and HTTP/1.1 as bytes: written verbatim, read strictly.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned,
    pki_types::ServerName,
};

/// Most bytes of one head.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Reads `127.0.0.1:80` or `unix:/path`.
    pub(crate) fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(
                text.parse()
                    .unwrap_or_else(|_| panic!("not an address: {text}")),
            ),
        }
    }

    /// The TCP address.
    pub(crate) fn tcp(&self) -> SocketAddr {
        match self {
            Self::Tcp(address) => *address,
            Self::Unix(path) => panic!("a Unix socket: {}", path.display()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects, and gives every later read and write `limit` to get on.
    pub(crate) fn connect(to: &Address, limit: Duration) -> io::Result<Self> {
        let socket = match to {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, limit)?;
                stream.set_nodelay(true)?;
                Self::Tcp(stream)
            }
            Address::Unix(path) => Self::Unix(UnixStream::connect(path)?),
        };
        socket.set_limit(Some(limit))?;
        Ok(socket)
    }

    /// How long one read or write may take; `None`: for ever.
    pub(crate) fn set_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
        }
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    /// Ends one or both directions. It may be over already.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }

    /// Waits until there is something to read, or the other side has closed (TCP only).
    pub(crate) fn wait_readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.peek(&mut [0]).map(drop),
            Self::Unix(_) => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// Makes the close of the last handle an RST instead of a FIN (TCP only).
    pub(crate) fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Header fields in order, names as spelled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) Vec<(String, Vec<u8>)>);

impl Fields {
    pub(crate) fn push(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.0.push((name.into(), value.into()));
    }

    /// All values of a name, whatever its spelling, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&[u8]> {
        self.0
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
            .collect()
    }

    /// The one value of a name, as text.
    ///
    /// # Panics
    /// If there is none, or there are several.
    pub(crate) fn one(&self, name: &str) -> &str {
        match self.all(name)[..] {
            [value] => std::str::from_utf8(value).unwrap(),
            ref other => panic!("{} values of {name} instead of one in {self}", other.len()),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, value)| write!(f, "\n  {name}: {}", value.escape_ascii()))
    }
}

/// The head of a message, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// Every byte, the empty line included.
    pub(crate) raw: Vec<u8>,
    /// First line without its line end.
    pub(crate) start: String,
    pub(crate) fields: Fields,
}

impl Head {
    /// Splits the head of a message.
    ///
    /// Strict: CRLF only, no obsolete folding, no blank around a name, no control byte but the tab in a value.
    fn parse(raw: Vec<u8>) -> io::Result<Self> {
        let text = &raw[..raw.len() - 4];
        let mut lines = Vec::new();
        let mut rest = text;
        while let Some(at) = find(rest, b"\r\n") {
            lines.push(&rest[..at]);
            rest = &rest[at + 2..];
        }
        lines.push(rest);
        let mut lines = lines.into_iter();
        let start = lines.next().unwrap_or_default();
        if start.is_empty() || !start.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            return Err(fault("start line", start));
        }
        let start = String::from_utf8(start.to_vec()).unwrap();
        let fields = lines.map(field).collect::<io::Result<_>>()?;
        Ok(Self {
            raw,
            start,
            fields: Fields(fields),
        })
    }

    /// A word of the start line: method, target, version; or version, status.
    pub(crate) fn word(&self, index: usize) -> &str {
        self.start.split(' ').nth(index).unwrap_or_default()
    }

    /// How long the body of this request is.
    ///
    /// # Errors
    /// If that can be read in two ways.
    pub(crate) fn request_framing(&self) -> io::Result<Framing> {
        let lengths = self.fields.all("content-length");
        let codings = self.fields.all("transfer-encoding");
        match (&lengths[..], &codings[..]) {
            ([], []) => Ok(Framing::Length(0)),
            ([length], []) => decimal(length).map(Framing::Length),
            ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            _ => Err(fault("framing", &self.raw)),
        }
    }

    /// How long the body of this response is.
    fn response_framing(&self, method: &str) -> io::Result<Framing> {
        let status = self.word(1);
        if method == "HEAD" || status == "204" || status == "304" {
            return Ok(Framing::Length(0));
        }
        if self.fields.has("content-length") || self.fields.has("transfer-encoding") {
            return self.request_framing();
        }
        Ok(Framing::UntilClose)
    }
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// A response.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    /// Statuses of the 1xx answers that came before.
    pub(crate) interim: Vec<u16>,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", self.body.escape_ascii()))
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One end of a connection that speaks HTTP/1.1, or whatever bytes a test wants.
pub(crate) struct Wire {
    socket: Socket,
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
    peer_certificate: bool,
}

impl Wire {
    pub(crate) fn plain(socket: Socket) -> io::Result<Self> {
        let stream = Box::new(socket.try_clone()?);
        Ok(Self::over(socket, stream))
    }

    pub(crate) fn tls_client(
        socket: Socket,
        config: Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, socket.try_clone()?);
        stream.conn.complete_io(&mut stream.sock)?;
        Ok(Self::over(socket, Box::new(stream)))
    }

    pub(crate) fn tls_server(socket: Socket, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, socket.try_clone()?);
        stream.conn.complete_io(&mut stream.sock)?;
        let peer_certificate = stream.conn.peer_certificates().is_some();
        Ok(Self {
            peer_certificate,
            ..Self::over(socket, Box::new(stream))
        })
    }

    fn over(socket: Socket, stream: Box<dyn Stream>) -> Self {
        Self {
            socket,
            stream,
            unread: Vec::new(),
            peer_certificate: false,
        }
    }

    /// The socket below.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether the client showed a certificate (to a server).
    pub(crate) fn peer_certificate(&self) -> bool {
        self.peer_certificate
    }

    /// Writes bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Reads the response to a request of that method, 1xx answers included.
    pub(crate) fn answer(&mut self, method: &str) -> io::Result<Answer> {
        let mut interim = Vec::new();
        loop {
            let head = self
                .head()?
                .ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?;
            let status: u16 = match head.start.split(' ').collect::<Vec<_>>()[..] {
                ["HTTP/1.1" | "HTTP/1.0", status, ..] => status.parse().ok(),
                _ => None,
            }
            .ok_or_else(|| fault("status line", head.start.as_bytes()))?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let mut body = Vec::new();
            let framing = head.response_framing(method)?;
            let trailers = self.body(framing, &mut |bytes| body.extend_from_slice(bytes))?;
            return Ok(Answer {
                status,
                fields: head.fields,
                body,
                trailers,
                interim,
            });
        }
    }

    /// Reads a head; `None` if the other side closed before its first byte.
    pub(crate) fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                let rest = self.unread.split_off(at + 4);
                return Head::parse(std::mem::replace(&mut self.unread, rest)).map(Some);
            }
            if self.unread.len() > HEAD_BYTES_MAX {
                return Err(fault("head without end", &self.unread[..64]));
            }
            if self.fill()? == 0 {
                return match self.unread.is_empty() {
                    true => Ok(None),
                    false => Err(fault("head broken off", &self.unread)),
                };
            }
        }
    }

    /// Reads a body piece by piece, and returns its trailers.
    pub(crate) fn body(
        &mut self,
        framing: Framing,
        take: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Fields> {
        match framing {
            Framing::Length(length) => self.exactly(length, take)?,
            Framing::UntilClose => {
                while !self.unread.is_empty() || self.fill()? > 0 {
                    take(&self.unread);
                    self.unread.clear();
                }
            }
            Framing::Chunked => return self.chunks(take),
        }
        Ok(Fields::default())
    }

    fn chunks(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<Fields> {
        loop {
            let line = self.line()?;
            let size = std::str::from_utf8(&line)
                .ok()
                .and_then(|size| u64::from_str_radix(size, 16).ok())
                .ok_or_else(|| fault("chunk size", &line))?;
            if size == 0 {
                break;
            }
            self.exactly(size, take)?;
            let end = self.line()?;
            if !end.is_empty() {
                return Err(fault("chunk end", &end));
            }
        }
        let mut trailers = Fields::default();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(trailers);
            }
            trailers.0.push(field(&line)?);
        }
    }

    /// Reads that many bytes, piece by piece.
    pub(crate) fn exactly(&mut self, mut left: u64, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        while left > 0 {
            if self.unread.is_empty() && self.fill()? == 0 {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    format!("body broken off, {left} bytes missing"),
                ));
            }
            let count =
                usize::try_from(left).map_or(self.unread.len(), |l| l.min(self.unread.len()));
            take(&self.unread[..count]);
            self.unread.drain(..count);
            left -= count as u64;
        }
        Ok(())
    }

    /// Reads a line, and returns it without its end.
    pub(crate) fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.unread, b"\r\n") {
                let rest = self.unread.split_off(at + 2);
                let mut line = std::mem::replace(&mut self.unread, rest);
                line.truncate(at);
                return Ok(line);
            }
            if self.fill()? == 0 {
                return Err(fault("line broken off", &self.unread));
            }
        }
    }

    /// Waits for the other side to close, and says whether it did so without another byte.
    pub(crate) fn closed(&mut self) -> bool {
        self.unread.is_empty()
            && match self.stream.read(&mut [0]) {
                Ok(count) => count == 0,
                // Without close_notify, or with an RST for bytes that it did not read.
                Err(error) => matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ),
            }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let before = self.unread.len();
        self.unread.resize(before + 64 * 1024, 0);
        let read = loop {
            match self.stream.read(&mut self.unread[before..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.unread
            .truncate(before + read.as_ref().copied().unwrap_or(0));
        read
    }
}

fn field(line: &[u8]) -> io::Result<(String, Vec<u8>)> {
    let colon = line
        .iter()
        .position(|byte| *byte == b':')
        .ok_or_else(|| fault("header without a colon", line))?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(token) {
        return Err(fault("header name", line));
    }
    if value
        .iter()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
    {
        return Err(fault("header value", line));
    }
    Ok((String::from_utf8(name.to_vec()).unwrap(), value.to_vec()))
}

/// Reads a length: digits only.
fn decimal(text: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(text)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| fault("content-length", text))
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|w| w == pattern)
}

fn fault(what: &str, bytes: &[u8]) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        format!("{what}: {}", bytes.escape_ascii()),
    )
}
