//! A record as plain values, to be stored and read back.

use serde::{Deserialize, Serialize};

use super::dtype::{BFloat16, DType, Float, Float8E4M3, Float8E5M2, Float16, Float32, Float64};
use super::exact::ExactSum;
use super::histogram::ExponentHistogram;
use super::level::Level;
use super::moments::{Finite, Moments, PowerSums};
use super::power::{exponent, ldexp, scale};
use super::record::TensorStats;
use crate::error::{Error, Result};

/// The plain values that make up a [`TensorStats`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the statistics of the same names")]
pub struct State {
    pub dtype: Option<DType>,
    pub level: Level,
    pub count: u64,
    pub nan_count: u64,
    pub posinf_count: u64,
    pub neginf_count: u64,
    pub zero_count: u64,
    pub subnormal_count: u64,
    pub min: f64,
    pub max: f64,
    pub sums: Sums,
    /// The exponent of the first of `exponent_counts`.
    pub first_exponent: i32,
    pub exponent_counts: Vec<u64>,
}

/// Sums of powers of the finite values x.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Sums {
    /// Of one chunk at most.
    Chunk {
        /// The sums of the j-th power are in units of 2^(j unit).
        unit: i32,
        /// In units of 2^unit.
        center: f64,
        /// Sums of (x - center)^j for j from 1 to 4.
        powers: [f64; 4],
        /// Sum of |x|.
        l1: f64,
    },
    /// Of several chunks: sums of x^j for j from 1 to 4 and of |x| as hexadecimal floating-point
    /// numbers with all of their digits.
    Exact([String; 5]),
}

/// The largest count that a state may hold: what every reader of JSON knows exactly.
const MAX_COUNT: u64 = 1 << 53;

/// The first byte of a record in bytes.
const VERSION: u8 = 2;

impl TensorStats {
    /// The plain values of this record.
    pub fn state(&self) -> State {
        let sums = match &self.finite {
            Finite::One(Moments { unit, center, powers, l1, .. }) => {
                Sums::Chunk { unit: *unit, center: *center, powers: *powers, l1: *l1 }
            }
            Finite::Many(all) => Sums::Exact(all.sums.each_ref().map(ExactSum::to_hex)),
        };
        State {
            dtype: self.dtype,
            level: self.level,
            count: self.count(),
            nan_count: self.nan_count,
            posinf_count: self.posinf_count,
            neginf_count: self.neginf_count,
            zero_count: self.zero_count(),
            subnormal_count: self.subnormal_count,
            min: self.min(),
            max: self.max(),
            sums,
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
        Ok(Self {
            dtype: state.dtype,
            level: state.level,
            nan_count: state.nan_count,
            posinf_count: state.posinf_count,
            neginf_count: state.neginf_count,
            subnormal_count: state.subnormal_count,
            finite: state.finite(finite_count)?,
            histogram,
        })
    }

    /// The record in some hundred bytes, the same on every platform.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Writing to a vector cannot fail.
        postcard::to_extend(&self.state(), vec![VERSION]).unwrap_or_default()
    }

