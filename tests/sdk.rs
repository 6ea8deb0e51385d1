//! An OpenTelemetry SDK that we did not write sends all three signals, by gRPC and by HTTP.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{client, server, sql};

#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk_is_understood() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let addresses = weir.addresses;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/send.py");
    let mut command = Command::new(python);
    command.arg(script).arg(format!("http://{}", addresses.otlp_grpc)).arg(format!("http://{}", addresses.otlp_http));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (ids, why) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{why}");

    let web = format!("http://{}", addresses.web);
    let spans = "SELECT service, operation, kind, http_request_method, attributes['cart.items'], attributes['cart.total'], \
        attributes['gift'], attributes['skus'] FROM spans WHERE kind = 'server' ORDER BY service";
    let expected = |service: &str| format!("{service},checkout,server,POST,3,9.5,true,\"[\"\"x\"\",\"\"y\"\"]\"");
    assert_eq!(sql(&web, spans).await, [expected("by-grpc"), expected("by-http")]);
    // the SDK exports once more when it stops
    let metrics = "SELECT DISTINCT service, name, unit, value, count FROM metrics WHERE name IN ('orders', 'latency') ORDER BY service, name";
    let expected = [
        "by-grpc,latency,ms,12.5,1",
        "by-grpc,orders,{order},3,",
        "by-http,latency,ms,12.5,1",
        "by-http,orders,{order},3,",
    ];
    assert_eq!(sql(&web, metrics).await, expected);
    let logs = "SELECT l.service, l.body, l.severity, s.operation FROM logs l JOIN spans s ON l.span_id = s.span_id ORDER BY l.service";
    assert_eq!(sql(&web, logs).await, ["by-grpc,charging a card,INFO,charge", "by-http,charging a card,INFO,charge"]);
    for id in ids.lines() {
        let page = client().get(format!("{web}/traces/{id}")).send().await.unwrap().text().await.unwrap();
        assert!(page.contains("charge") && page.contains("2 spans"), "{page}");
    }
    assert_eq!(ids.lines().count(), 2);
    weir.stop().await.unwrap();
}

/// `TEST_PYTHON`, else `python3`, if it has the SDK.
fn python() -> Option<String> {
    let python = std::env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let imports =
        "import opentelemetry.sdk, opentelemetry.exporter.otlp.proto.grpc, opentelemetry.exporter.otlp.proto.http";
    let mut check = Command::new(&python);
    let has_sdk = check.args(["-c", imports]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !has_sdk {
        println!("skipped: {python} has no OpenTelemetry SDK; ./tests/run installs it");
    }
    has_sdk.then_some(python)
}
