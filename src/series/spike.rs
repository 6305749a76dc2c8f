//! The loss-spike detector.

mod state;

pub use state::SpikeState;

use super::baseline::{Baseline, SLOW};
use super::climb::{Climb, Seen};
use super::drift::{Drift, Risen};
use super::event::{Event, Kind, Sign};
use super::pace::Pace;
use super::start::{self, Start};
use super::tail::{Prior, QUIET, Scores};
use crate::error::{Error, Result};

/// Residuals that must be known before the run's own noise sets the threshold.
const READY: f64 = 12.0;
/// Before that, a rise must triple the highest loss so far, and twice the range of the logs so far.
const EARLY_RISE: f64 = 1.098_612_288_668_11; // ln 3
const EARLY_RANGES: f64 = 2.0;
/// Points before any: the first few may be as far apart as they like.
const EARLY_POINTS: u64 = 5;
/// Alarms in a row that make a spike a divergence.
const DIVERGED: usize = 10;
/// Alarms in a row after which their level is taken as the new one, before and after `READY`.
const EARLY_ADOPT: usize = 3;
const ADOPT: usize = 25;
/// Points after an alarm during which a loss that is still high teaches nothing about the noise.
const COOLDOWN: usize = 25;
/// Share of the threshold above which a loss still counts as high during the cooldown.
const STILL_HIGH: f64 = 0.25;
/// Least scale of the noise that is believed, in log loss, or as a share of the largest loss.
const FLOOR: f64 = 0.002;
/// Least rise of a point and of a block that is told, in log loss.
const LEAST: f64 = 0.05;
const LEAST_DRIFT: f64 = 0.04;
/// Points that must be known before loss and gradient norm are said to climb together, as they may
/// at the start of a warm-up.
const SETTLED: f64 = 100.0;
/// Points kept when the log changes its interval.
const KEPT: usize = 2;

/// Tail of the scores of single points.
const SINGLE: Prior = Prior { start: 2.0, rate: 0.005, mean_excess: 1.15 };
/// Of the lesser of two scores in a row.
const PAIR: Prior = Prior { start: 1.0, rate: 0.015, mean_excess: 0.6 };
/// Of the lesser of the score of the loss and [`CONFIRMING`] times that of the gradient.
const JOINT: Prior = Prior { start: 3.0, rate: 0.000_12, mean_excess: 1.1 };
const CONFIRMING: f64 = 3.0;
/// Scores that count for more than this are not learnt in full by the joint tail.
const JOINT_MOST: f64 = 8.0;
/// Shares of the budget: a single point with and without a second signal, two in a row, and a
/// point that the second signal confirms. A slow rise has its own. They add up to more than 1,
/// since what exceeds one threshold often exceeds another.
const SHARE_SINGLE: f64 = 0.65;
const SHARE_SINGLE_OF_TWO: f64 = 0.4;
const SHARE_PAIR: f64 = 0.2;
const SHARE_JOINT: f64 = 0.5;
/// Hard batches are told this many times as often as alarms, but to at most one point of 250.
const HARD_BATCHES: f64 = 200.0;
const MOST_HARD_BATCHES: f64 = 0.004;
/// A loss that stands this much too high, in log loss, is told from this score on.
const LARGE_RISE: f64 = 0.2;
const LARGE_RISE_SCORE: f64 = 2.5;

/// Tail of the scores of a gradient norm, which is heavy.
const GRADIENT: Prior = Prior { start: 2.0, rate: 0.005, mean_excess: 3.0 };
/// Least scale of the noise of a log gradient norm.
const GRADIENT_FLOOR: f64 = 0.01;
/// A gradient enters its baseline as if its score were at most this.
const GRADIENT_CUT: f64 = 2.0;
/// Spikes of the gradient alone are told this many times as often as alarms, to a limit, and only
/// where the norm has risen threefold.
const GRADIENT_SPIKES: f64 = 50.0;
const MOST_GRADIENT_SPIKES: f64 = 0.001;
const GRADIENT_RISE: f64 = EARLY_RISE;

/// One finding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// What it is.
    pub kind: Kind,
    /// The value (loss, or gradient norm) that a healthy run would have shown; NaN if unknown.
    pub expected: f64,
    /// The value above which there is a finding of this kind; NaN if there is none.
    pub threshold: f64,
    /// Rise over the rise that is a finding of this kind, in the scale that the detector works in.
    pub score: f64,
    /// Alarms in a row, this one included.
    pub duration: usize,
}

impl Verdict {
    fn new(sign: &Sign, threshold: f64, duration: usize) -> Self {
        let Sign { kind, expected, score, .. } = *sign;
        Self { kind, expected, threshold, score, duration }
    }
}

