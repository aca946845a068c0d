//! The worked example of docs/development.md: a consumer of ended exchanges.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use budgateway_core::entry::Entry;
use budgateway_core::ledger::{Ledger, consumers};
use budgateway_core::metrics::Metrics;
use budgateway_core::segment::Segment;

mod slowest {
    //! The slowest exchange so far.

    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use budgateway_core::entry::{Charge, Consumer, Entry};

    /// A consumer of ended exchanges that keeps the longest duration.
    #[derive(Debug)]
    pub struct Slowest(pub Arc<AtomicU64>);

    impl Consumer for Slowest {
        fn enter(&mut self, entry: &Entry<'_>, _charge: &Charge) -> usize {
            self.0.fetch_max(entry.duration_ns(), Ordering::Relaxed);
            0
        }
    }
}

#[test]
fn a_consumer_is_one_file_and_its_line_in_the_list() {
    let segment = Arc::new(Segment::new(1).unwrap());
    let slowest = Arc::new(AtomicU64::new(0));
    let mut consumers = consumers(&segment, None);
    consumers.push(Box::new(slowest::Slowest(slowest.clone())));
    let mut ledger = Ledger::new(consumers);
    for ended_ns in [7, 9, 8] {
        let entry = Entry {
            started_ns: 2,
            ended_ns,
            ..Entry::default()
        };
        assert_eq!(ledger.enter(&entry), 0);
    }
    assert_eq!(slowest.load(Ordering::Relaxed), 7);
    // The others in the list got them too.
    assert_eq!(Metrics::new(segment).collect()[0].outcomes[0], 3);
}
