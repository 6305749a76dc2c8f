//! The tokens of a text as hashes, read in one pass over its bytes.
//!
//! What a token is, is defined by [`normalise`]: this module gives the hashes of the words of the
//! normal form without making it. A text is cut at its ASCII separators, 64 bytes at a time, into
//! runs of ASCII letters, digits and bytes beyond ASCII. A run of ASCII alone is a word and is
//! hashed where it lies. No other character reaches across an ASCII separator, so a run with others
//! is normalised by itself: by a table of characters that stay alone under Unicode's normal forms,
//! else by the definition.

use std::sync::OnceLock;

use crate::leak::hash::{self, PIECE};
use crate::leak::isa::{Kernel, for_every_kernel};
use crate::leak::normalise::{self, Class, Form};

/// Bytes classified at once.
const BLOCK: usize = 64;

/// Reads the tokens of texts; keeps its buffers from text to text.
#[derive(Default)]
pub(crate) struct Reader {
    word: Vec<u8>,
}

impl Reader {
    /// Replaces `tokens` by the hashes of the words of the normal form of `text`.
    pub(crate) fn words_into(&mut self, text: &str, form: Form, tokens: &mut Vec<u64>) {
        self.words_with(Kernel::best(), text, form, tokens);
    }

    fn words_with(&mut self, kernel: Kernel, text: &str, form: Form, tokens: &mut Vec<u64>) {
        tokens.clear();
        tokens.reserve(text.len() / 4);
        read(kernel, text, form, self, tokens);
        if tokens.is_empty() && !text.is_ascii() {
            normalise::symbols_into(text, form, &mut self.word);
            tokens.extend(normalise::words(&self.word).map(hash::word));
        }
    }

    /// The words of a run that is not all ASCII.
    fn mixed_run(&mut self, run: &str, form: Form, tokens: &mut Vec<u64>) {
        self.word.clear();
        let word = &mut self.word;
        let mut last = Class::Separator;
        for c in run.chars() {
            let Some((c, class)) = alone(c, form) else {
                // Its neighbours matter; what was found of the run so far is found again.
                normalise::form_into(run, form, word);
                tokens.extend(normalise::words(word).map(hash::word));
                return;
            };
            let joins = class == Class::Word && last == Class::Word;
            if class != Class::Separator && !joins && !word.is_empty() {
                word.push(b' ');
            }
            if class != Class::Separator {
                normalise::push_char(c, word);
            }
            last = class;
        }
        tokens.extend(normalise::words(word).map(hash::word));
    }
}

for_every_kernel! {
    fn read(text: &str, form: Form, reader: &mut Reader, tokens: &mut Vec<u64>) {
        let bytes = text.as_bytes();
        let mut inside = 0; // 1 if the last byte was part of a run, which began at `open`
        let (mut open, mut open_beyond) = (0, false);
        for (i, block) in bytes.chunks(BLOCK).enumerate() {
            let (part, beyond) = if let Ok(block) = block.try_into() {
                classify(block, form)
            } else {
                let mut filled = [b' '; BLOCK];
                filled[..block.len()].copy_from_slice(block);
                classify(&filled, form)
            };
            let base = i * BLOCK;
            let after = part << 1 | inside;
            let (mut starts, mut ends) = (part & !after, after & !part);
            if inside == 1 {
                if ends == 0 {
                    open_beyond |= beyond != 0;
                    continue;
                }
                let end = ends.trailing_zeros();
                ends &= ends - 1;
                open_beyond |= beyond & !(u64::MAX << end) != 0;
                let end = base + end as usize;
                if open_beyond {
                    run(text, open, end, form, reader, tokens);
                } else {
                    tokens.push(ascii_word(bytes, open, end, form));
                }
            }
            while ends != 0 {
                let (start, end) = (starts.trailing_zeros(), ends.trailing_zeros());
                (starts, ends) = (starts & (starts - 1), ends & (ends - 1));
                let mixed = beyond & (u64::MAX << start) & !(u64::MAX << end) != 0;
                let (start, end) = (base + start as usize, base + end as usize);
                if mixed {
                    run(text, start, end, form, reader, tokens);
                } else {
                    tokens.push(ascii_word(bytes, start, end, form));
                }
            }
            if starts != 0 {
                let start = starts.trailing_zeros();
                open = base + start as usize;
                open_beyond = beyond & (u64::MAX << start) != 0;
            }
            inside = part >> 63;
        }
        if inside == 1 {
            run(text, open, bytes.len(), form, reader, tokens);
        }
    }
}

