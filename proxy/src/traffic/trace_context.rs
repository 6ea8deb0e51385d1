//! [`TraceContext`]: the caller's trace, continued or started, in the forms that are spoken around here.
//!
//! W3C (<https://www.w3.org/TR/trace-context/>): `traceparent` is `version-traceid-parentid-flags` in
//! lower-case hex, and `tracestate` goes with it. B3 (<https://github.com/openzipkin/b3-propagation>): one
//! field `b3`, `traceid-spanid-sampled-parentid`, or several, `x-b3-…`; ids of 64 bits are widened with
//! zeros. The forms are tried in the order of `telemetry.propagation`; the first that holds is taken, and
//! all of them are written. A field that does not hold is ignored, as the recommendation asks. `baggage`
//! passes as it is.
//!
//! A caller that has decided whether its trace is recorded is obeyed: what it leaves out has no span here either, and is
//! only counted (`unsampled_by_caller`). Where the choice is ours, `tracestate` says how it was made ([`Sampler`]). B3 has no
//! place for that: with B3 alone, hops behind this one record the same traces but cannot tell what each stands for.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{config::Propagation, traffic::sampler::Sampler};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
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
    /// The caller left it open whether to sample, or there is none.
    pub(crate) decided_here: bool,
    /// Whether `tracestate` belongs to the trace; that of a broken parent goes.
    pub(crate) goes_on: bool,
    /// It, as far as the span keeps it.
    pub(crate) state: Option<Box<str>>,
}

/// 512 B of `tracestate`, which the recommendation asks to pass on at least; the span of a longer one says none.
const MAX_STATE: usize = 512;

/// What a caller says of its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Incoming {
    /// Its trace and span; a caller may say no more than whether to sample.
    ids: Option<([u8; 16], [u8; 8])>,
    sampled: Option<bool>,
}

impl TraceContext {
    /// A new span in the caller's trace, or in a new one that is sampled as `sampler` says.
    pub(crate) fn next(headers: &HeaderMap, forms: &[Propagation], sampler: &Sampler) -> Self {
        let found = forms.iter().find_map(|form| Some((*form, extract(*form, headers)?)));
        let ids = found.and_then(|(_, incoming)| incoming.ids);
        let (trace_id, parent_span_id) = ids.map_or_else(|| (nonzero(), None), |(trace, parent)| (trace, Some(parent)));
        // who leaves the choice to us gets ours
        let said = found.and_then(|(_, incoming)| incoming.sampled);
        let sampled = said.unwrap_or_else(|| sampler.keeps(&trace_id));
        let goes_on = matches!(found, Some((Propagation::Tracecontext, _)));
        let (span_id, decided_here) = (nonzero(), said.is_none());
        Self { trace_id, span_id, parent_span_id, sampled, decided_here, goes_on, state: None }
    }

    /// Keeps `tracestate` for the span.
    pub(crate) fn keep_state(&mut self, headers: &HeaderMap, sampler: &Sampler) {
        let state = self.own_state(sampler).or_else(|| headers.get(TRACESTATE).filter(|_| self.goes_on));
        let state = state.and_then(|state| state.to_str().ok());
        self.state = state.filter(|state| state.len() <= MAX_STATE).map(Into::into);
    }

    /// Tells the next hop; `tracestate` of a broken parent goes.
    pub(crate) fn inject(&self, forms: &[Propagation], sampler: &Sampler, headers: &mut HeaderMap) {
        for form in forms {
            match form {
                Propagation::Tracecontext => self.inject_w3c(sampler, headers),
                Propagation::B3 => {
                    headers.insert(B3, self.b3());
                }
                Propagation::B3multi => self.inject_b3_fields(headers),
            }
        }
    }