/// Finds spikes, divergence and non-finite values in a loss, online and one-sided.
///
/// The loss is judged by its logarithm until it goes below zero, from then on as it is. What is an
/// alarm is never learnt from, but a level that stays is taken as the new one after [`ADOPT`]
/// points. A loss of exactly zero has no logarithm and teaches nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct SpikeDetector {
    false_alarms_per_10k: f64,
    seen: u64,
    linear: bool,
    loss: Baseline,
    grad_norm: Second,
    update_rms: Second,
    pair: Scores,
    joint: Scores,
    drift: Drift,
    climb: Climb,
    start: Start,
    alarms: Vec<f64>,
    cooldown: usize,
    pace: Pace,
    event: Option<Event>,
    closed: Option<Event>,
}

/// A second signal, judged by its logarithm.
#[derive(Debug, Clone, PartialEq)]
struct Second(Baseline);

/// What a second signal shows at one point.
#[derive(Clone, Copy, Default)]
struct Shown {
    /// Log value and its rise above the level, where there is one.
    value: Option<(f64, f64)>,
    /// Rise in units of the scale, once that is known.
    score: Option<f64>,
    scale: f64,
}

impl Second {
    #[inline]
    fn look(&self, value: Option<f64>) -> Shown {
        let Some(value) = value.filter(|&v| v > 0.0) else { return Shown::default() };
        let ready = self.0.learnt() >= READY;
        if value.is_infinite() {
            let score = ready.then_some(Baseline::score(value, 1.0));
            return Shown { score, ..Shown::default() };
        }
        let log = value.ln();
        let Some(level) = self.0.level() else {
            return Shown { value: Some((log, 0.0)), ..Shown::default() };
        };
        let scale = if ready { self.0.scale(GRADIENT_FLOOR) } else { 1.0 };
        let rise = log - level;
        let score = ready.then(|| Baseline::score(rise, scale));
        Shown { value: Some((log, rise)), score, scale }
    }

    #[inline]
    fn learn(&mut self, shown: Shown) {
        let Some((log, rise)) = shown.value else { return };
        if self.0.level().is_none() {
            self.0.learn(log, None);
            return;
        }
        let cut = if shown.score.is_some() { rise.min(GRADIENT_CUT * shown.scale) } else { rise };
        self.0.learn(log - rise + cut, Some(cut));
    }
}

impl SpikeDetector {
    /// A detector that on a healthy run raises about this many false alarms per 10,000 points.
    ///
    /// # Errors
    /// [`Error::Value`] if the budget is not above 0 and at most 1,000.
    pub fn new(false_alarms_per_10k: f64) -> Result<Self> {
        if !(false_alarms_per_10k > 0.0 && false_alarms_per_10k <= 1000.0) {
            return Err(Error::value(
                "false_alarms_per_10k",
                "a number above 0 and at most 1000",
                false_alarms_per_10k,
            ));
        }
        Ok(Self {
            false_alarms_per_10k,
            seen: 0,
            linear: false,
            loss: Baseline::new(SINGLE),
            grad_norm: Second(Baseline::new(GRADIENT)),
            update_rms: Second(Baseline::new(GRADIENT)),
            pair: Scores::new(PAIR),
            joint: Scores::new(JOINT),
            drift: Drift::default(),
            climb: Climb::default(),
            start: Start::default(),
            alarms: Vec::new(),
            cooldown: 0,
            pace: Pace::default(),
            event: None,
            closed: None,
        })
    }

    /// Points seen.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The event under way.
    pub fn event(&self) -> Option<&Event> {
        self.event.as_ref()
    }

    /// The event that the last [`update`](Self::update) ended.
    pub fn closed(&self) -> Option<&Event> {
        self.closed.as_ref()
    }

