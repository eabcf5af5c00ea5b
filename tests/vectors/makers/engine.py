"""Signs a request by one line of table.py. Plain Python: hmac, hashlib, base64, zlib, json; keys by `cryptography`.

This is written on its own and shares nothing with the gateway: when both agree, that says something.

Template tokens: {body} {timestamp} {id} {url} {url-without-query} {method} {header:N} {query:N} {form:N} {form-sorted-kv}
{query-sorted} {json:/POINTER} {secret} {param:N} {sha256-hex:body} {sha256-raw:body} {crc32-dec:body};
`{?query:N}...{/?}` is kept when N is there; `|lower` lower-cases.
"""
import base64
import hashlib
import hmac
import json
import re
import unicodedata
import urllib.parse
import zlib

from keys import ed25519_sign, ecdsa_sign, rsa_sign

HASH = {"hmac-sha1": "sha1", "hmac-sha256": "sha256", "hmac-sha512": "sha512"}


class Request:
    """What is on the wire, plus what the signer knows about it."""

    def __init__(self, target, body=b"", method="POST", headers=(), url=None):
        self.method, self.target, self.body, self.url = method, target, body, url
        self.headers = [list(h) for h in headers]

    def header(self, name):
        for key, value in self.headers:
            if key.lower() == name.lower():
                return value
        return None

    def add(self, name, value):
        self.headers.append([name, value])

    def query(self):
        return urllib.parse.parse_qsl(urllib.parse.urlsplit(self.target).query, keep_blank_values=True)

    def form(self):
        return urllib.parse.parse_qsl(self.body.decode(), keep_blank_values=True)


def pointer(document, path):
    """RFC 6901, for the plain paths that occur here."""
    for part in path.strip("/").split("/"):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def as_text(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value)


def key_bytes(scheme, secret, params):
    how = scheme["key"]
    if how == "utf8":
        return secret.encode()
    if how == "hex":
        return bytes.fromhex(secret)
    if how == "base64":
        return base64.b64decode(secret)
    if how == "strip-prefix+base64":
        assert secret.startswith(scheme["key_prefix"])
        return base64.b64decode(secret[len(scheme["key_prefix"]):])
    if how == "sha1-of-utf8":
        return hashlib.sha1(secret.encode()).digest()
    if how == "utf8-nfkd":
        return unicodedata.normalize("NFKD", secret).encode()
    if how.startswith("strip-regex:"):
        return re.sub(how.split(":", 1)[1], "", secret).encode()
    if how == "template:{client_id}&{client_secret}":
        return f"{params['client_id']}&{secret}".encode()
    raise ValueError(how)


def encode(raw, how):
    if how == "hex":
        return raw.hex()
    if how == "base64":
        return base64.b64encode(raw).decode()
    if how in ("base64url", "base64url-nopad"):
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")
    raise ValueError(how)


def render(template, request, secret, timestamp, delivery, params):
    """The signed bytes."""

    def optional(match):
        source, name, inner = match.groups()
        there = request.header(name) is not None if source == "header" else any(k == name for k, _ in request.query())
        return inner if there else ""

    template = re.sub(r"\{\?(\w+):([^}]+)\}(.*?)\{/\?\}", optional, template)
    out = b""
    for literal, token in re.findall(r"([^{]+)|\{([^}]+)\}", template):
        if literal:
            out += literal.encode()
            continue
        token, lower = (token[:-6], True) if token.endswith("|lower") else (token, False)
        kind, _, arg = token.partition(":")
        if token == "body":
            value = request.body
        elif token == "timestamp":
            value = timestamp
        elif token == "id":
            value = delivery
        elif token == "url":
            value = request.url
        elif token == "url-without-query":
            value = request.url.split("?", 1)[0]
        elif token == "method":
            value = request.method
        elif token == "secret":
            value = secret
        elif kind == "header":
            value = request.header(arg)
        elif kind == "query":
            value = dict(request.query())[arg]
        elif kind == "form":
            value = dict(request.form())[arg]
        elif token == "form-sorted-kv":
            value = "".join(k + v for k, v in sorted(request.form()))
        elif token == "query-sorted":
            value = urllib.parse.urlencode(sorted(request.query()))
        elif kind == "json":
            value = as_text(pointer(json.loads(request.body), arg))
        elif kind == "param":
            value = params[arg]
        elif token == "sha256-hex:body":
            value = hashlib.sha256(request.body).hexdigest()
        elif token == "sha256-raw:body":
            value = hashlib.sha256(request.body).digest()
        elif token == "crc32-dec:body":
            value = str(zlib.crc32(request.body) & 0xFFFFFFFF)
        else:
            raise ValueError(token)
        value = value.encode() if isinstance(value, str) else value
        out += value.lower() if lower else value
    return out


