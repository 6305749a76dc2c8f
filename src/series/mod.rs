//! One scalar over time: its baseline, what stands out from it, and where it goes.

mod baseline;
mod blocks;
mod climb;
mod drift;
mod event;
mod pace;
mod shift;
mod spike;
mod start;
mod sweep;
mod tail;
mod trend;
mod window;

pub use baseline::BaselineState;
pub use blocks::{Blocks, BlocksState, CHUNK};
pub use climb::{ClimbState, Sum};
pub use drift::DriftState;
pub use event::{Event, Kind};
pub use shift::{Shift, Window};
pub use spike::{SpikeDetector, SpikeState, Verdict};
pub use sweep::{Found, Series, find_spikes, find_spikes_in_each};
pub use tail::ScoresState;
pub use trend::{Trend, trend};
