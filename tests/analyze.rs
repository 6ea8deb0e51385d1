//! `weir analyze` and `weir whatif` over stored spans, as processes: a baseline before and after the incident, and the server's
//! configuration.

use std::{
    path::Path,
    process::{Command, Output},
};

use opentelemetry_proto::tonic::trace::v1::Span;

use crate::support::{client, request, send, server, span};

/// Ten-second windows begin here.
const START_S: u64 = 1_700_000_000;
const MS: u64 = 1_000_000;

/// Seconds of health before, of the incident, and of health after.
const HEALTHY_S: u64 = 300;
const INCIDENT_S: u64 = 100;
const PER_S: u64 = 5;

/// The front asks the cart, which takes four times as long in the incident.
fn spans() -> (Vec<Span>, Vec<Span>) {
    let (mut front, mut cart) = (Vec::new(), Vec::new());
    for number in 0..PER_S * (2 * HEALTHY_S + INCIDENT_S) {
        let second = number / PER_S;
        let incident = (HEALTHY_S..HEALTHY_S + INCIDENT_S).contains(&second);
        let takes = if incident { 40 } else { 10 } * MS + number % 2 * MS / 2;
        let start = START_S * 1_000 * MS + number * 1_000 * MS / PER_S;
        let trace = u128::from(number) + 1;
        front.push(span(trace, 1, 0, "GET /", start, takes + 5 * MS));
        front.push(Span { kind: 3, ..span(trace, 2, 1, "call", start + MS, takes + 2 * MS) });
        cart.push(span(trace, 3, 2, "serve", start + 2 * MS, takes));
    }
    (front, cart)
}

async fn fill(dir: &Path) {
    let weir = server(dir).await;
    let otlp = format!("http://{}", weir.addresses.otlp_http);
    let (front, cart) = spans();
    for (service, spans) in [("front", front), ("cart", cart)] {
        for piece in spans.chunks(2_000) {
            assert!(send(&client(), &otlp, &request(service, piece.to_vec())).await);
        }
    }
    weir.stop().await.unwrap();
}

fn time(second: u64) -> String {
    jiff::Timestamp::from_second(i64::try_from(START_S + second).unwrap()).unwrap().to_string()
}

/// Runs the command over these seconds of the folder.
fn weir(command: &str, dir: &Path, (from, to): (u64, u64), more: &[&str]) -> Output {
    let mut process = Command::new(env!("CARGO_BIN_EXE_weir"));
    process.args([command, "--json", "--from", &time(from), "--to", &time(to), "--data"]).arg(dir).args(more);
    process.env_remove("WEIR_CONFIG").output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_spans_are_analyzed_against_what_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let incident = (HEALTHY_S, HEALTHY_S + INCIDENT_S);
    let after = [time(incident.1), time(incident.1 + HEALTHY_S)];
    let after = ["--baseline-from", &after[0], "--baseline-to", &after[1]];
    for baseline in [&[][..], &after] {
        let report = json(&weir("analyze", dir.path(), incident, baseline));
        let services = report["services"].as_array().unwrap();
        let rates: Vec<_> =
            services.iter().map(|s| (s["service"].as_str(), s["arrival_rate_per_s"].as_f64())).collect();
        let expected = PER_S as f64;
        assert_eq!(rates, [(Some("cart"), Some(expected)), (Some("front"), Some(expected))], "{baseline:?}");
        assert_eq!(report["findings"][0]["service"], "cart", "{baseline:?}: {report}");
        assert!(report.get("left_out").is_none());
    }
    let overlapping = [time(0), time(incident.0 + 1)];
    let overlapping = ["--baseline-from", &overlapping[0], "--baseline-to", &overlapping[1]];
    let why = refused(&weir("analyze", dir.path(), incident, &overlapping), 1);
    assert!(why.contains("overlaps --from to --to"), "{why}");
    let why = refused(&weir("analyze", dir.path(), (9_000, 9_001), &[]), 1);
    assert!(why.contains("no span starts between"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_is_told_of_services_holds_for_its_stored_spans() {
    let dir = tempfile::tempdir().unwrap();
    fill(&dir.path().join("data")).await;
    let file = dir.path().join("weir.yaml");
    std::fs::write(&file, "analyzer: { servers: { cart: 3 } }\n").unwrap();
    let data = dir.path().join("data");
    let configured = ["--config", file.to_str().unwrap()];
    let servers = |more: &[&str]| {
        let report = json(&weir("analyze", &data, (0, 100), more));
        report["services"][0]["servers"].as_u64()
    };
    assert_ne!(servers(&[]), Some(3), "nobody can tell that from spans of a service that is mostly idle");
    assert_eq!(servers(&configured), Some(3));
    let two_more = ["--service", "cart", "--servers", "+2"];
    let why = refused(&weir("whatif", &data, (0, 100), &two_more), 1);
    assert!(why.contains("cart"), "{why}");
    let prediction = json(&weir("whatif", &data, (0, 100), &[&two_more[..], &configured].concat()));
    assert_eq!(prediction["entries"][0]["entry"], "front", "{prediction}");
    std::fs::write(&file, "analyser: {}\n").unwrap();
    let why = refused(&weir("analyze", &data, (0, 100), &configured), 3);
    assert!(why.contains("did you mean `analyzer`?"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_gives_its_spans_too() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let weir_server = server(dir.path()).await;
    weir_server.store.replayed().await;
    let (folder, incident) = (dir.path().to_owned(), (HEALTHY_S, HEALTHY_S + INCIDENT_S));
    let asked = tokio::task::spawn_blocking(move || weir("analyze", &folder, incident, &[])).await.unwrap();
    let report = json(&asked);
    assert_eq!(report["services"].as_array().unwrap().len(), 2);
    assert_eq!(report["findings"][0]["service"], "cart", "{report}");
    weir_server.stop().await.unwrap();
}
