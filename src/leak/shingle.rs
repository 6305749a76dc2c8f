//! Shingles: the set of word 5-grams of a text, as sorted 64-bit hashes.

use crate::error::{Error, Result};
use crate::leak::code;
use crate::leak::column::{Cell, Column, Kind};
use crate::leak::hash;
use crate::leak::minhash::MinHash;
use crate::leak::normalise::{self, Form};
use crate::leak::tokens::Reader;
use crate::parallel;

/// Words in one shingle.
pub const WORDS: usize = 5;

/// What the tokens of a text are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Runs of letters and digits; each letter of a script without spaces.
    Word,
    /// Whatever stands between white space.
    Spaced,
    /// Letters and digits, whatever stands between them.
    Char,
    /// Parts of identifiers, numbers and signs of program code, without its comments.
    Code,
}

impl Unit {
    /// All units.
    pub const ALL: [Self; 4] = [Self::Word, Self::Spaced, Self::Char, Self::Code];

    /// The name that people use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Word => "word",
            Self::Spaced => "spaced",
            Self::Char => "char",
            Self::Code => "code",
        }
    }
}

/// How texts are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TextOptions {
    /// What the tokens are.
    pub unit: Unit,
    /// Tokens in one shingle, at least 1.
    pub ngram: usize,
    /// Whether compatible characters are equal (Unicode's form NFKC).
    pub nfkc: bool,
    /// Whether letters are lower-cased.
    pub fold_case: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { unit: Unit::Word, ngram: WORDS, nfkc: false, fold_case: true }
    }
}

/// Makes the shingles of texts; keeps its buffers from text to text.
pub struct Shingler {
    options: TextOptions,
    reader: Reader,
    tokens: Vec<u64>,
    grams: Vec<u64>,
    bytes: Vec<u8>,
    sorter: Sorter,
}

impl Shingler {
    /// A shingler of these options.
    pub fn new(options: TextOptions) -> Self {
        Self {
            options,
            reader: Reader::default(),
            tokens: Vec::new(),
            grams: Vec::new(),
            bytes: Vec::new(),
            sorter: Sorter::default(),
        }
    }

    /// Replaces `out` by the shingles of `text`, sorted, each once, and gives the identity of its
    /// normal form: the sequence of its tokens.
    pub fn shingles_into(&mut self, text: &str, out: &mut Vec<u64>) -> u128 {
        let identity = self.identity(text);
        grams_into(&self.tokens, self.options.ngram, out);
        self.sorter.distinct(out);
        identity
    }

    /// Replaces `sketch` by the sketch of the shingles of `text`.
    pub fn sketch_into(&mut self, text: &str, minhash: &MinHash, sketch: &mut Vec<u32>) {
        self.read(text);
        // Minima do not mind repetition or order.
        grams_into(&self.tokens, self.options.ngram, &mut self.grams);
        minhash.sketch_into(&self.grams, sketch);
    }

    /// The identity of the normal form of `text`: equal where all tokens are equal, one by one.
    pub fn identity(&mut self, text: &str) -> u128 {
        self.read(text);
        hash::list(&self.tokens, &mut self.bytes)
    }

    /// Reads the tokens of `text`.
    fn read(&mut self, text: &str) {
        let TextOptions { unit, nfkc, fold_case, .. } = self.options;
        let form = Form { spaced: unit == Unit::Spaced, nfkc, fold_case };
        match unit {
            Unit::Word | Unit::Spaced => self.reader.words_into(text, form, &mut self.tokens),
            Unit::Char => {
                normalise::form_into(text, form, &mut self.bytes);
                if self.bytes.is_empty() {
                    normalise::symbols_into(text, form, &mut self.bytes);
                }
                let chars = String::from_utf8_lossy(&self.bytes);
                let letters = chars.chars().filter(|&c| c != ' ');
                self.tokens.clear();
                self.tokens
                    .extend(letters.map(|c| hash::word(c.encode_utf8(&mut [0; 4]).as_bytes())));
            }
            Unit::Code => {
                let folded;
                let text = if nfkc || fold_case {
                    folded = normalise::fold(text, form);
                    &folded
                } else {
                    text
                };
                code::tokens_into(text, &mut self.tokens);
            }
        }
    }
}

