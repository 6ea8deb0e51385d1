//! Meshes of simulated stations, seen by a whole analyzer as spans: what a change does end to end, predicted and simulated.
//!
//! A service works on a request (in order, on one of its servers), lets its server go, makes its calls stage by stage, those of a stage
//! beside each other, and answers. An event simulation: requests at all stations in the order of time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_analyzer::{
    Snapshot,
    whatif::{Change, what_if},
};

use crate::{
    simulation::Law,
    spans::{Row, analyze},
    table::Errors,
};

/// A service of a mesh.
#[derive(Clone, Copy, Debug)]
struct Service {
    name: &'static str,
    servers: u32,
    service_ms: f64,
    law: Law,
    /// Whom it calls: stages one after the other, calls of a stage beside each other.
    calls: &'static [&'static [usize]],
}

/// Services, the first of which is the entry, and its arrivals.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    name: &'static str,
    services: Vec<Service>,
    rate_per_s: f64,
}

/// What a call takes to arrive, and an answer to come back, from and to: two that start at one moment arrive one after the other.
const NETWORK_MS: [f64; 2] = [0.1, 0.3];

fn service(name: &'static str, servers: u32, service_ms: f64, law: Law, calls: &'static [&'static [usize]]) -> Service {
    Service { name, servers, service_ms, law, calls }
}

/// Every queue of which can be told.
pub(crate) fn meshes() -> Vec<Mesh> {
    let (m, e, l) = (Law::Exponential, Law::Erlang(4), Law::Lognormal(2.0));
    let tandem = vec![
        service("gateway", 4, 15.0, e, &[&[1]]),
        service("auth", 2, 10.0, m, &[&[2]]),
        service("cart", 3, 15.0, m, &[&[3]]),
        service("stock", 1, 5.0, e, &[&[4]]),
        service("ledger", 4, 20.0, l, &[]),
    ];
    let fork = vec![
        service("gateway", 2, 8.0, e, &[&[1, 2, 3]]),
        service("search", 3, 18.0, m, &[&[4]]),
        service("prices", 2, 13.0, m, &[]),
        service("offers", 4, 25.0, e, &[]),
        service("index", 2, 12.0, l, &[]),
    ];
    let mixed = vec![
        service("gateway", 4, 12.0, e, &[&[1], &[2, 3], &[5]]),
        service("auth", 1, 5.0, m, &[]),
        service("catalog", 3, 15.0, m, &[&[4, 4]]),
        service("prices", 2, 14.0, l, &[]),
        service("store", 3, 8.0, m, &[]),
        service("render", 2, 11.0, e, &[]),
    ];
    let mesh = |name, services, rate_per_s| Mesh { name, services, rate_per_s };
    vec![mesh("tandem", tandem, 130.0), mesh("fork and join", fork, 100.0), mesh("mixed", mixed, 100.0)]
}

/// The entry of which hardly ever lets a request wait, so that its servers cannot be told, as of most gateways.
pub(crate) fn wide_entries() -> Vec<Mesh> {
    let (m, e) = (Law::Exponential, Law::Erlang(2));
    let chain = vec![
        service("gateway", 16, 5.0, m, &[&[1]]),
        service("api", 8, 12.0, m, &[&[2], &[3]]),
        service("work", 2, 28.0, e, &[]),
        service("ledger", 1, 12.0, m, &[]),
    ];
    let beside = vec![
        service("gateway", 16, 5.0, m, &[&[1, 2]]),
        service("work", 2, 28.0, e, &[]),
        service("ledger", 1, 12.0, m, &[]),
    ];
    let mesh = |name, services| Mesh { name, services, rate_per_s: 50.0 };
    vec![mesh("wide entry", chain), mesh("wide entry, calls beside each other", beside)]
}

/// Somebody's visit to a service.
struct Visit {
    request: usize,
    service: usize,
    /// The visit that called it.
    parent: Option<usize>,
    /// What the call took to arrive.
    network: f64,
    arrived: f64,
    stage: usize,
    /// Calls of the stage that are not answered yet.
    open: usize,
    ended: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Enters,
    Arrives(usize),
    Served(usize),
    Answered(usize),
}

/// What happens next, by time in picoseconds of a millisecond.
#[derive(Clone, Copy, Debug, PartialEq)]
struct At(u64, u64, Event);

impl Eq for At {}

impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

struct Simulation<'a> {
    mesh: &'a Mesh,
    random: StdRng,
    events: BinaryHeap<Reverse<At>>,
    order: u64,
    visits: Vec<Visit>,
    queues: Vec<VecDeque<usize>>,
    free: Vec<u32>,
    entered: usize,
}

