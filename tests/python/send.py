"""Sends a trace, a metric and a log with the OpenTelemetry SDK, by gRPC and by HTTP.

usage: send.py GRPC_ENDPOINT HTTP_ENDPOINT; prints the two trace ids.
"""

import logging
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def send(service, spans, metrics, logs):
    resource = Resource.create({"service.name": service, "service.instance.id": "sdk-0", "tags": ["a", "b"]})
    traces = TracerProvider(resource=resource)
    traces.add_span_processor(BatchSpanProcessor(spans))
    meters = MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(metrics)])
    loggers = LoggerProvider(resource=resource)
    loggers.add_log_record_processor(BatchLogRecordProcessor(logs))
    log = logging.getLogger(service)
    log.setLevel(logging.INFO)
    log.addHandler(LoggingHandler(logger_provider=loggers))

    meter = meters.get_meter("test")
    meter.create_counter("orders", unit="{order}").add(3, {"tier": "gold"})
    meter.create_histogram("latency", unit="ms").record(12.5)
    with traces.get_tracer("test").start_as_current_span("checkout", kind=trace.SpanKind.SERVER) as span:
        span.set_attributes({"http.request.method": "POST", "cart.items": 3, "cart.total": 9.5, "gift": True, "skus": ["x", "y"]})
        with traces.get_tracer("test").start_as_current_span("charge") as child:
            child.add_event("declined", {"attempt": 1})
            log.info("charging %s", "a card")
        trace_id = f"{span.get_span_context().trace_id:032x}"
    for provider in (traces, meters, loggers):
        if provider.force_flush() is False:
            sys.exit(f"{service}: not flushed")
        provider.shutdown()
    print(trace_id)


grpc, http = sys.argv[1:]
send("by-grpc", GrpcSpans(endpoint=grpc, insecure=True), GrpcMetrics(endpoint=grpc, insecure=True), GrpcLogs(endpoint=grpc, insecure=True))
gzip = Compression.Gzip
send(
    "by-http",
    HttpSpans(endpoint=f"{http}/v1/traces", compression=gzip),
    HttpMetrics(endpoint=f"{http}/v1/metrics", compression=gzip),
    HttpLogs(endpoint=f"{http}/v1/logs", compression=gzip),
)
