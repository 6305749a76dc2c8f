//! Two tensors of one shape, read together: dot product, norms, and the norm of the difference.

use super::chunks::fold_chunks;
use super::exact::ExactSum;
use super::isa::{Kernel, current_kernel};
use super::pair_kernel::compare_chunk;
use super::power::ldexp;
use super::view::TensorView;

/// Two tensors with as many values each.
#[derive(Debug)]
pub struct Pair<'a> {
    left: TensorView<'a>,
    right: TensorView<'a>,
}

impl<'a> Pair<'a> {
    /// The pair; `None` if one has more values than the other. That their shapes are the same, and
    /// not only as large, is left to the caller.
    pub fn new(left: TensorView<'a>, right: TensorView<'a>) -> Option<Self> {
        (left.len() == right.len()).then_some(Self { left, right })
    }

    fn len(&self) -> usize {
        self.left.len()
    }
}

/// What two tensors have to do with each other, exact sums of what their chunks gave.
///
/// All of it is about the places where both values are finite; the others are counted.
/// Sums are made in f64, scaled where f64 data would leave its range: squares with a relative error
/// of at most 1e-12, the dot product with one of 1e-12 of the product of the norms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PairStats {
    pub(super) nonfinite_count: u64,
    pub(super) dot: ExactSum,
    pub(super) left: ExactSum,
    pub(super) right: ExactSum,
    pub(super) difference: ExactSum,
}

impl PairStats {
    /// Adds the places of `other`.
    pub fn add(&mut self, other: &Self) {
        self.nonfinite_count += other.nonfinite_count;
        self.dot.add_sum(&other.dot);
        self.left.add_sum(&other.left);
        self.right.add_sum(&other.right);
        self.difference.add_sum(&other.difference);
    }

    /// What several pairs are together, in whatever order.
    pub fn merge_all(parts: &[Self]) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.add(part);
        }
        all
    }

    /// The number of places where one value or both are NaN or infinite.
    pub fn nonfinite_count(&self) -> u64 {
        self.nonfinite_count
    }

    /// Sum of left times right.
    pub fn dot(&self) -> f64 {
        self.dot.to_f64(0)
    }

    /// Dot product over the product of the norms, in [-1, 1]; NaN if one of these is zero. Exactly 1
    /// for a tensor and itself.
    pub fn cosine(&self) -> f64 {
        let ((left, a), (right, b)) = (self.left.by_fours(), self.right.by_fours());
        // One root of the product: that of a square is exact.
        (self.dot.to_f64(a + b) / (left * right).sqrt()).clamp(-1.0, 1.0)
    }

    /// Euclidean norm of left.
    pub fn l2_left(&self) -> f64 {
        self.left.sqrt()
    }

    /// Euclidean norm of right.
    pub fn l2_right(&self) -> f64 {
        self.right.sqrt()
    }

    /// Euclidean norm of left - right.
    pub fn l2_difference(&self) -> f64 {
        self.difference.sqrt()
    }

    /// Norm of left over norm of right.
    pub fn ratio(&self) -> f64 {
        root_of_quotient(&self.left, &self.right)
    }

    /// Norm of left - right over norm of right.
    pub fn relative_difference(&self) -> f64 {
        root_of_quotient(&self.difference, &self.right)
    }
}

/// Square root of a / b, which may be within the range of f64 where the roots of both are not.
fn root_of_quotient(a: &ExactSum, b: &ExactSum) -> f64 {
    let ((a, j), (b, k)) = (a.by_fours(), b.by_fours());
    ldexp((a / b).sqrt(), j - k)
}

