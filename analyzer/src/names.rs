//! [`Names`]: service, operation, instance and peer names as small numbers.
//!
//! Senders choose names, so their count is bounded by role: a million operation names must neither
//! exhaust memory nor keep a new service from being seen. When a role is full, further names of it
//! are [`OTHER`], or [`OTHER_HOSTS`], and are counted. Names that nobody used for an hour (a day, where
//! history hangs on them) make room again. A number is never given twice, so state that still holds
//! one that is gone meets no stranger under it.

use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

/// A name as a number.
pub(crate) type Name = u32;

/// What is not told apart because there are too many of its kind.
pub(crate) const OTHER: Name = 0;

/// Hosts without spans of their own beyond the bound.
pub(crate) const OTHER_HOSTS: Name = 1;

/// Who calls without sending spans and without being named by anybody.
pub(crate) const UNKNOWN_CLIENT: Name = 2;

/// The texts of the names that are always there, by number; span kinds among them, for no flood to displace.
const RESERVED: [&str; 9] =
    ["(other)", "other hosts", "unknown client", "server", "client", "producer", "consumer", "internal", "unspecified"];

/// What spans of these kinds are of.
pub(crate) const SERVER: Name = 3;
pub(crate) const CLIENT: Name = 4;
pub(crate) const PRODUCER: Name = 5;
pub(crate) const CONSUMER: Name = 6;
pub(crate) const INTERNAL: Name = 7;

/// Longer names are cut: 512 bytes hold every route and query template we have met.
const MAX_TEXT_BYTES: usize = 512;

/// How long a name that nobody used is kept at least; and at most twice as long.
const TURN_NS: i64 = 3_600_000_000_000;

/// What a name is of: each has a bound of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// 10,000: ten times the largest mesh we draw.
    Service,
    /// 5,000 databases, queues and named peers.
    Peer,
    /// 500 hosts without spans: each is a node of the graph.
    Host,
    /// 50,000 operations, of all services together.
    Operation,
    /// 50,000 replicas, of all services together.
    Instance,
}

impl Role {
    const COUNT: usize = 5;

    fn bound(self) -> usize {
        match self {
            Self::Service => 10_000,
            Self::Peer => 5_000,
            Self::Host => 500,
            Self::Operation | Self::Instance => 50_000,
        }
    }

    /// Turns without use after which a name is forgotten.
    fn kept_turns(self) -> u32 {
        match self {
            Self::Service => 24,
            Self::Peer | Self::Host | Self::Operation | Self::Instance => 1,
        }
    }

    fn beyond(self) -> Name {
        if self == Self::Host { OTHER_HOSTS } else { OTHER }
    }
}

/// Names, each once.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    by_text: HashMap<Arc<str>, Entry, foldhash::fast::RandomState>,
    texts: HashMap<Name, Arc<str>, foldhash::fast::RandomState>,
    counts: [usize; Role::COUNT],
    next: Name,
    turn: u32,
    turned_at: Option<UnixNanos>,
    /// Uses of names for which there was no room.
    pub(crate) refused: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Name,
    /// `None`: always there.
    role: Option<Role>,
    /// The turn in which it was used last.
    used: u32,
}

impl Default for Names {
    fn default() -> Self {
        let mut names = Self {
            by_text: HashMap::default(),
            texts: HashMap::default(),
            counts: [0; Role::COUNT],
            next: 0,
            turn: 0,
            turned_at: None,
            refused: 0,
        };
        for text in RESERVED {
            names.add(text, None);
        }
        names
    }
}

impl Names {
    /// The number of a service's name.
    pub(crate) fn intern(&mut self, text: &str) -> Name {
        self.intern_as(Role::Service, text)
    }

    /// The number of a name; [`OTHER`] or [`OTHER_HOSTS`] where the role is full.
    pub(crate) fn intern_as(&mut self, role: Role, text: &str) -> Name {
        let text = cut(text);
        if let Some(entry) = self.by_text.get_mut(text) {
            entry.used = self.turn;
            let has_room = self.counts[role as usize] < role.bound();
            // who is a service too is kept as one, while there is room
            if role == Role::Service && has_room && entry.role.is_some_and(|known| known != role) {
                let known = entry.role.replace(role).unwrap_or(role);
                self.counts[known as usize] -= 1;
                self.counts[role as usize] += 1;
            }
            return entry.name;
        }
        if self.counts[role as usize] >= role.bound() {
            self.refused += 1;
            return role.beyond();
        }
        self.counts[role as usize] += 1;
        self.add(text, Some(role))
    }

