//! Backup: all tables as they are at one moment, as a data folder of its own, while requests are
//! taken. Files never change once written, so they get a second name where that is possible and are
//! copied where it is not. Restore: the rows of such a folder, added to a store that is in use, once.

use std::{io, path::Path, sync::Arc};

use serde::Serialize;
use tracing::warn;
use weir_schema::Table;

use super::{Committer, flush::Take};
use crate::{
    checkpoint,
    config::CHECKPOINTS,
    disk::{self, Disk},
    error::StoreError,
    files::{self, Commit, DeltaTable, NewFile, Origin},
    view::DataFile,
};

/// The file that names a backup, written last: a folder without it is none.
pub(crate) const NAME: &str = "backup.json";

/// The name of what says which minutes were open: all that a server notes about rows of tables.
pub(crate) const OPEN_MINUTES: &str = "analysis";

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Rows that were added, of all tables.
    pub rows: u64,
    /// Files that were added.
    pub files: u64,
    /// Files whose rows were there already: never lost, or from an earlier restore of the same backup.
    pub skipped_files: u64,
}

impl Committer {
    /// Leaves a copy of all tables in the empty folder `to`. What tables may lack is noted there first: what comes meanwhile is more
    /// than that knows of.
    pub(super) async fn backup(&mut self, to: &Path) -> Result<(), StoreError> {
        self.copy_notes(to)?;
        self.flush(Take::All, |_, _, _| true).await?;
        self.settle().await?;
        let disk = self.disk.clone();
        for table in Table::ALL {
            let files = self.delta(table).files();
            if files.is_empty() {
                continue;
            }
            let from = self.delta(table).folder()?.to_owned();
            let folder = to.join("tables").join(table.name());
            copy_folder(disk.as_ref(), &from.join("_delta_log"), &folder.join("_delta_log"))?;
            for file in &files {
                second_name(disk.as_ref(), &from.join(&file.name), &folder.join(&file.name))?;
            }
            disk.sync_dir(&folder).map_err(|source| StoreError::Io { path: folder, source })?;
        }
        // the name comes last: a folder without it is not a whole backup
        let id = serde_json::json!({ "id": uuid::Uuid::new_v4().to_string() }).to_string();
        disk::replace(disk.as_ref(), &to.join(NAME), id.as_bytes())
            .map_err(|source| StoreError::Io { path: to.to_owned(), source })
    }

    /// Copies what says which minutes were open. What people ordered and what was learnt is of this server, not of its rows.
    fn copy_notes(&self, to: &Path) -> Result<(), StoreError> {
        let (from, to) = (self.config.checkpoints_dir(), to.join(CHECKPOINTS));
        let copied = match checkpoint::read(self.disk.as_ref(), &from, OPEN_MINUTES) {
            Ok(Some((bytes, sequence))) => checkpoint::write(self.disk.as_ref(), &to, OPEN_MINUTES, &bytes, sequence),
            read => read.map(drop),
        };
        copied.map_err(|source| StoreError::Io { path: to, source })
    }

    /// Adds the rows of a backup. Done again it adds nothing, and neither does a file that is still
    /// here. A damaged file is left out and named at the end.
    pub(super) async fn restore(&mut self, from: &Path) -> Result<Restored, StoreError> {
        let id = read_id(self.disk.as_ref(), from)?;
        let (mut restored, mut failed) = (Restored::default(), None);
        for table in Table::ALL {
            let folder = from.join("tables").join(table.name());
            let backup = DeltaTable::look(table, folder, self.disk.clone()).await?;
            for file in backup.files() {
                let (path, application) = (backup.path(&file.name), format!("restore/{id}/{}", file.name));
                if let Err(error) = self.restore_file(table, &path, &file, &application, &mut restored).await {
                    warn!(%error, "a file of the backup is left out");
                    failed.get_or_insert(error);
                }
            }
            self.show_files(table).await?;
        }
        failed.map_or(Ok(restored), Err)
    }

