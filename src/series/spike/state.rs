//! What a spike detector remembers, saved and restored.

use serde::{Deserialize, Serialize};

use super::{ADOPT, COOLDOWN, GRADIENT, JOINT, PAIR, SINGLE, Second, SpikeDetector};
use crate::error::{Error, Result};
use crate::series::baseline::{Baseline, BaselineState};
use crate::series::climb::{Climb, ClimbState};
use crate::series::drift::{Drift, DriftState};
use crate::series::event::Event;
use crate::series::pace::{GAPS, Pace};
use crate::series::start::Start;
use crate::series::tail::{Scores, ScoresState};

/// Everything that a [`SpikeDetector`] remembers, to be saved and restored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpikeState {
    /// The budget of false alarms per 10,000 points.
    pub false_alarms_per_10k: f64,
    /// Points seen.
    pub seen: u64,
    /// Whether the series is judged as it is, and not by its logarithm.
    pub linear: bool,
    /// The baseline of the loss.
    pub loss: BaselineState,
    /// The baseline of the log gradient norm.
    pub grad_norm: BaselineState,
    /// The baseline of the log update.
    pub update_rms: BaselineState,
    /// Scores of two points in a row.
    pub pair: ScoresState,
    /// Scores of loss and second signal together.
    pub joint: ScoresState,
    /// The means of blocks.
    pub drift: DriftState,
    /// The sums of loss and gradient norm.
    pub climb: ClimbState,
    /// The first points in ascending order, as long as they count.
    pub start: Option<Vec<f64>>,
    /// The values of the alarms in a row up to now.
    pub alarms: Vec<f64>,
    /// Points left of the cooldown.
    pub cooldown: usize,
    /// The event under way.
    pub event: Option<Event>,
    /// The step of the last point, where one was given.
    pub last_step: Option<f64>,
    /// The usual number of steps between two points.
    pub usual_gap: Option<f64>,
    /// The last numbers of steps between two points, oldest first.
    pub gaps: Vec<f64>,
}

impl SpikeDetector {
    /// Everything that the verdicts to come depend on.
    pub fn state(&self) -> SpikeState {
        SpikeState {
            false_alarms_per_10k: self.false_alarms_per_10k,
            seen: self.seen,
            linear: self.linear,
            loss: self.loss.state(),
            grad_norm: self.grad_norm.0.state(),
            update_rms: self.update_rms.0.state(),
            pair: self.pair.state(),
            joint: self.joint.state(),
            drift: self.drift.state(),
            climb: self.climb.state(),
            start: self.start.state(),
            alarms: self.alarms.clone(),
            cooldown: self.cooldown,
            event: self.event,
            last_step: self.pace.last_step,
            usual_gap: self.pace.usual,
            gaps: self.pace.gaps.iter().copied().collect(),
        }
    }

    /// A detector that goes on exactly where the one that gave `state` stood.
    ///
    /// # Errors
    /// [`Error::State`] if no detector can have given this state.
    pub fn from_state(state: &SpikeState) -> Result<Self> {
        let fits = state.alarms.len() < ADOPT
            && state.cooldown <= COOLDOWN
            && state.gaps.len() <= GAPS
            && (state.gaps.is_empty() || state.usual_gap.is_some())
            && state.event.is_none_or(|event| event.is_possible() && event.end < state.seen);
        let lists = [&state.alarms, &state.gaps];
        let mut numbers =
            lists.into_iter().flatten().chain(&state.last_step).chain(&state.usual_gap);
        let impossible = || Error::State("not a state of a spike detector".into());
        if !fits || !numbers.all(|v| v.is_finite()) {
            return Err(impossible());
        }
        let start = Start::from_state(state.start.as_ref()).ok_or_else(impossible)?;
        Ok(Self {
            seen: state.seen,
            linear: state.linear,
            loss: Baseline::from_state(&state.loss, SINGLE)?,
            grad_norm: Second(Baseline::from_state(&state.grad_norm, GRADIENT)?),
            update_rms: Second(Baseline::from_state(&state.update_rms, GRADIENT)?),
            pair: Scores::from_state(&state.pair, PAIR)?,
            joint: Scores::from_state(&state.joint, JOINT)?,
            drift: Drift::from_state(&state.drift)?,
            climb: Climb::from_state(&state.climb)?,
            start,
            alarms: state.alarms.clone(),
            cooldown: state.cooldown,
            pace: Pace {
                last_step: state.last_step,
                usual: state.usual_gap,
                gaps: state.gaps.iter().copied().collect(),
            },
            event: state.event,
            ..Self::new(state.false_alarms_per_10k)?
        })
    }
}
