//! What was fetched, and when a document may be asked for again. Pure: no socket, no clock of its own.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};

use super::get::{FetchError, Fetched};
use crate::{backoff::pause, config::FetchConfig};

/// Documents, and failures to get one, that are remembered.
const ENTRIES_MAX: usize = 1024;

/// Bytes of all documents together.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Documents that a route may ask for because requests name them, in a minute and at once. Those that are held do not count.
const LOOKUPS_PER_MINUTE: u32 = 20;
const LOOKUPS_AT_ONCE: usize = 4;

const MINUTE: Duration = Duration::from_secs(60);

/// What a document is known by: a digest of all that is sent for it.
pub(super) type Id = [u8; 32];

/// A document. Two are the same only if they are of one fetch.
pub(super) struct Document {
    pub(super) body: Bytes,
    /// One of its keys, or of an earlier one's, has verified a request: it is not just something that a forged request named.
    pub(super) proven: AtomicBool,
}

/// How a fetch ended.
pub(super) type Landing = Result<Arc<Document>, Arc<FetchError>>;

/// A fetch under way, to be waited for.
pub(super) type Flight = watch::Receiver<Option<Landing>>;

/// A fetch that has to be made now, by whoever was given this.
pub(super) struct Takeoff {
    pub(super) id: Id,
    pub(super) tell: watch::Sender<Option<Landing>>,
    /// A document is held that this fetch is to replace.
    pub(super) refresh: bool,
    /// The request says which document it is.
    named: bool,
}

/// Who asks for a document, and for which.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) id: Id,
    /// Name of the route.
    pub(super) route: &'a str,
    /// The request says which document it is.
    pub(super) named: bool,
    /// One that is not this.
    pub(super) newer_than: Option<&'a Arc<Document>>,
}

/// What to do for who asks.
pub(super) enum Step {
    /// Take this; and make the fetch, if one is due, for those who come later.
    Take(Arc<Document>, Option<Takeoff>),
    /// Wait; and make the fetch, if nobody does.
    Wait(Flight, Option<Takeoff>),
    /// There is none, and it may not be asked for now.
    Refuse(Arc<FetchError>),
}

pub(super) struct Cache {
    policy: FetchConfig,
    entries: HashMap<Id, Entry>,
    /// Lookups by name of the route: its place changes when the configuration is read again.
    quotas: HashMap<String, Quota>,
    bytes: usize,
}

struct Entry {
    held: Option<Held>,
    failed: Option<Failed>,
    flight: Option<(String, Flight)>,
    used: Instant,
}

struct Held {
    document: Arc<Document>,
    at: Instant,
    fresh: Duration,
}

struct Failed {
    error: Arc<FetchError>,
    in_a_row: u32,
    /// When it may be tried again.
    until: Instant,
}

struct Quota {
    since: Instant,
    lookups: u32,
}

impl Cache {
    pub(super) fn new(policy: FetchConfig) -> Self {
        Self {
            policy,
            entries: HashMap::new(),
            quotas: HashMap::new(),
            bytes: 0,
        }
    }

    /// What to do for who asks.
    pub(super) fn ask(&mut self, question: Question<'_>, now: Instant) -> Step {
        let Some(entry) = self.entries.get_mut(&question.id) else {
            return self.look_up(question, now);
        };
        entry.used = now;
        let flight = entry.flight().cloned();
        let may_try = entry
            .failed
            .as_ref()
            .is_none_or(|failed| failed.until <= now);
        if let Some(held) = &entry.held {
            let document = held.document.clone();
            let age = now.saturating_duration_since(held.at);
            let rested = age >= self.policy.cool_down;
            let unwanted = question
                .newer_than
                .is_some_and(|old| Arc::ptr_eq(old, &document));
            if unwanted {
                // Never for each forged request: what came just now is as new as it gets.
                if !rested {
                    return Step::Take(document, None);
                }
            } else if age < held.fresh {
                return Step::Take(document, None);
            } else if age < held.fresh.saturating_add(self.policy.stale) {
                let due = flight.is_none() && may_try && rested;
                let takeoff = due.then(|| entry.take_off(question, true).0);
                return Step::Take(document, takeoff);
            }
        }
        match (flight, &entry.failed) {
            (Some(flight), _) => Step::Wait(flight, None),
            (None, Some(failed)) if !may_try => Step::Refuse(failed.error.clone()),
            (None, _) => self.look_up(question, now),
        }
    }

