//! Stored rows of a time range, streamed by time, from a folder or a server.
//!
//! A statement sorts what it answers, so a long range is asked for in slices of whole minutes, some 200,000 rows each: whatever its length,
//! a slice and a few batches are in memory. A server's limits on one statement then hold for a slice.

use std::ops::Range;

use anyhow::Context;
use arrow::{array::AsArray, datatypes::Int64Type, record_batch::RecordBatch};
use futures::StreamExt;
use tokio::sync::mpsc;
use weir_schema::MINUTE_NS;
use weir_store::SqlConfig;

use crate::target::{Answer, Target};

/// Rows that one statement sorts: about 30 MB of the columns of spans that are read.
const ROWS_AT_ONCE: i64 = 200_000;

/// Batches that are read before they are taken: the analysis and the store work beside each other.
const AHEAD: usize = 2;

/// How long a statement on a folder may run, in milliseconds: nobody else waits for it.
const TIMEOUT_MS: u64 = 600_000;

/// What is read of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct What<'a> {
    pub(crate) table: &'a str,
    /// The column of times.
    pub(crate) time: &'a str,
    /// The columns, as in SQL.
    pub(crate) columns: &'a str,
    /// A condition, as in SQL.
    pub(crate) only: &'a str,
}

/// A time range that one statement answers, and how many rows are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    range: Range<i64>,
    rows: i64,
}

/// The other end of a stream, for a thread that may wait.
pub(crate) struct Received(mpsc::Receiver<RecordBatch>);

impl Iterator for Received {
    type Item = RecordBatch;

    fn next(&mut self) -> Option<RecordBatch> {
        self.0.blocking_recv()
    }
}

/// Both ends of a stream.
pub(crate) fn stream() -> (mpsc::Sender<RecordBatch>, Received) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    (sender, Received(receiver))
}

/// Spans by their start.
pub(crate) fn spans(columns: &str) -> What<'_> {
    What { table: "spans", time: "start_unix_nano", columns, only: "true" }
}

impl What<'_> {
    /// What a range is read in; none where it holds no rows.
    pub(crate) async fn slices(&self, target: &Target, range: &Range<i64>) -> Result<Vec<Slice>, anyhow::Error> {
        let Self { table, time, only, .. } = self;
        let statement = format!(
            "SELECT {time} - {time} % {MINUTE_NS} AS minute, count(*) AS n FROM {table} WHERE {} AND {only} GROUP BY 1 ORDER BY 1",
            self.within(range)
        );
        let mut minutes = Vec::new();
        for batch in ask(target, &statement).await?.collect().await? {
            let long = |place: usize| batch.column(place).as_primitive_opt::<Int64Type>();
            let (times, counts) = long(0).zip(long(1)).context("minutes and counts are whole numbers")?;
            minutes.extend(times.values().iter().copied().zip(counts.values().iter().copied()));
        }
        Ok(sliced(&minutes, range))
    }

    /// Sends the rows of these slices by time, until nobody takes them any more.
    pub(crate) async fn send(
        &self,
        target: &Target,
        slices: &[Slice],
        to: &mpsc::Sender<RecordBatch>,
    ) -> Result<(), anyhow::Error> {
        let Self { table, time, columns, only } = self;
        for slice in slices {
            let within = self.within(&slice.range);
            let statement = format!("SELECT {columns} FROM {table} WHERE {within} AND {only} ORDER BY {time}");
            let mut answer = ask(target, &statement).await?;
            while let Some(batch) = answer.batches.next().await {
                if to.send(batch.with_context(|| format!("reading {table}"))?).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn within(&self, Range { start, end }: &Range<i64>) -> String {
        let time = self.time;
        format!("{time} >= {start} AND {time} < {end}")
    }
}

async fn ask(target: &Target, statement: &str) -> Result<Answer, anyhow::Error> {
    let limits = SqlConfig { max_rows: usize::MAX, timeout_ms: TIMEOUT_MS, ..SqlConfig::default() };
    target.query_within(statement, Some(limits)).await
}

/// Minutes with their rows, joined while they are few, within the range.
fn sliced(minutes: &[(i64, i64)], range: &Range<i64>) -> Vec<Slice> {
    let mut slices: Vec<Slice> = Vec::new();
    for (minute, rows) in minutes {
        let end = minute.saturating_add(MINUTE_NS).min(range.end);
        match slices.last_mut() {
            Some(slice) if slice.rows + rows <= ROWS_AT_ONCE => {
                (slice.range.end, slice.rows) = (end, slice.rows + rows);
            }
            _ => slices.push(Slice { range: (*minute).max(range.start)..end, rows: *rows }),
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_hold_all_minutes_once_and_not_many_rows() {
        let at = |minute: i64| minute * MINUTE_NS;
        let range = at(1) + 5..at(9) + 7;
        let full = ROWS_AT_ONCE;
        let minutes = [(at(1), 10), (at(3), 20), (at(4), full - 30), (at(5), 1), (at(7), 2 * full), (at(9), 3)];
        let found = sliced(&minutes, &range);
        let expected = [(at(1) + 5, at(5), full), (at(5), at(6), 1), (at(7), at(8), 2 * full), (at(9), at(9) + 7, 3)];
        assert_eq!(found, expected.map(|(start, end, rows)| Slice { range: start..end, rows }));
        assert_eq!(sliced(&[], &range), []);
    }
}
