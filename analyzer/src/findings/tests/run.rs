//! One run of a [`Mesh`]: an agenda of steps in time, and who waits where.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    mesh::{Event, Mesh, Service},
    rows::Row,
};
use crate::queueing::simulation::Law;

const MS: f64 = 1e6;

/// A request at a service.
struct Visit {
    trace: u128,
    id: u64,
    parent: Option<usize>,
    service: usize,
    replica: usize,
    arrived: f64,
    /// The client span of the call under way: its id, its start, how many attempts failed.
    call: (u64, f64, u32),
    /// Calls still to make, the next first; `None` is the database.
    left: VecDeque<Option<usize>>,
    failed: bool,
    /// Whether it is of the service's other operation.
    other: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Enter(usize),
    Served(usize),
    /// Whether the call failed.
    Answered(usize, bool),
}

#[derive(Default)]
struct Replica {
    busy: usize,
    waiting: VecDeque<usize>,
}

pub(super) struct Run<'a> {
    mesh: &'a Mesh,
    random: StdRng,
    visits: Vec<Visit>,
    replicas: Vec<Vec<Replica>>,
    agenda: BinaryHeap<Reverse<(i64, u64, Step)>>,
    rows: Vec<Row>,
    next: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(mesh: &'a Mesh, seed: u64) -> Self {
        let replicas = mesh.services.iter().map(|service| (0..service.replicas).map(|_| Replica::default()).collect());
        Self {
            mesh,
            random: StdRng::seed_from_u64(seed),
            visits: Vec::new(),
            replicas: replicas.collect(),
            agenda: BinaryHeap::new(),
            rows: Vec::new(),
            next: 1,
        }
    }

    /// Runs until all that came in so many seconds is over.
    pub(super) fn rows(mut self, seconds: i64) -> Vec<Row> {
        self.arrivals(seconds);
        while let Some(Reverse((now, _, step))) = self.agenda.pop() {
            self.step(now as f64, step);
        }
        self.rows
    }

    fn arrivals(&mut self, seconds: i64) {
        for (entry, rate) in &self.mesh.entries {
            let mut now = 0.0;
            while now < seconds as f64 * 1e9 {
                now += Law::Exponential.sample(&mut self.random) * 1e9 / (rate * self.mesh.load(now));
                let trace = u128::from(self.id());
                self.visit(trace, *entry, None, now);
            }
        }
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn visit(&mut self, trace: u128, service: usize, parent: Option<usize>, at: f64) {
        let id = self.id();
        let replica = self.random.random_range(0..self.mesh.services[service].replicas);
        let left = self.calls_of(service, at);
        let other = self.is_other(service, at);
        self.visits.push(Visit {
            trace,
            id,
            parent,
            service,
            replica,
            arrived: at,
            call: (0, 0.0, 0),
            left,
            failed: false,
            other,
        });
        self.plan(at, Step::Enter(self.visits.len() - 1));
    }

    fn is_other(&mut self, service: usize, at: f64) -> bool {
        let Service { name, other: Some((share, _)), .. } = &self.mesh.services[service] else { return false };
        let mixed = self.mesh.at(at).fold(*share, |share, (_, event)| match event {
            Event::Mixed(whom, share) if whom == *name => share,
            _ => share,
        });
        self.random.random::<f64>() < mixed
    }

    fn calls_of(&mut self, service: usize, at: f64) -> VecDeque<Option<usize>> {
        let Service { name, calls, database, .. } = &self.mesh.services[service];
        let mut left: VecDeque<Option<usize>> = database.map(|_| None).into_iter().collect();
        for (callee, share) in calls {
            if self.random.random::<f64>() < *share {
                left.push_back(Some(*callee));
            }
        }
        for (_, event) in self.mesh.at(at) {
            match event {
                Event::Returns(whom) if whom == *name => drop(left.pop_back()),
                Event::Calls(whom, callee) if whom == *name => left.push_back(Some(self.place(callee))),
                _ => {}
            }
        }
        left
    }

    fn place(&self, name: &str) -> usize {
        self.mesh.services.iter().position(|service| service.name == name).unwrap()
    }

    fn plan(&mut self, at: f64, step: Step) {
        let number = self.id();
        self.agenda.push(Reverse((at as i64, number, step)));
    }

    fn step(&mut self, now: f64, step: Step) {
        match step {
            Step::Enter(visit) => {
                let (service, replica) = (self.visits[visit].service, self.visits[visit].replica);
                let at = &mut self.replicas[service][replica];
                if at.busy < self.mesh.services[service].servers {
                    at.busy += 1;
                    self.serve(visit, now);
                } else {
                    at.waiting.push_back(visit);
                }
            }
            Step::Served(visit) => {
                let (service, replica) = (self.visits[visit].service, self.visits[visit].replica);
                match self.replicas[service][replica].waiting.pop_front() {
                    Some(next) => self.serve(next, now),
                    None => self.replicas[service][replica].busy -= 1,
                }
                self.go_on(visit, now);
            }
            Step::Answered(visit, failed) => self.answered(visit, failed, now),
        }
    }

    fn serve(&mut self, visit: usize, now: f64) {
        let Service { name, service_ms, law, other, .. } = &self.mesh.services[self.visits[visit].service];
        let replica = self.visits[visit].replica;
        let times = other.filter(|_| self.visits[visit].other).map_or(1.0, |(_, times)| times);
        let mut ms = times * service_ms * law.sample(&mut self.random);
        for (_, event) in self.mesh.at(now) {
            match event {
                Event::Slow(whom, factor) if whom == *name => ms *= factor,
                Event::SlowReplica(whom, which, factor) if whom == *name && which == replica => ms *= factor,
                Event::Busy(more) => ms += more,
                Event::Fails(whom, share) if whom == *name && self.random.random::<f64>() < share => {
                    self.visits[visit].failed = true;
                }
                _ => {}
            }
        }
        self.plan(now + ms * MS, Step::Served(visit));
    }

    /// The next call, or the answer.
    fn go_on(&mut self, visit: usize, now: f64) {
        if self.visits[visit].failed || self.visits[visit].left.is_empty() {
            return self.answer(visit, now);
        }
        let service = self.visits[visit].service;
        let attempts = self.visits[visit].call.2;
        // a proxy goes on in the span of the first attempt
        if attempts == 0 || !self.mesh.services[service].by_proxy {
            self.visits[visit].call = (self.id(), now, attempts);
        }
        match self.visits[visit].left[0] {
            Some(callee) => {
                let way = self.way_ms(self.mesh.services[callee].name, now);
                let trace = self.visits[visit].trace;
                self.visit(trace, callee, Some(visit), now + way * MS);
            }
            None => {
                let (name, mean_ms) = self.mesh.services[service].database.unwrap();
                let mut ms = mean_ms * Law::Erlang(4).sample(&mut self.random);
                let mut failed = false;
                for (_, event) in self.mesh.at(now) {
                    match event {
                        Event::SlowDatabase(whom, factor) if whom == name => ms *= factor,
                        Event::FailingDatabase(whom, share) if whom == name => {
                            failed = self.random.random::<f64>() < share
                        }
                        _ => {}
                    }
                }
                self.plan(now + ms * MS, Step::Answered(visit, failed));
            }
        }
    }

    fn way_ms(&mut self, callee: &str, now: f64) -> f64 {
        let more = self.mesh.at(now).map(|(_, event)| match event {
            Event::Network(whom, ms) if whom == callee => ms / 2.0,
            _ => 0.0,
        });
        let more: f64 = more.sum();
        more + 0.2 * Law::Erlang(4).sample(&mut self.random)
    }

    fn answer(&mut self, visit: usize, now: f64) {
        let Visit { trace, id, parent, service, replica, arrived, failed, other, .. } = self.visits[visit];
        let Service { name, replicas, .. } = self.mesh.services[service];
        let instance = (replicas > 1).then(|| format!("{name}-{replica}"));
        let parent_id = parent.map_or(0, |parent| self.visits[parent].call.0);
        let (start, duration) = (arrived as i64, (now - arrived) as i64);
        self.rows.push(Row {
            trace,
            id,
            parent: parent_id,
            start,
            duration,
            service: name,
            instance,
            operation: if other { "serve other" } else { "serve" },
            kind: "server",
            error: failed,
            database: None,
            repeats: None,
        });
        if let Some(parent) = parent {
            let way = self.way_ms(name, now);
            self.plan(now + way * MS, Step::Answered(parent, failed));
        }
    }

    fn answered(&mut self, visit: usize, failed: bool, now: f64) {
        let Visit { trace, id, service, call: (call, start, attempts), .. } = self.visits[visit];
        let Service { name, database, retries, by_proxy, .. } = &self.mesh.services[service];
        let asked = self.visits[visit].left[0];
        let again = failed && attempts < *retries;
        if !again || !by_proxy {
            self.rows.push(Row {
                trace,
                id: call,
                parent: id,
                start: start as i64,
                duration: (now - start) as i64,
                service: name,
                instance: None,
                operation: "call",
                kind: "client",
                error: failed,
                database: if asked.is_none() { database.map(|(name, _)| name) } else { None },
                repeats: by_proxy.then_some(attempts as i32),
            });
        }
        self.visits[visit].call.2 = if again { attempts + 1 } else { 0 };
        if !again {
            self.visits[visit].failed |= failed;
            self.visits[visit].left.pop_front();
        }
        self.go_on(visit, now);
    }
}
