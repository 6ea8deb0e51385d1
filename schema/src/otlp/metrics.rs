//! Metric data points of all five kinds, one row each.

mod exemplars;
mod point;

use self::point::Point;
use super::{
    Check, Decoded, nanos,
    rows::{Rows, places},
    scope::Scope,
    source::Source,
    value::check_all,
    wire::{Fields, Malformed},
};
use crate::{Table, UnixNanos};

places!(Places of Table::Metrics =>
    time_unix_nano, start_unix_nano, service, instance, name, unit, description, kind, temporality, monotonic, value,
    value_int, count, min, max, bounds, bucket_counts, scale, zero_count, positive_offset, negative_offset,
    negative_bucket_counts, exemplars, attributes, attribute_types, resource_attributes, resource_attribute_types,
    received_unix_nano, scope_name, zero_threshold, scope_version, scope_attributes, scope_attribute_types, schema_url,
    flags,
);

/// Reads an `ExportMetricsServiceRequest`.
pub(super) fn rows(request: &[u8], received_unix_nano: UnixNanos, check: Check) -> Result<Decoded, Malformed> {
    let mut writer = Writer {
        rows: Rows::new(Table::Metrics, request.len()),
        at: Places::get(),
        received_unix_nano,
        check,
        point: Point::default(),
    };
    let (mut fields, mut place) = (Fields::of(request), 0);
    while let Some(field) = fields.next().map_err(|e| e.item("resource_metrics", place))? {
        if field.number == 1 {
            writer.resource_metrics(field.bytes("resource_metrics")?).map_err(|e| e.item("resource_metrics", place))?;
            place += 1;
        }
    }
    writer.rows.finish()
}

struct Writer<'a> {
    rows: Rows,
    at: Places,
    received_unix_nano: UnixNanos,
    check: Check,
    /// The point being read; its lists keep their room.
    point: Point<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gauge,
    Sum,
    Histogram,
    ExponentialHistogram,
    Summary,
}

/// What the points of one metric share.
#[derive(Clone, Copy)]
struct Metric<'a> {
    name: &'a str,
    unit: &'a str,
    description: &'a str,
    kind: Kind,
    temporality: i32,
    monotonic: Option<bool>,
}

