//! Compact JWS (RFC 7515), split strictly: nothing in it is trusted before its signature is verified.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Stop, is_printable};
use crate::json::tree::{Object, Value};

/// The limit of a header line.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
const MAX_KID_CHARS: usize = 256;

/// Header parameters that change the signed content or the method (RFC 7515 4.1.11, 7516, 7797): none is implemented.
const REFUSED_PARAMETERS: [&str; 9] = ["crit", "zip", "b64", "enc", "epk", "apu", "apv", "p2s", "p2c"];
/// RFC 8725 3.11: a token made for something else (a logout, a DPoP proof) is no access token.
const TYPES: [&str; 5] = ["jwt", "at+jwt", "application/jwt", "application/at+jwt", "jose"];

/// A token split into its parts. Nothing in it is verified.
pub(super) struct Compact<'a> {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

/// The parameters of a header that count. `jwk`, `jku`, `x5u` and `x5c` are ignored: a forger would name their own key
/// there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) algorithm: Box<str>,
    pub(super) kid: Option<Box<str>>,
}

impl<'a> Compact<'a> {
    /// Splits a token, which must be a compact JWS with a plain header.
    pub(super) fn parse(token: &'a [u8]) -> Result<Self, Stop> {
        if token.len() > MAX_TOKEN_BYTES {
            return Stop::refused("longer than 8 KiB");
        }
        let Some(([head, payload, signature], signed)) = split(token) else {
            return Stop::refused("not three parts of base64url without padding");
        };
        Ok(Self {
            header: Header::read(&head)?,
            payload,
            signed,
            signature,
        })
    }
}

/// The decoded parts, and the text that was signed.
///
/// The decoder refuses padding, and unused bits other than zero: one signature could be written in sixteen ways.
fn split(token: &[u8]) -> Option<([Vec<u8>; 3], &[u8])> {
    let first = memchr::memchr(b'.', token)?;
    let last = memchr::memrchr(b'.', token)?;
    let decoded = |part: Option<&[u8]>| URL_SAFE_NO_PAD.decode(part?).ok();
    let parts = [
        decoded(token.get(..first))?,
        // A third dot between them is no base64url; the only one leaves no range.
        decoded(token.get(first + 1..last))?,
        decoded(token.get(last + 1..))?,
    ];
    Some((parts, token.get(..last)?))
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, Stop> {
        let header = Object::read(bytes).map_err(|defect| Stop::of(defect, "header"))?;
        for name in REFUSED_PARAMETERS {
            if header.get(name).is_some() {
                return Err(Stop::Refused(format!("header has '{name}'").into()));
            }
        }
        match header.get("typ") {
            None => {}
            Some(Value::Text(kind)) if TYPES.iter().any(|name| name.eq_ignore_ascii_case(kind)) => {}
            // A few letters beyond ASCII are ASCII in lower case.
            Some(Value::Text(kind)) if !kind.is_ascii() => return Err(Stop::Unsure),
            Some(_) => return Stop::refused("header's typ is not an access token's"),
        }
        let is_json = |kind: &Value<'_>| matches!(kind, Value::Text(kind) if kind == "json");
        if header.get("cty").is_some_and(|kind| !is_json(kind)) {
            return Stop::refused("a token inside a token");
        }
        let Some(Value::Text(algorithm)) = header.get("alg") else {
            return Stop::refused("header has no alg");
        };
        let kid = match header.get("kid") {
            None | Some(Value::Null) => None,
            Some(Value::Text(kid)) => match is_printable(kid) {
                None => return Err(Stop::Unsure),
                Some(true) if kid.len() <= MAX_KID_CHARS => Some(kid.as_ref().into()),
                Some(_) => return refused_kid(),
            },
            Some(_) => return refused_kid(),
        };
        Ok(Self {
            algorithm: algorithm.as_ref().into(),
            kid,
        })
    }
}

fn refused_kid() -> Result<Header, Stop> {
    Stop::refused("header's kid is not printable text of at most 256 characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Header, Stop> {
        Header::read(text.as_bytes())
    }

    #[test]
    fn a_token_is_three_parts_with_one_spelling() {
        let token = b"eyJhbGciOiJIUzI1NiJ9.e30.AAE";
        let compact = Compact::parse(token).ok().unwrap();
        assert_eq!(&*compact.header.algorithm, "HS256");
        assert_eq!((&*compact.payload, &*compact.signature), (&b"{}"[..], &b"\0\x01"[..]));
        assert_eq!(compact.signed, b"eyJhbGciOiJIUzI1NiJ9.e30");
        for twin in [
            "eyJhbGciOiJIUzI1NiJ9.e30.AAF",
            "eyJhbGciOiJIUzI1NiJ9.e31.AAE",
            "eyJhbGciOiJIUzI1NiJ9.e30=.AAE",
            "eyJhbGciOiJIUzI1NiJ9.e30.AAE=",
            "eyJhbGciOiJIUzI1NiJ9.e30.A",
            "eyJhbGciOiJIUzI1NiJ9.e30.AA+E",
            "eyJhbGciOiJIUzI1NiJ9.e30.AAE\n",
            "eyJhbGciOiJIUzI1NiJ9.e30.AAE.",
            "eyJhbGciOiJIUzI1NiJ9..e30.AAE",
            "eyJhbGciOiJIUzI1NiJ9.e30",
            "eyJhbGciOiJIUzI1NiJ9",
            "",
            ".",
        ] {
            assert_eq!(
                Compact::parse(twin.as_bytes()).err(),
                Some(Stop::Refused("not three parts of base64url without padding".into())),
                "{twin}"
            );
        }
        assert_eq!(
            Compact::parse(b"..").err(),
            Some(Stop::Refused("header is not JSON".into()))
        );
    }

    #[test]
    fn a_header_is_plain() {
        let refused = |text| matches!(read(text), Err(Stop::Refused(_)));
        assert!(read(r#"{"alg":"x","typ":"AT+JWT","cty":"json","kid":null}"#).is_ok());
        assert_eq!(read(r#"{"alg":"x","kid":"a\/b"}"#).unwrap().kid, Some("a/b".into()));
        assert!(refused(r#"{"alg":"x","crit":null}"#));
        assert!(refused(r#"{"alg":"x","cty":"JWT"}"#));
        assert!(refused(r#"{"alg":"x","cty":null}"#));
        assert!(refused(r#"{"alg":"x","typ":null}"#));
        assert!(refused(r#"{"alg":null}"#));
        assert!(refused(r#"{"alg":"x","kid":"\u007f"}"#));
        assert!(refused(r#"{"alg":"x","kid":1}"#));
        assert_eq!(read(r#"{"alg":"x","kid":"é"}"#), Err(Stop::Unsure));
        assert_eq!(read(r#"{"alg":"x","typ":"é"}"#), Err(Stop::Unsure));
    }
}