    /// The number of a name as a sender says it: one that we give to what is not told apart, or not known, is not his.
    pub(crate) fn said(&mut self, role: Role, text: &str) -> Name {
        if RESERVED[..=UNKNOWN_CLIENT as usize].contains(&text) {
            return self.intern_as(role, &format!("named {text}"));
        }
        self.intern_as(role, text)
    }

    fn add(&mut self, text: &str, role: Option<Role>) -> Name {
        let (name, text) = (self.next, Arc::<str>::from(text));
        self.next += 1;
        self.texts.insert(name, text.clone());
        self.by_text.insert(text, Entry { name, role, used: self.turn });
        name
    }

    /// Its text; that of [`OTHER`] when it was forgotten.
    pub(crate) fn text(&self, name: Name) -> &str {
        self.texts.get(&name).map_or(RESERVED[OTHER as usize], |text| text)
    }

    /// The same to be kept.
    pub(crate) fn shared(&self, name: Name) -> Arc<str> {
        self.texts.get(&name).map_or_else(|| RESERVED[OTHER as usize].into(), Arc::clone)
    }

    /// Whether it is still remembered.
    pub(crate) fn knows(&self, name: Name) -> bool {
        self.texts.contains_key(&name)
    }

    pub(crate) fn find(&self, text: &str) -> Option<Name> {
        self.by_text.get(cut(text)).map(|entry| entry.name)
    }

    /// The service of that name: not a replica.
    pub(crate) fn find_service(&self, text: &str) -> Option<Name> {
        self.by_text.get(cut(text)).filter(|entry| entry.role == Some(Role::Service)).map(|entry| entry.name)
    }

    /// Forgets what was not used for long, once an hour of event time; says whether it did.
    pub(crate) fn turn(&mut self, now: UnixNanos) -> bool {
        let turned_at = *self.turned_at.get_or_insert(now);
        if now.saturating_sub(turned_at) < TURN_NS {
            return false;
        }
        self.turned_at = Some(now);
        self.turn += 1;
        let turn = self.turn;
        let unused = |entry: &Entry| entry.role.is_some_and(|role| turn - entry.used > role.kept_turns());
        for (_, entry) in self.by_text.extract_if(|_, entry| unused(entry)) {
            self.texts.remove(&entry.name);
            self.counts[entry.role.map_or(0, |role| role as usize)] -= 1;
        }
        true
    }
}

/// Names as a checkpoint holds them: state that is kept by number keeps its meaning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedNames {
    next: Name,
    names: Vec<(Name, Role, String)>,
}

impl Names {
    pub(crate) fn save(&self) -> SavedNames {
        let kept = self.by_text.iter().filter_map(|(text, entry)| Some((entry.name, entry.role?, text.to_string())));
        let mut names: Vec<_> = kept.collect();
        names.sort_unstable_by_key(|(name, ..)| *name);
        SavedNames { next: self.next, names }
    }

    /// Those names and no others. `None` when they cannot have been saved: a number or a text is there twice, or
    /// more of a role than there is room for.
    pub(crate) fn restored(saved: &SavedNames) -> Option<Self> {
        let mut names = Self::default();
        for (name, role, text) in &saved.names {
            let known = names.texts.contains_key(name) || names.by_text.contains_key(text.as_str());
            let full = names.counts[*role as usize] >= role.bound() || text.len() > MAX_TEXT_BYTES;
            if known || full || *name >= saved.next {
                return None;
            }
            names.counts[*role as usize] += 1;
            let text = Arc::<str>::from(text.as_str());
            names.texts.insert(*name, text.clone());
            names.by_text.insert(text, Entry { name: *name, role: Some(*role), used: 0 });
        }
        names.next = names.next.max(saved.next);
        Some(names)
    }
}

