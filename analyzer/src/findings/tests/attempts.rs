//! Each attempt of a call counts once, whoever tells of it: a span of its own, or the count of a proxy's span.

use crate::{
    findings::facts::Facts,
    spans::{Side, Span},
};

const CALLER: u32 = 10;
const CALLEE: u32 = 11;

/// One attempt as a client span tells of it: whether it failed, attempts within it, whether it says it is a repeat.
type Attempt = (bool, u16, bool);

/// Calls, retries and errors of a request that calls so; each attempt is answered.
/// Calls, retries and errors.
type Counts = (u32, u32, u32);

fn counted(attempts: &[Attempt]) -> Counts {
    let server = |id, parent, service, start| Span {
        trace: 1,
        id,
        parent,
        start,
        duration_ns: 5,
        service,
        operation: 7,
        side: Side::Server,
        ..Span::default()
    };
    let mut spans = vec![Span { duration_ns: 1_000, ..server(1, 0, CALLER, 0) }];
    for (number, (error, repeats, is_repeat)) in (1..).zip(attempts) {
        let (id, start, error) = (10 * number, 20 * number as i64, *error);
        let client = Span { side: Side::Client, duration_ns: 9, ..server(id, 1, CALLER, start) };
        spans.push(Span { error, repeats: *repeats, is_repeat: *is_repeat, ..client });
        // the callee saw every attempt, those within one client span too
        let answers =
            (0..=u64::from(*repeats)).map(|answer| Span { error, ..server(id + 1 + answer, id, CALLEE, start) });
        spans.extend(answers);
    }
    let facts = Facts::of(&[spans]);
    let calls = &facts.calls[&(CALLER, CALLEE)];
    (calls.calls, calls.retries, calls.errors)
}

#[test]
fn an_attempt_counts_once() {
    let cases: [(&str, &[Attempt], Counts); 7] = [
        ("no repeat", &[(false, 0, false)], (1, 0, 0)),
        ("spans without a word", &[(true, 0, false), (true, 0, false), (false, 0, false)], (3, 2, 2)),
        ("spans that say so", &[(true, 0, false), (true, 0, true), (false, 0, true)], (3, 2, 2)),
        ("one whose first was lost", &[(false, 0, true)], (1, 1, 0)),
        ("a proxy that succeeds at last", &[(false, 2, false)], (3, 2, 2)),
        ("a proxy that does not", &[(true, 2, false)], (3, 2, 3)),
        ("code that repeats over a proxy that does", &[(true, 1, false), (false, 1, false)], (4, 3, 3)),
    ];
    for (name, attempts, expect) in cases {
        assert_eq!(counted(attempts), expect, "{name}");
    }
}
