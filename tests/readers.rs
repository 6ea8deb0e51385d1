//! The tables are open: readers that know nothing of us see the same rows, ids and maps.

use std::process::{Command, Stdio};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};

use crate::support::{client, request, send, server, span};

#[tokio::test(flavor = "multi_thread")]
async fn other_readers_see_the_same_tables() {
    let python = std::env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut check = Command::new(&python);
    let imports = "import chdb, duckdb, polars, deltalake, pyarrow";
    if !check.args(["-c", imports]).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        println!("skipped: {python} lacks a reader ({imports}); ./tests/run installs them");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let otlp = format!("http://{}", weir.addresses.otlp_http);
    let start = 1_700_000_000_123_456_789;
    for round in 0..3_u64 {
        let spans = (0..100).map(|n| span(u128::from(round) + 1, round * 100 + n + 1, 0, "work", start + n, 500));
        assert!(send(&client(), &otlp, &request("cart", spans.collect())).await);
        weir.store.flush().await.unwrap();
    }
    let attribute = |key: &str, value| KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    let mut sample = span(0xabcd, 7, 0, "sample", start, 42);
    sample.attributes =
        vec![attribute("shop.tier", Value::StringValue("gold".into())), attribute("shop.items", Value::IntValue(3))];
    assert!(send(&client(), &otlp, &request("cart", vec![sample])).await);
    weir.stop().await.unwrap();

    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/read_tables.py");
    let mut command = Command::new(python);
    command.arg(script).arg(dir.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
    let readers: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        readers.iter().map(|r| r["reader"].as_str().unwrap()).collect::<Vec<_>>(),
        ["deltalake", "polars", "duckdb", "clickhouse"]
    );
    for reader in readers {
        assert_eq!(reader["count"], 301, "{reader}");
        assert_eq!(reader["trace_id"], format!("{:032x}", 0xabcd), "{reader}");
        assert_eq!(reader["start"], start, "{reader}");
        assert_eq!(reader["attributes"], serde_json::json!({"shop.tier": "gold", "shop.items": "3"}), "{reader}");
    }
}
