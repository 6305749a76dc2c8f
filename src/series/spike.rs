//! The loss-spike detector.

use super::baseline::{Baseline, SLOW, WINDOW};
use super::pace::{GAPS, Pace};
use crate::error::{Error, Result};

/// Residuals that must be known before the run's own tail sets the threshold.
const READY: usize = 19;
/// Before that, a rise must triple the highest loss so far, and twice the range of the logs so far.
const EARLY_RISE: f64 = 1.098_612_288_668_11; // ln 3
const EARLY_RANGES: f64 = 2.0;
/// Alarms in a row that make a spike a divergence.
const DIVERGED: usize = 10;
/// Alarms in a row after which their level is taken as the new one, before and after `READY`.
const EARLY_ADOPT: usize = 3;
const ADOPT: usize = 30;
/// Points after an alarm during which a loss that is still high teaches nothing about the noise.
const COOLDOWN: usize = 25;
/// Share of the threshold above which a loss still counts as high during the cooldown.
const STILL_HIGH: f64 = 0.25;
/// Two points in a row above the threshold of probability `p^PAIR` are an alarm: less than `p^0.5`,
/// which independent points would allow, since the noise of real runs is not independent.
const PAIR: f64 = 0.7;
/// Least scale of the noise that is believed, in log loss, or as a share of the largest loss.
const FLOOR: f64 = 0.002;

/// What a verdict says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerdictKind {
    /// The loss stands above what its history explains.
    Spike,
    /// It has done so for [`DIVERGED`] points in a row.
    Divergence,
    /// The loss is NaN or infinite, or was so before a logger wrote it as zero.
    NotFinite,
}

impl VerdictKind {
    /// The code of the finding.
    pub fn code(self) -> &'static str {
        match self {
            Self::Spike => "loss-spike",
            Self::Divergence => "loss-divergence",
            Self::NotFinite => "loss-not-finite",
        }
    }
}

/// One alarm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// What it is.
    pub kind: VerdictKind,
    /// The loss that a healthy run would have shown; NaN if none is known yet.
    pub expected: f64,
    /// The loss above which there is an alarm; NaN if none is known yet.
    pub threshold: f64,
    /// Rise over the rise that is an alarm, in the scale that the detector works in; 1 or more.
    pub score: f64,
    /// Alarms in a row, this one included.
    pub duration: usize,
}

/// Everything that a [`SpikeDetector`] remembers, to be saved and restored.
#[derive(Debug, Clone, PartialEq)]
pub struct SpikeState {
    /// The budget of false alarms per 10,000 points.
    pub false_alarms_per_10k: f64,
    /// Whether the series is judged as it is, and not by its logarithm.
    pub linear: bool,
    /// The last healthy values, oldest first, in the scale that the detector works in.
    pub values: Vec<f64>,
    /// Their last residuals, oldest first.
    pub residuals: Vec<f64>,
    /// The values of the present event.
    pub event: Vec<f64>,
    /// Points left of the cooldown.
    pub cooldown: usize,
    /// Whether the last point stood above the pair threshold.
    pub was_high: bool,
    /// The step of the last point, where one was given.
    pub last_step: Option<f64>,
    /// The usual number of steps between two points.
    pub usual_gap: Option<f64>,
    /// The last numbers of steps between two points, oldest first.
    pub gaps: Vec<f64>,
}

/// Finds spikes, divergence and non-finite values in a loss, online and one-sided.
///
/// The loss is judged by its logarithm until it goes below zero, from then on as it is. What is an
/// alarm is never learnt from, but a level that stays is taken as the new one after [`ADOPT`]
/// points. An alarm must also stand above every healthy value among the last 25. A loss of exactly
/// zero has no logarithm and teaches nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct SpikeDetector {
    false_alarms_per_10k: f64,
    linear: bool,
    baseline: Baseline,
    event: Vec<f64>,
    cooldown: usize,
    was_high: bool,
    pace: Pace,
}

