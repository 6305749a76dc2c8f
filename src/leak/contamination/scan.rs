//! Texts read for passages of a benchmark.

use std::ops::Range;

use crate::error::Error;
use crate::leak::column::{Cell, Column, Kind};
use crate::leak::contamination::align::{self, Alignment, EDIT, Rows, Run};
use crate::leak::contamination::grams::{self, WORDS, gram};
use crate::leak::contamination::index::Index;
use crate::leak::contamination::passages::{FEWEST, Part, Passage};
use crate::leak::contamination::rules::{Measures, Rules, Verdict};
use crate::leak::contamination::words::{self, Scratch};
use crate::parallel;

/// Bytes of text in one task: fixed, so that the work is cut the same way on any machine.
const CHUNK: usize = 1 << 18;

/// Tasks between two reports of progress.
const BLOCK: usize = 64;

/// Places of one seed in one text that are looked at.
const MOST_PLACES: usize = 64;

/// Runs of one passage in one text that are extended, the heaviest first.
const MOST_RUNS: usize = 4;

/// A passage that agrees with a text this well, beside the one that agrees best with the same
/// words, is found as well.
const NEARLY_BEST: f64 = 0.9;

/// Words behind a question among which its answer is looked for.
const ANSWER_WITHIN: usize = 50;

/// A passage found in a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// Number of the text.
    pub text: u64,
    /// Number of the passage.
    pub(super) passage: u32,
    /// What was measured of it.
    pub measures: Measures,
    /// The rules that call it contamination.
    pub verdict: Verdict,
    /// Characters of the text from the first equal word to the last.
    pub place: (u64, u64),
    /// Words of the passage between them.
    pub(super) words: (u32, u32),
    /// Whether the answer follows; `None` if it has none, or the passage is the answer.
    pub with_answer: Option<bool>,
    /// The piece of the text, for people; empty but for the first few.
    pub shown: String,
}

/// Characters that are shown of a piece of text.
const SHOWN: usize = 240;

/// What was found in some texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Found {
    pub(super) matches: Vec<Match>,
    /// Numbers of the seeds that were seen, ascending.
    pub(super) seen: Vec<u32>,
    pub(super) missing: usize,
    pub(super) bytes: usize,
}

/// Reads a column of texts. `progress` is told how many of them are done.
///
/// # Errors
/// [`Error::Type`] if the column holds anything but text; what `progress` answers.
pub(super) fn scan<E: From<Error>>(
    index: &Index,
    rules: &Rules,
    texts: &dyn Column,
    progress: &mut dyn FnMut(usize) -> std::result::Result<(), E>,
) -> std::result::Result<Vec<Found>, E> {
    if let Kind::Other(kind) = texts.kind() {
        return Err(Error::type_("corpus", "texts", format!("a column of {kind}s")).into());
    }
    let chunks = chunks(texts);
    let mut found = Vec::with_capacity(chunks.len());
    for block in chunks.chunks(BLOCK) {
        found.extend(parallel::map_indexed(block.len(), block.len() * CHUNK, |i| {
            let mut reader = Reader::new(index, rules);
            block[i].clone().for_each(|row| reader.read_cell(row, texts.cell(row)));
            reader.finish()
        }));
        progress(block.last().map_or(0, |last| last.end))?;
    }
    Ok(found)
}

/// Rows of about [`CHUNK`] bytes together.
fn chunks(texts: &dyn Column) -> Vec<Range<usize>> {
    let (mut out, mut start, mut bytes) = (Vec::new(), 0, 0);
    for row in 0..texts.len() {
        if let Cell::Text(text) = texts.cell(row) {
            bytes += text.len();
        }
        if bytes >= CHUNK || row + 1 == texts.len() || row - start >= CHUNK {
            out.push(start..row + 1);
            (start, bytes) = (row + 1, 0);
        }
    }
    out
}

/// A seed of the benchmark in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    key: u32,
    word: u32,
}

/// The words of a text that holds a seed.
#[derive(Default)]
struct Words {
    marks: Vec<u32>,
    hashes: Vec<u64>,
    /// Bytes.
    places: Vec<Range<usize>>,
    /// The words without anything between them, and where each ends there.
    letters: Vec<u8>,
    ends: Vec<usize>,
}

impl Words {
    fn clear(&mut self) {
        self.marks.clear();
        self.hashes.clear();
        self.places.clear();
        self.letters.clear();
        self.ends.clear();
    }

