//! [`Mesh`]: the chain, started from its end: each service, then the sidecar beside it, then the
//! service that calls it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use weir_proxy::{
    AccessLog, Config, Connect, Counters, Direction, Http, Limits, Listener, ListenerProtocol, LocalLimit,
    PolicySource, Proxy, Route, StartError, Telemetry, Timeouts, Upstream,
};

use crate::{
    chain::{CHAIN, Pace, Spec},
    service::Service,
};

/// A running chain.
pub struct Mesh {
    services: Vec<Arc<Service>>,
    proxies: Vec<(&'static str, Proxy)>,
    entry: SocketAddr,
    serving: Vec<JoinHandle<()>>,
    shutdown: CancellationToken,
}

/// Why the chain does not start.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// A service finds no port.
    #[error("{service} cannot listen: {source}")]
    Listen {
        /// Which.
        service: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A sidecar does not start.
    #[error("the sidecar of {service}: {source}")]
    Sidecar {
        /// Whose.
        service: &'static str,
        /// Why.
        source: StartError,
    },
}

impl Mesh {
    /// Starts every service and sidecar; they export to and are regulated by `collector`
    /// (`http://host:port`, gRPC). The generator streams at `pace`.
    ///
    /// # Errors
    /// The first that does not start.
    pub async fn start(collector: &str, pace: Pace, seed: u64) -> Result<Self, MeshError> {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let shutdown = CancellationToken::new();
        let mut mesh = Self { services: Vec::new(), proxies: Vec::new(), entry: free, serving: Vec::new(), shutdown };
        let mut next: Option<(&str, SocketAddr)> = None;
        for (place, spec) in CHAIN.iter().enumerate().rev() {
            let service = spec.service;
            let listener = TcpListener::bind(free).await.map_err(|source| MeshError::Listen { service, source })?;
            let own = listener.local_addr().map_err(|source| MeshError::Listen { service, source })?;
            let proxy = Proxy::start(sidecar(spec, own, next, collector));
            let proxy = proxy.map_err(|source| MeshError::Sidecar { service, source })?;
            let outbound = proxy.addresses().get(1).map(SocketAddr::to_string);
            let running = Service::new(*spec, pace, outbound, seed.wrapping_add(place as u64));
            mesh.serving.push(tokio::spawn(running.clone().serve(listener, mesh.shutdown.clone())));
            mesh.services.push(running);
            mesh.entry = proxy.addresses()[0];
            next = Some((service, mesh.entry));
            mesh.proxies.push((service, proxy));
        }
        Ok(mesh)
    }

    /// Where requests enter: the gateway's inbound sidecar.
    #[must_use]
    pub fn entry(&self) -> SocketAddr {
        self.entry
    }

    /// Makes the work of a service take `factor` times as long.
    pub fn slow_down(&self, service: &str, factor: f64) {
        let named = self.proxies.iter().zip(&self.services).filter(|((name, _), _)| *name == service);
        named.for_each(|(_, running)| running.slow_down(factor));
    }

    /// Drains the sidecars, entry first, then the services; returns the final counts.
    pub async fn stop(self) -> Counters {
        let mut total = Counters::default();
        for (_, proxy) in self.proxies.into_iter().rev() {
            total += proxy.drain().await;
        }
        self.shutdown.cancel();
        for serving in self.serving {
            // a service that panicked has shown so in the answers
            let _ = serving.await;
        }
        total
    }
}

fn sidecar(spec: &Spec, own: SocketAddr, next: Option<(&str, SocketAddr)>, collector: &str) -> Config {
    let inbound = (Direction::Inbound, spec.service.to_owned(), own);
    let outbound = next.map(|(service, address)| (Direction::Outbound, service.to_owned(), address));
    let hops: Vec<(Direction, String, SocketAddr)> = [Some(inbound), outbound].into_iter().flatten().collect();
    let listener = |(direction, upstream, _): &(Direction, String, SocketAddr)| Listener {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        direction: *direction,
        protocol: ListenerProtocol::Http,
        routes: vec![Route::to(upstream.clone())],
        istio: Vec::new(),
        upstream: None,
        connect: Connect::Refused,
        tls: None,
        jwt: None,
        authorization: None,
        believe_peer: None,
        trusted_hops: 0,
        forwarded: None,
    };
    let upstream =
        |(_, name, address): &(Direction, String, SocketAddr)| Upstream::new(name.clone(), vec![(*address).into()]);
    Config {
        service: spec.service.to_owned(),
        instance: Some(format!("{}-0", spec.service)),
        servers: Some(spec.servers),
        locality: None,
        admin: None,
        admin_token: None,
        admin_token_file: None,
        threads: Some(1),
        max_connections: 10_000,
        max_connections_per_client: None,
        max_memory_mib: None,
        insecure: false,
        listeners: hops.iter().map(listener).collect(),
        upstreams: hops.iter().map(upstream).collect(),
        // for when the control plane is away; it is here, so this only measures
        limits: Limits { local_limit: Some(LocalLimit::default()), ..Limits::default() },
        http: Http::default(),
        timeouts: Timeouts::default(),
        telemetry: Telemetry {
            otlp: Some(collector.to_owned()),
            access_log: AccessLog::Errors,
            ..Telemetry::default()
        },
        policy: Some(PolicySource { from: collector.to_owned(), tls: None, state_dir: None, min_rate_per_s: 0.001 }),
    }
}