/// The rises that are an alarm now: of one point, and of the second of two in a row.
struct Limits {
    single: f64,
    pair: f64,
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
            linear: false,
            baseline: Baseline::default(),
            event: Vec::new(),
            cooldown: 0,
            was_high: false,
            pace: Pace::default(),
        })
    }

    /// Judges the next loss.
    ///
    /// `grad_norm` tells a loss that was NaN and that a logger wrote as zero, as the Trainer of
    /// Hugging Face does, from a loss that is zero. `step` tells when the log changes from one
    /// interval to another: the noise is then learnt anew.
    pub fn update(
        &mut self,
        loss: f64,
        grad_norm: Option<f64>,
        step: Option<f64>,
    ) -> Option<Verdict> {
        if step.is_some_and(|step| self.pace.changes(step)) {
            self.baseline.forget_noise();
            self.end_event();
        }
        let hidden_nan = loss == 0.0 && grad_norm.is_some_and(f64::is_nan);
        if !loss.is_finite() || hidden_nan {
            return Some(self.not_finite());
        }
        if loss < 0.0 && !self.linear {
            self.go_linear();
        }
        if loss == 0.0 && !self.linear {
            return None;
        }
        let value = if self.linear { loss } else { loss.ln() };
        let Some(level) = self.baseline.level() else {
            self.baseline.push(value, None);
            return None;
        };
        let rise = value - level;
        let (low, high) = self.baseline.range();
        let limits = self.limits(level, low, high);
        let limit = if self.was_high { limits.pair } else { limits.single };
        self.was_high = value > high && rise > limits.pair;
        if value > high && rise > limit {
            return Some(self.alarm(value, level, limit));
        }
        self.event.clear();
        self.learn(value, level, limits.single);
        None
    }

    fn ready(&self) -> bool {
        self.baseline.residual_count() >= READY
    }

    fn limits(&self, level: f64, low: f64, high: f64) -> Limits {
        let p = self.false_alarms_per_10k / 10_000.0;
        let floor = if self.linear { FLOOR * low.abs().max(high.abs()) } else { FLOOR };
        if let Some(tail) = self.baseline.tail(floor).filter(|_| self.ready()) {
            let single = tail.quantile(p);
            return Limits { single, pair: tail.quantile(p.powf(PAIR)).min(single) };
        }
        let least = if self.linear { f64::INFINITY } else { EARLY_RISE };
        let early = high - level + least.max(EARLY_RANGES * (high - low));
        Limits { single: early, pair: early }
    }

    fn alarm(&mut self, value: f64, level: f64, limit: f64) -> Verdict {
        self.event.push(value);
        self.cooldown = COOLDOWN;
        let duration = self.event.len();
        if duration >= if self.ready() { ADOPT } else { EARLY_ADOPT } {
            self.baseline.move_to(&self.event);
            self.event.clear();
            self.cooldown = 0;
        }
        Verdict {
            kind: if duration >= DIVERGED { VerdictKind::Divergence } else { VerdictKind::Spike },
            expected: self.in_loss_units(level),
            threshold: self.in_loss_units(level + limit),
            score: (value - level) / limit,
            duration,
        }
    }

    fn not_finite(&self) -> Verdict {
        let expected = self.baseline.level().map_or(f64::NAN, |level| self.in_loss_units(level));
        Verdict {
            kind: VerdictKind::NotFinite,
            expected,
            threshold: f64::NAN,
            score: f64::INFINITY,
            duration: 1,
        }
    }

    fn learn(&mut self, value: f64, level: f64, limit: f64) {
        let rise = value - level;
        if self.cooldown == 0 {
            // The difference of two huge values overflows.
            self.baseline.push(value, Some(rise).filter(|r| r.is_finite()));
            return;
        }
        let high = STILL_HIGH * limit;
        self.cooldown = if rise > high { self.cooldown - 1 } else { 0 };
        self.baseline.push(value.min(level + high), None);
    }

    /// The logarithm is of no use from here on; the noise has to be learnt anew.
    fn go_linear(&mut self) {
        self.linear = true;
        let values: Vec<f64> = self.baseline.values().map(f64::exp).collect();
        self.baseline = Baseline::from_parts(&values, &[]);
        self.end_event();
    }

    fn end_event(&mut self) {
        self.event.clear();
        self.cooldown = 0;
        self.was_high = false;
    }

    fn in_loss_units(&self, value: f64) -> f64 {
        if self.linear { value } else { value.exp() }
    }

    /// Everything that the verdicts to come depend on.
    pub fn state(&self) -> SpikeState {
        SpikeState {
            false_alarms_per_10k: self.false_alarms_per_10k,
            linear: self.linear,
            values: self.baseline.values().collect(),
            residuals: self.baseline.residuals().collect(),
            event: self.event.clone(),
            cooldown: self.cooldown,
            was_high: self.was_high,
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
        let fits = state.values.len() <= SLOW
            && state.residuals.len() <= WINDOW
            && state.event.len() < ADOPT
            && state.cooldown <= COOLDOWN
            && state.gaps.len() <= GAPS
            && (state.gaps.is_empty() || state.usual_gap.is_some())
            && (state.residuals.is_empty() || !state.values.is_empty());
        let lists = [&state.values, &state.residuals, &state.event, &state.gaps];
        let mut numbers =
            lists.into_iter().flatten().chain(&state.last_step).chain(&state.usual_gap);
        if !fits || !numbers.all(|v| v.is_finite()) {
            return Err(Error::State("not a state of a spike detector".into()));
        }
        Ok(Self {
            linear: state.linear,
            baseline: Baseline::from_parts(&state.values, &state.residuals),
            event: state.event.clone(),
            cooldown: state.cooldown,
            was_high: state.was_high,
            pace: Pace {
                last_step: state.last_step,
                usual: state.usual_gap,
                gaps: state.gaps.iter().copied().collect(),
            },
            ..Self::new(state.false_alarms_per_10k)?
        })
    }
}

