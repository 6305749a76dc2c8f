//! The record of one tensor.

use super::dtype::DType;
use super::histogram::ExponentHistogram;
use super::level::Level;
use super::moments::{Finite, Moments};
use super::power::ldexp;
use crate::error::{Error, Result};

/// Statistics of one tensor, or of several together: exact counts, extremes, moments and the
/// histogram of binary exponents.
///
/// Moments, extremes and the histogram are of the finite values; NaN and infinities are counted
/// apart. Variance, skewness and kurtosis are those of the population (divisor n, no correction).
/// What cannot be told is NaN: the mean, variance and extremes of no value, the skewness and
/// kurtosis of equal values, and all that is beyond the [`Level`] of the record.
///
/// ```
/// use gyrostat::tensor::{Level, TensorView, summarize};
///
/// let gradient = [3.0_f32, -4.0, 0.0, f32::NAN];
/// let stats = summarize(&TensorView::from(&gradient[..]), Level::Full);
/// assert_eq!((stats.count(), stats.nan_count(), stats.zero_count()), (4, 1, 1));
/// assert_eq!((stats.min(), stats.max(), stats.l2()), (-4.0, 3.0, 5.0));
/// ```
///
/// Two records are equal if every bit of them is.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorStats {
    pub(super) dtype: Option<DType>,
    pub(super) level: Level,
    pub(super) nan_count: u64,
    pub(super) posinf_count: u64,
    pub(super) neginf_count: u64,
    pub(super) subnormal_count: u64,
    pub(super) finite: Finite,
    pub(super) histogram: ExponentHistogram,
}

impl TensorStats {
    /// The record of an empty tensor; without a type, that of no tensor.
    pub fn empty(dtype: Option<DType>, level: Level) -> Self {
        Self {
            dtype,
            level,
            nan_count: 0,
            posinf_count: 0,
            neginf_count: 0,
            subnormal_count: 0,
            finite: Finite::One(Moments::NOTHING),
            histogram: ExponentHistogram::default(),
        }
    }

