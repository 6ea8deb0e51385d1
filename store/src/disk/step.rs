//! [`Step`]: the named steps of the work. A kill at any of them must lose nothing and repeat nothing.

/// A step that was reached: everything before it has happened, nothing after it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// A new log segment is a file, empty.
    SegmentCreated,
    /// A group of records is written, not synced.
    GroupWritten,
    /// A group is synced; nobody was told.
    GroupSynced,
    /// A group is visible to queries; nobody was told.
    GroupPublished,
    /// A data file is written, not synced.
    DataFileWritten,
    /// A data file and its name are synced; no commit names it.
    DataFileSynced,
    /// The commit that adds a data file is durable; queries do not see it yet.
    FlushCommitted,
    /// Queries see the file instead of the rows in memory; the log still has them.
    FlushPublished,
    /// Log segments that are in files are deleted.
    LogTrimmed,
    /// A file that replaces others is synced; no commit names it.
    MergeFileSynced,
    /// The commit that swaps files is durable; queries still read the old ones.
    MergeCommitted,
    /// Queries read the new file; the old ones are still there.
    MergePublished,
    /// Old files are deleted.
    ReplacedDeleted,
    /// The commit that drops old files is durable.
    RetentionCommitted,
    /// A damaged file is set aside; the commit that drops it comes next.
    Quarantined,
}

impl Step {
    /// All of them, for tests that stop at each.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 15] = [
        Self::SegmentCreated,
        Self::GroupWritten,
        Self::GroupSynced,
        Self::GroupPublished,
        Self::DataFileWritten,
        Self::DataFileSynced,
        Self::FlushCommitted,
        Self::FlushPublished,
        Self::LogTrimmed,
        Self::MergeFileSynced,
        Self::MergeCommitted,
        Self::MergePublished,
        Self::ReplacedDeleted,
        Self::RetentionCommitted,
        Self::Quarantined,
    ];
}
