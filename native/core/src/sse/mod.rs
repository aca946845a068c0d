//! Scanners for responses as they pass: event borders, usage, the model's name; in bounded memory, however the bytes
//! are cut.

mod choices;
mod cuts;
mod data;
mod events;
mod long;
mod model;
mod object;
mod scan;
mod tail;
mod usage;

pub(crate) use cuts::remaining;
pub use data::DataRewriter;
pub use events::MAX_EVENT_BYTES;
pub(crate) use events::{Event, Events, Sink};
pub use model::ModelRewriter;
pub use scan::{First, UsageScanner, usage_of_document};
pub use usage::Usage;
