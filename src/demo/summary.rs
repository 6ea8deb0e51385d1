//! [`Summary`]: what the demo showed, asked of the store by SQL.

use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use serde::Serialize;
use serde_json::Value;
use weir_demo::Receiver;
use weir_store::{Store, render};

use super::{DELIVERY_WAIT, INJECTED, SLO, script::Played};
use crate::output;

/// The numbers of the demo; with `--json` this is the last line of stdout.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    spans: u64,
    services: u64,
    edges: u64,
    injected: &'static str,
    findings: Vec<Value>,
    policy_changes: u64,
    webhooks_delivered: u64,
    goodput_per_s: ByPhase,
    p99_ms: ByPhase,
    /// What the sidecars say they delivered, to hold against `spans`.
    spans_sent: u64,
    spans_dropped: u64,
    webhooks_received: u64,
}

/// One number for each part of the script; `null` where nothing was answered.
#[derive(Clone, Copy, Debug, Serialize)]
struct ByPhase {
    before_fault: Option<f64>,
    fault_without_policy: Option<f64>,
    fault_with_policy: Option<f64>,
}

/// Asks the store. Alerts that are still on their way get a moment to arrive.
pub(super) async fn of(
    store: &Store,
    played: &Played,
    counters: weir_proxy::Counters,
    receiver: &Receiver,
) -> Result<Summary, anyhow::Error> {
    let asked = Asked { store, from: played.before_fault.0 };
    asked.delivered().await?;
    Ok(Summary {
        spans: asked.number("SELECT count(*) FROM spans WHERE start_unix_nano >= $from").await?,
        services: asked.number("SELECT count(DISTINCT service) FROM spans WHERE start_unix_nano >= $from").await?,
        edges: asked.number(EDGES).await?,
        injected: INJECTED,
        findings: asked.rows(FINDINGS).await?,
        policy_changes: asked.number("SELECT count(*) FROM policy_changes WHERE time_unix_nano >= $from").await?,
        webhooks_delivered: asked.number(DELIVERED).await?,
        goodput_per_s: asked.by_phase(played, GOODPUT).await?,
        p99_ms: asked.by_phase(played, P99).await?,
        spans_sent: counters.spans_sent,
        spans_dropped: counters.spans_dropped + counters.spans_rejected,
        webhooks_received: receiver.received(),
    })
}

const EDGES: &str = "SELECT count(*) FROM (SELECT DISTINCT peer_service, service FROM spans \
    WHERE direction = 'inbound' AND peer_service IS NOT NULL AND start_unix_nano >= $from)";

const FINDINGS: &str = "SELECT service, kind, operation, onset_unix_nano, time_unix_nano AS found_unix_nano, score, \
    confidence, summary FROM findings WHERE state = 'open' AND time_unix_nano >= $from ORDER BY time_unix_nano, score DESC";

const DELIVERED: &str = "SELECT count(*) FROM alerts WHERE event = 'delivered' AND time_unix_nano >= $from";

const AT_ENTRY: &str =
    "service = 'gateway' AND direction = 'inbound' AND start_unix_nano >= $start AND start_unix_nano < $end";

const GOODPUT: &str = "SELECT count(*) / $seconds FROM spans WHERE $at_entry \
    AND http_response_status_code BETWEEN 200 AND 299 AND error_type IS NULL AND duration_ns <= $slo";

const P99: &str = "SELECT percentile(duration_ns, 0.99) / 1e6 FROM spans WHERE $at_entry \
    AND http_response_status_code BETWEEN 200 AND 299";

struct Asked<'a> {
    store: &'a Store,
    /// Only what happened since: a folder that is kept may hold earlier runs.
    from: i64,
}

