//! What a restart needs: the note of what was learnt, and stored spans read back.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use arrow::record_batch::RecordBatch;
use weir_schema::{Batch, Table, UnixNanos};

use super::Analyzer;
use crate::{
    alert::Alert,
    checkpoint::{COURSES, Foreign, History},
    held::As,
    rollup::minute,
    spans::{Names, SpanColumns},
};

impl Analyzer {
    /// After a restart, takes in stored spans by start: rows of `minutes` are made anew, of others the
    /// spans are only known, so that callers, callees and duplicates of what comes are found. Spans
    /// that start at `history_from` or later also open windows.
    pub fn restore(&mut self, spans: &RecordBatch, minutes: &BTreeSet<UnixNanos>, history_from: UnixNanos) {
        let Some(columns) = SpanColumns::of(spans) else { return };
        self.received(&columns);
        for row in 0..columns.rows() {
            let span = columns.span(row, &mut self.names);
            let anew = minutes.contains(&minute(span.start));
            let taken = if anew { As::New } else { As::Context };
            let Some(place) = self.held.insert(&span, taken, &mut self.calls) else { continue };
            self.started(span.start);
            if anew {
                self.rollup.span(&span);
            }
            if span.start >= history_from && span.end() <= self.windows.believed_until {
                self.windows.push_stored(&span, place);
                // a request that ends in an open window is wanted whole, with what of it ended before
                self.findings.push(&span);
            }
            let of_history = self.calls.iter().filter(|call| call.known_at >= history_from);
            of_history.for_each(|call| self.windows.call(call));
            let anew = self.calls.drain(..).filter(|call| minutes.contains(&minute(call.start)));
            anew.for_each(|call| self.rollup.call(&call));
        }
        if self.newest >= history_from {
            self.findings.push_events(spans, &mut self.names);
        }
        // stored spans may be many: what is older than the hold time is let go as they pass, but nothing of windows
        // that close later: what they called would not be known any more
        let hold_ns = self.hold_ns().max(self.newest.saturating_sub(history_from));
        self.held.turn(None, hold_ns, self.config.max_held_spans, &mut self.calls);
        let anew = self.calls.drain(..).filter(|call| minutes.contains(&minute(call.start)));
        anew.for_each(|call| self.rollup.call(&call));
    }

    /// After [`Analyzer::restore`]: takes out what `operations` or `edges` have already of those minutes.
    pub fn subtract(&mut self, table: Table, rows: &RecordBatch) {
        self.rollup.subtract(table, rows, &mut self.names);
    }

    /// After the last [`Analyzer::subtract`]: the rows that were missing of minutes that are over.
    pub fn restored(&mut self, now: UnixNanos) -> Vec<Batch> {
        self.rollup.forgive();
        self.rollup.closed(now.saturating_sub(self.slack_ns()), &self.names)
    }

    /// After a restart: what began before `read_from` was not read back, and nobody listened in the time that weir was `away`. Windows
    /// that hold some of such a time are not whole, and not judged.
    pub fn was_away(&mut self, read_from: UnixNanos, away: Range<UnixNanos>) {
        self.windows.unwatched(read_from.saturating_sub(1)..read_from.saturating_add(1));
        // what was late when it went did not come any more
        self.windows.unwatched(away.start.saturating_sub(self.lateness_ns())..away.end);
    }

    /// Minutes whose rows are not all written: what a checkpoint has to name.
    #[must_use]
    pub fn open_minutes(&self) -> BTreeSet<UnixNanos> {
        let mut minutes = self.rollup.minutes();
        minutes.extend(self.held.minutes());
        minutes
    }

    /// What a restart must not lose, see [`checkpoint`](crate::checkpoint). Spans are not in it: they are stored.
    #[must_use]
    pub fn checkpoint(&mut self) -> Option<Vec<u8>> {
        let (stations, closed_until) = self.windows.save();
        let (courses, without_course) = self.windows.save_courses();
        let history = History {
            window_ms: self.config.window_ms,
            closed_until,
            names: self.names.save(),
            usual_rates: self.usual_rates.clone(),
            usual_service_ms: self.usual_service_ms.clone(),
            stations,
            courses,
            findings: self.findings.save(),
            last_snapshot: self.last_snapshot.as_ref().map(Cow::Borrowed),
            control: self.controller.save(),
            lm: self.windows.save_lm(),
        };
        let (bytes, mut left_out) = history.into_bytes()?;
        if without_course > 0 {
            *left_out.entry(COURSES).or_default() += without_course;
        }
        self.counters.history_left_out = left_out.values().sum();
        self.left_out = left_out;
        Some(bytes)
    }

    /// How many keys the last [`Analyzer::checkpoint`] had no room for, by what they are of: those seen least. A restart learns these
    /// anew.
    #[must_use]
    pub fn left_out(&self) -> &BTreeMap<&'static str, u64> {
        &self.left_out
    }

    /// Before anything is taken in, brings back what [`Analyzer::checkpoint`] noted. Windows that were closed by
    /// then are not judged again.
    ///
    /// # Errors
    /// [`Foreign`] when the bytes are not a history that this version can use; the analyzer stays as it is, without one.
    pub fn restore_history(&mut self, bytes: &[u8]) -> Result<(), Foreign> {
        let history = History::of_bytes(bytes)?;
        if history.window_ms != self.config.window_ms {
            return Err(Foreign::Window { noted_ms: history.window_ms, configured_ms: self.config.window_ms });
        }
        self.names = Names::restored(&history.names).ok_or(Foreign::Damaged)?;
        self.windows.restore(history.stations, history.closed_until);
        self.windows.restore_courses(history.courses);
        self.windows.restore_lm(history.lm);
        self.usual_rates = history.usual_rates;
        self.usual_service_ms = history.usual_service_ms;
        self.findings.restore(history.findings, history.closed_until);
        self.controller.restore(history.control);
        self.last_snapshot = history.last_snapshot.map(Cow::into_owned);
        Ok(())
    }

    /// After a crash, what people are to be told again, for nobody knows whether they were: the alerts of findings that are open, and of those
    /// that ended since. Their ids are those of before.
    #[must_use]
    pub fn alerts_since(&self, since: UnixNanos) -> Vec<Alert> {
        let all = self.findings.all();
        let lately = all.iter().filter(|finding| finding.closed_unix_nano.is_none_or(|closed| closed >= since));
        lately.map(Alert::of_finding).collect()
    }

    /// Goes to another time, of which nothing was seen yet, with what was learnt: what is usual and how stations serve. Nothing of the time
    /// before is open or closed there.
    pub(crate) fn moved_to(self, at: UnixNanos) -> Self {
        let (mut stations, _) = self.windows.save();
        stations.iter_mut().for_each(|station| station.tried = at);
        let mut moved = Self::new(self.config);
        moved.names = self.names;
        moved.windows.restore(stations, None);
        moved.usual_rates = self.usual_rates;
        moved.usual_service_ms = self.usual_service_ms;
        moved.findings.moved_to(self.findings, at);
        moved
    }
}