    /// Judges the next loss.
    ///
    /// `grad_norm` and `update_rms` confirm a rise of the loss or let it stand alone; NaN and values
    /// below zero say nothing. A loss of exactly zero under a norm of NaN was NaN before a logger
    /// wrote it as zero, as the Trainer of Hugging Face does. `step` tells when the log changes
    /// from one interval to another: the noise is then learnt anew.
    #[inline]
    pub fn update(
        &mut self,
        loss: f64,
        grad_norm: Option<f64>,
        step: Option<f64>,
        update_rms: Option<f64>,
    ) -> Option<Verdict> {
        let position = self.seen;
        self.seen += 1;
        self.closed = None;
        if step.is_some_and(|step| self.pace.changes(step)) {
            self.start_over();
        }
        let hidden_nan = loss == 0.0 && grad_norm.is_some_and(f64::is_nan);
        if !loss.is_finite() || hidden_nan {
            return Some(self.not_finite(loss, position));
        }
        if loss < 0.0 && !self.linear {
            self.go_linear();
        }
        if loss == 0.0 && !self.linear {
            return None;
        }
        // Adding zero makes a negative zero a positive one.
        let value = if self.linear { loss + 0.0 } else { loss.ln() };
        self.start.learn(value);
        let Some(level) = self.loss.level() else {
            self.loss.learn(value, None);
            return None;
        };
        let grad_norm = self.grad_norm.look(grad_norm);
        let update_rms = self.update_rms.look(update_rms);
        let rise = value - level;
        if self.loss.learnt() < READY {
            self.grad_norm.learn(grad_norm);
            self.update_rms.learn(update_rms);
            return self.judge_early(loss, value, level, position);
        }
        self.judge(Point { loss, value, level, rise, position, grad_norm, update_rms })
    }

    fn judge_early(&mut self, loss: f64, value: f64, level: f64, position: u64) -> Option<Verdict> {
        let (low, high) = self.loss.range();
        let least = if self.linear { f64::INFINITY } else { EARLY_RISE };
        let limit = high - level + least.max(EARLY_RANGES * (high - low));
        let rise = value - level;
        if rise > limit && position >= EARLY_POINTS {
            let sign = Sign {
                kind: Kind::Spike,
                position,
                loss,
                expected: self.in_loss_units(level),
                score: rise / limit,
                confirmed: false,
            };
            return Some(self.alarm(sign, value, level + limit));
        }
        self.alarms.clear();
        self.loss.learn(value, Some(rise).filter(|r| r.is_finite()));
        self.pass(position, false)
    }

    #[inline]
    fn judge(&mut self, point: Point) -> Option<Verdict> {
        let Point { loss, value, level, rise, position, grad_norm, update_rms } = point;
        let p = self.false_alarms_per_10k / 10_000.0;
        let scale = self.loss.scale(self.floor());
        let score = Baseline::score(rise, scale);
        let second = match (grad_norm.score, update_rms.score) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        let share = if second.is_some() { SHARE_SINGLE_OF_TWO } else { SHARE_SINGLE };
        let mut scored = Scored {
            score,
            pair: score.min(self.loss.scores.newest()),
            joint: second.map(|second| score.min(CONFIRMING * second)),
            single_limit: f64::INFINITY,
            pair_limit: f64::INFINITY,
        };
        let mut found = None;
        // What is below the start of a tail exceeds no quantile of it, so none is computed.
        if score > SINGLE.start || scored.pair > PAIR.start {
            scored.single_limit = self.loss.scores.tail.quantile(p * share);
            scored.pair_limit = self.pair.tail.quantile(p * SHARE_PAIR).min(scored.single_limit);
            if rise > if self.linear { 0.0 } else { LEAST } {
                found = self.exceeds(rise, &scored, p, share);
            }
        }
        if let Some(joint) = scored.joint {
            self.joint.remember(joint, JOINT_MOST);
        }
        let mut sign = Sign {
            kind: Kind::Spike,
            position,
            loss,
            // An exponential is not taken where nobody asks for it.
            expected: if found.is_some() { self.in_loss_units(level) } else { f64::NAN },
            score: 0.0,
            confirmed: second.is_some_and(|second| second > QUIET),
        };
        if let Some((kind, score, limit)) = found {
            (sign.kind, sign.score) = (kind, score / limit);
            if kind.is_alarm() {
                self.remember(&scored);
                return Some(self.alarm(sign, value, level + limit * scale));
            }
        }
        let climbed = self.climb(value, scale, grad_norm, p);
        self.grad_norm.learn(grad_norm);
        self.update_rms.learn(update_rms);
        self.alarms.clear();
        let drifted = self.learn(point, &scored, scale, share);
        if let Some(risen) = self.risen_from_the_start(position).or(climbed).or(drifted) {
            sign.kind = Kind::Divergence;
            sign.expected = self.in_loss_units(risen.level);
            sign.score = risen.score;
            let threshold = self.in_loss_units(risen.level + risen.limit);
            self.sign(&sign);
            return Some(Verdict::new(&sign, threshold, 1));
        }
        if let Some((.., limit)) = found {
            let verdict = Verdict::new(&sign, self.in_loss_units(level + limit * scale), 1);
            sign.score = score / scored.single_limit;
            self.sign(&sign);
            return Some(verdict);
        }
        if let Some(verdict) = self.judge_gradient(grad_norm, p) {
            sign.kind = verdict.kind;
            sign.expected = self.in_loss_units(level);
            self.sign(&sign);
            return Some(verdict);
        }
        self.pass(position, score >= SINGLE.start)
    }

