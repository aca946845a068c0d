//! The pin's upstream, the same on every worker and host while it is fit. A route's pins go before its policy.

use super::{Ask, Candidates, Policy};
use crate::rendezvous;

#[derive(Debug)]
pub(in crate::select) struct Rendezvous {
    upstreams: rendezvous::Rendezvous,
}

impl Rendezvous {
    /// Chooses among upstreams of these names and weights.
    pub(in crate::select) fn new<'a>(upstreams: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        Self {
            upstreams: rendezvous::Rendezvous::new(upstreams),
        }
    }
}

impl Policy for Rendezvous {
    fn choose(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        self.upstreams.best(ask.pin?, |index| candidates.fit().has(index))
    }
}
