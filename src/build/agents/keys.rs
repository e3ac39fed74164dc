//! Private keys of files, for steps: they are read here, sign here, and never leave this process.
//!
//! OpenSSH's own format (PROTOCOL.key of openssh-portable), PKCS#1, SEC 1 and PKCS#8, each as PEM and
//! unencrypted: Ed25519, RSA of 2048 to 4096 bits, ECDSA on P-256 and P-384. Others are refused by name.
//! The arithmetic is ring's, which is here for TLS.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcrun_runtime::error::{Error, Result};
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};

use super::number::remainder;
use super::protocol::{put, put_number, take};

/// The longest file with keys.
pub(super) const FILE: u64 = 100 << 10;
/// What OpenSSH's format begins with.
const MAGIC: &[u8] = b"openssh-key-v1\0";

const ED25519: &[u8] = b"ssh-ed25519";
const RSA: &[u8] = b"ssh-rsa";
/// Flags of a request to sign: with SHA-2.
const SHA256: u32 = 2;
const SHA512: u32 = 4;

/// A curve: its name in SSH, how it signs, its object identifier, the bytes of a number.
struct Curve {
    name: &'static str,
    algorithm: &'static EcdsaSigningAlgorithm,
    identifier: &'static [u8],
    width: usize,
}

const CURVES: [Curve; 2] = [
    Curve {
        name: "nistp256",
        algorithm: &ECDSA_P256_SHA256_FIXED_SIGNING,
        identifier: &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
        width: 32,
    },
    Curve {
        name: "nistp384",
        algorithm: &ECDSA_P384_SHA384_FIXED_SIGNING,
        identifier: &[0x2b, 0x81, 4, 0, 0x22],
        width: 48,
    },
];

enum Signer {
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair, &'static Curve),
}

