#!/usr/bin/env bash
# Autobahn's WebSocket suite through the proxy, and beside it against the same server directly: what the proxy adds or takes
# away is what differs between the two.
#
#   PYTHON2=/path/to/python2.7 compare/proxy/autobahn.sh
#
#   PYTHON2     an interpreter with pip: the suite is Python 2 (autobahntestsuite 0.8.2; 25.10.1 installs with Python 3 and
#               does not start, because it imports its own modules the old way)
#   PROXY_BIN   weir-proxy    [target/release/weir-proxy]
#   REPORTS     a folder that keeps what was said in each case
#   CASES       which cases   ["1.* 2.* 3.* 4.* 5.* 6.* 7.* 9.* 10.*"; 12.* and 13.*, compression, take the suite's server half an hour]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
proxy=${PROXY_BIN:-$here/../../target/release/weir-proxy}
[ -x "$proxy" ] || { echo "build first: cargo build --release --locked -p weir-proxy" >&2; exit 2; }
packages=${XDG_CACHE_HOME:-$HOME/.cache}/weir-autobahn
[ -d "$packages/autobahntestsuite" ] || "${PYTHON2:-python2.7}" -m pip install --quiet --disable-pip-version-check --target "$packages" autobahntestsuite==0.8.2
wstest() {
    exec "${PYTHON2:-python2.7}" -c 'import site, sys; site.addsitedir(sys.argv[1]); sys.path.insert(0, sys.argv.pop(1)); from autobahntestsuite.wstest import run; run()' "$packages" "$@"
}
work=$(mktemp -d)
reports=${REPORTS:-$work/reports}
started=()
trap 'kill "${started[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
# the suite's server refuses a Host with a port that is not its own
cat > "$work/proxy.yaml" <<YAML
service: app
threads: 1
listeners: [{ address: "127.0.0.1:18280", direction: inbound, routes: [{ upstream: app, rewrite: { host: "127.0.0.1:18281" } }] }]
upstreams: [{ name: app, endpoints: ["127.0.0.1:18281"] }]
YAML
read -r -a cases <<< "${CASES:-1.* 2.* 3.* 4.* 5.* 6.* 7.* 9.* 10.*}"
cat > "$work/spec.json" <<JSON
{ "outdir": "$reports", "cases": [$(printf '"%s",' "${cases[@]}" | sed 's/,$//')], "exclude-cases": [], "exclude-agent-cases": {},
  "servers": [{ "agent": "direct", "url": "ws://127.0.0.1:18281" }, { "agent": "weir", "url": "ws://127.0.0.1:18280" }] }
JSON
(wstest -m testeeserver -w ws://127.0.0.1:18281 > "$work/server.log" 2>&1) & started+=($!)
"$proxy" --config "$work/proxy.yaml" > "$work/proxy.log" 2>&1 & started+=($!)
for port in 18280 18281; do
    for _ in $(seq 100); do (exec 3<> "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
done
(wstest -m fuzzingclient -s "$work/spec.json" > "$work/client.log" 2>&1) || { tail -5 "$work/client.log" >&2; exit 1; }
python3 - "$reports/index.json" <<'PYTHON'
import collections, json, sys

agents = json.load(open(sys.argv[1]))
for agent, cases in sorted(agents.items()):
    for kind in ("behavior", "behaviorClose"):
        counts = collections.Counter(case[kind] for case in cases.values())
        print(f"{agent:7} {kind:14}", ", ".join(f"{word} {count}" for word, count in sorted(counts.items())))
number = lambda case: [int(part) for part in case.split(".")]
differ = [case for case in sorted(agents["weir"], key=number)
          if any(agents["weir"][case][kind] != agents["direct"][case][kind] for kind in ("behavior", "behaviorClose"))]
print(f"cases that end otherwise than directly: {len(differ)}")
for case in differ:
    print(" ", case, *(f"{agent}: {agents[agent][case]['behavior']}, {agents[agent][case]['behaviorClose']}" for agent in ("direct", "weir")))
PYTHON
