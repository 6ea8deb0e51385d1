//! [`cancellable`]: rows that a cancel request of the client ends, also while they are sent.
//!
//! The wire crate listens for a cancel until a statement's answer begins, so what is computed with the
//! rows would go on. From the first look at the rows this listens in its place.

use std::sync::Arc;

use datafusion_postgres::pgwire::{
    api::{ClientInfo, ConnectionHandle},
    error::{PgWireError, PgWireResult},
};
use futures::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, Either, select},
    stream::{self, BoxStream},
};

/// A client's connection, to be told of a cancel by.
pub(super) fn connection<C: ClientInfo>(client: &C) -> Option<Arc<ConnectionHandle>> {
    client.session_extensions().get::<Arc<ConnectionHandle>>().map(|handle| Arc::clone(&*handle))
}

/// The same rows, until the client cancels.
pub(super) fn cancellable<T: Send + 'static>(
    rows: impl Stream<Item = PgWireResult<T>> + Send + 'static,
    connection: Option<Arc<ConnectionHandle>>,
) -> BoxStream<'static, PgWireResult<T>> {
    let listened = async move {
        let cancelled = cancelled(connection).await;
        stream::unfold(Some((rows.boxed(), cancelled)), next)
    };
    listened.flatten_stream().boxed()
}

type Rows<T> = Option<(BoxStream<'static, PgWireResult<T>>, BoxFuture<'static, ()>)>;

async fn next<T>(state: Rows<T>) -> Option<(PgWireResult<T>, Rows<T>)> {
    let (mut rows, cancelled) = state?;
    match select(rows.next(), cancelled).await {
        Either::Left((row, cancelled)) => row.map(|row| (row, Some((rows, cancelled)))),
        Either::Right(_) => Some((Err(PgWireError::QueryCanceled), None)),
    }
}

/// Comes when the client cancels; not when its next statement takes the place of this one.
async fn cancelled(connection: Option<Arc<ConnectionHandle>>) -> BoxFuture<'static, ()> {
    let Some(connection) = connection else { return std::future::pending().boxed() };
    let told = connection.start_query().await;
    let cancelled = async move {
        if told.await.is_err() {
            std::future::pending().await
        }
    };
    cancelled.boxed()
}
