"""Vectors of the schemes that table.py describes in full: HMAC, plain digests, tokens, basic auth, pinned public keys."""
import base64
import hashlib
import json
import uuid

import bodies
import keys
from engine import HASH, Request, basic, key_bytes, render, tag, wrap
from vector import HOST, SCRIPT, SCRIPT_KEYS, SENT, secret_text, vector

CONTENT_JSON = ["Content-Type", "application/json"]
TIMES = {"s": str(SENT), "ms": f"{SENT}123", "rfc3339": "2025-11-24T16:00:00Z"}
EXACT_TIMES = {"twitch": "2025-11-24T16:00:00.634234626Z", "kick": "2025-11-24T16:00:00Z", "zendesk": "2025-11-24T16:00:00Z"}
PINNED = {"ed25519": "ed25519", "ecdsa-p256-sha256-der": "p256"}
ESCAPED = {"whatsapp", "meta", "sentry"}  # send JSON with non-ASCII and slashes escaped
SECRETS = {  # shape of the secret where it is not just text
    "stripe": "whsec_{std}", "coinbase-commerce": "{uuid}", "gocardless": "{uuid}", "slack": "{hex}", "polar": "polar_whs_{std}",
    "workos": "{text}", "shopify": "{hex}", "contentful": "{hex}", "easypost": "sécret-test-Åﬁ-{hex}",
    "line": "{hex}", "clickup": "{hex}", "mux": "{text}", "telegram": "{text}", "adyen": "{hex-upper}", "authorize-net": "{hex64}",
}


def secret_for(scheme, generation=""):
    provider, name, how = scheme["provider"], scheme["scheme"], scheme["key"]
    text = lambda kind: secret_text(provider, name, kind, generation)
    if how == "hex" and provider not in SECRETS:
        return text("hex")
    if how == "base64":
        return text("base64")
    if how == "strip-prefix+base64":
        return scheme["key_prefix"] + text("std")
    shape = SECRETS.get(provider, "{text}") if scheme["alg"] not in ("token-equality",) else "{text}"
    kinds = {"std": text("std"), "hex": text("hex"), "hex-upper": text("hex-upper"), "hex64": text("hex64"), "text": text(""),
             "uuid": str(uuid.UUID(text("hex")[:32]))}
    for kind, value in kinds.items():
        shape = shape.replace("{" + kind + "}", value)
    return shape


def delivery_for(scheme, n):
    seed = hashlib.sha256(f"{scheme['provider']} {scheme['scheme']} {n}".encode())
    if "webhook-id" in str(scheme.get("id")) or "svix-id" in str(scheme.get("id")) or scheme["form"] == "versioned-list":
        return "msg_" + base64.b32encode(seed.digest()[:16]).decode().rstrip("=")
    return str(uuid.UUID(seed.hexdigest()[:32]))


class Case:
    """One request in the making."""

    def __init__(self, scheme, n=1, style=None, body=None, method="POST", url=None, content_type="application/json", sets=(), time=None):
        self.scheme, self.n, self.params = scheme, n, {}
        provider = scheme["provider"]
        self.delivery = delivery_for(scheme, n)
        self.time = time or EXACT_TIMES.get(provider) or TIMES.get(scheme.get("unit"))
        event = scheme.get("event") or ""
        sets = list(sets)
        if event.startswith("json:/") and body is None:
            value = 918273645 + n if provider == "telegram" else f"evt_{n}_{hashlib.sha256(provider.encode()).hexdigest()[:20]}"
            sets.append((event[5:], value))
        if scheme["time"].startswith("json:/") and body is None:
            sets.append((scheme["time"][5:], int(self.time) if scheme["unit"] == "ms" else self.time))
        if body is None:
            shift = int(hashlib.sha256(provider.encode()).hexdigest(), 16) % 5
            style = style or ("ascii" if provider in ESCAPED and (n == 1 or provider == "whatsapp") else None) or bodies.STYLES[(shift + 2 * (n - 1)) % 5]
            body = bodies.dump(bodies.document(provider, sets), style)
        url = url or f"{HOST}/webhooks/{provider}"
        self.request = Request(url[len(HOST):] if url.startswith(HOST) else "/", body, method, [], url)
        if content_type:
            self.request.add("Content-Type", content_type)
        if event.startswith("header:"):
            self.request.add(event[7:], self.delivery)
        if scheme.get("id") and self.request.header(scheme["id"]) is None:
            self.request.add(scheme["id"], self.delivery)
        if scheme["time"].startswith("header:"):
            self.request.add(scheme["time"][7:], self.time)

    def tag(self, secret, key=None):
        message = render(self.scheme["content"], self.request, secret, self.time, self.delivery, self.params)
        if key is None and self.scheme["alg"] in HASH:
            key = key_bytes(self.scheme, secret, self.params)
        return tag(self.scheme, message, key)

    def send(self, value, name=None):
        self.request.add(name or self.scheme["name"], value)
        return self

    def vector(self, name, secrets, **rest):
        signed = self.scheme["content"]
        if "{url" in signed:
            rest.setdefault("public_url", True)
        return vector(self.scheme, name, self.request, secrets, params=self.params, delivery=self.delivery, **rest)


