//! Metric data points of all five kinds, one row each.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint, SummaryDataPoint,
        exemplar, metric::Data, number_data_point,
    },
};
use serde_json::json;

use super::{Decoded, Rows, Source, nanos, non_empty};
use crate::{Table, UnixNanos, attribute};

pub(super) fn rows(request: ExportMetricsServiceRequest, received_unix_nano: UnixNanos) -> Decoded {
    let mut writer = Writer { rows: Rows::new(Table::Metrics), received_unix_nano };
    for resource_metrics in &request.resource_metrics {
        let source = Source::of(resource_metrics.resource.as_ref());
        for metric in resource_metrics.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            writer.metric(&source, metric);
        }
    }
    writer.rows.finish()
}

struct Writer {
    rows: Rows,
    received_unix_nano: UnixNanos,
}

/// What the points of one metric share.
struct Shape {
    kind: &'static str,
    temporality: Option<&'static str>,
    monotonic: Option<bool>,
}

/// What every kind of point has.
struct Point<'a> {
    time: u64,
    start: u64,
    attributes: &'a [KeyValue],
    exemplars: &'a [Exemplar],
}

impl Writer {
    fn metric(&mut self, source: &Source<'_>, metric: &Metric) {
        let shape = |kind, temporality, monotonic| Shape { kind, temporality, monotonic };
        match &metric.data {
            None => {}
            Some(Data::Gauge(gauge)) => {
                let shape = shape("gauge", None, None);
                gauge.data_points.iter().for_each(|p| self.number(source, metric, &shape, p));
            }
            Some(Data::Sum(sum)) => {
                let shape = shape("sum", temporality(sum.aggregation_temporality), Some(sum.is_monotonic));
                sum.data_points.iter().for_each(|p| self.number(source, metric, &shape, p));
            }
            Some(Data::Histogram(h)) => {
                let shape = shape("histogram", temporality(h.aggregation_temporality), None);
                h.data_points.iter().for_each(|p| self.histogram(source, metric, &shape, p));
            }
            Some(Data::ExponentialHistogram(h)) => {
                let shape = shape("exponential_histogram", temporality(h.aggregation_temporality), None);
                h.data_points.iter().for_each(|p| self.exponential(source, metric, &shape, p));
            }
            Some(Data::Summary(summary)) => {
                let shape = shape("summary", None, None);
                summary.data_points.iter().for_each(|p| self.summary(source, metric, &shape, p));
            }
        }
    }

    fn number(&mut self, source: &Source<'_>, metric: &Metric, shape: &Shape, p: &NumberDataPoint) {
        let (value, exact) = match p.value {
            Some(number_data_point::Value::AsDouble(d)) => (Some(d), None),
            Some(number_data_point::Value::AsInt(i)) => (Some(i as f64), Some(i)),
            None => (None, None),
        };
        self.rows.double("value", value);
        self.rows.long("value_int", exact);
        let point = Point {
            time: p.time_unix_nano,
            start: p.start_time_unix_nano,
            attributes: &p.attributes,
            exemplars: &p.exemplars,
        };
        self.end(source, metric, shape, point);
    }

    fn histogram(&mut self, source: &Source<'_>, metric: &Metric, shape: &Shape, p: &HistogramDataPoint) {
        self.rows.double("value", p.sum);
        self.rows.long("count", Some(nanos(p.count)));
        self.rows.double("min", p.min);
        self.rows.double("max", p.max);
        self.rows.doubles("bounds", p.explicit_bounds.iter().copied());
        self.rows.doubles("bucket_counts", p.bucket_counts.iter().map(|n| *n as f64));
        let point = Point {
            time: p.time_unix_nano,
            start: p.start_time_unix_nano,
            attributes: &p.attributes,
            exemplars: &p.exemplars,
        };
        self.end(source, metric, shape, point);
    }

