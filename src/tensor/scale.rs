//! Multiplication of many tensors by one factor, in place, and gradient clipping, which is that.

use std::sync::{Mutex, PoisonError};

use ndarray::{ArrayViewMutD, Axis};

use super::dtype::{BFloat16, Float, Float16, Float32, Float64};
use super::isa::{Kernel, current_kernel, for_every_kernel};
use super::norm::total_norm;
use super::power::{exponent, two_to};
use super::view::{TensorView, Values};
use crate::parallel;

/// The number of values that one piece of parallel work multiplies.
const PIECE: usize = 1 << 16;

/// The values of one tensor that may be written.
#[derive(Debug)]
pub enum ValuesMut<'a, F: Float> {
    /// One after the other.
    Contiguous(&'a mut [F::Raw]),
    /// Apart, or in another order of the axes. At least one axis.
    Strided(ArrayViewMutD<'a, F::Raw>),
}

/// A tensor of one of the types that can be scaled.
#[derive(Debug)]
pub enum TensorViewMut<'a> {
    /// Values of f64.
    Float64(ValuesMut<'a, Float64>),
    /// Values of f32.
    Float32(ValuesMut<'a, Float32>),
    /// IEEE binary16, as bits.
    Float16(ValuesMut<'a, Float16>),
    /// The upper halves of f32, as bits.
    BFloat16(ValuesMut<'a, BFloat16>),
}

impl<F: Float> ValuesMut<'_, F> {
    fn view(&self) -> Values<'_, F> {
        match self {
            Self::Contiguous(values) => Values::Contiguous(values),
            Self::Strided(view) => Values::Strided(view.view()),
        }
    }
}

impl TensorViewMut<'_> {
    /// The same values, to be read.
    pub fn view(&self) -> TensorView<'_> {
        match self {
            Self::Float64(values) => TensorView::Float64(values.view()),
            Self::Float32(values) => TensorView::Float32(values.view()),
            Self::Float16(values) => TensorView::Float16(values.view()),
            Self::BFloat16(values) => TensorView::BFloat16(values.view()),
        }
    }
}

/// What [`clip`] has found and done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clipped {
    /// The norm of all values together, as [`total_norm`] has it, before anything was done.
    pub norm: f64,
    /// Whether the values have been scaled.
    pub scaled: bool,
}

/// Scales all tensors together so that their norm is at most `max_norm`.
///
/// The factor is that of `PyTorch`, `max_norm / (norm + 1e-6)` where that is less than 1. A norm that
/// is not finite makes it 0 or NaN; with `finite_only` nothing is scaled then.
pub fn clip(tensors: Vec<TensorViewMut<'_>>, max_norm: f64, finite_only: bool) -> Clipped {
    let views: Vec<_> = tensors.iter().map(TensorViewMut::view).collect();
    let norm = total_norm(&views);
    let factor = max_norm / (norm + 1e-6);
    let scaled = (factor < 1.0 || factor.is_nan()) && (norm.is_finite() || !finite_only);
    if scaled {
        scale(tensors, factor);
    }
    Clipped { norm, scaled }
}

/// Multiplies every value by `factor`.
///
/// The arithmetic is that of f32, with the factor rounded to it, or f64 for tensors of f64. For the
/// 16-bit types the exact product with the factor is rounded once, to the nearest, ties to even.
///
/// The work begins with the last values of the last tensor, which a pass that read the tensors just
/// before has left in the cache.
pub fn scale(tensors: Vec<TensorViewMut<'_>>, factor: f64) {
    let mut pieces = Vec::new();
    let mut bytes = 0;
    for tensor in tensors {
        bytes += match tensor {
            TensorViewMut::Float64(values) => cut(values, TensorViewMut::Float64, &mut pieces),
            TensorViewMut::Float32(values) => cut(values, TensorViewMut::Float32, &mut pieces),
            TensorViewMut::Float16(values) => cut(values, TensorViewMut::Float16, &mut pieces),
            TensorViewMut::BFloat16(values) => cut(values, TensorViewMut::BFloat16, &mut pieces),
        };
    }
    let (kernel, factor) = (current_kernel(), Factor::new(factor));
    // Every lock is taken once: it is how one of many threads gets hold of a piece.
    let pieces: Vec<_> = pieces.into_iter().rev().map(Mutex::new).collect();
    parallel::map_indexed(pieces.len(), bytes, |i| {
        match &mut *pieces[i].lock().unwrap_or_else(PoisonError::into_inner) {
            TensorViewMut::Float64(values) => scale_piece(kernel, values, factor),
            TensorViewMut::Float32(values) => scale_piece(kernel, values, factor),
            TensorViewMut::Float16(values) => scale_piece(kernel, values, factor),
            TensorViewMut::BFloat16(values) => scale_piece(kernel, values, factor),
        }
    });
}

