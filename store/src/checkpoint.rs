//! Small named values that survive restarts: written whole, synced, renamed into place.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::disk::{self, Disk};

/// Writes `sequence` and `bytes` under `name`.
pub(crate) fn write(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8], sequence: u64) -> io::Result<()> {
    disk::make_dir(disk, dir)?;
    let mut content = crc32fast::hash(bytes).to_le_bytes().to_vec();
    content.extend_from_slice(&sequence.to_le_bytes());
    content.extend_from_slice(bytes);
    disk::replace(disk, &path(dir, name), &content)
}

/// What was written last; `None` if nothing was, or if it is damaged.
pub(crate) fn read(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<Option<(Vec<u8>, u64)>> {
    match disk.read(&path(dir, name)) {
        Ok(file) => Ok(parse(&file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(file: &[u8]) -> Option<(Vec<u8>, u64)> {
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
    use crate::disk::RealDisk;

    #[test]
    fn a_checkpoint_reads_back_and_a_damaged_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&RealDisk, dir.path(), "analyzer").unwrap(), None);
        write(&RealDisk, dir.path(), "analyzer", b"state", 7).unwrap();
        assert_eq!(read(&RealDisk, dir.path(), "analyzer").unwrap(), Some((b"state".to_vec(), 7)));
        std::fs::write(path(dir.path(), "analyzer"), b"0123456789abcdef").unwrap();
        assert_eq!(read(&RealDisk, dir.path(), "analyzer").unwrap(), None);
    }
}
