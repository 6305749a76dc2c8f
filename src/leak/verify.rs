//! Exact similarity of two candidates.

use crate::leak::isa::{Kernel, for_every_kernel};

/// Jaccard similarity of two sets given as sorted, distinct hashes, or `None` if it is below `near`.
///
/// Two empty sets have similarity 1.
pub fn jaccard(a: &[u64], b: &[u64], near: f64) -> Option<f64> {
    jaccard_with(Kernel::best(), a, b, near)
}

fn jaccard_with(kernel: Kernel, a: &[u64], b: &[u64], near: f64) -> Option<f64> {
    let (small, large) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let total = small.len() + large.len();
    // Not even full overlap would do; the sizes alone say so.
    reached(small.len(), total, near)?;
    let least = least_overlap(total, near);
    reached(overlap(kernel, small, large, least)?, total, near)
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

/// A number of common elements that every pair of `total` elements on both sides has, if its
/// similarity reaches `near`: both / (total - both) >= near. Rounding makes it less, never more.
fn least_overlap(total: usize, near: f64) -> usize {
    ((total as f64 * near / (1.0 + near) * (1.0 - 1e-12)).ceil() as usize).saturating_sub(1)
}

for_every_kernel! {
    /// Size of the intersection of two sorted sets, or `None` once it is sure to be below `least`.
    fn overlap(a: &[u64], b: &[u64], least: usize) -> Option<usize> {
        // Four of each side are compared with each other at once; the side that ends first moves on.
        const FOUR: usize = 4;
        const ROUNDS: usize = 16;
        let (mut i, mut j, mut both) = (0, 0, 0_usize);
        'blocks: loop {
            // What is left cannot make up for what has been missed.
            if both + (a.len() - i).min(b.len() - j) < least {
                return None;
            }
            for _ in 0..ROUNDS {
                let (Some(x), Some(y)) =
                    (a[i..].first_chunk::<FOUR>(), b[j..].first_chunk::<FOUR>())
                else {
                    break 'blocks;
                };
                let mut equal = [0_u64; FOUR];
                for turn in 0..FOUR {
                    for lane in 0..FOUR {
                        equal[lane] |= u64::from(x[lane] == y[(lane + turn) % FOUR]);
                    }
                }
                both += (equal[0] + equal[1] + equal[2] + equal[3]) as usize;
                let (x, y) = (x[FOUR - 1], y[FOUR - 1]);
                i += FOUR * usize::from(x <= y);
                j += FOUR * usize::from(y <= x);
            }
        }
        // Branch-free: which side moves on is data.
        while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
            both += usize::from(x == y);
            i += usize::from(x <= y);
            j += usize::from(y <= x);
        }
        Some(both)
    }
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
    fn no_pair_at_the_threshold_is_given_up_early() {
        for total in 1..400_usize {
            for both in 0..=total / 2 {
                let similarity = both as f64 / (total - both) as f64;
                assert!(least_overlap(total, similarity) <= both, "{both} of {total}");
            }
        }
    }

    #[test]
    fn rows_match_cell_by_cell() {
        assert_eq!(matching_cells(&[1, 2, 3], &[1, 9, 3], 0.5), Some(0.5));
        assert_eq!(matching_cells(&[1, 2, 3], &[3, 2, 1], 0.5), None);
    }

    proptest! {
        #[test]
        fn it_is_jaccard(a in prop::collection::btree_set(0_u64..260, 0..160), b in prop::collection::btree_set(0_u64..260, 0..160), near in 0.0_f64..1.0) {
            let union = a.union(&b).count();
            let truth = if union == 0 { 1.0 } else { a.intersection(&b).count() as f64 / union as f64 };
            let list = |s: &BTreeSet<u64>| s.iter().copied().collect::<Vec<_>>();
            let (a, b) = (list(&a), list(&b));
            for kernel in Kernel::available() {
                prop_assert_eq!(jaccard_with(kernel, &a, &b, near), (truth >= near).then_some(truth));
                prop_assert_eq!(jaccard_with(kernel, &b, &a, truth), Some(truth));
            }
            prop_assert!((0.0..=1.0).contains(&truth));
        }
    }
}