def public_key(scheme, key):
    how = scheme["key"]
    if how == "hex":
        return keys.public_raw(key).hex()
    if how == "base64":
        return base64.b64encode(keys.public_raw(key)).decode()
    if how == "strip-prefix+base64":
        return scheme["key_prefix"] + base64.b64encode(keys.public_raw(key)).decode()
    if how == "spki-base64-der":
        return keys.public_der_base64(key)
    if how == "pem":
        return keys.public_pem(key)
    raise ValueError(how)


def is_plain(scheme):
    return (scheme["form"] in ("plain", "prefixed", "kv-list", "versioned-list", "positional-list", "basic")
            and scheme["at"] in ("header", "query") and scheme.get("keys", "static-published") == "static-published")


def alias(scheme, other):
    """The same scheme under its other header name (and, for Svix, the other trio)."""
    out = dict(scheme, name=other)
    if scheme["provider"] == "svix":
        out.update(time="header:webhook-timestamp", id="webhook-id", event="header:webhook-id")
    return out


def tokens(scheme):
    name = scheme["scheme"]
    secret = secret_for(scheme)
    if scheme["form"] == "basic":
        out = []
        for n, pair in enumerate(["countersign:" + secret, "hook-user:pa:ss wörd ✓"], 1):
            out.append(Case(scheme, n).send(basic(pair)).vector(f"{name}-{n}", [pair]))
        return out
    target = {}
    field = scheme["name"]
    if scheme["at"] == "query":
        field = "token" if field != "{param:query}" else "key"
        case = Case(scheme, url=f"{HOST}/webhooks/{scheme['provider']}?{field}={secret}")
        if scheme["name"] == "{param:query}":
            target = {"query": field}
    else:
        case = Case(scheme)
        if scheme["provider"] == "google-drive-calendar":
            case.request.body = b""
            case.request.headers = [["Content-Length", "0"], ["X-Goog-Channel-ID", "4ba78bf0-6a47-11e2-bcfd-0800200c9a66"],
                                    ["X-Goog-Resource-State", "exists"], ["X-Goog-Message-Number", "10"]]
        if field == "{param:header}":
            field, target = "X-Webhook-Token", {"header": "X-Webhook-Token"}
        value = (scheme.get("prefix") or "") + secret
        case.send(value, field)
    case.params = target
    return [case.vector(f"{name}-1", [secret])]


def make(scheme):
    if scheme["alg"] in ("token-equality", "basic-auth-equality"):
        return tokens(scheme)
    name, out = scheme["scheme"], []
    key = PINNED.get(scheme["alg"]) or ("rsa" if scheme["alg"].startswith("rsa") else None)
    secret = secret_for(scheme) if key is None else public_key(scheme, key)
    source = SCRIPT_KEYS if key else SCRIPT
    for n in (1, 2):
        case = Case(scheme, n)
        if scheme["provider"] == "surveymonkey":
            case.params = {"client_id": "SM-test-client"}
        for header in ("x-sinch-webhook-signature-nonce", "X-Plivo-Signature-V2-Nonce"):
            if "{header:" + header + "}" in scheme["content"] and not case.request.header(header):
                case.request.add(header, case.delivery)
        value = wrap(scheme, [case.tag(secret, key)], case.time)
        if scheme["at"] == "query":
            case.request.target += f"?{scheme['name']}={value}"
        else:
            case.send(value)
        out.append(case.vector(f"{name}-{n}", [secret], source=source))
    for other in scheme.get("also", []):
        twin = alias(scheme, other)
        case = Case(twin, 3)
        case.send(wrap(twin, [case.tag(secret, key)], case.time))
        out.append(case.vector(f"{name}-alias-{other.lower()}", [secret], source=source))
    if scheme["multi"] == "any" and scheme["form"] in ("kv-list", "versioned-list", "positional-list") and key is None and scheme["provider"] != "circleci":
        retired = secret_for(scheme, "retired")
        case = Case(scheme, 4)
        case.send(wrap(scheme, [case.tag(retired), case.tag(secret)], case.time))
        out.append(case.vector(f"{name}-rotation", [secret]))
        case = Case(scheme, 5)
        case.send(wrap(scheme, [case.tag(secret)], case.time))
        out.append(case.vector(f"{name}-second-secret", [retired, secret]))
    return out
