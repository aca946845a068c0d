//! Verified credentials, remembered by a keyed digest: a client's next request costs one lookup.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::Arc;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::clock_cache::ClockCache;
use crate::jose::{Identity, Outcome, Verifier};

/// Rejected tokens that are remembered: to find out that a signature is wrong costs a verification.
const MAX_REJECTED: usize = 4096;
/// Classes of principals that are known here; all are forgotten when there are more.
const MAX_CLASSES: usize = 4096;

/// The kind of header that a credential came in. The same value means something else in the other kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `Authorization`.
    Authorization,
    /// A header for keys.
    Key,
}

/// A verified credential.
#[derive(Debug, PartialEq)]
pub struct Credential {
    /// The principal's id, by which limits count users.
    pub id: Box<str>,
    /// The API key's name; `None`: limits by key count by the id.
    pub key: Option<Box<str>>,
    /// Empty when it has none.
    pub tenant: Box<str>,
    /// In the token's order.
    pub groups: Box<[Box<str>]>,
    /// The principal's class: no decision tells principals of one class apart, but by the fields above.
    pub class: u32,
    /// Seconds since the epoch.
    pub expires_s: f64,
}

impl Credential {
    /// The name by which limits count keys.
    #[must_use]
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(&self.id)
    }
}

/// Digests are uniformly distributed already.
#[derive(Default)]
pub struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, digest: u128) {
        self.0 = digest as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Digests<V> = ClockCache<u128, V, BuildHasherDefault<DigestHasher>>;

/// The credentials that one configuration and its keys have verified.
///
/// Keys are digests of 128 bits under a secret key of this process, in place of the credentials: a lookup compares
/// nothing that an outsider can choose, and a dump of the memory shows no credential.
pub struct Credentials {
    secret: [u64; 2],
    verified: Digests<Arc<Credential>>,
    rejected: Digests<()>,
    /// A cache of one: many requests have the same credential as the previous one.
    last: Option<(u128, Arc<Credential>)>,
    /// Classes of principals with tokens, by roles, tenant and models.
    classes: HashMap<Box<str>, u32>,
    /// Tenants that make a difference to a principal's class.
    tenants: Box<[Box<str>]>,
    verifier: Option<Arc<Verifier>>,
    key: String,
}

impl Credentials {
    /// Remembers at most `capacity` credentials. `tenants` are those that make a difference to a principal's class.
    #[must_use]
    pub fn new(capacity: usize, tenants: Vec<Box<str>>) -> Self {
        let random = || RandomState::new().hash_one(0_u8);
        Self {
            secret: [random(), random()],
            verified: ClockCache::new(capacity),
            rejected: ClockCache::new(MAX_REJECTED),
            last: None,
            classes: HashMap::new(),
            tenants: tenants.into(),
            verifier: None,
            key: String::new(),
        }
    }

    /// Forgets all credentials, and verifies others from now on (`None`: not here).
    pub fn learn(&mut self, verifier: Option<Arc<Verifier>>) {
        self.verifier = verifier;
        self.last = None;
        self.verified.clear();
        self.rejected.clear();
    }

    /// The remembered credential in a header, if it is valid at `now_s` (seconds since the epoch).
    pub fn find(&mut self, source: Source, value: &[u8], now_s: f64) -> Option<Arc<Credential>> {
        let digest = self.digest(source, value);
        self.remembered(digest, now_s)
    }

    /// Like `find`; verifies a token that is not remembered. `None` is no refusal: others have to decide.
    pub fn find_or_verify(&mut self, source: Source, value: &[u8], now_s: f64) -> Option<Arc<Credential>> {
        let digest = self.digest(source, value);
        if let Some(found) = self.remembered(digest, now_s) {
            return Some(found);
        }
        let token = token_in(source, value)?;
        if self.rejected.get(&digest).is_some() {
            return None;
        }
        let identity = match self.verifier.as_ref()?.verify(token, now_s) {
            Outcome::Verified(identity) => identity,
            Outcome::Rejected(_) => {
                self.rejected.insert(digest, ());
                return None;
            }
            Outcome::Refused(_) | Outcome::UnknownKey(_) | Outcome::Unsure => return None,
        };
        let class = self.class(&identity)?;
        let credential = Arc::new(Credential {
            id: identity.id.into(),
            key: None,
            tenant: identity.tenant.into(),
            groups: identity.groups.into_iter().map(Into::into).collect(),
            class,
            expires_s: identity.expires_s,
        });
        self.remember(digest, credential.clone());
        Some(credential)
    }

    /// Remembers a credential that was verified elsewhere.
    pub fn insert(&mut self, source: Source, value: &[u8], credential: Credential) {
        let digest = self.digest(source, value);
        self.remember(digest, Arc::new(credential));
    }

    /// Learns the class of principals with these roles and models, and with this tenant where that makes a difference.
    pub fn name_class<'t>(
        &mut self,
        roles: impl IntoIterator<Item = &'t str>,
        tenant: &str,
        models: impl IntoIterator<Item = &'t str>,
        class: u32,
    ) {
        if self.classes.len() >= MAX_CLASSES {
            self.classes.clear();
        }
        self.write_key(roles, tenant, models);
        self.classes.insert(self.key.as_str().into(), class);
    }

    /// The number of remembered credentials.
    #[must_use]
    pub fn len(&self) -> usize {
        self.verified.len()
    }

    /// True when no credential is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.verified.is_empty()
    }

    fn remembered(&mut self, digest: u128, now_s: f64) -> Option<Arc<Credential>> {
        let found = match &self.last {
            Some((last, found)) if *last == digest => found.clone(),
            _ => {
                let found = self.verified.get(&digest)?.clone();
                self.last = Some((digest, found.clone()));
                found
            }
        };
        (now_s < found.expires_s).then_some(found)
    }

    fn remember(&mut self, digest: u128, credential: Arc<Credential>) {
        self.last = None;
        self.verified.insert(digest, credential);
    }

    fn class(&mut self, identity: &Identity) -> Option<u32> {
        self.write_key(
            identity.roles.iter().map(String::as_str),
            &identity.tenant,
            identity.models.iter().map(String::as_str),
        );
        self.classes.get(self.key.as_str()).copied()
    }

    /// Writes a class's key. Names hold no control characters (`jose::claims`).
    fn write_key<'t>(
        &mut self,
        roles: impl IntoIterator<Item = &'t str>,
        tenant: &str,
        models: impl IntoIterator<Item = &'t str>,
    ) {
        let key = &mut self.key;
        key.clear();
        for role in roles {
            key.push_str(role);
            key.push('\n');
        }
        key.push('\t');
        if self.tenants.iter().any(|known| **known == *tenant) {
            key.push_str(tenant);
        }
        key.push('\t');
        for model in models {
            key.push_str(model);
            key.push('\n');
        }
    }

    fn digest(&self, source: Source, value: &[u8]) -> u128 {
        let [first, second] = self.secret;
        let mut hasher = SipHasher13::new_with_keys(first ^ source as u64, second);
        hasher.write(value);
        hasher.finish128().as_u128()
    }
}

