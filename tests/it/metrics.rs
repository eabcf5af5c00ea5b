//! What the metrics page tells of requests, beyond what the tests of each part look at.

use crate::support::{
    client::{self, Client, Protocol},
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_not_verified},
    upstream::{Behaviour, Upstream},
};

const SECRET: &[u8] = b"a secret of these tests";

fn builder(upstream: &Upstream) -> Builder {
    let url = upstream.url();
    let builder = Gateway::builder().route("hooks", "/hooks", SECRET, &url, "");
    builder.route("other", "/other", SECRET, &url, "")
}

fn genuine(target: &str) -> Delivery {
    Delivery::post(target, "{}").signed(SECRET)
}

fn of_route(name: &str, route: &str) -> String {
    format!("{name}{{route=\"{route}\"}}")
}

#[test]
fn requests_are_counted_at_their_route_while_they_are_served() {
    let upstream = Upstream::start(|_| Behaviour::Stall);
    let gateway = builder(&upstream).start();
    let served = |route, count| {
        let name = of_route("countersign_route_inflight_requests", route);
        gateway.wait_for_metric(&name, |value| value == count);
    };
    assert!(
        gateway
            .metrics()
            .contains("countersign_route_inflight_requests{route=\"other\"} 0")
    );
    let stalled: Vec<_> = (0..2)
        .map(|_| {
            let mut wire = client::raw(gateway.door());
            wire.send(&genuine("/hooks").raw()).unwrap();
            wire
        })
        .collect();
    // One whose body is still on its way.
    let mut leaving = client::raw(gateway.door());
    leaving.send(&genuine("/hooks").raw_head()).unwrap();
    served("hooks", 3);
    served("other", 0);
    assert_eq!(gateway.metric("countersign_inflight_requests"), 3);
    drop(leaving);
    served("hooks", 2);
    // One that is refused, and one that finds no route.
    let mut client = Client::connect(gateway.door(), Protocol::Http2);
    assert_not_verified(&client.send(&Delivery::post("/hooks", "{}")));
    assert_eq!(client.send(&genuine("/nowhere")).status, 404);
    served("hooks", 2);
    upstream.release();
    for mut wire in stalled {
        assert_eq!(wire.answer("POST").unwrap().status, 200);
    }
    served("hooks", 0);
    gateway.wait_for_inflight(0);
}

#[test]
fn the_time_between_body_and_upstream_is_told_of_what_is_forwarded() {
    let upstream = Upstream::accepting();
    let gateway = builder(&upstream).start();
    let counted = |route| {
        gateway.metric(&of_route(
            "countersign_verify_duration_seconds_count",
            route,
        ))
    };
    assert_not_verified(&client::send_raw(
        gateway.door(),
        &Delivery::post("/hooks", "{}"),
    ));
    let forged = Delivery::post("/hooks", "{}").signed(b"another secret");
    assert_not_verified(&client::send_raw(gateway.door(), &forged));
    assert_eq!(counted("hooks"), 0);
    for _ in 0..2 {
        assert_eq!(
            client::send_raw(gateway.door(), &genuine("/hooks")).status,
            200
        );
    }
    gateway.wait_for_inflight(0);
    assert_eq!(counted("hooks"), 2);
    assert_eq!(counted("other"), 0);
    // Without the wait for the body.
    let mut wire = client::raw(gateway.door());
    let slow = genuine("/other");
    let head = slow.raw_head();
    wire.send(&head).unwrap();
    gateway.wait_for_metric(
        &of_route("countersign_route_inflight_requests", "other"),
        |n| n == 1,
    );
    wire.send(&slow.body).unwrap();
    assert_eq!(wire.answer("POST").unwrap().status, 200);
    gateway.wait_for_inflight(0);
    let line = gateway
        .logs()
        .wait_for(|line| line.text_field("route") == Some("other") && line.is("request"))
        .unwrap();
    let millis = |name| line.field(name).unwrap().as_f64().unwrap();
    let sum = of_route("countersign_verify_duration_seconds_sum", "other");
    let page = gateway.metrics();
    let sum = page
        .lines()
        .find_map(|line| line.strip_prefix(&sum)?.trim().parse::<f64>().ok());
    let left = (millis("total_ms") - millis("receive_ms") - millis("upstream_ms")) / 1e3;
    assert!(sum.unwrap() <= left + 1e-6, "{sum:?} of {left}: {line}");
}

#[test]
fn the_build_is_told() {
    let upstream = Upstream::accepting();
    let page = builder(&upstream).start().metrics();
    let version = env!("CARGO_PKG_VERSION");
    // A debug build does not say its revision: it would have to be built anew at every commit.
    let begin = format!("countersign_build_info{{version=\"{version}\",revision=\"\",rustc=\"");
    let rest = page.lines().find_map(|line| line.strip_prefix(&begin));
    let rest = rest.unwrap_or_else(|| panic!("{page}"));
    let compiler = rest.strip_suffix("\"} 1").unwrap();
    let numbers: Vec<_> = compiler.split(['.', '-']).collect();
    assert!(numbers.len() >= 3 && numbers[0] == "1", "{compiler}");
}
