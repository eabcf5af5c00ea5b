//! A line to a server that a test can cut: what goes through it stays on its way, without an end or an error, as behind a dead switch.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// A TCP port of 127.0.0.1 that leads to a Unix socket.
pub(crate) struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    open: Vec<(TcpStream, UnixStream)>,
}

impl Line {
    /// Leads to the socket at `path`, which need not be there yet.
    pub(crate) fn to(path: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(far) = UnixStream::connect(&path) else {
                    continue;
                };
                let pair = (near.try_clone().unwrap(), far.try_clone().unwrap());
                accepting.state.lock().unwrap().open.push(pair);
                let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let (there, back) = (accepting.clone(), accepting.clone());
                thread::spawn(move || {
                    let _ = there.carry(near, &far);
                    let _ = far.shutdown(Shutdown::Write);
                });
                thread::spawn(move || {
                    let _ = back.carry(far_too, &near_too);
                    let _ = near_too.shutdown(Shutdown::Write);
                });
            }
        });
        Self { address, shared }
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as `store` in a configuration.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Nothing comes through from now on.
    pub(crate) fn cut(&self) {
        self.shared.state.lock().unwrap().is_cut = true;
    }

    /// Everything comes through again, also what was on its way.
    pub(crate) fn mend(&self) {
        self.shared.state.lock().unwrap().is_cut = false;
        self.shared.changed.notify_all();
    }

    /// Ends every connection.
    pub(crate) fn reset(&self) {
        for (near, far) in self.shared.state.lock().unwrap().open.drain(..) {
            let _ = near.shutdown(Shutdown::Both);
            let _ = far.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.mend();
        self.reset();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn carry<W: Write>(&self, mut from: impl Read, mut to: W) -> io::Result<()> {
        let mut bytes = [0; 16 * 1024];
        loop {
            let count = from.read(&mut bytes)?;
            if count == 0 {
                return Ok(());
            }
            let state = self.state.lock().unwrap();
            drop(self.changed.wait_while(state, |state| state.is_cut));
            to.write_all(&bytes[..count])?;
        }
    }
}
