//! One scalar over time: its baseline, and what stands out from it.

mod baseline;
mod drift;
mod event;
mod pace;
mod spike;
mod sweep;
mod tail;
mod window;

pub use baseline::BaselineState;
pub use drift::DriftState;
pub use event::{Event, Kind};
pub use spike::{SpikeDetector, SpikeState, Verdict};
pub use sweep::{Found, Series, find_spikes, find_spikes_in_each};
pub use tail::ScoresState;
