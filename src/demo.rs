//! `weir demo`: the whole loop on one machine. A mesh of language-model services runs behind sidecars,
//! one service is made slow, and weir finds it, tells of it and regulates the traffic.
//!
//! Server, then mesh, then the script; the summary is asked of the store by SQL once the sidecars have
//! delivered every span.

mod script;
mod summary;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use weir_analyzer::Command;
use weir_demo::{Arrivals, CHAIN, Load, Mesh, Pace, Receiver};

use crate::{
    cli::DemoArgs,
    config::Config,
    exit::Exit,
    output,
    serve::stop_signal,
    server::{Listeners, Server, now_unix_nano},
};
use script::{Played, Script};

/// Requests per second at the entry.
const RATE_PER_S: f64 = 80.0;

/// The service that is made slow, and by how much.
const INJECTED: &str = "tagger";
const SLOWDOWN: f64 = 4.0;

/// A request is good when it is answered in full within this time; a healthy one takes about 250 ms.
const SLO: Duration = Duration::from_millis(800);

/// How long alerts may take to arrive after the script, before the summary says they did not.
const DELIVERY_WAIT: Duration = Duration::from_secs(5);

/// Runs `weir demo`.
///
/// # Errors
/// A folder, socket or file of arrivals that cannot be used.
pub async fn run(args: DemoArgs) -> Result<Exit, anyhow::Error> {
    let script = Script::of(args.duration)?;
    let arrivals = arrivals(&args)?;
    let receiver = Receiver::start().await.context("starting the webhook receiver")?;
    let (data, _temporary) = folder(&args)?;
    let config = config(data, &script, &receiver).with_flags(None, &args.listen)?;
    let listeners = Listeners::bind(&config.listen, true).await?;
    let server = Server::start(config, listeners).await?;
    let mesh = Mesh::start(&format!("http://{}", server.addresses.otlp_grpc), Pace::of(&arrivals), args.seed).await?;
    say_where(&server, &mesh);

    let mut load = Load::new(&mesh.entry().to_string(), arrivals, SLO);
    let progress = Progress::start(&args, &server, &load);
    let played = tokio::select! {
        played = play(&script, &mesh, &mut load, &server, &progress) => Some(played?),
        signal = stop_signal() => { signal?; None }
    };
    progress.finish();
    let counters = mesh.stop().await;
    let Some(played) = played else {
        server.stop().await?;
        return Ok(Exit::Failure);
    };
    let summary = summary::of(&server.store, &played, counters, &receiver).await?;
    summary.print(args.json)?;
    if !args.headless && !args.json {
        output::note(&format!("the pages stay open at http://{} until Ctrl-C", server.addresses.web));
        stop_signal().await?;
    }
    server.stop().await?;
    Ok(if summary.holds() { Exit::Ok } else { Exit::Check })
}

/// Healthy, the fault only watched, a pause to recover, the fault with policy.
async fn play(
    script: &Script,
    mesh: &Mesh,
    load: &mut Load,
    server: &Server,
    progress: &Progress,
) -> Result<Played, anyhow::Error> {
    let started = now_unix_nano();
    // in a folder that was kept, the demo before has left it on
    let watch_only = Command::SetControl { enabled: false };
    server.commands.send(watch_only).await.context("the controller is gone")?;
    progress.phase("healthy");
    load.run(script.healthy).await;

    progress.phase("fault, watched only");
    mesh.slow_down(INJECTED, SLOWDOWN);
    let fault = now_unix_nano();
    load.run(script.fault).await;
    let fault_end = now_unix_nano();

    progress.phase("recovering");
    mesh.slow_down(INJECTED, 1.0);
    load.drain().await;

    progress.phase("fault, with policy");
    server.commands.send(Command::SetControl { enabled: true }).await.context("the controller is gone")?;
    mesh.slow_down(INJECTED, SLOWDOWN);
    let policy = now_unix_nano();
    load.run(script.policy).await;
    let policy_end = now_unix_nano();
    mesh.slow_down(INJECTED, 1.0);
    load.drain().await;
    Ok(Played {
        before_fault: (started, fault),
        fault_without_policy: (fault, fault_end),
        fault_with_policy: (policy, policy_end),
    })
}

