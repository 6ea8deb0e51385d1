//! Segment files: named by the first sequence they may hold, replayed in that order, deleted when
//! everything in them is in files of tables. Each opens with the hashes of the requests of the last
//! minutes, so that deleting older segments forgets none.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::record::{self, Record};
use crate::{
    disk::{Disk, DiskFile, Step},
    error::StoreError,
};

/// How a segment opens.
const MAGIC: &[u8; 8] = b"WEIRWAL2";

/// A segment on disk.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    /// The first sequence it may hold.
    pub(crate) first_sequence: u64,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its length.
    pub(crate) bytes: u64,
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Segment {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    /// How it opens.
    opening: u64,
    length: u64,
}

impl Segment {
    /// Makes a new segment that opens with a record; it has its name only when both are durable.
    pub(super) fn create(disk: &dyn Disk, dir: &Path, first_sequence: u64, opening: &[u8]) -> io::Result<Self> {
        let path = dir.join(format!("{first_sequence:020}.log"));
        let temporary = path.with_extension("tmp");
        let mut file = disk.create(&temporary)?;
        let written = file.write_all(MAGIC).and_then(|()| file.write_all(opening)).and_then(|()| file.sync());
        if let Err(error) = written {
            // on a full disk every group would leave one
            let _ = disk.remove(&temporary);
            return Err(error);
        }
        disk.rename(&temporary, &path)?;
        disk.reached(Step::SegmentCreated)?;
        disk.sync_dir(dir)?;
        let opening = (MAGIC.len() + opening.len()) as u64;
        Ok(Self { file, path, opening, length: opening })
    }

    /// Writes a group and waits until it is on disk.
    pub(super) fn write(&mut self, disk: &dyn Disk, group: &[u8]) -> io::Result<()> {
        self.file.write_all(group)?;
        disk.reached(Step::GroupWritten)?;
        self.file.sync()?;
        self.length += group.len() as u64;
        disk.reached(Step::GroupSynced)
    }

    /// Cuts what a failed write may have left. After an error of sync the file is not trusted again.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        self.file.truncate(self.length)?;
        self.file.sync()
    }

    /// Bytes behind its opening, which grows with the requests that are remembered: where it counted, many small
    /// requests would make each group begin a segment.
    pub(super) fn record_bytes(&self) -> u64 {
        self.length - self.opening
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The segments of a folder, in order.
pub(crate) fn segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentFile>, StoreError> {
    let entries = disk.list(dir).map_err(|source| StoreError::Io { path: dir.to_owned(), source })?;
    let segment = |entry: crate::disk::Entry| {
        let first_sequence = entry.name.strip_suffix(".log")?.parse().ok()?;
        Some(SegmentFile { first_sequence, path: dir.join(&entry.name), bytes: entry.bytes })
    };
    let mut segments: Vec<SegmentFile> = entries.into_iter().filter_map(segment).collect();
    segments.sort_by_key(|segment| segment.first_sequence);
    Ok(segments)
}

/// Deletes those of `segments` whose every record lies below `keep_from`; never the last one.
///
/// The segments must have been listed before `keep_from` was read from the view: rows of a listed
/// segment that is not the last are then visible there, because a new segment starts only after
/// the group before it was published.
pub(crate) fn trim(disk: &dyn Disk, segments: &[SegmentFile], keep_from: u64) -> Result<(), StoreError> {
    let gone = segments.windows(2).take_while(|pair| pair[1].first_sequence <= keep_from);
    let gone: Vec<&Path> = gone.map(|pair| pair[0].path.as_path()).collect();
    let Some(dir) = gone.first().and_then(|path| path.parent()) else { return Ok(()) };
    // what makes an older one needless must not be a name in the page cache only
    disk.sync_dir(dir).map_err(|source| StoreError::Io { path: dir.to_owned(), source })?;
    gone.into_iter().try_for_each(|path| {
        let removed = disk.remove(path).and_then(|()| disk.reached(Step::LogTrimmed));
        removed.map_err(|source| StoreError::Io { path: path.to_owned(), source })
    })
}

/// What stands in a segment.
#[derive(Debug)]
pub(super) enum Found {
    /// A whole record.
    Record(Box<Record>),
    /// Bytes that are no record, with whole records behind them: the disk changed what was written.
    Damaged(Bytes),
    /// Bytes at the end that are no record: a group that was not synced, so nobody was told it is safe.
    Torn(Bytes),
}

impl Found {
    pub(super) fn into_record(self) -> Option<Record> {
        match self {
            Self::Record(record) => Some(*record),
            Self::Damaged(_) | Self::Torn(_) => None,
        }
    }
}

/// The records of one segment, in order.
pub(super) struct Records {
    rest: Bytes,
}

impl Records {
    pub(super) fn open(disk: &dyn Disk, segment: &SegmentFile) -> Result<Self, StoreError> {
        let path = segment.path.clone();
        let bytes = disk.read(&path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        let opening = &bytes[..MAGIC.len().min(bytes.len())];
        let rest = bytes.slice(opening.len()..);
        // a segment opens with a record: where one of ours follows, the opening is damaged
        let other = opening.starts_with(b"WEIRWAL") && opening.len() == MAGIC.len() && opening != MAGIC;
        if other && record::decode(&rest).is_none() {
            let source = io::Error::new(io::ErrorKind::InvalidData, "a log segment of another version");
            return Err(StoreError::Io { path, source });
        }
        // a damaged opening is skipped: the records behind it have marks of their own
        Ok(Self { rest })
    }
}

impl Iterator for Records {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if self.rest.is_empty() {
            return None;
        }
        if let Some((length, record)) = record::decode(&self.rest) {
            self.rest = self.rest.slice(length..);
            return Some(Found::Record(Box::new(record)));
        }
        match record::next(&self.rest) {
            Some(place) => Some(Found::Damaged(self.rest.split_to(place))),
            None => Some(Found::Torn(std::mem::take(&mut self.rest))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{disk::RealDisk, wal::Payload};

    #[test]
    fn a_damaged_opening_is_told_from_one_of_another_version() {
        let dir = tempfile::tempdir().unwrap();
        let mut opening = Vec::new();
        record::encode(0, &Payload::Recent(Vec::new()), &mut opening);
        drop(Segment::create(&RealDisk, dir.path(), 1, &opening).unwrap());
        let [segment] = &segments(&RealDisk, dir.path()).unwrap()[..] else { panic!("one segment") };
        let whole = std::fs::read(&segment.path).unwrap();
        for bit in 0..MAGIC.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&segment.path, damaged).unwrap();
            let records: Vec<_> = Records::open(&RealDisk, segment).unwrap().collect();
            assert!(matches!(records[..], [Found::Record(_)]), "bit {bit}: {records:?}");
        }
        std::fs::write(&segment.path, b"WEIRWAL9 and something else").unwrap();
        let other = Records::open(&RealDisk, segment).err().unwrap().to_string();
        assert!(other.contains("another version"), "{other}");
    }
}
