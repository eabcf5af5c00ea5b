"""Vectors of the schemes that need more than one line of a table: fields of forms and JSON, several headers, JWT and JWS,
fetched keys, canonical forms. Each function returns the vectors of one scheme.
"""
import base64
import hashlib
import hmac
import json
import urllib.parse
import zlib

import bodies
import keys
from engine import Request, b64url, jws_sign, jwt, keccak256, tag, wrap
from plain import Case, make, secret_for
from vector import HOST, NOW, SCRIPT, SCRIPT_KEYS, SENT, path_of, secret_text, vector

FORM = "application/x-www-form-urlencoded"
SPECIAL = {}


def scheme_of(provider, *names):
    def register(function):
        for name in names:
            SPECIAL[provider, name] = function
        return function
    return register


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def sha(body, bits="sha256"):
    return hashlib.new(bits, body).digest()


def b64(raw):
    return base64.b64encode(raw).decode()


def mac(key, message, bits="sha256"):
    return hmac.new(key if isinstance(key, bytes) else key.encode(), message if isinstance(message, bytes) else message.encode(), bits).digest()


def url_of(scheme, rest=""):
    return f"{HOST}/webhooks/{scheme['provider']}{rest}"


# ---- fields of JSON ----------------------------------------------------------------------------------------------

@scheme_of("adyen", "standard")
def adyen(scheme):
    secret, out = secret_for(scheme), []
    for n, count in ((1, 1), (2, 2)):
        items = []
        for i in range(count):
            item = {"pspReference": f"88354292391{n}{i}C", "merchantAccountCode": "CountersignTEST", "merchantReference": "Bestellung #42/ä\\:b",
                    "amount": {"value": 1130 + i, "currency": "EUR"}, "eventCode": "AUTHORISATION", "success": "true" if i == 0 else "false",
                    "eventDate": "2025-11-24T16:00:00+01:00", "reason": "Zoë said: \"ok\"", "additionalData": {}}
            if n == 2 and i == 1:
                item["originalReference"] = "8835429239100000"
            text = ":".join([item["pspReference"], item.get("originalReference", ""), item["merchantAccountCode"], item["merchantReference"],
                             str(item["amount"]["value"]), item["amount"]["currency"], item["eventCode"], item["success"]])
            item["additionalData"]["hmacSignature"] = b64(mac(bytes.fromhex(secret), text))
            items.append({"NotificationRequestItem": item})
        case = Case(scheme, n, body=compact({"live": "false", "notificationItems": items}))
        out.append(case.vector(f"standard-{n}" if n == 1 else "standard-two-items", [secret]))
    return out


@scheme_of("figma", "passcode")
def figma(scheme):
    secret = secret_for(scheme)
    case = Case(scheme, body=compact(bodies.document("figma", [("/passcode", secret), ("/webhook_id", "22"), ("/file_name", "Entwürfe/α")])))
    return [case.vector("passcode-1", [secret])]


@scheme_of("microsoft-graph", "client-state")
def graph(scheme):
    secret = secret_for(scheme)
    items = [{"id": f"lsgTZMr9KwAA{n}", "subscriptionId": "7f105c7d-2dc5-4530-97cd-4e7ae6534c07", "clientState": secret, "changeType": "created",
              "resource": "users/zoë@example.org/messages/AAMk="} for n in (1, 2)]
    return [Case(scheme, 1, body=compact({"value": items[:1]})).vector("client-state-1", [secret]),
            Case(scheme, 2, body=compact({"value": items})).vector("client-state-two-items", [secret])]


@scheme_of("microsoft-graph", "validation-tokens")
def graph_tokens(scheme):
    out, tenant, app = [], "84bd8158-6d4d-4958-8b9f-9d6445542f95", "8e460676-ae3f-4b1e-8790-ee0fb5d6148f"
    document = keys.jwks(keys.jwk("rsa-other", "graph-old"), keys.jwk("rsa", "graph-now"))
    for n, extra, issuer in ((1, {"appid": "0bf30f3b-4a52-48df-9a82-234910c4a086", "ver": "1.0"}, f"https://sts.windows.net/{tenant}/"),
                             (2, {"azp": "0bf30f3b-4a52-48df-9a82-234910c4a086", "ver": "2.0"}, f"https://login.microsoftonline.com/{tenant}/v2.0")):
        claims = {"aud": app, "iss": issuer, "iat": SENT - 60, "nbf": SENT - 60, "exp": SENT + 3600, "tid": tenant, **extra}
        token = jwt(claims, "rsa", "RS256", kid="graph-now")
        body = compact({"value": [{"subscriptionId": "7f105c7d", "clientState": "später", "encryptedContent": {"data": "n6g="}}],
                        "validationTokens": [token] * n})
        params = {"app_id": app, "tenant": tenant, "issuer": issuer}
        case = Case(scheme, n, body=body)
        case.params = params
        out.append(case.vector(f"validation-tokens-{n}", [], source=SCRIPT_KEYS, fetched={
            "https://login.microsoftonline.com/common/discovery/v2.0/keys": document,
            f"https://login.microsoftonline.com/{tenant}/discovery/v2.0/keys": document}))
    out.append(case.vector("validation-tokens-pinned", [document], source=SCRIPT_KEYS))
    return out


@scheme_of("mailgun", "json")
def mailgun(scheme):
    secret, out = secret_for(scheme), []
    for n in (1, 2):
        token = secret_text("mailgun", "token", "hex", str(n))[:50]
        signature = {"timestamp": str(SENT), "token": token, "signature": mac(secret, f"{SENT}{token}").hex()}
        body = compact({"signature": signature, "event-data": bodies.document("mailgun")})
        out.append(Case(scheme, n, body=body + b"\n" * (n - 1)).vector(f"json-{n}", [secret]))
    return out


@scheme_of("mailgun", "form")
def mailgun_form(scheme):
    secret, token = secret_for(scheme), "a" * 50
    pairs = [("recipient", "jörg@example.org"), ("subject", "Grüße & Küsse = 100 %"), ("timestamp", str(SENT)), ("token", token),
             ("signature", mac(secret, f"{SENT}{token}").hex())]
    out = [Case(scheme, 1, body=bodies.form(pairs), content_type=FORM).vector("form-1", [secret])]
    decoys = [("timestamp", "1"), ("token", "b"), ("signature", "00")]
    out.append(Case(scheme, 2, body=bodies.form(decoys + pairs), content_type=FORM).vector("form-last-value-counts", [secret]))
    return out


