//! Small meshes whose answer is known.

use std::num::NonZeroU32;

use super::{queues::Range, *};
use crate::{
    queueing::mmc,
    retiming::{Call, Request},
    snapshot::Estimate,
    snapshot::{EdgeView, QueueWait, Requests},
};

pub(super) fn service(name: &str, rate: f64, service_ms: f64, servers: u32, duration_ms: f64) -> ServiceView {
    let wait = mmc::queue_wait(rate, service_ms / 1e3, NonZeroU32::new(servers).unwrap()).map(|s| s * 1e3);
    let estimate = Estimate {
        arrival_rate_per_s: rate,
        samples: 20_000,
        service_time_ms: Some(service_ms),
        service_time_ms_error: Some(0.01 * service_ms),
        servers: Some(servers),
        replicas: Some(1),
        queue_wait_ms: QueueWait { predicted: wait, observed: wait, observed_app: wait, ..QueueWait::default() },
        ca2: Some(1.0),
        cs2: Some(1.0),
        model: "ggc".into(),
        ..Estimate::default()
    };
    ServiceView {
        service: name.into(),
        rate_per_s: rate,
        duration_ms_mean: duration_ms,
        estimate,
        ..ServiceView::default()
    }
}

pub(super) fn edge(caller: &str, callee: &str, rate: f64, critical_share: f64) -> EdgeView {
    let (caller, callee) = (caller.into(), callee.into());
    EdgeView { caller, callee, rate_per_s: rate, critical_share: Some(critical_share), ..EdgeView::default() }
}

/// Each request of the gateway calls the tagger once and, beside it, the cache twice. Of its 60 ms the tagger takes 20 and 36 of wait.
pub(super) fn mesh() -> Snapshot {
    Snapshot {
        services: vec![
            service("cache", 160.0, 2.0, 2, 2.1),
            service("gateway", 80.0, 1.0, 4, 60.0),
            service("tagger", 80.0, 20.0, 2, 55.0),
        ],
        edges: vec![edge("gateway", "cache", 160.0, 0.0), edge("gateway", "tagger", 80.0, 1.0)],
        ..Snapshot::default()
    }
}

pub(super) fn change(service: &str) -> Change {
    Change { service: service.into(), operation: None, arrivals: 1.0, servers: 0, service_time: 1.0 }
}

pub(super) fn wait_of(load: f64, service_ms: f64, servers: u32) -> f64 {
    mmc::queue_wait(load, service_ms / 1e3, NonZeroU32::new(servers).unwrap()).unwrap() * 1e3
}

#[test]
fn nothing_changes_when_nothing_is_changed() {
    let found = what_if(&mesh(), &change("tagger")).unwrap();
    assert_eq!(found.services, []);
    assert_eq!(found.entries[0].response_time_ms_then, Some(60.0));
}

#[test]
fn more_arrivals_reach_all_who_are_called_and_are_waited_for_where_they_block() {
    let found = what_if(&mesh(), &Change { arrivals: 1.1, ..change("gateway") }).unwrap();
    assert_eq!(found.services.iter().map(|s| s.service.as_str()).collect::<Vec<_>>(), ["cache", "gateway", "tagger"]);
    let tagger = &found.services[2];
    assert!((tagger.arrival_rate_per_s_then - 88.0).abs() < 1e-9);
    assert!((tagger.queue_wait_ms_then.unwrap() - wait_of(88.0, 20.0, 2)).abs() < 1e-9);
    let added = wait_of(88.0, 20.0, 2) - wait_of(80.0, 20.0, 2) + wait_of(88.0, 1.0, 4) - wait_of(80.0, 1.0, 4);
    let entry = &found.entries[0];
    assert!((entry.response_time_ms_then.unwrap() - 60.0 - added).abs() < 1e-9, "{entry:?}");
    assert!(entry.low_ms < entry.response_time_ms_then && entry.response_time_ms_then < entry.high_ms);
}

#[test]
fn what_is_measured_over_few_requests_is_no_surer_than_its_queues() {
    let half_range = |samples| {
        let mut mesh = mesh();
        mesh.services.iter_mut().for_each(|service| service.estimate.samples = samples);
        // a change of the cache, for which nobody waits: only what is measured is in doubt
        let found = what_if(&mesh, &Change { service_time: 1.01, ..change("cache") }).unwrap();
        let entry = &found.entries[0];
        assert_eq!(entry.response_time_ms_then, Some(60.0));
        entry.high_ms.unwrap() - 60.0
    };
    // 36 ms of wait at two servers that are busy for four fifths: known to a third by a thousand requests
    let (thousand, many) = (half_range(1_000), half_range(100_000));
    assert!((0.2..0.9).contains(&(thousand / 36.0)), "{thousand}");
    assert!((thousand / many - 10.0).abs() < 1.0, "{thousand} {many}: it falls with the root of their number");
}

