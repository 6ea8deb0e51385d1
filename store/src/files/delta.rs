//! [`DeltaTable`]: the Delta log of one table, written by one committer.
//!
//! A commit adds a file and says, as `txn(node, sequence)`, which log records are now in files. A
//! commit that is not ahead of that sequence is skipped, because Delta itself would accept it.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use arrow::record_batch::RecordBatch;
use deltalake_core::{
    DeltaTableBuilder, TableProperty,
    kernel::{
        Action, Add, StructType, Transaction,
        engine::arrow_conversion::TryIntoKernel,
        transaction::{CommitBuilder, CommitProperties},
    },
    logstore::LogStoreRef,
    protocol::{DeltaOperation, SaveMode},
    table::state::DeltaTableState,
};
use url::Url;
use weir_schema::Table;

use super::{fsync::FsyncLocal, parquet_file};
use crate::{error::StoreError, view::DataFile};

/// Commits between checkpoints: every commit lists the log folder and the state keeps every commit
/// since it was loaded, so both are kept short.
const COMMITS_PER_CHECKPOINT: u64 = 30;

/// A table's folder and Delta log.
pub(crate) struct DeltaTable {
    table: Table,
    dir: PathBuf,
    node: String,
    log: LogStoreRef,
    state: DeltaTableState,
    commits: u64,
}

impl DeltaTable {
    /// Opens or creates the table in `dir`.
    pub(crate) async fn open(table: Table, dir: PathBuf, node: &str) -> Result<Self, StoreError> {
        std::fs::create_dir_all(&dir).map_err(|source| StoreError::Io { path: dir.clone(), source })?;
        let failed = |message: String| StoreError::Delta { table: table.name(), message };
        let url = Url::from_directory_path(&dir)
            .map_err(|()| failed(format!("{} is not an absolute path", dir.display())))?;
        let store = Arc::new(FsyncLocal::new());
        let builder = DeltaTableBuilder::from_url(url.clone()).map_err(|e| failed(e.to_string()))?;
        let mut delta = builder.with_storage_backend(store, url).build().map_err(|e| failed(e.to_string()))?;
        let exists = dir.join("_delta_log").read_dir().is_ok_and(|mut entries| entries.next().is_some());
        if exists {
            delta.load().await.map_err(|e| failed(e.to_string()))?;
        } else {
            let schema: StructType = table.schema().as_ref().try_into_kernel().map_err(|e| failed(e.to_string()))?;
            let create = delta.create().with_table_name(table.name()).with_columns(schema.fields().cloned());
            let create = create
                .with_configuration_property(
                    TableProperty::CheckpointInterval,
                    Some(COMMITS_PER_CHECKPOINT.to_string()),
                )
                .with_configuration_property(TableProperty::LogRetentionDuration, Some("interval 1 hour"))
                .with_configuration_property(TableProperty::DeletedFileRetentionDuration, Some("interval 4 hours"));
            delta = create.await.map_err(|e| failed(e.to_string()))?;
        }
        let state = delta.snapshot().map_err(|e| failed(e.to_string()))?.clone();
        Ok(Self { table, dir, node: node.to_owned(), log: delta.log_store(), state, commits: 0 })
    }

    /// The last log sequence that is in files.
    pub(crate) async fn flushed_sequence(&self) -> Result<Option<u64>, StoreError> {
        let version = self.state.transaction_version(self.log.as_ref(), &self.node).await;
        let version = version.map_err(|e| self.failed(&e))?;
        Ok(version.and_then(|version| u64::try_from(version).ok()))
    }

    /// The live files.
    pub(crate) fn files(&self) -> Vec<Arc<DataFile>> {
        let log = self.state.log_data();
        let files = log.iter().map(|file| {
            let stats: Option<serde_json::Value> = file.stats().and_then(|text| serde_json::from_str(&text).ok());
            let bound = |key: &str| stats.as_ref()?.get(key)?.get(self.table.time_column())?.as_i64();
            Arc::new(DataFile {
                name: file.path().into_owned(),
                bytes: u64::try_from(file.size()).unwrap_or(0),
                rows: file.num_records().unwrap_or(0) as u64,
                time_range: bound("minValues").zip(bound("maxValues")),
                hash: None,
                hot_in_map: true,
                checked: std::sync::OnceLock::new(),
            })
        });
        files.collect()
    }

    /// Writes rows as a file and commits it with the sequence it reaches. Rows are sorted here.
    pub(crate) async fn append(&mut self, rows: &RecordBatch, first: u64, last: u64) -> Result<(), StoreError> {
        if self.flushed_sequence().await?.is_some_and(|flushed| flushed >= last) {
            return Ok(());
        }
        let rows = parquet_file::sorted(self.table, rows)?;
        let add = self.write_file(&rows, &format!("part-{first:012}-{last:012}"), true)?;
        let version = i64::try_from(last).unwrap_or(i64::MAX);
        let properties = properties().with_application_transaction(Transaction::new(&self.node, version));
        let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        self.commit(vec![Action::Add(add)], properties, operation).await
    }

    /// Replaces small files by one with the same rows.
    pub(crate) async fn replace(&mut self, names: &[String], rows: &RecordBatch) -> Result<(), StoreError> {
        let rows = parquet_file::sorted(self.table, rows)?;
        let add = self.write_file(&rows, "compact", false)?;
        let log = self.state.log_data();
        let removed = log.iter().filter(|file| names.iter().any(|name| *name == file.path()));
        let mut actions: Vec<Action> = removed.map(|file| Action::Remove(file.remove_action(false))).collect();
        actions.push(Action::Add(add));
        let operation = DeltaOperation::Optimize { predicate: None, target_size: 128 << 20 };
        self.commit(actions, properties(), operation).await
    }

    /// The path of a file.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write_file(&self, rows: &RecordBatch, prefix: &str, data_change: bool) -> Result<Add, StoreError> {
        let name = format!("{prefix}-{}.parquet", uuid::Uuid::new_v4().simple());
        let file = parquet_file::write(self.table, &self.dir.join(&name), rows)?;
        let synced = std::fs::File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|source| StoreError::Io { path: self.dir.clone(), source })?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(Add {
            path: name,
            partition_values: HashMap::new(),
            size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
            modification_time: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
            data_change,
            stats: Some(parquet_file::stats_json(self.table, rows)),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        })
    }

    async fn commit(
        &mut self,
        actions: Vec<Action>,
        properties: CommitProperties,
        operation: DeltaOperation,
    ) -> Result<(), StoreError> {
        let commit = CommitBuilder::from(properties).with_actions(actions);
        let commit = commit.build(Some(&self.state), self.log.clone(), operation).await;
        self.state = commit.map_err(|e| self.failed(&e))?.snapshot();
        self.commits += 1;
        if self.commits.is_multiple_of(COMMITS_PER_CHECKPOINT) {
            self.state = DeltaTableState::try_new(self.log.as_ref(), None).await.map_err(|e| self.failed(&e))?;
        }
        Ok(())
    }

    fn failed(&self, error: &deltalake_core::DeltaTableError) -> StoreError {
        StoreError::Delta { table: self.table.name(), message: error.to_string() }
    }
}

fn properties() -> CommitProperties {
    CommitProperties::default().with_create_checkpoint(true).with_cleanup_expired_logs(Some(true))
}
