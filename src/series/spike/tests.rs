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

/// Every finding, by position.
fn findings(
    loss: &[f64],
    grad_norm: impl Fn(usize) -> Option<f64>,
    step: impl Fn(usize) -> Option<f64>,
) -> Vec<(usize, Kind)> {
    let mut detector = SpikeDetector::new(0.2).unwrap();
    let update =
        |(i, &v): (usize, &f64)| Some((i, detector.update(v, grad_norm(i), step(i), None)?.kind));
    loss.iter().enumerate().filter_map(update).collect()
}

fn spikes(loss: &[f64]) -> Vec<usize> {
    let all = findings(loss, |_| None, |_| None);
    all.into_iter().filter(|(_, kind)| kind.is_alarm()).map(|(i, _)| i).collect()
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
            detector.update(value, None, None, None);
        }
        let before = detector.loss.state();
        detector.update(loss[at], None, None, None);
        let after = detector.loss.state();
        assert_eq!((before.values, before.residuals), (after.values, after.residuals));
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
    let found = findings(&loss, |_| None, |_| None);
    let kinds: Vec<Kind> = found.iter().map(|&(_, kind)| kind).collect();
    assert_eq!(found[0].0, 500);
    assert_eq!(kinds[..DIVERGED - 1], [Kind::Spike; DIVERGED - 1]);
    assert_eq!(kinds[DIVERGED - 1..], [Kind::Divergence; ADOPT - DIVERGED + 1]);
}

#[test]
fn a_rise_slower_than_the_noise_is_found() {
    let mut loss = healthy(4000);
    for (i, value) in loss.iter_mut().enumerate().skip(3000) {
        *value += 0.001 * (i - 3000) as f64;
    }
    let first = spikes(&loss)[0];
    assert!((3000..3200).contains(&first), "{first}");
}

#[test]
fn one_point_that_nothing_follows_was_a_hard_batch() {
    let mut loss = healthy(1000);
    loss[500] += 1.0;
    let alone = findings(&loss, |_| None, |_| None);
    assert_eq!(alone, [(500, Kind::Spike), (503, Kind::HardBatch)]);
    // Not so if the gradient rose along, or if a point is more than a step.
    let rose = findings(&loss, |i| Some(if i == 500 { 9.0 } else { 1.0 }), |_| None);
    assert_eq!(rose, [(500, Kind::Spike)]);
    assert_eq!(findings(&loss, |_| None, |i| Some(100.0 * i as f64)), [(500, Kind::Spike)]);
}

#[test]
fn a_gradient_confirms_or_stands_alone() {
    let mut loss = healthy(1000);
    loss[500] += 0.35;
    let calm = findings(&loss, |i| Some(1.0 + 0.1 * (i % 3) as f64), |_| None);
    assert_eq!(calm, [(500, Kind::HardBatch)]);
    let jump = |at| move |i| Some(if i == at { 50.0 } else { 1.0 + 0.1 * (i % 3) as f64 });
    assert_eq!(findings(&loss, jump(500), |_| None), [(500, Kind::Spike)]);
    assert_eq!(findings(&healthy(1000), jump(700), |_| None), [(700, Kind::GradientSpike)]);
}

#[test]
fn a_large_rise_is_a_hard_batch_at_a_lower_score() {
    // Each 60th point stands out by more, so that score alone asks for more than 2.5.
    let told = |rise: f64| {
        let noise = healthy(1000).into_iter().enumerate().map(|(i, v)| {
            let outlier = if i % 60 == 0 && i > 0 { 0.33 } else { 0.0 };
            1.5 * (v - 2.0 - 2.0 * (-(i as f64) / 300.0).exp()) + outlier
        });
        let mut loss: Vec<f64> = noise.map(|v| 2.0 * v.exp()).collect();
        loss[905] = 2.0 * rise.exp();
        findings(&loss, |_| None, |_| None).contains(&(905, Kind::HardBatch))
    };
    assert!(told(0.28) && !told(0.19));
}

