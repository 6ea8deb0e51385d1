//! How a path is read before rules are asked, so that another spelling of it slips past none.
//!
//! The plain reading is that of RFC 3986 §6.2.2, taken a step further: every `%XX` is decoded, once, but
//! an escaped slash or backslash, which separates nothing in a URI; empty segments go (`//` is `/`); `.`
//! and `..` are resolved. Where a path has an escaped slash, a backslash, or a `;parameter`, servers differ, so
//! there is a lenient reading beside it: slashes of every spelling separate, parameters are cut. The path that is
//! passed on stays as it came. A NUL has no reading.

use std::borrow::Cow;

/// One path, as one or two servers would read it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Readings<'a> {
    pub(crate) plain: Cow<'a, [u8]>,
    /// Only where it differs.
    pub(crate) lenient: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Lenient,
}

impl<'a> Readings<'a> {
    /// `None` when it has a NUL.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        // a URI of the form `host:port` (CONNECT) has none
        let path = if path.is_empty() { "/" } else { path };
        if is_simple(path) {
            return Some(Self { plain: Cow::Borrowed(path.as_bytes()), lenient: None });
        }
        let (plain, lenient) = (read(path, Mode::Plain), read(path, Mode::Lenient));
        let lenient = (lenient != plain).then_some(lenient);
        (!plain.contains(&0)).then_some(Self { plain: Cow::Owned(plain), lenient })
    }
}

/// Whether a rule's path can be what a request's path is read as; `rooted` when its beginning is the path's.
pub(crate) fn is_normal_path(path: &str, rooted: bool) -> bool {
    let dots = |segment: &str| segment == "." || segment == "..";
    let mut segments = path.split('/');
    // an ending such as `..` of `*..` may be the end of a longer segment
    if !rooted {
        segments.next();
    }
    let query = path.contains(['?', '#', '%', '\0']);
    !query && !path.contains("//") && !segments.any(dots)
}

