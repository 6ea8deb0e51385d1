"""Types at the prompt of `weir sql` on a terminal: prompt.py WEIR URL. Each line it prints is something seen."""

import os
import pty
import select
import signal
import sys
import time

ENDLESS = (
    "SELECT count(*) FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b "
    "CROSS JOIN generate_series(1, 1000000) c WHERE a.value + b.value + c.value < 0;\r"
)
DEADLINE = time.monotonic() + 120


def main():
    weir, url = sys.argv[1:]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(weir, [weir, "sql", "--url", url])

    seen = b""

    def wait_for(text):
        """Reads on from where the last text ended."""
        nonlocal seen
        while text not in seen:
            if not select.select([terminal], [], [], max(0, DEADLINE - time.monotonic()))[0]:
                sys.exit(f"never saw {text!r} in {seen!r}")
            seen += os.read(terminal, 65536)
        seen = seen.split(text, 1)[1]

    def type_in(text):
        os.write(terminal, text.encode())

    wait_for(b"weir> ")
    type_in("SELECT attributes['http.request.m\t AS method, servic\t FROM spans;\r")
    wait_for(b"PATCH")
    print("completed")
    wait_for(b"row(s)")
    wait_for(b"weir> ")
    type_in(ENDLESS)
    wait_for(b"Ctrl-C cancels")
    print("progress")
    os.write(terminal, b"\x03")
    wait_for(b"cancelled")
    wait_for(b"weir> ")
    print("cancelled")
    type_in("SELECT 6 * 7 AS answer;\r")
    wait_for(b"42")
    wait_for(b"row(s)")
    wait_for(b"weir> ")
    # what was asked before comes back
    type_in("\x1b[A\r")
    wait_for(b"42")
    print("history")
    wait_for(b"row(s)")
    wait_for(b"weir> ")
    # several lines in one piece, and what is typed while a statement runs
    type_in("SELECT 'pasted ' || 1 AS a;\rSELECT 'pasted ' ||\r 2 AS a;\rSELECT 'pasted ' || 3 AS a;\r")
    for answer in [b" pasted 1 ", b" pasted 2 ", b" pasted 3 "]:
        wait_for(answer)
    wait_for(b"row(s)")
    wait_for(b"weir> ")
    print("pasted")
    type_in(ENDLESS)
    wait_for(b"Ctrl-C cancels")
    type_in("SELECT 'ahead ' || 1 AS a;\nSELECT 'ahead ' || 2 AS a;\n")
    # the key would take what was typed before it, as at every terminal
    os.kill(pid, signal.SIGINT)
    for answer in [b" ahead 1 ", b" ahead 2 "]:
        wait_for(answer)
    wait_for(b"row(s)")
    wait_for(b"weir> ")
    print("ahead")
    type_in("\\q\r")
    while True:
        try:
            if not os.read(terminal, 65536):
                break
        except OSError:
            break
    print("exit", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


main()
