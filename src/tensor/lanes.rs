//! Sums of powers over lanes: the loops in which nearly all of the time goes.
//!
//! Sixteen sums run side by side, which is what fixes the bits of a result: lane `l` takes the
//! values at `l`, `l + 16` and so on (16-bit types by pairs), and lanes are added up as a tree.

use std::hint::black_box;

use super::power::two_to;
use super::prefetch::prefetch;

/// The number of sums side by side.
const LANES: usize = 16;

/// The number of values after which sums in single precision move to double: at most 64 additions
/// to one sum, so that its relative error stays below 64 * 2^-24.
const PART: usize = 64 * LANES;

/// Sums over the values x of powers of d = x - center, and of |x|.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lanes {
    d1: [f64; LANES],
    d2: [f64; LANES],
    d3: [f64; LANES],
    d4: [f64; LANES],
    l1: [f64; LANES],
}

impl Lanes {
    pub(super) const ZERO: Self = Self {
        d1: [0.0; LANES],
        d2: [0.0; LANES],
        d3: [0.0; LANES],
        d4: [0.0; LANES],
        l1: [0.0; LANES],
    };

    /// Sums of d, d^2, d^3, d^4 and |x|.
    pub(super) fn totals(&self) -> [f64; 5] {
        [self.d1, self.d2, self.d3, self.d4, self.l1].map(total)
    }

