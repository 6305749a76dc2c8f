//! The detector over whole series, and over many of them at once.

use super::event::Event;
use super::spike::SpikeDetector;
use crate::error::Result;
use crate::parallel;

/// The points of one series: any numbers that can be read by index, so that no copy is needed to
/// widen them or to close up a stride.
pub trait Series: Sync {
    /// Number of points.
    fn len(&self) -> usize;
    /// Loss of a point; `i` is below [`len`](Self::len).
    fn loss(&self, i: usize) -> f64;
    /// Gradient norm of a point, where one is known.
    fn grad_norm(&self, i: usize) -> Option<f64>;
    /// Step of a point, where one is known.
    fn step(&self, i: usize) -> Option<f64>;
    /// Root mean square of the update at a point, where one is known.
    fn update_rms(&self, i: usize) -> Option<f64>;

    /// Whether there is no point.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a fresh detector finds in a series.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// The points at which it raises an alarm, in order.
    pub alarms: Vec<usize>,
    /// The events, in order.
    pub events: Vec<Event>,
    /// Whether the last event is still under way at the end.
    pub under_way: bool,
}

/// Judges one series from its start.
///
/// # Errors
/// [`crate::error::Error::Value`] if the budget is out of range.
pub fn find_spikes(series: &impl Series, false_alarms_per_10k: f64) -> Result<Found> {
    let mut detector = SpikeDetector::new(false_alarms_per_10k)?;
    let mut found = Found::default();
    for i in 0..series.len() {
        let verdict = detector.update(
            series.loss(i),
            series.grad_norm(i),
            series.step(i),
            series.update_rms(i),
        );
        if verdict.is_some_and(|verdict| verdict.kind.is_alarm()) {
            found.alarms.push(i);
        }
        found.events.extend(detector.closed());
    }
    found.under_way = detector.event().is_some();
    found.events.extend(detector.event());
    Ok(found)
}

/// Judges each series on its own, in parallel; results are in the order of the series.
///
/// # Errors
/// As [`find_spikes`].
pub fn find_spikes_in_each<S: Series>(
    series: &[S],
    false_alarms_per_10k: f64,
) -> Result<Vec<Found>> {
    // A budget out of range is told even where there is no series.
    SpikeDetector::new(false_alarms_per_10k)?;
    let points: usize = series.iter().map(Series::len).sum();
    // A point costs as much time as reading this many bytes.
    let bytes = points.saturating_mul(1 << 11);
    parallel::map_indexed(series.len(), bytes, |i| find_spikes(&series[i], false_alarms_per_10k))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Wave(usize);

    impl Series for Wave {
        fn len(&self) -> usize {
            3000
        }

        fn loss(&self, i: usize) -> f64 {
            let noise = (i.wrapping_mul(2_654_435_761) >> 7) % 100;
            if i == 1000 + self.0 { 9.0 } else { 2.0 + noise as f64 / 1000.0 }
        }

        fn grad_norm(&self, _: usize) -> Option<f64> {
            None
        }

        fn step(&self, i: usize) -> Option<f64> {
            Some(i as f64)
        }

        fn update_rms(&self, _: usize) -> Option<f64> {
            None
        }
    }

    #[test]
    fn many_series_give_what_each_gives_alone() {
        let series: Vec<Wave> = (0..50).map(Wave).collect();
        let found = find_spikes_in_each(&series, 0.2).unwrap();
        for (i, (one, found)) in series.iter().zip(&found).enumerate() {
            assert_eq!(found.alarms, [1000 + i]);
            assert_eq!(found, &find_spikes(one, 0.2).unwrap());
            assert_eq!((found.events.len(), found.under_way), (1, false));
        }
    }

    #[test]
    fn a_budget_is_checked_where_there_is_no_series() {
        assert!(find_spikes_in_each::<Wave>(&[], f64::NAN).is_err());
    }
}