@scheme_of("midtrans", "default")
def midtrans(scheme):
    secret, out = secret_for(scheme), []
    for n, status in ((1, "200"), (2, "407")):
        data = {"transaction_id": f"9aed5972-5b6a-401e-894b-a32c91ed1a3{n}", "order_id": f"pesanan-{n}/é", "status_code": status, "gross_amount": "20000.00",
                "transaction_status": "settlement", "custom_field1": "Terima kasih — ありがとう"}
        data["signature_key"] = sha((data["order_id"] + status + "20000.00" + secret).encode(), "sha512").hex()
        out.append(Case(scheme, n, body=compact(data)).vector(f"default-{n}", [secret]))
    return out


# ---- fields of forms ---------------------------------------------------------------------------------------------

@scheme_of("gitea", "form")
def gitea_form(scheme):
    secret, out = secret_for(scheme), []
    for n, style in ((1, "pretty"), (2, "compact")):
        payload = bodies.dump(bodies.document("gitea"), style)
        case = Case(scheme, n, body=bodies.form([("payload", payload)]), content_type=FORM)
        out.append(case.send(mac(secret, payload).hex()).vector(f"form-{n}", [secret]))
    return out


@scheme_of("opennode", "default")
def opennode(scheme):
    secret, out = secret_for(scheme), []
    for n in (1, 2):
        charge = f"47bb6a10-1c8a-4a06-9dd6-0000000000{n}0"
        pairs = [("id", charge), ("callback_url", url_of(scheme)), ("status", "paid"), ("description", "Käse & Brot"), ("price", "1000"),
                 ("hashed_order", mac(secret, charge).hex())]
        out.append(Case(scheme, n, body=bodies.form(pairs), content_type=FORM).vector(f"default-{n}", [secret]))
    return out


@scheme_of("braintree", "default")
def braintree(scheme):
    private, public, out = secret_for(scheme), "integration_public_key", []
    key = sha(private.encode(), "sha1")
    payload = b64("<?xml version=\"1.0\"?>\n<notification><kind>subscription_went_active</kind><subject>Müller & Søn</subject></notification>".encode()) + "\n"
    good = mac(key, payload, "sha1").hex()
    plans = [("default-1", payload, f"{public}|{good}", payload),
             ("default-other-key-first", payload, f"another_key|{'0' * 40}&{public}|{good}", payload),
             ("default-newline-lost", payload.strip(), f"{public}|{good}", payload)]
    for n, (name, sent, signature, _) in enumerate(plans, 1):
        case = Case(scheme, n, body=bodies.form([("bt_signature", signature), ("bt_payload", sent)]), content_type=FORM)
        case.params = {"public_key": public}
        out.append(case.vector(name, [private]))
    return out


@scheme_of("transloadit", "default")
def transloadit(scheme):
    secret, out = secret_for(scheme), []
    payload = '{"ok":"ASSEMBLY_COMPLETED","assembly_id":"05f8f5a0a2e14b6f","fields":{"name":"Übung №1"},"url":"https:\\/\\/api.example.org\\/a"}'
    for n, bits in enumerate(("sha384", "sha1", "sha256", "sha512"), 1):
        pairs = [("transloadit", payload), ("signature", f"{bits}:{mac(secret, payload, bits).hex()}")]
        out.append(Case(scheme, n, body=bodies.form(pairs), content_type=FORM).vector(f"default-{bits}", [secret]))
    pairs = [("transloadit", payload), ("signature", mac(secret, payload, "sha1").hex())]
    out.append(Case(scheme, 5, body=bodies.form(pairs), content_type=FORM).vector("default-no-prefix-is-sha1", [secret]))
    return out


@scheme_of("travis-ci", "default")
def travis(scheme):
    payload = compact({"id": 77665544, "number": "12", "status": 0, "message": "Füge \"x\" hinzu\n", "repository": {"name": "naïve", "owner_name": "octo"}})
    case = Case(scheme, 1, body=bodies.form([("payload", payload)]), content_type=FORM)
    case.send(b64(keys.rsa_sign("rsa", payload, "sha1")))
    config = json.dumps({"config": {"host": "travis-ci.com", "notifications": {"webhook": {"public_key": keys.public_pem("rsa")}}}})
    return [case.vector("default-1", [], source=SCRIPT_KEYS, fetched={"https://api.travis-ci.com/config": config}),
            case.vector("default-pinned", [keys.public_pem("rsa")], source=SCRIPT_KEYS)]


@scheme_of("mandrill", "default")
def mandrill(scheme):
    secret, out = secret_for(scheme), []
    events = json.dumps([{"event": "open", "ts": SENT, "msg": {"subject": "Schöne Grüße"}}])
    for n, url in ((1, url_of(scheme)), (2, "https://user:pa-ss@hooks.example.org/webhooks/mandrill?list=ä%20b&x=1")):
        pairs = [("mandrill_events", events), ("zeta", "2"), ("alpha", "é = 1")]
        case = Case(scheme, n, body=bodies.form(pairs), content_type=FORM, url=url)
        case.request.target = path_of(url)
        case.send(b64(mac(secret, url + "".join(k + v for k, v in sorted(pairs)), "sha1")))
        out.append(case.vector("default-1" if n == 1 else "default-userinfo-and-query", [secret], public_url=True))
    return out


def twilio_text(url, pairs):
    """Keys in order; the values of one key without duplicates, in order, each behind the key again."""
    groups = {}
    for key, value in pairs:
        groups.setdefault(key, set()).add(value)
    return url + "".join(key + value for key in sorted(groups) for value in sorted(groups[key]))


@scheme_of("twilio", "form")
def twilio(scheme):
    secret, out = secret_text("twilio", "form", "hex")[:32].lower(), []
    pairs = [("CallSid", "CA1234567890ABCDE"), ("From", "+4915112345678"), ("Body", "Grüße 👋 & mehr = ok"), ("To", "+18005551212"), ("Zz", ""), ("aLower", "1")]
    url = url_of(scheme, "?foo=1&bar=%C3%A9")

    def one(name, signed, registered, pairs, method="POST"):
        case = Case(scheme, len(out) + 1, body=bodies.form(pairs) if method == "POST" else b"", method=method, url=registered,
                    content_type=FORM if method == "POST" else None)
        case.request.target = path_of(registered)
        case.send(b64(mac(secret, twilio_text(signed, pairs if method == "POST" else []), "sha1")))
        out.append(case.vector(name, [secret], public_url=True))

    one("form-1", url, url, pairs)
    one("form-repeated-keys", url, url, pairs + [("MediaUrl", "b"), ("MediaUrl", "a"), ("MediaUrl", "b")])
    one("form-get", url + "&CallSid=CA1&From=%2B49151", url + "&CallSid=CA1&From=%2B49151", [], "GET")
    one("twilio-with-default-port", url.replace("example.org", "example.org:443"), url, pairs)
    one("twilio-without-default-port", url, url.replace("example.org", "example.org:443"), pairs)
    return out


