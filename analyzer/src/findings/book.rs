//! [`Book`]: findings as they open, stay, close and are remembered.
//!
//! A finding opens with 3 votes of the last 5 windows, for whatever fault of a service, and closes after 5 windows without
//! one for its own kind, or for one that says it more precisely: others do not keep it open. A window in which a service
//! has no requests neither votes nor speaks for it. There is one open finding of a service: a fault replaces an
//! outlook, and what is wrong now replaces what was wrong before. At most a hundred are open and fifty closed ones are
//! kept; beyond that the least gives way to one by which more is lost, and the oldest is forgotten.
//!
//! Requests that were gathered over several windows (`live.rs`) speak for each of these: where few come, one look at all of them is
//! three votes and more. A finding is as sure as the surest of the last five windows that spoke for it.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use super::{
    kind::{Class, Kind},
    scene::Scene,
    suspicion::Suspicion,
};
use crate::{
    snapshot::{FindingState, FindingView},
    spans::Name,
};

/// Windows that vote on a finding.
const VOTES: usize = 5;

/// Votes that open one.
const OPENING_VOTES: usize = 3;

/// Windows without cause that close one.
const CLOSING_WINDOWS: u32 = 5;

/// Findings that are open at once.
const MAX_OPEN: usize = 100;

/// Findings that are over and still shown.
const KEPT_CLOSED: usize = 50;

/// Windows after which a fault that stays is what is usual: an hour at 10 s.
const USUAL_AFTER: u32 = 360;

/// All findings, and the votes on those that may come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Book {
    findings: Vec<FindingView>,
    votes: BTreeMap<(Name, Kind), Votes>,
    /// Findings ever made.
    made: u64,
    /// Windows in a row in which a fault was open.
    at_fault: u32,
    /// How sure the last windows were of each open finding.
    #[serde(default)]
    sure: BTreeMap<String, VecDeque<f64>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Votes {
    /// How many windows each spoke for, the newest last.
    last: VecDeque<usize>,
    first: Option<UnixNanos>,
    quiet: u32,
}

impl Book {
    /// Takes in what is suspected in a window; says which findings opened or closed.
    pub(super) fn window(&mut self, scene: &Scene, suspicions: &[Suspicion]) -> Vec<FindingView> {
        self.vote(scene, suspicions);
        let mut changed = Vec::new();
        for suspicion in suspicions {
            changed.extend(self.open_or_update(scene, suspicion));
        }
        changed.extend(self.close(scene));
        self.rank();
        let at_fault = self.open().any(FindingView::is_new_fault);
        self.at_fault = if at_fault { self.at_fault + 1 } else { 0 };
        // ranks are given last
        let now =
            |old: FindingView| self.findings.iter().find(|f| f.finding_id == old.finding_id).cloned().unwrap_or(old);
        changed.into_iter().map(now).collect()
    }

