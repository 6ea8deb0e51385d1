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
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::Store;
pub(crate) use flat::schema as schema_as_sent;
use handler::Handlers;
pub(crate) use settings::setting;

/// Connections at once; the next one is closed. Dashboards hold some tens.
const CONNECTIONS: usize = 100;

/// How long it waits after a connection that was not accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long statements in the air may take once the server stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves until `shutdown`.
///
/// # Errors
/// None at present: a connection that fails ends alone.
pub async fn serve(store: Store, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    let handlers = Arc::new(Handlers::new(store));
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "a connection was not accepted");
                    // out of descriptors, the next try fails as well
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            () = shutdown.cancelled() => break,
        };
        let Ok(place) = free.clone().try_acquire_owned() else {
            debug!("a connection was closed: too many are open");
            continue;
        };
        let handlers = handlers.clone();
        connections.spawn(async move {
            if let Err(error) = process_socket(stream, None, handlers).await {
                debug!(%error, "connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // what is still open after that is cut
    let _ = tokio::time::timeout(DRAIN, drained).await;
    connections.shutdown().await;
    Ok(())
}
