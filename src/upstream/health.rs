//! Which addresses of an upstream are worth a try. What is known is what became of the requests: nothing is sent to find out.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    backoff::{pause, random},
    telemetry::AddressMetrics,
};

/// The longest that an address is set aside for, between two trials.
const ASIDE_MAX: Duration = Duration::from_secs(30);

/// What is known of one address. Nothing of it is from the configuration, so that it can outlive one.
pub struct Health {
    /// Route and address, for log lines.
    route: String,
    address: String,
    /// Nothing is wrong: the state need not be looked at.
    is_well: AtomicBool,
    state: Mutex<State>,
    pub(super) metrics: AddressMetrics,
}

#[derive(Default)]
struct State {
    /// Failures in a row.
    fails: u32,
    /// Of these, trials of what was set aside already.
    trials: u32,
    /// The next trial; `None`: it is not set aside.
    next: Option<Instant>,
    last: Option<Failure>,
}

/// How an address failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It could not be connected to.
    Connect,
    /// It broke off instead of answering, or answered something else than HTTP.
    Broken,
    /// It sent no response head in time.
    Timeout,
}

/// Whether it is an address's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing speaks against it.
    Ready,
    /// It was set aside and is to be tried again, by this one request.
    Trial,
    /// It is set aside, and only for when all others fail.
    Aside,
}

impl Failure {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Connect, Self::Broken, Self::Timeout];

    /// The word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
        }
    }
}

impl Health {
    /// Of an address of which nothing is known yet.
    pub fn new(route: &str, address: String, metrics: AddressMetrics) -> Arc<Self> {
        metrics.up.set(1);
        Arc::new(Self {
            route: route.to_owned(),
            address,
            is_well: AtomicBool::new(true),
            state: Mutex::default(),
            metrics,
        })
    }

    /// The route, and the address.
    pub fn labels(&self) -> (&str, &str) {
        (&self.route, &self.address)
    }

    /// Of an address that is used once, and that nobody watches.
    pub(crate) fn unwatched() -> Arc<Self> {
        Self::new("", String::new(), AddressMetrics::default())
    }

    /// Whether nothing speaks against it: it is neither set aside nor near it.
    pub(super) fn is_well(&self) -> bool {
        self.is_well.load(Relaxed)
    }

    /// Asks for a turn. Whoever gets [`Turn::Trial`] has it alone, until the next one is due.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        if self.is_well() {
            return Turn::Ready;
        }
        let mut state = self.state();
        match state.next {
            None => Turn::Ready,
            Some(next) if now < next => Turn::Aside,
            Some(_) => {
                // A trial whose sender leaves is never reported: another comes after the same pause.
                state.next = Some(now + pause(state.trials + 1, ASIDE_MAX, random()));
                Turn::Trial
            }
        }
    }

    /// It answered.
    pub(super) fn succeeded(&self) {
        if self.is_well() {
            return;
        }
        let mut state = self.state();
        if state.next.is_some() {
            self.metrics.up.set(1);
            tracing::info!(
                route = self.route,
                address = self.address,
                "upstream answers again"
            );
        }
        *state = State::default();
        self.is_well.store(true, Relaxed);
    }

    /// It failed, in a trial or not. After `max_fails` failures in a row it is set aside; 0: never.
    pub(super) fn failed(&self, failure: Failure, trial: bool, max_fails: u32, now: Instant) {
        self.metrics.failures[failure as usize].inc();
        if max_fails == 0 {
            return;
        }
        let mut state = self.state();
        self.is_well.store(false, Relaxed);
        state.fails = state.fails.saturating_add(1);
        state.last = Some(failure);
        match (state.next, trial) {
            (None, _) if state.fails >= max_fails => {
                self.metrics.up.set(0);
                let aside = pause(1, ASIDE_MAX, random());
                state.next = Some(now + aside);
                tracing::warn!(
                    route = self.route,
                    address = self.address,
                    failures = state.fails,
                    last = failure.as_str(),
                    "upstream set aside"
                );
            }
            (Some(_), true) => {
                state.trials += 1;
                state.next = Some(now + pause(state.trials + 1, ASIDE_MAX, random()));
            }
            // Failures of requests that were under way already, or that found no other address, say nothing new.
            (None, _) | (Some(_), false) => {}
        }
    }

    /// The address, as the configuration writes it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether it is set aside.
    pub fn is_aside(&self) -> bool {
        !self.is_well() && self.state().next.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For people: the address, and what is known of it.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.write_str(&self.address)?;
        let last = state.last.map_or("", Failure::as_str);
        match (state.next, state.fails) {
            (None, 0) => f.write_str(" up"),
            (None, fails) => write!(f, " up, failures in a row: {fails}, last: {last}"),
            (Some(next), fails) => write!(
                f,
                " set aside, failures in a row: {fails}, last: {last}, next trial in {:.1} s",
                next.saturating_duration_since(Instant::now()).as_secs_f64()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Arc<Health> {
        Health::new("r", "http://a:80".into(), AddressMetrics::default())
    }

    fn at(began: Instant, ms: u64) -> Instant {
        began + Duration::from_millis(ms)
    }

    #[test]
    fn is_set_aside_after_failures_in_a_row_and_gets_one_trial() {
        let (health, began) = (health(), Instant::now());
        let fail = |ms| health.failed(Failure::Connect, false, 3, at(began, ms));
        fail(0);
        fail(0);
        health.succeeded();
        fail(0);
        fail(0);
        assert_eq!(health.turn(at(began, 0)), Turn::Ready, "not in a row");
        fail(0);
        assert_eq!(health.metrics.up.get(), 0);
        assert_eq!(health.turn(at(began, 499)), Turn::Aside);
        assert_eq!(health.turn(at(began, 1001)), Turn::Trial);
        assert_eq!(health.turn(at(began, 1001)), Turn::Aside, "one at a time");
        health.succeeded();
        assert_eq!(health.metrics.up.get(), 1);
        assert_eq!(health.turn(at(began, 1002)), Turn::Ready);
    }

    #[test]
    fn the_pauses_between_trials_grow_and_have_an_end() {
        let (health, began) = (health(), Instant::now());
        let mut now = began;
        health.failed(Failure::Timeout, false, 1, now);
        for (least, most) in [
            (500, 1000),
            (1000, 2000),
            (2000, 4000),
            (4000, 8000),
            (8000, 16_000),
            (15_000, 30_000),
            (15_000, 30_000),
        ] {
            // What others meanwhile fail at makes nothing longer.
            health.failed(Failure::Connect, false, 1, now);
            assert_eq!(health.turn(at(now, least - 1)), Turn::Aside, "{least}");
            now = at(now, most + 1);
            assert_eq!(health.turn(now), Turn::Trial, "{most}");
            health.failed(Failure::Connect, true, 1, now);
        }
    }

    #[test]
    fn a_trial_that_nobody_reports_is_followed_by_another() {
        let (health, began) = (health(), Instant::now());
        health.failed(Failure::Broken, false, 1, began);
        assert_eq!(health.turn(at(began, 1001)), Turn::Trial);
        assert_eq!(health.turn(at(began, 1400)), Turn::Aside);
        assert_eq!(health.turn(at(began, 2002)), Turn::Trial);
    }

    #[test]
    fn where_it_is_switched_off_failures_are_only_counted() {
        let (health, began) = (health(), Instant::now());
        for _ in 0..10 {
            health.failed(Failure::Connect, false, 0, began);
        }
        assert_eq!(health.turn(began), Turn::Ready);
        assert_eq!(health.metrics.failures[Failure::Connect as usize].get(), 10);
    }
}
