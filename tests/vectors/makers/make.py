#!/usr/bin/env python3
"""Writes tests/vectors/providers/ID.json for every provider of table.py, and tests/vectors/negatives.json."""
import hashlib
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import leading
import plain
import table
try:
    import special
except ImportError:
    special = None
try:
    import published
except ImportError:
    published = None
try:
    import traps
except ImportError:
    traps = None


def fingerprint(vector):
    """Of everything that a judge saw."""
    seen = {k: vector.get(k) for k in ("now", "secrets", "params", "public_url", "fetched", "request")}
    return hashlib.sha256(json.dumps(seen, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def judged(provider, vector, evidence):
    """A scripted vector that an official SDK, or an independent library, called good says so."""
    by = [e for e in evidence.get(provider, {}).get(vector["id"], []) if e["of"] == fingerprint(vector)]
    if vector["origin"] == "script" and by:
        by.sort(key=lambda e: (not e["official"], e["package"]))
        vector["origin"] = "sdk" if by[0]["official"] else "library"
        what = "same signature made, and judged good, by" if by[0]["signs"] else "judged good by"
        vector["source"] = f"{vector['source']}; {what} " + ", ".join(f"{e['package']} {e['function']}" for e in by)
    return vector


def main():
    path = HERE / "evidence.json"
    evidence = json.loads(path.read_text()) if path.exists() else {}
    by_provider, missing = {}, []
    for scheme in table.SCHEMES:
        provider = scheme["provider"]
        found = by_provider.setdefault(provider, [])
        if scheme["how"] not in ("full", "with-feature"):
            continue
        handler = getattr(special, "SPECIAL", {}).get((provider, scheme["scheme"])) if special else None
        made = handler(scheme) if handler else plain.make(scheme) if plain.is_plain(scheme) else []
        if published:
            made = published.vectors(scheme) + made
        if traps:
            made += traps.positive(scheme)
        if not made:
            missing.append(f"{provider} {scheme['scheme']}")
        found += made
    folder = HERE.parent / "providers"
    folder.mkdir(exist_ok=True)
    count = 0
    for provider, vectors in by_provider.items():
        if not vectors:
            continue
        names = [v["id"] for v in vectors]
        assert len(set(names)) == len(names), (provider, names)
        vectors = [judged(provider, v, evidence) for v in vectors]
        count += len(vectors)
        write(folder / f"{provider}.json", {"provider": provider, "vectors": vectors})
    if traps:
        write(HERE.parent / "negatives.json", {"vectors": traps.negative() + leading.negative()})
    print(f"{count} vectors, {sum(1 for v in by_provider.values() if v)} providers, {len(missing)} schemes without: {missing}")


def write(path, document):
    text = json.dumps(document, ensure_ascii=False, indent=1)
    text = re.sub(r'\[\n +("(?:[^"\\]|\\.)*"),\n +("(?:[^"\\]|\\.)*")\n +\]', r"[\1, \2]", text)  # a header on one line
    path.write_text(text + "\n")


if __name__ == "__main__":
    main()
