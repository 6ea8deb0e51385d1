//! The whole estimate on simulated servers with made arrivals: a reduced version of `compare/lm`.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

#[path = "../../../compare/lm/servers.rs"]
mod servers;

use servers::{Coming, Server, kinds, serve as really};

/// Arrivals with the lengths of a conversation: prompts around 1,000 tokens, answers around 200.
fn coming(seed: u64, count: usize, rate_per_s: f64) -> Vec<Coming> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut exponential = move |mean: f64| -mean * (1.0 - random.random::<f64>()).ln();
    let mut now = 0.0;
    let one = |_| {
        now += exponential(1e3 / rate_per_s);
        Coming {
            at_ms: now,
            input_tokens: (200.0 + exponential(900.0)).min(4_000.0).round(),
            output_tokens: (20.0 + exponential(190.0)).min(800.0).round(),
        }
    };
    (0..count).map(one).collect()
}

/// What spans show of them.
fn seen(server: &Server, coming: &[Coming], seed: u64) -> Vec<LmRequest> {
    let shown = really(server, coming, seed);
    let request = |(coming, shown): (&Coming, &servers::Shown)| LmRequest {
        arrival_ms: coming.at_ms,
        first_token_ms: shown.first_token_ms,
        end_ms: shown.end_ms,
        input_tokens: coming.input_tokens,
        output_tokens: coming.output_tokens,
        replica: if server.named { shown.replica as u32 } else { 0 },
    };
    coming.iter().zip(&shown).map(request).collect()
}

fn server(name: &str) -> Server {
    kinds().into_iter().find(|server| server.name == name).unwrap()
}

fn estimated(server: &Server, seed: u64, count: usize, rate_per_s: f64) -> LmEstimate {
    let requests = seen(server, &coming(seed, count, rate_per_s), seed);
    let until = requests.iter().map(|r| r.end_ms).fold(0.0, f64::max);
    estimate(&requests, until).unwrap()
}

/// Mean times to first token and per token at another load, really and as predicted.
#[test]
fn times_at_more_load_are_predicted_within_nine_percent() {
    for (seed, name) in (1..).zip(["prefill first", "chunked, 512 tokens", "apart", "knee at 40"]) {
        let server = server(name);
        let estimate = estimated(&server, seed, 700, 4.0);
        let then: Vec<Coming> =
            coming(seed, 700, 4.0).into_iter().map(|c| Coming { at_ms: c.at_ms / 1.2, ..c }).collect();
        let really = seen(&server, &then, seed + 50);
        let settled = 70;
        let arrivals: Vec<Arrival> = really.iter().map(LmRequest::arrival).collect();
        let predicted = predict_on(&estimate, &arrivals, settled).unwrap();
        let count = (really.len() - settled) as f64;
        let first = really[settled..].iter().map(|r| r.first_token_ms - r.arrival_ms).sum::<f64>() / count;
        let token = really[settled..].iter().map(LmRequest::per_token_ms).sum::<f64>() / count;
        let first_error = predicted.time_to_first_token_ms.unwrap().mean / first - 1.0;
        let token_error = predicted.time_per_output_token_ms.unwrap().mean / token - 1.0;
        println!("seed {seed} {name}: {first_error:.3} {token_error:.3}, {:?}", estimate.server);
        assert!(first_error.abs() < 0.09 && token_error.abs() < 0.09, "{name}: {first_error} {token_error}");
    }
}

#[test]
fn machines_apart_and_shared_are_told_apart() {
    assert_eq!(estimated(&server("apart"), 3, 600, 4.0).server.sharing, Sharing::Apart);
    for name in ["prefill first", "chunked, 512 tokens"] {
        assert!(estimated(&server(name), 3, 600, 4.0).server.is_shared(), "{name}");
    }
}

