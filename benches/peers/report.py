"""From samples to tables: medians, their ratios, and the bars that they are held against."""

from statistics import median

KIB, MIB = 1 << 10, 1 << 20
SIZES = [KIB, 16 * KIB, 256 * KIB, MIB, 25 * MIB]
NAMES = ["countersign", "bare", "haproxy", "nginx"]
TITLES = {"countersign": "Countersign", "bare": "bare hyper", "haproxy": "HAProxy", "nginx": "nginx + Lua"}
RIVALS = ["haproxy", "nginx"]
WAYS = {"plain": "plaintext", "tls": "TLS 1.3"}
IDLE = [
    ("calm", "2,000 that sent one request, 50 at a time", 2000),
    ("burst", "2,000 that sent one request, all at a time", 2000),
    ("burst", "10,000 that sent one request, 2,000 at a time", 10000),
]
SATURATED = (("CPU for each request, µs", "cpu", 1), ("requests per second", "rate", 0))
BEGIN, END = "<!-- benches/peers/run: begin -->", "<!-- benches/peers/run: end -->"


class Rows:
    """The samples of one part. A sample that was disturbed counts only where fewer than three others are left."""

    def __init__(self, part):
        self.rows = part["rows"] if part else {}

    def values(self, kind, way, size, name, field):
        samples = self.rows.get(f"{kind} {way} {size} {name}", [])
        calm = [sample for sample in samples if not sample.get("disturbed")]
        samples = calm if len(calm) >= 3 else samples
        for word in field.split("."):
            samples = [sample[word] for sample in samples]
        return samples

    def median(self, kind, way, size, name, field="cpu"):
        values = self.values(kind, way, size, name, field)
        return median(values) if values else None

    def quartile(self, kind, way, size, name, field):
        """The lower one: what other work on the machine adds is no property of a proxy."""
        values = sorted(self.values(kind, way, size, name, field))
        return values[(len(values) - 1) // 4] if values else None

    def best(self, kind, way, size, field="cpu"):
        """The rival that needs least."""
        found = [self.median(kind, way, size, name, field) for name in RIVALS]
        return min((value for value in found if value is not None), default=None)


def size_text(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def ratio(value, other):
    return None if value is None or not other else value / other


def number(value, digits=1):
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1000 or digits == 0 else f"{value:.{digits}f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" + "--:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def bars(results):
    """Title, bar and what was measured; the bar is the most that is wanted."""
    cost, latency = Rows(results.get("cost")), Rows(results.get("latency"))
    refusals, memory = Rows(results.get("refusals")), Rows(results.get("memory"))
    handshakes = Rows(results.get("handshakes"))

    def cpu(way, size):
        return cost.median("good", way, size, "countersign")

    for size, bar in zip(SIZES, (0.95, 0.90, 0.95, 0.92, 0.95)):
        yield f"CPU per request against the best rival, plaintext, {size_text(size)}", bar, ratio(cpu("plain", size), cost.best("good", "plain", size))
    for size, bar in zip(SIZES, (0.85, 0.92, 0.92, 0.92, 0.92)):
        yield f"the same, TLS 1.3, {size_text(size)}", bar, ratio(cpu("tls", size), cost.best("good", "tls", size))
    for way, title in WAYS.items():
        for size, bar in zip(SIZES, (1.10, 1.10, 1.05, 1.05, 1.05)):
            yield f"CPU per request against the bare loop, {title}, {size_text(size)}", bar, ratio(cpu(way, size), cost.median("good", way, size, "bare"))
    logging = cost.median("good", "plain", KIB, "countersign with log")
    yield "the same with the request log on, plaintext, 1 KiB", 1.20, ratio(logging, cost.median("good", "plain", KIB, "bare"))
    yield "CPU per new TLS 1.3 connection against the best rival", 0.60, ratio(handshakes.median("handshake", "tls", 0, "countersign"), handshakes.best("handshake", "tls", 0))

    def refused(kind, size):
        return ratio(refusals.median(kind, "plain", size, "countersign"), refusals.median("good", "plain", size, "countersign"))

    yield "refused on the head against accepted, 1 KiB", 0.45, refused("unsigned", KIB)
    yield "the same with 1 MiB announced", 0.10, refused("unsigned", MIB)
    yield "answers to those that the sender could not read, of 100", 0, lost(refusals, "countersign")
    yield "wrong signature against accepted, 1 KiB", 0.60, refused("wrong", KIB)
    for way, title in WAYS.items():
        p99 = [latency.quartile("rate", way, KIB, name, "latency.p99") for name in ("countersign", "haproxy")]
        yield f"p99 (lower quartile) at half of HAProxy's rate against HAProxy's, {title}", 1.0, ratio(*p99)
    for kind, title, count in IDLE:
        mine = memory.median(kind, "tls", count, "countersign", "kib")
        yield f"memory per idle TLS connection against the best rival, {title}", 0.6, ratio(mine, memory.best(kind, "tls", count, "kib"))
    for kind, title, count in IDLE:
        yield f"memory per idle plaintext connection, KiB, {title}", 16, memory.median(kind, "plain", count, "countersign", "kib")
    peak = memory.median("in flight", "plain", 25 * MIB, "countersign", "kib")
    yield "peak memory, 16 bodies of 25 MiB, `body_memory = \"32MiB\"`, MiB", 80, peak and peak / 1024


def lost(refusals, name):
    counts = refusals.values("unsigned", "plain", MIB, name, "lost")
    requests = refusals.values("unsigned", "plain", MIB, name, "requests")
    return 100 * sum(counts) / sum(requests) if requests else None


def text(results):
    """All tables, as Markdown."""
    if not results:
        return "Nothing was measured yet."
    cost, latency = Rows(results.get("cost")), Rows(results.get("latency"))
    refusals, memory = Rows(results.get("refusals")), Rows(results.get("memory"))
    handshakes = Rows(results.get("handshakes"))
    titles = [TITLES[name] for name in NAMES]
    out = [provenance(results)]

    verdicts = []
    for title, bar, value in bars(results):
        met = "–" if value is None else "yes" if round(value, 2) <= bar else "**no**"
        verdicts.append([title, number(bar, 2), number(value, 2), met])
    out += ["### Against the bars", table(["", "at most", "measured", "met"], verdicts)]

    out.append("### CPU time for each request, µs")
    out.append(table(["", *titles], [
        [f"{title}, {size_text(size)}", *(number(cost.median("good", way, size, name)) for name in NAMES)]
        for way, title in WAYS.items()
        for size in SIZES
    ]))
    logging = cost.median("good", "plain", KIB, "countersign with log")
    out.append(f"With its request log on, Countersign takes {number(logging)} µs at 1 KiB, plaintext.")

    out.append("### Requests per second on one core")
    out.append(table(["", *titles], [
        [f"{title}, {size_text(size)}", *(rate(cost, way, size, name) for name in NAMES)]
        for way, title in WAYS.items()
        for size in SIZES
    ]))
    out.append("`*`: the proxy's core was idle for more than 5 % of the time, so that senders and upstream set the rate.")

    out.append("### Latency at a constant rate, 1 KiB, µs")
    out.append(table(["", *titles], [
        [f"{title}, {number(latency.median('rate', way, KIB, 'haproxy', 'rate'), 0)} a second, {field}",
         *(number(pick("rate", way, KIB, name, "latency." + word)) for name in NAMES)]
        for way, title in WAYS.items()
        for field, word, pick in (("p50, median", "p50", latency.median), ("p99, median", "p99", latency.median), ("p99, lower quartile", "p99", latency.quartile))
    ]))
    late = [latency.median("rate", way, KIB, name, "latency.late") for way in WAYS for name in NAMES]
    late = [share for share in late if share is not None]
    if late:
        out.append(f"At most {100 * max(late):.1f} % of the requests of a row went out more than 50 µs after they were due.")

    out.append("### Refused requests and new connections, µs of CPU")
    kinds = [("accepted, 1 KiB", "good", KIB), ("no signature, 1 KiB", "unsigned", KIB), ("wrong signature, 1 KiB", "wrong", KIB),
             ("accepted, 1 MiB", "good", MIB), ("no signature, 1 MiB announced", "unsigned", MIB)]
    rows = [[title, *(number(refusals.median(kind, "plain", size, name)) for name in NAMES)] for title, kind, size in kinds]
    rows.append(["of 100 answers to those, not read", *(number(lost(refusals, name), 2) for name in NAMES)])
    rows.append(["new TLS 1.3 connection", *(number(handshakes.median("handshake", "tls", 0, name)) for name in NAMES)])
    out.append(table(["", *titles], rows))

    out.append("### Memory")
    rows = [
        [f"an idle connection, {way_title}, of {title}, KiB", *(number(memory.median(kind, way, count, name, "kib")) for name in NAMES)]
        for way, way_title in WAYS.items()
        for kind, title, count in IDLE
    ]
    peaks = [memory.median("in flight", "plain", 25 * MIB, name, "kib") for name in NAMES]
    rows.append(["peak, 16 bodies of 25 MiB at once, MiB", *(number(peak and peak / 1024, 0) for peak in peaks)])
    cpus = [memory.median("in flight", "plain", 25 * MIB, name) for name in NAMES]
    rows.append(["CPU for each of them, ms", *(number(cpu and cpu / 1000) for cpu in cpus)])
    out.append(table(["", *titles], rows))

    shapes = Rows(results.get("shapes"))
    names = ["one thread", "two threads", "two processes"]
    rows = [
        [f"{title}, {field}", *(number(shapes.median(load, "plain", KIB, name, word), digits) for name in names)]
        for load, title, fields in (
            ("even", "16 connections", SATURATED),
            ("uneven", "3 connections", SATURATED),
            ("beside", "2,000 a second beside two uploads of 25 MiB", (("p50, µs", "latency.p50", 1), ("p99, µs", "latency.p99", 1))),
        )
        for field, word, digits in fields
    ]
    out += ["### Threads and processes", table(["1 KiB, plaintext, two cores, one of them shared with the senders", *names], rows)]
    return "\n\n".join(out)


def rate(cost, way, size, name):
    value, busy = (cost.median("good", way, size, name, field) for field in ("rate", "proxy_busy"))
    return number(value, 0) + ("*" if busy is not None and busy < 0.95 else "")


def provenance(results):
    """Where, when and how undisturbed."""
    one = next(iter(results.values()))["machine"]
    pinned = "the proxy alone on one, senders and upstream on another" if one["pinned"] else "nothing pinned"
    lines = [
        f"{one['cores']} × {one['cpu']}, {one['system']}; {pinned}. HAProxy {one['haproxy']}, nginx {one['nginx']}, rustc {one['rustc']}.",
        "",
        table(["part", "day", "revision", "turns of each", "length, s", "samples", "disturbed"], [
            [name, part["day"], f"`{part['commit']}`", str(part["rounds"]), str(part["seconds"]), str(part["samples"] or "–"), str(part["disturbed"])]
            for name, part in results.items()
        ]),
    ]
    spoiled = [name for name, part in results.items() if part["disturbed"] > part["samples"] / 2]
    if spoiled:
        lines += ["", f"**The machine was not quiet: more than half of the samples of {', '.join(spoiled)} were disturbed. Judge nothing by them.**"]
    return "\n".join(lines)


def write(path, tables):
    """Puts the tables between the markers of a document."""
    text = path.read_text()
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    path.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")
