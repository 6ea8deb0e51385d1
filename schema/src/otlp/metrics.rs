//! Metric data points of all five kinds, one row each.

use serde_json::json;

use super::{
    Check, Decoded, nanos,
    rows::{Rows, places},
    scope::Scope,
    source::Source,
    value::{Attribute, check_all, push_item},
    wire::{Field, Fields, Malformed},
};
use crate::{Table, UnixNanos, attribute};

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

/// A data point of any kind; what its kind lacks is `None` or empty.
#[derive(Default)]
struct Point<'a> {
    time: u64,
    start: u64,
    value: Option<f64>,
    value_int: Option<i64>,
    count: Option<u64>,
    min: Option<f64>,
    max: Option<f64>,
    scale: Option<i32>,
    zero_count: Option<u64>,
    zero_threshold: Option<f64>,
    flags: u32,
    bounds: Vec<f64>,
    positive: Option<Buckets>,
    negative: Option<Buckets>,
    attributes: Vec<Attribute<'a>>,
    exemplars: Vec<&'a [u8]>,
}

/// Counts of buckets, and where the first of an exponential histogram's stands.
#[derive(Default)]
struct Buckets {
    offset: Option<i32>,
    counts: Vec<f64>,
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

impl<'a> Point<'a> {
    fn read(&mut self, kind: Kind, message: &'a [u8]) -> Result<(), Malformed> {
        let Self { mut bounds, mut attributes, mut exemplars, .. } = std::mem::take(self);
        bounds.clear();
        attributes.clear();
        exemplars.clear();
        *self = Self { bounds, attributes, exemplars, ..Self::default() };
        let read = match kind {
            Kind::Gauge | Kind::Sum => Self::read_number,
            Kind::Histogram => Self::read_histogram,
            Kind::ExponentialHistogram => Self::read_exponential,
            Kind::Summary => Self::read_summary,
        };
        // what these kinds always have is zero when it is not on the wire
        self.count = (!matches!(kind, Kind::Gauge | Kind::Sum)).then_some(0);
        self.value = (kind == Kind::Summary).then_some(0.0);
        if kind == Kind::ExponentialHistogram {
            (self.scale, self.zero_count) = (Some(0), Some(0));
        }
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                2 => self.start = field.fixed64("start_time_unix_nano")?,
                3 => self.time = field.fixed64("time_unix_nano")?,
                _ => read(self, field)?,
            }
        }
        Ok(())
    }

    fn read_number(&mut self, field: Field<'a>) -> Result<(), Malformed> {
        match field.number {
            4 => (self.value, self.value_int) = (Some(field.double("as_double")?), None),
            5 => push_item(field, "exemplars", &mut self.exemplars)?,
            6 => {
                let exact = field.fixed64("as_int")?.cast_signed();
                (self.value, self.value_int) = (Some(exact as f64), Some(exact));
            }
            7 => Attribute::push(field, "attributes", &mut self.attributes)?,
            8 => self.flags = field.uint32("flags")?,
            _ => {}
        }
        Ok(())
    }

    fn read_histogram(&mut self, field: Field<'a>) -> Result<(), Malformed> {
        match field.number {
            4 => self.count = Some(field.fixed64("count")?),
            5 => self.value = Some(field.double("sum")?),
            6 => {
                let counts = &mut self.positive.get_or_insert_default().counts;
                field.fixed64s("bucket_counts", |count| counts.push(count as f64))?;
            }
            7 => field.fixed64s("explicit_bounds", |bound| self.bounds.push(f64::from_bits(bound)))?,
            8 => push_item(field, "exemplars", &mut self.exemplars)?,
            9 => Attribute::push(field, "attributes", &mut self.attributes)?,
            10 => self.flags = field.uint32("flags")?,
            11 => self.min = Some(field.double("min")?),
            12 => self.max = Some(field.double("max")?),
            _ => {}
        }
        Ok(())
    }

    fn read_exponential(&mut self, field: Field<'a>) -> Result<(), Malformed> {
        match field.number {
            1 => Attribute::push(field, "attributes", &mut self.attributes)?,
            4 => self.count = Some(field.fixed64("count")?),
            5 => self.value = Some(field.double("sum")?),
            6 => self.scale = Some(field.sint32("scale")?),
            7 => self.zero_count = Some(field.fixed64("zero_count")?),
            8 => self.positive = Some(Buckets::read(field.bytes("positive")?).map_err(|e| e.field("positive"))?),
            9 => self.negative = Some(Buckets::read(field.bytes("negative")?).map_err(|e| e.field("negative"))?),
            10 => self.flags = field.uint32("flags")?,
            11 => push_item(field, "exemplars", &mut self.exemplars)?,
            12 => self.min = Some(field.double("min")?),
            13 => self.max = Some(field.double("max")?),
            14 => self.zero_threshold = Some(field.double("zero_threshold")?),
            _ => {}
        }
        Ok(())
    }

    fn read_summary(&mut self, field: Field<'a>) -> Result<(), Malformed> {
        match field.number {
            4 => self.count = Some(field.fixed64("count")?),
            5 => self.value = Some(field.double("sum")?),
            6 => {
                let (quantile, value) =
                    quantile(field.bytes("quantile_values")?).map_err(|e| e.field("quantile_values"))?;
                self.bounds.push(quantile);
                self.positive.get_or_insert_default().counts.push(value);
            }
            7 => Attribute::push(field, "attributes", &mut self.attributes)?,
            8 => self.flags = field.uint32("flags")?,
            _ => {}
        }
        Ok(())
    }

    fn write(&self, rows: &mut Rows, at: Places) -> Result<(), Malformed> {
        let longs = [
            (at.start_unix_nano, (self.start > 0).then(|| nanos(self.start))),
            (at.value_int, self.value_int),
            (at.count, self.count.map(nanos)),
            (at.zero_count, self.zero_count.map(nanos)),
        ];
        longs.into_iter().filter_map(|(place, value)| Some((place, value?))).for_each(|(p, v)| rows.long(p, v));
        let doubles =
            [(at.value, self.value), (at.min, self.min), (at.max, self.max), (at.zero_threshold, self.zero_threshold)];
        doubles.into_iter().filter_map(|(place, value)| Some((place, value?))).for_each(|(p, v)| rows.double(p, v));
        rows.maybe_count(at.flags, self.flags);
        if let Some(scale) = self.scale {
            rows.int(at.scale, scale);
        }
        if !self.bounds.is_empty() {
            rows.doubles(at.bounds, &self.bounds);
        }
        for (buckets, counts, offset) in [
            (&self.positive, at.bucket_counts, at.positive_offset),
            (&self.negative, at.negative_bucket_counts, at.negative_offset),
        ] {
            let Some(buckets) = buckets else { continue };
            rows.doubles(counts, &buckets.counts);
            if let Some(first) = buckets.offset {
                rows.int(offset, first);
            }
        }
        rows.maybe_text(at.exemplars, exemplars(&self.exemplars)?.unwrap_or_default().as_bytes());
        rows.attributes(at.attributes, at.attribute_types, self.attributes.iter().copied())
    }
}

