"""A start with a long log: how soon a request is acked, how fast the log is replayed, and whether all is there.

A server that does not flush takes spans until its log has LOG_BYTES, and is killed. The next one starts on the
same folder, once with the default memory (it must flush while it replays) and once with room for all of it.
Started by `run.sh restart`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

SERVER, LOAD = os.environ["SERVER_BIN"], os.environ["LOAD_BIN"]
LOG_BYTES = int(os.environ.get("LOG_BYTES", 1 << 30))
PORTS = {"grpc": 24417, "http": 24418, "web": 27170}
NO_FLUSH = {"WEIR_STORE__FLUSH_AGE_MS": "3600000", "WEIR_STORE__FLUSH_ROWS": "1000000000"}
ROOM = {"WEIR_STORE__MEMORY_LIMIT_BYTES": str(16 << 30)}
SPAN = {
    "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "after", "kind": 2,
    "startTimeUnixNano": "1", "endTimeUnixNano": "2",
}


class Server:
    def __init__(self, folder, **env):
        self.log = open(f"{folder}/log", "w+")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [SERVER, "serve", "--data", f"{folder}/data", "--otlp-grpc", f"127.0.0.1:{PORTS['grpc']}", "--otlp-http",
             f"127.0.0.1:{PORTS['http']}", "--web", f"127.0.0.1:{PORTS['web']}", "--pg", "127.0.0.1:0"],
            stderr=self.log, env={**os.environ, **env},
        )

    def cpu_s(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, how):
        self.process.send_signal(how)
        self.process.wait(120)


def post(path, port, body):
    request = urllib.request.Request(f"http://127.0.0.1:{PORTS[port]}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or "{}")


def until(what, seconds=300):
    end = time.monotonic() + seconds
    while True:
        try:
            if (found := what()) is not None:
                return found
        except (OSError, urllib.error.URLError):
            pass
        if time.monotonic() > end:
            raise SystemExit(f"not after {seconds} s")
        time.sleep(0.002)


def spans_stored():
    return post("/api/v1/sql", "web", {"query": "SELECT count(*) AS n FROM spans"})["rows"][0]["n"]


def fill(folder):
    """Spans in the log of a server that was killed."""
    server = Server(folder, **NO_FLUSH, **ROOM)
    until(lambda: urllib.request.urlopen(f"http://127.0.0.1:{PORTS['web']}/readyz").status)
    wal, acked, seed = Path(f"{folder}/data/wal"), 0, 1
    while sum(file.stat().st_size for file in wal.glob("*.log")) < LOG_BYTES:
        out = tempfile.mktemp()
        subprocess.run([LOAD, "grpc", "plain", f"http://127.0.0.1:{PORTS['grpc']}", str(seed), "8", "2000", "2", "0", "honour", out], check=True)
        acked += 2000 * sum(line.endswith(" acked\n") for line in open(out))
        os.unlink(out)
        seed += 1
    server.stop(signal.SIGKILL)
    return acked, sum(file.stat().st_size for file in wal.glob("*.log"))


def restart(name, folder, acked, log_bytes, **env):
    server = Server(folder, **env)
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [SPAN]}]}]}
    until(lambda: post("/v1/traces", "http", body))
    first_ack = time.monotonic() - server.started
    line = until(lambda: next((line for line in open(f"{folder}/log") if "log replayed" in line and line.endswith("\n")), None))
    cpu = server.cpu_s()
    took_ms = int(line.split("ms=")[1].split()[0].strip('"\x1b[0m'))
    stored = until(spans_stored)
    print(f"{name}: first ack {first_ack:.2f} s after exec; {log_bytes / 2**20:,.0f} MiB replayed in {took_ms / 1e3:.1f} s "
          f"= {log_bytes / 1e3 / took_ms:,.0f} MB/s, {log_bytes / 1e6 / cpu:,.0f} MB per CPU-second of the whole process; "
          f"acked {acked:,}, stored {stored - 1:,}, lost {acked - stored + 1:,}", flush=True)
    server.stop(signal.SIGKILL)
    return stored - 1 == acked


def main():
    folder = tempfile.mkdtemp()
    try:
        acked, log_bytes = fill(folder)
        shutil.copytree(f"{folder}/data", f"{folder}/kept")
        fine = restart("default memory", folder, acked, log_bytes)
        shutil.rmtree(f"{folder}/data")
        os.rename(f"{folder}/kept", f"{folder}/data")
        fine &= restart("room for all", folder, acked, log_bytes, **ROOM)
        sys.exit(0 if fine else 1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


main()