    fn inject_w3c(&self, sampler: &Sampler, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.traceparent());
        if let Some(state) = self.own_state(sampler) {
            headers.insert(TRACESTATE, state.clone());
        } else if !self.goes_on {
            headers.remove(TRACESTATE);
        }
    }

    /// What `tracestate` has to say where the choice was ours; no caller's goes on then.
    fn own_state<'a>(&self, sampler: &'a Sampler) -> Option<&'a HeaderValue> {
        sampler.says().filter(|_| self.sampled && self.decided_here)
    }

    fn inject_b3_fields(&self, headers: &mut HeaderMap) {
        headers.insert(B3_TRACE_ID, hex_value(&self.trace_id));
        headers.insert(B3_SPAN_ID, hex_value(&self.span_id));
        match &self.parent_span_id {
            Some(parent) => headers.insert(B3_PARENT_SPAN_ID, hex_value(parent)),
            None => headers.remove(B3_PARENT_SPAN_ID),
        };
        // `x-b3-flags: 1` says debug, which implies sampled; it stays, and then nothing else is said
        if headers.get(B3_FLAGS).is_none_or(|flags| flags != "1") {
            headers.insert(B3_SAMPLED, HeaderValue::from_static(if self.sampled { "1" } else { "0" }));
        }
    }

    fn traceparent(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&self.trace_id, &mut text[3..35]);
        write_hex(&self.span_id, &mut text[36..52]);
        text[54] = digit(self.sampled);
        HeaderValue::from_bytes(&text).expect("hex digits and dashes")
    }

    fn b3(&self) -> HeaderValue {
        let mut text = *b"00000000000000000000000000000000-0000000000000000-0-0000000000000000";
        write_hex(&self.trace_id, &mut text[..32]);
        write_hex(&self.span_id, &mut text[33..49]);
        text[50] = digit(self.sampled);
        let length = match &self.parent_span_id {
            Some(parent) => {
                write_hex(parent, &mut text[52..]);
                text.len()
            }
            None => 51,
        };
        HeaderValue::from_bytes(&text[..length]).expect("hex digits and dashes")
    }
}

fn extract(form: Propagation, headers: &HeaderMap) -> Option<Incoming> {
    match form {
        Propagation::Tracecontext => w3c(headers.get(TRACEPARENT)?.as_bytes()),
        Propagation::B3 => b3(headers.get(B3)?.as_bytes()),
        Propagation::B3multi => b3_fields(headers),
    }
}

fn w3c(text: &[u8]) -> Option<Incoming> {
    let version = hex_byte(text.get(..2)?)?;
    // a later version may append fields, version 00 may not; 255 is forbidden
    let length_fits = if version == 0 { text.len() == 55 } else { text.len() == 55 || text.get(55) == Some(&b'-') };
    let dashed = text.get(2) == Some(&b'-') && text.get(35) == Some(&b'-') && text.get(52) == Some(&b'-');
    if version == 0xff || !length_fits || !dashed {
        return None;
    }
    let flags = hex_byte(&text[53..55])?;
    Some(Incoming { ids: Some(ids(&text[3..35], &text[36..52])?), sampled: Some(flags & 1 == 1) })
}

fn b3(text: &[u8]) -> Option<Incoming> {
    let mut parts = text.split(|byte| *byte == b'-');
    let first = parts.next()?;
    let Some(span) = parts.next() else { return Some(Incoming { ids: None, sampled: Some(sampled(first)?) }) };
    let said = parts.next().map(sampled);
    // a fourth part names the caller's parent, which is the caller's business
    let sampled = if let Some(said) = said { Some(said?) } else { None };
    Some(Incoming { ids: Some(ids(first, span)?), sampled })
}

fn b3_fields(headers: &HeaderMap) -> Option<Incoming> {
    let debug = headers.get(B3_FLAGS).is_some_and(|flags| flags == "1").then_some(true);
    let said = headers.get(B3_SAMPLED).and_then(|said| sampled(said.as_bytes()));
    let ids = match (headers.get(B3_TRACE_ID), headers.get(B3_SPAN_ID)) {
        (Some(trace), Some(span)) => Some(ids(trace.as_bytes(), span.as_bytes())?),
        _ => None,
    };
    let sampled = debug.or(said);
    (ids.is_some() || sampled.is_some()).then_some(Incoming { ids, sampled })
}

