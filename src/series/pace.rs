//! How many steps lie between two points.

use std::collections::VecDeque;

/// Gaps in a row that must be unusual, all in the same direction.
pub(super) const GAPS: usize = 3;
/// Factor by which a gap must differ from the usual one to be unusual.
const UNUSUAL: f64 = 4.0;

/// Notices when a log changes from one interval to another: each point then stands for more or
/// fewer steps than before, and its noise is another.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pace {
    pub(super) last_step: Option<f64>,
    pub(super) usual: Option<f64>,
    /// The last gaps, oldest first.
    pub(super) gaps: VecDeque<f64>,
}

impl Pace {
    /// Whether there is a point for each step, as far as is known.
    #[inline]
    pub(super) fn logs_each_step(&self) -> bool {
        self.usual.is_none_or(|gap| gap <= 1.0)
    }

    /// Takes in the step of the next point; true if the interval has changed for good. Steps that
    /// repeat or go back say nothing of the interval.
    pub(super) fn changes(&mut self, step: f64) -> bool {
        if !step.is_finite() {
            return false;
        }
        let gap = self.last_step.replace(step).map_or(0.0, |last| step - last);
        if gap <= 0.0 || !gap.is_finite() {
            return false;
        }
        let usual = *self.usual.get_or_insert(gap);
        if self.gaps.len() == GAPS {
            self.gaps.pop_front();
        }
        self.gaps.push_back(gap);
        let unusual = |far: fn(f64, f64) -> bool| {
            self.gaps.len() == GAPS && self.gaps.iter().all(|&gap| far(gap, usual))
        };
        let changed = unusual(|gap, usual| gap > UNUSUAL * usual)
            || unusual(|gap, usual| gap < usual / UNUSUAL);
        if changed {
            let mut gaps: Vec<f64> = self.gaps.iter().copied().collect();
            gaps.sort_unstable_by(f64::total_cmp);
            self.usual = gaps.get(GAPS / 2).copied();
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_at_the_third_gap() {
        let steps = (0..100).chain((100..5000).step_by(500)).map(f64::from);
        let mut pace = Pace::default();
        let told: Vec<f64> = steps.filter(|&step| pace.changes(step)).collect();
        assert_eq!(told, [1600.0]);
        assert_eq!(pace.usual, Some(500.0));
    }

    #[test]
    fn steps_that_stand_still_go_back_or_are_no_numbers_say_nothing() {
        let mut pace = Pace::default();
        for step in [0.0, 1.0, 1.0, 0.0, f64::NAN, 1.0, 0.5e-3, f64::INFINITY, 1.0, 900.0, 901.0] {
            assert!(!pace.changes(step));
        }
    }
}
