//! How often a foreign program may be overtaken before that is a war.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often within [`PERIOD`].
pub(super) const MOST: usize = 5;

/// Whoever comes back so often will not stop.
const PERIOD: Duration = Duration::from_mins(10);

/// When each interface's chain was overtaken.
#[derive(Debug, Default)]
pub(super) struct Overtakings {
    times: HashMap<u32, Vec<Instant>>,
}

impl Overtakings {
    /// Whether the interface may be overtaken now; it counts if it may.
    pub(super) fn allow(&mut self, ifindex: u32, now: Instant) -> bool {
        let times = self.times.entry(ifindex).or_default();
        times.retain(|&time| now.saturating_duration_since(time) < PERIOD);
        let allowed = times.len() < MOST;
        if allowed {
            times.push(now);
        }
        allowed
    }

    /// Forgets interfaces that are gone.
    pub(super) fn retain(&mut self, exists: impl Fn(u32) -> bool) {
        self.times.retain(|&ifindex, _| exists(ifindex));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_up_after_five_times_and_tried_again_later() {
        let mut overtakings = Overtakings::default();
        let start = Instant::now();
        for time in 0..5 {
            assert!(overtakings.allow(7, start + Duration::from_secs(time)));
        }
        let end = start + PERIOD;
        assert!(!overtakings.allow(7, start + Duration::from_secs(5)));
        let shortly_before = start + (PERIOD - Duration::from_secs(1));
        assert!(!overtakings.allow(7, shortly_before));
        assert!(
            overtakings.allow(8, start),
            "another interface is another matter"
        );
        assert!(overtakings.allow(7, end), "the first one is forgotten");
        assert!(!overtakings.allow(7, end));
        overtakings.retain(|ifindex| ifindex == 8);
        assert!(overtakings.allow(7, end), "a new device under the number");
    }
}
