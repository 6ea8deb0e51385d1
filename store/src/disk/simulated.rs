//! [`SimulatedDisk`]: a disk in memory that loses, tears and reorders what was not synced.
//!
//! It keeps what the process sees and what is durable apart. [`SimulatedDisk::crash`] makes the disk
//! that a power cut leaves: any subset of unsynced writes, whole, torn, or as zeros; any subset of
//! unsynced names. It is stricter than ext4 or XFS, and as loose as POSIX. [`SimulatedDisk::kill`] makes
//! the one that a killed process leaves: the page cache is still there, and still not durable. What is
//! random comes from a seed; operations are counted, so that a test can choose where it all stops.

mod content;
mod faults;
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
    names::{Names, Node},
};
use super::{Disk, DiskFile, Entry, Opened, Step};

pub(crate) use faults::{Counts, Fault};

/// 1 TiB: nobody fills it by accident.
const CAPACITY_BYTES: u64 = 1 << 40;

/// What Linux calls an input/output error.
const EIO: i32 = 5;

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

#[derive(Debug)]
struct Machine {
    names: Names,
    files: BTreeMap<u64, File>,
    next_inode: u64,
    capacity_bytes: u64,
    faults: Faults,
    /// For what a failed operation leaves.
    random: StdRng,
    is_off: bool,
}

#[derive(Clone, Debug)]
struct File {
    content: Content,
    modified: SystemTime,
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

impl Machine {
    /// Counts an operation; `Err` when the machine is off or goes off before it does anything.
    fn begin(&mut self, kind: Kind) -> io::Result<Outcome> {
        if self.is_off {
            return Err(no_power());
        }
        let outcome = self.faults.operation(kind);
        self.is_off = outcome == Outcome::Stops;
        Ok(outcome)
    }

    /// Does a change of names that either happens or not. One that is cut by a power failure is
    /// done, unsynced: whether it survives is decided with all others.
    fn change(&mut self, change: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        match self.begin(Kind::Change)? {
            Outcome::Works => change(self),
            Outcome::Fails => Err(broken()),
            Outcome::Full => Err(full()),
            Outcome::Stops => change(self).and(Err(no_power())),
        }
    }

    fn look(&mut self) -> io::Result<()> {
        match self.begin(Kind::Read)? {
            Outcome::Works => Ok(()),
            Outcome::Fails | Outcome::Full => Err(broken()),
            Outcome::Stops => Err(no_power()),
        }
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(inode),
            Some(Node::Dir) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn is_dir(&self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn parent_is_dir(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Err(ErrorKind::InvalidInput.into()), |dir| self.is_dir(dir))
    }

    fn content(&mut self, inode: u64) -> &mut Content {
        &mut self.files.get_mut(&inode).expect("an inode that was handed out stays").content
    }

    /// As [`Self::content`], for a change that shows in the time of the file.
    fn touch(&mut self, inode: u64) -> &mut Content {
        let file = self.files.get_mut(&inode).expect("an inode that was handed out stays");
        file.modified = SystemTime::now();
        &mut file.content
    }

    fn describe(&self, path: &Path, node: Node) -> Entry {
        let file = node.file().map(|inode| &self.files[&inode]);
        Entry {
            name: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            is_dir: node == Node::Dir,
            bytes: file.map_or(0, File::length),
            modified: file.map_or(SystemTime::UNIX_EPOCH, |file| file.modified),
        }
    }

    fn used_bytes(&self) -> u64 {
        self.names.files().iter().map(|inode| self.files[inode].length()).sum()
    }

    fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes())
    }

    /// How many bytes of a write of `length` at `at` there is room for.
    fn room(&self, inode: u64, at: usize, length: usize) -> usize {
        if self.capacity_bytes == CAPACITY_BYTES {
            return length; // every file would be counted for every write
        }
        let inside = usize::try_from(self.files[&inode].length()).unwrap_or(usize::MAX).saturating_sub(at);
        let free = usize::try_from(self.free_bytes()).unwrap_or(usize::MAX);
        length.min(inside.saturating_add(free))
    }

    fn write(&mut self, inode: u64, at: usize, bytes: &[u8]) -> io::Result<usize> {
        let outcome = self.begin(Kind::Change)?;
        let part = match outcome {
            Outcome::Works => self.room(inode, at, bytes.len()),
            Outcome::Stops => bytes.len(),
            Outcome::Fails | Outcome::Full => self.random.random_range(0..=bytes.len().saturating_sub(1)),
        };
        self.touch(inode).write(at, &bytes[..part]);
        match outcome {
            Outcome::Works if part == 0 && !bytes.is_empty() => Err(full()),
            Outcome::Full if part == 0 => Err(full()),
            Outcome::Full => {
                self.faults.fill();
                Ok(part)
            }
            Outcome::Works => Ok(part),
            Outcome::Fails => Err(broken()),
            Outcome::Stops => Err(no_power()),
        }
    }

    fn sync(&mut self, inode: u64) -> io::Result<()> {
        match self.begin(Kind::Sync)? {
            Outcome::Works => {
                self.content(inode).sync();
                Ok(())
            }
            Outcome::Stops => Err(no_power()),
            failed => {
                let mut random = StdRng::seed_from_u64(self.random.random());
                self.content(inode).fail_sync(&mut random);
                Err(if failed == Outcome::Full { full() } else { broken() })
            }
        }
    }
}

impl File {
    fn length(&self) -> u64 {
        self.content.seen.len() as u64
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

fn broken() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

fn full() -> io::Error {
    ErrorKind::StorageFull.into()
}

fn no_power() -> io::Error {
    io::Error::other("the machine is off")
}

#[cfg(test)]
mod tests;
