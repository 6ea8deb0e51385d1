"""weir through its own doors: OTLP/HTTP in, `POST /api/v1/sql` out. Its times include HTTP and JSON."""

import http.client
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from queries import Dialect

WEB, OTLP_HTTP, OTLP_GRPC, PG = 27170, 24418, 24417, 25533
READY_S = 300
SETTLED_S = 25  # longer than it has to be quiet before files are packed again

HOT = {
    "http.request.method": "http_request_method",
    "http.route": "http_route",
    "http.response.status_code": "http_response_status_code",
    "server.address": "server_address",
}


def attribute(key, value):
    literal = value if isinstance(value, int) else f"'{value}'"
    return f"{HOT[key]} = {literal}" if key in HOT else f"attributes['{key}'] = '{value}'"


DIALECT = Dialect(
    table="spans", trace_id="hex(trace_id)", span_id="hex(span_id)",
    join_trace_id="trace_id", join_span_id="span_id", join_parent_id="parent_span_id",
    start_ns="start_unix_nano", start_order="start_unix_nano", duration_ns="duration_ns",
    service="service", operation="operation", is_error="status = 'error'", whole_span="*",
    count_if=lambda condition: f"count(*) FILTER (WHERE {condition})", p95=lambda column: f"percentile({column}, 0.95)",
    minute_ns="time_bucket('1 minute', start_unix_nano)",
    starts_between=lambda first, last, prefix: f"{prefix}start_unix_nano >= {first} AND {prefix}start_unix_nano < {last}",
    trace_is=lambda trace_id: f"trace_id = '{trace_id}'", attribute_is=attribute,
)


class Weir:
    """A server on a data folder."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = self.connection = None

    def open(self):
        listen = {"--otlp-grpc": OTLP_GRPC, "--otlp-http": OTLP_HTTP, "--web": WEB, "--pg": PG}
        flags = [part for flag, port in listen.items() for part in (flag, f"127.0.0.1:{port}")]
        if "--pg" not in subprocess.run([self.binary, "serve", "--help"], capture_output=True, text=True).stdout:
            flags = flags[:-2]
        log = open(self.folder.with_suffix(".log"), "a")
        self.process = subprocess.Popen([self.binary, "serve", "--data", str(self.folder / "data"), *flags], stderr=log, stdout=log)
        deadline = time.monotonic() + READY_S
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"weir did not get ready: see {log.name}")
            try:
                if self._get("/readyz")[0] == 200:
                    return
            except OSError:
                self.connection = None
            time.sleep(0.05)

    def close(self):
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(600)
        self.process = self.connection = None

    def load(self, sender, data, spans):
        """Sends every request, then waits until all rows are in files and no file changes any more."""
        before = self._cpu_s()
        sent = subprocess.run([sender, "send", f"http://127.0.0.1:{OTLP_HTTP}", str(data), "4"], check=True, capture_output=True, text=True)
        found = json.loads(sent.stdout)
        self._wait_settled(spans)
        found["spans_per_s"] = spans / found["seconds"]
        found["server_cpu_s"] = self._cpu_s() - before
        found["peak_rss_mib"] = self._peak_rss_mib()
        found["folder_mib"] = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()) / 2**20
        return found

    def size(self):
        status = json.loads(self._get("/api/v1/status")[1])
        return {t["name"]: {key: t[key] for key in ("bytes", "rows", "files")} for t in status["store"]["tables"] if t["rows"]}

    def query(self, statement):
        start = time.perf_counter()
        status, body = self._request("POST", "/api/v1/sql", statement, {"Content-Type": "text/plain", "Accept": "application/json"})
        ms = (time.perf_counter() - start) * 1e3
        if status != 200:
            raise RuntimeError(body.decode(errors="replace")[:500])
        answer = json.loads(body)
        names = [column["name"] for column in answer["columns"]]
        return ms, [[row.get(name) for name in names] for row in answer["rows"]]

    def version(self):
        return subprocess.run([self.binary, "--version"], capture_output=True, text=True).stdout.strip()

    def _wait_settled(self, spans):
        quiet_since, last = time.monotonic(), None
        while True:
            metrics = self._get("/metrics")[1].decode()
            memory_rows = int(re.search(r"^weir_store_memory_rows (\d+)", metrics, re.M).group(1))
            now = (memory_rows, json.dumps(self.size()))
            if now != last or memory_rows:
                quiet_since, last = time.monotonic(), now
            elif time.monotonic() - quiet_since > SETTLED_S:
                break
            time.sleep(0.5)
        stored = self.size()["spans"]["rows"]
        if stored != spans:
            print(f"!!! weir stored {stored} spans of {spans}", flush=True)

    def _cpu_s(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _peak_rss_mib(self):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", text).group(1)) // 1024

    def _get(self, path):
        return self._request("GET", path, None, {})

    def _request(self, method, path, body, headers):
        try:
            return self._try_request(method, path, body, headers)
        except ConnectionResetError:  # an idle connection was closed
            return self._try_request(method, path, body, headers)

    def _try_request(self, method, path, body, headers):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", WEB, timeout=300)
        try:
            self.connection.request(method, path, body, headers)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection = None
            if isinstance(error, http.client.RemoteDisconnected):  # a kind of ConnectionResetError
                raise
            raise OSError(str(error)) from error
