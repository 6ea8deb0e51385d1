//! [`SqlAnswer`]: what a reader gets of a statement: its columns at once, its rows as they come, and
//! an error in their place wherever it fails.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use futures::Stream;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::DropGuard;

use crate::error::SqlError;

/// An answer: its columns, and its rows as they come. Dropping it stops the statement.
pub struct SqlAnswer {
    /// The columns.
    pub schema: SchemaRef,
    /// What the answer leaves out: files that are damaged, a log that is still being replayed.
    pub warnings: Vec<String>,
    /// Whether files that are missing are among that: they may come back.
    pub lacks_files: bool,
    /// The rows.
    pub stream: Rows,
}

/// The rows of an answer.
pub struct Rows {
    pub(super) batches: mpsc::Receiver<Result<RecordBatch, SqlError>>,
    /// The statement. It closes the queue however it ends, so how it ended is asked of itself; `None`
    /// once that is known.
    pub(super) task: Option<Task>,
    /// Tells the planner that nobody waits.
    pub(super) _gone: DropGuard,
}

/// A statement at work. What went wrong in its course stands in the queue of rows, too.
pub(super) type Task = JoinHandle<Result<(), SqlError>>;

impl Stream for Rows {
    type Item = Result<RecordBatch, SqlError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(batch) = ready!(self.batches.poll_recv(context)) {
            return Poll::Ready(Some(batch));
        }
        let Some(task) = &mut self.task else { return Poll::Ready(None) };
        let ended = ready!(Pin::new(task).poll(context));
        self.task = None;
        Poll::Ready(ended.err().map(|error| Err(broken(&error))))
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Why a statement ended that neither finished nor failed.
pub(super) fn broken(error: &JoinError) -> SqlError {
    let why = if error.is_panic() { "the statement failed inside the engine" } else { "the store is closed" };
    SqlError::Execution(why.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use futures::StreamExt;
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn rows(work: impl FnOnce(mpsc::Sender<Result<RecordBatch, SqlError>>) -> Task) -> Rows {
        let (out, batches) = mpsc::channel(4);
        Rows { batches, task: Some(work(out)), _gone: CancellationToken::new().drop_guard() }
    }

    fn one() -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap()
    }

    /// How an answer ends: how many batches, and the error, if there is one.
    async fn end(mut rows: Rows) -> (usize, Option<String>) {
        let mut batches = 0;
        loop {
            match rows.next().await {
                Some(Ok(_)) => batches += 1,
                Some(Err(error)) => return (batches, Some(error.to_string())),
                None => return (batches, None),
            }
        }
    }

    #[tokio::test]
    async fn a_panic_after_the_first_rows_is_an_error_and_not_the_end() {
        let panics = |out: mpsc::Sender<_>| {
            tokio::spawn(async move {
                out.send(Ok(one())).await.unwrap();
                panic!("inside the engine");
            })
        };
        assert_eq!(end(rows(panics)).await, (1, Some("the statement failed inside the engine".into())));
        let cut = |out: mpsc::Sender<_>| {
            let task = tokio::spawn(async move {
                out.send(Ok(one())).await.unwrap();
                std::future::pending().await
            });
            task.abort();
            task
        };
        assert_eq!(end(rows(cut)).await.1, Some("the store is closed".into()));
        let whole = |out: mpsc::Sender<_>| {
            tokio::spawn(async move {
                out.send(Ok(one())).await.unwrap();
                Ok(())
            })
        };
        assert_eq!(end(rows(whole)).await, (1, None));
    }
}
