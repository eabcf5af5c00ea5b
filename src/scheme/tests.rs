//! Tags here were made with Python's `hmac` and `base64`.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::clock::UnixTime;

const SECRET: &[u8] = b"countersign test key";
const BODY: &[u8] = br#"{"a":1}"#;
const NOW: UnixTime = UnixTime::from_secs(1_795_435_200);

fn compile(toml: &str) -> Result<Scheme, Vec<SpecError>> {
    Scheme::compile("custom", &toml::from_str(toml).unwrap(), &BTreeMap::new())
}

fn scheme(toml: &str) -> Scheme {
    compile(toml).unwrap()
}

fn secret(bytes: &[u8]) -> Secret {
    Secret::new(bytes.to_vec()).unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    headers
}

fn check(
    scheme: &Scheme,
    pairs: &[(&str, &str)],
    body: &[u8],
    now: UnixTime,
) -> Result<bool, &'static str> {
    let headers = headers(pairs);
    let head = head(&headers);
    let claim = scheme.claim(&head, now).map_err(|error| error.reason())?;
    let key = scheme.key(&secret(SECRET)).unwrap();
    let mut check = scheme.start(claim, [&key]);
    check.update(body);
    let (verdict, _) = check
        .finish_whole(&Request { head, body })
        .map_err(|error| error.reason())?;
    Ok(verdict == Verdict::Match(0))
}

fn head(headers: &HeaderMap) -> RequestHead<'_> {
    RequestHead {
        method: &Method::POST,
        target: "/hooks",
        headers,
        url: None,
    }
}

#[test]
fn verifies_every_hash_in_every_encoding() {
    for (hash, encodings) in [
        (
            "hmac-sha1",
            [
                ("hex", "a6f602a08b31c57a4ffb65afc6c29280cc5069f4"),
                ("base64", "pvYCoIsxxXpP+2WvxsKSgMxQafQ="),
                ("base64url", "pvYCoIsxxXpP-2WvxsKSgMxQafQ="),
                ("base64url-nopad", "pvYCoIsxxXpP-2WvxsKSgMxQafQ"),
            ],
        ),
        (
            "hmac-sha256",
            [
                (
                    "hex",
                    "350aebefcd7afb80916b926b2499f4f584b59bd4fab429a42ee4136af77a0bdb",
                ),
                ("base64", "NQrr7816+4CRa5JrJJn09YS1m9T6tCmkLuQTavd6C9s="),
                ("base64url", "NQrr7816-4CRa5JrJJn09YS1m9T6tCmkLuQTavd6C9s="),
                (
                    "base64url-nopad",
                    "NQrr7816-4CRa5JrJJn09YS1m9T6tCmkLuQTavd6C9s",
                ),
            ],
        ),
        (
            "hmac-sha384",
            [
                (
                    "hex",
                    "95d3b649c7c26af324b0c2e04b1a3c6562d19fd312ae3eaecc5d0aa4d42013b657a384696dca6250c1921896024ff157",
                ),
                (
                    "base64",
                    "ldO2ScfCavMksMLgSxo8ZWLRn9MSrj6uzF0KpNQgE7ZXo4RpbcpiUMGSGJYCT/FX",
                ),
                (
                    "base64url",
                    "ldO2ScfCavMksMLgSxo8ZWLRn9MSrj6uzF0KpNQgE7ZXo4RpbcpiUMGSGJYCT_FX",
                ),
                (
                    "base64url-nopad",
                    "ldO2ScfCavMksMLgSxo8ZWLRn9MSrj6uzF0KpNQgE7ZXo4RpbcpiUMGSGJYCT_FX",
                ),
            ],
        ),
        (
            "hmac-sha512",
            [
                (
                    "hex",
                    "5919aa0194a11538b758604340af4f3979d5dd4bebb7d215f716631e291d6f673f15e974ecdcd8a42619a9111510116c17ee9c95de430c33a44e44945ef6aef1",
                ),
                (
                    "base64",
                    "WRmqAZShFTi3WGBDQK9POXnV3Uvrt9IV9xZjHikdb2c/Fel07NzYpCYZqREVEBFsF+6cld5DDDOkTkSUXvau8Q==",
                ),
                (
                    "base64url",
                    "WRmqAZShFTi3WGBDQK9POXnV3Uvrt9IV9xZjHikdb2c_Fel07NzYpCYZqREVEBFsF-6cld5DDDOkTkSUXvau8Q==",
                ),
                (
                    "base64url-nopad",
                    "WRmqAZShFTi3WGBDQK9POXnV3Uvrt9IV9xZjHikdb2c_Fel07NzYpCYZqREVEBFsF-6cld5DDDOkTkSUXvau8Q",
                ),
            ],
        ),
    ] {
        for (encoding, tag) in encodings {
            let scheme = scheme(&format!(
                "algorithm = \"{hash}\"\nsignature = {{ header = \"x-sig\", encoding = \"{encoding}\", prefix = \"v=\" }}"
            ));
            let good = format!("v={tag}");
            assert_eq!(
                check(&scheme, &[("x-sig", &good)], BODY, NOW),
                Ok(true),
                "{hash} {encoding}"
            );
            assert_eq!(
                check(&scheme, &[("x-sig", &good)], b"{\"a\":2}", NOW),
                Ok(false),
                "{hash} {encoding}"
            );
            for wrong in [
                tag.to_owned(),
                format!("v= {tag}"),
                format!("v={tag} "),
                format!("v={tag}0"),
                format!("v={tag}="),
                format!("v={}", &tag[1..]),
                format!("v={}", &tag[..tag.len() - 1]),
                format!("v={tag},v={tag}"),
                format!("V={tag}"),
                "v=".to_owned(),
                String::new(),
            ] {
                assert_eq!(
                    check(&scheme, &[("x-sig", &wrong)], BODY, NOW),
                    Err("signature_malformed"),
                    "{hash} {encoding} {wrong}"
                );
            }
        }
    }
}

