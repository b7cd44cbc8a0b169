//! Measuring contenders in turns, so that whatever else the machine does meets all of them alike.

use anyhow::{Context as _, Result};

/// One of those that are compared.
pub(crate) struct Contender<'a> {
    name: String,
    measure: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Contender<'a> {
    /// `measure` does the work once, and returns one value.
    pub(crate) fn new(name: impl Into<String>, measure: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self {
            name: name.into(),
            measure: Box::new(measure),
        }
    }
}

/// What was measured of one contender, in the order of the rounds.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    /// The contender's name.
    pub(crate) name: String,
    values: Vec<f64>,
}

impl Samples {
    pub(crate) fn new(name: impl Into<String>, values: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            values,
        }
    }

    /// The value that half of them are below.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value that a part of them is below, interpolated between neighbours; NaN if nothing was measured.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let position = part * last as f64;
        let (below, above) = (position.floor() as usize, position.ceil() as usize);
        let fraction = position - position.floor();
        sorted[below] * (1.0 - fraction) + sorted[above] * fraction
    }

    /// How many times another this one is, round by round.
    pub(crate) fn ratio(&self, other: &Self) -> Self {
        let pairs = self.values.iter().zip(&other.values);
        Self::new(
            self.name.clone(),
            pairs.map(|(own, its)| own / its).collect(),
        )
    }

    /// By how much this one is more than another, round by round.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        let pairs = self.values.iter().zip(&other.values);
        Self::new(
            self.name.clone(),
            pairs.map(|(own, its)| own - its).collect(),
        )
    }

    /// Rounds of which each is the median of several.
    pub(crate) fn medians(&self, size: usize) -> Self {
        let groups = self.values.chunks_exact(size);
        Self::new(
            self.name.clone(),
            groups
                .map(|group| Self::new("", group.to_vec()).median())
                .collect(),
        )
    }
}

/// Measures every contender once in each round; who begins changes from round to round.
///
/// One round before those that count warms caches.
pub(crate) fn interleave(rounds: usize, contenders: &mut [Contender<'_>]) -> Result<Vec<Samples>> {
    let mut values = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..=rounds {
        for turn in 0..contenders.len() {
            let index = (round + turn) % contenders.len();
            let Contender { name, measure } = &mut contenders[index];
            let value = measure().with_context(|| format!("{name}, round {round}"))?;
            if round > 0 {
                values[index].push(value);
            }
        }
    }
    let names = contenders.iter().map(|contender| &contender.name);
    Ok(names
        .zip(values)
        .map(|(name, values)| Samples::new(name, values))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_those_of_the_same_round() {
        let quiet = Samples::new("quiet", vec![10.0, 90.0, 10.0, 10.0, 11.0, 10.0]);
        let busy = Samples::new("busy", vec![13.0, 93.0, 14.0, 13.0, 14.0, 80.0]);
        let added = busy.minus(&quiet);
        assert_eq!(added.name, "busy");
        assert_eq!(added.values, [3.0, 3.0, 4.0, 3.0, 3.0, 70.0]);
        assert_eq!(added.medians(3).values, [3.0, 3.0]);
        assert_eq!(added.medians(4).values, [3.0], "the rest is no round");
    }
}