/// Appends the values in pieces; returns how many bytes they take.
fn cut<'a, F: Float>(
    values: ValuesMut<'a, F>,
    tensor: fn(ValuesMut<'a, F>) -> TensorViewMut<'a>,
    pieces: &mut Vec<TensorViewMut<'a>>,
) -> usize {
    let len = match values {
        ValuesMut::Contiguous(values) => {
            let len = values.len();
            let chunks = values.chunks_mut(PIECE);
            pieces.extend(chunks.map(|chunk| tensor(ValuesMut::Contiguous(chunk))));
            len
        }
        ValuesMut::Strided(view) => {
            let len = view.len();
            let entry = len / view.len_of(Axis(0)).max(1);
            let mut rest = view;
            while !rest.is_empty() {
                let cut = (PIECE / entry).clamp(1, rest.len_of(Axis(0)));
                let (piece, after) = rest.split_at(Axis(0), cut);
                pieces.push(tensor(ValuesMut::Strided(piece)));
                rest = after;
            }
            len
        }
    };
    len.saturating_mul(size_of::<F::Raw>())
}

fn scale_piece<F: Scale>(kernel: Kernel, values: &mut ValuesMut<'_, F>, factor: Factor) {
    match values {
        ValuesMut::Contiguous(values) => multiply::<F>(kernel, values, factor),
        ValuesMut::Strided(view) => {
            for mut row in view.rows_mut() {
                match row.as_slice_mut() {
                    Some(values) => multiply::<F>(kernel, values, factor),
                    None => row.map_inplace(|value| *value = multiply_one::<F>(*value, factor)),
                }
            }
        }
    }
}

/// A product whose margin is not larger may be rounded to the wrong side. The rounded factor is off by
/// less than one unit in the last place of the product, which itself is off by half a unit at most:
/// what is two units from halfway between two numbers of 16 bits is on the right side of it.
const DOUBT: u32 = 4;

/// How many values are multiplied before one looks whether all products are sure.
const GROUP: usize = 64;

for_every_kernel! {
    fn multiply<F: Scale>(values: &mut [F::Raw], factor: Factor) {
        if !factor.fits_single() {
            return values.iter_mut().for_each(|value| *value = F::exact_product(*value, factor));
        }
        let (groups, rest) = values.as_chunks_mut::<GROUP>();
        for group in groups {
            let mut products = *group;
            let mut least = u32::MAX;
            for product in &mut products {
                let (nearest, margin) = F::product(*product, factor);
                *product = nearest;
                least = least.min(margin);
            }
            if least <= DOUBT {
                let margins = group.map(|value| F::product(value, factor).1);
                correct::<F>(group, &margins, &mut products, factor);
            }
            *group = products;
        }
        for value in rest {
            *value = multiply_one::<F>(*value, factor);
        }
    }
}

#[inline(always)]
fn multiply_one<F: Scale>(value: F::Raw, factor: Factor) -> F::Raw {
    match F::product(value, factor) {
        (product, margin) if margin > DOUBT && factor.fits_single() => product,
        _ => F::exact_product(value, factor),
    }
}

/// Computes anew what is not sure. That is rare, and in the loop it would be in the way.
#[cold]
#[inline(never)]
fn correct<F: Scale>(values: &[F::Raw], margins: &[u32], products: &mut [F::Raw], factor: Factor) {
    for ((product, &margin), &value) in products.iter_mut().zip(margins).zip(values) {
        if margin <= DOUBT {
            *product = F::exact_product(value, factor);
        }
    }
}

/// The factor in both precisions.
#[derive(Clone, Copy)]
struct Factor {
    double: f64,
    single: f32,
}

impl Factor {
    fn new(factor: f64) -> Self {
        // The bits of a NaN may be anything; those of this one survive rounding.
        Self { double: factor, single: if factor.is_nan() { f32::NAN } else { factor as f32 } }
    }

    /// Whether f32 holds it to the usual precision.
    fn fits_single(self) -> bool {
        self.single.is_normal() || self.double == 0.0 || !self.double.is_finite()
    }
}

