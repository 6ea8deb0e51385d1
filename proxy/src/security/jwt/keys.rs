//! [`KeySet`]: the keys of one issuer, and whether a token holds against them.
//!
//! A key is for the algorithms of its kind, or for the one it names; a token's header only chooses among the
//! keys. Symmetric keys and keys for encryption are passed over.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation,
    dangerous::insecure_decode,
    decode, decode_header,
    errors::{Error, ErrorKind},
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    config::JwtIssuer,
    security::{claims::Claims, jwt::Problem},
};

/// An issuer has two keys, rarely ten; a set with more would be tried for each token without a key id.
const MAX_KEYS: usize = 100;

const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// What a token of one issuer must say.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    issuer: String,
    audiences: Vec<String>,
    leeway_s: u64,
}

/// The keys of one issuer.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    key: DecodingKey,
    validation: Validation,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// Of a header all that is read where the library knows no such algorithm.
#[derive(Deserialize)]
struct Signed {
    alg: String,
}

#[derive(Deserialize)]
struct Named {
    iss: String,
}

/// Whose a token says it is; nothing of it is checked yet.
pub(crate) fn issuer_of(token: &str) -> Result<String, Problem> {
    header_of(token)?;
    insecure_decode::<Named>(token).map(|data| data.claims.iss).map_err(|error| match error.kind() {
        ErrorKind::Json(_) => Problem::Claims,
        _ => Problem::Malformed,
    })
}

/// An algorithm that is not known is no malformed token.
fn header_of(token: &str) -> Result<Header, Problem> {
    decode_header(token).map_err(|error| {
        let first = token.split('.').next().and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
        let signed = first.and_then(|json| serde_json::from_slice::<Signed>(&json).ok());
        let unknown = signed.is_some_and(|header| header.alg.parse::<Algorithm>().is_err());
        if unknown { Problem::UnknownAlgorithm } else { problem(&error) }
    })
}

impl Expected {
    pub(crate) fn new(issuer: &JwtIssuer, leeway_s: u64) -> Self {
        Self { issuer: issuer.issuer.clone(), audiences: issuer.audiences.clone(), leeway_s }
    }

    fn validation(&self, algorithms: Vec<Algorithm>) -> Validation {
        let mut validation = Validation::new(algorithms[0]);
        validation.algorithms = algorithms;
        validation.leeway = self.leeway_s;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        let mut required = vec!["exp", "iss"];
        validation.validate_aud = !self.audiences.is_empty();
        if validation.validate_aud {
            validation.set_audience(&self.audiences);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

impl KeySet {
    /// Reads a JSON Web Key Set.
    pub(crate) fn parse(text: &[u8], expected: &Expected) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(text).map_err(|error| format!("it is no JSON Web Key Set: {error}"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys: at most {MAX_KEYS}", set.keys.len()));
        }
        // a key of a kind that is not known does not spoil the others
        let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<Key> = keys.filter_map(|jwk: Jwk| Key::new(&jwk, expected)).collect();
        if keys.is_empty() {
            Err("there is no key for signatures in it that is RSA, P-256 or P-384".to_owned())
        } else {
            Ok(Self { keys })
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks a token: first the key, then the signature, then what it says.
    pub(crate) fn check(&self, token: &str) -> Result<Claims, Problem> {
        let header = header_of(token)?;
        // an extension that must be understood and is not: RFC 7515 §4.1.11
        if header.crit.is_some() {
            return Err(Problem::Malformed);
        }
        // a set with one key often gives it no id
        let named = |key: &&Key| header.kid.is_none() || key.id.is_none() || key.id == header.kid;
        if !self.keys.iter().any(|key| named(&key)) {
            return Err(Problem::UnknownKey);
        }
        let fitting = |key: &&Key| named(key) && key.validation.algorithms.contains(&header.alg);
        let mut result = Err(Problem::Algorithm);
        for key in self.keys.iter().filter(fitting) {
            result = match decode::<Map<String, Value>>(token, &key.key, &key.validation) {
                Ok(data) => return Ok(Claims::new(data.claims)),
                Err(error) => Err(problem(&error)),
            };
            // the signature held: another key would not change what it says
            if result.as_ref().is_err_and(|problem| *problem != Problem::Signature) {
                break;
            }
        }
        result
    }
}

impl Key {
    fn new(jwk: &Jwk, expected: &Expected) -> Option<Self> {
        let signs = jwk.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
        let algorithms = algorithms(jwk);
        if !signs || algorithms.is_empty() {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self { id: jwk.common.key_id.clone(), key, validation: expected.validation(algorithms) })
    }
}

fn algorithms(jwk: &Jwk) -> Vec<Algorithm> {
    let of_kind: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &RSA,
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => &[],
        },
        _ => &[],
    };
    match jwk.common.key_algorithm {
        None => of_kind.to_vec(),
        Some(one) => of_kind.iter().copied().filter(|algorithm| named(*algorithm) == Some(one)).collect(),
    }
}

fn named(algorithm: Algorithm) -> Option<KeyAlgorithm> {
    Some(match algorithm {
        Algorithm::RS256 => KeyAlgorithm::RS256,
        Algorithm::RS384 => KeyAlgorithm::RS384,
        Algorithm::RS512 => KeyAlgorithm::RS512,
        Algorithm::PS256 => KeyAlgorithm::PS256,
        Algorithm::PS384 => KeyAlgorithm::PS384,
        Algorithm::PS512 => KeyAlgorithm::PS512,
        Algorithm::ES256 => KeyAlgorithm::ES256,
        Algorithm::ES384 => KeyAlgorithm::ES384,
        _ => return None,
    })
}

fn problem(error: &Error) -> Problem {
    match error.kind() {
        ErrorKind::InvalidSignature => Problem::Signature,
        ErrorKind::ExpiredSignature => Problem::Expired,
        ErrorKind::ImmatureSignature => Problem::NotYetValid,
        ErrorKind::InvalidIssuer => Problem::UnknownIssuer,
        ErrorKind::InvalidAudience => Problem::Audience,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => Problem::Algorithm,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Problem::Claims,
        _ => Problem::Malformed,
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.validation.algorithms).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn expected() -> Expected {
        Expected { issuer: "https://idp".into(), audiences: Vec::new(), leeway_s: 60 }
    }

    #[test]
    fn a_set_without_a_usable_key_is_refused() {
        let rsa = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
        let encrypts = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc"});
        let hmac = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "HS256"});
        let cipher = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RSA-OAEP"});
        let symmetric = json!({"kty": "oct", "k": "AQAB"});
        let p521 = json!({"kty": "EC", "crv": "P-521", "x": "AQAB", "y": "AQAB", "alg": "ES512"});
        for (text, why) in [
            (String::new(), "no JSON Web Key Set"),
            ("[]".to_owned(), "no JSON Web Key Set"),
            (json!({"keys": []}).to_string(), "that is RSA, P-256 or P-384"),
            (
                json!({"keys": [symmetric, encrypts, hmac, cipher, p521, {"kty": "?"}]}).to_string(),
                "that is RSA, P-256 or P-384",
            ),
            (json!({"keys": vec![rsa.clone(); MAX_KEYS + 1]}).to_string(), "at most 100"),
        ] {
            let refused = KeySet::parse(text.as_bytes(), &expected()).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        let mixed = json!({"keys": [{"kty": "?"}, symmetric, rsa]}).to_string();
        assert_eq!(KeySet::parse(mixed.as_bytes(), &expected()).unwrap().keys.len(), 1);
    }
}
