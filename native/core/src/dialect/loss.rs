//! Loss by name: what a request asks and the other dialect cannot say is refused, or dropped and named.

/// The reason why a request has no form in the upstream's dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The field, by its path.
    pub param: String,
    /// The reason, for the client.
    pub message: String,
    /// True when the field is valid, but has no counterpart; false when the request is invalid by its own dialect.
    pub is_unsupported: bool,
    /// True when `lossy = "drop"` would let it pass.
    pub may_be_dropped: bool,
    /// The error's code, where it is one of the client's API; empty: the gateway's own.
    pub code: &'static str,
}

impl Refusal {
    /// A request that its own dialect does not allow.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: param.into(),
            message: message.into(),
            is_unsupported: false,
            may_be_dropped: false,
            code: "",
        }
    }
}

/// Most names that are reported, and their longest.
const MAX_NAMES: usize = 32;
const MAX_NAME: usize = 64;

/// The names of what was lost.
#[derive(Debug)]
pub(crate) struct Loss<'t> {
    names: Vec<String>,
    drops: bool,
    /// The upstream's dialect and provider, for messages.
    target: &'t str,
}

impl<'t> Loss<'t> {
    /// No loss yet. `drops`: what could be refused is dropped, where the answer is still one.
    pub(crate) fn new(target: &'t str, drops: bool) -> Self {
        Self {
            names: Vec::new(),
            drops,
            target,
        }
    }

    /// Names a field that is left out.
    pub(crate) fn dropped(&mut self, name: impl AsRef<[u8]>) {
        let plain = name.as_ref().iter().take(MAX_NAME).map(|&byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'[' | b']' | b'~' => char::from(byte),
            _ => '?',
        });
        let name: String = plain.collect();
        if self.names.len() < MAX_NAMES && !self.names.contains(&name) {
            self.names.push(name);
        }
    }

    /// Names a field whose meaning is only approximated.
    pub(crate) fn approximated(&mut self, name: &str) {
        self.dropped(format!("{name}~"));
    }

    /// Refuses a field that the upstream's dialect has no form for.
    pub(crate) fn refusal(&self, param: impl Into<String>, what: &str) -> Refusal {
        Refusal {
            param: param.into(),
            message: format!("{what} cannot be asked of {}", self.target),
            is_unsupported: true,
            may_be_dropped: false,
            code: "",
        }
    }

    /// Refuses a field, or drops it where that is configured.
    pub(crate) fn lossy(&mut self, param: impl Into<String>, what: &str) -> Result<(), Refusal> {
        let param = param.into();
        if self.drops {
            self.dropped(param);
            return Ok(());
        }
        Err(Refusal {
            may_be_dropped: true,
            ..self.refusal(param, what)
        })
    }

    /// The names.
    pub(crate) fn into_names(self) -> Vec<String> {
        self.names
    }
}
