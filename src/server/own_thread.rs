//! [`OwnThread`]: a task on a thread of its own. One that computes for a tenth of a second must not
//! share threads with those that answer requests: what waits behind it waits for all of it.

use std::{io, sync::mpsc};

use anyhow::Context;
use tokio::sync::oneshot;

/// A task that was started.
pub(super) struct OwnThread {
    name: &'static str,
    /// Closed without an answer when the task panicked.
    ended: oneshot::Receiver<()>,
}

impl OwnThread {
    /// Starts the task on a thread of this name.
    pub(super) fn start(name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        let (end, ended) = oneshot::channel();
        let (built, ready) = mpsc::sync_channel(1);
        let run = move || {
            // built here: it must not be dropped where another one runs
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(built.send(Err(error))),
            };
            drop(built.send(Ok(())));
            runtime.block_on(task);
            let _ = end.send(()); // nobody may wait for it
        };
        std::thread::Builder::new().name(name.into()).spawn(run)?;
        ready.recv().map_err(io::Error::other)??;
        Ok(Self { name, ended })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It panicked.
    pub(super) async fn ended(self) -> Result<(), anyhow::Error> {
        self.ended.await.with_context(|| format!("{} panicked", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_ends_elsewhere_and_a_panic_is_told() {
        let here = std::thread::current().id();
        let task = OwnThread::start("elsewhere", async move { assert_ne!(std::thread::current().id(), here) });
        task.unwrap().ended().await.unwrap();
        let task = OwnThread::start("failing", async { panic!("as asked") });
        assert_eq!(task.unwrap().ended().await.unwrap_err().to_string(), "failing panicked");
    }
}
