//! The words of a text as they stand in it: what [`normalise`](crate::leak::normalise) makes of the
//! text, one after the other, each with its place.
//!
//! ASCII is read in blocks. A run with other letters, between ASCII bytes that are no letters or
//! digits, goes through the normaliser on its own: nothing of the normal form (case folding, the
//! composition of accents, which marks join which letter) reaches across such a byte.

use std::ops::Range;

use unicode_normalization::char::is_combining_mark;

use crate::leak::normalise;

/// Bytes that are classified at once.
const BLOCK: usize = 64;

/// Buffers that one thread reuses from text to text.
#[derive(Default)]
pub(super) struct Scratch {
    lower: Vec<u8>,
    form: Vec<u8>,
}

/// Hash of one word of a normal form: eight bytes at a time, zeros behind the last, folded by the
/// two halves of a product (as wyhash does). Packs on disk depend on it.
pub(super) fn hash(word: &[u8]) -> u64 {
    let read = |bytes: &[u8]| {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(padded)
    };
    word.chunks(8).fold(seed(word.len()), |h, bytes| fold(h, read(bytes)))
}

/// [`hash`] of `bytes[start..end]`, which has at least eight bytes behind it.
#[inline(always)]
fn hash_padded(bytes: &[u8], start: usize, end: usize) -> u64 {
    let mut h = seed(end - start);
    let mut at = start;
    loop {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[at..at + 8]);
        let eight = u64::from_le_bytes(eight);
        if end - at <= 8 {
            // `end - at` is 1 to 8, so the shift is below 64.
            return fold(h, eight & (u64::MAX >> (64 - 8 * (end - at))));
        }
        h = fold(h, eight);
        at += 8;
    }
}

