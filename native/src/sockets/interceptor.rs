//! A guest below the protocols: it sees what is read from the connections that it is interested in before their protocol does.

use budgateway_core::places::Key;
use pyo3::prelude::*;

use super::state::Read;
use super::transport::Transport;

/// What an interceptor has to do with a connection.
#[derive(Clone, Copy, Default)]
pub(crate) enum Interest {
    /// Nothing: every read is the protocol's.
    #[default]
    None,
    /// It wants to see a client's next request first.
    Armed,
    /// It is serving the exchange of this key over the connection.
    Serving(Key),
}

/// Serves exchanges past the protocols.
pub(crate) trait Interceptor: Send + Sync {
    /// Deals with a read from a connection of interest; gives back what is for the protocol.
    fn on_read(&self, own: &Bound<'_, Transport>, interest: Interest, read: Read) -> PyResult<Option<Read>>;

    /// A connection ended while an exchange of the interceptor's was on it.
    fn on_end(&self, py: Python<'_>, key: Key) -> PyResult<()>;
}

/// What is kept of a client's connection for the interceptor.
#[derive(Default)]
pub(crate) struct Interception {
    pub(crate) interest: Interest,
    /// The client's address, once its requests were offered.
    pub(crate) client: Option<Box<str>>,
    /// Its address as limits count it: of an IPv6 client the network.
    pub(crate) network: Option<Box<str>>,
    /// When the interceptor last answered a request.
    pub(crate) served_ns: i64,
    /// Size of the last request's head: the next one is as long, as a rule.
    pub(crate) head: usize,
    backoff: Backoff,
}

/// How often in a row the interceptor took a request of this client and had to give it up. Clients whose answers are long or
/// late gain nothing by being tried each time.
#[derive(Clone, Copy, Default)]
struct Backoff {
    width: u8,
    left: u8,
}

impl Interception {
    /// Arms the interceptor for the next request, unless it is backing off.
    pub(super) fn arm(&mut self, client: &str, network: &str) {
        if self.client.is_none() {
            self.client = Some(client.into());
        }
        // A reload may have changed how long networks are.
        if self.network.as_deref() != Some(network) {
            self.network = Some(network.into());
        }
        if self.backoff.left > 0 {
            self.backoff.left -= 1;
        } else if matches!(self.interest, Interest::None) {
            self.interest = Interest::Armed;
        }
    }

    /// The interceptor answered a request; `stays`: the connection is there for a next one.
    pub(crate) fn served(&mut self, now_ns: i64, stays: bool) {
        self.served_ns = now_ns;
        self.backoff = Backoff::default();
        if stays {
            self.interest = Interest::Armed;
        }
    }

    /// The interceptor gave a request up: it skips the client's next 1, 3, 7, up to 63 requests.
    pub(crate) fn gave_up(&mut self) {
        let width = (2 * self.backoff.width + 1).min(63);
        self.backoff = Backoff { width, left: width };
    }
}
