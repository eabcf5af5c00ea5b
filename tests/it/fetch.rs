//! Keys that are fetched, from a key server on this machine.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Mutex, mpsc},
    time::SystemTime,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{
    PATIENCE,
    client::{Client, Hello, Protocol},
    delivery::Delivery,
    gateway::{Builder, Gateway, assert_not_verified, assert_problem, request_id},
    key_server::{self, Documents, document, maker, parts, server_tls, serving},
    runtime, script, tls,
    upstream::{Behaviour, Response, Upstream},
    wire::{Address, Answer},
};

/// The host of the schemes that these tests write themselves.
const KEYS_HOST: &str = "keys.example.org";

/// A gateway that finds these hosts at the key server; `lines` go into `[fetch]`.
fn gateway(keys: &Upstream, hosts: &[&str], lines: &str) -> Builder {
    let at = hosts.iter().map(|host| (*host, keys));
    let (config, (name, content)) = key_server::config(at, lines);
    Gateway::builder().file(&name, content).config(&config)
}

/// A route without secrets; `lines` are scheme and parameters.
fn route(name: &str, upstream: &Upstream, lines: &str) -> String {
    format!(
        "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{}\"\n{lines}\n",
        upstream.url()
    )
}

fn send(gateway: &Gateway, delivery: &Delivery) -> Answer {
    Client::connect(gateway.door(), Protocol::Http1).send(delivery)
}

/// The reason and its detail that the operator reads of a refusal.
fn told(gateway: &Gateway, refusal: &Answer) -> (String, String) {
    let line = gateway.request_line(&request_id(refusal));
    let text = |name| line.text_field(name).unwrap_or_default().to_owned();
    (text("reason"), text("detail"))
}

/// Checks that the sender is told to try later, and gives what the operator reads.
fn assert_unavailable(gateway: &Gateway, answer: &Answer) -> String {
    assert_problem(answer, 503, "try_later");
    assert!(answer.fields.has("retry-after"), "{answer:?}");
    let (reason, detail) = told(gateway, answer);
    assert_eq!(reason, "key_unavailable");
    detail
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn maker_key(name: &str) -> Vec<u8> {
    let key = PrivateKeyDer::from_pem_slice(maker(name).as_bytes()).unwrap();
    key.secret_der().to_vec()
}

fn rsa_sha256(message: &[u8]) -> String {
    let key = RsaKeyPair::from_pkcs8(&maker_key("rsa.pem")).unwrap();
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        message,
        &mut signature,
    )
    .unwrap();
    BASE64.encode(&signature)
}

/// A recorded request that needs a fetched key.
struct Recorded {
    delivery: Delivery,
    documents: BTreeMap<String, String>,
}

fn recorded(provider: &str, id: &str) -> Recorded {
    let path = script::tests_file("vectors/providers").join(format!("{provider}.json"));
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    let vector = vectors.iter().find(|vector| vector["id"] == id).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let request = &vector["request"];
    let mut delivery = Delivery::post(&format!("/{provider}"), text(&request["body"]));
    for field in request["headers"].as_array().unwrap() {
        delivery = delivery.header(&text(&field[0]), text(&field[1]));
    }
    let documents = vector["fetched"].as_object().unwrap();
    Recorded {
        delivery,
        documents: documents
            .iter()
            .map(|(url, document)| (url.clone(), text(document)))
            .collect(),
    }
}

/// A signer of JWTs over a body, as a provider with several keys has it.
struct Signer {
    id: String,
    key: EcdsaKeyPair,
}

