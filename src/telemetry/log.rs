//! The log's way out: lines are gathered in memory and written by a thread of their own, so that no request waits for a terminal
//! or a pipe.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines beyond this many bytes are dropped and counted: a stuck reader must not eat the memory.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// How long lines are gathered before they are written together.
const GATHER: Duration = Duration::from_millis(20);

/// Where log lines go. Cheap to clone.
#[derive(Clone)]
pub struct LogSink(Arc<Shared>);

struct Shared {
    buffer: Mutex<Buffer>,
    filled: Condvar,
    written: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Buffer {
    lines: Vec<u8>,
    writing: bool,
}

impl LogSink {
    /// Starts the writing thread; it lives as long as the process.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn to(mut out: impl io::Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            buffer: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let this = Self(shared.clone());
        thread::Builder::new().name("log".into()).spawn(move || {
            let mut lines = Vec::new();
            loop {
                let mut buffer = lock(&shared.buffer);
                while buffer.lines.is_empty() {
                    buffer.writing = false;
                    shared.written.notify_all();
                    buffer = shared
                        .filled
                        .wait(buffer)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                drop(buffer);
                thread::sleep(GATHER);
                let mut buffer = lock(&shared.buffer);
                buffer.writing = true;
                std::mem::swap(&mut lines, &mut buffer.lines);
                drop(buffer);
                // A closed or full output: there is nowhere to say so.
                let _ = out.write_all(&lines).and_then(|()| out.flush());
                lines.clear();
            }
        })?;
        Ok(this)
    }

    /// Appends one line, or several, each with its line end.
    pub fn write(&self, lines: &[u8]) {
        let mut buffer = lock(&self.0.buffer);
        if buffer.lines.len() + lines.len() > BUFFER_BYTES_MAX {
            drop(buffer);
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = buffer.lines.is_empty();
        buffer.lines.extend_from_slice(lines);
        drop(buffer);
        if was_empty {
            self.0.filled.notify_one();
        }
    }

    /// How many lines were lost.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything was written, or until `patience` is over. For the end of the process.
    pub fn flush(&self, patience: Duration) {
        let buffer = lock(&self.0.buffer);
        let waiting = |buffer: &mut Buffer| buffer.writing || !buffer.lines.is_empty();
        drop(self.0.written.wait_timeout_while(buffer, patience, waiting));
    }
}

impl io::Write for &LogSink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LogSink::write(self, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogSink {
    type Writer = &'a LogSink;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets nothing through until the gate opens.
    struct Gated(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_costs_bounded_memory_and_is_counted() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = LogSink::to(Gated(written.clone())).unwrap();
        let stuck = lock(&written);
        let line = [b'x'; 1024];
        for _ in 0..4096 {
            sink.write(&line);
        }
        assert!(
            sink.dropped() > 1024,
            "{} lines were dropped",
            sink.dropped()
        );
        drop(stuck);
        sink.flush(Duration::from_secs(10));
        let kept = lock(&written).len() as u64;
        assert_eq!(kept + sink.dropped() * 1024, 4096 * 1024);
    }
}
