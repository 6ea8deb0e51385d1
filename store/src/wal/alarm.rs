//! [`Alarm`]: says that a thread of the log panicked. Nobody joins it before the end, so nobody else would.

/// Rings when it is dropped by a panic.
pub(crate) struct Alarm(Option<Box<dyn FnOnce() + Send>>);

impl Alarm {
    /// Does this should its thread panic.
    pub(crate) fn new(ring: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(ring)))
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let (true, Some(ring)) = (std::thread::panicking(), self.0.take()) {
            ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    };

    use super::*;

    #[test]
    fn it_rings_for_a_panic_and_for_nothing_else() {
        for panics in [false, true] {
            let rang = Arc::new(AtomicBool::new(false));
            let rings = rang.clone();
            let thread = std::thread::spawn(move || {
                let _alarm = Alarm::new(move || rings.store(true, SeqCst));
                assert!(!panics, "as the test wants it");
            });
            assert_eq!((thread.join().is_err(), rang.load(SeqCst)), (panics, panics));
        }
    }
}
