//! An HTTP/1.1 upstream that records what it sees, byte for byte, and misbehaves on demand.

use std::{
    collections::HashMap,
    io,
    net::{Shutdown, TcpListener},
    ops::Deref,
    os::unix::net::UnixListener,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use data_encoding::HEXLOWER;
use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{
    PATIENCE,
    recorder::{BODY_KEPT_MAX, Recorder, Seen},
    wire::{Address, Fields, Framing, Head, Socket, Wire},
};

/// What the upstream does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Behaviour {
    /// Reads the body, answers.
    Respond(Response),
    /// Reads the body, answers 200 with it.
    Echo,
    /// Reads the body, answers 200 once [`Upstream::release`] was called.
    Stall,
    /// Answers after the head, never reads the body, closes when the other side does.
    EarlyAnswer(Response),
    /// Reads the body, closes in order.
    CloseBeforeAnswer,
    /// Reads the body, resets the connection.
    ResetBeforeAnswer,
    /// Resets the connection after the head.
    ResetBeforeBody,
    /// Reads the body, declares `declared` bytes, sends `sent` of them, closes in order.
    DieMidResponse { declared: usize, sent: usize },
    /// The same with a reset.
    ResetMidResponse { declared: usize, sent: usize },
    /// Answers as if the connection stayed, and closes it.
    CloseAfterResponse(Response),
    /// Reads the body, writes these bytes.
    Raw(Vec<u8>),
    /// Reads the body, writes these bytes, closes in order.
    RawThenClose(Vec<u8>),
    /// Reads the body, writes these bytes and no more; ends when the other side closes.
    RawThenHang(Vec<u8>),
    /// Reads the body, writes these bytes, then a blank ten times a second until the other side closes.
    RawThenDrip(Vec<u8>),
    /// Answers, and closes on the first byte of the next request.
    CloseOnNextByte(Response),
    /// Writes these bytes after the head and reads nothing until [`Upstream::release`] was called.
    IgnoreBody(Vec<u8>),
    /// Answers after the head, reads the body once [`Upstream::release`] was called.
    AnswerThenRead(Response),
}

/// A response, written exactly as told.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    chunk: Option<usize>,
    bodiless: bool,
    interim: Vec<String>,
}

impl Response {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            status,
            fields: Fields::default(),
            body: Vec::new(),
            trailers: Fields::default(),
            chunk: None,
            bodiless: matches!(status, 204 | 304),
            interim: Vec::new(),
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push(name, value.as_ref());
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the body in chunks of that size.
    pub(crate) fn chunked(mut self, size: usize) -> Self {
        self.chunk = Some(size);
        self
    }

    /// Adds a trailer (with [`Response::chunked`]).
    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push(name, value);
        self
    }

    /// Sends a 1xx answer first.
    pub(crate) fn interim(mut self, status: u16, field: &str) -> Self {
        self.interim
            .push(format!("HTTP/1.1 {status} Wait\r\n{field}\r\n\r\n"));
        self
    }

    /// What goes over the wire.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.interim.concat().into_bytes();
        out.extend_from_slice(format!("HTTP/1.1 {} Said\r\n", self.status).as_bytes());
        write_fields(&mut out, &self.fields);
        match self.chunk {
            _ if self.bodiless => out.extend_from_slice(b"\r\n"),
            None => {
                let length = format!("Content-Length: {}\r\n\r\n", self.body.len());
                out.extend_from_slice(length.as_bytes());
                out.extend_from_slice(&self.body);
            }
            Some(size) => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in self.body.chunks(size) {
                    out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    out.extend_from_slice(chunk);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\n");
                write_fields(&mut out, &self.trailers);
                out.extend_from_slice(b"\r\n");
            }
        }
        out
    }
}

fn write_fields(out: &mut Vec<u8>, fields: &Fields) {
    for (name, value) in &fields.0 {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

type Behave = Arc<dyn Fn(&Head) -> Behaviour + Send + Sync>;

/// The running upstream; its [`Recorder`] says what it saw.
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    address: Address,
    https: bool,
    _folder: Option<TempDir>,
}

struct Shared {
    recorder: Recorder,
    tls: Option<Arc<ServerConfig>>,
    control: Mutex<Control>,
    changed: Condvar,
}

struct Control {
    behave: Behave,
    /// Whether the listener is open, should close, or is closed.
    listener: Door,
    released: bool,
    /// Handles of the open connections, to end them with.
    open: HashMap<usize, Socket>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Closing,
    Closed,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn bind(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(address) => Self::Tcp(TcpListener::bind(address)?),
            Address::Unix(path) => {
                let _ = std::fs::remove_file(path);
                Self::Unix(UnixListener::bind(path)?)
            }
        })
    }

    fn accept(&self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Socket::Tcp(stream)
            }
            Self::Unix(listener) => Socket::Unix(listener.accept()?.0),
        })
    }
}

impl Deref for Upstream {
    type Target = Recorder;

    fn deref(&self) -> &Recorder {
        &self.shared.recorder
    }
}