    /// Open findings by rank, then closed ones, newest first.
    pub(super) fn all(&self) -> Vec<FindingView> {
        let mut findings = self.findings.clone();
        findings.sort_by_key(|f| (f.state == FindingState::Closed, f.rank, std::cmp::Reverse(f.onset_unix_nano)));
        findings
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &FindingView> {
        self.findings.iter().filter(|finding| finding.state == FindingState::Open)
    }

    /// Whether what happens now is usual: while a fault is open, waiting callers and starved callees are not, unless
    /// it lasts.
    pub(super) fn is_quiet(&self) -> bool {
        self.at_fault == 0 || self.is_lasting()
    }

    /// Whether a fault is open for so long that it is what is usual.
    pub(super) fn is_lasting(&self) -> bool {
        self.at_fault > USUAL_AFTER
    }

    fn vote(&mut self, scene: &Scene, suspicions: &[Suspicion]) {
        let callees = scene.facts.calls.keys().map(|(_, callee)| callee);
        let seen: BTreeSet<&Name> = scene.window.services.keys().chain(callees).collect();
        let suspected: BTreeSet<(Name, Kind)> = suspicions.iter().map(|s| (s.service, s.kind)).collect();
        for (key, votes) in self.votes.iter_mut().filter(|(key, _)| !suspected.contains(key)) {
            votes.quiet += 1;
            if seen.contains(&key.0) {
                votes.cast(0);
            }
        }
        for suspicion in suspicions {
            let votes = self.votes.entry((suspicion.service, suspicion.kind)).or_default();
            votes.quiet = 0;
            votes.cast(suspicion.votes.max(1));
            votes.first.get_or_insert(suspicion.onset);
        }
        self.votes.retain(|_, votes| votes.sum() > 0 || votes.quiet <= CLOSING_WINDOWS);
    }

    /// Votes on a service, by what they are for.
    fn votes_on(&self, service: Name) -> impl Iterator<Item = (Kind, &Votes)> {
        Kind::ALL.into_iter().filter_map(move |kind| Some((kind, self.votes.get(&(service, kind))?)))
    }

    /// How many there are for something of a class, and when the first was.
    fn count(&self, service: Name, class: Class) -> (usize, Option<UnixNanos>) {
        let of_class = || self.votes_on(service).filter(|(kind, _)| kind.class() == class).map(|(_, votes)| votes);
        (of_class().map(Votes::sum).sum(), of_class().filter_map(|votes| votes.first).min())
    }

    /// Whether nobody has voted for long for what a finding says.
    fn is_over(&self, finding: &FindingView, service: Name) -> bool {
        let own = self.votes_on(service).filter(|(kind, _)| keeps_open(*kind, &finding.kind));
        own.map(|(_, votes)| votes.quiet).min().is_none_or(|quiet| quiet >= CLOSING_WINDOWS)
    }

    fn open_or_update(&mut self, scene: &Scene, suspicion: &Suspicion) -> Vec<FindingView> {
        let (service, class) = (suspicion.service, suspicion.kind.class());
        let (count, first) = self.count(service, class);
        let text = scene.text(service);
        let of_service = |f: &FindingView| f.state == FindingState::Open && f.service == text;
        let mut changed = Vec::new();
        if let Some(place) = self.findings.iter().position(of_service) {
            let open = &self.findings[place];
            let outweighed = class == Class::Fault && !Kind::is_fault(&open.kind);
            let replaced = outweighed || self.is_over(open, service);
            if !replaced {
                if keeps_open(suspicion.kind, &open.kind) {
                    let confidence =
                        surest(self.sure.entry(open.finding_id.clone()).or_default(), suspicion.confidence);
                    update(&mut self.findings[place], scene, suspicion, confidence);
                }
                return changed;
            }
            if count < OPENING_VOTES {
                return changed;
            }
            end(&mut self.findings[place], scene.window.end);
            changed.push(self.findings[place].clone());
        }
        if count >= OPENING_VOTES {
            changed.extend(self.make_room(scene, suspicion));
            changed.extend(self.make(scene, suspicion, first));
        }
        changed
    }

    /// Ends the least that is open, if there are too many and more is lost by a new one.
    fn make_room(&mut self, scene: &Scene, suspicion: &Suspicion) -> Option<FindingView> {
        if self.open().count() < MAX_OPEN {
            return None;
        }
        let of_open = |finding: &FindingView| (Kind::is_fault(&finding.kind), finding.score);
        let open = self.findings.iter().enumerate().filter(|(_, finding)| finding.state == FindingState::Open);
        let (place, least) = open.min_by(|(_, a), (_, b)| order(of_open(a), of_open(b)))?;
        let new = (suspicion.kind.class() == Class::Fault, suspicion.lost_ms_per_s);
        if order(of_open(least), new).is_ge() {
            return None;
        }
        end(&mut self.findings[place], scene.window.end);
        Some(self.findings[place].clone())
    }

    fn make(&mut self, scene: &Scene, suspicion: &Suspicion, first: Option<UnixNanos>) -> Option<FindingView> {
        if self.open().count() >= MAX_OPEN {
            return None;
        }
        self.made += 1;
        let onset = first.unwrap_or(suspicion.onset);
        let finding = FindingView {
            finding_id: format!("f{}-{}", onset / 1_000_000_000, self.made),
            state: FindingState::Open,
            service: scene.text(suspicion.service).to_owned(),
            onset_unix_nano: onset,
            ..said(scene, suspicion)
        };
        surest(self.sure.entry(finding.finding_id.clone()).or_default(), suspicion.confidence);
        self.findings.push(finding.clone());
        Some(finding)
    }

    fn close(&mut self, scene: &Scene) -> Vec<FindingView> {
        let mut closed = Vec::new();
        for place in 0..self.findings.len() {
            let finding = &self.findings[place];
            let service = scene.names.find(&finding.service).unwrap_or(Name::MAX);
            if finding.state != FindingState::Open || !self.is_over(finding, service) {
                continue;
            }
            let own = Kind::ALL.into_iter().filter(|kind| keeps_open(*kind, &finding.kind));
            own.for_each(|kind| drop(self.votes.remove(&(service, kind))));
            end(&mut self.findings[place], scene.window.end);
            closed.push(self.findings[place].clone());
        }
        let is_open = |id: &String| self.findings.iter().any(|f| f.state == FindingState::Open && f.finding_id == *id);
        self.sure.retain(|id, _| is_open(id));
        let over = self.findings.iter().filter(|f| f.state == FindingState::Closed).count();
        for _ in KEPT_CLOSED..over {
            if let Some(oldest) = self.findings.iter().position(|f| f.state == FindingState::Closed) {
                self.findings.remove(oldest);
            }
        }
        closed
    }

    /// By what is lost; outlooks last.
    fn rank(&mut self) {
        let mut open: Vec<&mut FindingView> =
            self.findings.iter_mut().filter(|f| f.state == FindingState::Open).collect();
        open.sort_by(|a, b| Kind::is_fault(&b.kind).cmp(&Kind::is_fault(&a.kind)).then(b.score.total_cmp(&a.score)));
        for (rank, finding) in (1..).zip(open) {
            finding.rank = rank;
        }
    }
}

impl Votes {
    fn cast(&mut self, windows: usize) {
        self.last.push_back(windows);
        if self.last.len() > VOTES {
            self.last.pop_front();
        }
        if self.sum() == 0 {
            self.first = None;
        }
    }

