//! [`Proxy`]: binds, starts the threads, and drains them in order: traffic first, telemetry last.

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use tokio::{
    runtime::{self, LocalOptions},
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;
use weir_policy::PolicySet;

use crate::{
    config::{Config, ConfigError},
    control::{Control, InForce, Remembered, StateFile},
    counters::{Counters, Tally},
    reload::{ReloadError, Reloader, Status},
    security::{Security, SecurityError, default_provider},
    sockets::{Addresses, Sockets, bind_admin, bind_missing, listener_keys},
    telemetry::{self, Recorder, Taps},
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
        let config = config.resolved()?;
        let security = Security::open(&config, provider, None)?;
        let keys = listener_keys(&config);
        let (addresses, sockets) = bind_missing(&keys, config.thread_count(), &Addresses::new())?;
        let admin = config.admin.map(bind_admin).transpose()?;
        let admin_address = admin.as_ref().and_then(|a| a.local_addr().ok());
        let tally = Arc::new(Tally::default());
        let config = Arc::new(config);
        let in_force = InForce::open(config.clone(), None, &tally)?;
        let taps = Arc::default();
        let (recorders, rings) = telemetry::rings(&config.telemetry, &taps, sockets.len());
        let workload = Arc::new(Workload::new(&config, addresses[&keys[0]], tally, security));
        let current: Current = Arc::new(ArcSwap::new(workload.clone()));
        // before the first request
        let kept = in_force.state.as_ref().and_then(StateFile::read);
        let remembered = kept.map(|kept| Remembered::enforce(kept, &current)).unwrap_or_default();
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        let status = Arc::new(ArcSwap::from_pointee(Status { reloads: 0, refused: None, config: config.clone() }));
        let (reloaded, in_force) = watch::channel(in_force);
        let control = Control {
            current: current.clone(),
            in_force,
            rings,
            taps: Arc::new(Taps::new(taps)),
            remembered,
            admin,
            status: status.clone(),
            draining: draining.clone(),
            stopping: stopping.clone(),
        };
        let control = spawn("control", move || control.run())?;
        let (orders, data) = start_data(&workload, sockets, recorders, &draining)?;
        let reloader = Reloader::new(current.clone(), orders, addresses, status, reloaded, provider.clone());
        Ok(Self { admin: admin_address, current, reloader, draining, stopping, data, control })
    }

    /// Checks a configuration and the files it names for certificates and keys; nothing is bound or started.
    ///
    /// # Errors
    /// What could not be used.
    pub fn check(config: &Config) -> Result<(), StartError> {
        config.validate()?;
        Security::open(config, &default_provider(), None)?;
        Ok(())
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

    /// Looks at once whether the access log's file was renamed or removed, and if so goes on in a new one. Without being
    /// asked it looks once a second.
    pub fn reopen_access_log(&self) {
        self.reloader.reopen_access_log();
    }

    /// What is in force, as `/config` shows it.
    #[cfg(test)]
    pub(crate) fn config(&self) -> Arc<Config> {
        self.reloader.status().config.clone()
    }

    /// Why the last configuration was refused, unless one was taken since.
    #[cfg(test)]
    pub(crate) fn refused_config(&self) -> Option<String> {
        self.reloader.status().refused.clone()
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

    /// Tells clients to go, closes the sockets once others can have heard of it (`timeouts.lame_duck_ms`), lets requests
    /// under way finish, sends what was recorded, and returns the final counts. Nothing is left running, but for a name that is still being looked up.
    pub async fn drain(self) -> Counters {
        self.draining.cancel();
        join(self.data).await;
        self.stopping.cancel();
        join(vec![self.control]).await;
        let unfinished_logs = self.reloader.unfinished_logs();
        // with the access log, whose last lines count too
        drop(self.reloader);
        telemetry::finish_access_logs(unfinished_logs).await;
        self.current.load().tally.read()
    }
}

/// Where each data thread takes its orders.
type Orders = Vec<mpsc::Sender<Order>>;

/// Starts a thread for each set of sockets, with its first order.
fn start_data(
    workload: &Arc<Workload>,
    sockets: Vec<Sockets>,
    recorders: Vec<Recorder>,
    draining: &CancellationToken,
) -> Result<(Orders, Vec<JoinHandle<()>>), StartError> {
    let (mut orders, mut threads) = (Vec::new(), Vec::new());
    for (sockets, recorder) in sockets.into_iter().zip(recorders) {
        // one order at a time: a reload waits until the one before is obeyed
        let (order, received) = mpsc::channel(1);
        let first = Order { workload: workload.clone(), sockets, done: oneshot::channel().0 };
        order.try_send(first).map_err(|_| StartError::Thread(io::Error::other("a new queue is full")))?;
        let draining = draining.clone();
        threads.push(spawn("data", move || DataThread::new(recorder, draining).run(received))?);
        orders.push(order);
    }
    Ok((orders, threads))
}

/// A thread with a runtime of its own, which no task leaves; when it returns, both are there.
fn spawn<F>(name: &str, run: impl FnOnce() -> F + Send + 'static) -> Result<JoinHandle<()>, StartError>
where
    F: Future<Output = ()>,
{
    let (told, started) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("weir-proxy-{name}"));
    let body = move || {
        // it cannot be handed to another thread, so it is made in its own
        let runtime = runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let (runtime, made) = match runtime {
            Ok(runtime) => (Some(runtime), Ok(())),
            Err(error) => (None, Err(error)),
        };
        told.send(made).expect("whoever starts the thread waits for this");
        if let Some(runtime) = runtime {
            runtime.block_on(run());
            // a name that is looked up for a connection nobody waits for any more may take the resolver's half minute
            runtime.shutdown_background();
        }
    };
    let thread = thread.spawn(body).map_err(StartError::Thread)?;
    let started = started.recv().unwrap_or_else(|_| Err(io::Error::other("it ended before it began")));
    started.map(|()| thread).map_err(StartError::Thread)
}

async fn join(threads: Vec<JoinHandle<()>>) {
    let all = tokio::task::spawn_blocking(|| threads.into_iter().map(JoinHandle::join).collect::<Vec<_>>());
    for ended in all.await.unwrap_or_default() {
        if ended.is_err() {
            tracing::error!("a thread of the proxy panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    /// A thread ended only when the last name was looked up, however long the resolver took.
    #[test]
    fn a_thread_does_not_wait_for_what_nobody_needs_any_more() {
        let (resolver, answer) = mpsc::channel::<()>();
        let (began, begun) = tokio::sync::oneshot::channel();
        let looks_up = async move {
            tokio::task::spawn_blocking(move || {
                began.send(()).unwrap();
                answer.recv()
            });
            begun.await.unwrap();
        };
        let thread = spawn("test", || looks_up).unwrap();
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || ended.send(thread.join().is_ok()));
        assert_eq!(end.recv_timeout(Duration::from_secs(30)), Ok(true));
        drop(resolver);
    }
}
