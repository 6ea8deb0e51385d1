//! Endpoints from DNS: the addresses of a name, or the targets of a service (RFC 2782), asked again when
//! their time to live ends.

use std::net::SocketAddr;

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::RData,
};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    config::{DnsName, Endpoint, SrvName},
    discovery::{Registrar, Unavailable},
};

/// 1 s at least: a time to live of 0 would ask without a pause.
const MIN_TTL: Duration = Duration::from_secs(1);

/// 5 min at most: a name that moves is noticed the same hour even when its owner forgot to lower it.
const MAX_TTL: Duration = Duration::from_secs(300);

/// What is asked.
enum Question {
    Addresses(DnsName),
    Services(SrvName),
}

/// What an answer holds, and until when.
struct Answer {
    endpoints: Vec<Endpoint>,
    valid_until: Instant,
}

/// Publishes the addresses of a name.
pub(super) async fn addresses(name: DnsName, registrar: Registrar) {
    ask_again_and_again(name.server, Question::Addresses(name), registrar).await;
}

/// Publishes the targets of a service.
pub(super) async fn services(name: SrvName, registrar: Registrar) {
    ask_again_and_again(name.server, Question::Services(name), registrar).await;
}

async fn ask_again_and_again(server: Option<SocketAddr>, question: Question, mut registrar: Registrar) {
    loop {
        let wait = match question.ask(server).await {
            Ok(Answer { endpoints, valid_until }) => {
                registrar.found(endpoints);
                valid_until.saturating_duration_since(Instant::now()).clamp(MIN_TTL, MAX_TTL)
            }
            Err(error) => registrar.failed(&error),
        };
        sleep(wait).await;
    }
}

impl Question {
    async fn ask(&self, server: Option<SocketAddr>) -> Result<Answer, Unavailable> {
        let resolver = resolver(server)?;
        match self {
            Self::Addresses(name) => ask_addresses(&resolver, name).await,
            Self::Services(name) => ask_services(&resolver, name).await,
        }
    }
}

async fn ask_addresses(resolver: &TokioResolver, name: &DnsName) -> Result<Answer, Unavailable> {
    let found = resolver.lookup_ip(name.name.as_str()).await.map_err(|error| unavailable(&name.name, &error))?;
    let endpoints = found.iter().map(|ip| SocketAddr::new(ip, name.port).into()).collect();
    Ok(Answer { endpoints, valid_until: found.valid_until().into() })
}

async fn ask_services(resolver: &TokioResolver, name: &SrvName) -> Result<Answer, Unavailable> {
    let found = resolver.srv_lookup(name.name.as_str()).await.map_err(|error| unavailable(&name.name, &error))?;
    let mut answer = Answer { endpoints: Vec::new(), valid_until: found.valid_until().into() };
    for record in found.answers() {
        let RData::SRV(srv) = &record.data else { continue };
        let target = srv.target.to_utf8();
        let addresses = resolver.lookup_ip(srv.target.clone()).await.map_err(|error| unavailable(&target, &error))?;
        answer.valid_until = answer.valid_until.min(addresses.valid_until().into());
        answer.endpoints.extend(addresses.iter().map(|ip| Endpoint {
            // RFC 2782 gives 0 a small chance, not none
            weight: u32::from(srv.weight).max(1),
            priority: u32::from(srv.priority),
            ..SocketAddr::new(ip, srv.port).into()
        }));
    }
    Ok(answer)
}

/// Made anew for each question: what the system's configuration says may change, and nothing is to be cached.
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, Unavailable> {
    let builder = match server {
        Some(server) => {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            config.connections.iter_mut().for_each(|connection| connection.port = server.port());
            let config = ResolverConfig::from_name_servers(vec![config]);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        None => Resolver::builder_tokio().map_err(|error| unavailable("the system's resolver", &error))?,
    };
    builder.build().map_err(|error| unavailable("resolver", &error))
}

fn unavailable(what: &str, error: &dyn std::fmt::Display) -> Unavailable {
    Unavailable(format!("{what}: {error}"))
}
