//! `weir trace ID`: one trace as a waterfall in the terminal, or as JSON with its critical path.

use anyhow::Context;
use weir_analyzer::critical_path::Timing;
use weir_web::Trace;

use crate::{cli::TraceArgs, exit::Exit, output, target::Target};

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
    let target = Target::open_existing(&args.target).await?;
    let statement = format!("SELECT * FROM spans WHERE trace_id = '{id}' ORDER BY start_unix_nano, duration_ns DESC");
    let batches = target.query(&statement).await?.collect().await?;
    target.close().await?;
    let trace = Trace::from_rows(&id, &batches).with_context(|| format!("trace {id} is not in the store"))?;
    if args.json {
        output::line(&serde_json::to_string(&trace)?)?;
    } else {
        print(&trace)?;
    }
    Ok(Exit::Ok)
}

fn print(trace: &Trace) -> Result<(), anyhow::Error> {
    let (start, end) = trace.range();
    let (count, total) = (trace.nodes.len(), ms(end - start));
    output::line(&format!("trace {}: {count} spans, {total:.3} ms; █ on the critical path, ░ beside it", trace.id()))?;
    output::line("slack: how much later a span could have ended; drag: how much sooner the root would end without it")?;
    for &(index, depth) in &trace.tree {
        let (span, node, timing) = (&trace.spans[index], &trace.nodes[index], &trace.timings[index]);
        let operation = span["operation"].as_str().unwrap_or_default();
        let name = format!("{:indent$}{} {operation}", "", node.service, indent = 2 * depth);
        let failed = if span["status"] == "error" { " error" } else { "" };
        let (from, to) = (timing.start_unix_nano, timing.end_unix_nano);
        let bar = bar(from - start, to - start, end - start, timing.critical_ns > 0);
        output::line(&format!("{name:<48.48} {bar} {:>10.3} ms  {}{failed}", ms(to - from), said(timing)))?;
    }
    Ok(())
}

fn said(timing: &Timing) -> String {
    let slack = timing.slack_ns.map_or_else(|| "–".to_owned(), |slack| format!("{:.3}", ms(slack)));
    let mut text = format!("self {:.3} slack {slack} drag {:.3} ms", ms(timing.self_time_ns), ms(timing.drag_ns));
    if timing.skew_ns != 0 {
        text += &format!(" clock {:+.3} ms", ms(timing.skew_ns));
    }
    if let Some(undecided) = timing.undecided {
        text += &format!(" {}", undecided.name());
    }
    text
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