#[test]
fn base64_must_be_canonical() {
    let scheme = scheme(
        "algorithm = \"hmac-sha256\"\nsignature = { header = \"x-sig\", encoding = \"base64\" }",
    );
    // The same 32 bytes for a lenient decoder: the last character's low bits are not zero.
    let loose = "NQrr7816+4CRa5JrJJn09YS1m9T6tCmkLuQTavd6C9t=";
    assert_eq!(
        check(&scheme, &[("x-sig", loose)], BODY, NOW),
        Err("signature_malformed")
    );
}

#[test]
fn verifies_timestamped_templates() {
    for (content, unit, written, tag) in [
        (
            "{timestamp}.{body}",
            "s",
            "1795435200",
            "da415d8ab630e3a63af5ff1816dc1a8bd7b6d7e3ad5097460cf4b65a7edfc8dd",
        ),
        (
            "v0:{timestamp}:{body}",
            "s",
            "1795435200",
            "8537e3323982c7af51a4202b0d52a6a6042f6200a5b659a4322a8d82e5435d85",
        ),
        (
            "{timestamp}{body}",
            "ms",
            "1795435200123",
            "2bc57e5af4d1fcf000d3bbe4e07c59c058c2590fa897649faa8505e996d91e54",
        ),
        (
            "{body}|{timestamp}",
            "rfc3339",
            "2026-11-23T12:00:00.500Z",
            "7783a81279fd42cf9b0cb3acf3b3a9ce8e358e6e61c1a1980ca0f1d01557be2b",
        ),
    ] {
        let scheme = scheme(&format!(
            "algorithm = \"hmac-sha256\"\ncontent = \"{content}\"\nsignature = {{ header = \"x-sig\", encoding = \"hex\" }}\ntimestamp = {{ header = \"x-time\", unit = \"{unit}\", tolerance = \"1m\" }}"
        ));
        let good = [("x-sig", tag), ("x-time", written)];
        assert_eq!(check(&scheme, &good, BODY, NOW), Ok(true), "{content}");
        assert_eq!(check(&scheme, &good, b"{}", NOW), Ok(false), "{content}");
        let late = UnixTime::from_secs(NOW.secs() + 62);
        let early = UnixTime::from_secs(NOW.secs() - 62);
        assert_eq!(
            check(&scheme, &good, BODY, late),
            Err("timestamp_old"),
            "{content}"
        );
        assert_eq!(
            check(&scheme, &good, BODY, early),
            Err("timestamp_new"),
            "{content}"
        );
        assert_eq!(
            check(&scheme, &good[..1], BODY, NOW),
            Err("timestamp_missing"),
            "{content}"
        );
        let twice = [good[0], good[1], good[1]];
        assert_eq!(
            check(&scheme, &twice, BODY, NOW),
            Err("timestamp_repeated"),
            "{content}"
        );
        for wrong in [
            "",
            "+1795435200",
            "-1",
            "1795435200 ",
            "0x5",
            "1795435200.0",
            "99999999999999999999",
            "now",
        ] {
            assert_eq!(
                check(&scheme, &[good[0], ("x-time", wrong)], BODY, NOW),
                Err("timestamp_malformed"),
                "{content} {wrong:?}"
            );
        }
    }
}

