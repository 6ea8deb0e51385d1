//! [`Memory`]: how much memory the process has, and whether it may have more.
//!
//! What one connection, stream or body may hold is bounded where it is held; all of them together could still be more than the
//! machine gives, and then the kernel ends the process and everything under way. So ten times a second the resident set is
//! looked at, and while it is at its bound nothing new is let in: connections are closed at once, requests on open
//! ones get 503. What is under way goes on, for its end is what gives memory back.
//!
//! Between two looks the memory can grow by what comes in within [`LOOK`], at 1 Gbit/s 12 MiB: the tenth that the bound leaves
//! unless the file says otherwise is for that.

mod kernel;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::workload::Current;
use kernel::Resident;
pub use kernel::given_bytes;

/// 100 ms between two looks, each some 20 µs.
const LOOK: Duration = Duration::from_millis(100);

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
    let Some(process) = Resident::open() else {
        return warn!("this system does not say how much memory the process has: max_memory_mib bounds nothing");
    };
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let workload = current.load();
        // what a look does not tell stays as the last one saw it
        let (Some(resident), Some(bound)) = (process.bytes(), workload.max_memory_bytes.or(unsaid)) else { continue };
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
}
