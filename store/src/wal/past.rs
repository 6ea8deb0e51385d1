//! [`Past`]: what a start must know of the log before the first request: which sequence comes next,
//! and which requests were taken lately. Both stand at the end of the log.

use std::{collections::HashSet, path::Path};

use weir_schema::Table;

use super::{
    Payload,
    recent::Recent,
    replay::Through,
    segment::{Found, Records, SegmentFile, segments},
};
use crate::{disk::Disk, error::StoreError};

/// The log as a start finds it.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// What there is to replay, in order.
    pub(crate) segments: Vec<SegmentFile>,
    /// The first sequence that no record has.
    pub(crate) next_sequence: u64,
    /// Requests of the last minutes.
    pub(crate) recent: Recent,
}

impl Past {
    /// Reads the end of the log; `through` is what the files of each table have of it.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path, through: &Through) -> Result<Self, StoreError> {
        // a segment whose name is in the page cache only must not be what older ones are trimmed for
        disk.sync_dir(dir).map_err(|source| StoreError::Io { path: dir.to_owned(), source })?;
        let segments = segments(disk, dir)?;
        let mut past = Self { next_sequence: 1, ..Self::default() };
        past.next_sequence = segments.last().map_or(1, |last| last.first_sequence.max(1));
        let mut newest = Vec::new();
        let mut older = segments.iter().rev();
        for segment in older.by_ref() {
            // a process that was killed may have left records that only the page cache has, and a retry
            // of theirs is acked by them
            disk.sync_file(&segment.path).map_err(|source| StoreError::Io { path: segment.path.clone(), source })?;
            let records: Vec<_> = Records::open(disk, segment)?.collect();
            let whole =
                matches!(records.first(), Some(Found::Record(first)) if matches!(first.payload, Payload::Recent(_)));
            newest.push(records);
            if whole {
                break; // it says itself what the older ones would
            }
        }
        newest.into_iter().rev().flatten().for_each(|found| past.take_in(found));
        let refused: HashSet<_> = past.recent.refused().into_iter().map(|(hash, _)| hash).collect();
        for segment in older.filter(|_| !refused.is_empty()) {
            disk.sync_file(&segment.path).map_err(|source| StoreError::Io { path: segment.path.clone(), source })?;
            Records::open(disk, segment)?.for_each(|found| past.take_in_refused(found, &refused, through));
        }
        past.segments = segments;
        Ok(past)
    }

    fn take_in(&mut self, found: Found) {
        let Found::Record(record) = found else { return };
        self.next_sequence = self.next_sequence.max(record.sequence + 1);
        match record.payload {
            Payload::Otlp { request, hash } => self.recent.insert(hash, record.sequence, request.received_unix_nano),
            Payload::Rows { .. } => {}
            Payload::Recent(hashes) => {
                hashes.into_iter().for_each(|(hash, received)| self.recent.insert(hash, record.sequence, received));
            }
            Payload::Refused(hashes) => self.recent.refuse(hashes),
        }
    }

    /// A refused request that the log has after all is replayed: sent again, it is there. Unless rows behind it are in files
    /// already: then it is not replayed, and is new when it is sent again.
    fn take_in_refused(&mut self, found: Found, refused: &HashSet<u128>, through: &Through) {
        if let Found::Record(record) = found
            && let Payload::Otlp { request, hash } = record.payload
            && refused.contains(&hash)
            && through.get(&Table::of(request.signal)).is_none_or(|through| record.sequence > *through)
        {
            self.recent.insert(hash, record.sequence, request.received_unix_nano);
        }
    }
}
