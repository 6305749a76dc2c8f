//! Pairs of rows, made from groups and edges.

use std::collections::{HashMap, HashSet};

use crate::leak::groups::Groups;
use crate::leak::search::{self, Edge};
use crate::leak::source::locate;

/// Pairs (24 bytes each) that are always listed, and so many more a row.
const PAIRS: usize = if cfg!(test) { 1 << 16 } else { 1 << 23 }; // tests reach it soon
const PAIRS_A_ROW: usize = 1 << 3;

/// Pairs that may be listed before the groups that make the most of them are cut short, so that
/// their number is linear in the `rows`: see [`search::limit`].
pub fn affordable(rows: usize) -> usize {
    PAIRS.saturating_add(rows.saturating_mul(PAIRS_A_ROW))
}

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
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) kind: Kind,
    pub(crate) similarity: f64,
}

/// Makes the pairs of rows.
pub(crate) struct Expansion<'a> {
    groups: &'a Groups,
    ends: &'a [usize],
    within: bool,
    /// Pairs that a group, or two alike groups, may make before they are cut short.
    limit: usize,
    pairs: Vec<Pair>,
    /// Groups and pairs of groups that were cut short.
    cut: usize,
}

impl<'a> Expansion<'a> {
    pub(crate) fn new(groups: &'a Groups, ends: &'a [usize], within: bool) -> Self {
        Self { groups, ends, within, limit: 0, pairs: Vec::new(), cut: 0 }
    }

    /// The pairs by `(left, right)`, and how many groups were cut short.
    pub(crate) fn run(mut self, edges: &[Edge]) -> (Vec<Pair>, usize) {
        let inside = (0..self.groups.nodes()).map(|node| self.pairs_inside(node));
        let between = edges.iter().map(|edge| self.pairs_between(edge));
        let affordable = affordable(self.groups.exact.len());
        self.limit = search::limit(inside.chain(between), affordable);
        for node in 0..self.groups.nodes() {
            self.inside(node);
        }
        self.between(edges);
        // Stable sorts make use of the order that is there already.
        self.pairs
            .sort_by_key(|pair| (u64::from(pair.left) << 32 | u64::from(pair.right), pair.kind));
        self.pairs.dedup_by_key(|pair| (pair.left, pair.right));
        (self.pairs, self.cut)
    }

    /// Pairs that the rows of a node make.
    fn pairs_inside(&self, node: usize) -> usize {
        let among = |n: usize| n * (n - 1) / 2;
        let rows = self.groups.rows.get(node);
        match rows.len() {
            0 | 1 => 0,
            n if self.within => among(n),
            n => {
                among(n)
                    - self.by_split(node).iter().map(|(_, rows)| among(rows.len())).sum::<usize>()
            }
        }
    }

    /// Pairs that the rows of two nodes make.
    fn pairs_between(&self, edge: &Edge) -> usize {
        let (left, right) = (edge.left as usize, edge.right as usize);
        let all = self.groups.rows.get(left).len() * self.groups.rows.get(right).len();
        if self.within || all == 1 {
            return all;
        }
        let (left, right) = (self.by_split(left), self.by_split(right));
        let both = left.iter().flat_map(|a| right.iter().map(move |b| (a, b)));
        both.filter(|(a, b)| a.0 != b.0).map(|(a, b)| a.1.len() * b.1.len()).sum()
    }

    fn split(&self, row: usize) -> usize {
        locate(self.ends, row).0
    }

    /// The rows of a node by split.
    fn by_split(&self, node: usize) -> Vec<(usize, &'a [usize])> {
        let mut parts = Vec::new();
        let mut rest = self.groups.rows.get(node);
        while let Some(&first) = rest.first() {
            let split = self.split(first);
            let (part, left) = rest.split_at(rest.partition_point(|&row| row < self.ends[split]));
            parts.push((split, part));
            rest = left;
        }
        parts
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
        let (left, right) = (a.min(b) as u32, a.max(b) as u32);
        self.pairs.push(Pair { left, right, kind, similarity });
    }

    /// Pairs of rows with equal features.
    fn inside(&mut self, node: usize) {
        let rows = self.groups.rows.get(node);
        if rows.len() < 2 {
            return;
        }
        if self.pairs_inside(node) > self.limit {
            self.cut += 1;
            self.star(rows, &self.by_split(node));
            return;
        }
        // By split, so that rows of one split cost nothing where they make no pair.
        let parts = self.by_split(node);
        for (i, (_, left)) in parts.iter().enumerate() {
            for (j, &a) in left.iter().enumerate() {
                let own = if self.within { &left[j + 1..] } else { &[][..] };
                let later = parts[i + 1..].iter().flat_map(|(_, rows)| rows.iter());
                for &b in own.iter().chain(later) {
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
            let (left, right) = (edge.left as usize, edge.right as usize);
            let (left, right) = (self.groups.rows.get(left), self.groups.rows.get(right));
            if let (&[left], &[right]) = (left, right) {
                // Two nodes of one split have no edge, unless pairs inside a split count.
                self.push(left, right, edge.similarity);
                continue;
            }
            let cut = self.pairs_between(edge) > self.limit;
            self.cut += usize::from(cut);
            for (a, left) in self.by_split(edge.left as usize) {
                for (b, right) in self.by_split(edge.right as usize) {
                    if a == b && !self.within {
                        continue;
                    }
                    if !cut {
                        for &l in left {
                            for &r in right {
                                self.push(l, r, edge.similarity);
                            }
                        }
                        continue;
                    }
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
        }
    }
}
