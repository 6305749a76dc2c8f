//! The whole search: from sources to pairs.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::leak::arrays::Arrays;
use crate::leak::cells;
use crate::leak::clean;
use crate::leak::column::{Cell, Column};
use crate::leak::groups::{Groups, Progress};
use crate::leak::image;
use crate::leak::join::Join;
use crate::leak::likeness::{CellBlocks, Likeness, ShingleSets};
use crate::leak::pairs::{Expansion, Kind, Pair};
use crate::leak::search::{Edge, Found, MIXED, Search};
use crate::leak::sequences::Tokens;
use crate::leak::shingle::TextOptions;
use crate::leak::source::{Rows, Scratch, Source, Texts, locate};

/// What counts as a leak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Least similarity of near duplicates; `None` leaves them out.
    pub near: Option<f64>,
    /// Whether pairs inside one split count.
    pub within: bool,
    /// Whether texts are compared so that no near duplicate is missed.
    pub exact: bool,
}

impl Options {
    /// # Errors
    /// [`Error::Value`] if `near` is not in (0, 1].
    pub fn new(near: Option<f64>, within: bool, exact: bool) -> Result<Self> {
        match near {
            Some(near) if !(near > 0.0 && near <= 1.0) => {
                Err(Error::value("near", "a number above 0 and at most 1, or None", near))
            }
            _ => Ok(Self { near, within, exact }),
        }
    }
}

/// How the search went.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    /// Rows in all splits.
    pub rows: usize,
    /// Rows without content, which were not compared.
    pub missing: usize,
    /// Rows of different content.
    pub distinct: usize,
    /// Keys of each row under which near duplicates were looked up.
    pub bands: usize,
    /// Probability that a pair right at the threshold was compared.
    pub recall: Option<f64>,
    /// Texts drawn at random, of which all near duplicates were looked up to measure the recall.
    pub sampled: usize,
    /// Pairs of different features that they are part of.
    pub sampled_pairs: usize,
    /// How many of these pairs were found.
    pub sampled_found: usize,
    /// Similarities computed.
    pub compared: usize,
    /// Buckets of near duplicates too large to be compared in full.
    pub cut_buckets: usize,
    /// Groups with more pairs than are listed.
    pub cut_groups: usize,
    /// Pairs that were found and are left out because somebody accepted them.
    pub accepted: usize,
    /// Likeness that unrelated images of the same data reach by chance.
    pub chance: Option<f64>,
}

/// A pair by its content, so that it is known again wherever its rows stand: the identities of both,
/// the smaller first, and whether the labels differ.
pub type Accepted = (u64, u64, bool);

/// One row of the table of pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leak {
    /// Split and row of the one side, the earlier of the two.
    pub left: (usize, usize),
    /// Split and row of the other side.
    pub right: (usize, usize),
    /// How the two are the same.
    pub kind: Kind,
    /// Exact Jaccard similarity of their features; 1 unless the kind is near.
    pub similarity: f64,
    /// Whether their labels differ; `None` if a label is not known.
    pub label_conflict: Option<bool>,
}

/// All leaks that were found.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaks {
    ends: Vec<usize>,
    pairs: Vec<Pair>,
    conflicts: Vec<Option<bool>>,
    kept: Vec<Vec<usize>>,
    /// Rows that are in a pair, ascending, with the identity of their content.
    identities: Vec<(u32, u64)>,
    statistics: Statistics,
}

impl Leaks {
    /// Looks for texts that are the same.
    ///
    /// # Errors
    /// [`Error`] for columns that hold no text; whatever `progress` returns.
    pub fn in_texts<E: From<Error>>(
        splits: &[&dyn Column],
        text: TextOptions,
        labels: Option<&[&dyn Column]>,
        options: Options,
        progress: &mut Progress<'_, E>,
    ) -> std::result::Result<Self, E> {
        let source = Texts::new(splits.to_vec(), text, options.near.is_some())?;
        Self::in_shingles(&source, labels, options, progress)
    }

    /// Looks for sequences of token ids that are the same.
    ///
    /// # Errors
    /// Whatever `progress` returns.
    pub fn in_tokens<E: From<Error>>(
        source: &Tokens<'_>,
        labels: Option<&[&dyn Column]>,
        options: Options,
        progress: &mut Progress<'_, E>,
    ) -> std::result::Result<Self, E> {
        Self::in_shingles(source, labels, options, progress)
    }

