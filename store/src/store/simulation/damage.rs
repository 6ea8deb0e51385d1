//! What a disk does beside losing power: a log that ends anywhere, bits that turn around, no room.
//!
//! `TEST_TORN_EVERY` says at which bytes of the last record the log is cut (default every 16th; 1 is
//! all of them), `TEST_FLIPS` how many bits are turned around in log and in data files each
//! (default 12), `TEST_FULL` how often the disk runs full (default 4); `TEST_SEED` is printed.

use super::*;

/// A disk with acked requests, at rest: everything on it is durable.
struct Written {
    disk: SimulatedDisk,
    ledger: Ledger,
    last: u64,
}

/// Writes so many requests of each kind, with a flush after each of `flushes` rounds of them.
async fn written(requests: u64, flushes: u64) -> Written {
    let disk = SimulatedDisk::new(1);
    let mut ledger = Ledger::default();
    let store = open(&disk).await.unwrap();
    let mut last = 0;
    for round in 0..=flushes {
        for request in 0..requests {
            let kind = [Kind::Spans, Kind::Logs, Kind::Spans][usize::try_from(request % 3).unwrap()];
            last = ledger.take(kind, 3);
            ledger.send(&store, last).await.unwrap();
            ledger.ack(last);
        }
        if round < flushes {
            store.flush().await.unwrap();
        }
    }
    drop(store);
    Written { disk, ledger, last }
}

impl Written {
    /// The same disk once more.
    fn copy(&self, seed: u64) -> SimulatedDisk {
        self.disk.crash(seed)
    }

