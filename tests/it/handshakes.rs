//! Requests by which providers try an address: answered as their pages say, and no way around the check.
//!
//! Signed answers were computed with `openssl dgst -hmac`.

use std::{fs, os::unix::fs::PermissionsExt as _};

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    rand::SystemRandom,
    rsa,
    signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256},
};
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::support::{
    client::{Client, Protocol, send_raw},
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_not_verified, assert_problem, request_id},
    sign, tls,
    upstream::{Behaviour, Response, Upstream},
    wire::{Address, Answer},
};

/// A gateway with one route, `/hooks`, of a scheme.
struct Stage {
    upstream: Upstream,
    gateway: Gateway,
}

fn builder(scheme: &str, secret: impl AsRef<[u8]>, lines: &str, upstream: &Upstream) -> Builder {
    Gateway::builder().file("secret", secret).config(&format!(
        r#"
        [[route]]
        name = "hooks"
        path = "/hooks"
        {scheme}
        secrets = [{{ id = "test", file = "$DIR/secret" }}]
        upstream = "{}"
        {lines}
        "#,
        upstream.url()
    ))
}

impl Stage {
    fn of(scheme: &str, secret: impl AsRef<[u8]>, lines: &str) -> Self {
        let upstream = Upstream::accepting();
        let scheme = format!("scheme = \"{scheme}\"");
        let gateway = builder(&scheme, secret, lines, &upstream).start();
        Self { upstream, gateway }
    }

    fn send(&self, delivery: &Delivery) -> Answer {
        Client::connect(self.gateway.door(), Protocol::Http1).send(delivery)
    }

    fn get(&self, target: &str) -> Answer {
        self.send(&request("GET", target))
    }

    /// The reason that the log gives for a refusal.
    fn reason(&self, refusal: &Answer) -> String {
        let line = self.gateway.request_line(&request_id(refusal));
        line.text_field("reason").unwrap().to_owned()
    }
}

fn request(method: &str, target: &str) -> Delivery {
    Delivery::post(target, "").method(method)
}

