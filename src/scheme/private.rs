//! Private keys: signing as a provider does, for `sign` and `send`. The gateway itself never holds one.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
        ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
        RSA_PKCS1_SHA512, RsaKeyPair, RsaSignatureEncoding,
    },
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};

use super::keys::{KeyError, PublicAlgorithm};

/// A private key. No `Debug`.
pub(super) struct PrivateKey(PrivateKeyDer<'static>);

/// Whether a text is a private key in PEM, whatever its kind.
pub(super) fn looks_private(text: &[u8]) -> bool {
    let first = text.trim_ascii_start().split(|byte| *byte == b'\n').next();
    first.is_some_and(|line| {
        line.starts_with(b"-----BEGIN ") && line.trim_ascii_end().ends_with(b"PRIVATE KEY-----")
    })
}

impl PrivateKey {
    /// Reads PEM: PKCS #8, or the older forms of RSA and EC keys.
    pub(super) fn read(pem: &[u8]) -> Result<Self, KeyError> {
        PrivateKeyDer::from_pem_slice(pem)
            .map(Self)
            .map_err(|_| KeyError::Form("a private key in PEM without a pass phrase"))
    }

    /// Signs; `None` if it is a key for another algorithm. RSA with SHA-1 is only verified, never made.
    pub(super) fn sign(&self, algorithm: PublicAlgorithm, message: &[u8]) -> Option<Vec<u8>> {
        use PublicAlgorithm as A;
        match algorithm {
            A::Ed25519 => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(self.0.secret_der()).ok()?;
                Some(pair.sign(message).as_ref().to_vec())
            }
            A::EcdsaP256 => self.ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, message),
            A::Es256 => self.ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, message),
            A::Es384 => self.ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, message),
            A::Es512 => self.ecdsa(&ECDSA_P521_SHA512_FIXED_SIGNING, message),
            A::RsaSha1 => None,
            A::RsaSha256 => self.rsa(&RSA_PKCS1_SHA256, message),
            A::RsaSha384 => self.rsa(&RSA_PKCS1_SHA384, message),
            A::RsaSha512 => self.rsa(&RSA_PKCS1_SHA512, message),
        }
    }

    fn ecdsa(&self, algorithm: &'static EcdsaSigningAlgorithm, message: &[u8]) -> Option<Vec<u8>> {
        let pair = EcdsaKeyPair::from_private_key_der(algorithm, self.0.secret_der()).ok()?;
        let signature = pair.sign(&SystemRandom::new(), message).ok()?;
        Some(signature.as_ref().to_vec())
    }

    fn rsa(&self, encoding: &'static RsaSignatureEncoding, message: &[u8]) -> Option<Vec<u8>> {
        let der = self.0.secret_der();
        let pair = RsaKeyPair::from_pkcs8(der)
            .or_else(|_| RsaKeyPair::from_der(der))
            .ok()?;
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature)
            .ok()?;
        Some(signature)
    }
}
