//! [`restore`]: an analyzer that knows the last minutes, and tables that a crash left incomplete
//! made good.
//!
//! Rows of `operations` and `edges` are written when their minute is over, spans when they are acked:
//! after a crash some minutes lack rows. These are made anew from the stored spans, what their
//! tables have already is subtracted, and the rest is written, at once or when the minute is over.
//! Minutes are affected when the last checkpoint names them, or when a span of theirs was received
//! after it. Without a checkpoint the last hour is taken, or everything when `operations` is empty.
//! After a clean stop nothing is affected.
//!
//! The same way an import makes the rows of what it stored, so importing a file twice, or one that
//! was received live as well, counts its spans once.
//!
//! What is usual, how stations serve, and which findings are open is not read off spans but brought back from what was
//! noted a minute ago at most; windows that were closed by then are not judged again, and those in which nobody listened not at all.
//!
//! The scan goes in event time, some minutes at once, so it holds few spans besides what the analyzer
//! holds anyway. Where tail sampling dropped spans from files, minutes made anew count what
//! was kept; the rows of all others were made before sampling and count everything.

use std::collections::{BTreeMap, BTreeSet};

use arrow::{array::AsArray, datatypes::Int64Type, record_batch::RecordBatch};
use futures::StreamExt;
use tracing::{info, warn};
use weir_analyzer::{Analyzer, SPAN_COLUMNS};
use weir_schema::{MINUTE_NS, Table, UnixNanos};
use weir_store::{SqlConfig, SqlError, Store};

use super::{Checkpoint, checkpoint, now_unix_nano};

/// How much history a restarted analyzer reads back for its windows.
const HISTORY_NS: i64 = 120 * 1_000_000_000;

/// How long a span may be on its way from the collector to the analyzer: a request waits for the log
/// and for a full queue, and its sender gives up well before this.
const IN_FLIGHT_NS: i64 = 120 * 1_000_000_000;

/// What is made anew when nothing says which minutes are incomplete.
const WITHOUT_CHECKPOINT_NS: i64 = 3_600 * 1_000_000_000;

/// Why nothing is made anew.
const CLEAN_STOP: &str = "a clean stop";

/// Spans that one statement sorts: about 30 MB of the columns that are read.
const SPANS_AT_ONCE: i64 = 200_000;

/// How long one of the statements below may run, in milliseconds.
const STATEMENT_TIMEOUT_MS: u64 = 600_000;

/// An analyzer as a start makes it.
pub(super) struct Restored {
    pub(super) analyzer: Analyzer,
    /// When; `None` when the store could not be read: what is incomplete stays noted as it was.
    pub(super) at: Option<UnixNanos>,
    /// Whether the server before this one ended without a clean stop.
    pub(super) after_a_crash: bool,
}

/// An analyzer that has seen what the store holds of the last minutes, and tables made good.
///
/// `since` is when this server began to listen.
pub(super) async fn restore(store: &Store, config: weir_analyzer::Config, since: UnixNanos) -> Restored {
    let now = now_unix_nano();
    let mut analyzer = Analyzer::new(config.clone());
    if let Some(history) = checkpoint::read_history(store)
        && let Err(error) = analyzer.restore_history(&history)
    {
        warn!(%error, "what the analyzer had learnt cannot be used: it learns anew");
    }
    analyzer.set_clock(now);
    let restored = async {
        let (minutes, why) = affected(store, now).await?;
        let scan = Scan { minutes: &minutes, hold_ms: config.hold_ms, history: Some(now) };
        let (spans, rows) = make_good(store, &mut analyzer, scan, now).await?;
        let read_from = now.saturating_sub(HISTORY_NS);
        if let Some(heard) = last_heard(store, read_from, since).await? {
            analyzer.was_away(read_from, heard..since);
        }
        if !minutes.is_empty() {
            let minutes = minutes.len();
            info!(minutes, spans, rows, why, "operations and edges made good");
        }
        Ok::<_, SqlError>(why != CLEAN_STOP)
    };
    let (at, after_a_crash) = match restored.await {
        Ok(after_a_crash) => (Some(now), after_a_crash),
        Err(error) => {
            warn!(%error, "history is not available: operations and edges of the last minutes may be incomplete");
            (None, true)
        }
    };
    Restored { analyzer, at, after_a_crash }
}

