//! `tests/sql/*.slt`: what people type and what they get, over rows in files and rows in memory. Files
//! whose name begins with `mesh` run over the spans and logs of [`mesh`], the others over [`shop`].

use std::path::Path;

use futures::StreamExt;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    trace::v1::{Span, Status},
};
use prost::Message;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use weir::server::Server;
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
        let columns = weir_store::render::shown_schema(&answer.schema).fields().len();
        let (types, mut rows) = (vec![DefaultColumnType::Any; columns], Vec::new());
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
    run_files(|name| !name.starts_with("mesh"), shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_over_a_mesh_answer_as_written() {
    run_files(|name| name.starts_with("mesh"), mesh).await;
}

/// Runs the files that are meant, over a store that `fill` has filled.
async fn run_files(meant: fn(&str) -> bool, fill: impl AsyncFn(&Server)) {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    fill(&weir).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|path| meant(&path.file_name().unwrap().to_string_lossy()));
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let store = weir.store.clone();
        let mut runner = Runner::new(move || {
            let store = store.clone();
            async move { Ok(Db(store)) }
        });
        runner.run_file_async(&path).await.unwrap_or_else(|error| panic!("{}", error.display(false)));
    }
    weir.stop().await.unwrap();
}

/// A request to a gateway in a file, the cart's part and another one in memory.
async fn shop(weir: &Server) {
    let mut entry = span(0xa1, 1, 0, "GET /", START, 5_000_000);
    entry.attributes = vec![
        attribute("http.request.method", Value::StringValue("GET".into())),
        attribute("http.response.status_code", Value::IntValue(200)),
        attribute("shop.tier", Value::StringValue("gold".into())),
        attribute("shop.items", Value::IntValue(3)),
        attribute("shop.member", Value::BoolValue(true)),
    ];
    let mut cart = span(0xa1, 2, 1, "GET /cart", START + 1_000_000, 3_000_000);
    cart.status = Some(Status { code: 2, message: "out of stock".into() });
    store(weir, "gateway", vec![entry]).await;
    weir.store.flush().await.unwrap();
    store(weir, "cart", vec![cart, span(0xb2, 3, 0, "GET /cart", START + 2_000_000_000, 7)]).await;
}

/// In files: the gateway's side of a request, and a log record without a trace. In memory: the cart's
/// side, whose status code is a text (it has no place in the integer column), sent twice, with its
/// call of a database; its log records; and a request a minute later that was sampled 1 in 2.
async fn mesh(weir: &Server) {
    let mut entry = span(0xa1, 1, 0, "GET /", START, 10_000_000);
    entry.attributes = vec![
        attribute("http.request.method", Value::StringValue("GET".into())),
        attribute("http.response.status_code", Value::IntValue(200)),
        attribute("shop.tier", Value::StringValue("gold".into())),
    ];
    store(weir, "gateway", vec![entry]).await;
    log(weir, None, "started", 0).await;
    weir.store.flush().await.unwrap();
    let mut cart = span(0xa1, 2, 1, "GET /cart", START + 1_000_000, 4_000_000);
    cart.status = Some(Status { code: 2, message: "out of stock".into() });
    cart.attributes = vec![
        attribute("http.response.status_code", Value::StringValue("teapot".into())),
        attribute("shop.tier", Value::StringValue("silver".into())),
    ];
    let mut redis = span(0xa1, 3, 2, "GET", START + 2_000_000, 1_000_000);
    redis.kind = 3;
    redis.attributes = vec![attribute("db.system.name", Value::StringValue("redis".into()))];
    store(weir, "cart", vec![cart.clone()]).await;
    store(weir, "cart", vec![cart, redis]).await;
    let mut sampled = span(0xb2, 4, 0, "GET /", START + 60_000_000_000, 20_000_000);
    sampled.trace_state = "ot=th:8".into();
    store(weir, "gateway", vec![sampled]).await;
    log(weir, Some(2), "no more apples", 3_000_000).await;
    log(weir, Some(9), "of a span that was not sent", 4_000_000).await;
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

async fn store(weir: &Server, service: &str, spans: Vec<Span>) {
    assert!(send(&client(), &format!("http://{}", weir.addresses.otlp_http), &request(service, spans)).await);
}

/// A log record of the cart, in a span of trace a1 or in none.
async fn log(weir: &Server, span_id: Option<u64>, body: &str, after_ns: u64) {
    let record = LogRecord {
        time_unix_nano: START + after_ns,
        severity_text: "INFO".into(),
        body: Some(AnyValue { value: Some(Value::StringValue(body.into())) }),
        trace_id: span_id.map(|_| 0xa1_u128.to_be_bytes().to_vec()).unwrap_or_default(),
        span_id: span_id.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
        ..LogRecord::default()
    };
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
    let resource = request("cart", Vec::new()).resource_spans.remove(0).resource;
    let resource_logs = vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }];
    let post = client().post(format!("http://{}/v1/logs", weir.addresses.otlp_http));
    let post = post.header("content-type", "application/x-protobuf");
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    assert!(post.body(body).send().await.unwrap().status().is_success());
}
