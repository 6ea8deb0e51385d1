//! Flushing: rows of one table become one file, with the rows derived from them in files of the
//! store's own tables. Those are committed first: a crash in between derives them once more, which
//! changes nothing, because each of their rows says the same however often it is there.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use arrow::{compute::concat_batches, record_batch::RecordBatch};
use tracing::debug;
use uuid::Uuid;
use weir_schema::Table;

use super::Committer;
use crate::{
    config::Config,
    derived::{self, AttributeKeyRow, Seen, ServiceRow},
    disk::Step,
    error::StoreError,
    files::{self, Commit, Encoding, Level, NewFile, Origin, RowsInOrder},
    sampling::Sampler,
    view::{Held, TableView},
    wal,
};

/// The columns of spans that say when a trace ran and how it began.
const INDEXED: [&str; 7] =
    ["trace_id", "parent_span_id", "start_unix_nano", "duration_ns", "service", "operation", "status"];

/// Rows that go into a file.
pub(super) struct Rows<'a> {
    pub(super) batches: &'a [RecordBatch],
    /// A map in them holds an attribute that has a column of its own.
    pub(super) hot_in_map: bool,
}

impl<'a> Rows<'a> {
    /// Of a table that the store fills: it has no attributes.
    fn own(batches: &'a [RecordBatch]) -> Self {
        Self { batches, hot_in_map: false }
    }
}

/// Which rows in memory a flush takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    All,
    /// Those that have waited for what speaks for their traces, where traces are sampled.
    Decided,
}

/// What flushes remember of each other.
pub(super) struct Flush {
    services: Seen<ServiceRow>,
    attribute_keys: Seen<AttributeKeyRow>,
    sampler: Option<Sampler>,
    decision_wait: Duration,
}

impl Flush {
    pub(super) fn new(config: &Config) -> Self {
        let sampler = (config.sampling.share < 1.0).then(|| Sampler::new(config.sampling.clone()));
        let decision_wait = Duration::from_millis(config.sampling.decision_wait_ms);
        Self { services: Seen::default(), attribute_keys: Seen::default(), sampler, decision_wait }
    }

    /// Whether rows of this table wait before they may be taken.
    fn waits(&self, table: Table, take: Take) -> bool {
        take == Take::Decided && table == Table::Spans && self.sampler.is_some()
    }

    /// How many of these, from the front, may be taken.
    fn ready(&self, table: Table, take: Take, held: &[Arc<Held>]) -> usize {
        match self.waits(table, take) {
            true => held.iter().take_while(|held| held.until.elapsed() >= self.decision_wait).count(),
            false => held.len(),
        }
    }

    /// Whether there is enough, or anything old enough, to be taken: those that wait are neither.
    pub(super) fn is_due(
        &self,
        (table, view): (Table, &TableView),
        take: Take,
        (rows, age): (usize, Duration),
    ) -> bool {
        let wait = if self.waits(table, take) { self.decision_wait } else { Duration::ZERO };
        let old = view.memory().next().is_some_and(|held| held.since.elapsed() >= wait + age);
        let ready = view.memory().take_while(|held| wait.is_zero() || held.until.elapsed() >= wait);
        old || ready.map(|held| held.rows.num_rows()).sum::<usize>() >= rows
    }
}

impl Committer {
    /// Moves rows of the tables that are due to files, then trims the log. One table's failure does
    /// not hold up the others.
    pub(super) async fn flush(
        &mut self,
        take: Take,
        due: impl Fn(&Flush, Table, &TableView) -> bool,
    ) -> Result<(), StoreError> {
        // asked first: rows appended after the past was whole come after all of it
        let past_is_whole = self.replay.is_over();
        let mut flushed = Ok(());
        for table in Table::ALL {
            if due(&self.flush, table, self.views.current().table(table)) {
                flushed = flushed.and(self.flush_table(table, take, past_is_whole).await);
            }
        }
        self.replay.wake();
        if past_is_whole && self.replay.allows_trim() {
            let wal_dir = self.config.wal_dir();
            let segments = wal::segments(self.disk.as_ref(), &wal_dir)?;
            let keep_from = self.views.current().first_unflushed();
            wal::trim(self.disk.as_ref(), &segments, keep_from.unwrap_or(u64::MAX))?;
        }
        flushed
    }

    async fn flush_table(&mut self, table: Table, take: Take, past_is_whole: bool) -> Result<(), StoreError> {
        self.views.seal(table);
        let view = self.views.current();
        // while the past is replayed, what was appended since has to wait for it
        let held: Vec<Arc<Held>> = match past_is_whole {
            true => view.table(table).memory().cloned().collect(),
            false => view.table(table).replayed().cloned().collect(),
        };
        let (held, waiting) = held.split_at(self.flush.ready(table, take, &held));
        let Some(last) = held.last().map(|held| held.last_sequence) else { return Ok(()) };
        let node = self.config.node.clone();
        let through = self.delta(table).through(&node).await?;
        let fresh = not_through(held, through);
        if let Some(first) = fresh.first().map(|held| held.first_sequence) {
            let in_some = self.derive(table, &fresh, last).await?;
            let batches = self.sampled(table, rows_of(&fresh), || rows_of(waiting));
            let hot_in_map = in_some && derived::hot_in_map(table, &batches);
            if batches.iter().any(|batch| batch.num_rows() > 0) {
                let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
                self.append(table, Rows { batches: &batches, hot_in_map }, (first, last), &node).await?;
                debug!(table = table.name(), rows, "flushed");
            }
        }
        let files = self.delta(table).files();
        self.views.flushed(table, last, files);
        if matches!(table, Table::Spans | Table::Logs | Table::Metrics) {
            self.flushed_at = Instant::now();
        }
        self.reached(Step::FlushPublished, Path::new(table.name()))
    }