/// Any run: its bounds are ASCII separators or ends of the text, so it is valid UTF-8.
#[cold]
#[inline(never)]
fn run(
    text: &str,
    start: usize,
    end: usize,
    form: Form,
    reader: &mut Reader,
    tokens: &mut Vec<u64>,
) {
    let run = text.get(start..end).unwrap_or_default();
    if run.is_ascii() {
        reader.word.clear();
        let bytes = run.bytes();
        reader.word.extend(bytes.map(|b| if form.fold_case { b.to_ascii_lowercase() } else { b }));
        tokens.push(hash::word(&reader.word));
    } else {
        reader.mixed_run(run, form, tokens);
    }
}

/// Which bytes are part of a run, and which are beyond ASCII.
#[inline(always)]
fn classify(block: &[u8; BLOCK], form: Form) -> (u64, u64) {
    let (mut part, mut high) = (0, 0);
    for (i, eight) in block.as_chunks::<8>().0.iter().enumerate() {
        let eight = u64::from_le_bytes(*eight);
        let beyond = eight & HIGH;
        let low = eight & !HIGH;
        let ascii = if form.spaced { !spaces(low) } else { letters(low) | digits(low) };
        part |= gather((ascii | beyond) & HIGH) << (8 * i);
        high |= gather(beyond) << (8 * i);
    }
    (part, high)
}

const HIGH: u64 = 0x8080_8080_8080_8080;

