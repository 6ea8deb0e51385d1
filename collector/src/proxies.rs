//! [`Proxies`]: who follows the policy stream and what each has applied.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use tokio::sync::watch;
use weir_policy::ReplicaShare;
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
    connected: Arc<Mutex<Connected>>,
    /// Moves when one comes or goes.
    moves: Arc<watch::Sender<()>>,
}

#[derive(Debug, Default)]
struct Connected {
    by_id: BTreeMap<u64, ProxyState>,
    by_service: HashMap<String, Replicas>,
}

/// The replicas of a service in the order of their instances, and how many streams each has open. Sorted, so that each of n finds
/// its place in log n steps when all ask at once.
#[derive(Debug, Default)]
struct Replicas(Vec<(String, u32)>);

impl Proxies {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Who is connected, by service and instance.
    #[must_use]
    pub fn list(&self) -> Vec<ProxyState> {
        let mut proxies: Vec<_> = self.lock().by_id.values().cloned().collect();
        proxies.sort_by(|a, b| (&a.service, &a.instance).cmp(&(&b.service, &b.instance)));
        proxies
    }

    pub(crate) fn connect(&self, state: ProxyState) -> Connection {
        let mut connected = self.lock();
        let id = connected.by_id.last_key_value().map_or(0, |(id, _)| id + 1);
        connected.by_service.entry(state.service.clone()).or_default().add(&state.instance);
        connected.by_id.insert(id, state);
        drop(connected);
        self.moves.send_replace(());
        Connection { id, proxies: self.clone() }
    }

    /// The share of this replica among those of its service that are connected. Replicas are told apart by their instance:
    /// one that comes again before its old stream is given up is the same.
    pub(crate) fn share(&self, service: &str, instance: &str) -> ReplicaShare {
        self.lock().by_service.get(service).and_then(|replicas| replicas.share(instance)).unwrap_or(ReplicaShare::WHOLE)
    }

    /// Tells when a proxy comes or goes.
    pub(crate) fn moves(&self) -> watch::Receiver<()> {
        self.moves.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connected> {
        self.connected.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Connected {
    fn remove(&mut self, id: u64) {
        let Some(ProxyState { service, instance, .. }) = self.by_id.remove(&id) else { return };
        let Some(replicas) = self.by_service.get_mut(&service) else { return };
        replicas.remove(&instance);
        if replicas.0.is_empty() {
            self.by_service.remove(&service);
        }
    }
}

impl Replicas {
    fn find(&self, instance: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.as_str().cmp(instance))
    }

    fn add(&mut self, instance: &str) {
        match self.find(instance) {
            Ok(place) => self.0[place].1 += 1,
            Err(place) => self.0.insert(place, (instance.to_owned(), 1)),
        }
    }

    fn remove(&mut self, instance: &str) {
        let Ok(place) = self.find(instance) else { return };
        self.0[place].1 -= 1;
        if self.0[place].1 == 0 {
            self.0.remove(place);
        }
    }

    fn share(&self, instance: &str) -> Option<ReplicaShare> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        ReplicaShare::new(count(self.find(instance).ok()?), count(self.0.len()))
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
        if let Some(state) = self.proxies.lock().by_id.get_mut(&self.id) {
            change(state);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.proxies.lock().remove(self.id);
        self.proxies.moves.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(service: &str, instance: u32) -> ProxyState {
        ProxyState { service: service.into(), instance: format!("{instance:04}"), ..ProxyState::default() }
    }

    /// With n replicas of a service each counted the whole list at a move of one, which cost n² steps.
    #[test]
    fn each_replica_has_the_place_of_its_instance_however_they_come_and_go() {
        let (proxies, mut there) = (Proxies::new(), Vec::new());
        for turn in 0..500_u32 {
            // each comes up to three times, and a third of them goes
            let which = turn.wrapping_mul(2_654_435_761) >> 16;
            if which % 3 == 0 && !there.is_empty() {
                drop(there.swap_remove(which as usize % there.len()));
            }
            there.push(proxies.connect(of("tagger", which % 150)));
            let _other = proxies.connect(of("parser", turn));
            let mut instances: Vec<String> =
                proxies.list().into_iter().filter(|p| p.service == "tagger").map(|p| p.instance).collect();
            instances.dedup();
            for (place, instance) in instances.iter().enumerate() {
                let expected = ReplicaShare::new(place as u32, instances.len() as u32).unwrap();
                assert_eq!(proxies.share("tagger", instance), expected);
            }
        }
        assert_eq!(proxies.share("tagger", "unknown"), ReplicaShare::WHOLE);
        there.clear();
        assert!(proxies.lock().by_service.is_empty(), "nobody is remembered who has gone");
    }
}
