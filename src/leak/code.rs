//! Program code as tokens: what a compiler would see, whatever the language.
//!
//! - Identifiers are split where people see words: at underscores, between letters and digits,
//!   before capitals (`parseHTTPResponse` is `parse`, `HTTP`, `Response`).
//! - Comments go: `// ...`, `/* ... */`, and `# ...` unless it begins a directive (`#include`,
//!   `#[derive]`, `#!`). White space goes too. Strings stay, as words and signs.
//! - Each other sign is a token of its own.

use crate::leak::hash;

/// Directives that begin with `#` and are no comments.
const DIRECTIVES: [&str; 12] = [
    "include", "define", "undef", "ifdef", "ifndef", "if", "elif", "else", "endif", "pragma",
    "error", "line",
];

/// Replaces `tokens` by the hashes of the tokens of `text`.
pub(crate) fn tokens_into(text: &str, tokens: &mut Vec<u64>) {
    tokens.clear();
    let mut rest = text;
    let mut quote: Option<char> = None;
    while let Some(c) = rest.chars().next() {
        if c.is_alphanumeric() || c == '_' {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
            let (name, left) = rest.split_at(end.unwrap_or(rest.len()));
            parts(name, tokens);
            rest = left;
            continue;
        }
        if quote.is_none()
            && let Some(left) = after_comment(rest)
        {
            rest = left;
            continue;
        }
        let mut left = &rest[c.len_utf8()..];
        match quote {
            Some(open) if c == open || c == '\n' => quote = None,
            Some(_) if c == '\\' => {
                // Whatever is escaped ends no string.
                tokens.push(sign(c));
                let escaped = left.chars().next().filter(|c| !c.is_alphanumeric());
                tokens.extend(escaped.filter(|c| !c.is_whitespace()).map(sign));
                left = &left[escaped.map_or(0, char::len_utf8)..];
                rest = left;
                continue;
            }
            // A quote that is not closed on its line is no string: a lifetime, an apostrophe.
            None if matches!(c, '"' | '\'' | '`') => {
                let line = left.split('\n').next().unwrap_or_default();
                quote = line.contains(c).then_some(c);
            }
            _ => {}
        }
        if !c.is_whitespace() {
            tokens.push(sign(c));
        }
        rest = left;
    }
}

fn sign(c: char) -> u64 {
    hash::word(c.encode_utf8(&mut [0; 4]).as_bytes())
}

/// What follows the comment that `rest` begins with, if it does.
fn after_comment(rest: &str) -> Option<&str> {
    let line = |rest: &'_ str| rest.find('\n').unwrap_or(rest.len());
    if let Some(inside) = rest.strip_prefix("/*") {
        return Some(inside.find("*/").map_or("", |end| &inside[end + 2..]));
    }
    if rest.starts_with("//") {
        return Some(&rest[line(rest)..]);
    }
    let inside = rest.strip_prefix('#')?;
    let name = inside.trim_start_matches([' ', '\t']);
    let end = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
    let directive = inside.starts_with(['[', '!', '#']) || DIRECTIVES.contains(&&name[..end]);
    (!directive).then(|| &rest[line(rest)..])
}

/// The words of an identifier or the digits of a number.
fn parts(name: &str, tokens: &mut Vec<u64>) {
    for part in name.split('_').filter(|part| !part.is_empty()) {
        let mut start = 0;
        let mut chars = part.char_indices().peekable();
        let mut last: Option<char> = None;
        while let Some((at, c)) = chars.next() {
            let next = chars.peek().map(|&(_, c)| c);
            let cut = last.is_some_and(|last| {
                let digits = last.is_numeric() != c.is_numeric();
                let hump = last.is_lowercase() && c.is_uppercase();
                // The last capital of a run of them belongs to the word that follows.
                let end =
                    last.is_uppercase() && c.is_uppercase() && next.is_some_and(char::is_lowercase);
                digits || hump || end
            });
            if cut {
                tokens.push(hash::word(&part.as_bytes()[start..at]));
                start = at;
            }
            last = Some(c);
        }
        tokens.push(hash::word(&part.as_bytes()[start..]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(text: &str) -> Vec<u64> {
        let mut out = Vec::new();
        tokens_into(text, &mut out);
        out
    }

    fn words(words: &[&str]) -> Vec<u64> {
        words.iter().map(|word| hash::word(word.as_bytes())).collect()
    }

    #[test]
    fn identifiers_are_split_and_keep_their_case() {
        assert_eq!(tokens("parseHTTPResponse"), words(&["parse", "HTTP", "Response"]));
        assert_eq!(tokens("read_utf8_line"), words(&["read", "utf", "8", "line"]));
        assert_eq!(tokens("__init__(x1)"), words(&["init", "(", "x", "1", ")"]));
        assert_ne!(tokens("Foo"), tokens("foo"));
    }

    #[test]
    fn comments_and_white_space_do_not_matter() {
        let plain = "if (a) { b = 1; }";
        for other in [
            "if(a){b=1;}",
            "if (a) { // why\n b = 1; }",
            "if (a) /* why\n and how */ { b = 1; }",
            "if (a) { # why\n b = 1;\n}",
            "if (a) { b = 1; } // the end",
        ] {
            assert_eq!(tokens(plain), tokens(other), "{other}");
        }
        assert_ne!(tokens("#include <a.h>"), tokens(""));
        assert_ne!(tokens("#[test]\nfn a"), tokens("fn a"));
    }

    #[test]
    fn strings_hold_no_comments() {
        assert_ne!(tokens("a = \"http://b\";"), tokens("a = \"http:"));
        assert_ne!(tokens(r#"a = "\" // no comment";"#), tokens(r#"a = "\""#));
        assert_eq!(tokens("fn f<'a>() // why\n{}"), tokens("fn f<'a>() {}"));
    }

    proptest! {
        #[test]
        fn any_text_has_tokens_or_not(text in any::<String>()) {
            let _ = tokens(&text);
        }

        #[test]
        fn spaces_between_tokens_change_nothing(pieces in prop::collection::vec("[a-z]{1,3}|[+(;]", 0..9)) {
            prop_assert_eq!(tokens(&pieces.join(" ")), tokens(&pieces.join(" \n ")));
        }

        #[test]
        fn close_calls_do_not_panic(text in "[a-zA-Z_0-9#/*\"'`\\\\\n é!\\[]{0,40}") {
            let _ = tokens(&text);
        }
    }
}
