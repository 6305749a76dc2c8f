//! Sequences of token ids, compared as texts of which each id is a word.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use ndarray::ArrayView1;

use crate::error::{Error, Result};
use crate::leak::source::{Scratch, Source};
use crate::leak::{hash, shingle};

/// Sequences of ids; unsigned ones beyond `i64` wrap around.
pub trait Sequences: Send + Sync {
    /// Number of sequences.
    fn len(&self) -> usize;

    /// Appends the ids of a sequence; `false` if it is missing.
    fn ids_into(&self, row: usize, ids: &mut Vec<i64>) -> bool;

    /// Whether there is no sequence.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sequences that lie one after the other.
pub struct Ragged<'a> {
    ids: ArrayView1<'a, i64>,
    starts: ArrayView1<'a, i64>,
}

impl<'a> Ragged<'a> {
    /// Sequence i is `ids[starts[i]..starts[i + 1]]`.
    ///
    /// # Errors
    /// [`Error::Value`] if the starts do not ascend from 0 to the number of ids.
    pub fn new(ids: ArrayView1<'a, i64>, starts: ArrayView1<'a, i64>) -> Result<Self> {
        let ascend = starts.iter().zip(starts.iter().skip(1)).all(|(a, b)| a <= b);
        let whole = starts.first() == Some(&0) && starts.last() == Some(&(ids.len() as i64));
        if ascend && whole {
            Ok(Self { ids, starts })
        } else {
            Err(Error::value("starts", format!("0 to {}, ascending", ids.len()), "others"))
        }
    }
}

impl Sequences for Ragged<'_> {
    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn ids_into(&self, row: usize, ids: &mut Vec<i64>) -> bool {
        let range = self.starts[row] as usize..self.starts[row + 1] as usize;
        ids.extend(self.ids.slice(ndarray::s![range]));
        true
    }
}

/// Arrow lists of integers.
pub struct Lists {
    chunks: Vec<ArrayRef>,
    ends: Vec<usize>,
}

impl Lists {
    /// The chunks of one column. `name` is for the messages.
    ///
    /// # Errors
    /// [`Error::Type`] if they are no lists of integers; [`Error::Value`] if an id is null.
    pub fn new(name: &str, chunks: &[ArrayRef]) -> Result<Self> {
        for chunk in chunks {
            let ids: &ArrayRef = match chunk.data_type() {
                DataType::List(_) => chunk.as_list::<i32>().values(),
                DataType::LargeList(_) => chunk.as_list::<i64>().values(),
                DataType::FixedSizeList(_, _) => chunk.as_fixed_size_list().values(),
                other => {
                    let got = format!("{other} in {name}");
                    return Err(Error::type_("tokens", "lists of integers", got));
                }
            };
            if !ids.data_type().is_integer() {
                let got = format!("lists of {} in {name}", ids.data_type());
                return Err(Error::type_("tokens", "lists of integers", got));
            }
            let used =
                (0..chunk.len()).filter(|&row| chunk.is_valid(row)).map(|row| slice(chunk, row));
            if ids.null_count() > 0 && used.map(|ids| ids.null_count()).any(|nulls| nulls > 0) {
                return Err(Error::value("tokens", "ids", format!("a null among those of {name}")));
            }
        }
        let ends = chunks
            .iter()
            .scan(0, |end, chunk| {
                *end += chunk.len();
                Some(*end)
            })
            .collect();
        Ok(Self { chunks: chunks.to_vec(), ends })
    }
}

/// The values of one list.
fn slice(chunk: &ArrayRef, row: usize) -> ArrayRef {
    match chunk.data_type() {
        DataType::List(_) => chunk.as_list::<i32>().value(row),
        DataType::LargeList(_) => chunk.as_list::<i64>().value(row),
        _ => chunk.as_fixed_size_list().value(row),
    }
}

fn extend<T: ArrowPrimitiveType>(ids: &mut Vec<i64>, values: &ArrayRef, id: fn(T::Native) -> i64) {
    ids.extend(values.as_primitive::<T>().values().iter().map(|&v| id(v)));
}

impl Sequences for Lists {
    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn ids_into(&self, row: usize, ids: &mut Vec<i64>) -> bool {
        let at = self.ends.partition_point(|&end| end <= row);
        let Some(chunk) = self.chunks.get(at) else { return false };
        let row = row - if at == 0 { 0 } else { self.ends[at - 1] };
        if chunk.is_null(row) {
            return false;
        }
        let values = slice(chunk, row);
        match values.data_type() {
            DataType::Int8 => extend::<Int8Type>(ids, &values, i64::from),
            DataType::Int16 => extend::<Int16Type>(ids, &values, i64::from),
            DataType::Int32 => extend::<Int32Type>(ids, &values, i64::from),
            DataType::Int64 => extend::<Int64Type>(ids, &values, |v| v),
            DataType::UInt8 => extend::<UInt8Type>(ids, &values, i64::from),
            DataType::UInt16 => extend::<UInt16Type>(ids, &values, i64::from),
            DataType::UInt32 => extend::<UInt32Type>(ids, &values, i64::from),
            _ => extend::<UInt64Type>(ids, &values, |v| v as i64),
        }
        true
    }
}

