//! Pairs of rows, made from groups and edges.

use std::collections::{HashMap, HashSet};

use crate::leak::groups::Groups;
use crate::leak::search::Edge;
use crate::leak::source::locate;

/// Pairs that one group, or two alike groups, may make before they are cut short.
pub const MOST_PAIRS: usize = 1000;
/// Pairs (40 bytes each) after which everything else is cut short.
const MANY_PAIRS: usize = 50_000_000;

/// How two rows are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The same content.
    Exact,
    /// The same normal form.
    Normalised,
    /// Alike enough.
    Near,
}

impl Kind {
    /// All kinds, the strictest first.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Normalised, Self::Near];

    /// The name that people see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Normalised => "normalised",
            Self::Near => "near",
        }
    }
}

/// Two rows that are the same, counted over all splits; `left < right`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pair {
    pub(crate) left: usize,
    pub(crate) right: usize,
    pub(crate) kind: Kind,
    pub(crate) similarity: f64,
}

/// Makes the pairs of rows.
pub(crate) struct Expansion<'a> {
    groups: &'a Groups,
    ends: &'a [usize],
    within: bool,
    pairs: Vec<Pair>,
    /// Groups and pairs of groups that were cut short.
    cut: usize,
}

impl<'a> Expansion<'a> {
    pub(crate) fn new(groups: &'a Groups, ends: &'a [usize], within: bool) -> Self {
        Self { groups, ends, within, pairs: Vec::new(), cut: 0 }
    }

    /// The pairs by `(left, right)`, and how many groups were cut short.
    pub(crate) fn run(mut self, edges: &[Edge]) -> (Vec<Pair>, usize) {
        for node in 0..self.groups.nodes() {
            self.inside(node);
        }
        self.between(edges);
        self.pairs.sort_unstable_by_key(|pair| (pair.left, pair.right, pair.kind));
        self.pairs.dedup_by_key(|pair| (pair.left, pair.right));
        (self.pairs, self.cut)
    }

    fn split(&self, row: usize) -> usize {
        locate(self.ends, row).0
    }

    /// The rows of a node by split.
    fn by_split(&self, node: usize) -> Vec<(usize, &'a [usize])> {
        let rows = self.groups.rows.get(node).chunk_by(|&a, &b| self.split(a) == self.split(b));
        rows.map(|rows| (self.split(rows[0]), rows)).collect()
    }

    /// Whether `pairs` more are to be cut short. One pair never is.
    fn too_many(&self, pairs: usize) -> bool {
        pairs > MOST_PAIRS || (pairs > 1 && self.pairs.len() > MANY_PAIRS)
    }

    fn push(&mut self, a: usize, b: usize, similarity: f64) {
        let group = |row: usize| self.groups.exact[row] as usize;
        let form = |row: usize| self.groups.normal[group(row)];
        let kind = if group(a) == group(b) {
            Kind::Exact
        } else if form(a) == form(b) {
            Kind::Normalised
        } else {
            Kind::Near
        };
        self.pairs.push(Pair { left: a.min(b), right: a.max(b), kind, similarity });
    }

    /// Pairs of rows with equal features.
    fn inside(&mut self, node: usize) {
        let rows = self.groups.rows.get(node);
        if rows.len() < 2 {
            return;
        }
        let parts = self.by_split(node);
        let among = |n: usize| n * (n - 1) / 2;
        let left_out: usize =
            if self.within { 0 } else { parts.iter().map(|(_, rows)| among(rows.len())).sum() };
        if self.too_many(among(rows.len()) - left_out) {
            self.cut += 1;
            self.star(rows, &parts);
            return;
        }
        for (i, &a) in rows.iter().enumerate() {
            for &b in &rows[i + 1..] {
                if self.within || self.split(a) != self.split(b) {
                    self.push(a, b, 1.0);
                }
            }
        }
    }

    /// For each row one pair a split: with the first row there of the same content, else of the
    /// same normal form, else of the node.
    fn star(&mut self, rows: &[usize], parts: &[(usize, &[usize])]) {
        let keys = |row: usize, split: usize| {
            let group = self.groups.exact[row];
            let form = self.groups.normal[group as usize];
            [(Kind::Exact, group, split), (Kind::Normalised, form, split), (Kind::Near, 0, split)]
        };
        let mut first = HashMap::new();
        for &(split, rows) in parts {
            for &row in rows {
                for key in keys(row, split) {
                    first.entry(key).or_insert(row);
                }
            }
        }
        let mut partners = Vec::new();
        for &row in rows {
            let own = self.split(row);
            for &(split, _) in parts.iter().filter(|&&(split, _)| self.within || split != own) {
                let known = keys(row, split).map(|key| first.get(&key));
                let partner = known.into_iter().flatten().find(|&&other| other != row);
                partners.extend(partner.map(|&other| (row, other)));
            }
        }
        for (row, partner) in partners {
            self.push(row, partner, 1.0);
        }
    }

    /// Pairs of rows of nodes that are alike.
    fn between(&mut self, edges: &[Edge]) {
        // Nodes whose rows of one split all have a partner in another already.
        let mut attached: HashSet<(u32, usize, usize)> = HashSet::new();
        for edge in edges {
            let mut cut = false;
            for (a, left) in self.by_split(edge.left as usize) {
                for (b, right) in self.by_split(edge.right as usize) {
                    if a == b && !self.within {
                        continue;
                    }
                    if !self.too_many(left.len() * right.len()) {
                        for &l in left {
                            for &r in right {
                                self.push(l, r, edge.similarity);
                            }
                        }
                        continue;
                    }
                    cut = true;
                    self.push(left[0], right[0], edge.similarity);
                    if attached.insert((edge.left, a, b)) {
                        for &l in left {
                            self.push(l, right[0], edge.similarity);
                        }
                    }
                    if attached.insert((edge.right, b, a)) {
                        for &r in right {
                            self.push(left[0], r, edge.similarity);
                        }
                    }
                }
            }
            self.cut += usize::from(cut);
        }
    }
}
