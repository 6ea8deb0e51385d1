//! The language-model mesh of `weir demo`: not written yet.
