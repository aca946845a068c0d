//! The usage of exchanges: as reported or else estimated, and summed by principal, model and route.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::price::prompt_tokens;
use crate::segment::{LabelId, Segment};
use crate::sse::Usage;

/// Maximum principals with sums of their own; later ones are counted together.
pub(crate) const PRINCIPALS: usize = 2048;
/// Maximum sums; the last one counts the overflow.
pub(crate) const SUMS: usize = 4096;

/// The facts about the answer to one exchange.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// The last usage object seen.
    pub reported: Option<Usage>,
    /// True when the answer was complete: no further usage would have been reported.
    pub is_whole: bool,
    /// True when its last event was a terminator.
    pub is_terminated: bool,
    /// True when the request reached an upstream and was a JSON request to a model.
    pub is_asked: bool,
    /// True when the request was for text, so that the answer consists of tokens.
    pub generates: bool,
    /// 0 while there was none.
    pub status: u16,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of a JSON document in the answer; 0 for anything else.
    pub document_bytes: u64,
    /// The number of events of a stream in the answer.
    pub events: u64,
}

/// The highest output estimate for a document that reports no usage.
const MAX_GUESS: u64 = 4096;

impl Answer {
    /// The usage to count, and whether any of it is an estimate.
    ///
    /// A report counts as it is, with one exception: when a stream broke off, the report was premature, and output
    /// counts as at least one token per event. Without a report, the request counts by its bytes, and the answer by its
    /// events (a stream) or bytes; errors count nothing.
    #[must_use]
    pub fn usage(&self) -> (Usage, bool) {
        match self.reported {
            Some(usage) if self.is_whole || self.events <= usage.tokens_out => (usage, false),
            Some(usage) if self.generates => (
                Usage {
                    tokens_out: self.events,
                    ..usage
                },
                true,
            ),
            Some(usage) => (usage, false),
            None if !self.is_asked || self.status >= 400 => (Usage::default(), false),
            None => {
                let written = match self.events {
                    0 => prompt_tokens(self.document_bytes).min(MAX_GUESS),
                    events => events - u64::from(self.is_terminated),
                };
                let usage = Usage {
                    tokens_in: prompt_tokens(self.bytes_in),
                    tokens_out: if self.generates { written } else { 0 },
                    ..Usage::default()
                };
                (usage, usage.tokens_in + usage.tokens_out > 0)
            }
        }
    }
}

/// True when answers on this path are generated text.
#[must_use]
pub fn generates(path: &[u8]) -> bool {
    let last = memchr::memrchr(b'/', path).map_or(path, |slash| path.get(slash + 1..).unwrap_or_default());
    matches!(last, b"completions" | b"messages" | b"responses" | b"generate")
}

/// The usage of one principal, with one model, on one route.
#[repr(C, align(64))]
pub(crate) struct Sum {
    key: AtomicU64,
    requests: AtomicU64,
    tokens_in: AtomicU64,
    tokens_out: AtomicU64,
    tokens_cached: AtomicU64,
    tokens_reasoning: AtomicU64,
    micros: AtomicU64,
    estimated: AtomicU64,
}

/// A snapshot of one sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Empty for an unknown principal; `None` for principals beyond `PRINCIPALS`.
    pub principal: Option<String>,
    /// The principal's tenant.
    pub tenant: String,
    /// `OTHER` for a model that the configuration does not name.
    pub model: LabelId,
    /// The route.
    pub route: LabelId,
    /// The number of exchanges.
    pub requests: u64,
    /// The tokens of the exchanges.
    pub usage: Usage,
    /// The cost, in micro-dollars.
    pub micros: u64,
    /// The number of exchanges with estimated tokens.
    pub estimated: u64,
}

/// The sums of a segment, for one process.
#[derive(Debug)]
pub struct UsageTable {
    segment: Arc<Segment>,
    /// Cache of principals' numbers.
    known: HashMap<Box<[u8]>, u64>,
    scratch: Vec<u8>,
}