/// `d` is debug; older senders say `true` and `false`.
fn sampled(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"d" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

/// A trace of 16 or 8 bytes and a span, neither all zero.
fn ids(trace: &[u8], span: &[u8]) -> Option<([u8; 16], [u8; 8])> {
    let trace_id: [u8; 16] = match trace.len() {
        16 => {
            let mut wide = [0; 16];
            wide[8..].copy_from_slice(&read_hex::<8>(trace)?);
            wide
        }
        _ => read_hex(trace)?,
    };
    let span_id: [u8; 8] = read_hex(span)?;
    (trace_id != [0; 16] && span_id != [0; 8]).then_some((trace_id, span_id))
}

fn read_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
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

fn hex_value(bytes: &[u8]) -> HeaderValue {
    let mut text = [b'0'; 32];
    write_hex(bytes, &mut text);
    HeaderValue::from_bytes(&text[..2 * bytes.len()]).expect("hex digits")
}

fn digit(sampled: bool) -> u8 {
    if sampled { b'1' } else { b'0' }
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
    use Propagation::{B3 as Single, B3multi as Multi, Tracecontext as W3c};

    const W3C: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        fields.iter().map(field).collect()
    }

    fn next(headers: &HeaderMap, forms: &[Propagation], ratio: f64) -> TraceContext {
        TraceContext::next(headers, forms, &Sampler::new(ratio))
    }

    #[test]
    fn a_trace_is_continued() {
        let mut headers = headers(&[("traceparent", W3C), ("tracestate", "vendor=1"), ("baggage", "a=1")]);
        let context = next(&headers, &[W3c], 0.0);
        assert!(context.sampled);
        assert_eq!(context.parent_span_id, Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]));
        context.inject(&[W3c], &Sampler::new(0.0), &mut headers);
        let onward = next(&headers, &[W3c], 0.0);
        assert_eq!((onward.trace_id, onward.parent_span_id), (context.trace_id, Some(context.span_id)));
        assert_eq!(
            (&headers["tracestate"], &headers["baggage"]),
            (&"vendor=1".parse().unwrap(), &"a=1".parse().unwrap())
        );
        assert!(!headers.contains_key("b3"));
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
            let mut headers = headers(&[("traceparent", broken), ("tracestate", "vendor=1")]);
            let context = next(&headers, &[W3c], 0.0);
            assert_eq!((context.parent_span_id, context.sampled), (None, false), "{broken}");
            context.inject(&[W3c], &Sampler::new(0.0), &mut headers);
            assert!(!headers.contains_key("tracestate"), "{broken}");
        }
        let later = headers(&[("traceparent", "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more")]);
        assert!(next(&later, &[W3c], 1.0).parent_span_id.is_some(), "a later version may say more");
    }

    /// `trace parent sampled`, as far as the caller decides it.
    fn read(fields: &[(&'static str, &str)], forms: &[Propagation]) -> String {
        let headers = headers(fields);
        let context = |ratio| next(&headers, forms, ratio);
        let (never, always) = (context(0.0), context(1.0));
        let hex = |bytes: &[u8]| hex_value(bytes).to_str().unwrap().to_owned();
        let ids = never.parent_span_id.map_or("new".into(), |p| format!("{} {}", hex(&never.trace_id), hex(&p)));
        let sampled = if never.sampled == always.sampled { never.sampled.to_string() } else { "undecided".into() };
        format!("{ids} {sampled}")
    }

    #[test]
    fn b3_is_read_in_both_forms_and_in_the_order_that_is_configured() {
        const WIDE: &str = "0af7651916cd43dd8448eb211c80319c";
        let (a, b) = ("00f067aa0ba902b7", "b7ad6b7169203331");
        let wide = |sampled: &str| format!("{WIDE} {a} {sampled}");
        let narrow = format!("0000000000000000{b} {a} true");
        for (fields, forms, expected) in [
            (&[("b3", format!("{WIDE}-{a}-1"))][..], &[Single][..], wide("true")),
            (&[("b3", format!("{WIDE}-{a}-0-{b}"))], &[Single], wide("false")),
            (&[("b3", format!("{WIDE}-{a}"))], &[Single], wide("undecided")),
            (&[("b3", format!("{b}-{a}-d"))], &[Single], narrow.clone()),
            (&[("b3", "0".into())], &[Single], "new false".into()),
            (&[("b3", format!("{WIDE}-{a}-x"))], &[Single], "new undecided".into()),
            (&[("b3", format!("{WIDE}-{WIDE}-1"))], &[Single], "new undecided".into()),
            (&[("b3", format!("{WIDE}-{a}-1"))], &[W3c], "new undecided".into()),
            (&[("x-b3-traceid", b.into()), ("x-b3-spanid", a.into()), ("x-b3-flags", "1".into())], &[Multi], narrow),
            (&[("x-b3-traceid", WIDE.into()), ("x-b3-spanid", a.into())], &[Multi], wide("undecided")),
            (&[("x-b3-sampled", "0".into())], &[Multi], "new false".into()),
            (&[("x-b3-traceid", WIDE.into()), ("x-b3-spanid", "7".into())], &[Multi], "new undecided".into()),
            (&[("b3", format!("{WIDE}-{a}-0")), ("traceparent", W3C.into())], &[Single, W3c], wide("false")),
            (&[("b3", "broken-x".into()), ("traceparent", W3C.into())], &[Single, W3c], format!("{WIDE} {b} true")),
        ] {
            let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(read(&fields, forms), expected, "{fields:?}");
        }
    }

    #[test]
    fn what_is_written_in_any_form_is_read_again() {
        let forms = [W3c, Single, Multi];
        for (parent, ratio) in [(Some(W3C), 0.0), (None, 1.0), (None, 0.0)] {
            let mut headers = parent.map_or_else(HeaderMap::new, |parent| headers(&[("traceparent", parent)]));
            let context = next(&headers, &forms, ratio);
            context.inject(&forms, &Sampler::new(ratio), &mut headers);
            for form in forms {
                let onward = next(&headers, &[form], 1.0 - ratio);
                let expected = (context.trace_id, Some(context.span_id), context.sampled);
                assert_eq!((onward.trace_id, onward.parent_span_id, onward.sampled), expected, "{form:?}");
            }
        }
    }

    #[test]
    fn whoever_decides_says_what_a_span_stands_for() {
        let sampler = Sampler::new(0.5);
        let callers = [("traceparent", W3C), ("tracestate", "vendor=1,ot=th:c")];
        let open = [("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"), ("tracestate", "vendor=1")];
        let shut = [("b3", "0af7651916cd43ddc048eb211c80319c-b7ad6b7169203331-0")];
        for (fields, sampled, decided_here, state) in [
            (&callers[..], true, false, Some("vendor=1,ot=th:c")),
            (&open, false, true, None),
            (&shut, false, false, None),
        ] {
            let mut headers = headers(fields);
            let mut context = TraceContext::next(&headers, &[W3c, Single], &sampler);
            context.keep_state(&headers, &sampler);
            assert_eq!((context.sampled, context.decided_here), (sampled, decided_here), "{fields:?}");
            assert_eq!(context.state.as_deref(), state, "{fields:?}");
            context.inject(&[W3c, Single], &sampler, &mut headers);
            assert_eq!(headers.get("tracestate").map(|state| state.to_str().unwrap()), state, "{fields:?}");
        }
        for _ in 0..100 {
            let mut headers = HeaderMap::new();
            let mut context = TraceContext::next(&headers, &[W3c], &sampler);
            context.keep_state(&headers, &sampler);
            context.inject(&[W3c], &sampler, &mut headers);
            let said = headers.get("tracestate").map(|state| state.to_str().unwrap());
            assert_eq!((said, context.state.as_deref()), (context.sampled.then_some("ot=th:8"), said));
        }
    }
}
