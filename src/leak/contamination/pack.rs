//! Benchmark packs: an [`Index`] as bytes, made of hashes instead of text.
//!
//! Layout, little-endian: 8 bytes of magic, the version (u32), the length of the body (u64), its
//! XXH3-128 (u128), then the body in postcard. A pack holds of each passage: its rows, one byte of
//! the hash of each word, the weight of each word, the hash of each run of 8 words, and the hashes
//! of its samples. That keeps the text out of crawls and search indices; it is no encryption, since
//! whoever guesses a passage can tell that it is right.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, Result};
use crate::leak::contamination::grams;
use crate::leak::contamination::index::Index;
use crate::leak::contamination::passages::{
    FEWEST, Marker, Part, Passage, Sample, ShortAnswer, bits,
};

const MAGIC: [u8; 8] = *b"GYROPACK";

/// Packs of this version and of earlier ones can be read.
pub const VERSION: u32 = 1;

const HEAD: usize = 8 + 4 + 8 + 16;

/// A hash, in a fixed number of bytes.
type Hash = [u8; 8];

#[derive(Serialize, Deserialize)]
struct Body {
    name: String,
    /// Names of the rows, or none at all.
    ids: Vec<String>,
    rows: u32,
    passages: Vec<Packed>,
    short_answers: Vec<(u32, u32, Hash)>,
}

#[derive(Serialize, Deserialize)]
struct Packed {
    is_answer: bool,
    rows: Vec<u32>,
    words: Vec<u8>,
    weights: Vec<u8>,
    seeds: Vec<Hash>,
    samples: Vec<(u32, Hash)>,
}

/// What a pack says beside the benchmark itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Name of the benchmark.
    pub name: String,
    /// One name a row, or none.
    pub ids: Vec<String>,
}

