//! `/policy`: what is in force and why, who obeys, what changed, and the orders people may give.

use askama::Template;
use axum::{extract::State, response::Response};
use serde_json::{Value, json};
use weir_policy::Policy;

use super::{Pages, format, html, integer, text};
use crate::{deps::ProxyView, rows::ask_json};

/// Changes shown; the table `policy_changes` holds all.
const SHOWN_CHANGES: u32 = 100;

#[derive(Template)]
#[template(path = "policy.html")]
struct PolicyPage {
    page: &'static str,
    sequence: u64,
    enabled: bool,
    dry_run: bool,
    kill_switch: bool,
    policies: Vec<InForce>,
    proxies: Vec<Follower>,
    changes: Vec<Change>,
    otlp_grpc: String,
}

struct InForce {
    service: String,
    route: String,
    limits: String,
    reason: String,
    author: String,
    /// The order that takes it back, if a person set it.
    clear: String,
}

struct Follower {
    service: String,
    instance: String,
    sequence: u64,
    behind: bool,
    refused: String,
    seen: String,
}

struct Change {
    when: String,
    sequence: i64,
    service: String,
    actuator: String,
    old: String,
    new: String,
    author: String,
    reason: String,
    dry_run: bool,
}

pub(super) async fn page(State(pages): State<Pages>) -> Response {
    let snapshot = pages.deps.snapshot.borrow().clone();
    let statement = format!("SELECT * FROM policy_changes ORDER BY time_unix_nano DESC, service LIMIT {SHOWN_CHANGES}");
    let changes = match ask_json(&pages.deps, &statement).await {
        Ok(changes) => changes,
        Err(error) => return error.into_page(),
    };
    let control = &snapshot.control;
    let by_hand = |policy: &Policy| {
        let set = control.overrides.iter().find(|o| o.policy.service == policy.service);
        set.map_or_else(|| "controller".to_owned(), |o| o.author.clone())
    };
    let in_force = |policy: &Policy| {
        let author = by_hand(policy);
        let order = json!({"clear_override": {"service": policy.service, "author": "web"}});
        InForce {
            service: policy.service.clone(),
            route: policy.route.clone().unwrap_or_default(),
            limits: limits(policy),
            reason: policy.reason.clone(),
            clear: if author == "controller" { String::new() } else { order.to_string() },
            author,
        }
    };
    let sequence = snapshot.policy.sequence;
    html(&PolicyPage {
        page: "/policy",
        sequence,
        enabled: control.enabled,
        dry_run: control.dry_run,
        kill_switch: control.kill_switch,
        policies: snapshot.policy.policies.iter().map(in_force).collect(),
        proxies: (pages.deps.proxies)().iter().map(|proxy| follower(proxy, sequence)).collect(),
        changes: changes.iter().map(change).collect(),
        otlp_grpc: pages.deps.endpoints.otlp_grpc.clone(),
    })
}

fn limits(policy: &Policy) -> String {
    let concurrency = policy
        .concurrency_limit
        .map(|limit| format!("{} in flight, {} wait up to {} ms", limit.limit, limit.queue, limit.queue_timeout_ms));
    let rate = policy.rate_limit.map(|rate| format!("{}, bursts of {}", format::rate(rate.rate_per_s()), rate.burst()));
    let breaker = policy.breaker.map(|breaker| format!("breaker at {} errors", format::percent(breaker.error_ratio())));
    [concurrency, rate, breaker].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn follower(proxy: &ProxyView, sequence: u64) -> Follower {
    Follower {
        service: proxy.service.clone(),
        instance: proxy.instance.clone(),
        sequence: proxy.applied_sequence,
        behind: proxy.applied_sequence != sequence,
        refused: proxy.refused.clone(),
        seen: format::time_of_day(proxy.last_seen_unix_nano),
    }
}

fn change(row: &Value) -> Change {
    Change {
        when: format::moment(integer(row, "time_unix_nano")),
        sequence: integer(row, "sequence"),
        service: text(row, "service"),
        actuator: text(row, "actuator").replace('_', " "),
        old: text(row, "old_value"),
        new: text(row, "new_value"),
        author: text(row, "author"),
        reason: text(row, "reason"),
        dry_run: row["dry_run"].as_bool().unwrap_or_default(),
    }
}
