//! [`Ending`]: how a request ends, counted once, whatever becomes of the task that answers it.

use std::sync::Arc;

use weir_schema::Signal;

use crate::{
    collector::{Accepted, NotAccepted},
    stats::{Stats, add},
};

/// Counts how a request ends. One that is dropped before that was abandoned: the deadline of the call passed, or its sender hung up.
pub(crate) struct Ending {
    stats: Arc<Stats>,
    signal: Signal,
    known: bool,
}

impl Ending {
    pub(crate) fn new(stats: Arc<Stats>, signal: Signal) -> Self {
        Self { stats, signal, known: false }
    }

    /// Counts this end.
    pub(crate) fn is(mut self, end: &Result<Accepted, NotAccepted>) {
        self.known = true;
        let stats = self.stats.of(self.signal);
        match end {
            Ok(_) => {}
            Err(NotAccepted::Malformed(_) | NotAccepted::TimedOut) => add(&stats.malformed, 1),
            Err(NotAccepted::TooLarge { .. }) => add(&stats.too_large, 1),
            Err(NotAccepted::Refused(_)) => add(&stats.refused, 1),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let stats = self.stats.of(self.signal);
        add(&stats.requests, 1);
        if !self.known {
            add(&stats.abandoned, 1);
        }
    }
}
