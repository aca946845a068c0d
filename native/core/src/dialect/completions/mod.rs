//! OpenAI's Completions API, for clients only.

pub(super) mod answer;
pub(super) mod request;
pub(super) mod stream;
