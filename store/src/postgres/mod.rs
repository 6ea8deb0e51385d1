//! The PostgreSQL wire protocol: the same engine, guard and limits as every other way in, for psql,
//! drivers and dashboards. Read-only; of what a client sets about its session, the time its
//! statements may take is heeded.
//!
//! Ids are text in hex and maps are JSON, as everywhere else. Cancel requests and lost connections
//! drop the answer, which stops the statement.

mod cancel;
mod cursors;
mod flat;
mod handler;
mod names;
mod params;
mod sent;
mod session;
mod settings;

use std::{io, sync::Arc, time::Duration};

use datafusion_postgres::pgwire::tokio::process_socket;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use weir_accept::{Bound, Connections};

use crate::Store;
pub(crate) use flat::schema as schema_as_sent;
use handler::Handlers;
pub(crate) use settings::setting;

/// Connections at once; the next one is closed. Dashboards hold some tens.
const MAX_CONNECTIONS: usize = 100;

/// How long statements in the air may take once the server stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves until `shutdown`.
///
/// # Errors
/// None at present: a connection that fails ends alone.
pub async fn serve(store: Store, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    let handlers = Arc::new(Handlers::new(store));
    let connections = Connections::new(listener, Arc::new(Bound::new(MAX_CONNECTIONS)));
    let mut open = JoinSet::new();
    loop {
        let (stream, permit) = tokio::select! {
            accepted = connections.next() => accepted,
            Some(_) = open.join_next() => continue,
            () = shutdown.cancelled() => break,
        };
        let handlers = handlers.clone();
        open.spawn(async move {
            if let Err(error) = process_socket(stream, None, handlers).await {
                debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
    drop(connections);
    let drained = async { while open.join_next().await.is_some() {} };
    // what is still open after that is cut
    let _ = tokio::time::timeout(DRAIN, drained).await;
    open.shutdown().await;
    Ok(())
}
