//! [`Line`]: who waits for a place, by priority and then first come, first served.
//!
//! The higher priority goes first, but not for ever: a class that was passed over [`PATIENCE`] times in
//! a row is served next. So `low` gets at least one place in `PATIENCE + 1` while anybody else waits,
//! and its wait is bounded by the service's pace instead of by other people's traffic.

use std::collections::VecDeque;

use crate::regulate::Priority;

/// 8: under a flood of higher ones, one place in nine keeps the lowest moving.
const PATIENCE: u32 = 8;

/// Those who wait, each with what is due to it.
#[derive(Debug)]
pub(crate) struct Line<T> {
    classes: [Class<T>; Priority::COUNT],
    next_id: u64,
}

/// Where somebody stands: enough to leave again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) priority: Priority,
    id: u64,
}

#[derive(Debug)]
struct Class<T> {
    waiting: VecDeque<(u64, T)>,
    passed_over: u32,
}

impl<T> Line<T> {
    /// Joins at the end of its class.
    pub(crate) fn join(&mut self, priority: Priority, waiter: T) -> Ticket {
        let id = self.next_id;
        self.next_id += 1;
        self.classes[priority.rank()].waiting.push_back((id, waiter));
        Ticket { priority, id }
    }

    /// Who is served next.
    pub(crate) fn serve(&mut self) -> Option<T> {
        let waits = |class: &Class<T>| !class.waiting.is_empty();
        let impatient = self.classes.iter().rposition(|c| waits(c) && c.passed_over >= PATIENCE);
        let served = impatient.or_else(|| self.classes.iter().position(waits))?;
        for lower in self.classes.iter_mut().skip(served + 1).filter(|c| waits(c)) {
            lower.passed_over += 1;
        }
        self.classes[served].passed_over = 0;
        self.classes[served].waiting.pop_front().map(|(_, waiter)| waiter)
    }

    /// Leaves; false when it was served or displaced before.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> bool {
        let waiting = &mut self.classes[ticket.priority.rank()].waiting;
        // ids grow from front to back
        let place = waiting.binary_search_by_key(&ticket.id, |(id, _)| *id);
        place.is_ok_and(|place| waiting.remove(place).is_some())
    }

    /// Makes room for somebody of `priority`: the newest of the lowest class below it goes.
    pub(crate) fn displace(&mut self, priority: Priority) -> Option<T> {
        let lower = self.classes.iter_mut().skip(priority.rank() + 1);
        lower.rev().find_map(|class| class.waiting.pop_back()).map(|(_, waiter)| waiter)
    }

    /// How many would be served before one who joins now.
    pub(crate) fn ahead_of(&self, priority: Priority) -> usize {
        self.classes[..=priority.rank()].iter().map(|class| class.waiting.len()).sum()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.classes.iter().map(|class| class.waiting.len()).sum()
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        let class = || Class { waiting: VecDeque::new(), passed_over: 0 };
        Self { classes: [class(), class(), class()], next_id: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{High, Low, Normal};

    fn line(waiters: &[(Priority, u32)]) -> Line<u32> {
        let mut line = Line::default();
        for (priority, waiter) in waiters {
            line.join(*priority, *waiter);
        }
        line
    }

    #[test]
    fn higher_first_then_first_come_first_served() {
        let mut line = line(&[(Low, 1), (Normal, 2), (High, 3), (Normal, 4), (High, 5)]);
        assert_eq!((line.len(), line.ahead_of(High), line.ahead_of(Normal), line.ahead_of(Low)), (5, 2, 4, 5));
        assert_eq!(std::iter::from_fn(|| line.serve()).collect::<Vec<_>>(), [3, 5, 2, 4, 1]);
    }

    #[test]
    fn the_lowest_is_not_starved() {
        let mut line = line(&[(Low, 0), (Normal, 1)]);
        let mut order = Vec::new();
        for n in 10..40 {
            line.join(High, n);
            line.join(High, n + 100);
            order.push(line.serve().unwrap());
        }
        let place = |waiter| order.iter().position(|w| *w == waiter).unwrap();
        assert_eq!((place(0), place(1)), (8, 9), "{order:?}");
    }

    #[test]
    fn a_flood_leaves_one_place_in_nine_to_the_lowest() {
        let mut line = Line::default();
        let mut low = 0;
        for _ in 0..900 {
            line.join(High, High);
            line.join(Low, Low);
            low += u32::from(line.serve() == Some(Low));
        }
        assert_eq!(low, 100);
    }

    #[test]
    fn only_lower_ones_make_room_newest_first() {
        let mut line = line(&[(Low, 1), (Low, 2), (Normal, 3)]);
        assert_eq!(line.displace(Low), None);
        assert_eq!(line.displace(High), Some(2));
        assert_eq!(line.displace(Normal), Some(1));
        assert_eq!(line.displace(Normal), None);
        assert_eq!(line.displace(High), Some(3));
    }

    #[test]
    fn one_who_left_is_not_served() {
        let mut line = Line::default();
        let tickets: Vec<Ticket> = (0..3).map(|n| line.join(Normal, n)).collect();
        assert!(line.leave(tickets[1]) && !line.leave(tickets[1]));
        assert_eq!(line.serve(), Some(0));
        assert!(!line.leave(tickets[0]));
        assert_eq!(line.serve(), Some(2));
    }
}
