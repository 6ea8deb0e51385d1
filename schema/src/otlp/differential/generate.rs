//! Requests as nobody would write them by hand, from a seed.

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as Any},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
        NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
        exponential_histogram_data_point::Buckets, metric::Data, number_data_point::Value as Number,
        summary_data_point::ValueAtQuantile,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span},
};

use crate::otlp::tests::Random;

impl Random {
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn u64(&mut self) -> u64 {
        match self.below(4) {
            0 => 0,
            1 => self.below(300) as u64,
            2 => u64::MAX - self.below(3) as u64,
            _ => self.below(1 << 62) as u64,
        }
    }

    /// Flags, or a count of what was dropped.
    fn u32(&mut self) -> u32 {
        [0, 1, 257, u32::MAX][self.below(4)]
    }

    pub(super) fn f64(&mut self) -> f64 {
        let special = [0.0, -0.0, 1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE];
        if self.chance(50) { special[self.below(special.len())] } else { f64::from_bits(self.below(usize::MAX) as u64) }
    }

    pub(super) fn text(&mut self) -> String {
        let some = ["", "a", "GET", "/api/v1", "größe", "日本語", "🦀", "a\"b\\c\n", "http.route", "0"];
        some[self.below(some.len())].repeat(1 + self.below(3))
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }

    fn id(&mut self, length: usize) -> Vec<u8> {
        match self.below(8) {
            0 => vec![0; length],
            1 => Vec::new(),
            _ => self.bytes(length),
        }
    }

