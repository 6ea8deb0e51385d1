//! [`Point`]: a data point of any kind, read from the wire and written as the columns that its kind has.

use super::{Kind, Places, exemplars::exemplars};
use crate::otlp::{
    nanos,
    rows::Rows,
    value::{Attribute, push_item},
    wire::{Field, Fields, Malformed},
};

/// A data point of any kind; what its kind lacks is `None` or empty.
#[derive(Default)]
pub(super) struct Point<'a> {
    pub(super) time: u64,
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
    pub(super) attributes: Vec<Attribute<'a>>,
    exemplars: Vec<&'a [u8]>,
}

/// Counts of buckets, and where the first of an exponential histogram's stands.
#[derive(Default)]
struct Buckets {
    offset: Option<i32>,
    counts: Vec<f64>,
}

impl<'a> Point<'a> {
    pub(super) fn read(&mut self, kind: Kind, message: &'a [u8]) -> Result<(), Malformed> {
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

    pub(super) fn write(&self, rows: &mut Rows, at: Places) -> Result<(), Malformed> {
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
