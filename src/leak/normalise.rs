//! The normal form of a text: its words in order, lower-cased, one space between them.
//!
//! A word is a longest run of letters and digits, with the combining marks that follow them.
//! Everything else (punctuation, symbols, white space) only separates words. Two texts are
//! duplicates of the kind `normalised` if their normal forms are the same bytes.
//!
//! - Letters are lower-cased one by one (so final sigma equals sigma) and put in Unicode's form NFC,
//!   so that composed and decomposed accents are equal. Digits, ligatures and full-width letters
//!   stay what they are.
//! - Han, kana, Thai, Lao, Khmer and Myanmar are written without spaces: each of their letters is
//!   a word of its own, so a sentence is not one giant word and a 5-gram is five letters.
//! - A text without any word is represented by its symbols other than punctuation (emoji, say),
//!   each a word of its own; if it has none either, its normal form is empty.

use unicode_normalization::char::is_combining_mark;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The lower-cased byte of an ASCII letter or digit, 0 for everything else.
const ASCII_WORD: [u8; 128] = {
    let mut table = [0; 128];
    let mut b = 0;
    while b < 128 {
        if (b as u8).is_ascii_alphanumeric() {
            table[b] = (b as u8).to_ascii_lowercase();
        }
        b += 1;
    }
    table
};

/// The normal form of `text`.
pub fn normalise(text: &str) -> String {
    let mut out = Vec::new();
    normalise_into(text, &mut out);
    // The form is made of the characters of a `str`.
    String::from_utf8_lossy(&out).into_owned()
}

/// Replaces `out` by the normal form of `text`, as UTF-8.
pub fn normalise_into(text: &str, out: &mut Vec<u8>) {
    out.clear();
    if text.is_ascii() {
        return push_ascii_words(text.as_bytes(), out);
    }
    let text = fold_case(text);
    push_words(&text, out);
    if out.is_empty() {
        push_symbols(&text, out);
    }
}

/// The words of a normal form.
pub fn words(form: &[u8]) -> impl Iterator<Item = &[u8]> {
    form.split(|&b| b == b' ').filter(|word| !word.is_empty())
}

/// `text` lower-cased and in form NFC.
pub fn fold_case(text: &str) -> String {
    let mut lower = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            lower.push(c.to_ascii_lowercase());
        } else {
            lower.extend(c.to_lowercase().map(|c| if c == 'ς' { 'σ' } else { c }));
        }
    }
    match is_nfc_quick(lower.chars()) {
        IsNormalized::Yes => lower,
        IsNormalized::No | IsNormalized::Maybe => lower.nfc().collect(),
    }
}

fn push_ascii_words(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len());
    let mut inside = true; // no space before the first word
    for &b in text {
        match ASCII_WORD[usize::from(b & 127)] {
            0 => inside = false,
            letter => {
                if !inside && !out.is_empty() {
                    out.push(b' ');
                }
                inside = true;
                out.push(letter);
            }
        }
    }
}

/// What the last character was part of.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    /// A word that may go on.
    Word,
    /// A word of one letter, which only marks may join.
    Letter,
    Nothing,
}

fn push_words(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len());
    let mut last = Last::Nothing;
    for c in text.chars() {
        let now = match c {
            _ if c.is_ascii() => {
                if c.is_ascii_alphanumeric() {
                    Last::Word
                } else {
                    Last::Nothing
                }
            }
            // A mark belongs to the character before it; variation selectors of emoji and marks
            // that stand alone belong to nothing.
            _ if is_mark(c) => last,
            _ if !c.is_alphanumeric() => Last::Nothing,
            _ if is_unspaced(c) => Last::Letter,
            _ => Last::Word,
        };
        if now != Last::Nothing {
            let joins = is_mark(c) || (now == Last::Word && last == Last::Word);
            if !joins && !out.is_empty() {
                out.push(b' ');
            }
            push_char(c, out);
        }
        last = now;
    }
}

fn push_symbols(text: &str, out: &mut Vec<u8>) {
    for c in text.chars().filter(|&c| is_symbol(c)) {
        if !out.is_empty() {
            out.push(b' ');
        }
        push_char(c, out);
    }
}

fn push_char(c: char, out: &mut Vec<u8>) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn is_mark(c: char) -> bool {
    c >= '\u{300}' && is_combining_mark(c)
}

