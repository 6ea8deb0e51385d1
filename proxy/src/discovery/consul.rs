//! Endpoints from Consul's catalogue: the instances of a service whose checks pass.
//!
//! A blocking query answers when something changed or its wait is over. The index of an answer goes into
//! the next question; one that goes backwards (an agent was restored) begins anew at 0, and one of 0 is
//! taken as 1, as Consul's documentation asks for.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header::HOST};
use http_body_util::Empty;
use serde::Deserialize;
use tokio::time::{Duration, sleep, timeout};
use tracing::warn;

use crate::{
    config::{ConsulService, Endpoint, Locality},
    discovery::{Registrar, Unavailable, agent::Agent},
    security::ClientTls,
};

/// Characters of a refusal that are logged.
const MAX_SAID: usize = 300;

/// Consul adds up to a sixteenth of the wait; beyond that and this the agent is taken for dead.
const GRACE: Duration = Duration::from_secs(5);

/// A service whose instances flap answers at once each time; this keeps the agent's load bounded.
const PAUSE: Duration = Duration::from_millis(50);

/// One instance, of which only this is read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    address: String,
    #[serde(default)]
    locality: Option<Place>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(default)]
    locality: Option<Place>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Place {
    region: String,
    #[serde(default)]
    zone: String,
}

/// Publishes the instances as they come and go.
pub(super) async fn watch(service: ConsulService, tls: Option<Arc<ClientTls>>, mut registrar: Registrar) {
    // the configuration was checked: an address that is none is not found
    let uri = service.address.parse().unwrap_or_default();
    let (mut agent, mut index) = (Agent::new(&uri, tls), 0);
    loop {
        let wait = match ask(&mut agent, &service, &uri, index).await {
            Ok((new, endpoints)) => {
                index = next_index(index, new);
                registrar.found(endpoints);
                PAUSE
            }
            Err(error) => {
                index = 0;
                registrar.failed(&error)
            }
        };
        sleep(wait).await;
    }
}

/// What an answer that is no success says: a proxy before the agent may send a page.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let beginning: String = text.trim().chars().take(MAX_SAID).collect();
    format!("{status}: {beginning}")
}

/// One blocking query: the index of the answer and what it holds.
async fn ask(
    agent: &mut Agent,
    service: &ConsulService,
    uri: &Uri,
    index: u64,
) -> Result<(u64, Vec<Endpoint>), Unavailable> {
    let wait = Duration::from_millis(service.wait_ms);
    let unavailable = |why: &dyn std::fmt::Display| Unavailable(format!("{}: {why}", service.address));
    let request = question(service, uri, index).await.map_err(|why| unavailable(&why))?;
    let answered = timeout(wait + wait / 16 + GRACE, agent.ask(request)).await;
    let answer = answered.map_err(|_| unavailable(&"no answer in time"))?.map_err(|why| unavailable(&why))?;
    let (parts, body) = answer.into_parts();
    if parts.status != StatusCode::OK {
        return Err(unavailable(&refusal(parts.status, &body)));
    }
    let new = parts.headers.get("x-consul-index").and_then(|value| value.to_str().ok()?.parse().ok());
    let new = new.ok_or_else(|| unavailable(&"an answer without X-Consul-Index"))?;
    let entries: Vec<Entry> = serde_json::from_slice(&body).map_err(|error| unavailable(&error))?;
    let found = entries.iter().filter(|entry| has_port(entry, &service.service)).map(endpoint).collect();
    Ok((new, found))
}

async fn question(service: &ConsulService, uri: &Uri, index: u64) -> Result<Request<Empty<Bytes>>, String> {
    let ConsulService { service: name, datacenter, namespace, tag, wait_ms, token_file, .. } = service;
    let before = uri.path().trim_end_matches('/');
    let mut path = format!("{before}/v1/health/service/{}?passing=1&index={index}&wait={wait_ms}ms", escaped(name));
    for (key, value) in [("dc", datacenter), ("ns", namespace), ("tag", tag)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", escaped(value)));
        }
    }
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::get(path).header(HOST, host);
    if let Some(path) = token_file {
        // read each time, because tokens are renewed
        let token = tokio::fs::read_to_string(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
        request = request.header("x-consul-token", token.trim());
    }
    request.body(Empty::new()).map_err(|error| error.to_string())
}

