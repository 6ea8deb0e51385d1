//! [`Recorder`]: where a data thread leaves its records: a ring of its own, which nobody else writes to.
//!
//! A push is a copy and one atomic store: it takes no lock, allocates nothing, wakes nobody until the
//! ring is half full, and never waits: what does not fit is dropped and counted. [`Gatherer`] empties
//! the rings on the control thread and hands each record to whom it is for: the exporter, the access
//! log, and whoever taps.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use rtrb::{Consumer, Producer, RingBuffer};
use tokio::sync::{
    Notify,
    mpsc::{self, error::TrySendError},
    watch,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{AccessLog, Telemetry},
    control::InForce,
    counters::{Tally, add},
    telemetry::{Action, LogWriter, Loss, SpanRecord, Taps},
};

/// 4,096 records a thread, 1 MiB and what their requests said: 80 ms of the fastest traffic, and gathering is waked at half of it.
const RING_RECORDS: usize = 4_096;

/// 50 ms between two looks at rings that fill slowly: soon enough for who watches a tap.
const LOOK: Duration = Duration::from_millis(50);

/// A data thread's end of its ring.
pub(crate) struct Recorder {
    ring: RefCell<Producer<SpanRecord>>,
    wanted: Cell<Wanted>,
    /// How many tap.
    taps: Arc<AtomicU32>,
    wake: Arc<Notify>,
}

/// Whom records are for, as the configuration in force says; without anybody, and without a tap, none is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Whether spans are exported.
    spans: bool,
    access_log: AccessLog,
    access_log_ratio: f64,
}

/// The other end of all rings.
pub(crate) struct Gatherer {
    rings: Vec<Consumer<SpanRecord>>,
    wake: Arc<Notify>,
    exporter: Option<mpsc::Sender<SpanRecord>>,
    in_force: watch::Receiver<InForce>,
    taps: Arc<Taps>,
    tally: Arc<Tally>,
}

/// One ring for each data thread; the other ends wait for their [`Gatherer`].
pub(crate) fn rings(config: &Telemetry, taps: &Arc<AtomicU32>, threads: usize) -> (Vec<Recorder>, Rings) {
    let wake = Arc::new(Notify::new());
    let ring = |_| RingBuffer::new(RING_RECORDS.min(config.queue_records));
    let (producers, rings): (Vec<_>, Vec<_>) = (0..threads).map(ring).unzip();
    let wanted = Wanted::new(config);
    let recorder =
        |ring| Recorder { ring: RefCell::new(ring), wanted: Cell::new(wanted), taps: taps.clone(), wake: wake.clone() };
    (producers.into_iter().map(recorder).collect(), Rings { rings, wake: wake.clone() })
}

/// What a [`Gatherer`] is made of.
pub(crate) struct Rings {
    rings: Vec<Consumer<SpanRecord>>,
    wake: Arc<Notify>,
}

impl Wanted {
    pub(crate) fn new(config: &Telemetry) -> Self {
        let logs = config.otlp.is_some() || config.access_log_file.is_some();
        Self {
            spans: config.otlp.is_some(),
            access_log: if logs { config.access_log } else { AccessLog::Off },
            access_log_ratio: config.access_log_ratio,
        }
    }

    fn logs(self, record: &SpanRecord) -> bool {
        self.access_log.wants(record) && (self.access_log_ratio >= 1.0 || rand::random::<f64>() < self.access_log_ratio)
    }
}

impl AccessLog {
    fn wants(self, record: &SpanRecord) -> bool {
        match self {
            Self::Off => false,
            Self::Errors => {
                let turned_away = matches!(record.action, Action::Shed(_) | Action::Denied | Action::Rejected(_));
                record.failed() || record.failure.is_some() || turned_away
            }
            Self::All => true,
        }
    }
}

impl Recorder {
    /// Whether anybody could want the record of a request that begins now; its end decides.
    pub(crate) fn may_want(&self, sampled: bool) -> bool {
        let Wanted { spans, access_log, .. } = self.wanted.get();
        (spans && sampled) || access_log != AccessLog::Off || self.taps.load(Relaxed) > 0
    }

    /// From now on records are for these.
    pub(crate) fn obey(&self, wanted: Wanted) {
        self.wanted.set(wanted);
    }

