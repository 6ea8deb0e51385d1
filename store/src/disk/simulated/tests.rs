//! What the simulated disk keeps, may lose and must not do, over many seeds.

use std::collections::BTreeSet;

use super::{machine::EIO, *};
use crate::disk::replace;

const SEEDS: Range<u64> = 0..200;

fn path(name: &str) -> PathBuf {
    Path::new("/").join(name)
}

/// A disk with one durable file, `old`.
fn disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new(7);
    disk.plant(&path("old"), b"before").unwrap();
    disk
}

/// Everything that power cuts can make of a file, over all seeds.
fn fates(disk: &SimulatedDisk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    SEEDS.map(|seed| disk.crash(seed).read(&path(name)).ok().map(|bytes| bytes.to_vec())).collect()
}

fn some(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(bytes.to_vec())
}

#[test]
fn what_is_synced_survives_every_crash_as_it_was() {
    let disk = SimulatedDisk::new(1);
    let mut file = disk.create(&path("a")).unwrap();
    file.write_all(b"first").unwrap();
    file.write_all(b" second").unwrap();
    file.sync().unwrap();
    disk.sync_dir(&path("")).unwrap();
    assert_eq!(fates(&disk, "a"), BTreeSet::from([some(b"first second")]));
}

#[test]
fn a_write_survives_whole_torn_as_zeros_or_not_at_all() {
    let disk = disk();
    let mut file = disk.create(&path("a")).unwrap();
    file.sync().unwrap();
    disk.sync_dir(&path("")).unwrap();
    file.write_all(b"abc").unwrap();
    let fates = fates(&disk, "a");
    for fate in [&b"abc"[..], b"ab", b"a", b"\0\0\0", b""] {
        assert!(fates.contains(&some(fate)), "{fate:?} is not among {fates:?}");
    }
    assert_eq!(fates.len(), 5);
    assert_eq!(disk.read(&path("a")).unwrap_err().to_string(), "the machine is off");
}

#[test]
fn a_later_write_may_survive_where_an_earlier_one_did_not() {
    let disk = disk();
    let mut file = disk.create(&path("a")).unwrap();
    file.sync().unwrap();
    disk.sync_dir(&path("")).unwrap();
    file.write_all(b"ab").unwrap();
    file.write_all(b"cd").unwrap();
    let fates = fates(&disk, "a");
    for fate in [&b"\0\0cd"[..], b"ab", b"abcd", b"a\0cd"] {
        assert!(fates.contains(&some(fate)), "{fate:?} is not among {fates:?}");
    }
}

#[test]
fn the_sectors_of_a_large_write_survive_one_by_one() {
    let disk = disk();
    let mut file = disk.create(&path("a")).unwrap();
    file.sync().unwrap();
    disk.sync_dir(&path("")).unwrap();
    file.write_all(&[1; 4 * 512]).unwrap();
    let hole = |bytes: &Option<Vec<u8>>| {
        let bytes = bytes.as_deref().unwrap_or_default();
        bytes.len() == 2048 && bytes[..512] == [1; 512] && bytes[512..1024] == [0; 512] && bytes[1024..1536] == [1; 512]
    };
    assert!(fates(&disk, "a").iter().any(hole));
}

#[test]
fn a_truncate_is_durable_with_the_next_sync_only() {
    let disk = disk();
    let mut file = disk.create(&path("a")).unwrap();
    file.write_all(b"abcd").unwrap();
    file.sync().unwrap();
    disk.sync_dir(&path("")).unwrap();
    file.truncate(2).unwrap();
    assert_eq!(&disk.read(&path("a")).unwrap()[..], b"ab");
    assert_eq!(fates(&disk, "a"), BTreeSet::from([some(b"ab"), some(b"abcd")]));
}

#[test]
fn after_a_truncate_writes_go_on_at_the_new_end() {
    let disk = disk();
    let mut file = disk.create(&path("a")).unwrap();
    file.write_all(b"abcd").unwrap();
    file.truncate(2).unwrap();
    file.write_all(b"x").unwrap();
    file.sync().unwrap();
    disk.sync_dir(&path("")).unwrap();
    assert_eq!(fates(&disk, "a"), BTreeSet::from([some(b"abx")]));
}

