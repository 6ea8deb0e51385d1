//! Who is at the other end, and what it may do: mutual TLS with SPIFFE ids (`tls`), JSON web tokens
//! (`jwt`), rules over both (`authorize`).
//!
//! [`Security`] is compiled at start beside the routes. An outbound listener without `tls`, `jwt` and
//! `authorization` has no [`Guard`], so its requests pay for nothing here. Everything that comes from files or
//! addresses is kept fresh by the control thread ([`Security::watch`]) and swapped in whole; what cannot be used
//! leaves the last good one in place, with a log line and a count.

mod authorize;
mod claims;
mod fields;
mod guard;
mod jwt;
mod stats;
mod tls;

use std::{collections::BTreeMap, sync::Arc};

use rustls::crypto::CryptoProvider;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use authorize::Decision;
pub(crate) use fields::remove as remove_alike;
pub(crate) use guard::{Denial, Guard};
pub(crate) use stats::SecurityStats;
pub(crate) use tls::{Accepted, ClientTls, Peer, ServerTls, Trusted, Watched};

use crate::config::{Config, Discovery, Protocol, RemoteTls, TlsMode, Upstream};

/// Security that cannot be set up: which key, which file, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct SecurityError {
    /// Where it stands in the configuration.
    pub key: String,
    /// What is wrong.
    pub why: String,
}

/// What all listeners and upstreams ask for, compiled.
#[derive(Debug, Default)]
pub(crate) struct Security {
    listeners: Vec<ListenerSecurity>,
    upstreams: Vec<Option<Arc<ClientTls>>>,
    /// TLS towards where the endpoints of an upstream are found, by its name.
    registries: BTreeMap<String, Arc<ClientTls>>,
    control_plane: Option<Remote>,
    collector: Option<Remote>,
    watched: Vec<Watched>,
    key_sources: Vec<Arc<jwt::KeySource>>,
    pub(crate) stats: Arc<SecurityStats>,
}

#[derive(Debug, Default)]
struct ListenerSecurity {
    tls: Option<Arc<ServerTls>>,
    guard: Option<Guard>,
}

/// TLS towards somebody whom the proxy knows until a reload says that it is somebody else.
#[derive(Clone, Debug)]
struct Remote {
    asked: RemoteTls,
    tls: Arc<ClientTls>,
    watched: Watched,
}

/// What parts of it are opened with.
#[derive(Clone, Copy)]
pub(crate) struct Opening<'a> {
    /// Does the cryptography of TLS.
    provider: &'a Arc<CryptoProvider>,
    stats: &'a Arc<SecurityStats>,
    /// What was in force until now: keys that were fetched are known, and clients that were let in may stay.
    before: Option<&'a Security>,
}

impl Security {
    /// Reads every file that is named; `provider` does the cryptography of TLS. Goes on from `before` a reload.
    pub(crate) fn open(
        config: &Config,
        provider: &Arc<CryptoProvider>,
        before: Option<&Self>,
    ) -> Result<Self, SecurityError> {
        let stats = before.map(|before| before.stats.clone()).unwrap_or_default();
        let mut security = Self { stats: stats.clone(), ..Self::default() };
        let opening = Opening { provider, stats: &stats, before };
        let known: Vec<_> = before.iter().flat_map(|b| &b.listeners).filter_map(|l| l.tls.as_ref()).collect();
        for (i, listener) in config.listeners.iter().enumerate() {
            let key = format!("listeners[{i}]");
            let mut tls = None;
            if let Some(asked) = listener.tls.as_ref().filter(|tls| tls.mode != TlsMode::Off) {
                let (server, watched) = ServerTls::open(asked, &key, provider, stats.clone(), &known)?;
                security.watched.push(watched);
                tls = Some(server);
            }
            let guard = Guard::open(listener, &key, &config.service, opening)?;
            security.key_sources.extend(guard.iter().flat_map(Guard::key_sources).cloned());
            security.listeners.push(ListenerSecurity { tls, guard });
        }
        for (i, upstream) in config.upstreams.iter().enumerate() {
            // a part of an upstream is reached as the whole is, unless it says otherwise
            let whole = upstream.subset_of.as_ref().map(|subset| subset.upstream.as_str());
            let whole = config.upstreams.iter().find(|other| Some(other.name.as_str()) == whole);
            let mut tls = None;
            if let Some(asked) = upstream.tls.as_ref().or_else(|| whole?.tls.as_ref()) {
                let key = format!("upstreams[{i}].tls");
                let (client, watched) = ClientTls::open(&asked.into(), &key, upstream.protocol, provider)?;
                security.watched.push(watched);
                tls = Some(client);
            }
            security.upstreams.push(tls);
            security.open_registry(upstream, &format!("upstreams[{i}].discover.consul.tls"), provider)?;
        }
        security.open_remotes(config, opening)?;
        Ok(security)
    }

