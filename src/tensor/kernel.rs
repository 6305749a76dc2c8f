//! The portable kernel: one chunk of values in, its record out.
//!
//! [`summarize_chunk`] is the only door. A kernel for one instruction set takes its place for the
//! types that it knows, and gives the same counts; its moments may differ in the last bits.

use super::dtype::Float;
use super::histogram::ExponentHistogram;
use super::moments::Moments;
use super::power::ldexp;
use super::record::TensorStats;

/// Values decoded at once. Their f64 copies take 16 KB, which stays in the first-level cache while
/// it is read for the mean and then for the moments about it.
const BLOCK: usize = 2048;

/// Accumulators side by side, so that the compiler can keep them in vector registers.
const LANES: usize = 8;

/// Counters of one bin side by side: increments of the same counter would wait for each other.
const COUNTERS: usize = 4;

/// Counts of bit patterns over one chunk.
struct Tally<F: Float> {
    /// By exponent field.
    fields: Vec<[u32; COUNTERS]>,
    /// Subnormal numbers by the position of their highest mantissa bit.
    subnormals: Vec<u64>,
    nan: u64,
    posinf: u64,
    neginf: u64,
    float: std::marker::PhantomData<F>,
}

impl<F: Float> Tally<F> {
    fn new() -> Self {
        Self {
            fields: vec![[0; COUNTERS]; F::FIELDS],
            subnormals: vec![0; F::MANTISSA_BITS as usize],
            nan: 0,
            posinf: 0,
            neginf: 0,
            float: std::marker::PhantomData,
        }
    }

    /// Counts the exponent fields of a block; true if all its values are zero or normal numbers.
    fn add(&mut self, block: &[F::Raw]) -> bool {
        let fields = &mut self.fields[..F::FIELDS];
        let unusual = |fields: &[[u32; COUNTERS]]| {
            fields[0].iter().chain(&fields[F::FIELDS - 1]).copied().fold(0, u32::wrapping_add)
        };
        let before = unusual(fields);
        // A chunk is far too small for a count to wrap; the checked addition would cost a branch.
        let (groups, rest) = block.as_chunks::<COUNTERS>();
        for group in groups {
            for (counter, &raw) in group.iter().enumerate() {
                let count = &mut fields[F::field(raw)][counter];
                *count = count.wrapping_add(1);
            }
        }
        for &raw in rest {
            let count = &mut fields[F::field(raw)][0];
            *count = count.wrapping_add(1);
        }
        unusual(fields) == before || block.iter().all(|&raw| is_plain::<F>(raw))
    }

    fn histogram(&self) -> ExponentHistogram {
        let normal = &self.fields[1..F::FIELDS - 1];
        let normal = normal.iter().map(|bin| bin.iter().copied().map(u64::from).sum());
        let counts: Vec<u64> = self.subnormals.iter().copied().chain(normal).collect();
        ExponentHistogram::new(F::MIN_EXPONENT, &counts)
    }
}

/// The record of one chunk.
pub(super) fn summarize_chunk<F: Float>(values: &[F::Raw]) -> TensorStats {
    let mut tally = Tally::<F>::new();
    let mut moments = Moments::NOTHING;
    let mut decoded = Vec::with_capacity(BLOCK.min(values.len()));
    for block in values.chunks(BLOCK) {
        decoded.clear();
        if tally.add(block) {
            decoded.extend(block.iter().map(|&raw| F::decode(raw)));
        } else {
            decode_finite(block, &mut tally, &mut decoded);
        }
        moments = moments.merge(&block_moments(&mut decoded));
    }
    TensorStats {
        dtype: Some(F::DTYPE),
        nan_count: tally.nan,
        posinf_count: tally.posinf,
        neginf_count: tally.neginf,
        subnormal_count: tally.subnormals.iter().sum(),
        histogram: tally.histogram(),
        moments,
    }
}

/// Whether a value is zero or a normal number.
fn is_plain<F: Float>(raw: F::Raw) -> bool {
    match F::field(raw) {
        0 => F::mantissa(raw) == 0,
        field => field < F::FIELDS - 1,
    }
}

/// Decodes the finite values of a block and counts the others, and the subnormal numbers.
///
/// Those are built from integers: processors are slow to read them as floating-point numbers, and
/// read them as zero on a thread where a framework has asked for that.
fn decode_finite<F: Float>(block: &[F::Raw], tally: &mut Tally<F>, decoded: &mut Vec<f64>) {
    let unit = ldexp(1.0, F::MIN_EXPONENT);
    for &raw in block {
        let mantissa = F::mantissa(raw);
        match F::field(raw) {
            0 => {
                if let Some(bit) = mantissa.checked_ilog2() {
                    tally.subnormals[bit as usize] += 1;
                }
                let magnitude = mantissa as f64 * unit;
                decoded.push(if F::is_negative(raw) { -magnitude } else { magnitude });
            }
            field if field < F::FIELDS - 1 => decoded.push(F::decode(raw)),
            _ if mantissa != 0 => tally.nan += 1,
            _ if F::is_negative(raw) => tally.neginf += 1,
            _ => tally.posinf += 1,
        }
    }
}

/// The moments of one block of finite values, which are brought to scale in place.
fn block_moments(values: &mut [f64]) -> Moments {
    if values.is_empty() {
        return Moments::NOTHING;
    }
    let mut block = extent_and_sums(values);
    let scale = block.scale();
    if scale != 0 {
        for x in &mut *values {
            *x = ldexp(*x, -scale);
        }
        let scaled = extent_and_sums(values);
        (block.sum, block.l1) = (scaled.sum, scaled.l1);
    }
    if block.min < block.max {
        (block.m2, block.m3, block.m4) = central_moments(values, block.center(scale));
    }
    block
}

fn extent_and_sums(values: &[f64]) -> Moments {
    let mut min = [f64::INFINITY; LANES];
    let mut max = [f64::NEG_INFINITY; LANES];
    let mut sum = [0.0; LANES];
    let mut l1 = [0.0; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            let x = group[lane];
            min[lane] = if x < min[lane] { x } else { min[lane] };
            max[lane] = if x > max[lane] { x } else { max[lane] };
            sum[lane] += x;
            l1[lane] += x.abs();
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        min[lane] = if x < min[lane] { x } else { min[lane] };
        max[lane] = if x > max[lane] { x } else { max[lane] };
        sum[lane] += x;
        l1[lane] += x.abs();
    }
    Moments {
        count: values.len() as u64,
        // Adding zero turns -0.0 into 0.0: which of the two came first must not show.
        min: min.into_iter().fold(f64::INFINITY, f64::min) + 0.0,
        max: max.into_iter().fold(f64::NEG_INFINITY, f64::max) + 0.0,
        sum: sum.iter().sum(),
        l1: l1.iter().sum(),
        ..Moments::NOTHING
    }
}

fn central_moments(values: &[f64], mean: f64) -> (f64, f64, f64) {
    let mut m2 = [0.0; LANES];
    let mut m3 = [0.0; LANES];
    let mut m4 = [0.0; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            let d = group[lane] - mean;
            let d2 = d * d;
            m2[lane] += d2;
            m3[lane] += d2 * d;
            m4[lane] += d2 * d2;
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        let d = x - mean;
        let d2 = d * d;
        m2[lane] += d2;
        m3[lane] += d2 * d;
        m4[lane] += d2 * d2;
    }
    (m2.iter().sum(), m3.iter().sum(), m4.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::dtype::{BFloat16, DType, Float16, Float32, Float64};
    use crate::tensor::power::exponent;

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
}
