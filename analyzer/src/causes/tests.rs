//! Rankings of a small mesh whose faults are made: the gateway calls the tagger, which calls the parser and then the
//! semantic service.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::{snapshot::NodeKind, spans::Side};

const MS: f64 = 1e6;

/// What is wrong in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    /// The tagger's own code takes so much longer, milliseconds.
    Slow(f64),
    /// Calls into the tagger take longer on the way.
    Network(f64),
    /// The tagger returns before it calls the semantic service.
    Returns,
    /// The parser fails, and everybody above with it.
    Fails,
    /// Twice the requests.
    Busy,
}

struct Mesh {
    names: Names,
    random: StdRng,
    next_id: u64,
}

impl Mesh {
    fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self { names: Names::default(), random: StdRng::seed_from_u64(seed), next_id: 1 }
    }

    fn window(&mut self, requests: usize, fault: Fault) -> Vec<Vec<Span>> {
        let requests = if fault == Fault::Busy { 2 * requests } else { requests };
        (0..requests).map(|_| self.request(fault)).collect()
    }

    fn request(&mut self, fault: Fault) -> Vec<Span> {
        let (network, slow) = match fault {
            Fault::Slow(ms) => (0.0, ms),
            Fault::Network(ms) => (ms, 0.0),
            _ => (0.0, 0.0),
        };
        let fails = fault == Fault::Fails;
        let mut spans = Vec::new();
        let mut now = 1e12;
        let gateway = self.open(&mut spans, now, None, "gateway", "GET /", Side::Server);
        now += self.some(2.0);
        let call = self.open(&mut spans, now, Some(gateway), "gateway", "call", Side::Client);
        now += self.some(0.5) + network * MS / 2.0;
        let tagger = self.open(&mut spans, now, Some(call), "tagger", "Tag", Side::Server);
        now += self.some(5.0) + slow * MS;
        let callees: &[&'static str] = if fault == Fault::Returns { &["parser"] } else { &["parser", "semantic"] };
        for callee in callees {
            let call = self.open(&mut spans, now, Some(tagger), "tagger", "call", Side::Client);
            now += self.some(0.5);
            let server = self.open(&mut spans, now, Some(call), callee, "Work", Side::Server);
            now += self.some(4.0);
            close(&mut spans[server], now, fails);
            now += self.some(0.5);
            close(&mut spans[call], now, fails);
            if fails {
                break;
            }
        }
        now += self.some(1.0);
        close(&mut spans[tagger], now, fails);
        now += self.some(0.5) + network * MS / 2.0;
        close(&mut spans[call], now, fails);
        now += self.some(1.0);
        close(&mut spans[gateway], now, fails);
        spans
    }

    /// About so many milliseconds, in nanoseconds.
    fn some(&mut self, ms: f64) -> f64 {
        ms * MS * (0.7 + 0.6 * self.random.random::<f64>())
    }

    fn open(
        &mut self,
        spans: &mut Vec<Span>,
        at: f64,
        parent: Option<usize>,
        service: &str,
        operation: &str,
        side: Side,
    ) -> usize {
        self.next_id += 1;
        let span = Span {
            trace: u128::from(spans.first().map_or(self.next_id, |root: &Span| root.id)),
            id: self.next_id,
            parent: parent.map_or(0, |place| spans[place].id),
            start: at as i64,
            duration_ns: 0,
            service: self.names.intern(service),
            operation: self.names.intern(operation),
            kind: self.names.intern("kind"),
            side,
            error: false,
            abandoned: false,
            peer: None,
            peer_kind: NodeKind::Service,
            instance: None,
            queue_wait_ns: None,
            shed: false,
            refused: false,
            input_tokens: 0,
            output_tokens: 0,
            first_token_ns: None,
        };
        spans.push(span);
        spans.len() - 1
    }
}

fn close(span: &mut Span, at: f64, error: bool) {
    span.duration_ns = at as i64 - span.start;
    span.error = error;
}

/// The ranking of a window of 100 requests after eight healthy ones.
fn after_health(seed: u64, fault: Fault) -> Ranking {
    let mut mesh = Mesh::new(seed);
    let mut causes = Causes::default();
    for _ in 0..8 {
        let window = mesh.window(100, Fault::Nothing);
        let (_, observed) = causes.rank(&slices(&window), &mesh.names);
        causes.remember(observed);
    }
    let window = mesh.window(100, fault);
    causes.rank(&slices(&window), &mesh.names).0
}

fn slices(window: &[Vec<Span>]) -> Vec<&[Span]> {
    window.iter().map(Vec::as_slice).collect()
}

fn first(ranking: &Ranking) -> (&str, CauseKind, bool) {
    let cause = ranking.causes.first().expect("somebody is blamed");
    (&cause.service, cause.kind, cause.confidence >= 0.8)
}

#[test]
fn each_fault_is_found_where_it_is() {
    for seed in 1..=5 {
        let cases = [
            (Fault::Slow(10.0), "tagger", CauseKind::SlowService),
            (Fault::Network(20.0), "tagger", CauseKind::SlowNetwork),
            (Fault::Fails, "parser", CauseKind::ChangedCalls),
        ];
        for (fault, service, kind) in cases {
            let ranking = after_health(seed, fault);
            assert_eq!(first(&ranking), (service, kind, true), "{fault:?}: {ranking:?}");
            assert!(!ranking.causes[0].evidence.is_empty());
        }
    }
}

#[test]
fn a_span_that_stops_early_is_the_callers_as_long_as_nothing_speaks_against_the_callee() {
    for seed in 1..=5 {
        let ranking = after_health(seed, Fault::Returns);
        let (service, kind, _) = first(&ranking);
        assert_eq!((service, kind), ("tagger", CauseKind::ChangedCalls), "{ranking:?}");
        assert!((0.5..0.8).contains(&ranking.causes[0].share), "{ranking:?}");
    }
}

#[test]
fn health_and_more_of_the_same_accuse_nobody() {
    for seed in 1..=20 {
        for fault in [Fault::Nothing, Fault::Busy] {
            let ranking = after_health(seed, fault);
            let sure = ranking.causes.iter().any(|cause| cause.confidence >= SUSPICIOUS);
            assert!(!sure, "{fault:?}: {ranking:?}");
        }
    }
}

#[test]
fn without_history_only_where_time_goes_is_said() {
    let mut mesh = Mesh::new(1);
    let window = mesh.window(20, Fault::Nothing);
    let (ranking, _) = Causes::default().rank(&slices(&window), &mesh.names);
    assert_eq!(first(&ranking), ("tagger", CauseKind::NoHistory, false));
    assert!(ranking.causes.iter().all(|cause| cause.confidence == 0.0));
}
