//! Records that may be of one entity: candidate pairs, and how far their fields agree.
//!
//! The statistics (Fellegi and Sunter, "A theory for record linkage", 1969) are made in Python from
//! these levels; here is what volume asks for.

use std::collections::HashSet;

use rayon::slice::ParallelSliceMut;

use crate::leak::codes::MISSING;
use crate::leak::hash;
use crate::parallel;

/// How far two values of a field agree; 0 is not known, since one of them is missing.
pub const LEVELS: [&str; 5] = ["missing", "different", "similar", "close", "same"];

/// Texts whose neighbours at edit distance 1 are looked up are at least this long, in characters:
/// shorter ones have too many.
const SHORTEST: usize = 4;
/// Longer ones have too many ways to leave a character out.
const LONGEST: usize = 40;
/// Values that may share one way of leaving a character out.
const NEIGHBOURS: usize = 50;
/// Pairs of records that two values may bring together.
const BLOCKS: [usize; 4] = [2_500, 400, 100, 25];
/// Candidates (16 bytes each while they are sorted) that are aimed at.
const MOST: usize = 20_000_000;
/// Comparisons that make up one task.
const TASK: usize = 1 << 12;

/// One field of all records.
#[derive(Debug, Clone)]
pub struct Field {
    /// By record: the number of its value, or [`MISSING`].
    pub codes: Vec<i64>,
    /// The values in normal form.
    pub texts: Vec<String>,
}

/// What was found, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Pairs of records, `left < right`, ascending.
    pub pairs: Vec<(u32, u32)>,
    /// Pairs of records that two values were allowed to bring together.
    pub block: usize,
    /// Pairs of values that would have brought together more.
    pub cut: usize,
}

/// A value of one field, or a word of any field, and the records that hold it.
struct Term {
    /// The field, or one past the last for words.
    space: usize,
    text: String,
    records: Vec<u32>,
}

/// Pairs of records that share a value or a word, or hold two that are one edit (or two) apart.
///
/// Values that would bring too many records together are passed over; of two such values in
/// different fields, both have to be shared.
pub fn candidates(fields: &[Field]) -> Candidates {
    let terms = terms(fields);
    let mut joined: Vec<(u32, u32)> = (0..terms.len() as u32).map(|t| (t, t)).collect();
    joined.extend(neighbours(&terms));
    let size = |&(a, b): &(u32, u32)| {
        let records = |term: u32| terms[term as usize].records.len();
        if a == b { records(a) * records(a).saturating_sub(1) / 2 } else { records(a) * records(b) }
    };
    let total =
        |block: usize| -> usize { joined.iter().map(size).filter(|&size| size <= block).sum() };
    let block = BLOCKS.into_iter().find(|&block| total(block) <= MOST).unwrap_or(1);

    let mut pairs = Vec::new();
    let mut cut = 0;
    for join in &joined {
        if size(join) > block {
            cut += 1;
            continue;
        }
        let (a, b) = (&terms[join.0 as usize].records, &terms[join.1 as usize].records);
        cross(a, b, join.0 == join.1, &mut pairs);
    }
    let frequent = |term: usize| size(&(term as u32, term as u32)) > block;
    for records in shared_by_two(&terms, fields.len(), frequent) {
        if records.len() * (records.len() - 1) / 2 <= block {
            cross(&records, &records, true, &mut pairs);
        }
    }
    sort(&mut pairs);
    pairs.dedup();
    Candidates { pairs, block, cut }
}

/// How far the fields of each pair agree, pair by pair, one byte a field (see [`LEVELS`]).
pub fn levels(fields: &[Field], pairs: &[(u32, u32)]) -> Vec<u8> {
    let plain: Vec<Vec<Plain>> =
        fields.iter().map(|field| field.texts.iter().map(Plain::new).collect()).collect();
    let tasks = pairs.len().div_ceil(TASK);
    let parts = parallel::map_indexed(tasks, pairs.len() << 10, |task| {
        let pairs = &pairs[task * TASK..pairs.len().min((task + 1) * TASK)];
        let mut out = Vec::with_capacity(pairs.len() * fields.len());
        for &(a, b) in pairs {
            let start = out.len();
            out.extend(fields.iter().zip(&plain).map(|(field, plain)| {
                let (a, b) = (field.codes[a as usize], field.codes[b as usize]);
                match (a, b) {
                    (MISSING, _) | (_, MISSING) => 0,
                    _ if a == b => 4,
                    _ => plain[a as usize].level(&plain[b as usize]),
                }
            }));
            let value = |field: usize, record: u32| {
                plain[field][fields[field].codes[record as usize] as usize].identity
            };
            mend_swaps(&mut out[start..], |i, j| {
                value(i, a) == value(j, b) && value(j, a) == value(i, b)
            });
        }
        out
    });
    parts.concat()
}

