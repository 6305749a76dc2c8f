//! Extent and sums of powers of finite values, and how those of several sets combine.

use super::exact::{ExactSum, Product};
use super::power::{greater, ldexp, lesser, scale};

/// Extent of finite values x, and sums of powers of their distance d = x - center.
///
/// Sums of the j-th power are in units of 2^(j unit).
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    /// The number of values.
    pub(super) count: u64,
    /// The smallest value, +Inf if there is none; a zero is never negative.
    pub(super) min: f64,
    /// The largest value, -Inf if there is none; a zero is never negative.
    pub(super) max: f64,
    /// Zero for everyday magnitudes, near the largest exponent for f64 data beyond 2^200 or below
    /// 2^-200, whose fourth powers leave the range of f64.
    pub(super) unit: i32,
    /// A number within the extent that differs from the mean by no more than about the standard
    /// deviation, so that nothing is lost when moments about the one become those about the other.
    pub(super) center: f64,
    /// Sums of d, d^2, d^3 and d^4.
    pub(super) powers: [f64; 4],
    /// Sum of |x|.
    pub(super) l1: f64,
}

impl Moments {
    /// The moments of no value.
    pub(super) const NOTHING: Self = Self {
        count: 0,
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
        unit: 0,
        center: 0.0,
        powers: [0.0; 4],
        l1: 0.0,
    };

    /// How far the mean is from the center, in units of 2^unit.
    fn offset(&self) -> f64 {
        self.powers[0] / self.count as f64
    }

    /// The mean in units of 2^unit. Rounding does not take it out of the extent, so the mean of
    /// equal values is their value.
    fn scaled_mean(&self) -> f64 {
        let mean = self.center + self.offset();
        mean.max(ldexp(self.min, -self.unit)).min(ldexp(self.max, -self.unit))
    }

    /// Means of the second, third and fourth power of the distance to the mean, in units of
    /// 2^(j unit). Exactly zero if all values are equal.
    fn central(&self) -> [f64; 3] {
        if self.min >= self.max {
            return [0.0; 3];
        }
        let [_, d2, d3, d4] = self.powers.map(|sum| sum / self.count as f64);
        let e = self.offset();
        let m2 = d2 - e * e;
        let m3 = d3 - 3.0 * e * d2 + 2.0 * e * e * e;
        let m4 = d4 - 4.0 * e * d3 + 6.0 * e * e * d2 - 3.0 * e * e * e * e;
        [m2.max(0.0), m3, m4.max(0.0)] // where rounding is all there is
    }

    /// Whether moments about the center lose digits when they become those about the mean.
    pub(super) fn is_off_center(&self) -> bool {
        let [d1, d2, ..] = self.powers;
        let n = self.count as f64;
        // (mean - center)^2 > variance
        d1 * d1 > n * d2 - d1 * d1 && self.min < self.max
    }

    /// Sum of x, as the user sees it.
    pub(super) fn total(&self) -> f64 {
        let n = self.count as f64;
        ldexp(n.mul_add(self.center, self.powers[0]), self.unit)
    }

    /// Sum of |x|, as the user sees it.
    pub(super) fn absolute_total(&self) -> f64 {
        ldexp(self.l1, self.unit)
    }

    /// Arithmetic mean; NaN if there is no value.
    pub(super) fn mean(&self) -> f64 {
        if self.count == 0 {
            return f64::NAN;
        }
        ldexp(self.scaled_mean(), self.unit)
    }

    /// Population variance; NaN if there is no value.
    pub(super) fn variance(&self) -> f64 {
        if self.count == 0 {
            return f64::NAN;
        }
        ldexp(self.central()[0], 2 * self.unit)
    }

    /// Population standard deviation; NaN if there is no value.
    pub(super) fn deviation(&self) -> f64 {
        if self.count == 0 {
            return f64::NAN;
        }
        ldexp(self.central()[0].sqrt(), self.unit)
    }

    /// Square root of the sum of x^2.
    pub(super) fn l2(&self) -> f64 {
        let [d1, d2, ..] = self.powers;
        let n = self.count as f64;
        // No more than the first digit cancels, since the center is near the mean.
        let squares = self.center.mul_add(2.0_f64.mul_add(d1, n * self.center), d2);
        ldexp(squares.sqrt(), self.unit)
    }

