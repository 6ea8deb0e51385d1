//! [`Opened`]: a file that is read here and there, as Parquet readers do.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use bytes::Bytes;
use parquet::{
    errors::Result,
    file::reader::{ChunkReader, Length},
};

/// A file that was opened for reading: it stays readable when its name goes.
#[derive(Debug)]
pub(crate) enum Opened {
    /// Of the operating system.
    File(File),
    /// Of a disk in memory.
    #[cfg_attr(not(test), expect(dead_code, reason = "only disks of tests are in memory"))]
    Memory(Bytes),
}

impl Opened {
    /// The bytes in a range, all of them.
    pub(crate) fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        match self {
            Self::File(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes.into())
            }
            Self::Memory(bytes) => {
                let start = usize::try_from(range.start).unwrap_or(usize::MAX);
                let end = start.saturating_add(length);
                let there = end <= bytes.len();
                there.then(|| bytes.slice(start..end)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        }
    }
}

impl Length for Opened {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => Length::len(file),
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }
}

impl ChunkReader for Opened {
    type T = Box<dyn io::Read>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(match self {
            Self::File(file) => Box::new(file.get_read(start)?),
            Self::Memory(bytes) => Box::new(bytes.get_read(start)?),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        Ok(self.read_at(start..start + length as u64)?)
    }
}
