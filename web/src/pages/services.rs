//! `/services`: rate, errors and durations of every service in a time range; `?service=` draws one of
//! them over time, from the minutes in `operations`.

mod chart;

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use serde_json::Value;

use self::chart::{Chart, Line};
use super::{
    Pages,
    format::{self, NONE},
    html, text,
};
use crate::{
    deps::Deps,
    error::ApiError,
    fields::{Fields, now_unix_nano},
    minutes::{Measured, Of},
    names,
    red::{self, Grid, Point, Red},
};

#[derive(Template)]
#[template(path = "services.html")]
struct ServicesPage {
    page: &'static str,
    service: String,
    operation: String,
    from: String,
    to: String,
    when: String,
    /// Everything but the range, for another range.
    others: String,
    /// The same with absolute times: it shows the same tomorrow.
    permalink: String,
    json: String,
    all: String,
    traces: String,
    error: String,
    rows: Vec<Row>,
    charts: Vec<Chart>,
    points: Vec<Step>,
}

/// A service, or an operation of the one that is shown.
struct Row {
    name: String,
    detail: String,
    href: String,
    state: &'static str,
    figures: Figures,
}

struct Step {
    time: String,
    figures: Figures,
}

struct Figures {
    count: String,
    rate: String,
    errors: String,
    p50: String,
    p95: String,
    p99: String,
}

#[derive(Default)]
struct Shown {
    rows: Vec<Row>,
    charts: Vec<Chart>,
    points: Vec<Step>,
}

pub(super) async fn page(State(pages): State<Pages>, Query(fields): Query<Fields>) -> Response {
    let now = now_unix_nano();
    let grid = fields.only(&["service", "operation", "from", "to", "step"]).and_then(|()| red::grid(&fields, now));
    let (when, range) = match &grid {
        Ok(Grid { range, .. }) => {
            let when = format!("{} to {} UTC", format::moment(range.from), format::moment(range.to));
            (when, [range.from, range.to].map(|time| time.to_string()))
        }
        Err(_) => Default::default(),
    };
    let shown = match grid {
        Ok(grid) => match fields.get("service") {
            Some(service) => one(&pages.deps, &fields, service, grid).await,
            None => names::services(&pages.deps, grid.range).await.map(|json| all(&json, &fields)),
        },
        Err(error) => Err(error),
    };
    let (shown, error) = match shown {
        Ok(shown) => (shown, String::new()),
        Err(error) => (Shown::default(), error.message),
    };
    let field = |name: &str| fields.get(name).unwrap_or_default().to_owned();
    html(&ServicesPage {
        page: "/services",
        service: field("service"),
        operation: field("operation"),
        from: field("from"),
        to: field("to"),
        when,
        others: fields.address(&[("from", ""), ("to", ""), ("step", "")]),
        permalink: fields.address(&[("from", &range[0]), ("to", &range[1])]),
        json: fields.address(&[]),
        all: fields.address(&[("service", ""), ("operation", "")]),
        traces: fields.address(&[("step", "")]),
        error,
        rows: shown.rows,
        charts: shown.charts,
        points: shown.points,
    })
}

fn all(json: &Value, fields: &Fields) -> Shown {
    let row = |service: &Value| {
        let name = text(service, "service");
        let number = |key: &str| service[key].as_f64();
        let signals = service["signals"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Row {
            href: format!("/services?{}", fields.address(&[("service", &name), ("operation", "")])),
            detail: signals.collect::<Vec<_>>().join(", "),
            name,
            state: state(number("error_ratio").unwrap_or_default()),
            figures: Figures {
                count: text(service, "count"),
                rate: format::rate(number("rate_per_s").unwrap_or_default()),
                errors: format::percent(number("error_ratio").unwrap_or_default()),
                p50: format::maybe_ms(number("duration_ms_p50")),
                p95: format::maybe_ms(number("duration_ms_p95")),
                p99: format::maybe_ms(number("duration_ms_p99")),
            },
        }
    };
    Shown { rows: json["services"].as_array().into_iter().flatten().map(row).collect(), ..Shown::default() }
}

async fn one(deps: &Deps, fields: &Fields, service: &str, grid: Grid) -> Result<Shown, ApiError> {
    let of = Of { service: Some(service), operation: fields.get("operation") };
    let red = Red::read(deps, of, grid).await?;
    if red.total().count == 0 {
        return Ok(Shown::default());
    }
    let step_s = red.step_ns as f64 / 1e9;
    let row = |((operation, kind), measured): (&(String, String), &Measured)| Row {
        href: format!("/services?{}", fields.address(&[("operation", operation)])),
        name: operation.clone(),
        detail: kind.clone(),
        state: state(measured.error_ratio()),
        figures: figures(measured, red.range.seconds()),
    };
    let step =
        |point: &Point| Step { time: format::moment(point.time_unix_nano), figures: figures(&point.measured, step_s) };
    let busy = red.points.iter().rev().filter(|point| point.measured.count > 0);
    Ok(Shown {
        rows: red.operations.iter().map(row).collect(),
        charts: charts(&red, step_s),
        points: busy.map(step).collect(),
    })
}

fn charts(red: &Red, step_s: f64) -> Vec<Chart> {
    let times: Vec<i64> = red.points.iter().map(|point| point.time_unix_nano).collect();
    let line = |name, value: &dyn Fn(&Measured) -> Option<f64>| Line {
        name,
        values: red.points.iter().map(|point| value(&point.measured)).collect(),
    };
    let quantile = |place: usize| move |measured: &Measured| measured.quantiles_ms()[place];
    let rate = line("rate", &|measured| Some(measured.count as f64 / step_s));
    let errors = line("errors", &|measured| (measured.count > 0).then(|| measured.error_ratio()));
    let durations = [("p50", 0), ("p95", 1), ("p99", 2)].map(|(name, place)| line(name, &quantile(place)));
    vec![
        Chart::draw("Rate", &times, vec![rate], format::rate),
        Chart::draw("Errors", &times, vec![errors], format::percent),
        Chart::draw("Duration", &times, durations.into(), format::ms),
    ]
}

fn figures(measured: &Measured, seconds: f64) -> Figures {
    let [p50, p95, p99] = measured.quantiles_ms().map(format::maybe_ms);
    let errors = if measured.count > 0 { format::percent(measured.error_ratio()) } else { NONE.to_owned() };
    let rate = format::rate(measured.count as f64 / seconds);
    Figures { count: measured.count.to_string(), rate, errors, p50, p95, p99 }
}

/// As on the graph.
fn state(error_ratio: f64) -> &'static str {
    match error_ratio {
        ratio if ratio > 0.1 => "unhealthy",
        ratio if ratio > 0.01 => "degraded",
        _ => "",
    }
}
