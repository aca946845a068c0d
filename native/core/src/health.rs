//! The health of an upstream, shared by all processes: breaker, ejections, standing, signals, models.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::outlier::{MS_MASK, MS_SHIFT};
use crate::window::Window;

/// Maximum models remembered per upstream; the list of an upstream with more counts as unknown.
pub const MODELS: usize = 255;

const NS_PER_MS: u64 = 1_000_000;

/// One upstream's health. Fields that every pick reads are in the first cache line; those that every release writes are
/// not.
#[repr(C, align(64))]
pub(crate) struct Vitals {
    /// The word of `breaker`.
    pub(crate) breaker: AtomicU64,
    /// The word of `outlier`.
    pub(crate) outlier: AtomicU64,
    /// The word of `Standing`.
    pub(crate) standing: AtomicU64,
    /// The time since when traffic gets no answer from it, in ms; 0: it answers.
    pub(crate) suspected_ms: AtomicU64,
    /// The time of the engine's last load report, in ms; 0: never.
    pub(crate) signals_ms: AtomicU64,
    /// Running requests (24 bits) | waiting ones (24) | its KV cache use, per mille (16).
    pub(crate) signals: AtomicU64,
    /// Requests there that do not come from this gateway.
    pub(crate) foreign: AtomicU64,
    /// The total number of ejections.
    pub(crate) ejections: AtomicU64,
    /// The window of `breaker`: recent calls and failures.
    pub(crate) window: Window,
}

/// The operator's and the probes' state of an upstream. All zeroes is: no information, and traffic may go there.
///
/// ```text
/// drained (bit 63) | unhealthy (62) | good again since, in ms (20 to 61) | silent (1) | probed (0)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) drained: bool,
    pub(crate) unhealthy: bool,
    pub(crate) since_ms: u64,
    /// True when neither probes nor traffic get an answer from it.
    pub(crate) silent: bool,
    pub(crate) probed: bool,
}

impl Standing {
    #[inline]
    pub(crate) fn unpack(word: u64) -> Self {
        Self {
            drained: word >> 63 == 1,
            unhealthy: word >> 62 & 1 == 1,
            since_ms: word >> MS_SHIFT & MS_MASK,
            silent: word >> 1 & 1 == 1,
            probed: word & 1 == 1,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.drained) << 63
            | u64::from(self.unhealthy) << 62
            | self.since_ms.min(MS_MASK) << MS_SHIFT
            | u64::from(self.silent) << 1
            | u64::from(self.probed)
    }
}

/// An engine's report of its load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Running requests.
    pub running: u64,
    /// Waiting requests.
    pub waiting: u64,
    /// KV cache use, per mille.
    pub kv_per_mille: u64,
    /// The time of the report; 0: never.
    pub at_ns: u64,
}

impl Vitals {
    /// Sets the operator's drain. A returning upstream begins with slow start, except at time 0.
    pub(crate) fn drain(&self, drained: bool, now_ns: u64) {
        self.change(|standing| Standing {
            drained,
            since_ms: if standing.drained && !drained {
                now_ns / NS_PER_MS
            } else {
                standing.since_ms
            },
            ..standing
        });
    }

    /// Records a probe's result; `silent` when traffic gets no answer either.
    pub(crate) fn judge(&self, healthy: bool, silent: bool, now_ns: u64) {
        self.change(|standing| Standing {
            unhealthy: !healthy,
            silent: silent && !healthy,
            probed: true,
            since_ms: if standing.unhealthy && healthy {
                now_ns / NS_PER_MS
            } else {
                standing.since_ms
            },
            ..standing
        });
    }

    /// Clears the probes' results: it is no longer probed.
    pub(crate) fn unjudge(&self) {
        self.change(|standing| Standing {
            unhealthy: false,
            silent: false,
            probed: false,
            ..standing
        });
        self.suspected_ms.store(0, Ordering::Relaxed);
        self.forget_signals();
    }

    /// Clears the load report.
    fn forget_signals(&self) {
        self.signals_ms.store(0, Ordering::Relaxed);
        self.signals.store(0, Ordering::Relaxed);
        self.foreign.store(0, Ordering::Relaxed);
    }

    /// Starts slow start: it is new among others.
    pub(crate) fn welcome(&self, now_ns: u64) {
        self.change(|standing| Standing {
            since_ms: now_ns / NS_PER_MS,
            ..standing
        });
    }

    /// Records that traffic gets no answer from it. The first time is kept.
    pub(crate) fn suspect(&self, now_ns: u64) {
        let now_ms = (now_ns / NS_PER_MS).max(1);
        let _ = self
            .suspected_ms
            .compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Records the engine's report, taken while this gateway had `ours` in flight there; at time 0 it is cleared.
    pub(crate) fn signal(&self, said: Signals, ours: u64) {
        const MOST: u64 = (1 << 24) - 1;
        if said.at_ns == 0 {
            return self.forget_signals();
        }
        let (running, waiting) = (said.running.min(MOST), said.waiting.min(MOST));
        let word = running << 40 | waiting << 16 | said.kv_per_mille.min(1000);
        self.signals.store(word, Ordering::Relaxed);
        self.foreign
            .store((running + waiting).saturating_sub(ours), Ordering::Relaxed);
        self.signals_ms
            .store((said.at_ns / NS_PER_MS).max(1), Ordering::Relaxed);
    }

    /// The load while this gateway has `ours` in flight, in sixteenths of a request.
    #[inline]
    pub(crate) fn load(&self, ours: u64) -> u64 {
        let signals = self.signals.load(Ordering::Relaxed);
        let (waiting, kv_per_mille) = (signals >> 16 & ((1 << 24) - 1), signals & 0xffff);
        (ours + self.foreign.load(Ordering::Relaxed) + waiting) * 16 + kv_per_mille / 64
    }

    pub(crate) fn signals(&self) -> Signals {
        let word = self.signals.load(Ordering::Relaxed);
        Signals {
            running: word >> 40,
            waiting: word >> 16 & ((1 << 24) - 1),
            kv_per_mille: word & 0xffff,
            at_ns: self.signals_ms.load(Ordering::Relaxed) * NS_PER_MS,
        }
    }

    fn change(&self, to: impl Fn(Standing) -> Standing) {
        let _ = self
            .standing
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                Some(to(Standing::unpack(word)).pack())
            });
    }
}

/// The models that an upstream lists, by hash. Empty: unknown, or too many.
#[repr(C)]
pub(crate) struct ModelSet {
    count: AtomicU64,
    hashes: [AtomicU64; MODELS],
}

impl ModelSet {
    /// Replaces the list; concurrent readers see it empty. Only one process writes.
    pub(crate) fn replace(&self, hashes: &[u64]) {
        self.count.store(0, Ordering::SeqCst);
        if hashes.len() > MODELS {
            return;
        }
        for (cell, &hash) in self.hashes.iter().zip(hashes) {
            cell.store(hash, Ordering::SeqCst);
        }
        self.count.store(hashes.len() as u64, Ordering::SeqCst);
    }

    /// True when the list is known and does not contain this model.
    pub(crate) fn lacks(&self, hash: u64) -> bool {
        let count = (self.count.load(Ordering::SeqCst) as usize).min(MODELS);
        count > 0
            && self.hashes[..count]
                .iter()
                .all(|cell| cell.load(Ordering::SeqCst) != hash)
    }
}
