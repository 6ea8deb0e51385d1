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
    /// What else the caller says of its trace.
    pub(crate) marks: Marks,
    /// Whether `tracestate` belongs to the trace; that of a broken parent goes.
    pub(crate) goes_on: bool,
    /// It, as far as the span keeps it.
    pub(crate) state: Option<Box<str>>,
}

/// What is said of a trace beside whether it is sampled; it goes on as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// W3C's flag 02: the last 7 bytes of the trace's id are random, so that samplers may go by them.
    pub(crate) random: bool,
    /// B3's `d`: sampled, whatever samplers on the way think.
    pub(crate) debug: bool,
}

/// 512 B of `tracestate`, which the recommendation asks to pass on at least; the span of a longer one says none.
const MAX_STATE: usize = 512;

/// What a caller says of its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Incoming {
    /// Its trace and span; a caller may say no more than whether to sample.
    ids: Option<([u8; 16], [u8; 8])>,
    sampled: Option<bool>,
    marks: Marks,
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
        let marks = found.map(|(_, incoming)| incoming.marks).unwrap_or_default();
        Self { trace_id, span_id, parent_span_id, sampled, decided_here, marks, goes_on, state: None }
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
        if self.marks.debug {
            headers.insert(B3_FLAGS, HeaderValue::from_static("1"));
            headers.remove(B3_SAMPLED);
        } else if headers.get(B3_FLAGS).is_none_or(|flags| flags != "1") {
            headers.insert(B3_SAMPLED, HeaderValue::from_static(if self.sampled { "1" } else { "0" }));
        }
    }

    fn traceparent(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&self.trace_id, &mut text[3..35]);
        write_hex(&self.span_id, &mut text[36..52]);
        text[54] = digit(self.sampled) + 2 * u8::from(self.marks.random);
        HeaderValue::from_bytes(&text).expect("hex digits and dashes")
    }

    fn b3(&self) -> HeaderValue {
        let mut text = *b"00000000000000000000000000000000-0000000000000000-0-0000000000000000";
        write_hex(&self.trace_id, &mut text[..32]);
        write_hex(&self.span_id, &mut text[33..49]);
        text[50] = if self.marks.debug { b'd' } else { digit(self.sampled) };
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
    let marks = Marks { random: flags & 2 == 2, debug: false };
    Some(Incoming { ids: Some(ids(&text[3..35], &text[36..52])?), sampled: Some(flags & 1 == 1), marks })
}

fn b3(text: &[u8]) -> Option<Incoming> {
    let mut parts = text.split(|byte| *byte == b'-');
    let first = parts.next()?;
    let marks = |said: Option<&[u8]>| Marks { random: false, debug: said == Some(b"d") };
    let Some(span) = parts.next() else {
        return Some(Incoming { ids: None, sampled: Some(sampled(first)?), marks: marks(Some(first)) });
    };
    let said = parts.next();
    // a fourth part names the caller's parent, which is the caller's business
    let sampled = if let Some(said) = said { Some(sampled(said)?) } else { None };
    Some(Incoming { ids: Some(ids(first, span)?), sampled, marks: marks(said) })
}

fn b3_fields(headers: &HeaderMap) -> Option<Incoming> {
    let debug = headers.get(B3_FLAGS).is_some_and(|flags| flags == "1").then_some(true);
    let said = headers.get(B3_SAMPLED).and_then(|said| sampled(said.as_bytes()));
    let ids = match (headers.get(B3_TRACE_ID), headers.get(B3_SPAN_ID)) {
        (Some(trace), Some(span)) => Some(ids(trace.as_bytes(), span.as_bytes())?),
        _ => None,
    };
    let (sampled, marks) = (debug.or(said), Marks { random: false, debug: debug.is_some() });
    (ids.is_some() || sampled.is_some()).then_some(Incoming { ids, sampled, marks })
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
mod tests;
