"""Builds one vector, and guesses nothing: what is not said is left out."""
import base64
import hashlib
import json
import urllib.parse

from engine import as_text, pointer

NOW = 1764000002  # two seconds after the times that get signed
SENT = 1764000000  # 2025-11-24T16:00:00Z
SCRIPT = "makers/make.py (Python hmac and hashlib)"
SCRIPT_KEYS = "makers/make.py (Python, signed by cryptography)"
HOST = "https://hooks.example.org"


def secret_text(provider, scheme, kind="", generation=""):
    """Invented, but shaped like the provider's own."""
    seed = hashlib.sha256(f"countersign test only {provider} {scheme} {generation}".encode()).digest()
    seed += hashlib.sha256(seed).digest()
    if kind == "hex-upper":
        return seed[:32].hex().upper()
    if kind == "hex64":
        return seed.hex().upper()
    if kind == "hex":
        return seed[:32].hex()
    if kind == "base64":
        return base64.b64encode(seed[:32]).decode()
    if kind == "std":
        return base64.b64encode(seed[:24]).decode()
    return "test-only-" + base64.urlsafe_b64encode(seed[:24]).decode()


def event_id(source, request, delivery=None, claims=None):
    """The delivery id as the best source of this scheme shows it."""
    if not source:
        return delivery
    kind, _, name = source.partition(":")
    try:
        if kind == "header":
            return request.header(name)
        if kind == "form":
            return dict(request.form()).get(name)
        if kind == "json" and name.startswith("/"):
            return as_text(pointer(json.loads(request.body), name))
        if kind == "json-in-form":
            field, _, path = name.partition(":")
            return as_text(pointer(json.loads(dict(request.form())[field]), path))
        if kind == "claim":
            return (claims or {}).get(name)
    except (KeyError, IndexError, ValueError, TypeError, UnicodeDecodeError):
        return None
    return None


def vector(scheme, name, request, secrets, *, now=NOW, origin="script", source=SCRIPT, params=None, fetched=None,
           public_url=False, delivery=None, claims=None, event=None):
    out = {"id": name, "scheme": scheme["scheme"], "origin": origin, "source": source, "now": now, "secrets": list(secrets)}
    if params:
        out["params"] = dict(params)
    if public_url:
        out["public_url"] = request.url
    if fetched:
        out["fetched"] = dict(fetched)
    wire = {"method": request.method, "target": request.target, "headers": request.headers}
    try:
        wire["body"] = request.body.decode()
    except UnicodeDecodeError:
        wire["body_base64"] = base64.b64encode(request.body).decode()
    out["request"] = wire
    event = event if event is not None else event_id(scheme.get("event"), request, delivery, claims)
    if event:
        out["event_id"] = event
    return out


def path_of(url):
    parts = urllib.parse.urlsplit(url)
    return (parts.path or "/") + ("?" + parts.query if parts.query else "")
