//! The gateway's decisions and scanners as a library: no Python, no clock, no I/O.

mod civil;
mod decimal;
pub mod descriptor;

// Hot state: one shared mapping.
pub mod access;
mod admission;
pub mod breaker;
mod hash;
mod lanes;
pub mod limit;
mod mask;
pub mod metrics;
mod names;
mod occupancy;
mod out;
pub mod outbox;
pub mod outlier;
pub mod pace;
pub mod price;
pub mod queue;
pub mod rooms;
mod rotation;
pub mod segment;
pub mod select;
pub mod vitals;
mod window;

// Bytes and routes.
pub mod chunk;
pub mod coding;
pub mod frame;
pub mod head;
pub mod json;
pub mod places;
pub mod pump;
pub mod redact;
pub mod retry;
pub mod route;
pub mod shape;
pub mod sse;
pub mod unsent;
pub mod usage;
