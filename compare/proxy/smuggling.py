#!/usr/bin/env python3
"""The corpus of raw requests against weir-proxy, nginx and HAProxy, side by side.

    apt-get install -y --no-install-recommends nginx-light haproxy
    cargo build -p weir-proxy && compare/proxy/smuggling.py [target/debug/weir-proxy] > compare/proxy/runs/smuggling-DATE.txt

Behind each proxy stands an upstream that writes down every byte and reads it as strictly as can be.
For each request the table says what the client was answered and what the upstream saw:

    400        refused: nothing reached the upstream
    cut 400    the upstream saw a part, never all of it
    1, 2       so many whole requests reached the upstream
    !          what reached the upstream is not one sound request after the other

`differs` marks rows in which a proxy did not do what the corpus asks of ours. The other two follow
their own rules, and most of those are allowed by RFC 9112; `!` is not.
"""
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

CORPUS = pathlib.Path(__file__).parent.parent.parent / "proxy/tests/smuggling/corpus"
QUIET_S = 0.15
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

NGINX = """daemon off; pid {work}/nginx.pid; worker_processes 1; error_log /dev/null;
events {{ worker_connections 256; }}
http {{ access_log off; client_header_timeout 1s; client_body_timeout 1s;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1;
    proxy_request_buffering off; proxy_set_header Connection ""; proxy_set_header Host $http_host; }} }} }}
"""
HAPROXY = """global
  nbthread 1
defaults
  mode http
  timeout connect 1s
  timeout client 1s
  timeout server 1s
  timeout http-request 1s
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server s 127.0.0.1:{upstream}
"""
WEIR = """service: app
threads: 1
timeouts: {{ header_read_ms: 1000, drain_ms: 100 }}
listeners: [{{ address: "127.0.0.1:{port}", direction: inbound, routes: [{{ upstream: app }}] }}]
upstreams: [{{ name: app, endpoints: ["127.0.0.1:{upstream}"] }}]
"""


def cases():
    for file in sorted(CORPUS.glob("*.txt")):
        for section in file.read_text().split("\n=== ")[1:]:
            title, lines = section.split("\n", 1)
            verdict, name = title.split(" | ", 1)
            yield file.stem, name, verdict, b"".join(map(unescape, lines.split("\n")))


def unescape(line):
    def replace(match):
        text = match.group(0)
        if text[1] == "x":
            return chr(int(text[2:], 16))
        if text[1] == "{":
            what, times = text[2:-1].split("*")
            return what * int(times)
        return {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}[text[1]]

    return re.sub(r"\\(?:x[0-9a-f]{2}|\{[^}]*\}|.)", replace, line).encode("latin-1")


class Recorder:
    """An upstream that answers one request a connection and keeps what it got."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.connections = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        record = {"bytes": b"", "requests": 0, "unsound": False}
        connections = self.connections
        connections.append(record)
        connection.settimeout(2)
        try:
            while chunk := connection.recv(65536):
                record["bytes"] += chunk
                end, sound = whole(record["bytes"])
                record["unsound"] |= not sound
                if end and sound:
                    record["requests"] += 1
                    record["unsound"] |= end != len(record["bytes"])
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    return
                if not sound:
                    connection.sendall(b"HTTP/1.1 400 Unsound\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    return
        except OSError:
            pass
        finally:
            connection.close()


def whole(data):
    """Where the first request ends (0: not yet), and whether everything so far is sound."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return 0, b"\n" not in data.replace(b"\r\n", b"")
    line, *fields = head.split(b"\r\n")
    if not re.fullmatch(TOKEN + rb" [!-~\x80-\xff]+ HTTP/1\.[01]", line) or b"\n" in head.replace(b"\r\n", b""):
        return 0, False
    named = {}
    for field in fields:
        name, colon, value = field.partition(b":")
        if not colon or not re.fullmatch(TOKEN, name) or re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
            return 0, False
        named.setdefault(name.lower(), []).append(value.strip())
    lengths, codings = named.get(b"content-length", []), named.get(b"transfer-encoding", [])
    if len(lengths) + len(codings) > 1 or len(named.get(b"host", [])) > 1:
        return 0, False
    at = len(head) + 4
    if lengths:
        if not lengths[0].isdigit():
            return 0, False
        end = at + int(lengths[0])
        return (end if len(data) >= end else 0), True
    if codings:
        if codings[0].lower() != b"chunked":
            return 0, False
        return chunks(data, at)
    return at, True


