//! [`Checkpoint`]: which minutes of `operations` and `edges` a crash now would leave incomplete.

use std::collections::BTreeSet;

use arrow::{array::AsArray, datatypes::Int64Type};
use serde::{Deserialize, Serialize};
use tracing::warn;
use weir_schema::{Batch, Table, UnixNanos};
use weir_store::{Store, StoreError};

const NAME: &str = "analysis";

/// What the analyzer learnt is noted apart: it is larger, and less often.
const HISTORY: &str = "analysis-history";

/// Minutes that are named one by one; beyond, as when years are replayed at once, only the oldest
/// is, and all after it count as open. 100,000 are 2 MB, or 70 days.
const MAX_MINUTES: usize = 100_000;

/// What is noted every few seconds and at a clean stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Checkpoint {
    /// When the collector took the newest span that the analyzer has seen.
    pub(crate) received_until: UnixNanos,
    /// Minutes with rows that are not written, or spans that may still add to them.
    pub(crate) minutes: BTreeSet<UnixNanos>,
    /// All minutes from here on are open, when they are too many to name.
    pub(crate) open_from: Option<UnixNanos>,
    /// Everything was closed and written: a clean stop.
    pub(crate) complete: bool,
}

impl Checkpoint {
    /// Writes it; one that cannot be written leaves the one before, which is right still, only older.
    pub(crate) async fn write(mut self, store: &Store) {
        let store = store.clone();
        if self.minutes.len() > MAX_MINUTES {
            self.open_from = self.open_from.or_else(|| self.minutes.first().copied());
            self.minutes.clear();
        }
        let written = tokio::task::spawn_blocking(move || store.checkpoint(NAME, &serde_json::to_vec(&self)?, 0));
        if let Ok(Err(error)) = written.await {
            warn!(%error, "open minutes not noted: a start after a crash reads more back");
        }
    }

    /// Says that a life begins that has not ended well yet; before anything is acked.
    pub(crate) async fn begin(store: &Store, now: UnixNanos) {
        // one that cannot be read now may say it later
        if Self::try_read(store).map_or(true, |read| read.is_some_and(|checkpoint| checkpoint.complete)) {
            Self { received_until: now, ..Self::default() }.write(store).await;
        }
    }

    /// The last one; `None` when there is none, or it is damaged.
    pub(crate) fn read(store: &Store) -> Option<Self> {
        let read = Self::try_read(store);
        read.inspect_err(|error| warn!(%error, "open minutes cannot be read: all are read back")).ok().flatten()
    }

    /// That of a backup; `None` when it has none.
    pub(crate) fn of_backup(store: &Store, backup: &str) -> Result<Option<Self>, StoreError> {
        let kept = store.read_checkpoint_of(backup, NAME)?;
        Ok(kept.and_then(|(bytes, _)| serde_json::from_slice(&bytes).ok()))
    }

    fn try_read(store: &Store) -> std::io::Result<Option<Self>> {
        Ok(store.read_checkpoint(NAME)?.and_then(|(bytes, _)| serde_json::from_slice(&bytes).ok()))
    }
}

/// Writes what the analyzer learnt; what cannot be written leaves the history before, which is right still, only older.
pub(super) async fn write_history(store: &Store, history: Vec<u8>) {
    let store = store.clone();
    let written = tokio::task::spawn_blocking(move || store.checkpoint(HISTORY, &history, 0));
    if let Ok(Err(error)) = written.await {
        warn!(%error, "what the analyzer learnt is not noted: a restart knows what was noted before");
    }
}

/// What the analyzer had learnt; `None` when nothing was noted, or it is damaged.
pub(super) fn read_history(store: &Store) -> Option<Vec<u8>> {
    let read = store.read_checkpoint(HISTORY);
    let read = read.inspect_err(|error| warn!(%error, "what the analyzer learnt cannot be read"));
    read.ok().flatten().map(|(bytes, _)| bytes)
}

/// The minutes that rows of `operations` or `edges` are about; none for other tables.
pub(super) fn minutes_of(batch: &Batch) -> BTreeSet<UnixNanos> {
    if !matches!(batch.table, Table::Operations | Table::Edges) {
        return BTreeSet::new();
    }
    let minutes = batch.rows.column_by_name(batch.table.time_column());
    let minutes = minutes.and_then(|minutes| minutes.as_primitive_opt::<Int64Type>());
    minutes.map(|minutes| minutes.iter().flatten().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_noted_is_read_back_and_many_minutes_are_noted_by_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let config = weir_store::Config { dir: dir.path().to_owned(), ..weir_store::Config::default() };
        let store = Store::open(config).await.unwrap();
        assert_eq!(Checkpoint::read(&store), None);
        let few = Checkpoint { received_until: 7, minutes: [60, 120].into(), open_from: None, complete: false };
        few.clone().write(&store).await;
        assert_eq!(Checkpoint::read(&store), Some(few));
        let many = Checkpoint { minutes: (5..=MAX_MINUTES as i64 + 5).collect(), ..Checkpoint::default() };
        many.write(&store).await;
        assert_eq!(Checkpoint::read(&store), Some(Checkpoint { open_from: Some(5), ..Checkpoint::default() }));
        store.close().await.unwrap();
    }
}