/// A loss and a gradient norm that climb together from point `at` on, too little for one point.
fn climbing(at: usize) -> (Vec<f64>, Vec<f64>) {
    let factor = |i| if i < at { 1.0 } else { 1.08 };
    let loss = healthy(600).into_iter().enumerate().map(|(i, v)| factor(i) * v);
    let norm = |i: usize| (1.0 + 0.3 * (i % 4) as f64) * if i < at { 1.0 } else { 2.5 };
    (loss.collect(), (0..600).map(norm).collect())
}

#[test]
fn loss_and_gradient_that_climb_together_are_a_divergence() {
    let (mut loss, norm) = climbing(400);
    let divergence = |found: &[(usize, Kind)]| {
        found.iter().find(|(_, kind)| *kind == Kind::Divergence).map(|&(i, _)| i)
    };
    let each = |loss: &[f64]| divergence(&findings(loss, |i| Some(norm[i]), |_| None));
    let first = each(&loss).unwrap();
    assert!((402..412).contains(&first), "{first}");
    // Later, if at all, by the loss alone or where not each step is logged.
    let alone = divergence(&findings(&loss, |_| None, |_| None));
    let sparse = divergence(&findings(&loss, |i| Some(norm[i]), |i| Some(50.0 * i as f64)));
    assert!(alone.is_none_or(|i| i > first) && alone == sparse, "{alone:?} {sparse:?}");
    loss = healthy(600);
    assert_eq!(each(&loss), None);
}

#[test]
fn a_loss_that_rises_from_the_start_is_a_divergence_told_once() {
    let rising = |i: i32| 6.9 + 0.01 * f64::from(i.min(60)) + 0.02 * f64::from(i % 3);
    let loss: Vec<f64> = (0..300).map(rising).collect();
    let told = findings(&loss, |_| None, |_| None);
    assert_eq!(told, [(27, Kind::Divergence)]);
    // A log that changes its interval has another start.
    let step = |i: usize| Some((if i < 20 { i } else { 500 * i }) as f64);
    assert!(findings(&loss, |_| None, step).is_empty());
}

#[test]
fn a_resume_amid_a_climb_changes_nothing() {
    let (loss, norm) = climbing(120);
    let mut whole = SpikeDetector::new(0.2).unwrap();
    for i in 0..200 {
        let mut resumed = SpikeDetector::from_state(&whole.state()).unwrap();
        assert_eq!(resumed.state(), whole.state());
        let verdict = whole.update(loss[i], Some(norm[i]), None, None);
        assert_eq!(resumed.update(loss[i], Some(norm[i]), None, None), verdict);
    }
    assert!(whole.state().climb.points > 60.0);
}

#[test]
fn a_state_of_no_climb_and_no_start_is_refused() {
    let state = SpikeDetector::new(0.2).unwrap().state();
    let mut bad = vec![state.clone(); 4];
    bad[0].climb.peak = -1.0;
    bad[1].climb.loss.sum = 2.0; // without a scale
    bad[2].start = Some(vec![2.0, 1.0]);
    bad[3].start = Some(vec![1.0; 11]);
    assert!(bad.iter().all(|state| SpikeDetector::from_state(state).is_err()));
    assert!(SpikeDetector::from_state(&SpikeState { start: None, ..state }).is_ok());
}