// Cleared when full, because an attacker with many keys must not grow a map without bound.
const MAX_KNOWN: usize = 4 * PRINCIPALS;
const PROBES: usize = 32;
const OVERFLOW: usize = SUMS - 1;
// Separates a principal from its tenant: no header carries this character.
const SEPARATOR: char = '\u{1f}';
// Principals 0 and 1 have no name of their own.
const NOBODY: u64 = 0;
const OTHERS: u64 = 1;

impl UsageTable {
    /// The sums kept in `segment`.
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            known: HashMap::new(),
            scratch: Vec::new(),
        }
    }

    /// Adds an exchange.
    pub fn add(
        &mut self,
        principal: &str,
        tenant: &str,
        model: LabelId,
        route: LabelId,
        counted: &(Usage, bool),
        micros: u64,
    ) {
        let number = self.number(principal, tenant);
        let key = 1 << 63 | number << 22 | u64::from(model.get()) << 11 | u64::from(route.get());
        let sum = &self.segment.layout().sums[self.slot(key)];
        let (usage, estimated) = counted;
        for (count, more) in [
            (&sum.requests, 1),
            (&sum.tokens_in, usage.tokens_in),
            (&sum.tokens_out, usage.tokens_out),
            (&sum.tokens_cached, usage.tokens_cached),
            (&sum.tokens_reasoning, usage.tokens_reasoning),
            (&sum.micros, micros),
            (&sum.estimated, u64::from(*estimated)),
        ] {
            if more > 0 {
                count.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// Every sum that is not empty.
    #[must_use]
    pub fn collect(&self) -> Vec<Used> {
        let sums = self.segment.layout().sums.iter().enumerate();
        sums.filter(|(_, sum)| sum.requests.load(Ordering::Relaxed) > 0)
            .map(|(slot, sum)| self.used(slot, sum))
            .collect()
    }

    fn used(&self, slot: usize, sum: &Sum) -> Used {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let key = sum.key.load(Ordering::Acquire);
        let number = if slot == OVERFLOW {
            OTHERS
        } else {
            key >> 22 & 0x1ff_ffff_ffff
        };
        let label = |shift: u32| match slot {
            OVERFLOW => LabelId::OTHER,
            _ => LabelId::new((key >> shift & 0x7ff) as u32),
        };
        let name = match number {
            NOBODY => Some(String::new()),
            OTHERS => None,
            _ => self.segment.layout().principals.name(number as usize),
        };
        let (principal, tenant) = match name.as_deref().and_then(|name| name.split_once(SEPARATOR)) {
            Some((principal, tenant)) => (Some(principal.to_owned()), tenant.to_owned()),
            None => (name, String::new()),
        };
        Used {
            principal,
            tenant,
            model: label(11),
            route: label(0),
            requests: count(&sum.requests),
            usage: Usage {
                tokens_in: count(&sum.tokens_in),
                tokens_out: count(&sum.tokens_out),
                tokens_cached: count(&sum.tokens_cached),
                tokens_reasoning: count(&sum.tokens_reasoning),
            },
            micros: count(&sum.micros),
            estimated: count(&sum.estimated),
        }
    }

    fn number(&mut self, principal: &str, tenant: &str) -> u64 {
        if principal.is_empty() {
            return NOBODY;
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(principal.as_bytes());
        self.scratch.push(SEPARATOR as u8);
        self.scratch.extend_from_slice(tenant.as_bytes());
        if let Some(&number) = self.known.get(self.scratch.as_slice()) {
            return number;
        }
        let name = String::from_utf8_lossy(&self.scratch);
        // Indices 0 and 1 belong to the nameless.
        let names = &self.segment.layout().principals;
        let number = names
            .intern(self.segment.hash_key(), &name, 2)
            .map_or(OTHERS, |slot| slot as u64);
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(self.scratch.as_slice().into(), number);
        number
    }

    /// The slot of a key's sum: its own, or the overflow slot.
    fn slot(&self, key: u64) -> usize {
        let sums = &self.segment.layout().sums;
        let home = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize;
        for slot in (home..home + PROBES).map(|probe| probe % OVERFLOW) {
            let present = sums[slot].key.load(Ordering::Relaxed);
            if present == key {
                return slot;
            }
            if present == 0 {
                match sums[slot]
                    .key
                    .compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => return slot,
                    Err(other) if other == key => return slot,
                    Err(_) => {}
                }
            }
        }
        OVERFLOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(tokens_in: u64, tokens_out: u64) -> Usage {
        Usage {
            tokens_in,
            tokens_out,
            ..Usage::default()
        }
    }

    #[test]
    fn what_is_reported_counts_and_a_broken_stream_by_its_events() {
        let asked = Answer {
            is_asked: true,
            generates: true,
            status: 200,
            bytes_in: 400,
            ..Answer::default()
        };
        let reported = Answer {
            reported: Some(usage(7, 9)),
            is_whole: true,
            is_terminated: true,
            events: 30,
            ..asked
        };
        assert_eq!(reported.usage(), (usage(7, 9), false));
        let broken = Answer {
            reported: Some(usage(7, 1)),
            is_whole: false,
            ..reported
        };
        assert_eq!(broken.usage(), (usage(7, 30), true));
        let unreported = Answer {
            reported: None,
            ..reported
        };
        // The terminator is an event without content.
        assert_eq!(unreported.usage(), (usage(100, 29), true));
        let document = Answer {
            document_bytes: 80,
            ..asked
        };
        assert_eq!(document.usage(), (usage(100, 20), true));
        let gone = Answer { status: 0, ..asked };
        assert_eq!(gone.usage(), (usage(100, 0), true));
        for nothing in [
            Answer {
                status: 502,
                ..document
            },
            Answer {
                is_asked: false,
                ..document
            },
        ] {
            assert_eq!(nothing.usage(), (Usage::default(), false));
        }
        let embeddings = Answer {
            generates: false,
            ..document
        };
        assert_eq!(embeddings.usage(), (usage(100, 0), true));
    }

    #[test]
    fn paths_that_write() {
        for path in ["/v1/chat/completions", "/x/v1/messages", "/v1/responses", "/generate"] {
            assert!(generates(path.as_bytes()), "{path}");
        }
        for path in ["/v1/embeddings", "/v1/messages/count_tokens", "/", ""] {
            assert!(!generates(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn processes_add_up_by_principal_model_and_route() {
        let one = Arc::new(Segment::new(1).unwrap());
        let two = Arc::new(Segment::attach(one.fd()).unwrap());
        let (mut one, mut two) = (UsageTable::new(one), UsageTable::new(two));
        let (model, route) = (LabelId::new(3), LabelId::new(2047));
        one.add("anna", "a", model, route, &(usage(1, 2), false), 5);
        two.add("anna", "a", model, route, &(usage(10, 20), true), 6);
        two.add("anna", "b", model, route, &(usage(100, 0), false), 0);
        one.add("", "", model, route, &(usage(0, 0), false), 0);
        let mut all = one.collect();
        all.sort_by_key(|used| (used.principal.clone(), used.tenant.clone()));
        let told: Vec<_> = all
            .iter()
            .map(|used| {
                let name = used.principal.as_deref().unwrap_or("-");
                (
                    name,
                    used.tenant.as_str(),
                    used.requests,
                    used.usage.tokens_in,
                    used.micros,
                    used.estimated,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("", "", 1, 0, 0, 0),
                ("anna", "a", 2, 11, 11, 1),
                ("anna", "b", 1, 100, 0, 0)
            ]
        );
        assert!(all.iter().all(|used| used.model == model && used.route == route));
    }

    #[test]
    fn late_principals_are_counted_together() {
        let mut table = UsageTable::new(Arc::new(Segment::new(1).unwrap()));
        for number in 0..2 * PRINCIPALS {
            let name = number.to_string();
            table.add(&name, "", LabelId::new(1), LabelId::new(1), &(usage(1, 0), false), 0);
        }
        let all = table.collect();
        let tokens = |used: &Used| used.usage.tokens_in;
        assert_eq!(all.iter().map(tokens).sum::<u64>(), 2 * PRINCIPALS as u64);
        assert!(all.len() > PRINCIPALS / 2 && all.len() <= PRINCIPALS + 2);
        assert!(
            all.iter()
                .any(|used| used.principal.is_none() && tokens(used) >= PRINCIPALS as u64)
        );
    }
}
