//! All pairs of sets that are alike enough, without exception: the prefix filter of Bayardo, Ma and
//! Srikant, "Scaling up all pairs similarity search" (2007).
//!
//! Two sets of similarity t or more share at least t times the larger one's elements. So in any
//! order of all elements, the same for every set, they share one of the first n - ceil(t n) + 1
//! of the n elements of each. Only sets that do are compared.

use crate::leak::groups::{Lists, Progress, in_blocks};
use crate::leak::hash::{self, HashedMap};
use crate::leak::search::{Edge, Found, MIXED};
use crate::leak::verify;

/// Sets that are drawn to measure the recall of another search, at most, and their elements.
const SAMPLE: usize = 512;
const SAMPLE_ELEMENTS: usize = 1 << 15;
/// Counters of elements, at most.
const MOST_COUNTERS: usize = 1 << 24;

/// Nodes to be joined with each other.
pub(crate) struct Join<'a> {
    pub(crate) features: &'a Lists<u64>,
    /// The split of each node, or [`MIXED`].
    pub(crate) homes: &'a [u32],
    /// Whether nodes of one split are compared with each other.
    pub(crate) within: bool,
    /// Least similarity.
    pub(crate) near: f64,
}

/// The edges of some nodes drawn at random.
pub(crate) struct Sample {
    /// Number of these nodes.
    pub(crate) nodes: usize,
    /// All edges that they have, by `(left, right)`.
    pub(crate) edges: Vec<Edge>,
}

impl Join<'_> {
    /// All edges. Rare elements come first, so that few sets share one.
    pub(crate) fn run<E>(&self, progress: &mut Progress<'_, E>) -> Result<Found, E> {
        let nodes = self.features.len();
        let counters = Counters::new(self.features);
        let mut entries: Vec<(u64, u32)> = Vec::new();
        in_blocks(
            "index",
            nodes,
            progress,
            |range| {
                let (mut order, mut out) = (Vec::new(), Vec::new());
                for node in range {
                    self.rare_prefix(node, &counters, &mut order, &mut out);
                }
                vec![out]
            },
            |some| entries.extend(some),
        )?;
        entries.sort_unstable();
        // Elements get numbers, nodes ranks by size.
        let mut token = 0;
        let mut last = None;
        let tokens: Vec<(u32, u32)> = entries
            .iter()
            .map(|&(element, node)| {
                token += u32::from(last.is_some_and(|last| last != element));
                last = Some(element);
                (token, node)
            })
            .collect();
        drop(entries);
        let count = tokens.last().map_or(0, |&(token, _)| token as usize + 1);
        let mut by_size: Vec<u32> = (0..nodes as u32).collect();
        by_size.sort_by_key(|&node| self.size(node));
        let sizes: Vec<usize> = by_size.iter().map(|&node| self.size(node)).collect();
        let tokens_of = Lists::by_key(nodes, tokens.iter().map(|&(token, node)| (node, token)));
        let in_order = by_size.iter().enumerate();
        let pairs = in_order.flat_map(|(rank, &node)| {
            tokens_of.get(node as usize).iter().map(move |&token| (token, rank as u32))
        });
        let ranks_with = Lists::by_key(count, pairs);
        drop(tokens);

        let mut found = Found::default();
        in_blocks(
            "compare",
            nodes,
            progress,
            |range| {
                let (mut candidates, mut edges, mut compared) = (Vec::new(), Vec::new(), 0);
                for rank in range {
                    let node = by_size[rank];
                    let least = (sizes[rank] as f64 * self.near * (1.0 - 1e-12)).ceil() as usize;
                    let first = sizes.partition_point(|&size| size < least) as u32;
                    candidates.clear();
                    for &token in tokens_of.get(node as usize) {
                        let ranks = ranks_with.get(token as usize);
                        let ranks = &ranks[..ranks.partition_point(|&other| other < rank as u32)];
                        let fits = ranks.partition_point(|&other| other < first);
                        candidates
                            .extend(ranks[fits..].iter().map(|&other| by_size[other as usize]));
                    }
                    candidates.sort_unstable();
                    candidates.dedup();
                    compared += candidates.len();
                    edges.extend(candidates.iter().filter_map(|&other| self.edge(node, other)));
                }
                vec![(edges, compared)]
            },
            |(edges, compared)| {
                found.edges.extend(edges);
                found.compared += compared;
            },
        )?;
        found.sort();
        Ok(found)
    }

    /// All edges of some nodes, the same ones in every run.
    pub(crate) fn sample<E>(&self, progress: &mut Progress<'_, E>) -> Result<Sample, E> {
        let mut drawn: Vec<(u64, u32)> = (0..self.features.len() as u32)
            .filter(|&node| self.size(node) > 0)
            .map(|node| (hash::mix(hash::mix(node.into()).wrapping_add(1)), node))
            .collect();
        let some = SAMPLE.min(drawn.len());
        if some < drawn.len() {
            drawn.select_nth_unstable(some);
        }
        drawn.truncate(some);
        drawn.sort_unstable();
        let mut elements = 0;
        let enough = drawn.iter().position(|&(_, node)| {
            elements += self.size(node);
            elements > SAMPLE_ELEMENTS
        });
        drawn.truncate(enough.map_or(some, |last| last + 1));

        let mut with: HashedMap<u64, Vec<u32>> = HashedMap::default();
        // One bit for many elements says that none of them is in the map, without a look at it.
        let mut filter = vec![0_u64; 1 << 14];
        let bit = |element: u64| ((element >> 50) as usize, 1_u64 << (element >> 44 & 63));
        for &(_, node) in &drawn {
            for &element in self.hash_prefix(node) {
                with.entry(element).or_default().push(node);
                let (word, bit) = bit(element);
                filter[word] |= bit;
            }
        }
        let mut edges = Vec::new();
        in_blocks(
            "sample",
            self.features.len(),
            progress,
            |range| {
                let (mut candidates, mut edges) = (Vec::new(), Vec::new());
                for node in range.start as u32..range.end as u32 {
                    candidates.clear();
                    for element in self.hash_prefix(node) {
                        let (word, bit) = bit(*element);
                        if filter[word] & bit != 0 {
                            candidates.extend(with.get(element).into_iter().flatten().copied());
                        }
                    }
                    candidates.sort_unstable();
                    candidates.dedup();
                    let others = candidates.iter().filter(|&&other| other != node);
                    edges.extend(others.filter_map(|&other| self.edge(node, other)));
                }
                vec![edges]
            },
            |some| edges.extend(some),
        )?;
        let mut all = Found { edges, ..Found::default() };
        all.sort(); // two drawn nodes have met twice
        Ok(Sample { nodes: drawn.len(), edges: all.edges })
    }

    fn size(&self, node: u32) -> usize {
        self.features.get(node as usize).len()
    }

    fn edge(&self, a: u32, b: u32) -> Option<Edge> {
        let home = |node: u32| self.homes[node as usize];
        if !self.within && home(a) != MIXED && home(a) == home(b) {
            return None;
        }
        let features = |node: u32| self.features.get(node as usize);
        verify::jaccard(features(a), features(b), self.near).map(|s| Edge::new(a, b, s))
    }

    /// How many elements of n are the prefix.
    fn prefix(&self, n: usize) -> usize {
        n - ((n as f64 * self.near * (1.0 - 1e-12)).ceil() as usize).clamp(1, n) + 1
    }

    /// The prefix in the order of the hashes, in which features are sorted.
    fn hash_prefix(&self, node: u32) -> &[u64] {
        let features = self.features.get(node as usize);
        if features.is_empty() { features } else { &features[..self.prefix(features.len())] }
    }

    /// Appends the prefix in the order of how often elements occur, without those that occur once.
    fn rare_prefix(
        &self,
        node: usize,
        counters: &Counters,
        order: &mut Vec<(u32, u64)>,
        out: &mut Vec<(u64, u32)>,
    ) {
        let features = self.features.get(node);
        if features.is_empty() {
            return;
        }
        order.clear();
        order.extend(features.iter().map(|&element| (counters.get(element), element)));
        let end = self.prefix(order.len());
        if end < order.len() {
            order.select_nth_unstable(end);
        }
        let shared = order[..end].iter().filter(|&&(count, _)| count > 1);
        out.extend(shared.map(|&(_, element)| (element, node as u32)));
    }
}

