//! How much happened when, in bounded memory, whatever the span of time.

use std::collections::BTreeMap;

/// How many intervals are kept apart while reading.
const KEPT: usize = 4096;

/// How many are drawn.
pub(super) const DRAWN: usize = 120;

/// How many series there are; what is beyond goes to the last.
pub(super) const SERIES: usize = 6;

/// Lengths of an interval in seconds; each is a multiple of the one before.
const LADDER: [i64; 11] = [
    1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400, 604_800, 2_419_200,
];

fn next(width: i64) -> i64 {
    LADDER
        .into_iter()
        .find(|step| *step > width)
        .unwrap_or(width.saturating_mul(2))
}

/// Packets by interval and series.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    width: i64,
    /// By the number of the interval.
    counts: BTreeMap<i64, [u64; SERIES]>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width: LADDER[0],
            counts: BTreeMap::new(),
        }
    }
}

impl Timeline {
    /// Counts packets at a time in seconds.
    pub(super) fn add(&mut self, second: i64, series: usize, packets: u64) {
        let interval = second.div_euclid(self.width);
        let counts = self.counts.entry(interval).or_default();
        let count = &mut counts[series.min(SERIES - 1)];
        *count = count.saturating_add(packets);
        if self.counts.len() > KEPT {
            self.widen();
        }
    }

    /// The intervals to draw: the start of the first, their length, and the counts by their number from there.
    pub(super) fn drawn(&self) -> Option<Drawn> {
        let mut line = self.clone();
        loop {
            let first = *line.counts.first_key_value()?.0;
            let last = *line.counts.last_key_value()?.0;
            let count = last.abs_diff(first).saturating_add(1);
            match usize::try_from(count) {
                Ok(count) if count <= DRAWN => {
                    return Some(Drawn {
                        start: first.saturating_mul(line.width),
                        width: line.width,
                        count,
                        counts: line
                            .counts
                            .into_iter()
                            .filter_map(|(interval, counts)| {
                                let offset = usize::try_from(interval.abs_diff(first)).ok()?;
                                Some((offset, counts))
                            })
                            .collect(),
                    });
                }
                _ => line.widen(),
            }
        }
    }

    fn widen(&mut self) {
        let width = next(self.width);
        let factor = width / self.width;
        let mut merged: BTreeMap<i64, [u64; SERIES]> = BTreeMap::new();
        for (interval, counts) in &self.counts {
            let sums = merged.entry(interval.div_euclid(factor)).or_default();
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum = sum.saturating_add(*count);
            }
        }
        self.width = width;
        self.counts = merged;
    }
}

/// A timeline that fits into a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Drawn {
    /// In seconds since 1970.
    pub(super) start: i64,
    /// In seconds.
    pub(super) width: i64,
    /// How many intervals there are.
    pub(super) count: usize,
    /// Those in which something happened.
    pub(super) counts: Vec<(usize, [u64; SERIES])>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_span_of_time_fits() {
        for step in [1, 7, 3_600, 86_400, 31_536_000] {
            let mut line = Timeline::default();
            for number in 0..10_000_i64 {
                line.add(1_700_000_000 + number * step, 0, 2);
            }
            assert!(line.counts.len() <= KEPT);
            let drawn = line.drawn().unwrap();
            assert!(drawn.count <= DRAWN && drawn.count > 5, "{}", drawn.count);
            let sum: u64 = drawn.counts.iter().map(|(_, counts)| counts[0]).sum();
            assert_eq!(sum, 20_000);
            assert!(drawn.start <= 1_700_000_000);
        }
        assert_eq!(Timeline::default().drawn(), None);
        let mut extremes = Timeline::default();
        extremes.add(i64::from(i32::MIN) * 1000, 9, 1);
        extremes.add(i64::from(i32::MAX) * 1000, 0, 1);
        assert!(extremes.drawn().unwrap().count <= DRAWN);
    }
}
