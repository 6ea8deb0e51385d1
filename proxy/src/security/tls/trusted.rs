//! [`Trusted`]: a connection that breaks when who is at its other end may be believed no more.
//!
//! For those whom the proxy talks to for as long as they last: the control plane, the collector, a registry. Whoever uses it
//! sees a broken connection, makes another one, and with it a handshake by the roots of now. Requests under way break too; all
//! three are asked again. (A connection to an upstream carries its requests to the end instead, and no further one.)

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The connection.
#[derive(Debug)]
pub(crate) struct Trusted<S> {
    stream: S,
    /// Wakes who waits for bytes.
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    era: CancellationToken,
}

impl<S> Trusted<S> {
    /// Breaks when `era` is over.
    pub(super) fn new(stream: S, era: CancellationToken) -> Self {
        Self { stream, over: Box::pin(era.clone().cancelled_owned()), era }
    }

    /// The connection, if it may be written to.
    fn writable(&mut self) -> io::Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        if self.era.is_cancelled() { Err(gone()) } else { Ok(Pin::new(&mut self.stream)) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Trusted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(gone()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Trusted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writable()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writable()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writable()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn gone() -> io::Error {
    io::Error::other("a root that it may have been believed by is gone")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn it_breaks_for_who_waits_for_bytes_and_for_who_has_some() {
        let (near, mut far) = tokio::io::duplex(64);
        let era = CancellationToken::new();
        let mut trusted = Trusted::new(near, era.clone());
        trusted.write_all(b"ask").await.unwrap();
        let mut asked = [0; 3];
        far.read_exact(&mut asked).await.unwrap();
        let waiting = tokio::spawn(async move {
            let read = trusted.read_u8().await;
            (trusted, read)
        });
        tokio::task::yield_now().await;
        era.cancel();
        let (mut trusted, read) = waiting.await.unwrap();
        assert_eq!(read.unwrap_err().to_string(), gone().to_string());
        assert!(trusted.write_all(b"more").await.is_err());
    }
}
