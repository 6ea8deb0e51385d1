//! What the graph and the traces of a window say of each service and edge: entries, visits, dominators,
//! cycles, blast radius.

use hashbrown::HashMap;

use crate::{
    entry::{EntryWindow, Need},
    graph::{Solution, Topology},
    snapshot::{BlastRadius, EdgeView, EntryView, NodeKind, ServiceView, Snapshot},
    spans::{Name, Names},
    window::Window,
};

/// Entries shown of one service.
const SHOWN_ENTRIES: usize = 20;

/// Upstream services named of one service.
const SHOWN_UPSTREAM: usize = 50;

/// Visits per request that are not worth a line.
const MIN_VISITS: f64 = 0.001;

type Map<V> = HashMap<Name, V, foldhash::fast::RandomState>;

/// The nodes of a window by number, and what follows for them.
struct Solved {
    nodes: Vec<Name>,
    numbers: Map<u32>,
    requests_per_s: Vec<f64>,
    solution: Solution,
}

/// Fills in what the graph says. Edges stand as in the window.
pub(crate) fn fill(services: &mut [ServiceView], edges: &mut [EdgeView], window: &Window, names: &Names) {
    let solved = Solved::of(window);
    let mut entries = entries_of(window, names);
    let radius = radii(window);
    for service in services {
        let Some(name) = names.find(&service.service) else { continue };
        let Some(number) = solved.numbers.get(&name).copied() else { continue };
        service.entries = entries.remove(&name).unwrap_or_else(|| solved.entries(number, names));
        service.visits_per_request = solved.solution.visits_per_request[number as usize].filter(|visits| *visits > 0.0);
        let dominator = solved.solution.dominators[number as usize];
        service.dominator = dominator.map(|number| solved.text(number, names));
        let circle = solved.solution.cycle(number).iter().filter(|other| **other != number);
        service.cycle = circle.map(|other| solved.text(*other, names)).collect();
        service.cycle.sort_unstable();
        service.blast_radius = solved.radius(number, radius.get(&name).copied(), names);
    }
    let inside = window.edges.iter().zip(edges).filter(|((_, edge), _)| edge.caller_kind == NodeKind::Service);
    for ((_, view), calls) in inside.zip(&solved.solution.calls_per_request) {
        view.calls_per_request = *calls;
    }
}

/// The services where requests enter, by the one rule of graph, what-if and reports ([`Topology::entering`]), as they stand in the snapshot.
pub(crate) fn entering(snapshot: &Snapshot) -> Vec<&ServiceView> {
    let mut numbers: HashMap<&str, u32, foldhash::fast::RandomState> =
        snapshot.services.iter().zip(0..).map(|(service, number)| (service.service.as_str(), number)).collect();
    let mut requests_per_s: Vec<f64> = snapshot.services.iter().map(|service| service.rate_per_s).collect();
    let mut edges = Vec::new();
    for edge in snapshot.edges.iter().filter(|edge| edge.caller_kind == NodeKind::Service && edge.rate_per_s > 0.0) {
        let mut number = |name| {
            *numbers.entry(name).or_insert_with(|| {
                requests_per_s.push(0.0);
                requests_per_s.len() as u32 - 1
            })
        };
        edges.push((number(edge.caller.as_str()), number(edge.callee.as_str()), edge.rate_per_s));
    }
    let mut entering: Vec<u32> = Topology { requests_per_s, edges }.entering().into_iter().map(|(n, _)| n).collect();
    entering.sort_unstable();
    let services = entering.into_iter().filter_map(|number| snapshot.services.get(number as usize));
    services.filter(|service| service.kind == NodeKind::Service).collect()
}

impl Solved {
    /// Who sends no spans is not in the graph when it calls: what it calls is entered there.
    fn of(window: &Window) -> Self {
        let seconds = window.length_ns as f64 / 1e9;
        let inside = || window.edges.iter().filter(|(_, edge)| edge.caller_kind == NodeKind::Service);
        let mut nodes: Vec<Name> = window.services.keys().copied().collect();
        nodes.extend(inside().flat_map(|((caller, callee), _)| [*caller, *callee]));
        nodes.sort_unstable();
        nodes.dedup();
        let numbers: Map<u32> = nodes.iter().zip(0..).map(|(name, number)| (*name, number)).collect();
        let mut requests_per_s = vec![0.0; nodes.len()];
        for ((_, callee), edge) in inside().filter(|(_, edge)| edge.kind != NodeKind::Service) {
            requests_per_s[numbers[callee] as usize] += edge.calls as f64 / seconds;
        }
        for (name, service) in &window.services {
            requests_per_s[numbers[name] as usize] = service.requests as f64 / seconds;
        }
        let edge = |((caller, callee), calls): (&(Name, Name), u64)| {
            (numbers[caller], numbers[callee], calls as f64 / seconds)
        };
        let edges = inside().map(|(key, window)| edge((key, window.calls))).collect();
        let topology = Topology { requests_per_s, edges };
        let solution = topology.solve();
        Self { nodes, numbers, requests_per_s: topology.requests_per_s, solution }
    }

