//! [`HashedFile`]: a file that is hashed while it is written, and the check of that hash. Parquet as
//! we write it has no checksums of pages, so this is how a flipped bit is found. What is read before
//! any row, the [`Tail`], has a hash of its own: whether a file has a trace is known without reading
//! the rest of it.

use std::{
    io::{self, Write},
    path::Path,
};

use parquet::file::reader::Length;
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
    tail: Option<(u64, Hasher)>,
}

/// A file that was written and is durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) hash: u64,
    pub(super) tail: Option<Tail>,
}

/// The end of a Parquet file: its bloom filters, page indexes and footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Where it begins.
    pub(crate) offset: u64,
    pub(crate) hash: u64,
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

impl Tail {
    /// As a Delta log has it: where it begins, and its hash in hex.
    pub(super) fn to_tag(self) -> String {
        format!("{}:{:016x}", self.offset, self.hash)
    }

    pub(super) fn from_tag(tag: &str) -> Option<Self> {
        let (offset, hash) = tag.split_once(':')?;
        Some(Self { offset: offset.parse().ok()?, hash: u64::from_str_radix(hash, 16).ok()? })
    }
}

impl HashedFile {
    pub(super) fn create(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        Ok(Self { file: disk.create(path)?, hash: Hasher::new(), bytes: 0, unsynced: 0, tail: None })
    }

    /// All rows are before `offset`, up to which nothing else is left to write.
    pub(super) fn begin_tail(&mut self, offset: usize) {
        self.tail = Some((offset as u64, Hasher::new()));
    }

    /// Makes it durable.
    pub(super) fn finish(mut self) -> io::Result<Written> {
        self.file.sync()?;
        let tail = self.tail.map(|(offset, hash)| Tail { offset, hash: hash.digest() });
        Ok(Written { bytes: self.bytes, hash: self.hash.digest(), tail })
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        if let Some((offset, hash)) = &mut self.tail {
            let before = usize::try_from(offset.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
            hash.update(&bytes[before.min(written)..written]);
        }
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

/// Whether a file of so many bytes has the tail that was hashed when it was written.
pub(crate) fn is_tail_intact(disk: &dyn Disk, path: &Path, bytes: u64, tail: Tail) -> io::Result<bool> {
    let file = disk.open(path)?;
    if file.len() != bytes || tail.offset > bytes {
        return Ok(false);
    }
    Ok(hash(&file.read_at(tail.offset..bytes)?) == tail.hash)
}

/// The hash of a file as it is now.
pub(crate) fn hash_of(disk: &dyn Disk, path: &Path) -> io::Result<u64> {
    Ok(hash(&disk.read(path)?))
}
