//! The same mesh in windows of ten seconds, with logs and metrics as they come: in time, late, in holes, too many.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray},
    compute::filter_record_batch,
    datatypes::{DataType, Field, Schema},
    record_batch::RecordBatch,
};

use super::{
    logs::{Said, logs},
    *,
};

const SECOND: i64 = 1_000_000_000;

/// Windows of health.
const HEALTHY: i64 = 8;

/// A mesh, what is known beside its spans, and how many windows there were.
struct Live {
    mesh: Mesh,
    causes: Causes,
    windows: i64,
}

impl Live {
    fn new(seed: u64) -> Self {
        Self { mesh: Mesh::new(seed), causes: Causes::live(100_000), windows: 0 }
    }

    /// A hundred requests, one in fifty milliseconds.
    fn window(&mut self, fault: Fault) -> Vec<Vec<Span>> {
        let mut window = self.mesh.window(100, fault);
        for (number, spans) in window.iter_mut().enumerate() {
            let shift = self.windows * 10 * SECOND + number as i64 * SECOND / 20;
            spans.iter_mut().for_each(|span| span.start += shift);
        }
        self.windows += 1;
        window
    }

    fn hear(&mut self, logs: &RecordBatch) {
        self.causes.add_logs(logs, &self.mesh.names, |_| true);
    }

    /// The parser's records from one to another of a window's, in parts of ten; those of all others come whole.
    fn hear_of_parser(&mut self, window: &[Vec<Span>], parts: Range<usize>) {
        let all = logs(window, &self.mesh.names, Said::Usual, true);
        let services = all["service"].as_string::<i32>();
        let mut of_parser = 0..;
        let number = |service: Option<&str>| (service == Some("parser")).then(|| of_parser.next()).flatten();
        let numbers: Vec<Option<usize>> = services.iter().map(number).collect();
        let count = numbers.iter().flatten().count();
        let comes = |number: &Option<usize>| number.is_none_or(|it| parts.contains(&(10 * it / count)));
        let comes: BooleanArray = numbers.iter().map(|number| Some(comes(number))).collect();
        self.hear(&filter_record_batch(&all, &comes).unwrap());
    }

    fn rank(&mut self, window: &[Vec<Span>]) -> (Ranking, Observed) {
        let time = (1_000 + HEALTHY * 10, 1_000 + self.windows * 10);
        let ranked = self.causes.rank_live(&slices(window), &self.mesh.names, (time.0 * SECOND, time.1 * SECOND));
        window.iter().for_each(|spans| self.causes.let_go(spans[0].trace));
        ranked
    }

    /// Eight windows with all their logs.
    fn healthy(mut self) -> Self {
        for _ in 0..HEALTHY {
            let window = self.window(Fault::Nothing);
            self.hear(&logs(&window, &self.mesh.names, Said::Usual, true));
            let (_, observed) = self.rank(&window);
            self.causes.remember(observed);
        }
        self
    }
}

fn nobody(ranking: &Ranking) -> bool {
    ranking.causes.iter().all(|cause| cause.confidence < SUSPICIOUS)
}

#[test]
fn a_line_that_came_before_the_window_closed_tells_what_spans_do_not() {
    for seed in 1..=3 {
        let mut live = Live::new(seed).healthy();
        let window = live.window(Fault::Nothing);
        live.hear(&logs(&window, &live.mesh.names, Said::Error, true));
        let ranking = live.rank(&window).0;
        assert_eq!(first(&ranking), ("parser", CauseKind::ChangedCalls, true), "{ranking:?}");
        assert_eq!(ranking.causes[0].harmless, 0.0, "an error is not what a new version logs");
        let shown = &ranking.causes[0].evidence[0];
        assert!(shown.text.contains("the error line"), "{shown:?}");
        let sql = shown.sql.as_ref().unwrap();
        assert!(sql.contains("FROM logs") && sql.contains("'%cannot%read%word%'"), "{sql}");
        let window = live.window(Fault::Nothing);
        assert!(nobody(&live.rank(&window).0), "without its logs a window shows nothing");
    }
}

