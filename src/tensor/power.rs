//! Powers of two: exponents, and scaling that costs no precision.

/// Moments of values whose largest exponent lies within plus or minus this need no scale: neither
/// x^4 summed over 2^40 values nor the fourth power of the last bit of x leaves the range of f64.
const SAFE_EXPONENT: i32 = 200;

/// floor(log2 |x|) of a finite value other than zero, subnormal or not.
pub(super) fn exponent(x: f64) -> i32 {
    let magnitude = x.abs().to_bits();
    match (magnitude >> 52) as i32 {
        0 => magnitude.checked_ilog2().map_or(-1075, |bit| bit as i32 - 1074),
        field => field - 1023,
    }
}

/// The exponent `k` such that sums of the powers of x are kept in units of 2^k.
///
/// A function of the largest magnitude alone, so that records need not agree on it beforehand.
/// It is zero for every f32, f16 and bf16 tensor.
pub(super) fn scale(absmax: f64) -> i32 {
    if is_zero(absmax) || !absmax.is_finite() {
        return 0;
    }
    let k = exponent(absmax);
    if k.abs() <= SAFE_EXPONENT { 0 } else { k }
}

// By their bits: a thread may have asked the processor to take subnormal numbers for zero.

/// Whether `x` is zero of either sign.
pub(super) fn is_zero(x: f64) -> bool {
    // Else the compiler makes a comparison of numbers of it.
    std::hint::black_box(x.to_bits()) << 1 == 0
}

/// The smaller of two numbers; zero is never negative: which of the two came first must not show.
pub(super) fn lesser(a: f64, b: f64) -> f64 {
    let less = if a.total_cmp(&b).is_lt() { a } else { b };
    if is_zero(less) { 0.0 } else { less }
}

/// The larger of two numbers; zero is never negative.
pub(super) fn greater(a: f64, b: f64) -> f64 {
    let greater = if a.total_cmp(&b).is_gt() { a } else { b };
    if is_zero(greater) { 0.0 } else { greater }
}

/// x * 2^k, exact unless the result leaves the range of normal numbers.
pub(super) fn ldexp(x: f64, k: i32) -> f64 {
    const STEP: i32 = 1022;
    let (mut x, mut k) = (x, k);
    while k > STEP && x != 0.0 && x.is_finite() {
        x *= two_to(STEP);
        k -= STEP;
    }
    while k < -STEP && x != 0.0 && x.is_finite() {
        x *= two_to(-STEP);
        k += STEP;
    }
    x * two_to(k.clamp(-STEP, STEP))
}

/// 2^k for -1022 <= k <= 1023.
#[inline(always)]
pub(super) const fn two_to(k: i32) -> f64 {
    f64::from_bits(((k + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponent_of_normal_and_subnormal_values() {
        for (x, expected) in [
            (1.0, 0),
            (-1.999, 0),
            (2.0, 1),
            (0.1, -4),
            (f64::MAX, 1023),
            (f64::MIN_POSITIVE, -1022),
            (f64::MIN_POSITIVE / 2.0, -1023),
            (f64::from_bits(1), -1074),
            (-f64::from_bits(3), -1073),
        ] {
            assert_eq!(exponent(x), expected, "{x:e}");
        }
    }

    #[test]
    fn scale_is_zero_for_the_range_of_f32() {
        assert_eq!(scale(f64::from(f32::MAX)), 0);
        assert_eq!(scale(f64::from(f32::from_bits(1))), 0);
        assert_eq!(scale(0.0), 0);
        assert_eq!(scale(1e300), 996);
        assert_eq!(scale(1e-300), -997);
    }

    #[test]
    fn ldexp_spans_the_whole_range() {
        assert_eq!(ldexp(f64::from_bits(1), 1074 + 1023), f64::MAX / (2.0 - f64::EPSILON));
        assert_eq!(ldexp(1.5, -1074), f64::from_bits(2));
        assert_eq!(ldexp(3.0, 2), 12.0);
        assert_eq!(ldexp(1.0, 2000), f64::INFINITY);
        assert_eq!(ldexp(1.0, -5000), 0.0);
        assert_eq!(ldexp(-0.0, 5000), 0.0);
        assert!(ldexp(f64::NAN, 5000).is_nan());
    }
}
