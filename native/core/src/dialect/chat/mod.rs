//! OpenAI's Chat Completions API, which most engines speak.

pub(super) mod answer;
pub(super) mod reader;
pub(super) mod request;
pub(super) mod stream;
pub(super) mod writer;
