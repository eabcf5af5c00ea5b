"""Traps of the twenty providers that most receivers are written for, beside those in traps.py. All but the trap is right."""
import json
import zlib

import bodies
import keys
import traps
from engine import b64url, jwt
from plain import Case, public_key, secret_for
from special import FORM, b64, compact, mac, sha
from vector import SCRIPT_KEYS, SENT

UMLAUTS = '{"text":"Grüße","url":"https://example.org/"}'.encode()
ESCAPED = b'{"text":"Gr\\u00fc\\u00dfe","url":"https:\\/\\/example.org\\/"}'
PRETTY = b'{\n  "amount": 1.10,\n  "id": 9007199254740993\n}'
COMPACT = b'{"amount":1.1,"id":9007199254740992}'


def negative():
    out = []

    def of(provider, scheme="default", n=40, **case_args):
        s = traps.BY_NAME[provider, scheme]
        return Case(s, n, **case_args), secret_for(s)

    def refuse(name, why, case, secrets, **rest):
        made = case.vector(name, secrets, **rest)
        made.pop("event_id", None)
        out.append({"provider": case.scheme["provider"], **made, "expect": "refuse", "why": why})

    def time_of(case):
        return case.time.encode()

    # Standard Webhooks.
    case, secret = of("standard-webhooks", "v1")
    key = traps.base64.b64decode(secret[len("whsec_"):])
    signed = f"{case.delivery}.{case.time}.{SENT}.".encode() + case.request.body
    tag = "v1," + b64(mac(key, signed))
    case.request.headers = [[k, f"{case.delivery}.{case.time}" if k == "webhook-id" else v] for k, v in case.request.headers]
    refuse("standard-webhooks-separator-in-id", "the id holds the separator: the content of another message, split anew", case.send(tag), [secret])
    for name, why, scheme, seconds in (("301-seconds-old", "older than five minutes", "v1", 301), ("301-seconds-ahead", "signed for a time to come, which could be kept until then", "v1", -301)):
        case, secret = of("standard-webhooks", scheme)
        refuse(f"standard-webhooks-{name}", why, case.send("v1," + case.tag(secret)), [secret], now=SENT + seconds)
    s = traps.BY_NAME["standard-webhooks", "v1a"]
    for name, why, label, now in (("v1a-as-v1", "an Ed25519 signature under the name of v1", "v1", SENT + 2), ("v1a-301-seconds-old", "older than five minutes", "v1a", SENT + 301)):
        case = Case(s, 40)
        message = f"{case.delivery}.{case.time}.".encode() + case.request.body
        refuse(f"standard-webhooks-{name}", why, case.send(f"{label}," + b64(keys.ed25519_sign("ed25519", message))), [public_key(s, "ed25519")], now=now, source=SCRIPT_KEYS)
    case = Case(s, 41)
    message = f"{case.delivery}.{case.time}.".encode() + case.request.body
    refuse("standard-webhooks-v1a-other-key", "signed with another key pair", case.send("v1a," + b64(keys.ed25519_sign("ed25519-other", message))), [public_key(s, "ed25519")], source=SCRIPT_KEYS)

    # Times: what every kit gets wrong on one side or both.
    for provider, scheme, word, seconds, shape in (
            ("stripe", "default", "ahead", -301, lambda c, t: f"t={c.time},v1={t}"), ("slack", "default", "ahead", -301, lambda c, t: f"v0={t}"),
            ("zoom", "default", "old", 301, lambda c, t: f"v0={t}"), ("zoom", "default", "ahead", -301, lambda c, t: f"v0={t}")):
        case, secret = of(provider, scheme)
        refuse(f"{provider}-301-seconds-{word}", "out of the provider's window", case.send(shape(case, case.tag(secret))), [secret], now=SENT + seconds)
    for seconds, word in ((301, "old"), (-301, "ahead")):
        s = traps.BY_NAME["discord", "default"]
        case = Case(s, 40)
        refuse(f"discord-301-seconds-{word}", "out of five minutes", case.send(keys.ed25519_sign("ed25519", time_of(case) + case.request.body).hex()), [public_key(s, "ed25519")], now=SENT + seconds, source=SCRIPT_KEYS)
        s = traps.BY_NAME["sendgrid", "default"]
        case = Case(s, 40)
        refuse(f"sendgrid-301-seconds-{word}", "out of five minutes", case.send(b64(keys.ecdsa_sign("p256", time_of(case) + case.request.body, "sha256"))), [public_key(s, "p256")], now=SENT + seconds, source=SCRIPT_KEYS)
        case, secret = of("hubspot", "v3")
        refuse(f"hubspot-v3-301-seconds-{word}", "out of five minutes", case.send(case.tag(secret)), [secret], now=SENT + seconds)
    for seconds, word in ((601, "old"), (-601, "ahead")):
        case, secret = of("box", "primary")
        box_words(case)
        refuse(f"box-601-seconds-{word}", "out of ten minutes", case.send(b64(mac(secret, case.request.body + time_of(case)))), [secret], now=SENT + seconds)
    case, secret = of("hubspot", "v3", time=str(SENT))
    refuse("hubspot-v3-seconds", "the time is in milliseconds: this one is of 1970", case.send(case.tag(secret)), [secret])
    case, secret = of("stripe", time=f"{SENT}000")
    refuse("stripe-milliseconds", "the time is in seconds: this one is far ahead", case.send(f"t={case.time},v1={case.tag(secret)}"), [secret])

    # Order and separators.
    for provider, scheme, shape, message, why in (
            ("slack", "default", lambda t: "v0=" + t.hex(), lambda c: b"v0:" + c.request.body + b":" + time_of(c), "body-first"), ("slack", "default", lambda t: "v0=" + t.hex(), lambda c: b"v0" + time_of(c) + c.request.body, "no-separator"),
            ("zoom", "default", lambda t: "v0=" + t.hex(), lambda c: time_of(c) + b":" + c.request.body, "no-version-in-content"), ("zoom", "default", lambda t: "v0=" + t.hex(), lambda c: b"v0:" + c.request.body, "time-not-signed"),
            ("box", "primary", b64, lambda c: time_of(c) + c.request.body, "time-first"), ("box", "primary", b64, lambda c: c.request.body, "time-not-signed"),
            ("stripe", "default", None, lambda c: c.request.body + b"." + time_of(c), "body-first"), ("hubspot", "v3", b64, lambda c: time_of(c) + b"POST" + c.request.url.encode() + c.request.body, "time-first")):
        case, secret = of(provider, scheme)
        if provider == "box":
            box_words(case)
        tag = mac(secret, message(case))
        value = f"t={case.time},v1={tag.hex()}" if shape is None else shape(tag)
        refuse(f"{provider}-{why}", "signed with the parts in another order, or without one of them", case.send(value), [secret])
    s = traps.BY_NAME["discord", "default"]
    case = Case(s, 41)
    refuse("discord-separator", "nothing stands between time and body", case.send(keys.ed25519_sign("ed25519", time_of(case) + b"." + case.request.body).hex()), [public_key(s, "ed25519")], source=SCRIPT_KEYS)
    case = Case(s, 42)
    refuse("discord-hmac-by-public-key", "everybody knows the public key; as an HMAC key it proves nothing", case.send((mac(keys.public_raw("ed25519"), time_of(case) + case.request.body, "sha512")).hex()), [public_key(s, "ed25519")])

    # The raw body, and no other.
    for provider, scheme, shape in (("github", "default", lambda t: "sha256=" + t.hex()), ("meta", "default", lambda t: "sha256=" + t.hex()), ("shopify", "default", b64), ("docusign", "default", b64), ("mollie", "next-gen", lambda t: "sha256=" + t.hex())):
        name = "X-DocuSign-Signature-1" if provider == "docusign" else None
        case, secret = of(provider, scheme, body=PRETTY)
        refuse(f"{provider}-reserialised-body", "signed after the body was parsed and written anew", case.send(shape(mac(secret, COMPACT)), name), [secret])
        case, secret = of(provider, scheme, body=UMLAUTS)
        refuse(f"{provider}-unescaped-body", "signed with escapes, sent without: only the bytes that came count", case.send(shape(mac(secret, ESCAPED)), name), [secret])
        case, secret = of(provider, scheme, body=PRETTY + b"\n")
        refuse(f"{provider}-trimmed-body", "signed without the line end that was sent", case.send(shape(mac(secret, PRETTY)), name), [secret])
    case, secret = of("box", "primary", body=UMLAUTS)
    box_words(case)
    refuse("box-unescaped-body", "signed with escapes, sent without: the provider's kit takes that, raw bytes are the only safe input", case.send(b64(mac(secret, ESCAPED + time_of(case)))), [secret])
    case, secret = of("slack", body=b"text=Gr%C3%BC%C3%9Fe+%26&a=%2f", content_type=FORM)
    refuse("slack-form-encoded-anew", "signed after the form was parsed and written anew", case.send("v0=" + mac(secret, b"v0:" + time_of(case) + b":text=Gr%C3%BC%C3%9Fe+%26&a=%2F").hex()), [secret])
    s = traps.BY_NAME["sendgrid", "default"]
    case = Case(s, 41, body=b'[{"event":"open"},\r\n{"event":"click"}]\r\n')
    refuse("sendgrid-trimmed-body", "signed without the line end that was sent", case.send(b64(keys.ecdsa_sign("p256", time_of(case) + case.request.body.strip(), "sha256"))), [public_key(s, "p256")], source=SCRIPT_KEYS)
    case = Case(s, 42)
    refuse("sendgrid-body-alone", "the time is signed too", case.send(b64(keys.ecdsa_sign("p256", case.request.body, "sha256"))), [public_key(s, "p256")], source=SCRIPT_KEYS)

    # Prefixes, encodings and weaker hashes.
    for provider, scheme, name, why, shape in (
            ("zoom", "default", "prefix-missing", "the value has to start with v0=", lambda t: t.hex()), ("mollie", "next-gen", "prefix-missing", "the value has to start with sha256=", lambda t: t.hex()),
            ("meta", "default", "prefix-missing", "the value has to start with sha256=", lambda t: t.hex()), ("docusign", "default", "hex", "the digest is base64 here", lambda t: t.hex()),
            ("box", "primary", "hex", "the digest is base64 here", lambda t: t.hex()), ("hubspot", "v3", "hex", "the digest is base64 here", lambda t: t.hex()), ("square", "sha256", "hex", "the digest is base64 here", lambda t: t.hex())):
        case, secret = of(provider, scheme)
        if provider == "box":
            box_words(case)
        message = {"zoom": b"v0:" + (case.time or "").encode() + b":" + case.request.body, "box": case.request.body + (case.time or "").encode(), "hubspot": b"POST" + case.request.url.encode() + case.request.body + (case.time or "").encode(),
                   "square": case.request.url.encode() + case.request.body}.get(provider, case.request.body)
        refuse(f"{provider}-{name}", why, case.send(shape(mac(secret, message)), "X-DocuSign-Signature-1" if provider == "docusign" else None), [secret])
    for provider in ("meta",):
        case, secret = of(provider)
        refuse(f"{provider}-sha1-in-256-header", "a weaker hash under its own name", case.send("sha1=" + mac(secret, case.request.body, "sha1").hex()), [secret])
        case, secret = of(provider, n=41)
        refuse(f"{provider}-sha1-under-sha256-name", "a weaker hash under the name of the stronger", case.send("sha256=" + mac(secret, case.request.body, "sha1").hex()), [secret])

    # Several signatures.
    case, secret = of("mollie", "next-gen")
    good = "sha256=" + mac(secret, case.request.body).hex()
    refuse("mollie-joined-by-comma", "several signatures come in several headers, not in one", case.send(f"sha256={'0' * 64}, {good}"), [secret])
    case, secret = of("mollie", "next-gen", n=41)
    case.send(f"sha256={'0' * 64}")
    refuse("mollie-two-headers-both-bad", "two signatures, none of which holds", case.send(f"sha256={'1' * 64}"), [secret])
    case, secret = of("docusign")
    refuse("docusign-number-gap", "headers are numbered from 1 without a gap", case.send(b64(mac(secret, case.request.body)), "X-DocuSign-Signature-3"), [secret])
    case, secret = of("docusign", n=41)
    refuse("docusign-number-zero", "headers are numbered from 1", case.send(b64(mac(secret, case.request.body)), "X-DocuSign-Signature-0"), [secret])
    case, secret = of("box", "primary", n=41)
    box_words(case, version="2")
    refuse("box-version-2", "a version that nobody specified", case.send(b64(mac(secret, case.request.body + time_of(case)))), [secret])
    case, secret = of("box", "primary", n=42)
    box_words(case, algorithm="HmacSHA1")
    refuse("box-other-algorithm", "the sender does not choose the algorithm", case.send(b64(mac(secret, case.request.body + time_of(case)))), [secret])

    # Twilio, Square and HubSpot: the URL.
    s = traps.BY_NAME["twilio", "form"]
    secret = secret_for(s)
    pairs = [("To", "+18005551212"), ("Body", "Grüße"), ("From", "+4915112345678")]
    text = lambda url, fields: (url + "".join(k + v for k, v in fields)).encode()
    for name, why, url, fields in (
            ("http-for-https", "signed for another scheme of URL", "http://hooks.example.org/webhooks/twilio?a=%20b", sorted(pairs)), ("decoded-url", "the URL as registered, byte for byte", "https://hooks.example.org/webhooks/twilio?a= b", sorted(pairs)),
            ("other-host", "signed for another host", "https://hooks.example.net/webhooks/twilio?a=%20b", sorted(pairs)), ("unsorted-form", "fields are signed by name, not as they came", "https://hooks.example.org/webhooks/twilio?a=%20b", pairs),
            ("query-left-out", "the query belongs to the URL", "https://hooks.example.org/webhooks/twilio", sorted(pairs)), ("form-left-out", "the fields of the form are signed too", "https://hooks.example.org/webhooks/twilio?a=%20b", [])):
        case = Case(s, 40, body=bodies.form(pairs), content_type=FORM, url="https://hooks.example.org/webhooks/twilio?a=%20b")
        refuse(f"twilio-{name}", why, case.send(b64(mac(secret, text(url, fields), "sha1"))), [secret])
    case = Case(s, 41)
    refuse("twilio-json-by-form-scheme", "a JSON body that the signature of the URL does not cover", case.send(b64(mac(secret, case.request.url, "sha1"))), [secret])
    s = traps.BY_NAME["twilio", "body"]
    secret = secret_for(s)
    url = "https://hooks.example.org/webhooks/twilio?bodySHA256=" + sha(b"another body").hex()
    case = Case(s, 40, url=url)
    refuse("twilio-digest-of-another-body", "the URL is signed, and names the digest of another body", case.send(b64(mac(secret, url, "sha1"))), [secret], public_url=True)
    for name, why, url in (("http-for-https", "signed for another scheme of URL", "http://hooks.example.org/webhooks/square"), ("other-host", "signed for another host", "https://hooks.example.net/webhooks/square"), ("body-alone", "the URL is signed too", "")):
        case, secret = of("square", "sha256")
        refuse(f"square-{name}", why, case.send(b64(mac(secret, url.encode() + case.request.body))), [secret])
    for name, why, message in (("other-method", "signed for another method", lambda c: b"PUT" + c.request.url.encode() + c.request.body + time_of(c)), ("http-for-https", "signed for another scheme of URL", lambda c: b"POST" + c.request.url.replace("https", "http").encode() + c.request.body + time_of(c)),
                               ("body-alone", "method, URL and time are signed too", lambda c: c.request.body)):
        case, secret = of("hubspot", "v3")
        refuse(f"hubspot-v3-{name}", why, case.send(b64(mac(secret, message(case)))), [secret])
    case, secret = of("hubspot", "v2")
    refuse("hubspot-v2-hmac", "a plain hash with the secret in front, not an HMAC", case.send(mac(secret, b"POST" + case.request.url.encode() + case.request.body).hex()), [secret])
    case, secret = of("hubspot", "v2", n=41)
    refuse("hubspot-v1-as-v2", "the older version signs neither method nor URL", case.send(sha(secret.encode() + case.request.body).hex()), [secret])

    # Mailgun and Adyen: fields of the body.
    s = traps.BY_NAME["mailgun", "json"]
    secret, token = secret_for(s), "b" * 50
    good = {"timestamp": str(SENT), "token": token, "signature": mac(secret, f"{SENT}{token}").hex()}
    bad = {**good, "signature": "0" * 64}
    for name, why, body in (("signature-in-event-data", "only the signature at its own place counts", compact({"signature": bad, "event-data": {"signature": good}})), ("signature-twice", "one reader takes the first, another the last", compact({"signature": good})[:-1] + b',"signature":' + compact(bad) + b"}"),
                            ("time-as-number-elsewhere", "the signed time is that beside the signature", compact({"signature": {k: v for k, v in good.items() if k != "timestamp"}, "event-data": {"timestamp": SENT}}))):
        refuse(f"mailgun-{name}", why, Case(s, 40, body=body), [secret])
    for seconds, word in ((301, "old"), (-301, "ahead")):
        refuse(f"mailgun-301-seconds-{word}", "out of the window: whoever saw one delivery could send others for ever", Case(s, 41, body=compact({"signature": good})), [secret], now=SENT + seconds)
    case, secret = of("adyen", "standard")
    item = {"pspReference": "PSP1", "merchantAccountCode": "M", "merchantReference": "R", "amount": {"value": 1, "currency": "EUR"}, "eventCode": "CAPTURE", "success": "true"}
    for name, why, change, key, text in (
            ("text-key", "the key is the decoded secret, not its hex digits", {}, secret, "PSP1::M:R:1:EUR:CAPTURE:true"), ("success-flipped", "the outcome is signed", {"success": "true"}, bytes.fromhex(secret), "PSP1::M:R:1:EUR:CAPTURE:false"),
            ("other-currency", "the currency is signed", {}, bytes.fromhex(secret), "PSP1::M:R:1:USD:CAPTURE:true"), ("no-value", "a part that has to be there is missing, and signed as nothing", {"amount": {"currency": "EUR"}}, bytes.fromhex(secret), "PSP1::M:R::EUR:CAPTURE:true"),
            ("separator-in-event", "a value holds the separator", {"eventCode": "CAPTURE:true", "success": "x"}, bytes.fromhex(secret), "PSP1::M:R:1:EUR:CAPTURE:true:x")):
        notification = {**item, **change, "additionalData": {"hmacSignature": b64(mac(key, text))}}
        refuse(f"adyen-{name}", why, Case(traps.BY_NAME["adyen", "standard"], 41, body=compact({"live": "false", "notificationItems": [{"NotificationRequestItem": notification}]})), [secret])

    # Certificates and tokens, with the key pinned: nothing has to be fetched to see these.
    topic = "arn:aws:sns:eu-central-1:123456789012:countersign"

    def sns(name, why, scheme="v2", bits="sha256", version="2", extra=None, listed=("Message", "MessageId", "Timestamp", "TopicArn", "Type"), **fields):
        data = {"Type": "Notification", "MessageId": "22b80b92", "TopicArn": topic, "Message": "Grüße", "Timestamp": "2025-11-24T16:00:00.123Z", "SignatureVersion": version,
                "SigningCertURL": "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-1.pem", **fields}
        text = "".join(f"{k}\n{data[k]}\n" for k in listed)
        data["Signature"] = b64(keys.rsa_sign("rsa", text.encode(), bits))
        data.update(extra or {})
        case = Case(traps.BY_NAME["aws-sns", scheme], 40, body=compact(data), content_type="text/plain; charset=UTF-8")
        case.params = {"topic_arn": topic}
        refuse(f"aws-sns-{name}", why, case, [keys.certificate("sns.crt.pem", "sns.amazonaws.com")], source=SCRIPT_KEYS)

    sns("other-topic-pinned", "somebody else's topic: the signature holds for every customer of the provider", TopicArn="arn:aws:sns:eu-central-1:999999999999:evil")
    sns("sha1-as-version-2-pinned", "version 2 promises SHA-256", bits="sha1")
    sns("version-1-by-version-2-scheme", "the weaker version is a scheme of its own", bits="sha1", version="1")
    sns("subject-added", "a subject that was not signed", extra={"Subject": "evil"})
    sns("notification-as-confirmation", "the kind of message decides what is signed", extra={"Type": "SubscriptionConfirmation", "SubscribeURL": "https://evil.example/", "Token": "t"})

    def paypal(name, why, text=None, algo="SHA256withRSA", bits="sha256"):
        case = Case(traps.BY_NAME["paypal", "default"], 40, time="2025-11-24T16:00:00Z")
        parts = {"id": case.delivery, "time": case.time, "webhook": "4JH86294D6297924G", "crc": str(zlib.crc32(case.request.body))}
        parts.update(text(case) if text else {})
        case.params = {"webhook_id": "4JH86294D6297924G"}
        case.request.add("PAYPAL-AUTH-ALGO", algo)
        case.request.add("PAYPAL-CERT-URL", "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-7a8abba8")
        case.send(b64(keys.rsa_sign("rsa", "|".join(parts.values()).encode(), bits)))
        refuse(f"paypal-{name}", why, case, [keys.public_pem("rsa")], source=SCRIPT_KEYS)

    paypal("other-webhook-id-pinned", "signed for another webhook: the certificate signs for every customer", lambda c: {"webhook": "OTHER"})
    paypal("crc-in-hex", "the checksum is a decimal number", lambda c: {"crc": f"{zlib.crc32(c.request.body):08x}"})
    paypal("crc-of-another-body", "the checksum is of another body", lambda c: {"crc": str(zlib.crc32(b"another body"))})
    paypal("other-algorithm", "the sender does not choose the algorithm", algo="SHA1withRSA", bits="sha1")
    paypal("sha1-under-sha256-name", "a weaker hash under the name of the stronger", bits="sha1")

    jwk = json.dumps(keys.jwk("p256", "k", "ES256"), separators=(",", ":"))
    for name, why, token in (
            ("alg-none", "an unsigned token", lambda c: b64url(json.dumps({"alg": "none", "typ": "JWT", "kid": "k"})) + "." + b64url(json.dumps({"iat": SENT, "request_body_sha256": sha(c.request.body).hex()})) + "."),
            ("digest-missing", "a token that is not bound to the body", lambda c: jwt({"iat": SENT}, "p256", "ES256", kid="k")), ("digest-of-compact-body", "the digest is of the body after it was parsed and written anew", lambda c: jwt({"iat": SENT, "request_body_sha256": sha(COMPACT).hex()}, "p256", "ES256", kid="k")),
            ("six-minutes-ahead", "issued in the time to come", lambda c: jwt({"iat": SENT + 361, "request_body_sha256": sha(c.request.body).hex()}, "p256", "ES256", kid="k"))):
        case = Case(traps.BY_NAME["plaid", "default"], 40, body=PRETTY)
        refuse(f"plaid-{name}", why, case.send(token(case)), [jwk], source=SCRIPT_KEYS)
    return out


def box_words(case, version="1", algorithm="HmacSHA256"):
    case.request.add("BOX-SIGNATURE-VERSION", version)
    case.request.add("BOX-SIGNATURE-ALGORITHM", algorithm)