/// Scripts written without spaces between words.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}'     // Thai, Lao
        | '\u{1000}'..='\u{109f}'   // Myanmar
        | '\u{1780}'..='\u{17ff}'   // Khmer
        | '\u{3005}'..='\u{3007}'   // iteration mark, zero
        | '\u{3040}'..='\u{30ff}'   // Hiragana, Katakana
        | '\u{31f0}'..='\u{31ff}'   // Katakana extensions
        | '\u{3400}'..='\u{4dbf}'   // Han
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{ff66}'..='\u{ff9f}'   // half-width Katakana
        | '\u{1b000}'..='\u{1b16f}' // historic kana
        | '\u{20000}'..='\u{3ffff}' // Han
    )
}

/// Whether `c` is neither a word's, nor white space, control, mark or one of the common blocks of
/// punctuation.
fn is_symbol(c: char) -> bool {
    let punctuation = matches!(c,
        '\0'..='\u{bf}'
        | '\u{2000}'..='\u{206f}'   // general punctuation
        | '\u{2e00}'..='\u{2e7f}'   // supplemental punctuation
        | '\u{3000}'..='\u{303f}'   // CJK punctuation
        | '\u{fe10}'..='\u{fe6f}'   // vertical and small forms
        | '\u{feff}'
        | '\u{ff00}'..='\u{ff65}'   // full-width forms
    );
    !(punctuation || c.is_whitespace() || c.is_control() || is_mark(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn case_punctuation_and_space_go() {
        assert_eq!(normalise("  It's 3x OPTICAL-zoom!\n"), "it s 3x optical zoom");
        assert_eq!(normalise("a_b"), "a b");
        assert_eq!(normalise(":-) :-)"), "");
        assert_eq!(normalise(""), "");
    }

    #[test]
    fn letters_of_any_script_stay() {
        assert_eq!(normalise("ÉCOLE — école"), "école école");
        assert_eq!(normalise("cafe\u{301}"), normalise("CAFÉ"));
        assert_eq!(normalise("H\u{331}"), "\u{1e96}");
        assert_eq!(normalise("ΟΔΟΣ"), normalise("οδος"));
        assert_eq!(normalise("हिन्दी भाषा"), "हिन्दी भाषा");
        assert_eq!(normalise("£20 för €5"), "20 för 5");
    }

    #[test]
    fn scripts_without_spaces_give_one_word_a_letter() {
        assert_eq!(normalise("我爱 北京。"), "我 爱 北 京");
        assert_eq!(normalise("日本語abc12"), "日 本 語 abc12");
        assert_eq!(normalise("ที่นี่"), "ที่ นี่"); // tone marks stay with their letter
        assert_eq!(normalise("한국어 문장"), "한국어 문장"); // Korean has spaces
    }

    #[test]
    fn a_text_without_words_is_its_symbols() {
        assert_eq!(normalise("😀!! 😀"), "😀 😀");
        assert_ne!(normalise("😀"), normalise("😡"));
        assert_eq!(normalise("❤\u{fe0f}"), "❤");
        assert_eq!(normalise("love ❤\u{fe0f}"), "love");
        assert_eq!(normalise("…—“”"), "");
    }

    #[test]
    fn ascii_takes_the_same_path_as_the_rest() {
        let text = "Go until jurong point, crazy.. Available_only in bugis n great world!";
        let mut out = Vec::new();
        push_words(&fold_case(text), &mut out);
        assert_eq!(normalise(text).as_bytes(), out);
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in any::<String>()) {
            let once = normalise(&text);
            prop_assert_eq!(normalise(&once), once);
        }

        #[test]
        fn words_are_separated_by_one_space(text in any::<String>()) {
            let form = normalise(&text);
            let rejoined: Vec<&[u8]> = words(form.as_bytes()).collect();
            prop_assert_eq!(rejoined.join(&b' '), form.as_bytes());
        }

        #[test]
        fn ascii_case_and_punctuation_never_matter(words in prop::collection::vec("[a-z0-9]{1,8}", 0..9)) {
            let loud: Vec<String> = words.iter().map(|w| w.to_uppercase()).collect();
            prop_assert_eq!(normalise(&format!(" {}!", loud.join("! "))), words.join(" "));
        }
    }
}
