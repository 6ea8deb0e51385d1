//! The book of findings: which votes open, change and close one.

use crate::{
    findings::{book::Book, facts::Facts, history::History, kind::Kind, scene::Scene, suspicion::Suspicion},
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
            wait_budget_ms: 100.0,
        };
        let suspicions: Vec<_> = kinds.iter().map(|kind| Suspicion::of(*kind, self.service, &scene)).collect();
        self.book.window(&scene, &suspicions)
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
