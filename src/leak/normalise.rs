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

use unicode_normalization::char::{canonical_combining_class, is_combining_mark};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

/// How texts are brought to a normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    /// Whether words are whatever stands between white space, with their punctuation.
    pub spaced: bool,
    /// Whether compatible characters are equal (Unicode's form NFKC): full-width letters, ligatures,
    /// superscripts.
    pub nfkc: bool,
    /// Whether letters are lower-cased.
    pub fold_case: bool,
}

impl Form {
    /// Words of letters and digits, lower-cased, in form NFC.
    pub const DEFAULT: Self = Self { spaced: false, nfkc: false, fold_case: true };
}

/// The normal form of `text`.
pub fn normalise(text: &str) -> String {
    let mut out = Vec::new();
    normalise_into(text, &mut out);
    // The form is made of the characters of a `str`.
    String::from_utf8_lossy(&out).into_owned()
}

/// Replaces `out` by the normal form of `text`, as UTF-8.
pub fn normalise_into(text: &str, out: &mut Vec<u8>) {
    form_into(text, Form::DEFAULT, out);
    if out.is_empty() {
        symbols_into(text, Form::DEFAULT, out);
    }
}

/// Replaces `out` by the words of `text`, one space between them.
pub(crate) fn form_into(text: &str, form: Form, out: &mut Vec<u8>) {
    out.clear();
    let text = fold(text, form);
    if form.spaced {
        for word in text.split_whitespace() {
            if !out.is_empty() {
                out.push(b' ');
            }
            out.extend_from_slice(word.as_bytes());
        }
    } else {
        push_words(&text, out);
    }
}

/// Replaces `out` by the symbols of `text`, each a word.
pub(crate) fn symbols_into(text: &str, form: Form, out: &mut Vec<u8>) {
    out.clear();
    push_symbols(&fold(text, form), out);
}

/// The words of a normal form.
pub fn words(form: &[u8]) -> impl Iterator<Item = &[u8]> {
    form.split(|&b| b == b' ').filter(|word| !word.is_empty())
}

/// `text` lower-cased and in form NFC.
pub fn fold_case(text: &str) -> String {
    fold(text, Form::DEFAULT)
}

/// `text` in the Unicode form that is asked for, lower-cased if so asked.
pub(crate) fn fold(text: &str, form: Form) -> String {
    let mut folded = String::with_capacity(text.len());
    let mut push = |c: char| match (form.fold_case, c.is_ascii()) {
        (false, _) => folded.push(c),
        (true, true) => folded.push(c.to_ascii_lowercase()),
        (true, false) => folded.extend(c.to_lowercase().map(|c| if c == 'ς' { 'σ' } else { c })),
    };
    // Before the case, since the compatible character may be a capital, as in the sign for "TM".
    if form.nfkc {
        text.nfkc().for_each(&mut push);
    } else {
        text.chars().for_each(&mut push);
    }
    if is_normal(folded.chars(), form) {
        folded
    } else if form.nfkc {
        folded.nfkc().collect()
    } else {
        folded.nfc().collect()
    }
}

/// Whether a quick look says that the characters are in the Unicode form that is asked for.
fn is_normal(chars: impl Iterator<Item = char>, form: Form) -> bool {
    let quick = if form.nfkc { is_nfkc_quick(chars) } else { is_nfc_quick(chars) };
    quick == IsNormalized::Yes
}

/// What a character of folded text is to the words.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Class {
    /// Part of a word that may go on.
    Word,
    /// A word of one letter, which only marks may join.
    Letter,
    /// Between words.
    Separator,
}

/// The class of a character that is no mark.
fn class(c: char, form: Form) -> Class {
    match c {
        _ if form.spaced => {
            if c.is_whitespace() {
                Class::Separator
            } else {
                Class::Word
            }
        }
        _ if !c.is_alphanumeric() => Class::Separator,
        _ if is_unspaced(c) => Class::Letter,
        _ => Class::Word,
    }
}

/// What becomes of `c`, if that depends on no other character and changes none: it folds to one
/// character, no mark, that Unicode's forms neither compose nor reorder.
pub(crate) fn alone(c: char, form: Form) -> Option<(char, Class)> {
    let mut buffer = [0; 4];
    let folded = fold(c.encode_utf8(&mut buffer), form);
    let mut chars = folded.chars();
    let (only, None) = (chars.next()?, chars.next()) else { return None };
    let inert = |c: char| {
        is_normal(std::iter::once(c), form) && canonical_combining_class(c) == 0 && !is_mark(c)
    };
    (inert(c) && inert(only)).then(|| (only, class(only, form)))
}

fn push_words(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len());
    let mut last = Class::Separator;
    for c in text.chars() {
        // A mark belongs to the character before it; variation selectors of emoji and marks that
        // stand alone belong to nothing.
        let mark = is_mark(c);
        let now = if mark { last } else { class(c, Form::DEFAULT) };
        if now != Class::Separator {
            let joins = mark || (now == Class::Word && last == Class::Word);
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

pub(crate) fn push_char(c: char, out: &mut Vec<u8>) {
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
