//! The wiring: everything `weir serve` and `weir demo` run, on one page.
//!
//! ```text
//! collector ─▶ Door ─▶ store (durable, visible) ─▶ ack
//!                └────▶ analysis loop ─▶ snapshot ─▶ web          (spans; logs and metrics beside them, if there is room)
//!                           ├─▶ rows (operations, edges, findings, policy_changes) ─▶ store
//!                           ├─▶ policy ─▶ collector ─▶ proxies
//!                           └─▶ alerts ─▶ notifier ─▶ webhooks; deliveries ─▶ store
//! ```
//!
//! Start: bind every socket, open the store, serve; the analyzer is restored once the log's past is
//! replayed, while requests are taken. Stop, outermost
//! first: doors close, the analysis loop drains, webhooks end, the store flushes and closes.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use weir_analyzer::{Command, Snapshot};
use weir_collector::{Collector, Proxies, Stats};
use weir_policy::PolicySet;
use weir_store::Store;

use crate::{
    config::{Config, Listen},
    door::Door,
    exit::Unreachable,
    target,
};

mod alerts;
mod analysis;
mod logs_and_metrics;
mod metrics;
mod own_thread;

pub(crate) use analysis::{Checkpoint, complete_backup, complete_minutes};
pub(crate) use logs_and_metrics::LogsAndMetricsOut;
use own_thread::OwnThread;

/// Batches waiting for the analyzer; a full queue makes the ack wait, and so the sender.
const ANALYSIS_QUEUE: usize = 64;

/// Commands from the web and the CLI waiting for the controller; a full queue refuses the next.
const COMMAND_QUEUE: usize = 64;

/// A running server.
pub struct Server {
    /// Where it listens.
    pub addresses: Addresses,
    /// Its store, for questions from the same process.
    pub store: Store,
    /// The newest view of the mesh.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Orders to the controller.
    pub commands: mpsc::Sender<Command>,
    data: std::path::PathBuf,
    doors: CancellationToken,
    door_tasks: Vec<JoinHandle<std::io::Result<()>>>,
    analysis: OwnThread,
    /// A server that is dropped ends its loop too.
    analysis_stop: DropGuard,
    alerts: alerts::Alerts,
}

/// The sockets of a server, after binding.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// OTLP/gRPC and the policy stream.
    pub otlp_grpc: SocketAddr,
    /// OTLP/HTTP.
    pub otlp_http: SocketAddr,
    /// Web UI and HTTP API.
    pub web: SocketAddr,
    /// PostgreSQL wire.
    pub pg: SocketAddr,
}

/// The bound sockets.
pub struct Listeners {
    otlp_grpc: TcpListener,
    otlp_http: TcpListener,
    web: TcpListener,
    pg: TcpListener,
}

impl Listeners {
    /// Binds all of them; an address that is busy fails, unless it is a default and
    /// `fall_back_to_free_ports` is asked for.
    ///
    /// # Errors
    /// The address that cannot be bound, and why.
    pub async fn bind(listen: &Listen, fall_back_to_free_ports: bool) -> Result<Self, anyhow::Error> {
        let defaults = Listen::default();
        let fall_back = |address, default| fall_back_to_free_ports && address == default;
        Ok(Self {
            otlp_grpc: bind(listen.otlp_grpc, "OTLP/gRPC", fall_back(listen.otlp_grpc, defaults.otlp_grpc)).await?,
            otlp_http: bind(listen.otlp_http, "OTLP/HTTP", fall_back(listen.otlp_http, defaults.otlp_http)).await?,
            web: bind(listen.web, "web", fall_back(listen.web, defaults.web)).await?,
            pg: bind(listen.pg, "PostgreSQL", fall_back(listen.pg, defaults.pg)).await?,
        })
    }

    fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses {
            otlp_grpc: self.otlp_grpc.local_addr()?,
            otlp_http: self.otlp_http.local_addr()?,
            web: self.web.local_addr()?,
            pg: self.pg.local_addr()?,
        })
    }
}

async fn bind(address: SocketAddr, name: &str, fall_back: bool) -> Result<TcpListener, anyhow::Error> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(_) if fall_back => Ok(TcpListener::bind(SocketAddr::new(address.ip(), 0)).await?),
        Err(error) => Err(error).with_context(|| format!("{name} cannot listen on {address}")),
    }
}

