//! [`Turns`]: how many statements compute at once. Readers take theirs from one lot, the server's own
//! statements (pages, traces, a restore) from another, so that neither keeps the other waiting. Who
//! waits for a reader that is slow computes nothing and gives its turn back for that time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Statements that may wait for their readers without a turn: each holds a few batches and what its
/// operators hold.
pub(super) const ASIDE: usize = 64;

/// For whom a statement runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Somebody outside.
    Reader,
    /// The server, for a page or for its own start.
    Server,
}

/// The turns there are.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    readers: Arc<Semaphore>,
    server: Arc<Semaphore>,
    aside: Arc<Semaphore>,
}

/// A turn, given back when it is dropped.
pub(super) struct Turn {
    lot: Arc<Semaphore>,
    aside: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// So many for readers, and as many for the server.
    pub(super) fn new(concurrency: usize) -> Self {
        let lot = |turns| Arc::new(Semaphore::new(turns));
        Self { readers: lot(concurrency), server: lot(concurrency), aside: lot(ASIDE) }
    }

    /// Waits for a turn.
    pub(super) async fn take(&self, asker: Asker) -> Turn {
        let lot = match asker {
            Asker::Reader => self.readers.clone(),
            Asker::Server => self.server.clone(),
        };
        // the lots are never closed
        let held = lot.clone().acquire_owned().await.ok();
        Turn { lot, aside: self.aside.clone(), held }
    }
}

impl Turn {
    /// Waits without the turn, and for it once that is over; `None` when too many wait like this.
    pub(super) async fn aside<T>(&mut self, wait: impl Future<Output = T>) -> Option<T> {
        let _place = self.aside.clone().try_acquire_owned().ok()?;
        self.held = None;
        let waited = wait.await;
        self.held = self.lot.clone().acquire_owned().await.ok();
        Some(waited)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_turn_is_free_for_others_while_its_reader_is_waited_for() {
        let turns = Turns::new(1);
        let mut slow = turns.take(Asker::Reader).await;
        assert!(turns.take(Asker::Reader).now_or_never().is_none(), "there is one");
        assert!(turns.take(Asker::Server).now_or_never().is_some(), "the server has its own");
        let free = slow.aside(async { turns.take(Asker::Reader).now_or_never().is_some() }).await;
        assert_eq!(free, Some(true));
        assert!(turns.take(Asker::Reader).now_or_never().is_none(), "it is taken again");
    }

    #[tokio::test]
    async fn so_many_wait_and_the_next_does_not() {
        let turns = Turns::new(ASIDE + 1);
        let mut waiting = Vec::new();
        for _ in 0..ASIDE {
            let mut turn = turns.take(Asker::Reader).await;
            let mut wait = Box::pin(async move { turn.aside(std::future::pending::<()>()).await });
            assert!(wait.as_mut().now_or_never().is_none());
            waiting.push(wait);
        }
        assert!(turns.take(Asker::Reader).await.aside(std::future::ready(())).await.is_none());
        waiting.pop();
        assert!(turns.take(Asker::Reader).await.aside(std::future::ready(())).await.is_some());
    }
}
