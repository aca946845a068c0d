//! One clock for the null server and the generator: both are on one machine, so an event can carry when it was sent.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

/// Readings wrap after so many microseconds, which is below three hours: ten digits, like the seconds of an event's `created`.
const WRAP: u64 = 10_000_000_000;

/// Microseconds of the monotonic clock, ten digits of them.
pub(crate) fn micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    (seconds.unwrap_or(0) * 1_000_000 + nanos.unwrap_or(0) / 1_000) % WRAP
}

/// Both readings of one moment, to convert an `Instant`.
pub(crate) struct Anchor {
    instant: Instant,
    micros: u64,
}

impl Anchor {
    pub(crate) fn now() -> Self {
        Self {
            instant: Instant::now(),
            micros: micros(),
        }
    }

    /// Nanoseconds from a reading of `micros` to a later instant; 0 when it is later by less than the grain.
    pub(crate) fn nanos_since(&self, stamp: u64, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.instant).as_micros() % u128::from(WRAP);
        let micros = self.micros + u64::try_from(passed).unwrap_or(0);
        let since = (micros + WRAP - stamp % WRAP) % WRAP;
        // The two readings are not of exactly the same moment.
        if since > WRAP / 2 { 0 } else { since * 1_000 }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn delays_are_told_also_over_the_wrap() {
        let instant = Instant::now();
        for micros in [17, WRAP - 5] {
            let anchor = Anchor { instant, micros };
            let later = instant + Duration::from_micros(250);
            assert_eq!(anchor.nanos_since(micros, later), 250_000);
            assert_eq!(anchor.nanos_since((micros + 100) % WRAP, later), 150_000);
            assert_eq!(
                anchor.nanos_since((micros + 251) % WRAP, later),
                0,
                "sent after it came"
            );
        }
    }
}
