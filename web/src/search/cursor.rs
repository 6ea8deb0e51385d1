//! [`Cursor`]: where a page of traces ended.

use std::fmt;

use crate::error::ApiError;

/// A trace in the order of a search: by its newest span that matches, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) start_unix_nano: i64,
    pub(crate) trace_id: [u8; 16],
}

/// The last trace of a page, and what had been received when the first page was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) key: Key,
    pub(crate) as_of_unix_nano: i64,
}

impl Key {
    /// The condition on spans further down in the order.
    pub(crate) fn below(self) -> String {
        let (start, id) = (self.start_unix_nano, hex::encode(self.trace_id));
        format!("start_unix_nano <= {start} AND (start_unix_nano < {start} OR trace_id < '{id}')")
    }
}

impl Cursor {
    /// Reads what [`fmt::Display`] wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let read = || {
            let mut parts = text.splitn(3, '.');
            let start_unix_nano = parts.next()?.parse().ok()?;
            let mut trace_id = [0; 16];
            hex::decode_to_slice(parts.next()?, &mut trace_id).ok()?;
            let as_of_unix_nano = parts.next()?.parse().ok()?;
            Some(Self { key: Key { start_unix_nano, trace_id }, as_of_unix_nano })
        };
        read().ok_or_else(|| ApiError::bad_request(format!("cursor={text:?} is not the \"next\" of an answer")))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.key.start_unix_nano, hex::encode(self.key.trace_id), self.as_of_unix_nano)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nothing_else() {
        let cursor = Cursor { key: Key { start_unix_nano: -5, trace_id: [0xab; 16] }, as_of_unix_nano: 9 };
        assert_eq!(Cursor::parse(&cursor.to_string()).unwrap(), cursor);
        for text in ["", "1", "1.ab.2", "x.abababababababababababababababab.2", "1.abababababababababababababababab"] {
            assert!(Cursor::parse(text).is_err(), "{text}");
        }
    }
}
