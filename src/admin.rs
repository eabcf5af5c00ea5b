//! Health and metrics, on a listener of their own.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::UnixTime,
    config::{Limits, OnStoreFailure},
    listen::Listener,
    pipeline::Gateway,
    reject::Chain,
    telemetry::{Failure, ReloadState},
};

/// Connections at once: probes and scrapers are few. More of them wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Serves until it is aborted.
pub async fn serve(
    listener: Listener,
    gateway: Arc<Gateway>,
    limits: Limits,
    stopping: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Requests here are short, or not at all: a connection that is not over by then is stuck in an answer that nobody reads, or
    // has been of use for long enough.
    let life = limits.head_timeout + limits.idle_timeout;
    while let Ok(place) = places.clone().acquire_owned().await {
        let Ok((wire, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (gateway, stopping) = (gateway.clone(), stopping.clone());
        drop(tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request: Request<Incoming>| {
                let response = answer(&request, &gateway, stopping.is_cancelled());
                async { Ok::<_, Infallible>(response) }
            });
            let mut connection = pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    // Between requests too.
                    .header_read_timeout(limits.head_timeout)
                    .serve_connection(TokioIo::new(wire), service)
            );
            if timeout(life, connection.as_mut()).await.is_err() {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(limits.head_timeout, connection).await;
            }
        }));
    }
}

fn answer(request: &Request<Incoming>, gateway: &Gateway, stopping: bool) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "method not allowed\n".into(),
        );
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, TEXT, "ok\n".into()),
        "/readyz" | "/healthz" => readiness(
            gateway,
            stopping,
            request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|word| word == "verbose")),
        ),
        "/metrics" => {
            gateway.lasting.replay.observe();
            let metrics = gateway.telemetry.metrics.render(
                &gateway.lasting.bodies,
                &gateway.in_flight,
                gateway.telemetry.requests.sink(),
            );
            text(StatusCode::OK, OPENMETRICS, metrics)
        }
        _ => text(
            StatusCode::NOT_FOUND,
            TEXT,
            "not found; there are /livez, /readyz and /metrics\n".into(),
        ),
    }
}

/// 200 while requests are taken. A route without a usable secret closes itself, not the process. A replay store that cannot be asked, where
/// deliveries are refused then, closes the routes that have a guard; if none is left, there is nothing to be ready for.
fn readiness(gateway: &Gateway, stopping: bool, verbose: bool) -> Response<Full<Bytes>> {
    let (guard, snapshot) = (&gateway.lasting.replay, gateway.snapshot.load());
    let trouble = guard.trouble();
    let is_closed = trouble.is_some()
        && guard.on_store_failure() == OnStoreFailure::Reject
        && snapshot.routes.iter().all(|route| route.guard.is_some());
    let (status, verdict) = match (stopping, is_closed) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, true) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the replay store cannot be asked",
        ),
        (false, false) => (StatusCode::OK, "ok"),
    };
    if !verbose {
        return text(status, TEXT, format!("{verdict}\n"));
    }
    let mut checks = format!("{} accepting\n", if stopping { "[-]" } else { "[+]" });
    checks.push_str(&configuration(&gateway.telemetry.metrics.reloads.told()));
    let now = gateway.clock.now();
    checks.push_str(&certificates(
        &gateway.telemetry.metrics.reloads.told(),
        now,
    ));
    let obtained = gateway.lasting.certificates.report(now);
    checks.push_str(&obtained.unwrap_or_default());
    checks.push_str(&spool(gateway));
    if let Some(fault) = trouble {
        let mark = match guard.on_store_failure() {
            OnStoreFailure::Reject => "[-]",
            OnStoreFailure::Admit => "[!]",
        };
        let consequence = guard.on_store_failure().consequence();
        checks.push_str(&format!(
            "{mark} replay store: {}; {consequence}\n",
            Chain(&fault)
        ));
    } else if snapshot.routes.iter().any(|route| route.guard.is_some()) {
        checks.push_str("[+] replay store\n");
    }
    for route in snapshot.routes.iter() {
        let line = match (route.scheme.needs_secret(), route.keys.len()) {
            (true, 0) if route.fetching.is_some() => {
                format!("[+] route {}: keys are fetched\n", route.name)
            }
            (false, _) => format!("[!] route {}: unsigned by configuration\n", route.name),
            (true, 0) => format!(
                "[-] route {}: no usable secret, answers 503; see `countersign check`\n",
                route.name
            ),
            (true, keys) => format!("[+] route {}: {keys} usable secret(s)\n", route.name),
        };
        checks.push_str(&line);
        for fault in &route.unusable {
            checks.push_str(&format!("[!] route {}: {fault}\n", route.name));
        }
        if let Some(until) = route.observe_until().filter(|_| route.observes(now)) {
            checks.push_str(&format!(
                "[!] route {}: only observes until {until}: what does not verify is forwarded\n",
                route.name
            ));
        }
        // No readiness of ours: other routes go on, and so may other addresses.
        for health in snapshot.upstreams[route.index].health() {
            let sign = if health.is_aside() { "[!]" } else { "[+]" };
            checks.push_str(&format!("{sign} route {}: upstream {health}\n", route.name));
        }
    }
    checks.push_str(&format!("{verdict}\n"));
    text(status, TEXT, checks)
}

/// Which certificates are shown, and until when.
fn certificates(state: &ReloadState, now: UnixTime) -> String {
    let mut text = String::new();
    for (name, end) in &state.certificates {
        let name = if name.is_empty() {
            "all other names"
        } else {
            name
        };
        text.push_str(&match *end > now {
            true => format!("[+] certificate for {name}: ends {end}\n"),
            false => format!("[-] certificate for {name}: ended {end}; senders refuse it\n"),
        });
    }
    text
}

/// Whether bodies that find no room in memory can go to disk.
fn spool(gateway: &Gateway) -> String {
    let bodies = &gateway.lasting.bodies;
    let Some(folder) = bodies.spool_dir() else {
        return String::new();
    };
    let folder = folder.display();
    match bodies.spool_trouble() {
        None => format!("[+] spool {folder}\n"),
        Some(fault) => {
            format!("[!] spool {folder}: {fault}; bodies that find no room in memory get 503\n")
        }
    }
}

/// Which configuration serves, and why no newer one does.
fn configuration(state: &ReloadState) -> String {
    let loaded = state.loaded_at.map(|at| at.to_string()).unwrap_or_default();
    let mut text = match &state.failure {
        None => format!("[+] configuration {}, loaded {loaded}\n", state.hash),
        Some(Failure { since, reason }) => {
            let reason = reason.replace('\n', "\n    ");
            format!(
                "[!] configuration {}, loaded {loaded}: a newer one is refused since {since}\n    {reason}\n",
                state.hash
            )
        }
    };
    for key in &state.restart {
        text.push_str(&format!("[!] {key} was changed, which needs a restart\n"));
    }
    text
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
