//! The core of Gyrostat, which keeps deep-learning training steady.
//!
//! Each module is one kernel or what the kernels stand on, from the ground up:
//!
//! - [`error`]: the one error type; a message names the parameter, what was expected, what came
//! - [`parallel`]: the thread pool, deterministic and safe under `fork`
//! - [`tensor`]: the mergeable record of one tensor, made in one pass
//! - [`series`]: one scalar over time: baseline and spike detector
//! - [`leak`]: data-leakage hashing, every reported pair verified
//!
//! Nothing here knows Python but the module `py`, which is built with the feature `python`.

pub mod error;
pub mod leak;
pub mod parallel;
pub mod series;
pub mod tensor;

#[cfg(feature = "python")]
mod py;
