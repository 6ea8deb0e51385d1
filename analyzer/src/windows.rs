//! [`Windows`]: spans and calls by the window they ended in, until it closes.
//!
//! A window says only what is known by its end: a call counts when the later of its two spans ended, and
//! spans that end later are not looked at, whether they have come or not. So the answer is the same
//! live, where they have not, and replayed, where they have.
//!
//! Senders choose the times of their spans, so how many windows there are is bounded: of too many at once the further ones
//! are late, what ends after it was received is not believed, and one step closes so many. A clock that was ahead itself and is set right
//! takes back what it said of times that have not come.

mod closing;
mod outside;
mod requests;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    num::NonZeroU32,
    ops::Range,
};

use closing::Closing;
use hashbrown::HashMap;
use weir_schema::UnixNanos;

use crate::{
    held::{Call, Held, Place},
    lm::SavedLm,
    spans::{Name, Span},
    stations::{SavedCourse, SavedStation},
    window::{Edges, Window},
};

/// Spans of one window kept for estimates, 72 MB; further ones are in the rollups only, and counted.
const MAX_SPANS: usize = 500_000;

/// Windows that are open at once, a day of 10 s and more: recorded traces may be sent faster than they happened. What would open
/// a further one is late.
const MAX_OPEN: usize = 10_000;

/// Windows for which room is made in advance; when more are open at once they are small.
const WITH_ROOM: usize = 8;

/// Windows whose memory is kept for the next: while one closes another fills.
const MAX_SPARE: usize = 2;

/// Memory for so many times what a window held is not kept.
const MOST_SPARE: usize = 4;

/// The open windows.
#[derive(Debug)]
pub(crate) struct Windows {
    length_ns: i64,
    open: BTreeMap<i64, Open>,
    /// Windows up to this one are closed.
    closed_until: Option<i64>,
    /// In windows up to this one nobody listened: that nothing came then is no silence.
    deaf_until: Option<i64>,
    closing: Closing,
    /// Times of which not all spans came.
    unwatched: Vec<Range<UnixNanos>>,
    /// Spans and edges of the last window: the next will have about as many.
    room: (usize, usize),
    /// Memory of closed windows, for the next: new one is zeroed page by page before its first use.
    spare: Vec<Vec<(Span, Place)>>,
    /// What ends later cannot be: its sender's clock is wrong.
    pub(crate) believed_until: UnixNanos,
    pub(crate) late: u64,
    pub(crate) skewed: u64,
    pub(crate) beyond: u64,
}

/// A window that is not closed.
#[derive(Debug, Default)]
struct Open {
    spans: Vec<(Span, Place)>,
    edges: Edges,
}

/// Which windows close.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    /// Those that ended by then.
    pub(crate) before: UnixNanos,
    /// Also those in which nothing ended: who waits for health must hear of silence.
    pub(crate) silent: bool,
}

impl Windows {
    pub(crate) fn new(length_ns: i64) -> Self {
        Self {
            length_ns,
            open: BTreeMap::new(),
            closed_until: None,
            deaf_until: None,
            closing: Closing::default(),
            unwatched: Vec::new(),
            room: (0, 0),
            spare: Vec::new(),
            believed_until: UnixNanos::MAX,
            late: 0,
            skewed: 0,
            beyond: 0,
        }
    }

    /// Takes a span in; says whether its window is open and its clock believed.
    pub(crate) fn push(&mut self, span: &Span, place: Place) -> bool {
        if span.end() > self.believed_until {
            self.skewed += 1;
            return false;
        }
        let Some(window) = self.of(span.end()) else {
            self.late += 1;
            return false;
        };
        if window.spans.len() >= MAX_SPANS {
            self.beyond += 1;
        } else {
            window.spans.push((*span, place));
        }
        true
    }

    /// The same of a span that is read back: one of a closed window is not late, it was there before.
    pub(crate) fn push_stored(&mut self, span: &Span, place: Place) -> bool {
        let late = self.late;
        let taken = self.push(span, place);
        self.late = late;
        taken
    }

    /// Counts a call that both ends tell of.
    pub(crate) fn call(&mut self, call: &Call) {
        if call.known_at <= self.believed_until
            && let Some(window) = self.of(call.known_at)
        {
            window.edges.call(call);
        }
    }