    /// What a point is, with the score that says so and its limit.
    fn exceeds(&self, rise: f64, scored: &Scored, p: f64, share: f64) -> Option<(Kind, f64, f64)> {
        let Scored { score, pair, joint, single_limit, pair_limit } = *scored;
        if score > single_limit {
            return Some((Kind::Spike, score, single_limit));
        }
        if pair > pair_limit {
            return Some((Kind::Spike, pair, pair_limit));
        }
        if let Some(joint) = joint.filter(|&joint| joint > JOINT.start) {
            let limit = self.joint.tail.quantile(p * SHARE_JOINT);
            if joint > limit {
                return Some((Kind::Spike, joint, limit));
            }
        }
        let often = (HARD_BATCHES * p).min(MOST_HARD_BATCHES);
        let mut limit = self.loss.scores.tail.quantile(often * share);
        if rise > LARGE_RISE && !self.linear {
            limit = limit.min(LARGE_RISE_SCORE);
        }
        (score > limit).then_some((Kind::HardBatch, score, limit))
    }

    /// Takes the scores of a point for what they say of the tails.
    #[inline]
    fn remember(&mut self, scored: &Scored) {
        self.loss.scores.remember(scored.score, scored.single_limit);
        // Of more than two high points in a row the last two are the exceedance.
        self.pair.tail.points += 1.0;
        let before = self.pair.newest();
        if before > PAIR.start && scored.score < QUIET {
            self.pair.tail.exceed(before);
        }
        self.pair.note(scored.pair.min(scored.pair_limit));
    }

    /// Learns from a point that is no alarm; tells if it ends a slow rise.
    #[inline]
    fn learn(&mut self, point: Point, scored: &Scored, scale: f64, share: f64) -> Option<Risen> {
        let Point { value, level, rise, .. } = point;
        let p = self.false_alarms_per_10k / 10_000.0;
        let floor = self.floor();
        if self.cooldown > 0 {
            let limit = self.loss.scores.tail.quantile(p * share);
            let high = STILL_HIGH * limit * scale;
            self.cooldown = if rise > high { self.cooldown - 1 } else { 0 };
            self.remember(&Scored { single_limit: limit, ..*scored });
            self.loss.learn(value.min(level + high), None);
            self.drift.interrupt(false);
            self.drift.pass();
            return None;
        }
        self.remember(scored);
        // The difference of two huge values overflows.
        self.loss.learn(value, Some(rise).filter(|r| r.is_finite()));
        let least = if self.linear { 0.0 } else { LEAST_DRIFT };
        self.drift.push(value, (level, scale), p, floor, least)
    }

    /// Whether loss and gradient norm climb together, where each step is logged.
    #[inline]
    fn climb(&mut self, value: f64, scale: f64, grad_norm: Shown, p: f64) -> Option<Risen> {
        let norm = grad_norm
            .score
            .and(grad_norm.value)
            .filter(|_| !self.linear && self.cooldown == 0 && self.pace.logs_each_step());
        let (Some((norm, _)), Some(level), Some(norm_level)) =
            (norm, self.loss.higher_level(), self.grad_norm.0.higher_level())
        else {
            self.climb.start_over();
            return None;
        };
        let loss = Seen { value, level, scale };
        let norm = Seen { value: norm, level: norm_level, scale: grad_norm.scale };
        self.climb.push(loss, norm, p, self.loss.learnt() >= SETTLED)
    }

    fn risen_from_the_start(&mut self, position: u64) -> Option<Risen> {
        let level = self.start.risen(&self.loss, position)?;
        let rise = self.loss.level()? - level;
        Some(Risen { level, limit: start::LEAST, score: rise / start::LEAST })
    }

    /// What the gradient norm says where the loss says nothing.
    #[inline]
    fn judge_gradient(&mut self, shown: Shown, p: f64) -> Option<Verdict> {
        let score = shown.score?;
        let scores = &mut self.grad_norm.0.scores;
        let (log, rise) = shown.value?;
        if rise < GRADIENT_RISE {
            scores.remember(score, score);
            return None;
        }
        let limit = scores.tail.quantile((GRADIENT_SPIKES * p).min(MOST_GRADIENT_SPIKES));
        scores.remember(score, limit);
        (score > limit).then(|| Verdict {
            kind: Kind::GradientSpike,
            expected: (log - rise).exp(),
            threshold: (log - rise + limit * shown.scale).exp(),
            score: score / limit,
            duration: 1,
        })
    }