    fn letters(&self, words: Range<usize>) -> &[u8] {
        let end = |words: usize| words.checked_sub(1).map_or(0, |last| self.ends[last]);
        &self.letters[end(words.start)..end(words.end)]
    }
}

/// A passage in a text, its place in words.
struct Candidate {
    passage: u32,
    alignment: Alignment,
    measures: Measures,
}

struct Reader<'a> {
    index: &'a Index,
    rules: &'a Rules,
    found: Found,
    scratch: Scratch,
    rows: Rows,
    hits: Vec<Hit>,
    /// Short passages, by the word behind their last.
    short_hits: Vec<Hit>,
    words: Words,
}

impl<'a> Reader<'a> {
    fn new(index: &'a Index, rules: &'a Rules) -> Self {
        Self {
            index,
            rules,
            found: Found::default(),
            scratch: Scratch::default(),
            rows: Rows::default(),
            hits: Vec::new(),
            short_hits: Vec::new(),
            words: Words::default(),
        }
    }

    fn read_cell(&mut self, row: usize, cell: Cell<'_>) {
        match cell {
            Cell::Text(text) => self.read(row, text),
            _ => self.found.missing += 1,
        }
    }

    fn finish(mut self) -> Found {
        self.found.seen.sort_unstable();
        self.found.seen.dedup();
        self.found
    }

    fn read(&mut self, row: usize, text: &str) {
        self.found.bytes += text.len();
        self.look(text);
        if self.hits.is_empty() && self.short_hits.is_empty() {
            return;
        }
        self.keep_words(text);
        self.hits.sort_unstable();
        self.short_hits.sort_unstable();
        self.found.seen.extend(self.hits.iter().map(|hit| hit.key));
        let mut candidates = self.candidates();
        candidates.extend(self.short_candidates());
        let mut judged: Vec<(Candidate, Verdict)> = candidates
            .into_iter()
            .map(|candidate| {
                let verdict = self.rules.judge(&candidate.measures);
                (candidate, verdict)
            })
            .filter(|(_, verdict)| verdict.any())
            .collect();
        for part in [Part::Question, Part::Answer] {
            self.give_to_the_best(part, &mut judged);
        }
        judged.retain(|(_, verdict)| verdict.any());
        let first = self.found.matches.len();
        for (candidate, verdict) in &judged {
            let with_answer = self.with_answer(candidate, &judged);
            let words = &candidate.alignment.text;
            let from = self.words.places[words.start].start;
            let to = self.words.places[words.end - 1].end;
            self.found.matches.push(Match {
                text: row as u64,
                passage: candidate.passage,
                measures: candidate.measures,
                verdict: *verdict,
                place: (from as u64, to as u64),
                words: (
                    candidate.alignment.passage.start as u32,
                    candidate.alignment.passage.end as u32,
                ),
                with_answer,
                shown: text[from..to].chars().take(SHOWN).collect(),
            });
        }
        count_characters(text, &mut self.found.matches[first..]);
    }

    /// Words that agree with several passages count for those that they agree with best: by our
    /// rule a passage has to its name at least half of the words where it was found.
    fn give_to_the_best(&self, part: Part, judged: &mut [(Candidate, Verdict)]) {
        let ours = |(candidate, verdict): &(Candidate, Verdict)| {
            verdict.ours() && self.index.passages[candidate.passage as usize].part == part
        };
        if judged.iter().filter(|&one| ours(one)).nth(1).is_none() {
            return;
        }
        let mut best = vec![0_i32; self.words.marks.len()];
        for (candidate, _) in judged.iter().filter(|&one| ours(one)) {
            let score = score(&candidate.alignment);
            for word in &mut best[candidate.alignment.text.clone()] {
                *word = score.max(*word);
            }
        }
        for one in judged.iter_mut() {
            let alignment = &one.0.alignment;
            let least = f64::from(score(alignment)) / NEARLY_BEST;
            let words = &best[alignment.text.clone()];
            let lost = words.iter().filter(|&&word| f64::from(word) > least).count();
            if ours(one) && 2 * lost > words.len() {
                one.1 = one.1.without_ours();
            }
        }
    }

