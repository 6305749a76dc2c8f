//! A benchmark taken apart: the questions and answers that are looked for, each once.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::leak::column::{Cell, Column, Kind};
use crate::leak::contamination::grams::{self, gram};
use crate::leak::contamination::words::{self, Scratch};
use crate::leak::hash::{HashedMap, mix};

/// Weights are in sixteenths of a nat (natural logarithm of a probability).
pub(super) const UNIT: f64 = 16.0;

/// The background beside the benchmark's own frequencies: as many questions, with each word in
/// [`BACKGROUND_WITH`] of them. It keeps the weights of a benchmark of few questions in bounds.
const BACKGROUND: f64 = 100.0;
const BACKGROUND_WITH: f64 = 3.0;

/// Words of the shortest passage that is looked for.
pub(super) const FEWEST: usize = 3;

/// Letters in one sample of a passage (GPT-4's rule), and how many are drawn.
const SAMPLE: usize = 50;
const SAMPLES: u64 = 3;

/// What part of a row a passage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The question.
    Question,
    /// The answer, if it has at least as many words as a seed.
    Answer,
}

impl Part {
    /// The word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Question => "question",
            Self::Answer => "answer",
        }
    }
}

/// A piece of the letters of a passage, white space left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) bytes: usize,
    pub(super) hash: u64,
    /// The letters themselves, unless they come from a pack.
    pub(super) letters: Option<Vec<u8>>,
}

/// One question or answer, with all rows that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passage {
    pub(super) part: Part,
    /// Ascending.
    pub(super) rows: Vec<u32>,
    /// What its words are recognised by: see [`Marker`].
    pub(super) marks: Vec<u32>,
    pub(super) weights: Vec<u8>,
    /// The hash of each run of [`grams::WORDS`] words. If it has fewer: those of the whole, of its
    /// last [`FEWEST`] words and of its last one; one of fewer still is not looked for.
    pub(super) seeds: Vec<u64>,
    pub(super) samples: Vec<Sample>,
    /// First character of each word and the one behind its last; none from a pack.
    pub(super) places: Vec<(u32, u32)>,
}

impl Passage {
    /// The weight of all its words.
    pub(super) fn weight(&self) -> i32 {
        self.weights.iter().map(|&w| i32::from(w)).sum()
    }

    /// Whether it has fewer words than a seed, so that only the whole of it is looked for.
    pub(super) fn is_short(&self) -> bool {
        self.marks.len() < grams::WORDS
    }
}

/// An answer too short to be looked for on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShortAnswer {
    pub(super) words: usize,
    pub(super) hash: u64,
    /// Its words; none from a pack.
    pub(super) marks: Option<Vec<u32>>,
}

/// What tells whether two words are the same.
pub(super) enum Marker {
    /// Words by their numbers: equal marks are equal words.
    Words(Vocabulary),
    /// Eight bits of the hash, all that a pack holds: unequal words agree one time in 256.
    Bits,
}

impl Marker {
    /// The mark of no word of the benchmark.
    pub(super) const UNKNOWN: u32 = u32::MAX;

    /// The mark of a word of a text.
    pub(super) fn mark(&self, word: &[u8], hash: u64) -> u32 {
        match self {
            Self::Words(vocabulary) => vocabulary.find(word, hash).unwrap_or(Self::UNKNOWN),
            Self::Bits => u32::from(bits(hash)),
        }
    }
}

/// The words of a benchmark by number.
#[derive(Default)]
pub(super) struct Vocabulary {
    numbers: HashedMap<u64, u32>,
    words: Vec<Box<[u8]>>,
    hashes: Vec<u64>,
}

impl Vocabulary {
    fn find(&self, word: &[u8], hash: u64) -> Option<u32> {
        let number = *self.numbers.get(&hash)?;
        (*self.words[number as usize] == *word).then_some(number)
    }

    /// The hash of the word of a number.
    pub(super) fn hash(&self, number: u32) -> u64 {
        self.hashes[number as usize]
    }

    /// The number of a word, a new one if need be.
    fn number(&mut self, word: &[u8], hash: u64) -> u32 {
        self.find(word, hash).unwrap_or_else(|| {
            let next = self.words.len() as u32;
            // Of two words with one hash only the first would be found.
            self.numbers.entry(hash).or_insert(next);
            self.words.push(word.into());
            self.hashes.push(hash);
            next
        })
    }
}

/// What a pack holds of one word.
pub(super) fn bits(hash: u64) -> u8 {
    (hash >> 56) as u8
}

/// The text of a benchmark as passages.
pub(super) struct Texts {
    pub(super) passages: Vec<Passage>,
    /// By row.
    pub(super) short_answers: Vec<Option<ShortAnswer>>,
    pub(super) marker: Marker,
}

/// Takes the columns of a benchmark apart.
///
/// # Errors
/// [`Error::Type`] if a column holds anything but text; [`Error::Value`] if they differ in length.
pub(super) fn read(questions: &dyn Column, answers: Option<&dyn Column>) -> Result<Texts> {
    let mut reader = Reader::default();
    let mut rows = Rows::default();
    rows.add(&mut reader, Part::Question, "question", questions)?;
    let mut short_answers = vec![None; questions.len()];
    if let Some(answers) = answers {
        if answers.len() != questions.len() {
            let expected = format!("{} answers, one a question", questions.len());
            return Err(Error::value("answer", expected, answers.len()));
        }
        rows.add(&mut reader, Part::Answer, "answer", answers)?;
        short_answers = rows.take_short_answers(&reader, questions.len());
    }
    let mut passages = rows.passages;
    for part in [Part::Question, Part::Answer] {
        weigh(&mut passages, part, reader.vocabulary.hashes.len());
    }
    Ok(Texts { passages, short_answers, marker: Marker::Words(reader.vocabulary) })
}

