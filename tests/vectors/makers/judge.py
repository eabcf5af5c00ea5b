#!/usr/bin/env python3
"""Re-judges every vector by the providers' own SDKs and by independent libraries.

    python3 tests/vectors/makers/judge.py [--keep FOLDER]

Installs the pinned packages (judge-requirements.txt, package.json) into a temporary folder, without their install scripts,
or reuses FOLDER. Each judge sees the vector as it is, which it has to accept, and with one changed byte in the body, which it has to
refuse (unless the scheme does not sign the body). Prints a table, writes evidence.json, and fails if any judge disagrees.
Run make.py afterwards: it puts the judges' names into `source`.
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def install(folder):
    shutil.copy(HERE / "package.json", folder)
    shutil.copy(HERE / "judge.mjs", folder)
    if not (folder / "node_modules" / "stripe").exists():
        subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps", "--silent"], cwd=folder, check=True)
    if not (folder / "venv").exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        subprocess.run([folder / "venv/bin/pip", "install", "--quiet", "-r", HERE / "judge-requirements.txt"], check=True)


def run(command, folder):
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def main():
    sys.path.insert(0, str(HERE))
    from make import fingerprint  # needs what requirements.txt names; install and run do not

    keep = "--keep" in sys.argv
    folder = pathlib.Path(sys.argv[sys.argv.index("--keep") + 1] if keep else tempfile.mkdtemp(prefix="judges-")).resolve()
    folder.mkdir(exist_ok=True)
    vectors = HERE.parent / "providers"
    known = {}
    for path in vectors.glob("*.json"):
        document = json.loads(path.read_text())
        known.update({(document["provider"], v["id"]): v for v in document["vectors"]})
    try:
        install(folder)
        rows = run(["node", "judge.mjs", str(vectors)], folder)
        rows += run([str(folder / "venv/bin/python"), str(HERE / "judge_sdks.py"), str(vectors)], folder)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    evidence, table, bad = {}, {}, []
    for row in rows:
        good = row["good"] and row["refused"]
        entry = table.setdefault((row["package"], row["provider"], row["function"]), [0, 0, row["body_signed"], row["official"]])
        entry[0 if good else 1] += 1
        if not good:
            bad.append(f"{row['provider']} {row['vector']}: {row['package']} {row['function']}: {row.get('why')}")
            continue
        v = known[row["provider"], row["vector"]]
        evidence.setdefault(row["provider"], {}).setdefault(row["vector"], []).append(
            {"of": fingerprint(v), "package": row["package"], "function": row["function"], "official": row["official"], "signs": row["signs"]})
    print(f"{'package':44} {'provider':22} {'good':>4} {'bad':>4}  body  kind     function")
    for (package, provider, function), (good, wrong, signed, official) in sorted(table.items()):
        print(f"{package:44} {provider:22} {good:4} {wrong:4}  {'yes ' if signed else 'no  '}  {'official' if official else 'library '} {function}")
    packages = {p for p, _, _ in table}
    vectors_judged = sum(len(v) for v in evidence.values())
    print(f"\n{len(packages)} packages, {len({p for _, p, _ in table})} providers, {vectors_judged} vectors judged, {sum(e[0] for e in table.values())} judgements, {len(bad)} disagree")
    print("\n".join(bad))
    for provider in evidence.values():
        for entries in provider.values():
            entries.sort(key=lambda e: (e["package"], e["function"]))
    lines = ",\n".join(f' {json.dumps(p)}: {json.dumps(dict(sorted(v.items())))}' for p, v in sorted(evidence.items()))
    (HERE / "evidence.json").write_text("{\n" + lines + "\n}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
