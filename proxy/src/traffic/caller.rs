//! Who calls: as its sidecar says in `x-weir-peer`, where that may be believed, unless TLS has proved somebody else.
//!
//! What is believed becomes an edge of the service graph, so a client from outside must not draw them: [`Believed`] says
//! whose word counts at a listener, and from others the field goes before anybody reads it.

use std::sync::Arc;

use http::Request;

use crate::{
    config::{Direction, Listener, TlsMode},
    security::Peer,
    traffic::headers::PEER,
};

/// Whose word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Believed {
    Everybody,
    /// Clients whose certificate names them.
    Proved,
    Nobody,
}

impl Believed {
    /// As the file says, else everybody's where nobody can prove anything.
    pub(crate) fn at(listener: &Listener) -> Self {
        let provable = listener.tls.as_ref().is_some_and(|tls| tls.mode != TlsMode::Off && tls.trust.is_some());
        match (listener.direction, listener.believe_peer) {
            (Direction::Outbound, _) | (_, Some(false)) => Self::Nobody,
            (_, None) if provable => Self::Proved,
            (_, Some(true) | None) => Self::Everybody,
        }
    }

    /// Takes the word out of a request whose client has no say.
    pub(crate) fn take_out<B>(self, request: &mut Request<B>) {
        let says = match self {
            Self::Everybody => true,
            Self::Proved => proved(request).is_some(),
            Self::Nobody => false,
        };
        if !says {
            request.headers_mut().remove(PEER);
        }
    }
}

/// Who calls. An account may say more than the service's name (`tagger-v2`), or nothing (`default`).
pub(crate) fn caller_of<B>(request: &Request<B>) -> Option<&str> {
    let said = request.headers().get(PEER)?.to_str().ok()?;
    let account = proved(request).and_then(|peer| peer.principal.as_ref()?.path().rsplit('/').next());
    let account = account.filter(|account| !matches!(*account, "" | "default"));
    let service = said.split('/').next().unwrap_or_default();
    let fits =
        |account: &str| account.strip_prefix(service).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    Some(account.filter(|account| !fits(account)).unwrap_or(said))
}

fn proved<B>(request: &Request<B>) -> Option<&Arc<Peer>> {
    request.extensions().get::<Arc<Peer>>().filter(|peer| peer.principal.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(account: Option<&str>, said: &str) -> Request<()> {
        let mut request = Request::builder().header(PEER, said).body(()).unwrap();
        if let Some(account) = account {
            let principal = format!("spiffe://mesh.local/ns/shop/sa/{account}").parse().ok();
            request.extensions_mut().insert(Arc::new(Peer { principal, ..Peer::default() }));
        }
        request
    }

    /// Whatever a client said of itself became an edge of the service graph.
    #[test]
    fn who_is_proved_to_call_is_who_calls() {
        for (account, said, expected) in [
            (None, "tagger/tagger-0", "tagger/tagger-0"),
            (Some("tagger"), "tagger/tagger-0", "tagger/tagger-0"),
            (Some("tagger-v2"), "tagger/tagger-0", "tagger/tagger-0"),
            (Some("default"), "tagger/tagger-0", "tagger/tagger-0"),
            (Some("tagger"), "parser/parser-0", "tagger"),
            (Some("tagger"), "tag/tag-0", "tagger"),
            (Some("tagger"), "/x", "tagger"),
        ] {
            assert_eq!(caller_of(&request(account, said)), Some(expected), "{account:?} says {said}");
        }
    }

    #[test]
    fn only_those_have_a_say_whom_the_listener_believes() {
        let tls = ", tls: { certificate: c, key: k, trust: t }";
        let one_sided = ", tls: { certificate: c, key: k, require_client_certificate: false }";
        let both = format!("{tls}, believe_peer: true");
        for (direction, more, stranger, proved) in [
            ("inbound", "", true, true),
            ("inbound", tls, false, true),
            ("inbound", one_sided, true, true),
            ("inbound", ", believe_peer: false", false, false),
            ("inbound", both.as_str(), true, true),
            ("outbound", "", false, false),
        ] {
            let text = format!("{{ address: '127.0.0.1:0', direction: {direction}{more} }}");
            let listener: Listener = serde_saphyr::from_str(&text).unwrap();
            for (account, expected) in [(None, stranger), (Some("tagger"), proved)] {
                let mut request = request(account, "tagger/tagger-0");
                Believed::at(&listener).take_out(&mut request);
                assert_eq!(caller_of(&request).is_some(), expected, "{text} {account:?}");
            }
        }
    }
}