impl<'a> Simulation<'a> {
    fn run(mesh: &'a Mesh, seed: u64, requests: usize) -> Vec<Visit> {
        let mut simulation = Self {
            mesh,
            random: StdRng::seed_from_u64(seed),
            events: BinaryHeap::new(),
            order: 0,
            visits: Vec::new(),
            queues: vec![VecDeque::new(); mesh.services.len()],
            free: mesh.services.iter().map(|service| service.servers).collect(),
            entered: 0,
        };
        simulation.at(0.0, Event::Enters);
        while let Some(Reverse(At(time, _, event))) = simulation.events.pop() {
            let now = time as f64 / 1e9;
            match event {
                Event::Enters => simulation.enters(now, requests),
                Event::Arrives(visit) => simulation.arrives(now, visit),
                Event::Served(visit) => simulation.served(now, visit),
                Event::Answered(visit) => simulation.answered(now, visit),
            }
        }
        simulation.visits
    }

    fn at(&mut self, time: f64, event: Event) {
        self.order += 1;
        self.events.push(Reverse(At((time * 1e9) as u64, self.order, event)));
    }

    fn enters(&mut self, now: f64, requests: usize) {
        self.visit(now, self.entered, 0, None);
        self.entered += 1;
        if self.entered < requests {
            let next = now + Law::Exponential.sample(&mut self.random) * 1e3 / self.mesh.rate_per_s;
            self.at(next, Event::Enters);
        }
    }

    fn visit(&mut self, called: f64, request: usize, service: usize, parent: Option<usize>) {
        let network = parent.map_or(0.0, |_| self.random.random_range(NETWORK_MS[0]..NETWORK_MS[1]));
        let arrived = called + network;
        self.visits.push(Visit { request, service, parent, network, arrived, stage: 0, open: 0, ended: 0.0 });
        self.at(arrived, Event::Arrives(self.visits.len() - 1));
    }

    fn arrives(&mut self, now: f64, visit: usize) {
        let service = self.visits[visit].service;
        if self.free[service] > 0 {
            self.free[service] -= 1;
            self.start(now, visit);
        } else {
            self.queues[service].push_back(visit);
        }
    }

    fn start(&mut self, now: f64, visit: usize) {
        let service = &self.mesh.services[self.visits[visit].service];
        let takes = service.law.sample(&mut self.random) * service.service_ms;
        self.at(now + takes, Event::Served(visit));
    }

    fn served(&mut self, now: f64, visit: usize) {
        let service = self.visits[visit].service;
        match self.queues[service].pop_front() {
            Some(next) => self.start(now, next),
            None => self.free[service] += 1,
        }
        self.goes_on(now, visit);
    }

    /// Makes the calls of the next stage, or answers.
    fn goes_on(&mut self, now: f64, visit: usize) {
        let Visit { request, service, parent, stage, .. } = self.visits[visit];
        if let Some(calls) = self.mesh.services[service].calls.get(stage) {
            self.visits[visit].stage += 1;
            self.visits[visit].open = calls.len();
            calls.iter().for_each(|callee| self.visit(now, request, *callee, Some(visit)));
            return;
        }
        self.visits[visit].ended = now;
        if let Some(parent) = parent {
            self.at(now + self.visits[visit].network, Event::Answered(parent));
        }
    }

    fn answered(&mut self, now: f64, visit: usize) {
        self.visits[visit].open -= 1;
        if self.visits[visit].open == 0 {
            self.goes_on(now, visit);
        }
    }
}

