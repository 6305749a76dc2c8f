//! The kernel of pairs: one chunk of two tensors in, its sums out.
//!
//! Both are read by blocks, which become f64, and summed over lanes: lane `l` takes the places `l`,
//! `l + 16` and so on.

use std::borrow::Cow;
use std::hint::black_box;
use std::ops::Range;

use super::dtype::Float;
use super::exact::{ExactSum, Product};
use super::isa::{Kernel, for_every_kernel};
use super::pair::PairStats;
use super::power::{ldexp, scale};
use super::prefetch::prefetch;
use super::view::{TensorView, with_values};

/// The number of places whose values are in the first-level cache at once, as f64.
const BLOCK: usize = 512;

/// The number of sums side by side.
const LANES: usize = 16;

/// The sums of one chunk.
pub(super) fn compare_chunk(
    kernel: Kernel,
    left: &TensorView<'_>,
    right: &TensorView<'_>,
    range: Range<usize>,
) -> PairStats {
    let (left, right) = (chunk(left, range.clone()), chunk(right, range));
    let chunks = Chunks { kernel, left: &*left, right: &*right };
    chunks.sum().unwrap_or_else(|| chunks.sum_scaled())
}

/// The values of one chunk of a tensor, whatever their type.
trait Chunk {
    fn len(&self) -> usize;

    /// Whether squares of the values may leave the range of f64.
    fn is_wide(&self) -> bool;

    /// The values from `start` on. A subnormal number may be read as zero.
    fn decode(&self, kernel: Kernel, start: usize, values: &mut [f64]);

    /// The values from `start` on in units of 2^unit. Subnormal numbers are read as they are, NaN
    /// and infinities as anything.
    fn decode_finite(&self, kernel: Kernel, start: usize, unit: i32, values: &mut [f64]);
}

struct Typed<'a, F: Float>(Cow<'a, [F::Raw]>);

impl<F: Float> Chunk for Typed<'_, F> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_wide(&self) -> bool {
        !F::NARROW
    }

    fn decode(&self, kernel: Kernel, start: usize, values: &mut [f64]) {
        decode::<F>(kernel, &self.0[start..], values);
    }

    fn decode_finite(&self, kernel: Kernel, start: usize, unit: i32, values: &mut [f64]) {
        if unit == 0 && !flushes_subnormals() {
            return self.decode(kernel, start, values);
        }
        decode_finite::<F>(kernel, &self.0[start..], unit, values);
        if F::NARROW {
            scale_by(values, -unit);
        }
    }
}

fn chunk<'a>(tensor: &'a TensorView<'_>, range: Range<usize>) -> Box<dyn Chunk + 'a> {
    with_values!(tensor, F, values => Box::new(Typed::<F>(values.range(range))))
}

/// The values of one block. No vector of them lies in two lines of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Buffer([f64; BLOCK]);

impl Buffer {
    const ZERO: Self = Self([0.0; BLOCK]);
}

/// The same chunk of two tensors.
struct Chunks<'a> {
    kernel: Kernel,
    left: &'a dyn Chunk,
    right: &'a dyn Chunk,
}

