//! [`SimulatedDisk`]: a disk in memory that loses, tears and reorders what was not synced.
//!
//! It keeps what the process sees and what is durable apart. [`SimulatedDisk::crash`] makes the disk
//! that a power cut leaves: any subset of unsynced writes, whole, torn, or as zeros; any subset of
//! unsynced names. It is stricter than ext4 or XFS, and as loose as POSIX. [`SimulatedDisk::kill`] makes
//! the one that a killed process leaves: the page cache is still there, and still not durable. What is
//! random comes from a seed; operations are counted, so that a test can choose where it all stops.

mod content;
mod faults;
mod machine;
mod names;

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rand::{Rng, SeedableRng, rngs::StdRng};

use self::{
    content::Content,
    faults::{Faults, Kind, Outcome},
    machine::{CAPACITY_BYTES, File, Machine, broken, full, no_power},
    names::{Names, Node},
};
use super::{Disk, DiskFile, Entry, Opened, Step};

pub(crate) use faults::{Counts, Fault};

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedDisk {
    machine: Arc<Mutex<Machine>>,
    gate: Arc<Gate>,
}

/// What syncs of files wait at, as on a disk that hangs.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    is_shut: bool,
    waiting: usize,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock();
        state.waiting += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut state, |state| state.is_shut);
        state.waiting -= 1;
    }
}

/// A file open for writing: it lives on without its name.
#[derive(Debug)]
struct OpenFile {
    disk: SimulatedDisk,
    inode: u64,
    position: usize,
}

impl SimulatedDisk {
    /// An empty disk: only `/` is there.
    pub(crate) fn new(seed: u64) -> Self {
        let names = BTreeMap::from([(PathBuf::from("/"), Node::Dir)]);
        Self::with(Names::durable(names), BTreeMap::new(), CAPACITY_BYTES, seed)
    }

    fn with(names: Names, files: BTreeMap<u64, File>, capacity_bytes: u64, seed: u64) -> Self {
        let next_inode = files.keys().last().map_or(1, |last| last + 1);
        let random = StdRng::seed_from_u64(seed);
        let faults = Faults::default();
        let machine = Machine { names, files, next_inode, capacity_bytes, faults, random, is_off: false };
        Self { machine: Arc::new(Mutex::new(machine)), gate: Arc::default() }
    }

    /// From now on syncs of files take until [`SimulatedDisk::go_on`].
    pub(crate) fn hang(&self) {
        self.gate.state.lock().is_shut = true;
    }

    /// Waits until a sync hangs. Blocks the thread.
    pub(crate) fn wait_until_it_hangs(&self) {
        let mut state = self.gate.state.lock();
        self.gate.changed.wait_while(&mut state, |state| state.waiting == 0);
    }

    /// Syncs are done again.
    pub(crate) fn go_on(&self) {
        self.gate.state.lock().is_shut = false;
        self.gate.changed.notify_all();
    }

    /// Plans something to go wrong.
    pub(crate) fn plan(&self, fault: Fault) {
        self.machine.lock().faults.planned.push(fault);
    }

    /// Forgets what was planned and has not happened.
    pub(crate) fn forget_plans(&self) {
        self.machine.lock().faults.planned.clear();
    }

    /// How often things were done.
    pub(crate) fn counts(&self) -> Counts {
        self.machine.lock().faults.counts.clone()
    }

    /// Bytes that fit on it in all.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        self.machine.lock().capacity_bytes = bytes;
    }

    /// Bytes on it.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.machine.lock().used_bytes()
    }

    /// Whether the power went.
    pub(crate) fn is_off(&self) -> bool {
        self.machine.lock().is_off
    }

    /// The disk that a power cut at this moment leaves. This one is off afterwards.
    pub(crate) fn crash(&self, seed: u64) -> Self {
        let mut machine = self.machine.lock();
        machine.is_off = true;
        let mut random = StdRng::seed_from_u64(seed);
        let names = Names::durable(machine.names.survivor(&mut random));
        let named = names.files();
        let survive = |(inode, file): (&u64, &File)| {
            let bytes = file.content.survivor(&mut random);
            named.contains(inode).then(|| (*inode, File { content: Content::durable(bytes), modified: file.modified }))
        };
        let files = machine.files.iter().filter_map(survive).collect();
        Self::with(names, files, machine.capacity_bytes, random.random())
    }

    /// The disk as the next process finds it when this one is killed now: nothing is lost, and what was
    /// not synced is still not durable. This one is off afterwards.
    pub(crate) fn kill(&self) -> Self {
        let mut machine = self.machine.lock();
        machine.is_off = true;
        let seed = machine.random.random();
        let next = Self::with(machine.names.clone(), machine.files.clone(), machine.capacity_bytes, seed);
        next.machine.lock().next_inode = machine.next_inode;
        next
    }

    /// Every file, with its length, by path.
    pub(crate) fn files(&self) -> Vec<(PathBuf, u64)> {
        let machine = self.machine.lock();
        let files = machine.names.all().iter().filter_map(|(path, node)| Some((path.clone(), node.file()?)));
        files.map(|(path, inode)| (path, machine.files[&inode].length())).collect()
    }

    /// Turns one bit of a file around, on the platter and in the cache.
    pub(crate) fn flip_bit(&self, path: &Path, bit: usize) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let inode = machine.file(path)?;
        machine.content(inode).flip(bit);
        Ok(())
    }

    /// Puts a file there as if it had always been there.
    pub(crate) fn plant(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.create(path)?;
        file.write_all(bytes)?;
        file.sync()?;
        path.parent().map_or(Ok(()), |dir| self.sync_dir(dir))
    }
}

