//! [`Station`]: the visits of one replica over windows.

use std::{collections::VecDeque, num::NonZeroU32};

use weir_schema::UnixNanos;

use super::{Ended, IDENTIFIED_FOR_NS, IDENTIFYING_NS, ReplicaWindow};
use crate::{
    departures::{Visit, reconstruct},
    servers::{self, Discipline, Holding, MIN_VISITS, Unidentifiable},
    spans::Name,
    window::ServiceWindow,
};

/// Visits of a service with configured servers that are kept, so that the queue at a window's start is known.
const CARRIED_VISITS: usize = 20_000;

/// The same of a station that is to be identified, and of one replica of many: 160 KB.
const CARRIED_UNIDENTIFIED: usize = IDENTIFYING_VISITS + 1_000;

/// Visits that identify a station: more make it slower and hardly surer.
const IDENTIFYING_VISITS: usize = 4_000;

/// A replica that nobody visited for so long is gone, when others are visited: one that is identified has a visit each 3 s.
const LATELY_NS: i64 = 60_000_000_000;

/// Or for so many times the time between two visits, of at least so many: by chance once in 10¹³ times.
const LONG_GAPS: i64 = 30;
const MANY: usize = 20;

/// Newest visits that tell whether there are calls.
const LATEST: usize = 200;

/// A visit that is kept: 32 bytes.
#[derive(Clone, Copy, Debug)]
struct Kept {
    visit: Visit,
    operation: Name,
    /// How long it waited for calls to others, microseconds.
    called_us: u32,
}

/// The visits of one station, over windows.
#[derive(Debug, Default)]
pub(super) struct Station {
    visits: VecDeque<Kept>,
    /// Its share of the servers that the configuration says.
    configured: Option<NonZeroU32>,
    /// What it says of itself.
    said: Option<NonZeroU32>,
    /// Visits that departed before this are judged.
    judged_until: UnixNanos,
    found: Option<Result<servers::Station, Unidentifiable>>,
    /// When it was last identified, or tried.
    tried: Option<UnixNanos>,
    /// What servers that were said are held for, of which number, and when that was last looked at.
    holding: Option<Holding>,
    held_of: Option<NonZeroU32>,
    held_at: Option<UnixNanos>,
}

/// How long visits are kept, and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    ns: i64,
    most: usize,
    /// Of those that are older than two windows.
    most_old: usize,
    old_ns: i64,
}

impl Keep {
    /// Of each of so many replicas.
    pub(super) fn of(configured: Option<NonZeroU32>, replicas: usize, length_ns: i64) -> Self {
        let most = match configured {
            Some(_) => (CARRIED_VISITS / replicas.max(1)).max(CARRIED_UNIDENTIFIED),
            None => CARRIED_UNIDENTIFIED,
        };
        let (old_ns, most_old) = (2 * length_ns, CARRIED_UNIDENTIFIED);
        Self { ns: IDENTIFYING_NS.max(old_ns), most, most_old, old_ns }
    }
}

impl Station {
    /// One that was known once, without its visits. What was found against servers of which nobody knows how many says nothing.
    pub(super) fn restored(
        (found, said): (Option<servers::Station>, Option<NonZeroU32>),
        (holding, held_of): (Option<Holding>, Option<NonZeroU32>),
        tried: UnixNanos,
    ) -> Self {
        let holding = holding.filter(|holding| *holding != Holding::Neither || held_of.is_some());
        Self { found: found.map(Ok), said, holding, held_of, tried: Some(tried), ..Self::default() }
    }

    /// Takes in visits, in order of departure.
    pub(super) fn take(&mut self, visits: Vec<Ended>) {
        let said = visits.iter().rev().find_map(|ended| ended.servers);
        self.said = said.map(NonZeroU32::from).or(self.said);
        self.look_again_if_other();
        let called_us = |ended: &Ended| u32::try_from(ended.called_ns / 1_000).unwrap_or(u32::MAX);
        let kept = |ended: Ended| Kept { called_us: called_us(&ended), visit: ended.visit, operation: ended.operation };
        self.visits.extend(visits.into_iter().map(kept));
    }

