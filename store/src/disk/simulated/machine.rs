//! [`Machine`]: what a simulated disk holds, and what each operation on it does, fails at, or leaves half done.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    path::Path,
    time::SystemTime,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    content::Content,
    faults::{Faults, Kind, Outcome},
    names::{Names, Node},
};
use crate::disk::Entry;

/// 1 TiB: nobody fills it by accident.
pub(super) const CAPACITY_BYTES: u64 = 1 << 40;

/// What Linux calls an input/output error.
pub(super) const EIO: i32 = 5;

/// What is on it, named or not.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) names: Names,
    pub(super) files: BTreeMap<u64, File>,
    pub(super) next_inode: u64,
    pub(super) capacity_bytes: u64,
    pub(super) faults: Faults,
    /// For what a failed operation leaves.
    pub(super) random: StdRng,
    pub(super) is_off: bool,
}

#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) content: Content,
    pub(super) modified: SystemTime,
}

impl Machine {
    /// Counts an operation; `Err` when the machine is off or goes off before it does anything.
    pub(super) fn begin(&mut self, kind: Kind) -> io::Result<Outcome> {
        if self.is_off {
            return Err(no_power());
        }
        let outcome = self.faults.operation(kind);
        self.is_off = outcome == Outcome::Stops;
        Ok(outcome)
    }

    /// Does a change of names that either happens or not. One that is cut by a power failure is
    /// done, unsynced: whether it survives is decided with all others.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        match self.begin(Kind::Change)? {
            Outcome::Works => change(self),
            Outcome::Fails => Err(broken()),
            Outcome::Full => Err(full()),
            Outcome::Stops => change(self).and(Err(no_power())),
        }
    }

    pub(super) fn look(&mut self) -> io::Result<()> {
        match self.begin(Kind::Read)? {
            Outcome::Works => Ok(()),
            Outcome::Fails | Outcome::Full => Err(broken()),
            Outcome::Stops => Err(no_power()),
        }
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(inode),
            Some(Node::Dir) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn is_dir(&self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn parent_is_dir(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Err(ErrorKind::InvalidInput.into()), |dir| self.is_dir(dir))
    }

    pub(super) fn content(&mut self, inode: u64) -> &mut Content {
        &mut self.files.get_mut(&inode).expect("an inode that was handed out stays").content
    }

    /// As [`Self::content`], for a change that shows in the time of the file.
    pub(super) fn touch(&mut self, inode: u64) -> &mut Content {
        let file = self.files.get_mut(&inode).expect("an inode that was handed out stays");
        file.modified = SystemTime::now();
        &mut file.content
    }

    pub(super) fn describe(&self, path: &Path, node: Node) -> Entry {
        let file = node.file().map(|inode| &self.files[&inode]);
        Entry {
            name: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            is_dir: node == Node::Dir,
            bytes: file.map_or(0, File::length),
            modified: file.map_or(SystemTime::UNIX_EPOCH, |file| file.modified),
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.names.files().iter().map(|inode| self.files[inode].length()).sum()
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes())
    }

    /// How many bytes of a write of `length` at `at` there is room for.
    pub(super) fn room(&self, inode: u64, at: usize, length: usize) -> usize {
        if self.capacity_bytes == CAPACITY_BYTES {
            return length; // every file would be counted for every write
        }
        let inside = usize::try_from(self.files[&inode].length()).unwrap_or(usize::MAX).saturating_sub(at);
        let free = usize::try_from(self.free_bytes()).unwrap_or(usize::MAX);
        length.min(inside.saturating_add(free))
    }

    pub(super) fn write(&mut self, inode: u64, at: usize, bytes: &[u8]) -> io::Result<usize> {
        let outcome = self.begin(Kind::Change)?;
        let part = match outcome {
            Outcome::Works => self.room(inode, at, bytes.len()),
            Outcome::Stops => bytes.len(),
            Outcome::Fails | Outcome::Full => self.random.random_range(0..=bytes.len().saturating_sub(1)),
        };
        self.touch(inode).write(at, &bytes[..part]);
        match outcome {
            Outcome::Works if part == 0 && !bytes.is_empty() => Err(full()),
            Outcome::Full if part == 0 => Err(full()),
            Outcome::Full => {
                self.faults.fill();
                Ok(part)
            }
            Outcome::Works => Ok(part),
            Outcome::Fails => Err(broken()),
            Outcome::Stops => Err(no_power()),
        }
    }

    pub(super) fn sync(&mut self, inode: u64) -> io::Result<()> {
        match self.begin(Kind::Sync)? {
            Outcome::Works => {
                self.content(inode).sync();
                Ok(())
            }
            Outcome::Stops => Err(no_power()),
            failed => {
                let mut random = StdRng::seed_from_u64(self.random.random());
                self.content(inode).fail_sync(&mut random);
                Err(if failed == Outcome::Full { full() } else { broken() })
            }
        }
    }
}

impl File {
    pub(super) fn length(&self) -> u64 {
        self.content.seen.len() as u64
    }
}

pub(super) fn broken() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

pub(super) fn full() -> io::Error {
    ErrorKind::StorageFull.into()
}

pub(super) fn no_power() -> io::Error {
    io::Error::other("the machine is off")
}
