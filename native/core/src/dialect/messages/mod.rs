//! Anthropic's Messages API.

pub(super) mod answer;
pub(super) mod reader;
pub(super) mod request;
pub(super) mod stream;
pub(super) mod writer;
