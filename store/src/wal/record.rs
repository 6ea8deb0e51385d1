//! One record: `mark u32 · length u32 · crc32 u32 · payload`, the payload being
//! `sequence u64 · kind u8 · fields`. Integers are little-endian. The mark lets a reader find the
//! next record behind one whose length is damaged.

use bytes::Bytes;
use memchr::memmem;
use weir_schema::{Encoding, Signal, Table, UnixNanos};

use super::refused::Refused;
use crate::OtlpRequest;

/// How every record opens.
const MARK: &[u8; 4] = b"\xF7wr\x01";

/// Bytes before a payload.
const HEADER: usize = 12;

/// A longer payload is not one of ours: lengths beyond it mean a torn or foreign file.
const MAX_PAYLOAD: usize = 256 << 20;

const OTLP: u8 = 1;
const ROWS: u8 = 2;
const RECENT: u8 = 3;
const REFUSED: u8 = 5;

/// A record as it is replayed.
#[derive(Debug)]
pub(crate) struct Record {
    /// Its place in the log.
    pub(crate) sequence: u64,
    /// What it holds.
    pub(crate) payload: Payload,
}

/// What a record holds.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// A request as received.
    Otlp {
        /// The request.
        request: OtlpRequest,
        /// Its hash, for retries.
        hash: u128,
    },
    /// Rows of a table as an Arrow IPC stream.
    Rows {
        /// Which table.
        table: Table,
        /// The stream.
        ipc: Bytes,
    },
    /// Hashes of requests of the last minutes, carried over from trimmed segments.
    Recent(Vec<(u128, UnixNanos)>),
    /// Which records were refused although an older segment may have them.
    Refused(Refused),
}

/// Appends the record's bytes.
pub(super) fn encode(sequence: u64, payload: &Payload, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    out.extend_from_slice(&sequence.to_le_bytes());
    match payload {
        Payload::Otlp { request, hash } => {
            out.push(OTLP);
            out.push(signal_code(request.signal));
            out.push(encoding_code(request.encoding));
            out.extend_from_slice(&request.codec_version.to_le_bytes());
            out.extend_from_slice(&request.received_unix_nano.to_le_bytes());
            out.extend_from_slice(&hash.to_le_bytes());
            out.extend_from_slice(&request.body);
        }
        Payload::Rows { table, ipc } => {
            out.push(ROWS);
            out.push(*table as u8);
            out.extend_from_slice(ipc);
        }
        Payload::Recent(hashes) => {
            out.push(RECENT);
            encode_hashes(hashes, out);
        }
        Payload::Refused(refused) => {
            out.push(REFUSED);
            for range in refused.ranges() {
                out.extend_from_slice(&range.start.to_le_bytes());
                out.extend_from_slice(&range.end.to_le_bytes());
            }
        }
    }
    let payload = &out[start + HEADER..];
    let (length, crc) = (payload.len() as u32, crc32fast::hash(payload));
    out[start..start + 4].copy_from_slice(MARK);
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    out[start + 8..start + HEADER].copy_from_slice(&crc.to_le_bytes());
}

fn encode_hashes(hashes: &[(u128, UnixNanos)], out: &mut Vec<u8>) {
    for (hash, received) in hashes {
        out.extend_from_slice(&hash.to_le_bytes());
        out.extend_from_slice(&received.to_le_bytes());
    }
}

/// Reads the record at the start of `bytes`: its length on disk and its content; `None` when the
/// bytes there are not a whole record with the right checksum.
pub(super) fn decode(bytes: &Bytes) -> Option<(usize, Record)> {
    if !bytes.starts_with(MARK) {
        return None;
    }
    let length = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(bytes.get(8..HEADER)?.try_into().ok()?);
    if length > MAX_PAYLOAD || bytes.len() < HEADER + length {
        return None;
    }
    let payload = bytes.slice(HEADER..HEADER + length);
    if crc32fast::hash(&payload) != crc {
        return None;
    }
    let sequence = u64::from_le_bytes(payload.get(..8)?.try_into().ok()?);
    let payload = decode_payload(payload.slice(8..))?;
    Some((HEADER + length, Record { sequence, payload }))
}

/// Where the next whole record stands, behind the start of `bytes`.
pub(super) fn next(bytes: &Bytes) -> Option<usize> {
    let marks = memmem::find_iter(bytes.get(1..)?, MARK).map(|place| place + 1);
    marks.into_iter().find(|place| decode(&bytes.slice(*place..)).is_some())
}

