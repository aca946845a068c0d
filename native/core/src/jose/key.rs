//! Keys that verify signatures (RFC 7518, 8037), given as raw numbers. Signatures are verified by `ring`.

use ring::{hmac, signature};

/// Keys tried for one token.
pub const MAX_TRIED: usize = 8;

/// The sizes of RSA moduli that are verified here.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A signature algorithm, by its name in RFC 7518 and 8037.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// The algorithm of a name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A set of algorithms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Algorithms(u16);

impl Algorithms {
    /// True when the algorithm is in the set.
    pub fn has(self, algorithm: Algorithm) -> bool {
        self.0 & 1 << algorithm as u16 != 0
    }
}

impl FromIterator<Algorithm> for Algorithms {
    fn from_iter<T: IntoIterator<Item = Algorithm>>(algorithms: T) -> Self {
        Self(algorithms.into_iter().fold(0, |set, one| set | 1 << one as u16))
    }
}

/// An elliptic curve of ECDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Curve {
    P256,
    P384,
}

/// A key's numbers, big-endian without leading zeros unless the length is fixed.
#[derive(Debug, Clone, Copy)]
pub enum Material<'a> {
    /// A shared secret.
    Secret(&'a [u8]),
    /// An RSA public key: modulus and exponent.
    Rsa(&'a [u8], &'a [u8]),
    /// A point of a curve, uncompressed (SEC 1 2.3.3).
    Point(Curve, &'a [u8]),
    /// An Ed25519 public key.
    Ed25519(&'a [u8]),
    /// A key of another kind: only Python verifies with it.
    Other,
}

/// A verification key and its algorithms.
pub struct Key {
    pub(super) kid: Option<Box<str>>,
    pub(super) algorithms: Algorithms,
    kept: Kept,
}

/// A key's numbers in the form in which they are used.
enum Kept {
    Secret(Box<[hmac::Key; 3]>),
    Rsa(signature::RsaPublicKeyComponents<Box<[u8]>>),
    Point(Curve, Box<[u8]>),
    Ed25519(Box<[u8]>),
    Other,
}

impl Key {
    /// Makes a key. Numbers out of the range that is verified here make it a key of another kind.
    pub fn new(kid: Option<&str>, algorithms: Algorithms, material: Material<'_>) -> Self {
        let kept = match material {
            Material::Secret(secret) => Kept::Secret(Box::new(
                [hmac::HMAC_SHA256, hmac::HMAC_SHA384, hmac::HMAC_SHA512].map(|hash| hmac::Key::new(hash, secret)),
            )),
            Material::Rsa(n, e) if is_usual(n, e) => Kept::Rsa(signature::RsaPublicKeyComponents {
                n: n.into(),
                e: e.into(),
            }),
            Material::Point(curve, point) if is_point(curve, point) => Kept::Point(curve, point.into()),
            Material::Ed25519(point) if point.len() == 32 => Kept::Ed25519(point.into()),
            _ => Kept::Other,
        };
        Self {
            kid: kid.map(Into::into),
            algorithms,
            kept,
        }
    }

    /// True when this key made the signature; None when only Python can say.
    pub(super) fn verifies(&self, algorithm: Algorithm, signed: &[u8], mac: &[u8]) -> Option<bool> {
        let point = |method: &'static dyn signature::VerificationAlgorithm, point: &[u8]| {
            signature::UnparsedPublicKey::new(method, point)
                .verify(signed, mac)
                .is_ok()
        };
        Some(match (&self.kept, algorithm) {
            (Kept::Secret(keys), Algorithm::Hs256) => hmac::verify(&keys[0], signed, mac).is_ok(),
            (Kept::Secret(keys), Algorithm::Hs384) => hmac::verify(&keys[1], signed, mac).is_ok(),
            (Kept::Secret(keys), Algorithm::Hs512) => hmac::verify(&keys[2], signed, mac).is_ok(),
            (Kept::Rsa(key), _) => key.verify(rsa(algorithm)?, signed, mac).is_ok(),
            (Kept::Point(Curve::P256, key), Algorithm::Es256) => point(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Kept::Point(Curve::P384, key), Algorithm::Es384) => point(&signature::ECDSA_P384_SHA384_FIXED, key),
            (Kept::Ed25519(key), Algorithm::EdDsa) => point(&signature::ED25519, key),
            _ => return None,
        })
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static signature::RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// True for numbers that `ring` takes: it reports an unusable key like a wrong signature.
fn is_usual(n: &[u8], e: &[u8]) -> bool {
    let (Some(&first), Some(last)) = (n.first(), n.last()) else {
        return false;
    };
    let bits = n.len() * 8 - first.leading_zeros() as usize;
    let exponent = e.iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    let is_e_usual = (1..=4).contains(&e.len()) && e.first() != Some(&0) && exponent >= 3 && exponent % 2 == 1;
    first != 0 && last % 2 == 1 && RSA_BITS.contains(&bits) && is_e_usual
}

fn is_point(curve: Curve, point: &[u8]) -> bool {
    let length = match curve {
        Curve::P256 => 65,
        Curve::P384 => 97,
    };
    point.len() == length && point.first() == Some(&4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_out_of_range_are_left_to_python() {
        let modulus = |bytes: usize| {
            let mut n = vec![0xff; bytes];
            n[0] = 0x80;
            n
        };
        assert!(is_usual(&modulus(256), &[1, 0, 1]));
        assert!(is_usual(&modulus(1024), &[3]));
        assert!(is_usual(&modulus(256), &[255, 255, 255, 255]));
        for (n, e) in [
            (modulus(255), vec![1, 0, 1]),
            (modulus(1025), vec![1, 0, 1]),
            (modulus(256), vec![]),
            (modulus(256), vec![1]),
            (modulus(256), vec![1, 0, 2]),
            (modulus(256), vec![0, 3]),
            (modulus(256), vec![1, 0, 0, 0, 1]),
            ([&[0][..], &modulus(256)].concat(), vec![3]),
            (vec![], vec![3]),
        ] {
            assert!(!is_usual(&n, &e), "{} {e:?}", n.len());
        }
        let key = Key::new(None, Algorithms::default(), Material::Point(Curve::P256, &[4; 97]));
        assert_eq!(key.verifies(Algorithm::Es256, b"", b""), None);
        let key = Key::new(None, Algorithms::default(), Material::Secret(b"s"));
        assert_eq!(key.verifies(Algorithm::Hs256, b"", b""), Some(false));
        assert_eq!(key.verifies(Algorithm::Rs256, b"", b""), None);
    }

    #[test]
    fn rfc_8037_verifies() {
        // Appendix A.4.
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                .collect()
        };
        let point = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let signed = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = hex(
            "860c98d2297f3060a33f42739672d61b53cf3adefed3d3c672f320dc021b411e9d59b8628dc351e248b88b29468e0e41855b0fb7d83bb15be902bfccb8cd0a02",
        );
        let key = Key::new(None, Algorithms::default(), Material::Ed25519(&point));
        assert_eq!(key.verifies(Algorithm::EdDsa, signed, &signature), Some(true));
        assert_eq!(key.verifies(Algorithm::EdDsa, b"x", &signature), Some(false));
    }
}
