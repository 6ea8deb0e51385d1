//! Inflating within a limit that is checked while inflating: a small body may hold gigabytes.

use std::io::Read;

use bytes::Bytes;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

/// Why a body has no content.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InflateError {
    #[error("the body is larger than {limit} bytes inflated")]
    TooLarge { limit: usize },
    #[error("the body is not {coding}: {message}")]
    Malformed { coding: &'static str, message: String },
}

impl Coding {
    /// Reads a `Content-Encoding`.
    pub(crate) fn of(header: Option<&str>) -> Option<Self> {
        match header.map(|h| h.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") => Some(Self::Identity),
            Some("gzip") => Some(Self::Gzip),
            Some("zstd") => Some(Self::Zstd),
            Some(_) => None,
        }
    }
}

/// The content of a body.
pub(crate) fn inflate(body: Bytes, coding: Coding, limit: usize) -> Result<Bytes, InflateError> {
    match coding {
        Coding::Identity if body.len() > limit => Err(InflateError::TooLarge { limit }),
        Coding::Identity => Ok(body),
        Coding::Gzip => read(flate2::read::MultiGzDecoder::new(&body[..]), "gzip", limit),
        Coding::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(&body[..]);
            read(
                decoder.map_err(|e| InflateError::Malformed { coding: "zstd", message: e.to_string() })?,
                "zstd",
                limit,
            )
        }
    }
}

fn read(decoder: impl Read, coding: &'static str, limit: usize) -> Result<Bytes, InflateError> {
    let mut inflated = Vec::new();
    let read = decoder.take(limit as u64 + 1).read_to_end(&mut inflated);
    read.map_err(|error| InflateError::Malformed { coding, message: error.to_string() })?;
    if inflated.len() > limit {
        return Err(InflateError::TooLarge { limit });
    }
    Ok(Bytes::from(inflated))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_bomb_is_stopped_at_the_limit_and_garbage_is_named() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 1 << 20]).unwrap();
        let gzip = Bytes::from(gzip.finish().unwrap());
        let zstd = Bytes::from(zstd::encode_all(&vec![0; 1 << 20][..], 3).unwrap());
        for (body, coding) in [(gzip.clone(), Coding::Gzip), (zstd, Coding::Zstd)] {
            assert_eq!(inflate(body.clone(), coding, 1000), Err(InflateError::TooLarge { limit: 1000 }));
            assert_eq!(inflate(body, coding, 1 << 20).unwrap().len(), 1 << 20);
        }
        assert!(matches!(inflate(Bytes::from_static(b"no"), Coding::Gzip, 10), Err(InflateError::Malformed { .. })));
        assert!(matches!(inflate(gzip.slice(..20), Coding::Gzip, 1 << 20), Err(InflateError::Malformed { .. })));
        assert_eq!(Coding::of(Some("br")), None);
    }
}
