//! Long answers of SQL over HTTP: an error in the middle is seen, and a reader that goes away stops
//! the statement.

use std::time::Duration;

use futures::StreamExt;
use weir::{config::Config, server::Server};

use crate::support::{client, server_with};

/// Runs for years and answers a row now and then, or never.
const ENDLESS: &str = "SELECT a.value AS value FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b \
    CROSS JOIN generate_series(1, 1000000) c";

async fn serving(dir: &std::path::Path, change: impl FnOnce(&mut Config)) -> (Server, String) {
    let weir = server_with(dir, change).await;
    let sql = format!("http://{}/api/v1/sql", weir.addresses.web);
    (weir, sql)
}

fn ask(sql: &str, accept: &str, statement: &str) -> reqwest::RequestBuilder {
    client().post(sql).header("accept", accept).body(statement.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (weir, sql) = serving(dir.path(), |config| config.store.sql.max_rows = 50_000).await;
    for accept in ["application/json", "text/csv", "application/vnd.apache.arrow.stream"] {
        let whole = ask(&sql, accept, "SELECT value FROM generate_series(1, 40000)").send().await.unwrap();
        assert!(!whole.bytes().await.unwrap().is_empty(), "{accept}");
        let broken = ask(&sql, accept, "SELECT value FROM generate_series(1, 1000000)").send().await.unwrap();
        assert_eq!(broken.status(), 200, "{accept}: the first rows went out before the limit was met");
        let (mut pieces, mut read) = (broken.bytes_stream(), Vec::new());
        let error = loop {
            match pieces.next().await {
                Some(Ok(piece)) => read.extend_from_slice(&piece),
                ended => break ended,
            }
        };
        assert!(matches!(error, Some(Err(_))), "{accept}: the connection must break, not end");
        assert!(!read.is_empty() && serde_json::from_slice::<serde_json::Value>(&read).is_err(), "{accept}");
    }
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_stops_its_statement() {
    let dir = tempfile::tempdir().unwrap();
    let (weir, sql) = serving(dir.path(), |config| {
        // one at a time: the next statement runs when the one before has stopped
        config.store.sql.concurrency = 1;
        config.store.sql.timeout_ms = 600_000;
        config.store.sql.max_rows = usize::MAX;
    })
    .await;
    let counting = format!("SELECT count(*) FROM ({ENDLESS}) WHERE value < 0");
    for statement in [ENDLESS, counting.as_str()] {
        let mut pieces = ask(&sql, "text/csv", statement).send().await.unwrap().bytes_stream();
        // it has begun: the header is out
        assert!(pieces.next().await.unwrap().is_ok());
        drop(pieces);
        let next = ask(&sql, "text/csv", "SELECT 6 * 7 AS answer").send();
        let next = tokio::time::timeout(Duration::from_secs(30), next).await.expect("the statement still runs");
        assert_eq!(next.unwrap().text().await.unwrap(), "answer\n42\n");
    }
    weir.stop().await.unwrap();
}
