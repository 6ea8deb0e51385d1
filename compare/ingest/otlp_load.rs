//! One sender process of `compare/ingest/run.sh`: sends spans by OTLP/gRPC or OTLP/HTTP and writes what
//! happened to each request.
//!
//! `otlp_load grpc|http plain|gzip URL SEED CLIENTS SPANS_PER_REQUEST SECONDS SPANS_PER_S honour|ignore OUT`
//!
//! Each span has 7 attributes and every 20th an event, over 20 services in traces of 10 spans: the
//! shape the targets are stated for. Requests are encoded, and compressed, before the clock starts, and are new each time
//! ([`bodies`]). A client has one request in the air; there may be thousands of clients, for what a waiting one keeps is shared. At a
//! rate of 0 a client sends the next as soon as it is answered (closed loop); else requests fall due at that rate whatever
//! the answers are (open loop), and a client that is more than a second late leaves out what it missed, as a full queue
//! would. Refused, it waits as told and sends the same request again (`honour`), or goes on at once
//! with the next that is due (`ignore`).

#![allow(clippy::unwrap_used)] // a tool for the terminal; it stops where it fails

mod bodies;
mod doors;

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    bodies::Bodies,
    doors::{Door, Doors, failed},
};

/// A client that is later than this leaves out what it missed.
const LATE: Duration = Duration::from_secs(1);

/// No request is waited for longer: the time OpenTelemetry's exporters give an export.
const TIMEOUT: Duration = Duration::from_secs(10);

struct Load {
    url: String,
    http: bool,
    gzip: bool,
    seed: u64,
    clients: usize,
    spans_per_request: usize,
    run: Duration,
    spans_per_s: f64,
    honour: bool,
}

/// What became of one request: when its answer came, after how long, and what it was.
struct End {
    at_unix_ms: u128,
    took: Duration,
    answer: Answer,
}

#[derive(Clone, Copy)]
pub(crate) enum Answer {
    Acked,
    Refused { retry_after: Duration },
    Failed,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [transport, coding, url, seed, clients, spans_per_request, seconds, spans_per_s, retry, out] = &arguments[..]
    else {
        panic!(
            "usage: otlp_load grpc|http plain|gzip URL SEED CLIENTS SPANS_PER_REQUEST SECONDS SPANS_PER_S honour|ignore OUT"
        );
    };
    let load = Load {
        url: url.clone(),
        http: transport == "http",
        gzip: coding == "gzip",
        seed: seed.parse().unwrap(),
        clients: clients.parse().unwrap(),
        spans_per_request: spans_per_request.parse().unwrap(),
        run: Duration::from_secs_f64(seconds.parse().unwrap()),
        spans_per_s: spans_per_s.parse().unwrap(),
        honour: retry == "honour",
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (due, ends) = runtime.block_on(run(load));
    std::fs::write(out, lines(due, &ends)).unwrap();
}

/// How many fell due, then a line for each that was sent: Unix milliseconds, microseconds, answer.
fn lines(due: u64, ends: &[End]) -> String {
    let mut text = format!("{due}\n");
    for end in ends {
        let answer = match end.answer {
            Answer::Acked => "acked",
            Answer::Refused { .. } => "refused",
            Answer::Failed => "failed",
        };
        writeln!(text, "{} {} {answer}", end.at_unix_ms, end.took.as_micros()).unwrap();
    }
    text
}

/// How many requests fell due, and what became of those that were sent.
async fn run(load: Load) -> (u64, Vec<End>) {
    let bodies = match load.gzip {
        true => Bodies::gzip(load.seed, load.spans_per_request, load.run),
        false => Bodies::plain(load.seed, load.spans_per_request),
    };
    let doors = Doors::open(&load.url, load.http, load.clients);
    let all = Arc::new(All { start: Instant::now(), due: AtomicU64::new(0), load, bodies });
    let clients = (0..all.load.clients).map(|number| tokio::spawn(client(all.clone(), doors.of(number), number)));
    let mut ends = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        ends.extend(client.await.unwrap());
    }
    (all.due.load(Relaxed), ends)
}

/// What all clients share.
struct All {
    load: Load,
    bodies: Bodies,
    start: Instant,
    due: AtomicU64,
}

async fn client(all: Arc<All>, door: Door, number: usize) -> Vec<End> {
    let All { load, bodies, start, due: due_requests } = &*all;
    let mut ends = Vec::new();
    let stop = *start + load.run;
    let pause = (load.spans_per_s > 0.0)
        .then(|| Duration::from_secs_f64((load.clients * load.spans_per_request) as f64 / load.spans_per_s));
    // clients fall due one after the other
    let mut due = *start + pause.unwrap_or_default().mul_f64(number as f64 / load.clients as f64);
    let mut sequence = (load.seed << 40) | ((number as u64) << 24);
    loop {
        if let Some(pause) = pause {
            while due + LATE < Instant::now() && due < stop {
                due += pause;
                due_requests.fetch_add(1, Relaxed);
            }
            if due >= stop {
                return ends;
            }
            sleep_until(due).await;
            due += pause;
        }
        due_requests.fetch_add(1, Relaxed);
        sequence += 1;
        let body = bodies.body(sequence);
        loop {
            if Instant::now() >= stop {
                return ends;
            }
            let sent = Instant::now();
            let answered = tokio::time::timeout(TIMEOUT, door.send(body.clone())).await;
            let answer = answered.unwrap_or_else(|_| failed(&"no answer in time"));
            let at_unix_ms = unix().as_millis();
            ends.push(End { at_unix_ms, took: sent.elapsed(), answer });
            match answer {
                Answer::Refused { retry_after } if load.honour => sleep(retry_after).await,
                Answer::Failed => {
                    sleep(Duration::from_millis(100)).await;
                    break;
                }
                _ => break,
            }
        }
    }
}

pub(crate) fn unix() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}