/// Two spans a call, one at the root.
fn spans(mesh: &Mesh, visits: &[Visit]) -> Vec<Row> {
    let ns = |ms: f64| (ms * 1e6) as i64;
    let mut rows = Vec::with_capacity(2 * visits.len());
    for (place, visit) in (1_u64..).zip(visits) {
        let row = |id, parent, start, end, service, kind| Row {
            trace: visit.request as u128 + 1,
            id,
            parent,
            start: ns(start),
            end: ns(end),
            service,
            kind,
        };
        let name = mesh.services[visit.service].name;
        let Some(parent) = visit.parent else {
            rows.push(row(2 * place, 0, visit.arrived, visit.ended, name, "server"));
            continue;
        };
        let caller = mesh.services[visits[parent].service].name;
        let (start, end) = (visit.arrived - visit.network, visit.ended + visit.network);
        rows.push(row(2 * place + 1, 2 * (parent as u64 + 1), start, end, caller, "client"));
        rows.push(row(2 * place, 2 * place + 1, visit.arrived, visit.ended, name, "server"));
    }
    rows
}

/// Mean response time at the entry, the first tenth left out.
fn response_ms(mesh: &Mesh, seed: u64, requests: usize) -> f64 {
    let visits = Simulation::run(mesh, seed, requests);
    let roots = visits.iter().filter(|visit| visit.parent.is_none() && visit.request > requests / 10);
    let (sum, count) = roots.fold((0.0, 0.0), |(sum, count), visit| (sum + visit.ended - visit.arrived, count + 1.0));
    sum / count
}

/// What is asked of a mesh: a factor on arrivals, or servers or a factor on the service time of one service.
fn changes(mesh: &Mesh) -> Vec<Change> {
    let change = |service: &str| Change {
        service: service.into(),
        operation: None,
        arrivals: 1.0,
        servers: 0,
        service_time: 1.0,
    };
    let mut changes = vec![Change { arrivals: 1.2, ..change(mesh.services[0].name) }];
    let utilization = |service: &Service, rate: f64| rate * service.service_ms / 1e3 / f64::from(service.servers);
    for (place, service) in mesh.services.iter().enumerate() {
        let rho = utilization(service, mesh.rate_per_s * visits_of(mesh, place));
        changes.push(Change { servers: 1, ..change(service.name) });
        changes.push(Change { service_time: 0.5, ..change(service.name) });
        if rho * 1.3 < 0.92 {
            changes.push(Change { service_time: 1.3, ..change(service.name) });
        }
        if service.servers > 1 && rho * f64::from(service.servers) / f64::from(service.servers - 1) < 0.92 {
            changes.push(Change { servers: -1, ..change(service.name) });
        }
    }
    changes
}

/// How often a request visits a service.
fn visits_of(mesh: &Mesh, service: usize) -> f64 {
    if service == 0 {
        return 1.0;
    }
    let callers = mesh.services.iter().enumerate().map(|(caller, of)| {
        let calls = of.calls.iter().flat_map(|stage| stage.iter()).filter(|callee| **callee == service).count();
        if calls > 0 { calls as f64 * visits_of(mesh, caller) } else { 0.0 }
    });
    callers.sum()
}

fn changed(mesh: &Mesh, change: &Change) -> Mesh {
    let mut mesh = mesh.clone();
    mesh.rate_per_s *= change.arrivals;
    let service =
        mesh.services.iter_mut().find(|service| service.name == change.service).expect("changes name services");
    service.servers = u32::try_from(i64::from(service.servers) + change.servers).expect("at least one is left");
    service.service_ms *= change.service_time;
    mesh
}

/// What became of the predictions.
#[derive(Default)]
pub(crate) struct Score {
    pub(crate) errors: Errors,
    /// Of the change itself: predicted over simulated difference.
    pub(crate) of_change: Errors,
    pub(crate) refused: Vec<String>,
    /// How far the truth is from what is predicted, as a share of the range on that side: 1 is its end.
    pub(crate) of_range: Errors,
    /// From the prediction to the upper end, as a share of the prediction; those without an upper end are left out.
    pub(crate) half_range: Errors,
    pub(crate) cases: Vec<(f64, String)>,
}

/// How much is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Recordings of each mesh.
    pub(crate) seeds: u64,
    /// Requests of each.
    pub(crate) recorded: usize,
    /// Requests that tell the truth.
    pub(crate) truth: usize,
    /// Changes of each mesh, the first so many.
    pub(crate) changes: usize,
}