impl Upstream {
    /// Listens on a free TCP port of 127.0.0.1.
    pub(crate) fn start(behave: impl Fn(&Head) -> Behaviour + Send + Sync + 'static) -> Self {
        Self::listen(Address::parse("127.0.0.1:0"), None, None, Arc::new(behave))
    }

    /// Answers every request with 200 and an empty body.
    pub(crate) fn accepting() -> Self {
        Self::start(|_| Behaviour::Respond(Response::new(200)))
    }

    /// Listens on a Unix socket.
    pub(crate) fn start_unix(behave: impl Fn(&Head) -> Behaviour + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("upstream.sock"));
        Self::listen(address, None, Some(folder), Arc::new(behave))
    }

    /// Speaks TLS on a free TCP port of 127.0.0.1.
    pub(crate) fn start_tls(
        tls: Arc<ServerConfig>,
        behave: impl Fn(&Head) -> Behaviour + Send + Sync + 'static,
    ) -> Self {
        let address = Address::parse("127.0.0.1:0");
        Self::listen(address, Some(tls), None, Arc::new(behave))
    }

    fn listen(
        address: Address,
        tls: Option<Arc<ServerConfig>>,
        folder: Option<TempDir>,
        behave: Behave,
    ) -> Self {
        let listener = Listener::bind(&address).unwrap();
        let address = match &listener {
            Listener::Tcp(listener) => Address::Tcp(listener.local_addr().unwrap()),
            Listener::Unix(_) => address,
        };
        let https = tls.is_some();
        let shared = Arc::new(Shared {
            recorder: Recorder::default(),
            tls,
            control: Mutex::new(Control {
                behave,
                listener: Door::Open,
                released: false,
                open: HashMap::new(),
            }),
            changed: Condvar::new(),
        });
        spawn_accept(listener, Arc::clone(&shared));
        Self {
            shared,
            address,
            https,
            _folder: folder,
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The address as `upstream` in a route.
    pub(crate) fn url(&self) -> String {
        match &self.address {
            Address::Tcp(address) if self.https => format!("https://localhost:{}", address.port()),
            Address::Tcp(address) => format!("http://{address}"),
            unix @ Address::Unix(_) => unix.to_string(),
        }
    }

    /// Does something else from the next request on.
    pub(crate) fn behave(&self, behave: impl Fn(&Head) -> Behaviour + Send + Sync + 'static) {
        self.shared.control.lock().unwrap().behave = Arc::new(behave);
    }

    /// Lets the stalled requests go on, and all later ones.
    pub(crate) fn release(&self) {
        self.shared.control.lock().unwrap().released = true;
        self.shared.changed.notify_all();
    }

    /// Ends every open connection in order, as a server that restarts does.
    pub(crate) fn close_connections(&self) {
        for socket in self.shared.control.lock().unwrap().open.values() {
            socket.shutdown(Shutdown::Both);
        }
    }

    /// Closes the listener: from now on connections are refused. Returns when they are.
    pub(crate) fn refuse(&self) {
        let mut control = self.shared.control.lock().unwrap();
        if control.listener != Door::Open {
            return;
        }
        control.listener = Door::Closing;
        drop(control);
        // Wakes the accepting thread.
        let _ = Socket::connect(&self.address, PATIENCE);
        let (control, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.control.lock().unwrap(), PATIENCE, |control| {
                control.listener != Door::Closed
            })
            .unwrap();
        assert_eq!(control.listener, Door::Closed, "the listener stays open");
    }

    /// Listens again on the same address.
    pub(crate) fn reopen(&self) {
        let listener = Listener::bind(&self.address).unwrap();
        self.shared.control.lock().unwrap().listener = Door::Open;
        spawn_accept(listener, Arc::clone(&self.shared));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.release();
        if !thread::panicking() {
            self.refuse();
        }
        self.close_connections();
    }
}

fn spawn_accept(listener: Listener, shared: Arc<Shared>) {
    thread::spawn(move || {
        loop {
            let accepted = listener.accept();
            let mut control = shared.control.lock().unwrap();
            if control.listener == Door::Closing {
                drop(listener);
                control.listener = Door::Closed;
                shared.changed.notify_all();
                return;
            }
            let Ok(socket) = accepted else { continue };
            let connection = shared.recorder.connected();
            control.open.insert(connection, socket.try_clone().unwrap());
            drop(control);
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if let Err(error) = shared.serve(socket, connection) {
                    shared.recorder.fault(error.to_string());
                }
                shared.control.lock().unwrap().open.remove(&connection);
                shared.recorder.disconnected();
            });
        }
    });
}

