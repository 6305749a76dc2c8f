//! Which rows to keep, so that no leaked pair is left.

use crate::leak::groups::{Groups, Lists};
use crate::leak::search::Edge;

/// Rows to keep of each split, ascending.
///
/// The splits are gone through from the last to the first, their rows in order. A row is dropped
/// for a copy that is kept: one in a later split or, with `within`, an earlier one in its own. So
/// the last split is kept whole (but for copies inside it), and no row goes without a copy of it
/// staying.
pub(crate) fn kept(
    groups: &Groups,
    ends: &[usize],
    edges: &[Edge],
    within: bool,
) -> Vec<Vec<usize>> {
    let ways = edges.iter().flat_map(|e| [(e.left, e.right), (e.right, e.left)]);
    let neighbours = Lists::by_key(groups.nodes(), ways);
    // The latest split that a row of the node is kept in.
    let mut latest: Vec<Option<usize>> = vec![None; groups.nodes()];
    let mut kept = Vec::with_capacity(ends.len());
    for (split, &end) in ends.iter().enumerate().rev() {
        let start = if split == 0 { 0 } else { ends[split - 1] };
        let mut here: Vec<(&[usize], usize)> = (0..groups.nodes())
            .map(|node| (among(groups.rows.get(node), start, end), node))
            .filter(|(rows, _)| !rows.is_empty())
            .collect();
        here.sort_unstable(); // by their first rows, which all differ
        let mut keep = vec![true; end - start];
        for (rows, node) in here {
            let stays = |node: usize| latest[node].is_some_and(|at| within || at > split);
            let near = neighbours.get(node).iter().any(|&other| stays(other as usize));
            let dropped = if stays(node) || near {
                rows
            } else {
                latest[node].get_or_insert(split);
                if within { &rows[1..] } else { &[] }
            };
            for &row in dropped {
                keep[row - start] = false;
            }
        }
        let rows = keep.iter().enumerate();
        kept.push(rows.filter_map(|(row, &keep)| keep.then_some(row)).collect());
    }
    kept.reverse();
    kept
}

/// The part of the ascending `rows` that lies in `start..end`.
fn among(rows: &[usize], start: usize, end: usize) -> &[usize] {
    &rows[rows.partition_point(|&row| row < start)..rows.partition_point(|&row| row < end)]
}