impl<'a> Writer<'a> {
    fn resource_metrics(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        // the resource may stand behind the metrics it belongs to
        let (mut resource, mut scopes, mut schema_url): (&[u8], _, _) = (&[], Vec::new(), "");
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => resource = field.bytes("resource")?,
                2 => scopes.push(field.bytes("scope_metrics")?),
                3 => schema_url = field.text("schema_url")?,
                _ => {}
            }
        }
        if scopes.is_empty() && resource.is_empty() {
            return Ok(());
        }
        let source = Source::read(resource, schema_url).map_err(|e| e.field("resource"))?;
        for (place, scope_metrics) in scopes.into_iter().enumerate() {
            self.scope_metrics(&source, scope_metrics).map_err(|e| e.item("scope_metrics", place))?;
        }
        Ok(())
    }

    fn scope_metrics(&mut self, source: &Source<'a>, message: &'a [u8]) -> Result<(), Malformed> {
        let scope = Scope::of(message)?;
        let first = self.rows.len();
        let (mut fields, mut place) = (Fields::of(message), 0);
        while let Some(field) = fields.next()? {
            if field.number == 2 {
                self.metric(field.bytes("metrics")?).map_err(|e| e.item("metrics", place))?;
                place += 1;
            }
        }
        let Self { rows, at, received_unix_nano, .. } = self;
        if rows.len() == first {
            return Ok(());
        }
        scope.write(rows, at.scope(), first, source)?;
        rows.long_from(at.received_unix_nano, first, *received_unix_nano);
        source.write(rows, at.source(), first)
    }

    fn metric(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let (mut name, mut description, mut unit, mut data) = ("", "", "", None);
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => name = field.text("name")?,
                2 => description = field.text("description")?,
                3 => unit = field.text("unit")?,
                5 => data = Some((Kind::Gauge, field.bytes("gauge")?)),
                7 => data = Some((Kind::Sum, field.bytes("sum")?)),
                9 => data = Some((Kind::Histogram, field.bytes("histogram")?)),
                10 => data = Some((Kind::ExponentialHistogram, field.bytes("exponential_histogram")?)),
                11 => data = Some((Kind::Summary, field.bytes("summary")?)),
                _ => {}
            }
        }
        let Some((kind, data)) = data else { return Ok(()) };
        let mut metric = Metric { name, unit, description, kind, temporality: 0, monotonic: None };
        self.points(&mut metric, data).map_err(|e| e.field(kind.name()))
    }

    /// The points of a gauge, sum, histogram or summary.
    fn points(&mut self, metric: &mut Metric<'a>, data: &'a [u8]) -> Result<(), Malformed> {
        metric.monotonic = (metric.kind == Kind::Sum).then_some(false);
        let mut fields = Fields::of(data);
        while let Some(field) = fields.next()? {
            match (field.number, metric.kind) {
                (2, Kind::Sum | Kind::Histogram | Kind::ExponentialHistogram) => {
                    metric.temporality = field.int32("aggregation_temporality")?;
                }
                (3, Kind::Sum) => metric.monotonic = Some(field.varint("is_monotonic")? != 0),
                _ => {}
            }
        }
        let first = self.rows.len();
        let (mut fields, mut place) = (Fields::of(data), 0);
        while let Some(field) = fields.next()? {
            if field.number == 1 {
                let named = |e: Malformed| e.item("data_points", place);
                self.point.read(metric.kind, field.bytes("data_points")?).map_err(named)?;
                if self.check == Check::ByRecord {
                    check_all("attributes", &self.point.attributes).map_err(named)?;
                }
                self.write().map_err(named)?;
                place += 1;
            }
        }
        let repeated = metric.name.len() + metric.unit.len() + metric.description.len();
        self.rows.repeat(first, repeated)?;
        metric.write(&mut self.rows, self.at, first);
        Ok(())
    }

    /// What the point has of its own; what it shares is written behind its metric and its scope.
    fn write(&mut self) -> Result<(), Malformed> {
        let Self { rows, at, received_unix_nano, point, .. } = self;
        rows.long(at.time_unix_nano, if point.time > 0 { nanos(point.time) } else { *received_unix_nano });
        point.write(rows, *at)?;
        rows.end_row()
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Sum => "sum",
            Self::Histogram => "histogram",
            Self::ExponentialHistogram => "exponential_histogram",
            Self::Summary => "summary",
        }
    }
}

impl Metric<'_> {
    /// Fills its columns for all rows from `first` on.
    fn write(&self, rows: &mut Rows, at: Places, first: usize) {
        rows.text_from(at.name, first, Some(self.name.as_bytes()));
        rows.text_from(at.unit, first, non_empty(self.unit));
        rows.text_from(at.description, first, non_empty(self.description));
        rows.text_from(at.kind, first, Some(self.kind.name().as_bytes()));
        rows.text_from(at.temporality, first, temporality(self.temporality).map(str::as_bytes));
        if let Some(monotonic) = self.monotonic {
            rows.bool_from(at.monotonic, first, monotonic);
        }
    }
}

fn non_empty(text: &str) -> Option<&[u8]> {
    Some(text.as_bytes()).filter(|text| !text.is_empty())
}

