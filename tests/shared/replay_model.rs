//! A small model of a replay store, and random schedules to show it and a real one: they have to say the same.

use std::{collections::HashMap, time::Duration};

use countersign::replay::{Admission, Id, Settlement, Token};
use proptest::prelude::*;

/// A store under test, with a clock that the test moves.
pub(crate) trait Subject {
    async fn admit(&mut self, id: Id, lease: Duration) -> Admission;
    async fn settle(&mut self, id: Id, token: Token, settlement: Settlement);
    /// Lets time pass.
    async fn advance(&mut self, by: Duration);
}

/// One thing that happens. Times are counted in units: leases and windows end at odd ones, the clock moves by even ones, so that no
/// end falls together with a step and a store with a clock of its own has a whole unit to be late.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A delivery comes.
    Admit { id: u8, lease: u32 },
    /// An owner of a lease, late or not, is answered with 2xx.
    Succeed {
        owner: usize,
        status: u16,
        window: u32,
    },
    /// An owner of a lease, late or not, is answered otherwise.
    Fail { owner: usize },
    /// An owner is killed: it never settles.
    Die { owner: usize },
    /// Time passes.
    Advance { by: u32 },
}

/// Any schedule over that many ids.
pub(crate) fn schedule(ids: u8, steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..ids, 0..4_u32).prop_map(|(id, n)| Step::Admit { id, lease: 2 * n + 3 }),
        3 => (any::<usize>(), 200..300_u16, 0..3_usize).prop_map(|(owner, status, n)| Step::Succeed {
            owner,
            status,
            window: [3, 9, 31][n],
        }),
        1 => any::<usize>().prop_map(|owner| Step::Fail { owner }),
        1 => any::<usize>().prop_map(|owner| Step::Die { owner }),
        2 => (1..4_u32).prop_map(|n| Step::Advance { by: 2 * n }),
    ];
    proptest::collection::vec(step, 0..steps)
}

enum Entry {
    Lease { token: Token, lapses: u32 },
    Success { status: u16, until: u32, order: u64 },
}

/// What a store should remember: everything in one map, and nothing clever.
struct Model {
    entries: HashMap<u8, Entry>,
    entries_max: usize,
    now: u32,
    settled: u64,
}

impl Model {
    fn expire(&mut self) {
        let now = self.now;
        self.entries
            .retain(|_, entry| !matches!(entry, Entry::Success { until, .. } if *until <= now));
    }

    fn make_room(&mut self) -> bool {
        if self.entries.len() >= self.entries_max {
            let now = self.now;
            self.entries
                .retain(|_, entry| !matches!(entry, Entry::Lease { lapses, .. } if *lapses <= now));
        }
        if self.entries.len() >= self.entries_max {
            let order = |(id, entry): (&u8, &Entry)| match entry {
                Entry::Success { order, .. } => Some((*order, *id)),
                Entry::Lease { .. } => None,
            };
            if let Some((_, oldest)) = self.entries.iter().filter_map(order).min() {
                self.entries.remove(&oldest);
            }
        }
        self.entries.len() < self.entries_max
    }

    /// What a store has to answer, but for the token.
    fn admit(&mut self, id: u8, unit: Duration) -> Admission {
        self.expire();
        match self.entries.get(&id) {
            Some(Entry::Success { status, .. }) => return Admission::Succeeded { status: *status },
            Some(Entry::Lease { lapses, .. }) if self.now < *lapses => {
                return Admission::InFlight {
                    lapses_in: unit * (*lapses - self.now),
                };
            }
            Some(Entry::Lease { .. }) => return Admission::Granted(Token(0)),
            None => {}
        }
        match self.make_room() {
            true => Admission::Granted(Token(0)),
            false => Admission::Full,
        }
    }

    fn settle(&mut self, id: u8, owner: Token, success: Option<(u16, u32)>) {
        self.expire();
        let fits = match (self.entries.get(&id), success) {
            (Some(Entry::Lease { token, lapses }), _) if *token != owner && self.now < *lapses => {
                return;
            }
            (Some(Entry::Lease { .. }), _) => {
                self.entries.remove(&id);
                true
            }
            (Some(Entry::Success { .. }), _) | (None, None) => return,
            (None, Some(_)) => self.make_room(),
        };
        if let Some((status, window)) = success
            && fits
        {
            self.settled += 1;
            let entry = Entry::Success {
                status,
                until: self.now + window,
                order: self.settled,
            };
            self.entries.insert(id, entry);
        }
    }
}

/// Runs a schedule against model and store; `entries_max` is the store's bound. Says how many entries the model holds after each step.
///
/// # Panics
/// If they differ.
pub(crate) async fn compare(
    subject: &mut impl Subject,
    schedule: &[Step],
    entries_max: usize,
    unit: Duration,
    mut after: impl FnMut(usize),
) {
    let mut model = Model {
        entries: HashMap::new(),
        entries_max,
        now: 0,
        settled: 0,
    };
    let mut owners: Vec<(u8, Token)> = Vec::new();
    let mut tokens = Vec::new();
    for (place, step) in schedule.iter().enumerate() {
        let whole_id = |id: u8| {
            Id(std::array::from_fn(|n| {
                id.wrapping_mul(151).rotate_left(n as u32)
            }))
        };
        let one_of = |owner: usize| (!owners.is_empty()).then(|| owner % owners.len());
        match *step {
            Step::Admit { id, lease } => {
                let want = model.admit(id, unit);
                let got = subject.admit(whole_id(id), unit * lease).await;
                match (got, want) {
                    (Admission::Granted(token), Admission::Granted(_)) => {
                        assert!(!tokens.contains(&token), "{place}: {token:?} twice");
                        tokens.push(token);
                        owners.push((id, token));
                        let lapses = model.now + lease;
                        model.entries.insert(id, Entry::Lease { token, lapses });
                    }
                    (
                        Admission::InFlight { lapses_in: got },
                        Admission::InFlight { lapses_in: want },
                    ) => assert!(got.abs_diff(want) < unit, "{place}: {got:?} for {want:?}"),
                    (got, want) => assert_eq!(got, want, "{place}: {step:?}"),
                }
            }
            Step::Succeed {
                owner,
                status,
                window,
            } => {
                let Some(owner) = one_of(owner) else { continue };
                let (id, token) = owners.swap_remove(owner);
                model.settle(id, token, Some((status, window)));
                let window = unit * window;
                let settlement = Settlement::Succeeded { status, window };
                subject.settle(whole_id(id), token, settlement).await;
            }
            Step::Fail { owner } => {
                let Some(owner) = one_of(owner) else { continue };
                let (id, token) = owners.swap_remove(owner);
                model.settle(id, token, None);
                let settlement = Settlement::Failed;
                subject.settle(whole_id(id), token, settlement).await;
            }
            Step::Die { owner } => {
                let Some(owner) = one_of(owner) else { continue };
                owners.swap_remove(owner);
            }
            Step::Advance { by } => {
                model.now += by;
                subject.advance(unit * by).await;
            }
        }
        model.expire();
        after(model.entries.len());
    }
}
