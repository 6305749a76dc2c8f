//! What the kernels ask of a block of values, for each type that they read.

use super::count::OUTSIDE;
use super::dtype::{BFloat16, Float, Float16, Float32, Float64};
use super::lanes::{Lanes, SquareLanes};
use super::power::{greater, two_to};
use super::prefetch::prefetch;

/// The memory of one block. It stays in the first-level cache while it is read for its extent,
/// its sums and its histogram.
const BLOCK_BYTES: usize = 8 << 10;

/// Where the values of a block lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// The smallest value.
    pub(super) min: f64,
    /// The largest value.
    pub(super) max: f64,
    /// The magnitude of least size other than zero, as bits; more than any if all are zero.
    pub(super) least: u64,
    /// Whether all values are finite. Nothing else holds if not.
    pub(super) finite: bool,
}

impl Extent {
    /// The extent of finite values, by the least and the largest of the integers that
    /// [`in_order`] makes of them.
    fn in_order<F: Float>(min: i64, max: i64, least: u64) -> Self {
        let value = |key: i64| {
            let magnitude = F::magnitude(if key < 0 { !key } else { key }.cast_unsigned());
            if key < 0 { -magnitude } else { magnitude }
        };
        Self { min: value(min), max: value(max), least, finite: true }
    }

    pub(super) fn absmax(&self) -> f64 {
        greater(self.max, -self.min)
    }
}

/// A type that is read in blocks.
pub(super) trait Block: Float {
    /// The number of values of a block.
    const LEN: usize = BLOCK_BYTES / size_of::<Self::Raw>();

    /// Where at least one value lies. Bits are compared, not numbers: subnormal ones are what they are
    /// whatever the processor was told.
    fn extent(block: &[Self::Raw]) -> Extent;

    /// Writes the exponent field of each value as a code, in any order, relative to `base`: 1 to 63, or zero or
    /// [`OUTSIDE`] where it is none of the 63 above `base`. Types of 32 bits and less compute modulo
    /// 256: a `base` below zero is for blocks whose largest field is `base + 63`.
    fn codes(block: &[Self::Raw], base: i32, codes: &mut [u8]);

    /// Copies a block with zero in the place of what is not finite. Returns the extent of the finite
    /// values, whose `min` and `max` are of use if there is one, and the numbers of NaN, of +Inf and
    /// of -Inf.
    fn sift(block: &[Self::Raw], sifted: &mut [Self::Raw]) -> (Extent, [u64; 3]);

    /// Writes the position of the highest bit of each subnormal number as a code, from 1; that of
    /// any other value is 0.
    fn subnormal_codes(block: &[Self::Raw], codes: &mut [u8]);

    /// Sums values with single precision at least, in units of 2^-k where that is all. `WIDE` is for
    /// blocks in which some are too small for that: see [`super::lanes::LEAST_EXPONENT`].
    fn sum<const WIDE: bool>(block: &[Self::Raw], center: f64, k: i32, lanes: &mut Lanes);

    /// Adds the squares of values. Subnormal ones, which some threads read as zero, do not show in a
    /// sum as large as [`Block::LEAST_SQUARES`].
    #[inline(always)]
    fn add_squares(values: &[Self::Raw], lanes: &mut SquareLanes) {
        lanes.add(values, Self::decode);
    }

    /// See [`Block::add_squares`].
    const LEAST_SQUARES: f64 = two_to(if Self::NARROW { -160 } else { -900 });

    /// The powers of two by which [`Block::sum`] can scale values with this largest exponent, or
    /// zero where it needs no scale; `None` where double precision is needed.
    fn scale(exponent: i32) -> Option<i32>;
}

/// An integer that is ordered as the values are, from the bits of one.
macro_rules! in_order {
    ($bits:ident, $signed:ident) => {{
        let signed = $bits.cast_signed();
        let flip = (signed >> ($signed::BITS - 1)).cast_unsigned() >> 1;
        signed ^ flip.cast_signed()
    }};
}