/// Reads texts into numbered words.
#[derive(Default)]
struct Reader {
    vocabulary: Vocabulary,
    scratch: Scratch,
    marks: Vec<u32>,
    places: Vec<(u32, u32)>,
    letters: Vec<u8>,
}

impl Reader {
    fn read(&mut self, text: &str) {
        let Self { vocabulary, scratch, marks, places, letters } = self;
        marks.clear();
        places.clear();
        letters.clear();
        let (mut byte, mut chars) = (0, 0);
        let mut char_at = |at: usize| {
            // Words of one piece may share their places, so `at` may go back to the piece's start.
            if at < byte {
                (byte, chars) = (0, 0);
            }
            chars += text[byte..at].chars().count() as u32;
            byte = at;
            chars
        };
        words::each::<true>(text, scratch, |word, hash, place| {
            marks.push(vocabulary.number(word, hash));
            places.push((char_at(place.start), char_at(place.end)));
            letters.extend_from_slice(word);
        });
    }

    fn gram(&self, marks: &[u32]) -> u64 {
        let hashes: Vec<u64> = marks.iter().map(|&mark| self.vocabulary.hash(mark)).collect();
        gram(&hashes)
    }

    fn seeds(&self) -> Vec<u64> {
        match self.marks.len() {
            0..FEWEST => Vec::new(),
            n @ FEWEST..grams::WORDS => {
                let last = self.vocabulary.hash(self.marks[n - 1]);
                vec![self.gram(&self.marks), self.gram(&self.marks[n - FEWEST..]), last]
            }
            _ => self.marks.windows(grams::WORDS).map(|marks| self.gram(marks)).collect(),
        }
    }

    /// Three pieces of 50 letters from places that the hash of the words draws; a passage of no
    /// more letters is one sample.
    fn samples(&self) -> Vec<Sample> {
        let letters = String::from_utf8_lossy(&self.letters);
        let sample = |letters: &str| Sample {
            bytes: letters.len(),
            hash: words::hash(letters.as_bytes()),
            letters: Some(letters.as_bytes().to_vec()),
        };
        let starts: Vec<usize> = letters.char_indices().map(|(at, _)| at).collect();
        let Some(choices) = starts.len().checked_sub(SAMPLE) else {
            return vec![sample(&letters)];
        };
        let draw = |i: u64| {
            let start = (mix(self.gram(&self.marks) ^ mix(i)) % (choices as u64 + 1)) as usize;
            let end = starts.get(start + SAMPLE).copied().unwrap_or(letters.len());
            sample(&letters[starts[start]..end])
        };
        (1..=SAMPLES).map(draw).collect()
    }
}

/// Passages, equal ones as one.
#[derive(Default)]
struct Rows {
    passages: Vec<Passage>,
    known: HashMap<(Part, Vec<u32>), usize>,
    short_answers: Vec<(usize, Vec<u32>)>,
}

impl Rows {
    fn add(
        &mut self,
        reader: &mut Reader,
        part: Part,
        parameter: &'static str,
        column: &dyn Column,
    ) -> Result<()> {
        if let Kind::Other(kind) = column.kind() {
            return Err(Error::type_(parameter, "a column of text", format!("one of {kind}s")));
        }
        for row in 0..column.len() {
            let Cell::Text(text) = column.cell(row) else { continue };
            reader.read(text);
            if reader.marks.is_empty() {
                continue;
            }
            if part == Part::Answer && reader.marks.len() < grams::WORDS {
                self.short_answers.push((row, reader.marks.clone()));
                continue;
            }
            let next = self.passages.len();
            let at = *self.known.entry((part, reader.marks.clone())).or_insert(next);
            if at == next {
                self.passages.push(Passage {
                    part,
                    rows: Vec::new(),
                    marks: reader.marks.clone(),
                    weights: Vec::new(),
                    seeds: reader.seeds(),
                    samples: reader.samples(),
                    places: reader.places.clone(),
                });
            }
            self.passages[at].rows.push(row as u32);
        }
        Ok(())
    }

    fn take_short_answers(&mut self, reader: &Reader, rows: usize) -> Vec<Option<ShortAnswer>> {
        let mut out = vec![None; rows];
        for (row, marks) in std::mem::take(&mut self.short_answers) {
            let (words, hash) = (marks.len(), reader.gram(&marks));
            out[row] = Some(ShortAnswer { words, hash, marks: Some(marks) });
        }
        out
    }
}

/// Weighs the words of the passages of one part by how few of these hold them: the inverse document
/// frequency (Spärck Jones, 1972) over the benchmark itself, so that what its questions have in
/// common (instructions, templates) weighs little. The second time that a passage uses a word
/// counts half, the third a third, and so on.
fn weigh(passages: &mut [Passage], part: Part, vocabulary: usize) {
    let mut holding = vec![0_u32; vocabulary];
    let mut seen: HashMap<u32, u32> = HashMap::new();
    let mut total = BACKGROUND;
    for passage in passages.iter().filter(|p| p.part == part) {
        total += 1.0;
        seen.clear();
        for &mark in &passage.marks {
            if seen.insert(mark, 0).is_none() {
                holding[mark as usize] += 1;
            }
        }
    }
    for passage in passages.iter_mut().filter(|p| p.part == part) {
        seen.clear();
        let weight = |&mark: &u32| {
            let times = seen.entry(mark).or_insert(0);
            *times += 1;
            let with = f64::from(holding[mark as usize]) - 1.0 + BACKGROUND_WITH;
            let nats = (total / with).ln() / f64::from(*times);
            (nats * UNIT).round().clamp(0.0, 255.0) as u8
        };
        passage.weights = passage.marks.iter().map(weight).collect();
    }
}
