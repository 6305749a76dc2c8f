//! The portable kernel: one chunk of values in, its record out.
//!
//! [`summarize_chunk`] is the only door. A kernel for one instruction set takes its place for the
//! types that it knows, and gives the same counts; its moments may differ in the last bits.

use std::marker::PhantomData;

use super::dtype::Float;
use super::histogram::ExponentHistogram;
use super::moments::Moments;
use super::power::{exponent, ldexp};
use super::record::TensorStats;

/// Values decoded at once. Their f64 copies take 16 KB, which stays in the first-level cache while
/// it is read for the mean and then for the moments about it.
const BLOCK: usize = 2048;

/// Counters of one bin side by side: increments of the same counter would wait for each other.
const COUNTERS: usize = 4;

/// The record of one chunk.
pub(super) fn summarize_chunk<F: Float>(values: &[F::Raw]) -> TensorStats {
    let mut tally = Tally::<F>::new();
    let mut moments = Moments::NOTHING;
    let mut finite = Vec::with_capacity(BLOCK.min(values.len()));
    for block in values.chunks(BLOCK) {
        finite.clear();
        match tally.add(block) {
            Kind::Plain => finite.extend(block.iter().map(|&raw| F::decode(raw))),
            Kind::Subnormal => finite.extend(block.iter().map(|&raw| F::decode_subnormal(raw))),
            Kind::NotFinite => finite.extend(
                block.iter().map(|&raw| F::decode_subnormal(raw)).filter(|x| x.is_finite()),
            ),
        }
        moments = moments.merge(&block_moments::<F>(&mut finite));
    }
    TensorStats {
        dtype: Some(F::DTYPE),
        nan_count: tally.nan,
        posinf_count: tally.posinf,
        neginf_count: tally.neginf,
        subnormal_count: tally.subnormals.iter().sum(),
        histogram: tally.histogram(&moments),
        moments,
    }
}

/// What a block of values holds.
enum Kind {
    /// Zeros and normal numbers only.
    Plain,
    /// Subnormal numbers too.
    Subnormal,
    /// NaN or infinities, perhaps subnormal numbers.
    NotFinite,
}

/// Counts of bit patterns over one chunk.
struct Tally<F: Float> {
    /// By exponent field.
    fields: Vec<[u32; COUNTERS]>,
    /// Subnormal numbers by the position of their highest mantissa bit.
    subnormals: Vec<u64>,
    nan: u64,
    posinf: u64,
    neginf: u64,
    float: PhantomData<F>,
}

impl<F: Float> Tally<F> {
    fn new() -> Self {
        Self {
            fields: vec![[0; COUNTERS]; F::FIELDS],
            subnormals: vec![0; F::MANTISSA_BITS as usize],
            nan: 0,
            posinf: 0,
            neginf: 0,
            float: PhantomData,
        }
    }

    fn add(&mut self, block: &[F::Raw]) -> Kind {
        let before = self.unusual();
        self.count_fields(block);
        let after = self.unusual();
        let subnormal = before.0 != after.0 && self.count_subnormals(block);
        if before.1 != after.1 {
            self.count_not_finite(block);
            Kind::NotFinite
        } else if subnormal {
            Kind::Subnormal
        } else {
            Kind::Plain
        }
    }

    /// How often the first field came, which means zero or subnormal, and the last, NaN or Inf.
    fn unusual(&self) -> (u32, u32) {
        let count = |field: usize| self.fields[field].into_iter().fold(0, u32::wrapping_add);
        (count(0), count(F::FIELDS - 1))
    }

    fn count_fields(&mut self, block: &[F::Raw]) {
        let fields = &mut self.fields[..F::FIELDS];
        // A chunk is far too small for a count to wrap; a checked addition would cost a branch.
        let mut count = |raw, counter: usize| {
            let count = &mut fields[F::field(raw)][counter];
            *count = count.wrapping_add(1);
        };
        let (groups, rest) = block.as_chunks::<COUNTERS>();
        for group in groups {
            for (counter, &raw) in group.iter().enumerate() {
                count(raw, counter);
            }
        }
        for &raw in rest {
            count(raw, 0);
        }
    }

    /// Whether there is a subnormal number.
    fn count_subnormals(&mut self, block: &[F::Raw]) -> bool {
        let is_subnormal = |&raw: &F::Raw| F::field(raw) == 0 && F::mantissa(raw) != 0;
        if !block.iter().fold(false, |any, raw| any | is_subnormal(raw)) {
            return false;
        }
        for &raw in block.iter().filter(|raw| is_subnormal(raw)) {
            self.subnormals[F::mantissa(raw).ilog2() as usize] += 1;
        }
        true
    }

    fn count_not_finite(&mut self, block: &[F::Raw]) {
        for &raw in block.iter().filter(|&&raw| F::field(raw) == F::FIELDS - 1) {
            match (F::mantissa(raw), F::is_negative(raw)) {
                (0, false) => self.posinf += 1,
                (0, true) => self.neginf += 1,
                _ => self.nan += 1,
            }
        }
    }

    /// The histogram of the finite values. Walks down from the largest magnitude until no value is
    /// left, since most of the bins are empty and most tensors small.
    fn histogram(&self, finite: &Moments) -> ExponentHistogram {
        let subnormals = self.subnormals.iter().sum::<u64>();
        let normals = finite.count - u64::from(self.unusual().0);
        let mut exponent = if normals > 0 {
            exponent(finite.absmax())
        } else if let Some(bit) = self.subnormals.iter().rposition(|&n| n > 0) {
            F::MIN_EXPONENT + bit as i32
        } else {
            return ExponentHistogram::default();
        };
        let mut counts = vec![self.count(exponent)];
        let mut left = normals + subnormals - counts[0];
        while left > 0 {
            exponent -= 1;
            let count = self.count(exponent);
            counts.push(count);
            left -= count;
        }
        counts.reverse();
        ExponentHistogram::new(exponent, &counts)
    }

