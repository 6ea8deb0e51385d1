//! [`HashedFile`]: a file that is hashed while it is written, and the check of that hash. Parquet as
//! we write it has no checksums of pages, so this is how a flipped bit is found.

use std::{
    io::{self, Write},
    path::Path,
};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::disk::{Disk, DiskFile};

/// Bytes after which a file is synced while it is written. Syncs of the log wait for what the file
/// system has to write before, so a file of 10 MB that is synced at its end holds up acks.
const SYNC_EVERY: u64 = 1 << 20;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct HashedFile {
    file: Box<dyn DiskFile>,
    hash: Hasher,
    bytes: u64,
    unsynced: u64,
}

/// The hash of content that comes in pieces.
pub(crate) struct Hasher(Xxh3);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(Xxh3::new())
    }

    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// As [`hash`] of all pieces together.
    pub(crate) fn digest(&self) -> u64 {
        self.0.digest()
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.digest())
    }
}

impl HashedFile {
    pub(super) fn create(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        Ok(Self { file: disk.create(path)?, hash: Hasher::new(), bytes: 0, unsynced: 0 })
    }

    /// Makes it durable; its length and hash.
    pub(super) fn finish(mut self) -> io::Result<(u64, u64)> {
        self.file.sync()?;
        Ok((self.bytes, self.hash.digest()))
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        self.unsynced += written as u64;
        if self.unsynced >= SYNC_EVERY {
            self.file.sync()?;
            self.unsynced = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The hash of a file's content.
pub(crate) fn hash(content: &[u8]) -> u64 {
    xxh3_64(content)
}

/// Whether a file has the content that was hashed when it was written.
pub(crate) fn is_intact(disk: &dyn Disk, path: &Path, hash: u64) -> io::Result<bool> {
    Ok(hash_of(disk, path)? == hash)
}

/// The hash of a file as it is now.
pub(crate) fn hash_of(disk: &dyn Disk, path: &Path) -> io::Result<u64> {
    Ok(hash(&disk.read(path)?))
}
