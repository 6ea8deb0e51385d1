//! A restart in the middle of a fault: the analyzer that starts anew from a checkpoint goes on as the
//! one that never stopped.

use std::collections::BTreeSet;

use super::{
    made::{self, Made},
    tests::{Row, batch, chain, config},
    *,
};
use crate::{checkpoint::Foreign, snapshot::FindingView};

const MS: i64 = 1_000_000;

/// What is found after each step, from `from` on.
fn go_on(analyzer: &mut Analyzer, rows: &[Row], from: i64) -> Vec<Vec<FindingView>> {
    let end = |row: &Row| row.start + row.duration;
    let mut found = Vec::new();
    let rest: Vec<&Row> = rows.iter().filter(|row| end(row) >= from).collect();
    for chunk in rest.chunk_by(|a, b| end(a) / (250 * MS) == end(b) / (250 * MS)) {
        analyzer.push(&batch(chunk.iter().copied()));
        let step = analyzer.step(end(chunk[0]));
        found.extend(step.snapshot.map(|snapshot| snapshot.findings));
    }
    found
}

/// Rows until a moment go in as they end.
fn run_until(analyzer: &mut Analyzer, rows: &[Row], until: i64) {
    let before: Vec<&Row> = rows.iter().filter(|row| row.start + row.duration < until).collect();
    go_on(analyzer, &before.into_iter().cloned().collect::<Vec<_>>(), 0);
    analyzer.step(until);
}

/// As a start does it: the history, then the stored spans of the last minutes.
fn restarted(bytes: &[u8], rows: &[Row], at: i64) -> Analyzer {
    let mut analyzer = Analyzer::new(config(false));
    analyzer.restore_history(bytes).unwrap();
    let mut stored: Vec<&Row> = rows.iter().filter(|row| row.start + row.duration < at).collect();
    stored.sort_by_key(|row| row.start);
    analyzer.restore(&batch(stored), &BTreeSet::new(), at - 120_000 * MS);
    analyzer
}

#[test]
fn a_restart_in_the_middle_of_a_fault_changes_nothing() {
    for (seed, at) in [(1, 17_000), (2, 21_000), (3, 26_500)] {
        println!("seed {seed}, restarted at {at} ms");
        let at = at * MS;
        let rows = chain(seed, 34, 80.0, |second| if second >= 16 { 4.0 } else { 1.0 });
        let mut stayed = Analyzer::new(config(false));
        run_until(&mut stayed, &rows, at);
        let bytes = stayed.checkpoint().unwrap();
        assert!(bytes.len() < 200_000, "{} bytes of four services", bytes.len());
        let mut anew = restarted(&bytes, &rows, at);
        assert!(anew.usual_rates.len() == 4 && anew.usual_rates == stayed.usual_rates);
        let ranked = stayed.findings.ranked();
        assert!(
            ranked > 0 && anew.findings.ranked() == ranked.min(20),
            "{ranked} windows that causes are ranked against"
        );
        let (expected, found) = (go_on(&mut stayed, &rows, at), go_on(&mut anew, &rows, at));
        assert!(expected.iter().flatten().any(|finding| finding.service == "tagger"));
        assert_eq!(expected.len(), found.len(), "a window was closed twice or never");
        let essence = |all: &[Vec<FindingView>]| -> Vec<Vec<_>> {
            let of = |f: &FindingView| (f.finding_id.clone(), f.service.clone(), f.state, f.onset_unix_nano, f.rank);
            all.iter().map(|findings| findings.iter().map(of).collect()).collect()
        };
        assert_eq!(essence(&expected), essence(&found));
    }
}

/// Who crashed between a finding and its delivery told nobody; who tells again says the same id.
#[test]
fn after_a_crash_alerts_are_told_again_by_the_same_id() {
    let rows = chain(1, 34, 80.0, |second| if second >= 16 { 4.0 } else { 1.0 });
    let at = 32_000 * MS;
    let mut stayed = Analyzer::new(config(false));
    run_until(&mut stayed, &rows, at);
    let told: Vec<String> = stayed.findings.open().map(|finding| format!("alert-{}", finding.finding_id)).collect();
    let anew = restarted(&stayed.checkpoint().unwrap(), &rows, at);
    let again: Vec<String> = anew.alerts_since(at - 600_000 * MS).into_iter().map(|alert| alert.alert_id).collect();
    assert!(!told.is_empty() && told == again, "{told:?} {again:?}");
}

#[test]
fn stations_stay_identified() {
    let rows = chain(9, 60, 150.0, |_| 1.0);
    let nobody_said = || Analyzer::new(Config { servers: BTreeMap::new(), ..config(false) });
    let mut stayed = nobody_said();
    run_until(&mut stayed, &rows, 55_000 * MS);
    let mut anew = nobody_said();
    anew.restore_history(&stayed.checkpoint().unwrap()).unwrap();
    let step = {
        let rest: Vec<&Row> = rows.iter().filter(|row| row.start >= 55_000 * MS).collect();
        anew.push(&batch(rest));
        anew.step(58_500 * MS)
    };
    for service in step.snapshot.unwrap().services {
        assert_eq!(service.estimate.servers, Some(4), "{}: {:?}", service.service, service.estimate.reason);
    }
}

