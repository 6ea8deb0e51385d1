//! [`splice`]: bytes of two connections passed to each other until both have ended.
//!
//! One buffer a direction, so a reader that is slow slows its writer down and nothing is gathered; the
//! end of one direction is passed on while the other lasts; a tunnel in which nothing moves is closed.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// 16 KiB a direction: a read of a busy socket, and 32 KiB for a tunnel in all.
const BUFFER_BYTES: usize = 16 * 1024;

/// What went through a tunnel, and how it ended.
#[derive(Debug)]
pub(crate) struct Spliced {
    pub(crate) to_client_bytes: u64,
    pub(crate) ended: Ended,
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both sides had said all.
    Well,
    /// A side broke off.
    Broken,
    /// Nothing moved for too long.
    Idle,
}

/// Passes bytes both ways; a tunnel without a byte for `idle` (up to twice that) is given up.
pub(crate) async fn splice<C, U>(client: C, upstream: U, idle: Duration) -> Spliced
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (from_client, from_upstream) = (Cell::new(0), Cell::new(0));
    let mut client = Counted { inner: client, read: &from_client };
    let mut upstream = Counted { inner: upstream, read: &from_upstream };
    let copy = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER_BYTES, BUFFER_BYTES);
    let mut copy = std::pin::pin!(copy);
    let mut before = 0;
    let ended = loop {
        match tokio::time::timeout(idle, copy.as_mut()).await {
            Ok(Ok(_)) => break Ended::Well,
            Ok(Err(_broken)) => break Ended::Broken,
            Err(_elapsed) => {
                let passed = from_client.get() + from_upstream.get();
                if passed == before {
                    break Ended::Idle;
                }
                before = passed;
            }
        }
    };
    Spliced { to_client_bytes: from_upstream.get(), ended }
}

/// A stream whose bytes read are counted.
struct Counted<'a, S> {
    inner: S,
    read: &'a Cell<u64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.read.set(self.read.get() + (buf.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_side_may_end_before_the_other() {
        let (mut client, near) = tokio::io::duplex(64);
        let (far, mut server) = tokio::io::duplex(64);
        let spliced = tokio::join!(splice(near, far, Duration::from_secs(1)), async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = Vec::new();
            server.read_to_end(&mut asked).await.unwrap();
            assert_eq!(asked, b"question");
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answered = Vec::new();
            client.read_to_end(&mut answered).await.unwrap();
            assert_eq!(answered, b"answer");
        });
        assert_eq!((spliced.0.ended, spliced.0.to_client_bytes), (Ended::Well, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_in_which_nothing_moves_is_closed() {
        let ((_client, near), (far, _server)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        let spliced = splice(near, far, Duration::from_secs(300)).await;
        assert_eq!(spliced.ended, Ended::Idle);
    }
}
