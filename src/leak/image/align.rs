//! How alike two images are once one of them is turned, scaled and shifted onto the other.
//!
//! Both are 32 x 32 grey thumbnails. What is compared is their band-pass (a difference of
//! Gaussians), so that neither brightness nor a slow gradient counts; contrast falls out of the
//! correlation. The best place is looked for at half the size first, over seven scales and shifts of
//! up to an eighth of the side, and then refined. The similarity is the mean of two numbers over the
//! part that both show: the correlation of the band-pass, which fine detail decides, and the mean
//! of the contrast-structure term of SSIM (Wang et al., "Image Quality Assessment", 2004) of the
//! windows of 8 x 8 pixels, weighted by their contrast, which asks for likeness everywhere.

use std::cell::OnceCell;

use crate::leak::image::hashes::THUMBNAIL as SIDE;
use crate::leak::image::{VARIANTS, origin};

const PIXELS: usize = SIDE * SIDE;
const HALF: usize = SIDE / 2;
/// Standard deviations of the two Gaussians in pixels.
const BAND: (f64, f64) = (0.8, 2.4);
/// Scales that are tried.
const SCALES: [f32; 7] = [1.0, 0.93, 1.07, 0.87, 1.15, 0.8, 1.25];
/// Shift at half the size that is tried at most.
const SHIFT: usize = 2;
/// Width of a padded row at half the size.
const PADDED: usize = HALF + 2 * SHIFT;
/// What ends a comparison early. Near duplicates of CIFAR-10 pass both by a wide margin.
#[derive(Debug, Clone, Copy)]
pub struct Gates {
    /// Correlation at half the size, shifted by one pixel at most, below which no more is tried.
    glance: f32,
    /// Correlation at half the size at the best place below which no more is tried.
    look: f32,
}

impl Gates {
    /// For candidates of which few are duplicates.
    pub const SHUT: Self = Self { glance: 0.4, look: 0.55 };
    /// For the similarity of any two.
    pub const OPEN: Self = Self { glance: -1.0, look: -2.0 };
}

/// Side and step of the windows of SSIM.
const WINDOW: usize = 8;
const STEP: usize = 4;
/// Steadies SSIM where there is no contrast; variances are relative to that of the image.
const STEADY: f32 = 0.01;
/// Root mean square of the band-pass, in grey levels, below which there is nothing to compare.
const LEAST_DETAIL: f32 = 1.0;

type Grey = [f32; PIXELS];
type Small = [f32; HALF * HALF];

/// A thumbnail as 8 bits a pixel, and what is compared of it.
pub struct Picture {
    grey: Box<Grey>,
    band: Box<Grey>,
    small: Box<Small>,
}

impl Picture {
    /// From the pixels of the thumbnail, row by row; `None` if it is flat.
    pub fn new(pixels: &[u8]) -> Option<Self> {
        let mut grey = Box::new([0.0; PIXELS]);
        for (grey, &pixel) in grey.iter_mut().zip(pixels) {
            *grey = pixel.into();
        }
        let fine = blurred(&grey, BAND.0);
        let mut band = blurred(&grey, BAND.1);
        for (band, fine) in band.iter_mut().zip(fine.iter()) {
            *band = fine - *band;
        }
        let detail = (sum(|i| band[i] * band[i], PIXELS) / PIXELS as f32).sqrt();
        let small = halved(&band);
        (detail >= LEAST_DETAIL).then_some(Self { grey, band, small })
    }

    /// The band-pass at half the size, of unit length.
    pub fn small(&self) -> &[f32] {
        self.small.as_slice()
    }
}

/// One image that others are compared with, in all its variants.
pub struct Subject {
    turned: [OnceCell<Turned>; VARIANTS],
    picture: Picture,
}

struct Turned {
    grey: Box<Grey>,
    band: Box<Grey>,
    /// Half the size, padded, at scale 1.
    small: Padded,
    scaled: OnceCell<Vec<Scaled>>,
}

struct Scaled {
    band: Box<Grey>,
    small: Padded,
}

type Padded = Box<[f32; PADDED * PADDED]>;

impl Subject {
    /// Of a picture.
    pub fn new(picture: Picture) -> Self {
        Self { turned: [const { OnceCell::new() }; VARIANTS], picture }
    }

