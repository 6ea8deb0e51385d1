//! `operations` and `edges` are exact: they equal a self-join of the distinct stored spans, whatever
//! was sent twice, late or out of order, and wherever the server was killed meanwhile.
//!
//! Event times are years ago: minutes are over as soon as their spans came, so they close at the next
//! tick, and further spans of the same minute make further rows. `TEST_KILLS` sets how many kills
//! (default 3); the seed is printed.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::trace::v1::Span;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::support::{Process, client, request, send, server, span, sql};

const SERVICES: [&str; 4] = ["gateway", "cart", "stock", "payment"];
const MINUTE_NS: u64 = weir_schema::MINUTE_NS as u64;
const START: u64 = 1_700_000_040_000_000_000;

const OPERATIONS: &str = "SELECT minute_unix_nano, service, operation, kind, sum(count) AS n, sum(error_count) AS e \
     FROM operations GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4";

const DISTINCT: &str = "SELECT DISTINCT trace_id, span_id, parent_span_id, start_unix_nano, service, operation, kind, status \
     FROM spans";

const EDGES: &str = "SELECT minute_unix_nano, caller, callee, callee_kind, sum(count) AS n FROM edges \
     GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4";

/// Four spans of a trace: two servers, a client between them, and a client of a database.
fn trace(random: &mut StdRng, trace: u128) -> Vec<(&'static str, Span)> {
    let start = START + random.random_range(0..4 * MINUTE_NS);
    let (caller, callee) = (random.random_range(0..4), random.random_range(0..4));
    let id = u64::try_from(trace).unwrap() * 10;
    let mut spans = vec![
        (SERVICES[caller], span(trace, id + 1, 0, "GET /", start, 900_000)),
        (SERVICES[caller], span(trace, id + 2, id + 1, "call", start + 1_000, 800_000)),
        (SERVICES[callee], span(trace, id + 3, id + 2, "serve", start + 2_000, 700_000)),
        (SERVICES[callee], span(trace, id + 4, id + 3, "SELECT", start + 3_000, 600_000)),
    ];
    spans[1].1.kind = 3;
    spans[3].1.kind = 3;
    spans[3].1.attributes = vec![text("db.system.name", "postgresql")];
    if random.random_range(0..5) == 0 {
        spans[2].1.status = Some(opentelemetry_proto::tonic::trace::v1::Status { code: 2, ..Default::default() });
    }
    spans
}

fn text(key: &str, value: &str) -> opentelemetry_proto::tonic::common::v1::KeyValue {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    let value = Some(AnyValue { value: Some(Value::StringValue(value.into())) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollups_equal_a_self_join_across_kills() {
    let kills: usize = std::env::var("TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let seed = 20_261_125;
    println!("{kills} kills, seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut spans: Vec<_> = (1..=300).flat_map(|number| trace(&mut random, number)).collect();
    let again: Vec<_> = spans.iter().filter(|_| random.random_range(0..8) == 0).cloned().collect();
    spans.extend(again);
    // up to 20 s late, well within the time that spans are held
    spans.sort_by_cached_key(|(_, span)| span.start_time_unix_nano + random.random_range(0..20_000_000_000));
    let dir = tempfile::tempdir().unwrap();
    let client = client();
    let mut process = Process::start(dir.path());
    let requests: Vec<_> = spans.chunks(10).collect();
    let deaths: BTreeSet<usize> = (0..kills).map(|_| random.random_range(1..requests.len())).collect();
    for (number, piece) in requests.into_iter().enumerate() {
        if deaths.contains(&number) {
            process.kill();
            process = Process::start(dir.path());
        }
        for service in SERVICES {
            let of_service: Vec<_> =
                piece.iter().filter(|(name, _)| *name == service).map(|(_, s)| s.clone()).collect();
            if !of_service.is_empty() {
                assert!(send(&client, &process.otlp_http, &request(service, of_service)).await);
            }
        }
    }
    process.kill();
    check(dir.path()).await;
    // a clean stop leaves nothing to make good, and nothing is counted again
    check(dir.path()).await;
}

/// Starts a server, which makes good what is missing, stops it, which closes every minute, and
/// compares.
async fn check(dir: &std::path::Path) {
    let first = server(dir).await;
    first.store.replayed().await; // a stop before that leaves all to the next start
    first.stop().await.unwrap();
    let server = server(dir).await;
    let web = format!("http://{}", server.addresses.web);
    let minute = format!("start_unix_nano - start_unix_nano % {MINUTE_NS}");
    let expected = format!(
        "SELECT {minute}, service, operation, kind, count(*) AS n, sum(CASE WHEN status = 'error' THEN 1 ELSE 0 END) AS e \
         FROM ({DISTINCT}) GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
    );
    assert_eq!(sql(&web, OPERATIONS).await, sql(&web, &expected).await);
    let edges = format!(
        "WITH d AS ({DISTINCT}) \
         SELECT child.start_unix_nano - child.start_unix_nano % {MINUTE_NS} AS m, parent.service AS a, child.service AS b, \
                'service' AS k, count(*) AS n \
         FROM d child JOIN d parent ON child.trace_id = parent.trace_id AND child.parent_span_id = parent.span_id \
         WHERE child.service <> parent.service GROUP BY 1, 2, 3, 4 \
         UNION ALL \
         SELECT {minute} AS m, service AS a, 'postgresql' AS b, 'database' AS k, count(*) AS n \
         FROM d WHERE operation = 'SELECT' GROUP BY 1, 2, 3, 4 \
         ORDER BY 1, 2, 3, 4"
    );
    let stored = sql(&web, EDGES).await;
    assert!(stored.len() > 20, "{stored:?}");
    assert_eq!(stored, sql(&web, &edges).await);
    server.stop().await.unwrap();
}
