//! Finds the endpoints of upstreams that do not list them, on the control thread, as long as the proxy runs.
//!
//! Each source (DNS, a file, Consul) is a loop that publishes what it finds. A source that fails, or
//! finds nothing where there was something, changes nothing: the last good endpoints are kept, because
//! an outage of the registry must not become one of the service. Requests notice a change by the set
//! of endpoints that is swapped under them.

mod consul;
mod dns;
mod file;

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    config::{self, Discovery, Endpoint},
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
    known: Vec<Endpoint>,
    failures: u32,
}

/// Begins to look for the endpoints of every upstream that asks for it.
pub(crate) fn start(upstreams: &[config::Upstream], current: &Current, tasks: &TaskTracker, stop: &CancellationToken) {
    for upstream in upstreams {
        let Some(discovery) = upstream.discover.clone() else { continue };
        let registrar =
            Registrar { current: current.clone(), upstream: upstream.name.clone(), known: Vec::new(), failures: 0 };
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(look(discovery, registrar)).await });
    }
}

async fn look(discovery: Discovery, registrar: Registrar) {
    match discovery {
        Discovery::Dns(name) => dns::addresses(name, registrar).await,
        Discovery::DnsSrv(name) => dns::services(name, registrar).await,
        Discovery::File(path) => file::watch(path, registrar).await,
        Discovery::Consul(service) => consul::watch(service, registrar).await,
    }
}

impl Registrar {
    /// Takes what was found, if it is another set than before.
    fn found(&mut self, mut endpoints: Vec<Endpoint>) {
        if self.failures > 0 {
            info!(upstream = self.upstream, "endpoints are found again");
            self.failures = 0;
        }
        endpoints.sort_by(|a, b| a.address.cmp(&b.address));
        endpoints.dedup_by(|a, b| a.address == b.address);
        if endpoints == self.known {
            return;
        }
        if endpoints.is_empty() {
            warn!(upstream = self.upstream, "no endpoint is there any more; the last ones are kept");
            return;
        }
        info!(upstream = self.upstream, endpoints = endpoints.len(), "endpoints changed");
        self.current.load().publish(&self.upstream, &endpoints);
        self.known = endpoints;
    }

    /// Takes note of a failure, and tells how long to wait before the next try.
    fn failed(&mut self, error: &Unavailable) -> Duration {
        if self.failures == 0 {
            warn!(upstream = self.upstream, %error, "endpoints cannot be looked up; the last ones are kept");
        }
        let backoff = MIN_BACKOFF.saturating_mul(1 << self.failures.min(10)).min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        jittered(backoff)
    }
}