#[test]
fn slots_are_found_when_full_and_not_made_up_when_not() {
    let server = server("32 sequences");
    let full = estimated(&server, 4, 700, 8.5);
    assert_eq!(full.server.slots, Slots::Sequences(32), "{:?}", full.server);
    let view = LmView::of(Ok(full));
    assert_eq!(view.slots, Some(32));
    let empty = LmView::of(Ok(estimated(&server, 4, 500, 2.0)));
    assert_eq!((empty.slots, empty.kv_tokens), (None, None));
    assert!(empty.slots_reason.unwrap().starts_with("not identifiable"));
}

#[test]
fn capacity_is_what_it_does_when_everyone_waits() {
    let server = server("32 sequences");
    let estimate = estimated(&server, 5, 700, 8.5);
    let mut all = coming(6, 1_500, 8.5);
    all.iter_mut().for_each(|c| c.at_ms = 0.0);
    let mut ends: Vec<f64> = really(&server, &all, 6).iter().map(|s| s.end_ms).collect();
    ends.sort_by(f64::total_cmp);
    let really = 900.0 / (ends[1_200] - ends[300]) * 1e3;
    let error = estimate.capacity_requests_per_s / really - 1.0;
    assert!(error.abs() < 0.09, "{} for {really}", estimate.capacity_requests_per_s);
    let twice = predict(&estimate, 2.0 * really / 8.5).unwrap();
    assert!(twice.saturated && twice.time_to_first_token_ms.is_none(), "{twice:?}");
}

#[test]
fn times_rise_with_load() {
    let estimate = estimated(&server("prefill first"), 7, 500, 4.0);
    let at = |load| predict(&estimate, load).unwrap().time_to_first_token_ms.unwrap().mean;
    let loads = [0.5, 0.8, 1.0, 1.1, 1.2, 1.3];
    assert!(loads.windows(2).all(|pair| at(pair[0]) < at(pair[1]) * 1.01), "{:?}", loads.map(at));
    assert_eq!(predict(&estimate, 0.0), None);
    assert_eq!(predict(&estimate, f64::NAN), None);
}

#[test]
fn too_little_is_refused() {
    let requests = seen(&server("prefill first"), &coming(8, 60, 4.0), 8);
    let refused = estimate(&requests, requests[59].end_ms);
    assert!(matches!(refused, Err(LmUnidentifiable::TooFew { seen: 1..=60 })), "{refused:?}");
    assert!(matches!(estimate(&[], 0.0), Err(LmUnidentifiable::TooFew { seen: 0 })));
}

#[path = "../../../compare/lm/spans.rs"]
mod spans;

#[test]
fn the_service_view_has_it_and_says_beside_each_other_what_is_predicted_and_seen() {
    let server = server("3 replicas, named");
    let coming = coming(9, 900, 5.0);
    let view = spans::estimated(&server, &coming, &really(&server, &coming, 9));
    let (predicted, observed) = (view.predicted.unwrap(), view.observed.unwrap());
    let first = predicted.time_to_first_token_ms.unwrap().mean / observed.time_to_first_token_ms.mean;
    let token = predicted.time_per_output_token_ms.unwrap().mean / observed.time_per_output_token_ms.mean;
    assert!((first - 1.0).abs() < 0.09 && (token - 1.0).abs() < 0.09, "{first} {token}");
    assert_eq!(view.server.unwrap().replicas, 3);
    assert_eq!(view.what_if.iter().map(|w| w.load_factor).collect::<Vec<_>>(), [1.1, 1.2, 1.5, 2.0]);
    assert!(view.utilization.unwrap() < 0.9 && view.headroom.unwrap() > 0.1 && view.confidence > 0.5);
    let ca2: Vec<f64> = view.arrivals.iter().filter_map(|minute| minute.ca2).collect();
    assert!(ca2.len() >= 2 && ca2.iter().all(|ca2| (0.7..1.4).contains(ca2)), "{ca2:?}");
    assert!((view.longer.unwrap().ca2.unwrap() - 1.0).abs() < 0.2);
    let again: LmView = serde_json::from_str(&serde_json::to_string(&view).unwrap()).unwrap();
    assert_eq!((again.server, again.estimate), (view.server, None));
}

