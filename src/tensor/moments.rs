//! Extent, sums and central moments of finite values, and how those of two sets combine.

use super::power::{ldexp, scale};

/// Extent, sums and central moments of finite values.
///
/// Sums of the j-th power are in units of 2^(j k), where `k` is [`Moments::scale`]: zero for
/// everyday magnitudes, near the largest exponent for f64 data beyond 2^200 or below 2^-200, whose
/// fourth powers leave the range of f64.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    /// The number of values.
    pub(super) count: u64,
    /// The smallest value, +Inf if there is none; a zero is never negative.
    pub(super) min: f64,
    /// The largest value, -Inf if there is none; a zero is never negative.
    pub(super) max: f64,
    /// Sum of x.
    pub(super) sum: f64,
    /// Sum of |x|.
    pub(super) l1: f64,
    /// Sum of (x - mean)^2. This and the next two are exactly zero if all values are equal.
    pub(super) m2: f64,
    /// Sum of (x - mean)^3.
    pub(super) m3: f64,
    /// Sum of (x - mean)^4.
    pub(super) m4: f64,
}

impl Moments {
    /// The moments of no value.
    pub(super) const NOTHING: Self = Self {
        count: 0,
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
        sum: 0.0,
        l1: 0.0,
        m2: 0.0,
        m3: 0.0,
        m4: 0.0,
    };

    /// The largest magnitude; zero if there is no value.
    pub(super) fn absmax(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.max.max(-self.min) }
    }

    /// The exponent of the unit that the sums are kept in.
    pub(super) fn scale(&self) -> i32 {
        scale(self.absmax())
    }

    /// The moments of the values of both.
    ///
    /// Chan, Golub and `LeVeque` (1982) for the second moment, Pébay (SAND2008-6212) for the third
    /// and the fourth. The order of the two sides does not change a bit of the result.
    #[must_use]
    pub(super) fn merge(&self, other: &Self) -> Self {
        if self.count == 0 {
            return *other;
        }
        if other.count == 0 {
            return *self;
        }
        let mut merged = Self {
            count: self.count.saturating_add(other.count),
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            ..Self::NOTHING
        };
        let (a, b) = (self.in_units_of(merged.scale()), other.in_units_of(merged.scale()));
        merged.sum = a.sum + b.sum;
        merged.l1 = a.l1 + b.l1;
        if merged.min == merged.max {
            return merged;
        }
        let n = merged.count as f64;
        let (wa, wb) = (a.count as f64 / n, b.count as f64 / n);
        let delta = b.center(merged.scale()) - a.center(merged.scale());
        let delta2 = delta * delta;
        let between = n * (wa * wb) * delta2;
        merged.m2 = (a.m2 + b.m2) + between;
        merged.m3 =
            (a.m3 + b.m3) + between * (delta * (wa - wb)) + 3.0 * (delta * (wa * b.m2 - wb * a.m2));
        merged.m4 = (a.m4 + b.m4)
            + between * delta2 * ((wa * wa + wb * wb) - wa * wb)
            + 6.0 * delta2 * (wa * wa * b.m2 + wb * wb * a.m2)
            + 4.0 * (delta * (wa * b.m3 - wb * a.m3));
        merged.m4 = merged.m4.max(0.0); // where rounding is all there is
        merged
    }

    /// The mean of at least one value in units of 2^scale, which the sum must be in. Rounding does
    /// not take it out of the extent, so the mean of equal values is their value.
    pub(super) fn center(&self, scale: i32) -> f64 {
        let mean = self.sum / self.count as f64;
        mean.max(ldexp(self.min, -scale)).min(ldexp(self.max, -scale))
    }

    /// The same moments in units of the powers of 2^scale.
    fn in_units_of(&self, scale: i32) -> Self {
        let k = self.scale() - scale;
        if k == 0 {
            return *self;
        }
        Self {
            sum: ldexp(self.sum, k),
            l1: ldexp(self.l1, k),
            m2: ldexp(self.m2, 2 * k),
            m3: ldexp(self.m3, 3 * k),
            m4: ldexp(self.m4, 4 * k),
            ..*self
        }
    }

    /// Sum of x, as the user sees it.
    pub(super) fn total(&self) -> f64 {
        ldexp(self.sum, self.scale())
    }

    /// Sum of |x|, as the user sees it.
    pub(super) fn absolute_total(&self) -> f64 {
        ldexp(self.l1, self.scale())
    }

    /// Arithmetic mean; NaN if there is no value.
    pub(super) fn mean(&self) -> f64 {
        if self.count == 0 {
            return f64::NAN;
        }
        ldexp(self.center(self.scale()), self.scale())
    }

    /// Population variance; NaN if there is no value.
    pub(super) fn variance(&self) -> f64 {
        ldexp(self.m2 / self.count as f64, 2 * self.scale())
    }

    /// Population standard deviation; NaN if there is no value.
    pub(super) fn deviation(&self) -> f64 {
        ldexp((self.m2 / self.count as f64).sqrt(), self.scale())
    }

    /// Square root of the sum of x^2. Both terms are sums of squares, so nothing cancels.
    pub(super) fn l2(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        ldexp((self.m2 + self.sum * (self.sum / self.count as f64)).sqrt(), self.scale())
    }

    /// Population skewness, m3 / m2^(3/2); NaN unless two values differ.
    pub(super) fn skewness(&self) -> f64 {
        (self.count as f64).sqrt() * (self.m3 / (self.m2 * self.m2.sqrt()))
    }

    /// Excess population kurtosis, m4 / m2^2 - 3; NaN unless two values differ.
    pub(super) fn kurtosis(&self) -> f64 {
        self.count as f64 * (self.m4 / self.m2 / self.m2) - 3.0
    }
}
