//! What the types of an upstream cannot say.

use crate::config::{
    Balance, ConfigError, ConsulService, Discovery, DnsName, Endpoint, HashOn, Protocol, SrvName, SubsetOf, Upstream,
    validate::{LONGEST_MS, check, check_remote},
};

impl Upstream {
    /// Checks one of `all`; errors name the key below it.
    pub(super) fn validate(&self, all: &[Self]) -> Result<(), ConfigError> {
        let sources = [!self.endpoints.is_empty(), self.discover.is_some(), self.subset_of.is_some()];
        match sources.iter().filter(|there| **there).count() {
            0 => return Err(ConfigError("endpoints is empty: at least one host:port, or `discover`".into())),
            1 => {}
            _ => return Err(ConfigError("endpoints, discover and subset_of: only one of them".into())),
        }
        for (j, endpoint) in self.endpoints.iter().enumerate() {
            endpoint.validate().map_err(|e| ConfigError(format!("endpoints[{j}] {e}")))?;
        }
        self.discover.iter().try_for_each(check_discovery)?;
        check(self.keep_endpoints_ms.is_none() || self.discover.is_some(), || {
            "keep_endpoints_ms: only with discover; what is listed stays".into()
        })?;
        if let Some(subset) = &self.subset_of {
            check_subset(subset, all)?;
        }
        for (key, percent) in [
            ("panic_threshold_percent", self.panic_threshold_percent),
            ("outlier_detection.max_ejection_percent", self.outlier_detection.map(|o| o.max_ejection_percent)),
        ] {
            check(percent.is_none_or(|percent| percent <= 100), || format!("{key} is {percent:?}: from 0 to 100"))?;
        }
        if let Balance::RingHash(HashOn::Header(name)) = &self.balance {
            let usable = name.parse::<http::HeaderName>().is_ok();
            check(usable, || format!("balance.ring_hash.header: {name:?} is not the name of a field"))?;
        }
        check(self.gen_ai_provider.as_deref() != Some(""), || {
            "gen_ai_provider is empty: whose models they are, or leave it out".into()
        })?;
        let http1 = self.protocol == Protocol::Http1;
        let bounded = self.max_connections.is_some() || self.max_requests_per_connection.is_some();
        check(http1 || !bounded, || {
            "max_connections and max_requests_per_connection: only with protocol http1; max_requests bounds h2".into()
        })?;
        check(!http1 || self.ping_ms.is_none(), || "ping_ms: only with protocol h2; HTTP/1.1 has no PING".into())?;
        check(self.ping_ms.is_none_or(|ms| (1_000..=LONGEST_MS).contains(&ms)), || {
            format!("ping_ms is {:?}: from 1000, a second, to a year, or leave it out", self.ping_ms)
        })?;
        check(self.connect_timeout_ms != Some(0), || "connect_timeout_ms is 0: at least 1, or leave it out".into())
    }
}

fn check_subset(SubsetOf { upstream, labels }: &SubsetOf, all: &[Upstream]) -> Result<(), ConfigError> {
    let parent = all.iter().find(|other| other.name == *upstream).filter(|parent| parent.subset_of.is_none());
    let Some(parent) = parent else {
        let why = format!("subset_of.upstream: {upstream:?} is not an upstream with endpoints of its own");
        return Err(ConfigError(why));
    };
    check(labels.is_empty() || parent.finds_labels(), || format!("subset_of.labels: {}", no_labels(upstream)))
}

/// Why nothing can be a subset of what DNS finds.
pub(crate) fn no_labels(upstream: &str) -> String {
    format!(
        "upstream {upstream:?} finds its endpoints by DNS, which knows no labels, so none would be here: list them, \
         find them in a file or in Consul, or give each version a name and an upstream of its own"
    )
}

fn check_discovery(discovery: &Discovery) -> Result<(), ConfigError> {
    match discovery {
        Discovery::Dns(DnsName { name, port, .. }) => {
            check(!name.is_empty(), || "discover.dns.name is empty".into())?;
            check(*port > 0, || "discover.dns.port is 0: the port that the addresses listen on".into())
        }
        Discovery::DnsSrv(SrvName { name, .. }) => check(!name.is_empty(), || "discover.dns_srv.name is empty".into()),
        Discovery::File(path) => check(!path.as_os_str().is_empty(), || "discover.file is empty".into()),
        Discovery::Consul(ConsulService { service, address, tls, wait_ms, .. }) => {
            check(!service.is_empty(), || "discover.consul.service is empty".into())?;
            check_remote("discover.consul.address", address, "discover.consul.tls", tls.as_ref())?;
            check((1..=600_000).contains(wait_ms), || {
                format!("discover.consul.wait_ms is {wait_ms}: from 1 to 600000, which is Consul's longest")
            })
        }
    }
}

impl Endpoint {
    /// Checks the address and the weight.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let address = &self.address;
        let port = address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>()));
        check(matches!(port, Some(Ok(1..))), || format!("is {address:?}: expected host:port"))
    }
}
