//! [`Outside`]: who is called and who calls without sending spans of their own, as far as the spans of others say.

use hashbrown::HashSet;
use weir_schema::UnixNanos;

use crate::{
    entry::Entered,
    held::{Call, Held},
    names::UNKNOWN_CLIENT,
    snapshot::NodeKind,
    spans::{Name, Span},
    window::Edges,
};

/// A parent that has not come this long after its child ended never comes: its sender is not instrumented.
const ORPHAN_NS: i64 = 30_000_000_000;

/// Requests whose parent may still come, 16 MB; of further ones it stays open who called.
const MAX_ORPHANS: usize = 200_000;

/// Names remembered of who sends spans and who answers for whom; a mesh that changes more starts anew.
const MAX_SENDERS: usize = 50_000;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// Services that sent spans, and peers that one of them answered for.
    senders: HashSet<Name, foldhash::fast::RandomState>,
    orphans: Vec<Orphan>,
}

/// A request whose parent had not come when its window closed.
#[derive(Clone, Copy, Debug)]
struct Orphan {
    entered: Entered,
    id: u64,
    end: UnixNanos,
    duration_ns: i64,
    error: bool,
    caller: Option<Name>,
}

impl Outside {
    /// Before a window is read.
    pub(super) fn make_room(&mut self) {
        if self.senders.len() > MAX_SENDERS {
            self.senders.clear();
        }
    }

    /// Somebody sends spans, or is answered for.
    pub(super) fn sends<'a>(&mut self, names: impl IntoIterator<Item = &'a Name>) {
        self.senders.extend(names);
    }

    /// Databases, queues and hosts that send no spans become nodes by what their callers say. A host that somebody
    /// answered for does send spans: this call's are only lost.
    pub(super) fn name_callees(&self, alone: &[Span], edges: &mut Edges) {
        for span in alone {
            let Some(peer) = span.peer else { continue };
            if span.peer_kind == NodeKind::External && self.senders.contains(&peer) {
                continue;
            }
            edges.call(&call_of(span, (span.service, peer), span.peer_kind));
        }
    }

    /// Clients become nodes by what those they call say, and queues by what those say that take messages from them.
    pub(super) fn name_callers(&self, called: &[Span], edges: &mut Edges) {
        for span in called {
            let Some(caller) = span.peer.filter(|peer| *peer != span.service) else { continue };
            let edge = edges.call(&call_of(span, (caller, span.service), NodeKind::Service));
            edge.caller_kind = if span.peer_kind == NodeKind::Messaging && !self.senders.contains(&caller) {
                NodeKind::Messaging
            } else {
                self.kind_of_caller(caller)
            };
        }
    }

    fn kind_of_caller(&self, caller: Name) -> NodeKind {
        if self.senders.contains(&caller) { NodeKind::Service } else { NodeKind::External }
    }

    /// A request whose parent has not come waits for it.
    pub(super) fn orphan(&mut self, span: &Span, entered: Entered) {
        if self.orphans.len() < MAX_ORPHANS {
            let caller = span.peer.filter(|peer| *peer != span.service);
            let (id, end, duration_ns) = (span.id, span.end(), span.duration_ns);
            self.orphans.push(Orphan { entered, id, end, duration_ns, error: span.error, caller });
        }
    }

    /// Those whose parent never came were sent by somebody without instrumentation; gives those that entered the mesh.
    pub(super) fn judge_orphans(&mut self, known_until: UnixNanos, held: &Held, edges: &mut Edges) -> Vec<Entered> {
        let due = |orphan: &Orphan| known_until.saturating_sub(orphan.end) >= ORPHAN_NS;
        let (due, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.orphans).into_iter().partition(due);
        self.orphans = waiting;
        let mut entered = Vec::new();
        for orphan in due.iter().filter(|orphan| held.holds(orphan.entered.place, orphan.id)) {
            match held.parent_of(orphan.entered.place).filter(|parent| parent.end() <= known_until) {
                Some(parent) if parent.is_client() && parent.is_root() => entered.push(orphan.entered),
                Some(_) => {}
                None => {
                    entered.push(orphan.entered);
                    let call = orphan.call();
                    edges.call(&call).caller_kind = self.kind_of_caller(call.caller);
                }
            }
        }
        entered
    }
}

impl Orphan {
    fn call(&self) -> Call {
        Call {
            caller: self.caller.unwrap_or(UNKNOWN_CLIENT),
            callee: self.entered.service,
            callee_kind: NodeKind::Service,
            start: self.end - self.duration_ns,
            duration_ns: self.duration_ns,
            known_at: self.end,
            error: self.error,
            gap_ns: None,
            weight: self.entered.weight,
        }
    }
}

/// The call that one span alone tells of.
fn call_of(span: &Span, (caller, callee): (Name, Name), callee_kind: NodeKind) -> Call {
    Call {
        caller,
        callee,
        callee_kind,
        start: span.start,
        duration_ns: span.duration_ns,
        known_at: span.end(),
        error: span.error,
        gap_ns: None,
        weight: span.weight,
    }
}