    fn open_registry(
        &mut self,
        upstream: &Upstream,
        key: &str,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), SecurityError> {
        let Some(Discovery::Consul(consul)) = &upstream.discover else { return Ok(()) };
        if consul.address.starts_with("https://") {
            let asked = consul.tls.clone().unwrap_or_default();
            let (client, watched) = ClientTls::open(&asked, key, Protocol::Http1, provider)?;
            self.watched.push(watched);
            self.registries.insert(upstream.name.clone(), client);
        }
        Ok(())
    }

    fn open_remotes(&mut self, config: &Config, opening: Opening<'_>) -> Result<(), SecurityError> {
        let before = |of: fn(&Self) -> &Option<Remote>| opening.before.and_then(|before| of(before).clone());
        if let Some(policy) = &config.policy {
            let known = before(|before| &before.control_plane);
            self.control_plane = Remote::open(&policy.from, policy.tls.as_ref(), "policy.tls", opening, known)?;
        }
        if let Some(otlp) = &config.telemetry.otlp {
            let known = before(|before| &before.collector);
            self.collector = Remote::open(otlp, config.telemetry.tls.as_ref(), "telemetry.tls", opening, known)?;
        }
        let remotes = [&self.control_plane, &self.collector];
        self.watched.extend(remotes.into_iter().flatten().map(|remote| remote.watched.clone()));
        Ok(())
    }

    /// Whether the listener `index` asks clients for the same proof as `known` of `before` did.
    pub(crate) fn lets_in_as(&self, index: usize, before: &Self, known: usize) -> bool {
        match (self.server_tls(index), before.server_tls(known)) {
            (None, None) => true,
            (Some(now), Some(then)) => now.is_of_the_era_of(then),
            _ => false,
        }
    }

    /// What stands before the requests of a listener; nothing when it asks for none.
    pub(crate) fn guard(&self, listener: usize) -> Option<&Guard> {
        self.listeners.get(listener)?.guard.as_ref()
    }

    /// The TLS of a listener.
    pub(crate) fn server_tls(&self, listener: usize) -> Option<&Arc<ServerTls>> {
        self.listeners.get(listener)?.tls.as_ref()
    }

    /// The TLS towards an upstream.
    pub(crate) fn client_tls(&self, upstream: usize) -> Option<&Arc<ClientTls>> {
        self.upstreams.get(upstream)?.as_ref()
    }

    /// The TLS towards where the endpoints of `upstream` are found.
    pub(crate) fn registry_tls(&self, upstream: &str) -> Option<Arc<ClientTls>> {
        self.registries.get(upstream).cloned()
    }

    /// The TLS towards the control plane.
    pub(crate) fn control_plane_tls(&self) -> Option<Arc<ClientTls>> {
        self.control_plane.as_ref().map(|remote| remote.tls.clone())
    }

    /// The TLS towards the collector.
    pub(crate) fn collector_tls(&self) -> Option<Arc<ClientTls>> {
        self.collector.as_ref().map(|remote| remote.tls.clone())
    }

    /// Keeps certificates and keys fresh until `stop`.
    pub(crate) fn watch(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        if !self.watched.is_empty() {
            tasks.spawn(tls::watch(self.watched.clone(), self.stats.clone(), stop.clone()));
        }
        for source in &self.key_sources {
            tasks.spawn(source.clone().run(stop.clone()));
        }
    }

    /// When each certificate in use ends, in seconds since the Unix epoch, and the key that names it.
    pub(crate) fn expiries(&self) -> impl Iterator<Item = (&str, i64)> {
        self.watched.iter().filter_map(|watched| Some((watched.key(), watched.not_after_unix_s()?)))
    }

    /// Whether the configuration has any of it.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.listeners.iter().any(|l| l.guard.as_ref().is_some_and(Guard::asks)) || !self.watched.is_empty()
    }

    /// When the first certificate in use ends, in seconds since the Unix epoch.
    pub(crate) fn first_expiry_unix_s(&self) -> Option<i64> {
        self.expiries().map(|(_, ends)| ends).min()
    }
}

impl Remote {
    /// `None` where `url` asks for no TLS.
    fn open(
        url: &str,
        asked: Option<&RemoteTls>,
        key: &str,
        opening: Opening<'_>,
        known: Option<Self>,
    ) -> Result<Option<Self>, SecurityError> {
        if !url.starts_with("https://") {
            return Ok(None);
        }
        let asked = asked.cloned().unwrap_or_default();
        if let Some(known) = known.filter(|known| known.asked == asked) {
            return Ok(Some(known));
        }
        let (tls, watched) = ClientTls::open(&asked, key, Protocol::H2, opening.provider)?;
        Ok(Some(Self { asked, tls, watched }))
    }
}

impl SecurityError {
    fn new(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self { key: key.into(), why: why.into() }
    }
}

/// The cryptography this crate is built with; named everywhere, so that no process default decides.
pub(crate) fn default_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