/// Two fields that differ, but hold each other's values, such as first and last name, are close.
fn mend_swaps(levels: &mut [u8], swapped: impl Fn(usize, usize) -> bool) {
    for i in 0..levels.len() {
        for j in i + 1..levels.len() {
            let differ = |level: u8| level == 1 || level == 2;
            if differ(levels[i]) && differ(levels[j]) && swapped(i, j) {
                levels[i] = 3;
                levels[j] = 3;
            }
        }
    }
}

/// A value as it is compared.
struct Plain {
    text: String,
    /// Equal for equal texts, whatever the field.
    identity: u64,
    /// The words in alphabetical order, if there are more than one.
    sorted: Option<String>,
    /// Whether this is a number, date or code: mostly digits.
    digits: bool,
    /// Length in characters.
    length: usize,
    /// How often each kind of character occurs, up to 255 times.
    bag: [u8; BAG],
}

/// Kinds of characters: an equal character is of an equal kind.
const BAG: usize = 32;

impl Plain {
    fn new(text: &String) -> Self {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let sorted = (words.len() > 1).then(|| {
            words.sort_unstable();
            words.join(" ")
        });
        let length = text.chars().count();
        let digits = text.chars().filter(char::is_ascii_digit).count() * 2 > length;
        let mut bag = [0_u8; BAG];
        for character in text.chars() {
            let kind = &mut bag[character as usize % BAG];
            *kind = kind.saturating_add(1);
        }
        let identity = hash::word(text.as_bytes());
        Self { text: text.clone(), identity, sorted, digits, length, bag }
    }

    fn sorted(&self) -> &str {
        self.sorted.as_deref().unwrap_or(&self.text)
    }

    /// At least as many characters as both have in common, wherever they stand.
    fn common(&self, other: &Self) -> usize {
        let least = |(&a, &b): (&u8, &u8)| u16::from(a.min(b));
        let common: u16 = self.bag.iter().zip(&other.bag).map(least).sum();
        // Where kinds are counted no further, nothing is known.
        if self.bag.contains(&u8::MAX) { usize::MAX } else { usize::from(common) }
    }

    fn level(&self, other: &Self) -> u8 {
        let longest = self.length.max(other.length);
        let common = self.common(other).min(self.length.min(other.length));
        if self.digits && other.digits {
            // Each edit mends one character at most.
            if longest - common > 2 {
                return 1;
            }
            return match strsim::osa_distance(&self.text, &other.text) {
                1 if longest >= 3 => 3,
                2 if longest >= 6 => 2,
                _ => 1,
            };
        }
        let prefix =
            |a: &str, b: &str| a.chars().zip(b.chars()).take(4).take_while(|(a, b)| a == b).count();
        // Jaro's similarity of characters that all match in order, and Winkler's bonus.
        let share = |length: usize| common as f64 / length.max(1) as f64;
        let most = (share(self.length) + share(other.length) + 1.0) / 3.0;
        let bonus = prefix(&self.text, &other.text).max(prefix(self.sorted(), other.sorted()));
        if most + 0.1 * bonus as f64 * (1.0 - most) < 0.8 - 1e-9 {
            return 1;
        }
        let mut similarity = strsim::jaro_winkler(&self.text, &other.text);
        if self.sorted.is_some() || other.sorted.is_some() {
            let by_word = strsim::jaro_winkler(self.sorted(), other.sorted());
            similarity = similarity.max(by_word);
        }
        match similarity {
            s if s >= 0.92 => 3,
            s if s >= 0.8 => 2,
            _ => 1,
        }
    }
}

/// The values of all fields, then all words of at least 3 characters that no digit is in.
fn terms(fields: &[Field]) -> Vec<Term> {
    let mut terms = Vec::new();
    let mut words: Vec<(&str, u32)> = Vec::new();
    for (space, field) in fields.iter().enumerate() {
        let start = terms.len();
        terms.extend(field.texts.iter().map(|text| Term {
            space,
            text: text.clone(),
            records: Vec::new(),
        }));
        for (record, &code) in field.codes.iter().enumerate() {
            if code == MISSING {
                continue;
            }
            terms[start + code as usize].records.push(record as u32);
            let text = field.texts[code as usize].split(|c: char| !c.is_alphanumeric());
            words.extend(
                text.filter(|w| {
                    w.chars().nth(2).is_some() && !w.contains(|c: char| c.is_numeric())
                })
                .map(|word| (word, record as u32)),
            );
        }
    }
    words.sort_unstable();
    words.dedup();
    for run in words.chunk_by(|a, b| a.0 == b.0) {
        let records = run.iter().map(|&(_, record)| record).collect();
        terms.push(Term { space: fields.len(), text: run[0].0.to_owned(), records });
    }
    terms
}

