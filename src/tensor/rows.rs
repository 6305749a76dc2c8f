//! Records made of the sums of chunks that were read elsewhere: on a GPU.

use super::dtype::{DType, Float, Float32};
use super::histogram::ExponentHistogram;
use super::level::Level;
use super::moments::{Finite, Moments};
use super::record::TensorStats;
use crate::error::{Error, Result};

/// What was summed over the finite values x of one chunk.
#[derive(Debug, Clone, Copy)]
pub struct ChunkRow {
    /// The number of finite values.
    pub count: u64,
    /// The smallest of them.
    pub min: f64,
    /// The largest of them.
    pub max: f64,
    /// A number near their mean.
    pub center: f64,
    /// Sums of (x - center)^j for j from 1 to 4.
    pub powers: [f64; 4],
    /// Sum of |x|.
    pub l1: f64,
}

/// Exact counts over all chunks of a tensor.
#[derive(Debug, Clone)]
pub struct Counts<'a> {
    /// Zeros of either sign.
    pub zero: u64,
    /// NaN.
    pub nan: u64,
    /// +Inf.
    pub posinf: u64,
    /// -Inf.
    pub neginf: u64,
    /// floor(log2 |x|), the smallest subnormal number of f32 first.
    pub exponents: &'a [u64],
}

impl TensorStats {
    /// The record of a tensor of a type not wider than f32.
    ///
    /// # Errors
    /// [`crate::error::Error::State`] if no data can have led to these sums and counts.
    pub fn from_rows(dtype: DType, rows: &[ChunkRow], counts: &Counts<'_>) -> Result<Self> {
        let mut record = Self::empty(Some(dtype), Level::Full);
        record.nan_count = counts.nan;
        record.posinf_count = counts.posinf;
        record.neginf_count = counts.neginf;
        record.histogram = ExponentHistogram::new(Float32::MIN_EXPONENT, counts.exponents);
        record.subnormal_count =
            dtype.first_normal_exponent().map_or(0, |first| record.histogram.total_below(first));
        for row in rows.iter().filter(|row| row.count > 0) {
            record.finite.add(&Finite::One(Moments {
                count: row.count,
                min: row.min + 0.0, // a zero is never negative
                max: row.max + 0.0,
                unit: 0,
                center: row.center,
                powers: row.powers,
                l1: row.l1,
            }));
        }
        if record.finite_count() != counts.zero.saturating_add(record.histogram.total()) {
            let (finite, zero) = (record.finite_count(), counts.zero);
            let message = format!("{finite} finite values, {zero} zeros and other exponents");
            return Err(Error::State(message));
        }
        Self::from_state(&record.state())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{TensorView, summarize};

    #[test]
    fn rows_of_chunks_make_the_record_of_the_whole() {
        let row = |values: &[f32]| {
            let sum = |k: i32| values.iter().map(|&x| f64::from(x).powi(k)).sum();
            ChunkRow {
                count: values.len() as u64,
                min: values.iter().copied().fold(f32::INFINITY, f32::min).into(),
                max: values.iter().copied().fold(f32::NEG_INFINITY, f32::max).into(),
                center: 0.0,
                powers: [1, 2, 3, 4].map(sum),
                l1: values.iter().map(|&x| f64::from(x.abs())).sum(),
            }
        };
        let parts: [&[f32]; 2] = [&[1.0, -2.0, 0.0], &[3.0, 0.5]];
        let mut exponents = vec![0; 277];
        for x in parts.concat().iter().filter(|x| **x != 0.0) {
            exponents[(x.abs().log2().floor() as i32 - Float32::MIN_EXPONENT) as usize] += 1;
        }
        let counts = Counts { zero: 1, nan: 1, posinf: 0, neginf: 2, exponents: &exponents };
        let rows = parts.map(row);
        let got = TensorStats::from_rows(DType::Float32, &rows, &counts).unwrap();
        let infinity = f32::NEG_INFINITY;
        let all = [1.0, -2.0, 0.0, 3.0, 0.5, f32::NAN, infinity, infinity];
        let expected = summarize(&TensorView::from(&all[..]), Level::Full);
        assert_eq!(got.count(), expected.count());
        assert_eq!(got.zero_count(), 1);
        assert_eq!(got.exponent_histogram(), expected.exponent_histogram());
        assert_eq!(got.l2(), expected.l2());
        assert!((got.moments().kurtosis - expected.moments().kurtosis).abs() < 1e-14);

        let few = Counts { exponents: &exponents[..100], ..counts.clone() };
        assert!(TensorStats::from_rows(DType::Float32, &rows, &few).is_err());
        let more = Counts { zero: 2, ..counts };
        assert!(TensorStats::from_rows(DType::Float32, &rows, &more).is_err());
    }
}
