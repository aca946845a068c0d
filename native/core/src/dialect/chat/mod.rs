//! OpenAI's Chat Completions API, which most engines speak.

pub(super) mod reader;
pub(super) mod writer;