    /// Finds the seeds of the benchmark in `text`. Most texts have none.
    fn look(&mut self, text: &str) {
        let hashes = &mut self.words.hashes;
        hashes.clear();
        words::each::<false>(text, &mut self.scratch, |_, hash, _| hashes.push(hash));
        let hashes = hashes.as_slice();
        self.hits.clear();
        self.short_hits.clear();
        let index = self.index;
        grams::each(hashes, |word, hash| {
            if let Some(key) = index.seeds.find(hash) {
                self.hits.push(Hit { key, word: word as u32 });
            }
        });
        if index.short.len() == 0 {
            return;
        }
        for (start, ending) in hashes.windows(FEWEST).enumerate() {
            let last = ending[FEWEST - 1];
            if !index.last_words.may_hold(last) || index.endings.find(gram(ending)).is_none() {
                continue;
            }
            let end = start + FEWEST;
            for &n in index.short_lengths.iter().filter(|&&n| n <= end) {
                if let Some(key) = index.short.find(gram(&hashes[end - n..end])) {
                    self.short_hits.push(Hit { key, word: (end - n) as u32 });
                }
            }
        }
    }

    fn keep_words(&mut self, text: &str) {
        let kept = &mut self.words;
        kept.clear();
        words::each::<true>(text, &mut self.scratch, |word, hash, place| {
            kept.marks.push(self.index.marker.mark(word, hash));
            kept.hashes.push(hash);
            kept.places.push(place);
            kept.letters.extend_from_slice(word);
            kept.ends.push(kept.letters.len());
        });
    }

    /// The passages that the hits lead to, each where it agrees best.
    fn candidates(&mut self) -> Vec<Candidate> {
        let index = self.index;
        let mut passages: Vec<u32> = Vec::new();
        for hits in self.hits.chunk_by(|a, b| a.key == b.key) {
            passages.extend_from_slice(index.led_to(hits[0].key));
        }
        passages.sort_unstable();
        passages.dedup();
        passages.into_iter().filter_map(|passage| self.candidate(passage)).collect()
    }

    fn candidate(&mut self, number: u32) -> Option<Candidate> {
        let passage = &self.index.passages[number as usize];
        let keys = &self.index.keys[number as usize];
        let seeds = self.verified(passage, keys);
        let mut runs = runs(&seeds);
        let longest = runs.iter().map(|run| run.words).max()?;
        let weight = |run: &Run| -> i32 {
            let words = run.passage..run.passage + run.words;
            passage.weights[words].iter().map(|&w| i32::from(w)).sum()
        };
        runs.sort_by_key(|run| (-weight(run), run.text, run.passage));
        let mut best: Option<Alignment> = None;
        let mut taken: Vec<Range<usize>> = Vec::new();
        for run in runs {
            if taken.len() == MOST_RUNS {
                break;
            }
            if taken.iter().any(|text| text.contains(&run.text)) {
                continue;
            }
            let found = align::extend(
                &passage.marks,
                &passage.weights,
                &self.words.marks,
                run,
                &mut self.rows,
            );
            taken.push(found.text.clone());
            if best.as_ref().is_none_or(|best| score(&found) > score(best)) {
                best = Some(found);
            }
        }
        let alignment = best?;
        let (seeds, words) = covered(&seeds);
        let measures = Measures {
            passage_words: passage.marks.len(),
            passage_weight: passage.weight(),
            words: alignment.words,
            weight: alignment.weight,
            edits: alignment.edits,
            longest_run: longest,
            seeds: seeds as f64 / passage.seeds.len() as f64,
            seeded_words: words as f64 / passage.marks.len() as f64,
            sample: self.sampled(passage, &alignment),
        };
        Some(Candidate { passage: number, alignment, measures })
    }

    /// The seeds of a passage in the text: `(word of the passage, word of the text)`.
    ///
    /// A collision of hashes shows here: the words are compared, as far as they are known.
    fn verified(&self, passage: &Passage, keys: &[u32]) -> Vec<(usize, usize)> {
        let mut seeds = Vec::new();
        for (at, &key) in keys.iter().enumerate() {
            let start = self.hits.partition_point(|hit| hit.key < key);
            let hits = self.hits[start..].iter().take_while(|hit| hit.key == key);
            for hit in hits.take(MOST_PLACES) {
                let word = hit.word as usize;
                if passage.marks[at..at + WORDS] == self.words.marks[word..word + WORDS] {
                    seeds.push((at, word));
                }
            }
        }
        seeds
    }

