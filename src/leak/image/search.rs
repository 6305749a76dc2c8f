//! Near duplicates among images: candidates by their hashes, each verified.

use crate::leak::groups::{Lists, Progress, in_blocks};
use crate::leak::hash;
use crate::leak::image::align::{Gates, Picture, Subject};
use crate::leak::image::chance::{self, DRAWN, LEAST_PAIRS};
use crate::leak::image::hamming::{Plain, Query, Radii, Slices, plain};
use crate::leak::image::record::{hashes_of, picture_of};
use crate::leak::search::{Edge, Found, MIXED};
use crate::parallel;

/// Pairs beyond which only those that share a slice of a hash are looked at: about ten minutes of
/// one core.
const MOST_PAIRS: usize = 40_000_000_000;
/// One of so many pairs may get past the hashes and the gates by chance, before the radii shrink.
const MOST_CANDIDATES: usize = 500;
/// Words of the band-pass at half the size.
const SMALL: usize = 256;

/// The near duplicates of similarity `near` at least, and the level of chance if it is known.
///
/// `homes` are the splits of the nodes, or [`MIXED`].
pub(crate) fn search<E>(
    features: &Lists<u64>,
    homes: &[u32],
    within: bool,
    near: f64,
    progress: &mut Progress<'_, E>,
) -> Result<(Found, Option<f64>), E> {
    let mut smalls = Vec::new();
    let mut nodes = Vec::new();
    in_blocks(
        "thumbnails",
        features.len(),
        progress,
        |range| range.map(|node| (node, picture_of(features.get(node)))).collect(),
        |(node, picture): (usize, Option<Picture>)| {
            if let Some(picture) = picture {
                nodes.push(node as u32);
                smalls.extend_from_slice(picture.small());
            }
        },
    )?;
    // Flat images are left out: their hashes are the signs of rounding errors.
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|&i| homes[nodes[i] as usize]);
    let scan = Scan {
        features,
        within,
        homes: order.iter().map(|&i| homes[nodes[i] as usize]).collect(),
        hashes: order.iter().map(|&i| plain(&hashes_of(features.get(nodes[i] as usize)))).collect(),
        smalls: order.iter().flat_map(|&i| &smalls[i * SMALL..][..SMALL]).copied().collect(),
        nodes: order.iter().map(|&i| nodes[i]).collect(),
    };
    let drawn = scan.drawn();
    let chance = scan.chance(&drawn);
    let least = near.max(chance.unwrap_or(0.0));
    let radii = scan.radii(&drawn);
    let slices =
        (scan.pairs() > MOST_PAIRS).then(|| Slices::new(&scan.hashes, 0..scan.nodes.len() as u32));

    let mut found = Found::default();
    in_blocks(
        "compare",
        scan.nodes.len(),
        progress,
        |range| range.map(|i| scan.one(i, radii, slices.as_ref(), least)).collect(),
        |(edges, compared): (Vec<Edge>, usize)| {
            found.edges.extend(edges);
            found.compared += compared;
        },
    )?;
    found.edges.sort_unstable_by_key(|edge| (edge.left, edge.right));
    Ok((found, chance))
}

/// Nodes in the order of their homes, so that those to compare with one are a range.
struct Scan<'a> {
    features: &'a Lists<u64>,
    within: bool,
    nodes: Vec<u32>,
    homes: Vec<u32>,
    hashes: Vec<Plain>,
    smalls: Vec<f32>,
}