    /// The window of a moment; `None` when it is closed, or would be one too many.
    fn of(&mut self, time: UnixNanos) -> Option<&mut Open> {
        let index = time.div_euclid(self.length_ns);
        if self.closed_until.is_some_and(|closed| index <= closed) {
            return None;
        }
        // so much fits without growing, which would copy it all again and again
        let (room, edges) = if self.open.len() < WITH_ROOM { self.room } else { (0, 0) };
        let full = self.open.len() >= MAX_OPEN;
        match self.open.entry(index) {
            Entry::Occupied(open) => Some(open.into_mut()),
            Entry::Vacant(_) if full => None,
            Entry::Vacant(place) => {
                let mut spans = self.spare.pop().unwrap_or_default();
                spans.reserve(room);
                Some(place.insert(Open { spans, edges: Edges::with_room(edges) }))
            }
        }
    }

    /// Keeps the memory of a closed window, unless it is that of a flood.
    fn recycle(&mut self, mut spans: Vec<(Span, Place)>) {
        let is_usual = !spans.is_empty() && spans.capacity() / MOST_SPARE <= spans.len();
        if is_usual && self.spare.len() < MAX_SPARE {
            spans.clear();
            self.spare.push(spans);
        }
    }

    /// Stations as a checkpoint holds them, and the end of the last closed window.
    pub(crate) fn save(&self) -> (Vec<SavedStation>, Option<UnixNanos>) {
        (self.closing.stations.save(), self.closed_until.map(|index| self.end(index)))
    }

    /// What ended before `end` was judged already.
    pub(crate) fn restore(&mut self, stations: Vec<SavedStation>, end: Option<UnixNanos>) {
        self.closing.stations.restore(stations);
        self.closed_until = end.map(|end| (end - 1).div_euclid(self.length_ns)).max(self.closed_until);
    }

    /// How services went, as a checkpoint holds it, and of how many that is left out.
    pub(crate) fn save_courses(&self) -> (Vec<SavedCourse>, u64) {
        self.closing.stations.save_courses()
    }

    pub(crate) fn restore_courses(&mut self, saved: Vec<SavedCourse>) {
        self.closing.stations.restore_courses(saved);
    }

    /// Requests to replicas, and to model servers, for which there was no room since the last time.
    pub(crate) fn take_refused(&mut self) -> (u64, u64) {
        let Closing { stations, lm, .. } = &mut self.closing;
        (std::mem::take(&mut stations.refused), std::mem::take(&mut lm.refused))
    }

    /// Model servers as a checkpoint holds them.
    pub(crate) fn save_lm(&self) -> Vec<SavedLm> {
        self.closing.lm.save()
    }

    pub(crate) fn restore_lm(&mut self, saved: Vec<SavedLm>) {
        self.closing.lm.restore(saved);
    }

    /// Of this time not all spans came: a window that holds some of it is not judged.
    pub(crate) fn unwatched(&mut self, time: Range<UnixNanos>) {
        let first = time.start.div_euclid(self.length_ns).max(self.closed_until.map_or(i64::MIN, |last| last + 1));
        let last = (time.end - 1).div_euclid(self.length_ns);
        if first <= last {
            self.closing.lm.miss(&(first.saturating_mul(self.length_ns)..self.end(last)));
        }
        self.unwatched.push(time);
    }

    /// The end of the oldest window that is open.
    pub(crate) fn next_end(&self) -> Option<UnixNanos> {
        self.open.first_key_value().map(|(index, _)| self.end(*index))
    }

    fn is_whole(&self, end: UnixNanos) -> bool {
        !self.unwatched.iter().any(|time| time.start < end && end - self.length_ns < time.end)
    }

    /// Nothing can have ended after `latest`. When windows were closed that had not begun by then, all that comes until
    /// their time would be late: they are not closed, and what was learnt beside those times is let go.
    pub(crate) fn set_clock(&mut self, latest: UnixNanos) {
        let last = latest.div_euclid(self.length_ns);
        if self.closed_until.is_none_or(|closed| closed <= last) {
            return;
        }
        self.closed_until = None;
        let impossible: usize = self.open.split_off(&(last + 1)).values().map(|open| open.spans.len()).sum();
        self.skewed += impossible as u64;
        self.closing = Closing::default();
    }

    /// Whoever does not listen from the beginning begins now.
    pub(crate) fn listen(&mut self, now: UnixNanos) {
        self.deaf_until.get_or_insert(now.div_euclid(self.length_ns));
    }

    /// The oldest window that is due, if one is.
    pub(crate) fn close(&mut self, due: Due, held: &mut Held, servers: &HashMap<Name, NonZeroU32>) -> Option<Window> {
        let oldest = self.open.first_key_value().map(|(index, _)| *index);
        let after_last = self.closed_until.max(self.deaf_until).filter(|_| due.silent).map(|last| last + 1);
        let index = [oldest, after_last].into_iter().flatten().min().filter(|index| self.end(*index) <= due.before)?;
        let Open { spans, edges } = self.open.remove(&index).unwrap_or_default();
        self.closed_until = self.closed_until.max(Some(index));
        if !spans.is_empty() {
            self.room = (spans.len(), edges.len());
        }
        let end = self.end(index);
        if !self.is_whole(end) {
            return Some(Window { end, length_ns: self.length_ns, unwatched: true, ..Window::default() });
        }
        let window = self.closing.window((end, self.length_ns), &spans, edges, held, servers);
        self.recycle(spans);
        Some(window)
    }

