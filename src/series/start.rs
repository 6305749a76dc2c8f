//! A loss that rises from the first points on.

use super::baseline::Baseline;

/// Points that the later ones are compared with.
const FIRST: usize = 10;
/// Points after which a rise is no longer one from the start.
const LATEST: u64 = 60;
/// Least rise of the level above the median of the first points, in log loss.
pub(super) const LEAST: f64 = 0.02;

/// Compares the last 15 healthy points with the first 10, while there is no noise to go by.
///
/// If a run does not rise, each of the 15 is above all of the 10 in one of 3,268,760 orders: the
/// test of the ranks of two samples (Wilcoxon, 1945), at its most extreme.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Start {
    /// The first points in ascending order.
    first: Vec<f64>,
    over: bool,
}

impl Start {
    /// Takes in a value.
    #[inline]
    pub(super) fn learn(&mut self, value: f64) {
        if !self.over && self.first.len() < FIRST {
            let at = self.first.partition_point(|&v| v < value);
            self.first.insert(at, value);
        }
    }

    /// The median of the first points, if all that `loss` has seen of late is above them.
    #[inline]
    pub(super) fn risen(&mut self, loss: &Baseline, position: u64) -> Option<f64> {
        if self.over {
            return None;
        }
        if position >= LATEST {
            self.end();
            return None;
        }
        if self.first.len() < FIRST {
            return None;
        }
        let (middle, highest) = (*self.first.get(FIRST / 2)?, *self.first.last()?);
        if loss.range().0 <= highest || loss.level()? - middle < LEAST {
            return None;
        }
        self.end();
        Some(middle)
    }

    /// What comes has another level or another noise than the first points.
    pub(super) fn end(&mut self) {
        *self = Self { first: Vec::new(), over: true };
    }

    /// The first points, or none if they no longer count.
    pub(super) fn state(&self) -> Option<Vec<f64>> {
        (!self.over).then(|| self.first.clone())
    }

    /// The inverse of [`Self::state`], or none if no run has such first points.
    pub(super) fn from_state(first: Option<&Vec<f64>>) -> Option<Self> {
        let Some(first) = first else { return Some(Self { first: Vec::new(), over: true }) };
        let possible = first.len() <= FIRST && first.iter().all(|v| v.is_finite());
        (possible && first.is_sorted()).then(|| Self { first: first.clone(), over: false })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tail::Prior;
    use super::*;

    /// The positions at which a rise is told.
    fn told(values: impl Iterator<Item = f64>) -> Vec<u64> {
        let mut loss = Baseline::new(Prior { start: 2.0, rate: 0.005, mean_excess: 1.0 });
        let mut start = Start::default();
        let mut found = Vec::new();
        for (i, value) in (0..).zip(values) {
            start.learn(value);
            loss.learn(value, None);
            found.extend(start.risen(&loss, i).map(|_| i));
        }
        found
    }

    #[test]
    fn a_rise_is_told_once_and_only_near_the_start() {
        let rise = |from: i32| (0..200).map(move |i| 0.003 * f64::from((i - from).max(0)));
        assert_eq!(told(rise(0)), [24]);
        assert_eq!(told(rise(20)), [35]);
        assert!(told(rise(50)).is_empty());
        assert!(told((0..200).map(|i| 1.0 - 0.003 * f64::from(i))).is_empty());
    }

    #[test]
    fn one_late_point_among_the_first_is_enough_against_it() {
        let rise =
            |low: i32| (0..60).map(move |i| 0.01 * f64::from(if i % low == 9 { 0 } else { i }));
        assert_eq!(told(rise(60)), [24]);
        assert!(told(rise(10)).is_empty());
    }
}