    /// The largest similarity of the `variants` (one bit each) to another image, of which `small`
    /// is known and the `picture` can be had. 0 if none comes near enough for a closer look.
    pub fn similarity(
        &self,
        variants: u8,
        small: &[f32],
        picture: impl Fn() -> Option<Picture>,
        gates: Gates,
    ) -> f32 {
        let other = OnceCell::new();
        let mut best = 0.0_f32;
        for variant in (0..VARIANTS).filter(|variant| variants >> variant & 1 == 1) {
            let turned = self.turned[variant].get_or_init(|| Turned::new(&self.picture, variant));
            let glance = shifts(1).map(|(y, x)| dot(&turned.small, y, x, small));
            if glance.fold(-1.0, f32::max) < gates.glance {
                continue;
            }
            let Some((scale, y, x)) = turned.look(small, gates.look) else { continue };
            if let Some(other) = other.get_or_init(&picture) {
                best = best.max(turned.compare(scale, (y, x), other));
            }
        }
        best
    }
}

/// Places within `most` of the middle of a padded image.
fn shifts(most: usize) -> impl Iterator<Item = (usize, usize)> {
    let range = SHIFT - most..=SHIFT + most;
    range.clone().flat_map(move |y| range.clone().map(move |x| (y, x)))
}

impl Turned {
    fn new(picture: &Picture, variant: usize) -> Self {
        let turn = |image: &Grey| {
            let mut out = Box::new([0.0; PIXELS]);
            for (i, out) in out.iter_mut().enumerate() {
                let (row, column) = origin(variant, SIDE, i / SIDE, i % SIDE);
                *out = image[row * SIDE + column];
            }
            out
        };
        let (grey, band) = (turn(&picture.grey), turn(&picture.band));
        let small = padded(&halved(&band));
        Self { grey, band, small, scaled: OnceCell::new() }
    }

    fn scaled(&self) -> &[Scaled] {
        self.scaled.get_or_init(|| {
            let scaled = |&scale: &f32| {
                let band = warped(&self.band, scale);
                let small = padded(&halved(&band));
                Scaled { band, small }
            };
            SCALES.iter().map(scaled).collect()
        })
    }

    /// The scale and place of the best correlation at half the size above `least`.
    fn look(&self, small: &[f32], least: f32) -> Option<(usize, usize, usize)> {
        let mut best = (least, None);
        for (scale, scaled) in self.scaled().iter().enumerate() {
            for (y, x) in shifts(SHIFT) {
                let correlation = dot(&scaled.small, y, x, small);
                if correlation > best.0 {
                    best = (correlation, Some((scale, y, x)));
                }
            }
        }
        best.1
    }

    /// The similarity near the given place.
    fn compare(&self, scale: usize, (y, x): (usize, usize), other: &Picture) -> f32 {
        let shift = |at: usize, fine: usize| 2 * (at as isize - SHIFT as isize) + fine as isize - 1;
        let band = &self.scaled()[scale].band;
        let mut best: Option<(f32, Overlap)> = None;
        for fine in 0..9 {
            let overlap = Overlap::new(SCALES[scale], (shift(y, fine / 3), shift(x, fine % 3)));
            let correlation = overlap.correlation(band, &other.band);
            if best.as_ref().is_none_or(|(most, _)| correlation > *most) {
                best = Some((correlation, overlap));
            }
        }
        let Some((correlation, overlap)) = best else { return 0.0 };
        let structure = overlap.structure(&warped(&self.grey, SCALES[scale]), &other.grey);
        (f32::midpoint(correlation, structure)).clamp(0.0, 1.0)
    }
}

/// The part of a scaled and shifted image that lies on another one.
struct Overlap {
    /// Rows and columns of the other image.
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    /// What is added to them for the place in the shifted one.
    shift: (isize, isize),
}

impl Overlap {
    fn new(scale: f32, shift: (isize, isize)) -> Self {
        let valid = valid(scale);
        let along = |shift: isize| {
            let start = (valid.start as isize - shift).max(0) as usize;
            let end = (valid.end as isize - shift).min(SIDE as isize).max(0) as usize;
            start.min(end)..end
        };
        Self { rows: along(shift.0), columns: along(shift.1), shift }
    }

