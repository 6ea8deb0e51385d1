//! Which files become one. Small files are read and written anew, as one row group; files of whole
//! row groups are spliced, until a file is large enough to be left alone. So a table of 100 million
//! rows has well under 100 files, and a row is compressed at most a few times.

use std::sync::Arc;

use super::parquet_file::ROW_GROUP_ROWS;
use crate::view::DataFile;

/// A file below this is small: two of them still fit one row group.
pub(crate) const SMALL_ROWS: u64 = ROW_GROUP_ROWS as u64 / 2;

/// Row groups of a file that is left alone: large enough that files are few, small enough that whole
/// files can be dropped when they are too old.
const LARGE_ROWS: u64 = 16 * ROW_GROUP_ROWS as u64;

/// Spliced files are at most this long, in bytes: their sources are held in memory meanwhile.
const LARGE_BYTES: u64 = 128 << 20;

/// What is put into one file ends on one day, so that retention by age drops whole days.
const DAY_NS: i64 = 86_400_000_000_000;

/// What to do.
#[derive(Debug)]
pub(crate) enum Merge {
    /// Read them and write them anew, in order.
    Rewrite(Vec<Arc<DataFile>>),
    /// Put their row groups into one file.
    Splice(Vec<Arc<DataFile>>),
}

/// The next merge of a table's files, if one is worth it. `enough` is how many files of a kind are too many.
pub(crate) fn plan(files: &[Arc<DataFile>], enough: usize) -> Option<Merge> {
    let mut files: Vec<_> = files.iter().filter(|file| file.checked.known() != Some(false)).cloned().collect();
    files.sort_by_key(|file| file.time_range);
    let of_a_day = |files: Vec<Arc<DataFile>>| -> Vec<Vec<Arc<DataFile>>> {
        files.chunk_by(|a, b| day(a) == day(b)).map(<[_]>::to_vec).collect()
    };
    let (small, whole): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.rows < SMALL_ROWS);
    let rewrite = of_a_day(small).into_iter().find_map(|files| take(files, enough, ROW_GROUP_ROWS as u64));
    let spliced = |file: &Arc<DataFile>| file.rows < LARGE_ROWS / 2 && file.bytes < LARGE_BYTES / 2;
    let whole = whole.into_iter().filter(spliced).collect();
    let splice = || of_a_day(whole).into_iter().find_map(|files| take(files, enough.div_ceil(2), LARGE_ROWS));
    rewrite.map(Merge::Rewrite).or_else(|| splice().map(Merge::Splice))
}

fn day(file: &DataFile) -> Option<i64> {
    file.time_range.map(|(_, high)| high.div_euclid(DAY_NS))
}

/// The oldest that fit, if there are too many or enough to fill a file.
fn take(files: Vec<Arc<DataFile>>, enough: usize, most_rows: u64) -> Option<Vec<Arc<DataFile>>> {
    let (mut rows, mut bytes) = (0, 0);
    let fit = files.iter().take_while(|file| {
        rows += file.rows;
        bytes += file.bytes;
        rows <= most_rows && bytes <= LARGE_BYTES
    });
    let fit = fit.count();
    let worth_it = fit >= 2 && (fit >= enough || fit < files.len() && files.len() >= enough);
    worth_it.then(|| files[..fit].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{disk::RealDisk, view::Checked};

    fn file(name: usize, rows: u64, time: i64) -> Arc<DataFile> {
        Arc::new(DataFile {
            name: format!("f{name}"),
            bytes: rows * 25,
            rows,
            time_range: Some((time, time)),
            written_unix_nano: i64::MAX,
            hash: None,
            tail: None,
            hot_in_map: false,
            recompressed: false,
            packed_from: None,
            origin: crate::files::Origin::default(),
            since: std::time::Instant::now(),
            checked: Checked::default(),
        })
    }

    /// Merges until nothing is worth it, adding `rows` each time.
    fn grow(flushes: usize, rows: u64) -> (Vec<Arc<DataFile>>, u64) {
        let (mut files, mut rewritten) = (Vec::new(), 0);
        for flush in 0..flushes {
            files.push(file(flush, rows, flush as i64));
            while let Some(merge) = plan(&files, 24) {
                let merged = match &merge {
                    Merge::Rewrite(merged) => {
                        rewritten += merged.iter().map(|f| f.rows).sum::<u64>();
                        merged
                    }
                    Merge::Splice(merged) => merged,
                };
                let time = merged.iter().filter_map(|f| f.time_range).max().unwrap().1;
                let rows = merged.iter().map(|f| f.rows).sum();
                files.retain(|f| merged.iter().all(|m| m.name != f.name));
                files.push(file(1_000_000 + flush, rows, time));
            }
        }
        (files, rewritten)
    }

    #[test]
    fn files_stay_few_and_rows_are_rewritten_a_few_times_at_most() {
        for (flushes, rows) in [(1000, 131_072), (1000, 100_000), (5000, 500), (2000, 20_000), (3000, 70_000)] {
            let (files, rewritten) = grow(flushes, rows);
            let all = flushes as u64 * rows;
            assert_eq!(files.iter().map(|f| f.rows).sum::<u64>(), all);
            let bound = 24 + 12 + (all / (LARGE_ROWS / 2)) as usize;
            assert!(files.len() <= bound, "{flushes} x {rows}: {} files", files.len());
            assert!(rewritten <= all * 8, "{flushes} x {rows}: {rewritten} rows rewritten");
        }
    }

    #[test]
    fn days_are_not_mixed_and_damaged_files_are_left_alone() {
        let mut files: Vec<_> = (0..23).map(|n| file(n, 10, 0)).chain((23..40).map(|n| file(n, 10, DAY_NS))).collect();
        assert!(plan(&files, 24).is_none());
        files.push(file(99, 10, 1));
        let Some(Merge::Rewrite(merged)) = plan(&files, 24) else { panic!("24 of one day") };
        assert_eq!(merged.len(), 24);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f0"), "not what was written").unwrap();
        let damaged = Arc::new(DataFile { hash: Some(1), ..Arc::into_inner(file(0, 10, 0)).unwrap() });
        assert!(!damaged.look(&RealDisk, &dir.path().join("f0")));
        files.retain(|file| file.name != "f0");
        files.push(damaged);
        assert!(plan(&files, 24).is_none());
    }
}
