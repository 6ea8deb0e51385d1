//! [`Bound`]: how many connections may be open at once, and how many were closed for it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for connections, of one door or of several.
#[derive(Debug)]
pub struct Bound {
    free: Arc<Semaphore>,
    refused: AtomicU64,
}

impl Bound {
    /// At most so many at once.
    #[must_use]
    pub fn new(connections: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(connections)), refused: AtomicU64::new(0) }
    }

    /// How many connections were closed because too many were open.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Room for one more, free again when the permit is dropped; counts where there is none.
    pub(crate) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok();
        if permit.is_none() {
            self.refused.fetch_add(1, Relaxed);
        }
        permit
    }
}
