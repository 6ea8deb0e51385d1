//! Ranges of a small mesh whose answer is known: `front` asks `cart`, ten times a second.

use super::*;
use crate::{
    analyzer::made::{Made, batch},
    whatif::{Change, what_if},
};

const SECOND: i64 = 1_000_000_000;
const MS: i64 = 1_000_000;

/// Requests that start in these seconds; the cart takes `cart_ms` of each, and half a millisecond more of every other.
fn requests(seconds: Range<i64>, cart_ms: i64) -> Vec<Made> {
    (seconds.start * 10..seconds.end * 10).flat_map(|number| request(number, cart_ms)).collect()
}

fn request(number: i64, cart_ms: i64) -> [Made; 3] {
    let trace = 1_000 + u128::from(number.unsigned_abs());
    let start = number * SECOND / 10;
    let cart = cart_ms * MS + number % 2 * MS / 2;
    let span = |id, parent, service: &str, kind, start, duration| Made {
        trace,
        id,
        parent,
        start,
        duration,
        service: service.into(),
        operation: "call".into(),
        kind,
        ..Made::default()
    };
    [
        span(1, 0, "front", "server", start, cart + 5 * MS),
        span(2, 1, "front", "client", start + MS, cart + 2 * MS),
        span(3, 2, "cart", "server", start + 2 * MS, cart),
    ]
}

fn by_start(mut spans: Vec<Made>) -> Vec<Made> {
    spans.sort_by_key(|span| span.start);
    spans
}

/// The report of these spans, which come in batches of so many.
fn report_of(before: &[Made], spans: &[Made], times: [Range<i64>; 2], rows: usize) -> Report {
    let recorded = Recorded {
        before: Box::new(before.chunks(rows).map(batch)),
        spans: Box::new(spans.chunks(rows).map(batch)),
        logs: Box::new(std::iter::empty()),
        metrics: Box::new(std::iter::empty()),
    };
    let [history, range] = times.map(|time| time.start * SECOND..time.end * SECOND);
    report(recorded, &history, &range, Config::default())
}

fn rates(report: &Report) -> Vec<(&str, f64)> {
    report.services.iter().map(|service| (service.service.as_str(), service.arrival_rate_per_s)).collect()
}

fn first_cause(report: &Report) -> (&str, bool) {
    let first = &report.findings[0];
    (&first.service, first.confidence > 0.8)
}

#[test]
fn a_history_before_or_after_leaves_the_range_its_windows() {
    for (history, range) in [(1_000..1_600, 1_600..1_700), (0..600, 1_600..1_700), (1_900..2_500, 1_600..1_700)] {
        let (before, spans) = (by_start(requests(history.clone(), 10)), by_start(requests(range.clone(), 40)));
        let found = report_of(&before, &spans, [history.clone(), range], 500);
        assert_eq!(rates(&found), [("cart", 10.0), ("front", 10.0)], "history {history:?}");
        assert_eq!(found.edges.len(), 1, "history {history:?}");
        assert_eq!(first_cause(&found), ("cart", true), "history {history:?}: {:?}", found.findings);
        assert_eq!(found.left_out, None);
    }
}

#[test]
fn two_incidents_of_a_range_are_both_said_by_how_sure_they_are_in_one_unit() {
    let before = by_start(requests(1_000..1_600, 10));
    let mut spans: Vec<Made> = [(1_600..1_750, 10), (1_750..2_050, 40), (2_050..2_500, 10)]
        .into_iter()
        .flat_map(|(seconds, cart_ms)| requests(seconds, cart_ms))
        .collect();
    // later the front takes 30 ms more after its call
    for span in spans.iter_mut().filter(|span| span.service == "front" && span.kind == "server") {
        if (2_200 * SECOND..2_500 * SECOND).contains(&span.start) {
            span.duration += 30 * MS;
        }
    }
    let found = report_of(&before, &by_start(spans), [1_000..1_600, 1_600..2_500], 500);
    let said: Vec<_> = found.findings.iter().take(2).map(|f| (f.service.as_str(), f.kind.as_str())).collect();
    assert!(said.contains(&("cart", "bottleneck")) && said.contains(&("front", "bottleneck")), "{:#?}", found.findings);
    let of = |service: &str| found.findings.iter().find(|finding| finding.service == service).unwrap();
    for service in ["cart", "front"] {
        // ten requests a second lose thirty milliseconds each, in pieces of which some are calm in part
        assert!(of(service).confidence > 0.8 && (40.0..310.0).contains(&of(service).score), "{:#?}", of(service));
        assert!(!of(service).action.is_empty());
    }
    assert!(of("cart").onset < of("front").onset, "{} {}", of("cart").onset, of("front").onset);
    assert!(found.findings.is_sorted_by(|a, b| a.confidence >= b.confidence));
}

