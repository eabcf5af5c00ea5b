//! Real receivers behind the gateway: what their frameworks make of a spoofed mark.

use crate::support::{
    client::{self, Client, Protocol},
    delivery::Delivery,
    gateway::{Gateway, assert_not_verified},
    script::Receiver,
    sign,
};

const SECRET: &[u8] = b"receivers-secret";
const GENUINE: &str = "carevalidate;route=\"signed\";key=\"test\";t=";

/// Spellings that some server folds into the mark: Node by case, CGI and WSGI by `-` and `_`, PHP also by `.`.
const SPELLINGS: &[&str] = &[
    "Countersign-Verified",
    "countersign-verified",
    "COUNTERSIGN-VERIFIED",
    "cOUNTERSIGN-vERIFIED",
    "Countersign_Verified",
    "countersign_verified",
    "COUNTERSIGN_VERIFIED",
    "Countersign.Verified",
    "countersign.verified",
    "Countersign~Verified",
    "Countersign!Verified",
    "Countersign'Verified",
    "Countersign+Verified",
];

/// A gateway with a route that checks signatures and one that does not.
fn gateway(receiver: &Receiver) -> Gateway {
    let url = receiver.url();
    Gateway::builder()
        .route("signed", "/signed", SECRET, &url, "")
        .config(&format!(
            r#"
            [[route]]
            name = "unsigned"
            path = "/unsigned"
            scheme = "none"
            upstream = "{url}"
            "#
        ))
        .start()
}

/// Calls `check` with the answer to each attempt to spoof, and whether a genuine mark must be in it.
fn spoof(gateway: &Gateway, check: impl Fn(&str, &serde_json::Value, bool)) {
    for spelling in SPELLINGS {
        for (target, genuine) in [("/signed", true), ("/unsigned", false)] {
            // Twice, on both sides of what belongs there: neither the first nor the last may win.
            let delivery = Delivery::post(target, "{\"spoofed\": true}")
                .header(spelling, "spoofed;route=\"signed\"")
                .signed(SECRET)
                .header(spelling, "spoofed-again");
            let answer = client::send_raw(gateway.door(), &delivery);
            assert_eq!(answer.status, 200, "{spelling} {target}: {answer:?}");
            let seen = answer.json();
            assert_eq!(seen["sha256"], sign::sha256(&delivery.body));
            assert!(
                !seen.to_string().contains("spoofed"),
                "{spelling} {target}: {seen}"
            );
            check(spelling, &seen, genuine);
        }
    }
}

/// Sends without a spoofed mark over both protocols, and what does not verify.
fn assert_genuine(gateway: &Gateway, mark_of: impl Fn(&serde_json::Value) -> Option<String>) {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let send = |delivery| Client::connect(gateway.door(), protocol).send(&delivery);
        let answer = send(Delivery::post("/signed", "{}").signed(SECRET));
        let mark = mark_of(&answer.json()).expect("a mark");
        assert!(mark.starts_with(GENUINE), "{mark}");
        let answer = send(Delivery::post("/unsigned", "{}"));
        assert_eq!(answer.status, 200);
        assert_eq!(mark_of(&answer.json()), None);
        let forged = Delivery::post("/signed", "{}").signed(b"another secret");
        assert_not_verified(&send(forged));
    }
}

#[test]
fn node_never_sees_a_spoofed_mark() {
    let receiver = Receiver::start("node", "it/receivers/node.mjs");
    let gateway = gateway(&receiver);
    spoof(&gateway, |spelling, seen, genuine| {
        let marks = seen["distinct"]["countersign-verified"].as_array();
        let marks: Vec<_> = marks.into_iter().flatten().collect();
        assert_eq!(marks.len(), usize::from(genuine), "{spelling}: {seen}");
        for mark in marks {
            assert!(mark.as_str().unwrap().starts_with(GENUINE), "{mark}");
        }
    });
    assert_genuine(&gateway, |seen| {
        let mark = seen["headers"].get("countersign-verified")?;
        Some(mark.as_str().unwrap().to_owned())
    });
}

#[test]
fn python_wsgi_never_sees_a_spoofed_mark() {
    let receiver = Receiver::start("python3", "it/receivers/wsgi.py");
    let gateway = gateway(&receiver);
    let mark_of = |seen: &serde_json::Value| {
        let mark = seen["variables"].get("HTTP_COUNTERSIGN_VERIFIED")?;
        Some(mark.as_str().unwrap().to_owned())
    };
    spoof(&gateway, |spelling, seen, genuine| {
        let mark = mark_of(seen);
        assert_eq!(mark.is_some(), genuine, "{spelling}: {seen}");
        // WSGI joins repeats with a comma: a second mark would show here.
        assert!(
            mark.is_none_or(|mark| mark.starts_with(GENUINE) && !mark.contains(',')),
            "{spelling}: {seen}"
        );
    });
    assert_genuine(&gateway, mark_of);
}