impl Shared {
    /// Serves one connection to its end.
    ///
    /// # Errors
    /// If a request is malformed or broken off; not if the other side leaves instead of reading an answer.
    fn serve(&self, socket: Socket, connection: usize) -> io::Result<()> {
        let mut wire = match &self.tls {
            None => Wire::plain(socket)?,
            Some(tls) => Wire::tls_server(socket, Arc::clone(tls))?,
        };
        loop {
            let head = match wire.head() {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(()),
                // Nothing was asked: an idle connection that was cut.
                Err(error) if error.kind() != io::ErrorKind::InvalidData => return Ok(()),
                Err(error) => return Err(error),
            };
            if head.word(2) != "HTTP/1.1" {
                return Err(io::Error::other(format!("not HTTP/1.1: {}", head.start)));
            }
            let framing = head.request_framing()?;
            let behave = Arc::clone(&self.control.lock().unwrap().behave);
            let behaviour = behave(&head);
            if let Behaviour::AnswerThenRead(response) = &behaviour {
                wire.send(&response.to_bytes())?;
                self.wait_for_release();
            }
            let reads = !matches!(
                behaviour,
                Behaviour::EarlyAnswer(_) | Behaviour::ResetBeforeBody | Behaviour::IgnoreBody(_)
            );
            let seen = self.read(&mut wire, &head, reads.then_some(framing), connection)?;
            let body = seen.body.clone();
            self.recorder.record(seen);
            if !self.act(&mut wire, behaviour, body) {
                return Ok(());
            }
        }
    }

    fn read(
        &self,
        wire: &mut Wire,
        head: &Head,
        framing: Option<Framing>,
        connection: usize,
    ) -> io::Result<Seen> {
        let mut digest = Sha256::new();
        let mut body_len = 0;
        let mut body = Vec::new();
        let mut take = |bytes: &[u8]| {
            digest.update(bytes);
            body_len += bytes.len() as u64;
            if body.len() <= BODY_KEPT_MAX {
                body.extend_from_slice(bytes);
            }
        };
        let trailers = match framing {
            None => Fields::default(),
            Some(framing) => wire.body(framing, &mut take)?,
        };
        Ok(Seen {
            raw_head: head.raw.clone(),
            method: head.word(0).into(),
            target: head.word(1).into(),
            fields: head.fields.clone(),
            trailers,
            body_len,
            body_sha256: HEXLOWER.encode(&digest.finalize()),
            body: (body_len <= BODY_KEPT_MAX as u64).then_some(body),
            connection,
            client_certificate: wire.peer_certificate(),
        })
    }

    fn wait_for_release(&self) {
        let control = self.control.lock().unwrap();
        drop(
            self.changed
                .wait_while(control, |control| !control.released),
        );
    }

    /// Acts as told; `false` if the connection is over.
    fn act(&self, wire: &mut Wire, behaviour: Behaviour, body: Option<Vec<u8>>) -> bool {
        let partial = |declared: usize, sent: usize| {
            let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {declared}\r\n\r\n");
            bytes.push_str(&"x".repeat(sent));
            bytes.into_bytes()
        };
        match behaviour {
            Behaviour::Respond(response) => wire.send(&response.to_bytes()).is_ok(),
            Behaviour::Echo => {
                let echo = Response::new(200).body(body.expect("a body that is kept"));
                wire.send(&echo.to_bytes()).is_ok()
            }
            Behaviour::Stall => {
                self.wait_for_release();
                wire.send(&Response::new(200).to_bytes()).is_ok()
            }
            Behaviour::EarlyAnswer(response) => {
                // The other side may well close on seeing it; what it still sends is read and dropped.
                if wire.send(&response.to_bytes()).is_ok() {
                    let _ = wire.body(Framing::UntilClose, &mut |_| {});
                }
                false
            }
            Behaviour::CloseBeforeAnswer => false,
            Behaviour::ResetBeforeAnswer | Behaviour::ResetBeforeBody => {
                wire.socket().reset_on_close();
                false
            }
            Behaviour::DieMidResponse { declared, sent } => {
                let _ = wire.send(&partial(declared, sent));
                false
            }
            Behaviour::ResetMidResponse { declared, sent } => {
                let _ = wire.send(&partial(declared, sent));
                wire.socket().reset_on_close();
                false
            }
            Behaviour::CloseAfterResponse(response) => {
                let _ = wire.send(&response.to_bytes());
                wire.socket().shutdown(Shutdown::Both);
                false
            }
            Behaviour::Raw(bytes) => wire.send(&bytes).is_ok(),
            Behaviour::RawThenClose(bytes) => {
                let _ = wire.send(&bytes);
                false
            }
            Behaviour::RawThenHang(bytes) => {
                let _ = wire.send(&bytes);
                let _ = wire.body(Framing::UntilClose, &mut |_| {});
                false
            }
            Behaviour::RawThenDrip(bytes) => {
                let pause = Duration::from_millis(100);
                let mut open =
                    wire.send(&bytes).is_ok() && wire.socket().set_limit(Some(pause)).is_ok();
                while open {
                    // Waiting for the end is the pause.
                    let ended = wire.body(Framing::UntilClose, &mut |_| {});
                    let paused =
                        ended.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
                    open = paused && wire.send(b" ").is_ok();
                }
                false
            }
            Behaviour::CloseOnNextByte(response) => {
                let _ = wire.send(&response.to_bytes());
                let _ = wire.body(Framing::Length(1), &mut |_| {});
                false
            }
            Behaviour::AnswerThenRead(_) => true,
            Behaviour::IgnoreBody(bytes) => {
                let _ = wire.send(&bytes);
                self.wait_for_release();
                false
            }
        }
    }
}
