//! Columns as whole numbers: equal cells, equal codes. Statistics over columns start from these.

use std::collections::hash_map::Entry;

use crate::leak::cells;
use crate::leak::column::{Cell, Column};
use crate::leak::hash::{self, HashedMap};
use crate::leak::source::{ends_of, locate};
use crate::leak::time;

/// The code of a missing cell.
pub const MISSING: i64 = -1;

/// What the cells of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// All are missing.
    Nothing,
    /// Numbers and truth values.
    Numbers,
    /// Time stamps and dates, also as ISO 8601 text.
    Instants,
    /// Text.
    Text,
    /// Anything else, or more than one of the above.
    Other,
}

impl Holds {
    /// The name that Python knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Numbers => "numbers",
            Self::Instants => "instants",
            Self::Text => "text",
            Self::Other => "other",
        }
    }
}

/// One column of all splits, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes {
    /// What the cells are.
    pub holds: Holds,
    /// By row that was read: the number of its cell by first appearance, or [`MISSING`].
    pub codes: Vec<i64>,
    /// The row in which each code appears first, counted over all rows.
    pub first: Vec<usize>,
    /// Numbers as they are, instants in seconds since 1970, missing cells NaN; empty for the rest.
    pub values: Vec<f64>,
    /// Whether all numbers are whole.
    pub whole: bool,
    /// Words of the distinct texts, on average.
    pub words: f64,
}

impl Codes {
    /// Codes the cells by their exact or by their normalised values (see [`cells`]), of at most so
    /// many rows of each split, evenly spread.
    pub fn new(splits: &[&dyn Column], normalised: bool, most: usize) -> Self {
        let rows = splits.iter().map(|column| column.len().min(most)).sum();
        let mut codes = Vec::with_capacity(rows);
        let mut values = Vec::with_capacity(rows);
        let (mut first, mut words) = (Vec::new(), 0);
        let (mut numbers, mut instants, mut texts, mut iso, mut others) = (0, 0, 0, 0, 0);
        let mut whole = true;
        let mut known: HashedMap<u128, i64> = HashedMap::default();
        let mut bytes = Vec::new();
        let mut start = 0;
        for column in splits {
            for row in spread(column.len(), most) {
                let cell = column.cell(row);
                let value = match cell {
                    Cell::Int(v) => v as f64,
                    Cell::Float(v) => v,
                    Cell::Instant(v) => v as f64 / 1e9,
                    // Once one text is no time, the column is text.
                    Cell::Text(text) if iso == texts => {
                        time::parse_iso(text).map_or(f64::NAN, |v| v as f64 / 1e9)
                    }
                    _ => f64::NAN,
                };
                values.push(value);
                if missing(cell) {
                    codes.push(MISSING);
                    continue;
                }
                match cell {
                    Cell::Int(_) | Cell::Float(_) => {
                        numbers += 1;
                        whole &= value.fract() == 0.0;
                    }
                    Cell::Instant(_) => instants += 1,
                    Cell::Text(_) => {
                        texts += 1;
                        iso += usize::from(!value.is_nan());
                    }
                    _ => others += 1,
                }
                bytes.clear();
                if normalised {
                    cells::encode_normalised(cell, None, &mut bytes);
                } else {
                    cells::encode(cell, &mut bytes);
                }
                let next = first.len() as i64;
                codes.push(match known.entry(hash::content(&bytes)) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        first.push(start + row);
                        if let Cell::Text(text) = cell {
                            words += text.split_whitespace().count();
                        }
                        *new.insert(next)
                    }
                });
            }
            start += column.len();
        }
        let holds = match (numbers, instants, texts, others) {
            (0, 0, 0, 0) => Holds::Nothing,
            (_, 0, 0, 0) => Holds::Numbers,
            (0, _, 0, 0) => Holds::Instants,
            (0, 0, texts, 0) if iso == texts => Holds::Instants,
            (0, 0, _, 0) => Holds::Text,
            _ => Holds::Other,
        };
        if !matches!(holds, Holds::Numbers | Holds::Instants) {
            values = Vec::new();
        }
        let words = words as f64 / first.len().max(1) as f64;
        Self { holds, codes, first, values, whole: whole && holds == Holds::Numbers, words }
    }

    /// Each code as people read it, in normal form, given the columns that it was made from.
    pub fn texts(&self, splits: &[&dyn Column]) -> Vec<String> {
        let ends = ends_of(splits.iter().map(Column::len));
        let text = |&row: &usize| {
            let (split, row) = locate(&ends, row);
            cells::show_normalised(splits[split].cell(row))
        };
        self.first.iter().map(text).collect()
    }
}