/// Found with a service view that said 17 servers of 7.6 s beside batches at 62 %, and that half as many more saturate them.
#[test]
fn the_queue_of_a_model_server_is_that_of_its_batches() {
    use crate::whatif::{Change, WhatIfError, what_if};

    let server = server("32 sequences");
    let coming = coming(12, 900, 4.0);
    let snapshot = spans::watched(&server, &coming, &really(&server, &coming, 12));
    let service = &snapshot.services[0];
    let (estimate, lm) = (&service.estimate, service.lm.as_ref().unwrap());
    let capacity = lm.capacity_requests_per_s.unwrap();
    println!("seed 12: {estimate:?}");
    assert_eq!((estimate.model.as_str(), estimate.servers, estimate.service_time_ms), ("lm", None, None));
    assert_eq!(estimate.capacity.as_ref().unwrap().saturation_rate_per_s, capacity);
    let rho = estimate.utilization.unwrap();
    assert_eq!(rho, estimate.arrival_rate_per_s / capacity);
    assert!((rho - lm.utilization.unwrap()).abs() < 2.0 * estimate.utilization_error.unwrap(), "{rho} {lm:?}");
    assert!((estimate.headroom.unwrap() - (1.0 / rho - 1.0)).abs() < 1e-9 && estimate.confidence == lm.confidence);

    let change =
        |arrivals| Change { service: "model".into(), operation: None, arrivals, servers: 0, service_time: 1.0 };
    let more = what_if(&snapshot, &change(1.2)).unwrap();
    let (then, replayed) = (&more.services[0], predict(lm.estimate.as_ref().unwrap(), 1.2).unwrap());
    assert_eq!((then.lm_then, then.queue_wait_ms_then), (Some(replayed), replayed.queue_wait_ms));
    assert!(!then.saturated && then.utilization_then == Some(replayed.utilization), "{then:?}");
    // what requests really take a fifth closer together
    let closer: Vec<Coming> = coming.iter().map(|c| Coming { at_ms: c.at_ms / 1.2, ..*c }).collect();
    let mean = |coming: &[Coming]| {
        let shown = really(&server, coming, 12);
        shown.iter().zip(coming).map(|(shown, coming)| shown.end_ms - coming.at_ms).sum::<f64>() / shown.len() as f64
    };
    let (entry, added) = (&more.entries[0], mean(&closer) - mean(&coming));
    let predicted = entry.response_time_ms_then.unwrap() - entry.response_time_ms;
    assert!((predicted - added).abs() < 0.09 * mean(&closer), "{predicted} for {added}: {entry:?}");
    assert!(what_if(&snapshot, &change(2.0 / rho)).unwrap().services[0].saturated);

    let refused = |change: Change| what_if(&snapshot, &change).unwrap_err();
    let more_servers = refused(Change { servers: 1, ..change(1.0) });
    assert_eq!(
        more_servers.to_string(),
        "servers: model streams a model's answers in batches, and of these only other arrivals can be replayed"
    );
    let faster = refused(Change { service_time: 0.5, ..change(1.0) });
    assert!(matches!(faster, WhatIfError::OfBatches { field: "service_time", .. }));
    let of_one = refused(Change { operation: Some("chat".into()), ..change(1.5) });
    assert!(matches!(of_one, WhatIfError::OfBatches { field: "operation", .. }));
}

