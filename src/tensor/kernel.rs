//! The kernel: one chunk of values in, its record out.

use super::block::{Block, Extent};
use super::dtype::{Float, Float32};
use super::exponents::ExponentCounts;
use super::isa::{Kernel, for_every_kernel};
use super::lanes::{LEAST_EXPONENT, Lanes, SquareLanes};
use super::level::Level;
use super::moments::{Finite, Moments};
use super::power::{exponent, greater, is_zero, lesser, scale, two_to};
use super::record::TensorStats;
use super::room::room_for;

/// The record of one chunk.
pub(super) fn summarize_chunk<F: Block>(
    kernel: Kernel,
    values: &[F::Raw],
    level: Level,
) -> TensorStats {
    match level {
        Level::Norm => norm::<F>(kernel, values),
        Level::Moments | Level::Full => Tally::<F>::record(kernel, values, level),
    }
}

/// The record of level [`Level::Norm`].
fn norm<F: Block>(kernel: Kernel, values: &[F::Raw]) -> TensorStats {
    let mut record = TensorStats::empty(Some(F::DTYPE), Level::Norm);
    let mut lanes = SquareLanes::ZERO;
    add_squares::<F>(kernel, values, &mut lanes);
    let mut unit = 0;
    if !(F::LEAST_SQUARES..f64::INFINITY).contains(&lanes.total()) {
        let mut not_finite = NotFinite::default();
        let mut room = Room::<F>::default();
        if !F::NARROW {
            unit = unit_of::<F>(kernel, values, &mut room);
        }
        lanes = SquareLanes::ZERO;
        for block in values.chunks(F::LEN) {
            let sifted = room_for(&mut room.sifted, block.len());
            let (extent, others) = sift::<F>(kernel, block, sifted);
            not_finite.add(&others);
            if unit == 0 && extent.least >= 1 << F::MANTISSA_BITS {
                add_normal_squares::<F>(kernel, sifted, &mut lanes);
            } else {
                let decoded = room_for(&mut room.decoded, block.len());
                add_decoded_squares::<F>(kernel, sifted, unit, decoded, &mut lanes);
            }
        }
        (record.nan_count, record.posinf_count, record.neginf_count) =
            (not_finite.nan, not_finite.posinf, not_finite.neginf);
    }
    record.finite = Finite::One(Moments {
        count: values.len() as u64 - record.nonfinite_count(),
        unit,
        powers: [0.0, lanes.total(), 0.0, 0.0],
        ..Moments::NOTHING
    });
    record
}

/// Counts of values that are not finite.
#[derive(Default)]
struct NotFinite {
    nan: u64,
    posinf: u64,
    neginf: u64,
}

impl NotFinite {
    fn total(&self) -> u64 {
        self.nan + self.posinf + self.neginf
    }

    fn add(&mut self, other: &Self) {
        self.nan += other.nan;
        self.posinf += other.posinf;
        self.neginf += other.neginf;
    }
}

/// What has been read of a chunk.
struct Tally<F: Block> {
    kernel: Kernel,
    /// The exponent of the unit of `center` and of the sums.
    unit: i32,
    center: f64,
    lanes: Lanes,
    min: f64,
    max: f64,
    not_finite: NotFinite,
    exponents: ExponentCounts,
    room: Room<F>,
}

/// Room for what becomes of the values of one block, once it is needed.
struct Room<F: Block> {
    /// The finite ones.
    sifted: Vec<F::Raw>,
    /// In double precision.
    decoded: Vec<f64>,
    /// As multiples of the least subnormal number.
    integers: Vec<f32>,
}

impl<F: Block> Default for Room<F> {
    fn default() -> Self {
        Self { sifted: Vec::new(), decoded: Vec::new(), integers: Vec::new() }
    }
}

