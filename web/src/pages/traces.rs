//! `/traces`: search, newest first, a page at a time.

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};

use super::{Pages, format, html};
use crate::{
    fields::{Fields, now_unix_nano},
    names,
    search::{self, Found, FoundTrace, Search},
};

#[derive(Template)]
#[template(path = "traces.html")]
struct TracesPage {
    page: &'static str,
    form: Form,
    services: Vec<String>,
    keys: Vec<String>,
    error: String,
    filtered: bool,
    deeper: bool,
    newest: String,
    older: String,
    json: String,
    traces: Vec<Row>,
}

struct Form {
    service: String,
    operation: String,
    status: String,
    errors: bool,
    attributes: Vec<String>,
    min_duration_ms: String,
    max_duration_ms: String,
    from: String,
    to: String,
    limit: String,
}

struct Row {
    id: String,
    id_short: String,
    started: String,
    service: String,
    operation: String,
    error: bool,
    duration: String,
    /// The span that matched, where it is not the root.
    matched: Option<Span>,
    /// Of the longest in the list, in percent.
    share: i64,
}

struct Span {
    span_id: String,
    service: String,
    operation: String,
    duration: String,
    error: bool,
}

pub(super) async fn page(State(pages): State<Pages>, Query(fields): Query<Fields>) -> Response {
    let search = Search::from_fields(&fields, now_unix_nano());
    let (filtered, deeper) = search.as_ref().map_or((false, false), |search| (search.narrows(), search.goes_on()));
    let found = match search {
        Ok(search) => search::find(&pages.deps, &search).await,
        Err(error) => Err(error),
    };
    let (found, error) = match found {
        Ok(found) => (found, String::new()),
        Err(error) => (Found { traces: Vec::new(), next: None }, error.message),
    };
    let snapshot = pages.deps.snapshot.borrow().clone();
    html(&TracesPage {
        page: "/traces",
        form: form(&fields),
        services: snapshot.services.iter().map(|s| s.service.clone()).collect(),
        // a search without suggestions is still a search
        keys: names::searchable_keys(&pages.deps).await.unwrap_or_default(),
        error,
        filtered,
        deeper,
        newest: fields.address(&[("cursor", "")]),
        older: found.next.map(|next| fields.address(&[("cursor", &next.to_string())])).unwrap_or_default(),
        json: fields.address(&[]),
        traces: rows(&found.traces),
    })
}

fn form(fields: &Fields) -> Form {
    let field = |key: &str| fields.get(key).unwrap_or_default().to_owned();
    let mut attributes: Vec<String> = fields.all("attribute").map(str::to_owned).collect();
    // room for one more
    attributes.push(String::new());
    Form {
        service: field("service"),
        operation: field("operation"),
        status: field("status"),
        errors: matches!(fields.get("errors"), Some("true" | "on")),
        attributes,
        min_duration_ms: field("min_duration_ms"),
        max_duration_ms: field("max_duration_ms"),
        from: field("from"),
        to: field("to"),
        limit: field("limit"),
    }
}

fn rows(traces: &[FoundTrace]) -> Vec<Row> {
    let duration = |trace: &FoundTrace| trace.summary.end_unix_nano.saturating_sub(trace.summary.start_unix_nano);
    let longest = traces.iter().map(duration).max().unwrap_or(1).max(1);
    let row = |trace: &FoundTrace| {
        let FoundTrace { matched, summary } = trace;
        let id = hex::encode(matched.key.trace_id);
        let is_root = (&matched.service, &matched.operation) == (&summary.service, &summary.operation);
        let span = || Span {
            span_id: matched.span_id.clone(),
            service: matched.service.clone(),
            operation: matched.operation.clone(),
            duration: format::ns(matched.duration_ns),
            error: matched.error,
        };
        Row {
            id_short: id.chars().take(12).collect(),
            id,
            started: format::moment(summary.start_unix_nano),
            service: summary.service.clone(),
            operation: summary.operation.clone(),
            error: summary.error,
            duration: format::ns(duration(trace)),
            matched: (!is_root).then(span),
            share: duration(trace).saturating_mul(100) / longest,
        }
    };
    traces.iter().map(row).collect()
}
