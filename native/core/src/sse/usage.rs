//! Token counts in the dialects of all APIs.

use super::object::{Object, members};

/// A usage object is some hundred bytes; a longer one is invalid.
pub(super) const MAX_USAGE_BYTES: usize = 16 * 1024;

/// The tokens of one exchange.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input tokens, including cached ones.
    pub tokens_in: u64,
    /// Output tokens, including reasoning.
    pub tokens_out: u64,
    /// Input tokens read from a cache.
    pub tokens_cached: u64,
    /// Output tokens spent on reasoning.
    pub tokens_reasoning: u64,
}

members!(USAGE:
    PROMPT_TOKENS = "prompt_tokens",
    COMPLETION_TOKENS = "completion_tokens",
    TOTAL_TOKENS = "total_tokens",
    INPUT_TOKENS = "input_tokens",
    OUTPUT_TOKENS = "output_tokens",
    CACHE_READ = "cache_read_input_tokens",
    CACHE_CREATION = "cache_creation_input_tokens",
    PROMPT_TOKENS_DETAILS = "prompt_tokens_details",
    COMPLETION_TOKENS_DETAILS = "completion_tokens_details",
    INPUT_TOKENS_DETAILS = "input_tokens_details",
    OUTPUT_TOKENS_DETAILS = "output_tokens_details",
    TOKENS = "tokens",
    BILLED_UNITS = "billed_units",
);
/// The number of fields of `USAGE` that are counts; they come first.
pub(super) const COUNTS: usize = CACHE_CREATION + 1;

/// The index of a count by its name; `None` for every other name.
#[inline]
pub(super) fn count_named(name: &[u8]) -> Option<usize> {
    Some(match name {
        b"prompt_tokens" => PROMPT_TOKENS,
        b"completion_tokens" => COMPLETION_TOKENS,
        b"total_tokens" => TOTAL_TOKENS,
        b"input_tokens" => INPUT_TOKENS,
        b"output_tokens" => OUTPUT_TOKENS,
        b"cache_read_input_tokens" => CACHE_READ,
        b"cache_creation_input_tokens" => CACHE_CREATION,
        _ => return None,
    })
}

/// The index of a details object: 0 and 1 for the input's two names, 2 and 3 for the output's.
#[inline]
pub(super) fn details_named(name: &[u8]) -> Option<usize> {
    if !name.ends_with(b"_details") {
        return None;
    }
    Some(match name {
        b"prompt_tokens_details" => 0,
        b"input_tokens_details" => 1,
        b"completion_tokens_details" => 2,
        b"output_tokens_details" => 3,
        _ => return None,
    })
}

members!(DETAILS: CACHED_TOKENS = "cached_tokens", REASONING_TOKENS = "reasoning_tokens");
members!(GEMINI:
    PROMPT_COUNT = "promptTokenCount",
    CANDIDATES_COUNT = "candidatesTokenCount",
    THOUGHTS_COUNT = "thoughtsTokenCount",
    CACHED_COUNT = "cachedContentTokenCount",
    TOTAL_COUNT = "totalTokenCount",
);

/// A usage object as written, before Anthropic's cached input is added to the rest.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Report {
    input: Option<u64>,
    output: Option<u64>,
    cached: Option<u64>,
    cache_read: Option<u64>,
    cache_creation: Option<u64>,
    reasoning: Option<u64>,
}

impl Report {
    /// Reads a `usage` object: OpenAI's, Anthropic's, Mistral's, Cohere's. None when it has no counts.
    pub(super) fn usage(text: &[u8]) -> Option<Self> {
        let object = Object::read(&USAGE, text)?;
        let detail = |a, b, detail| inner(&object, a, detail).or_else(|| inner(&object, b, detail));
        let report = Self::of(
            |field| object.count(field),
            detail(PROMPT_TOKENS_DETAILS, INPUT_TOKENS_DETAILS, CACHED_TOKENS),
            detail(COMPLETION_TOKENS_DETAILS, OUTPUT_TOKENS_DETAILS, REASONING_TOKENS),
        );
        report.or_else(|| {
            // Cohere: `tokens` are the processed tokens, `billed_units` the charged ones.
            [TOKENS, BILLED_UNITS].into_iter().find_map(|field| {
                let inner = Object::read(&USAGE, object.text(field)?)?;
                let report = Self {
                    input: inner.count(INPUT_TOKENS),
                    output: inner.count(OUTPUT_TOKENS),
                    ..Self::default()
                };
                report.counted()
            })
        })
    }

    /// A report from counts by field, and the counts in the details.
    #[inline]
    pub(super) fn of(
        count: impl Fn(usize) -> Option<u64>,
        cached: Option<u64>,
        reasoning: Option<u64>,
    ) -> Option<Self> {
        let either = |a, b| count(a).or_else(|| count(b));
        let (input, output) = (
            either(PROMPT_TOKENS, INPUT_TOKENS),
            either(COMPLETION_TOKENS, OUTPUT_TOKENS),
        );
        Self {
            // Some embedding servers report only the total.
            input: input.or_else(|| if output.is_none() { count(TOTAL_TOKENS) } else { None }),
            output,
            cached,
            cache_read: count(CACHE_READ),
            cache_creation: count(CACHE_CREATION),
            reasoning,
        }
        .counted()
    }