#[test]
fn what_sidecars_log_says_no_more_than_their_spans() {
    let mut live = Live::new(1).healthy();
    let window = live.window(Fault::Nothing);
    let all = logs(&window, &live.mesh.names, Said::Error, true);
    let events: ArrayRef = Arc::new(StringArray::from(vec![ACCESS_LOG; all.num_rows()]));
    let event_name = Arc::new(Field::new("event_name", DataType::Utf8, true));
    let fields: Vec<_> = all.schema().fields().iter().cloned().chain([event_name]).collect();
    let columns = all.columns().iter().cloned().chain([events]).collect();
    live.hear(&RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap());
    assert!(nobody(&live.rank(&window).0));
}

/// What comes of the parser's records of a window.
#[derive(Debug)]
enum Comes {
    /// Nothing after the half.
    Half,
    /// All but the middle, which is said to be lost.
    Hole,
    /// The last part after the window closed.
    Late,
}

#[test]
fn what_has_not_come_is_not_taken_for_silence() {
    for (seed, comes) in (1..=3).flat_map(|seed| [Comes::Half, Comes::Hole, Comes::Late].map(|comes| (seed, comes))) {
        let mut live = Live::new(seed).healthy();
        for _ in 0..3 {
            let window = live.window(Fault::Nothing);
            match comes {
                Comes::Half => live.hear_of_parser(&window, 0..5),
                Comes::Hole => {
                    live.hear_of_parser(&window, 0..3);
                    live.causes.lost_logs();
                    live.hear_of_parser(&window, 7..10);
                }
                Comes::Late => live.hear_of_parser(&window, 0..7),
            }
            let (ranking, observed) = live.rank(&window);
            assert!(nobody(&ranking), "{comes:?}, seed {seed}: {ranking:?}");
            live.causes.remember(observed);
            if matches!(comes, Comes::Late) {
                live.hear_of_parser(&window, 7..10);
            }
        }
        // and it made nothing else usual
        let window = live.window(Fault::Nothing);
        live.hear(&logs(&window, &live.mesh.names, Said::NoEnd, true));
        let ranking = live.rank(&window).0;
        assert_eq!(first(&ranking), ("parser", CauseKind::ChangedCalls, true), "{comes:?}, seed {seed}: {ranking:?}");
        assert_eq!(ranking.causes[0].harmless, 1.0, "only a line is otherwise");
    }
}

#[test]
fn a_line_that_is_gone_with_a_call_is_not_harmless() {
    let mut live = Live::new(1).healthy();
    let window = live.window(Fault::Returns);
    live.hear(&logs(&window, &live.mesh.names, Said::TaggerNoEnd, true));
    let ranking = live.rank(&window).0;
    assert_eq!(first(&ranking), ("tagger", CauseKind::ChangedCalls, true), "{ranking:?}");
    assert!(ranking.causes[0].harmless < 0.1, "{ranking:?}");
}

#[test]
fn logs_that_begin_accuse_nobody() {
    for seed in 1..=3 {
        let mut live = Live::new(seed);
        for number in 0..HEALTHY {
            let window = live.window(Fault::Nothing);
            // a server starts, or a service is told to log, in the middle of a window
            match number {
                0..3 => live.hear_of_parser(&window, 0..0),
                3 => live.hear_of_parser(&window, 8..10),
                _ => live.hear_of_parser(&window, 0..10),
            }
            let (ranking, observed) = live.rank(&window);
            assert!(nobody(&ranking), "window {number}, seed {seed}: {ranking:?}");
            live.causes.remember(observed);
        }
    }
}

