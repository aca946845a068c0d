//! Usage requests: the value of a request's `stream_options` that makes a stream report its usage.

use std::sync::LazyLock;

use super::{Fields, Splice};

const ASKING: &[u8] = b"{\"include_usage\":true}";

static OPTIONS: LazyLock<Option<Fields>> = LazyLock::new(|| Fields::new(["include_usage"]).ok());

/// The text that `stream_options` must have for a stream to report its usage at its end; `options` is its current text.
///
/// `None` when it must stay unchanged: it already asks for usage, or its meaning is the upstream's decision. Without
/// the switch, vLLM treats an object as a request for usage and OpenAI does not; and it may be invalid (not an object,
/// a switch that is not a boolean or occurs twice). Its other members stay.
pub fn asking_options(options: Option<&[u8]>) -> Option<Vec<u8>> {
    let Some(options) = options.filter(|options| *options != b"null") else {
        return Some(ASKING.to_vec());
    };
    let fields = OPTIONS.as_ref()?;
    let members = fields.peek(options).ok()?;
    if !matches!(members.text(options, 0), Some(b"false" | b"null")) {
        return None;
    }
    let splice = Splice::plan(fields, &members, options, [(0, Some(&b"true"[..]))]).ok()?;
    let mut asking = Vec::with_capacity(splice.len());
    let Ok(()) = splice.pieces::<std::convert::Infallible>(|piece| {
        asking.extend_from_slice(piece);
        Ok(())
    });
    Some(asking)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_for_once() {
        for (options, asking) in [
            ("null", Some(r#"{"include_usage":true}"#)),
            (
                r#"{"x":1, "include_usage" : false}"#,
                Some(r#"{"x":1, "include_usage" : true}"#),
            ),
            (
                r#"{"include_usage":null,"x":1}"#,
                Some(r#"{"include_usage":true,"x":1}"#),
            ),
            (
                r#"{"include\u005fusage":false}"#,
                Some(r#"{"include\u005fusage":true}"#),
            ),
            ("{ }", None),
            (r#"{"x":{"include_usage":false}}"#, None),
            (r#"{"include_usage": true}"#, None),
            (r#"{"include_usage":1}"#, None),
            (r#"{"include_usage":"false"}"#, None),
            (r#"{"include_usage":false,"include_usage":false}"#, None),
            ("[]", None),
            ("true", None),
            (r#""null""#, None),
        ] {
            let told = asking_options(Some(options.as_bytes())).map(|text| String::from_utf8(text).unwrap());
            assert_eq!(told.as_deref(), asking, "{options}");
        }
        assert_eq!(asking_options(None).as_deref(), Some(ASKING));
    }
}
