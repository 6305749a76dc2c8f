//! How near duplicates are found: which nodes are worth comparing, and how alike two are.

use crate::leak::band::Banding;
use crate::leak::groups::Lists;
use crate::leak::hash;
use crate::leak::minhash::MinHash;
use crate::leak::search::Edge;
use crate::leak::verify;

/// A similarity of nodes with the keys that lead to it. Nodes that share a key in any band are
/// compared; nodes that share none are not.
pub(crate) trait Likeness: Sync {
    /// Keys that each node has.
    fn bands(&self) -> usize;

    /// Appends the keys of a node. A node without features has none that matter.
    fn keys_into(&self, features: &[u64], scratch: &mut Vec<u32>, keys: &mut Vec<u32>);

    /// Appends the edges between the node `a` and those of the `others` that are alike enough.
    fn compare(&self, features: &Lists<u64>, a: u32, others: &[u32], edges: &mut Vec<Edge>);

    /// Probability that a pair right at the threshold is compared.
    fn recall(&self) -> f64;
}

/// Jaccard similarity of shingle sets, found by banded `MinHash` sketches.
pub(crate) struct ShingleSets {
    near: f64,
    banding: Banding,
    minhash: MinHash,
}

impl ShingleSets {
    pub(crate) fn new(near: f64) -> Self {
        let banding = Banding::for_threshold(near);
        Self { near, banding, minhash: MinHash::new(banding.slots()) }
    }
}

impl Likeness for ShingleSets {
    fn bands(&self) -> usize {
        self.banding.bands
    }

    fn keys_into(&self, features: &[u64], scratch: &mut Vec<u32>, keys: &mut Vec<u32>) {
        self.minhash.sketch_into(features, scratch);
        self.banding.keys_into(scratch, keys);
    }

    fn compare(&self, features: &Lists<u64>, a: u32, others: &[u32], edges: &mut Vec<Edge>) {
        let of_a = features.get(a as usize);
        edges.extend(others.iter().filter_map(|&b| {
            let similarity = verify::jaccard(of_a, features.get(b as usize), self.near)?;
            Some(Edge::new(a, b, similarity))
        }));
    }

    fn recall(&self) -> f64 {
        self.banding.recall(self.near)
    }
}

/// Jaccard similarity of the cells of two rows, found by blocks of columns.
///
/// Rows of d cells reach the threshold if they agree in at least m cells, m / (2d - m) >= near.
/// So they differ in at most d - m, and if the columns are dealt into d - m + 1 blocks, at least
/// one block is free of differences: every such pair shares the key of a block. Unlike `MinHash`
/// bands this misses nothing, and needs fewer keys.
pub(crate) struct CellBlocks {
    near: f64,
    blocks: Vec<Vec<usize>>,
}

impl CellBlocks {
    /// Rows that the columns are judged by.
    const SAMPLE: usize = 1024;

    pub(crate) fn new(near: f64, features: &Lists<u64>) -> Self {
        let columns = if features.len() == 0 { 0 } else { features.get(0).len() };
        let enough = |m: &usize| *m as f64 / (2 * columns - m) as f64 >= near;
        let least = (0..=columns).find(enough).unwrap_or(columns);
        let mut blocks = vec![Vec::new(); columns - least + 1];
        // Columns that tell rows apart are dealt out first, so that every block gets some.
        let step = features.len().div_ceil(Self::SAMPLE).max(1);
        let mut order: Vec<(usize, usize)> = (0..columns)
            .map(|column| {
                let sample = (0..features.len()).step_by(step);
                let mut cells: Vec<u64> = sample.map(|node| features.get(node)[column]).collect();
                cells.sort_unstable();
                cells.dedup();
                (cells.len(), column)
            })
            .collect();
        order.sort_unstable_by_key(|&(distinct, column)| (std::cmp::Reverse(distinct), column));
        let count = blocks.len();
        for (i, (_, column)) in order.into_iter().enumerate() {
            blocks[i % count].push(column);
        }
        Self { near, blocks }
    }
}

impl Likeness for CellBlocks {
    fn bands(&self) -> usize {
        self.blocks.len()
    }

    fn keys_into(&self, features: &[u64], _scratch: &mut Vec<u32>, keys: &mut Vec<u32>) {
        let key = |block: &Vec<usize>| hash::sequence(block.iter().map(|&c| features[c])) as u32;
        keys.extend(self.blocks.iter().map(key));
    }

    fn compare(&self, features: &Lists<u64>, a: u32, others: &[u32], edges: &mut Vec<Edge>) {
        let of_a = features.get(a as usize);
        edges.extend(others.iter().filter_map(|&b| {
            let similarity = verify::matching_cells(of_a, features.get(b as usize), self.near)?;
            Some(Edge::new(a, b, similarity))
        }));
    }

    fn recall(&self) -> f64 {
        1.0
    }
}