impl Signer {
    fn new(id: &str) -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .unwrap();
        Self::of(id, pkcs8.as_ref())
    }

    fn of(id: &str, pkcs8: &[u8]) -> Self {
        Self {
            id: id.into(),
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).unwrap(),
        }
    }

    fn jwk(&self) -> Value {
        let point = &self.key.public_key().as_ref()[1..];
        let half = |range| BASE64URL_NOPAD.encode(&point[range]);
        json!({"kty": "EC", "crv": "P-256", "x": half(0..32), "y": half(32..64), "kid": self.id})
    }

    fn token(&self, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": self.id});
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }

    /// A delivery to a route of [`jwks_route`].
    fn delivery(&self, body: &str) -> Delivery {
        let claims = json!({"iat": now(), "sha256": sha256(body)});
        Delivery::post("/jwks", body.to_owned())
            .header("authorization", format!("Bearer {}", self.token(&claims)))
    }
}

fn sha256(body: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(body))
}

fn jwks(signers: &[&Signer]) -> Response {
    let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
    Response::new(200).body(json!({ "keys": keys }).to_string())
}

/// A route named `jwks` whose tokens name a key of one set.
fn jwks_route(upstream: &Upstream) -> String {
    jwks_route_at("jwks", upstream, &format!("https://{KEYS_HOST}/jwks"))
}

fn jwks_route_at(name: &str, upstream: &Upstream, url: &str) -> String {
    route(
        name,
        upstream,
        &format!(
            r#"
            [route.scheme]
            algorithm = "jwt-es256"
            signature = {{ header = "authorization", prefix = "Bearer " }}
            timestamp = {{ claim = "iat" }}
            require   = {{ "claim:sha256" = "{{body|sha256|hex}}" }}
            fetch     = {{ url = "{url}" }}
            "#
        ),
    )
}

/// A key server with a key set, and a gateway with a route for it.
fn jwks_world(answer: Response, lines: &str) -> (Upstream, Upstream, Gateway) {
    let keys = key_server::start(&[KEYS_HOST], [("/jwks".to_owned(), answer)].into());
    let upstream = Upstream::accepting();
    let gateway = gateway(&keys, &[KEYS_HOST], lines)
        .config(&jwks_route(&upstream))
        .start();
    (keys, upstream, gateway)
}

/// No pause between two fetches, and every answer stale at once if its server says so.
const IMPATIENT: &str = "fresh_min = \"0s\"\ncool_down = \"0s\"";

#[test]
fn recorded_deliveries_verify_with_fetched_keys() {
    for (provider, id, lines, name) in [
        (
            "circle",
            "v2-1",
            "scheme = \"circle:v2\"\nfetch_secret = { file = \"$DIR/fetch.secret\" }",
            "https://api.circle.com/v2/notifications/publicKey/879dc113-5ca4-4ff7-a6b7-54652083fcf8",
        ),
        (
            "travis-ci",
            "default-1",
            "scheme = \"travis-ci\"",
            "https://api.travis-ci.com/config",
        ),
        (
            "saleor",
            "jws-1",
            "scheme = \"saleor:jws\"\nparams = { jwks_url = \"https://shop.saleor.example/.well-known/jwks.json\" }",
            "1",
        ),
    ] {
        let recorded = recorded(provider, id);
        let (url, body) = recorded.documents.first_key_value().unwrap();
        let (host, target) = parts(url);
        let keys = key_server::start(&[host], document(target, body.clone()));
        let upstream = Upstream::accepting();
        let gateway = gateway(&keys, &[host], "")
            .file("fetch.secret", "let-me-in")
            .config(&route(provider, &upstream, lines))
            .start();
        for _ in 0..3 {
            assert_eq!(send(&gateway, &recorded.delivery).status, 200, "{provider}");
            let seen = upstream.take_only();
            assert_eq!(seen.body.as_deref(), Some(&recorded.delivery.body[..]));
            let mark = seen.fields.one("countersign-verified");
            let begin = format!("{};route=\"{provider}\";key=\"{name}\";t=", scheme(lines));
            assert!(mark.starts_with(&begin), "{mark}");
            let line = gateway.request_line(seen.fields.one("countersign-request-id"));
            assert_eq!(line.text_field("key"), Some(name));
        }
        let asked = keys.take_only();
        assert_eq!((&*asked.method, &*asked.target), ("GET", target));
        assert_eq!(asked.fields.one("host"), host);
        if provider == "circle" {
            assert_eq!(asked.fields.one("authorization"), "Bearer let-me-in");
        }
        let mut forged = recorded.delivery.clone();
        forged.body = [&forged.body[..], b" "].concat().into();
        assert_not_verified(&send(&gateway, &forged));
        let fetched =
            format!("countersign_key_fetches_total{{route=\"{provider}\",result=\"fetched\"}}");
        assert_eq!(gateway.metric(&fetched), 1);
        assert!(!gateway.logs().text().contains("let-me-in"));
    }
}