/// A key.
pub(super) struct Key {
    public: Vec<u8>,
    comment: String,
    signer: Signer,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl Key {
    fn new(signer: Signer, comment: String) -> Self {
        let mut public = Vec::new();
        match &signer {
            Signer::Ed25519(pair) => {
                put(&mut public, ED25519);
                put(&mut public, pair.public_key().as_ref());
            }
            Signer::Rsa(pair) => {
                put(&mut public, RSA);
                let (modulus, exponent) = numbers(pair.public().as_ref()).unwrap_or_default();
                put_number(&mut public, exponent);
                put_number(&mut public, modulus);
            }
            Signer::Ecdsa(pair, curve) => {
                put(&mut public, format!("ecdsa-sha2-{}", curve.name).as_bytes());
                put(&mut public, curve.name.as_bytes());
                put(&mut public, pair.public_key().as_ref());
            }
        }
        Self {
            public,
            comment,
            signer,
        }
    }

    /// The public key as SSH writes it.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    /// Whose it is.
    pub(super) fn comment(&self) -> &str {
        &self.comment
    }

    /// A signature as SSH writes it; none if it is asked for in a way that nobody should use: with SHA-1.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let (mut out, random) = (Vec::new(), SystemRandom::new());
        match &self.signer {
            Signer::Ed25519(pair) => {
                put(&mut out, ED25519);
                put(&mut out, pair.sign(data).as_ref());
            }
            Signer::Rsa(pair) => {
                let (name, padding) = match flags {
                    flags if flags & SHA512 != 0 => (&b"rsa-sha2-512"[..], &RSA_PKCS1_SHA512),
                    flags if flags & SHA256 != 0 => (&b"rsa-sha2-256"[..], &RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut signature).ok()?;
                put(&mut out, name);
                put(&mut out, &signature);
            }
            Signer::Ecdsa(pair, curve) => {
                let signature = pair.sign(&random, data).ok()?;
                let (r, s) = signature.as_ref().split_at(curve.width);
                let mut both = Vec::new();
                put_number(&mut both, r);
                put_number(&mut both, s);
                put(&mut out, format!("ecdsa-sha2-{}", curve.name).as_bytes());
                put(&mut out, &both);
            }
        }
        Some(out)
    }
}

/// The keys of a file.
pub(super) fn read(text: &[u8], path: &Path) -> Result<Vec<Key>> {
    let name = path.display().to_string();
    let (label, headers, der) = pem(text)?;
    if headers.contains("ENCRYPTED") || label == "ENCRYPTED PRIVATE KEY" {
        return Err(encrypted());
    }
    let signer = match label.as_str() {
        "OPENSSH PRIVATE KEY" => return openssh(&der, &name),
        "RSA PRIVATE KEY" => Signer::Rsa(RsaKeyPair::from_der(&der).map_err(rejected)?),
        "EC PRIVATE KEY" => sec1(&der)?,
        "PRIVATE KEY" => pkcs8(&der)?,
        other => {
            let text = format!("a {other:?} is no private key that can be used");
            return Err(unsupported(&text));
        }
    };
    Ok(vec![Key::new(signer, name)])
}

/// Label, headers and content of what stands between the lines of a PEM file.
fn pem(text: &[u8]) -> Result<(String, String, Vec<u8>)> {
    let wrong = || {
        Error::invalid("it is neither a socket nor a private key")
            .with_hint("a key file begins with \"-----BEGIN\"")
    };
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (_, rest) = text.split_once("-----BEGIN ").ok_or_else(wrong)?;
    let (label, rest) = rest.split_once("-----").ok_or_else(wrong)?;
    let end = format!("-----END {label}-----");
    let (body, _) = rest.split_once(&end).ok_or_else(wrong)?;
    let (mut headers, mut base64) = (String::new(), String::new());
    for line in body.lines().map(str::trim) {
        match line.contains(':') {
            true => headers.push_str(line),
            false => base64.push_str(line),
        }
    }
    let bytes = STANDARD.decode(base64).map_err(|_| wrong())?;
    Ok((label.to_owned(), headers, bytes))
}

fn encrypted() -> Error {
    Error::unsupported("the key is encrypted, and nobody is asked for its passphrase")
        .with_hint("`ssh-add` it to an agent, and forward that with --ssh default")
}

fn unsupported(text: &str) -> Error {
    let hint = "there are Ed25519, RSA of 2048 to 4096 bits, and ECDSA on P-256 and P-384; an agent has \
                others: `ssh-add` it, and forward that with --ssh default";
    Error::unsupported(text).with_hint(hint)
}

fn rejected(reason: ring::error::KeyRejected) -> Error {
    unsupported(&format!("the key cannot be used: {reason}"))
}

/// `openssh-key-v1`.
fn openssh(bytes: &[u8], file: &str) -> Result<Vec<Key>> {
    let malformed = || Error::invalid("malformed OpenSSH private key");
    let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(malformed)?;
    let mut next = || take(&mut rest).ok_or_else(malformed);
    let (cipher, derivation, _) = (next()?, next()?, next()?);
    if cipher != b"none" || derivation != b"none" {
        return Err(encrypted());
    }
    let (count, after) = rest.split_first_chunk().ok_or_else(malformed)?;
    let count = u32::from_be_bytes(*count);
    rest = after;
    for _ in 0..count {
        take(&mut rest).ok_or_else(malformed)?;
    }
    let mut private = take(&mut rest).ok_or_else(malformed)?;
    let (checks, after) = private.split_first_chunk::<8>().ok_or_else(malformed)?;
    if checks[..4] != checks[4..] {
        return Err(malformed());
    }
    private = after;
    let mut keys = Vec::new();
    for _ in 0..count {
        let signer = one(&mut private)?;
        let comment = take(&mut private).ok_or_else(malformed)?;
        let comment = match String::from_utf8_lossy(comment).into_owned() {
            empty if empty.is_empty() => file.to_owned(),
            comment => comment,
        };
        keys.push(Key::new(signer, comment));
    }
    match keys.is_empty() {
        true => Err(malformed()),
        false => Ok(keys),
    }
}

/// A key of that format.
fn one(rest: &mut &[u8]) -> Result<Signer> {
    let malformed = || Error::invalid("malformed OpenSSH private key");
    let mut next = || take(rest).ok_or_else(malformed);
    let kind = next()?;
    match kind {
        ED25519 => {
            let (public, private) = (next()?, next()?);
            let seed = private.get(..32).ok_or_else(malformed)?;
            let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public);
            Ok(Signer::Ed25519(pair.map_err(rejected)?))
        }
        RSA => {
            let (n, e, d) = (next()?, next()?, next()?);
            let (inverse, p, q) = (next()?, next()?, next()?);
            rsa([n, e, d, inverse, p, q])
        }
        _ => {
            let name = String::from_utf8_lossy(kind).into_owned();
            let curve = CURVES
                .iter()
                .find(|curve| name.strip_prefix("ecdsa-sha2-") == Some(curve.name));
            let Some(curve) = curve else {
                return Err(unsupported(&format!("no key of type {name:?} can be used")));
            };
            let (_, public, private) = (next()?, next()?, next()?);
            ecdsa(curve, private, public)
        }
    }
}

