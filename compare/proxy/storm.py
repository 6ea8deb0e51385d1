"""A storm of policies: a control plane that sends a sidecar RATE sets a second, each another than the one before, while requests
pass. Prints requests lost, sets applied, and how long each took from being sent to the proxy's word that it is in force, the way back
included; the first 10 s without a storm, to compare latencies.

    TEST_PYTHON compare/proxy/storm.py [SECONDS] [RATE]     [60] [1000]
    PROXY_BIN                                               weir-proxy [target/release/weir-proxy]

Needs grpcio (tests/run installs it), nginx and h2load. Proxy on CPU 1, control plane, load and upstream on CPU 0.
"""

import asyncio
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import grpc

from parts import Processes, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 60
RATE = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
CALM = 10
CLIENTS, REQUESTS_PER_S = 20, 2000
PROXY = os.environ.get("PROXY_BIN", str(ROOT / "target/release/weir-proxy"))
UPSTREAM, LISTENER, ADMIN = 18000, 18100, 18109


def varint(number):
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def field(tag, value):
    """One field as protobuf: whole numbers, doubles, bytes."""
    if isinstance(value, int):
        return varint(tag << 3) + varint(value)
    if isinstance(value, float):
        return varint(tag << 3 | 1) + struct.pack("<d", value)
    return varint(tag << 3 | 2) + varint(len(value)) + value


def policy_set(sequence):
    """policy/proto/policy.proto's PolicySet: every limit changes with each, and none turns anybody away."""
    concurrency = field(1, 1000 + sequence % 1000) + field(2, 1000) + field(3, 1000)
    rate = field(1, 1e6 + sequence) + field(2, 100_000)
    breaker = field(1, 0.5 + sequence % 100 / 1000) + field(2, 1000) + field(3, 1000)
    bench = field(1, b"bench") + field(3, concurrency) + field(4, rate) + field(6, b"storm %d" % sequence)
    app = field(1, b"app") + field(5, breaker)
    return field(1, sequence) + field(2, time.time_ns()) + field(3, 30_000) + field(4, bench) + field(4, app)


def applied_sequence(status):
    """Field 3 of a ProxyStatus, and whether it says why it refused."""
    at, sequence, refused = 0, 0, False
    while at < len(status):
        key, at = read_varint(status, at)
        number, at = read_varint(status, at)
        if key >> 3 == 3:
            sequence = number
        if key & 7 == 2:
            refused |= key >> 3 == 4
            at += number
    return sequence, refused


def read_varint(data, at):
    number = shift = 0
    while True:
        byte = data[at]
        number, at, shift = number | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return number, at


class ControlPlane(grpc.GenericRpcHandler):
    """Sends sets at a pace and notes when each was said to be in force."""

    def __init__(self):
        self.begin, self.over = asyncio.Event(), asyncio.Event()
        self.sent, self.took_ms, self.refused, self.answers = {}, [], 0, 0

    def service(self, call):
        if call.method == "/weir.policy.v1.PolicyService/Subscribe":
            return grpc.stream_stream_rpc_method_handler(self.subscribe, lambda data: data, lambda data: data)
        return None

    async def subscribe(self, statuses, context):
        listening = asyncio.create_task(self.listen(statuses))
        await self.begin.wait()
        began, sequence = time.perf_counter(), 0
        while sequence < RATE * SECONDS:
            due = began + sequence / RATE
            if due > time.perf_counter():
                await asyncio.sleep(due - time.perf_counter())
            sequence += 1
            self.sent[sequence] = time.perf_counter()
            await context.write(policy_set(sequence))
        self.lasted_s = time.perf_counter() - began
        await asyncio.sleep(2)
        self.over.set()
        await listening

    async def listen(self, statuses):
        async for status in statuses:
            now, (sequence, refused) = time.perf_counter(), applied_sequence(status)
            self.answers, self.refused = self.answers + 1, self.refused + refused
            for known in [known for known in self.sent if known <= sequence]:
                self.took_ms.append((now - self.sent.pop(known)) * 1e3)


