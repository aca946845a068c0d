//! A token that nobody signed is never verified, and what the verifier says of a header or payload follows from what a
//! slow reader says of its JSON.

use std::sync::LazyLock;

use budgateway_core::jose::{Algorithm, Algorithms, ClaimPaths, Issuer, Key, Material, Outcome, Verifier};

use crate::document::{Kind, Value, read};

const HEADER: &str = "eyJhbGciOiJIUzI1NiJ9"; // {"alg":"HS256"}
const LONGEST: usize = 8 * 1024;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let algorithms = Algorithms::from_iter([Algorithm::Hs256]);
    Verifier::new(vec![Issuer {
        name: "own".into(),
        issuer: "".into(),
        algorithms,
        keys: Some(vec![Key::new(None, algorithms, Material::Secret(&[7; 32]))]),
        is_fetched: false,
        audience: vec!["a".into()],
        any_audience: false,
        leeway_s: 30.0,
        claims: ClaimPaths {
            user: "sub".into(),
            tenant: "org.name".into(),
            roles: "roles".into(),
            groups: "groups".into(),
            models: "scope".into(),
        },
        tenant: "".into(),
        roles: vec![],
        group_roles: vec![("g".into(), vec!["r".into()])],
    }])
});

/// As the first line says.
pub fn check(text: &[u8]) {
    assert!(!matches!(VERIFIER.verify(text, 1e9), Outcome::Verified(_)));
    let part = encoded(text);
    let short = part.len() < LONGEST - 40;
    for (what, token) in [
        ("header", format!("{part}.e30.")),
        ("payload", format!("{HEADER}.{part}.AAAA")),
    ] {
        let outcome = VERIFIER.verify(token.as_bytes(), 1e9);
        let Outcome::Refused(message) = outcome else {
            assert!(!matches!(outcome, Outcome::Verified(_)));
            assert!(short);
            continue;
        };
        if !short {
            continue;
        }
        let is_flaw = ["NaN is", "Infinity is", "-Infinity is", "a JSON name", "a number is"]
            .iter()
            .any(|start| message.starts_with(start))
            || message == format!("{what} is not JSON");
        let shown = || String::from_utf8_lossy(text);
        match read(text) {
            None => assert!(is_flaw, "{message}: {}", shown()),
            Some(value) => assert_eq!(is_flaw, has_flaw(text, &value), "{message}: {}", shown()),
        }
    }
}

/// True when parsers read a valid document differently: a name twice in one object, a number that is infinite.
fn has_flaw(text: &[u8], value: &Value) -> bool {
    match &value.kind {
        Kind::Text(_) => false,
        Kind::Scalar => {
            let number = std::str::from_utf8(&text[value.at.clone()]).unwrap_or_default();
            number.contains(['.', 'e', 'E']) && number.parse().is_ok_and(|number: f64| number.is_infinite())
        }
        Kind::Array(values) => values.iter().any(|value| has_flaw(text, value)),
        Kind::Object(members) => members.iter().enumerate().any(|(at, member)| {
            members[..at].iter().any(|other| other.key == member.key) || has_flaw(text, &member.value)
        }),
    }
}

/// RFC 4648 5, without padding.
fn encoded(bytes: &[u8]) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let sum = (0..3).fold(0, |sum, at| sum << 8 | u32::from(*three.get(at).unwrap_or(&0)));
        for digit in 0..=three.len() {
            text.push(char::from(alphabet[(sum >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}