fn temporality(temporality: i32) -> Option<&'static str> {
    match temporality {
        1 => Some("delta"),
        2 => Some("cumulative"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::AsArray,
        datatypes::{Float64Type, Int32Type, Int64Type},
    };
    use opentelemetry_proto::tonic::{
        collector::metrics::v1::ExportMetricsServiceRequest,
        common::v1::{AnyValue, KeyValue, any_value},
        metrics::v1::{
            Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
            Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
            exponential_histogram_data_point::Buckets, metric::Data, number_data_point,
            summary_data_point::ValueAtQuantile,
        },
    };
    use prost::Message;

    use crate::{Encoding, Signal, otlp};

    #[test]
    fn each_kind_keeps_its_numbers() {
        let number = |value| NumberDataPoint { time_unix_nano: 5, value: Some(value), ..NumberDataPoint::default() };
        let gauge = Data::Gauge(Gauge { data_points: vec![number(number_data_point::Value::AsDouble(0.5))] });
        let exact = i64::MAX - 1;
        let sum = Data::Sum(Sum {
            data_points: vec![number(number_data_point::Value::AsInt(exact))],
            aggregation_temporality: 2,
            is_monotonic: true,
        });
        let point = HistogramDataPoint {
            count: 3,
            sum: Some(6.0),
            bucket_counts: vec![1, 2],
            explicit_bounds: vec![2.5],
            ..HistogramDataPoint::default()
        };
        let histogram = Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality: 1 });
        let exemplar = Exemplar {
            time_unix_nano: 4,
            value: Some(exemplar::Value::AsInt(8)),
            trace_id: vec![0xab; 16],
            filtered_attributes: vec![KeyValue {
                key: "user".into(),
                value: Some(AnyValue { value: Some(any_value::Value::BoolValue(true)) }),
                ..KeyValue::default()
            }],
            ..Exemplar::default()
        };
        let exponential = ExponentialHistogramDataPoint {
            count: 2,
            scale: -3,
            zero_count: 1,
            zero_threshold: 1e-9,
            positive: Some(Buckets { offset: -7, bucket_counts: vec![1, 300] }),
            negative: Some(Buckets { offset: 0, bucket_counts: vec![2] }),
            min: Some(-1.5),
            max: Some(9.0),
            exemplars: vec![exemplar],
            ..ExponentialHistogramDataPoint::default()
        };
        let exponential = Data::ExponentialHistogram(ExponentialHistogram {
            data_points: vec![exponential],
            aggregation_temporality: 1,
        });
        let quantile_values = vec![ValueAtQuantile { quantile: 0.99, value: 7.0 }];
        let summary = Data::Summary(Summary {
            data_points: vec![SummaryDataPoint { count: 4, sum: 9.0, quantile_values, ..SummaryDataPoint::default() }],
        });
        let metrics = [gauge, sum, histogram, exponential, summary].map(|data| Metric {
            name: "m".into(),
            data: Some(data),
            ..Metric::default()
        });
        let scope_metrics = vec![ScopeMetrics { metrics: metrics.to_vec(), ..ScopeMetrics::default() }];
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }],
        };
        let decoded = otlp::decode(Signal::Metrics, Encoding::Protobuf, &request.encode_to_vec(), 9).unwrap();
        let rows = decoded.batch.unwrap().rows;
        let kinds: Vec<_> = rows["kind"].as_string::<i32>().iter().flatten().collect();
        assert_eq!(kinds, ["gauge", "sum", "histogram", "exponential_histogram", "summary"]);
        assert_eq!(rows["value_int"].as_primitive::<Int64Type>().value(1), exact);
        assert_eq!(rows["value"].as_primitive::<Float64Type>().value(0), 0.5);
        assert_eq!(rows["count"].as_primitive::<Int64Type>().value(2), 3);
        let bounds = rows["bounds"].as_list::<i32>().value(2);
        assert_eq!(bounds.as_primitive::<Float64Type>().values(), &[2.5]);
        let ints = ["scale", "positive_offset", "negative_offset"];
        assert_eq!(ints.map(|name| rows[name].as_primitive::<Int32Type>().value(3)), [-3, -7, 0]);
        let doubles = ["min", "max", "zero_threshold"];
        assert_eq!(doubles.map(|name| rows[name].as_primitive::<Float64Type>().value(3)), [-1.5, 9.0, 1e-9]);
        let counts = rows["bucket_counts"].as_list::<i32>().value(3);
        assert_eq!(counts.as_primitive::<Float64Type>().values(), &[1.0, 300.0]);
        let exemplars: serde_json::Value = serde_json::from_str(rows["exemplars"].as_string::<i32>().value(3)).unwrap();
        assert_eq!(exemplars[0]["value"], 8);
        assert_eq!(exemplars[0]["trace_id"], "ab".repeat(16));
        assert_eq!(exemplars[0]["attributes"]["user"], true);
        let bounds = rows["bounds"].as_list::<i32>().value(4);
        assert_eq!(bounds.as_primitive::<Float64Type>().values(), &[0.99], "quantiles of a summary");
    }
}
