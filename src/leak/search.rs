//! Near duplicates: nodes that share a key are compared, and kept if they are alike enough.
//!
//! The nodes that share the key of a band are a *bucket*. All pairs of a bucket are compared, unless
//! it is cut short: then each node is compared with the first few nodes of each split alone. Which
//! buckets are cut depends on the sizes of all buckets and nothing else: see [`limit`].

use crate::leak::groups::{Lists, Progress, in_blocks};
use crate::leak::likeness::Likeness;
use crate::parallel;

/// Pairs met in all buckets together that are always affordable, and so many more a node.
const PAIRS: usize = if cfg!(test) { 1 << 20 } else { 1 << 26 }; // tests reach it soon
const PAIRS_A_NODE: usize = 1 << 6;
/// Buckets with at most this many pairs are never cut.
const SMALL: usize = 1 << 10;
/// In a bucket cut short, each node is compared to this many nodes of each split.
const ANCHORS: usize = 16;
/// Pairs that make up one task.
const TASK: usize = 1 << 16;
/// Bands whose buckets are held at once.
const BANDS: usize = 8;
/// The home of a node with rows in more than one split.
pub(crate) const MIXED: u32 = u32::MAX;

/// Two nodes that are alike enough; `left < right`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Edge {
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) similarity: f64,
}

impl Edge {
    pub(crate) fn new(a: u32, b: u32, similarity: f64) -> Self {
        Self { left: a.min(b), right: a.max(b), similarity }
    }
}

/// What the search found, and what it cost.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// By `(left, right)`, each pair once.
    pub(crate) edges: Vec<Edge>,
    /// Pairs compared.
    pub(crate) compared: usize,
    /// Buckets too large to be compared in full.
    pub(crate) cut_buckets: usize,
}

impl Found {
    pub(crate) fn sort(&mut self) {
        let key = |edge: &Edge| u64::from(edge.left) << 32 | u64::from(edge.right);
        self.edges.sort_unstable_by_key(key);
        self.edges.dedup_by_key(|edge| key(edge));
    }
}

/// Nodes to be searched.
pub(crate) struct Search<'a> {
    pub(crate) features: &'a Lists<u64>,
    /// The split of each node, or [`MIXED`].
    pub(crate) homes: &'a [u32],
    /// Whether nodes of one split are compared with each other.
    pub(crate) within: bool,
    pub(crate) likeness: &'a dyn Likeness,
}

/// The most pairs that a bucket may have and still be compared in full: the largest power of two
/// such that all buckets together meet no more than `affordable` pairs, a cut one counting for
/// nothing; at least [`SMALL`]. `pairs` are the numbers of pairs of the buckets, in any order.
///
/// It depends on how many buckets there are of each size, so any engine that has the buckets
/// in any number of parts gets the same limit by adding up counts.
pub fn limit(pairs: impl IntoIterator<Item = usize>, affordable: usize) -> usize {
    let mut by_size = [0_usize; usize::BITS as usize + 1];
    for pairs in pairs {
        let size = (usize::BITS - (pairs.max(1) - 1).leading_zeros()) as usize;
        by_size[size] = by_size[size].saturating_add(pairs);
    }
    let mut sum = 0_usize;
    let mut size = 0;
    while size < by_size.len() {
        sum = sum.saturating_add(by_size[size]);
        if sum > affordable {
            break;
        }
        size += 1;
    }
    if size == by_size.len() { usize::MAX } else { (1 << size.saturating_sub(1)).max(SMALL) }
}

/// Pairs that the buckets of so many nodes may have together before some are cut.
pub fn affordable(nodes: usize) -> usize {
    PAIRS.saturating_add(nodes.saturating_mul(PAIRS_A_NODE))
}

/// The buckets of one band: runs of nodes by home and then number.
struct Buckets {
    nodes: Vec<u32>,
    /// End of each bucket among the nodes, and its pairs.
    ends: Vec<(usize, usize)>,
}

