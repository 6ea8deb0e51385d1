//! The lock of a data folder: one writer, whose pid and address stand in the lock file.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::disk::Disk;

/// Who holds a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// The process.
    pub pid: u32,
    /// Where it answers, if it serves.
    pub url: Option<String>,
}

/// A held lock; it is released when dropped, and by the system when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    file: Option<File>,
}

const NAME: &str = "lock";

impl Lock {
    /// Takes the folder, or says who has it.
    pub(crate) fn take(disk: &dyn Disk, dir: &Path) -> io::Result<Result<Self, LockHolder>> {
        let mut file = disk.lock_file(&dir.join(NAME))?;
        if let Some(file) = &mut file
            && !try_lock(file)?
        {
            return Ok(Err(read(file)));
        }
        let mut lock = Self { file };
        lock.write(None)?;
        Ok(Ok(lock))
    }

    /// Leaves word of who holds it.
    pub(crate) fn write(&mut self, url: Option<&str>) -> io::Result<()> {
        let holder = LockHolder { pid: std::process::id(), url: url.map(str::to_owned) };
        let Some(file) = &mut self.file else { return Ok(()) };
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&serde_json::to_vec(&holder)?)?;
        file.sync_data()
    }
}

/// Who holds the folder, if anybody does.
pub(crate) fn holder(dir: &Path) -> Option<LockHolder> {
    let mut file = OpenOptions::new().read(true).write(true).open(dir.join(NAME)).ok()?;
    match try_lock(&file) {
        Ok(false) => Some(read(&mut file)),
        _ => None, // free: the lock just taken goes with the file
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn read(file: &mut File) -> LockHolder {
    let mut text = String::new();
    let read = file.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str(&text).ok());
    read.unwrap_or(LockHolder { pid: 0, url: None })
}
