//! Makes the spans of `compare/store`, and sends them: real Nezha spans, repeated a day apart with fresh
//! ids, given OpenTelemetry attributes, written twice, as OTLP requests for weir and as Parquet for its peers.
//!
//! `store_data make SPANS_PARQUET DIR SPANS a|b`    `DIR/otlp/*.bin`, `DIR/parquet/*.parquet`, `DIR/manifest.json`
//! `store_data send URL DIR CONNECTIONS`            every request over OTLP/HTTP; a 503 is sent again
//!
//! Shape `a` has about 7 semantic-convention attributes a span. Shape `b`, wide, has 300 keys, 9 a span, of 1,000
//! values each, beside `http.route` and `http.response.status_code`. Values come from a hash of the span's
//! place, so that the same arguments give the same bytes. Spans stand in the order in which they end, as
//! exporters send them.
//!
//! What is invented: `user.id` (10,000 values) belongs to the trace, as baggage would carry it, and stands on
//! server spans; `session.id` on root spans; `app.request.id`, unique, on one span in 1,000.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // a tool for the terminal; it stops where it fails

use std::{fs, path::Path};

#[path = "generate/otlp.rs"]
mod otlp;
#[path = "generate/parquet.rs"]
mod parquet_files;
#[path = "generate/recording.rs"]
mod recording;
#[path = "generate/send.rs"]
mod send;
#[path = "generate/span.rs"]
mod span;

use otlp::OtlpFiles;
use parquet_files::ParquetFiles;
use recording::Recording;
use span::{Made, SEED, Shape, make_span};

const SPANS_PER_REQUEST: usize = 3_000;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["make", source, dir, spans, shape @ ("a" | "b")] => {
            make(
                Path::new(source),
                Path::new(dir),
                spans.parse().unwrap(),
                if *shape == "a" { Shape::Narrow } else { Shape::Wide },
            );
        }
        ["send", url, dir, connections] => send::send(url, Path::new(dir), connections.parse().unwrap()).await,
        _ => {
            eprintln!("usage: store_data make SPANS_PARQUET DIR SPANS a|b | send URL DIR CONNECTIONS");
            std::process::exit(2);
        }
    }
}

fn make(source: &Path, dir: &Path, spans: usize, shape: Shape) {
    let recording = Recording::read(source);
    eprintln!("{} distinct recorded spans", recording.spans.len());
    let _ = fs::remove_dir_all(dir.join("otlp"));
    let _ = fs::remove_dir_all(dir.join("parquet"));
    let mut requests = OtlpFiles::new(&dir.join("otlp"));
    let mut rows = ParquetFiles::new(&dir.join("parquet"));
    let days = spans.div_ceil(recording.spans.len()) as u64;
    let all_days = (0..days).flat_map(|day| recording.spans.iter().map(move |span| (day, span)));
    let mut made = all_days.take(spans).map(|(day, span)| make_span(&recording, span, day, shape));
    let mut attributes = 0;
    loop {
        let together: Vec<Made> = made.by_ref().take(SPANS_PER_REQUEST).collect();
        if together.is_empty() {
            break;
        }
        attributes += together.iter().map(|span| span.texts.len() + span.numbers.len()).sum::<usize>();
        requests.write(&recording, &together);
        rows.write(&recording, &together);
    }
    requests.close();
    rows.close();
    let first = recording.spans.iter().map(|span| span.start_unix_nano).min().unwrap();
    let manifest = serde_json::json!({
        "shape": if shape == Shape::Narrow { "a" } else { "b" },
        "spans": spans,
        "seed": SEED,
        "days": days,
        "first_start_unix_nano": first,
        "attributes_per_span": attributes as f64 / spans as f64,
        "otlp_bytes": requests.bytes,
        "largest_request_bytes": requests.largest,
    });
    fs::write(dir.join("manifest.json"), serde_json::to_string_pretty(&manifest).unwrap()).unwrap();
    println!("{manifest}");
}