/// Makes the rows of these minutes and writes what their tables lack: spans that are stored twice
/// count once, whoever stored them.
pub(crate) async fn complete_minutes(store: &Store, minutes: &BTreeSet<UnixNanos>) -> Result<(), anyhow::Error> {
    let config = weir_analyzer::Config::default();
    let scan = Scan { minutes, hold_ms: config.hold_ms, history: None };
    let mut analyzer = Analyzer::new(config);
    make_good(store, &mut analyzer, scan, UnixNanos::MAX - 1).await?;
    for batch in analyzer.finish().rows {
        if matches!(batch.table, Table::Operations | Table::Edges) {
            store.append_rows(batch).await?;
        }
    }
    Ok(())
}

/// Makes the rows of the minutes that were open when a backup was made, whose spans were added to this store.
pub(crate) async fn complete_backup(store: &Store, backup: &str) -> Result<(), anyhow::Error> {
    let Some(checkpoint) = Checkpoint::of_backup(store, backup)? else { return Ok(()) };
    // what came later is not in it
    let until = checkpoint.received_until.saturating_add(IN_FLIGHT_NS);
    let (minutes, _) = left_open(store, checkpoint, until, now_unix_nano()).await?;
    complete_minutes(store, &minutes).await
}

/// What is read back.
#[derive(Clone, Copy)]
struct Scan<'a> {
    /// Their rows are made anew.
    minutes: &'a BTreeSet<UnixNanos>,
    hold_ms: u64,
    /// Also the last windows before this.
    history: Option<UnixNanos>,
}

/// Spans in, what is stored already out, the rest of minutes that are over written. Says how many
/// spans and rows.
async fn make_good(
    store: &Store,
    analyzer: &mut Analyzer,
    scanned: Scan<'_>,
    now: UnixNanos,
) -> Result<(usize, usize), SqlError> {
    let spans = scan(store, analyzer, scanned).await?;
    for table in [Table::Operations, Table::Edges] {
        subtract(store, analyzer, table, scanned.minutes).await?;
    }
    let mut rows = 0;
    for batch in analyzer.restored(now) {
        rows += batch.rows.num_rows();
        store.append_rows(batch).await.map_err(|error| SqlError::Execution(error.to_string()))?;
    }
    Ok((spans, rows))
}

/// When the newest span was received of those that came before this server; `None` when none of the last minutes did.
async fn last_heard(store: &Store, from: UnixNanos, since: UnixNanos) -> Result<Option<UnixNanos>, SqlError> {
    let statement = format!(
        "SELECT max(received_unix_nano) FROM spans WHERE start_unix_nano >= {from} AND received_unix_nano < {since}"
    );
    Ok(longs(store, &statement).await?.last().copied())
}

/// The minutes whose rows may be incomplete, and how that is known.
async fn affected(store: &Store, now: UnixNanos) -> Result<(BTreeSet<UnixNanos>, &'static str), SqlError> {
    match Checkpoint::read(store) {
        Some(checkpoint) => left_open(store, checkpoint, UnixNanos::MAX, now).await,
        None if longs(store, "SELECT count(*) FROM operations").await?.contains(&0) => {
            Ok((minutes_of(store, "true").await?, "no checkpoint and no operations: all minutes"))
        }
        None => {
            let since = now.saturating_sub(WITHOUT_CHECKPOINT_NS);
            let minutes = minutes_of(store, &format!("start_unix_nano >= {since}")).await?;
            Ok((minutes, "no checkpoint: the last hour"))
        }
    }
}

