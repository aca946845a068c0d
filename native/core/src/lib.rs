//! What the gateway decides and scans, as a library: no Python, no clock, no I/O.

pub mod chunk;
pub mod head;
pub mod json;
pub mod route;
pub mod sse;