    fn some<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.chance(70).then(|| make(self))
    }

    fn any(&mut self, depth: usize) -> AnyValue {
        let value = match self.below(if depth > 3 { 6 } else { 8 }) {
            0 => None,
            1 => Some(Any::StringValue(self.text())),
            2 => Some(Any::BoolValue(self.chance(50))),
            3 => Some(Any::IntValue(self.u64().cast_signed())),
            4 => Some(Any::DoubleValue(self.f64())),
            5 => Some(Any::BytesValue(self.bytes(3))),
            6 => Some(Any::ArrayValue(ArrayValue { values: self.some(3, |r| r.any(depth + 1)) })),
            _ => Some(Any::KvlistValue(KeyValueList { values: self.some(3, |r| r.pair(depth + 1)) })),
        };
        AnyValue { value }
    }

    fn pair(&mut self, depth: usize) -> KeyValue {
        let known = [
            "http.route",
            "http.method",
            "http.status_code",
            "http.response.status_code",
            "service.name",
            "weir.queue_wait_ns",
            "weir.in_flight",
            "http.request.resend_count",
            "gen_ai.server.time_to_first_token",
            "gen_ai.response.time_to_first_chunk",
            "gen_ai.latency.time_to_first_token",
            "gen_ai.usage.prompt_tokens",
            "gen_ai.usage.completion_tokens",
            "gen_ai.usage.output_tokens",
            "service.instance.id",
        ];
        let key = if self.chance(50) { known[self.below(known.len())].to_owned() } else { self.text() };
        KeyValue { key, value: self.maybe(|r| r.any(depth)), ..KeyValue::default() }
    }

    fn pairs(&mut self) -> Vec<KeyValue> {
        self.some(5, |r| r.pair(0))
    }

    fn resource(&mut self) -> Option<Resource> {
        self.maybe(|r| Resource { attributes: r.pairs(), dropped_attributes_count: 1, ..Resource::default() })
    }

    fn scope(&mut self) -> Option<InstrumentationScope> {
        self.maybe(|r| InstrumentationScope {
            name: r.text(),
            version: r.text(),
            attributes: r.pairs(),
            ..InstrumentationScope::default()
        })
    }

    pub(in crate::otlp) fn traces(&mut self) -> ExportTraceServiceRequest {
        let resource_spans = self.some(3, |r| ResourceSpans {
            resource: r.resource(),
            scope_spans: r.some(2, |r| ScopeSpans {
                scope: r.scope(),
                spans: r.some(3, Self::span),
                schema_url: r.text(),
            }),
            schema_url: r.text(),
        });
        ExportTraceServiceRequest { resource_spans }
    }

    fn span(&mut self) -> Span {
        let start = self.u64();
        let event = |r: &mut Self| span::Event {
            time_unix_nano: r.u64(),
            name: r.text(),
            attributes: r.pairs(),
            dropped_attributes_count: 2,
        };
        let link = |r: &mut Self| span::Link {
            trace_id: r.id(16),
            span_id: r.id(8),
            trace_state: r.text(),
            attributes: r.pairs(),
            ..span::Link::default()
        };
        Span {
            trace_id: self.id(16),
            span_id: self.id(8),
            trace_state: if self.chance(30) { "a=b,ot=th:8;rv:1".into() } else { self.text() },
            parent_span_id: self.id(8),
            name: self.text(),
            kind: self.below(7) as i32 - 1,
            start_time_unix_nano: start,
            end_time_unix_nano: if self.chance(90) { start.saturating_add(self.below(99) as u64) } else { self.u64() },
            attributes: self.pairs(),
            events: self.some(2, event),
            links: self.some(2, link),
            status: self.maybe(|r| Status { message: r.text(), code: r.below(4) as i32 }),
            flags: self.u32(),
            dropped_attributes_count: self.u32(),
            dropped_events_count: self.u32(),
            dropped_links_count: self.u32(),
        }
    }

    pub(in crate::otlp) fn logs(&mut self) -> ExportLogsServiceRequest {
        let record = |r: &mut Self| LogRecord {
            time_unix_nano: r.u64(),
            observed_time_unix_nano: r.u64(),
            severity_number: r.below(26) as i32 - 1,
            severity_text: r.text(),
            body: r.maybe(|r| r.any(0)),
            attributes: r.pairs(),
            trace_id: r.id(16),
            span_id: r.id(8),
            event_name: r.text(),
            flags: r.u32(),
            dropped_attributes_count: r.u32(),
        };
        let resource_logs = self.some(3, |r| ResourceLogs {
            resource: r.resource(),
            scope_logs: r.some(2, |r| ScopeLogs {
                scope: r.scope(),
                log_records: r.some(3, record),
                schema_url: r.text(),
            }),
            schema_url: r.text(),
        });
        ExportLogsServiceRequest { resource_logs }
    }

    pub(in crate::otlp) fn metrics(&mut self) -> ExportMetricsServiceRequest {
        let resource_metrics = self.some(3, |r| ResourceMetrics {
            resource: r.resource(),
            scope_metrics: r.some(2, |r| ScopeMetrics {
                scope: r.scope(),
                metrics: r.some(3, Self::metric),
                schema_url: r.text(),
            }),
            schema_url: r.text(),
        });
        ExportMetricsServiceRequest { resource_metrics }
    }

    fn metric(&mut self) -> Metric {
        let aggregation_temporality = self.below(3) as i32;
        let data = match self.below(6) {
            0 => None,
            1 => Some(Data::Gauge(Gauge { data_points: self.some(3, Self::number) })),
            2 => Some(Data::Sum(Sum {
                data_points: self.some(3, Self::number),
                aggregation_temporality,
                is_monotonic: self.chance(50),
            })),
            3 => {
                Some(Data::Histogram(Histogram { data_points: self.some(3, Self::histogram), aggregation_temporality }))
            }
            4 => Some(Data::ExponentialHistogram(ExponentialHistogram {
                data_points: self.some(3, Self::exponential),
                aggregation_temporality,
            })),
            _ => Some(Data::Summary(Summary { data_points: self.some(3, Self::summary) })),
        };
        Metric { name: self.text(), description: self.text(), unit: self.text(), data, ..Metric::default() }
    }

    fn number(&mut self) -> NumberDataPoint {
        let value =
            self.maybe(|r| if r.chance(50) { Number::AsInt(r.u64().cast_signed()) } else { Number::AsDouble(r.f64()) });
        NumberDataPoint {
            attributes: self.pairs(),
            start_time_unix_nano: self.u64(),
            time_unix_nano: self.u64(),
            exemplars: self.some(2, Self::exemplar),
            flags: self.u32(),
            value,
        }
    }

    fn exemplar(&mut self) -> Exemplar {
        Exemplar {
            filtered_attributes: Vec::new(),
            time_unix_nano: self.u64(),
            span_id: self.id(8),
            trace_id: self.id(16),
            value: self.maybe(|r| exemplar::Value::AsInt(r.u64().cast_signed())),
        }
    }

    fn histogram(&mut self) -> HistogramDataPoint {
        HistogramDataPoint {
            attributes: self.pairs(),
            time_unix_nano: self.u64(),
            count: self.u64(),
            sum: self.maybe(Self::f64),
            bucket_counts: self.some(4, Self::u64),
            explicit_bounds: self.some(4, Self::f64),
            min: self.maybe(Self::f64),
            max: self.maybe(Self::f64),
            flags: self.u32(),
            ..HistogramDataPoint::default()
        }
    }

    fn exponential(&mut self) -> ExponentialHistogramDataPoint {
        let buckets = |r: &mut Self| Buckets { offset: r.below(100) as i32 - 50, bucket_counts: r.some(4, Self::u64) };
        ExponentialHistogramDataPoint {
            attributes: self.pairs(),
            count: self.u64(),
            sum: self.maybe(Self::f64),
            scale: self.below(40) as i32 - 20,
            zero_count: self.u64(),
            positive: self.maybe(buckets),
            negative: self.maybe(buckets),
            min: self.maybe(Self::f64),
            zero_threshold: self.f64(),
            flags: self.u32(),
            ..ExponentialHistogramDataPoint::default()
        }
    }

    fn summary(&mut self) -> SummaryDataPoint {
        let quantile_values = self.some(3, |r| ValueAtQuantile { quantile: r.f64(), value: r.f64() });
        SummaryDataPoint {
            attributes: self.pairs(),
            count: self.u64(),
            sum: self.f64(),
            quantile_values,
            flags: self.u32(),
            ..SummaryDataPoint::default()
        }
    }
}
