//! Data-leakage hashing: rows of one split that are also in another, every pair verified.
//!
//! 1. [`normalise`] and [`cells`]: each row gets two identities, of its content and of its normal
//!    form, and features: the [`shingle`]s of a text, the cells of a table row.
//! 2. Equal rows are grouped, so that the rest of the work is done once for each kind of row.
//! 3. [`minhash`] and [`band`] lead to the groups that may be near duplicates; [`verify`] computes
//!    the exact similarity of each such pair of groups.
//! 4. Groups become pairs of rows ([`pairs`]), and lists of the rows to keep.
//!
//! A group of n copies has n^2 / 2 pairs, and so has a family made from one template. Time and memory
//! stay linear in the rows by one rule, [`search::limit`]: where all groups together would make more
//! than is affordable, the largest ones are cut short. It depends on how many groups there are of
//! each size alone, so not on threads, parts or the order of the work.
//!
//! An engine that has the rows in parts puts the same pairs together from the same steps:
//!
//! 1. For each text [`shingle::Shingler::shingles_into`]: the identity of its normal form, and its
//!    shingles. Rows with equal shingles are one *node*, numbered by the first of its rows.
//! 2. For each node [`minhash::MinHash::sketch_into`] and [`band::Banding::keys_into`]: a key a band.
//! 3. Nodes by (band, key) are buckets. Their numbers of pairs, added up over all parts by powers of
//!    two, give the [`search::limit`] of [`search::affordable`].
//! 4. In each bucket all pairs of nodes, or in a cut one those of each node with the 16 nodes of
//!    each split that come first; [`verify::jaccard`] says which are edges. Each edge counts once.
//! 5. Edges become pairs of rows, the groups with the most of them cut by the limit of
//!    [`pairs::affordable`].

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