    /// Begins a fetch that somebody will wait for, if the route may.
    fn look_up(&mut self, question: Question<'_>, now: Instant) -> Step {
        let known = self
            .entries
            .get(&question.id)
            .is_some_and(|entry| entry.held.is_some());
        if question.named && !known && !self.may_look_up(question.route, now) {
            return Step::Refuse(Arc::new(FetchError::Limited));
        }
        if !self.entries.contains_key(&question.id) {
            self.make_room(None, 1);
        }
        let entry = self.entries.entry(question.id).or_insert(Entry {
            held: None,
            failed: None,
            flight: None,
            used: now,
        });
        let (takeoff, flight) = entry.take_off(question, known);
        Step::Wait(flight, Some(takeoff))
    }

    fn may_look_up(&mut self, route: &str, now: Instant) -> bool {
        let quota = self.quotas.entry(route.to_owned()).or_insert(Quota {
            since: now,
            lookups: 0,
        });
        if now.saturating_duration_since(quota.since) >= MINUTE {
            *quota = Quota {
                since: now,
                lookups: 0,
            };
        }
        // The minute first: it is cheap to ask, however many requests are forged.
        let may = quota.lookups < LOOKUPS_PER_MINUTE
            && self
                .entries
                .values()
                .filter(|entry| entry.held.is_none() && entry.flight().is_some())
                .filter(|entry| entry.flight.as_ref().is_some_and(|(by, _)| *by == route))
                .count()
                < LOOKUPS_AT_ONCE;
        quota.lookups += u32::from(may);
        may
    }

    /// Takes in how a fetch ended, and gives what to tell those who wait. `random` spreads the tries of many gateways.
    pub(super) fn land(
        &mut self,
        takeoff: &Takeoff,
        outcome: Result<Fetched, FetchError>,
        random: u8,
        now: Instant,
    ) -> Landing {
        let absent = matches!(outcome, Err(FetchError::Absent(_)));
        let proven = self
            .entries
            .get(&takeoff.id)
            .is_some_and(|entry| entry.worth() == Worth::Proven);
        let outcome = outcome.map_err(Arc::new).map(|fetched| {
            let document = Arc::new(Document {
                body: fetched.body,
                proven: proven.into(),
            });
            (document, fetched.fresh)
        });
        let landing = match &outcome {
            Ok((document, _)) => Ok(document.clone()),
            Err(error) => Err(error.clone()),
        };
        // Entries with a fetch under way are never dropped.
        let Some(entry) = self.entries.get_mut(&takeoff.id) else {
            return landing;
        };
        entry.flight = None;
        // What the server has withdrawn counts no longer. Where there is but one document, its server may only be confused.
        if outcome.is_ok() || (absent && takeoff.named) {
            let gone = entry.held.take();
            self.bytes -= gone.map_or(0, |held| held.document.body.len());
        }
        match outcome {
            Ok((document, fresh)) => {
                self.bytes += document.body.len();
                entry.failed = None;
                entry.held = Some(Held {
                    document,
                    at: now,
                    fresh: fresh.clamp(self.policy.fresh_min, self.policy.fresh_max),
                });
                self.make_room(Some(takeoff.id), 0);
            }
            Err(error) => {
                let in_a_row = entry.failed.as_ref().map_or(0, |failed| failed.in_a_row) + 1;
                let pause = match absent {
                    true => self.policy.cool_down,
                    false => pause(in_a_row, self.policy.cool_down, random),
                };
                entry.failed = Some(Failed {
                    error,
                    in_a_row,
                    until: now + pause,
                });
            }
        }
        landing
    }

    /// Drops entries until so many more fit: those that are worth least, of them the longest unused.
    fn make_room(&mut self, keep: Option<Id>, more: usize) {
        while self.entries.len() + more > ENTRIES_MAX || self.bytes > BYTES_MAX {
            let worst = self
                .entries
                .iter()
                .filter(|(id, entry)| Some(**id) != keep && entry.flight().is_none())
                .min_by_key(|(_, entry)| (entry.worth(), entry.used))
                .map(|(id, _)| *id);
            let Some(gone) = worst.and_then(|id| self.entries.remove(&id)) else {
                return;
            };
            self.bytes -= gone.held.map_or(0, |held| held.document.body.len());
        }
    }
}

/// What an entry is worth keeping for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// It only tells that there is no document.
    Nothing,
    /// A document that a request named; forged ones can name all that there are.
    Named,
    /// A document whose keys sign genuine requests.
    Proven,
}

impl Entry {
    fn worth(&self) -> Worth {
        match &self.held {
            None => Worth::Nothing,
            Some(held) if held.document.proven.load(Ordering::Relaxed) => Worth::Proven,
            Some(_) => Worth::Named,
        }
    }

    /// The fetch under way. One whose maker has gone is none.
    fn flight(&self) -> Option<&Flight> {
        let (_, flight) = self.flight.as_ref()?;
        flight.has_changed().is_ok().then_some(flight)
    }

