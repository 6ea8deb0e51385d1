//! `VirtualService` → routes: one for each look that a rule's requests may have.
//!
//! A host has one virtual service: what the rules of the first do not take gets its 404, so a second would never be asked.

use crate::{
    config::{ConfigError, Match, Respond, Route},
    istio::{Document, Taken, destination::Registry, fields::Node, http_route, spec},
    routing,
};

/// The routes of a virtual service for hosts of one kind.
pub(super) struct Compiled {
    /// The length of the wildcard; `None` for exact hosts.
    pub(super) wildcard: Option<usize>,
    pub(super) routes: Vec<Route>,
}

/// Compiles a document; `taken` are the hosts of those before it.
pub(super) fn compile(
    document: &Document,
    registry: &Registry,
    taken: &mut Taken,
) -> Result<Vec<Compiled>, ConfigError> {
    let (metadata, spec) = spec(document.root())?;
    let name = metadata.need("name")?.text()?;
    let hosts = spec.need("hosts")?.list()?;
    check_mesh(&spec.list("gateways")?)?;
    check_exported(&spec.list("exportTo")?)?;
    let rules = spec.need("http")?.list()?;
    spec.done(&[
        ("tls", "TLS is not routed by its server name: route its plaintext"),
        ("tcp", "only HTTP is routed: give the port a listener of its own"),
    ])?;
    let retry_all = non_idempotent(&metadata.get("annotations"))?;
    let mut routes = Vec::new();
    let mut all_taken = false;
    for rule in &rules {
        let (compiled, matches) = http_route::compile(rule, registry, retry_all)?;
        all_taken |= matches.contains(&Match::default());
        for matches in matches {
            let route =
                Route { name: compiled.name.clone().or_else(|| Some(name.to_owned())), matches, ..compiled.clone() };
            routing::check(&route).map_err(|error| rule.error(&error.0))?;
            routes.push(route);
        }
    }
    if !all_taken {
        // as in Istio: a host that is known and a request that no rule takes
        let respond = Some(Respond { status: 404, body: "no rule of the virtual service takes this request\n".into() });
        routes.push(Route { name: Some(name.to_owned()), respond, ..Route::default() });
    }
    let namespace = metadata.map("namespace", |node| node.text())?.unwrap_or("default");
    take(&hosts, namespace, taken, &document.at)?;
    for_hosts(&hosts, namespace, &routes)
}

/// Takes whatever clients call the hosts for the document `at`, unless one before has it.
fn take(hosts: &[Node<'_>], namespace: &str, taken: &mut Taken, at: &str) -> Result<(), ConfigError> {
    for host in hosts {
        for name in names(host.text()?, namespace) {
            if let Some(before) = taken.get(&name).filter(|before| *before != at) {
                let why = format!(
                    "{name:?} means a host that has a VirtualService already, {before} \
                     put the rules of both into one, or leave one out"
                );
                return Err(host.error(&why));
            }
            taken.insert(name, at.to_owned());
        }
    }
    Ok(())
}

/// Routes for the exact hosts together, and for each wildcard.
fn for_hosts(hosts: &[Node<'_>], namespace: &str, routes: &[Route]) -> Result<Vec<Compiled>, ConfigError> {
    let of = |hosts: Vec<String>| {
        let of_hosts =
            |route: &Route| Route { matches: Match { hosts: hosts.clone(), ..route.matches.clone() }, ..route.clone() };
        routes.iter().map(of_hosts).collect::<Vec<Route>>()
    };
    let (mut exact, mut compiled) = (Vec::new(), Vec::new());
    for host in hosts {
        let name = host.text()?;
        match name.strip_prefix('*') {
            Some("") => compiled.push(Compiled { wildcard: Some(0), routes: of(Vec::new()) }),
            Some(rest) if rest.starts_with('.') && !rest.contains('*') => {
                compiled.push(Compiled { wildcard: Some(rest.len()), routes: of(vec![name.to_owned()]) });
            }
            None if !name.is_empty() && !name.contains(['*', '/', ':']) => exact.extend(names(name, namespace)),
            _ => return Err(host.error(&format!("{name:?} is neither a host nor * nor *.domain"))),
        }
    }
    if !exact.is_empty() {
        compiled.push(Compiled { wildcard: None, routes: of(exact) });
    }
    Ok(compiled)
}

/// What a client may call a host: a service has a short name in its namespace, and longer ones beyond.
fn names(host: &str, namespace: &str) -> Vec<String> {
    let qualified = host.strip_suffix(".svc.cluster.local").and_then(|service| service.split_once('.'));
    let (service, namespace) = match qualified {
        Some(parts) => parts,
        None if !host.contains('.') => (host, namespace),
        None => return vec![host.to_owned()],
    };
    let longer = ["", ".svc", ".svc.cluster.local"].map(|end| format!("{service}.{namespace}{end}"));
    std::iter::once(service.to_owned()).chain(longer).collect()
}

pub(super) fn check_mesh(gateways: &[Node<'_>]) -> Result<(), ConfigError> {
    for gateway in gateways {
        if gateway.text()? != "mesh" {
            return Err(gateway.error("a sidecar is no gateway: only \"mesh\" can stand here"));
        }
    }
    Ok(())
}

/// Whoever names the file has decided that it holds here.
pub(super) fn check_exported(namespaces: &[Node<'_>]) -> Result<(), ConfigError> {
    for namespace in namespaces {
        if !["*", "."].contains(&namespace.text()?) {
            return Err(namespace.error("a sidecar knows no namespaces: only \"*\" or \".\" can stand here"));
        }
    }
    Ok(())
}

/// The annotation by which a virtual service says that repeating does no harm even for POST and PATCH.
fn non_idempotent(annotations: &Option<Node<'_>>) -> Result<bool, ConfigError> {
    let Some(annotations) = annotations else { return Ok(false) };
    let value = annotations.fields()?.get("weir/retry-non-idempotent");
    match value.as_ref().map(|value| value.text()).transpose()? {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(annotations.error("weir/retry-non-idempotent must be \"true\" or \"false\"")),
    }
}
