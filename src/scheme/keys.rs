//! Public keys: reading them in the forms that providers publish them in, and verifying with them.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED,
    ECDSA_P521_SHA512_FIXED, ED25519, RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::json::{self, Pointer};

/// What a public key verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicAlgorithm {
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ECDSA on P-256 with SHA-256, the signature as DER.
    EcdsaP256,
    /// The same with both halves at full length (RFC 7518).
    Es256,
    /// P-384 with SHA-384, full length.
    Es384,
    /// P-521 with SHA-512, full length.
    Es512,
    /// PKCS #1 v1.5 with SHA-1.
    RsaSha1,
    /// PKCS #1 v1.5 with SHA-256.
    RsaSha256,
    /// PKCS #1 v1.5 with SHA-384.
    RsaSha384,
    /// PKCS #1 v1.5 with SHA-512.
    RsaSha512,
}

impl PublicAlgorithm {
    /// Lengths that a signature can have, in bytes.
    pub(super) const fn signature_bytes(self) -> (usize, usize) {
        match self {
            Self::Ed25519 | Self::Es256 => (64, 64),
            Self::EcdsaP256 => (8, 72),
            Self::Es384 => (96, 96),
            Self::Es512 => (132, 132),
            Self::RsaSha1 => (128, 1024),
            Self::RsaSha256 | Self::RsaSha384 | Self::RsaSha512 => (256, 1024),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    material: Material,
    /// Its id, where its document names one.
    id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Ed25519(Vec<u8>),
    /// An uncompressed point.
    Ec(Curve, Vec<u8>),
    /// Modulus and exponent, big-endian.
    Rsa(Vec<u8>, Vec<u8>),
    /// RSAPublicKey of RFC 8017.
    RsaDer(Vec<u8>),
}

/// Why a document gives no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not of the form that the scheme says.
    #[error("is not {0}")]
    Form(&'static str),
    /// Not of the alphabet that the scheme says, or broken off: what it should be, and the place, from 1, where it is not.
    #[error("is not {0}: character {1} cannot stand where it does, or what follows is missing")]
    Alphabet(&'static str, usize),
    /// Nothing is left of it once it is decoded.
    #[error("holds nothing but its prefix")]
    Empty,
    /// A public key where the scheme wants a secret that both sides share.
    #[error("is a public key; this scheme wants the shared signing secret")]
    Public,
    /// A private key, which the gateway has no use for.
    #[error(
        "is a private key; the route wants the sender's public key, or the shared signing secret"
    )]
    Private,
    /// The document holds no key that the scheme can use.
    #[error("holds no public key that this scheme can use")]
    NoKey,
    /// The certificate does not hold.
    #[error("is a certificate that is not valid: {0}")]
    Certificate(&'static str),
}

impl PublicKey {
    /// A raw Ed25519 key.
    pub(super) fn ed25519(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() != 32 {
            return Err(KeyError::Form("the 32 bytes of an Ed25519 key"));
        }
        Ok(Self {
            material: Material::Ed25519(bytes.to_vec()),
            id: None,
        })
    }

    /// Its id, where its document names one.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether it can verify with this algorithm.
    pub(super) fn fits(&self, algorithm: PublicAlgorithm) -> bool {
        use PublicAlgorithm as A;
        match &self.material {
            Material::Ed25519(_) => algorithm == A::Ed25519,
            Material::Ec(Curve::P256, _) => matches!(algorithm, A::EcdsaP256 | A::Es256),
            Material::Ec(Curve::P384, _) => algorithm == A::Es384,
            Material::Ec(Curve::P521, _) => algorithm == A::Es512,
            Material::Rsa(..) | Material::RsaDer(_) => {
                matches!(
                    algorithm,
                    A::RsaSha1 | A::RsaSha256 | A::RsaSha384 | A::RsaSha512
                )
            }
        }
    }

    /// Whether a signature that names this key id can be of this key.
    pub(super) fn is_named(&self, id: Option<&str>) -> bool {
        match (&self.id, id) {
            (Some(own), Some(asked)) => own == asked,
            _ => true,
        }
    }

    pub(super) fn verifies(
        &self,
        algorithm: PublicAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        use PublicAlgorithm as A;
        if !self.fits(algorithm) {
            return false;
        }
        let rsa: &RsaParameters = match algorithm {
            A::RsaSha1 => &RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
            A::RsaSha384 => &RSA_PKCS1_2048_8192_SHA384,
            A::RsaSha512 => &RSA_PKCS1_2048_8192_SHA512,
            A::Ed25519 | A::EcdsaP256 | A::Es256 | A::Es384 | A::Es512 | A::RsaSha256 => {
                &RSA_PKCS1_2048_8192_SHA256
            }
        };
        let with = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key)
                .verify(message, signature)
                .is_ok()
        };
        match &self.material {
            Material::Rsa(n, e) => RsaPublicKeyComponents { n, e }
                .verify(rsa, message, signature)
                .is_ok(),
            Material::RsaDer(key) => UnparsedPublicKey::new(rsa, key)
                .verify(message, signature)
                .is_ok(),
            Material::Ed25519(key) => with(&ED25519, key),
            Material::Ec(_, point) => match algorithm {
                A::EcdsaP256 => with(&ECDSA_P256_SHA256_ASN1, point),
                A::Es256 => with(&ECDSA_P256_SHA256_FIXED, point),
                A::Es384 => with(&ECDSA_P384_SHA384_FIXED, point),
                A::Es512 => with(&ECDSA_P521_SHA512_FIXED, point),
                A::Ed25519 | A::RsaSha1 | A::RsaSha256 | A::RsaSha384 | A::RsaSha512 => false,
            },
        }
    }
}