#[test]
fn a_new_name_may_be_gone_although_its_content_was_synced() {
    let disk = disk();
    let mut file = disk.create(&path("a")).unwrap();
    file.write_all(b"abc").unwrap();
    file.sync().unwrap();
    assert_eq!(fates(&disk, "a"), BTreeSet::from([None, some(b"abc")]));
}

#[test]
fn a_name_that_was_taken_away_may_come_back() {
    let disk = disk();
    disk.remove(&path("old")).unwrap();
    assert_eq!(disk.read(&path("old")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fates(&disk, "old"), BTreeSet::from([None, some(b"before")]));
    let disk = self::disk();
    disk.remove(&path("old")).unwrap();
    disk.sync_dir(&path("")).unwrap();
    assert_eq!(fates(&disk, "old"), BTreeSet::from([None]));
}

#[test]
fn the_target_of_a_rename_is_old_or_new_and_the_file_is_never_in_neither_place() {
    let disk = disk();
    disk.plant(&path("new"), b"after").unwrap();
    disk.rename(&path("new"), &path("old")).unwrap();
    let read = |disk: &SimulatedDisk, name| disk.read(&path(name)).ok().map(|bytes| bytes.to_vec());
    let left: BTreeSet<_> = SEEDS.map(|seed| disk.crash(seed)).map(|d| (read(&d, "old"), read(&d, "new"))).collect();
    let expected = [(some(b"before"), some(b"after")), (some(b"after"), None), (some(b"after"), some(b"after"))];
    assert_eq!(left, BTreeSet::from(expected));
}

#[test]
fn a_move_between_folders_is_whole_whichever_folder_is_synced() {
    for synced in ["from", "to"] {
        let disk = disk();
        disk.create_dir_all(&path("from")).unwrap();
        disk.create_dir_all(&path("to")).unwrap();
        disk.sync_dir(&path("")).unwrap();
        disk.plant(&path("from/a"), b"a").unwrap();
        disk.rename(&path("from/a"), &path("to/a")).unwrap();
        disk.sync_dir(&path(synced)).unwrap();
        assert_eq!(fates(&disk, "to/a"), BTreeSet::from([some(b"a")]), "{synced}");
        let gone = synced == "from";
        assert_eq!(fates(&disk, "from/a").contains(&some(b"a")), !gone, "{synced}");
    }
}

#[test]
fn what_a_create_replaced_may_come_back() {
    let disk = disk();
    disk.create(&path("old")).unwrap();
    assert_eq!(fates(&disk, "old"), BTreeSet::from([some(b"before"), None, some(b"")]));
    let disk = self::disk();
    let mut file = disk.create(&path("old")).unwrap();
    file.write_all(b"x").unwrap();
    file.sync().unwrap();
    assert_eq!(fates(&disk, "old"), BTreeSet::from([some(b"before"), None, some(b"x")]));
}

#[test]
fn a_folder_that_is_lost_takes_its_files_along() {
    let disk = disk();
    disk.create_dir_all(&path("dir/inner")).unwrap();
    disk.plant(&path("dir/inner/a"), b"a").unwrap();
    disk.sync_dir(&path("dir")).unwrap();
    assert_eq!(fates(&disk, "dir/inner/a"), BTreeSet::from([None, some(b"a")]), "/ was not synced");
    let left = SEEDS.map(|seed| disk.crash(seed)).find(|disk| disk.list(&path("dir")).is_err()).unwrap();
    assert_eq!(left.files(), [(path("old"), 6)]);
    let disk = self::disk();
    disk.create_dir_all(&path("dir/inner")).unwrap();
    disk.plant(&path("dir/inner/a"), b"a").unwrap();
    disk.sync_dir(&path("dir")).unwrap();
    disk.sync_dir(&path("")).unwrap();
    assert_eq!(fates(&disk, "dir/inner/a"), BTreeSet::from([some(b"a")]));
}

#[test]
fn a_link_is_a_second_name_of_the_same_bytes() {
    let disk = disk();
    disk.link(&path("old"), &path("also")).unwrap();
    assert_eq!(disk.link(&path("old"), &path("also")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(disk.used_bytes(), 6);
    disk.flip_bit(&path("also"), 0).unwrap();
    assert_eq!(&disk.read(&path("old")).unwrap()[..], b"cefore");
    assert_eq!(fates(&disk, "also"), BTreeSet::from([None, some(b"cefore")]));
}

#[test]
fn an_open_file_outlives_its_name() {
    let disk = disk();
    let mut file = disk.create(&path("a")).unwrap();
    disk.remove(&path("a")).unwrap();
    file.write_all(b"x").unwrap();
    file.sync().unwrap();
    assert_eq!(disk.read(&path("a")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn what_a_failed_sync_did_not_write_is_lost_although_the_next_one_succeeds() {
    let survivors: BTreeSet<_> = SEEDS
        .map(|seed| {
            let disk = SimulatedDisk::new(seed);
            let mut file = disk.create(&path("a")).unwrap();
            disk.sync_dir(&path("")).unwrap();
            file.write_all(b"ab").unwrap();
            disk.plan(Fault::Sync(2));
            assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(EIO));
            file.write_all(b"cd").unwrap();
            file.sync().unwrap();
            assert_eq!(&disk.read(&path("a")).unwrap()[..], b"abcd", "the cache has it all the same");
            disk.crash(seed).read(&path("a")).unwrap().to_vec()
        })
        .collect();
    let expected = [&b"abcd"[..], b"a\0cd", b"\0\0cd"];
    assert_eq!(survivors, expected.map(<[u8]>::to_vec).into());
}

#[test]
fn the_operation_of_the_plan_fails_and_no_other() {
    let disk = disk();
    let next = disk.counts().operations + 1;
    disk.plan(Fault::Operation(next));
    disk.plan(Fault::Full(next + 2));
    assert_eq!(disk.remove(&path("old")).unwrap_err().raw_os_error(), Some(EIO));
    assert!(disk.entry(&path("old")).is_ok(), "nothing happened");
    assert_eq!(disk.create(&path("a")).unwrap_err().kind(), ErrorKind::StorageFull);
    assert!(disk.create(&path("a")).is_ok());
}

#[test]
fn a_write_that_fails_or_fills_the_disk_is_short() {
    let (mut short, mut none) = (0, 0);
    for seed in SEEDS {
        for fault in [Fault::Operation as fn(u64) -> Fault, Fault::Full] {
            let disk = SimulatedDisk::new(seed);
            let mut file = disk.create(&path("a")).unwrap();
            disk.plan(fault(2));
            assert!(file.write_all(b"abcd").is_err());
            let length = disk.read(&path("a")).unwrap().len();
            assert!(length < 4);
            short += usize::from(length > 0);
            none += usize::from(length == 0);
        }
    }
    assert!(short > 0 && none > 0);
}

#[test]
fn a_full_disk_takes_what_fits_and_the_rest_once_there_is_room() {
    let disk = disk();
    disk.set_capacity(10);
    assert_eq!(disk.free_bytes(&path("")).unwrap(), 4);
    let mut file = disk.create(&path("a")).unwrap();
    assert_eq!(file.write(b"abcdef").unwrap(), 4);
    assert_eq!(file.write(b"ef").unwrap_err().kind(), ErrorKind::StorageFull);
    disk.remove(&path("old")).unwrap();
    assert_eq!(disk.free_bytes(&path("")).unwrap(), 6);
    file.write_all(b"ef").unwrap();
    file.truncate(0).unwrap();
    file.write_all(b"0123456789").unwrap();
    assert!(file.write_all(b"x").is_err());
    disk.set_capacity(11);
    file.write_all(b"x").unwrap();
    assert_eq!(&disk.read(&path("a")).unwrap()[..], b"0123456789x");
}

#[test]
fn a_crash_at_any_change_leaves_a_replaced_file_old_or_new() {
    let run = |at: u64, seed: u64| {
        let disk = disk();
        disk.plan(Fault::StopAtChange(disk.counts().changes + at));
        let done = replace(&disk, &path("old"), b"after").is_ok();
        (done, disk.crash(seed).read(&path("old")).unwrap())
    };
    for at in 1..=6 {
        let ends: Vec<_> = SEEDS.map(|seed| run(at, seed)).collect();
        assert!(ends.iter().all(|(_, bytes)| *bytes == "before" || *bytes == "after"), "change {at}");
        assert!(ends.iter().all(|(done, bytes)| !done || *bytes == "after"), "change {at}");
        assert_eq!(ends.iter().any(|(done, _)| *done), at == 6, "five changes make a replacement");
    }
}

#[test]
fn the_machine_stops_at_a_step_and_stays_off() {
    let disk = disk();
    disk.plan(Fault::StopAtStep(Step::GroupSynced, 2));
    disk.reached(Step::GroupSynced).unwrap();
    disk.reached(Step::GroupWritten).unwrap();
    let mut file = disk.create(&path("a")).unwrap();
    assert!(disk.reached(Step::GroupSynced).is_err());
    let refused = [
        file.write_all(b"x").is_err(),
        file.sync().is_err(),
        file.truncate(0).is_err(),
        disk.create(&path("b")).is_err(),
        disk.read(&path("old")).is_err(),
        disk.list(&path("")).is_err(),
        disk.entry(&path("old")).is_err(),
        disk.rename(&path("old"), &path("b")).is_err(),
        disk.link(&path("old"), &path("b")).is_err(),
        disk.remove(&path("old")).is_err(),
        disk.sync_dir(&path("")).is_err(),
        disk.create_dir_all(&path("dir")).is_err(),
        disk.create_dir_all(&path("")).is_err(),
        disk.free_bytes(&path("")).is_err(),
        disk.reached(Step::GroupWritten).is_err(),
    ];
    assert!(disk.is_off() && refused.iter().all(|refused| *refused), "{refused:?}");
    assert!(disk.crash(0).read(&path("old")).is_ok(), "the next machine runs");
}

#[test]
fn a_killed_process_loses_nothing_until_the_power_goes() {
    let disk = disk();
    let mut file = disk.create(&path("a")).unwrap();
    file.write_all(b"abc").unwrap();
    let next = disk.kill();
    assert!(file.sync().is_err(), "the process is gone");
    assert_eq!(&next.read(&path("a")).unwrap()[..], b"abc");
    assert_ne!(fates(&next, "a"), BTreeSet::from([some(b"abc")]), "nobody synced it");
    let next = disk.kill();
    let mut other = next.create(&path("b")).unwrap();
    other.write_all(b"x").unwrap();
    assert_eq!(&next.read(&path("a")).unwrap()[..], b"abc", "a new file is another one");
}

#[test]
fn a_crash_is_decided_by_its_seed_alone() {
    let disk = disk();
    let mut file = disk.create(&path("a")).unwrap();
    (0..20).for_each(|n| file.write_all(&[n; 700]).unwrap());
    for seed in SEEDS {
        let read = |disk: &SimulatedDisk| disk.read(&path("a")).ok();
        assert_eq!(read(&disk.crash(seed)), read(&disk.crash(seed)), "seed {seed}");
    }
}

#[test]
fn operations_are_counted_by_kind() {
    let disk = SimulatedDisk::new(0);
    disk.plant(&path("a"), b"x").unwrap();
    disk.read(&path("a")).unwrap();
    disk.reached(Step::LogTrimmed).unwrap();
    let steps = [(Step::LogTrimmed, 1)].into();
    assert_eq!(disk.counts(), Counts { operations: 5, changes: 4, syncs: 2, steps });
    assert_eq!(disk.crash(0).counts(), Counts::default());
}

#[test]
fn paths_are_checked_as_a_system_would() {
    let disk = disk();
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(disk.create(&path("no/a")).map(drop)), ErrorKind::NotFound);
    assert_eq!(kind(disk.create(&path("old/a")).map(drop)), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.read(&path("")).map(drop)), ErrorKind::IsADirectory);
    assert_eq!(kind(disk.rename(&path("a"), &path("b"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.create_dir_all(&path("old/a"))), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.list(&path("no")).map(drop)), ErrorKind::NotFound);
    assert_eq!(disk.read_range(&path("old"), 2..90).unwrap(), "fore");
    disk.create_dir_all(&path("dir")).unwrap();
    let mut names: Vec<_> = disk.list(&path("")).unwrap().into_iter().map(|e| (e.name, e.is_dir, e.bytes)).collect();
    names.sort();
    assert_eq!(names, [("dir".into(), true, 0), ("old".into(), false, 6)]);
}
