//! Reads the corpus.

use std::path::Path;

/// One section of a file.
pub(crate) struct Case {
    pub(crate) theme: String,
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    pub(crate) bytes: Vec<u8>,
}

/// What must become of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    Refused,
    Cut,
    Passed(usize),
}

/// All cases of all files.
pub(crate) fn read() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/smuggling/corpus");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| cases(file)).collect()
}

fn cases(file: &Path) -> Vec<Case> {
    let theme = file.file_stem().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(file).unwrap();
    let case = |section: &str| {
        let (title, lines) = section.split_once('\n').unwrap();
        let (verdict, name) = title.split_once(" | ").unwrap();
        let verdict = match verdict.split_once(' ') {
            None if verdict == "refused" => Verdict::Refused,
            None if verdict == "cut" => Verdict::Cut,
            Some(("passed", count)) => Verdict::Passed(count.parse().unwrap()),
            _ => panic!("{theme}: {verdict:?} is no verdict"),
        };
        let bytes = lines.lines().flat_map(unescape).collect();
        Case { theme: theme.clone(), name: name.to_owned(), verdict, bytes }
    };
    text.split("\n=== ").skip(1).map(case).collect()
}

fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend(before.bytes());
        rest = &after[1..];
        match after.as_bytes()[0] {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            b'{' => {
                let (run, after) = rest.split_once('}').unwrap();
                let (what, times) = run.split_once('*').unwrap();
                bytes.extend(what.repeat(times.parse().unwrap()).bytes());
                rest = after;
            }
            other => panic!("{:?} is no escape", char::from(other)),
        }
    }
    bytes.extend(rest.bytes());
    bytes
}