impl Buckets {
    /// Those of an exponential histogram.
    fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut buckets = Self { offset: Some(0), counts: Vec::new() };
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => buckets.offset = Some(field.sint32("offset")?),
                2 => field.varints("bucket_counts", |count| buckets.counts.push(count as f64))?,
                _ => {}
            }
        }
        Ok(buckets)
    }
}

fn quantile(message: &[u8]) -> Result<(f64, f64), Malformed> {
    let (mut quantile, mut value) = (0.0, 0.0);
    let mut fields = Fields::of(message);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => quantile = field.double("quantile")?,
            2 => value = field.double("value")?,
            _ => {}
        }
    }
    Ok((quantile, value))
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

/// Exemplars as a JSON array.
fn exemplars(messages: &[&[u8]]) -> Result<Option<String>, Malformed> {
    if messages.is_empty() {
        return Ok(None);
    }
    let one = |(place, message): (usize, &&[u8])| exemplar(message).map_err(|e| e.item("exemplars", place));
    let all = messages.iter().enumerate().map(one).collect::<Result<_, _>>()?;
    Ok(Some(serde_json::Value::Array(all).to_string()))
}

fn exemplar(message: &[u8]) -> Result<serde_json::Value, Malformed> {
    let (mut time, mut value, mut trace_id, mut span_id): (_, _, &[u8], &[u8]) = (0, json!(null), &[], &[]);
    let mut attributes = Vec::new();
    let mut fields = Fields::of(message);
    while let Some(field) = fields.next()? {
        match field.number {
            2 => time = field.fixed64("time_unix_nano")?,
            // as text where JSON has no such number
            3 => value = attribute::to_json(&format!("{:?}", field.double("as_double")?), 'd'),
            4 => span_id = field.bytes("span_id")?,
            5 => trace_id = field.bytes("trace_id")?,
            6 => value = json!(field.fixed64("as_int")?.cast_signed()),
            7 => Attribute::push_checked(field, "filtered_attributes", &mut attributes)?,
            _ => {}
        }
    }
    let mut object = serde_json::Map::new();
    for attribute in attributes {
        let (text, letter) = attribute::to_text(attribute.value)?;
        object.insert(String::from_utf8_lossy(attribute.key).into_owned(), attribute::to_json(&text, letter));
    }
    Ok(json!({"time_unix_nano": time, "value": value, "trace_id": hex::encode(trace_id),
              "span_id": hex::encode(span_id), "attributes": object}))
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
