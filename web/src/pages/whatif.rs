//! `/whatif`: what each service can still take, and what a change of one of them would do to every queue and to a request
//! at every entry. The change is in the address.

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use weir_analyzer::{
    Snapshot,
    snapshot::{NodeKind, ServiceView},
    whatif::{EntryPrediction, Prediction, ServicePrediction},
};

use super::{
    Pages,
    format::{self, NONE},
    html,
};
use crate::{fields::Fields, whatif};

/// From here on a queue grows fast.
const HOT: f64 = 0.85;

#[derive(Template)]
#[template(path = "whatif.html")]
struct WhatIfPage {
    page: &'static str,
    when: String,
    services: Vec<String>,
    service: String,
    operation: String,
    arrivals: String,
    servers: String,
    service_time: String,
    json: String,
    error: String,
    asked: bool,
    entries: Vec<Entry>,
    changed: Vec<Changed>,
    capacities: Vec<Capacity>,
}

/// A request at an entry.
struct Entry {
    name: String,
    now: String,
    then: String,
    range: String,
    state: &'static str,
    requests: u64,
    unknown: String,
}

/// A queue.
struct Changed {
    service: String,
    rate: String,
    rate_then: String,
    utilization: String,
    wait: String,
    wait_then: String,
    range: String,
    refused: String,
    state: &'static str,
    reason: String,
}

/// What a service can take.
struct Capacity {
    service: String,
    rate: String,
    servers: String,
    service_time: String,
    utilization: String,
    state: &'static str,
    saturates_at: String,
    headroom: String,
    growth: String,
    time: String,
    reason: String,
}

pub(super) async fn page(State(pages): State<Pages>, Query(fields): Query<Fields>) -> Response {
    let snapshot = pages.deps.snapshot.borrow().clone();
    let asked = whatif::FIELDS.iter().any(|name| *name != "service" && fields.get(name).is_some());
    let answer = match asked {
        true => whatif::of(&fields, &snapshot).map(Some),
        false => fields.only(&whatif::FIELDS).map(|()| None),
    };
    let (prediction, error) = match answer {
        Ok(prediction) => (prediction, String::new()),
        Err(error) => (None, error.message),
    };
    html(&view(&snapshot, &fields, prediction, error))
}

fn view(snapshot: &Snapshot, fields: &Fields, prediction: Option<Prediction>, error: String) -> WhatIfPage {
    let field = |name: &str| fields.get(name).unwrap_or_default().to_owned();
    let known = snapshot.services.iter().filter(|service| service.kind == NodeKind::Service);
    let asked = prediction.is_some();
    let Prediction { services, entries, .. } = prediction.unwrap_or_default();
    WhatIfPage {
        page: "/whatif",
        when: match snapshot.time_unix_nano {
            0 => String::new(),
            end => format!("from the window that ended {} UTC", format::time_of_day(end)),
        },
        services: known.clone().map(|service| service.service.clone()).collect(),
        service: field("service"),
        operation: field("operation"),
        arrivals: field("arrivals"),
        servers: field("servers"),
        service_time: field("service_time"),
        json: fields.address(&[]),
        error,
        asked,
        entries: entries.iter().map(entry).collect(),
        changed: services.iter().map(changed).collect(),
        capacities: known.map(capacity).collect(),
    }
}

fn entry(entry: &EntryPrediction) -> Entry {
    Entry {
        name: entry.entry.clone(),
        now: format::ms(entry.response_time_ms),
        then: entry.response_time_ms_then.map_or_else(|| "grows without bound".to_owned(), format::ms),
        range: range(entry.low_ms, entry.high_ms),
        state: if entry.response_time_ms_then.is_none() { "unhealthy" } else { "" },
        requests: entry.requests,
        unknown: entry.not_identified.join(", "),
    }
}

fn changed(service: &ServicePrediction) -> Changed {
    Changed {
        service: service.service.clone(),
        rate: format::rate(service.arrival_rate_per_s),
        rate_then: format::rate(service.arrival_rate_per_s_then),
        utilization: format::maybe(service.utilization_then),
        wait: format::maybe_ms(service.queue_wait_ms),
        wait_then: match service.saturated {
            true => "grows without bound".to_owned(),
            false => format::maybe_ms(service.queue_wait_ms_then),
        },
        range: range(service.queue_wait_low_ms, service.queue_wait_high_ms),
        refused: service.refused_ratio_then.map_or_else(|| NONE.to_owned(), format::percent),
        state: if service.saturated { "unhealthy" } else { heat(service.utilization_then) },
        reason: service.reason.clone().unwrap_or_default(),
    }
}

fn capacity(service: &ServiceView) -> Capacity {
    let estimate = &service.estimate;
    let known = estimate.capacity.as_ref();
    let growth = known.and_then(|capacity| capacity.growth_per_s_per_h);
    Capacity {
        service: service.service.clone(),
        rate: format::rate(estimate.arrival_rate_per_s),
        servers: estimate.servers.map_or_else(|| NONE.to_owned(), |servers| servers.to_string()),
        service_time: format::maybe_ms(estimate.service_time_ms),
        utilization: format::maybe(estimate.utilization),
        state: heat(estimate.utilization),
        saturates_at: known.map_or_else(|| NONE.to_owned(), |capacity| format::rate(capacity.saturation_rate_per_s)),
        headroom: estimate.headroom.map_or_else(|| NONE.to_owned(), format::percent),
        growth: growth.map_or_else(|| NONE.to_owned(), |growth| format!("{} an hour", format::rate(growth))),
        time: known.map_or_else(|| NONE.to_owned(), time_to_saturation),
        reason: estimate.reason.clone().unwrap_or_default(),
    }
}

/// How long until it is full, with its range.
fn time_to_saturation(capacity: &weir_analyzer::snapshot::Capacity) -> String {
    let Some(time) = capacity.time_to_saturation_s else { return NONE.to_owned() };
    let end = |end: Option<f64>| end.map_or_else(|| "far off".to_owned(), span_of_time);
    let range = (end(capacity.time_to_saturation_low_s), end(capacity.time_to_saturation_high_s));
    format!("{} ({} to {})", span_of_time(time), range.0, range.1)
}

/// Seconds, minutes, hours or days.
fn span_of_time(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// The 95 % range.
fn range(low: Option<f64>, high: Option<f64>) -> String {
    match (low, high) {
        (None, None) => NONE.to_owned(),
        (low, high) => format!("{} to {}", format::maybe_ms(low), high.map_or_else(|| "∞".to_owned(), format::ms)),
    }
}

fn heat(utilization: Option<f64>) -> &'static str {
    match utilization {
        Some(utilization) if utilization >= 1.0 => "unhealthy",
        Some(utilization) if utilization >= HOT => "degraded",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_are_in_the_unit_that_people_would_use() {
        for (seconds, text) in [(90.0, "90 s"), (600.0, "10 min"), (10_800.0, "3 h"), (864_000.0, "10 d")] {
            assert_eq!(span_of_time(seconds), text);
        }
    }

    #[test]
    fn a_range_without_an_upper_end_says_so() {
        assert_eq!(range(Some(5.0), None), "5.0 ms to ∞");
        assert_eq!(range(Some(5.0), Some(20.0)), "5.0 ms to 20 ms");
        assert_eq!(range(None, None), NONE);
    }
}