    fn in_shingles<E: From<Error>>(
        source: &dyn Source,
        labels: Option<&[&dyn Column]>,
        options: Options,
        progress: &mut Progress<'_, E>,
    ) -> std::result::Result<Self, E> {
        let groups = Groups::new(source, options.near.is_some(), progress)?;
        let Some(near) = options.near else {
            return Self::new(source, &groups, None, labels, options, progress);
        };
        let homes = homes(&groups, source.ends());
        let features = &groups.features;
        let join = Join { features, homes: &homes, within: options.within, near };
        let mut statistics = Statistics { recall: Some(1.0), ..Statistics::default() };
        let found = if near >= 1.0 {
            Found::default() // nodes have different features, so none reach similarity 1
        } else if options.exact {
            join.run(progress)?
        } else {
            let likeness = ShingleSets::new(near, features);
            statistics.recall = Some(likeness.recall());
            let within = options.within;
            let search = Search { features, homes: &homes, within, likeness: &likeness };
            statistics.bands = likeness.bands();
            let found = search.run(progress)?;
            let sample = join.sample(progress)?;
            let key = |edge: &Edge| (edge.left, edge.right);
            let is_found = |edge: &&Edge| found.edges.binary_search_by_key(&key(edge), key).is_ok();
            statistics.sampled = sample.nodes;
            statistics.sampled_pairs = sample.edges.len();
            statistics.sampled_found = sample.edges.iter().filter(is_found).count();
            found
        };
        Self::new(source, &groups, Some((found, statistics)), labels, options, progress)
    }

    /// Looks for table rows that are the same; `splits[s][c]` is column `c` of split `s`, and
    /// `grids[c]` the step that its numbers are rounded to for their normal form, if any.
    ///
    /// # Errors
    /// [`Error`] for splits of different columns and steps that are none; whatever `progress`
    /// returns.
    pub fn in_rows<E: From<Error>>(
        splits: Vec<Vec<&dyn Column>>,
        grids: Vec<Option<f64>>,
        labels: Option<&[&dyn Column]>,
        options: Options,
        progress: &mut Progress<'_, E>,
    ) -> std::result::Result<Self, E> {
        let source = Rows::new(splits, grids, options.near.is_some())?;
        Self::in_cells(&source, labels, options, progress)
    }

    /// Looks for arrays that are the same.
    ///
    /// # Errors
    /// Whatever `progress` returns.
    pub fn in_arrays<E: From<Error>>(
        source: &Arrays<'_>,
        labels: Option<&[&dyn Column]>,
        options: Options,
        progress: &mut Progress<'_, E>,
    ) -> std::result::Result<Self, E> {
        Self::in_cells(source, labels, options, progress)
    }

    fn in_cells<E: From<Error>>(
        source: &dyn Source,
        labels: Option<&[&dyn Column]>,
        options: Options,
        progress: &mut Progress<'_, E>,
    ) -> std::result::Result<Self, E> {
        let groups = Groups::new(source, false, progress)?;
        let Some(near) = options.near else {
            return Self::new(source, &groups, None, labels, options, progress);
        };
        let likeness = CellBlocks::new(near, &groups.features);
        let (recall, bands) = (Some(likeness.recall()), likeness.bands());
        let statistics = Statistics { bands, recall, ..Statistics::default() };
        let found = if near < 1.0 {
            let homes = homes(&groups, source.ends());
            let (features, within) = (&groups.features, options.within);
            Search { features, homes: &homes, within, likeness: &likeness }.run(progress)?
        } else {
            Found::default()
        };
        Self::new(source, &groups, Some((found, statistics)), labels, options, progress)
    }

