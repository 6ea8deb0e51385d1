//! The book of findings: which votes open, change and close one.

use crate::{
    config::Config,
    findings::{
        book::Book,
        facts::Facts,
        history::History,
        kind::Kind,
        scene::{Levels, Scene},
        suspicion::Suspicion,
    },
    graph::ServiceGraph,
    snapshot::{FindingState, FindingView, Snapshot},
    spans::{Name, Names},
    window::{ServiceWindow, Window},
};

use Kind::{Bottleneck, ErrorSource, ModelMismatch, NewCalls, SlowDependency, SlowInstance};

/// A book and one service.
struct Desk {
    book: Book,
    names: Names,
    service: Name,
    window: Window,
}

impl Desk {
    fn new() -> Self {
        let mut names = Names::default();
        let service = names.intern("cart");
        let window = Window { length_ns: 10, ..Window::default() };
        Self { book: Book::default(), names, service, window }
    }

    /// A window in which it has requests, and is suspected of this.
    fn window(&mut self, kinds: &[Kind]) -> Vec<FindingView> {
        self.window.services = [(self.service, ServiceWindow::default())].into();
        self.turn(kinds)
    }

    /// One in which nothing came.
    fn silence(&mut self) -> Vec<FindingView> {
        self.window.services.clear();
        self.turn(&[])
    }

    fn turn(&mut self, kinds: &[Kind]) -> Vec<FindingView> {
        let service = self.service;
        self.suspect(&|scene| kinds.iter().map(|kind| Suspicion::of(*kind, service, scene)).collect())
    }

    /// A window with what is suspected in it.
    fn suspect(&mut self, suspicions: &dyn Fn(&Scene) -> Vec<Suspicion>) -> Vec<FindingView> {
        self.window.end += self.window.length_ns;
        let (snapshot, graph, facts, history) =
            (Snapshot::default(), ServiceGraph::default(), Facts::default(), History::default());
        let scene = Scene {
            window: &self.window,
            snapshot: &snapshot,
            names: &self.names,
            graph: &graph,
            facts: &facts,
            history: &history,
            min_history: 2,
            levels: Levels::of(&Config::default()),
        };
        self.book.window(&scene, &suspicions(&scene))
    }

    fn open(&self) -> Vec<String> {
        self.book.open().map(|finding| finding.kind.clone()).collect()
    }
}

#[test]
fn three_votes_of_five_open_and_five_windows_without_close() {
    let mut desk = Desk::new();
    let votes: [&[Kind]; 5] = [&[Bottleneck], &[], &[Bottleneck], &[], &[Bottleneck]];
    let opened: Vec<usize> = votes.iter().map(|kinds| desk.window(kinds).len()).collect();
    assert_eq!(opened, [0, 0, 0, 0, 1]);
    let closed: Vec<usize> = (0..6).map(|_| desk.window(&[]).len()).collect();
    assert_eq!((closed, desk.open().len()), (vec![0, 0, 0, 0, 1, 0], 0));
}

#[test]
fn faults_of_any_kind_open_one_finding_and_take_turns_in_it() {
    let mut desk = Desk::new();
    for round in 0..10 {
        desk.window(&[[Bottleneck, SlowDependency][round % 2]]);
    }
    assert_eq!(desk.open(), ["bottleneck"], "it has been there all the time");
}

#[test]
fn another_kind_of_fault_keeps_no_finding_open_and_has_its_own_when_that_is_over() {
    let mut desk = Desk::new();
    (0..3).for_each(|_| drop(desk.window(&[Bottleneck])));
    assert_eq!(desk.open(), ["bottleneck"]);
    let mut changed = Vec::new();
    for _ in 0..5 {
        assert_eq!(desk.open(), ["bottleneck"]);
        changed = desk.window(&[NewCalls]);
    }
    let said: Vec<_> = changed.iter().map(|finding| (finding.kind.as_str(), finding.state)).collect();
    assert_eq!(said, [("bottleneck", FindingState::Closed), ("new_calls", FindingState::Open)]);
    assert_eq!(desk.open(), ["new_calls"]);
    // an outlook is no reason to go on either
    (0..5).for_each(|_| drop(desk.window(&[ModelMismatch])));
    assert_eq!(desk.open(), ["model_mismatch"]);
    (0..3).for_each(|_| drop(desk.window(&[ErrorSource])));
    assert_eq!(desk.open(), ["error_source"], "a fault does not wait for it to be over");
}

#[test]
fn what_says_it_more_precisely_is_the_same_finding() {
    let mut desk = Desk::new();
    (0..3).for_each(|_| drop(desk.window(&[Bottleneck])));
    let id = desk.book.open().next().unwrap().finding_id.clone();
    (0..9).for_each(|_| drop(desk.window(&[SlowInstance])));
    let open: Vec<_> = desk.book.open().map(|finding| (&finding.finding_id, finding.kind.as_str())).collect();
    assert_eq!(open, [(&id, "slow_instance")]);
}

#[test]
fn silence_closes_too() {
    let mut desk = Desk::new();
    (0..3).for_each(|_| drop(desk.window(&[Bottleneck])));
    let closed: Vec<usize> = (0..6).map(|_| desk.silence().len()).collect();
    assert_eq!((closed, desk.open().len()), (vec![0, 0, 0, 0, 1, 0], 0));
}

#[test]
fn a_finding_is_as_sure_as_the_last_windows_are() {
    let mut desk = Desk::new();
    let service = desk.service;
    let mut sure = |confidence| {
        desk.suspect(&|scene| vec![Suspicion { confidence, ..Suspicion::of(Bottleneck, service, scene) }]);
        desk.book.open().next().map(|finding| finding.confidence)
    };
    assert_eq!([sure(0.5), sure(0.5), sure(0.5), sure(0.9)], [None, None, Some(0.5), Some(0.9)]);
    let later: Vec<f64> = (0..5).filter_map(|_| sure(0.4)).collect();
    assert_eq!(later, [0.9, 0.9, 0.9, 0.9, 0.4], "what one window said does not stay for ever");
}

#[test]
fn of_more_than_a_hundred_the_least_gives_way() {
    let mut desk = Desk::new();
    let services: Vec<Name> = (0..101).map(|number| desk.names.intern(&format!("s{number}"))).collect();
    let lost = |scene: &Scene, number: usize, lost_ms_per_s: f64| Suspicion {
        lost_ms_per_s,
        ..Suspicion::of(Bottleneck, services[number], scene)
    };
    for _ in 0..3 {
        desk.suspect(&|scene| (0..100).map(|number| lost(scene, number, 10.0 + number as f64)).collect());
    }
    assert_eq!(desk.open().len(), 100);
    let with_one_more = |desk: &mut Desk, ms: f64| {
        let all = |scene: &Scene| {
            let known = (0..100).map(|number| lost(scene, number, 10.0 + number as f64));
            known.chain([lost(scene, 100, ms)]).collect()
        };
        (0..3).flat_map(|_| desk.suspect(&all)).map(|finding| (finding.service, finding.state)).collect::<Vec<_>>()
    };
    assert_eq!(with_one_more(&mut desk, 5.0), []);
    let changed = with_one_more(&mut desk, 500.0);
    assert_eq!(changed[..2], [("s0".into(), FindingState::Closed), ("s100".into(), FindingState::Open)]);
    assert_eq!(desk.open().len(), 100);
}