fn arrivals(args: &DemoArgs) -> Result<Arrivals, anyhow::Error> {
    let Some(path) = &args.arrivals else {
        return Arrivals::poisson(RATE_PER_S, args.seed).context("the demo's rate is above zero");
    };
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {name}"))?;
    Arrivals::recorded(&text, RATE_PER_S).with_context(|| name.to_string())
}

/// The folder of the store, and what removes it at the end if it is not to be kept.
fn folder(args: &DemoArgs) -> Result<(PathBuf, Option<tempfile::TempDir>), anyhow::Error> {
    match &args.data {
        Some(data) => Ok((data.clone(), None)),
        None => {
            let temporary = tempfile::Builder::new().prefix("weir-demo-").tempdir().context("making a folder")?;
            Ok((temporary.path().to_owned(), Some(temporary)))
        }
    }
}

fn config(data: PathBuf, script: &Script, receiver: &Receiver) -> Config {
    let window_ms = script.window.as_millis() as u64;
    let servers = CHAIN.iter().map(|spec| (spec.service.to_owned(), spec.servers)).collect();
    let analyzer = weir_analyzer::Config {
        window_ms,
        lateness_ms: window_ms / 4,
        slo_ms: Some(SLO.as_secs_f64() * 1e3),
        servers,
        ..weir_analyzer::Config::default()
    };
    let on_call = weir_web::Webhook { name: "on-call".into(), url: receiver.url(), headers: Default::default() };
    let web = weir_web::Config { webhooks: vec![on_call], ..Default::default() };
    Config { data, analyzer, web, ..Config::default() }
}

fn say_where(server: &Server, mesh: &Mesh) {
    let names: Vec<&str> = CHAIN.iter().map(|spec| spec.service).collect();
    let addresses = server.addresses;
    output::note(&format!("weir demo: {}", names.join(" → ")));
    output::note(&format!("  pages      http://{}", addresses.web));
    output::note(&format!("  PostgreSQL {}", addresses.pg));
    output::note(&format!("  OTLP       grpc {}, http {}", addresses.otlp_grpc, addresses.otlp_http));
    output::note(&format!("  entry      http://{}/v1/generate (POST)", mesh.entry()));
}

/// The live line on a terminal; one line a phase elsewhere.
struct Progress {
    bar: ProgressBar,
    plain: bool,
    ticker: JoinHandle<()>,
}

impl Progress {
    fn start(args: &DemoArgs, server: &Server, load: &Load) -> Self {
        let bar = if args.headless { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {prefix}: {msg}").expect("a fixed template"));
        let plain = bar.is_hidden();
        let (snapshot, tally, line) = (server.snapshot.clone(), load.watch(), bar.clone());
        let ticker = tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_secs(1));
            let mut before = tally();
            loop {
                every.tick().await;
                let now = tally();
                let snapshot = snapshot.borrow().clone();
                let tagger = snapshot.services.iter().find(|s| s.service == INJECTED);
                let utilization = tagger.and_then(|s| s.estimate.utilization).map_or("?".into(), |u| format!("{u:.2}"));
                let finding = snapshot.findings.iter().find(|f| f.closed_unix_nano.is_none());
                let finding = finding.map_or(String::new(), |f| format!(" · found: {}", f.summary));
                line.set_message(format!(
                    "{} sent/s, {} good/s, {} shed/s, ρ of {INJECTED} {utilization}{finding}",
                    now.sent - before.sent,
                    now.good - before.good,
                    now.shed - before.shed,
                ));
                before = now;
            }
        });
        Self { bar, plain, ticker }
    }

    fn phase(&self, name: &str) {
        self.bar.set_prefix(name.to_owned());
        if self.plain {
            output::note(&format!("  {name}"));
        }
    }

    fn finish(self) {
        self.ticker.abort();
        self.bar.finish_and_clear();
    }
}