/// The sequences of all splits.
pub struct Tokens<'a> {
    splits: Vec<&'a dyn Sequences>,
    pads: &'a [i64],
    ends: Vec<usize>,
    shingled: bool,
}

impl<'a> Tokens<'a> {
    /// One column a split. The ids in `pads` are as if they were not there; `shingled` says whether
    /// features are wanted.
    pub fn new(splits: Vec<&'a dyn Sequences>, pads: &'a [i64], shingled: bool) -> Self {
        let ends = splits
            .iter()
            .scan(0, |end, split| {
                *end += split.len();
                Some(*end)
            })
            .collect();
        Self { splits, pads, ends, shingled }
    }

    /// The ids of a row, as people and the shingles read them.
    fn text_into(&self, row: usize, text: &mut Vec<u8>) -> bool {
        text.clear();
        let (split, row) = self.locate(row);
        let mut ids = Vec::new();
        if !self.splits.get(split).is_some_and(|split| split.ids_into(row, &mut ids)) {
            return false;
        }
        for id in ids.into_iter().filter(|id| !self.pads.contains(id)) {
            if !text.is_empty() {
                text.push(b' ');
            }
            push_decimal(id, text);
        }
        true
    }

    /// A sequence as people read it.
    pub fn show(&self, split: usize, row: usize, characters: usize) -> String {
        let start = if split == 0 { 0 } else { self.ends[split - 1] };
        let mut text = Vec::new();
        if !self.text_into(start + row, &mut text) {
            return "(missing)".into();
        }
        let cut = text.len() > characters;
        text.truncate(characters);
        let shown = String::from_utf8_lossy(&text).into_owned();
        if cut { shown + "…" } else { shown }
    }
}

/// Appends a number in decimal.
fn push_decimal(id: i64, text: &mut Vec<u8>) {
    if id < 0 {
        text.push(b'-');
    }
    let start = text.len();
    let mut rest = id.unsigned_abs();
    loop {
        text.push(b'0' + (rest % 10) as u8);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text[start..].reverse();
}

impl Source for Tokens<'_> {
    fn ends(&self) -> &[usize] {
        &self.ends
    }

    fn exact(&self, row: usize, scratch: &mut Scratch) -> Option<u128> {
        self.text_into(row, &mut scratch.bytes).then(|| hash::content(&scratch.bytes))
    }

    fn normalised(&self, row: usize, scratch: &mut Scratch, features: &mut Vec<u64>) -> u128 {
        features.clear();
        self.text_into(row, &mut scratch.bytes);
        if self.shingled {
            shingle::shingles_into(&scratch.bytes, &mut scratch.hashes, features);
        }
        hash::content(&scratch.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{FixedSizeListArray, Int32Array, ListArray, types::Int32Type};
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn decimals_are_those_of_rust(id in any::<i64>()) {
            let mut text = Vec::new();
            push_decimal(id, &mut text);
            prop_assert_eq!(String::from_utf8(text).unwrap(), id.to_string());
        }
    }

    #[test]
    fn lists_of_all_kinds_are_read() {
        let rows = [Some(vec![Some(1), Some(2)]), None, Some(vec![])];
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(rows);
        let lists = Lists::new("x", &[Arc::new(list.clone()), Arc::new(list.slice(0, 1))]).unwrap();
        let read = |row| {
            let mut ids = Vec::new();
            lists.ids_into(row, &mut ids).then_some(ids)
        };
        assert_eq!(lists.len(), 4);
        assert_eq!(
            [0, 1, 2, 3, 4].map(read),
            [Some(vec![1, 2]), None, Some(vec![]), Some(vec![1, 2]), None]
        );
        let rows = [Some([Some(3), Some(4)]), None];
        let fixed = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(rows, 2);
        let fixed = Lists::new("x", &[Arc::new(fixed)]).unwrap();
        let mut ids = Vec::new();
        assert!(fixed.ids_into(0, &mut ids) && !fixed.ids_into(1, &mut ids));
        assert_eq!(ids, [3, 4]);
    }

    #[test]
    fn what_is_no_list_of_ids_is_refused() {
        let nulls = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None])]);
        assert!(Lists::new("x", &[Arc::new(nulls)]).is_err());
        assert!(Lists::new("x", &[Arc::new(Int32Array::from(vec![1]))]).is_err());
        let (ids, starts) = (ArrayView1::from(&[1, 2]), ArrayView1::from(&[0, 3]));
        assert!(Ragged::new(ids, starts).is_err());
    }

    #[test]
    fn pads_are_not_there() {
        let (ids, starts) = ([5, 6, 0, 0, 5, 6], [0, 4, 6]);
        let rows = Ragged::new(ArrayView1::from(&ids), ArrayView1::from(&starts)).unwrap();
        let exact = |pads: &[i64]| {
            let tokens = Tokens::new(vec![&rows], pads, false);
            [0, 1].map(|row| tokens.exact(row, &mut Scratch::default()))
        };
        let [a, b] = exact(&[0]);
        assert_eq!(a, b);
        let [a, b] = exact(&[]);
        assert_ne!(a, b);
        assert_eq!(Tokens::new(vec![&rows], &[], false).show(0, 0, 3), "5 6…");
    }
}