/// Whether a text looks like a document of public keys, so that it must never serve as a shared secret.
pub(super) fn looks_public(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    text.starts_with(b"-----BEGIN PUBLIC KEY")
        || text.starts_with(b"-----BEGIN CERTIFICATE")
        || text.starts_with(b"-----BEGIN RSA PUBLIC KEY")
        || (text.starts_with(b"{") && form_of_jwk(text))
        || std::str::from_utf8(text).is_ok_and(|text| of_base64(text).is_ok())
}

fn form_of_jwk(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    ["/kty", "/keys"]
        .iter()
        .any(|pointer| member(text, pointer).is_some())
}

/// The keys of a document: PEM, a JWK, a key set, or a SubjectPublicKeyInfo in base64.
///
/// # Errors
/// If it is none of them, or holds no key of a known kind.
pub(super) fn document(text: &[u8]) -> Result<Vec<PublicKey>, KeyError> {
    let text = std::str::from_utf8(text)
        .map_err(|_| KeyError::Form("text"))?
        .trim();
    let keys = if text.starts_with("-----BEGIN CERTIFICATE") {
        // The first is the signer's; what follows is its chain.
        vec![of_certificate(&first_certificate(text)?)?]
    } else if text.starts_with("-----BEGIN PUBLIC KEY") {
        let body: String = text
            .strip_prefix("-----BEGIN PUBLIC KEY-----")
            .and_then(|rest| rest.split("-----END PUBLIC KEY-----").next())
            .unwrap_or_default()
            .split_ascii_whitespace()
            .collect();
        vec![of_base64(&body)?]
    } else if text.starts_with('{') {
        key_set(text)?
    } else {
        vec![of_base64(text)?]
    };
    if keys.is_empty() {
        Err(KeyError::NoKey)
    } else {
        Ok(keys)
    }
}

pub(super) fn first_certificate(text: &str) -> Result<CertificateDer<'static>, KeyError> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .next()
        .and_then(Result::ok)
        .ok_or(KeyError::Form("a certificate in PEM"))
}

fn of_certificate(certificate: &CertificateDer<'_>) -> Result<PublicKey, KeyError> {
    let certificate = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| KeyError::Form("a certificate"))?;
    spki(&certificate.subject_public_key_info())
}

fn of_base64(text: &str) -> Result<PublicKey, KeyError> {
    let der = BASE64
        .decode(text.as_bytes())
        .map_err(|_| KeyError::Form("a public key: PEM, JWK, key set or base64"))?;
    spki(&der)
}

