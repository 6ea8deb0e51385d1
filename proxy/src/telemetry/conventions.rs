//! A record in the words of OpenTelemetry's conventions for HTTP and RPC: methods that are known, schemes, what an error is.
//!
//! <https://opentelemetry.io/docs/specs/semconv/http/http-spans/>

use std::borrow::Cow;

use http::{Method, Version};

use crate::{
    config::{Direction, Protocol},
    telemetry::{Action, SpanRecord},
    traffic::grpc_name,
};

/// What a method is called that is not known: clients can make up as many as they like.
pub(crate) const OTHER: &str = "_OTHER";

/// By its name if it is RFC 9110's or PATCH.
pub(crate) fn known_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or(OTHER)
}

impl SpanRecord {
    /// Whether bytes passed unread, and nothing is known of HTTP.
    pub(crate) fn is_tcp(&self) -> bool {
        self.tunnel.as_deref() == Some("tcp")
    }

    /// Whether the request goes by TLS: to the upstream where it leaves, else from the client.
    pub(crate) fn is_secure(&self) -> bool {
        match (&self.upstream, self.route.direction) {
            (Some(upstream), Direction::Outbound) => upstream.tls.is_some(),
            _ => self.proof.as_ref().is_some_and(|proof| proof.source.is_some()),
        }
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.is_secure() { "https" } else { "http" }
    }

    /// The version of HTTP towards who is at the other end; none where it was left for something else.
    pub(crate) fn protocol_version(&self) -> Option<&'static str> {
        if self.tunnel.is_some() {
            return None;
        }
        let version = match (&self.upstream, self.route.direction) {
            (Some(upstream), Direction::Outbound) => match upstream.protocol {
                Protocol::Http1 => Version::HTTP_11,
                Protocol::H2 => Version::HTTP_2,
            },
            _ => self.said.version,
        };
        Some(match version {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        })
    }

    /// Service and method of a gRPC call.
    pub(crate) fn rpc(&self) -> Option<(&str, &str)> {
        self.said.path().filter(|_| self.said.grpc)?.strip_prefix('/')?.rsplit_once('/')
    }

    /// Whether its span is an error: a refusal is one for who was refused, and none for the server.
    pub(crate) fn is_error(&self) -> bool {
        let refused = || self.status >= 400 || self.grpc_status.is_some_and(|status| status > 0);
        self.failed() || (self.route.direction == Direction::Outbound && refused())
    }

    /// Why the proxy itself, or its way to the upstream, made it fail.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        match (self.failure, self.action) {
            (Some(failure), _) => Some(failure.as_str()),
            (None, Action::Shed(refusal)) => Some(refusal.as_str()),
            (None, Action::Denied) => Some(Action::Denied.as_str()),
            (None, Action::Rejected(reason)) => Some(reason),
            (None, Action::Admitted | Action::Queued) => None,
        }
    }

    /// What kind of error it is, if it is one or policy turned it away.
    pub(crate) fn error_type(&self) -> Option<Cow<'static, str>> {
        let by_status = || self.is_error().then(|| by_status(self.status, self.grpc_status))?;
        self.reason().map(Cow::Borrowed).or_else(by_status)
    }
}

/// As the answer says.
fn by_status(status: u16, grpc_status: Option<u16>) -> Option<Cow<'static, str>> {
    match status {
        400.. => Some(status.to_string().into()),
        _ => grpc_status.map(|status| grpc_name(status).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Config,
        security::Security,
        telemetry::{Failure, Said, wire::tests::record},
        workload::Workload,
    };

    #[test]
    fn methods_that_clients_make_up_have_one_name() {
        for (method, expected) in [("GET", "GET"), ("PATCH", "PATCH"), ("get", OTHER), ("BREW", OTHER)] {
            assert_eq!(known_method(&method.parse().unwrap()), expected);
        }
    }

    /// A 404 was no error to who got it, and looked like a success.
    #[test]
    fn a_refusal_is_an_error_for_who_calls() {
        for (status, grpc, failure, called, calls) in [
            (200, None, None, None, None),
            (304, None, None, None, None),
            (404, None, None, None, Some("404")),
            (429, None, None, None, Some("429")),
            (500, None, None, Some("500"), Some("500")),
            (200, Some(0), None, None, None),
            (200, Some(5), None, None, Some("NOT_FOUND")),
            (200, Some(8), None, None, Some("RESOURCE_EXHAUSTED")),
            (200, Some(14), None, Some("UNAVAILABLE"), Some("UNAVAILABLE")),
            (502, None, Some(Failure::ConnectFailed), Some("connect_failed"), Some("connect_failed")),
        ] {
            for (direction, expected) in [("inbound", called), ("outbound", calls)] {
                let text = format!(
                    "service: a\nlisteners: [{{ address: '127.0.0.1:0', direction: {direction}, routes: [{{ upstream: app }}] }}]\n\
                     upstreams: [{{ name: app, endpoints: ['127.0.0.1:1'] }}]"
                );
                let config = Config::from_yaml(&text).unwrap();
                let first = "127.0.0.1:80".parse().unwrap();
                let workload = Workload::new(&config, first, Default::default(), Security::default());
                let record =
                    SpanRecord { status, grpc_status: grpc, failure, action: Action::Admitted, ..record(&workload) };
                assert_eq!(record.error_type().as_deref(), expected, "{direction} {status} {grpc:?}");
                assert_eq!(record.is_error(), expected.is_some(), "{direction} {status} {grpc:?}");
            }
        }
    }

    #[test]
    fn a_grpc_call_says_service_and_method() {
        let workload = crate::telemetry::wire::tests::workload();
        for (path, grpc, expected) in [
            ("/shop.v1.Cart/Add", true, Some(("shop.v1.Cart", "Add"))),
            ("/shop.v1.Cart/Add", false, None),
            ("/Add", true, None),
        ] {
            let said = Said::new([path, "", "", "", ""], Version::HTTP_2, grpc);
            assert_eq!(SpanRecord { said, ..record(&workload) }.rpc(), expected, "{path}");
        }
    }
}
