//! [`Claims`]: what a token says of its bearer, once its signature was checked.

use serde_json::{Map, Value};

/// The payload of one token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    all: Map<String, Value>,
    principal: Option<String>,
}

impl Claims {
    pub(crate) fn new(all: Map<String, Value>) -> Self {
        let text = |name: &str| all.get(name).and_then(Value::as_str);
        let principal = text("iss").zip(text("sub")).map(|(issuer, subject)| format!("{issuer}/{subject}"));
        Self { all, principal }
    }

    /// `ISSUER/SUBJECT`, as Istio's request principal; none without a subject.
    pub(crate) fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// By name; a name with dots is a claim's own, else it leads into nested ones.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.all.get(name) {
            return Some(value);
        }
        let mut names = name.split('.');
        let first = self.all.get(names.next()?)?;
        names.try_fold(first, |value, name| value.as_object()?.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_found_by_name_or_by_way() {
        let all = serde_json::json!({
            "iss": "https://idp", "sub": "ann", "realm": {"roles": ["admin"]}, "example.org/team": "x",
        });
        let Value::Object(all) = all else { unreachable!() };
        let claims = Claims::new(all);
        assert_eq!(claims.principal(), Some("https://idp/ann"));
        assert_eq!(claims.get("realm.roles"), Some(&serde_json::json!(["admin"])));
        assert_eq!(claims.get("example.org/team"), Some(&Value::from("x")));
        assert_eq!((claims.get("realm.none"), claims.get("sub.x"), claims.get("")), (None, None, None));
    }
}
