//! [`Memory`]: how much memory the process has, and whether it may have more.
//!
//! What one connection, stream or body may hold is bounded where it is held; all of them together could still be more than the
//! machine gives, and then the kernel ends the process and everything under way. So ten times a second the resident set is
//! looked at, and while it is at its bound nothing new is let in: connections are closed at once, requests on open
//! ones get 503. What is under way goes on, for its end is what gives memory back.
//!
//! Between two looks the memory can grow by what comes in within [`LOOK`], at 1 Gbit/s 12 MiB: the tenth that the bound leaves
//! unless the file says otherwise is for that.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::workload::Current;

/// 100 ms between two looks, each some 20 µs.
const LOOK: Duration = Duration::from_millis(100);

/// Where the kernel keeps what groups of processes may have.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What is known since the last look.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    full: AtomicBool,
    resident_bytes: AtomicU64,
    bound_bytes: AtomicU64,
}

/// Looks until `stop`.
pub(crate) async fn watch(current: Current, stop: CancellationToken) {
    let unsaid = given_bytes().map(|given| given / 10 * 9);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let workload = current.load();
        let (Some(resident), Some(bound)) = (resident_bytes(), workload.max_memory_bytes.or(unsaid)) else {
            return warn!("this system does not say how much memory the process has: max_memory_mib bounds nothing");
        };
        if workload.memory.look(resident, bound) {
            match workload.memory.is_full() {
                true => warn!(resident, bound, "no more memory: nothing new is let in"),
                false => info!(resident, bound, "memory is free again"),
            }
        }
    }
}

impl Memory {
    /// Whether nothing new may be let in.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        self.resident_bytes.load(Relaxed)
    }

    /// 0 while none is known.
    pub(crate) fn bound_bytes(&self) -> u64 {
        self.bound_bytes.load(Relaxed)
    }

    /// Takes note of what there is; tells whether that changes what is let in.
    fn look(&self, resident: u64, bound: u64) -> bool {
        self.resident_bytes.store(resident, Relaxed);
        self.bound_bytes.store(bound, Relaxed);
        let full = is_full(self.is_full(), resident, bound);
        self.full.swap(full, Relaxed) != full
    }
}

/// Full at the bound, free again below 95 % of it, or single requests would be let in one by one.
fn is_full(was: bool, resident: u64, bound: u64) -> bool {
    if was { resident >= bound / 20 * 19 } else { resident >= bound }
}

fn resident_bytes() -> Option<u64> {
    kib(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// What the machine has, or the least of what the groups allow in which the process is.
fn given_bytes() -> Option<u64> {
    let machine = kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(group_bytes(Path::new(CGROUPS), &groups).map_or(machine, |group| group.min(machine)))
}

/// The least `memory.max` from the group that `/proc/self/cgroup` names up to `root`; a container sees its own as the root.
fn group_bytes(root: &Path, groups: &str) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let max = |group: &Path| fs::read_to_string(root.join(group).join("memory.max")).ok()?.trim().parse().ok();
    Path::new(own).ancestors().filter_map(max).min()
}

/// The value of `name` in the kernel's tables, which count in KiB.
fn kib(table: &str, name: &str) -> Option<u64> {
    let value = table.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_at_the_bound_and_until_some_is_free() {
        let memory = Memory::default();
        for (resident, full, changed) in
            [(99, false, false), (100, true, true), (96, true, false), (95, true, false), (94, false, true)]
        {
            assert_eq!((memory.look(resident, 100), memory.is_full()), (changed, full), "{resident}");
        }
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let status = "Name:\tweir\nVmHWM:\t  20480 kB\nVmRSS:\t   17040 kB\n";
        assert_eq!(kib(status, "VmRSS:"), Some(17_040 * 1024));
        assert_eq!((kib(status, "VmSwap:"), kib("VmRSS:\tmuch kB\n", "VmRSS:")), (None, None));
        assert!(resident_bytes().unwrap() > 1 << 20 && given_bytes().unwrap() > resident_bytes().unwrap());
    }

    #[test]
    fn the_least_of_all_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("pods/one");
        fs::create_dir_all(pod.join("proxy")).unwrap();
        let group = "0::/pods/one/proxy\n";
        assert_eq!(group_bytes(root.path(), group), None, "nothing is said");
        fs::write(pod.join("proxy/memory.max"), "max\n").unwrap();
        fs::write(pod.join("memory.max"), "67108864\n").unwrap();
        fs::write(root.path().join("memory.max"), "134217728\n").unwrap();
        assert_eq!(group_bytes(root.path(), group), Some(64 << 20));
        assert_eq!(group_bytes(root.path(), "0::/\n"), Some(128 << 20), "as a container sees itself");
        assert_eq!(group_bytes(root.path(), "4:memory:/old\n"), None);
    }
}
