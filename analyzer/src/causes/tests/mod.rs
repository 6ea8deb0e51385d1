//! Rankings of a small mesh whose faults are made: the gateway calls the tagger, which calls the parser and then the
//! semantic service.

mod live;
mod logs;
mod thrown;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::spans::Side;

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
    /// The second of the tagger's three instances takes so much longer, milliseconds.
    SlowInstance(f64),
    /// The parser answers with an error, and everybody above with it; nothing else is otherwise.
    Errs,
    /// The tagger errs after all it does.
    CallerErrs,
    /// Nobody answers the calls to the parser: they end at once, without an error.
    Dead,
}

struct Mesh {
    names: Names,
    instances: usize,
    random: StdRng,
    next_id: u64,
}

impl Mesh {
    fn new(seed: u64) -> Self {
        println!("seed {seed}");
        let random = StdRng::seed_from_u64(seed);
        Self { names: Names::default(), instances: 1, random, next_id: 1 }
    }

    fn window(&mut self, requests: usize, fault: Fault) -> Vec<Vec<Span>> {
        let requests = if fault == Fault::Busy { 2 * requests } else { requests };
        (0..requests).map(|_| self.request(fault)).collect()
    }

    fn request(&mut self, fault: Fault) -> Vec<Span> {
        let instance = self.random.random_range(0..self.instances);
        let (network, slow) = match fault {
            Fault::Slow(ms) => (0.0, ms),
            Fault::SlowInstance(ms) if instance == 1 => (0.0, ms),
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
        spans[tagger].instance = (self.instances > 1).then(|| self.names.intern(&format!("tagger-{instance}")));
        now += self.some(5.0) + slow * MS;
        let callees: &[&'static str] = if fault == Fault::Returns { &["parser"] } else { &["parser", "semantic"] };
        for callee in callees {
            let call = self.open(&mut spans, now, Some(tagger), "tagger", "call", Side::Client);
            now += self.some(0.5);
            if fault == Fault::Dead && *callee == "parser" {
                close(&mut spans[call], now, false);
                continue;
            }
            let errs = fault == Fault::Errs && *callee == "parser";
            let server = self.open(&mut spans, now, Some(call), callee, "Work", Side::Server);
            now += self.some(4.0);
            close(&mut spans[server], now, fails || errs);
            now += self.some(0.5);
            close(&mut spans[call], now, fails || errs);
            if fails {
                break;
            }
        }
        now += self.some(1.0);
        let fails = fails || matches!(fault, Fault::Errs | Fault::CallerErrs);
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
            ..Span::default()
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
    after_health_of(Mesh::new(seed), fault)
}

fn after_health_of(mut mesh: Mesh, fault: Fault) -> Ranking {
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
fn a_failure_without_a_failing_callee_is_where_it_happens() {
    for seed in 1..=3 {
        for (fault, service) in [(Fault::Errs, "parser"), (Fault::CallerErrs, "tagger")] {
            let ranking = after_health(seed, fault);
            assert_eq!(first(&ranking), (service, CauseKind::ChangedCalls, true), "{fault:?}: {ranking:?}");
        }
    }
}

#[test]
fn errors_that_are_usual_accuse_nobody() {
    let mut mesh = Mesh::new(1);
    let mut causes = Causes::default();
    let mixed = |mesh: &mut Mesh| [mesh.window(80, Fault::Nothing), mesh.window(20, Fault::Errs)].concat();
    for _ in 0..8 {
        let (_, observed) = causes.rank(&slices(&mixed(&mut mesh)), &mesh.names);
        causes.remember(observed);
    }
    let (ranking, _) = causes.rank(&slices(&mixed(&mut mesh)), &mesh.names);
    assert!(ranking.causes.iter().all(|cause| cause.confidence < SUSPICIOUS), "{ranking:?}");
}

#[test]
fn what_sampling_kept_whole_is_no_more_than_it_was_and_a_fault_is_found_all_the_same() {
    for (seed, rare) in [(1, Fault::Slow(40.0)), (2, Fault::Errs), (3, Fault::Slow(40.0)), (4, Fault::Errs)] {
        let (mut mesh, mut causes) = (Mesh::new(seed), Causes::default());
        // one request in ten is slow, or fails, and always was
        let mixed = |mesh: &mut Mesh, usual| [mesh.window(usual, Fault::Nothing), mesh.window(10, rare)].concat();
        for _ in 0..8 {
            let (_, observed) = causes.rank(&slices(&mixed(&mut mesh, 90)), &mesh.names);
            causes.remember(observed);
        }
        // now those are kept, and of the others one in ten
        let mut kept = mixed(&mut mesh, 9);
        kept[..9].iter_mut().flatten().for_each(|span| (span.weight, span.sampled) = (10, true));
        let (ranking, _) = causes.rank(&slices(&kept), &mesh.names);
        assert!(ranking.causes.iter().all(|cause| cause.confidence < SUSPICIOUS), "{rare:?}: {ranking:?}");
        let mut slow = mesh.window(50, Fault::Slow(60.0));
        let (whole, _) = causes.rank(&slices(&slow), &mesh.names);
        slow.iter_mut().flatten().for_each(|span| (span.weight, span.sampled) = (7, true));
        let (sampled, _) = causes.rank(&slices(&slow), &mesh.names);
        assert_eq!(first(&sampled), ("tagger", CauseKind::SlowService, true), "{sampled:?}");
        let of = |ranking: &Ranking| (ranking.causes[0].confidence, ranking.causes[0].lost_ms);
        assert!((of(&whole).0 - of(&sampled).0).abs() < 1e-9, "equal weights are no surer: {whole:?} {sampled:?}");
        assert!((of(&whole).1 / of(&sampled).1 - 1.0).abs() < 1e-9);
    }
}

#[test]
fn calls_that_nobody_answers_any_more_are_the_callees() {
    for seed in 1..=3 {
        let ranking = after_health(seed, Fault::Dead);
        assert_eq!(first(&ranking), ("parser", CauseKind::ChangedCalls, true), "{ranking:?}");
    }
}

#[test]
fn an_instance_that_is_slow_among_others_is_named() {
    for seed in 1..=3 {
        let several = |fault| after_health_of(Mesh { instances: 3, ..Mesh::new(seed) }, fault);
        let ranking = several(Fault::SlowInstance(20.0));
        assert_eq!(first(&ranking), ("tagger", CauseKind::SlowService, true), "{ranking:?}");
        assert_eq!(ranking.causes[0].instance.as_deref(), Some("tagger-1"), "{ranking:?}");
        let ranking = several(Fault::Slow(20.0));
        assert_eq!(first(&ranking), ("tagger", CauseKind::SlowService, true), "{ranking:?}");
        assert_eq!(ranking.causes[0].instance, None, "all are slow: {ranking:?}");
        let ranking = several(Fault::Nothing);
        assert!(ranking.causes.iter().all(|cause| cause.confidence < SUSPICIOUS), "{ranking:?}");
    }
}

#[test]
fn a_call_to_what_sends_no_spans_is_time_of_the_peer() {
    let mut mesh = Mesh::new(1);
    let mut causes = Causes::default();
    let calls = |mesh: &mut Mesh, ms: f64| -> Vec<Vec<Span>> {
        let request = |mesh: &mut Mesh| {
            let mut spans = mesh.request(Fault::Nothing);
            let (tagger, start) = (spans[2].id, spans[2].end());
            let parent = spans.iter().position(|span| span.id == tagger);
            let call = mesh.open(&mut spans, start as f64, parent, "tagger", "GET", Side::Client);
            spans[call].peer = Some(mesh.names.intern("redis"));
            let took = mesh.some(ms);
            close(&mut spans[call], start as f64 + took, false);
            spans[..3].iter_mut().for_each(|span| span.duration_ns += took as i64);
            spans
        };
        (0..50).map(|_| request(mesh)).collect()
    };
    for _ in 0..8 {
        let (_, observed) = causes.rank(&slices(&calls(&mut mesh, 2.0)), &mesh.names);
        causes.remember(observed);
    }
    let (ranking, _) = causes.rank(&slices(&calls(&mut mesh, 30.0)), &mesh.names);
    assert_eq!(first(&ranking), ("redis", CauseKind::SlowNetwork, true), "{ranking:?}");
}

#[test]
fn metrics_name_the_kind_and_strengthen_only_what_there_is() {
    let mut mesh = Mesh::new(1);
    let mut causes = Causes::default();
    for _ in 0..8 {
        let window = mesh.window(100, Fault::Nothing);
        let (_, observed) = causes.rank(&slices(&window), &mesh.names);
        causes.remember(observed);
    }
    let starved = mesh.window(100, Fault::Network(20.0));
    let without = causes.rank(&slices(&starved), &mesh.names).0;
    let surge = strain::Surge { instance: None, now: 0.9, usual: 0.1, z: 30.0 };
    let strain = |service: &str, mesh: &Mesh| {
        let strain = strain::Strain { cpu: Some(surge), network: None };
        strain::Strained::from([(mesh.names.find(service).expect("it has spans"), strain)])
    };
    causes.strained = strain("tagger", &mesh);
    let with = causes.rank(&slices(&starved), &mesh.names).0;
    assert_eq!(first(&without), ("tagger", CauseKind::SlowNetwork, true), "{without:?}");
    assert_eq!(first(&with), ("tagger", CauseKind::StarvedCpu, true), "{with:?}");
    // what requests lose was said to be twice as much
    assert_eq!(with.causes[0].lost_ms, without.causes[0].lost_ms, "{with:?}");
    assert!(with.causes[0].evidence[0].text.starts_with("CPU: 0.900 instead of 0.100"), "{with:?}");
    causes.strained = strain("semantic", &mesh);
    let healthy = mesh.window(100, Fault::Nothing);
    let alone = causes.rank(&slices(&healthy), &mesh.names).0;
    assert!(alone.causes.iter().all(|cause| cause.confidence < SUSPICIOUS), "{alone:?}");
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