    /// Splits what departed since the last time into wait and service: long enough ago that those
    /// beside it are known too.
    pub(super) fn judge(
        &mut self,
        service: &mut ServiceWindow,
        window: &mut ReplicaWindow,
        holding: Option<Holding>,
        (known_until, length_ns): (UnixNanos, i64),
    ) {
        let until = known_until.max(self.judged_until);
        let judged = self.judged_until..until;
        self.judged_until = until;
        let in_window = |visit: &Visit| judged.contains(&visit.departure);
        let mut arrivals: Vec<i64> =
            self.visits.iter().map(|kept| kept.visit).filter(in_window).map(|visit| visit.arrival).collect();
        arrivals.sort_unstable();
        arrivals.windows(2).for_each(|pair| window.between_ms.add((pair[1] - pair[0]) as f64 / 1e6));
        window.visits = arrivals.len() as u64;
        let identified = self.found.as_ref().and_then(|found| found.as_ref().ok()).copied();
        window.found = identified;
        window.servers = self.given().or(identified.and_then(|found| found.counted()));
        let refused = self.found.as_ref().and_then(|found| found.as_ref().err()).filter(|_| self.given().is_none());
        window.reason = refused.map(ToString::to_string);
        // two windows back are enough to know the queue at the start of this one
        let from = judged.start.max(until - 4 * length_ns) - 2 * length_ns;
        let visits: Vec<Kept> = self.visits.iter().copied().filter(|kept| kept.visit.departure >= from).collect();
        let held = holding == Some(Holding::Calls) && self.given().is_some();
        let bare: Vec<Visit> = visits.iter().map(|kept| if held { kept.whole() } else { kept.visit }).collect();
        let served = match (self.given(), &identified) {
            (Some(servers), _) => reconstruct(&bare, servers),
            (None, Some(found)) if found.discipline == Discipline::Fifo => reconstruct(&bare, found.servers),
            (None, Some(found)) => servers::shared(&bare, found),
            (None, None) => return,
        };
        for (kept, served) in visits.iter().zip(served).filter(|(kept, _)| in_window(&kept.visit)) {
            let (service_ms, wait_ms) = (served.service_ns as f64 / 1e6, served.wait_ns as f64 / 1e6);
            if served.complete {
                service.service_ms.push(service_ms);
                service.station.by_operation.entry(kept.operation).or_default().add(service_ms);
                window.service_ms.add(service_ms);
                window.held_ms.add(if held { f64::from(kept.called_us) / 1e3 } else { 0.0 });
            } else {
                service.cut_service_ms += service_ms;
                window.cut_service_ms += service_ms;
            }
            service.app_wait_ms.push(wait_ms);
            window.wait_ms.add(wait_ms);
        }
    }

    /// Its share of what the configuration says, if that says something.
    pub(super) fn configure(&mut self, servers: Option<NonZeroU32>) {
        self.configured = servers;
        self.look_again_if_other();
    }

    /// That so many servers were not there says nothing of another number.
    fn look_again_if_other(&mut self) {
        if self.given().is_some() && self.held_of.is_some() && self.given() != self.held_of {
            self.holding = self.holding.filter(|holding| *holding != Holding::Neither);
            (self.held_of, self.held_at) = (None, None);
        }
    }

    /// Its servers, where somebody said them: people before its sidecar.
    pub(super) fn given(&self) -> Option<NonZeroU32> {
        self.configured.or(self.said)
    }

    pub(super) fn said(&self) -> Option<NonZeroU32> {
        self.said
    }

    /// What it is, as was said or found.
    pub(super) fn serves(&self) -> Option<Result<servers::Station, Unidentifiable>> {
        let given = self.given().map(|servers| Ok(servers::Station::given(servers)));
        given.or(self.found)
    }

    /// Visits that are kept.
    pub(super) fn visits(&self) -> usize {
        self.visits.len()
    }

    pub(super) fn found(&self) -> Option<&Result<servers::Station, Unidentifiable>> {
        self.found.as_ref()
    }

    pub(super) fn tried(&self) -> Option<UnixNanos> {
        self.tried
    }

    #[cfg(test)]
    pub(super) fn held(&mut self, holding: Holding) {
        (self.holding, self.held_of, self.held_at) = (Some(holding), self.given(), self.visited());
    }

    pub(super) fn holding(&self) -> Option<Holding> {
        self.holding
    }

    /// The number of servers that `holding` is of.
    pub(super) fn held_of(&self) -> Option<NonZeroU32> {
        self.held_of
    }

    /// When it was last identified, or what its servers are held for.
    pub(super) fn looked_at(&self) -> Option<UnixNanos> {
        if self.given().is_some() { self.held_at } else { self.tried }
    }

    pub(super) fn is_due(&self, now: UnixNanos) -> bool {
        // what servers are held for shows only where there are calls
        let is_shown = self.given().is_none() || self.visits.iter().rev().take(LATEST).any(|kept| kept.called_us > 0);
        // of one that has just come a second look tells as soon as there are visits enough
        let was_too_early = matches!(self.found, Some(Err(Unidentifiable::TooFew { .. }))) && self.given().is_none();
        if was_too_early && self.visits.len() >= MIN_VISITS {
            return true;
        }
        is_shown && !self.visits.is_empty() && self.looked_at().is_none_or(|looked| now - looked >= IDENTIFIED_FOR_NS)
    }

    /// Whether it had no visit for as long as visits are kept; one that a checkpoint brought has none yet.
    pub(super) fn is_gone(&self, now: UnixNanos) -> bool {
        let tried_lately = self.tried.is_some_and(|tried| now.saturating_sub(tried) <= IDENTIFYING_NS);
        self.visits.is_empty() && !tried_lately
    }