/// How a value of one type is multiplied.
trait Scale: Float {
    /// The product with a factor that f32 holds, and a margin: more than [`DOUBT`] if it surely is
    /// the exact one.
    fn product(raw: Self::Raw, factor: Factor) -> (Self::Raw, u32);

    /// The product with any factor.
    fn exact_product(raw: Self::Raw, factor: Factor) -> Self::Raw;
}

impl Scale for Float64 {
    #[inline(always)]
    fn product(raw: f64, factor: Factor) -> (f64, u32) {
        (raw * factor.double, u32::MAX)
    }

    #[inline(always)]
    fn exact_product(raw: f64, factor: Factor) -> f64 {
        raw * factor.double
    }
}

impl Scale for Float32 {
    #[inline(always)]
    fn product(raw: f32, factor: Factor) -> (f32, u32) {
        (raw * factor.single, u32::MAX)
    }

    #[inline(always)]
    fn exact_product(raw: f32, factor: Factor) -> f32 {
        (f64::from(raw) * factor.double) as f32
    }
}

impl Scale for BFloat16 {
    #[inline(always)]
    fn product(raw: u16, factor: Factor) -> (u16, u32) {
        to_bfloat16(Self::decode(raw) as f32 * factor.single)
    }

    fn exact_product(raw: u16, factor: Factor) -> u16 {
        exact_product::<Self>(raw, factor.double)
    }
}

impl Scale for Float16 {
    #[inline(always)]
    fn product(raw: u16, factor: Factor) -> (u16, u32) {
        to_float16(Self::decode(raw) as f32 * factor.single)
    }

    fn exact_product(raw: u16, factor: Factor) -> u16 {
        exact_product::<Self>(raw, factor.double)
    }
}

/// The exact product, rounded once to the nearest, ties to even.
fn exact_product<F: Float<Raw = u16>>(raw: u16, factor: f64) -> u16 {
    let sign = (raw ^ (factor.to_bits() >> 48) as u16) & 0x8000;
    let infinity = ((F::FIELDS - 1) << F::MANTISSA_BITS) as u16;
    let (x, factor) = (F::decode(raw).abs(), factor.abs());
    let product = x * factor;
    if product.is_nan() {
        return sign | infinity | 1 << (F::MANTISSA_BITS - 1);
    }
    // Rounded to odd: the last bit tells whether something was lost, so that what is not halfway
    // between two numbers does not look so.
    let lost = x.mul_add(factor, -product);
    let product = f64::from_bits(match product.to_bits() {
        bits if lost > 0.0 => bits | 1,
        bits if lost < 0.0 => (bits - 1) | 1,
        bits => bits,
    });
    // In units in the last place of the result, of which f64 holds no fractions beside 2^52.
    let exponent = exponent(product).max(1 - F::BIAS);
    let units = product * two_to(F::MANTISSA_BITS as i32 - exponent);
    let units = (units + two_to(52)) - two_to(52);
    // With the highest bit of a normal number added to the field below its own.
    let field = (exponent + F::BIAS - 1) as u64;
    let pattern = (field << F::MANTISSA_BITS).saturating_add(units as u64);
    sign | pattern.min(infinity.into()) as u16
}

/// To the nearest, ties to even, and the margin. A NaN must have nothing but zeros in the lower half.
#[inline(always)]
fn to_bfloat16(x: f32) -> (u16, u32) {
    let bits = x.to_bits();
    // Cannot wrap, but a checked addition would cost a branch.
    let nearest = (bits.wrapping_add(0x7fff_u32.wrapping_add(bits >> 16 & 1)) >> 16) as u16;
    (nearest, bits.wrapping_add(0x8000 + 2) & 0xffff)
}

