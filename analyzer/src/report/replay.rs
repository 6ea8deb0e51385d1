//! [`Replay`]: stored spans through the analyzer, window by window, in event time.

use arrow::{array::AsArray, datatypes::Int64Type, record_batch::RecordBatch};
use weir_schema::UnixNanos;

use crate::{analyzer::Analyzer, config::Config, snapshot::Snapshot};

/// How far windows stay behind the spans, which come by start: those around a span are there when its window closes.
const BEHIND_NS: i64 = 30_000_000_000;

/// An analyzer and how far its spans have come.
pub(super) struct Replay {
    analyzer: Analyzer,
    /// The newest start.
    pub(super) newest: UnixNanos,
}

impl Replay {
    pub(super) fn new(config: Config) -> Self {
        Self { analyzer: Analyzer::new(Config { lateness_ms: 0, ..config }), newest: UnixNanos::MIN }
    }

    /// Takes in spans by start and closes what is over, window by window. What is open at the end stays open.
    pub(super) fn run(&mut self, batches: impl Iterator<Item = RecordBatch>, mut each: impl FnMut(Snapshot)) {
        for batch in batches {
            self.analyzer.push(&batch);
            let starts = batch.column_by_name("start_unix_nano").and_then(|c| c.as_primitive_opt::<Int64Type>());
            let Some(newest) = starts.and_then(arrow::compute::max) else { continue };
            self.newest = self.newest.max(newest);
            let over = newest.saturating_sub(BEHIND_NS);
            self.close(over, &mut each);
            // only what is held for later is let go: every window that is over is closed
            self.analyzer.step(over);
        }
    }

    /// Closes what is still open.
    pub(super) fn finish(&mut self, mut each: impl FnMut(Snapshot)) {
        self.close(UnixNanos::MAX, &mut each);
    }

    fn close(&mut self, before: UnixNanos, each: &mut impl FnMut(Snapshot)) {
        while let Some(snapshot) = self.analyzer.next_window(before) {
            each(snapshot);
        }
    }

    /// Goes to another time, of which nothing was seen yet, with what was learnt.
    pub(super) fn moved_to(self, at: UnixNanos) -> Self {
        Self { analyzer: self.analyzer.moved_to(at), newest: UnixNanos::MIN }
    }
}
