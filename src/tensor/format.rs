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
    /// The share of the finite values other than zero that become zero in `format` once they have
    /// been multiplied by `scale`, as a loss scaler does; 0 if there is no such value, NaN below
    /// [`Level::Full`].
    ///
    /// With s the smallest subnormal number of the format, values below s/2 become zero and values
    /// above it do not. For a scale that is a power of two, as those of loss scalers are, both sides
    /// are whole bins, so the count is exact but for values of exactly s/2, which become zero (ties
    /// to even): they share a bin with values up to s, and count as kept unless s/2 is the largest
    /// magnitude of all. For other scales the values of one bin are taken to lie evenly on the
    /// logarithmic scale.
    ///
    /// # Errors
    /// [`Error::Value`] unless `scale` is positive and finite.
    pub fn underflow_fraction(&self, format: Format, scale: f64) -> Result<f64> {
        let half = ldexp(1.0, format.min_exponent - 1) / checked(scale)?;
        if self.level() < Level::Full {
            return Ok(f64::NAN);
        }
        let total = self.histogram.total();
        if total == 0 {
            return Ok(0.0);
        }
        let lost = if self.finite.absmax() <= half {
            total as f64
        } else {
            let boundary = exponent(half);
            let within = (1.0 - self.share_above(half)) * self.histogram.count(boundary) as f64;
            self.histogram.total_below(boundary) as f64 + within
        };
        Ok(lost / total as f64)
    }

    /// The share of the finite values that `format` cannot hold after multiplication by `scale` and
    /// rounding: they become infinite, or NaN in `float8_e4m3fn`; 0 if there is no finite value, NaN
    /// below [`Level::Full`].
    ///
    /// Exactly 0 if the largest magnitude fits, and exact outside the bin of the format's largest
    /// number. The values in that bin are taken to lie evenly on the logarithmic scale, from its
    /// lower edge up to the upper one or the largest magnitude of all.
    ///
    /// # Errors
    /// [`Error::Value`] unless `scale` is positive and finite.
    pub fn overflow_fraction(&self, format: Format, scale: f64) -> Result<f64> {
        let limit = format.overflow / checked(scale)?;
        if self.level() < Level::Full {
            return Ok(f64::NAN);
        }
        if self.finite_count() == 0 || self.finite.absmax() < limit {
            return Ok(0.0);
        }
        let boundary = exponent(limit);
        let above = self.histogram.total() - self.histogram.total_below(boundary + 1);
        let mut within = self.share_above(limit) * self.histogram.count(boundary) as f64;
        if above == 0 {
            within = within.max(1.0); // the largest magnitude is one of them
        }
        Ok((above as f64 + within) / self.finite_count() as f64)
    }

    /// The share of the values of its bin that lie above `limit`.
    fn share_above(&self, limit: f64) -> f64 {
        let (low, high) = self.bin_edges(exponent(limit));
        if limit <= low {
            1.0
        } else if limit >= high {
            0.0
        } else {
            (high / limit).log2() / (high / low).log2()
        }
    }
}

fn checked(scale: f64) -> Result<f64> {
    // Beyond these no threshold is a normal number of f64; no loss scale comes near them.
    if (1e-200..=1e200).contains(&scale) {
        Ok(scale)
    } else {
        Err(Error::value("scale", "a positive number from 1e-200 to 1e200", scale))
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
            assert_eq!(
                of(&[format.overflow]).overflow_fraction(format, 1.0).unwrap(),
                1.0,
                "{}",
                format.name
            );
            assert_eq!(
                of(&[format.overflow.next_down()]).overflow_fraction(format, 1.0).unwrap(),
                0.0
            );
            let half = ldexp(1.0, format.min_exponent - 1);
            assert_eq!(
                of(&[half]).underflow_fraction(format, 1.0).unwrap(),
                1.0,
                "{}",
                format.name
            );
            assert_eq!(of(&[half.next_down(), 1.0]).underflow_fraction(format, 1.0).unwrap(), 0.5);
            assert_eq!(of(&[half.next_up()]).underflow_fraction(format, 1.0).unwrap(), 0.0);
        }
    }

    #[test]
    fn nothing_is_lost_of_nothing() {
        for format in Format::ALL {
            let zeros = of(&[0.0, f64::INFINITY]);
            assert_eq!(
                (
                    zeros.underflow_fraction(format, 1.0).unwrap(),
                    zeros.overflow_fraction(format, 1.0).unwrap()
                ),
                (0.0, 0.0)
            );
        }
    }

    #[test]
    fn unknown_formats_are_named() {
        let message = "float12".parse::<Format>().unwrap_err().to_string();
        assert!(message.contains("fmt") && message.contains("\"float12\""), "{message}");
    }

    #[test]
    fn a_loss_scale_moves_the_thresholds() {
        let half = format("float16");
        let record = of(&[1e-8, 1e-7, 1.0, 100.0]);
        assert_eq!(record.underflow_fraction(half, 1.0), Ok(0.25));
        assert_eq!(record.underflow_fraction(half, 1024.0), Ok(0.0));
        assert_eq!(record.overflow_fraction(half, 1024.0), Ok(0.25));
        assert_eq!(record.overflow_fraction(half, 65_536.0), Ok(0.5));
        // A scale of three quarters puts the threshold into a bin that is full from end to end.
        let even: Vec<f64> = (0..1000).map(|i| 2_f64.powf(f64::from(i) / 1000.0 - 25.0)).collect();
        let lost = of(&even).underflow_fraction(half, 0.75).unwrap();
        assert!((lost - (4.0_f64 / 3.0).log2()).abs() < 0.01, "{lost}");
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let message = record.overflow_fraction(half, scale).unwrap_err().to_string();
            assert!(message.starts_with("scale: expected a positive number"), "{message}");
        }
    }
}
