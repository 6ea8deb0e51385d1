//! [`Strain`]: that the CPU or the network of a service is above history.
//!
//! CPU names who starves and never whose network is slow, so it tells the two kinds apart and shares what callers and
//! callees may both have lost; it strengthens other evidence by a factor of two at most and accuses nobody alone.
//!
//! A reading is of the time before it, so the first seconds of a range are skipped. Robust z as in `latency.rs`,
//! with the median distance from the median of the readings before. Of a live window, which is shorter than what readings
//! tell apart, the newest three of the last minute speak.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
};

use weir_schema::UnixNanos;

use super::{
    latency::gate,
    readings::{Key, Reading, Readings, Resource, per_time},
};
use crate::{
    robust::{deviation_from, median},
    spans::Name,
};

/// After a range began, readings still are of the time before.
const LAG_NS: i64 = 20_000_000_000;

/// How old a reading may be that speaks of a live window: they come every ten seconds to every minute.
const NOW_NS: i64 = 60_000_000_000;

/// How many speak of it at most: with one in ten seconds, half a minute.
const NEWEST: usize = 3;

/// How far back a live window is compared.
const BEFORE_NS: i64 = 3_600_000_000_000;

/// Readings before, to compare with.
const MIN_READINGS: usize = 3;

/// The least share of the usual value that is worth a name.
const LEAST_SHARE: f64 = 0.1;

/// Deviations beyond which only digits grow: what never was has none of its own.
const FAR: f64 = 1_000.0;

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
    /// Who is strained in `range`, against `history`.
    pub(super) fn strained(&self, history: &Range<UnixNanos>, range: &Range<UnixNanos>) -> Strained {
        let range = range.start.saturating_add(LAG_NS)..range.end;
        self.strains(|_| true, |values| surge(within(values, history), within(values, &range)))
    }

    /// Which of these services are strained at the end of a live window, against what was before it while all was well:
    /// until `calm_until`.
    pub(super) fn strained_now(&self, services: &BTreeSet<Name>, calm_until: UnixNanos, end: UnixNanos) -> Strained {
        let now = end.saturating_sub(NOW_NS)..end;
        let history = end.saturating_sub(BEFORE_NS)..calm_until.min(now.start);
        let newest = |values: &Values| {
            let values = within(values, &now);
            values[values.len().saturating_sub(NEWEST)..].to_vec()
        };
        self.strains(|service| services.contains(service), |values| surge(within(values, &history), newest(values)))
    }

    /// Of a service's instances the worst speaks.
    fn strains(&self, of: impl Fn(&Name) -> bool, surge: impl Fn(&Values) -> Option<Surge>) -> Strained {
        let mut best = BTreeMap::<(Name, bool), (Resource, Surge)>::new();
        let mut series: Vec<(&Key, &VecDeque<Reading>)> =
            self.series.iter().filter(|((service, ..), _)| of(service)).collect();
        series.sort_by_key(|(key, _)| **key);
        for ((service, resource, instance), readings) in series {
            let Some(surge) = surge(&per_time(readings)) else { continue };
            let surge = Surge { instance: *instance, ..surge };
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

/// Values of a series by time.
type Values = BTreeMap<UnixNanos, f64>;

fn within(values: &Values, range: &Range<UnixNanos>) -> Vec<f64> {
    values.iter().filter(|(at, _)| range.contains(at)).map(|(_, value)| *value).collect()
}

fn surge(before: Vec<f64>, now: Vec<f64>) -> Option<Surge> {
    if before.len() < MIN_READINGS {
        return None;
    }
    let now = median(now)?;
    let usual = median(before.clone())?;
    let spread = deviation_from(usual, &before)?;
    let least = (LEAST_SHARE.powi(2) + 0.25 / before.len() as f64) * usual.powi(2);
    let z = ((now - usual) / (spread.powi(2) + least).sqrt().max(f64::MIN_POSITIVE)).min(FAR);
    Some(Surge { instance: None, now, usual, z })
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
    use crate::{
        causes::readings::{LIVE_READINGS, LIVE_SERIES},
        spans::Names,
    };

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
    fn live_the_newest_readings_speak_against_calm_ones() {
        let high = [0.1, 0.11, 0.1, 0.12, 0.1, 0.11, 0.1, 0.9, 0.95];
        let (mut names, mut readings) = (Names::default(), Readings::live());
        let tagger = names.intern("tagger");
        readings.add(&metrics("k8s.pod.cpu.usage", "gauge", "", &high), &mut names);
        let at = |services: &[Name], calm: i64, end: i64| {
            let services = services.iter().copied().collect();
            let strained = readings.strained_now(&services, calm * 60 * SECOND, end * 60 * SECOND + 1);
            strained.get(&tagger).and_then(|strain| strain.cpu).map(|cpu| cpu.now)
        };
        // readings are at minutes 1 to 9, the first high one at 8
        assert_eq!(at(&[tagger], 9, 7), None);
        assert_eq!(at(&[tagger], 9, 8), Some(0.9));
        assert_eq!(at(&[tagger], 8, 9), Some(0.95));
        assert_eq!(at(&[], 8, 9), None, "nobody asks");
        assert_eq!(at(&[tagger], 3, 9), None, "two calm readings are too few");
    }

    #[test]
    fn live_readings_take_bounded_memory() {
        let (mut names, mut readings) = (Names::default(), Readings::live());
        let tagger = names.intern("tagger");
        let reading = |minute: i64| Reading { at: minute * 60 * SECOND, value: 0.1, stream: 0, cumulative: false };
        (0..10_000).for_each(|minute| readings.push((tagger, Resource::Cpu(0), None), reading(minute)));
        (0..10_000).for_each(|pod| readings.push((tagger, Resource::Cpu(0), Some(pod)), reading(1)));
        assert_eq!((readings.series.len(), readings.dropped), (LIVE_SERIES, 10_001 - LIVE_SERIES as u64));
        let kept = &readings.series[&(tagger, Resource::Cpu(0), None)];
        assert_eq!((kept.len(), kept.back().map(|newest| newest.at)), (LIVE_READINGS, Some(9_999 * 60 * SECOND)));
        readings.turn(10_000 * 60 * SECOND);
        assert_eq!(readings.series.len(), 1, "of the others nothing came for an hour");
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

    /// Of one instance's readings some were no number, and nobody was strained.
    #[test]
    fn what_is_no_number_is_no_reading() {
        let high = [0.1, 0.11, 0.1, 0.12, f64::NAN, 0.1, f64::INFINITY, f64::NAN, 0.95];
        let cpu = strain("k8s.pod.cpu.usage", "gauge", "", &high).and_then(|strain| strain.cpu).expect("a strain");
        assert_eq!(cpu.now, 0.95);
    }

    /// What never was has no deviation, so that the first was 10³⁰⁷ of them, and evidence said so digit by digit.
    #[test]
    fn what_never_was_is_far_off_and_no_farther() {
        let network = strain("k8s.pod.network.errors", "gauge", "", &[0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0]);
        assert_eq!(network.and_then(|strain| strain.network).map(|surge| surge.z), Some(FAR));
    }
}