    fn sum(&self) -> usize {
        self.last.iter().sum()
    }
}

fn end(finding: &mut FindingView, at: UnixNanos) {
    (finding.state, finding.rank, finding.closed_unix_nano) = (FindingState::Closed, 0, Some(at));
}

/// Whether a vote for one kind speaks for a finding of another, too.
fn keeps_open(kind: Kind, finding: &str) -> bool {
    Kind::of_name(finding).is_some_and(|open| kind == open || kind.replaces(open))
}

/// Faults above outlooks, then by what is lost.
fn order(a: (bool, f64), b: (bool, f64)) -> Ordering {
    a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
}

/// Takes in how sure a window is; says how sure the surest of the last is.
fn surest(last: &mut VecDeque<f64>, confidence: f64) -> f64 {
    last.push_back(confidence);
    if last.len() > VOTES {
        last.pop_front();
    }
    last.iter().copied().fold(0.0, f64::max)
}

/// An open finding follows what is suspected now.
fn update(open: &mut FindingView, scene: &Scene, suspicion: &Suspicion, confidence: f64) {
    let mut now = said(scene, suspicion);
    if now.entry.is_none() {
        // no request that touches it ended in this window: what it cost is known from before
        (now.entry, now.impact_ms, now.impact_ratio) = (open.entry.take(), open.impact_ms, open.impact_ratio);
    }
    *open = FindingView {
        finding_id: std::mem::take(&mut open.finding_id),
        rank: open.rank,
        service: std::mem::take(&mut open.service),
        state: open.state,
        onset_unix_nano: open.onset_unix_nano,
        confidence,
        victims: now.victims.iter().chain(&open.victims).cloned().collect::<BTreeSet<_>>().into_iter().collect(),
        ..now
    };
}

/// What a suspicion says, as people read it. `impact_ms` is what is lost a second over the requests a second of the
/// entry, so it is right for whatever is lost and wherever.
fn said(scene: &Scene, suspicion: &Suspicion) -> FindingView {
    let text = |name: Name| scene.text(name).to_owned();
    let entry = scene.entry(suspicion.service);
    let rate = entry.map_or(0.0, |entry| scene.entry_rate_per_s(entry));
    let reach = entry.map_or(0.0, |entry| scene.reach(entry, suspicion.service));
    let mut victims: BTreeSet<String> = suspicion.victims.iter().map(|name| text(*name)).collect();
    if Kind::accuses(suspicion.kind.as_str()) {
        victims.extend(scene.graph.upstream(scene.text(suspicion.service)));
    }
    FindingView {
        operation: suspicion.operation.map(text),
        kind: suspicion.kind.as_str().to_owned(),
        score: suspicion.lost_ms_per_s,
        confidence: suspicion.confidence,
        standing: suspicion.standing,
        summary: suspicion.summary.clone(),
        evidence: suspicion.evidence.clone(),
        victims: victims.into_iter().collect(),
        entry: entry.map(text),
        impact_ms: if rate > 0.0 { suspicion.lost_ms_per_s / rate } else { 0.0 },
        impact_ratio: reach * suspicion.touched,
        instance: suspicion.instance.map(text),
        peer: suspicion.peer.map(text),
        action: suspicion.action.clone(),
        ..FindingView::default()
    }
}
