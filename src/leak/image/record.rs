//! What is kept of each image: two identities, hashes and a thumbnail.

use ndarray::{ArrayView3, Axis};

use crate::error::{Error, Result};
use crate::leak::hash;
use crate::leak::image::hashes::{self, Hashes, THUMBNAIL};
use crate::leak::image::{VARIANTS, align::Picture};
use crate::leak::source::{Scratch, Source};
use crate::parallel;

/// Hashes: 8 variants of 4, 1 and 1 words.
const HASHES: usize = VARIANTS * 6;
/// Words of 64 bits that are kept of each image: hashes and a thumbnail of 8 bits a pixel.
const WORDS: usize = HASHES + THUMBNAIL * THUMBNAIL / 8;
/// Images that one task works through.
const CHUNK: usize = 16;

/// Hashes and thumbnail of one image.
pub(crate) fn pack(hashes: &Hashes, thumbnail: &[f32]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let pdq = hashes.pdq.iter().flatten();
    for (word, hash) in words.iter_mut().zip(pdq.chain(&hashes.phash).chain(&hashes.dhash)) {
        *word = *hash;
    }
    for (word, pixels) in words[HASHES..].iter_mut().zip(thumbnail.chunks_exact(8)) {
        *word = u64::from_le_bytes(std::array::from_fn(|i| pixels[i].round() as u8));
    }
    words
}

/// The hashes that [`pack`] was given.
pub(crate) fn hashes_of(words: &[u64]) -> Hashes {
    let at = |start: usize| std::array::from_fn(|variant| words[start + variant]);
    let pdq = std::array::from_fn(|variant| std::array::from_fn(|i| words[variant * 4 + i]));
    Hashes { pdq, phash: at(VARIANTS * 4), dhash: at(VARIANTS * 5) }
}

/// The picture of the thumbnail that [`pack`] was given; `None` if it is flat.
pub(crate) fn picture_of(words: &[u64]) -> Option<Picture> {
    let pixels: Vec<u8> = words[HASHES..].iter().flat_map(|word| word.to_le_bytes()).collect();
    Picture::new(&pixels)
}

/// One image.
#[derive(Clone)]
struct Record {
    exact: u128,
    normal: u128,
    words: Box<[u64; WORDS]>,
    rows: usize,
    columns: usize,
}

/// The images of one split, taken in batch by batch.
#[derive(Default)]
pub struct Sketcher {
    records: Vec<Option<Record>>,
}

