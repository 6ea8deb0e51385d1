//! `DestinationRule` → what upstreams do; a subset becomes an upstream that takes the endpoints with its labels.

use crate::{
    config::{Config, ConfigError, SubsetOf, Upstream, no_labels},
    istio::{
        Document, Taken,
        destination::{Registry, subset_name},
        fields::Node,
        spec, traffic_policy, virtual_service,
    },
};

/// Applies a document to the upstreams of `config`; `taken` are those that one before has the say on.
pub(super) fn apply(document: &Document, config: &mut Config, taken: &mut Taken) -> Result<(), ConfigError> {
    let (metadata, spec) = spec(document.root())?;
    metadata.need("name")?;
    virtual_service::check_exported(&spec.list("exportTo")?)?;
    let host = spec.need("host")?;
    let names = Registry::new(&config.upstreams).all(&host)?;
    let (policy, subsets) = (spec.get("trafficPolicy"), spec.list("subsets")?);
    spec.done(&[("workloadSelector", "name the file only in the proxy.yaml of those workloads")])?;
    for name in names {
        if let Some(before) = taken.insert(name.clone(), document.at.clone()) {
            let why = format!("upstream {name:?} has a DestinationRule already, {before} put both into one");
            return Err(host.error(&why));
        }
        apply_to(&name, policy.as_ref(), &subsets, config)?;
    }
    Ok(())
}

fn apply_to(
    name: &str,
    policy: Option<&Node<'_>>,
    subsets: &[Node<'_>],
    config: &mut Config,
) -> Result<(), ConfigError> {
    let has_locality = config.locality.is_some();
    let upstream = config.upstreams.iter_mut().find(|upstream| upstream.name == name);
    let upstream = upstream.ok_or_else(|| ConfigError(format!("no such upstream: {name}")))?;
    let unruled = upstream.clone();
    if let Some(policy) = policy {
        traffic_policy::apply(policy, upstream, &unruled, has_locality)?;
    }
    let parent = upstream.clone();
    for subset in subsets {
        let part = self::subset(subset, &parent, &unruled, has_locality)?;
        if config.upstreams.iter().any(|upstream| upstream.name == part.name) {
            return Err(subset.error(&format!("there is an upstream {:?} already", part.name)));
        }
        config.upstreams.push(part);
    }
    Ok(())
}

/// A part of `parent`, which was `unruled` before the rule's own policy.
fn subset(node: &Node<'_>, parent: &Upstream, unruled: &Upstream, has_locality: bool) -> Result<Upstream, ConfigError> {
    let fields = node.fields()?;
    let name = fields.need("name")?.text()?;
    let labels = fields.map("labels", |node| match node.texts()? {
        labels if !labels.is_empty() && !parent.finds_labels() => Err(node.error(&no_labels(&parent.name))),
        labels => Ok(labels),
    });
    let labels = labels?.unwrap_or_default();
    let mut upstream = Upstream {
        name: subset_name(&parent.name, name),
        service: Some(parent.service().to_owned()),
        endpoints: Vec::new(),
        discover: None,
        subset_of: Some(SubsetOf { upstream: parent.name.clone(), labels }),
        ..parent.clone()
    };
    fields.map("trafficPolicy", |node| traffic_policy::apply(&node, &mut upstream, unruled, has_locality))?;
    fields.done(&[])?;
    Ok(upstream)
}