    /// The record of the values of both, of the lower of the two levels.
    ///
    /// Neither the order nor the grouping of several merges changes a bit of the result.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        merged.add(other);
        merged
    }

    /// The record of the values of all; that of no tensor if there is none.
    #[must_use]
    pub fn merge_all<'a>(records: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut records = records.into_iter();
        let Some(first) = records.next() else { return Self::empty(None, Level::Full) };
        let mut merged = first.clone();
        records.for_each(|record| merged.add(record));
        merged
    }

    /// Adds the values of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        self.dtype = DType::join(self.dtype, other.dtype);
        self.nan_count = self.nan_count.saturating_add(other.nan_count);
        self.posinf_count = self.posinf_count.saturating_add(other.posinf_count);
        self.neginf_count = self.neginf_count.saturating_add(other.neginf_count);
        self.subnormal_count = self.subnormal_count.saturating_add(other.subnormal_count);
        self.finite.add(&other.finite);
        self.histogram.add(&other.histogram);
        if self.level != other.level {
            self.lower_to(self.level.min(other.level));
        }
    }

    /// Forgets what is beyond `level`.
    pub(super) fn lower_to(&mut self, level: Level) {
        self.level = level;
        if level < Level::Full {
            self.subnormal_count = 0;
            self.histogram = ExponentHistogram::default();
        }
        if level < Level::Moments {
            self.finite.keep_squares();
        }
    }

    /// How much the record tells.
    pub fn level(&self) -> Level {
        self.level
    }

    /// `x` if the record tells it, else NaN.
    fn told(&self, level: Level, x: f64) -> f64 {
        if self.level < level || self.finite_count() == 0 { f64::NAN } else { x }
    }

    /// The type of the values; `None` for a record of no tensor.
    pub fn dtype(&self) -> Option<DType> {
        self.dtype
    }

    /// The number of values, finite or not.
    pub fn count(&self) -> u64 {
        self.finite_count().saturating_add(self.nonfinite_count())
    }

    /// The number of finite values.
    pub fn finite_count(&self) -> u64 {
        self.finite.count()
    }

    /// The number of NaN.
    pub fn nan_count(&self) -> u64 {
        self.nan_count
    }

    /// The number of +Inf.
    pub fn posinf_count(&self) -> u64 {
        self.posinf_count
    }

    /// The number of -Inf.
    pub fn neginf_count(&self) -> u64 {
        self.neginf_count
    }

    /// The number of NaN, +Inf and -Inf together.
    pub fn nonfinite_count(&self) -> u64 {
        self.nan_count.saturating_add(self.posinf_count).saturating_add(self.neginf_count)
    }

    /// The number of zeros of either sign.
    pub fn zero_count(&self) -> u64 {
        if self.level < Level::Full {
            return 0;
        }
        self.finite_count().saturating_sub(self.histogram.total())
    }

    /// The number of values that are subnormal in the type of their tensor.
    pub fn subnormal_count(&self) -> u64 {
        self.subnormal_count
    }

    /// The smallest finite value.
    pub fn min(&self) -> f64 {
        self.told(Level::Moments, self.finite.min())
    }

    /// The largest finite value.
    pub fn max(&self) -> f64 {
        self.told(Level::Moments, self.finite.max())
    }

    /// The largest magnitude of a finite value.
    pub fn absmax(&self) -> f64 {
        self.told(Level::Moments, self.finite.absmax())
    }

    /// Euclidean norm of the finite values.
    pub fn l2(&self) -> f64 {
        self.finite.l2()
    }

    /// Sums and moments of the finite values. Worth keeping where several are asked for: after a
    /// merge they are computed anew.
    pub fn moments(&self) -> MomentStats {
        let known = self.level >= Level::Moments;
        let moments = if known { self.finite.moments() } else { Moments::NOTHING };
        let sum = |x: f64| if known { x } else { f64::NAN };
        MomentStats {
            sum: sum(moments.total()),
            l1: sum(moments.absolute_total()),
            mean: moments.mean(),
            var: moments.variance(),
            std: moments.deviation(),
            skewness: moments.skewness(),
            kurtosis: moments.kurtosis(),
        }
    }

    /// Exact counts of floor(log2 |x|) over the finite values other than zero.
    pub fn exponent_histogram(&self) -> &ExponentHistogram {
        &self.histogram
    }

    /// The magnitude of the finite value at rank floor(q (n - 1)), counted from 0 in ascending
    /// order, zeros included.
    ///
    /// Its bin is known exactly, its place inside is interpolated on the logarithmic scale, so the
    /// answer is off by a factor of 2 at most. Zeros and the largest magnitude are exact. NaN if
    /// there is no finite value.
    ///
    /// # Errors
    /// [`Error::Value`] unless `q` is a number from 0 to 1.
    pub fn abs_quantile(&self, q: f64) -> Result<f64> {
        if !(0.0..=1.0).contains(&q) {
            return Err(Error::value("q", "a number from 0 to 1", q));
        }
        let known = if self.level < Level::Full { 0 } else { self.finite_count() };
        let Some(last) = known.checked_sub(1) else { return Ok(f64::NAN) };
        let rank = (q * last as f64) as u64;
        if rank >= last {
            return Ok(self.absmax());
        }
        let Some(mut rank) = rank.checked_sub(self.zero_count()) else { return Ok(0.0) };
        for (exponent, count) in self.histogram.bins() {
            if rank < count {
                let (low, high) = self.bin_edges(exponent);
                let place = (rank as f64 + 0.5) / count as f64;
                let magnitude = low * (place * (high / low).log2()).exp2();
                return Ok(magnitude.max(low).min(high));
            }
            rank -= count;
        }
        Ok(self.absmax())
    }

    /// Where the values of a bin lie, as far as the extremes tell.
    pub(super) fn bin_edges(&self, exponent: i32) -> (f64, f64) {
        let absmin = self.finite.min().max(-self.finite.max());
        let low = ldexp(1.0, exponent).max(absmin);
        let high = ldexp(1.0, exponent + 1).min(self.finite.absmax());
        (low, high)
    }
}

/// Sums and moments of the finite values of a tensor, all of them NaN in a record of
/// [`Level::Norm`]. Those of the population: divisor n, no correction.
#[derive(Debug, Clone, Copy)]
pub struct MomentStats {
    /// Sum.
    pub sum: f64,
    /// Sum of magnitudes.
    pub l1: f64,
    /// Mean.
    pub mean: f64,
    /// Variance.
    pub var: f64,
    /// Standard deviation, right even where the variance leaves the range of f64.
    pub std: f64,
    /// Skewness.
    pub skewness: f64,
    /// Excess kurtosis: zero for a normal distribution.
    pub kurtosis: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::{TensorView, summarize};

    fn of(values: &[f64]) -> TensorStats {
        summarize(&TensorView::from(values), Level::Full)
    }

    fn close(got: f64, expected: f64, size: f64) -> bool {
        (got - expected).abs() <= 1e-12 * size || got.is_nan() && expected.is_nan()
    }

    /// Values of every kind, many of them within the range where moments are compared.
    fn values() -> impl Strategy<Value = Vec<f64>> {
        let value = prop_oneof![
            8 => -10.0..10.0_f64,
            1 => prop::num::f64::ANY,
            1 => prop::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
        ];
        prop::collection::vec(value, 0..200)
    }

