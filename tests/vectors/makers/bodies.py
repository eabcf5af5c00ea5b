"""Invented bodies. Realistic in what makes signatures break: non-ASCII text, escapes, blanks, line ends, big numbers."""
import json
import urllib.parse

import table

THEME = {name: theme for theme, names in table.THEMES.items() for name in names.split()}

MONEY = {"type": "payment.captured", "data": {"object": "payment", "reference": "R-2025/11-042", "amount": 129900, "currency": "EUR",
         "rate": 1.10, "customer": {"name": "Zoë Müller", "city": "Ålesund", "email": "zoe@example.org"}, "note": "50 % now — rest later ✓"}}
CODE = {"ref": "refs/heads/main", "before": "0" * 40, "after": "9f2c" * 10, "repository": {"id": 1296269, "full_name": "octo/h\u00e4userl",
        "html_url": "https://git.example.org/octo/haeuserl"}, "commits": [{"message": "Fix \"quotes\" & <tags>\n\nCo-authored-by: Ørjan", "added": ["src/naïve.rs"]}]}
TALK = {"type": "message.created", "text": "Grüße aus Köln 👋 — ¿qué tal?", "from": {"id": "U7", "display_name": "O'Brien \"Bob\""}, "to": "+4915112345678", "edited": False}
MAIL = {"event": "delivered", "email": "jörg@bücher.example", "subject": "Überraschung: 20 € für Sie", "smtp": "250 2.0.0 OK", "tags": ["newsletter", "größe-l"]}
DOCS = {"event": "document.updated", "title": "Résumé – Søren Kierkegård", "fields": [{"key": "q1", "label": "Où habitez-vous ?", "value": "Zürich"}, {"key": "q2", "value": None}], "url": "https://docs.example.org/d/1?x=1&y=2"}
CALL = {"event": "call.ended", "duration_s": 93.5, "transcript": "Agent: Guten Tag, Łukasz.\nUser: Dzień dobry!", "language": "pl-PL", "recording": "https://media.example.org/r/1.mp3"}
WORK = {"event": "job.finished", "status": "succeeded", "actor": {"login": "renée", "team": "平台"}, "metrics": {"seconds": 12.0, "ratio": 1e-7, "big": 9007199254740993}, "log": "tab\there, backslash \\ and slash /"}
KIND = {"payments": MONEY, "billing": MONEY, "fintech": MONEY, "commerce": MONEY, "crypto": MONEY, "accounting": MONEY, "shipping": MONEY,
        "source-control": CODE, "ci": CODE, "developer-tools": CODE, "package-registry": CODE,
        "communication": TALK, "social": TALK, "support": TALK, "realtime": TALK,
        "email": MAIL, "marketing": MAIL, "forms": DOCS, "cms": DOCS, "e-signature": DOCS, "productivity": DOCS, "hr": DOCS, "storage": DOCS,
        "video": CALL, "ai": CALL, "scheduling": CALL}


def put(document, path, value):
    """Sets a JSON pointer, making objects and one-element arrays on the way."""
    parts = path.strip("/").split("/")
    if parts[0] == "0":
        inner = put(document, "/".join(parts[1:]), value)
        return [inner, {"second": "élément"}]
    here = document
    for i, part in enumerate(parts[:-1]):
        if part == "0":
            continue
        nxt = parts[i + 1]
        if nxt == "0":
            here[part] = [{}]
            here = here[part][0]
        else:
            if not isinstance(here.get(part), dict):
                here[part] = {}
            here = here[part]
    here[parts[-1]] = value
    return document


def document(provider, sets=()):
    out = json.loads(json.dumps(KIND.get(THEME.get(provider), WORK)))
    for path, value in sets:
        out = put(out, path, value) if not isinstance(out, list) else out
    return out


def dump(value, style):
    """The same document as different senders write it."""
    if style == "compact":
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    if style == "newline":
        return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n"
    if style == "pretty":
        return json.dumps(value, ensure_ascii=False, indent=2).encode()
    if style == "ascii":
        return json.dumps(value, separators=(",", ":")).replace("/", "\\/").encode()
    if style == "crlf":
        return json.dumps(value, ensure_ascii=False, indent=2).replace("\n", "\r\n").encode() + b"\r\n"
    raise ValueError(style)


STYLES = ["compact", "ascii", "newline", "pretty", "crlf"]


def form(pairs):
    return urllib.parse.urlencode(pairs).encode()
