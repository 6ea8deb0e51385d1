//! [`Admission`]: bytes of requests between arrival and ack, bounded. It is counted when a body is
//! there, not polled, so a burst cannot pass it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The bound.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    held: Arc<AtomicUsize>,
    limit: usize,
}

/// Admitted bytes; given back when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Admission {
    pub(crate) fn new(limit: usize) -> Self {
        Self { held: Arc::default(), limit }
    }

    /// `None` when there is no room.
    pub(crate) fn admit(&self, bytes: usize) -> Option<Admitted> {
        let room = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.limit);
        let admitted = self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_ok();
        admitted.then(|| Admitted { held: self.held.clone(), bytes })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_given_back() {
        let admission = Admission::new(10);
        let first = admission.admit(6).unwrap();
        assert!(admission.admit(5).is_none());
        let second = admission.admit(4).unwrap();
        drop(first);
        assert!(admission.admit(7).is_none());
        drop(second);
        assert!(admission.admit(10).is_some());
        assert!(admission.admit(usize::MAX).is_none());
    }
}
