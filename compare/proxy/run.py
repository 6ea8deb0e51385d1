"""Runs every case against every proxy, in turn, and writes CPU per request, requests/s, latency and memory. See run.sh."""

import csv
import datetime
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import configs
from parts import Processes, certificates, wait_for

HERE = Path(__file__).resolve().parent
ROUNDS, SECONDS = int(sys.argv[1]), int(sys.argv[2])
CASES = os.environ.get("CASES", " ".join(configs.UPSTREAMS)).split()
PROXIES = os.environ.get("PROXIES", "nginx haproxy envoy weir weir-full weir-traced envoy-traced").split()
RATE = int(os.environ.get("RATE", "3000"))
COLLECTOR = 18090
FIELDS = ["case", "proxy", "phase", "round", "requests", "failed", "requests_per_s", "cpu_us_per_request", "p50_ms", "p99_ms", "p999_ms", "rss_kib"]


def upstreams(processes, work):
    body = "x" * 1024
    (work / "upstream.conf").write_text(f"""daemon off; pid {work}/upstream.pid; worker_processes 1; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000;
 server {{ listen 127.0.0.1:{configs.UPSTREAMS["h1"]}; location / {{ return 200 "{body}"; }} }}
 server {{ listen 127.0.0.1:{configs.UPSTREAMS["mtls"]} ssl; ssl_certificate {work}/upstream.pem; ssl_certificate_key {work}/upstream.key;
   ssl_client_certificate {work}/ca.pem; ssl_verify_client on; location / {{ return 200 "{body}"; }} }} }}
""")
    processes.start("upstream", 0, "nginx", "-c", work / "upstream.conf")
    (work / "htdocs").mkdir()
    (work / "htdocs" / "call").write_bytes(b"\0\0\0\0\x40" + b"y" * 64)
    (work / "call.bin").write_bytes(b"\0\0\0\0\x20" + b"z" * 32)
    processes.start("grpc-upstream", 0, "nghttpd", "--no-tls", "-d", work / "htdocs", "--trailer=grpc-status: 0", str(configs.UPSTREAMS["grpc"]))
    processes.start("sse-upstream", 0, sys.executable, HERE / "upstream.py", configs.UPSTREAMS["sse"])
    processes.start("collector", 0, os.environ["SERVER_BIN"], "serve", "--data", work / "data", "--otlp-grpc", f"127.0.0.1:{COLLECTOR}", "--otlp-http", "127.0.0.1:0", "--web", "127.0.0.1:0", "--pg", "127.0.0.1:0")


def ports_of(name):
    base = 18100 + 10 * PROXIES.index(name)
    return {case: base + configs.OFFSETS[case] for case in configs.UPSTREAMS}


def start_proxy(processes, work, name):
    ports, file = ports_of(name), work / f"{name}.conf"
    collector = COLLECTOR if name.endswith("-traced") else None
    if name == "nginx":
        file.write_text(configs.nginx(ports, work))
        command = ["nginx", "-c", file]
    elif name == "haproxy":
        file.write_text(configs.haproxy(ports, work))
        command = ["haproxy", "-db", "-f", file]
    elif name.startswith("envoy"):
        file = file.with_suffix(".yaml")
        file.write_text(configs.envoy(ports, work, collector))
        command = [os.environ["ENVOY"], "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"]
    else:
        file.write_text(configs.weir(ports, work, admin_of(name), collector, full=name == "weir-full"))
        command = [os.environ["OTHER_BIN" if name.startswith("other") else "PROXY_BIN"], "--config", file]
    processes.start(name, 1, *command)


def front_of(name):
    """Where the caller's side of mutual TLS listens: the load generators show no certificate, so an nginx beside them does."""
    return 18200 + PROXIES.index(name)


def front(processes, work):
    def server(name):
        return f"""upstream {name} {{ server 127.0.0.1:{ports_of(name)["mtls-in"]}; keepalive 64; keepalive_requests 100000000; }}
 server {{ listen 127.0.0.1:{front_of(name)}; location / {{ proxy_pass https://{name}; proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_ssl_certificate {work}/client.pem; proxy_ssl_certificate_key {work}/client.key;
  proxy_ssl_trusted_certificate {work}/ca.pem; proxy_ssl_verify on; proxy_ssl_name upstream.test; }} }}"""

    (work / "front.conf").write_text(f"""daemon off; pid {work}/front.pid; worker_processes 1; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000;
{"".join(server(name) for name in PROXIES)} }}
""")
    processes.start("front", 0, "nginx", "-c", work / "front.conf")


def admin_of(name):
    return 18100 + 10 * PROXIES.index(name) + 9