    /// Adds the sums of other values, which are about zero and in units of 2^unit.
    pub(super) fn add_scaled(&mut self, other: &Self, unit: i32) {
        for (sums, others, power) in [
            (&mut self.d1, &other.d1, 1),
            (&mut self.d2, &other.d2, 2),
            (&mut self.d3, &other.d3, 3),
            (&mut self.d4, &other.d4, 4),
            (&mut self.l1, &other.l1, 1),
        ] {
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum += other * two_to(power * unit);
            }
        }
    }

    /// Adds finite values in double precision.
    #[inline(always)]
    pub(super) fn add_f64(&mut self, values: &[f64], center: f64) {
        let (groups, rest) = values.as_chunks::<LANES>();
        for (p, part) in groups.chunks(PART / LANES).enumerate() {
            // Two lines for each group: one from each loop.
            let lines = PART / 8 * p;
            let mut squares = Squares::of(self);
            for (i, group) in part.iter().enumerate() {
                prefetch(values, lines.wrapping_add(i));
                squares.add::<true, f64>(group, center);
            }
            squares.move_to(self);
            let lines = lines.wrapping_add(part.len());
            let (mut d3, mut d4) = black_box((self.d3, self.d4));
            for (i, group) in part.iter().enumerate() {
                prefetch(values, lines.wrapping_add(i));
                for l in 0..LANES {
                    let d = group[l] - center;
                    let square = d * d;
                    d3[l] = square.mul_add(d, d3[l]);
                    d4[l] = square.mul_add(square, d4[l]);
                }
            }
            (self.d3, self.d4) = black_box((d3, d4));
        }
        self.add_rest(rest.iter().copied(), center);
    }

    /// What fills no group, in double precision. All goes to the first lane.
    #[inline(always)]
    fn add_rest(&mut self, values: impl Iterator<Item = f64>, center: f64) {
        for x in values {
            let d = x - center;
            let square = d * d;
            self.d1[0] += d;
            self.d2[0] = d.mul_add(d, self.d2[0]);
            self.d3[0] = square.mul_add(d, self.d3[0]);
            self.d4[0] = square.mul_add(square, self.d4[0]);
            self.l1[0] += x.abs();
        }
    }

    /// Adds values of f32: sums that norms are made of in double precision, third and fourth powers
    /// in single, in units of 2^-k. For `WIDE` see [`flush`].
    #[inline(always)]
    pub(super) fn add_f32<const WIDE: bool>(&mut self, values: &[f32], center: f32, k: i32) {
        let scale = two_to(k) as f32;
        let shift = center * scale;
        for (p, part) in values.chunks(PART).enumerate() {
            let (groups, rest) = part.as_chunks::<LANES>();
            // Half of the lines of a block for the squares, a quarter for the cubes.
            let lines = [32 + 32 * p, 96 + 16 * p];
            if center == 0.0 {
                self.add_squares::<false>(groups, center, values, lines[0]);
            } else {
                self.add_squares::<true>(groups, center, values, lines[0]);
            }
            let mut even = Cubes::ZERO;
            let mut odd = Cubes::ZERO;
            let (pairs, last) = groups.as_chunks::<2>();
            for (i, [a, b]) in pairs.iter().enumerate() {
                prefetch(values, lines[1].wrapping_add(i / 2));
                even.add::<WIDE>(a, scale, shift);
                odd.add::<WIDE>(b, scale, shift);
            }
            for group in last {
                even.add::<WIDE>(group, scale, shift);
            }
            let (d3, d4) = even.with(&odd);
            widen(&mut self.d3, d3, -3 * k);
            widen(&mut self.d4, d4, -4 * k);
            self.add_rest(rest.iter().copied().map(f64::from), f64::from(center));
        }
    }

    #[inline(always)]
    fn add_squares<const CENTERED: bool>(
        &mut self,
        groups: &[[f32; LANES]],
        center: f32,
        block: &[f32],
        line: usize,
    ) {
        let center = f64::from(center);
        let mut squares = Squares::of(self);
        let (pairs, rest) = groups.as_chunks::<2>();
        for (i, pair) in pairs.iter().enumerate() {
            prefetch(block, line.wrapping_add(i));
            for group in pair {
                squares.add::<CENTERED, f32>(group, center);
            }
        }
        for group in rest {
            squares.add::<CENTERED, f32>(group, center);
        }
        squares.move_to(self);
    }

    /// Adds values of a 16-bit type in single precision, in units of 2^-k. For `WIDE` see [`flush`].
    ///
    /// `unpack` makes of the two values in a word two of f32, smaller by `2^unit`.
    #[inline(always)]
    pub(super) fn add_16_bit<const WIDE: bool>(
        &mut self,
        values: &[u16],
        center: f32,
        k: i32,
        unit: i32,
        unpack: impl Fn(u32) -> [f32; 2] + Copy,
    ) {
        if center == 0.0 {
            self.add_pairs::<false, WIDE>(values, center, k, unit, unpack);
        } else {
            self.add_pairs::<true, WIDE>(values, center, k, unit, unpack);
        }
    }

    #[inline(always)]
    fn add_pairs<const CENTERED: bool, const WIDE: bool>(
        &mut self,
        values: &[u16],
        center: f32,
        k: i32,
        unit: i32,
        unpack: impl Fn(u32) -> [f32; 2] + Copy,
    ) {
        let scale = two_to(k + unit) as f32;
        let shift = center * two_to(k) as f32;
        let least = LEAST / scale;
        for (p, part) in values.chunks(PART).enumerate() {
            let line = 32 + 24 * p;
            let (mut d1, mut d2, mut l1) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
            let (mut d3, mut d4) = ([0.0; LANES], [0.0; LANES]);
            let (groups, rest) = part.as_chunks::<{ 2 * LANES }>();
            for (i, group) in groups.iter().enumerate() {
                prefetch(values, line.wrapping_add(i)); // three quarters of the lines and some more
                let words = words(group);
                for l in 0..LANES {
                    let [a, b] = unpack(words[l]).map(|x| flush::<WIDE>(x, least) * scale);
                    l1[l] += a.abs() + b.abs();
                    let [a, b] = if CENTERED {
                        [a - shift, b - shift].map(|d| flush::<WIDE>(d, LEAST))
                    } else {
                        [a, b]
                    };
                    d1[l] += a + b;
                    let (a2, b2) = (a * a, b * b);
                    d2[l] += a2 + b2;
                    d3[l] = b2.mul_add(b, a2.mul_add(a, d3[l]));
                    d4[l] = b2.mul_add(b2, a2.mul_add(a2, d4[l]));
                }
            }
            widen(&mut self.d1, d1, -k);
            widen(&mut self.d2, d2, -2 * k);
            widen(&mut self.d3, d3, -3 * k);
            widen(&mut self.d4, d4, -4 * k);
            widen(&mut self.l1, l1, -k);
            let unit = two_to(unit);
            let rest = rest.iter().map(|&raw| f64::from(unpack(u32::from(raw))[0]) * unit);
            self.add_rest(rest, f64::from(center));
        }
    }
}

/// The least magnitude whose square is a normal number of f32, and its exponent.
pub(super) const LEAST_EXPONENT: i32 = -63;
const LEAST: f32 = two_to(LEAST_EXPONENT) as f32;

/// Takes a number below `least` for zero, in a block of values so far apart that their powers leave
/// the range of f32. Beside the largest of the block, which is about 2^20 in units of 2^-k, it does
/// not show; and processors take long for results that are subnormal, or round them to zero if they
/// were told so.
#[inline(always)]
fn flush<const WIDE: bool>(x: f32, least: f32) -> f32 {
    if WIDE && x.abs() < least { 0.0 } else { x }
}

/// The sums that norms are made of, in double precision.
struct Squares {
    d1: [f64; LANES],
    d2: [f64; LANES],
    l1: [f64; LANES],
}

impl Squares {
    // Through memory: where one lane goes on alone, as in `add_rest`, loops may else fall apart.

    #[inline(always)]
    fn of(lanes: &Lanes) -> Self {
        let (d1, d2, l1) = black_box((lanes.d1, lanes.d2, lanes.l1));
        Self { d1, d2, l1 }
    }

