//! From what a window measured of a service to its [`Estimate`]: a ladder, of which the first rung that is known and fits is taken.
//!
//! ```text
//! c not said, streams a model's answers,
//!   and its batches explain them     ─▶ lm     a replay
//! c said, or found from departures?  no ─▶ unknown, and why
//!   requests hinder each other       ─▶ usl    Gunther's law, the load of most throughput
//!   clients wait for their answer    ─▶ mva    a closed network
//!   a limit refuses requests         ─▶ mmck   what it refuses, and the wait of those let in
//!   shared by all                    ─▶ ps
//!   in order: ca² and cs² are 1?     ─▶ mm1, mmc;  ca² is 1 and c is 1 ─▶ mg1;  else gg1, ggc
//! ```
//!
//! Every estimate says its rule, samples, confidence and intervals, and puts what was observed beside what is predicted.

mod batching;
pub(crate) mod capacity;
pub(crate) mod interval;
mod ladder;
pub(crate) mod limits;

use std::num::NonZeroU32;

use interval::NINETY_FIVE;
use ladder::Rule;

use crate::{
    model::{Load, queue_wait_ms},
    moments::{Moments, mean},
    servers::Discipline,
    snapshot::{
        Closed, Estimate, LOAD_FACTORS, Lately, OperationTime, QueueWait, ReplicaEstimate, Scaling, Steady, WhatIf,
    },
    spans::{Name, Names},
    stations::{self, Known, ReplicaWindow},
    window::ServiceWindow,
};

/// Samples at which an estimate is as sure as its rule allows.
const SURE_SAMPLES: f64 = 200.0;

/// Standard deviations between the observed and the predicted wait from which on the model is doubted: chance goes beyond once in 370.
const GROSS: f64 = 3.0;

/// Operations told apart; what others take is the rest of S.
const MAX_OPERATIONS: usize = 50;

/// The estimate of a service in a window of so many seconds.
pub(crate) fn of(service: &ServiceWindow, names: &Names, seconds: f64) -> Estimate {
    let measured = measured(service, names, seconds);
    // who says how many work there says that it is a station
    let is_station = matches!(service.known, Known::Given { .. });
    let lm = service.lm.as_ref().filter(|_| !is_station);
    if let Some(batching) = lm.and_then(|lm| batching::of(&measured, lm, service.station.trend)) {
        return batching;
    }
    let (rule, servers) = match ladder::rule(&service.known, service.station.held_ms.is_some()) {
        Ok(known) => known,
        Err(reason) => {
            let servers_at_least = match service.known {
                Known::AtLeast { servers, .. } => Some(servers),
                _ => None,
            };
            return Estimate { reason: Some(reason), servers_at_least, ..measured };
        }
    };
    let Some((service_ms, cs2)) = service.service_time() else {
        return Estimate { reason: Some("too few requests".into()), ..measured };
    };
    let known = of_station(measured, service, &rule, servers, (service_ms, cs2));
    let model = ladder::model(&known, rule.discipline);
    let modelled = limits::seen(Estimate { model: model.as_str().into(), ..known }, service, seconds);
    predict(capacity::of(modelled, service.station.trend))
}

/// What needs no model.
fn measured(service: &ServiceWindow, names: &Names, seconds: f64) -> Estimate {
    let served = service.requests - service.shed;
    let (observed_proxy, between) = (service.proxy_wait_ms.mean(), &service.station.between_ms);
    Estimate {
        arrival_rate_per_s: served as f64 / seconds,
        ca2: between.scv(),
        ca2_error: between.scv_error().map(|error| NINETY_FIVE * error),
        samples: served,
        model: "unknown".into(),
        rule: "none".into(),
        queue_wait_ms: QueueWait { observed: observed_proxy, observed_proxy, ..QueueWait::default() },
        by_replica: replicas(service, names, seconds),
        closed: service.station.closed.map(|closed| Closed {
            clients: closed.clients,
            think_time_ms: closed.think_ns / 1e6,
            elsewhere_ms: service.downstream_ms.mean().unwrap_or(0.0),
        }),
        operations: operations(service, names),
        lately: service.station.steady.as_ref().map(lately),
        ..Estimate::default()
    }
}