/// Seconds since 1970, as `date` tells them.
fn now() -> String {
    let output = std::process::Command::new("date").arg("+%s").output();
    String::from_utf8(output.unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

#[track_caller]
fn assert_answer(answer: &Answer, kind: &str, body: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(String::from_utf8_lossy(&answer.body), body);
    assert_eq!(answer.fields.one("x-content-type-options"), "nosniff");
    assert_eq!(answer.fields.one("cache-control"), "no-store");
    if body.is_empty() {
        assert!(!answer.fields.has("content-type"), "{answer:?}");
    } else {
        assert_eq!(answer.fields.one("content-type"), kind);
    }
}

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";

#[test]
fn meta_and_whatsapp_get_their_challenge_for_the_right_verify_token() {
    for scheme in ["meta", "whatsapp"] {
        let stage = Stage::of(
            scheme,
            "app-secret",
            "params = { verify_token = \"meatyhamhock\" }",
        );
        let target = |token: &str| {
            format!("/hooks?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token={token}")
        };
        assert_answer(&stage.get(&target("meatyhamhock")), TEXT, "1158201444");
        for wrong in ["meatyhamhoc", "meatyhamhockk", "MEATYHAMHOCK", "x", ""] {
            let answer = stage.get(&target(wrong));
            assert_problem(&answer, 403, "handshake_refused");
        }
        // Without the token it is not a handshake, and deliveries do not come by GET.
        for missing in ["/hooks?hub.mode=subscribe&hub.challenge=1", "/hooks"] {
            assert_problem(&stage.get(missing), 400, "not_a_handshake");
        }
        let twice = format!("{}&hub.verify_token=x", target("meatyhamhock"));
        assert_problem(&stage.get(&twice), 400, "not_a_handshake");
        stage.upstream.assert_untouched();
    }
}

#[test]
fn websub_knows_its_topic() {
    let topic = "https://example.org/feed";
    let stage = Stage::of(
        "websub",
        "secret",
        &format!("params = {{ topic = \"{topic}\" }}"),
    );
    let target = |mode: &str, topic: &str| {
        format!("/hooks?hub.mode={mode}&hub.topic={topic}&hub.challenge=a1-b2_c3.d4~e5")
    };
    for mode in ["subscribe", "unsubscribe"] {
        let escaped = "https%3A%2F%2Fexample.org%2Ffeed";
        assert_answer(&stage.get(&target(mode, escaped)), TEXT, "a1-b2_c3.d4~e5");
        let other = stage.get(&target(mode, "https%3A%2F%2Fexample.org%2Fother"));
        assert_problem(&other, 404, "handshake_refused");
    }
    stage.upstream.assert_untouched();
}

#[test]
fn query_parameters_and_headers_come_back() {
    for (scheme, target, body) in [
        ("dropbox", "/hooks?challenge=a-b_c123", "a-b_c123"),
        (
            "nylas",
            "/hooks?challenge=bc609b38-c81f-47fb-a275",
            "bc609b38-c81f-47fb-a275",
        ),
        ("onfleet", "/hooks?check=8f2c1d", "8f2c1d"),
    ] {
        let stage = Stage::of(scheme, "aabbccdd", "");
        assert_answer(&stage.get(target), TEXT, body);
        stage.upstream.assert_untouched();
    }
    for (scheme, method, header, kind, body) in [
        ("front", "POST", "x-front-challenge", TEXT, "Ab3-9"),
        (
            "okta",
            "GET",
            "x-okta-verification-challenge",
            JSON,
            r#"{"verification":"Ab3-9"}"#,
        ),
        (
            "worldline",
            "GET",
            "X-GCS-Webhooks-Endpoint-Verification",
            TEXT,
            "Ab3-9",
        ),
    ] {
        let stage = Stage::of(scheme, "secret", "");
        let delivery = request(method, "/hooks").header(header, "Ab3-9");
        assert_answer(&stage.send(&delivery), kind, body);
        stage.upstream.assert_untouched();
    }
}

#[test]
fn microsoft_graph_gets_its_token_decoded_as_text() {
    let stage = Stage::of("microsoft-graph", "client-state", "");
    let target = "/hooks?validationToken=Validation%3a+Testing+client+application+reachability+for+subscription+Request-Id%3a+522a8e7e-096a-494c-aaf1-ac0dcfca45b7";
    let want = "Validation: Testing client application reachability for subscription Request-Id: 522a8e7e-096a-494c-aaf1-ac0dcfca45b7";
    assert_answer(&stage.send(&request("POST", target)), TEXT, want);
    let mut client = Client::connect(stage.gateway.door(), Protocol::Http2);
    assert_answer(&client.send(&request("POST", target)), TEXT, want);
    stage.upstream.assert_untouched();
}

#[test]
fn json_challenges_come_back() {
    // Slack signs.
    let stage = Stage::of("slack", "slack-secret", "");
    let body = r#"{"token":"Jhj5dZrVaK7ZwHHjRyZWjbDl","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}"#;
    let challenge = "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P";
    let at = now();
    let tag = sign::hmac_sha256(
        b"slack-secret",
        &[b"v0:", at.as_bytes(), b":", body.as_bytes()],
    );
    let unsigned = Delivery::post("/hooks", body);
    let signed = unsigned
        .clone()
        .header("x-slack-request-timestamp", &at)
        .header("x-slack-signature", format!("v0={tag}"));
    assert_answer(&stage.send(&signed), TEXT, challenge);
    assert_not_verified(&stage.send(&unsigned));
    let mut forged = signed;
    forged.body = body.replace("3eZ", "4eZ").into();
    assert_not_verified(&stage.send(&forged));
    stage.upstream.assert_untouched();

    // So does Twitch, over the message's id and time.
    let stage = Stage::of("twitch", "s3cre77890ab", "");
    let (id, time) = (
        "f1c2a387-161a-49f9-a165-0f21d7a4e1c4",
        "2030-01-01T00:00:00Z",
    );
    let body = r#"{"challenge":"pogchamp-kappa-360noscope-vohiyo","subscription":{"type":"channel.follow"}}"#;
    let old = |time: &str| {
        let pieces = [id.as_bytes(), time.as_bytes(), body.as_bytes()];
        let tag = sign::hmac_sha256(b"s3cre77890ab", &pieces);
        Delivery::post("/hooks", body)
            .header(
                "twitch-eventsub-message-type",
                "webhook_callback_verification",
            )
            .header("twitch-eventsub-message-id", id)
            .header("twitch-eventsub-message-timestamp", time)
            .header("twitch-eventsub-message-signature", format!("sha256={tag}"))
    };
    assert_not_verified(&stage.send(&old(time)));
    let output = std::process::Command::new("date")
        .args(["-u", "+%FT%TZ"])
        .output();
    let time = String::from_utf8(output.unwrap().stdout).unwrap();
    let answer = stage.send(&old(time.trim()));
    assert_answer(&answer, TEXT, "pogchamp-kappa-360noscope-vohiyo");
    stage.upstream.assert_untouched();

    // monday and Event Grid do not.
    let stage = Stage::of("monday", "monday-secret", "");
    let body = r#"{"challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}"#;
    let answer = stage.send(&Delivery::post("/hooks", body));
    assert_answer(&answer, JSON, &format!(r#"{{"challenge":"{challenge}"}}"#));
    stage.upstream.assert_untouched();
    let stage = Stage::of(
        "azure-event-grid",
        "key-in-url",
        "params = { query = \"key\" }",
    );
    let body = r#"[{"id":"2d1781af-3a4c-4d7c-bd0c-e34b19da4e66","topic":"/subscriptions/x","subject":"","data":{"validationCode":"512d38b6-c7b8-40c8-89fe-f46f9e9622b6","validationUrl":"https://rp-eastus2.eventgrid.azure.net:553/x"},"eventType":"Microsoft.EventGrid.SubscriptionValidationEvent"}]"#;
    let delivery =
        Delivery::post("/hooks", body).header("aeg-event-type", "SubscriptionValidation");
    let want = r#"{"validationResponse":"512d38b6-c7b8-40c8-89fe-f46f9e9622b6"}"#;
    assert_answer(&stage.send(&delivery), JSON, want);
    let mut with_key = delivery;
    with_key.target = "/hooks?key=key-in-url".into();
    assert_answer(&stage.send(&with_key), JSON, want);
    stage.upstream.assert_untouched();
}

#[test]
fn cloudevents_are_told_that_they_may_come() {
    let stage = Stage::of(
        "azure-event-grid",
        "key-in-url",
        "params = { query = \"key\" }",
    );
    let answer = stage.send(
        &request("OPTIONS", "/hooks").header("WebHook-Request-Origin", "eventgrid.azure.net"),
    );
    assert_answer(&answer, TEXT, "");
    assert_eq!(
        answer.fields.one("webhook-allowed-origin"),
        "eventgrid.azure.net"
    );
    assert_eq!(answer.fields.one("webhook-allowed-rate"), "*");
    assert_problem(
        &stage.send(&request("OPTIONS", "/hooks")),
        400,
        "not_a_handshake",
    );
    stage.upstream.assert_untouched();
}

#[test]
fn head_and_get_are_answered_where_the_scheme_says_so() {
    for scheme in ["trello", "mandrill", "circle", "intercom", "surveymonkey"] {
        let lines = match scheme {
            "surveymonkey" => "params = { client_id = \"id\" }",
            _ => "",
        };
        let upstream = Upstream::accepting();
        // A key that Circle could have: the answer needs none, so an unusable one does not matter.
        let gateway = builder(
            &format!("scheme = \"{scheme}\""),
            "secret",
            lines,
            &upstream,
        )
        .start();
        let answer = send_raw(gateway.door(), &request("HEAD", "/hooks"));
        assert_answer(&answer, TEXT, "");
        let answer = send_raw(gateway.door(), &request("GET", "/hooks"));
        assert_problem(&answer, 405, "method_not_allowed");
        assert_eq!(answer.fields.one("allow"), "POST, HEAD", "{scheme}");
        upstream.assert_untouched();
    }
    // Mailchimp, which is not in the catalogue, tries by GET.
    let scheme = r#"
        scheme = { algorithm = "token", signature = { query = "key" }, handshake = [{ kind = "get-ok", methods = ["GET"] }] }"#;
    let upstream = Upstream::accepting();
    let gateway = builder(scheme, "secret", "", &upstream).start();
    assert_answer(
        &send_raw(gateway.door(), &request("GET", "/hooks")),
        TEXT,
        "",
    );
    upstream.assert_untouched();
}

#[test]
fn a_method_without_a_handshake_is_not_allowed() {
    let stage = Stage::of("meta", "app-secret", "params = { verify_token = \"t\" }");
    for method in ["HEAD", "OPTIONS", "PUT", "DELETE"] {
        let answer = send_raw(
            stage.gateway.door(),
            &request(method, "/hooks?hub.mode=subscribe"),
        );
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.fields.one("allow"), "POST, GET");
    }
    // Without its parameter a handshake is not answered, and its method not taken.
    let stage = Stage::of("meta", "app-secret", "");
    let answer = stage.get("/hooks?hub.mode=subscribe&hub.verify_token=&hub.challenge=1");
    assert_problem(&answer, 405, "method_not_allowed");
    assert_eq!(answer.fields.one("allow"), "POST");
    let warned = |line: &crate::support::logs::Line| line.to_string().contains("verify_token");
    assert!(stage.gateway.logs().wait_for(warned).is_some());
    stage.upstream.assert_untouched();
}

#[test]
fn discord_pings_are_answered_once_they_verify() {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let public = HEXLOWER.encode(key.public_key().as_ref());
    let stage = Stage::of("discord", public, "");
    let signed = |body: &str| {
        let at = now();
        let tag = key.sign(format!("{at}{body}").as_bytes());
        Delivery::post("/hooks", body.to_owned())
            .header("x-signature-timestamp", at)
            .header("x-signature-ed25519", HEXLOWER.encode(tag.as_ref()))
    };
    let ping = r#"{"id":"1","application_id":"2","type":1,"version":1}"#;
    assert_answer(&stage.send(&signed(ping)), JSON, r#"{"type":1}"#);
    let event_ping = stage.send(&signed(r#"{"version":1,"application_id":"2","type":0}"#));
    assert_eq!((event_ping.status, event_ping.body.len()), (204, 0));
    assert_not_verified(&stage.send(&Delivery::post("/hooks", ping)));
    let mut wrong = signed(ping);
    wrong.body = ping.replace("\"1\"", "\"3\"").into();
    assert_not_verified(&stage.send(&wrong));
    stage.upstream.assert_untouched();
    assert_eq!(stage.send(&signed(r#"{"type":2}"#)).status, 200);
    assert!(
        stage
            .upstream
            .take_only()
            .fields
            .has("countersign-verified")
    );
}

#[test]
fn github_pings_are_answered_once_they_verify() {
    let stage = Stage::of("github", "secret", "");
    let body = r#"{"zen":"Design for failure."}"#;
    let unsigned = Delivery::post("/hooks", body).header("x-github-event", "ping");
    let tag = format!(
        "sha256={}",
        sign::hmac_sha256(b"secret", &[body.as_bytes()])
    );
    assert_answer(
        &stage.send(&unsigned.clone().header("x-hub-signature-256", &tag)),
        TEXT,
        "",
    );
    assert_not_verified(&stage.send(&unsigned));
    stage.upstream.assert_untouched();
    // A long body is a delivery.
    let push = Delivery::post("/hooks", body)
        .header("x-github-event", "push")
        .header("x-hub-signature-256", tag);
    assert_eq!(stage.send(&push).status, 200);
    stage.upstream.take_only();
}

#[test]
fn xero_gets_a_refusal_without_a_body() {
    let stage = Stage::of("xero", "xero-key", "");
    let body = r#"{"events":[],"lastEventId":0,"firstEventSequence":0,"entropy":"S0m3r4Nd0mt3xt"}"#;
    let tag = BASE64.encode(
        &HEXLOWER
            .decode(sign::hmac_sha256(b"xero-key", &[body.as_bytes()]).as_bytes())
            .unwrap(),
    );
    let delivery = Delivery::post("/hooks", body);
    let bad = stage.send(
        &delivery
            .clone()
            .header("x-xero-signature", tag.replacen(&tag[..1], "A", 1)),
    );
    assert_eq!((bad.status, bad.body.len()), (401, 0), "{bad:?}");
    assert!(!bad.fields.has("content-type"));
    stage.upstream.assert_untouched();
    assert_eq!(
        stage.send(&delivery.header("x-xero-signature", tag)).status,
        200
    );
    stage.upstream.take_only();
}

#[test]
fn challenges_come_back_signed() {
    let stage = Stage::of("x", "x-consumer-secret", "");
    let want = r#"{"response_token":"sha256=Mh91teySBWI4Mi/M5j5jgDFjp2IIQhy8AWNxU0NSqQc="}"#;
    assert_answer(&stage.get("/hooks?crc_token=challenge_string"), JSON, want);
    stage.upstream.assert_untouched();

    let stage = Stage::of("linkedin", "linkedin-client-secret", "");
    let code = "890e4665-4dfe-4ab1-b689-ed553bceeed0";
    let want = format!(
        r#"{{"challengeCode":"{code}","challengeResponse":"e9567c49fee6d803311de224f2be5dc1b7f61cae1810ae05866223f4caa1724f"}}"#
    );
    assert_answer(
        &stage.get(&format!("/hooks?challengeCode={code}")),
        JSON,
        &want,
    );
    stage.upstream.assert_untouched();

    let stage = Stage::of(
        "braintree",
        "braintree-private-key",
        "params = { public_key = \"integration_public_key\" }",
    );
    let want = "integration_public_key|08de26840ede20deb2295fff06adaad37bacbaca";
    assert_answer(
        &stage.get("/hooks?bt_challenge=20f9f8ed05f77439fe955c977e4c8a53"),
        TEXT,
        want,
    );
    stage.upstream.assert_untouched();

    // Zoom signs its challenge too.
    let stage = Stage::of("zoom", "zoom-secret-token", "");
    let body = r#"{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event_ts":1654503849680,"event":"endpoint.url_validation"}"#;
    let unsigned = Delivery::post("/hooks", body);
    assert_not_verified(&stage.send(&unsigned));
    let at = now();
    let tag = sign::hmac_sha256(
        b"zoom-secret-token",
        &[b"v0:", at.as_bytes(), b":", body.as_bytes()],
    );
    let signed = unsigned
        .header("x-zm-request-timestamp", &at)
        .header("x-zm-signature", format!("v0={tag}"));
    let want = r#"{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"d9e0d764a78494688ba3f2d5c0ed4ca311394b4834d959759213424d2df961e3"}"#;
    assert_answer(&stage.send(&signed), JSON, want);
    stage.upstream.assert_untouched();
}

/// What somebody got signed as a challenge is no signature of a delivery.
#[test]
fn a_challenge_is_no_oracle_for_deliveries() {
    let stage = Stage::of("x", "x-consumer-secret", "");
    for forged in ["challenge_string", "AbC-._~+/=", "0"] {
        let escaped = forged.replace('+', "%2B");
        let answer = stage.get(&format!("/hooks?crc_token={escaped}"));
        let tag = answer.json()["response_token"].as_str().unwrap().to_owned();
        let delivery =
            Delivery::post("/hooks", forged).header("x-twitter-webhooks-signature", &tag);
        let refused = stage.send(&delivery);
        assert_not_verified(&refused);
        assert_eq!(stage.reason(&refused), "signed_content_is_challenge");
    }
    // What could be a delivery is not signed.
    for body in [
        "%7B%22event%22%3A1%7D",
        "a%20b",
        "%5B%5D",
        "a%0a",
        "%C3%A4",
        "%22a%22",
    ] {
        let answer = stage.get(&format!("/hooks?crc_token={body}"));
        assert_problem(&answer, 400, "handshake_malformed");
    }
    let long = "a".repeat(257);
    assert_problem(
        &stage.get(&format!("/hooks?crc_token={long}")),
        400,
        "handshake_malformed",
    );
    stage.upstream.assert_untouched();
    let body = r#"{"for_user_id":"1"}"#;
    let tag =
        HEXLOWER.decode(sign::hmac_sha256(b"x-consumer-secret", &[body.as_bytes()]).as_bytes());
    let tag = format!("sha256={}", BASE64.encode(&tag.unwrap()));
    let genuine = Delivery::post("/hooks", body).header("x-twitter-webhooks-signature", tag);
    assert_eq!(stage.send(&genuine).status, 200);
    stage.upstream.take_only();

    // LinkedIn signs `hmacsha256=` and the body: a challenge may not begin so.
    let stage = Stage::of("linkedin", "linkedin-client-secret", "");
    for code in [
        "hmacsha256%3D890e4665",
        "890e4665-4dfe-4ab1-b689-ed553bceee",
        "890e4665-4dfe-4ab1-b689-ed553bceeed0f",
    ] {
        let answer = stage.get(&format!("/hooks?challengeCode={code}"));
        assert_problem(&answer, 400, "handshake_malformed");
    }

    // Braintree's payload could be one: only then it is refused.
    let stage = Stage::of(
        "braintree",
        "braintree-private-key",
        "params = { public_key = \"pk\" }",
    );
    let answer = stage.get("/hooks?bt_challenge=20f9f8ed05f77439fe955c977e4c8a53");
    let tag = String::from_utf8(answer.body).unwrap();
    let body = format!(
        "bt_signature={}&bt_payload=20f9f8ed05f77439fe955c977e4c8a53",
        tag.replace('|', "%7C")
    );
    let refused = stage.send(&Delivery::post("/hooks", body));
    assert_not_verified(&refused);
    assert_eq!(stage.reason(&refused), "signed_content_is_challenge");
    assert_problem(
        &stage.get("/hooks?bt_challenge=abc"),
        400,
        "handshake_malformed",
    );
    stage.upstream.assert_untouched();
}

#[test]
fn challenges_are_signed_at_a_bounded_rate() {
    let stage = Stage::of("x", "x-consumer-secret", "");
    let mut client = Client::connect(stage.gateway.door(), Protocol::Http1);
    let (mut signed, mut refused) = (0, 0);
    for i in 0..60 {
        let answer = client.send(&request("GET", &format!("/hooks?crc_token=token{i}")));
        match answer.status {
            200 => signed += 1,
            _ => {
                assert_problem(&answer, 429, "too_many_challenges");
                assert!(answer.fields.has("retry-after"));
                refused += 1;
            }
        }
    }
    assert!(
        signed >= 20 && refused >= 1,
        "{signed} were signed, {refused} refused"
    );
    // Deliveries are not held up by it.
    let body = r#"{"a":1}"#;
    let tag =
        HEXLOWER.decode(sign::hmac_sha256(b"x-consumer-secret", &[body.as_bytes()]).as_bytes());
    let tag = format!("sha256={}", BASE64.encode(&tag.unwrap()));
    let delivery = Delivery::post("/hooks", body).header("x-twitter-webhooks-signature", tag);
    assert_eq!(client.send(&delivery).status, 200);
}

#[test]
fn what_comes_back_is_short_and_cannot_be_a_page() {
    let stage = Stage::of("dropbox", "secret", "");
    let most = "a".repeat(1024);
    assert_answer(&stage.get(&format!("/hooks?challenge={most}")), TEXT, &most);
    for reflected in [
        "<script>alert(1)</script>",
        "%3Cscript%3Ealert(1)%3C/script%3E",
        "%22onload%3D1",
        "%27",
        "%26lt%3B",
        "a%0d%0aSet-Cookie:%20a%3Db",
        "%00",
        "%E2%80%AE",
        "%FF",
        &"a".repeat(1025),
    ] {
        let answer = send_raw(
            stage.gateway.door(),
            &request("GET", &format!("/hooks?challenge={reflected}")),
        );
        // hyper takes no `<` in a target.
        if answer.fields.has("content-type") {
            assert_problem(&answer, 400, "handshake_malformed");
        }
        assert_eq!(answer.status, 400, "{reflected}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("script"));
    }
    assert_problem(&stage.get("/hooks?challenge="), 400, "not_a_handshake");
    assert_problem(
        &stage.get("/hooks?challenge=a&challenge=b"),
        400,
        "not_a_handshake",
    );

    // Into a header goes nothing that a header could not hold, nor markup.
    let grid = Stage::of("azure-event-grid", "k", "params = { query = \"key\" }");
    for origin in ["<x>", "\"a\"", "a\u{e4}"] {
        let options = request("OPTIONS", "/hooks").header("webhook-request-origin", origin);
        let answer = send_raw(grid.gateway.door(), &options);
        assert_problem(&answer, 400, "handshake_malformed");
        assert!(!answer.fields.has("webhook-allowed-origin"));
    }

    // Into JSON goes a JSON string.
    let monday = Stage::of("monday", "secret", "");
    for challenge in [
        r#"{"challenge":"a\",\"b\":\"c"}"#,
        r#"{"challenge":"\u003cb\u003e"}"#,
        r#"{"challenge":{"a":1}}"#,
    ] {
        let answer = monday.send(&Delivery::post("/hooks", challenge));
        match challenge.contains("{\"a\"") {
            false => assert_problem(&answer, 400, "handshake_malformed"),
            // An object is no value that could come back: it is no handshake.
            true => assert_not_verified(&answer),
        }
    }
    monday.upstream.assert_untouched();
}

/// A delivery that looks like a handshake is answered at most; it never goes on unverified.
#[test]
fn a_forged_delivery_dressed_as_a_handshake_does_not_get_through() {
    let event = r#"{"challenge":"abc","event":{"type":"create_item"}}"#;
    for mode in ["answer", "forward"] {
        let lines = format!("handshake = \"{mode}\"");
        for (scheme, delivery) in [
            (
                "slack",
                Delivery::post("/hooks", r#"{"type":"url_verification","challenge":"x"}"#),
            ),
            (
                "github",
                Delivery::post("/hooks", "{}").header("x-github-event", "ping"),
            ),
            (
                "twitch",
                Delivery::post("/hooks", "{}").header(
                    "twitch-eventsub-message-type",
                    "webhook_callback_verification",
                ),
            ),
            (
                "zoom",
                Delivery::post(
                    "/hooks",
                    r#"{"event":"endpoint.url_validation","payload":{"plainToken":"a"}}"#,
                ),
            ),
            ("discord", Delivery::post("/hooks", r#"{"type":1}"#)),
        ] {
            let secret = HEXLOWER_PERMISSIVE.encode(
                Ed25519KeyPair::from_seed_unchecked(&[7; 32])
                    .unwrap()
                    .public_key()
                    .as_ref(),
            );
            let stage = Stage::of(scheme, secret, &lines);
            assert_not_verified(&stage.send(&delivery));
            stage.upstream.assert_untouched();
        }
        // By its head a handshake, but with a body: answered without it, or a delivery that has to verify.
        for (scheme, delivery) in [
            (
                "front",
                Delivery::post("/hooks", event).header("x-front-challenge", "abc"),
            ),
            (
                "microsoft-graph",
                Delivery::post("/hooks?validationToken=abc", event),
            ),
        ] {
            let stage = Stage::of(scheme, "secret", &lines);
            let answers = [
                stage.send(&delivery),
                stage.send(&delivery.clone().chunked()),
            ];
            for answer in answers {
                match mode {
                    "answer" => assert_answer(&answer, TEXT, "abc"),
                    _ => assert_not_verified(&answer),
                }
            }
            stage.upstream.assert_untouched();
        }
    }
    let stage = Stage::of("monday", "secret", "");
    assert_answer(
        &stage.send(&Delivery::post("/hooks", event)),
        JSON,
        r#"{"challenge":"abc"}"#,
    );
    for not_one in [
        "not JSON".to_owned(),
        r#"{"challenge":"#.to_owned(),
        format!(r#"{{"challenge":"abc","pad":"{}"}}"#, "x".repeat(16 * 1024)),
        String::new(),
    ] {
        assert_not_verified(&stage.send(&Delivery::post("/hooks", not_one.clone())));
        let mut client = Client::connect(stage.gateway.door(), Protocol::Http1);
        assert_not_verified(&client.send(&Delivery::post("/hooks", not_one).chunked()));
    }
    stage.upstream.assert_untouched();
}

#[test]
fn forwarded_handshakes_bear_no_mark_unless_they_verified() {
    let lines = "handshake = \"forward\"\nparams = { verify_token = \"t\" }";
    let stage = Stage::of("meta", "app-secret", lines);
    let target = "/hooks?hub.mode=subscribe&hub.challenge=1&hub.verify_token=t";
    let forged = request("GET", target).header("Countersign-Verified", "meta;route=\"hooks\"");
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut client = Client::connect(stage.gateway.door(), protocol);
        assert_eq!(client.send(&forged).status, 200);
        let seen = stage.upstream.take_only();
        assert_eq!(
            (&*seen.method, &*seen.target, seen.body_len),
            ("GET", target, 0)
        );
        assert!(!seen.fields.has("countersign-verified"), "{seen:?}");
    }
    let wrong = stage.get("/hooks?hub.mode=subscribe&hub.challenge=1&hub.verify_token=u");
    assert_problem(&wrong, 403, "handshake_refused");
    // With a body it is no handshake that goes on, and no delivery either.
    let with_body = Delivery::post(target, "forged").method("GET");
    assert_problem(&stage.send(&with_body), 400, "not_a_handshake");
    assert_eq!(stage.upstream.count(), 0);
    let mut line = None;
    for found in stage.gateway.logs().wait_for_count(2, |line| {
        line.is("request") && line.text_field("verdict") == Some("forwarded")
    }) {
        line = Some(found);
    }
    assert_eq!(line.unwrap().text_field("handshake"), Some("echo-query"));
    let forwarded =
        "countersign_handshakes_total{route=\"hooks\",kind=\"echo-query\",result=\"forwarded\"}";
    stage.gateway.wait_for_metric(forwarded, |count| count == 2);
    assert_eq!(stage.gateway.metric("countersign_verifications_total{route=\"hooks\",scheme=\"meta\",result=\"verified\",reason=\"\"}"), 0);

    // Without the parameter the upstream compares the token.
    let stage = Stage::of("meta", "app-secret", "handshake = \"forward\"");
    assert_eq!(stage.get(target).status, 200);
    stage.upstream.take_only();

    // A signed one is a delivery.
    let stage = Stage::of("github", "secret", "handshake = \"forward\"");
    let tag = format!("sha256={}", sign::hmac_sha256(b"secret", &[b"{}"]));
    let ping = Delivery::post("/hooks", "{}")
        .header("x-github-event", "ping")
        .header("x-hub-signature-256", tag);
    assert_eq!(stage.send(&ping).status, 200);
    assert!(
        stage
            .upstream
            .take_only()
            .fields
            .has("countersign-verified")
    );
}

#[test]
fn a_route_without_a_secret_answers_what_needs_none_and_forwards_nothing() {
    let upstream = Upstream::accepting();
    for (scheme, lines, target, status) in [
        ("dropbox", "", "/hooks?challenge=abc", 200),
        (
            "dropbox",
            "handshake = \"forward\"",
            "/hooks?challenge=abc",
            503,
        ),
        ("x", "", "/hooks?crc_token=abc", 503),
    ] {
        let gateway = builder(&format!("scheme = \"{scheme}\""), "", lines, &upstream).start();
        let answer = send_raw(gateway.door(), &request("GET", target));
        assert_eq!(answer.status, status, "{scheme} {lines}");
        upstream.assert_untouched();
    }
}

#[test]
fn what_nobody_signed_and_has_a_body_cannot_be_forwarded() {
    let upstream = Upstream::accepting();
    for scheme in ["monday", "asana", "notion"] {
        let scheme = format!("scheme = \"{scheme}\"");
        let failed = builder(&scheme, "secret", "handshake = \"forward\"", &upstream)
            .try_start()
            .err()
            .unwrap();
        assert_eq!(failed.status.code(), Some(78));
        assert!(
            failed.output.contains("cannot be forwarded"),
            "{}",
            failed.output
        );
    }
}

/// A message of SNS that confirms a subscription, signed as its pages say.
fn sns_subscription(key: &rsa::KeyPair, subscribe_url: &str) -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "+%FT%T.000Z"])
        .output();
    let time = String::from_utf8(output.unwrap().stdout).unwrap();
    let fields = [
        ("Message", "You have chosen to subscribe to the topic."),
        ("MessageId", "165545c9-2a5c-472c-8df2-7ff2be2b3b1b"),
        ("SubscribeURL", subscribe_url),
        ("Timestamp", time.trim()),
        ("Token", "2336412f37"),
        ("TopicArn", SNS_TOPIC),
        ("Type", "SubscriptionConfirmation"),
    ];
    let content: String = fields
        .iter()
        .map(|(name, value)| format!("{name}\n{value}\n"))
        .collect();
    let mut tag = vec![0; key.public_modulus_len()];
    let random = SystemRandom::new();
    key.sign(&RSA_PKCS1_SHA256, &random, content.as_bytes(), &mut tag)
        .unwrap();
    let mut message: serde_json::Map<_, _> = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect();
    message.insert("SignatureVersion".into(), "2".into());
    message.insert("Signature".into(), BASE64.encode(&tag).into());
    serde_json::Value::Object(message).to_string()
}

const SNS_TOPIC: &str = "arn:aws:sns:us-west-2:123456789012:MyTopic";

const SNS_HOST: &str = "sns.us-west-2.amazonaws.com";

/// A server of that host, and a gateway that finds it.
fn sns(key: &rsa::KeyPair, answer: Response, lines: &str) -> (Upstream, Stage) {
    let authority = tls::authority();
    let config = authority.server(&authority.issue(&[SNS_HOST]), &["http/1.1"], false);
    let server = Upstream::start_tls(config, move |_| Behaviour::Respond(answer.clone()));
    let Address::Tcp(address) = server.address() else {
        panic!("a server on TCP");
    };
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    let upstream = Upstream::accepting();
    let gateway = builder(
        "scheme = \"aws-sns\"",
        BASE64.encode(public.as_ref()),
        &format!("params = {{ topic_arn = \"{SNS_TOPIC}\" }}\n{lines}"),
        &upstream,
    )
    .file("ca.pem", &authority.certificate_pem)
    .config(&format!(
        "[fetch]\nca = \"$DIR/ca.pem\"\nresolve = {{ \"{SNS_HOST}\" = \"{address}\", \"evil.example\" = \"{address}\" }}\n"
    ))
    .start();
    (server, Stage { upstream, gateway })
}

#[test]
fn subscriptions_of_sns_are_confirmed_once_they_verify() {
    let key = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let target = "/?Action=ConfirmSubscription&TopicArn=t&Token=2336412f37";
    let url = format!("https://{SNS_HOST}{target}");
    let body = sns_subscription(&key, &url);
    let (server, stage) = sns(&key, Response::new(200).body("<Confirmed/>"), "");
    let forged = body.replace("2336412f37", "2336412f38");
    assert_not_verified(&stage.send(&Delivery::post("/hooks", forged)));
    server.assert_untouched();
    assert_answer(
        &stage.send(&Delivery::post("/hooks", body.clone())),
        TEXT,
        "",
    );
    let seen = server.take_only();
    assert_eq!((&*seen.method, &*seen.target), ("GET", target));
    assert_eq!(seen.fields.one("host"), SNS_HOST);
    stage.upstream.assert_untouched();

    // Nobody but the provider is asked, however well it is signed.
    for elsewhere in [
        "https://evil.example/?Action=ConfirmSubscription",
        "http://sns.us-west-2.amazonaws.com/",
        "https://sns.us-west-2.amazonaws.com:8443/",
        "https://sns.us-west-2.amazonaws.com@evil.example/",
        "https://127.0.0.1/",
    ] {
        let answer = stage.send(&Delivery::post("/hooks", sns_subscription(&key, elsewhere)));
        assert_problem(&answer, 400, "handshake_malformed");
    }
    assert_eq!(server.count(), 0);
    stage.upstream.assert_untouched();

    // A redirection is not followed, and a failure is the sender's to repeat.
    let away = Response::new(302).header("location", "https://evil.example/");
    for answer in [away, Response::new(500)] {
        let (server, stage) = sns(&key, answer, "");
        let refused = stage.send(&Delivery::post("/hooks", body.clone()));
        assert_problem(&refused, 503, "try_later");
        assert_eq!(stage.reason(&refused), "not_confirmed");
        server.take_only();
        stage.upstream.assert_untouched();
    }

    // Where the upstream is to answer it gets the request, verified.
    let (server, stage) = sns(&key, Response::new(200), "handshake = \"forward\"");
    assert_eq!(stage.send(&Delivery::post("/hooks", body)).status, 200);
    assert!(
        stage
            .upstream
            .take_only()
            .fields
            .has("countersign-verified")
    );
    server.assert_untouched();
}

#[test]
fn no_private_address_is_asked_to_confirm() {
    let key = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    let upstream = Upstream::accepting();
    // A scheme of somebody's own, with a host that this machine finds at itself.
    let scheme = r#"
        scheme = { algorithm = "rsa-sha256", signature = { json = "/Signature", encoding = "base64" }, content = "{canonical:sns}", handshake = [
            { kind = "confirm-get", when = { "json:/Type" = "SubscriptionConfirmation" }, signed = true, confirm = "{json:/SubscribeURL}", hosts = ["localhost"] }] }"#;
    let gateway = builder(scheme, BASE64.encode(public.as_ref()), "", &upstream)
        .file("ca.pem", &tls::authority().certificate_pem)
        .config("[fetch]\nca = \"$DIR/ca.pem\"\n")
        .start();
    let stage = Stage { upstream, gateway };
    let body = sns_subscription(&key, "https://localhost/?Action=ConfirmSubscription");
    let refused = stage.send(&Delivery::post("/hooks", body));
    assert_problem(&refused, 503, "try_later");
    let line = stage.gateway.request_line(&request_id(&refused));
    let detail = line.text_field("detail").unwrap();
    assert!(detail.contains("no public address"), "{detail}");
    stage.upstream.assert_untouched();
}

#[test]
fn a_secret_is_taken_once_while_pairing_is_open_and_never_shown() {
    let upstream = Upstream::accepting();
    let pairing = |scheme: &str, until: &str| {
        Gateway::builder().config(&format!(
            r#"
            [[route]]
            name = "hooks"
            path = "/hooks"
            scheme = "{scheme}"
            secrets = [{{ id = "test", file = "$DIR/paired" }}]
            pairing = {{ file = "$DIR/paired", until = "{until}" }}
            upstream = "{}"
            "#,
            upstream.url()
        ))
    };
    let far = "2999-01-01T00:00:00Z";
    let secret = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81";
    let asana = |secret: &str| Delivery::post("/hooks", "").header("X-Hook-Secret", secret);

    let gateway = pairing("asana", far).start();
    let answer = send_raw(gateway.door(), &asana(secret));
    assert_answer(&answer, TEXT, "");
    assert_eq!(answer.fields.one("x-hook-secret"), secret);
    let path = gateway.folder().join("paired");
    assert_eq!(fs::read_to_string(&path).unwrap(), secret);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let again = send_raw(gateway.door(), &asana("another"));
    assert_problem(&again, 403, "handshake_refused");
    assert_eq!(
        gateway
            .request_line(&request_id(&again))
            .text_field("reason"),
        Some("pairing_closed")
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), secret);
    assert!(!gateway.logs().text().contains(secret));
    assert!(!gateway.metrics().contains(secret));

    // With a secret the door is closed, and so it is when the time is over, or where nobody opened it.
    let gateway = pairing("asana", far).file("paired", "known").start();
    assert_problem(
        &send_raw(gateway.door(), &asana(secret)),
        403,
        "handshake_refused",
    );
    let gateway = pairing("asana", "2020-01-01T00:00:00Z").start();
    assert_problem(
        &send_raw(gateway.door(), &asana(secret)),
        403,
        "handshake_refused",
    );
    assert!(!gateway.folder().join("paired").exists());
    let gateway = builder("scheme = \"asana\"", "", "", &upstream).start();
    assert_problem(
        &send_raw(gateway.door(), &asana(secret)),
        403,
        "handshake_refused",
    );

    let gateway = pairing("notion", far).start();
    let body = r#"{"verification_token":"secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"}"#;
    assert_answer(
        &send_raw(gateway.door(), &Delivery::post("/hooks", body)),
        TEXT,
        "",
    );
    let kept = fs::read_to_string(gateway.folder().join("paired")).unwrap();
    assert_eq!(kept, "secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl");
    upstream.assert_untouched();
}

#[test]
fn handshakes_are_told_apart_in_log_and_metrics() {
    let stage = Stage::of(
        "meta",
        "app-secret",
        "params = { verify_token = \"t0ken\" }",
    );
    let target = |token: &str| {
        format!("/hooks?hub.mode=subscribe&hub.challenge=s3cr3t&hub.verify_token={token}")
    };
    assert_eq!(stage.get(&target("t0ken")).status, 200);
    assert_eq!(stage.get(&target("wr0ng")).status, 403);
    let lines = stage
        .gateway
        .logs()
        .wait_for_count(2, |line| line.is("request"));
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            assert_eq!(line.text_field("handshake"), Some("echo-query"));
            line.text_field("verdict").unwrap()
        })
        .collect();
    assert_eq!(told, ["handshake", "rejected"]);
    for result in ["answered", "refused"] {
        let name = format!(
            "countersign_handshakes_total{{route=\"hooks\",kind=\"echo-query\",result=\"{result}\"}}"
        );
        stage.gateway.wait_for_metric(&name, |count| count == 1);
    }
    for secret in ["t0ken", "wr0ng", "s3cr3t"] {
        assert!(!stage.gateway.logs().text().contains(secret), "{secret}");
        assert!(!stage.gateway.metrics().contains(secret), "{secret}");
    }
}

#[test]
fn a_connection_goes_on_after_a_handshake() {
    let stage = Stage::of("dropbox", "secret", "");
    let mut client = Client::connect(stage.gateway.door(), Protocol::Http1);
    for i in 0..3 {
        let answer = client.send(&request("GET", &format!("/hooks?challenge=c{i}")));
        assert_answer(&answer, TEXT, &format!("c{i}"));
        let tag = sign::hmac_sha256(b"secret", &[b"{}"]);
        let delivery = Delivery::post("/hooks", "{}").header("x-dropbox-signature", tag);
        assert_eq!(client.send(&delivery).status, 200);
        stage.upstream.take_only();
    }
}
