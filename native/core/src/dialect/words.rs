//! The vocabulary in the middle: what a request asks and what an answer says, in no dialect. Texts are spans of the
//! message that was read.

use super::text::Text;

/// A request.
#[derive(Debug, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) system: Vec<Part<'a>>,
    pub(crate) turns: Vec<Turn<'a>>,
    pub(crate) tools: Vec<Tool<'a>>,
    pub(crate) choice: Choice<'a>,
    /// False: one call at a time.
    pub(crate) parallel: Option<bool>,
    pub(crate) knobs: Vec<Knob<'a>>,
    pub(crate) limit: Option<&'a [u8]>,
    pub(crate) stop: Vec<&'a [u8]>,
    pub(crate) format: Format<'a>,
    pub(crate) thinking: Thinking,
    pub(crate) stream: bool,
    /// The client asked for the usage of its stream.
    pub(crate) wants_usage: bool,
    pub(crate) user: Option<&'a [u8]>,
    /// The client's name of that member.
    pub(crate) user_name: &'static str,
    /// `auto`, `default`, `flex`, `priority`
    pub(crate) tier: Option<&'a [u8]>,
    /// Top-level members that the reader does not know: name and value.
    pub(crate) extras: Vec<(Text<'a>, &'a [u8])>,
}

/// One turn of the conversation.
#[derive(Debug, Clone)]
pub(crate) struct Turn<'a> {
    pub(crate) who: Who,
    pub(crate) parts: Vec<Part<'a>>,
    /// Its place in the client's list, for errors.
    pub(crate) at: usize,
}

/// The one who speaks in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    User,
    Assistant,
    /// Instructions amid the conversation.
    System,
}

/// A part of a turn.
#[derive(Debug, Clone)]
pub(crate) enum Part<'a> {
    /// A text, and the mark that a cache may end behind it.
    Text(Text<'a>, Option<&'a [u8]>),
    Image(Source<'a>),
    Document {
        source: Source<'a>,
        title: Option<Text<'a>>,
    },
    Audio {
        data: &'a [u8],
        format: &'a [u8],
    },
    Thought {
        text: Text<'a>,
        signature: Option<Text<'a>>,
    },
    /// Reasoning that only its provider can read.
    Sealed(Text<'a>),
    Call {
        id: Text<'a>,
        name: Text<'a>,
        arguments: Arguments<'a>,
    },
    Result {
        id: Text<'a>,
        is_error: bool,
        parts: Vec<Part<'a>>,
    },
}

/// The place of an image's or a document's bytes.
#[derive(Debug, Clone)]
pub(crate) enum Source<'a> {
    Base64 { media: Text<'a>, data: &'a [u8] },
    Url(Text<'a>),
}

/// A call's arguments.
#[derive(Debug, Clone)]
pub(crate) enum Arguments<'a> {
    /// The text of a string that holds JSON.
    Text(Text<'a>),
    /// A JSON object.
    Object(Text<'a>),
}

/// A tool that the model may call.
#[derive(Debug, Clone)]
pub(crate) struct Tool<'a> {
    pub(crate) name: Text<'a>,
    pub(crate) description: Option<Text<'a>>,
    /// The JSON schema of its arguments; empty: none was given.
    pub(crate) schema: Text<'a>,
    pub(crate) strict: Option<bool>,
    pub(crate) cache: Option<&'a [u8]>,
}

/// The tool that the model must call.
#[derive(Debug, Clone, Default)]
pub(crate) enum Choice<'a> {
    #[default]
    Unset,
    Auto,
    Never,
    Any,
    Tool(Text<'a>),
}

/// The form of the answer's text.
#[derive(Debug, Clone, Default)]
pub(crate) enum Format<'a> {
    #[default]
    Text,
    Json,
    Schema {
        name: Option<Text<'a>>,
        schema: &'a [u8],
        strict: Option<bool>,
    },
}

/// The reasoning that is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Thinking {
    #[default]
    Unset,
    Off,
    /// As much as the model finds right.
    Adaptive,
    /// Tokens.
    Budget(u64),
    Effort(Effort),
}

/// The effort of thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effort {
    Minimal,
    Low,
    Medium,
    High,
    XHigh,
    Max,
}

