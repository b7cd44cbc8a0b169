//! What occurs most, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;

/// How often one thing was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted<D> {
    /// Events.
    pub events: u64,
    /// Packets that they stand for.
    pub packets: u64,
    /// What was said about it last.
    pub detail: D,
}

/// Counts things by name; exact until there are more than it keeps, and then right about those that are frequent.
#[derive(Clone, Debug)]
pub struct Tally<K, D = ()> {
    limit: usize,
    counted: HashMap<K, Counted<D>>,
    set_aside: u64,
    least: u64,
}

impl<K: Hash + Eq + Clone + Ord, D> Tally<K, D> {
    /// A tally that keeps at least this many names, and less than twice as many.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            counted: HashMap::new(),
            set_aside: 0,
            least: 0,
        }
    }

    /// Counts one event.
    pub fn add(&mut self, key: K, packets: u64, detail: D) {
        let known = self.counted.len();
        match self.counted.entry(key) {
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let counted = entry.get_mut();
                counted.events += 1;
                counted.packets = counted.packets.saturating_add(packets);
                counted.detail = detail;
                return;
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Counted {
                    events: 1,
                    packets,
                    detail,
                });
            }
        }
        if known + 1 >= 2 * self.limit {
            self.forget();
        }
    }

    /// The most frequent, by packets; equal ones in the order of their names.
    pub fn top(&self, count: usize) -> Vec<(&K, &Counted<D>)> {
        let mut all: Vec<_> = self.counted.iter().collect();
        all.sort_by(|(one, a), (other, b)| {
            (b.packets, b.events)
                .cmp(&(a.packets, a.events))
                .then_with(|| one.cmp(other))
        });
        all.truncate(count);
        all
    }

    /// How many names are known.
    pub fn len(&self) -> usize {
        self.counted.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty()
    }

    /// Events of rare names that are no longer known: 0 means that every count is exact.
    pub fn set_aside(&self) -> u64 {
        self.set_aside
    }

    /// A name that had more packets than this at any time was never set aside.
    pub fn least(&self) -> u64 {
        self.least
    }

    /// Sets the rarest half aside.
    fn forget(&mut self) {
        let mut counts: Vec<u64> = self.counted.values().map(|one| one.packets).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let least = counts.get(self.limit).copied().unwrap_or_default();
        let mut room = self.limit;
        let mut gone = 0;
        // Those above the line first; of those on it, as many as there is room for.
        let above = counts.iter().filter(|&&count| count > least).count();
        room = room.saturating_sub(above);
        self.counted.retain(|_, one| {
            let keep = one.packets > least || (one.packets == least && room > 0);
            if keep && one.packets == least {
                room -= 1;
            }
            if !keep {
                gone += one.events;
            }
            keep
        });
        self.set_aside += gone;
        self.least = self.least.max(least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_names_are_counted_exactly() {
        let mut tally = Tally::new(4);
        for (name, packets) in [("a", 1), ("b", 5), ("a", 1), ("c", 2)] {
            tally.add(name, packets, ());
        }
        let top: Vec<_> = tally
            .top(2)
            .into_iter()
            .map(|(name, counted)| (*name, counted.events, counted.packets))
            .collect();
        assert_eq!(top, [("b", 1, 5), ("a", 2, 2)]);
        assert_eq!((tally.len(), tally.set_aside()), (3, 0));
    }

    #[test]
    fn a_frequent_name_survives_any_number_of_rare_ones() {
        let mut tally = Tally::new(100);
        for number in 0..100_000_u32 {
            tally.add(number, 1, ());
            if number % 10 == 0 {
                tally.add(u32::MAX, 1, ());
            }
            assert!(tally.len() < 200);
        }
        let (name, counted) = tally.top(1)[0];
        assert_eq!((*name, counted.events), (u32::MAX, 10_000));
        let kept: u64 = tally
            .top(usize::MAX)
            .iter()
            .map(|(_, one)| one.events)
            .sum();
        assert_eq!(kept + tally.set_aside(), 110_000, "nothing is uncounted");
        assert_eq!(tally.least(), 1);
    }
}
