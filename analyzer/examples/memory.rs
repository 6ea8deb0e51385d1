//! What the analyzer's memory holds per key, measured: each case in a process of its own, as the growth of its
//! resident set over the same spans of few services. Run: `cargo run --release -p weir-analyzer --example memory`.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // a measurement prints, and stops where it fails

use std::{collections::BTreeSet, process::Command, sync::Arc};

use arrow::{
    array::{ArrayRef, BinaryArray, Int64Array, StringArray, new_null_array},
    record_batch::RecordBatch,
};
use weir_analyzer::{Analyzer, Config};
use weir_schema::Table;

const START: i64 = 1_700_000_000_000_000_000;

/// Spans of each case, in a window of 10 s.
const SPANS: u64 = 400_000;

/// Which names span n has.
type Names = fn(u64) -> [u64; 3];

/// Services of the case that the others are compared with.
const FEW: u64 = 40;

/// A case: its keys beyond those of the few services, and the names of services, operations and replicas that make them.
const CASES: [(&str, u64, Names); 3] = [
    ("services", 4_000 - FEW, |n| [n % 4_000, 0, 0]),
    ("operations", 40_000 - FEW, |n| [n % FEW, n / FEW % 1_000, 0]),
    ("instances", 40_000 - FEW, |n| [n % FEW, 0, n / FEW % 1_000]),
];

/// What the server allocates with.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    if let Some(case) = std::env::args().nth(1) {
        println!("{}", measure(&case));
        return;
    }
    let bytes = |case: &str| -> f64 {
        let child = Command::new(std::env::current_exe().unwrap()).arg(case).output().unwrap();
        String::from_utf8(child.stdout).unwrap().trim().parse().unwrap()
    };
    let few = bytes("few services");
    println!("held span, known for its children, parents and duplicates: {:.0} bytes", bytes("held") / SPANS as f64);
    println!("span of an open window, held as well: {:.0} bytes", few / SPANS as f64);
    let few = bytes("few services, closed");
    for (case, keys, _) in &CASES {
        let (all, each) = (keys + FEW, (bytes(case) - few) / *keys as f64);
        println!("each of {all} {case}, {} spans: {each:.0} bytes", SPANS / all);
    }
    println!("each of 39800 edges, 10 calls: {:.0} bytes", (bytes("edges") - bytes("edge")) / 39_800.0);
}

/// Growth of the resident set while spans are taken in and a window closes.
fn measure(case: &str) -> u64 {
    let mut analyzer = Analyzer::new(Config::default());
    analyzer.push(&batch(0..1, |_| [0, 0, 0], None));
    let before = resident();
    let names = CASES.iter().find(|(name, ..)| *name == case).map_or(few as Names, |(.., names)| *names);
    for from in (1..SPANS).step_by(8_000) {
        let spans = from..(from + 8_000).min(SPANS);
        match case {
            "held" => analyzer.restore(&batch(spans, names, None), &BTreeSet::new(), i64::MAX),
            "edges" => analyzer.push(&batch(spans, of_edges, Some(1))),
            "edge" => analyzer.push(&batch(spans, of_edge, Some(1))),
            _ => analyzer.push(&batch(spans, names, None)),
        }
    }
    if case != "held" && case != "few services" {
        let step = analyzer.step(START + 60_000_000_000);
        assert!(step.snapshot.is_some());
    }
    resident() - before
}

fn few(n: u64) -> [u64; 3] {
    [n % FEW, 0, 0]
}

/// 200 services call each 199 others: span 2n is the caller's, 2n + 1 the callee's.
fn of_edges(n: u64) -> [u64; 3] {
    let (caller, ahead) = (n / 2 % 200, 1 + n / 400 % 199);
    [if n.is_multiple_of(2) { caller } else { (caller + ahead) % 200 }, 0, 0]
}

fn of_edge(n: u64) -> [u64; 3] {
    let caller = n / 2 % 200;
    [if n.is_multiple_of(2) { caller } else { (caller + 1) % 200 }, 0, 0]
}

/// Spans of one request each, or, of calls, pairs of which the odd one is the even one's child.
fn batch(spans: std::ops::Range<u64>, names: Names, calls: Option<u64>) -> RecordBatch {
    let spans: Vec<u64> = spans.collect();
    let text = |prefix: &str, which: usize| {
        let texts = spans.iter().map(|n| format!("{prefix}-of-the-mesh-{}", names(*n)[which]));
        Arc::new(StringArray::from_iter_values(texts)) as ArrayRef
    };
    let long =
        |value: fn(u64) -> i64| Arc::new(Int64Array::from_iter_values(spans.iter().map(|n| value(*n)))) as ArrayRef;
    let mixed = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let schema = Table::Spans.schema();
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "trace_id" => {
            let trace = |n: &u64| (u128::from(mixed(n / 2)) << 64 | u128::from(*n / 2)).to_be_bytes();
            Arc::new(BinaryArray::from_iter_values(spans.iter().map(trace))) as ArrayRef
        }
        "span_id" => Arc::new(BinaryArray::from_iter_values(spans.iter().map(|n| mixed(*n).to_be_bytes()))),
        "parent_span_id" => {
            let parent = |n: &u64| calls.filter(|_| n % 2 == 1).map(|_| mixed(n - 1).to_be_bytes());
            Arc::new(spans.iter().map(parent).collect::<BinaryArray>())
        }
        "start_unix_nano" => long(|n| START + n as i64 * 20_000),
        "duration_ns" => long(|n| 1_000_000 + (n as i64 * 7_919) % 50_000_000),
        "received_unix_nano" => long(|n| START + n as i64 * 20_000 + 60_000_000),
        "service" => text("service", 0),
        "operation" => text("operation", 1),
        "instance" => text("instance", 2),
        "kind" => Arc::new(StringArray::from_iter_values(spans.iter().map(|_| "server"))),
        "status" => Arc::new(StringArray::from_iter_values(spans.iter().map(|_| "unset"))),
        _ => new_null_array(field.data_type(), spans.len()),
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}
