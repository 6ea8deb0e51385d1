//! What several flows need: spans to send, a server in this process, a server in its own.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use weir::{
    config::{Config, Listen},
    server::{Listeners, Server},
};

/// A server in this process on free ports, over a folder of its own.
pub(crate) async fn server(dir: &Path) -> Server {
    server_with(dir, |_| {}).await
}

/// As [`server`], with a word on its configuration.
pub(crate) async fn server_with(dir: &Path, change: impl FnOnce(&mut Config)) -> Server {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let listen = Listen { otlp_grpc: free, otlp_http: free, web: free, pg: free };
    let mut config = Config { data: dir.to_owned(), listen: listen.clone(), ..Config::default() };
    change(&mut config);
    Server::start(config, Listeners::bind(&listen, false).await.unwrap()).await.unwrap()
}

/// `weir serve` as a process of its own, on free ports.
pub(crate) struct Process {
    child: Child,
    /// Its OTLP/HTTP door.
    pub(crate) otlp_http: String,
    /// Its web door.
    pub(crate) web: String,
}

impl Process {
    /// Starts it and waits for the line that says it serves.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_weir")), dir, dir)
    }

    /// As [`Self::start`], by a command that ends in the binary; `seen` is the folder as seen from here.
    pub(crate) fn start_by(mut command: Command, dir: &Path, seen: &Path) -> Self {
        command.args([
            "serve",
            "--otlp-grpc",
            "127.0.0.1:0",
            "--otlp-http",
            "127.0.0.1:0",
            "--web",
            "127.0.0.1:0",
            "--pg",
            "127.0.0.1:0",
            "--data",
        ]);
        let mut child = command.arg(dir).env("NO_COLOR", "1").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        loop {
            match lines.next() {
                Some(Ok(line)) if line.contains("ready: everything") => break,
                Some(Ok(line)) => said.push(line),
                _ => panic!("weir serve ended: {said:#?}"),
            }
        }
        // keep reading, or a full pipe would block it
        std::thread::spawn(move || lines.for_each(drop));
        let doors: serde_json::Value =
            serde_json::from_slice(&std::fs::read(seen.join("server.json")).unwrap()).unwrap();
        let door = |name: &str| doors[name].as_str().unwrap().to_owned();
        Self { child, otlp_http: door("otlp_http"), web: door("web") }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // already gone after `kill`
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One span of `service` with these ids.
pub(crate) fn span(trace: u128, id: u64, parent: u64, name: &str, start_unix_nano: u64, duration_ns: u64) -> Span {
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().to_vec() },
        name: name.into(),
        kind: 2,
        start_time_unix_nano: start_unix_nano,
        end_time_unix_nano: start_unix_nano + duration_ns,
        ..Span::default()
    }
}

/// A request with the spans of one service.
pub(crate) fn request(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let value = Some(AnyValue { value: Some(Value::StringValue(service.into())) });
    let attributes = vec![KeyValue { key: "service.name".into(), value, ..KeyValue::default() }];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
    }
}

/// An HTTP client that fails rather than hang.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
}

/// Sends a request by OTLP/HTTP; `true` when it was acked.
pub(crate) async fn send(client: &reqwest::Client, otlp_http: &str, request: &ExportTraceServiceRequest) -> bool {
    let post = client.post(format!("{otlp_http}/v1/traces")).header("content-type", "application/x-protobuf");
    let answer = post.body(request.encode_to_vec()).send().await;
    answer.is_ok_and(|response| response.status().is_success())
}

/// The rows that a statement answers, as lines of CSV without the header.
pub(crate) async fn sql(web: &str, statement: &str) -> Vec<String> {
    let post = client().post(format!("{web}/api/v1/sql")).header("accept", "text/csv");
    let response = post.json(&serde_json::json!({ "query": statement })).send().await.unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert!(status.is_success(), "{statement}: {status} {text}");
    text.lines().skip(1).map(str::to_owned).collect()
}

/// These bytes, compressed.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}
