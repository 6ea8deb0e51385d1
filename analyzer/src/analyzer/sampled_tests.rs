//! What a mesh sends that is not as it should be: sampled streams, clocks that are wrong, names without end,
//! clients and peers that send nothing.

use super::{
    made::{Made, batch},
    *,
};
use crate::snapshot::{EdgeView, ServiceView};

const SECOND: i64 = 1_000_000_000;
const MS: i64 = 1_000_000;
const START: i64 = 1_000 * SECOND;

fn config() -> Config {
    Config { window_ms: 2_000, lateness_ms: 500, ..Config::default() }
}

/// Requests at the front that call the back through a client span, 10 ms apart.
fn requests(count: i64, change: impl Fn(i64, &mut [Made; 3])) -> Vec<Made> {
    let request = |n: i64| {
        let (trace, id, start) = (n as u128 + 1, n as u64 * 10 + 1, START + n * 10 * MS);
        let span = |id, parent, service: &str, kind, start, duration| Made {
            trace,
            id,
            parent,
            start,
            duration,
            service: service.into(),
            kind,
            ..Made::default()
        };
        let mut spans = [
            span(id, 0, "front", "server", start, 8 * MS),
            span(id + 1, id, "front", "client", start + MS, 5 * MS),
            span(id + 2, id + 1, "back", "server", start + 2 * MS, 3 * MS),
        ];
        change(n, &mut spans);
        spans
    };
    (0..count).flat_map(request).collect()
}

fn last_of_one_push(spans: &[Made], until: i64) -> (Analyzer, Snapshot) {
    let mut analyzer = Analyzer::new(config());
    analyzer.push(&batch(spans));
    let snapshot = analyzer.step(until).snapshot.unwrap();
    (analyzer, snapshot)
}

fn service<'a>(snapshot: &'a Snapshot, name: &str) -> &'a ServiceView {
    snapshot.services.iter().find(|service| service.service == name).unwrap_or_else(|| panic!("no {name}"))
}

fn edge<'a>(snapshot: &'a Snapshot, caller: &str, callee: &str) -> &'a EdgeView {
    let found = snapshot.edges.iter().find(|edge| (edge.caller.as_str(), edge.callee.as_str()) == (caller, callee));
    found.unwrap_or_else(|| panic!("no edge from {caller} to {callee}"))
}

#[test]
fn a_sampled_stream_keeps_its_rates_and_loses_its_queue() {
    // one trace of four is there
    let all = requests(200, |_, spans| spans.iter_mut().for_each(|span| span.weight = Some(4.0)));
    let kept: Vec<Made> = all.into_iter().filter(|span| span.trace % 4 == 0).collect();
    let mut with_servers = config();
    with_servers.servers = [("front".to_owned(), 2), ("back".to_owned(), 2)].into();
    let mut analyzer = Analyzer::new(with_servers);
    analyzer.push(&batch(&kept));
    let snapshot = analyzer.step(START + 2_500 * MS).snapshot.unwrap();
    let back = service(&snapshot, "back");
    assert_eq!(back.rate_per_s, 100.0, "200 requests in 2 s, a quarter of them seen");
    assert_eq!(edge(&snapshot, "front", "back").rate_per_s, 100.0);
    assert!((back.in_flight - 0.3).abs() < 1e-9 && (back.duration_ms_mean - 3.0).abs() < 1e-9);
    assert_eq!((back.estimate.servers, back.estimate.ca2), (None, None));
    let reason = back.estimate.reason.as_deref().unwrap();
    assert!(reason.starts_with("not identifiable: sampled, the spans of 25 %"), "{reason}");
    let last = analyzer.finish();
    let counts = |table: Table| -> i64 {
        use arrow::{array::AsArray, datatypes::Int64Type};
        let of = last.rows.iter().filter(|rows| rows.table == table);
        of.flat_map(|rows| rows.rows["count"].as_primitive::<Int64Type>().values().to_vec()).sum()
    };
    assert_eq!((counts(Table::Operations), counts(Table::Edges)), (600, 200));
}

#[test]
fn a_clock_that_is_wrong_closes_no_window_and_is_counted() {
    let mut spans = requests(400, |n, spans| {
        spans.iter_mut().for_each(|span| span.received = START + n * 10 * MS + 20 * MS);
    });
    let right = spans.len() as u64;
    for n in 0..50_000 {
        // a year ahead, each a minute further than the one before, and some at the end of time
        let start = if n % 100 == 0 { i64::MAX - n } else { START + 365 * 86_400 * SECOND + n * 60 * SECOND };
        spans.push(Made { trace: 1 << 100, id: n as u64 + 1, start, received: START, ..Made::default() });
    }
    let mut analyzer = Analyzer::new(config());
    let mut rates = Vec::new();
    for chunk in spans.chunks(5_000) {
        analyzer.push(&batch(chunk));
    }
    for tick in 0..20 {
        let step = analyzer.step(START + tick * 250 * MS);
        rates.extend(step.snapshot.map(|snapshot| service(&snapshot, "front").rate_per_s));
    }
    assert_eq!(rates, [100.0, 100.0]);
    let counters = analyzer.last_snapshot.as_ref().unwrap().counters;
    assert_eq!((counters.skewed, counters.late, counters.evicted), (50_000, 0, 0));
    assert_eq!(counters.spans, right + 50_000);
    assert!(analyzer.rollup.minutes().len() < 10, "rows of minutes that are far ahead are written as they come");
    assert!(analyzer.newest < START + 120 * SECOND);
    // one that is late is in the rollups only
    analyzer.push(&batch(&[Made { trace: 9 << 90, received: START + 5 * SECOND, start: START, ..Made::default() }]));
    analyzer.step(START + 20 * SECOND);
    assert_eq!(analyzer.windows.late, 1);
}