/// The indices at which a fresh detector raises an alarm, in order.
///
/// # Errors
/// [`Error::Value`] if the lengths differ or the budget is out of range.
pub fn find_spikes(
    loss: &[f64],
    grad_norm: Option<&[f64]>,
    step: Option<&[f64]>,
    false_alarms_per_10k: f64,
) -> Result<Vec<usize>> {
    for (parameter, values) in [("grad_norm", grad_norm), ("step", step)] {
        if let Some(values) = values
            && values.len() != loss.len()
        {
            let expected = format!("the length of loss, {}", loss.len());
            return Err(Error::value(parameter, expected, values.len()));
        }
    }
    let mut detector = SpikeDetector::new(false_alarms_per_10k)?;
    let mut found = Vec::new();
    for (i, &value) in loss.iter().enumerate() {
        let at = |values: Option<&[f64]>| values.map(|values| values[i]);
        if detector.update(value, at(grad_norm), at(step)).is_some() {
            found.push(i);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A decaying loss with noise that is the same at every run.
    fn healthy(n: usize) -> Vec<f64> {
        let mut seed = 1_u64;
        (0..n)
            .map(|i| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let noise = (seed >> 40) as f64 / (1_u64 << 24) as f64 - 0.5;
                2.0 + 2.0 * (-(i as f64) / 300.0).exp() + 0.1 * noise
            })
            .collect()
    }

    fn spikes(loss: &[f64]) -> Vec<usize> {
        find_spikes(loss, None, None, 0.2).unwrap()
    }

    #[test]
    fn a_healthy_run_is_silent() {
        assert!(spikes(&healthy(5000)).is_empty());
    }

    #[test]
    fn a_spike_is_found_from_point_20_on_and_never_enters_the_baseline() {
        for at in [20, 21, 100, 900] {
            let mut loss = healthy(1000);
            loss[at] = 9.0;
            assert_eq!(spikes(&loss), [at]);
            let mut detector = SpikeDetector::new(0.2).unwrap();
            for &value in &loss[..at] {
                detector.update(value, None, None);
            }
            let before = detector.baseline.clone();
            detector.update(loss[at], None, None);
            assert_eq!(detector.baseline, before);
        }
    }

    #[test]
    fn a_fall_is_no_alarm() {
        let mut loss = healthy(1000);
        loss[500] = 0.01;
        loss[700..].iter_mut().for_each(|v| *v /= 4.0);
        assert!(spikes(&loss).is_empty());
    }

    #[test]
    fn a_lasting_rise_is_a_divergence_and_then_the_new_level() {
        let mut loss = healthy(1000);
        loss[500..].iter_mut().for_each(|v| *v += 4.0);
        let mut detector = SpikeDetector::new(0.2).unwrap();
        let kinds: Vec<_> =
            loss.iter().map(|&v| detector.update(v, None, None).map(|found| found.kind)).collect();
        assert_eq!(kinds[500], Some(VerdictKind::Spike));
        assert_eq!(kinds[500 + DIVERGED - 1], Some(VerdictKind::Divergence));
        assert_eq!(kinds[500 + ADOPT - 1], Some(VerdictKind::Divergence));
        assert!(kinds[500 + ADOPT..].iter().all(Option::is_none));
    }

    #[test]
    fn nan_is_told_at_once_and_teaches_nothing() {
        let mut loss = healthy(300);
        loss[0] = f64::NAN;
        loss[100] = f64::INFINITY;
        loss[200] = f64::NEG_INFINITY;
        assert_eq!(spikes(&loss), [0, 100, 200]);
        assert_eq!(spikes(&[f64::NAN; 50]).len(), 50);
    }

    #[test]
    fn a_nan_that_a_logger_wrote_as_zero_is_known_by_its_gradient() {
        let mut detector = SpikeDetector::new(0.2).unwrap();
        assert!(detector.update(0.0, Some(1.0), None).is_none());
        let kind = detector.update(0.0, Some(f64::NAN), None).map(|v| v.kind);
        assert_eq!(kind, Some(VerdictKind::NotFinite));
        assert!(detector.update(1.0, Some(f64::NAN), None).is_none());
    }

    #[test]
    fn a_loss_that_crosses_zero_is_judged_as_it_is() {
        let mut loss: Vec<f64> = healthy(1000).iter().map(|v| v - 2.5).collect();
        assert!(spikes(&loss).is_empty());
        loss[900] = 3.0;
        assert_eq!(spikes(&loss), [900]);
    }

    #[test]
    fn an_explosion_is_told_before_the_tail_is_known() {
        assert_eq!(spikes(&[7.0, 6.9, 7.1, 6.8, 7.0, 60.0, 6.9]), [5]);
    }

    #[test]
    fn noise_is_learnt_anew_when_the_interval_changes() {
        let mut loss = healthy(600);
        for (i, value) in loss.iter_mut().enumerate().skip(200) {
            *value *= if i % 2 == 0 { 1.5 } else { 1.0 };
        }
        let step: Vec<f64> =
            (0..600_u32).map(|i| f64::from(if i < 198 { i } else { 500 * i })).collect();
        assert!(!spikes(&loss).is_empty());
        assert!(find_spikes(&loss, None, Some(&step), 0.2).unwrap().is_empty());
    }

    #[test]
    fn a_budget_out_of_range_is_named() {
        for budget in [0.0, -1.0, f64::NAN, f64::INFINITY, 2000.0] {
            let error = SpikeDetector::new(budget).unwrap_err().to_string();
            assert!(error.starts_with("false_alarms_per_10k: expected"), "{error}");
        }
    }

    fn any_loss() -> impl Strategy<Value = f64> {
        prop_oneof![
            8 => 0.1..10.0_f64,
            1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(0.0), Just(-0.0)],
            1 => proptest::num::f64::ANY,
        ]
    }

    proptest! {
        #[test]
        fn a_resumed_detector_gives_the_same_verdicts(
            loss in prop::collection::vec(any_loss(), 0..400), cut in 0..400_usize
        ) {
            let cut = cut.min(loss.len());
            let mut whole = SpikeDetector::new(1.0).unwrap();
            for &value in &loss[..cut] {
                whole.update(value, None, None);
            }
            let mut resumed = SpikeDetector::from_state(&whole.state()).unwrap();
            prop_assert_eq!(&resumed, &whole);
            for &value in &loss[cut..] {
                let (a, b) = (resumed.update(value, None, None), whole.update(value, None, None));
                prop_assert_eq!(format!("{a:?}"), format!("{b:?}"));
            }
        }

        #[test]
        fn a_larger_budget_lowers_the_threshold(
            loss in prop::collection::vec(0.1..10.0_f64, 30..300), budget in 0.01..10.0_f64
        ) {
            let limits = |budget: f64| {
                let mut d = SpikeDetector::new(0.2).unwrap();
                for &value in &loss {
                    d.update(value, None, None);
                }
                d.false_alarms_per_10k = budget;
                d.limits(0.0, 0.0, 0.0)
            };
            let (strict, loose) = (limits(budget), limits(2.0 * budget));
            prop_assert!(loose.single <= strict.single && loose.pair <= strict.pair);
            prop_assert!(strict.pair <= strict.single);
        }
    }
}