impl Asked<'_> {
    async fn delivered(&self) -> Result<(), anyhow::Error> {
        let wait = async {
            let mut every = tokio::time::interval(Duration::from_millis(100));
            loop {
                every.tick().await;
                if self.number(DELIVERED).await? > 0 {
                    return Ok::<(), anyhow::Error>(());
                }
            }
        };
        // none is then what the summary says
        tokio::time::timeout(DELIVERY_WAIT, wait).await.unwrap_or(Ok(()))
    }

    async fn by_phase(&self, played: &Played, statement: &str) -> Result<ByPhase, anyhow::Error> {
        Ok(ByPhase {
            before_fault: self.in_phase(played.before_fault, statement).await?,
            fault_without_policy: self.in_phase(played.fault_without_policy, statement).await?,
            fault_with_policy: self.in_phase(played.fault_with_policy, statement).await?,
        })
    }

    async fn in_phase(&self, (start, end): (i64, i64), statement: &str) -> Result<Option<f64>, anyhow::Error> {
        let statement = statement
            .replace("$at_entry", AT_ENTRY)
            .replace("$seconds", &format!("{:?}", (end - start) as f64 / 1e9))
            .replace("$slo", &SLO.as_nanos().to_string())
            .replace("$start", &start.to_string())
            .replace("$end", &end.to_string());
        let value = self.value(&statement).await?;
        Ok(value.as_f64().map(|v| (v * 10.0).round() / 10.0))
    }

    async fn number(&self, statement: &str) -> Result<u64, anyhow::Error> {
        let value = self.value(statement).await?;
        value.as_u64().with_context(|| format!("{statement}: {value} is not a count"))
    }

    async fn value(&self, statement: &str) -> Result<Value, anyhow::Error> {
        let first = self.rows(statement).await?.into_iter().next();
        let first = first.and_then(|row| row.as_object().and_then(|row| row.values().next().cloned()));
        Ok(first.unwrap_or(Value::Null))
    }

    async fn rows(&self, statement: &str) -> Result<Vec<Value>, anyhow::Error> {
        let statement = statement.replace("$from", &self.from.to_string());
        let mut answer = self.store.ask(&statement, None).await.with_context(|| statement.clone())?;
        let mut rows = Vec::new();
        while let Some(batch) = answer.stream.next().await {
            rows.extend(render::to_json_rows(&batch.with_context(|| statement.clone())?));
        }
        Ok(rows)
    }
}

impl Summary {
    /// Whether the demo showed what it is there to show.
    pub(super) fn holds(&self) -> bool {
        self.broken_promises().is_empty()
    }

    pub(super) fn print(&self, json: bool) -> Result<(), anyhow::Error> {
        for broken in self.broken_promises() {
            output::note(&format!("not as promised: {broken}"));
        }
        if json {
            return Ok(output::line(&serde_json::to_string(self)?)?);
        }
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.1}"));
        let phases = |name: &str, p: &ByPhase| {
            let (before, without, with) =
                (number(p.before_fault), number(p.fault_without_policy), number(p.fault_with_policy));
            format!("{name:<22} {before:>12} {without:>22} {with:>20}")
        };
        output::line(&format!(
            "{:<22} {:>12} {:>22} {:>20}",
            "", "before fault", "fault, without policy", "fault, with policy"
        ))?;
        output::line(&phases("goodput (1/s)", &self.goodput_per_s))?;
        output::line(&phases("p99 of answers (ms)", &self.p99_ms))?;
        output::line(&format!(
            "{} spans of {} services and {} edges; the sidecars sent {}, dropped {}",
            self.spans, self.services, self.edges, self.spans_sent, self.spans_dropped
        ))?;
        for finding in &self.findings {
            output::line(&format!("found: {}", finding["summary"].as_str().unwrap_or_default()))?;
        }
        let (changes, delivered) = (self.policy_changes, self.webhooks_delivered);
        Ok(output::line(&format!("{changes} policy changes, {delivered} webhooks delivered"))?)
    }

    fn broken_promises(&self) -> Vec<String> {
        let accused: Vec<&str> = self.findings.iter().filter_map(|f| f["service"].as_str()).collect();
        let (with, without) = (self.goodput_per_s.fault_with_policy, self.goodput_per_s.fault_without_policy);
        let promises = [
            (accused.first() == Some(&self.injected), format!("{INJECTED} is the first finding: {accused:?}")),
            (accused.iter().all(|s| *s == self.injected), format!("nobody else is accused: {accused:?}")),
            (self.policy_changes > 0, "the policy changed".to_owned()),
            (self.webhooks_delivered > 0, "an alert was delivered".to_owned()),
            (with > without, format!("policy raises goodput: {with:?} against {without:?} per second")),
            (self.spans == self.spans_sent, format!("{} spans are stored of {} sent", self.spans, self.spans_sent)),
        ];
        promises.into_iter().filter(|(kept, _)| !kept).map(|(_, promise)| promise).collect()
    }
}