/// The name in `scheme = "NAME"`.
fn scheme(lines: &str) -> &str {
    lines.split('"').nth(1).unwrap()
}

#[test]
fn a_key_by_id_is_asked_for_with_the_secret_of_the_route() {
    let target = "/webhook_verification_key/get";
    let signer = Signer::of("plaid-key-1", &maker_key("p256.pem"));
    let answer = json!({"key": signer.jwk(), "request_id": "1"}).to_string();
    let host = "production.plaid.com";
    let keys = key_server::start(&[host], document(target, answer));
    let upstream = Upstream::accepting();
    let gateway = gateway(&keys, &[host], "")
        .file("plaid.secret", "s3\"cret")
        .config(&route(
            "plaid",
            &upstream,
            "scheme = \"plaid\"\nparams = { client_id = \"client-7\" }\nfetch_secret = { file = \"$DIR/plaid.secret\" }",
        ))
        .start();
    let body = "{\"webhook_code\":\"DEFAULT_UPDATE\"}";
    let signed = |iat, sha256: String| {
        let claims = json!({"iat": iat, "request_body_sha256": sha256});
        Delivery::post("/plaid", body).header("plaid-verification", signer.token(&claims))
    };
    // What is wrong with the token itself costs no lookup.
    for forged in [
        signed(now() - 3600, sha256(body)),
        signed(now(), sha256("another")),
        Delivery::post("/plaid", body).header("plaid-verification", "a.b.c"),
        Delivery::post("/plaid", body),
    ] {
        assert_not_verified(&send(&gateway, &forged));
    }
    keys.assert_untouched();
    for _ in 0..2 {
        assert_eq!(send(&gateway, &signed(now(), sha256(body))).status, 200);
    }
    let mark = upstream.wait_for(2)[1]
        .fields
        .one("countersign-verified")
        .to_owned();
    assert!(
        mark.starts_with("plaid;route=\"plaid\";key=\"plaid-key-1\";t="),
        "{mark}"
    );
    let asked = keys.take_only();
    assert_eq!((&*asked.method, &*asked.target), ("POST", target));
    assert_eq!(asked.fields.one("content-type"), "application/json");
    let asked: Value = serde_json::from_slice(&asked.body.unwrap()).unwrap();
    let want = json!({"client_id": "client-7", "secret": "s3\"cret", "key_id": "plaid-key-1"});
    assert_eq!(asked, want);
}

