//! Each rung of the ladder, by windows made to need it.

use std::num::NonZeroU32;

use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    lm::{Balance, LmServer, LmView, Sharing, Slots},
    queueing::simulation::{Law, Station},
    stations::{Giver, StationWindow},
};

const SECONDS: f64 = 100.0;

/// A window of one simulated station whose c is known, S a millisecond times `scale`.
fn window(station: &Station, discipline: Discipline, seed: u64) -> ServiceWindow {
    let requests: Vec<_> = station.run(seed, 20_000).collect();
    let mut replica = ReplicaWindow::default();
    let mut service = ServiceWindow { requests: 20_000, ..ServiceWindow::default() };
    requests.windows(2).for_each(|pair| replica.between_ms.add(pair[1].arrival - pair[0].arrival));
    for request in &requests {
        let (wait, served) = (request.start - request.arrival, request.departure - request.start);
        service.service_ms.push(served);
        service.app_wait_ms.push(wait);
        replica.service_ms.add(served);
        replica.wait_ms.add(wait);
    }
    service.known =
        Known::Identified { servers: NonZeroU32::new(station.servers).unwrap(), replicas: 1, discipline, margin: 5.0 };
    let between_ms = replica.between_ms;
    service.station = StationWindow {
        steady: Some(stations::Steady {
            windows: 1,
            served: 20_000.0,
            seconds: requests.last().unwrap().arrival / 1e3,
            between_ms,
            service_ms: replica.service_ms,
            cut_service_ms: 0.0,
            wait_ms: replica.wait_ms,
            duration_ms: 1.0,
            duration_error_ms: None,
            newest: None,
        }),
        replicas: vec![replica],
        between_ms,
        ..StationWindow::default()
    };
    service
}

fn estimate(arrivals: Law, service: Law, servers: u32, discipline: Discipline, seed: u64) -> Estimate {
    let station = Station { arrivals, service, servers, load: 0.8 };
    let window = window(&station, discipline, seed);
    let seconds = window.station.steady.as_ref().unwrap().seconds;
    of(&window, &Names::default(), seconds)
}

#[test]
fn the_first_rung_that_fits_is_taken() {
    let (m, e, h) = (Law::Exponential, Law::Erlang(4), Law::Hyperexponential(4.0));
    let cases = [
        (m, m, 1, Discipline::Fifo, "mm1"),
        (m, m, 4, Discipline::Fifo, "mmc"),
        (m, e, 1, Discipline::Fifo, "mg1"),
        (m, e, 4, Discipline::Fifo, "ggc"),
        (e, m, 1, Discipline::Fifo, "gg1"),
        (h, h, 4, Discipline::Fifo, "ggc"),
        (m, e, 2, Discipline::ProcessorSharing, "ps"),
    ];
    for (seed, (arrivals, service, servers, discipline, model)) in (1..).zip(cases) {
        let found = estimate(arrivals, service, servers, discipline, seed);
        assert_eq!(found.model, model, "seed {seed} {arrivals:?} {service:?}");
        assert!((found.utilization.unwrap() - 0.8).abs() < 2.0 * found.utilization_error.unwrap(), "{found:?}");
    }
}

#[test]
fn intervals_cover_what_they_are_for() {
    let (mut of_rho, mut of_wait) = (0, 0);
    for seed in 100..160 {
        let found = estimate(Law::Exponential, Law::Lognormal(2.0), 1, Discipline::Fifo, seed);
        let (rho, error) = (found.utilization.unwrap(), found.utilization_error.unwrap());
        of_rho += usize::from((rho - 0.8).abs() <= error);
        let truth = 0.8 / 0.2 * 1.5;
        let wait = &found.queue_wait_ms;
        let within = wait.predicted_low.unwrap() <= truth && wait.predicted_high.is_none_or(|high| truth <= high);
        of_wait += usize::from(within);
    }
    println!("seeds 100 to 159: ρ {of_rho} and wait {of_wait} of 60 within");
    assert!(of_rho >= 52 && of_wait >= 52, "{of_rho} {of_wait}");
}