/// The methods of [`Block`] that read values as integers of their own width.
macro_rules! integer_loops {
    ($unsigned:ident, $signed:ident) => {
        #[inline(always)]
        fn extent(block: &[Self::Raw]) -> Extent {
            const LANES: usize = 128 / size_of::<$unsigned>();
            const SIGN: $unsigned = 1 << ($unsigned::BITS - 1);
            let (mut signed, mut unsigned) = ([$signed::MIN; LANES], [0; LANES]);
            let mut least = [$unsigned::MAX; LANES];
            let (groups, rest) = block.as_chunks::<LANES>();
            for (i, group) in groups.iter().enumerate() {
                prefetch(block, i / 2); // a quarter of the lines
                for l in 0..LANES {
                    let bits = Self::bits(group[l]) as $unsigned;
                    signed[l] = signed[l].max(bits.cast_signed());
                    unsigned[l] = unsigned[l].max(bits);
                    // Twice the magnitude, less one: of zero that is the largest.
                    least[l] = least[l].min(bits.wrapping_add(bits.wrapping_sub(1)));
                }
            }
            let mut signed = signed.into_iter().fold($signed::MIN, $signed::max);
            let mut unsigned = unsigned.into_iter().fold(0, $unsigned::max);
            let mut least = least.into_iter().fold($unsigned::MAX, $unsigned::min);
            for &raw in rest {
                let bits = Self::bits(raw) as $unsigned;
                signed = signed.max(bits.cast_signed());
                unsigned = unsigned.max(bits);
                least = least.min(bits.wrapping_add(bits.wrapping_sub(1)));
            }
            // Among positive values the larger integer is the larger value, among negative ones the
            // smaller, and with the sign read as a bit the negative ones are the largest integers.
            let (max, min) = if signed >= 0 && unsigned >= SIGN {
                (signed.cast_unsigned(), unsigned)
            } else {
                let bits = block.iter().map(|&raw| Self::bits(raw) as $unsigned);
                let closest = bits.fold($unsigned::MAX, $unsigned::min);
                if signed >= 0 { (unsigned, closest) } else { (closest, unsigned) }
            };
            let infinity = ((Self::FIELDS - 1) << Self::MANTISSA_BITS) as $unsigned;
            let [min, max, least] = [min, max, least].map(u64::from);
            let value = |bits| {
                let magnitude = Self::magnitude(bits & u64::from(!SIGN));
                if bits & u64::from(SIGN) == 0 { magnitude } else { -magnitude }
            };
            let finite =
                [min, max].iter().all(|bits| bits & u64::from(!SIGN) < u64::from(infinity));
            Extent { min: value(min), max: value(max), least: least / 2 + 1, finite }
        }

        #[inline(always)]
        fn sift(block: &[Self::Raw], sifted: &mut [Self::Raw]) -> (Extent, [u64; 3]) {
            let infinity = ((Self::FIELDS - 1) << Self::MANTISSA_BITS) as $unsigned;
            let sign = 1 << ($unsigned::BITS - 1);
            let (mut min, mut max, mut least) = ($signed::MAX, $signed::MIN, $unsigned::MAX);
            // No count of one block leaves the range of the type.
            let (mut all, mut posinf, mut neginf) =
                (0 as $unsigned, 0 as $unsigned, 0 as $unsigned);
            for (to, &raw) in sifted.iter_mut().zip(block) {
                let bits = Self::bits(raw) as $unsigned;
                let finite = bits & (sign - 1) < infinity;
                all = all.wrapping_add($unsigned::from(!finite));
                posinf = posinf.wrapping_add($unsigned::from(bits == infinity));
                neginf = neginf.wrapping_add($unsigned::from(bits == infinity | sign));
                *to = if finite { raw } else { Self::Raw::default() };
                let key = in_order!(bits, $signed);
                min = min.min(if finite { key } else { $signed::MAX });
                max = max.max(if finite { key } else { $signed::MIN });
                let bits = if finite { bits } else { 0 };
                least = least.min((bits << 1).wrapping_sub(1));
            }
            let least = u64::from(least / 2) + 1;
            let extent = Extent::in_order::<Self>(i64::from(min), i64::from(max), least);
            (extent, [all - posinf - neginf, posinf, neginf].map(u64::from))
        }

        #[inline(always)]
        fn subnormal_codes(block: &[Self::Raw], codes: &mut [u8]) {
            for (code, &raw) in codes.iter_mut().zip(block) {
                let mantissa = if Self::field(raw) == 0 { Self::mantissa(raw) } else { 0 };
                *code = if $unsigned::BITS <= 32 {
                    // As the exponent of a number, which is quicker; zero has none.
                    ((mantissa as u32 as f32).to_bits() >> 23).saturating_sub(126) as u8
                } else {
                    (u64::BITS - mantissa.leading_zeros()) as u8
                };
            }
        }
    };
}

impl Block for Float32 {
    integer_loops!(u32, i32);

    #[inline(always)]
    fn codes(block: &[f32], base: i32, codes: &mut [u8]) {
        const N: usize = 16;
        let code = |field: u8| field.wrapping_sub(base as u8).min(OUTSIDE);
        let (groups, rest) = block.as_chunks::<{ 4 * N }>();
        let (coded, left) = codes.as_chunks_mut::<{ 4 * N }>();
        for (codes, group) in coded.iter_mut().zip(groups) {
            // The fields of four values side by side in one word.
            let mut fields = [[0; 4]; N];
            for l in 0..N {
                let (a, b) = (group[l].to_bits() >> 23, group[N + l].to_bits() >> 15);
                let (c, d) = (group[2 * N + l].to_bits() >> 7, group[3 * N + l].to_bits() << 1);
                let word = a & 0xff | b & 0xff00 | c & 0x00ff_0000 | d & 0xff00_0000;
                fields[l] = word.to_ne_bytes();
            }
            for (to, &field) in codes.iter_mut().zip(fields.as_flattened()) {
                *to = code(field);
            }
        }
        for (to, x) in left.iter_mut().zip(rest) {
            *to = code((x.to_bits() >> 23) as u8);
        }
    }

