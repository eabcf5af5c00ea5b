//! What a process writes, line by line, while it runs.

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Instant,
};

use serde_json::Value;

use super::PATIENCE;

/// One line of stdout or stderr.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) text: String,
    json: Option<Value>,
}

impl Line {
    fn new(text: String) -> Self {
        let json = serde_json::from_str(&text).ok().filter(Value::is_object);
        Self { text, json }
    }

    /// A field: of the object itself, or of its `fields` or `span`.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        let json = self.json.as_ref()?;
        json.get(name)
            .or_else(|| json.get("fields")?.get(name))
            .or_else(|| json.get("span")?.get(name))
    }

    /// A field that is text.
    pub(crate) fn text_field(&self, name: &str) -> Option<&str> {
        self.field(name)?.as_str()
    }

    /// A field that is true or false, also if written as text.
    pub(crate) fn bool_field(&self, name: &str) -> Option<bool> {
        let value = self.field(name)?;
        value.as_bool().or_else(|| value.as_str()?.parse().ok())
    }

    /// A field that is a number, also if written as text.
    pub(crate) fn number_field(&self, name: &str) -> Option<u64> {
        let value = self.field(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    /// Whether this is the event of that name.
    pub(crate) fn is(&self, message: &str) -> bool {
        self.text_field("message") == Some(message)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// All lines so far; threads can wait for more.
#[derive(Clone, Default)]
pub(crate) struct Logs(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    /// Pipes still open.
    open: usize,
}

impl Logs {
    /// Reads a pipe to its end, on a thread of its own.
    pub(crate) fn follow(&self, pipe: impl Read + Send + 'static) {
        self.0.0.lock().unwrap().open += 1;
        let shared = Arc::clone(&self.0);
        thread::spawn(move || {
            let (state, changed) = &*shared;
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = Line::new(String::from_utf8_lossy(&line).into_owned());
                state.lock().unwrap().lines.push(line);
                changed.notify_all();
            }
            state.lock().unwrap().open -= 1;
            changed.notify_all();
        });
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.0.0.lock().unwrap().lines.clone()
    }

    /// Everything as one text: to show, or to search for what must not be there.
    pub(crate) fn text(&self) -> String {
        self.lines()
            .iter()
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// Waits for a line; `None` if the process closed its pipes first.
    ///
    /// # Panics
    /// If it takes longer than [`PATIENCE`].
    pub(crate) fn wait_for(&self, wanted: impl Fn(&Line) -> bool) -> Option<Line> {
        self.wait(|state| {
            let line = state.lines.iter().find(|line| wanted(line)).cloned();
            (line.is_some() || state.open == 0).then_some(line)
        })
    }

    /// Waits for `count` lines of a kind.
    pub(crate) fn wait_for_count(&self, count: usize, wanted: impl Fn(&Line) -> bool) -> Vec<Line> {
        self.wait(|state| {
            let lines: Vec<_> = state.lines.iter().filter(|line| wanted(line)).collect();
            (lines.len() >= count).then(|| lines.into_iter().cloned().collect())
        })
    }

    /// Waits until the process closed its pipes: it ended, or is about to.
    pub(crate) fn wait_for_end(&self) {
        self.wait(|state| (state.open == 0).then_some(()));
    }

    fn wait<T>(&self, done: impl Fn(&State) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        loop {
            if let Some(value) = done(&state) {
                return value;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                panic!(
                    "waited {PATIENCE:?} in vain; the output so far:\n{}",
                    self.text()
                );
            }
            state = changed.wait_timeout(state, left).unwrap().0;
        }
    }
}
