//! [`Guard`]: what stands before the requests of a listener: the header with the client's certificate,
//! then tokens, then rules.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request};

use crate::{
    authority::host_of,
    config::{Direction, ForwardClientCert, Listener, TlsMode},
    security::{
        Opening, Peer, SecurityError, SecurityStats,
        authorize::{Asked, Decision, Rules},
        claims::Claims,
        fields,
        jwt::{KeySource, Problem, Tokens},
        stats::count,
    },
};

/// The client's certificate, as Envoy writes it.
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// The checks of one listener.
#[derive(Debug)]
pub(crate) struct Guard {
    forward: Option<ForwardClientCert>,
    tokens: Option<Tokens>,
    rules: Option<Rules>,
    /// The protection space of `WWW-Authenticate`.
    realm: String,
    stats: Arc<SecurityStats>,
}

/// Why a request goes no further.
#[derive(Debug)]
pub(crate) enum Denial {
    /// No token, or none that can be believed: 401, with this `WWW-Authenticate`.
    Unauthenticated(HeaderValue),
    /// The rules say so: 403.
    Forbidden(Arc<Decision>),
}

impl Guard {
    /// `None` when the listener asks for nothing.
    pub(crate) fn open(
        listener: &Listener,
        key: &str,
        realm: &str,
        opening: Opening<'_>,
    ) -> Result<Option<Self>, SecurityError> {
        let forward = forward_at(listener);
        let tokens = listener.jwt.as_ref().map(|jwt| Tokens::open(jwt, &format!("{key}.jwt"), opening));
        let tokens = tokens.transpose()?;
        let rules = listener.authorization.as_ref().map(Rules::new);
        let asked = forward.is_some() || tokens.is_some() || rules.is_some();
        let (realm, stats) = (realm.to_owned(), opening.stats.clone());
        Ok(asked.then_some(Self { forward, tokens, rules, realm, stats }))
    }

    /// Whether requests are asked for anything.
    pub(crate) fn asks(&self) -> bool {
        self.tokens.is_some() || self.rules.is_some()
    }

    /// Where keys of token issuers come from.
    pub(crate) fn key_sources(&self) -> impl Iterator<Item = &Arc<KeySource>> {
        self.tokens.iter().flat_map(Tokens::key_sources)
    }

    /// Lets a request through, without what it has no right to say, or denies it. Waits only for a key that is not known
    /// yet, and not for long.
    pub(crate) async fn check<B>(&self, request: &mut Request<B>) -> Result<Option<Arc<Decision>>, Denial> {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        if let Some(forward) = self.forward {
            forward_client_cert(forward, peer.as_deref(), request);
        }
        let claims = match &self.tokens {
            Some(tokens) => tokens.check(request).await.map_err(|problem| self.unauthenticated(&problem))?,
            None => None,
        };
        let Some(rules) = &self.rules else { return Ok(None) };
        self.counted(decide(rules, peer.as_deref(), claims.as_ref(), request)).map(Some).map_err(Denial::Forbidden)
    }

    /// Lets a connection through whose bytes nobody reads, or not: by who is at its other end, which is all that is known.
    pub(crate) fn check_connection(&self, peer: Option<&Peer>) -> Result<Option<Arc<Decision>>, Arc<Decision>> {
        let Some(rules) = &self.rules else { return Ok(None) };
        let principal = peer.and_then(|peer| peer.principal.as_ref());
        let asked = Asked { principal, method: &Method::CONNECT, host: None, claims: None };
        let decision = rules.decide(&asked, "");
        self.counted(decision).map(Some)
    }

    fn counted(&self, decision: Arc<Decision>) -> Result<Arc<Decision>, Arc<Decision>> {
        count(if decision.allowed { &self.stats.allowed } else { &self.stats.denied });
        if decision.allowed { Ok(decision) } else { Err(decision) }
    }

    /// RFC 6750 §3: without a token, no error is named.
    fn unauthenticated(&self, problem: &Problem) -> Denial {
        count(&self.stats.unauthenticated);
        let realm = self.realm.replace(['"', '\\'], "_");
        let challenge = match problem {
            Problem::Missing => format!("Bearer realm=\"{realm}\""),
            _ => format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{problem}\""),
        };
        let plain = HeaderValue::from_static("Bearer");
        Denial::Unauthenticated(HeaderValue::from_str(&challenge).unwrap_or(plain))
    }
}

fn decide<B>(rules: &Rules, peer: Option<&Peer>, claims: Option<&Claims>, request: &Request<B>) -> Arc<Decision> {
    let principal = peer.and_then(|peer| peer.principal.as_ref());
    let asked = Asked { principal, method: request.method(), host: host_of(request), claims };
    rules.decide(&asked, request.uri().path())
}

/// Without TLS nobody has shown a certificate, so at an inbound listener what speaks of one goes, as in Envoy.
fn forward_at(listener: &Listener) -> Option<ForwardClientCert> {
    let inbound = listener.direction == Direction::Inbound;
    match &listener.tls {
        Some(tls) if tls.mode != TlsMode::Off => Some(tls.forward_client_cert),
        Some(tls) if tls.forward_client_cert == ForwardClientCert::AlwaysForwardOnly => None,
        _ => inbound.then_some(ForwardClientCert::Sanitize),
    }
}

fn forward_client_cert<B>(forward: ForwardClientCert, peer: Option<&Peer>, request: &mut Request<B>) {
    use ForwardClientCert::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
    let headers = request.headers_mut();
    let shown = peer.and_then(|peer| peer.forwarded.clone());
    match (forward, shown) {
        (AlwaysForwardOnly, _) | (ForwardOnly, Some(_)) => {}
        (Sanitize, _) | (_, None) => fields::remove(headers, &FORWARDED),
        (SanitizeSet, Some(element)) => {
            fields::remove(headers, &FORWARDED);
            headers.insert(FORWARDED, element);
        }
        (AppendForward, Some(element)) => {
            headers.append(FORWARDED, element);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificates_header_is_as_envoy_has_it() {
        use ForwardClientCert::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
        let shown =
            Peer { principal: None, forwarded: Some(HeaderValue::from_static("Hash=proved")), ..Peer::default() };
        let none = Peer::default();
        for (forward, mutual, plain) in [
            (Sanitize, vec![], vec![]),
            (SanitizeSet, vec!["Hash=proved"], vec![]),
            (AppendForward, vec!["Hash=claimed", "Hash=proved"], vec![]),
            (ForwardOnly, vec!["Hash=claimed"], vec![]),
            (AlwaysForwardOnly, vec!["Hash=claimed"], vec!["Hash=claimed"]),
        ] {
            for (peer, expected) in [(Some(&shown), &mutual), (Some(&none), &plain), (None, &plain)] {
                let mut request = Request::builder().header(FORWARDED, "Hash=claimed").body(()).unwrap();
                forward_client_cert(forward, peer, &mut request);
                let left: Vec<_> = request.headers().get_all(FORWARDED).iter().collect();
                assert_eq!(&left, expected, "{forward:?}");
            }
        }
    }
}