    /// The inverse of [`TensorStats::to_bytes`].
    ///
    /// # Errors
    /// [`Error::State`] if `bytes` hold anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong = |what: String| Error::State(format!("bytes: {what}"));
        match bytes.split_first() {
            Some((&VERSION, rest)) => {
                let (state, rest) =
                    postcard::take_from_bytes(rest).map_err(|error| wrong(error.to_string()))?;
                if !rest.is_empty() {
                    return Err(wrong(format!("{} too many", rest.len())));
                }
                Self::from_state(&state)
            }
            Some((version, _)) => Err(wrong(format!("expected version {VERSION}, got {version}"))),
            None => Err(wrong("there are none".into())),
        }
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
        if self.level < Level::Full {
            let told = self.zero_count + self.subnormal_count + histogram.total();
            check(told == 0, || format!("exponents are counted at level {}", self.level.name()))?;
            check(sum <= self.count && self.count <= MAX_COUNT, || {
                format!("count is {}, its parts add up to {sum}", self.count)
            })?;
            check(self.dtype.is_some() || self.count == 0, || "values without a dtype".into())?;
            return Ok(self.count - sum);
        }
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
        let possible = if finite_count == 0 || self.level < Level::Moments {
            min.is_nan() && max.is_nan()
        } else {
            let absmax = max.max(-min);
            min.is_finite()
                && max.is_finite()
                && min <= max
                && (self.level < Level::Full
                    || (self.zero_count == 0 || min <= 0.0 && 0.0 <= max)
                        && histogram.last().map_or(absmax == 0.0, |last| exponent(absmax) == last)
                        && (min.max(-max) <= 0.0 || exponent(min.max(-max)) == histogram.first()))
        };
        check(possible, || format!("min {min} and max {max} do not fit the histogram"))
    }

    /// The sums, if they fit the counts and the extent.
    fn finite(&self, count: u64) -> Result<Finite> {
        let nothing = Moments::NOTHING;
        let known = count > 0 && self.level >= Level::Moments;
        // A zero is never negative.
        let [min, max] =
            if known { [self.min + 0.0, self.max + 0.0] } else { [nothing.min, nothing.max] };
        let absmax = if known { max.max(-min) } else { 0.0 };
        let n = count as f64;
        match &self.sums {
            Sums::Chunk { unit, center, powers, l1 } => {
                // No value is further from the center than this, which is twice what it might be
                // at most: room for rounding.
                let far = ldexp(absmax, 2 - unit);
                let [d1, d2, d3, d4] = *powers;
                let possible = if known {
                    *unit == scale(absmax)
                        && center.abs() <= far
                        && d1.abs() <= n * far
                        && (0.0..=n * far.powi(2)).contains(&d2)
                        && d3.abs() <= n * far.powi(3)
                        && (0.0..=n * far.powi(4)).contains(&d4)
                        && (0.0..=n * far).contains(l1)
                } else {
                    let others = [*center, d1, d3, d4, *l1];
                    ExponentHistogram::RANGE.contains(unit)
                        && others == [0.0; 5]
                        && d2.is_finite()
                        && d2 >= 0.0
                        && (count > 0 || d2 == 0.0)
                };
                check(possible, || format!("sums {:?} that no data has", self.sums))?;
                let (unit, center, powers, l1) = (*unit, *center, *powers, *l1);
                Ok(Finite::One(Moments { count, min, max, unit, center, powers, l1 }))
            }
            Sums::Exact(texts) => {
                let sums = texts.each_ref().map(|text| ExactSum::from_hex(text));
                let [Some(s1), Some(s2), Some(s3), Some(s4), Some(l1)] = sums else {
                    return Err(Error::State(wrong_text(texts)()));
                };
                let unit = scale(absmax);
                let far = ldexp(absmax, 2 - unit);
                let f64_of = |j: i32, sum: &ExactSum| sum.to_f64(j * unit);
                let possible = if known {
                    f64_of(1, &s1).abs() <= 1.001 * f64_of(1, &l1) // both are rounded
                        && f64_of(1, &l1) <= n * far
                        && (0.0..=n * far.powi(2)).contains(&f64_of(2, &s2))
                        && f64_of(3, &s3).abs() <= n * far.powi(3)
                        && (0.0..=n * far.powi(4)).contains(&f64_of(4, &s4))
                } else {
                    [&s1, &s3, &s4, &l1].into_iter().all(|sum| sum.exponent().is_none())
                        && s2.to_f64(2 * s2.exponent().map_or(0, |e| e.div_euclid(2))) >= 0.0
                };
                check(possible && count > 0, wrong_text(texts))?;
                let sums = [s1, s2, s3, s4, l1];
                Ok(Finite::Many(Box::new(PowerSums::new(count, min, max, sums))))
            }
        }
    }
}