/// The bytes of a pack.
///
/// # Errors
/// [`Error::Value`] if `label` has names for some rows only.
pub fn write(index: &Index, label: Label) -> Result<Vec<u8>> {
    if !label.ids.is_empty() && label.ids.len() != index.rows() {
        let expected = format!("{} of them, one a question", index.rows());
        return Err(Error::value("ids", expected, label.ids.len()));
    }
    let byte = |&mark: &u32| match &index.marker {
        Marker::Words(vocabulary) => bits(vocabulary.hash(mark)),
        Marker::Bits => mark as u8,
    };
    let packed = |passage: &Passage| Packed {
        is_answer: passage.part == Part::Answer,
        rows: passage.rows.clone(),
        words: passage.marks.iter().map(byte).collect(),
        weights: passage.weights.clone(),
        seeds: passage.seeds.iter().map(|seed| seed.to_le_bytes()).collect(),
        samples: passage.samples.iter().map(|s| (s.bytes as u32, s.hash.to_le_bytes())).collect(),
    };
    let short = index.short_answers.iter().enumerate();
    let short = short.filter_map(|(row, answer)| answer.as_ref().map(|answer| (row, answer)));
    let body = Body {
        name: label.name,
        ids: label.ids,
        rows: index.rows() as u32,
        passages: index.passages.iter().map(packed).collect(),
        short_answers: short
            .map(|(row, answer)| (row as u32, answer.words as u32, answer.hash.to_le_bytes()))
            .collect(),
    };
    let body = postcard::to_allocvec(&body).map_err(|e| Error::value("path", "a pack", e))?;
    let mut out = Vec::with_capacity(HEAD + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(&xxh3_128(&body).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Reads what [`write`] made.
///
/// # Errors
/// [`Error::Value`] if the bytes are no pack, one of a newer version, cut short or damaged.
pub fn read(bytes: &[u8]) -> Result<(Index, Label)> {
    let refuse = |got: &str| Error::value("path", "a whole benchmark pack", got);
    let rest = bytes.strip_prefix(&MAGIC).ok_or_else(|| refuse("a file of another kind"))?;
    let (version, rest) = take(rest).ok_or_else(|| refuse("one cut short"))?;
    let version = u32::from_le_bytes(version);
    if version > VERSION {
        let got = format!("one of version {version}, which a newer Gyrostat can read");
        return Err(Error::value("path", format!("a pack of version 1 to {VERSION}"), got));
    }
    let (length, rest) = take(rest).ok_or_else(|| refuse("one cut short"))?;
    let (sum, body) = take(rest).ok_or_else(|| refuse("one cut short"))?;
    if (body.len() as u64) < u64::from_le_bytes(length) {
        return Err(refuse("one cut short"));
    }
    if body.len() as u64 != u64::from_le_bytes(length) || xxh3_128(body) != u128::from_le_bytes(sum)
    {
        return Err(refuse("a damaged one"));
    }
    let body: Body = postcard::from_bytes(body).map_err(|_| refuse("a damaged one"))?;
    unpack(body).ok_or_else(|| refuse("one whose parts do not fit"))
}

fn take<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    bytes.split_first_chunk::<N>().map(|(first, rest)| (*first, rest))
}

/// The index of a body, or `None` if it contradicts itself.
fn unpack(body: Body) -> Option<(Index, Label)> {
    let rows = body.rows as usize;
    let mut passages = Vec::with_capacity(body.passages.len());
    for packed in body.passages {
        let n = packed.words.len();
        let seeds = match n {
            ..FEWEST => 0,
            FEWEST..grams::WORDS => 3,
            _ => n - grams::WORDS + 1,
        };
        let fits = packed.weights.len() == n && packed.seeds.len() == seeds && n > 0;
        let rows_fit = packed.rows.iter().all(|&row| (row as usize) < rows);
        if !fits || !rows_fit || packed.rows.is_empty() {
            return None;
        }
        let sample = |(bytes, hash): (u32, Hash)| {
            let hash = u64::from_le_bytes(hash);
            (bytes > 0).then_some(Sample { bytes: bytes as usize, hash, letters: None })
        };
        passages.push(Passage {
            part: if packed.is_answer { Part::Answer } else { Part::Question },
            rows: packed.rows,
            marks: packed.words.into_iter().map(u32::from).collect(),
            weights: packed.weights,
            seeds: packed.seeds.into_iter().map(u64::from_le_bytes).collect(),
            samples: packed.samples.into_iter().map(sample).collect::<Option<_>>()?,
            places: Vec::new(),
        });
    }
    let mut short_answers = vec![None; rows];
    for (row, words, hash) in body.short_answers {
        let words = words as usize;
        let hash = u64::from_le_bytes(hash);
        *short_answers.get_mut(row as usize)? = Some(ShortAnswer { words, hash, marks: None });
    }
    if !body.ids.is_empty() && body.ids.len() != rows {
        return None;
    }
    let label = Label { name: body.name, ids: body.ids };
    Some((Index::of(rows, passages, short_answers, Marker::Bits), label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack() -> Vec<u8> {
        let questions = vec![
            Some("Which of these nine planets is the third one from the sun?"),
            None,
            Some("Who wrote Faust?"),
        ];
        let answers = vec![Some("The Earth"), Some("x"), None];
        let index = Index::new(&questions, Some(&answers)).unwrap();
        let ids = ["a", "b", "c"].map(String::from).to_vec();
        write(&index, Label { name: "small".into(), ids }).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = pack();
        let (index, label) = read(&bytes).unwrap();
        assert_eq!((index.rows(), label.name.as_str(), label.ids.len()), (3, "small", 3));
        assert_eq!(write(&index, label).unwrap(), bytes);
    }

    #[test]
    fn no_word_of_the_text_is_in_there() {
        let bytes = pack();
        for word in ["planets", "third", "Faust", "faust", "Earth", "earth"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
        }
    }

    #[test]
    fn newer_foreign_and_cut_files_are_told_apart() {
        let error = |bytes: &[u8]| read(bytes).err().unwrap().to_string();
        let bytes = pack();
        let mut newer = bytes.clone();
        newer[8] = 9;
        assert!(error(&newer).contains("version 9"), "{}", error(&newer));
        assert!(error(b"PK\x03\x04").contains("another kind"));
        for n in 8..bytes.len() {
            assert!(error(&bytes[..n]).contains("cut short"), "{n}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(error(&longer).contains("damaged"));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let mut bytes = pack();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            // Only a version below ours would be read as if nothing had happened.
            prop_assert!(read(&bytes).is_err() || (8..12).contains(&at));
        }

        #[test]
        fn arbitrary_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&VERSION.to_le_bytes());
            bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&xxh3_128(&body).to_le_bytes());
            bytes.extend_from_slice(&body);
            let _ = read(&bytes);
        }
    }
}
