//! Benchmark contamination: questions of a benchmark inside training texts.
//!
//! The relation is asymmetric: how much of a question is in a text, however long the text is.
//!
//! 1. [`words`]: texts become hashes of their words, as the normaliser has them.
//! 2. [`passages`]: questions and answers, equal ones as one, each word weighed by how few of the
//!    benchmark's own questions hold it.
//! 3. [`grams`] and [`index`]: each run of 8 words is a seed, looked up in a compact table. Most
//!    texts hold none and are done.
//! 4. [`scan`]: where a text holds a seed, its words are compared with those of the passage, runs
//!    are extended over small edits ([`align`]) and measured.
//! 5. [`rules`]: what makes a match contamination; [`survey`] adds up over all texts.
//!
//! A [`pack`] is an index that holds hashes instead of text.

mod align;
mod grams;
mod index;
pub mod pack;
mod passages;
mod rules;
mod scan;
mod survey;
mod words;

pub use index::Index;
pub use passages::Part;
pub use rules::{Measures, RULES, Rules, Verdict};
pub use scan::Match;
pub use survey::Survey;
