//! The task that obtains and renews.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{Certificates, order::obtain};
use crate::{
    backoff::{self, Pauses},
    clock::{Clock, UnixTime},
    config::AcmeConfig,
    reject::Chain,
    telemetry::{Failure, Reloads},
};

/// Pauses after attempts that failed. Authorities allow few of them: Let's Encrypt five an hour for each name.
const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// The clock is asked so often whether it is time: it may be set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// Obtains what is wanted and renews it, until it is dropped. Calls `installed` whenever another certificate is shown.
pub async fn keep(
    certificates: &Certificates,
    clock: &dyn Clock,
    told: &Reloads,
    installed: impl Fn(),
) {
    let mut wanted = certificates.wanted.subscribe();
    let mut pauses = Pauses::new(PAUSE_MIN, PAUSE_MAX);
    let mut not_before = clock.now();
    // Many gateways that were started together renew one after the other.
    let mut early = backoff::random();
    loop {
        let config = wanted.borrow_and_update().clone();
        let due = config.as_ref().map(|config| {
            let due = due(certificates, config, early).max(not_before);
            certificates.state().next = Some(due);
            due
        });
        let wait = due.map_or(LOOK_EVERY, |due| {
            let millis = due.millis().saturating_sub(clock.now().millis());
            Duration::from_millis(millis.try_into().unwrap_or(0)).min(LOOK_EVERY)
        });
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                // The operator has mended something, or so it seems.
                pauses.reset();
                not_before = clock.now();
                continue;
            }
            () = sleep(wait) => {}
        }
        let Some(config) = config.filter(|_| due.is_some_and(|due| due <= clock.now())) else {
            continue;
        };
        let names = config.domains.join(", ");
        match obtain(&config, certificates).await {
            Ok(held) => {
                told.certificate_order("succeeded");
                tracing::info!(names, ends = %held.until, "certificate obtained");
                certificates.held.store(Some(Arc::new(held)));
                certificates.state().failure = None;
                pauses.reset();
                early = backoff::random();
                installed();
            }
            Err(error) => {
                told.certificate_order("failed");
                let now = clock.now();
                let pause = pauses.next_pause();
                not_before = later(now, pause);
                let reason = Chain(&*error).to_string();
                tracing::error!(names, error = reason, next = %not_before, "certificate not obtained");
                let mut state = certificates.state();
                let since = state.failure.as_ref().map_or(now, |first| first.since);
                state.failure = Some(Failure { since, reason });
            }
        }
    }
}

/// When to ask for the next one: at two thirds of the life of what is held, or up to a twentieth of it before.
fn due(certificates: &Certificates, config: &AcmeConfig, early: u8) -> UnixTime {
    match certificates.held() {
        Some(held) if held.covers(&config.domains) => {
            let life = held.until.distance(held.from);
            later(
                held.from,
                life * 2 / 3 - life.mul_f64(f64::from(early) / 255.0 / 20.0),
            )
        }
        _ => UnixTime::from_secs(0),
    }
}

fn later(moment: UnixTime, by: Duration) -> UnixTime {
    let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    UnixTime::from_millis(moment.millis().saturating_add(millis))
}
