//! What is compared: the rows of all splits, one after the other, each with its identities and
//! features. Texts and table rows are two kinds of the same thing from here on.

use crate::error::{Error, Result};
use crate::leak::column::{Cell, Column, Kind};
use crate::leak::shingle::{Shingler, TextOptions};
use crate::leak::{cells, hash};

/// Buffers that one thread reuses from row to row.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) hashes: Vec<u64>,
    shingler: Option<Shingler>,
}

impl Scratch {
    /// Identity of a list of hashes.
    pub(crate) fn identity_of(&mut self, hashes: &[u64]) -> u128 {
        hash::list(hashes, &mut self.bytes)
    }
}

/// The rows of all splits in order.
pub(crate) trait Source: Sync {
    /// Row after the last one of each split.
    fn ends(&self) -> &[usize];

    /// Identity of the row's content as it is, or `None` if it is missing.
    fn exact(&self, row: usize, scratch: &mut Scratch) -> Option<u128>;

    /// Identity of the row's normal form. `features` becomes what similarity is measured on.
    fn normalised(&self, row: usize, scratch: &mut Scratch, features: &mut Vec<u64>) -> u128;

    /// Number of rows in all.
    fn rows(&self) -> usize {
        self.ends().last().copied().unwrap_or(0)
    }

    /// The split of a row, and its number in there.
    fn locate(&self, row: usize) -> (usize, usize) {
        locate(self.ends(), row)
    }
}

/// The split of a row of all splits, and its number in there.
pub(crate) fn locate(ends: &[usize], row: usize) -> (usize, usize) {
    let split = ends.partition_point(|&end| end <= row);
    (split, row - if split == 0 { 0 } else { ends[split - 1] })
}

pub(crate) fn ends_of(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    lengths
        .scan(0, |end, n| {
            *end += n;
            Some(*end)
        })
        .collect()
}

/// One column of text a split.
pub(crate) struct Texts<'a> {
    splits: Vec<&'a dyn Column>,
    ends: Vec<usize>,
    options: TextOptions,
    shingled: bool,
}

impl<'a> Texts<'a> {
    /// `shingled` says whether features are wanted.
    ///
    /// # Errors
    /// [`Error::Type`] if a column holds anything but text.
    pub(crate) fn new(
        splits: Vec<&'a dyn Column>,
        options: TextOptions,
        shingled: bool,
    ) -> Result<Self> {
        for column in &splits {
            if let Kind::Other(kind) = column.kind() {
                return Err(Error::type_("text", "a column of text", format!("one of {kind}s")));
            }
        }
        let ends = ends_of(splits.iter().map(Column::len));
        Ok(Self { splits, ends, options, shingled })
    }

    fn text(&self, row: usize) -> Option<&str> {
        let (split, row) = self.locate(row);
        match self.splits.get(split)?.cell(row) {
            Cell::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Source for Texts<'_> {
    fn ends(&self) -> &[usize] {
        &self.ends
    }

    fn exact(&self, row: usize, _scratch: &mut Scratch) -> Option<u128> {
        self.text(row).map(|text| hash::content(text.as_bytes()))
    }

    fn normalised(&self, row: usize, scratch: &mut Scratch, features: &mut Vec<u64>) -> u128 {
        let shingler = scratch.shingler.get_or_insert_with(|| Shingler::new(self.options));
        let text = self.text(row).unwrap_or_default();
        if self.shingled {
            return shingler.shingles_into(text, features);
        }
        features.clear();
        shingler.identity(text)
    }
}

/// The same columns in every split.
pub(crate) struct Rows<'a> {
    splits: Vec<Vec<&'a dyn Column>>,
    /// Step of the grid of each column, if it has one.
    grids: Vec<Option<f64>>,
    ends: Vec<usize>,
    featured: bool,
}

impl<'a> Rows<'a> {
    /// `splits[s][c]` is column `c` of split `s`, `grids[c]` the step of its grid; `featured` says
    /// whether features are wanted.
    ///
    /// # Errors
    /// [`Error::Value`] if there is no column, if the columns of a split differ in length, or if a
    /// step is not a finite number above 0.
    pub(crate) fn new(
        splits: Vec<Vec<&'a dyn Column>>,
        mut grids: Vec<Option<f64>>,
        featured: bool,
    ) -> Result<Self> {
        let columns = splits.first().map_or(0, Vec::len);
        if let Some(step) = grids.iter().flatten().find(|&&step| !(step > 0.0 && step < f64::MAX)) {
            return Err(Error::value("grid", "finite steps above 0", step));
        }
        grids.resize(columns, None);
        if columns == 0 || splits.iter().any(|split| split.len() != columns) {
            return Err(Error::value("splits", "the same columns in each, at least one", "others"));
        }
        for split in &splits {
            let rows = split[0].len();
            if let Some(odd) = split.iter().find(|column| column.len() != rows) {
                let got = format!("{rows} and {}", odd.len());
                return Err(Error::value("splits", "columns of one length", got));
            }
        }
        let ends = ends_of(splits.iter().map(|split| split[0].len()));
        Ok(Self { splits, grids, ends, featured })
    }

    fn cells(&self, row: usize) -> impl Iterator<Item = Cell<'_>> {
        let (split, row) = self.locate(row);
        self.splits.get(split).into_iter().flatten().map(move |column| column.cell(row))
    }
}

impl Source for Rows<'_> {
    fn ends(&self) -> &[usize] {
        &self.ends
    }

    fn exact(&self, row: usize, scratch: &mut Scratch) -> Option<u128> {
        scratch.bytes.clear();
        for cell in self.cells(row) {
            cells::encode(cell, &mut scratch.bytes);
        }
        Some(hash::content(&scratch.bytes))
    }

    fn normalised(&self, row: usize, scratch: &mut Scratch, features: &mut Vec<u64>) -> u128 {
        features.clear();
        scratch.bytes.clear();
        for (column, cell) in self.cells(row).enumerate() {
            let start = scratch.bytes.len();
            let grid = self.grids.get(column).copied().flatten();
            cells::encode_normalised(cell, grid, &mut scratch.bytes);
            if self.featured {
                features.push(hash::cell(column, &scratch.bytes[start..]));
            }
        }
        hash::content(&scratch.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_in_their_splits() {
        let ends = [2, 2, 5];
        assert_eq!([0, 1, 2, 4].map(|row| locate(&ends, row)), [(0, 0), (0, 1), (2, 0), (2, 2)]);
    }

    #[test]
    fn missing_text_has_no_identity() {
        let column: Vec<Option<&str>> = vec![None, Some("")];
        let texts = Texts::new(vec![&column], TextOptions::default(), true).unwrap();
        let mut scratch = Scratch::default();
        assert_eq!(texts.exact(0, &mut scratch), None);
        assert!(texts.exact(1, &mut scratch).is_some());
    }
}
