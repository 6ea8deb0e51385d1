//! [`begins`]: a look at what a connection says first. Who serves HTTP/1.1 and HTTP/2 on one port has no
//! timeout of either as long as nobody knows which it is.

use std::time::Duration;

use tokio::net::TcpStream;

/// The first bytes of HTTP/2 with prior knowledge.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often a connection is looked at that has said a part of them.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Whether a new connection says in time which HTTP it speaks. Nothing of what it says is taken away.
pub async fn begins(stream: &TcpStream, within: Duration) -> bool {
    let says = async {
        let mut start = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut start).await {
                Ok(0) | Err(_) => return false,
                // what is there stays there, so nobody wakes us when more comes
                Ok(length) if length < PREFACE.len() && PREFACE.starts_with(&start[..length]) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Ok(_) => return true,
            }
        }
    };
    tokio::time::timeout(within, says).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    /// Of "PRI" nobody knows yet which HTTP it is, so no timeout of either runs: such a connection was kept for good.
    #[tokio::test]
    async fn a_connection_that_does_not_begin_is_not_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (said, begun) in [("", false), ("PRI", false), ("P", false), ("GET", true), ("POST", true), ("\n", true)] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(said.as_bytes()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            if !said.is_empty() {
                server.readable().await.unwrap();
            }
            tokio::time::pause();
            assert_eq!(begins(&server, WITHIN).await, begun, "{said:?}");
            tokio::time::resume();
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&PREFACE[..]).await.unwrap();
        assert!(begins(&listener.accept().await.unwrap().0, WITHIN).await);
    }
}
