//! Perceptual hashes, each of all eight variants of an image.
//!
//! - `pHash`: signs about the median of the 8 x 8 lowest frequencies of the DCT-II of a 32 x 32
//!   grey thumbnail, the mean among them (Zauner, "Implementation and Benchmarking of Perceptual
//!   Image Hash Functions", 2010, as the Python package `imagehash` computes it).
//! - `dHash`: whether each pixel of a thumbnail of 8 rows and 9 columns is brighter than its left
//!   neighbour (Krawetz, "Kind of Like That", 2013).
//! - PDQ: signs about the median of the frequencies 1 to 16 of the DCT-II of a 64 x 64 thumbnail,
//!   made by two passes of a box filter and decimation (Meta, "PDQ: Facebook's photo-matching
//!   technology", hashing.pdf in `ThreatExchange`, 2019).
//!
//! Turning an image permutes its DCT and changes signs in it, so that all variants cost one DCT.

use std::f64::consts::PI;
use std::sync::{Arc, LazyLock};

use crate::leak::image::VARIANTS;
#[cfg(test)]
use crate::leak::image::origin;
use crate::leak::image::resample::{Axis, resize};

/// Side of the thumbnail that `pHash` and the alignment use.
pub const THUMBNAIL: usize = 32;
/// Side of the thumbnail of PDQ.
const PDQ_SIDE: usize = 64;
/// Frequencies of PDQ along each axis, from 1.
const PDQ_FREQUENCIES: usize = 16;
/// Frequencies of `pHash` along each axis, from 0.
const PHASH_FREQUENCIES: usize = 8;

/// The hashes of the eight variants of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashes {
    /// PDQ; bit `16 i + j` belongs to frequency `(i + 1, j + 1)`.
    pub pdq: [[u64; 4]; VARIANTS],
    /// `pHash`; bit `8 i + j` belongs to frequency `(i, j)`.
    pub phash: [u64; VARIANTS],
    /// `dHash`; bit `8 i + j` belongs to the pixels `(i, j)` and `(i, j + 1)`.
    pub dhash: [u64; VARIANTS],
}

/// Buffers that one thread reuses.
#[derive(Default)]
pub struct Scratch {
    middle: Vec<f32>,
    filtered: Vec<f32>,
    axes: Vec<Arc<Axis>>,
}

impl Scratch {
    fn axis(&mut self, size: usize, out: usize) -> Arc<Axis> {
        if let Some(axis) = self.axes.iter().find(|axis| axis.is(size, out)) {
            return Arc::clone(axis);
        }
        // Images of many sizes would pile up.
        if self.axes.len() >= 16 {
            self.axes.clear();
        }
        let axis = Arc::new(Axis::new(size, out));
        self.axes.push(Arc::clone(&axis));
        axis
    }

    /// Resizes an image of `size` = (rows, columns).
    fn resize(&mut self, image: &[f32], size: (usize, usize), to: (usize, usize)) -> Vec<f32> {
        let (rows, columns) = (self.axis(size.0, to.0), self.axis(size.1, to.1));
        let mut out = Vec::new();
        resize(image, &rows, &columns, &mut self.middle, &mut out);
        out
    }
}

/// The hashes of a grey image of `size` = (rows, columns), and its thumbnail.
pub fn hash(image: &[f32], size: (usize, usize), scratch: &mut Scratch) -> (Hashes, Vec<f32>) {
    let thumbnail = scratch.resize(image, size, (THUMBNAIL, THUMBNAIL));
    let phash = phash(&thumbnail);
    let dhash = dhash(&thumbnail, scratch);
    let small = pdq_thumbnail(image, size, scratch);
    (Hashes { pdq: pdq(&small), phash, dhash }, thumbnail)
}

