//! The kernel of the 8-bit types: there are so few patterns that it counts each of them.

use super::dtype::Float;
use super::histogram::ExponentHistogram;
use super::level::Level;
use super::moments::{Finite, Moments};
use super::power::exponent;
use super::record::TensorStats;

/// Counters of one pattern side by side: increments of the same counter would wait for each other.
const COUNTERS: usize = 4;

/// The record of one chunk. Its sum and its L1 are exact.
pub(super) fn summarize_chunk<F: Float<Raw = u8>>(values: &[u8], level: Level) -> TensorStats {
    let counts = count_patterns(values);
    let patterns = || {
        (0..=u8::MAX)
            .zip(counts)
            .filter(|&(_, n)| n > 0)
            .map(|(raw, n)| (raw, F::decode(raw), u64::from(n)))
    };
    let mut record = TensorStats::empty(Some(F::DTYPE), Level::Full);
    let mut exponents = [0_u64; 64];
    for (raw, x, n) in patterns() {
        if x.is_nan() {
            record.nan_count += n;
        } else if x == f64::INFINITY {
            record.posinf_count += n;
        } else if x == f64::NEG_INFINITY {
            record.neginf_count += n;
        } else if x != 0.0 {
            record.subnormal_count += if F::field(raw) == 0 { n } else { 0 };
            exponents[(exponent(x) - F::MIN_EXPONENT) as usize] += n;
        }
    }
    record.histogram = ExponentHistogram::new(F::MIN_EXPONENT, &exponents);
    let finite = patterns().map(|(_, x, n)| (x, n)).filter(|(x, _)| x.is_finite());
    record.finite = Finite::One(moments(finite));
    record.lower_to(level);
    record
}

fn count_patterns(values: &[u8]) -> [u32; 256] {
    // A chunk is far too small for a count to wrap; a checked addition would cost a branch.
    let mut counts = [[0_u32; 256]; COUNTERS];
    let mut count = |raw: u8, counter: usize| {
        let count = &mut counts[counter][usize::from(raw)];
        *count = count.wrapping_add(1);
    };
    let (groups, rest) = values.as_chunks::<COUNTERS>();
    for group in groups {
        for (counter, &raw) in group.iter().enumerate() {
            count(raw, counter);
        }
    }
    for &raw in rest {
        count(raw, 0);
    }
    std::array::from_fn(|raw| counts.iter().map(|counter| counter[raw]).sum())
}

/// The moments of finite values that come so many times each.
fn moments(values: impl Iterator<Item = (f64, u64)> + Clone) -> Moments {
    let mut moments = Moments::NOTHING;
    let mut sum = 0.0;
    for (x, n) in values.clone() {
        let x = x + 0.0; // a zero is never negative
        moments.count += n;
        moments.min = moments.min.min(x);
        moments.max = moments.max.max(x);
        moments.l1 += n as f64 * x.abs();
        sum += n as f64 * x;
    }
    if moments.count == 0 {
        return moments;
    }
    let center = sum / moments.count as f64;
    moments.center = center;
    for (x, n) in values {
        let d = x - center;
        for (sum, power) in moments.powers.iter_mut().zip([d, d * d, d * d * d, d * d * d * d]) {
            *sum += n as f64 * power;
        }
    }
    moments
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::dtype::{Float8E4M3, Float8E5M2};
    use crate::tensor::{TensorView, Values, summarize};

    /// The record of the same values in f64.
    fn check<F: Float<Raw = u8>>(values: &[u8]) {
        let decoded: Vec<f64> = values.iter().map(|&raw| F::decode(raw)).collect();
        let (got, expected) = (
            summarize_chunk::<F>(values, Level::Full),
            summarize(&decoded[..].into(), Level::Full),
        );
        assert_eq!(got.dtype(), Some(F::DTYPE));
        assert_eq!(got.count(), expected.count());
        assert_eq!(got.nan_count(), expected.nan_count());
        assert_eq!(got.posinf_count(), expected.posinf_count());
        assert_eq!(got.neginf_count(), expected.neginf_count());
        assert_eq!(got.zero_count(), expected.zero_count());
        assert_eq!(got.exponent_histogram(), expected.exponent_histogram());
        let normal = f64::powi(2.0, 1 - F::BIAS);
        let tiny = decoded.iter().filter(|x| **x != 0.0 && x.abs() < normal).count();
        assert_eq!(got.subnormal_count(), tiny as u64);
        let both = [&got, &expected];
        let [min, max] = [TensorStats::min, TensorStats::max].map(|f| both.map(f));
        assert_eq!((min[0].to_bits(), max[0].to_bits()), (min[1].to_bits(), max[1].to_bits()));
        let size = expected.absmax().max(f64::MIN_POSITIVE) * values.len() as f64;
        let close = |got: f64, expected: f64, bound: f64| {
            assert!((got - expected).abs() <= bound || got.is_nan() && expected.is_nan());
        };
        close(got.l2(), expected.l2(), 1e-12 * size);
        let (m, e) = (got.moments(), expected.moments());
        for (got, expected) in [(m.sum, e.sum), (m.l1, e.l1), (m.std, e.std)] {
            close(got, expected, 1e-12 * size);
        }
        for (got, expected) in [(m.skewness, e.skewness), (m.kurtosis, e.kurtosis)] {
            close(got, expected, 1e-9 * expected.abs().max(1.0));
        }
        assert_eq!(TensorStats::from_state(&got.state()), Ok(got));
    }

    proptest! {
        #[test]
        fn a_record_is_that_of_the_values_in_f64(values in prop::collection::vec(any::<u8>(), 0..600)) {
            check::<Float8E4M3>(&values);
            check::<Float8E5M2>(&values);
        }
    }

    #[test]
    fn every_pattern_and_few_values() {
        let all: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 16).collect();
        for values in [&all[..], &[], &[0x80], &[0x38; 5], &[0x7f, 0xff], &[0x7c]] {
            check::<Float8E4M3>(values);
            check::<Float8E5M2>(values);
        }
    }

    #[test]
    fn the_top_field_of_e4m3_holds_numbers() {
        let record = summarize(
            &TensorView::Float8E4M3(Values::Contiguous(&[0x7e, 0x78, 0x7f])),
            Level::Full,
        );
        assert_eq!((record.max(), record.min(), record.nan_count()), (448.0, 256.0, 1));
        assert_eq!(record.exponent_histogram().bins().collect::<Vec<_>>(), [(8, 2)]);
    }
}
