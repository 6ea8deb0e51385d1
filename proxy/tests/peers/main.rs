//! Clients and servers we did not write, talking through the binary: grpcio and websockets.
//!
//! `TEST_PYTHON` names an interpreter that has both (`tests/run` makes one); without it the tests say
//! that they are skipped, and fail where `CI` is set: nobody reads there what was skipped.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Ends the process when the test does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn grpc_passes_as_if_nothing_were_between() {
    talk(
        "grpc",
        "grpc_peers.py",
        "h2",
        &["unary", "metadata", "status", "bidirectional_streaming", "deadline", "cancel"],
    );
}

#[test]
fn websockets_pass_as_if_nothing_were_between() {
    talk("websockets", "websocket_peers.py", "http1", &["2_pings", "6_text_is_utf8", "7_closing", "12_compression"]);
}

/// Runs server, proxy and client; the client fails at the first case that is not as it should be.
fn talk(module: &str, script: &str, protocol: &str, cases: &[&str]) {
    let python = std::env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut check = Command::new(&python);
    check.args(["-c", &format!("import {module}")]).stderr(Stdio::null());
    if !check.status().is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CI").is_none(), "{python} lacks {module}; ./tests/run installs it");
        println!("skipped: {python} lacks {module}; ./tests/run installs it");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
    let mut server = Command::new(&python);
    server.arg(&script).arg("server").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = Running(server.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let upstream: u16 = line.trim().parse().unwrap();
    let (_proxy, port) = proxy(upstream, protocol);
    let output = Command::new(&python).arg(&script).arg("client").arg(port.to_string()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    for case in cases {
        assert!(told.lines().any(|line| line == format!("ok {case}")), "{case} did not run: {told}");
    }
}

/// The binary in front of `upstream`, and the port it says it listens on.
fn proxy(upstream: u16, protocol: &str) -> (Running, u16) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("proxy.yaml");
    let text = format!(
        "service: app\nlisteners: [{{ address: \"127.0.0.1:0\", direction: inbound, routes: [{{ upstream: app }}] }}]\n\
         upstreams: [{{ name: app, endpoints: [\"127.0.0.1:{upstream}\"], protocol: {protocol} }}]\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-proxy"));
    command.arg("--config").arg(&config).env("NO_COLOR", "1").stderr(Stdio::piped());
    let mut process = Running(command.spawn().unwrap());
    let lines = BufReader::new(process.0.stderr.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    let ready = lines.find(|line| line.contains("listening=[")).expect("it says where it listens");
    let (_, after) = ready.split_once("listening=[127.0.0.1:").unwrap();
    let port = after.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    // what it goes on to say is read, or it would wait for a reader
    std::thread::spawn(move || lines.for_each(drop));
    (process, port)
}