    /// The same row of both.
    fn row<'a>(&self, row: usize, a: &'a Grey, b: &'a Grey) -> (&'a [f32], &'a [f32]) {
        let moved = (row as isize + self.shift.0) as usize;
        let start = (self.columns.start as isize + self.shift.1) as usize;
        let b = &b[row * SIDE..][self.columns.clone()];
        (&a[moved * SIDE + start..][..b.len()], b)
    }

    /// Sums of a a, b b and a b.
    fn correlation(&self, a: &Grey, b: &Grey) -> f32 {
        let (mut aa, mut bb, mut ab) = ([0.0_f32; 8], [0.0_f32; 8], [0.0_f32; 8]);
        for row in self.rows.clone() {
            let (a, b) = self.row(row, a, b);
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                aa[i % 8] += a * a;
                bb[i % 8] += b * b;
                ab[i % 8] += a * b;
            }
        }
        let total = |lanes: [f32; 8]| lanes.iter().sum::<f32>();
        let length = (total(aa) * total(bb)).sqrt();
        if length > 0.0 { total(ab) / length } else { 0.0 }
    }

    /// The contrast-structure term of SSIM over the windows, weighted by their contrast.
    fn structure(&self, a: &Grey, b: &Grey) -> f32 {
        let whole = self.moments(a, b, self.rows.clone(), self.columns.clone());
        let (mut total, mut weights) = (0.0, 0.0);
        let starts = |range: &std::ops::Range<usize>| {
            (range.start..(range.end + 1).saturating_sub(WINDOW)).step_by(STEP)
        };
        for row in starts(&self.rows) {
            for column in starts(&self.columns) {
                let window = self.moments(a, b, row..row + WINDOW, column..column + WINDOW);
                let (va, vb) = (window.0 / whole.0, window.1 / whole.1);
                let covariance = window.2 / (whole.0 * whole.1).sqrt();
                let weight = va.max(vb).sqrt();
                total += weight * (2.0 * covariance + STEADY) / (va + vb + STEADY);
                weights += weight;
            }
        }
        if weights > 0.0 { total / weights } else { 0.0 }
    }

    /// Variances of both and their covariance in a part of the overlap.
    fn moments(
        &self,
        a: &Grey,
        b: &Grey,
        rows: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
    ) -> (f32, f32, f32) {
        let part = Self { rows: rows.clone(), columns: columns.clone(), shift: self.shift };
        let n = (rows.len() * columns.len()) as f32;
        let (mut sa, mut sb) = (0.0, 0.0);
        for row in rows.clone() {
            let (a, b) = part.row(row, a, b);
            sa += a.iter().sum::<f32>();
            sb += b.iter().sum::<f32>();
        }
        let (ma, mb) = (sa / n, sb / n);
        let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
        for row in rows {
            let (a, b) = part.row(row, a, b);
            for (a, b) in a.iter().zip(b) {
                let (a, b) = (a - ma, b - mb);
                aa += a * a;
                bb += b * b;
                ab += a * b;
            }
        }
        ((aa / n).max(1e-6), (bb / n).max(1e-6), ab / n)
    }
}

/// Rows, or columns, of an image scaled about its middle that lie inside of it.
fn valid(scale: f32) -> std::ops::Range<usize> {
    let inside = |&i: &usize| (0.0..=(SIDE - 1) as f32).contains(&source(scale, i));
    let first = (0..SIDE).find(inside).unwrap_or(0);
    first..SIDE - first
}

/// Where pixel `i` of a row of the scaled image comes from.
fn source(scale: f32, i: usize) -> f32 {
    let middle = (SIDE - 1) as f32 / 2.0;
    (i as f32 - middle) / scale + middle
}

/// `image` scaled about its middle by linear interpolation; 0 beyond its edges.
fn warped(image: &Grey, scale: f32) -> Box<Grey> {
    let mut out = Box::new([0.0; PIXELS]);
    if scale == 1.0 {
        out.copy_from_slice(image);
        return out;
    }
    let valid = valid(scale);
    let taps: Vec<(usize, f32)> = (0..SIDE)
        .map(|i| {
            let at = source(scale, i).clamp(0.0, (SIDE - 1) as f32);
            let first = (at as usize).min(SIDE - 2);
            (first, at - first as f32)
        })
        .collect();
    let mut between = [0.0_f32; SIDE];
    for row in valid.clone() {
        let (first, part) = taps[row];
        let above = &image[first * SIDE..][..SIDE];
        let below = &image[(first + 1) * SIDE..][..SIDE];
        for i in 0..SIDE {
            between[i] = above[i] + part * (below[i] - above[i]);
        }
        for column in valid.clone() {
            let (first, part) = taps[column];
            out[row * SIDE + column] =
                between[first] + part * (between[first + 1] - between[first]);
        }
    }
    out
}

/// Half the size, brought to unit length.
fn halved(image: &Grey) -> Box<Small> {
    let mut out = Box::new([0.0; HALF * HALF]);
    for row in 0..HALF {
        for column in 0..HALF {
            let at = 2 * row * SIDE + 2 * column;
            out[row * HALF + column] =
                (image[at] + image[at + 1]) + (image[at + SIDE] + image[at + SIDE + 1]);
        }
    }
    let length = sum(|i| out[i] * out[i], HALF * HALF).sqrt();
    if length > 0.0 {
        out.iter_mut().for_each(|value| *value /= length);
    }
    out
}

