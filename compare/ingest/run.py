"""The phases of compare/ingest/run.sh: starts the server and the senders, and prints what they did.

The server is pinned to the first CPU and the senders, two processes, to the others, so a CPU-second of the
server is its own. With two CPUs that is one core for the server: the peak is spans/s of one core.

With --gzip the senders send compressed bodies, made before each phase. Under overload each holds so many requests in the air that
what is asked for is offered although most of them wait: HTTP has a connection for each, and the server takes 2,048.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

SERVER, LOAD = os.environ["SERVER_BIN"], os.environ["LOAD_BIN"]
SECONDS = float(os.environ.get("SECONDS_EACH", "15"))
SPANS_PER_REQUEST = 2_000
SENDERS = 2
CODING = "gzip" if "--gzip" in sys.argv[1:] else "plain"
IN_THE_AIR = {"grpc": 4_096, "http": 1_984}
CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPUS, SENDER_CPUS = {CPUS[0]}, set(CPUS[1:]) or {CPUS[0]}
TICKS = os.sysconf("SC_CLK_TCK")
PORTS = {"grpc": 24317, "http": 24318, "web": 27070}


class Server:
    def __init__(self):
        self.dir = tempfile.mkdtemp()
        flags = ["--data", self.dir + "/data", "--otlp-grpc", f"127.0.0.1:{PORTS['grpc']}", "--otlp-http",
                 f"127.0.0.1:{PORTS['http']}", "--web", f"127.0.0.1:{PORTS['web']}", "--pg", "127.0.0.1:0"]
        self.log = open(self.dir + "/log", "w")
        self.process = subprocess.Popen([SERVER, "serve", *flags], stderr=self.log,
                                        preexec_fn=lambda: os.sched_setaffinity(0, SERVER_CPUS))
        wait_for(lambda: get("/readyz") is not None, 60, "the server is not ready")

    def cpu_s(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_mib(self, which="VmRSS"):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith(which):
                return int(line.split()[1]) / 1024
        return 0.0

    def reset_peak_rss(self):
        open(f"/proc/{self.process.pid}/clear_refs", "w").write("5")

    def flushed(self):
        metrics = get("/metrics") or ""
        rows = [line.split()[-1] for line in metrics.splitlines() if line.startswith("weir_store_memory_rows")]
        return bool(rows) and all(float(value) == 0 for value in rows)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def get(path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORTS['web']}{path}", timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return None


def wait_for(condition, seconds, why):
    end = time.time() + seconds
    while not condition():
        if time.time() > end:
            print(f"  ! {why} after {seconds} s", flush=True)
            return
        time.sleep(0.1)


class Phase:
    """What two sender processes saw."""

    seed = int(time.time()) % 100_000

    def __init__(self, transport, clients, seconds, spans_per_s, retry):
        outs, senders = [], []
        for _ in range(SENDERS):
            Phase.seed += 1
            outs.append(tempfile.mktemp())
            command = [LOAD, transport, CODING, f"http://127.0.0.1:{PORTS[transport]}", Phase.seed, clients // SENDERS,
                       SPANS_PER_REQUEST, seconds, spans_per_s / SENDERS, retry, outs[-1]]
            senders.append(subprocess.Popen([str(part) for part in command],
                                            preexec_fn=lambda: os.sched_setaffinity(0, SENDER_CPUS)))
        for sender in senders:
            if sender.wait() != 0:
                raise SystemExit("a sender failed")
        self.due, lines = 0, []
        for out in outs:
            with open(out) as file:
                self.due += int(next(file))
                lines += [line.split() for line in file]
            os.unlink(out)
        self.acks = sorted((int(at), int(took) / 1e3) for at, took, answer in lines if answer == "acked")
        self.refused = sum(answer == "refused" for _, _, answer in lines)
        self.failed = sum(answer == "failed" for _, _, answer in lines)
        self.sent = len(lines)
        self.start_ms = min((int(at) - int(took) / 1e3 for at, took, _ in lines), default=0)
        # what is still in the air at the end is answered later, when nothing more is sent
        self.seconds, end_ms = seconds, self.start_ms + seconds * 1e3
        self.spans = len(self.acks) * SPANS_PER_REQUEST
        self.rate = sum(at <= end_ms for at, _ in self.acks) * SPANS_PER_REQUEST / seconds
        self.offered = self.due * SPANS_PER_REQUEST / seconds
        self.sent_rate = self.sent * SPANS_PER_REQUEST / seconds

    def ack_ms(self, quantile):
        took = sorted(took for _, took in self.acks)
        return took[int((len(took) - 1) * quantile)] if took else float("nan")

    def recovered_s(self, limit_ms):
        """Seconds until every later half second has a p99 within the limit."""
        last_bad = 0.0
        for window in range(int(self.seconds * 2)):
            first = self.start_ms + window * 500
            took = sorted(took for at, took in self.acks if first <= at < first + 500)
            if not took or took[int((len(took) - 1) * 0.99)] > limit_ms:
                last_bad = (window + 1) / 2
        return last_bad


def line_full():
    """Requests refused at once because as many wait as may."""
    metrics = get("/metrics") or ""
    return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("weir_collector_line_full_total{"))


def measured(server, name, phase, count_flush=True):
    cpu, started = server.cpu_s(), time.time()
    server.reset_peak_rss()
    result = phase()
    if count_flush:
        wait_for(server.flushed, 60, "rows are still in memory")
    used = server.cpu_s() - cpu
    print(f"{name}: {result.rate:,.0f} spans/s acked, {result.spans / max(used, 0.01):,.0f} per server CPU-second "
          f"({used:.1f} CPU-s, flush included, {time.time() - started:.0f} s), ack ms p50 {result.ack_ms(.5):.1f} "
          f"p99 {result.ack_ms(.99):.1f} max {result.ack_ms(1):.1f}, "
          f"{result.refused} refused, {result.failed} failed of {result.sent}, peak RSS {server.rss_mib('VmHWM'):.0f} MiB",
          flush=True)
    return result, result.spans / max(used, 0.01)


def stored():
    status = json.loads(get("/api/v1/status") or "{}")
    for table in status.get("store", {}).get("tables", []):
        if table["name"] == "spans" and table["rows"]:
            print(f"stored {table['rows']:,} spans, {table['bytes'] / table['rows']:.1f} bytes/span in {table['files']} files")


def transport(name):
    print(f"\n== OTLP/{name} ==", flush=True)
    server = Server()
    try:
        measured(server, "warm-up", lambda: Phase(name, 16, 5, 0, "honour"))
        peak, per_cpu = measured(server, "peak, closed loop, 16 clients", lambda: Phase(name, 16, SECONDS, 0, "honour"))
        half, _ = measured(server, "half of the peak", lambda: Phase(name, 16, SECONDS, peak.rate / 2, "honour"))
        stored()
        for retry in ["honour", "ignore"]:
            for factor in [2, 5, 10]:
                overload(server, name, factor, retry, peak, half)
        stored()
    finally:
        server.stop()


def overload(server, name, factor, retry, first_peak, half):
    """Beside a peak of the moment before: the machine changes, and the store has grown since the first."""
    peak, per_cpu = measured(server, "peak, closed loop, 16 clients", lambda: Phase(name, 16, SECONDS, 0, "honour"))
    offered = factor * peak.rate
    title = f"{factor}x the peak offered, senders {retry} the time to come back"
    full = line_full()
    result, of_cpu = measured(server, title, lambda: Phase(name, IN_THE_AIR[name], SECONDS, offered, retry),
                              count_flush=False)
    full = line_full() - full
    after = Phase(name, 16, 8, peak.rate / 2, "honour")
    recovered = after.recovered_s(2 * half.ack_ms(.99))
    print(f"  goodput {100 * result.rate / peak.rate:.0f} % of the peak before it, {100 * result.rate / first_peak.rate:.0f} % of the first, "
          f"{100 * of_cpu / per_cpu:.0f} % per server CPU-second (flush not included); "
          f"asked {offered:,.0f} spans/s, offered {result.offered:,.0f} ({result.offered / peak.rate:.1f}x the peak), "
          f"sent {result.sent_rate:,.0f} ({result.sent_rate / peak.rate:.1f}x); {full:,.0f} refused by a full line; "
          f"ack p99 at half load within twice its value after {recovered:.1f} s", flush=True)
    wait_for(server.flushed, 60, "rows are still in memory")


def main():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    version = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"{time.strftime('%F %T')} commit {version}, {len(CPUS)} CPUs, {model}, load {os.getloadavg()[0]:.1f} before the run")
    print(f"server on CPU {sorted(SERVER_CPUS)}, {SENDERS} sender processes on CPU {sorted(SENDER_CPUS)}, "
          f"{SPANS_PER_REQUEST} spans a request, {CODING}, phases of {SECONDS:.0f} s")
    print("the machine is shared: senders cannot always send what is offered (see 'sent'), and a rate per second is only "
          "comparable within one run; compare CPU-seconds across runs")
    for name in ["grpc", "http"]:
        transport(name)


main()
