"""Makes the data, loads every system, asks every question, compares the answers and writes what was measured.

Started by run.sh. One system runs at a time; each answer is checked against the others' for the same parameters.
"""

import csv
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import queries
from peers import clickhouse, duckdb, weir

HERE = Path(__file__).parent
DIALECTS = {"weir": weir.DIALECT, "clickhouse-otel": clickhouse.OTEL, "clickhouse-jaeger": clickhouse.JAEGER, "duckdb": duckdb.DIALECT}
# A case whose statement takes longer than this is not asked all its rounds.
CASE_BUDGET_S = 60
# CPU that others may use before a system is measured.
QUIET_SHARE = 0.1


class Worker:
    """A library in a process of its own."""

    def __init__(self, name, folder):
        self.name, self.folder, self.process = name, folder, None

    def open(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "peers.worker", self.name, str(self.folder)], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask({"query": "SELECT 1"})

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait(600)
            self.process = None

    def load(self, files):
        start = time.monotonic()
        self.ask({"load": [str(file) for file in files]})
        return {"seconds": time.monotonic() - start}

    def size(self):
        return self.ask({"size": True})["size"]

    def version(self):
        return self.ask({"size": True})["version"]

    def query(self, statement):
        answer = self.ask({"query": statement})
        return answer["ms"], answer["rows"]

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended while it was asked {str(request)[:200]}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