#[test]
fn an_event_has_a_start_a_peak_and_an_end() {
    let mut loss = healthy(1000);
    for (i, rise) in [1.0, 3.0, 2.0, 1.0, 0.5].into_iter().enumerate() {
        loss[500 + i] += rise;
    }
    let mut detector = SpikeDetector::new(0.2).unwrap();
    let mut events = Vec::new();
    for &value in &loss {
        detector.update(value, None, None, None);
        events.extend(detector.closed().copied());
    }
    let [event] = events[..] else { panic!("{events:?}") };
    assert_eq!((event.kind, event.start, event.peak), (Kind::Spike, 500, 501));
    assert_eq!((event.end, event.alarm), (504, Some(500)));
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
    assert!(detector.update(0.0, Some(1.0), None, None).is_none());
    let kind = detector.update(0.0, Some(f64::NAN), None, None).map(|v| v.kind);
    assert_eq!(kind, Some(Kind::NotFinite));
    assert!(detector.update(1.0, Some(f64::NAN), None, None).is_none());
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
    let step = |i| Some(if i < 198 { i as f64 } else { 500.0 * i as f64 });
    assert!(!spikes(&loss).is_empty());
    let found = findings(&loss, |_| None, step);
    assert!(found.iter().all(|(_, kind)| !kind.is_alarm()), "{found:?}");
}

#[test]
fn a_budget_out_of_range_is_named() {
    for budget in [0.0, -1.0, f64::NAN, f64::INFINITY, 2000.0] {
        let error = SpikeDetector::new(budget).unwrap_err().to_string();
        assert!(error.starts_with("false_alarms_per_10k: expected"), "{error}");
    }
}

#[test]
fn the_memory_is_bounded() {
    let mut detector = SpikeDetector::new(0.2).unwrap();
    for (i, &value) in healthy(5000).iter().enumerate() {
        detector.update(value, Some(1.0), Some(i as f64), Some(0.1));
    }
    let state = detector.state();
    let series = [&state.loss, &state.grad_norm, &state.update_rms, &state.drift.scales[0]];
    assert!(series.iter().all(|s| s.residuals.len() <= 200 && s.values.len() <= SLOW));
    // Four windows of 2,048 one-byte bins in each of five baselines make most of it.
    let windows = 5 * 4 * (2048 + 2 * 200);
    assert!(size_of::<SpikeDetector>() + windows <= 64 << 10);
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
        loss in prop::collection::vec((any_loss(), any_loss()), 0..400), cut in 0..400_usize
    ) {
        let cut = cut.min(loss.len());
        let step = |i: usize| Some((if i < 50 { i } else { 9 * i }) as f64);
        let mut whole = SpikeDetector::new(1.0).unwrap();
        for (i, &(value, norm)) in loss[..cut].iter().enumerate() {
            whole.update(value, Some(norm), step(i), Some(norm));
        }
        let mut resumed = SpikeDetector::from_state(&whole.state()).unwrap();
        prop_assert_eq!(&resumed.state(), &whole.state());
        for (i, &(value, norm)) in loss.iter().enumerate().skip(cut) {
            let a = resumed.update(value, Some(norm), step(i), Some(norm));
            let b = whole.update(value, Some(norm), step(i), Some(norm));
            prop_assert_eq!(format!("{a:?}"), format!("{b:?}"));
            prop_assert_eq!(resumed.closed(), whole.closed());
        }
        prop_assert_eq!(&resumed.state(), &whole.state());
    }

    #[test]
    fn every_event_holds_its_alarms(
        loss in prop::collection::vec(any_loss(), 0..400),
    ) {
        let mut detector = SpikeDetector::new(1.0).unwrap();
        let mut events: Vec<Event> = Vec::new();
        let mut alarms = Vec::new();
        for (i, &value) in loss.iter().enumerate() {
            let verdict = detector.update(value, None, None, None);
            alarms.extend(verdict.filter(|v| v.kind.is_alarm()).map(|_| i as u64));
            events.extend(detector.closed());
        }
        events.extend(detector.event());
        for pair in events.windows(2) {
            prop_assert!(pair[0].end < pair[1].start);
        }
        for event in &events {
            prop_assert!(event.start <= event.peak && event.peak <= event.end);
        }
        for at in alarms {
            prop_assert!(events.iter().any(|e| e.start <= at && at <= e.end && e.alarm.is_some()));
        }
    }
}
