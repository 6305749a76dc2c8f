//! Exact similarity of two candidates.

/// Jaccard similarity of two sets given as sorted, distinct hashes, or `None` if it is below `near`.
///
/// Two empty sets have similarity 1.
pub fn jaccard(a: &[u64], b: &[u64], near: f64) -> Option<f64> {
    let (small, large) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    // Not even full overlap would do; the sizes alone say so.
    reached(small.len(), small.len() + large.len(), near)?;
    let both = overlap(small, large);
    reached(both, small.len() + large.len(), near)
}

/// Similarity of two rows given as one hash a cell: cells in common over all distinct cells.
pub fn matching_cells(a: &[u64], b: &[u64], near: f64) -> Option<f64> {
    let both = a.iter().zip(b).filter(|(x, y)| x == y).count();
    reached(both, a.len() + b.len(), near)
}

/// `both` common of `total` elements counted on both sides, as a Jaccard similarity if that is at
/// least `near`. The division is rounded once, so 4 of 5 reaches the literal 0.8.
fn reached(both: usize, total: usize, near: f64) -> Option<f64> {
    let similarity = if total == 0 { 1.0 } else { both as f64 / (total - both) as f64 };
    (similarity >= near).then_some(similarity)
}

/// Size of the intersection of two sorted sets. Branch-free: which side moves on is data.
fn overlap(a: &[u64], b: &[u64]) -> usize {
    let (mut i, mut j, mut both) = (0, 0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        both += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_threshold_itself_is_reached() {
        assert_eq!(jaccard(&[1, 2, 3, 4], &[1, 2, 3, 4, 5], 0.8), Some(0.8));
        let a: Vec<u64> = (0..20).collect();
        assert_eq!(jaccard(&a[..11], &a, 0.55), Some(0.55));
        assert_eq!(jaccard(&[], &[], 1.0), Some(1.0));
        assert_eq!(jaccard(&[], &[1], 0.1), None);
    }

    #[test]
    fn rows_match_cell_by_cell() {
        assert_eq!(matching_cells(&[1, 2, 3], &[1, 9, 3], 0.5), Some(0.5));
        assert_eq!(matching_cells(&[1, 2, 3], &[3, 2, 1], 0.5), None);
    }

    proptest! {
        #[test]
        fn it_is_jaccard(a in prop::collection::btree_set(0_u64..60, 0..40), b in prop::collection::btree_set(0_u64..60, 0..40), near in 0.0_f64..1.0) {
            let union = a.union(&b).count();
            let truth = if union == 0 { 1.0 } else { a.intersection(&b).count() as f64 / union as f64 };
            let list = |s: &BTreeSet<u64>| s.iter().copied().collect::<Vec<_>>();
            let (a, b) = (list(&a), list(&b));
            prop_assert_eq!(jaccard(&a, &b, near), (truth >= near).then_some(truth));
            prop_assert_eq!(jaccard(&a, &b, near), jaccard(&b, &a, near));
            prop_assert!((0.0..=1.0).contains(&truth));
        }
    }
}