/// Changes of every mesh.
pub(crate) fn score(meshes: &[Mesh], first_seed: u64, effort: Effort) -> Score {
    let Effort { seeds, recorded, truth, changes: most_changes } = effort;
    let mut score = Score::default();
    for (place, mesh) in (0..).zip(meshes) {
        let now = response_ms(mesh, first_seed + 900_000 + place, truth);
        let truths: Vec<(Change, f64)> = changes(mesh)
            .into_iter()
            .take(most_changes)
            .map(|change| {
                let then = response_ms(&changed(mesh, &change), first_seed + 910_000 + place, truth);
                (change, then)
            })
            .collect();
        for seed in first_seed + 1_000 * place..first_seed + 1_000 * place + seeds {
            let visits = Simulation::run(mesh, seed, recorded);
            let snapshot = analyze(spans(mesh, &visits)).expect("windows were closed");
            truths.iter().for_each(|(change, then)| score.add(mesh, &snapshot, change, (now, *then), seed));
        }
    }
    score.cases.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    score
}

impl Score {
    /// The share of ranges that hold the truth.
    pub(crate) fn within(&self) -> f64 {
        self.of_range.share_up_to(1.0)
    }

    fn add(&mut self, mesh: &Mesh, snapshot: &Snapshot, change: &Change, (now, then): (f64, f64), seed: u64) {
        let asked = format!(
            "{}, {}: arrivals ×{} servers {:+} service time ×{}, seed {seed}",
            mesh.name, change.service, change.arrivals, change.servers, change.service_time
        );
        let prediction = match what_if(snapshot, change) {
            Ok(prediction) => prediction,
            Err(why) => return self.refused.push(format!("{asked}: {why}")),
        };
        let entry = prediction.entries.iter().find(|entry| entry.entry == mesh.services[0].name);
        let Some((entry, found)) = entry.and_then(|entry| Some((entry, entry.response_time_ms_then?))) else {
            return self.refused.push(format!("{asked}: saturates, or no entry"));
        };
        let error = found / then - 1.0;
        self.errors.add(error.abs());
        self.of_change.add(((found - entry.response_time_ms) - (then - now)).abs() / now);
        let end = if then < found { entry.low_ms } else { entry.high_ms };
        self.of_range.add(end.map_or(0.0, |end| (then - found).abs() / (end - found).abs().max(1e-9)));
        entry.high_ms.iter().for_each(|high| self.half_range.add(high / found - 1.0));
        self.cases.push((
            error,
            format!("{asked}: {found:.1} for {then:.1} ms (now {now:.1}, measured {:.1})", entry.response_time_ms),
        ));
    }
}

/// Prints [`score`].
pub(crate) fn print(first_seed: u64) {
    println!("\n## End-to-end what-if: meshes through the whole analyzer, seeds from {first_seed}\n");
    println!(
        "| meshes | requests seen | recordings | n | refused | error of the response time then, %: median, 90 %, worst | of its change, % of now: median, 90 %, worst | 95 % range holds | half of a range, %: median, 90 %, worst | times as wide would hold 95 % |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut rest = Vec::new();
    for (name, meshes) in [("queues told", meshes()), ("entry not told", wide_entries())] {
        for (place, (recorded, seeds)) in (0..).zip([(10_000, 12), (40_000, 6)]) {
            let effort = Effort { seeds, recorded, truth: 400_000, changes: usize::MAX };
            let score = score(&meshes, first_seed + 10_000 * place, effort);
            println!(
                "| {name} | {recorded} | {} | {} | {} | {} | {} | {:.0} % | {} | {:.2} |",
                meshes.len() as u64 * seeds,
                score.errors.count(),
                score.refused.len(),
                score.errors.percents(),
                score.of_change.percents(),
                100.0 * score.within(),
                score.half_range.percents(),
                score.of_range.quantile(0.95)
            );
            let worst = score.cases.iter().take(6);
            rest.extend(worst.map(|(error, case)| format!("{recorded}: {:+.1} % {case}", 100.0 * error)));
            rest.extend(score.refused.iter().take(12).map(|case| format!("{recorded}: refused: {case}")));
        }
    }
    println!("\nWorst, and refused:\n");
    rest.iter().for_each(|case| println!("- {case}"));
}
