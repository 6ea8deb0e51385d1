//! What weir says of itself: `/metrics` in Prometheus text, and what `/readyz` waits for.

use std::{fmt::Write, sync::Arc};

use tokio::sync::watch;
use weir_analyzer::Snapshot;
use weir_collector::Stats;
use weir_store::{LogTimes, Store};
use weir_web::webhook::Notifier;

/// From how long on a group of the log counts as one the disk hangs at.
const LOG_HANGS_MS: u64 = 5_000;

/// A function that renders all metrics.
pub(super) fn prometheus(
    store: Store,
    stats: Arc<Stats>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    notifier: Notifier,
) -> Arc<dyn Fn() -> String + Send + Sync> {
    Arc::new(move || {
        let mut text = stats.prometheus();
        store_metrics(&mut text, &store);
        service_metrics(&mut text, &snapshot.borrow());
        text.push_str(&notifier.prometheus());
        text
    })
}

/// A function that names what is not ready yet.
pub(super) fn readiness(store: Store) -> Arc<dyn Fn() -> Vec<String> + Send + Sync> {
    Arc::new(move || {
        let status = store.status();
        let mut waiting = Vec::new();
        if status.replaying {
            let (done, all) = (status.replayed_bytes >> 20, status.replay_bytes >> 20);
            waiting.push(format!("the write-ahead log is being replayed: {done} of {all} MiB; requests are taken"));
        }
        if status.disk_full {
            waiting.push("the disk is nearly full: requests are refused until there is room".to_owned());
        }
        if status.log_waits_ms >= LOG_HANGS_MS {
            let seconds = status.log_waits_ms / 1_000;
            waiting.push(format!("the log's disk has not answered for {seconds} s: requests wait for it"));
        }
        waiting.extend(status.last_error.map(|error| format!("store: {error}")));
        waiting
    })
}

fn store_metrics(text: &mut String, store: &Store) {
    let status = store.status();
    let mut gauge = |name: &str, help: &str, value: u64| {
        // writing to a String cannot fail
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    };
    gauge("weir_store_wal_bytes", "Bytes of the write-ahead log on disk", status.wal_bytes);
    gauge("weir_store_memory_bytes", "Bytes of rows not yet in files", status.memory_bytes);
    gauge("weir_store_memory_rows", "Rows not yet in files", status.memory_rows);
    gauge(
        "weir_store_sampled_out_spans",
        "Spans that tail sampling left out of files since the start",
        status.sampled_out_spans,
    );
    gauge(
        "weir_store_damaged_records",
        "Log records set aside because their checksum is wrong",
        status.damaged_records,
    );
    gauge("weir_store_replay_bytes", "Bytes of the log there were to replay at the start", status.replay_bytes);
    gauge("weir_store_replayed_bytes", "Bytes of the log that were replayed since the start", status.replayed_bytes);
    gauge(
        "weir_store_disk_full",
        "Whether requests are refused because the disk is nearly full",
        status.disk_full.into(),
    );
    gauge(
        "weir_store_quarantined_files",
        "Files set aside because their hash is wrong",
        status.quarantined.len() as u64,
    );
    let _ = writeln!(
        text,
        "# HELP weir_store_log_waits_seconds For how long the disk has been at the group of the log that is being written\n\
         # TYPE weir_store_log_waits_seconds gauge\n\
         weir_store_log_waits_seconds {}\n\
         # HELP weir_store_failed_flushes_total Flushes that failed: their rows stay in memory and in the log\n\
         # TYPE weir_store_failed_flushes_total counter\n\
         weir_store_failed_flushes_total {}",
        status.log_waits_ms as f64 / 1e3,
        status.failed_flushes
    );
    log_times(text, &status.log_times);
    let _ = writeln!(text, "# HELP weir_store_table_rows Rows in files\n# TYPE weir_store_table_rows gauge");
    for table in &status.tables {
        let _ = writeln!(text, "weir_store_table_rows{{table=\"{}\"}} {}", table.name, table.rows);
    }
}

fn log_times(text: &mut String, times: &LogTimes) {
    let name = "weir_store_log_group_seconds";
    let _ = writeln!(text, "# HELP {name} Time to write and sync a group of requests\n# TYPE {name} histogram");
    for (bound_ms, groups) in &times.within_ms {
        let _ = writeln!(text, "{name}_bucket{{le=\"{}\"}} {groups}", *bound_ms as f64 / 1e3);
    }
    let (count, sum) = (times.count, times.sum_seconds);
    let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
}

fn service_metrics(text: &mut String, snapshot: &Snapshot) {
    let _ = writeln!(
        text,
        "# HELP weir_analyzer_dropped_rows_total Rows that root causes of windows did not look at because too many came\n\
         # TYPE weir_analyzer_dropped_rows_total counter"
    );
    let dropped = [("logs", snapshot.counters.logs_dropped), ("metrics", snapshot.counters.metrics_dropped)];
    for (signal, rows) in dropped {
        let _ = writeln!(text, "weir_analyzer_dropped_rows_total{{signal=\"{signal}\"}} {rows}");
    }
    let _ = writeln!(
        text,
        "# HELP weir_analyzer_refused_total What the analyzer had no room for: it is in the rollups, and not judged\n\
         # TYPE weir_analyzer_refused_total counter"
    );
    let counters = &snapshot.counters;
    let refused = [
        ("requests_to_replicas", counters.stations_refused),
        ("lm_requests", counters.lm_refused),
        ("history_keys", counters.history_refused),
    ];
    for (what, count) in refused {
        let _ = writeln!(text, "weir_analyzer_refused_total{{what=\"{what}\"}} {count}");
    }
    let _ = writeln!(
        text,
        "# HELP weir_analyzer_history_left_out_keys Keys of what is usual that the last note for a restart had no room for\n\
         # TYPE weir_analyzer_history_left_out_keys gauge\n\
         weir_analyzer_history_left_out_keys {}",
        snapshot.counters.history_left_out
    );
    let _ = writeln!(
        text,
        "# HELP weir_service_utilization Offered load over capacity\n# TYPE weir_service_utilization gauge"
    );
    for service in &snapshot.services {
        if let Some(utilization) = service.estimate.utilization {
            let _ = writeln!(text, "weir_service_utilization{{service=\"{}\"}} {utilization}", label(&service.service));
        }
    }
    let open = snapshot.findings.iter().filter(|f| f.closed_unix_nano.is_none()).count();
    let _ = writeln!(
        text,
        "# HELP weir_findings_open Findings that are open\n# TYPE weir_findings_open gauge\nweir_findings_open {open}"
    );
}

fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