#[test]
fn a_certificate_whose_address_stands_in_the_body() {
    let host = "sns.eu-central-1.amazonaws.com";
    let keys = key_server::start(&[host], document("/good.pem", maker("sns.crt.pem")));
    let upstream = Upstream::accepting();
    let topic = "arn:aws:sns:eu-central-1:123456789012:countersign";
    let gateway = gateway(&keys, &[host], "")
        .config(&route(
            "sns",
            &upstream,
            &format!("scheme = \"aws-sns\"\nparams = {{ topic_arn = \"{topic}\" }}"),
        ))
        .start();
    let time = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S.000Z")
        .to_string();
    let message = |url: &str, topic: &str| {
        let (text, id) = ("Hello", "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324");
        let signed = format!(
            "Message\n{text}\nMessageId\n{id}\nTimestamp\n{time}\nTopicArn\n{topic}\nType\nNotification\n"
        );
        let body = json!({
            "Type": "Notification", "MessageId": id, "TopicArn": topic, "Message": text, "Timestamp": time,
            "SignatureVersion": "2", "Signature": rsa_sha256(signed.as_bytes()), "SigningCertURL": url,
        });
        Delivery::post("/sns", body.to_string())
    };
    for url in [
        "https://evil.example/good.pem".to_owned(),
        format!("http://{host}/good.pem"),
        format!("https://{host}:8443/good.pem"),
        format!("https://{host}/good.txt"),
        format!("https://{host}.evil.example/good.pem"),
    ] {
        assert_not_verified(&send(&gateway, &message(&url, topic)));
    }
    let url = format!("https://{host}/good.pem");
    // Another topic's message is genuine too, and none of our business.
    assert_not_verified(&send(&gateway, &message(&url, &topic.replace('1', "2"))));
    keys.assert_untouched();
    for _ in 0..2 {
        assert_eq!(send(&gateway, &message(&url, topic)).status, 200);
    }
    assert_eq!(keys.take_only().target, "/good.pem");
    let unknown = message(&format!("https://{host}/unknown.pem"), topic);
    for _ in 0..3 {
        let answer = send(&gateway, &unknown);
        assert_not_verified(&answer);
        let (reason, detail) = told(&gateway, &answer);
        assert_eq!(reason, "key_unknown");
        assert!(
            detail.contains("/unknown.pem") && detail.contains("404"),
            "{detail}"
        );
    }
    assert_eq!(keys.take_only().target, "/unknown.pem");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_certificate_has_to_chain_to_an_authority_and_to_have_its_name() {
    let host = "api.paypal.com";
    let good = [maker("paypal.crt.pem"), maker("authority.crt.pem")].concat();
    let mut documents = document("/certs/good", good);
    documents.extend(document("/certs/other-name", maker("sns.crt.pem")));
    let other = tls::Authority::new("unknown");
    let forged = other.issue(&["messageverificationcerts.paypal.com"]);
    documents.extend(document("/certs/unknown-authority", forged.certificate_pem));
    let keys = key_server::start(&[host], documents);
    let upstream = Upstream::accepting();
    let gateway = gateway(&keys, &[host], "")
        .config(&route(
            "paypal",
            &upstream,
            "scheme = \"paypal\"\nparams = { webhook_id = \"4JH86294D6297924G\" }",
        ))
        .start();
    let time = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let message = |path: &str| {
        // CRC-32 of the body, by Python's zlib.
        let (body, crc) = ("{\"id\":\"WH-1\"}", 838_965_618_u32);
        let id = "69cd13f0-d67a-11e5-baa3-778b53f4ae55";
        let signed = format!("{id}|{time}|4JH86294D6297924G|{crc}");
        Delivery::post("/paypal", body)
            .header("paypal-transmission-id", id)
            .header("paypal-transmission-time", &time)
            .header("paypal-auth-algo", "SHA256withRSA")
            .header("paypal-cert-url", format!("https://{host}{path}"))
            .header("paypal-transmission-sig", rsa_sha256(signed.as_bytes()))
    };
    assert_eq!(send(&gateway, &message("/certs/good")).status, 200);
    for (path, why) in [
        ("/certs/other-name", "it is for another name"),
        ("/certs/unknown-authority", "no known authority signed it"),
    ] {
        let answer = send(&gateway, &message(path));
        assert_not_verified(&answer);
        let (reason, detail) = told(&gateway, &answer);
        assert_eq!(reason, "key_unknown");
        assert!(detail.contains(why), "{detail}");
    }
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_key_set_without_ids_is_fetched_anew_when_no_key_fits() {
    let host = "rest.alpha.fal.ai";
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&maker_key("ed25519.pem")).unwrap();
    let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
    let set = |keys: Value| Response::new(200).body(json!({ "keys": keys }).to_string());
    let other = Signer::new("p");
    let target = "/.well-known/jwks.json";
    let none = set(
        json!([other.jwk(), {"kty": "OKP", "crv": "Ed25519", "x": BASE64URL_NOPAD.encode(&[9; 32])}]),
    );
    let keys = key_server::start(&[host], [(target.to_owned(), none)].into());
    let upstream = Upstream::accepting();
    let gateway = gateway(&keys, &[host], "cool_down = \"0s\"")
        .config(&route("fal", &upstream, "scheme = \"fal\""))
        .start();
    let (body, time) = ("{\"status\":\"OK\"}", now());
    let signed = format!("id-1\nuser-1\n{time}\n{}", sha256(body));
    let delivery = Delivery::post("/fal", body)
        .header("x-fal-webhook-request-id", "id-1")
        .header("x-fal-webhook-user-id", "user-1")
        .header("x-fal-webhook-timestamp", time.to_string())
        .header(
            "x-fal-webhook-signature",
            HEXLOWER.encode(pair.sign(signed.as_bytes()).as_ref()),
        );
    assert_not_verified(&send(&gateway, &delivery));
    let good = set(json!([{"kty": "OKP", "crv": "Ed25519", "x": x}]));
    keys.behave(serving([(target.to_owned(), good)].into()));
    assert_eq!(send(&gateway, &delivery).status, 200);
    let asked = keys.count();
    assert_eq!(send(&gateway, &delivery).status, 200);
    assert_eq!(keys.count(), asked, "it is fresh and it fits");
}

#[test]
fn a_rotated_key_is_picked_up_and_an_unknown_one_is_refused() {
    let (old, new, unknown) = (
        Signer::new("old"),
        Signer::new("new"),
        Signer::new("unknown"),
    );
    let (keys, upstream, gateway) = jwks_world(jwks(&[&old]), "cool_down = \"0s\"");
    assert_eq!(send(&gateway, &old.delivery("1")).status, 200);
    let answer = send(&gateway, &new.delivery("2"));
    assert_not_verified(&answer);
    let (reason, detail) = told(&gateway, &answer);
    assert_eq!(reason, "key_unknown");
    assert!(
        detail.contains("\"new\"") && detail.contains(KEYS_HOST),
        "{detail}"
    );
    keys.behave(serving([("/jwks".to_owned(), jwks(&[&old, &new]))].into()));
    assert_eq!(send(&gateway, &new.delivery("3")).status, 200);
    assert_eq!(send(&gateway, &old.delivery("4")).status, 200);
    assert_not_verified(&send(&gateway, &unknown.delivery("5")));
    // An id is only a hint: the signature decides.
    let mut liar = Signer::new("new");
    assert_not_verified(&send(&gateway, &liar.delivery("6")));
    liar.id = "old".into();
    assert_not_verified(&send(&gateway, &liar.delivery("7")));
    keys.behave(serving([("/jwks".to_owned(), jwks(&[&new]))].into()));
    assert_not_verified(&send(&gateway, &unknown.delivery("8")));
    assert_not_verified(&send(&gateway, &old.delivery("9")));
    assert_eq!(upstream.count(), 3);
}

#[test]
fn fetched_keys_outlive_a_reload_unless_fetching_itself_changes() {
    let signer = Signer::new("one");
    let (keys, upstream, gateway) = jwks_world(jwks(&[&signer]), "");
    assert_eq!(send(&gateway, &signer.delivery("1")).status, 200);
    // The route changes its place, too.
    let other = format!(
        "[[route]]\nname = \"other\"\npath = \"/other\"\nscheme = \"none\"\nupstream = \"{}\"\n[[route]]",
        upstream.url()
    );
    gateway.reconfigure("[[route]]", &other);
    assert!(gateway.hang_up().is("reloaded"));
    assert_eq!(send(&gateway, &signer.delivery("2")).status, 200);
    assert_eq!(keys.count(), 1);
    gateway.reconfigure("[fetch]", "[fetch]\ntimeout = \"4s\"");
    assert!(gateway.hang_up().is("reloaded"));
    assert_eq!(send(&gateway, &signer.delivery("3")).status, 200);
    assert_eq!(keys.count(), 2);
    // Other authorities: what the old ones vouched for is asked for anew.
    let ca = fs::read_to_string(gateway.folder().join("fetch-ca.pem")).unwrap();
    gateway.replace("fetch-ca.pem", &tls::authority().certificate_pem);
    assert_ne!(ca, tls::authority().certificate_pem);
    assert!(gateway.hang_up().is("reloaded"));
    assert_eq!(send(&gateway, &signer.delivery("4")).status, 200);
    assert_eq!(keys.count(), 3);
}

#[test]
fn many_at_once_wait_for_one_fetch() {
    const COUNT: usize = 50;
    let signer = Signer::new("k");
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let set = jwks(&[&signer]);
    let keys = Upstream::start_tls(server_tls(&[KEYS_HOST]), move |_| {
        let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
        Behaviour::Respond(set.clone())
    });
    let upstream = Upstream::accepting();
    let gateway = gateway(&keys, &[KEYS_HOST], "timeout = \"60s\"")
        .config(&jwks_route(&upstream))
        .start();
    let sent: Vec<_> = (0..COUNT)
        .map(|n| {
            let (door, delivery) = (gateway.door().clone(), signer.delivery(&n.to_string()));
            runtime().spawn(async move {
                let mut client = Client::connect_with(&door, Protocol::Http1, &Hello::default())
                    .await
                    .unwrap();
                client.deliver(&delivery).await.unwrap().status
            })
        })
        .collect();
    gateway.wait_for_inflight(COUNT as u64);
    drop(open);
    for status in sent {
        assert_eq!(crate::support::within(PATIENCE, status).unwrap(), 200);
    }
    assert_eq!((keys.connections(), keys.count()), (1, 1));
    assert_eq!(upstream.count(), COUNT);
}

#[test]
fn forged_key_ids_cause_no_lookups_in_a_key_set_and_few_of_named_documents() {
    let (good, forger) = (Signer::new("good"), Signer::new("x"));
    let mut documents: Documents = [("/jwks".to_owned(), jwks(&[&good]))].into();
    let one = good.jwk().to_string();
    documents.extend(document("/keys/good", one));
    let keys = key_server::start(&[KEYS_HOST], documents);
    let upstream = Upstream::accepting();
    let url = format!("https://{KEYS_HOST}/keys/{{protected:kid}}");
    let gateway = gateway(&keys, &[KEYS_HOST], "")
        .config(&jwks_route(&upstream))
        .config(&jwks_route_at("by-id", &upstream, &url))
        .start();
    let by_id = |signer: &Signer, body: &str| {
        let mut delivery = signer.delivery(body);
        delivery.target = "/by-id".into();
        delivery
    };
    assert_eq!(send(&gateway, &good.delivery("1")).status, 200);
    assert_eq!(send(&gateway, &by_id(&good, "2")).status, 200);
    assert_eq!(keys.count(), 2);
    let forged = |n: usize| Signer {
        id: format!("forged-{n}"),
        key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &maker_key("p256.pem"))
            .unwrap(),
    };
    for n in 0..40 {
        assert_not_verified(&send(&gateway, &forged(n).delivery("3")));
    }
    assert_eq!(keys.count(), 2, "one set for all, fetched just now");
    let mut statuses = BTreeMap::<u16, usize>::new();
    for n in 0..40 {
        let answer = send(&gateway, &by_id(&forged(n), "4"));
        *statuses.entry(answer.status).or_default() += 1;
    }
    assert_eq!(statuses, [(401, 19), (503, 21)].into());
    assert_eq!(keys.count(), 2 + 19, "20 in a minute, one of them genuine");
    assert_not_verified(&send(&gateway, &by_id(&forged(0), "5")));
    assert_unavailable(&gateway, &send(&gateway, &by_id(&forger, "6")));
    assert_eq!(send(&gateway, &by_id(&good, "7")).status, 200, "held");
    assert_eq!(send(&gateway, &good.delivery("8")).status, 200);
    assert_eq!(keys.count(), 21);
    assert_eq!(upstream.count(), 4);
    let limited = "countersign_key_fetches_total{route=\"by-id\",result=\"limited\"}";
    assert_eq!(gateway.metric(limited), 22);
}

