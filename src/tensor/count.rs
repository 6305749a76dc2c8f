//! How often each of a few byte codes occurs.
#![allow(unsafe_code)] // instructions that not every processor has

/// The number of values that one round of [`avx512_vbmi`] counts.
#[cfg(target_arch = "x86_64")]
pub(super) const PADDING: usize = 1024;

/// The code of an exponent field that is out of the window.
pub(super) const OUTSIDE: u8 = 64;

/// Up to this many codes are each compared with every value; of more a table is kept.
const MOST_COMPARED: usize = 40;

/// Adds to `counts[i]` how many of `codes` are `first - i`.
#[inline(always)]
pub(super) fn portable(codes: &[u8], first: u8, counts: &mut [u32]) {
    if counts.len() > MOST_COMPARED {
        scatter(codes, first, counts);
        return;
    }
    for (i, counts) in counts.chunks_mut(4).enumerate() {
        let wanted: [u8; 4] = std::array::from_fn(|j| first.wrapping_sub((4 * i + j) as u8));
        compare(codes, wanted, counts);
    }
}

/// Four codes at a time.
#[inline(always)]
fn compare(codes: &[u8], wanted: [u8; 4], counts: &mut [u32]) {
    const LANES: usize = 64;
    // A lane sees 255 codes at most, so that its count fits a byte.
    for part in codes.chunks(255 * LANES) {
        let mut lanes = [[0_u8; LANES]; 4];
        let (groups, rest) = part.as_chunks::<LANES>();
        for group in groups {
            for (lanes, wanted) in lanes.iter_mut().zip(wanted) {
                for (lane, &code) in lanes.iter_mut().zip(group) {
                    *lane = lane.wrapping_add(u8::from(code == wanted));
                }
            }
        }
        for ((count, lanes), wanted) in counts.iter_mut().zip(lanes).zip(wanted) {
            *count += rest.iter().map(|&code| u32::from(code == wanted)).sum::<u32>();
            *count += lanes.iter().map(|&n| u32::from(n)).sum::<u32>();
        }
    }
}

