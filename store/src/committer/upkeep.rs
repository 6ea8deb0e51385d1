//! Upkeep of files: few, not too old, intact. A file that no view lists any more stays for a while,
//! for queries that hold an older view.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, error, info, warn};
use weir_schema::Table;

use super::{Committer, flush::Rows};
use crate::{
    config::{Config, MAX_TIMEOUT_MS},
    derived,
    disk::{self, Disk, Step},
    error::StoreError,
    files::{self, Commit, DeltaTable, Level, Merge, NewFile, Origin},
    view::DataFile,
};

/// How long a file that was replaced stays: longer than the longest query.
pub(super) const REPLACED_FILE_LINGERS: Duration = Duration::from_millis(MAX_TIMEOUT_MS + 60_000);

/// What retention by size counts and drops: not what was decided, alerted or found, which is little.
const BOUNDED: [Table; 8] = [
    Table::Spans,
    Table::Logs,
    Table::Metrics,
    Table::TraceIndex,
    Table::Operations,
    Table::Edges,
    Table::Services,
    Table::AttributeKeys,
];

/// Files that no view lists any more, and since when.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    files: Vec<(PathBuf, Instant)>,
}

impl Replaced {
    pub(super) fn push(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let now = Instant::now();
        self.files.extend(paths.into_iter().map(|path| (path, now)));
    }

    /// Deletes those that lingered long enough.
    pub(super) fn delete(&mut self, disk: &dyn Disk, lingers: Duration) {
        let (gone, keep): (Vec<_>, Vec<_>) = self.files.drain(..).partition(|(_, since)| since.elapsed() >= lingers);
        self.files = keep;
        for (path, _) in gone {
            // what stays behind is removed at the next start
            if let Err(error) = disk.remove(&path).and_then(|()| disk.reached(Step::ReplacedDeleted)) {
                warn!(path = %path.display(), %error, "a replaced file could not be deleted");
            }
        }
    }
}

impl Committer {
    /// Makes few files of many, one merge a table: a long one must not hold up flushes for long.
    pub(super) async fn merge(&mut self) {
        if let Err(error) = self.settle().await {
            return warn!(%error, "what an earlier commit did cannot be read");
        }
        for table in Table::ALL {
            let Some(merge) = files::plan_merge(&self.delta(table).files(), self.config.compact_files) else {
                continue;
            };
            if let Err(error) = self.merge_files(table, &merge).await {
                warn!(table = table.name(), %error, "files could not be merged");
            }
        }
    }

    async fn merge_files(&mut self, table: Table, merge: &Merge) -> Result<(), StoreError> {
        let sources = match merge {
            Merge::Rewrite(sources) | Merge::Splice(sources) => sources,
        };
        if !self.all_intact(table, sources).await {
            return Ok(());
        }
        let spliced = match merge {
            Merge::Splice(sources) => self.splice(table, sources)?,
            Merge::Rewrite(_) => None,
        };
        let file = match spliced {
            Some(file) => file,
            None => self.rewrite(table, sources)?,
        };
        self.replace_files(table, sources, file).await?;
        debug!(table = table.name(), files = sources.len(), "merged");
        Ok(())
    }

    /// A durable file takes the place of those whose rows it has.
    pub(super) async fn replace_files(
        &mut self,
        table: Table,
        sources: &[Arc<DataFile>],
        mut file: NewFile,
    ) -> Result<(), StoreError> {
        file.origin = Origin::of_merged(&sources.iter().map(|source| &source.origin).collect::<Vec<_>>());
        let folder = self.delta(table).folder()?.to_owned();
        self.reached(Step::MergeFileSynced, &folder)?;
        self.delta(table).commit(Commit::Merge { removed: sources, file }).await?;
        self.reached(Step::MergeCommitted, &folder)?;
        self.show_files(table).await?;
        self.reached(Step::MergePublished, &folder)?;
        self.replaced.push(sources.iter().map(|file| folder.join(&file.name)));
        Ok(())
    }

    fn splice(&mut self, table: Table, sources: &[Arc<DataFile>]) -> Result<Option<files::NewFile>, StoreError> {
        let disk = self.disk.clone();
        let folder = self.delta(table).folder()?.to_owned();
        let read = |file: &Arc<DataFile>| {
            let path = folder.join(&file.name);
            disk.read(&path).map_err(|source| StoreError::Io { path, source })
        };
        let bytes = sources.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let sources: Vec<_> = sources.iter().map(AsRef::as_ref).zip(bytes).collect();
        let path = folder.join(format!("spliced-{}.parquet", uuid::Uuid::new_v4().simple()));
        let file = files::splice(disk.as_ref(), table, &path, &sources)?;
        disk.sync_dir(&folder).map_err(|source| StoreError::Io { path: folder, source })?;
        Ok(file)
    }

    fn rewrite(&mut self, table: Table, sources: &[Arc<DataFile>]) -> Result<files::NewFile, StoreError> {
        let disk = self.disk.clone();
        let mut batches = Vec::new();
        for file in sources {
            batches.extend(files::read_rows(disk.as_ref(), table, &self.delta(table).path(&file.name))?);
        }
        let in_some = sources.iter().any(|file| file.hot_in_map);
        let hot_in_map = in_some && derived::hot_in_map(table, &batches);
        self.write(table, Rows { batches: &batches, hot_in_map }, "merged", Level::Merged)
    }