    async fn restore_file(
        &mut self,
        table: Table,
        path: &Path,
        file: &Arc<DataFile>,
        application: &str,
        restored: &mut Restored,
    ) -> Result<(), StoreError> {
        let restored_before = self.delta(table).through(application).await?.is_some();
        if restored_before || self.has_all_of(table, file) {
            restored.skipped_files += 1;
            return Ok(());
        }
        if self.has_some_of(table, file) {
            let source = io::Error::other(
                "some of its rows are in other files already, and it would add them twice: restore the backup into an \
                 empty data folder and take from there what is missing; the rest of the backup was added",
            );
            return Err(StoreError::Io { path: path.to_owned(), source });
        }
        if !file.is_intact(self.disk.as_ref(), path) {
            let source = io::Error::new(
                io::ErrorKind::InvalidData,
                "its content is not what was backed up: the rest of the backup was added",
            );
            return Err(StoreError::Io { path: path.to_owned(), source });
        }
        let file = self.take_in(table, path, file)?;
        let rows = file.rows;
        self.delta(table).commit(Commit::Append { file, application, through: 1 }).await?;
        restored.rows += rows;
        restored.files += 1;
        Ok(())
    }

    /// Gives a backup's file a second name among the table's own, which no commit names yet.
    fn take_in(&mut self, table: Table, path: &Path, file: &DataFile) -> Result<NewFile, StoreError> {
        let name = format!("restored-{}.parquet", uuid::Uuid::new_v4().simple());
        let folder = self.delta(table).folder()?.to_owned();
        second_name(self.disk.as_ref(), path, &folder.join(&name))?;
        self.disk.sync_dir(&folder).map_err(|source| StoreError::Io { path: folder, source })?;
        let hash = match file.hash {
            Some(hash) => hash,
            None => files::hash_of(self.disk.as_ref(), path)
                .map_err(|source| StoreError::Io { path: path.to_owned(), source })?,
        };
        Ok(NewFile {
            name,
            bytes: file.bytes,
            hash,
            tail: file.tail,
            rows: file.rows,
            time_range: file.time_range,
            hot_in_map: file.hot_in_map,
            recompressed: file.recompressed,
            packed_from: file.packed_from,
            origin: file.origin.clone(),
        })
    }
}

impl Committer {
    /// Whether the rows of a backup's file are in live files, merged or packed since or not.
    fn has_all_of(&mut self, table: Table, file: &DataFile) -> bool {
        let files = self.delta(table).files();
        let all = Origin::all_of(files.iter().map(|live| &live.origin));
        all.covers(&file.origin) || files.iter().any(|live| live.has_rows_of(file))
    }

    /// Whether some of them are.
    fn has_some_of(&mut self, table: Table, file: &DataFile) -> bool {
        let files = self.delta(table).files();
        files.iter().any(|live| live.origin.touches(&file.origin))
    }
}

fn read_id(disk: &dyn Disk, from: &Path) -> Result<String, StoreError> {
    let path = from.join(NAME);
    let bytes = disk.read(&path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
    let name: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    let id = name.and_then(|name| name.get("id")?.as_str().map(str::to_owned));
    id.ok_or_else(|| StoreError::Io { path, source: io::Error::new(io::ErrorKind::InvalidData, "not a backup's name") })
}

fn copy_folder(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), StoreError> {
    let io = |source| StoreError::Io { path: from.to_owned(), source };
    disk::make_dir(disk, to).map_err(io)?;
    for entry in disk.list(from).map_err(io)?.iter().filter(|entry| !entry.is_dir) {
        let bytes = disk.read(&from.join(&entry.name)).map_err(io)?;
        disk::replace(disk, &to.join(&entry.name), &bytes).map_err(io)?;
    }
    Ok(())
}

/// A second name on the same disk, else a copy.
fn second_name(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), StoreError> {
    let io = |source| StoreError::Io { path: to.to_owned(), source };
    if disk.link(from, to).is_ok() {
        return Ok(());
    }
    let bytes = disk.read(from).map_err(io)?;
    disk::replace(disk, to, &bytes).map_err(io)
}