/// What is known with c: S and ρ with their intervals, and the wait that was observed.
fn of_station(
    measured: Estimate,
    service: &ServiceWindow,
    rule: &Rule,
    servers: NonZeroU32,
    (service_ms, cs2): (f64, f64),
) -> Estimate {
    let scaling = scaling(rule, service_ms);
    let utilization = match &scaling {
        Some(law) => {
            law.peak_rate_per_s.map(|peak| measured.arrival_rate_per_s / (peak * f64::from(rule.replicas.max(1))))
        }
        None => Some(measured.arrival_rate_per_s * service_ms / 1e3 / f64::from(servers.get())),
    };
    let (samples, all) = (service.service_ms.len().max(1) as f64, &service.station.replicas);
    let services = merged(all.iter().map(|replica| &replica.service_ms));
    let of_service = (cs2 / samples).sqrt();
    let of_rate = interval::rate_error(measured.ca2.unwrap_or(1.0), measured.samples as f64);
    let (observed_app, observed_proxy) = (mean(&service.app_wait_ms), measured.queue_wait_ms.observed_proxy);
    let observed = Some(observed_app.unwrap_or(0.0) + observed_proxy.unwrap_or(0.0));
    let confidence = rule.confidence * (measured.samples as f64 / SURE_SAMPLES).min(1.0);
    Estimate {
        service_time_ms: Some(service_ms),
        held_ms: service.station.held_ms,
        service_time_ms_error: Some(service_ms * NINETY_FIVE * of_service),
        servers: scaling.is_none().then_some(servers.get()),
        replicas: Some(rule.replicas),
        utilization,
        utilization_error: utilization.map(|rho| rho * NINETY_FIVE * of_service.hypot(of_rate)),
        queue_wait_ms: QueueWait { observed, observed_proxy, observed_app, ..QueueWait::default() },
        cs2: Some(cs2),
        cs2_error: services.scv_error().map(|error| NINETY_FIVE * error),
        headroom: utilization.map(capacity::headroom),
        rule: rule.name.into(),
        confidence,
        rule_confidence: confidence,
        // what a server is held for is part of S, and counts once
        closed: measured.closed.map(|closed| match service.station.held_ms {
            Some(_) => Closed { elsewhere_ms: 0.0, ..closed },
            None => closed,
        }),
        scaling,
        steady: service.station.steady.as_ref().and_then(steady),
        ..measured
    }
}

/// The wait by the model, at this load and at more.
pub(crate) fn predict(mut estimate: Estimate) -> Estimate {
    let loads = Load::of_window(&estimate).zip(Load::now(&estimate)).zip(Load::steady(&estimate));
    let Some(((window, now), steady)) = loads else { return estimate };
    let at = |load_factor| WhatIf { load_factor, queue_wait_ms: queue_wait_ms(&estimate, &now.times(load_factor)) };
    let what_if = LOAD_FACTORS.map(at).to_vec();
    let (predicted, range) = (queue_wait_ms(&estimate, &window), interval::of_wait(&estimate, &window));
    let mismatch = interval::mismatch(&estimate, &steady);
    let wait = QueueWait {
        predicted,
        predicted_low: range.map(|(low, _)| low),
        predicted_high: range.and_then(|(_, high)| high),
        ..estimate.queue_wait_ms
    };
    estimate.queue_wait_ms = wait;
    // a note of before has only the one
    let rule_confidence = estimate.rule_confidence.max(estimate.confidence);
    Estimate { what_if, mismatch, rule_confidence, confidence: doubted(rule_confidence, mismatch), ..estimate }
}

/// What is left of confidence where the observed wait is so many standard deviations from the predicted one.
fn doubted(confidence: f64, mismatch: Option<f64>) -> f64 {
    confidence * (GROSS / mismatch.unwrap_or(0.0).abs()).min(1.0)
}

fn lately(steady: &stations::Steady) -> Lately {
    Lately {
        windows: steady.windows,
        samples: steady.served as u64,
        arrival_rate_per_s: steady.served / steady.seconds,
        duration_ms: steady.duration_ms / steady.served.max(1.0),
        duration_ms_deviation: steady.duration_error_ms,
    }
}