/// The DCT-II of a square image: frequencies `from..from + n` of both axes, row by row.
fn dct(image: &[f32], side: usize, cosines: &[f32]) -> Vec<f32> {
    let n = cosines.len() / side;
    let mut half = vec![0.0; n * side];
    for (cosines, out) in cosines.chunks_exact(side).zip(half.chunks_exact_mut(side)) {
        for (&cosine, row) in cosines.iter().zip(image.chunks_exact(side)) {
            for (out, pixel) in out.iter_mut().zip(row) {
                *out += cosine * pixel;
            }
        }
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum();
    let row = |row| cosines.chunks_exact(side).map(move |cosines| dot(row, cosines));
    half.chunks_exact(side).flat_map(row).collect()
}

/// Cosines of the frequencies `from..from + n`, row by row.
fn cosines(side: usize, from: usize, n: usize) -> Vec<f32> {
    let angle = |i: usize, j: usize| PI / (2 * side) as f64 * (i * (2 * j + 1)) as f64;
    (from..from + n).flat_map(|i| (0..side).map(move |j| angle(i, j).cos() as f32)).collect()
}

/// The bits of the variants of an image with the given frequencies `from..from + n`: set where a
/// frequency is above the median.
fn signs<const WORDS: usize>(
    frequencies: &[f32],
    n: usize,
    from: usize,
) -> [[u64; WORDS]; VARIANTS] {
    let mut sorted = vec![0.0; n * n];
    let mut turned = vec![0.0; n * n];
    std::array::from_fn(|variant| {
        for i in 0..n {
            for j in 0..n {
                let value = frequencies[if variant & 4 == 0 { i * n + j } else { j * n + i }];
                // An odd frequency changes its sign when its axis is reversed.
                let odd = |bit: usize, f: usize| variant & bit != 0 && (f + from) % 2 == 1;
                turned[i * n + j] = if odd(2, i) == odd(1, j) { value } else { -value };
            }
        }
        sorted.copy_from_slice(&turned);
        let middle = n * n / 2 - 1;
        let median = *sorted.select_nth_unstable_by(middle, f32::total_cmp).1;
        let mut words = [0; WORDS];
        for (bit, &value) in turned.iter().enumerate() {
            words[bit / 64] |= u64::from(value > median) << (bit % 64);
        }
        words
    })
}

fn phash(thumbnail: &[f32]) -> [u64; VARIANTS] {
    static COSINES: LazyLock<Vec<f32>> = LazyLock::new(|| cosines(THUMBNAIL, 0, PHASH_FREQUENCIES));
    let frequencies = dct(thumbnail, THUMBNAIL, &COSINES);
    signs::<1>(&frequencies, PHASH_FREQUENCIES, 0).map(|[word]| word)
}

fn dhash(thumbnail: &[f32], scratch: &mut Scratch) -> [u64; VARIANTS] {
    // Mirroring and turning by 180 degrees are left to the bits.
    let wide = scratch.resize(thumbnail, (THUMBNAIL, THUMBNAIL), (8, 9));
    let tall = scratch.resize(thumbnail, (THUMBNAIL, THUMBNAIL), (9, 8));
    std::array::from_fn(|variant| {
        let pixel = |i: usize, j: usize| {
            let i = if variant & 2 == 0 { i } else { 7 - i };
            let j = if variant & 1 == 0 { j } else { 8 - j };
            if variant & 4 == 0 { wide[i * 9 + j] } else { tall[j * 8 + i] }
        };
        let bit = |at: usize| pixel(at / 8, at % 8 + 1) > pixel(at / 8, at % 8);
        (0..64).fold(0, |word, at| word | u64::from(bit(at)) << at)
    })
}

fn pdq(small: &[f32]) -> [[u64; 4]; VARIANTS] {
    static COSINES: LazyLock<Vec<f32>> = LazyLock::new(|| cosines(PDQ_SIDE, 1, PDQ_FREQUENCIES));
    signs(&dct(small, PDQ_SIDE, &COSINES), PDQ_FREQUENCIES, 1)
}

/// The 64 x 64 pixels that PDQ looks at.
fn pdq_thumbnail(image: &[f32], (h, w): (usize, usize), scratch: &mut Scratch) -> Vec<f32> {
    let window = |size: usize| size.div_ceil(2 * PDQ_SIDE);
    let mut image = image;
    if window(h) > 1 || window(w) > 1 {
        scratch.filtered.clear();
        scratch.filtered.extend_from_slice(image);
        for _ in 0..2 {
            for row in scratch.filtered.chunks_exact_mut(w) {
                box_filter(row, 1, window(w), &mut scratch.middle);
            }
            box_filter(&mut scratch.filtered, w, window(h), &mut scratch.middle);
        }
        image = &scratch.filtered;
    }
    let nearest = |o: usize, size: usize| (2 * o + 1) * size / (2 * PDQ_SIDE);
    let row = |i: usize| &image[nearest(i, h) * w..][..w];
    (0..PDQ_SIDE).flat_map(|i| (0..PDQ_SIDE).map(move |j| row(i)[nearest(j, w)])).collect()
}

/// Replaces each of the lines of `width` pixels by the mean of the `window` lines about it, of as
/// many as there are at the ends.
fn box_filter(lines: &mut [f32], width: usize, window: usize, scratch: &mut Vec<f32>) {
    let n = lines.len() / width;
    if window < 2 {
        return;
    }
    let ahead = window / 2 + 1; // lines from this one on
    let behind = window - ahead;
    scratch.clear();
    scratch.extend_from_slice(lines);
    let source = |i: usize| &scratch[i * width..][..width];
    let mut sum = vec![0.0_f32; width];
    let add = |sum: &mut [f32], line: &[f32], sign: f32| {
        for (sum, pixel) in sum.iter_mut().zip(line) {
            *sum += sign * pixel;
        }
    };
    for i in 0..(ahead - 1).min(n) {
        add(&mut sum, source(i), 1.0);
    }
    for i in 0..n {
        if i + ahead <= n {
            add(&mut sum, source(i + ahead - 1), 1.0);
        }
        if i > behind {
            add(&mut sum, source(i - behind - 1), -1.0);
        }
        let count = (i + ahead).min(n) - i.saturating_sub(behind);
        for (out, sum) in lines[i * width..][..width].iter_mut().zip(&sum) {
            *out = sum / count as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn variant_of(image: &[f32], side: usize, variant: usize) -> Vec<f32> {
        let from = |i: usize| origin(variant, side, i / side, i % side);
        (0..side * side).map(from).map(|(r, c)| image[r * side + c]).collect()
    }

    /// Every frequency that a hash looks at, each well away from 0.
    fn picture(side: usize, seed: u64) -> Vec<f32> {
        let unit = |salt: u64| crate::leak::hash::mix(seed << 20 | salt) as f64 / u64::MAX as f64;
        let n = PDQ_FREQUENCIES + 1;
        let strength = |k: usize| (unit(k as u64) - 0.5) * 40.0 / (1.0 + (k / n + k % n) as f64);
        let strengths: Vec<f64> = (0..n * n).map(strength).collect();
        let wave = |f: usize, i: usize| (PI * f as f64 * (i as f64 + 0.5) / side as f64).cos();
        let waves: Vec<Vec<f64>> =
            (0..n).map(|f| (0..side).map(|i| wave(f, i)).collect()).collect();
        let pixel = |r: usize, c: usize| {
            let term = |k: usize| strengths[k] * waves[k / n][r] * waves[k % n][c];
            (128.0 + (0..n * n).map(term).sum::<f64>()) as f32
        };
        (0..side * side).map(|i| pixel(i / side, i % side)).collect()
    }

    fn distance(a: &[u64], b: &[u64]) -> u32 {
        a.iter().zip(b).map(|(x, y)| (x ^ y).count_ones()).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn variants_are_the_hashes_of_turned_images(seed in any::<u32>(), variant in 0..VARIANTS, side in prop::sample::select(vec![32_usize, 64, 100, 200])) {
            let mut scratch = Scratch::default();
            let image = picture(side, seed.into());
            let (all, _) = hash(&image, (side, side), &mut scratch);
            let (turned, _) = hash(&variant_of(&image, side, variant), (side, side), &mut scratch);
            // Where the window of its box filter is even PDQ is off by a little for each axis that is
            // reversed; 31 bits are what it takes for the same image.
            let axes = if side == 200 { (variant & 3).count_ones() } else { 0 };
            prop_assert!(distance(&all.pdq[variant], &turned.pdq[0]) <= 31 * axes);
            prop_assert_eq!(distance(&all.phash[variant..=variant], &turned.phash[..1]), 0);
            prop_assert_eq!(distance(&all.dhash[variant..=variant], &turned.dhash[..1]), 0);
        }

        #[test]
        fn half_of_the_bits_are_set(seed in any::<u32>()) {
            let (all, _) = hash(&picture(64, seed.into()), (64, 64), &mut Scratch::default());
            prop_assert_eq!(all.pdq.map(|h| h.map(u64::count_ones).iter().sum::<u32>()), [128; VARIANTS]);
            prop_assert_eq!(all.phash.map(u64::count_ones), [32; VARIANTS]);
        }

        #[test]
        fn the_box_filter_is_the_mean_of_a_window(lines in prop::collection::vec(0_u8..=255, 1..40), window in 2_usize..9) {
            let source: Vec<f32> = lines.iter().map(|&v| v.into()).collect();
            let mut got = source.clone();
            box_filter(&mut got, 1, window, &mut Vec::new());
            let ahead = window / 2 + 1;
            for (i, got) in got.iter().enumerate() {
                let (start, end) = (i.saturating_sub(window - ahead), (i + ahead).min(source.len()));
                let mean = source[start..end].iter().sum::<f32>() / (end - start) as f32;
                prop_assert!((got - mean).abs() < 1e-3);
            }
        }
    }
}
