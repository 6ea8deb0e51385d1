//! `weir analyze --from T --to T`: queues, bottleneck and root cause of stored spans, logs and metrics, after an
//! incident. The same analyzer as live, fed by a scan in event time.
//!
//! ```text
//! folder or server ──spans of the history, of the range, logs, metrics──▶ thread: report
//!                   (batches, a few ahead)
//! ```

use std::ops::Range;

use anyhow::Context;
use tokio::sync::mpsc;
use weir_analyzer::{
    SPAN_COLUMNS,
    report::{FindingReport, LeftOut, Recorded, Report, report},
};
use weir_store::render::text_table;

use crate::{
    cli::AnalyzeArgs,
    config::Config,
    exit::Exit,
    output,
    scan::{self, Slice, What},
    target::Target,
};

/// Of `logs`: records of traces, since only those can be laid to a span.
const LOGS: What<'static> = What {
    table: "logs",
    time: "time_unix_nano",
    columns: "time_unix_nano, service, trace_id, span_id, severity_number, body, event_name",
    only: "trace_id IS NOT NULL",
};

/// Of `metrics`: those of CPU and network.
const METRICS: What<'static> = What {
    table: "metrics",
    time: "time_unix_nano",
    columns: "time_unix_nano, service, instance, name, kind, temporality, value, attributes, resource_attributes",
    only: "(lower(name) LIKE '%cpu%' OR lower(name) LIKE '%network%')",
};

/// An hour before the incident is what it is compared with when nothing else is said.
const HISTORY_NS: i64 = 3_600_000_000_000;

/// Below this a finding is one of several that it could be.
const WORTH_SAYING: f64 = 0.2;

/// Runs `weir analyze`.
///
/// # Errors
/// Times or a configuration that cannot be used, a store that cannot be reached, or a range that holds no span.
pub async fn run(args: AnalyzeArgs) -> Result<Exit, anyhow::Error> {
    let times = Times::of(&args)?;
    let config = Config::load(args.config.as_deref())?;
    let target = Target::open_existing(&args.target.or_data_of(&config)).await?;
    let analyzed = analyze(&target, times, config.analyzer).await;
    target.close().await?;
    let report = analyzed?;
    if args.json {
        output::line(&serde_json::to_string(&report)?)?;
    } else {
        print(&report)?;
    }
    Ok(Exit::Ok)
}

/// What is looked at, and what it is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Times {
    history: Range<i64>,
    range: Range<i64>,
}

impl Times {
    fn of(args: &AnalyzeArgs) -> Result<Self, anyhow::Error> {
        let AnalyzeArgs { from, to, baseline_from, baseline_to, .. } = *args;
        anyhow::ensure!(from < to, "--from must be before --to");
        let hour_before = (from.saturating_sub(HISTORY_NS), from);
        let (start, end) = baseline_from.zip(baseline_to).unwrap_or(hour_before);
        anyhow::ensure!(start < end, "--baseline-from must be before --baseline-to");
        let apart = end <= from || to <= start;
        anyhow::ensure!(
            apart,
            "--baseline-from to --baseline-to overlaps --from to --to: an incident cannot be compared with itself; end the one before the other begins"
        );
        Ok(Self { history: start..end, range: from..to })
    }

    /// Both, the earlier first.
    fn in_order(&self) -> [&Range<i64>; 2] {
        if self.range.start < self.history.start { [&self.range, &self.history] } else { [&self.history, &self.range] }
    }
}

async fn analyze(target: &Target, times: Times, config: weir_analyzer::Config) -> Result<Report, anyhow::Error> {
    let columns = format!("{}, events", SPAN_COLUMNS.join(", "));
    let spans = scan::spans(&columns);
    let during = spans.slices(target, &times.range).await?;
    anyhow::ensure!(
        !during.is_empty(),
        "no span starts between --from and --to: `weir sql \"SELECT min(start_unix_nano), max(start_unix_nano) FROM spans\"` shows what there is"
    );
    let before = spans.slices(target, &times.history).await?;
    let (logs, metrics) = (beside(&LOGS, target, &times).await?, beside(&METRICS, target, &times).await?);
    // each stream ends when its sender is gone, so they are read in the order in which they are taken
    let ((before_to, before_rows), (during_to, during_rows)) = (scan::stream(), scan::stream());
    let ((logs_to, logs_rows), (metrics_to, metrics_rows)) = (scan::stream(), scan::stream());
    let read = async move {
        send(&spans, target, &before, before_to).await?;
        send(&spans, target, &during, during_to).await?;
        send(&LOGS, target, &logs, logs_to).await?;
        send(&METRICS, target, &metrics, metrics_to).await
    };
    let analyzed = tokio::task::spawn_blocking(move || {
        let recorded = Recorded {
            before: Box::new(before_rows),
            spans: Box::new(during_rows),
            logs: Box::new(logs_rows),
            metrics: Box::new(metrics_rows),
        };
        report(recorded, &times.history, &times.range, config)
    });
    let (read, report) = tokio::join!(read, analyzed);
    read?;
    report.context("analyzing")
}

