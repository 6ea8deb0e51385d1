//! SQL that shows what a finding rests on, over the table `spans` and a range of time: what `docs/sql.md` documents.

use std::ops::Range;

use weir_schema::UnixNanos;

use crate::literal::{text, within};

/// Requests that a service serves, and not calls it makes.
const SERVED: &str = "kind IN ('server', 'consumer')";

/// Who a client span calls, as it says itself.
const PEER: &str = "coalesce(peer_service, db_system || coalesce(' ' || nullif(server_address, ''), ''), messaging_system, server_address)";

/// What the called refused a proxy's call, which is no failure (`spans/columns.rs`): all of 400 to 499 but what had no room or time, and the gRPC
/// statuses that blame the caller.
const REFUSED: &str = "kind = 'client' AND policy_action IS NOT NULL \
    AND (http_response_status_code BETWEEN 400 AND 499 AND http_response_status_code NOT IN (408, 425, 429) \
    OR http_response_status_code < 400 AND rpc_grpc_status_code IN (1, 3, 5, 6, 7, 9, 10, 11, 16))";

/// Attempts that proxies made before those that their spans tell of.
const HIDDEN: &str = "sum(CASE WHEN policy_action IS NULL THEN 0 ELSE coalesce(http_request_resend_count, 0) END)";

/// Requests and durations of a service, second by second.
pub(super) fn durations(service: &str, time: &Range<UnixNanos>) -> String {
    format!(
        "SELECT time_bucket('1 second', start_unix_nano) AS second, count(*) AS requests, \
         percentile(duration_ns, 0.5) / 1e6 AS duration_ms_p50, percentile(duration_ns, 0.99) / 1e6 AS duration_ms_p99 \
         FROM spans WHERE service = {} AND {SERVED} AND {} GROUP BY second ORDER BY second",
        text(service),
        within("start_unix_nano", time)
    )
}

/// The same by replica.
pub(super) fn instances(service: &str, time: &Range<UnixNanos>) -> String {
    format!(
        "SELECT instance, count(*) AS requests, percentile(duration_ns, 0.5) / 1e6 AS duration_ms_p50, \
         percentile(duration_ns, 0.99) / 1e6 AS duration_ms_p99 FROM spans \
         WHERE service = {} AND {SERVED} AND {} GROUP BY instance ORDER BY duration_ms_p50 DESC",
        text(service),
        within("start_unix_nano", time)
    )
}

/// What fails in a service, and how often; what others refuse it is an error of its calls only.
pub(super) fn errors(service: &str, time: &Range<UnixNanos>) -> String {
    format!(
        "SELECT operation, instance, http_response_status_code, status_message, count(*) AS errors FROM spans \
         WHERE service = {} AND status = 'error' AND {} \
         AND NOT coalesce({REFUSED}, false) \
         GROUP BY operation, instance, http_response_status_code, status_message ORDER BY errors DESC",
        text(service),
        within("start_unix_nano", time)
    )
}

/// How much longer a caller waits than the callee takes, second by second.
pub(super) fn gaps(caller: &str, callee: &str, time: &Range<UnixNanos>) -> String {
    format!(
        "SELECT time_bucket('1 second', c.start_unix_nano) AS second, count(*) AS calls, \
         percentile(p.duration_ns - c.duration_ns, 0.5) / 1e6 AS gap_ms_p50 FROM spans c \
         JOIN spans p ON c.trace_id = p.trace_id AND c.parent_span_id = p.span_id \
         WHERE p.service = {} AND c.service = {} AND {} AND {} GROUP BY second ORDER BY second",
        text(caller),
        text(callee),
        within("c.start_unix_nano", time),
        within("p.start_unix_nano", time)
    )
}

/// Calls to a peer that sends no spans, second by second.
pub(super) fn calls_to_peer(caller: &str, peer: &str, time: &Range<UnixNanos>) -> String {
    format!(
        "SELECT time_bucket('1 second', start_unix_nano) AS second, count(*) AS calls, \
         sum(CASE WHEN status = 'error' THEN 1 ELSE 0 END) AS errors, percentile(duration_ns, 0.5) / 1e6 AS duration_ms_p50 \
         FROM spans WHERE service = {} AND kind IN ('client', 'producer') AND {PEER} = {} AND {} \
         GROUP BY second ORDER BY second",
        text(caller),
        text(peer),
        within("start_unix_nano", time)
    )
}

/// Attempts under one parent, the most first: those with a span, and those that a proxy counted within one.
pub(super) fn attempts(caller: &str, time: &Range<UnixNanos>) -> String {
    format!(
        "SELECT trace_id, parent_span_id, operation, count(*) + {HIDDEN} AS attempts, \
         sum(CASE WHEN status = 'error' THEN 1 ELSE 0 END) + {HIDDEN} AS errors FROM spans \
         WHERE service = {} AND kind = 'client' AND {} \
         GROUP BY trace_id, parent_span_id, operation ORDER BY attempts DESC LIMIT 20",
        text(caller),
        within("start_unix_nano", time)
    )
}

/// How often an operation made each call.
pub(super) fn calls_of(service: &str, operation: &str, time: &Range<UnixNanos>) -> String {
    format!(
        "SELECT coalesce(a.service, c.peer_service, \
         c.db_system || coalesce(' ' || nullif(c.server_address, ''), ''), c.service) AS callee, \
         coalesce(a.operation, c.operation) AS call, count(DISTINCT p.span_id) AS requests FROM spans c \
         JOIN spans p ON c.trace_id = p.trace_id AND c.parent_span_id = p.span_id \
         LEFT JOIN spans a ON a.trace_id = c.trace_id AND a.parent_span_id = c.span_id AND {} \
         WHERE p.service = {} AND p.operation = {} AND {} AND {} GROUP BY 1, 2 ORDER BY requests DESC",
        within("a.start_unix_nano", time),
        text(service),
        text(operation),
        within("c.start_unix_nano", time),
        within("p.start_unix_nano", time)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::literal::unknown_words;

    #[test]
    fn names_are_literals_whatever_is_in_them() {
        let sql = errors("o'hara' OR 1=1 --", &(5..9));
        assert!(sql.contains("service = 'o''hara'' OR 1=1 --' AND"), "{sql}");
        assert!(sql.contains("start_unix_nano >= 5 AND start_unix_nano < 9"));
    }

    /// A column that was renamed would be noticed by who asks what a finding rests on, and by no test.
    #[test]
    fn statements_name_only_what_the_tables_have() {
        let time = 5..9;
        let all = [
            durations("cart", &time),
            instances("cart", &time),
            errors("cart", &time),
            gaps("cart", "store", &time),
            calls_to_peer("cart", "redis db.example", &time),
            attempts("cart", &time),
            calls_of("cart", "Add", &time),
        ];
        let functions = ["time_bucket", "count", "percentile", "sum", "coalesce", "nullif", "false"];
        for sql in all {
            assert_eq!(unknown_words(&sql, &functions), [""; 0], "{sql}");
        }
        let renamed = "SELECT count(*), opration AS what FROM spans WHERE service = 'cart'";
        assert_eq!(unknown_words(renamed, &functions), ["opration"]);
    }
}
