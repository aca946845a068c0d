//! Translation between dialects. Each has readers (bytes to words) and writers (words to bytes), and a translation is a
//! reader and a writer: nothing knows two dialects. A string of one is the string of the other, escapes and all, so
//! texts are copied and not decoded.

mod answer;
mod chat;
mod collected;
mod completions;
mod ending;
mod gemini;
mod loss;
mod memory;
mod messages;
mod reading;
mod request;
mod responses;
mod target;
mod text;
mod words;

pub use answer::Answer;
pub use loss::Refusal;
pub use memory::{Memory, Naming};
pub use request::{Asked, request};
pub use target::{Dialect, InlineSystem, Target};
pub use words::Fault;
