//! Slow rises, in the means of blocks of points.

use serde::{Deserialize, Serialize};

use super::baseline::{Baseline, BaselineState};
use super::tail::Prior;
use crate::error::{Error, Result};

/// Points of a small block, and small blocks of a large one.
const SMALL: usize = 8;
const LARGE: usize = 4;
/// Values further than this many scales from the level count as if they stood there.
const CUT: f64 = 3.0;
/// Blocks that must be known before one is judged.
const READY: f64 = 8.0;
/// Points after an event before slow rises are told again.
const PAUSE: usize = 100;
/// Shares of the budget that go to small and to large blocks.
const SHARES: [f64; 2] = [0.125, 0.2];
/// The means of blocks are nearly normal: their tail is short.
const PRIOR: Prior = Prior { start: 1.0, rate: 0.006, mean_excess: 0.5 };

/// Two baselines over means of 8 and of 32 points.
///
/// The level of single points follows a rise of less than its noise before any point stands out.
/// The level of blocks follows later, and their noise is smaller by the root of their length.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drift {
    scales: [Baseline; 2],
    points: Vec<f64>,
    blocks: Vec<f64>,
    /// Points since the last event, up to [`PAUSE`].
    calm: usize,
}

/// Everything that a [`Drift`] remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftState {
    /// The baselines of small and of large blocks.
    pub scales: [BaselineState; 2],
    /// The points of the block that is not full.
    pub points: Vec<f64>,
    /// The small blocks of the large block that is not full.
    pub blocks: Vec<f64>,
    /// Points since the last event.
    pub calm: usize,
}

/// A block that stands too high.
pub(super) struct Risen {
    pub(super) level: f64,
    /// The rise that is too much.
    pub(super) limit: f64,
    /// Rise over limit.
    pub(super) score: f64,
}

impl Default for Drift {
    fn default() -> Self {
        Self {
            scales: [Baseline::new(PRIOR), Baseline::new(PRIOR)],
            points: Vec::with_capacity(SMALL),
            blocks: Vec::with_capacity(LARGE),
            calm: PAUSE,
        }
    }
}

impl Drift {
    /// Drops the block under way: something else is told of its points.
    pub(super) fn interrupt(&mut self, event: bool) {
        self.points.clear();
        self.blocks.clear();
        if event {
            self.calm = 0;
        }
    }

    /// Forgets the levels, and keeps how far block means reach.
    pub(super) fn start_over(&mut self) {
        self.interrupt(false);
        self.scales.iter_mut().for_each(|scale| scale.start_over(0));
    }

    /// One point passed by that is not to be learnt from.
    pub(super) fn pass(&mut self) {
        self.calm = (self.calm + 1).min(PAUSE);
    }

    /// Takes in a healthy value; answers if it ends a block that stands too high. `p` is the budget
    /// by the point, `floor` the least scale of the noise of a point, `least` the least rise.
    #[inline]
    pub(super) fn push(
        &mut self,
        value: f64,
        (level, scale): (f64, f64),
        p: f64,
        floor: f64,
        least: f64,
    ) -> Option<Risen> {
        self.pass();
        self.points.push(value.clamp(level - CUT * scale, level + CUT * scale));
        if self.points.len() < SMALL {
            return None;
        }
        let calm = self.calm >= PAUSE;
        let [fine, coarse] = &mut self.scales;
        let small = mean(&mut self.points);
        let by_block = p * SMALL as f64;
        let mut risen = judge(fine, (small, value), by_block * SHARES[0], floor, least, calm);
        self.blocks.push(small);
        if self.blocks.len() == LARGE {
            let large = mean(&mut self.blocks);
            let p = by_block * LARGE as f64 * SHARES[1];
            risen = judge(coarse, (large, value), p, floor, least, calm).or(risen);
        }
        if risen.is_some() {
            self.start_over();
            self.calm = 0;
        }
        risen
    }

    pub(super) fn state(&self) -> DriftState {
        DriftState {
            scales: [self.scales[0].state(), self.scales[1].state()],
            points: self.points.clone(),
            blocks: self.blocks.clone(),
            calm: self.calm,
        }
    }

    pub(super) fn from_state(state: &DriftState) -> Result<Self> {
        let fits = state.points.len() < SMALL && state.blocks.len() < LARGE && state.calm <= PAUSE;
        if !fits || !state.points.iter().chain(&state.blocks).all(|v| v.is_finite()) {
            return Err(Error::State("not a state of block means".into()));
        }
        let [small, large] = &state.scales;
        Ok(Self {
            scales: [Baseline::from_state(small, PRIOR)?, Baseline::from_state(large, PRIOR)?],
            points: state.points.clone(),
            blocks: state.blocks.clone(),
            calm: state.calm,
        })
    }
}

/// Tells a block mean that stands too high, if its newest point still does; learns from any other.
fn judge(
    baseline: &mut Baseline,
    (mean, newest): (f64, f64),
    p: f64,
    floor: f64,
    least: f64,
    calm: bool,
) -> Option<Risen> {
    let Some(level) = baseline.level() else {
        baseline.learn(mean, None);
        return None;
    };
    let rise = mean - level;
    if baseline.learnt() >= READY {
        // Half the noise of a point is what the mean of four would have at best.
        let scale = baseline.scale(floor / 4.0);
        let score = Baseline::score(rise, scale);
        let limit = baseline.scores.tail.quantile(p);
        if calm && score > limit && rise > least && newest - level > rise / 2.0 {
            return Some(Risen { level, limit: limit * scale, score: score / limit });
        }
        baseline.scores.remember(score, limit);
    }
    baseline.learn(mean, Some(rise).filter(|r| r.is_finite()));
    None
}

/// The mean, of shares that cannot overflow; empties the list.
fn mean(values: &mut Vec<f64>) -> f64 {
    let n = values.len() as f64;
    values.drain(..).map(|v| v / n).sum()
}
