//! [`Requests`]: whole requests of the last windows, each kept once however many snapshots hold it.

use std::sync::Arc;

use crate::retiming::Request;

/// Windows they are kept for: 64 MB at worst.
const WINDOWS: usize = 5;

/// The requests of one window.
type OfWindow = Arc<[Request<Arc<str>>]>;

/// Some whole requests of each of the last windows, the newest window first.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    windows: Vec<OfWindow>,
}

impl Requests {
    /// Those of one window.
    pub(crate) fn of(requests: impl Iterator<Item = Request<Arc<str>>>) -> Self {
        Self { windows: vec![requests.collect()] }
    }

    /// Also those of the windows before.
    pub(crate) fn follow(&mut self, before: &Self) {
        self.windows.extend(before.windows.iter().cloned());
        self.windows.truncate(WINDOWS);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Request<Arc<str>>> {
        self.windows.iter().flat_map(|window| window.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(end: u32) -> Requests {
        let request =
            |n| Request { service: Arc::from("front"), duration_ms: f64::from(10 * end + n), calls: Vec::new() };
        Requests::of((0..2).map(request))
    }

    #[test]
    fn the_last_windows_are_there_and_none_is_copied() {
        let mut last = Requests::default();
        for end in 1..=7 {
            let mut now = window(end);
            now.follow(&last);
            if let Some(before) = last.windows.first() {
                assert!(Arc::ptr_eq(before, &now.windows[1]));
            }
            last = now;
        }
        let durations: Vec<f64> = last.iter().map(|request| request.duration_ms).collect();
        assert_eq!(durations, [70.0, 71.0, 60.0, 61.0, 50.0, 51.0, 40.0, 41.0, 30.0, 31.0]);
    }
}