impl Chunks<'_> {
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let n = self.left.len();
        (0..n).step_by(BLOCK).map(move |start| start..n.min(start + BLOCK))
    }

    fn is_wide(&self) -> bool {
        self.left.is_wide() || self.right.is_wide()
    }

    /// The sums; `None` if some values, or their squares, need more care.
    fn sum(&self) -> Option<PairStats> {
        // Squares of f64 that have underflown do not show in a sum as large as this.
        let least = if self.is_wide() { 2_f64.powi(-900) } else { 0.0 };
        if flushes_subnormals() {
            return None;
        }
        let mut lanes = Lanes::ZERO;
        let mut buffers = [Buffer::ZERO; 3];
        for block in self.blocks() {
            let [l, r, d] = buffers.each_mut().map(|buffer| &mut buffer.0[..block.len()]);
            self.left.decode(self.kernel, block.start, l);
            self.right.decode(self.kernel, block.start, r);
            subtract(self.kernel, l, r, d);
            add(self.kernel, l, r, d, &mut lanes);
        }
        let [_, squares @ ..] = lanes.totals();
        let plain = squares.iter().all(|x| (least..f64::INFINITY).contains(x));
        plain.then(|| lanes.stats(0, [0; 3]))
    }

    /// The sums over the places where both values are finite, each in a unit of its own.
    fn sum_scaled(&self) -> PairStats {
        let units = if self.is_wide() { self.units() } else { Units::default() };
        let Units { left, right, operands, difference } = units;
        let mut lanes = Lanes::ZERO;
        let mut nonfinite_count = 0;
        let mut buffers = [Buffer::ZERO; 3];
        for block in self.blocks() {
            let [l, r, d] = buffers.each_mut().map(|buffer| &mut buffer.0[..block.len()]);
            nonfinite_count += self.read(block.start, Some([operands; 2]), l, r);
            subtract(self.kernel, l, r, d);
            if units != Units::default() {
                scale_by(d, -difference);
                self.read(block.start, Some([left, right]), l, r);
            }
            add(self.kernel, l, r, d, &mut lanes);
        }
        lanes.stats(nonfinite_count, [left, right, operands + difference])
    }

    fn units(&self) -> Units {
        let (mut left, mut right, mut difference) = (0, 0, 0);
        let mut buffers = [Buffer::ZERO; 3];
        for block in self.blocks() {
            let [l, r, _] = buffers.each_mut().map(|buffer| &mut buffer.0[..block.len()]);
            self.read(block.start, None, l, r);
            (left, right) = (left.max(largest(self.kernel, l)), right.max(largest(self.kernel, r)));
        }
        let unit = |largest: u64| scale(f64::from_bits(largest));
        // Halves of large numbers: their difference is finite, and nothing beside them gets lost.
        let operands = unit(left.max(right)).min(1);
        for block in self.blocks() {
            let [l, r, d] = buffers.each_mut().map(|buffer| &mut buffer.0[..block.len()]);
            self.read(block.start, Some([operands; 2]), l, r);
            subtract(self.kernel, l, r, d);
            difference = difference.max(largest(self.kernel, d));
        }
        Units { left: unit(left), right: unit(right), operands, difference: unit(difference) }
    }

    /// Reads places from `start` on, those where one value is not finite as zeros; says how many
    /// these are. In units of 2^k, or as [`Chunk::decode`] has them.
    fn read(&self, start: usize, units: Option<[i32; 2]>, l: &mut [f64], r: &mut [f64]) -> u64 {
        let mut masks = [0; BLOCK];
        self.left.decode(self.kernel, start, l);
        self.right.decode(self.kernel, start, r);
        let nonfinite_count = find_finite(self.kernel, l, r, &mut masks);
        if let Some([left, right]) = units {
            self.left.decode_finite(self.kernel, start, left, l);
            self.right.decode_finite(self.kernel, start, right, r);
        }
        keep(self.kernel, &masks, l);
        keep(self.kernel, &masks, r);
        nonfinite_count
    }
}

/// Sums are made of values in units of 2^k; all are zero for everyday magnitudes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Units {
    left: i32,
    right: i32,
    /// Of the values that are subtracted.
    operands: i32,
    /// Of the difference of these.
    difference: i32,
}

/// Multiplies by 2^k.
fn scale_by(values: &mut [f64], k: i32) {
    if k == 0 {
        return;
    }
    for x in values {
        *x = ldexp(*x, k);
    }
}

/// Whether this thread reads subnormal numbers as zero, as a framework may have asked for.
fn flushes_subnormals() -> bool {
    f64::from(black_box(f32::from_bits(1))) == 0.0
}

/// Sums over the places of a chunk.
#[derive(Debug, Clone, Copy)]
struct Lanes {
    dot: [f64; LANES],
    left: [f64; LANES],
    right: [f64; LANES],
    difference: [f64; LANES],
}

impl Lanes {
    const ZERO: Self = Self {
        dot: [0.0; LANES],
        left: [0.0; LANES],
        right: [0.0; LANES],
        difference: [0.0; LANES],
    };

    fn totals(&self) -> [f64; 4] {
        [self.dot, self.left, self.right, self.difference].map(|lanes| lanes.iter().sum())
    }

    /// The finite sums of values in units of 2^k, for `units` of left, right and difference.
    fn stats(&self, nonfinite_count: u64, units: [i32; 3]) -> PairStats {
        let exact = |x: f64, unit: i32| {
            let mut sum = ExactSum::default();
            if x != 0.0 {
                sum.add(&Product::of(x).times_two_to(unit));
            }
            sum
        };
        let [dot, left, right, difference] = self.totals();
        let [a, b, c] = units;
        PairStats {
            nonfinite_count,
            dot: exact(dot, a + b),
            left: exact(left, 2 * a),
            right: exact(right, 2 * b),
            difference: exact(difference, 2 * c),
        }
    }

    #[inline(always)]
    fn add_one(&mut self, i: usize, left: f64, right: f64, difference: f64) {
        self.dot[i] = left.mul_add(right, self.dot[i]);
        self.left[i] = left.mul_add(left, self.left[i]);
        self.right[i] = right.mul_add(right, self.right[i]);
        self.difference[i] = difference.mul_add(difference, self.difference[i]);
    }
}

