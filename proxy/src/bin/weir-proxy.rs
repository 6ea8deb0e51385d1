//! `weir-proxy --config proxy.yaml`: the sidecar as a process of its own; `--probe` asks one how it is.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;
use weir_proxy::{ConfigFiles, Probe, Proxy, StartError, watch_files};

/// jemalloc: a request takes and gives back two buffers of 8 KiB, for which the system's allocator searches, and for which it grows
/// and cuts its arena.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit codes are those of `weir`: 1 failure, 3 configuration.
const FAILURE: u8 = 1;
const CONFIG: u8 = 3;

/// A sidecar proxy that measures every request and obeys a policy stream.
#[derive(Debug, Parser)]
#[command(name = "weir-proxy", version)]
struct Args {
    /// The YAML file that says what to proxy.
    #[arg(long, value_name = "FILE", required_unless_present = "probe")]
    config: Option<PathBuf>,
    /// Checks the file, and the files it names, and stops.
    #[arg(long, requires = "config")]
    check: bool,
    /// Asks a running proxy at its admin address, such as 127.0.0.1:15021/healthz/ready, and stops: with 0 if it is well.
    #[arg(long, value_name = "ADDRESS/PATH", conflicts_with = "config")]
    probe: Option<Probe>,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    // the proxy names its provider itself; this is for what else may use TLS in this process one day
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        error!("another cryptographic provider is installed already");
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, why)) => {
            error!("{why}");
            ExitCode::from(code)
        }
    }
}

fn run(args: &Args) -> Result<(), (u8, String)> {
    if let Some(probe) = &args.probe {
        return probe.ask().map_err(|why| (FAILURE, why));
    }
    let config = args.config.as_deref().unwrap_or(Path::new("proxy.yaml"));
    let path = config.display();
    let files = ConfigFiles::read(config).map_err(|e| (CONFIG, format!("{path}: {e}")))?;
    let config = files.config().map_err(|e| (CONFIG, format!("{path}: {e}")))?;
    if args.check {
        Proxy::check(&config).map_err(|e| (CONFIG, format!("{path}: {e}")))?;
        info!("{path} can be used");
        return Ok(());
    }
    let proxy = Proxy::start(config).map_err(|error| match error {
        StartError::Config(_) | StartError::Security(_) => (CONFIG, format!("{path}: {error}")),
        _ => (FAILURE, error.to_string()),
    })?;
    info!(listening = ?proxy.addresses(), admin = ?proxy.admin_address(), "ready");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| (FAILURE, format!("cannot start the runtime: {e}")))?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| (FAILURE, e.to_string()))?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
            () = proxy.drain_requested() => {}
            Err(error) = watch_files(&proxy, files) => return Err((FAILURE, error.to_string())),
        }
        info!("draining");
        let counters = proxy.drain().await;
        info!(?counters, "stopped");
        Ok(())
    })
}
