//! What a scheme is, in a few words: for `countersign providers`, `docs/providers.md` and warnings.

use super::{
    DigestAlgorithm, HmacAlgorithm, PublicAlgorithm, Scheme,
    locate::Site,
    plan::{Algorithm, Decode, Plan, Shape},
    template::Place,
};

/// What somebody who holds one delivery could change, or send again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// Everything: the secret itself is sent.
    Everything,
    /// The body, or parts of it.
    Body,
    /// The time: a captured request verifies for as long as the secret lives.
    Time,
}

impl Gap {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Body => "body",
            Self::Time => "time",
        }
    }
}

impl Scheme {
    /// How it signs: `HMAC SHA-256`, `token`, `JWT RS256`.
    pub fn how(&self) -> String {
        match &self.plan {
            None => "nothing".to_owned(),
            Some(plan) => plan.how(),
        }
    }

    /// What its signature does not cover.
    pub fn gaps(&self) -> Vec<Gap> {
        match &self.plan {
            Some(plan) if plan.shape != Shape::Token => [
                (!plan.covers_body).then_some(Gap::Body),
                plan.timestamp.is_none().then_some(Gap::Time),
            ]
            .into_iter()
            .flatten()
            .collect(),
            Some(_) | None => vec![Gap::Everything],
        }
    }

    /// Where the signature or the token stands: ``header `x-signature` ``.
    pub fn signature_place(&self) -> Option<Place> {
        Some(self.plan.as_ref()?.signature.place())
    }

    /// Where the signed time stands.
    pub fn timestamp_place(&self) -> Option<&Place> {
        Some(&self.plan.as_ref()?.timestamp.as_ref()?.place)
    }

    /// Where the delivery id stands.
    pub fn id_place(&self) -> Option<&Place> {
        self.plan.as_ref()?.id.as_ref()
    }

    /// Whether there is a template of what is signed: a token and a JWT have none.
    pub fn signs_content(&self) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|plan| !plan.contents.is_empty())
    }

    /// Whether the signature stands in a header, so that a sender has only headers to add.
    pub fn signs_in_header(&self) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|plan| !matches!(plan.signature.site, Site::Place(_)))
    }

    /// What goes into a secret's file.
    pub fn secret_form(&self) -> &'static str {
        let Some(plan) = &self.plan else {
            return "none";
        };
        let public = self.has_public_keys();
        match (plan.secret.decode, plan.shape) {
            (Decode::Hex, _) if public => "public key in hex",
            (Decode::Base64, _) if public => "public key in base64",
            _ if public => "public key: PEM, JWK, key set or base64",
            (_, Shape::Token) if plan.is_basic() => "USER:PASSWORD",
            (_, Shape::Token) => "the token itself",
            (Decode::Hex, _) => "shared secret in hex",
            (Decode::Base64, _) => "shared secret in base64",
            (Decode::Text | Decode::Nfkd | Decode::Document, _) => "shared secret, as text",
        }
    }
}

impl Plan {
    fn is_basic(&self) -> bool {
        self.signature
            .prefixes
            .iter()
            .any(|prefix| &*prefix.text == b"Basic ")
    }

    fn how(&self) -> String {
        let one = self.algorithms.len() == 1;
        match self.algorithms.first() {
            None | Some(Algorithm::Token) if self.is_basic() => "basic authentication".to_owned(),
            None | Some(Algorithm::Token) => "token".to_owned(),
            Some(Algorithm::Hmac(hmac)) if one => format!("HMAC {}", hmac_name(*hmac)),
            Some(Algorithm::Hmac(_)) => "HMAC".to_owned(),
            Some(Algorithm::Digest(digest)) => {
                format!("{}, secret inside", digest_name(*digest))
            }
            Some(Algorithm::Public(public)) => public_name(*public).to_owned(),
            Some(Algorithm::Jose(name, _)) => {
                let kind = if name.detached { "JWS" } else { "JWT" };
                if one {
                    format!("{kind} {}", name.alg)
                } else {
                    kind.to_owned()
                }
            }
        }
    }
}

fn hmac_name(algorithm: HmacAlgorithm) -> &'static str {
    match algorithm {
        HmacAlgorithm::Sha1 => "SHA-1",
        HmacAlgorithm::Sha256 => "SHA-256",
        HmacAlgorithm::Sha384 => "SHA-384",
        HmacAlgorithm::Sha512 => "SHA-512",
    }
}

fn digest_name(algorithm: DigestAlgorithm) -> &'static str {
    match algorithm {
        DigestAlgorithm::Md5 => "MD5",
        DigestAlgorithm::Sha1 => "SHA-1",
        DigestAlgorithm::Sha256 => "SHA-256",
        DigestAlgorithm::Sha512 => "SHA-512",
        DigestAlgorithm::Keccak256 => "Keccak-256",
    }
}

fn public_name(algorithm: PublicAlgorithm) -> &'static str {
    match algorithm {
        PublicAlgorithm::Ed25519 => "Ed25519",
        PublicAlgorithm::EcdsaP256 => "ECDSA P-256",
        PublicAlgorithm::Es256 => "ES256",
        PublicAlgorithm::Es384 => "ES384",
        PublicAlgorithm::Es512 => "ES512",
        PublicAlgorithm::RsaSha1 => "RSA SHA-1",
        PublicAlgorithm::RsaSha256 => "RSA SHA-256",
        PublicAlgorithm::RsaSha384 => "RSA SHA-384",
        PublicAlgorithm::RsaSha512 => "RSA SHA-512",
    }
}