impl Effort {
    /// By its word.
    pub(crate) fn of(word: &[u8]) -> Option<Self> {
        Some(match word {
            b"minimal" => Self::Minimal,
            b"low" => Self::Low,
            b"medium" => Self::Medium,
            b"high" => Self::High,
            b"xhigh" => Self::XHigh,
            b"max" => Self::Max,
            _ => return None,
        })
    }

    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::XHigh => "xhigh",
            Self::Max => "max",
        }
    }

    /// The effort that a budget of tokens stands for.
    pub(crate) fn of_budget(tokens: u64) -> Self {
        match tokens {
            0..2_048 => Self::Low,
            2_048..8_192 => Self::Medium,
            8_192..24_576 => Self::High,
            _ => Self::XHigh,
        }
    }
}

/// A setting of the sampler, by the name that all dialects derive theirs from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Knob<'a> {
    /// OpenAI's name.
    pub(crate) name: &'static str,
    /// The client's path of it, for errors.
    pub(crate) said: &'static str,
    pub(crate) value: &'a [u8],
}

/// An answer, piece by piece: documents are read into the same sequence as streams.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Word<'a> {
    Text(&'a [u8]),
    Thought(&'a [u8]),
    Signature(&'a [u8]),
    Sealed(&'a [u8]),
    Refusal(&'a [u8]),
    /// Log probabilities of the text: the elements of an array.
    Logprobs(&'a [u8]),
    CallBegin {
        key: u32,
        id: &'a [u8],
        name: &'a [u8],
    },
    /// More of a call's arguments: the text of a string that holds JSON.
    CallArguments {
        key: u32,
        text: &'a [u8],
    },
    Finish(Stop, Option<&'a [u8]>),
    Usage(Counts),
    Fault {
        message: &'a [u8],
        kind: &'a [u8],
    },
    End,
}

/// The reason that an answer ended for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    End,
    Sequence,
    Length,
    ContextFull,
    Tools,
    Filter,
    Pause,
}

/// Token counts: `input` has `cached` and `written` in it, `output` has `reasoning` in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) input: Option<u64>,
    pub(crate) output: Option<u64>,
    pub(crate) cached: Option<u64>,
    pub(crate) written: Option<u64>,
    pub(crate) reasoning: Option<u64>,
}

impl Counts {
    /// Takes over what a later report says; what it leaves out stays.
    pub(crate) fn merge(&mut self, later: Self) {
        let take = |now: &mut Option<u64>, later: Option<u64>| *now = later.or(*now);
        take(&mut self.input, later.input);
        take(&mut self.output, later.output);
        take(&mut self.cached, later.cached);
        take(&mut self.written, later.written);
        take(&mut self.reasoning, later.reasoning);
    }
}

/// The reason why an upstream's answer cannot be translated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub &'static str);

/// Takes the words of an answer.
pub(crate) trait Sink {
    /// Takes the next word.
    fn word(&mut self, word: Word<'_>) -> Result<(), Fault>;
}

impl Ask<'_> {
    /// A rough count of its tokens: four bytes of text make one, an image is 85 and a tool 12 more.
    pub(crate) fn estimate(&self) -> u64 {
        let turns = self.turns.iter().map(|turn| (&turn.parts, 4));
        let parts: usize = turns
            .chain([(&self.system, 0)])
            .map(|(parts, more)| weight(parts) + more)
            .sum();
        let tools: usize = self
            .tools
            .iter()
            .map(|tool| {
                tool.name.len() + tool.description.as_ref().map_or(0, |text| text.len()) + tool.schema.len() + 48
            })
            .sum();
        (parts + tools).div_ceil(4).max(1) as u64
    }
}

/// Four times the tokens of some parts.
fn weight(parts: &[Part<'_>]) -> usize {
    parts
        .iter()
        .map(|part| match part {
            Part::Text(text, _) | Part::Thought { text, .. } | Part::Sealed(text) => text.len(),
            Part::Image(_) | Part::Document { .. } | Part::Audio { .. } => 85 * 4,
            Part::Call { name, arguments, .. } => {
                name.len()
                    + match arguments {
                        Arguments::Text(text) => text.len(),
                        Arguments::Object(object) => object.len(),
                    }
            }
            Part::Result { parts, .. } => weight(parts),
        })
        .sum()
}