#[test]
fn a_stale_document_serves_while_its_server_is_down() {
    let signer = Signer::new("k");
    let stale = jwks(&[&signer]).header("cache-control", "max-age=0");
    let (keys, _upstream, gateway) = jwks_world(stale, IMPATIENT);
    assert_eq!(send(&gateway, &signer.delivery("1")).status, 200);
    keys.refuse();
    for _ in 0..3 {
        assert_eq!(send(&gateway, &signer.delivery("2")).status, 200);
    }
    gateway
        .logs()
        .wait_for(|line| line.text.contains("cannot be refreshed"))
        .unwrap_or_else(|| panic!("{}", gateway.logs().text()));
    // The set is known, the key is not, and whether there is a newer set nobody can say.
    let detail = assert_unavailable(&gateway, &send(&gateway, &Signer::new("new").delivery("3")));
    assert!(detail.contains("cannot be reached"), "{detail}");
}

#[test]
fn a_stale_document_serves_for_so_long_and_no_longer() {
    let signer = Signer::new("k");
    let stale = jwks(&[&signer]).header("cache-control", "no-store");
    let lines = format!("{IMPATIENT}\nstale = \"0s\"");
    let (keys, _upstream, gateway) = jwks_world(stale, &lines);
    assert_eq!(send(&gateway, &signer.delivery("1")).status, 200);
    keys.refuse();
    assert_unavailable(&gateway, &send(&gateway, &signer.delivery("2")));
    keys.reopen();
    assert_eq!(send(&gateway, &signer.delivery("3")).status, 200);
}