    fn exponential(&mut self, source: &Source<'_>, metric: &Metric, shape: &Shape, p: &ExponentialHistogramDataPoint) {
        self.rows.double("value", p.sum);
        self.rows.long("count", Some(nanos(p.count)));
        self.rows.double("min", p.min);
        self.rows.double("max", p.max);
        self.rows.int("scale", Some(p.scale));
        self.rows.long("zero_count", Some(nanos(p.zero_count)));
        if let Some(positive) = &p.positive {
            self.rows.int("positive_offset", Some(positive.offset));
            self.rows.doubles("bucket_counts", positive.bucket_counts.iter().map(|n| *n as f64));
        }
        if let Some(negative) = &p.negative {
            self.rows.int("negative_offset", Some(negative.offset));
            self.rows.doubles("negative_bucket_counts", negative.bucket_counts.iter().map(|n| *n as f64));
        }
        let point = Point {
            time: p.time_unix_nano,
            start: p.start_time_unix_nano,
            attributes: &p.attributes,
            exemplars: &p.exemplars,
        };
        self.end(source, metric, shape, point);
    }

    fn summary(&mut self, source: &Source<'_>, metric: &Metric, shape: &Shape, p: &SummaryDataPoint) {
        self.rows.double("value", Some(p.sum));
        self.rows.long("count", Some(nanos(p.count)));
        self.rows.doubles("bounds", p.quantile_values.iter().map(|q| q.quantile));
        self.rows.doubles("bucket_counts", p.quantile_values.iter().map(|q| q.value));
        let point =
            Point { time: p.time_unix_nano, start: p.start_time_unix_nano, attributes: &p.attributes, exemplars: &[] };
        self.end(source, metric, shape, point);
    }

    fn end(&mut self, source: &Source<'_>, metric: &Metric, shape: &Shape, point: Point<'_>) {
        let rows = &mut self.rows;
        source.write(rows);
        let time = if point.time > 0 { nanos(point.time) } else { self.received_unix_nano };
        rows.long("time_unix_nano", Some(time));
        rows.long("start_unix_nano", (point.start > 0).then(|| nanos(point.start)));
        rows.text("name", Some(&metric.name));
        rows.text("unit", non_empty(&metric.unit));
        rows.text("description", non_empty(&metric.description));
        rows.text("kind", Some(shape.kind));
        rows.text("temporality", shape.temporality);
        rows.bool("monotonic", shape.monotonic);
        let exemplars = exemplars(point.exemplars);
        rows.text("exemplars", exemplars.as_deref());
        rows.attributes("attributes", "attribute_types", point.attributes.iter());
        rows.long("received_unix_nano", Some(self.received_unix_nano));
        rows.end_row();
    }
}

fn temporality(temporality: i32) -> Option<&'static str> {
    match temporality {
        1 => Some("delta"),
        2 => Some("cumulative"),
        _ => None,
    }
}

fn exemplars(exemplars: &[Exemplar]) -> Option<String> {
    if exemplars.is_empty() {
        return None;
    }
    let one = |e: &Exemplar| {
        let value = match e.value {
            Some(exemplar::Value::AsDouble(d)) => json!(d),
            Some(exemplar::Value::AsInt(i)) => json!(i),
            None => json!(null),
        };
        let attribute = |kv: &KeyValue| {
            let (text, letter) = attribute::to_text(kv.value.as_ref());
            (kv.key.clone(), attribute::to_json(&text, letter))
        };
        let attributes: serde_json::Map<_, _> = e.filtered_attributes.iter().map(attribute).collect();
        json!({"time_unix_nano": e.time_unix_nano, "value": value, "trace_id": hex::encode(&e.trace_id),
               "span_id": hex::encode(&e.span_id), "attributes": attributes})
    };
    Some(serde_json::Value::Array(exemplars.iter().map(one).collect()).to_string())
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::AsArray,
        datatypes::{Float64Type, Int64Type},
    };
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Histogram, ResourceMetrics, ScopeMetrics, Sum, Summary, summary_data_point::ValueAtQuantile,
    };
    use prost::Message;

    use super::*;
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
        let exponential = ExponentialHistogramDataPoint {
            count: 2,
            scale: 3,
            zero_count: 1,
            ..ExponentialHistogramDataPoint::default()
        };
        let exponential = Data::ExponentialHistogram(opentelemetry_proto::tonic::metrics::v1::ExponentialHistogram {
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
    }
}
