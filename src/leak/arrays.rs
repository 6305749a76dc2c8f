//! Arrays of any shape as rows: two identities, and blocks of elements to compare.
//!
//! Elements compare by value whatever their type: `1 == 1.0 == True`, `-0.0 == 0.0`, every NaN
//! equals every other. In the normal form numbers that are not whole are rounded to [`BITS`]
//! significant bits, as float16 holds them. Similarity is that of table rows: the elements are cut
//! into [`BLOCKS`] blocks of about one length, each a cell.

use ndarray::{ArrayView1, ArrayView2};

use crate::error::{Error, Result};
use crate::leak::hash;
use crate::leak::source::{Scratch, Source};
use crate::parallel;

/// Significant bits of the normal form.
pub const BITS: u32 = 11;
/// Blocks that a row is cut into at most.
pub const BLOCKS: usize = 64;
/// Rows that one task works through.
const CHUNK: usize = 64;
/// What stands before an integer that no float64 holds: bits of a NaN that no element has.
const LARGE: u64 = 0x7ff8_0000_0000_0001;

/// One element of an array.
pub trait Element: Copy + Send + Sync {
    /// Appends its bytes, and those of its normal form.
    fn encode(self, exact: &mut Vec<u8>, normal: &mut Vec<u8>);
}

impl Element for f64 {
    fn encode(self, exact: &mut Vec<u8>, normal: &mut Vec<u8>) {
        let bits = if self.is_nan() {
            Self::NAN.to_bits() & !(1 << 63)
        } else {
            (self + 0.0).to_bits() // -0.0 + 0.0 is 0.0
        };
        exact.extend_from_slice(&bits.to_le_bytes());
        let dropped = Self::MANTISSA_DIGITS - BITS;
        let rounded = if self.is_finite() && self.fract() != 0.0 {
            // A carry goes on into the exponent, as it should.
            (bits + (1 << (dropped - 1))) >> dropped << dropped
        } else {
            bits
        };
        normal.extend_from_slice(&rounded.to_le_bytes());
    }
}

impl Element for i64 {
    fn encode(self, exact: &mut Vec<u8>, normal: &mut Vec<u8>) {
        if self.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS {
            return (self as f64).encode(exact, normal);
        }
        for bytes in [exact, normal] {
            bytes.extend_from_slice(&LARGE.to_le_bytes());
            bytes.extend_from_slice(&i128::from(self).to_le_bytes());
        }
    }
}

impl Element for u64 {
    fn encode(self, exact: &mut Vec<u8>, normal: &mut Vec<u8>) {
        if let Ok(value) = i64::try_from(self) {
            return value.encode(exact, normal);
        }
        for bytes in [exact, normal] {
            bytes.extend_from_slice(&LARGE.to_le_bytes());
            bytes.extend_from_slice(&i128::from(self).to_le_bytes());
        }
    }
}

/// What is kept of a row.
struct Record {
    exact: u128,
    normal: u128,
    blocks: Vec<u64>,
}

/// The rows of one split, taken in batch by batch.
#[derive(Default)]
pub struct ArraySketcher {
    records: Vec<Record>,
    width: Option<usize>,
}

impl ArraySketcher {
    /// Without a row.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in more rows.
    ///
    /// # Errors
    /// [`Error::Value`] if they are of another length than those before.
    pub fn push<T: Element>(&mut self, rows: ArrayView2<'_, T>) -> Result<()> {
        let (count, width) = rows.dim();
        let known = *self.width.get_or_insert(width);
        if known != width {
            return Err(Error::value("splits", format!("rows of {known} elements"), width));
        }
        let records = parallel::map_indexed(count.div_ceil(CHUNK), rows.len() * 8, |chunk| {
            let (mut exact, mut normal) = (Vec::new(), Vec::new());
            let end = count.min((chunk + 1) * CHUNK);
            (chunk * CHUNK..end)
                .map(|row| record(rows.row(row), &mut exact, &mut normal))
                .collect::<Vec<_>>()
        });
        self.records.extend(records.into_iter().flatten());
        Ok(())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

fn record<T: Element>(row: ArrayView1<'_, T>, exact: &mut Vec<u8>, normal: &mut Vec<u8>) -> Record {
    exact.clear();
    normal.clear();
    let count = row.len().min(BLOCKS);
    let mut blocks = Vec::with_capacity(count);
    let mut elements = row.iter();
    for block in 0..count {
        let start = normal.len();
        let size = (block + 1) * row.len() / count - block * row.len() / count;
        for &element in elements.by_ref().take(size) {
            element.encode(exact, normal);
        }
        blocks.push(hash::cell(block, &normal[start..]));
    }
    Record { exact: hash::content(exact), normal: hash::content(normal), blocks }
}

/// The rows of all splits.
pub struct Arrays<'a> {
    splits: Vec<&'a ArraySketcher>,
    ends: Vec<usize>,
}

impl<'a> Arrays<'a> {
    /// One sketcher a split.
    ///
    /// # Errors
    /// [`Error::Value`] if their rows differ in length.
    pub fn new(splits: Vec<&'a ArraySketcher>) -> Result<Self> {
        let mut widths = splits.iter().filter_map(|split| split.width);
        let width = widths.next();
        if let Some(other) = widths.find(|&other| Some(other) != width) {
            let expected = format!("rows of {} elements", width.unwrap_or(0));
            return Err(Error::value("splits", expected, other));
        }
        let ends = splits
            .iter()
            .scan(0, |end, split| {
                *end += split.len();
                Some(*end)
            })
            .collect();
        Ok(Self { splits, ends })
    }

