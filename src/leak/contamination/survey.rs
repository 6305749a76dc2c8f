//! What was found of a benchmark in a corpus: every match, and a verdict on every question.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, LargeStringArray, RecordBatch,
};
use arrow_schema::ArrowError;

use crate::error::Error;
use crate::leak::column::Column;
use crate::leak::contamination::index::Index;
use crate::leak::contamination::passages::{FEWEST, Part, Passage};
use crate::leak::contamination::rules::{Measures, RULES, Rules, Verdict};
use crate::leak::contamination::scan::{self, Match};

/// The state of a search: texts may come in any number of columns.
pub struct Survey {
    index: Arc<Index>,
    rules: Rules,
    matches: Vec<Match>,
    /// Which seeds were seen in any text.
    seen: Vec<bool>,
    texts: u64,
    missing: usize,
    bytes: usize,
    /// Matches that keep their text.
    shown: usize,
}

/// Matches of which people see the text.
const EXAMPLES: usize = 10;

/// What is said of one row of the benchmark.
#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    words: usize,
    /// Whether a whole copy would be found by our rule.
    checkable: bool,
    /// Texts that hold the question, and the answer, by the rule that decides.
    texts: usize,
    answer_texts: usize,
    with_answer: Option<bool>,
    score: f64,
    containment: f64,
    longest_run: usize,
    seeds: f64,
    seeded_words: f64,
    verdict: Verdict,
}

impl Survey {
    /// A search for the passages of `index`.
    pub fn new(index: Arc<Index>, rules: Rules) -> Self {
        let seen = vec![false; index.seeds.len()];
        Self { index, rules, matches: Vec::new(), seen, texts: 0, missing: 0, bytes: 0, shown: 0 }
    }

    /// Reads a column of texts, which go on counting where the last ones ended.
    ///
    /// # Errors
    /// [`Error::Type`] if the column holds anything but text; what `progress` answers when it is
    /// told how many texts of this column are done.
    pub fn read<E: From<Error>>(
        &mut self,
        texts: &dyn Column,
        progress: &mut dyn FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        for found in scan::scan(&self.index, &self.rules, texts, progress)? {
            for mut one in found.matches {
                one.text += self.texts;
                if self.shown == EXAMPLES || !one.verdict.holds(self.rules.deciding) {
                    one.shown = String::new();
                } else {
                    self.shown += 1;
                }
                self.matches.push(one);
            }
            for key in found.seen {
                self.seen[key as usize] = true;
            }
            self.missing += found.missing;
            self.bytes += found.bytes;
        }
        self.texts += texts.len() as u64;
        Ok(())
    }

    /// The benchmark.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The matches of the rule that decides, by text.
    pub fn matches(&self) -> impl Iterator<Item = &Match> + Clone {
        self.matches.iter().filter(|m| m.verdict.holds(self.rules.deciding))
    }

