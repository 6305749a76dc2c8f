//! The floating-point types that a tensor may hold, and how their bits are read.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::power::ldexp;

/// The type of the values that a record was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DType {
    /// IEEE binary64.
    Float64,
    /// IEEE binary32.
    Float32,
    /// IEEE binary16.
    Float16,
    /// The upper half of a binary32.
    BFloat16,
    /// Eight bits, four of them exponent; no infinity, and NaN only where all other bits are set.
    Float8E4M3,
    /// Eight bits, five of them exponent; otherwise as IEEE has it.
    Float8E5M2,
    /// A merge of records of several types.
    Mixed,
}

impl DType {
    /// Every type, by the name that `NumPy` and `PyTorch` use.
    const NAMES: [(&'static str, Self); 7] = [
        ("float64", Self::Float64),
        ("float32", Self::Float32),
        ("float16", Self::Float16),
        ("bfloat16", Self::BFloat16),
        ("float8_e4m3fn", Self::Float8E4M3),
        ("float8_e5m2", Self::Float8E5M2),
        ("mixed", Self::Mixed),
    ];

    /// The name that `NumPy` and `PyTorch` use, or `"mixed"`.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, dtype)| *dtype == self).map_or("", |(name, _)| name)
    }

    /// The inverse of [`DType::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, dtype)| *dtype)
    }

    /// The exponent of the smallest normal number; `None` for a mixture.
    pub(super) fn first_normal_exponent(self) -> Option<i32> {
        Some(match self {
            Self::Float64 => 1 - Float64::BIAS,
            Self::Float32 => 1 - Float32::BIAS,
            Self::Float16 => 1 - Float16::BIAS,
            Self::BFloat16 => 1 - BFloat16::BIAS,
            Self::Float8E4M3 => 1 - Float8E4M3::BIAS,
            Self::Float8E5M2 => 1 - Float8E5M2::BIAS,
            Self::Mixed => return None,
        })
    }

    /// The type of a merge; `None` is the type of a record of nothing.
    pub(super) fn join(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (None, only) | (only, None) => only,
            (Some(a), Some(b)) => Some(if a == b { a } else { Self::Mixed }),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// How one floating-point type is stored and read.
///
/// The implementors are names, never values: memory holds [`Float::Raw`].
pub trait Float: sealed::Sealed {
    /// One value as memory holds it.
    type Raw: Copy + Default + Send + Sync;
    /// The type by name.
    const DTYPE: DType;
    /// Width of the stored mantissa.
    const MANTISSA_BITS: u32;
    /// What the exponent field of 1.0 holds.
    const BIAS: i32;
    /// The number of values of the exponent field. The first holds zero and the subnormal numbers,
    /// the last Inf and NaN; in [`Float8E4M3`] it holds numbers too.
    const FIELDS: usize = 2 * (Self::BIAS as usize + 1);
    /// The exponent of the largest number.
    const MAX_EXPONENT: i32 = Self::BIAS;
    /// The exponent of the smallest subnormal number.
    const MIN_EXPONENT: i32 = 1 - Self::BIAS - Self::MANTISSA_BITS as i32;
    /// Whether sums of fourth powers need no scale whatever the values are.
    const NARROW: bool = Self::BIAS <= 127;
    /// The number of exponents that a value other than zero may have.
    const EXPONENTS: usize = Self::FIELDS - 2 + Self::MANTISSA_BITS as usize;

    /// The sign, exponent and mantissa in the low bits of an integer.
    fn bits(raw: Self::Raw) -> u64;

    /// The value. A subnormal number may be read as zero on a thread where a framework has asked
    /// the processor for that.
    fn decode(raw: Self::Raw) -> f64;

    /// The finite value in units of 2^unit, which is zero for types narrower than f64. Subnormal
    /// numbers are read as they are, and in no more time than others.
    #[inline(always)]
    fn decode_finite(raw: Self::Raw, _unit: i32) -> f64 {
        Self::decode(raw)
    }

    /// The value of a finite magnitude, given by its bits.
    fn magnitude(bits: u64) -> f64 {
        let (field, mantissa) =
            (bits >> Self::MANTISSA_BITS, bits & ((1 << Self::MANTISSA_BITS) - 1));
        let implied = u64::from(field > 0) << Self::MANTISSA_BITS;
        ldexp((mantissa | implied) as f64, Self::MIN_EXPONENT + field.max(1) as i32 - 1)
    }

    /// The value that `bytes` hold in the order of this machine; `None` if there are too few.
    fn from_bytes(bytes: &[u8]) -> Option<Self::Raw>;

    /// The exponent field.
    #[inline(always)]
    fn field(raw: Self::Raw) -> usize {
        (Self::bits(raw) >> Self::MANTISSA_BITS) as usize & (Self::FIELDS - 1)
    }

    /// The mantissa field.
    #[inline(always)]
    fn mantissa(raw: Self::Raw) -> u64 {
        Self::bits(raw) & ((1 << Self::MANTISSA_BITS) - 1)
    }

    /// Whether the sign bit is set.
    #[inline(always)]
    fn is_negative(raw: Self::Raw) -> bool {
        Self::bits(raw) >> Self::MANTISSA_BITS >= Self::FIELDS as u64
    }
}

/// IEEE binary64.
#[derive(Debug)]
pub enum Float64 {}

/// IEEE binary32.
#[derive(Debug)]
pub enum Float32 {}

/// IEEE binary16, stored as its bits.
#[derive(Debug)]
pub enum Float16 {}

/// The upper half of a binary32, stored as its bits.
#[derive(Debug)]
pub enum BFloat16 {}

/// Four bits of exponent and three of mantissa, stored as its bits ("fn": finite numbers and NaN
/// only; the format of the Open Compute Project).
#[derive(Debug)]
pub enum Float8E4M3 {}

/// Five bits of exponent and two of mantissa, stored as its bits.
#[derive(Debug)]
pub enum Float8E5M2 {}

impl sealed::Sealed for Float64 {}
impl sealed::Sealed for Float32 {}
impl sealed::Sealed for Float16 {}
impl sealed::Sealed for BFloat16 {}
impl sealed::Sealed for Float8E4M3 {}
impl sealed::Sealed for Float8E5M2 {}

impl Float for Float64 {
    type Raw = f64;
    const DTYPE: DType = DType::Float64;
    const MANTISSA_BITS: u32 = 52;
    const BIAS: i32 = 1023;

    #[inline(always)]
    fn bits(raw: f64) -> u64 {
        raw.to_bits()
    }

    #[inline(always)]
    fn decode(raw: f64) -> f64 {
        raw
    }

    #[inline(always)]
    fn decode_finite(raw: f64, unit: i32) -> f64 {
        if Self::field(raw) == 0 {
            let magnitude = ldexp(Self::mantissa(raw) as f64, Self::MIN_EXPONENT - unit);
            return magnitude.copysign(raw);
        }
        ldexp(raw, -unit)
    }

    fn magnitude(bits: u64) -> f64 {
        f64::from_bits(bits)
    }

    fn from_bytes(bytes: &[u8]) -> Option<f64> {
        bytes.first_chunk().copied().map(f64::from_ne_bytes)
    }
}

impl Float for Float32 {
    type Raw = f32;
    const DTYPE: DType = DType::Float32;
    const MANTISSA_BITS: u32 = 23;
    const BIAS: i32 = 127;

    #[inline(always)]
    fn bits(raw: f32) -> u64 {
        u64::from(raw.to_bits())
    }

    #[inline(always)]
    fn decode(raw: f32) -> f64 {
        f64::from(raw)
    }

    #[inline(always)]
    fn decode_finite(raw: f32, _unit: i32) -> f64 {
        const TINY: u64 = (1023 - 126) << 52; // 2^-126, the smallest normal number of f32
        let bits = raw.to_bits();
        let magnitude = u64::from(bits & 0x7fff_ffff) << (52 - 23);
        let normal = magnitude + ((1023 - 127) << 52);
        // A subnormal number m * 2^-149 is (2^-126 + m * 2^-149) - 2^-126.
        let subnormal = (f64::from_bits(TINY | magnitude) - f64::from_bits(TINY)).to_bits();
        let value = if bits & 0x7f80_0000 == 0 { subnormal } else { normal };
        f64::from_bits(value | u64::from(bits & 0x8000_0000) << 32)
    }

    fn from_bytes(bytes: &[u8]) -> Option<f32> {
        bytes.first_chunk().copied().map(f32::from_ne_bytes)
    }
}

impl Float for Float16 {
    type Raw = u16;
    const DTYPE: DType = DType::Float16;
    const MANTISSA_BITS: u32 = 10;
    const BIAS: i32 = 15;

    #[inline(always)]
    fn bits(raw: u16) -> u64 {
        u64::from(raw)
    }

    /// Without a branch, and without an f32 that is subnormal.
    #[inline(always)]
    fn decode(raw: u16) -> f64 {
        const TINY: u32 = (127 - 14) << 23; // 2^-14, the smallest normal number of f16
        let magnitude = u32::from(raw & 0x7fff) << 13;
        let sign = u32::from(raw & 0x8000) << 16;
        let rebias = if magnitude < 0x7c00 << 13 { (127 - 15) << 23 } else { (255 - 31) << 23 };
        let normal = magnitude + rebias;
        // A subnormal number m * 2^-24 is (2^-14 + m * 2^-24) - 2^-14.
        let subnormal = (f32::from_bits(TINY | magnitude) - f32::from_bits(TINY)).to_bits();
        let bits = if magnitude < 0x0400 << 13 { subnormal } else { normal };
        f64::from(f32::from_bits(bits | sign))
    }

    fn from_bytes(bytes: &[u8]) -> Option<u16> {
        bytes.first_chunk().copied().map(u16::from_ne_bytes)
    }
}

impl Float for BFloat16 {
    type Raw = u16;
    const DTYPE: DType = DType::BFloat16;
    const MANTISSA_BITS: u32 = 7;
    const BIAS: i32 = 127;

    #[inline(always)]
    fn bits(raw: u16) -> u64 {
        u64::from(raw)
    }

    #[inline(always)]
    fn decode(raw: u16) -> f64 {
        f64::from(f32::from_bits(u32::from(raw) << 16))
    }

    #[inline(always)]
    fn decode_finite(raw: u16, unit: i32) -> f64 {
        Float32::decode_finite(f32::from_bits(u32::from(raw) << 16), unit)
    }

    fn from_bytes(bytes: &[u8]) -> Option<u16> {
        bytes.first_chunk().copied().map(u16::from_ne_bytes)
    }
}

impl Float for Float8E4M3 {
    type Raw = u8;
    const DTYPE: DType = DType::Float8E4M3;
    const MANTISSA_BITS: u32 = 3;
    const BIAS: i32 = 7;
    const MAX_EXPONENT: i32 = 8;

    fn bits(raw: u8) -> u64 {
        u64::from(raw)
    }

    fn decode(raw: u8) -> f64 {
        const VALUES: [f64; 256] = {
            let mut values = float8_values(Float8E4M3::MANTISSA_BITS, Float8E4M3::BIAS);
            (values[0x7f], values[0xff]) = (f64::NAN, f64::NAN);
            values
        };
        VALUES[usize::from(raw)]
    }

    fn from_bytes(bytes: &[u8]) -> Option<u8> {
        bytes.first().copied()
    }
}

impl Float for Float8E5M2 {
    type Raw = u8;
    const DTYPE: DType = DType::Float8E5M2;
    const MANTISSA_BITS: u32 = 2;
    const BIAS: i32 = 15;

    fn bits(raw: u8) -> u64 {
        u64::from(raw)
    }

    fn decode(raw: u8) -> f64 {
        const VALUES: [f64; 256] = {
            let mut values = float8_values(Float8E5M2::MANTISSA_BITS, Float8E5M2::BIAS);
            (values[0x7c], values[0xfc]) = (f64::INFINITY, f64::NEG_INFINITY);
            let mut nan = 0x7d;
            while nan <= 0x7f {
                (values[nan], values[nan + 0x80]) = (f64::NAN, f64::NAN);
                nan += 1;
            }
            values
        };
        VALUES[usize::from(raw)]
    }

    fn from_bytes(bytes: &[u8]) -> Option<u8> {
        bytes.first().copied()
    }
}

/// What the 256 patterns of an 8-bit format would be worth if all of them were numbers.
const fn float8_values(mantissa_bits: u32, bias: i32) -> [f64; 256] {
    let one = 1_u64 << mantissa_bits;
    let mut values = [0.0; 256];
    let mut raw = 0;
    while raw < 0x80 {
        let (field, mantissa) = (raw as u64 >> mantissa_bits, raw as u64 & (one - 1));
        let (significand, field) = if field == 0 { (mantissa, 1) } else { (one + mantissa, field) };
        // 2^(field - bias - mantissa_bits) by its bits.
        let exponent = field as i32 - bias - mantissa_bits as i32;
        let value = significand as f64 * f64::from_bits(((1023 + exponent) as u64) << 52);
        (values[raw], values[raw + 0x80]) = (value, -value);
        raw += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a bit pattern, from the definition of the format.
    fn by_definition<F: Float>(raw: F::Raw) -> f64 {
        let sign = if F::is_negative(raw) { -1.0 } else { 1.0 };
        let m = F::mantissa(raw) as f64;
        match F::field(raw) {
            0 => sign * m * f64::powi(2.0, F::MIN_EXPONENT),
            field if field as i32 > F::BIAS + F::MAX_EXPONENT => {
                if m == 0.0 {
                    sign * f64::INFINITY
                } else {
                    f64::NAN
                }
            }
            field => {
                sign * (1.0 + m / f64::from(1_u32 << F::MANTISSA_BITS))
                    * f64::powi(2.0, field as i32 - F::BIAS)
            }
        }
    }

    #[test]
    fn every_half_precision_pattern_decodes() {
        for raw in 0..=u16::MAX {
            let (half, brain) = (by_definition::<Float16>(raw), by_definition::<BFloat16>(raw));
            if half.is_finite() {
                assert_eq!(Float16::decode_finite(raw, 0), half);
                assert_eq!(Float16::magnitude(u64::from(raw & 0x7fff)), half.abs());
            }
            if brain.is_finite() {
                assert_eq!(BFloat16::decode_finite(raw, 0), brain);
                assert_eq!(BFloat16::magnitude(u64::from(raw & 0x7fff)), brain.abs());
            }
            for (got, expected) in [(Float16::decode(raw), half), (BFloat16::decode(raw), brain)] {
                assert!(
                    got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(),
                    "{raw:#06x}: {got} instead of {expected}"
                );
            }
        }
    }

    #[test]
    fn every_8_bit_pattern_decodes() {
        for raw in 0..=u8::MAX {
            let by_definition = [
                if raw & 0x7f == 0x7f { f64::NAN } else { by_definition::<Float8E4M3>(raw) },
                by_definition::<Float8E5M2>(raw),
            ];
            let got = [Float8E4M3::decode(raw), Float8E5M2::decode(raw)];
            for (got, expected) in got.into_iter().zip(by_definition) {
                assert!(
                    got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(),
                    "{raw:#04x}: {got} instead of {expected}"
                );
            }
        }
        assert_eq!((Float8E4M3::decode(0x7e), Float8E5M2::decode(0x7b)), (448.0, 57344.0));
    }

    #[test]
    fn names_go_both_ways() {
        for (name, dtype) in DType::NAMES {
            assert_eq!(DType::from_name(name), Some(dtype));
            assert_eq!(dtype.to_string(), name);
        }
        assert_eq!(DType::from_name("int8"), None);
    }

    #[test]
    fn bytes_are_in_the_order_of_the_machine() {
        assert_eq!(Float32::from_bytes(&1.5_f32.to_ne_bytes()), Some(1.5));
        assert_eq!(Float64::from_bytes(&[0; 7]), None);
    }
}
