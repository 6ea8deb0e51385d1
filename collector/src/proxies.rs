//! [`Proxies`]: who follows the policy stream and what each has applied.

use std::{collections::BTreeMap, sync::Arc};

use std::sync::Mutex;
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
        Connection { id, proxies: self.clone() }
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
    }
}
