//! [`Past`]: what a start must know of the log before the first request: which sequence comes next,
//! and which requests were taken lately. Both stand at the end of the log.

use std::path::Path;

use super::{
    Payload,
    recent::Recent,
    record::Record,
    refused::Refused,
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
    /// Records that are not of the store.
    pub(crate) refused: Refused,
}

impl Past {
    /// Reads the end of the log.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Self, StoreError> {
        // a segment whose name is in the page cache only must not be what older ones are trimmed for
        disk.sync_dir(dir).map_err(|source| StoreError::Io { path: dir.to_owned(), source })?;
        let segments = segments(disk, dir)?;
        let mut past = Self { next_sequence: 1, ..Self::default() };
        past.next_sequence = segments.last().map_or(1, |last| last.first_sequence.max(1));
        let mut newest = Vec::new();
        for segment in segments.iter().rev() {
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
        let records: Vec<_> = newest.into_iter().rev().flatten().filter_map(Found::into_record).collect();
        // a later segment says which of an earlier one are not to be replayed: sent again, they are new
        records.iter().for_each(|record| past.take_in_refused(record));
        records.into_iter().for_each(|record| past.take_in(record));
        past.refused.begin_at(segments.first().map_or(0, |first| first.first_sequence));
        past.segments = segments;
        Ok(past)
    }

    fn take_in_refused(&mut self, record: &Record) {
        if let Payload::Refused(refused) = &record.payload {
            refused.ranges().for_each(|range| self.refused.add(range));
        }
    }

    fn take_in(&mut self, record: Record) {
        self.next_sequence = self.next_sequence.max(record.sequence + 1);
        match record.payload {
            Payload::Otlp { .. } if self.refused.has(record.sequence) => {}
            Payload::Otlp { request, hash } => self.recent.insert(hash, record.sequence, request.received_unix_nano),
            Payload::Rows { .. } | Payload::Refused(_) => {}
            Payload::Recent(hashes) => {
                hashes.into_iter().for_each(|(hash, received)| self.recent.insert(hash, record.sequence, received));
            }
        }
    }
}