fn wrong_text(texts: &[String; 5]) -> impl FnOnce() -> String {
    move || format!("sums {texts:?} that no data has")
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
        summarize(&TensorView::from(&[0.0_f32, -1.5, 3.0, 1e-40, f32::NAN][..]), Level::Full)
            .state()
    }

    proptest! {
        #[test]
        fn every_record_comes_back(bits in prop::collection::vec(any::<u64>(), 0..50)) {
            let values: Vec<f64> = bits.iter().map(|&b| f64::from_bits(b)).collect();
            let record = summarize(&TensorView::from(&values[..]), Level::Full);
            prop_assert_eq!(TensorStats::from_state(&record.state()), Ok(record.clone()));
            let narrow: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b as u32)).collect();
            let merged = record.merge(&summarize(&TensorView::from(&narrow[..]), Level::Full));
            prop_assert_eq!(TensorStats::from_state(&merged.state()), Ok(merged.clone()));
            for level in [Level::Norm, Level::Moments] {
                let lower = merged.merge(&TensorStats::empty(None, level));
                prop_assert_eq!(TensorStats::from_state(&lower.state()), Ok(lower.clone()));
                prop_assert_eq!(TensorStats::from_bytes(&lower.to_bytes()), Ok(lower));
            }
            let bytes = merged.to_bytes();
            prop_assert_eq!(TensorStats::from_bytes(&bytes), Ok(merged));
            for n in 0..bytes.len() {
                prop_assert!(TensorStats::from_bytes(&bytes[..n]).is_err());
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), version: bool) {
            if version && let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            if let Ok(record) = TensorStats::from_bytes(&bytes) {
                prop_assert_eq!(TensorStats::from_bytes(&record.to_bytes()), Ok(record));
            }
        }

        #[test]
        fn no_damaged_bytes_panic(at in 0..200_usize, bit in 0..8_u8) {
            let mut bytes = summarize(&TensorView::from(&[1.0_f32, 2.0][..]), Level::Full).to_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1_u8 << bit;
            let _ = TensorStats::from_bytes(&bytes);
        }

        #[test]
        fn no_state_panics(
            counts in prop::collection::vec(prop_oneof![0..4_u64, any::<u64>()], 6),
            floats in prop::collection::vec(prop_oneof![-4.0..4.0, any::<f64>()], 8),
            texts in prop::collection::vec("-?0x[0-9a-f]{1,40}p-?[0-9]{1,4}", 5),
            exact: bool,
            unit: i32,
            level in prop::sample::select(vec![Level::Norm, Level::Moments, Level::Full]),
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
                level,
                min: floats[0],
                max: floats[1],
                sums: if exact {
                    Sums::Exact(std::array::from_fn(|i| texts[i].clone()))
                } else {
                    let powers = std::array::from_fn(|i| floats[i + 2]);
                    Sums::Chunk { unit, center: floats[6], powers, l1: floats[7] }
                },
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
        fn chunk(state: &mut State) -> (&mut i32, &mut f64, &mut [f64; 4], &mut f64) {
            match &mut state.sums {
                Sums::Chunk { unit, center, powers, l1 } => (unit, center, powers, l1),
                Sums::Exact(_) => panic!("expected the sums of one chunk"),
            }
        }
        let changes: [(&str, Change); 22] = [
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
            ("level", |s| s.level = Level::Moments),
            ("sums", |s| *chunk(s).0 = 1),
            ("sums", |s| *chunk(s).1 = 1e9),
            ("sums", |s| chunk(s).2[0] = f64::NAN),
            ("sums", |s| chunk(s).2[1] = -1.0),
            ("sums", |s| chunk(s).2[1] = 1e9),
            ("sums", |s| chunk(s).2[2] = 1e9),
            ("sums", |s| chunk(s).2[3] = f64::NAN),
            ("sums", |s| *chunk(s).3 = f64::INFINITY),
            ("sums", |s| s.sums = Sums::Exact(std::array::from_fn(|_| "0x1p99".into()))),
        ];
        for (part, change) in changes {
            let mut state = state();
            change(&mut state);
            let message = TensorStats::from_state(&state).unwrap_err().to_string();
            assert!(message.starts_with("state: ") && message.contains(part), "{part}: {message}");
        }
    }
}
