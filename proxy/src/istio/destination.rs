//! [`Registry`]: which upstream a `destination` means.
//!
//! A host means the upstream of its whole name; `reviews.prod.svc.cluster.local`, which is a service of a
//! cluster, else that of its first label. An upstream stands for one port of a service: `port` must be the one of
//! its endpoints, or there is an upstream `reviews:9080`, as where the port is only known when endpoints are found. A
//! destination rule is for all ports of its host.

use std::collections::BTreeMap;

use crate::{
    config::{ConfigError, Discovery, DnsName, Upstream},
    istio::fields::Node,
};

/// The upstreams of `proxy.yaml` and the subsets that destination rules made of them.
pub(super) struct Registry {
    /// With the ports of their endpoints; `None` where those are only known when they are found.
    upstreams: BTreeMap<String, Option<Vec<u16>>>,
}

impl Registry {
    pub(super) fn new(upstreams: &[Upstream]) -> Self {
        let whole = |upstream: &Upstream| {
            let parent = upstream.subset_of.as_ref().map(|subset| &subset.upstream);
            upstreams.iter().find(|other| Some(&other.name) == parent)
        };
        let of = |upstream: &Upstream| (upstream.name.clone(), ports(whole(upstream).unwrap_or(upstream)));
        Self { upstreams: upstreams.iter().map(of).collect() }
    }

    /// The upstream of `{ host, subset, port }`.
    pub(super) fn upstream(&self, destination: &Node<'_>) -> Result<String, ConfigError> {
        let fields = destination.fields()?;
        let host = fields.need("host")?;
        let port = fields.map("port", |port| {
            let fields = port.fields()?;
            let number = fields.need("number")?.whole::<u16>()?;
            fields.done(&[("name", "say its number")])?;
            Ok(number)
        })?;
        let subset = fields.map("subset", |subset| Ok((subset.clone(), subset.text()?)))?;
        fields.done(&[])?;
        let name = self.find(&host, port)?;
        let Some((at, subset)) = subset else { return Ok(name) };
        let part = subset_name(&name, subset);
        let known = self.upstreams.contains_key(&part);
        known
            .then_some(part)
            .ok_or_else(|| at.error(&format!("no DestinationRule of {name:?} has a subset {subset:?}")))
    }

    /// The upstreams of a host, whatever their port.
    pub(super) fn all(&self, host: &Node<'_>) -> Result<Vec<String>, ConfigError> {
        let name = host.text()?;
        let short = short_of(name);
        let named = |name: &str| {
            let is_port = |rest: &str| rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
            let is_of =
                |upstream: &str| upstream.strip_prefix(name).is_some_and(|rest| rest.is_empty() || is_port(rest));
            self.upstreams.keys().filter(|upstream| is_of(upstream)).cloned().collect::<Vec<_>>()
        };
        let found = [name, short].map(named).into_iter().find(|found| !found.is_empty());
        found.ok_or_else(|| unknown(host, name, short))
    }

    /// The upstream of a host, at a port if one is said.
    fn find(&self, host: &Node<'_>, port: Option<u16>) -> Result<String, ConfigError> {
        let name = host.text()?;
        let short = short_of(name);
        let with_port = port.map(|port| [format!("{name}:{port}"), format!("{short}:{port}")]);
        if let Some(found) = with_port.into_iter().flatten().find(|name| self.upstreams.contains_key(name)) {
            return Ok(found);
        }
        let Some((found, ports)) = [name, short].iter().find_map(|name| self.upstreams.get_key_value(*name)) else {
            return Err(unknown(host, name, short));
        };
        let (Some(port), ports) = (port, ports.as_deref()) else { return Ok(found.clone()) };
        let why = match ports {
            Some(ports) if ports.iter().all(|other| *other == port) => return Ok(found.clone()),
            Some(_) => format!("the endpoints of upstream {found:?} have other ports than {port}"),
            None => format!(
                "the ports of upstream {found:?} are known when its endpoints are found, and may be others than {port}"
            ),
        };
        Err(host.error(&format!("{why}: name an upstream \"{found}:{port}\" in proxy.yaml, or leave port out")))
    }
}

/// Those of its endpoints, if the file says them.
fn ports(upstream: &Upstream) -> Option<Vec<u16>> {
    let port = |address: &str| address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    match &upstream.discover {
        None => Some(upstream.endpoints.iter().filter_map(|endpoint| port(&endpoint.address)).collect()),
        Some(Discovery::Dns(DnsName { port, .. })) => Some(vec![*port]),
        Some(Discovery::DnsSrv(_) | Discovery::File(_) | Discovery::Consul(_)) => None,
    }
}

/// The service of `service.namespace.svc`, whatever the cluster's domain; any other name means only itself.
fn short_of(name: &str) -> &str {
    let mut labels = name.split('.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(service), Some(_), Some("svc")) => service,
        _ => name,
    }
}

fn unknown(host: &Node<'_>, name: &str, short: &str) -> ConfigError {
    let or_short = if short == name { String::new() } else { format!(" or {short:?}") };
    host.error(&format!("no upstream of proxy.yaml is named {name:?}{or_short}: add it, or leave this out"))
}

/// What the upstream of a subset is called.
pub(super) fn subset_name(upstream: &str, subset: &str) -> String {
    format!("{upstream}/{subset}")
}