    fn text(&self, number: u32, names: &Names) -> String {
        names.text(self.nodes[number as usize]).to_owned()
    }

    /// By rates alone, where no trace leads from an entry to the service.
    fn entries(&self, number: u32, names: &Names) -> Vec<EntryView> {
        let visits = &self.solution.visits[number as usize];
        let worth = visits.iter().filter(|(_, visits)| *visits >= MIN_VISITS);
        let view = |(entry, visits): &(u32, f64)| EntryView {
            service: self.text(*entry, names),
            operation: None,
            requests_per_s: self.requests_per_s[*entry as usize],
            share: None,
            visits_per_request: *visits,
        };
        let mut entries: Vec<EntryView> = worth.map(view).collect();
        let most_first = |a: &EntryView, b: &EntryView| {
            b.requests_per_s.total_cmp(&a.requests_per_s).then_with(|| a.service.cmp(&b.service))
        };
        entries.sort_by(most_first);
        entries.truncate(SHOWN_ENTRIES);
        entries
    }

    fn radius(&self, number: u32, shares: Option<(f64, f64)>, names: &Names) -> BlastRadius {
        let mut upstream: Vec<u32> = self.solution.upstream(number).collect();
        let count = upstream.len() as u32;
        let by_requests = |a: &u32, b: &u32| {
            let rate = |number: &u32| self.requests_per_s[*number as usize];
            let text = |number: &u32| names.text(self.nodes[*number as usize]);
            rate(b).total_cmp(&rate(a)).then_with(|| text(a).cmp(text(b)))
        };
        if upstream.len() > SHOWN_UPSTREAM {
            upstream.select_nth_unstable_by(SHOWN_UPSTREAM, by_requests);
            upstream.truncate(SHOWN_UPSTREAM);
        }
        upstream.sort_unstable_by(by_requests);
        let (request_share, critical_share) = shares.unzip();
        let services = upstream.into_iter().map(|number| self.text(number, names)).collect();
        BlastRadius { request_share, critical_share, upstream: count, services }
    }
}

/// Requests that entered by one operation and need some service.
type Needing<'a> = (&'a (Name, Name), &'a EntryWindow, &'a Need);

/// For each service the entry operations whose requests need it, those with most of them first.
fn entries_of(window: &Window, names: &Names) -> Map<Vec<EntryView>> {
    let mut of_service: Map<Vec<Needing<'_>>> = Map::default();
    for (key, entry) in &window.entries {
        for (needed, need) in &entry.needed {
            of_service.entry(*needed).or_default().push((key, entry, need));
        }
    }
    let seconds = window.length_ns as f64 / 1e9;
    let shown = |mut entries: Vec<Needing<'_>>| {
        let texts = |needing: &Needing<'_>| (names.text(needing.0.0), names.text(needing.0.1));
        let most_first =
            |a: &Needing<'_>, b: &Needing<'_>| b.2.requests.cmp(&a.2.requests).then_with(|| texts(a).cmp(&texts(b)));
        // of many only those that are shown are put in order and into words
        if entries.len() > SHOWN_ENTRIES {
            entries.select_nth_unstable_by(SHOWN_ENTRIES, most_first);
            entries.truncate(SHOWN_ENTRIES);
        }
        entries.sort_unstable_by(most_first);
        entries.into_iter().map(|needing| entry_view(needing, names, seconds)).collect()
    };
    of_service.into_iter().map(|(name, entries)| (name, shown(entries))).collect()
}

fn entry_view(((service, operation), entry, need): Needing<'_>, names: &Names, seconds: f64) -> EntryView {
    EntryView {
        service: names.text(*service).to_owned(),
        operation: Some(names.text(*operation).to_owned()),
        requests_per_s: entry.requests as f64 / seconds,
        share: Some(need.requests as f64 / entry.requests as f64),
        visits_per_request: need.visits as f64 / entry.requests as f64,
    }
}

/// Shares of all requests that need each service, and that wait for it.
fn radii(window: &Window) -> Map<(f64, f64)> {
    let all: u64 = window.entries.values().map(|entry| entry.requests).sum();
    let mut needs: Map<(u64, u64)> = Map::default();
    for (name, need) in window.entries.values().flat_map(|entry| &entry.needed) {
        let sum = needs.entry(*name).or_default();
        *sum = (sum.0 + need.requests, sum.1 + need.critical);
    }
    let share = |requests: u64| requests as f64 / all.max(1) as f64;
    needs.into_iter().map(|(name, (needed, critical))| (name, (share(needed), share(critical)))).collect()
}