#[test]
fn a_time_that_runs_into_the_body_has_a_fixed_number_of_digits() {
    let scheme = scheme(
        "algorithm = \"hmac-sha256\"\ncontent = \"{timestamp}{body}\"\nsignature = { header = \"x-sig\", encoding = \"hex\" }\ntimestamp = { header = \"x-time\", tolerance = \"100000d\" }",
    );
    // 17954352 + 00{"a":1} would be signed like 1795435200 + {"a":1}.
    let sig = "0".repeat(64);
    assert_eq!(
        check(
            &scheme,
            &[("x-sig", &sig), ("x-time", "17954352")],
            BODY,
            NOW
        ),
        Err("timestamp_malformed")
    );
    assert_eq!(
        check(
            &scheme,
            &[("x-sig", &sig), ("x-time", "1795435200")],
            BODY,
            NOW
        ),
        Ok(false)
    );
}

#[test]
fn compares_tokens_whole() {
    let scheme = scheme(
        "algorithm = \"token\"\nsignature = { header = \"authorization\", prefix = \"Bearer \" }",
    );
    for (value, want) in [
        ("Bearer countersign test key", Ok(true)),
        ("Bearer countersign test ke", Ok(false)),
        ("Bearer countersign test keys", Ok(false)),
        ("Bearer ", Err("signature_malformed")),
        ("countersign test key", Err("signature_malformed")),
    ] {
        assert_eq!(
            check(&scheme, &[("authorization", value)], BODY, NOW),
            want,
            "{value}"
        );
    }
    assert!(!scheme.covers_body());
}

#[test]
fn tries_every_key_and_names_the_one_that_matched() {
    let scheme =
        scheme("algorithm = \"hmac-sha1\"\nsignature = { header = \"x-sig\", encoding = \"hex\" }");
    let keys: Vec<_> = [&b"one"[..], SECRET, b"three"]
        .iter()
        .map(|bytes| scheme.key(&secret(bytes)).unwrap())
        .collect();
    let good = headers(&[("x-sig", "a6f602a08b31c57a4ffb65afc6c29280cc5069f4")]);
    let finish = |keys: &[Key]| {
        let mut check = scheme.start(
            scheme
                .claim(&head(&good), NOW)
                .unwrap_or_else(|error| panic!("{error}")),
            keys,
        );
        check.update(BODY);
        check.finish()
    };
    assert_eq!(finish(&keys), Verdict::Match(1));
    assert_eq!(finish(&keys[2..]), Verdict::Mismatch);
    assert_eq!(finish(&[]), Verdict::Mismatch);
}

#[test]
fn none_vouches_for_nothing() {
    let scheme = Scheme::none();
    let check = scheme.start(
        scheme
            .claim(&head(&HeaderMap::new()), NOW)
            .unwrap_or_else(|error| panic!("{error}")),
        [],
    );
    assert_eq!(check.finish(), Verdict::Unsigned);
}