fn seed(len: usize) -> u64 {
    (len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xa076_1d64_78bd_642f
}

#[inline(always)]
fn fold(h: u64, eight: u64) -> u64 {
    let product = u128::from(h ^ eight) * 0xe703_7ed1_a0b4_28db;
    product as u64 ^ (product >> 64) as u64
}

/// One bit a byte: ASCII letters and digits, and bytes beyond ASCII.
#[inline(always)]
fn classify(block: &[u8; BLOCK]) -> (u64, u64) {
    let mut letters = [0_u8; BLOCK];
    let mut others = [0_u8; BLOCK];
    for i in 0..BLOCK {
        let b = block[i];
        let letter = (b | 0x20).wrapping_sub(b'a') < 26;
        letters[i] = u8::from(letter | (b.wrapping_sub(b'0') < 10));
        others[i] = b >> 7;
    }
    (gather(&letters), gather(&others))
}

/// The lowest bits of 64 bytes that are 0 or 1.
#[inline(always)]
fn gather(flags: &[u8; BLOCK]) -> u64 {
    let mut bits = 0;
    for (i, eight) in flags.chunks_exact(8).enumerate() {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(eight);
        // Each byte's bit ends up in the highest byte of the product, and no two meet on the way.
        let byte = u64::from_le_bytes(bytes).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        bits |= byte << (8 * i);
    }
    bits
}

/// Calls `f` with each word of the normal form of `text`, in order: the word, its [`hash`], and the
/// bytes of `text` that it stands on. Without `PLACES` the bytes may be those of a longer piece
/// around it.
///
/// A text of symbols alone, which the normaliser keeps, has no words here.
pub(super) fn each<const PLACES: bool>(
    text: &str,
    scratch: &mut Scratch,
    mut f: impl FnMut(&[u8], u64, Range<usize>),
) {
    let Scratch { lower, form } = scratch;
    lower.clear();
    lower.reserve(text.len() + 2 * BLOCK);
    lower.extend_from_slice(text.as_bytes());
    lower.make_ascii_lowercase();
    // Whole blocks, and eight bytes behind any word: zeros, which end the last word.
    lower.resize((text.len() / BLOCK + 2) * BLOCK, 0);
    let lower = lower.as_slice();

    // The start of a run of letters that goes on, and whether it has some beyond ASCII.
    let mut open: Option<(usize, bool)> = None;
    let mut run = |start: usize, end: usize, plain: bool| {
        if plain {
            f(&lower[start..end], hash_padded(lower, start, end), start..end);
        } else {
            mixed::<PLACES>(text, lower, start..end, form, &mut f);
        }
    };
    for base in (0..lower.len()).step_by(BLOCK) {
        let mut block = [0; BLOCK];
        block.copy_from_slice(&lower[base..base + BLOCK]);
        let (letters, others) = classify(&block);
        let mut left = letters | others;
        if let Some((start, plain)) = open {
            let n = left.trailing_ones();
            let inside = if n == 64 { u64::MAX } else { (1 << n) - 1 };
            let plain = plain && others & inside == 0;
            if n == 64 {
                open = Some((start, plain));
                continue;
            }
            run(start, base + n as usize, plain);
            left &= !inside;
            open = None;
        }
        while left != 0 {
            let at = left.trailing_zeros();
            let n = (left >> at).trailing_ones();
            let start = base + at as usize;
            if at + n == 64 {
                open = Some((start, others >> at == 0));
                break;
            }
            let inside = ((1 << n) - 1) << at;
            run(start, start + n as usize, others & inside == 0);
            left &= !inside;
        }
    }
}

/// The words of a run of ASCII letters and digits and of bytes beyond ASCII, cut at the most common
/// characters that only separate words.
fn mixed<const PLACES: bool>(
    text: &str,
    lower: &[u8],
    run: Range<usize>,
    form: &mut Vec<u8>,
    f: &mut impl FnMut(&[u8], u64, Range<usize>),
) {
    let mut part = |start: usize, end: usize| {
        if start == end {
        } else if lower[start..end].is_ascii() {
            f(&lower[start..end], hash_padded(lower, start, end), start..end);
        } else {
            piece::<PLACES>(&text[start..end], start, form, f);
        }
    };
    let (mut start, mut at) = (run.start, run.start);
    while at < run.end {
        let gap = mark_of_gap(&lower[at..run.end]);
        if gap > 0 {
            part(start, at);
            start = at + gap;
        }
        at += gap.max(1);
    }
    part(start, run.end);
}

/// The length of the character at the start of `bytes` if it is one of the spaces, dashes, quotes
/// and other marks of U+2000 to U+203F or a no-break space, which only separate words; else 0.
fn mark_of_gap(bytes: &[u8]) -> usize {
    match bytes {
        [0xe2, 0x80, _, ..] => 3,
        [0xc2, 0xa0, ..] => 2,
        _ => 0,
    }
}

/// The words of a piece that holds letters beyond ASCII and starts at byte `start` of its text.
fn piece<const PLACES: bool>(
    piece: &str,
    start: usize,
    form: &mut Vec<u8>,
    f: &mut impl FnMut(&[u8], u64, Range<usize>),
) {
    // The normal form of a text without words is its symbols, but other pieces may hold words.
    if !has_letters(piece) {
        return;
    }
    normalise::normalise_into(piece, form);
    let whole = start..start + piece.len();
    if !PLACES {
        return normalise::words(form).for_each(|word| f(word, hash(word), whole.clone()));
    }
    let places = places(piece);
    let known = places.len() == normalise::words(form).count();
    for (i, word) in normalise::words(form).enumerate() {
        let place = places.get(i).filter(|_| known).cloned().unwrap_or(0..piece.len());
        f(word, hash(word), start + place.start..start + place.end);
    }
}

/// Whether any character begins a word. Some marks count as letters, but only join others.
fn has_letters(piece: &str) -> bool {
    piece.chars().any(|c| c.is_alphanumeric() && !is_combining_mark(c))
}

/// The bytes that each word of `piece` stands on.
fn places(piece: &str) -> Vec<Range<usize>> {
    let words = |range: Range<usize>| {
        let piece = &piece[range];
        let count = || normalise::words(normalise::normalise(piece).as_bytes()).count();
        if has_letters(piece) { count() } else { 0 }
    };
    let mut out: Vec<Range<usize>> = Vec::new();
    // A letter with its marks after the other: it goes on with the word if both make one word.
    let mut last: Option<Range<usize>> = None;
    let mut chars = piece.char_indices().peekable();
    while let Some((start, _)) = chars.next() {
        while chars.next_if(|&(_, c)| is_combining_mark(c)).is_some() {}
        let letter = start..chars.peek().map_or(piece.len(), |&(end, _)| end);
        if words(letter.clone()) == 0 {
            last = None;
            continue;
        }
        match (&last, out.last_mut()) {
            (Some(last), Some(word)) if words(last.start..letter.end) == 1 => word.end = letter.end,
            _ => out.push(letter.clone()),
        }
        last = Some(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &str) -> Vec<(String, Range<usize>)> {
        let mut out = Vec::new();
        each::<true>(text, &mut Scratch::default(), |word, sum, place| {
            assert_eq!(sum, hash(word));
            out.push((String::from_utf8_lossy(word).into_owned(), place));
        });
        out
    }

    fn words(text: &str) -> Vec<String> {
        let mut out = Vec::new();
        each::<false>(text, &mut Scratch::default(), |word, sum, _| {
            assert_eq!(sum, hash(word));
            out.push(String::from_utf8_lossy(word).into_owned());
        });
        out
    }

    /// What the normaliser says, but for texts that hold symbols alone.
    fn expected(text: &str) -> Vec<String> {
        let form = normalise::normalise(text);
        let words = normalise::words(form.as_bytes()).filter(|_| has_letters(&form));
        words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    #[test]
    fn words_know_their_places() {
        let text = "Don\u{2019}t, ÉCOLE 日本語abc 12%";
        let found = all(text);
        let shown: Vec<&str> = found.iter().map(|(_, place)| &text[place.clone()]).collect();
        assert_eq!(shown, ["Don", "t", "ÉCOLE", "日", "本", "語", "abc", "12"]);
        assert_eq!(words(text), ["don", "t", "école", "日", "本", "語", "abc", "12"]);
    }

    #[test]
    fn symbols_alone_are_no_words() {
        assert_eq!(words("😀!! 😀"), [""; 0]);
        assert_eq!(words("😀 love ❤"), ["love"]);
    }

    #[test]
    fn the_hash_of_a_word_is_for_good() {
        // Computed by the formula in another language.
        assert_eq!(hash(b"gyrostat"), 0xb1f3_0f7d_55c5_1f0e);
        assert_eq!(hash(b"contamination"), 0xdcf0_caaf_376f_8866);
    }

    #[test]
    fn runs_cross_blocks() {
        for n in 50..140 {
            let text = format!("{} {}\u{2019}s {}", "a".repeat(n), "b".repeat(70), "é".repeat(n));
            let expected = ["a".repeat(n), "b".repeat(70), "s".to_owned(), "é".repeat(n)];
            assert_eq!(words(&text), expected);
        }
    }

    /// Letters, marks, gaps and symbols of several scripts.
    fn texts() -> impl Strategy<Value = String> {
        let bits = prop::sample::select(vec![
            "a",
            "Z",
            "9",
            " ",
            ".",
            "\u{301}",
            "é",
            "Σ",
            "ς",
            "\u{2019}",
            "\u{a0}",
            "日",
            "ひ",
            "ที่",
            "😀",
            "\u{fe0f}",
            "=",
            "\u{338}",
            "ß",
            "İ",
            "\u{200d}",
            "한",
            "\u{212b}",
            "²",
        ]);
        prop_oneof![
            prop::collection::vec(bits, 0..24).prop_map(|bits| bits.concat()),
            any::<String>()
        ]
    }

    proptest! {
        #[test]
        fn the_words_are_those_of_the_normaliser(text in texts()) {
            prop_assert_eq!(words(&text), expected(&text));
        }

        #[test]
        fn places_hold_their_words_in_order(text in texts()) {
            let found = all(&text);
            prop_assert_eq!(found.iter().map(|(word, _)| word.clone()).collect::<Vec<_>>(), words(&text));
            let mut end = 0;
            for (word, place) in found {
                prop_assert!(place.start >= end || place.end == end, "{:?}", place);
                end = place.end;
                let shown = normalise::normalise(&text[place]);
                prop_assert!(shown.split(' ').any(|part| part == word), "{shown:?} {word:?}");
            }
        }
    }
}
