//! Reading a body within bounds: each byte has its place in a [`Reservation`] before it is kept, and a
//! body that does not come is given up.

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::{ingest::Refused, reservation::Reservation};

/// Why a body is not read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is larger than {limit} bytes: send smaller batches")]
    TooLarge { limit: usize },
    #[error("{0}")]
    Refused(Refused),
    #[error("the body took too long")]
    TimedOut,
    #[error("the body ends early: {0}")]
    Broken(String),
}

/// A body, frame by frame, until a deadline.
pub(crate) struct Frames<B> {
    body: B,
    deadline: Instant,
    /// What came and was not asked for yet.
    ahead: Bytes,
}

/// So many bytes of a body, if it has them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Exactly {
    All(Bytes),
    /// It ended before the first.
    Nothing,
    /// It ended before the last.
    Cut,
}

impl<B: Body<Data = Bytes> + Unpin> Frames<B>
where
    B::Error: std::fmt::Display,
{
    pub(crate) fn new(body: B, deadline: Instant) -> Self {
        Self { body, deadline, ahead: Bytes::new() }
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if !self.ahead.is_empty() {
            return Ok(Some(std::mem::take(&mut self.ahead)));
        }
        loop {
            let frame = tokio::time::timeout_at(self.deadline, self.body.frame());
            match frame.await.map_err(|_| BodyError::TimedOut)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(BodyError::Broken(error.to_string())),
                // trailers say nothing here
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
            }
        }
    }

    /// The next `length` bytes, which are reserved; they are copied only when they come in pieces.
    pub(crate) async fn exactly(&mut self, length: usize) -> Result<Exactly, BodyError> {
        let mut pieces = BytesMut::new();
        while pieces.len() < length {
            let Some(mut data) = self.next().await? else {
                return Ok(if pieces.is_empty() { Exactly::Nothing } else { Exactly::Cut });
            };
            let wanted = length - pieces.len();
            self.ahead = if data.len() > wanted { data.split_off(wanted) } else { Bytes::new() };
            if pieces.is_empty() && data.len() == length {
                return Ok(Exactly::All(data));
            }
            pieces.reserve(wanted);
            pieces.extend_from_slice(&data);
        }
        Ok(Exactly::All(pieces.freeze()))
    }

    /// What is left of the body; `reservation` grows with it, and while it waits for room the body has more time to come.
    pub(crate) async fn collect(&mut self, limit: usize, reservation: &mut Reservation) -> Result<Bytes, BodyError> {
        let announced = self.body.size_hint().lower();
        if announced > limit as u64 {
            return Err(BodyError::TooLarge { limit });
        }
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        let mut collected = Collected { bytes: BytesMut::new(), first: Some(first), limit };
        self.grow(reservation, collected.with(0)?).await?;
        while let Some(data) = self.next().await? {
            self.grow(reservation, collected.with(data.len())?).await?;
            collected.push(&data, usize::try_from(announced).unwrap_or(0));
        }
        Ok(collected.finish())
    }

    async fn grow(&mut self, reservation: &mut Reservation, bytes: usize) -> Result<(), BodyError> {
        let asked = Instant::now();
        reservation.grow_to(bytes).await.map_err(BodyError::Refused)?;
        self.deadline += asked.elapsed();
        Ok(())
    }

    pub(crate) fn into_inner(self) -> B {
        self.body
    }
}

/// The frames of a body as one; a body of one frame is not copied.
struct Collected {
    first: Option<Bytes>,
    bytes: BytesMut,
    limit: usize,
}

impl Collected {
    /// Its length with so many bytes more.
    fn with(&self, more: usize) -> Result<usize, BodyError> {
        let length = self.first.as_ref().map_or(0, Bytes::len) + self.bytes.len() + more;
        if length > self.limit {
            return Err(BodyError::TooLarge { limit: self.limit });
        }
        Ok(length)
    }

    fn push(&mut self, data: &[u8], announced: usize) {
        if let Some(first) = self.first.take() {
            self.bytes.reserve(announced.max(first.len() + data.len()));
            self.bytes.extend_from_slice(&first);
        }
        self.bytes.extend_from_slice(data);
    }

    fn finish(self) -> Bytes {
        self.first.unwrap_or_else(|| self.bytes.freeze())
    }
}

/// Reads what is left of a refused body and keeps nothing, so that its sender, who reads only when
/// it has sent, sees the answer. A sender that goes on past `limit` or `deadline` is cut.
pub(crate) async fn discard<B: Body<Data = Bytes> + Unpin>(mut body: B, limit: usize, deadline: Instant)
where
    B::Error: std::fmt::Display,
{
    if body.size_hint().lower() > limit as u64 {
        return;
    }
    let mut frames = Frames::new(&mut body, deadline);
    let mut seen = 0;
    while let Ok(Some(data)) = frames.next().await {
        seen += data.len();
        if seen > limit {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc, time::Duration};

    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;
    use crate::{admission::Admission, queue::Queue};

    fn frames(frames: &[&'static [u8]]) -> Frames<impl Body<Data = Bytes, Error = Infallible> + Unpin> {
        let frames: Vec<_> = frames.iter().map(|f| Ok(Frame::data(Bytes::from_static(f)))).collect();
        Frames::new(StreamBody::new(stream::iter(frames)), Instant::now() + Duration::from_secs(1))
    }

    /// A reservation in so much room, for one who does not wait.
    fn reservation(admission: &Admission) -> Reservation {
        Reservation::new(admission.admit(0).unwrap(), Arc::new(Queue::new(1)), 9, Instant::now())
    }

    async fn collect(body: &[&'static [u8]], limit: usize, room: usize) -> Result<Bytes, BodyError> {
        let admission = Admission::new(room);
        let _goes_on = admission.admit(1).unwrap();
        frames(body).collect(limit, &mut reservation(&admission)).await
    }

    #[tokio::test]
    async fn a_length_is_cut_out_of_any_frames() {
        let all = |bytes: &'static str| Exactly::All(Bytes::from_static(bytes.as_bytes()));
        for body in [&[b"abcde" as &[u8]][..], &[b"ab", b"cde"], &[b"a", b"b", b"c", b"d", b"e"], &[b"abc", b"de"]] {
            let mut frames = frames(body);
            assert_eq!(frames.exactly(2).await.unwrap(), all("ab"));
            assert_eq!(frames.exactly(0).await.unwrap(), all(""));
            assert_eq!(frames.exactly(3).await.unwrap(), all("cde"));
            assert_eq!(frames.exactly(1).await.unwrap(), Exactly::Nothing);
        }
        assert_eq!(frames(&[b"ab", b"c"]).exactly(4).await.unwrap(), Exactly::Cut);
    }

    #[tokio::test]
    async fn frames_become_one_within_both_bounds() {
        assert_eq!(collect(&[], 9, 10).await.unwrap(), "");
        assert_eq!(collect(&[b"ab"], 9, 10).await.unwrap(), "ab");
        assert_eq!(collect(&[b"ab", b"", b"cd", b"e"], 9, 10).await.unwrap(), "abcde");
        assert!(matches!(collect(&[b"ab", b"cd"], 3, 10).await, Err(BodyError::TooLarge { limit: 3 })));
        assert!(matches!(collect(&[b"ab", b"cd"], 9, 4).await, Err(BodyError::Refused(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let mut reservation = reservation(&Admission::new(9));
        let started = Instant::now();
        let read = Frames::new(never, started + Duration::from_secs(3)).collect(9, &mut reservation).await;
        assert!(matches!(read, Err(BodyError::TimedOut)));
        assert_eq!(started.elapsed(), Duration::from_secs(3));
    }
}