/// Terms of one space that are the same once each leaves out a character or none.
fn neighbours(terms: &[Term]) -> Vec<(u32, u32)> {
    let mut keys: Vec<(u64, u32)> = Vec::new();
    let mut left_out = String::new();
    for (t, term) in terms.iter().enumerate() {
        let length = term.text.chars().count();
        if !(SHORTEST..=LONGEST).contains(&length) {
            continue;
        }
        let seed = hash::mix(term.space as u64);
        keys.push((hash::word(term.text.as_bytes()) ^ seed, t as u32));
        for (at, character) in term.text.char_indices() {
            left_out.clear();
            left_out.push_str(&term.text[..at]);
            left_out.push_str(&term.text[at + character.len_utf8()..]);
            keys.push((hash::word(left_out.as_bytes()) ^ seed, t as u32));
        }
    }
    sort(&mut keys);
    keys.dedup();
    let mut out = Vec::new();
    for run in keys.chunk_by(|a, b| a.0 == b.0) {
        if run.len() <= NEIGHBOURS {
            for (i, &(_, a)) in run.iter().enumerate() {
                out.extend(run[i + 1..].iter().map(|&(_, b)| (a, b)));
            }
        }
    }
    sort(&mut out);
    out.dedup();
    out
}

/// Records that share two values, each too frequent by itself.
fn shared_by_two(terms: &[Term], fields: usize, frequent: impl Fn(usize) -> bool) -> Vec<Vec<u32>> {
    let mut of_record: Vec<(u32, u32)> = Vec::new();
    for (t, term) in terms.iter().enumerate() {
        if term.space < fields && frequent(t) {
            of_record.extend(term.records.iter().map(|&record| (record, t as u32)));
        }
    }
    sort(&mut of_record);
    let mut keys: Vec<(u64, u32)> = Vec::new();
    for run in of_record.chunk_by(|a, b| a.0 == b.0) {
        for (i, &(record, a)) in run.iter().enumerate() {
            keys.extend(
                run[i + 1..].iter().map(|&(_, b)| (u64::from(a) << 32 | u64::from(b), record)),
            );
        }
    }
    sort(&mut keys);
    let groups = keys.chunk_by(|a, b| a.0 == b.0).filter(|run| run.len() > 1);
    groups.map(|run| run.iter().map(|&(_, record)| record).collect()).collect()
}

fn cross(a: &[u32], b: &[u32], same: bool, pairs: &mut Vec<(u32, u32)>) {
    for (i, &left) in a.iter().enumerate() {
        let others = if same { &b[i + 1..] } else { b };
        let others = others.iter().filter(|&&right| right != left);
        pairs.extend(others.map(|&right| (left.min(right), left.max(right))));
    }
}

fn sort<T: Ord + Send>(values: &mut [T]) {
    parallel::install(
        |threads| {
            if threads { values.par_sort_unstable() } else { values.sort_unstable() }
        },
    );
}

/// Clusters of `n` things that `edges` link: by thing, the number of its cluster, which is that of
/// its first member.
///
/// # Panics
/// If an edge leads beyond `n`.
pub fn clusters(n: usize, edges: &[(u32, u32)]) -> Vec<u32> {
    let mut parent: Vec<u32> = (0..n as u32).collect();
    let root = |parent: &mut Vec<u32>, mut i: u32| {
        while parent[i as usize] != i {
            parent[i as usize] = parent[parent[i as usize] as usize];
            i = parent[i as usize];
        }
        i
    };
    for &(a, b) in edges {
        let (a, b) = (root(&mut parent, a), root(&mut parent, b));
        // The least is the root, so that the answer does not depend on the order of edges.
        parent[a.max(b) as usize] = a.min(b);
    }
    (0..n as u32).map(|i| root(&mut parent, i)).collect()
}