def load(case, port, work, seconds):
    """Requests, failures and latencies in ms of as much as passes."""
    url = f"http://127.0.0.1:{port}/"
    if case in ("h1", "mtls", "mtls-in", "sse"):
        connections = 20 if case == "sse" else 50
        out = pinned("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url)
        requests = int(re.search(r"(\d+) requests in", out).group(1))
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
        at = lambda share: milliseconds(re.search(rf"^\s+{share}%\s+(\S+)$", out, re.M).group(1))
        return requests, int(bad.group(1)) if bad else 0, at(50), at(99), None
    return h2load(case, url, work, ["-c8", "-m8", f"-D{seconds}"])


def constant(case, port, work, seconds):
    clients = 20
    more = ["--h1"] if case in ("h1", "mtls", "mtls-in", "sse") else ["-m8"]
    rate = RATE // 10 if case == "sse" else RATE
    return h2load(case, f"http://127.0.0.1:{port}/", work, [*more, f"-c{clients}", f"-D{seconds}", f"--rps={rate / clients}"])


def h2load(case, url, work, options):
    log = work / "h2load.tsv"
    log.unlink(missing_ok=True)
    if case == "grpc":
        options = [*options, "-d", str(work / "call.bin"), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        url += "call"
    out = pinned("h2load", f"--log-file={log}", *options, url)
    times = sorted(int(fields[2]) / 1e3 for line in log.read_text().splitlines() if (fields := line.split("\t"))[1] == "200")
    failed = sum(1 for line in log.read_text().splitlines() if line.split("\t")[1] != "200")
    if not times:
        raise SystemExit(f"{case} {url}: nothing succeeded\n{out}")
    at = lambda share: times[min(len(times) - 1, int(len(times) * share))]
    return len(times), failed, at(0.5), at(0.99), at(0.999)


def pinned(*command):
    found = subprocess.run(["taskset", "-c", "0", *command], capture_output=True, text=True)
    if found.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {found.stderr or found.stdout}")
    return found.stdout


def milliseconds(text):
    for unit, factor in (("us", 1e-3), ("ms", 1.0), ("s", 1e3)):
        if text.endswith(unit):
            return float(text[: -len(unit)]) * factor
    raise ValueError(text)


def measure(processes, work, case, name, phase, round_, seconds):
    port = front_of(name) if case == "mtls-in" else ports_of(name)[case]
    before = processes.cpu_us(name)
    run = load if phase == "most" else constant
    requests, failed, p50, p99, p999 = run(case, port, work, seconds)
    cpu = (processes.cpu_us(name) - before) / max(requests, 1)
    rounded = lambda value: "" if value is None else round(value, 3)
    return dict(zip(FIELDS, [case, name, phase, round_, requests, failed, round(requests / seconds), round(cpu, 2), rounded(p50), rounded(p99), rounded(p999), processes.rss_kib(name)]))


def table(rows):
    lines = []
    for case in CASES:
        unit = "stream of 50 events" if case == "sse" else "request"
        lines += [f"## {case}\n", f"| proxy | µs CPU/{unit} | requests/s | p50 / p99 ms, as much as passes | p50 / p99 / p99.9 ms at {RATE // 10 if case == 'sse' else RATE}/s | RSS MiB | failed |", "|---|---|---|---|---|---|---|"]
        for name in PROXIES:
            most = [row for row in rows if (row["case"], row["proxy"], row["phase"]) == (case, name, "most")]
            steady = [row for row in rows if (row["case"], row["proxy"], row["phase"]) == (case, name, "constant")]
            if not most:
                continue
            middle = lambda field, of: statistics.median(row[field] for row in of)
            costs = sorted(row["cpu_us_per_request"] for row in most)
            at_rate = " / ".join(f"{middle(field, steady):.2f}" for field in ("p50_ms", "p99_ms", "p999_ms")) if steady else ""
            lines.append(f"| {name} | {middle('cpu_us_per_request', most):.1f} ({costs[0]:.1f} to {costs[-1]:.1f}) | {middle('requests_per_s', most):,.0f} | {middle('p50_ms', most):.2f} / {middle('p99_ms', most):.2f} | {at_rate} | {max(row['rss_kib'] for row in most) / 1024:.0f} | {sum(row['failed'] for row in most + steady)} |")
        lines.append("")
    return "\n".join(lines)


def versions():
    def version(name, *command):
        found = subprocess.run(command, capture_output=True, text=True)
        number = re.search(r"\d+\.\d+\.\d+", found.stdout + found.stderr)
        return f"{name} {number.group(0) if number else 'unknown'}"

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    return "; ".join([f"commit {commit}", version("nginx", "nginx", "-v"), version("HAProxy", "haproxy", "-v"), version("Envoy", os.environ["ENVOY"], "--version")])


def counters(name):
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_of(name)}/metrics", timeout=5) as answer:
        wanted = re.compile(r"^weir_proxy_\w*span\w*")
        return [line for line in answer.read().decode().splitlines() if wanted.match(line)]


def main():
    work = Path(tempfile.mkdtemp(prefix="compare-proxy-"))
    os.chmod(work, 0o755)
    processes = Processes(work)
    try:
        certificates(work)
        upstreams(processes, work)
        for name in PROXIES:
            start_proxy(processes, work, name)
        front(processes, work)
        for name in PROXIES:
            for case in CASES:
                wait_for(ports_of(name)[case], name, work)
        for name in PROXIES if "mtls-in" in CASES else []:
            wait_for(front_of(name), "front", work)
        rows = []
        for round_ in range(ROUNDS + 1):  # the first fills pools and is not counted
            for case in CASES:
                for name in PROXIES:
                    row = measure(processes, work, case, name, "most", round_, SECONDS if round_ else 1)
                    print(",".join(str(row[field]) for field in FIELDS), flush=True)
                    rows += [row] if round_ else []
        for round_ in range(ROUNDS if RATE else 0):
            for case in CASES:
                for name in PROXIES:
                    rows.append(measure(processes, work, case, name, "constant", round_ + 1, SECONDS))
        time.sleep(2)
        spans = [line for name in PROXIES if name == "weir-traced" for line in counters(name)]
        write(rows, spans)
    finally:
        processes.stop()
        shutil.rmtree(work, ignore_errors=True)


def write(rows, spans):
    label = os.environ.get("LABEL", "matrix")
    stem = HERE / "runs" / f"{datetime.date.today()}-{label}"
    with open(stem.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    text = f"# Sidecars side by side, {datetime.date.today()}\n\n{os.cpu_count()} CPUs, {cpu}; {versions()}; medians of {ROUNDS} rounds of {SECONDS} s, load {os.getloadavg()[0]:.1f} at the end.\n\n{table(rows)}\n" + "".join(f"    {line}\n" for line in spans)
    stem.with_suffix(".md").write_text(text)
    print(text)


main()
