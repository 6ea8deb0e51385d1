//! `weir doctor`: checks this machine before or while weir runs: configuration, data folder, disk,
//! clock, ports and an OTLP round trip into a throw-away store; each failure comes with its fix.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::{
    cli::DoctorArgs,
    config::{Config, Listen},
    exit::Exit,
    output,
    server::{Listeners, Server, now_unix_nano},
    target::{self, client},
};

/// An fdatasync slower than this makes every ack slow.
const SLOW_SYNC: Duration = Duration::from_millis(50);

/// Less free disk than this fills within hours at a few thousand spans a second.
const LITTLE_DISK_BYTES: u64 = 2 << 30;

/// What became of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

/// One check: what it saw, and what to do about it.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, detail: detail.into(), fix: None }
    }

    fn warning(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warning, detail: detail.into(), fix: Some(fix.into()) }
    }

    fn failed(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Failed, detail: detail.into(), fix: Some(fix.into()) }
    }
}

/// Runs `weir doctor`; the exit code is 5 when a check failed.
///
/// # Errors
/// Only when the answer cannot be printed.
pub async fn run(args: DoctorArgs) -> Result<Exit, anyhow::Error> {
    let mut checks = Vec::new();
    let config = match Config::load(args.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            checks.push(Check::failed(
                "configuration",
                format!("{error:#}"),
                "correct that key; `weir config show` prints all of them",
            ));
            Config::default()
        }
    };
    let data = args.data.unwrap_or_else(|| config.data.clone());
    let live = target::Server::of_folder(&data).ok().flatten();
    checks.push(folder(&data));
    checks.push(disk(&data));
    checks.push(sync_time(&data));
    checks.push(clock());
    match &live {
        Some(server) => checks.push(answers(server).await),
        None => checks.extend(ports(&config.listen).await),
    }
    checks.push(round_trip().await);
    report(&checks, args.json)?;
    let failed = checks.iter().any(|check| check.verdict == Verdict::Failed);
    Ok(if failed { Exit::Check } else { Exit::Ok })
}

fn folder(data: &Path) -> Check {
    let name = "data folder";
    let probe = nearest_existing(data).join(".weir-doctor");
    let written = std::fs::write(&probe, b"probe").and_then(|()| std::fs::remove_file(&probe));
    match written {
        Ok(()) => Check::ok(name, format!("{} can be written", data.display())),
        Err(error) => {
            Check::failed(name, format!("{}: {error}", data.display()), "give --data a folder this user may write")
        }
    }
}

fn disk(data: &Path) -> Check {
    let name = "disk";
    match fs4::available_space(nearest_existing(data)) {
        Ok(free) if free < LITTLE_DISK_BYTES => {
            let detail = format!("{} MiB free", free >> 20);
            Check::warning(name, detail, "free some space: a full disk refuses ingest until there is room")
        }
        Ok(free) => Check::ok(name, format!("{} GiB free", free >> 30)),
        Err(error) => Check::failed(name, error.to_string(), "check that the file system is mounted"),
    }
}

/// The time an ack waits for the disk at least.
fn sync_time(data: &Path) -> Check {
    let name = "disk sync";
    let probe = nearest_existing(data).join(".weir-doctor-sync");
    let timed = (|| {
        use std::io::Write;
        let mut file = std::fs::File::create(&probe)?;
        let mut times = Vec::new();
        for _ in 0..9 {
            file.write_all(&[0; 4096])?;
            let start = Instant::now();
            file.sync_data()?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok::<_, std::io::Error>(times[times.len() / 2])
    })();
    // a leftover of 36 KiB is harmless
    let _ = std::fs::remove_file(&probe);
    match timed {
        Ok(time) if time > SLOW_SYNC => Check::warning(
            name,
            format!("fdatasync takes {time:.1?}"),
            "acks wait for it: put the data folder on a faster disk",
        ),
        Ok(time) => Check::ok(name, format!("fdatasync takes {time:.1?}")),
        Err(error) => Check::failed(name, error.to_string(), "the disk must support fdatasync"),
    }
}

fn clock() -> Check {
    let built_after = 1_750_000_000_000_000_000;
    let now = now_unix_nano();
    if now < built_after {
        return Check::failed("clock", "the clock is before this version was made", "set the clock (NTP)");
    }
    Check::ok("clock", jiff::Timestamp::from_nanosecond(now.into()).map_or_else(|_| String::new(), |t| t.to_string()))
}

async fn ports(listen: &Listen) -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, address) in [
        ("port OTLP/gRPC", listen.otlp_grpc),
        ("port OTLP/HTTP", listen.otlp_http),
        ("port web", listen.web),
        ("port PostgreSQL", listen.pg),
    ] {
        checks.push(match TcpListener::bind(address).await {
            Ok(_) => Check::ok(name, format!("{address} is free")),
            Err(error) => {
                let fix = format!(
                    "stop what listens there, or choose another address: listen in the configuration ({error})"
                );
                Check::failed(name, format!("{address} is not free"), fix)
            }
        });
    }
    checks
}