impl Search<'_> {
    pub(crate) fn run<E>(&self, progress: &mut Progress<'_, E>) -> Result<Found, E> {
        let keys = self.keys(progress)?;
        let bands = self.likeness.bands();
        let bytes = self.features.len() << 4;
        let mut found = Found::default();

        let mut pairs: Vec<(usize, usize, u32)> = Vec::new();
        for first in (0..bands).step_by(BANDS) {
            let here = BANDS.min(bands - first);
            let sizes = parallel::map_indexed(here, bytes * here, |i| {
                let band = first + i;
                let buckets = self.buckets(&keys, band);
                let mut start = 0;
                let mut sizes = Vec::with_capacity(buckets.ends.len());
                for &(end, pairs) in &buckets.ends {
                    sizes.push((pairs, band, key(&keys, bands, buckets.nodes[start], band)));
                    start = end;
                }
                sizes
            });
            pairs.extend(sizes.into_iter().flatten());
        }
        let limit = limit(pairs.iter().map(|bucket| bucket.0), affordable(self.features.len()));
        let mut cut: Vec<Vec<u32>> = vec![Vec::new(); bands];
        for (_, band, key) in pairs.into_iter().filter(|&(pairs, ..)| pairs > limit) {
            cut[band].push(key); // ascending, as the buckets are
            found.cut_buckets += 1;
        }

        for first in (0..bands).step_by(BANDS) {
            progress("compare", first, bands)?;
            let here = BANDS.min(bands - first);
            let buckets =
                parallel::map_indexed(here, bytes * here, |i| self.buckets(&keys, first + i));
            let tasks: Vec<(usize, Vec<Part>)> = buckets
                .iter()
                .enumerate()
                .flat_map(|(i, buckets)| tasks(buckets).map(move |task| (i, task)))
                .collect();
            let results = parallel::map_indexed(tasks.len(), usize::MAX, |t| {
                let (i, task) = &tasks[t];
                let mut edges = Vec::new();
                let mut compared = 0;
                for &(start, end, pairs) in task {
                    let nodes = &buckets[*i].nodes[start..end];
                    compared +=
                        self.compare(nodes, pairs > limit, &keys, first + i, &cut, &mut edges);
                }
                (edges, compared)
            });
            for (edges, compared) in results {
                found.edges.extend(edges);
                found.compared += compared;
            }
        }
        found.sort();
        progress("compare", bands, bands)?;
        Ok(found)
    }

    /// One key a band for each node.
    fn keys<E>(&self, progress: &mut Progress<'_, E>) -> Result<Vec<u32>, E> {
        let nodes = self.features.len();
        let bands = self.likeness.bands();
        let mut keys: Vec<u32> = Vec::with_capacity(nodes * bands);
        in_blocks(
            "sketch",
            nodes,
            progress,
            |range| {
                let (mut scratch, mut keys) = (Vec::new(), Vec::with_capacity(range.len() * bands));
                for node in range {
                    self.likeness.keys_into(self.features.get(node), &mut scratch, &mut keys);
                }
                vec![keys]
            },
            |some| keys.extend(some),
        )?;
        Ok(keys)
    }

    /// The buckets of a band in which any two nodes are to be compared, by key.
    fn buckets(&self, keys: &[u32], band: usize) -> Buckets {
        let bands = self.likeness.bands();
        let mut entries: Vec<u64> = (0..self.features.len() as u32)
            .filter(|&node| !self.features.get(node as usize).is_empty())
            .map(|node| u64::from(key(keys, bands, node, band)) << 32 | u64::from(node))
            .collect();
        sort_by_key(&mut entries);
        let home = |node: u32| self.homes[node as usize];
        let among = |n: usize| n * (n - 1) / 2;
        let mut buckets = Buckets { nodes: Vec::new(), ends: Vec::new() };
        for run in entries.chunk_by(|a, b| a >> 32 == b >> 32).filter(|run| run.len() > 1) {
            let start = buckets.nodes.len();
            buckets.nodes.extend(run.iter().map(|&entry| entry as u32));
            let mut pairs = among(run.len());
            if !self.within {
                let nodes = &mut buckets.nodes[start..];
                nodes.sort_by_key(|&node| home(node));
                let same = nodes.chunk_by(|&a, &b| home(a) == home(b));
                let left_out = same.filter(|same| home(same[0]) != MIXED).map(|s| among(s.len()));
                pairs -= left_out.sum::<usize>();
            }
            if pairs == 0 {
                buckets.nodes.truncate(start);
            } else {
                buckets.ends.push((buckets.nodes.len(), pairs));
            }
        }
        buckets
    }

    /// Compares the nodes of a bucket, and returns how many comparisons that were.
    fn compare(
        &self,
        nodes: &[u32],
        is_cut: bool,
        keys: &[u32],
        band: usize,
        cut: &[Vec<u32>],
        edges: &mut Vec<Edge>,
    ) -> usize {
        let bands = self.likeness.bands();
        let keys_of = |node: u32| &keys[node as usize * bands..node as usize * bands + band];
        let home = |node: u32| self.homes[node as usize];
        // Nodes that share an earlier bucket have been compared there, unless that one was cut.
        let met_before = |a: &[u32], b: &[u32]| {
            any_equal(a, b)
                && a.iter()
                    .zip(b)
                    .zip(cut)
                    .any(|((x, y), cut)| x == y && cut.binary_search(x).is_err())
        };
        let same_home = |a: u32, b: u32| !self.within && home(a) != MIXED && home(a) == home(b);
        let mut compared = 0;
        let mut others = Vec::new();
        let mut compare = |a: u32, others: &[u32]| {
            compared += others.len();
            self.likeness.compare(self.features, a, others, edges);
        };
        if is_cut {
            for same in nodes.chunk_by(|&a, &b| home(a) == home(b)) {
                for &a in &same[..same.len().min(ANCHORS)] {
                    let keys_of_a = keys_of(a);
                    others.clear();
                    others.extend(nodes.iter().copied().filter(|&b| {
                        a != b && !same_home(a, b) && !met_before(keys_of_a, keys_of(b))
                    }));
                    compare(a, &others);
                }
            }
        } else {
            for (i, &a) in nodes.iter().enumerate() {
                // Nodes are sorted by home, so those left out come first.
                let rest = &nodes[i + 1..];
                let rest = &rest[rest.partition_point(|&b| same_home(a, b))..];
                let keys_of_a = keys_of(a);
                others.clear();
                others.extend(rest.iter().copied().filter(|&b| !met_before(keys_of_a, keys_of(b))));
                compare(a, &others);
            }
        }
        compared
    }
}

