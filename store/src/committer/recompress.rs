//! Files that stay are packed more tightly when there is nothing better to do: nothing has come for a
//! while, or they are old and flushes keep up. A tick does one row group, so a flush waits for that at
//! most, and a stop leaves it undone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, warn};
use uuid::Uuid;
use weir_schema::Table;

use super::Committer;
use crate::{
    disk::Disk,
    error::StoreError,
    files::{Recompression, SMALL_ROWS},
    view::DataFile,
};

/// Nothing was flushed for so long: the work disturbs nobody.
const QUIET: Duration = Duration::from_secs(10);

/// A file that has been there for so long stays, also when it is never quiet.
const OLD: Duration = Duration::from_secs(600);

/// How long files are left alone after a failure.
const RETRY: Duration = Duration::from_secs(60);

/// What is packed, and when the next may be.
#[derive(Default)]
pub(super) struct Recompress {
    current: Option<(Table, Recompression)>,
    not_before: Option<Instant>,
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
        let waits = self.recompress.not_before.is_some_and(|at| Instant::now() < at);
        if waits || !keeps_up {
            return;
        }
        let due = |file: &DataFile| file.rows >= SMALL_ROWS && (quiet || file.since.elapsed() >= OLD);
        if let Err(error) = self.recompress_some(due).await {
            warn!(%error, "a file could not be recompressed");
            self.recompress.abandon(self.disk.as_ref());
            self.recompress.not_before = Some(Instant::now() + RETRY);
        }
    }

    /// All files, whatever their age and size.
    pub(super) async fn recompress_all(&mut self) -> Result<(), StoreError> {
        let done = async {
            while self.recompress_some(|_| true).await? {}
            Ok(())
        };
        done.await.inspect_err(|_| self.recompress.abandon(self.disk.as_ref()))
    }

    /// One row group, or what comes before the first and after the last. `false`: nothing is due.
    async fn recompress_some(&mut self, due: impl Fn(&DataFile) -> bool) -> Result<bool, StoreError> {
        let Some((table, mut begun)) = self.recompress.current.take() else {
            return self.begin_recompression(due).await;
        };
        if !self.delta(table).files().iter().any(|file| file.name == begun.source().name) {
            begun.abandon(self.disk.as_ref()); // it was merged or dropped meanwhile
            return Ok(true);
        }
        match begun.advance() {
            Ok(true) => self.recompress.current = Some((table, begun)),
            Ok(false) => self.finish_recompression(table, begun).await?,
            Err(error) => {
                begun.abandon(self.disk.as_ref());
                return Err(error);
            }
        }
        Ok(true)
    }

    async fn begin_recompression(&mut self, due: impl Fn(&DataFile) -> bool) -> Result<bool, StoreError> {
        let wanted = |file: &Arc<DataFile>| !file.recompressed && file.checked.known() != Some(false) && due(file);
        let mut files = self.all_files().into_iter();
        let Some((table, source)) = files.find(|(_, file)| wanted(file)) else { return Ok(false) };
        if self.all_intact(table, std::slice::from_ref(&source)).await {
            let path = self.delta(table).path(&source.name);
            let bytes = self.disk.read(&path).map_err(|source| StoreError::Io { path, source })?;
            let path = self.delta(table).folder()?.join(format!("packed-{}.parquet", Uuid::new_v4().simple()));
            let begun = Recompression::begin(self.disk.as_ref(), table, path, source, bytes)?;
            self.recompress.current = Some((table, begun));
        }
        Ok(true)
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