fn decode_payload(payload: Bytes) -> Option<Payload> {
    let (kind, fields) = (*payload.first()?, payload.slice(1..));
    match kind {
        OTLP => {
            let signal = signal_of(*fields.first()?)?;
            let encoding = encoding_of(*fields.get(1)?)?;
            let codec_version = u16::from_le_bytes(fields.get(2..4)?.try_into().ok()?);
            let received_unix_nano = i64::from_le_bytes(fields.get(4..12)?.try_into().ok()?);
            let hash = u128::from_le_bytes(fields.get(12..28)?.try_into().ok()?);
            let body = fields.slice(28..);
            let request = OtlpRequest { signal, encoding, codec_version, received_unix_nano, body };
            Some(Payload::Otlp { request, hash })
        }
        ROWS => {
            let code = usize::from(*fields.first()?);
            let table = *Table::ALL.get(code)?;
            Some(Payload::Rows { table, ipc: fields.slice(1..) })
        }
        RECENT => decode_hashes(&fields).map(Payload::Recent),
        REFUSED => decode_refused(&fields).map(Payload::Refused),
        _ => None,
    }
}

fn decode_hashes(fields: &[u8]) -> Option<Vec<(u128, UnixNanos)>> {
    let entry = |entry: &[u8]| {
        let hash = u128::from_le_bytes(entry[..16].try_into().ok()?);
        Some((hash, i64::from_le_bytes(entry[16..].try_into().ok()?)))
    };
    fields.chunks_exact(24).map(entry).collect()
}

fn decode_refused(fields: &[u8]) -> Option<Refused> {
    let mut refused = Refused::default();
    for range in fields.chunks_exact(16) {
        let first = u64::from_le_bytes(range[..8].try_into().ok()?);
        refused.add(first..u64::from_le_bytes(range[8..].try_into().ok()?));
    }
    Some(refused)
}

fn signal_code(signal: Signal) -> u8 {
    match signal {
        Signal::Traces => 0,
        Signal::Metrics => 1,
        Signal::Logs => 2,
    }
}

fn signal_of(code: u8) -> Option<Signal> {
    [Signal::Traces, Signal::Metrics, Signal::Logs].get(usize::from(code)).copied()
}

fn encoding_code(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Protobuf => 0,
        Encoding::Json => 1,
    }
}

fn encoding_of(code: u8) -> Option<Encoding> {
    [Encoding::Protobuf, Encoding::Json].get(usize::from(code)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &'static [u8]) -> Payload {
        let request = OtlpRequest {
            signal: Signal::Logs,
            encoding: Encoding::Json,
            codec_version: 7,
            received_unix_nano: -5,
            body: Bytes::from_static(body),
        };
        Payload::Otlp { request, hash: 9 }
    }

    #[test]
    fn every_kind_reads_back() {
        let mut refused = Refused::default();
        [3..9, 12..u64::MAX].into_iter().for_each(|range| refused.add(range));
        let payloads = [
            request(b"body"),
            Payload::Rows { table: Table::Alerts, ipc: Bytes::from_static(b"ipc") },
            Payload::Recent(vec![(1, 2), (u128::MAX, -1)]),
            Payload::Refused(refused),
        ];
        for payload in payloads {
            let mut bytes = Vec::new();
            encode(42, &payload, &mut bytes);
            let (length, record) = decode(&Bytes::from(bytes.clone())).unwrap();
            assert_eq!((length, record.sequence), (bytes.len(), 42));
            assert_eq!(format!("{:?}", record.payload), format!("{payload:?}"));
        }
    }

    #[test]
    fn every_torn_length_and_every_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        encode(1, &request(b"some body"), &mut bytes);
        for length in 0..bytes.len() {
            assert!(decode(&Bytes::copy_from_slice(&bytes[..length])).is_none(), "cut at {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&Bytes::from(flipped)).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn the_record_behind_a_damaged_one_is_found() {
        let (mut bytes, mut behind) = (Vec::new(), Vec::new());
        // a body may look like a record
        encode(1, &request(b"a \xF7wr\x01 in the body"), &mut bytes);
        encode(2, &request(b"some body"), &mut behind);
        let second = bytes.len();
        bytes[5] = 0xff; // the length
        bytes.extend(behind);
        assert!(decode(&Bytes::from(bytes.clone())).is_none());
        assert_eq!(next(&Bytes::from(bytes.clone())), Some(second));
        assert_eq!(next(&Bytes::from(bytes[..second].to_vec())), None);
    }
}
