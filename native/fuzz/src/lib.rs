//! Invariants of every parser for any bytes: a `check` each, which panics when one is violated.
//!
//! The targets give them to libFuzzer; `tests/replay.rs` gives them seeds, corpora and mutations of both.

pub mod chunk;
pub mod corpora;
mod cut;
mod dice;
mod document;
pub mod frame;
pub mod head;
pub mod json;
mod mutation;
mod seeds;
mod slow;
pub mod sse;
pub mod token;

pub use dice::Dice;
pub use mutation::mutated;
pub use seeds::own;

/// A parser's name, and what must hold of it.
pub type Check = (&'static str, fn(&[u8]));

/// All there are; targets have the same names.
pub const CHECKS: [Check; 6] = [
    ("json", json::check),
    ("sse", sse::check),
    ("head", head::check),
    ("chunk", chunk::check),
    ("frame", frame::check),
    ("token", token::check),
];