    proptest! {
        #[test]
        fn a_merge_of_parts_is_the_whole(values in values(), split in 0.0..=1.0) {
            let (a, b) = values.split_at((split * values.len() as f64) as usize);
            let (whole, merged) = (of(&values), of(a).merge(&of(b)));
            prop_assert_eq!(merged.count(), whole.count());
            prop_assert_eq!(merged.nan_count(), whole.nan_count());
            prop_assert_eq!(merged.posinf_count(), whole.posinf_count());
            prop_assert_eq!(merged.neginf_count(), whole.neginf_count());
            prop_assert_eq!(merged.zero_count(), whole.zero_count());
            prop_assert_eq!(merged.subnormal_count(), whole.subnormal_count());
            prop_assert_eq!(merged.min().to_bits(), whole.min().to_bits());
            prop_assert_eq!(merged.max().to_bits(), whole.max().to_bits());
            prop_assert_eq!(merged.exponent_histogram(), whole.exponent_histogram());
            prop_assert!(close(merged.l2(), whole.l2(), whole.l2()) || whole.l2().is_infinite());
            prop_assert!(close(merged.moments().std, whole.moments().std, whole.absmax()));
            prop_assert_eq!(&merged, &of(b).merge(&of(a)));
        }

        #[test]
        fn a_quantile_is_within_a_factor_of_two(values in values(), q in 0.0..=1.0) {
            let record = of(&values);
            let mut magnitudes: Vec<f64> =
                values.iter().filter(|x| x.is_finite()).map(|x| x.abs()).collect();
            magnitudes.sort_by(f64::total_cmp);
            let got = record.abs_quantile(q).unwrap();
            if let Some(last) = magnitudes.len().checked_sub(1) {
                let expected = magnitudes[(q * last as f64) as usize];
                prop_assert!(expected / 2.0 <= got && got / 2.0 <= expected, "{got} {expected}");
                prop_assert!(got <= record.absmax());
            } else {
                prop_assert!(got.is_nan());
            }
        }
    }

    #[test]
    fn nothing_has_neither_mean_nor_extremes() {
        for record in [of(&[]), TensorStats::merge_all([]), of(&[f64::NAN])] {
            let unknown = [
                record.min(),
                record.max(),
                record.absmax(),
                record.moments().mean,
                record.moments().var,
                record.moments().std,
                record.moments().skewness,
                record.moments().kurtosis,
            ];
            assert!(unknown.iter().all(|x| x.is_nan()), "{unknown:?}");
            assert_eq!([record.moments().sum, record.moments().l1, record.l2()], [0.0; 3]);
        }
    }

    #[test]
    fn equal_values_have_no_spread_and_no_shape() {
        let record = of(&vec![0.1; 5000]).merge(&of(&[0.1]));
        assert_eq!(
            (record.moments().mean, record.moments().var, record.moments().std),
            (0.1, 0.0, 0.0)
        );
        assert!(record.moments().skewness.is_nan() && record.moments().kurtosis.is_nan());
    }

    #[test]
    fn moments_of_a_known_sample() {
        // 1, 2, 3, 10: deviations -3, -2, -1, 6.
        for unit in [1.0, 1e300, -1e-300] {
            let record = of(&[unit, 2.0 * unit, 3.0 * unit, 10.0 * unit]);
            let (m2, m3, m4) = (12.5, 45.0, 348.5);
            assert!(
                close(record.moments().std, f64::sqrt(m2) * unit.abs(), unit.abs()),
                "{unit:e}"
            );
            assert!(close(record.moments().skewness, unit.signum() * m3 / f64::powf(m2, 1.5), 1.0));
            assert!(close(record.moments().kurtosis, m4 / (m2 * m2) - 3.0, 1.0));
            assert!(close(record.l2(), f64::sqrt(114.0) * unit.abs(), record.l2()));
            assert!(close(record.moments().l1, 16.0 * unit.abs(), record.moments().l1));
        }
    }

    #[test]
    fn records_of_several_types_are_of_mixed_type() {
        let single = summarize(&TensorView::from(&[1.0_f32][..]), Level::Full);
        assert_eq!(single.merge(&of(&[1.0])).dtype(), Some(DType::Mixed));
        assert_eq!(TensorStats::merge_all([&single]), single);
    }

    #[test]
    fn quantiles_outside_of_0_to_1_are_refused() {
        for q in [-0.1, 1.1, f64::NAN] {
            let message = of(&[1.0]).abs_quantile(q).unwrap_err().to_string();
            assert!(message.starts_with("q: expected a number from 0 to 1"), "{message}");
        }
    }
}
