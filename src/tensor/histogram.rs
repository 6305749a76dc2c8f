//! Exact counts of the binary exponents of a tensor's values.

use std::ops::RangeInclusive;

/// Counts of floor(log2 |x|) over finite values other than zero.
///
/// Holds the occupied span only: the first and the last count are never zero. The bins are the same
/// for every tensor, so a merge adds integers and loses nothing. Sums saturate: no data can get
/// there, but a state that was made up by hand can.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExponentHistogram {
    first: i32,
    counts: Vec<u64>,
}

impl ExponentHistogram {
    /// The exponents that a value of any supported type may have.
    pub const RANGE: RangeInclusive<i32> = -1074..=1023;

    /// A histogram of `counts` for the exponents `first`, `first + 1` and so on.
    pub fn new<T: Copy + Into<u64>>(first: i32, counts: &[T]) -> Self {
        let occupied = |&n: &T| n.into() > 0;
        let Some(start) = counts.iter().position(occupied) else { return Self::default() };
        let end = counts.iter().rposition(occupied).map_or(start, |last| last + 1);
        let counts = counts[start..end].iter().map(|&n| n.into()).collect();
        Self { first: first + start as i32, counts }
    }

    /// The same, of counts that need no copy if neither end is empty.
    pub(super) fn of(first: i32, counts: Vec<u64>) -> Self {
        let ends = [counts.first(), counts.last()];
        if ends.iter().all(|end| end.is_some_and(|&n| n > 0)) {
            return Self { first, counts };
        }
        Self::new(first, &counts)
    }

    /// The exponent of the first bin; 0 if there is none.
    pub fn first(&self) -> i32 {
        self.first
    }

    /// The exponent of the last bin.
    pub fn last(&self) -> Option<i32> {
        Some(self.first + i32::try_from(self.counts.len().checked_sub(1)?).ok()?)
    }

    /// The counts of the bins, from the first to the last occupied one.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The bins as (exponent, count).
    pub fn bins(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        (self.first..).zip(self.counts.iter().copied())
    }

    /// The number of values counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().copied().fold(0, u64::saturating_add)
    }

    /// The number of values with an exponent below `exponent`.
    pub fn total_below(&self, exponent: i32) -> u64 {
        let below = self.bins().take_while(|&(e, _)| e < exponent);
        below.map(|(_, n)| n).fold(0, u64::saturating_add)
    }

    /// The number of values with this exponent.
    pub fn count(&self, exponent: i32) -> u64 {
        self.bins().find(|&(e, _)| e == exponent).map_or(0, |(_, n)| n)
    }

    /// Adds the values of `other`.
    pub fn add(&mut self, other: &Self) {
        let Some(end) = other.last() else { return };
        if self.counts.is_empty() {
            *self = other.clone();
            return;
        }
        if other.first < self.first {
            let missing = (self.first - other.first) as usize;
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = other.first;
        }
        let needed = (end - self.first) as usize + 1;
        self.counts.resize(needed.max(self.counts.len()), 0);
        let offset = (other.first - self.first) as usize;
        for (sum, n) in self.counts[offset..].iter_mut().zip(&other.counts) {
            *sum = n.saturating_add(*sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn empty_ends_are_cut_off() {
        let histogram = ExponentHistogram::new(-3, &[0_u64, 0, 5, 0, 1, 0]);
        assert_eq!(histogram.bins().collect::<Vec<_>>(), [(-1, 5), (0, 0), (1, 1)]);
        assert_eq!((histogram.first(), histogram.last()), (-1, Some(1)));
        assert_eq!((histogram.total(), histogram.total_below(1)), (6, 5));
        assert_eq!(ExponentHistogram::new(7, &[0_u64, 0]), ExponentHistogram::default());
    }

    proptest! {
        #[test]
        fn merge_adds_bin_by_bin(
            first_a in -1074..900_i32, a in prop::collection::vec(0..9_u64, 0..40),
            first_b in -1074..900_i32, b in prop::collection::vec(0..9_u64, 0..40),
        ) {
            let (a, b) = (ExponentHistogram::new(first_a, &a), ExponentHistogram::new(first_b, &b));
            let add = |a: &ExponentHistogram, b| {
                let mut sum = a.clone();
                sum.add(b);
                sum
            };
            let merged = add(&a, &b);
            for e in ExponentHistogram::RANGE {
                prop_assert_eq!(merged.count(e), a.count(e) + b.count(e));
            }
            prop_assert_eq!(merged.total(), a.total() + b.total());
            prop_assert_eq!(&merged, &add(&b, &a));
            prop_assert_eq!(&ExponentHistogram::new(merged.first(), merged.counts()), &merged);
        }
    }
}