/// Found with four: each was said at 0.23, for what the others lose was taken for doubt of it.
#[test]
fn faults_that_have_nothing_to_do_with_each_other_are_each_as_sure_as_alone() {
    let meshes = |count: u128, seconds: Range<i64>, cart_ms| {
        let of_one = |number: u128| {
            requests(seconds.clone(), cart_ms).into_iter().map(move |span| Made {
                trace: span.trace + 1_000_000 * number,
                service: format!("{}-{number}", span.service),
                ..span
            })
        };
        by_start((0..count).flat_map(of_one).collect())
    };
    let said = |count| {
        let (before, spans) = (meshes(count, 1_000..1_600, 10), meshes(count, 1_600..1_700, 40));
        let found = report_of(&before, &spans, [1_000..1_600, 1_600..1_700], 500);
        let carts = found.findings.into_iter().filter(|finding| finding.service.starts_with("cart"));
        carts.map(|finding| finding.confidence).collect::<Vec<f64>>()
    };
    let alone = said(1);
    for count in [2, 4] {
        let each = said(count);
        assert_eq!(each.len(), count as usize);
        assert!(each.iter().all(|confidence| (confidence - alone[0]).abs() < 0.02), "{alone:?} {each:?}");
    }
}

#[test]
fn what_began_in_the_history_and_ends_in_the_range_closes_no_window() {
    let mut before = requests(1_000..1_600, 10);
    let batch_job = Made {
        trace: 7,
        start: 1_590 * SECOND,
        duration: 90 * SECOND,
        service: "batch".into(),
        operation: "run".into(),
        ..Made::default()
    };
    before.push(batch_job);
    let spans = by_start(requests(1_600..1_700, 10));
    let found = report_of(&by_start(before), &spans, [1_000..1_600, 1_600..1_700], 500);
    assert_eq!(rates(&found)[1..], [("cart", 10.0), ("front", 10.0)]);
}

#[test]
fn what_ends_after_the_range_makes_no_window_of_it_and_a_short_range_has_one() {
    let mut spans = requests(1_603..1_645, 10);
    // a minute of windows in which only these end
    spans.extend((1..=6).map(|tens| Made {
        trace: u128::from(i64::unsigned_abs(tens)),
        start: 1_644 * SECOND,
        duration: tens * 10 * SECOND,
        operation: "export".into(),
        ..Made::default()
    }));
    let found = report_of(&[], &by_start(spans), [1_000..1_603, 1_603..1_645], 500);
    assert_eq!(rates(&found), [("cart", 10.0), ("front", 10.0)]);
    let short = report_of(&[], &requests(1_602..1_606, 10), [1_000..1_602, 1_602..1_606], 500);
    assert_eq!(rates(&short), [("cart", 4.0), ("front", 4.0)]);
}

#[test]
fn windows_do_not_depend_on_how_rows_are_cut() {
    let spans = by_start(requests(1_600..1_900, 10));
    let before = by_start(requests(1_000..1_600, 10));
    let json = |rows| {
        let found = report_of(&before, &spans, [1_000..1_600, 1_600..1_900], rows);
        serde_json::to_string(&found).unwrap()
    };
    assert_eq!(json(10), json(7_000));
}

#[test]
fn where_a_few_call_and_many_enter_is_an_entry_for_report_and_what_if() {
    // once a second a job, which nobody calls, asks the front as well
    let jobs = (1_600..1_700).flat_map(|second| {
        let start = second * SECOND + 50 * MS;
        let made = |id, parent, service: &str, kind, start, duration| Made {
            trace: u128::from(u64::try_from(second).unwrap()),
            id,
            parent,
            start,
            duration,
            service: service.into(),
            operation: "job".into(),
            kind,
            ..Made::default()
        };
        [
            made(11, 0, "job", "server", start, 9 * MS),
            made(12, 11, "job", "client", start + MS, 7 * MS),
            made(13, 12, "front", "server", start + 2 * MS, 5 * MS),
        ]
    });
    let spans: Vec<Made> = by_start(requests(1_600..1_700, 10).into_iter().chain(jobs).collect());
    let found = report_of(&[], &spans, [1_000..1_600, 1_600..1_700], 500);
    let mut entries: Vec<&str> = found.what_if.iter().map(|entry| entry.entry.as_str()).collect();
    entries.dedup();
    assert_eq!(entries, ["front", "job"]);
    let window = last_window(spans.chunks(500).map(batch), Config::default()).unwrap();
    let change = Change { service: "cart".into(), operation: None, arrivals: 1.1, servers: 0, service_time: 1.0 };
    let predicted = what_if(&window, &change).unwrap();
    let entries: Vec<&str> = predicted.entries.iter().map(|entry| entry.entry.as_str()).collect();
    assert_eq!(entries, ["front", "job"]);
}

