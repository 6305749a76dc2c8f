//! The index of a benchmark: which passages hold a run of words.

use crate::error::Result;
use crate::leak::column::Column;
use crate::leak::contamination::grams::Table;
use crate::leak::contamination::passages::{self, Marker, Part, Passage, ShortAnswer};

/// A run of words that stands at more places of the benchmark than this is one of its templates:
/// it leads to no passage, unless a passage has no other.
const MOST_PLACES: usize = 256;

/// A benchmark that texts can be checked for.
pub struct Index {
    pub(super) rows: usize,
    pub(super) passages: Vec<Passage>,
    pub(super) short_answers: Vec<Option<ShortAnswer>>,
    pub(super) marker: Marker,
    pub(super) seeds: Table,
    /// Number of the seed at each word of each passage; none for a short one.
    pub(super) keys: Vec<Vec<u32>>,
    /// The passages that each seed leads to.
    leads: Leads,
    pub(super) short: Table,
    short_leads: Leads,
    /// How short passages end: few runs of words end so.
    pub(super) endings: Table,
    pub(super) last_words: Table,
    /// Lengths of short passages in words, ascending.
    pub(super) short_lengths: Vec<usize>,
    /// The passages of each row.
    pub(super) by_row: Vec<[Option<u32>; 2]>,
}

impl Index {
    /// The index of questions and, row by row, their answers.
    ///
    /// # Errors
    /// [`Error::Type`](crate::error::Error::Type) if a column holds anything but text;
    /// [`Error::Value`](crate::error::Error::Value) if there is not one answer a question.
    pub fn new(questions: &dyn Column, answers: Option<&dyn Column>) -> Result<Self> {
        let texts = passages::read(questions, answers)?;
        Ok(Self::of(questions.len(), texts.passages, texts.short_answers, texts.marker))
    }

    pub(super) fn of(
        rows: usize,
        passages: Vec<Passage>,
        short_answers: Vec<Option<ShortAnswer>>,
        marker: Marker,
    ) -> Self {
        let long = passages.iter().filter(|p| !p.is_short());
        let seeds = Table::new(long.flat_map(|p| p.seeds.iter().copied()).collect());
        let short_seeds = |at: usize| {
            let short = passages.iter().filter(|p| p.is_short());
            Table::new(short.filter_map(|p| p.seeds.get(at).copied()).collect())
        };
        let (short, endings, last_words) = (short_seeds(0), short_seeds(1), short_seeds(2));
        let find = |table: &Table, hash| table.find(hash).unwrap_or_default(); // all are in there
        let keys: Vec<Vec<u32>> = passages
            .iter()
            .map(|p| if p.is_short() { &[][..] } else { &p.seeds })
            .map(|own| own.iter().map(|&seed| find(&seeds, seed)).collect())
            .collect();
        let leads = Leads::of_seeds(seeds.len(), &keys);
        let short_passages = || {
            let short = passages.iter().enumerate().filter(|(_, p)| p.is_short());
            short.filter(|(_, p)| !p.seeds.is_empty())
        };
        let short_leads = Leads::new(
            short.len(),
            short_passages().map(|(i, p)| (find(&short, p.seeds[0]), i as u32)).collect(),
        );
        let mut short_lengths: Vec<usize> = short_passages().map(|(_, p)| p.marks.len()).collect();
        short_lengths.sort_unstable();
        short_lengths.dedup();
        let mut by_row = vec![[None; 2]; rows];
        for (i, passage) in passages.iter().enumerate() {
            for &row in &passage.rows {
                if let Some(parts) = by_row.get_mut(row as usize) {
                    parts[usize::from(passage.part == Part::Answer)] = Some(i as u32);
                }
            }
        }
        Self {
            rows,
            passages,
            short_answers,
            marker,
            seeds,
            keys,
            leads,
            short,
            short_leads,
            endings,
            last_words,
            short_lengths,
            by_row,
        }
    }

    /// The passages that a seed leads to, ascending.
    pub(super) fn led_to(&self, key: u32) -> &[u32] {
        self.leads.get(key)
    }

    /// The short passages that a hash stands for.
    pub(super) fn short_led_to(&self, key: u32) -> &[u32] {
        self.short_leads.get(key)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Passages by key.
struct Leads {
    starts: Vec<u32>,
    passages: Vec<u32>,
}

impl Leads {
    fn new(keys: usize, mut pairs: Vec<(u32, u32)>) -> Self {
        pairs.sort_unstable();
        pairs.dedup();
        let mut starts = vec![0; keys + 1];
        for &(key, _) in &pairs {
            starts[key as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        Self { starts, passages: pairs.into_iter().map(|(_, passage)| passage).collect() }
    }

    /// The seeds of each passage but the templates; a passage of templates alone goes by its
    /// rarest seed.
    fn of_seeds(seeds: usize, keys: &[Vec<u32>]) -> Self {
        let mut places = vec![0_usize; seeds];
        for &key in keys.iter().flatten() {
            places[key as usize] += 1;
        }
        let mut pairs = Vec::new();
        for (passage, keys) in keys.iter().enumerate() {
            let rarest = keys.iter().map(|&key| places[key as usize]).min().unwrap_or(0);
            let most = rarest.max(MOST_PLACES);
            let led = keys.iter().filter(|&&key| places[key as usize] <= most);
            pairs.extend(led.map(|&key| (key, passage as u32)));
        }
        Self::new(seeds, pairs)
    }

    fn get(&self, key: u32) -> &[u32] {
        let (start, end) = (self.starts[key as usize], self.starts[key as usize + 1]);
        &self.passages[start as usize..end as usize]
    }
}
