//! Leaving out values that are not finite, 64 bytes at a time.
#![allow(unsafe_code)] // instructions of AVX-512

use std::arch::x86_64::{
    __m512i, _mm512_and_si512, _mm512_cmplt_epu16_mask, _mm512_cmplt_epu32_mask,
    _mm512_cmplt_epu64_mask, _mm512_loadu_si512, _mm512_maskz_compress_epi16,
    _mm512_maskz_compress_epi32, _mm512_maskz_compress_epi64, _mm512_set1_epi16, _mm512_set1_epi32,
    _mm512_set1_epi64, _mm512_storeu_si512,
};

use super::dtype::Float;

/// The bytes of one vector.
const WIDTH: usize = 64;

/// Copies the finite values of whole vectors of `block` to the beginning of `buffer`. Returns how
/// many values were read, and how many kept.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
pub(super) fn avx512_vbmi<F: Float>(block: &[F::Raw], buffer: &mut [F::Raw]) -> (usize, usize) {
    let lanes = WIDTH / size_of::<F::Raw>();
    let (mut read, mut kept) = (0, 0);
    while read + lanes <= block.len() && kept + lanes <= buffer.len() {
        // SAFETY: a vector of values from `read` on is inside of the block.
        let values = unsafe { _mm512_loadu_si512(block.as_ptr().add(read).cast()) };
        let (finite, n) = keep::<F>(values);
        // SAFETY: a vector of values from `kept` on is inside of the buffer.
        unsafe { _mm512_storeu_si512(buffer.as_mut_ptr().add(kept).cast(), finite) };
        read += lanes;
        kept += n as usize;
    }
    (read, kept)
}

/// The finite values, and how many there are.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn keep<F: Float>(values: __m512i) -> (__m512i, u32) {
    let infinity = ((F::FIELDS - 1) as u64) << F::MANTISSA_BITS;
    match size_of::<F::Raw>() {
        2 => {
            let magnitude = _mm512_and_si512(values, _mm512_set1_epi16(i16::MAX));
            let mask = _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(infinity as i16));
            (_mm512_maskz_compress_epi16(mask, values), mask.count_ones())
        }
        4 => {
            let magnitude = _mm512_and_si512(values, _mm512_set1_epi32(i32::MAX));
            let mask = _mm512_cmplt_epu32_mask(magnitude, _mm512_set1_epi32(infinity as i32));
            (_mm512_maskz_compress_epi32(mask, values), mask.count_ones())
        }
        _ => {
            let magnitude = _mm512_and_si512(values, _mm512_set1_epi64(i64::MAX));
            let mask = _mm512_cmplt_epu64_mask(magnitude, _mm512_set1_epi64(infinity as i64));
            (_mm512_maskz_compress_epi64(mask, values), mask.count_ones())
        }
    }
}