async fn answers(server: &target::Server) -> Check {
    let name = "server";
    let asked = async { Ok::<_, anyhow::Error>(client()?.get(format!("{}/readyz", server.web)).send().await?) }.await;
    match asked {
        Ok(response) if response.status().is_success() => Check::ok(name, format!("{} is ready", server.web)),
        Ok(response) => {
            let why = response.text().await.unwrap_or_default();
            Check::failed(name, format!("{} is not ready: {why}", server.web), "wait, or see its log")
        }
        Err(error) => {
            Check::failed(name, format!("{} does not answer: {error:#}", server.web), "see its log, or end the process")
        }
    }
}

/// One span through a whole server on free ports: in by OTLP/HTTP, out by SQL.
async fn round_trip() -> Check {
    let name = "OTLP round trip";
    match try_round_trip().await {
        Ok(time) => Check::ok(name, format!("stored and queried in {time:.1?}")),
        Err(error) => Check::failed(name, format!("{error:#}"), "run with WEIR_LOG=debug and report what it says"),
    }
}

async fn try_round_trip() -> Result<Duration, anyhow::Error> {
    let dir = tempfile::tempdir().context("making a temporary folder")?;
    let free = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let listen = Listen { otlp_grpc: free, otlp_http: free, web: free, pg: free };
    let config = Config { data: dir.path().to_owned(), listen: listen.clone(), ..Config::default() };
    let server = Server::start(config, Listeners::bind(&listen, false).await?).await?;
    let start = Instant::now();
    let asked = send_and_ask(&server).await;
    let time = start.elapsed();
    server.stop().await?;
    asked.map(|()| time)
}

async fn send_and_ask(server: &Server) -> Result<(), anyhow::Error> {
    let now = u64::try_from(now_unix_nano()).unwrap_or(1);
    let span = Span {
        trace_id: vec![7; 16],
        span_id: vec![7; 8],
        name: "doctor".into(),
        start_time_unix_nano: now,
        end_time_unix_nano: now + 1,
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
    let request =
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] };
    let url = format!("http://{}/v1/traces", server.addresses.otlp_http);
    let post = client()?.post(url).header("content-type", "application/x-protobuf").body(request.encode_to_vec());
    post.send().await?.error_for_status().context("sending a span")?;
    let url = format!("http://{}/api/v1/sql", server.addresses.web);
    let query = serde_json::json!({"query": "SELECT count(*) AS n FROM spans WHERE operation = 'doctor'"});
    let answer =
        client()?.post(url).header("accept", "text/csv").json(&query).send().await?.error_for_status()?.text().await?;
    anyhow::ensure!(answer.lines().nth(1) == Some("1"), "one span was acked, but SQL answers {answer:?}");
    Ok(())
}

fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("."))
}

fn report(checks: &[Check], json: bool) -> Result<(), anyhow::Error> {
    if json {
        let failed = checks.iter().filter(|c| c.verdict == Verdict::Failed).count();
        output::line(&serde_json::json!({"checks": checks, "failed": failed}).to_string())?;
        return Ok(());
    }
    for check in checks {
        let mark = match check.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED ",
        };
        output::line(&format!("{mark} {:<16} {}", check.name, check.detail))?;
        if let Some(fix) = &check.fix {
            output::line(&format!("        fix: {fix}"))?;
        }
    }
    Ok(())
}
