//! Gemini's generateContent, for upstreams only.

pub(super) mod reader;
pub(super) mod writer;
