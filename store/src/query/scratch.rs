//! [`Scratch`]: where statements put what does not fit into their memory: in the data folder, whose
//! disk is the one that people gave weir room on, and never into the room that ingest needs.

use std::{io, path::PathBuf, sync::Arc};

use datafusion::execution::{
    disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode},
    runtime_env::RuntimeEnvBuilder,
};

use crate::{config::Config, disk::Disk};

/// The folder for temporary files, empty at the start.
#[derive(Debug)]
pub(super) struct Scratch {
    disk: Arc<dyn Disk>,
    /// `None` on a disk that the operating system does not see: its own temporary folder then.
    dir: Option<PathBuf>,
    max_bytes: u64,
    /// What is left free for others.
    spared_bytes: u64,
}

impl Scratch {
    /// Empties the folder.
    pub(super) fn new(config: &Config, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let dir = disk.scratch_dir(&config.scratch_dir())?;
        // in the same order of size as the memory
        let max_bytes = 2 * config.sql.memory_bytes as u64;
        // below the first half appends are refused
        Ok(Self { disk, dir, max_bytes, spared_bytes: 2 * config.min_free_bytes })
    }

    /// Tells an engine that is being built.
    pub(super) fn put_into(&self, runtime: RuntimeEnvBuilder) -> RuntimeEnvBuilder {
        let mode = match &self.dir {
            Some(dir) => DiskManagerMode::Directories(vec![dir.clone()]),
            None => DiskManagerMode::OsTmpDirectory,
        };
        let files = DiskManagerBuilder::default().with_mode(mode).with_max_temp_directory_size(self.max_bytes);
        runtime.with_disk_manager_builder(files)
    }

    /// Sets the bound anew: the disk fills and empties.
    pub(super) fn bound(&self, files: &DiskManager) {
        let Some(dir) = &self.dir else { return };
        // a disk that does not say what is free has no room
        let free = self.disk.free_bytes(dir).unwrap_or(0).saturating_sub(self.spared_bytes);
        let bound = self.max_bytes.min(files.used_disk_space().saturating_add(free));
        // it fails only where there are no such files at all
        let _ = files.set_max_temp_directory_size(bound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn the_folder_is_emptied_and_spares_what_ingest_needs() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { dir: dir.path().to_owned(), min_free_bytes: 0, ..Config::default() };
        let left = config.scratch_dir().join("left/by-a-kill");
        std::fs::create_dir_all(left.parent().unwrap()).unwrap();
        std::fs::write(&left, "x").unwrap();
        let scratch = Scratch::new(&config, Arc::new(RealDisk)).unwrap();
        assert!(!left.exists() && config.scratch_dir().is_dir());
        let runtime = scratch.put_into(RuntimeEnvBuilder::new()).build_arc().unwrap();
        let files = &runtime.disk_manager;
        assert!(files.temp_dir_paths().iter().all(|path| path.starts_with(dir.path())), "{files:?}");
        scratch.bound(files);
        assert!(files.max_temp_directory_size() > 0);
        config.min_free_bytes = 1 << 60;
        Scratch::new(&config, Arc::new(RealDisk)).unwrap().bound(files);
        assert_eq!(files.max_temp_directory_size(), 0);
    }
}
