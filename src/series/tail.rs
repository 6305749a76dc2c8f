//! How far healthy noise reaches: peaks over a threshold.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The upper tail of a score that healthy points exceed now and then.
///
/// What exceeds `start` is taken as exponential (peaks over threshold; Pickands, 1975, with shape
/// zero): a point exceeds `start + m ln(q / p)` with probability `p`, where `q` is the rate of
/// exceedances and `m` their mean excess. Both begin as they are over many public runs, and the
/// run's own exceedances take over as they come, each prior counting as so many points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tail {
    prior: Prior,
    /// Points seen.
    pub(super) points: f64,
    /// How many of them exceeded the start, each neighbourhood counted once.
    pub(super) exceedances: f64,
    /// The sum of their excesses.
    pub(super) excess: f64,
}

/// What is believed of a tail before any point is seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Prior {
    pub(super) start: f64,
    pub(super) rate: f64,
    pub(super) mean_excess: f64,
}

/// Points that the prior rate counts as.
const RATE_WEIGHT: f64 = 2000.0;
/// Exceedances that the prior mean excess counts as.
const EXCESS_WEIGHT: f64 = 100.0;

impl Tail {
    pub(super) fn new(prior: Prior) -> Self {
        Self { prior, points: 0.0, exceedances: 0.0, excess: 0.0 }
    }

    /// A tail that has seen `points`, so many exceedances and this sum of their excesses, unless no
    /// tail can have.
    pub(super) fn restored(prior: Prior, counts: [f64; 3]) -> Option<Self> {
        let [points, exceedances, excess] = counts;
        let possible = counts.iter().all(|&v| v.is_finite() && v >= 0.0) && exceedances <= points;
        possible.then_some(Self { prior, points, exceedances, excess })
    }

    /// What a healthy point exceeds with probability `p`; never below the start.
    pub(super) fn quantile(&self, p: f64) -> f64 {
        let Prior { start, rate, mean_excess } = self.prior;
        let rate = (rate * RATE_WEIGHT + self.exceedances) / (RATE_WEIGHT + self.points);
        let mean_excess =
            (mean_excess * EXCESS_WEIGHT + self.excess) / (EXCESS_WEIGHT + self.exceedances);
        start + mean_excess * (rate / p).max(1.0).ln()
    }

    /// Takes in one exceedance.
    pub(super) fn exceed(&mut self, score: f64) {
        self.exceedances += 1.0;
        self.excess += (score - self.prior.start).max(0.0);
    }
}

/// A score below this is no sign of anything.
pub(super) const QUIET: f64 = 1.0;

/// The last scores of a series, and their tail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scores {
    /// The last two, newest first.
    last: [f64; 2],
    pub(super) tail: Tail,
}

/// Everything that [`Scores`] remember.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoresState {
    /// The last two scores, newest first.
    pub last: [f64; 2],
    /// Points seen.
    pub points: f64,
    /// How many of them exceeded the start of the tail.
    pub exceedances: f64,
    /// The sum of their excesses.
    pub excess: f64,
}

impl Scores {
    pub(super) fn new(prior: Prior) -> Self {
        Self { last: [0.0; 2], tail: Tail::new(prior) }
    }

    /// The newest score.
    pub(super) fn newest(&self) -> f64 {
        self.last[0]
    }

    /// Takes in the score of a point. An exceedance is learnt once the next score is quiet, so
    /// that of points that are high together none is taken for noise. Scores count as at most `most`.
    #[inline]
    pub(super) fn remember(&mut self, score: f64, most: f64) {
        let [last, before] = self.last;
        self.tail.points += 1.0;
        if last > self.tail.prior.start && score < QUIET && before < QUIET {
            self.tail.exceed(last);
        }
        self.last = [score.min(most), last];
    }

    /// Takes in a score whose exceedance is counted elsewhere.
    #[inline]
    pub(super) fn note(&mut self, score: f64) {
        self.last = [score, self.last[0]];
    }

    /// The next score is no neighbour of the last one.
    pub(super) fn break_off(&mut self) {
        self.last = [0.0; 2];
    }

    pub(super) fn state(&self) -> ScoresState {
        let Tail { points, exceedances, excess, .. } = self.tail;
        ScoresState { last: self.last, points, exceedances, excess }
    }

    /// The inverse of [`Self::state`].
    pub(super) fn from_state(state: &ScoresState, prior: Prior) -> Result<Self> {
        let ScoresState { last, points, exceedances, excess } = *state;
        let tail = Tail::restored(prior, [points, exceedances, excess]);
        match tail.filter(|_| last.iter().all(|v| v.is_finite())) {
            Some(tail) => Ok(Self { last, tail }),
            None => Err(Error::State("not a state of scores".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: Prior = Prior { start: 2.0, rate: 0.005, mean_excess: 1.0 };

    #[test]
    fn the_prior_gives_way_to_what_is_seen() {
        let mut tail = Tail::new(PRIOR);
        assert!((tail.quantile(0.005) - 2.0).abs() < 1e-12);
        let before = tail.quantile(1e-5);
        assert!((before - (2.0 + 500_f64.ln())).abs() < 1e-9);
        // Exponential exceedances of mean 3 at a rate of 1 %.
        for i in 0..1_000_000_u32 {
            tail.points += 1.0;
            if i % 100 == 0 {
                tail.exceed(2.0 - 3.0 * ((f64::from(i) + 50.0) / 1e6).ln());
            }
        }
        assert!((tail.quantile(1e-5) - (2.0 + 3.0 * 1000_f64.ln())).abs() < 0.5);
    }

    #[test]
    fn a_rarer_quantile_is_higher_and_none_is_below_the_start() {
        let tail = Tail::new(PRIOR);
        assert!(tail.quantile(1e-6) > tail.quantile(1e-4));
        assert_eq!(tail.quantile(0.9).to_bits(), 2_f64.to_bits());
    }

    #[test]
    fn an_exceedance_is_learnt_only_where_it_stands_alone() {
        let mut scores = Scores::new(PRIOR);
        for score in [0.0, 5.0, 0.0, 0.0, 5.0, 5.0, 0.0, 9.0, 0.5] {
            scores.remember(score, 6.0);
        }
        assert_eq!((scores.tail.exceedances, scores.tail.excess), (2.0, 3.0 + 4.0));
    }
}
