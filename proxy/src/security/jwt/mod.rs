//! [`Tokens`]: JSON web tokens at a listener: found, checked, and turned into [`Claims`] (RFC 7519, and
//! RFC 8725 for what can go wrong).
//!
//! The key decides which algorithms it is for, never the token: a key of a set is RSA or EC, symmetric ones
//! are not read, so neither `none` nor an HMAC made of a public key can pass. Keys come from files or
//! addresses ([`source`]) and the last good set stays.

mod fetch;
mod keys;
mod place;
mod source;

use std::{fmt, sync::Arc};

use http::{HeaderName, HeaderValue, Request};
use serde_json::Value;

use crate::{
    config::{Jwt, JwtIssuer},
    security::{
        Opening, SecurityError,
        claims::Claims,
        fields,
        jwt::{
            keys::{Expected, issuer_of},
            place::Place,
        },
    },
};
pub(crate) use source::KeySource;

/// The tokens of one listener.
#[derive(Debug)]
pub(crate) struct Tokens {
    issuers: Vec<Issuer>,
    required: bool,
}

#[derive(Debug)]
struct Issuer {
    name: String,
    keys: Arc<KeySource>,
    places: Vec<Place>,
    forward: bool,
    headers: Vec<(String, HeaderName)>,
}

/// The token of a request: whose it is, and every place where it stands.
struct Found<'a> {
    issuer: &'a Issuer,
    places: Vec<&'a Place>,
    token: String,
}

/// Why a token is not believed; what the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    Missing,
    /// Two values where one token should be.
    Ambiguous,
    Malformed,
    UnknownIssuer,
    UnknownKey,
    UnknownAlgorithm,
    Algorithm,
    Signature,
    Expired,
    NotYetValid,
    Audience,
    Claims,
}

impl Tokens {
    pub(crate) fn open(asked: &Jwt, key: &str, opening: Opening<'_>) -> Result<Self, SecurityError> {
        let open = |(i, issuer): (usize, &JwtIssuer)| {
            let expected = Expected::new(issuer, asked.leeway_s);
            let key = format!("{key}.issuers[{i}].jwks");
            let keys = KeySource::open(&issuer.jwks, key, expected, opening)?;
            Ok(Issuer {
                name: issuer.issuer.clone(),
                keys: Arc::new(keys),
                places: Place::all(&issuer.from),
                forward: issuer.forward,
                headers: headers(issuer),
            })
        };
        let issuers = asked.issuers.iter().enumerate().map(open).collect::<Result<_, _>>()?;
        Ok(Self { issuers, required: asked.required })
    }

    pub(crate) fn key_sources(&self) -> impl Iterator<Item = &Arc<KeySource>> {
        self.issuers.iter().map(|issuer| &issuer.keys)
    }

    /// The claims of the request's token. A token that is there must be good, whether or not one is required.
    pub(crate) async fn check<B>(&self, request: &mut Request<B>) -> Result<Option<Claims>, Problem> {
        // only what a token proves may be said in these
        for (_, header) in self.issuers.iter().flat_map(|issuer| &issuer.headers) {
            fields::remove(request.headers_mut(), header);
        }
        let Some(Found { issuer, places, token }) = self.find(request)? else {
            return if self.required { Err(Problem::Missing) } else { Ok(None) };
        };
        let claims = issuer.keys.check(&token).await?;
        issuer.tell(&claims, request);
        if !issuer.forward {
            places.iter().for_each(|place| place.take_out(request));
        }
        Ok(Some(claims))
    }

    /// The token of a request. Two of them are refused, wherever they stand: the server behind
    /// might read the one that was not checked.
    fn find<B>(&self, request: &Request<B>) -> Result<Option<Found<'_>>, Problem> {
        let mut found: Vec<(&Place, String)> = Vec::new();
        for place in self.issuers.iter().flat_map(|issuer| &issuer.places) {
            let known = found.iter().any(|(known, _)| *known == place);
            if let (false, Some(token)) = (known, place.find(request)?) {
                found.push((place, token));
            }
        }
        let Some((first, token)) = found.first().cloned() else { return Ok(None) };
        if found.iter().any(|(_, other)| *other != token) {
            return Err(Problem::Ambiguous);
        }
        let name = issuer_of(&token)?;
        let issuer = self.issuers.iter().find(|issuer| issuer.name == name && issuer.places.contains(first));
        let places = found.into_iter().map(|(place, _)| place).collect();
        Ok(Some(Found { issuer: issuer.ok_or(Problem::UnknownIssuer)?, places, token }))
    }
}

impl Issuer {
    /// Tells the upstream what the token says. A claim that no header can hold is left out.
    fn tell<B>(&self, claims: &Claims, request: &mut Request<B>) {
        for (claim, header) in &self.headers {
            let value = match claims.get(claim) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            if let Ok(value) = HeaderValue::from_str(&value) {
                request.headers_mut().insert(header, value);
            }
        }
    }
}

fn headers(issuer: &JwtIssuer) -> Vec<(String, HeaderName)> {
    let header = |entry: &crate::config::ClaimToHeader| Some((entry.claim.clone(), entry.header.parse().ok()?));
    issuer.claims_to_headers.iter().filter_map(header).collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "no token",
            Self::Ambiguous => "more than one token",
            Self::Malformed => "not a signed token",
            Self::UnknownIssuer => "the issuer is not known",
            Self::UnknownKey => "the key is not known",
            Self::UnknownAlgorithm => "the algorithm is not one that is checked here",
            Self::Algorithm => "the key is not for this algorithm",
            Self::Signature => "the signature does not hold",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::Audience => "the token is for another audience",
            Self::Claims => "a claim is missing or has no usable form",
        })
    }
}