#[test]
fn servers_and_service_time_change_their_service_only() {
    let found = what_if(&mesh(), &Change { servers: 2, ..change("tagger") }).unwrap();
    assert_eq!(found.services.len(), 1);
    let saved = wait_of(80.0, 20.0, 2) - wait_of(80.0, 20.0, 4);
    assert!((found.entries[0].response_time_ms_then.unwrap() - (60.0 - saved)).abs() < 1e-9);
    let found = what_if(&mesh(), &Change { service_time: 0.5, ..change("tagger") }).unwrap();
    let saved = 10.0 + wait_of(80.0, 20.0, 2) - wait_of(80.0, 10.0, 2);
    assert!((found.entries[0].response_time_ms_then.unwrap() - (60.0 - saved)).abs() < 1e-9);
}

/// That a slower callee holds the caller's threads for longer is not followed: who asks is told so.
#[test]
fn a_pool_that_is_held_for_what_changes_is_named() {
    let mut mesh = mesh();
    mesh.services[1].estimate.held_ms = Some(0.5);
    let found = what_if(&mesh, &Change { service_time: 1.05, ..change("tagger") }).unwrap();
    assert_eq!(found.entries[0].not_identified, ["gateway"]);
    let found = what_if(&mesh, &Change { servers: 1, ..change("gateway") }).unwrap();
    assert_eq!(found.entries[0].not_identified, [""; 0]);
    // who changes was looked for among those it calls itself
    mesh.services.push(service("store", 80.0, 1.0, 4, 1.0));
    mesh.edges.push(edge("tagger", "store", 80.0, 1.0));
    let found = what_if(&mesh, &Change { service_time: 2.0, ..change("store") }).unwrap();
    assert_eq!(found.entries[0].not_identified, ["gateway"]);
}

/// A pool whose own work takes twice as long does not wait twice as long for others.
#[test]
fn what_servers_are_held_for_stays_when_own_work_changes() {
    let mut mesh = mesh();
    mesh.services[1].estimate.held_ms = Some(0.6);
    let found = what_if(&mesh, &Change { service_time: 2.0, ..change("gateway") }).unwrap();
    let gateway = found.services.iter().find(|service| service.service == "gateway").unwrap();
    assert!((gateway.utilization_then.unwrap() - 80.0 * (2.0 * 0.4 + 0.6) / 1e3 / 4.0).abs() < 1e-9, "{gateway:?}");
}

/// Of a full service that runs beside a longer call by the shares of edges, hours were said instead of nothing.
#[test]
fn requests_that_wait_for_a_branch_without_bound_have_no_response_time() {
    let leaf = |service: &str, duration_ms: f64| Request {
        service: std::sync::Arc::<str>::from(service),
        duration_ms,
        calls: Vec::new(),
    };
    let with = |cache_ends_ms: f64| {
        let call = |start_ms: f64, end_ms: f64, service| Call {
            start_ms,
            end_ms,
            callee: Some(Box::new(leaf(service, end_ms - start_ms))),
        };
        let calls = vec![call(1.0, 59.0, "tagger"), call(2.0, cache_ends_ms, "cache")];
        let mut mesh = mesh();
        mesh.requests = Requests::of(vec![Request { calls, ..leaf("gateway", 60.0) }; 40].into_iter());
        what_if(&mesh, &Change { service_time: 8.0, ..change("cache") }).unwrap().entries.remove(0)
    };
    assert_eq!(with(4.0).response_time_ms_then, None);
    assert_eq!(with(61.0).response_time_ms_then, Some(60.0), "nobody waits for it");
}

#[test]
fn what_saturates_has_no_wait_and_no_response_time() {
    let found = what_if(&mesh(), &Change { arrivals: 1.5, ..change("gateway") }).unwrap();
    let tagger = found.services.iter().find(|s| s.service == "tagger").unwrap();
    assert!(tagger.saturated && tagger.queue_wait_ms_then.is_none() && tagger.utilization_then.unwrap() > 1.19);
    assert_eq!(found.entries[0].response_time_ms_then, None);
}

#[test]
fn who_saturates_now_is_told_what_would_help() {
    let mut mesh = mesh();
    mesh.services[2] = service("tagger", 80.0, 30.0, 2, 5_000.0);
    mesh.services[2].estimate.queue_wait_ms.observed_app = Some(4_900.0);
    let found = what_if(&mesh, &Change { servers: 2, ..change("tagger") }).unwrap();
    let tagger = &found.services[0];
    assert!(!tagger.saturated && (tagger.utilization_then.unwrap() - 0.6).abs() < 1e-9, "{tagger:?}");
    assert!((tagger.queue_wait_ms_then.unwrap() - wait_of(80.0, 30.0, 4)).abs() < 1e-9);
    assert!(tagger.queue_wait_high_ms > tagger.queue_wait_ms_then, "what a queue that grows shows fits nothing");
    // the mean of the gateway holds minutes before the queue grew: less than what is saved of the newest wait
    let entry = &found.entries[0];
    let least = 1.0 + wait_of(80.0, 1.0, 4) + 30.0 + wait_of(80.0, 30.0, 4);
    assert!((entry.response_time_ms_then.unwrap() - least).abs() < 1e-9, "{entry:?}");
    assert!((30.0..least).contains(&entry.low_ms.unwrap()) && entry.high_ms.unwrap() > least, "{entry:?}");
}