    /// Population skewness, m3 / m2^(3/2); NaN unless two values differ.
    pub(super) fn skewness(&self) -> f64 {
        let [m2, m3, _] = self.central();
        m3 / (m2 * m2.sqrt())
    }

    /// Excess population kurtosis, m4 / m2^2 - 3; NaN unless two values differ.
    pub(super) fn kurtosis(&self) -> f64 {
        let [m2, _, m4] = self.central();
        m4 / m2 / m2 - 3.0
    }
}

/// Extent and sums of powers of x itself, exact sums of what several [`Moments`] hold: neither the
/// order in which they are added nor their grouping changes a bit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PowerSums {
    pub(super) count: u64,
    /// By their bits.
    pub(super) extent: [u64; 2],
    /// Sums of x, x^2, x^3, x^4 and |x|.
    pub(super) sums: [ExactSum; 5],
}

impl PowerSums {
    pub(super) fn new(count: u64, min: f64, max: f64, sums: [ExactSum; 5]) -> Self {
        Self { count, extent: [min, max].map(f64::to_bits), sums }
    }

    fn nothing() -> Self {
        Self::new(0, Moments::NOTHING.min, Moments::NOTHING.max, Default::default())
    }

    pub(super) fn min(&self) -> f64 {
        f64::from_bits(self.extent[0])
    }

    pub(super) fn max(&self) -> f64 {
        f64::from_bits(self.extent[1])
    }

    /// Adds the values of `other`.
    pub(super) fn add(&mut self, other: &Moments) {
        self.add_extent(other.count, other.min, other.max);
        let [s1, s2, s3, s4, l1] = &mut self.sums;
        let [d1, d2, d3, d4] = other.powers;
        let (n, c, unit) = (other.count, other.center, other.unit);
        let add = |sum: &mut ExactSum, j: i32, x: f64, c_power: usize, times: u64| {
            if c_power == 0 {
                sum.add_f64(x, j * unit); // nothing else has to be multiplied, and so allocated
            } else if x != 0.0 && c != 0.0 {
                let product = (0..c_power).fold(Product::of(x), |product, _| product.times(c));
                sum.add(&product.times_integer(times).times_two_to(j * unit));
            }
        };
        add(l1, 1, other.l1, 0, 1);
        // (c + d)^j by the binomial theorem
        for (sum, j, terms) in [
            (s1, 1, &[(d1, 0, 1), (1.0, 1, n)][..]),
            (s2, 2, &[(d2, 0, 1), (d1, 1, 2), (1.0, 2, n)]),
            (s3, 3, &[(d3, 0, 1), (d2, 1, 3), (d1, 2, 3), (1.0, 3, n)]),
            (s4, 4, &[(d4, 0, 1), (d3, 1, 4), (d2, 2, 6), (d1, 3, 4), (1.0, 4, n)]),
        ] {
            for &(x, c_power, times) in terms {
                add(sum, j, x, c_power, times);
            }
        }
    }

    /// Adds the values of `other`.
    pub(super) fn add_all(&mut self, other: &Self) {
        self.add_extent(other.count, other.min(), other.max());
        for (sum, other) in self.sums.iter_mut().zip(&other.sums) {
            sum.add_sum(other);
        }
    }

    fn add_extent(&mut self, count: u64, min: f64, max: f64) {
        let (min, max) = (lesser(self.min(), min), greater(self.max(), max));
        self.count = self.count.saturating_add(count);
        self.extent = [min, max].map(f64::to_bits);
    }