    /// Looks for images that are the same.
    ///
    /// # Errors
    /// Whatever `progress` returns.
    pub fn in_images<E: From<Error>>(
        source: &image::Images<'_>,
        labels: Option<&[&dyn Column]>,
        options: Options,
        progress: &mut Progress<'_, E>,
    ) -> std::result::Result<Self, E> {
        let groups = Groups::new(source, false, progress)?;
        let homes = homes(&groups, source.ends());
        let (found, chance) = match options.near.filter(|&near| near < 1.0) {
            Some(near) => image::search(&groups.features, &homes, options.within, near, progress)?,
            None => (Found::default(), None),
        };
        let statistics = Statistics { chance, ..Statistics::default() };
        Self::new(source, &groups, Some((found, statistics)), labels, options, progress)
    }

    fn new<E: From<Error>>(
        source: &dyn Source,
        groups: &Groups,
        found: Option<(Found, Statistics)>,
        labels: Option<&[&dyn Column]>,
        options: Options,
        progress: &mut Progress<'_, E>,
    ) -> std::result::Result<Self, E> {
        let ends = source.ends().to_vec();
        let within = options.within;
        let (found, statistics) = found.unwrap_or_default();
        progress("pairs", 0, 1)?;
        let (pairs, cut_groups) = Expansion::new(groups, &ends, within).run(&found.edges);
        let kept = clean::kept(groups, &ends, &found.edges, within);
        let conflicts = match labels {
            Some(labels) => conflicts(labels, &ends, &pairs),
            None => vec![None; pairs.len()],
        };
        let identities = identities(source, &pairs);
        progress("pairs", 1, 1)?;
        let statistics = Statistics {
            rows: source.rows(),
            missing: groups.missing(),
            distinct: groups.normal.len(),
            compared: found.compared,
            cut_buckets: found.cut_buckets,
            cut_groups,
            ..statistics
        };
        Ok(Self { ends, pairs, conflicts, kept, identities, statistics })
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The pair at `index`, in the order of its left and then its right row.
    pub fn get(&self, index: usize) -> Option<Leak> {
        let pair = self.pairs.get(index)?;
        Some(Leak {
            left: locate(&self.ends, pair.left as usize),
            right: locate(&self.ends, pair.right as usize),
            kind: pair.kind,
            similarity: pair.similarity,
            label_conflict: self.conflicts[index],
        })
    }

    /// The pair at `index` by its content.
    pub fn identity(&self, index: usize) -> Option<Accepted> {
        let pair = self.pairs.get(index)?;
        let content = |row: u32| {
            let place = self.identities.binary_search_by_key(&row, |known| known.0);
            place.map_or(0, |place| self.identities[place].1)
        };
        let (left, right) = (content(pair.left), content(pair.right));
        Some((left.min(right), left.max(right), self.conflicts[index] == Some(true)))
    }

    /// Leaves out the pairs that are `accepted`. The rows to keep stay as they are.
    pub fn accept(&mut self, accepted: &HashSet<Accepted>) {
        let stays: Vec<bool> = (0..self.len())
            .map(|index| self.identity(index).is_none_or(|pair| !accepted.contains(&pair)))
            .collect();
        let mut each = stays.iter();
        self.pairs.retain(|_| each.next().is_none_or(|&stays| stays));
        let mut each = stays.iter();
        self.conflicts.retain(|_| each.next().is_none_or(|&stays| stays));
        self.statistics.accepted += stays.len() - self.pairs.len();
    }

    /// Rows to keep of a split, ascending: all but those with a kept copy in a later split or, if
    /// pairs inside one split count, earlier in their own.
    pub fn kept(&self, split: usize) -> Option<&[usize]> {
        self.kept.get(split).map(Vec::as_slice)
    }

    /// Number of rows of a split.
    pub fn rows(&self, split: usize) -> usize {
        let start = if split == 0 { 0 } else { self.ends[split - 1] };
        self.ends.get(split).map_or(0, |end| end - start)
    }

    /// Number of splits.
    pub fn splits(&self) -> usize {
        self.ends.len()
    }

    /// How the search went.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }
}

/// The rows of the pairs with the identity of their content.
fn identities(source: &dyn Source, pairs: &[Pair]) -> Vec<(u32, u64)> {
    let mut rows: Vec<u32> = pairs.iter().flat_map(|pair| [pair.left, pair.right]).collect();
    rows.sort_unstable();
    rows.dedup();
    let mut scratch = Scratch::default();
    let content = |row: u32| source.exact(row as usize, &mut scratch).unwrap_or_default() as u64;
    let contents: Vec<u64> = rows.iter().copied().map(content).collect();
    rows.into_iter().zip(contents).collect()
}

/// The only split that each node has rows in, or [`MIXED`].
fn homes(groups: &Groups, ends: &[usize]) -> Vec<u32> {
    let split_of = |row: Option<&usize>| row.map_or(0, |&row| locate(ends, row).0);
    let home = |node| {
        let rows = groups.rows.get(node);
        let (first, last) = (split_of(rows.first()), split_of(rows.last()));
        if first == last { first as u32 } else { MIXED }
    };
    (0..groups.nodes()).map(home).collect()
}

/// Whether the labels of each pair differ, `None` where one is missing.
fn conflicts(labels: &[&dyn Column], ends: &[usize], pairs: &[Pair]) -> Vec<Option<bool>> {
    let label = |row: usize, out: &mut Vec<u8>| {
        out.clear();
        let (split, row) = locate(ends, row);
        cells::encode(labels.get(split).map_or(Cell::Missing, |column| column.cell(row)), out);
    };
    let mut missing = Vec::new();
    cells::encode(Cell::Missing, &mut missing);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let differ = |pair: &Pair| {
        label(pair.left as usize, &mut left);
        label(pair.right as usize, &mut right);
        (left != missing && right != missing).then_some(left != right)
    };
    pairs.iter().map(differ).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leak::{normalise, shingle};
    use proptest::prelude::*;

    type Split = Vec<Option<String>>;

    fn search(splits: &[Split], near: Option<f64>, within: bool) -> Leaks {
        search_with(splits, Options::new(near, within, false).unwrap())
    }

    fn search_with(splits: &[Split], options: Options) -> Leaks {
        let views: Vec<Vec<Option<&str>>> =
            splits.iter().map(|texts| texts.iter().map(Option::as_deref).collect()).collect();
        let columns: Vec<&dyn Column> = views.iter().map(|texts| texts as &dyn Column).collect();
        Leaks::in_texts::<Error>(&columns, TextOptions::default(), None, options, &mut |_, _, _| {
            Ok(())
        })
        .unwrap()
    }

    fn list(leaks: &Leaks) -> Vec<Leak> {
        (0..leaks.len()).filter_map(|i| leaks.get(i)).collect()
    }

    /// Every pair, by definition.
    fn brute_force(splits: &[Split], near: Option<f64>, within: bool) -> Vec<Leak> {
        let shingles = |text: &str| {
            let mut out = Vec::new();
            let form = normalise::normalise(text);
            shingle::shingles_into(form.as_bytes(), &mut Vec::new(), &mut out);
            out
        };
        let rows: Vec<((usize, usize), &String)> = splits
            .iter()
            .enumerate()
            .flat_map(|(s, texts)| {
                texts.iter().enumerate().filter_map(move |(r, t)| Some(((s, r), t.as_ref()?)))
            })
            .collect();
        let mut out = Vec::new();
        for (i, &(left, a)) in rows.iter().enumerate() {
            for &(right, b) in &rows[i + 1..] {
                if left.0 == right.0 && !within {
                    continue;
                }
                let (x, y) = (shingles(a), shingles(b));
                let union = x.len() + y.iter().filter(|s| !x.contains(s)).count();
                let both = x.len() + y.len() - union;
                let similarity = if union == 0 { 1.0 } else { both as f64 / union as f64 };
                let (kind, similarity) = if a == b {
                    (Kind::Exact, 1.0)
                } else if normalise::normalise(a) == normalise::normalise(b) {
                    (Kind::Normalised, 1.0)
                } else if near.is_some_and(|near| similarity >= near) {
                    (Kind::Near, similarity)
                } else {
                    continue;
                };
                out.push(Leak { left, right, kind, similarity, label_conflict: None });
            }
        }
        out
    }

    /// Texts of few words, so that copies of all kinds abound.
    fn splits() -> impl Strategy<Value = Vec<Split>> {
        let word = prop::sample::select(vec!["a", "b", "A", "b.", "ç"]);
        let text = prop::collection::vec(word, 0..9).prop_map(|words| words.join(" "));
        prop::collection::vec(prop::collection::vec(prop::option::weighted(0.9, text), 0..14), 1..4)
    }

    proptest! {
        #[test]
        fn every_pair_is_found_and_no_other(splits in splits(), near in prop::option::of(0.3_f64..=1.0), within in any::<bool>()) {
            let expected = brute_force(&splits, near, within);
            for exact in [false, true] {
                let leaks = search_with(&splits, Options::new(near, within, exact).unwrap());
                prop_assert_eq!(&list(&leaks), &expected);
                let statistics = leaks.statistics();
                prop_assert_eq!(statistics.sampled_found, statistics.sampled_pairs);
            }
        }

        #[test]
        fn no_pair_is_left_among_the_kept_rows(splits in splits(), near in prop::option::of(0.3_f64..=1.0), within in any::<bool>()) {
            let leaks = search(&splits, near, within);
            let pairs = list(&leaks);
            let kept: Vec<Vec<usize>> = (0..splits.len()).map(|s| leaks.kept(s).unwrap().to_vec()).collect();
            let keeps = |(split, row): (usize, usize)| kept[split].contains(&row);
            for pair in &pairs {
                prop_assert!(!(keeps(pair.left) && keeps(pair.right)));
            }
            for (split, texts) in splits.iter().enumerate() {
                for row in (0..texts.len()).filter(|&row| !keeps((split, row))) {
                    let reason = pairs.iter().any(|pair| {
                        (pair.left == (split, row) && keeps(pair.right))
                            || (pair.right == (split, row) && keeps(pair.left))
                    });
                    prop_assert!(reason, "{split} {row} dropped for nothing");
                }
            }
        }
    }

    fn repeated(text: &str, n: usize) -> Split {
        vec![Some(text.to_owned()); n]
    }

    #[test]
    fn copies_without_number_stay_linear() {
        let n = 50_000;
        let leaks =
            search(&[repeated("the same text", n), repeated("the same text", n)], None, false);
        assert_eq!(leaks.len(), 2 * n - 1);
        assert_eq!(leaks.statistics().cut_groups, 1);
        assert_eq!((leaks.kept(0).unwrap().len(), leaks.kept(1).unwrap().len()), (0, n));

        let leaks = search(&[repeated("the same text", n)], None, true);
        assert_eq!(leaks.len(), n - 1);
        assert_eq!(leaks.kept(0).unwrap(), [0]);
    }

    #[test]
    fn hubs_of_near_duplicates_stay_linear() {
        let words: Vec<String> = (0..40).map(|i| format!("w{i}")).collect();
        let hub = repeated(&words.join(" "), 20_000);
        let spokes: Split = (0..50).map(|i| Some(format!("{} x{i}", words.join(" ")))).collect();
        let leaks = search(&[hub, spokes], Some(0.8), false);
        let touched = |side: fn(&Leak) -> (usize, usize)| {
            list(&leaks).iter().map(side).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!((touched(|leak| leak.left), touched(|leak| leak.right)), (20_000, 50));
        assert!(leaks.len() < 21_000, "{}", leaks.len());
        assert_eq!(leaks.kept(0).unwrap().len(), 0);
    }

    #[test]
    fn a_family_of_templates_is_bounded_and_found() {
        let words: Vec<String> = (0..60).map(|i| format!("w{i}")).collect();
        let text = |side: &str, i: usize| Some(format!("{} {side}{i}", words.join(" ")));
        let family: Vec<Split> =
            ["train", "test"].map(|s| (0..2_000).map(|i| text(s, i)).collect()).to_vec();
        let leaks = search(&family, Some(0.8), false);
        assert!(leaks.statistics().cut_buckets > 0);
        assert!(leaks.len() < 1_000_000, "{}", leaks.len());
        assert!(leaks.kept(0).unwrap().is_empty());
        assert_eq!(leaks.kept(1).unwrap().len(), 2_000);
    }

    #[test]
    fn every_pair_of_a_family_of_templates_is_found() {
        let words: Vec<String> = (0..60).map(|i| format!("w{i}")).collect();
        let text = |side: &str, i: usize| Some(format!("{} {side}{i}", words.join(" ")));
        let family: Vec<Split> =
            ["train", "test"].map(|s| (0..60).map(|i| text(s, i)).collect()).to_vec();
        let leaks = search(&family, Some(0.8), false);
        assert_eq!(leaks.statistics().cut_buckets, 0);
        assert_eq!(leaks.len(), 3_600);
    }

    #[test]
    fn rows_that_differ_in_few_cells_are_found_without_exception() {
        let cells = 20;
        let values: Vec<Vec<Option<String>>> = (0..cells)
            .map(|c| {
                (0..400).map(|r| Some(format!("{}", (r * 7919 + c * 104_729) % 1009))).collect()
            })
            .collect();
        let mut copies = values.clone();
        for r in 0..400 {
            // Two cells of twenty: 18 / 22 = 0.818.
            copies[r % cells][r] = Some("changed".into());
            copies[(r * 3 + 1) % cells][r] = Some("changed".into());
        }
        let views =
            |columns: &[Vec<Option<String>>]| -> Vec<Vec<Option<String>>> { columns.to_vec() };
        let (left, right) = (views(&values), views(&copies));
        let borrow = |columns: &'static [Vec<Option<&'static str>>]| {
            columns.iter().map(|column| column as &dyn Column).collect::<Vec<_>>()
        };
        let leak = |columns: Vec<Vec<Option<String>>>| -> &'static [Vec<Option<&'static str>>] {
            let texts = columns
                .into_iter()
                .map(|column| column.into_iter().map(|text| text.map(|t| &*t.leak())).collect());
            texts.collect::<Vec<_>>().leak()
        };
        let splits = vec![borrow(leak(left)), borrow(leak(right))];
        let options = Options::new(Some(0.8), false, false).unwrap();
        let leaks =
            Leaks::in_rows::<Error>(splits, vec![], None, options, &mut |_, _, _| Ok(())).unwrap();
        let found: Vec<(usize, usize)> = list(&leaks)
            .iter()
            .filter(|l| l.kind == Kind::Near)
            .map(|l| (l.left.1, l.right.1))
            .collect();
        assert_eq!(found, (0..400).map(|r| (r, r)).collect::<Vec<_>>());
        assert_eq!(leaks.statistics().recall, Some(1.0));
    }

