//! Schemes that have to look into the whole body, through the whole gateway.

use std::fs;

use crate::support::{
    client::{self, Client, Protocol},
    delivery::{Cuts, Delivery},
    gateway::{Gateway, assert_not_verified},
    script,
    upstream::Upstream,
};

/// A recorded request of `tests/vectors/providers/`: secret and body.
fn recorded(provider: &str, id: &str) -> (String, String) {
    let path = script::tests_file("vectors/providers").join(format!("{provider}.json"));
    let file: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let vector = file["vectors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|vector| vector["id"] == id)
        .unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    (
        text(&vector["secrets"][0]),
        text(&vector["request"]["body"]),
    )
}

#[test]
fn a_signature_inside_the_body_is_found_and_the_bytes_go_on_as_they_came() {
    let (secret, body) = recorded("adyen", "standard-two-items");
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .file("adyen.secret", &secret)
        .config(&format!(
            "[[route]]\nname = \"adyen\"\npath = \"/adyen\"\nscheme = \"adyen\"\nsecrets = [{{ id = \"test\", file = \"$DIR/adyen.secret\" }}]\nupstream = \"{}\"\n",
            upstream.url()
        ))
        .start();
    let mut client = Client::connect(gateway.door(), Protocol::Http1);
    for cuts in [Cuts::Whole, Cuts::Every(7)] {
        let good = Delivery::post("/adyen", body.clone()).cut(cuts).chunked();
        assert_eq!(client.send(&good).status, 200);
        let seen = upstream.take_only();
        assert_eq!(seen.body_len, body.len() as u64);
    }
    for forged in [
        body.replacen("1130", "1131", 1),
        body.replacen("\"success\":\"true\"", "\"success\":\"false\"", 1),
        body.replacen("hmacSignature", "hmacSignaturf", 1),
        "{}".to_owned(),
        "not JSON".to_owned(),
        String::new(),
    ] {
        assert_ne!(forged, body);
        let mut client = Client::connect(gateway.door(), Protocol::Http1);
        assert_not_verified(&client.send(&Delivery::post("/adyen", forged)));
    }
    // One byte more than a check looks into: refused when it comes, or by the declared length before any does.
    let large = Delivery::post("/adyen", vec![b' '; (8 << 20) + 1]).chunked();
    assert_eq!(client::send_raw(gateway.door(), &large).status, 413);
    let mut wire = client::raw(gateway.door());
    wire.send(b"POST /adyen HTTP/1.1\r\nHost: a.example\r\nContent-Length: 8388609\r\n\r\n")
        .unwrap();
    assert_eq!(wire.answer("POST").unwrap().status, 413);
}
