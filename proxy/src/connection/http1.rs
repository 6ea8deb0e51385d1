//! [`Http1Scan`]: follows the requests on one HTTP/1 connection through heads and bodies, so that every
//! head is read strictly and no byte of a body is taken for one.
//!
//! It looks at bytes in place as they come; only a line that is torn over two reads is kept.

use crate::connection::{
    Violation,
    head::{self, Framing, Head},
};

/// 1 KiB for the size of a chunk and its extensions, which nobody uses.
const CHUNK_LINE_MAX: usize = 1024;

/// 4 KiB of a line's beginning may stay reserved between lines; the room for a longer one is given back.
const TORN_KEPT: usize = 4 * 1024;

/// Hexadecimal digits of a 64-bit size.
const CHUNK_DIGITS: usize = 15;

/// Fields that say how a message is read or who it is for; in a trailer they come too late to be true.
const NOT_IN_TRAILERS: [&[u8]; 8] =
    [b"content-length", b"transfer-encoding", b"host", b"connection", b"te", b"trailer", b"upgrade", b"authorization"];

/// What may be done with the bytes that were read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// All may pass.
    Pass,
    /// The first so many may pass; what the rest is depends on the answer.
    Hold(usize),
    /// The first so many may pass, then nothing any more.
    Refuse { pass: usize, violation: Violation, in_body: bool },
}

/// The state between two reads.
#[derive(Debug)]
pub(crate) struct Http1Scan {
    part: Part,
    head: Head,
    /// How many heads have ended.
    heads: u64,
    /// The beginning of a line whose end has not come.
    torn: Vec<u8>,
    line_max: usize,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Head,
    Body { left: u64 },
    ChunkSize,
    ChunkData { left: u64 },
    ChunkEnd,
    Trailer,
    Held,
}

impl Http1Scan {
    /// A line may have `line_max` bytes.
    pub(crate) fn new(line_max: usize) -> Self {
        Self { part: Part::Head, head: Head::default(), heads: 0, torn: Vec::new(), line_max }
    }

