//! [`Proxy`]: binds, starts the threads, and drains them in order: traffic first, telemetry last.

use std::{io, net::SocketAddr, path::Path, sync::Arc, thread::JoinHandle};

use rustls::crypto::CryptoProvider;
use tokio::{net::TcpListener, runtime, sync::mpsc, task::LocalSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Endpoint;
use weir_policy::PolicySet;

use crate::{
    config::{Config, ConfigError, LocalLimit, PolicySource, Secret, Telemetry},
    control::{Admin, Follower, StateFile, hold, serve_admin},
    counters::{Counters, Tally},
    discovery,
    security::{Security, SecurityError, default_provider},
    telemetry::{self, Exporter, Gatherer, LogWriter, Recorder, Rings, Taps, Wanted},
    traffic::{Worker, bind},
    workload::Workload,
};

/// A running sidecar.
pub struct Proxy {
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    workload: Arc<Workload>,
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
    /// A file that the configuration names cannot be used.
    #[error("{key} {path}: {source}")]
    File {
        /// The key that names it.
        key: &'static str,
        /// As configured.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A certificate, a key or a set of keys cannot be used.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The machine gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

type Sockets = Vec<std::net::TcpListener>;

impl Proxy {
    /// Binds every address, then starts; when it returns, connections are accepted. TLS is done by aws-lc.
    ///
    /// # Errors
    /// What cannot be used, and why; nothing runs then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, &default_provider())
    }

    /// As [`Self::start`], with another library for the cryptography of TLS. The process's default is never asked.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_with(config: Config, provider: &Arc<CryptoProvider>) -> Result<Self, StartError> {
        config.validate()?;
        let config = config.with_istio()?;
        config.validate()?;
        let security = Security::open(&config, provider)?;
        let (addresses, threads) = bind_all(&config)?;
        let admin = config.admin.map(bind_admin).transpose()?;
        let admin_address = admin.as_ref().and_then(|a| a.local_addr().ok());
        let state = state_file(&config)?;
        let tally = Arc::new(Tally::default());
        let token = admin_token(&config)?;
        let access_log = access_log(&config, &tally)?;
        let wanted = Arc::new(Wanted::new(&config.telemetry));
        let (recorders, rings) = telemetry::rings(&config.telemetry, &wanted, threads.len());
        let workload = Arc::new(Workload::new(&config, addresses[0], tally, security));
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        let control = Control {
            workload: workload.clone(),
            upstreams: config.upstreams.clone(),
            telemetry: config.telemetry.clone(),
            rings,
            access_log,
            taps: Arc::new(Taps::new(wanted)),
            token,
            policy: config.policy.clone().map(|source| (source, state)),
            local_limit: config.limits.local_limit,
            admin,
            draining: draining.clone(),
            stopping: stopping.clone(),
        };
        let control = spawn("control", move |runtime| runtime.block_on(control.run()))?;
        let start_data = |(sockets, recorder): (Sockets, Recorder)| {
            let (workload, shutdown) = (workload.clone(), draining.clone());
            spawn("data", move |runtime| {
                let worker = Worker::new(workload, recorder, config.max_connections);
                LocalSet::new().block_on(runtime, worker.run(sockets, shutdown));
            })
        };
        let data = threads.into_iter().zip(recorders).map(start_data).collect::<Result<_, _>>()?;
        Ok(Self { addresses, admin: admin_address, workload, draining, stopping, data, control })
    }

    /// Checks a configuration and the files it names for certificates and keys; nothing is bound or started.
    ///
    /// # Errors
    /// What could not be used.
    pub fn check(config: &Config) -> Result<(), StartError> {
        config.validate()?;
        Security::open(config, &default_provider())?;
        Ok(())
    }

    /// Where it listens, in the order of the configuration's listeners.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where `/metrics` and the like are answered.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.workload.tally.read()
    }

    /// What is enforced now.
    #[must_use]
    pub fn policy(&self) -> Arc<PolicySet> {
        self.workload.applied.load_full()
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
        self.workload.tally.read()
    }
}