    fn end(&self, index: i64) -> UnixNanos {
        (index + 1).saturating_mul(self.length_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{held::As, spans::Side};

    const SECOND: i64 = 1_000_000_000;

    fn windows() -> Windows {
        Windows::new(10 * SECOND)
    }

    fn push(windows: &mut Windows, held: &mut Held, end: i64) -> bool {
        let id = end as u64;
        let span =
            Span { trace: 1, id, start: end - 1, duration_ns: 1, service: 3, side: Side::Server, ..Span::default() };
        let place = held.insert(&span, As::New, &mut Vec::new()).unwrap();
        windows.push(&span, place)
    }

    /// Ends of the windows that close, and requests in them, in seconds.
    fn closed(windows: &mut Windows, held: &mut Held, before: i64, silent: bool) -> Vec<(i64, u64)> {
        let due = Due { before: before * SECOND, silent };
        let close = || windows.close(due, held, &HashMap::new());
        let requests = |window: &Window| window.services.values().map(|service| service.requests).sum();
        std::iter::from_fn(close).map(|window| (window.end / SECOND, requests(&window))).collect()
    }

    #[test]
    fn windows_close_oldest_first_and_silent_ones_only_for_who_waits() {
        let (mut windows, mut held) = (windows(), Held::default());
        [5, 6, 31].iter().for_each(|end| assert!(push(&mut windows, &mut held, end * SECOND)));
        assert_eq!(closed(&mut windows, &mut held, 9, true), []);
        assert_eq!(closed(&mut windows, &mut held, 15, true), [(10, 2)], "before the first window there is no silence");
        assert_eq!(closed(&mut windows, &mut held, 35, true), [(20, 0), (30, 0)]);
        assert_eq!(closed(&mut windows, &mut held, 65, false), [(40, 1)]);
        assert_eq!(closed(&mut windows, &mut held, 65, true), [(50, 0), (60, 0)]);
        assert!(!push(&mut windows, &mut held, 45 * SECOND) && windows.late == 1, "silence was told");
    }

    #[test]
    fn a_stop_is_no_silence() {
        let (mut windows, mut held) = (windows(), Held::default());
        windows.restore(Vec::new(), Some(20 * SECOND));
        windows.listen(95 * SECOND);
        push(&mut windows, &mut held, 25 * SECOND);
        windows.listen(500 * SECOND);
        assert_eq!(closed(&mut windows, &mut held, 115, true), [(30, 1), (110, 0)]);
    }

    #[test]
    fn spans_of_all_times_open_so_many_windows_and_the_rest_is_late() {
        let (mut windows, mut held) = (windows(), Held::default());
        let more = 500;
        for ago in 0..(MAX_OPEN + more) as i64 {
            push(&mut windows, &mut held, (1_000_000 - 10 * ago) * SECOND);
        }
        assert_eq!((windows.open.len(), windows.late), (MAX_OPEN, more as u64));
        assert!(push(&mut windows, &mut held, 1_000_000 * SECOND + 1), "those that are open take more");
        assert_eq!(closed(&mut windows, &mut held, 1_000_000, false).len(), MAX_OPEN - 1);
        assert!(push(&mut windows, &mut held, 1_000_100 * SECOND), "what closed made room");
    }

    #[test]
    fn a_clock_that_was_a_day_ahead_blinds_nobody_once_it_is_right() {
        let day = 86_400 * SECOND;
        for restarted in [false, true] {
            let (mut windows, mut held) = (windows(), Held::default());
            if restarted {
                windows.restore(Vec::new(), Some(2 * day));
            } else {
                push(&mut windows, &mut held, 2 * day - 5 * SECOND);
                push(&mut windows, &mut held, 2 * day + 5 * SECOND);
                closed(&mut windows, &mut held, 2 * 86_400, false);
            }
            assert!(!push(&mut windows, &mut held, day));
            windows.set_clock(2 * day);
            assert!(!push(&mut windows, &mut held, day + 1), "it was right then");
            windows.set_clock(day + 60 * SECOND);
            assert!(push(&mut windows, &mut held, day + 2));
            assert_eq!(closed(&mut windows, &mut held, 86_400 + 60, false), [(86_410, 1)]);
            assert_eq!(windows.skewed, u64::from(!restarted), "what had not ended yet is not waited for");
        }
    }
}
