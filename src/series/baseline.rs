//! What a healthy series is expected to do next, learnt from healthy values alone.

use serde::{Deserialize, Serialize};

use super::tail::{Prior, Scores, ScoresState};
use super::window::{Quantile, Recent, bin_of};
use crate::error::{Error, Result};

/// Values whose median is the slow level.
pub(super) const SLOW: usize = 15;
/// Values whose median is the fast level, which keeps up with a steep descent.
const FAST: usize = 7;
/// Residuals that the usual scale of the noise is learnt from, and the present one.
pub(super) const LONG: u8 = 200;
const SHORT: u8 = 25;
/// The scale is the residual that this share of the points exceeds ...
const UPPER: f64 = 0.1;
/// ... or this many median differences between neighbours, where they are more: noise of two
/// levels, as under mixup, shows there first.
const DIFFERENCES: f64 = 1.8;
/// The usual scale counts up to this many times the present one: noise that has calmed down
/// for good is believed.
const CALMED: f64 = 2.0;
/// The scale from `n` residuals is widened by `1 + WIDENED / n`.
const WIDENED: f64 = 10.0;
/// Larger scores are cut off here, which keeps them finite.
const MOST: f64 = 1e6;

/// The level of a series, the scale of its noise, and the tail of its scores.
///
/// The level is the lower of two running medians, so that a descent is followed at once and a rise
/// is not. The score of a value is its rise above the level in units of the scale.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Baseline {
    slow: Recent<SLOW>,
    fast: Recent<FAST>,
    residuals: [Quantile; 2],
    differences: [Quantile; 2],
    /// The last healthy value, where the next one is its neighbour.
    last: Option<f64>,
    /// Residuals seen since the noise was last forgotten.
    learnt: f64,
    /// The last scores and their tail.
    pub(super) scores: Scores,
}

/// Everything that a baseline remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineState {
    /// The last healthy values, oldest first.
    pub values: Vec<f64>,
    /// The logarithmic bins of their last residuals, oldest first.
    pub residuals: Vec<u16>,
    /// The bins of the last differences between neighbours, oldest first.
    pub differences: Vec<u16>,
    /// The last healthy value, where the next one is its neighbour.
    pub last: Option<f64>,
    /// Residuals seen since the noise was last forgotten.
    pub learnt: f64,
    /// The last scores and their tail.
    pub scores: ScoresState,
}

impl Baseline {
    pub(super) fn new(prior: Prior) -> Self {
        let windows = |upper| [Quantile::new(SHORT, upper), Quantile::new(LONG, upper)];
        Self {
            slow: Recent::default(),
            fast: Recent::default(),
            residuals: windows(UPPER),
            differences: windows(0.5),
            last: None,
            learnt: 0.0,
            scores: Scores::new(prior),
        }
    }

    /// What the next healthy value should be about, or `None` before the first value.
    #[inline]
    pub(super) fn level(&self) -> Option<f64> {
        (self.slow.len() > 0).then(|| self.slow.median().min(self.fast.median()))
    }

    /// The higher of the two medians.
    #[inline]
    pub(super) fn higher_level(&self) -> Option<f64> {
        (self.slow.len() > 0).then(|| self.slow.median().max(self.fast.median()))
    }

    /// Lowest and highest of the values that the slow level is taken from.
    #[inline]
    pub(super) fn range(&self) -> (f64, f64) {
        self.slow.range()
    }

