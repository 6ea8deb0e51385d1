//! The same message written otherwise: fields in any order, unknown ones and groups between them, scalars
//! twice, packed fields unpacked.

use crate::{Signal, otlp::tests::Random};

/// A message's kind, so far as it takes to find the messages inside.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Request(Signal),
    OfResource(Signal),
    OfScope(Signal),
    Holder,
    Span,
    Record,
    Metric,
    Data,
    Point,
    OfHistogram,
    HistogramPoint,
    Pair,
    Any,
    List,
    Leaf,
}

fn inside(kind: Kind, field: u32) -> Option<Kind> {
    use Kind::*;
    match (kind, field) {
        (Request(signal), 1) => Some(OfResource(signal)),
        (OfResource(_), 1) | (OfScope(_), 1) => Some(Holder),
        (OfResource(signal), 2) => Some(OfScope(signal)),
        (OfScope(Signal::Traces), 2) => Some(Span),
        (OfScope(Signal::Logs), 2) => Some(Record),
        (OfScope(Signal::Metrics), 2) => Some(Metric),
        (Span, 9) | (Record, 6) => Some(Pair),
        (Record, 5) | (Pair, 2) => Some(Any),
        (Span, 11 | 13 | 15) => Some(Leaf),
        (Metric, 5 | 7 | 10 | 11) => Some(Data),
        (Metric, 9) => Some(OfHistogram),
        (Data, 1) => Some(Point),
        (OfHistogram, 1) => Some(HistogramPoint),
        (Any, 5 | 6) => Some(List),
        _ => None,
    }
}

/// Fields of any message that may be written twice: the last is meant.
fn is_scalar(kind: Kind, field: u32, wire_type: u8) -> bool {
    match kind {
        Kind::Span => matches!(field, 3 | 5 | 6 | 7 | 8),
        Kind::Record => matches!(field, 1 | 2 | 3 | 11 | 12),
        Kind::Point | Kind::HistogramPoint => wire_type == 1 && matches!(field, 2 | 3),
        Kind::Any => wire_type != 2,
        _ => false,
    }
}

/// The same message, written as no exporter writes it.
pub(super) fn scramble(bytes: &[u8], kind: Kind, random: &mut Random) -> Vec<u8> {
    let mut fields: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (number, wire_type, value, after) = split(rest);
        rest = after;
        let value = match inside(kind, number) {
            Some(inner) if wire_type == 2 => scramble(value, inner, random),
            _ => value.to_vec(),
        };
        if is_scalar(kind, number, wire_type) && random.chance(20) {
            let other = match wire_type {
                0 => vec![1],
                2 => random.text().into_bytes(),
                _ => vec![1; value.len()],
            };
            fields.push((number, written(number, wire_type, &other)));
        }
        // counts and bounds, one by one
        let packed = kind == Kind::HistogramPoint && matches!(number, 6 | 7) && wire_type == 2;
        if packed && random.chance(50) {
            fields.extend(value.chunks(8).map(|one| (number, written(number, 1, one))));
        } else {
            fields.push((number, written(number, wire_type, &value)));
        }
    }
    if random.chance(50) {
        // the order among fields of one number stays
        let mut keys: Vec<(u32, usize)> = fields.iter().enumerate().map(|(i, (n, _))| (*n, i)).collect();
        let turn = random.below(7) as u32;
        keys.sort_by_key(|(number, place)| (number.wrapping_mul(2_654_435_761).rotate_left(turn), *place));
        fields = keys.into_iter().map(|(_, place)| fields[place].clone()).collect();
    }
    let mut out = Vec::new();
    for (_, field) in fields {
        if random.chance(10) {
            out.extend(unknown(random));
        }
        out.extend(field);
    }
    out
}

fn split(bytes: &[u8]) -> (u32, u8, &[u8], &[u8]) {
    let mut rest = bytes;
    let key = prost::encoding::decode_varint(&mut rest).unwrap();
    let wire_type = (key & 7) as u8;
    let length = match wire_type {
        0 => rest.iter().position(|byte| *byte < 0x80).unwrap() + 1,
        1 => 8,
        5 => 4,
        _ => prost::encoding::decode_varint(&mut rest).unwrap() as usize,
    };
    let (value, rest) = rest.split_at(length);
    ((key >> 3) as u32, wire_type, value, rest)
}

pub(super) fn written(number: u32, wire_type: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | u32::from(wire_type)), &mut out);
    if wire_type == 2 {
        prost::encoding::encode_varint(value.len() as u64, &mut out);
    }
    out.extend_from_slice(value);
    out
}

/// A field that OTLP does not have.
fn unknown(random: &mut Random) -> Vec<u8> {
    let number = 1_000 + random.below(100_000) as u32;
    match random.below(5) {
        0 => written(number, 0, &[0xff, 0x01]),
        1 => written(number, 1, &[7; 8]),
        2 => written(number, 2, &random.bytes(5)),
        3 => written(number, 5, &[7; 4]),
        _ => [written(number, 3, &[]), written(1, 0, &[1]), written(number, 4, &[])].concat(),
    }
}