#[test]
fn answers_that_are_no_documents_are_refused_with_the_exact_reason() {
    let elsewhere = Upstream::accepting();
    let location = elsewhere.url();
    for (behaviour, want, result) in [
        (
            Behaviour::RawThenDrip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n".to_vec()),
            "took longer than fetch.timeout",
            "timeout",
        ),
        (
            Behaviour::Respond(Response::new(302).header("location", location)),
            "answered with a redirection, 302",
            "redirect",
        ),
        (
            Behaviour::Respond(Response::new(500)),
            "answered 500",
            "status",
        ),
        (
            Behaviour::Respond(Response::new(404)),
            "there is none",
            "absent",
        ),
        (
            Behaviour::Respond(Response::new(200).body(vec![b'{'; 256 * 1024 + 1])),
            "gave no valid answer: length limit exceeded",
            "broken",
        ),
        (
            Behaviour::Respond(Response::new(200).body("<html>")),
            "is not a public key",
            "fetched",
        ),
        (
            Behaviour::RawThenHang(
                b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"keys\"".to_vec(),
            ),
            "took longer than fetch.timeout",
            "timeout",
        ),
        (
            Behaviour::RawThenHang(b"HTTP/1.1 200 OK\r\nCont".to_vec()),
            "took longer than fetch.timeout",
            "timeout",
        ),
        (
            Behaviour::Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()),
            "gave no valid answer",
            "broken",
        ),
    ] {
        let keys = Upstream::start_tls(server_tls(&[KEYS_HOST]), move |_| behaviour.clone());
        let upstream = Upstream::accepting();
        let gateway = gateway(&keys, &[KEYS_HOST], "timeout = \"2s\"")
            .config(&jwks_route(&upstream))
            .start();
        let answer = send(&gateway, &Signer::new("k").delivery("1"));
        let detail = assert_unavailable(&gateway, &answer);
        assert!(detail.contains(want), "{detail}");
        assert!(
            detail.contains(&format!("https://{KEYS_HOST}/jwks")),
            "{detail}"
        );
        let count = format!("countersign_key_fetches_total{{route=\"jwks\",result=\"{result}\"}}");
        assert_eq!(gateway.metric(&count), 1, "{result}");
        upstream.assert_untouched();
    }
    elsewhere.assert_untouched();
}