/// The sketches of all texts of a column, one after the other; that of a missing text is all ones.
///
/// # Errors
/// [`Error::Type`] if the column holds anything but text.
pub fn sketches(column: &dyn Column, options: TextOptions, minhash: &MinHash) -> Result<Vec<u32>> {
    const CHUNK: usize = 64;
    if let Kind::Other(kind) = column.kind() {
        return Err(Error::type_("column", "a column of text", format!("one of {kind}s")));
    }
    let rows = column.len();
    let chunks = parallel::map_indexed(rows.div_ceil(CHUNK), rows << 10, |i| {
        let (mut shingler, mut sketch) = (Shingler::new(options), Vec::new());
        let mut out = Vec::with_capacity(CHUNK * minhash.slots());
        for row in i * CHUNK..rows.min((i + 1) * CHUNK) {
            match column.cell(row) {
                Cell::Text(text) => shingler.sketch_into(text, minhash, &mut sketch),
                _ => minhash.sketch_into(&[], &mut sketch),
            }
            out.extend_from_slice(&sketch);
        }
        out
    });
    Ok(chunks.concat())
}

/// Replaces `out` by the shingles of a normal form (of the default options), sorted, each once.
///
/// A text of fewer than [`WORDS`] words is one shingle, the whole text: below that length a near
/// duplicate is an equal one. A text without words has no shingle. `words` is scratch.
pub fn shingles_into(form: &[u8], words: &mut Vec<u64>, out: &mut Vec<u64>) {
    words.clear();
    words.extend(normalise::words(form).map(hash::word));
    grams_into(words, WORDS, out);
    Sorter::default().distinct(out);
}

/// Replaces `out` by the hashes of all runs of `n` tokens; fewer make one run.
fn grams_into(tokens: &[u64], n: usize, out: &mut Vec<u64>) {
    out.clear();
    match tokens.len() {
        0 => {}
        len if len < n => out.push(hash::sequence(tokens.iter().copied())),
        _ if n == WORDS => {
            // The length is known: no loop, and the runs do not wait for each other.
            out.extend(
                tokens
                    .windows(WORDS)
                    .filter_map(<[u64]>::first_chunk::<WORDS>)
                    .map(|run| hash::sequence(*run)),
            );
        }
        _ => out.extend(tokens.windows(n).map(|run| hash::sequence(run.iter().copied()))),
    }
}

/// Sorts hashes: being spread evenly, they are dealt out by their high bits, which leaves almost all
/// of them where they belong.
#[derive(Default)]
struct Sorter {
    starts: Vec<u32>,
    dealt: Vec<u64>,
}

impl Sorter {
    /// Fewer hashes are sorted as they are.
    const FEW: usize = 32;
    /// Neighbours in one place that a hash may have, on average.
    const NEIGHBOURS: usize = 8;

