//! [`DeltaTable`]: the Delta log of one table, written by one committer.
//!
//! A commit adds files and says, as `txn(application, sequence)`, which log records are now in
//! files. A commit that is not ahead of that sequence is skipped, because Delta itself would accept
//! it. A table begins with its first rows: what nobody uses costs nothing.

mod add;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use deltalake_core::{
    DeltaTableBuilder, TableProperty,
    kernel::{
        Action, MetadataExt, Remove, StructType, Transaction,
        engine::arrow_conversion::TryIntoKernel,
        transaction::{CommitBuilder, CommitProperties},
    },
    logstore::LogStoreRef,
    protocol::{DeltaOperation, SaveMode},
    table::state::DeltaTableState,
};
use tracing::{info, warn};
use weir_schema::Table;

pub(super) use self::add::data_file;
use super::NewFile;
use crate::{
    disk::{self, Disk, DiskStore},
    error::StoreError,
    view::DataFile,
};

/// Commits between checkpoints: every commit lists the log folder and the state keeps every commit
/// since it was loaded, so both are kept short.
const COMMITS_PER_CHECKPOINT: u64 = 30;

/// A table's folder and Delta log.
pub(crate) struct DeltaTable {
    table: Table,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    log: LogStoreRef,
    /// `None` until the first commit.
    state: Option<DeltaTableState>,
    /// The live files, as the state has them.
    files: Vec<Arc<DataFile>>,
    /// Applications whose sequence was asked for: the log record they are through.
    through: BTreeMap<String, Option<u64>>,
    commits: u64,
    /// A commit failed: whether it is in the log is not known until the state is read again.
    doubtful: bool,
}