fn cut(text: &str) -> &str {
    if text.len() <= MAX_TEXT_BYTES {
        return text;
    }
    let end = (0..=MAX_TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_numbers_that_are_said_to_be_theirs() {
        let mut names = Names::default();
        let kinds =
            ["server", "client", "producer", "consumer", "internal"].map(|kind| names.said(Role::Operation, kind));
        assert_eq!(kinds, [SERVER, CLIENT, PRODUCER, CONSUMER, INTERNAL]);
    }

    #[test]
    fn a_flood_of_one_role_fills_only_that_role() {
        let mut names = Names::default();
        for n in 0..200_000 {
            names.intern_as(Role::Operation, &format!("GET /user/{n}"));
        }
        assert_eq!(names.texts.len(), RESERVED.len() + Role::Operation.bound());
        assert_eq!(names.refused, 200_000 - Role::Operation.bound() as u64);
        assert_eq!(names.intern_as(Role::Operation, "one more"), OTHER);
        let service = names.intern("new");
        assert_eq!((names.text(service), names.find("new")), ("new", Some(service)));
        for n in 0..600 {
            names.intern_as(Role::Host, &format!("10.0.0.{n}"));
        }
        assert_eq!(names.intern_as(Role::Host, "10.1.0.0"), OTHER_HOSTS);
        assert_eq!(names.text(OTHER_HOSTS), "other hosts");
    }

    #[test]
    fn what_nobody_uses_makes_room_and_its_number_is_not_given_again() {
        let mut names = Names::default();
        let old = names.intern_as(Role::Operation, "old");
        let service = names.intern("service");
        names.turn(0);
        for hour in 1..=3 {
            names.intern_as(Role::Operation, "used");
            names.turn(hour * TURN_NS);
        }
        assert_eq!((names.find("old"), names.text(old)), (None, "(other)"));
        assert_eq!((names.find("service"), names.counts[Role::Operation as usize]), (Some(service), 1));
        assert!(names.intern_as(Role::Operation, "old") > service, "it is a new number");
        assert_eq!(names.text(UNKNOWN_CLIENT), "unknown client");
    }

    #[test]
    fn the_bound_on_services_holds_also_by_way_of_other_roles_and_what_is_saved_is_restored() {
        let mut names = Names::default();
        for n in 0..3 * Role::Service.bound() {
            let text = format!("hostile-{n}");
            let peer = names.intern_as(if n % 2 == 0 { Role::Instance } else { Role::Operation }, &text);
            assert_eq!(names.intern(&text), peer, "it is one name in either role");
        }
        assert_eq!(names.counts[Role::Service as usize], Role::Service.bound());
        assert_eq!(names.find_service("hostile-29999"), None, "it stays what it was");
        let restored = Names::restored(&names.save()).expect("no role has more than there is room for");
        assert_eq!(restored.counts, names.counts);
    }

    #[test]
    fn numbers_survive_being_saved_and_what_cannot_have_been_saved_is_refused() {
        let mut names = Names::default();
        let service = names.intern("cart");
        let operation = names.intern_as(Role::Operation, "GET /");
        let saved = names.save();
        let mut restored = Names::restored(&saved).unwrap();
        assert_eq!((restored.intern("cart"), restored.text(operation)), (service, "GET /"));
        assert_eq!(restored.intern("new"), names.intern("new"));
        let twice = SavedNames { names: [saved.names.clone(), saved.names.clone()].concat(), ..saved.clone() };
        assert!(Names::restored(&twice).is_none());
        assert!(Names::restored(&SavedNames { next: 0, ..saved }).is_none());
    }

    #[test]
    fn nobody_takes_the_names_of_what_is_not_told_apart() {
        let mut names = Names::default();
        for reserved in [OTHER, OTHER_HOSTS, UNKNOWN_CLIENT] {
            let text = RESERVED[reserved as usize];
            let said = names.said(Role::Service, text);
            assert!(said >= RESERVED.len() as Name);
            assert_eq!(names.text(said), format!("named {text}"));
            assert_eq!(names.intern(text), reserved);
        }
        assert_eq!(names.said(Role::Operation, "server"), names.intern_as(Role::Operation, "server"));
    }

    #[test]
    fn a_peer_that_sends_spans_becomes_a_service_and_long_names_are_cut() {
        let mut names = Names::default();
        let peer = names.intern_as(Role::Host, "tagger");
        assert_eq!(names.intern("tagger"), peer);
        assert_eq!((names.counts[Role::Host as usize], names.counts[Role::Service as usize]), (0, 1));
        assert_eq!((names.find_service("tagger"), names.find_service("no such")), (Some(peer), None));
        let long = "ä".repeat(1_000);
        let name = names.intern(&long);
        assert_eq!((names.text(name).len(), names.find(&long)), (512, Some(name)));
    }
}
