//! [`Head`]: the strict reading of one HTTP/1 head, line by line: RFC 9112 without its allowances.
//!
//! A recipient *may* be lenient about line ends, folding, repeated lengths and the like. Two recipients
//! in a row that are lenient in different ways see different requests in the same bytes, which is what
//! request smuggling is; so here everything optional is refused.

use crate::connection::Violation;

/// More digits than the size of any body.
const LENGTH_DIGITS: usize = 18;

/// What follows the head on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// That many bytes, then the next head.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Whatever the answer to `CONNECT` or `Upgrade` makes of it.
    Undecided,
}

/// What the lines so far said.
#[derive(Debug, Default)]
pub(crate) struct Head {
    line: Option<RequestLine>,
    length: Option<u64>,
    chunked: bool,
    host: bool,
    upgrade: bool,
}

#[derive(Clone, Copy, Debug)]
struct RequestLine {
    minor: u8,
    connect: bool,
}

impl Head {
    /// Reads the next line, without its end. The empty one is not for it.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<(), Violation> {
        match self.line {
            None => self.line = Some(request_line(line)?),
            Some(RequestLine { minor, .. }) => {
                let (name, value) = field(line)?;
                self.field(name, value, minor)?;
            }
        }
        Ok(())
    }

    /// Whether a request line came; empty lines before it are skipped, as RFC 9112 §2.2 asks.
    pub(crate) fn begun(&self) -> bool {
        self.line.is_some()
    }

    /// The head is over: what comes after it?
    pub(crate) fn end(&self) -> Result<Framing, Violation> {
        let Some(RequestLine { minor, connect }) = self.line else { return Err(Violation::RequestLine) };
        if minor == 1 && !self.host {
            return Err(Violation::Host);
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Violation::LengthAndEncoding),
            (None, true) => Ok(Framing::Chunked),
            (length, false) if length.unwrap_or(0) == 0 && (connect || self.upgrade) => Ok(Framing::Undecided),
            (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8], minor: u8) -> Result<(), Violation> {
        // by length first: most fields are none of these
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if self.host || !is_authority(value) {
                    return Err(Violation::Host);
                }
                self.host = true;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = minor == 1,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Violation::ContentLength);
                }
                self.length = Some(length(value).ok_or(Violation::ContentLength)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || minor == 0 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Splits a field line, of a head or a trailer section.
pub(crate) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::ObsoleteFold);
    }
    let colon = memchr::memchr(b':', line).ok_or(Violation::FieldName)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if !is_token(name) {
        return Err(Violation::FieldName);
    }
    if !all(value, is_text) {
        return Err(Violation::FieldValue);
    }
    Ok((name, value))
}

/// Whether `value` is `host` or `host:port`, without user or anything that would end an authority.
pub(crate) fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', ..] => match memchr::memchr(b']', value) {
            Some(end) => value.split_at(end + 1),
            None => return false,
        },
        _ => value.split_at(memchr::memchr(b':', value).unwrap_or(value.len())),
    };
    let literal = host.first() == Some(&b'[');
    let in_host = |b: &u8| match b {
        b'[' | b']' | b':' => literal,
        b'%' => !literal,
        _ => b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(b),
    };
    let port_fits = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && host.iter().all(in_host) && port_fits
}

fn request_line(line: &[u8]) -> Result<RequestLine, Violation> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Violation::RequestLine);
    };
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        _ => return Err(Violation::Version),
    };
    if !is_token(method) {
        return Err(Violation::Method);
    }
    let connect = method == b"CONNECT";
    if !is_target(target, method) {
        return Err(Violation::Target);
    }
    Ok(RequestLine { minor, connect })
}

/// One of the four forms of RFC 9112 §3.2, with the bytes a URI can have and no fragment.
fn is_target(target: &[u8], method: &[u8]) -> bool {
    if method == b"CONNECT" {
        return is_authority(target) && memchr::memrchr(b':', target).is_some_and(|at| at + 1 < target.len());
    }
    if !all(target, |b| b.is_ascii_graphic() && b != b'#') {
        return false;
    }
    match target {
        [b'/', ..] => true,
        b"*" => method == b"OPTIONS",
        _ => absolute(target).is_some_and(is_authority),
    }
}

/// The authority of an absolute form.
fn absolute(target: &[u8]) -> Option<&[u8]> {
    let strip = |scheme: &[u8]| {
        let (head, rest) = target.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let rest = strip(b"http://").or_else(|| strip(b"https://"))?;
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    Some(&rest[..end])
}

fn length(value: &[u8]) -> Option<u64> {
    let plain = !value.is_empty() && value.len() <= LENGTH_DIGITS && value.iter().all(u8::is_ascii_digit);
    plain.then(|| value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|b| TOKEN[usize::from(*b)])
}

/// Without an early end, so that many bytes are looked at with one instruction.
fn all(bytes: &[u8], fits: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |so_far, byte| so_far & fits(*byte))
}

fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

/// `tchar` of RFC 9110 §5.6.2.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_usize;
    while byte < 128 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_a_host_and_perhaps_a_port() {
        for (value, expected) in [
            ("a", true),
            ("a:80", true),
            ("a:", true),
            ("[::1]", true),
            ("[::1]:80", true),
            ("a_b.c", true),
            ("", false),
            (":80", false),
            ("a:80:90", false),
            ("a:x", false),
            ("a:123456", false),
            ("u@a", false),
            ("a/b", false),
            ("a b", false),
            ("a,b", true), // a sub-delim, odd but a name
            ("[::1", false),
            ("[::1]x", false),
            ("a]", false),
        ] {
            assert_eq!(is_authority(value.as_bytes()), expected, "{value}");
        }
    }
}