/// Pairs of different records drawn at random, by a fixed sequence.
pub fn random_pairs(records: usize, draws: usize) -> Vec<(u32, u32)> {
    let mut seen = HashSet::with_capacity(draws);
    let mut out = Vec::with_capacity(draws);
    for i in 0..draws as u64 {
        let draw = |side: u64| {
            let h = hash::mix((2 * i + side).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D);
            ((u128::from(h) * records as u128) >> 64) as u32
        };
        let (a, b) = (draw(0), draw(1));
        if a != b && seen.insert((a.min(b), a.max(b))) {
            out.push((a.min(b), a.max(b)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(values: &[Option<&str>]) -> Field {
        let mut texts: Vec<String> = Vec::new();
        let codes = values.iter().map(|value| {
            let Some(value) = value else { return MISSING };
            let known = texts.iter().position(|text| text == value);
            known.unwrap_or_else(|| {
                texts.push((*value).to_owned());
                texts.len() - 1
            }) as i64
        });
        let codes = codes.collect();
        Field { codes, texts }
    }

    #[test]
    fn typos_and_swapped_fields_are_candidates() {
        let first = field(&[Some("anna"), Some("berg"), Some("carl"), None]);
        let last = field(&[Some("berg"), Some("anna"), Some("lindqvist"), Some("lindkvist")]);
        let found = candidates(&[first.clone(), last.clone()]);
        assert_eq!(found.pairs, [(0, 1), (2, 3)]);
        assert_eq!(levels(&[first, last], &found.pairs), [3, 3, 0, 3]);
    }

    #[test]
    fn digits_are_close_within_one_edit() {
        let date = field(&[Some("19700312"), Some("19700321"), Some("19709921"), Some("20051231")]);
        assert_eq!(levels(&[date], &[(0, 1), (1, 2), (0, 3)]), [3, 2, 1]);
    }

    #[test]
    fn a_value_that_all_share_brings_no_blow_up() {
        let n = 20_000;
        let names: Vec<String> = (0..n).map(|i| format!("{}", 100_000 + i * 37 % 7919)).collect();
        let name = field(&names.iter().map(|n| Some(n.as_str())).collect::<Vec<_>>()[..300]);
        let name = Field { codes: (0..n as i64).map(|i| i % 300).collect(), ..name };
        let state = Field { codes: vec![0; n], texts: vec!["here".into()] };
        let found = candidates(&[name, state]);
        assert!(found.pairs.len() <= MOST && found.cut >= 1, "{}", found.pairs.len());
    }

    proptest! {
        #[test]
        fn clusters_are_connected_components(edges in prop::collection::vec((0_u32..30, 0_u32..30), 0..40)) {
            let found = clusters(30, &edges);
            // The slow way: spread the least member along the edges until nothing changes.
            let mut least: Vec<u32> = (0..30).collect();
            for _ in 0..30 {
                for &(a, b) in &edges {
                    let m = least[a as usize].min(least[b as usize]);
                    least[a as usize] = m;
                    least[b as usize] = m;
                }
            }
            prop_assert_eq!(found, least);
        }

        #[test]
        fn the_shortcut_changes_no_level(a in "[a-d ]{0,12}", b in "[a-d ]{0,12}", long in "[ab0-9]{0,9}") {
            // Values are in normal form, and equal ones are not compared.
            let [a, b, long] =
                [a, b, long].map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
            for (a, b) in [(&a, &b), (&a, &long), (&long, &b)].into_iter().filter(|(a, b)| a != b) {
                let (plain, other) = (Plain::new(a), Plain::new(b));
                let by_word = strsim::jaro_winkler(plain.sorted(), other.sorted());
                let similarity = strsim::jaro_winkler(a, b).max(by_word);
                let edits = strsim::osa_distance(a, b);
                let longest = a.len().max(b.len());
                let expected = match (plain.digits && other.digits, similarity, edits) {
                    (true, _, 1) if longest >= 3 => 3,
                    (true, _, 2) if longest >= 6 => 2,
                    (true, ..) => 1,
                    (_, s, _) if s >= 0.92 => 3,
                    (_, s, _) if s >= 0.8 => 2,
                    _ => 1,
                };
                prop_assert_eq!(plain.level(&other), expected);
            }
        }

        #[test]
        fn equal_rare_values_are_always_candidates(values in prop::collection::vec("[a-c]{1,3}", 2..12)) {
            let options: Vec<Option<&str>> = values.iter().map(|v| Some(v.as_str())).collect();
            let found = candidates(&[field(&options)]);
            for (i, a) in values.iter().enumerate() {
                for (j, b) in values.iter().enumerate().skip(i + 1) {
                    prop_assert!(a != b || found.pairs.contains(&(i as u32, j as u32)));
                }
            }
        }
    }
}
