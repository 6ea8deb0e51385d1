//! Inflating within a limit that is checked while inflating: a small body may hold gigabytes.

use std::io::Read;

use bytes::Bytes;

use crate::{admission::Full, reservation::Reservation};

/// What is inflated at once, between two looks at the bounds.
const STEP_BYTES: usize = 64 << 10;

/// 8 MiB, what RFC 8878 asks decoders to support: a frame may ask for 128 MiB before its first byte.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    /// HTTP's `deflate`: zlib.
    Deflate,
    Zstd,
}

/// Why a body has no content.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InflateError {
    #[error("the body is larger than {limit} bytes inflated")]
    TooLarge { limit: usize },
    #[error("the body is not {coding}: {message}")]
    Malformed { coding: &'static str, message: String },
    /// There is no room for so many bytes, compressed and inflated.
    #[error("more is in flight than fits")]
    NoRoom { wanted: usize, full: Full },
}

impl Coding {
    /// Reads a `Content-Encoding`.
    pub(crate) fn of(header: Option<&str>) -> Option<Self> {
        match header.map(|h| h.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") => Some(Self::Identity),
            Some("gzip") => Some(Self::Gzip),
            Some("deflate") => Some(Self::Deflate),
            Some("zstd") => Some(Self::Zstd),
            Some(_) => None,
        }
    }
}

/// The content of a body. `reservation` holds the body and grows by what comes out of it. Without room nothing is kept but the reservation: the
/// caller waits and begins anew, because a decoder that waits holds megabytes that nobody counts.
pub(crate) fn inflate(
    body: &Bytes,
    coding: Coding,
    limit: usize,
    reservation: &mut Reservation,
) -> Result<Bytes, InflateError> {
    match coding {
        Coding::Identity if body.len() > limit => Err(InflateError::TooLarge { limit }),
        Coding::Identity => Ok(body.clone()),
        Coding::Gzip => {
            Inflating { body, coding: "gzip", limit }.read(flate2::bufread::MultiGzDecoder::new(&body[..]), reservation)
        }
        Coding::Deflate => {
            Inflating { body, coding: "deflate", limit }.read(flate2::bufread::ZlibDecoder::new(&body[..]), reservation)
        }
        Coding::Zstd => {
            let inflating = Inflating { body, coding: "zstd", limit };
            let mut decoder = zstd::stream::read::Decoder::new(&body[..]).map_err(|e| inflating.malformed(&e))?;
            let window_log = limit.next_power_of_two().ilog2().max(ZSTD_WINDOW_LOG_MAX);
            decoder.window_log_max(window_log.min(31)).map_err(|e| inflating.malformed(&e))?;
            inflating.read(decoder, reservation)
        }
    }
}

struct Inflating<'a> {
    body: &'a [u8],
    coding: &'static str,
    limit: usize,
}

impl Inflating<'_> {
    fn read(&self, mut decoder: impl Read, reservation: &mut Reservation) -> Result<Bytes, InflateError> {
        let mut inflated = Vec::new();
        loop {
            // room for the next step first; at most a byte over the limit is ever asked for
            let step = STEP_BYTES.min(self.limit + 1 - inflated.len());
            let wanted = self.body.len() + (inflated.len() + step).min(self.limit);
            reservation.try_grow_to(wanted).map_err(|full| InflateError::NoRoom { wanted, full })?;
            let read = decoder.by_ref().take(step as u64).read_to_end(&mut inflated);
            let read = read.map_err(|error| self.malformed(&error))?;
            if inflated.len() > self.limit {
                return Err(InflateError::TooLarge { limit: self.limit });
            }
            if read < step {
                return Ok(Bytes::from(inflated));
            }
        }
    }

    fn malformed(&self, error: &std::io::Error) -> InflateError {
        InflateError::Malformed { coding: self.coding, message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use tokio::time::Instant;

    use super::*;
    use crate::{admission::Admission, queue::Queue};

    fn inflated(body: &Bytes, coding: Coding, limit: usize, room: usize) -> Result<usize, InflateError> {
        let admitted = Admission::new(room).admit(body.len()).unwrap();
        let mut reservation = Reservation::new(admitted, Arc::new(Queue::new(1)), room, Instant::now());
        inflate(body, coding, limit, &mut reservation).map(|inflated| inflated.len())
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit_and_garbage_is_named() {
        const ROOM: usize = 4 << 20;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 1 << 20]).unwrap();
        let gzip = Bytes::from(gzip.finish().unwrap());
        let zstd = Bytes::from(zstd::encode_all(&vec![0; 1 << 20][..], 3).unwrap());
        let mut deflate = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        deflate.write_all(&vec![0; 1 << 20]).unwrap();
        let deflate = Bytes::from(deflate.finish().unwrap());
        for (body, coding) in [(&gzip, Coding::Gzip), (&deflate, Coding::Deflate), (&zstd, Coding::Zstd)] {
            assert_eq!(inflated(body, coding, 1000, ROOM), Err(InflateError::TooLarge { limit: 1000 }));
            assert_eq!(
                inflated(body, coding, (1 << 20) - 1, ROOM),
                Err(InflateError::TooLarge { limit: (1 << 20) - 1 })
            );
            assert_eq!(inflated(body, coding, 1 << 20, ROOM), Ok(1 << 20));
            assert!(matches!(inflated(body, coding, 1 << 20, 512 << 10), Err(InflateError::NoRoom { .. })));
            let cut = body.slice(..body.len() - 5);
            assert!(matches!(inflated(&cut, coding, 1 << 20, ROOM), Err(InflateError::Malformed { .. })));
        }
        let no = Bytes::from_static(b"no");
        assert!(matches!(inflated(&no, Coding::Gzip, 10, ROOM), Err(InflateError::Malformed { .. })));
        assert_eq!(Coding::of(Some("br")), None);
    }

    #[test]
    fn a_zstd_frame_that_asks_for_a_wide_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&[7; 1000]).unwrap();
        let body = Bytes::from(encoder.finish().unwrap());
        assert!(matches!(inflated(&body, Coding::Zstd, 1 << 20, 4 << 20), Err(InflateError::Malformed { .. })));
    }
}
