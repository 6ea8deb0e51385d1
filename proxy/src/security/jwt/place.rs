//! [`Place`]: where a token is in a request, and how it is taken out again.

use http::{
    HeaderName, Request, Uri,
    header::{AUTHORIZATION, COOKIE},
    uri::PathAndQuery,
};

use crate::{config::JwtPlace, security::jwt::Problem};

/// Where a token may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Header { name: HeaderName, prefix: String },
    Query(String),
    Cookie(String),
}

impl Place {
    /// As configured, else `Authorization: Bearer`.
    pub(crate) fn all(asked: &[JwtPlace]) -> Vec<Self> {
        if asked.is_empty() {
            return vec![Self::Header { name: AUTHORIZATION, prefix: "Bearer ".to_owned() }];
        }
        asked.iter().filter_map(Self::new).collect()
    }

    fn new(asked: &JwtPlace) -> Option<Self> {
        match (&asked.header, &asked.query, &asked.cookie) {
            (Some(name), ..) => Some(Self::Header { name: name.parse().ok()?, prefix: asked.prefix.clone() }),
            (_, Some(name), _) => Some(Self::Query(name.clone())),
            (_, _, Some(name)) => Some(Self::Cookie(name.clone())),
            _ => None,
        }
    }

    /// The token, if there is one. Two are refused: the server behind might read the other.
    pub(crate) fn find<B>(&self, request: &Request<B>) -> Result<Option<String>, Problem> {
        match self {
            Self::Header { name, prefix } => {
                let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
                only(values.filter_map(|value| without_prefix(value, prefix)))
            }
            Self::Query(name) => only(parameters(request.uri().query()).filter_map(|pair| value_of(pair, name))),
            Self::Cookie(name) => {
                let cookies = request.headers().get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
                only(cookies.flat_map(|value| value.split(';')).filter_map(|pair| value_of(pair.trim(), name)))
            }
        }
    }

    /// The upstream does not need it. A cookie stays, as it is the application's too.
    pub(crate) fn take_out<B>(&self, request: &mut Request<B>) {
        match self {
            Self::Header { name, .. } => {
                request.headers_mut().remove(name);
            }
            Self::Query(name) => {
                if let Some(uri) = without_parameter(request.uri(), name) {
                    *request.uri_mut() = uri;
                }
            }
            Self::Cookie(_) => {}
        }
    }
}

fn only<'a>(mut tokens: impl Iterator<Item = &'a str>) -> Result<Option<String>, Problem> {
    let first = tokens.next();
    if tokens.next().is_some() { Err(Problem::Ambiguous) } else { Ok(first.map(str::to_owned)) }
}

/// A scheme is compared without case (RFC 9110 §11.1).
fn without_prefix<'a>(value: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, token) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then(|| token.trim())
}

fn parameters(query: Option<&str>) -> impl Iterator<Item = &str> {
    query.unwrap_or_default().split('&')
}

fn value_of<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value)
}

fn without_parameter(uri: &Uri, name: &str) -> Option<Uri> {
    let kept: Vec<&str> = parameters(uri.query()).filter(|pair| value_of(pair, name).is_none()).collect();
    let path = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        Place::all(&[serde_saphyr::from_str(text).unwrap()]).remove(0)
    }

    #[test]
    fn a_token_is_found_once_and_taken_out() {
        for (at, uri, headers, found, uri_after) in [
            (
                "{ header: authorization, prefix: \"Bearer \" }",
                "/",
                &[("authorization", "bearer t")][..],
                Ok(Some("t")),
                "/",
            ),
            ("{ header: authorization, prefix: \"Bearer \" }", "/", &[("authorization", "Basic t")], Ok(None), "/"),
            ("{ header: authorization, prefix: \"Bearer \" }", "/", &[("authorization", "B")], Ok(None), "/"),
            (
                "{ header: authorization, prefix: \"Bearer \" }",
                "/",
                &[("authorization", "Bearer t"), ("authorization", "Bearer u")],
                Err(Problem::Ambiguous),
                "/",
            ),
            ("{ header: x-token }", "/", &[("x-token", "t")], Ok(Some("t")), "/"),
            ("{ query: token }", "/a?x=1&token=t&y=2", &[], Ok(Some("t")), "/a?x=1&y=2"),
            ("{ query: token }", "/a?token=t", &[], Ok(Some("t")), "/a"),
            ("{ query: token }", "/a?token=t&token=u", &[], Err(Problem::Ambiguous), "/a"),
            ("{ query: token }", "/a?tokens=t", &[], Ok(None), "/a?tokens=t"),
            ("{ cookie: session }", "/", &[("cookie", "a=1; session=t; b=2")], Ok(Some("t")), "/"),
            ("{ cookie: session }", "/", &[("cookie", "a=1"), ("cookie", "session=t")], Ok(Some("t")), "/"),
            ("{ cookie: session }", "/", &[("cookie", "session=t; session=u")], Err(Problem::Ambiguous), "/"),
        ] {
            let mut request = Request::builder().uri(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let mut request = request.body(()).unwrap();
            let place = place(at);
            assert_eq!(place.find(&request).as_ref().map(Option::as_deref), found.as_ref().copied(), "{at} {uri}");
            place.take_out(&mut request);
            assert_eq!(request.uri(), uri_after, "{at}");
            assert!(matches!(place, Place::Cookie(_)) || place.find(&request) == Ok(None), "{at}");
        }
    }
}
