//! JWT claims: checks times and audience, and builds the principal. The reference is `budgateway/auth/claims.py`.

use super::issuer::Issuer;
use super::{Stop, is_printable};
use crate::json::tree::{Object, Value};

/// OpenID Connect Core 2: `sub`.
const MAX_NAME_CHARS: usize = 255;
/// Roles, groups or models of one token.
const MAX_NAMES: usize = 256;
/// The last second of the year 9999: anything later is a mistake or an attack.
const LATEST: f64 = 253_402_300_799.0;
/// Space-separated claims: OAuth's, Entra's and Okta's.
const WORDS: [&str; 3] = ["scope", "scopes", "scp"];

/// A verified token's principal.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The principal's id: `jwt:ISSUER:USER`.
    pub id: String,
    /// Empty when it has none.
    pub tenant: String,
    /// In their order, without repetition.
    pub roles: Vec<String>,
    /// In the token's order.
    pub groups: Vec<String>,
    /// Names or globs. Empty: whatever its roles allow. One empty name: none.
    pub models: Vec<String>,
    /// Seconds since the epoch, leeway included.
    pub expires_s: f64,
}

/// The token's expiry, when it is valid now and for us.
pub(super) fn judge(claims: &Object<'_>, issuer: &Issuer, now_s: f64) -> Result<f64, Stop> {
    let skew = issuer.leeway_s;
    let Some(expires) = moment(claims, "exp")? else {
        return Stop::refused("it has no exp");
    };
    if now_s >= expires + skew {
        return Stop::refused("it has expired");
    }
    for name in ["nbf", "iat"] {
        if moment(claims, name)?.is_some_and(|moment| moment > now_s + skew) {
            return Err(Stop::Refused(format!("its {name} is in the future").into()));
        }
    }
    check_audience(claims, issuer)?;
    Ok(expires + skew)
}

/// The token's principal.
pub(super) fn principal(claims: &Object<'_>, issuer: &Issuer, expires_s: f64) -> Result<Identity, Stop> {
    let paths = &issuer.claims;
    let user = name(at(claims, &paths.user), &paths.user)?;
    if user.is_empty() {
        return Err(Stop::Refused(format!("it has no {}", paths.user).into()));
    }
    let groups = names(at(claims, &paths.groups), &paths.groups)?;
    let mut roles: Vec<String> = Vec::new();
    let mut add = |role: &str| {
        if !roles.iter().any(|known| known == role) {
            roles.push(role.to_owned());
        }
    };
    issuer.roles.iter().for_each(|role| add(role));
    names(at(claims, &paths.roles), &paths.roles)?
        .iter()
        .for_each(|role| add(role));
    for (group, granted) in &issuer.group_roles {
        if groups.iter().any(|name| **name == **group) {
            granted.iter().for_each(|role| add(role));
        }
    }
    let tenant = if issuer.tenant.is_empty() {
        name(at(claims, &paths.tenant), &paths.tenant)?
    } else {
        issuer.tenant.to_string()
    };
    let mut models = Vec::new();
    if let Some(listed) = at(claims, &paths.models) {
        models = names(Some(listed), &paths.models)?;
        if models.is_empty() {
            // No model has this name, so it may use none.
            models.push(String::new());
        }
    }
    Ok(Identity {
        id: format!("jwt:{}:{user}", issuer.name),
        tenant,
        roles,
        groups,
        models,
        expires_s,
    })
}

fn check_audience(claims: &Object<'_>, issuer: &Issuer) -> Result<(), Stop> {
    if issuer.any_audience {
        return Ok(());
    }
    let listed: &[Value<'_>] = match claims.get("aud") {
        None => &[],
        Some(Value::List(listed)) => listed,
        Some(one) => std::slice::from_ref(one),
    };
    let mut is_ours = false;
    for name in listed {
        let Value::Text(name) = name else {
            return Stop::refused("its aud is not a string");
        };
        is_ours |= issuer.audience.iter().any(|ours| **ours == **name);
    }
    // RFC 7519 4.1.3: a recipient that aud does not name must refuse. Without a configured audience we are never named.
    if is_ours || (listed.is_empty() && issuer.audience.is_empty()) {
        Ok(())
    } else {
        Stop::refused("it is for another audience")
    }
}

/// A NumericDate (RFC 7519 2), None when absent.
fn moment(claims: &Object<'_>, name: &str) -> Result<Option<f64>, Stop> {
    let moment = match claims.get(name) {
        None => return Ok(None),
        // Exact: the bound is below 2^53, and larger integers stay above it.
        Some(&Value::Int(number)) => number as f64,
        Some(&Value::Float(number)) => number,
        Some(Value::BigInt) => return Err(Stop::Unsure),
        Some(_) => f64::NAN,
    };
    if (0.0..=LATEST).contains(&moment) {
        Ok(Some(moment))
    } else {
        Err(Stop::Refused(format!("its {name} is not a number of seconds").into()))
    }
}