    /// The moments about the mean.
    pub(super) fn moments(&self) -> Moments {
        let (min, max, n) = (self.min(), self.max(), self.count);
        let unit = scale(greater(max, -min));
        let [s1, s2, s3, s4, l1] = &self.sums;
        let c = s1.to_f64(unit) / n as f64;
        // (x - c)^j by the binomial theorem
        let about = |j: i32, sums: &[(&ExactSum, u64)]| {
            let mut sum = ExactSum::default();
            let one = Product::of(1.0).times_integer(n);
            let sums = sums.iter().map(|(sum, times)| sum.product().times_integer(*times));
            for (power, product) in sums.chain([one]).enumerate() {
                let product = (0..power).fold(product, |product, _| product.times(c));
                let product = product.times_two_to(power as i32 * unit);
                sum.add(&if power % 2 == 1 { product.negated() } else { product });
            }
            sum.to_f64(j * unit)
        };
        Moments {
            count: n,
            min,
            max,
            unit,
            center: c,
            powers: [
                about(1, &[(s1, 1)]),
                about(2, &[(s2, 1), (s1, 2)]),
                about(3, &[(s3, 1), (s2, 3), (s1, 3)]),
                about(4, &[(s4, 1), (s3, 4), (s2, 6), (s1, 4)]),
            ],
            l1: l1.to_f64(unit),
        }
    }

    /// Square root of the sum of x^2.
    pub(super) fn l2(&self) -> f64 {
        let [_, squares, ..] = &self.sums;
        squares.sqrt()
    }
}

/// What is kept of the finite values of a tensor.
#[derive(Debug, Clone)]
pub(super) enum Finite {
    /// Of one chunk at most.
    One(Moments),
    /// Of several chunks that had any.
    Many(Box<PowerSums>),
}

impl Finite {
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::One(moments) => moments.count,
            Self::Many(sums) => sums.count,
        }
    }

    pub(super) fn min(&self) -> f64 {
        match self {
            Self::One(moments) => moments.min,
            Self::Many(sums) => sums.min(),
        }
    }

    pub(super) fn max(&self) -> f64 {
        match self {
            Self::One(moments) => moments.max,
            Self::Many(sums) => sums.max(),
        }
    }

    /// The largest magnitude; zero if there is no value.
    pub(super) fn absmax(&self) -> f64 {
        if self.count() == 0 { 0.0 } else { greater(self.max(), -self.min()) }
    }

    pub(super) fn moments(&self) -> Moments {
        match self {
            Self::One(moments) => *moments,
            Self::Many(sums) => sums.moments(),
        }
    }

    pub(super) fn l2(&self) -> f64 {
        match self {
            Self::One(moments) => moments.l2(),
            Self::Many(sums) => sums.l2(),
        }
    }

    /// Forgets all but the sum of squares.
    pub(super) fn keep_squares(&mut self) {
        match self {
            Self::One(moments) if moments.center == 0.0 => {
                let [_, squares, ..] = moments.powers;
                let (count, unit) = (moments.count, moments.unit);
                let powers = [0.0, squares, 0.0, 0.0];
                *moments = Moments { count, unit, powers, ..Moments::NOTHING };
            }
            Self::One(moments) => {
                let mut sums = PowerSums::nothing();
                sums.add(moments);
                *self = Self::Many(Box::new(sums));
                self.keep_squares();
            }
            Self::Many(all) => {
                let [_, squares, ..] = std::mem::take(&mut all.sums);
                let count = all.count;
                **all = PowerSums::nothing();
                all.count = count;
                all.sums[1] = squares;
            }
        }
    }

    /// Adds the values of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        if other.count() == 0 {
            return;
        }
        match self {
            Self::One(moments) if moments.count == 0 => *self = other.clone(),
            Self::One(moments) => {
                let mut all = PowerSums::nothing();
                all.add(moments);
                all.add_finite(other);
                *self = Self::Many(Box::new(all));
            }
            Self::Many(sums) => sums.add_finite(other),
        }
    }
}

impl PowerSums {
    fn add_finite(&mut self, other: &Finite) {
        match other {
            Finite::One(moments) => self.add(moments),
            Finite::Many(sums) => self.add_all(sums),
        }
    }
}

/// Bit by bit: two are equal if no statistic can tell them apart.
impl PartialEq for Finite {
    fn eq(&self, other: &Self) -> bool {
        let bits = |m: &Moments| {
            let [d1, d2, d3, d4] = m.powers;
            [m.min, m.max, m.center, d1, d2, d3, d4, m.l1].map(f64::to_bits)
        };
        match (self, other) {
            (Self::One(a), Self::One(b)) => {
                (a.count, a.unit, bits(a)) == (b.count, b.unit, bits(b))
            }
            (Self::Many(a), Self::Many(b)) => a == b,
            _ => false,
        }
    }
}