/// The minutes that were open when this was noted, and those of spans received from then until `until`.
async fn left_open(
    store: &Store,
    checkpoint: Checkpoint,
    until: UnixNanos,
    now: UnixNanos,
) -> Result<(BTreeSet<UnixNanos>, &'static str), SqlError> {
    if checkpoint.complete {
        return Ok((BTreeSet::new(), CLEAN_STOP));
    }
    let since = checkpoint.received_until.min(now).saturating_sub(IN_FLIGHT_NS);
    let mut minutes = checkpoint.minutes;
    minutes.extend(minutes_of(store, &format!("received_unix_nano BETWEEN {since} AND {until}")).await?);
    if let Some(from) = checkpoint.open_from {
        minutes.extend(minutes_of(store, &format!("start_unix_nano >= {from}")).await?);
    }
    Ok((minutes, "a crash"))
}

/// The minutes of the spans that meet a condition.
async fn minutes_of(store: &Store, condition: &str) -> Result<BTreeSet<UnixNanos>, SqlError> {
    let minute = format!("start_unix_nano - start_unix_nano % {MINUTE_NS}");
    longs(store, &format!("SELECT DISTINCT {minute} AS minute FROM spans WHERE {condition}")).await
}

/// Feeds the spans of these minutes, of a hold time around them, and of the last windows, by time.
/// Says how many.
async fn scan(store: &Store, analyzer: &mut Analyzer, scan: Scan<'_>) -> Result<usize, SqlError> {
    let Scan { minutes, hold_ms, history } = scan;
    let around = i64::try_from(hold_ms / 60_000).unwrap_or(1) + 1;
    let near = |minute: &UnixNanos| {
        let minute = *minute;
        (-around..=around).map(move |n| minute.saturating_add(n * MINUTE_NS))
    };
    let mut slices: BTreeSet<UnixNanos> = minutes.iter().flat_map(near).collect();
    let history_from = history.map_or(UnixNanos::MAX, |now| now.saturating_sub(HISTORY_NS));
    if let Some(now) = history {
        let last = history_from.div_euclid(MINUTE_NS)..=now.div_euclid(MINUTE_NS);
        slices.extend(last.map(|minute| minute * MINUTE_NS));
    }
    let (columns, mut spans) = (SPAN_COLUMNS.join(", "), 0);
    for (from, to) in runs(&slices, &spans_per_minute(store, &slices).await?) {
        // exceptions are events, and are told of the last windows only
        let events = if to > history_from { ", events" } else { "" };
        let statement = format!(
            "SELECT {columns}{events} FROM spans WHERE start_unix_nano >= {from} AND start_unix_nano < {to} ORDER BY start_unix_nano"
        );
        spans += each(store, &statement, |rows| analyzer.restore(rows, minutes, history_from)).await?;
    }
    Ok(spans)
}

/// How many spans the minutes from the first to the last of these have; none where there are none.
async fn spans_per_minute(store: &Store, minutes: &BTreeSet<UnixNanos>) -> Result<BTreeMap<UnixNanos, i64>, SqlError> {
    let mut counts = BTreeMap::new();
    let (Some(first), Some(last)) = (minutes.first(), minutes.last()) else { return Ok(counts) };
    let statement = format!(
        "SELECT start_unix_nano - start_unix_nano % {MINUTE_NS} AS minute, count(*) AS spans FROM spans \
         WHERE start_unix_nano >= {first} AND start_unix_nano < {} GROUP BY 1",
        last.saturating_add(MINUTE_NS)
    );
    let take = |rows: &RecordBatch| {
        let column = |place: usize| rows.column(place).as_primitive_opt::<Int64Type>();
        if let (Some(minutes), Some(spans)) = (column(0), column(1)) {
            counts.extend(minutes.iter().flatten().zip(spans.iter().flatten()));
        }
    };
    each(store, &statement, take).await?;
    Ok(counts)
}

/// Ranges of time that hold all spans of these minutes, no others, and not many more than
/// [`SPANS_AT_ONCE`] each.
fn runs(minutes: &BTreeSet<UnixNanos>, spans: &BTreeMap<UnixNanos, i64>) -> Vec<(UnixNanos, UnixNanos)> {
    let (mut runs, mut in_run) = (Vec::<(UnixNanos, UnixNanos)>::new(), 0);
    for (minute, count) in spans.iter().filter(|(minute, _)| minutes.contains(minute)) {
        let end = minute.saturating_add(MINUTE_NS);
        match runs.last_mut() {
            Some(run) if in_run + count <= SPANS_AT_ONCE && spans.range(run.1..*minute).next().is_none() => {
                run.1 = end;
                in_run += count;
            }
            _ => {
                runs.push((*minute, end));
                in_run = *count;
            }
        }
    }
    runs
}

