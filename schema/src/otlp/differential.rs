//! The codec beside the generated messages, on requests that nobody would write by hand: every value
//! type, fields in any order, unknown fields and groups between them, scalars written twice, packed
//! fields unpacked. What the generated messages make of the same bytes says what each row must be.
//! And the codec beside nothing: damaged bytes, and bytes made to grow.

mod expected;
mod found;
mod generate;
mod scramble;

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, ArrayValue, any_value::Value as Any},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
};
use prost::Message;
use serde_json::Value as Json;

pub(super) use self::found::found;
use self::{
    expected::{points, records, spans},
    scramble::{Kind, scramble, written},
};
use super::{tests::Random, *};

const RECEIVED: UnixNanos = 9;

type Row = BTreeMap<String, Json>;

#[test]
fn any_request_gives_the_rows_that_the_generated_messages_say() {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let mut rows = [0, 0, 0];
    for round in 0..1_500 {
        let (signal, bytes) = request(round, &mut random);
        let bytes = scramble(&bytes, Kind::Request(signal), &mut random);
        let expected = match signal {
            Signal::Traces => spans(&ExportTraceServiceRequest::decode(&bytes[..]).unwrap()),
            Signal::Metrics => points(&ExportMetricsServiceRequest::decode(&bytes[..]).unwrap()),
            Signal::Logs => records(&ExportLogsServiceRequest::decode(&bytes[..]).unwrap()),
        };
        let decoded = decode(signal, Encoding::Protobuf, &bytes, RECEIVED).unwrap();
        let found = decoded.batch.as_ref().map_or(Vec::new(), |batch| found(&batch.rows));
        rows[signal as usize] += found.len();
        assert_eq!(found.len(), expected.len(), "round {round}");
        for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "round {round}, row {row} of {signal:?}");
        }
    }
    assert!(rows.iter().all(|rows| *rows > 300), "{rows:?}");
}

fn request(round: usize, random: &mut Random) -> (Signal, Vec<u8>) {
    match round % 3 {
        0 => (Signal::Traces, random.traces().encode_to_vec()),
        1 => (Signal::Metrics, random.metrics().encode_to_vec()),
        _ => (Signal::Logs, random.logs().encode_to_vec()),
    }
}

#[test]
fn a_hundred_thousand_damaged_requests_end_in_rows_or_in_an_error() {
    let mut random = Random(0xDEAD_BEEF_CAFE_F00D);
    let (mut taken, mut refused) = (0, 0);
    let mut round = 0;
    while taken + refused < 100_000 {
        let (signal, whole) = request(round, &mut random);
        round += 1;
        if whole.is_empty() {
            continue;
        }
        for _ in 0..40 {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(2) {
                damage(&mut bytes, &mut random);
            }
            match decode(signal, Encoding::Protobuf, &bytes, RECEIVED) {
                Ok(_) => taken += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    println!("{taken} taken, {refused} refused, none panicked");
    assert!(taken > 10_000 && refused > 10_000, "{taken} taken, {refused} refused");
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let place = random.below(bytes.len());
    match random.below(10) {
        0..=5 => bytes[place] ^= 1 << random.below(8),
        6 => bytes.truncate(place.max(1)),
        7 => bytes.insert(place, u8::try_from(random.below(256)).unwrap()),
        8 => bytes[place] = 0xff,
        _ => {
            let end = place + random.below((bytes.len() - place).min(64) + 1);
            let part = bytes[place..end].to_vec();
            bytes.splice(place..place, part);
        }
    }
}

#[test]
fn a_request_that_is_made_to_grow_is_refused_or_stays_within_ten_times_its_size() {
    let repeated = |path: &[u32], times: usize| {
        let mut message: Vec<u8> = written(*path.last().unwrap(), 2, &[]).repeat(times);
        for number in path.iter().rev().skip(1) {
            message = written(*number, 2, &message);
        }
        message
    };
    // what each makes: resources, scopes, records, attributes, events, values
    let cases: [(Signal, &[u32]); 14] = [
        (Signal::Traces, &[1]),
        (Signal::Traces, &[1, 2]),
        (Signal::Traces, &[1, 2, 2]),
        (Signal::Traces, &[1, 2, 2, 9]),
        (Signal::Traces, &[1, 2, 2, 11]),
        (Signal::Traces, &[1, 2, 2, 13]),
        (Signal::Traces, &[1, 1, 1]),
        (Signal::Logs, &[1]),
        (Signal::Logs, &[1, 2, 2]),
        (Signal::Logs, &[1, 2, 2, 6]),
        (Signal::Metrics, &[1, 2, 2]),
        (Signal::Metrics, &[1, 2, 2, 5, 1]),
        (Signal::Metrics, &[1, 2, 2, 9, 1]),
        (Signal::Metrics, &[1, 2, 2, 5, 1, 5]),
    ];
    for (signal, path) in cases {
        // the longest once a signal, where nothing stops it early
        let most = if path.len() == 1 { 10_000_000 } else { 1_000_000 };
        for times in [1_000, most] {
            let bytes = repeated(path, times);
            let Ok(decoded) = decode(signal, Encoding::Protobuf, &bytes, RECEIVED) else { continue };
            let made = decoded.batch.map_or(0, |batch| batch.rows.get_array_memory_size());
            let most = 10 * bytes.len() + (32 << 20);
            assert!(made <= most, "{signal:?} {path:?} {times}: {} bytes became {made}", bytes.len());
        }
    }
    let json = format!(r#"{{"resourceLogs":[{}{{}}]}}"#, "{},".repeat(2_000_000));
    let decoded = decode(Signal::Logs, Encoding::Json, json.as_bytes(), RECEIVED).unwrap();
    assert!(decoded.batch.is_none(), "an object becomes two bytes, and nothing else is made of it");
}

#[test]
fn values_nest_a_hundred_levels_and_then_an_error() {
    assert_eq!(decode_nested(40).unwrap().accepted, 1);
    // on a thread with a large stack: writing the test's message recurses without a bound
    let deep = std::thread::Builder::new().stack_size(256 << 20);
    let refused = deep.spawn(|| decode_nested(5_000).unwrap_err().to_string()).unwrap().join().unwrap();
    assert!(refused.contains("recursion limit"), "{refused}");
}

fn decode_nested(levels: usize) -> Result<Decoded, DecodeError> {
    let mut value = Any::IntValue(1);
    for _ in 0..levels {
        value = Any::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(value) }] });
    }
    let record = LogRecord { body: Some(AnyValue { value: Some(value) }), ..LogRecord::default() };
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    let bytes = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    decode(Signal::Logs, Encoding::Protobuf, &bytes, RECEIVED)
}