    fn count(&self, exponent: i32) -> u64 {
        match exponent + F::BIAS {
            field @ 1.. => self.fields[field as usize].iter().copied().map(u64::from).sum(),
            _ => self.subnormals[(exponent - F::MIN_EXPONENT) as usize],
        }
    }
}

/// The moments of one block of finite values, which are brought to scale in place.
fn block_moments<F: Float>(values: &mut [f64]) -> Moments {
    if values.is_empty() {
        return Moments::NOTHING;
    }
    let (min, max) = extent(values);
    let mut block = Moments { count: values.len() as u64, min, max, ..Moments::NOTHING };
    let scale = if F::NARROW { 0 } else { block.scale() };
    if scale != 0 {
        for x in &mut *values {
            *x = ldexp(*x, -scale);
        }
    }
    (block.sum, block.l1) = sums(values);
    if min < max {
        (block.m2, block.m3, block.m4) = central_moments(values, block.center(scale));
    }
    block
}

// The number of lanes of each loop is what the registers of the smallest 64-bit processors hold.
// What is left over goes to the first lane: an index known to the compiler keeps lanes in registers.

/// The smallest and the largest value.
fn extent(values: &[f64]) -> (f64, f64) {
    const LANES: usize = 8;
    let mut min = [f64::INFINITY; LANES];
    let mut max = [f64::NEG_INFINITY; LANES];
    let mut add = |lane: usize, x: f64| {
        min[lane] = if x < min[lane] { x } else { min[lane] };
        max[lane] = if x > max[lane] { x } else { max[lane] };
    };
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, &x) in group.iter().enumerate() {
            add(lane, x);
        }
    }
    for &x in rest {
        add(0, x);
    }
    let min = min.into_iter().fold(f64::INFINITY, f64::min);
    let max = max.into_iter().fold(f64::NEG_INFINITY, f64::max);
    (min + 0.0, max + 0.0) // turns -0.0 into 0.0: which of the two came first must not show
}

/// Sum of x, sum of |x|.
fn sums(values: &[f64]) -> (f64, f64) {
    const LANES: usize = 8;
    let mut sum = [0.0; LANES];
    let mut l1 = [0.0; LANES];
    let mut add = |lane: usize, x: f64| {
        sum[lane] += x;
        l1[lane] += x.abs();
    };
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, &x) in group.iter().enumerate() {
            add(lane, x);
        }
    }
    for &x in rest {
        add(0, x);
    }
    (sum.iter().sum(), l1.iter().sum())
}

/// Sums of the second, third and fourth power of the distance to the mean.
fn central_moments(values: &[f64], mean: f64) -> (f64, f64, f64) {
    const LANES: usize = 2;
    let mut m2 = [0.0; LANES];
    let mut m3 = [0.0; LANES];
    let mut m4 = [0.0; LANES];
    let mut add = |lane: usize, x: f64| {
        let d = x - mean;
        let d2 = d * d;
        m2[lane] += d2;
        m3[lane] += d2 * d;
        m4[lane] += d2 * d2;
    };
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, &x) in group.iter().enumerate() {
            add(lane, x);
        }
    }
    for &x in rest {
        add(0, x);
    }
    (m2.iter().sum(), m3.iter().sum(), m4.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::dtype::{BFloat16, DType, Float16, Float32, Float64};

    /// One value after the other, by the definitions.
    fn check<F: Float>(values: &[F::Raw]) {
        let record = summarize_chunk::<F>(values);
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
        assert!((record.l1() / absmax - l1).abs() <= 1e-12 * l1, "{}", F::DTYPE);
        let l2 = finite.iter().map(|x| (x / absmax).powi(2)).sum::<f64>().sqrt();
        assert!((record.l2() / absmax - l2).abs() <= 1e-12 * l2, "{}", F::DTYPE);
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
        let record = summarize_chunk::<Float32>(&[]);
        assert_eq!(record, TensorStats::empty(Some(DType::Float32)));
    }

    #[test]
    fn moments_of_one_to_n() {
        for n in [2, 3, 7, 2048, 2049, 60_001] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            let stats = summarize_chunk::<Float64>(&values);
            let n = f64::from(n);
            let close = |got: f64, expected: f64| {
                assert!(
                    (got - expected).abs() <= 1e-12 * expected.abs().max(1.0),
                    "{got} {expected}"
                );
            };
            assert_eq!(stats.sum(), n * (n + 1.0) / 2.0);
            close(stats.var(), (n * n - 1.0) / 12.0);
            close(stats.l2(), (n * (n + 1.0) * (2.0 * n + 1.0) / 6.0).sqrt());
            close(stats.skewness(), 0.0);
            close(stats.kurtosis(), -1.2 * (n * n + 1.0) / (n * n - 1.0));
        }
    }

    #[test]
    fn the_unit_of_the_data_does_not_matter() {
        let values: Vec<f64> = (0..5000).map(|i| f64::from((i * 37) % 101) - 20.0).collect();
        let expected = summarize_chunk::<Float64>(&values);
        for k in [-1050, -900, -201, 201, 900, 1010] {
            let scaled: Vec<f64> = values.iter().map(|&x| ldexp(x, k)).collect();
            let got = summarize_chunk::<Float64>(&scaled);
            assert_eq!(got.std(), ldexp(expected.std(), k), "2^{k}");
            assert_eq!(got.l2(), ldexp(expected.l2(), k), "2^{k}");
            assert_eq!(got.skewness(), expected.skewness(), "2^{k}");
            assert_eq!(got.kurtosis(), expected.kurtosis(), "2^{k}");
        }
    }
}
