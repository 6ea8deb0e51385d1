//! What an endpoint can say of itself: an address alone, or a map.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

/// One address and what is known of it beforehand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// Its part of the requests; 1 when absent.
    pub weight: u32,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
    /// 0 comes first; a higher one takes what the lower ones cannot carry.
    pub priority: u32,
    /// What subsets choose by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Where something runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Locality {
    /// The region.
    pub region: String,
    /// The zone inside the region.
    pub zone: String,
}

impl From<String> for Endpoint {
    fn from(address: String) -> Self {
        Self { address, weight: 1, locality: None, priority: 0, labels: BTreeMap::new() }
    }
}

impl From<&str> for Endpoint {
    fn from(address: &str) -> Self {
        address.to_owned().into()
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        address.to_string().into()
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EndpointVisitor)
    }
}

struct EndpointVisitor;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointMap {
    address: String,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    locality: Option<Locality>,
    #[serde(default)]
    priority: u32,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl<'de> Visitor<'de> for EndpointVisitor {
    type Value = Endpoint;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("host:port, or a map with `address`")
    }

    fn visit_str<E>(self, address: &str) -> Result<Endpoint, E> {
        Ok(address.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
        let EndpointMap { address, weight, locality, priority, labels } =
            EndpointMap::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Endpoint { address, weight, locality, priority, labels })
    }
}

fn one() -> u32 {
    1
}