#[test]
fn a_million_operation_names_do_not_exhaust_memory_nor_hide_a_service() {
    let mut analyzer = Analyzer::new(config());
    let mut id = 0;
    for part in 0..25 {
        let flood = (0..4_000).map(|n| {
            id += 1;
            let operation = format!("GET /user/{}", part * 4_000 + n);
            Made {
                trace: u128::from(id),
                id,
                start: START + id as i64,
                service: "hostile".into(),
                operation,
                ..Made::default()
            }
        });
        analyzer.push(&batch(&flood.collect::<Vec<_>>()));
    }
    analyzer.push(&batch(&requests(10, |_, _| {})));
    let step = analyzer.step(START + 3 * SECOND);
    let snapshot = step.snapshot.unwrap();
    let hostile = service(&snapshot, "hostile");
    assert_eq!(hostile.rate_per_s, 50_000.0, "no request is lost");
    assert!(hostile.operations.len() <= 1_001, "{}", hostile.operations.len());
    assert!(hostile.operations.iter().any(|operation| operation.operation == "(other)"));
    assert_eq!(service(&snapshot, "back").rate_per_s, 5.0);
    assert_eq!(snapshot.counters.names_refused, 100_000 - 50_000 + 1, "and one more of the good operation");
}

#[test]
fn who_sends_no_spans_is_a_node_and_who_does_is_no_second_one() {
    let spans = requests(4_000, |n, [front, client, back]| {
        // a quarter of the requests come from an uninstrumented client that passes a context on
        front.parent = if n % 4 == 0 { 7 } else { 0 };
        // another quarter from one that the proxy knows by name
        front.peer = (n % 4 == 1).then(|| "shop".into());
        // the front calls the back at an address; of one call in ten the back's span is lost
        client.address = Some("back.local".into());
        if n % 10 == 0 {
            (back.parent, back.trace) = (0, back.trace | 1 << 99);
        }
        // and every fifth request a host outside
        if n % 5 == 3 {
            (back.kind, back.service, back.parent) = ("client", "front".into(), front.id);
            (back.address, client.address) = (Some("pay.example".into()), None);
            client.kind = "internal";
        }
    });
    let (_, snapshot) = last_of_one_push(&spans, START + 38_700 * MS);
    let nodes: Vec<_> = snapshot.services.iter().map(|s| (s.service.as_str(), s.kind)).collect();
    let (external, service_kind) = (NodeKind::External, NodeKind::Service);
    let expected = [
        ("back", service_kind),
        ("front", service_kind),
        ("pay.example", external),
        ("shop", external),
        ("unknown client", external),
    ];
    assert_eq!(nodes, expected, "back.local is where the back answers");
    for caller in ["unknown client", "shop"] {
        let edge = edge(&snapshot, caller, "front");
        assert_eq!((edge.rate_per_s, edge.caller_kind), (25.0, external), "{caller}");
    }
    assert_eq!(edge(&snapshot, "front", "pay.example").rate_per_s, 20.0);
    let back = service(&snapshot, "back");
    assert_eq!((back.dominator.as_deref(), &back.blast_radius.services[..]), (None, &["front".to_owned()][..]));
    assert_eq!(service(&snapshot, "pay.example").dominator.as_deref(), Some("front"));
}