    /// Checks files before their rows go elsewhere; a damaged one is set aside.
    pub(super) async fn all_intact(&mut self, table: Table, sources: &[Arc<DataFile>]) -> bool {
        let mut all = true;
        for file in sources {
            let path = self.delta(table).path(&file.name);
            if !file.look(self.disk.as_ref(), &path) {
                all = false;
                self.quarantine(table, &file.name).await;
            }
        }
        all
    }

    /// The live files of all tables.
    pub(super) fn every_file(&self) -> impl Iterator<Item = (Table, Arc<DataFile>)> {
        let files = |(table, delta): (&Table, &DeltaTable)| {
            let table = *table;
            delta.files().into_iter().map(move |file| (table, file))
        };
        self.tables.iter().flat_map(files)
    }

    /// Takes a damaged file out of the table and keeps it for people.
    pub(super) async fn quarantine(&mut self, table: Table, name: &str) {
        let Some(file) = self.delta(table).files().into_iter().find(|file| file.name == name) else { return };
        let kept = self.config.quarantine_dir().join(table.name());
        let path = self.delta(table).path(name);
        error!(table = table.name(), file = name, rows = file.rows, kept = %kept.display(), "a file is damaged: it is set aside");
        if let Err(error) = self.set_aside(table, &file, &path, &kept).await {
            error!(%error, "it could not be set aside");
        }
        let named = format!("{}/{name}", table.name());
        let mut quarantined = self.shared.quarantined.lock();
        if !quarantined.contains(&named) {
            quarantined.push(named);
        }
    }

    async fn set_aside(
        &mut self,
        table: Table,
        file: &Arc<DataFile>,
        path: &Path,
        kept: &Path,
    ) -> Result<(), StoreError> {
        let io = |source| StoreError::Io { path: path.to_owned(), source };
        disk::make_dir(self.disk.as_ref(), kept).map_err(io)?;
        match self.disk.link(path, &kept.join(&file.name)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(error)),
            _ => self.disk.sync_dir(kept).map_err(io)?,
        }
        self.reached(Step::Quarantined, path)?;
        self.delta(table).commit(Commit::Drop { removed: std::slice::from_ref(file) }).await?;
        self.show_files(table).await?;
        self.replaced.push([path.to_owned()]);
        Ok(())
    }

    /// Drops whole files that are too old, then the oldest while there is too much.
    pub(super) async fn retain(&mut self) -> Result<(), StoreError> {
        self.settle().await?;
        let (retention, now) = (self.config.retention.clone(), now_unix_nano());
        for table in Table::ALL {
            let Some(oldest) = retention.oldest(table, now) else { continue };
            let old = |file: &Arc<DataFile>| file.newest_unix_nano(now).is_some_and(|newest| newest < oldest);
            let old: Vec<_> = self.delta(table).files().into_iter().filter(old).collect();
            self.drop_files(table, &old).await?;
        }
        if retention.max_bytes > 0 {
            for (table, files) in self.too_much(retention.max_bytes) {
                self.drop_files(table, &files).await?;
            }
        }
        Ok(())
    }

    /// The oldest files that have to go for the rest to fit.
    fn too_much(&mut self, max_bytes: u64) -> Vec<(Table, Vec<Arc<DataFile>>)> {
        let all: u64 = BOUNDED.into_iter().flat_map(|table| self.delta(table).files()).map(|file| file.bytes).sum();
        let mut over = all.saturating_sub(max_bytes);
        let mut oldest: Vec<(Table, Arc<DataFile>)> = Vec::new();
        for table in BOUNDED {
            oldest.extend(self.delta(table).files().into_iter().map(|file| (table, file)));
        }
        let now = now_unix_nano();
        oldest.sort_by_key(|(_, file)| file.newest_unix_nano(now));
        let mut gone: std::collections::BTreeMap<Table, Vec<Arc<DataFile>>> = Default::default();
        for (table, file) in oldest {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(file.bytes);
            gone.entry(table).or_default().push(file);
        }
        gone.into_iter().collect()
    }

    async fn drop_files(&mut self, table: Table, files: &[Arc<DataFile>]) -> Result<(), StoreError> {
        if files.is_empty() {
            return Ok(());
        }
        self.delta(table).commit(Commit::Drop { removed: files }).await?;
        self.reached(Step::RetentionCommitted, Path::new(table.name()))?;
        self.show_files(table).await?;
        let paths: Vec<_> = files.iter().map(|file| self.delta(table).path(&file.name)).collect();
        self.replaced.push(paths);
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        info!(table = table.name(), files = files.len(), rows, "dropped by retention");
        Ok(())
    }
}

fn now_unix_nano() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// What was set aside, files of tables and pieces of the log: it is named until people take it away.
pub(crate) fn quarantined(disk: &dyn Disk, config: &Config) -> io::Result<Vec<String>> {
    let dir = config.quarantine_dir();
    let mut names = Vec::new();
    for entry in listed(disk, &dir)? {
        match entry.is_dir {
            true => names
                .extend(listed(disk, &dir.join(&entry.name))?.iter().map(|of| format!("{}/{}", entry.name, of.name))),
            false => names.push(entry.name),
        }
    }
    Ok(names)
}

/// What is in a folder; nothing is in one that is not there.
fn listed(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<disk::Entry>> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}