/// At most so many of `n` rows, evenly spread from the first to the last.
fn spread(n: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = n.min(most);
    (0..count)
        .map(move |i| if count < n { (i as u128 * n as u128 / count as u128) as usize } else { i })
}

fn missing(cell: Cell<'_>) -> bool {
    matches!(cell, Cell::Missing) || matches!(cell, Cell::Float(v) if v.is_nan())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leak::column::Strided;
    use proptest::prelude::*;

    #[test]
    fn equal_cells_have_equal_codes_over_splits() {
        let a: Vec<Option<&str>> = vec![Some("Ann Lee"), None, Some("bob")];
        let b: Vec<Option<&str>> = vec![Some(" ann  lee")];
        let codes = Codes::new(&[&a, &b], true, 9);
        assert_eq!((codes.holds, &codes.codes[..]), (Holds::Text, &[0, MISSING, 1, 0][..]));
        assert_eq!(codes.texts(&[&a, &b]), ["ann lee", "bob"]);
        assert_eq!(Codes::new(&[&a, &b], false, 9).codes, [0, MISSING, 1, 2]);
        assert_eq!(codes.words, 1.5);
        assert!(codes.values.is_empty());
    }

    #[test]
    fn dates_as_text_are_instants_and_words_are_not() {
        let dates: Vec<Option<&str>> = vec![Some("1970-01-02"), None];
        let codes = Codes::new(&[&dates], false, 9);
        assert_eq!((codes.holds, codes.values[0]), (Holds::Instants, 86_400.0));
        assert!(codes.values[1].is_nan());
        let mixed: Vec<Option<&str>> = vec![Some("1970-01-02"), Some("soon"), Some("1970-01-02")];
        assert_eq!(Codes::new(&[&mixed], false, 9).holds, Holds::Text);
        let nothing: Vec<Option<&str>> = vec![None];
        assert_eq!(Codes::new(&[&nothing], false, 9).holds, Holds::Nothing);
    }

    #[test]
    fn rows_of_a_sample_are_evenly_spread() {
        let a: Vec<Option<&str>> = vec![Some("a"), Some("b"), Some("c"), Some("d")];
        let b: Vec<Option<&str>> = vec![Some("e"), Some("c")];
        let codes = Codes::new(&[&a, &b], false, 2);
        assert_eq!(codes.codes, [0, 1, 2, 1]);
        assert_eq!(
            (&codes.first[..], codes.texts(&[&a, &b])),
            (&[0, 2, 4][..], ["a", "c", "e"].map(String::from).to_vec())
        );
    }

    proptest! {
        #[test]
        fn codes_are_equal_where_numbers_are(numbers in prop::collection::vec(-3_i8..3, 0..40)) {
            let floats = ndarray::Array1::from_iter(numbers.iter().map(|&v| f64::from(v) / 2.0));
            let column = Strided::new(floats.view(), "float", Cell::Float);
            let codes = Codes::new(&[&column], false, 99);
            for (i, a) in numbers.iter().enumerate() {
                prop_assert_eq!(codes.values[i], f64::from(*a) / 2.0);
                for (j, b) in numbers.iter().enumerate() {
                    prop_assert_eq!(codes.codes[i] == codes.codes[j], a == b);
                }
            }
        }
    }
}