    /// Whether it still serves: nobody visits one that is gone, while others are visited. Who is silent for a minute is gone, or for a window
    /// and far longer than it ever is.
    pub(super) fn is_there(&self, now: UnixNanos, length_ns: i64) -> bool {
        let (Some(visited), Some((first, _))) = (self.visited(), self.since()) else { return false };
        let gap_ns = (visited - first) / (self.visits.len() as i64 - 1).max(1);
        let usual_ns = if self.visits.len() < MANY { LATELY_NS } else { LONG_GAPS * gap_ns };
        now - visited <= usual_ns.clamp(length_ns, LATELY_NS.max(2 * length_ns))
    }

    /// Whether it was visited since; a replica that is gone no longer serves.
    pub(super) fn is_visited_since(&self, time: UnixNanos) -> bool {
        self.visited().is_some_and(|visited| visited >= time)
    }

    /// When the newest of its visits ended.
    pub(super) fn visited(&self) -> Option<UnixNanos> {
        self.visits.back().map(|kept| kept.visit.departure)
    }

    /// The first visit that is kept.
    pub(super) fn since(&self) -> Option<(UnixNanos, UnixNanos)> {
        self.visits.front().map(|kept| (kept.visit.departure, kept.visit.arrival))
    }

    pub(super) fn identify(&mut self, now: UnixNanos) {
        let known: Vec<Kept> =
            self.visits.iter().filter(|kept| kept.visit.departure <= self.judged_until).copied().collect();
        let newest = &known[known.len().saturating_sub(IDENTIFYING_VISITS)..];
        let own: Vec<Visit> = newest.iter().map(|kept| kept.visit).collect();
        if let Some(servers) = self.given() {
            (self.held_of, self.held_at) = (Some(servers), Some(now));
            let whole: Vec<Visit> = newest.iter().map(Kept::whole).collect();
            // where too little is seen of it, it is as it was
            self.holding = servers::held_for(&own, &whole, servers).or(self.holding);
            return;
        }
        self.tried = Some(now);
        let found = servers::identify(&own);
        // a few visits since it was identified say nothing against that
        let too_few = matches!(found, Err(Unidentifiable::TooFew { .. }));
        if !(too_few && matches!(self.found, Some(Ok(_)))) {
            self.found = Some(found);
        }
    }

    pub(super) fn forget(&mut self, known_until: UnixNanos, keep: Keep) {
        self.visits.retain(|kept| kept.visit.departure >= known_until - keep.ns);
        let old = self.visits.iter().filter(|kept| kept.visit.departure < known_until - keep.old_ns).count();
        let beyond_old = old.min(self.visits.len().saturating_sub(keep.most_old));
        let surplus = self.visits.len().saturating_sub(keep.most).max(beyond_old);
        self.visits.drain(..surplus);
    }
}

impl Kept {
    /// With the calls it waited for.
    fn whole(&self) -> Visit {
        Visit { departure: self.visit.departure + i64::from(self.called_us) * 1_000, ..self.visit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_are_held_for_is_looked_at_where_there_are_calls() {
        for (called_ns, expect) in [(0, false), (5_000, true)] {
            let mut station = Station::default();
            let visit = Visit { arrival: 5, departure: 9, gave_up: false };
            let (start, end, servers) = (5, 9 + called_ns, std::num::NonZeroU16::new(2));
            station.take(vec![Ended {
                visit,
                called_ns,
                instance: None,
                operation: 0,
                servers,
                start,
                end,
                weight: 1,
            }]);
            assert_eq!(station.is_due(1), expect, "{called_ns}");
        }
    }

    #[test]
    fn who_is_not_visited_is_not_looked_at_and_goes_and_a_few_visits_undo_nothing() {
        let servers = NonZeroU32::new(4).unwrap();
        let found = servers::Station { discipline: Discipline::Fifo, servers, service_ns: 1e6, cs2: 1.0, margin: 5.0 };
        let mut station = Station::restored((Some(found), None), (None, None), 0);
        assert!(!station.is_due(10 * IDENTIFIED_FOR_NS) && !station.is_visited_since(0));
        assert!(!station.is_gone(IDENTIFYING_NS) && station.is_gone(IDENTIFYING_NS + 1));
        let visit = Visit { arrival: 5, departure: 9, gave_up: false };
        station.take(vec![Ended {
            visit,
            called_ns: 0,
            instance: None,
            operation: 0,
            servers: None,
            start: 5,
            end: 9,
            weight: 1,
        }]);
        station.judged_until = 10;
        assert!(station.is_due(IDENTIFIED_FOR_NS) && station.is_visited_since(9));
        station.identify(IDENTIFIED_FOR_NS);
        assert_eq!(station.found(), Some(&Ok(found)));
        assert!(!station.is_due(IDENTIFIED_FOR_NS), "it was just looked at");
    }
}
