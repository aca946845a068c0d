//! The gateway's decisions and scanners as a library: no Python, no clock, no I/O.

mod civil;
pub mod clock_cache;
mod decimal;
pub mod descriptor;

// Hot state: one shared mapping.
pub mod access;
mod admission;
pub mod answer;
pub mod breaker;
pub mod entry;
pub mod exposition;
mod hash;
pub mod health;
pub mod holders;
mod in_flight;
mod interner;
pub mod latency;
pub mod ledger;
pub mod limit;
mod mask;
pub mod metrics;
mod out;
pub mod outbox;
pub mod outlier;
pub mod price;
pub mod queue;
pub mod read_buffers;
mod rendezvous;
mod rotation;
pub mod segment;
pub mod select;
mod simd;
mod window;

// Bytes and routes.
pub mod chunk;
pub mod coding;
pub mod credentials;
pub mod dialect;
pub mod forwarded;
pub mod frame;
pub mod head;
pub mod jose;
pub mod json;
pub mod pump;
pub mod redact;
pub mod retry;
pub mod route;
pub mod shape;
pub mod slab;
pub mod sse;
pub mod trace;
pub mod tracer;
pub mod transform;
pub mod unsent;
pub mod usage;