@scheme_of("twilio", "body")
def twilio_body(scheme):
    secret, out = secret_text("twilio", "form", "hex")[:32].lower(), []
    for n, style in ((1, "compact"), (2, "crlf")):
        body = bodies.dump(bodies.document("twilio"), style)
        url = url_of(scheme, f"?foo=1&bodySHA256={sha(body).hex()}")
        case = Case(scheme, n, body=body, url=url)
        out.append(case.send(b64(mac(secret, url, "sha1"))).vector(f"body-{n}", [secret], public_url=True))
    return out


@scheme_of("dropbox-sign", "default")
def dropbox_sign(scheme):
    secret, out = secret_text("dropbox-sign", "default", "hex"), []
    for n, kind in ((1, "signature_request_signed"), (2, "callback_test")):
        event = {"event_time": str(SENT), "event_type": kind, "event_hash": mac(secret, f"{SENT}{kind}").hex(), "event_metadata": {"reported_for_account_id": None}}
        text = json.dumps({"event": event, "account_guid": "63522885f9261e2b04eea043933ee7313eb674fd", "title": "Vertrag für Zoë"}, ensure_ascii=False)
        line = "--------------------------countersign0001"
        body = (f"--{line}\r\nContent-Disposition: form-data; name=\"json\"\r\n\r\n{text}\r\n--{line}\r\n"
                f"Content-Disposition: form-data; name=\"note\"\r\n\r\nnot signed\r\n--{line}--\r\n").encode()
        case = Case(scheme, n, body=body, content_type=f"multipart/form-data; boundary={line}")
        out.append(case.vector(f"default-{n}", [secret], event=event["event_hash"]))
    return out


# ---- several headers ---------------------------------------------------------------------------------------------

@scheme_of("ably", "default")
def ably(scheme):
    out = make(scheme)
    for v in out:
        v["request"]["headers"].append(["X-Ably-Key", "appid1.keyid1"])
    return out


@scheme_of("pusher", "default")
def pusher(scheme):
    out = make(scheme)
    for v in out:
        v["request"]["headers"].append(["X-Pusher-Key", "278d425bdf160c739803"])
    body = compact({"time_ms": SENT * 1000, "events": [{"name": "channel_occupied", "channel": "größe"}]})
    secret = secret_for(scheme)
    case = Case(scheme, 3, body=body)
    case.request.add("X-Pusher-Key", "278d425bdf160c739803")
    return out + [case.send(mac(secret, body).hex()).vector("default-3", [secret])]


@scheme_of("worldline", "default")
def worldline(scheme):
    out = make(scheme)
    for v in out:
        v["request"]["headers"].append(["X-GCS-KeyId", "dd8a9eb2-0001"])
    return out


@scheme_of("box", "primary")
def box(scheme):
    first, second, out = secret_for(scheme), secret_for(scheme, "secondary"), []
    plans = [("primary-1", [first], [first, second]), ("primary-both", [first, second], [first, second]),
             ("primary-secondary-only", [first, second], [None, second]), ("primary-first-replaced", [first, second], ["retired", second])]
    for n, (name, secrets, signing) in enumerate(plans, 1):
        case = Case(scheme, n, style="ascii", time="2025-11-24T08:00:00-08:00")
        case.request.add("box-signature-version", "1")
        case.request.add("box-signature-algorithm", "HmacSHA256")
        for header, key in zip(("box-signature-primary", "box-signature-secondary"), signing):
            if key:
                case.send(case.tag(key), header)
        out.append(case.vector(name, secrets))
    return out


@scheme_of("primer", "default")
def primer(scheme):
    out = make(scheme)
    first, second = secret_for(scheme), secret_for(scheme, "secondary")
    case = Case(scheme, 3)
    case.send(case.tag(first)).send(case.tag(second), "X-Signature-Secondary")
    return out + [case.vector("default-with-secondary", [first])]


@scheme_of("docusign", "default")
def docusign(scheme):
    first, second, third, out = secret_for(scheme), secret_for(scheme, "2"), secret_for(scheme, "3"), []
    for n, (name, signing, secrets) in enumerate([("default-1", [first], [first]), ("default-second-header", [second, first], [first]),
                                                  ("default-twelfth-header", [second] * 11 + [first], [first]),
                                                  ("default-two-secrets", [second, third], [first, third])], 1):
        case = Case(scheme, n)
        for i, key in enumerate(signing, 1):
            case.send(case.tag(key), f"X-DocuSign-Signature-{i}")
        out.append(case.vector(name, secrets))
    return out


@scheme_of("mollie", "next-gen")
def mollie(scheme):
    out = make(scheme)
    new, old = secret_for(scheme), secret_for(scheme, "old")
    for name, order in (("mollie-two-headers", (old, new)), ("mollie-two-headers-first-good", (new, old))):
        case = Case(scheme, 3)
        for key in order:
            case.send(wrap(scheme, [case.tag(key)], None))
        out.append(case.vector(name, [new]))
    return out


@scheme_of("persona", "default")
def persona(scheme):
    new, old, out = secret_for(scheme), secret_for(scheme, "old"), []
    for n, (name, signing, secrets) in enumerate([("default-1", [new], [new]), ("default-rotation", [old, new], [new]),
                                                  ("default-two-secrets", [new, old], [old])], 1):
        case = Case(scheme, n)
        case.send(" ".join(f"t={case.time},v1={case.tag(key)}" for key in signing))
        out.append(case.vector(name, secrets))
    return out


@scheme_of("websub", "default")
def websub(scheme):
    secret, out = secret_for(scheme), []
    body = "<?xml version='1.0' encoding='UTF-8'?>\n<feed xmlns=\"http://www.w3.org/2005/Atom\"><title>Müsli &amp; Ελλάδα</title></feed>\n".encode()
    for n, bits in enumerate(("sha1", "sha256", "sha384", "sha512"), 1):
        case = Case(scheme, n, body=body, content_type="application/atom+xml")
        out.append(case.send(f"{bits}={mac(secret, body, bits).hex()}").vector(f"default-{bits}", [secret]))
    return out