#[test]
fn a_limit_that_refuses_is_solved_with_its_room() {
    let station = Station { arrivals: Law::Exponential, service: Law::Exponential, servers: 1, load: 0.8 };
    let mut limited = window(&station, Discipline::Fifo, 7);
    let seconds = limited.station.steady.as_ref().unwrap().seconds;
    // a third of those who came were refused with four there
    (limited.refused, limited.station.most_there) = (10_000, Some(4));
    let found = of(&limited, &Names::default(), seconds);
    let limit = found.limited.expect("a limit was seen");
    assert_eq!((found.model.as_str(), limit.room, limit.by_policy), ("mmck", 4, false));
    // ρ of what is offered is 1.2: P₄ = 0.2·1.2⁴/(1.2⁵ − 1)
    let expected = 0.2 * 1.2_f64.powi(4) / (1.2_f64.powi(5) - 1.0);
    assert!((limit.refused_ratio_predicted - expected).abs() < 0.02, "{limit:?}");
    assert!((limit.refused_ratio - 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn what_disagrees_grossly_is_doubted_once() {
    let station = Station { arrivals: Law::Exponential, service: Law::Exponential, servers: 1, load: 0.8 };
    let mut service = window(&station, Discipline::Fifo, 10);
    let seconds = service.station.steady.as_ref().unwrap().seconds;
    let fits = of(&service, &Names::default(), seconds);
    assert!(fits.mismatch.unwrap().abs() < GROSS && fits.confidence == fits.rule_confidence, "{fits:?}");
    let steady = service.station.steady.as_mut().unwrap();
    steady.wait_ms = [0.1, 0.2].into_iter().collect();
    let found = of(&service, &Names::default(), seconds);
    let off = found.mismatch.unwrap().abs();
    assert!(off > GROSS && found.rule_confidence == fits.confidence, "{found:?}");
    assert!((found.confidence - found.rule_confidence * GROSS / off).abs() < 1e-12);
    assert_eq!(predict(found.clone()).confidence, found.confidence);
}

#[test]
fn few_clients_are_solved_as_a_closed_network() {
    let station = Station { arrivals: Law::Exponential, service: Law::Exponential, servers: 1, load: 0.8 };
    let mut looped = window(&station, Discipline::Fifo, 8);
    looped.station.closed = Some(crate::closed::Closed { clients: 1, think_ns: 1e6 });
    let found = of(&looped, &Names::default(), SECONDS);
    assert_eq!(
        (found.model.as_str(), found.queue_wait_ms.predicted),
        ("mva", Some(0.0)),
        "one client waits for nobody"
    );
}

/// A thread that is held for a call is part of S: a cycle that also held the call would be longer than it is.
#[test]
fn what_servers_are_held_for_is_in_a_cycle_once() {
    let station = Station { arrivals: Law::Exponential, service: Law::Exponential, servers: 1, load: 0.5 };
    let mut looped = window(&station, Discipline::Fifo, 5);
    looped.station.closed = Some(crate::closed::Closed { clients: 1, think_ns: 1e6 });
    (0..100).for_each(|_| looped.downstream_ms.push(40.0, 1));
    let elsewhere = |looped: &ServiceWindow| of(looped, &Names::default(), 10.0).closed.unwrap().elsewhere_ms;
    assert_eq!(elsewhere(&looped), 40.0);
    looped.station.held_ms = Some(40.0);
    assert_eq!(elsewhere(&looped), 0.0);
}

#[test]
fn operations_are_told_apart() {
    let mut names = Names::default();
    let (read, write) = (names.intern("read"), names.intern("write"));
    let station = Station { arrivals: Law::Exponential, service: Law::Exponential, servers: 1, load: 0.8 };
    let mut mixed = window(&station, Discipline::Fifo, 9);
    let mut random = StdRng::seed_from_u64(9);
    let mut times = |mean: f64, count: usize| (0..count).map(|_| mean * Law::Erlang(4).sample(&mut random)).collect();
    mixed.station.by_operation = [(read, times(1.0, 3_000)), (write, times(10.0, 1_000))].into();
    let found = of(&mixed, &names, SECONDS).operations;
    assert_eq!(found.iter().map(|o| o.operation.as_str()).collect::<Vec<_>>(), ["write", "read"], "most work first");
    assert!((found[0].share - 0.25).abs() < 1e-9 && (found[0].service_time_ms - 10.0).abs() < 0.5);
    assert!((found[0].cs2 - 0.25).abs() < 0.05, "{found:?}");
}

#[test]
fn batches_are_believed_when_they_explain_and_nobody_said_how_many_work_there() {
    let station = Station { arrivals: Law::Exponential, service: Law::Exponential, servers: 1, load: 0.8 };
    let mut service = window(&station, Discipline::Fifo, 3);
    let server = Some(LmServer {
        prefill_base_ms: 1.0,
        prefill_ms_per_token: 0.1,
        prefill_ms_per_token2: 0.0,
        step_base_ms: 1.0,
        step_ms_per_sequence: 0.1,
        step_ms_per_sequence_beyond: 0.0,
        knee_sequences: 0.0,
        sharing: Sharing::Apart,
        slots: Slots::Unlimited,
        replicas: 1,
        balance: Balance::RoundRobin,
    });
    let lm = LmView { server, capacity_requests_per_s: Some(900.0), confidence: 0.9, ..LmView::default() };
    let mut model = |confidence: f64, known: Option<Known>| {
        service.lm = Some(LmView { confidence, ..lm.clone() });
        service.known = known.unwrap_or_else(|| service.known.clone());
        of(&service, &Names::default(), SECONDS).model
    };
    assert_eq!(model(0.9, None), "lm");
    assert_eq!(model(0.04, None), "mm1", "a stream that is passed on");
    let given = Known::Given { servers: NonZeroU32::MIN, replicas: 1, by: Giver::Configuration };
    assert_eq!(model(0.9, Some(given)), "mm1");
}