#[test]
fn a_key_server_has_to_show_a_certificate_of_its_name_from_a_known_authority() {
    let signer = Signer::new("k");
    let set = || serving([("/jwks".to_owned(), jwks(&[&signer]))].into());
    let stranger = tls::Authority::new("stranger");
    for tls in [
        server_tls(&["other.example.org"]),
        stranger.server(&stranger.issue(&[KEYS_HOST]), &["http/1.1"], false),
    ] {
        let keys = Upstream::start_tls(tls, set());
        let upstream = Upstream::accepting();
        let gateway = gateway(&keys, &[KEYS_HOST], "")
            .config(&jwks_route(&upstream))
            .start();
        let detail = assert_unavailable(&gateway, &send(&gateway, &signer.delivery("1")));
        assert!(detail.contains("certificate"), "{detail}");
        assert_eq!(keys.count(), 0);
        upstream.assert_untouched();
    }
}

#[test]
fn addresses_that_are_not_public_are_refused_unless_the_operator_names_them() {
    let signer = Signer::new("k");
    let set = [("/jwks".to_owned(), jwks(&[&signer]))].into();
    let keys = key_server::start(&["localhost"], set);
    let Address::Tcp(address) = keys.address() else {
        panic!("a key server on TCP");
    };
    let url = format!("https://localhost:{}/jwks", address.port());
    let upstream = Upstream::accepting();
    for url in [url.clone(), url.replace("localhost", "127.0.0.1")] {
        let gateway = gateway(&keys, &[], "")
            .config(&jwks_route_at("jwks", &upstream, &url))
            .start();
        let detail = assert_unavailable(&gateway, &send(&gateway, &signer.delivery("1")));
        assert!(detail.contains("which is no public address"), "{detail}");
    }
    keys.assert_untouched();
    let gateway = gateway(&keys, &["localhost"], "")
        .config(&jwks_route_at("jwks", &upstream, &url))
        .start();
    assert_eq!(send(&gateway, &signer.delivery("2")).status, 200);
}