@scheme_of("worldpay", "default")
def worldpay(scheme):
    secret, old, out = secret_for(scheme), secret_for(scheme, "old"), []
    for n, (name, items) in enumerate([("default-1", [("key-2", secret)]), ("default-other-key-first", [("key-1", old), ("key-2", secret)])], 1):
        case = Case(scheme, n)
        case.params = {"key_id": "key-2"}
        case.send(",".join(f"{k}/SHA256/{mac(s, case.request.body).hex()}" for k, s in items))
        out.append(case.vector(name, [secret]))
    return out


# ---- what else is in the text ------------------------------------------------------------------------------------

@scheme_of("mercado-pago", "default")
def mercado(scheme):
    secret, out = secret_for(scheme), []
    for n, (name, query, request_id, stamp) in enumerate([
            ("default-1", "?data.id=abc123def&type=payment", "c7a3-req", str(SENT)), ("default-mixed-case-id", "?data.id=ABC123Def&type=payment", "c7a6-req", str(SENT)), ("default-no-request-id", "?data.id=98765&type=payment", None, str(SENT)),
            ("default-no-data-id", "?type=test", "c7a4-req", str(SENT)), ("default-milliseconds", "?type=payment&data.id=1", "c7a5-req", f"{SENT}123")], 1):
        body = compact({"action": "payment.updated", "data": {"id": "ABC123Def"}, "user": "José Ñandú"})
        case = Case(scheme, n, body=body, url=url_of(scheme, query), time=stamp)
        case.request.headers = [h for h in case.request.headers if h[0].lower() != "x-request-id"]
        if request_id:
            case.request.add("x-request-id", request_id)
        case.send(wrap(scheme, [case.tag(secret)], case.time))
        out.append(case.vector(name, [secret]))
    return out


@scheme_of("messagebird", "hmac")
def messagebird_hmac(scheme):
    secret, out = secret_for(scheme), []
    for n, query in ((1, "?b=2&a=1&z=hallo"), (2, "")):
        case = Case(scheme, n, url=url_of(scheme, query))
        out.append(case.send(case.tag(secret)).vector(f"hmac-{n}", [secret]))
    case = Case(scheme, 3, body=b"", method="GET", url=url_of(scheme, "?recipient=31612345678&status=delivered"), content_type=None)
    out.append(case.send(case.tag(secret)).vector("hmac-empty-body", [secret]))
    return out


@scheme_of("plivo", "v3")
def plivo(scheme):
    secret, out = secret_for(scheme), []

    def one(name, method, query, pairs):
        base, nonce = url_of(scheme), f"0573{len(out)}82619"
        group = lambda items, text: [text(k, v) for k in sorted({k for k, _ in items}) for v in sorted(v for n, v in items if n == k)]
        signed = base
        if method == "GET":
            joined = "&".join(group(query + pairs, lambda k, v: f"{k}={v}"))
            signed += f"?{joined}" if joined else ""
        else:
            joined = "&".join(group(query, lambda k, v: f"{k}={v}"))
            signed += f"?{joined}" if joined or pairs else ""
            signed += "." if joined and pairs else ""
            signed += "".join(group(pairs, lambda k, v: k + v))
        target = "?" + urllib.parse.urlencode(query) if query else ""
        case = Case(scheme, len(out) + 1, body=bodies.form(pairs) if method == "POST" else b"", method=method, url=base + target,
                    content_type=FORM if method == "POST" else None)
        case.request.headers = [h for h in case.request.headers if "Nonce" not in h[0]]
        case.request.add("X-Plivo-Signature-V3-Nonce", nonce)
        good = b64(mac(secret, f"{signed}.{nonce}"))
        other = b64(mac("retired", f"{signed}.{nonce}"))
        case.send(f"{other},{good}" if name == "v3-two-signatures" else good)
        out.append(case.vector(name, [secret], public_url=True, event=nonce))

    pairs = [("To", "4915112345678"), ("From", "18005551212"), ("CallUUID", "a-b-c"), ("Event", "Hangup"), ("A", "2"), ("A", "1")]
    one("v3-post", "POST", [], pairs)
    one("v3-post-with-query", "POST", [("b", "2"), ("a", "1")], pairs)
    one("v3-get", "GET", [("To", "49151"), ("From", "1800"), ("CallUUID", "a-b-c")], [])
    one("v3-two-signatures", "POST", [], pairs)
    one("v3-post-non-ascii", "POST", [], [("Text", "Grüße 👋"), ("From", "+49 151")])
    return out


@scheme_of("contentful", "default")
def contentful(scheme):
    secret, out = secret_for(scheme), []
    for n, target in ((1, "/webhooks/contentful"), (2, "/webhooks/contentful/größe?x=1&y=a b".replace(" ", "%20").replace("ö", "%C3%B6").replace("ß", "%C3%9F"))):
        case = Case(scheme, n, content_type="application/vnd.contentful.management.v1+json", url=HOST + target)
        case.request.add("X-Contentful-Topic", "ContentManagement.Entry.publish")
        listed = ["content-type", "x-contentful-signed-headers", "x-contentful-timestamp", "x-contentful-topic"]
        case.request.add("x-contentful-signed-headers", ",".join(listed))
        path, _, query = target.partition("?")
        path = urllib.parse.quote(path, safe="/:@!$&'()*+,;=~#-._")
        if query:
            path += "?" + urllib.parse.quote(urllib.parse.quote(query, safe="!'()*-._~"), safe="/:@!$&'()*+,;=~#-._")
        headers = ";".join(f"{name}:{case.request.header(name).strip()}" for name in listed)
        text = f"{case.request.method}\n{path}\n{headers}\n".encode() + case.request.body
        out.append(case.send(mac(secret, text).hex()).vector(f"default-{n}", [secret]))
    return out


