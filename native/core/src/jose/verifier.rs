//! Finds a token's issuer, verifies the signature and returns the principal. The reference is
//! `budgateway/auth/bearer.py`.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Stop;
use super::claims::{Identity, judge, principal};
use super::compact::{Compact, Header};
use super::issuer::Issuer;
use super::key::{Algorithm, Key, MAX_TRIED};
use crate::json::tree::{Object, Value};

/// The result of a verification. Messages are for the operator's debugging, never for the client.
#[derive(Debug, PartialEq)]
pub enum Outcome<'v> {
    /// The token is valid.
    Verified(Identity),
    /// The token is not valid.
    Refused(Cow<'static, str>),
    /// The signing key is unknown; the issuer of this name may have published it since its keys were last read.
    UnknownKey(&'v str),
    /// The signature is wrong, or the signed claims are unusable: only other keys could change that.
    Rejected(Cow<'static, str>),
    /// Python decides. Rare: names beyond ASCII, odd JSON, keys that are not verified here.
    Unsure,
}

/// The issuers of one configuration with their keys. Immutable: other keys are another verifier.
pub struct Verifier {
    issuers: Vec<Issuer>,
    by_name: HashMap<Box<str>, usize>,
    unnamed: Option<usize>,
}

impl Verifier {
    /// Makes a verifier. Of two issuers with the same `iss` the last one counts, of several without one the first.
    pub fn new(issuers: Vec<Issuer>) -> Self {
        let named = issuers.iter().enumerate().filter(|(_, one)| !one.issuer.is_empty());
        Self {
            by_name: named.map(|(at, one)| (one.issuer.clone(), at)).collect(),
            unnamed: issuers.iter().position(|one| one.issuer.is_empty()),
            issuers,
        }
    }

    /// Verifies a token: the bytes after `Bearer`, without white space around them.
    pub fn verify(&self, token: &[u8], now_s: f64) -> Outcome<'_> {
        self.decide(token, now_s).unwrap_or_else(|stop| match stop {
            Stop::Refused(message) => Outcome::Refused(message),
            Stop::Unsure => Outcome::Unsure,
        })
    }

    fn decide(&self, token: &[u8], now_s: f64) -> Result<Outcome<'_>, Stop> {
        let taken = Compact::parse(token)?;
        let claims = Object::read(&taken.payload).map_err(|defect| Stop::of(defect, "payload"))?;
        let Some(issuer) = self.issuer(claims.get("iss")) else {
            return Stop::refused("its issuer is not trusted");
        };
        let Some(algorithm) = Algorithm::named(&taken.header.algorithm).filter(|one| issuer.algorithms.has(*one))
        else {
            return Stop::refused("its alg is not allowed for its issuer");
        };
        // Before any key is tried: a token that no key could make valid is not worth the cost.
        let expires_s = judge(&claims, issuer, now_s)?;
        let Some(keys) = &issuer.keys else {
            return Ok(Outcome::UnknownKey(&issuer.name));
        };
        let mut candidates = candidates(keys, &taken.header, algorithm).peekable();
        if issuer.is_fetched && candidates.peek().is_none() {
            return Ok(Outcome::UnknownKey(&issuer.name));
        }
        let mut is_verified = false;
        for key in candidates {
            let verdict = key.verifies(algorithm, taken.signed, &taken.signature);
            is_verified = verdict.ok_or(Stop::Unsure)?;
            if is_verified {
                break;
            }
        }
        if !is_verified {
            return Ok(Outcome::Rejected("its signature is invalid".into()));
        }
        match principal(&claims, issuer, expires_s) {
            Ok(identity) => Ok(Outcome::Verified(identity)),
            Err(Stop::Refused(message)) => Ok(Outcome::Rejected(message)),
            Err(Stop::Unsure) => Err(Stop::Unsure),
        }
    }

    /// The issuer that a token is checked with: the one it names, with that one's keys only.
    fn issuer(&self, name: Option<&Value<'_>>) -> Option<&Issuer> {
        let named = match name {
            Some(Value::Text(name)) => self.by_name.get(&**name).copied(),
            _ => None,
        };
        self.issuers.get(named.or(self.unnamed)?)
    }
}

/// The keys that may have signed a token: the one with its `kid`, else those without a `kid`; for a token without a
/// `kid`, every key that fits its algorithm.
fn candidates<'k>(keys: &'k [Key], header: &Header, algorithm: Algorithm) -> impl Iterator<Item = &'k Key> {
    let named = header
        .kid
        .as_ref()
        .map(|kid| keys.iter().find(|key| key.kid.as_ref() == Some(kid)));
    let fits = move |key: &&Key| match named {
        None => true,
        Some(None) => key.kid.is_none(),
        Some(Some(named)) => std::ptr::eq(named, *key),
    };
    keys.iter()
        .filter(fits)
        .filter(move |key| key.algorithms.has(algorithm))
        .take(MAX_TRIED)
}