/// Takes out what a table has already, run of minutes by run of minutes.
async fn subtract(
    store: &Store,
    analyzer: &mut Analyzer,
    table: Table,
    minutes: &BTreeSet<UnixNanos>,
) -> Result<(), SqlError> {
    let minutes: Vec<_> = minutes.iter().copied().collect();
    for run in minutes.chunk_by(|a, b| b - a == MINUTE_NS) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let name = table.name();
        let statement =
            format!("SELECT * FROM {name} WHERE minute_unix_nano >= {first} AND minute_unix_nano <= {last}");
        each(store, &statement, |rows| analyzer.subtract(table, rows)).await?;
    }
    Ok(())
}

/// The numbers in the first column of an answer.
async fn longs(store: &Store, statement: &str) -> Result<BTreeSet<i64>, SqlError> {
    let mut numbers = BTreeSet::new();
    let take = |rows: &RecordBatch| {
        let column = rows.column(0).as_primitive_opt::<Int64Type>();
        numbers.extend(column.into_iter().flat_map(|column| column.iter().flatten()));
    };
    each(store, statement, take).await?;
    Ok(numbers)
}

/// Runs a statement and hands on its batches; says how many rows there were.
async fn each(store: &Store, statement: &str, mut take: impl FnMut(&RecordBatch)) -> Result<usize, SqlError> {
    let limits = SqlConfig { max_rows: usize::MAX, timeout_ms: STATEMENT_TIMEOUT_MS, ..SqlConfig::default() };
    let mut answer = store.ask(statement, Some(limits)).await?;
    if answer.lacks_files {
        // what is not seen would be made anew, and be there twice when the file is back
        return Err(SqlError::Execution(answer.warnings.join("; ")));
    }
    let mut count = 0;
    while let Some(rows) = answer.stream.next().await {
        let rows = rows?;
        count += rows.num_rows();
        take(&rows);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkpoint of a clock that was ahead said for a day that nothing was missing.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_came_after_the_clock_was_set_back_is_made_good() {
        let dir = tempfile::tempdir().unwrap();
        let config = weir_store::Config { dir: dir.path().to_owned(), ..weir_store::Config::default() };
        let store = Store::open(config).await.unwrap();
        let now = 1_700_000_000_000_000_000;
        let span = format!(
            r#"{{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"x","startTimeUnixNano":"{now}","endTimeUnixNano":"{now}"}}"#
        );
        let json = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}"#);
        let (signal, encoding) = (weir_schema::Signal::Traces, weir_schema::Encoding::Json);
        let decoded = weir_schema::otlp::decode(signal, encoding, json.as_bytes(), now).unwrap();
        store.append_rows(decoded.batch.unwrap()).await.unwrap();
        let ahead = Checkpoint { received_until: now + 24 * 60 * MINUTE_NS, ..Checkpoint::default() };
        ahead.write(&store).await;
        let (minutes, _) = affected(&store, now + MINUTE_NS).await.unwrap();
        assert_eq!(minutes, [now - now % MINUTE_NS].into());
        store.close().await.unwrap();
    }

    #[test]
    fn runs_hold_the_spans_of_the_minutes_and_no_others() {
        let at = |minute: i64| minute * MINUTE_NS;
        let minutes: BTreeSet<_> = [1, 2, 3, 5, 7, 8, 9].map(at).into();
        let spans: BTreeMap<_, _> =
            [(1, 10), (3, 10), (5, 10), (6, 1), (7, SPANS_AT_ONCE), (8, 1), (40, 9)].map(|(m, n)| (at(m), n)).into();
        // 2 and 9 are empty, 4 too; 6 is not asked for; 7 is full
        assert_eq!(runs(&minutes, &spans), [(at(1), at(6)), (at(7), at(8)), (at(8), at(9))]);
        assert_eq!(runs(&minutes, &BTreeMap::new()), []);
    }
}