    fn record(&self, row: usize) -> Option<&Record> {
        let (split, row) = self.locate(row);
        self.splits.get(split)?.records.get(row)
    }
}

impl Source for Arrays<'_> {
    fn ends(&self) -> &[usize] {
        &self.ends
    }

    fn exact(&self, row: usize, _scratch: &mut Scratch) -> Option<u128> {
        self.record(row).map(|record| record.exact)
    }

    fn normalised(&self, row: usize, _scratch: &mut Scratch, features: &mut Vec<u64>) -> u128 {
        features.clear();
        self.record(row).map_or(0, |record| {
            features.extend_from_slice(&record.blocks);
            record.normal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of<T: Element>(row: &[T]) -> Record {
        record(ArrayView1::from(row), &mut Vec::new(), &mut Vec::new())
    }

    #[test]
    fn elements_compare_by_value() {
        assert_eq!(of(&[0.0, f64::NAN]).exact, of(&[-0.0, -f64::NAN]).exact);
        assert_eq!(of(&[1_i64, -2]).exact, of(&[1.0, -2.0]).exact);
        assert_eq!(of(&[7_u64]).exact, of(&[7_i64]).exact);
        assert_ne!(of(&[u64::MAX]).exact, of(&[-1_i64]).exact);
        assert_ne!(of(&[i64::MAX]).exact, of(&[i64::MAX - 1]).exact);
        assert_ne!(of(&[f64::INFINITY]).normal, of(&[f64::NAN]).normal);
        assert_eq!(of::<f64>(&[]).exact, of::<i64>(&[]).exact);
    }

    #[test]
    fn the_normal_form_is_that_of_float16() {
        assert_eq!(of(&[f64::from(0.1_f32)]).normal, of(&[0.1]).normal);
        assert_eq!(of(&[0.099_975_585_937_5]).normal, of(&[0.1]).normal); // 0.1 as float16
        assert_ne!(of(&[0.1001]).normal, of(&[0.1]).normal);
        assert_ne!(of(&[50_001_i64]).normal, of(&[50_002_i64]).normal);
        assert_eq!(of(&[2.999_999]).normal, of(&[3.0]).normal);
    }

    #[test]
    fn lengths_must_agree() {
        let mut sketcher = ArraySketcher::new();
        sketcher.push(ArrayView2::from(&[[1.0, 2.0]])).unwrap();
        assert!(sketcher.push(ArrayView2::from(&[[1_i64]])).is_err());
        let mut other = ArraySketcher::new();
        other.push(ArrayView2::from(&[[1.0]])).unwrap();
        assert!(Arrays::new(vec![&sketcher, &other]).is_err());
    }

    proptest! {
        #[test]
        fn one_element_changes_one_block(mut row in prop::collection::vec(-9.0..9.0_f64, 1..200), at in any::<prop::sample::Index>()) {
            let before = of(&row);
            let at = at.index(row.len());
            row[at] += 100.5;
            let after = of(&row);
            let changed = before.blocks.iter().zip(&after.blocks).filter(|(a, b)| a != b).count();
            prop_assert_eq!(changed, 1);
            prop_assert_ne!(before.normal, after.normal);
        }
    }
}