/// Compares several pairs, parallel over the chunks of all of them.
pub fn compare_all(pairs: &[Pair<'_>]) -> Vec<PairStats> {
    compare_with(current_kernel(), pairs)
}

fn compare_with(kernel: Kernel, pairs: &[Pair<'_>]) -> Vec<PairStats> {
    let bytes = pairs.iter().map(|pair| pair.left.bytes().saturating_add(pair.right.bytes()));
    let bytes = bytes.fold(0, usize::saturating_add);
    let compare = |pair: &Pair<'_>, range| compare_chunk(kernel, &pair.left, &pair.right, range);
    let stats = fold_chunks(pairs, Pair::len, bytes, compare, PairStats::add);
    stats.into_iter().map(Option::unwrap_or_default).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::chunks::CHUNK;

    fn compare<'a, L, R>(left: &'a [L], right: &'a [R]) -> PairStats
    where
        TensorView<'a>: From<&'a [L]> + From<&'a [R]>,
    {
        let pair = Pair::new(left.into(), right.into()).unwrap();
        compare_all(&[pair]).pop().unwrap()
    }

    fn wave(n: usize, step: f64) -> Vec<f64> {
        (0..n).map(|i| (i as f64 * step).sin() + 0.1).collect()
    }

    #[test]
    fn numbers_that_are_known() {
        let stats = compare(&[3.0_f64, 0.0], &[3.0_f32, 4.0]);
        assert_eq!((stats.dot(), stats.cosine()), (9.0, 0.6));
        assert_eq!((stats.l2_left(), stats.l2_right(), stats.l2_difference()), (3.0, 5.0, 4.0));
        assert_eq!((stats.ratio(), stats.relative_difference()), (0.6, 0.8));
        assert_eq!(stats.nonfinite_count(), 0);
    }

    #[test]
    fn tensors_of_different_length_are_no_pair() {
        assert!(
            Pair::new(TensorView::from(&[1.0_f32][..]), TensorView::from(&[][..] as &[f64]))
                .is_none()
        );
    }

    #[test]
    fn nothing_has_no_direction() {
        for stats in [compare(&[0.0_f32; 0], &[0.0_f32; 0]), compare(&[0.0_f64; 3], &[0.0_f64; 3])]
        {
            assert_eq!((stats.dot(), stats.l2_difference()), (0.0, 0.0));
            assert!(stats.cosine().is_nan() && stats.ratio().is_nan());
        }
        let stats = compare(&[2.0_f32], &[0.0_f32]);
        assert!(stats.cosine().is_nan());
        assert_eq!((stats.ratio(), stats.relative_difference()), (f64::INFINITY, f64::INFINITY));
    }

    #[test]
    fn places_that_are_not_finite_are_counted_and_left_out() {
        let left = [f64::NAN, 1.0, f64::INFINITY, 3.0, f64::NAN];
        let right = [2.0_f32, f32::NEG_INFINITY, 5.0, 4.0, f32::NAN];
        let stats = compare(&left, &right);
        assert_eq!(stats.nonfinite_count(), 4);
        assert_eq!(PairStats { nonfinite_count: 0, ..stats }, compare(&[3.0_f64], &[4.0_f32]));
    }

    #[test]
    fn neither_large_nor_small_values_leave_the_range() {
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-15;
        for unit in [1e200, 1e-200, 1e300, 1e-300, 2e307, f64::from_bits(1)] {
            let stats = compare(&[3.0 * unit, 0.0], &[3.0 * unit, 4.0 * unit]);
            assert!(near(stats.l2_left(), 3.0 * unit), "{unit:e}");
            assert!(near(stats.l2_right(), 5.0 * unit), "{unit:e}");
            assert!(near(stats.l2_difference(), 4.0 * unit), "{unit:e}");
            assert!(near(stats.cosine(), 0.6) && near(stats.ratio(), 0.6), "{unit:e}");
            assert!(near(stats.relative_difference(), 0.8), "{unit:e}");
        }
        let apart = compare(&[1e300_f64, 1e300], &[1e-300_f64, 1e-300]);
        assert!(near(apart.dot(), 2.0) && apart.cosine() == 1.0);
        assert_eq!(apart.ratio(), f64::INFINITY);
        let opposite = compare(&[f64::MAX], &[-f64::MAX]);
        assert_eq!((opposite.l2_difference(), opposite.dot()), (f64::INFINITY, f64::NEG_INFINITY));
        assert_eq!((opposite.relative_difference(), opposite.cosine()), (2.0, -1.0));
        let mixed = compare(&[1e300_f64, 4.0], &[0.0_f32, 4.0]);
        assert_eq!((mixed.l2_difference(), mixed.dot()), (1e300, 16.0));
    }

    #[test]
    fn a_small_difference_of_large_values_is_seen() {
        for large in [1.0, 1e150, 1e300] {
            let stats = compare(&[large, 3e-200], &[large, 7e-200]);
            assert!((stats.l2_difference() / 4e-200 - 1.0).abs() < 1e-15, "{large:e}");
        }
    }

    #[test]
    fn parts_merged_in_any_grouping_are_the_whole() {
        let n = 5 * CHUNK + 99;
        let (left, right) = (wave(n, 0.37), wave(n, 0.11));
        let whole = compare(&left, &right);
        let part = |range: std::ops::Range<usize>| {
            let range = range.start * CHUNK..n.min(range.end * CHUNK);
            compare(&left[range.clone()], &right[range])
        };
        let [a, b, c] = [part(0..1), part(1..4), part(4..6)];
        let merge = |parts: &[&PairStats]| {
            PairStats::merge_all(&parts.iter().copied().cloned().collect::<Vec<_>>())
        };
        assert_eq!(merge(&[&a, &b, &c]), whole);
        assert_eq!(merge(&[&c, &merge(&[&b, &a])]), whole);
        assert_eq!(merge(&[&merge(&[&a, &PairStats::default()]), &merge(&[&c, &b])]), whole);
        let dot: f64 = left.iter().zip(&right).map(|(l, r)| l * r).sum();
        assert!((whole.dot() / dot - 1.0).abs() < 1e-11);
    }

    #[test]
    fn pairs_in_one_call_are_what_each_is_alone() {
        let data: Vec<_> = [0, 1, CHUNK, 2 * CHUNK + 17, 64].map(|n| wave(n, 0.7)).into();
        let narrow: Vec<Vec<f32>> =
            data.iter().map(|x| x.iter().map(|&x| x as f32).collect()).collect();
        let pair = |i: usize| Pair::new(data[i][..].into(), narrow[i][..].into()).unwrap();
        let together = compare_all(&(0..data.len()).map(pair).collect::<Vec<_>>());
        for (i, stats) in together.iter().enumerate() {
            assert_eq!(stats, &compare(&data[i], &narrow[i]));
        }
    }

    proptest! {
        #[test]
        fn a_power_of_two_moves_nothing_but_the_exponent(
            values in prop::collection::vec((0.1..4.0, -4.0..4.0), 1..300), k in -1000..1000_i32,
        ) {
            let (left, right): (Vec<f64>, Vec<f64>) = values.into_iter().unzip();
            let right: Vec<_> = right.iter().map(|x| if x.abs() < 0.1 { 0.0 } else { *x }).collect();
            let scaled = |x: &[f64]| x.iter().map(|&x| ldexp(x, k)).collect::<Vec<_>>();
            let (plain, moved) = (compare(&left, &right), compare(&scaled(&left), &scaled(&right)));
            let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            prop_assert!(same(plain.cosine(), moved.cosine()));
            prop_assert!(same(plain.ratio(), moved.ratio()));
            prop_assert!(same(plain.relative_difference(), moved.relative_difference()));
            prop_assert_eq!(ldexp(plain.l2_left(), k), moved.l2_left());
            prop_assert_eq!(ldexp(plain.l2_difference(), k), moved.l2_difference());
        }

        #[test]
        fn cosines_are_within_bounds_and_one_for_a_tensor_itself(
            left in prop::collection::vec(any::<f64>(), 1..100), c in prop_oneof![-2.0..2.0, any::<f64>()],
        ) {
            let stats = compare(&left, &left);
            let nonzero = left.iter().any(|x| x.is_finite() && *x != 0.0);
            prop_assert_eq!(stats.cosine() == 1.0, nonzero);
            prop_assert_eq!(stats.l2_difference(), 0.0);
            let right: Vec<_> = left.iter().map(|x| c * x).collect();
            let cosine = compare(&left, &right).cosine();
            prop_assert!(cosine.abs() <= 1.0 || cosine.is_nan());
        }
    }
}
