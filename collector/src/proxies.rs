//! [`Proxies`]: who follows the policy stream and what each has applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use tokio::sync::watch;
use weir_policy::Share;
use weir_schema::UnixNanos;

/// A proxy on the policy stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyState {
    /// Its workload.
    pub service: String,
    /// Which replica.
    pub instance: String,
    /// The newest set it enforces.
    pub applied_sequence: u64,
    /// Why it refused the last one; empty if it did not.
    pub refused: String,
    /// When it came.
    pub connected_unix_nano: UnixNanos,
    /// When it last said something.
    pub last_seen_unix_nano: UnixNanos,
}

/// All proxies that are connected now.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    connected: Arc<Mutex<BTreeMap<u64, ProxyState>>>,
    /// Moves when one comes or goes.
    moves: Arc<watch::Sender<()>>,
}

impl Proxies {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Who is connected, by service and instance.
    #[must_use]
    pub fn list(&self) -> Vec<ProxyState> {
        let mut proxies: Vec<_> = self.lock().values().cloned().collect();
        proxies.sort_by(|a, b| (&a.service, &a.instance).cmp(&(&b.service, &b.instance)));
        proxies
    }

    pub(crate) fn connect(&self, state: ProxyState) -> Connection {
        let mut connected = self.lock();
        let id = connected.last_key_value().map_or(0, |(id, _)| id + 1);
        connected.insert(id, state);
        drop(connected);
        self.moves.send_replace(());
        Connection { id, proxies: self.clone() }
    }

    /// The share of this replica among those of its service that are connected. Replicas are told apart by their instance:
    /// one that comes again before its old stream is given up is the same.
    pub(crate) fn share(&self, service: &str, instance: &str) -> Share {
        let connected = self.lock();
        let of_service = connected.values().filter(|proxy| proxy.service == service);
        let replicas: BTreeSet<&str> = of_service.map(|proxy| proxy.instance.as_str()).collect();
        let place = replicas.range(..instance).count();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Share::new(count(place), count(replicas.len())).unwrap_or(Share::WHOLE)
    }

    /// Tells when a proxy comes or goes.
    pub(crate) fn moves(&self) -> watch::Receiver<()> {
        self.moves.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, ProxyState>> {
        self.connected.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One proxy's place in the list; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    proxies: Proxies,
}

impl Connection {
    pub(crate) fn update(&self, change: impl FnOnce(&mut ProxyState)) {
        if let Some(state) = self.proxies.lock().get_mut(&self.id) {
            change(state);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.proxies.lock().remove(&self.id);
        self.proxies.moves.send_replace(());
    }
}
