//! Groups, such as patients or users, with rows in more than one split.

use rayon::slice::ParallelSliceMut;

use crate::leak::cells;
use crate::leak::column::Column;
use crate::leak::hash;
use crate::parallel;

/// The groups that two splits share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Index of the earlier split.
    pub left: usize,
    /// Index of the later split.
    pub right: usize,
    /// Number of groups in both.
    pub groups: usize,
    /// Rows of these groups in the earlier split.
    pub left_rows: usize,
    /// Rows of these groups in the later split.
    pub right_rows: usize,
    /// Rows of the later split that name the first few of these groups.
    pub examples: Vec<usize>,
}

/// Every pair of splits with groups in common. Missing groups belong to nothing.
pub fn overlaps(splits: &[&dyn Column], examples: usize) -> Vec<Overlap> {
    let mut rows: Vec<(u128, usize, usize)> = Vec::new();
    let mut bytes = Vec::new();
    let mut missing = Vec::new();
    cells::encode(crate::leak::column::Cell::Missing, &mut missing);
    for (split, column) in splits.iter().enumerate() {
        for row in 0..column.len() {
            bytes.clear();
            cells::encode(column.cell(row), &mut bytes);
            if bytes != missing {
                rows.push((hash::content(&bytes), split, row));
            }
        }
    }
    parallel::install(
        |threads| if threads { rows.par_sort_unstable() } else { rows.sort_unstable() },
    );

    let n = splits.len();
    let mut found = vec![Overlap::default(); n * n];
    for group in rows.chunk_by(|a, b| a.0 == b.0) {
        let parts: Vec<&[(u128, usize, usize)]> = group.chunk_by(|a, b| a.1 == b.1).collect();
        for (i, right) in parts.iter().enumerate() {
            for left in &parts[..i] {
                let overlap = &mut found[left[0].1 * n + right[0].1];
                overlap.groups += 1;
                overlap.left_rows += left.len();
                overlap.right_rows += right.len();
                overlap.examples.push(right[0].2);
            }
        }
    }
    for (at, overlap) in found.iter_mut().enumerate() {
        (overlap.left, overlap.right) = (at / n, at % n);
        // The groups came in the order of their hashes; people expect that of the data.
        overlap.examples.sort_unstable();
        overlap.examples.truncate(examples);
    }
    found.retain(|overlap| overlap.groups > 0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_groups_are_counted_with_their_rows() {
        let train: Vec<Option<&str>> = vec![Some("ann"), Some("bob"), Some("ann"), None];
        let test: Vec<Option<&str>> = vec![Some("eve"), Some("ann"), None];
        let last: Vec<Option<&str>> = vec![Some("eve"), Some("eve")];
        let found = overlaps(&[&train, &test, &last], 3);
        let ann = Overlap {
            left: 0,
            right: 1,
            groups: 1,
            left_rows: 2,
            right_rows: 1,
            examples: vec![1],
        };
        let eve = Overlap {
            left: 1,
            right: 2,
            groups: 1,
            left_rows: 1,
            right_rows: 2,
            examples: vec![0],
        };
        assert_eq!(found, [ann, eve]);
    }
}