#[test]
fn where_a_key_is_pinned_nothing_is_fetched() {
    let (pinned, other) = (Signer::new("pinned"), Signer::new("other"));
    let keys = key_server::start(
        &[KEYS_HOST],
        [("/jwks".to_owned(), jwks(&[&pinned, &other]))].into(),
    );
    let upstream = Upstream::accepting();
    let url = format!("https://{KEYS_HOST}/jwks");
    let secrets = "secrets = [{ id = \"mine\", file = \"$DIR/pinned.jwk\" }]\nupstream =";
    let route = jwks_route_at("jwks", &upstream, &url).replace("upstream =", secrets);
    let gateway = gateway(&keys, &[KEYS_HOST], IMPATIENT)
        .file("pinned.jwk", pinned.jwk().to_string())
        .config(&route)
        .start();
    assert_eq!(send(&gateway, &pinned.delivery("1")).status, 200);
    let mark = upstream
        .take_only()
        .fields
        .one("countersign-verified")
        .to_owned();
    assert!(mark.contains(";key=\"mine\";"), "{mark}");
    assert_not_verified(&send(&gateway, &other.delivery("2")));
    keys.assert_untouched();
}

#[test]
fn a_secret_for_fetching_that_cannot_be_read_closes_its_route() {
    let upstream = Upstream::accepting();
    let gateway = Gateway::builder()
        .config(&route(
            "circle",
            &upstream,
            "scheme = \"circle:v2\"\nfetch_secret = { file = \"$DIR/missing\" }",
        ))
        .start();
    let answer = send(&gateway, &recorded("circle", "v2-1").delivery);
    assert_problem(&answer, 503, "unavailable");
    upstream.assert_untouched();
}
