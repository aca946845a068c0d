//! The price of tokens, the estimate of a body's tokens, and the limit headers for clients.

use crate::limit::LimitState;
use crate::out::Out;

/// Bytes of a request's JSON per token, for estimates: about 4 in English prose, fewer in code and JSON.
const BYTES_PER_TOKEN: u64 = 4;
// Dollars per million tokens are micro-dollars per token; prices are kept in millionths of these.
const SCALE: f64 = 1e6;
const PER_MICRO: u128 = 1_000_000;
/// Nine lines of at most 54 bytes.
const LINES_MAX: usize = 512;

/// The limit headers of an answer: complete header lines.
#[derive(Debug)]
pub struct LimitLines {
    buffer: [u8; LINES_MAX],
    length: usize,
}

impl LimitLines {
    /// No lines.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: [0; LINES_MAX],
            length: 0,
        }
    }

    /// The lines, each with its CRLF.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Default for LimitLines {
    fn default() -> Self {
        Self::new()
    }
}

/// The text between the values of a unit, in few long pieces, because every piece costs the same.
const REQUESTS: [&[u8]; 3] = [
    b"x-ratelimit-limit-requests: ",
    b"\r\nx-ratelimit-remaining-requests: ",
    b"\r\nx-ratelimit-reset-requests: ",
];
const TOKENS: [&[u8]; 3] = [
    b"x-ratelimit-limit-tokens: ",
    b"\r\nx-ratelimit-remaining-tokens: ",
    b"\r\nx-ratelimit-reset-tokens: ",
];
/// One dollar per token, above every real price.
const MAX_PRICE: f64 = 1e6;

/// The error for a price out of range.
#[derive(Debug, thiserror::Error)]
#[error("a price is 0 to 1,000,000 dollars for a million tokens, got {0}")]
pub struct PriceError(f64);

/// The price of a model's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    input: u64,
    cached: u64,
    output: u64,
    /// Maximum tokens that the model writes; 0: unknown.
    pub max_output_tokens: u64,
}

impl Price {
    /// A price in dollars per million tokens.
    pub fn new(input: f64, cached: f64, output: f64, max_output_tokens: u64) -> Result<Self, PriceError> {
        let scaled = |dollars: f64| {
            if (0.0..=MAX_PRICE).contains(&dollars) {
                Ok((dollars * SCALE).round() as u64)
            } else {
                Err(PriceError(dollars))
            }
        };
        Ok(Self {
            input: scaled(input)?,
            cached: scaled(cached)?,
            output: scaled(output)?,
            max_output_tokens,
        })
    }

    /// The cost in micro-dollars, rounded to the nearest. Cached tokens are part of the input.
    #[must_use]
    pub fn micros(&self, tokens_in: u64, tokens_out: u64, tokens_cached: u64) -> u64 {
        let cached = tokens_cached.min(tokens_in);
        let sum = u128::from(tokens_in - cached) * u128::from(self.input)
            + u128::from(cached) * u128::from(self.cached)
            + u128::from(tokens_out) * u128::from(self.output);
        u64::try_from((sum + PER_MICRO / 2) / PER_MICRO).unwrap_or(u64::MAX)
    }
}

/// The estimated tokens of a body, from its bytes.
#[must_use]
pub fn prompt_tokens(body_bytes: u64) -> u64 {
    body_bytes.div_ceil(BYTES_PER_TOKEN)
}

/// Writes the limit headers, from pairs of a limit's amount per period and its state: OpenAI's by unit, and the general
/// ones for requests, or for tokens where there is no request limit.
pub fn write_limit_lines(out: &mut LimitLines, requests: Option<(u64, LimitState)>, tokens: Option<(u64, LimitState)>) {
    let Some((amount, state)) = requests.or(tokens) else {
        return;
    };
    let mut lines = Out::new(&mut out.buffer);
    if let Some((amount, state)) = requests {
        write_unit(&mut lines, REQUESTS, amount, &state);
    }
    if let Some((amount, state)) = tokens {
        write_unit(&mut lines, TOKENS, amount, &state);
    }
    lines.put(b"rate-limit-limit: ");
    lines.number(amount);
    lines.put(b"\r\nrate-limit-remaining: ");
    lines.number(state.left);
    lines.put(b"\r\nrate-limit-reset: ");
    lines.number(state.reset_ns.div_ceil(1_000_000_000));
    lines.put(b"\r\n");
    out.length = LINES_MAX - lines.room();
}

