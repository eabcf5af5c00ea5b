//! The accept loop.

use std::{sync::Arc, time::Duration};

use rustix::io::Errno;
use tokio::{sync::Semaphore, time::sleep};
use tokio_util::task::TaskTracker;

use super::connection::{self, Service};
use crate::listen::Listener;

/// How long accepting rests when descriptors have run out: closing connections give some back.
const REST: Duration = Duration::from_millis(50);

/// Accepts until the listener goes, or the process stops. At the limit of connections accepting waits: the kernel's queue holds the rest.
pub(super) async fn run(
    listener: Listener,
    service: Arc<Service>,
    places: Arc<Semaphore>,
    connections: TaskTracker,
) {
    let metrics = &service.gateway.telemetry.metrics;
    loop {
        let accepted = tokio::select! {
            biased;
            () = service.stopping.begun() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((wire, address)) => {
                // Only now: a listener to which nobody connects takes no place from the others.
                let place = tokio::select! {
                    biased;
                    Ok(place) = places.clone().acquire_owned() => Some(place),
                    // Accepted is accepted, even beyond the limit.
                    () = service.stopping.begun() => None,
                };
                connections.spawn(connection::serve(service.clone(), wire, address, place));
            }
            // The one that wanted to connect has gone again; or descriptors have run out.
            Err(error) => {
                metrics.accept_errors.inc();
                tracing::debug!(%error, "a connection could not be accepted");
                if Errno::from_io_error(&error).is_some_and(is_shortage) {
                    sleep(REST).await;
                }
            }
        }
    }
    for (wire, address) in listener.close() {
        let place = places.clone().acquire_owned();
        let service = service.clone();
        connections.spawn(async move {
            if let Ok(place) = place.await {
                connection::serve(service, wire, address, Some(place)).await;
            }
        });
    }
}

fn is_shortage(errno: Errno) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&errno)
}