/// What a pool is held for is in the residence of those that it waits for, and counts once.
#[test]
fn the_least_response_counts_no_call_twice() {
    let mut mesh = mesh();
    mesh.services[2] = service("tagger", 80.0, 30.0, 2, 5_000.0);
    mesh.services[2].estimate.queue_wait_ms.observed_app = Some(4_900.0);
    mesh.services[1].estimate.held_ms = Some(0.6);
    let found = what_if(&mesh, &Change { servers: 2, ..change("tagger") }).unwrap();
    let least = 0.4 + wait_of(80.0, 1.0, 4) + 30.0 + wait_of(80.0, 30.0, 4);
    assert!((found.entries[0].response_time_ms_then.unwrap() - least).abs() < 1e-9, "{:?}", found.entries[0]);
}

#[test]
fn known_queues_are_the_least_of_a_response_but_raise_none() {
    let range = |value, below, above| Range { value, below, above };
    let cases = [
        // (now, added, least) → then
        (60.0, range(-20.0, 5.0, 5.0), range(30.0, 2.0, 2.0), (40.0, 35.0, 45.0)),
        (60.0, range(-90.0, 5.0, 5.0), range(30.0, 2.0, 4.0), (30.0, 28.0, 35.0)),
        (60.0, range(-28.0, 9.0, 9.0), range(30.0, 2.0, 4.0), (32.0, 28.0, 41.0)),
        (60.0, range(-90.0, 5.0, 5.0), range(99.0, 2.0, 2.0), (60.0, 60.0, 65.0)),
        (60.0, range(0.0, 0.0, 0.0), range(99.0, 2.0, 2.0), (60.0, 60.0, 60.0)),
        (60.0, range(7.0, 1.0, 1.0), range(99.0, 2.0, 2.0), (67.0, 67.0, 68.0)),
    ];
    for (now, added, least, (value, low, high)) in cases {
        let then = entries::then(now, added, least);
        assert_eq!((then.value, then.low(), then.high()), (value, low, Some(high)), "{now} {added:?} {least:?}");
    }
}

#[test]
fn circles_settle_and_what_is_not_identified_is_named() {
    let mut mesh = mesh();
    mesh.edges.push(edge("tagger", "gateway", 8.0, 1.0));
    mesh.edges.push(edge("front", "gateway", 72.0, 1.0));
    mesh.services.push(ServiceView {
        service: "front".into(),
        rate_per_s: 72.0,
        duration_ms_mean: 50.0,
        ..ServiceView::default()
    });
    let found = what_if(&mesh, &Change { arrivals: 1.05, ..change("front") }).unwrap();
    let gateway = found.services.iter().find(|s| s.service == "gateway").unwrap();
    // 3.6 more come in front, and a tenth of what the gateway gets comes back: 3.6/(1 − 0.1)
    assert!((gateway.arrival_rate_per_s_then - 84.0).abs() < 1e-6, "{gateway:?}");
    let entry = found.entries.iter().find(|e| e.entry == "front").unwrap();
    assert!(entry.response_time_ms_then.unwrap() > 50.0);
    assert_eq!(entry.not_identified, ["front"]);
}

#[test]
fn where_a_few_call_and_many_enter_is_an_entry() {
    let mut mesh = mesh();
    mesh.edges.push(edge("job", "gateway", 0.8, 1.0));
    mesh.services.push(service("job", 0.8, 1.0, 4, 50.0));
    let found = what_if(&mesh, &Change { arrivals: 1.1, ..change("tagger") }).unwrap();
    assert_eq!(found.entries.iter().map(|entry| entry.entry.as_str()).collect::<Vec<_>>(), ["gateway", "job"]);
}

#[test]
fn what_cannot_be_asked_says_why() {
    let refused = |change: Change| what_if(&mesh(), &change).unwrap_err().to_string();
    assert_eq!(refused(change("nobody")), "no service nobody had traffic in the window looked at");
    let zero = Change { arrivals: 0.0, ..change("tagger") };
    assert_eq!(refused(zero), "arrivals 0: must be a number above 0 and at most 1000");
    let fewer = Change { servers: -2, ..change("tagger") };
    assert_eq!(refused(fewer), "servers -2: tagger has 2, and at least 1 must be left");
    for servers in [4_000_000_000, i64::MAX, i64::MIN] {
        let endless = refused(Change { servers, ..change("tagger") });
        assert_eq!(endless, format!("servers {servers:+}: must be at most 10000 more or less"));
    }
}
