"""Parts that the measurements share: processes, certificates, waiting for a port."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

HZ = os.sysconf("SC_CLK_TCK")
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
ALTERNATIVES = {"upstream": "DNS:upstream.test", "client": "URI:spiffe://bench.test/ns/default/sa/client"}


class Processes:
    """Everything that was started, each pinned to a CPU."""

    def __init__(self, work):
        self.work, self.running = work, {}

    def start(self, name, cpu, *command):
        log = open(self.work / f"{name}.log", "wb")
        self.running[name] = subprocess.Popen(["taskset", "-c", str(cpu), *map(str, command)], stdout=log, stderr=log)

    def stop(self):
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def family(self, name):
        """A process and its children: nginx works in one."""
        pid = self.running[name].pid
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
        return [str(pid), *children]

    def cpu_us(self, name):
        stats = (Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in self.family(name))
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / HZ * 1e6

    def rss_kib(self, name):
        status = (Path(f"/proc/{pid}/status").read_text() for pid in self.family(name))
        return sum(int(found.group(1)) for text in status if (found := re.search(r"VmRSS:\s+(\d+)", text)))


def certificates(work):
    run("openssl", "req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca", cwd=work)
    for name in ALTERNATIVES:
        issue(work, name)


def issue(work, name):
    """A new key and certificate; each file is replaced whole."""
    (work / f"{name}.ext").write_text(f"subjectAltName={ALTERNATIVES.get(name, ALTERNATIVES['client'])}\n")
    run("openssl", "req", *KEY, "-keyout", "new.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", cwd=work)
    run("openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "new.pem", "-days", "2", "-extfile", f"{name}.ext", cwd=work)
    (work / f"{name}.both").write_text((work / "new.pem").read_text() + (work / "new.key").read_text())
    for kind in ("key", "pem"):
        (work / f"new.{kind}").rename(work / f"{name}.{kind}")


def run(*command, cwd):
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)


def wait_for(port, name, work):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{name} does not listen on {port}: {(work / f'{name}.log').read_text(errors='replace')[-2000:]}")
