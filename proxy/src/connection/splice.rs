//! [`splice`]: bytes of two connections passed to each other until both have ended.
//!
//! One buffer a direction, so a reader that is slow slows its writer down and nothing is gathered; the
//! end of one direction is passed on while the other lasts; a tunnel in which nothing moves is closed. Where a side breaks,
//! what it had said by then still arrives: a server that has answered may close while its client still speaks.

use std::{
    future::poll_fn,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop::has_budget_remaining,
};

/// 16 KiB a direction: a read of a busy socket, and 32 KiB for a tunnel in all.
const BUFFER_BYTES: usize = 16 * 1024;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both sides had said all.
    Well,
    /// The client broke off.
    ClientBroke,
    /// The upstream did.
    UpstreamBroke,
    /// Nothing moved for too long.
    Idle,
}

/// One direction.
struct Flow {
    buffer: Box<[u8]>,
    /// What of it is still to be written.
    filled: Range<usize>,
    unflushed: bool,
    /// Whether no more is to come.
    dry: Option<Last>,
    last: Option<Last>,
    /// Bytes read and bytes written, together.
    moved: u64,
}

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// All was said, and passed on.
    Said,
    /// Who speaks broke off; what it had said is passed on.
    SourceBroke,
    /// Who listens did.
    SinkBroke,
}

/// Passes bytes both ways and says how many went to the client each time; a tunnel without a byte for `idle` (up to twice that)
/// is given up.
pub(crate) async fn splice<C, U>(
    mut client: C,
    mut upstream: U,
    idle: Duration,
    mut to_client: impl FnMut(usize),
) -> Ended
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Flow::new(), Flow::new());
    let mut before = 0;
    loop {
        let ended = poll_fn(|cx| {
            loop {
                let broke = (up.sink_broke(), down.sink_broke());
                // each keeps its own end, by which both are judged
                let _ = up.poll(cx, &mut client, &mut upstream, broke.1, &mut |_| {});
                let _ = down.poll(cx, &mut upstream, &mut client, broke.0, &mut to_client);
                if broke == (up.sink_broke(), down.sink_broke()) {
                    return ended(up.last, down.last);
                }
            }
        });
        match tokio::time::timeout(idle, ended).await {
            Ok(ended) => return ended,
            Err(_elapsed) if up.moved + down.moved == before => return Ended::Idle,
            Err(_elapsed) => before = up.moved + down.moved,
        }
    }
}

/// How both directions, upwards and downwards, come to an end.
fn ended(up: Option<Last>, down: Option<Last>) -> Poll<Ended> {
    use Last::{Said, SinkBroke, SourceBroke};
    Poll::Ready(match (up, down) {
        (Some(Said), Some(Said)) => Ended::Well,
        // whoever broke before it had said all can be told no more either
        (Some(SourceBroke), _) => Ended::ClientBroke,
        (_, Some(SourceBroke)) => Ended::UpstreamBroke,
        (Some(SinkBroke), Some(_)) => Ended::UpstreamBroke,
        (Some(_), Some(SinkBroke)) => Ended::ClientBroke,
        (None, _) | (_, None) => return Poll::Pending,
    })
}

impl Flow {
    fn new() -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self { buffer, filled: 0..0, unflushed: false, dry: None, last: None, moved: 0 }
    }

    fn sink_broke(&self) -> bool {
        self.last == Some(Last::SinkBroke)
    }

    /// Passes on until there is nothing to do. Of a source that is `broken` only what is there is read, for no more will come.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        sink: &mut W,
        broken: bool,
        written: &mut impl FnMut(usize),
    ) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while self.last.is_none() {
            if !self.filled.is_empty() {
                let Ok(count @ 1..) = ready!(Pin::new(&mut *sink).poll_write(cx, &self.buffer[self.filled.clone()]))
                else {
                    self.last = Some(Last::SinkBroke);
                    break;
                };
                written(count);
                self.filled.start += count;
                self.moved += count as u64;
                self.unflushed = true;
            } else if self.dry.is_some() {
                // who does not hear of the end has gone, which the other direction tells
                let _ = ready!(Pin::new(&mut *sink).poll_shutdown(cx));
                self.last = self.dry;
            } else {
                ready!(self.fill(cx, source, sink, broken));
            }
        }
        Poll::Ready(())
    }

    /// Reads once; before it waits, what was written leaves.
    fn fill<R, W>(&mut self, cx: &mut Context<'_>, source: &mut R, sink: &mut W, broken: bool) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut read = ReadBuf::new(&mut self.buffer);
        match Pin::new(source).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) if read.filled().is_empty() => self.dry = Some(Last::Said),
            Poll::Ready(Ok(())) => {
                self.filled = 0..read.filled().len();
                self.moved += self.filled.end as u64;
            }
            Poll::Ready(Err(_)) => self.dry = Some(Last::SourceBroke),
            // a task that has had its turn is told to wait, whatever there is
            Poll::Pending if broken && has_budget_remaining() => self.dry = Some(Last::SourceBroke),
            Poll::Pending => {
                if self.unflushed {
                    let flushed = ready!(Pin::new(sink).poll_flush(cx));
                    self.unflushed = false;
                    self.last = flushed.is_err().then_some(Last::SinkBroke);
                }
                return if self.last.is_some() { Poll::Ready(()) } else { Poll::Pending };
            }
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A socket that its other end has reset: what came before is there, and nothing can be written.
    struct Reset(&'static [u8]);

    impl AsyncRead for Reset {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let (now, later) = self.0.split_at(1);
            buf.put_slice(now);
            self.0 = later;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Reset {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_side_may_end_before_the_other() {
        let (mut client, near) = tokio::io::duplex(64);
        let (far, mut server) = tokio::io::duplex(64);
        let mut to_client = 0;
        let spliced = tokio::join!(splice(near, far, SECOND, |bytes| to_client += bytes), async {
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
        assert_eq!((spliced.0, to_client), (Ended::Well, 6));
    }

    /// A server that answers and closes while its client still speaks resets the connection behind its answer, of which up to
    /// 16 KiB were lost; and whoever broke, the upstream was told to have.
    #[tokio::test(start_paused = true)]
    async fn what_was_said_before_a_side_broke_arrives() {
        for (client_broke, speaks) in [(false, true), (false, false), (true, true), (true, false)] {
            // it takes a byte at a time
            let (mut other, near): (_, DuplexStream) = tokio::io::duplex(1);
            let (broken, mut to_client) = (Reset(b"answer"), 0);
            let count = |bytes| to_client += bytes;
            let splicing = async {
                match client_broke {
                    true => splice(broken, near, SECOND, count).await,
                    false => splice(near, broken, SECOND, count).await,
                }
            };
            let speaking = async {
                if speaks {
                    other.write_all(b"x").await.unwrap();
                }
                let mut heard = Vec::new();
                other.read_to_end(&mut heard).await.unwrap();
                heard
            };
            let (ended, heard) = tokio::join!(splicing, speaking);
            let expected = if client_broke { (Ended::ClientBroke, 0) } else { (Ended::UpstreamBroke, 6) };
            assert_eq!((heard.as_slice(), (ended, to_client)), (&b"answer"[..], expected), "{client_broke} {speaks}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_in_which_nothing_moves_is_closed() {
        let ((_client, near), (far, _server)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        assert_eq!(splice(near, far, 300 * SECOND, |_| {}).await, Ended::Idle);
    }
}