fn padded(image: &Small) -> Padded {
    let mut out = Box::new([0.0; PADDED * PADDED]);
    for row in 0..HALF {
        out[(row + SHIFT) * PADDED + SHIFT..][..HALF].copy_from_slice(&image[row * HALF..][..HALF]);
    }
    out
}

/// Product of `image` with the part of `padded` that begins at the given row and column.
#[inline]
fn dot(padded: &[f32; PADDED * PADDED], row: usize, column: usize, image: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; HALF];
    for (i, b) in image.chunks_exact(HALF).enumerate() {
        let a = &padded[(row + i) * PADDED + column..][..HALF];
        for lane in 0..HALF {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum()
}

fn sum(term: impl Fn(usize) -> f32, n: usize) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for i in 0..n {
        lanes[i % 8] += term(i);
    }
    lanes.iter().sum()
}

/// A Gaussian blur, its edges repeated.
fn blurred(image: &Grey, deviation: f64) -> Box<Grey> {
    let reach = (3.0 * deviation).ceil() as usize;
    let weight = |i: usize| {
        let z = (i as f64 - reach as f64) / deviation;
        (-z * z / 2.0).exp()
    };
    let total: f64 = (0..=2 * reach).map(weight).sum();
    let weights: Vec<f32> = (0..=2 * reach).map(|i| (weight(i) / total) as f32).collect();
    let inside = |i: usize| i.saturating_sub(reach).min(SIDE - 1);
    let mut rows = Box::new([0.0; PIXELS]);
    for row in 0..SIDE {
        for (i, weight) in weights.iter().enumerate() {
            let from = inside(row + i) * SIDE;
            for column in 0..SIDE {
                rows[row * SIDE + column] += weight * image[from + column];
            }
        }
    }
    let mut out = Box::new([0.0; PIXELS]);
    let mut edged = vec![0.0; SIDE + 2 * reach];
    for (row, out) in rows.chunks_exact(SIDE).zip(out.chunks_exact_mut(SIDE)) {
        for (i, value) in edged.iter_mut().enumerate() {
            *value = row[inside(i)];
        }
        for (i, weight) in weights.iter().enumerate() {
            for column in 0..SIDE {
                out[column] += weight * edged[i + column];
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leak::hash::mix;
    use proptest::prelude::*;

    fn noise(seed: u64) -> Vec<u8> {
        let cell = |r: usize, c: usize| mix(seed << 20 | (r / 4 * 99 + c / 4) as u64) as u8;
        (0..PIXELS).map(|i| cell(i / SIDE, i % SIDE)).collect()
    }

    fn similarity(a: &[u8], b: &[u8], variants: u8) -> f32 {
        let b = || Picture::new(b);
        Subject::new(Picture::new(a).unwrap()).similarity(
            variants,
            b().unwrap().small(),
            b,
            Gates::SHUT,
        )
    }

    fn turned(pixels: &[u8], variant: usize) -> Vec<u8> {
        let from = |i: usize| origin(variant, SIDE, i / SIDE, i % SIDE);
        (0..PIXELS).map(from).map(|(r, c)| pixels[r * SIDE + c]).collect()
    }

    #[test]
    fn a_flat_image_has_no_picture() {
        assert!(Picture::new(&[9; PIXELS]).is_none());
        let ramp: Vec<u8> = (0..PIXELS).map(|i| (i % SIDE * 4) as u8).collect();
        assert!(Picture::new(&ramp).is_none_or(|p| p.small().iter().all(|v| v.is_finite())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn an_image_is_like_itself_turned_and_dimmed(seed in any::<u32>(), variant in 0..VARIANTS) {
            let a = noise(seed.into());
            let b: Vec<u8> = turned(&a, variant).iter().map(|&p| 40 + p / 3).collect();
            prop_assert!(similarity(&a, &b, 1 << variant) > 0.98);
            prop_assert!(similarity(&a, &a, 255) > 0.999);
        }

        #[test]
        fn an_image_is_like_itself_shifted(seed in any::<u32>(), y in 0_usize..4, x in 0_usize..4) {
            let a = noise(seed.into());
            let b: Vec<u8> = (0..PIXELS).map(|i| a[(i / SIDE + y) % SIDE * SIDE + (i % SIDE + x) % SIDE]).collect();
            // Between two pixels of the first look, which has half the size, that look may settle
            // on another scale.
            let least = if y % 2 == 0 && x % 2 == 0 { 0.95 } else { 0.8 };
            prop_assert!(similarity(&a, &b, 1) > least);
        }

        #[test]
        fn unrelated_images_are_not_alike(seed in any::<u32>()) {
            let seed = u64::from(seed) * 2;
            prop_assert!(similarity(&noise(seed), &noise(seed + 1), 255) < 0.6);
        }
    }
}
