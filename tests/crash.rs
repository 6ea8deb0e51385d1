//! Real kills: `weir serve` is killed with SIGKILL under load and started again. Every acked span
//! is there, none twice, and nothing that was never sent.
//!
//! `TEST_KILLS` sets how many kills (default 4); the seed is printed.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::support::{Process, client, request, send, span, sql};

/// Spans of one request.
const SPANS: u64 = 50;

/// Clients that send at once.
const SENDERS: u64 = 4;

/// Kills that one folder goes through: each check reads all of it.
const KILLS_OF_A_FOLDER: u64 = 100;

/// What the senders know: requests they sent, and those that were acked.
#[derive(Default)]
struct Ledger {
    sent: HashSet<u64>,
    acked: HashSet<u64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acked_span_survives_kill_9_and_none_is_twice() {
    let kills: u64 = std::env::var("TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let seed = 20_261_123;
    println!("{kills} kills, seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut sent, mut acked) = (0, 0);
    for first in (0..kills).step_by(usize::try_from(KILLS_OF_A_FOLDER).unwrap()) {
        let last = kills.min(first + KILLS_OF_A_FOLDER);
        let ledger = killed_and_checked(first..last, &mut random).await;
        (sent, acked) = (sent + ledger.sent.len(), acked + ledger.acked.len());
        println!("{last} kills: {sent} requests sent, {acked} acked; lost 0, phantom 0, duplicated 0");
    }
}

/// A folder's life: load and kill, again and again; the folder is checked at every start.
async fn killed_and_checked(kills: Range<u64>, random: &mut StdRng) -> Ledger {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    for kill in kills {
        let process = Process::start(dir.path());
        check(&process.web, &ledger).await;
        let until_acks = random.random_range(20..200);
        load_until(&process, &ledger, kill, until_acks).await;
        process.kill();
    }
    let process = Process::start(dir.path());
    check(&process.web, &ledger).await;
    std::mem::take(&mut *ledger.lock().unwrap())
}

/// Sends until so many more requests were acked, then leaves requests in the air. Unacked requests
/// of the last life are sent again with the same bytes, as an SDK would.
async fn load_until(process: &Process, ledger: &Arc<Mutex<Ledger>>, kill: u64, acks: usize) {
    let (enough, mut enough_in) = tokio::sync::watch::channel(false);
    let target = ledger.lock().unwrap().acked.len() + acks;
    let unacked: Vec<u64> = {
        let l = ledger.lock().unwrap();
        l.sent.difference(&l.acked).copied().collect()
    };
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let (ledger, enough, otlp_http) = (ledger.clone(), enough.clone(), process.otlp_http.clone());
        let again: Vec<u64> = unacked.iter().copied().filter(|n| n % SENDERS == sender).collect();
        senders.spawn(async move {
            let client = client();
            let fresh = (0..).map(|n| (kill * 1_000_000 + n) * SENDERS + sender);
            for number in again.into_iter().chain(fresh) {
                ledger.lock().unwrap().sent.insert(number);
                if !send(&client, &otlp_http, &numbered(number)).await {
                    break;
                }
                let mut ledger = ledger.lock().unwrap();
                ledger.acked.insert(number);
                if ledger.acked.len() >= target {
                    enough.send_replace(true);
                }
            }
        });
    }
    tokio::time::timeout(Duration::from_secs(120), enough_in.wait_for(|enough| *enough)).await.unwrap().unwrap();
    senders.detach_all(); // they end with the process: their next request fails
}

/// The request of this number: the same bytes each time.
fn numbered(number: u64) -> opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest {
    let start = 1_700_000_000_000_000_000 + number * 1_000;
    let spans = (0..SPANS).map(|i| span(u128::from(number) + 1, number * SPANS + i + 1, 0, "work", start + i, 1_000));
    request("load", spans.collect())
}

async fn check(web: &str, ledger: &Arc<Mutex<Ledger>>) {
    let rows = sql(web, "SELECT hex(trace_id), count(*), count(DISTINCT span_id) FROM spans GROUP BY trace_id").await;
    let mut stored = HashSet::new();
    for row in &rows {
        let cells: Vec<_> = row.split(',').collect();
        let number = u64::try_from(u128::from_str_radix(cells[0].trim_matches('"'), 16).unwrap() - 1).unwrap();
        assert_eq!((cells[1], cells[2]), ("50", "50"), "request {number} is not there once and whole");
        stored.insert(number);
    }
    let ledger = ledger.lock().unwrap();
    let lost: Vec<_> = ledger.acked.difference(&stored).collect();
    let phantom: Vec<_> = stored.difference(&ledger.sent).collect();
    assert!(lost.is_empty(), "acked but lost: {lost:?}");
    assert!(phantom.is_empty(), "never sent: {phantom:?}");
}