/// `byte` eight times.
const fn each(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

/// The high bit of each byte below 128 that is in `first..=last`.
#[inline(always)]
fn between(bytes: u64, first: u8, last: u8) -> u64 {
    bytes.wrapping_add(each(128 - first)) & !bytes.wrapping_add(each(127 - last))
}

#[inline(always)]
fn letters(bytes: u64) -> u64 {
    between(bytes | each(0x20), b'a', b'z')
}

#[inline(always)]
fn digits(bytes: u64) -> u64 {
    between(bytes, b'0', b'9')
}

#[inline(always)]
fn spaces(bytes: u64) -> u64 {
    between(bytes, 9, 13) | between(bytes, b' ', b' ')
}

/// The high bits of eight bytes as eight bits.
#[inline(always)]
fn gather(high: u64) -> u64 {
    (high >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Lower-cases the ASCII letters among eight bytes, all of them ASCII.
#[inline(always)]
fn lower(bytes: u64) -> u64 {
    bytes | (between(bytes, b'A', b'Z') & HIGH) >> 2
}

/// The hash of the ASCII word at `start..end`, as [`hash::word`] gives it for the folded word.
#[inline(always)]
fn ascii_word(bytes: &[u8], start: usize, end: usize, form: Form) -> u64 {
    let len = end - start;
    let mut state = 0;
    let mut at = start;
    loop {
        let left = end - at;
        let (low, high) = if let Some(piece) = bytes[at..].first_chunk::<PIECE>() {
            hash::halves(piece)
        } else {
            let mut whole = [0; PIECE];
            let rest = &bytes[at..end.min(at + PIECE)];
            whole[..rest.len()].copy_from_slice(rest);
            hash::halves(&whole)
        };
        // Of letters and digits, this bit is what tells capitals apart.
        let case = if form.fold_case && !form.spaced { each(0x20) } else { 0 };
        let (keep_low, keep_high) = KEEP[left.min(PIECE)];
        let (mut low, mut high) = ((low | case) & keep_low, (high | case) & keep_high);
        if form.fold_case && form.spaced {
            (low, high) = (lower(low), lower(high));
        }
        state = hash::word_piece(state, low, high);
        at += PIECE;
        if at >= end {
            return hash::word_end(state, len);
        }
    }
}

/// Masks that leave so many bytes of two halves.
const KEEP: [(u64, u64); PIECE + 1] = {
    let mut masks = [(0, 0); PIECE + 1];
    let mut n = 1;
    while n <= PIECE {
        masks[n] = if n <= 8 {
            (u64::MAX >> (64 - 8 * n as u32), 0)
        } else {
            (u64::MAX, u64::MAX >> (64 - 8 * (n as u32 - 8)))
        };
        n += 1;
    }
    masks
};

const PAGE: usize = 256;
type Page = [Option<(char, Class)>; PAGE];

/// What becomes of a character whose neighbours do not matter to it, nor it to them.
fn alone(c: char, form: Form) -> Option<(char, Class)> {
    static PAGES: [[OnceLock<Box<Page>>; PAGE]; 8] =
        [const { [const { OnceLock::new() }; PAGE] }; 8];
    let code = c as usize;
    if code >= PAGE * PAGE {
        return normalise::alone(c, form);
    }
    let pages = &PAGES
        [usize::from(form.spaced) * 4 + usize::from(form.nfkc) * 2 + usize::from(form.fold_case)];
    let page = pages[code / PAGE].get_or_init(|| {
        let first = code as u32 / PAGE as u32 * PAGE as u32;
        Box::new(std::array::from_fn(|i| {
            char::from_u32(first + i as u32).and_then(|c| normalise::alone(c, form))
        }))
    });
    page[code % PAGE]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_definition(text: &str, form: Form) -> Vec<u64> {
        let mut out = Vec::new();
        normalise::form_into(text, form, &mut out);
        if out.is_empty() {
            normalise::symbols_into(text, form, &mut out);
        }
        normalise::words(&out).map(hash::word).collect()
    }

    fn forms() -> impl Iterator<Item = Form> {
        (0..8).map(|i| Form { spaced: i & 4 != 0, nfkc: i & 2 != 0, fold_case: i & 1 != 0 })
    }

    fn check(text: &str) -> Result<(), TestCaseError> {
        for form in forms() {
            let expected = by_definition(text, form);
            for kernel in Kernel::available() {
                let mut tokens = Vec::new();
                Reader::default().words_with(kernel, text, form, &mut tokens);
                prop_assert_eq!(&tokens, &expected, "{:?} {:?} {:?}", kernel, form, text);
            }
        }
        Ok(())
    }

    #[test]
    fn eight_bytes_are_classified_as_one() {
        for b in 0..128_u8 {
            let flag = |bits: u64| bits & HIGH == HIGH;
            let c = char::from(b);
            assert_eq!(flag(letters(each(b))), c.is_ascii_alphabetic(), "{b}");
            assert_eq!(flag(digits(each(b))), c.is_ascii_digit(), "{b}");
            assert_eq!(flag(spaces(each(b))), c.is_whitespace(), "{b}");
            assert_eq!(lower(each(b)), each(b.to_ascii_lowercase()), "{b}");
        }
        assert_eq!(gather(0x8000_0000_0080_0080), 0b1000_0101);
    }

    #[test]
    fn runs_reach_across_blocks() {
        for len in [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000] {
            for text in [
                "Ab".repeat(len),
                "x ".repeat(len),
                format!("{} é{}", "a".repeat(len), "B".repeat(len)),
            ] {
                check(&text).unwrap();
                check(&format!(" {text}.")).unwrap();
            }
        }
    }

    #[test]
    fn every_character_is_read_as_defined() {
        for c in
            ('\0'..=char::MAX).filter(|c| (*c as u32) < 0x3000 || (*c as u32).is_multiple_of(97))
        {
            for form in forms() {
                let text = format!("a{c}b {c} {c}\u{301}");
                let mut tokens = Vec::new();
                Reader::default().words_into(&text, form, &mut tokens);
                assert_eq!(tokens, by_definition(&text, form), "{c:?} {form:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_defined(text in any::<String>()) {
            check(&text)?;
        }

        #[test]
        fn ordinary_text_is_read_as_defined(text in "[a-zA-Z0-9 .,\n_éÉßİΣς\u{301}\u{338}=<’—–日本ที่кК€😀ﬁ½\u{a0}-]{0,300}") {
            check(&text)?;
        }
    }
}