/// A claim by its name (`https://example.com/roles`) or by a dotted path (`realm_access.roles`); None when absent or
/// null.
fn at<'c, 'a>(claims: &'c Object<'a>, path: &str) -> Option<&'c Value<'a>> {
    let found = match claims.get(path) {
        Some(value) => value,
        None => {
            let mut names = path.split('.');
            let mut found = claims.get(names.next()?)?;
            for name in names {
                let Value::Object(inner) = found else { return None };
                found = inner.get(name)?;
            }
            found
        }
    };
    (*found != Value::Null).then_some(found)
}

/// A name from a claim, empty when absent. A number is accepted (a tenant may be one), except for `sub`.
fn name(value: Option<&Value<'_>>, what: &str) -> Result<String, Stop> {
    match value {
        None | Some(Value::Null) => Ok(String::new()),
        // Python's bound is symmetric.
        Some(Value::BigInt | Value::Int(i64::MIN)) => Err(Stop::Unsure),
        Some(Value::Int(number)) if what != "sub" => Ok(number.to_string()),
        Some(Value::Text(text)) => text_name(text, what),
        Some(_) => unreadable(what),
    }
}

fn text_name(text: &str, what: &str) -> Result<String, Stop> {
    // Control and formatting characters would end up in logs, metric labels and Redis keys.
    let is_printable = is_printable(text).ok_or(Stop::Unsure)?;
    if !is_printable || text.len() > MAX_NAME_CHARS || text.starts_with(' ') || text.ends_with(' ') {
        return unreadable(what);
    }
    Ok(text.to_owned())
}

/// A claim's list of names. A string is one name, because group names contain spaces; only claims like `scope` are
/// space-separated (RFC 6749 3.3).
fn names(value: Option<&Value<'_>>, what: &str) -> Result<Vec<String>, Stop> {
    let mut found = Vec::new();
    let mut add = |name: String| {
        if !name.is_empty() {
            found.push(name);
        }
    };
    match value {
        None => {}
        Some(Value::Text(text)) if WORDS.contains(&what.rsplit('.').next().unwrap_or(what)) => {
            // Python splits at more than blanks.
            if is_printable(text) != Some(true) {
                return Err(Stop::Unsure);
            }
            let words = text.split(' ').filter(|word| !word.is_empty());
            if words.clone().count() > MAX_NAMES {
                return no_list(what);
            }
            for word in words {
                add(text_name(word, what)?);
            }
        }
        Some(Value::Text(text)) => add(text_name(text, what)?),
        Some(Value::List(listed)) if listed.len() <= MAX_NAMES => {
            for item in listed {
                add(name(Some(item), what)?);
            }
        }
        Some(_) => return no_list(what),
    }
    Ok(found)
}

fn no_list(what: &str) -> Result<Vec<String>, Stop> {
    Err(Stop::Refused(format!("its {what} is not a list of names").into()))
}

fn unreadable(what: &str) -> Result<String, Stop> {
    Err(Stop::Refused(
        format!("its {what} is not a printable name of at most {MAX_NAME_CHARS} characters").into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_names_first_and_dotted_second() {
        let claims = Object::read(br#"{"a.b":1,"a":{"b":2,"c":{"d":3}},"n":null,"t":"x"}"#).unwrap();
        assert_eq!(at(&claims, "a.b"), Some(&Value::Int(1)));
        assert_eq!(at(&claims, "a.c.d"), Some(&Value::Int(3)));
        for absent in ["a.c.e", "t.x", "n", "x", "", "a."] {
            assert_eq!(at(&claims, absent), None, "{absent}");
        }
    }

    #[test]
    fn names_are_plain_or_python_decides() {
        let claims =
            Object::read(br#"{"l":["a",1,null,""],"s":" a  b ","c":"a\u001cb","u":"\u00e9","b":true}"#).unwrap();
        let names = |path: &str, what: &str| names(at(&claims, path), what);
        assert_eq!(names("l", "l").unwrap(), ["a", "1"]);
        assert_eq!(names("s", "x.scope").unwrap(), ["a", "b"]);
        assert!(matches!(names("s", "s"), Err(Stop::Refused(_))));
        assert_eq!(names("c", "scp"), Err(Stop::Unsure));
        assert!(matches!(names("c", "c"), Err(Stop::Refused(_))));
        assert_eq!(names("u", "u"), Err(Stop::Unsure));
        assert!(matches!(names("b", "b"), Err(Stop::Refused(_))));
    }
}