@scheme_of("hubspot", "v3")
def hubspot(scheme):
    secret, out = secret_for(scheme), []
    for n, rest in ((1, ""), (2, "?portal=1&next=%2Fa%3Ab%40c%2Cd%24e")):
        case = Case(scheme, n, url=url_of(scheme, rest))
        if n == 1:
            signed = case.request.url
        else:  # as the documentation asks: these sixteen come back decoded
            signed = case.request.url
            for code, char in {"%3A": ":", "%2F": "/", "%3F": "?", "%40": "@", "%21": "!", "%24": "$", "%27": "'", "%28": "(", "%29": ")",
                               "%2A": "*", "%2C": ",", "%3B": ";"}.items():
                signed = signed.replace(code, char)
        text = case.request.method.encode() + signed.encode() + case.request.body + case.time.encode()
        case.send(b64(mac(secret, text)))
        out.append(case.vector("v3-1" if n == 1 else "v3-decoded-url", [secret], public_url=True))
    return out


@scheme_of("hygraph", "default")
def hygraph(scheme):
    secret, out = secret_for(scheme), []
    for n, style in ((1, "compact"), (2, "crlf")):
        case = Case(scheme, n, style=style)
        text = json.dumps({"Body": case.request.body.decode(), "EnvironmentName": "master", "TimeStamp": int(case.time)}, ensure_ascii=False, separators=(",", ":"))
        case.send(f"sign={b64(mac(secret, text))}, env=master, t={case.time}")
        out.append(case.vector(f"default-{n}", [secret]))
    return out


def es_number(value):
    """A number as ECMAScript writes it; enough for the numbers that occur here."""
    if isinstance(value, int) or value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return repr(value).replace("e-0", "e-")


def jcs(value):
    """RFC 8785: keys by UTF-16 code units, no blanks."""
    if isinstance(value, dict):
        return "{" + ",".join(json.dumps(k, ensure_ascii=False) + ":" + jcs(value[k]) for k in sorted(value, key=lambda k: k.encode("utf-16-be"))) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(jcs, value)) + "]"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return es_number(value)
    return json.dumps(value, ensure_ascii=False)


@scheme_of("inngest", "default")
def inngest(scheme):
    raw, out = secret_text("inngest", "default", "hex"), []
    secret = f"signkey-test-{raw}"
    document = {"event": {"name": "user/größe.changed", "data": {"z": 1, "a": [1.5, 12.0, 1e-7, 1e21], "B": None, "€": True, "\U0001f600": "x", "\ufb33": "y"}, "ts": SENT * 1000}, "ctx": {"run_id": "01H08S"}}
    for n, (name, body) in enumerate((("default-canonical-body", jcs(document).encode()), ("default-body-out-of-order", json.dumps(document, ensure_ascii=False, indent=2).encode())), 1):
        case = Case(scheme, n, body=body)
        case.send(f"t={case.time}&s={mac(raw, jcs(document) + case.time).hex()}")
        out.append(case.vector(name, [secret]))
    out.append(case.vector("default-fallback-key", ["signkey-prod-" + secret_text("inngest", "other", "hex"), secret]))
    return out


@scheme_of("moralis", "default")
def moralis(scheme):
    secret, out = secret_for(scheme), []
    for n in (1, 2, 3):
        body = compact({"confirmed": n == 1, "chainId": "0x1", "tag": "größe " * (1 if n == 1 else 60), "txs": [{"hash": "0x" + "ab" * 32, "value": "1000000000000000000"}]})
        if n == 3:  # the last block of the sponge is exactly full but one byte
            fill = (-len(body) - len(secret) - 1) % 136
            body = body[:-1] + b',"n":"' + b"x" * ((fill - 7) % 136) + b'"}'
            assert (len(body) + len(secret) + 1) % 136 == 0
        case = Case(scheme, n, body=body)
        out.append(case.send("0x" + keccak256(body + secret.encode()).hex()).vector(f"default-{n}" if n < 3 else "default-last-byte-of-block", [secret]))
    return out


@scheme_of("unisender-go", "default")
def unisender(scheme):
    secret, out = secret_for(scheme), []
    for n, style in ((1, "compact"), (2, "pretty")):
        document = {"auth": secret, "events_by_user": [{"user_id": 456, "events": [{"event_name": "transactional_email_status", "event_data": {"email": "почта@пример.example", "status": "sent"}}]}]}
        if n == 2:
            document = {"before": "x", **document}
        text = bodies.dump(document, style)
        body = text.replace(secret.encode(), hashlib.md5(text).hexdigest().encode())
        out.append(Case(scheme, n, body=body).vector(f"default-{n}", [secret]))
    return out


def gzip_stored(data):
    """gzip without compression: the same bytes with every version of zlib."""
    block = b"".join([b"\x01", len(data).to_bytes(2, "little"), (len(data) ^ 0xFFFF).to_bytes(2, "little"), data])
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + block + zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")


@scheme_of("stream", "default")
def stream(scheme):
    out, secret = make(scheme), secret_for(scheme)
    case = Case(scheme, 3)
    value, case.request.body = case.tag(secret), gzip_stored(case.request.body)
    case.request.add("Content-Encoding", "gzip")
    return out + [case.send(value).vector("default-gzip-signed-before-compression", [secret])]


@scheme_of("nylas", "default")
def nylas(scheme):
    out, secret = make(scheme), secret_for(scheme)
    case = Case(scheme, 3)
    case.request.body = gzip_stored(case.request.body)
    case.request.add("Content-Encoding", "gzip")
    return out + [case.send(case.tag(secret)).vector("default-gzip-signed-as-sent", [secret])]


# ---- public keys -------------------------------------------------------------------------------------------------

@scheme_of("aws-sns", "v1", "v2")
def sns(scheme):
    name, out = scheme["scheme"], []
    url = "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem"
    certificate = keys.certificate("sns.crt.pem", "sns.amazonaws.com")
    topic = "arn:aws:sns:eu-central-1:123456789012:countersign"
    for n, kind in enumerate(("Notification", "Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"), 1):
        data = {"Type": kind, "MessageId": f"22b80b92-fdea-4c2c-8f9d-bdfb0c7bf32{n}", "TopicArn": topic,
                "Message": "{\"text\":\"Grüße\",\n\"n\":1}", "Timestamp": "2025-11-24T16:00:00.123Z", "SignatureVersion": name[1:], "SigningCertURL": url}
        if n == 1:
            data["Subject"] = "Größe: neu"
        if kind == "Notification":
            listed = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]
            data["UnsubscribeURL"] = f"https://sns.eu-central-1.amazonaws.com/?Action=Unsubscribe&SubscriptionArn={topic}:c9135db0"
        else:
            listed = ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
            data["Token"] = "2336412f37fb687f5d51e6e241d09c805a5a57b30d712f794cc5f6a988666d92"
            data["SubscribeURL"] = f"https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={topic}&Token=2336412f"
        text = "".join(f"{key}\n{data[key]}\n" for key in listed if key in data)
        data["Signature"] = b64(keys.rsa_sign("rsa", text.encode(), "sha256" if name == "v2" else "sha1"))
        case = Case(scheme, n, body=json.dumps(data, ensure_ascii=False, indent=2).encode(), content_type="text/plain; charset=UTF-8")
        case.request.add("x-amz-sns-message-type", kind)
        case.request.add("x-amz-sns-topic-arn", topic)
        case.params = {"topic_arn": topic}
        label = {1: "1", 2: "no-subject", 3: "subscription", 4: "unsubscription"}[n]
        out.append(case.vector(f"{name}-{label}", [], source=SCRIPT_KEYS, fetched={url: certificate}))
        if n == 1:
            out.append(case.vector(f"{name}-pinned", [certificate], source=SCRIPT_KEYS))
    return out


