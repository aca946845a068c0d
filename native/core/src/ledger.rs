//! The ledger: gives the record of each ended exchange to its consumers.

use std::sync::{Arc, Mutex, PoisonError};

use crate::access::AccessLog;
use crate::entry::{Charge, Consumer, Entry};
use crate::limit::Settlement;
use crate::metrics::Metrics;
use crate::retry::Repayment;
use crate::segment::Segment;
use crate::tracer::Tracer;
use crate::usage::UsageTable;

/// The consumers of ended exchanges, in the order in which they get them. `access` is `None` when the access log is off.
#[must_use]
pub fn consumers(segment: &Arc<Segment>, access: Option<Arc<Mutex<AccessLog>>>) -> Vec<Box<dyn Consumer>> {
    let mut consumers: Vec<Box<dyn Consumer>> = vec![
        Box::new(Settlement),
        Box::new(UsageTable::new(segment.clone())),
        Box::new(Repayment::new(segment.clone())),
        Box::new(Metrics::new(segment.clone())),
    ];
    if let Some(access) = access {
        consumers.push(Box::new(access));
    }
    consumers
}

/// The ledger of one worker.
#[derive(Debug)]
pub struct Ledger {
    consumers: Vec<Box<dyn Consumer>>,
    /// Apart from the list, because a reload may add or remove it.
    tracer: Option<Arc<Mutex<Tracer>>>,
    charged: Charge,
}

impl Ledger {
    /// A ledger that gives each exchange to these consumers, in this order.
    #[must_use]
    pub fn new(consumers: Vec<Box<dyn Consumer>>) -> Self {
        Self {
            consumers,
            tracer: None,
            charged: Charge::default(),
        }
    }

    /// Enters an ended exchange. Returns the bytes that wait in the fullest buffer of a consumer.
    pub fn enter(&mut self, entry: &Entry<'_>) -> usize {
        self.charged = entry.charge();
        let charge = &self.charged;
        if let Some(tracer) = &self.tracer {
            tracer
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .enter(entry, charge);
        }
        let waiting = self.consumers.iter_mut().map(|consumer| consumer.enter(entry, charge));
        waiting.fold(0, usize::max)
    }

    /// Traces exchanges with this tracer from now on, or none.
    pub fn follow(&mut self, tracer: Option<Arc<Mutex<Tracer>>>) {
        self.tracer = tracer;
    }

    /// The charge of the exchange entered last.
    #[must_use]
    pub fn charged(&self) -> &Charge {
        &self.charged
    }
}
