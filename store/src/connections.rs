//! [`Connections`]: accepting within a bound, for the doors that people and their tools come to: a
//! listener and how many of its connections may be open at once. One more is closed at once, so that its peer knows, and counted.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tracing::{debug, warn};

/// How long accepting rests after the system had no descriptor left: the next try would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may come in.
#[derive(Debug)]
pub struct Connections {
    listener: TcpListener,
    free: Arc<Semaphore>,
    refused: AtomicU64,
}

impl Connections {
    /// At most `bound` at once.
    #[must_use]
    pub fn new(listener: TcpListener, bound: usize) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(bound)), refused: AtomicU64::new(0) }
    }

    /// The next connection that there is room for; the room is free again when the permit is dropped.
    pub async fn next(&self) -> (TcpStream, OwnedSemaphorePermit) {
        loop {
            let stream = self.accept().await;
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                // without it an answer in several pieces waits for the client's delayed ack
                let _ = stream.set_nodelay(true);
                return (stream, permit);
            }
            self.refused.fetch_add(1, Relaxed);
        }
    }

    /// How many were closed because too many were open.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    async fn accept(&self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a connection was lost before it was accepted");
                }
                Err(error) => {
                    warn!(%error, "connections cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn one_more_than_the_bound_is_closed_at_once_and_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new(listener, 1);
        let _first = TcpStream::connect(address).await.unwrap();
        let (_, permit) = connections.next().await;
        let over_the_bound = async {
            let mut second = TcpStream::connect(address).await.unwrap();
            assert_eq!(second.read(&mut [0]).await.unwrap_or(0), 0, "closed");
        };
        tokio::select! {
            _ = connections.next() => panic!("it came in"),
            () = over_the_bound => {}
        }
        assert_eq!(connections.refused(), 1);
        drop(permit);
        let _third = TcpStream::connect(address).await.unwrap();
        let _let_in = connections.next().await;
        assert_eq!(connections.refused(), 1, "there was room again");
    }
}