@scheme_of("paypal", "default")
def paypal(scheme):
    out, url = [], "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-7a8abba8"
    certificate = keys.certificate("paypal.crt.pem", "messageverificationcerts.paypal.com", organisation="PayPal, Inc.")
    for n in (1, 2):
        case = Case(scheme, n, time="2025-11-24T16:00:00Z")
        case.params = {"webhook_id": "4JH86294D6297924G"}
        text = f"{case.delivery}|{case.time}|4JH86294D6297924G|{zlib.crc32(case.request.body)}"
        case.request.add("PAYPAL-AUTH-ALGO", "SHA256withRSA")
        case.request.add("PAYPAL-CERT-URL", url)
        case.send(b64(keys.rsa_sign("rsa", text.encode(), "sha256")))
        out.append(case.vector(f"default-{n}", [], source=SCRIPT_KEYS, fetched={url: certificate + keys.authority()}, event=case.delivery))
    out.append(case.vector("default-pinned", [certificate], source=SCRIPT_KEYS, event=case.delivery))
    return out


@scheme_of("circle", "v2")
def circle(scheme):
    out, key_id = [], "879dc113-5ca4-4ff7-a6b7-54652083fcf8"
    answer = json.dumps({"data": {"id": key_id, "algorithm": "ECDSA_SHA_256", "publicKey": keys.public_der_base64("p256"), "createDate": "2025-01-01T00:00:00Z"}})
    for n in (1, 2):
        case = Case(scheme, n)
        case.request.add("X-Circle-Key-Id", key_id)
        case.send(case.tag(None, "p256"))
        out.append(case.vector(f"v2-{n}", [], source=SCRIPT_KEYS, fetched={f"https://api.circle.com/v2/notifications/publicKey/{key_id}": answer}))
    out.append(case.vector("v2-pinned", [keys.public_der_base64("p256")], source=SCRIPT_KEYS))
    return out


@scheme_of("fal", "default")
def fal(scheme):
    out, document = [], keys.jwks(keys.jwk("ed25519-other"), keys.jwk("ed25519"))
    for n in (1, 2):
        case = Case(scheme, n)
        case.request.add("X-Fal-Webhook-User-Id", "auth0|6602")
        case.send(case.tag(None, "ed25519"))
        out.append(case.vector(f"default-{n}", [], source=SCRIPT_KEYS, fetched={"https://rest.alpha.fal.ai/.well-known/jwks.json": document}))
    out.append(case.vector("default-pinned", [document], source=SCRIPT_KEYS))
    return out


@scheme_of("sendgrid", "default")
def sendgrid(scheme):
    out = []
    events = [{"email": "jörg@example.org", "event": "delivered", "sg_event_id": "ZHJvcC0x", "timestamp": SENT}, {"email": "b@example.org", "event": "open", "sg_event_id": "b3Bl", "timestamp": SENT}]
    for n, body in enumerate((compact(events) + b"\r\n", b"[" + b",\r\n".join(compact(e) for e in events) + b"]\r\n"), 1):
        case = Case(scheme, n, body=body)
        out.append(case.send(case.tag(None, "p256")).vector(f"default-{n}", [keys.public_der_base64("p256")], source=SCRIPT_KEYS))
    return out


@scheme_of("fireblocks", "v2")
def fireblocks(scheme):
    out, document = [], keys.jwks(keys.jwk("rsa-other", "fb-old", "RS512"), keys.jwk("rsa", "fb-now", "RS512"))
    for n in (1, 2):
        case = Case(scheme, n)
        head = b64url(json.dumps({"alg": "RS512", "kid": "fb-now"}, separators=(",", ":")))
        case.send(f"{head}..{b64url(jws_sign(f'{head}.{b64url(case.request.body)}'.encode(), 'rsa', 'RS512'))}")
        out.append(case.vector(f"v2-{n}", [], source=SCRIPT_KEYS, fetched={"https://keys.fireblocks.io/.well-known/jwks.json": document}))
    out.append(case.vector("v2-pinned", [document], source=SCRIPT_KEYS))
    return out


@scheme_of("saleor", "jws")
def saleor(scheme):
    out, document = [], keys.jwks(keys.jwk("rsa-other", "0"), keys.jwk("rsa", "1", "RS256"))
    for n in (1, 2):
        case = Case(scheme, n)
        case.request.add("Saleor-Domain", "shop.saleor.example")
        case.request.add("Saleor-Event", "order_created")
        head = b64url(json.dumps({"typ": "JWT", "alg": "RS256", "kid": "1", "b64": False, "crit": ["b64"]}, separators=(",", ":")))
        case.send(f"{head}..{b64url(jws_sign(head.encode() + b'.' + case.request.body, 'rsa', 'RS256'))}")
        case.params = {"jwks_url": "https://shop.saleor.example/.well-known/jwks.json"}
        out.append(case.vector(f"jws-{n}", [], source=SCRIPT_KEYS, fetched={"https://shop.saleor.example/.well-known/jwks.json": document}))
    case.params = {}
    out.append(case.vector("jws-pinned", [document], source=SCRIPT_KEYS))
    return out