    #[inline(always)]
    fn move_to(self, lanes: &mut Lanes) {
        (lanes.d1, lanes.d2, lanes.l1) = black_box((self.d1, self.d2, self.l1));
    }

    #[inline(always)]
    fn add<const CENTERED: bool, T: Copy + Into<f64>>(&mut self, group: &[T; LANES], center: f64) {
        for l in 0..LANES {
            let x = group[l].into();
            let d = if CENTERED { x - center } else { x };
            self.d1[l] += d;
            self.d2[l] = d.mul_add(d, self.d2[l]);
            self.l1[l] += x.abs();
        }
    }
}

/// The sums that skewness and kurtosis are made of, in single precision.
struct Cubes {
    d3: [f32; LANES],
    d4: [f32; LANES],
}

impl Cubes {
    const ZERO: Self = Self { d3: [0.0; LANES], d4: [0.0; LANES] };

    #[inline(always)]
    fn with(&self, other: &Self) -> ([f32; LANES], [f32; LANES]) {
        let add = |a: &[f32; LANES], b: &[f32; LANES]| std::array::from_fn(|l| a[l] + b[l]);
        (add(&self.d3, &other.d3), add(&self.d4, &other.d4))
    }

    #[inline(always)]
    fn add<const WIDE: bool>(&mut self, group: &[f32; LANES], scale: f32, shift: f32) {
        let least = LEAST / scale;
        for l in 0..LANES {
            let x = flush::<WIDE>(group[l], least);
            let d = flush::<WIDE>(x.mul_add(scale, -shift), LEAST);
            let square = d * d;
            self.d3[l] = square.mul_add(d, self.d3[l]);
            self.d4[l] = square.mul_add(square, self.d4[l]);
        }
    }
}

/// Sums of squares.
#[derive(Debug, Clone, Copy)]
pub(super) struct SquareLanes([f64; 2 * LANES]);

impl SquareLanes {
    pub(super) const ZERO: Self = Self([0.0; 2 * LANES]);

    pub(super) fn total(&self) -> f64 {
        let (low, high) = self.0.split_at(LANES);
        total(std::array::from_fn(|l| low[l] + high[l]))
    }

    /// Adds squares in double precision.
    #[inline(always)]
    pub(super) fn add<T: Copy>(&mut self, values: &[T], decode: impl Fn(T) -> f64 + Copy) {
        let mut lanes = self.0;
        let (groups, rest) = values.as_chunks::<{ 2 * LANES }>();
        for group in groups {
            prefetch(group, 0);
            prefetch(group, 1);
            for (sum, &x) in lanes.iter_mut().zip(group) {
                let x = decode(x);
                *sum = x.mul_add(x, *sum);
            }
        }
        for &x in rest {
            let x = decode(x);
            lanes[0] = x.mul_add(x, lanes[0]);
        }
        self.0 = lanes;
    }
    /// Adds squares of a 16-bit type in double precision; `unpack` makes of the two values in a word
    /// two of f32.
    #[inline(always)]
    pub(super) fn add_16_bit(&mut self, values: &[u16], unpack: impl Fn(u32) -> [f32; 2] + Copy) {
        let (groups, rest) = values.as_chunks::<{ 2 * LANES }>();
        let [mut low, mut high] = black_box([[0.0; LANES]; 2]);
        for group in groups {
            prefetch(group, 0);
            let words = words(group);
            for l in 0..LANES {
                let [a, b] = unpack(words[l]).map(f64::from);
                low[l] = a.mul_add(a, low[l]);
                high[l] = b.mul_add(b, high[l]);
            }
        }
        let lanes = black_box([low, high]);
        for (sum, square) in self.0.iter_mut().zip(lanes.as_flattened()) {
            *sum += square;
        }
        for &raw in rest {
            let x = f64::from(unpack(u32::from(raw))[0]);
            self.0[0] = x.mul_add(x, self.0[0]);
        }
    }
}

/// Each two 16-bit values as one word.
#[inline(always)]
fn words(values: &[u16; 2 * LANES]) -> [u32; LANES] {
    std::array::from_fn(|l| u32::from(values[2 * l]) | u32::from(values[2 * l + 1]) << 16)
}

/// Moves sums in single precision to double, and out of their unit.
#[inline(always)]
fn widen(sums: &mut [f64; LANES], lanes: [f32; LANES], unit: i32) {
    let unit = two_to(unit);
    // Through memory: what is converted by halves may else be computed by halves, or one by one.
    let lanes = black_box(lanes);
    for (sum, lane) in sums.iter_mut().zip(lanes) {
        *sum += f64::from(lane) * unit;
    }
}

/// The sum of all lanes, neighbours of equal distance first.
fn total(mut lanes: [f64; LANES]) -> f64 {
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for l in 0..n {
            lanes[l] += lanes[l + n];
        }
    }
    lanes[0]
}
