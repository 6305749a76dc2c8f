//! Where a passage and a text go on agreeing beyond a run of equal words.
//!
//! A run is extended to both sides by dynamic programming, as sequence search does it (Gotoh, 1982;
//! Altschul et al., 1990): an equal word earns its weight, a word that was replaced, left out or put
//! in costs [`EDIT`], and the side ends where the sum is largest.

use std::ops::Range;

/// What one edit costs, in the unit of weights.
pub(super) const EDIT: i32 = 24;

/// An extension gives up once it is this far below its best.
const DROP: i32 = 24 * EDIT;

/// Widest way off the diagonal.
const MOST_BAND: usize = 64;

/// A run of equal words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Run {
    /// Its first word in the passage.
    pub(super) passage: usize,
    /// Its first word in the text.
    pub(super) text: usize,
    /// Number of words.
    pub(super) words: usize,
}

/// Part of a passage beside part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alignment {
    /// Words of the passage from the first equal one to behind the last.
    pub(super) passage: Range<usize>,
    /// The same of the text.
    pub(super) text: Range<usize>,
    /// Number of equal words.
    pub(super) words: usize,
    /// Their weights.
    pub(super) weight: i32,
    /// Number of words replaced, left out or put in between them.
    pub(super) edits: usize,
}

/// The best end of an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cell {
    score: i32,
    words: u32,
    edits: u32,
}

impl Cell {
    const OUTSIDE: Self = Self { score: i32::MIN / 2, words: 0, edits: 0 };

    fn edited(self) -> Self {
        Self { score: self.score - EDIT, edits: self.edits + 1, ..self }
    }

    fn better(self, other: Self) -> Self {
        if other.score > self.score { other } else { self }
    }
}

/// Rows of the matrix that one thread uses again and again.
#[derive(Default)]
pub(super) struct Rows(Vec<Cell>, Vec<Cell>);

/// Extends `run` to both sides. `weights` are those of the words of `passage`.
pub(super) fn extend(
    passage: &[u32],
    weights: &[u8],
    text: &[u32],
    run: Run,
    rows: &mut Rows,
) -> Alignment {
    let (end, text_end) = (run.passage + run.words, run.text + run.words);
    let right = side(
        passage.len() - end,
        text.len() - text_end,
        |i, j| passage[end + i] == text[text_end + j],
        |i| weights[end + i],
        rows,
    );
    let left = side(
        run.passage,
        run.text,
        |i, j| passage[run.passage - 1 - i] == text[run.text - 1 - j],
        |i| weights[run.passage - 1 - i],
        rows,
    );
    let inside: i32 = weights[run.passage..end].iter().map(|&w| i32::from(w)).sum();
    let (edits, score) = (left.2.edits + right.2.edits, left.2.score + right.2.score);
    Alignment {
        passage: run.passage - left.0..end + right.0,
        text: run.text - left.1..text_end + right.1,
        words: run.words + (left.2.words + right.2.words) as usize,
        weight: inside + score + edits as i32 * EDIT,
        edits: edits as usize,
    }
}

