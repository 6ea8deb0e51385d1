//! [`Readings`]: metrics of the CPU and the network of services that have spans.
//!
//! What a metric is of is told by its name, as OpenTelemetry's semantic conventions have it or as it is custom
//! elsewhere. A host's own is left out: it is of many services. Memory is left out too: what injects a fault may need some.

use std::collections::{BTreeMap, VecDeque};

use arrow::{
    array::{Array, AsArray, StringArray},
    datatypes::{Float64Type, Int64Type},
    record_batch::RecordBatch,
};
use weir_schema::UnixNanos;

use super::{hashed, kept::Share, observed::Map};
use crate::{
    names::Role,
    spans::{Name, Names},
};

/// Readings kept of one series that is read back, the newest. A day at ten seconds.
const MAX_READINGS: usize = 10_000;

/// Readings of all series, 200 MB at 40 bytes each. When there are more, those of every other moment go, and again: of each
/// moment that is left all streams of a series are there.
const MAX_ALL: usize = 5_000_000;
/// The same live: an hour at 15 seconds.
pub(super) const LIVE_READINGS: usize = 240;

/// Series kept live; of further ones nothing is known. Of 32 bytes a reading all take 31 MB.
pub(super) const LIVE_SERIES: usize = 4_000;

/// A series without a reading for so long makes room.
const FORGOTTEN_NS: i64 = 3_600_000_000_000;

/// The columns of `metrics` that are read.
pub const METRIC_COLUMNS: [&str; 9] = [
    "time_unix_nano",
    "service",
    "instance",
    "name",
    "kind",
    "temporality",
    "value",
    "attributes",
    "resource_attributes",
];

/// Metrics of CPU, the best first: as a share of what is allowed, as a share of a core, as time. Others whose name says
/// that they are of CPU come last.
const CPU: [&str; 9] = [
    "k8s.pod.cpu_limit_utilization",
    "k8s.container.cpu_limit_utilization",
    "k8s.pod.cpu.usage",
    "container.cpu.usage",
    "container.cpu.utilization",
    "process.cpu.utilization",
    "container.cpu.time",
    "k8s.pod.cpu.time",
    "process.cpu.time",
];

/// Resource attributes that name a service where `service.name` is not known to the spans.
const WORKLOAD: [&str; 5] =
    ["k8s.deployment.name", "k8s.statefulset.name", "k8s.daemonset.name", "k8s.container.name", "container.name"];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Resource {
    /// By preference of the metric.
    Cpu(usize),
    /// Errors and drops.
    Network,
}

/// Metrics of services and their instances.
#[derive(Debug)]
pub(crate) struct Readings {
    pub(super) series: Map<Key, VecDeque<Reading>>,
    max_series: usize,
    max_readings: usize,
    count: usize,
    /// Of all moments.
    share: Share,
    /// Readings of series for which there was no room.
    pub(super) dropped: u64,
}

/// The service, what is measured, where.
pub(super) type Key = (Name, Resource, Option<Name>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) at: UnixNanos,
    pub(super) value: f64,
    /// Which of the series that are summed: by attributes.
    pub(super) stream: u64,
    /// Whether it is a count from its start on.
    pub(super) cumulative: bool,
}

impl Default for Readings {
    /// Of what is stored, and read once.
    fn default() -> Self {
        Self {
            series: Map::default(),
            max_series: usize::MAX,
            max_readings: MAX_READINGS,
            count: 0,
            share: Share::default(),
            dropped: 0,
        }
    }
}

impl Readings {
    /// Of readings as they come.
    pub(super) fn live() -> Self {
        Self { max_series: LIVE_SERIES, max_readings: LIVE_READINGS, ..Self::default() }
    }

    /// Takes in rows of `metrics`, of services that are known by their spans, in any order.
    pub(crate) fn add(&mut self, metrics: &RecordBatch, names: &mut Names) {
        let long = |name: &str| metrics.column_by_name(name)?.as_primitive_opt::<Int64Type>();
        let text = |name: &str| metrics.column_by_name(name)?.as_string_opt::<i32>();
        let values = metrics.column_by_name("value").and_then(|column| column.as_primitive_opt::<Float64Type>());
        let (Some(times), Some(named), Some(values)) = (long("time_unix_nano"), text("name"), values) else { return };
        let is = |name: &str, row: usize, is: &str| text(name).is_some_and(|c| c.is_valid(row) && c.value(row) == is);
        // no number is no reading: it would hide those of other instances
        let is_number = |row: usize| values.is_valid(row) && values.value(row).is_finite();
        for (row, resource) in measured(named).filter(|(row, _)| is_number(*row)) {
            let Some(service) = service(metrics, row, names) else { continue };
            let attributes = pairs(metrics, "attributes", row);
            if attributes.iter().any(|(_, value)| matches!(value.as_str(), "idle" | "wait" | "iowait")) {
                continue;
            }
            let instance = text("instance").filter(|c| c.is_valid(row)).map(|c| c.value(row).to_owned());
            let instance = instance.or_else(|| attribute(metrics, row, "k8s.pod.name"));
            let instance = instance.map(|instance| names.intern_as(Role::Instance, &instance));
            let bytes = attributes.iter().flat_map(|(key, value)| key.bytes().chain(value.bytes()));
            let stream = hashed(bytes.map(u64::from));
            let cumulative = is("kind", row, "sum") && is("temporality", row, "cumulative");
            let reading = Reading { at: times.value(row), value: values.value(row), stream, cumulative };
            self.push((service, resource, instance), reading);
        }
    }