@scheme_of("truelayer", "default")
def truelayer(scheme):
    out, document = [], keys.jwks(keys.jwk("p521", "tl-now", "ES512"))
    url = "https://webhooks.truelayer.com/.well-known/jwks"
    for n, path in ((1, "/webhooks/truelayer"), (2, "/webhooks/truelayer/ä".replace("ä", "%C3%A4"))):
        case = Case(scheme, n, url=HOST + path)
        listed = ["X-Tl-Webhook-Timestamp"] + (["Content-Type"] if n == 2 else [])
        head = b64url(json.dumps({"alg": "ES512", "kid": "tl-now", "tl_version": "2", "tl_headers": ",".join(listed), "jku": url}, separators=(",", ":")))
        text = f"POST {path}\n".encode() + b"".join(f"{h}: {case.request.header(h)}\n".encode() for h in listed) + case.request.body
        case.send(f"{head}..{b64url(jws_sign(f'{head}.{b64url(text)}'.encode(), 'p521', 'ES512'))}")
        out.append(case.vector(f"default-{n}", [], source=SCRIPT_KEYS, fetched={url: document}))
    out.append(case.vector("default-pinned", [document], source=SCRIPT_KEYS))
    return out


@scheme_of("mailchannels", "default")
def mailchannels(scheme):
    out, key_id = [], "mckey"
    answer = json.dumps({"id": key_id, "key": keys.public_der_base64("ed25519")})
    for n in (1, 2):
        case = Case(scheme, n)
        digest = f"sha-256=:{b64(sha(case.request.body))}:"
        inputs = f"(\"content-digest\");created={SENT};alg=\"ed25519\";keyid=\"{key_id}\""
        base = f"\"content-digest\": {digest}\n\"@signature-params\": {inputs}"
        case.request.add("Content-Digest", digest)
        case.request.add("Signature-Input", f"sig_{SENT}={inputs}")
        case.send(f"sig_{SENT}=:{b64(keys.ed25519_sign('ed25519', base.encode()))}:")
        out.append(case.vector(f"default-{n}", [], source=SCRIPT_KEYS, fetched={f"https://api.mailchannels.net/tx/v1/webhook/public-key?id={key_id}": answer}))
    out.append(case.vector("default-pinned", [keys.public_der_base64("ed25519")], source=SCRIPT_KEYS))
    return out


@scheme_of("standard-webhooks", "v1a")
def v1a(scheme):
    from plain import public_key
    secret, out = public_key(scheme, "ed25519"), []
    for n, extra in ((1, ""), (2, "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4= ")):
        case = Case(scheme, n)
        case.send(f"{extra}v1a,{case.tag(None, 'ed25519')}")
        out.append(case.vector(f"v1a-{n}" if n == 1 else "v1a-beside-v1", [secret], source=SCRIPT_KEYS))
    return out


SPECIAL["svix", "v1a"] = v1a


# ---- JWT ---------------------------------------------------------------------------------------------------------

@scheme_of("livekit", "default")
def livekit(scheme):
    secret, out = secret_for(scheme), []
    for n in (1, 2):
        case = Case(scheme, n, content_type="application/webhook+json")
        claims = {"iss": "APItestcountersign", "nbf": SENT - 5, "exp": SENT + 300, "sha256": b64(sha(case.request.body))}
        case.params = {"api_key": "APItestcountersign"}
        out.append(case.send(jwt(claims, secret)).vector(f"default-{n}", [secret]))
    return out


@scheme_of("messagebird", "jwt")
def messagebird(scheme):
    secret, out = secret_for(scheme), []
    for n, (name, alg, body, method) in enumerate((("jwt-1", "HS256", None, "POST"), ("jwt-hs384", "HS384", None, "POST"), ("jwt-hs512", "HS512", None, "POST"), ("jwt-empty-body", "HS256", b"", "GET")), 1):
        case = Case(scheme, n, body=body, method=method, url=url_of(scheme, "?a=1&b=%C3%A9"), content_type="application/json" if body is None else None)
        claims = {"iss": "MessageBird", "nbf": SENT - 1, "exp": SENT + 60, "jti": case.delivery, "url_hash": sha(case.request.url.encode()).hex()}
        if case.request.body:
            claims["payload_hash"] = sha(case.request.body).hex()
        out.append(case.send(jwt(claims, secret, alg)).vector(name, [secret], public_url=True, claims=claims))
    return out


@scheme_of("monday", "jwt")
def monday(scheme):
    secret = secret_for(scheme)
    case = Case(scheme)
    case.send(jwt({"accountId": 1825529, "userId": 4012689, "aud": url_of(scheme), "exp": SENT + 300, "iat": SENT - 5, "shortLivedToken": "x"}, secret))
    return [case.vector("jwt-1", [secret], public_url=True)]


@scheme_of("netlify", "default")
def netlify(scheme):
    secret, out = secret_for(scheme), []
    for n in (1, 2):
        case = Case(scheme, n)
        out.append(case.send(jwt({"iss": "netlify", "sha256": sha(case.request.body).hex()}, secret)).vector(f"default-{n}", [secret]))
    return out


@scheme_of("qstash", "default")
def qstash(scheme):
    current, following, out = "sig_" + secret_text("qstash", "default")[10:], "sig_" + secret_text("qstash", "next")[10:], []
    for n, (name, signer, pad) in enumerate((("default-1", current, "="), ("default-claim-without-padding", current, ""), ("default-next-key", following, "=")), 1):
        case = Case(scheme, n)
        claims = {"iss": "Upstash", "sub": case.request.url, "exp": SENT + 300, "nbf": SENT, "iat": SENT, "jti": f"jwt_{n}abcDEF", "body": b64url(sha(case.request.body)) + pad}
        out.append(case.send(jwt(claims, signer)).vector(name, [current, following], public_url=True, claims=claims))
    return out


@scheme_of("vonage", "jwt")
def vonage(scheme):
    secret, out = secret_for(scheme), []
    for n in (1, 2):
        case = Case(scheme, n)
        claims = {"iat": SENT, "jti": case.delivery, "iss": "Vonage", "payload_hash": sha(case.request.body).hex(), "api_key": "a1b2c3d4", "application_id": "aaaaaaaa-bbbb-cccc-dddd-0123456789ab"}
        if n == 2:
            del claims["payload_hash"]
        name = "jwt-1" if n == 1 else "jwt-without-body-hash"
        out.append(case.send("Bearer " + jwt(claims, secret)).vector(name, [secret], claims=claims))
    return out


@scheme_of("gong", "default")
def gong(scheme):
    out = []
    for n in (1, 2):
        case = Case(scheme, n)
        claims = {"iss": "gong", "webhook_url": case.request.url, "body_sha256": sha(case.request.body).hex(), "iat": SENT, "exp": SENT + 300}
        out.append(case.send(jwt(claims, "rsa", "RS256")).vector(f"default-{n}", [keys.public_pem("rsa")], source=SCRIPT_KEYS, public_url=True))
    return out


