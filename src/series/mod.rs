//! One scalar over time: its baseline, and what stands out from it.

mod baseline;
mod pace;
mod spike;

pub use spike::{SpikeDetector, SpikeState, Verdict, VerdictKind, find_spikes};