    /// One file, one commit.
    async fn append(
        &mut self,
        table: Table,
        rows: Rows<'_>,
        (first, last): (u64, u64),
        application: &str,
    ) -> Result<(), StoreError> {
        let mut file = self.write(table, rows, &format!("part-{first:012}-{last:012}"), Level::Fresh)?;
        // records between had no rows for this table
        let from = self.delta(table).through(application).await?.map_or(first, |through| through + 1);
        file.origin = Origin::of(self.lineage, application, from, last);
        self.delta(table).commit(Commit::Append { file, application, through: last }).await?;
        self.reached(Step::FlushCommitted, Path::new(table.name()))
    }

    /// Writes a file that is durable, and so is its name.
    pub(super) fn write(
        &mut self,
        table: Table,
        Rows { batches, hot_in_map }: Rows<'_>,
        prefix: &str,
        level: Level,
    ) -> Result<NewFile, StoreError> {
        let disk = self.disk.clone();
        let folder = self.delta(table).folder()?.to_owned();
        let path = folder.join(format!("{prefix}-{}.parquet", Uuid::new_v4().simple()));
        let encoding = Encoding { level, threads: self.encoders() };
        let file = files::write(disk.as_ref(), &path, &RowsInOrder::new(table, batches), encoding, hot_in_map)?;
        disk.sync_dir(&folder).map_err(|source| StoreError::Io { path: folder, source })?;
        self.reached(Step::DataFileSynced, &path)?;
        Ok(file)
    }

    fn sampled(
        &mut self,
        table: Table,
        batches: Vec<RecordBatch>,
        waiting: impl FnOnce() -> Vec<RecordBatch>,
    ) -> Vec<RecordBatch> {
        let Some(sampler) = self.flush.sampler.as_mut().filter(|_| table == Table::Spans) else { return batches };
        let kept = sampler.apply(&batches, &waiting());
        self.shared.sampled_out_spans.store(sampler.dropped_spans(), Relaxed);
        kept
    }

    /// The rows that the store keeps about these rows, before any sampling. Says whether a map in them
    /// holds an attribute that has a column of its own.
    async fn derive(&mut self, table: Table, held: &[Arc<Held>], last: u64) -> Result<bool, StoreError> {
        if !matches!(table, Table::Spans | Table::Logs | Table::Metrics) {
            return Ok(false);
        }
        let application = format!("{}/{}", self.config.node, table.name());
        if table == Table::Spans {
            let through = self.delta(Table::TraceIndex).through(&application).await?;
            let fresh = not_through(held, through);
            if let Some(first) = fresh.first().map(|held| held.first_sequence) {
                let rows = derived::trace_index(&indexed_columns(&fresh)?);
                self.append(Table::TraceIndex, Rows::own(&[rows]), (first, last), &application).await?;
            }
            self.show_files(Table::TraceIndex).await?;
        }
        let mut services = held.iter().flat_map(|held| derived::services(table, &held.rows)).collect();
        services = self.flush.services.unseen(services);
        if !services.is_empty() {
            self.append_own(Table::Services, derived::services_batch(&services), last, &application).await?;
            self.flush.services.remember(services);
        }
        let mut keys = BTreeSet::new();
        let mut hot_in_map = false;
        for held in held {
            let found = derived::attribute_keys(table, &held.rows);
            keys.extend(found.rows);
            hot_in_map |= found.hot_in_map;
        }
        let keys = self.flush.attribute_keys.unseen(keys);
        if !keys.is_empty() {
            self.append_own(Table::AttributeKeys, derived::attribute_keys_batch(&keys), last, &application).await?;
            self.flush.attribute_keys.remember(keys);
        }
        Ok(hot_in_map)
    }

    async fn append_own(
        &mut self,
        table: Table,
        rows: RecordBatch,
        last: u64,
        application: &str,
    ) -> Result<(), StoreError> {
        if self.delta(table).through(application).await?.is_none_or(|through| through < last) {
            self.append(table, Rows::own(&[rows]), (last, last), application).await?;
        }
        self.show_files(table).await
    }

    /// Queries see the table's files as they are now. Among them may be those of a flush that was only
    /// thought to have failed, so its rows leave memory in the same moment.
    pub(super) async fn show_files(&mut self, table: Table) -> Result<(), StoreError> {
        let node = self.config.node.clone();
        let through = self.delta(table).through(&node).await?;
        let files = self.delta(table).files();
        match through {
            Some(through) => self.views.flushed(table, through, files),
            None => self.views.set_files(table, files),
        }
        Ok(())
    }

    pub(super) fn delta(&mut self, table: Table) -> &mut crate::files::DeltaTable {
        self.tables.get_mut(&table).expect("every table is opened with the store")
    }
}

fn rows_of(held: &[Arc<Held>]) -> Vec<RecordBatch> {
    held.iter().map(|held| held.rows.clone()).collect()
}

/// What the trace index is made of, of all rows: a trace that came in several requests has one row.
fn indexed_columns(held: &[Arc<Held>]) -> Result<RecordBatch, StoreError> {
    let schema = Table::Spans.schema();
    let places = INDEXED.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
    let batches = held.iter().map(|held| held.rows.project(&places)).collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(&Arc::new(schema.project(&places)?), &batches)?)
}

fn not_through(held: &[Arc<Held>], through: Option<u64>) -> Vec<Arc<Held>> {
    held.iter().filter(|held| through.is_none_or(|through| held.last_sequence > through)).cloned().collect()
}
