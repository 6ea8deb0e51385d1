//! `weir whatif --service S --arrivals ×1.5 | --servers +2 | --service-time ×0.5`: the mesh with one
//! service changed, from what a running server sees now, or from stored spans of a time range.

use anyhow::Context;
use weir_analyzer::{
    SPAN_COLUMNS,
    report::last_window,
    whatif::{Change, Prediction, ServicePrediction, what_if},
};
use weir_store::render::text_table;

use crate::{
    cli::WhatIfArgs,
    config::Config,
    exit::Exit,
    output, scan,
    target::{Server, Target},
};

/// Runs `weir whatif`.
///
/// # Errors
/// A server or store that cannot be reached, or a change that cannot be asked for.
pub async fn run(args: WhatIfArgs) -> Result<Exit, anyhow::Error> {
    let change = Change {
        service: args.service.clone(),
        operation: args.operation.clone(),
        arrivals: args.arrivals.unwrap_or(1.0),
        servers: args.servers.unwrap_or(0),
        service_time: args.service_time.unwrap_or(1.0),
    };
    let config = Config::load(args.config.as_deref())?;
    let target = Target::open_existing(&args.target.or_data_of(&config)).await?;
    let prediction = match (args.from.zip(args.to), &target) {
        (Some(range), _) => of_range(&target, range, &change, config.analyzer).await,
        (None, Target::Remote(server)) => of_server(server, &change).await,
        (None, Target::Local(_)) => Err(anyhow::anyhow!(
            "no server is running on this folder: say with --from and --to which stored spans to look at"
        )),
    };
    target.close().await?;
    let prediction = prediction?;
    if args.json {
        output::line(&serde_json::to_string(&prediction)?)?;
    } else {
        print(&prediction)?;
    }
    Ok(Exit::Ok)
}

async fn of_server(server: &Server, change: &Change) -> Result<Prediction, anyhow::Error> {
    let mut fields = vec![
        ("service", change.service.clone()),
        ("arrivals", change.arrivals.to_string()),
        ("servers", change.servers.to_string()),
        ("service_time", change.service_time.to_string()),
    ];
    fields.extend(change.operation.iter().map(|operation| ("operation", operation.clone())));
    server.get("/api/v1/whatif", &fields).await
}

async fn of_range(
    target: &Target,
    (from, to): (i64, i64),
    change: &Change,
    config: weir_analyzer::Config,
) -> Result<Prediction, anyhow::Error> {
    anyhow::ensure!(from < to, "--from must be before --to");
    let columns = SPAN_COLUMNS.join(", ");
    let spans = scan::spans(&columns);
    let slices = spans.slices(target, &(from..to)).await?;
    let (rows_to, rows) = scan::stream();
    // the stream ends with its sender
    let read = async move { spans.send(target, &slices, &rows_to).await };
    let analyzed = tokio::task::spawn_blocking(move || last_window(rows, config));
    let (read, snapshot) = tokio::join!(read, analyzed);
    read?;
    let snapshot = snapshot.context("analyzing")?;
    let snapshot = snapshot.context("no whole window of requests lies between --from and --to")?;
    Ok(what_if(&snapshot, change)?)
}

fn print(prediction: &Prediction) -> Result<(), anyhow::Error> {
    if let Ok(end) = jiff::Timestamp::from_nanosecond(prediction.time_unix_nano.into()) {
        output::line(&format!("now: the window of {} s that ended {end}", prediction.window_ms / 1_000))?;
    }
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    let header = ["service", "λ 1/s", "λ then", "ρ then", "Wq ms", "Wq then", ""];
    let rows = prediction.services.iter().map(|service| {
        [
            service.service.clone(),
            format!("{:.1}", service.arrival_rate_per_s),
            format!("{:.1}", service.arrival_rate_per_s_then),
            number(service.utilization_then),
            number(service.queue_wait_ms),
            number(service.queue_wait_ms_then),
            remark(service),
        ]
    });
    output::line(&text_table(header, rows))?;
    for entry in &prediction.entries {
        let then = match (entry.response_time_ms_then, entry.low_ms, entry.high_ms) {
            (Some(then), Some(low), Some(high)) => format!("{then:.1} ms ({low:.1} to {high:.1})"),
            (Some(then), Some(low), None) => format!("{then:.1} ms ({low:.1} or more)"),
            (Some(then), ..) => format!("{then:.1} ms"),
            (None, ..) => "without bound: a service on the way saturates".to_owned(),
        };
        output::line(&format!("{}: {:.1} ms now, {then}", entry.entry, entry.response_time_ms))?;
        if !entry.not_identified.is_empty() {
            let names = entry.not_identified.join(", ");
            output::line(&format!(
                "   not identified, taken to wait as now, and the range holds what they may: {names}"
            ))?;
        }
    }
    Ok(())
}

fn remark(service: &ServicePrediction) -> String {
    if service.saturated { "saturates".into() } else { service.reason.clone().unwrap_or_default() }
}
