//! Near duplicates: nodes that share a key are compared, and kept if they are alike enough.

use rayon::slice::ParallelSliceMut;

use crate::leak::groups::{Lists, Progress, in_blocks};
use crate::leak::likeness::Likeness;
use crate::parallel;

/// Comparisons that one bucket may cost before it is cut short.
const BUCKET: usize = 1 << 21;
/// The same, once [`MANY_EDGES`] have been found.
const SMALL_BUCKET: usize = 1 << 10;
/// Edges (24 bytes each) after which buckets are held to less.
const MANY_EDGES: usize = 20_000_000;
/// In a bucket cut short, each node is compared to this many nodes of each split.
const ANCHORS: usize = 16;
/// Comparisons that make up one task.
const TASK: usize = 1 << 16;
/// Tasks between two looks at the number of edges.
const TASKS: usize = 64;
/// The home of a node with rows in more than one split.
pub(crate) const MIXED: u32 = u32::MAX;

/// Two nodes that are alike enough; `left < right`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Edge {
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) similarity: f64,
}

/// What the search found, and what it cost.
#[derive(Default)]
pub(crate) struct Found {
    /// By `(left, right)`, each pair once.
    pub(crate) edges: Vec<Edge>,
    /// Pairs compared.
    pub(crate) compared: usize,
    /// Buckets too large to be compared in full.
    pub(crate) cut_buckets: usize,
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

/// Nodes that share a key.
struct Bucket {
    /// Sorted by home.
    nodes: Vec<u32>,
    comparisons: usize,
}

impl Search<'_> {
    pub(crate) fn run<E>(&self, progress: &mut Progress<'_, E>) -> Result<Found, E> {
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

        let mut found = Found::default();
        let mut cut: Vec<Vec<u32>> = Vec::with_capacity(bands);
        for band in 0..bands {
            progress("compare", band, bands)?;
            cut.push(self.band(&keys, band, &cut, &mut found));
        }
        found.edges.sort_unstable_by_key(|edge| (edge.left, edge.right));
        found.edges.dedup_by_key(|edge| (edge.left, edge.right));
        progress("compare", bands, bands)?;
        Ok(found)
    }

    /// Compares what shares a key of `band`. Returns the keys of buckets that were cut short.
    fn band(&self, keys: &[u32], band: usize, cut: &[Vec<u32>], found: &mut Found) -> Vec<u32> {
        let bands = self.likeness.bands();
        let key = |node: usize| keys[node * bands + band];
        let mut entries: Vec<u64> = (0..self.features.len())
            .filter(|&node| !self.features.get(node).is_empty())
            .map(|node| u64::from(key(node)) << 32 | node as u64)
            .collect();
        parallel::install(|threads| {
            if threads { entries.par_sort_unstable() } else { entries.sort_unstable() }
        });
        let buckets: Vec<Bucket> = entries
            .chunk_by(|a, b| a >> 32 == b >> 32)
            .filter(|run| run.len() > 1)
            .filter_map(|run| self.bucket(run))
            .collect();

        let mut cut_here = Vec::new();
        let mut rest = buckets.as_slice();
        while !rest.is_empty() {
            let limit = if found.edges.len() < MANY_EDGES { BUCKET } else { SMALL_BUCKET };
            let tasks = take_tasks(&mut rest);
            let results = parallel::map_indexed(tasks.len(), usize::MAX, |i| {
                let mut edges = Vec::new();
                let mut compared = 0;
                for bucket in tasks[i] {
                    compared += self.compare(bucket, limit, keys, band, cut, &mut edges);
                }
                (edges, compared)
            });
            for bucket in tasks.iter().copied().flatten().filter(|b| b.comparisons > limit) {
                cut_here.push(key(bucket.nodes[0] as usize));
            }
            for (edges, compared) in results {
                found.edges.extend(edges);
                found.compared += compared;
            }
        }
        found.cut_buckets += cut_here.len();
        cut_here // ascending, as the entries are
    }

    /// The nodes of a run of entries by home, if any two are to be compared.
    fn bucket(&self, run: &[u64]) -> Option<Bucket> {
        let home = |node: u32| self.homes[node as usize];
        let among = |n: usize| n * (n - 1) / 2;
        let mut nodes: Vec<u32> = run.iter().map(|&entry| entry as u32).collect();
        nodes.sort_by_key(|&node| home(node));
        let left_out: usize = nodes
            .chunk_by(|&a, &b| home(a) == home(b))
            .filter(|same| !self.within && home(same[0]) != MIXED)
            .map(|same| among(same.len()))
            .sum();
        let comparisons = among(nodes.len()) - left_out;
        (comparisons > 0).then_some(Bucket { nodes, comparisons })
    }

    /// Compares the nodes of a bucket, and returns how many comparisons that were.
    fn compare(
        &self,
        bucket: &Bucket,
        limit: usize,
        keys: &[u32],
        band: usize,
        cut: &[Vec<u32>],
        edges: &mut Vec<Edge>,
    ) -> usize {
        let bands = self.likeness.bands();
        let keys_of = |node: u32| &keys[node as usize * bands..node as usize * bands + band];
        let home = |node: u32| self.homes[node as usize];
        let mut compared = 0;
        let mut visit = |a: u32, b: u32| {
            let met_before = keys_of(a).iter().zip(keys_of(b)).zip(cut).any(|((x, y), cut)| {
                // In a bucket cut short they may not have met after all.
                x == y && cut.binary_search(x).is_err()
            });
            if met_before {
                return;
            }
            compared += 1;
            let features = |node: u32| self.features.get(node as usize);
            if let Some(similarity) = self.likeness.similarity(features(a), features(b)) {
                edges.push(Edge { left: a.min(b), right: a.max(b), similarity });
            }
        };
        let same_home = |a: u32, b: u32| !self.within && home(a) != MIXED && home(a) == home(b);
        let nodes = &bucket.nodes;
        if bucket.comparisons <= limit {
            for (i, &a) in nodes.iter().enumerate() {
                // Nodes are sorted by home, so those left out come first.
                let rest = &nodes[i + 1..];
                let skip = rest.partition_point(|&b| same_home(a, b));
                rest[skip..].iter().for_each(|&b| visit(a, b));
            }
        } else {
            for anchors in nodes.chunk_by(|&a, &b| home(a) == home(b)) {
                let anchors = &anchors[..anchors.len().min(ANCHORS)];
                for &b in nodes {
                    let others = anchors.iter().filter(|&&a| a != b && !same_home(a, b));
                    others.for_each(|&a| visit(a, b));
                }
            }
        }
        compared
    }
}

/// Cuts some of the buckets off, in tasks of about equal work.
fn take_tasks<'a>(rest: &mut &'a [Bucket]) -> Vec<&'a [Bucket]> {
    let mut tasks = Vec::new();
    while !rest.is_empty() && tasks.len() < TASKS {
        let mut work = 0;
        let end = rest.iter().position(|bucket| {
            work += bucket.comparisons;
            work >= TASK
        });
        let (task, left) = rest.split_at(end.map_or(rest.len(), |last| last + 1));
        tasks.push(task);
        *rest = left;
    }
    tasks
}