fn rsa([n, e, d, inverse, p, q]: [&[u8]; 6]) -> Result<Signer> {
    let number = |bytes: &[u8]| -> Vec<u8> {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes[zeros..].to_vec()
    };
    let (n, e, d, inverse) = (number(n), number(e), number(d), number(inverse));
    let (p, q) = (number(p), number(q));
    let of = |prime: &[u8]| remainder(&d, prime);
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        dP: of(&p)?,
        dQ: of(&q)?,
        d: d.clone(),
        p,
        q,
        qInv: inverse,
    };
    let pair = RsaKeyPair::from_components(&components).map_err(rejected)?;
    Ok(Signer::Rsa(pair))
}

fn ecdsa(curve: &'static Curve, private: &[u8], public: &[u8]) -> Result<Signer> {
    let malformed = || Error::invalid("malformed private key");
    let zeros = private.iter().take_while(|byte| **byte == 0).count();
    let bare = &private[zeros..];
    let missing = curve.width.checked_sub(bare.len()).ok_or_else(malformed)?;
    let scalar = [&vec![0; missing], bare].concat();
    let random = SystemRandom::new();
    let pair =
        EcdsaKeyPair::from_private_key_and_public_key(curve.algorithm, &scalar, public, &random);
    Ok(Signer::Ecdsa(pair.map_err(rejected)?, curve))
}

fn pkcs8(der: &[u8]) -> Result<Signer> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Ok(Signer::Ed25519(pair));
    }
    for curve in &CURVES {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve.algorithm, der, &SystemRandom::new()) {
            return Ok(Signer::Ecdsa(pair, curve));
        }
    }
    Ok(Signer::Rsa(RsaKeyPair::from_pkcs8(der).map_err(rejected)?))
}

/// RFC 5915: `SEQUENCE { 1, private, [0] curve, [1] public }`.
fn sec1(der: &[u8]) -> Result<Signer> {
    let malformed = || Error::invalid("malformed EC private key");
    let mut outer = der;
    let mut rest = element(&mut outer, 0x30).ok_or_else(malformed)?;
    element(&mut rest, 0x02).ok_or_else(malformed)?;
    let private = element(&mut rest, 0x04).ok_or_else(malformed)?;
    let mut parameters = element(&mut rest, 0xa0).ok_or_else(malformed)?;
    let identifier = element(&mut parameters, 0x06).ok_or_else(malformed)?;
    let mut public = element(&mut rest, 0xa1).ok_or_else(malformed)?;
    let public = element(&mut public, 0x03).ok_or_else(malformed)?;
    let public = public.strip_prefix(&[0]).ok_or_else(malformed)?;
    let curve = CURVES.iter().find(|curve| curve.identifier == identifier);
    let curve = curve.ok_or_else(|| unsupported("no key on this curve can be used"))?;
    ecdsa(curve, private, public)
}

/// Modulus and exponent of a public key as ring writes it (RFC 8017, `RSAPublicKey`).
fn numbers(mut der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = element(&mut der, 0x30)?;
    Some((element(&mut rest, 0x02)?, element(&mut rest, 0x02)?))
}

/// Takes an element of DER with this tag off the front.
fn element<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let after = rest.strip_prefix(&[tag])?;
    let (&first, after) = after.split_first()?;
    let (length, after) = match first {
        0..=0x7f => (usize::from(first), after),
        0x81 => (usize::from(*after.first()?), &after[1..]),
        0x82 => {
            let (length, after) = after.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), after)
        }
        _ => return None,
    };
    let (content, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(content)
}

#[cfg(test)]
mod tests;
