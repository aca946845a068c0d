//! Balancing policies: one file each, named once in the list below.

mod rendezvous;

pub(super) use self::rendezvous::Rendezvous;
use super::policy::{Load, Policy};
use super::{Ask, Candidates, Needs, Note, Observation};

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