impl Disk for SimulatedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let missing: Vec<_> = dir.ancestors().filter(|dir| machine.names.get(dir).is_none()).collect();
        if missing.is_empty() {
            machine.look()?;
            return machine.is_dir(dir);
        }
        for dir in missing.into_iter().rev() {
            machine.change(|machine| {
                machine.parent_is_dir(dir)?;
                machine.names.add(dir, Node::Dir);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut machine = self.machine.lock();
        machine.look()?;
        machine.is_dir(dir)?;
        Ok(machine.names.children(dir).map(|(path, node)| machine.describe(path, node)).collect())
    }

    fn entry(&self, path: &Path) -> io::Result<Entry> {
        let mut machine = self.machine.lock();
        machine.look()?;
        let node = machine.names.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(machine.describe(path, node))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut machine = self.machine.lock();
        machine.change(|machine| {
            machine.parent_is_dir(path)?;
            match machine.file(path) {
                Ok(_) => machine.names.remove(path),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let inode = machine.next_inode;
            machine.next_inode += 1;
            machine.files.insert(inode, File { content: Content::default(), modified: SystemTime::now() });
            machine.names.add(path, Node::File(inode));
            Ok(())
        })?;
        let inode = machine.file(path)?;
        Ok(Box::new(OpenFile { disk: self.clone(), inode, position: 0 }))
    }

    fn read(&self, path: &Path) -> io::Result<Bytes> {
        self.read_range(path, 0..u64::MAX)
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        self.read(path).map(Opened::Memory)
    }

    fn read_range(&self, path: &Path, range: Range<u64>) -> io::Result<Bytes> {
        let mut machine = self.machine.lock();
        machine.look()?;
        let inode = machine.file(path)?;
        let bytes = &machine.files[&inode].content.seen;
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let (start, end) = (place(range.start), place(range.end));
        Ok(Bytes::copy_from_slice(&bytes[start..end.max(start)]))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.machine.lock().change(|machine| {
            machine.parent_is_dir(to)?;
            let inode = machine.file(from)?;
            match machine.file(to) {
                // POSIX: two names of one file stay two names
                Ok(same) if same == inode => return Ok(()),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => machine.names.rename(from, to, Node::File(inode)),
            }
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.machine.lock().change(|machine| {
            machine.parent_is_dir(to)?;
            let inode = machine.file(from)?;
            if machine.names.get(to).is_some() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            machine.names.add(to, Node::File(inode));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.machine.lock().change(|machine| {
            machine.file(path)?;
            machine.names.remove(path);
            Ok(())
        })
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let inode = machine.file(path)?;
        machine.sync(inode)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.is_dir(dir)?;
        match machine.begin(Kind::Sync)? {
            Outcome::Works => {
                machine.names.sync(dir);
                Ok(())
            }
            Outcome::Stops => Err(no_power()),
            Outcome::Full => Err(full()),
            Outcome::Fails => Err(broken()),
        }
    }

    fn table_url(&self, dir: &Path) -> Option<url::Url> {
        url::Url::parse(&format!("memory://{}/", dir.display())).ok()
    }

    fn canonical(&self, dir: &Path) -> io::Result<PathBuf> {
        self.entry(dir).map(|_| dir.to_owned())
    }

    /// There is no other process.
    fn lock_file(&self, _path: &Path) -> io::Result<Option<std::fs::File>> {
        Ok(None)
    }

    fn scratch_dir(&self, _dir: &Path) -> io::Result<Option<PathBuf>> {
        Ok(None)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let mut machine = self.machine.lock();
        machine.look()?;
        machine.is_dir(dir)?;
        Ok(machine.free_bytes())
    }

    fn reached(&self, step: Step) -> io::Result<()> {
        let mut machine = self.machine.lock();
        if !machine.is_off && machine.faults.step(step) {
            machine.is_off = true;
        }
        if machine.is_off { Err(no_power()) } else { Ok(()) }
    }
}

impl Write for OpenFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.disk.machine.lock().write(self.inode, self.position, bytes)?;
        self.position += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for OpenFile {
    fn sync(&mut self) -> io::Result<()> {
        self.disk.gate.pass();
        self.disk.machine.lock().sync(self.inode)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| ErrorKind::InvalidInput)?;
        let inode = self.inode;
        self.disk.machine.lock().change(|machine| {
            machine.touch(inode).truncate(length);
            Ok(())
        })?;
        self.position = length;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
