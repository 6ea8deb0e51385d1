"""What each proxy is told: the same six listeners, one for each case, all to the same upstreams."""

import json

# case → (listener's offset, upstream)
UPSTREAMS = {"h1": 18000, "h2": 18000, "grpc": 18050, "sse": 18060, "mtls": 18070, "mtls-in": 18000}
OFFSETS = {case: place for place, case in enumerate(UPSTREAMS)}


def nginx(ports, work):
    servers = "\n".join(_nginx_server(case, port, work) for case, port in ports.items())
    return f"""daemon off; pid {work}/nginx-peer.pid; worker_processes 1; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000;
{"".join(f"upstream {case} {{ server 127.0.0.1:{UPSTREAMS[case]}; keepalive 64; keepalive_requests 100000000; }}" for case in ports)}
{servers} }}
"""


def _nginx_server(case, port, work):
    http2 = " http2" if case in ("h2", "grpc") else ""
    if case == "grpc":
        location = "grpc_pass grpc://grpc;"
    else:
        scheme = "https" if case == "mtls" else "http"
        location = f'proxy_pass {scheme}://{case}; proxy_http_version 1.1; proxy_set_header Connection "";'
    if case == "sse":
        location += " proxy_buffering off;"
    if case == "mtls":
        location += (f" proxy_ssl_certificate {work}/client.pem; proxy_ssl_certificate_key {work}/client.key;"
                     f" proxy_ssl_trusted_certificate {work}/ca.pem; proxy_ssl_verify on; proxy_ssl_name upstream.test; proxy_ssl_session_reuse on;")
    if case == "mtls-in":
        http2 = f" ssl; ssl_certificate {work}/upstream.pem; ssl_certificate_key {work}/upstream.key; ssl_client_certificate {work}/ca.pem; ssl_verify_client on"
    return f"server {{ listen 127.0.0.1:{port}{http2}; location / {{ {location} }} }}"


def haproxy(ports, work):
    text = """global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  http-reuse always
"""
    for case, port in ports.items():
        inbound = " proto h2" if case in ("h2", "grpc") else ""
        if case == "mtls-in":
            inbound = f" ssl crt {work}/upstream.both ca-file {work}/ca.pem verify required"
        server = " proto h2" if case == "grpc" else ""
        if case == "mtls":
            server = f" ssl verify required ca-file {work}/ca.pem crt {work}/client.both sni str(upstream.test)"
        text += f"frontend f_{case}\n  bind 127.0.0.1:{port}{inbound}\n  default_backend b_{case}\nbackend b_{case}\n  server s 127.0.0.1:{UPSTREAMS[case]}{server}\n"
    return text


def envoy(ports, work, collector=None):
    manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    type_of = lambda name: f"type.googleapis.com/{name}"
    listeners, clusters = [], []
    for case, port in ports.items():
        config = {
            "@type": type_of(manager), "stat_prefix": case, "codec_type": "AUTO",
            "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": case, "timeout": "60s"}}]}]},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": type_of("envoy.extensions.filters.http.router.v3.Router")}}],
        }
        if collector:
            config["tracing"] = {"random_sampling": {"value": 100}, "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": {
                "@type": type_of("envoy.config.trace.v3.OpenTelemetryConfig"), "service_name": "bench", "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}}}}}
        chain = {"filters": [{"name": manager, "typed_config": config}]}
        if case == "mtls-in":
            chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": type_of("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"), "require_client_certificate": True,
                "common_tls_context": _envoy_certificates(work, "upstream")}}
        listeners.append({"address": _address(port), "filter_chains": [chain]})
        clusters.append(_envoy_cluster(case, UPSTREAMS[case], work, http2=case == "grpc", tls=case == "mtls"))
    if collector:
        clusters.append(_envoy_cluster("collector", collector, work, http2=True, tls=False))
    return json.dumps({"static_resources": {"listeners": listeners, "clusters": clusters}})


def _address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy_cluster(name, port, work, http2, tls):
    cluster = {"name": name, "connect_timeout": "1s", "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}]}}
    if http2:
        cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}
    if tls:
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni": "upstream.test",
            "common_tls_context": _envoy_certificates(work, "client")}}
    return cluster


def _envoy_certificates(work, name):
    file = lambda name: {"filename": f"{work}/{name}"}
    return {"tls_certificates": [{"certificate_chain": file(f"{name}.pem"), "private_key": file(f"{name}.key")}], "validation_context": {"trusted_ca": file("ca.pem")}}


def weir(ports, work, admin, collector=None, full=False):
    """`full`: twenty routes that do not match before the one that does, and limits that admit everything."""
    listeners, upstreams = [], []
    for case, port in ports.items():
        routes = [{"name": case, "upstream": case}]
        if full:
            misses = [{"name": f"{case}-miss-{n}", "upstream": case, "match": {"path_prefix": f"/api/v{n}", "headers": {"x-tenant": {"exact": f"t{n}"}}}} for n in range(20)]
            routes = misses + routes
        listener = {"address": f"127.0.0.1:{port}", "direction": "inbound", "routes": routes}
        if case == "mtls-in":
            listener["tls"] = {"certificate": f"{work}/upstream.pem", "key": f"{work}/upstream.key", "trust": f"{work}/ca.pem"}
        listeners.append(listener)
        upstream = {"name": case, "endpoints": [f"127.0.0.1:{UPSTREAMS[case]}"], "protocol": "h2" if case == "grpc" else "http1"}
        if case == "mtls":
            upstream["tls"] = {"certificate": f"{work}/client.pem", "key": f"{work}/client.key", "trust": f"{work}/ca.pem", "verify": {"server_name": "upstream.test"}}
        upstreams.append(upstream)
    config = {"service": "bench", "threads": 1, "admin": f"127.0.0.1:{admin}", "listeners": listeners, "upstreams": upstreams}
    if full:
        config["limits"] = {"concurrency_limit": {"limit": 1000, "queue": 1000, "queue_timeout_ms": 1000}, "rate_limit": {"rate_per_s": 1_000_000, "burst": 100_000}}
    if collector:
        config["telemetry"] = {"otlp": f"http://127.0.0.1:{collector}", "span_ratio": 1.0}
    return json.dumps(config)