/// Four tables side by side: increments of the same counter would wait for each other.
#[inline(always)]
fn scatter(codes: &[u8], first: u8, counts: &mut [u32]) {
    let mut tables = [[0_u32; 256]; 4];
    for group in codes.chunks(4) {
        for (table, &code) in tables.iter_mut().zip(group) {
            // No number of codes that fits memory wraps; a checked addition would cost a branch.
            let count = &mut table[usize::from(code)];
            *count = count.wrapping_add(1);
        }
    }
    for (i, count) in counts.iter_mut().enumerate() {
        let code = usize::from(first.wrapping_sub(i as u8));
        *count += tables.iter().map(|table| table[code]).sum::<u32>();
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::count as avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::count as avx512_vbmi;

// Both count by positional popcount. A table turns each code into a byte with one bit set, by which
// a vector of codes becomes one-hot bytes for eight codes at once; carry-save adders sum them bit by
// bit (Harley and Seal; Muła, Kurz and Lemire, 2018, arXiv:1611.07612).

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi8, _mm256_adds_epu8, _mm256_and_si256, _mm256_loadu_si256,
        _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8, _mm256_setzero_si256,
        _mm256_shuffle_epi8, _mm256_sub_epi8, _mm256_xor_si256,
    };

    /// Codes that one table tells apart: the bits of a byte.
    const BITS: usize = 8;
    /// Codes of a vector.
    const WIDTH: usize = 32;
    /// Sixteen vectors, as they are added up.
    type Round = [[[[[u8; WIDTH]; 2]; 2]; 2]; 2];

    /// Adds to `counts[i]` how many of `codes` are `first - i`, and returns how many of the first
    /// codes have been counted.
    #[inline]
    #[target_feature(enable = "avx2,popcnt")]
    pub(in super::super) fn count(codes: &[u8], first: u8, counts: &mut [u32]) -> usize {
        let (vectors, _) = codes.as_chunks::<WIDTH>();
        let (rounds, _) =
            vectors.as_chunks::<2>().0.as_chunks::<2>().0.as_chunks::<2>().0.as_chunks::<2>();
        let mut first = first;
        for counts in counts.chunks_mut(BITS) {
            let mut counter = Counter::new(first);
            let mut sums = [0; BITS];
            for round in rounds {
                add_bits(counter.sixteens(round), 4, &mut sums);
            }
            for (shift, ones) in counter.sums.into_iter().enumerate() {
                add_bits(ones, shift as u32, &mut sums);
            }
            for (count, sum) in counts.iter_mut().zip(sums) {
                *count = count.wrapping_add(sum); // a chunk is far too small for that
            }
            first = first.wrapping_sub(BITS as u8);
        }
        size_of_val(rounds)
    }

    /// Counts eight codes.
    struct Counter {
        first: __m256i,
        /// Bit b of byte k of `sums[j]` counts 2^j codes `first - b` at place k of a vector.
        sums: [__m256i; 4],
    }

    impl Counter {
        #[inline]
        #[target_feature(enable = "avx2")]
        fn new(first: u8) -> Self {
            let first = _mm256_set1_epi8(first.cast_signed());
            Self { first, sums: [_mm256_setzero_si256(); 4] }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        fn ones(&self, codes: &[u8; WIDTH]) -> __m256i {
            // A shuffle makes nothing of bytes above 127, which are all but those below 16.
            let places = _mm256_sub_epi8(self.first, load(codes));
            let places = _mm256_adds_epu8(places, _mm256_set1_epi8(0x70));
            _mm256_shuffle_epi8(load(&ONE_HOT), places)
        }

        // What these return is what `sums` has no room for: each counts twice as much as the one
        // before.

        #[inline]
        #[target_feature(enable = "avx2")]
        fn twos(&mut self, codes: &[[u8; WIDTH]; 2]) -> __m256i {
            let [a, b] = [self.ones(&codes[0]), self.ones(&codes[1])];
            add(&mut self.sums[0], a, b)
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        fn fours(&mut self, codes: &[[[u8; WIDTH]; 2]; 2]) -> __m256i {
            let [a, b] = [self.twos(&codes[0]), self.twos(&codes[1])];
            add(&mut self.sums[1], a, b)
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        fn eights(&mut self, codes: &[[[[u8; WIDTH]; 2]; 2]; 2]) -> __m256i {
            let [a, b] = [self.fours(&codes[0]), self.fours(&codes[1])];
            add(&mut self.sums[2], a, b)
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        fn sixteens(&mut self, codes: &Round) -> __m256i {
            let [a, b] = [self.eights(&codes[0]), self.eights(&codes[1])];
            add(&mut self.sums[3], a, b)
        }
    }

    /// A bit for each of the first eight places, the same for both halves of a vector.
    const ONE_HOT: [u8; WIDTH] = {
        let mut table = [0; WIDTH];
        let mut bit = 0;
        while bit < BITS {
            table[bit] = 1 << bit;
            table[WIDTH / 2 + bit] = 1 << bit;
            bit += 1;
        }
        table
    };

    /// A full adder of bits: sums three, keeps the sum in the first and returns the carry.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(sum: &mut __m256i, a: __m256i, b: __m256i) -> __m256i {
        let half = _mm256_xor_si256(a, b);
        let carry = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(half, *sum));
        *sum = _mm256_xor_si256(half, *sum);
        carry
    }

    /// Adds to `sums[b]` how many bytes have bit b, in units of 2^shift.
    #[inline]
    #[target_feature(enable = "avx2,popcnt")]
    fn add_bits(bytes: __m256i, shift: u32, sums: &mut [u32; BITS]) {
        let mut bytes = bytes;
        for sum in sums.iter_mut().rev() {
            let n = _mm256_movemask_epi8(bytes).count_ones();
            *sum = sum.wrapping_add(n << shift); // a chunk is far too small for that
            bytes = _mm256_add_epi8(bytes, bytes);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8; WIDTH]) -> __m256i {
        // SAFETY: the array has as many bytes as the vector.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm256_storeu_si256, _mm512_add_epi8, _mm512_and_si512, _mm512_cvtepi64_epi32,
        _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_min_epu8,
        _mm512_permutexvar_epi8, _mm512_popcnt_epi8, _mm512_sad_epu8, _mm512_set1_epi8,
        _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setzero_si512,
        _mm512_slli_epi16, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_srli_epi32,
        _mm512_sub_epi8, _mm512_ternarylogic_epi32, _mm512_ternarylogic_epi64,
    };

    use super::{OUTSIDE, PADDING};
    use crate::tensor::dtype::Float;

    /// Codes that one table tells apart: the bits of a byte.
    const BITS: usize = 8;
    /// Tables in use at once: what the registers hold.
    const MOST_TABLES: usize = 4;
    /// Values of a vector of codes.
    const WIDTH: usize = 64;

    /// See [`super::super::isa::Kernel::count_fields`]. The values beyond the last [`PADDING`] are
    /// left out. For types of 16 and 32 bits; values of 8 bits are codes themselves.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bitalg,gfni")]
    pub(in super::super) fn count<F: Float>(
        values: &[F::Raw],
        base: i32,
        first: u8,
        counts: &mut [u32],
    ) {
        let mut first = first;
        for counts in counts.chunks_mut(BITS * MOST_TABLES) {
            match counts.len().div_ceil(BITS) {
                1 => count_some::<F, 1>(values, base, first, counts),
                2 => count_some::<F, 2>(values, base, first, counts),
                3 => count_some::<F, 3>(values, base, first, counts),
                _ => count_some::<F, 4>(values, base, first, counts),
            }
            first = first.wrapping_sub(counts.len() as u8);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bitalg,gfni")]
    fn count_some<F: Float, const TABLES: usize>(
        values: &[F::Raw],
        base: i32,
        first: u8,
        counts: &mut [u32],
    ) {
        // The window mostly ends at the last code.
        let tables: [__m512i; TABLES] = if first == 63 {
            std::array::from_fn(|i| load(&LAST[i]))
        } else {
            std::array::from_fn(|i| load(&one_hot(first.wrapping_sub((BITS * i) as u8))))
        };
        let zero = _mm512_setzero_si512();
        // Bit b of byte k of `sums[j]` counts 2^j one-hot bytes k with bit b.
        let mut sums = [[zero; 4]; TABLES];
        let mut sixteens = [zero; TABLES];
        for (round, values) in values.as_chunks::<PADDING>().0.iter().enumerate() {
            let mut carries = [[zero; 4]; TABLES];
            let (vectors, _) = values.as_chunks::<WIDTH>();
            for (i, pair) in vectors.as_chunks::<2>().0.iter().enumerate() {
                let pair = [codes::<F>(&pair[0], base), codes::<F>(&pair[1], base)];
                for ((table, sums), carries) in tables.iter().zip(&mut sums).zip(&mut carries) {
                    let [a, b] = pair.map(|codes| _mm512_permutexvar_epi8(codes, *table));
                    let mut carry = add(&mut sums[0], a, b);
                    // Each level adds two carries of the one below.
                    for level in 1..=3 {
                        if (i + 1) % (1 << level) != 0 {
                            carries[level - 1] = carry;
                            break;
                        }
                        carry = add(&mut sums[level], carries[level - 1], carry);
                        if level == 3 {
                            carries[3] = carry;
                        }
                    }
                }
            }
            for (sixteens, carries) in sixteens.iter_mut().zip(&carries) {
                *sixteens = _mm512_add_epi8(*sixteens, popcount(carries[3]));
            }
            // Bytes of `sixteens` count up to 8 a round.
            if round % 31 == 30 {
                flush(&mut sixteens, counts, 4);
            }
        }
        let double = |v| _mm512_add_epi8(v, v);
        let mut low = sums.map(|[ones, twos, fours, eights]| {
            let eights = double(popcount(eights));
            let fours = double(_mm512_add_epi8(popcount(fours), eights));
            let twos = double(_mm512_add_epi8(popcount(twos), fours));
            _mm512_add_epi8(popcount(ones), twos)
        });
        flush(&mut low, counts, 0);
        flush(&mut sixteens, counts, 4);
    }

    /// The codes of the exponent fields relative to `base`, in any order.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn codes<F: Float>(values: &[F::Raw; WIDTH], base: i32) -> __m512i {
        /// (a & mask) | (b & !mask), for the mask that comes first.
        const SELECT: i32 = 0xca;
        if size_of::<F::Raw>() == 1 {
            // SAFETY: 64 values of 1 byte are one vector.
            return unsafe { _mm512_loadu_si512(values.as_ptr().cast()) };
        }
        let fields = if size_of::<F::Raw>() == 4 {
            let word = |i: usize| {
                // SAFETY: 64 values of 4 bytes are four vectors.
                unsafe { _mm512_loadu_si512(values.as_ptr().add(16 * i).cast()) }
            };
            let a = _mm512_srli_epi32::<23>(word(0));
            let b = _mm512_srli_epi32::<15>(word(1));
            let c = _mm512_srli_epi32::<7>(word(2));
            let d = _mm512_slli_epi32::<1>(word(3));
            let ab = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi32(0xff), a, b);
            let cd = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi32(0x00ff_0000), c, d);
            _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi32(0xffff), ab, cd)
        } else {
            let word = |i: usize| {
                // SAFETY: 64 values of 2 bytes are two vectors.
                unsafe { _mm512_loadu_si512(values.as_ptr().add(32 * i).cast()) }
            };
            let [a, b] = if F::MANTISSA_BITS == 7 {
                [_mm512_srli_epi16::<7>(word(0)), _mm512_slli_epi16::<1>(word(1))]
            } else {
                [_mm512_srli_epi16::<10>(word(0)), _mm512_srli_epi16::<2>(word(1))]
            };
            let both = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi16(0xff), a, b);
            _mm512_and_si512(both, _mm512_set1_epi8((F::FIELDS - 1) as i8))
        };
        let codes = _mm512_sub_epi8(fields, _mm512_set1_epi8(base as i8));
        _mm512_min_epu8(codes, _mm512_set1_epi8(OUTSIDE as i8))
    }

    const LAST: [[u8; WIDTH]; MOST_TABLES] =
        [one_hot(63), one_hot(63 - 8), one_hot(63 - 16), one_hot(63 - 24)];

    /// Bit b of `first - b`, for each code but zero.
    const fn one_hot(first: u8) -> [u8; WIDTH] {
        let mut table = [0; WIDTH];
        let mut bit = 0;
        while bit < BITS {
            let code = first.wrapping_sub(bit as u8) as usize;
            if code > 0 && code < WIDTH {
                table[code] = 1 << bit;
            }
            bit += 1;
        }
        table
    }

    /// A full adder of bits: sums three, keeps the sum in the first and returns the carry.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(sum: &mut __m512i, a: __m512i, b: __m512i) -> __m512i {
        const MAJORITY: i32 = 0xe8;
        const PARITY: i32 = 0x96;
        let carry = _mm512_ternarylogic_epi64::<MAJORITY>(*sum, a, b);
        *sum = _mm512_ternarylogic_epi64::<PARITY>(*sum, a, b);
        carry
    }

    /// Of each eight bytes: byte b counts how many of them have bit b.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bitalg,gfni")]
    fn popcount(v: __m512i) -> __m512i {
        const TRANSPOSE: i64 = 0x8040_2010_0804_0201_u64.cast_signed();
        _mm512_popcnt_epi8(_mm512_gf2p8affine_epi64_epi8::<0>(_mm512_set1_epi64(TRANSPOSE), v))
    }

    /// Moves the counts in bytes, in units of 2^shift, to `counts`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn flush(bytes: &mut [__m512i], counts: &mut [u32], shift: u32) {
        // Byte b of all eight groups side by side.
        const BY_BIT: [u8; 64] = {
            let mut table = [0; 64];
            let mut i = 0;
            while i < 64 {
                table[i] = (i % 8 * 8 + i / 8) as u8;
                i += 1;
            }
            table
        };
        let zero = _mm512_setzero_si512();
        for (bytes, counts) in bytes.iter_mut().zip(counts.chunks_mut(BITS)) {
            let sums = _mm512_sad_epu8(_mm512_permutexvar_epi8(load(&BY_BIT), *bytes), zero);
            let mut array = [0_u32; BITS];
            // SAFETY: the array has as many bytes as the vector.
            unsafe {
                _mm256_storeu_si256(array.as_mut_ptr().cast(), _mm512_cvtepi64_epi32(sums));
            }
            for (count, n) in counts.iter_mut().zip(array) {
                *count = count.wrapping_add(n << shift); // a chunk is far too small for that
            }
            *bytes = zero;
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(bytes: &[u8; 64]) -> __m512i {
        // SAFETY: the array has as many bytes as the vector.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }
}

#[cfg(test)]
mod tests {
    use crate::tensor::block::Block;
    use crate::tensor::dtype::{BFloat16, Float16, Float32, Float64};
    use crate::tensor::isa::Kernel;

    fn check<F: Block>(values: &[F::Raw]) {
        let mut codes = vec![0; values.len()];
        for kernel in Kernel::available() {
            for (base, first, n) in
                [(0, 63, 63), (1, 40, 1), (64, 63, 16), (100, 63, 24), (9, 9, 9), (-32, 63, 31)]
            {
                let mut counts = vec![5; n];
                kernel.count_fields::<F>(values, base, first, &mut counts, &mut codes);
                for (i, &count) in counts.iter().enumerate() {
                    let field = (base + i32::from(first)) as usize - i;
                    let expected = values.iter().filter(|&&raw| F::field(raw) == field).count();
                    assert_eq!(count as usize, expected + 5, "{kernel} {} {base} {i}", F::DTYPE);
                }
            }
        }
    }

    #[test]
    fn every_kernel_counts_every_field() {
        for n in [0, 1, 63, 1024, 1100, 70_000] {
            // An odd multiplier visits exponents and mantissas alike; every third is the same.
            let bits = |i: u64| {
                if i.is_multiple_of(3) { 1 << 62 } else { i.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
            };
            let half: Vec<u16> = (0..n).map(|i| (bits(i) >> 48) as u16).collect();
            check::<BFloat16>(&half);
            check::<Float16>(&half);
            check::<Float32>(
                &(0..n).map(|i| f32::from_bits((bits(i) >> 32) as u32)).collect::<Vec<_>>(),
            );
            check::<Float64>(&(0..n).map(|i| f64::from_bits(bits(i))).collect::<Vec<_>>());
        }
    }
}
