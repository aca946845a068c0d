//! JSON without documents: validates in one pass, records the spans of members, edits by splicing.

pub(crate) mod block;
mod outline;
mod paths;
mod peek;
mod scan;
mod skip;
mod splice;
mod string;
pub(crate) mod tape;
mod text;
pub(crate) mod tree;
mod usage;
mod walk;

pub use outline::{Listener, Outline, Want};
pub use paths::{Document, MAX_INDEX, MAX_STEPS, Name, Names, Path, PathError};
pub use peek::{Fields, FieldsError, MAX_FIELDS, Members, is_valid};
pub use splice::{Edit, Splice, SpliceError};
pub(crate) use text::next_special;
pub use text::{is_clear, quote, unescape};
pub use usage::asking_options;
pub use walk::{MAX_DEPTH, Visitor, walk};

/// The reason why a text is not acceptable JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// A violation of RFC 8259's grammar, or bytes that are not UTF-8.
    #[error("body is not valid JSON at byte {at}: {why}")]
    Syntax {
        /// Offset of the offending byte; the length when the text ended too early.
        at: usize,
        /// The violation.
        why: &'static str,
    },
    /// A wanted member occurs twice: the gateway and the upstream might use different ones.
    #[error("body has the member '{0}' twice")]
    Duplicate(Box<str>),
    /// A wanted member's name in other case: some upstreams treat it as the member, others do not.
    #[error("body has a member whose name differs from '{0}' in case alone, and servers read that differently")]
    Case(Box<str>),
    /// A string that servers decode differently.
    #[error("body has a '{0}' with control characters or half a surrogate pair")]
    Unclear(Box<str>),
}
