//! [`MaybeNs`]: nanoseconds that a span may not say, in 8 bytes where an `Option<i64>` takes 16: spans are copied and kept by
//! the hundred thousand.

use std::num::NonZeroU64;

/// So many nanoseconds, or none said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MaybeNs(
    /// One more than they are.
    Option<NonZeroU64>,
);

impl MaybeNs {
    pub(crate) fn get(self) -> Option<i64> {
        self.0.map(|more| (more.get() - 1) as i64)
    }

    pub(crate) fn or_zero(self) -> i64 {
        self.get().unwrap_or(0)
    }
}

impl From<Option<i64>> for MaybeNs {
    /// A negative time is 0.
    fn from(ns: Option<i64>) -> Self {
        Self(ns.and_then(|ns| NonZeroU64::new(ns.max(0) as u64 + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_comes_back_and_takes_eight_bytes() {
        assert_eq!(size_of::<MaybeNs>(), 8);
        for ns in [None, Some(0), Some(1), Some(i64::MAX)] {
            assert_eq!(MaybeNs::from(ns).get(), ns);
        }
        assert_eq!(MaybeNs::from(Some(-5)).get(), Some(0));
        assert_eq!((MaybeNs::default().get(), MaybeNs::default().or_zero()), (None, 0));
    }
}