impl<F: Block> Tally<F> {
    fn record(kernel: Kernel, values: &[F::Raw], level: Level) -> TensorStats {
        let mut room = Room::default();
        let mut tally = Self {
            kernel,
            unit: if F::NARROW { 0 } else { unit_of::<F>(kernel, values, &mut room) },
            center: 0.0,
            lanes: Lanes::ZERO,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            not_finite: NotFinite::default(),
            exponents: ExponentCounts::default(),
            room,
        };
        let (head, rest) = values.split_at(values.len().min(F::LEN));
        tally.add(head, level);
        let mut moments = tally.moments(head.len() as u64);
        // Sums about zero are as good as those about the mean unless the mean stands out.
        if stands_out(&moments) && tally.sum_again(head, &moments) {
            moments = tally.moments(head.len() as u64);
        }
        if !rest.is_empty() {
            rest.chunks(F::LEN).for_each(|block| tally.add(block, level));
            moments = tally.moments(values.len() as u64);
        }
        if moments.is_off_center() && tally.sum_again(values, &moments) {
            moments = tally.moments(values.len() as u64);
        }
        let histogram = tally.exponents.histogram::<F>();
        TensorStats {
            dtype: Some(F::DTYPE),
            level,
            nan_count: tally.not_finite.nan,
            posinf_count: tally.not_finite.posinf,
            neginf_count: tally.not_finite.neginf,
            subnormal_count: histogram.total_below(1 - F::BIAS),
            histogram,
            finite: Finite::One(moments),
        }
    }

    /// Sums values that have been counted once more, about the mean that their moments have;
    /// `false` if that is what they were summed about.
    fn sum_again(&mut self, values: &[F::Raw], moments: &Moments) -> bool {
        let mean = moments.center + moments.powers[0] / moments.count as f64;
        let center = if F::NARROW {
            // To the precision of f32, toward zero: exact in single precision too.
            f64::from_bits(mean.to_bits() & !((1 << (52 - 23)) - 1))
        } else {
            mean
        };
        if center == self.center || !center.is_finite() {
            return false;
        }
        self.center = center;
        self.lanes = Lanes::ZERO;
        let not_finite = std::mem::take(&mut self.not_finite);
        for block in values.chunks(F::LEN) {
            self.add(block, Level::Moments);
        }
        self.not_finite = not_finite;
        true
    }

    /// Adds one block.
    fn add(&mut self, block: &[F::Raw], level: Level) {
        let extent = find_extent::<F>(self.kernel, block);
        if extent.finite {
            self.add_finite(block, extent, level);
            return;
        }
        let mut sifted = std::mem::take(&mut self.room.sifted);
        let values = room_for(&mut sifted, block.len());
        let (extent, others) = sift::<F>(self.kernel, block, values);
        self.not_finite.add(&others);
        if others.total() < block.len() as u64 {
            // About zero, the zeros in place of the others add nothing.
            let values = if self.center == 0.0 { values } else { keep_finite::<F>(block, values) };
            self.add_finite(values, extent, level);
        }
        self.room.sifted = sifted;
    }

    /// Adds one block of finite values.
    fn add_finite(&mut self, block: &[F::Raw], extent: Extent, level: Level) {
        let has_subnormals = extent.least < 1 << F::MANTISSA_BITS;
        let (kernel, unit, center) = (self.kernel, self.unit, self.center);
        if let Some((k, wide)) = self.scale(&extent).filter(|_| !has_subnormals) {
            let sum = if wide { sum_wide::<F> } else { sum::<F> };
            sum(kernel, block, center, k, &mut self.lanes);
        } else if F::NARROW && center == 0.0 && extent.absmax() < two_to(1 - F::BIAS) {
            let integers = room_for(&mut self.room.integers, block.len());
            let mut lanes = Lanes::ZERO;
            add_subnormal::<F>(kernel, block, integers, &mut lanes);
            self.lanes.add_scaled(&lanes, F::MIN_EXPONENT);
        } else {
            let decoded = room_for(&mut self.room.decoded, block.len());
            add_decoded::<F>(kernel, block, unit, center, decoded, &mut self.lanes);
        }
        self.min = lesser(self.min, extent.min);
        self.max = greater(self.max, extent.max);
        if level == Level::Full {
            self.exponents.add::<F>(kernel, block, &extent);
        }
    }