/// The token in a header's value, when it is written as it usually is.
fn token_in(source: Source, value: &[u8]) -> Option<&[u8]> {
    let bearer = value
        .split_at_checked(7)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, token)| token);
    let token = match source {
        Source::Authorization => bearer?,
        Source::Key => bearer.unwrap_or(value),
    };
    // Keys have no dots, tokens always have.
    let is_plain = token.contains(&b'.') && token.iter().all(u8::is_ascii_graphic);
    is_plain.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(id: &str, expires_s: f64) -> Credential {
        Credential {
            id: id.into(),
            key: None,
            tenant: "".into(),
            groups: Box::new([]),
            class: 1,
            expires_s,
        }
    }

    fn id(found: Option<Arc<Credential>>) -> Option<String> {
        found.map(|found| found.id.to_string())
    }

    #[test]
    fn a_credential_is_found_under_its_header_and_value_until_it_expires() {
        let mut all = Credentials::new(8, Vec::new());
        all.insert(Source::Authorization, b"Bearer a", credential("ada", 10.0));
        all.insert(Source::Key, b"k", credential("bob", 20.0));
        for _ in 0..2 {
            assert_eq!(
                id(all.find(Source::Authorization, b"Bearer a", 9.9)),
                Some("ada".into())
            );
            assert_eq!(id(all.find(Source::Key, b"k", 19.9)), Some("bob".into()));
            assert_eq!(id(all.find(Source::Authorization, b"Bearer a", 10.0)), None);
            assert_eq!(id(all.find(Source::Key, b"Bearer a", 1.0)), None);
            assert_eq!(id(all.find(Source::Authorization, b"k", 1.0)), None);
            assert_eq!(id(all.find(Source::Authorization, b"Bearer A", 1.0)), None);
        }
    }

    #[test]
    fn a_new_set_of_keys_forgets_all_of_them() {
        let mut all = Credentials::new(8, Vec::new());
        all.insert(Source::Key, b"k", credential("bob", 20.0));
        assert!(all.find(Source::Key, b"k", 1.0).is_some());
        all.learn(None);
        assert!(all.find(Source::Key, b"k", 1.0).is_none());
        assert!(all.is_empty());
    }

    #[test]
    fn the_digest_distinguishes_a_million_credentials() {
        let all = Credentials::new(8, Vec::new());
        let mut digests: Vec<u128> = (0..1_000_000_u32)
            .map(|number| all.digest(Source::Key, &number.to_le_bytes()))
            .collect();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 1_000_000);
    }

    #[test]
    fn a_tenant_makes_another_class_only_where_it_matters() {
        let mut all = Credentials::new(8, vec!["gold".into()]);
        all.name_class(["r"], "", ["m"], 1);
        all.name_class(["r"], "gold", ["m"], 2);
        let class = |all: &mut Credentials, tenant: &str, roles: &[&str], models: &[&str]| {
            all.class(&Identity {
                id: String::new(),
                tenant: tenant.into(),
                roles: roles.iter().map(|name| (*name).into()).collect(),
                groups: Vec::new(),
                models: models.iter().map(|name| (*name).into()).collect(),
                expires_s: 0.0,
            })
        };
        assert_eq!(class(&mut all, "", &["r"], &["m"]), Some(1));
        assert_eq!(class(&mut all, "iron", &["r"], &["m"]), Some(1));
        assert_eq!(class(&mut all, "gold", &["r"], &["m"]), Some(2));
        assert_eq!(class(&mut all, "", &["r", "m"], &[]), None);
        assert_eq!(class(&mut all, "", &["r"], &[]), None);
        assert_eq!(class(&mut all, "", &[], &["r", "m"]), None);
    }

    #[test]
    fn only_what_is_plainly_a_token_is_taken_for_one() {
        use Source::{Authorization, Key};
        assert_eq!(token_in(Authorization, b"Bearer a.b.c"), Some(&b"a.b.c"[..]));
        assert_eq!(token_in(Authorization, b"bEARER a.b.c"), Some(&b"a.b.c"[..]));
        assert_eq!(token_in(Key, b"a.b.c"), Some(&b"a.b.c"[..]));
        assert_eq!(token_in(Key, b"Bearer a.b.c"), Some(&b"a.b.c"[..]));
        for other in [
            "Bearer  a.b",
            "Bearer a.b ",
            "Basic a.b",
            "a.b",
            "Bearer bg-x",
            "Bearer",
            "",
            "Bearer \u{e9}.b",
        ] {
            assert_eq!(token_in(Authorization, other.as_bytes()), None, "{other}");
        }
    }
}
