//! Resizing by the triangle filter, as wide as the output pixel where the image shrinks: an area
//! average with soft edges, and linear interpolation where it grows.

/// The weights with which the pixels of one axis enter each output pixel.
#[derive(Debug, Clone)]
pub struct Axis {
    size: usize,
    /// First input pixel and weights by output pixel.
    taps: Vec<(usize, Vec<f32>)>,
}

impl Axis {
    /// From `size` pixels to `out`; both at least 1.
    pub fn new(size: usize, out: usize) -> Self {
        let scale = size as f64 / out as f64;
        let support = scale.max(1.0);
        let taps = (0..out)
            .map(|o| {
                let centre = (o as f64 + 0.5) * scale;
                let first = (centre - support).floor().max(0.0) as usize;
                let end = ((centre + support).ceil() as usize).min(size);
                let weight = |i: usize| (1.0 - (i as f64 + 0.5 - centre).abs() / support).max(0.0);
                let sum: f64 = (first..end).map(weight).sum();
                (first, (first..end).map(|i| (weight(i) / sum) as f32).collect())
            })
            .collect();
        Self { size, taps }
    }

    /// Whether this axis is the one from `size` to `out` pixels.
    pub fn is(&self, size: usize, out: usize) -> bool {
        self.size == size && self.taps.len() == out
    }
}

/// Resizes an image given row by row. `middle` is scratch, `out` gets `rows` x `columns` pixels.
pub fn resize(
    image: &[f32],
    rows: &Axis,
    columns: &Axis,
    middle: &mut Vec<f32>,
    out: &mut Vec<f32>,
) {
    let width = columns.taps.len();
    middle.clear();
    for row in image.chunks_exact(columns.size) {
        middle.extend(columns.taps.iter().map(|(first, weights)| {
            row[*first..].iter().zip(weights).map(|(pixel, weight)| pixel * weight).sum::<f32>()
        }));
    }
    out.clear();
    out.resize(rows.taps.len() * width, 0.0);
    for ((first, weights), out) in rows.taps.iter().zip(out.chunks_exact_mut(width)) {
        for (row, weight) in middle[first * width..].chunks_exact(width).zip(weights) {
            for (out, pixel) in out.iter_mut().zip(row) {
                *out += pixel * weight;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resized(image: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
        let mut out = Vec::new();
        let (rows, columns) = (Axis::new(from.0, to.0), Axis::new(from.1, to.1));
        resize(image, &rows, &columns, &mut Vec::new(), &mut out);
        out
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let image: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(resized(&image, (3, 4), (3, 4)), image);
    }

    #[test]
    fn growing_is_linear_interpolation() {
        assert_eq!(resized(&[0.0, 4.0], (1, 2), (1, 4)), [0.0, 1.0, 3.0, 4.0]);
    }

    proptest! {
        #[test]
        fn a_flat_image_stays_flat(h in 1_usize..70, w in 1_usize..70, grey in 0_u8..=255) {
            let image = vec![f32::from(grey); h * w];
            for pixel in resized(&image, (h, w), (9, 7)) {
                prop_assert!((pixel - f32::from(grey)).abs() < 1e-3);
            }
        }
    }
}
