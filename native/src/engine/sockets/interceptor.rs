//! An interceptor below the protocols: it sees the reads of connections that it is interested in before their protocol
//! does.

use std::sync::Arc;

use budgateway_core::slab::Key;
use pyo3::prelude::*;

use super::data::Read;

/// An interceptor's interest in a connection.
#[derive(Clone, Copy, Default)]
pub(crate) enum Interest {
    /// None: the protocol gets every read.
    #[default]
    None,
    /// The interceptor sees the client's next request first.
    Armed,
    /// The interceptor serves the exchange of this key over the connection.
    Serving(Key),
}

/// Serves exchanges below the protocols, over transports of one type.
pub(crate) trait Interceptor<T>: Send + Sync {
    /// Handles a read from a connection of interest; returns what is left for the protocol.
    fn on_read(&self, own: &Bound<'_, T>, interest: Interest, read: Read) -> PyResult<Option<Read>>;

    /// Reports that a connection ended during one of the interceptor's exchanges.
    fn on_end(&self, py: Python<'_>, key: Key) -> PyResult<()>;
}

/// The interceptor's state of a client connection.
#[derive(Default)]
pub(crate) struct Interception {
    pub(crate) interest: Interest,
    /// The peer, once its requests have been armed for it.
    pub(crate) peer: Option<Client>,
    /// The time at which the interceptor last answered a request.
    pub(crate) served_ns: i64,
    /// Size of the last request's head; the next one is usually as long.
    pub(crate) head: usize,
    backoff: Backoff,
}

/// A client's address.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: Arc<str>,
    /// The address as limits count it: an IPv6 client's network.
    pub(crate) network: Arc<str>,
}

/// Backs off after requests of this client that the interceptor had to give up: clients with long or late answers gain
/// nothing by being tried each time.
#[derive(Clone, Copy, Default)]
struct Backoff {
    width: u8,
    left: u8,
}

impl Interception {
    /// Arms the interceptor for the next request, unless it is backing off.
    pub(super) fn arm(&mut self, client: &str, network: &str) {
        // A reload may have changed the prefix length of networks.
        if self.peer.as_ref().is_none_or(|peer| *peer.network != *network) {
            self.peer = Some(Client {
                address: client.into(),
                network: network.into(),
            });
        }
        if self.backoff.left > 0 {
            self.backoff.left -= 1;
        } else if matches!(self.interest, Interest::None) {
            self.interest = Interest::Armed;
        }
    }

    /// Records that the interceptor answered a request. `stays`: the connection stays open for another one.
    pub(crate) fn served(&mut self, now_ns: i64, stays: bool) {
        self.served_ns = now_ns;
        self.backoff = Backoff::default();
        if stays {
            self.interest = Interest::Armed;
        }
    }

    /// Records that the interceptor gave a request up: it skips the client's next 1, 3, 7, up to 63 requests.
    pub(crate) fn gave_up(&mut self) {
        let width = (2 * self.backoff.width + 1).min(63);
        self.backoff = Backoff { width, left: width };
    }
}
