//! Keyed and plain hashes, and comparison: the only code of schemes that touches `hmac`, the hash crates and `subtle`.

use data_encoding::Encoding;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use sha3::Keccak256;
use subtle::{Choice, ConstantTimeEq as _};

/// The hash inside the HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HmacAlgorithm {
    /// 20-byte tags.
    Sha1,
    /// 32-byte tags.
    Sha256,
    /// 48-byte tags.
    Sha384,
    /// 64-byte tags.
    Sha512,
}

/// Words of the scheme language for [`HmacAlgorithm`].
pub(super) const HMAC_ALGORITHMS: [(&str, HmacAlgorithm); 4] = [
    ("hmac-sha1", HmacAlgorithm::Sha1),
    ("hmac-sha256", HmacAlgorithm::Sha256),
    ("hmac-sha384", HmacAlgorithm::Sha384),
    ("hmac-sha512", HmacAlgorithm::Sha512),
];

impl HmacAlgorithm {
    /// Length of a tag in bytes.
    pub const fn tag_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// Room for the longest tag, 64 bytes, and for what decoding padded base64 may write behind it.
const TAG_ROOM: usize = 72;

/// A tag that a sender presented, already decoded: exactly the scheme's length. It proves nothing.
///
/// No `Debug`: with the right key it would be a valid signature.
#[derive(Clone)]
pub struct Tag {
    /// Zero behind the tag.
    bytes: [u8; TAG_ROOM],
    len: u8,
}

impl Tag {
    /// Decodes one of that many bytes: exactly the right number of characters, in canonical form; nothing before or behind.
    pub(super) fn decode(codec: &Encoding, len: usize, text: &[u8]) -> Option<Self> {
        if text.len() != codec.encode_len(len) {
            return None;
        }
        let mut bytes = [0; TAG_ROOM];
        let room = bytes.get_mut(..codec.decode_len(text.len()).ok()?)?;
        if codec.decode_mut(text, room).ok()? != len {
            return None;
        }
        bytes.get_mut(len..)?.fill(0);
        Some(Self {
            bytes,
            len: u8::try_from(len).ok()?,
        })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Compares whole tags in constant time; one of another length never matches.
    #[inline]
    pub(super) fn matches(&self, other: &Self) -> Choice {
        let (own, _) = self.bytes.as_chunks();
        let (others, _) = other.bytes.as_chunks();
        // Whatever differs is gathered first: the one comparison is of all bytes.
        let differ = own.iter().zip(others).fold(0, |differ, (a, b)| {
            differ | (u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b))
        });
        differ.ct_eq(&0) & self.len.ct_eq(&other.len)
    }
}

/// An HMAC that is keyed and may have taken in some bytes. Cloning a fresh one spares the key schedule per request.
#[derive(Clone)]
pub(super) enum Mac {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    // Boxed, so that the usual one is moved at its own size.
    Sha384(Box<Hmac<Sha384>>),
    Sha512(Box<Hmac<Sha512>>),
}

impl Mac {
    pub(super) fn new(algorithm: HmacAlgorithm, key: &[u8]) -> Self {
        let any_length = "HMAC takes keys of any length";
        match algorithm {
            HmacAlgorithm::Sha1 => Self::Sha1(Hmac::new_from_slice(key).expect(any_length)),
            HmacAlgorithm::Sha256 => Self::Sha256(Hmac::new_from_slice(key).expect(any_length)),
            HmacAlgorithm::Sha384 => {
                Self::Sha384(Box::new(Hmac::new_from_slice(key).expect(any_length)))
            }
            HmacAlgorithm::Sha512 => {
                Self::Sha512(Box::new(Hmac::new_from_slice(key).expect(any_length)))
            }
        }
    }

    pub(super) fn algorithm(&self) -> HmacAlgorithm {
        match self {
            Self::Sha1(_) => HmacAlgorithm::Sha1,
            Self::Sha256(_) => HmacAlgorithm::Sha256,
            Self::Sha384(_) => HmacAlgorithm::Sha384,
            Self::Sha512(_) => HmacAlgorithm::Sha512,
        }
    }

    #[inline]
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(mac) => mac.update(bytes),
            Self::Sha256(mac) => mac.update(bytes),
            Self::Sha384(mac) => mac.update(bytes),
            Self::Sha512(mac) => mac.update(bytes),
        }
    }

    /// The computed tag. For signing and comparing only: it must reach no log.
    #[inline]
    fn tag(self) -> Tag {
        match self {
            Self::Sha1(mac) => copied(mac.finalize().into_bytes().into()),
            Self::Sha256(mac) => copied(mac.finalize().into_bytes().into()),
            Self::Sha384(mac) => copied(mac.finalize().into_bytes().into()),
            Self::Sha512(mac) => copied(mac.finalize().into_bytes().into()),
        }
    }
}

#[inline]
fn copied<const N: usize>(hash: [u8; N]) -> Tag {
    const { assert!(N <= TAG_ROOM) };
    let mut bytes = [0; TAG_ROOM];
    bytes[..N].copy_from_slice(&hash);
    Tag {
        bytes,
        len: N as u8,
    }
}

