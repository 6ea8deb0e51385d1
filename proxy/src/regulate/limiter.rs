//! [`Limiter`]: at most `limit` requests in flight, and a bounded line of those who wait, in which
//! nobody stands who cannot be served in time.
//!
//! In flight and waiting share one atomic word, and the bound is an atomic beside it: while there is
//! room a request costs one compare-and-swap and no lock. Only when places run out is the line locked,
//! so a place that becomes free goes to exactly one waiter; the lock is never held across an await.
//! Without a limit the count is kept all the same: it is the `in_flight` that spans report.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};
use weir_policy::ConcurrencyLimit;

use crate::regulate::{Priority, Refusal, line::Line, line::Ticket, wait::WaitEstimate};

/// One who waits, in the upper half of the word; one in flight is 1.
const WAITER: u64 = 1 << 32;

/// The bound of a limiter without a limit.
const UNBOUNDED: u32 = u32::MAX;

/// The places of one service or route.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Waiting and in flight in one word, so that no place is lost between the two.
    load: AtomicU64,
    /// The smaller of the limit and what the local limiter allows.
    bound: AtomicU32,
    pace: WaitEstimate,
    rest: Mutex<Rest>,
}

/// A request that asks for a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) now: Instant,
    /// When the request itself stops making sense.
    pub(crate) give_up: Instant,
    pub(crate) priority: Priority,
}

/// What a request gets when it asks for a place.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A place at once.
    Admitted(Permit),
    /// A place in the line.
    Queued(Place),
    /// Neither, and why.
    Refused(Refusal),
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Arc<Limiter>,
    /// Requests in flight when it was given, this one included.
    pub(crate) in_flight: u32,
}

/// A place in the line; left when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    limiter: Arc<Limiter>,
    ticket: Ticket,
    deadline: Instant,
    granted: Option<oneshot::Receiver<u32>>,
}

/// What needs the lock.
#[derive(Debug, Default)]
struct Rest {
    limit: Option<ConcurrencyLimit>,
    local: Option<ConcurrencyLimit>,
    line: Line<oneshot::Sender<u32>>,
}

impl Limiter {
    /// Asks for a place.
    pub(crate) fn enter(self: &Arc<Self>, ask: Ask) -> Entry {
        match self.try_take(ask.now) {
            Some(in_flight) => Entry::Admitted(self.permit(in_flight)),
            None => self.line_up(ask),
        }
    }

    /// Changes the limit; those who now fit are let in.
    pub(crate) fn set(&self, limit: Option<ConcurrencyLimit>) {
        let mut rest = self.rest.lock();
        rest.limit = limit;
        self.rebound(&mut rest);
    }

    /// What the local limiter allows beside the limit; it can only be tighter.
    pub(crate) fn set_local(&self, local: Option<ConcurrencyLimit>) {
        let mut rest = self.rest.lock();
        rest.local = local;
        self.rebound(&mut rest);
    }

    /// Whether anybody can be held back here.
    pub(crate) fn is_bounded(&self) -> bool {
        self.bound.load(SeqCst) != UNBOUNDED
    }

    /// Requests in flight now.
    pub(crate) fn in_flight(&self) -> u32 {
        in_flight(self.load.load(SeqCst))
    }

    /// Requests that wait now.
    pub(crate) fn queued(&self) -> u32 {
        waiting(self.load.load(SeqCst))
    }

    /// How long one of normal priority who came now would wait, as far as is known.
    pub(crate) fn expected_wait(&self) -> Option<Duration> {
        let load = self.load.load(SeqCst);
        if waiting(load) == 0 && in_flight(load) < self.bound.load(SeqCst) {
            return None;
        }
        self.pace.expected(self.rest.lock().line.ahead_of(Priority::Normal) + 1)
    }

    /// A free place, if nobody waits for it.
    fn try_take(&self, now: Instant) -> Option<u32> {
        let bound = self.bound.load(SeqCst);
        let mut load = self.load.load(SeqCst);
        loop {
            if waiting(load) > 0 || in_flight(load) >= bound {
                return None;
            }
            match self.load.compare_exchange_weak(load, load + 1, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(newer) => load = newer,
            }
        }
        let taken = in_flight(load) + 1;
        if taken == bound {
            self.pace.saturated(now);
        }
        Some(taken)
    }