    /// Short passages, each at its first place.
    fn short_candidates(&self) -> Vec<Candidate> {
        let mut out: Vec<Candidate> = Vec::new();
        for hit in &self.short_hits {
            for &number in self.index.short_led_to(hit.key) {
                let passage = &self.index.passages[number as usize];
                let (n, word) = (passage.marks.len(), hit.word as usize);
                if out.iter().any(|c| c.passage == number)
                    || passage.marks[..] != self.words.marks[word..word + n]
                {
                    continue;
                }
                let weight = passage.weight();
                let alignment =
                    Alignment { passage: 0..n, text: word..word + n, words: n, weight, edits: 0 };
                let measures = Measures {
                    passage_words: n,
                    passage_weight: weight,
                    words: n,
                    weight,
                    edits: 0,
                    longest_run: n,
                    seeds: 0.0,
                    seeded_words: 0.0,
                    sample: self.sampled(passage, &alignment),
                };
                out.push(Candidate { passage: number, alignment, measures });
            }
        }
        out
    }

    /// Whether one of the samples of the passage stands in the text around `alignment`.
    fn sampled(&self, passage: &Passage, alignment: &Alignment) -> bool {
        // A sample may begin before the words that agree, or end behind them, in part of a word.
        let before = alignment.passage.start + WORDS;
        let after = passage.marks.len() - alignment.passage.end + WORDS;
        let from = alignment.text.start.saturating_sub(before);
        let to = (alignment.text.end + after).min(self.words.places.len());
        let letters = self.words.letters(from..to);
        passage.samples.iter().any(|sample| {
            letters.windows(sample.bytes).any(|window| match &sample.letters {
                Some(letters) => window == letters,
                None => words::hash(window) == sample.hash,
            })
        })
    }

    /// Whether the answer to a question is in the text as well.
    fn with_answer(&self, question: &Candidate, all: &[(Candidate, Verdict)]) -> Option<bool> {
        let passage = &self.index.passages[question.passage as usize];
        if passage.part == Part::Answer {
            return None;
        }
        let mut known = None;
        for &row in &passage.rows {
            let found = if let Some(answer) = self.index.by_row[row as usize][1] {
                all.iter().any(|(other, verdict)| other.passage == answer && verdict.ours())
            } else if let Some(answer) = &self.index.short_answers[row as usize] {
                let from = question.alignment.text.end;
                let to = (from + ANSWER_WITHIN).min(self.words.marks.len());
                (from..to).zip(from + answer.words..=to).any(|(start, end)| match &answer.marks {
                    Some(marks) => marks[..] == self.words.marks[start..end],
                    None => gram(&self.words.hashes[start..end]) == answer.hash,
                })
            } else {
                continue;
            };
            known = Some(known.unwrap_or(false) || found);
        }
        known
    }
}

/// What decides between two places of one passage.
fn score(alignment: &Alignment) -> i32 {
    alignment.weight - EDIT * alignment.edits as i32
}

/// Joins seeds that follow each other on one diagonal into runs of equal words.
fn runs(seeds: &[(usize, usize)]) -> Vec<Run> {
    let mut diagonals: Vec<(i64, usize, usize)> =
        seeds.iter().map(|&(at, word)| (word as i64 - at as i64, at, word)).collect();
    diagonals.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    let mut last = None;
    for (diagonal, at, word) in diagonals {
        match runs.last_mut() {
            Some(run) if last == Some((diagonal, at.wrapping_sub(1))) => run.words += 1,
            _ => runs.push(Run { passage: at, text: word, words: WORDS }),
        }
        last = Some((diagonal, at));
    }
    runs
}

/// How many seeds of a passage were found anywhere, and how many words they cover.
pub(super) fn covered(seeds: &[(usize, usize)]) -> (usize, usize) {
    let (mut found, mut words, mut end) = (0, 0, 0);
    let mut last = None;
    for &(at, _) in seeds {
        if last != Some(at) {
            found += 1;
            words += at + WORDS - end.max(at);
            end = at + WORDS;
            last = Some(at);
        }
    }
    (found, words)
}

/// Turns the places of `matches` from bytes into characters.
fn count_characters(text: &str, matches: &mut [Match]) {
    let mut bytes: Vec<u64> = matches.iter().flat_map(|m| [m.place.0, m.place.1]).collect();
    bytes.sort_unstable();
    bytes.dedup();
    let (mut at, mut count) = (0, 0);
    let counts: Vec<u64> = bytes
        .iter()
        .map(|&byte| {
            count += text[at..byte as usize].chars().count() as u64;
            at = byte as usize;
            count
        })
        .collect();
    let character = |byte: u64| bytes.binary_search(&byte).map_or(byte, |i| counts[i]);
    for found in matches {
        found.place = (character(found.place.0), character(found.place.1));
    }
}
