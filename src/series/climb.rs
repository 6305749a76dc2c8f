//! Rises of the loss and of the gradient norm that go together.

use serde::{Deserialize, Serialize};

use super::drift::Risen;
use super::tail::{Prior, Tail};
use crate::error::{Error, Result};

/// Least scale of the noise of the log loss and of the log gradient norm. They are wide: healthy
/// language models drift by less, in both at once.
const LOSS_FLOOR: f64 = 0.08;
const GRADIENT_FLOOR: f64 = 0.3;
/// Part of a score that is taken off before it is added up.
const LOSS_SLACK: f64 = 0.4;
const GRADIENT_SLACK: f64 = 0.5;
/// Scores count as at most this, so that no sum is made by a point or two.
const MOST_LOSS: f64 = 2.5;
const MOST_GRADIENT: f64 = 2.0;
const LEAST: f64 = -2.0;
/// Points after which a sum begins anew, at the level of that time.
const LONGEST: u32 = 100;
/// Least rise of a point that is told, in log loss.
const LEAST_RISE: f64 = 0.04;
/// Share of the budget.
const SHARE: f64 = 0.3;
/// Tail of the peaks of the lesser sum.
const PRIOR: Prior = Prior { start: 1.5, rate: 0.000_14, mean_excess: 0.8 };

/// A value with the level and the scale of the noise that it is seen against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) value: f64,
    pub(super) level: f64,
    pub(super) scale: f64,
}

/// A cumulated sum (Page, 1954) of scores against the level and scale that it began with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sum {
    /// What has gathered; never below zero.
    pub sum: f64,
    /// The level at its begin.
    pub level: f64,
    /// The scale at its begin.
    pub scale: f64,
    /// Points since then.
    pub length: u32,
}

impl Sum {
    fn add(&mut self, seen: Seen, floor: f64, slack: f64, most: f64) {
        if self.sum <= 0.0 || self.length >= LONGEST {
            *self = Self { sum: 0.0, level: seen.level, scale: seen.scale.max(floor), length: 0 };
        }
        let score = ((seen.value - self.level) / self.scale).clamp(LEAST, most);
        self.sum = (self.sum + score - slack).max(0.0);
        self.length += 1;
    }

    fn is_possible(&self) -> bool {
        let known = self.sum <= 0.0 || self.scale > 0.0;
        let finite = [self.sum, self.level, self.scale].iter().all(|v| v.is_finite());
        finite && known && self.sum >= 0.0 && self.length <= LONGEST
    }
}

/// Two sums, of the scores of the loss and of the gradient norm. The lesser of them counts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Climb {
    loss: Sum,
    grad_norm: Sum,
    /// The highest that the lesser sum was since it was zero.
    peak: f64,
    tail: Tail,
}

/// Everything that a [`Climb`] remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClimbState {
    /// The sum of the loss.
    pub loss: Sum,
    /// The sum of the gradient norm.
    pub grad_norm: Sum,
    /// The highest that the lesser sum was since it was zero.
    pub peak: f64,
    /// Points seen.
    pub points: f64,
    /// How many peaks exceeded the start of the tail.
    pub exceedances: f64,
    /// The sum of their excesses.
    pub excess: f64,
}

impl Default for Climb {
    fn default() -> Self {
        Self { loss: Sum::default(), grad_norm: Sum::default(), peak: 0.0, tail: Tail::new(PRIOR) }
    }
}

impl Climb {
    /// Forgets the sums, and keeps how far they reach.
    pub(super) fn start_over(&mut self) {
        *self = Self { tail: self.tail, ..Self::default() };
    }

    /// Takes in a point; answers if loss and gradient norm have climbed too far. `p` is the budget
    /// by the point. Nothing is told unless `settled`.
    #[inline]
    pub(super) fn push(
        &mut self,
        loss: Seen,
        grad_norm: Seen,
        p: f64,
        settled: bool,
    ) -> Option<Risen> {
        self.tail.points += 1.0;
        self.loss.add(loss, LOSS_FLOOR, LOSS_SLACK, MOST_LOSS);
        self.grad_norm.add(grad_norm, GRADIENT_FLOOR, GRADIENT_SLACK, MOST_GRADIENT);
        let lesser = self.loss.sum.min(self.grad_norm.sum);
        if lesser <= 0.0 {
            if self.peak > PRIOR.start {
                self.tail.exceed(self.peak);
            }
            self.peak = 0.0;
            return None;
        }
        if lesser <= PRIOR.start {
            self.peak = self.peak.max(lesser);
            return None;
        }
        let limit = self.tail.quantile(p * SHARE);
        self.peak = self.peak.max(lesser.min(limit));
        if !settled || lesser <= limit || loss.value - self.loss.level <= LEAST_RISE {
            return None;
        }
        let level = self.loss.level;
        self.start_over();
        Some(Risen { level, limit: LEAST_RISE, score: lesser / limit })
    }

    pub(super) fn state(&self) -> ClimbState {
        let Tail { points, exceedances, excess, .. } = self.tail;
        let Self { loss, grad_norm, peak, .. } = *self;
        ClimbState { loss, grad_norm, peak, points, exceedances, excess }
    }

    /// The inverse of [`Self::state`].
    pub(super) fn from_state(state: &ClimbState) -> Result<Self> {
        let ClimbState { loss, grad_norm, peak, points, exceedances, excess } = *state;
        let possible =
            peak.is_finite() && peak >= 0.0 && loss.is_possible() && grad_norm.is_possible();
        let tail = Tail::restored(PRIOR, [points, exceedances, excess]);
        match tail.filter(|_| possible) {
            Some(tail) => Ok(Self { loss, grad_norm, peak, tail }),
            None => Err(Error::State("not a state of climbing sums".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The points at which a climb is told, of rises of loss and gradient norm above a level.
    fn told(rises: impl Iterator<Item = (f64, f64)>) -> Vec<usize> {
        let mut climb = Climb::default();
        let seen = |value| Seen { value, level: 0.0, scale: 0.01 };
        let mut told = Vec::new();
        for (i, (loss, grad_norm)) in rises.enumerate() {
            told.extend(climb.push(seen(loss), seen(grad_norm), 2e-5, true).map(|_| i));
        }
        told
    }

    #[test]
    fn both_must_climb() {
        let rises = |loss: f64, norm: f64| told((0..20).map(move |_| (loss, norm)));
        assert_eq!(rises(0.15, 0.6).first(), Some(&2));
        assert!(rises(0.15, 0.1).is_empty() && rises(0.03, 0.6).is_empty());
    }

    #[test]
    fn one_point_is_no_climb_however_high() {
        assert!(
            told((0..200).map(|i| if i % 20 == 0 { (9.0, 9.0) } else { (0.0, 0.0) })).is_empty()
        );
    }

    #[test]
    fn a_run_that_often_climbs_a_little_raises_its_own_bar() {
        let peak = |i: u32| if i % 50 < 2 { (0.2, 0.75) } else { (-0.1, -0.5) };
        let mut climb = Climb::default();
        let before = climb.tail.quantile(6e-6);
        for (value, norm) in (0..5000).map(peak) {
            let seen = |value| Seen { value, level: 0.0, scale: 0.01 };
            climb.push(seen(value), seen(norm), 2e-5, true);
        }
        assert!(climb.tail.exceedances > 90.0 && climb.tail.quantile(6e-6) > before + 1.0);
    }
}
