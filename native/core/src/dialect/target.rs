//! Dialects, and what their upstreams can do.

/// An API shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `openai.chat`
    Chat,
    /// `anthropic.messages`
    Messages,
    /// `anthropic.count`
    Count,
    /// `openai.responses`
    Responses,
    /// `openai.completions`, for clients only.
    Completions,
    /// `gemini.generate`, for upstreams only.
    Gemini,
}

impl Dialect {
    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "openai.chat" => Self::Chat,
            "anthropic.messages" => Self::Messages,
            "anthropic.count" => Self::Count,
            "openai.responses" => Self::Responses,
            "openai.completions" => Self::Completions,
            "gemini.generate" => Self::Gemini,
            _ => return None,
        })
    }
}

/// The place of instructions that stand amid a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InlineSystem {
    /// In place.
    Keep,
    /// In the turn of the user before or behind.
    Fold,
    /// In front of everything.
    Hoist,
}

/// An upstream's dialect, and what its server can do.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its dialect.
    pub dialect: Dialect,
    /// The provider, for messages.
    pub name: String,
    /// True for api.openai.com, which refuses what engines ignore.
    pub is_openai: bool,
    /// True for vLLM and SGLang, which take more than OpenAI.
    pub is_engine: bool,
    /// True when fields without a counterpart are dropped where they could be refused.
    pub drops: bool,
    /// The member that limits the answer's tokens.
    pub limit_field: String,
    /// The member that holds earlier reasoning.
    pub reasoning_field: String,
    /// True when earlier reasoning is sent.
    pub replays_reasoning: bool,
    /// The place of instructions amid the conversation.
    pub inline_system: InlineSystem,
    /// True when a tool's message may hold images.
    pub tool_images_inline: bool,
    /// True when unknown top-level members pass.
    pub passes_unknown: bool,
    /// The limit of an answer's tokens where the client sets none and the API needs one.
    pub default_max_tokens: u64,
}
