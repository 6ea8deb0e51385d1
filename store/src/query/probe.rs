//! [`Probe`]: what a look-up of a trace asks of a file: of each row group the range of time and the filter of
//! trace ids. It is a fortieth of a footer (64 KiB a million spans), so that of a table whose footers do not fit
//! in memory only those files are opened that may have the trace.

use parquet::bloom_filter::Sbbf;

use super::{footers::Footer, lru::Weighed, prune::time_range};

/// The column that is asked for.
pub(super) const TRACE_ID: &str = "trace_id";

/// Of a file.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) row_groups: Vec<ProbeGroup>,
    bytes: usize,
}

/// Of a row group.
#[derive(Debug)]
pub(super) struct ProbeGroup {
    pub(super) time_range: Option<(i64, i64)>,
    /// `None`: it may have any trace.
    pub(super) traces: Option<Sbbf>,
}

impl Probe {
    /// Of a file with this footer.
    pub(super) fn of(footer: &Footer, time_column: &str) -> Self {
        let (time, trace) = (footer.leaf(time_column), footer.leaf(TRACE_ID));
        let group = |group: usize| ProbeGroup {
            time_range: time.and_then(|leaf| time_range(footer, group, leaf)),
            traces: trace.and_then(|leaf| footer.filter(group, leaf).cloned()),
        };
        let filter_bytes = |group| trace.map_or(0, |leaf| footer.filter_bytes(group, leaf));
        let groups = 0..footer.row_groups();
        let bytes = groups.clone().map(|group| size_of::<ProbeGroup>() + filter_bytes(group)).sum();
        Self { row_groups: groups.map(group).collect(), bytes }
    }
}

impl Weighed for Probe {
    fn bytes(&self) -> usize {
        self.bytes
    }
}
