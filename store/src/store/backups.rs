//! Backups of a store, and the small values that it keeps.

use std::{io, path::PathBuf};

use tracing::warn;

use super::Store;
use crate::{
    checkpoint,
    committer::{BACKUP_NAME, Order, Restored},
    config::CHECKPOINTS,
    error::StoreError,
};

impl Store {
    /// Leaves a copy of all tables in the data folder as `backups/NAME`, which is a data folder of its
    /// own. Requests are taken meanwhile.
    ///
    /// # Errors
    /// A name that is taken or no file name, or a disk that fails.
    pub async fn backup(&self, name: &str) -> Result<PathBuf, StoreError> {
        let to = self.backup_dir(name)?;
        if self.inner.disk.entry(&to.join(BACKUP_NAME)).is_ok() {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "a backup of this name is there");
            return Err(StoreError::Io { path: to, source });
        }
        self.replayed().await;
        // what an earlier try left would be taken for a part of this one
        crate::disk::make_dir(self.inner.disk.as_ref(), &to)
            .and_then(|()| crate::disk::clear(self.inner.disk.as_ref(), &to))
            .map_err(|source| StoreError::Io { path: to.clone(), source })?;
        let made = self.order(|reply| Order::Backup(to.clone(), reply)).await;
        if let Err(error) = made {
            // its links would keep files that retention drops; its name stays free, for it is no whole backup
            if let Err(error) = crate::disk::clear(self.inner.disk.as_ref(), &to) {
                warn!(path = %to.display(), %error, "a backup that failed could not be removed");
            }
            return Err(error);
        }
        Ok(to)
    }

    /// Adds the rows of the backup `backups/NAME` to the tables. Requests are taken meanwhile; rows of
    /// a backup that was restored before are not added again.
    ///
    /// # Errors
    /// A name that is no whole backup, a damaged file in it, or a disk that fails.
    pub async fn restore(&self, name: &str) -> Result<Restored, StoreError> {
        let from = self.backup_dir(name)?;
        self.order(|reply| Order::Restore(from, reply)).await
    }

    /// Keeps a small value across restarts.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn checkpoint(&self, name: &str, bytes: &[u8], wal_sequence: u64) -> io::Result<()> {
        checkpoint::write(self.inner.disk.as_ref(), &self.inner.config.checkpoints_dir(), name, bytes, wal_sequence)
    }

    /// The value that was kept; `None` when there is none, or it is damaged.
    ///
    /// # Errors
    /// When the disk cannot read it.
    pub fn read_checkpoint(&self, name: &str) -> io::Result<Option<(Vec<u8>, u64)>> {
        checkpoint::read(self.inner.disk.as_ref(), &self.inner.config.checkpoints_dir(), name)
    }

    /// The value that was kept when the backup `backups/BACKUP` was made.
    ///
    /// # Errors
    /// A name that cannot be one of a backup, or a disk that cannot read it.
    pub fn read_checkpoint_of(&self, backup: &str, name: &str) -> Result<Option<(Vec<u8>, u64)>, StoreError> {
        let path = self.backup_dir(backup)?.join(CHECKPOINTS);
        checkpoint::read(self.inner.disk.as_ref(), &path, name).map_err(|source| StoreError::Io { path, source })
    }

    fn backup_dir(&self, name: &str) -> Result<PathBuf, StoreError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let path = self.inner.config.dir.join("backups").join(name);
        if name.is_empty() || name.starts_with('.') || name.len() > 128 || !name.chars().all(fits) {
            let source =
                io::Error::new(io::ErrorKind::InvalidInput, "a backup's name is letters, digits, '-', '_' and '.'");
            return Err(StoreError::Io { path, source });
        }
        Ok(path)
    }
}
