//! [`StateFile`]: the last good policy on disk, so that a proxy that starts without a control plane is
//! regulated as it was.
//!
//! One line of CRC-32 in hex, then the set as JSON. Written aside, synced and renamed, so a reader
//! sees the old or the new set, never half of one; what does not hold its checksum is not used.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use tracing::warn;
use weir_policy::PolicySet;

/// Where the set of one workload is kept.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file of `service` in `folder`, which is made if it is missing.
    pub(crate) fn new(folder: &Path, service: &str) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let name: String = service.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect();
        Ok(Self { path: folder.join(format!("{name}.policy")) })
    }

    /// The set of the last run, if it is whole and can be enforced.
    pub(crate) fn read(&self) -> Option<PolicySet> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %self.path.display(), %error, "the kept policy cannot be read");
                return None;
            }
        };
        let set = parse(&text);
        if set.is_none() {
            warn!(path = %self.path.display(), "the kept policy is damaged; the static limits hold");
        }
        set
    }

    /// Replaces the kept set.
    pub(crate) fn write(&self, set: &PolicySet) -> io::Result<()> {
        let json = serde_json::to_string(set)?;
        let aside = self.path.with_extension("new");
        let mut file = fs::File::create(&aside)?;
        write!(file, "{:08x}\n{json}", crc32fast::hash(json.as_bytes()))?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        // the rename is only durable once the folder is
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::File::open(folder)?.sync_all()
    }
}

fn parse(text: &str) -> Option<PolicySet> {
    let (checksum, json) = text.split_once('\n')?;
    let whole = u32::from_str_radix(checksum, 16).ok()? == crc32fast::hash(json.as_bytes());
    let set: PolicySet = whole.then(|| serde_json::from_str(json).ok())??;
    set.validate().is_ok().then_some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path(), "tag/ger").unwrap();
        assert_eq!(file.read(), None);
        let set = PolicySet { sequence: 7, ..PolicySet::default() };
        file.write(&set).unwrap();
        assert_eq!(file.read(), Some(set));
        let path = folder.path().join("tag_ger.policy");
        let damaged = fs::read_to_string(&path).unwrap().replace("\"sequence\":7", "\"sequence\":9");
        fs::write(&path, damaged).unwrap();
        assert_eq!(file.read(), None);
    }
}
