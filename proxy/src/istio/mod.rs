//! Istio's `VirtualService` and `DestinationRule` as route files.
//!
//! They become the same `config::Route`s and `Upstream`s that `proxy.yaml` has, so there is one way in and
//! one thing that runs. What cannot be honoured is an error that names the document, the field, and
//! what to do; nothing is left out silently.

mod destination;
mod destination_rule;
mod fields;
mod http_match;
mod http_route;
mod load_balancer;
mod traffic_policy;
mod virtual_service;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use serde_json::Value;

use crate::config::{Config, ConfigError, Route};

use {
    destination::Registry,
    fields::{Fields, Node},
    virtual_service::Compiled,
};

/// The versions of `networking.istio.io` whose fields are the same as far as they are honoured.
const VERSIONS: [&str; 3] = ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];

/// One document.
struct Document {
    /// The file, its place there, and the object: no two documents have the same.
    at: String,
    kind: Kind,
    value: Value,
}

/// Which document has the say on a host, or on an upstream.
type Taken = HashMap<String, String>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    VirtualService,
    DestinationRule,
}

impl Config {
    /// Reads the files that `istio` keys name; what they say stands in routes and upstreams afterwards.
    ///
    /// # Errors
    /// The first file that cannot be read, or field that cannot be honoured.
    pub fn with_istio(self) -> Result<Self, ConfigError> {
        self.with_istio_from(|path| fs::read_to_string(path).map_err(|error| error.to_string()))
    }

    /// As [`Self::with_istio`], with the texts that `read` has of the files.
    pub(crate) fn with_istio_from(
        mut self,
        read: impl Fn(&Path) -> Result<String, String>,
    ) -> Result<Self, ConfigError> {
        let documents_of = |path: &Path| {
            let file = path.display().to_string();
            let text = read(path).map_err(|error| ConfigError(format!("istio: {file}: {error}")))?;
            documents(&file, &text)
        };
        let files = self.listeners.iter_mut().map(|listener| std::mem::take(&mut listener.istio)).collect::<Vec<_>>();
        let mut of_listeners = Vec::new();
        for paths in &files {
            let mut named = HashSet::new();
            let once = paths.iter().filter(|path| named.insert(*path));
            let documents = once.map(|path| documents_of(path)).collect::<Result<Vec<_>, _>>()?;
            of_listeners.push(documents.into_iter().flatten().collect::<Vec<Document>>());
        }
        self.with_documents(&of_listeners)
    }

    /// Checks it, reads the files of Istio's that it names, and checks what has become of it.
    pub(crate) fn resolved(self) -> Result<Self, ConfigError> {
        self.validate()?;
        let config = self.with_istio()?;
        config.validate()?;
        Ok(config)
    }

    /// As [`Self::with_istio`], with `text` for the file of the first listener.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn with_istio_text(self, text: &str) -> Result<Self, ConfigError> {
        let documents = documents("fuzzed", text)?;
        self.with_documents(&[documents])
    }

    fn with_documents(mut self, of_listeners: &[Vec<Document>]) -> Result<Self, ConfigError> {
        self.take_rules(of_listeners)?;
        let registry = Registry::new(&self.upstreams);
        let mut names: HashSet<String> = self
            .listeners
            .iter()
            .flat_map(|listener| &listener.routes)
            .filter_map(|route| route.name.clone())
            .collect();
        for (listener, documents) in self.listeners.iter_mut().zip(of_listeners) {
            let services = documents.iter().filter(|document| document.kind == Kind::VirtualService);
            let mut taken = Taken::new();
            let compiled = services.map(|document| virtual_service::compile(document, &registry, &mut taken));
            let routes = by_host(compiled.collect::<Result<Vec<_>, _>>()?);
            listener.routes.extend(routes.into_iter().map(|route| named_once(route, &mut names)));
        }
        Ok(self)
    }

    /// Destination rules hold for the upstreams, which all listeners share; a file named twice is one.
    fn take_rules(&mut self, of_listeners: &[Vec<Document>]) -> Result<(), ConfigError> {
        let (mut seen, mut taken) = (HashSet::new(), Taken::new());
        for document in of_listeners.iter().flatten().filter(|document| document.kind == Kind::DestinationRule) {
            if seen.insert(&document.at) {
                destination_rule::apply(document, self, &mut taken)?;
            }
        }
        Ok(())
    }
}

impl Document {
    fn root(&self) -> Node<'_> {
        Node::new(self.at.clone(), &self.value)
    }
}

/// Routes of exact hosts first, then those of wildcards, the longest first, as in Istio.
fn by_host(compiled: Vec<Vec<Compiled>>) -> Vec<Route> {
    let mut all: Vec<Compiled> = compiled.into_iter().flatten().collect();
    all.sort_by_key(|compiled| (compiled.wildcard.is_some(), std::cmp::Reverse(compiled.wildcard)));
    all.into_iter().flat_map(|compiled| compiled.routes).collect()
}

/// Two routes of a proxy cannot have one name: a policy regulates a route by it.
fn named_once(mut route: Route, names: &mut HashSet<String>) -> Route {
    if let Some(name) = route.name.take() {
        let numbered = (2..).map(|n| format!("{name}.{n}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !names.contains(name));
        names.extend(free.clone());
        route.name = free;
    }
    route
}

/// The documents of a file, which stand one after the other, with `---` between them.
fn documents(file: &str, text: &str) -> Result<Vec<Document>, ConfigError> {
    let values: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| ConfigError(format!("{file}: {error}")))?;
    values.into_iter().enumerate().filter(|(_, value)| !value.is_null()).map(|(n, v)| document(file, n, v)).collect()
}

fn document(file: &str, number: usize, value: Value) -> Result<Document, ConfigError> {
    let unnamed = format!("{file}: document {}:", number + 1);
    let (kind, at) = {
        let root = Node::new(unnamed, &value).fields()?;
        let version = root.need("apiVersion")?;
        if !VERSIONS.contains(&version.text()?) {
            return Err(version.error(&format!("{:?} is none of {}", version.text()?, VERSIONS.join(", "))));
        }
        let kind = root.need("kind")?;
        let known = match kind.text()? {
            "VirtualService" => Kind::VirtualService,
            "DestinationRule" => Kind::DestinationRule,
            other => {
                return Err(
                    kind.error(&format!("{other:?} is neither VirtualService nor DestinationRule: leave it out"))
                );
            }
        };
        let name = root.need("metadata")?.fields()?.need("name")?.text()?.to_owned();
        (known, format!("{file}: document {}: {} {name:?}:", number + 1, kind.text()?))
    };
    Ok(Document { at, kind, value })
}

/// The `spec` and the metadata of a document; everything else in it is checked.
fn spec(root: Node<'_>) -> Result<(Fields<'_>, Fields<'_>), ConfigError> {
    let fields = root.fields()?;
    for known in ["apiVersion", "kind"] {
        fields.need(known)?;
    }
    // what the cluster writes about the object says nothing about traffic
    let _ = fields.get("status");
    let (metadata, spec) = (fields.need("metadata")?.fields()?, fields.need("spec")?.fields()?);
    fields.done(&[])?;
    Ok((metadata, spec))
}

#[cfg(test)]
mod tests;
