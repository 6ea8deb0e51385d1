//! How a path is read before routes and rules are asked, so that another spelling of it slips past none, and both see the same.
//!
//! The plain reading is that of RFC 3986 §6.2.2, taken a step further: every `%XX` is decoded, once, but
//! an escaped slash or backslash, which separates nothing in a URI; empty segments go (`//` is `/`); `.`
//! and `..` are resolved. Where a path has an escaped slash, a backslash, or a `;parameter`, servers differ, so
//! there is a lenient reading beside it: slashes of every spelling separate, parameters are cut. The path that is
//! passed on stays as it came. A NUL has no reading. Rules are asked both readings, routes the plain one.

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

/// A path as routes see it: its plain reading, a NUL in it or not. The lack of one (CONNECT) stays so.
pub(crate) fn as_routed(path: &str) -> Cow<'_, str> {
    if path.is_empty() || is_simple(path) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(String::from_utf8_lossy(&read(path, Mode::Plain)).into_owned())
}

/// The beginning of a path as routes see it: its last segment may be part of a longer one.
pub(crate) fn as_routed_start(start: &str) -> String {
    let (whole, last) = start.rsplit_once('/').unwrap_or(("", start));
    let last = decode(last.as_bytes(), Mode::Plain);
    let mut seen = as_routed(&format!("{whole}/")).into_owned();
    seen.push_str(&String::from_utf8_lossy(&last));
    seen
}

/// What follows the first `length` bytes that routes see of a path, as it came. Only where a `.` or `..` would lead back
/// into what was matched it is resolved first, or a new beginning could be left again.
pub(crate) fn after(path: &str, length: usize) -> Option<Cow<'_, str>> {
    if is_simple(path) {
        return path.get(length..).map(Cow::Borrowed);
    }
    let (head, tail) = path.split_at(end_of_dots(path));
    // it ends in a slash, with which the tail begins again
    let head_seen = if head.is_empty() { 0 } else { read(head, Mode::Plain).len() - 1 };
    if head_seen <= length && (!tail.is_empty() || head.is_empty()) {
        return skip(tail.as_bytes(), length - head_seen).and_then(|at| tail.get(at..)).map(Cow::Borrowed);
    }
    // an escaped slash separates nothing, so the segments are the same before they are decoded
    let canonical = resolve(path.as_bytes().split(|byte| *byte == b'/'), |segment| decode(segment, Mode::Plain));
    let at = skip(&canonical, length)?;
    Some(Cow::Owned(String::from_utf8_lossy(&canonical[at..]).into_owned()))
}

/// Where the last segment `.` or `..` ends, however it is spelled; 0 without any.
fn end_of_dots(path: &str) -> usize {
    let mut end = path.len();
    for segment in path.rsplit('/') {
        if matches!(&*decode(segment.as_bytes(), Mode::Plain), b"." | b"..") {
            return end;
        }
        end = end.saturating_sub(segment.len() + 1);
    }
    0
}

/// How many bytes stand for the first `length` that are seen: an escape for one, as do several slashes before another byte.
fn skip(path: &[u8], length: usize) -> Option<usize> {
    let (mut at, mut seen) = (0, 0);
    while seen < length {
        let rest = path.get(at..).filter(|rest| !rest.is_empty())?;
        seen += 1;
        at += match rest[0] {
            b'%' if escape(&rest[1..]).is_some_and(|byte| !matches!(byte, b'/' | b'\\')) => 3,
            b'/' if seen < length => rest.iter().take_while(|byte| **byte == b'/').count(),
            _ => 1,
        };
    }
    Some(at)
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
    let cut = |segment: &[u8]| match mode {
        Mode::Plain => segment.len(),
        Mode::Lenient => segment.iter().position(|b| *b == b';').unwrap_or(segment.len()),
    };
    resolve(decoded.split(is_slash).map(|segment| &segment[..cut(segment)]), |segment| segment)
}

/// The path of the segments that lead somewhere; `name` is how one reads.
fn resolve<'a, N: AsRef<[u8]>>(segments: impl Iterator<Item = &'a [u8]>, name: impl Fn(&'a [u8]) -> N) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends_in_slash = true;
    for segment in segments {
        let name = name(segment);
        ends_in_slash = matches!(name.as_ref(), b"" | b"." | b"..");
        match name.as_ref() {
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    if ends_in_slash {
        kept.push(b"");
    }
    kept.into_iter().flat_map(|segment| [b"/", segment]).flatten().copied().collect()
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

    /// Routes once saw the path as it came, rules as it is read, and `/x/../admin` could be two paths.
    #[test]
    fn routes_see_what_rules_see_and_what_follows_goes_on_as_it_came() {
        for (path, prefix, seen, rest) in [
            ("/api/x", "/api", "/api/x", "/x"),
            ("//api//x", "/api", "/api/x", "//x"),
            ("//v1//api/x//y//", "/v1/api", "/v1/api/x/y/", "/x//y//"),
            ("/api/http://a/b", "/api/", "/api/http:/a/b", "http://a/b"),
            ("/api//x//y", "/api/", "/api/x/y", "/x//y"),
            ("/v1/..//api//x//y", "/api", "/api/x/y", "//x//y"),
            ("/v1/../api/.//x//y", "/api", "/api/x/y", "//x//y"),
            ("/api//x/../y", "/api", "/api/y", "/y"),
            ("/api/x/%2e%2E", "/api", "/api/", "/"),
            ("/api/x;a//y", "/api", "/api/x;a/y", "/x;a//y"),
            ("/%61pi/x%20y", "/api", "/api/x y", "/x%20y"),
            ("/api/x%2Fy%252F", "/api", "/api/x%2Fy%2F", "/x%2Fy%252F"),
            ("/api/x%2fy", "/api/x%2Fy", "/api/x%2Fy", ""),
            ("/v1/%2e%2E/api/./x", "/api", "/api/x", "/x"),
            ("/caf%C3%A9/x", "/café", "/café/x", "/x"),
            ("/api/..", "/", "/", ""),
            ("/api%", "/api", "/api%", "%"),
        ] {
            assert_eq!((&*as_routed(path), after(path, prefix.len()).as_deref()), (seen, Some(rest)), "{path}");
        }
        assert_eq!((&*as_routed(""), &*as_routed("*"), &*as_routed("//a/%61%00")), ("", "*", "/a/a\0"));
        assert_eq!(after("/a", 3), None);
        for (start, seen) in [("/.", "/."), ("/a//b/.", "/a/b/."), ("/%61", "/a"), ("/a/../b", "/b"), ("/", "/")] {
            assert_eq!(as_routed_start(start), seen, "{start}");
        }
    }

    /// What follows, put behind what was matched, is read as the whole was, and leads nowhere else behind a new beginning.
    #[test]
    fn what_follows_is_read_as_it_was() {
        use rand::{Rng, SeedableRng};
        const PIECES: [&str; 12] = ["/", "/", "//", ".", "..", "%2e", "%2F", "\\", ";", "%61", "a", "b"];
        let seed: u64 = 20_261_126;
        println!("seed {seed}");
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..20_000 {
            let pieces = random.random_range(0..12);
            let path: String = (0..pieces).map(|_| PIECES[random.random_range(0..PIECES.len())]).collect();
            let path = format!("/{path}");
            let seen = as_routed(&path).into_owned();
            for (slash, _) in seen.match_indices('/') {
                // a prefix without a slash at its end, as most are
                let rest = after(&path, slash).unwrap();
                assert_eq!(
                    as_routed(&format!("/new{rest}")),
                    format!("/new{}", &seen[slash..]),
                    "{path} after {slash}"
                );
            }
        }
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
