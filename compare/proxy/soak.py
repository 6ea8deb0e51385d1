"""A sidecar under everything at once, for as long as is asked: HTTP/1.1, HTTP/2, event streams that last, mutual TLS to the
upstream and from the caller, every span sent; its file changes every 5 s (and SIGHUP), its policy every 5 s by the server's API,
its certificate every 30 s. Prints what the process holds every 10 s, then what failed and what was dropped.

    compare/proxy/soak.py [SECONDS]          [600]
    PROXY_BIN, SERVER_BIN                    weir-proxy and weir [target/release/…]

About 2,000 requests/s; the proxy on CPU 1, everything else on CPU 0. Exits with 1 when a request failed, a span was dropped, or a
file or a policy was not taken.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import configs
from parts import Processes, certificates, issue, wait_for

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 600
SERVER, PROXY = (os.environ.get(key, str(ROOT / "target/release" / name)) for key, name in (("SERVER_BIN", "weir"), ("PROXY_BIN", "weir-proxy")))
COLLECTOR, WEB, ADMIN, FRONT = 18090, 18091, 18109, 18209
PORTS = {case: 18100 + configs.OFFSETS[case] for case in ("h1", "h2", "sse", "mtls", "mtls-in")}
# case → clients, requests/s of each, streams at once of each
LOADS = {"h1": (10, 70, 1), "h2": (4, 175, 8), "mtls": (6, 50, 1), "mtls-in": (6, 50, 1), "sse": (20, 0, 1)}


def upstreams(processes, work):
    body = "x" * 1024
    tls = f"ssl_certificate {work}/upstream.pem; ssl_certificate_key {work}/upstream.key; ssl_client_certificate {work}/ca.pem; ssl_verify_client on"
    (work / "upstream.conf").write_text(f"""daemon off; pid {work}/upstream.pid; worker_processes 1; error_log {work}/upstream.err;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000;
 server {{ listen 127.0.0.1:{configs.UPSTREAMS["h1"]}; location / {{ return 200 "{body}"; }} }}
 server {{ listen 127.0.0.1:{configs.UPSTREAMS["mtls"]} ssl; {tls}; location / {{ return 200 "{body}"; }} }}
 upstream proxy {{ server 127.0.0.1:{PORTS["mtls-in"]}; keepalive 64; keepalive_requests 100000000; }}
 server {{ listen 127.0.0.1:{FRONT}; location / {{ proxy_pass https://proxy; proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_ssl_certificate {work}/front.pem; proxy_ssl_certificate_key {work}/front.key;
  proxy_ssl_trusted_certificate {work}/ca.pem; proxy_ssl_verify on; proxy_ssl_name upstream.test; }} }} }}
