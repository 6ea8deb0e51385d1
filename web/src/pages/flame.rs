//! `/critical-path`: where the time of requests goes: a flame of their critical paths, and the same as a table. `?frame=` opens one
//! frame: it becomes as wide as the page, with the ways to it above.

mod drawing;

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use weir_analyzer::flame::FramePath;

use self::drawing::{Colours, Drawing};
use super::{Pages, format, html};
use crate::{
    critical_path::CriticalPaths,
    fields::{Fields, now_unix_nano},
};

/// Rows of the table: those with the most own time.
const MAX_ROWS: usize = 50;

#[derive(Template)]
#[template(path = "flame.html")]
struct FlamePage {
    page: &'static str,
    service: String,
    operation: String,
    from: String,
    to: String,
    /// Everything but the range, for another range.
    others: String,
    permalink: String,
    /// Without the frame.
    whole: String,
    error: String,
    shown: Option<Shown>,
}

/// What there is to see.
struct Shown {
    when: String,
    json: String,
    requests: u64,
    traces: usize,
    sampled: bool,
    spans: usize,
    skewed_spans: usize,
    mean: String,
    drawing: Drawing,
    colours: Vec<(String, usize)>,
    selected: Option<Selected>,
    rows: Vec<Row>,
    cut: usize,
}

/// A frame in the panel.
struct Selected {
    service: String,
    operation: String,
    facts: Vec<(&'static str, String)>,
    services: String,
    traces: String,
}

/// A frame in the table.
struct Row {
    href: String,
    colour: usize,
    service: String,
    operation: String,
    above: String,
    requests: u64,
    own: String,
    own_share: String,
    share: String,
    drag: String,
    undecided: String,
    selected: bool,
    /// Of the most own time, in percent.
    bar: i64,
}

pub(super) async fn page(State(pages): State<Pages>, Query(fields): Query<Fields>) -> Response {
    let asked = fields.without("frame");
    let read = CriticalPaths::read(&pages.deps, &asked, now_unix_nano()).await;
    let (paths, error) = match read {
        Ok(paths) => (Some(paths), String::new()),
        Err(error) => (None, error.message),
    };
    let range = paths
        .as_ref()
        .map_or_else(Default::default, |paths| [paths.from_unix_nano.to_string(), paths.to_unix_nano.to_string()]);
    let field = |name: &str| fields.get(name).unwrap_or_default().to_owned();
    html(&FlamePage {
        page: "/services",
        service: field("service"),
        operation: field("operation"),
        from: field("from"),
        to: field("to"),
        others: fields.address(&[("from", ""), ("to", ""), ("frame", "")]),
        permalink: fields.address(&[("from", &range[0]), ("to", &range[1])]),
        whole: fields.address(&[("frame", "")]),
        error,
        shown: paths.map(|paths| shown(&paths, &fields)),
    })
}

fn shown(found: &CriticalPaths, fields: &Fields) -> Shown {
    let paths = &found.paths;
    let selected = fields.get("frame").and_then(|id| paths.iter().position(|path| path.id == id));
    let colours = Colours::of(paths);
    let href = |path: &FramePath| format!("/critical-path?{}", fields.address(&[("frame", &path.id)]));
    let requests = i64::try_from(found.requests).unwrap_or(i64::MAX).max(1);
    Shown {
        when: format!("{} to {} UTC", format::moment(found.from_unix_nano), format::moment(found.to_unix_nano)),
        json: fields.address(&[("frame", "")]),
        requests: found.requests,
        traces: found.traces,
        sampled: found.sampled,
        spans: found.spans,
        skewed_spans: found.skewed_spans,
        mean: format::ns(found.total_ns / requests),
        drawing: Drawing::of(found, selected, &colours, href),
        colours: colours.legend(),
        selected: selected.map(|place| panel(&paths[place], found, fields)),
        rows: rows(found, selected, &colours, href),
        cut: paths.len().saturating_sub(MAX_ROWS),
    }
}

fn panel(path: &FramePath, found: &CriticalPaths, fields: &Fields) -> Selected {
    let requests = i64::try_from(path.requests).unwrap_or(i64::MAX).max(1);
    let each = |ns: i64| format::ns(ns / requests);
    let facts = [
        ("requests with it", format!("{} of {}", path.requests, found.requests)),
        ("share of all time", format::percent(path.share)),
        ("time in it and below, a request", each(path.total_ns)),
        ("own time, a request", each(path.self_ns)),
        ("drag: sooner without it", format::ns(path.mean_drag_ns)),
        ("perhaps not waited for", if path.undecided_ns > 0 { each(path.undecided_ns) } else { String::new() }),
        ("below, too small or deep to draw", if path.other_ns > 0 { each(path.other_ns) } else { String::new() }),
    ];
    let of = [("service", path.service.as_str()), ("operation", path.operation.as_str())];
    let address = fields.address(&[("frame", ""), ("limit", ""), of[0], of[1]]);
    Selected {
        service: path.service.clone(),
        operation: path.operation.clone(),
        facts: facts.into_iter().filter(|(_, value)| !value.is_empty()).collect(),
        services: address.clone(),
        traces: address,
    }
}

/// By own time.
fn rows(
    found: &CriticalPaths,
    selected: Option<usize>,
    colours: &Colours,
    href: impl Fn(&FramePath) -> String,
) -> Vec<Row> {
    let paths = &found.paths;
    let mut by_own: Vec<usize> = (0..paths.len()).collect();
    by_own.sort_by_key(|place| (-paths[*place].self_ns, *place));
    let most = by_own.first().map_or(1, |place| paths[*place].self_ns).max(1);
    let row = |place: usize| {
        let path = &paths[place];
        let requests = i64::try_from(path.requests).unwrap_or(i64::MAX).max(1);
        let above = path.parent.map(|parent| &paths[parent]);
        Row {
            href: href(path),
            colour: colours.of_service(&path.service),
            service: path.service.clone(),
            operation: path.operation.clone(),
            above: above.map_or_else(String::new, |above| format!("{} {}", above.service, above.operation)),
            requests: path.requests,
            own: format::ns(path.self_ns / requests),
            own_share: format::percent(path.self_ns as f64 / found.total_ns.max(1) as f64),
            share: format::percent(path.share),
            drag: format::ns(path.mean_drag_ns),
            undecided: if path.undecided_ns > 0 {
                format::percent(path.undecided_ns as f64 / path.total_ns.max(1) as f64)
            } else {
                String::new()
            },
            selected: selected == Some(place),
            bar: path.self_ns.saturating_mul(100) / most,
        }
    };
    by_own.into_iter().take(MAX_ROWS).map(row).collect()
}
