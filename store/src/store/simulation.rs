//! The store on a simulated disk: random work that stops at random places, and after each the rule
//! that every acked request is there once and whole, and nothing is there that was never sent.
//!
//! A seed is one lineage of a disk: several lives, each ended by a power cut or by a kill, which leaves a
//! page cache that a later power cut takes; some end during the recovery from the one before, some meet
//! failing operations and failed syncs. `TEST_SEEDS` says how many seeds (default 40), `TEST_SEED` the
//! first one; the seed is printed before it runs.

mod damage;
pub(super) mod ledger;

use std::{path::Path, sync::Arc};

use futures::FutureExt;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use self::ledger::{Kind, Ledger, Unanswered, number_of};
use super::*;
use crate::{
    config::Retention,
    disk::{
        Step,
        simulated::{Fault, SimulatedDisk},
    },
};

const DIR: &str = "/weir/data";

/// Lives of one seed.
const LIVES: u64 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn every_acked_request_survives_every_power_cut_once_and_whole() {
    let (first, seeds) = (number_of("TEST_SEED", 1), number_of("TEST_SEEDS", 40));
    let mut all = Tally::default();
    for seed in first..first + seeds {
        println!("seed {seed}");
        let tally = Lineage::new(seed).run().await;
        all.add(&tally);
    }
    println!("{seeds} seeds from {first}: {all:?}; lost 0, phantom 0, duplicated 0");
    assert!(all.acked > 0 && all.power_cuts > 0 && all.checks > seeds, "{all:?}");
}

/// What happened, for the report.
#[derive(Debug, Default)]
struct Tally {
    power_cuts: u64,
    kills: u64,
    in_recovery: u64,
    acked: u64,
    refused: u64,
    retried: u64,
    checks: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.in_recovery += other.in_recovery;
        self.acked += other.acked;
        self.refused += other.refused;
        self.retried += other.retried;
        self.checks += other.checks;
    }
}

/// One disk through its lives.
struct Lineage {
    seed: u64,
    random: StdRng,
    disk: SimulatedDisk,
    ledger: Ledger,
    tally: Tally,
    checkpoint: Checkpoint,
    story: Story,
}

/// What was done and answered, told when it ends badly.
#[derive(Debug, Default)]
struct Story(Vec<String>);

impl Story {
    fn tell(&mut self, line: String) {
        self.0.push(line);
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0.join("\n"));
        }
    }
}

/// What may be read back under the one name: what was kept last, or what was being kept when the
/// power went.
#[derive(Debug, Default)]
struct Checkpoint {
    kept: Option<u64>,
    maybe: Vec<u64>,
}

/// A step of the script.
#[derive(Clone, Copy, Debug)]
enum Act {
    Append,
    Burst,
    Retry,
    Flush,
    Upkeep,
    Checkpoint,
    Look,
    Reopen,
}

const SCRIPT: [Act; 16] = {
    use Act::{Append, Burst, Checkpoint, Flush, Look, Reopen, Retry, Upkeep};
    [
        Append, Append, Append, Append, Burst, Burst, Burst, Retry, Retry, Flush, Flush, Flush, Upkeep, Checkpoint,
        Look, Reopen,
    ]
};

pub(super) fn config() -> Config {
    Config {
        dir: DIR.into(),
        flush_age_ms: 3_600_000,
        flush_rows: usize::MAX,
        compact_files: 3,
        min_free_bytes: 0,
        wal_segment_bytes: 500,
        retention: Retention::default(),
        ..Config::default()
    }
}

pub(super) async fn open(disk: &SimulatedDisk) -> Result<Store, OpenError> {
    Store::open_on(config(), Arc::new(disk.clone())).await
}