fn key(keys: &[u32], bands: usize, node: u32, band: usize) -> u32 {
    keys[node as usize * bands + band]
}

/// Whether two lists of one length agree anywhere.
#[inline]
fn any_equal(a: &[u32], b: &[u32]) -> bool {
    const LANES: usize = 8;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let eight = |x: &[u32; LANES], y: &[u32; LANES]| {
        // Without a way out inside, these are a few instructions for all eight.
        let mut equal = 0;
        for lane in 0..LANES {
            equal |= u32::from(x[lane] == y[lane]);
        }
        equal != 0
    };
    a.iter().zip(b).any(|(x, y)| eight(x, y)) || a_rest.iter().zip(b_rest).any(|(x, y)| x == y)
}

/// Start, end and pairs of a bucket.
type Part = (usize, usize, usize);

/// The buckets as runs of about equal work.
fn tasks(buckets: &Buckets) -> impl Iterator<Item = Vec<Part>> {
    let mut tasks = Vec::new();
    let (mut task, mut work, mut start) = (Vec::new(), 0_usize, 0);
    for &(end, pairs) in &buckets.ends {
        task.push((start, end, pairs));
        work = work.saturating_add(pairs);
        start = end;
        if work >= TASK {
            tasks.push(std::mem::take(&mut task));
            work = 0;
        }
    }
    tasks.push(task);
    tasks.into_iter()
}

/// Sorts entries by their high 32 bits; equal ones keep their order.
fn sort_by_key(entries: &mut Vec<u64>) {
    const BITS: u32 = 11;
    const FEW: usize = 1 << 10;
    if entries.len() < FEW {
        entries.sort_unstable(); // the low bits ascend already
        return;
    }
    let mut sorted = vec![0; entries.len()];
    for shift in [32, 32 + BITS, 32 + 2 * BITS] {
        let digit = |entry: u64| (entry >> shift) as usize & ((1 << BITS) - 1);
        let mut places = [0_usize; 1 << BITS];
        for &entry in entries.iter() {
            places[digit(entry)] += 1;
        }
        let mut sum = 0;
        for place in &mut places {
            sum += std::mem::replace(place, sum);
        }
        for &entry in entries.iter() {
            let place = &mut places[digit(entry)];
            sorted[*place] = entry;
            *place += 1;
        }
        std::mem::swap(entries, &mut sorted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_limit_keeps_the_sum_affordable() {
        assert_eq!(limit([5, 3_000, 100], 4_000), usize::MAX);
        assert_eq!(limit([5, 3_000, 100], 3_000), 2_048);
        assert_eq!(limit([usize::MAX, usize::MAX], 10), 1 << 63);
        assert_eq!(limit([], 0), usize::MAX);
    }

    proptest! {
        #[test]
        fn entries_are_sorted_by_key(entries in prop::collection::vec(any::<u32>(), 0..3000)) {
            let mut entries: Vec<u64> = entries.iter().enumerate().map(|(i, &key)| u64::from(key) << 32 | i as u64).collect();
            let mut expected = entries.clone();
            expected.sort_unstable();
            sort_by_key(&mut entries);
            prop_assert_eq!(entries, expected);
        }

        #[test]
        fn keys_agree_anywhere(a in prop::collection::vec(0_u32..9, 0..40), b in prop::collection::vec(0_u32..9, 40)) {
            let b = &b[..a.len()];
            prop_assert_eq!(any_equal(&a, b), a.iter().zip(b).any(|(x, y)| x == y));
        }

        #[test]
        fn the_limit_does_not_depend_on_the_order(pairs in prop::collection::vec(0_usize..100_000, 0..50), affordable in 0_usize..1_000_000) {
            let mut turned = pairs.clone();
            turned.reverse();
            let limit = limit(pairs.iter().copied(), affordable);
            prop_assert_eq!(limit, super::limit(turned, affordable));
            let kept: usize = pairs.iter().filter(|&&pairs| pairs <= limit).sum();
            prop_assert!(kept <= affordable || limit <= SMALL);
        }
    }
}