@scheme_of("fusionauth", "default")
def fusionauth(scheme):
    out, secret, url = [], secret_for(scheme), "https://auth.example.org/.well-known/jwks.json"
    document = keys.jwks(keys.jwk("rsa", "fa-rsa", "RS256"), keys.jwk("p256", "fa-ec", "ES256"), keys.jwk("p521", "fa-ec-521", "ES512"))
    for n, (name, alg, key, kid) in enumerate((("default-hs256", "HS256", secret, "fa-hs"), ("default-hs512", "HS512", secret, "fa-hs"), ("default-rs256", "RS256", "rsa", "fa-rsa"),
                                               ("default-es256", "ES256", "p256", "fa-ec"), ("default-es512", "ES512", "p521", "fa-ec-521")), 1):
        case = Case(scheme, n)
        case.send(jwt({"request_body_sha256": b64(sha(case.request.body))}, key, alg, kid=kid))
        if alg.startswith("HS"):
            out.append(case.vector(name, [secret]))
        else:
            case.params = {"jwks_url": url}
            out.append(case.vector(name, [], source=SCRIPT_KEYS, fetched={url: document}))
    case.params = {}
    out.append(case.vector("default-pinned", [document], source=SCRIPT_KEYS))
    return out


@scheme_of("azure-event-grid", "entra-jwt")
def entra(scheme):
    tenant, audience, out = "84bd8158-6d4d-4958-8b9f-9d6445542f95", "api://countersign-test", []
    document = keys.jwks(keys.jwk("rsa-other", "entra-old"), keys.jwk("rsa", "entra-now"))
    issuer = f"https://login.microsoftonline.com/{tenant}/v2.0"
    claims = {"aud": audience, "iss": issuer, "iat": SENT - 60, "nbf": SENT - 60, "exp": SENT + 3600, "azp": "4962773b-9cdb-44cf-a8bf-237846a00ab7", "tid": tenant, "ver": "2.0"}
    case = Case(scheme, 1)
    case.params = {"audience": audience, "issuer": issuer, "tenant": tenant}
    case.send("Bearer " + jwt(claims, "rsa", "RS256", kid="entra-now"))
    return [case.vector("entra-jwt-1", [], source=SCRIPT_KEYS, fetched={"https://login.microsoftonline.com/common/discovery/v2.0/keys": document, f"https://login.microsoftonline.com/{tenant}/discovery/v2.0/keys": document}),
            case.vector("entra-jwt-pinned", [document], source=SCRIPT_KEYS)]


@scheme_of("google-pubsub", "oidc")
def pubsub(scheme):
    document = keys.jwks(keys.jwk("rsa-other", "google-old"), keys.jwk("rsa", "google-now", "RS256"))
    email = "push@countersign-test.iam.gserviceaccount.com"
    claims = {"aud": url_of(scheme), "azp": "113774264463038321964", "email": email, "email_verified": True, "exp": SENT + 3600, "iat": SENT, "iss": "https://accounts.google.com", "sub": "113774264463038321964"}
    body = compact({"message": {"data": b64("Grüße".encode()), "messageId": "2070443601311540", "attributes": {"größe": "l"}}, "subscription": "projects/p/subscriptions/s"})
    case = Case(scheme, 1, body=body)
    case.params = {"audience": url_of(scheme), "email": email}
    case.send("Bearer " + jwt(claims, "rsa", "RS256", kid="google-now"))
    return [case.vector("oidc-1", [], source=SCRIPT_KEYS, fetched={"https://www.googleapis.com/oauth2/v3/certs": document}),
            case.vector("oidc-pinned", [document], source=SCRIPT_KEYS)]


@scheme_of("zoho-desk", "default")
def zoho(scheme):
    url, document = "https://desk.zoho.example/api/v1/webhooks/keys", keys.jwks(keys.jwk("rsa", "zd-1", "RS256"))
    case = Case(scheme, 1)
    case.params = {"jwks_url": url, "audience": "4000000012345", "issuer": "60001234567"}
    case.send(jwt({"aud": "4000000012345", "iss": "60001234567", "iat": SENT, "exp": SENT + 300}, "rsa", "RS256", kid="zd-1"))
    first = case.vector("default-1", [], source=SCRIPT_KEYS, fetched={url: document})
    case.params = {"audience": "4000000012345", "issuer": "60001234567"}
    return [first, case.vector("default-pinned", [document], source=SCRIPT_KEYS)]


@scheme_of("plaid", "default")
def plaid(scheme):
    out, key_id = [], "bfbd5111-8e33-4643-8ced-b2e642a72f3c"
    key = dict(keys.jwk("p256", key_id, "ES256"), created_at=SENT - 86400, expired_at=None)
    answer = json.dumps({"key": key, "request_id": "RZ6Omi1bzzwDaLo"})
    for n in (1, 2):
        case = Case(scheme, n, style="pretty")
        case.send(jwt({"iat": SENT, "request_body_sha256": sha(case.request.body).hex()}, "p256", "ES256", kid=key_id))
        out.append(case.vector(f"default-{n}", [], source=SCRIPT_KEYS, fetched={"https://production.plaid.com/webhook_verification_key/get": answer}))
    out.append(case.vector("default-pinned", [json.dumps(key, separators=(",", ":"))], source=SCRIPT_KEYS))
    return out


@scheme_of("kinde", "default")
def kinde(scheme):
    url, out = "https://countersign-test.kinde.com/.well-known/jwks.json", []
    document = keys.jwks(keys.jwk("rsa", "kinde-1", "RS256"))
    for n, kind in ((1, "user.created"), (2, "user.updated")):
        claims = {"type": kind, "event_id": f"event_019{n}", "event_timestamp": "2025-11-24T16:00:00.000000Z", "source": "admin", "data": {"user": {"first_name": "Zoë", "last_name": "Müller", "email": "zoe@example.org"}}}
        case = Case(scheme, n, body=jwt(claims, "rsa", "RS256", kid="kinde-1").encode(), content_type="application/jwt")
        case.params = {"jwks_url": url}
        out.append(case.vector(f"default-{n}", [], source=SCRIPT_KEYS, fetched={url: document}, event=claims["event_id"]))
    case.params = {}
    out.append(case.vector("default-pinned", [document], source=SCRIPT_KEYS, event=claims["event_id"]))
    return out
