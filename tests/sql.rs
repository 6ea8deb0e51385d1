//! `tests/sql/*.slt`: what people type and what they get, over rows in files and rows in memory.

use std::path::Path;

use futures::StreamExt;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::Status,
};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use weir_store::{SqlError, Store};

use crate::support::{client, request, send, server, span};

const START: u64 = 1_700_000_000_000_000_000;

struct Db(Store);

#[async_trait::async_trait]
impl AsyncDB for Db {
    type Error = SqlError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, SqlError> {
        let mut answer = self.0.sql(sql, None).await?;
        let (types, mut rows) = (vec![DefaultColumnType::Any; answer.schema.fields().len()], Vec::new());
        while let Some(batch) = answer.stream.next().await {
            for row in weir_store::render::to_json_rows(&batch?) {
                let cells = row.as_object().unwrap().values().map(|value| match value {
                    serde_json::Value::Null => "NULL".to_owned(),
                    serde_json::Value::String(text) if text.is_empty() => "(empty)".to_owned(),
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                rows.push(cells.collect());
            }
        }
        Ok(DBOutput::Rows { types, rows })
    }

    async fn shutdown(&mut self) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_answer_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let otlp = format!("http://{}", weir.addresses.otlp_http);
    let value = |value| Some(AnyValue { value: Some(value) });
    let mut entry = span(0xa1, 1, 0, "GET /", START, 5_000_000);
    for (key, v) in [
        ("http.request.method", Value::StringValue("GET".into())),
        ("http.response.status_code", Value::IntValue(200)),
        ("shop.tier", Value::StringValue("gold".into())),
        ("shop.items", Value::IntValue(3)),
        ("shop.member", Value::BoolValue(true)),
    ] {
        entry.attributes.push(KeyValue { key: key.into(), value: value(v), ..KeyValue::default() });
    }
    let mut cart = span(0xa1, 2, 1, "GET /cart", START + 1_000_000, 3_000_000);
    cart.status = Some(Status { code: 2, message: "out of stock".into() });
    assert!(send(&client(), &otlp, &request("gateway", vec![entry])).await);
    weir.store.flush().await.unwrap();
    assert!(
        send(&client(), &otlp, &request("cart", vec![cart, span(0xb2, 3, 0, "GET /cart", START + 2_000_000_000, 7)]))
            .await
    );

    let mut files: Vec<_> =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql")).unwrap().collect();
    files.sort_by_key(|file| file.as_ref().unwrap().path());
    assert!(!files.is_empty());
    for file in files {
        let path = file.unwrap().path();
        let store = weir.store.clone();
        let mut runner = Runner::new(move || {
            let store = store.clone();
            async move { Ok(Db(store)) }
        });
        runner.run_file_async(&path).await.unwrap_or_else(|error| panic!("{}", error.display(false)));
    }
    weir.stop().await.unwrap();
}