class Run:
    """One shape: its data, its systems, its results."""

    def __init__(self, shape, spans):
        self.shape, self.spans = shape, spans
        self.data = Path(os.environ["DATA_DIR"]) / f"{shape}-{spans}"
        self.data.mkdir(parents=True, exist_ok=True)
        self.names = os.environ.get("SYSTEMS", ",".join(DIALECTS)).split(",")
        chosen = os.environ.get("CASES", "").split()
        self.cases = [case for case in queries.CASES if not chosen or case.name in chosen]
        self.warm, self.cold = int(os.environ.get("WARM", 30)), int(os.environ.get("COLD", 5))
        self.drops_caches = os.access("/proc/sys/vm/drop_caches", os.W_OK)
        self.sizes, self.versions, self.loads, self.busy = {}, {}, {}, {}
        self.rows = []  # system, case, phase, round, ms, rows, error
        self.answers = {}  # (case, round) → {system: answer}
        self.mismatches = []

    def all(self):
        self.generate()
        self.parameters = queries.parameters(self.data, self.warm + 2 + self.cold)
        for name in self.names:
            system = self.system(name)
            self.load(name, system)
            self.measure(name, system)
        self.compare()
        self.write()

    def system(self, name):
        if name == "weir":
            return weir.Weir(os.environ["SERVER_BIN"], self.data / "weir")
        return Worker(name, self.data / name)

    def generate(self):
        if os.environ.get("SKIP_GENERATE") and (self.data / "manifest.json").exists():
            return note(f"shape {self.shape}: the spans are there")
        note(f"shape {self.shape}: making {self.spans} spans")
        subprocess.run([os.environ["DATA_BIN"], "make", os.environ["SOURCE"], str(self.data), str(self.spans), self.shape], check=True)

    def load(self, name, system):
        loaded = self.data / f"{name}.loaded.json"
        manifest = (self.data / "manifest.json").read_text()
        reuse = os.environ.get("SKIP_WEIR_LOAD" if name == "weir" else "SKIP_PEERS")
        if not (reuse and loaded.exists() and json.loads(loaded.read_text())["manifest"] == manifest):
            note(f"{name}: loading")
            shutil.rmtree(self.data / name, ignore_errors=True)
            loaded.unlink(missing_ok=True)
            system.open()
            if name == "weir":
                found = system.load(os.environ["DATA_BIN"], self.data, self.spans)
            else:
                found = system.load(sorted((self.data / "parquet").glob("*.parquet")))
            system.close()
            loaded.write_text(json.dumps({"manifest": manifest, "load": found}))
        self.loads[name] = json.loads(loaded.read_text())["load"]
        note(f"{name}: loaded, {self.loads[name]}")

    def measure(self, name, system):
        cases = [case for case in self.cases if name == "weir" or not case.only_weir]
        self.busy[name] = busy_share()
        if self.busy[name] > QUIET_SHARE:
            note(f"!!! {name}: others use {self.busy[name]:.0%} of the CPUs: its times are not to be quoted")
        system.open()
        self.sizes[name], self.versions[name] = system.size(), system.version()
        for case in cases:
            self.ask_warm(name, system, case)
        if name == "weir":
            self.explain(system, cases)
        system.close()
        for case in cases:
            for round_ in range(min(self.cold, case.warm or self.cold)):
                if self.failed(name, case):
                    break
                drop_caches()
                system.open()
                drop_caches()
                self.ask(name, system, case, "cold", self.warm + 2 + round_)
                system.close()
        for case in cases:
            note(f"{name:18} {case.name:22} warm p50 {quantile(self.times(name, case, 'warm'), 0.5)} p95 {quantile(self.times(name, case, 'warm'), 0.95)} cold p50 {quantile(self.times(name, case, 'cold'), 0.5)} ms")

    def ask_warm(self, name, system, case):
        start = time.monotonic()
        for round_ in (0, 1):  # not counted: brings files and code into memory
            self.ask(name, system, case, "first", self.warm + round_)
        for round_ in range(min(case.warm or self.warm, self.warm)):
            if self.failed(name, case) or (round_ >= 3 and time.monotonic() - start > CASE_BUDGET_S):
                break
            self.ask(name, system, case, "warm", round_)

    def ask(self, name, system, case, phase, round_):
        statement = case.statement(DIALECTS[name], self.parameters[case.parameters][round_])
        try:
            ms, rows = system.query(statement)
        except (RuntimeError, OSError) as error:
            note(f"!!! {name}: {case.name}: {error}\n    {statement}")
            self.rows.append((name, case.name, phase, round_, "", "", str(error)[:200]))
            return
        self.rows.append((name, case.name, phase, round_, f"{ms:.3f}", len(rows), ""))
        self.answers.setdefault((case.same_answer_as or case.name, round_), {})[f"{name}:{case.name}"] = queries.answer(case, rows)

    def failed(self, name, case):
        return sum(1 for row in self.rows if row[:2] == (name, case.name) and row[6]) >= 3

    def times(self, name, case, phase):
        return [float(row[4]) for row in self.rows if row[:3] == (name, case.name, phase) and row[4]]

    def explain(self, system, cases):
        """How weir answered, for the one who looks why it was slow."""
        self.output("").parent.mkdir(exist_ok=True)
        with open(self.output("explain.txt"), "w") as file:
            for case in cases:
                statement = case.statement(DIALECTS["weir"], self.parameters[case.parameters][0])
                try:
                    rows = system.query(f"EXPLAIN ANALYZE {statement}")[1]
                    plan = "\n".join(str(row[-1]) for row in rows)
                except (RuntimeError, OSError) as error:
                    plan = str(error)
                file.write(f"## {case.name}\n{statement}\n\n{plan}\n\n")

    def compare(self):
        """Names every question that two systems answered differently."""
        differing = {}
        for (case, round_), answers in sorted(self.answers.items()):
            groups = {}
            for who, text in answers.items():
                groups.setdefault(text, []).append(who)
            if len(groups) > 1:
                differing.setdefault(case, []).append((round_, groups))
        for case, found in differing.items():
            round_, groups = found[0]
            parts = "; ".join(f"{'+'.join(who)}: {len(text.splitlines())} rows, {differs(text, groups)}" for text, who in groups.items())
            self.mismatches.append(f"{case}: {len(found)} of {self.asked(case)} parameters; e.g. round {round_}: {parts}")
            note(f"!!! MISMATCH {self.mismatches[-1]}")
        note(f"{len(self.answers)} questions compared, {sum(map(len, differing.values()))} answered differently")

    def asked(self, case):
        return sum(1 for name, _ in self.answers if name == case)

    def output(self, suffix):
        label = os.environ.get("LABEL", "")
        parts = [str(datetime.date.today()), self.shape, str(self.spans), *([label] if label else [])]
        return HERE / "runs" / f"{'-'.join(parts)}.{suffix}"

    def write(self):
        self.output("").parent.mkdir(exist_ok=True)
        with open(self.output("csv"), "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("system", "case", "phase", "round", "ms", "rows", "error"))
            writer.writerows(self.rows)
        text = "\n".join([self.machine(), self.table_of_sizes(), self.table_of_times(), self.lost(), self.differences()])
        self.output("md").write_text(text)
        print(text, flush=True)

    def machine(self):
        manifest = json.loads((self.data / "manifest.json").read_text())
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
        memory = next(line.split()[1] for line in open("/proc/meminfo") if line.startswith("MemTotal"))
        cold = "a fresh process and dropped page caches for each question" if self.drops_caches else "a fresh process; page caches could not be dropped"
        lines = [
            f"# Shape {self.shape}: {self.spans:,} spans, {datetime.date.today()}\n",
            f"- {os.cpu_count()} CPUs, {cpu}, {int(memory) // 1024 // 1024} GiB, Linux {platform.release()}, load {os.getloadavg()[0]:.1f} at the end",
            f"- {manifest['attributes_per_span']:.2f} attributes a span, {manifest['days']} days, OTLP {manifest['otlp_bytes'] / self.spans:.0f} B/span, largest request {manifest['largest_request_bytes']:,} B",
            f"- commit {commit()}; " + "; ".join(f"{name}: {version}" for name, version in self.versions.items()),
            f"- warm: up to {self.warm} different parameters after two that do not count; cold: {self.cold}, {cold}",
            "- CPU that others used before each system was measured: " + ", ".join(f"{name} {share:.0%}" for name, share in self.busy.items())
            + (" (**too busy: do not quote these times**)" if max(self.busy.values()) > QUIET_SHARE else ""),
            "- weir's times include HTTP and JSON over loopback; chdb and DuckDB answer inside their process",
        ]
        lines += [f"- load, {name}: " + ", ".join(f"{key} {value:,.0f}" for key, value in found.items()) for name, found in self.loads.items()]
        return "\n".join(lines) + "\n"

    def table_of_sizes(self):
        lines = ["| system | table | B/span | MiB | rows | files |", "|---|---|---|---|---|---|"]
        for name, tables in self.sizes.items():
            for table, size in sorted(tables.items(), key=lambda item: (item[0] != "spans", -item[1]["bytes"])):
                lines.append(f"| {name} | {table} | {size['bytes'] / self.spans:.2f} | {size['bytes'] / 2**20:.1f} | {size['rows']:,} | {size['files']} |")
            if len(tables) > 1:
                total = {key: sum(size[key] for size in tables.values()) for key in ("bytes", "rows", "files")}
                lines.append(f"| {name} | **all** | {total['bytes'] / self.spans:.2f} | {total['bytes'] / 2**20:.1f} | {total['rows']:,} | {total['files']} |")
        return "\n".join(lines) + "\n"

    def table_of_times(self):
        lines = ["Milliseconds: warm p50 / p95, cold p50 / p95.\n", "| question | " + " | ".join(self.names) + " |", "|---" * (len(self.names) + 1) + "|"]
        for case in self.cases:
            lines.append(f"| {case.title} | " + " | ".join(self.cell(name, case) for name in self.names) + " |")
        return "\n".join(lines) + "\n"

    def cell(self, name, case):
        if name != "weir" and case.only_weir:
            return ""
        warm, cold = self.times(name, case, "warm"), self.times(name, case, "cold")
        if not warm:
            return "failed"
        text = f"{quantile(warm, 0.5)} / {quantile(warm, 0.95)}, {quantile(cold, 0.5)} / {quantile(cold, 0.95)}"
        return f"**{text}**" if self.best(case, "warm") == name else text

    def best(self, case, phase):
        of = {name: float(quantile(self.times(name, case, phase), 0.5)) for name in self.names if self.times(name, case, phase)}
        return min(of, key=of.get) if len(of) > 1 else None

    def lost(self):
        lines = ["Where weir is not the fastest (p50):\n"]
        for case in self.cases:
            for phase in ("warm", "cold"):
                best = self.best(case, phase)
                if best in (None, "weir") or "weir" not in self.names:
                    continue
                ours = self.times("weir", case, phase)
                theirs = quantile(self.times(best, case, phase), 0.5)
                lines.append(f"- {phase}, {case.title}: weir {quantile(ours, 0.5) if ours else 'failed'}, {best} {theirs}")
        return "\n".join(lines if len(lines) > 1 else lines + ["- nowhere"]) + "\n"

    def differences(self):
        lines = [f"{len(self.answers)} questions compared between systems.\n"]
        lines += [f"- **answers differ**: {text}" for text in self.mismatches]
        lines += sorted({f"- failed: {row[0]}, {row[1]}: {row[6]}" for row in self.rows if row[6]})
        return "\n".join(lines) + "\n"


def differs(text, groups):
    """The first line that not all of the answers have."""
    others = [set(other.splitlines()) for other in groups if other != text]
    return next((f"only here {line!r}" for line in text.splitlines() if any(line not in other for other in others)), "nothing of its own")


def quantile(values, q):
    if not values:
        return "-"
    value = sorted(values)[round((len(values) - 1) * q)]
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def busy_share():
    """The share of all CPUs that was used in three seconds in which this harness did nothing."""
    counters = lambda: [int(field) for field in open("/proc/stat").readline().split()[1:9]]
    before = counters()
    time.sleep(3)
    spent = [after - earlier for earlier, after in zip(before, counters())]
    return 1 - (spent[3] + spent[4]) / max(sum(spent), 1)


def drop_caches():
    if os.access("/proc/sys/vm/drop_caches", os.W_OK):
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")


def commit():
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def note(text):
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


def main():
    spans = int(sys.argv[1])
    sizes = {"a": spans, "b": int(os.environ.get("WIDE_SPANS", spans // 5))}
    runs = [Run(shape, sizes[shape]) for shape in os.environ["SHAPES"].split()]
    for run in runs:
        run.all()
    sys.exit(any(run.mismatches for run in runs))


main()
