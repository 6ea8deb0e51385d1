//! The parts of a workload, compiled from the file: upstreams, and listeners with their routes. What was known of those that
//! stay goes on.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
};

use crate::{
    config::{self, Config, Direction, Forwarded},
    lm::provider,
    routing::{Route, Standing},
    security::Security,
    sockets::listener_keys,
    traffic::{Believed, Via},
    upstream::Upstream,
    workload::{Accepts, Workload},
};

/// How the route is called on which requests are booked that no other takes.
const UNMATCHED: &str = "(no route)";

/// What becomes of the file's listeners.
pub(super) struct Listeners {
    pub(super) listeners: Vec<Vec<Arc<Route>>>,
    pub(super) accepts: Vec<Accepts>,
    pub(super) unmatched: Vec<Arc<Route>>,
}

pub(super) fn upstreams(
    config: &Config,
    security: &Security,
    before: Option<&Workload>,
    ids: &AtomicUsize,
) -> Vec<Arc<Upstream>> {
    let threads = config.thread_count();
    let upstream = |(index, upstream): (usize, &config::Upstream)| {
        let tls = security.client_tls(index).cloned();
        let mut compiled = Upstream::new(upstream, config.locality.as_ref(), threads, tls);
        compiled.gen_ai_provider = provider(upstream, &config.upstreams);
        let known = |name: &str| before.and_then(|before| before.upstreams.iter().find(|known| known.name == name));
        Arc::new(match (known(&upstream.name), compiled.parent().and_then(known)) {
            (Some(known), _) => compiled.known_by(known, ids),
            // a new part of an upstream has the endpoints that were found for it, until they are looked for again
            (None, Some(whole)) => compiled.part_of(whole, ids),
            (None, None) => compiled,
        })
    };
    config.upstreams.iter().enumerate().map(upstream).collect()
}

pub(super) fn listeners(config: &Config, upstreams: &[Arc<Upstream>], before: Option<&Workload>) -> Listeners {
    let by_name: HashMap<&str, &Arc<Upstream>> = upstreams.iter().map(|u| (u.name.as_str(), u)).collect();
    let upstream = |name: &str| (*by_name.get(name).expect("validated: the upstream exists")).clone();
    let mut known: Vec<&Arc<Route>> = before.iter().flat_map(|before| before.routes()).collect();
    let mut counted = Vec::new();
    let mut compiled = |route: &config::Route, direction| {
        let (timeout, idle_timeout) = (config.timeouts.response(), config.timeouts.stream_idle());
        let standing = Standing { service: &config.service, direction, timeout, idle_timeout };
        let route = Route::new(route, standing, upstream).expect("validated: the route compiles");
        route.known_by(&mut known).counted_with(&mut counted)
    };
    let (mut listeners, mut accepts, mut all_unmatched) = (Vec::new(), Vec::new(), Vec::<Arc<Route>>::new());
    for (key, listener) in listener_keys(config).into_iter().zip(&config.listeners) {
        let direction = listener.direction;
        listeners.push(listener.routes.iter().map(|route| compiled(route, direction)).collect());
        let tcp = listener.upstream.as_ref().map(config::Route::to);
        let tcp = tcp.map(|route| compiled(&route, direction));
        let unmatched = all_unmatched.iter().find(|route| route.direction == direction).cloned();
        let unmatched = unmatched.unwrap_or_else(|| {
            all_unmatched.push(compiled(&unmatched_route(), direction));
            all_unmatched[all_unmatched.len() - 1].clone()
        });
        let (via, believed) = (Via::new(accepts.len()), Believed::at(listener));
        let (protocol, connect) = (listener.protocol, listener.connect);
        let forwarded = match direction {
            Direction::Inbound => listener.forwarded.unwrap_or_default(),
            Direction::Outbound => Forwarded::Keep,
        };
        let trusted_hops = listener.trusted_hops;
        accepts.push(Accepts { key, protocol, connect, tcp, via, believed, forwarded, trusted_hops, unmatched });
    }
    Listeners { listeners, accepts, unmatched: all_unmatched }
}

/// It answers nothing: whoever is booked on it was answered already.
fn unmatched_route() -> config::Route {
    let respond = Some(config::Respond { status: 404, body: String::new() });
    config::Route { name: Some(UNMATCHED.to_owned()), respond, ..config::Route::default() }
}
