//! Signed tokens (JWS, RFC 7515) and their claims, without Python: the same answers as `budgateway/jose` and
//! `budgateway/auth/claims.py`, or none. Keys come as raw numbers, because reading keys stays with PyJWT.

mod claims;
mod compact;
mod issuer;
mod key;
mod verifier;

pub use claims::Identity;
pub use issuer::{ClaimPaths, Issuer};
pub use key::{Algorithm, Algorithms, Curve, Key, MAX_TRIED, Material};
pub use verifier::{Outcome, Verifier};

use std::borrow::Cow;

use crate::json::tree::Defect;

/// The reason why one step of a verification ends it.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// The token is not valid. The message is the one that Python gives.
    Refused(Cow<'static, str>),
    /// Python decides.
    Unsure,
}

impl Stop {
    fn refused<T>(message: &'static str) -> Result<T, Self> {
        Err(Self::Refused(Cow::Borrowed(message)))
    }

    /// `what` is the part of the token that the document was in.
    fn of(defect: Defect, what: &str) -> Self {
        Self::Refused(match defect {
            Defect::Syntax => format!("{what} is not JSON").into(),
            Defect::NoObject => format!("{what} is not a JSON object").into(),
            Defect::Constant(word) => format!("{word} is not JSON").into(),
            Defect::Repeated => "a JSON name is repeated".into(),
            Defect::TooLarge => "a number is too large".into(),
            Defect::Unsure => return Self::Unsure,
        })
    }
}

/// True when Python's `str.isprintable` says so; None for text beyond ASCII, about which only Python knows.
fn is_printable(text: &str) -> Option<bool> {
    text.is_ascii()
        .then(|| text.bytes().all(|byte| matches!(byte, b' '..=b'~')))
}