    fn line_up(self: &Arc<Self>, ask: Ask) -> Entry {
        let mut rest = self.rest.lock();
        let Some(limit) = rest.limit.or(rest.local) else {
            return Entry::Admitted(self.permit(in_flight(self.load.fetch_add(1, SeqCst)) + 1));
        };
        let deadline = ask.give_up.min(ask.now + limit.queue_timeout());
        let expected = self.pace.expected(rest.line.ahead_of(ask.priority) + 1);
        if let Some(expected) = expected.filter(|wait| ask.now + *wait > deadline) {
            return Entry::Refused(Refusal::DeadlineUnmeetable { expected });
        }
        let full = rest.line.len() >= limit.queue as usize;
        if full {
            // the displaced one hears of it by the end of its channel
            if rest.line.displace(ask.priority).is_none() {
                return Entry::Refused(Refusal::QueueFull);
            }
            self.load.fetch_sub(WAITER, SeqCst);
        }
        self.join(&mut rest, ask, deadline)
    }

    /// Joins the line, unless a place became free meanwhile. Who waits is counted in the same word as
    /// who is in flight, so a release either sees the waiter or is seen here.
    fn join(self: &Arc<Self>, rest: &mut Rest, ask: Ask, deadline: Instant) -> Entry {
        let bound = self.bound.load(SeqCst);
        let mut load = self.load.load(SeqCst);
        loop {
            let free = waiting(load) == 0 && in_flight(load) < bound;
            let next = if free { load + 1 } else { load + WAITER };
            match self.load.compare_exchange_weak(load, next, SeqCst, SeqCst) {
                Ok(_) if free => return Entry::Admitted(self.permit(in_flight(next))),
                Ok(_) => break,
                Err(newer) => load = newer,
            }
        }
        let (grant, granted) = oneshot::channel();
        let ticket = rest.line.join(ask.priority, grant);
        Entry::Queued(Place { limiter: self.clone(), ticket, deadline, granted: Some(granted) })
    }

    fn rebound(&self, rest: &mut Rest) {
        let bound = |limit: Option<ConcurrencyLimit>| limit.map_or(UNBOUNDED, |l| l.limit.get());
        self.bound.store(bound(rest.limit).min(bound(rest.local)), SeqCst);
        self.admit_waiting(rest);
    }

    fn permit(self: &Arc<Self>, in_flight: u32) -> Permit {
        Permit { limiter: self.clone(), in_flight }
    }

    fn release(&self) {
        let bound = self.bound.load(SeqCst);
        let mut load = self.load.load(SeqCst);
        if in_flight(load) >= bound {
            self.pace.released(Instant::now());
        }
        while waiting(load) == 0 {
            match self.load.compare_exchange_weak(load, load - 1, SeqCst, SeqCst) {
                Ok(_) => return,
                Err(newer) => load = newer,
            }
        }
        let mut rest = self.rest.lock();
        self.load.fetch_sub(1, SeqCst);
        self.admit_waiting(&mut rest);
    }

    fn admit_waiting(&self, rest: &mut Rest) {
        let bound = self.bound.load(SeqCst);
        while in_flight(self.load.load(SeqCst)) < bound {
            let Some(grant) = rest.line.serve() else { return };
            let before = self.load.fetch_add(1u64.wrapping_sub(WAITER), SeqCst);
            // one who has left by now does not take the place
            if grant.send(in_flight(before) + 1).is_err() {
                self.load.fetch_sub(1, SeqCst);
            }
        }
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self {
            load: AtomicU64::new(0),
            bound: AtomicU32::new(UNBOUNDED),
            pace: WaitEstimate::default(),
            rest: Mutex::default(),
        }
    }
}

impl Place {
    /// Waits for a place until the deadline.
    pub(crate) async fn wait(mut self) -> Result<Permit, Refusal> {
        let granted = self.granted.as_mut().expect("taken only below and when dropped");
        let in_time = tokio::time::timeout_at(self.deadline, granted).await;
        let in_flight = in_time.map_err(|_| Refusal::QueueTimeout)?.map_err(|_| Refusal::Displaced)?;
        self.granted = None;
        Ok(self.limiter.permit(in_flight))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(mut granted) = self.granted.take() else { return };
        if self.limiter.rest.lock().line.leave(self.ticket) {
            self.limiter.load.fetch_sub(WAITER, SeqCst);
            return;
        }
        // the place may have come in the same moment as the end of the wait
        if granted.try_recv().is_ok() {
            self.limiter.release();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.release();
    }
}

fn in_flight(load: u64) -> u32 {
    load as u32
}

fn waiting(load: u64) -> u32 {
    (load >> 32) as u32
}

#[cfg(test)]
mod tests;