impl Sketcher {
    /// Without an image.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in more images: rows x columns x channels of 8 bits, 1 channel of grey or 3 of red,
    /// green and blue. `None` is a missing one. `raw` holds, where the pixels are not what was
    /// given, the bytes that were: they tell whether two images are the same.
    ///
    /// # Errors
    /// [`Error::Value`] if an image has no pixel, or another number of channels.
    pub fn push(
        &mut self,
        images: &[Option<ArrayView3<'_, u8>>],
        raw: Option<&[&[u8]]>,
    ) -> Result<()> {
        for image in images.iter().flatten() {
            let (rows, columns, channels) = image.dim();
            if rows * columns == 0 || !(channels == 1 || channels == 3) {
                let got = format!("{rows} x {columns} x {channels}");
                return Err(Error::value("image", "pixels of 1 or 3 channels", got));
            }
        }
        if let Some(raw) = raw.filter(|raw| raw.len() != images.len()) {
            return Err(Error::value("raw", format!("{} items", images.len()), raw.len()));
        }
        let chunks = images.len().div_ceil(CHUNK);
        let bytes = images.iter().flatten().map(|image| image.len() * 8).sum();
        self.records.extend(
            parallel::map_indexed(chunks, bytes, |chunk| {
                let mut scratch = Canvas::default();
                let end = images.len().min((chunk + 1) * CHUNK);
                (chunk * CHUNK..end)
                    .map(|i| {
                        let raw = raw.map(|raw| raw[i]);
                        images[i].map(|image| scratch.record(image, raw))
                    })
                    .collect::<Vec<_>>()
            })
            .into_iter()
            .flatten(),
        );
        Ok(())
    }

    /// Number of images, missing ones too.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Rows and columns of an image.
    pub fn size(&self, image: usize) -> Option<(usize, usize)> {
        self.records.get(image)?.as_ref().map(|record| (record.rows, record.columns))
    }

    /// The hashes of an image.
    pub fn hashes(&self, image: usize) -> Option<Hashes> {
        self.records.get(image)?.as_ref().map(|record| hashes_of(record.words.as_slice()))
    }
}

/// Buffers that one thread reuses.
#[derive(Default)]
struct Canvas {
    colours: Vec<u8>,
    grey: Vec<f32>,
    turned: Vec<u8>,
    hashes: hashes::Scratch,
}

impl Canvas {
    fn record(&mut self, image: ArrayView3<'_, u8>, raw: Option<&[u8]>) -> Record {
        let (rows, columns, channels) = image.dim();
        self.colours.clear();
        match (image.as_slice(), channels) {
            (Some(pixels), 3) => self.colours.extend_from_slice(pixels),
            (_, 3) => self.colours.extend(image.iter()),
            _ => self.colours.extend(image.index_axis(Axis(2), 0).iter().flat_map(|&p| [p; 3])),
        }
        self.grey.clear();
        let luma =
            |p: &[u8]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
        self.grey.extend(self.colours.chunks_exact(3).map(luma));
        let (hashes, thumbnail) = hashes::hash(&self.grey, (rows, columns), &mut self.hashes);
        let exact = self.identity(raw, (rows, columns), 0);
        let variants = self.canonical((rows, columns));
        let normal = variants.into_iter().map(|v| self.identity(None, (rows, columns), v)).min();
        Record {
            exact,
            normal: normal.unwrap_or(exact),
            words: Box::new(pack(&hashes, &thumbnail)),
            rows,
            columns,
        }
    }

    /// Identity of a variant of the pixels, or of the `raw` bytes.
    fn identity(
        &mut self,
        raw: Option<&[u8]>,
        (rows, columns): (usize, usize),
        variant: usize,
    ) -> u128 {
        let (height, width) = if variant & 4 == 0 { (rows, columns) } else { (columns, rows) };
        self.turned.clear();
        self.turned.extend((height as u64).to_le_bytes());
        self.turned.extend((width as u64).to_le_bytes());
        if let Some(raw) = raw {
            self.turned.extend_from_slice(raw);
        } else if variant == 0 {
            self.turned.extend_from_slice(&self.colours);
        } else {
            for row in 0..height {
                let row = if variant & 2 == 0 { row } else { height - 1 - row };
                for column in 0..width {
                    let column = if variant & 1 == 0 { column } else { width - 1 - column };
                    let (row, column) =
                        if variant & 4 == 0 { (row, column) } else { (column, row) };
                    let at = 3 * (row * columns + column);
                    self.turned.extend_from_slice(&self.colours[at..at + 3]);
                }
            }
        }
        hash::content(&self.turned)
    }

    /// The variants whose corners are the brightest in order. Turned copies have the same ones, so
    /// that one of them, seldom more, stands for all eight.
    fn canonical(&self, (rows, columns): (usize, usize)) -> Vec<usize> {
        let mut corners = [[0_u64; 2]; 2];
        for (down, corners) in corners.iter_mut().enumerate() {
            for row in if down == 0 { 0..rows / 2 } else { rows - rows / 2..rows } {
                let row = &self.colours[3 * row * columns..][..3 * columns];
                let part = 3 * (columns / 2);
                let sum = |part: &[u8]| part.iter().map(|&p| u64::from(p)).sum::<u64>();
                corners[0] += sum(&row[..part]);
                corners[1] += sum(&row[row.len() - part..]);
            }
        }
        let key = |variant: usize| {
            let corner = |row: usize, column: usize| {
                let (row, column) = (row ^ (variant >> 1 & 1), column ^ (variant & 1));
                if variant & 4 == 0 { corners[row][column] } else { corners[column][row] }
            };
            (corner(0, 0), corner(0, 1), corner(1, 0))
        };
        let best = (0..VARIANTS).map(key).max();
        (0..VARIANTS).filter(|&variant| Some(key(variant)) == best).collect()
    }
}

/// The images of all splits.
pub struct Images<'a> {
    splits: Vec<&'a Sketcher>,
    ends: Vec<usize>,
}

