//! Requests around a restart: none is judged twice, and none is torn.

use super::SECOND;
use crate::{
    config::Config,
    findings::{Findings, SavedFindings},
    spans::Span,
};

#[test]
fn what_was_judged_before_a_restart_is_not_judged_again_and_what_goes_over_it_is_whole() {
    let mut findings = Findings::new(&Config::default());
    findings.restore(SavedFindings::default(), Some(100 * SECOND));
    for second in 0..120 {
        let trace = 1 + second as u128;
        findings.push(&Span { trace, id: 1, start: second * SECOND, duration_ns: SECOND / 2, ..Span::default() });
    }
    // one that began before and ends after, and what it called before
    let long = Span { trace: 999, id: 1, start: 90 * SECOND, duration_ns: 15 * SECOND, ..Span::default() };
    findings.push(&Span { id: 2, parent: 1, duration_ns: 5 * SECOND, ..long });
    findings.push(&long);
    let judged = findings.requests(110 * SECOND);
    assert_eq!(judged.len(), 11);
    assert!(judged.iter().all(|spans| spans[0].end() >= 95 * SECOND));
    assert!(judged.iter().any(|spans| spans.len() == 2));
    assert_eq!(findings.requests(121 * SECOND).len(), 10, "and all later ones in their turn");
}
