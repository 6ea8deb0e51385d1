//! `weir demo`, shortened, as a process: the loop closes, and the summary says so.

use std::process::Command;

#[test]
fn the_loop_closes() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(["demo", "--duration", "30s", "--seed", "7", "--headless", "--json", "--data"]).arg(dir.path());
    command.args(["--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0", "--web", "127.0.0.1:0"]);
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    println!("seed 7\n{stdout}\n{stderr}");
    let summary: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(summary["injected"], "tagger");
    assert_eq!((&summary["services"], &summary["edges"]), (&6.into(), &5.into()));
    assert_eq!(summary["spans"], summary["spans_sent"], "every span that was acknowledged is stored, once");
    let accused: Vec<&str> =
        summary["findings"].as_array().unwrap().iter().map(|f| f["service"].as_str().unwrap()).collect();
    assert!(!accused.is_empty() && accused.iter().all(|service| *service == "tagger"), "{accused:?}");
    assert!(summary["policy_changes"].as_u64().unwrap() >= 1);
    assert!(summary["webhooks_delivered"].as_u64().unwrap() >= 1);
    let goodput = |phase: &str| summary["goodput_per_s"][phase].as_f64().unwrap();
    assert!(goodput("fault_with_policy") > goodput("fault_without_policy"));
    assert!(output.status.success(), "{:?}", output.status);
}