impl<'a> Images<'a> {
    /// One sketcher a split.
    pub fn new(splits: Vec<&'a Sketcher>) -> Self {
        let ends = splits
            .iter()
            .scan(0, |end, split| {
                *end += split.len();
                Some(*end)
            })
            .collect();
        Self { splits, ends }
    }

    fn record(&self, row: usize) -> Option<&Record> {
        let (split, row) = self.locate(row);
        self.splits.get(split)?.records.get(row)?.as_ref()
    }
}

impl Source for Images<'_> {
    fn ends(&self) -> &[usize] {
        &self.ends
    }

    fn exact(&self, row: usize, _scratch: &mut Scratch) -> Option<u128> {
        self.record(row).map(|record| record.exact)
    }

    fn normalised(&self, row: usize, _scratch: &mut Scratch, features: &mut Vec<u64>) -> u128 {
        features.clear();
        self.record(row).map_or(0, |record| {
            features.extend_from_slice(record.words.as_slice());
            record.normal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array3, s};
    use proptest::prelude::*;

    fn images() -> impl Strategy<Value = Array3<u8>> {
        (1_usize..9, 1_usize..9, prop::sample::select(vec![1_usize, 3])).prop_flat_map(
            |(h, w, c)| {
                prop::collection::vec(prop::sample::select(vec![0_u8, 7, 200]), h * w * c)
                    .prop_map(move |pixels| Array3::from_shape_vec((h, w, c), pixels).unwrap())
            },
        )
    }

    fn record(image: ArrayView3<'_, u8>) -> Record {
        Canvas::default().record(image, None)
    }

    proptest! {
        #[test]
        fn turned_images_have_one_normal_form(image in images(), turn in 0..VARIANTS) {
            let mut turned = image.view();
            if turn & 4 != 0 {
                turned.swap_axes(0, 1);
            }
            let step = |bit: usize| if turn & bit == 0 { 1 } else { -1 };
            let turned = turned.slice(s![..;step(2), ..;step(1), ..]);
            let (a, b) = (record(image.view()), record(turned));
            prop_assert_eq!(a.normal, b.normal);
            prop_assert_eq!(a.exact == b.exact, image == turned);
        }

        #[test]
        fn other_pixels_have_another_normal_form(image in images(), at in any::<prop::sample::Index>()) {
            let mut other = image.clone();
            let pixels = other.as_slice_mut().unwrap();
            let at = at.index(pixels.len());
            pixels[at] = 99;
            prop_assert_ne!(record(image.view()).normal, record(other.view()).normal);
        }

        #[test]
        fn nothing_is_lost_in_packing(words in prop::collection::vec(any::<u64>(), HASHES), pixels in prop::collection::vec(any::<u8>(), THUMBNAIL * THUMBNAIL)) {
            let hashes = hashes_of(&words);
            let thumbnail: Vec<f32> = pixels.iter().map(|&p| p.into()).collect();
            let packed = pack(&hashes, &thumbnail);
            prop_assert_eq!(&packed[..HASHES], words.as_slice());
            let bytes: Vec<u8> = packed[HASHES..].iter().flat_map(|word| word.to_le_bytes()).collect();
            prop_assert_eq!(bytes, pixels);
        }
    }

    #[test]
    fn bad_images_are_refused() {
        let mut sketcher = Sketcher::new();
        for dim in [(0, 4, 3), (4, 0, 1), (2, 2, 2), (2, 2, 4)] {
            let image = Array3::<u8>::zeros(dim);
            assert!(sketcher.push(&[Some(image.view())], None).is_err());
        }
        assert!(sketcher.push(&[None], Some(&[])).is_err());
        sketcher.push(&[None], None).unwrap();
        assert_eq!((sketcher.len(), sketcher.size(0)), (1, None));
    }
}
