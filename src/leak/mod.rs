//! Data-leakage hashing: rows of one split that are also in another, every pair verified.
//!
//! 1. [`normalise`] and [`cells`]: each row gets two identities, of its content and of its normal
//!    form, and features: the [`shingle`]s of a text, the cells of a table row.
//! 2. Equal rows are grouped, so that the rest of the work is done once for each kind of row.
//! 3. [`minhash`] and [`band`] lead to the groups that may be near duplicates; [`verify`] computes
//!    the exact similarity of each such pair of groups.
//! 4. Groups become pairs of rows ([`pairs`]), and lists of the rows to keep.
//!
//! The number of pairs stays linear in the rows: a group of n copies has n^2 / 2 of them, so beyond
//! [`pairs::MOST_PAIRS`] each row is listed with one copy a split.

pub mod arrays;
pub mod arrow;
pub mod band;
pub mod cells;
mod clean;
pub mod clusters;
mod code;
pub mod codes;
pub mod column;
pub mod contamination;
pub mod entities;
mod groups;
pub mod hash;
pub mod image;
mod isa;
mod join;
mod leaks;
mod likeness;
pub mod minhash;
pub mod normalise;
pub mod overlap;
pub mod pairs;
pub mod search;
pub mod sequences;
pub mod shingle;
mod source;
pub mod table;
pub mod time;
mod tokens;
pub mod verify;

pub use groups::Progress;
pub use leaks::{Accepted, Leak, Leaks, Options, Statistics};
pub use shingle::{TextOptions, Unit};