/// What was recorded beside the spans, in both times.
async fn beside(what: &What<'_>, target: &Target, times: &Times) -> Result<Vec<Slice>, anyhow::Error> {
    let [first, second] = times.in_order();
    let mut slices = what.slices(target, first).await?;
    slices.extend(what.slices(target, second).await?);
    Ok(slices)
}

/// All rows of these slices, and then the end of the stream.
async fn send(
    what: &What<'_>,
    target: &Target,
    slices: &[Slice],
    to: mpsc::Sender<arrow::record_batch::RecordBatch>,
) -> Result<(), anyhow::Error> {
    what.send(target, slices, &to).await
}

fn print(report: &Report) -> Result<(), anyhow::Error> {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    let header = ["service", "λ 1/s", "S ms", "c", "ρ", "Wq pred ms", "Wq obs ms", "headroom", "model"];
    let rows = report.services.iter().map(|service| {
        [
            service.service.clone(),
            format!("{:.1}", service.arrival_rate_per_s),
            number(service.service_time_ms),
            service.servers.map_or_else(|| "-".to_owned(), |c| c.to_string()),
            number(service.utilization),
            number(service.queue_wait_ms.predicted),
            number(service.queue_wait_ms.observed),
            number(service.headroom),
            service.model.clone(),
        ]
    });
    output::line(&text_table(header, rows))?;
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
        costs(finding).iter().try_for_each(|sentence| output::line(&format!("   {sentence}")))?;
        for evidence in &finding.evidence {
            output::line(&format!("   {}", evidence.text))?;
        }
        if !finding.action.is_empty() {
            output::line(&format!("   → {}", finding.action))?;
        }
    }
    report.left_out.iter().flat_map(said_of).try_for_each(|sentence| output::line(&sentence))?;
    Ok(())
}

/// What it costs, and whom, as sentences.
fn costs(finding: &FindingReport) -> Vec<String> {
    let touched =
        finding.impact_ratio.map_or(String::new(), |ratio| format!(", {:.0} % of them touched", ratio * 100.0));
    let loses = (finding.impact_ms > 0.0).then(|| format!("a request loses {:.1} ms{touched}", finding.impact_ms));
    let waits = (!finding.victims.is_empty()).then(|| format!("only waiting for it: {}", finding.victims.join(", ")));
    loses.into_iter().chain(waits).collect()
}

/// What a long range left out, as sentences.
fn said_of(left_out: &LeftOut) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(sampled) = left_out.requests {
        said.push(format!(
            "root causes rest on {:.4} of the requests, chosen by trace id ({} of {} spans): more than these do not fit into memory",
            sampled.share, sampled.spans, sampled.of_spans
        ));
    }
    if left_out.windows_every > 1 {
        let every = left_out.windows_every;
        said.push(format!("services and edges: medians over one window in {every}, since the range has so many"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::TargetArgs;

    fn args(from: i64, to: i64, baseline: Option<(i64, i64)>) -> AnalyzeArgs {
        let (baseline_from, baseline_to) = baseline.unzip();
        let target = TargetArgs { data: None, url: None };
        AnalyzeArgs { from, to, baseline_from, baseline_to, target, config: None, json: false }
    }

    #[test]
    fn the_history_is_the_hour_before_or_what_is_named_and_never_the_incident_itself() {
        let hour = HISTORY_NS;
        let fine =
            [(None, 4 * hour..5 * hour), (Some((0, hour)), 0..hour), (Some((6 * hour, 7 * hour)), 6 * hour..7 * hour)];
        for (baseline, history) in fine {
            assert_eq!(Times::of(&args(5 * hour, 6 * hour, baseline)).unwrap().history, history);
        }
        let wrong =
            [(5, 4, None), (4, 5, Some((9, 9))), (4, 7, Some((1, 5))), (4, 7, Some((5, 6))), (4, 7, Some((6, 9)))];
        for (from, to, baseline) in wrong {
            assert!(
                Times::of(&args(from, to, baseline)).unwrap_err().to_string().starts_with("--"),
                "{from} {to} {baseline:?}"
            );
        }
        let after = Times::of(&args(1, 2, Some((2, 3)))).unwrap();
        assert_eq!(after.in_order(), [&(1..2), &(2..3)]);
    }

    #[test]
    fn what_was_left_out_is_said() {
        let sampled = weir_analyzer::causes::Sampled { share: 0.25, spans: 3, of_spans: 12 };
        let all = LeftOut { requests: Some(sampled), windows_every: 4 };
        let said = said_of(&all);
        assert!(said[0].contains("0.25") && said[0].contains("3 of 12 spans") && said[1].contains("one window in 4"));
        assert_eq!(said_of(&LeftOut { requests: None, windows_every: 2 }).len(), 1);
    }
}
