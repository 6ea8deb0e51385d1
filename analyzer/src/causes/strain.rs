//! [`Strain`]: that the CPU or the network of a service is above history.
//!
//! CPU names who starves and never whose network is slow, so it tells the two kinds apart and shares what callers and
//! callees may both have lost; it strengthens other evidence by a factor of two at most and accuses nobody alone.
//!
//! A reading is of the time before it, so the first seconds of a range are skipped. Robust z as in `latency.rs`,
//! with the median distance from the median of the readings before.

use std::{collections::BTreeMap, ops::Range};

use weir_schema::UnixNanos;

use super::{
    history::{DEVIATION, median},
    latency::gate,
    readings::{Key, Reading, Readings, Resource, per_time},
};
use crate::spans::Name;

/// After a range began, readings still are of the time before.
const LAG_NS: i64 = 20_000_000_000;

/// Readings before, to compare with.
const MIN_READINGS: usize = 3;

/// The least share of the usual value that is worth a name.
const LEAST_SHARE: f64 = 0.1;

/// What is above history in a service.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Strain {
    pub(super) cpu: Option<Surge>,
    pub(super) network: Option<Surge>,
}

/// How far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surge {
    pub(super) instance: Option<Name>,
    pub(super) now: f64,
    pub(super) usual: f64,
    pub(super) z: f64,
}

/// Services with a strain.
pub(super) type Strained = BTreeMap<Name, Strain>;

impl Strain {
    /// By how much it strengthens other evidence: 1 to 2.
    pub(super) fn factor(&self) -> f64 {
        1.0 + self.cpu.iter().chain(&self.network).map(|surge| gate(surge.z)).fold(0.0, f64::max)
    }
}

impl Readings {
    /// Who is strained in `range`, against `history`. Of a service's instances the worst speaks.
    pub(super) fn strained(&self, history: &Range<UnixNanos>, range: &Range<UnixNanos>) -> Strained {
        let mut best = BTreeMap::<(Name, bool), (Resource, Surge)>::new();
        let mut series: Vec<(&Key, &Vec<Reading>)> = self.series.iter().collect();
        series.sort_by_key(|(key, _)| **key);
        for ((service, resource, instance), readings) in series {
            let Some(surge) = surge(readings, *instance, history, range) else { continue };
            let best = best.entry((*service, *resource == Resource::Network)).or_insert((*resource, surge));
            if best.0 == *resource && surge.z > best.1.z {
                *best = (*resource, surge);
            }
        }
        let mut strained = Strained::new();
        for ((service, network), (_, surge)) in best.into_iter().filter(|(_, (_, surge))| gate(surge.z) > 0.0) {
            let strain = strained.entry(service).or_default();
            *(if network { &mut strain.network } else { &mut strain.cpu }) = Some(surge);
        }
        strained
    }
}

fn surge(
    readings: &[Reading],
    instance: Option<Name>,
    history: &Range<UnixNanos>,
    range: &Range<UnixNanos>,
) -> Option<Surge> {
    let values = per_time(readings);
    let within = |range: &Range<UnixNanos>| -> Vec<f64> {
        values.iter().filter(|(at, _)| range.contains(at)).map(|(_, value)| *value).collect()
    };
    let before = within(history);
    if before.len() < MIN_READINGS {
        return None;
    }
    let now = median(within(&(range.start.saturating_add(LAG_NS)..range.end)))?;
    let usual = median(before.clone())?;
    let spread = DEVIATION * median(before.iter().map(|value| (value - usual).abs()).collect())?;
    let least = (LEAST_SHARE.powi(2) + 0.25 / before.len() as f64) * usual.powi(2);
    let z = (now - usual) / (spread.powi(2) + least).sqrt().max(f64::MIN_POSITIVE);
    Some(Surge { instance, now, usual, z })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Float64Array, Int64Array, StringArray},
        datatypes::{DataType, Field, Schema},
        record_batch::RecordBatch,
    };

    use super::*;
    use crate::spans::Names;

    const SECOND: i64 = 1_000_000_000;

    /// A reading a minute, as (metric, kind, temporality, value).
    fn metrics(name: &str, kind: &str, temporality: &str, values: &[f64]) -> RecordBatch {
        let strings = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; values.len()])) };
        let times = (1..).map(|minute| minute * 60 * SECOND).take(values.len());
        let columns: [(&str, ArrayRef); 6] = [
            ("time_unix_nano", Arc::new(Int64Array::from_iter_values(times))),
            ("service", strings("tagger")),
            ("name", strings(name)),
            ("kind", strings(kind)),
            ("temporality", strings(temporality)),
            ("value", Arc::new(Float64Array::from(values.to_vec()))),
        ];
        let fields = columns.iter().map(|(name, column)| {
            let data_type: &DataType = column.data_type();
            Field::new(*name, data_type.clone(), true)
        });
        let schema = Schema::new(fields.collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).unwrap()
    }

    /// The strain of the last two of these minutes against those before.
    fn strain(name: &str, kind: &str, temporality: &str, values: &[f64]) -> Option<Strain> {
        let (mut names, mut readings) = (Names::default(), Readings::default());
        let tagger = names.intern("tagger");
        readings.add(&metrics(name, kind, temporality, values), &mut names);
        let start = (values.len() as i64 - 2) * 60 * SECOND + 1;
        readings.strained(&(0..start), &(start..start + 150 * SECOND)).get(&tagger).copied()
    }

    #[test]
    fn cpu_above_history_is_a_strain_however_it_is_measured() {
        let gauge = [0.1, 0.11, 0.1, 0.12, 0.1, 0.9, 0.95];
        let counted: Vec<f64> = gauge
            .iter()
            .scan(1_000.0, |sum, share| {
                *sum += 60.0 * share;
                Some(*sum)
            })
            .collect();
        let cases: [(&str, &str, &str, &[f64]); 6] = [
            ("k8s.pod.cpu.usage", "gauge", "", &gauge),
            ("process.cpu.utilization", "gauge", "", &gauge),
            ("k8s.pod.cpu_limit_utilization", "gauge", "", &gauge),
            ("CpuUsageRate(%)", "gauge", "", &gauge),
            ("container.cpu.time", "sum", "cumulative", &counted),
            ("process.cpu.time", "sum", "delta", &gauge),
        ];
        for (name, kind, temporality, values) in cases {
            let cpu = strain(name, kind, temporality, values).and_then(|strain| strain.cpu).expect(name);
            assert!(cpu.z > 10.0 && (cpu.usual - cpu.now).abs() > 0.5, "{name}: {cpu:?}");
        }
    }

    #[test]
    fn what_is_usual_or_of_something_else_is_none() {
        let calm = [0.1, 0.11, 0.1, 0.12, 0.1, 0.11, 0.12];
        let high = [0.1, 0.11, 0.1, 0.12, 0.1, 0.9, 0.95];
        assert!(strain("k8s.pod.cpu.usage", "gauge", "", &calm).is_none());
        for name in ["MemoryUsageRate(%)", "k8s.node.cpu.usage", "NodeCpuUsageRate(%)", "http.server.request.duration"]
        {
            assert!(strain(name, "gauge", "", &high).is_none(), "{name}");
        }
        let network = strain("k8s.pod.network.errors", "gauge", "", &high).expect("a strain of the network");
        assert!(network.network.is_some() && network.cpu.is_none());
    }
}