def tag(scheme, message, key):
    """The encoded signature of `message`; `key` is bytes, or the name of a key pair in keys/."""
    alg = scheme["alg"]
    if alg in HASH:
        raw = hmac.new(key, message, HASH[alg]).digest()
    elif alg in ("sha1", "sha256", "sha512", "md5"):
        raw = hashlib.new(alg, message).digest()
    elif alg == "ed25519":
        raw = ed25519_sign(key, message)
    elif alg == "ecdsa-p256-sha256-der":
        raw = ecdsa_sign(key, message, "sha256")
    elif alg.startswith("rsa-pkcs1v15-"):
        raw = rsa_sign(key, message, alg.rsplit("-", 1)[1])
    else:
        raise ValueError(alg)
    return encode(raw, scheme["enc"])


def wrap(scheme, signatures, timestamp, params=None):
    """The header value (or field) that carries these signatures."""
    form = scheme["form"]
    if form == "plain":
        assert len(signatures) == 1
        return signatures[0]
    if form == "prefixed":
        assert len(signatures) == 1
        return scheme["prefix"] + signatures[0]
    if form == "versioned-list":
        return scheme["sep"].join(scheme["sig"] + scheme["kv"] + s for s in signatures)
    if form == "kv-list":
        items = [scheme["at_key"] + scheme["kv"] + timestamp] if scheme.get("at_key") else []
        items += [scheme["sig"] + scheme["kv"] + s for s in signatures]
        if scheme["provider"] == "ghost":
            items.reverse()  # it writes the time last
        blank = " " if scheme["provider"] in ("ghost", "workos") else ""
        return (scheme["sep"] + blank).join(items)
    if form == "positional-list":
        return scheme["sep"].join([timestamp] + signatures)
    raise ValueError(form)


def basic(user_password):
    return "Basic " + base64.b64encode(user_password.encode()).decode()


def b64url(raw):
    return base64.urlsafe_b64encode(raw if isinstance(raw, bytes) else raw.encode()).decode().rstrip("=")


def jwt(claims, key, alg="HS256", **header):
    """A signed JWT. `key`: text or bytes for HS*, the name of a key pair otherwise."""
    head = {"alg": alg, "typ": "JWT", **header}
    text = ".".join(b64url(json.dumps(x, separators=(",", ":"))) for x in (head, claims))
    return text + "." + b64url(jws_sign(text.encode(), key, alg))


def jws_sign(message, key, alg):
    bits = "sha" + alg[2:]
    if alg.startswith("HS"):
        return hmac.new(key.encode() if isinstance(key, str) else key, message, bits).digest()
    if alg.startswith("RS"):
        return rsa_sign(key, message, bits)
    if alg.startswith("ES"):
        return ecdsa_sign(key, message, bits, raw=True)
    raise ValueError(alg)


def keccak256(data):
    """Keccak-256 with the padding of before the standard (0x01, not 0x06)."""
    mask, rate = (1 << 64) - 1, 136
    rot = lambda v, n: ((v << (n % 64)) | (v >> (64 - n % 64))) & mask if n % 64 else v
    constants, register = [], 1
    for _ in range(24):
        value = 0
        for j in range(7):
            if register & 1:
                value |= 1 << ((1 << j) - 1)
            register = (register << 1) ^ (0x171 if register & 0x80 else 0)
        constants.append(value)
    padded = bytearray(data + b"\x01" + b"\x00" * (rate - 1 - len(data) % rate))
    padded[-1] |= 0x80
    lane = [[0] * 5 for _ in range(5)]
    for start in range(0, len(padded), rate):
        for i in range(rate // 8):
            lane[i % 5][i // 5] ^= int.from_bytes(padded[start + 8 * i:start + 8 * i + 8], "little")
        for constant in constants:
            column = [lane[x][0] ^ lane[x][1] ^ lane[x][2] ^ lane[x][3] ^ lane[x][4] for x in range(5)]
            for x in range(5):
                d = column[x - 1] ^ rot(column[(x + 1) % 5], 1)
                for y in range(5):
                    lane[x][y] ^= d
            x, y, current = 1, 0, lane[1][0]
            for t in range(24):
                x, y = y, (2 * x + 3 * y) % 5
                current, lane[x][y] = lane[x][y], rot(current, (t + 1) * (t + 2) // 2)
            for y in range(5):
                line = [lane[x][y] for x in range(5)]
                for x in range(5):
                    lane[x][y] = line[x] ^ (~line[(x + 1) % 5] & mask & line[(x + 2) % 5])
            lane[0][0] ^= constant
    return b"".join(lane[i % 5][i // 5].to_bytes(8, "little") for i in range(4))
