//! [`Proxy`]: binds, starts the threads, and drains them in order: traffic first, telemetry last.

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpListener,
    runtime,
    sync::{mpsc, oneshot},
    task::LocalSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Endpoint;
use weir_policy::PolicySet;

use crate::{
    config::{Config, ConfigError, PolicySource},
    control::{Admin, Follower, StateFile, serve_admin},
    counters::{Counters, Tally},
    reload::{ReloadError, Reloader, Status},
    sockets::{Addresses, Sockets, bind_admin, bind_missing, listener_keys},
    telemetry::{self, Exporter},
    traffic::{DataThread, Order},
    workload::{Current, Workload},
};

/// A running sidecar.
pub struct Proxy {
    admin: Option<SocketAddr>,
    current: Current,
    reloader: Reloader,
    draining: CancellationToken,
    stopping: CancellationToken,
    data: Vec<JoinHandle<()>>,
    control: JoinHandle<()>,
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The folder for the last good policy cannot be used.
    #[error("policy.state_dir {folder}: {source}")]
    StateDir {
        /// As configured.
        folder: String,
        /// Why.
        source: io::Error,
    },
    /// The machine gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

impl Proxy {
    /// Binds every address, then starts; when it returns, connections are accepted.
    ///
    /// # Errors
    /// What cannot be used, and why; nothing runs then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        config.validate()?;
        let keys = listener_keys(&config);
        let (addresses, sockets) = bind_missing(&keys, config.thread_count(), &Addresses::new())?;
        let admin = config.admin.map(bind_admin).transpose()?;
        let admin_address = admin.as_ref().and_then(|a| a.local_addr().ok());
        let state = state_file(&config)?;
        let (spans, records) = match &config.telemetry.otlp {
            Some(_) => Some(telemetry::channel(&config.telemetry)).unzip(),
            None => (None, None),
        };
        let workload = Arc::new(Workload::new(&config, addresses[&keys[0]], Arc::new(Tally::default()), spans));
        let current: Current = Arc::new(ArcSwap::new(workload.clone()));
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        let status = Status { reloads: 0, refused: None, config: Arc::new(config.clone()) };
        let status = Arc::new(ArcSwap::from_pointee(status));
        let control = Control {
            current: current.clone(),
            exporter: records.map(|records| (config.telemetry.clone(), records)),
            policy: config.policy.clone().map(|source| (source, state)),
            admin,
            status: status.clone(),
            draining: draining.clone(),
            stopping: stopping.clone(),
        };
        let control = spawn("control", move |runtime| runtime.block_on(control.run()))?;
        let (orders, data) = start_data(&workload, sockets, &draining)?;
        let reloader = Reloader::new(current.clone(), orders, addresses, status);
        Ok(Self { admin: admin_address, current, reloader, draining, stopping, data, control })
    }

    /// Where it listens, in the order of the configuration's listeners.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.reloader.addresses()
    }

    /// Puts another configuration in force without losing a request: listeners that stay keep their sockets
    /// and connections, new ones begin, others drain. When it returns, every thread obeys.
    ///
    /// # Errors
    /// Why it is refused whole; the one before then stays.
    pub async fn reload(&self, config: Config) -> Result<(), ReloadError> {
        self.reloader.reload(config).await
    }

    /// Notes for the log and `/config` that a configuration could not even be read.
    pub fn refuse_config(&self, why: &str) {
        self.reloader.refuse(why);
    }

    /// Where `/metrics` and the like are answered.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.current.load().tally.read()
    }

    /// What is enforced now.
    #[must_use]
    pub fn policy(&self) -> Arc<PolicySet> {
        self.current.load().applied.load_full()
    }

    /// Resolves when somebody asked it to drain at the admin address.
    pub async fn drain_requested(&self) {
        self.draining.cancelled().await;
    }

    /// Stops accepting, lets requests under way finish, sends what was recorded, and returns the final
    /// counts. Nothing is left running.
    pub async fn drain(self) -> Counters {
        self.draining.cancel();
        join(self.data).await;
        self.stopping.cancel();
        join(vec![self.control]).await;
        self.current.load().tally.read()
    }
}

/// What the control thread runs.
struct Control {
    current: Current,
    exporter: Option<(crate::config::Telemetry, mpsc::Receiver<telemetry::SpanRecord>)>,
    policy: Option<(PolicySource, Option<StateFile>)>,
    admin: Option<std::net::TcpListener>,
    status: Arc<ArcSwap<Status>>,
    draining: CancellationToken,
    stopping: CancellationToken,
}

impl Control {
    async fn run(self) {
        let Self { current, exporter, policy, admin, status, draining, stopping } = self;
        let tasks = TaskTracker::new();
        if let Some((telemetry, records)) = exporter
            && let Some(endpoint) = telemetry.otlp.clone().and_then(|url| Endpoint::from_shared(url).ok())
        {
            let exporter = Exporter::new(telemetry, current.clone(), records, endpoint.connect_lazy());
            tasks.spawn(exporter.run(stopping.clone()));
        }
        if let Some((source, state)) = policy
            && let Ok(endpoint) = Endpoint::from_shared(source.from)
        {
            let follower = Follower::new(current.clone(), endpoint.connect_lazy(), state);
            tasks.spawn(follower.run(stopping.clone()));
        }
        if let Some(listener) = admin.and_then(|a| TcpListener::from_std(a).ok()) {
            tasks.spawn(serve_admin(listener, Admin { current, status, drain: draining }, stopping));
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Where each data thread takes its orders.
type Orders = Vec<mpsc::Sender<Order>>;

/// Starts a thread for each set of sockets, with its first order.
fn start_data(
    workload: &Arc<Workload>,
    sockets: Vec<Sockets>,
    draining: &CancellationToken,
) -> Result<(Orders, Vec<JoinHandle<()>>), StartError> {
    let (mut orders, mut threads) = (Vec::new(), Vec::new());
    for sockets in sockets {
        // one order at a time: a reload waits until the one before is obeyed
        let (order, received) = mpsc::channel(1);
        let first = Order { workload: workload.clone(), sockets, done: oneshot::channel().0 };
        order.try_send(first).map_err(|_| StartError::Thread(io::Error::other("a new queue is full")))?;
        let draining = draining.clone();
        let run = move |runtime: &runtime::Runtime| {
            LocalSet::new().block_on(runtime, DataThread::new(draining).run(received));
        };
        threads.push(spawn("data", run)?);
        orders.push(order);
    }
    Ok((orders, threads))
}

fn state_file(config: &Config) -> Result<Option<StateFile>, StartError> {
    let Some(folder) = config.policy.as_ref().and_then(|p| p.state_dir.as_ref()) else { return Ok(None) };
    let file = StateFile::new(folder, &config.service);
    file.map(Some).map_err(|source| StartError::StateDir { folder: folder.display().to_string(), source })
}

fn spawn(name: &str, run: impl FnOnce(&runtime::Runtime) + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
    let thread = std::thread::Builder::new().name(format!("weir-proxy-{name}"));
    thread.spawn(move || run(&runtime)).map_err(StartError::Thread)
}

async fn join(threads: Vec<JoinHandle<()>>) {
    let all = tokio::task::spawn_blocking(|| threads.into_iter().map(JoinHandle::join).collect::<Vec<_>>());
    for ended in all.await.unwrap_or_default() {
        if ended.is_err() {
            tracing::error!("a thread of the proxy panicked");
        }
    }
}
