//! The requests of a run: all alike, or spread over credentials and models in a seeded order.

use std::rc::Rc;

/// The requests that a run sends.
#[derive(Debug)]
pub(crate) struct Mix {
    /// The text around the credential and the model's name.
    pieces: [Vec<u8>; 3],
    tokens: Vec<String>,
    models: Vec<String>,
    /// The first of them; the only one where there is nothing to choose.
    first: Rc<[u8]>,
}

impl Mix {
    /// Requests `pieces[0] TOKEN pieces[1] MODEL pieces[2]`. An empty list leaves its place empty.
    ///
    /// All models must have one length: the pieces have a Content-Length in them.
    pub(crate) fn spread(pieces: [Vec<u8>; 3], tokens: Vec<String>, models: Vec<String>) -> Self {
        let mut mix = Self {
            pieces,
            tokens,
            models,
            first: Rc::from([]),
        };
        mix.first = mix.compose(0, 0);
        mix
    }

    /// The first request: one of those that are sent.
    pub(crate) fn first(&self) -> &[u8] {
        &self.first
    }

    /// The next request in that order.
    pub(crate) fn next(&self, order: &mut Order) -> Rc<[u8]> {
        if self.tokens.len() < 2 && self.models.len() < 2 {
            return Rc::clone(&self.first);
        }
        let token = order.below(self.tokens.len());
        let model = order.below(self.models.len());
        self.compose(token, model)
    }

    fn compose(&self, token: usize, model: usize) -> Rc<[u8]> {
        let [start, middle, end] = &self.pieces;
        let (token, model) = (word(&self.tokens, token), word(&self.models, model));
        [start, token, middle, model, end].concat().into()
    }
}

fn word(words: &[String], at: usize) -> &[u8] {
    words.get(at).map_or(b"", |word| word.as_bytes())
}

/// A pseudo-random sequence that depends on its seed alone (`SplitMix64`; Steele, Lea, Flood: OOPSLA 2014).
pub(crate) struct Order(u64);

impl Order {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `count`; 0 when there is none.
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from((u128::from(mixed) * count as u128) >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn requests(tokens: usize, models: usize) -> Mix {
        let pieces = [b"<".to_vec(), b"|".to_vec(), b">".to_vec()];
        let names = |letter: char, count: usize| (0..count).map(|number| format!("{letter}{number:03}")).collect();
        Mix::spread(pieces, names('t', tokens), names('m', models))
    }

    fn texts(requests: &Mix, seed: u64, count: usize) -> Vec<String> {
        let mut order = Order::seeded(seed);
        (0..count)
            .map(|_| String::from_utf8_lossy(&requests.next(&mut order)).into_owned())
            .collect()
    }

    #[test]
    fn one_of_each_is_one_request() {
        assert_eq!(texts(&requests(0, 0), 1, 2), ["<|>", "<|>"]);
        assert_eq!(texts(&requests(1, 1), 1, 2), ["<t000|m000>", "<t000|m000>"]);
        assert_eq!(requests(1, 1).first(), b"<t000|m000>");
    }

    #[test]
    fn the_order_depends_on_the_seed_alone() {
        let spread = requests(100, 100);
        assert_eq!(texts(&spread, 7, 50), texts(&spread, 7, 50));
        assert_ne!(texts(&spread, 7, 50), texts(&spread, 8, 50));
    }

    #[test]
    fn requests_are_spread_evenly_over_tokens_and_models_apart() {
        let mut counts = BTreeMap::<String, u32>::new();
        for text in texts(&requests(20, 5), 1, 100_000) {
            *counts.entry(text).or_default() += 1;
        }
        assert_eq!(counts.len(), 20 * 5, "every pair occurs");
        assert!(counts.values().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}