    /// An alarm at a point whose loss is `value` in the scale that the detector works in.
    fn alarm(&mut self, mut sign: Sign, value: f64, threshold: f64) -> Verdict {
        self.alarms.push(value);
        self.cooldown = COOLDOWN;
        self.drift.interrupt(true);
        let duration = self.alarms.len();
        if duration >= DIVERGED {
            sign.kind = Kind::Divergence;
        }
        self.sign(&sign);
        let early = self.loss.learnt() < READY;
        if duration >= if early { EARLY_ADOPT } else { ADOPT } {
            self.loss.move_to(&self.alarms[duration.saturating_sub(SLOW)..]);
            self.pair.break_off();
            self.drift.start_over();
            self.climb.start_over();
            self.start.end();
            self.alarms.clear();
            self.cooldown = 0;
            self.end_event();
        }
        Verdict::new(&sign, self.in_loss_units(threshold), duration)
    }

    fn not_finite(&mut self, loss: f64, position: u64) -> Verdict {
        let expected = self.loss.level().map_or(f64::NAN, |level| self.in_loss_units(level));
        self.alarms.clear();
        let kind = Kind::NotFinite;
        let score = f64::INFINITY;
        let sign = Sign { kind, position, loss, expected, score, confirmed: false };
        self.sign(&sign);
        Verdict::new(&sign, f64::NAN, 1)
    }

    /// Adds a sign to the event under way, or begins one with it.
    fn sign(&mut self, sign: &Sign) {
        match &mut self.event {
            Some(event) if event.takes(sign) => event.add(sign),
            _ => {
                self.end_event();
                self.event = Some(Event::new(sign));
            }
        }
    }

    /// One point without a finding. A spike that turns out to have been one hard batch is told.
    #[inline]
    fn pass(&mut self, position: u64, high: bool) -> Option<Verdict> {
        let event = self.event.as_mut()?;
        if !event.is_over_after(position, high) {
            return None;
        }
        // Where not every step is logged, a single point is more than one batch.
        let was_hard_batch = self.pace.logs_each_step() && event.was_one_outlier();
        if was_hard_batch {
            event.kind = Kind::HardBatch;
        }
        self.end_event();
        let event = self.closed.filter(|_| was_hard_batch)?;
        Some(Verdict {
            kind: Kind::HardBatch,
            expected: event.expected.unwrap_or(f64::NAN),
            threshold: f64::NAN,
            score: event.score.unwrap_or(f64::NAN),
            duration: 0,
        })
    }

    fn end_event(&mut self) {
        if let Some(event) = self.event.take() {
            self.closed = Some(event);
        }
    }

    /// The log has changed its interval: a point now stands for more or fewer steps.
    fn start_over(&mut self) {
        self.loss.start_over(KEPT);
        self.grad_norm.0.start_over(KEPT);
        self.update_rms.0.start_over(KEPT);
        self.pair.break_off();
        self.joint.break_off();
        self.drift.start_over();
        self.climb.start_over();
        self.start.end();
        self.alarms.clear();
        self.cooldown = 0;
        self.end_event();
    }

    /// The logarithm is of no use from here on; the noise has to be learnt anew.
    fn go_linear(&mut self) {
        self.linear = true;
        let values: Vec<f64> = self.loss.values().map(f64::exp).collect();
        self.loss.start_over(0);
        self.loss.move_to(&values);
        self.pair.break_off();
        self.joint.break_off();
        self.drift.start_over();
        self.climb.start_over();
        self.start.end();
        self.alarms.clear();
        self.cooldown = 0;
        self.end_event();
    }

    /// Least scale of the noise that is believed.
    #[inline]
    fn floor(&self) -> f64 {
        if !self.linear {
            return FLOOR;
        }
        let (low, high) = self.loss.range();
        (FLOOR * low.abs().max(high.abs())).max(f64::MIN_POSITIVE)
    }

    fn in_loss_units(&self, value: f64) -> f64 {
        if self.linear { value } else { value.exp() }
    }
}

/// The scores of one point, and what they must exceed for an alarm.
#[derive(Clone, Copy)]
struct Scored {
    score: f64,
    /// The lesser of this score and the last.
    pair: f64,
    /// Score of loss and second signal together, where there is one.
    joint: Option<f64>,
    /// Infinite where no score comes near.
    single_limit: f64,
    pair_limit: f64,
}

/// One point, ready to be judged.
#[derive(Clone, Copy)]
struct Point {
    loss: f64,
    /// The loss in the scale that the detector works in.
    value: f64,
    level: f64,
    rise: f64,
    position: u64,
    grad_norm: Shown,
    update_rms: Shown,
}

#[cfg(test)]
mod tests;