    /// The scale for [`Block::sum`], and whether the block is wide; `None` if it needs double
    /// precision throughout.
    fn scale(&self, extent: &Extent) -> Option<(i32, bool)> {
        if self.unit != 0 {
            return None;
        }
        let absmax = extent.absmax();
        if is_zero(absmax) && self.center == 0.0 {
            return Some((0, false));
        }
        let k = F::scale(exponent(absmax.max(self.center.abs())))?;
        let least = if self.center == 0.0 {
            (extent.least >> F::MANTISSA_BITS) as i32 - F::BIAS
        } else {
            exponent(self.center) - 24 // no difference is smaller, unless it is zero
        };
        Some((k, F::NARROW && least + k < LEAST_EXPONENT))
    }

    /// The moments of the first `len` values, which are those that have been added.
    fn moments(&self, len: u64) -> Moments {
        let [d1, d2, d3, d4, l1] = self.lanes.totals();
        let count = len - self.not_finite.total();
        Moments {
            count,
            min: self.min,
            max: self.max,
            unit: self.unit,
            center: self.center,
            powers: [d1, d2, d3, d4],
            l1,
        }
    }
}

/// Whether the mean is more than half of the standard deviation; the moments are about zero.
fn stands_out(moments: &Moments) -> bool {
    let [d1, d2, ..] = moments.powers;
    4.0 * d1 * d1 > moments.count as f64 * d2 - d1 * d1
}

/// The unit of the sums of a chunk: see [`Moments::unit`].
fn unit_of<F: Block>(kernel: Kernel, values: &[F::Raw], room: &mut Room<F>) -> i32 {
    let mut absmax = 0.0;
    for block in values.chunks(F::LEN) {
        let mut extent = find_extent::<F>(kernel, block);
        if !extent.finite {
            let (finite, others) =
                sift::<F>(kernel, block, room_for(&mut room.sifted, block.len()));
            if others.total() == block.len() as u64 {
                continue;
            }
            extent = finite;
        }
        absmax = greater(absmax, extent.absmax());
    }
    scale(absmax)
}

/// The finite values of a block, copied to `finite`.
fn keep_finite<'a, F: Block>(block: &[F::Raw], finite: &'a mut [F::Raw]) -> &'a [F::Raw] {
    let mut kept = 0;
    for &raw in block {
        // Without a branch: what is not finite is overwritten by the next.
        if let Some(slot) = finite.get_mut(kept) {
            *slot = raw;
        }
        kept += usize::from(F::field(raw) < F::FIELDS - 1);
    }
    &finite[..kept]
}

#[inline(always)]
fn decode<F: Float>(block: &[F::Raw], unit: i32, decoded: &mut [f64]) {
    for (x, &raw) in decoded.iter_mut().zip(block) {
        *x = F::decode_finite(raw, unit);
    }
}

for_every_kernel! {
    fn find_extent<F: Block>(block: &[F::Raw]) -> Extent {
        F::extent(block)
    }
}

for_every_kernel! {
    fn sift<F: Block>(block: &[F::Raw], sifted: &mut [F::Raw]) -> (Extent, NotFinite) {
        let (extent, [nan, posinf, neginf]) = F::sift(block, sifted);
        (extent, NotFinite { nan, posinf, neginf })
    }
}

for_every_kernel! {
    fn sum<F: Block>(block: &[F::Raw], center: f64, k: i32, lanes: &mut Lanes) {
        F::sum::<false>(block, center, k, lanes);
    }
}

for_every_kernel! {
    fn sum_wide<F: Block>(block: &[F::Raw], center: f64, k: i32, lanes: &mut Lanes) {
        F::sum::<true>(block, center, k, lanes);
    }
}