#[test]
fn says_everything_that_is_wrong_with_a_scheme() {
    for (toml, want) in [
        (
            "algorithm = \"md5\"\nsignature = { header = \"x\", encoding = \"hex\" }",
            &[
                "content: a plain hash without the secret proves nothing: anyone can compute it; put `{secret}` into `content`, or use an HMAC",
            ][..],
        ),
        (
            "algorithm = \"hmac-sha1\"\nsignature = { header = \"x y\", encoding = \"hexx\" }\ncontent = \"{time}\"",
            &[
                "signature.encoding: `hexx` is not an encoding; one of `hex`, `base64`, `base64url`, `base64url-nopad`",
                "content: `{time}` is not a part of the request that can be signed; one of `{body}`, `{timestamp}`, `{id}`, `{method}`, `{target}`, `{path}`, `{url}`, `{query}`, `{form}`, `{secret}`, `{protected}`, or a place such as `{header:NAME}`",
                "signature.header: `x y` is not a header name; use letters, digits and `-`, such as `x-signature`",
            ],
        ),
        (
            "algorithm = \"hmac-sha1\"\nsignature = { header = \"x\" }",
            &[
                "signature: the encoding of the signature is missing; add `encoding`, one of `hex`, `base64`, `base64url`, `base64url-nopad`",
            ],
        ),
        (
            "algorithm = \"hmac-sha1\"\nsignature = { header = \"x\", encoding = \"hex\" }\ncontent = \"{timestamp}.{body}\"",
            &[
                "content: `{timestamp}` stands in the content, but the scheme does not say where the timestamp is; add `timestamp = { header = \"…\" }`",
            ],
        ),
        (
            "algorithm = \"hmac-sha1\"\nsignature = { header = \"x\", encoding = \"hex\" }\ntimestamp = { header = \"t\" }",
            &[
                "timestamp: the signed content does not hold the timestamp, so anyone could change it; put `{timestamp}` into `content`, or leave `timestamp` out",
            ],
        ),
        (
            "algorithm = \"hmac-sha1\"\nsignature = { header = \"x\", encoding = \"hex\" }\ncontent = \"{body}{body}\"",
            &["content: `{body}` stands in the template more than once; keep one"],
        ),
        (
            "algorithm = \"hmac-sha1\"\nsignature = { header = \"x\", encoding = \"hex\" }\ncontent = \"{timestamp}{body}\"\ntimestamp = { header = \"X\" }",
            &[
                "timestamp.header: `x` cannot carry both the signature and the time; name the header that carries the time",
            ],
        ),
        (
            "algorithm = \"token\"\nsignature = { header = \"x\", prefix = \" v\" }",
            &[
                "signature.prefix: the prefix begins with a blank, which no header value does when it arrives; leave the blank out",
            ],
        ),
        (
            "algorithm = \"hmac-sha1\"\nsignature = { header = \"x\", encoding = \"hex\" }\ncontent = \"{secret}{body}\"",
            &[
                "content: `{secret}` belongs to plain hashes; here it is the key; remove it from `content`",
            ],
        ),
        (
            "algorithm = \"hmac-sha1\"\nsignature = { header = \"x\", query = \"y\", encoding = \"hex\" }",
            &[
                "signature: more than one place is named; write exactly one of `header`, `query`, `form`, `json`",
            ],
        ),
        (
            "algorithm = { a = \"hmac-sha1\" }\nsignature = { header = \"x\", encoding = \"hex\" }",
            &[
                "algorithm: it is not said where the sender names the algorithm; write `{algorithm}` into `signature.prefix` or `signature.list.tag`",
            ],
        ),
        (
            "algorithm = \"hmac-sha1\"\nsignature = { header = \"x\", encoding = \"hex\" }\ncontent = \"{json:/a/*/b}\"",
            &[
                "the `*` in JSON value `/a/*/b` is not the one at which the signature stands; let `signature.json` have the same path up to its `*`",
            ],
        ),
        (
            "algorithm = \"rsa-sha256\"\nsignature = { header = \"x\", encoding = \"base64\" }\nfetch = { url = \"{header:y}\" }",
            &[
                "fetch: the request says from which host keys are fetched; add `hosts`, the ones that it may name",
            ],
        ),
        (
            "algorithm = \"token\"\nsignature = { header = \"content-length\" }",
            &[
                "signature.header: `content-length` belongs to the connection; name an end-to-end header",
            ],
        ),
    ] {
        let errors: Vec<_> = compile(toml)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(errors, want, "{toml}");
    }
}

#[test]
fn parameters_fill_their_places_and_no_others() {
    let params = |pairs: &[(&str, &str)]| -> BTreeMap<_, _> {
        pairs
            .iter()
            .map(|(name, value)| (String::from(*name), String::from(*value)))
            .collect()
    };
    let compile =
        |given: &[(&str, &str)]| catalogue::compile("carevalidate:custom-header", &params(given));
    let scheme = compile(&[("header", "X-Our-Token")]).unwrap();
    assert_eq!(
        check(
            &scheme,
            &[("x-our-token", "countersign test key")],
            BODY,
            NOW
        ),
        Ok(true)
    );
    assert!(
        matches!(compile(&[]), Err(Some(errors)) if errors[0].message.contains("needs the parameter `header`"))
    );
    assert!(
        matches!(compile(&[("header", "a"), ("hedaer", "b")]), Err(Some(errors)) if errors[0].message.contains("no parameter `hedaer`"))
    );
    assert!(matches!(
        catalogue::compile("carevalidat", &params(&[])),
        Err(None)
    ));
}

