//! `weir serve`: collect, store, analyze, regulate, until a signal says stop.

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::{
    cli::ServeArgs,
    config::Config,
    exit::Exit,
    memory,
    server::{Listeners, Server},
};

/// Runs `weir serve`.
///
/// # Errors
/// A configuration, socket or folder that cannot be used.
pub async fn run(args: ServeArgs) -> Result<Exit, anyhow::Error> {
    let config = Config::load(args.config.as_deref())?.with_flags(args.data, &args.listen)?;
    let listeners = Listeners::bind(&config.listen, false).await?;
    memory::say(&config);
    let data = config.data.clone();
    let server = Server::start(config, listeners).await?;
    let addresses = server.addresses;
    let (web, otlp_grpc, otlp_http) = (addresses.web, addresses.otlp_grpc, addresses.otlp_http);
    info!(%otlp_grpc, %otlp_http, pg = %addresses.pg, web = format!("http://{web}"), data = %data.display(), "serving");
    let store = server.store.clone();
    let why = tokio::select! {
        why = stop_signal() => why?,
        never = async {
            store.replayed().await;
            info!("ready: everything acked before is visible");
            std::future::pending().await
        } => never,
    };
    info!(signal = why, "stopping");
    server.stop().await?;
    Ok(Exit::Ok)
}

/// Waits for SIGINT or SIGTERM and says which came.
///
/// # Errors
/// When signals cannot be watched.
pub async fn stop_signal() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Ok("SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}
