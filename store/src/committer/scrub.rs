//! Files are looked at in turn, a few pieces at a time: one that nobody reads is found damaged before its copies are gone,
//! too. All of them once a day, or as fast as a few are looked at soon; an idle disk stays nearly idle.

use std::{
    collections::BTreeSet,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use parquet::file::reader::Length;
use tracing::warn;
use weir_schema::Table;

use super::Committer;
use crate::{
    disk::{Disk, Opened},
    files::Hasher,
    view::DataFile,
};

/// All files are looked at in so long, however many there are.
const ROUND: Duration = Duration::from_secs(24 * 3600);

/// And no slower than so many bytes a second.
const SLOWEST_BYTES_PER_S: u64 = 1 << 20;

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

/// How far the round has come.
#[derive(Default)]
pub(super) struct Scrub {
    current: Option<Look>,
    /// Files of this round that were looked at.
    done: BTreeSet<String>,
    worked_at: Option<Instant>,
}

/// A look at a file that is not over.
struct Look {
    table: Table,
    file: Arc<DataFile>,
    opened: Opened,
    hasher: Hasher,
    read: u64,
}

impl Look {
    fn begin(disk: &dyn Disk, path: &Path, table: Table, file: Arc<DataFile>) -> io::Result<Self> {
        Ok(Self { table, file, opened: disk.open(path)?, hasher: Hasher::new(), read: 0 })
    }

    /// Reads a piece; how many bytes that was. 0: it is over.
    fn advance(&mut self) -> io::Result<u64> {
        let end = Length::len(&self.opened).min(self.read + PIECE);
        let piece = self.opened.read_at(self.read..end)?;
        self.hasher.update(&piece);
        self.read = end;
        Ok(piece.len() as u64)
    }
}

impl Committer {
    /// Looks at as many bytes as are due since the last time.
    pub(super) async fn scrub(&mut self) {
        let now = Instant::now();
        let since = self.scrub.worked_at.replace(now).map_or(Duration::ZERO, |at| now - at);
        let all_bytes: u64 = self.every_file().map(|(_, file)| file.bytes).sum();
        let bytes_per_s = (all_bytes / ROUND.as_secs()).max(SLOWEST_BYTES_PER_S);
        let mut left = (since.as_secs_f64() * bytes_per_s as f64) as u64;
        while left > 0 {
            let Some(mut look) = self.scrub.current.take().or_else(|| self.next_look()) else { return };
            match look.advance() {
                Ok(0) => {
                    self.judge(look).await;
                    left = left.saturating_sub(PIECE); // a look has a price of its own
                }
                Ok(bytes) => {
                    left = left.saturating_sub(bytes);
                    self.scrub.current = Some(look);
                }
                // whoever reads it says so, too
                Err(error) => warn!(file = look.file.name, %error, "a file cannot be read"),
            }
        }
    }

    /// Looks at all files, now.
    pub(super) async fn scrub_all(&mut self) {
        let files: Vec<(Table, Arc<DataFile>)> = self.every_file().collect();
        for (table, file) in files {
            self.all_intact(table, &[file]).await;
        }
    }

    /// The next file of the round: those that nobody looked at yet come first. A round that is over begins again.
    fn next_look(&mut self) -> Option<Look> {
        let files: Vec<(Table, Arc<DataFile>)> = self.every_file().filter(|(_, file)| file.hash.is_some()).collect();
        let fresh = |scrub: &Scrub| {
            let left = files.iter().filter(|(_, file)| !scrub.done.contains(&file.name));
            left.min_by_key(|(_, file)| file.checked.known().is_some()).cloned()
        };
        let (table, file) = fresh(&self.scrub).or_else(|| {
            self.scrub.done.clear();
            fresh(&self.scrub)
        })?;
        self.scrub.done.insert(file.name.clone());
        let path = self.delta(table).path(&file.name);
        let look = Look::begin(self.disk.as_ref(), &path, table, file);
        look.inspect_err(|error| warn!(path = %path.display(), %error, "a file cannot be opened")).ok()
    }

    async fn judge(&mut self, look: Look) {
        let intact = look.file.hash.is_none_or(|hash| hash == look.hasher.digest());
        look.file.looked_at(intact);
        if !intact {
            self.quarantine(look.table, &look.file.name).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{disk::RealDisk, files, view::Checked};

    #[test]
    fn a_look_in_pieces_sees_what_a_look_at_once_sees() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.parquet");
        let content: Vec<u8> = (0..PIECE * 5 / 2).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = DataFile {
            name: "part.parquet".into(),
            bytes: content.len() as u64,
            rows: 1,
            time_range: None,
            written_unix_nano: 0,
            hash: Some(files::hash(&content)),
            tail: None,
            hot_in_map: false,
            recompressed: false,
            packed_from: None,
            origin: files::Origin::default(),
            since: Instant::now(),
            checked: Checked::default(),
        };
        let mut look = Look::begin(&RealDisk, &path, Table::Spans, Arc::new(file)).unwrap();
        let read: Vec<u64> = (0..4).map(|_| look.advance().unwrap()).collect();
        assert_eq!(read, [PIECE, PIECE, PIECE / 2, 0]);
        assert_eq!(Some(look.hasher.digest()), look.file.hash);
    }
}
