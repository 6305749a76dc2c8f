//! Shingles: the set of word 5-grams of a text, as sorted 64-bit hashes.

use crate::leak::{hash, normalise};

/// Words in one shingle.
pub const WORDS: usize = 5;

/// Replaces `out` by the shingles of a normal form, sorted, each once.
///
/// A text of fewer than [`WORDS`] words is one shingle, the whole text: below that length a near
/// duplicate is an equal one. A text without words has no shingle. `words` is scratch.
pub fn shingles_into(form: &[u8], words: &mut Vec<u64>, out: &mut Vec<u64>) {
    out.clear();
    words.clear();
    words.extend(normalise::words(form).map(hash::word));
    match words.len() {
        0 => {}
        1..WORDS => out.push(hash::sequence(words.iter().copied())),
        _ => out.extend(words.windows(WORDS).map(|w| hash::sequence(w.iter().copied()))),
    }
    out.sort_unstable();
    out.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shingles(form: &str) -> Vec<u64> {
        let mut out = Vec::new();
        shingles_into(form.as_bytes(), &mut Vec::new(), &mut out);
        out
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
    }

    #[test]
    fn the_order_of_words_counts() {
        assert_ne!(shingles("a b c d e"), shingles("e d c b a"));
        assert_ne!(shingles("ab c"), shingles("a bc"));
    }
}