    /// Files whose name ends so, below a folder of the data folder.
    fn files(&self, under: &str, ending: &str) -> Vec<(std::path::PathBuf, u64)> {
        let inside =
            |path: &Path| path.starts_with(Path::new(DIR).join(under)) && path.to_string_lossy().ends_with(ending);
        self.disk.files().into_iter().filter(|(path, _)| inside(path)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_at_every_byte_and_costs_the_torn_record_only() {
    let every = usize::try_from(number_of("TEST_TORN_EVERY", 16)).unwrap();
    let before = written(5, 0).await;
    let whole = written(6, 0).await;
    let (segment, from) = before.files("wal", ".log").pop().unwrap();
    let bytes = whole.copy(0).read(&segment).unwrap();
    let from = usize::try_from(from).unwrap();
    assert!(bytes.len() > from, "the sixth record stands in the same segment");
    let mut cuts = 0;
    for cut in (from..=bytes.len()).step_by(every).chain([bytes.len() - 1]) {
        let zeros = [&bytes[..cut], &vec![0; bytes.len() - cut]].concat();
        for (how, left) in [("cut", &bytes[..cut]), ("zeros from", &zeros)] {
            let disk = whole.copy(1);
            disk.plant(&segment, left).unwrap();
            let store = open(&disk).await.unwrap();
            let what = format!("{how} {cut} of {}", bytes.len());
            let lost = whole.ledger.lost(&store, &what).await.unwrap();
            let expected = if cut == bytes.len() { vec![] } else { vec![whole.last] };
            assert_eq!(lost, expected, "{what}");
            assert_eq!(store.status().damaged_records, 0, "{what}: a torn tail is no damage");
            cuts += 1;
        }
    }
    println!("{cuts} torn tails of a record of {} bytes: only the torn record was lost", bytes.len() - from);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_log_costs_one_record_which_is_set_aside_and_counted() {
    let (seed, flips) = (number_of("TEST_SEED", 1), number_of("TEST_FLIPS", 12));
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let written = written(12, 0).await;
    let segments = written.files("wal", ".log");
    let (mut lost_records, mut harmless) = (0, 0);
    for flip in 0..flips {
        let (path, length) = segments.choose(&mut random).unwrap();
        let bit = random.random_range(0..usize::try_from(*length).unwrap() * 8);
        let disk = written.copy(flip);
        disk.flip_bit(path, bit).unwrap();
        let what = format!("bit {bit} of {}", path.display());
        let store = open(&disk).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let lost = written.ledger.lost(&store, &what).await.unwrap();
        assert!(lost.len() <= 1, "{what}: one record is damaged, {lost:?} are lost");
        let is_counted = store.status().damaged_records > 0;
        if let [lost] = lost[..] {
            // of the last record there is nothing behind it says that it was more than a torn tail
            assert!(is_counted || lost == written.last, "{what}: {lost} is lost and not counted");
        }
        lost_records += lost.len();
        harmless += usize::from(lost.is_empty());
        written.take_on(&store, &what).await;
    }
    println!("{flips} flips in the log: {lost_records} records lost alone, {harmless} cost no row");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_end_of_an_older_segment_is_no_torn_tail() {
    let written = written(12, 0).await;
    let segments = written.files("wal", ".log");
    let [older @ .., _newest] = &segments[..] else { panic!("no segment") };
    assert!(!older.is_empty(), "there are several segments");
    for (path, length) in older {
        let disk = written.copy(1);
        disk.flip_bit(path, usize::try_from(*length).unwrap() * 8 - 1).unwrap();
        let what = path.display().to_string();
        let store = open(&disk).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(written.ledger.lost(&store, &what).await.unwrap().len(), 1, "{what}");
        assert_eq!(store.status().damaged_records, 1, "{what}: it is counted");
        assert_eq!(store.status().quarantined.len(), 1, "{what}: it is set aside");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_fails_leaves_its_name_and_no_file() {
    let written = written(3, 2).await;
    let mut failed = 0;
    for operation in (10..80).step_by(5) {
        let disk = written.copy(operation);
        let store = open(&disk).await.unwrap();
        store.replayed().await;
        disk.plan(Fault::Full(disk.counts().operations + operation));
        let backups =
            || disk.files().iter().filter(|(path, _)| path.starts_with(Path::new(DIR).join("backups"))).count();
        if store.backup("nightly").await.is_err() {
            failed += 1;
            assert_eq!(backups(), 0, "failed at operation {operation}");
            store.backup("nightly").await.unwrap();
        }
        assert!(backups() > 4, "{operation}");
        assert!(store.backup("nightly").await.is_err(), "now the name is taken");
    }
    assert!(failed > 0, "no operation of a backup failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_data_file_sets_it_aside_and_the_rest_answers() {
    let (seed, flips) = (number_of("TEST_SEED", 1), number_of("TEST_FLIPS", 12));
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let written = written(3, 2).await;
    let files = written.files("tables/spans", ".parquet");
    assert_eq!(files.len(), 2);
    for flip in 0..flips {
        let (path, length) = files.choose(&mut random).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bit = random.random_range(0..usize::try_from(*length).unwrap() * 8);
        let what = format!("bit {bit} of {name}");
        let disk = written.copy(flip);
        disk.flip_bit(path, bit).unwrap();
        let store = open(&disk).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        store.replayed().await;
        let all = "SELECT trace_id, span_id, start_unix_nano FROM spans ORDER BY 1, 2";
        let warnings = store.sql(all, None).await.unwrap_or_else(|e| panic!("{what}: {e}")).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(&name), "{what}: the answer says {warnings:?}");
        store.upkeep().await.unwrap(); // orders are done in turn: the file is set aside by now
        assert!(store.status().quarantined.iter().any(|file| file.contains(&name)), "{what}: {:?}", store.status());
        let warnings = store.sql(all, None).await.unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(&name), "{what}: later answers say {warnings:?}");
        let lost = written.ledger.lost(&store, &what).await.unwrap();
        assert_eq!(lost.len(), 2, "{what}: two requests of spans are in a file, {lost:?} are lost");
        assert!(
            disk.files().iter().any(|(path, _)| path.starts_with("/weir/data/quarantine") && path.ends_with(&name))
        );
        store.close().await.unwrap();
        let store = open(&disk).await.unwrap();
        assert_eq!(written.ledger.lost(&store, &what).await.unwrap(), lost, "{what}: after a restart");
    }
    println!("{flips} flips in data files: each was found, named and set aside");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_answers_and_recovers_by_itself() {
    let (seed, times) = (number_of("TEST_SEED", 1), number_of("TEST_FULL", 4));
    for seed in seed..seed + times {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let disk = SimulatedDisk::new(seed);
        let store = open(&disk).await.unwrap();
        let mut ledger = Ledger::default();
        let what = format!("seed {seed}");
        disk.set_capacity(disk.used_bytes() + random.random_range(100..20_000));
        let mut refused = Vec::new();
        while refused.len() < 5 {
            let number = ledger.next(&mut random);
            match ledger.send(&store, number).await {
                Ok(_) => ledger.ack(number),
                Err(AppendError::DiskFull | AppendError::Disk(_)) => refused.push(number),
                Err(other) => panic!("{what}: {other}"),
            }
            if random.random_bool(0.2) {
                // it may fail for want of room; nothing may be lost by it
                drop(store.flush().await);
            }
        }
        ledger.check(&store, &format!("{what}, full")).await.unwrap();
        disk.set_capacity(1 << 40);
        store.upkeep().await.unwrap_or_else(|e| panic!("{what}: {e}"));
        for number in refused {
            ledger.send(&store, number).await.unwrap_or_else(|e| panic!("{what}: there is room again: {e}"));
            ledger.ack(number);
        }
        store.flush().await.unwrap_or_else(|e| panic!("{what}: {e}"));
        ledger.check(&store, &format!("{what}, room again")).await.unwrap();
        ledger.check_derived(&store, &format!("{what}, room again")).await.unwrap();
        drop(store);
        let store = open(&disk.crash(seed)).await.unwrap();
        ledger.check(&store, &format!("{what}, after a power cut")).await.unwrap();
    }
}

/// It was replayed once, or passed over and its sender told that it is there, by whether rows behind it were in files.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_whose_record_could_not_be_cut_is_not_there_until_it_is_sent_again() {
    for seed in 0..6 {
        let flushed = seed % 2 == 0;
        let disk = SimulatedDisk::new(seed);
        let store = open(&disk).await.unwrap();
        let mut ledger = Ledger::default();
        let [first, refused, behind] = std::array::from_fn(|_| ledger.take(Kind::Spans, 3));
        ledger.send(&store, first).await.unwrap();
        let counts = disk.counts();
        // it is written, but not synced, and cannot be cut
        disk.plan(Fault::Sync(counts.syncs + 1));
        (2..5).for_each(|operation| disk.plan(Fault::Operation(counts.operations + operation)));
        ledger.send(&store, refused).await.unwrap_err();
        disk.forget_plans();
        ledger.send(&store, behind).await.unwrap();
        if flushed {
            // what is behind it is in files, and its segment is not deleted yet
            disk.plan(Fault::StopAtStep(Step::FlushPublished, 1));
            store.flush().await.unwrap_err();
        }
        drop(store);
        [first, refused, behind].into_iter().for_each(|number| ledger.ack(number));
        // what was not synced is whole, torn, or not there; a start names it as the one before did
        let disk = disk.crash(seed);
        let again = open(&disk).await.unwrap();
        let next = ledger.take(Kind::Spans, 3);
        ledger.send(&again, next).await.unwrap();
        drop(again);
        let store = open(&disk.kill()).await.unwrap();
        let what = format!("seed {seed}, flushed: {flushed}");
        assert_eq!(ledger.lost(&store, &what).await.unwrap(), [refused], "{what}");
        assert_eq!(store.status().damaged_records, 0, "{what}: a refused record is no damage");
        ledger.send(&store, refused).await.unwrap();
        ledger.ack(next);
        check_flushed(&store, &ledger, &what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_delays_acks_and_loses_none() {
    let disk = SimulatedDisk::new(1);
    let store = open(&disk).await.unwrap();
    let mut ledger = Ledger::default();
    let before = ledger.take(Kind::Spans, 3);
    ledger.send(&store, before).await.unwrap();
    ledger.ack(before);
    disk.hang();
    let late: Vec<u64> = (0..50).map(|_| ledger.take(Kind::Spans, 3)).collect();
    {
        let mut sends: Vec<_> = late.iter().map(|number| Box::pin(ledger.send(&store, *number))).collect();
        for send in &mut sends {
            assert!(send.as_mut().now_or_never().is_none(), "nothing is acked that is not durable");
        }
        disk.wait_until_it_hangs();
        ledger.check(&store, "while it hangs, what was acked is there").await.unwrap();
        let status = store.status();
        assert!(status.log_times.count < 50 && status.last_error.is_none());
        disk.go_on();
        for send in sends {
            send.await.unwrap();
        }
    }
    late.into_iter().for_each(|number| ledger.ack(number));
    assert_eq!(store.status().log_waits_ms, 0);
    ledger.check(&store, "it goes on").await.unwrap();
    drop(store);
    let store = open(&disk.crash(1)).await.unwrap();
    ledger.check(&store, "after a power cut").await.unwrap();
}

/// A sync fails and so does the cut behind it: the refused record may stay in the log. Sent again, and
/// acked behind records that are in files, it must not be taken for its refused self.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_refused_by_a_failing_disk_and_sent_again_is_there_once() {
    for seed in 0..12 {
        let disk = SimulatedDisk::new(seed);
        let store = open(&disk).await.unwrap();
        let mut ledger = Ledger::default();
        let [first, refused, other] = [(); 3].map(|()| ledger.take(Kind::Spans, 2));
        // the log's first segment is made
        ledger.send(&store, first).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        ledger.ack(first);
        let syncs = disk.counts().syncs;
        disk.plan(Fault::Sync(syncs + 1));
        disk.plan(Fault::Sync(syncs + 2));
        assert!(ledger.send(&store, refused).await.is_err(), "seed {seed}: it was not synced");
        for number in [other, refused] {
            ledger.send(&store, number).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            ledger.ack(number);
            if number == other {
                store.flush().await.unwrap();
            }
        }
        ledger.check(&store, &format!("seed {seed}")).await.unwrap();
        drop(store);
        let store = open(&disk.crash(seed)).await.unwrap();
        ledger.check(&store, &format!("seed {seed}, after a power cut")).await.unwrap();
    }
}

/// A process is killed between write and sync: its record is in the page cache. The next process must
/// not ack a retry of it before it is durable.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_not_acked_by_a_record_that_only_the_page_cache_has() {
    for seed in 0..12 {
        let disk = SimulatedDisk::new(seed);
        let store = open(&disk).await.unwrap();
        let mut ledger = Ledger::default();
        let number = ledger.take(Kind::Spans, 2);
        let written = disk.counts().steps.get(&Step::GroupWritten).copied().unwrap_or(0);
        disk.plan(Fault::StopAtStep(Step::GroupWritten, written + 1));
        assert!(ledger.send(&store, number).await.is_err(), "seed {seed}: the process is gone");
        drop(store);
        let disk = disk.kill();
        let store = open(&disk).await.unwrap();
        ledger.send(&store, number).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        ledger.ack(number);
        drop(store);
        let store = open(&disk.crash(seed)).await.unwrap();
        ledger.check(&store, &format!("seed {seed}, after a power cut")).await.unwrap();
    }
}

/// A process is killed at any change of a flush, say between the name of a commit and the sync of its
/// folder. The next process sees that commit, and must not delete what a power cut would need without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_anywhere_in_a_flush_and_then_a_power_cut_lose_nothing() {
    for at in 1.. {
        let disk = SimulatedDisk::new(at);
        let store = open(&disk).await.unwrap();
        let mut ledger = Ledger::default();
        send_spans(&store, &mut ledger).await;
        store.flush().await.unwrap();
        send_spans(&store, &mut ledger).await;
        disk.plan(Fault::StopAtChange(disk.counts().changes + at));
        let whole = store.flush().await.is_ok();
        drop(store);
        let disk = disk.kill();
        let store = open(&disk).await.unwrap_or_else(|e| panic!("change {at}: {e}"));
        ledger.check(&store, &format!("change {at}, killed")).await.unwrap();
        drop(store);
        let store = open(&disk.crash(at)).await.unwrap_or_else(|e| panic!("change {at}: {e}"));
        ledger.check(&store, &format!("change {at}, after a power cut")).await.unwrap();
        if whole {
            return assert!(at > 5, "a flush makes more than {at} changes");
        }
    }
}

/// An operation fails anywhere in a flush, at times after the commit is in the log: until the next flush,
/// and after a merge in between, every row is there once and the store's own tables agree.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_anywhere_in_a_flush_leaves_every_row_there_once() {
    for at in 1.. {
        let (disk, store, mut ledger) = due_to_merge(at).await;
        send_spans(&store, &mut ledger).await;
        let planned = disk.counts().operations + at;
        disk.plan(Fault::Operation(planned));
        let flushed = store.flush().await;
        let whole = disk.counts().operations < planned;
        disk.forget_plans();
        println!("operation {at}: {flushed:?}");
        ledger.check(&store, &format!("operation {at} failed")).await.unwrap();
        store.upkeep().await.unwrap();
        ledger.check(&store, &format!("operation {at} failed, merged")).await.unwrap();
        check_flushed(&store, &ledger, &format!("operation {at} failed, flushed")).await;
        if whole {
            return assert!(at > 20 && flushed.is_ok(), "a flush has more than {at} operations: {flushed:?}");
        }
    }
}

/// An operation fails anywhere in a merge, at times after its commit is in the log: the sources are not
/// merged a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_anywhere_in_a_merge_leaves_every_row_there_once() {
    for at in 1.. {
        let (disk, store, ledger) = due_to_merge(at).await;
        let planned = disk.counts().operations + at;
        disk.plan(Fault::Operation(planned));
        let kept_up = store.upkeep().await;
        let whole = disk.counts().operations < planned;
        disk.forget_plans();
        println!("operation {at}: {kept_up:?}");
        for round in 1..3 {
            ledger.check(&store, &format!("operation {at} failed, round {round}")).await.unwrap();
            store.upkeep().await.unwrap();
        }
        check_flushed(&store, &ledger, &format!("operation {at} failed, flushed")).await;
        if whole {
            return assert!(at > 20 && kept_up.is_ok(), "a merge has more than {at} operations: {kept_up:?}");
        }
    }
}

/// A store with as many files as a merge takes.
async fn due_to_merge(seed: u64) -> (SimulatedDisk, Store, Ledger) {
    let disk = SimulatedDisk::new(seed);
    let store = open(&disk).await.unwrap();
    let mut ledger = Ledger::default();
    for _ in 0..config().compact_files {
        send_spans(&store, &mut ledger).await;
        store.flush().await.unwrap();
    }
    (disk, store, ledger)
}

async fn check_flushed(store: &Store, ledger: &Ledger, what: &str) {
    store.flush().await.unwrap();
    ledger.check(store, what).await.unwrap();
    ledger.check_derived(store, what).await.unwrap();
}

/// Enough for several segments.
async fn send_spans(store: &Store, ledger: &mut Ledger) {
    for _ in 0..8 {
        let number = ledger.take(Kind::Spans, 4);
        ledger.send(store, number).await.unwrap();
        ledger.ack(number);
    }
}

impl Written {
    /// A store that lost a record goes on.
    async fn take_on(&self, store: &Store, what: &str) {
        let mut more = Ledger::default();
        let number = (0..1_000).map(|_| more.take(Kind::Spans, 1)).last().unwrap();
        let sent = more.send(store, number).await;
        assert!(sent.is_ok(), "{what}: {:?}", sent.err());
        store.flush().await.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
}