/// Found with a time to saturation that was gone for ten minutes after each start.
#[test]
fn growth_goes_on_over_a_restart() {
    use rand::{SeedableRng, rngs::StdRng};

    use crate::queueing::simulation::Law;

    // 20 a second and 0.2 more each second, at one server that takes 10 ms
    let mut random = StdRng::seed_from_u64(21);
    let (mut now, mut free, mut requests) = (0.0_f64, 0.0_f64, Vec::new());
    while now < 200.0 {
        now += Law::Exponential.sample(&mut random) / (20.0 + 0.2 * now);
        free = free.max(now) + 0.01 * Law::Exponential.sample(&mut random);
        let (start, end) = ((now * 1e9) as i64, (free * 1e9) as i64);
        requests.push(Made { trace: requests.len() as u128 + 1, start, duration: end - start, ..Made::default() });
    }
    let servers = [("front".to_owned(), 1)];
    let config = || Config { servers: servers.clone().into(), ..Config::default() };
    let second = |second: i64| second * 1_000 * MS;
    let between =
        |from: i64, to: i64| requests.iter().filter(move |made| (second(from)..second(to)).contains(&made.end()));
    let mut stayed = Analyzer::new(config());
    stayed.push(&made::batch(between(0, 105)));
    stayed.step(second(105));
    let mut anew = Analyzer::new(config());
    anew.restore_history(&stayed.checkpoint().unwrap()).unwrap();
    anew.restore(&made::batch(between(0, 105)), &BTreeSet::new(), 0);
    let capacity = |analyzer: &mut Analyzer| {
        analyzer.push(&made::batch(between(105, 185)));
        let snapshot = analyzer.step(second(183)).snapshot.unwrap();
        snapshot.services[0].estimate.capacity.clone().unwrap()
    };
    let (expected, found) = (capacity(&mut stayed), capacity(&mut anew));
    println!("seed 21: {expected:?} {found:?}");
    assert_eq!(found.growth_per_s_per_h, expected.growth_per_s_per_h);
    assert_eq!(found.growth_seen_s, expected.growth_seen_s);
    let until = found.time_to_saturation_s.unwrap() / expected.time_to_saturation_s.unwrap();
    assert!((until - 1.0).abs() < 0.05, "{until}");
}

#[test]
fn requests_of_model_servers_are_in_the_note() {
    let streamed = |second: i64| Made {
        trace: second.unsigned_abs().into(),
        start: second * 1_000 * MS,
        tokens: Some(20),
        first_token: Some(MS / 2),
        ..Made::default()
    };
    let requests: Vec<Made> = (1..100).map(streamed).collect();
    let mut stayed = Analyzer::new(Config::default());
    stayed.push(&made::batch(&requests));
    stayed.step(105_000 * MS);
    let mut anew = Analyzer::new(Config::default());
    anew.restore_history(&stayed.checkpoint().unwrap()).unwrap();
    let note = |analyzer: &Analyzer| serde_json::to_string(&analyzer.windows.save_lm()).unwrap();
    assert!(note(&stayed).len() > 90 * 40, "{}", note(&stayed));
    assert_eq!(note(&anew), note(&stayed));
}

#[test]
fn what_is_not_ours_is_refused_and_changes_nothing() {
    let mut analyzer = Analyzer::new(config(false));
    run_until(&mut analyzer, &chain(1, 10, 80.0, |_| 1.0), 9_000 * MS);
    let bytes = analyzer.checkpoint().unwrap();
    let mut fresh = Analyzer::new(config(false));
    assert_eq!(fresh.restore_history(b"{}"), Err(Foreign::NotOurs));
    assert_eq!(fresh.restore_history(b""), Err(Foreign::NotOurs));
    let mut other = bytes.clone();
    other[8] = 99;
    let refused = fresh.restore_history(&other).unwrap_err();
    assert_eq!(refused.to_string(), "the history is of version 99, and this weir reads version 3");
    for length in (8..bytes.len()).step_by(1 + bytes.len() / 97) {
        assert_eq!(fresh.restore_history(&bytes[..length]), Err(Foreign::Damaged), "{length} bytes of it");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(fresh.restore_history(&longer), Err(Foreign::Damaged));
    let mut config = config(false);
    config.window_ms = 5_000;
    let wrong = Analyzer::new(config).restore_history(&bytes);
    assert_eq!(wrong, Err(Foreign::Window { noted_ms: 2_000, configured_ms: 5_000 }));
    assert!(fresh.usual_rates.is_empty() && fresh.names.find("tagger").is_none());
    // bytes turned over somewhere: refused, or of the same form, never a panic
    for place in (12..bytes.len()).step_by(1 + bytes.len() / 499) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0xff;
        let _ = Analyzer::new(super::tests::config(false)).restore_history(&damaged);
    }
    assert_eq!(fresh.restore_history(&bytes), Ok(()));
    assert_eq!(fresh.usual_rates, analyzer.usual_rates);
}
