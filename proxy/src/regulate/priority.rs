//! [`Priority`]: who goes first when there is not room for all.
//!
//! A route has one; a header may say another where `limits.priority_header` names it. It takes our own
//! words or the urgency of RFC 9218 (`u=0` to `u=7`, 3 when it says nothing), so what browsers and CDNs
//! send is understood.

use http::HeaderValue;
use serde::{Deserialize, Serialize};

/// Higher goes first in the queue; lower is shed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// A person waits for it now; RFC 9218's urgencies 0 to 2.
    High,
    /// Everything that says nothing; urgencies 3 and 4.
    #[default]
    Normal,
    /// Nobody waits for it: batches, prefetches; urgencies 5 to 7.
    Low,
}

impl Priority {
    /// How many there are.
    pub(crate) const COUNT: usize = 3;

    /// What a header says, if it says it in a way that is understood.
    pub(crate) fn of_header(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?.trim();
        match text {
            "high" => Some(Self::High),
            "normal" => Some(Self::Normal),
            "low" => Some(Self::Low),
            _ => text.split(',').find_map(|item| of_urgency(item.trim().strip_prefix("u=")?)),
        }
    }

    /// Its place: 0 goes first.
    pub(crate) fn rank(self) -> usize {
        self as usize
    }
}

fn of_urgency(digit: &str) -> Option<Priority> {
    match digit {
        "0" | "1" | "2" => Some(Priority::High),
        "3" | "4" => Some(Priority::Normal),
        "5" | "6" | "7" => Some(Priority::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_urgencies_are_understood() {
        for (text, expected) in [
            ("high", Some(Priority::High)),
            (" low ", Some(Priority::Low)),
            ("u=0", Some(Priority::High)),
            ("u=3, i", Some(Priority::Normal)),
            ("i, u=7", Some(Priority::Low)),
            ("u=8", None),
            ("urgent", None),
            ("", None),
        ] {
            assert_eq!(Priority::of_header(&HeaderValue::from_str(text).unwrap()), expected, "{text:?}");
        }
    }
}