    /// Sorts `hashes`, and leaves each once.
    fn distinct(&mut self, hashes: &mut Vec<u64>) {
        if hashes.len() < Self::FEW || hashes.len() >= 1 << 31 {
            hashes.sort_unstable();
            hashes.dedup();
            return;
        }
        let bits = hashes.len().ilog2() + 1;
        let place = |hash: u64| (hash >> (64 - bits)) as usize;
        self.starts.clear();
        self.starts.resize(1 << bits, 0);
        for &hash in hashes.iter() {
            let count = &mut self.starts[place(hash)];
            *count = count.wrapping_add(1);
        }
        let (mut sum, mut neighbours) = (0_u32, 0_usize);
        for start in &mut self.starts {
            let count = std::mem::replace(start, sum);
            sum = sum.wrapping_add(count);
            neighbours = neighbours.wrapping_add(count as usize * count as usize);
        }
        if neighbours / hashes.len() > Self::NEIGHBOURS {
            // A text that repeats itself: the pairs out of order could be without number.
            hashes.sort_unstable();
            hashes.dedup();
            return;
        }
        self.dealt.resize(hashes.len(), 0);
        for &hash in hashes.iter() {
            let at = &mut self.starts[place(hash)];
            self.dealt[*at as usize] = hash;
            *at = at.wrapping_add(1);
        }
        // Insertion: places ascend, so no hash leaves its own. Equal hashes are dropped on the way.
        let mut kept = 0;
        for &hash in &self.dealt {
            let mut at = kept;
            while at > 0 && hashes[at - 1] > hash {
                at -= 1;
            }
            if at > 0 && hashes[at - 1] == hash {
                continue;
            }
            if at < kept {
                hashes.copy_within(at..kept, at + 1);
            }
            hashes[at] = hash;
            kept += 1;
        }
        hashes.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shingles(form: &str) -> Vec<u64> {
        let mut out = Vec::new();
        shingles_into(form.as_bytes(), &mut Vec::new(), &mut out);
        out
    }

    fn with(options: TextOptions, text: &str) -> (u128, Vec<u64>) {
        let mut out = Vec::new();
        let identity = Shingler::new(options).shingles_into(text, &mut out);
        (identity, out)
    }

    #[test]
    fn counts_follow_the_words() {
        assert_eq!(shingles("").len(), 0);
        assert_eq!(shingles("one").len(), 1);
        assert_eq!(shingles("one two three four").len(), 1);
        assert_eq!(shingles("one two three four five").len(), 1);
        assert_eq!(shingles("one two three four five six seven").len(), 3);
    }

    #[test]
    fn repeated_shingles_count_once() {
        assert_eq!(shingles("a a a a a a a a").len(), 1);
        assert_eq!(shingles(&"a b c d e f g ".repeat(1000)).len(), 7);
    }

    #[test]
    fn the_order_of_words_counts() {
        assert_ne!(shingles("a b c d e"), shingles("e d c b a"));
        assert_ne!(shingles("ab c"), shingles("a bc"));
    }

    #[test]
    fn texts_that_repeat_themselves_are_sorted_too() {
        // Different hashes of one place, in turns.
        let mut hashes: Vec<u64> = (0..200_000).map(|i| i % 5).collect();
        Sorter::default().distinct(&mut hashes);
        assert_eq!(hashes, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_sketch_is_that_of_the_shingles() {
        let column: Vec<Option<&str>> = vec![Some("a b a b a b a b c d e f g"), None, Some("")];
        let minhash = MinHash::new(7);
        let got = sketches(&column, TextOptions::default(), &minhash).unwrap();
        let mut expected = Vec::new();
        minhash.sketch_into(&shingles("a b a b a b a b c d e f g"), &mut expected);
        expected.extend([u32::MAX; 14]);
        assert_eq!(got, expected);
    }

    #[test]
    fn units_say_what_is_compared() {
        let of = |unit, text: &str| with(TextOptions { unit, ..TextOptions::default() }, text);
        assert_eq!(of(Unit::Word, "A_b, c!"), of(Unit::Word, "a b c"));
        assert_ne!(of(Unit::Spaced, "A_b, c!"), of(Unit::Spaced, "a b c"));
        assert_eq!(of(Unit::Spaced, "A_b,\\tc!"), of(Unit::Spaced, "a_b,\\tC!"));
        assert_eq!(of(Unit::Char, "it works"), of(Unit::Char, "I t w-o-r-k-s"));
        assert_eq!(of(Unit::Char, "it works").1.len(), 3);
        assert_eq!(of(Unit::Char, "😀"), of(Unit::Char, "😀!"));
    }

    #[test]
    fn forms_are_options() {
        let of = |options, text: &str| with(options, text).0;
        let (plain, cased) =
            (TextOptions::default(), TextOptions { fold_case: false, ..TextOptions::default() });
        let compatible = TextOptions { nfkc: true, ..TextOptions::default() };
        assert_eq!(of(plain, "ABC"), of(plain, "abc"));
        assert_ne!(of(cased, "ABC"), of(cased, "abc"));
        assert_ne!(of(plain, "ｆｕｌｌ ﬁ™"), of(plain, "full fitm"));
        assert_eq!(of(compatible, "ｆｕｌｌ ﬁ™"), of(compatible, "full fitm"));
    }

    proptest! {
        #[test]
        fn the_shingles_of_a_text_are_those_of_its_normal_form(text in "[a-zA-Z .é本\u{301}]{0,400}") {
            prop_assert_eq!(with(TextOptions::default(), &text).1, shingles(&normalise::normalise(&text)));
        }

        #[test]
        fn hashes_come_out_sorted_and_distinct(hashes in prop::collection::vec(prop_oneof![any::<u64>(), 0_u64..40], 0..2000)) {
            let expected: Vec<u64> = hashes.iter().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
            let mut out = hashes;
            Sorter::default().distinct(&mut out);
            prop_assert_eq!(out, expected);
        }
    }
}