/// Reads one DER element with this tag: its content, and what follows.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (len, rest) = rest.split_first()?;
    if *first != tag {
        return None;
    }
    let (len, rest) = match *len {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (
            usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?)),
            rest.get(2..)?,
        ),
        _ => return None,
    };
    Some((rest.get(..len)?, rest.get(len..)?))
}

/// SubjectPublicKeyInfo (RFC 5280, RFC 5480, RFC 8410).
fn spki(der: &[u8]) -> Result<PublicKey, KeyError> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const ED25519_OID: &[u8] = &[0x2b, 0x65, 0x70];
    const CURVES: [(&[u8], Curve); 3] = [
        (
            &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Curve::P256,
        ),
        (&[0x2b, 0x81, 0x04, 0x00, 0x22], Curve::P384),
        (&[0x2b, 0x81, 0x04, 0x00, 0x23], Curve::P521),
    ];
    let read = || {
        let (outer, after) = element(der, 0x30)?;
        let (algorithm, rest) = element(outer, 0x30)?;
        let (oid, parameters) = element(algorithm, 0x06)?;
        let (bits, end) = element(rest, 0x03)?;
        let (unused, key) = bits.split_first()?;
        if !after.is_empty() || !end.is_empty() || *unused != 0 {
            return None;
        }
        let material = match oid {
            RSA => Material::RsaDer(key.to_vec()),
            ED25519_OID if key.len() == 32 => Material::Ed25519(key.to_vec()),
            EC => {
                let (curve, _) = element(parameters, 0x06)?;
                let (_, curve) = CURVES.iter().find(|(oid, _)| *oid == curve)?;
                Material::Ec(*curve, key.to_vec())
            }
            _ => return None,
        };
        Some(PublicKey { material, id: None })
    };
    read().ok_or(KeyError::Form("a public key of a known kind"))
}

/// A member of a JSON object, as text.
fn member(document: &str, pointer: &str) -> Option<String> {
    let raw = json::find(document, &Pointer::parse(pointer)?, None).ok()??;
    match json::text(raw) {
        Some(text) => String::from_utf8(text.into_owned()).ok(),
        None => Some(raw.to_owned()),
    }
}

/// A JWK or a key set (RFC 7517). Keys of other kinds, and for encryption, are left out.
fn key_set(document: &str) -> Result<Vec<PublicKey>, KeyError> {
    let all = match member(document, "/keys") {
        Some(keys) => json::array(&keys)
            .ok_or(KeyError::Form("a key set"))?
            .into_iter()
            .take(64)
            .filter_map(jwk)
            .collect(),
        None => jwk(document).into_iter().collect(),
    };
    Ok(all)
}

fn jwk(document: &str) -> Option<PublicKey> {
    if member(document, "/use").is_some_and(|usage| usage != "sig") {
        return None;
    }
    let bytes = |name: &str| {
        BASE64URL_NOPAD
            .decode(member(document, name)?.trim_end_matches('=').as_bytes())
            .ok()
    };
    let material = match member(document, "/kty")?.as_str() {
        "OKP" if member(document, "/crv")? == "Ed25519" => {
            let key = bytes("/x")?;
            (key.len() == 32).then_some(Material::Ed25519(key))?
        }
        "EC" => {
            let (curve, size): (_, usize) = match member(document, "/crv")?.as_str() {
                "P-256" => (Curve::P256, 32),
                "P-384" => (Curve::P384, 48),
                "P-521" => (Curve::P521, 66),
                _ => return None,
            };
            let mut point = vec![4];
            for name in ["/x", "/y"] {
                // Some publish coordinates without their leading zero bytes.
                let half = bytes(name)?;
                point.resize(point.len() + size.checked_sub(half.len())?, 0);
                point.extend_from_slice(&half);
            }
            Material::Ec(curve, point)
        }
        "RSA" => Material::Rsa(bytes("/n")?, bytes("/e")?),
        _ => return None,
    };
    Some(PublicKey {
        material,
        id: member(document, "/kid"),
    })
}
