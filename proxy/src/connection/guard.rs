//! [`Guard`]: a client's socket as hyper reads it: only bytes that were looked at, and never a writer
//! that waits for ever.
//!
//! What is refused is not answered here, because earlier answers may still be on their way. Instead
//! hyper is given bytes it cannot but refuse: it answers 400 (HTTP/2: GOAWAY) in its turn and closes.
//! In the middle of a body, where there is no answer to give, the read fails.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::{
    connection::{
        Verdict, Violation,
        frames::FrameScan,
        http1::{Http1Scan, Scanned},
    },
    counters::Tally,
};

/// A control byte is in no part of a head; the empty line makes hyper look.
const HTTP1_POISON: &[u8] = b"\0\r\n\r\n";

/// 16 KiB that a client may send behind an upgrade before its answer; what more it has to say waits in its socket.
const AHEAD_MAX: usize = 16 * 1024;

/// How much is read of it at once.
const AHEAD_READ: usize = 4 * 1024;

/// DATA on stream 0 is a connection error.
const HTTP2_POISON: &[u8] = b"\0\0\0\0\0\0\0\0\0";

/// A socket and what is known of the bytes on it.
pub(crate) struct Guard<S> {
    inner: S,
    scan: Scan,
    /// Bytes that were read too early: by detection, or behind an upgrade.
    ahead: Vec<u8>,
    /// What hyper is still to be given in place of what was refused.
    poison: Option<&'static [u8]>,
    broken: bool,
    verdict: Arc<Verdict>,
    tally: Arc<Tally>,
    patience: Patience,
    stalled: Option<Pin<Box<Sleep>>>,
}

/// How long a peer may take to read what is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience(pub(crate) Duration);

enum Scan {
    Http1(Http1Scan),
    Http2(FrameScan),
    /// A tunnel: the bytes mean nothing here.
    Open,
}

impl<S> Guard<S> {
    /// For HTTP/1; a line may have `line_max` bytes. `ahead` was read by detection.
    pub(crate) fn http1(inner: S, ahead: Vec<u8>, line_max: usize, tally: Arc<Tally>, patience: Patience) -> Self {
        Self::new(inner, ahead, Scan::Http1(Http1Scan::new(line_max)), tally, patience)
    }

    /// For HTTP/2, with so many control frames a second.
    pub(crate) fn http2(inner: S, ahead: Vec<u8>, rate_per_s: u32, tally: Arc<Tally>, patience: Patience) -> Self {
        Self::new(inner, ahead, Scan::Http2(FrameScan::new(rate_per_s)), tally, patience)
    }

    /// For bytes that nobody reads.
    pub(crate) fn open(inner: S, ahead: Vec<u8>, tally: Arc<Tally>, patience: Patience) -> Self {
        Self::new(inner, ahead, Scan::Open, tally, patience)
    }

    fn new(inner: S, ahead: Vec<u8>, scan: Scan, tally: Arc<Tally>, patience: Patience) -> Self {
        let (poison, broken, verdict, stalled) = (None, false, Arc::default(), None);
        Self { inner, scan, ahead, poison, broken, verdict, tally, patience, stalled }
    }

    /// Where the answer to an upgrade is said.
    pub(crate) fn verdict(&self) -> Arc<Verdict> {
        self.verdict.clone()
    }

    /// Looks at what was read from `start` on, and takes out what may not pass.
    fn look(&mut self, buf: &mut ReadBuf<'_>, start: usize) {
        let fresh = &buf.filled()[start..];
        match &mut self.scan {
            Scan::Open => {}
            Scan::Http2(frames) => {
                if let Some(pass) = frames.scan(fresh) {
                    buf.set_filled(start + pass);
                    self.refuse(Violation::FrameFlood, HTTP2_POISON);
                }
            }
            Scan::Http1(requests) => match requests.scan(fresh) {
                Scanned::Pass => {}
                Scanned::Hold(pass) => {
                    // `ahead` may hold more already: what was cut off here comes before it
                    let rest = fresh[pass..].to_vec();
                    self.ahead.splice(..0, rest);
                    buf.set_filled(start + pass);
                }
                Scanned::Refuse { pass, violation, in_body } => {
                    buf.set_filled(start + pass);
                    self.refuse(violation, HTTP1_POISON);
                    self.broken = in_body;
                }
            },
        }
        if let Scan::Http1(requests) = &self.scan
            && requests.is_held()
        {
            self.verdict.hold(requests.number());
        }
    }

    fn refuse(&mut self, violation: Violation, poison: &'static [u8]) {
        self.tally.refuse(violation);
        self.ahead = Vec::new();
        self.poison = Some(poison);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if me.broken {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the body is not framed as announced")));
        }
        if let Some(poison) = &mut me.poison {
            let (now, later) = poison.split_at(poison.len().min(buf.remaining()));
            buf.put_slice(now);
            *poison = later;
            return Poll::Ready(Ok(()));
        }
        if let Scan::Http1(requests) = &mut me.scan
            && requests.is_held()
        {
            let Poll::Ready(tunnel) = me.verdict.poll(cx) else { return me.poll_gone(cx) };
            if tunnel {
                me.scan = Scan::Open;
            } else {
                requests.resume();
            }
        }
        let start = buf.filled().len();
        if me.ahead.is_empty() {
            std::task::ready!(Pin::new(&mut me.inner).poll_read(cx, buf))?;
            if buf.filled().len() == start {
                return Poll::Ready(Ok(())); // the client has ended
            }
        } else {
            let now = me.ahead.len().min(buf.remaining());
            buf.put_slice(&me.ahead[..now]);
            me.ahead.drain(..now);
            if me.ahead.is_empty() {
                // for as long as the connection lasts nothing is read ahead again, most likely
                me.ahead = Vec::new();
            }
        }
        me.look(buf, start);
        if buf.filled().len() > start {
            return Poll::Ready(Ok(()));
        }
        // nothing may pass yet, and "nothing" would mean the end: look again at what comes instead
        Pin::new(me).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + Unpin> Guard<S> {
    /// While the verdict is awaited: whether the client has left, which only reading tells. What it says is kept.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.len() < AHEAD_MAX {
            let mut bytes = [0; AHEAD_READ];
            let mut read = ReadBuf::new(&mut bytes);
            std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, &mut read))?;
            match read.filled() {
                // as for a request without an upgrade, the end of what it says is taken for its leaving
                [] if self.ahead.is_empty() => return Poll::Ready(Ok(())),
                [] => break,
                said => self.ahead.extend_from_slice(said),
            }
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let written = Pin::new(&mut me.inner).poll_write(cx, buf);
        me.patient(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let written = Pin::new(&mut me.inner).poll_write_vectored(cx, bufs);
        me.patient(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let flushed = Pin::new(&mut me.inner).poll_flush(cx);
        me.patient(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S> Guard<S> {
    /// Fails a write that has waited for longer than the peer is given. In a tunnel either end may pause, for as long as that is let
    /// be idle.
    fn patient<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() || matches!(self.scan, Scan::Open) {
            self.stalled = None;
            return written;
        }
        let patience = self.patience.0;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        std::task::ready!(stalled.as_mut().poll(cx));
        crate::counters::add(&self.tally.slow_clients, 1);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

#[cfg(test)]
mod tests;