def chunks(data, at):
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return 0, b"\n" not in data[at:]
        size = re.fullmatch(rb"([0-9a-fA-F]{1,16})(;[ -~]*)?", data[at:end])
        if not size:
            return 0, False
        size, at = int(size.group(1), 16), end + 2
        if size == 0:
            end = data.find(b"\r\n\r\n", at - 2)
            return (end + 4 if end >= 0 else 0), True
        if len(data) < at + size + 2:
            return 0, True
        if data[at + size : at + size + 2] != b"\r\n":
            return 0, False
        at += size + 2


def ask(port, data):
    answer = b""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        try:
            connection.sendall(data)
            connection.settimeout(3)
            while chunk := connection.recv(65536):
                answer += chunk
                connection.settimeout(QUIET_S)
        except OSError:
            pass
    return re.findall(rb"HTTP/1\.[01] (\d{3})", answer)


def outcome(recorder, port, data):
    recorder.connections = []
    statuses = [status.decode() for status in ask(port, data)]
    time.sleep(0.01)
    seen = [record for record in recorder.connections if record["bytes"]]
    requests = sum(record["requests"] for record in seen)
    status = statuses[-1] if statuses else "closed"
    if any(record["unsound"] for record in seen):
        return "!", f"! {requests}"
    if requests:
        return f"passed {requests}", str(requests)
    return ("cut", f"cut {status}") if seen else ("refused", status)


def start(name, command, config, port):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{name} does not listen: {config}")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def meets(expected, got):
    """Refusing sooner than asked is no worse."""
    return got == expected or (expected == "cut" and got == "refused")


def main():
    weir = sys.argv[1] if len(sys.argv) > 1 else "target/debug/weir-proxy"
    work = tempfile.mkdtemp()
    peers = [
        ("weir-proxy", WEIR, lambda path: [weir, "--config", path], [weir, "--version"]),
        ("nginx", NGINX, lambda path: ["nginx", "-c", path], ["nginx", "-v"]),
        ("HAProxy", HAPROXY, lambda path: ["haproxy", "-f", path], ["haproxy", "-v"]),
    ]
    running = []
    for name, config, command, version in peers:
        recorder, port, path = Recorder(), free_port(), f"{work}/{name}.conf"
        text = config.format(work=work, port=port, upstream=recorder.port)
        pathlib.Path(path).write_text(text)
        said = subprocess.run(version, capture_output=True, text=True)
        print(f"# {name}: {(said.stdout or said.stderr).splitlines()[0]}")
        running.append((name, recorder, port, start(name, command(path), text, port)))
    try:
        compare(running)
    finally:
        for *_, process in running:
            process.terminate()
            process.wait()


def compare(running):
    names = [name for name, *_ in running]
    print(f"# {time.strftime('%Y-%m-%d')}\n\n{'request':58}{'asked of ours':15}" + "".join(f"{n:12}" for n in names))
    totals = {name: {"met": 0, "unsound": 0} for name in names}
    count = 0
    for theme, name, verdict, data in cases():
        row, differs = [], []
        for proxy, recorder, port, _ in running:
            got, shown = outcome(recorder, port, data)
            totals[proxy]["met"] += meets(verdict, got)
            totals[proxy]["unsound"] += got == "!"
            row.append(shown)
            differs += [] if meets(verdict, got) else [proxy]
        count += 1
        mark = f"differs: {', '.join(differs)}" if differs else ""
        print(f"{(theme + ' | ' + name)[:57]:58}{verdict:15}" + "".join(f"{cell:12}" for cell in row) + mark, flush=True)
    print(f"\n{'of ' + str(count):20}{'as asked of ours':>20}{'unsound upstream':>20}")
    for name, total in totals.items():
        print(f"{name:20}{total['met']:>20}{total['unsound']:>20}")


if __name__ == "__main__":
    main()