#[test]
fn a_restart_keeps_what_an_estimate_rests_on() {
    const WINDOW: i64 = 10_000_000_000;
    let ns = |ms: f64| (ms * 1e6) as i64;
    let requests = seen(&server("prefill first"), &coming(11, 700, 4.0), 11);
    let span = |r: &LmRequest| crate::spans::Span {
        start: ns(r.arrival_ms),
        duration_ns: ns(r.end_ms) - ns(r.arrival_ms),
        first_token_ns: Some(ns(r.first_token_ms) - ns(r.arrival_ms)).into(),
        input_tokens: r.input_tokens as i64,
        output_tokens: r.output_tokens as i64,
        ..a_span()
    };
    let mut stayed = LmServices::default();
    let until = 17 * WINDOW;
    for end in (1..=17).map(|window| window * WINDOW) {
        let ended = requests.iter().map(span).filter(|span| (end - WINDOW..end).contains(&span.end()));
        ended.for_each(|span| stayed.push(&span));
        stayed.close(end);
    }
    let mut note = Vec::new();
    ciborium::into_writer(&stayed.save(), &mut note).unwrap();
    assert!(note.len() < 100_000, "{} bytes of one service", note.len());
    let mut anew = LmServices::default();
    anew.restore(ciborium::from_reader(&note[..]).unwrap());
    let said = |services: &LmServices| serde_json::to_string(&services.view(1).unwrap()).unwrap();
    assert_eq!(said(&anew), said(&stayed), "what was known is said until the next window closes");
    assert!(anew.view(1).unwrap().estimate.is_none());
    [&mut anew, &mut stayed].into_iter().for_each(|services| services.close(until + 6 * WINDOW));
    assert!(anew.view(1).unwrap().estimate.is_some(), "then it is estimated from the same requests");
    assert_eq!(said(&anew), said(&stayed));
}

#[test]
fn a_service_without_times_to_first_token_says_so() {
    let mut services = LmServices::default();
    services.push(&crate::spans::Span { output_tokens: 5, first_token_ns: None.into(), ..a_span() });
    services.close(60_000_000_000);
    let view = services.view(1).unwrap();
    assert_eq!(view.reason.unwrap(), "its spans carry no time to first token");
    services.push(&crate::spans::Span { output_tokens: 0, service: 2, ..a_span() });
    services.push(&crate::spans::Span { output_tokens: 5, service: 3, shed: true, ..a_span() });
    assert!(services.view(2).is_none() && services.view(3).is_none(), "no model, or turned away");
}

#[test]
fn what_is_kept_is_bounded_and_its_order_does_not_matter() {
    let span = |at: i64| crate::spans::Span {
        start: at * 50_000_000,
        duration_ns: 40_000_000 + at % 7 * 1_000_000,
        first_token_ns: Some(10_000_000).into(),
        input_tokens: 10 + at % 13,
        output_tokens: 5 + at % 5,
        ..a_span()
    };
    let run = |spans: Vec<crate::spans::Span>| {
        let mut services = LmServices::default();
        spans.iter().for_each(|span| services.push(span));
        services.close(400_000_000_000);
        services.view(1).unwrap()
    };
    let (forth, back) = (run((0..7_000).map(span).collect()), run((0..7_000).rev().map(span).collect()));
    assert_eq!(serde_json::to_string(&forth).unwrap(), serde_json::to_string(&back).unwrap());
    assert!(forth.samples <= 2_000);
    let mut many = LmServices::default();
    (0..100).for_each(|service| many.push(&crate::spans::Span { service, ..span(1) }));
    many.close(10_000_000_000);
    let reasons = (0..100).map(|service| many.view(service).unwrap().reason.unwrap_or_default());
    let beyond = reasons.filter(|why| why == "not looked at: there are 64 LM services before it").count();
    assert_eq!((beyond, many.refused), (36, 36));
    many.begin();
    many.push(&crate::spans::Span { service: 100, ..span(2) });
    assert!(many.view(99).is_none() && many.view(100).is_some(), "who had none in the last window is told of nothing");
}

fn a_span() -> crate::spans::Span {
    use crate::spans::{Side, Span};
    Span {
        weight: 1,
        sampled: false,
        refused: false,
        trace: 1,
        id: 1,
        parent: 0,
        start: 0,
        duration_ns: 1_000_000,
        service: 1,
        operation: 2,
        kind: 3,
        side: Side::Server,
        error: false,
        abandoned: false,
        peer: None,
        peer_kind: crate::snapshot::NodeKind::Service,
        instance: None,
        queue_wait_ns: None.into(),
        shed: false,
        input_tokens: 1,
        output_tokens: 1,
        first_token_ns: Some(1).into(),
        ..Span::default()
    }
}