""")
    processes.start("upstream", 0, "nginx", "-c", work / "upstream.conf")
    # 50 events in 2 s: a stream outlives what changes under it
    processes.start("sse-upstream", 0, sys.executable, HERE / "upstream.py", configs.UPSTREAMS["sse"], "0.04")
    listens = {"--otlp-grpc": COLLECTOR, "--otlp-http": 0, "--web": WEB, "--pg": 0}
    processes.start("server", 0, SERVER, "serve", "--data", work / "data", *(word for key, port in listens.items() for word in (key, f"127.0.0.1:{port}")))


def config(work, turn):
    """The file; what `turn` changes lets everything pass."""
    known = json.loads(configs.weir(PORTS, work, ADMIN, COLLECTOR, full=True))
    known["servers"] = 4
    known["limits"]["concurrency_limit"]["queue"] = 1000 + turn
    known["limits"]["local_limit"] = {"queue_wait_ms": 1000}
    known["policy"] = {"from": f"http://127.0.0.1:{COLLECTOR}", "state_dir": f"{work}/state"}
    for listener in known["listeners"]:
        listener["routes"][-1]["timeout_ms"] = 30_000 + turn
    return json.dumps(known)


def replace(path, text):
    aside = path.with_suffix(".new")
    aside.write_text(text)
    aside.rename(path)


def order(turn):
    """What a person does on the policy page: a limit by hand, and every fourth time it is taken back."""
    policy = {"service": "bench", "route": None, "reason": f"soak {turn}", "breaker": None, "token_rate_limit": None,
              "concurrency_limit": {"limit": 500 + turn, "queue": 500, "queue_timeout_ms": 1000}, "rate_limit": {"rate_per_s": 100_000.0 + turn, "burst": 100_000}}
    by_hand = {"override": {"policy": policy, "author": "soak", "expires_unix_nano": None}}
    back = {"clear_override": {"service": "bench", "author": "soak"}}
    body = json.dumps(back if turn % 4 == 0 else by_hand).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{WEB}/api/v1/policy", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.status == 202, answer.status


def start_load(case, work):
    clients, rate, streams = LOADS[case]
    port = FRONT if case == "mtls-in" else PORTS[case]
    command = ["taskset", "-c", "0", "h2load", *([] if case == "h2" else ["--h1"]), f"-c{clients}", f"-m{streams}", f"-D{SECONDS}", *([f"--rps={rate}"] if rate else []), f"http://127.0.0.1:{port}/"]
    return subprocess.Popen(command, stdout=open(work / f"load-{case}", "w"), stderr=subprocess.STDOUT)


def holds(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    at = lambda key: re.search(rf"^{key}:\s+(\d+)", status, re.M).group(1)
    return f"VmRSS {at('VmRSS')} kB, RssAnon {at('RssAnon')} kB, threads {at('Threads')}, files {len(os.listdir(f'/proc/{pid}/fd'))}"


def metrics():
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def soak(pid, work):
    print(f"before the first request: {holds(pid)}", flush=True)
    loads = {case: start_load(case, work) for case in LOADS}
    began, turn = time.monotonic(), 0
    while any(load.poll() is None for load in loads.values()):
        time.sleep(max(0.0, began + 5 * (turn + 1) - time.monotonic()))
        turn += 1
        if turn * 5 <= SECONDS:
            replace(work / "proxy.yaml", config(work, turn))
            os.kill(pid, signal.SIGHUP)
            order(turn)
        if turn % 2 == 0:
            print(f"{turn * 5} s: {holds(pid)}", flush=True)
        if turn % 6 == 0:
            issue(work, "client")
    time.sleep(3)


def verdict(work):
    """What every load says of itself, what the proxy counted; true when nothing was lost."""
    done = failed = 0
    for case in LOADS:
        said = (work / f"load-{case}").read_text()
        counts = re.search(r"requests: .*? (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
        codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said)
        if not counts:
            raise SystemExit(f"{case}: {said[-2000:]}")
        # h2load counts what it cuts off at its end as neither; what it calls failed, errored or timed out, or no 2xx, is lost
        lost = max(sum(map(int, counts.groups()[2:])), sum(map(int, codes.groups()[1:])))
        print(f"{case}: {counts.group(1)} requests done, {lost} failed")
        done, failed = done + int(counts.group(1)), failed + lost
    counted = metrics()
    kept = ("spans_recorded_total", "spans_sent_total", "spans_rejected_total", "spans_dropped_total", "configs_applied_total", "configs_refused_total", "policies_applied_total", "policies_refused_total", "requests_total", "shed_total")
    for name in kept:
        print(f"weir_proxy_{name} {counted[f'weir_proxy_{name}']:.0f}")
    lost = sum(counted[f"weir_proxy_{name}"] for name in ("spans_rejected_total", "spans_dropped_total", "configs_refused_total", "policies_refused_total", "shed_total"))
    print(f"{done} requests, {failed} failed; {counted['weir_proxy_spans_dropped_total']:.0f} spans dropped")
    return failed == 0 and lost == 0 and counted["weir_proxy_policies_applied_total"] > 0


def main():
    work = Path(tempfile.mkdtemp(prefix="soak-proxy-"))
    os.chmod(work, 0o755)
    (work / "state").mkdir()
    processes = Processes(work)
    try:
        certificates(work)
        issue(work, "front")
        upstreams(processes, work)
        wait_for(COLLECTOR, "server", work)
        wait_for(WEB, "server", work)
        replace(work / "proxy.yaml", config(work, 0))
        processes.start("proxy", 1, PROXY, "--config", work / "proxy.yaml")
        for port in PORTS.values():
            wait_for(port, "proxy", work)
        pid = processes.running["proxy"].pid
        print(f"{SECONDS} s: HTTP/1.1 700/s, HTTP/2 700/s, mutual TLS to the upstream 300/s and from the caller 300/s, 20 event streams of 2 s;\nfile and policy change every 5 s, the certificate every 30 s.", flush=True)
        soak(pid, work)
        fine = verdict(work)
        print(f"at the end: {holds(pid)}")
        warned = [line for line in (work / "proxy.log").read_text(errors="replace").splitlines() if "WARN" in line or "ERROR" in line]
        print(f"{len(warned)} warnings" + "".join(f"\n  {line}" for line in warned[:10]))
    finally:
        processes.stop()
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(0 if fine else 1)


main()
