//! [`Content`]: the bytes of one file, as the process sees them and as the platter has them.

use rand::{Rng, rngs::StdRng};

/// A disk writes so many bytes at once or not at all.
const SECTOR: usize = 512;

/// A file's bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// What the process reads back.
    pub(super) seen: Vec<u8>,
    /// What is on the platter for certain.
    durable: Vec<u8>,
    /// What was done since the last sync, in order.
    unsynced: Vec<Change>,
}

/// Something that only the page cache knows.
#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

impl Content {
    /// A file that was there before the machine started.
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        Self { seen: bytes.clone(), durable: bytes, unsynced: Vec::new() }
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.seen, at, bytes);
        self.unsynced.push(Change::Write { at, bytes: bytes.to_vec() });
    }

    pub(super) fn truncate(&mut self, length: usize) {
        self.seen.resize(length, 0);
        self.unsynced.push(Change::Truncate { length });
    }

    /// Everything seen is durable from here on, except what an earlier failed sync lost.
    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            change.apply(&mut self.durable);
        }
    }

    /// What the kernel does when a write-back fails: the pages are clean afterwards although some of
    /// them never reached the platter, and no later sync writes them.
    pub(super) fn fail_sync(&mut self, random: &mut StdRng) {
        self.durable = self.survivor(random);
        self.unsynced.clear();
    }

    /// What a power cut leaves: each unsynced change survives or not, by itself.
    pub(super) fn survivor(&self, random: &mut StdRng) -> Vec<u8> {
        let mut left = self.durable.clone();
        for change in &self.unsynced {
            change.survive(&mut left, random);
        }
        left
    }

    pub(super) fn flip(&mut self, bit: usize) {
        for bytes in [&mut self.seen, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => put(to, *at, bytes),
            Self::Truncate { length } => to.resize(*length, 0),
        }
    }

    fn survive(&self, left: &mut Vec<u8>, random: &mut StdRng) {
        let Self::Write { at, bytes } = self else {
            if random.random() {
                self.apply(left);
            }
            return;
        };
        match random.random_range(0..5) {
            0 => {}
            1 => put(left, *at, bytes),
            2 => put(left, *at, &bytes[..random.random_range(0..=bytes.len())]),
            3 => put_sectors(left, *at, bytes, random),
            // the length reached the platter, the bytes did not
            _ => left.resize(left.len().max(at + bytes.len()), 0),
        }
    }
}

/// Puts bytes at a place; a gap before them reads as zeros.
fn put(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    to.resize(to.len().max(at + bytes.len()), 0);
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Puts each sector of a write or leaves it.
fn put_sectors(to: &mut Vec<u8>, at: usize, bytes: &[u8], random: &mut StdRng) {
    let mut from = 0;
    while from < bytes.len() {
        let until = (SECTOR - (at + from) % SECTOR + from).min(bytes.len());
        if random.random() {
            put(to, at + from, &bytes[from..until]);
        }
        from = until;
    }
}
