//! Small named values that survive restarts: written whole, synced, renamed into place.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Writes `sequence` and `bytes` under `name`.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8], sequence: u64) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let (path, temporary) = (path(dir, name), dir.join(format!("{name}.tmp")));
    let mut file = File::create(&temporary)?;
    file.write_all(&crc32fast::hash(bytes).to_le_bytes())?;
    file.write_all(&sequence.to_le_bytes())?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    File::open(dir)?.sync_all()
}

/// What was written last; `None` if nothing was, or if it is damaged.
pub(crate) fn read(dir: &Path, name: &str) -> Option<(Vec<u8>, u64)> {
    let file = fs::read(path(dir, name)).ok()?;
    let crc = u32::from_le_bytes(file.get(..4)?.try_into().ok()?);
    let sequence = u64::from_le_bytes(file.get(4..12)?.try_into().ok()?);
    let bytes = file.get(12..)?.to_vec();
    (crc32fast::hash(&bytes) == crc).then_some((bytes, sequence))
}

fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.checkpoint"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_and_a_damaged_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), "analyzer"), None);
        write(dir.path(), "analyzer", b"state", 7).unwrap();
        assert_eq!(read(dir.path(), "analyzer"), Some((b"state".to_vec(), 7)));
        fs::write(path(dir.path(), "analyzer"), b"0123456789abcdef").unwrap();
        assert_eq!(read(dir.path(), "analyzer"), None);
    }
}
