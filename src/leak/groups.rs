//! Groups of rows that are the same: by content, by normal form, by features.

use std::collections::hash_map::Entry;

use crate::error::Error;
use crate::leak::hash::HashedMap;
use crate::leak::source::{Scratch, Source};
use crate::parallel;

/// Rows that one task works through. Fixed, so that the work is cut the same way on any machine.
const CHUNK: usize = 64;
/// Tasks between two reports of progress.
const BLOCK: usize = 64;
/// Told about each phase of the work: its name, how much is done, how much there is. An error ends
/// the work.
pub type Progress<'a, E> = dyn FnMut(&'static str, usize, usize) -> Result<(), E> + 'a;

/// Stands for the group of a missing row.
pub(crate) const NONE: u32 = u32::MAX;

/// Lists of values, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lists<T> {
    starts: Vec<usize>,
    values: Vec<T>,
}

impl<T: Copy> Lists<T> {
    pub(crate) fn new() -> Self {
        Self { starts: vec![0], values: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of values in all lists.
    pub(crate) fn total(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn push(&mut self, list: &[T]) {
        self.values.extend_from_slice(list);
        self.starts.push(self.values.len());
    }

    pub(crate) fn get(&self, i: usize) -> &[T] {
        &self.values[self.starts[i]..self.starts[i + 1]]
    }

    /// The values of `pairs`, listed by their key below `keys`, in the order in which they come.
    pub(crate) fn by_key(keys: usize, pairs: impl Iterator<Item = (u32, T)> + Clone) -> Self
    where
        T: Default,
    {
        let mut starts = vec![0; keys + 1];
        for (key, _) in pairs.clone() {
            starts[key as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut next = starts.clone();
        let mut values = vec![T::default(); starts[keys]];
        for (key, value) in pairs {
            values[next[key as usize]] = value;
            next[key as usize] += 1;
        }
        Self { starts, values }
    }
}

/// Every row's groups. Groups are numbered by first appearance; each lies within one of the next
/// kind: the same content, the same normal form, the same features (a *node*).
pub(crate) struct Groups {
    /// Content group by row, [`NONE`] if missing.
    pub(crate) exact: Vec<u32>,
    /// Normal form by content group.
    pub(crate) normal: Vec<u32>,
    /// Rows of each node, ascending.
    pub(crate) rows: Lists<usize>,
    /// Features of each node.
    pub(crate) features: Lists<u64>,
}

impl Groups {
    pub(crate) fn nodes(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn missing(&self) -> usize {
        self.exact.iter().filter(|&&group| group == NONE).count()
    }

    /// Hashes every row, and normalises one row of each content.
    ///
    /// With `by_features`, normal forms with equal features are one node; features tell nothing
    /// else about near duplicates, so this is done before any sketching.
    pub(crate) fn new<E: From<Error>>(
        source: &dyn Source,
        by_features: bool,
        progress: &mut Progress<'_, E>,
    ) -> Result<Self, E> {
        let (exact, first) = contents(source, progress)?;
        let (mut normal, mut node) = (Vec::new(), Vec::new());
        let (mut forms, mut sets) = (HashedMap::default(), HashedMap::default());
        let mut features = Lists::new();
        in_blocks(
            "normalise",
            first.len(),
            progress,
            |rows| {
                let mut scratch = Scratch::default();
                let (mut list, mut lists) = (Vec::new(), Lists::new());
                let mut identities = Vec::with_capacity(rows.len());
                for i in rows {
                    let form = source.normalised(first[i], &mut scratch, &mut list);
                    let set = if by_features { scratch.identity_of(&list) } else { form };
                    identities.push((form, set));
                    lists.push(&list);
                }
                vec![(identities, lists)]
            },
            |(identities, lists)| {
                for (i, (form, set)) in identities.into_iter().enumerate() {
                    let next = forms.len() as u32;
                    let form = match forms.entry(form) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(new) => {
                            let next_node = sets.len() as u32;
                            node.push(*sets.entry(set).or_insert_with(|| {
                                features.push(lists.get(i));
                                next_node
                            }));
                            *new.insert(next)
                        }
                    };
                    normal.push(form);
                }
            },
        )?;
        let node_of = |&group: &u32| node[normal[group as usize] as usize];
        let members = exact.iter().enumerate().filter(|&(_, &group)| group != NONE);
        let rows = Lists::by_key(sets.len(), members.map(|(row, group)| (node_of(group), row)));
        Ok(Self { exact, normal, rows, features })
    }
}

/// The content group of every row, and the first row of every group.
fn contents<E: From<Error>>(
    source: &dyn Source,
    progress: &mut Progress<'_, E>,
) -> Result<(Vec<u32>, Vec<usize>), E> {
    let rows = source.rows();
    if rows >= NONE as usize {
        return Err(Error::value("splits", "fewer than 2^32 - 1 rows", rows).into());
    }
    let (mut exact, mut first) = (Vec::with_capacity(rows), Vec::new());
    let mut groups: HashedMap<u128, u32> = HashedMap::default();
    in_blocks(
        "hash",
        rows,
        progress,
        |rows| {
            let mut scratch = Scratch::default();
            rows.map(|row| source.exact(row, &mut scratch)).collect()
        },
        |identity: Option<u128>| {
            let next = groups.len() as u32;
            let group = identity.map_or(NONE, |identity| *groups.entry(identity).or_insert(next));
            if group == next {
                first.push(exact.len());
            }
            exact.push(group);
        },
    )?;
    Ok((exact, first))
}

/// Maps chunks of `0..n` on the pool and hands the results to `take` in order.
pub(crate) fn in_blocks<T: Send, E>(
    phase: &'static str,
    n: usize,
    progress: &mut Progress<'_, E>,
    map: impl Fn(std::ops::Range<usize>) -> Vec<T> + Send + Sync,
    mut take: impl FnMut(T),
) -> Result<(), E> {
    progress(phase, 0, n)?;
    for block in (0..n).step_by(CHUNK * BLOCK) {
        let end = n.min(block + CHUNK * BLOCK);
        let chunks = (end - block).div_ceil(CHUNK);
        // A row is taken for 1 KiB of work: some hundred are worth waking the pool for.
        for results in parallel::map_indexed(chunks, (end - block) << 10, |i| {
            let start = block + i * CHUNK;
            map(start..end.min(start + CHUNK))
        }) {
            results.into_iter().for_each(&mut take);
        }
        progress(phase, end, n)?;
    }
    Ok(())
}
