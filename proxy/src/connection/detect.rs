//! [`detect`]: which protocol a client speaks, from its first bytes.
//!
//! HTTP/2 opens with a fixed preface, HTTP/1 with a line that ends in its version. A listener that also
//! takes plain TCP gives anything else to its TCP upstream, and so it does with a client that stays
//! silent, because then the server speaks first (MySQL, SMTP). What was read is handed on with the answer.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{Instant, timeout_at},
};

use crate::connection::frames::PREFACE;

/// A request line that is longer is taken for HTTP/1 without its end; then its own limits hold.
const LINE_MAX: usize = 4096;

/// A longer first word is no method.
const METHOD_MAX: usize = 20;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detected {
    Http1,
    Http2,
    Tcp,
}

/// Reads until it is clear what the client speaks, or until `deadline`. `None`: it said nothing of use.
/// With `tcp_too`, whatever is not HTTP is TCP; otherwise it is HTTP/1, which will refuse it.
pub(crate) async fn detect(
    stream: &mut (impl AsyncRead + Unpin),
    tcp_too: bool,
    deadline: Instant,
) -> io::Result<Option<(Detected, Vec<u8>)>> {
    let mut read = Vec::with_capacity(LINE_MAX);
    loop {
        let known = if tcp_too { with_tcp(&read) } else { http_only(&read) };
        if let Some(detected) = known {
            return Ok(Some((detected, read)));
        }
        match timeout_at(deadline, stream.read_buf(&mut read)).await {
            Ok(Ok(0)) if read.is_empty() => return Ok(None),
            Ok(Ok(0)) => return Ok(Some((if tcp_too { Detected::Tcp } else { Detected::Http1 }, read))),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_late) => return Ok(tcp_too.then_some((Detected::Tcp, read))),
        }
    }
}

fn http_only(read: &[u8]) -> Option<Detected> {
    let common = read.len().min(PREFACE.len());
    match read[..common] == PREFACE[..common] {
        false => Some(Detected::Http1),
        true if common == PREFACE.len() => Some(Detected::Http2),
        true => None,
    }
}

fn with_tcp(read: &[u8]) -> Option<Detected> {
    if http_only(read)? == Detected::Http2 {
        return Some(Detected::Http2);
    }
    // RFC 9112 lets empty lines come before a request; nobody sends one as the first bytes
    let word = read.iter().position(|b| !b.is_ascii_uppercase()).unwrap_or(read.len());
    let method = (1..=METHOD_MAX).contains(&word) && read.get(word).is_none_or(|b| *b == b' ');
    if !method {
        return Some(Detected::Tcp);
    }
    match memchr::memchr(b'\n', read) {
        Some(end) => Some(if is_request_line(&read[..end]) { Detected::Http1 } else { Detected::Tcp }),
        None => (read.len() >= LINE_MAX).then_some(Detected::Http1),
    }
}

fn is_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.len() > 9 && line[line.len() - 9..].starts_with(b" HTTP/")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn detected(bytes: &[u8], tcp_too: bool) -> Option<Detected> {
        let (mut client, mut server) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut client, bytes).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        let found = detect(&mut server, tcp_too, deadline).await.unwrap();
        found.map(|(detected, read)| {
            assert_eq!(read, bytes, "what was read is handed on");
            detected
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_bytes_tell() {
        use Detected::{Http1, Http2, Tcp};
        for (bytes, http_only, with_tcp) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], Some(Http2), Some(Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None, Some(Tcp)),
            (b"GET / HTTP/1.1\r\n", Some(Http1), Some(Http1)),
            (b"GET / HTTP/1.1", Some(Http1), Some(Tcp)),
            (b"PING\r\n", Some(Http1), Some(Tcp)),
            (b"HELO mesh\r\n", Some(Http1), Some(Tcp)),
            (b"\x16\x03\x01", Some(Http1), Some(Tcp)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Http1), Some(Tcp)),
            (b"", None, Some(Tcp)),
        ] {
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(detected(bytes, false).await, http_only, "{text:?}");
            assert_eq!(detected(bytes, true).await, with_tcp, "{text:?}");
        }
    }
}
