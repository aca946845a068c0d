//! A token issuer, with its keys and the places of its claims.

use super::key::{Algorithms, Key};

/// A trusted token issuer.
pub struct Issuer {
    /// Our name for it, in principals and logs.
    pub name: Box<str>,
    /// Required value of `iss`; empty: not checked.
    pub issuer: Box<str>,
    /// The algorithms that its tokens may have.
    pub algorithms: Algorithms,
    /// Its keys; None when none are known.
    pub keys: Option<Vec<Key>>,
    /// Its keys are fetched, and the next fetch may bring more.
    pub is_fetched: bool,
    /// Names of ours in `aud`.
    pub audience: Vec<Box<str>>,
    /// Tokens for other services are accepted.
    pub any_audience: bool,
    /// Allowed clock difference.
    pub leeway_s: f64,
    /// The names or paths of the claims.
    pub claims: ClaimPaths,
    /// The tenant of all its tokens; empty: the claim counts.
    pub tenant: Box<str>,
    /// The roles of all its tokens.
    pub roles: Vec<Box<str>>,
    /// Groups, and the roles that each of them gives.
    pub group_roles: Vec<(Box<str>, Vec<Box<str>>)>,
}

/// Names of a token's claims, dotted for a claim inside another (`realm_access.roles`).
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ClaimPaths {
    pub user: Box<str>,
    pub tenant: Box<str>,
    pub roles: Box<str>,
    pub groups: Box<str>,
    pub models: Box<str>,
}