/// A plain hash: the content holds the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestAlgorithm {
    /// 16 bytes.
    Md5,
    /// 20 bytes.
    Sha1,
    /// 32 bytes.
    Sha256,
    /// 64 bytes.
    Sha512,
    /// 32 bytes; with the padding from before SHA-3 became a standard.
    Keccak256,
}

/// Words of the scheme language for [`DigestAlgorithm`].
pub(super) const DIGEST_ALGORITHMS: [(&str, DigestAlgorithm); 5] = [
    ("md5", DigestAlgorithm::Md5),
    ("sha1", DigestAlgorithm::Sha1),
    ("sha256", DigestAlgorithm::Sha256),
    ("sha512", DigestAlgorithm::Sha512),
    ("keccak256", DigestAlgorithm::Keccak256),
];

impl DigestAlgorithm {
    /// Length of a hash in bytes.
    pub const fn tag_bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Keccak256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A hash, keyed or not, that takes in the signed content.
#[derive(Clone)]
pub(super) enum Hasher {
    Mac(Mac),
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Box<Sha512>),
    Keccak256(Box<Keccak256>),
}

impl Hasher {
    pub(super) fn keyed(algorithm: HmacAlgorithm, key: &[u8]) -> Self {
        Self::Mac(Mac::new(algorithm, key))
    }

    /// The algorithm, if it is an HMAC.
    pub(super) fn hmac_algorithm(&self) -> Option<HmacAlgorithm> {
        match self {
            Self::Mac(mac) => Some(mac.algorithm()),
            Self::Md5(_)
            | Self::Sha1(_)
            | Self::Sha256(_)
            | Self::Sha512(_)
            | Self::Keccak256(_) => None,
        }
    }

    pub(super) fn plain(algorithm: DigestAlgorithm) -> Self {
        match algorithm {
            DigestAlgorithm::Md5 => Self::Md5(Md5::new()),
            DigestAlgorithm::Sha1 => Self::Sha1(Sha1::new()),
            DigestAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
            DigestAlgorithm::Sha512 => Self::Sha512(Box::new(Sha512::new())),
            DigestAlgorithm::Keccak256 => Self::Keccak256(Box::new(Keccak256::new())),
        }
    }

    #[inline]
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Mac(mac) => mac.update(bytes),
            Self::Md5(hash) => hash.update(bytes),
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
            Self::Keccak256(hash) => hash.update(bytes),
        }
    }

    /// What was computed. For signing and comparing only: it must reach no log.
    #[inline]
    pub(super) fn tag(self) -> Tag {
        match self {
            Self::Mac(mac) => mac.tag(),
            Self::Md5(hash) => copied(hash.finalize().into()),
            Self::Sha1(hash) => copied(hash.finalize().into()),
            Self::Sha256(hash) => copied(hash.finalize().into()),
            Self::Sha512(hash) => copied(hash.finalize().into()),
            Self::Keccak256(hash) => copied(hash.finalize().into()),
        }
    }
}

/// The hash of some bytes.
pub(super) fn digest(algorithm: DigestAlgorithm, bytes: &[u8]) -> Vec<u8> {
    let mut hasher = Hasher::plain(algorithm);
    hasher.update(bytes);
    hasher.tag().as_bytes().to_vec()
}

/// Whether two byte strings are equal, in a time that depends on their lengths alone.
pub(super) fn equal(a: &[u8], b: &[u8]) -> Choice {
    a.ct_eq(b)
}

/// Digest of a static token. Tokens are compared by digest, so that the time taken tells nothing of their lengths.
#[derive(Clone)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    pub(super) fn matches(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

/// Reports which of several candidates matched, having looked at all of them: the first if there are more.
#[inline]
pub(super) fn first_match(matches: impl IntoIterator<Item = Choice>) -> Option<usize> {
    let mut found = usize::MAX;
    let mut any = Choice::from(0);
    for (index, this) in matches.into_iter().enumerate() {
        let take = this & !any;
        found = subtle::ConditionallySelectable::conditional_select(
            &(found as u64),
            &(index as u64),
            take,
        ) as usize;
        any |= this;
    }
    bool::from(any).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_match_looks_at_all_and_names_the_first() {
        let look = |bits: &[u8]| first_match(bits.iter().map(|bit| Choice::from(*bit)));
        assert_eq!(look(&[]), None);
        assert_eq!(look(&[0, 0]), None);
        assert_eq!(look(&[1]), Some(0));
        assert_eq!(look(&[0, 1, 1]), Some(1));
    }

    #[test]
    fn rfc_4231_case_2() {
        // https://www.rfc-editor.org/rfc/rfc4231#section-4.3
        for (algorithm, want) in [
            (
                HmacAlgorithm::Sha256,
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                HmacAlgorithm::Sha384,
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                HmacAlgorithm::Sha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
        ] {
            let mut mac = Mac::new(algorithm, b"Jefe");
            mac.update(b"what do ya want ");
            mac.update(b"for nothing?");
            assert_eq!(data_encoding::HEXLOWER.encode(mac.tag().as_bytes()), want);
        }
    }
}