/// Found with a report whose every entry had none, because the gateway's queue was not known.
#[test]
fn more_load_at_an_entry_is_answered_as_what_if_does_also_beside_an_unknown_queue() {
    let found = report_of(&[], &by_start(requests(1_600..1_700, 10)), [1_000..1_600, 1_600..1_700], 500);
    assert!(found.services.iter().any(|service| service.servers.is_none()));
    let spans = by_start(requests(1_600..1_705, 10));
    let window = last_window(spans.chunks(500).map(batch), Config::default()).unwrap();
    assert_eq!((window.time_unix_nano, found.what_if.len()), (1_700 * SECOND, 4));
    for more in &found.what_if {
        let change = Change {
            service: more.entry.clone(),
            operation: None,
            arrivals: more.load_factor,
            servers: 0,
            service_time: 1.0,
        };
        let asked = what_if(&window, &change).unwrap().entries.remove(0);
        assert_eq!(more.response_time_ms, asked.response_time_ms_then, "{more:?}");
        assert!(more.response_time_ms.is_some() && more.not_identified == asked.not_identified, "{more:?}");
        assert_eq!(more.not_identified, ["cart", "front"]);
    }
}

#[test]
fn the_last_window_is_one_that_spans_follow() {
    let spans = by_start(requests(1_600..1_695, 10));
    for rows in [10, 5_000] {
        let window = last_window(spans.chunks(rows).map(batch), Config::default()).unwrap();
        assert_eq!(window.time_unix_nano, 1_690 * SECOND, "in batches of {rows}");
    }
    assert!(last_window(spans[..20].chunks(5).map(batch), Config::default()).is_none());
}

#[test]
fn of_more_requests_than_have_room_a_share_is_looked_at_and_said() {
    let verdict = |room| {
        let mut incident = Incident::with_room(room);
        for (seconds, cart_ms) in [(1_000..1_600, 10), (1_600..1_700, 40)] {
            by_start(requests(seconds, cart_ms)).chunks(700).for_each(|spans| incident.add(&batch(spans)));
        }
        incident.verdict(&(1_000 * SECOND..1_600 * SECOND), &(1_600 * SECOND..1_700 * SECOND))
    };
    let (all, some) = (verdict(1_000_000), verdict(9_000));
    assert_eq!(all.sampled, None);
    assert_eq!(all.known, ["cart", "front"].map(Into::into).into(), "who was there before is not new");
    let sampled = some.sampled.unwrap();
    assert_eq!((sampled.share, sampled.of_spans), (0.25, 21_000));
    let requests = |verdict: &Verdict| verdict.ranking.requests;
    assert_eq!(requests(&all), 1_000);
    assert!((180..330).contains(&requests(&some)), "{}", requests(&some));
    let (first, of_some) = (&all.ranking.causes[0], &some.ranking.causes[0]);
    assert_eq!((first.service.as_str(), of_some.service.as_str()), ("cart", "cart"));
    assert!((of_some.lost_ms / first.lost_ms - 1.0).abs() < 0.25, "{} of {}", of_some.lost_ms, first.lost_ms);
}

#[test]
fn a_range_of_more_windows_than_are_kept_says_so() {
    let mut gathered = Gathered::default();
    for window in 1..=1_300 {
        let rate_per_s = 10.0;
        let estimate = crate::snapshot::Estimate { arrival_rate_per_s: rate_per_s, ..Default::default() };
        let service =
            crate::snapshot::ServiceView { service: "cart".into(), rate_per_s, estimate, ..Default::default() };
        let snapshot = Snapshot { time_unix_nano: window, services: vec![service], ..Snapshot::default() };
        gathered.take(snapshot, &(0..2_000));
    }
    let verdict = Verdict::default();
    let report = Report::of(gathered, verdict);
    assert_eq!(report.left_out, Some(LeftOut { requests: None, windows_every: 4 }));
    assert_eq!(rates(&report), [("cart", 10.0)]);
}
