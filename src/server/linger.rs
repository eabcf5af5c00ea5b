//! Lingering close.
//!
//! Closing a socket with unread bytes resets the connection, and the sender may lose an answer that is still on its way. So what it
//! goes on writing is read and thrown away, until it closes, too.

use std::{cell::RefCell, io, mem::MaybeUninit, time::Duration};

use socket2::Socket;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::listen::Wire;

/// About so much is thrown away, and for so long.
const BYTES_MAX: usize = 4 << 20;
const TIME_MAX: Duration = Duration::from_secs(2);

/// Pause between two looks at what has come meanwhile. Most senders read the answer, stop and close within the first; what they sent
/// until then costs one look instead of one for each packet. Longer while nothing comes.
const PAUSE: Duration = Duration::from_millis(20);
const QUIET_PAUSE: Duration = Duration::from_millis(40);

/// What may come in one pause: a smaller buffer has the sender stop and go on again many times. Each look empties it of all that came
/// in order.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// Only who has sent so much by the first look gets that buffer.
const MUCH_BYTES: usize = 32 << 10;

/// Waits until the other side has closed, or for as long as it is given. Our side has ended.
pub(super) async fn close(wire: Wire) {
    let end = Instant::now() + TIME_MAX;
    // Most often this is the end of the stream.
    if !matches!(timeout_at(end, wire.readable()).await, Ok(Ok(()))) {
        return;
    }
    // Away from the poller, which each packet would wake.
    let Ok(socket) = wire.into_socket() else {
        return;
    };
    let mut thrown = 0;
    loop {
        let before = thrown;
        loop {
            match throw_away(&socket) {
                Ok(1..) if thrown >= BYTES_MAX => return,
                Ok(bytes @ 1..) => {
                    if thrown == 0
                        && bytes >= MUCH_BYTES
                        && socket
                            .recv_buffer_size()
                            .is_ok_and(|has| has < RECEIVE_BUFFER_BYTES)
                    {
                        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
                    }
                    thrown += bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => return,
            }
        }
        let pause = match thrown > before {
            true => PAUSE,
            false => QUIET_PAUSE,
        };
        let next = Instant::now() + pause;
        if next >= end {
            return;
        }
        sleep_until(next).await;
    }
}

thread_local! {
    /// Of TCP the system copies nothing into it, so that it is no more than addresses (tcp(7), `MSG_TRUNC`); of a Unix socket what its
    /// small buffer holds.
    static WASTE: RefCell<Box<[MaybeUninit<u8>]>> = RefCell::new(Box::new_uninit_slice(RECEIVE_BUFFER_BYTES));
}

/// Some of what has come: how many bytes; 0 at the end of the stream.
fn throw_away(socket: &Socket) -> io::Result<usize> {
    WASTE.with_borrow_mut(|waste| socket.recv_with_flags(waste, libc::MSG_TRUNC))
}
