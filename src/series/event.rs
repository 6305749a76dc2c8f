//! What belongs together: an event, from its first sign to its end.

use serde::{Deserialize, Serialize};

/// Points in a row without a sign after which an event is over.
const OVER: usize = 3;

/// What a finding says, from the least to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// The gradient alone stands out.
    GradientSpike,
    /// One loss stands out as those of hard batches do, and nothing follows.
    HardBatch,
    /// The loss stands above what its history explains.
    Spike,
    /// It does so for good.
    Divergence,
    /// The loss is NaN or infinite, or was so before a logger wrote it as zero.
    NotFinite,
}

impl Kind {
    /// The code of the finding.
    pub fn code(self) -> &'static str {
        match self {
            Self::GradientSpike => "gradient-spike",
            Self::HardBatch => "hard-batch",
            Self::Spike => "loss-spike",
            Self::Divergence => "loss-divergence",
            Self::NotFinite => "loss-not-finite",
        }
    }

    /// Whether the finding counts against the budget.
    pub fn is_alarm(self) -> bool {
        self >= Self::Spike
    }
}

/// An event. Positions count the points from the first one that the detector saw.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The worst that was found; once it is over, what it turned out to be.
    pub kind: Kind,
    /// Position of the first sign.
    pub start: u64,
    /// Position of the first alarm, if there was one.
    pub alarm: Option<u64>,
    /// Position of the highest loss, or of the first that is not finite.
    pub peak: u64,
    /// Position of the last point that was high.
    pub end: u64,
    /// Points with a finding.
    pub findings: u64,
    /// The loss that a healthy run would have shown at the start; not known before the first one.
    pub expected: Option<f64>,
    /// The loss at the peak; none if it is not finite.
    pub highest: Option<f64>,
    /// The highest score: 1 is the threshold of an alarm.
    pub score: Option<f64>,
    /// Whether gradient norm or update confirmed it.
    pub confirmed: bool,
    /// Points in a row without a sign, up to now.
    quiet: usize,
}

/// One point that stands out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sign {
    pub(super) kind: Kind,
    pub(super) position: u64,
    pub(super) loss: f64,
    pub(super) expected: f64,
    pub(super) score: f64,
    pub(super) confirmed: bool,
}

fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|v| v.is_finite())
}

impl Event {
    pub(super) fn new(sign: &Sign) -> Self {
        Self {
            kind: sign.kind,
            start: sign.position,
            alarm: sign.kind.is_alarm().then_some(sign.position),
            peak: sign.position,
            end: sign.position,
            findings: 1,
            expected: finite(sign.expected),
            highest: finite(sign.loss),
            score: finite(sign.score),
            confirmed: sign.confirmed,
            quiet: 0,
        }
    }

    /// Whether a sign belongs to this event. What is not finite is told apart.
    pub(super) fn takes(&self, sign: &Sign) -> bool {
        (self.kind == Kind::NotFinite) == (sign.kind == Kind::NotFinite)
    }

    pub(super) fn add(&mut self, sign: &Sign) {
        self.kind = self.kind.max(sign.kind);
        if sign.kind.is_alarm() {
            self.alarm = self.alarm.or(Some(sign.position));
        }
        if let (Some(highest), Some(loss)) = (self.highest, finite(sign.loss))
            && loss > highest
        {
            (self.peak, self.highest) = (sign.position, Some(loss));
        }
        self.end = sign.position;
        self.findings += 1;
        self.score = finite(self.score.unwrap_or(0.0).max(sign.score));
        self.confirmed |= sign.confirmed;
        self.quiet = 0;
    }

    /// One point without a finding; true if the event is over. `high` points prolong it.
    pub(super) fn is_over_after(&mut self, position: u64, high: bool) -> bool {
        if self.kind == Kind::NotFinite {
            return true;
        }
        if high {
            self.end = position;
            self.quiet = 0;
            return false;
        }
        self.quiet += 1;
        self.quiet >= OVER
    }

    /// Whether it was one point that nothing confirmed and nothing followed.
    pub(super) fn was_one_outlier(&self) -> bool {
        self.kind == Kind::Spike && self.end == self.start && !self.confirmed
    }

    pub(super) fn is_possible(&self) -> bool {
        let inside = |at: u64| self.start <= at && at <= self.end;
        self.quiet < OVER && inside(self.peak) && self.alarm.is_none_or(inside)
    }
}
