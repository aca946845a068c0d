//! The `traceparent` header (W3C Trace Context, section 3.2).

/// The span of another program that called us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace's id.
    pub trace_id: u128,
    /// The span's id.
    pub span_id: u64,
    /// True when the caller records the trace.
    pub is_sampled: bool,
}

impl Parent {
    /// Parses a header's value; `None` for an invalid one, which counts as absent (section 3.2.2.2).
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(55)?;
        let is_separated = [2, 35, 52].iter().all(|&at| known.get(at) == Some(&b'-'));
        let version = hex(known.get(..2)?)?;
        // Version 00 has nothing behind the flags; later ones may, after a dash.
        let ends = rest.is_empty() || (version > 0 && rest.first() == Some(&b'-'));
        if !is_separated || !ends || version == 0xff {
            return None;
        }
        let trace_id = hex(known.get(3..35)?)?;
        let span_id = hex(known.get(36..52)?)? as u64;
        let flags = hex(known.get(53..55)?)?;
        (trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id,
            is_sampled: flags & 1 != 0,
        })
    }
}

/// Lower-case digits only, as the header demands.
fn hex(digits: &[u8]) -> Option<u128> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    digits
        .iter()
        .try_fold(0, |number, byte| Some(number << 4 | u128::from(digit(byte)?)))
}
