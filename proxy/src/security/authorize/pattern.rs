//! [`Pattern`]: `x`, `x*`, `*x` or `*`, as Istio's rules have them.

/// What a value is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    /// Anything but nothing.
    Present,
}

impl Pattern {
    /// The `*` is at the beginning or at the end, once: the configuration was checked.
    pub(crate) fn new(text: &str) -> Self {
        match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
            ("*", ..) => Self::Present,
            (_, Some(prefix), _) => Self::Prefix(prefix.into()),
            (_, None, Some(suffix)) => Self::Suffix(suffix.into()),
            _ => Self::Exact(text.into()),
        }
    }

    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == exact,
            Self::Prefix(prefix) => value.starts_with(prefix),
            Self::Suffix(suffix) => value.ends_with(suffix),
            Self::Present => !value.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_an_end_or_a_beginning() {
        for (pattern, value, expected) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("/a*", "/ab", true),
            ("/a*", "/a", true),
            ("/a*", "/b", false),
            ("*/health", "/x/health", true),
            ("*/health", "/health", true),
            ("*/health", "/healthy", false),
            ("*", "anything", true),
            ("*", "", false),
            ("", "", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(value.as_bytes()), expected, "{pattern} on {value:?}");
        }
    }
}