/// How often elements occur, at most: some share a counter. Any order of the elements will do
/// for the prefix filter, as long as it is one for all sets.
struct Counters {
    counts: Vec<u32>,
    shift: u32,
}

impl Counters {
    fn new(features: &Lists<u64>) -> Self {
        let bits = (2 * features.total()).clamp(2, MOST_COUNTERS).next_power_of_two().ilog2();
        let mut counters = Self { counts: vec![0; 1 << bits], shift: 64 - bits };
        for node in 0..features.len() {
            for &element in features.get(node) {
                let count = &mut counters.counts[(element >> counters.shift) as usize];
                *count = count.saturating_add(1);
            }
        }
        counters
    }

    fn get(&self, element: u64) -> u32 {
        self.counts[(element >> self.shift) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_pair_is_found(sets in prop::collection::vec(prop::collection::btree_set(0_u64..30, 0..24), 0..40), near in 0.05_f64..1.0, within in any::<bool>()) {
            let mut features = Lists::new();
            for set in &sets {
                let mut set: Vec<u64> = set.iter().map(|&x| hash::mix(x)).collect();
                set.sort_unstable();
                features.push(&set);
            }
            let homes: Vec<u32> = (0..sets.len() as u32).map(|i| if i % 3 == 2 { MIXED } else { i % 3 }).collect();
            let join = Join { features: &features, homes: &homes, within, near };
            let mut expected = Vec::new();
            for a in 0..sets.len() as u32 {
                for b in a + 1..sets.len() as u32 {
                    // Empty sets have nothing to share.
                    if !sets[a as usize].is_empty() {
                        expected.extend(join.edge(a, b));
                    }
                }
            }
            let found = join.run::<()>(&mut |_, _, _| Ok(())).unwrap();
            prop_assert_eq!(&found.edges, &expected);
            let sample = join.sample::<()>(&mut |_, _, _| Ok(())).unwrap();
            prop_assert_eq!(&sample.edges, &expected);
        }
    }
}