#[test]
fn a_flood_of_lines_is_bounded_counted_and_over_when_it_ends() {
    let mut live = Live { causes: Causes::live(1_000), ..Live::new(1) };
    let window = live.window(Fault::Nothing);
    let all = logs(&window, &live.mesh.names, Said::Usual, true);
    live.hear(&all);
    let room = 1_000.min(all.num_rows());
    for copy in 1..=20_u128 {
        let mut foreign = window.clone();
        foreign.iter_mut().flatten().for_each(|span| span.trace |= copy << 64);
        live.hear(&logs(&foreign, &live.mesh.names, Said::Usual, true));
    }
    let dropped = live.causes.dropped().0;
    assert_eq!(dropped, (20 * all.num_rows() - (1_000 - room)) as u64);
    live.rank(&window);
    let window = live.window(Fault::Nothing);
    live.hear(&logs(&window, &live.mesh.names, Said::Usual, true));
    assert_eq!(live.causes.dropped().0, dropped, "what was ranked made room");
}

/// CPU of the tagger, at the end of each window.
fn cpu(shares: &[f64]) -> RecordBatch {
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; shares.len()])) };
    let times = (1..).map(|window| (1_000 + window * 10) * SECOND - 1).take(shares.len());
    let columns: [(&str, ArrayRef); 6] = [
        ("time_unix_nano", Arc::new(Int64Array::from_iter_values(times))),
        ("service", text("tagger")),
        ("instance", text("tagger-7f9c-x2x4z")),
        ("name", text("k8s.pod.cpu.usage")),
        ("kind", text("gauge")),
        ("value", Arc::new(Float64Array::from(shares.to_vec()))),
    ];
    let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).unwrap()
}

#[test]
fn a_pod_that_lacks_cpu_is_told_from_a_slow_network_by_its_metrics() {
    for (seed, with_metrics) in (1..=3).flat_map(|seed| [(seed, true), (seed, false)]) {
        let mut live = Live::new(seed).healthy();
        if with_metrics {
            let shares = [0.1, 0.11, 0.1, 0.12, 0.1, 0.11, 0.1, 0.1, 0.9, 0.95];
            live.causes.add_metrics(&cpu(&shares), &mut live.mesh.names);
        }
        let mut ranking = Ranking::default();
        for _ in 0..2 {
            let window = live.window(Fault::Network(20.0));
            ranking = live.rank(&window).0;
        }
        let kind = if with_metrics { CauseKind::StarvedCpu } else { CauseKind::SlowNetwork };
        assert_eq!(first(&ranking), ("tagger", kind, true), "{ranking:?}");
        let shown = &ranking.causes[0].evidence[0];
        let sql = shown.sql.as_deref().unwrap_or("");
        assert_eq!(shown.text.starts_with("CPU of tagger-7f9c-x2x4z: 0.9"), with_metrics, "{shown:?}");
        assert_eq!(sql.contains("FROM metrics WHERE lower(name) LIKE '%cpu%'"), with_metrics, "{sql}");
    }
}

#[test]
fn what_was_usual_is_usual_after_a_restart_and_what_is_not_known_any_more_accuses_nobody() {
    let restarted = |live: &Live| {
        let mut note = Vec::new();
        ciborium::into_writer(live.causes.history(), &mut note).unwrap();
        let mut causes = Causes::live(100_000);
        causes.restore(ciborium::from_reader(&note[..]).unwrap());
        causes
    };
    for seed in 1..=3 {
        let mut live = Live::new(seed).healthy();
        let known = live.causes.history().windows();
        live.causes = restarted(&live);
        assert_eq!(live.causes.history().windows(), known);
        // lines of which history knows nothing
        let window = live.window(Fault::Nothing);
        live.hear(&logs(&window, &live.mesh.names, Said::Usual, true));
        assert!(nobody(&live.rank(&window).0), "seed {seed}");
        let window = live.window(Fault::Slow(40.0));
        assert_eq!(first(&live.rank(&window).0).0, "tagger", "seed {seed}");
    }
}