    /// Places of the matches of the rule that decides among all matches.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        let all = self.matches.iter().enumerate();
        all.filter(|(_, m)| m.verdict.holds(self.rules.deciding)).map(|(place, _)| place)
    }

    /// The match at a place among all matches.
    pub fn get(&self, place: usize) -> Option<&Match> {
        self.matches.get(place)
    }

    /// Questions that each rule finds.
    pub fn rows_by_rule(&self) -> [usize; RULES.len()] {
        let rows = self.rows();
        std::array::from_fn(|rule| rows.iter().filter(|row| row.verdict.holds(rule)).count())
    }

    /// Questions that are too short, or too much like the others, to be found by our rule.
    pub fn uncheckable(&self) -> usize {
        self.rows().iter().filter(|row| row.words > 0 && !row.checkable).count()
    }

    /// Rows of which the answer was found and the question was not.
    pub fn answers_alone(&self) -> usize {
        let rows = self.rows();
        let alone = |row: &&Row| row.answer_texts > 0 && !row.verdict.holds(self.rules.deciding);
        rows.iter().filter(alone).count()
    }

    /// Texts with a match of each rule.
    pub fn texts_by_rule(&self) -> [usize; RULES.len()] {
        let mut counts = [0; RULES.len()];
        for texts in self.matches.chunk_by(|a, b| a.text == b.text) {
            let verdict = texts.iter().fold(Verdict::default(), |all, m| all.or(m.verdict));
            for (rule, count) in counts.iter_mut().enumerate() {
                *count += usize::from(verdict.holds(rule));
            }
        }
        counts
    }

    /// Texts read.
    pub fn texts(&self) -> u64 {
        self.texts
    }

    /// Texts that were missing.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Bytes of text read.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Texts in which nothing was found, ascending.
    pub fn clean_texts(&self) -> Vec<i64> {
        let mut clean = vec![true; self.texts as usize];
        for found in self.matches() {
            clean[found.text as usize] = false;
        }
        (0..).zip(clean).filter_map(|(row, clean)| clean.then_some(row)).collect()
    }

    /// The row of the benchmark that a match is about: the first of those that are equal.
    pub fn row(&self, found: &Match) -> usize {
        self.passage(found).rows.first().map_or(0, |&row| row as usize)
    }

    /// What part of that row was found.
    pub fn part(&self, found: &Match) -> Part {
        self.passage(found).part
    }

    /// Characters of that part from the first equal word to the last, if the text is known.
    pub fn place(&self, found: &Match) -> Option<(u32, u32)> {
        let places = &self.passage(found).places;
        let first = places.get(found.words.0 as usize)?;
        let last = places.get((found.words.1 as usize).checked_sub(1)?)?;
        Some((first.0, last.1))
    }

    fn passage(&self, found: &Match) -> &Passage {
        &self.index.passages[found.passage as usize]
    }

    /// The share of the seeds of a passage seen in any text, and that of the words that they cover.
    fn seen(&self, number: u32) -> (f64, f64) {
        let keys = &self.index.keys[number as usize];
        let at = keys.iter().enumerate().filter(|&(_, &key)| self.seen[key as usize]);
        let seeds: Vec<(usize, usize)> = at.map(|(at, _)| (at, 0)).collect();
        let (seeds, words) = scan::covered(&seeds);
        let passage = &self.index.passages[number as usize];
        (seeds as f64 / keys.len().max(1) as f64, words as f64 / passage.marks.len().max(1) as f64)
    }

    /// A verdict on every row.
    fn rows(&self) -> Vec<Row> {
        let rule = self.rules.deciding;
        let mut passages: Vec<Row> = vec![Row::default(); self.index.passages.len()];
        for found in &self.matches {
            let row = &mut passages[found.passage as usize];
            row.texts += usize::from(found.verdict.holds(rule));
            row.verdict = row.verdict.or(found.verdict);
            row.longest_run = row.longest_run.max(found.measures.longest_run);
            row.score = row.score.max(Rules::score(&found.measures));
            row.containment = row.containment.max(found.measures.containment());
            if found.verdict.holds(rule)
                && let Some(with) = found.with_answer
            {
                row.with_answer = Some(row.with_answer.unwrap_or(false) || with);
            }
        }
        let row = |parts: &[Option<u32>; 2]| {
            let mut row = Row::default();
            if let Some(number) = parts[0] {
                row.clone_from(&passages[number as usize]);
                let passage = &self.index.passages[number as usize];
                row.words = passage.marks.len();
                row.checkable = Rules::score_of_copy(passage.weight()) >= self.rules.threshold
                    && row.words >= FEWEST;
                (row.seeds, row.seeded_words) = self.seen(number);
                row.verdict = row.verdict.or(Rules::shares(row.seeds, row.seeded_words));
            }
            if let Some(number) = parts[1] {
                row.answer_texts = passages[number as usize].texts;
            }
            row
        };
        self.index.by_row.iter().map(row).collect()
    }

    /// The matches as an Arrow table.
    ///
    /// # Errors
    /// [`ArrowError`] never, unless the table is larger than memory can hold.
    pub fn matches_table(&self) -> Result<RecordBatch, ArrowError> {
        let all: Vec<&Match> = self.matches().collect();
        let integers = |of: &dyn Fn(&Match) -> usize| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(all.iter().map(|m| of(m) as i64)))
        };
        let floats = |of: &dyn Fn(&Measures) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(all.iter().map(|m| of(&m.measures))))
        };
        let parts = all.iter().map(|m| self.passage(m).part.name());
        let mut columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("corpus_row", integers(&|m| m.text as usize), false),
            ("benchmark_row", integers(&|m| self.row(m)), false),
            ("part", Arc::new(LargeStringArray::from_iter_values(parts)), false),
            ("score", floats(&Rules::score), false),
            ("containment", floats(&Measures::containment), false),
            ("evidence", floats(&Measures::evidence), false),
            ("words", integers(&|m| m.measures.words), false),
            ("edits", integers(&|m| m.measures.edits), false),
            ("longest_run", integers(&|m| m.measures.longest_run), false),
            ("ngram_share", floats(&|m| m.seeds), false),
            ("token_share", floats(&|m| m.seeded_words), false),
            ("corpus_start", integers(&|m| m.place.0 as usize), false),
            ("corpus_end", integers(&|m| m.place.1 as usize), false),
        ];
        let place = |m: &Match| self.place(m).map(|(a, b)| (i64::from(a), i64::from(b)));
        let starts: Int64Array = all.iter().map(|m| place(m).map(|place| place.0)).collect();
        let ends: Int64Array = all.iter().map(|m| place(m).map(|place| place.1)).collect();
        columns.push(("benchmark_start", Arc::new(starts), true));
        columns.push(("benchmark_end", Arc::new(ends), true));
        let answers: BooleanArray = all.iter().map(|m| m.with_answer).collect();
        columns.push(("with_answer", Arc::new(answers), true));
        for (rule, name) in RULES.iter().enumerate() {
            let holds = all.iter().map(|m| Some(m.verdict.holds(rule)));
            columns.push((name, Arc::new(holds.collect::<BooleanArray>()), false));
        }
        RecordBatch::try_from_iter_with_nullable(columns)
    }

    /// One line a row of the benchmark as an Arrow table.
    ///
    /// # Errors
    /// [`ArrowError`] never, unless the table is larger than memory can hold.
    pub fn rows_table(&self) -> Result<RecordBatch, ArrowError> {
        let rows = self.rows();
        let integers = |of: fn(&Row) -> usize| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| of(row) as i64)))
        };
        let floats = |of: fn(&Row) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(rows.iter().map(of)))
        };
        let booleans = |of: fn(&Row) -> bool| -> ArrayRef {
            Arc::new(rows.iter().map(|row| Some(of(row))).collect::<BooleanArray>())
        };
        let numbers = Int64Array::from_iter_values(0..rows.len() as i64);
        let answers: BooleanArray = rows.iter().map(|row| row.with_answer).collect();
        let mut columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("benchmark_row", Arc::new(numbers), false),
            ("words", integers(|row| row.words), false),
            ("checkable", booleans(|row| row.checkable), false),
            ("texts", integers(|row| row.texts), false),
            ("answer_texts", integers(|row| row.answer_texts), false),
            ("with_answer", Arc::new(answers), true),
            ("score", floats(|row| row.score), false),
            ("containment", floats(|row| row.containment), false),
            ("longest_run", integers(|row| row.longest_run), false),
            ("ngram_share", floats(|row| row.seeds), false),
            ("token_share", floats(|row| row.seeded_words), false),
        ];
        for (rule, name) in RULES.iter().enumerate() {
            let holds = rows.iter().map(|row| Some(row.verdict.holds(rule)));
            columns.push((name, Arc::new(holds.collect::<BooleanArray>()), false));
        }
        RecordBatch::try_from_iter_with_nullable(columns)
    }

    /// Rows whose question and answer were found in no text, ascending.
    pub fn clean_rows(&self) -> Vec<i64> {
        let clean = |row: &Row| !row.verdict.holds(self.rules.deciding) && row.answer_texts == 0;
        let rows = self.rows();
        (0..).zip(&rows).filter_map(|(number, row)| clean(row).then_some(number)).collect()
    }
}
