//! [`Secret`]: a word of the configuration that is never shown again.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// Something only its owner is to see: it is read from the file, compared, and never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`, without the white space around it that editors leave in files.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares in a time that tells nothing but the length.
    #[must_use]
    pub fn is(&self, other: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let differing = own.iter().zip(other).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
        own.len() == other.len() && differing == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_compared_and_never_shown() {
        let secret = Secret::new(" hush\n");
        assert!(secret.is(b"hush"));
        for other in [&b"hus"[..], b"hushh", b"HUSH", b""] {
            assert!(!secret.is(other), "{other:?}");
        }
        assert_eq!(format!("{secret:?} {}", serde_json::to_string(&secret).unwrap()), "[secret] \"[secret]\"");
    }
}
