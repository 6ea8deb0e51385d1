//! [`Undecided`]: what spans alone do not tell, and the rule that is followed.

/// Why it is not certain that a span was waited for, and which rule was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Undecided {
    /// A message led to it. Its sender is taken not to wait: OpenTelemetry's semantics of producers promise only that the
    /// message was accepted. It could have waited for a reply.
    Messaging,
    /// It began when its parent had ended: nobody waited.
    StartsAfterParent,
    /// It ended after its parent. Waited for until the parent's end, where it is cut: as when the parent gave up waiting, or its last
    /// answer came before it closed. It could have run beside the parent unwaited for.
    OutlivesParent,
    /// It has no children and runs as long as a sibling with children: taken for a layer around that one, for which nobody waits apart
    /// from it. It could be a task of its own.
    CoversSibling,
    /// Its parent is not in the trace: it is a root of its own, and nobody is known to wait.
    ParentMissing,
    /// Its parents lead back to it; here, at the earliest of them, the circle is cut.
    Circle,
    /// The same span was given before.
    Duplicate,
}

impl Undecided {
    /// Whether it may have run without anybody waiting for it.
    #[must_use]
    pub fn is_async(self) -> bool {
        matches!(self, Self::Messaging | Self::StartsAfterParent | Self::OutlivesParent)
    }

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Messaging => "messaging",
            Self::StartsAfterParent => "starts_after_parent",
            Self::OutlivesParent => "outlives_parent",
            Self::CoversSibling => "covers_sibling",
            Self::ParentMissing => "parent_missing",
            Self::Circle => "circle",
            Self::Duplicate => "duplicate",
        }
    }
}
