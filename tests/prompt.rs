//! `weir sql` as people use it: at a prompt on a real terminal, and in a pipe with its exit codes.

use std::{
    path::Path,
    process::{Command, Output},
};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};

use crate::support::{client, request, send, server_with, span};

const WEIR: &str = env!("CARGO_BIN_EXE_weir");

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prompt_completes_cancels_and_remembers() {
    let dir = tempfile::tempdir().unwrap();
    // one at a time: what is cancelled must have stopped before the next one runs
    let weir = server_with(dir.path(), |config| {
        config.store.sql.concurrency = 1;
        config.store.sql.timeout_ms = 600_000;
    })
    .await;
    let mut tagged = span(1, 1, 0, "GET /", 1_700_000_000_000_000_000, 1);
    let value = Some(AnyValue { value: Some(Value::StringValue("PATCH".into())) });
    tagged.attributes.push(KeyValue { key: "http.request.method".into(), value, ..KeyValue::default() });
    assert!(send(&client(), &format!("http://{}", weir.addresses.otlp_http), &request("cart", vec![tagged])).await);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/prompt.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(WEIR).arg(format!("http://{}", weir.addresses.web)).env("XDG_STATE_HOME", dir.path());
    let output = output(command).await;
    let seen = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        seen,
        "completed\nprogress\ncancelled\nhistory\npasted\nahead\nexit 0\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(dir.path().join("weir/sql_history").is_file());
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_go_to_stdout_in_every_format_and_failures_have_their_codes() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |_| {}).await;
    let url = format!("http://{}", weir.addresses.web);
    let run = async |arguments: &[&str]| {
        let mut command = Command::new(WEIR);
        command.arg("sql").args(arguments);
        output(command).await
    };
    let statement = "SELECT value AS n FROM generate_series(1, 3)";
    let formats: [(&str, &[u8], &[u8]); 5] = [
        ("csv", b"n\n1\n2\n3\n", b""),
        ("json", b"{\"n\":1}\n", b"{\"n\":3}\n"),
        ("table", "─".as_bytes(), b""),
        ("arrow", &[0xff, 0xff, 0xff, 0xff], &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
        ("parquet", b"PAR1", b"PAR1"),
    ];
    for (format, begins, ends) in formats {
        let output = run(&[statement, "--url", &url, "--format", format]).await;
        assert!(output.status.success() && output.stdout.starts_with(begins), "{format}: {output:?}");
        assert!(output.stdout.ends_with(ends), "{format}: {output:?}");
    }
    let empty = dir.path().join("no-store");
    let failures: [(&[&str], i32, &str); 5] = [
        (&["SELECT servce FROM spans", "--url", &url], 1, "servce"),
        (&["DROP TABLE spans", "--url", &url], 1, "not DROP"),
        (&["SELECT 1", "--format", "xml"], 2, "xml"),
        (&["SELECT 1", "--url", "http://127.0.0.1:1"], 4, "127.0.0.1:1"),
        (&["SELECT 1", "--data", empty.to_str().unwrap()], 4, "no store"),
    ];
    for (arguments, code, says) in failures {
        let output = run(arguments).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
    weir.stop().await.unwrap();
}
