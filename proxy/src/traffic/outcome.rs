//! [`Outcome`]: how one attempt ended, in the words that retries, breakers and outlier detection ask in.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};

use crate::{
    telemetry::Failure,
    traffic::{attempt::Answer, grpc, headers::REASON},
    upstream::Verdict,
};

/// The longest rest that an upstream can ask for: 300 s, as in Linkerd. More would be a way to switch it off.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With the head of an answer.
    Answered {
        status: u16,
        /// Of an answer that ends with its head, or as its trailers say.
        grpc_status: Option<u16>,
        retry_after: Option<Duration>,
        /// Whether a limit of a sidecar says so, and not the endpoint.
        shed: bool,
    },
    /// Without one.
    Failed(Failure),
}

impl Outcome {
    pub(crate) fn of(ended: &Result<Answer, Failure>) -> Self {
        match ended {
            Ok(Answer { response, .. }) => Self::answered(response.status(), response.headers()),
            Err(failure) => Self::Failed(*failure),
        }
    }

    pub(crate) fn answered(status: StatusCode, headers: &HeaderMap) -> Self {
        let grpc_status = grpc::status(headers);
        let asks = status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS;
        let retry_after = if asks { retry_after(headers, SystemTime::now()) } else { None };
        let shed = headers.contains_key(REASON);
        Self::Answered { status: status.as_u16(), grpc_status, retry_after, shed }
    }

    /// An answer that has come to its end.
    pub(crate) fn trailed(status: u16, trailers: &HeaderMap) -> Self {
        Self::Answered { status, grpc_status: grpc::status(trailers), retry_after: None, shed: false }
    }

    pub(crate) fn grpc_status(self) -> Option<u16> {
        match self {
            Self::Answered { grpc_status, .. } => grpc_status,
            Self::Failed(_) => None,
        }
    }

    /// A tunnel has no more to say.
    pub(crate) fn opened(status: u16) -> Self {
        Self::Answered { status, grpc_status: None, retry_after: None, shed: false }
    }

    /// The status as HTTP would have it: gRPC says UNAVAILABLE where HTTP says 503.
    pub(crate) fn status(self) -> Option<u16> {
        match self {
            Self::Answered { status, grpc_status: None | Some(0), .. } => Some(status),
            Self::Answered { grpc_status: Some(status), .. } => Some(grpc::http_status(status)),
            Self::Failed(_) => None,
        }
    }

    pub(crate) fn is_server_error(self) -> bool {
        self.status().is_none_or(|status| status >= 500)
    }

    /// Whether the endpoint should get less for a while.
    pub(crate) fn asks_to_slow_down(self) -> bool {
        self.is_server_error() || self.status() == Some(429)
    }

    /// When the client is told to come again.
    pub(crate) fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Answered { retry_after, .. } => retry_after,
            Self::Failed(_) => None,
        }
    }

    /// How long the endpoint wants nothing from anybody. A 429 is said to one client, of its own rate (RFC 6585 §4): it
    /// makes no endpoint rest for the others. Nor does a request that a sidecar's limit sheds, for its priority or deadline
    /// perhaps, while others pass.
    pub(crate) fn rest(self) -> Option<Duration> {
        match self {
            Self::Answered { retry_after, shed: false, .. } => retry_after.filter(|_| self.status() == Some(503)),
            _ => None,
        }
    }

    /// Whether the upstream may have begun to work on the request.
    pub(crate) fn reached(self) -> bool {
        !matches!(self, Self::Failed(failure) if failure.is_unreachable() || failure == Failure::StreamRefused)
    }

    pub(crate) fn verdict(self) -> Verdict {
        match self.status() {
            None | Some(502..=504) => Verdict::GatewayError,
            Some(500..) => Verdict::ServerError,
            Some(_) => Verdict::Fine,
        }
    }
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT").unwrap();
        for (text, expected) in [
            ("3", Some(3)),
            ("Wed, 21 Oct 2015 07:28:05 GMT", Some(5)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("86400", Some(300)),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now).map(|wait| wait.as_secs()), expected, "{text}");
        }
    }

    #[test]
    fn an_endpoint_rests_when_it_is_unavailable_and_not_when_a_client_asks_too_often() {
        let mut headers = HeaderMap::from_iter([("retry-after".parse().unwrap(), "3".parse().unwrap())]);
        for (status, rest) in [(503, Some(3)), (429, None), (500, None)] {
            let outcome = Outcome::answered(StatusCode::from_u16(status).unwrap(), &headers);
            assert_eq!(outcome.rest(), rest.map(Duration::from_secs), "{status}");
            assert_eq!(outcome.retry_after().is_some(), status != 500, "{status}: a retry waits all the same");
        }
        headers.insert(REASON, "queue_full".parse().unwrap());
        let shed = Outcome::answered(StatusCode::SERVICE_UNAVAILABLE, &headers);
        assert_eq!((shed.rest(), shed.retry_after()), (None, Some(Duration::from_secs(3))), "one request was shed");
    }

    #[test]
    fn grpc_is_told_by_its_own_status() {
        for (grpc, expected) in [
            (None, Verdict::Fine),
            (Some("0"), Verdict::Fine),
            (Some("5"), Verdict::Fine),
            (Some("14"), Verdict::GatewayError),
            (Some("13"), Verdict::ServerError),
        ] {
            let headers =
                HeaderMap::from_iter(grpc.map(|grpc| ("grpc-status".parse().unwrap(), grpc.parse().unwrap())));
            assert_eq!(Outcome::answered(StatusCode::OK, &headers).verdict(), expected, "{grpc:?}");
        }
    }
}
