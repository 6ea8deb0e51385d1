//! Endpoints from DNS: the addresses of a name, or the targets of a service (RFC 2782), asked again when
//! their time to live ends.
//!
//! A name that is not there, or has no addresses, is an answer, and nothing is left; no answer is none. A search list makes
//! it less plain: the name may be there under a domain whose server has failed, and missing under the next, so nothing is
//! there only when every name of the list says so, of IPv4 and of IPv6.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
    system_conf::read_system_conf,
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

/// What an answer holds, and until when; without endpoints it says for no time that there are none.
struct Answer {
    endpoints: Vec<Endpoint>,
    valid_until: Option<Instant>,
}

/// Who is asked, and under which names.
struct Asking {
    resolver: TokioResolver,
    search: Vec<Name>,
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
            Ok(Answer { endpoints, valid_until: Some(until) }) if !endpoints.is_empty() => {
                registrar.found(endpoints);
                until.saturating_duration_since(Instant::now()).clamp(MIN_TTL, MAX_TTL)
            }
            Ok(_) => registrar.found_none(),
            Err(error) => registrar.failed(&error),
        };
        sleep(wait).await;
    }
}

impl Question {
    async fn ask(&self, server: Option<SocketAddr>) -> Result<Answer, Unavailable> {
        let asking = Asking::of(server)?;
        match self {
            Self::Addresses(name) => asking.endpoints_at(name).await,
            Self::Services(name) => asking.services_of(name).await,
        }
    }
}

impl Asking {
    /// Made anew for each question: what the system's configuration says may change, and nothing is to be cached.
    fn of(server: Option<SocketAddr>) -> Result<Self, Unavailable> {
        let (config, options) = match server {
            Some(server) => {
                let mut config = NameServerConfig::udp_and_tcp(server.ip());
                config.connections.iter_mut().for_each(|connection| connection.port = server.port());
                (ResolverConfig::from_name_servers(vec![config]), ResolverOpts::default())
            }
            None => read_system_conf().map_err(|error| unavailable("the system's resolver", &error))?,
        };
        let search = config.search().iter().chain(config.domain()).cloned().collect();
        let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        Ok(Self { resolver: builder.build().map_err(|error| unavailable("resolver", &error))?, search })
    }

    async fn endpoints_at(&self, name: &DnsName) -> Result<Answer, Unavailable> {
        let answer = self.addresses_of(name.name.as_str()).await?;
        let Some((addresses, until)) = answer else { return Ok(Answer::NOTHING) };
        let endpoints = addresses.into_iter().map(|ip| SocketAddr::new(ip, name.port).into()).collect();
        Ok(Answer { endpoints, valid_until: Some(until) })
    }

    async fn services_of(&self, name: &SrvName) -> Result<Answer, Unavailable> {
        let found = match self.resolver.srv_lookup(name.name.as_str()).await {
            Ok(found) => found,
            Err(error) => return self.nothing(&name.name, &[RecordType::SRV], error).await.map(|()| Answer::NOTHING),
        };
        let mut answer = Answer { endpoints: Vec::new(), valid_until: Some(found.valid_until().into()) };
        for record in found.answers() {
            let RData::SRV(srv) = &record.data else { continue };
            // a target that is not there takes none of the others with it
            let Some((addresses, until)) = self.addresses_of(&srv.target.to_utf8()).await? else { continue };
            answer.valid_until = answer.valid_until.min(Some(until));
            answer.endpoints.extend(addresses.into_iter().map(|ip| Endpoint {
                // RFC 2782 gives 0 a small chance, not none
                weight: u32::from(srv.weight).max(1),
                priority: u32::from(srv.priority),
                ..SocketAddr::new(ip, srv.port).into()
            }));
        }
        Ok(answer)
    }

    /// The addresses of a name and until when they hold; `None` when it has none.
    async fn addresses_of(&self, name: &str) -> Result<Option<(Vec<IpAddr>, Instant)>, Unavailable> {
        let error = match self.resolver.lookup_ip(name).await {
            Ok(found) if found.iter().next().is_some() => {
                return Ok(Some((found.iter().collect(), found.valid_until().into())));
            }
            Ok(_) => NetError::from("only aliases"),
            Err(error) => error,
        };
        self.nothing(name, &[RecordType::A, RecordType::AAAA], error).await.map(|()| None)
    }

    /// Whether there is nothing of these kinds at a name, which a lookup that ended in `error` does not tell.
    async fn nothing(&self, name: &str, kinds: &[RecordType], error: NetError) -> Result<(), Unavailable> {
        let names = self.names(name).map_err(|error| unavailable(name, &error))?;
        for asked in &names {
            for kind in kinds {
                match self.resolver.lookup(asked.clone(), *kind).await {
                    Ok(found) if found.answers().iter().any(|record| record.record_type() == *kind) => {
                        return Err(unavailable(name, &error));
                    }
                    Ok(_) => {}
                    Err(no) if no.is_no_records_found() => {}
                    Err(error) => return Err(unavailable(name, &error)),
                }
            }
        }
        Ok(())
    }

    /// What a name may stand for.
    fn names(&self, name: &str) -> Result<Vec<Name>, NetError> {
        let plain = Name::from_utf8(name)?;
        let mut names = Vec::new();
        if !plain.is_fqdn() {
            for domain in &self.search {
                names.extend(plain.clone().append_domain(domain));
            }
        }
        let mut rooted = plain;
        rooted.set_fqdn(true);
        names.push(rooted);
        Ok(names)
    }
}

impl Answer {
    const NOTHING: Self = Self { endpoints: Vec::new(), valid_until: None };
}

fn unavailable(what: &str, error: &dyn std::fmt::Display) -> Unavailable {
    Unavailable(format!("{what}: {error}"))
}
