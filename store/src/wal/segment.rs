//! Segment files: named by the first sequence they may hold, replayed in that order, deleted when
//! everything in them is in files of tables.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tracing::warn;

use super::record::{self, Record};
use crate::error::StoreError;

/// How a segment opens.
const MAGIC: &[u8; 8] = b"WEIRWAL1";

/// A segment on disk.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    /// The first sequence it may hold.
    pub(crate) first_sequence: u64,
    /// Where it is.
    pub(crate) path: PathBuf,
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Segment {
    /// Makes a new segment, durable as an entry of its folder.
    pub(super) fn create(dir: &Path, first_sequence: u64) -> io::Result<Self> {
        let path = dir.join(format!("{first_sequence:020}.log"));
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
        file.write_all(MAGIC)?;
        file.sync_data()?;
        File::open(dir)?.sync_all()?;
        Ok(Self { file, path, length: MAGIC.len() as u64 })
    }

    /// Writes a group and waits until it is on disk.
    pub(super) fn write(&mut self, group: &[u8]) -> io::Result<()> {
        self.file.write_all(group)?;
        self.file.sync_data()?;
        self.length += group.len() as u64;
        Ok(())
    }

    /// Cuts what a failed write may have left. After an error of sync the file is not trusted again.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        use std::io::{Seek, SeekFrom};
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length)).map(drop)
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The segments of a folder, in order.
pub(crate) fn segments(dir: &Path) -> Result<Vec<SegmentFile>, StoreError> {
    let io = |source| StoreError::Io { path: dir.to_owned(), source };
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if let Ok(first_sequence) = stem.parse() {
            segments.push(SegmentFile { first_sequence, path });
        }
    }
    segments.sort_by_key(|segment| segment.first_sequence);
    Ok(segments)
}

/// Deletes those of `segments` whose every record lies below `keep_from`; never the last one.
///
/// The segments must have been listed before `keep_from` was read from the view: rows of a listed
/// segment that is not the last are then visible there, because a new segment starts only after
/// the group before it was published.
pub(crate) fn trim(segments: &[SegmentFile], keep_from: u64) -> Result<(), StoreError> {
    for pair in segments.windows(2) {
        if pair[1].first_sequence > keep_from {
            break;
        }
        fs::remove_file(&pair[0].path).map_err(|source| StoreError::Io { path: pair[0].path.clone(), source })?;
    }
    Ok(())
}

/// The records of one segment. What follows the last valid record is cut, with a word in the log.
pub(crate) struct Replay {
    rest: Bytes,
    path: PathBuf,
    position: usize,
}

impl Replay {
    pub(crate) fn open(segment: &SegmentFile) -> Result<Self, StoreError> {
        let path = segment.path.clone();
        let bytes = fs::read(&path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        if !bytes.starts_with(MAGIC) && bytes.len() >= MAGIC.len() {
            let source = io::Error::new(io::ErrorKind::InvalidData, "not a log segment of this version");
            return Err(StoreError::Io { path, source });
        }
        let position = MAGIC.len().min(bytes.len());
        Ok(Self { rest: Bytes::from(bytes).slice(position..), path, position })
    }
}

impl Iterator for Replay {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if self.rest.is_empty() {
            return None;
        }
        let Some((length, record)) = record::decode(&self.rest) else {
            let bytes = self.rest.len();
            warn!(segment = %self.path.display(), offset = self.position, bytes, "log tail is torn: cut at the last valid record");
            self.rest = Bytes::new();
            return None;
        };
        self.rest = self.rest.slice(length..);
        self.position += length;
        Some(record)
    }
}
