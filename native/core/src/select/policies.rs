//! Balancing policies: one file each, named once in the list below.

mod rendezvous;

pub(super) use self::rendezvous::Rendezvous;
use super::{Ask, Candidates, Needs, Note, Observation};

/// A balancing policy. Each also has a `fn new(weights: &[u32]) -> Self`, given the weights of all upstreams.
pub(super) trait Policy {
    /// Its needs besides the candidates.
    const NEEDS: Needs = Needs::NONE;
    /// False when all upstreams get equal shares, whatever their weights.
    const IS_WEIGHTED: bool = true;

    /// Chooses one of the candidates that are fit; `None` when none is. The choice may fall through: another one is
    /// wanted when the upstream has just become full.
    fn choose(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize>;

    /// Records that the request goes to the chosen upstream. The note comes back with what happens there.
    fn sent(&self, index: usize, ask: &Ask<'_>) -> Note {
        let _ = (index, ask);
        0
    }

    /// Records that a stream has begun. Other responses begin when they end.
    fn begun(&self, index: usize, note: Note, now_ns: u64) {
        let _ = (index, note, now_ns);
    }

    /// Records what came of a request that was sent to this upstream: once for each `sent`.
    fn observe(&self, index: usize, observation: &Observation) {
        let _ = (index, observation);
    }

    /// The load that it compares; `None` when it chooses by something else. With a load, an upstream in slow start gets
    /// no further requests while it is behind with those it has.
    fn load(&self, candidates: &Candidates<'_>, index: usize) -> Option<Load> {
        let _ = (candidates, index);
        None
    }
}

/// An upstream's load relative to its weight.
pub(super) struct Load {
    pub(super) now: u64,
    /// The part of one request.
    pub(super) one: u64,
}

macro_rules! policies {
    ($($(#[$only:meta])? $module:ident::$policy:ident,)+) => {
        $($(#[$only])? mod $module;)+

        /// The policies' names and needs, in the documented order.
        pub const POLICIES: &[(&str, Needs)] = &[
            $($(#[$only])? (stringify!($module), <$module::$policy as Policy>::NEEDS),)+
        ];

        /// One of the policies.
        #[derive(Debug)]
        pub(super) enum Chosen {
            $($(#[$only])? $policy($module::$policy),)+
        }

        impl Chosen {
            /// The policy of that name.
            pub(super) fn new(name: &str, weights: &[u32]) -> Option<Self> {
                $($(#[$only])? if name == stringify!($module) {
                    return Some(Self::$policy($module::$policy::new(weights)));
                })+
                None
            }

            #[inline]
            pub(super) fn needs(&self) -> Needs {
                match self {
                    $($(#[$only])? Self::$policy(_) => <$module::$policy as Policy>::NEEDS,)+
                }
            }

            #[inline]
            pub(super) fn is_weighted(&self) -> bool {
                match self {
                    $($(#[$only])? Self::$policy(_) => <$module::$policy as Policy>::IS_WEIGHTED,)+
                }
            }

            #[inline]
            pub(super) fn choose(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
                match self {
                    $($(#[$only])? Self::$policy(policy) => policy.choose(candidates, ask),)+
                }
            }

            #[inline]
            pub(super) fn sent(&self, index: usize, ask: &Ask<'_>) -> Note {
                match self {
                    $($(#[$only])? Self::$policy(policy) => policy.sent(index, ask),)+
                }
            }

            #[inline]
            pub(super) fn begun(&self, index: usize, note: Note, now_ns: u64) {
                match self {
                    $($(#[$only])? Self::$policy(policy) => policy.begun(index, note, now_ns),)+
                }
            }

            #[inline]
            pub(super) fn observe(&self, index: usize, observation: &Observation) {
                match self {
                    $($(#[$only])? Self::$policy(policy) => policy.observe(index, observation),)+
                }
            }

            pub(super) fn load(&self, candidates: &Candidates<'_>, index: usize) -> Option<Load> {
                match self {
                    $($(#[$only])? Self::$policy(policy) => policy.load(candidates, index),)+
                }
            }
        }
    };
}

policies! {
    round_robin::RoundRobin,
    weighted::Weighted,
    least_connections::LeastConnections,
    random::Random,
    power_of_two::PowerOfTwo,
    least_load::LeastLoad,
    // The example of docs/development.md.
    #[cfg(test)] first_byte::FirstByte,
    #[cfg(test)] noted::Noted,
}

/// The names as an error lists them.
pub(super) fn listed() -> String {
    let names: Vec<_> = POLICIES.iter().map(|(name, _)| *name).collect();
    match names.split_last() {
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}
