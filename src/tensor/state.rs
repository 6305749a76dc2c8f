//! A record as plain values, to be stored and read back.

use super::dtype::{BFloat16, DType, Float, Float8E4M3, Float8E5M2, Float16, Float32, Float64};
use super::histogram::ExponentHistogram;
use super::moments::Moments;
use super::power::{exponent, ldexp, scale};
use super::record::TensorStats;
use crate::error::{Error, Result};

/// The plain values that make up a [`TensorStats`].
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are the statistics of the same names")]
pub struct State {
    pub dtype: Option<DType>,
    pub count: u64,
    pub nan_count: u64,
    pub posinf_count: u64,
    pub neginf_count: u64,
    pub zero_count: u64,
    pub subnormal_count: u64,
    pub min: f64,
    pub max: f64,
    /// The sums of the j-th powers are in units of 2^(j scale).
    pub scale: i32,
    pub sum: f64,
    pub l1: f64,
    pub m2: f64,
    pub m3: f64,
    pub m4: f64,
    /// The exponent of the first of `exponent_counts`.
    pub first_exponent: i32,
    pub exponent_counts: Vec<u64>,
}

/// The largest count that a state may hold: what every reader of JSON knows exactly.
const MAX_COUNT: u64 = 1 << 53;

impl TensorStats {
    /// The plain values of this record.
    pub fn state(&self) -> State {
        let moments = &self.moments;
        State {
            dtype: self.dtype,
            count: self.count(),
            nan_count: self.nan_count,
            posinf_count: self.posinf_count,
            neginf_count: self.neginf_count,
            zero_count: self.zero_count(),
            subnormal_count: self.subnormal_count,
            min: self.min(),
            max: self.max(),
            scale: moments.scale(),
            sum: moments.sum,
            l1: moments.l1,
            m2: moments.m2,
            m3: moments.m3,
            m4: moments.m4,
            first_exponent: self.histogram.first(),
            exponent_counts: self.histogram.counts().to_vec(),
        }
    }

    /// The record that had these plain values, bit by bit.
    ///
    /// # Errors
    /// [`Error::State`] if no data can have led to these values.
    pub fn from_state(state: &State) -> Result<Self> {
        state.check_histogram()?;
        let histogram = ExponentHistogram::new(state.first_exponent, &state.exponent_counts);
        let finite_count = state.check_counts(&histogram)?;
        state.check_extent(&histogram, finite_count)?;
        state.check_sums(finite_count)?;
        let nothing = Moments::NOTHING;
        let (min, max) = match finite_count {
            0 => (nothing.min, nothing.max),
            _ => (state.min + 0.0, state.max + 0.0), // a zero is never negative
        };
        Ok(Self {
            dtype: state.dtype,
            nan_count: state.nan_count,
            posinf_count: state.posinf_count,
            neginf_count: state.neginf_count,
            subnormal_count: state.subnormal_count,
            moments: Moments {
                count: finite_count,
                min,
                max,
                sum: state.sum,
                l1: state.l1,
                m2: state.m2,
                m3: state.m3,
                m4: state.m4,
            },
            histogram,
        })
    }
}

impl State {
    fn check_histogram(&self) -> Result<()> {
        let bins = i32::try_from(self.exponent_counts.len()).unwrap_or(i32::MAX);
        let last = self.first_exponent.saturating_add(bins).saturating_sub(1);
        let range = ExponentHistogram::RANGE;
        check(bins == 0 || range.contains(&self.first_exponent) && range.contains(&last), || {
            format!("the histogram spans {}..={last}", self.first_exponent)
        })
    }

    /// The number of finite values, if the counts agree.
    fn check_counts(&self, histogram: &ExponentHistogram) -> Result<u64> {
        let parts = [
            ("nan_count", self.nan_count),
            ("posinf_count", self.posinf_count),
            ("neginf_count", self.neginf_count),
            ("zero_count", self.zero_count),
            ("the histogram", histogram.total()),
        ];
        for (name, n) in parts {
            check(n <= MAX_COUNT, || format!("{name} is {n}, more than 2^53"))?;
        }
        let sum: u64 = parts.iter().map(|(_, n)| n).sum();
        check(sum == self.count && sum <= MAX_COUNT, || {
            format!("count is {}, its parts add up to {sum}", self.count)
        })?;
        check(self.dtype.is_some() || sum == 0, || "values without a dtype".into())?;
        let (first_normal, span) = match self.dtype {
            None | Some(DType::Float64) => bounds::<Float64>(),
            Some(DType::Float32) => bounds::<Float32>(),
            Some(DType::Float16) => bounds::<Float16>(),
            Some(DType::BFloat16) => bounds::<BFloat16>(),
            Some(DType::Float8E4M3) => bounds::<Float8E4M3>(),
            Some(DType::Float8E5M2) => bounds::<Float8E5M2>(),
            Some(DType::Mixed) => (1 - Float8E4M3::BIAS, ExponentHistogram::RANGE),
        };
        let below = histogram.total_below(first_normal);
        let possible = match self.dtype {
            Some(DType::Mixed) => self.subnormal_count <= below,
            _ => self.subnormal_count == below,
        };
        check(possible, || {
            format!("subnormal_count is {}, the histogram has {below}", self.subnormal_count)
        })?;
        check(
            histogram
                .last()
                .is_none_or(|last| span.contains(&last) && span.contains(&histogram.first())),
            || "the histogram holds what the dtype cannot".into(),
        )?;
        Ok(self.zero_count + histogram.total())
    }

