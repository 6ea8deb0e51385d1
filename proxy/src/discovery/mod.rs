//! Finds the endpoints of upstreams that do not list them, on the control thread, as long as the proxy runs.
//!
//! Each source (DNS, a file, Consul) is a loop that publishes what it finds. A source that fails changes nothing at
//! first: the last good endpoints are kept, because an outage of the registry must not become one of the service, but not
//! for ever (`keep_endpoints_ms`), because their addresses become somebody else's. A source that answers that
//! nothing is there is believed at once. Requests notice a change by the set of endpoints that is swapped under them.

mod agent;
mod consul;
mod dns;
mod file;

use std::sync::Arc;

use tokio::time::{Duration, Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    config::{self, Discovery, Endpoint},
    security::ClientTls,
    telemetry::jittered,
    workload::Current,
};

/// The first wait after a failure; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(200);

/// 10 s: a registry that comes back is found soon, and a thousand proxies ask it a hundred times a second at most.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// What a source found, or why it found nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unavailable(String);

/// Where what is found for one upstream goes.
struct Registrar {
    current: Current,
    upstream: String,
    /// What this source has published.
    known: Option<Vec<Endpoint>>,
    /// How long endpoints outlive what found them.
    keep: Duration,
    /// How often in a row nothing was found.
    misses: u32,
    failing: bool,
}

/// Begins to look for the endpoints of every upstream that asks for it.
pub(crate) fn start(upstreams: &[config::Upstream], current: &Current, tasks: &TaskTracker, stop: &CancellationToken) {
    for upstream in upstreams {
        let Some(discovery) = upstream.discover.clone() else { continue };
        let registrar = Registrar::new(current.clone(), upstream);
        let tls = current.load().security.registry_tls(&upstream.name);
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(look(discovery, tls, registrar)).await });
    }
}

async fn look(discovery: Discovery, tls: Option<Arc<ClientTls>>, registrar: Registrar) {
    match discovery {
        Discovery::Dns(name) => dns::addresses(name, registrar).await,
        Discovery::DnsSrv(name) => dns::services(name, registrar).await,
        Discovery::File(path) => file::watch(path, registrar).await,
        Discovery::Consul(service) => consul::watch(service, tls, registrar).await,
    }
}

impl Registrar {
    fn new(current: Current, upstream: &config::Upstream) -> Self {
        let (name, keep) = (upstream.name.clone(), upstream.keep_endpoints());
        Self { current, upstream: name, known: None, keep, misses: 0, failing: false }
    }

    /// Takes what was found, if it is another set than before.
    fn found(&mut self, mut endpoints: Vec<Endpoint>) {
        if std::mem::take(&mut self.failing) {
            info!(upstream = self.upstream, "endpoints can be looked up again");
        }
        self.note(None);
        endpoints.sort_by(|a, b| a.address.cmp(&b.address));
        endpoints.dedup_by(|a, b| a.address == b.address);
        if !endpoints.is_empty() {
            self.misses = 0;
        }
        self.publish(endpoints, "by the word of its registry");
    }

    /// Takes that nothing is there, and tells how long to wait before the next look.
    fn found_none(&mut self) -> Duration {
        self.found(Vec::new());
        self.back_off()
    }

    /// Takes note of a failure, and tells how long to wait before the next try.
    fn failed(&mut self, error: &Unavailable) -> Duration {
        if !std::mem::replace(&mut self.failing, true) {
            warn!(upstream = self.upstream, %error, keep_s = self.keep.as_secs(), "endpoints cannot be looked up; the last ones are kept");
        }
        let since = self.note(Some(Instant::now()));
        if since.is_some_and(|since| since.elapsed() >= self.keep) {
            self.publish(Vec::new(), "since they could not be looked up for keep_endpoints_ms");
        }
        self.back_off()
    }

    fn publish(&mut self, endpoints: Vec<Endpoint>, why: &str) {
        if self.known.as_ref() == Some(&endpoints) {
            return;
        }
        if endpoints.is_empty() {
            warn!(upstream = self.upstream, "no endpoint is left, {why}");
        } else {
            info!(upstream = self.upstream, endpoints = endpoints.len(), "endpoints changed");
        }
        self.current.load().publish(&self.upstream, &endpoints);
        self.known = Some(endpoints);
    }

    /// Notes since when the source fails, unless that is known already; over reloads, too.
    fn note(&self, failing: Option<Instant>) -> Option<Instant> {
        let workload = self.current.load();
        let upstream = workload.upstreams.iter().find(|upstream| upstream.name == self.upstream)?;
        let mut since = upstream.failing_since.lock();
        *since = failing.and(since.or(failing));
        *since
    }

    fn back_off(&mut self) -> Duration {
        let backoff = MIN_BACKOFF.saturating_mul(1 << self.misses.min(10)).min(MAX_BACKOFF);
        self.misses = self.misses.saturating_add(1);
        jittered(backoff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, security::Security, workload::Workload};

    /// An upstream `app` that is looked for, and `v2`, a part of it.
    fn workload() -> Current {
        let text = "service: shop\nlisteners: [{ address: '127.0.0.1:0', direction: outbound, routes: [{ upstream: app }] }]\n\
            upstreams: [{ name: app, keep_endpoints_ms: 60000, discover: { file: x } }, \
            { name: v2, subset_of: { upstream: app, labels: {} } }]";
        let config = Config::from_yaml(text).unwrap();
        let first = "127.0.0.1:80".parse().unwrap();
        let workload = Workload::new(&config, first, Arc::default(), Security::default());
        Arc::new(arc_swap::ArcSwap::from_pointee(workload))
    }

    fn registrar(current: &Current) -> Registrar {
        let upstream =
            config::Upstream { name: "app".into(), keep_endpoints_ms: Some(60_000), ..config::Upstream::default() };
        Registrar::new(current.clone(), &upstream)
    }

    /// What a registry said was gone used to stay for ever, and so did what it could not tell of.
    #[tokio::test(start_paused = true)]
    async fn what_is_gone_goes_at_once_and_what_is_unknown_after_a_while() {
        let current = workload();
        let there = || current.load().upstreams.iter().map(|upstream| upstream.endpoints().len()).collect::<Vec<_>>();
        let down = Unavailable("down".to_owned());
        let mut registrar = registrar(&current);
        registrar.found(vec!["a:1".into(), "b:1".into(), "a:1".into()]);
        assert_eq!(there(), [2, 2]);
        let wait = registrar.found_none();
        assert_eq!(there(), [0, 0], "an answer is believed");
        assert!(wait <= MAX_BACKOFF && registrar.found_none() <= MAX_BACKOFF);

        registrar.found(vec!["a:1".into()]);
        registrar.failed(&down);
        tokio::time::advance(Duration::from_millis(59_999)).await;
        registrar.failed(&down);
        assert_eq!(there(), [1, 1], "an outage of the registry is none of the service");
        registrar.found(vec!["a:1".into()]);
        registrar.failed(&down);
        tokio::time::advance(Duration::from_secs(59)).await;
        registrar.failed(&down);
        assert_eq!(there(), [1, 1], "it was well in between");
        // as after a reload
        let mut registrar = Registrar { known: None, ..registrar };
        tokio::time::advance(Duration::from_secs(1)).await;
        registrar.failed(&down);
        assert_eq!(there(), [0, 0], "somebody else may have the address by now");
        registrar.found(vec!["a:1".into()]);
        assert_eq!(there(), [1, 1]);
    }
}
