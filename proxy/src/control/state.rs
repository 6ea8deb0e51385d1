//! [`StateFile`]: the last good policy on disk, so that a proxy that starts without a control plane is
//! regulated as it was.
//!
//! One line of CRC-32 in hex, one that names the control plane, then the set as JSON. Written aside, synced and renamed, so a reader
//! sees the old or the new set, never half of one; what does not hold its checksum is not used. The file's time
//! is when the control plane last said the set: its time to live goes on over a restart.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::JoinHandle};
use tracing::warn;
use weir_policy::PolicySet;

/// Where the set of one workload is kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StateFile {
    path: PathBuf,
}

/// The set of an earlier run.
#[derive(Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) set: PolicySet,
    /// Whose set it is; unknown of files of before this was written.
    pub(crate) from: Option<String>,
    /// How long ago the control plane last said it.
    pub(crate) age: Duration,
}

impl StateFile {
    /// The file of `service` in `folder`, which is made if it is missing.
    pub(crate) fn new(folder: &Path, service: &str) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        // two services never have one file
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let name: String =
            service.chars().map(|c| if plain(c) { c.into() } else { format!("%{:02X}", c as u32) }).collect();
        Ok(Self { path: folder.join(format!("{name}.policy")) })
    }

    /// The set of the last run, if it is whole and can be enforced.
    pub(crate) fn read(&self) -> Option<Kept> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %self.path.display(), %error, "the kept policy cannot be read");
                return None;
            }
        };
        let parsed = parse(&text);
        if parsed.is_none() {
            warn!(path = %self.path.display(), "the kept policy is damaged; the static limits hold");
        }
        let heard = fs::metadata(&self.path).and_then(|file| file.modified());
        // a clock that was turned back makes nothing younger than new
        let age = heard.ok().and_then(|heard| heard.elapsed().ok()).unwrap_or_default();
        let (from, set) = parsed?;
        Some(Kept { set, from, age })
    }

    /// Notes that the control plane has said the kept set again.
    fn touch(&self) -> io::Result<()> {
        fs::File::options().write(true).open(&self.path)?.set_modified(SystemTime::now())
    }

    /// Replaces the kept set by one of the control plane at `from`.
    pub(crate) fn write(&self, from: &str, set: &PolicySet) -> io::Result<()> {
        // neither has a line feed: one is a URL, the other JSON without spaces
        let text = format!("{from}\n{}", serde_json::to_string(set)?);
        // another instance may write the same file
        let aside = self.path.with_extension(format!("{}.new", std::process::id()));
        let mut file = fs::File::create(&aside)?;
        write!(file, "{:08x}\n{text}", crc32fast::hash(text.as_bytes()))?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        // the rename is only durable once the folder is
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::File::open(folder)?.sync_all()
    }
}

/// Keeps the newest set on disk without making anybody wait for the disk; sets that come faster than
/// it syncs are skipped, because only the last one matters.
#[derive(Debug)]
pub(crate) struct Keeper {
    newest: watch::Sender<News>,
    writing: JoinHandle<()>,
}

/// What is to be kept; each word of the control plane counts.
#[derive(Clone, Debug, Default)]
struct News {
    set: Option<Arc<PolicySet>>,
    heard: u64,
}

impl Keeper {
    /// Starts the writer of what the control plane at `from` says; within a runtime.
    pub(crate) fn start(file: StateFile, from: &str) -> Self {
        let (newest, mut changes) = watch::channel(News::default());
        let file = Arc::new((file, from.to_owned()));
        let writing = tokio::spawn(async move {
            let mut kept: Option<Arc<PolicySet>> = None;
            while changes.changed().await.is_ok() {
                let News { set, .. } = changes.borrow_and_update().clone();
                let another = set.filter(|set| !kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, set)));
                kept = another.clone().or(kept);
                let file = file.clone();
                let written = tokio::task::spawn_blocking(move || match (another, &*file) {
                    (Some(set), (file, from)) => file.write(from, &set),
                    (None, (file, _)) => file.touch(),
                });
                if let Ok(Err(error)) = written.await {
                    warn!(%error, "the policy is in force, but could not be kept for the next start");
                }
            }
        });
        Self { newest, writing }
    }

    /// Will write `set`, unless a newer one comes before.
    pub(crate) fn keep(&self, set: Arc<PolicySet>) {
        self.newest.send_modify(|news| news.set = Some(set));
    }

    /// Will note that the kept set was said again.
    pub(crate) fn heard(&self) {
        self.newest.send_modify(|news| news.heard += 1);
    }

    /// Waits until the newest set is written.
    pub(crate) async fn finish(self) {
        drop(self.newest);
        // a writer that panicked has said so
        let _ = self.writing.await;
    }
}

/// The set, and whose it is.
fn parse(text: &str) -> Option<(Option<String>, PolicySet)> {
    let (checksum, rest) = text.split_once('\n')?;
    let whole = u32::from_str_radix(checksum, 16).ok()? == crc32fast::hash(rest.as_bytes());
    let (from, json) = rest.split_once('\n').map_or((None, rest), |(from, json)| (Some(from.to_owned()), json));
    let set: PolicySet = whole.then(|| serde_json::from_str(json).ok())??;
    set.validate().is_ok().then_some((from, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: &str = "http://127.0.0.1:4317";

    #[tokio::test]
    async fn the_newest_set_is_on_disk_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::start(StateFile::new(folder.path(), "tagger").unwrap(), FROM);
        for sequence in 1..=1_000 {
            keeper.keep(Arc::new(PolicySet { sequence, ..PolicySet::default() }));
        }
        keeper.finish().await;
        let kept = StateFile::new(folder.path(), "tagger").unwrap().read();
        assert_eq!(kept.map(|kept| kept.set.sequence), Some(1_000));
    }

    #[test]
    fn a_set_survives_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path(), "tag/ger").unwrap();
        assert_eq!(file.read(), None);
        let set = PolicySet { sequence: 7, ..PolicySet::default() };
        file.write(FROM, &set).unwrap();
        assert_eq!(file.read().map(|kept| (kept.set, kept.from)), Some((set.clone(), Some(FROM.to_owned()))));
        let path = folder.path().join("tag%2Fger.policy");
        let damaged = fs::read_to_string(&path).unwrap().replace("\"sequence\":7", "\"sequence\":9");
        fs::write(&path, damaged).unwrap();
        assert_eq!(file.read(), None);
        // as it was before files named the control plane
        let json = serde_json::to_string(&set).unwrap();
        fs::write(&path, format!("{:08x}\n{json}", crc32fast::hash(json.as_bytes()))).unwrap();
        assert_eq!(file.read().map(|kept| (kept.set, kept.from)), Some((set, None)));
    }
}