    pub(super) fn values(&self) -> impl DoubleEndedIterator<Item = f64> + '_ {
        self.slow.values()
    }

    /// Residuals that the scale was learnt from.
    #[inline]
    pub(super) fn learnt(&self) -> f64 {
        self.learnt
    }

    /// The scale of the noise, which is at least `floor`.
    #[inline]
    pub(super) fn scale(&self, floor: f64) -> f64 {
        let of = |i: usize| self.residuals[i].get().max(DIFFERENCES * self.differences[i].get());
        let now = of(0).max(floor);
        let usual = of(1).min(CALMED * now);
        now.max(usual) * (1.0 + WIDENED / self.learnt.max(1.0))
    }

    /// `rise` in units of `scale`.
    #[inline]
    pub(super) fn score(rise: f64, scale: f64) -> f64 {
        (rise / scale).clamp(-MOST, MOST)
    }

    /// Takes in one healthy value, and its residual where it says something about the noise.
    #[inline]
    pub(super) fn learn(&mut self, value: f64, residual: Option<f64>) {
        self.slow.push(value);
        self.fast.push(value);
        if let Some(residual) = residual {
            self.learnt += 1.0;
            let bin = bin_of(residual);
            self.residuals.iter_mut().for_each(|window| window.push(bin));
            if let Some(last) = self.last {
                let bin = bin_of((value - last).abs());
                self.differences.iter_mut().for_each(|window| window.push(bin));
            }
        }
        self.last = Some(value);
    }

    /// Forgets the noise and all but the newest `kept` values. How far the noise reaches in units
    /// of its scale stays known.
    pub(super) fn start_over(&mut self, kept: usize) {
        let mut newest: Vec<f64> = self.values().rev().take(kept).collect();
        newest.reverse();
        self.residuals.iter_mut().chain(&mut self.differences).for_each(Quantile::clear);
        self.learnt = 0.0;
        self.move_to(&newest);
    }

    /// Starts over at the level of `values`, keeping what is known of the noise.
    pub(super) fn move_to(&mut self, values: &[f64]) {
        self.slow.clear();
        self.fast.clear();
        for &value in values {
            self.slow.push(value);
            self.fast.push(value);
        }
        self.last = None;
        self.scores.break_off();
    }

    pub(super) fn state(&self) -> BaselineState {
        BaselineState {
            values: self.values().collect(),
            residuals: self.residuals[1].bins().collect(),
            differences: self.differences[1].bins().collect(),
            last: self.last,
            learnt: self.learnt,
            scores: self.scores.state(),
        }
    }

    /// The inverse of [`Self::state`].
    pub(super) fn from_state(state: &BaselineState, prior: Prior) -> Result<Self> {
        let mut restored = Self {
            last: state.last,
            learnt: state.learnt,
            scores: Scores::from_state(&state.scores, prior)?,
            ..Self::new(prior)
        };
        let most = usize::from(LONG);
        let lengths = state.values.len() <= SLOW
            && state.residuals.len() <= most
            && state.differences.len() <= most;
        let finite = state.values.iter().chain(&state.last);
        let counted = state.learnt >= state.residuals.len() as f64 && state.learnt.is_finite();
        if !lengths || !finite.copied().all(f64::is_finite) || !counted {
            return Err(Error::State("not a state of a baseline".into()));
        }
        for &value in &state.values {
            restored.slow.push(value);
            restored.fast.push(value);
        }
        for (windows, bins) in [
            (&mut restored.residuals, &state.residuals),
            (&mut restored.differences, &state.differences),
        ] {
            for window in windows {
                for &bin in bins {
                    window.push(bin);
                }
            }
        }
        Ok(restored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: Prior = Prior { start: 2.0, rate: 0.005, mean_excess: 1.0 };

    #[test]
    fn the_level_follows_a_descent_and_not_a_rise() {
        let (mut falling, mut rising) = (Baseline::new(PRIOR), Baseline::new(PRIOR));
        for i in 0..40 {
            falling.learn(-f64::from(i), None);
            rising.learn(f64::from(i), None);
        }
        assert_eq!(falling.level(), Some(-36.0)); // median of the last 7
        assert_eq!(rising.level(), Some(32.0)); // median of the last 15
    }

    #[test]
    fn noise_of_two_levels_is_as_wide_as_their_distance() {
        let mut baseline = Baseline::new(PRIOR);
        for i in 0..300_u32 {
            let value = f64::from(i.wrapping_mul(2_654_435_761) >> 31);
            let rise = value - baseline.level().unwrap_or(0.0);
            baseline.learn(value, Some(rise));
        }
        assert!(baseline.scale(0.002) > 0.95);
    }

    #[test]
    fn starting_over_keeps_the_newest_values_and_the_tail() {
        let mut baseline = Baseline::new(PRIOR);
        for i in 0..30 {
            baseline.learn(f64::from(i), Some(0.1));
            baseline.scores.remember(0.1, 9.0);
        }
        baseline.start_over(2);
        assert_eq!(baseline.values().collect::<Vec<_>>(), [28.0, 29.0]);
        assert_eq!((baseline.learnt(), baseline.scores.tail.points), (0.0, 30.0));
    }
}