for_every_kernel! {
    fn decode<F: Float>(raw: &[F::Raw], values: &mut [f64]) {
        let (groups, rest) = values.as_chunks_mut::<LANES>();
        let (raw_groups, _) = raw.as_chunks::<LANES>();
        let raw_rest = &raw[groups.len() * LANES..];
        for (group, raw) in groups.iter_mut().zip(raw_groups) {
            for line in 0..size_of_val(raw).div_ceil(64) {
                prefetch(raw, line);
            }
            for i in 0..LANES {
                group[i] = F::decode(raw[i]);
            }
        }
        for (x, &raw) in rest.iter_mut().zip(raw_rest) {
            *x = F::decode(raw);
        }
    }
}

for_every_kernel! {
    fn decode_finite<F: Float>(raw: &[F::Raw], unit: i32, values: &mut [f64]) {
        for (x, &raw) in values.iter_mut().zip(raw) {
            *x = F::decode_finite(raw, unit);
        }
    }
}

for_every_kernel! {
    /// Sets all bits where both values are finite, none elsewhere; counts the latter.
    fn find_finite(left: &[f64], right: &[f64], masks: &mut [u64]) -> u64 {
        let mut count = 0_u64;
        for ((mask, l), r) in masks.iter_mut().zip(left).zip(right) {
            let finite = l.is_finite() & r.is_finite();
            *mask = if finite { u64::MAX } else { 0 };
            count = count.wrapping_add(u64::from(!finite));
        }
        count
    }
}

for_every_kernel! {
    fn keep(masks: &[u64], values: &mut [f64]) {
        for (x, mask) in values.iter_mut().zip(masks) {
            *x = f64::from_bits(x.to_bits() & mask);
        }
    }
}

for_every_kernel! {
    /// The bits of the largest magnitude.
    fn largest(values: &[f64]) -> u64 {
        values.iter().map(|x| x.abs().to_bits()).fold(0, u64::max)
    }
}

for_every_kernel! {
    fn subtract(left: &[f64], right: &[f64], difference: &mut [f64]) {
        for ((d, l), r) in difference.iter_mut().zip(left).zip(right) {
            *d = l - r;
        }
    }
}

for_every_kernel! {
    /// Adds places. Those that fill no group go to the first lane.
    fn add(left: &[f64], right: &[f64], difference: &[f64], lanes: &mut Lanes) {
        let mut sums = *lanes;
        let (left, left_rest) = left.as_chunks::<LANES>();
        let (right, right_rest) = right.as_chunks::<LANES>();
        let (difference, difference_rest) = difference.as_chunks::<LANES>();
        for ((l, r), d) in left.iter().zip(right).zip(difference) {
            for i in 0..LANES {
                sums.add_one(i, l[i], r[i], d[i]);
            }
        }
        for ((&l, &r), &d) in left_rest.iter().zip(right_rest).zip(difference_rest) {
            sums.add_one(0, l, r, d);
        }
        *lanes = sums;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::dtype::{BFloat16, Float16};
    use crate::tensor::view::Values;

    fn f32_of_any_kind() -> impl Strategy<Value = f32> {
        prop_oneof![8 => -3.0..3.0_f32, 1 => any::<f32>(), 1 => Just(0.0_f32)]
    }

    proptest! {
        #[test]
        fn kernels_types_and_the_careful_way_agree_to_the_bit(
            values in prop::collection::vec((f32_of_any_kind(), f32_of_any_kind()), 0..1200),
        ) {
            let n = values.len();
            let (left, right): (Vec<_>, Vec<_>) = values.into_iter().unzip();
            let wide: Vec<_> = left.iter().map(|&x| f64::from(x)).collect();
            let bits: Vec<_> = left.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
            let right = TensorView::from(&right[..]);
            let lefts = [
                TensorView::from(&left[..]),
                TensorView::from(&wide[..]),
                TensorView::Float16(Values::<Float16>::Contiguous(&bits)),
                TensorView::BFloat16(Values::<BFloat16>::Contiguous(&bits)),
            ];
            let compare = |kernel, left| compare_chunk(kernel, left, &right, 0..n);
            for left in &lefts {
                let (l, r) = (chunk(left, 0..n), chunk(&right, 0..n));
                let chunks = Chunks { kernel: Kernel::PORTABLE, left: &*l, right: &*r };
                let expected = chunks.sum_scaled();
                for kernel in Kernel::available() {
                    prop_assert_eq!(&compare(kernel, left), &expected, "{}", kernel);
                }
            }
            let [single, double, ..] = &lefts;
            prop_assert_eq!(compare(Kernel::PORTABLE, single), compare(Kernel::PORTABLE, double));
        }
    }
}
