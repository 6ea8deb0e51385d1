//! What the kernel says of memory: [`given_bytes`] to the process, by the machine or its control groups of either version, and
//! what it has of it, [`Resident`]. The server asks here too, so that these files are read in one way.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

/// Where the kernel keeps what groups of processes may have.
const GROUPS: &str = "/sys/fs/cgroup";

/// 4 KiB: a process's table has 1.5 KiB, and what is asked for stands in its first half.
const TABLE_BYTES: usize = 4 << 10;

/// What the machine has, or the least of what the groups allow in which the process is; none where neither is said.
pub fn given_bytes() -> Option<u64> {
    let machine = kib(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:");
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.into_iter().chain(group_bytes(Path::new(GROUPS), &groups)).min()
}

/// What the process has in memory, through a file that stays open: no more can be opened in just the floods that fill memory.
#[derive(Debug)]
pub(super) struct Resident(File);

impl Resident {
    pub(super) fn open() -> Option<Self> {
        File::open("/proc/self/status").ok().map(Self)
    }

    /// Now: the kernel writes the table anew for each reading from its beginning.
    pub(super) fn bytes(&self) -> Option<u64> {
        let mut table = [0; TABLE_BYTES];
        let read = self.0.read_at(&mut table, 0).ok()?;
        kib(&String::from_utf8_lossy(&table[..read]), "VmRSS:")
    }
}

/// The least limit from the groups that `/proc/self/cgroup` names up to `root`, of both versions; a container sees its own as the root.
/// Version 1 writes a number near 2⁶³ where there is none.
fn group_bytes(root: &Path, groups: &str) -> Option<u64> {
    groups.lines().filter_map(|line| group_limit(root, line)).min()
}

/// The limit by a line `0::/path`, or `number:controllers:/path` of version 1.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { return None };
    let (hierarchy, file) = match controllers {
        "" => (root.to_owned(), "memory.max"),
        some if some.split(',').any(|controller| controller == "memory") => {
            (root.join("memory"), "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let limit = |group: &Path| fs::read_to_string(hierarchy.join(group).join(file)).ok()?.trim().parse().ok();
    Path::new(path.trim_start_matches('/')).ancestors().filter_map(limit).min()
}

/// The value of `name` in the kernel's tables, which count in KiB.
fn kib(table: &str, name: &str) -> Option<u64> {
    let value = table.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let status = "Name:\tweir\nVmHWM:\t  20480 kB\nVmRSS:\t   17040 kB\n";
        assert_eq!(kib(status, "VmRSS:"), Some(17_040 << 10));
        assert_eq!((kib(status, "VmSwap:"), kib("VmRSS:\tmuch kB\n", "VmRSS:")), (None, None));
        assert_eq!(kib("MemTotal:       24682648 kB\nMemFree:  1 kB\n", "MemTotal:"), Some(24_682_648 << 10));
        assert!(given_bytes().unwrap() > Resident::open().unwrap().bytes().unwrap());
    }

    #[test]
    fn each_reading_of_the_open_file_is_of_its_moment() {
        let (resident, more) = (Resident::open().unwrap(), 64 << 20);
        let before = resident.bytes().unwrap();
        let filled = vec![1_u8; more];
        // other tests of this process give memory back meanwhile
        assert!(resident.bytes().unwrap() > before + more as u64 / 2, "{}", filled[more / 2]);
    }

    /// The sidecar once looked at version 2 only, and held itself to the whole machine in a container of version 1.
    #[test]
    fn the_least_of_all_groups_counts_in_both_versions() {
        let root = tempfile::tempdir().unwrap();
        let (pod, old) = (root.path().join("pods/one"), root.path().join("memory/docker/abc"));
        fs::create_dir_all(pod.join("weir")).unwrap();
        fs::create_dir_all(&old).unwrap();
        let (new_group, old_group) = ("0::/pods/one/weir\n", "7:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n");
        let found = |groups| group_bytes(root.path(), groups);
        assert_eq!((found(new_group), found(old_group), found("noise")), (None, None, None), "nothing is said");
        fs::write(pod.join("weir/memory.max"), "max\n").unwrap();
        fs::write(pod.join("memory.max"), "67108864\n").unwrap();
        fs::write(old.join("memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        assert_eq!(found(new_group), Some(64 << 20));
        assert_eq!(found(old_group), Some(9_223_372_036_854_771_712));
        fs::write(root.path().join("memory/memory.limit_in_bytes"), "1073741824\n").unwrap();
        assert_eq!(found(old_group), Some(1 << 30), "as a container sees itself");
        fs::write(root.path().join("memory.max"), "134217728\n").unwrap();
        assert_eq!((found(new_group), found("0::/\n")), (Some(64 << 20), Some(128 << 20)), "the least, its own root's");
    }
}