impl Server {
    /// Opens the store, restores the analyzer and serves.
    ///
    /// # Errors
    /// A store that is in use or cannot be read.
    pub async fn start(config: Config, listeners: Listeners) -> Result<Self, anyhow::Error> {
        let addresses = listeners.addresses()?;
        let store = open_store(&config).await?;
        announce(&store, &config, addresses)?;

        let (batches, batches_in) = mpsc::channel(ANALYSIS_QUEUE);
        let (beside, beside_in) = logs_and_metrics::logs_and_metrics();
        let (commands, commands_in) = mpsc::channel(COMMAND_QUEUE);
        let (snapshot_out, snapshot) = watch::channel(Arc::new(Snapshot::default()));
        let (policy_out, policy) = watch::channel(Arc::new(PolicySet::default()));
        let (proxies, stats) = (Proxies::new(), Arc::new(Stats::default()));
        let alerts = alerts::Alerts::start(&config.web, store.clone())?;

        let analysis_stop = CancellationToken::new();
        let since = now_unix_nano();
        Checkpoint::begin(&store, since).await;
        let live = Arc::new(AtomicBool::new(false));
        let analysis = analysis::Start {
            config: config.analyzer.clone(),
            store: store.clone(),
            notifier: alerts.notifier(),
            snapshot: snapshot_out,
            policy: policy_out,
            live: live.clone(),
            since,
        };
        let analysis = analysis.run(batches_in, beside_in, commands_in, analysis_stop.clone());
        let analysis = OwnThread::start("weir-analysis", analysis).context("starting the analysis loop")?;

        let doors = CancellationToken::new();
        let door = Door::new(store.clone(), batches, beside, live);
        let collector = Collector::new(config.collector.clone(), door, policy, proxies.clone(), stats.clone());
        let deps = weir_web::Deps {
            store: store.clone(),
            snapshot: snapshot.clone(),
            commands: commands.clone(),
            proxies: Arc::new(move || proxies.list().iter().map(proxy_view).collect()),
            metrics: metrics::prometheus(store.clone(), stats, snapshot.clone(), alerts.notifier()),
            ready: metrics::readiness(store.clone()),
            endpoints: endpoints(addresses),
            notifier: alerts.notifier(),
        };
        let door_tasks = vec![
            tokio::spawn(collector.clone().serve_grpc(listeners.otlp_grpc, doors.clone())),
            tokio::spawn(collector.serve_http(listeners.otlp_http, doors.clone())),
            tokio::spawn(weir_web::serve(listeners.web, config.web, deps, doors.clone())),
            tokio::spawn(weir_store::postgres::serve(store.clone(), listeners.pg, doors.clone())),
        ];
        let (data, analysis_stop) = (config.data, analysis_stop.drop_guard());
        Ok(Self { addresses, store, snapshot, commands, data, doors, door_tasks, analysis, analysis_stop, alerts })
    }

    /// Stops in order and leaves everything in files.
    ///
    /// # Errors
    /// A door that failed while it served, or a store that cannot be closed.
    pub async fn stop(self) -> Result<(), anyhow::Error> {
        self.doors.cancel();
        let mut failed = None;
        for task in self.door_tasks {
            if let Err(error) =
                task.await.context("a server task panicked").and_then(|served| served.map_err(Into::into))
            {
                failed.get_or_insert(error);
            }
        }
        drop(self.analysis_stop);
        self.analysis.ended().await?;
        self.alerts.stop().await;
        // what is not in files yet is written, but for a log whose past is still read: the next start has it
        self.store.close().await.context("closing the store")?;
        target::Server::forget(&self.data);
        failed.map_or(Ok(()), Err)
    }
}

/// The wall clock, read here and handed to everything that needs the time.
#[must_use]
pub fn now_unix_nano() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

async fn open_store(config: &Config) -> Result<Store, anyhow::Error> {
    match Store::open(config.store()).await {
        Ok(store) => Ok(store),
        Err(error @ weir_store::OpenError::Locked { .. }) => Err(Unreachable(error.to_string()).into()),
        Err(error) => Err(error).with_context(|| format!("opening the store in {}", config.data.display())),
    }
}

/// Writes the server's doors beside the lock, for commands that find the folder in use.
fn announce(store: &Store, config: &Config, addresses: Addresses) -> Result<(), anyhow::Error> {
    let web = format!("http://{}", addresses.web);
    store.set_server_url(&web).context("writing the lock file")?;
    let otlp_http = Some(format!("http://{}", addresses.otlp_http));
    let otlp_grpc = Some(format!("http://{}", addresses.otlp_grpc));
    target::Server { web, otlp_http, otlp_grpc }.write(&config.data)
}

fn endpoints(addresses: Addresses) -> weir_web::Endpoints {
    weir_web::Endpoints {
        otlp_grpc: format!("http://{}", addresses.otlp_grpc),
        otlp_http: format!("http://{}", addresses.otlp_http),
    }
}

fn proxy_view(proxy: &weir_collector::ProxyState) -> weir_web::ProxyView {
    weir_web::ProxyView {
        service: proxy.service.clone(),
        instance: proxy.instance.clone(),
        applied_sequence: proxy.applied_sequence,
        refused: proxy.refused.clone(),
        connected_unix_nano: proxy.connected_unix_nano,
        last_seen_unix_nano: proxy.last_seen_unix_nano,
    }
}
