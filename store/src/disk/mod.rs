//! [`Disk`]: every touch of the file system, so that the same code runs on a real disk and on a
//! simulated one that loses, reorders and tears what was not synced.
//!
//! A write is durable after [`DiskFile::sync`]; a name (made, renamed, removed) is durable after
//! [`Disk::sync_dir`] of its folder. Nothing else is promised.

mod opened;
mod real;
#[cfg(test)]
pub(crate) mod simulated;
mod step;
mod store;

use std::{
    fmt,
    fs::File,
    io,
    ops::Range,
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use url::Url;

pub(crate) use opened::Opened;
pub(crate) use real::RealDisk;
pub(crate) use step::Step;
pub(crate) use store::DiskStore;

/// A file system, as the store needs it.
pub(crate) trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes a folder and those above it; one that is there is fine.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// The names in a folder, in no order. A folder that is not there is `NotFound`.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// What a path is.
    fn entry(&self, path: &Path) -> io::Result<Entry>;

    /// A new empty file in place of what had this name. The old one is not cut but loses the name: after
    /// a power cut in the midst of a rename it may have another one, too.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// A whole file.
    fn read(&self, path: &Path) -> io::Result<Bytes>;

    /// A file that is read here and there.
    fn open(&self, path: &Path) -> io::Result<Opened>;

    /// A part of a file; an end beyond it is cut.
    fn read_range(&self, path: &Path, range: Range<u64>) -> io::Result<Bytes>;

    /// Gives a file another name, in place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name; `AlreadyExists` when it is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a name away.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes what an earlier process wrote to a file durable.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// How the Delta crate is told where a table is. It looks at folders of the operating system by
    /// itself, so a disk that is none of its needs a scheme of its own.
    fn table_url(&self, dir: &Path) -> Option<Url> {
        Url::from_directory_path(dir).ok()
    }

    /// A folder's one true path.
    fn canonical(&self, dir: &Path) -> io::Result<PathBuf>;

    /// The file that a lock is taken on; `None` where no other process can be.
    fn lock_file(&self, path: &Path) -> io::Result<Option<File>>;

    /// An empty folder for files of this process that nobody needs after it, written and read by others
    /// than this trait; `None` where the operating system has no such folder.
    fn scratch_dir(&self, dir: &Path) -> io::Result<Option<PathBuf>>;

    /// Bytes that may still be written.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// A named step of the work was reached. Disks of tests stop here; a real one goes on.
    fn reached(&self, _step: Step) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is being written.
pub(crate) trait DiskFile: io::Write + fmt::Debug + Send {
    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file and goes on writing at its new end.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name, without its folder.
    pub(crate) name: String,
    /// Whether it is a folder.
    pub(crate) is_dir: bool,
    /// Length of a file.
    pub(crate) bytes: u64,
    /// When it was written last.
    pub(crate) modified: SystemTime,
}

/// Makes a folder and those above it, durably: each new name is synced in its parent. One that is
/// there may be so in the page cache only, left by a process that was killed or whose sync failed, so
/// the names that are ours (a folder of the store and one in it) are synced all the same.
pub(crate) fn make_dir(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let missing = dir.ancestors().take_while(|dir| disk.entry(dir).is_err()).count();
    disk.create_dir_all(dir)?;
    above(dir).take(missing.max(2)).try_for_each(|above| disk.sync_dir(above))
}

/// Removes every file below a folder; the folders stay.
pub(crate) fn clear(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for entry in disk.list(dir)? {
        let path = dir.join(&entry.name);
        if entry.is_dir { clear(disk, &path)? } else { disk.remove(&path)? }
    }
    Ok(())
}

/// Makes the names that lead to a folder durable, as far as they are ours to sync.
pub(crate) fn sync_names_to(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    above(dir).try_for_each(|above| match disk.sync_dir(above) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    })
}

/// The folders that a folder is in, from the nearest.
fn above(dir: &Path) -> impl Iterator<Item = &Path> {
    dir.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty())
}

/// Writes a file whole: under another name first, synced, then renamed into place and the folder synced.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = disk.create(&temporary)?;
    file.write_all(bytes)?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| disk.sync_dir(dir))
}
