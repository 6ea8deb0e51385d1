//! Long answers of SQL over HTTP: an error in the middle is seen, and a reader that goes away stops
//! the statement.

use std::time::Duration;

use futures::StreamExt;
use weir::{config::Config, server::Server};

use crate::support::{client, server_with};

/// Runs for years.
const ENDLESS: &str = "SELECT a.value AS value FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b \
    CROSS JOIN generate_series(1, 1000000) c";

/// Runs for years before it answers its row.
const SILENT: &str = "SELECT count(*) FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b \
    CROSS JOIN generate_series(1, 1000000) c WHERE a.value + b.value + c.value < 0";

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
        // what was not sent yet when the limit was met is lost with the connection, be it the head
        let Ok(broken) = ask(&sql, accept, "SELECT value FROM generate_series(1, 1000000)").send().await else {
            continue;
        };
        assert_eq!(broken.status(), 200, "{accept}: the first rows were there before the limit was met");
        assert!(broken.bytes().await.is_err(), "{accept}: the connection must break, not end");
    }
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_before_the_first_rows_has_its_status() {
    let dir = tempfile::tempdir().unwrap();
    let (weir, sql) = serving(dir.path(), |config| config.store.sql.timeout_ms = 300).await;
    for (statement, status, code) in
        [("SELECT 1 / (value - 1) FROM generate_series(1, 10)", 422, "failed"), (SILENT, 422, "time_limit")]
    {
        let answer = ask(&sql, "application/json", statement).send().await.unwrap();
        let (found, json) = (answer.status(), answer.json::<serde_json::Value>().await.unwrap());
        assert_eq!((found.as_u16(), json["error"]["code"].as_str()), (status, Some(code)), "{statement}: {json}");
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
    // rows flow until the reader leaves
    let mut pieces = ask(&sql, "text/csv", ENDLESS).send().await.unwrap().bytes_stream();
    assert!(pieces.next().await.unwrap().is_ok());
    drop(pieces);
    assert_eq!(next(&sql).await.unwrap(), "answer\n42\n");
    // no row ever comes: the reader leaves while it waits for the first
    let waiting = tokio::spawn(ask(&sql, "text/csv", SILENT).send());
    while tokio::time::timeout(Duration::from_millis(500), next(&sql)).await.is_ok() {} // until it has its turn
    waiting.abort();
    let freed = tokio::time::timeout(Duration::from_secs(30), next(&sql)).await.expect("the statement still runs");
    assert_eq!(freed.unwrap(), "answer\n42\n");
    weir.stop().await.unwrap();
}

async fn next(sql: &str) -> reqwest::Result<String> {
    ask(sql, "text/csv", "SELECT 6 * 7 AS answer").send().await?.text().await
}