    fn check_extent(&self, histogram: &ExponentHistogram, finite_count: u64) -> Result<()> {
        let (min, max) = (self.min, self.max);
        let possible = if finite_count == 0 {
            min.is_nan() && max.is_nan()
        } else {
            let absmax = max.max(-min);
            min.is_finite()
                && max.is_finite()
                && min <= max
                && (self.zero_count == 0 || min <= 0.0 && 0.0 <= max)
                && match histogram.last() {
                    None => absmax == 0.0,
                    // Made on a thread where the processor takes subnormal numbers for zero.
                    Some(last) if absmax == 0.0 => last < 1 - Float64::BIAS,
                    Some(last) => exponent(absmax) == last,
                }
                && (min.max(-max) <= 0.0 || exponent(min.max(-max)) == histogram.first())
        };
        check(possible, || format!("min {min} and max {max} do not fit the histogram"))?;
        let expected = if finite_count == 0 { 0 } else { scale(max.max(-min)) };
        check(self.scale == expected, || format!("scale is {}, not {expected}", self.scale))
    }

    fn check_sums(&self, finite_count: u64) -> Result<()> {
        let [sum, l1, m2, m3, m4] = [self.sum, self.l1, self.m2, self.m3, self.m4];
        let n = finite_count as f64;
        // No value is further from the mean than this, which is twice what it might be at most:
        // room for rounding, and a bound that keeps every later merge within the range of f64.
        let far = if finite_count == 0 { 0.0 } else { self.reach() };
        let possible = sum.abs() <= l1
            && l1 <= n * far
            && (0.0..=n * far.powi(2)).contains(&m2)
            && m3.abs() <= n * far.powi(3)
            && (0.0..=n * far.powi(4)).contains(&m4)
            && (self.min < self.max || [m2, m3, m4] == [0.0; 3]);
        check(possible, || format!("moments ({sum}, {l1}, {m2}, {m3}, {m4}) that no data has"))
    }

    /// Four times the largest magnitude, in units of 2^scale.
    fn reach(&self) -> f64 {
        ldexp(self.max.max(-self.min), 2 - self.scale)
    }
}

/// The smallest exponent of a normal number, and all exponents.
fn bounds<F: Float>() -> (i32, std::ops::RangeInclusive<i32>) {
    (1 - F::BIAS, F::MIN_EXPONENT..=F::MAX_EXPONENT)
}

fn check(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::State(message())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::{TensorView, summarize};

    fn state() -> State {
        summarize(&TensorView::from(&[0.0_f32, -1.5, 3.0, 1e-40, f32::NAN][..])).state()
    }

    proptest! {
        #[test]
        fn every_record_comes_back(bits in prop::collection::vec(any::<u64>(), 0..50)) {
            let values: Vec<f64> = bits.iter().map(|&b| f64::from_bits(b)).collect();
            let record = summarize(&TensorView::from(&values[..]));
            prop_assert_eq!(TensorStats::from_state(&record.state()), Ok(record.clone()));
            let narrow: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b as u32)).collect();
            let merged = record.merge(&summarize(&TensorView::from(&narrow[..])));
            prop_assert_eq!(TensorStats::from_state(&merged.state()), Ok(merged));
        }

        #[test]
        fn no_state_panics(
            counts in prop::collection::vec(prop_oneof![0..4_u64, any::<u64>()], 6),
            floats in prop::collection::vec(prop_oneof![-4.0..4.0, any::<f64>()], 7),
            scale: i32,
            first_exponent: i32,
            exponent_counts in prop::collection::vec(any::<u64>(), 0..4),
        ) {
            let state = State {
                dtype: Some(DType::Float64),
                count: counts[0],
                nan_count: counts[1],
                posinf_count: counts[2],
                neginf_count: counts[3],
                zero_count: counts[4],
                subnormal_count: counts[5],
                min: floats[0],
                max: floats[1],
                scale,
                sum: floats[2],
                l1: floats[3],
                m2: floats[4],
                m3: floats[5],
                m4: floats[6],
                first_exponent,
                exponent_counts,
            };
            if let Ok(record) = TensorStats::from_state(&state) {
                prop_assert_eq!(TensorStats::from_state(&record.state()), Ok(record));
            }
        }
    }

    #[test]
    fn values_that_no_data_has_are_refused() {
        type Change = fn(&mut State);
        let changes: [(&str, Change); 20] = [
            ("count", |s| s.count += 1),
            ("parts", |s| s.nan_count += 1),
            ("2^53", |s| s.posinf_count = u64::MAX),
            ("dtype", |s| s.dtype = None),
            ("subnormal_count", |s| s.subnormal_count = 0),
            ("dtype cannot", |s| s.dtype = Some(DType::Float16)),
            ("spans", |s| s.first_exponent = i32::MAX),
            ("spans", |s| s.first_exponent = -1075),
            ("histogram", |s| s.first_exponent -= 1),
            ("min", |s| s.min = f64::NAN),
            ("min", |s| s.min = 0.5),
            ("max", |s| s.max = 4.0),
            ("scale", |s| s.scale = 1),
            ("moments", |s| s.sum = f64::NAN),
            ("moments", |s| s.sum = -5.0),
            ("moments", |s| s.l1 = f64::INFINITY),
            ("moments", |s| s.m2 = -1.0),
            ("moments", |s| s.m2 = 1e9),
            ("moments", |s| s.m3 = 1e9),
            ("moments", |s| s.m4 = f64::NAN),
        ];
        for (part, change) in changes {
            let mut state = state();
            change(&mut state);
            let message = TensorStats::from_state(&state).unwrap_err().to_string();
            assert!(message.starts_with("state: ") && message.contains(part), "{part}: {message}");
        }
    }
}
