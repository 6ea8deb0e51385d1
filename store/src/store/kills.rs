//! Real kills at every named step: a child process works on a real folder and kills itself with SIGKILL
//! when it reaches a step for the nth time. The parent opens what is left: every acked request is
//! there once and whole, and nothing that was never sent.
//!
//! `TEST_KILLS_PER_STEP` says how many kills at each step (default 1). Random moments are killed by
//! `tests/crash.rs`, power cuts are simulated by `simulation.rs`.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    ops::Range,
    os::unix::process::ExitStatusExt,
    process::Command,
    sync::atomic::AtomicU64,
};

use super::{
    simulation::ledger::{Kind, Ledger, number_of, old_logs, texts},
    *,
};
use crate::{
    config::Retention,
    disk::{DiskFile, Entry, Opened, Step},
};

/// What `kill -9` ends a process with.
const SIGKILL: i32 = 9;

/// Rounds of work that a child does at most; each reaches every step.
const ROUNDS: u64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_every_step_loses_nothing_and_repeats_nothing() {
    let kills = number_of("TEST_KILLS_PER_STEP", 1);
    let mut acked = 0;
    for step in Step::ALL {
        let dir = tempfile::tempdir().unwrap();
        for kill in 0..kills {
            // by now the folder has a past: the step is met in recovery, too
            let at = 1 + kill % 7;
            let status = run_child(dir.path(), step, at);
            assert_eq!(status.signal(), Some(SIGKILL), "{step:?} was not reached {at} times: {status}");
            acked += check(dir.path(), &format!("{step:?} for the {at}th time")).await;
        }
    }
    let all = kills * Step::ALL.len() as u64;
    println!("{all} kills, {kills} at each step, {acked} acks checked; lost 0, phantom 0, duplicated 0");
}

fn run_child(dir: &Path, step: Step, at: u64) -> std::process::ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "store::kills::child", "--nocapture"]);
    child.env("TEST_KILL_DIR", dir).env("TEST_KILL_STEP", format!("{step:?}")).env("TEST_KILL_AT", at.to_string());
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_none_or(|code| code == 0), "the child failed before it was killed: {said}");
    output.status
}

/// Opens what is left and says how many acks were held against it.
async fn check(dir: &Path, what: &str) -> u64 {
    let store = Store::open(config(dir)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    store.replayed().await;
    let ledger = read_ledger(dir);
    ledger.check(&store, what).await.unwrap();
    store.flush().await.unwrap_or_else(|e| panic!("{what}: {e}"));
    ledger.check(&store, &format!("{what}, flushed")).await.unwrap();
    ledger.check_index(&store, &format!("{what}, flushed")).await.unwrap();
    // no close: the next child finds a folder that nobody left in order
    drop(store);
    ledger.acked()
}

fn config(dir: &Path) -> Config {
    Config {
        dir: dir.join("data"),
        flush_age_ms: 3_600_000,
        flush_rows: usize::MAX,
        compact_files: 2,
        min_free_bytes: 0,
        wal_segment_bytes: 300,
        retention: Retention { max_age_hours: 24 * 365 * 30, ..Retention::default() },
        ..Config::default()
    }
}

/// The process that is killed. Run as a test of its own, without a folder to work in, it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Some(dir) = std::env::var_os("TEST_KILL_DIR").map(PathBuf::from) else { return };
    let name = std::env::var("TEST_KILL_STEP").unwrap();
    let step = Step::ALL.into_iter().find(|step| format!("{step:?}") == name).unwrap();
    let disk = KillingDisk { inner: RealDisk, step, at: number_of("TEST_KILL_AT", 1), reached: AtomicU64::new(0) };
    let store = Store::open_on(config(&dir), Arc::new(disk)).await.unwrap();
    let mut ledger = read_ledger(&dir);
    let mut lines = OpenOptions::new().create(true).append(true).open(dir.join("ledger")).unwrap();
    for _ in 0..ROUNDS {
        for is_damaged in [false, true] {
            send_spans(&store, &mut ledger, &mut lines).await;
            store.append_rows(old_logs()).await.unwrap();
            store.flush().await.unwrap();
            if is_damaged {
                damage_logs(&dir);
                // whoever reads the file first finds out; orders are done in turn, so the upkeep comes after
                drop(texts(&store, "SELECT body FROM logs").await);
            }
            store.upkeep().await.unwrap();
        }
    }
}

/// Spans, which must all stay, with a line in the ledger before they are sent and after they are acked.
async fn send_spans(store: &Store, ledger: &mut Ledger, lines: &mut File) {
    for _ in 0..3 {
        let number = ledger.take(Kind::Spans, 3);
        write_line(lines, "sent");
        ledger.send(store, number).await.unwrap();
        ledger.ack(number);
        write_line(lines, &format!("acked {number}"));
    }
}

fn write_line(lines: &mut File, line: &str) {
    lines.write_all(format!("{line}\n").as_bytes()).unwrap();
    lines.sync_data().unwrap();
}

/// What earlier children sent and were told; a line that was cut off says nothing.
fn read_ledger(dir: &Path) -> Ledger {
    let text = std::fs::read_to_string(dir.join("ledger")).unwrap_or_default();
    let mut ledger = Ledger::default();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        match line.strip_prefix("acked ") {
            Some(number) => ledger.ack(number.parse().unwrap()),
            None => {
                ledger.take(Kind::Spans, 3);
            }
        }
    }
    ledger
}

/// Turns a bit of every file of logs around. Logs are here to be dropped and damaged.
fn damage_logs(dir: &Path) {
    for entry in std::fs::read_dir(dir.join("data/tables/logs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

/// The real disk, until a step is reached for the nth time.
#[derive(Debug)]
struct KillingDisk {
    inner: RealDisk,
    step: Step,
    at: u64,
    reached: AtomicU64,
}

impl Disk for KillingDisk {
    fn reached(&self, step: Step) -> io::Result<()> {
        if step == self.step && self.reached.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            let killed = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            panic!("still alive after kill -9: {killed:?}");
        }
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.inner.list(dir)
    }

    fn entry(&self, path: &Path) -> io::Result<Entry> {
        self.inner.entry(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inner.create(path)
    }

    fn read(&self, path: &Path) -> io::Result<Bytes> {
        self.inner.read(path)
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        self.inner.open(path)
    }

    fn read_range(&self, path: &Path, range: Range<u64>) -> io::Result<Bytes> {
        self.inner.read_range(path, range)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn canonical(&self, dir: &Path) -> io::Result<PathBuf> {
        self.inner.canonical(dir)
    }

    fn lock_file(&self, path: &Path) -> io::Result<Option<File>> {
        self.inner.lock_file(path)
    }

    fn scratch_dir(&self, dir: &Path) -> io::Result<Option<PathBuf>> {
        self.inner.scratch_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.inner.free_bytes(dir)
    }
}