    #[inline(always)]
    fn sum<const WIDE: bool>(block: &[f32], center: f64, k: i32, lanes: &mut Lanes) {
        lanes.add_f32::<WIDE>(block, center as f32, k);
    }

    fn scale(exponent: i32) -> Option<i32> {
        single_scale(exponent)
    }
}

impl Block for BFloat16 {
    integer_loops!(u16, i16);

    #[inline(always)]
    fn codes(block: &[u16], base: i32, codes: &mut [u8]) {
        codes_16_bit::<Self>(block, base, codes);
    }

    #[inline(always)]
    fn sum<const WIDE: bool>(block: &[u16], center: f64, k: i32, lanes: &mut Lanes) {
        lanes.add_16_bit::<WIDE>(block, center as f32, k, 0, unpack_brain);
    }

    #[inline(always)]
    fn add_squares(values: &[u16], lanes: &mut SquareLanes) {
        lanes.add_16_bit(values, unpack_brain);
    }

    fn scale(exponent: i32) -> Option<i32> {
        single_scale(exponent)
    }
}

impl Block for Float16 {
    integer_loops!(u16, i16);

    #[inline(always)]
    fn codes(block: &[u16], base: i32, codes: &mut [u8]) {
        codes_16_bit::<Self>(block, base, codes);
    }

    #[inline(always)]
    fn sum<const WIDE: bool>(block: &[u16], center: f64, k: i32, lanes: &mut Lanes) {
        // The exponent field goes where f32 has its own; what that lacks is the difference of the
        // two biases.
        lanes.add_16_bit::<WIDE>(block, center as f32, k, Float32::BIAS - Self::BIAS, |word| {
            let low = word << 16 & 0x8000_0000 | (word & 0x7fff) << 13;
            let high = word & 0x8000_0000 | (word & 0x7fff_0000) >> 3;
            [low, high].map(f32::from_bits)
        });
    }

    /// The fourth power of no normal number of this type leaves the range of f32.
    fn scale(_exponent: i32) -> Option<i32> {
        Some(0)
    }
}

impl Block for Float64 {
    integer_loops!(u64, i64);

    #[inline(always)]
    fn codes(block: &[f64], base: i32, codes: &mut [u8]) {
        for (code, x) in codes.iter_mut().zip(block) {
            let field = (x.to_bits() >> 52 & 0x7ff) as i32;
            *code = (field - base).cast_unsigned().min(u32::from(OUTSIDE)) as u8;
        }
    }

    #[inline(always)]
    fn sum<const WIDE: bool>(block: &[f64], center: f64, _k: i32, lanes: &mut Lanes) {
        lanes.add_f64(block, center);
    }

    fn scale(_exponent: i32) -> Option<i32> {
        Some(0)
    }
}

/// The two values in a word.
#[inline(always)]
fn unpack_brain(word: u32) -> [f32; 2] {
    [word << 16, word & 0xffff_0000].map(f32::from_bits)
}

/// The largest magnitude becomes about 2^20: sums of its fourth power, and the squares of what is
/// 2^83 times smaller, are normal numbers of f32.
fn single_scale(exponent: i32) -> Option<i32> {
    let k = 20 - exponent;
    (k <= 127).then_some(k)
}

#[inline(always)]
fn codes_16_bit<F: Float<Raw = u16>>(block: &[u16], base: i32, codes: &mut [u8]) {
    const N: usize = 32;
    let mask = (F::FIELDS - 1) as u16;
    let code = |field: u8| field.wrapping_sub(base as u8).min(OUTSIDE);
    let (groups, rest) = block.as_chunks::<{ 2 * N }>();
    let (coded, left) = codes.as_chunks_mut::<{ 2 * N }>();
    for (codes, group) in coded.iter_mut().zip(groups) {
        // The fields of two values side by side in one word.
        let mut fields = [[0; 2]; N];
        for l in 0..N {
            let (a, b) = (group[l] >> F::MANTISSA_BITS, group[N + l] >> F::MANTISSA_BITS);
            fields[l] = (a & mask | (b & mask) << 8).to_ne_bytes();
        }
        for (to, &field) in codes.iter_mut().zip(fields.as_flattened()) {
            *to = code(field);
        }
    }
    for (to, raw) in left.iter_mut().zip(rest) {
        *to = code((raw >> F::MANTISSA_BITS & mask) as u8);
    }
}
