//! [`Events`]: takes the data out of server-sent events that come in pieces.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>, section 9.2.6: lines end in LF, CR
//! or CRLF; a line that opens with `:` is a comment; the data lines of one event are joined by line
//! feeds; an empty line ends the event. Other fields do not matter here. Nothing is kept but how much of
//! `data:` was seen.

/// What precedes data.
const FIELD: &[u8] = b"data";

/// A part of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// Some of its data.
    Data(&'a [u8]),
    /// It is over; said only of events that have data.
    End,
}

/// Where in a line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the start, or this far into the name of the field.
    Field(usize),
    /// After the colon: one space does not belong to the data.
    Colon,
    Data,
    /// In a line that does not matter.
    Skip,
}

/// The walk through a stream.
#[derive(Debug)]
pub(crate) struct Events {
    place: Place,
    /// The last byte was a CR: a LF that follows belongs to it.
    after_cr: bool,
    /// How many data lines the event has so far.
    lines: u32,
}

impl Default for Events {
    fn default() -> Self {
        Self { place: Place::Field(0), after_cr: false, lines: 0 }
    }
}

impl Events {
    /// Reads on, and says every part in order.
    pub(crate) fn push(&mut self, mut bytes: &[u8], say: &mut impl FnMut(Part<'_>)) {
        while let Some((first, rest)) = bytes.split_first() {
            let end_of_crlf = std::mem::take(&mut self.after_cr) && *first == b'\n';
            if end_of_crlf {
                bytes = rest;
                continue;
            }
            match self.place {
                Place::Skip | Place::Data => {
                    let end = memchr::memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
                    if self.place == Place::Data && end > 0 {
                        say(Part::Data(&bytes[..end]));
                    }
                    bytes = &bytes[end..];
                    if let Some((stop, rest)) = bytes.split_first() {
                        self.line_ends(*stop);
                        bytes = rest;
                    }
                }
                Place::Colon => {
                    self.place = Place::Data;
                    bytes = if *first == b' ' { rest } else { bytes };
                }
                Place::Field(seen) => {
                    self.field(seen, *first, say);
                    bytes = rest;
                }
            }
        }
    }

    fn field(&mut self, seen: usize, byte: u8, say: &mut impl FnMut(Part<'_>)) {
        match byte {
            b'\n' | b'\r' => {
                if seen == FIELD.len() {
                    self.line_begins(say);
                }
                let blank = seen == 0;
                self.line_ends(byte);
                if blank {
                    self.event_ends(say);
                }
            }
            b':' if seen == FIELD.len() => {
                self.line_begins(say);
                self.place = Place::Colon;
            }
            byte if FIELD.get(seen) == Some(&byte) => self.place = Place::Field(seen + 1),
            _ => self.place = Place::Skip,
        }
    }

    fn line_begins(&mut self, say: &mut impl FnMut(Part<'_>)) {
        if self.lines > 0 {
            say(Part::Data(b"\n"));
        }
        self.lines = self.lines.saturating_add(1);
    }

    fn line_ends(&mut self, stop: u8) {
        self.after_cr = stop == b'\r';
        self.place = Place::Field(0);
    }

    fn event_ends(&mut self, say: &mut impl FnMut(Part<'_>)) {
        if std::mem::take(&mut self.lines) > 0 {
            say(Part::End);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str, size: usize) -> Vec<String> {
        let (mut events, mut all, mut now) = (Events::default(), Vec::new(), String::new());
        for piece in text.as_bytes().chunks(size) {
            events.push(piece, &mut |part| match part {
                Part::Data(data) => now.push_str(std::str::from_utf8(data).unwrap()),
                Part::End => all.push(std::mem::take(&mut now)),
            });
        }
        all
    }

    #[test]
    fn data_is_taken_out_wherever_pieces_end() {
        for (text, expected) in [
            ("data: one\n\ndata:two\n\n", &["one", "two"][..]),
            ("data: a\r\ndata: b\r\n\r\ndata:  c\r\r", &["a\nb", " c"]),
            (": comment\nevent: x\ndata: {}\nid: 1\n\n\n\n", &["{}"]),
            ("data\ndata\n\n", &["\n"]),
            ("database: x\ndat: y\n data: z\n\n", &[]),
            ("data: [DONE]\n\ndata: cut off", &["[DONE]"]),
        ] {
            for size in 1..=text.len() {
                assert_eq!(events(text, size), expected, "{text:?} in pieces of {size}");
            }
        }
    }
}
