//! How often something is put back: two who overwrite each other must not do it for ever.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// So often in this time.
pub(super) const TIMES: usize = 5;
pub(super) const WINDOW: Duration = Duration::from_mins(10);

/// When what was put back.
#[derive(Debug, Default)]
pub(super) struct Budget(BTreeMap<String, VecDeque<Instant>>);

impl Budget {
    /// Whether it may be put back once more.
    pub(super) fn allows(&mut self, path: &str, now: Instant) -> bool {
        let Some(spent) = self.0.get_mut(path) else {
            return true;
        };
        while spent
            .front()
            .is_some_and(|&at| now.duration_since(at) >= WINDOW)
        {
            spent.pop_front();
        }
        spent.len() < TIMES
    }

    /// Notes that it was put back.
    pub(super) fn spend(&mut self, path: &str, now: Instant) {
        self.0.entry(path.to_owned()).or_default().push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_times_in_ten_minutes_and_no_more() {
        let mut budget = Budget::default();
        let start = Instant::now();
        for _ in 0..TIMES {
            assert!(budget.allows("a", start));
            budget.spend("a", start);
        }
        assert!(!budget.allows("a", start) && budget.allows("b", start));
        assert!(!budget.allows("a", start + WINDOW / 2));
        assert!(budget.allows("a", start + WINDOW));
    }
}