fn steady(steady: &stations::Steady) -> Option<Steady> {
    let (service, between) = (&steady.service_ms, &steady.between_ms);
    Some(Steady {
        windows: steady.windows,
        samples: steady.served as u64,
        arrival_rate_per_s: steady.served / steady.seconds,
        arrival_rate_per_s_newest: steady.newest.map(|newest| newest.per_s),
        arrival_rate_per_s_deviation: steady.newest.map(|newest| newest.error),
        service_time_ms: service.mean()? + steady.cut_service_ms / service.count(),
        ca2: between.scv()?,
        ca2_deviation: between.scv_error()?,
        cs2: service.scv()?,
        cs2_deviation: service.scv_error()?,
        queue_wait_ms: steady.wait_ms.mean()?,
        duration_ms: steady.duration_ms / steady.served.max(1.0),
        duration_ms_deviation: steady.duration_error_ms,
    })
}

fn scaling(rule: &Rule, service_ms: f64) -> Option<Scaling> {
    let Discipline::Contended(law) = rule.discipline else { return None };
    let gamma_per_s = 1e3 / service_ms;
    let peak = law.peak_concurrency();
    let most = match peak {
        Some(peak) => Some(law.throughput(peak.max(1.0)) / law.gamma),
        // without coherency throughput nears γ/σ
        None => (law.sigma > 0.0).then(|| 1.0 / law.sigma),
    };
    Some(Scaling {
        gamma_per_s,
        sigma: law.sigma,
        kappa: law.kappa,
        peak_in_flight: peak,
        peak_rate_per_s: most.map(|most| most * gamma_per_s),
    })
}

/// Those that take most of the work first.
fn operations(service: &ServiceWindow, names: &Names) -> Vec<OperationTime> {
    let all: f64 = service.station.by_operation.values().map(Moments::count).sum();
    let of_one = |(name, times): (&Name, &Moments)| {
        let (mean, cs2) = (times.mean()?, times.scv().unwrap_or(0.0));
        Some(OperationTime {
            operation: names.text(*name).to_owned(),
            share: times.count() / all,
            service_time_ms: mean,
            service_time_ms_error: NINETY_FIVE * mean * (cs2 / times.count()).sqrt(),
            cs2,
            samples: times.count() as u64,
        })
    };
    let mut operations: Vec<OperationTime> = service.station.by_operation.iter().filter_map(of_one).collect();
    operations.sort_by(|a, b| (b.share * b.service_time_ms).total_cmp(&(a.share * a.service_time_ms)));
    operations.truncate(MAX_OPERATIONS);
    operations
}

fn replicas(service: &ServiceWindow, names: &Names, seconds: f64) -> Vec<ReplicaEstimate> {
    let named = service.station.replicas.iter().filter_map(|replica| Some((replica.instance?, replica)));
    let of_one = |(name, replica): (Name, &ReplicaWindow)| {
        let service_time_ms =
            replica.service_ms.mean().map(|mean| mean + replica.cut_service_ms / replica.service_ms.count());
        let arrival_rate_per_s = replica.visits as f64 / seconds;
        let servers = replica.servers.map(NonZeroU32::get);
        ReplicaEstimate {
            instance: names.text(name).to_owned(),
            arrival_rate_per_s,
            servers,
            service_time_ms,
            utilization: servers.zip(service_time_ms).map(|(c, ms)| arrival_rate_per_s * ms / 1e3 / f64::from(c)),
            queue_wait_ms: replica.wait_ms.mean(),
            reason: replica.reason.clone(),
        }
    };
    let mut replicas: Vec<ReplicaEstimate> = named.map(of_one).collect();
    replicas.sort_by(|a, b| a.instance.cmp(&b.instance));
    replicas
}

fn merged<'a>(all: impl Iterator<Item = &'a Moments>) -> Moments {
    all.fold(Moments::default(), |mut merged, one| {
        merged.merge(one);
        merged
    })
}

#[cfg(test)]
mod tests;
