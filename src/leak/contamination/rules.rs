//! What makes a match contamination: our rule, and those that papers use.

use crate::leak::contamination::align::EDIT;
use crate::leak::contamination::passages::UNIT;

/// What was measured of one passage in one text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measures {
    /// Words of the passage.
    pub passage_words: usize,
    /// Their weights.
    pub(super) passage_weight: i32,
    /// Equal words, in order, at the place where the text agrees best.
    pub words: usize,
    /// Their weights.
    pub(super) weight: i32,
    /// Words replaced, left out or put in between them.
    pub edits: usize,
    /// Longest run of equal words.
    pub longest_run: usize,
    /// Share of the runs of 8 words of the passage that are anywhere in the text.
    pub seeds: f64,
    /// Share of the words of the passage that are in one of those.
    pub seeded_words: f64,
    /// Whether a sample of 50 letters is in the text.
    pub sample: bool,
}

impl Measures {
    /// The share of the passage that agrees, words counted by their weights.
    pub fn containment(&self) -> f64 {
        f64::from(self.weight) / f64::from(self.passage_weight.max(1))
    }

    /// The information of the words that agree less what the edits cost, in nats.
    pub fn evidence(&self) -> f64 {
        (f64::from(self.weight) - f64::from(EDIT) * self.edits as f64) / UNIT
    }
}

/// The rules by name, in the order of their bits.
pub const RULES: [&str; 6] = ["gyrostat", "gpt3", "palm", "llama3", "gpt4", "longest-run"];

/// The rules that hold of one match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict(pub u8);

impl Verdict {
    /// Whether any holds.
    pub fn any(self) -> bool {
        self.0 != 0
    }

    /// Whether the rule of bit `rule` holds.
    pub fn holds(self, rule: usize) -> bool {
        self.0 >> rule & 1 != 0
    }

    /// The rules that hold of either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without the first rule.
    pub(super) fn without_ours(self) -> Self {
        Self(self.0 & !1)
    }

    /// Whether the first one holds, which is ours.
    pub fn ours(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Least and most information of a passage that counts as the whole of it, in nats: copies of
/// less than the least part of the first are chance, and this much of the second is a copy
/// however long the passage is.
const WHOLE: (f64, f64) = (50.0, 120.0);

/// The thresholds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Bit of the rule that decides.
    pub deciding: usize,
    /// Least score of our rule.
    pub threshold: f64,
}

impl Rules {
    /// Our score of a whole copy.
    pub(super) fn score_of_copy(weight: i32) -> f64 {
        let whole = f64::from(weight) / UNIT;
        whole / whole.clamp(WHOLE.0, WHOLE.1)
    }

    /// Our score: the information of the words that agree less what the edits cost, as a share
    /// of that of the whole passage. Above 1 for copies of long passages, below 0 never.
    pub fn score(m: &Measures) -> f64 {
        let whole = f64::from(m.passage_weight) / UNIT;
        m.evidence().max(0.0) / whole.clamp(WHOLE.0, WHOLE.1)
    }

    /// Applies all rules to one passage in one text.
    pub(super) fn judge(self, m: &Measures) -> Verdict {
        let enough = |run: usize| m.longest_run >= run.min(m.passage_words).max(8);
        let holds =
            [Self::score(m) >= self.threshold, enough(13), false, false, m.sample, enough(12)];
        let bits = holds.iter().enumerate().map(|(i, &holds)| u8::from(holds) << i);
        Verdict(bits.sum()).or(Self::shares(m.seeds, m.seeded_words))
    }

    /// Applies the rules that are about shares of a passage, be they from one text or from all.
    pub(super) fn shares(seeds: f64, seeded_words: f64) -> Verdict {
        Verdict(u8::from(seeds >= 0.7) << 2 | u8::from(seeded_words >= 0.5) << 3)
    }
}
