#!/usr/bin/env bash
# The sidecar beside nginx, HAProxy and Envoy: HTTP/1.1, keep-alive, 50 connections, 1 KiB answers.
# CPU per request is read from /proc, because on a shared machine it is steadier than requests per
# second. Proxies run pinned to CPU 1 with one worker, the load and the upstream on CPU 0; rounds are
# interleaved.
#
#   compare/proxy/run.sh [ROUNDS] [SECONDS]
#
# Needs nginx, haproxy, wrk. ENVOY=path adds Envoy; SERVER_BIN=path of weir adds the sidecar with every
# span emitted to a real collector (its counters are printed at the end: nothing may be dropped).
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-5} seconds=${2:-4}
weir=${PROXY_BIN:-target/release/weir-proxy}
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT

body=$(head -c 1024 /dev/zero | tr '\0' x)
cat > "$work/upstream.conf" <<CONF
daemon off; pid $work/up.pid; worker_processes 1; error_log /dev/null;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 1000000; server { listen 127.0.0.1:18000; location / { return 200 "$body"; } } }
CONF
cat > "$work/nginx.conf" <<CONF
daemon off; pid $work/ng.pid; worker_processes 1; error_log /dev/null;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 1000000;
  upstream u { server 127.0.0.1:18000; keepalive 64; keepalive_requests 1000000; }
  server { listen 127.0.0.1:18001; location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; } } }
CONF
cat > "$work/haproxy.cfg" <<CONF
global
  nbthread 1
  maxconn 1000
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  http-reuse always
frontend f
  bind 127.0.0.1:18002
  default_backend b
backend b
  server s 127.0.0.1:18000
CONF
weir_config() { # port, telemetry
    cat <<CONF
service: bench
threads: 1
listeners: [{ address: "127.0.0.1:$1", direction: inbound, routes: [{ upstream: app }] }]
upstreams: [{ name: app, endpoints: ["127.0.0.1:18000"] }]
$2
CONF
}
weir_config 18003 "" > "$work/weir.yaml"
weir_config 18004 'admin: 127.0.0.1:18021
telemetry: { otlp: "http://127.0.0.1:18010", span_ratio: 1.0 }' > "$work/weir-traced.yaml"
cat > "$work/envoy.yaml" <<CONF
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: 18005 } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          route_config: { virtual_hosts: [{ name: v, domains: ["*"], routes: [{ match: { prefix: "/" }, route: { cluster: c } }] }] }
          http_filters: [{ name: envoy.filters.http.router, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }]
  clusters:
  - name: c
    connect_timeout: 1s
    load_assignment: { cluster_name: c, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 18000 } } } }] }] }
CONF

start() { # cpu, name, command…
    local cpu=$1 name=$2; shift 2
    taskset -c "$cpu" "$@" > "$work/$name.log" 2>&1 &
    pids+=($!)
    declare -g "pid_$name=$!"
}
start 0 upstream nginx -c "$work/upstream.conf"
start 1 nginx nginx -c "$work/nginx.conf"
start 1 haproxy haproxy -db -f "$work/haproxy.cfg"
start 1 weir "$weir" --config "$work/weir.yaml"
names=(nginx haproxy weir)
declare -A port=([nginx]=18001 [haproxy]=18002 [weir]=18003 [traced]=18004 [envoy]=18005)
if [ -n "${SERVER_BIN:-}" ]; then
    start 0 collector "$SERVER_BIN" serve --data "$work/data" --otlp-grpc 127.0.0.1:18010 --otlp-http 127.0.0.1:0 --web 127.0.0.1:0
    start 1 traced "$weir" --config "$work/weir-traced.yaml"
    names+=(traced)
fi
if [ -n "${ENVOY:-}" ]; then
    start 1 envoy "$ENVOY" -c "$work/envoy.yaml" --concurrency 1 --use-dynamic-base-id --log-level error
    names+=(envoy)
fi
for name in "${names[@]}"; do
    for _ in $(seq 100); do curl -sf -o /dev/null "http://127.0.0.1:${port[$name]}/" && break; sleep 0.1; done
done

# user and system ticks of a process and its children (nginx works in one)
ticks() { cat /proc/"$1"/stat $(pgrep -P "$1" | sed 's|.*|/proc/&/stat|') 2>/dev/null | awk '{ sum += $14 + $15 } END { print sum }'; }
rss() { cat /proc/"$1"/status $(pgrep -P "$1" | sed 's|.*|/proc/&/status|') 2>/dev/null | awk '/VmRSS/ { sum += $2 } END { print sum }'; }
hz=$(getconf CLK_TCK)
echo "round,proxy,requests,requests_per_s,cpu_us_per_request,p50_ms,p99_ms,rss_kib"
for round in $(seq "$rounds"); do
    for name in "${names[@]}"; do
        pid_var=pid_$name pid=${!pid_var}
        before=$(ticks "$pid")
        taskset -c 0 wrk -t1 -c50 -d"${seconds}s" --latency "http://127.0.0.1:${port[$name]}/" > "$work/wrk.txt"
        after=$(ticks "$pid")
        awk -v round="$round" -v name="$name" -v ticks=$((after - before)) -v hz="$hz" -v rss="$(rss "$pid")" '
            function ms(t) { if (t ~ /us$/) return t / 1000; if (t ~ /ms$/) return t + 0; return t * 1000 }
            /50%/ { p50 = ms($2) } /99%/ { p99 = ms($2) } /requests in/ { n = $1 } /Requests\/sec/ { rate = $2 } /Non-2xx/ { bad = $NF }
            END { if (bad) name = name "(non-2xx " bad ")"; printf "%s,%s,%d,%.0f,%.2f,%.3f,%.3f,%d\n", round, name, n, rate, ticks / hz * 1e6 / n, p50, p99, rss }' "$work/wrk.txt"
    done
done
[ -z "${SERVER_BIN:-}" ] || { sleep 2; curl -s http://127.0.0.1:18021/metrics | grep "^weir_proxy_spans" | sed 's/^/# /'; }