    #[test]
    fn labels_that_differ_are_conflicts() {
        let texts: [Vec<Option<&str>>; 2] =
            [vec![Some("a b"), Some("c")], vec![Some("A b"), Some("c")]];
        let labels: [Vec<Option<&str>>; 2] = [vec![Some("x"), None], vec![Some("y"), Some("x")]];
        let texts: Vec<&dyn Column> = texts.iter().map(|t| t as &dyn Column).collect();
        let labels: Vec<&dyn Column> = labels.iter().map(|t| t as &dyn Column).collect();
        let options = Options::new(None, false, false).unwrap();
        let leaks = Leaks::in_texts::<Error>(
            &texts,
            TextOptions::default(),
            Some(&labels),
            options,
            &mut |_, _, _| Ok(()),
        )
        .unwrap();
        let conflicts: Vec<_> = list(&leaks).iter().map(|leak| leak.label_conflict).collect();
        assert_eq!(conflicts, [Some(true), None]);
        let counts = crate::leak::table::counts(&leaks, 3);
        assert_eq!(counts.len(), 2);
        assert_eq!((counts[1].kind, counts[1].conflicts), (Kind::Normalised, 1));
        assert_eq!((&counts[1].first[..], &counts[1].first_conflicts[..]), (&[0][..], &[0][..]));
    }

    #[test]
    fn an_error_of_the_progress_ends_the_search() {
        let texts: Vec<Option<&str>> = vec![Some("a")];
        let options = Options::new(None, true, false).unwrap();
        let stop = Error::State("stop".into());
        let mut progress = |_: &'static str, _: usize, _: usize| Err(stop.clone());
        let leaks =
            Leaks::in_texts(&[&texts], TextOptions::default(), None, options, &mut progress);
        assert_eq!(leaks, Err(stop.clone()));
    }

    #[test]
    fn thresholds_out_of_range_are_refused() {
        for near in [0.0, -0.5, 1.01, f64::NAN] {
            assert!(Options::new(Some(near), false, false).is_err(), "{near}");
        }
    }
}