    fn take_off(&mut self, question: Question<'_>, refresh: bool) -> (Takeoff, Flight) {
        let (tell, flight) = watch::channel(None);
        self.flight = Some((question.route.to_owned(), flight.clone()));
        let takeoff = Takeoff {
            id: question.id,
            tell,
            refresh,
            named: question.named,
        };
        (takeoff, flight)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::StatusCode;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cache() -> Cache {
        Cache::new(FetchConfig {
            timeout: 5 * SECOND,
            ca: None,
            resolve: BTreeMap::new(),
            fresh_min: MINUTE,
            fresh_max: 60 * MINUTE,
            stale: 10 * MINUTE,
            cool_down: 30 * SECOND,
        })
    }

    fn fixed(id: u8) -> Question<'static> {
        Question {
            id: [id; 32],
            route: "",
            named: false,
            newer_than: None,
        }
    }

    fn named(id: u16, route: usize) -> Question<'static> {
        let mut whole = [0; 32];
        whole[..2].copy_from_slice(&id.to_be_bytes());
        Question {
            id: whole,
            route: route.to_string().leak(),
            named: true,
            newer_than: None,
        }
    }

    fn document(len: usize, fresh: Duration) -> Result<Fetched, FetchError> {
        Ok(Fetched {
            body: Bytes::from(vec![b'x'; len]),
            fresh,
        })
    }

    #[track_caller]
    fn begins(step: Step) -> Takeoff {
        let word = word(&step);
        let Step::Wait(_, Some(takeoff)) = step else {
            panic!("{word}");
        };
        takeoff
    }

    fn word(step: &Step) -> &'static str {
        match step {
            Step::Take(_, None) => "take",
            Step::Take(_, Some(_)) => "take and refresh",
            Step::Wait(_, None) => "wait",
            Step::Wait(_, Some(_)) => "begin",
            Step::Refuse(error) => error.result(),
        }
    }

    #[test]
    fn one_document_is_fetched_once_served_while_stale_and_fetched_anew_when_too_old() {
        let (mut cache, start) = (cache(), Instant::now());
        let takeoff = begins(cache.ask(fixed(1), start));
        assert_eq!(word(&cache.ask(fixed(1), start)), "wait");
        assert!(
            cache
                .land(&takeoff, document(9, 5 * MINUTE), 0, start)
                .is_ok()
        );
        let at = |minutes: u32| start + minutes * MINUTE;
        assert_eq!(word(&cache.ask(fixed(1), at(4))), "take");
        let Step::Take(_, Some(refresh)) = cache.ask(fixed(1), at(6)) else {
            panic!("it is stale");
        };
        assert!(refresh.refresh);
        assert_eq!(word(&cache.ask(fixed(1), at(6))), "take", "one refreshes");
        let failed = cache.land(&refresh, Err(FetchError::Timeout), 255, at(6));
        assert!(failed.is_err());
        assert_eq!(word(&cache.ask(fixed(1), at(6))), "take", "it has to rest");
        assert_eq!(
            word(&cache.ask(fixed(1), at(6) + SECOND)),
            "take and refresh"
        );
        // Nobody made that fetch: another may.
        assert_eq!(word(&cache.ask(fixed(1), at(15))), "begin");
    }

    #[test]
    fn what_its_server_says_of_freshness_has_bounds() {
        for (said, fresh_for) in [(Duration::ZERO, MINUTE), (1000 * MINUTE, 60 * MINUTE)] {
            let (mut cache, start) = (cache(), Instant::now());
            let takeoff = begins(cache.ask(fixed(1), start));
            let _ = cache.land(&takeoff, document(9, said), 0, start);
            let last = start + fresh_for - SECOND;
            assert_eq!(word(&cache.ask(fixed(1), last)), "take");
            assert_eq!(
                word(&cache.ask(fixed(1), last + SECOND)),
                "take and refresh"
            );
        }
    }

    #[test]
    fn a_newer_one_is_asked_for_once_per_cool_down_and_a_failure_has_to_rest() {
        let (mut cache, start) = (cache(), Instant::now());
        let takeoff = begins(cache.ask(fixed(1), start));
        let old = cache.land(&takeoff, document(9, MINUTE), 0, start).unwrap();
        let newer = Question {
            newer_than: Some(&old),
            ..fixed(1)
        };
        assert_eq!(word(&cache.ask(newer, start + 29 * SECOND)), "take");
        let again = begins(cache.ask(newer, start + 30 * SECOND));
        assert_eq!(word(&cache.ask(newer, start + 30 * SECOND)), "wait");
        let later = start + 31 * SECOND;
        let _ = cache.land(&again, Err(FetchError::Timeout), 255, later);
        assert_eq!(word(&cache.ask(newer, later)), "timeout");
        let again = begins(cache.ask(newer, later + SECOND));
        let _ = cache.land(&again, document(8, MINUTE), 0, later + SECOND);
        // Who has the old one gets the new one, which somebody else fetched.
        let Step::Take(new, None) = cache.ask(newer, later + SECOND) else {
            panic!("it is here");
        };
        assert!(!Arc::ptr_eq(&old, &new));
    }

    #[test]
    fn what_requests_name_is_limited_for_each_route_and_what_is_held_is_not() {
        let (mut cache, start) = (cache(), Instant::now());
        let good = begins(cache.ask(named(1, 0), start));
        let _ = cache.land(&good, document(9, MINUTE), 0, start);
        let flights: Vec<_> = (2..6)
            .map(|id| begins(cache.ask(named(id, 0), start)))
            .collect();
        assert_eq!(word(&cache.ask(named(6, 0), start)), "limited", "at once");
        assert_eq!(
            word(&cache.ask(named(7, 1), start)),
            "begin",
            "another route"
        );
        let absent = || Err(FetchError::Absent(StatusCode::NOT_FOUND));
        for flight in &flights {
            let _ = cache.land(flight, absent(), 0, start);
        }
        let mut begun = 5;
        for id in 100..1000 {
            if let Step::Wait(_, Some(takeoff)) = cache.ask(named(id, 0), start) {
                let _ = cache.land(&takeoff, absent(), 0, start);
                begun += 1;
            }
        }
        assert_eq!(begun, LOOKUPS_PER_MINUTE);
        assert_eq!(word(&cache.ask(named(2, 0), start)), "absent", "remembered");
        assert_eq!(word(&cache.ask(named(1, 0), start)), "take");
        assert_eq!(word(&cache.ask(named(1000, 0), start + MINUTE)), "begin");
    }

    #[test]
    fn room_is_made_of_what_is_worth_least() {
        let (mut cache, start) = (cache(), Instant::now());
        for (id, bytes) in [(1, BYTES_MAX / 2), (2, BYTES_MAX / 4), (3, BYTES_MAX / 4)] {
            let takeoff = begins(cache.ask(named(id, usize::from(id)), start));
            let _ = cache.land(&takeoff, document(bytes, 60 * MINUTE), 0, start);
        }
        let later = start + SECOND;
        let Step::Take(proven, None) = cache.ask(named(1, 1), start) else {
            panic!("it is held");
        };
        proven.proven.store(true, Ordering::Relaxed);
        assert_eq!(word(&cache.ask(named(2, 2), later)), "take");
        let takeoff = begins(cache.ask(named(4, 4), later));
        let _ = cache.land(&takeoff, document(1, 60 * MINUTE), 0, later);
        assert_eq!(word(&cache.ask(named(1, 1), later)), "take", "proven");
        assert_eq!(word(&cache.ask(named(2, 2), later)), "take", "used since");
        assert_eq!(word(&cache.ask(named(3, 3), later)), "begin", "dropped");
        assert!(cache.bytes <= BYTES_MAX);
        for id in 0..2000 {
            let route = usize::from(id) + 10;
            let takeoff = begins(cache.ask(named(id + 10, route), later));
            let _ = cache.land(&takeoff, Err(FetchError::Timeout), 0, later);
            assert!(cache.entries.len() <= ENTRIES_MAX);
        }
        assert_eq!(word(&cache.ask(named(1, 1), later)), "take", "still here");
    }

    #[test]
    fn what_is_proven_stays_so_when_the_document_is_replaced() {
        let (mut cache, start) = (cache(), Instant::now());
        let takeoff = begins(cache.ask(named(1, 0), start));
        let first = cache.land(&takeoff, document(9, MINUTE), 0, start).unwrap();
        first.proven.store(true, Ordering::Relaxed);
        let later = start + 2 * MINUTE;
        let Step::Take(_, Some(refresh)) = cache.ask(named(1, 0), later) else {
            panic!("it is stale");
        };
        let second = cache.land(&refresh, document(9, MINUTE), 0, later).unwrap();
        assert!(second.proven.load(Ordering::Relaxed));
    }

    #[test]
    fn what_is_withdrawn_counts_no_longer_if_a_request_named_it() {
        for (question, want) in [(named(1, 0), "absent"), (fixed(1), "take")] {
            let (mut cache, start) = (cache(), Instant::now());
            let takeoff = begins(cache.ask(question, start));
            let _ = cache.land(&takeoff, document(9, MINUTE), 0, start);
            let later = start + 2 * MINUTE;
            let Step::Take(_, Some(refresh)) = cache.ask(question, later) else {
                panic!("it is stale");
            };
            let gone = Err(FetchError::Absent(StatusCode::GONE));
            let _ = cache.land(&refresh, gone, 0, later);
            assert_eq!(word(&cache.ask(question, later)), want);
        }
    }
}