/// Writes the lines of one unit. Inlined, so that the lengths of the names are known.
#[inline(always)]
fn write_unit(out: &mut Out<'_>, [limit, remaining, reset]: [&[u8]; 3], amount: u64, state: &LimitState) {
    out.put(limit);
    out.number(amount);
    out.put(remaining);
    out.number(state.left);
    out.put(reset);
    write_duration(out, state.reset_ns);
    out.put(b"\r\n");
}

/// Writes a duration as OpenAI does, in Go's format: `60ms`, `1.5s`, `6m0s`, `23h59m0s`.
fn write_duration(out: &mut Out<'_>, ns: u64) {
    let ms = ns.div_ceil(1_000_000);
    if ms < 1_000 {
        out.number(ms);
        out.put(if ms == 0 { b"s" } else { b"ms" });
        return;
    }
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    if hours > 0 {
        out.number(hours);
        out.put(b"h");
    }
    if ms >= 60_000 {
        out.number(minutes);
        out.put(b"m");
        // Rounded up, but never to 60 s.
        let seconds = (ms % 60_000).div_ceil(1_000).min(59);
        out.number(seconds);
        out.put(b"s");
        return;
    }
    out.number(ms / 1_000);
    let rest = ms % 1_000;
    if rest > 0 {
        let digits = [
            b'0' + (rest / 100) as u8,
            b'0' + (rest / 10 % 10) as u8,
            b'0' + (rest % 10) as u8,
        ];
        let shown = digits
            .iter()
            .rposition(|digit| *digit != b'0')
            .map_or(0, |last| last + 1);
        out.put(b".");
        out.put(&digits[..shown]);
    }
    out.put(b"s");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_exact_to_the_micro_dollar() {
        let price = Price::new(2.5, 1.25, 10.0, 0).unwrap();
        assert_eq!(price.micros(1_000, 500, 0), 7_500);
        assert_eq!(price.micros(1_000, 500, 400), 7_000);
        assert_eq!(price.micros(10, 0, 400), 13);
        let cheap = Price::new(0.02, 0.02, 0.0, 0).unwrap();
        assert_eq!(
            [24, 25, 1_000_000].map(|tokens| cheap.micros(tokens, 0, 0)),
            [0, 1, 20_000]
        );
        let dear = Price::new(1e6, 1e6, 1e6, 0).unwrap();
        assert_eq!(dear.micros(u64::MAX, u64::MAX, 0), u64::MAX);
        for wrong in [-0.1, 1e7, f64::NAN, f64::INFINITY] {
            assert!(Price::new(wrong, 0.0, 0.0, 0).is_err());
        }
    }

    #[test]
    fn durations_are_gos() {
        let shown = |ns| {
            let mut buffer = [0; 32];
            let mut out = Out::new(&mut buffer);
            write_duration(&mut out, ns);
            let length = 32 - out.room();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        for (ms, text) in [
            (0, "0s"),
            (60, "60ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (1_234, "1.234s"),
            (59_010, "59.01s"),
            (60_000, "1m0s"),
            (359_400, "5m59s"),
            (360_000, "6m0s"),
            (3_600_000, "1h0m0s"),
            (86_340_000, "23h59m0s"),
        ] {
            assert_eq!(shown(ms * 1_000_000), text);
        }
        assert_eq!(shown(1), "1ms");
    }

    #[test]
    fn lines_tell_both_units_and_the_requests_twice() {
        let state = |left, reset_ns| LimitState {
            limit: 0,
            left,
            reset_ns,
        };
        let mut out = LimitLines::new();
        write_limit_lines(
            &mut out,
            Some((60, state(9, 1_000_000_000))),
            Some((5000, state(40, 1))),
        );
        assert_eq!(
            str::from_utf8(out.as_bytes()).unwrap(),
            "x-ratelimit-limit-requests: 60\r\nx-ratelimit-remaining-requests: 9\r\nx-ratelimit-reset-requests: 1s\r\n\
             x-ratelimit-limit-tokens: 5000\r\nx-ratelimit-remaining-tokens: 40\r\nx-ratelimit-reset-tokens: 1ms\r\n\
             rate-limit-limit: 60\r\nrate-limit-remaining: 9\r\nrate-limit-reset: 1\r\n"
        );
        let mut out = LimitLines::new();
        write_limit_lines(&mut out, None, None);
        assert!(out.as_bytes().is_empty());
        let most = Some((u64::MAX, state(u64::MAX, u64::MAX)));
        write_limit_lines(&mut out, most, most);
        assert!(out.as_bytes().ends_with(b"rate-limit-reset: 18446744074\r\n"));
    }
}