/// Consul takes instances without a port; nobody can be connected to there.
fn has_port(Entry { node, service }: &Entry, name: &str) -> bool {
    if service.port == 0 {
        warn!(service = name, node = node.address, address = service.address, "an instance without a port is left out");
    }
    service.port > 0
}

fn endpoint(Entry { node, service }: &Entry) -> Endpoint {
    let host = if service.address.is_empty() { &node.address } else { &service.address };
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let place = service.locality.as_ref().or(node.locality.as_ref());
    Endpoint {
        address: format!("{host}:{}", service.port),
        weight: service.weights.as_ref().map_or(1, |weights| weights.passing.max(1)),
        locality: place.map(|Place { region, zone }| Locality { region: region.clone(), zone: zone.clone() }),
        priority: 0,
        labels: service.meta.clone().unwrap_or_default(),
    }
}

fn next_index(old: u64, new: u64) -> u64 {
    if new < old { 0 } else { new.max(1) }
}

/// Percent-encodes what is not plain in a URI.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_refusal_the_beginning_is_said() {
        let page = format!(" No cluster leader \n{}", "é".repeat(16 << 20));
        let said = refusal(StatusCode::INTERNAL_SERVER_ERROR, page.as_bytes());
        assert!(said.starts_with("500 Internal Server Error: No cluster leader"), "{said}");
        assert!(said.len() < 1_000);
    }

    #[test]
    fn an_index_goes_on_or_begins_anew() {
        for (old, new, expected) in [(0, 7, 7), (7, 9, 9), (7, 7, 7), (9, 7, 0), (0, 0, 1)] {
            assert_eq!(next_index(old, new), expected, "{old} then {new}");
        }
    }

    #[test]
    fn instances_become_endpoints() {
        let text = r#"[
            {"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Checks": [],
             "Service": {"ID": "a", "Address": "", "Port": 80, "Meta": {"version": "v1"}, "Weights": {"Passing": 3, "Warning": 1}}},
            {"Node": {"Address": "10.0.0.2", "Locality": {"Region": "eu", "Zone": "a"}},
             "Service": {"Address": "fd00::1", "Port": 81, "Meta": null}},
            {"Node": {"Address": "10.0.0.3"}, "Service": {"Address": "", "Port": 0}}]"#;
        let entries: Vec<Entry> = serde_json::from_str(text).unwrap();
        // the third became an endpoint ":0", which no request reached
        let endpoints: Vec<Endpoint> = entries.iter().filter(|entry| has_port(entry, "a")).map(endpoint).collect();
        let first = Endpoint { weight: 3, labels: [("version".into(), "v1".into())].into(), .."10.0.0.1:80".into() };
        let place = Locality { region: "eu".into(), zone: "a".into() };
        let second = Endpoint { locality: Some(place), ..Endpoint::from("[fd00::1]:81") };
        assert_eq!(endpoints, [first, second]);
    }

    #[tokio::test]
    async fn a_question_names_what_it_asks_for() {
        let service = ConsulService {
            service: "a b".into(),
            address: "https://agent:8501".into(),
            tls: None,
            datacenter: Some("eu".into()),
            namespace: Some("shop".into()),
            tag: Some("x".into()),
            wait_ms: 60_000,
            token_file: None,
        };
        for (address, before) in [("https://agent:8501", ""), ("https://agent:8501/consul", "/consul")] {
            let request = question(&service, &address.parse().unwrap(), 7).await.unwrap();
            let asked = "/v1/health/service/a%20b?passing=1&index=7&wait=60000ms&dc=eu&ns=shop&tag=x";
            assert_eq!(request.uri().to_string(), format!("{before}{asked}"));
            assert_eq!(request.headers()[HOST], "agent:8501");
        }
    }
}