/// The best extension over at most `n` words of the passage and `m` of the text: how many of both
/// it takes, and how good it is.
fn side(
    n: usize,
    m: usize,
    equal: impl Fn(usize, usize) -> bool,
    weight: impl Fn(usize) -> u8,
    Rows(above, row): &mut Rows,
) -> (usize, usize, Cell) {
    let band = (8 + n / 8).min(MOST_BAND);
    let mut best = (0, 0, Cell::default());
    // Column `c` of the row of `i` words of the passage stands for `i + c - band` words of the text.
    let width = 2 * band + 1;
    above.clear();
    above.resize(width, Cell::OUTSIDE);
    for j in 0..=band.min(m) {
        let edits = j as u32;
        above[band + j] = Cell { score: -EDIT * j as i32, words: 0, edits };
    }
    for i in 1..=n {
        row.clear();
        row.resize(width, Cell::OUTSIDE);
        let mut top = Cell::OUTSIDE;
        for c in 0..width {
            let Some(j) = (i + c).checked_sub(band).filter(|&j| j <= m) else { continue };
            let mut cell = Cell::OUTSIDE;
            if j > 0 {
                let before = above[c];
                cell = if equal(i - 1, j - 1) {
                    let score = before.score + i32::from(weight(i - 1));
                    Cell { score, words: before.words + 1, ..before }
                } else {
                    before.edited()
                };
            }
            if c + 1 < width {
                cell = cell.better(above[c + 1].edited());
            }
            if c > 0 {
                cell = cell.better(row[c - 1].edited());
            }
            row[c] = cell;
            top = top.better(cell);
            if cell.score > best.2.score {
                best = (i, j, cell);
            }
        }
        if top.score < best.2.score - DROP {
            break;
        }
        std::mem::swap(above, row);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn align(passage: &[u32], text: &[u32], run: Run) -> Alignment {
        extend(passage, &vec![40; passage.len()], text, run, &mut Rows::default())
    }

    #[test]
    fn an_edit_on_each_side_is_crossed() {
        // One word replaced before the run, one left out and one put in behind it.
        let passage = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let text = [90, 1, 2, 91, 4, 5, 6, 7, 9, 10, 92, 11, 12, 93];
        let found = align(&passage, &text, Run { passage: 3, text: 4, words: 4 });
        let expected = Alignment { passage: 0..12, text: 1..13, words: 10, weight: 400, edits: 3 };
        assert_eq!(found, expected);
    }

    #[test]
    fn light_words_beyond_edits_are_left() {
        let passage = [1, 2, 3, 4, 5];
        let text = [1, 2, 3, 9, 5];
        let weights = [40, 40, 40, 40, EDIT as u8];
        let run = Run { passage: 0, text: 0, words: 3 };
        let found = extend(&passage, &weights, &text, run, &mut Rows::default());
        assert_eq!((found.passage, found.words, found.edits), (0..3, 3, 0));
    }

    /// Best sum over all ways to go on from the start, without a band.
    fn slow(passage: &[u32], weights: &[u8], text: &[u32]) -> i32 {
        let mut table = vec![vec![0; text.len() + 1]; passage.len() + 1];
        let mut best = 0;
        for i in 0..=passage.len() {
            for j in 0..=text.len() {
                let mut ways = vec![];
                if i > 0 && j > 0 {
                    let equal = passage[i - 1] == text[j - 1];
                    let earned = if equal { i32::from(weights[i - 1]) } else { -EDIT };
                    ways.push(table[i - 1][j - 1] + earned);
                }
                if i > 0 {
                    ways.push(table[i - 1][j] - EDIT);
                }
                if j > 0 {
                    ways.push(table[i][j - 1] - EDIT);
                }
                table[i][j] = ways.into_iter().max().unwrap_or(0);
                best = best.max(table[i][j]);
            }
        }
        best
    }

    proptest! {
        // Within 8 words the band and the early end leave nothing out.
        #[test]
        fn it_is_the_best_of_all_ways(
            words in prop::collection::vec((0_u32..4, 0_u8..100), 0..8),
            text in prop::collection::vec(0_u32..4, 0..8),
        ) {
            let (passage, weights): (Vec<u32>, Vec<u8>) = words.into_iter().unzip();
            let start = Run { passage: 0, text: 0, words: 0 };
            let found = extend(&passage, &weights, &text, start, &mut Rows::default());
            let score = found.weight - EDIT * found.edits as i32;
            prop_assert_eq!(score, slow(&passage, &weights, &text));
            prop_assert!(found.words <= found.passage.len().min(found.text.len()));

            // The same the other way round, from the end.
            let flip = |v: &[u32]| v.iter().rev().copied().collect::<Vec<_>>();
            let flipped: Vec<u8> = weights.iter().rev().copied().collect();
            let end = Run { passage: passage.len(), text: text.len(), words: 0 };
            let back = extend(&flip(&passage), &flipped, &flip(&text), end, &mut Rows::default());
            prop_assert_eq!(back.weight - EDIT * back.edits as i32, score);
        }
    }
}
