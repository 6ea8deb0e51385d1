//! [`Reloader`]: a new configuration for a proxy that runs, without a request lost: compiled and bound
//! beside the old, then swapped on every thread. What cannot be used is refused whole and the old stays.
//!
//! Limits, breakers and counts of routes that stay are carried over, so a reload lets nobody in twice.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::{
    config::{Config, ConfigError},
    control::InForce,
    counters::add,
    proxy::StartError,
    security::{Security, SecurityError},
    sockets::{Addresses, bind_missing, listener_keys},
    traffic::Order,
    workload::{Current, Workload},
};

/// Why a configuration is not taken while the proxy runs.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It cannot be used at all.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It could be used, but not by a proxy that runs already.
    #[error("{key} cannot change while the proxy runs: restart it")]
    Fixed {
        /// The first key that differs.
        key: &'static str,
    },
    /// A certificate, a key or a set of keys cannot be used.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// A new listener cannot be bound.
    #[error(transparent)]
    Bind(#[from] StartError),
    /// The data threads are ending.
    #[error("the proxy is draining")]
    Draining,
}

impl ReloadError {
    /// Whether the same configuration may be taken later: what it names outside of itself can change.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Security(_) | Self::Bind(_) => true,
            Self::Config(_) | Self::Fixed { .. } | Self::Draining => false,
        }
    }
}

/// What `/config` tells.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    /// How many were taken since the start, the first not counted.
    pub(crate) reloads: u64,
    /// Why the last one was refused, unless one was taken since.
    pub(crate) refused: Option<String>,
    /// What is in force.
    pub(crate) config: Arc<Config>,
}

/// Takes configurations one after the other.
pub(crate) struct Reloader {
    current: Current,
    orders: Vec<mpsc::Sender<Order>>,
    /// One reload at a time.
    addresses: tokio::sync::Mutex<Addresses>,
    /// The same, for those who only ask.
    listening: Mutex<Vec<SocketAddr>>,
    status: Arc<ArcSwap<Status>>,
    /// Tells the control thread.
    reloaded: watch::Sender<InForce>,
    provider: Arc<CryptoProvider>,
}

impl Reloader {
    pub(crate) fn new(
        current: Current,
        orders: Vec<mpsc::Sender<Order>>,
        addresses: Addresses,
        status: Arc<ArcSwap<Status>>,
        reloaded: watch::Sender<InForce>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        let listening = Mutex::new(in_order(&status.load().config, &addresses));
        Self { current, orders, addresses: tokio::sync::Mutex::new(addresses), listening, status, reloaded, provider }
    }

    /// Where it listens, in the order of the configuration in force.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.listening.lock().clone()
    }

    /// Asks it to look for its file at once.
    pub(crate) fn reopen_access_log(&self) {
        self.reloaded.borrow().access_log.iter().for_each(|log| log.reopen().ask());
    }

    /// The access logs that are not written to their end.
    pub(crate) fn unfinished_logs(&self) -> TaskTracker {
        self.reloaded.borrow().unfinished_logs.clone()
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> Arc<Status> {
        self.status.load_full()
    }

    /// Puts `config` in force, or says why not; when it returns, every thread obeys.
    pub(crate) async fn reload(&self, config: Config) -> Result<(), ReloadError> {
        let taken = self.take(config).await;
        match &taken {
            Ok(()) => {
                let workload = self.current.load();
                add(&workload.tally.configs_applied, 1);
                workload.config_refused.store(false, Relaxed);
                info!("a new configuration is in force");
            }
            Err(error) => self.refuse(&error.to_string()),
        }
        taken
    }

    /// Notes that a configuration could not be used.
    pub(crate) fn refuse(&self, why: &str) {
        warn!(why, "a new configuration was refused whole; the one before stays");
        let workload = self.current.load();
        add(&workload.tally.configs_refused, 1);
        workload.config_refused.store(true, Relaxed);
        self.status.rcu(|status| Status { refused: Some(why.to_owned()), ..Status::clone(status) });
    }

    async fn take(&self, config: Config) -> Result<(), ReloadError> {
        let config = config.resolved()?;
        let mut addresses = self.addresses.lock().await;
        if let Some(key) = fixed(&self.status.load().config, &config) {
            return Err(ReloadError::Fixed { key });
        }
        let (now, sockets) = bind_missing(&listener_keys(&config), self.orders.len(), &addresses)?;
        let (config, before) = (Arc::new(config), self.current.load_full());
        let security = Security::open(&config, &self.provider, Some(&before.security))?;
        let in_force = self.in_force(&config, &before).await?;
        let after = Workload::succeed(&self.current, &config, security);
        let mut obeyed = Vec::new();
        for (orders, sockets) in self.orders.iter().zip(sockets) {
            let (done, told) = oneshot::channel();
            let order = Order { workload: after.clone(), sockets, done };
            orders.send(order).await.map_err(|_| ReloadError::Draining)?;
            obeyed.push(told);
        }
        for told in obeyed {
            told.await.map_err(|_| ReloadError::Draining)?;
        }
        *self.listening.lock() = in_order(&config, &now);
        *addresses = now;
        self.status.rcu(|status| Status { reloads: status.reloads + 1, refused: None, config: config.clone() });
        self.reloaded.send_replace(in_force);
        Ok(())
    }

    /// What `config` names beside the traffic, opened where a disk that hangs holds nobody up.
    async fn in_force(&self, config: &Arc<Config>, now: &Workload) -> Result<InForce, ReloadError> {
        let (config, before, tally) = (config.clone(), self.reloaded.borrow().clone(), now.tally.clone());
        let opened = tokio::task::spawn_blocking(move || InForce::open(config, Some(&before), &tally));
        Ok(opened.await.map_err(|_| ReloadError::Draining)??)
    }
}

/// The first key that differs although it holds for as long as the process.
fn fixed(old: &Config, new: &Config) -> Option<&'static str> {
    let differs = [
        ("service", old.service != new.service),
        ("instance", old.instance != new.instance),
        ("threads", old.thread_count() != new.thread_count()),
        ("admin", old.admin != new.admin),
    ];
    differs.into_iter().find_map(|(key, differs)| differs.then_some(key))
}

fn in_order(config: &Config, addresses: &Addresses) -> Vec<SocketAddr> {
    listener_keys(config).iter().filter_map(|key| addresses.get(key).copied()).collect()
}
