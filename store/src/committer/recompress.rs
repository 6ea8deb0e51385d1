//! Files that stay are packed more tightly when there is nothing better to do: nothing has come for a
//! while, or they are old and flushes keep up, and there is room. A tick works for a moment only, so that
//! flushes do not wait, and a stop leaves it undone.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tracing::{debug, warn};
use uuid::Uuid;
use weir_schema::Table;

use super::Committer;
use crate::{
    disk::Disk,
    error::StoreError,
    files::{self, Recompression, SMALL_ROWS},
    view::DataFile,
};

/// Nothing was flushed for so long: the work disturbs nobody.
const QUIET: Duration = Duration::from_secs(10);

/// A file that has been there for so long stays, also when it is never quiet.
const OLD: Duration = Duration::from_secs(600);

/// How long a file is left alone after a failure: the others are not held up by it.
const RETRY: Duration = Duration::from_secs(600);

/// How long a tick works.
const BUDGET: Duration = Duration::from_millis(100);

/// What is packed, and what could not be, lately.
#[derive(Default)]
pub(super) struct Recompress {
    current: Option<(Table, Recompression)>,
    failed: HashMap<String, Instant>,
}

impl Recompress {
    /// Leaves what is begun undone.
    pub(super) fn abandon(&mut self, disk: &dyn Disk) {
        if let Some((_, begun)) = self.current.take() {
            begun.abandon(disk);
        }
    }
}

impl Committer {
    /// Goes on with a file, or begins one that is due. A failure costs nothing but the work.
    pub(super) async fn recompress(&mut self) {
        let quiet = self.flushed_at.elapsed() >= QUIET;
        let keeps_up = self.views.current().memory_bytes() < self.config.memory_limit_bytes / 4;
        // a flush that fails, or a disk that is nearly full, has other troubles
        if !keeps_up || self.retry_at.is_some() || self.shared.disk_full.load(Relaxed) {
            return;
        }
        self.recompress.failed.retain(|_, since| since.elapsed() < RETRY);
        let due = |file: &DataFile| file.rows >= SMALL_ROWS && (quiet || file.since.elapsed() >= OLD);
        if let Err(error) = self.recompress_some(due).await {
            warn!(%error, "a file could not be recompressed");
        }
    }

    /// All files, whatever their age and size.
    pub(super) async fn recompress_all(&mut self) -> Result<(), StoreError> {
        while self.recompress_some(|_| true).await? {}
        Ok(())
    }

    /// A moment's work on a file, or what comes before and after. `false`: nothing is due. A file that
    /// fails is left alone for a while.
    async fn recompress_some(&mut self, due: impl Fn(&DataFile) -> bool) -> Result<bool, StoreError> {
        let Some((table, mut begun)) = self.recompress.current.take() else {
            return self.begin_recompression(due).await;
        };
        if !self.delta(table).files().iter().any(|file| file.name == begun.source().name) {
            begun.abandon(self.disk.as_ref()); // it was merged or dropped meanwhile
            return Ok(true);
        }
        let name = begun.source().name.clone();
        let worked = match begun.advance(BUDGET) {
            Ok(true) => {
                self.recompress.current = Some((table, begun));
                Ok(())
            }
            Ok(false) => self.finish_recompression(table, begun).await,
            Err(error) => {
                begun.abandon(self.disk.as_ref());
                Err(error)
            }
        };
        self.told(&name, worked)?;
        Ok(true)
    }

    /// Remembers a failure.
    fn told(&mut self, name: &str, worked: Result<(), StoreError>) -> Result<(), StoreError> {
        if worked.is_err() {
            self.recompress.failed.insert(name.to_owned(), Instant::now());
        }
        worked
    }

    async fn begin_recompression(&mut self, due: impl Fn(&DataFile) -> bool) -> Result<bool, StoreError> {
        let Some((table, source)) = self.next_to_pack(due) else { return Ok(false) };
        let name = source.name.clone();
        let begun = self.begin_with(table, source).await;
        self.told(&name, begun)?;
        Ok(true)
    }

    fn next_to_pack(&self, due: impl Fn(&DataFile) -> bool) -> Option<(Table, Arc<DataFile>)> {
        let failed = |file: &DataFile| self.recompress.failed.contains_key(&file.name);
        let loose = |file: &DataFile| !file.recompressed && file.checked.known() != Some(false);
        let wanted = |file: &DataFile| loose(file) && due(file) && !failed(file) && self.has_room_for(file);
        self.every_file().find(|(_, file)| wanted(file))
    }

    async fn begin_with(&mut self, table: Table, source: Arc<DataFile>) -> Result<(), StoreError> {
        let path = self.delta(table).path(&source.name);
        let bytes = self.disk.read(&path).map_err(|source| StoreError::Io { path, source })?;
        // asked of these very bytes: they get a hash of their own, and the source goes
        if source.hash.is_some_and(|hash| files::hash(&bytes) != hash) {
            self.quarantine(table, &source.name).await;
            return Ok(());
        }
        let path = self.delta(table).folder()?.join(format!("packed-{}.parquet", Uuid::new_v4().simple()));
        let begun = Recompression::begin(self.disk.as_ref(), table, path, source, bytes)?;
        self.recompress.current = Some((table, begun));
        Ok(())
    }

    /// Whether the disk has room for a second copy without coming near its bound.
    fn has_room_for(&self, file: &DataFile) -> bool {
        let free = self.disk.free_bytes(&self.config.dir).unwrap_or(0);
        free >= self.config.min_free_bytes.saturating_mul(2).saturating_add(file.bytes)
    }

    async fn finish_recompression(&mut self, table: Table, begun: Recompression) -> Result<(), StoreError> {
        let sources = [begun.source().clone()];
        let file = begun.finish(self.disk.as_ref())?;
        let folder = self.delta(table).folder()?.to_owned();
        self.disk.sync_dir(&folder).map_err(|source| StoreError::Io { path: folder, source })?;
        debug!(table = table.name(), from = sources[0].bytes, to = file.bytes, "recompressed");
        self.replace_files(table, &sources, file).await
    }
}
