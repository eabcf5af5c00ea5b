"""Traps: what real receivers got wrong. `positive` adds named vectors that have to pass, `negative` requests that must not."""
import base64
import hashlib
import json
import unicodedata
import zlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

import bodies
import keys
import table
from engine import b64url, jws_sign, jwt, wrap
from plain import Case, public_key, secret_for
from special import FORM, b64, compact, mac, sha, url_of
from vector import HOST, NOW, SCRIPT_KEYS, SENT

BY_NAME = {(s["provider"], s["scheme"]): s for s in table.SCHEMES}


# ---- have to pass ------------------------------------------------------------------------------------------------

def simple(scheme, name, n=20, now=NOW, secret=None, **case_args):
    case = Case(scheme, n, **case_args)
    secret = secret or secret_for(scheme)
    return case.send(wrap(scheme, [case.tag(secret)], case.time)).vector(name, [secret], now=now)


def listed(scheme, name, header, n=21):
    """`header` gets the case and a function from secret to signature."""
    case, secret = Case(scheme, n), secret_for(scheme)
    return case.send(header(case, case.tag(secret), case.tag(secret_for(scheme, "retired")))).vector(name, [secret])


POSITIVE = {
    ("stripe", "default"): lambda s: [
        simple(s, "stripe-text-secret", secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        listed(s, "stripe-v0-beside-v1", lambda c, good, bad: f"t={c.time},v1={good},v0={bad}"),
        listed(s, "stripe-time-last", lambda c, good, bad: f"v1={good},t={c.time}"),
    ],
    ("polar", "default"): lambda s: [simple(s, "polar-whole-string-secret", secret="polar_whs_ABCDefgh0123456789+/==")],
    ("supabase-auth-hooks", "default"): lambda s: [simple(s, "supabase-v1-whsec", secret="v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
    ("standard-webhooks", "v1"): lambda s: [
        listed(s, "standard-webhooks-unknown-version-skipped", lambda c, good, bad: f"v9,abc v1a,{'A' * 86}== v1,{good} v2,{bad}"),
        simple(s, "standard-webhooks-longest-secret", secret="whsec_" + base64.b64encode(bytes(range(64))).decode()),
    ],
    ("authorize-net", "default"): lambda s: [listed(s, "authorize-net-upper-case-hex", lambda c, good, bad: "sha512=" + good.upper())],
    ("circleci", "default"): lambda s: [listed(s, "circleci-unknown-v2-beside-v1", lambda c, good, bad: f"v2={bad},v1={good}")],
    ("github", "default"): lambda s: [
        simple(s, "github-form-raw-body", body=bodies.form([("payload", bodies.dump(bodies.document("github"), "compact"))]), content_type=FORM),
        simple(s, "github-not-utf8-body", body=b'{"name":"\xff\xfe latin \xe9"}\n'),
    ],
    ("slack", "default"): lambda s: [simple(s, "slack-form-raw-body", body="token=x&text=Gr%C3%BC%C3%9Fe+%26&blank=&a=%2f".encode(), content_type=FORM)],
    ("sentry", "default"): lambda s: [simple(s, "sentry-empty-body", body=b"")],
    ("meta", "default"): lambda s: [simple(s, "meta-escaped-body", body=b'{"object":"page","entry":[{"text":"Gr\\u00fc\\u00dfe \\ud83d\\udc4b","url":"https:\\/\\/example.org"}]}')],
    ("asana", "default"): lambda s: [simple(s, "asana-heartbeat", body=b'{"events":[]}')],
    ("line", "default"): lambda s: [simple(s, "line-verify-button", body=b'{"destination":"U0","events":[]}')],
    ("xero", "default"): lambda s: [simple(s, "xero-intent-to-receive", body=b'{"events":[],"lastEventSequence":0,"firstEventSequence":0,"entropy":"S0m3r4Nd0mt3xt"}')],
    ("easypost", "default"): lambda s: [simple(s, "easypost-decomposed-secret", secret="se\u0301cret-ﬁ-Å-①")],
    ("linear", "default"): lambda s: [linear_header(s)],
    ("elevenlabs", "default"): lambda s: [simple(s, "elevenlabs-29-minutes", now=SENT + 29 * 60)],
    ("cloudinary", "default"): lambda s: [cloudinary_late(s)],
    ("twitch", "default"): lambda s: [simple(s, "twitch-nine-minutes", now=SENT + 9 * 60)],
    ("paddle", "default"): lambda s: [simple(s, "paddle-five-seconds", now=SENT + 5)],
    ("shopify", "default"): lambda s: [simple(s, "shopify-big-number-body", body=b'{"id":820982911946154508,"price":"1.10","total":1.10,"e":1E2}')],
    ("heroku", "default"): lambda s: [simple(s, "heroku-blank-body", body=b" \n\t{ } \r\n")],
    ("pagerduty", "v3"): lambda s: [listed(s, "pagerduty-three-keys", lambda c, good, bad: f"v1={bad},v1={bad[::-1]},v1={good}")],
}


def linear_header(scheme):
    case, secret = Case(scheme, 20), secret_for(scheme)
    case.request.add("Linear-Timestamp", "1")
    return case.send(case.tag(secret)).vector("linear-header-time-ignored", [secret])


def cloudinary_late(scheme):
    case, secret = Case(scheme, 20), secret_for(scheme)
    return case.send(case.tag(secret)).vector("cloudinary-119-minutes", [secret], now=SENT + 119 * 60)


def positive(scheme):
    make = POSITIVE.get((scheme["provider"], scheme["scheme"]))
    return make(scheme) if make else []


# ---- must not pass -----------------------------------------------------------------------------------------------

def negative():
    out = []

    def refuse(name, why, case, secrets, **rest):
        made = case.vector(name, secrets, **rest)
        made.pop("event_id", None)
        out.append({"provider": case.scheme["provider"], **made, "expect": "refuse", "why": why})

    def hmac_case(provider, scheme, name, why, header, n=30, secret=None, **case_args):
        """header(case, tag, secret): the header value."""
        s = BY_NAME[provider, scheme]
        case, secret = Case(s, n, **case_args), secret or secret_for(s)
        case.send(header(case, lambda key=secret: case.tag(key), secret))
        refuse(name, why, case, [secret])

    # The header that says "not signed".
    hmac_case("cal-com", "default", "cal-com-no-secret-provided", "the sender's text for `no secret is set`", lambda c, tag, s: "no-secret-provided")
    hmac_case("gitea", "default", "gitea-empty-signature", "the sender has no secret and sends an empty value", lambda c, tag, s: "")
    hmac_case("gitea", "hub-256", "gitea-empty-signature-behind-prefix", "prefix without a digest", lambda c, tag, s: "sha256=")

    # Versions, and what is not a key.
    hmac_case("circleci", "default", "circleci-v2-alone", "a version that nobody specified proves nothing, even with the digest of v1", lambda c, tag, s: f"v2={tag()}")
    hmac_case("circleci", "default", "circleci-v2-good-v1-bad", "the item of v1 does not hold; that of another version does not count", lambda c, tag, s: f"v1={'0' * 64},v2={tag()}")
    hmac_case("stripe", "default", "stripe-v0-alone", "v0 is the test scheme", lambda c, tag, s: f"t={c.time},v0={tag()}")
    hmac_case("stripe", "default", "stripe-decoded-secret", "the key is the text of the secret, whsec_ included", lambda c, tag, s: f"t={c.time},v1={mac(base64.b64decode(s[6:]), c.time.encode() + b'.' + c.request.body).hex()}",
              secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    hmac_case("stripe", "default", "stripe-two-times", "the signature holds for a time that is long gone; a fresh one stands beside it",
              lambda c, tag, s: f"t={SENT - 86400},v1={mac(s, str(SENT - 86400).encode() + b'.' + c.request.body).hex()},t={c.time}")
    hmac_case("stripe", "default", "stripe-two-times-fresh-first", "the same in the other order",
              lambda c, tag, s: f"t={c.time},t={SENT - 86400},v1={mac(s, str(SENT - 86400).encode() + b'.' + c.request.body).hex()}")
    hmac_case("stripe", "default", "stripe-no-time", "the digest holds for an empty time", lambda c, tag, s: f"v1={mac(s, b'.' + c.request.body).hex()}")

    # Standard Webhooks.
    s = BY_NAME["standard-webhooks", "v1"]
    for name, text in (("leading-zero", f"0{SENT}"), ("plus-sign", f"+{SENT}"), ("fraction", f"{SENT}.0"), ("letters-behind", f"{SENT}abc"), ("underscores", "1_764_000_000"), ("exponent", "1764e6"), ("inner-blank", "1764 000000")):
        case, secret = Case(s, 30), secret_for(s)
        case.send(wrap(s, [case.tag(secret)], None))
        case.request.headers = [[k, text if k == "webhook-timestamp" else v] for k, v in case.request.headers]
        refuse(f"standard-webhooks-time-{name}", "signed for the number; the header says it in another way, and the text as received is what counts", case, [secret])
    hmac_case("standard-webhooks", "v1", "standard-webhooks-text-secret", "the key is what stands behind whsec_, decoded", lambda c, tag, x: "v1," + b64(mac(x, f"{c.delivery}.{c.time}.".encode() + c.request.body)))
    hmac_case("standard-webhooks", "v1", "standard-webhooks-version-missing", "an entry without a version", lambda c, tag, x: tag())
    hmac_case("standard-webhooks", "v1", "standard-webhooks-v1a-label", "the digest of v1 under the name of v1a", lambda c, tag, x: f"v1a,{tag()}")
    hmac_case("standard-webhooks", "v1", "standard-webhooks-comma-list", "entries are separated by a blank", lambda c, tag, x: f"v1,{'A' * 43}=,v1,{tag()}")
    a = BY_NAME["standard-webhooks", "v1a"]
    case, secret = Case(a, 30), public_key(a, "ed25519")
    message = f"{case.delivery}.{case.time}.".encode() + case.request.body
    refuse("standard-webhooks-hmac-by-public-key", "everybody knows the public key; as an HMAC key it proves nothing", case.send("v1," + b64(mac(keys.public_raw("ed25519"), message))), [secret], source=SCRIPT_KEYS)
    case = Case(a, 31)
    message = f"{case.delivery}.{case.time}.".encode() + case.request.body
    refuse("standard-webhooks-hmac-by-public-key-as-v1a", "the same under the name of v1a", case.send("v1a," + b64(mac(keys.public_raw("ed25519"), message))), [secret], source=SCRIPT_KEYS)
    hmac_case("polar", "default", "polar-decoded-secret", "the whole string is the key", lambda c, tag, x: "v1," + b64(mac(base64.b64decode(x[10:]), f"{c.delivery}.{c.time}.".encode() + c.request.body)), secret="polar_whs_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    s = BY_NAME["svix", "v1"]
    case, secret = Case(s, 30), secret_for(s)
    value = wrap(s, [case.tag(secret)], None)
    case.request.headers = [[{"svix-id": "webhook-id", "svix-timestamp": "webhook-timestamp"}.get(k, k), v] for k, v in case.request.headers]
    refuse("svix-mixed-trio", "signature of one trio, id and time of the other", case.send(value), [secret])

    # Prefixes and hashes.
    hmac_case("github", "default", "github-prefix-missing", "the value has to start with sha256=", lambda c, tag, s: tag())
    hmac_case("github", "default", "github-sha1-in-256-header", "a weaker hash under its own name", lambda c, tag, s: "sha1=" + mac(s, c.request.body, "sha1").hex())
    hmac_case("github", "default", "github-sha1-under-sha256-name", "a weaker hash under the name of the stronger", lambda c, tag, s: "sha256=" + mac(s, c.request.body, "sha1").hex())
    hmac_case("intercom", "default", "intercom-sha256", "X-Hub-Signature is SHA-1 here", lambda c, tag, s: "sha256=" + mac(s, c.request.body).hex())
    hmac_case("bitbucket", "default", "bitbucket-sha1", "X-Hub-Signature is SHA-256 here", lambda c, tag, s: "sha1=" + mac(s, c.request.body, "sha1").hex())
    hmac_case("slack", "default", "slack-prefix-missing", "the value has to start with v0=", lambda c, tag, s: tag())
    hmac_case("greenhouse", "default", "greenhouse-equals-sign", "a blank follows sha256, not an equals sign", lambda c, tag, s: "sha256=" + tag())
    hmac_case("websub", "default", "websub-unknown-method", "a method that the standard does not name", lambda c, tag, s: "md5=" + mac(s, c.request.body, "md5").hex())
    hmac_case("shopify", "default", "shopify-hex", "the digest is base64 here", lambda c, tag, s: mac(s, c.request.body).hex())
    hmac_case("lemon-squeezy", "default", "lemon-squeezy-base64", "the digest is hex here", lambda c, tag, s: b64(mac(s, c.request.body)))
    hmac_case("vercel", "default", "vercel-sha256", "SHA-1 here, though one library says otherwise", lambda c, tag, s: mac(s, c.request.body).hex())

    # Order and separators.
    hmac_case("retell", "default", "retell-time-first", "the body comes first", lambda c, tag, s: f"v={c.time},d={mac(s, c.time.encode() + c.request.body).hex()}")
    hmac_case("klaviyo", "default", "klaviyo-time-first", "the body comes first", lambda c, tag, s: mac(s, c.time.encode() + c.request.body).hex())
    hmac_case("ghost", "default", "ghost-body-alone", "older releases signed the body alone", lambda c, tag, s: f"sha256={mac(s, c.request.body).hex()}, t={c.time}")
    hmac_case("cashfree", "default", "cashfree-with-dot", "the documentation shows a dot, the SDK has none", lambda c, tag, s: b64(mac(s, c.time.encode() + b"." + c.request.body)))
    hmac_case("zendesk", "default", "zendesk-with-dot", "nothing stands between time and body", lambda c, tag, s: b64(mac(s, c.time.encode() + b"." + c.request.body)))
    hmac_case("crisp", "default", "crisp-without-brackets", "the brackets are signed too", lambda c, tag, s: mac(s, c.time.encode() + b";" + c.request.body).hex())
    hmac_case("linkedin", "default", "linkedin-body-alone", "hmacsha256= is part of the signed text", lambda c, tag, s: mac(s, c.request.body).hex())
    hmac_case("recurly", "json", "recurly-digest-first", "the time comes first", lambda c, tag, s: f"{tag()},{c.time}")
    hmac_case("customer-io", "default", "customer-io-slack-prefix", "no v0= in front of the value here", lambda c, tag, s: "v0=" + tag())

    # Plain digests are not HMAC.
    hmac_case("sellsy", "default", "sellsy-hmac", "plain SHA-1 with the secret in front", lambda c, tag, s: mac(s, c.request.body, "sha1").hex())
    hmac_case("cloudinary", "default", "cloudinary-hmac", "plain SHA-1 with the secret behind", lambda c, tag, s: mac(s, c.request.body + c.time.encode(), "sha1").hex())
    s = BY_NAME["moralis", "default"]
    case, secret = Case(s, 30), secret_for(s)
    refuse("moralis-sha3", "Keccak with the old padding, not SHA-3", case.send("0x" + hashlib.sha3_256(case.request.body + secret.encode()).hexdigest()), [secret])

    # Keys.
    s = BY_NAME["surveymonkey", "default"]
    case, secret = Case(s, 30), secret_for(s)
    case.params = {"client_id": "SM-test-client"}
    refuse("surveymonkey-client-secret-alone", "the key is client id, ampersand, client secret", case.send(b64(mac(secret, case.request.body, "sha1"))), [secret])
    hmac_case("easypost", "default", "easypost-secret-not-normalised", "the secret is normalised (NFKD) first", lambda c, tag, s: "hmac-sha256-hex=" + mac(unicodedata.normalize("NFC", s), c.request.body).hex())
    hmac_case("onfleet", "default", "onfleet-text-key", "the key is the decoded hex", lambda c, tag, s: mac(s, c.request.body, "sha512").hex())
    s = BY_NAME["braintree", "default"]
    case, secret = Case(s, 30, body=b""), secret_for(s)
    payload = b64(b"<notification/>") + "\n"
    case.request.body = bodies.form([("bt_signature", "integration_public_key|" + mac(secret, payload, "sha1").hex()), ("bt_payload", payload)])
    case.request.headers = [["Content-Type", FORM]]
    case.params = {"public_key": "integration_public_key"}
    refuse("braintree-text-key", "the key is the SHA-1 of the private key", case, [secret])
    case = Case(s, 31, body=bodies.form([("bt_signature", "another_key|" + mac(sha(secret.encode(), "sha1"), payload, "sha1").hex()), ("bt_payload", payload)]), content_type=FORM)
    case.params = {"public_key": "integration_public_key"}
    refuse("braintree-other-public-key", "the digest holds, but stands behind another public key", case, [secret])
    hmac_case("docusign", "default", "docusign-no-number", "the header's name ends in a number", lambda c, tag, s: tag())
    out[-1]["request"]["headers"] = [[k.replace("-{n}", ""), v] for k, v in out[-1]["request"]["headers"]]

    # Forms.
    payload = bodies.dump(bodies.document("gitea"), "pretty")
    body = bodies.form([("payload", payload)])
    hmac_case("gitea", "form", "gitea-form-raw-body", "the decoded field is signed here", lambda c, tag, s: mac(s, c.request.body).hex(), body=body, content_type=FORM)
    hmac_case("github", "default", "github-form-field", "the raw body is signed here", lambda c, tag, s: "sha256=" + mac(s, payload).hex(), body=body, content_type=FORM)
    s = BY_NAME["mailgun", "form"]
    secret, token = secret_for(s), "a" * 50
    good = [("timestamp", str(SENT)), ("token", token), ("signature", mac(secret, f"{SENT}{token}").hex())]
    refuse("mailgun-first-value", "the last value of each field counts", Case(s, 30, body=bodies.form(good + [("timestamp", "1"), ("token", "b"), ("signature", "00")]), content_type=FORM), [secret])

    # Each item of an array, and no item at all.
    s = BY_NAME["adyen", "standard"]
    secret = secret_for(s)

    def item(n, signed=True, good=True):
        it = {"pspReference": f"PSP{n}", "merchantAccountCode": "M", "merchantReference": "R", "amount": {"value": n, "currency": "EUR"}, "eventCode": "CAPTURE", "success": "true", "additionalData": {}}
        text = f"PSP{n}::M:R:{n if good else n + 1}:EUR:CAPTURE:true"
        if signed:
            it["additionalData"]["hmacSignature"] = b64(mac(bytes.fromhex(secret), text))
        return {"NotificationRequestItem": it}

    for name, why, items in (("adyen-second-item-bad", "every item has to hold", [item(1), item(2, good=False)]), ("adyen-second-item-unsigned", "every item has to be signed", [item(1), item(2, signed=False)]),
                             ("adyen-no-items", "an empty array proves nothing", [])):
        refuse(name, why, Case(s, 30, body=compact({"live": "false", "notificationItems": items})), [secret])
    s = BY_NAME["microsoft-graph", "client-state"]
    secret = secret_for(s)
    for name, why, values in (("microsoft-graph-second-item-bad", "every item has to carry it", [{"clientState": secret}, {"clientState": secret + "x"}]), ("microsoft-graph-second-item-without", "every item has to carry it", [{"clientState": secret}, {"id": "2"}]),
                              ("microsoft-graph-no-items", "an empty array proves nothing", []), ("microsoft-graph-null", "null is not the secret", [{"clientState": None}])):
        refuse(name, why, Case(s, 30, body=compact({"value": values})), [secret])
    s = BY_NAME["persona", "default"]
    case, secret = Case(s, 30), secret_for(s)
    old = str(SENT - 86400)
    refuse("persona-groups-mixed", "the signature that holds belongs to the old time of its own group", case.send(f"t={old},v1={mac(secret, old.encode() + b'.' + case.request.body).hex()} t={case.time},v1={'0' * 64}"), [secret])

    # Times.
    for provider, scheme, seconds in (("stripe", "default", 301), ("elevenlabs", "default", 31 * 60), ("twitch", "default", 11 * 60), ("slack", "default", 301), ("linear", "default", 65)):
        s = BY_NAME[provider, scheme]
        case, secret = Case(s, 30), secret_for(s)
        refuse(f"{provider}-{seconds}-seconds-old", "older than the provider's window", case.send(wrap(s, [case.tag(secret)], case.time)), [secret], now=SENT + seconds)
    s = BY_NAME["linear", "default"]
    case, secret = Case(s, 31), secret_for(s)
    case.request.add("Linear-Timestamp", f"{SENT + 3600}000")
    refuse("linear-fresh-header-old-body", "only the time inside the signed body counts", case.send(case.tag(secret)), [secret], now=SENT + 3600)

    # Words in front.
    for provider in ("brevo", "braze"):
        s = BY_NAME[provider, "bearer"]
        case, secret = Case(s, 30), secret_for(s)
        refuse(f"{provider}-bearer-missing", "the token without the word in front", case.send(secret), [secret])
    s = BY_NAME["chargebee", "basic"]
    for name, why, text in (("chargebee-bearer", "the right pair under another scheme", "Bearer " + b64(b"user:pass")), ("chargebee-pair-in-clear", "the pair has to be base64", "Basic user:pass"), ("chargebee-no-colon", "user and password without a colon", "Basic " + b64(b"userpass"))):
        refuse(name, why, Case(s, 30).send(text), ["user:pass"])

    # Public keys.
    s = BY_NAME["wise", "sha256"]
    case = Case(s, 30)
    refuse("wise-sha1-signature", "SHA-256 is what this header promises", case.send(b64(keys.rsa_sign("rsa", case.request.body, "sha1"))), [keys.public_pem("rsa")], source=SCRIPT_KEYS)
    s = BY_NAME["kick", "default"]
    case = Case(s, 30)
    case.send(b64(PSS))
    refuse("kick-pss-signature", "PKCS #1 v1.5 padding, not PSS", case, [keys.public_pem("rsa")], source=SCRIPT_KEYS)
    s = BY_NAME["sendgrid", "default"]
    case = Case(s, 30)
    raw = keys.ecdsa_sign("p256", case.time.encode() + case.request.body, "sha256", raw=True)
    refuse("sendgrid-raw-signature", "DER, not the two numbers side by side", case.send(b64(raw)), [keys.public_der_base64("p256")], source=SCRIPT_KEYS)
    s = BY_NAME["discord", "default"]
    case = Case(s, 30)
    refuse("discord-body-alone", "the time is signed too", case.send(keys.ed25519_sign("ed25519", case.request.body).hex()), [keys.public_raw("ed25519").hex()], source=SCRIPT_KEYS)

    # JWT.
    def jwt_case(provider, scheme, name, why, token, secrets, params=None, fetched=None, public_url=False, prefix="", n=30, header=None, body=None):
        s = BY_NAME[provider, scheme]
        case = Case(s, n, body=body)
        case.params = params or {}
        if s["at"] == "header":
            case.send(prefix + token(case))
        refuse(name, why, case, secrets, source=SCRIPT_KEYS, **({"fetched": fetched} if fetched else {}), **({"public_url": True} if public_url else {}))

    def none(claims):
        return b64url(json.dumps({"alg": "none", "typ": "JWT"})) + "." + b64url(json.dumps(claims)) + "."

    live, lk = secret_for(BY_NAME["livekit", "default"]), {"api_key": "APItestcountersign"}
    lk_claims = lambda c, **x: {"iss": "APItestcountersign", "nbf": SENT - 5, "exp": SENT + 300, "sha256": b64(sha(c.request.body)), **x}
    jwt_case("livekit", "default", "livekit-alg-none", "an unsigned token", lambda c: none(lk_claims(c)), [live], lk)
    jwt_case("livekit", "default", "livekit-other-issuer", "another API key", lambda c: jwt(lk_claims(c, iss="APIother"), live), [live], lk)
    jwt_case("livekit", "default", "livekit-digest-missing", "a token that is not bound to the body", lambda c: jwt({"iss": "APItestcountersign", "exp": SENT + 300, "nbf": SENT - 5}, live), [live], lk)
    jwt_case("livekit", "default", "livekit-expired", "expired", lambda c: jwt(lk_claims(c, exp=SENT - 300), live), [live], lk)
    jwt_case("livekit", "default", "livekit-not-yet-valid", "not valid before the day after", lambda c: jwt(lk_claims(c, nbf=SENT + 86400, exp=SENT + 90000), live), [live], lk)
    mb = secret_for(BY_NAME["messagebird", "jwt"])
    mb_claims = lambda c, **x: {"iss": "MessageBird", "nbf": SENT - 1, "exp": SENT + 60, "jti": c.delivery, "url_hash": sha(c.request.url.encode()).hex(), "payload_hash": sha(c.request.body).hex(), **x}

    def without(claims, name):
        claims.pop(name)
        return claims

    jwt_case("messagebird", "jwt", "messagebird-missing-payload-hash", "there is a body, and the token does not bind it", lambda c: jwt(without(mb_claims(c), "payload_hash"), mb), [mb], public_url=True)
    jwt_case("messagebird", "jwt", "messagebird-missing-url-hash", "the token does not bind the URL", lambda c: jwt(without(mb_claims(c), "url_hash"), mb), [mb], public_url=True)
    jwt_case("messagebird", "jwt", "messagebird-other-issuer", "another issuer", lambda c: jwt(mb_claims(c, iss="messagebird"), mb), [mb], public_url=True)
    q = [secret_for(BY_NAME["qstash", "default"]), secret_for(BY_NAME["qstash", "default"], "next")]
    q_claims = lambda c, **x: {"iss": "Upstash", "sub": c.request.url, "exp": SENT + 300, "nbf": SENT, "iat": SENT, "jti": "jwt_1", "body": b64url(sha(c.request.body)), **x}
    jwt_case("qstash", "default", "qstash-other-url", "a token for another destination", lambda c: jwt(q_claims(c, sub="https://hooks.example.org/other"), q[0]), q, public_url=True)
    jwt_case("qstash", "default", "qstash-other-issuer", "another issuer", lambda c: jwt(q_claims(c, iss="upstash.example"), q[0]), q, public_url=True)
    nl = secret_for(BY_NAME["netlify", "default"])
    jwt_case("netlify", "default", "netlify-other-issuer", "another issuer", lambda c: jwt({"iss": "other", "sha256": sha(c.request.body).hex()}, nl), [nl])
    jwt_case("netlify", "default", "netlify-digest-missing", "a token that is not bound to the body", lambda c: jwt({"iss": "netlify"}, nl), [nl])
    mo = secret_for(BY_NAME["monday", "jwt"])
    jwt_case("monday", "jwt", "monday-expired", "expired", lambda c: jwt({"accountId": 1, "exp": SENT - 3600}, mo), [mo])
    vo = secret_for(BY_NAME["vonage", "jwt"])
    jwt_case("vonage", "jwt", "vonage-wrong-body-hash", "the claim is there, so it has to match", lambda c: jwt({"iat": SENT, "jti": "x", "iss": "Vonage", "payload_hash": "0" * 64}, vo), [vo], prefix="Bearer ")
    pem = keys.public_pem("rsa")
    go = lambda c, **x: {"iss": "gong", "webhook_url": c.request.url, "body_sha256": sha(c.request.body).hex(), "iat": SENT, "exp": SENT + 300, **x}
    jwt_case("gong", "default", "gong-hs256-by-public-key", "HS256 keyed with the text of the public key", lambda c: jwt(go(c), pem, "HS256"), [pem], public_url=True)
    jwt_case("gong", "default", "gong-other-url", "a token for another destination", lambda c: jwt(go(c, webhook_url="https://hooks.example.org/other"), "rsa", "RS256"), [pem], public_url=True)
    jwk = json.dumps(keys.jwk("p256", "k", "ES256"), separators=(",", ":"))
    pl = lambda c: {"iat": SENT, "request_body_sha256": sha(c.request.body).hex()}
    jwt_case("plaid", "default", "plaid-hs256-by-public-key", "HS256 keyed with the text of the public key", lambda c: jwt(pl(c), jwk, "HS256", kid="k"), [jwk])
    jwt_case("plaid", "default", "plaid-der-signature", "a JWT carries the two numbers side by side, not DER", lambda c: der_jwt(pl(c)), [jwk])
    jwt_case("plaid", "default", "plaid-six-minutes", "older than five minutes", lambda c: jwt({**pl(c), "iat": SENT - 361}, "p256", "ES256", kid="k"), [jwk])
    jwt_case("plaid", "default", "plaid-no-time", "no iat, no age", lambda c: jwt(without(pl(c), "iat"), "p256", "ES256", kid="k"), [jwk])
    fa = secret_for(BY_NAME["fusionauth", "default"])
    fc = lambda c: {"request_body_sha256": b64(sha(c.request.body))}
    jwt_case("fusionauth", "default", "fusionauth-alg-none", "an unsigned token", lambda c: none(fc(c)), [fa])
    document = keys.jwks(keys.jwk("rsa", "fa-rsa", "RS256"))
    jwt_case("fusionauth", "default", "fusionauth-hs256-by-public-key", "HS256 keyed with the text of the key set", lambda c: jwt(fc(c), document, "HS256", kid="fa-rsa"), [document])
    jwt_case("fusionauth", "default", "fusionauth-hs256-by-public-key-pem", "HS256 keyed with the public key as PEM", lambda c: jwt(fc(c), pem, "HS256", kid="fa-rsa"), [document])
    jwt_case("fusionauth", "default", "fusionauth-hex-digest", "the digest claim is base64", lambda c: jwt({"request_body_sha256": sha(c.request.body).hex()}, fa), [fa])
    gp, gj = {"audience": url_of(BY_NAME["google-pubsub", "oidc"]), "email": "push@countersign-test.iam.gserviceaccount.com"}, keys.jwks(keys.jwk("rsa", "google-now", "RS256"))
    gc = lambda **x: {"aud": gp["audience"], "email": gp["email"], "email_verified": True, "exp": SENT + 3600, "iat": SENT, "iss": "https://accounts.google.com", **x}
    for name, why, change in (("audience", "for somebody else", {"aud": "https://other.example"}), ("email", "another service account", {"email": "other@x.iam.gserviceaccount.com"}), ("email-not-verified", "not verified", {"email_verified": False}),
                              ("issuer", "another issuer", {"iss": "https://accounts.google.com.evil.example"})):
        jwt_case("google-pubsub", "oidc", f"google-pubsub-{name}", why, lambda c: jwt(gc(**change), "rsa", "RS256", kid="google-now"), [gj], gp, prefix="Bearer ")
    jwt_case("google-pubsub", "oidc", "google-pubsub-unknown-kid", "a key that the set does not hold", lambda c: jwt(gc(), "rsa-other", "RS256", kid="other"), [gj], gp, prefix="Bearer ")
    tenant = {"app_id": "8e460676-ae3f-4b1e-8790-ee0fb5d6148f", "tenant": "84bd8158", "issuer": "https://sts.windows.net/84bd8158/"}
    mj = keys.jwks(keys.jwk("rsa", "graph-now"))
    mc = {"aud": tenant["app_id"], "iss": tenant["issuer"], "exp": SENT + 3600, "appid": "0bf30f3b-4a52-48df-9a82-234910c4a086"}
    good, bad = jwt(mc, "rsa", "RS256", kid="graph-now"), jwt({**mc, "appid": "another"}, "rsa", "RS256", kid="graph-now")
    for name, why, tokens in (("other-app", "the token of another application", [bad]), ("second-token-bad", "every token has to hold", [good, bad]), ("no-tokens", "an empty array proves nothing", [])):
        jwt_case("microsoft-graph", "validation-tokens", f"microsoft-graph-tokens-{name}", why, None, [mj], tenant, body=compact({"value": [], "validationTokens": tokens}))
    kj = keys.jwks(keys.jwk("rsa", "kinde-1", "RS256"))
    jwt_case("kinde", "default", "kinde-alg-none", "an unsigned token as body", None, [kj], body=none({"type": "user.created", "event_id": "e"}).encode())
    jwt_case("kinde", "default", "kinde-plain-json", "JSON instead of a token", None, [kj], body=b'{"type":"user.created"}')

    # JWS.
    s, sj = BY_NAME["saleor", "jws"], keys.jwks(keys.jwk("rsa", "1", "RS256"))

    def detached(head, message):
        head = b64url(json.dumps(head, separators=(",", ":")))
        return f"{head}..{b64url(jws_sign(head.encode() + b'.' + message, 'rsa', 'RS256'))}"

    case = Case(s, 30)
    refuse("saleor-unknown-crit", "an extension that has to be understood and is not", case.send(detached({"alg": "RS256", "kid": "1", "b64": False, "crit": ["b64", "x"], "x": 1}, case.request.body)), [sj], source=SCRIPT_KEYS)
    case = Case(s, 31)
    refuse("saleor-alg-none", "an unsigned token", case.send(b64url(json.dumps({"alg": "none", "kid": "1", "b64": False, "crit": ["b64"]})) + ".."), [sj], source=SCRIPT_KEYS)
    case = Case(s, 32)
    head = {"alg": "RS256", "kid": "1", "b64": False, "crit": ["b64"]}
    value = detached(head, b'{"other":"payload"}').replace("..", "." + b64url(b'{"other":"payload"}') + ".")
    refuse("saleor-attached-payload", "the payload that is signed travels inside the token, and is not the body", case.send(value), [sj], source=SCRIPT_KEYS)
    s, tj, url = BY_NAME["truelayer", "default"], keys.jwks(keys.jwk("p521", "tl-now", "ES512")), "https://webhooks.truelayer.com/.well-known/jwks"

    def truelayer(name, why, jku=url, version="2", listed="X-Tl-Webhook-Timestamp", path="/webhooks/truelayer", fetched=None, stale=None):
        case = Case(s, 30, time=stale)
        head = b64url(json.dumps({"alg": "ES512", "kid": "tl-now", "tl_version": version, "tl_headers": listed, "jku": jku}, separators=(",", ":")))
        text = f"POST {path}\n".encode() + b"".join(f"{h}: {case.request.header(h)}\n".encode() for h in listed.split(",") if h) + case.request.body
        case.send(f"{head}..{b64url(jws_sign(f'{head}.{b64url(text)}'.encode(), 'p521', 'ES512'))}")
        refuse(name, why, case, [], source=SCRIPT_KEYS, fetched={fetched or jku: tj})

    truelayer("truelayer-foreign-jku", "the key set's address is not the provider's", jku="https://webhooks.truelayer.com.evil.example/.well-known/jwks")
    truelayer("truelayer-userinfo-jku", "the provider's name stands in the user part of the address", jku="https://webhooks.truelayer.com@evil.example/.well-known/jwks")
    truelayer("truelayer-version-1", "another version of the signature", version="1")
    truelayer("truelayer-other-path", "signed for another path", path="/webhooks/other")
    truelayer("truelayer-time-not-signed", "the time stands in a header that the signature does not list", listed="")

    # Certificates.
    def sns(name, why, cert_url, topic="arn:aws:sns:eu-central-1:123456789012:countersign", bits="sha256", version="2", secrets=()):
        data = {"Type": "Notification", "MessageId": "22b80b92", "TopicArn": topic, "Message": "Grüße", "Timestamp": "2025-11-24T16:00:00.123Z", "SignatureVersion": version, "SigningCertURL": cert_url}
        text = "".join(f"{k}\n{data[k]}\n" for k in ("Message", "MessageId", "Timestamp", "TopicArn", "Type"))
        data["Signature"] = b64(keys.rsa_sign("rsa", text.encode(), bits))
        case = Case(BY_NAME["aws-sns", "v2"], 30, body=compact(data), content_type="text/plain; charset=UTF-8")
        case.params = {"topic_arn": "arn:aws:sns:eu-central-1:123456789012:countersign"}
        refuse(name, why, case, list(secrets), source=SCRIPT_KEYS, fetched={cert_url: keys.certificate("sns.crt.pem", "sns.amazonaws.com")})

    good = "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-1.pem"
    for name, why, address in (("host-suffix", "the host only starts like the provider's", good.replace(".com/", ".com.evil.example/")), ("userinfo", "the provider's name stands in the user part", good.replace(".com/", ".com@evil.example/")),
                               ("bucket", "any customer may own a name under amazonaws.com", "https://sns-evil.s3.amazonaws.com/cert.pem"), ("plain-http", "not https", good.replace("https:", "http:")),
                               ("not-pem", "the path has to end in .pem", good.replace(".pem", ".txt")), ("port", "another port", good.replace(".com/", ".com:8443/"))):
        sns(f"aws-sns-certificate-{name}", why, address)
    sns("aws-sns-other-topic", "somebody else's topic: the signature holds for every customer of the provider", good, topic="arn:aws:sns:eu-central-1:999999999999:evil")
    sns("aws-sns-sha1-as-version-2", "version 2 promises SHA-256", good, bits="sha1")
    s = BY_NAME["paypal", "default"]
    for name, why, host, webhook in (("foreign-certificate", "the certificate's address is not the provider's", "https://api.paypal.com.evil.example", "4JH86294D6297924G"), ("other-webhook-id", "signed for another webhook: the certificate signs for every customer", "https://api.paypal.com", "OTHER")):
        case = Case(s, 30, time="2025-11-24T16:00:00Z")
        text = f"{case.delivery}|{case.time}|{webhook}|{zlib.crc32(case.request.body)}"
        address = f"{host}/v1/notifications/certs/CERT-360caa42-fca2a594-7a8abba8"
        case.params = {"webhook_id": "4JH86294D6297924G"}
        case.request.add("PAYPAL-AUTH-ALGO", "SHA256withRSA")
        case.request.add("PAYPAL-CERT-URL", address)
        case.send(b64(keys.rsa_sign("rsa", text.encode(), "sha256")))
        refuse(f"paypal-{name}", why, case, [], source=SCRIPT_KEYS, fetched={address: keys.certificate("paypal.crt.pem", "messageverificationcerts.paypal.com", organisation="PayPal, Inc.") + keys.authority()})

    # RFC 9421.
    s = BY_NAME["mailchannels", "default"]
    for name, why, inputs, base in (
            ("nothing-covered", "a signature over no header at all", f"();created={SENT};alg=\"ed25519\";keyid=\"mckey\"", ""),
            ("other-header-covered", "a signature that leaves the digest of the body out", f"(\"content-type\");created={SENT};alg=\"ed25519\";keyid=\"mckey\"", "\"content-type\": application/json\n"),
            ("no-time", "no created, no age", "(\"content-digest\");alg=\"ed25519\";keyid=\"mckey\"", None)):
        case = Case(s, 30)
        digest = f"sha-256=:{b64(sha(case.request.body))}:"
        base = f"\"content-digest\": {digest}\n" if base is None else base
        case.request.add("Content-Digest", digest)
        case.request.add("Signature-Input", f"sig_1={inputs}")
        case.send(f"sig_1=:{b64(keys.ed25519_sign('ed25519', (base + chr(34) + '@signature-params' + chr(34) + ': ' + inputs).encode()))}:")
        refuse(f"mailchannels-{name}", why, case, [keys.public_der_base64("ed25519")], source=SCRIPT_KEYS)
    case = Case(s, 31)
    inputs = f"(\"content-digest\");created={SENT};alg=\"ed25519\";keyid=\"mckey\""
    digest = f"sha-256=:{b64(sha(b'another body'))}:"
    case.request.add("Content-Digest", digest)
    case.request.add("Signature-Input", f"sig_1={inputs}")
    text = f"\"content-digest\": {digest}\n\"@signature-params\": {inputs}"
    case.send(f"sig_1=:{b64(keys.ed25519_sign('ed25519', text.encode()))}:")
    refuse("mailchannels-digest-of-another-body", "the signature holds, the digest does not", case, [keys.public_der_base64("ed25519")], source=SCRIPT_KEYS)

    # URLs.
    s = BY_NAME["twilio", "body"]
    case, secret = Case(s, 30), secret_for(s)
    refuse("twilio-body-digest-missing", "the URL is signed, but says nothing about the body", case.send(b64(mac(secret, case.request.url, "sha1"))), [secret], public_url=True)
    for provider, scheme, bits in (("square", "sha256", "sha256"), ("trello", "default", "sha1")):
        s = BY_NAME[provider, scheme]
        case, secret = Case(s, 30), secret_for(s)
        other = case.request.url + "/"
        message = other.encode() + case.request.body if provider == "square" else case.request.body + other.encode()
        refuse(f"{provider}-trailing-slash", "the URL as registered, byte for byte", case.send(b64(mac(secret, message, bits))), [secret])
    return out


def der_jwt(claims):
    text = ".".join(b64url(json.dumps(x, separators=(",", ":"))) for x in ({"alg": "ES256", "typ": "JWT", "kid": "k"}, claims))
    return text + "." + b64url(keys.ecdsa_sign("p256", text.encode(), "sha256"))


def pss(message):
    """PSS takes a random salt; without salt it is the same every time."""
    return keys.private("rsa").sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 0), hashes.SHA256())


_kick = Case(BY_NAME["kick", "default"], 30)
PSS = pss(f"{_kick.delivery}.{_kick.time}.".encode() + _kick.request.body)
