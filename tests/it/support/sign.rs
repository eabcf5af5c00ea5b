//! Signatures, made here and not by the crate under test.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Value of `x-cv-signature`: lower-case hex HMAC-SHA256 of the body.
pub(crate) fn carevalidate(secret: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(body);
    HEXLOWER.encode(&mac.finalize().into_bytes())
}

/// Hex HMAC-SHA256 of the pieces, one behind the other.
pub(crate) fn hmac_sha256(secret: &[u8], pieces: &[&[u8]]) -> String {
    carevalidate(secret, &pieces.concat())
}

/// SHA-256 in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}
