//! Images: perceptual hashes lead to candidates, aligned thumbnails verify them.
//!
//! 1. [`resample`] and [`hashes`]: each image becomes a grey thumbnail and three hashes: `pHash`
//!    and `dHash` of 64 bits, PDQ of 256, each of all eight ways to turn and mirror the image.
//! 2. [`hamming`]: pairs with a small Hamming distance in one of them are candidates.
//! 3. [`align`]: a candidate is turned, scaled and shifted onto its partner; how alike the two are
//!    then is the similarity that is reported.
//! 4. [`chance`]: how alike unrelated images of this very data are.

pub mod align;
pub mod chance;
pub mod hamming;
pub mod hashes;
mod record;
pub mod resample;
mod search;

pub use record::{Images, Sketcher};
pub(crate) use search::search;

/// Ways to turn and mirror an image.
pub const VARIANTS: usize = 8;

/// Where pixel `(row, column)` of the given variant of an image of `side` x `side` comes from.
///
/// Variant bits: 4 swaps rows and columns, then 2 reverses the rows and 1 the columns.
pub fn origin(variant: usize, side: usize, row: usize, column: usize) -> (usize, usize) {
    let row = if variant & 2 == 0 { row } else { side - 1 - row };
    let column = if variant & 1 == 0 { column } else { side - 1 - column };
    if variant & 4 == 0 { (row, column) } else { (column, row) }
}
