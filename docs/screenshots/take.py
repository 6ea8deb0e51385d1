"""Takes the pictures in this folder from a running demo: take.py http://127.0.0.1:7070 [PAGE…]

Run it while `weir demo --duration 120s` shows the fault. Needs `pip install playwright` and a Chromium.
"""

import json
import pathlib
import shutil
import sys
import urllib.request

from playwright.sync_api import sync_playwright

web = sys.argv[1].rstrip("/")
chromium = shutil.which("chromium")
here = pathlib.Path(__file__).parent


def newest_trace():
    with urllib.request.urlopen(f"{web}/api/v1/traces?service=generator&min_duration_ms=100&limit=1") as answer:
        return json.load(answer)["traces"][0]["trace_id"]


slowest = "SELECT trace_id, service, operation, duration_ns / 1e6 AS duration_ms, queue_wait_ns / 1e6 AS queue_wait_ms FROM spans WHERE direction = 'inbound' ORDER BY duration_ns DESC LIMIT 15"
pages = {
    "graph": "/",
    "service": "/?service=tagger",
    "critical-path": "/critical-path?service=gateway&from=-15m",
    "traces": "/traces?service=tagger",
    "trace": f"/traces/{newest_trace()}",
    "sql": f"/sql?q={urllib.request.quote(slowest)}",
    "findings": "/findings",
    "policy": "/policy",
    "alerts": "/alerts",
}
pages = {name: path for name, path in pages.items() if not sys.argv[2:] or name in sys.argv[2:]}
wrong = []
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    for scheme in ["light", "dark"]:
        context = browser.new_context(viewport={"width": 1440, "height": 860}, color_scheme=scheme)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(web) else wrong.append(f"off the origin: {request.url}"))
        for name, path in pages.items():
            page.goto(web + path)
            page.screenshot(path=here / f"{name}-{scheme}.png")
        context.close()
    browser.close()
sys.exit("\n".join(wrong) if wrong else 0)