impl Scan<'_> {
    /// First place after `i` of a node to compare it with.
    fn start(&self, i: usize) -> usize {
        if self.within || self.homes[i] == MIXED {
            return i + 1;
        }
        self.homes.partition_point(|&home| home <= self.homes[i])
    }

    fn pairs(&self) -> usize {
        (0..self.nodes.len()).map(|i| self.nodes.len() - self.start(i)).sum()
    }

    fn picture(&self, i: usize) -> Option<Picture> {
        picture_of(self.features.get(self.nodes[i] as usize))
    }

    fn small(&self, i: usize) -> &[f32] {
        &self.smalls[i * SMALL..][..SMALL]
    }

    /// The partners of one node, and how many were compared.
    fn one(
        &self,
        i: usize,
        radii: Radii,
        slices: Option<&Slices>,
        least: f64,
    ) -> (Vec<Edge>, usize) {
        let (mut edges, mut compared) = (Vec::new(), 0);
        let start = self.start(i);
        let Some(picture) = self.picture(i).filter(|_| start < self.nodes.len()) else {
            return (edges, compared);
        };
        let subject = Subject::new(picture);
        let query = self.query(i);
        let mut verify = |j: usize, variants: u8| {
            compared += 1;
            let picture = || self.picture(j);
            let similarity = subject.similarity(variants, self.small(j), picture, Gates::SHUT);
            if f64::from(similarity) >= least {
                let (a, b) = (self.nodes[i], self.nodes[j]);
                let similarity = f64::from(similarity);
                edges.push(Edge { left: a.min(b), right: a.max(b), similarity });
            }
        };
        match slices {
            None => query.each(&self.hashes[start..], radii, |j, near| verify(start + j, near)),
            Some(slices) => {
                for j in slices.candidates(&query) {
                    let j = j as usize;
                    let near =
                        if j < start { 0 } else { query.near(&self.hashes[j], Radii::NARROW) };
                    if near != 0 {
                        verify(j, near);
                    }
                }
            }
        }
        (edges, compared)
    }

    fn query(&self, i: usize) -> Query {
        Query::new(&hashes_of(self.features.get(self.nodes[i] as usize)))
    }

    /// Pairs drawn at random; none where there are few in all.
    fn drawn(&self) -> Vec<(usize, usize)> {
        let n = self.nodes.len();
        if self.pairs() < LEAST_PAIRS {
            return Vec::new();
        }
        let place = |draw: usize| (hash::mix(draw as u64 + 1) % n as u64) as usize;
        (0..64 * DRAWN)
            .map(|draw| (place(2 * draw), place(2 * draw + 1)))
            .map(|(a, b)| (a.min(b), a.max(b)))
            .filter(|&(i, j)| i != j && j >= self.start(i))
            .take(DRAWN)
            .collect()
    }

    /// The level of chance.
    fn chance(&self, drawn: &[(usize, usize)]) -> Option<f64> {
        let similarities = parallel::map_indexed(drawn.len(), usize::MAX, |k| {
            let (i, j) = drawn[k];
            let (small, picture) = (self.small(j), || self.picture(j));
            let subject = self.picture(i).map(Subject::new);
            subject.map_or(0.0, |subject| subject.similarity(1, small, picture, Gates::OPEN))
        });
        let others = 2.0 * self.pairs() as f64 / self.nodes.len() as f64;
        chance::level(similarities, others)
    }

    /// The widest radii at which few of the drawn pairs are compared in full. Images that are much
    /// alike, such as garments on white, would otherwise nearly all be.
    fn radii(&self, drawn: &[(usize, usize)]) -> Radii {
        let passed = parallel::map_indexed(drawn.len(), usize::MAX, |k| {
            let (i, j) = drawn[k];
            let (small, picture) = (self.small(j), || self.picture(j));
            let subject = self.picture(i).map(Subject::new);
            subject.is_some_and(|subject| subject.similarity(1, small, picture, Gates::SHUT) > 0.0)
        });
        let passed = drawn.iter().zip(passed).filter(|(_, passed)| *passed).map(|(pair, _)| pair);
        let alike: Vec<(Query, usize)> = passed.map(|&(i, j)| (self.query(i), j)).collect();
        let few = |radii: &Radii| {
            let near = alike.iter().filter(|(query, j)| query.near(&self.hashes[*j], *radii) != 0);
            near.count() * MOST_CANDIDATES <= drawn.len()
        };
        Radii::shrinking().find(few).unwrap_or(Radii::NARROW)
    }
}
