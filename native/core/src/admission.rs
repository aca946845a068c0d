//! Admission of client connections: a limit over all workers.

use std::sync::atomic::Ordering;

use crate::segment::{Segment, SegmentError, Worker};

impl Segment {
    /// Counts one more in a worker's gauge, unless that makes more than `most` in all rows. Exact: each worker counts
    /// itself first, and takes itself out again when the sum is too high.
    pub fn enter(&self, worker: Worker, gauge: usize, most: i64) -> Result<bool, SegmentError> {
        let own = self.row(worker).gauges.get(gauge).ok_or(SegmentError::Gauge(gauge))?;
        own.fetch_add(1, Ordering::SeqCst);
        let gauges = self.rows().iter().filter_map(|row| row.gauges.get(gauge));
        let all: i64 = gauges.map(|gauge| gauge.load(Ordering::SeqCst)).sum();
        let fits = all <= most;
        if !fits {
            own.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::GAUGES;

    #[test]
    fn no_more_enter_than_may_over_all_rows() {
        let segment = Segment::new(2).unwrap();
        let (first, second) = (segment.worker(0).unwrap(), segment.worker(1).unwrap());
        let entered = [first, second, first, second].map(|worker| segment.enter(worker, 0, 3).unwrap());
        assert_eq!(entered, [true, true, true, false]);
        segment.add(first, 0, -1).unwrap();
        assert!(segment.enter(second, 0, 3).unwrap());
        assert_eq!(segment.gauge(second, 0).unwrap(), 2);
        assert!(segment.enter(first, GAUGES, 1).is_err());
    }
}
