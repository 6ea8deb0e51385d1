//! [`Durations`]: how long the requests of a route took, told apart by what OpenTelemetry's conventions ask of
//! `http.server.request.duration` and `http.client.request.duration`: method, scheme, status, kind of error.
//!
//! Series come up as they are seen. To find one's own walks those there are, in the order they came, which are one to three
//! for most routes: no lock is taken, and nothing is allocated but with a new one. Statuses are the upstream's and methods are
//! known ones, but together they could be many: what finds no room is counted in one series for the rest.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    telemetry::{SpanRecord, conventions::known_method},
    traffic::grpc_name,
};

/// The bounds that OpenTelemetry's HTTP conventions advise, in seconds.
pub(crate) const BOUNDS_S: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// 32 series of a route, 6 KiB when all are there: a method or two, and the statuses that an application has.
const MAX_SERIES: usize = 32;

/// The durations of one route since the start.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    series: [OnceLock<Box<Series>>; MAX_SERIES],
    rest: OnceLock<Box<Series>>,
}

/// What tells requests apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Nothing where bytes passed unread.
    pub(crate) method: Option<&'static str>,
    pub(crate) secure: bool,
    /// 0 where there was no answer.
    pub(crate) status: u16,
    /// Why it failed, where the status does not say it.
    pub(crate) reason: Option<&'static str>,
    /// Whether the status is an error.
    pub(crate) failed: bool,
}

/// The histogram of one of these.
#[derive(Debug)]
pub(crate) struct Series {
    /// None for the rest.
    pub(crate) key: Option<Key>,
    sum_ns: AtomicU64,
    buckets: [AtomicU64; BOUNDS_S.len() + 1],
}

impl Key {
    pub(crate) fn of(record: &SpanRecord) -> Self {
        let failed = record.is_error();
        let grpc = record.grpc_status.filter(|_| failed && record.status < 400);
        Self {
            method: (!record.is_tcp()).then(|| known_method(&record.method)),
            secure: record.is_secure(),
            status: record.status,
            // that a client left in the middle of an answer is none
            reason: record.reason().filter(|_| failed || record.failure.is_none()).or(grpc.map(grpc_name)),
            failed,
        }
    }
}

impl Durations {
    /// Adds one request.
    pub(crate) fn observe(&self, key: Key, duration_ns: u64) {
        let same = |place: &'_ OnceLock<Box<Series>>| place.get_or_init(|| Series::new(Some(key))).key == Some(key);
        let place = self.series.iter().find(|place| same(place)).unwrap_or(&self.rest);
        place.get_or_init(|| Series::new(None)).add(duration_ns);
    }

    /// Those that were seen.
    pub(crate) fn series(&self) -> impl Iterator<Item = &Series> {
        self.series.iter().chain([&self.rest]).filter_map(OnceLock::get).map(AsRef::as_ref)
    }

    /// Of all together: counts by bucket.
    pub(crate) fn buckets(&self) -> Vec<u64> {
        self.series().fold(vec![0; BOUNDS_S.len() + 1], |all, series| {
            all.iter().zip(series.buckets()).map(|(a, b)| a + b).collect()
        })
    }

    /// Of all together, in seconds.
    pub(crate) fn sum_s(&self) -> f64 {
        self.series().map(Series::sum_s).sum()
    }
}

impl Series {
    fn new(key: Option<Key>) -> Box<Self> {
        Box::new(Self { key, sum_ns: AtomicU64::new(0), buckets: Default::default() })
    }

    fn add(&self, duration_ns: u64) {
        let seconds = duration_ns as f64 / 1e9;
        self.sum_ns.fetch_add(duration_ns, Relaxed);
        self.buckets[BOUNDS_S.partition_point(|bound| *bound < seconds)].fetch_add(1, Relaxed);
    }

    /// Counts by bucket.
    pub(crate) fn buckets(&self) -> Vec<u64> {
        self.buckets.iter().map(|count| count.load(Relaxed)).collect()
    }

    pub(crate) fn sum_s(&self) -> f64 {
        self.sum_ns.load(Relaxed) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(status: u16) -> Key {
        Key { method: Some("GET"), secure: false, status, reason: None, failed: false }
    }

    #[test]
    fn what_finds_no_room_is_counted_with_the_rest() {
        let durations = Durations::default();
        for round in 0..2 {
            for status in 200..300 {
                durations.observe(key(status), 6_000_000);
                assert!(round == 0 || durations.series().count() == MAX_SERIES + 1);
            }
        }
        let of = |wanted: Option<Key>| {
            let series = durations.series().find(|series| series.key == wanted).unwrap();
            series.buckets().iter().sum::<u64>()
        };
        assert_eq!((of(Some(key(200))), of(Some(key(231))), of(None)), (2, 2, 2 * 68));
        assert_eq!((durations.buckets()[1], durations.buckets().iter().sum::<u64>()), (200, 200));
        assert!((durations.sum_s() - 1.2).abs() < 1e-9);
    }

    #[test]
    fn threads_that_see_a_kind_at_once_make_one_series_of_it() {
        let durations = Durations::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|n| durations.observe(key(200 + n % 8), 1)));
            }
        });
        let counts: Vec<u64> = durations.series().map(|series| series.buckets()[0]).collect();
        assert_eq!(counts, [500; 8]);
    }
}