#[test]
fn traces_say_which_requests_need_a_service_and_which_wait_for_it() {
    let spans = requests(400, |n, [front, client, back]| {
        front.operation = if n % 4 == 0 { "GET /cart".into() } else { "GET /".into() };
        if n % 4 > 0 {
            // only the cart needs the back; others call a cache, asynchronously
            (client.kind, back.service, back.parent) = ("internal", "cache".into(), front.id);
            (back.start, back.duration) = (front.start + 7 * MS, 5 * MS);
        }
    });
    let (_, snapshot) = last_of_one_push(&spans, START + 3 * SECOND);
    let back = service(&snapshot, "back");
    assert_eq!((back.blast_radius.request_share, back.blast_radius.critical_share), (Some(0.25), Some(0.25)));
    assert_eq!((back.blast_radius.upstream, back.visits_per_request), (1, Some(0.25)));
    let entry = &back.entries[0];
    assert_eq!((entry.service.as_str(), entry.operation.as_deref()), ("front", Some("GET /cart")));
    assert_eq!((entry.share, entry.visits_per_request, entry.requests_per_s), (Some(1.0), 1.0, 25.0));
    assert_eq!((back.entries.len(), back.dominator.as_deref()), (1, Some("front")));
    let front = service(&snapshot, "front");
    assert_eq!((front.blast_radius.request_share, front.dominator.clone(), front.entries.len()), (Some(1.0), None, 2));
    assert_eq!(edge(&snapshot, "front", "back").calls_per_request, Some(0.25));
    assert_eq!(edge(&snapshot, "front", "back").gap_ms_p50.map(f64::round), Some(2.0));
    let cache = service(&snapshot, "cache");
    let need = cache.blast_radius.request_share.unwrap();
    assert!((0.74..=0.75).contains(&need), "{need}");
}

#[test]
fn a_clock_that_was_a_day_ahead_is_forgotten_once_it_is_right() {
    let day = 86_400 * SECOND;
    let at = |later: i64| {
        requests(400, |_, spans| {
            spans.iter_mut().for_each(|span| {
                (span.trace, span.start) = (span.trace | (later as u128) << 64, span.start + later);
                span.received = span.end();
            });
        })
    };
    let mut analyzer = Analyzer::new(config());
    analyzer.push(&batch(&at(day)));
    assert!(analyzer.step(START + day + 3 * SECOND).snapshot.is_some());
    analyzer.set_clock(START + 9 * SECOND);
    analyzer.push(&batch(&at(10 * SECOND)));
    let snapshot = analyzer.step(START + 13 * SECOND).snapshot.unwrap();
    assert_eq!(service(&snapshot, "front").rate_per_s, 100.0);
    assert_eq!(analyzer.windows.late, 0);
    assert!(analyzer.received_until() < START + 20 * SECOND, "what was received since a crash is found by this");
}

#[test]
fn what_was_usual_of_names_that_nobody_uses_goes_with_them() {
    let mut analyzer = Analyzer::new(config());
    let one = |hour: i64, service: &str| Made {
        trace: hour as u128 + 1,
        id: service.len() as u64,
        start: START + hour * 3_600 * SECOND,
        service: service.into(),
        ..Made::default()
    };
    for hour in 0..30 {
        let spans: Vec<Made> = if hour == 0 { vec![one(0, "front"), one(0, "gone")] } else { vec![one(hour, "front")] };
        analyzer.push(&batch(&spans));
        analyzer.step(START + hour * 3_600 * SECOND + 5 * SECOND);
        let expected = if hour < 25 { 2 } else { 1 };
        assert_eq!(analyzer.usual_rates.len(), expected, "after {hour} hours");
    }
}

#[test]
fn numbers_at_the_ends_of_their_range_stop_nothing_and_shares_stay_shares() {
    let ends = [i64::MIN, -1, 0, 1, i64::MAX - 1, i64::MAX];
    let mut spans = requests(200, |_, _| {});
    let mut id = 1 << 40;
    for (start, duration) in ends.into_iter().flat_map(|start| ends.map(|duration| (start, duration))) {
        // each calls three others that last as long and stand for as many as can be
        let root = id;
        for nth in 0..4 {
            spans.push(Made {
                trace: 1 << 90 | u128::from(root),
                id: root + nth,
                parent: if nth == 0 { 0 } else { root },
                start,
                duration,
                service: format!("hostile-{}", nth.min(1)),
                weight: Some([f64::INFINITY, f64::NAN, 1e300, 1e6][nth as usize]),
                queue_wait: Some(duration),
                tokens: Some(duration),
                first_token: Some(start),
                instance: Some("one".into()),
                ..Made::default()
            });
            id += 1;
        }
    }
    // and an hour of it where windows are looked at
    for nth in 0..8 {
        let (parent, service) = if nth == 0 { (0, "hostile-0") } else { (1 << 50, "hostile-1") };
        let (id, weight) = ((1 << 50) + nth, Some(1e6));
        let (start, duration) = (START + SECOND - 3_600 * SECOND, 3_600 * SECOND);
        spans.push(Made { trace: 5, id, parent, start, duration, service: service.into(), weight, ..Made::default() });
    }
    let mut analyzer = Analyzer::new(config());
    analyzer.push(&batch(&spans));
    let mut edges = Vec::new();
    for step in [analyzer.step(START + 2_500 * MS), analyzer.finish()] {
        assert!(step.rows.iter().all(|rows| rows.rows.num_rows() > 0));
        edges.extend(step.snapshot.into_iter().flat_map(|snapshot| snapshot.edges));
    }
    assert!(edges.iter().any(|edge| edge.callee == "hostile-1" && edge.rate_per_s > 1e6));
    assert!(edges.iter().filter_map(|edge| edge.critical_share).all(|share| (0.0..=1.0).contains(&share)));
}
