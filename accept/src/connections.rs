//! [`Connections`]: those that come to one door, within its bound. One more is closed at once, so that its
//! peer knows, and counted.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
};
use tracing::{debug, warn};

use crate::Bound;

/// How long accepting rests after the system had no descriptor left: the next try would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A door.
#[derive(Debug)]
pub struct Connections {
    listener: TcpListener,
    bound: Arc<Bound>,
}

impl Connections {
    /// Those that come to a listener.
    #[must_use]
    pub fn new(listener: TcpListener, bound: Arc<Bound>) -> Self {
        Self { listener, bound }
    }

    /// The next connection that there is room for; the room is free again when the permit is dropped.
    pub async fn next(&self) -> (TcpStream, OwnedSemaphorePermit) {
        loop {
            let stream = self.accept().await;
            if let Some(permit) = self.bound.admit() {
                // without it an answer in several pieces waits for the client's delayed ack
                let _ = stream.set_nodelay(true);
                return (stream, permit);
            }
        }
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
        let bound = Arc::new(Bound::new(1));
        let connections = Connections::new(listener, bound.clone());
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
        assert_eq!(bound.refused(), 1);
        drop(permit);
        let _third = TcpStream::connect(address).await.unwrap();
        let _let_in = connections.next().await;
        assert_eq!(bound.refused(), 1, "there was room again");
    }
}
