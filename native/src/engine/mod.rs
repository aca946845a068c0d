//! The engine: an I/O engine and a state machine, not bindings.
//!
//! `sockets` is an epoll set with the transports over it; `fastpath` serves common exchanges over those transports. Both
//! are in this crate because they use the bindings' classes: transports call protocols, and the fast path uses the
//! limits, selectors, head writers and the ledger that the pipeline uses.

pub(crate) mod fastpath;
pub(crate) mod sockets;