impl Lineage {
    fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self {
            seed,
            random,
            disk: SimulatedDisk::new(seed),
            ledger: Ledger::default(),
            tally: Tally::default(),
            checkpoint: Checkpoint::default(),
            story: Story::default(),
        }
    }

    async fn run(mut self) -> Tally {
        for _ in 0..LIVES {
            let store = self.recover().await;
            self.plan();
            self.live(store).await;
            self.stop();
        }
        let store = self.recover().await;
        store.close().await.unwrap_or_else(|e| panic!("seed {}: a sound disk cannot be closed: {e}", self.seed));
        self.tally.acked = self.ledger.acked();
        self.tally
    }

    /// Opens the disk, now and then with a stop on the way, and checks what is there.
    async fn recover(&mut self) -> Store {
        while self.random.random_bool(0.25) {
            let at = self.random.random_range(1..60);
            self.disk.plan(Fault::StopAtChange(at));
            let opened = open(&self.disk).await;
            assert!(opened.is_ok() || self.disk.is_off(), "seed {}: {:?}", self.seed, opened.err());
            drop(opened);
            self.story.tell(format!("opened up to change {at}"));
            self.tally.in_recovery += u64::from(self.disk.is_off());
            self.stop();
        }
        let store = open(&self.disk).await;
        let store = store.unwrap_or_else(|e| panic!("seed {}: what is left cannot be opened: {e}", self.seed));
        self.check(&store).await;
        store
    }

    /// Plans how this life ends, and what fails before.
    fn plan(&mut self) {
        let counts = self.disk.counts();
        let mut faults = Vec::new();
        match self.random.random_range(0..10) {
            0..6 => {
                let within = 1 << self.random.random_range(1..9);
                faults.push(Fault::StopAtChange(counts.changes + self.random.random_range(1..=within)));
            }
            6..9 => {
                let step = *Step::ALL.choose(&mut self.random).unwrap();
                let reached = counts.steps.get(&step).copied().unwrap_or(0);
                faults.push(Fault::StopAtStep(step, reached + self.random.random_range(1..4)));
            }
            _ => {} // it ends at rest
        }
        let failures = if self.random.random_bool(0.3) { self.random.random_range(1..4) } else { 0 };
        for _ in 0..failures {
            let within = self.random.random_range(1..100);
            faults.push(match self.random.random_range(0..3) {
                0 => Fault::Operation(counts.operations + within),
                1 => Fault::Full(counts.operations + within),
                _ => Fault::Sync(counts.syncs + within / 4 + 1),
            });
        }
        self.story.tell(format!("planned {faults:?}, now {counts:?}"));
        faults.into_iter().for_each(|fault| self.disk.plan(fault));
    }

    async fn live(&mut self, mut store: Store) {
        for _ in 0..self.random.random_range(3..12) {
            if self.disk.is_off() {
                return;
            }
            let act = *SCRIPT.choose(&mut self.random).unwrap();
            match act {
                Act::Append => self.append(&store, 1).await,
                Act::Burst => {
                    let count = self.random.random_range(2..6);
                    self.append(&store, count).await;
                }
                Act::Retry => self.retry(&store).await,
                // a failure is the disk's; what it must not do is lose anything
                Act::Flush => self.story.tell(format!("flushed {:?}", store.flush().await)),
                Act::Upkeep => self.story.tell(format!("kept up {:?}", store.upkeep().await)),
                Act::Checkpoint => self.keep(&store),
                Act::Look => self.check(&store).await,
                Act::Reopen => {
                    self.story.tell(format!("closed {:?}", store.close().await));
                    match open(&self.disk).await {
                        Ok(opened) => store = opened,
                        // a planned fault met the opening
                        Err(_) => return,
                    }
                }
            }
        }
        if !self.disk.is_off() {
            self.disk.forget_plans();
            self.check(&store).await;
        }
    }

    /// Sends so many new requests at once.
    async fn append(&mut self, store: &Store, count: u64) {
        let numbers: Vec<u64> = (0..count).map(|_| self.ledger.next(&mut self.random)).collect();
        self.send(store, &numbers).await;
    }

    /// Sends a request again, byte for byte, be it acked, refused, or cut off by a crash.
    async fn retry(&mut self, store: &Store) {
        let Some(number) = self.ledger.any_request(&mut self.random) else { return };
        self.tally.retried += 1;
        self.send(store, &[number]).await;
    }

    async fn send(&mut self, store: &Store, numbers: &[u64]) {
        let answers = futures::future::join_all(numbers.iter().map(|number| self.ledger.send(store, *number))).await;
        for (number, answer) in numbers.iter().zip(answers) {
            self.story.tell(format!("sent {number}: {answer:?}"));
            match answer {
                Ok(_) => self.ledger.ack(*number),
                Err(_) => self.tally.refused += 1,
            }
        }
    }

    fn keep(&mut self, store: &Store) {
        let value = self.random.random();
        let kept = store.checkpoint("analyzer", &u64::to_le_bytes(value), 7);
        self.story.tell(format!("checkpoint {kept:?}"));
        match kept {
            Ok(()) => self.checkpoint = Checkpoint { kept: Some(value), maybe: Vec::new() },
            Err(_) => self.checkpoint.maybe.push(value),
        }
    }

    async fn check(&mut self, store: &Store) {
        self.tally.checks += 1;
        self.story.tell("check".into());
        let checked = self.checked(store).await;
        // a stop that was planned may come in the midst of it
        assert!(checked.is_ok() || self.disk.is_off(), "{checked:?}");
    }

    async fn checked(&self, store: &Store) -> Result<(), Unanswered> {
        let what = format!("seed {} life {}", self.seed, self.tally.power_cuts + self.tally.kills);
        self.ledger.check(store, &what).await?;
        // a planned fault may meet the reading
        if let Ok(read) = store.read_checkpoint("analyzer") {
            let read = read.map(|(bytes, _)| u64::from_le_bytes(bytes.try_into().unwrap()));
            let fine = read == self.checkpoint.kept || self.checkpoint.maybe.iter().any(|maybe| read == Some(*maybe));
            assert!(fine, "{what}: checkpoint {read:?}, not {:?}", self.checkpoint);
        }
        if store.flush().await.is_ok() {
            let what = format!("{what}, flushed");
            self.ledger.check(store, &what).await?;
            self.ledger.check_derived(store, &what).await?;
        }
        Ok(())
    }

    /// The process is killed or the power goes; the next life has what is left.
    fn stop(&mut self) {
        let kill = self.random.random_bool(0.3);
        self.story.tell(format!("{} after {:?}", if kill { "kill" } else { "power cut" }, self.disk.counts()));
        if kill {
            self.tally.kills += 1;
            self.disk = self.disk.kill();
        } else {
            self.tally.power_cuts += 1;
            self.disk = self.disk.crash(self.random.random());
        }
    }
}