/// Nothing in it could be read otherwise.
fn is_simple(path: &str) -> bool {
    let mut before = 0;
    for byte in path.bytes() {
        if matches!(byte, b'%' | b'\\' | b';') || (before == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    path.starts_with('/') || path == "*"
}

fn read(path: &str, mode: Mode) -> Vec<u8> {
    let decoded = decode(path.as_bytes(), mode);
    let is_slash = |byte: &u8| *byte == b'/' || (mode == Mode::Lenient && *byte == b'\\');
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends_in_slash = true;
    for segment in decoded.split(is_slash) {
        let cut = match mode {
            Mode::Plain => segment.len(),
            Mode::Lenient => segment.iter().position(|b| *b == b';').unwrap_or(segment.len()),
        };
        let segment = &segment[..cut];
        ends_in_slash = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    let mut path = Vec::with_capacity(decoded.len());
    for segment in &kept {
        path.push(b'/');
        path.extend_from_slice(segment);
    }
    if ends_in_slash {
        path.push(b'/');
    }
    path
}

/// Decodes once: what a double escape becomes is for the server behind to read, as a single one.
fn decode(path: &[u8], mode: Mode) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        let escaped = if *first == b'%' { escape(after) } else { None };
        match escaped {
            Some(byte) if mode == Mode::Lenient || !matches!(byte, b'/' | b'\\') => {
                decoded.push(byte);
                rest = &after[2..];
            }
            Some(_) => {
                // upper case, so that %2f and %2F are one
                decoded.push(b'%');
                decoded.extend(after[..2].iter().map(u8::to_ascii_uppercase));
                rest = &after[2..];
            }
            None => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

fn escape(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| digits.get(at).and_then(|b| char::from(*b).to_digit(16));
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_spelling_of_a_path_is_read_as_it() {
        for (path, plain, lenient) in [
            ("/admin", "/admin", None),
            ("/a/b.c", "/a/b.c", None),
            ("", "/", None),
            ("/", "/", None),
            ("*", "*", None),
            ("//admin", "/admin", None),
            ("/admin//x", "/admin/x", None),
            ("/admin/", "/admin/", None),
            ("/%61dmin", "/admin", None),
            ("/%61%64%6d%69%6E", "/admin", None),
            ("/x/../admin", "/admin", None),
            ("/x/%2e%2E/admin", "/admin", None),
            ("/x/.%2e/admin", "/admin", None),
            ("/./admin", "/admin", None),
            ("/../../admin", "/admin", None),
            ("/admin/.", "/admin/", None),
            ("/admin/x/..", "/admin/", None),
            ("/.hidden", "/.hidden", None),
            ("/..x", "/..x", None),
            ("/%2561dmin", "/%61dmin", None),
            ("/%zz", "/%zz", None),
            ("/%4", "/%4", None),
            ("/caf%C3%A9", "/café", None),
            ("/a%20b", "/a b", None),
            ("/x%2fadmin", "/x%2Fadmin", Some("/x/admin")),
            ("/x/..%2Fadmin", "/x/..%2Fadmin", Some("/admin")),
            ("/x/..%5cadmin", "/x/..%5Cadmin", Some("/admin")),
            ("/x/..\\admin", "/x/..\\admin", Some("/admin")),
            ("/admin;x=1", "/admin;x=1", Some("/admin")),
            ("/x/..;/admin", "/x/..;/admin", Some("/admin")),
            ("/x/%2e%2e;y/admin", "/x/..;y/admin", Some("/admin")),
            ("/admin%3bx", "/admin;x", Some("/admin")),
        ] {
            let readings = Readings::of(path).unwrap();
            assert_eq!(text(&readings.plain), plain, "{path}");
            assert_eq!(readings.lenient.as_deref().map(text), lenient, "{path}");
        }
        assert_eq!(Readings::of("/admin%00"), None);
    }

    #[test]
    fn a_rules_path_must_be_what_a_request_can_be_read_as() {
        for (path, rooted, expected) in [
            ("/admin", true, true),
            ("/admin/", true, true),
            ("/", true, true),
            ("", false, true),
            (".json", false, true),
            ("..", false, true),
            ("/health", false, true),
            ("//admin", true, false),
            ("/x/../admin", true, false),
            ("/./x", true, false),
            ("/%61dmin", true, false),
            ("/x?y", true, false),
            ("x/..", false, false),
        ] {
            assert_eq!(is_normal_path(path, rooted), expected, "{path}");
        }
    }

    /// Whatever comes, a reading has only whole segments; what is read at once is what the long way reads.
    #[test]
    fn every_reading_is_normal() {
        use rand::{Rng, SeedableRng};
        const PIECES: [&str; 14] =
            ["/", "//", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", ";", "%", "a", "admin"];
        let seed: u64 = 20_261_125;
        println!("seed {seed}");
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..20_000 {
            let pieces = random.random_range(0..12);
            let path: String = (0..pieces).map(|_| PIECES[random.random_range(0..PIECES.len())]).collect();
            let path = format!("/{path}");
            let Readings { plain, lenient } = Readings::of(&path).unwrap();
            for reading in [Some(&*plain), lenient.as_deref()].into_iter().flatten() {
                let text = String::from_utf8_lossy(reading);
                let inner = text.strip_prefix('/').unwrap();
                let inner = inner.strip_suffix('/').unwrap_or(inner);
                let whole = |segment: &str| !matches!(segment, "" | "." | "..");
                assert!(inner.is_empty() || inner.split('/').all(whole), "{path} is read as {text}");
            }
            assert!(lenient.is_none_or(|l| !l.contains(&b';') && !l.contains(&b'\\')), "{path}");
            if is_simple(&path) {
                assert_eq!((read(&path, Mode::Plain), read(&path, Mode::Lenient)), (path.clone().into(), path.into()));
            }
        }
    }

    #[test]
    fn a_simple_path_costs_no_copy() {
        assert!(matches!(Readings::of("/api/v1/orders-1_2~3").unwrap().plain, Cow::Borrowed(_)));
    }
}
