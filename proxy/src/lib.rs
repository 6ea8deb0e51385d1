//! The sidecar proxy: not written yet; the policy it will obey is in `weir-policy`.
