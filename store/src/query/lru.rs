//! [`Lru`]: what is known of files, by their paths, within a bound; the least recently used leave first.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What takes memory.
pub(super) trait Weighed {
    /// So much; it may grow.
    fn bytes(&self) -> usize;
}

/// Values in memory.
#[derive(Debug)]
pub(super) struct Lru<V> {
    values: HashMap<PathBuf, (Arc<V>, u64)>,
    /// Counts uses: the age of an entry.
    clock: u64,
    limit_bytes: usize,
}

impl<V: Weighed> Lru<V> {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { values: HashMap::new(), clock: 0, limit_bytes }
    }

    /// The value of a file, which is used thereby.
    pub(super) fn get(&mut self, path: &Path) -> Option<Arc<V>> {
        self.clock += 1;
        let (value, used) = self.values.get_mut(path)?;
        *used = self.clock;
        Some(value.clone())
    }

    /// Keeps a value; others leave for it.
    pub(super) fn keep(&mut self, path: PathBuf, value: Arc<V>) {
        self.clock += 1;
        self.values.insert(path, (value, self.clock));
        self.shrink();
    }

    /// Keeps the bound when values have grown.
    pub(super) fn shrink(&mut self) {
        let mut bytes = self.bytes();
        while bytes > self.limit_bytes {
            let oldest = self.values.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone());
            let Some((gone, _)) = oldest.and_then(|path| self.values.remove(&path)) else { return };
            bytes -= gone.bytes();
        }
    }

    fn bytes(&self) -> usize {
        self.values.values().map(|(value, _)| value.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Of(std::sync::atomic::AtomicUsize);

    impl Weighed for Of {
        fn bytes(&self) -> usize {
            self.0.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    #[test]
    fn the_least_recently_used_leave_for_what_comes_and_for_what_grows() {
        let mut kept = Lru::new(10);
        let value = |bytes: usize| Arc::new(Of(bytes.into()));
        let there = |kept: &Lru<Of>| {
            let mut names: Vec<_> = kept.values.keys().map(|path| path.display().to_string()).collect();
            names.sort();
            names.concat()
        };
        for name in ["a", "b", "c"] {
            kept.keep(name.into(), value(3));
        }
        kept.get(Path::new("a")).unwrap();
        kept.keep("d".into(), value(4));
        assert_eq!(there(&kept), "acd", "3, 3 and 4");
        kept.get(Path::new("c")).unwrap().0.store(7, std::sync::atomic::Ordering::Relaxed);
        kept.shrink();
        assert_eq!(there(&kept), "c");
        kept.keep("e".into(), value(11));
        assert_eq!(there(&kept), "", "what does not fit is not kept");
    }
}