    /// Whether what comes next depends on the answer.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.part, Part::Held)
    }

    /// The number of the request whose head was read last, the first being 1.
    pub(crate) fn number(&self) -> u64 {
        self.heads
    }

    /// The answer was no upgrade: another request may follow.
    pub(crate) fn resume(&mut self) {
        self.next_request();
    }

    /// Reads on.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut at = 0;
        while at < bytes.len() {
            match self.part {
                Part::Held => return Scanned::Hold(at),
                Part::Body { left } => at += self.skip(left, bytes.len() - at),
                Part::ChunkData { left } => at += self.skip(left, bytes.len() - at),
                Part::Head | Part::ChunkSize | Part::ChunkEnd | Part::Trailer => {
                    let rest = &bytes[at..];
                    let end = memchr::memchr(b'\n', rest);
                    let taken = end.map_or(rest.len(), |end| end + 1);
                    let in_body = !matches!(self.part, Part::Head);
                    if let Err(violation) = self.piece(&rest[..taken], end.is_some()) {
                        // the line's end is kept back, so that hyper never sees the line complete
                        let pass = at + end.unwrap_or(0);
                        return Scanned::Refuse { pass, violation, in_body };
                    }
                    at += taken;
                }
            }
        }
        Scanned::Pass
    }

    /// Passes over up to `left` bytes of data.
    fn skip(&mut self, left: u64, available: usize) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(available);
        let left = left - taken as u64;
        match self.part {
            Part::ChunkData { .. } if left == 0 => self.part = Part::ChunkEnd,
            Part::ChunkData { .. } => self.part = Part::ChunkData { left },
            _ if left == 0 => self.next_request(),
            _ => self.part = Part::Body { left },
        }
        taken
    }

    /// A piece of a line, or the rest of it with its end.
    fn piece(&mut self, piece: &[u8], ended: bool) -> Result<(), Violation> {
        if self.torn.len() + piece.len() > self.line_max {
            return Err(Violation::TooLong);
        }
        if !ended {
            self.torn.extend_from_slice(piece);
            return Ok(());
        }
        if self.torn.is_empty() {
            return self.whole(piece);
        }
        let mut line = std::mem::take(&mut self.torn);
        line.extend_from_slice(piece);
        let read = self.whole(&line);
        if line.capacity() <= TORN_KEPT {
            line.clear();
            self.torn = line;
        }
        read
    }

    fn whole(&mut self, line: &[u8]) -> Result<(), Violation> {
        let line = line.strip_suffix(b"\r\n").ok_or(Violation::BareLineFeed)?;
        match self.part {
            Part::Head if !line.is_empty() => self.head.line(line)?,
            // an empty line before a request is skipped
            Part::Head if self.head.begun() => self.end_of_head()?,
            Part::Head => {}
            Part::ChunkSize => {
                self.part = match chunk_size(line).ok_or(Violation::Chunk)? {
                    0 => Part::Trailer,
                    left => Part::ChunkData { left },
                }
            }
            Part::ChunkEnd if line.is_empty() => self.part = Part::ChunkSize,
            Part::Trailer if line.is_empty() => self.next_request(),
            Part::Trailer => trailer(line)?,
            Part::ChunkEnd | Part::Body { .. } | Part::ChunkData { .. } | Part::Held => return Err(Violation::Chunk),
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<(), Violation> {
        self.heads += 1;
        match self.head.end()? {
            Framing::Chunked => self.part = Part::ChunkSize,
            Framing::Undecided => self.part = Part::Held,
            Framing::Length(0) => self.next_request(),
            Framing::Length(left) => self.part = Part::Body { left },
        }
        Ok(())
    }

    fn next_request(&mut self) {
        self.part = Part::Head;
        self.head = Head::default();
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extension) = line.split_at(digits);
    let plain = (1..=CHUNK_DIGITS).contains(&digits) && line.len() <= CHUNK_LINE_MAX;
    let extended = matches!(extension, [] | [b';', ..]) && extension.iter().all(|b| (b' '..=b'~').contains(b));
    let text = std::str::from_utf8(size).ok()?;
    (plain && extended).then(|| u64::from_str_radix(text, 16).ok())?
}

fn trailer(line: &[u8]) -> Result<(), Violation> {
    let (name, _) = head::field(line)?;
    let misplaced = NOT_IN_TRAILERS.iter().any(|not| name.eq_ignore_ascii_case(not));
    if misplaced { Err(Violation::Trailer) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Option<Violation> {
        // however the bytes are torn, the verdict is the same
        let verdicts = [1, 2, 3, 7, usize::MAX].map(|size| {
            let mut scan = Http1Scan::new(4096);
            text.as_bytes().chunks(size.min(text.len())).find_map(|bytes| match scan.scan(bytes) {
                Scanned::Refuse { violation, .. } => Some(violation),
                Scanned::Pass | Scanned::Hold(_) => None,
            })
        });
        assert!(verdicts.iter().all(|v| *v == verdicts[0]), "{verdicts:?} of {text:?}");
        verdicts[0]
    }

    #[test]
    fn sound_requests_pass_one_after_the_other() {
        let text = "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n\
            POST /x?y=1 HTTP/1.1\r\nHost:a:80 \r\ncontent-length: 5\r\n\r\nGET /GET http://a/ HTTP/1.0\r\n\r\n\
            POST / HTTP/1.1\r\nhost: [::1]\r\nTransfer-Encoding: Chunked\r\n\r\n\
            5;ext=1\r\nab\ncd\r\n0\r\nx-sum: 1\r\n\r\nOPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n";
        assert_eq!(refused(text), None);
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let get = |fields: &str| format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n");
        let chunks = |body: &str| get(&format!("transfer-encoding: chunked\r\n\r\n{body}"));
        for (text, expected) in [
            (get("content-length: 1\r\ntransfer-encoding: chunked"), Violation::LengthAndEncoding),
            (get("content-length: 1\r\ncontent-length: 1"), Violation::ContentLength),
            (get("content-length: +1"), Violation::ContentLength),
            (get("transfer-encoding: gzip, chunked"), Violation::TransferEncoding),
            (get("transfer-encoding : chunked"), Violation::FieldName),
            (get("x: 1\r\n folded"), Violation::ObsoleteFold),
            (get("x: 1\ny: 2"), Violation::BareLineFeed),
            (get("x: 1\ry: 2"), Violation::FieldValue),
            (get("host: b"), Violation::Host),
            (chunks("0x5\r\n"), Violation::Chunk),
            (chunks("5\n"), Violation::BareLineFeed),
            (chunks("2\r\nabc\r\n"), Violation::Chunk),
            (chunks("0\r\ncontent-length: 1\r\n"), Violation::Trailer),
            ("GET / HTTP/1.1\r\n\r\n".into(), Violation::Host),
            ("GET  / HTTP/1.1\r\n".into(), Violation::RequestLine),
            ("GET /\r\n".into(), Violation::RequestLine),
            ("GET / HTTP/1.2\r\n".into(), Violation::Version),
            ("GET /#a HTTP/1.1\r\n".into(), Violation::Target),
            ("GET a HTTP/1.1\r\n".into(), Violation::Target),
            ("G@T / HTTP/1.1\r\n".into(), Violation::Method),
            (format!("GET /{} HTTP/1.1\r\n", "a".repeat(5000)), Violation::TooLong),
        ] {
            assert_eq!(refused(&text), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn after_an_upgrade_is_asked_for_nothing_is_taken_for_a_request() {
        let mut scan = Http1Scan::new(4096);
        let head = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let text = format!("{head}\u{1}\u{2}");
        assert_eq!(scan.scan(text.as_bytes()), Scanned::Hold(head.len()));
        scan.resume();
        assert_eq!(scan.scan(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"), Scanned::Pass);
    }

    #[test]
    fn a_long_line_leaves_nothing_behind() {
        let mut scan = Http1Scan::new(100_000);
        for part in ["GET / HTTP/1.1\r\nhost: a\r\nx: ", &"a".repeat(50_000), "\r\n\r\n", "GET / HT"] {
            assert_eq!(scan.scan(part.as_bytes()), Scanned::Pass);
        }
        assert!(scan.torn.capacity() <= TORN_KEPT, "{} bytes", scan.torn.capacity());
        assert_eq!(scan.number(), 1);
    }
}