    /// Reads Gemini's `usageMetadata` object, whose thoughts are not included in the candidates' tokens.
    pub(super) fn gemini(text: &[u8]) -> Option<Self> {
        let object = Object::read(&GEMINI, text)?;
        let reasoning = object.count(THOUGHTS_COUNT);
        let output = match (object.count(CANDIDATES_COUNT), reasoning) {
            (None, None) => None,
            (candidates, thoughts) => Some(candidates.unwrap_or(0).saturating_add(thoughts.unwrap_or(0))),
        };
        let input = object.count(PROMPT_COUNT);
        let input = input.or_else(|| {
            if output.is_none() {
                object.count(TOTAL_COUNT)
            } else {
                None
            }
        });
        Self {
            input,
            output,
            cached: object.count(CACHED_COUNT),
            reasoning,
            ..Self::default()
        }
        .counted()
    }

    /// Merges a later report into this one; a zero there changes nothing.
    pub(super) fn merged(self, later: Self) -> Self {
        let pick = |old: Option<u64>, new: Option<u64>| new.filter(|&count| count > 0).or(old).or(new);
        Self {
            input: pick(self.input, later.input),
            output: pick(self.output, later.output),
            cached: pick(self.cached, later.cached),
            cache_read: pick(self.cache_read, later.cache_read),
            cache_creation: pick(self.cache_creation, later.cache_creation),
            reasoning: pick(self.reasoning, later.reasoning),
        }
    }

    /// The totals of the report.
    pub(super) fn total(&self) -> Usage {
        let cache_read = self.cache_read.unwrap_or(0);
        let input = self.input.unwrap_or(0).saturating_add(cache_read);
        Usage {
            tokens_in: input.saturating_add(self.cache_creation.unwrap_or(0)),
            tokens_out: self.output.unwrap_or(0),
            tokens_cached: self.cached.unwrap_or(cache_read),
            tokens_reasoning: self.reasoning.unwrap_or(0),
        }
    }

    fn counted(self) -> Option<Self> {
        (self.input.is_some() || self.output.is_some()).then_some(self)
    }
}

/// A count among the details of a field.
fn inner(object: &Object<'_>, field: usize, detail: usize) -> Option<u64> {
    Object::read(&DETAILS, object.text(field)?)?.count(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(text: &str) -> Option<(u64, u64, u64, u64)> {
        Report::usage(text.as_bytes()).map(|report| tuple(report.total()))
    }

    fn tuple(usage: Usage) -> (u64, u64, u64, u64) {
        (
            usage.tokens_in,
            usage.tokens_out,
            usage.tokens_cached,
            usage.tokens_reasoning,
        )
    }

    #[test]
    fn openai_chat_and_responses() {
        let chat = r#"{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,
            "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":5}}"#;
        assert_eq!(usage(chat), Some((9, 12, 4, 5)));
        assert_eq!(
            usage(&chat.replace("prompt", "input").replace("completion", "output")),
            Some((9, 12, 4, 5))
        );
        assert_eq!(usage(r#"{"prompt_tokens":8,"total_tokens":8}"#), Some((8, 0, 0, 0)));
        assert_eq!(usage(r#"{"total_tokens":8}"#), Some((8, 0, 0, 0)));
        assert_eq!(
            usage(r#"{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens_details":null}"#),
            Some((1, 2, 0, 0))
        );
    }

    #[test]
    fn anthropic_counts_cached_input_apart() {
        let start =
            r#"{"input_tokens":5,"cache_creation_input_tokens":10,"cache_read_input_tokens":100,"output_tokens":1}"#;
        assert_eq!(usage(start), Some((115, 1, 100, 0)));
        let delta = Report::usage(br#"{"output_tokens":42,"input_tokens":0}"#).unwrap();
        assert_eq!(
            tuple(Report::usage(start.as_bytes()).unwrap().merged(delta).total()),
            (115, 42, 100, 0)
        );
    }

    #[test]
    fn cohere_and_gemini() {
        let cohere =
            r#"{"billed_units":{"input_tokens":7.0,"output_tokens":3},"tokens":{"input_tokens":70,"output_tokens":3}}"#;
        assert_eq!(usage(cohere), Some((70, 3, 0, 0)));
        assert_eq!(
            usage(r#"{"billed_units":{"input_tokens":7.0,"output_tokens":3}}"#),
            Some((7, 3, 0, 0))
        );
        let gemini = br#"{"promptTokenCount":3,"candidatesTokenCount":4,"thoughtsTokenCount":5,"totalTokenCount":12}"#;
        assert_eq!(tuple(Report::gemini(gemini).unwrap().total()), (3, 9, 0, 5));
    }

    #[test]
    fn what_counts_nothing_is_no_usage() {
        for text in [
            "null",
            "{}",
            "[1]",
            r#"{"prompt_tokens":"9"}"#,
            r#"{"prompt_tokens":-1}"#,
            "{\"prompt_tokens\":1",
        ] {
            assert_eq!(usage(text), None, "{text}");
        }
    }
}
