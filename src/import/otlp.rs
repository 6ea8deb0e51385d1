//! OTLP files: JSON (one request, or one a line, as the collector's file exporter writes) and
//! protobuf (one request, or requests each after its length, as a 4-byte big-endian number).

use bytes::Bytes;
use weir_schema::Encoding;

use super::{Chunk, Item, Reader};

/// One request, or one a line. A line that is not JSON is a bad record with its number.
pub(super) fn open_json_lines(bytes: Bytes) -> Reader {
    let length = bytes.len() as u64;
    let whole = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
    let items: Box<dyn Iterator<Item = Item>> = if whole {
        Box::new(std::iter::once(json_chunk(bytes, length, String::new())))
    } else {
        Box::new(lines(bytes))
    };
    Reader { length, unit: "bytes", items }
}

/// Length-prefixed requests when the lengths add up to the file, else one request.
pub(super) fn open_protobuf(bytes: Bytes) -> Result<Reader, anyhow::Error> {
    let length = bytes.len() as u64;
    let frames = frames(&bytes).unwrap_or_else(|| vec![bytes]);
    let several = frames.len() > 1;
    let mut position = 0;
    let items = frames.into_iter().enumerate().map(move |(index, body)| {
        position += body.len() as u64;
        let place = if several { format!("request {}", index + 1) } else { String::new() };
        Item::Chunk(Chunk::Otlp { encoding: Encoding::Protobuf, body, place }, position)
    });
    Ok(Reader { length, unit: "bytes", items: Box::new(items) })
}

fn json_chunk(body: Bytes, position: u64, place: String) -> Item {
    Item::Chunk(Chunk::Otlp { encoding: Encoding::Json, body, place }, position)
}

fn lines(bytes: Bytes) -> impl Iterator<Item = Item> {
    let mut start = 0;
    let mut number = 0;
    std::iter::from_fn(move || {
        loop {
            if start >= bytes.len() {
                return None;
            }
            let rest = &bytes[start..];
            let end = start + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
            let line = bytes.slice(start..end);
            start = end + 1;
            number += 1;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return Some(match serde_json::from_slice::<serde::de::IgnoredAny>(&line) {
                Ok(_) => json_chunk(line, end as u64, format!("line {number}")),
                Err(error) => Item::Bad(format!("line {number}: {error}")),
            });
        }
    })
}

fn frames(bytes: &Bytes) -> Option<Vec<Bytes>> {
    let mut rest = bytes.clone();
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let prefix: [u8; 4] = rest.get(..4)?.try_into().ok()?;
        let length = u32::from_be_bytes(prefix) as usize;
        if length == 0 || rest.len() < 4 + length {
            return None;
        }
        frames.push(rest.slice(4..4 + length));
        rest = rest.slice(4 + length..);
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: Reader) -> (Vec<String>, Vec<String>) {
        let mut bad = Vec::new();
        let mut places = Vec::new();
        for item in reader.items {
            match item {
                Item::Chunk(chunk, _) => places.push(chunk.place()),
                Item::Bad(why) => bad.push(why),
            }
        }
        (places, bad)
    }

    #[test]
    fn a_bad_line_is_named_and_the_rest_goes_on() {
        let text = "{\"resourceSpans\":[]}\n\nnot json\n{\"resourceSpans\":[]}\n";
        let (places, bad) = read(open_json_lines(Bytes::from(text)));
        assert_eq!(places, ["line 1: ", "line 4: "]);
        assert!(bad[0].starts_with("line 3:"), "{bad:?}");
    }

    #[test]
    fn a_pretty_printed_request_is_one() {
        let (places, bad) = read(open_json_lines(Bytes::from("{\n  \"resourceSpans\": []\n}\n")));
        assert_eq!((places, bad.len()), (vec![String::new()], 0));
    }

    #[test]
    fn length_prefixed_requests_are_split() {
        let framed = Bytes::from_static(&[0, 0, 0, 2, 10, 0, 0, 0, 0, 1, 7]);
        assert_eq!(frames(&framed).map(|f| f.len()), Some(2));
        assert_eq!(frames(&Bytes::from_static(&[10, 0])), None);
    }
}
