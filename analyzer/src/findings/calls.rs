//! Calls that an operation's succeeding requests no longer make, or make now and did not before.
//!
//! By operation, because another mix of operations calls otherwise and nothing is wrong with that. Only requests that
//! succeed: one that fails does not reach its later calls, and its error is the finding.

use super::{
    action, budget,
    facts::Made,
    kind::Kind,
    scene::Scene,
    statements,
    suspicion::{Suspicion, confidence},
    usual::{Share, UsualShare},
};
use crate::{snapshot::Evidence, spans::Name};

/// Requests of an operation in a window that tell what it calls.
const MIN_REQUESTS: u32 = 20;

/// A call is usual when this share of requests makes it, and missing when it fell to half of what it was.
const USUAL: f64 = 0.2;
const FELL_TO: f64 = 0.5;

/// A call is new when hardly anybody made it, and now this share does.
const RARE: f64 = 0.05;
const NEW: f64 = 0.2;

/// One operation and one callee, now and before.
struct Change<'a> {
    service: Name,
    operation: Name,
    callee: Name,
    made: &'a Made,
    now: Share,
    usual: UsualShare,
}

pub(super) fn suspicions(scene: &Scene) -> Vec<Suspicion> {
    let operations = scene.facts.made.iter().filter(|(_, made)| made.requests >= MIN_REQUESTS);
    let changes = operations.flat_map(|((service, operation), made)| changes(scene, *service, *operation, made));
    let suspicions = changes.filter_map(|change| missing(scene, &change).or_else(|| new(scene, &change)));
    suspicions.collect()
}

/// Everybody an operation calls or called.
pub(super) fn callees(history: &super::history::History, service: Name, operation: Name, made: &Made) -> Vec<Name> {
    let known = history.made.keys((service, operation, Name::MIN)..=(service, operation, Name::MAX));
    let mut callees: Vec<Name> = known.map(|(.., callee)| callee).chain(made.callees.keys().copied()).collect();
    callees.sort_unstable();
    callees.dedup();
    callees
}

fn changes<'a>(scene: &Scene, service: Name, operation: Name, made: &'a Made) -> Vec<Change<'a>> {
    let all = scene.history.operations.get((service, operation));
    let Some(of_all) = all.and_then(UsualShare::of).filter(|usual| scene.is_known(usual.windows)) else {
        return Vec::new();
    };
    let before = all.map_or(0.0, super::usual::Ring::total);
    let change = |callee: Name| {
        let never = UsualShare::never(before, of_all.windows);
        let usual = scene.history.made.usual_share((service, operation, callee)).unwrap_or(never);
        let now = Share { hits: made.callees.get(&callee).copied().unwrap_or(0), of: made.requests };
        Change { service, operation, callee, made, now, usual }
    };
    callees(scene.history, service, operation, made).into_iter().map(change).collect()
}

fn missing(scene: &Scene, change: &Change) -> Option<Suspicion> {
    let Change { now, usual, callee, .. } = change;
    let gone = usual.ratio >= USUAL && now.ratio() <= FELL_TO * usual.ratio;
    if !gone || !scene.is_known(usual.windows) {
        return None;
    }
    let missing = Share { hits: now.of - now.hits, of: now.of };
    let deviations = usual.other().deviations(missing);
    let without = (usual.ratio - now.ratio()).max(0.0);
    let callee = scene.text(*callee);
    let said = |what: &str| format!("{what} succeeds without calling {callee}");
    let suspicion = suspicion(scene, change, Kind::MissingCalls, deviations, without, said)?;
    Some(Suspicion { action: action::missing_calls(&suspicion.summary, callee), ..suspicion })
}

fn new(scene: &Scene, change: &Change) -> Option<Suspicion> {
    let Change { now, usual, callee, .. } = change;
    if usual.ratio > RARE || now.ratio() < NEW {
        return None;
    }
    let callee = scene.text(*callee);
    let said = |what: &str| format!("{what} calls {callee}, which it did not before");
    let suspicion = suspicion(scene, change, Kind::NewCalls, usual.deviations(*now), now.ratio(), said)?;
    Some(Suspicion { action: action::new_calls(&suspicion.summary, callee), ..suspicion })
}

fn suspicion(
    scene: &Scene,
    change: &Change,
    kind: Kind,
    deviations: f64,
    touched: f64,
    said: impl Fn(&str) -> String,
) -> Option<Suspicion> {
    let Change { service, operation, callee, made, now, usual } = change;
    if deviations < budget::deviations(usual.windows) {
        return None;
    }
    let (text, what) = (scene.text(*service), scene.text(*operation));
    let sentence = format!(
        "{} of {} requests of {what} call {}, usually {:.0} %",
        now.hits,
        now.of,
        scene.text(*callee),
        usual.ratio * 100.0
    );
    let example = if kind == Kind::NewCalls { made.examples.get(callee).copied() } else { made.example };
    let evidence = Evidence::number(sentence, now.ratio() * 100.0, "%")
        .with_trace(example)
        .with_sql(statements::calls_of(text, what, &scene.shown()));
    let requests = (touched * f64::from(now.of)) as u32;
    Some(Suspicion {
        operation: Some(*operation),
        peer: Some(*callee),
        lost_ms_per_s: scene.per_s(f64::from(requests)) * scene.usual_request_ms(*service).unwrap_or(0.0),
        touched: touched * of_all(scene, change),
        confidence: confidence(deviations, requests, usual.windows),
        summary: said(&format!("{what} of {text}")),
        evidence: vec![evidence],
        ..Suspicion::of(kind, *service, scene)
    })
}

/// Which share of the service's requests the operation's succeeding ones are.
fn of_all(scene: &Scene, change: &Change) -> f64 {
    let served = scene.facts.services.get(&change.service).map_or(0, |served| served.own.len());
    f64::from(change.now.of) / served.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        findings::{facts::Facts, scene::Stage},
        spans::{Side, Span},
        window::Window,
    };

    /// The share of the operation's requests was said as the service's: all of them where a tenth was meant.
    #[test]
    fn what_an_operation_calls_otherwise_touches_its_share_of_the_services_requests() {
        let window = Window { length_ns: 10_000_000_000, ..Window::default() };
        let mut stage = Stage { window, ..Stage::default() };
        let [api, list, buy, cart] = ["api", "list", "buy", "cart"].map(|name| stage.names.intern(name));
        let request = |n: u128| {
            let operation = if n.is_multiple_of(4) { buy } else { list };
            let (trace, duration_ns) = (n + 1, 5_000_000);
            let root =
                Span { trace, id: 1, duration_ns, service: api, operation, side: Side::Server, ..Span::default() };
            let to_cart = Span { id: 2, parent: 1, side: Side::Client, peer: Some(cart), ..root };
            // nobody buys with a cart any more; lists had none ever
            let one_does = n == 0;
            [vec![root], if one_does { vec![to_cart] } else { Vec::new() }].concat()
        };
        stage.facts = Facts::of(&(0..400).map(request).collect::<Vec<_>>());
        for window in 0..30 {
            let history = &mut stage.history;
            history.operations.remember_share((api, buy), Share { hits: 100, of: 100 }, window);
            history.made.remember_share((api, buy, cart), Share { hits: 100, of: 100 }, window);
        }
        let found = suspicions(&stage.scene());
        let said: Vec<_> = found.iter().map(|one| (one.kind, one.operation, one.peer)).collect();
        assert_eq!(said, [(Kind::MissingCalls, Some(buy), Some(cart))]);
        assert!((found[0].touched - 99.0 / 400.0).abs() < 1e-3, "{}", found[0].touched);
    }
}