#[test]
fn the_catalogue_is_sound() {
    let ids: Vec<_> = catalogue::providers().map(|provider| provider.id).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config/providers");
    assert_eq!(
        std::fs::read_dir(folder).unwrap().count(),
        ids.len(),
        "a file is not built in"
    );
    for provider in catalogue::providers() {
        let spec = &provider.spec;
        assert!(
            spec.scheme.contains_key(spec.default_scheme()),
            "{}",
            provider.id
        );
        assert!(
            spec.docs.iter().all(|url| url.starts_with("https://")),
            "{}",
            provider.id
        );
        assert!(
            ["source", "docs", "third-party"].contains(&&*spec.evidence),
            "{}",
            provider.id
        );
        assert!(
            spec.checked.parse::<jiff::civil::Date>().is_ok(),
            "{}",
            provider.id
        );
    }
    for name in catalogue::names() {
        let params = BTreeMap::from([("header".to_owned(), "x-token".to_owned())]);
        let compiled = catalogue::compile(&name, &BTreeMap::new())
            .or_else(|_| catalogue::compile(&name, &params));
        let _ = compiled; // until every word has a plan
    }
}

#[test]
fn reads_durations() {
    for (text, want) in [
        ("5m", Some(300_000)),
        ("250ms", Some(250)),
        ("7d", Some(604_800_000)),
        ("0s", Some(0)),
    ] {
        assert_eq!(
            parse_duration(text).map(|duration| duration.as_millis()),
            want,
            "{text}"
        );
    }
    for text in [
        "",
        "5",
        "m",
        "5 m",
        "-5m",
        "+5m",
        "5M",
        "1.5h",
        "99999999999999999999d",
        "18446744073709551615d",
    ] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn any_split_of_the_body_gives_the_same_verdict(body in proptest::collection::vec(any::<u8>(), 0..2000), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let scheme = scheme("algorithm = \"hmac-sha512\"\ncontent = \"{timestamp}.{body}!\"\nsignature = { header = \"x-sig\", encoding = \"base64\" }\ntimestamp = { header = \"x-time\" }");
        let key_secret = secret(SECRET);
        let signed: HeaderMap = scheme.sign(&key_secret, &body, NOW).unwrap().into_iter().collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).chain([0, body.len()]).collect();
        cuts.sort_unstable();
        let key = scheme.key(&key_secret).unwrap();
        let mut check = scheme.start(scheme.claim(&head(&signed), NOW).unwrap_or_else(|error| panic!("{error}")), [&key]);
        for pair in cuts.windows(2) {
            check.update(&body[pair[0]..pair[1]]);
        }
        prop_assert_eq!(check.finish(), Verdict::Match(0));
    }

    #[test]
    fn one_flipped_bit_anywhere_is_refused(body in proptest::collection::vec(any::<u8>(), 1..500), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let scheme = scheme("algorithm = \"hmac-sha256\"\nsignature = { header = \"x-sig\", encoding = \"hex\" }");
        let signed = scheme.sign(&secret(SECRET), &body, NOW).unwrap();
        let tag = signed[0].1.to_str().unwrap().to_owned();
        let mut flipped = body.clone();
        flipped[at.index(body.len())] ^= 1 << bit;
        prop_assert_eq!(check(&scheme, &[("x-sig", &tag)], &flipped, NOW), Ok(false));
        let mut wrong = tag.into_bytes();
        let place = at.index(wrong.len());
        wrong[place] = if wrong[place] == b'0' { b'1' } else { b'0' };
        prop_assert_eq!(check(&scheme, &[("x-sig", &String::from_utf8(wrong).unwrap())], &body, NOW), Ok(false));
    }

    #[test]
    fn claims_never_panic(value in proptest::collection::vec(any::<u8>(), 0..200), time in proptest::collection::vec(any::<u8>(), 0..60), unit in prop::sample::select(vec!["s", "ms", "rfc3339"]), now in any::<i64>()) {
        let scheme = scheme(&format!("algorithm = \"hmac-sha1\"\ncontent = \"{{timestamp}}.{{body}}\"\nsignature = {{ header = \"x-sig\", encoding = \"base64url\" }}\ntimestamp = {{ header = \"x-time\", unit = \"{unit}\" }}"));
        let mut headers = HeaderMap::new();
        for (name, bytes) in [("x-sig", &value), ("x-time", &time)] {
            if let Ok(value) = HeaderValue::from_bytes(bytes) {
                headers.insert(name, value);
            }
        }
        let _ = scheme.claim(&head(&headers), UnixTime::from_millis(now));
    }
}
