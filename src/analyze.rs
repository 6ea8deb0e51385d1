//! `weir analyze --from T --to T`: queues, bottleneck and root cause of stored spans, logs and metrics, after an
//! incident. The same analyzer as live, fed by a scan in event time.

use std::ops::Range;

use anyhow::Context;
use arrow::record_batch::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use weir_analyzer::report::{Beside, Report, report};
use weir_store::{SqlConfig, Store};

use crate::{
    cli::AnalyzeArgs,
    exit::Exit,
    output,
    remote::{Place, Server},
};

/// The columns a remote server is asked for; a local scan gives whole batches.
const COLUMNS: &str = "*";

/// Of `logs`: records of traces, since only those can be laid to a span.
const LOGS: &str = "time_unix_nano, service, trace_id, span_id, severity_number, body, event_name \
    FROM logs WHERE trace_id IS NOT NULL";

/// Of `metrics`: those of CPU and network.
const METRICS: &str = "time_unix_nano, service, instance, name, kind, temporality, value, attributes, resource_attributes \
    FROM metrics WHERE (lower(name) LIKE '%cpu%' OR lower(name) LIKE '%network%')";

/// An hour before the incident is what it is compared with when nothing else is said.
const HISTORY_NS: i64 = 3_600_000_000_000;

/// Below this a finding is one of several that it could be.
const WORTH_SAYING: f64 = 0.2;

/// Runs `weir analyze`.
///
/// # Errors
/// A store that cannot be reached, or a range that holds no span.
pub async fn run(args: AnalyzeArgs) -> Result<Exit, anyhow::Error> {
    anyhow::ensure!(args.from < args.to, "--from must be before --to");
    let place = Place::open_existing(&args.target).await?;
    let spans = scan(&place, args.from, args.to).await?;
    let (from, to) = args.baseline_from.zip(args.baseline_to).unwrap_or((args.from - HISTORY_NS, args.from));
    let (history, range) = (from..to, args.from..args.to);
    let before = scan(&place, history.start, history.end).await?;
    let ranges = [&history, &range];
    let beside = Beside { logs: rows(&place, LOGS, ranges).await?, metrics: rows(&place, METRICS, ranges).await? };
    place.close().await?;
    let count: usize = spans.iter().map(RecordBatch::num_rows).sum();
    anyhow::ensure!(
        count > 0,
        "no span starts between --from and --to: `weir sql \"SELECT min(start_unix_nano), max(start_unix_nano) FROM spans\"` shows what there is"
    );
    let config = weir_analyzer::Config::default();
    let analyzed = move || report(spans.into_iter(), before.into_iter(), &beside, &history, &range, config);
    let report = tokio::task::spawn_blocking(analyzed);
    let report = report.await.context("analyzing")?;
    if args.json {
        output::line(&serde_json::to_string(&report)?)?;
    } else {
        print(&report)?;
    }
    Ok(Exit::Ok)
}

pub(crate) async fn scan(place: &Place, from: i64, to: i64) -> Result<Vec<RecordBatch>, anyhow::Error> {
    match place {
        Place::Local(store) => scan_store(store, from, to).await,
        Place::Remote(server) => scan_server(place, server, from, to).await,
    }
}

async fn scan_store(store: &Store, from: i64, to: i64) -> Result<Vec<RecordBatch>, anyhow::Error> {
    let batches = store.scan_spans(from, to).await?;
    Ok(batches.map_ok(|batch| batch.rows).try_collect().await?)
}

/// What else was recorded in these ranges, by time.
async fn rows(place: &Place, what: &str, ranges: [&Range<i64>; 2]) -> Result<Vec<RecordBatch>, anyhow::Error> {
    let within = ranges.map(|Range { start, end }| format!("time_unix_nano >= {start} AND time_unix_nano < {end}"));
    let [before, during] = within;
    let statement = format!("SELECT {what} AND (({before}) OR ({during})) ORDER BY time_unix_nano");
    match place {
        Place::Local(store) => {
            let limits = SqlConfig { max_rows: usize::MAX, timeout_ms: 600_000, ..SqlConfig::default() };
            let answer = store.sql(&statement, Some(limits)).await?;
            Ok(answer.stream.try_collect().await?)
        }
        Place::Remote(server) => {
            let answer = place.query(&statement).await.with_context(|| format!("reading from {}", server.web))?;
            answer.collect().await
        }
    }
}

async fn scan_server(place: &Place, server: &Server, from: i64, to: i64) -> Result<Vec<RecordBatch>, anyhow::Error> {
    let statement = format!(
        "SELECT {COLUMNS} FROM spans WHERE start_unix_nano >= {from} AND start_unix_nano < {to} ORDER BY start_unix_nano"
    );
    let answer = place.query(&statement).await.with_context(|| format!("reading spans from {}", server.web))?;
    let batches: Vec<_> = answer.batches.collect().await;
    batches.into_iter().collect()
}

fn print(report: &Report) -> Result<(), anyhow::Error> {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["service", "λ 1/s", "S ms", "c", "ρ", "Wq pred ms", "Wq obs ms", "headroom", "model"]);
    for service in &report.services {
        table.add_row([
            service.service.clone(),
            format!("{:.1}", service.arrival_rate_per_s),
            number(service.service_time_ms),
            service.servers.map_or_else(|| "-".to_owned(), |c| c.to_string()),
            number(service.utilization),
            number(service.queue_wait_ms.predicted),
            number(service.queue_wait_ms.observed),
            number(service.headroom),
            service.model.clone(),
        ]);
    }
    output::line(&table.to_string())?;
    let (said, unsure): (Vec<_>, Vec<_>) =
        report.findings.iter().partition(|finding| finding.confidence >= WORTH_SAYING);
    if said.is_empty() {
        output::line("no finding")?;
    }
    if !unsure.is_empty() {
        let names: Vec<&str> = unsure.iter().take(5).map(|finding| finding.service.as_str()).collect();
        output::line(&format!("below {:.0} %: {}", WORTH_SAYING * 100.0, names.join(", ")))?;
    }
    for finding in said {
        let confidence = finding.confidence * 100.0;
        let at = finding.instance.as_ref().map_or(String::new(), |instance| format!(" at {instance}"));
        output::line(&format!(
            "{}. {} in {}{at} ({confidence:.0} %), since {}",
            finding.rank, finding.kind, finding.service, finding.onset
        ))?;
        for evidence in &finding.evidence {
            output::line(&format!("   {}", evidence.text))?;
        }
    }
    Ok(())
}