for_every_kernel! {
    /// Sums in double precision, in units of 2^unit.
    fn add_decoded<F: Block>(
        block: &[F::Raw], unit: i32, center: f64, decoded: &mut [f64], lanes: &mut Lanes,
    ) {
        decode::<F>(block, unit, decoded);
        lanes.add_f64(decoded, center);
    }
}

for_every_kernel! {
    /// Sums subnormal numbers and zeros in units of the least of them.
    fn add_subnormal<F: Block>(block: &[F::Raw], integers: &mut [f32], lanes: &mut Lanes) {
        for (x, &raw) in integers.iter_mut().zip(block) {
            let magnitude = F::mantissa(raw) as i32;
            *x = (if F::is_negative(raw) { -magnitude } else { magnitude }) as f32;
        }
        let largest = F::MANTISSA_BITS as i32 - 1;
        lanes.add_f32::<false>(integers, 0.0, Float32::scale(largest).unwrap_or(0));
    }
}

for_every_kernel! {
    fn add_squares<F: Block>(values: &[F::Raw], lanes: &mut SquareLanes) {
        F::add_squares(values, lanes);
    }
}

for_every_kernel! {
    /// Adds squares of normal numbers and zeros in double precision.
    fn add_normal_squares<F: Block>(values: &[F::Raw], lanes: &mut SquareLanes) {
        lanes.add(values, F::decode);
    }
}

