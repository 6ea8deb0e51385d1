//! `weir trace ID`: one trace as a waterfall in the terminal, or as JSON with its critical path.

use std::collections::HashSet;

use anyhow::Context;
use weir_web::Trace;

use crate::{cli::TraceArgs, exit::Exit, output, remote::Place};

/// Width of the bars.
const BAR: usize = 40;

/// Runs `weir trace`.
///
/// # Errors
/// An id that is not one, a store that cannot be reached, or a trace that is not there.
pub async fn run(args: TraceArgs) -> Result<Exit, anyhow::Error> {
    let id = args.id.to_ascii_lowercase();
    let well_formed = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    anyhow::ensure!(well_formed, "{:?} is not a trace id: 32 hex digits are", args.id);
    let place = Place::open_existing(&args.target).await?;
    let statement = format!("SELECT * FROM spans WHERE trace_id = '{id}' ORDER BY start_unix_nano, duration_ns DESC");
    let batches = place.query(&statement).await?.collect().await?;
    place.close().await?;
    let trace = Trace::from_rows(&id, &batches).with_context(|| format!("trace {id} is not in the store"))?;
    if args.json {
        output::line(&trace.to_json().to_string())?;
    } else {
        print(&trace)?;
    }
    Ok(Exit::Ok)
}

fn print(trace: &Trace) -> Result<(), anyhow::Error> {
    let start = trace.nodes.iter().map(|node| node.start).min().unwrap_or_default();
    let end = trace.nodes.iter().map(|node| node.end).max().unwrap_or_default();
    let critical: HashSet<_> = trace.critical_path.iter().map(|segment| segment.span_id).collect();
    let (count, total) = (trace.nodes.len(), ms(end - start));
    output::line(&format!("trace {}: {count} spans, {total:.3} ms; █ on the critical path, ░ beside it", trace.id()))?;
    for (index, depth) in trace.tree() {
        let (span, node) = (&trace.spans[index], &trace.nodes[index]);
        let operation = span["operation"].as_str().unwrap_or_default();
        let name = format!("{:indent$}{} {operation}", "", node.service, indent = 2 * depth);
        let failed = if span["status"] == "error" { " error" } else { "" };
        let bar = bar(node.start - start, node.end - start, end - start, critical.contains(&node.span_id));
        let (total, own) = (ms(node.end - node.start), ms(span["self_time_ns"].as_i64().unwrap_or_default()));
        output::line(&format!("{name:<48.48} {bar} {total:>10.3} ms  self {own:.3} ms{failed}"))?;
    }
    Ok(())
}

fn bar(start: i64, end: i64, whole: i64, on_path: bool) -> String {
    let column = |at: i64| (at as f64 / whole.max(1) as f64 * BAR as f64) as usize;
    let from = column(start).min(BAR - 1);
    let to = column(end).clamp(from + 1, BAR);
    let mark = if on_path { "█" } else { "░" };
    format!("{}{}{}", " ".repeat(from), mark.repeat(to - from), " ".repeat(BAR - to))
}

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_never_empty_and_never_too_long() {
        assert_eq!(bar(0, 0, 100, true).chars().filter(|c| *c == '█').count(), 1);
        assert_eq!(bar(0, 100, 100, false).chars().count(), BAR);
    }
}
