//! [`TraceContext`]: W3C `traceparent` and `tracestate`, continued or started.
//!
//! <https://www.w3.org/TR/trace-context/>: `version-traceid-parentid-flags` in lower-case hex. A
//! header that does not hold is ignored and a new trace starts, as the recommendation asks.

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The place of one span in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: [u8; 16],
    /// This hop's span.
    pub(crate) span_id: [u8; 8],
    /// The caller's.
    pub(crate) parent_span_id: Option<[u8; 8]>,
    pub(crate) sampled: bool,
    pub(crate) state: Option<HeaderValue>,
}

impl TraceContext {
    /// A new span in the caller's trace, or in a new one that is sampled with probability `ratio`.
    pub(crate) fn next(headers: &HeaderMap, ratio: f64) -> Self {
        let incoming = headers.get(TRACEPARENT).and_then(|value| parse(value.as_bytes()));
        let span_id = nonzero();
        match incoming {
            Some((trace_id, parent, sampled)) => Self {
                trace_id,
                span_id,
                parent_span_id: Some(parent),
                sampled,
                state: headers.get(TRACESTATE).cloned(),
            },
            None => Self {
                trace_id: nonzero(),
                span_id,
                parent_span_id: None,
                sampled: ratio >= 1.0 || rand::random::<f64>() < ratio,
                state: None,
            },
        }
    }

    /// Tells the next hop; `tracestate` of a broken parent goes.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.traceparent());
        if self.state.is_none() {
            headers.remove(TRACESTATE);
        }
    }

    fn traceparent(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&self.trace_id, &mut text[3..35]);
        write_hex(&self.span_id, &mut text[36..52]);
        text[54] = if self.sampled { b'1' } else { b'0' };
        HeaderValue::from_bytes(&text).expect("hex digits and dashes")
    }
}

fn parse(text: &[u8]) -> Option<([u8; 16], [u8; 8], bool)> {
    let version = hex_byte(text.get(..2)?)?;
    // a later version may append fields, version 00 may not; 255 is forbidden
    let length_fits = if version == 0 { text.len() == 55 } else { text.len() == 55 || text.get(55) == Some(&b'-') };
    let dashed = text.get(2) == Some(&b'-') && text.get(35) == Some(&b'-') && text.get(52) == Some(&b'-');
    if version == 0xff || !length_fits || !dashed {
        return None;
    }
    let (trace_id, parent): ([u8; 16], [u8; 8]) = (read_hex(&text[3..35])?, read_hex(&text[36..52])?);
    let flags = hex_byte(&text[53..55])?;
    (trace_id != [0; 16] && parent != [0; 8]).then_some((trace_id, parent, flags & 1 == 1))
}

fn read_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = hex_byte(pair)?;
    }
    Some(bytes)
}

fn hex_byte(pair: &[u8]) -> Option<u8> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    Some(digit(pair[0])? << 4 | digit(pair[1])?)
}

fn write_hex(bytes: &[u8], text: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
}

fn nonzero<const N: usize>() -> [u8; N] {
    loop {
        let mut id = [0; N];
        rand::fill(&mut id[..]);
        if id != [0; N] {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(traceparent: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", traceparent.parse().unwrap());
        headers.insert("tracestate", "vendor=1".parse().unwrap());
        headers
    }

    #[test]
    fn a_trace_is_continued() {
        let mut headers = headers("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let context = TraceContext::next(&headers, 0.0);
        assert!(context.sampled);
        assert_eq!(context.parent_span_id, Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]));
        context.inject(&mut headers);
        let onward = TraceContext::next(&headers, 0.0);
        assert_eq!((onward.trace_id, onward.parent_span_id), (context.trace_id, Some(context.span_id)));
        assert_eq!(headers["tracestate"], "vendor=1");
    }

    #[test]
    fn what_does_not_hold_starts_a_new_trace() {
        for broken in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
        ] {
            let mut headers = headers(broken);
            let context = TraceContext::next(&headers, 0.0);
            assert_eq!((context.parent_span_id, context.sampled), (None, false), "{broken}");
            context.inject(&mut headers);
            assert!(!headers.contains_key("tracestate"), "{broken}");
        }
        let later = headers("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more");
        assert!(TraceContext::next(&later, 1.0).parent_span_id.is_some(), "a later version may say more");
    }
}