for_every_kernel! {
    fn add_decoded_squares<F: Block>(
        block: &[F::Raw], unit: i32, decoded: &mut [f64], lanes: &mut SquareLanes,
    ) {
        decode::<F>(block, unit, decoded);
        lanes.add(decoded, |x| x);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::ExponentHistogram;
    use crate::tensor::dtype::{BFloat16, DType, Float16, Float64};
    use crate::tensor::power::ldexp;

    fn best<F: Block>(values: &[F::Raw]) -> TensorStats {
        let kernel = Kernel::available().pop().unwrap_or(Kernel::PORTABLE);
        summarize_chunk::<F>(kernel, values, Level::Full)
    }

    /// One value after the other, by the definitions.
    fn check<F: Block>(values: &[F::Raw]) {
        let record = best::<F>(values);
        let all: Vec<f64> = values.iter().map(|&raw| F::decode(raw)).collect();
        let finite: Vec<f64> = all.iter().copied().filter(|x| x.is_finite()).collect();
        let count = |f: fn(f64) -> bool| all.iter().filter(|&&x| f(x)).count() as u64;
        assert_eq!(record.count(), all.len() as u64);
        assert_eq!(record.nan_count(), count(f64::is_nan));
        assert_eq!(record.posinf_count(), count(|x| x == f64::INFINITY));
        assert_eq!(record.neginf_count(), count(|x| x == f64::NEG_INFINITY));
        assert_eq!(record.zero_count(), count(|x| x == 0.0));
        let magnitudes = || finite.iter().map(|x| x.abs()).filter(|&x| x > 0.0);
        let tiny = ldexp(1.0, 1 - F::BIAS);
        assert_eq!(record.subnormal_count(), magnitudes().filter(|&x| x < tiny).count() as u64);
        for e in ExponentHistogram::RANGE {
            let expected = magnitudes().filter(|&x| exponent(x) == e).count() as u64;
            assert_eq!(record.exponent_histogram().count(e), expected, "{} 2^{e}", F::DTYPE);
        }
        let extreme = |f: fn(f64, f64) -> f64| finite.iter().copied().fold(f64::NAN, f);
        assert_eq!(record.min() + 0.0, extreme(f64::min) + 0.0);
        assert_eq!(record.max() + 0.0, extreme(f64::max) + 0.0);
        let absmax = extreme(f64::max).max(-extreme(f64::min));
        let l1 = finite.iter().map(|x| x.abs() / absmax).sum::<f64>();
        let bound = if size_of::<F::Raw>() == 2 { 2e-6 } else { 1e-12 };
        assert!((record.moments().l1 / absmax - l1).abs() <= bound * l1, "{}", F::DTYPE);
        let l2 = finite.iter().map(|x| (x / absmax).powi(2)).sum::<f64>().sqrt();
        assert!((record.l2() / absmax - l2).abs() <= bound * l2, "{}", F::DTYPE);
    }

    #[test]
    fn every_bit_pattern_of_the_narrow_types() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        check::<Float16>(&all);
        check::<BFloat16>(&all);
    }

    #[test]
    fn bit_patterns_of_the_wide_types() {
        // An odd multiplier visits exponents and mantissas alike.
        let bits = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let specials = [0, 1, 0x007f_ffff, 0x0080_0000, 0x7f80_0000, 0xff80_0000, 0x8000_0000];
        let single: Vec<f32> =
            (0..5000).map(|i| (bits(i) >> 32) as u32).chain(specials).map(f32::from_bits).collect();
        check::<Float32>(&single);
        // Half of the range: the sums of this check are not scaled.
        let double: Vec<f64> = (0..5000)
            .map(bits)
            .chain(specials.map(u64::from))
            .map(|b| f64::from_bits(b & !(1 << 62)))
            .chain([f64::NAN, f64::INFINITY])
            .collect();
        check::<Float64>(&double);
    }

    #[test]
    fn the_record_of_nothing() {
        let record = best::<Float32>(&[]);
        assert_eq!(record, TensorStats::empty(Some(DType::Float32), Level::Full));
    }

    #[test]
    fn moments_of_one_to_n() {
        for n in [2, 3, 7, 2048, 2049, 60_001] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            let stats = best::<Float64>(&values);
            let n = f64::from(n);
            let close = |got: f64, expected: f64| {
                assert!(
                    (got - expected).abs() <= 1e-12 * expected.abs().max(1.0),
                    "{got} {expected}"
                );
            };
            assert_eq!(stats.moments().sum, n * (n + 1.0) / 2.0);
            close(stats.moments().var, (n * n - 1.0) / 12.0);
            close(stats.l2(), (n * (n + 1.0) * (2.0 * n + 1.0) / 6.0).sqrt());
            close(stats.moments().skewness, 0.0);
            close(stats.moments().kurtosis, -1.2 * (n * n + 1.0) / (n * n - 1.0));
        }
    }

    #[test]
    fn the_unit_of_the_data_does_not_matter() {
        let values: Vec<f64> = (0..5000).map(|i| f64::from((i * 37) % 101) - 20.0).collect();
        let expected = best::<Float64>(&values);
        for k in [-1050, -900, -201, 201, 900, 1010] {
            let scaled: Vec<f64> = values.iter().map(|&x| ldexp(x, k)).collect();
            let got = best::<Float64>(&scaled);
            assert_eq!(got.moments().std, ldexp(expected.moments().std, k), "2^{k}");
            assert_eq!(got.l2(), ldexp(expected.l2(), k), "2^{k}");
            assert_eq!(got.moments().skewness, expected.moments().skewness, "2^{k}");
            assert_eq!(got.moments().kurtosis, expected.moments().kurtosis, "2^{k}");
        }
    }

    /// Values of the kinds that take paths of their own, by the bits of a wider type.
    fn bits() -> impl Strategy<Value = Vec<u64>> {
        let usual =
            (0..4_u64, any::<u64>()).prop_map(|(e, m)| (1000 + e) << 52 | m >> 12 | m << 63);
        let kinds = prop_oneof![
            Just(vec![]),
            Just(vec![0, 1 << 63, 0x7ff << 52, 0xfff << 52, u64::MAX]),
            Just(vec![1 << 40, 3, 1 << 63 | 0x4d]),
            prop::collection::vec(any::<u64>(), 1..9),
        ];
        (prop::collection::vec(usual, 0..40), kinds, 1..200_usize).prop_map(
            |(usual, rare, repeats)| {
                let repeated = usual.iter().copied().cycle().take(usual.len() * repeats);
                rare.into_iter().chain(repeated).collect()
            },
        )
    }

    fn same_on_every_kernel<F: Block>(values: &[F::Raw]) {
        for level in [Level::Norm, Level::Moments, Level::Full] {
            let expected = summarize_chunk::<F>(Kernel::PORTABLE, values, level);
            for kernel in Kernel::available() {
                assert_eq!(summarize_chunk::<F>(kernel, values, level), expected, "{kernel}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_kernel_gives_the_same_bits(bits in bits()) {
            let single = |b: u64| f64::from_bits(b) as f32;
            same_on_every_kernel::<Float64>(&bits.iter().map(|&b| f64::from_bits(b)).collect::<Vec<_>>());
            same_on_every_kernel::<Float32>(&bits.iter().map(|&b| single(b)).collect::<Vec<_>>());
            same_on_every_kernel::<Float32>(
                &bits.iter().map(|&b| f32::from_bits((b >> 32) as u32)).collect::<Vec<_>>(),
            );
            let half: Vec<_> = bits.iter().map(|&b| (b >> 48) as u16).collect();
            same_on_every_kernel::<Float16>(&half);
            same_on_every_kernel::<BFloat16>(&half);
            let half: Vec<_> = bits.iter().map(|&b| (single(b).to_bits() >> 16) as u16).collect();
            same_on_every_kernel::<BFloat16>(&half);
        }
    }

    #[test]
    fn a_mean_that_stands_out_costs_no_digits() {
        // First blocks that tell nothing of the rest, and a mean far from zero.
        for first in [0.0_f32, 1e6, -3.0] {
            let values: Vec<f32> = (0..60_000)
                .map(|i| if i < 4096 { first } else { 1e4 + ((i * 7919) % 1000) as f32 * 1e-3 })
                .collect();
            let exact: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
            let n = exact.len() as f64;
            let mean = exact.iter().sum::<f64>() / n;
            let m = |k: i32| exact.iter().map(|x| (x - mean).powi(k)).sum::<f64>() / n;
            let got = best::<Float32>(&values).moments();
            assert!((got.var / m(2) - 1.0).abs() < 1e-11, "{} {}", got.var, m(2));
            assert!((got.kurtosis + 3.0) / (m(4) / m(2).powi(2)) - 1.0 < 5e-6);
            assert!(
                (got.skewness - m(3) / m(2).powf(1.5)).abs() < 5e-6 * (1.0 + got.skewness.abs())
            );
        }
    }

    #[test]
    fn norms_of_16_bit_values_of_every_magnitude() {
        for exponent in -133..127 {
            let values: Vec<u16> = (0..5000_u16)
                .map(|i| {
                    let x = ldexp(1.0 + f64::from(i % 97) / 128.0, exponent) as f32;
                    (x.to_bits() >> 16) as u16 | i << 15
                })
                .collect();
            for tail in [&[][..], &[BFloat16::bits(0x7fc0) as u16], &[1, 0x8001]] {
                let values = [&values, tail].concat();
                let record = summarize_chunk::<BFloat16>(Kernel::PORTABLE, &values, Level::Norm);
                let decoded = values.iter().map(|&raw| BFloat16::decode_finite(raw, 0));
                let finite = decoded.filter(|x| x.abs() < 2_f64.powi(128));
                let expected = finite.map(|x| x * x).sum::<f64>().sqrt();
                assert!((record.l2() / expected - 1.0).abs() < 1e-14, "2^{exponent} {tail:?}");
            }
        }
    }

    #[test]
    fn norms_of_every_magnitude() {
        for exponent in -1074..1000 {
            let x = ldexp(1.5, exponent);
            let values = vec![x; 1000];
            let record = summarize_chunk::<Float64>(Kernel::PORTABLE, &values, Level::Norm);
            let expected = 1000_f64.sqrt() * x;
            assert!((record.l2() / expected - 1.0).abs() < 1e-12 || x < 1e-300, "2^{exponent}");
            assert_eq!(record.count(), 1000);
        }
    }
}
