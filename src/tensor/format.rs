//! What a cast to a narrower format would lose, told from the exponent histogram.

use std::str::FromStr;

use super::dtype::{BFloat16, Float, Float16, Float32};
use super::level::Level;
use super::power::{exponent, ldexp};
use super::record::TensorStats;
use crate::error::{Error, Result};

/// A format that a tensor might be cast to, rounding to nearest, ties to even.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Format {
    name: &'static str,
    /// Exponent of the smallest subnormal number.
    min_exponent: i32,
    /// The smallest magnitude that becomes infinite, or NaN where the format has no infinity.
    overflow: f64,
}

/// The smallest magnitude that an IEEE-like format rounds to infinity: halfway between its largest
/// number and the power of two that would come next. A tie, which goes up since the mantissa of the
/// largest number is odd.
const fn ieee_overflow(precision: u32, power: f64) -> f64 {
    power * (1.0 - 1.0 / (1_u64 << (precision + 1)) as f64)
}

const TWO_TO_128: f64 = (1_u128 << 127) as f64 * 2.0;

impl Format {
    /// Every known format.
    pub const ALL: [Self; 5] = [
        Self {
            name: "float16",
            min_exponent: Float16::MIN_EXPONENT,
            overflow: ieee_overflow(11, 65_536.0),
        },
        Self {
            name: "bfloat16",
            min_exponent: BFloat16::MIN_EXPONENT,
            overflow: ieee_overflow(8, TWO_TO_128),
        },
        Self {
            name: "float32",
            min_exponent: Float32::MIN_EXPONENT,
            overflow: ieee_overflow(24, TWO_TO_128),
        },
        // The largest number, 448, has an even mantissa: 464, halfway to the next, goes down.
        Self { name: "float8_e4m3fn", min_exponent: -9, overflow: 464.0_f64.next_up() },
        Self { name: "float8_e5m2", min_exponent: -16, overflow: ieee_overflow(3, 65_536.0) },
    ];
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.name == name).ok_or_else(|| {
            let names = Self::ALL.map(|format| format!("\"{}\"", format.name));
            Error::value("fmt", format!("one of {}", names.join(", ")), format!("{name:?}"))
        })
    }
}

impl TensorStats {
    /// The share of the finite values other than zero that become zero in `format`; 0 if there is
    /// no such value, NaN below [`Level::Full`].
    ///
    /// With s the smallest subnormal number of the format, values below s/2 become zero and values
    /// above it do not. Both sides are whole bins, so the count is exact but for values of exactly
    /// s/2, which become zero (ties to even): they share a bin with values up to s, and count as
    /// kept unless s/2 is the largest magnitude of all.
    pub fn underflow_fraction(&self, format: Format) -> f64 {
        if self.level() < Level::Full {
            return f64::NAN;
        }
        let total = self.histogram.total();
        let half = format.min_exponent - 1;
        let lost = if self.finite.absmax() == ldexp(1.0, half) {
            total
        } else {
            self.histogram.total_below(half)
        };
        if total == 0 { 0.0 } else { lost as f64 / total as f64 }
    }

    /// The share of the finite values that `format` cannot hold after rounding: they become
    /// infinite, or NaN in `float8_e4m3fn`; 0 if there is no finite value, NaN below [`Level::Full`].
    ///
    /// Exactly 0 if the largest magnitude fits, and exact outside the bin of the format's largest
    /// number. The values in that bin are taken to lie evenly on the logarithmic scale, from its
    /// lower edge up to the upper one or the largest magnitude of all.
    pub fn overflow_fraction(&self, format: Format) -> f64 {
        if self.level() < Level::Full {
            return f64::NAN;
        }
        if self.finite_count() == 0 || self.finite.absmax() < format.overflow {
            return 0.0;
        }
        let boundary = exponent(format.overflow);
        let above = self.histogram.total() - self.histogram.total_below(boundary + 1);
        let (low, high) = self.bin_edges(boundary);
        let share = if format.overflow <= low {
            1.0
        } else {
            (high / format.overflow).log2() / (high / low).log2()
        };
        let mut within = share * self.histogram.count(boundary) as f64;
        if above == 0 {
            within = within.max(1.0); // the largest magnitude is one of them
        }
        (above as f64 + within) / self.finite_count() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{TensorView, summarize};

    fn of(values: &[f64]) -> TensorStats {
        summarize(&TensorView::from(values), Level::Full)
    }

    fn format(name: &str) -> Format {
        name.parse().unwrap()
    }

    #[test]
    fn thresholds_are_those_of_the_formats() {
        for (name, overflow) in [
            ("float16", 65_520.0),
            ("float8_e5m2", 61_440.0),
            ("float32", 3.402_823_567_797_336_6e38),
            ("bfloat16", 3.396_177_5e38_f32.into()),
        ] {
            assert_eq!(format(name).overflow, overflow, "{name}");
        }
    }

    #[test]
    fn values_just_beyond_and_just_within_each_format() {
        for format in Format::ALL {
            assert_eq!(of(&[format.overflow]).overflow_fraction(format), 1.0, "{}", format.name);
            assert_eq!(of(&[format.overflow.next_down()]).overflow_fraction(format), 0.0);
            let half = ldexp(1.0, format.min_exponent - 1);
            assert_eq!(of(&[half]).underflow_fraction(format), 1.0, "{}", format.name);
            assert_eq!(of(&[half.next_down(), 1.0]).underflow_fraction(format), 0.5);
            assert_eq!(of(&[half.next_up()]).underflow_fraction(format), 0.0);
        }
    }

    #[test]
    fn nothing_is_lost_of_nothing() {
        for format in Format::ALL {
            let zeros = of(&[0.0, f64::INFINITY]);
            assert_eq!(
                (zeros.underflow_fraction(format), zeros.overflow_fraction(format)),
                (0.0, 0.0)
            );
        }
    }

    #[test]
    fn unknown_formats_are_named() {
        let message = "float12".parse::<Format>().unwrap_err().to_string();
        assert!(message.contains("fmt") && message.contains("\"float12\""), "{message}");
    }
}