/// What the control thread runs.
struct Control {
    workload: Arc<Workload>,
    upstreams: Vec<crate::config::Upstream>,
    telemetry: Telemetry,
    rings: Rings,
    access_log: Option<LogWriter>,
    taps: Arc<Taps>,
    token: Option<Secret>,
    policy: Option<(PolicySource, Option<StateFile>)>,
    local_limit: Option<LocalLimit>,
    admin: Option<std::net::TcpListener>,
    draining: CancellationToken,
    stopping: CancellationToken,
}

impl Control {
    async fn run(self) {
        let Self {
            workload,
            upstreams,
            telemetry,
            rings,
            access_log,
            taps,
            token,
            policy,
            local_limit,
            admin,
            draining,
            stopping,
        } = self;
        let tasks = TaskTracker::new();
        discovery::start(&upstreams, &workload, &tasks, &stopping);
        let endpoint = telemetry.otlp.clone().and_then(|url| Endpoint::from_shared(url).ok());
        let records = endpoint.map(|endpoint| {
            let (records, queued) = mpsc::channel(telemetry.queue_records);
            let exporter = Exporter::new(telemetry, workload.clone(), queued, endpoint.connect_lazy());
            tasks.spawn(exporter.run(stopping.clone()));
            records
        });
        let gatherer = Gatherer::new(rings, records, access_log, taps.clone(), workload.clone());
        tasks.spawn(gatherer.run(stopping.clone()));
        if let Some(config) = local_limit {
            tasks.spawn(hold(workload.clone(), config, policy.is_some(), stopping.clone()));
        }
        if let Some((source, state)) = policy
            && let Ok(endpoint) = Endpoint::from_shared(source.from)
        {
            let follower = Follower::new(workload.clone(), endpoint.connect_lazy(), state);
            tasks.spawn(follower.run(stopping.clone()));
        }
        workload.security.watch(&tasks, &stopping);
        if let Some(listener) = admin.and_then(|a| TcpListener::from_std(a).ok()) {
            let admin = Admin { workload, taps, token, drain: draining };
            tasks.spawn(serve_admin(listener, admin, stopping));
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// One socket per listener and thread; port 0 is chosen once and shared.
fn bind_all(config: &Config) -> Result<(Vec<SocketAddr>, Vec<Sockets>), StartError> {
    let mut addresses = Vec::new();
    let mut threads: Vec<Sockets> = (0..config.thread_count()).map(|_| Vec::new()).collect();
    for listener in &config.listeners {
        let mut address = listener.address;
        if address.port() != 0 {
            // with SO_REUSEPORT a second proxy would silently share the port: ask without it first
            std::net::TcpListener::bind(address).map_err(bind_error(address))?;
        }
        for sockets in &mut threads {
            let socket = bind(address).map_err(bind_error(address))?;
            address = socket.local_addr().map_err(bind_error(address))?;
            sockets.push(socket);
        }
        addresses.push(address);
    }
    Ok((addresses, threads))
}

fn bind_admin(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let listener = std::net::TcpListener::bind(address).map_err(bind_error(address))?;
    listener.set_nonblocking(true).map_err(bind_error(address))?;
    Ok(listener)
}

fn bind_error(address: SocketAddr) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Bind { address, source }
}

fn admin_token(config: &Config) -> Result<Option<Secret>, StartError> {
    let Some(path) = &config.admin_token_file else { return Ok(config.admin_token.clone()) };
    let key = "admin_token_file";
    let text = std::fs::read_to_string(path).map_err(file_error(key, path))?;
    let token = Secret::new(&text);
    if token.is_empty() {
        return Err(file_error(key, path)(io::Error::other("it is empty: anybody would know the token")));
    }
    Ok(Some(token))
}

fn access_log(config: &Config, tally: &Arc<Tally>) -> Result<Option<LogWriter>, StartError> {
    let Some(path) = &config.telemetry.access_log_file else { return Ok(None) };
    let opened = LogWriter::open(path, config.telemetry.access_log_format, tally.clone());
    opened.map(Some).map_err(file_error("telemetry.access_log_file", path))
}

fn file_error(key: &'static str, path: &Path) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::File { key, path: path.display().to_string(), source }
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