def upstream(processes, work):
    body = "x" * 1024
    (work / "upstream.conf").write_text(f"""daemon off; pid {work}/upstream.pid; worker_processes 1; error_log /dev/null; events {{ }}
http {{ access_log off; keepalive_requests 100000000; server {{ listen 127.0.0.1:{UPSTREAM}; location / {{ return 200 "{body}"; }} }} }}
""")
    processes.start("upstream", 0, "nginx", "-c", work / "upstream.conf")


def proxy(processes, work, control):
    config = {"service": "bench", "threads": 1, "admin": f"127.0.0.1:{ADMIN}",
              "listeners": [{"address": f"127.0.0.1:{LISTENER}", "direction": "inbound", "routes": [{"upstream": "app"}]}],
              "upstreams": [{"name": "app", "endpoints": [f"127.0.0.1:{UPSTREAM}"]}],
              "policy": {"from": f"http://127.0.0.1:{control}", "state_dir": str(work / "state")}}
    (work / "state").mkdir()
    (work / "proxy.json").write_text(json.dumps(config))
    processes.start("proxy", 1, PROXY, "--config", work / "proxy.json")
    wait_for(LISTENER, "proxy", work)


async def load(work, seconds):
    """Requests answered with 200, all others, and p50, p99 and most of the latencies in ms."""
    log = work / "load.tsv"
    log.unlink(missing_ok=True)
    command = ["taskset", "-c", "0", "h2load", "--h1", f"-c{CLIENTS}", f"-D{seconds}", f"--rps={REQUESTS_PER_S / CLIENTS}", f"--log-file={log}", f"http://127.0.0.1:{LISTENER}/"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = (await process.communicate())[0].decode()
    total, done = (int(re.search(rf"requests: .*?(\d+) {word}", said).group(1)) for word in ("total", "done"))
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    times = sorted(int(row[2]) / 1e3 for row in rows if row[1] == "200")
    return len(times), max(total - done, 0) + sum(row[1] != "200" for row in rows), spread(times)


def spread(times):
    times = sorted(times)
    at = lambda share: times[min(len(times) - 1, int(len(times) * share))]
    return f"p50 {at(0.5):.2f} ms, p99 {at(0.99):.2f} ms, p99.9 {at(0.999):.2f} ms, max {times[-1]:.2f} ms"


def metrics():
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


async def main():
    os.sched_setaffinity(0, {0})
    work = Path(tempfile.mkdtemp(prefix="storm-proxy-"))
    processes, control = Processes(work), ControlPlane()
    try:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((control,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        upstream(processes, work)
        proxy(processes, work, port)
        print(f"{RATE} sets/s for {SECONDS} s, two policies in each; HTTP/1.1 at {REQUESTS_PER_S}/s all the while; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before it", flush=True)
        good, lost, latencies = await load(work, CALM)
        print(f"calm, {CALM} s: {good} requests, {lost} lost; {latencies}", flush=True)
        cpu_us = processes.cpu_us("proxy")
        loading = asyncio.create_task(load(work, SECONDS + 2))
        await asyncio.sleep(1)
        control.begin.set()
        await control.over.wait()
        good, lost, latencies = await loading
        cpu_us = processes.cpu_us("proxy") - cpu_us
        counted = metrics()
        print(f"storm, {control.lasted_s:.2f} s: {good} requests, {lost} lost; {latencies}; {cpu_us / (SECONDS + 2) / 1e4:.1f} % of a CPU")
        print(f"sets sent {RATE * SECONDS}, applied {counted['weir_proxy_policies_applied_total']:.0f}, refused {counted['weir_proxy_policies_refused_total']:.0f}, never confirmed {len(control.sent)}, words of the proxy {control.answers}")
        print(f"from sent to said to be in force: {spread(control.took_ms)}")
        kept = json.loads((work / "state" / "bench.policy").read_text().split("\n", 2)[2])
        print(f"kept on disk: sequence {kept['sequence']}")
        print(f"requests shed {counted['weir_proxy_shed_total']:.0f}, failed {lost}")
    finally:
        processes.stop()
        await server.stop(0)
        shutil.rmtree(work, ignore_errors=True)


asyncio.run(main())