/// To the nearest, ties to even, and the margin.
#[inline(always)]
fn to_float16(x: f32) -> (u16, u32) {
    const NORMAL: u32 = (127 - 14) << 23; // 2^-14, the smallest normal number
    const TOO_LARGE: u32 = (127 + 16) << 23; // 2^16
    const HALFWAY: u32 = (127 - 25) << 23; // 2^-25, half of the smallest subnormal number
    let magnitude = x.to_bits() & 0x7fff_ffff;
    // Beside 0.5, f32 has the resolution of the subnormal numbers.
    let shifted = f32::from_bits(magnitude) + 0.5;
    let subnormal = shifted.to_bits().wrapping_sub(0.5_f32.to_bits());
    let lost = (f32::from_bits(magnitude) - (shifted - 0.5)).to_bits() & 0x7fff_ffff;
    // Two units of a number below 2^-14 are 2^-37; those of what is lost are 2^-49 at most.
    let subnormal_margin = HALFWAY.wrapping_sub(lost) >> 10;
    let rounded = magnitude.wrapping_add(0x0fff_u32.wrapping_add(magnitude >> 13 & 1));
    let normal = (rounded >> 13).wrapping_sub((127 - 15) << 10);
    let normal_margin = magnitude.wrapping_add(0x1000 + 2) & 0x1fff;
    let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    let half = if magnitude < NORMAL { subnormal } else { normal };
    let half = if magnitude < TOO_LARGE { half } else { special };
    let margin = if magnitude < NORMAL { subnormal_margin } else { normal_margin };
    ((half | x.to_bits() >> 16 & 0x8000) as u16, margin)
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};
    use proptest::prelude::*;

    use super::*;

    /// The number of `F` nearest to the exact product, in integers; of two equally near ones that
    /// with an even pattern.
    fn nearest_product<F: Float<Raw = u16>>(raw: u16, factor: f64) -> u16 {
        let sign = (raw ^ (factor.to_bits() >> 48) as u16) & 0x8000;
        let integer = |x: f64| {
            let (bits, field) = (x.abs().to_bits(), (x.abs().to_bits() >> 52) as i32);
            let mantissa = bits & ((1 << 52) - 1) | u64::from(field > 0) << 52;
            (u128::from(mantissa), field.max(1) - 1075)
        };
        let ((a, j), (b, k)) = (integer(F::decode(raw)), integer(factor));
        let (product, unit) = (a * b, j + k);
        let top = product.checked_ilog2().map_or(i32::MIN, |bit| unit + bit as i32);
        let exponent = top.max(1 - F::BIAS);
        // How many of the bits are below those of the result.
        let below = exponent - F::MANTISSA_BITS as i32 - unit;
        let units = if product == 0 || below > 120 {
            0
        } else {
            let (floor, half) = (product >> below, 1 << (below - 1));
            let rest = product & ((1 << below) - 1);
            floor + u128::from(rest > half || rest == half && floor % 2 == 1)
        };
        let infinity = ((F::FIELDS - 1) << F::MANTISSA_BITS) as u128;
        let field = (exponent + F::BIAS - 1) as u128;
        sign | infinity.min((field << F::MANTISSA_BITS) + units) as u16
    }

    fn check_every_pattern<F: Scale + Float<Raw = u16>>(factor: f64) {
        let mut values: Vec<u16> = (0..=u16::MAX).collect();
        multiply::<F>(current_kernel(), &mut values, Factor::new(factor));
        for (raw, &got) in (0..=u16::MAX).zip(&values) {
            let (x, product) = (F::decode(raw), F::decode(raw) * factor);
            if product.is_nan() {
                assert!(F::decode(got).is_nan(), "{raw:#06x}");
            } else if x.is_infinite() || factor.is_infinite() {
                assert_eq!(F::decode(got), product);
            } else {
                assert_eq!(got, nearest_product::<F>(raw, factor), "{raw:#06x} * {factor:e}");
            }
        }
    }

    #[test]
    fn products_of_16_bits_are_rounded_once_to_nearest_even() {
        let factors = [0.3, 1.0 - 1e-7, 1.5, 0.5 + f64::from(f32::EPSILON), 1e-4, 3e4, -0.7, 0.0];
        let wide = [f64::NAN, f64::INFINITY, 1e-40, 1e-300, 1e40, f64::MAX];
        for factor in factors.into_iter().chain(wide) {
            check_every_pattern::<BFloat16>(factor);
            check_every_pattern::<Float16>(factor);
        }
    }

    #[test]
    fn a_product_next_to_halfway_goes_where_it_is_nearer() {
        fn check<F: Scale + Float<Raw = u16>>() {
            let one = (F::BIAS << F::MANTISSA_BITS) as u16;
            for raw in one..one + (1 << F::MANTISSA_BITS) {
                let x = F::decode(raw);
                // Between 1 and the number after it, and between that and the next.
                for halfway in
                    [1, 3].map(|n| 1.0 + f64::from(n) * two_to(-1 - F::MANTISSA_BITS as i32))
                {
                    let factor = (halfway / x).to_bits();
                    for factor in (factor - 2..=factor + 2).map(f64::from_bits) {
                        let mut values = [raw; GROUP + 1];
                        multiply::<F>(current_kernel(), &mut values, Factor::new(factor));
                        assert_eq!(values, [nearest_product::<F>(raw, factor); GROUP + 1]);
                    }
                }
            }
        }
        check::<BFloat16>();
        check::<Float16>();
    }

    proptest! {
        #[test]
        fn instruction_sets_agree(bits in prop::collection::vec(any::<u32>(), 0..200), factor: f64) {
            fn check<F: Scale>(values: Vec<F::Raw>, factor: f64) {
                let product = |kernel| {
                    let mut values = values.clone();
                    multiply::<F>(kernel, &mut values, Factor::new(factor));
                    values
                };
                let portable = product(Kernel::PORTABLE);
                for kernel in Kernel::available() {
                    for (&a, &b) in product(kernel).iter().zip(&portable) {
                        let nan = F::decode(a).is_nan() && F::decode(b).is_nan();
                        assert!(F::bits(a) == F::bits(b) || nan, "{kernel}");
                    }
                }
            }
            check::<Float32>(bits.iter().map(|&b| f32::from_bits(b)).collect(), factor);
            check::<BFloat16>(bits.iter().map(|&b| b as u16).collect(), factor);
            check::<Float16>(bits.iter().map(|&b| b as u16).collect(), factor);
        }
    }

    #[test]
    fn a_factor_below_the_range_of_f32_keeps_its_precision() {
        let (mut single, mut brain) = ([3e38_f32], [0x7f7f_u16]);
        let factor = Factor::new(1.0 / 3e43);
        multiply::<Float32>(current_kernel(), &mut single, factor);
        assert!((f64::from(single[0]) - 1e-5).abs() < 1e-12);
        let factor = 1.0 / BFloat16::decode(brain[0]) / 1024.0;
        multiply::<BFloat16>(current_kernel(), &mut brain, Factor::new(factor));
        assert_eq!(BFloat16::decode(brain[0]), 1.0 / 1024.0);
    }

    #[test]
    fn a_norm_that_is_too_large_becomes_the_largest_allowed() {
        fn both<'a>(a: &'a mut [f32], b: &'a mut [f64]) -> Vec<TensorViewMut<'a>> {
            let a = TensorViewMut::Float32(ValuesMut::Contiguous(a));
            vec![a, TensorViewMut::Float64(ValuesMut::Contiguous(b))]
        }

        let (mut a, mut b) = ([3e25_f32, 0.0], [-4e25_f64]);
        let large = clip(both(&mut a, &mut b), 1.0, false);
        assert!(large.scaled && (large.norm / 5e25 - 1.0).abs() < 1e-7);
        assert!((a[0] - 0.6).abs() < 1e-6 && (b[0] + 0.8).abs() < 1e-6);
        let small = clip(both(&mut a, &mut b), 1.001, false);
        assert!(!small.scaled && (small.norm - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_norm_that_is_not_finite() {
        let clip = |x: &mut [f32], finite_only| {
            clip(vec![TensorViewMut::Float32(ValuesMut::Contiguous(x))], 1.0, finite_only)
        };
        for culprit in [f32::NAN, f32::INFINITY] {
            let mut x = [5.0, culprit];
            assert!(!clip(&mut x, true).scaled && x[0] == 5.0);
            assert!(clip(&mut x, false).scaled && x[1].is_nan());
            assert_eq!(x[0].is_nan(), culprit.is_nan());
        }
    }

    #[test]
    fn every_value_of_every_tensor_once() {
        let mut long = vec![1.0_f32; 3 * PIECE + 5];
        let mut wide = Array2::<f64>::ones((400, 700));
        let mut tall = Array2::<f32>::ones((300, 4));
        {
            let tensors = vec![
                TensorViewMut::Float32(ValuesMut::Contiguous(&mut long)),
                TensorViewMut::Float64(ValuesMut::Strided(wide.slice_mut(s![.., 5..]).into_dyn())),
                TensorViewMut::Float32(ValuesMut::Strided(
                    tall.slice_mut(s![..;2, ..;3]).into_dyn(),
                )),
                TensorViewMut::Float32(ValuesMut::Contiguous(&mut [])),
            ];
            scale(tensors, 0.5);
        }
        assert!(long.iter().all(|&x| x == 0.5));
        assert!(wide.indexed_iter().all(|((_, j), &x)| x == if j < 5 { 1.0 } else { 0.5 }));
        let touched = |i, j| i % 2 == 0 && j % 3 == 0;
        assert!(tall.indexed_iter().all(|((i, j), &x)| x == if touched(i, j) { 0.5 } else { 1.0 }));
    }
}
