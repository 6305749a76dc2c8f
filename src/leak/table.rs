//! The pairs as a table: counted, and for other programs.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, LargeStringArray, RecordBatch,
};
use arrow_schema::ArrowError;

use crate::leak::clusters::Cluster;
use crate::leak::leaks::{Leak, Leaks};
use crate::leak::pairs::Kind;

/// The pairs of one kind between two splits (or inside one), counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Index of the left split.
    pub left: usize,
    /// Index of the right split.
    pub right: usize,
    /// Kind of all of them.
    pub kind: Kind,
    /// Pairs.
    pub pairs: usize,
    /// Rows of the left split among them.
    pub left_rows: usize,
    /// Rows of the right split among them; if that is the left split, all rows are left ones.
    pub right_rows: usize,
    /// Pairs with different labels.
    pub conflicts: usize,
    /// The first few, by their place in the list of pairs.
    pub first: Vec<usize>,
    /// The first few with different labels.
    pub first_conflicts: Vec<usize>,
}

/// Counts by left split, right split and kind, in that order, where there are any, each with the
/// first few `examples`.
pub fn counts(leaks: &Leaks, examples: usize) -> Vec<Count> {
    let splits = leaks.splits();
    let mut cells: Vec<Vec<usize>> = vec![Vec::new(); splits * splits * Kind::ALL.len()];
    for (index, leak) in all(leaks).enumerate() {
        let pair = leak.left.0 * splits + leak.right.0;
        cells[pair * Kind::ALL.len() + leak.kind as usize].push(index);
    }
    cells.iter().filter_map(|indices| count(leaks, indices, examples)).collect()
}

/// Counts the pairs at `indices`, which are of one kind and of the same two splits.
fn count(leaks: &Leaks, indices: &[usize], examples: usize) -> Option<Count> {
    let first = leaks.get(*indices.first()?)?;
    let mut left_rows = vec![false; leaks.rows(first.left.0)];
    let mut right_rows = vec![false; leaks.rows(first.right.0)];
    let mut conflicts = Vec::new();
    for &index in indices {
        let leak = leaks.get(index)?;
        left_rows[leak.left.1] = true;
        right_rows[leak.right.1] = true;
        if leak.label_conflict == Some(true) {
            conflicts.push(index);
        }
    }
    if first.left.0 == first.right.0 {
        for (left, right) in left_rows.iter_mut().zip(&mut right_rows) {
            *left |= std::mem::take(right);
        }
    }
    Some(Count {
        left: first.left.0,
        right: first.right.0,
        kind: first.kind,
        pairs: indices.len(),
        left_rows: count_of(&left_rows),
        right_rows: count_of(&right_rows),
        conflicts: conflicts.len(),
        first: indices.iter().copied().take(examples).collect(),
        first_conflicts: conflicts.into_iter().take(examples).collect(),
    })
}

fn count_of(rows: &[bool]) -> usize {
    rows.iter().filter(|&&row| row).count()
}

fn all(leaks: &Leaks) -> impl Iterator<Item = Leak> {
    (0..leaks.len()).filter_map(|index| leaks.get(index))
}

/// The members of clusters as an Arrow table, one row each; splits go by `names`.
///
/// # Errors
/// [`ArrowError`] never, unless the table is larger than memory can hold.
pub fn clusters_to_arrow(
    clusters: &[Cluster],
    names: &[String],
) -> Result<RecordBatch, ArrowError> {
    let members = || {
        let numbered = clusters.iter().enumerate();
        numbered.flat_map(|(i, cluster)| cluster.rows.iter().map(move |&row| (i, cluster, row)))
    };
    let integers = |values: Vec<usize>| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(values.into_iter().map(|v| v as i64)))
    };
    let name = |split: usize| names.get(split).map_or("", String::as_str);
    let splits = LargeStringArray::from_iter_values(members().map(|(.., row)| name(row.0)));
    let similarity = Float64Array::from_iter_values(members().map(|(_, c, _)| c.similarity));
    RecordBatch::try_from_iter_with_nullable([
        ("cluster", integers(members().map(|(i, ..)| i).collect()), false),
        ("split", Arc::new(splits) as ArrayRef, false),
        ("row", integers(members().map(|(.., row)| row.1).collect()), false),
        ("size", integers(members().map(|(_, c, _)| c.rows.len()).collect()), false),
        ("pairs", integers(members().map(|(_, c, _)| c.pairs).collect()), false),
        ("similarity", Arc::new(similarity), false),
    ])
}

/// The pairs as an Arrow table; splits go by `names`.
///
/// # Errors
/// [`ArrowError`] never, unless the table is larger than memory can hold.
pub fn to_arrow(leaks: &Leaks, names: &[String]) -> Result<RecordBatch, ArrowError> {
    let splits = |of: fn(Leak) -> usize| -> ArrayRef {
        let name = |leak| names.get(of(leak)).map_or("", String::as_str);
        Arc::new(LargeStringArray::from_iter_values(all(leaks).map(name)))
    };
    let rows = |of: fn(Leak) -> usize| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(all(leaks).map(|leak| of(leak) as i64)))
    };
    let kinds = all(leaks).map(|leak| leak.kind.name());
    let similarity = all(leaks).map(|leak| leak.similarity);
    let conflicts: BooleanArray = all(leaks).map(|leak| leak.label_conflict).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("left_split", splits(|leak| leak.left.0), false),
        ("left_row", rows(|leak| leak.left.1), false),
        ("right_split", splits(|leak| leak.right.0), false),
        ("right_row", rows(|leak| leak.right.1), false),
        ("kind", Arc::new(LargeStringArray::from_iter_values(kinds)) as ArrayRef, false),
        ("similarity", Arc::new(Float64Array::from_iter_values(similarity)), false),
        ("label_conflict", Arc::new(conflicts), true),
    ])
}