    pub(super) fn push(&mut self, key: Key, reading: Reading) {
        if self.series.len() >= self.max_series && !self.series.contains_key(&key) {
            self.dropped += 1;
            return;
        }
        if !self.share.keeps(moment(reading.at)) {
            return;
        }
        let readings = self.series.entry(key).or_default();
        match readings.len() >= self.max_readings {
            true => readings.pop_front().map_or((), drop),
            false => self.count += 1,
        }
        readings.push_back(reading);
        while self.count > MAX_ALL && self.share.is_divisible() {
            self.halve();
        }
    }

    /// Lets every other moment go.
    fn halve(&mut self) {
        self.share = self.share.halved();
        let share = self.share;
        self.series.values_mut().for_each(|readings| readings.retain(|reading| share.keeps(moment(reading.at))));
        self.count_again();
    }

    fn count_again(&mut self) {
        self.count = self.series.values().map(VecDeque::len).sum();
    }

    /// Lets go of series that have ended.
    pub(super) fn turn(&mut self, now: UnixNanos) {
        let ended = |reading: &Reading| now.saturating_sub(reading.at) > FORGOTTEN_NS;
        self.series.retain(|_, readings| readings.back().is_some_and(|newest| !ended(newest)));
        self.count_again();
    }
}

fn moment(at: UnixNanos) -> u128 {
    u128::from(at.cast_unsigned())
}

/// Rows that measure something: the points of one metric stand together, and most metrics are of neither resource.
fn measured(names: &StringArray) -> impl Iterator<Item = (usize, Resource)> {
    let mut last: Option<(&str, Option<Resource>)> = None;
    let resource = move |row: usize| {
        let name = names.value(row);
        let known = last.filter(|(known, _)| *known == name);
        let resource = known.map_or_else(|| Resource::of(name), |(_, resource)| resource);
        last = Some((name, resource));
        Some((row, resource?))
    };
    (0..names.len()).filter_map(resource)
}

impl Resource {
    fn of(metric: &str) -> Option<Self> {
        if let Some(place) = CPU.iter().position(|name| *name == metric) {
            return Some(Self::Cpu(place));
        }
        let name = metric.to_ascii_lowercase();
        let of_host = name.starts_with("node") || name.contains(".node.") || name.starts_with("system.cpu");
        let used = ["util", "usage", "time"].iter().any(|word| name.contains(word));
        // a share of what is allowed before an amount, where both have names of their own
        let place = CPU.len() + usize::from(!name.contains("rate") && !name.contains("util"));
        if name.contains("cpu") && used && !of_host {
            return Some(Self::Cpu(place));
        }
        let failing = name.contains("error") || name.contains("drop");
        (name.contains("network") && failing && !of_host).then_some(Self::Network)
    }
}

/// Values by time, summed over attributes; counts as what they grew by a second.
pub(super) fn per_time(readings: &VecDeque<Reading>) -> BTreeMap<UnixNanos, f64> {
    let mut sorted: Vec<Reading> = readings.iter().copied().collect();
    sorted.sort_by_key(|reading| (reading.stream, reading.at));
    sorted.dedup_by_key(|reading| (reading.stream, reading.at));
    let mut sums = BTreeMap::<UnixNanos, f64>::new();
    let mut before: Option<Reading> = None;
    for reading in sorted {
        let last = before.replace(reading).filter(|last| last.stream == reading.stream);
        let value = match (reading.cumulative, last) {
            (false, _) => reading.value,
            // a count that fell began anew
            (true, Some(last)) if reading.value >= last.value => {
                (reading.value - last.value) * 1e9 / reading.at.saturating_sub(last.at) as f64
            }
            (true, _) => continue,
        };
        *sums.entry(reading.at).or_default() += value;
    }
    sums
}

/// The service that a row is of, as spans call it.
fn service(metrics: &RecordBatch, row: usize, names: &Names) -> Option<Name> {
    let said = metrics.column_by_name("service").and_then(|c| c.as_string_opt::<i32>());
    if let Some(name) = said.filter(|said| said.is_valid(row)).and_then(|said| names.find_service(said.value(row))) {
        return Some(name);
    }
    let workload = WORKLOAD.iter().find_map(|key| names.find_service(&attribute(metrics, row, key)?));
    workload.or_else(|| {
        let pod = attribute(metrics, row, "k8s.pod.name")?;
        names.find_service(pod.rsplitn(3, '-').last()?)
    })
}

/// An attribute of the resource, or else of the point.
fn attribute(metrics: &RecordBatch, row: usize, key: &str) -> Option<String> {
    let of = |column| pairs(metrics, column, row).into_iter().find(|(name, _)| name == key);
    of("resource_attributes").or_else(|| of("attributes")).map(|(_, value)| value)
}

fn pairs(metrics: &RecordBatch, column: &str, row: usize) -> Vec<(String, String)> {
    let read = || {
        let map = metrics.column_by_name(column)?.as_map_opt()?;
        let entries = if map.is_valid(row) { map.value(row) } else { return None };
        let (keys, values) = (entries.column(0).as_string_opt::<i32>()?, entries.column(1).as_string_opt::<i32>()?);
        Some((0..entries.len()).map(|at| (keys.value(at).to_owned(), values.value(at).to_owned())).collect())
    };
    read().unwrap_or_default()
}