/// A change of a table's files.
pub(crate) enum Commit<'a> {
    /// New rows, through a log record.
    Append { file: NewFile, application: &'a str, through: u64 },
    /// The same rows in another file.
    Merge { removed: &'a [Arc<DataFile>], file: NewFile },
    /// Rows that go.
    Drop { removed: &'a [Arc<DataFile>] },
}

impl DeltaTable {
    /// Opens the table in `dir`, if it has begun.
    pub(crate) async fn open(table: Table, dir: PathBuf, disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        let mut opened = Self::unread(table, dir, disk)?;
        if opened.has_begun()? {
            // a process that was killed may have left names that are not durable: nothing they replace
            // may go before they are
            opened.sync_names()?;
            opened.reload().await?;
            opened.evolve().await?;
            opened.remove_strays();
        }
        Ok(opened)
    }

    /// Looks at a table of somebody else's, a backup's: nothing in its folder is changed.
    pub(crate) async fn look(table: Table, dir: PathBuf, disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        let mut seen = Self::unread(table, dir, disk)?;
        if seen.has_begun()? {
            seen.reload().await?;
        }
        Ok(seen)
    }

    fn unread(table: Table, dir: PathBuf, disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        let failed = |message: String| StoreError::Delta { table: table.name(), message };
        let builder = builder(&dir, &disk).map_err(failed)?;
        let log = builder.build_storage().map_err(|e| failed(e.to_string()))?;
        Ok(Self {
            table,
            dir,
            disk,
            log,
            state: None,
            files: Vec::new(),
            through: BTreeMap::new(),
            commits: 0,
            doubtful: false,
        })
    }

    /// The last log record whose rows are in files, as an application counts them.
    pub(crate) async fn through(&mut self, application: &str) -> Result<Option<u64>, StoreError> {
        self.settle().await?;
        if let Some(through) = self.through.get(application) {
            return Ok(*through);
        }
        let through = match &self.state {
            Some(state) => state.transaction_version(self.log.as_ref(), application).await,
            None => Ok(None),
        };
        let through = through.map_err(|e| self.failed(&e))?.and_then(|version| u64::try_from(version).ok());
        self.through.insert(application.to_owned(), through);
        Ok(through)
    }

    /// The live files.
    pub(crate) fn files(&self) -> Vec<Arc<DataFile>> {
        self.files.clone()
    }

    /// The path of a file.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The folder, which exists from here on.
    pub(crate) fn folder(&self) -> Result<&Path, StoreError> {
        let made = disk::make_dir(self.disk.as_ref(), &self.dir);
        made.map_err(|source| StoreError::Io { path: self.dir.clone(), source })?;
        Ok(&self.dir)
    }

    /// Commits a change; it is durable when this returns. The file's name is made durable first.
    pub(crate) async fn commit(&mut self, commit: Commit<'_>) -> Result<(), StoreError> {
        self.settle().await?;
        if let Commit::Merge { removed, .. } | Commit::Drop { removed } = &commit
            && removed.iter().any(|gone| self.files.iter().all(|file| file.name != gone.name))
        {
            return Err(self.error("files that a commit replaces are not there any more".into()));
        }
        if self.state.is_none() {
            self.begin().await?;
        }
        let mut properties = properties();
        let (added, removed) = match &commit {
            Commit::Append { file, application, through } => {
                let version = i64::try_from(*through).unwrap_or(i64::MAX);
                properties = properties.with_application_transaction(Transaction::new(*application, version));
                (Some(file), [].as_slice())
            }
            Commit::Merge { removed, file } => (Some(file), *removed),
            Commit::Drop { removed } => (None, *removed),
        };
        let data_change = !matches!(commit, Commit::Merge { .. });
        let mut actions = self.removes(removed, data_change);
        actions.extend(added.map(|file| Action::Add(add::add(file, self.table, data_change))));
        self.write(actions, properties, operation(&commit)).await?;
        if let Commit::Append { application, through, .. } = commit {
            self.through.insert(application.to_owned(), Some(through));
        }
        self.files.retain(|file| removed.iter().all(|gone| gone.name != file.name));
        if let Some(file) = added {
            self.files.push(Arc::new(data_file(file)));
        }
        Ok(())
    }

    /// Whether the log has a commit. A log that cannot be read is not taken for one that is not there.
    fn has_begun(&self) -> Result<bool, StoreError> {
        let log = self.dir.join("_delta_log");
        match self.disk.list(&log) {
            Ok(entries) => {
                Ok(entries.iter().any(|entry| [".json", ".parquet"].iter().any(|end| entry.name.ends_with(end))))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(StoreError::Io { path: log, source }),
        }
    }

    async fn begin(&mut self) -> Result<(), StoreError> {
        self.folder()?;
        if self.has_begun()? {
            // an earlier try got so far
            self.sync_names()?;
            return self.reload().await;
        }
        let failed = |message: String| StoreError::Delta { table: self.table.name(), message };
        let delta = builder(&self.dir, &self.disk).map_err(failed)?.build().map_err(|e| self.failed(&e))?;
        let schema = kernel_schema(self.table)?;
        let create = delta.create().with_table_name(self.table.name()).with_columns(schema.fields().cloned());
        let settings = [
            (TableProperty::CheckpointInterval, COMMITS_PER_CHECKPOINT.to_string()),
            (TableProperty::LogRetentionDuration, "interval 1 hour".to_owned()),
            (TableProperty::DeletedFileRetentionDuration, "interval 4 hours".to_owned()),
        ];
        let create = settings
            .into_iter()
            .fold(create, |create, (key, value)| create.with_configuration_property(key, Some(value)));
        let delta = create.await.map_err(|e| self.failed(&e))?;
        self.sync_names()?;
        self.state = Some(delta.snapshot().map_err(|e| self.failed(&e))?.clone());
        Ok(())
    }

    /// Makes the log's names, the table's and its folder's durable.
    fn sync_names(&self) -> Result<(), StoreError> {
        let log = self.dir.join("_delta_log");
        let dirs = [Some(log.as_path()), Some(self.dir.as_path()), self.dir.parent()];
        let synced = dirs.into_iter().flatten().try_for_each(|dir| self.disk.sync_dir(dir));
        synced.map_err(|source| StoreError::Io { path: self.dir.clone(), source })
    }

    /// Columns that this version has and the table has not are added; files without them read as null.
    async fn evolve(&mut self) -> Result<(), StoreError> {
        let Some(state) = &self.state else { return Ok(()) };
        let (ours, found) = (kernel_schema(self.table)?, state.schema());
        let missing: Vec<_> = ours.fields().filter(|field| found.field(field.name()).is_none()).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = missing.iter().map(|field| field.name().clone()).collect();
        // columns that a newer version added stay
        let columns = found.fields().cloned().chain(missing);
        let schema = StructType::try_new(columns).map_err(|e| self.error(e.to_string()))?;
        let metadata = state.metadata().clone().with_schema(&schema).map_err(|e| self.error(e.to_string()))?;
        info!(table = self.table.name(), columns = ?names, "columns added");
        let operation = DeltaOperation::AddColumn { fields: schema.fields().cloned().collect() };
        self.write(vec![Action::Metadata(metadata)], properties(), operation).await
    }

    /// Data files that no commit names: left by a flush or merge that was cut short.
    fn remove_strays(&self) {
        let Ok(entries) = self.disk.list(&self.dir) else { return };
        let stray = |name: &str| name.ends_with(".parquet") && self.files.iter().all(|file| file.name != name);
        for entry in entries.iter().filter(|entry| !entry.is_dir && stray(&entry.name)) {
            super::parquet_file::abandon(self.disk.as_ref(), &self.dir.join(&entry.name));
        }
    }

    /// Reads the state again when a commit may or may not be in the log. If it is, its name may not be
    /// durable yet.
    ///
    /// Says whether files may have changed by it.
    pub(crate) async fn settle(&mut self) -> Result<bool, StoreError> {
        let doubtful = self.doubtful && self.has_begun()?;
        if doubtful {
            self.sync_names()?;
            self.reload().await?;
        }
        self.doubtful = false;
        Ok(doubtful)
    }

    async fn reload(&mut self) -> Result<(), StoreError> {
        let state = DeltaTableState::try_new(self.log.as_ref(), None).await.map_err(|e| self.failed(&e))?;
        let known: HashMap<_, _> = self.files.drain(..).map(|file| (file.name.clone(), file)).collect();
        let table = self.table;
        self.files = state
            .log_data()
            .iter()
            .map(|file| {
                #[allow(deprecated)] // the only way to a file's tags
                let add = file.add_action();
                known.get(&add.path).cloned().unwrap_or_else(|| Arc::new(add::read_add(&add, table)))
            })
            .collect();
        self.state = Some(state);
        self.through.clear();
        Ok(())
    }

    async fn write(
        &mut self,
        actions: Vec<Action>,
        properties: CommitProperties,
        operation: DeltaOperation,
    ) -> Result<(), StoreError> {
        let Some(state) = &self.state else { return Err(self.error("the table has not begun".into())) };
        self.doubtful = true;
        let commit = CommitBuilder::from(properties).with_actions(actions);
        let commit = commit.build(Some(state), self.log.clone(), operation).await.map_err(|e| self.failed(&e))?;
        self.state = Some(commit.snapshot());
        self.doubtful = false;
        self.commits += 1;
        if self.commits.is_multiple_of(COMMITS_PER_CHECKPOINT) {
            let fresh = DeltaTableState::try_new(self.log.as_ref(), None).await;
            match fresh {
                Ok(state) => self.state = Some(state),
                Err(error) => warn!(table = self.table.name(), %error, "the table's state could not be shortened"),
            }
        }
        Ok(())
    }

    fn removes(&self, removed: &[Arc<DataFile>], data_change: bool) -> Vec<Action> {
        let now = add::now_ms();
        let remove = |file: &Arc<DataFile>| Remove {
            path: file.name.clone(),
            data_change,
            deletion_timestamp: Some(now),
            extended_file_metadata: Some(true),
            partition_values: Some(HashMap::new()),
            size: Some(i64::try_from(file.bytes).unwrap_or(i64::MAX)),
            deletion_vector: None,
            tags: None,
            base_row_id: None,
            default_row_commit_version: None,
        };
        removed.iter().map(|file| Action::Remove(remove(file))).collect()
    }

    fn failed(&self, error: &deltalake_core::DeltaTableError) -> StoreError {
        self.error(error.to_string())
    }

    fn error(&self, message: String) -> StoreError {
        StoreError::Delta { table: self.table.name(), message }
    }
}

fn builder(dir: &Path, disk: &Arc<dyn Disk>) -> Result<DeltaTableBuilder, String> {
    let url = disk.table_url(dir).ok_or_else(|| format!("{} is not an absolute path", dir.display()))?;
    let builder = DeltaTableBuilder::from_url(url.clone()).map_err(|e| e.to_string())?;
    Ok(builder.with_storage_backend(Arc::new(DiskStore::new(disk.clone())), url))
}

fn kernel_schema(table: Table) -> Result<StructType, StoreError> {
    let schema = table.schema();
    let converted: Result<StructType, _> = schema.as_ref().try_into_kernel();
    converted.map_err(|e| StoreError::Delta { table: table.name(), message: e.to_string() })
}

fn operation(commit: &Commit<'_>) -> DeltaOperation {
    match commit {
        Commit::Append { .. } => DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None },
        Commit::Merge { .. } => DeltaOperation::Optimize { predicate: None, target_size: 128 << 20 },
        Commit::Drop { .. } => DeltaOperation::Delete { predicate: None },
    }
}

fn properties() -> CommitProperties {
    CommitProperties::default().with_create_checkpoint(true).with_cleanup_expired_logs(Some(true))
}
