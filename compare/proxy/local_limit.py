"""How fast a sidecar limits its service by itself: an upstream with c workers, load that steps over what they can do while no control
plane is there. Prints the time from the moment the first request has waited longer than allowed to the moment the limit is set (the
proxy's own log says when), and to the first request that is turned away.

    compare/proxy/local_limit.py [ROUNDS]     [5]
    PROXY_BIN                                 weir-proxy [target/release/weir-proxy]

The upstream writes down when each request came and when a worker took it up, so the wait is that of the workers, not the
proxy's opinion. Arrivals are Poisson, first half of the capacity for 5 s, then a multiple for 3 s or ten service times; nobody waits for an answer before
asking more. Proxy on CPU 1, the rest on CPU 0.
"""

import asyncio
import datetime
import json
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from parts import Processes, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
PROXY = os.environ.get("PROXY_BIN", str(ROOT / "target/release/weir-proxy"))
LISTENER = 18100
CALM_S = 5.0
WAIT_MS = 50
# workers, service time in s, how it is spread, load over capacity
CASES = [(4, 0.020, "constant", 1.5), (4, 0.020, "constant", 3), (4, 0.020, "exponential", 1.5), (4, 0.020, "exponential", 3), (16, 0.050, "exponential", 2), (1, 0.005, "exponential", 2), (8, 0.400, "exponential", 3)]


class Upstream:
    """c workers, first come first served."""

    def __init__(self, workers, service_s, spread):
        self.workers, self.service_s, self.spread = asyncio.Semaphore(workers), service_s, spread
        self.taken_up = []  # (when it came, when a worker took it up)

    async def serve(self, reader, writer):
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                came = time.time()
                async with self.workers:
                    self.taken_up.append((came, time.time()))
                    await asyncio.sleep(self.service_s if self.spread == "constant" else random.expovariate(1 / self.service_s))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()

    def first_too_long(self, since):
        """When a request first had waited longer than allowed, and when one that had was first taken up."""
        late = [(came, taken) for came, taken in self.taken_up if came >= since and taken - came > WAIT_MS / 1e3]
        return (min(came for came, _ in late) + WAIT_MS / 1e3, min(taken for _, taken in late)) if late else (None, None)


class Client:
    """Asks without waiting for what was asked before."""

    def __init__(self):
        self.idle, self.answers, self.asked = [], [], set()

    async def one(self):
        began = time.time()
        try:
            reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", LISTENER)
            writer.write(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head).group(1)))
            self.idle.append((reader, writer))
            reason = re.search(rb"x-weir-reason: (\w+)", head)
            self.answers.append((began, time.time(), int(head[9:12]), reason.group(1).decode() if reason else ""))
        except (OSError, asyncio.IncompleteReadError, AttributeError) as error:
            self.answers.append((began, time.time(), 0, repr(error)))

    async def ask(self, rate_per_s, seconds):
        due, end = time.time(), time.time() + seconds
        while (due := due + random.expovariate(rate_per_s)) < end:
            await asyncio.sleep(max(0.0, due - time.time()))
            task = asyncio.create_task(self.one())
            self.asked.add(task)
            task.add_done_callback(self.asked.discard)


def proxy(processes, work, upstream, workers):
    config = {"service": "app", "servers": workers, "threads": 1,
              "listeners": [{"address": f"127.0.0.1:{LISTENER}", "direction": "inbound", "routes": [{"upstream": "app"}]}],
              "upstreams": [{"name": "app", "endpoints": [f"127.0.0.1:{upstream}"]}],
              "limits": {"local_limit": {"queue_wait_ms": WAIT_MS}}}
    (work / "proxy.json").write_text(json.dumps(config))
    processes.start("proxy", 1, PROXY, "--config", work / "proxy.json")
    wait_for(LISTENER, "proxy", work)


def limited_at(work):
    """When and to how many, by the proxy's log."""
    log = re.sub(r"\x1b\[[0-9;]*m", "", (work / "proxy.log").read_text(errors="replace"))
    line = re.search(r"^(\S+Z).*limited here.*?limit=(\d+)", log, re.M)
    return (datetime.datetime.fromisoformat(line.group(1)).timestamp(), int(line.group(2))) if line else (None, None)


async def round_of(case, number):
    workers, service_s, spread, over = case
    random.seed(number)
    work = Path(tempfile.mkdtemp(prefix="local-limit-"))
    processes, upstream, client = Processes(work), Upstream(workers, service_s, spread), Client()
    try:
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
        proxy(processes, work, server.sockets[0].getsockname()[1], workers)
        capacity = workers / service_s
        await client.ask(capacity / 2, CALM_S)
        step = time.time()
        lasts_s = max(3.0, 10 * service_s)
        await client.ask(capacity * over, lasts_s)
        await asyncio.gather(*client.asked)
        return judged(upstream, client, step, step + lasts_s, *limited_at(work))
    finally:
        processes.stop()
        server.close()
        shutil.rmtree(work, ignore_errors=True)


def judged(upstream, client, step, end, limited, limit):
    crossed, taken_up = upstream.first_too_long(step)
    refused = min((at for began, at, status, _ in client.answers if status == 503 and began >= step), default=None)
    last_second = [taken - came for came, taken in upstream.taken_up if end - 1 <= taken <= end]
    since = lambda at, of: None if at is None or of is None else (at - of) * 1e3
    return {"crossed": since(crossed, step), "limit": since(limited, crossed), "of_answer": since(limited, taken_up), "refused": since(refused, crossed), "to": limit,
            "before": sum(began < step and status != 200 for began, _, status, _ in client.answers), "shed": sum(status == 503 for _, _, status, _ in client.answers), "asked": len(client.answers),
            "failed": sum(status not in (200, 503) for _, _, status, _ in client.answers),
            "wait_p50": statistics.median(last_second) * 1e3, "wait_max": max(last_second) * 1e3}


async def main():
    os.sched_setaffinity(0, {0})
    print(f"local_limit: {{ queue_wait_ms: {WAIT_MS} }}, no control plane; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before it. Times in ms.")
    print("limit, refused: from the moment a request had first waited too long to the limit and to the first refusal; in the\nbrackets the limit from the moment such a request was taken up, its wait being known only then. Negative: before anybody waited too long.")
    for case in CASES:
        workers, service_s, spread, over = case
        rows = [await round_of(case, number) for number in range(ROUNDS)]
        print(f"\n{workers} workers of {service_s * 1e3:g} ms, {spread}, {over} × capacity")
        for row in rows:
            told = lambda key: "never" if row[key] is None else f"{row[key]:.0f}"
            print(f"  too long {told('crossed')} after the step; limit {told('limit')} ({told('of_answer')}) to {row['to']}, refused {told('refused')}; waits at the workers in the last second p50 {row['wait_p50']:.0f}, max {row['wait_max']:.0f}; {row['asked']} asked, {row['shed']} shed, {row['before']} before the step, {row['failed']} failed", flush=True)
        acted = [row["limit"] for row in rows if row["limit"] is not None]
        within = sum(limit <= 100 for limit in acted)
        print(f"  within 100 ms: {within} of {len(rows)}; median {statistics.median(acted):.0f}, most {max(acted):.0f}" if acted else "  never")


asyncio.run(main())
