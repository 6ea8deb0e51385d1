//! A mesh simulated event by event, as spans show it: stations with servers and queues, calls in order, replicas,
//! databases, retries, and faults that are made.
//!
//! A request waits for a server of its replica, is served, lets the server go, makes its calls one after the
//! other, and answers. Half of what the network takes is on either side of a call.

use super::{rows::Row, run::Run};
use crate::queueing::simulation::Law;

/// What one service is.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) replicas: usize,
    /// Of each replica.
    pub(super) servers: usize,
    pub(super) service_ms: f64,
    pub(super) law: Law,
    /// Whom it calls, in order, and how often.
    pub(super) calls: Vec<(usize, f64)>,
    /// A database it asks first, and how long that takes.
    pub(super) database: Option<(&'static str, f64)>,
    /// Another operation of it: its share of the requests, and how many times as long it takes.
    pub(super) other: Option<(f64, f64)>,
    /// How often it repeats a failed call.
    pub(super) retries: u32,
    /// Whether its proxy does so, within one span.
    pub(super) by_proxy: bool,
}

/// What happens from one second to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Event {
    /// A service takes so many times as long.
    Slow(&'static str, f64),
    /// One of its replicas does.
    SlowReplica(&'static str, usize, f64),
    /// So many of its requests are of its other operation.
    Mixed(&'static str, f64),
    /// Every service takes so many milliseconds more.
    Busy(f64),
    /// A share of its requests fails at the end of its service.
    Fails(&'static str, f64),
    /// Calls into it take so many milliseconds more on the way.
    Network(&'static str, f64),
    /// A database takes so many times as long.
    SlowDatabase(&'static str, f64),
    /// A share of calls to a database fails.
    FailingDatabase(&'static str, f64),
    /// So many times the requests.
    Surge(f64),
    /// The same, reached little by little from the beginning to the end.
    Ramp(f64),
    /// It returns before its last call.
    Returns(&'static str),
    /// It calls another, too.
    Calls(&'static str, &'static str),
}

/// A mesh, where requests enter it how often, and what happens.
#[derive(Clone, Debug)]
pub(super) struct Mesh {
    pub(super) services: Vec<Service>,
    /// Service and requests per second.
    pub(super) entries: Vec<(usize, f64)>,
    pub(super) events: Vec<(i64, i64, Event)>,
    /// Requests follow a wave of this share and period in seconds: the time of day.
    pub(super) wave: (f64, f64),
}

impl Mesh {
    /// Spans by their ends.
    pub(super) fn run(&self, seed: u64, seconds: i64) -> Vec<Row> {
        println!("seed {seed}");
        let mut rows = Run::new(self, seed).rows(seconds);
        rows.sort_by_key(|row| row.start + row.duration);
        rows
    }

    pub(super) fn at(&self, now: f64) -> impl Iterator<Item = (f64, Event)> + '_ {
        let second = now / 1e9;
        let during = move |(from, to, _): &&(i64, i64, Event)| (*from as f64..*to as f64).contains(&second);
        let share =
            move |(from, to, event): &(i64, i64, Event)| ((second - *from as f64) / (*to - *from) as f64, *event);
        self.events.iter().filter(during).map(share)
    }

    pub(super) fn load(&self, now: f64) -> f64 {
        let (share, period) = self.wave;
        let wave = 1.0 + share * (std::f64::consts::TAU * now / 1e9 / period).sin();
        self.at(now).fold(wave, |load, (passed, event)| match event {
            Event::Surge(factor) => load * factor,
            Event::Ramp(factor) => load * (1.0 + passed * (factor - 1.0)),
            _ => load,
        })
    }
}

/// A service with one replica of four servers.
pub(super) fn service(name: &'static str, service_ms: f64, calls: &[(usize, f64)]) -> Service {
    Service {
        name,
        replicas: 1,
        servers: 4,
        service_ms,
        law: Law::Exponential,
        calls: calls.to_vec(),
        database: None,
        other: None,
        retries: 0,
        by_proxy: false,
    }
}