    /// Leaves a record if anybody wants it; never waits.
    pub(crate) fn record(&self, mut record: SpanRecord, tally: &Tally) {
        let wanted = self.wanted.get();
        record.trace.sampled &= wanted.spans;
        record.log = wanted.logs(&record);
        let (span, log) = (record.trace.sampled, record.log);
        if !span && !log && self.taps.load(Relaxed) == 0 {
            return;
        }
        add(&tally.spans_recorded, usize::from(span));
        let mut ring = self.ring.borrow_mut();
        if ring.push(record).is_err() {
            tally.lose(Loss::RingFull, usize::from(span), usize::from(log));
        }
        // once on the way up: a wake of another thread is a system call
        let half = ring.buffer().capacity() / 2;
        if ring.slots() == half {
            self.wake.notify_one();
        }
    }
}

impl Gatherer {
    pub(crate) fn new(
        Rings { rings, wake }: Rings,
        in_force: watch::Receiver<InForce>,
        taps: Arc<Taps>,
        tally: Arc<Tally>,
    ) -> Self {
        Self { rings, wake, exporter: None, in_force, taps, tally }
    }

    /// From now on records go to this exporter; what there was before goes to the one before.
    pub(crate) fn export_to(&mut self, exporter: Option<mpsc::Sender<SpanRecord>>) {
        if self.exporter.is_some() {
            self.gather();
        }
        self.exporter = exporter;
    }

    /// Gathers until `stop`; when it returns the rings are empty.
    pub(crate) async fn run(&mut self, stop: &CancellationToken) {
        loop {
            let stopping = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = self.wake.notified() => false,
                () = tokio::time::sleep(LOOK) => false,
            };
            self.gather();
            if stopping {
                return;
            }
        }
    }

    fn gather(&mut self) {
        let access_log = self.in_force.borrow().access_log.clone();
        let mut rings = std::mem::take(&mut self.rings);
        for ring in &mut rings {
            while let Ok(record) = ring.pop() {
                self.hand_on(record, access_log.as_deref());
            }
        }
        self.rings = rings;
    }

    fn hand_on(&self, record: SpanRecord, access_log: Option<&LogWriter>) {
        self.taps.show(&record);
        match access_log {
            Some(access_log) if record.log => access_log.write(&record),
            // a reload began or ended the access log while it was in the ring
            None if record.log && self.exporter.is_none() => add(&self.tally.log_lines_dropped, 1),
            _ => {}
        }
        let (span, log) = (record.trace.sampled, record.log);
        let Some(exporter) = self.exporter.as_ref().filter(|_| span || log) else {
            // a reload ended the export while it was in the ring
            return self.tally.lose(Loss::Stopped, usize::from(span), 0);
        };
        match exporter.try_send(record) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.tally.lose(Loss::QueueFull, usize::from(span), usize::from(log)),
            // the exporter has given up
            Err(TrySendError::Closed(_)) => self.tally.lose(Loss::Stopped, usize::from(span), usize::from(log)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::wire::tests::{config, record, workload};

    #[test]
    fn what_finds_no_room_is_counted_by_where_there_was_none() {
        let workload = workload();
        let config = Telemetry { otlp: Some("http://127.0.0.1:1".into()), queue_records: 4, ..Telemetry::default() };
        let (taps, tally) = (Arc::default(), workload.tally.clone());
        let (recorders, rings) = rings(&config, &taps, 1);
        for _ in 0..5 {
            recorders[0].record(record(&workload), &tally);
        }
        let (queue, queued) = mpsc::channel(1);
        let (_reloaded, in_force) = watch::channel(InForce::open(Arc::new(self::config()), None, &tally).unwrap());
        let mut gatherer = Gatherer::new(rings, in_force, Arc::new(Taps::new(taps)), tally.clone());
        gatherer.export_to(Some(queue));
        gatherer.gather();
        let lost = || tally.lost().filter(|(_, counts)| counts[0] > 0).collect::<Vec<_>>();
        assert_eq!(lost(), [(Loss::RingFull, [1, 1]), (Loss::QueueFull, [3, 3])]);
        drop(queued);
        recorders[0].record(record(&workload), &tally);
        gatherer.gather();
        let counters = tally.read();
        assert_eq!((counters.spans_dropped, counters.logs_dropped), (5, 5), "the exporter is gone");
    }
}
